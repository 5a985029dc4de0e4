//! Brings the memory that coming operations will need into the CPU's cache, many lines at a time. Changes nothing.
//!
//! A look-up waits for main memory three times in a row: index bucket, sketch block, item. Of several keys these waits
//! can overlap, if all buckets are asked for before the first is needed, and then all items (group prefetching: Chen et
//! al., "Improving hash join performance through prefetching", 2004).

use crate::KEY_SIZE_MAX;
use crate::expiry::Seconds;
use crate::header::Chunk;
use crate::item::Item;
use crate::shard::Shard;
use crate::slab::{ClassId, PageId};

/// Keys of one group. The CPU has room for about so many outstanding loads.
pub const WARM_KEYS_MAX: usize = 16;
/// Chunks of a page that are cleared together.
pub(crate) const PAGE_GROUP: u32 = 16;

/// The hash of a key in one shard. In another it means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHash(pub(crate) u64);

impl Shard {
    /// Gets any number of keys, as [`Shard::get`] would one after the other, and hands each answer to `each` with the
    /// key's place. In groups whose memory is fetched together: a quarter of the time where items do not fit the cache.
    pub fn get_many(&mut self, now: Seconds, keys: &[&[u8]], mut each: impl FnMut(usize, Option<Item<'_>>)) {
        for (group, start) in keys.chunks(WARM_KEYS_MAX).zip((0..).step_by(WARM_KEYS_MAX)) {
            let hashes = self.warm(group.iter().copied());
            for (place, (&hash, key)) in hashes.iter().zip(group).enumerate() {
                each(start + place, self.get_hashed(now, hash, key));
            }
        }
    }

    /// Loads what gets, stores and deletes of up to [`WARM_KEYS_MAX`] keys will touch first, and returns the hashes of the
    /// keys in their order. Worth while from two keys on and where the items do not fit the cache anyway.
    #[inline]
    pub fn warm<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> [KeyHash; WARM_KEYS_MAX] {
        let mut hashes = [KeyHash(0); WARM_KEYS_MAX];
        let mut count = 0;
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.hash_of(key);
            count += 1;
        }
        let sketch = self.sketch.as_ref().filter(|_| !self.has_ample_room);
        for hash in &hashes[..count] {
            self.index.prefetch(hash.0);
            sketch.iter().for_each(|sketch| sketch.prefetch(hash.0));
        }
        for hash in &hashes[..count] {
            if let Some(location) = self.index.first_candidate(hash.0) {
                self.arena.prefetch(location);
            }
        }
        hashes
    }

    /// What [`Shard::get_hashed`] wants to be told.
    #[inline]
    pub fn hash_of(&self, key: &[u8]) -> KeyHash {
        assert!(key.len() <= KEY_SIZE_MAX);
        KeyHash(self.hash(key))
    }

    /// As [`Shard::get`], for who has the hash of the key from this shard.
    #[inline(always)]
    pub fn get_hashed(&mut self, now: Seconds, hash: KeyHash, key: &[u8]) -> Option<Item<'_>> {
        debug_assert!(hash == self.hash_of(key), "another key's hash, or another shard's");
        self.begin(now, key);
        self.get_by(now, hash.0, key)
    }

    /// Loads what taking the next items of a page out of the index will touch.
    pub(crate) fn warm_page(&self, page: PageId, chunk: u32) {
        let last = self.slabs.touched_in(page).min(chunk.saturating_add(PAGE_GROUP));
        for location in (chunk..last).map(|chunk| self.slabs.chunk_at(page, chunk)) {
            if let Chunk::Item(_) = self.arena.chunk(location) {
                self.index.prefetch(self.hash_at(location));
            }
        }
    }

    /// Loads the buckets of hashes.
    pub(crate) fn warm_buckets(&self, hashes: impl Iterator<Item = u64>) {
        hashes.for_each(|hash| self.index.prefetch(hash));
    }

    /// Loads what storing a key will touch besides its bucket.
    #[inline]
    pub(crate) fn warm_ghost(&self, hash: u64) {
        self.ghost.iter().for_each(|ghost| ghost.prefetch(hash));
    }

    /// Loads what evicting the next two items of a window will touch: the line of one; bucket and ghost of the other, whose
    /// key was loaded with the eviction before.
    pub(crate) fn warm_next_victims(&self, class: ClassId) {
        let mut oldest = self.slabs.class(class).window.iter(&self.blocks);
        if let (Some(next), Some(after)) = (oldest.next(), oldest.next()) {
            self.arena.prefetch(after);
            if self.is_in_window(class, next) {
                let hash = self.hash_at(next);
                self.index.prefetch(hash);
                self.warm_ghost(hash);
            }
        }
    }
}
