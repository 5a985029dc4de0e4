//! One thread of load: turns of its own reactor in which replies are counted and requests follow them.
//! Decides when what is sent; makes no request bytes and knows no other worker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use slabring_reactor::clock::Moment;
use slabring_reactor::{ConnectionId, EndCause, Event, Io, IoSettings, Wait};

use crate::connection::{Answer, Connection, Flight};
use crate::failure::{Failure, excerpt};
use crate::requests::{Kind, Requests, Space};
use crate::schedule::Schedule;
use crate::tally::Tally;
use crate::target::Target;
use crate::verify;

/// Longest sleep: a worker looks at its clock and at `stop` this often.
const NAP: Duration = Duration::from_millis(50);

/// A timer wakes its sleeper up to this late, so the last stretch before a due request is polled.
const POLL_NS: u64 = 120_000;

/// Requests that one thread lets wait in the kernel before it looks for replies again.
const LAUNCHES_PER_TURN_MAX: usize = 4096;

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
    pub(crate) space: &'s Space,
    pub(crate) requests: Requests<'s>,
    pub(crate) depth: usize,
    pub(crate) pace: Pace,
    pub(crate) bound: Bound,
    /// Requests due earlier are warm-up: sent, not counted.
    pub(crate) measure_from_ns: u64,
    pub(crate) timeout: Duration,
    pub(crate) verify: bool,
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

/// The connections of one thread.
pub(crate) struct Worker<I> {
    io: I,
    connections: Vec<Connection>,
}

impl<I: Io> Worker<I> {
    /// Builds the reactor on this thread and opens `count` connections.
    pub(crate) fn connect(
        target: &Target,
        count: u32,
        depth: usize,
        keep_replies: bool,
    ) -> Result<Self, Failure> {
        let mut io = I::new(&IO_SETTINGS)?;
        let mut connections = Vec::new();
        for slot in 0..count {
            let id = io.adopt(target.connect()?)?;
            assert_eq!(id.slot, slot, "slots of a fresh reactor are dense");
            connections.push(Connection::new(id, depth, keep_replies));
        }
        Ok(Self { io, connections })
    }

    /// Carries out `orders` and returns the measured part, flushed. `epoch` is zero of the run's clock.
    pub(crate) fn run(
        self,
        orders: Orders<'_>,
        epoch: Moment,
        watch: &Watch,
        odometer: &Odometer,
    ) -> Result<Tally, Failure> {
        let tally = Tally::new(matches!(orders.pace, Pace::Open(_)));
        let free = self.connections.len() * orders.depth;
        let touched = Vec::with_capacity(self.connections.len());
        let run = Run {
            io: self.io,
            connections: self.connections,
            orders,
            tally,
            touched,
            free,
            next_connection: 0,
            issuing: true,
            replies: 0,
            checked_ns: 0,
        };
        run.carry_out(epoch, watch, odometer)
    }
}

struct Run<'s, I> {
    io: I,
    connections: Vec<Connection>,
    orders: Orders<'s>,
    tally: Tally,
    /// Connections that got replies or room to send in this turn.
    touched: Vec<u32>,
    /// Requests that may still be launched before one must come back.
    free: usize,
    /// Where the open loop looks for a free connection next.
    next_connection: usize,
    issuing: bool,
    replies: u64,
    /// When the timeouts were last looked at.
    checked_ns: u64,
}

impl<I: Io> Run<'_, I> {
    fn carry_out(mut self, epoch: Moment, watch: &Watch, odometer: &Odometer) -> Result<Tally, Failure> {
        let now_ns = || Moment::now().since_ns(epoch);
        for slot in 0..self.connections.len() {
            self.touch(slot);
        }
        self.issue(now_ns());
        while self.issuing || self.in_flight() > 0 {
            self.io.turn(self.wait(now_ns()))?;
            let now = now_ns();
            self.hear(now)?;
            self.mind_timeouts(now)?;
            odometer.0.store(self.replies, Ordering::Relaxed);
            if watch.stop.load(Ordering::Relaxed) {
                break;
            }
            // Replies were handled since the turn: what is sent now has not waited for that.
            self.issue(now_ns());
        }
        self.tally.flush();
        Ok(self.tally)
    }

    fn in_flight(&self) -> usize {
        self.connections.len() * self.orders.depth - self.free
    }

    fn wait(&self, now: u64) -> Wait {
        match &self.orders.pace {
            Pace::Open(schedule) if self.issuing && self.free > 0 => {
                let left_ns = schedule.next_ns().saturating_sub(now);
                match left_ns.checked_sub(POLL_NS) {
                    None | Some(0) => Wait::Poll,
                    Some(ns) => Wait::AtMost(Duration::from_nanos(ns).min(NAP)),
                }
            }
            Pace::Open(_) | Pace::Closed => Wait::AtMost(NAP),
        }
    }

    fn hear(&mut self, now: u64) -> Result<(), Failure> {
        while let Some(event) = self.io.next_event() {
            match event {
                Event::Received { connection, data } => {
                    let slot = slot_of(connection);
                    let mut ledger = Ledger { orders: &self.orders, tally: &mut self.tally, now, replies: 0 };
                    ledger.tally.received_bytes +=
                        if now >= self.orders.measure_from_ns { data.len() as u64 } else { 0 };
                    let connection = &mut self.connections[slot];
                    connection.receive(data, |answer| ledger.enter(answer))?;
                    let replies = ledger.replies;
                    self.replies += replies as u64;
                    self.free += replies;
                    self.touch(slot);
                }
                Event::Sent { connection, buffer, sent_bytes } => {
                    let slot = slot_of(connection);
                    self.connections[slot].sent(buffer);
                    self.tally.sent_bytes +=
                        if now >= self.orders.measure_from_ns { sent_bytes as u64 } else { 0 };
                    if !self.connections[slot].output.is_empty() {
                        self.touch(slot);
                    }
                }
                Event::Ended { cause, .. } => return Err(Failure::Closed { cause: words_for(cause) }),
                Event::Accepted { .. } => unreachable!("nothing listens"),
                Event::Returned(_) | Event::Datagram { .. } | Event::Woken => {}
            }
        }
        Ok(())
    }

    fn touch(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !std::mem::replace(&mut connection.touched, true) {
            self.touched.push(connection.id.slot);
        }
    }

    /// Makes the requests that may go now, and sends for each touched connection what it has.
    fn issue(&mut self, now: u64) {
        if self.issuing {
            match self.orders.pace {
                Pace::Closed => self.issue_closed(now),
                Pace::Open(_) => self.issue_due(now),
            }
        }
        for slot in self.touched.drain(..) {
            let connection = &mut self.connections[slot as usize];
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
            let slot = self.touched[at] as usize;
            while self.issuing && self.connections[slot].in_flight() < self.orders.depth {
                self.launch(slot, now, now);
            }
        }
    }

    fn issue_due(&mut self, now: u64) {
        for _ in 0..LAUNCHES_PER_TURN_MAX {
            let Some(due_ns) = self.next_due(now) else { return };
            let slot = self.free_connection();
            self.touch(slot);
            self.launch(slot, due_ns, now);
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
            self.give_up_unsent(end_ns);
        } else if self.free > 0 && due_ns <= now && self.issuing {
            schedule.advance();
            return Some(due_ns);
        }
        None
    }

    /// The end has come and requests that were due still find no room. They waited at least until now: leaving
    /// them out would hide just the slow ones.
    fn give_up_unsent(&mut self, end_ns: u64) {
        self.issuing = false;
        let Pace::Open(schedule) = &mut self.orders.pace else { return };
        while schedule.next_ns() < end_ns {
            let due_ns = schedule.next_ns();
            if due_ns >= self.orders.measure_from_ns {
                self.tally.unsent += 1;
                self.tally.wait_unanswered(end_ns - due_ns);
            }
            schedule.advance();
        }
    }

    /// The next connection, in turn, that takes a request. There is one.
    fn free_connection(&mut self) -> usize {
        assert!(self.free > 0);
        loop {
            let slot = self.next_connection;
            self.next_connection = if slot + 1 == self.connections.len() { 0 } else { slot + 1 };
            if self.connections[slot].in_flight() < self.orders.depth {
                return slot;
            }
        }
    }

    #[inline]
    fn launch(&mut self, slot: usize, due_ns: u64, sent_ns: u64) {
        let connection = &mut self.connections[slot];
        let (kind, key) = self.orders.requests.append(&mut connection.output);
        connection.launch(Flight { due_ns, sent_ns, key, kind });
        self.free -= 1;
        if let Bound::Requests(left) = &mut self.orders.bound {
            *left -= 1;
            self.issuing = *left > 0;
        }
    }

    fn mind_timeouts(&mut self, now: u64) -> Result<(), Failure> {
        if Duration::from_nanos(now - self.checked_ns) < NAP {
            return Ok(());
        }
        self.checked_ns = now;
        let timeout = self.orders.timeout;
        let oldest_ns = self.connections.iter().filter_map(Connection::oldest_sent_ns).min();
        match oldest_ns {
            Some(sent_ns) if Duration::from_nanos(now.saturating_sub(sent_ns)) > timeout => {
                Err(Failure::Timeout { timeout, in_flight: self.in_flight() })
            }
            _ => Ok(()),
        }
    }
}

/// Where the answers of one packet are entered.
struct Ledger<'a, 's> {
    orders: &'a Orders<'s>,
    tally: &'a mut Tally,
    now: u64,
    replies: usize,
}

impl Ledger<'_, '_> {
    #[inline]
    fn enter(&mut self, answer: Answer<'_>) -> Result<(), Failure> {
        let (flight, reply, bytes) = match answer {
            Answer::To { flight, reply, bytes } => (flight, reply, bytes),
            Answer::Unasked { bytes } => return Err(Failure::Refused { text: excerpt(bytes) }),
            Answer::Malformed { bytes } => return Err(Failure::Malformed { excerpt: excerpt(bytes) }),
        };
        self.replies += 1;
        if flight.due_ns < self.orders.measure_from_ns {
            return Ok(());
        }
        let keys = match flight.kind {
            Kind::Get => self.orders.requests.keys_per_get(),
            Kind::Set => 1,
        };
        let counted = self.tally.count(flight.kind, keys, &reply, bytes);
        counted.map_err(|_misfit| Failure::OutOfStep { text: excerpt(bytes) })?;
        self.tally.measure(flight.kind, self.now - flight.due_ns, self.now - flight.sent_ns);
        self.tally.last_reply_ns = self.now;
        if self.orders.verify && flight.kind == Kind::Get {
            let only = (keys == 1).then_some(flight.key);
            self.tally.wrong_values += verify::wrong_values(self.orders.space, bytes, reply.hits, only);
        }
        Ok(())
    }
}

fn slot_of(connection: ConnectionId) -> usize {
    connection.slot as usize
}

fn words_for(cause: EndCause) -> String {
    match cause {
        EndCause::EndOfStream => "end of stream".into(),
        EndCause::Failed(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}
