//! The provided-buffer ring: memory that the kernel fills for whichever connection has data.
//!
//! A buffer belongs to the kernel until a completion names it, then to the holder of its
//! [`BufferId`], and goes back exactly once by [`Buffers::give_back`]; the kernel sees returned
//! buffers after [`Buffers::publish`]. It makes no system call but at registration, which is the ring's part.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use memmap2::{MmapMut, MmapRaw};

/// Receive buffers start this far apart from a multiple of their size, so that the first lines of all of
/// them do not compete for the same sets of the L1 cache.
const STAGGER_BYTES: usize = 128;

/// A filled buffer on loan from [`Buffers`]. Neither `Copy` nor `Clone`: it can be given back once only.
#[derive(Debug)]
pub(crate) struct BufferId(u16);

impl BufferId {
    /// For the ring, which reads the number out of a completion.
    pub(crate) fn from_completion(id: u16) -> Self {
        Self(id)
    }
}

/// The ring of buffers and their memory.
pub(crate) struct Buffers {
    ring: MmapRaw,
    memory: MmapRaw,
    count: u16,
    bytes: u32,
    /// Entries written, wrapping; the kernel sees them up to the last published value.
    tail: u16,
    /// Buffers on loan to us. The rest are the kernel's.
    lent: u16,
}

impl Buffers {
    /// Allocates `count` (a power of two) buffers of `bytes` each, all of them free.
    pub(crate) fn new(count: u16, bytes: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 1 << 15, "the kernel takes powers of two up to 32768");
        assert!(bytes > 0);
        let ring = MmapMut::map_anon(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = MmapMut::map_anon(usize::from(count) * stride(bytes))?;
        let mut buffers =
            Self { ring: ring.into(), memory: memory.into(), count, bytes, tail: 0, lent: count };
        for id in 0..count {
            buffers.give_back(BufferId(id));
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Where the kernel finds the ring, for its registration.
    pub(crate) fn ring_address(&self) -> u64 {
        self.ring.as_mut_ptr() as u64
    }

    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Buffers that the kernel may still fill.
    pub(crate) fn free(&self) -> u16 {
        self.count - self.lent
    }

    /// Notes that a completion handed `id` to us.
    pub(crate) fn lend(&mut self, id: &BufferId) {
        assert!(id.0 < self.count && self.lent < self.count, "the kernel names each free buffer once");
        self.lent += 1;
    }

    /// The first `length` bytes of a lent buffer.
    pub(crate) fn bytes(&self, id: &BufferId, length: usize) -> &[u8] {
        assert!(id.0 < self.count && length <= self.bytes as usize);
        let start = usize::from(id.0) * stride(self.bytes);
        // SAFETY: `id` is below `count` (asserted), so the sum stays inside the mapping.
        let first = unsafe { self.memory.as_ptr().add(start) };
        // SAFETY: `length` bytes from there are mapped, initialised by the mapping, and not the
        // kernel's while the buffer is on loan.
        unsafe { std::slice::from_raw_parts(first, length) }
    }

    /// Puts a buffer back in line for the kernel.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the id is spent: nobody can read the buffer after this"
    )]
    pub(crate) fn give_back(&mut self, id: BufferId) {
        assert!(self.lent > 0, "a buffer goes back once");
        self.lent -= 1;
        let start = usize::from(id.0) * stride(self.bytes);
        // SAFETY: inside the mapping, as in `bytes`.
        let address = unsafe { self.memory.as_mut_ptr().add(start) } as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is below `count`, the number of entries that the mapping holds.
        let entry = unsafe { self.ring.as_mut_ptr().cast::<BufRingEntry>().add(index) };
        // SAFETY: the entry lies behind the published tail, so the kernel does not read it now; nobody else
        // on this thread holds a reference.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(self.bytes);
        entry.set_bid(id.0);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was given back. One store.
    pub(crate) fn publish(&mut self) {
        // SAFETY: the tail lies inside the first entry, which is mapped.
        let tail = unsafe { BufRingEntry::tail(self.ring.as_ptr().cast()) };
        // SAFETY: mapped, aligned to two bytes, and written by this thread only; the kernel reads it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

const fn stride(bytes: u32) -> usize {
    bytes as usize + STAGGER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_is_free_at_first_and_again_after_its_return() {
        let mut buffers = Buffers::new(8, 64).unwrap();
        assert_eq!(buffers.free(), 8);
        let id = BufferId::from_completion(3);
        buffers.lend(&id);
        assert_eq!(buffers.free(), 7);
        assert_eq!(buffers.bytes(&id, 64), [0; 64]);
        buffers.give_back(id);
        buffers.publish();
        assert_eq!(buffers.free(), 8);
    }

    #[test]
    #[should_panic(expected = "goes back once")]
    fn a_buffer_that_was_not_lent_cannot_be_given_back() {
        let mut buffers = Buffers::new(8, 64).unwrap();
        buffers.give_back(BufferId::from_completion(3));
    }
}
