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
/// version is given twice; a node that starts anew gets a new term before it is primary of anything, or
/// [begins](Self::beginning_at) elsewhere in the term.
#[derive(Clone, Debug, Default)]
pub struct VersionClock {
    term: Term,
    counter: u64,
}

impl VersionClock {
    /// A clock for who may have given versions of the same term in an earlier life, as under a list that nobody changes: the first term
    /// begins behind `number`, cut to half of a term. The microsecond of the start is a good one: it rises from life to life, but for
    /// once in six days, faster than a shard writes.
    pub fn beginning_at(number: u64) -> Self {
        Self { term: Term::default(), counter: number & (COUNTER_MAX / 2) }
    }

    /// Goes on in a later term; the same changes nothing.
    pub fn enter(&mut self, term: Term) {
        assert!(term >= self.term && term <= Term::MAX, "a ring's term never falls");
        if term > self.term {
            let is_first = self.term == Term::default();
            *self = Self { term, counter: if is_first { self.counter } else { 0 } };
        }
    }

    /// The next version; `None` after 2^40 of one term: twelve days of a million writes a second.
    pub fn next_version(&mut self) -> Option<Version> {
        let has_more = self.counter < COUNTER_MAX;
        self.counter += u64::from(has_more);
        has_more.then_some(Version(u64::from(self.term.0) << COUNTER_BITS | self.counter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_life_begins_behind_the_earlier_ones_versions_of_the_same_term() {
        let lives = [1_763_796_000_000_000, 1_763_796_000_200_000].map(|start| {
            let mut clock = VersionClock::beginning_at(start);
            clock.enter(Term(1));
            let first = clock.next_version().unwrap();
            clock.enter(Term(2));
            assert_eq!(clock.next_version(), Some(Version(2 << COUNTER_BITS | 1)));
            first
        });
        assert!(lives[1].0 - lives[0].0 == 200_000 && lives.iter().all(|first| first.term() == Term(1)));
        assert!(VersionClock::beginning_at(u64::MAX).counter <= COUNTER_MAX / 2);
    }

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
        assert_eq!(clock.next_version(), Some(Version(u64::MAX)));
        assert_eq!(clock.next_version(), None);
    }
}
