//! Who holds one partition and in which part. A pure function of the ring: every node that has it comes to the same answer.

use super::{NodeState, Ring, Term};
use crate::placement::PartitionId;
use crate::ring::Epoch;
use crate::table::{REPLICA_COUNT_MAX, SlotId};

/// A node that receives a partition and does not count yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learner {
    /// Whose place it is.
    pub slot: SlotId,
    /// The epoch that made it one: what the node held before is void.
    pub since: Epoch,
}

/// The parts of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Orders all operations.
    pub primary: SlotId,
    /// Hold everything that was acknowledged: the primary too, unless [`Self::is_gutter`].
    pub in_sync: Vec<SlotId>,
    /// Are being filled.
    pub learners: Vec<Learner>,
    /// Nobody is in sync: the primary is an heir without the data, whose items live ten seconds at most.
    pub is_gutter: bool,
}

impl Assignment {
    /// The epoch that made `slot` a learner, if it is one.
    pub fn learner_since(&self, slot: SlotId) -> Option<Epoch> {
        self.learners.iter().find(|learner| learner.slot == slot).map(|learner| learner.since)
    }

    /// Those that get what the primary writes.
    pub fn receivers(&self) -> impl Iterator<Item = SlotId> + '_ {
        let all = self.in_sync.iter().copied().chain(self.learners.iter().map(|learner| learner.slot));
        all.filter(|&slot| slot != self.primary)
    }
}

impl Ring {
    /// The parts of a partition. A few look-ups and two short lists: not for every request.
    pub fn assignment(&self, partition: PartitionId) -> Assignment {
        let owners = self.owners(partition);
        let in_sync: Vec<_> = owners.iter().copied().filter(|&slot| self.state(slot).serves()).collect();
        let mut learners: Vec<Learner> = Vec::new();
        let syncing = |&slot: &SlotId| self.state(slot) == NodeState::Syncing;
        learners.extend(owners.iter().copied().filter(syncing).map(|slot| self.learner(slot, Epoch::NONE)));
        if let Some(coming) = self.coming_owners(partition) {
            let gets_it = |&slot: &SlotId| {
                !owners.contains(&slot)
                    && (self.state(slot).serves() || self.state(slot) == NodeState::Syncing)
            };
            let began = self.movement_since();
            learners.extend(coming.iter().copied().filter(gets_it).map(|slot| self.learner(slot, began)));
        }
        let primary = self.primary(partition);
        learners.retain(|learner| learner.slot != primary);
        assert!(in_sync.len() <= REPLICA_COUNT_MAX && !in_sync.iter().any(|slot| has(&learners, *slot)));
        Assignment { primary, is_gutter: in_sync.is_empty(), in_sync, learners }
    }

    /// Tells which partitions have the parts that they had by `before`, held by the same lives of the same nodes since the same epochs. Those
    /// of which nobody is in sync are not among them. Much cheaper than comparing assignments: 16 384 answers take a millisecond.
    pub(crate) fn keeps_parts<'r>(&'r self, before: &'r Self) -> impl Fn(PartitionId) -> bool + 'r {
        let life = |ring: &Self, index: usize| {
            let slot = ring.document().slots.get(index)?;
            let since = ring.document().replication.as_ref()?.since[index];
            Some((slot.state, slot.incarnation, slot.shards, since))
        };
        let is_kept = |index| life(self, index).is_some_and(|is| Some(is) == life(before, index));
        let kept: Vec<_> = (0..self.document().slots.len()).map(is_kept).collect();
        let is_same_movement = self.movement_since() == before.movement_since();
        move |partition| {
            let (owners, gaining) = self.owners_and_gaining(partition);
            let are_kept = |slots: &[SlotId]| slots.iter().all(|slot| kept[usize::from(slot.0)]);
            (owners, gaining) == before.owners_and_gaining(partition)
                && (gaining.is_empty() || is_same_movement)
                && are_kept(owners)
                && are_kept(gaining)
                && self.primary(partition) == before.primary(partition)
                && owners.iter().any(|&slot| self.state(slot).serves())
        }
    }

    /// The owners, and those that it is to have after the movement, if they are others.
    fn owners_and_gaining(&self, partition: PartitionId) -> (&[SlotId], &[SlotId]) {
        let owners = self.owners(partition);
        let gaining = self.coming_owners(partition).filter(|coming| *coming != owners);
        (owners, gaining.unwrap_or_default())
    }

    /// The term of the versions that its primaries give.
    pub fn term(&self) -> Term {
        self.document().term
    }

    pub(super) fn state(&self, slot: SlotId) -> NodeState {
        self.slot(slot).state
    }

    /// The state of a slot holds since its own epoch, also where a movement began earlier.
    fn learner(&self, slot: SlotId, began: Epoch) -> Learner {
        let replication = self.document().replication.as_ref().expect("only format 2 has learners");
        Learner { slot, since: replication.since[usize::from(slot.0)].max(began) }
    }

    fn movement_since(&self) -> Epoch {
        let movement = self.document().replication.as_ref().and_then(|known| known.movement.as_ref());
        movement.map_or(Epoch::NONE, |movement| movement.since)
    }
}

fn has(learners: &[Learner], slot: SlotId) -> bool {
    learners.iter().any(|learner| learner.slot == slot)
}
