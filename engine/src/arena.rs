//! Reserved address space, and the chunks of items in it. One of three files with unsafe code (`index/tags.rs` has more, and `restore.rs`
//! passes a caller's promise on); hands out slices and copies, never pointers, and knows nothing of what an item means.

#![expect(
    unsafe_code,
    reason = "bytes as records without a check each time, and telling the kernel what may be dropped"
)]

use std::fs::File;
use std::io;
use std::ops::Range;

use bytemuck::Pod;
#[cfg(not(miri))]
use memmap2::{Advice, MmapMut, MmapOptions, UncheckedAdvice};

use crate::header::HeaderSize;
#[cfg(miri)]
mod heap;

/// Locations count in units of this many bytes, and every chunk size is a multiple of it.
pub(crate) const LOCATION_UNIT: usize = 8;

/// What every map is aligned to at least.
const MAP_ALIGNMENT: usize = 4096;
/// Regions smaller than this are never in huge pages: the part of the last one that nobody asked for would count.
const HUGE_REGION_BYTES_MIN: usize = 32 << 20;

/// Chunks of a row that are under way from memory at the same time.
const ROW_AHEAD: u32 = 4;

/// Where a chunk begins: an offset into the arena in units of [`LOCATION_UNIT`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Location(pub(crate) u32);

impl Location {
    /// No chunk: it would have to fit in the last eight bytes of 32 GiB.
    pub(crate) const NONE: Location = Location(u32::MAX);

    pub(crate) fn from_offset(offset: usize) -> Location {
        debug_assert!(offset.is_multiple_of(LOCATION_UNIT));
        Location(u32::try_from(offset / LOCATION_UNIT).expect("the budget is at most 32 GiB"))
    }

    pub(crate) fn offset(self) -> usize {
        self.0 as usize * LOCATION_UNIT
    }
}

/// Zeroed memory that costs nothing until it is touched.
#[derive(Debug)]
pub(crate) struct Region {
    #[cfg(not(miri))]
    map: MmapMut,
    /// Whether the memory is a file's.
    #[cfg(not(miri))]
    over_file: bool,
    #[cfg(miri)]
    map: heap::Map,
}

impl Region {
    /// Miri knows no maps, so it checks everything above them on the heap.
    #[cfg(miri)]
    #[expect(clippy::unnecessary_wraps, reason = "the twin of what can fail")]
    pub(crate) fn reserve(bytes: usize, _huge_pages: bool) -> io::Result<Region> {
        Ok(Region { map: heap::Map::new(bytes) })
    }

    /// Reserves address space. With `huge_pages` the kernel is asked for them where the region is large; it may well
    /// refuse.
    #[cfg(not(miri))]
    pub(crate) fn reserve(bytes: usize, huge_pages: bool) -> io::Result<Region> {
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        if huge_pages && bytes >= HUGE_REGION_BYTES_MIN {
            // Kernels without huge pages refuse, and everything works all the same.
            map.advise(Advice::HugePage).ok();
        }
        Ok(Region { map, over_file: false })
    }

    /// Has the kernel clear the first so many bytes now, not when they are touched first.
    #[cfg(not(miri))]
    fn prefault(&self, bytes: usize) {
        // A kernel that knows nothing of it clears them later.
        self.map.advise_range(Advice::PopulateWrite, 0, bytes).ok();
    }

    /// On the heap all of it is there.
    #[cfg(miri)]
    fn prefault(&self, _bytes: usize) {}

    /// Maps a part of a file.
    ///
    /// # Safety
    /// As long as the region lives nobody else writes to this part of the file, and the file is not made shorter.
    #[cfg(not(miri))]
    unsafe fn over_file(file: &File, offset: u64, bytes: usize) -> io::Result<Region> {
        if file.metadata()?.len() < offset.saturating_add(bytes as u64) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than the budget"));
        }
        assert!(offset.is_multiple_of(MAP_ALIGNMENT as u64), "a map over a file begins where a page does");
        // SAFETY: the file is long enough (looked at above), and it is the caller's promise that nobody else writes to it or cuts it
        // off. Whatever its bytes are, they are valid ones.
        let map = unsafe { MmapOptions::new().offset(offset).len(bytes).map_mut(file)? };
        Ok(Region { map, over_file: true })
    }

    /// The region as records, as many as it has room for.
    #[inline]
    pub(crate) fn records<T: Pod>(&self) -> &[T] {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= MAP_ALIGNMENT) };
        let count = self.map.len() / size_of::<T>();
        // SAFETY: a map begins on a page of the kernel's, which is aligned for T (asserted above) and holds `count` of them;
        // any bytes are a T, for it is Pod; and nobody writes them while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), count) }
    }

    /// The region as records, as many as it has room for.
    #[inline]
    pub(crate) fn records_mut<T: Pod>(&mut self) -> &mut [T] {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= MAP_ALIGNMENT) };
        let count = self.map.len() / size_of::<T>();
        // SAFETY: a map begins on a page of the kernel's, which is aligned for T (asserted above) and holds `count` of them;
        // any bytes are a T and any T is bytes, for it is Pod; and `self` is borrowed for this alone.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), count) }
    }

    /// Has the CPU fetch the cache line at an offset, and waits for nothing. An ordinary load would do on an idle CPU, but
    /// hold up all that comes after it once that is more than the CPU can have under way.
    #[inline]
    pub(crate) fn prefetch(&self, offset: usize) {
        assert!(offset < self.map.len());
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.map[offset..].as_ptr();
            // SAFETY: SSE is part of every x86_64 target, and the address lies in the map (asserted above).
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        std::hint::black_box(self.map[offset]);
    }

    /// Spoils what is there, for nobody may rely on it.
    #[cfg(miri)]
    pub(crate) fn discard(&mut self, range: Range<usize>) {
        self.map[range].fill(0xa5);
    }

    /// Gives the memory of a range back to the kernel; its content is undefined afterwards.
    #[cfg(not(miri))]
    pub(crate) fn discard(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.map.len());
        // The latter punches a hole in the file.
        let advice = if self.over_file { UncheckedAdvice::Remove } else { UncheckedAdvice::DontNeed };
        // SAFETY: the range lies in the map we borrow mutably, so no reference into it exists, and whatever bytes it
        // reads as afterwards are valid bytes.
        let discarded = unsafe { self.map.unchecked_advise_range(advice, range.start, range.len()) };
        // A kernel with larger pages than ours refuses, as does a file that cannot have holes; then the memory
        // stays resident until it is reused.
        discarded.ok();
    }
}

/// The bytes of all chunks.
#[derive(Debug)]
pub(crate) struct Arena {
    region: Region,
    pub(crate) header_size: HeaderSize,
}

impl Arena {
    pub(crate) fn reserve(bytes: usize, header_size: HeaderSize, huge_pages: bool) -> io::Result<Arena> {
        Ok(Arena { region: Region::reserve(bytes, huge_pages)?, header_size })
    }

    /// Takes the memory of the first so many bytes from the kernel.
    pub(crate) fn prefault(&self, bytes: usize) {
        self.region.prefault(bytes);
    }

    /// An arena that is a part of a file.
    ///
    /// # Safety
    /// As long as the arena lives nobody else writes to this part of the file, and the file is not made shorter.
    #[cfg(not(miri))]
    pub(crate) unsafe fn over_file(
        file: &File,
        offset: u64,
        bytes: usize,
        header_size: HeaderSize,
    ) -> io::Result<Arena> {
        // SAFETY: our caller promises what this asks for.
        let region = unsafe { Region::over_file(file, offset, bytes)? };
        Ok(Arena { region, header_size })
    }

    /// Miri knows no maps.
    ///
    /// # Safety
    /// None is needed: the twin of what needs it.
    #[cfg(miri)]
    pub(crate) unsafe fn over_file(_: &File, _: u64, _: usize, _: HeaderSize) -> io::Result<Arena> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    #[inline]
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.region.map[range]
    }

    /// Has the CPU fetch the beginning of a chunk.
    #[inline]
    pub(crate) fn prefetch(&self, location: Location) {
        self.region.prefetch(location.offset());
    }

    /// Has the CPU fetch what most likely comes some chunks behind two neighbours in a chain: they are taken and freed in rows.
    #[inline]
    pub(crate) fn prefetch_row(&self, chunk: Location, next: Location) {
        let ahead = next.0.wrapping_add(next.0.wrapping_sub(chunk.0).wrapping_mul(ROW_AHEAD));
        if Location(ahead).offset() < self.region.map.len() {
            self.prefetch(Location(ahead));
        }
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.region.map[range]
    }

    /// Several ranges at once, which must not overlap.
    pub(crate) fn disjoint_mut<const N: usize>(&mut self, ranges: [Range<usize>; N]) -> [&mut [u8]; N] {
        self.region.map.get_disjoint_mut(ranges).expect("the chunks are there, and no two are the same")
    }

    /// A copy of the record at an offset, aligned or not.
    #[inline]
    pub(crate) fn read<T: Pod>(&self, offset: usize) -> T {
        bytemuck::pod_read_unaligned(&self.region.map[offset..offset + size_of::<T>()])
    }

    #[inline]
    pub(crate) fn write<T: Pod>(&mut self, offset: usize, record: T) {
        self.region.map[offset..offset + size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&record));
    }

    /// Copies bytes within the arena; the ranges may overlap.
    pub(crate) fn copy(&mut self, from: Range<usize>, to: usize) {
        self.region.map.copy_within(from, to);
    }

    /// Gives the memory of a range back to the kernel; its content is undefined afterwards.
    pub(crate) fn discard(&mut self, range: Range<usize>) {
        self.region.discard(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discarded_range_leaves_its_neighbours_alone() {
        let mut arena = Arena::reserve(1 << 20, HeaderSize::Full, true).unwrap();
        arena.bytes_mut(0..1 << 20).fill(7);
        arena.discard(1 << 16..1 << 17);
        assert!(arena.bytes(0..1 << 16).iter().all(|&byte| byte == 7));
        assert!(arena.bytes(1 << 17..1 << 20).iter().all(|&byte| byte == 7));
    }

    #[test]
    fn records_are_the_bytes_of_the_region_in_order() {
        let mut region = Region::reserve(4096, false).unwrap();
        for (record, number) in region.records_mut::<u32>().iter_mut().zip(0..) {
            *record = number;
        }
        assert!(region.records::<u32>().iter().copied().eq(0..1024));
        let words = region.records::<[u32; 3]>();
        assert_eq!((words.len(), words[7]), (341, [21, 22, 23]));
    }

    #[test]
    fn a_record_is_read_back_from_any_offset() {
        let mut arena = Arena::reserve(4096, HeaderSize::Full, false).unwrap();
        for offset in 0..64 {
            arena.write(offset, 0x0123_4567_89ab_cdef_u64 + offset as u64);
            assert_eq!(arena.read::<u64>(offset), 0x0123_4567_89ab_cdef + offset as u64);
        }
    }

    #[test]
    fn a_location_names_the_last_chunk_of_the_largest_arena() {
        let offset = (32 << 30) - 64;
        assert_eq!(Location::from_offset(offset).offset(), offset);
        assert_ne!(Location::from_offset(offset), Location::NONE);
    }
}
