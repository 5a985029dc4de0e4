//! Values that nobody needs any more and that are too long to be freed at once: their chunks become free a few at a time. Knows no item.
//!
//! What a continuation is for, its head says. So one word makes all chunks of a value dead, and the head goes last.

use crate::arena::Location;
use crate::header::{Chunk, Header};
use crate::room::Chunks;
use crate::shard::Shard;
use crate::slab::ClassId;

/// Chunks of a value that are freed with the operation that lets it go: a few microseconds.
const FREED_AT_ONCE: usize = 64;
/// Values that wait. With one more the oldest is freed at once.
const DEAD_MAX: usize = 64;
/// Chunks that are freed at once for a class which needs a page, while it could evict instead: about 0.1 ms.
const FREED_FOR_PAGE: usize = 1024;
/// Chunks after which it is looked whether that made one empty.
const FREED_BETWEEN: usize = 32;

/// What is left of values, oldest first.
#[derive(Debug)]
pub(crate) struct Dead {
    values: Vec<Chunks>,
}

/// How much of a value was freed.
struct Freed {
    chunks: usize,
    all: bool,
}

impl Dead {
    /// Allocates all it will ever need.
    pub(crate) fn new() -> Dead {
        Dead { values: Vec::with_capacity(DEAD_MAX) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether a value that begins here waits to be freed.
    pub(crate) fn contains(&self, head: Location) -> bool {
        self.values.iter().any(|chunks| chunks.head == head)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Chunks> + '_ {
        self.values.iter().copied()
    }
}

impl Shard {
    /// Gives back what was taken, before or after the item was written: as much as takes no time at once, the rest bit by bit.
    pub(crate) fn give_chunks(&mut self, mut chunks: Chunks) {
        if self.free_some(&mut chunks, FREED_AT_ONCE).all {
            return;
        }
        if self.dead.values.len() == DEAD_MAX {
            let mut oldest = self.dead.values.remove(0);
            self.free_some(&mut oldest, usize::MAX);
        }
        self.arena.set_header(chunks.head, Header::reserved(chunks.first));
        self.dead.values.push(chunks);
    }

    /// Frees so many chunks of what waits, or all there are. Returns how many that were.
    pub(crate) fn free_dead(&mut self, chunks_max: usize) -> usize {
        let mut freed = 0;
        while freed < chunks_max && !self.dead.is_empty() {
            let mut chunks = self.dead.values[0];
            let left = chunks_max - freed;
            let some = self.free_some(&mut chunks, left);
            freed += some.chunks;
            if some.all {
                self.dead.values.remove(0);
            } else {
                self.dead.values[0] = chunks;
            }
        }
        freed
    }

    /// Frees some of what waits, until the class has a free chunk or a page is empty. False if neither has come of it.
    pub(crate) fn free_dead_for(&mut self, class: ClassId) -> bool {
        let mut freed = 0;
        while freed < FREED_FOR_PAGE && !self.dead.is_empty() {
            freed += self.free_dead(FREED_BETWEEN);
            if self.slabs.has_room_in(class) || self.slabs.has_empty_page() {
                return true;
            }
        }
        false
    }

    /// Frees so many chunks from the front of a chain, and the head behind the last.
    fn free_some(&mut self, chunks: &mut Chunks, chunks_max: usize) -> Freed {
        for freed in 0..chunks_max {
            let location = chunks.first;
            if location == Location::NONE {
                self.slabs.give_chunk(chunks.head, &mut self.arena);
                return Freed { chunks: freed + 1, all: true };
            }
            let Chunk::Continuation { next, .. } = self.arena.chunk(location) else {
                panic!("a chain leads out of its item")
            };
            self.arena.prefetch_row(location, next);
            chunks.first = next;
            self.slabs.give_chunk(location, &mut self.arena);
        }
        Freed { chunks: chunks_max, all: false }
    }
}
