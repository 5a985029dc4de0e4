//! Replicating clusters in one thread from one seed: nodes of one or two shards, links that delay, go silent one way or both and
//! end, nodes that pause, die and return, clocks that differ in speed, and a conductor that sees badly. What waits for a node whose pause
//! is prolonged may be overtaken. Clients read and write a few keys; what they saw is judged afterwards.
//!
//! Judged in `sync`: at no time would two nodes answer for a key (I1); a read gives the newest state that anyone was told of,
//! or a newer one, or nothing (I3); nothing where a value must be is a loss (I2); of two changes of one state one is
//! acknowledged (I4). In `inval` the same against invalidating writes, of reads by a ring that is not older. In every mode:
//! while nobody fails the newest state is read; at the end all copies are equal (I7) and every key is served; every queue
//! keeps its bound (I9).
//!
//! `SLABRING_SEEDS=N` runs N seeds, `SLABRING_SEED=S` one of them, with its events on stderr.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::memory::MemoryStore;
use super::message::{Entry, Message, decode};
use super::{
    Change, Content, Cursor, Effect, Outcome, PeerShard, Record, Refused, Replicator, Side, Store, Write,
};
use crate::names::Incarnation;
use crate::placement::{PartitionId, hash_key, partition_of, shard_of};
use crate::report::Report;
use crate::ring::{Assignment, Mode, NodeState, Ring, RingDocument};
use crate::safeguard::{Safeguard, holds};
use crate::simulation::dice::Dice;
use crate::simulation::ring_of;
use crate::table::SlotId;
use crate::time::Micros;

mod conductor;
mod history;
mod tests;

use history::{Did, History, Op};

/// Partitions that keys are in.
const SCOPE: u16 = 6;
const KEYS_PER_PARTITION: usize = 2;
const FAULTS_END: Micros = Micros::from_millis(14_000);
const CLIENTS_END: Micros = Micros::from_millis(20_000);
/// Nobody waits longer for the word of an earlier primary than three seconds after the last movement.
const END: Micros = Micros::from_millis(30_000);
const CLIENT_TIME_MAX: Micros = Micros::from_millis(250);
const TURN_EVERY: Micros = Micros::from_millis(20);

struct Key {
    bytes: Vec<u8>,
    hash: u64,
}

thread_local! {
    static KEYS: RefCell<Arc<Vec<Key>>> = RefCell::new(Arc::new(keys()));
}

fn keys() -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for n in 0_u32.. {
        let bytes = n.to_string().into_bytes();
        let hash = hash_key(&bytes);
        let index = partition_of(hash).index();
        let like = keys.iter().filter(|key| partition_of(key.hash).index() == index).count();
        if index < usize::from(SCOPE) && like < KEYS_PER_PARTITION {
            keys.push(Key { bytes, hash });
            if keys.len() == usize::from(SCOPE) * KEYS_PER_PARTITION {
                break;
            }
        }
    }
    keys
}

struct Shard {
    replicator: Replicator<usize>,
    store: MemoryStore,
}

struct Node {
    life: u64,
    shards: Vec<Shard>,
    /// Millionths by which its clock is fast or slow.
    rate: u64,
    paused_until: Micros,
    /// Cut off from the coordinator.
    is_cut_off: bool,
}

#[derive(Debug)]
enum Happens {
    Turn { node: usize, life: u64 },
    Arrives { link: (usize, usize), generation: u64, to: u16, bytes: Vec<u8> },
    Learns { node: usize, life: u64, ring: Arc<Ring> },
    Client,
    Flush { flush: usize, node: usize, life: u64, shard: u16 },
    Tries { op: usize },
    Replies { op: usize, life: u64 },
    Fault,
    Heals { from: usize, to: usize },
    Returns { node: usize },
    Dies { node: usize },
    Conductor,
    Spoke { node: usize, life: u64, report: Report },
    CoordinatorReturns,
}

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    generation: u64,
    last_at: Micros,
    is_cut: bool,
}

struct World {
    dice: Dice,
    now: Micros,
    mode: Mode,
    queue: BTreeMap<(Micros, u64), Happens>,
    count: u64,
    nodes: Vec<Option<Node>>,
    shard_counts: Vec<u16>,
    lives: Vec<u64>,
    links: BTreeMap<(usize, usize), Link>,
    rings: Vec<Arc<Ring>>,
    office: conductor::Office,
    keys: Arc<Vec<Key>>,
    history: History,
    may_evict: bool,
    has_failed: bool,
    /// When first several nodes would have answered for a key, and which.
    served_twice: Option<(Micros, Vec<usize>)>,
    /// Who is to get something by a movement often dies then.
    kills_newcomers: bool,
    /// All who hold a partition often die at once.
    kills_all_copies: bool,
    has_older_node: bool,
    /// Clients have everything forgotten now and then, and a node often dies then.
    has_flushes: bool,
    /// Nothing happens but what an operator wishes.
    is_calm: bool,
    clients_end: Micros,
    /// Writes that a shard keeps for others, if not as many as a real one.
    writes_max: Option<usize>,
    is_loud: bool,
}

impl World {
    fn new(seed: u64, mode: Mode, is_loud: bool) -> Self {
        let mut dice = Dice(seed.wrapping_mul(4) + mode as u64);
        let replicas = match mode {
            Mode::Rf1 => 1,
            _ => 2 + u8::from(dice.chance(400)),
        };
        let count = 3 + dice.index(2);
        let shard_counts: Vec<_> = (0..count).map(|_| 1 + u16::from(dice.chance(300))).collect();
        // Sometimes one of them joins later.
        let members = count - usize::from(dice.chance(300));
        let ring = conductor::first_ring(&shard_counts[..members], replicas, mode);
        let mut world = Self {
            may_evict: dice.chance(200),
            dice,
            now: Micros(0),
            mode,
            queue: BTreeMap::new(),
            count: 0,
            nodes: (0..count).map(|_| None).collect(),
            lives: vec![0; count],
            shard_counts,
            links: BTreeMap::new(),
            rings: vec![ring],
            office: conductor::Office::new(),
            keys: KEYS.with_borrow(Arc::clone),
            history: History::default(),
            has_failed: false,
            served_twice: None,
            kills_newcomers: false,
            kills_all_copies: false,
            has_older_node: (seed / 4).is_multiple_of(3),
            has_flushes: false,
            is_calm: false,
            clients_end: CLIENTS_END,
            writes_max: None,
            is_loud,
        };
        (0..count).for_each(|node| world.start(node));
        world.happen_in(2_000, Happens::Fault);
        world.happen_in(600, Happens::Client);
        world.happen_in(100, Happens::Conductor);
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
            if at > END {
                break;
            }
            self.now = at;
            self.happen(what);
        }
        self.history.check(self.mode, self.has_failed, self.may_evict);
        assert!(self.mode != Mode::Sync || self.served_twice.is_none(), "two serve: {:?}", self.served_twice);
        self.check_end();
    }

    /// A node that runs now and in this life.
    fn node(&mut self, node: usize, life: u64) -> Option<&mut Node> {
        self.nodes[node].as_mut().filter(|node| node.life == life)
    }

    fn local(&self, node: usize) -> Micros {
        let rate = self.nodes[node].as_ref().map_or(0, |node| node.rate);
        Micros(1_000_000 + self.now.0 * rate / 1_000_000)
    }

    fn happen(&mut self, what: Happens) {
        // A paused node does everything later.
        let (Happens::Turn { node, .. }
        | Happens::Learns { node, .. }
        | Happens::Flush { node, .. }
        | Happens::Arrives { link: (_, node), .. }) = what
        else {
            return self.happen_to_world(&what);
        };
        let paused_until = self.nodes[node].as_ref().map_or(self.now, |node| node.paused_until);
        if paused_until > self.now {
            return self.happen_at(paused_until, what);
        }
        let now = self.local(node);
        match what {
            Happens::Turn { life, .. } => {
                if self.node(node, life).is_some() {
                    self.turn(node);
                    if self.dice.chance(250) {
                        self.speak(node);
                    }
                    self.happen_at(self.now + TURN_EVERY, Happens::Turn { node, life });
                }
            }
            Happens::Learns { life, ring, .. } => self.learns(node, life, &ring),
            Happens::Flush { flush, life, shard, .. } => self.flushes(flush, node, life, shard),
            Happens::Arrives { link, generation, to, bytes } => {
                let known = self.links.get(&link).copied().unwrap_or_default();
                let is_older = self.is_older(node);
                let Some(at) = self.nodes[node].as_mut() else { return };
                if known.generation != generation || known.is_cut {
                    return;
                }
                assert!(!is_older || !says_deltas(&bytes), "n{node} does not know deltas");
                let shard = &mut at.shards[usize::from(to)];
                shard.replicator.received(now, &mut shard.store, &bytes).unwrap();
                self.turn(node);
            }
            _ => unreachable!("nothing else is a node's"),
        }
    }

    fn happen_to_world(&mut self, what: &Happens) {
        match *what {
            Happens::Client => self.client(),
            Happens::Tries { op } => self.tries(op),
            Happens::Replies { op, life } => self.replies(op, life),
            Happens::Fault => self.fault(),
            Happens::Heals { from, to } => {
                self.links.entry((from, to)).or_default().is_cut = false;
                self.reconnect(from, to);
            }
            Happens::Returns { node } => self.start(node),
            Happens::Dies { node } => self.crash(node),
            Happens::Conductor => self.conduct(),
            Happens::Spoke { node, life, ref report } => self.spoke(node, life, report),
            Happens::CoordinatorReturns => self.office.is_away = false,
            _ => unreachable!("the rest is a node's"),
        }
    }

    fn start(&mut self, index: usize) {
        if self.nodes[index].is_some() {
            return;
        }
        self.lives[index] += 1;
        let life = self.lives[index];
        self.say(|| format!("n{index} starts its life {life}"));
        let writes_max = self.writes_max;
        let shard = |shard| {
            let mut replicator = Replicator::new(Incarnation(life), shard, 0..SCOPE);
            writes_max.into_iter().for_each(|writes_max| replicator.set_writes_max(writes_max));
            Shard { replicator, store: MemoryStore::default() }
        };
        let rate = 900_000 + self.dice.below(200_001);
        let shards = (0..self.shard_counts[index]).map(shard).collect();
        self.nodes[index] = Some(Node { life, shards, rate, paused_until: Micros(0), is_cut_off: false });
        for other in 0..self.nodes.len() {
            self.reconnect(index, other);
        }
        let ring = Arc::clone(self.rings.last().unwrap());
        self.happen_in(1, Happens::Learns { node: index, life, ring });
        self.happen_in(2, Happens::Turn { node: index, life });
    }

    /// Shards keep fewer writes for others.
    fn keep_writes(&mut self, writes_max: usize) {
        self.writes_max = Some(writes_max);
        let shards = self.nodes.iter_mut().flatten().flat_map(|node| &mut node.shards);
        shards.for_each(|shard| shard.replicator.set_writes_max(writes_max));
    }

    /// A new connection between two nodes: what was on the way is lost.
    fn reconnect(&mut self, one: usize, other: usize) {
        if one == other {
            return;
        }
        for (from, to) in [(one, other), (other, one)] {
            let link = self.links.entry((from, to)).or_default();
            *link = Link { generation: link.generation + 1, last_at: Micros(0), is_cut: link.is_cut };
            let takes_deltas = !self.is_older(from) && !self.is_older(to);
            let shards = self.shard_counts[to];
            for shard in self.nodes[from].iter_mut().flat_map(|node| &mut node.shards) {
                for peer in (0..shards).map(|shard| PeerShard { slot: slot(to), shard }) {
                    shard.replicator.lost(peer);
                    shard.replicator.connected(peer, takes_deltas);
                }
            }
        }
    }

    /// Whether a node is of a build that knows no deltas, in this life.
    fn is_older(&self, node: usize) -> bool {
        self.has_older_node && node == 0 && self.lives[node] % 2 == 1
    }

    fn learns(&mut self, index: usize, life: u64, ring: &Arc<Ring>) {
        let now = self.local(index);
        let Some(node) = self.node(index, life) else { return };
        let me = ring.find_slot(slot(index)).filter(|slot| slot.incarnation == Incarnation(life));
        let me = me.map(|_| slot(index));
        for shard in &mut node.shards {
            let epoch = shard.replicator.ring().map(|ring| ring.epoch());
            if epoch.is_none_or(|epoch| epoch < ring.epoch()) {
                shard.replicator.adopt(now, &mut shard.store, ring, me);
            }
        }
        self.say(|| format!("n{index}, whose clock says {}, is told of {:?}", now.0, ring.epoch()));
        self.turn(index);
    }

    fn turn(&mut self, index: usize) {
        let now = self.local(index);
        let Some(node) = self.nodes[index].as_mut() else { return };
        if node.paused_until > self.now {
            return;
        }
        let (mut sent, mut answers) = (Vec::new(), Vec::new());
        for shard in &mut node.shards {
            if !node.is_cut_off {
                shard.replicator.confirmed(now);
            }
            shard.replicator.turn(now, &mut shard.store);
            shard.replicator.check_invariants();
            while let Some(effect) = shard.replicator.next_effect() {
                match effect {
                    Effect::Send { to, bytes } => sent.push((to, bytes)),
                    Effect::Answer { token, outcome } => answers.push((token, outcome)),
                }
            }
        }
        for (to, bytes) in sent {
            self.send(index, to, bytes);
        }
        for (op, outcome) in answers {
            let is_done = outcome == Outcome::Done;
            self.say(|| format!("op {op} is {outcome:?}"));
            self.history.end(op, self.now, is_done);
        }
    }

    fn send(&mut self, from: usize, to: PeerShard, bytes: Vec<u8>) {
        let delay_max = if self.dice.chance(30) { 200_000 } else { 2_000 };
        let delay = Micros(100 + self.dice.below(delay_max));
        let link = self.links.entry((from, usize::from(to.slot.0))).or_default();
        link.last_at = link.last_at.max(self.now + delay);
        let (at, generation) = (link.last_at, link.generation);
        let link = (from, usize::from(to.slot.0));
        self.happen_at(at, Happens::Arrives { link, generation, to: to.shard, bytes });
    }

    fn client(&mut self) {
        if self.now < self.clients_end {
            let pause = 1 + self.dice.below(30);
            self.happen_in(pause, Happens::Client);
        }
        if self.has_flushes && self.dice.chance(8) {
            self.flush();
        }
        let key = self.dice.index(self.keys.len());
        let did = match self.dice.below(10) {
            0..5 => Did::Get,
            5..7 => Did::Set,
            7 => Did::Extend,
            8 => Did::Change,
            _ if key.is_multiple_of(2) => Did::Delete,
            _ => Did::Set,
        };
        let op = self.history.begin(Op::new(key, did, self.now));
        self.happen_in(0, Happens::Tries { op });
    }

    /// Some node has all others that its ring knows of forget everything, each at its own moment. Who is not there, or is too late,
    /// does not.
    fn flush(&mut self) {
        let origin = self.dice.index(self.nodes.len());
        let Some(ring) =
            self.nodes[origin].as_ref().and_then(|node| node.shards[0].replicator.ring().cloned())
        else {
            return;
        };
        let is_told = |node: &usize| {
            let state = ring.find_slot(slot(*node)).map(|slot| slot.state);
            state.is_some_and(|state| state.serves() || state == NodeState::Syncing) || *node == origin
        };
        let told: Vec<_> = (0..self.nodes.len()).filter(is_told).collect();
        let shards = told.iter().map(|&node| usize::from(self.shard_counts[node])).sum();
        let flush = self.history.begin_flush(self.now, ring.epoch().0, shards);
        self.say(|| format!("flush {flush} by n{origin}, of {told:?}"));
        for node in told {
            let delay = if self.dice.chance(300) { self.dice.below(400) } else { self.dice.below(3) };
            for shard in 0..self.shard_counts[node] {
                let life = self.lives[node];
                self.happen_in(delay, Happens::Flush { flush, node, life, shard });
            }
        }
        if self.now < FAULTS_END && self.dice.chance(300) {
            let victim = self.dice.index(self.nodes.len());
            let delay = self.dice.below(500);
            self.happen_in(delay, Happens::Dies { node: victim });
        }
    }

    fn flushes(&mut self, flush: usize, node: usize, life: u64, shard: u16) {
        let (now, is_late) = (self.local(node), self.history.is_late(flush, self.now));
        let epoch = self.history.epoch_of(flush);
        if let Some(at) = self.node(node, life).filter(|_| !is_late) {
            let Shard { replicator, store } = &mut at.shards[usize::from(shard)];
            if replicator.may_flush(epoch).is_err() {
                return self.say(|| format!("flush {flush} is refused by shard {shard} of n{node}"));
            }
            store.flush_all();
            replicator.flushed(now);
            self.say(|| format!("flush {flush} at shard {shard} of n{node}"));
            self.history.flushed(flush, self.now);
        }
    }

    /// Some node takes the operation, by its own ring: a real one would forward it.
    fn tries(&mut self, op: usize) {
        let Op { key, did, from, .. } = self.history.ops[op];
        if self.now.since(from) > CLIENT_TIME_MAX {
            return;
        }
        let Key { bytes, hash } = &self.keys[key];
        let (bytes, hash) = (bytes.clone(), *hash);
        let asked = self.dice.index(self.nodes.len());
        let view = self.nodes[asked].as_ref().and_then(|node| node.shards[0].replicator.ring().cloned());
        let owner = view.map_or(asked, |ring| usize::from(ring.primary(partition_of(hash)).0));
        let now = self.local(owner);
        let retry = 2 + self.dice.below(20);
        let Some(node) = self.nodes[owner].as_mut().filter(|node| node.paused_until <= self.now) else {
            return self.happen_in(retry, Happens::Tries { op });
        };
        let life = node.life;
        let index = shard_of(hash, u16::try_from(node.shards.len()).unwrap());
        let shard = &mut node.shards[usize::from(index)];
        if self.may_evict && self.dice.chance(20) {
            shard.store.evict(hash, &bytes);
        }
        if self.may_evict && op.is_multiple_of(5) {
            self.evict_elsewhere(owner, op, hash, &bytes);
        }
        let shard = self.shard_mut(owner, index);
        let epoch = shard.replicator.ring().map_or(0, |ring| ring.epoch().0);
        let may_read = shard.replicator.may_read(now, hash);
        if may_read.is_ok() {
            self.look_who_serves(hash);
        }
        let shard = self.shard_mut(owner, index);
        if did == Did::Get {
            if may_read.is_err() {
                return self.happen_in(retry, Happens::Tries { op });
            }
            let found = shard.store.read(now, hash, &bytes);
            self.history.saw(op, owner, epoch, found.as_ref());
            // The node may be stopped between reading and answering.
            let may_stop = self.now < FAULTS_END && self.dice.chance(5);
            let stop = if may_stop { self.dice.below(4_000) } else { 0 };
            if stop > 0 {
                let until = self.now + Micros::from_millis(stop);
                self.nodes[owner].as_mut().unwrap().paused_until = until;
                self.has_failed |= stop > 400;
            }
            return self.happen_in(stop, Happens::Replies { op, life });
        }
        if shard.replicator.may_write(now, hash).is_err() {
            return self.happen_in(retry, Happens::Tries { op });
        }
        let found = shard.store.read(now, hash, &bytes);
        if did == Did::Change && found.is_none() {
            return;
        }
        let change = change_of(op, did, found.as_ref());
        let write = Write {
            token: op,
            hash,
            key: bytes.into(),
            change: change.clone(),
            invalidates: did != Did::Set,
            deadline: now + CLIENT_TIME_MAX,
        };
        match shard.replicator.write(now, &mut shard.store, write) {
            Ok(version) => {
                self.say(|| format!("op {op} {did:?} of {key} at n{owner} is {version:?}"));
                self.history.wrote(op, (owner, epoch, version), found.as_ref(), &change);
            }
            Err(refused) => assert!(matches!(refused, Refused::Overloaded), "{refused:?}"),
        }
        self.turn(owner);
    }

    /// One of the other nodes, whichever, evicts a key.
    fn evict_elsewhere(&mut self, owner: usize, op: usize, hash: u64, key: &[u8]) {
        let other = (owner + 1 + op / 5 % (self.nodes.len() - 1)) % self.nodes.len();
        let shard = shard_of(hash, self.shard_counts[other]);
        if let Some(node) = &mut self.nodes[other] {
            node.shards[usize::from(shard)].store.evict(hash, key);
        }
    }

    fn shard_mut(&mut self, node: usize, index: u16) -> &mut Shard {
        &mut self.nodes[node].as_mut().expect("it runs").shards[usize::from(index)]
    }

    /// Takes note of nodes that would both answer now, each by its own clock, those included that stand still.
    fn look_who_serves(&mut self, hash: u64) {
        let serves = |&index: &usize| {
            let shard = shard_of(hash, self.shard_counts[index]);
            let shard = self.nodes[index].as_ref().map(|node| &node.shards[usize::from(shard)]);
            shard.is_some_and(|shard| shard.replicator.may_read(self.local(index), hash).is_ok())
        };
        let serving: Vec<_> = (0..self.nodes.len()).filter(serves).collect();
        if serving.len() > 1 && self.served_twice.is_none() {
            self.served_twice = Some((self.now, serving));
        }
    }

    /// What was read is answered, if the lease still holds.
    fn replies(&mut self, op: usize, life: u64) {
        let Op { key, node: owner, .. } = self.history.ops[op];
        let now = self.local(owner);
        let hash = self.keys[key].hash;
        let Some(node) = self.node(owner, life) else { return };
        let index = shard_of(hash, u16::try_from(node.shards.len()).unwrap());
        let is_good = node.shards[usize::from(index)].replicator.may_read(now, hash).is_ok();
        if is_good || !holds(Safeguard::LeaseIsChecked) {
            self.say(|| format!("op {op} get of {key} at n{owner}: {:?}", self.history.ops[op].seen));
            self.history.end(op, self.now, true);
        }
    }

    fn fault(&mut self) {
        if self.now >= FAULTS_END {
            return self.mend();
        }
        let pause = 100 + self.dice.below(1_500);
        self.happen_in(pause, Happens::Fault);
        if self.is_calm {
            let one = self.dice.index(self.nodes.len());
            return self.wish(one);
        }
        if self.kills_all_copies && self.dice.chance(500) {
            return self.kill_all_copies();
        }
        let (one, other) = (self.dice.index(self.nodes.len()), self.dice.index(self.nodes.len()));
        let span = 50 + self.dice.below(4_000);
        match self.dice.below(9) {
            0 => self.cut(one, other, span, self.dice.0 & 1 == 0),
            1 => (0..self.nodes.len()).for_each(|other| self.cut(one, other, span, true)),
            2 => self.reconnect(one, other),
            3 => self.crash(one),
            4 => {
                let until = self.now + Micros::from_millis(span);
                self.has_failed = true;
                self.say(|| format!("n{one} stops until {}", until.0));
                if let Some(node) = &mut self.nodes[one] {
                    node.paused_until = node.paused_until.max(until);
                }
            }
            5 => {
                if let Some(node) = &mut self.nodes[one] {
                    node.is_cut_off = !node.is_cut_off;
                    self.has_failed = true;
                }
            }
            6 => self.replace_conductor(),
            7 => {
                self.say(|| format!("the coordinator is away for {span} ms"));
                self.office.is_away = true;
                self.happen_in(span, Happens::CoordinatorReturns);
            }
            _ => self.wish(one),
        }
    }

    fn cut(&mut self, from: usize, to: usize, span: u64, is_both: bool) {
        self.has_failed = true;
        self.say(|| format!("n{from} to n{to} is cut for {span} ms, both ways: {is_both}"));
        let back = if is_both { Some((to, from)) } else { None };
        for pair in [(from, to)].into_iter().chain(back) {
            self.links.entry(pair).or_default().is_cut = true;
        }
        self.happen_in(span, Happens::Heals { from, to });
        self.happen_in(span, Happens::Heals { from: to, to: from });
    }

    /// A node loses everything. What only it held may be lost with it: those keys are not judged for losses from here on.
    fn crash(&mut self, index: usize) {
        if self.nodes[index].take().is_none() {
            return;
        }
        self.has_failed = true;
        self.say(|| format!("n{index} dies"));
        self.note_losses();
        let pause = self.dice.below(6_000);
        self.happen_in(pause, Happens::Returns { node: index });
    }

    /// Of one partition: it gets an heir, and another one when somebody who is nearer returns.
    fn kill_all_copies(&mut self) {
        let ring = Arc::clone(self.rings.last().unwrap());
        let partition = PartitionId::new(u16::try_from(self.dice.index(usize::from(SCOPE))).unwrap());
        for holder in ring.assignment(partition).in_sync {
            self.crash(usize::from(holder.0));
        }
    }

    /// Whether by the ring somebody who lives holds each key.
    fn note_losses(&mut self) {
        let ring = Arc::clone(self.rings.last().unwrap());
        for key in 0..self.keys.len() {
            let assignment = ring.assignment(partition_of(self.keys[key].hash));
            let lives = |at: usize| {
                let incarnation = ring.find_slot(slot(at)).map(|slot| slot.incarnation);
                self.nodes[at].as_ref().is_some_and(|node| Some(Incarnation(node.life)) == incarnation)
            };
            if !assignment.in_sync.iter().any(|slot| lives(usize::from(slot.0))) {
                self.history.may_lose(key);
            }
        }
    }

    fn mend(&mut self) {
        self.say(|| "everything is mended".to_owned());
        self.office.is_away = false;
        self.office.view.wishes.clear();
        for index in 0..self.nodes.len() {
            self.start(index);
            if let Some(node) = &mut self.nodes[index] {
                node.is_cut_off = false;
                node.paused_until = node.paused_until.min(self.now);
            }
            for other in 0..self.nodes.len() {
                self.links.entry((index, other)).or_default().is_cut = false;
                self.reconnect(index, other);
            }
        }
    }

    /// I7, and that every key is served.
    fn check_end(&mut self) {
        let ring = Arc::clone(self.rings.last().unwrap());
        for (key, Key { bytes, hash }) in self.keys.iter().enumerate() {
            let assignment = ring.assignment(partition_of(*hash));
            let read = |at: SlotId| {
                let index = usize::from(at.0);
                let node = self.nodes[index].as_ref().expect("everything is mended");
                let shard =
                    &node.shards[usize::from(shard_of(*hash, u16::try_from(node.shards.len()).unwrap()))];
                (shard, self.local(index))
            };
            let (primary, now) = read(assignment.primary);
            let served = primary.replicator.may_read(now, *hash);
            let primary_slot = assignment.primary;
            assert_eq!(served, Ok(()), "key {key} is not served by {primary_slot:?}");
            let newest = primary.store.read(now, *hash, bytes);
            for copy in assignment.in_sync.iter().filter(|&&copy| copy != assignment.primary) {
                let (copy, now) = read(*copy);
                let held = copy.store.read(now, *hash, bytes);
                // What dies does so by clocks that differ, and what is evicted by chance.
                let dies = |found: &Option<Record>| {
                    found.as_ref().and_then(|record| record.content.as_ref()?.dies_at).is_some()
                };
                // A flush that failed empties some.
                let may_lack = self.may_evict || self.has_flushes;
                let may_differ = may_lack && (held.is_none() || newest.is_none());
                let may_differ = may_differ || dies(&held) || dies(&newest);
                let is_equal = held == newest || may_differ;
                assert!(is_equal, "key {key}: copies differ at the end: {held:?} and {newest:?}");
            }
        }
        self.check_holders(&ring);
        let is_well = ring.document().slots.iter().all(|slot| slot.state == NodeState::Up);
        assert!(is_well, "not all are members again: {:?}", ring.document().slots);
    }
}

impl World {
    /// Nobody keeps what is not his: nobody would say what became of it.
    fn check_holders(&self, ring: &Ring) {
        for (index, node) in self.nodes.iter().enumerate() {
            let now = self.local(index);
            let holds = |hash| {
                let Assignment { primary, in_sync, learners, .. } = ring.assignment(partition_of(hash));
                let learners = learners.iter().map(|learner| learner.slot);
                in_sync.into_iter().chain(learners).chain([primary]).any(|holder| holder == slot(index))
            };
            for shard in node.iter().flat_map(|node| &node.shards) {
                let (mut cursor, mut kept) = (Cursor::default(), Vec::new());
                let show = &mut |record: Record| kept.push(record.key);
                while shard.store.scan(now, &mut cursor, &|hash| !holds(hash), show) {}
                assert!(kept.is_empty(), "n{index} keeps {kept:?}, which others hold");
            }
        }
    }
}

/// What an operation makes of what was found: each makes a value that no other makes.
fn change_of(op: usize, did: Did, found: Option<&Record>) -> Change {
    let text = op.to_string();
    match (did, found.and_then(|found| Some((found.version, found.content.as_ref()?)))) {
        (Did::Delete, _) => Change::Becomes(None),
        (Did::Extend, Some((base, content))) => {
            let (side, text) = match op.is_multiple_of(2) {
                true => (Side::Front, format!("{text} ")),
                false => (Side::Back, format!(" {text}")),
            };
            let value_len = content.value.len() + text.len();
            Change::Extends { base, side, bytes: text.into_bytes().into(), value_len }
        }
        _ => Change::Becomes(Some(Content { value: text.into_bytes().into(), ..Content::default() })),
    }
}

fn says_deltas(bytes: &[u8]) -> bool {
    let Ok((_, Message::Feed(feed))) = decode(Micros(0), bytes) else { return false };
    feed.entries.iter().any(|numbered| matches!(numbered.entry, Entry::Delta(_) | Entry::Behind { .. }))
}

fn slot(node: usize) -> SlotId {
    SlotId(u16::try_from(node).unwrap())
}
