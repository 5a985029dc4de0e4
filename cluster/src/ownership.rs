//! Which partitions a node has owned, so that it knows what it may still hold of them: what others have owned meanwhile is old. For
//! rings of one copy; copies have streams. Never looks at items.

use crate::placement::PartitionId;
use crate::ring::partitions::PartitionSet;
use crate::ring::{Epoch, Ring};
use crate::table::SlotId;

/// See the module.
#[derive(Debug)]
pub struct Ownership {
    epoch: Epoch,
    owned: PartitionSet,
    /// Others own them, or have, since this node did.
    lost: PartitionSet,
    /// Rings that were not seen may have given everything to others.
    distrusts_gaps: bool,
}

impl Ownership {
    /// Of a node whose rings are changed by hand: it holds nothing, or what nobody else has owned.
    pub fn by_hand() -> Self {
        Self {
            epoch: Epoch::NONE,
            owned: PartitionSet::default(),
            lost: PartitionSet::default(),
            distrusts_gaps: false,
        }
    }

    /// Of a node that is taken out of the ring when it is away: what it holds of an earlier life is old, and so is what it holds
    /// when it has missed a ring.
    pub fn automatic() -> Self {
        let mut node = Self { distrusts_gaps: true, ..Self::by_hand() };
        for partition in PartitionId::all() {
            node.lost.insert(partition);
        }
        node
    }

    /// What the node owns now.
    pub fn owned(&self) -> &PartitionSet {
        &self.owned
    }

    /// The node follows another ring, in which it has a slot or none. Gives the partitions that it owns again after others have:
    /// what it holds of them must go before it serves. O(partitions).
    pub fn follow(&mut self, ring: &Ring, me: Option<SlotId>) -> PartitionSet {
        let has_gap = self.distrusts_gaps && self.epoch.next() != Some(ring.epoch());
        self.epoch = ring.epoch();
        let mut regained = PartitionSet::default();
        for partition in PartitionId::all() {
            let was_ours = self.owned.contains(partition);
            if Some(ring.primary(partition)) != me {
                self.owned.remove(partition);
                if was_ours {
                    self.lost.insert(partition);
                }
            } else if self.lost.remove(partition) | (was_ours && has_gap) {
                regained.insert(partition);
                self.owned.insert(partition);
            } else {
                self.owned.insert(partition);
            }
        }
        regained
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::PARTITION_COUNT;
    use crate::ring::RingDocument;

    fn ring(epoch: u64, weights: [u16; 2]) -> Ring {
        let node = |n: usize| {
            format!("[[node]]\npeer = \"n{n}:7\"\nclient = \"n{n}:11211\"\nweight = {}\n", weights[n])
        };
        let text = format!("epoch = {epoch}\n{}{}", node(0), node(1));
        Ring::new(RingDocument::from_toml(&text).unwrap()).unwrap()
    }

    const ME: Option<SlotId> = Some(SlotId(0));

    #[test]
    fn what_comes_back_is_old_and_what_stayed_or_is_new_is_not() {
        let mut ownership = Ownership::by_hand();
        assert!(ownership.follow(&ring(1, [256, 256]), ME).is_empty());
        let half = ownership.owned.len();
        assert!(half > PARTITION_COUNT / 3 && half < PARTITION_COUNT * 2 / 3);
        assert!(ownership.follow(&ring(2, [256, 0]), ME).is_empty(), "the other half was never ours");
        assert!(ownership.follow(&ring(3, [256, 256]), ME).is_empty());
        assert_eq!(ownership.follow(&ring(4, [256, 0]), ME).len(), PARTITION_COUNT - half);
        assert!(ownership.follow(&ring(5, [0, 256]), ME).is_empty());
        assert_eq!(ownership.follow(&ring(9, [256, 256]), ME).len(), half);
        assert!(ownership.follow(&ring(12, [256, 256]), ME).is_empty(), "nobody skips a ring by accident");
        assert!(ownership.follow(&ring(13, [256, 256]), None).is_empty());
        assert_eq!(ownership.follow(&ring(14, [256, 256]), ME).len(), half);
    }

    #[test]
    fn who_is_taken_out_while_away_trusts_neither_an_earlier_life_nor_a_gap() {
        let mut ownership = Ownership::automatic();
        let half = ownership.follow(&ring(7, [256, 256]), ME).len();
        assert_eq!(half, ownership.owned.len());
        assert!(ownership.follow(&ring(8, [256, 256]), ME).is_empty());
        assert_eq!(ownership.follow(&ring(10, [256, 256]), ME).len(), half);
    }
}
