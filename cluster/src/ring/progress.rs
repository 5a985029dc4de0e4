//! How far a movement has come. A look at every partition: for people who wait, never for a request.

use std::collections::BTreeSet;

use super::Ring;
use crate::placement::PartitionId;
use crate::table::SlotId;

/// Of the partitions that get other owners, how many have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Partitions that get an owner which they did not have, or lose one.
    pub moving: usize,
    /// Those of them whose new owners serve.
    pub moved: usize,
    /// Copies that are made: one for each new owner of a partition.
    pub copies: usize,
}

impl Ring {
    /// What the movement that is under way moves; `None`: nothing moves.
    pub fn progress(&self) -> Option<Progress> {
        let coming = self.coming.as_ref()?;
        let mut progress = Progress { moving: 0, moved: 0, copies: 0 };
        for partition in PartitionId::all() {
            let (before, after) = (self.table.owners(partition), coming.owners(partition));
            let gained = after.iter().filter(|slot| !before.contains(slot)).count();
            if gained > 0 || before.len() != after.len() {
                progress.moving += 1;
                progress.moved += usize::from(self.is_flipped(partition));
            }
            progress.copies += gained;
        }
        Some(progress)
    }

    /// The members that partitions wait for which have not moved yet: fewer would hold them without.
    pub fn awaited(&self) -> BTreeSet<SlotId> {
        let may_wait = self.coming.is_some() && self.heirs.is_some();
        let all = PartitionId::all().filter(|_| may_wait);
        all.flat_map(|partition| self.awaited_for(partition)).collect()
    }

    /// Those that one partition waits for.
    pub(crate) fn awaited_for(&self, partition: PartitionId) -> impl Iterator<Item = SlotId> + '_ {
        let serves = |slot: &&SlotId| self.state(**slot).serves();
        let (before, after) = (self.owners(partition), self.coming_owners(partition).unwrap_or_default());
        let loses = after.iter().filter(serves).count() < before.iter().filter(serves).count();
        after.iter().filter(move |slot| loses && !serves(slot)).copied()
    }
}

#[cfg(test)]
mod tests {
    use crate::migrate;
    use crate::placement::PARTITION_COUNT;
    use crate::ring::{Ring, RingDocument};

    #[test]
    fn a_movement_is_counted_from_nothing_to_all_and_then_there_is_none() {
        let nodes: String =
            (1..=4).map(|n| format!("[[node]]\npeer = \"n{n}:7\"\nclient = \"n{n}:11211\"\n")).collect();
        let document = RingDocument::from_toml(&format!("replicas = 2\n{nodes}")).unwrap();
        let mut ring = Ring::new(migrate::upgrade(&Ring::new(document).unwrap()).unwrap()).unwrap();
        assert_eq!(ring.progress(), None);
        ring = Ring::new(migrate::begin(&ring, vec![256, 256, 256, 0]).unwrap()).unwrap();
        let begun = ring.progress().unwrap();
        assert_eq!(begun.moved, 0);
        // Half of the partitions have one of their two copies on one of four nodes.
        assert!(begun.moving.abs_diff(PARTITION_COUNT / 2) < PARTITION_COUNT / 20, "{begun:?}");
        let mut moved = 0;
        while let Some(next) = migrate::flip(&ring, |_| true, |_| false) {
            ring = Ring::new(next).unwrap();
            let now = ring.progress().unwrap();
            assert!(now.moved > moved && now.moved <= moved + migrate::FLIPS_MAX, "{now:?}");
            assert_eq!((now.moving, now.copies), (begun.moving, begun.copies));
            moved = now.moved;
        }
        assert_eq!(moved, begun.moving);
        ring = Ring::new(migrate::finish(&ring).unwrap()).unwrap();
        assert_eq!(ring.progress(), None);
    }
}
