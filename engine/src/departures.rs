//! The keys that one size class evicted last, by fingerprint. Tells whether a page or two more would have kept
//! them; knows no items.

/// Fingerprints that are searched together, one cache line.
const WAYS: usize = 16;
/// Evictions remembered, in chunks of a page.
const PAGES: usize = 2;
const EMPTY: u32 = 0;

/// The last evictions of a class, about two pages' worth: exact within a set of sixteen, which are chosen by hash.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    fingerprints: Box<[u32]>,
    /// Fingerprints of a set, fewer for classes of few chunks to a page.
    ways: usize,
}

impl Departures {
    /// Bytes for a class of so many chunks to a page.
    pub(crate) fn bytes_of(chunks_per_page: usize) -> usize {
        let wanted = PAGES * chunks_per_page;
        wanted.next_multiple_of(wanted.min(WAYS)) * size_of::<u32>()
    }

    /// Remembers nothing yet, and allocates all it will ever need.
    pub(crate) fn new(chunks_per_page: usize) -> Departures {
        assert!(chunks_per_page > 0);
        let ways = (PAGES * chunks_per_page).min(WAYS);
        let count = Departures::bytes_of(chunks_per_page) / size_of::<u32>();
        Departures { fingerprints: vec![EMPTY; count].into_boxed_slice(), ways }
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.fingerprints.len() * size_of::<u32>()
    }

    /// Remembers an eviction in place of the oldest one of its set.
    pub(crate) fn insert(&mut self, hash: u64) {
        if let Some(set) = self.set_of(hash) {
            let set = &mut self.fingerprints[set];
            let last = set.len() - 1;
            set.copy_within(..last, 1);
            set[0] = fingerprint(hash);
        }
    }

    /// Whether the class evicted a key lately. O(1), one cache line.
    pub(crate) fn contains(&self, hash: u64) -> bool {
        self.set_of(hash).is_some_and(|set| self.fingerprints[set].contains(&fingerprint(hash)))
    }

    fn set_of(&self, hash: u64) -> Option<std::ops::Range<usize>> {
        let sets = self.fingerprints.len().checked_div(self.ways)?;
        let at = (u128::from(mix(hash)) * sets as u128) >> u64::BITS;
        let start = usize::try_from(at).expect("below the number of sets") * self.ways;
        Some(start..start + self.ways)
    }
}

fn fingerprint(hash: u64) -> u32 {
    u32::try_from(mix(hash) & u64::from(u32::MAX)).expect("32 bits").max(EMPTY + 1)
}

fn mix(hash: u64) -> u64 {
    let mixed = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn about_two_pages_of_evictions_are_remembered() {
        for chunks_per_page in [1, 8, 100, 1365] {
            let mut random = SmallRng::seed_from_u64(chunks_per_page as u64);
            let mut departures = Departures::new(chunks_per_page);
            assert_eq!(departures.bytes(), Departures::bytes_of(chunks_per_page));
            let (mut known, mut forgotten, mut asked) = (0, 0, 0);
            let mut order = VecDeque::new();
            for _ in 0..20 * chunks_per_page {
                let hash = random.next_u64();
                departures.insert(hash);
                order.push_front(hash);
                if order.len() > 4 * chunks_per_page {
                    asked += 1;
                    known += usize::from(departures.contains(order[chunks_per_page / 2]));
                    forgotten += usize::from(!departures.contains(order[4 * chunks_per_page]));
                }
            }
            assert!(
                known * 100 >= asked * 98 && forgotten * 100 >= asked * 95,
                "{known} {forgotten} {asked}"
            );
        }
    }

    #[test]
    fn a_class_that_evicted_nothing_remembers_nothing_and_takes_no_memory() {
        let departures = Departures::default();
        assert!(!departures.contains(7) && departures.bytes() == 0);
    }
}
