//! When an item is dead, as the callers say it and as a header stores it. Reads no clock.

/// Header value of an item that never expires.
const NEVER: u32 = 0;

/// A Unix time in whole seconds. The engine has no clock: callers say what time it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Seconds(pub u32);

/// The second from which an item is dead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// The item lives until it is deleted, flushed or evicted.
    Never,
    /// The item is a miss as soon as `now` reaches this second. A second in the past is not an error:
    /// the store succeeds and the item is dead at once, as memcached's clients expect.
    At(Seconds),
}

impl Expiry {
    /// The form kept in a header. Second 0 lies in the past just as second 1 does, and 0 means never there.
    pub(crate) fn encode(self) -> u32 {
        match self {
            Expiry::Never => NEVER,
            Expiry::At(second) => second.0.max(1),
        }
    }

    /// The inverse of [`Expiry::encode`].
    pub(crate) fn decode(encoded: u32) -> Expiry {
        if encoded == NEVER { Expiry::Never } else { Expiry::At(Seconds(encoded)) }
    }

    /// Whether an item with this expiry is dead at `now`.
    pub fn is_past(self, now: Seconds) -> bool {
        match self {
            Expiry::Never => false,
            Expiry::At(second) => now >= second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expiry_survives_its_header_form_and_second_zero_stays_dead() {
        for expiry in [Expiry::Never, Expiry::At(Seconds(1)), Expiry::At(Seconds(u32::MAX))] {
            assert_eq!(Expiry::decode(expiry.encode()), expiry);
        }
        assert!(Expiry::decode(Expiry::At(Seconds(0)).encode()).is_past(Seconds(1)));
    }

    #[test]
    fn an_item_dies_in_its_very_second() {
        assert!(!Expiry::At(Seconds(10)).is_past(Seconds(9)));
        assert!(Expiry::At(Seconds(10)).is_past(Seconds(10)));
        assert!(!Expiry::Never.is_past(Seconds(u32::MAX)));
    }
}
