//! Reservations: room for a large value that the caller fills piece by piece, straight in the shard's memory, and that
//! becomes an item when it is complete. Never shows what is in it before.
//!
//! Room is promised at once and taken as it is filled: so that no step takes long, and a writer that stops has taken little. A step
//! does about as much as a store of that many bytes; what it would have to do beyond, it puts off to the [next](Room::Later).

use std::ops::Range;

use crate::KEY_SIZE_MAX;
use crate::arena::Location;
use crate::expiry::{Expiry, Seconds};
use crate::header::{Head, Header};
use crate::held::{Hold, HoldState};
use crate::leaving::Destination;
use crate::room::Chunks;
use crate::shard::Shard;
use crate::store::{Store, StoreMode, StoreOutcome};
use crate::value::Pieces;
use crate::write::Shape;

/// Most pieces that [`Shard::spaces`] hands out: a quarter of a mebibyte where chunks are largest.
pub const SPACES_MAX: usize = 8;
/// Chunks of another class looked at in one step to get a page: about a quarter of a millisecond.
const CLEARED_PER_STEP: usize = 1024;

/// Room for one value, to be filled and then given to [`Shard::commit`] or [`Shard::abandon`]. Dropping it instead
/// keeps its memory from being used again, which a debug build notices at the end of the shard.
#[derive(Debug)]
#[must_use = "a reservation must be given back to the shard with `commit` or `abandon`"]
pub struct Reservation {
    chunks: Chunks,
    /// The continuation that was taken last.
    last: Location,
    /// All but expiry, version and what depends on the present item.
    head: Head,
    /// Where the next bytes go, as far as room is taken.
    spaces: [Range<usize>; SPACES_MAX],
    /// Bytes for which none is.
    untaken: usize,
    left: usize,
    mode: StoreMode,
    expiry: Expiry,
    compare: Option<u64>,
}

/// What there is to be filled.
#[derive(Debug)]
pub enum Room<T> {
    /// Room for at least one byte.
    Here(T),
    /// None yet: it is being made. Some work was done for it, and the next call does more.
    Later,
    /// None, and none can be made. The reservation can only be abandoned, or asked again later.
    NoMemory,
}

impl Reservation {
    /// Bytes of the value that are still to be filled.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Has the item expire so, whatever was said before.
    pub(crate) fn keep_expiry(&mut self, expiry: Expiry) {
        self.expiry = expiry;
    }

    fn taken(&self) -> usize {
        self.left - self.untaken
    }

    fn add_space(&mut self, space: Range<usize>) {
        let free =
            self.spaces.iter_mut().find(|space| Range::is_empty(space)).expect("the caller has looked");
        *free = space;
    }
}

impl Shard {
    /// Promises room for a value of `value_len` bytes, and remembers how it is to be stored. The request's own value must
    /// be empty. Whether the store is allowed at all is decided by [`Shard::commit`].
    ///
    /// `None` if that cannot be done this way: append, prepend and `invalidate`, values that are too large, no memory, or
    /// too much [held](Shard::pin_at) already. Then the caller collects the value and calls [`Shard::store`], which knows the
    /// answer. Nothing changed then, but for other items that were evicted in vain.
    pub fn reserve(&mut self, now: Seconds, request: &Store<'_>, value_len: usize) -> Option<Reservation> {
        assert!(request.value.is_empty());
        self.begin(now, request.key);
        let in_pieces = matches!(request.mode, StoreMode::Set | StoreMode::Add | StoreMode::Replace);
        if !in_pieces || request.invalidate || value_len > self.item_size_max {
            return None;
        }
        let header = Header::new(request.key.len(), 0);
        let head = Head {
            header_size: self.arena.header_size,
            header,
            client_flags: request.client_flags,
            extension: request.new_extension(),
        };
        let shape = self.shape(head, value_len);
        let chunk_bytes = self.shape_bytes(&shape);
        if !self.has_room_to_write(chunk_bytes) || !self.may_fit(chunk_bytes) {
            return None;
        }
        let chunk = self.take_chunk(now, shape.class);
        self.writing = false;
        let chunk = chunk?;
        let reservation = self.reserve_in(chunk, &shape, request, value_len);
        self.step_aside(now);
        Some(reservation)
    }

    fn reserve_in(
        &mut self,
        chunk: Location,
        shape: &Shape,
        request: &Store<'_>,
        value_len: usize,
    ) -> Reservation {
        let Shape { head, continuations, .. } = *shape;
        self.write_key(chunk, &head, request.key);
        let largest = self.slabs.class(self.slabs.largest()).chunk_size;
        let own = self.slabs.class(self.slabs.class_of(chunk)).chunk_size;
        let behind_bytes = continuations * largest;
        let chunk_bytes = own + behind_bytes;
        let pieces = Pieces::of(chunk, &head, self.payload());
        let (first, state) = (Location::NONE, HoldState::Reserved);
        self.slabs.hold(chunk);
        self.holds.insert(chunk, Hold { first, pieces, chunk_bytes, behind_bytes, state });
        self.reckon_with_holds();
        let Store { mode, expiry, compare, .. } = *request;
        let chunks = Chunks { head: chunk, first };
        let start = chunk.offset() + head.value_offset();
        let in_head = start..start + head.header.value_len();
        let untaken = value_len - in_head.len();
        let mut spaces = [const { 0..0 }; SPACES_MAX];
        spaces[0] = in_head;
        let left = value_len;
        Reservation { chunks, last: first, head, spaces, untaken, left, mode, expiry, compare }
    }

    /// Whether what is held leaves room to [reserve](Shard::reserve) so many bytes. If not, there will be when it is given back. O(1).
    pub fn has_room_to_reserve(&self, value_len: usize) -> bool {
        self.holds.len() == 0 || self.has_room_to_write(self.item_bytes_of(value_len))
    }

    fn has_room_to_write(&self, chunk_bytes: usize) -> bool {
        self.holds.has_room_to_write(chunk_bytes, self.holdable_bytes(), self.slabs.pages_held())
            && self.leaves_room_if_held(chunk_bytes)
    }

    /// The next bytes to be filled, as many as lie in one piece. They may hold anything. The value must not be complete.
    pub fn space(&mut self, now: Seconds, reservation: &mut Reservation) -> Room<&mut [u8]> {
        match self.spaces(now, reservation, 1) {
            Room::Here([first, ..]) => Room::Here(first),
            Room::Later => Room::Later,
            Room::NoMemory => Room::NoMemory,
        }
    }

    /// The next bytes to be filled, in order, about `bytes_wanted` or less: in as many pieces as they lie in, the others empty. They
    /// may hold anything. The value must not be complete.
    pub fn spaces(
        &mut self,
        now: Seconds,
        reservation: &mut Reservation,
        bytes_wanted: usize,
    ) -> Room<[&mut [u8]; SPACES_MAX]> {
        match self.take_spaces(now, reservation, bytes_wanted) {
            Room::Here(()) => Room::Here(self.arena.disjoint_mut(reservation.spaces.clone())),
            Room::Later => Room::Later,
            Room::NoMemory => Room::NoMemory,
        }
    }

    /// Where the next bytes lie that are to be filled, as [`Shard::space`].
    pub(crate) fn next_space(&mut self, now: Seconds, reservation: &mut Reservation) -> Room<Range<usize>> {
        match self.take_spaces(now, reservation, 1) {
            Room::Here(()) => Room::Here(reservation.spaces[0].clone()),
            Room::Later => Room::Later,
            Room::NoMemory => Room::NoMemory,
        }
    }

    /// Takes room for so many bytes, as far as there are places for pieces.
    fn take_spaces(&mut self, now: Seconds, reservation: &mut Reservation, bytes_wanted: usize) -> Room<()> {
        assert!(reservation.left > 0, "there is something to be filled");
        while reservation.taken() < bytes_wanted
            && reservation.untaken > 0
            && reservation.spaces[SPACES_MAX - 1].is_empty()
        {
            match self.take_space(now, reservation) {
                Room::Here(()) => {}
                // What there is will do for now.
                _ if reservation.taken() > 0 => break,
                Room::Later => return Room::Later,
                Room::NoMemory => return Room::NoMemory,
            }
        }
        Room::Here(())
    }

    /// Takes note that so many bytes of the [spaces](Shard::spaces) were filled, from the first on, at most all of them.
    pub fn filled(&self, reservation: &mut Reservation, mut bytes: usize) {
        reservation.left -= bytes;
        while bytes > 0 {
            let space = &mut reservation.spaces[0];
            let now = bytes.min(space.len());
            assert!(now > 0, "no more was handed out");
            bytes -= now;
            space.start += now;
            if Range::is_empty(space) {
                *space = 0..0;
                reservation.spaces.rotate_left(1);
            }
        }
    }

    /// Takes room for the next piece.
    fn take_space(&mut self, now: Seconds, reservation: &mut Reservation) -> Room<()> {
        let largest = self.slabs.largest();
        if !self.has_largest_chunk_in_time(now) {
            return Room::Later;
        }
        let chunk = self.take_chunk(now, largest);
        self.writing = false;
        let Some(chunk) = chunk else { return Room::NoMemory };
        let head = reservation.chunks.head;
        self.arena.set_header(chunk, Header::continuation(Location::NONE, head));
        if reservation.last == Location::NONE {
            reservation.chunks.first = chunk;
            self.arena.set_header(head, Header::reserved(chunk));
        } else {
            self.arena.set_header(reservation.last, Header::continuation(chunk, head));
        }
        self.arena.prefetch_row(reservation.last, chunk);
        reservation.last = chunk;
        let start = chunk.offset() + self.arena.header_size.bytes();
        let bytes = reservation.untaken.min(self.payload());
        reservation.untaken -= bytes;
        reservation.add_space(start..start + bytes);
        self.step_aside(now);
        Room::Here(())
    }

    /// Works towards a page for the largest chunks where that takes long: where only another class has one, full of small items. False
    /// if there is more to do.
    fn has_largest_chunk_in_time(&mut self, now: Seconds) -> bool {
        let largest = self.slabs.largest();
        let is_quick = |shard: &Shard| {
            let has_items = shard.slabs.class(largest).chunks_used > 0 && !shard.barren;
            let page_bytes = shard.slabs.page_size() + shard.link_bytes_of(largest) + shard.spare_bytes;
            shard.slabs.has_room_in(largest)
                || has_items
                || !shard.dead.is_empty()
                || shard.slabs.has_empty_page()
                || shard.fits(page_bytes)
                || shard.spare_bytes == 0
        };
        if is_quick(self) {
            return true;
        }
        if self.leaving.is_none() {
            let Some(page) = self.quickest_page(largest) else { return true };
            self.begin_leaving(page, Destination::Class(largest));
        }
        self.drain(now, CLEARED_PER_STEP);
        is_quick(self)
    }

    /// Whether a value of so many bytes could find room, where none can be made.
    fn may_fit(&self, chunk_bytes: usize) -> bool {
        let class = self.slabs.class(self.slabs.largest());
        let free = (class.chunks() - class.chunks_used) * class.chunk_size;
        self.evict || !self.dead.is_empty() || chunk_bytes <= free + self.memory_bytes - self.used()
    }

    /// Stores a complete value, as [`Shard::store`] does it, or gives up its room and says why.
    #[expect(clippy::needless_pass_by_value, reason = "a reservation is used up")]
    pub fn commit(&mut self, now: Seconds, reservation: Reservation) -> StoreOutcome {
        assert!(reservation.left == 0, "the caller fills the value first");
        let mut key = [0; KEY_SIZE_MAX];
        let key = &mut key[..reservation.head.header.key_len()];
        let start = reservation.chunks.head.offset() + reservation.head.key_offset();
        key.copy_from_slice(self.arena.bytes(start..start + key.len()));
        let Reservation { chunks, mut head, mode, expiry, compare, .. } = reservation;
        head.chain_to(chunks.first);
        let request = Store { mode, compare, ..Store::set(key, &[], expiry) };
        self.begin(now, key);
        let outcome = self.commit_request(now, &request, chunks, head);
        self.step_aside(now);
        outcome
    }

    /// Gives the room of a value back, complete or not.
    #[expect(clippy::needless_pass_by_value, reason = "a reservation is used up")]
    pub fn abandon(&mut self, reservation: Reservation) {
        self.end_reservation(reservation.chunks);
        self.give_chunks(reservation.chunks);
    }

    fn commit_request(
        &mut self,
        now: Seconds,
        request: &Store<'_>,
        chunks: Chunks,
        mut head: Head,
    ) -> StoreOutcome {
        let hash = self.hash(request.key);
        let old = self.find_live(now, hash, request.key);
        let refusal = self.refusal(now, old, request).or_else(|| {
            let has_place = self.make_place(now, hash, old, chunks);
            (!has_place).then(|| {
                self.drop_unreplaced(hash, request);
                StoreOutcome::NoMemory
            })
        });
        self.end_reservation(chunks);
        if let Some(outcome) = refusal {
            self.give_chunks(chunks);
            return outcome;
        }
        let value_len = head.header.value_len();
        head.header = self.new_header(now, request.key, request.expiry);
        head.header.set_value_len(value_len);
        self.finish_new(hash, old, chunks, head);
        self.outcome_of(Ok(chunks.head))
    }

    /// A slot of the index and an item more, if there is none to be replaced.
    fn make_place(&mut self, now: Seconds, hash: u64, old: Option<Location>, chunks: Chunks) -> bool {
        if old.is_some() {
            return true;
        }
        let class = self.slabs.class_of(chunks.head);
        self.count_return(class, hash);
        self.make_item_room(now, class) && self.make_index_room(now, hash)
    }

    fn end_reservation(&mut self, chunks: Chunks) {
        let hold = self.holds.remove(chunks.head);
        assert!(hold.state == HoldState::Reserved);
        self.slabs.let_go(chunks.head);
        self.reckon_with_holds();
    }
}
