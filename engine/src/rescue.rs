//! Keeping what is worth it of a page that leaves its class: items move to other chunks of the class, at the price of those for which the
//! policy cares less. Never decides that a page leaves.

use std::iter::successors;

use crate::arena::Location;
use crate::expiry::Seconds;
use crate::header::{Chunk, Header};
use crate::room::Chunks;
use crate::shard::Shard;

/// Copying, or walking along, so much costs as much time as looking at a chunk that is far away.
const COPY_BYTES_PER_CHUNK: usize = 4096;
const WALK_STEPS_PER_CHUNK: usize = 4;
/// A continuation so far from its head is not worth the walk to move it.
const WALK_STEPS_MAX: usize = 256;
/// Chunks that could be looked at while one eviction is decided, which mostly takes the hand a few steps.
const CHUNKS_PER_EVICTION: usize = 4;
/// Evictions for the sake of one item. Some are of the page that leaves, which makes no place but had to be.
const EVICTIONS_PER_ITEM: usize = 4;

impl Shard {
    /// Clears a chunk of a page that leaves, or begins to: moves it if its item was hit lately, or otherwise lets the item go. For an item
    /// that was hit others of its class may have to go, if the caller can wait (`may_replace`). Returns the cost, in chunks looked at.
    pub(crate) fn rescue(
        &mut self,
        now: Seconds,
        chunk: Location,
        head: Location,
        header: Header,
        may_replace: bool,
    ) -> usize {
        if self.death(head, header, now).is_some() {
            self.reclaim(self.hash_at(head), head);
            return 0;
        }
        let is_kept = header.frequency() > 0 && self.continuations_behind(head) <= WALK_STEPS_MAX;
        let evictions = if is_kept && may_replace { self.evict_for_place(now, chunk) } else { 0 };
        let cost = evictions * CHUNKS_PER_EVICTION;
        if !matches!(self.arena.chunk(head), Chunk::Item(_)) {
            // The policy cared for it least.
            return cost;
        }
        let moved = match chunk == head {
            true if is_kept => self.relocate(head),
            true => None,
            false => self.relocate_continuation(chunk, head),
        };
        if moved.is_none() {
            self.evict(head);
        }
        cost + moved.unwrap_or(0)
    }

    fn continuations_behind(&self, head: Location) -> usize {
        let head = self.arena.head(head);
        (head.value_len() - head.header.value_len()) / self.payload()
    }

    /// Evicts until the class of a chunk has another one free, for as long as the chunk itself is needed. Returns how often.
    fn evict_for_place(&mut self, now: Seconds, chunk: Location) -> usize {
        let class = self.slabs.class_of(chunk);
        let has_others = self.slabs.class(class).pages > 1;
        let is_wanted = |shard: &Shard| {
            let is_needed = matches!(shard.arena.chunk(chunk), Chunk::Item(_) | Chunk::Continuation { .. });
            has_others && is_needed && !shard.slabs.has_room_in(class)
        };
        let mut evictions = 0;
        while evictions < EVICTIONS_PER_ITEM && is_wanted(self) && self.evict_one(now, class) {
            evictions += 1;
        }
        evictions
    }

    /// Moves an item to a free chunk of its class, into the main region. Returns the cost, or `None` if there is none.
    fn relocate(&mut self, from: Location) -> Option<usize> {
        let class_id = self.slabs.class_of(from);
        debug_assert!(self.slabs.is_leaving(from));
        let to = self.slabs.take_chunk(class_id, &self.arena)?;
        let copied = self.copy_chunk(from, to);
        let mut header = self.arena.header(to);
        if header.in_window() {
            header.set_in_window(false);
            self.slabs.class_mut(class_id).window_items -= 1;
            self.arena.set_header(to, header);
        }
        let redirected = self.redirect_continuations(to);
        self.index.replace(self.hash_at(to), from, to);
        self.recency.iter_mut().for_each(|recency| recency.replace(from, to, &self.slabs));
        self.slabs.give_chunk(from, &mut self.arena);
        self.counters.rescues += 1;
        Some(copied + redirected / WALK_STEPS_PER_CHUNK)
    }

    /// Moves a part of an item to a free chunk. Returns the cost, or `None` if there is none, or the item is very long.
    fn relocate_continuation(&mut self, from: Location, head: Location) -> Option<usize> {
        debug_assert!(self.slabs.is_leaving(from));
        let mut item = self.arena.head(head);
        let first = item.extension.chain.map_or(Location::NONE, |chain| Location(chain.first));
        let chunks = Chunks { head, first };
        let chain = successors(Some(head), |&chunk| self.chunk_behind(chunks, chunk));
        let (walked, before) = chain
            .enumerate()
            .take(WALK_STEPS_MAX)
            .find(|&(_, at)| self.chunk_behind(chunks, at) == Some(from))?;
        let to = self.slabs.take_chunk(self.slabs.class_of(from), &self.arena)?;
        let copied = self.copy_chunk(from, to);
        if before == head {
            item.chain_to(to);
            self.arena.set_head(head, item);
        } else {
            self.arena.set_header(before, Header::continuation(to, head));
        }
        self.slabs.give_chunk(from, &mut self.arena);
        self.counters.chunk_rescues += 1;
        Some(copied + walked / WALK_STEPS_PER_CHUNK)
    }

    /// Copies a whole chunk. Returns the cost.
    fn copy_chunk(&mut self, from: Location, to: Location) -> usize {
        let size = self.slabs.class(self.slabs.class_of(from)).chunk_size;
        self.arena.copy(from.offset()..from.offset() + size, to.offset());
        size / COPY_BYTES_PER_CHUNK
    }

    /// Tells the continuations of an item where its head is now. Returns how many they are.
    fn redirect_continuations(&mut self, head: Location) -> usize {
        let chain = self.arena.head(head).extension.chain;
        let mut next = chain.map_or(Location::NONE, |chain| Location(chain.first));
        let mut count = 0;
        while next != Location::NONE {
            let Chunk::Continuation { next: after, .. } = self.arena.chunk(next) else {
                panic!("a chain leads out of its item")
            };
            self.arena.set_header(next, Header::continuation(after, head));
            next = after;
            count += 1;
        }
        count
    }
}
