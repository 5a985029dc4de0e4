//! The conductor's judgement: which ring follows from who is there. One node at a time holds the office; it decides
//! on what it sees and knows no other way to act than to propose the next document. Never writes it.
//!
//! Slow to remove, slower to remove again, and never below half: a conductor that sees badly does little harm.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::NodeDescription;
use crate::names::{ClusterId, NodeId};
use crate::ring::document::FORMAT;
use crate::ring::{Epoch, Mode, NodeState, RingDocument, SlotEntry, Term};
use crate::table::SLOT_COUNT_MAX;
use crate::time::Micros;

/// How a conductor judges.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// A node that was not seen for this long is down. The lease has run out before.
    pub down_after: Micros,
    /// A node that was seen for this long may serve.
    pub up_after: Micros,
    /// Time from one removal to the next.
    pub removal_pause: Micros,
    /// The first ring is made when this many nodes are there.
    pub first_nodes: usize,
    /// Copies in the first ring.
    pub first_replicas: u8,
}

impl Default for Judgement {
    fn default() -> Self {
        Self {
            down_after: Micros::from_millis(1_500),
            up_after: Micros::from_millis(1_000),
            removal_pause: Micros::from_millis(30_000),
            first_nodes: 1,
            first_replicas: 1,
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
    removed_at: Option<Micros>,
}

impl Conductor {
    /// Remembers nothing yet.
    pub fn new(cluster: ClusterId, judgement: Judgement) -> Self {
        let (present, absent) = (BTreeMap::new(), BTreeMap::new());
        Self { judgement, cluster, present, absent, removed_at: None }
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

    /// The document that should follow `ring`, if any should. Its epoch is above `above` too. What it saw is what there was
    /// at `confirmed`, however quiet the news: nobody is removed because a watch went silent.
    pub fn decide(
        &mut self,
        now: Micros,
        confirmed: Micros,
        ring: Option<&RingDocument>,
        above: Epoch,
    ) -> Option<RingDocument> {
        let is_ready = |since: Micros| now.since(since) >= self.judgement.up_after;
        let ready =
            self.present.values().filter(|(_, since)| is_ready(*since)).map(|(described, _)| described);
        let Some(ring) = ring else { return self.first_ring(&ready.collect::<Vec<_>>(), above) };
        let news: Vec<&NodeDescription> = ready.filter(|described| !is_welcomed(ring, described)).collect();
        let gone = if news.is_empty() { self.to_remove(now, confirmed, ring) } else { None };
        if news.is_empty() && gone.is_none() {
            return None;
        }
        let (epoch, term) = (ring.epoch.max(above).next()?, ring.term.next()?);
        let mut next = RingDocument { epoch, term, ..ring.clone() };
        let mut is_changed = false;
        for described in news {
            is_changed |= attempt(&mut next, |next| welcome(next, described));
        }
        if let Some(gone) = gone {
            self.removed_at = Some(now);
            is_changed |= attempt(&mut next, |next| remove(next, &gone));
        }
        is_changed.then_some(next)
    }

    /// When, after `now`, [`Self::decide`] may judge differently though nothing was seen.
    pub fn wake_at(&self, now: Micros) -> Micros {
        let ready = self.present.values().map(|(_, since)| *since + self.judgement.up_after);
        let pause_ends = self.removed_at.map(|at| at + self.judgement.removal_pause);
        let gone = self.absent.values().map(|&since| since + self.judgement.down_after);
        ready.chain(gone).chain(pause_ends).filter(|&at| at > now).min().unwrap_or(Micros::NEVER)
    }

    fn first_ring(&self, ready: &[&NodeDescription], above: Epoch) -> Option<RingDocument> {
        if ready.len() < self.judgement.first_nodes.max(1) {
            return None;
        }
        let replicas = self.judgement.first_replicas;
        let mut first = RingDocument {
            format: FORMAT,
            cluster: self.cluster.clone(),
            epoch: above.next()?,
            term: Term(1),
            replicas,
            mode: Mode::default_for(replicas),
            slots: Vec::new(),
            replication: None,
        };
        for described in ready {
            attempt(&mut first, |first| welcome(first, described));
        }
        first.validate().is_ok().then_some(first)
    }

    /// The member that is missing for longest, if one may be removed now.
    fn to_remove(&self, now: Micros, confirmed: Micros, ring: &RingDocument) -> Option<NodeId> {
        let rests = |at: Micros| now.since(at) < self.judgement.removal_pause;
        if self.removed_at.is_some_and(rests) {
            return None;
        }
        let serves = |node: &NodeId| ring.slots.iter().any(|slot| slot.node == *node && slot.state.serves());
        let is_gone = |since: Micros| confirmed.since(since) >= self.judgement.down_after;
        let gone = self.absent.iter().filter(|&(node, &since)| is_gone(since) && serves(node));
        let (longest, _) = gone.min_by_key(|&(_, &since)| since)?;
        leaves_half(ring).then(|| longest.clone())
    }
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

fn entry(described: &NodeDescription) -> SlotEntry {
    let NodeDescription { node, incarnation, zone, client, peer, shards, weight } = described.clone();
    SlotEntry { node, incarnation, zone, client, peer, shards, weight, state: NodeState::Up }
}

fn remove(ring: &mut RingDocument, node: &NodeId) -> bool {
    let slot = ring.slots.iter_mut().find(|slot| slot.node == *node && slot.state.serves());
    slot.map(|slot| slot.state = NodeState::Down).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Incarnation;

    fn described(n: u16, incarnation: u64) -> NodeDescription {
        NodeDescription {
            node: NodeId(format!("n{n}").parse().unwrap()),
            incarnation: Incarnation(incarnation),
            zone: String::new(),
            client: format!("127.0.0.1:{}", 11_000 + n).parse().unwrap(),
            peer: format!("127.0.0.1:{}", 7_000 + n).parse().unwrap(),
            shards: 2,
            weight: 256,
        }
    }

    fn registered(nodes: &[u16]) -> BTreeMap<NodeId, NodeDescription> {
        nodes.iter().map(|&n| (described(n, 1).node, described(n, 1))).collect()
    }

    struct Office {
        conductor: Conductor,
        now: Micros,
        ring: Option<RingDocument>,
    }

    impl Office {
        fn new(first_nodes: usize) -> Self {
            let judgement = Judgement { first_nodes, ..Judgement::default() };
            let conductor = Conductor::new(ClusterId("c".parse().unwrap()), judgement);
            Self { conductor, now: Micros(0), ring: None }
        }

        /// Looks twice a second for so many seconds and does what is decided. Gives the changes.
        fn watch(&mut self, seconds: u64, nodes: &BTreeMap<NodeId, NodeDescription>) -> usize {
            let mut changes = 0;
            for _ in 0..seconds * 2 {
                self.now = self.now + Micros::from_millis(500);
                self.conductor.look(self.now, self.ring.as_ref(), nodes);
                if let Some(next) = self.conductor.decide(self.now, self.now, self.ring.as_ref(), Epoch::NONE)
                {
                    next.validate().unwrap();
                    if let Some(ring) = &self.ring {
                        next.may_follow(ring).unwrap();
                    }
                    self.ring = Some(next);
                    changes += 1;
                }
            }
            changes
        }

        fn states(&self) -> Vec<NodeState> {
            self.ring.as_ref().unwrap().slots.iter().map(|slot| slot.state).collect()
        }
    }

    use NodeState::{Down, Up};

    #[test]
    fn the_first_ring_waits_for_its_nodes() {
        let mut office = Office::new(3);
        assert_eq!(office.watch(10, &registered(&[1, 2])), 0);
        assert_eq!(office.watch(10, &registered(&[1, 2, 3])), 1);
        assert_eq!(office.ring.as_ref().unwrap().epoch, Epoch(1));
        assert_eq!(office.states(), [Up, Up, Up]);
    }

    #[test]
    fn a_node_that_blinks_stays() {
        let mut office = Office::new(3);
        office.watch(10, &registered(&[1, 2, 3]));
        for _ in 0..20 {
            assert_eq!(office.watch(1, &registered(&[1, 2])), 0);
            assert_eq!(office.watch(1, &registered(&[1, 2, 3])), 0);
        }
    }

    #[test]
    fn missing_nodes_go_one_by_one_and_half_of_them_stay() {
        let mut office = Office::new(5);
        office.watch(10, &registered(&[1, 2, 3, 4, 5]));
        assert_eq!(office.watch(10, &registered(&[1])), 1);
        assert_eq!(office.watch(600, &registered(&[1])), 1, "two of five are gone, three stay");
        assert_eq!(office.states().iter().filter(|&&state| state == Down).count(), 2);
        assert_eq!(office.watch(10, &registered(&[1, 2, 3, 4, 5])), 1, "they return together");
        assert_eq!(office.states(), [Up; 5]);
    }

    #[test]
    fn of_two_nodes_one_can_go_and_of_one_none() {
        let mut office = Office::new(2);
        office.watch(10, &registered(&[1, 2]));
        assert_eq!(office.watch(100, &registered(&[2])), 1);
        assert_eq!(office.states(), [Down, Up]);
        assert_eq!(office.watch(100, &registered(&[])), 0);
    }

    #[test]
    fn after_the_last_epoch_the_ring_stays() {
        let mut office = Office::new(2);
        office.watch(10, &registered(&[1, 2]));
        office.ring.as_mut().unwrap().epoch = Epoch::MAX;
        assert_eq!(office.watch(10, &registered(&[1, 2, 3])), 0);
    }

    #[test]
    fn nobody_is_removed_on_old_news() {
        let mut office = Office::new(3);
        office.watch(10, &registered(&[1, 2, 3]));
        let (read_at, gone) = (office.now, registered(&[1, 2]));
        let (conductor, ring) = (&mut office.conductor, office.ring.as_ref());
        conductor.look(read_at, ring, &gone);
        let later = read_at + Micros::from_millis(60_000);
        assert_eq!(conductor.decide(later, read_at, ring, Epoch::NONE), None);
        assert!(conductor.decide(later, later, ring, Epoch::NONE).is_some());
    }

    #[test]
    fn a_new_life_is_a_new_entry_in_the_same_slot() {
        let mut office = Office::new(2);
        office.watch(10, &registered(&[1, 2]));
        let mut nodes = registered(&[1, 2]);
        nodes.insert(described(2, 9).node, described(2, 9));
        assert_eq!(office.watch(10, &nodes), 1);
        assert_eq!(office.ring.as_ref().unwrap().slots[1].incarnation, Incarnation(9));
        assert_eq!(office.states(), [Up, Up]);
    }

    #[test]
    fn a_joiner_takes_the_lowest_free_slot() {
        let mut office = Office::new(3);
        office.watch(10, &registered(&[1, 2, 3]));
        office.ring.as_mut().unwrap().slots[1].state = NodeState::Left;
        office.watch(10, &registered(&[1, 3, 4]));
        assert_eq!(office.ring.as_ref().unwrap().slots[1].node, described(4, 1).node);
        office.watch(10, &registered(&[1, 3, 4, 5]));
        assert_eq!(office.ring.as_ref().unwrap().slots[3].node, described(5, 1).node);
    }

    #[test]
    fn a_joiner_with_anothers_address_is_left_out() {
        let mut office = Office::new(2);
        office.watch(10, &registered(&[1, 2]));
        let mut nodes = registered(&[1, 2, 3]);
        nodes.get_mut(&described(3, 1).node).unwrap().peer = described(1, 1).peer;
        assert_eq!(office.watch(10, &nodes), 0);
    }
}
