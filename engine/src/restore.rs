//! Going on with the items of a file that another process left: index, counters, lists and free chunks are built anew from what the
//! chunks say. Believes no chunk: whatever is in the file, the shard is sound afterwards.

#![expect(unsafe_code, reason = "that a file is nobody else's is the caller's promise")]

use std::collections::HashSet;
use std::fs::File;
use std::iter::successors;

use crate::arena::{Arena, Location};
use crate::config::{Config, ConfigError};
use crate::expiry::{Expiry, Seconds};
use crate::header::{Chunk, Head, Header, VERSION_MAX};
use crate::persist::{PageRemembered, Remembered, RestoreError, parse};
use crate::shard::Shard;
use crate::slab::{ClassId, PageId};
use crate::warm::WARM_KEYS_MAX;

/// Times the sketch may double on the way to its size.
const DOUBLINGS_MAX: usize = 40;

/// When a shard was left, and when it goes on, by clocks that may disagree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pause {
    /// The last second of who persisted the shard.
    pub left: Seconds,
    /// The first second of who restores it.
    pub now: Seconds,
}

impl Pause {
    /// Seconds that the clock went back meanwhile. By so much everything that is to happen comes earlier, or an hour's correction
    /// would let all items live for an hour longer.
    fn back(self) -> u32 {
        self.left.0.saturating_sub(self.now.0)
    }

    /// The second of the new clock that a later one of the old clock is.
    fn moved(self, second: Seconds) -> Seconds {
        Seconds(second.0.saturating_sub(self.back()))
    }
}

/// The work of one restoration.
struct Restorer<'a> {
    shard: &'a mut Shard,
    pause: Pause,
    /// Continuations that an accepted item has.
    claimed: HashSet<Location>,
    /// Items that are accepted but not in the index yet.
    group: Vec<(u64, Location)>,
}

impl Shard {
    /// A shard whose items lie in a file, from `offset` on, to be [persisted](Shard::persist) in the end. What is in the file
    /// now is lost. `offset` is a multiple of 4096: anything else panics.
    ///
    /// # Errors
    /// [`ConfigError`]: the configuration is out of range, or the file cannot be mapped, above all because it has fewer than
    /// [`Shard::file_bytes`] bytes behind `offset`.
    ///
    /// # Safety
    /// As long as the shard lives, nobody else writes to these [`Shard::file_bytes`] of the file, no process and no other shard, and
    /// the file is not made shorter. The items are a map of the file: what changes under it is a data race, and what is cut off ends
    /// the process with SIGBUS. A lock on the file keeps those out who ask for it.
    pub unsafe fn over_file(config: &Config, file: &File, offset: u64) -> Result<Shard, ConfigError> {
        Shard::build(config, |bytes, header_size| {
            // SAFETY: that nobody else changes this part of the file is our caller's promise, and `bytes` is what it is told of.
            unsafe { Arena::over_file(file, offset, bytes, header_size) }
        })
    }

    /// Bytes of the file that a shard of this configuration takes: a little less than its budget.
    ///
    /// # Errors
    /// [`ConfigError`]: the configuration is out of range.
    pub fn file_bytes(config: &Config) -> Result<u64, ConfigError> {
        config.check()?;
        let page_size = config.page_size();
        Ok((config.memory_bytes / page_size * page_size) as u64)
    }

    /// A shard [over a file](Shard::over_file) with the items that another one [persisted](Shard::persist) there. Dead items are
    /// left behind. Expiry goes on by the caller's clock; where that went back ([`Pause`]), items have as long to live as they had when
    /// the shard was left. What the policy had learnt is lost, but for each item's frequency.
    ///
    /// About 60 ns an item, and 0.1 s a gigabyte.
    ///
    /// # Errors
    /// [`RestoreError`]: the metadata, the configuration or a page is not exactly as it was left. Then the file has not changed.
    ///
    /// # Safety
    /// As with [`Shard::over_file`]. What the file holds is not part of it: whatever its bytes are, the shard is sound.
    pub unsafe fn restore(
        config: &Config,
        file: &File,
        offset: u64,
        metadata: &[u8],
        pause: Pause,
    ) -> Result<Shard, RestoreError> {
        let (remembered, pages, fences) = parse(metadata)?;
        // SAFETY: our caller promises what this asks for.
        let mut shard = unsafe { Shard::over_file(config, file, offset)? };
        shard.check_layout(&remembered)?;
        shard.check_pages(&pages)?;
        shard.resume(&remembered);
        shard.rebuild(pause, &pages);
        shard.flush_due = shard.flush_due.map(|due| pause.moved(due));
        shard.fences = fences;
        Ok(shard)
    }

    /// Goes on counting where another process stopped.
    pub(crate) fn resume(&mut self, remembered: &Remembered) {
        self.version = remembered.version.clamp(self.version, VERSION_MAX);
        self.flushed_version = remembered.flushed_version.min(self.version);
        self.doubted_version = self.flushed_version;
        self.flush_due = remembered.flush_due();
        self.index.begin_with(remembered.buckets);
    }

    /// Takes over whatever the pages hold.
    pub(crate) fn rebuild(&mut self, pause: Pause, pages: &[PageRemembered]) {
        self.slabs.restore(pages);
        let link_bytes = |class| self.slabs.class(class).pages * self.link_bytes_of(class);
        self.link_bytes = self.slabs.class_ids().map(link_bytes).sum();
        let mut restorer = Restorer {
            shard: self,
            pause,
            claimed: HashSet::new(),
            group: Vec::with_capacity(WARM_KEYS_MAX),
        };
        restorer.take_items();
        restorer.free_the_rest();
        self.counters.total_items = self.counters.items;
        (0..DOUBLINGS_MAX).for_each(|_| self.resize_memory_of_requests());
    }

    fn chunks_in(&self, page: PageId) -> impl Iterator<Item = Location> + use<> {
        let class = self.slabs.page_class(page);
        let size = class.map_or(0, |class| self.slabs.class(class).chunk_size);
        let start = self.slabs.bytes_of_page(page).start;
        let touched = self.slabs.touched_in(page) as usize;
        (0..touched).map(move |chunk| Location::from_offset(start + chunk * size))
    }
}

impl Restorer<'_> {
    fn take_items(&mut self) {
        for page in self.shard.slabs.page_ids() {
            let Some(class) = self.shard.slabs.page_class(page) else { continue };
            for location in self.shard.chunks_in(page) {
                self.take_chunk(class, location);
            }
        }
        self.index_group();
    }

    fn take_chunk(&mut self, class: ClassId, location: Location) {
        let arena = &self.shard.arena;
        match arena.checked_chunk(location) {
            Some(Chunk::Item(_)) => match self.accepted(class, location) {
                Some(head) => {
                    if self.pause.back() > 0 {
                        self.set_back(location, head.header);
                    }
                    self.claimed.extend(self.shard.continuations(location, &head));
                    self.group.push((self.shard.hash_at(location), location));
                    if self.group.len() == WARM_KEYS_MAX {
                        self.index_group();
                    }
                }
                None => self.refuse(location),
            },
            Some(Chunk::Continuation { .. }) => {}
            Some(Chunk::Free { .. } | Chunk::Reserved { .. }) | None => self.refuse(location),
        }
    }

    /// The head of an item, if it is whole and alive.
    fn accepted(&self, class: ClassId, location: Location) -> Option<Head> {
        let shard = &*self.shard;
        let head = shard.arena.checked_head(location, shard.slabs.class(class).chunk_size)?;
        let is_known = head.header.version() <= shard.version;
        let is_whole = head.value_len() <= shard.item_size_max && self.has_whole_chain(location, &head);
        let is_live = shard.death(location, head.header, self.pause.left.max(self.pause.now)).is_none();
        (is_known && is_whole && is_live).then_some(head)
    }

    /// Gives an item the times of the new clock.
    fn set_back(&mut self, location: Location, mut header: Header) {
        if let Expiry::At(second) = header.expiry() {
            header.set_expiry(Expiry::At(self.pause.moved(second)));
        }
        let idle = header.idle_seconds(self.pause.left);
        header.set_access(Seconds(self.pause.now.0.wrapping_sub(idle)));
        self.shard.arena.set_header(location, header);
    }

    /// Whether the chain has as many parts as the value needs, each the item's own.
    fn has_whole_chain(&self, location: Location, head: &Head) -> bool {
        let Some(chain) = head.extension.chain else { return true };
        let parts = (head.value_len() - head.header.value_len()).div_ceil(self.shard.payload());
        let mut next = Location(chain.first);
        let mut seen = HashSet::new();
        for _ in 0..parts {
            let is_chunk = self.shard.slabs.is_chunk(self.shard.slabs.largest(), next);
            if !is_chunk || self.claimed.contains(&next) || !seen.insert(next) {
                return false;
            }
            match self.shard.arena.checked_chunk(next) {
                Some(Chunk::Continuation { next: after, head }) if head == location => next = after,
                _ => return false,
            }
        }
        parts > 0 && next == Location::NONE
    }

    /// Puts a group of items into the index, as many as there is room for.
    fn index_group(&mut self) {
        let group = std::mem::take(&mut self.group);
        self.shard.warm_buckets(group.iter().map(|&(hash, _)| hash));
        for &(hash, location) in &group {
            let key = self.shard.arena.key(location);
            let is_new = self.shard.find(hash, key).is_none();
            if is_new && self.shard.has_room_to_index(hash) {
                self.shard.link(hash, None, location);
            } else {
                let head = self.shard.arena.head(location);
                let claimed = &mut self.claimed;
                self.shard.continuations(location, &head).for_each(|part| {
                    claimed.remove(&part);
                });
                self.refuse(location);
            }
        }
        self.group = group;
        self.group.clear();
    }

    /// Makes a chunk one that is nobody's.
    fn refuse(&mut self, location: Location) {
        self.shard.arena.set_header(location, Header::reserved(Location::NONE));
    }

    fn free_the_rest(&mut self) {
        for page in self.shard.slabs.page_ids() {
            for location in self.shard.chunks_in(page) {
                let is_needed = match self.shard.arena.checked_chunk(location) {
                    Some(Chunk::Item(_)) => true,
                    Some(Chunk::Continuation { .. }) => self.claimed.contains(&location),
                    _ => false,
                };
                if !is_needed {
                    self.shard.slabs.give_chunk(location, &mut self.shard.arena);
                }
            }
        }
    }
}

impl Shard {
    fn has_room_to_index(&self, hash: u64) -> bool {
        self.counters.items < self.items_max
            && self.index.can_insert(hash)
            && self.fits(self.index.insert_bytes_max(hash))
    }

    fn continuations(&self, item: Location, head: &Head) -> impl Iterator<Item = Location> + '_ {
        let first = head.extension.chain.map(|chain| Location(chain.first));
        debug_assert!(first != Some(item));
        successors(first, |&at| match self.arena.chunk(at) {
            Chunk::Continuation { next, .. } if next != Location::NONE => Some(next),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::{Delete, DeleteMode, Store};

    const NOW: Seconds = Seconds(1_700_000_000);

    /// With headers of both sizes.
    fn config(seed: u64) -> Config {
        Config { cas_enabled: seed.is_multiple_of(2), ..Config::with_memory(1 << 20) }
    }

    fn filled(seed: u64) -> Shard {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut shard = Shard::new(&config(seed)).unwrap();
        for id in 0..3_000_u32 {
            let len = if id % 50 == 0 { 20_000 } else { random.random_range(0..300) };
            let client_flags = random.random_range(0..2);
            let (key, value) = (id.to_le_bytes(), vec![1; len]);
            let request = Store { client_flags, ..Store::set(&key, &value, Expiry::Never) };
            shard.store(NOW, &request);
            let key = &random.random_range(0..3_000_u32).to_le_bytes();
            let mode = DeleteMode::Invalidate { touch: None };
            shard.delete(
                NOW,
                &Delete { key, compare: None, mode, explicit_cas: random.random_bool(0.5).then_some(7) },
            );
        }
        shard
    }

    /// Chunks as they are, in another shard, with some bits of their headers and prefixes changed and no checksum in the way.
    fn taken_over(from: &Shard, seed: u64, flips: u32) -> Shard {
        let random = &mut SmallRng::seed_from_u64(seed);
        let mut shard = Shard::new(&config(seed)).unwrap();
        let all = 0..from.slabs.page_count() * from.slabs.page_size();
        shard.arena.bytes_mut(all.clone()).copy_from_slice(from.arena.bytes(all));
        let (remembered, pages, _) = parse(&from.remembered()).unwrap();
        for _ in 0..flips {
            let page = from.slabs.page_ids().nth(random.random_range(0..from.slabs.page_count())).unwrap();
            let Some(chunk) = from.chunks_in(page).nth(random.random_range(0..100)) else { continue };
            let at = chunk.offset() + random.random_range(0..40);
            shard.arena.bytes_mut(at..at + 1)[0] ^= 1 << random.random_range(0..8);
        }
        shard.resume(&remembered);
        shard.rebuild(Pause { left: NOW, now: NOW }, &pages);
        shard
    }

    #[test]
    fn whatever_the_chunks_say_the_shard_is_sound_and_works() {
        for seed in 0..60 {
            let from = filled(seed % 4);
            let mut shard = taken_over(&from, seed, 1 << (seed % 12));
            shard.check_invariants();
            for id in 0..3_000_u32 {
                shard.get(NOW, &id.to_le_bytes());
                if id % 3 == 0 {
                    shard.store(
                        NOW,
                        &Store::set(&id.to_le_bytes(), &vec![2; (id * 7) as usize], Expiry::Never),
                    );
                }
            }
            shard.check_invariants();
        }
    }

    #[test]
    fn undamaged_chunks_are_all_taken_over() {
        for seed in [8, 9] {
            let from = filled(seed);
            let shard = taken_over(&from, seed, 0);
            assert_eq!(shard.counters().items, from.counters().items);
            assert_eq!(shard.counters().bytes, from.counters().bytes);
            shard.check_invariants();
        }
    }
}
