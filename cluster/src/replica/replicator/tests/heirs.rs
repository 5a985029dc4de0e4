//! Partitions that pass from one heir to another: four nodes, two copies of everything, and `sync`.

use super::several::Several;
use super::*;
use crate::safeguard::without;

const NODES: u16 = 4;
const COPIES: u16 = 2;

impl Several {
    fn change(&mut self, next: Option<RingDocument>) {
        self.ring = Arc::new(Ring::new(next.expect("the step can be made")).unwrap());
    }

    /// As no conductor would in this mode, unless somebody else held a copy.
    fn set_state(&mut self, node: usize, state: NodeState) {
        let mut next = migrate::next(&self.ring).unwrap();
        next.slots[node].state = state;
        next.replication.as_mut().unwrap().since[node] = next.epoch;
        self.change(Some(next));
    }

    /// A node dies, and the ring calls it back in its second life.
    fn restart(&mut self, node: usize) {
        self.ends[node] = Self::end(NODES, 2);
        let slot = SlotId(u16::try_from(node).unwrap());
        let peer = PeerShard { slot, shard: 0 };
        for other in self.ends.iter_mut() {
            other.replicator.lost(peer);
            other.replicator.connected(peer, true);
        }
        self.change(migrate::bring_back(&self.ring, slot, Incarnation(2)));
        self.tell_all();
    }

    fn serving(&self, hash: u64) -> Vec<usize> {
        let serves = |node: &usize| self.ends[*node].replicator.may_read(self.now, hash).is_ok();
        (0..4).filter(serves).collect()
    }

    /// A key that the first and the last have lost: the second is heir, and the third would be if it had not just returned.
    fn with_an_heir() -> (Self, u64) {
        let mut four = Self::new(NODES, COPIES, Mode::Sync);
        four.restart(0);
        four.restart(3);
        let is_of_third = |hash: &u64| four.ring.primary(partition_of(*hash)) == SlotId(2);
        let is_lost = |hash: &u64| four.ring.owners(partition_of(*hash)) == [SlotId(0), SlotId(3)];
        let mut hashes = (0_u32..).map(|n| hash_key(n.to_string().as_bytes()));
        let hash = hashes.find(|hash| is_lost(hash) && is_of_third(hash)).unwrap();
        four.restart(2);
        four.pass(4_000);
        assert_eq!(four.serving(hash), [1]);
        (four, hash)
    }
}

/// The third is heir now: it hears of it long before those who grant leases do, and the second, who has them, later still.
fn with_two_heirs() -> (Several, u64) {
    let (mut four, hash) = Several::with_an_heir();
    four.change(migrate::admit(&four.ring, SlotId(2), |_| true));
    four.tell([2]);
    four.pass(2_000);
    assert_eq!(four.serving(hash), [1]);
    four.tell([0, 3]);
    four.pass(300);
    (four, hash)
}

#[test]
fn an_heir_serves_when_the_heir_before_it_has_heard_of_it_and_not_before() {
    let (mut four, hash) = with_two_heirs();
    assert_eq!(four.serving(hash), [1], "its leases are good yet");
    four.pass(10_000);
    assert!(four.serving(hash).is_empty());
    four.tell([1]);
    four.pass(300);
    assert_eq!(four.serving(hash), [2]);
}

#[test]
fn without_waiting_for_all_two_heirs_serve() {
    let (four, hash) = without(Safeguard::HeirsWaitForAll, with_two_heirs);
    assert_eq!(four.serving(hash), [1, 2]);
}

#[test]
fn an_heir_waits_also_for_those_who_were_heirs_by_rings_that_it_did_not_see() {
    let (mut four, hash) = Several::with_an_heir();
    four.change(migrate::admit(&four.ring, SlotId(2), |_| true));
    four.tell_all();
    four.pass(4_000);
    assert_eq!(four.serving(hash), [2]);
    four.set_state(2, NodeState::Down);
    four.tell([0, 1, 3]);
    four.pass(5_000);
    assert_eq!(four.serving(hash), [1]);
    four.set_state(2, NodeState::Up);
    four.tell([2]);
    four.pass(5_000);
    assert_eq!(four.serving(hash), [1], "the third one was heir all the time, as far as it knows");
    four.tell([0, 1, 3]);
    four.pass(2_000);
    assert_eq!(four.serving(hash), [2]);
}

#[test]
fn an_heir_waits_four_seconds_for_one_that_is_called_down_and_not_for_another_life() {
    for is_anew in [false, true] {
        let (mut four, hash) = with_two_heirs();
        if is_anew {
            four.restart(1);
        } else {
            four.set_state(1, NodeState::Down);
            four.tell([0, 2, 3]);
            // It stands still.
            four.ends[1] = Several::end(NODES, 1);
            four.pass(3_900);
            assert!(four.serving(hash).is_empty());
        }
        four.pass(300);
        assert_eq!(four.serving(hash), [2]);
    }
}
