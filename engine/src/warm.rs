//! Brings the memory that coming operations will need into the CPU's cache, many lines at a time. Changes nothing.
//!
//! A look-up waits for main memory three times in a row: index bucket, sketch block, item. Of several keys these waits
//! can overlap, if all buckets are asked for before the first is needed, and then all items (group prefetching: Chen et
//! al., "Improving hash join performance through prefetching", 2004). Ordinary loads whose results nobody waits for do
//! that as well as prefetch instructions, and need no unsafe code.

use std::hint::black_box;

use crate::KEY_SIZE_MAX;
use crate::header::Chunk;
use crate::shard::Shard;
use crate::slab::PageId;

/// Keys of one group. The CPU has room for about so many outstanding loads.
pub const WARM_KEYS_MAX: usize = 16;
/// Chunks of a page that are cleared together.
pub(crate) const PAGE_GROUP: u32 = 16;

impl Shard {
    /// Loads what gets, stores and deletes of up to [`WARM_KEYS_MAX`] keys will touch first. Worth while from two keys on
    /// and where the items do not fit the cache anyway.
    pub fn warm<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut hashes = [0; WARM_KEYS_MAX];
        let mut count = 0;
        for (hash, key) in hashes.iter_mut().zip(keys) {
            assert!(key.len() <= KEY_SIZE_MAX);
            *hash = self.hash(key);
            count += 1;
        }
        self.warm_hashes(&hashes[..count]);
    }

    /// Loads what taking the next items of a page out of the index will touch.
    pub(crate) fn warm_page(&self, page: PageId, chunk: u32) {
        let last = self.slabs.touched_in(page).min(chunk.saturating_add(PAGE_GROUP));
        let mut loaded = 0;
        for location in (chunk..last).map(|chunk| self.slabs.chunk_at(page, chunk)) {
            if let Chunk::Item(_) = self.arena.chunk(location) {
                loaded ^= self.index.touch(self.hash_at(location));
            }
        }
        black_box(loaded);
    }

    /// Loads the buckets of hashes.
    pub(crate) fn warm_buckets(&self, hashes: impl Iterator<Item = u64>) {
        black_box(hashes.fold(0, |loaded, hash| loaded ^ self.index.touch(hash)));
    }

    fn warm_hashes(&self, hashes: &[u64]) {
        let mut loaded = 0;
        for &hash in hashes {
            loaded ^= self.index.touch(hash);
            loaded ^= self.sketch.as_ref().map_or(0, |sketch| sketch.touch(hash));
        }
        for &hash in hashes {
            if let Some(location) = self.index.first_candidate(hash) {
                loaded ^= self.arena.touch(location);
            }
        }
        black_box(loaded);
    }
}
