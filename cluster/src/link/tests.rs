//! Two ends of a link over a wire that the test holds.

use super::greeting::PROOF_BYTES;
use super::*;
use crate::wire::{self, BODY_BYTES_MAX, GREETING_BYTES_MAX, Garbled, HEADER_BYTES};

const ROOMY: Credit = Credit { operations: 100, bytes: 8 << 20 };
const HOUR: Micros = Micros::from_millis(3_600_000);

fn identity(node: &str) -> Identity {
    Identity {
        versions: wire::VERSIONS,
        cluster: ClusterId("cache".parse().unwrap()),
        node: NodeId(node.parse().unwrap()),
        incarnation: Incarnation(1),
        shard: 0,
        shards: 4,
        secret: Secret::new(b"a secret of the cluster".to_vec()).unwrap(),
        message_bytes_max: 3 << 20,
        granted: ROOMY,
    }
}

fn expected(node: &str) -> Expected {
    Expected { node: NodeId(node.parse().unwrap()), incarnation: Incarnation::ANY }
}

/// A dialler `a` and an acceptor `b`.
struct Pair {
    now: Micros,
    a: Link,
    b: Link,
    /// The body of what each side said last.
    bodies: [Vec<u8>; 2],
}

impl Pair {
    fn of(a: Identity, b: Identity, expected: Expected) -> Self {
        let now = Micros(1_000);
        let mut a = Link::dialler(Arc::new(a), expected, Epoch(3), now, 5);
        assert_eq!(a.next(now), Some(Event::Connect));
        a.connected(now, [1; NONCE_BYTES], 0);
        let b = Link::acceptor(Arc::new(b), Epoch(4), now, [2; NONCE_BYTES]);
        Self { now, a, b, bodies: Default::default() }
    }

    fn up() -> Self {
        let mut pair = Self::of(identity("a"), identity("b"), expected("b"));
        assert_eq!(
            pair.run(),
            (vec![Event::Up, Event::PeerEpoch(Epoch(4))], vec![Event::Up, Event::PeerEpoch(Epoch(3))])
        );
        pair
    }

    /// Moves bytes both ways until nothing moves. Gives what each side said.
    fn run(&mut self) -> (Vec<Event>, Vec<Event>) {
        let (mut by_a, mut by_b) = (Vec::new(), Vec::new());
        loop {
            let moved = carry(self.now, &mut self.a, &mut self.b) + carry(self.now, &mut self.b, &mut self.a);
            let before = by_a.len() + by_b.len();
            by_a.extend(std::iter::from_fn(|| say(self.now, &mut self.a, &mut self.bodies[0])));
            by_b.extend(std::iter::from_fn(|| say(self.now, &mut self.b, &mut self.bodies[1])));
            self.a.check_invariants();
            self.b.check_invariants();
            if moved == 0 && before == by_a.len() + by_b.len() {
                return (by_a, by_b);
            }
        }
    }

    fn pass(&mut self, millis: u64) -> (Vec<Event>, Vec<Event>) {
        self.now = self.now + Micros::from_millis(millis);
        self.run()
    }

    fn request(&mut self, opaque: u64, body: &[u8]) -> Result<(), NoCredit> {
        let header = Header { opaque, detail: 1, ..Header::new(Kind::Request, Epoch::NONE) };
        self.a.send_request(self.now, header, self.now + HOUR, body)
    }
}

fn say(now: Micros, link: &mut Link, body: &mut Vec<u8>) -> Option<Event> {
    let event = link.next(now)?;
    link.body().clone_into(body);
    Some(event)
}

fn carry(now: Micros, from: &mut Link, to: &mut Link) -> usize {
    let Some(bytes) = from.take_output(now, Vec::new()) else { return 0 };
    from.sent();
    to.receive(now, &bytes);
    bytes.len()
}

#[track_caller]
fn check_refused(
    a: Identity,
    b: Identity,
    expected: Expected,
    by_a: Option<CloseReason>,
    by_b: Option<CloseReason>,
) {
    let mut pair = Pair::of(a, b, expected);
    let (events_a, events_b) = pair.run();
    let closed = |reason| Event::Closed { reason, was_up: false };
    assert_eq!(events_a, by_a.map(closed).into_iter().collect::<Vec<_>>());
    assert_eq!(events_b, by_b.map(closed).into_iter().collect::<Vec<_>>());
}

#[test]
fn two_nodes_of_a_cluster_meet() {
    let pair = Pair::up();
    assert_eq!(pair.a.peer().unwrap().node.to_string(), "b");
    assert_eq!(pair.b.peer().unwrap().node.to_string(), "a");
}

#[test]
fn a_node_with_another_secret_is_refused_before_it_learns_anything() {
    let mut stranger = identity("a");
    stranger.secret = Secret::new(vec![0; 16]).unwrap();
    check_refused(stranger, identity("b"), expected("b"), None, Some(CloseReason::Secret));
}

#[test]
fn an_acceptor_that_does_not_know_the_secret_is_refused() {
    let mut pair = Pair::up();
    let said = Transcript { hello: vec![1], challenge: vec![2] };
    pair.a.state = State::Proving { deadline: HOUR, version: 1, said };
    let mut welcome = Vec::new();
    wire::encode(&Header::new(Kind::Welcome, Epoch(4)), &[0; PROOF_BYTES + 8], &mut welcome);
    pair.a.receive(pair.now, &welcome);
    assert_eq!(pair.a.next(pair.now), Some(Event::Closed { reason: CloseReason::Secret, was_up: false }));
}

#[test]
fn nodes_that_do_not_belong_together_say_why() {
    let other = ClusterId("other".parse().unwrap());
    let mut foreign = identity("a");
    foreign.cluster = other.clone();
    let refused = CloseReason::OtherCluster { node: foreign.node.clone(), cluster: other };
    check_refused(foreign, identity("b"), expected("b"), None, Some(refused));
    check_refused(identity("b"), identity("b"), expected("b"), None, Some(CloseReason::Itself));
    let b = NodeId("b".parse().unwrap());
    check_refused(identity("a"), identity("b"), expected("c"), Some(CloseReason::OtherNode(b.clone())), None);
    let second_life = Expected { incarnation: Incarnation(2), ..expected("b") };
    check_refused(identity("a"), identity("b"), second_life, Some(CloseReason::OtherLife(b)), None);
}

#[test]
fn neighbouring_versions_meet_and_distant_ones_do_not() {
    let speaking = |node, lowest, highest| {
        let mut identity = identity(node);
        identity.versions = Versions { lowest, highest };
        identity
    };
    let mut pair = Pair::of(speaking("a", 1, 2), speaking("b", 2, 3), expected("b"));
    pair.run();
    assert!(pair.a.is_up() && pair.b.is_up());
    assert_eq!(pair.a.peer().unwrap().versions.highest, 2);
    let too_old = CloseReason::Versions(Versions { lowest: 1, highest: 1 });
    check_refused(speaking("a", 1, 1), speaking("b", 2, 3), expected("b"), None, Some(too_old));
}

#[test]
fn a_request_and_its_reply_cross_and_the_credit_comes_back() {
    let mut pair = Pair::up();
    pair.request(77, b"get k\r\n").unwrap();
    assert_eq!(pair.a.used().operations, 1);
    let (_, by_b) = pair.run();
    let [Event::Request(inbound)] = by_b[..] else { panic!("{by_b:?}") };
    assert_eq!((&pair.bodies[1][..], inbound.hop, inbound.epoch), (&b"get k\r\n"[..], 1, Epoch(3)));
    pair.b.send_response(inbound.owed, Status::Done, b"END\r\n");
    let (by_a, _) = pair.run();
    assert_eq!(by_a, [Event::Response { opaque: 77, status: Status::Done, part: 0, epoch: Epoch(4) }]);
    assert_eq!(pair.bodies[0], b"END\r\n");
    pair.a.settle(pair.now, 7);
    assert_eq!((pair.a.used(), pair.b.used()), (Credit::NONE, Credit::NONE));
}

#[test]
fn long_messages_are_cut_and_joined() {
    let mut pair = Pair::up();
    for length in [BODY_BYTES_MAX - 1, BODY_BYTES_MAX, BODY_BYTES_MAX + 1, 3 << 20] {
        let body: Vec<u8> = (0..=250).cycle().take(length).collect();
        pair.request(1, &body).unwrap();
        let (_, by_b) = pair.run();
        let [Event::Request(inbound)] = by_b[..] else { panic!("{length}: {by_b:?}") };
        assert!(pair.bodies[1] == body);
        pair.b.send_response(inbound.owed, Status::Done, &body);
        pair.run();
        assert!(pair.bodies[0] == body);
        pair.a.settle(pair.now, length);
    }
}

#[test]
fn without_credit_nothing_is_sent_and_who_sends_all_the_same_is_closed() {
    let mut b = identity("b");
    b.granted = Credit { operations: 2, bytes: 1_000 };
    let mut pair = Pair::of(identity("a"), b, expected("b"));
    pair.run();
    assert_eq!(pair.request(1, &[0; 2_000]), Ok(()), "one may be larger when it is alone");
    assert_eq!(pair.request(2, b""), Err(NoCredit));
    pair.a.settle(pair.now, 2_000);
    pair.b.used = Credit::NONE;
    assert_eq!(
        (pair.request(1, b""), pair.request(2, b""), pair.request(3, b"")),
        (Ok(()), Ok(()), Err(NoCredit))
    );
    let over = safeguard::without(Safeguard::CreditIsKept, || pair.request(3, b""));
    assert_eq!(over, Ok(()));
    pair.b.used = Credit::NONE;
    let by_b = loop {
        // The dialler's own check would object to what it was made to do.
        carry(pair.now, &mut pair.a, &mut pair.b);
        match pair.b.next(pair.now) {
            Some(Event::Request(_)) => {}
            other => break other,
        }
    };
    assert_eq!(by_b, Some(Event::Closed { reason: CloseReason::CreditExceeded, was_up: true }));
}

#[test]
fn idle_links_stay_up_and_silent_ones_end() {
    let mut pair = Pair::up();
    for _ in 0..100 {
        assert_eq!(pair.pass(150), (vec![], vec![]));
    }
    // Both stood still, with their machine: neither can have heard of the other.
    pair.now = pair.now + SILENCE_MAX;
    assert_eq!((pair.a.next(pair.now), pair.b.next(pair.now)), (None, None));
    let back_at = pair.now;
    let silent = Event::Closed { reason: CloseReason::Silent, was_up: true };
    let [by_a, by_b] = [&mut pair.a, &mut pair.b].map(|link| {
        let at = std::iter::successors(Some(back_at), |&at| Some(at + HEARTBEAT_EVERY));
        at.take(20).find_map(|at| link.next(at).map(|event| (at, event)))
    });
    assert_eq!(by_a, Some((back_at + SILENCE_MAX + Micros::from_millis(100), silent)));
    assert_eq!(by_b, by_a);
    assert!(pair.b.has_ended());
}

#[test]
fn an_acceptor_whose_replies_wait_reads_no_further_and_does_not_call_that_silence() {
    let mut pair = Pair::up();
    for opaque in 0..3 {
        pair.request(opaque, b"get big\r\n").unwrap();
    }
    carry(pair.now, &mut pair.a, &mut pair.b);
    let Some(Event::Request(inbound)) = pair.b.next(pair.now) else { panic!() };
    pair.b.send_response(inbound.owed, Status::Done, &[0; OUTPUT_STALL_BYTES]);
    assert!(!pair.b.wants_bytes());
    assert_eq!(pair.b.next(pair.now), None, "the second request waits");
    let reply = pair.b.take_output(pair.now, Vec::new()).unwrap();
    pair.now = pair.now + SENDING_TIME_MAX.min(Micros::from_millis(9_000));
    assert_eq!(pair.b.next(pair.now), None, "it does not listen, so it hears nothing");
    pair.b.sent();
    assert!(matches!(pair.b.next(pair.now), Some(Event::Request(_))), "{} bytes later", reply.len());
}

#[test]
fn a_peer_that_never_reads_is_closed() {
    let mut pair = Pair::up();
    pair.b.set_ring(Epoch(9), 0);
    pair.b.take_output(pair.now, Vec::new()).unwrap();
    pair.now = pair.now + SENDING_TIME_MAX;
    assert_eq!(pair.b.next(pair.now), Some(Event::Closed { reason: CloseReason::Stuck, was_up: true }));
}

#[test]
fn garbled_bytes_and_frames_out_of_place_end_the_link() {
    let frame = |kind, bytes: &[u8]| {
        let mut frame = Vec::new();
        wire::encode(&Header::new(kind, Epoch(1)), bytes, &mut frame);
        frame
    };
    let mut pair = Pair::up();
    let mut garbled = frame(Kind::Request, b"get k\r\n");
    garbled[33] ^= 1;
    pair.b.receive(pair.now, &garbled);
    let closed = |reason| (vec![], vec![Event::Closed { reason, was_up: true }]);
    assert_eq!(pair.run(), closed(CloseReason::Garbled(Garbled::Checksum)));
    for kind in [Kind::Hello, Kind::Response, Kind::Proof] {
        let mut pair = Pair::up();
        pair.b.receive(pair.now, &frame(kind, b""));
        assert_eq!(pair.run(), closed(CloseReason::Unexpected(kind)));
    }
    let mut early = Link::acceptor(Arc::new(identity("b")), Epoch(1), Micros(0), [0; NONCE_BYTES]);
    early.receive(Micros(0), &frame(Kind::Request, b"get k\r\n"));
    let closed = |reason| Some(Event::Closed { reason, was_up: false });
    assert_eq!(early.next(Micros(0)), closed(CloseReason::Unexpected(Kind::Request)));
    let mut long = Link::acceptor(Arc::new(identity("b")), Epoch(1), Micros(0), [0; NONCE_BYTES]);
    long.receive(Micros(0), &frame(Kind::Hello, &[0; GREETING_BYTES_MAX + 1])[..HEADER_BYTES]);
    assert_eq!(
        long.next(Micros(0)),
        closed(CloseReason::Garbled(Garbled::Length(1_025))),
        "strangers send little"
    );
}

#[test]
fn a_dialler_comes_back_after_ever_longer_pauses() {
    let mut link = Link::dialler(Arc::new(identity("a")), expected("b"), Epoch(1), Micros(0), 9);
    let mut now = Micros(0);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        assert_eq!(link.next(now), Some(Event::Connect));
        link.lost();
        assert!(matches!(link.next(now), Some(Event::Closed { reason: CloseReason::Lost, .. })));
        assert_eq!(link.next(now), None);
        pauses.push(link.wake_at().since(now).0);
        now = link.wake_at();
    }
    assert!(pauses[0] >= 75_000 && pauses[0] <= 100_000, "{pauses:?}");
    assert!(pauses[..5].is_sorted(), "{pauses:?}");
    assert!(pauses[5..].iter().all(|&pause| (1_200_000..=1_600_000).contains(&pause)), "{pauses:?}");
}

#[test]
fn a_connection_or_greeting_that_takes_too_long_is_given_up() {
    let mut link = Link::dialler(Arc::new(identity("a")), expected("b"), Epoch(1), Micros(0), 9);
    assert_eq!(link.next(Micros(0)), Some(Event::Connect));
    let late = link.wake_at();
    assert_eq!(late, GREETING_TIME_MAX);
    let given_up = Some(Event::Closed { reason: CloseReason::GreetingTime, was_up: false });
    assert_eq!(link.next(late), given_up);
    let mut stranger = Link::acceptor(Arc::new(identity("b")), Epoch(1), Micros(0), [0; NONCE_BYTES]);
    assert_eq!(stranger.next(late), given_up);
}

#[test]
fn a_response_owed_to_an_earlier_connection_is_dropped() {
    let mut pair = Pair::up();
    pair.request(5, b"").unwrap();
    let (_, by_b) = pair.run();
    let [Event::Request(inbound)] = by_b[..] else { panic!("{by_b:?}") };
    pair.b.lost();
    pair.b.next(pair.now);
    pair.b.send_response(inbound.owed, Status::Done, b"late");
    assert_eq!(pair.b.take_output(pair.now, Vec::new()), None);
}

#[test]
fn any_cut_of_the_stream_says_the_same() {
    let mut pair = Pair::up();
    for opaque in 0..5 {
        pair.request(opaque, &vec![7; 100 * usize::try_from(opaque).unwrap()]).unwrap();
    }
    let bytes = pair.a.take_output(pair.now, Vec::new()).unwrap();
    let mut heard = 0;
    for byte in &bytes {
        pair.b.receive(pair.now, std::slice::from_ref(byte));
        while let Some(event) = pair.b.next(pair.now) {
            assert!(matches!(event, Event::Request(_)));
            assert_eq!(pair.b.body().len(), 100 * heard);
            heard += 1;
        }
    }
    assert_eq!(heard, 5);
}

/// Each direction is a socket that holds one send, and takes the next when the reader has read.
#[test]
fn two_sides_that_flood_each_other_come_to_an_end() {
    const LARGE: usize = 1 << 20;
    let mut pair = Pair::up();
    let (mut to_b, mut to_a) = (None, None);
    let (mut asked, mut answered) = (0, 0);
    for _ in 0..1_000 {
        while asked < 30 && pair.request(asked, &vec![1; LARGE]).is_ok() {
            asked += 1;
        }
        while let Some(event) = pair.b.next(pair.now) {
            let Event::Request(inbound) = event else { panic!("{event:?}") };
            pair.b.send_response(inbound.owed, Status::Done, &vec![2; 2 * LARGE]);
        }
        while let Some(event) = pair.a.next(pair.now) {
            assert!(matches!(event, Event::Response { .. }), "{event:?}");
            answered += 1;
            pair.a.settle(pair.now, LARGE);
        }
        pair.a.check_invariants();
        pair.b.check_invariants();
        flow(pair.now, &mut to_b, &mut pair.a, &mut pair.b);
        flow(pair.now, &mut to_a, &mut pair.b, &mut pair.a);
    }
    assert_eq!((asked, answered), (30, 30));
}

fn flow(now: Micros, socket: &mut Option<Vec<u8>>, from: &mut Link, to: &mut Link) {
    if socket.is_none() {
        *socket = from.take_output(now, Vec::new());
    }
    if let Some(bytes) = socket.take_if(|_| to.wants_bytes()) {
        to.receive(now, &bytes);
        from.sent();
    }
}

#[test]
fn a_large_request_that_waits_goes_before_small_ones() {
    let share = Credit { operations: 10, bytes: 10_000 };
    let mut pair = Pair::up();
    pair.request(1, &[0; 1_000]).unwrap();
    pair.request(2, &[0; 1_000]).unwrap();
    assert!(pair.a.has_room(2_000, share));
    assert!(!pair.a.has_room(9_000, share));
    assert!(!pair.a.has_room(2_000, share), "somebody waits");
    pair.a.settle(pair.now, 1_000);
    assert!(!pair.a.has_room(9_000, share) && !pair.a.has_room(10, share));
    pair.a.settle(pair.now, 1_000);
    assert!(pair.a.has_room(9_000, share), "now it is alone");
    assert!(pair.a.has_room(2_000, share));
}

#[test]
fn a_long_message_leaves_in_parts_and_who_waits_behind_it_knows_that_it_moves() {
    let mut pair = Pair::up();
    pair.request(1, &vec![b'x'; 5 << 19]).unwrap();
    let mut parts = Vec::new();
    while let Some(part) = pair.a.take_output(pair.now, Vec::new()) {
        pair.b.receive(pair.now, &part);
        parts.push(part.len());
        pair.now = pair.now + ROOM_WAIT_MAX;
        assert!(!pair.a.is_moving(pair.now), "nothing has left for so long");
        pair.a.sent();
        while let Some(event) = pair.b.next(pair.now) {
            assert!(matches!(event, Event::Request(_)), "{event:?}");
            assert_eq!(pair.b.body().len(), 5 << 19);
        }
        let all: usize = parts.iter().sum();
        let left = (5 << 19) - all.min(5 << 19);
        // Twice what is left at most, and what is kept for the next.
        assert!(pair.a.buffer_bytes() <= 2 * left + (2 << 20), "{} bytes", pair.a.buffer_bytes());
    }
    assert!(parts.len() == 3 && parts[..2] == [1 << 20; 2], "{parts:?}");
    assert!(pair.b.assembled_bytes() == 0 && pair.b.buffer_bytes() < 4 << 20);
}

#[test]
fn both_sides_hear_of_different_rings_of_one_epoch_and_not_too_often() {
    let mut pair = Pair::up();
    let differences =
        |events: Vec<Event>| events.iter().filter(|event| **event == Event::RingDiffers).count();
    let mut heard = |epochs: [u64; 2], marks: [u64; 2], millis: u64| {
        pair.a.set_ring(Epoch(epochs[0]), marks[0]);
        pair.b.set_ring(Epoch(epochs[1]), marks[1]);
        let mut sums = [0, 0];
        for _ in 0..millis / 100 {
            let (by_a, by_b) = pair.pass(100);
            sums = [sums[0] + differences(by_a), sums[1] + differences(by_b)];
        }
        sums
    };
    assert_eq!(heard([5, 5], [7, 7], 1_000), [0, 0], "the same ring");
    assert_eq!(heard([6, 5], [8, 7], 1_000), [0, 0], "a later ring");
    assert_eq!(heard([6, 6], [8, 0], 1_000), [0, 0], "one that does not say");
    assert_eq!(heard([7, 7], [9, 10], 50_000), [1, 1]);
    assert_eq!(heard([8, 8], [9, 10], 130_000), [3, 3]);
}

#[test]
fn what_is_too_long_for_the_other_side_is_answered_and_the_link_stays() {
    let small = Identity { message_bytes_max: 100_000, ..identity("b") };
    let large = vec![b'x'; 300_000];
    // As request, and as response.
    let mut pair = Pair::of(identity("a"), small, expected("b"));
    pair.run();
    for (opaque, body, status) in [
        (1, &large[..], Status::TooLarge),
        (2, b"small", Status::Done),
        (3, &large[..100_001], Status::TooLarge),
    ] {
        pair.request(opaque, body).unwrap();
        let (mut by_a, by_b) = pair.run();
        if let [Event::Request(inbound)] = by_b[..] {
            pair.b.send_response(inbound.owed, Status::Done, b"done");
            by_a.extend(pair.run().0);
        }
        assert_eq!(by_a, [Event::Response { opaque, status, part: 0, epoch: Epoch(4) }]);
        pair.a.settle(pair.now, body.len());
    }
    let small = Identity { message_bytes_max: 100_000, ..identity("a") };
    let mut pair = Pair::of(small, identity("b"), expected("b"));
    pair.run();
    for (opaque, body, status) in [(1, &large[..], Status::TooLarge), (2, b"small", Status::Done)] {
        pair.request(opaque, b"get k").unwrap();
        let [Event::Request(inbound)] = pair.run().1[..] else { panic!("it does not come") };
        pair.b.send_response(inbound.owed, Status::Done, body);
        assert_eq!(pair.run().0, [Event::Response { opaque, status, part: 0, epoch: Epoch(4) }]);
        pair.a.settle(pair.now, 5);
    }
    assert_eq!((pair.a.used(), pair.b.used()), (Credit::NONE, Credit::NONE));
}

mod batches;
