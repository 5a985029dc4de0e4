//! What a client's expiration time means.

use slabring_engine::{Expiry, Seconds};

/// Above this an expiration time is a Unix time by itself: 30 days.
pub const OFFSET_SECONDS_MAX: i64 = 60 * 60 * 24 * 30;

/// A moment that is always past: the item is stored and dead.
const LONG_AGO: Seconds = Seconds(1);

/// When an item dies for which the client sent `exptime`.
///
/// `0` is never, negative is already dead, up to [`OFFSET_SECONDS_MAX`] counts from `now`, and anything above is a Unix
/// time by itself. A time in the past is no error: the item is stored and is dead, as a memcached client
/// expects. Every `i64` has an answer; what lies beyond the year 2106 is cut to it.
///
/// Source: memcached `doc/protocol.txt`, "Expiration times".
pub fn expiry_of(exptime: i64, now: Seconds) -> Expiry {
    match exptime {
        0 => Expiry::Never,
        i64::MIN..0 => Expiry::At(LONG_AGO),
        1..=OFFSET_SECONDS_MAX => Expiry::At(at(i64::from(now.0) + exptime)),
        _ => Expiry::At(at(exptime)),
    }
}

/// When a delayed flush is due; `None` is at once. The delay reads as an expiration time does.
pub fn flush_due(delay: i64, now: Seconds) -> Option<Seconds> {
    match expiry_of(delay, now) {
        Expiry::At(due) if due > now => Some(due),
        Expiry::At(_) | Expiry::Never => None,
    }
}

/// Seconds that an item still has, as replies show it; `None` is for ever.
pub fn ttl_of(expiry: Expiry, now: Seconds) -> Option<u32> {
    match expiry {
        Expiry::Never => None,
        Expiry::At(at) => Some(at.0.saturating_sub(now.0)),
    }
}

fn at(unix_seconds: i64) -> Seconds {
    Seconds(u32::try_from(unix_seconds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = Seconds(1_700_000_000);

    #[test]
    fn an_exptime_is_never_past_relative_or_absolute() {
        let check = |exptime, expiry| assert_eq!(expiry_of(exptime, NOW), expiry, "{exptime}");
        check(0, Expiry::Never);
        check(-1, Expiry::At(LONG_AGO));
        check(i64::MIN, Expiry::At(LONG_AGO));
        check(1, Expiry::At(Seconds(NOW.0 + 1)));
        check(OFFSET_SECONDS_MAX, Expiry::At(Seconds(NOW.0 + 2_592_000)));
        check(OFFSET_SECONDS_MAX + 1, Expiry::At(Seconds(2_592_001)));
        check(1_800_000_000, Expiry::At(Seconds(1_800_000_000)));
        check(i64::MAX, Expiry::At(Seconds(u32::MAX)));
    }

    #[test]
    fn a_flush_is_delayed_only_into_the_future() {
        assert_eq!(flush_due(0, NOW), None);
        assert_eq!(flush_due(-5, NOW), None);
        assert_eq!(flush_due(10, NOW), Some(Seconds(NOW.0 + 10)));
        assert_eq!(flush_due(i64::from(NOW.0) - 1, NOW), None);
    }
}
