//! The conductor of the simulated world: it sees through heartbeats of its own that are late or wrong, and commits rings.

use super::*;
use crate::ring::Assignment;

const LOOKS_EVERY: u64 = 300;

#[derive(Default)]
pub(super) struct Office {
    /// Since when each node has been silent.
    silent: BTreeMap<usize, Micros>,
    /// The operator asks for other weights.
    pub(super) wants_change: bool,
}

pub(super) fn first_ring(shard_counts: &[u16], replicas: u8, mode: Mode) -> Arc<Ring> {
    let node = |(n, shards): (usize, &u16)| {
        let addresses = format!("peer = \"10.0.{n}.1:7000\"\nclient = \"10.0.{n}.1:11211\"\n");
        format!("[[node]]\n{addresses}shards = {shards}\nincarnation = 1\n")
    };
    let nodes: String = shard_counts.iter().enumerate().map(node).collect();
    let mut document = RingDocument::from_toml(&format!("replicas = {replicas}\n{nodes}")).unwrap();
    document.mode = mode;
    let ring = ring_of(document).unwrap();
    Arc::new(ring_of(migrate::upgrade(&ring).unwrap()).unwrap())
}

impl World {
    pub(super) fn conduct(&mut self) {
        let pause = LOOKS_EVERY / 2 + self.dice.below(LOOKS_EVERY);
        self.happen_in(pause, Happens::Conductor);
        let ring = Arc::clone(self.rings.last().unwrap());
        let Some(next) = self.decide(&ring) else { return };
        next.may_follow(ring.document()).unwrap();
        let next = Arc::new(ring_of(next).unwrap());
        self.say(|| describe(&next));
        self.rings.push(Arc::clone(&next));
        self.note_losses();
        for node in 0..self.nodes.len() {
            // Late, seldom very late; the cut off hear of it from others.
            let lag = if self.dice.chance(100) { 3_000 } else { 60 };
            self.has_failed |= lag > 1_000;
            let is_cut_off = self.nodes[node].as_ref().is_some_and(|node| node.is_cut_off);
            let delay = self.dice.below(lag) + if is_cut_off { 1_000 } else { 0 };
            let life = self.lives[node];
            self.happen_in(delay, Happens::Learns { node, life, ring: Arc::clone(&next) });
        }
    }

    fn decide(&mut self, ring: &Ring) -> Option<RingDocument> {
        self.look();
        let is_gone = |node: &usize| {
            let since = self.conductor.silent.get(node);
            since.is_some_and(|&since| self.now.since(since) > Micros::from_millis(700))
        };
        let gone = (0..self.nodes.len())
            .find(|node| is_gone(node) && ring.slot(slot(*node)).state != NodeState::Down);
        let removed = gone.and_then(|node| migrate::remove(ring, slot(node)));
        if removed.is_some() {
            return removed;
        }
        let back = (0..self.nodes.len()).find(|&node| self.wants_back(ring, node));
        if let Some(node) = back {
            return migrate::bring_back(ring, slot(node), Incarnation(self.lives[node]));
        }
        let slots = 0..self.nodes.len();
        let admitted = slots.map(slot).find_map(|learner| {
            migrate::admit(ring, learner, |partition| self.is_ready(ring, partition, learner))
        });
        admitted.or_else(|| self.move_weights(ring))
    }

    /// Most of the time the truth.
    fn look(&mut self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let links = self.links.iter().filter(|((from, _), link)| *from == index && link.is_cut).count();
            let is_there =
                node.as_ref().is_some_and(|node| node.paused_until <= self.now && !node.is_cut_off);
            if is_there && links + 1 < self.nodes.len() {
                self.conductor.silent.remove(&index);
            } else {
                self.conductor.silent.entry(index).or_insert(self.now);
            }
        }
    }

    fn wants_back(&self, ring: &Ring, node: usize) -> bool {
        let entry = ring.slot(slot(node));
        let is_new = entry.incarnation != Incarnation(self.lives[node]);
        let is_there = self.nodes[node].is_some() && !self.conductor.silent.contains_key(&node);
        is_there && (entry.state == NodeState::Down || is_new)
    }

    /// On the word of the primary's shards, under this very ring.
    fn is_ready(&self, ring: &Ring, partition: PartitionId, learner: SlotId) -> bool {
        if partition.index() >= usize::from(SCOPE) {
            return true;
        }
        let Some(node) = &self.nodes[usize::from(ring.primary(partition).0)] else { return false };
        node.shards.iter().all(|shard| {
            let follows = shard.replicator.ring().is_some_and(|known| known.epoch() == ring.epoch());
            follows && shard.replicator.ready(learner).any(|ready| ready == partition)
        })
    }

    fn move_weights(&mut self, ring: &Ring) -> Option<RingDocument> {
        let replication = ring.document().replication.as_ref()?;
        if replication.movement.is_none() {
            if !std::mem::take(&mut self.conductor.wants_change) {
                return None;
            }
            let mut weights: Vec<_> = ring.document().slots.iter().map(|slot| slot.weight).collect();
            let node = self.dice.index(weights.len());
            weights[node] = if weights[node] == 0 { 256 } else { 0 };
            return migrate::begin(ring, weights);
        }
        // What no key is in need not come in batches: those would be 64 rings.
        let mut next = migrate::flip(ring, |partition, learner| self.is_ready(ring, partition, learner))
            .or_else(|| migrate::finish(ring))?;
        if let Some(movement) = next.replication.as_mut().and_then(|known| known.movement.as_mut()) {
            PartitionId::all().skip(usize::from(SCOPE)).for_each(|partition| {
                movement.flipped.insert(partition);
            });
        }
        Some(next)
    }
}

/// A ring in one line for each partition that has keys.
fn describe(ring: &Ring) -> String {
    let document = ring.document();
    let states: Vec<_> = document.slots.iter().map(|slot| (slot.state, slot.weight)).collect();
    let is_moving = document.replication.as_ref().is_some_and(|known| known.movement.is_some());
    let parts = (0..SCOPE).map(|n| {
        let Assignment { primary, in_sync, learners, is_gutter } = ring.assignment(PartitionId::new(n));
        let number = |slot: &SlotId| slot.0;
        let in_sync: Vec<_> = in_sync.iter().map(number).collect();
        let learners: Vec<_> = learners.iter().map(|learner| learner.slot.0).collect();
        format!(
            "\n    {n}: primary {}, in sync {in_sync:?}, learners {learners:?}, gutter {is_gutter}",
            primary.0
        )
    });
    format!("{:?}: {states:?}, moving: {is_moving}{}", ring.epoch(), parts.collect::<String>())
}
