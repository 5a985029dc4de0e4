//! Every counter of a shard, recomputed from scratch. For tests: the cost is a walk over all memory.

use std::collections::HashSet;
use std::iter::successors;

use crate::arena::Location;
use crate::header::{Chunk, Head};
use crate::held::{Hold, HoldState};
use crate::room::Chunks;
use crate::shard::Shard;
use crate::slab::{ClassId, PageId};
use crate::window::BLOCK_SIZE;

#[derive(Default)]
struct Totals {
    items: usize,
    bytes: usize,
    window_items: usize,
}

impl Shard {
    /// Panics if any counter, list or link of the shard is not what a walk over all chunks says it should be. For tests:
    /// takes seconds and much memory in a large shard.
    pub fn check_invariants(&self) {
        assert!(self.memory().used() <= self.memory_bytes, "{:?}", self.memory());
        assert!(self.protected == Location::NONE && !self.writing);
        self.slabs.validate(&self.arena);
        let (mut items, mut bytes) = (0, 0);
        for class in self.slabs.class_ids() {
            let totals = self.validate_class(class);
            items += totals.items as u64;
            bytes += totals.bytes as u64;
        }
        assert_eq!((items, bytes), (self.counters.items, self.counters.bytes));
        self.validate_index();
        self.validate_policy();
        self.validate_holds();
    }

    /// Every chunk that belongs to no item is held or waits to be freed, nothing else does, and the pages count the heads they hold.
    fn validate_holds(&self) {
        self.holds.validate();
        let mut held = vec![0; self.slabs.page_count()];
        let mut orphans = 0;
        for (head, hold) in self.holds.iter() {
            let is_linked = matches!(hold.state, HoldState::Linked { .. });
            assert!(!is_linked || self.index.find(self.hash_at(head), |at| at == head).is_some());
            held[self.slabs.page_of(head).index()] += 1;
            let is_reserved = matches!(self.arena.chunk(head), Chunk::Reserved { .. });
            assert_eq!(is_reserved, !is_linked);
            let chain = || self.chain_of(Chunks { head, first: self.first_of(head, hold) });
            let bytes: usize = chain().map(|at| self.slabs.class(self.slabs.class_of(at)).chunk_size).sum();
            assert!(
                bytes == hold.chunk_bytes || hold.state == HoldState::Reserved && bytes < hold.chunk_bytes
            );
            orphans += if is_linked { 0 } else { chain().count() };
        }
        self.slabs.validate_held(&held);
        for chunks in self.dead.iter() {
            assert!(matches!(self.arena.chunk(chunks.head), Chunk::Reserved { .. }));
            orphans += self.chain_of(chunks).count();
        }
        let pages = self.slabs.class_ids().flat_map(|class| self.slabs.pages_of(class));
        let chunks = pages.flat_map(|page| self.chunks_of(page));
        let used = chunks.filter(|&chunk| !matches!(self.arena.chunk(chunk), Chunk::Free { .. }));
        let of_no_item = used.filter(|&chunk| self.item_of(chunk).is_none());
        assert_eq!(of_no_item.count(), orphans, "a chunk was left behind by a write");
    }

    fn chain_of(&self, chunks: Chunks) -> impl Iterator<Item = Location> + '_ {
        successors(Some(chunks.head), move |&chunk| self.chunk_behind(chunks, chunk))
    }

    /// The first continuation that is held: a reservation takes them as it is filled, and its head says which.
    fn first_of(&self, head: Location, hold: &Hold) -> Location {
        match self.arena.chunk(head) {
            Chunk::Reserved { next } => next,
            _ => hold.first,
        }
    }

    fn validate_policy(&self) {
        assert_eq!(self.memory().policy, self.memory().policy_parts.total());
        let classes = || self.slabs.class_ids().map(|id| self.slabs.class(id));
        assert_eq!(classes().map(|class| class.departures.bytes()).sum::<usize>(), self.departure_bytes);
        let windows = classes().map(|class| class.window.blocks()).sum::<usize>();
        assert_eq!(windows * BLOCK_SIZE + self.blocks.free_bytes(), self.blocks.bytes());
        if self.recency.is_some() {
            let links = |id| self.slabs.class(id).pages * self.link_bytes_of(id);
            assert_eq!(self.slabs.class_ids().map(links).sum::<usize>(), self.link_bytes);
        }
        if let Some(shadows) = &self.shadows {
            shadows.validate();
            assert_eq!(shadows.sampled_below(), self.sampled_below);
        }
        let leaving = self.leaving.map(|leaving| leaving.page);
        assert_eq!(self.slabs.pages_leaving().next(), leaving);
        assert!(self.slabs.pages_leaving().count() <= 1);
    }

    fn validate_class(&self, class: ClassId) -> Totals {
        let queued: HashSet<Location> = self.slabs.class(class).window.iter(&self.blocks).collect();
        let mut totals = Totals::default();
        for location in self.slabs.pages_of(class).flat_map(|page| self.chunks_of(page)) {
            match self.arena.chunk(location) {
                Chunk::Item(header) => {
                    let head = self.arena.head(location);
                    totals.items += 1;
                    totals.bytes += head.footprint();
                    totals.window_items += usize::from(header.in_window());
                    assert!(!header.in_window() || queued.contains(&location), "an item nobody would evict");
                    self.validate_item(location, &head);
                }
                Chunk::Continuation { head, .. } => {
                    let is_items = self.item_of(location).is_some();
                    assert!(!is_items || self.continuations_of(head).any(|at| at == location));
                }
                Chunk::Free { .. } | Chunk::Reserved { .. } => {}
            }
        }
        if let Some(recency) = &self.recency {
            let listed = recency.oldest_first(class, &self.slabs);
            assert_eq!(
                listed.inspect(|&item| assert!(self.slabs.class_of(item) == class)).count(),
                totals.items
            );
        }
        let counted = self.slabs.class(class);
        assert_eq!(
            (totals.items, totals.bytes, totals.window_items),
            (counted.items, counted.bytes, counted.window_items)
        );
        totals
    }

    fn validate_item(&self, location: Location, head: &Head) {
        let found = self.index.find(self.hash_at(location), |at| at == location);
        assert_eq!(found, Some(location), "an item nobody can find");
        let held = self.continuations_of(location).count() * self.payload() + head.header.value_len();
        assert!(head.value_len() <= held);
        let heads = self.continuations_of(location).map(|at| self.arena.chunk(at));
        heads
            .for_each(|chunk| assert!(matches!(chunk, Chunk::Continuation { head, .. } if head == location)));
    }

    fn validate_index(&self) {
        let mut seen = HashSet::new();
        self.index.validate(|location| assert!(seen.insert(location), "an item is indexed twice"));
        assert_eq!(seen.len() as u64, self.counters.items);
        assert!(seen.iter().all(|&location| matches!(self.arena.chunk(location), Chunk::Item(_))));
    }

    fn chunks_of(&self, page: PageId) -> impl Iterator<Item = Location> + '_ {
        (0..self.slabs.touched_in(page)).map(move |chunk| self.slabs.chunk_at(page, chunk))
    }

    fn continuations_of(&self, item: Location) -> impl Iterator<Item = Location> + '_ {
        let chain = self.arena.head(item).extension.chain;
        let first = chain.map(|chain| Location(chain.first));
        successors(first, |&at| match self.arena.chunk(at) {
            Chunk::Continuation { next, .. } if next != Location::NONE => Some(next),
            _ => None,
        })
    }
}
