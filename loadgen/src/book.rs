//! Which write of each key a reader must at least see. Shared by all threads, only where values are verified.
//!
//! Writes of one key that overlap may take effect in any order; while one is under way nothing is known beyond what was
//! known before. So writes are counted in groups that overlap, and when the last of a group is answered, the lowest version
//! among those that succeeded is the oldest that may still be found.

use std::sync::{Mutex, PoisonError};

/// Keys under one lock: far more locks than threads.
const STRIPE: usize = 64;

/// Versions wrap before they outgrow their place in a value.
pub(crate) const VERSION_MAX: u32 = (1 << 30) - 1;

/// The writes of all keys.
#[derive(Debug)]
pub(crate) struct Book {
    /// Others write too: nothing is known of what a reader must find.
    is_shared: bool,
    stripes: Vec<Mutex<[Entry; STRIPE]>>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Entry {
    /// Last version given out.
    version: u32,
    /// A reader that asks now must not find an older one; 0 if any will do.
    floor: u32,
    under_way: u32,
    /// Lowest that succeeded in the group under way.
    succeeded: Option<u32>,
}

impl Book {
    /// `is_shared`: others write the same keys meanwhile, and any version may be found.
    pub(crate) fn new(keys: u64, is_shared: bool) -> Self {
        let stripes = usize::try_from(keys).expect("keys fit in memory").div_ceil(STRIPE);
        Self { is_shared, stripes: (0..stripes).map(|_| Mutex::new([Entry::default(); STRIPE])).collect() }
    }

    /// Begins a write of `key`. Returns its version, at least 1.
    pub(crate) fn begin(&self, key: u64) -> u32 {
        self.with(key, |entry| {
            entry.under_way += 1;
            entry.version = if entry.version == VERSION_MAX { 1 } else { entry.version + 1 };
            entry.version
        })
    }

    /// A write has been answered.
    pub(crate) fn end(&self, key: u64, version: u32, succeeded: bool) {
        self.with(key, |entry| {
            assert!(entry.under_way > 0, "what ends has begun");
            entry.under_way -= 1;
            if succeeded {
                entry.succeeded = Some(entry.succeeded.map_or(version, |lowest| lowest.min(version)));
            }
            if entry.under_way == 0
                && let Some(lowest) = entry.succeeded.take()
            {
                entry.floor = lowest;
            }
        });
    }

    /// The oldest version that a reader who asks now may find.
    pub(crate) fn floor(&self, key: u64) -> u32 {
        if self.is_shared { 0 } else { self.with(key, |entry| entry.floor) }
    }

    fn with<T>(&self, key: u64, work: impl FnOnce(&mut Entry) -> T) -> T {
        let key = usize::try_from(key).expect("keys fit in memory");
        // Every change is whole before the lock is released.
        let mut stripe = self.stripes[key / STRIPE].lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut stripe[key % STRIPE])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_was_answered_binds_later_readers() {
        let book = Book::new(100, false);
        assert_eq!((book.floor(99), book.begin(99)), (0, 1));
        assert_eq!(book.floor(99), 0);
        book.end(99, 1, true);
        assert_eq!((book.floor(99), book.floor(98)), (1, 0));
        assert_eq!(book.begin(99), 2);
        book.end(99, 2, false);
        assert_eq!(book.floor(99), 1, "a failed write binds nobody");
    }

    #[test]
    fn of_writes_that_overlap_any_may_have_been_the_last() {
        let book = Book::new(1, false);
        let (one, two) = (book.begin(0), book.begin(0));
        book.end(0, two, true);
        assert_eq!(book.floor(0), 0);
        let three = book.begin(0);
        book.end(0, one, true);
        book.end(0, three, true);
        assert_eq!(book.floor(0), one);
        let four = book.begin(0);
        book.end(0, four, true);
        assert_eq!(book.floor(0), four);
    }
}
