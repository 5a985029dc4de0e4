//! Who is taken in, who is removed and when, walked through second by second.

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
    view: View,
    /// The conductor does not reach it.
    out_of_reach: Option<u16>,
}

impl Office {
    fn new(first_nodes: usize) -> Self {
        let judgement = Judgement { first_nodes, ..Judgement::default() };
        let conductor = Conductor::new(ClusterId("c".parse().unwrap()), judgement);
        Self { conductor, now: Micros(0), ring: None, view: View::default(), out_of_reach: None }
    }

    /// Looks twice a second for so many seconds and does what is decided. Gives the changes.
    fn watch(&mut self, seconds: u64, nodes: &BTreeMap<NodeId, NodeDescription>) -> usize {
        let mut changes = 0;
        for _ in 0..seconds * 2 {
            self.now = self.now + Micros::from_millis(500);
            self.view.read_at = self.now;
            self.view.nodes.clone_from(nodes);
            self.conductor.look(self.now, self.ring.as_ref(), nodes);
            while let Some(asked) = self.conductor.to_reach(self.now, self.ring.as_ref()) {
                if self.out_of_reach.is_none_or(|n| asked.node != described(n, 1).node) {
                    self.conductor.reached(&asked);
                }
            }
            let ring = self.ring.clone().map(|ring| Ring::new(ring).unwrap());
            if let Some(next) = self.conductor.decide(self.now, &self.view, ring.as_ref(), Epoch::NONE) {
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
fn the_first_ring_waits_for_who_is_coming_and_not_for_who_never_stays() {
    let mut office = Office::new(2);
    office.watch(1, &registered(&[1, 2]));
    office.watch(1, &registered(&[1, 2, 3]));
    assert_eq!(office.watch(1, &registered(&[1, 2, 3])), 1);
    assert_eq!(office.states(), [Up, Up, Up], "nothing has to be moved to the third");
    let mut office = Office::new(2);
    let mut changes = 0;
    for _ in 0..4 {
        // It begins anew in each look.
        changes += office.watch(1, &registered(&[1, 2]));
        office.view.nodes = registered(&[1, 2, 3]);
        office.conductor.look(office.now, None, &office.view.nodes);
    }
    assert_eq!(changes, 1);
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
    let ring = Ring::new(office.ring.clone().unwrap()).unwrap();
    let conductor = &mut office.conductor;
    conductor.look(read_at, Some(ring.document()), &gone);
    let later = read_at + Micros::from_millis(60_000);
    let old = View { read_at, ..View::default() };
    assert_eq!(conductor.decide(later, &old, Some(&ring), Epoch::NONE), None);
    let fresh = View { read_at: later, ..View::default() };
    assert!(conductor.decide(later, &fresh, Some(&ring), Epoch::NONE).is_some());
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

#[test]
fn who_is_registered_and_not_reached_gets_no_place_and_holds_up_nobody() {
    let mut office = Office::new(2);
    office.out_of_reach = Some(3);
    assert_eq!(office.watch(10, &registered(&[1, 2, 3])), 1);
    assert_eq!(office.states(), [Up, Up]);
    assert_eq!(office.watch(10, &registered(&[1, 2, 3, 4])), 1);
    assert_eq!(office.states(), [Up, Up, Up]);
    office.out_of_reach = None;
    assert_eq!(office.watch(3, &registered(&[1, 2, 3, 4])), 1, "it is tried again and again");
    assert_eq!(office.states(), [Up; 4]);
    // A member that comes back with another secret.
    office.out_of_reach = Some(2);
    let mut nodes = registered(&[1, 2, 3, 4]);
    nodes.insert(described(2, 9).node, described(2, 9));
    assert_eq!(office.watch(10, &nodes), 0);
}

#[test]
fn people_are_told_who_asks_for_a_place_and_is_not_reached_and_why() {
    let mut office = Office::new(2);
    office.out_of_reach = Some(3);
    office.watch(10, &registered(&[1, 2, 3]));
    let waits = |office: &Office| {
        let ring = office.ring.clone().map(|ring| Ring::new(ring).unwrap());
        office.conductor.waits(&office.view, ring.as_ref(), 0).unreached
    };
    assert_eq!(waits(&office), []);
    office.conductor.not_reached(&described(3, 1), &"x".repeat(9_999));
    let told = waits(&office);
    assert_eq!((told.len(), &told[0].node), (1, &described(3, 1).node));
    assert_eq!(told[0].why.len(), WHY_CHARACTERS_MAX);
    office.out_of_reach = None;
    office.watch(10, &registered(&[1, 2, 3]));
    assert_eq!(waits(&office), [], "it is reached");
    office.conductor.not_reached(&described(4, 1), "it is gone");
    office.watch(1, &registered(&[1, 2, 3]));
    assert_eq!(waits(&office), []);
}

#[test]
fn a_ring_that_the_coordinator_lost_is_written_again_beyond_all_that_may_have_been_lost() {
    let mut office = Office::new(2);
    office.watch(10, &registered(&[1, 2]));
    let followed = RingDocument { epoch: Epoch(12), term: Term(11), ..office.ring.clone().unwrap() };
    let older = RingDocument { epoch: Epoch(40), term: Term(2), ..followed.clone() };
    for lost in [None, Some(&older)] {
        let restored = office.conductor.restore(office.now, &followed, lost).unwrap();
        restored.may_follow(&followed).unwrap();
        restored.may_follow(&older).unwrap();
        assert_eq!(restored.slots, followed.slots);
    }
    office.conductor.look_away();
    assert_eq!(office.conductor.restore(office.now, &followed, None), None, "others are heard first");
}

mod replicated;
