//! Set, add, replace, append, prepend and their compare-and-swap forms.

use crate::arena::Location;
use crate::expiry::{Expiry, Seconds};
use crate::header::{Extension, Head, Header};
use crate::shard::Shard;
use crate::warm::KeyHash;
use crate::write::{Draft, NoRoom};

/// Which existing state a store insists on, and what it does with the old value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreMode {
    /// Store in any case.
    Set,
    /// Store only if the key is absent; a present item counts as accessed.
    Add,
    /// Store only if the key is present.
    Replace,
    /// Put the value behind the present one, keeping its client flags and expiry.
    Append,
    /// Put the value before the present one, keeping its client flags and expiry.
    Prepend,
}

/// One store.
#[derive(Clone, Copy, Debug)]
pub struct Store<'a> {
    /// What to do.
    pub mode: StoreMode,
    /// 1 to [`KEY_SIZE_MAX`](crate::KEY_SIZE_MAX) bytes of any kind.
    pub key: &'a [u8],
    /// 0 to `item_size_max` bytes; longer values are refused with [`StoreOutcome::TooLarge`].
    pub value: &'a [u8],
    /// Opaque to the engine; costs four bytes an item unless 0.
    pub client_flags: u32,
    /// Expiry of the stored item; append and prepend keep the present one.
    pub expiry: Expiry,
    /// Store only if the present item has this CAS value. `Some(0)` matches no item, except that append and
    /// prepend take it as "do not compare". Ignored by add.
    pub compare: Option<u64>,
    /// CAS value of the stored item, instead of the next of the shard's series.
    pub explicit_cas: Option<u64>,
    /// With `compare` below the present item's CAS: store all the same, keep the expiry and mark the item
    /// stale (meta `I`).
    pub invalidate: bool,
    /// Append and prepend only: on a miss, store the value with this expiry.
    pub vivify: Option<Expiry>,
    /// Remember that the client sent the key encoded (meta `b`).
    pub binary_key: bool,
}

impl<'a> Store<'a> {
    /// An unconditional set without client flags.
    pub fn set(key: &'a [u8], value: &'a [u8], expiry: Expiry) -> Store<'a> {
        Store {
            mode: StoreMode::Set,
            key,
            value,
            client_flags: 0,
            expiry,
            compare: None,
            explicit_cas: None,
            invalidate: false,
            vivify: None,
            binary_key: false,
        }
    }

    /// Whether nothing of the present item matters, and the new one has nothing but a value and client flags.
    #[inline]
    fn is_bare_set(&self) -> bool {
        self.mode == StoreMode::Set
            && self.compare.is_none()
            && self.explicit_cas.is_none()
            && !self.binary_key
    }

    /// What the item says about itself if it is stored as requested.
    pub(crate) fn new_extension(&self) -> Extension {
        let Store { binary_key, explicit_cas, .. } = *self;
        Extension { binary_key, explicit_cas, ..Extension::default() }
    }
}

/// The answer to a [`Store`]. Only `Stored` changes an item, but for `TooLarge` and `NoMemory` on an
/// unconditional set: they remove the present item, lest the client reads a value it believes replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreOutcome {
    /// Done.
    Stored {
        /// CAS value of the item now.
        cas: u64,
        /// Bytes of the item's value now; after append and prepend the new total.
        value_len: usize,
    },
    /// The key is present (add) or absent (replace, append, prepend).
    NotStored,
    /// The present item has another CAS value.
    Exists,
    /// A CAS value was given and the key is absent.
    NotFound,
    /// The value, or the total after append and prepend, is longer than any item may be.
    TooLarge,
    /// No room, and none could be made.
    NoMemory,
}

/// What a store does once it is known what is there.
enum Decision {
    Refuse(StoreOutcome),
    /// Write the request's value with this expiry and these marks.
    Write(Expiry, Extension),
    /// Put the request's value before or behind the present one.
    Extend,
}

impl Shard {
    /// Stores an item, or says why not.
    pub fn store(&mut self, now: Seconds, request: &Store<'_>) -> StoreOutcome {
        self.store_hashed(now, self.hash_of(request.key), request)
    }

    /// As [`Shard::store`], for who has the hash of the key from this shard.
    pub fn store_hashed(&mut self, now: Seconds, hash: KeyHash, request: &Store<'_>) -> StoreOutcome {
        debug_assert!(hash == self.hash_of(request.key), "another key's hash, or another shard's");
        let hash = hash.0;
        self.begin(now, request.key);
        self.warm_ghost(hash);
        let old = self.find_live(now, hash, request.key);
        let in_place = old.and_then(|location| self.set_in_place(now, hash, location, request));
        let outcome = in_place.unwrap_or_else(|| self.store_over(now, hash, old, request));
        if matches!(outcome, StoreOutcome::TooLarge | StoreOutcome::NoMemory) {
            self.drop_unreplaced(hash, request);
        }
        self.step_aside(now);
        outcome
    }

    /// A set of a bare value over another one, where it fits in: what most stores are, without a thought to what they are not. `None` if
    /// it is none, and nothing has happened.
    #[inline]
    fn set_in_place(
        &mut self,
        now: Seconds,
        hash: u64,
        location: Location,
        request: &Store<'_>,
    ) -> Option<StoreOutcome> {
        let old = self.arena.header(location);
        let value_len = request.value.len();
        if !request.is_bare_set()
            || old.is_extended()
            || old.has_client_flags() != (request.client_flags != 0)
            || value_len > self.item_size_max
            || self.is_pinned(location)
        {
            return None;
        }
        let value_offset = self.arena.key_offset(location, old) + request.key.len();
        let class = self.slabs.class_of(location);
        if value_offset + value_len > self.slabs.class(class).chunk_size
            || self.slabs.class_for(value_offset + value_len) != class
        {
            return None;
        }
        let mut header = self.new_header(now, request.key, request.expiry);
        header.set_in_window(old.in_window());
        header.set_frequency(old.frequency());
        header.set_value_len(value_len);
        self.arena.set_bare_head(location, header, request.client_flags);
        let start = location.offset() + value_offset;
        self.arena.bytes_mut(start..start + value_len).copy_from_slice(request.value);
        self.count_resized(location, old.value_len(), value_len);
        self.note_use(location);
        self.show_store(hash, location);
        self.counters.total_items += 1;
        self.last_class = class;
        Some(StoreOutcome::Stored { cas: self.counted_cas(header), value_len })
    }

    /// Why a store is not allowed, if it is not.
    pub(crate) fn refusal(
        &mut self,
        now: Seconds,
        old: Option<Location>,
        request: &Store<'_>,
    ) -> Option<StoreOutcome> {
        match self.decide(now, old, request) {
            Decision::Refuse(outcome) => Some(outcome),
            Decision::Write(..) | Decision::Extend => None,
        }
    }

    fn decide(&mut self, now: Seconds, old: Option<Location>, request: &Store<'_>) -> Decision {
        let Some(location) = old else { return decide_absent(request) };
        let head = self.arena.head(location);
        let decision = decide_present(request, &head, self.cas_of(&head));
        if matches!(decision, Decision::Refuse(_)) {
            self.last_class = self.slabs.class_of(location);
            if request.mode == StoreMode::Add {
                self.count_add_refused(now, location, head.header);
            }
        }
        decision
    }

    fn store_over(
        &mut self,
        now: Seconds,
        hash: u64,
        old: Option<Location>,
        request: &Store<'_>,
    ) -> StoreOutcome {
        if request.value.len() > self.item_size_max {
            return StoreOutcome::TooLarge;
        }
        match (self.decide(now, old, request), old) {
            (Decision::Write(expiry, extension), _) => self.write(now, hash, old, request, expiry, extension),
            (Decision::Extend, Some(location)) => self.extend(now, hash, location, request),
            (Decision::Refuse(outcome), _) => outcome,
            (Decision::Extend, None) => unreachable!("only a present item is extended"),
        }
    }

    fn write(
        &mut self,
        now: Seconds,
        hash: u64,
        old: Option<Location>,
        request: &Store<'_>,
        expiry: Expiry,
        extension: Extension,
    ) -> StoreOutcome {
        let draft = Draft {
            header: self.new_header(now, request.key, expiry),
            client_flags: request.client_flags,
            extension,
            key: request.key,
            before: request.value,
            keep_value: false,
            after: &[],
        };
        let written = self.put(now, hash, old, &draft);
        self.outcome_of(written)
    }

    fn extend(&mut self, now: Seconds, hash: u64, location: Location, request: &Store<'_>) -> StoreOutcome {
        let mut head = self.arena.head(location);
        if head.value_len() + request.value.len() > self.item_size_max {
            return StoreOutcome::TooLarge;
        }
        head.header = self.new_header(now, request.key, head.header.expiry());
        let binary_key = head.extension.binary_key || request.binary_key;
        let explicit_cas = request.explicit_cas;
        head.extension = Extension { binary_key, explicit_cas, ..Extension::default() };
        let mut draft = Draft::with_head(head, request.key);
        match request.mode {
            StoreMode::Prepend => draft.before = request.value,
            _ => draft.after = request.value,
        }
        let written = self.put(now, hash, Some(location), &draft);
        self.outcome_of(written)
    }

    pub(crate) fn outcome_of(&mut self, written: Result<Location, NoRoom>) -> StoreOutcome {
        match written {
            Ok(location) => {
                self.counters.total_items += 1;
                self.last_class = self.slabs.class_of(location);
                let head = self.arena.head(location);
                StoreOutcome::Stored { cas: self.cas_of(&head), value_len: head.value_len() }
            }
            Err(NoRoom) => StoreOutcome::NoMemory,
        }
    }

    /// The header of an item stored now, but for its lengths.
    #[inline]
    pub(crate) fn new_header(&mut self, now: Seconds, key: &[u8], expiry: Expiry) -> Header {
        let mut header = Header::new(key.len(), self.next_version());
        header.set_expiry(expiry);
        header.set_access(now);
        header
    }

    /// An add that finds the key counts as an access, but not as a fetch.
    fn count_add_refused(&mut self, now: Seconds, location: Location, header: Header) {
        let mut hit = header.after_hit(now);
        hit.set_fetched(header.is_fetched());
        self.update_header(location, header, hit);
        self.note_use(location);
    }

    /// After an unconditional set that found no room: lest the client reads a value it believes replaced.
    pub(crate) fn drop_unreplaced(&mut self, hash: u64, request: &Store<'_>) {
        if request.mode == StoreMode::Set
            && request.compare.is_none()
            && let Some(location) = self.find(hash, request.key)
        {
            self.unlink(hash, location);
            self.show_removal(hash);
        }
    }
}

fn decide_absent(request: &Store<'_>) -> Decision {
    match (request.mode, request.compare, request.vivify) {
        (StoreMode::Set | StoreMode::Replace, Some(_), _) => Decision::Refuse(StoreOutcome::NotFound),
        (StoreMode::Set | StoreMode::Add, ..) => Decision::Write(request.expiry, request.new_extension()),
        (StoreMode::Append | StoreMode::Prepend, _, Some(expiry)) => {
            Decision::Write(expiry, request.new_extension())
        }
        (StoreMode::Replace | StoreMode::Append | StoreMode::Prepend, ..) => {
            Decision::Refuse(StoreOutcome::NotStored)
        }
    }
}

fn decide_present(request: &Store<'_>, head: &Head, cas: u64) -> Decision {
    match (request.mode, request.compare) {
        (StoreMode::Add, _) => Decision::Refuse(StoreOutcome::NotStored),
        (StoreMode::Append | StoreMode::Prepend, None | Some(0)) => Decision::Extend,
        (StoreMode::Append | StoreMode::Prepend, Some(compare)) if compare == cas => Decision::Extend,
        (StoreMode::Append | StoreMode::Prepend, Some(_)) => Decision::Refuse(StoreOutcome::Exists),
        (StoreMode::Set | StoreMode::Replace, None) => {
            Decision::Write(request.expiry, request.new_extension())
        }
        (StoreMode::Set | StoreMode::Replace, Some(compare)) if compare == cas => {
            Decision::Write(request.expiry, request.new_extension())
        }
        (StoreMode::Set | StoreMode::Replace, Some(compare))
            if request.invalidate && (1..cas).contains(&compare) =>
        {
            let token_sent = head.extension.token_sent;
            let extension = Extension { stale: true, token_sent, ..request.new_extension() };
            Decision::Write(head.header.expiry(), extension)
        }
        (StoreMode::Set | StoreMode::Replace, Some(_)) => Decision::Refuse(StoreOutcome::Exists),
    }
}
