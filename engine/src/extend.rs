//! Appending to long values, and prepending, a part at a time: what becomes of it is written beside the present item, which stays as
//! it is until all is there. Never shows a value that is not whole, and never decides whether to.

use std::ops::Range;

use crate::arena::Location;
use crate::expiry::Seconds;
use crate::header::Head;
use crate::pin::{Pin, Place};
use crate::reserve::{Reservation, Room};
use crate::shard::Shard;
use crate::store::{Store, StoreMode, StoreOutcome};
use crate::value::Reading;

/// Values up to this, with what is put to them, are written anew at once: some 50 microseconds.
pub const EXTENDED_AT_ONCE_MAX: usize = 256 << 10;

/// A value that is being extended, to be given to [`Shard::finish_extension`] or [`Shard::abandon_extension`]. As with a
/// reservation, dropping it keeps memory from being used again.
#[derive(Debug)]
#[must_use = "an extension must be given back to the shard with `finish_extension` or `abandon_extension`"]
pub struct Extension {
    pin: Pin,
    /// The item that is extended.
    place: Place,
    reading: Reading,
    reservation: Reservation,
    /// Where the present value goes.
    old: Range<usize>,
    written: usize,
}

/// How far an extension has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extended {
    /// There is more to do.
    InPart,
    /// All is written.
    Whole,
    /// The item is another one now, or there is no room. It can only be abandoned.
    InVain,
}

impl Extension {
    /// The next bytes of the request's own value, if they come next.
    fn next_of<'a>(&self, value: &'a [u8]) -> Option<&'a [u8]> {
        let Range { start, end } = self.old;
        match self.written {
            written if written < start => Some(&value[written..]),
            written if written < end => None,
            written => Some(&value[start + written - end..]),
        }
    }
}

impl Shard {
    /// Begins an append or a prepend that takes long. `None` for any other store, for one that ends at once, or where there is no room to
    /// do it in parts: then [`Shard::store`] does it. Nothing changed then, but for other items that were evicted in vain.
    pub fn begin_extension(&mut self, now: Seconds, request: &Store<'_>) -> Option<Extension> {
        if !matches!(request.mode, StoreMode::Append | StoreMode::Prepend) {
            return None;
        }
        self.begin(now, request.key);
        let hash = self.hash(request.key);
        let old = self.find_live(now, hash, request.key)?;
        let head = self.arena.head(old);
        let len = head.value_len() + request.value.len();
        let is_allowed = self.refusal(now, Some(old), request).is_none() && len <= self.item_size_max;
        if len <= EXTENDED_AT_ONCE_MAX || !is_allowed {
            return None;
        }
        let place = self.place_of(old, hash);
        let pin = self.pin_at(place)?;
        let reservation = self.with_protected(old, |shard| {
            let new = extended(request, &head);
            shard.reserve(now, &new, len)
        });
        let Some(reservation) = reservation else {
            self.unpin(pin);
            return None;
        };
        let start = if request.mode == StoreMode::Prepend { request.value.len() } else { 0 };
        let reading = self.begin_reading(&pin);
        let old = start..start + head.value_len();
        Some(Extension { pin, place, reading, reservation, old, written: 0 })
    }

    /// Writes about so many bytes more. The request is the one that the extension was begun with.
    pub fn go_on_extending(
        &mut self,
        now: Seconds,
        extension: &mut Extension,
        request: &Store<'_>,
        bytes_max: usize,
    ) -> Extended {
        let old = extension.place.location();
        self.with_protected(old, |shard| shard.extend_some(now, extension, request, bytes_max))
    }

    fn extend_some(
        &mut self,
        now: Seconds,
        extension: &mut Extension,
        request: &Store<'_>,
        bytes_max: usize,
    ) -> Extended {
        let until = extension.written + bytes_max;
        while extension.reservation.left() > 0 && extension.written < until {
            if !self.is_there(extension.place) {
                return Extended::InVain;
            }
            let mut space = match self.next_space(now, &mut extension.reservation) {
                Room::Here(space) => space,
                Room::Later => return Extended::InPart,
                Room::NoMemory => return Extended::InVain,
            };
            space.end = space.end.min(space.start + until - extension.written);
            let written = self.write_some(extension, request.value, space);
            extension.written += written;
            self.filled(&mut extension.reservation, written);
        }
        if extension.reservation.left() > 0 { Extended::InPart } else { Extended::Whole }
    }

    /// Fills a space, or as much of it as comes from one place. Returns how much that was.
    fn write_some(&mut self, extension: &mut Extension, value: &[u8], space: Range<usize>) -> usize {
        if let Some(source) = extension.next_of(value) {
            let bytes = source.len().min(space.len()).min(match extension.old.start {
                start if extension.written < start => start - extension.written,
                _ => usize::MAX,
            });
            self.arena.bytes_mut(space.start..space.start + bytes).copy_from_slice(&source[..bytes]);
            return bytes;
        }
        let piece = extension.reading.next_place(&self.arena, space.len());
        let piece = piece.expect("a value has the bytes that its head says");
        let bytes = piece.len();
        self.arena.copy(piece, space.start);
        bytes
    }

    /// Stores what is [whole](Extended::Whole), as [`Shard::store`] does it. `None` if the item is another one now: then nothing changed.
    pub fn finish_extension(
        &mut self,
        now: Seconds,
        extension: Extension,
        request: &Store<'_>,
    ) -> Option<StoreOutcome> {
        assert!(extension.reservation.left() == 0, "the caller looks first");
        self.begin(now, request.key);
        let hash = self.hash(request.key);
        let place = extension.place;
        let old = self.find_live(now, hash, request.key);
        if old != Some(place.location()) || !self.is_there(place) {
            self.abandon_extension(extension);
            return None;
        }
        let Extension { pin, mut reservation, .. } = extension;
        // It may have been touched meanwhile.
        reservation.keep_expiry(self.arena.header(place.location()).expiry());
        let outcome = self.commit(now, reservation);
        self.unpin(pin);
        Some(outcome)
    }

    /// Gives up an extension. The item is as it was.
    pub fn abandon_extension(&mut self, extension: Extension) {
        let Extension { pin, reservation, .. } = extension;
        self.abandon(reservation);
        self.unpin(pin);
    }

    /// Does something while an item must not be evicted for it.
    fn with_protected<R>(&mut self, item: Location, act: impl FnOnce(&mut Shard) -> R) -> R {
        let before = std::mem::replace(&mut self.protected, item);
        let result = act(self);
        self.protected = before;
        result
    }
}

/// What stores the whole of it: all but key, client flags and expiry is the request's.
fn extended<'a>(request: &Store<'a>, old: &Head) -> Store<'a> {
    Store {
        mode: StoreMode::Set,
        value: &[],
        client_flags: old.client_flags,
        expiry: old.header.expiry(),
        compare: None,
        invalidate: false,
        vivify: None,
        binary_key: request.binary_key || old.extension.binary_key,
        ..*request
    }
}
