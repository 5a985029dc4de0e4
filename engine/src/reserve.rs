//! Reservations: room for a large value that the caller fills piece by piece, straight in the shard's memory, and that
//! becomes an item when it is complete. Never shows what is in it before.

use std::ops::Range;

use crate::KEY_SIZE_MAX;
use crate::arena::Location;
use crate::expiry::{Expiry, Seconds};
use crate::header::{Head, Header};
use crate::held::{Hold, HoldState};
use crate::room::Chunks;
use crate::shard::Shard;
use crate::store::{Store, StoreMode, StoreOutcome};
use crate::value::Pieces;

/// Room for one value, to be filled and then given to [`Shard::commit`] or [`Shard::abandon`]. Dropping it instead
/// keeps its memory from being used again, which a debug build notices at the end of the shard.
#[derive(Debug)]
#[must_use = "a reservation must be given back to the shard with `commit` or `abandon`"]
pub struct Reservation {
    chunks: Chunks,
    /// All but expiry, version and what depends on the present item.
    head: Head,
    /// What follows the piece that is being filled.
    pieces: Pieces,
    space: Range<usize>,
    left: usize,
    mode: StoreMode,
    expiry: Expiry,
    compare: Option<u64>,
}

impl Reservation {
    /// Bytes of the value that are still to be filled.
    pub fn left(&self) -> usize {
        self.left
    }
}

impl Shard {
    /// Makes room for a value of `value_len` bytes, evicting as need be, and remembers how it is to be stored. The request's
    /// own value must be empty. Whether the store is allowed at all is decided by [`Shard::commit`].
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
        if !self.holds.has_room_to_write(self.shape_bytes(&shape), self.slabs.pages_held()) {
            return None;
        }
        let chunks = self.take_chunks(now, shape.class, shape.continuations);
        self.writing = false;
        let (chunks, mut head) = (chunks?, shape.head);
        head.chain_to(chunks.first);
        self.arena.set_head_behind_header(chunks.head, &head);
        self.write_key(chunks.head, &head, request.key);
        let mut pieces = Pieces::of(chunks.head, &head, self.payload());
        let hold = Hold {
            first: chunks.first,
            pieces,
            chunk_bytes: self.chunk_bytes_of(chunks),
            state: HoldState::Reserved,
        };
        self.hold_on(chunks);
        self.holds.insert(chunks.head, hold);
        self.step_aside();
        let Store { mode, expiry, compare, .. } = *request;
        let space = pieces.next(&self.arena).unwrap_or(0..0);
        Some(Reservation { chunks, head, pieces, space, left: value_len, mode, expiry, compare })
    }

    /// Whether what is held leaves room to [reserve](Shard::reserve) so many bytes. If not, there will be when it is given back. O(1).
    pub fn has_room_to_reserve(&self, value_len: usize) -> bool {
        self.holds.len() == 0
            || self.holds.has_room_to_write(self.item_bytes_of(value_len), self.slabs.pages_held())
    }

    /// The next bytes to be filled, as many as lie in one piece; none if the value is complete. They may hold anything.
    pub fn space(&mut self, reservation: &Reservation) -> &mut [u8] {
        self.arena.bytes_mut(reservation.space.clone())
    }

    /// Takes note that so many bytes of the [space](Shard::space) were filled, at most all of it.
    pub fn filled(&self, reservation: &mut Reservation, bytes: usize) {
        assert!(bytes <= reservation.space.len());
        reservation.left -= bytes;
        reservation.space.start += bytes;
        if reservation.space.is_empty() {
            reservation.space = reservation.pieces.next(&self.arena).unwrap_or(0..0);
        }
    }

    /// Stores a complete value, as [`Shard::store`] does it, or gives up its room and says why.
    #[expect(clippy::needless_pass_by_value, reason = "a reservation is used up")]
    pub fn commit(&mut self, now: Seconds, reservation: Reservation) -> StoreOutcome {
        assert!(reservation.left == 0, "the caller fills the value first");
        let mut key = [0; KEY_SIZE_MAX];
        let key = &mut key[..reservation.head.header.key_len()];
        let start = reservation.chunks.head.offset() + reservation.head.key_offset();
        key.copy_from_slice(self.arena.bytes(start..start + key.len()));
        let Reservation { chunks, head, mode, expiry, compare, .. } = reservation;
        let request = Store { mode, compare, ..Store::set(key, &[], expiry) };
        self.begin(now, key);
        let outcome = self.commit_request(now, &request, chunks, head);
        self.step_aside();
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
        self.make_item_room(now, class) && self.make_index_room(hash)
    }

    fn end_reservation(&mut self, chunks: Chunks) {
        let hold = self.holds.remove(chunks.head);
        assert!(hold.state == HoldState::Reserved);
        self.let_go(chunks);
    }
}
