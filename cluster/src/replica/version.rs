//! Versions of items: the CAS token of a replicated item, and the fence of a lock that it is. Never a time.

use crate::ring::Term;

const COUNTER_BITS: u32 = 40;
const COUNTER_MAX: u64 = (1 << COUNTER_BITS) - 1;
const _: () = assert!(Term::MAX.0.leading_zeros() + COUNTER_BITS >= u32::BITS);

/// `term(24) | counter(40)`: rises with every write of a key, whoever is its primary. Above 2^53 from term 8192 on, so a
/// client must not keep it in a float.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

impl Version {
    /// The term of the primary that gave it.
    pub fn term(self) -> Term {
        Term(u32::try_from(self.0 >> COUNTER_BITS).expect("24 bits fit"))
    }
}

/// Gives the versions of one shard. A term has one primary for each key, and a node has one clock for each shard, so no
/// version is given twice; a node that starts anew gets a new term before it is primary of anything.
#[derive(Clone, Debug, Default)]
pub struct VersionClock {
    term: Term,
    counter: u64,
}

impl VersionClock {
    /// Goes on in a later term; the same changes nothing.
    pub fn enter(&mut self, term: Term) {
        assert!(term >= self.term && term <= Term::MAX, "a ring's term never falls");
        if term > self.term {
            *self = Self { term, counter: 0 };
        }
    }

    /// The next version; `None` after 2^40 of one term: twelve days of a million writes a second.
    pub fn next_version(&mut self) -> Option<Version> {
        let has_more = self.counter < COUNTER_MAX;
        self.counter += u64::from(has_more);
        has_more.then_some(Version(u64::from(self.term.0) << COUNTER_BITS | self.counter))
    }

    /// Whether half of the term's versions are used: time to ask for the next term.
    pub fn is_worn(&self) -> bool {
        self.counter > COUNTER_MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rise_within_a_term_and_from_term_to_term() {
        let mut clock = VersionClock::default();
        clock.enter(Term(3));
        let first = clock.next_version().unwrap();
        let second = clock.next_version().unwrap();
        clock.enter(Term(4));
        let third = clock.next_version().unwrap();
        assert!(first < second && second < third);
        assert_eq!((first.term(), third), (Term(3), Version(4 << 40 | 1)));
    }

    #[test]
    fn a_term_ends_before_its_versions_become_another_terms() {
        let mut clock = VersionClock { term: Term::MAX, counter: COUNTER_MAX - 1 };
        assert!(clock.is_worn());
        assert_eq!(clock.next_version(), Some(Version(u64::MAX)));
        assert_eq!(clock.next_version(), None);
    }
}
