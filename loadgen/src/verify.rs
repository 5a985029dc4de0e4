//! Whether values are what their keys must have, and not older than what was known to be stored when they were asked for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::book::Book;
use crate::keys::Keys;
use crate::values::{Finding, Values, Written};

/// Wrong values that are shown with their keys.
pub(crate) const EXAMPLES_MAX: usize = 10;

/// What this run checks values by.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) book: Book,
    /// 12 bits that tell this run's writes from those of earlier ones.
    pub(crate) run: u16,
}

/// A key that was asked for, and the oldest version that may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    pub(crate) key: u64,
    pub(crate) floor: u32,
}

/// Wrong values by what is wrong with them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Debug)]
pub(crate) struct Wrong {
    /// Another key's value, or a key that was not asked for.
    pub(crate) foreign: u64,
    /// Parts of two writes, or a part of one.
    pub(crate) torn: u64,
    /// Bytes that were never written.
    pub(crate) corrupt: u64,
    /// Older than what had been stored before it was asked for.
    pub(crate) stale: u64,
}

/// What is wrong with one value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Foreign,
    Torn,
    Corrupt,
    Stale { found: Option<u32>, floor: u32 },
}

impl Wrong {
    pub(crate) fn total(&self) -> u64 {
        self.foreign + self.torn + self.corrupt + self.stale
    }

    pub(crate) fn count(&mut self, fault: Fault) {
        match fault {
            Fault::Foreign => self.foreign += 1,
            Fault::Torn => self.torn += 1,
            Fault::Corrupt => self.corrupt += 1,
            Fault::Stale { .. } => self.stale += 1,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.foreign += other.foreign;
        self.torn += other.torn;
        self.corrupt += other.corrupt;
        self.stale += other.stale;
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { foreign, torn, corrupt, stale } = self;
        write!(f, "{foreign} foreign, {torn} torn, {corrupt} corrupt, {stale} stale")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("foreign: another key's value"),
            Self::Torn => f.write_str("torn: parts of different writes"),
            Self::Corrupt => f.write_str("corrupt: bytes that were never written"),
            Self::Stale { found: Some(found), floor } => {
                write!(f, "stale: write {found} after write {floor} was answered")
            }
            Self::Stale { found: None, floor } => {
                write!(f, "stale: of an earlier run, after write {floor} was answered")
            }
        }
    }
}

impl Verifier {
    /// What is wrong with `value`, which came under `name` where the protocol says it.
    pub(crate) fn fault(
        &self,
        keys: &Keys,
        values: &Values,
        asked: Asked,
        name: Option<&[u8]>,
        value: &[u8],
    ) -> Option<Fault> {
        if name.is_some_and(|name| keys.number(name) != Some(asked.key)) {
            return Some(Fault::Foreign);
        }
        let floor = asked.floor;
        match values.judge(asked.key, value) {
            Finding::Foreign => Some(Fault::Foreign),
            Finding::Torn => Some(Fault::Torn),
            Finding::Corrupt => Some(Fault::Corrupt),
            Finding::Whole(Some(Written { run, version })) if run == self.run => {
                (version < floor).then_some(Fault::Stale { found: Some(version), floor })
            }
            Finding::Whole(Some(_)) => (floor > 0).then_some(Fault::Stale { found: None, floor }),
            // Too short to say of which write it is.
            Finding::Whole(None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizes::Sizes;

    fn check(version: u32, run: u16, floor: u32, name: &str) -> Option<Fault> {
        let (keys, values) = (Keys::new(100, Sizes::range(8, 8)), Values::new(100));
        let verifier = Verifier { book: Book::new(100, false), run: 5 };
        let mut value = Vec::new();
        values.append(3, Written { run, version }, 60, &mut value);
        verifier.fault(&keys, &values, Asked { key: 3, floor }, Some(name.as_bytes()), &value)
    }

    #[test]
    fn what_is_older_than_what_was_answered_is_stale() {
        assert_eq!(check(7, 5, 7, "k0000003"), None);
        assert_eq!(check(8, 5, 7, "k0000003"), None);
        assert_eq!(check(6, 5, 7, "k0000003"), Some(Fault::Stale { found: Some(6), floor: 7 }));
        assert_eq!(check(9, 6, 7, "k0000003"), Some(Fault::Stale { found: None, floor: 7 }));
        assert_eq!(check(9, 6, 0, "k0000003"), None, "nothing was written in this run");
        assert_eq!(check(7, 5, 7, "k0000004"), Some(Fault::Foreign));
    }
}
