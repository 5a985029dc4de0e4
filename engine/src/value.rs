//! A stored value, in one piece or several: reading and writing it. Never allocates or frees a chunk.

use std::ops::Range;

use crate::arena::{Arena, Location};
use crate::header::{Chunk, Head};

/// A value as it lies in the shard: in one piece, or in a chain of them if it is larger than the largest chunk.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    arena: &'a Arena,
    pieces: Pieces,
    len: usize,
}

impl<'a> Value<'a> {
    pub(crate) fn new(arena: &'a Arena, pieces: Pieces) -> Value<'a> {
        Value { arena, pieces, len: pieces.first_len + pieces.left }
    }

    /// The value of an item without a chain.
    #[inline]
    pub(crate) fn in_one_piece(arena: &'a Arena, start: usize, len: usize) -> Value<'a> {
        let pieces = Pieces { first: start, first_len: len, next: Location::NONE, left: 0, payload: 0 };
        Value { arena, pieces, len }
    }

    /// Bytes of the value.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole value, if it lies in one piece. All values do whose item fits a quarter of a page and 32 KiB.
    #[inline]
    pub fn as_slice(&self) -> Option<&'a [u8]> {
        let Pieces { first, first_len, left, .. } = self.pieces;
        (left == 0).then(|| self.arena.bytes(first..first + first_len))
    }

    /// The pieces in order, none of them empty.
    pub fn chunks(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (arena, mut pieces) = (self.arena, self.pieces);
        std::iter::from_fn(move || pieces.next(arena).map(|piece| arena.bytes(piece)))
    }

    /// Appends the value to a buffer.
    #[inline]
    pub fn copy_to(&self, buffer: &mut Vec<u8>) {
        match self.as_slice() {
            Some(whole) => buffer.extend_from_slice(whole),
            None => self.copy_chain_to(buffer),
        }
    }

    fn copy_chain_to(&self, buffer: &mut Vec<u8>) {
        buffer.reserve(self.len);
        self.chunks().for_each(|piece| buffer.extend_from_slice(piece));
    }
}

impl std::fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Value").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Where the bytes of a value lie that have not been passed yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    first: usize,
    first_len: usize,
    /// Continuation behind the first piece.
    next: Location,
    /// Bytes behind the first piece.
    left: usize,
    /// Bytes of value that a continuation holds.
    payload: usize,
}

impl Pieces {
    /// All of the value whose item begins at `location`.
    #[inline]
    pub(crate) fn of(location: Location, head: &Head, payload: usize) -> Pieces {
        let first_len = head.header.value_len();
        Pieces {
            first: location.offset() + head.value_offset(),
            first_len,
            next: head.extension.chain.map_or(Location::NONE, |chain| Location(chain.first)),
            left: head.value_len() - first_len,
            payload,
        }
    }

    /// Begins to load what leads on from the first piece.
    pub(crate) fn prefetch(&self, arena: &Arena) {
        if self.next != Location::NONE {
            arena.prefetch(self.next);
        }
    }

    /// The next piece that is not empty.
    pub(crate) fn next(&mut self, arena: &Arena) -> Option<Range<usize>> {
        if self.first_len == 0 {
            self.load(arena)?;
        }
        let piece = self.first..self.first + self.first_len;
        self.first_len = 0;
        Some(piece)
    }

    fn load(&mut self, arena: &Arena) -> Option<()> {
        if self.left == 0 {
            return None;
        }
        let (Chunk::Continuation { next, .. } | Chunk::Reserved { next }) = arena.chunk(self.next) else {
            panic!("a chain leads out of its item")
        };
        self.first = self.next.offset() + arena.header_size.bytes();
        self.first_len = self.left.min(self.payload);
        self.left -= self.first_len;
        arena.prefetch_row(self.next, next);
        self.next = next;
        Some(())
    }
}

/// How far a pinned value has been read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pieces: Pieces,
    /// The rest of the piece that was begun.
    start: usize,
    end: usize,
}

impl Reading {
    pub(crate) fn new(pieces: Pieces) -> Reading {
        Reading { pieces, start: 0, end: 0 }
    }

    pub(crate) fn next<'a>(&mut self, arena: &'a Arena, bytes_max: usize) -> Option<&'a [u8]> {
        self.next_place(arena, bytes_max).map(|place| arena.bytes(place))
    }

    /// As [`Reading::next`], where they lie.
    pub(crate) fn next_place(&mut self, arena: &Arena, bytes_max: usize) -> Option<Range<usize>> {
        if bytes_max == 0 {
            return None;
        }
        if self.start == self.end {
            (self.start, self.end) = self.pieces.next(arena).map(|piece| (piece.start, piece.end))?;
        }
        let start = self.start;
        self.start = self.end.min(start + bytes_max);
        Some(start..self.start)
    }
}

/// Fills the value of a new item from front to back.
pub(crate) struct Writer<'a> {
    arena: &'a mut Arena,
    pieces: Pieces,
    space: Range<usize>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(arena: &'a mut Arena, pieces: Pieces) -> Writer<'a> {
        Writer { arena, pieces, space: 0..0 }
    }

    /// Writes bytes from outside the arena.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.take_space(bytes.len());
            let (now, later) = bytes.split_at(space.len());
            self.arena.bytes_mut(space).copy_from_slice(now);
            bytes = later;
        }
    }

    /// Copies another item's value.
    pub(crate) fn copy(&mut self, mut from: Pieces) {
        while let Some(mut piece) = from.next(self.arena) {
            while !piece.is_empty() {
                let space = self.take_space(piece.len());
                let end = piece.start + space.len();
                self.arena.copy(piece.start..end, space.start);
                piece.start = end;
            }
        }
    }

    fn take_space(&mut self, len_max: usize) -> Range<usize> {
        if self.space.is_empty() {
            self.space = self.pieces.next(self.arena).expect("the item was made for this many bytes");
        }
        let end = self.space.end.min(self.space.start + len_max);
        let taken = self.space.start..end;
        self.space.start = end;
        taken
    }
}
