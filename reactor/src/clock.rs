//! The only file that asks the system for the time.
//!
//! The cache counts whole Unix seconds. They are taken from the system's wall clock once, at the
//! start, and counted on by the monotonic clock (`CLOCK_BOOTTIME`, which also runs while the machine is suspended): when
//! somebody sets the wall clock, no item dies early and none comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A monotonic moment for measuring spans, in nanoseconds from an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(crate::thread::boot_time_ns())
    }

    /// Nanoseconds from `earlier` to this moment, 0 if it lies ahead.
    #[must_use]
    pub fn since_ns(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `span` later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The node's second counter: ticked by one thread, read by all with one relaxed load.
#[derive(Clone, Debug)]
pub struct Clock {
    seconds: Arc<AtomicU32>,
    start_unix_ns: u64,
    start: Moment,
}

impl Clock {
    /// A clock that shows the present second.
    #[must_use]
    pub fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let clock = Self {
            seconds: Arc::new(AtomicU32::new(0)),
            start_unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX),
            start: Moment::now(),
        };
        clock.tick();
        clock
    }

    /// Moves the counter to the present second. Called by the control thread some times a second.
    pub fn tick(&self) {
        const NS_PER_SECOND: u64 = 1_000_000_000;
        let unix_ns = self.start_unix_ns.saturating_add(Moment::now().since_ns(self.start));
        let seconds = u32::try_from(unix_ns / NS_PER_SECOND).unwrap_or(u32::MAX);
        self.seconds.fetch_max(seconds, Ordering::Relaxed);
    }

    /// The Unix second of the last tick. A relaxed load.
    #[must_use]
    pub fn unix_seconds(&self) -> u32 {
        self.seconds.load(Ordering::Relaxed)
    }

    /// Microseconds of Unix time, for logs. A system call or less, where [`Clock::unix_seconds`] is a load.
    #[must_use]
    pub fn unix_microseconds(&self) -> u64 {
        self.start_unix_ns.saturating_add(Moment::now().since_ns(self.start)) / 1000
    }

    /// Whole seconds since the clock was started.
    #[must_use]
    pub fn uptime_seconds(&self) -> u32 {
        let start = u32::try_from(self.start_unix_ns / 1_000_000_000).unwrap_or(u32::MAX);
        self.unix_seconds().saturating_sub(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_starts_at_the_present_second_and_never_goes_back() {
        let clock = Clock::start();
        let first = clock.unix_seconds();
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(u64::from(first).abs_diff(system) <= 1);
        for _ in 0..100 {
            clock.tick();
            assert!(clock.unix_seconds() >= first);
        }
    }
}
