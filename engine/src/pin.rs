//! Pins: a value that is being sent stays whole until the last reader is done, whatever becomes of its item. Never
//! copies a value.
//!
//! A pinned item can be deleted, replaced, flushed or evicted like any other. Then the index forgets it and its chunks
//! wait, as chunks of no item, for the last [`Shard::unpin`]. What would change its bytes in place makes a new item instead.

use crate::arena::Location;
use crate::expiry::Seconds;
use crate::header::{Chunk, Head, Header};
use crate::held::{Hold, HoldState};
use crate::item::Item;
use crate::room::Chunks;
use crate::shard::Shard;
use crate::value::{Pieces, Reading, Value};

/// The right to read one value until [`Shard::unpin`]. Dropping it instead keeps the value's memory from being used again,
/// which a debug build notices at the end of the shard.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a pin must be given back to the shard with `unpin`"]
pub struct Pin {
    head: Location,
}

/// Where an item was when it was read, for [`Shard::pin_at`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    location: Location,
    version: u64,
    hash: u64,
}

impl Place {
    pub(crate) fn location(self) -> Location {
        self.location
    }
}

impl Item<'_> {
    /// Where the item is, to pin it when the borrow has ended.
    pub fn place(&self) -> Place {
        Place { location: self.location(), version: self.version(), hash: self.hash() }
    }
}

impl Shard {
    /// Pins the item of a key, leaving no trace of the access. `None` if there is no live item or no
    /// [room for a pin](Shard::pin_at).
    pub fn pin(&mut self, now: Seconds, key: &[u8]) -> Option<Pin> {
        let place = self.peek(now, key)?.place();
        self.pin_at(place)
    }

    /// Pins the item that was just read, dead or alive. `None` if anything else happened to the shard meanwhile and the item
    /// is gone or replaced, or if too much is held already: more than half of the budget or of the pages (three
    /// quarters, if it is a single value), so much that what is small would find no room, or 1024 values (fewer in shards below 32 MiB).
    /// Then the caller copies. O(1).
    pub fn pin_at(&mut self, place: Place) -> Option<Pin> {
        let head = place.location;
        if !self.is_there(place) {
            return None;
        }
        match self.hold_at(head).map(|hold| hold.state) {
            Some(HoldState::Linked { readers }) => {
                self.holds.set_state(head, HoldState::Linked { readers: readers.checked_add(1)? });
            }
            Some(state) => unreachable!("{state:?} is no item"),
            None => self.hold_item(head)?,
        }
        Some(Pin { head })
    }

    /// The value of the item that was just read, dead or alive, for who could not [pin](Shard::pin_at) it. `None` as there.
    pub fn value_at(&self, place: Place) -> Option<Value<'_>> {
        self.is_there(place).then(|| self.value_of(place.location, &self.arena.head(place.location)))
    }

    /// Whether any value can be pinned now, however large it is: what [`Shard::pin_at`] refuses then is gone. O(1).
    #[inline]
    pub fn has_room_for_any_pin(&self) -> bool {
        self.holds.len() == 0 || self.has_room_to_read(self.item_bytes_of(self.item_size_max))
    }

    /// Whether an item that was just read can be pinned. O(1).
    pub fn has_room_for_pin(&self, place: Place) -> bool {
        let item = place.location;
        if self.is_pinned(item) {
            return true;
        }
        self.has_room_to_read(self.chunk_bytes_of(item, &self.arena.head(item)))
    }

    /// Pins once more what is pinned. O(1).
    pub fn pin_again(&mut self, pin: &Pin) -> Pin {
        let more = |readers: u32| readers.checked_add(1).expect("memory ends long before the readers");
        let state = match self.holds.get(pin.head).expect("a pin of this shard").state {
            HoldState::Linked { readers } => HoldState::Linked { readers: more(readers) },
            HoldState::Unlinked { readers } => HoldState::Unlinked { readers: more(readers) },
            HoldState::Reserved => panic!("a reservation is not pinned"),
        };
        self.holds.set_state(pin.head, state);
        Pin { head: pin.head }
    }

    /// Begins to read a pinned value piece by piece. The reading means nothing without the pin.
    pub fn begin_reading(&self, pin: &Pin) -> Reading {
        let pieces = self.holds.get(pin.head).expect("a pin of this shard").pieces;
        pieces.prefetch(&self.arena);
        Reading::new(pieces)
    }

    /// The next bytes of a pinned value, at most so many and as many as lie in one piece; `None` at its end. O(1).
    pub fn read_on(&self, reading: &mut Reading, bytes_max: usize) -> Option<&[u8]> {
        reading.next(&self.arena, bytes_max)
    }

    /// The value as it was when it was pinned.
    pub fn pinned_value(&self, pin: &Pin) -> Value<'_> {
        let hold = self.holds.get(pin.head).expect("a pin of this shard");
        Value::new(&self.arena, hold.pieces)
    }

    /// Gives a pin back. With the last one of a value whose item is gone its memory becomes free, bit by bit if it is
    /// much. O(1).
    #[expect(clippy::needless_pass_by_value, reason = "a pin is used up")]
    pub fn unpin(&mut self, pin: Pin) {
        let Pin { head } = pin;
        match self.holds.get(head).expect("a pin of this shard").state {
            HoldState::Linked { readers: 1 } => {
                self.holds.remove(head);
                self.slabs.let_go(head);
                self.reckon_with_holds();
            }
            HoldState::Unlinked { readers: 1 } => {
                let first = self.holds.remove(head).first;
                self.slabs.let_go(head);
                self.reckon_with_holds();
                self.give_chunks(Chunks { head, first });
            }
            HoldState::Linked { readers } => {
                self.holds.set_state(head, HoldState::Linked { readers: readers - 1 });
            }
            HoldState::Unlinked { readers } => {
                self.holds.set_state(head, HoldState::Unlinked { readers: readers - 1 });
            }
            HoldState::Reserved => panic!("a reservation is not pinned"),
        }
    }

    /// Whether an item's bytes must stay as they are. One load, but for pages that hold something.
    #[inline]
    pub(crate) fn is_pinned(&self, item: Location) -> bool {
        self.hold_at(item).is_some()
    }

    /// Keeps the chunks of an item that the index no longer knows for those who read it. False if nobody does.
    pub(crate) fn keep_for_readers(&mut self, item: Location) -> bool {
        let Some(&Hold { first, state, .. }) = self.hold_at(item) else { return false };
        let HoldState::Linked { readers } = state else { panic!("{state:?} was no item") };
        self.holds.set_state(item, HoldState::Unlinked { readers });
        // With it the continuations are no item's.
        self.arena.set_header(item, Header::reserved(first));
        true
    }

    /// The chunk that follows in a chain, whether it is an item's or not.
    pub(crate) fn chunk_behind(&self, chunks: Chunks, chunk: Location) -> Option<Location> {
        let next = match self.arena.chunk(chunk) {
            _ if chunk == chunks.head => chunks.first,
            Chunk::Continuation { next, .. } => next,
            Chunk::Item(_) | Chunk::Free { .. } | Chunk::Reserved { .. } => {
                panic!("a chain leads out of its item")
            }
        };
        (next != Location::NONE).then_some(next)
    }

    /// Bytes of the chunks of an item, rounding included. O(1).
    pub(crate) fn chunk_bytes_of(&self, item: Location, head: &Head) -> usize {
        let continuations = (head.value_len() - head.header.value_len()).div_ceil(self.payload());
        let chunk_size = |class| self.slabs.class(class).chunk_size;
        chunk_size(self.slabs.class_of(item)) + continuations * chunk_size(self.slabs.largest())
    }

    /// Bytes of the chunks of an item with such a value, or a little more.
    pub(crate) fn item_bytes_of(&self, value_len: usize) -> usize {
        let chunk_size = self.slabs.class(self.slabs.largest()).chunk_size;
        let continuations = value_len / self.payload() + 1;
        (continuations + 1) * chunk_size
    }

    pub(crate) fn place_of(&self, location: Location, hash: u64) -> Place {
        Place { location, version: self.arena.header(location).version(), hash }
    }

    /// Whether the item is still there.
    pub(crate) fn is_there(&self, place: Place) -> bool {
        let head = place.location;
        self.slabs.is_in_use(head)
            && match self.arena.chunk(head) {
                // Without CAS the version says little, but the key is the same at least.
                Chunk::Item(header) => header.version() == place.version && self.hash_at(head) == place.hash,
                Chunk::Free { .. } | Chunk::Reserved { .. } | Chunk::Continuation { .. } => false,
            }
    }

    fn has_room_to_read(&self, chunk_bytes: usize) -> bool {
        self.holds.has_room(chunk_bytes, self.holdable_bytes(), self.slabs.pages_held())
            && self.leaves_room_if_held(chunk_bytes)
    }

    /// What of the budget items can have, of which a part may be held. A single value has it all.
    pub(crate) fn holdable_bytes(&self) -> usize {
        if self.holds.len() == 0 {
            return self.memory_bytes;
        }
        let external = self.external_bytes.max(self.external_wanted);
        self.memory_bytes.saturating_sub(self.index.bytes() + self.policy_bytes() + external)
    }

    #[inline]
    fn hold_at(&self, head: Location) -> Option<&Hold> {
        if self.slabs.is_held(self.slabs.page_of(head)) { self.holds.get(head) } else { None }
    }

    fn hold_item(&mut self, item: Location) -> Option<()> {
        let head = self.arena.head(item);
        let first = first_behind(&head);
        let chunk_bytes = self.chunk_bytes_of(item, &head);
        if !self.has_room_to_read(chunk_bytes) {
            return None;
        }
        let pieces = Pieces::of(item, &head, self.payload());
        self.slabs.hold(item);
        let state = HoldState::Linked { readers: 1 };
        let behind_bytes = chunk_bytes - self.slabs.class(self.slabs.class_of(item)).chunk_size;
        self.holds.insert(item, Hold { first, pieces, chunk_bytes, behind_bytes, state });
        self.reckon_with_holds();
        Some(())
    }
}

fn first_behind(head: &Head) -> Location {
    head.extension.chain.map_or(Location::NONE, |chain| Location(chain.first))
}
