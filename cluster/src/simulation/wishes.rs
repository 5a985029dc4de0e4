//! An operator who wishes nodes weights, drains them and calls them down, and changes his mind, while they live, die and restart. Some
//! time after the last fault all wishes are fulfilled: nothing waits for ever.

use super::*;
use crate::migrate;
use crate::placement::PARTITION_COUNT;
use crate::report::{Report, Wish};
use crate::ring::partitions::PartitionSet;
use crate::table::SlotId;

/// By then the last calm of a node that was removed again and again is over, and who stays away has given up its place.
pub(super) const CHECKS_AT: Micros = Micros::from_millis(60_000);

/// Members that nobody wishes away.
const STAYING: usize = 2;

impl World {
    /// A world in which nodes keep account of movements, and an operator makes some.
    pub(super) fn with_wishes(seed: u64, is_loud: bool) -> Self {
        let mut dice = Dice(!seed.rotate_left(17));
        let node_count = 3 + dice.index(3);
        Self::with_faults(seed, dice, node_count, Faults::Wishes, is_loud)
    }

    pub(super) fn judgement_of_wishes(&self) -> Judgement {
        Judgement {
            up_after: Micros::from_millis(250),
            first_replicas: 1 + u8::from(self.seed.is_multiple_of(2)),
            grace: Micros::from_millis(8_000),
            turn_back_after: Micros::from_millis(3_000),
            flips_max: PARTITION_COUNT / 4,
            ..Judgement::default()
        }
    }

    /// A node says under a new ring that everything is filled: what it holds is no part of this world. One that reaches etcd and no
    /// node misses all others, and they miss it.
    pub(super) fn report(&mut self, index: usize) {
        if self.faults != Faults::Wishes {
            return;
        }
        let outsider = self.outsider;
        let Some(node) = self.nodes[index].as_mut() else { return };
        let ring = node.control.ring().expect("it was adopted");
        let (epoch, incarnation) = (ring.epoch(), Incarnation(node.life));
        let mut ready = PartitionSet::default();
        PartitionId::all().for_each(|partition| assert!(ready.insert(partition)));
        let is_missed = |entry: &crate::ring::SlotEntry| {
            let is_its_own = entry.node == node.me;
            let is_out = Some(&entry.node) == outsider.map(name).as_ref();
            (entry.state.serves() || entry.state == NodeState::Syncing)
                && !is_its_own
                && (is_out || outsider == Some(index))
        };
        let silent = (0..).zip(&ring.document().slots).filter(|(_, entry)| is_missed(entry));
        let silent = silent.map(|(slot, _)| slot).collect();
        node.control.report(&Report { incarnation, epoch, ready, silent, waits: None });
    }

    /// From here on this node reaches nobody but etcd.
    pub(super) fn isolate(&mut self, outsider: Option<usize>) {
        self.say(|| format!("reaches nobody but etcd: {outsider:?}"));
        self.outsider = outsider;
        if self.faults != Faults::Wishes {
            return;
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].as_ref().is_some_and(|node| node.control.ring().is_some()) {
                self.report(node);
                self.turn(node);
            }
        }
    }

    /// The operator wishes something for a node, or nothing any more. Some nodes are left alone by what would take them all.
    pub(super) fn wish(&mut self) {
        if self.etcd_is_down || self.now >= FAULTS_END {
            return;
        }
        let node = self.dice.index(self.nodes.len());
        let key = format!("/slabring/sim/wish/n{node}");
        let others = (0..self.nodes.len()).filter(|&other| other != node);
        let away = others.filter(|&other| self.wish_of(other).is_some_and(takes_away)).count();
        let wish = match self.dice.below(6) {
            0 => None,
            1 => Some(Wish::Weight(128)),
            _ if away + STAYING >= self.nodes.len() => Some(Wish::Weight(256)),
            2 => Some(Wish::Weight(0)),
            3 => Some(Wish::Down),
            _ => Some(Wish::Drain),
        };
        self.say(|| format!("the operator wishes {wish:?} for n{node}"));
        match wish {
            Some(wish) => self.etcd.put(&key, &serde_json::to_vec(&wish).unwrap(), 0),
            None => self.etcd.delete(&key),
        }
        self.tell_watches();
        // Often something happens to the node in the middle of it.
        if wish.is_some_and(takes_away) && self.dice.chance(400) {
            let pause = self.dice.below(200);
            self.happen_in(pause, Happens::Crash { node });
        }
    }

    fn wish_of(&self, node: usize) -> Option<Wish> {
        let entry = self.etcd.entries.get(&format!("/slabring/sim/wish/n{node}"))?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }

    /// Every wish is fulfilled, nothing moves, every partition has its copies, and every node serves every key.
    pub(super) fn check_fulfilled(&mut self) {
        let last = RingDocument::from_json(self.etcd.rings.last().expect("there is a ring")).unwrap();
        let ring = ring_of(last.clone()).unwrap();
        let members: Vec<_> = last.slots.iter().filter(|slot| slot.state != NodeState::Left).collect();
        let shown: Vec<_> = members.iter().map(|slot| (&slot.node, slot.state, slot.weight)).collect();
        for node in 0..self.nodes.len() {
            let wish = self.wish_of(node);
            let found =
                members.iter().find(|slot| slot.node == name(node)).map(|slot| (slot.state, slot.weight));
            let is_fulfilled = match (wish, found) {
                (None, Some((state, _))) => state == NodeState::Up,
                (Some(Wish::Weight(wished)), Some((state, weight))) => {
                    state == NodeState::Up && weight == wished
                }
                (Some(Wish::Weight(0) | Wish::Drain | Wish::Down), None) => true,
                _ => false,
            };
            assert!(
                is_fulfilled,
                "n{node}: {wish:?} is not fulfilled: {shown:?}, movement: {:?}",
                ring.progress()
            );
        }
        assert_eq!(ring.progress(), None, "it moves for ever: {shown:?}");
        let holders = last.slots.iter().filter(|slot| slot.state.serves() && slot.weight > 0).count();
        let copies = usize::from(last.replicas).min(holders);
        let held = |partition| ring.assignment(partition).in_sync.len();
        assert!(
            PartitionId::all().all(|partition| held(partition) == copies),
            "copies are missing: {shown:?}"
        );
        assert!(
            last.replication.is_none() || migrate::level(&ring).is_none(),
            "roles are not level: {shown:?}"
        );
        let nobody = |slot: &SlotId| ring.slot(*slot).weight == 0;
        assert!(!PartitionId::all().any(|partition| nobody(&ring.primary(partition))));
        self.check_served(last.epoch);
    }
}

fn name(node: usize) -> NodeId {
    described(node, 0).node
}

fn takes_away(wish: Wish) -> bool {
    matches!(wish, Wish::Weight(0) | Wish::Drain | Wish::Down)
}
