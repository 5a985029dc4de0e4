//! Points in time, as the state machines of this crate are told them. Never reads a clock.

use std::ops::Add;

/// Microseconds of a monotonic clock with any origin: only differences mean something, and only within one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// A time that does not come.
    pub const NEVER: Self = Self(u64::MAX);

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000)
    }

    /// The time from `earlier` to this point, or zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Micros {
    type Output = Self;

    /// Ends at [`Self::NEVER`] instead of overflowing.
    fn add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}
