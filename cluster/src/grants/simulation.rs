//! One hot key, a few nodes, and all that may go wrong between them: messages late or lost with their link, clocks a tenth fast or
//! slow, nodes that are stopped, killed and started again, and others made owners. Nobody may read a version older than one that
//! was acknowledged, or read by anybody, before he asked.

use std::collections::VecDeque;

use super::*;
use crate::placement::{hash_key, partition_of};
use crate::ring::partitions::PartitionSet;
use crate::safeguard::{Safeguard, without};
use crate::simulation::dice::Dice;

const KEY: &[u8] = b"hot";
/// All times are real microseconds but where a node's clock is named.
const STEP: u64 = 500;
const WORLD_TIME: u64 = 6_000_000;
const SEEDS: u64 = 400;
/// A primary's lease by its clock, and how long nobody else may be one after it was renewed last.
const LEASE: Micros = Micros::from_millis(1_000);
const LEASE_OVER: u64 = 1_400_000;

/// A link of the first node to the second, and which of their connections it is.
type LinkName = (usize, usize, u32);

#[derive(Clone, Copy)]
struct Ring {
    epoch: u64,
    owner: usize,
    /// The owner before, if it lives and is to say when it is done.
    waits_for: Option<usize>,
}

#[derive(Clone, Copy)]
struct Op {
    begun_floor: u64,
    is_write: bool,
}

enum Item {
    Client(Op),
    Grants(LinkName, Vec<u8>),
    Ask(LinkName, Op),
    Reply(Op, u64),
    HandedOver { epoch: u64, version: u64 },
}

struct Node {
    /// Of a thousand.
    rate: u64,
    offset: u64,
    stopped_until: u64,
    dead_until: u64,
    ring: Ring,
    is_settled: bool,
    /// Rings that it will hear of.
    news: VecDeque<(u64, Ring)>,
    inbox: VecDeque<Item>,
    version: u64,
    lease_until: Micros,
    /// Writes that wait, and by which link their clients are told.
    parked: VecDeque<(Op, Option<LinkName>)>,
    granting: Granting<LinkName>,
    holding: Holding<LinkName>,
}

struct Wire {
    session: u32,
    /// Of both directions: from the dialler, and to it.
    queues: [VecDeque<(u64, Item)>; 2],
    cut_until: [u64; 2],
    /// The connection is gone, and the dialler hears of it then.
    lost_at: Option<u64>,
}

struct World {
    dice: Dice,
    now: u64,
    nodes: Vec<Node>,
    wires: Vec<Vec<Wire>>,
    ring: Ring,
    renewed_at: u64,
    /// What an owner that lost everything finds: copies keep all that was executed.
    executed: u64,
    floor: u64,
    front_hits: u64,
    done: u64,
    rings: u64,
}

impl Node {
    fn clock(&self, now: u64) -> Micros {
        Micros(self.offset + now * self.rate / 1_000)
    }

    fn serves(&self, me: usize, clock: Micros) -> bool {
        self.ring.owner == me && self.is_settled && clock < self.lease_until
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let count = 3 + dice.index(2);
        let ring = Ring { epoch: 1, owner: 0, waits_for: None };
        let node = |dice: &mut Dice| Node {
            rate: 900 + dice.below(201),
            offset: dice.below(1 << 30),
            stopped_until: 0,
            dead_until: 0,
            ring,
            is_settled: true,
            news: VecDeque::new(),
            inbox: VecDeque::new(),
            version: 0,
            lease_until: Micros(0),
            parked: VecDeque::new(),
            granting: Granting::default(),
            holding: Holding::default(),
        };
        let wire = || Wire { session: 0, queues: Default::default(), cut_until: [0; 2], lost_at: None };
        let nodes = (0..count).map(|_| node(&mut dice)).collect();
        Self {
            nodes,
            wires: (0..count).map(|_| (0..count).map(|_| wire()).collect()).collect(),
            dice,
            now: 0,
            ring,
            renewed_at: 0,
            executed: 0,
            floor: 0,
            front_hits: 0,
            done: 0,
            rings: 1,
        }
    }

    fn lives(&self, node: usize) -> bool {
        self.nodes[node].dead_until <= self.now
    }

    fn is_awake(&self, node: usize) -> bool {
        self.lives(node) && self.nodes[node].stopped_until <= self.now
    }

    /// Ends with the first violation, if there is one.
    fn run(&mut self) -> Result<(), String> {
        while self.now < WORLD_TIME {
            self.now += STEP;
            self.go_wrong();
            self.conduct();
            self.ask();
            self.deliver();
            for node in 0..self.nodes.len() {
                if self.is_awake(node) {
                    self.turn(node)?;
                }
            }
        }
        Ok(())
    }

    fn go_wrong(&mut self) {
        let (node, other) = (self.dice.index(self.nodes.len()), self.dice.index(self.nodes.len()));
        let span = if self.dice.chance(500) { 60_000 } else { 700_000 };
        let until = self.now + self.dice.below(span);
        match self.dice.below(8_000) {
            0..6 => self.nodes[node].stopped_until = until,
            6..12 => self.kill(node, until),
            12..22 => self.wires[node][other].cut_until[0] = until,
            22..32 => self.wires[node][other].cut_until[1] = until,
            32..38 => self.reset(node, other),
            38..46 => self.hand_over(),
            _ => {}
        }
    }

    fn kill(&mut self, node: usize, until: u64) {
        if !self.lives(node) {
            return;
        }
        let (latest, executed) = (self.ring, self.executed);
        let it = &mut self.nodes[node];
        it.dead_until = until;
        it.stopped_until = 0;
        it.inbox.clear();
        it.parked.clear();
        it.holding = Holding::default();
        it.news.clear();
        // Its next life follows the ring of now; until it is told of another it is still whom that names.
        it.ring = latest;
        it.is_settled = latest.waits_for.is_none();
        it.version = executed;
        it.lease_until = Micros(0);
        it.granting = Granting::default();
        let mut gained = PartitionSet::default();
        gained.insert(partition_of(hash_key(KEY)));
        it.granting.arrived(it.clock(until), &gained);
        for other in 0..self.nodes.len() {
            self.reset(node, other);
            self.reset(other, node);
        }
    }

    /// A connection ends; what was on its way is gone, and the dialler hears of it some time later.
    fn reset(&mut self, from: usize, to: usize) {
        let heard_at = self.now + self.dice.below(300_000);
        let wire = &mut self.wires[from][to];
        wire.queues.iter_mut().for_each(VecDeque::clear);
        wire.lost_at = wire.lost_at.or(Some(heard_at));
    }

    /// Somebody else is to be owner while the one of now lives.
    fn hand_over(&mut self) {
        let owner = self.ring.owner;
        let next = self.dice.index(self.nodes.len());
        if next != owner && self.lives(owner) && self.lives(next) && self.ring.waits_for.is_none() {
            self.follow_up(Ring { epoch: self.ring.epoch + 1, owner: next, waits_for: Some(owner) });
        }
    }

    fn follow_up(&mut self, ring: Ring) {
        (self.ring, self.rings) = (ring, self.rings + 1);
        self.renewed_at = self.now;
        for node in &mut self.nodes {
            let delay = if self.dice.chance(200) { 600_000 } else { 20_000 };
            let due = node.news.back().map_or(0, |&(due, _)| due);
            node.news.push_back((due.max(self.now + self.dice.below(delay)), ring));
        }
    }

    /// Leases, and another owner for one that is dead or not heard of.
    fn conduct(&mut self) {
        let (owner, now) = (self.ring.owner, self.now);
        let it = &self.nodes[owner];
        let is_heard = self.is_awake(owner) && it.ring.epoch == self.ring.epoch && it.is_settled;
        if is_heard && self.now.is_multiple_of(100_000) && !self.dice.chance(100) {
            self.renewed_at = now;
            let clock = self.nodes[owner].clock(now);
            self.nodes[owner].lease_until = clock + LEASE;
        }
        let is_dead = !self.lives(owner) && self.dice.chance(50);
        let is_over = now > self.renewed_at + LEASE_OVER;
        // While somebody hands over, his successor's death says nothing: he may not have heard of it yet.
        if is_dead && self.ring.waits_for.is_none() || is_over {
            let next = self.dice.index(self.nodes.len());
            if next != owner && self.lives(next) {
                self.follow_up(Ring { epoch: self.ring.epoch + 1, owner: next, waits_for: None });
            }
        }
    }

    /// Clients of all nodes.
    fn ask(&mut self) {
        if self.dice.chance(500) {
            let node = self.dice.index(self.nodes.len());
            let op = Op { begun_floor: self.floor, is_write: self.dice.chance(3) };
            if self.lives(node) {
                self.nodes[node].inbox.push_back(Item::Client(op));
            }
        }
    }

    fn send(&mut self, (from, to, session): LinkName, direction: usize, item: Item) {
        let delay_max = if self.dice.chance(20) { 40_000 } else { 1_000 };
        let delay = 100 + self.dice.below(delay_max);
        let wire = &mut self.wires[from][to];
        if wire.session == session && wire.lost_at.is_none() {
            let due = wire.queues[direction].back().map_or(0, |&(due, _)| due);
            wire.queues[direction].push_back((due.max(self.now + delay), item));
        }
    }

    fn deliver(&mut self) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                let wire = &mut self.wires[from][to];
                for direction in 0..2 {
                    let receiver = if direction == 0 { to } else { from };
                    if wire.cut_until[direction] > self.now || self.nodes[receiver].dead_until > self.now {
                        continue;
                    }
                    while wire.queues[direction].front().is_some_and(|&(due, _)| due <= self.now) {
                        let (_, item) = wire.queues[direction].pop_front().unwrap();
                        self.nodes[receiver].inbox.push_back(item);
                    }
                }
            }
        }
    }

    fn turn(&mut self, me: usize) -> Result<(), String> {
        self.hear_of_lost_links(me);
        while let Some(item) = self.nodes[me].inbox.pop_front() {
            self.take(me, item)?;
        }
        self.follow(me);
        self.retry(me);
        self.send_grants(me);
        let clock = self.nodes[me].clock(self.now);
        self.nodes[me].granting.is_watchful(clock);
        self.nodes[me].granting.check_invariants();
        self.nodes[me].holding.check_invariants();
        Ok(())
    }

    fn hear_of_lost_links(&mut self, me: usize) {
        for to in 0..self.nodes.len() {
            let wire = &mut self.wires[me][to];
            if wire.lost_at.is_some_and(|at| at <= self.now) {
                self.nodes[me].holding.lost((me, to, wire.session));
                (wire.lost_at, wire.session) = (None, wire.session + 1);
            }
        }
    }

    fn follow(&mut self, me: usize) {
        let (now, executed) = (self.now, self.executed);
        let node = &mut self.nodes[me];
        let Some(&(due, ring)) = node.news.front() else { return };
        if due > now || ring.epoch <= node.ring.epoch {
            if due <= now {
                node.news.pop_front();
            }
            return;
        }
        node.holding.drop_all();
        if node.granting.must_wait_to_leave(node.clock(now)) {
            return;
        }
        node.news.pop_front();
        let was_owner = node.ring.owner == me && node.is_settled;
        let was = std::mem::replace(&mut node.ring, ring);
        let mut gained = PartitionSet::default();
        if ring.owner == me && was.owner != me && ring.waits_for.is_none() {
            gained.insert(partition_of(hash_key(KEY)));
            node.version = executed;
        }
        node.is_settled = ring.owner == me && (ring.waits_for.is_none() || (was.owner == me && was_owner));
        let clock = node.clock(now);
        node.granting.arrived(clock, &gained);
        let version = node.version;
        if ring.waits_for == Some(me) && was_owner {
            let handed_over = Item::HandedOver { epoch: ring.epoch, version };
            self.nodes[ring.owner].inbox.push_back(handed_over);
        }
    }

    fn take(&mut self, me: usize, item: Item) -> Result<(), String> {
        match item {
            Item::Client(op) => return self.take_request(me, op, None),
            Item::Ask(link, op) => return self.take_request(me, op, Some(link)),
            Item::Reply(op, version) => return self.finish(op, version),
            Item::Grants(link, bytes) => self.hear(me, link, &bytes),
            Item::HandedOver { epoch, version } => {
                let node = &mut self.nodes[me];
                if node.ring.epoch == epoch {
                    (node.is_settled, node.version) = (true, version);
                    self.ring.waits_for = self.ring.waits_for.filter(|_| self.ring.epoch != epoch);
                } else if node.ring.epoch < epoch {
                    // It has not heard of the ring itself: again in the next turn.
                    let again = (self.now + STEP, Item::HandedOver { epoch, version });
                    self.wires[me][me].queues[0].push_back(again);
                }
            }
        }
        Ok(())
    }

    fn take_request(&mut self, me: usize, op: Op, from: Option<LinkName>) -> Result<(), String> {
        let clock = self.nodes[me].clock(self.now);
        if self.nodes[me].serves(me, clock) {
            if op.is_write || !self.nodes[me].parked.is_empty() {
                self.nodes[me].parked.push_back((op, from));
                return Ok(());
            }
            if let Some(link) = from {
                let node = &mut self.nodes[me];
                if node.granting.may_grant(clock, KEY) && self.dice.chance(300) {
                    node.granting.offer(link, KEY);
                }
            }
            return self.answer(me, op, from);
        }
        let owner = self.nodes[me].ring.owner;
        if from.is_some() || owner == me {
            return Ok(());
        }
        if op.is_write {
            self.nodes[me].holding.wrote(KEY);
        } else if let Some(held) = self.nodes[me].holding.read(clock, KEY) {
            let version = held.copy().cas;
            self.front_hits += 1;
            return self.finish(op, version);
        }
        let link = (me, owner, self.wires[me][owner].session);
        self.send(link, 0, Item::Ask(link, op));
        Ok(())
    }

    fn answer(&mut self, me: usize, op: Op, from: Option<LinkName>) -> Result<(), String> {
        let version = self.nodes[me].version;
        match from {
            Some(link) => self.send(link, 1, Item::Reply(op, version)),
            None => return self.finish(op, version),
        }
        Ok(())
    }

    fn retry(&mut self, me: usize) {
        while let Some(&(op, from)) = self.nodes[me].parked.front() {
            let node = &mut self.nodes[me];
            let clock = node.clock(self.now);
            let serves = node.serves(me, clock);
            if serves && op.is_write && node.granting.must_wait(clock, hash_key(KEY), KEY) {
                return;
            }
            node.parked.pop_front();
            if !serves {
                continue;
            }
            if op.is_write {
                self.executed += 1;
                self.nodes[me].version = self.executed;
            }
            // What is told here is newer than all that was told before.
            self.answer(me, op, from).expect("the newest version is not old");
        }
    }

    fn hear(&mut self, me: usize, link: LinkName, bytes: &[u8]) {
        let clock = self.nodes[me].clock(self.now);
        let node = &mut self.nodes[me];
        match decode(bytes).unwrap() {
            Message::Offer { key } => node.holding.offered(clock, link, key),
            Message::Grant { ticket, number, key, copy } => {
                node.holding.granted(clock, link, (ticket, number), key, copy);
            }
            Message::Revoke { number, key } => node.holding.revoked(link, number, key),
            Message::Revoked { number, key } => node.granting.revoked(link, number, key),
            Message::Want { ticket, key, .. } => {
                let keeps = node.serves(me, clock + GRANT_WAIT) && node.parked.is_empty();
                if keeps && node.granting.may_grant(clock, key) {
                    let copy = Copy { cas: node.version, client_flags: 0, is_for_ever: true, value: b"v" };
                    node.granting.grant(clock, link, ticket, key, copy);
                }
            }
        }
    }

    fn send_grants(&mut self, me: usize) {
        for (link, bytes) in self.nodes[me].granting.take_sends() {
            self.send(link, 1, Item::Grants(link, bytes));
        }
        for (link, bytes) in self.nodes[me].holding.take_sends() {
            self.send(link, 0, Item::Grants(link, bytes));
        }
    }

    fn finish(&mut self, op: Op, version: u64) -> Result<(), String> {
        self.done += 1;
        if version < op.begun_floor {
            return Err(format!("{version} is read at {} us after {} was known", self.now, op.begun_floor));
        }
        self.floor = self.floor.max(version);
        Ok(())
    }
}

#[test]
fn nobody_reads_what_is_older_than_what_anybody_knew() {
    let (mut hits, mut done, mut rings, mut written, mut revoked) = (0, 0, 0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.run().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        (hits, done, rings) = (hits + world.front_hits, done + world.done, rings + world.rings);
        written += world.executed;
        revoked += world.nodes.iter().map(|node| node.granting.counts().revoked).sum::<u64>();
    }
    eprintln!("{hits} of {done} answers from copies, {written} writes, {revoked} revoked, {rings} rings");
    assert!(hits * 10 > done && written > SEEDS * 5 && revoked > SEEDS * 2 && rings > SEEDS * 4);
}

#[track_caller]
fn check_missed(safeguard: Safeguard) {
    let find = |seed| without(safeguard, || World::new(seed).run()).err();
    let found = (0..SEEDS).find_map(|seed| Some((seed, find(seed)?)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{SEEDS} seeds do not miss {safeguard:?}"));
    eprintln!("{safeguard:?} is missed by seed {seed}: {violation}");
}

#[test]
fn without_the_wait_for_holders_a_copy_is_read_after_the_write() {
    check_missed(Safeguard::WritesWaitForHolders);
}

#[test]
fn a_grant_that_ran_from_its_arrival_would_outlive_the_owners_wait() {
    check_missed(Safeguard::GrantsRunFromAsking);
}

#[test]
fn a_grant_that_outlived_a_ring_would_be_read_after_the_next_owners_write() {
    check_missed(Safeguard::GrantsEndBeforeRings);
}

#[test]
fn a_successor_that_did_not_wait_would_write_under_the_grants_of_a_dead_owner() {
    check_missed(Safeguard::SuccessorsWait);
}
