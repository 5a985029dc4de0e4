//! How each partition stands at the other end of a stream. Never says anything there.

use std::collections::BTreeMap;

use crate::placement::PartitionId;
use crate::ring::Epoch;
use crate::ring::partitions::PartitionSet;

/// How a partition stands at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It will be filled after what is being filled now.
    Waits,
    /// It is being filled, and gets what is written.
    Fills,
    /// It was filled: writes wait for it from now on. The end of it has this number.
    Joined(u64),
    /// It holds everything.
    InSync,
    /// It may lack something, and will be filled anew after what is being filled now. Writes wait for it.
    Lacks,
    /// It held everything until the stream broke, or lacked something. Writes wait for it.
    Refills,
}

impl Standing {
    /// Whether what is written goes into the stream.
    fn gets(self) -> bool {
        self != Self::Waits
    }

    /// Whether writes and reads wait for the other end.
    fn counts(self) -> bool {
        matches!(self, Self::Joined(_) | Self::InSync | Self::Lacks | Self::Refills)
    }
}

/// See the module. What every write asks is a bit; the rest is looked for.
#[derive(Debug, Default)]
pub(super) struct Standings {
    known: BTreeMap<PartitionId, (Standing, Epoch)>,
    getting: PartitionSet,
    counting: PartitionSet,
}

impl Standings {
    /// Whether what is written in a partition goes into the stream. O(1).
    #[inline]
    pub(super) fn gets(&self, partition: PartitionId) -> bool {
        self.getting.contains(partition)
    }

    /// Whether writes and reads of a partition wait for the other end. O(1).
    #[inline]
    pub(super) fn counts(&self, partition: PartitionId) -> bool {
        self.counting.contains(partition)
    }

    pub(super) fn get(&self, partition: PartitionId) -> Option<(Standing, Epoch)> {
        self.known.get(&partition).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PartitionId, Standing)> {
        self.known.iter().map(|(&partition, &(standing, _))| (partition, standing))
    }

    pub(super) fn set(&mut self, partition: PartitionId, standing: Standing, since: Epoch) {
        self.known.insert(partition, (standing, since));
        self.note(partition, Some(standing));
    }

    /// False: there was none.
    pub(super) fn remove(&mut self, partition: PartitionId) -> bool {
        self.note(partition, None);
        self.known.remove(&partition).is_some()
    }

    /// Gives each partition another standing, since when it had the one before.
    pub(super) fn change_all(&mut self, change: impl Fn(Standing) -> Standing) {
        let mut known = std::mem::take(&mut self.known);
        for (&partition, (standing, _)) in &mut known {
            *standing = change(*standing);
            self.note(partition, Some(*standing));
        }
        self.known = known;
    }

    fn note(&mut self, partition: PartitionId, standing: Option<Standing>) {
        let put = |set: &mut PartitionSet, is_in| {
            if is_in { set.insert(partition) } else { set.remove(partition) }
        };
        put(&mut self.getting, standing.is_some_and(Standing::gets));
        put(&mut self.counting, standing.is_some_and(Standing::counts));
    }

    pub(super) fn check_invariants(&self) {
        for (partition, standing) in self.iter() {
            let bits = (self.gets(partition), self.counts(partition));
            assert_eq!(bits, (standing.gets(), standing.counts()), "{partition:?} is {standing:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn what_is_asked_for_each_write_follows_every_change() {
        use Standing::{Fills, InSync, Joined, Lacks, Refills, Waits};
        let (all, mut random) =
            ([Waits, Fills, Joined(7), InSync, Lacks, Refills], SmallRng::seed_from_u64(1));
        let (mut standings, mut twin) = (Standings::default(), BTreeMap::new());
        for _ in 0..2_000 {
            let partition = PartitionId::new(random.random_range(0..20));
            let standing = all[random.random_range(0..all.len())];
            match random.random_range(0..10) {
                0 => {
                    standings.change_all(|known| if known == standing { InSync } else { known });
                    twin.values_mut().filter(|known| **known == standing).for_each(|known| *known = InSync);
                }
                1..5 => assert_eq!(standings.remove(partition), twin.remove(&partition).is_some()),
                _ => {
                    standings.set(partition, standing, Epoch(1));
                    twin.insert(partition, standing);
                }
            }
            assert!(standings.iter().eq(twin.iter().map(|(&partition, &standing)| (partition, standing))));
            let with = |is: fn(Standing) -> bool| twin.iter().filter(move |(_, standing)| is(**standing));
            assert!(standings.getting.iter().eq(with(Standing::gets).map(|(&partition, _)| partition)));
            assert!(standings.counting.iter().eq(with(Standing::counts).map(|(&partition, _)| partition)));
            standings.check_invariants();
        }
    }
}
