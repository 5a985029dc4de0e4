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
use crate::report::{Awaited, Unreached, WAITS_MAX, WHY_CHARACTERS_MAX, Waits};
use crate::ring::document::{FORMAT, FORMAT_REPLICATED};
use crate::ring::{Epoch, Mode, NodeState, Replication, Ring, RingDocument, SlotEntry, Term};
use crate::table::SLOT_COUNT_MAX;
use crate::time::Micros;

mod replicated;

/// The first ring waits for who is just coming, until one has been there for so many times what a node needs to be counted.
const FIRST_RING_WAITS: u64 = 3;

/// A node that was not reached is tried again so often.
const REACH_EVERY: Micros = Micros::from_millis(2_000);

/// A ring that is written again is so much further in epoch and term than the last that is known: further than any that was lost, so
/// that whoever follows one of those follows it too, and no two rings share a term.
const RESTORED_FURTHER: u32 = 1_000;

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
    /// A member with copies that is down, and has not served for longer, gives up its place.
    pub grace: Micros,
    /// A movement turns back when a member that is to get something by it is down, and has not served for longer.
    pub turn_back_after: Micros,
    /// Roles are levelled in a ring whose members did not change for this long, and in which nothing moved.
    pub level_after: Micros,
    /// Partitions that change hands in one document.
    pub flips_max: usize,
    /// Time from one step of levelling to the next: partitions that changed hands are handed over meanwhile.
    pub level_pause: Micros,
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
            turn_back_after: Micros::from_millis(60_000),
            level_after: Micros::from_millis(5_000),
            flips_max: migrate::FLIPS_MAX,
            level_pause: Micros::from_millis(250),
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
    /// Those that were reached where they say that they are, and when each was last tried.
    reached: BTreeMap<NodeId, NodeDescription>,
    tried: BTreeMap<NodeId, Micros>,
    /// Why others were not.
    unreached: BTreeMap<NodeId, String>,
    /// Since when each member has been missing.
    absent: BTreeMap<NodeId, Micros>,
    /// Since when each member has not served by the ring: also one that lives, and is filled and gone again and again.
    away: BTreeMap<NodeId, Micros>,
    /// Who was removed last because it did not answer.
    removed: Option<(NodeId, Micros)>,
    /// How often, and when last, members were removed.
    removals: BTreeMap<NodeId, (u32, Micros)>,
    /// The members, and since when they are as they are and nothing moves.
    quiet: (Vec<SlotEntry>, Micros),
    /// The ring whose roles need no levelling.
    level: Epoch,
    /// When they were levelled last.
    levelled_at: Option<Micros>,
}

impl Conductor {
    /// Remembers nothing yet.
    pub fn new(cluster: ClusterId, judgement: Judgement) -> Self {
        Self {
            judgement,
            cluster,
            present: BTreeMap::new(),
            reached: BTreeMap::new(),
            tried: BTreeMap::new(),
            unreached: BTreeMap::new(),
            absent: BTreeMap::new(),
            away: BTreeMap::new(),
            removed: None,
            removals: BTreeMap::new(),
            quiet: (Vec::new(), Micros::default()),
            level: Epoch::NONE,
            levelled_at: None,
        }
    }

    /// Forgets what it saw: it did not look for a while, so it cannot say since when anything is as it is.
    pub fn look_away(&mut self) {
        self.present.clear();
        self.absent.clear();
        self.away.clear();
    }

    /// Looks at who is registered.
    pub fn look(
        &mut self,
        now: Micros,
        ring: Option<&RingDocument>,
        nodes: &BTreeMap<NodeId, NodeDescription>,
    ) {
        self.present.retain(|node, (described, _)| nodes.get(node) == Some(described));
        self.reached.retain(|node, described| nodes.get(node) == Some(described));
        self.tried.retain(|node, _| nodes.contains_key(node));
        self.unreached.retain(|node, _| nodes.contains_key(node));
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
        let slots = ring.into_iter().flat_map(|ring| &ring.slots);
        let away: BTreeSet<_> = slots.filter(|slot| slot.state.is_away()).map(|slot| &slot.node).collect();
        self.away.retain(|node, _| away.contains(node));
        for node in away {
            self.away.entry(node.clone()).or_insert(now);
        }
    }

    /// A node that asks for a place and was not reached yet, if it is time to try: nobody gets one by being registered alone. What comes
    /// of it is told by [`Self::reached`].
    pub fn to_reach(&mut self, now: Micros, ring: Option<&RingDocument>) -> Option<NodeDescription> {
        let is_due = |node: &NodeId| self.tried.get(node).is_none_or(|&at| now.since(at) >= REACH_EVERY);
        let asks = |described: &NodeDescription| ring.is_none_or(|ring| !is_welcomed(ring, described));
        let there = self.present.values().map(|(described, _)| described);
        let mut wanted = there.filter(|described| !self.is_reached(described) && asks(described));
        let described = wanted.find(|described| is_due(&described.node))?.clone();
        self.tried.insert(described.node.clone(), now);
        Some(described)
    }

    /// A node was reached as it is described: it is what it says, and has the cluster's secret.
    pub fn reached(&mut self, described: &NodeDescription) {
        self.unreached.remove(&described.node);
        if !self.is_reached(described) {
            self.reached.insert(described.node.clone(), described.clone());
        }
    }

    /// A node was not reached as it is described, and why. It is tried again, and told of meanwhile.
    pub fn not_reached(&mut self, described: &NodeDescription, why: &str) {
        self.unreached.insert(described.node.clone(), why.chars().take(WHY_CHARACTERS_MAX).collect());
    }

    /// What it waits for, when its own clock showed 0 at the Unix second `began`. A look at every partition while a movement waits.
    pub fn waits(&self, view: &View, ring: Option<&Ring>, began: u64) -> Waits {
        let asks = |node: &NodeId| {
            let described = view.nodes.get(node);
            described.is_some_and(|described| {
                !self.is_reached(described)
                    && ring.is_none_or(|ring| !is_welcomed(ring.document(), described))
            })
        };
        let unreached = self.unreached.iter().filter(|(node, _)| asks(node)).take(WAITS_MAX);
        let unreached =
            unreached.map(|(node, why)| Unreached { node: node.clone(), why: why.clone() }).collect();
        let until = |at: Micros| began + at.0.div_ceil(1_000_000);
        let mut awaited = ring.map_or_else(Vec::new, |ring| self.awaited(ring));
        awaited.truncate(WAITS_MAX);
        let awaited = awaited
            .into_iter()
            .map(|(node, at, turns_back)| Awaited { node, until: until(at), turns_back })
            .collect();
        Waits { awaited, unreached }
    }

    fn is_reached(&self, described: &NodeDescription) -> bool {
        self.reached.get(&described.node) == Some(described)
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

    /// The ring that nodes follow as the coordinator gets it that lost it, or has `older` in its place. Not before others had the time
    /// to say what they follow.
    pub fn restore(
        &self,
        now: Micros,
        followed: &RingDocument,
        older: Option<&RingDocument>,
    ) -> Option<RingDocument> {
        self.there(now).next()?;
        let (epoch, term) = older.map_or((Epoch::NONE, followed.term), |older| (older.epoch, older.term));
        let epoch = Epoch(followed.epoch.max(epoch).0 + u64::from(RESTORED_FURTHER));
        let term = Term(followed.term.max(term).0 + RESTORED_FURTHER);
        let restored = RingDocument { epoch, term, ..followed.clone() };
        restored.validate().is_ok().then_some(restored)
    }

    /// Those who were there for long enough and were reached.
    fn ready(&self, now: Micros) -> impl Iterator<Item = &NodeDescription> {
        self.there(now).filter(|described| self.is_reached(described))
    }

    fn there(&self, now: Micros) -> impl Iterator<Item = &NodeDescription> {
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
        let gone = self.absent.values().map(|&since| since + self.judgement.down_after);
        let away = self
            .away
            .values()
            .flat_map(|&since| [since + self.judgement.turn_back_after, since + self.judgement.grace]);
        let calm = self.removals.keys().filter_map(|node| self.calm_at(node));
        let level = [self.quiet.1 + self.judgement.level_after].into_iter();
        let level = level.chain(self.levelled_at.map(|at| at + self.judgement.level_pause));
        let tries = self.tried.values().map(|at| *at + REACH_EVERY);
        let times = ready.chain(gone).chain(pause_ends).chain(calm).chain(away).chain(tries).chain(level);
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
