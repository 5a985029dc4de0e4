//! How long an item lives, and how that is said on the wire. No clock: the time is an argument.

use std::time::Duration;

/// Up to so many seconds a number on the wire counts from now; anything above is a Unix time.
///
/// Source: memcached `doc/protocol.txt`, "Expiration times".
const RELATIVE_SECONDS_MAX: u64 = 60 * 60 * 24 * 30;

/// Latest second a server is told. memcached keeps 32 bits of it; 2^31 - 1 is in the year 2038.
const UNIX_SECONDS_MAX: u64 = i32::MAX as u64;

/// What the wire says for an item that is dead at once.
const DEAD: i64 = -1;

/// How long an item lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// Until it is evicted or deleted.
    #[default]
    Never,
    /// For so long, rounded up to a second. Zero is dead at once.
    After(Duration),
}

impl Ttl {
    /// The number for the wire when it is `unix_seconds` now. What ends beyond 2038 ends in 2038.
    pub(crate) fn exptime(self, unix_seconds: u64) -> i64 {
        let Self::After(duration) = self else { return 0 };
        let seconds = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
        let number = match seconds {
            0 => return DEAD,
            1..=RELATIVE_SECONDS_MAX => seconds,
            _ => unix_seconds.saturating_add(seconds).min(UNIX_SECONDS_MAX),
        };
        i64::try_from(number).expect("below 2^31")
    }
}

impl From<Duration> for Ttl {
    fn from(duration: Duration) -> Self {
        Self::After(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[track_caller]
    fn check(ttl: impl Into<Ttl>, exptime: i64) {
        assert_eq!(ttl.into().exptime(NOW), exptime);
    }

    #[test]
    fn a_part_of_a_second_is_a_second_and_never_for_ever() {
        check(Ttl::Never, 0);
        check(Duration::from_nanos(1), 1);
        check(Duration::from_millis(1_001), 2);
        check(Duration::ZERO, -1);
    }

    #[test]
    fn beyond_thirty_days_it_is_a_unix_time() {
        const DAY: u64 = 86_400;
        check(Duration::from_secs(30 * DAY), 2_592_000);
        check(Duration::from_secs(30 * DAY + 1), 1_802_592_001);
        check(Duration::MAX, 2_147_483_647);
    }
}
