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
