//! What this node is primary of: found by a partition's number, since every request asks. Never decides about it.

use std::ops::{Index, Range};

use super::replicator::Tenure;
use crate::placement::PartitionId;

/// A place for each partition of a scope: 64 bytes, a mebibyte for all.
#[derive(Debug)]
pub(super) struct Tenures {
    first: usize,
    places: Box<[Option<Tenure>]>,
    count: usize,
}

const _: () = assert!(size_of::<Option<Tenure>>() <= 64);

impl Tenures {
    /// None of these partitions.
    pub(super) fn new(scope: &Range<u16>) -> Self {
        let (first, last) = (usize::from(scope.start), usize::from(scope.end));
        Self { first, places: (first..last).map(|_| None).collect(), count: 0 }
    }

    fn place(&self, partition: PartitionId) -> Option<usize> {
        partition.index().checked_sub(self.first)
    }

    #[inline]
    pub(super) fn get(&self, partition: PartitionId) -> Option<&Tenure> {
        self.places.get(self.place(partition)?)?.as_ref()
    }

    pub(super) fn contains(&self, partition: PartitionId) -> bool {
        self.get(partition).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, partition: PartitionId, tenure: Tenure) {
        let place = self.place(partition).expect("it is in the scope");
        self.count += usize::from(self.places[place].replace(tenure).is_none());
    }

    pub(super) fn remove(&mut self, partition: PartitionId) {
        let place = self.place(partition).and_then(|place| self.places.get_mut(place));
        self.count -= usize::from(place.and_then(Option::take).is_some());
    }

    /// All there are, in the order of their numbers. O(scope).
    pub(super) fn iter(&self) -> impl Iterator<Item = (PartitionId, &Tenure)> {
        let numbered = (self.first..).zip(&self.places);
        numbered.filter_map(|(index, tenure)| {
            let index = u16::try_from(index).expect("a scope is one of 16-bit numbers");
            Some((PartitionId::new(index), tenure.as_ref()?))
        })
    }
}

impl Index<PartitionId> for Tenures {
    type Output = Tenure;

    #[inline]
    fn index(&self, partition: PartitionId) -> &Tenure {
        self.get(partition).expect("whoever asks has seen that there is one")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::ring::Epoch;

    #[test]
    fn a_tenure_is_where_its_partition_was_put_and_nowhere_else() {
        let mut random = SmallRng::seed_from_u64(1);
        let (mut tenures, mut twin) = (Tenures::new(&(10..30)), BTreeSet::new());
        for _ in 0..2_000 {
            let partition = PartitionId::new(random.random_range(0..40));
            if random.random_bool(0.5) {
                tenures.remove(partition);
                twin.remove(&partition);
            } else if (10..30).contains(&partition.index()) {
                tenures.insert(partition, Tenure::of_nobody(Epoch(1)));
                twin.insert(partition);
            }
            assert_eq!((tenures.contains(partition), tenures.len()), (twin.contains(&partition), twin.len()));
            assert!(tenures.iter().map(|(partition, _)| partition).eq(twin.iter().copied()));
        }
    }
}
