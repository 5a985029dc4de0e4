//! Whole clusters in one thread from one seed: nodes with their control and peers, connections that delay, cut and go
//! silent, an etcd that is away or late and tells things twice and out of order, clients that ask any node.
//!
//! Invariants, with the numbers of the cluster design:
//! * I8: from one ring to the next, a partition moves only from or to a node that changed,
//! * I9: every queue keeps its bound,
//! * I10: a request is sent at most twice, once more if it was one of several in a message, and when the faults end all nodes
//!   follow the last ring and all keys are served,
//! * I12: while only etcd fails, no request of a client fails that waits for its answers: of requests for one key that were sent
//!   together one may be given up to keep their order,
//! * where an operator wishes nodes weights, drains them and calls them down while they live, die and restart, every wish is fulfilled
//!   some time after the last fault, and every partition has its copies,
//! * and: each request is answered once and in time, executed at most once, and only by the owner by the owner's ring; a client
//!   that sends requests for one key without waiting sees them done in order; no node's ring goes back; rings are written by the
//!   conductor of the moment.
//!
//! `SLABRING_SEEDS=N` runs N seeds, `SLABRING_SEED=S` one of them, with its events on stderr.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::conductor::{Conductor, Judgement};
use crate::control::{self, Control};
use crate::coordinator::etcd::Etcd;
use crate::coordinator::{Answer, CallId, Need, NodeDescription};
use crate::forward::{Forward, HOPS_MAX};
use crate::link::{Credit, Identity, NONCE_BYTES, Secret};
use crate::names::{ClusterId, Incarnation, NodeId};
use crate::peers::{Effect, LinkId, Peers, Route};
use crate::placement::{PartitionId, hash_key, partition_of};
use crate::ring::{Epoch, NodeState, Refusal, Ring, RingDocument};
use crate::table::{PartitionTable, Slot};
use crate::time::Micros;
use crate::wire::{self, Decoded, Flags, Header, Kind, Status, Versions};

mod calls;
pub(crate) mod dice;
mod etcd;
mod faults;
mod network;
mod runs;
mod tests;
mod wishes;

use dice::Dice;
use etcd::SimEtcd;

/// Faults go on for so long; then everything is mended.
const FAULTS_END: Micros = Micros::from_millis(12_000);
/// By then everything must be well again: the last late call of a dead conductor has renewed its lease after 5 s, the
/// lease has run out after 5 more, and its heir has looked around.
const CHECKS_AT: Micros = Micros::from_millis(26_000);
/// So long after the checks it ends.
const END_AFTER: Micros = Micros::from_millis(1_000);
/// Requests are held to I12 from here: the cluster has formed.
const FORMED: Micros = Micros::from_millis(4_000);
const REQUEST_TIME_MAX: Micros = Micros::from_millis(1_000);
/// An answer may come so much after the deadline.
const ANSWER_SLACK: Micros = Micros::from_millis(20);
const CLUSTER: &str = "sim";

/// What one world has to suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Faults {
    /// Everything.
    All,
    /// Only etcd fails, and the ring stays as it is.
    OnlyEtcd,
    /// Nodes die and restart, links and etcd fail, and an operator wishes this and that. In a ring of one copy or two.
    Wishes,
}

impl Faults {
    fn checks_at(self) -> Micros {
        if self == Self::Wishes { wishes::CHECKS_AT } else { CHECKS_AT }
    }
}

struct Node {
    me: NodeId,
    life: u64,
    control: Control<Etcd>,
    peers: Peers<u64>,
    sockets: HashMap<LinkId, (usize, usize)>,
    epoch: Epoch,
    /// The wake that is asked for; earlier ones are void.
    wake_at: Micros,
    watch: Option<(CallId, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Socket {
    node: usize,
    life: u64,
    link: LinkId,
}

/// A connection: two ends, two directions.
struct Wire {
    ends: [Socket; 2],
    is_open: bool,
    /// Bytes from this end vanish.
    is_cut: [bool; 2],
    /// Bytes from this end arrive not before the last ones.
    last_at: [Micros; 2],
    /// Bytes each millisecond.
    speed: u64,
}

#[derive(Debug)]
enum Happens {
    Wake {
        node: usize,
        life: u64,
        at: Micros,
    },
    Dialled {
        node: usize,
        life: u64,
        link: LinkId,
        to: usize,
    },
    Delivered {
        wire: usize,
        from: usize,
        bytes: Vec<u8>,
        is_last: bool,
    },
    Closed {
        wire: usize,
        end: usize,
    },
    CallArrives {
        node: usize,
        life: u64,
        id: CallId,
        path: &'static str,
        body: String,
    },
    Answered {
        node: usize,
        life: u64,
        id: CallId,
        status: u16,
        body: String,
    },
    CallFailed {
        node: usize,
        life: u64,
        id: CallId,
    },
    Told {
        node: usize,
        life: u64,
        id: CallId,
        bytes: Vec<u8>,
    },
    Client,
    /// One request more.
    Asks,
    /// Another for the key of the request before, by the same client, who has not waited.
    Follows {
        before: u64,
        key: u64,
    },
    Weights,
    Wish,
    Crash {
        node: usize,
    },
    Fault,
    EtcdTick,
    Restart {
        node: usize,
    },
    Mended,
    Checked,
}

/// A client's request.
#[derive(Debug)]
struct Asked {
    node: usize,
    life: u64,
    at: Micros,
    is_answered: bool,
    executions: u32,
    must_succeed: bool,
    /// Of the same client, for the same key, and sent behind it.
    next: Option<u64>,
}

struct World {
    seed: u64,
    faults: Faults,
    dice: Dice,
    run_dice: Dice,
    /// Gets of runs that were answered together, by themselves, and not.
    run_gets: [u64; 3],
    /// For what clients send without waiting.
    pipeline_dice: Dice,
    now: Micros,
    queue: BTreeMap<(Micros, u64), Happens>,
    count: u64,
    nodes: Vec<Option<Node>>,
    lives: Vec<u64>,
    wires: Vec<Wire>,
    etcd: SimEtcd,
    etcd_is_down: bool,
    etcd_delay: u64,
    /// Reaches etcd and no other node.
    outsider: Option<usize>,
    /// A state of etcd that it may go back to.
    etcd_copy: Option<SimEtcd>,
    asked: Vec<Asked>,
    answers_done: u64,
    is_loud: bool,
}

/// Weights and zones of the slots, and the replicas.
type Shape = (Vec<(u16, u16)>, usize);

thread_local! {
    static TABLES: RefCell<HashMap<Shape, Arc<PartitionTable>>> = RefCell::default();
}

/// Rings of the same shape share their table: thousands of worlds see few shapes.
pub(crate) fn ring_of(document: RingDocument) -> Result<Ring, Refusal> {
    Ring::with_table(document, |slots: &[Slot], replicas| {
        let shape = slots.iter().map(|slot| (slot.weight.parts(), slot.zone.0)).collect();
        TABLES.with_borrow_mut(|tables| {
            let table = tables.entry((shape, replicas));
            Arc::clone(table.or_insert_with(|| Arc::new(PartitionTable::build(slots, replicas))))
        })
    })
}

fn described(node: usize, life: u64) -> NodeDescription {
    NodeDescription {
        node: NodeId(format!("n{node}").parse().unwrap()),
        incarnation: Incarnation(life),
        zone: format!("z{}", node % 2),
        client: format!("10.0.0.{node}:11211").parse().unwrap(),
        peer: format!("10.0.0.{node}:7000").parse().unwrap(),
        shards: 2,
        weight: 256,
    }
}

impl World {
    fn new(seed: u64, is_loud: bool) -> Self {
        let mut dice = Dice(seed);
        let node_count = 3 + dice.index(3);
        let faults = if dice.chance(250) { Faults::OnlyEtcd } else { Faults::All };
        Self::with_faults(seed, dice, node_count, faults, is_loud)
    }

    fn with_faults(seed: u64, dice: Dice, node_count: usize, faults: Faults, is_loud: bool) -> Self {
        let mut world = Self {
            seed,
            faults,
            dice,
            run_dice: Dice(!seed),
            run_gets: [0; 3],
            pipeline_dice: Dice(seed ^ 0x9e37),
            now: Micros(0),
            queue: BTreeMap::new(),
            count: 0,
            nodes: (0..node_count).map(|_| None).collect(),
            lives: vec![0; node_count],
            wires: Vec::new(),
            etcd: SimEtcd::default(),
            etcd_is_down: false,
            etcd_delay: 2,
            outsider: None,
            etcd_copy: None,
            asked: Vec::new(),
            answers_done: 0,
            is_loud,
        };
        for node in 0..node_count {
            world.happen_in(0, Happens::Restart { node });
        }
        world.happen_in(100, Happens::EtcdTick);
        world.happen_in(2_500, Happens::Client);
        world.happen_in(FORMED.0 / 1_000, Happens::Fault);
        world.happen_in(FAULTS_END.0 / 1_000, Happens::Mended);
        world.happen_in(faults.checks_at().0 / 1_000, Happens::Checked);
        world
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.is_loud {
            eprintln!("{:>9} {}", self.now.0, text());
        }
    }

    fn happen_at(&mut self, at: Micros, what: Happens) {
        self.count += 1;
        self.queue.insert((at.max(self.now), self.count), what);
    }

    fn happen_in(&mut self, millis: u64, what: Happens) {
        self.happen_at(self.now + Micros::from_millis(millis), what);
    }

    fn run(&mut self) {
        while let Some(((at, _), what)) = self.queue.pop_first() {
            if at > self.faults.checks_at() + END_AFTER {
                break;
            }
            self.now = at;
            self.happen(what);
        }
        self.check_history();
    }

    fn node(&mut self, node: usize, life: u64) -> Option<&mut Node> {
        self.nodes[node].as_mut().filter(|node| node.life == life)
    }

    fn happen(&mut self, what: Happens) {
        let now = self.now;
        match what {
            Happens::Wake { node, life, at } => {
                if self.node(node, life).is_some_and(|node| node.wake_at == at) {
                    self.turn(node);
                }
            }
            Happens::Dialled { node, life, link, to } => self.dialled(node, life, link, to),
            Happens::Delivered { wire, from, bytes, is_last } => self.delivered(wire, from, &bytes, is_last),
            Happens::Closed { wire, end } => self.closed(wire, end),
            Happens::CallArrives { node, life, id, path, body } => {
                self.call_arrives(node, life, id, path, &body);
            }
            Happens::Answered { node, life, id, status, body } => {
                if let Some(at) = self.node(node, life) {
                    at.control.answered(now, id, Answer::Reply { status, body: body.as_bytes() });
                    self.turn(node);
                }
            }
            Happens::CallFailed { node, life, id } => {
                if let Some(at) = self.node(node, life) {
                    at.control.answered(now, id, Answer::Failed);
                    self.turn(node);
                }
            }
            Happens::Told { node, life, id, bytes } => {
                if let Some(at) = self.node(node, life) {
                    at.control.answered(now, id, Answer::Chunk(&bytes));
                    self.turn(node);
                }
            }
            Happens::Client => {
                self.client();
                let pause = (1 + self.dice.below(60)) * if self.faults == Faults::Wishes { 5 } else { 1 };
                self.happen_in(pause, Happens::Client);
            }
            Happens::Asks => {
                let (node, key) = (self.dice.index(self.nodes.len()), self.dice.any());
                self.ask(node, key, false);
                self.turn(node);
            }
            Happens::Follows { before, key } => self.follow(before, key),
            Happens::Weights => self.change_weights(),
            Happens::Wish => self.wish(),
            Happens::Crash { node } => self.crash(node),
            Happens::Fault => self.fault(),
            Happens::EtcdTick => {
                if !self.etcd_is_down {
                    self.etcd.expire(now);
                    self.tell_watches();
                }
                self.happen_in(100, Happens::EtcdTick);
            }
            Happens::Restart { node } => self.start(node),
            Happens::Mended => self.mend(),
            Happens::Checked if self.faults == Faults::Wishes => self.check_fulfilled(),
            Happens::Checked => self.check_recovered(),
        }
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].is_some() {
            return;
        }
        self.lives[node] += 1;
        let life = self.lives[node];
        self.say(|| format!("n{node} starts its life {life}"));
        let cluster = ClusterId(CLUSTER.parse().unwrap());
        let me = described(node, life);
        let judgement = Judgement {
            removal_pause: Micros::from_millis(2_000),
            first_nodes: self.nodes.len(),
            ..if self.faults == Faults::Wishes { self.judgement_of_wishes() } else { Judgement::default() }
        };
        let conductor = Conductor::new(cluster.clone(), judgement);
        let etcd = Etcd::new(&cluster, me.clone());
        // Some of a node's lives are of an older build.
        let is_older = (self.seed + life + node as u64).is_multiple_of(3);
        let highest = if is_older { wire::VERSIONS.lowest } else { wire::VERSIONS.highest };
        let identity = Identity {
            versions: Versions { highest, ..wire::VERSIONS },
            cluster,
            node: me.node.clone(),
            incarnation: me.incarnation,
            shard: 0,
            shards: me.shards,
            secret: Secret::new(b"the simulated secret".to_vec()).unwrap(),
            message_bytes_max: 1 << 16,
            granted: Credit { operations: 16, bytes: 8 << 10 },
        };
        self.nodes[node] = Some(Node {
            me: me.node.clone(),
            life,
            control: Control::new(me.node, me.incarnation, etcd, conductor).with_rings(ring_of),
            peers: Peers::new(identity, 1 + u8::from(self.seed.is_multiple_of(4)), self.seed ^ node as u64),
            sockets: HashMap::new(),
            epoch: Epoch::NONE,
            wake_at: Micros::NEVER,
            watch: None,
        });
        self.turn(node);
    }

    fn nonce(&mut self) -> [u8; NONCE_BYTES] {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..8].copy_from_slice(&self.dice.any().to_le_bytes());
        nonce
    }

    /// Lets a node do all it has to do now.
    fn turn(&mut self, index: usize) {
        let now = self.now;
        loop {
            let Some(node) = &mut self.nodes[index] else { return };
            let (life, mut is_idle) = (node.life, true);
            if let Some(effect) = node.control.next(now) {
                is_idle = false;
                self.controlled(index, life, effect);
            }
            let node = self.nodes[index].as_mut().unwrap();
            if let Some(effect) = node.peers.next(now) {
                is_idle = false;
                self.peered(index, life, effect);
            }
            if is_idle {
                break;
            }
        }
        self.send_all(index);
        let node = self.nodes[index].as_mut().unwrap();
        node.peers.check_invariants();
        node.control.coordinator().check_invariants();
        let wake_at = node.peers.wake_at().min(node.control.wake_at(now)).max(now + Micros(500));
        if node.wake_at != wake_at {
            node.wake_at = wake_at;
            let life = node.life;
            self.happen_at(wake_at, Happens::Wake { node: index, life, at: wake_at });
        }
    }

    fn controlled(&mut self, index: usize, life: u64, effect: control::Effect) {
        self.say(|| match &effect {
            control::Effect::Adopt(ring) => format!("n{index} adopts {:?}", ring.epoch()),
            control::Effect::Need(Need::Call(call)) => format!("n{index} calls {} {:?}", call.path, call.id),
            other => format!("n{index} {other:?}"),
        });
        let now = self.now;
        match effect {
            control::Effect::Adopt(ring) => {
                let node = self.nodes[index].as_mut().unwrap();
                assert!(
                    ring.epoch() > node.epoch,
                    "n{index}'s ring went from {:?} to {:?}",
                    node.epoch,
                    ring.epoch()
                );
                node.epoch = ring.epoch();
                node.peers.adopt(now, ring);
                self.report(index);
            }
            control::Effect::Need(Need::Call(call)) => {
                let mut delay = self.dice.below(self.etcd_delay * 2);
                let (id, path, body) = (call.id, call.path, call.body);
                let is_write = body.contains("\"target\":\"MOD\"") && body.contains(&etcd::ring_key());
                if is_write && self.may_harm() && self.dice.chance(100) {
                    // The conductor dies with its write on the way, and the write arrives after its lease has run out.
                    delay = 5_100 + self.dice.below(1_000);
                    self.happen_in(1, Happens::Crash { node: index });
                }
                // Late answers fail for the node, and are executed all the same.
                self.happen_in(delay, Happens::CallArrives { node: index, life, id, path, body });
                if !call.is_stream {
                    self.happen_at(now + call.timeout, Happens::CallFailed { node: index, life, id });
                }
            }
            control::Effect::Need(Need::Cancel(id)) => {
                let node = self.nodes[index].as_mut().unwrap();
                node.watch = node.watch.filter(|(watch, _)| *watch != id);
            }
            control::Effect::Refused(refusal) => {
                let is_twin = matches!(refusal, Refusal::Twin(_)) && self.etcd.rings_before > 0;
                let is_late = is_twin || matches!(refusal, Refusal::Older { .. });
                assert!(is_late, "n{index} refused: {refusal}");
            }
            control::Effect::Reach(described) => {
                let is_it = |node: &Node| node.life == described.incarnation.0 && node.me == described.node;
                let found = self.nodes.iter().position(|node| node.as_ref().is_some_and(is_it));
                let is_cut_off = self.outsider.is_some_and(|node| found == Some(node) || index == node);
                if found.is_some() && !is_cut_off {
                    self.nodes[index].as_mut().unwrap().control.reached(&described);
                }
            }
            control::Effect::Leading(_) | control::Effect::Deposed | control::Effect::Restoring(_) => {}
        }
    }

    fn peered(&mut self, index: usize, life: u64, effect: Effect<u64>) {
        let node = self.nodes[index].as_mut().unwrap();
        match effect {
            Effect::Connect { link, address, .. } => {
                let to = address.host().strip_prefix("10.0.0.").unwrap().parse().unwrap();
                let delay = 1 + self.dice.below(3);
                self.happen_in(delay, Happens::Dialled { node: index, life, link, to });
            }
            Effect::Up { link } => {
                self.say(|| format!("n{index} {link:?} is up"));
            }
            Effect::Closed { link, reason, .. } => {
                let socket = node.sockets.remove(&link);
                self.say(|| format!("n{index} {link:?} closed: {reason}"));
                let is_fair = !matches!(
                    reason,
                    crate::link::CloseReason::CreditExceeded
                        | crate::link::CloseReason::Unexpected(_)
                        | crate::link::CloseReason::Garbled(_)
                        | crate::link::CloseReason::Message
                        | crate::link::CloseReason::UnknownResponse
                );
                assert!(is_fair, "n{index} closed a link of this very build: {reason}");
                if let Some((wire, end)) = socket {
                    self.hang_up(wire, end);
                }
            }
            Effect::Execute(asked) if asked.flags.has(Flags::RUN) => self.execute_run(index, asked),
            Effect::Execute(asked) => {
                let request = node.peers.body().to_vec();
                let reply = self.execute(index, &request);
                let node = self.nodes[index].as_mut().unwrap();
                node.peers.respond(asked, Status::Done, &reply);
            }
            Effect::Run { place, gets, outcome } => self.answer_run(index, place, gets, outcome),
            Effect::Answer { place, outcome } => {
                let is_mine = outcome.is_err() || node.peers.body().starts_with(&place.to_le_bytes());
                assert!(is_mine, "the reply of another request");
                self.answer(place, outcome.err().map(|failure| failure.to_string()));
            }
            Effect::ExecuteHere { place } => {
                let request = node.peers.body().to_vec();
                self.execute(index, &request);
                self.answer(place, None);
            }
            Effect::Replica { .. } | Effect::Grants { .. } | Effect::Touches { .. } => {
                unreachable!("one copy is all there is")
            }
            Effect::RingDiffers { .. } => {
                assert!(self.etcd.rings_before > 0, "etcd gives one ring for each epoch");
                node.control.differs();
            }
            Effect::RingReceived => {
                let json = node.peers.body().to_vec();
                node.control.offer(&json);
            }
        }
    }

    /// A request's owner does what it asks.
    fn execute(&mut self, index: usize, request: &[u8]) -> Vec<u8> {
        let (number, key) = request.split_at(8);
        let place = u64::from_le_bytes(number.try_into().unwrap());
        let ring = self.nodes[index].as_ref().unwrap().peers.ring().unwrap();
        let owner = ring.slot(ring.primary(partition_of(hash_key(&key[..8]))));
        assert_eq!(owner.node, described(index, 0).node, "n{index} executes what is another's");
        let asked = &mut self.asked[usize::try_from(place).unwrap()];
        asked.executions += 1;
        assert_eq!(asked.executions, 1, "request {place} was executed twice");
        let mut next = asked.next;
        while let Some(later) = next.and_then(|next| self.asked.get(usize::try_from(next).unwrap())) {
            assert_eq!(later.executions, 0, "request {place} was executed behind {next:?}, sent later");
            next = later.next;
        }
        request.to_vec()
    }

    fn answer(&mut self, place: u64, error: Option<String>) {
        let now = self.now;
        let (seed, faults) = (self.seed, self.faults);
        let asked = &mut self.asked[usize::try_from(place).unwrap()];
        assert!(!asked.is_answered, "request {place} was answered twice");
        asked.is_answered = true;
        assert!(
            now <= asked.at + REQUEST_TIME_MAX + ANSWER_SLACK,
            "the answer to {place} took {:?}",
            now.since(asked.at)
        );
        match error {
            None => {
                assert_eq!(asked.executions, 1, "request {place} has a reply and was not executed");
                self.answers_done += 1;
            }
            Some(error) => {
                assert!(
                    !asked.must_succeed,
                    "seed {seed}, {faults:?}: request {place} of n{}: {error}",
                    asked.node
                );
            }
        }
    }

    /// A client asks some node for some key.
    fn client(&mut self) {
        let node = self.dice.index(self.nodes.len());
        let key = self.dice.any();
        let is_formed = self.faults == Faults::OnlyEtcd && self.now >= FORMED;
        let is_calm = is_formed || self.now >= self.faults.checks_at();
        // A burst now and then, so that credit runs out; not where nothing may fail.
        let may_burst = self.faults == Faults::All && self.now < FAULTS_END;
        let burst = if self.dice.chance(50) && may_burst { 40 } else { 1 };
        for step in 0..burst {
            self.ask(node, key.wrapping_add(step), is_calm);
            if self.pipeline_dice.chance(300) && self.nodes[node].is_some() {
                let before = self.asked.len() as u64 - 1;
                self.follow(before, key.wrapping_add(step));
            }
        }
        if self.run_dice.chance(600) {
            self.ask_run(node, is_calm);
        }
        self.turn(node);
    }

    /// The client of a request sends another for the same key, and perhaps one more a little later.
    fn follow(&mut self, before: u64, key: u64) {
        let Asked { node, life, must_succeed, .. } = self.asked[usize::try_from(before).unwrap()];
        if self.node(node, life).is_none() {
            return;
        }
        let place = self.asked.len() as u64;
        let first = &mut self.asked[usize::try_from(before).unwrap()];
        // What an owner that was behind refused while it took the next is given up, though only etcd may fail.
        (first.next, first.must_succeed) = (Some(place), false);
        self.ask(node, key, must_succeed);
        self.turn(node);
        if self.pipeline_dice.chance(700) {
            let pause = self.pipeline_dice.below(8);
            self.happen_in(pause, Happens::Follows { before: place, key });
        }
    }

    fn ask(&mut self, index: usize, key: u64, must_succeed: bool) {
        let now = self.now;
        let padding = self.dice.index(if must_succeed { 64 } else { 600 });
        let Some(node) = &mut self.nodes[index] else { return };
        let place = self.asked.len() as u64;
        let life = node.life;
        let asked =
            Asked { node: index, life, at: now, is_answered: false, executions: 0, must_succeed, next: None };
        self.asked.push(asked);
        let request = [&place.to_le_bytes()[..], &key.to_le_bytes(), &vec![b'x'; padding]].concat();
        let forward = Forward {
            hash: hash_key(&key.to_le_bytes()),
            flags: Flags::AUTHENTICATED,
            deadline: now + REQUEST_TIME_MAX,
            bytes: &request,
        };
        match node.peers.forward(now, place, &forward) {
            Ok(Route::Here) => {
                self.execute(index, &request);
                self.answer(place, None);
            }
            Ok(Route::Sent) => {}
            Err(failure) => self.answer(place, Some(failure.to_string())),
        }
    }

    /// I10: everybody follows the last ring, and every node serves every key.
    fn check_recovered(&mut self) {
        let last = RingDocument::from_json(self.etcd.rings.last().expect("there is a ring")).unwrap();
        for slot in &last.slots {
            assert_eq!(slot.state, NodeState::Up, "{} is not up again", slot.node);
        }
        self.check_served(last.epoch);
    }

    /// Every node follows the last ring, and serves every key.
    fn check_served(&mut self, last: Epoch) {
        for index in 0..self.nodes.len() {
            assert_eq!(self.nodes[index].as_ref().unwrap().epoch, last, "n{index} is behind");
            for _ in 0..12 {
                let key = self.dice.any();
                self.ask(index, key, true);
                self.turn(index);
            }
        }
    }

    fn check_history(&self) {
        let due = |asked: &&Asked| asked.at + REQUEST_TIME_MAX + ANSWER_SLACK < self.now;
        for asked in self.asked.iter().filter(due) {
            assert!(asked.is_answered, "a request was never answered: {asked:?}");
        }
        assert!(self.answers_done > 50, "only {} requests were served", self.answers_done);
    }
}
