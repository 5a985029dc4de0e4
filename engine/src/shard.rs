//! One shard: what it is made of, finding an item, and the plain reads. No I/O, no clock, no threads.

use std::hash::{BuildHasher, Hasher};
use std::io;

use ahash::RandomState;

use crate::arena::{Arena, Location};
use crate::automove::Automove;
use crate::config::{CasSeries, Config, ConfigError};
use crate::counters::{ClassStats, Counters, MemoryUse, PolicyMemory};
use crate::dead::Dead;
use crate::evicted::Evicted;
use crate::expiry::{Expiry, Seconds};
use crate::fences::Fences;
use crate::ghost::Ghost;
use crate::group::Groups;
use crate::header::{FREQUENCY_MAX, Head, Header, HeaderSize, VERSION_COMPACT_MAX, VERSION_MAX};
use crate::held::Holds;
use crate::index::Index;
use crate::item::Item;
use crate::leaving::Leaving;
use crate::policy::{Order, PolicyKind, Setting};
use crate::recency::Recency;
use crate::shadow::Shadows;
use crate::sketch::Sketch;
use crate::slab::{ClassId, PageId, Slabs};
use crate::value::{Pieces, Value};
use crate::window::Blocks;
use crate::{KEY_SIZE_MAX, index};

/// The first item's version is one above this: CAS values of 0 and 1 are never given out.
const VERSION_START: u64 = 1;
/// This part of the budget is put to use for the index at once.
const INDEX_SHARE_AT_START: usize = 256;
const BUCKETS_MIN: usize = 64;
/// This part of the arena is left to be taken later: the budget holds the index too.
const PREFAULT_LEFT: usize = 16;
/// A page up to this size is emptied within a fraction of a millisecond, so none is kept spare.
const PAGE_SIZE_AT_ONCE_MAX: usize = 16 << 10;

/// One shard of a cache: items, and everything needed to find, expire and evict them in a fixed budget of memory.
///
/// An operation costs two or three cache misses and no allocation, except where it says so. The time is an
/// argument, best of a clock that cannot be set. When it jumps ahead and back all the same, what was looked at or swept
/// meanwhile and was dead stays dead; the rest lives on.
pub struct Shard {
    pub(crate) arena: Arena,
    pub(crate) slabs: Slabs,
    pub(crate) index: Index,
    /// Only for the policy that asks it.
    pub(crate) sketch: Option<Sketch>,
    /// Only for the policies that ask it.
    pub(crate) ghost: Option<Ghost>,
    /// Only for the policy that chooses among settings.
    pub(crate) shadows: Option<Box<Shadows>>,
    /// More than half of the budget is free, so that nothing will have to go for a while and requests need not be counted for the
    /// day. As of the last new item.
    pub(crate) has_ample_room: bool,
    /// Keys whose sampled bits are below this concern the shadows and the comparison of the classes.
    pub(crate) sampled_below: u32,
    /// Only for the policy that goes by it.
    pub(crate) recency: Option<Recency>,
    /// Blocks of all classes' windows.
    pub(crate) blocks: Blocks,
    pub(crate) order: Order,
    pub(crate) setting: Setting,
    pub(crate) counters: Counters,
    /// Only while the caller wants to know.
    pub(crate) evicted: Option<Box<Evicted>>,
    pub(crate) memory_bytes: usize,
    pub(crate) external_bytes: usize,
    /// What the caller reported and what of the budget is not to be used; honoured as room is made.
    pub(crate) external_wanted: usize,
    pub(crate) external_reported: usize,
    /// Bytes of the budget above the limit of now.
    pub(crate) withheld_bytes: usize,
    /// Bytes of the budget that are kept free for what cannot wait.
    pub(crate) spare_bytes: usize,
    /// Bytes of all classes' last evictions.
    pub(crate) departure_bytes: usize,
    /// Bytes of shadows and of the tables of pages and classes, the same from the start on.
    fixed_bytes: usize,
    pub(crate) automove: Automove,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) holds: Holds,
    pub(crate) dead: Dead,
    /// Nothing was found to evict among the largest chunks since an item was last put there.
    pub(crate) barren: bool,
    pub(crate) fences: Fences,
    pub(crate) requests: u64,
    /// Number of the request at which the classes are compared next.
    pub(crate) next_comparison: u64,
    /// Bytes of the links of all pages in use.
    pub(crate) link_bytes: usize,
    pub(crate) items_max: u64,
    pub(crate) item_size_max: usize,
    pub(crate) evict: bool,
    /// Head of the item that must survive while room is made for its successor.
    pub(crate) protected: Location,
    /// Chunks are reserved for an item that is not complete yet.
    pub(crate) writing: bool,
    /// See [`Shard::last_class`].
    pub(crate) last_class: ClassId,
    pub(crate) sweep_page: PageId,
    pub(crate) sweep_chunk: u32,
    pub(crate) hasher: RandomState,
    /// Version of the item stored last; without CAS, of the items stored since the last flush that had any to drop.
    pub(crate) version: u64,
    /// Items of this version and older are dead.
    pub(crate) flushed_version: u64,
    /// Younger items are not flushed, neither all nor their group.
    pub(crate) doubted_version: u64,
    /// Only for who flushes groups.
    pub(crate) groups: Option<Groups>,
    pub(crate) flush_due: Option<Seconds>,
    pub(crate) cas: Option<CasSeries>,
}

/// Why an item that is still linked is no longer there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Death {
    Expired,
    Flushed,
}

impl Shard {
    /// Reserves the address space of a shard. Memory is taken from the kernel as items come.
    ///
    /// # Errors
    /// [`ConfigError`]: the configuration is out of range, or the kernel gives no address space. Then nothing is kept.
    pub fn new(config: &Config) -> Result<Shard, ConfigError> {
        Shard::build(config, |bytes, header_size| {
            let arena = Arena::reserve(bytes, header_size, config.huge_pages)?;
            if config.prefault {
                arena.prefault(bytes - bytes / PREFAULT_LEFT);
            }
            Ok(arena)
        })
    }

    /// A shard whose items lie in the arena that `arena` makes, of so many bytes.
    pub(crate) fn build(
        config: &Config,
        arena: impl FnOnce(usize, HeaderSize) -> io::Result<Arena>,
    ) -> Result<Shard, ConfigError> {
        config.check()?;
        let (page_size, memory_bytes) = (config.page_size(), config.memory_bytes);
        let reserve = |source| ConfigError::Reserve { bytes: memory_bytes, source };
        let pages_max = memory_bytes / page_size;
        let header_size = if config.cas_enabled { HeaderSize::Full } else { HeaderSize::Compact };
        let smallest = header_size.bytes() + config.chunk_size_min;
        let slabs = Slabs::new(page_size, pages_max, smallest, config.growth_factor);
        let items_possible = memory_bytes / smallest;
        let buckets = (memory_bytes / INDEX_SHARE_AT_START / index::BUCKET_SIZE).max(BUCKETS_MIN);
        let (policy, huge_pages) = (config.policy, config.huge_pages);
        let ghost = policy.remembers_evicted().then(|| Ghost::reserve(items_possible, huge_pages));
        let recency = (policy.order() == Order::Recency).then(|| Recency::reserve(&slabs));
        let windows = slabs.class_ids().count();
        let shadows = match policy {
            PolicyKind::TinyLfu if config.evict => Shadows::for_budget(memory_bytes).map_err(reserve)?,
            _ => None,
        };
        let fixed_bytes = slabs.table_bytes() + shadows.as_ref().map_or(0, Shadows::bytes);
        // Without shadows the adaptive policy stays with its first setting, which asks for no counts.
        let counts = policy.counts_requests() && (shadows.is_some() || policy != PolicyKind::TinyLfu);
        let sketch = counts.then(|| Sketch::reserve(items_possible, huge_pages));
        Ok(Shard {
            arena: arena(pages_max * page_size, header_size).map_err(reserve)?,
            slabs,
            index: Index::reserve(items_possible, buckets, huge_pages).map_err(reserve)?,
            sketch: sketch.transpose().map_err(reserve)?,
            ghost: ghost.transpose().map_err(reserve)?,
            has_ample_room: false,
            sampled_below: shadows.as_ref().map_or(u32::MAX, Shadows::sampled_below),
            shadows: shadows.map(Box::new),
            recency: recency.transpose().map_err(reserve)?,
            blocks: Blocks::reserve(items_possible, windows, huge_pages).map_err(reserve)?,
            order: policy.order(),
            setting: policy.setting(),
            counters: Counters::default(),
            evicted: None,
            memory_bytes,
            external_bytes: 0,
            external_wanted: 0,
            external_reported: 0,
            withheld_bytes: 0,
            spare_bytes: if config.evict && page_size > PAGE_SIZE_AT_ONCE_MAX { page_size } else { 0 },
            departure_bytes: 0,
            fixed_bytes,
            automove: Automove::default(),
            leaving: None,
            holds: Holds::new(memory_bytes, pages_max),
            dead: Dead::new(),
            barren: false,
            fences: Fences::default(),
            requests: 0,
            next_comparison: 0,
            link_bytes: 0,
            items_max: config.items_max.map_or(u64::MAX, |items| items as u64),
            item_size_max: config.item_size_max.min(memory_bytes / 2),
            evict: config.evict,
            protected: Location::NONE,
            writing: false,
            last_class: ClassId(0),
            sweep_page: PageId(0),
            sweep_chunk: 0,
            hasher: hasher(config.hash_seed),
            version: VERSION_START,
            flushed_version: 0,
            doubted_version: 0,
            groups: None,
            flush_due: None,
            cas: config.cas_enabled.then_some(config.cas),
        })
    }

    /// The hash that the index and the policy know a key by; differs from shard to shard.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        hash_key(&self.hasher, key)
    }

    /// The item, counting the access.
    #[inline]
    pub fn get(&mut self, now: Seconds, key: &[u8]) -> Option<Item<'_>> {
        self.begin(now, key);
        self.get_by(now, self.hash(key), key)
    }

    /// The item of a key whose hash is known. What it returns has more bytes than a register: written piece by piece and read as a
    /// whole they would stall the CPU, so it and what it calls are not to be called.
    #[inline(always)]
    pub(crate) fn get_by(&mut self, now: Seconds, hash: u64, key: &[u8]) -> Option<Item<'_>> {
        let (location, before) = self.find_requested(now, hash, key)?;
        let after = before.after_hit(now);
        self.update_header(location, before, after);
        self.note_use(location);
        Some(Item::after(self, location, before, after, now))
    }

    /// The item, counting the access and giving it another expiry. With one in the past this is its last hit.
    pub fn get_and_touch(&mut self, now: Seconds, key: &[u8], expiry: Expiry) -> Option<Item<'_>> {
        self.begin(now, key);
        let (location, header) = self.find_requested(now, self.hash(key), key)?;
        let mut touched = header.after_hit(now);
        touched.set_expiry(expiry);
        self.update_header(location, header, touched);
        self.note_use(location);
        Some(Item::new(self, location, header, now))
    }

    /// Gives the item another expiry, counting an access. Returns its CAS value, which does not change.
    pub fn touch(&mut self, now: Seconds, key: &[u8], expiry: Expiry) -> Option<u64> {
        self.get_and_touch(now, key, expiry).map(|item| item.cas())
    }

    /// Notes that an item was read so often where its original is: what decides who has to go believes that it was read here, and nothing
    /// else changes, no counter either. False if it is not there. O(1): more reads than a policy counts cost no more.
    pub fn note_reads(&mut self, now: Seconds, key: &[u8], reads: u32) -> bool {
        check_key(key);
        let hash = self.hash(key);
        let Some(location) = self.find(hash, key) else { return false };
        let before = self.arena.header(location);
        if self.death(location, before, now).is_some() {
            return false;
        }
        self.count_reads(hash, reads);
        let after = (0..reads.min(FREQUENCY_MAX)).fold(before, |header, _| header.after_hit(now));
        self.update_header(location, before, after);
        self.note_use(location);
        true
    }

    /// The item, leaving no trace of the access.
    pub fn peek(&self, now: Seconds, key: &[u8]) -> Option<Item<'_>> {
        check_key(key);
        let location = self.find(self.hash(key), key)?;
        let header = self.arena.header(location);
        self.death(location, header, now).is_none().then(|| Item::new(self, location, header, now))
    }

    /// Makes every item stored so far a miss. O(1); the memory comes back as dead items are met. Takes the place of a
    /// flush that was pending.
    ///
    /// Without CAS, what is dead is freed at once every 65 535th time.
    pub fn flush(&mut self) {
        self.flush_due = None;
        self.flushed_version = self.version;
        self.doubted_version = self.version;
        if self.cas.is_none() && self.version == VERSION_COMPACT_MAX {
            self.free_flushed();
            self.version = VERSION_START;
            self.flushed_version = VERSION_START;
            self.doubted_version = VERSION_START;
        }
    }

    /// Makes every item stored before that second a miss once it comes, those yet to be stored included. Replaces
    /// the flush that was pending. O(1).
    pub fn flush_at(&mut self, at: Seconds) {
        self.flush_due = Some(at);
    }

    /// Where the budget goes.
    pub fn memory(&self) -> MemoryUse {
        MemoryUse {
            limit: self.memory_bytes - self.withheld_bytes,
            index: self.index.bytes(),
            pages: self.slabs.bytes(),
            policy: self.policy_bytes(),
            policy_parts: self.policy_memory(),
            external: self.external_bytes.saturating_sub(self.withheld_bytes),
            items: usize::try_from(self.counters.bytes).expect("items fit the budget"),
            held: self.holds.orphan_bytes(),
        }
    }

    /// Running totals.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Frees what the last flush dropped: at that moment, all items there are.
    fn free_flushed(&mut self) {
        self.sweep_chunk = 0;
        // An expiry in the past makes no difference to what is dead anyway.
        self.sweep(Seconds(0), usize::MAX);
        assert_eq!(self.counters.items, 0);
    }

    /// Size class of the item that the last store or arithmetic made or changed, that the last delete removed, or that
    /// kept a store from being carried out. For who counts by class; O(1).
    pub fn last_class(&self) -> ClassId {
        self.last_class
    }

    /// Sets the running totals to zero; what is in the shard now stays counted.
    pub fn reset_counters(&mut self) {
        let Counters { items, bytes, .. } = self.counters;
        self.counters = Counters { items, bytes, ..Counters::default() };
        for id in self.slabs.class_ids() {
            let class = self.slabs.class_mut(id);
            class.evicted = 0;
            class.evicted_unfetched = 0;
        }
    }

    /// The size classes, smallest chunks first.
    pub fn classes(&self) -> impl Iterator<Item = ClassStats> + '_ {
        self.slabs.class_ids().map(|id| {
            let class = self.slabs.class(id);
            ClassStats {
                class: id,
                chunk_size: class.chunk_size,
                chunks_per_page: class.chunks_per_page as usize,
                pages: class.pages,
                used: class.chunks_used,
                free: class.chunks() - class.chunks_used,
                items: class.items,
                bytes: class.bytes,
                window_items: class.window_items,
                evicted: class.evicted,
                evicted_unfetched: class.evicted_unfetched,
            }
        })
    }

    /// Checks the key and carries out a flush that has become due. Every operation begins with this.
    #[inline]
    pub(crate) fn begin(&mut self, now: Seconds, key: &[u8]) {
        check_key(key);
        self.flush_if_due(now);
    }

    pub(crate) fn flush_if_due(&mut self, now: Seconds) {
        if self.flush_due.is_some_and(|at| now >= at) {
            self.flush();
        }
    }

    /// Why an item is dead, if it is.
    #[inline]
    pub(crate) fn death(&self, location: Location, header: Header, now: Seconds) -> Option<Death> {
        if self.is_flushed(location, header) || self.flush_due.is_some_and(|at| now >= at) {
            Some(Death::Flushed)
        } else if header.expiry().is_past(now) {
            Some(Death::Expired)
        } else {
            None
        }
    }

    #[inline]
    pub(crate) fn is_flushed(&self, location: Location, header: Header) -> bool {
        header.version() <= self.doubted_version && self.was_flushed(location, header)
    }

    /// The live item of a key; frees a dead one.
    #[inline]
    pub(crate) fn find_live(&mut self, now: Seconds, hash: u64, key: &[u8]) -> Option<Location> {
        let location = self.find(hash, key)?;
        if self.death(location, self.arena.header(location), now).is_some() {
            self.reclaim(hash, location);
            return None;
        }
        Some(location)
    }

    /// The live item of a key, for a get: frees a dead one and counts why it was.
    #[inline(always)]
    pub(crate) fn find_gettable(
        &mut self,
        now: Seconds,
        hash: u64,
        key: &[u8],
    ) -> Option<(Location, Header)> {
        let location = self.find(hash, key)?;
        let header = self.arena.header(location);
        match self.death(location, header, now) {
            None => return Some((location, header)),
            Some(Death::Expired) => self.counters.get_expired += 1,
            Some(Death::Flushed) => self.counters.get_flushed += 1,
        }
        self.reclaim(hash, location);
        None
    }

    /// Writes the header if it changed: most hits on a popular item change nothing.
    #[inline]
    pub(crate) fn update_header(&mut self, location: Location, before: Header, after: Header) {
        if after != before {
            self.arena.set_header(location, after);
        }
    }

    /// The version of the next item. They last for nine years at a million stores a second. Then all items get new ones,
    /// which takes as long as a round of the sweeper and costs the clients who hold a CAS value a retry.
    /// Without CAS it is the same for all between two flushes.
    #[inline]
    pub(crate) fn next_version(&mut self) -> u64 {
        if self.cas.is_none() {
            self.version = self.flushed_version + 1;
            return self.version;
        }
        if self.version == VERSION_MAX {
            self.version = self.renumber(VERSION_START);
            self.flushed_version = 0;
            self.forget_floors();
        }
        self.version += 1;
        self.version
    }

    pub(crate) fn cas_of(&self, head: &Head) -> u64 {
        let explicit = head.extension.explicit_cas.filter(|_| self.cas.is_some());
        explicit.unwrap_or_else(|| self.counted_cas(head.header))
    }

    /// The CAS value of an item that has none of its own.
    #[inline]
    pub(crate) fn counted_cas(&self, header: Header) -> u64 {
        self.cas.map_or(0, |series| header.version().wrapping_mul(series.step).wrapping_add(series.offset))
    }

    /// Bytes of value that a continuation holds.
    pub(crate) fn payload(&self) -> usize {
        self.slabs.class(self.slabs.largest()).chunk_size - self.arena.header_size.bytes()
    }

    #[inline]
    pub(crate) fn value_of(&self, location: Location, head: &Head) -> Value<'_> {
        Value::new(&self.arena, Pieces::of(location, head, self.payload()))
    }

    /// The hash of the item at a location. Reads its key.
    pub(crate) fn hash_at(&self, location: Location) -> u64 {
        self.hash(self.arena.key(location))
    }

    pub(crate) fn policy_bytes(&self) -> usize {
        let sketch = self.sketch.as_ref().map_or(0, Sketch::bytes);
        let ghost = self.ghost.as_ref().map_or(0, Ghost::bytes);
        sketch
            + ghost
            + self.departure_bytes
            + self.blocks.bytes()
            + self.link_bytes
            + self.holds.bytes()
            + self.fixed_bytes
    }

    fn policy_memory(&self) -> PolicyMemory {
        PolicyMemory {
            sketch: self.sketch.as_ref().map_or(0, Sketch::bytes),
            ghost: self.ghost.as_ref().map_or(0, Ghost::bytes),
            windows: self.blocks.bytes(),
            shadows: self.shadows.as_ref().map_or(0, |shadows| shadows.bytes()),
            departures: self.departure_bytes,
            links: self.link_bytes,
            tables: self.slabs.table_bytes() + self.holds.bytes(),
        }
    }

    #[inline(always)]
    fn find_requested(&mut self, now: Seconds, hash: u64, key: &[u8]) -> Option<(Location, Header)> {
        self.count_request(hash);
        let found = self.find_gettable(now, hash, key);
        self.show_get(hash, found);
        found
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<Location> {
        self.index.find(hash, |location| self.arena.has_key(location, key))
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        // Only the callers' books are wrong, so a release build lets it pass.
        debug_assert!(self.holds.len() == 0 || std::thread::panicking(), "a pin or reservation was lost");
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("memory", &self.memory())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

#[inline]
pub(crate) fn hash_key(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    hasher.finish()
}

#[inline]
fn check_key(key: &[u8]) {
    assert!(!key.is_empty() && key.len() <= KEY_SIZE_MAX, "the caller checks keys");
}

fn hasher(seed: Option<u64>) -> RandomState {
    match seed {
        Some(seed) => RandomState::with_seeds(seed, !seed, seed.rotate_left(32), seed ^ 0x5bd1_e995),
        None => RandomState::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::Store;

    #[test]
    fn when_versions_run_out_items_get_new_ones_and_what_was_flushed_stays_dead() {
        let mut shard = Shard::new(&Config::with_memory(1 << 20)).unwrap();
        let now = Seconds(1_700_000_000);
        let set = |shard: &mut Shard, id: u32| {
            shard.store(now, &Store::set(&id.to_le_bytes(), b"v", Expiry::Never));
        };
        let cas = |shard: &Shard, id: u32| shard.peek(now, &id.to_le_bytes()).map(|item| item.cas());
        shard.version = VERSION_MAX - 100;
        (0..50).for_each(|id| set(&mut shard, id));
        shard.flush();
        (50..200).for_each(|id| set(&mut shard, id));
        assert!((0..50).all(|id| cas(&shard, id).is_none()));
        let given: HashSet<u64> = (50..200).map(|id| cas(&shard, id).unwrap()).collect();
        assert!(given.len() == 150 && given.iter().all(|cas| (2..1_000).contains(cas)));
        shard.check_invariants();
        shard.flush();
        set(&mut shard, 7);
        assert!((50..200).all(|id| cas(&shard, id).is_none()) && cas(&shard, 7).is_some());
    }
}
