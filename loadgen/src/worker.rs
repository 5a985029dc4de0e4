//! One thread of load: turns of its own reactor in which replies are counted and requests follow them.
//! Decides when what is sent; knows no other worker.

use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use slabring_protocol::client::{Reply, ReplyKind};
use slabring_reactor::clock::Moment;
use slabring_reactor::{ConnectionId, EndCause, Event, Io, IoSettings, Wait};

use crate::connection::{Answer, Connection, Flight};
use crate::failure::Failure;
use crate::interrupt;
use crate::kind::Kind;
use crate::ledger::Ledger;
use crate::lines::{Lines, Manner};
use crate::protocol::{Protocol, Single};
use crate::ring::{Follower, Snapshot};
use crate::route::Route;
use crate::schedule::Schedule;
use crate::tally::Tally;
use crate::target::Target;
use crate::values::{Values, Written};
use crate::verify::{Asked, Verifier};
use crate::workload::{Order, Source, Workload};

/// Longest sleep: a worker looks at its clock and at `stop` this often.
const NAP: Duration = Duration::from_millis(50);

/// A timer wakes its sleeper up to this late, so the last stretch before a due request is polled.
const POLL_NS: u64 = 120_000;

/// Requests that one thread lets wait in the kernel before it looks for replies again.
const LAUNCHES_PER_TURN_MAX: usize = 4096;

/// Parts that the time of requests that were never sent is cut into at most.
const UNSENT_LOOKS_MAX: f64 = 1e6;

/// How often connections that were lost are opened anew, where that is done at all.
const MEND_INTERVAL_NS: u64 = 500_000_000;

/// What counts as the answer to requests on a connection that was lost.
const LOST: &[u8] = b"the connection was lost";

/// How often a worker hands in what it has measured.
pub(crate) const INTERVAL_NS: u64 = 1_000_000_000;

/// The multi-get replies of one connection fit into a few of these; small replies leave most of one untouched.
pub(crate) const IO_SETTINGS: IoSettings =
    IoSettings { submissions: 1024, receive_buffers: 256, receive_buffer_bytes: 16 << 10 };

/// When a worker's requests end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bound {
    /// None is due from here on, on the run's clock.
    Until(u64),
    /// After so many.
    Requests(u64),
}

/// What paces a worker's requests.
#[derive(Debug)]
pub(crate) enum Pace {
    /// A reply lets the next request go.
    Closed,
    /// Requests have due times of their own.
    Open(Schedule),
}

/// A worker's orders.
pub(crate) struct Orders<'s> {
    pub(crate) workload: &'s Workload,
    pub(crate) values: &'s Values,
    pub(crate) route: Route,
    /// Where servers come and go.
    pub(crate) follower: Option<&'s Follower>,
    pub(crate) protocol: Protocol,
    pub(crate) source: Source<'s>,
    pub(crate) depth: usize,
    pub(crate) pace: Pace,
    pub(crate) bound: Bound,
    /// Requests due earlier are warm-up: sent, not counted.
    pub(crate) measure_from_ns: u64,
    pub(crate) timeout: Duration,
    pub(crate) verifier: Option<&'s Verifier>,
    /// What a get misses is fetched from a backend that takes so long, and stored.
    pub(crate) aside_ns: Option<u64>,
}

/// What a worker shares with the thread that watches it.
#[derive(Default, Debug)]
pub(crate) struct Watch {
    /// Set by whoever fails: all others stop.
    pub(crate) stop: AtomicBool,
}

/// Replies of one worker so far, warm-up included: on a cache line of its own.
#[derive(Default, Debug)]
#[repr(align(128))]
pub(crate) struct Odometer(pub(crate) AtomicU64);

/// What a worker tells the thread that watches it.
pub(crate) enum Message {
    /// Measured in an interval: its number, and from which worker.
    Measured { interval: u64, worker: u32, tally: Box<Tally> },
    /// It has ended.
    Ended(Result<(), Failure>),
}

/// Where a worker hands in what it measured, and gets back what was read.
pub(crate) struct Desk {
    pub(crate) worker: u32,
    pub(crate) out: Sender<Message>,
    pub(crate) back: Receiver<Box<Tally>>,
}

/// One thread, connected.
pub(crate) struct Worker<'s, I> {
    io: I,
    lines: Lines<'s>,
}

impl<'s, I: Io> Worker<'s, I> {
    /// Builds the reactor on this thread and opens `clients` connections to each server.
    pub(crate) fn connect(targets: &[Target], clients: usize, manner: Manner<'s>) -> Result<Self, Failure> {
        let mut io = I::new(&IO_SETTINGS)?;
        let lines = Lines::open(&mut io, targets, clients, manner)?;
        Ok(Self { io, lines })
    }

    /// Carries out `orders`; what is measured goes to `desk`. `epoch` is zero of the run's clock.
    pub(crate) fn run(
        self,
        orders: Orders<'s>,
        epoch: Moment,
        watch: &Watch,
        odometer: &Odometer,
        desk: &Desk,
    ) -> Result<(), Failure> {
        let Self { io, lines } = self;
        let tally = Tally::new(matches!(orders.pace, Pace::Open(_)), lines.servers());
        let clients = lines.clients();
        let touched = Vec::with_capacity(lines.connections.len());
        let mut run = Run {
            io,
            taken: vec![0; clients],
            free: clients * orders.depth,
            lines,
            // None: the first turn takes over what is known by then.
            ring_number: 0,
            mend_ns: u64::MAX,
            next_interval_ns: orders.measure_from_ns + INTERVAL_NS,
            interval: 0,
            orders,
            tally: Box::new(tally),
            touched,
            later: BinaryHeap::new(),
            scratch: Scratch::default(),
            next_client: 0,
            had_room_since_ns: 0,
            issued_ns: 0,
            issuing: true,
            replies: 0,
            checked_ns: 0,
        };
        let result = run.carry_out(epoch, watch, odometer, desk);
        run.give_up(Moment::now().since_ns(epoch));
        run.hand_in(desk);
        result
    }
}

struct Run<'s, I> {
    io: I,
    lines: Lines<'s>,
    orders: Orders<'s>,
    /// The ring that `lines` and the route are of.
    ring_number: u64,
    /// When connections that were lost are opened again, if any were.
    mend_ns: u64,
    /// Of the interval under way.
    tally: Box<Tally>,
    interval: u64,
    next_interval_ns: u64,
    /// Connections that got replies or room to send in this turn.
    touched: Vec<u32>,
    /// Requests of each client that are not through.
    taken: Vec<usize>,
    /// Requests that may still be launched before one must come back.
    free: usize,
    /// Second steps of requests, by when they are due.
    later: BinaryHeap<Step>,
    scratch: Scratch,
    /// Where the open loop looks for a free client next.
    next_client: usize,
    /// Before that, every client had its hands full.
    had_room_since_ns: u64,
    /// When the open loop last looked at what was due.
    issued_ns: u64,
    issuing: bool,
    replies: u64,
    /// When the timeouts were last looked at.
    checked_ns: u64,
}

/// Buffers that every request uses again.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Keys of a get of several, but the first.
    more: Vec<u64>,
    pub(crate) key: Vec<u8>,
    value: Vec<u8>,
    /// Several keys, one behind the other, and where each ends.
    keys: Vec<u8>,
    ends: Vec<usize>,
    /// Which keys of a reply were found.
    pub(crate) found: Vec<bool>,
    pub(crate) steps: Vec<Step>,
}

/// What follows an answer: the store after a miss, or after the get of a compare-and-swap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) due_ns: u64,
    pub(crate) client: usize,
    pub(crate) order: Order,
    pub(crate) cas: u64,
    pub(crate) holds_slot: bool,
}

impl Ord for Step {
    /// Earliest first out of a heap that gives its greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due_ns.cmp(&self.due_ns).then(other.client.cmp(&self.client))
    }
}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<I: Io> Run<'_, I> {
    fn carry_out(
        &mut self,
        epoch: Moment,
        watch: &Watch,
        odometer: &Odometer,
        desk: &Desk,
    ) -> Result<(), Failure> {
        let now_ns = || Moment::now().since_ns(epoch);
        for slot in 0..self.lines.connections.len() {
            self.touch(slot);
        }
        self.issue(now_ns());
        while self.issuing || self.in_flight() > 0 {
            self.io.turn(self.wait(now_ns()))?;
            let now = now_ns();
            if now >= self.next_interval_ns {
                self.hand_in(desk);
                self.interval = (now - self.orders.measure_from_ns) / INTERVAL_NS;
                self.next_interval_ns = self.orders.measure_from_ns + (self.interval + 1) * INTERVAL_NS;
            }
            self.hear(now)?;
            self.follow(now);
            self.mind_timeouts(now)?;
            odometer.0.store(self.replies, Ordering::Relaxed);
            if watch.stop.load(Ordering::Relaxed) || interrupt::came() {
                break;
            }
            // Replies were handled since the turn: what is sent now has not waited for that.
            self.issue(now_ns());
        }
        Ok(())
    }

    fn hand_in(&mut self, desk: &Desk) {
        self.tally.flush();
        let next = desk.back.try_recv().unwrap_or_else(|_| self.tally.clone());
        let mut tally = std::mem::replace(&mut self.tally, next);
        self.tally.clear();
        tally.flush();
        // The watcher is there as long as it has not heard of every worker's end.
        let (interval, worker) = (self.interval, desk.worker);
        desk.out
            .send(Message::Measured { interval, worker, tally })
            .expect("the watcher waits for every thread");
    }

    fn in_flight(&self) -> usize {
        self.taken.len() * self.orders.depth - self.free
    }

    fn wait(&self, now: u64) -> Wait {
        let scheduled_ns = match &self.orders.pace {
            Pace::Open(schedule) if self.issuing && self.free > 0 => schedule.next_ns(),
            Pace::Open(_) | Pace::Closed => u64::MAX,
        };
        let due_ns = self.later.peek().map_or(scheduled_ns, |step| step.due_ns.min(scheduled_ns));
        if due_ns == u64::MAX {
            return Wait::AtMost(NAP);
        }
        match due_ns.saturating_sub(now).checked_sub(POLL_NS) {
            None | Some(0) => Wait::Poll,
            Some(ns) => Wait::AtMost(Duration::from_nanos(ns).min(NAP)),
        }
    }

    fn hear(&mut self, now: u64) -> Result<(), Failure> {
        let had_room = self.free > 0;
        while let Some(event) = self.io.next_event() {
            match event {
                Event::Received { connection, data } => {
                    let slot = slot_of(connection);
                    if now >= self.orders.measure_from_ns {
                        self.tally.received_bytes += data.len() as u64;
                    }
                    let connection = &mut self.lines.connections[slot];
                    let client = connection.client;
                    let mut ledger = Ledger {
                        orders: &self.orders,
                        tally: &mut self.tally,
                        scratch: &mut self.scratch,
                        client,
                        server: u16::try_from(connection.server).unwrap_or(0),
                        now,
                        replies: 0,
                        released: 0,
                    };
                    connection.receive(data, |answer, asked| ledger.enter(answer, asked))?;
                    let (replies, released) = (ledger.replies, ledger.released);
                    self.settle(client, replies, released);
                    self.touch(slot);
                }
                Event::Sent { connection, buffer, sent_bytes } => {
                    let slot = slot_of(connection);
                    self.lines.connections[slot].sent(buffer);
                    if now >= self.orders.measure_from_ns {
                        self.tally.sent_bytes += sent_bytes as u64;
                    }
                    if !self.lines.connections[slot].output.is_empty() {
                        self.touch(slot);
                    }
                }
                Event::Ended { connection, cause } => self.lose(slot_of(connection), cause, now)?,
                Event::Accepted { .. } => unreachable!("nothing listens"),
                Event::Returned(_) | Event::Readable(_) | Event::Datagram { .. } | Event::Woken => {}
            }
        }
        if !had_room && self.free > 0 {
            self.had_room_since_ns = now;
        }
        Ok(())
    }

    /// Enters what a packet of a client's came to.
    #[inline]
    fn settle(&mut self, client: usize, replies: u64, released: usize) {
        self.replies += replies;
        self.free += released;
        self.taken[client] -= released;
        if !self.scratch.steps.is_empty() {
            self.later.extend(self.scratch.steps.drain(..));
        }
    }

    /// A connection has ended: where servers come and go its requests have failed and others go on, else the run is over.
    #[cold]
    fn lose(&mut self, slot: usize, cause: EndCause, now: u64) -> Result<(), Failure> {
        let closed = || Failure::Closed { cause: words_for(&cause) };
        if self.orders.follower.is_none() {
            return Err(closed());
        }
        let connection = &mut self.lines.connections[slot];
        let (client, server) = (connection.client, connection.server);
        self.io.close(connection.id);
        let flights = connection.end();
        let mut asked = std::mem::take(&mut connection.asked);
        self.lines.give_up(slot);
        let mut ledger = Ledger {
            orders: &self.orders,
            tally: &mut self.tally,
            scratch: &mut self.scratch,
            client,
            server: u16::try_from(server).unwrap_or(0),
            now,
            replies: 0,
            released: 0,
        };
        for flight in flights {
            let reply = Reply { kind: ReplyKind::ServerError, hits: 0, value_bytes: 0 };
            ledger.enter(Answer::To { flight, reply, bytes: LOST }, &mut asked)?;
        }
        let (replies, released) = (ledger.replies, ledger.released);
        self.settle(client, replies, released);
        self.mend_ns = self.mend_ns.min(now + MEND_INTERVAL_NS);
        let other = self.lines.slot(client, server).ok_or_else(closed)?;
        self.touch(other);
        Ok(())
    }

    /// Takes over a ring that has changed, and opens connections that are missing.
    #[inline]
    fn follow(&mut self, now: u64) {
        if let Some(follower) = self.orders.follower
            && (follower.number() != self.ring_number || now >= self.mend_ns)
        {
            self.catch_up(follower, now);
        }
    }

    #[cold]
    fn catch_up(&mut self, follower: &Follower, now: u64) {
        let Snapshot { number, targets, alive, route } = follower.snapshot();
        (self.ring_number, self.orders.route) = (number, route);
        self.lines.know(&targets);
        let is_whole = self.lines.mend(&mut self.io, &alive) && !alive.contains(&false);
        self.mend_ns = if is_whole { u64::MAX } else { now + MEND_INTERVAL_NS };
    }

    fn touch(&mut self, slot: usize) {
        let connection = &mut self.lines.connections[slot];
        if !std::mem::replace(&mut connection.touched, true) {
            self.touched.push(connection.id.slot);
        }
    }

    /// Makes the requests that may go now, and sends for each touched connection what it has.
    fn issue(&mut self, now: u64) {
        while self.later.peek().is_some_and(|step| step.due_ns <= now) {
            let step = self.later.pop().expect("it was just seen");
            self.take_step(&step, now);
        }
        if self.issuing {
            match self.orders.pace {
                Pace::Closed => self.issue_closed(now),
                Pace::Open(_) => self.issue_due(now),
            }
        }
        for slot in self.touched.drain(..) {
            let connection = &mut self.lines.connections[slot as usize];
            connection.touched = false;
            if let Some(output) = connection.take_output() {
                self.io.send(connection.id, output);
            }
        }
    }

    fn issue_closed(&mut self, now: u64) {
        if let Bound::Until(end_ns) = self.orders.bound
            && now >= end_ns
        {
            self.issuing = false;
            return;
        }
        for at in 0..self.touched.len() {
            let client = self.lines.connections[self.touched[at] as usize].client;
            while self.issuing && self.taken[client] < self.orders.depth {
                self.launch(client, now, now);
            }
        }
    }

    fn issue_due(&mut self, now: u64) {
        self.issued_ns = now;
        for _ in 0..LAUNCHES_PER_TURN_MAX {
            let Some(due_ns) = self.next_due(now) else { return };
            if due_ns >= self.orders.measure_from_ns {
                self.tally.late(now - due_ns.max(self.had_room_since_ns).min(now));
            }
            let client = self.free_client();
            self.launch(client, due_ns, now);
        }
    }

    /// Takes the next request off the schedule, if it is due and there is room for it.
    fn next_due(&mut self, now: u64) -> Option<u64> {
        let Pace::Open(schedule) = &mut self.orders.pace else { return None };
        let due_ns = schedule.next_ns();
        let end_ns = match self.orders.bound {
            Bound::Until(end_ns) => end_ns,
            Bound::Requests(_) => u64::MAX,
        };
        if due_ns >= end_ns {
            self.issuing = false;
        } else if self.free == 0 && now >= end_ns {
            self.give_up_unsent(end_ns, end_ns);
        } else if self.free > 0 && due_ns <= now && self.issuing {
            schedule.advance();
            return Some(due_ns);
        }
        None
    }

    /// Enters what has no answer at the end: nothing, but where the run ends before its time. It waited at least until now:
    /// leaving it out would hide just the slow ones.
    fn give_up(&mut self, now: u64) {
        for connection in &self.lines.connections {
            let server = u16::try_from(connection.server).unwrap_or(0);
            let measured =
                connection.unanswered().filter(|flight| flight.due_ns >= self.orders.measure_from_ns);
            for flight in measured {
                self.tally.give_up(flight.kind, server, now - flight.due_ns, now - flight.sent_ns);
                self.tally.last_reply_ns = now;
            }
        }
        if self.issuing {
            // With room left, what came due after the last look would have been sent now.
            let looked_ns = if self.free == 0 { now } else { self.issued_ns };
            let end_ns = match self.orders.bound {
                Bound::Until(end_ns) => end_ns.min(looked_ns),
                Bound::Requests(_) => looked_ns,
            };
            self.give_up_unsent(end_ns, now);
        }
    }

    /// The end has come and requests that were due before `end_ns` still find no room. They waited until `now_ns` at least.
    fn give_up_unsent(&mut self, end_ns: u64, now_ns: u64) {
        self.issuing = false;
        let mut left = match self.orders.bound {
            Bound::Until(_) => u64::MAX,
            Bound::Requests(left) => left,
        };
        let Pace::Open(schedule) = &mut self.orders.pace else { return };
        // A rate out of all proportion leaves more than can be looked at one by one.
        let stride = schedule.stride(end_ns, UNSENT_LOOKS_MAX);
        while left > 0 && schedule.next_ns() < end_ns {
            let (due_ns, count) = (schedule.next_ns(), stride.min(left));
            if due_ns >= self.orders.measure_from_ns {
                self.tally.wait_unsent(now_ns - due_ns, count);
            }
            schedule.advance_by(stride);
            left -= count;
        }
    }

    /// The next client, in turn, that takes a request. There is one.
    fn free_client(&mut self) -> usize {
        assert!(self.free > 0);
        loop {
            let client = self.next_client;
            self.next_client = if client + 1 == self.taken.len() { 0 } else { client + 1 };
            if self.taken[client] < self.orders.depth {
                return client;
            }
        }
    }

    #[inline]
    fn launch(&mut self, client: usize, due_ns: u64, sent_ns: u64) {
        let Orders { source, route, .. } = &mut self.orders;
        let Some(order) = source.next(route, &mut self.scratch.more) else {
            self.issuing = false;
            return;
        };
        let slot = self.slot_for(client, &order);
        self.taken[client] += 1;
        self.free -= 1;
        let before_cas = order.kind == Kind::Cas;
        let kind = if before_cas { Kind::Gets } else { order.kind };
        if kind == Kind::Get && !self.scratch.more.is_empty() {
            self.send_many(slot, &order, due_ns, sent_ns);
        } else {
            let step = Step { due_ns, client, order: Order { kind, ..order }, cas: 0, holds_slot: true };
            self.send(slot, &step, before_cas, sent_ns);
        }
        if let Bound::Requests(left) = &mut self.orders.bound {
            *left -= 1;
            self.issuing = *left > 0;
        }
    }

    fn take_step(&mut self, step: &Step, now: u64) {
        let slot = self.slot_for(step.client, &step.order);
        self.send(slot, step, false, now);
    }

    /// The connection that a client's request goes over, noted to be looked after.
    #[inline]
    fn slot_for(&mut self, client: usize, order: &Order) -> usize {
        let Orders { workload, route, .. } = &self.orders;
        let server = workload.server(route, order.kind, order.key, &mut self.scratch.key);
        let slot = self.lines.slot(client, server).expect("a run ends with a client's last connection");
        self.touch(slot);
        slot
    }

    /// Appends a request with one key to its connection's output.
    #[inline]
    fn send(&mut self, slot: usize, step: &Step, before_cas: bool, sent_ns: u64) {
        let Self { orders, scratch, lines, .. } = self;
        let Order { kind, key, size, ttl } = step.order;
        let connection = &mut lines.connections[slot];
        let mut version = 0;
        if kind.writes()
            && let Some(verifier) = orders.verifier
        {
            version = verifier.book.begin(key);
        }
        if kind.reads() {
            note_asked(orders, connection, key);
        }
        orders.workload.key(kind, key, &mut scratch.key);
        scratch.value.clear();
        if kind.stores() {
            let run = orders.verifier.map_or(0, |verifier| verifier.run);
            let written = Written { run, version };
            orders.workload.append_value(orders.values, key, written, size, &mut scratch.value);
        }
        let single = Single { kind, key: &scratch.key, value: &scratch.value, ttl, cas: step.cas };
        orders.protocol.append(&mut connection.output, &single);
        connection.launch(Flight {
            due_ns: step.due_ns,
            sent_ns,
            key,
            size,
            ttl,
            version,
            keys: 1,
            kind,
            before_cas,
            holds_slot: step.holds_slot,
        });
    }

    /// Appends a get of the order's key and of those in `scratch.more`.
    fn send_many(&mut self, slot: usize, order: &Order, due_ns: u64, sent_ns: u64) {
        let Self { orders, scratch, lines, .. } = self;
        let connection = &mut lines.connections[slot];
        scratch.keys.clear();
        scratch.ends.clear();
        for &key in std::iter::once(&order.key).chain(&scratch.more) {
            orders.workload.keys.append(key, &mut scratch.keys);
            scratch.ends.push(scratch.keys.len());
            note_asked(orders, connection, key);
        }
        let (keys, mut start) = (&scratch.keys, 0);
        let slices = scratch.ends.iter().map(|&end| &keys[std::mem::replace(&mut start, end)..end]);
        orders.protocol.append_get_many(&mut connection.output, slices);
        connection.launch(Flight {
            due_ns,
            sent_ns,
            key: order.key,
            size: order.size,
            ttl: order.ttl,
            version: 0,
            keys: u32::try_from(scratch.ends.len()).expect("the command line allows fewer"),
            kind: Kind::Get,
            before_cas: false,
            holds_slot: true,
        });
    }

    fn mind_timeouts(&mut self, now: u64) -> Result<(), Failure> {
        if Duration::from_nanos(now - self.checked_ns) < NAP {
            return Ok(());
        }
        self.checked_ns = now;
        let timeout = self.orders.timeout;
        let oldest_ns = self.lines.connections.iter().filter_map(Connection::oldest_sent_ns).min();
        match oldest_ns {
            Some(sent_ns) if Duration::from_nanos(now.saturating_sub(sent_ns)) > timeout => {
                Err(Failure::Timeout { timeout, in_flight: self.in_flight() })
            }
            _ => Ok(()),
        }
    }
}

/// Remembers a key that is read, where replies are looked into.
#[inline]
fn note_asked(orders: &Orders<'_>, connection: &mut Connection, key: u64) {
    if connection.keeps_replies() {
        let floor = orders.verifier.map_or(0, |verifier| verifier.book.floor(key));
        connection.asked.push_back(Asked { key, floor });
    }
}

fn slot_of(connection: ConnectionId) -> usize {
    connection.slot as usize
}

fn words_for(cause: &EndCause) -> String {
    match *cause {
        EndCause::EndOfStream => "end of stream".into(),
        EndCause::Failed(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}
