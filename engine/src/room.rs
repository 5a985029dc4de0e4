//! Making room: chunks for an item, pages for a class, bytes of the budget for the index. Never looks at a value.

use crate::arena::Location;
use crate::expiry::Seconds;
use crate::header::{Chunk, Header};
use crate::shard::{Shard, hash_key};
use crate::slab::{CLASSES_MAX, ClassId, PageId};

/// Pages of a class that are compared when one must go.
const PAGES_SAMPLED: usize = 4;
/// Chunks that stand for a page in that comparison.
const CHUNKS_SAMPLED: u32 = 32;
/// The caller's external bytes are honoured up to this part of the budget.
const EXTERNAL_SHARE: usize = 2;

const _: () = assert!(CLASSES_MAX <= u64::BITS as usize);

/// The chunks of one item that is being written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunks {
    pub(crate) head: Location,
    /// First continuation, if there is one.
    pub(crate) first: Location,
}

impl Shard {
    /// Takes note of memory the caller uses on this shard's behalf and gives up items for it if need be.
    ///
    /// At most half of the budget is honoured, and without eviction only what no item needs.
    pub fn set_external_bytes(&mut self, bytes: usize) {
        let wanted = bytes.min(self.memory_bytes / EXTERNAL_SHARE);
        let more = wanted.saturating_sub(self.external_bytes);
        self.external_bytes =
            if self.make_room(more) { wanted } else { self.external_bytes + self.memory_bytes - self.used() };
    }

    /// Bytes of the budget in use.
    pub(crate) fn used(&self) -> usize {
        self.index.bytes() + self.slabs.bytes() + self.policy_bytes() + self.external_bytes
    }

    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.used() + bytes <= self.memory_bytes
    }

    /// Takes a chunk of `class` and `continuations` of the largest, evicting as need be. All or nothing.
    pub(crate) fn take_chunks(
        &mut self,
        now: Seconds,
        class: ClassId,
        continuations: usize,
    ) -> Option<Chunks> {
        let head = self.take_chunk(now, class)?;
        let mut first = Location::NONE;
        for _ in 0..continuations {
            let Some(location) = self.take_chunk(now, self.slabs.largest()) else {
                self.give_chunks(Chunks { head, first });
                return None;
            };
            self.arena.set_header(location, Header::reserved(first));
            first = location;
        }
        Some(Chunks { head, first })
    }

    /// Gives back what was taken, before or after the item was written.
    pub(crate) fn give_chunks(&mut self, chunks: Chunks) {
        let mut next = chunks.first;
        while next != Location::NONE {
            let location = next;
            next = match self.arena.chunk(location) {
                Chunk::Continuation { next, .. } | Chunk::Reserved { next } => next,
                Chunk::Item(_) | Chunk::Free { .. } => panic!("a chain leads out of its item"),
            };
            self.slabs.give_chunk(location, &mut self.arena);
        }
        self.slabs.give_chunk(chunks.head, &mut self.arena);
    }

    /// Sees to it that the index can take one more location, and lets it grow by a step.
    pub(crate) fn make_index_room(&mut self, hash: u64) -> bool {
        self.index.begin_growth_if_loaded();
        if self.index.is_growing()
            && self.index.can_migrate()
            && self.make_room(self.index.migrate_bytes_max())
        {
            self.migrate_bucket();
        }
        self.index.can_insert(hash) && self.make_room(self.index.insert_bytes_max(hash))
    }

    /// Drops a live item for the sake of others.
    pub(crate) fn evict(&mut self, location: Location) {
        let unfetched = u64::from(!self.arena.header(location).is_fetched());
        let class = self.slabs.class_of(location);
        let class = self.slabs.class_mut(class);
        class.evicted += 1;
        class.evicted_unfetched += unfetched;
        self.counters.evictions += 1;
        self.counters.evicted_unfetched += unfetched;
        self.unlink(self.hash_at(location), location);
    }

    /// Frees a dead item.
    pub(crate) fn reclaim(&mut self, hash: u64, location: Location) {
        let unfetched = !self.arena.header(location).is_fetched();
        self.counters.reclaimed += 1;
        self.counters.expired_unfetched += u64::from(unfetched);
        self.unlink(hash, location);
    }

    /// Takes an item out of the index and frees its chunks.
    pub(crate) fn unlink(&mut self, hash: u64, location: Location) {
        self.index.remove(hash, location);
        self.free_item(location);
    }

    /// Frees the chunks of an item that the index no longer knows.
    pub(crate) fn free_item(&mut self, location: Location) {
        let head = self.arena.head(location);
        let footprint = head.footprint();
        let class = self.slabs.class_of(location);
        let class = self.slabs.class_mut(class);
        class.items -= 1;
        class.bytes -= footprint;
        class.window_items -= usize::from(head.header.in_window());
        self.counters.items -= 1;
        self.counters.bytes -= footprint as u64;
        let first = head.extension.chain.map_or(Location::NONE, |chain| Location(chain.first));
        self.give_chunks(Chunks { head: location, first });
    }

    fn take_chunk(&mut self, now: Seconds, class: ClassId) -> Option<Location> {
        loop {
            if let Some(location) = self.slabs.take_chunk(class, &self.arena) {
                self.arena.set_header(location, Header::reserved(Location::NONE));
                return Some(location);
            }
            let found =
                self.assign_page(class) || self.move_empty_page(class) || self.free_something(now, class);
            if !found {
                return None;
            }
        }
    }

    fn free_something(&mut self, now: Seconds, class: ClassId) -> bool {
        if self.evict {
            self.evict_one(now, class) || self.move_cheapest_page(class)
        } else {
            self.reclaim_under_hand(now, class)
        }
    }

    fn assign_page(&mut self, class: ClassId) -> bool {
        let assigned = self.fits(self.slabs.page_size()) && self.slabs.assign_page(class).is_some();
        if assigned {
            self.resize_window(class);
        }
        assigned
    }

    fn move_empty_page(&mut self, class: ClassId) -> bool {
        let Some(page) = self.find_empty_page() else { return false };
        self.release_page(page);
        self.assign_page(class)
    }

    fn move_cheapest_page(&mut self, class: ClassId) -> bool {
        let Some(page) = self.cheapest_page(Some(class)) else { return false };
        self.release_page(page);
        self.counters.page_moves += 1;
        self.assign_page(class)
    }

    /// Gives up pages until the budget has room for so many bytes more.
    fn make_room(&mut self, bytes: usize) -> bool {
        while !self.fits(bytes) {
            let empty = self.find_empty_page();
            let cheapest = || self.evict.then(|| self.cheapest_page(None)).flatten();
            let Some(page) = empty.or_else(cheapest) else { return false };
            self.release_page(page);
            self.counters.page_moves += 1;
            self.arena.discard(self.slabs.bytes_of_page(page));
        }
        true
    }

    fn migrate_bucket(&mut self) {
        let (arena, hasher) = (&self.arena, &self.hasher);
        self.index.migrate_bucket(|location| hash_key(hasher, arena.key(location)));
    }

    /// Evicts the items of a page and takes it from its class.
    fn release_page(&mut self, page: PageId) {
        let class = self.slabs.page_class(page).expect("an assigned page");
        for chunk in 0..self.slabs.touched_in(page) {
            match self.arena.chunk(self.slabs.chunk_at(page, chunk)) {
                Chunk::Item(_) => self.evict(self.slabs.chunk_at(page, chunk)),
                Chunk::Continuation { head, .. } => self.evict(head),
                Chunk::Free { .. } => {}
                Chunk::Reserved { .. } => panic!("a page that is being written to cannot be moved"),
            }
        }
        self.slabs.unassign_page(page);
        self.resize_window(class);
    }

    fn find_empty_page(&self) -> Option<PageId> {
        if self.slabs.has_empty_page() { self.slabs.empty_page() } else { None }
    }

    /// A page of the class with most of them, or of the next if none of its pages can go.
    fn cheapest_page(&self, except: Option<ClassId>) -> Option<PageId> {
        let mut tried = except.map_or(0, |class| 1_u64 << class.0);
        loop {
            let untried = self.slabs.class_ids().filter(|class| tried >> class.0 & 1 == 0);
            let donor = untried.max_by_key(|&class| self.slabs.class(class).pages)?;
            tried |= 1 << donor.0;
            let movable = self.slabs.pages_of(donor).filter(|&page| self.is_movable(page));
            let cheapest = movable.take(PAGES_SAMPLED).min_by_key(|&page| self.cost_of(page));
            if cheapest.is_some() {
                return cheapest;
            }
        }
    }

    /// Whether no chunk of a page is being written or must survive the current operation.
    fn is_movable(&self, page: PageId) -> bool {
        (0..self.slabs.touched_in(page)).all(|chunk| {
            let location = self.slabs.chunk_at(page, chunk);
            match self.arena.chunk(location) {
                Chunk::Item(_) => location != self.protected,
                Chunk::Continuation { head, .. } => head != self.protected,
                Chunk::Free { .. } => true,
                Chunk::Reserved { .. } => false,
            }
        })
    }

    /// What the items of a page are worth, by a sample of them and their recent hits.
    fn cost_of(&self, page: PageId) -> u64 {
        let touched = self.slabs.touched_in(page);
        let stride = (touched / CHUNKS_SAMPLED).max(1) as usize;
        let worth = |chunk| match self.arena.chunk(self.slabs.chunk_at(page, chunk)) {
            Chunk::Item(header) => 1 + u64::from(header.frequency()),
            Chunk::Continuation { head, .. } => 1 + u64::from(self.arena.header(head).frequency()),
            Chunk::Free { .. } | Chunk::Reserved { .. } => 0,
        };
        (0..touched).step_by(stride).map(worth).sum::<u64>() * stride as u64
    }
}
