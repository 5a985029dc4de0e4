//! Two shards of two nodes over a wire that the test holds. The simulator has the crowds.

use super::*;
use crate::forward::{Forward, NODE_SHARE};
use crate::link::{Credit, NONCE_BYTES, Secret};
use crate::names::{ClusterId, Incarnation, NodeId};
use crate::placement::hash_key;
use crate::ring::{NodeState, RingDocument};
use crate::wire::Status;

fn identity(node: &str) -> Identity {
    Identity {
        versions: crate::wire::VERSIONS,
        cluster: ClusterId("slabring".parse().unwrap()),
        node: NodeId(node.parse().unwrap()),
        incarnation: Incarnation(1),
        shard: 0,
        shards: 1,
        secret: Secret::none(),
        message_bytes_max: 1 << 20,
        granted: Credit::default(),
    }
}

/// A ring of `a` and `b` in which only the nodes with a weight own keys.
fn ring(epoch: u64, weights: [u16; 2]) -> Arc<Ring> {
    let pair =
        |n: u16| (format!("10.0.0.{n}:7000").parse().unwrap(), format!("10.0.0.{n}:11211").parse().unwrap());
    let mut document = RingDocument::from_peers(vec![pair(1), pair(2)]).unwrap();
    document.epoch = Epoch(epoch);
    for ((slot, name), weight) in document.slots.iter_mut().zip(["a", "b"]).zip(weights) {
        slot.node = NodeId(name.parse().unwrap());
        slot.weight = weight;
    }
    Arc::new(Ring::new(document).unwrap())
}

type RunAnswer = (u32, u16, Result<(RunPart, Vec<u8>), Failure>);

struct Pair {
    now: Micros,
    sides: [Peers<u32>; 2],
    sockets: [BTreeMap<LinkId, LinkId>; 2],
    /// What each side executed.
    executed: [Vec<Vec<u8>>; 2],
    /// Messages about copies that came to either.
    copies: Vec<Vec<u8>>,
    /// What the clients of `a` got.
    answers: Vec<(u32, Result<Vec<u8>, Failure>)>,
    /// The same of gets that went together.
    run_answers: Vec<RunAnswer>,
    answers_at_once: bool,
    held: Vec<Asked>,
}

impl Pair {
    fn new() -> Self {
        Self::of(Credit { operations: 2, bytes: 1 << 20 })
    }

    fn of(granted: Credit) -> Self {
        let side = |node| Identity { granted, ..identity(node) };
        Self {
            now: Micros(1_000),
            sides: [Peers::new(side("a"), 1, 1), Peers::new(side("b"), 1, 2)],
            sockets: Default::default(),
            executed: Default::default(),
            copies: Vec::new(),
            answers: Vec::new(),
            run_answers: Vec::new(),
            answers_at_once: true,
            held: Vec::new(),
        }
    }

    /// Both follow the ring in which `b` owns everything.
    fn linked() -> Self {
        Self::with_credit(Credit { operations: 2, bytes: 1 << 20 })
    }

    fn with_credit(granted: Credit) -> Self {
        let mut pair = Self::of(granted);
        pair.adopt(0, ring(1, [0, 256]));
        pair.adopt(1, ring(1, [0, 256]));
        pair.run();
        pair
    }

    fn adopt(&mut self, side: usize, ring: Arc<Ring>) {
        self.sides[side].adopt(self.now, ring);
    }

    fn ask(&mut self, place: u32) -> Result<Route, Failure> {
        let hash = hash_key(b"key");
        let deadline = self.now + Micros::from_millis(500);
        self.sides[0].forward(
            self.now,
            place,
            &Forward { hash, flags: Flags::NONE, deadline, bytes: b"get key\r\n" },
        )
    }

    fn run(&mut self) {
        loop {
            let mut is_idle = true;
            for side in 0..2 {
                while let Some(effect) = self.sides[side].next(self.now) {
                    is_idle = false;
                    self.act(side, &effect);
                }
                is_idle &= !self.carry(side);
                self.sides[side].check_invariants();
            }
            if is_idle {
                return;
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now + Micros::from_millis(millis);
        self.run();
    }

    fn act(&mut self, side: usize, effect: &Effect<u32>) {
        match *effect {
            Effect::Connect { link, .. } => {
                let there = self.sides[1 - side].accept(self.now, [1; NONCE_BYTES]).unwrap();
                self.sockets[side].insert(link, there);
                self.sockets[1 - side].insert(there, link);
                self.sides[side].connected(self.now, link, [2; NONCE_BYTES]);
            }
            Effect::Up { .. } | Effect::RingReceived | Effect::RingDiffers { .. } => {}
            Effect::Replica { .. } | Effect::Grants { .. } | Effect::Touches { .. } => {
                self.copies.push(self.sides[side].body().to_vec());
            }
            Effect::Closed { link, .. } => {
                let there = self.sockets[side].remove(&link);
                if let Some(there) = there.filter(|there| self.sockets[1 - side].remove(there).is_some()) {
                    self.sides[1 - side].lost(there);
                }
            }
            Effect::Execute(asked) => {
                self.executed[side].push(self.sides[side].body().to_vec());
                self.held.push(asked);
                if self.answers_at_once {
                    self.respond(side);
                }
            }
            Effect::Answer { place, outcome } => {
                let reply = self.sides[side].body().to_vec();
                self.answers.push((place, outcome.map(|()| reply)));
            }
            Effect::Run { place, gets, outcome } => {
                let bytes = match outcome {
                    Ok(RunPart::NotExecuted) => self.sides[side].run().0.to_vec(),
                    _ => self.sides[side].body().to_vec(),
                };
                self.run_answers.push((place, gets, outcome.map(|part| (part, bytes))));
            }
            Effect::ExecuteHere { place } => {
                self.executed[side].push(self.sides[side].body().to_vec());
                self.answers.push((place, Ok(b"here".to_vec())));
            }
        }
    }

    fn respond(&mut self, side: usize) {
        for asked in std::mem::take(&mut self.held) {
            self.sides[side].respond(asked, Status::Done, b"END\r\n");
        }
    }

    fn carry(&mut self, side: usize) -> bool {
        let links: Vec<LinkId> = self.sides[side].links_to_send().collect();
        for &link in &links {
            let bytes = self.sides[side].take_output(self.now, link, Vec::new()).unwrap();
            self.sides[side].sent(link);
            if let Some(&there) = self.sockets[side].get(&link) {
                self.sides[1 - side].received(self.now, there, &bytes);
            }
        }
        !links.is_empty()
    }
}

const DONE: &[u8] = b"END\r\n";

#[test]
fn a_request_goes_to_its_owner_and_the_reply_comes_back() {
    let mut pair = Pair::linked();
    assert_eq!(pair.ask(7), Ok(Route::Sent));
    pair.run();
    assert_eq!(pair.executed[1], [b"get key\r\n"]);
    assert_eq!(pair.answers, [(7, Ok(DONE.to_vec()))]);
    assert_eq!(pair.sides[0].pending_count(), 0);
}

#[test]
fn messages_about_copies_arrive_whole_and_in_order_and_only_where_a_link_leads() {
    let mut pair = Pair::linked();
    let to = |slot, shard| PeerShard { slot: SlotId(slot), shard };
    let messages = [vec![1], vec![2; crate::link::REPLICA_BYTES_MAX], vec![3; 100]];
    for message in &messages {
        assert!(pair.sides[0].send_replica(to(1, 0), message));
    }
    for nowhere in [to(1, 1), to(0, 0), to(9, 0)] {
        assert!(!pair.sides[0].send_replica(nowhere, b"x"));
    }
    pair.run();
    assert!(pair.copies == messages);
    let link = pair.sockets[0].keys().copied().find(|&link| pair.sides[0].leads_to(link) == Some(to(1, 0)));
    pair.sides[0].lost(link.unwrap());
    pair.run();
    assert!(!pair.sides[0].send_replica(to(1, 0), b"x"), "the link is gone");
    pair.pass(100);
    assert!(pair.sides[0].send_replica(to(1, 0), b"x"), "there is another");
}

#[test]
fn what_is_no_message_about_copies_ends_its_link() {
    let mut pair = Pair::linked();
    assert!(pair.sides[0].send_replica(PeerShard { slot: SlotId(1), shard: 0 }, b"garbage"));
    pair.carry(0);
    let Some(Effect::Replica { link }) = pair.sides[1].next(pair.now) else { panic!("it has arrived") };
    pair.sides[1].refuse_message(link);
    let closed = pair.sides[1].next(pair.now);
    assert!(
        matches!(closed, Some(Effect::Closed { reason: CloseReason::Message, was_up: true, .. })),
        "{closed:?}"
    );
}

#[test]
fn what_cannot_be_sent_is_answered_at_once() {
    let mut pair = Pair::new();
    assert_eq!(pair.ask(1), Err(Failure::NoRing));
    pair.adopt(0, ring(1, [0, 256]));
    assert_eq!(pair.ask(1), Err(Failure::OwnerGone), "the link is not up yet");
    pair.adopt(0, ring(2, [256, 0]));
    assert_eq!(pair.ask(1), Ok(Route::Here));
    let mut pair = Pair::linked();
    pair.answers_at_once = false;
    assert_eq!(
        [pair.ask(1), pair.ask(2), pair.ask(3)],
        [Ok(Route::Sent), Ok(Route::Sent), Err(Failure::NoCredit)]
    );
}

#[test]
fn a_link_that_ends_answers_what_was_sent_on_it() {
    let mut pair = Pair::linked();
    pair.answers_at_once = false;
    pair.ask(1).unwrap();
    pair.run();
    let (link, _) = pair.sides[0].links().find(|(_, link)| link.used().operations > 0).unwrap();
    pair.sides[0].lost(link);
    pair.run();
    assert_eq!(pair.answers, [(1, Err(Failure::OwnerGone))]);
    pair.respond(1);
    pair.pass(200);
    assert_eq!(pair.answers.len(), 1, "the late reply is nobody's");
    assert_eq!(pair.ask(2), Ok(Route::Sent), "the link is back");
}

#[test]
fn a_late_reply_gives_back_its_credit_and_answers_nobody() {
    let mut pair = Pair::linked();
    pair.answers_at_once = false;
    pair.ask(1).unwrap();
    pair.run();
    pair.pass(500);
    pair.pass(10);
    assert_eq!(pair.answers, [(1, Err(Failure::Expired))]);
    assert_eq!(pair.sides[0].pending_count(), 1);
    pair.respond(1);
    pair.run();
    assert_eq!((pair.answers.len(), pair.sides[0].pending_count()), (1, 0));
}

#[test]
fn a_request_that_came_too_late_is_not_executed() {
    let mut pair = Pair::linked();
    pair.ask(1).unwrap();
    let link = pair.sides[0].links_to_send().next().unwrap();
    let late = pair.now + Micros::from_millis(500);
    let deadline = pair.sides[0].take_output(pair.now, link, Vec::new()).unwrap();
    let there = pair.sockets[0][&link];
    pair.sides[1].received(pair.now, there, &deadline);
    assert!(pair.sides[1].next(late).is_none(), "it waited in the input for too long");
    assert!(pair.executed[1].is_empty());
}

#[test]
fn an_origin_that_is_behind_learns_the_ring_and_sends_where_it_says() {
    let mut pair = Pair::linked();
    pair.adopt(1, ring(2, [256, 0]));
    pair.ask(1).unwrap();
    pair.run();
    assert_eq!((pair.answers.len(), pair.sides[0].pending_count()), (0, 1), "it waits for the ring");
    pair.adopt(0, ring(2, [256, 0]));
    pair.run();
    assert_eq!(pair.answers, [(1, Ok(b"here".to_vec()))]);
    assert!(pair.executed[1].is_empty());
}

impl Pair {
    /// Asks for `key` with a request that can be told from others.
    fn send(&mut self, place: u32, text: &str) -> Result<Route, Failure> {
        let (hash, deadline) = (hash_key(b"key"), self.now + Micros::from_millis(500));
        let request = Forward { hash, flags: Flags::NONE, deadline, bytes: text.as_bytes() };
        self.sides[0].forward(self.now, place, &request)
    }
}

#[test]
fn what_is_asked_behind_a_request_that_waits_for_a_ring_is_done_after_it() {
    let mut pair = Pair::linked();
    pair.adopt(1, ring(2, [256, 0]));
    pair.send(1, "first").unwrap();
    pair.run();
    assert_eq!(pair.sides[0].pending_count(), 1, "it was refused");
    assert!(pair.sides[0].holds(hash_key(b"key")) && pair.sides[0].must_wait(pair.now, hash_key(b"key"), 9));
    assert_eq!(pair.send(2, "second"), Ok(Route::Sent));
    assert_eq!(pair.send(3, "third"), Ok(Route::Sent));
    pair.run();
    assert!(pair.executed.iter().all(Vec::is_empty));
    pair.adopt(0, ring(2, [256, 0]));
    pair.run();
    assert_eq!(pair.executed[0], [&b"first"[..], b"second", b"third"]);
    assert!(!pair.sides[0].holds(hash_key(b"key")));
    assert_eq!(pair.send(4, "fourth"), Ok(Route::Here));
}

#[test]
fn what_is_this_nodes_by_a_newer_ring_waits_for_what_is_under_way_to_the_owner_before() {
    let mut pair = Pair::linked();
    pair.answers_at_once = false;
    pair.send(1, "first").unwrap();
    pair.run();
    pair.adopt(0, ring(2, [256, 0]));
    assert_eq!(pair.send(2, "second"), Ok(Route::Sent), "not executed here before the first has its answer");
    pair.run();
    assert!(pair.executed[0].is_empty() && pair.answers.is_empty());
    pair.respond(1);
    pair.run();
    assert_eq!(
        (&pair.executed[1][..], &pair.executed[0][..]),
        (&[b"first".to_vec()][..], &[b"second".to_vec()][..])
    );
    assert_eq!(pair.answers.len(), 2);
}

#[test]
fn a_former_owner_that_hangs_is_waited_for_until_its_request_is_given_up_and_not_at_all_when_it_is_down() {
    for is_down in [false, true] {
        let mut pair = Pair::linked();
        pair.answers_at_once = false;
        pair.send(1, "first").unwrap();
        pair.run();
        let mut document = ring(2, [256, 0]).document().clone();
        document.slots[1].state = if is_down { NodeState::Down } else { NodeState::Up };
        pair.pass(100);
        pair.adopt(0, Arc::new(Ring::new(document).unwrap()));
        assert_eq!(pair.send(2, "second"), Ok(Route::Sent));
        pair.run();
        let here = (2, Ok(b"here".to_vec()));
        if is_down {
            assert_eq!(pair.answers, [(1, Err(Failure::OwnerGone)), here], "at once");
            continue;
        }
        assert_eq!(pair.answers, [], "it may be executed yet, and is to be before the second");
        pair.pass(400);
        pair.pass(10);
        assert_eq!(pair.answers, [(1, Err(Failure::Expired)), here]);
    }
}

#[test]
fn a_request_that_was_refused_and_then_overtaken_is_not_executed() {
    let mut pair = Pair::linked();
    pair.adopt(0, ring(2, [0, 256]));
    pair.send(1, "first").unwrap();
    pair.carry(0);
    assert!(pair.sides[1].next(pair.now).is_none(), "the owner is behind");
    pair.send(2, "second").unwrap();
    pair.carry(0);
    pair.adopt(1, ring(2, [0, 256]));
    pair.run();
    assert_eq!(pair.executed[1], [b"second"]);
    assert_eq!(pair.answers.len(), 2);
    assert!(pair.answers.contains(&(1, Err(Failure::Unsettled))) && pair.sides[0].pending_count() == 0);
}

#[test]
fn lines_are_kept_no_longer_than_the_ring_is_unsettled() {
    let mut pair = Pair::with_credit(crate::link::CREDIT_DEFAULT);
    pair.adopt(1, ring(2, [256, 0]));
    pair.send(1, "first").unwrap();
    assert!(!pair.sides[0].must_wait(pair.now, 0, 9) && pair.sides[0].has_room_for_any(1, 1));
    pair.run();
    assert!(!pair.sides[0].has_room_for_any(1, 1), "each has to look");
    pair.pass(60);
    assert_eq!(pair.answers, [(1, Err(Failure::Unsettled))]);
    assert!(!pair.sides[0].holds(hash_key(b"key")) && pair.sides[0].has_room_for_any(1, 1));
    pair.pass(60);
    assert_eq!(pair.send(2, "second"), Ok(Route::Sent));
    assert!(!pair.sides[0].pending.keeps_order(pair.now), "nobody pays for it any more");
}

#[test]
fn an_owner_that_is_behind_is_waited_for() {
    let mut pair = Pair::linked();
    pair.adopt(0, ring(2, [0, 256]));
    pair.ask(1).unwrap();
    pair.run();
    assert_eq!((pair.executed[1].len(), pair.sides[0].pending_count()), (0, 1));
    pair.adopt(1, ring(2, [0, 256]));
    pair.run();
    assert_eq!(pair.answers, [(1, Ok(DONE.to_vec()))]);
}

#[test]
fn strangers_who_prove_nothing_shut_no_node_out_and_are_closed_in_time() {
    let mut pair = Pair::new();
    let mut displaced = 0;
    for number in 0..2 * ACCEPTED_MAX {
        assert!(pair.sides[1].accept(pair.now, [3; NONCE_BYTES]).is_some(), "{number} came before");
        pair.now = pair.now + Micros(1);
        while let Some(effect) = pair.sides[1].next(pair.now) {
            assert!(matches!(effect, Effect::Closed { reason: CloseReason::Displaced, was_up: false, .. }));
            displaced += 1;
        }
        pair.sides[1].check_invariants();
    }
    assert_eq!(displaced, 2 * ACCEPTED_MAX - STRANGERS_MAX);
    for side in 0..2 {
        pair.adopt(side, ring(1, [0, 256]));
    }
    pair.run();
    assert_eq!(pair.ask(7), Ok(Route::Sent), "a node finds a place");
    pair.run();
    assert_eq!(pair.answers, [(7, Ok(DONE.to_vec()))]);
    // More strangers close strangers and not the node's link.
    for _ in 0..STRANGERS_MAX {
        assert!(pair.sides[1].accept(pair.now, [3; NONCE_BYTES]).is_some());
    }
    pair.run();
    assert_eq!(pair.ask(8), Ok(Route::Sent));
    for _ in 0..20 {
        pair.pass(crate::link::GREETING_TIME_MAX.0 / 1_000 / 20 + 1);
    }
    assert_eq!((pair.answers.len(), pair.sides[1].accepted, pair.sides[1].strangers.len()), (2, 1, 0));
}

#[test]
fn nobody_waits_for_a_ring_for_ever() {
    let mut pair = Pair::linked();
    pair.adopt(1, ring(2, [256, 0]));
    pair.ask(1).unwrap();
    pair.run();
    pair.pass(60);
    assert_eq!(pair.answers, [(1, Err(Failure::Unsettled))]);
    assert_eq!(pair.sides[0].pending_count(), 0);
}

#[test]
fn two_rings_of_one_epoch_are_noticed() {
    let mut pair = Pair::linked();
    pair.sides[1] = {
        let mut other = Pair::linked();
        other.adopt(1, ring(1, [256, 0]));
        other.sides.into_iter().nth(1).unwrap()
    };
    pair.sockets = Default::default();
    // The old links are silent first.
    (0..20).for_each(|_| pair.pass(200));
    pair.ask(1).unwrap();
    pair.run();
    assert_eq!(pair.answers, [(1, Err(Failure::Disagreement))]);
}

#[test]
fn who_is_being_filled_is_told_what_all_who_hold_items_are_told() {
    let mut pair = Pair::linked();
    let states = [(NodeState::Syncing, true), (NodeState::Draining, true), (NodeState::Down, false)];
    for (epoch, (state, is_told)) in (2..).zip(states) {
        let mut document = ring(epoch, [256, 256]).document().clone();
        document.slots[1].state = state;
        pair.adopt(0, Arc::new(Ring::new(document).unwrap()));
        assert_eq!(pair.sides[0].others().eq([SlotId(1)]), is_told, "{state:?}");
    }
}

#[test]
fn a_node_that_left_the_ring_is_let_go() {
    let mut pair = Pair::linked();
    let mut document = ring(2, [256, 256]).document().clone();
    document.slots[1].state = NodeState::Left;
    pair.adopt(0, Arc::new(Ring::new(document).unwrap()));
    pair.run();
    let dialled = pair.sides[0].dialled.len();
    assert_eq!((dialled, pair.sides[0].links().count()), (0, 1), "only the one that b dialled is left");
}

#[test]
fn who_finds_no_room_waits_while_there_are_answers_and_no_longer() {
    let mut pair = Pair::linked();
    let hash = hash_key(b"key");
    pair.answers_at_once = false;
    (0..100).for_each(|_| pair.pass(100));
    assert_eq!([pair.ask(1), pair.ask(2)], [Ok(Route::Sent); 2]);
    pair.run();
    assert!(pair.sides[0].must_wait(pair.now, hash, 9), "it has just become full");
    pair.pass(400);
    pair.respond(1);
    pair.run();
    assert!(!pair.sides[0].must_wait(pair.now, hash, 9));
    assert_eq!([pair.ask(3), pair.ask(4)], [Ok(Route::Sent); 2]);
    pair.run();
    assert!(pair.sides[0].must_wait(pair.now, hash, 9));
    pair.pass(400);
    pair.pass(100);
    assert!(!pair.sides[0].must_wait(pair.now, hash, 9), "nothing is answered any more");
    assert_eq!(pair.ask(5), Err(Failure::NoCredit), "and that is said at once");
}

#[test]
fn a_node_that_answers_nothing_leaves_room_for_requests_to_others() {
    let mut pair = Pair::with_credit(crate::link::CREDIT_DEFAULT);
    pair.answers_at_once = false;
    let sent = (0..).take_while(|&place| pair.ask(place).is_ok()).count();
    assert_eq!(sent, usize::try_from(NODE_SHARE.operations).unwrap());
    assert!(sent * 4 <= crate::forward::PENDING_MAX);
    let flush = Forward { hash: 0, flags: Flags::NODE, deadline: pair.now, bytes: b"flush_all 0\r\n" };
    let node = pair.sides[0].others().next().unwrap();
    assert_eq!(pair.sides[0].tell(pair.now, node, 0, &flush), Ok(()), "a flush finds room");
}

#[test]
fn links_are_looked_at_when_something_happens_and_when_their_time_has_come() {
    let mut pair = Pair::linked();
    pair.pass(1);
    assert!(pair.sides[0].ready.is_empty() && pair.sides[0].to_send.is_empty());
    let wake = pair.sides[0].wake_at();
    assert!(wake > pair.now && wake <= pair.now + crate::link::HEARTBEAT_EVERY);
    for _ in 0..100 {
        pair.pass(100);
        assert!(pair.sides[0].wake_at() > pair.now, "a turn has nothing left to do");
    }
    assert_eq!(pair.ask(1), Ok(Route::Sent));
    assert_eq!(pair.sides[0].links_to_send().count(), 1);
    assert_eq!(pair.sides[0].links_to_send().count(), 0, "each is named once");
}

mod long;
mod runs;
