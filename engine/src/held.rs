//! The chunks that must stay where they are between operations: values on their way to a reader, and room that a writer
//! is filling. Knows locations and sizes; never reads an item.

use crate::arena::Location;
use crate::value::Pieces;

/// Most entries of the table, and one for so many bytes of the budget: in a small shard everything is small.
const HOLDS_MAX: usize = 1024;
const BUDGET_PER_HOLD: usize = 32 << 10;
const HOLDS_MIN: usize = 8;
/// Quarters of the bytes that items can have, and of the pages, that may be held for readers: what is left can still be evicted and moved.
const QUARTERS_READ: usize = 2;
/// As before, with what is being written: it would take that memory in any case.
const QUARTERS_WRITTEN: usize = 3;
/// Chunks that stay: those of an item or of a reservation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    /// First continuation, if there is one.
    pub(crate) first: Location,
    pub(crate) pieces: Pieces,
    /// Bytes of all its chunks, headers and rounding included.
    pub(crate) chunk_bytes: usize,
    /// Those of its continuations.
    pub(crate) behind_bytes: usize,
    pub(crate) state: HoldState,
}

/// Who holds the chunks, and whether an item does besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HoldState {
    /// An item that so many readers are being sent.
    Linked { readers: u32 },
    /// What was such an item; the index no longer knows it.
    Unlinked { readers: u32 },
    /// A writer fills it.
    Reserved,
}

/// The holds of one shard by the location of their first chunk. Looking one up is a walk along at most 4 KiB, and is
/// only done where the page is known to hold something.
#[derive(Debug)]
pub(crate) struct Holds {
    heads: Vec<Location>,
    holds: Vec<Hold>,
    holds_max: usize,
    pages: usize,
    chunk_bytes: usize,
    behind_bytes: usize,
    /// Bytes of chunks that belong to no item.
    orphan_bytes: usize,
}

impl HoldState {
    fn is_orphan(self) -> bool {
        !matches!(self, HoldState::Linked { .. })
    }
}

impl Holds {
    /// Allocates all it will ever need.
    pub(crate) fn new(memory_bytes: usize, pages: usize) -> Holds {
        let holds_max = (memory_bytes / BUDGET_PER_HOLD).clamp(HOLDS_MIN, HOLDS_MAX);
        Holds {
            heads: Vec::with_capacity(holds_max),
            holds: Vec::with_capacity(holds_max),
            holds_max,
            pages,
            chunk_bytes: 0,
            behind_bytes: 0,
            orphan_bytes: 0,
        }
    }

    /// Bytes of the table.
    pub(crate) fn bytes(&self) -> usize {
        self.holds_max * (size_of::<Location>() + size_of::<Hold>())
    }

    /// Whether so many bytes more may be held for a reader, of so many that items can have, where so many pages hold something
    /// already.
    pub(crate) fn has_room(&self, chunk_bytes: usize, items_bytes: usize, pages_held: usize) -> bool {
        self.is_within(QUARTERS_READ, chunk_bytes, items_bytes, pages_held)
            || self.heads.is_empty() && self.has_room_to_write(chunk_bytes, items_bytes, pages_held)
    }

    /// As [`Holds::has_room`], for a value that is being written.
    pub(crate) fn has_room_to_write(
        &self,
        chunk_bytes: usize,
        items_bytes: usize,
        pages_held: usize,
    ) -> bool {
        self.is_within(QUARTERS_WRITTEN, chunk_bytes, items_bytes, pages_held)
    }

    fn is_within(&self, quarters: usize, chunk_bytes: usize, items_bytes: usize, pages_held: usize) -> bool {
        self.heads.len() < self.holds_max
            && pages_held < self.pages * quarters / 4
            && self.chunk_bytes + chunk_bytes <= items_bytes / 4 * quarters
    }

    pub(crate) fn len(&self) -> usize {
        self.heads.len()
    }

    /// Bytes of the continuations held, those included that a writer has not taken yet.
    pub(crate) fn behind_bytes(&self) -> usize {
        self.behind_bytes
    }

    /// Bytes of the chunks held that belong to no item.
    pub(crate) fn orphan_bytes(&self) -> usize {
        self.orphan_bytes
    }

    pub(crate) fn get(&self, head: Location) -> Option<&Hold> {
        self.place(head).map(|at| &self.holds[at])
    }

    /// Adds a hold. The caller made sure that there is [room](Holds::has_room) and none at this location yet.
    pub(crate) fn insert(&mut self, head: Location, hold: Hold) {
        assert!(self.heads.len() < self.holds_max);
        debug_assert!(self.place(head).is_none());
        self.chunk_bytes += hold.chunk_bytes;
        self.behind_bytes += hold.behind_bytes;
        self.orphan_bytes += if hold.state.is_orphan() { hold.chunk_bytes } else { 0 };
        self.heads.push(head);
        self.holds.push(hold);
    }

    /// Changes who holds the chunks at a location that is held.
    pub(crate) fn set_state(&mut self, head: Location, state: HoldState) {
        let at = self.place(head).expect("the caller knows it to be held");
        let hold = &mut self.holds[at];
        let bytes = |state: HoldState| if state.is_orphan() { hold.chunk_bytes } else { 0 };
        self.orphan_bytes = self.orphan_bytes - bytes(hold.state) + bytes(state);
        hold.state = state;
    }

    /// Takes out a hold that is there.
    pub(crate) fn remove(&mut self, head: Location) -> Hold {
        let at = self.place(head).expect("the caller knows it to be held");
        self.heads.swap_remove(at);
        let hold = self.holds.swap_remove(at);
        self.chunk_bytes -= hold.chunk_bytes;
        self.behind_bytes -= hold.behind_bytes;
        self.orphan_bytes -= if hold.state.is_orphan() { hold.chunk_bytes } else { 0 };
        hold
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Location, &Hold)> + '_ {
        self.heads.iter().copied().zip(&self.holds)
    }

    /// Checks the totals against the entries.
    pub(crate) fn validate(&self) {
        let bytes = |hold: &Hold| hold.chunk_bytes;
        assert_eq!(self.holds.iter().map(bytes).sum::<usize>(), self.chunk_bytes);
        assert_eq!(self.holds.iter().map(|hold| hold.behind_bytes).sum::<usize>(), self.behind_bytes);
        let orphans = self.holds.iter().filter(|hold| hold.state.is_orphan());
        assert_eq!(orphans.map(bytes).sum::<usize>(), self.orphan_bytes);
        assert!(self.heads.len() == self.holds.len() && self.heads.len() <= self.holds_max);
        assert!(self.heads.iter().all(|&head| self.heads.iter().filter(|&&at| at == head).count() == 1));
    }

    fn place(&self, head: Location) -> Option<usize> {
        self.heads.iter().position(|&at| at == head)
    }
}
