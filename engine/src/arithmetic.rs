//! Increment and decrement of values that are decimal text.

use std::io::Write;

use crate::arena::Location;
use crate::expiry::{Expiry, Seconds};
use crate::header::{Extension, Head};
use crate::shard::Shard;
use crate::write::{Draft, NoRoom};

/// Digits of the largest number.
const DIGITS_MAX: usize = 20;

/// One increment or decrement.
#[derive(Clone, Copy, Debug)]
pub struct Arithmetic<'a> {
    /// 1 to [`KEY_SIZE_MAX`](crate::KEY_SIZE_MAX) bytes of any kind.
    pub key: &'a [u8],
    /// How much. An increment wraps at 2^64, a decrement stops at 0.
    pub delta: u64,
    /// Subtract instead of adding.
    pub decrement: bool,
    /// Change the item only if it has this CAS value; `Some(0)` is the same as `None`.
    pub compare: Option<u64>,
    /// CAS value of the changed item, instead of the next of the shard's series.
    pub explicit_cas: Option<u64>,
    /// New expiry of an item that is there.
    pub touch: Option<Expiry>,
    /// On a miss, create the item with this number and expiry.
    pub vivify: Option<(u64, Expiry)>,
    /// Remember that the client sent the key of an item created by `vivify` encoded (meta `b`).
    pub binary_key: bool,
}

/// The answer to an [`Arithmetic`]. Only `Value` changes an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArithmeticOutcome {
    /// Done.
    Value {
        /// The number now.
        value: u64,
        /// CAS value of the item now.
        cas: u64,
        /// Expiry of the item now.
        expiry: Expiry,
        /// Expiry before `touch` or `vivify`; never, if the item was created.
        expiry_before: Expiry,
        /// The item did not exist and was created with the initial number.
        created: bool,
    },
    /// No live item, and none was asked to be created.
    NotFound,
    /// The value is not an unsigned 64-bit decimal number.
    NonNumeric,
    /// The present item has another CAS value.
    Exists,
    /// The longer number found no room; the item is unchanged.
    NoMemory,
}

/// A number as decimal text, without allocating.
struct Digits {
    bytes: [u8; DIGITS_MAX],
    len: usize,
}

impl Shard {
    /// Adds to or subtracts from a number stored as text. Shorter text is padded with spaces on the right if it
    /// can stay where it is.
    pub fn arithmetic(&mut self, now: Seconds, request: &Arithmetic<'_>) -> ArithmeticOutcome {
        self.begin(now, request.key);
        let hash = self.hash(request.key);
        let outcome = match (self.find_live(now, hash, request.key), request.vivify) {
            (Some(location), _) => self.change_number(now, hash, location, request),
            (None, Some((initial, expiry))) => self.create_number(now, hash, request, initial, expiry),
            (None, None) => ArithmeticOutcome::NotFound,
        };
        self.step_aside(now);
        outcome
    }

    fn change_number(
        &mut self,
        now: Seconds,
        hash: u64,
        location: Location,
        request: &Arithmetic<'_>,
    ) -> ArithmeticOutcome {
        let head = self.arena.head(location);
        let text = self.value_of(location, &head).as_slice();
        if text.is_none_or(<[u8]>::is_empty) {
            return ArithmeticOutcome::NonNumeric;
        }
        if request.compare.is_some_and(|compare| compare != 0 && compare != self.cas_of(&head)) {
            return ArithmeticOutcome::Exists;
        }
        let Some(number) = text.and_then(parse) else { return ArithmeticOutcome::NonNumeric };
        let value = match request.decrement {
            true => number.saturating_sub(request.delta),
            false => number.wrapping_add(request.delta),
        };
        let changed = self.changed_head(now, head, request);
        let written = self.write_number(now, hash, location, changed, request.key, value);
        self.number_outcome(written, value, head.header.expiry(), false)
    }

    fn changed_head(&mut self, now: Seconds, mut head: Head, request: &Arithmetic<'_>) -> Head {
        head.header.set_version(self.next_version());
        head.header.set_access(now);
        if let Some(expiry) = request.touch {
            head.header.set_expiry(expiry);
        }
        // Where all new values are the same, the number can stay where it is, as one without its own would.
        let fixed = self.fixed_cas().filter(|_| head.extension.explicit_cas.is_some());
        head.extension.explicit_cas = request.explicit_cas.or(fixed);
        head
    }

    fn write_number(
        &mut self,
        now: Seconds,
        hash: u64,
        location: Location,
        head: Head,
        key: &[u8],
        value: u64,
    ) -> Result<Location, NoRoom> {
        let digits = Digits::of(value);
        let old = self.arena.head(location);
        let fits = head.key_offset() == old.key_offset() && digits.as_slice().len() <= old.header.value_len();
        if fits && !self.is_pinned(location) {
            self.arena.set_head(location, head);
            let start = location.offset() + head.value_offset();
            let text = self.arena.bytes_mut(start..start + head.header.value_len());
            let (number, padding) = text.split_at_mut(digits.as_slice().len());
            number.copy_from_slice(digits.as_slice());
            padding.fill(b' ');
            return Ok(location);
        }
        let draft = Draft { keep_value: false, after: digits.as_slice(), ..Draft::with_head(head, key) };
        self.put(now, hash, Some(location), &draft)
    }

    fn create_number(
        &mut self,
        now: Seconds,
        hash: u64,
        request: &Arithmetic<'_>,
        initial: u64,
        expiry: Expiry,
    ) -> ArithmeticOutcome {
        let digits = Digits::of(initial);
        let Arithmetic { key, binary_key, explicit_cas, .. } = *request;
        let draft = Draft {
            header: self.new_header(now, key, expiry),
            client_flags: 0,
            extension: Extension { binary_key, explicit_cas, ..Extension::default() },
            key,
            before: digits.as_slice(),
            keep_value: false,
            after: &[],
        };
        let written = self.put(now, hash, None, &draft);
        self.number_outcome(written, initial, Expiry::Never, true)
    }

    fn number_outcome(
        &mut self,
        written: Result<Location, NoRoom>,
        value: u64,
        expiry_before: Expiry,
        created: bool,
    ) -> ArithmeticOutcome {
        let Ok(location) = written else { return ArithmeticOutcome::NoMemory };
        self.counters.total_items += u64::from(created);
        self.last_class = self.slabs.class_of(location);
        let head = self.arena.head(location);
        let (cas, expiry) = (self.cas_of(&head), head.header.expiry());
        ArithmeticOutcome::Value { value, cas, expiry, expiry_before, created }
    }
}

impl Digits {
    fn of(value: u64) -> Digits {
        let mut bytes = [0; DIGITS_MAX];
        let mut rest = &mut bytes[..];
        write!(rest, "{value}").expect("no number has more digits");
        let len = DIGITS_MAX - rest.len();
        Digits { bytes, len }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The number that a text is, with any spaces around it.
fn parse(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    let only_spaces_around = text.iter().all(|byte| byte.is_ascii_digit() || *byte == b' ');
    if digits.is_empty() || digits.len() > DIGITS_MAX || !only_spaces_around {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_twenty_digits_at_most_with_spaces_around_and_nothing_else() {
        assert_eq!(parse(b"0"), Some(0));
        assert_eq!(parse(b"  10 "), Some(10));
        assert_eq!(parse(b"18446744073709551615"), Some(u64::MAX));
        for text in
            [&b""[..], b" ", b"+1", b"-1", b"1 2", b"1x", b"1\t", b"18446744073709551616", &[b'0'; 21]]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn digits_are_what_display_writes() {
        for value in [0, 9, 10, 1234, u64::MAX] {
            assert_eq!(Digits::of(value).as_slice(), value.to_string().as_bytes());
        }
    }
}
