//! One client's connection: what it sent and is not executed yet, and what it is owed. No I/O, no engine.

use std::net::SocketAddr;

use slabring_cluster::time::Micros;
use slabring_engine::Seconds;
use slabring_protocol::Parser;
use slabring_reactor::ConnectionId;
use slabring_reactor::clock::Moment;

use crate::batch::Batch;
use crate::cluster::forward::Lines;
use crate::dump::Dump;
use crate::intake::Intake;
use crate::outbox::Outbox;
use crate::session::Session;
use crate::shards::ShardId;
use crate::track::Track;
use crate::watch::Watch;

/// Replies in bytes above which a connection's requests are not executed and its socket is not read.
pub const OUTPUT_BYTES_HIGH: usize = 1 << 20;
/// Replies in bytes below which it goes on.
pub const OUTPUT_BYTES_LOW: usize = OUTPUT_BYTES_HIGH / 2;
/// Replies owed or held above which a connection's requests are not executed.
pub const REPLIES_OWED_MAX: usize = 4096;

/// Replies in bytes up to which they wait for those that a letter will bring back.
const HELD_BACK_BYTES_MAX: usize = 16 << 10;

/// Slots from here on are those of datagrams, whose connections the reactor does not know.
pub const DATAGRAM_SLOTS: u32 = 1 << 31;

/// An input that must grow has at most this many times the bytes that have come.
const GROWTH_MAX: usize = 2;

/// Who sends a request at this rate has all the time it takes.
const REQUEST_BYTES_PER_SECOND_MIN: usize = 16 << 10;

const _: () = assert!(OUTPUT_BYTES_LOW < OUTPUT_BYTES_HIGH);

/// Bytes that came and are not executed: the rest of a packet, a line without its end, a growing value.
#[derive(Default)]
pub struct Input {
    bytes: Vec<u8>,
    /// Those before it are done with.
    start: usize,
    /// Not worth parsing before this many are here.
    needed: usize,
    /// All of them may come, whatever else there is.
    granted: bool,
}

impl Input {
    /// The bytes.
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Whether the parser could do something with them.
    pub fn is_worth_parsing(&self) -> bool {
        let unread = self.bytes.len() - self.start;
        unread > 0 && unread >= self.needed
    }

    /// Says that the parser waits for `bytes` in all.
    pub fn need(&mut self, bytes: usize) {
        self.needed = bytes;
        self.granted = false;
    }

    /// Lets all come that the parser waits for.
    pub fn grant(&mut self) {
        self.granted = true;
    }

    /// See [`Input::grant`].
    pub fn is_granted(&self) -> bool {
        self.granted
    }

    /// Appends what came. Makes room for what the parser needs, but for no more than a multiple of what is here:
    /// announcing a large value costs nothing.
    pub fn append(&mut self, data: &[u8]) {
        if self.bytes.len() + data.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
            let least = self.bytes.len() + data.len();
            let room = self.needed.clamp(least, least * GROWTH_MAX);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
    }

    /// Drops `bytes` from the front; the memory goes with the last of them.
    pub fn consume(&mut self, bytes: usize) {
        assert!(self.start + bytes <= self.bytes.len());
        self.start += bytes;
        if self.is_empty() {
            self.bytes = Vec::new();
            self.start = 0;
        }
    }

    /// Memory that is reserved here.
    pub fn capacity_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Memory that is [granted](Input::grant) beyond that.
    pub fn promised_bytes(&self) -> usize {
        let granted = if self.granted { self.needed } else { 0 };
        granted.saturating_sub(self.bytes.capacity())
    }

    /// Takes the bytes out, to parse them beside the connection; [`Input::put_back`] returns them.
    pub fn lend(&mut self) -> Self {
        std::mem::take(self)
    }

    /// See [`Input::lend`].
    pub fn put_back(&mut self, lent: Self) {
        let &mut Self { needed, granted, .. } = self;
        *self = Self { needed, granted, ..lent };
    }
}

/// How far a connection is from its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ending {
    /// It goes on.
    No,
    /// The peer has sent its last byte: what is here is executed and answered, then it ends.
    AfterInput,
    /// Nothing more is executed; it ends when what is owed has left.
    AfterOutput,
}

/// Something that a connection is sent bit by bit, and that its further requests wait for.
#[derive(Debug)]
pub enum Stream {
    /// A walk over all items.
    Dump(Box<Dump>),
    /// What happens, from here to the end of the connection.
    Watch(Watch),
    /// Which keys change, from here to the end of the connection.
    Track(Box<Track>),
}

/// Who is at the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A client over TCP.
    Tcp(SocketAddr),
    /// A client over the unix socket.
    Local,
    /// It was gone before it could be asked.
    Unknown,
}

/// Requests that their owner could not execute yet.
pub struct Deferred {
    /// Whose keys they name.
    pub owner: ShardId,
    /// In order.
    pub requests: Box<Batch>,
    /// With this letter all that was posted behind them has come back too.
    pub letter: u64,
}

/// See the module.
pub struct Connection {
    /// Its name in the reactor.
    pub id: ConnectionId,
    /// Where the stream stands.
    pub parser: Parser,
    /// What is not executed yet.
    pub input: Input,
    /// The large value that it is sending.
    pub intake: Option<Box<Intake>>,
    /// What is owed.
    pub outbox: Outbox,
    /// Lines of keys of which other nodes answer some.
    pub lines: Lines,
    /// TLS, if it is spoken.
    pub session: Option<Box<Session>>,
    /// What it is being sent bit by bit.
    pub stream: Option<Stream>,
    /// Who it is.
    pub peer: Peer,
    /// Where it came in, as an index of the node's addresses.
    pub listener: usize,
    /// A send is in flight.
    pub sending: bool,
    /// When it began.
    pub sent_at: Seconds,
    /// The socket is not read, for the sake of the output.
    pub paused: bool,
    /// While the node ends: since when it is read again. What its client has sent has yet to come then.
    pub resumed_at: Option<Moment>,
    /// While the node ends: nothing more is heard.
    pub deaf: bool,
    /// The socket is read where the bytes are known to belong.
    pub by_hand: bool,
    /// It has input that it may not execute yet.
    pub stalled: bool,
    /// It stands in the list of stalled connections.
    pub listed: bool,
    /// Requests of it that another shard could not answer yet and that must be posted again.
    pub bounced: usize,
    /// Requests of it that their owners could not execute yet, in order.
    pub deferred: Vec<Deferred>,
    /// The turn in which some of them were last posted again, and how many.
    pub resent_turn: u64,
    /// See `resent_turn`.
    pub resent: usize,
    /// The turn in which some of its requests were last executed, and how many.
    pub served_turn: u64,
    /// See `served_turn`.
    pub served: u32,
    /// A letter is under way that carries requests of it: what is ready waits for its replies, to leave with them in one send.
    awaits_letter: bool,
    /// The turn in which a letter last brought something for it.
    letter_turn: u64,
    /// A request of it is with another node: what is ready waits until then for the replies.
    awaits_node_until: Option<Micros>,
    /// It stands in the list of this turn's connections to look after.
    pub touched: bool,
    /// Requests for locks that are not answered yet.
    pub locks_asked: usize,
    /// How it ends.
    pub ending: Ending,
    /// Its socket is not read until there is memory for its input.
    pub waits_for_memory: bool,
    /// When it last sent something.
    pub heard_at: Seconds,
    /// When the request began that lies unfinished in its input.
    pub unfinished_since: Seconds,
    /// Memory of the buffer that is being sent.
    pub sending_bytes: usize,
    /// Its input as last counted.
    pub input_bytes_counted: usize,
    /// What its input was promised, as last counted.
    pub promised_bytes_counted: usize,
    /// Its output as last counted.
    pub output_bytes_counted: usize,
}

impl Connection {
    /// A fresh connection.
    pub fn new(id: ConnectionId, parser: Parser, now: Seconds) -> Self {
        Self {
            id,
            parser,
            input: Input::default(),
            intake: None,
            outbox: Outbox::default(),
            lines: Lines::default(),
            session: None,
            stream: None,
            peer: Peer::Unknown,
            listener: 0,
            sending: false,
            sent_at: now,
            paused: false,
            resumed_at: None,
            deaf: false,
            by_hand: false,
            stalled: false,
            listed: false,
            bounced: 0,
            deferred: Vec::new(),
            resent_turn: 0,
            resent: 0,
            served_turn: 0,
            served: 0,
            awaits_letter: false,
            letter_turn: 0,
            awaits_node_until: None,
            touched: false,
            locks_asked: 0,
            ending: Ending::No,
            waits_for_memory: false,
            heard_at: now,
            unfinished_since: now,
            sending_bytes: 0,
            input_bytes_counted: 0,
            promised_bytes_counted: 0,
            output_bytes_counted: 0,
        }
    }

    /// Whether its own replies leave room for another request. Answers of the whole node are large: one at a time.
    pub fn may_execute(&self) -> bool {
        self.outbox.bytes() < OUTPUT_BYTES_HIGH
            && self.outbox.owed() < REPLIES_OWED_MAX
            && self.outbox.gathering() == 0
            && self.bounced == 0
            && self.deferred.is_empty()
            && self.stream.is_none()
    }

    /// Counts a request of this turn against the connection's part of it, and says whether it is within.
    pub fn takes_part(&mut self, turn: u64, requests_max: u32) -> bool {
        if self.served_turn != turn {
            (self.served_turn, self.served) = (turn, 0);
        }
        self.served += 1;
        self.served <= requests_max
    }

    /// How many more are within, in the turn of the last one.
    pub fn rest_of_part(&self, requests_max: u32) -> u32 {
        requests_max.saturating_sub(self.served)
    }

    /// Notes that a request of it goes with this turn's letters.
    pub fn posted(&mut self, turn: u64) {
        self.awaits_letter |= self.letter_turn != turn;
    }

    /// Notes that a letter has brought something for it. What is ready leaves with this turn, so no reply is held back for
    /// longer than the first letter takes that was posted behind it.
    pub fn letter_came(&mut self, turn: u64) {
        (self.awaits_letter, self.letter_turn) = (false, turn);
    }

    /// Notes that a request of it goes to another node, whose reply will be here by then or is not waited for. False: it knows of
    /// one that went before.
    pub fn sent_away(&mut self, until: Micros) -> bool {
        let is_first = self.awaits_node_until.is_none();
        self.awaits_node_until.get_or_insert(until);
        is_first
    }

    /// Whether it waits for other nodes until then.
    pub fn awaits_nodes_until(&self, until: Micros) -> bool {
        self.awaits_node_until == Some(until)
    }

    /// Nothing is held back for another node any more, but for requests that are yet to go there.
    pub fn await_nodes_no_longer(&mut self) {
        self.awaits_node_until = None;
    }

    /// Whether its few replies had better leave together with those that other shards or nodes are making.
    pub fn holds_back(&self) -> bool {
        let awaits_node = self.awaits_node_until.is_some() && self.outbox.owed() > 0;
        (self.awaits_letter || awaits_node) && self.outbox.ready_bytes() < HELD_BACK_BYTES_MAX
    }

    /// Whether all replies made so far have left.
    pub fn has_read_all(&self) -> bool {
        !self.sending && self.outbox.bytes() == 0
    }

    /// Whether a reply that it is owed already may be fetched. What is held behind that reply does not count: it can
    /// only leave after it.
    pub fn has_room_for_reply(&self) -> bool {
        self.outbox.ready_bytes() < OUTPUT_BYTES_HIGH
    }

    /// Whether it is only told things.
    pub fn is_watching(&self) -> bool {
        matches!(self.stream, Some(Stream::Watch(_) | Stream::Track(_)))
    }

    /// Whether all that was asked is answered and has left.
    pub fn is_quiet(&self) -> bool {
        !self.sending && !self.stalled && self.outbox.is_empty()
    }

    /// Whether it has begun a request and sends it so slowly that it only means to hold on to memory. Nobody is to blame for a
    /// request that this shard does not want to execute yet.
    pub fn is_too_slow(&self, patience_seconds: u32, now: Seconds) -> bool {
        let (since, taken_in_bytes) = match &self.intake {
            Some(intake) => intake.progress(),
            None => (self.unfinished_since, 0),
        };
        let earned_seconds = (taken_in_bytes + self.input.unread().len()) / REQUEST_BYTES_PER_SECOND_MIN;
        let seconds = now.0.saturating_sub(since.0) as usize;
        (self.intake.is_some() || !self.input.is_empty())
            && !self.stalled
            && !self.waits_for_memory
            && seconds > patience_seconds as usize + earned_seconds
    }

    /// Whether it is time to close it.
    pub fn is_over(&self) -> bool {
        match self.ending {
            // Nobody who watches is ever owed nothing.
            Ending::AfterInput | Ending::AfterOutput if self.is_watching() => true,
            Ending::No => false,
            Ending::AfterInput | Ending::AfterOutput => match &self.session {
                None => self.is_quiet(),
                Some(session) => {
                    !self.sending && session.is_over() && (session.is_broken() || self.is_quiet())
                }
            },
        }
    }

    /// Memory of what it sent and is not executed.
    pub fn input_capacity_bytes(&self) -> usize {
        let deferred = self.deferred.iter().map(|deferred| deferred.requests.capacity_bytes());
        self.input.capacity_bytes() + deferred.sum::<usize>()
    }

    /// Memory of its replies.
    pub fn output_capacity_bytes(&self) -> usize {
        self.outbox.capacity_bytes() + self.sending_bytes
    }
}

/// The connections of a shard, by the reactor's slots.
#[derive(Default)]
pub struct Connections {
    slots: Vec<Option<Box<Connection>>>,
    datagrams: Vec<Option<Box<Connection>>>,
    live: usize,
}

impl Connections {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Adds a fresh one.
    pub fn insert(&mut self, id: ConnectionId, parser: Parser, now: Seconds) {
        let (slots, slot) = match id.slot.checked_sub(DATAGRAM_SLOTS) {
            None => (&mut self.slots, id.slot as usize),
            Some(slot) => (&mut self.datagrams, slot as usize),
        };
        if slots.len() <= slot {
            slots.resize_with(slot + 1, || None);
        }
        assert!(slots[slot].is_none(), "the reactor gives a slot to one connection at a time");
        slots[slot] = Some(Box::new(Connection::new(id, parser, now)));
        self.live += 1;
    }

    /// The connection of `id`, unless it is gone.
    pub fn get(&self, id: ConnectionId) -> Option<&Connection> {
        let place = match id.slot.checked_sub(DATAGRAM_SLOTS) {
            None => self.slots.get(id.slot as usize)?,
            Some(slot) => self.datagrams.get(slot as usize)?,
        };
        place.as_deref().filter(|connection| connection.id == id)
    }

    /// The connection of `id`, unless it is gone.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.place(id)?.as_deref_mut().filter(|connection| connection.id == id)
    }

    /// Takes the connection of `id` out, unless it is gone.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Box<Connection>> {
        self.get_mut(id)?;
        self.live -= 1;
        self.place(id)?.take()
    }

    /// All of them but those of datagrams.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().flatten().map(|client| &**client)
    }

    fn place(&mut self, id: ConnectionId) -> Option<&mut Option<Box<Connection>>> {
        match id.slot.checked_sub(DATAGRAM_SLOTS) {
            None => self.slots.get_mut(id.slot as usize),
            Some(slot) => self.datagrams.get_mut(slot as usize),
        }
    }

    /// The names of all connections but those of datagrams.
    pub fn ids(&self) -> Vec<ConnectionId> {
        self.ids_of(|_| true)
    }

    /// The names of the connections that are so. O(all connections).
    pub fn ids_of(&self, are_so: impl Fn(&Connection) -> bool) -> Vec<ConnectionId> {
        let found = self.slots.iter().flatten().filter(|connection| are_so(connection));
        found.map(|connection| connection.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_keeps_what_is_not_consumed_and_its_memory_goes_with_the_last_byte() {
        let mut input = Input::default();
        input.append(b"get a\r\nge");
        input.consume(7);
        assert_eq!(input.unread(), b"ge");
        input.need(5);
        assert!(!input.is_worth_parsing());
        input.append(b"t b");
        assert!(input.is_worth_parsing());
        assert_eq!(input.unread(), b"get b");
        input.consume(5);
        assert!(input.is_empty() && input.capacity_bytes() == 0);
    }

    #[test]
    fn input_makes_room_for_a_value_once_and_not_for_a_mere_announcement() {
        let mut input = Input::default();
        input.need(1 << 20);
        input.append(&[0; 1000]);
        assert!(input.capacity_bytes() <= 2000);
        let mut capacities = vec![input.capacity_bytes()];
        while input.unread().len() < 1 << 20 {
            input.append(&[0; 1000][..1000.min((1 << 20) - input.unread().len())]);
            capacities.push(input.capacity_bytes());
        }
        capacities.dedup();
        assert!(capacities.len() < 12 && capacities.last() == Some(&(1 << 20)), "{capacities:?}");
    }

    #[test]
    fn a_request_must_come_in_time_or_at_a_rate() {
        const PATIENCE: u32 = 60;
        let id = ConnectionId { slot: 0, generation: 1 };
        let mut client = Connection::new(id, Parser::default(), Seconds(1000));
        let is_too_slow =
            |client: &Connection, seconds| client.is_too_slow(PATIENCE, Seconds(1000 + seconds));
        assert!(!is_too_slow(&client, 1000), "who asks nothing is in no hurry");
        client.input.append(b"get ");
        assert!(!is_too_slow(&client, PATIENCE) && is_too_slow(&client, PATIENCE + 1));
        client.input.append(&[b'x'; 10 * REQUEST_BYTES_PER_SECOND_MIN]);
        assert!(!is_too_slow(&client, PATIENCE + 10) && is_too_slow(&client, PATIENCE + 11));
        client.stalled = true;
        assert!(!is_too_slow(&client, 1000));
    }

    #[test]
    fn a_late_name_does_not_reach_the_next_connection_in_the_slot() {
        let mut connections = Connections::default();
        let old = ConnectionId { slot: 2, generation: 1 };
        let new = ConnectionId { slot: 2, generation: 2 };
        connections.insert(old, Parser::default(), Seconds(1));
        assert!(connections.remove(old).is_some());
        connections.insert(new, Parser::default(), Seconds(1));
        assert!(connections.get_mut(old).is_none());
        assert!(connections.remove(old).is_none());
        assert_eq!((connections.len(), connections.ids()), (1, vec![new]));
    }

    #[test]
    fn replies_wait_for_the_first_letter_posted_behind_them_and_for_no_other() {
        let id = ConnectionId { slot: 0, generation: 1 };
        let mut client = Connection::new(id, Parser::default(), Seconds(0));
        client.outbox.local(|out| out.extend_from_slice(b"ready"));
        assert!(!client.holds_back());
        client.posted(1);
        assert!(client.holds_back());
        // The next request is posted in the turn in which the letter comes.
        client.posted(2);
        client.letter_came(2);
        client.posted(2);
        assert!(!client.holds_back());
        client.posted(3);
        assert!(client.holds_back());
        client.outbox.local(|out| out.resize(HELD_BACK_BYTES_MAX, b'x'));
        assert!(!client.holds_back());
    }
}
