//! One connection between a shard of this node and a shard of another: a state machine that is fed bytes and time
//! and says what to do next. Never a socket, never a clock.
//!
//! ```text
//! dialler:   resting -> connecting -> greeting -> proving -> up -> (closed) resting ...
//! acceptor:  listening -> challenged -> up -> (closed) over
//! ```
//!
//! Requests go from the dialler to the acceptor and responses back, so a pair of shards that both forward has two links.
//! The dialler spends credit for each request and has it back with the response: no more than the acceptor granted is
//! ever under way. The acceptor reads no further while its replies wait, so neither side's memory depends on the other's
//! speed.

use std::sync::Arc;

use crate::jump::mix;
use crate::names::{ClusterId, Incarnation, NodeId};
use crate::ring::Epoch;
use crate::safeguard::{self, Safeguard};
use crate::time::Micros;
use crate::wire::{DELTA_VERSION, FRAME_BYTES_MAX, Flags, Header, Kind, RUN_VERSION, Status, Versions};

mod close;
mod credit;
pub mod greeting;
mod input;
mod meeting;
mod messages;
mod output;

pub use close::CloseReason;
pub use credit::{CREDIT_DEFAULT, Credit, cost_bytes};
pub use greeting::{Introduction, NONCE_BYTES, Nonce, Secret};
use greeting::{Side, Transcript};
use input::Input;
use output::Output;

/// A link that says nothing for this long is closed.
pub const SILENCE_MAX: Micros = Micros::from_millis(1_500);

/// A link with nothing else to say says so at this interval.
pub const HEARTBEAT_EVERY: Micros = Micros::from_millis(200);

/// Who looks at its links after so long, and not five times in a second, did not run meanwhile.
pub const AWAY_MIN: Micros = Micros::from_millis(500);

/// Time from the first byte to a link that is up; also for connecting.
pub const GREETING_TIME_MAX: Micros = Micros::from_millis(2_000);

/// Time for the kernel to take what one turn gathered. A peer that is alive reads.
pub const SENDING_TIME_MAX: Micros = Micros::from_millis(10_000);

/// How long requests wait for room while the other side answers nothing.
pub const ROOM_WAIT_MAX: Micros = Micros::from_millis(500);

/// Bytes of one message about copies, but for one that has a single item. [`crate::replica`] sends no more before it is told that
/// they have come.
pub const REPLICA_BYTES_MAX: usize = crate::replica::WINDOW_BYTES + (64 << 10);

/// Waiting replies from which on requests are not read.
pub const OUTPUT_STALL_BYTES: usize = 1 << 20;

/// That a peer follows another ring of the same epoch is told this often.
pub const DIFFERENCE_TOLD_EVERY: Micros = Micros::from_millis(60_000);

/// Pause after the first failed attempt to connect; doubles up to the last, and varies by a quarter.
const BACK_OFF_FIRST: Micros = Micros::from_millis(50);
const BACK_OFF_DOUBLINGS_MAX: u32 = 5;

const _: () = assert!(HEARTBEAT_EVERY.0 * 5 <= SILENCE_MAX.0, "a few heartbeats may be late");
const _: () = assert!(SILENCE_MAX.0 < SENDING_TIME_MAX.0);
const _: () = assert!(HEARTBEAT_EVERY.0 < AWAY_MIN.0 && AWAY_MIN.0 < SILENCE_MAX.0);

/// What all links of a shard have in common.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Protocol versions: [`crate::wire::VERSIONS`].
    pub versions: Versions,
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// This life of it.
    pub incarnation: Incarnation,
    /// This shard.
    pub shard: u8,
    /// Shards of the node.
    pub shards: u16,
    /// What proves that a node belongs.
    pub secret: Secret,
    /// Bytes of one request or reply, above the largest item with its key and line.
    pub message_bytes_max: usize,
    /// What a dialler may have under way here.
    pub granted: Credit,
}

/// Who a dialler expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The node.
    pub node: NodeId,
    /// Its life by the ring.
    pub incarnation: Incarnation,
}

/// A request that came in. Its bytes are [`Link::body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// What must come with the response.
    pub owed: Owed,
    /// The sender's ring when it sent.
    pub epoch: Epoch,
    /// The key's partition.
    pub partition: u16,
    /// The shard that owns the key.
    pub shard: u8,
    /// How often it has been sent.
    pub hop: u8,
    /// The client's facts.
    pub flags: Flags,
    /// When nobody waits for a reply any more.
    pub deadline: Micros,
}

/// A response that the acceptor owes. Copy it, give it back once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    session: u32,
    opaque: u64,
    cost: u32,
    /// Of one get of a run: its place there, from 1 on. The run as a whole has been answered.
    part: u8,
}

impl Owed {
    /// That of one of several gets, counted from 0, when the response to all of them has said that it comes by itself.
    pub(crate) fn part(self, number: usize) -> Self {
        Self { cost: 0, part: u8::try_from(number + 1).expect("a few"), ..self }
    }
}

/// What to do next, or what was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Dial. Then [`Link::connected`], or [`Link::lost`].
    Connect,
    /// Both sides have proved themselves: [`Link::peer`].
    Up,
    /// Close the socket if there is one. What was gathered to send is gone.
    Closed {
        /// Why.
        reason: CloseReason,
        /// Whether it had been up.
        was_up: bool,
    },
    /// The peer's ring is of this epoch: later than any it had spoken of.
    PeerEpoch(Epoch),
    /// Execute [`Link::body`].
    Request(Inbound),
    /// A request of ours is done, [`Link::body`] is its reply; or it was not executed.
    Response {
        /// The number it was sent with.
        opaque: u64,
        /// What became of it.
        status: Status,
        /// Of one get of a run: its place there, from 1 on. Otherwise 0.
        part: u8,
        /// The peer's ring.
        epoch: Epoch,
    },
    /// The peer wants our ring if it has this epoch or a later one.
    RingWanted(Epoch),
    /// The peer's ring is [`Link::body`].
    RingDocument,
    /// The peer follows another ring of the same epoch. Said once in [`DIFFERENCE_TOLD_EVERY`].
    RingDiffers,
    /// A message about copies is [`Link::body`].
    Replica,
    /// A message about hot keys is [`Link::body`].
    Grants,
    /// A message about reads is [`Link::body`].
    Touches,
}

/// No credit for a request now: nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCredit;

#[derive(Debug)]
enum State {
    /// Dialler: pauses.
    Resting {
        until: Micros,
    },
    /// Dialler: the kernel connects.
    Connecting {
        deadline: Micros,
    },
    /// Dialler: has said hello.
    Greeting {
        deadline: Micros,
        hello: Vec<u8>,
    },
    /// Dialler: has sent its proof.
    Proving {
        deadline: Micros,
        /// Taken by the acceptor.
        version: u8,
        said: Transcript,
    },
    /// Acceptor: waits for hello.
    Listening {
        deadline: Micros,
        nonce: Nonce,
    },
    /// Acceptor: waits for the proof.
    Challenged {
        deadline: Micros,
        version: u8,
        said: Transcript,
    },
    Up,
    /// Acceptor: this was all.
    Over,
}

/// One link.
#[derive(Debug)]
pub struct Link {
    identity: Arc<Identity>,
    side: Side,
    expected: Option<Expected>,
    state: State,
    closing: Option<CloseReason>,
    peer: Option<Introduction>,
    peer_epoch: Epoch,
    peer_epoch_told: Epoch,
    /// The version of the protocol that both have taken, while it is up.
    version: u8,
    /// This node's ring: goes into every frame.
    epoch: Epoch,
    /// What tells it from others of its epoch: goes into every heartbeat. 0 is unknown.
    ring_mark: u64,
    difference_told_at: Option<Micros>,
    /// Counts the times it was up, so that responses owed to an earlier time are known as such.
    session: u32,
    failures: u32,
    jitter: u64,
    /// Dialler: under way. Acceptor: owed.
    used: Credit,
    granted: Credit,
    /// Dialler: when there was last an answer, or nothing under way.
    moved_at: Micros,
    /// When a part of a message that is longer than a send last went or came.
    carried_at: Option<Micros>,
    /// It is not read for the sake of others: see [`Self::hold`].
    is_held: bool,
    /// Dialler: a request that waits because it is so large. Smaller ones let it go first.
    awaited_bytes: u32,
    input: Input,
    output: Output,
    heard_at: Micros,
    /// When this side looked last whether the other one is silent.
    looked_at: Micros,
    /// When bytes came last: the time in the input counts against a request's deadline.
    received_at: Micros,
    stalled: bool,
    heartbeat_at: Micros,
}

impl Link {
    /// A link that this side keeps up: it dials at once, and again after each end. `jitter` is any number, another for
    /// each link.
    pub fn dialler(
        identity: Arc<Identity>,
        expected: Expected,
        epoch: Epoch,
        now: Micros,
        jitter: u64,
    ) -> Self {
        Self::new(identity, Side::Dialler, Some(expected), State::Resting { until: now }, epoch, jitter)
    }

    /// A link that the other side has dialled.
    pub fn acceptor(identity: Arc<Identity>, epoch: Epoch, now: Micros, nonce: Nonce) -> Self {
        let state = State::Listening { deadline: now + GREETING_TIME_MAX, nonce };
        Self::new(identity, Side::Acceptor, None, state, epoch, 0)
    }

    fn new(
        identity: Arc<Identity>,
        side: Side,
        expected: Option<Expected>,
        state: State,
        epoch: Epoch,
        jitter: u64,
    ) -> Self {
        Self {
            identity,
            side,
            expected,
            state,
            closing: None,
            peer: None,
            peer_epoch: Epoch::NONE,
            peer_epoch_told: Epoch::NONE,
            version: 0,
            epoch,
            ring_mark: 0,
            difference_told_at: None,
            session: 0,
            failures: 0,
            jitter,
            used: Credit::NONE,
            granted: Credit::NONE,
            moved_at: Micros::default(),
            carried_at: None,
            is_held: false,
            awaited_bytes: 0,
            input: Input::new(),
            output: Output::default(),
            heard_at: Micros::default(),
            looked_at: Micros::default(),
            received_at: Micros::default(),
            stalled: false,
            heartbeat_at: Micros::NEVER,
        }
    }

    /// The other side is known to be there: if this one rests, it dials at once.
    pub(crate) fn rest_no_longer(&mut self, now: Micros) {
        if let State::Resting { until } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// Whether requests can be sent, or are answered.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up) && self.closing.is_none()
    }

    /// Whether the other side knows [`Flags::RUN`].
    pub(crate) fn takes_runs(&self) -> bool {
        self.version >= RUN_VERSION
    }

    /// Whether the other side knows [`crate::replica::message::Entry::Delta`].
    pub fn takes_deltas(&self) -> bool {
        self.version >= DELTA_VERSION
    }

    /// When bytes came last.
    pub fn received_at(&self) -> Micros {
        self.received_at
    }

    /// Whether an end is still to be told.
    pub(crate) fn is_ending(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether there is no connection and no end of one to be told.
    pub(crate) fn has_ended(&self) -> bool {
        self.closing.is_none() && matches!(self.state, State::Over | State::Resting { .. })
    }

    /// Who is at the other end, while it is up.
    pub fn peer(&self) -> Option<&Introduction> {
        self.peer.as_ref()
    }

    /// The latest epoch that the peer has spoken of since the link came up.
    pub fn peer_epoch(&self) -> Epoch {
        self.peer_epoch
    }

    /// Requests under way or owed.
    pub fn used(&self) -> Credit {
        self.used
    }

    /// Whether [`Self::take_output`] would give something.
    pub fn has_output(&self) -> bool {
        self.output.is_ready()
    }

    /// Bytes that wait to be sent or are being sent.
    pub fn output_bytes(&self) -> usize {
        self.output.len()
    }

    /// Memory of what came or goes and is not done with.
    pub fn buffer_bytes(&self) -> usize {
        self.input.capacity_bytes() + self.output.capacity_bytes()
    }

    /// Bytes of a message that has begun to come, but is not whole.
    pub(crate) fn assembled_bytes(&self) -> usize {
        self.input.assembled_bytes()
    }

    /// The bytes of the event that [`Self::next`] gave last, until the next call of any `&mut` function.
    pub fn body(&self) -> &[u8] {
        self.input.body()
    }

    /// The socket is connected: introduces this side to shard `shard` of the other. Dialler only, after [`Event::Connect`].
    pub fn connected(&mut self, now: Micros, nonce: Nonce, shard: u8) {
        assert!(matches!(self.state, State::Connecting { .. }), "a link connects when it was told to");
        let hello = self.introduction(self.identity.versions, nonce).encode();
        self.output.append(Header { shard, ..Header::new(Kind::Hello, self.epoch) }, &hello);
        self.state = State::Greeting { deadline: now + GREETING_TIME_MAX, hello };
    }

    /// The connection failed or was closed by the kernel or the other side.
    pub fn lost(&mut self) {
        self.close(CloseReason::Lost);
    }

    /// Others need its place: the other side has not proved that it belongs.
    pub(crate) fn displace(&mut self) {
        self.close(CloseReason::Displaced);
    }

    /// Ends the link from this side.
    pub fn retire(&mut self) {
        self.close(CloseReason::Retired);
    }

    /// The last event was a response that nobody waits for.
    pub(crate) fn refuse_response(&mut self) {
        self.close(CloseReason::UnknownResponse);
    }

    fn close(&mut self, reason: CloseReason) {
        let has_ended = matches!(self.state, State::Over | State::Resting { .. });
        if self.closing.is_none() && !has_ended {
            self.closing = Some(reason);
        }
    }

    /// Whether [`Self::receive`] should be called: false while replies wait or whole frames do.
    pub fn wants_bytes(&self) -> bool {
        !self.stalls() && !self.is_held && !self.input.is_full()
    }

    /// Whether input must wait. Only an acceptor's: what a dialler reads makes no output, and if both sides waited for the
    /// other to read, neither ever would.
    pub(crate) fn stalls(&self) -> bool {
        self.side == Side::Acceptor && self.output_bytes() >= OUTPUT_STALL_BYTES
    }

    /// Bytes came from the socket.
    pub fn receive(&mut self, now: Micros, bytes: &[u8]) {
        if matches!(self.state, State::Over | State::Resting { .. }) || self.closing.is_some() {
            return;
        }
        self.heard_at = now;
        self.received_at = now;
        self.input.take(bytes);
        if self.input.assembled_bytes() > 0 {
            self.carried_at = Some(now);
        }
    }

    /// What was gathered to send since the last time, in exchange for an empty buffer; `None` while a send is under way
    /// or there is nothing. One call for each turn makes one send of many frames.
    pub fn take_output(&mut self, now: Micros, spare: Vec<u8>) -> Option<Vec<u8>> {
        if self.output.goes_on() {
            self.carried_at = Some(now);
        }
        self.output.take(now, self.epoch, spare)
    }

    /// The kernel has taken all of what [`Self::take_output`] gave.
    pub fn sent(&mut self) {
        self.output.sent();
    }

    /// This node follows another ring now, of this [mark](crate::ring::Ring::mark). The peer hears it at once.
    pub fn set_ring(&mut self, epoch: Epoch, mark: u64) {
        self.epoch = epoch;
        self.set_mark(mark);
        if self.is_up() {
            self.beat();
        }
    }

    /// The mark of the ring of the epoch that this end was made with.
    pub(crate) fn set_mark(&mut self, mark: u64) {
        (self.ring_mark, self.difference_told_at) = (mark, None);
    }

    fn beat(&mut self) {
        self.output
            .append(Header { opaque: self.ring_mark, ..Header::new(Kind::Heartbeat, self.epoch) }, &[]);
    }

    /// The last event was a message that is none.
    pub(crate) fn refuse_message(&mut self) {
        self.close(CloseReason::Message);
    }

    /// When [`Self::next`] has something to do although nothing came.
    pub fn wake_at(&self) -> Micros {
        let by_state = match self.state {
            State::Resting { until } => until,
            State::Connecting { deadline }
            | State::Greeting { deadline, .. }
            | State::Proving { deadline, .. }
            | State::Listening { deadline, .. }
            | State::Challenged { deadline, .. } => deadline,
            State::Up => self.heartbeat_at.min(self.heard_at + SILENCE_MAX),
            State::Over => Micros::NEVER,
        };
        self.output.sending_since().map_or(by_state, |since| by_state.min(since + SENDING_TIME_MAX))
    }

    /// What to do next, or what was heard next; `None` until something comes or [`Self::wake_at`] has passed.
    pub fn next(&mut self, now: Micros) -> Option<Event> {
        if self.closing.is_none() && self.is_due(now) {
            self.state = State::Connecting { deadline: now + GREETING_TIME_MAX };
            return Some(Event::Connect);
        }
        self.notice_time(now);
        if let Some(reason) = self.closing.take() {
            return Some(self.end(now, reason));
        }
        match self.next_frame(now) {
            // What was heard without an event may have told an epoch all the same.
            Ok(event) => event.or_else(|| self.epoch_news()),
            Err(reason) => Some(self.end(now, reason)),
        }
    }

    fn epoch_news(&mut self) -> Option<Event> {
        let is_news = self.peer_epoch > self.peer_epoch_told;
        self.peer_epoch_told = self.peer_epoch;
        is_news.then_some(Event::PeerEpoch(self.peer_epoch))
    }

    fn is_due(&self, now: Micros) -> bool {
        matches!(self.state, State::Resting { until } if until <= now)
    }

    /// Sends heartbeats, and closes what takes too long.
    fn notice_time(&mut self, now: Micros) {
        if self.output.sending_since().is_some_and(|since| now.since(since) >= SENDING_TIME_MAX) {
            self.close(CloseReason::Stuck);
        }
        match self.state {
            State::Connecting { deadline }
            | State::Greeting { deadline, .. }
            | State::Proving { deadline, .. }
            | State::Listening { deadline, .. }
            | State::Challenged { deadline, .. }
                if deadline <= now =>
            {
                self.close(CloseReason::GreetingTime);
            }
            State::Up => self.notice_silence(now),
            _ => {}
        }
    }

    fn notice_silence(&mut self, now: Micros) {
        // What is not read cannot be heard: the silence while this side did not listen does not count, be it that it had no room
        // or that it did not run, which may have come over the whole machine.
        let stalls = self.stalls() || self.is_held;
        let was_away = now.since(std::mem::replace(&mut self.looked_at, now)) >= AWAY_MIN;
        if std::mem::replace(&mut self.stalled, stalls) || stalls || was_away {
            self.heard_at = now;
        }
        if now.since(self.heard_at) >= SILENCE_MAX && safeguard::holds(Safeguard::SilenceIsNoticed) {
            self.close(CloseReason::Silent);
        }
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + HEARTBEAT_EVERY;
            if self.output.is_empty() {
                self.beat();
            }
        }
    }

    /// Forgets the connection.
    fn end(&mut self, now: Micros, reason: CloseReason) -> Event {
        let was_up = matches!(self.state, State::Up);
        self.state = match self.side {
            Side::Acceptor => State::Over,
            Side::Dialler => State::Resting { until: now + self.pause(was_up) },
        };
        self.closing = None;
        self.peer = None;
        self.version = 0;
        (self.peer_epoch, self.peer_epoch_told) = (Epoch::NONE, Epoch::NONE);
        self.session = self.session.wrapping_add(1);
        (self.used, self.granted) = (Credit::NONE, Credit::NONE);
        self.input.clear();
        self.output.clear();
        (self.stalled, self.is_held, self.carried_at) = (false, false, None);
        Event::Closed { reason, was_up }
    }

    /// The pause before the next attempt: doubles with each failure in a row, and differs between links.
    fn pause(&mut self, was_up: bool) -> Micros {
        self.failures = if was_up { 0 } else { self.failures.saturating_add(1) };
        let whole = BACK_OFF_FIRST.0 << self.failures.min(BACK_OFF_DOUBLINGS_MAX);
        self.jitter = mix(self.jitter.wrapping_add(1));
        Micros(whole - self.jitter % (whole / 4))
    }

    /// Checks every bound; for tests and debugging.
    pub fn check_invariants(&self) {
        self.input.check_invariants(self.message_bytes_max(Kind::Replica));
        let may_be_alone = self.used.operations <= 1;
        assert!(self.used.operations <= self.granted.operations, "{:?} of {:?}", self.used, self.granted);
        assert!(
            self.used.bytes <= self.granted.bytes || may_be_alone,
            "{:?} of {:?}",
            self.used,
            self.granted
        );
        let requests = usize::try_from(self.granted.bytes).expect("32 bits fit")
            + FRAME_BYTES_MAX
            + 2 * REPLICA_BYTES_MAX;
        let replies = OUTPUT_STALL_BYTES + self.identity.message_bytes_max + FRAME_BYTES_MAX;
        assert!(self.output_bytes() <= requests.max(replies), "{} bytes wait", self.output_bytes());
    }
}

#[cfg(test)]
mod tests;
