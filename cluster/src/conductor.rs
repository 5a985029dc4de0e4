//! The conductor's judgement: which ring follows from who is there. One node at a time holds the office; it decides
//! on what it sees and knows no other way to act than to propose the next document. Never writes it.
//!
//! A ring of one copy without wishes of the operator stays in format 1, and what moves in it is a miss; any other goes on in format
//! 2, step by step: `replicated.rs`.
//!
//! Slow to remove, slower to remove again, and never below half: a conductor that sees badly does little harm.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::{NodeDescription, View};
use crate::migrate;
use crate::names::{ClusterId, NodeId};
use crate::ring::document::{FORMAT, FORMAT_REPLICATED};
use crate::ring::{Epoch, Mode, NodeState, Replication, Ring, RingDocument, SlotEntry, Term};
use crate::table::SLOT_COUNT_MAX;
use crate::time::Micros;

mod replicated;

/// The first ring waits for who is just coming, until one has been there for so many times what a node needs to be counted.
const FIRST_RING_WAITS: u64 = 3;

/// How a conductor judges.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// A node that was not seen for this long is down. The lease has run out before.
    pub down_after: Micros,
    /// A node that was seen for this long may serve.
    pub up_after: Micros,
    /// Time from one removal to the next, unless who was removed serves again before.
    pub removal_pause: Micros,
    /// The first ring is made when this many nodes are there.
    pub first_nodes: usize,
    /// Copies in the first ring.
    pub first_replicas: u8,
    /// What its writes wait for; unless given, [`Mode::default_for`] so many copies.
    pub first_mode: Option<Mode>,
    /// A member that was removed again and again returns after a longer and longer calm; after this much of it nothing is held
    /// against it any more.
    pub forgets_after: Micros,
    /// A member with copies that is down for longer gives up its place.
    pub grace: Micros,
    /// Roles are levelled in a ring that did not change for this long.
    pub level_after: Micros,
}

impl Default for Judgement {
    fn default() -> Self {
        Self {
            down_after: Micros::from_millis(1_500),
            up_after: Micros::from_millis(1_000),
            removal_pause: Micros::from_millis(30_000),
            first_nodes: 1,
            first_replicas: 1,
            first_mode: None,
            forgets_after: Micros::from_millis(600_000),
            grace: Micros::from_millis(600_000),
            level_after: Micros::from_millis(5_000),
        }
    }
}

/// What one node remembers of what it saw, for the time when it is conductor.
#[derive(Debug)]
pub struct Conductor {
    judgement: Judgement,
    cluster: ClusterId,
    /// Since when each registered node has been there in its present life.
    present: BTreeMap<NodeId, (NodeDescription, Micros)>,
    /// Since when each member has been missing.
    absent: BTreeMap<NodeId, Micros>,
    /// Who was removed last because it did not answer.
    removed: Option<(NodeId, Micros)>,
    /// How often, and when last, members were removed.
    removals: BTreeMap<NodeId, (u32, Micros)>,
    /// The ring that it looks at, and since when.
    ring_since: (Epoch, Micros),
    /// The ring whose roles need no levelling.
    level: Epoch,
}

impl Conductor {
    /// Remembers nothing yet.
    pub fn new(cluster: ClusterId, judgement: Judgement) -> Self {
        let (present, absent) = (BTreeMap::new(), BTreeMap::new());
        let (removals, ring_since) = (BTreeMap::new(), (Epoch::NONE, Micros::default()));
        Self { judgement, cluster, present, absent, removed: None, removals, ring_since, level: Epoch::NONE }
    }

    /// Forgets what it saw: it did not look for a while, so it cannot say since when anything is as it is.
    pub fn look_away(&mut self) {
        self.present.clear();
        self.absent.clear();
    }

    /// Looks at who is registered.
    pub fn look(
        &mut self,
        now: Micros,
        ring: Option<&RingDocument>,
        nodes: &BTreeMap<NodeId, NodeDescription>,
    ) {
        self.present.retain(|node, (described, _)| nodes.get(node) == Some(described));
        for (node, described) in nodes {
            self.present.entry(node.clone()).or_insert_with(|| (described.clone(), now));
        }
        let members =
            ring.into_iter().flat_map(|ring| &ring.slots).filter(|slot| slot.state != NodeState::Left);
        let missing: BTreeSet<_> =
            members.map(|slot| &slot.node).filter(|node| !nodes.contains_key(node)).collect();
        self.absent.retain(|node, _| missing.contains(node));
        for node in missing {
            self.absent.entry(node.clone()).or_insert(now);
        }
    }

    /// The document that should follow `ring`, if any should. Its epoch is above `above` too. What it saw is what there was when
    /// everything was read last, however quiet the news: nobody is removed because a watch went silent.
    ///
    /// A few milliseconds while something moves.
    pub fn decide(
        &mut self,
        now: Micros,
        view: &View,
        ring: Option<&Ring>,
        above: Epoch,
    ) -> Option<RingDocument> {
        let Some(ring) = ring else { return self.first_ring(now, above) };
        let document = ring.document();
        let mut next = if document.replication.is_some() {
            self.decide_replicated(now, view, ring)
        } else if document.replicas > 1 || !view.wishes.is_empty() {
            migrate::upgrade(ring)
        } else {
            self.decide_single(now, view.read_at, document)
        }?;
        next.epoch = next.epoch.max(above.next()?);
        Some(next)
    }

    /// Those who were there for long enough.
    fn ready(&self, now: Micros) -> impl Iterator<Item = &NodeDescription> {
        let is_ready = move |since: Micros| now.since(since) >= self.judgement.up_after;
        self.present.values().filter(move |(_, since)| is_ready(*since)).map(|(described, _)| described)
    }

    fn decide_single(&mut self, now: Micros, confirmed: Micros, ring: &RingDocument) -> Option<RingDocument> {
        let ready = self.ready(now);
        let stands_by =
            |described: &NodeDescription| described.stands_by() && !has_place(ring, &described.node);
        let news = ready.filter(|described| !is_welcomed(ring, described) && !stands_by(described));
        let news: Vec<&NodeDescription> = news.collect();
        let gone = if news.is_empty() { self.to_remove(now, confirmed, ring) } else { None };
        if news.is_empty() && gone.is_none() {
            return None;
        }
        let (epoch, term) = (ring.epoch.next()?, ring.term.next()?);
        let mut next = RingDocument { epoch, term, ..ring.clone() };
        let mut is_changed = false;
        for described in news {
            is_changed |= attempt(&mut next, |next| welcome(next, described));
        }
        if let Some(gone) = gone {
            is_changed |= attempt(&mut next, |next| remove(next, &gone));
            self.removed = Some((gone, now));
        }
        is_changed.then_some(next)
    }

    /// When, after `now`, [`Self::decide`] may judge differently though nothing was seen.
    pub fn wake_at(&self, now: Micros) -> Micros {
        let ready = self.present.values().map(|(_, since)| *since + self.judgement.up_after);
        let pause_ends = self.removed.as_ref().map(|(_, at)| *at + self.judgement.removal_pause);
        let gone = self
            .absent
            .values()
            .flat_map(|&since| [since + self.judgement.down_after, since + self.judgement.grace]);
        let calm = self.removals.keys().filter_map(|node| self.calm_at(node));
        let level = self.ring_since.1 + self.judgement.level_after;
        let times = ready.chain(gone).chain(pause_ends).chain(calm).chain([level]);
        times.filter(|&at| at > now).min().unwrap_or(Micros::NEVER)
    }

    fn first_ring(&self, now: Micros, above: Epoch) -> Option<RingDocument> {
        let ready: Vec<_> = self.ready(now).filter(|described| !described.stands_by()).collect();
        // Who is coming now would have to be moved to later; one that never stays is not waited for.
        let is_late = |(_, since): &(NodeDescription, Micros)| {
            now.since(*since).0 >= FIRST_RING_WAITS * self.judgement.up_after.0
        };
        let coming = self.present.values().filter(|(described, _)| !described.stands_by());
        let are_all_ready = ready.len() == coming.clone().count() || coming.clone().any(is_late);
        if ready.len() < self.judgement.first_nodes.max(1) || !are_all_ready {
            return None;
        }
        let replicas = self.judgement.first_replicas;
        let mut first = RingDocument {
            format: FORMAT,
            cluster: self.cluster.clone(),
            epoch: above.next()?,
            term: Term(1),
            replicas,
            mode: self.judgement.first_mode.unwrap_or_else(|| Mode::default_for(replicas)),
            slots: Vec::new(),
            replication: None,
        };
        for described in ready {
            attempt(&mut first, |first| welcome(first, described));
        }
        if replicas > 1 {
            first.format = FORMAT_REPLICATED;
            first.replication = Some(Box::new(Replication::fresh(&first)));
        }
        first.validate().is_ok().then_some(first)
    }

    /// Whether the last removal was too short a while ago. One that is made good does not count: who was merely slow must not stand in
    /// the way of who is dead, and each removal of the same node keeps it out for longer.
    fn rests(&self, now: Micros, ring: &RingDocument) -> bool {
        let is_recent = |(node, at): &(NodeId, Micros)| {
            now.since(*at) < self.judgement.removal_pause && !serves(ring, node)
        };
        self.removed.as_ref().is_some_and(is_recent)
    }

    /// The member that is missing for longest, if one may be removed now.
    fn to_remove(&self, now: Micros, confirmed: Micros, ring: &RingDocument) -> Option<NodeId> {
        if self.rests(now, ring) {
            return None;
        }
        let is_gone = |since: Micros| confirmed.since(since) >= self.judgement.down_after;
        let gone = self.absent.iter().filter(|&(node, &since)| is_gone(since) && serves(ring, node));
        let (longest, _) = gone.min_by_key(|&(_, &since)| since)?;
        leaves_half(ring).then(|| longest.clone())
    }
}

/// Whether a node is a member, in whatever state.
fn has_place(ring: &RingDocument, node: &NodeId) -> bool {
    ring.slots.iter().any(|slot| slot.node == *node && slot.state != NodeState::Left)
}

fn serves(ring: &RingDocument, node: &NodeId) -> bool {
    ring.slots.iter().any(|slot| slot.node == *node && slot.state.serves())
}

/// Whether at least half of the members serve when one less does.
fn leaves_half(ring: &RingDocument) -> bool {
    let members = ring.slots.iter().filter(|slot| slot.state != NodeState::Left).count();
    let serving = ring.slots.iter().filter(|slot| slot.state.serves()).count();
    serving > 1 && (serving - 1) * 2 >= members
}

/// Makes a change unless it would make the document one that is refused. Says whether there was a change.
fn attempt(document: &mut RingDocument, change: impl FnOnce(&mut RingDocument) -> bool) -> bool {
    let mut changed = document.clone();
    let is_good = change(&mut changed) && changed.validate().is_ok();
    if is_good {
        *document = changed;
    }
    is_good
}

/// Whether a node serves already, in its present life and at its present addresses.
fn is_welcomed(ring: &RingDocument, described: &NodeDescription) -> bool {
    let NodeDescription { node, incarnation, zone, client, peer, shards, weight: _ } = described;
    ring.slots.iter().any(|slot| {
        let is_here =
            slot.client == *client && slot.peer == *peer && slot.zone == *zone && slot.shards == *shards;
        slot.node == *node && slot.incarnation == *incarnation && slot.state.serves() && is_here
    })
}

/// Lets a node serve: as a new member in the lowest free slot, or again in its own, or in its present life and at its
/// present addresses. False: it does already.
fn welcome(ring: &mut RingDocument, described: &NodeDescription) -> bool {
    let is_its_own = |slot: &SlotEntry| slot.node == described.node && slot.state != NodeState::Left;
    if let Some(slot) = ring.slots.iter_mut().find(|slot| is_its_own(slot)) {
        let state = if slot.state == NodeState::Down { NodeState::Up } else { slot.state };
        // The operator's word on the weight of a member stands.
        let entry = SlotEntry { weight: slot.weight, state, ..entry(described) };
        let is_changed = *slot != entry;
        *slot = entry;
        return is_changed;
    }
    if let Some(free) = ring.slots.iter_mut().find(|slot| slot.state == NodeState::Left) {
        *free = entry(described);
        return true;
    }
    let has_room = ring.slots.len() < SLOT_COUNT_MAX;
    if has_room {
        ring.slots.push(entry(described));
    }
    has_room
}

/// The place of a node that joins.
pub fn entry(described: &NodeDescription) -> SlotEntry {
    let NodeDescription { node, incarnation, zone, client, peer, shards, weight } = described.clone();
    SlotEntry { node, incarnation, zone, client, peer, shards, weight, state: NodeState::Up }
}

fn remove(ring: &mut RingDocument, node: &NodeId) -> bool {
    let slot = ring.slots.iter_mut().find(|slot| slot.node == *node && slot.state.serves());
    slot.map(|slot| slot.state = NodeState::Down).is_some()
}

#[cfg(test)]
mod tests;
