//! Which links a shard keeps up: one for each shard of each node of the ring as far as they go, and no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Entry, LinkId, Peers, Target, name, place_of};
use crate::jump::mix;
use crate::link::{Expected, Link};
use crate::replica::Portion;
use crate::ring::{NodeState, SlotEntry};
use crate::table::SlotId;
use crate::time::Micros;

impl<P: Copy> Peers<P> {
    /// Dials what the ring asks for and lets go of the rest.
    pub(super) fn redial(&mut self, now: Micros) {
        let slots = &self.ring.as_ref().expect("a ring was adopted").document().slots;
        let shards = |entry: &SlotEntry| self.told_shards.get(&entry.node).copied().unwrap_or(entry.shards);
        self.shards = slots.iter().map(shards).collect();
        let targets = self.targets();
        let stays = |target: &Target| targets.get(&(target.slot, target.lane)) == Some(target);
        let others = self.dialled_targets().filter(|(_, target)| !stays(target));
        let others: Vec<_> = others.map(|(id, target)| (id, (target.slot, target.lane))).collect();
        for (id, key) in others {
            self.dialled.remove(&key);
            self.leave(id.index);
        }
        for (key, target) in targets {
            if !self.dialled.contains_key(&key) {
                let id = self.dial(now, target);
                self.dialled.insert(key, id);
            }
        }
    }

    /// A node that has dialled this shard is there: its links need not rest on.
    pub(super) fn dial_back(&mut self, now: Micros, id: LinkId) {
        let Some(node) = self.link(id).and_then(Link::peer).map(|peer| peer.node.clone()) else { return };
        let of_node: Vec<LinkId> = self
            .dialled_targets()
            .filter(|(_, target)| target.expected.node == node)
            .map(|(id, _)| id)
            .collect();
        for id in of_node {
            self.link_mut(id).expect("it is one of them").rest_no_longer(now);
        }
    }

    /// A node says how many shards it has. The ring may not know: a list of addresses does not.
    pub(super) fn learn_shards(&mut self, now: Micros, id: LinkId) {
        let entry = self.places[place_of(id.index)].entry.as_ref().expect("it has just spoken");
        let (Some(target), Some(peer)) = (&entry.target, entry.link.peer()) else { return };
        let (slot, shards) = (usize::from(target.slot.0), peer.shards);
        if self.shards[slot] != shards {
            self.told_shards.insert(peer.node.clone(), shards);
            self.redial(now);
        }
    }

    /// The links that the ring asks for.
    fn targets(&self) -> BTreeMap<(SlotId, u8), Target> {
        let ring = self.ring.as_ref().expect("a ring was adopted");
        let mut targets = BTreeMap::new();
        for (slot, entry) in (0..).map(SlotId).zip(&ring.document().slots) {
            let is_member = !matches!(entry.state, NodeState::Left | NodeState::Down);
            if Some(slot) == self.me || entry.node == self.identity.node || !is_member {
                continue;
            }
            for lane in 0..self.lanes(slot) {
                targets.insert((slot, lane), self.target(slot, entry, lane));
            }
            self.add_replica_targets(slot, entry, &mut targets);
        }
        targets
    }

    /// With copies there is a link to every shard that has keys of this one, however many shards there are.
    fn add_replica_targets(
        &self,
        slot: SlotId,
        entry: &SlotEntry,
        targets: &mut BTreeMap<(SlotId, u8), Target>,
    ) {
        let ring = self.ring.as_ref().expect("a ring was adopted");
        let shards = self.shards[usize::from(slot.0)];
        if ring.document().replicas < 2 || u16::from(self.lanes(slot)) == shards {
            return;
        }
        let mine = Portion::of_shard(u16::from(self.identity.shard), self.identity.shards);
        let has_link = |shard: u16| {
            targets.range((slot, 0)..=(slot, u8::MAX)).any(|(_, target)| u16::from(target.shard) == shard)
        };
        let meets = |&shard: &u16| Portion::of_shard(shard, shards).meets(mine) && !has_link(shard);
        let wanted: Vec<_> = (0..shards).filter(meets).filter_map(|shard| u8::try_from(shard).ok()).collect();
        for (lane, shard) in (self.lanes(slot)..=u8::MAX).zip(wanted) {
            let target = Target { lane, shard, ..self.target(slot, entry, lane) };
            targets.insert((slot, lane), target);
        }
    }

    /// Links from this shard to a node.
    pub(super) fn lanes(&self, slot: SlotId) -> u8 {
        let shards = self.shards[usize::from(slot.0)];
        u8::try_from(shards).map_or(self.links_per_peer, |shards| shards.min(self.links_per_peer))
    }

    fn target(&self, slot: SlotId, entry: &SlotEntry, lane: u8) -> Target {
        // Fewer links than shards: the links of different shards here end at different shards there.
        let shards = self.shards[usize::from(slot.0)];
        let spread = if u16::from(self.lanes(slot)) < shards { u16::from(self.identity.shard) } else { 0 };
        let shard = (u16::from(lane) + spread) % shards;
        Target {
            slot,
            lane,
            address: entry.peer.clone(),
            shard: u8::try_from(shard).expect("below SHARD_COUNT_MAX"),
            expected: Expected { node: entry.node.clone(), incarnation: entry.incarnation },
        }
    }

    fn dialled_targets(&self) -> impl Iterator<Item = (LinkId, &Target)> {
        let target = |(index, place)| {
            let id = name(index, place);
            let entry = place.entry.as_ref().filter(|entry| !entry.leaving)?;
            Some((id, entry.target.as_ref()?))
        };
        self.places.iter().enumerate().filter_map(target)
    }

    fn dial(&mut self, now: Micros, target: Target) -> LinkId {
        self.jitter = mix(self.jitter.wrapping_add(1));
        let identity = Arc::clone(&self.identity);
        let link = Link::dialler(identity, target.expected.clone(), self.epoch(), now, self.jitter);
        self.place(Entry::new(link, Some(target)))
    }
}
