//! The letter between shards: many requests of one turn on their way to the owner of their keys, and their replies
//! on the way back in the same box. Reused for ever, so that a busy pair of shards does not allocate.

use slabring_engine::{Seconds, WARM_KEYS_MAX};
use slabring_protocol::{Command, Dialect, Request};
use slabring_reactor::ConnectionId;

use crate::cluster::links::is_errand;
use crate::datagrams::is_datagram;
use crate::execute::Executor;
use crate::intake::Kept;
use crate::lending::LentAway;
use crate::outbox::Ticket;
use crate::report::{Answer, Question};
use crate::shards::{ShardId, Shards};

/// Requests in one letter before the next is begun.
const REQUESTS_MAX: usize = 1024;
/// Bytes of keys and values in one letter before the next is begun. One request may be larger.
const REQUEST_BYTES_MAX: usize = 256 << 10;
/// Bytes of replies in one letter, above which the rest of its requests bounce. One reply may be larger.
const REPLY_BYTES_MAX: usize = 256 << 10;
/// Capacity that an idle letter keeps.
const BYTES_KEPT: usize = 256 << 10;

/// Who is to get an answer.
#[derive(Clone, Copy, Debug)]
pub struct ReturnAddress {
    /// The connection that asked.
    pub connection: ConnectionId,
    /// Its place in that connection's order of replies.
    pub ticket: Ticket,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    /// A request whose parts lie in `Batch::bytes`, one after the other: key, value, flags.
    Request {
        command: Command,
        noreply: bool,
        dialect: Dialect,
        key_bytes: usize,
        value_bytes: usize,
        flags_bytes: usize,
    },
    /// The beginning of a request whose value comes in parts: key and flags lie in `Batch::bytes`.
    BeginValue {
        command: Command,
        noreply: bool,
        dialect: Dialect,
        key_bytes: usize,
        flags_bytes: usize,
        value_bytes: usize,
    },
    /// A part of the value.
    ValuePart { bytes: usize },
    /// All of it has come.
    EndValue,
    /// A question to the shard itself.
    Question(Question),
}

impl ReturnAddress {
    /// Nobody's: what is answered is forgotten.
    pub const NOBODY: Self =
        Self { connection: ConnectionId { slot: u32::MAX, generation: 0 }, ticket: Ticket::NONE };
}

impl ReturnAddress {
    /// A connection's, for what is answered otherwise than by a reply.
    pub fn without_ticket(connection: ConnectionId) -> Self {
        Self { connection, ticket: Ticket::NONE }
    }
}

impl Work {
    fn bytes(self) -> usize {
        match self {
            Self::Request { key_bytes, value_bytes, flags_bytes, .. } => {
                key_bytes + value_bytes + flags_bytes
            }
            Self::BeginValue { key_bytes, flags_bytes, .. } => key_bytes + flags_bytes,
            Self::ValuePart { bytes } => bytes,
            Self::EndValue | Self::Question(_) => 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// On its way to the owner.
    Posted,
    /// Executed: the reply, or what a question brought as text, is so many bytes of `Batch::replies`. The rest of the answer
    /// to a question is the next of `Batch::answers`.
    Done { reply_bytes: usize },
    /// As `Done`, but for a value that belongs into the reply: it is the next of `Batch::lent`.
    Lending { reply_bytes: usize },
    /// Not executed: the owner had no room for more replies. It must be posted again, behind nothing newer of its
    /// connection.
    Bounced,
    /// Not executed: it asks for a large value that cannot be lent now, or stands behind one of its connection that does. Its
    /// connection posts it again after a while, with all that is behind it.
    Deferred,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    sender: ReturnAddress,
    work: Work,
    state: State,
    /// It was deferred, and is the first of its connection to be posted again.
    retries: bool,
}

/// What became of a request or question.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// The reply, which may be empty.
    Reply(&'a [u8]),
    /// A reply, and the value that belongs into it.
    Lending(&'a [u8], LentAway),
    /// The answer to a question, and its text.
    Answer(&'a Answer, &'a [u8]),
    /// Nothing yet.
    Bounced,
    /// Nothing yet either: [`Batch::hand_out_deferred`] has it.
    Deferred,
    /// The value that was announced may come.
    Begun,
    /// There is nothing to be said.
    Silence,
}

/// The connections behind the requests of a batch.
pub trait Senders {
    /// Whether a request of this connection may be posted again.
    fn gate(&mut self, connection: ConnectionId) -> Gate;
    /// A request of this connection is held back: it must not post anything newer.
    fn bounced(&mut self, connection: ConnectionId);
}

/// Whose letter it is, and what of the owner's executes it.
pub struct Visit<'a> {
    /// Items.
    pub executor: &'a mut Executor,
    /// Connections, for who asks about them.
    pub census: &'a dyn Fn(&mut Vec<u8>),
    /// The second.
    pub now: Seconds,
    /// The node.
    pub shards: Shards,
    /// Who wrote the letter.
    pub sender: ShardId,
}

/// What [`Batch::resend`] does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// Post it again.
    Send,
    /// Keep it for later, with all that its connection has behind it.
    Keep,
    /// Forget it: its connection is gone.
    Drop,
}

/// See the module.
#[derive(Default, Debug)]
pub struct Batch {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    replies: Vec<u8>,
    answers: Vec<Answer>,
    lent: Vec<LentAway>,
    /// The sender has heard of all bounced requests: what follows may be executed again.
    pub resumes: bool,
    /// The sender's note of its memory when it left.
    pub posted_bytes: usize,
}

impl Batch {
    /// Whether there is nothing to deliver.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it is time to begin another.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= REQUESTS_MAX || self.bytes.len() >= REQUEST_BYTES_MAX
    }

    /// Memory that is reserved here.
    pub fn capacity_bytes(&self) -> usize {
        self.bytes.capacity() + self.replies.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Copies a request in.
    pub fn push(&mut self, sender: ReturnAddress, request: &Request<'_>) {
        for part in [request.key, request.value, request.flags] {
            self.bytes.extend_from_slice(part);
        }
        let work = Work::Request {
            command: request.command,
            noreply: request.noreply,
            dialect: request.dialect,
            key_bytes: request.key.len(),
            value_bytes: request.value.len(),
            flags_bytes: request.flags.len(),
        };
        self.entries.push(Entry { sender, work, state: State::Posted, retries: false });
    }

    /// Announces a value.
    pub fn begin_value(&mut self, sender: ReturnAddress, kept: &Kept) {
        let Request { command, noreply, dialect, key, flags, .. } = kept.request();
        for part in [key, flags] {
            self.bytes.extend_from_slice(part);
        }
        let (key_bytes, flags_bytes, value_bytes) = (key.len(), flags.len(), kept.value_bytes);
        let work = Work::BeginValue { command, noreply, dialect, key_bytes, flags_bytes, value_bytes };
        self.entries.push(Entry { sender, work, state: State::Posted, retries: false });
    }

    /// Copies a part of an announced value in.
    pub fn value_part(&mut self, sender: ReturnAddress, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let work = Work::ValuePart { bytes: bytes.len() };
        self.entries.push(Entry { sender, work, state: State::Posted, retries: false });
    }

    /// Ends an announced value.
    pub fn end_value(&mut self, sender: ReturnAddress) {
        self.entries.push(Entry { sender, work: Work::EndValue, state: State::Posted, retries: false });
    }

    /// Adds a question to the shard itself. It is asked after what is in before it.
    pub fn ask(&mut self, sender: ReturnAddress, question: Question) {
        self.entries.push(Entry {
            sender,
            work: Work::Question(question),
            state: State::Posted,
            retries: false,
        });
    }

    /// The owner's part: executes everything in order and keeps the replies in here.
    ///
    /// With more than [`REPLY_BYTES_MAX`] of them the rest bounces, and `bouncing` makes all later letters of this
    /// sender bounce too, so that nothing overtakes, until one comes that resumes.
    pub fn execute(&mut self, visit: Visit<'_>, bouncing: &mut bool) {
        let Visit { executor, census, now, shards, sender } = visit;
        *bouncing &= !self.resumes;
        let mut rest = &self.bytes[..];
        for group in self.entries.chunks_mut(WARM_KEYS_MAX) {
            if !*bouncing {
                executor.warm(keys_of(group, rest));
            }
            for entry in group {
                *bouncing |= self.replies.len() > REPLY_BYTES_MAX;
                if *bouncing {
                    entry.state = State::Bounced;
                    continue;
                }
                if must_defer(entry, rest, executor, now, sender) {
                    split_off(&mut rest, entry.work.bytes());
                    entry.state = State::Deferred;
                    continue;
                }
                let before = self.replies.len();
                match entry.work {
                    Work::Question(Question::Connections) => {
                        census(&mut self.replies);
                        self.answers.push(Answer::Done);
                    }
                    Work::Question(Question::Forget(connection)) => {
                        executor.drop_visit(sender, connection);
                        executor.deferring.retain(|deferring| *deferring != (sender, connection));
                        self.answers.push(Answer::Done);
                    }
                    Work::BeginValue { value_bytes, .. } => {
                        let request = request_of(entry.work, split_off(&mut rest, entry.work.bytes()));
                        let kept = Kept::new(&request, value_bytes);
                        executor.begin_visit(now, sender, entry.sender.connection, kept);
                    }
                    Work::ValuePart { bytes } => {
                        let part = split_off(&mut rest, bytes);
                        executor.go_on_visiting(now, sender, entry.sender.connection, part);
                    }
                    Work::EndValue => {
                        executor.end_visit(now, sender, entry.sender.connection, &mut self.replies);
                    }
                    Work::Question(question) => {
                        self.answers.push(executor.answer(now, question, &mut self.replies));
                    }
                    work @ Work::Request { .. } => {
                        let request = request_of(work, split_off(&mut rest, work.bytes()));
                        let connection = shards.connection_number(sender, entry.sender.connection.slot);
                        let lent = if is_answered_whole(entry.sender.connection) {
                            executor.execute(now, &request, connection, &mut self.replies);
                            None
                        } else {
                            executor.execute_lending(now, &request, connection, &mut self.replies)
                        };
                        if let Some(lent) = lent {
                            let (place, lent) = *lent;
                            let (owner, place, bytes) = (shards.me, place - before, lent.left());
                            let number = executor.loans.lend_away(lent);
                            self.lent.push(LentAway { owner, place, number, bytes });
                            entry.state = State::Lending { reply_bytes: self.replies.len() - before };
                            continue;
                        }
                    }
                }
                entry.state = State::Done { reply_bytes: self.replies.len() - before };
            }
        }
    }

    /// The sender's part: what became of each request, in the order they were posted.
    pub fn outcomes(&self) -> impl Iterator<Item = (ReturnAddress, Outcome<'_>)> {
        let mut rest = &self.replies[..];
        let mut answers = self.answers.iter();
        let mut lent = self.lent.iter();
        self.entries.iter().map(move |entry| {
            let outcome = match (entry.state, entry.work) {
                (State::Done { .. }, Work::BeginValue { .. }) => Outcome::Begun,
                (State::Done { .. }, Work::ValuePart { .. }) => Outcome::Silence,
                (State::Done { reply_bytes }, Work::Request { .. } | Work::EndValue) => {
                    Outcome::Reply(split_off(&mut rest, reply_bytes))
                }
                (State::Done { reply_bytes }, Work::Question(_)) => {
                    let answer = answers.next().expect("every question that was asked has one");
                    Outcome::Answer(answer, split_off(&mut rest, reply_bytes))
                }
                (State::Lending { reply_bytes }, _) => {
                    let lent = lent.next().expect("every reply that lends says what");
                    Outcome::Lending(split_off(&mut rest, reply_bytes), *lent)
                }
                (State::Bounced, _) => Outcome::Bounced,
                (State::Deferred, _) => Outcome::Deferred,
                (State::Posted, _) => unreachable!("the owner has gone through all of them"),
            };
            (entry.sender, outcome)
        })
    }

    /// Whether some of it was not executed.
    pub fn has_bounced(&self) -> bool {
        matches!(self.entries.last(), Some(Entry { state: State::Bounced, .. }))
    }

    /// Copies what of `other` is not executed behind what is here, and names the connections to `note`.
    pub fn absorb(&mut self, other: &Self, mut note: impl FnMut(ConnectionId)) {
        let mut rest = &other.bytes[..];
        for entry in &other.entries {
            let bytes = split_off(&mut rest, entry.work.bytes());
            if matches!(entry.state, State::Posted | State::Bounced) {
                self.bytes.extend_from_slice(bytes);
                self.entries.push(Entry { state: State::Posted, ..*entry });
                note(entry.sender.connection);
            }
        }
    }

    /// Copies each deferred request to `keep`, in order, with a flag for it to be the first of its connection.
    pub fn hand_out_deferred(&self, mut keep: impl FnMut(ConnectionId, &mut dyn FnMut(&mut Self))) {
        let mut rest = &self.bytes[..];
        for entry in &self.entries {
            let bytes = split_off(&mut rest, entry.work.bytes());
            if matches!(entry.state, State::Deferred) {
                keep(entry.sender.connection, &mut |deferred| {
                    deferred.bytes.extend_from_slice(bytes);
                    let retries = deferred.entries.is_empty();
                    deferred.entries.push(Entry { state: State::Posted, retries, ..*entry });
                });
            }
        }
    }

    /// Whether something of it was deferred.
    pub fn has_deferred(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.state, State::Deferred))
    }

    /// Moves what `senders` let through to `letter`, until that is full, and keeps the rest in order.
    pub fn resend(&mut self, letter: &mut Self, senders: &mut impl Senders) {
        let mut kept = Self::default();
        let mut rest = &self.bytes[..];
        for entry in &self.entries {
            let bytes = split_off(&mut rest, entry.work.bytes());
            let verdict = match entry.work {
                _ if letter.is_full() => Gate::Keep,
                // It is owed to the owner, whoever was the reader.
                Work::Question(Question::TakeBack(_) | Question::Forget(_)) => Gate::Send,
                _ => senders.gate(entry.sender.connection),
            };
            let to = match verdict {
                Gate::Send => &mut *letter,
                Gate::Keep => &mut kept,
                Gate::Drop => continue,
            };
            to.bytes.extend_from_slice(bytes);
            to.entries.push(*entry);
        }
        *self = kept;
    }

    /// Empties the batch for its next journey, keeping a bounded capacity.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.answers.clear();
        self.lent.clear();
        self.resumes = false;
        for buffer in [&mut self.bytes, &mut self.replies] {
            buffer.clear();
            buffer.shrink_to(BYTES_KEPT);
        }
    }
}

/// Whether the owner cannot execute an entry, whose bytes begin with `rest`, in its turn.
fn must_defer(entry: &Entry, rest: &[u8], executor: &mut Executor, now: Seconds, sender: ShardId) -> bool {
    if executor.deferring.is_empty() && executor.shard().has_room_for_any_pin() {
        return false;
    }
    if matches!(entry.work, Work::Question(_)) || is_answered_whole(entry.sender.connection) {
        return false;
    }
    let name = (sender, entry.sender.connection);
    if entry.retries {
        executor.deferring.retain(|deferring| *deferring != name);
    } else if executor.deferring.contains(&name) {
        return true;
    }
    let waits = match entry.work {
        Work::BeginValue { value_bytes, .. } => !executor.shard().has_room_to_reserve(value_bytes),
        Work::Request { .. } => {
            let request = request_of(entry.work, &rest[..entry.work.bytes()]);
            executor.value_bytes_to_copy(now, &request) > 0
        }
        Work::ValuePart { .. } | Work::EndValue | Work::Question(_) => false,
    };
    if waits {
        executor.deferring.push(name);
    }
    waits
}

/// Whether nobody could ask for the rest of a reply.
fn is_answered_whole(sender: ConnectionId) -> bool {
    is_datagram(sender) || is_errand(sender)
}

/// The keys of entries whose bytes begin with `rest`.
fn keys_of<'a>(entries: &[Entry], mut rest: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    entries.iter().filter_map(move |entry| {
        let bytes = rest.get(..entry.work.bytes())?;
        rest = &rest[bytes.len()..];
        match entry.work {
            Work::Request { key_bytes, .. } => Some(&bytes[..key_bytes]),
            Work::BeginValue { .. } | Work::ValuePart { .. } | Work::EndValue | Work::Question(_) => None,
        }
    })
}

fn request_of(work: Work, mut bytes: &[u8]) -> Request<'_> {
    let (command, noreply, dialect, key_bytes, value_bytes, flags_bytes) = match work {
        Work::Request { command, noreply, dialect, key_bytes, value_bytes, flags_bytes } => {
            (command, noreply, dialect, key_bytes, value_bytes, flags_bytes)
        }
        Work::BeginValue { command, noreply, dialect, key_bytes, flags_bytes, .. } => {
            (command, noreply, dialect, key_bytes, 0, flags_bytes)
        }
        Work::ValuePart { .. } | Work::EndValue | Work::Question(_) => unreachable!("it is no request"),
    };
    Request {
        command,
        noreply,
        dialect,
        key: split_off(&mut bytes, key_bytes),
        value: split_off(&mut bytes, value_bytes),
        flags: split_off(&mut bytes, flags_bytes),
    }
}

fn split_off<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (part, remainder) = rest.split_at(length);
    *rest = remainder;
    part
}

#[cfg(test)]
mod tests {
    use slabring_engine::{Config, Shard};
    use slabring_protocol::{Limits, Parser, Step};

    use super::*;
    use crate::outbox::Outbox;

    const NOW: Seconds = Seconds(1_700_000_000);

    /// Holds back connection 1, knows 2, and has never heard of another.
    #[derive(Default)]
    struct Three {
        open: bool,
        bounced: Vec<u32>,
    }

    impl Senders for Three {
        fn gate(&mut self, id: ConnectionId) -> Gate {
            match id.slot {
                1 if !self.open => Gate::Keep,
                1 | 2 => Gate::Send,
                _ => Gate::Drop,
            }
        }

        fn bounced(&mut self, id: ConnectionId) {
            self.bounced.push(id.slot);
        }
    }

    fn connection(slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: 1 }
    }

    fn push(batch: &mut Batch, slot: u32, line: &str) {
        let limits = Limits::default();
        let Step::Request { request, .. } = Parser::default().next(line.as_bytes(), &limits) else {
            panic!("{line:?} is a request")
        };
        batch.push(
            ReturnAddress { connection: connection(slot), ticket: Outbox::default().expect() },
            &request,
        );
    }

    fn outcomes(batch: &Batch) -> Vec<(u32, String)> {
        let text = |outcome| match outcome {
            Outcome::Lending(reply, lent) => format!("{} and {} bytes", reply.len(), lent.bytes),
            Outcome::Reply(reply) if reply.len() > 100 => format!("{} bytes", reply.len()),
            Outcome::Reply(reply) => String::from_utf8(reply.to_vec()).unwrap(),
            Outcome::Answer(answer, text) => {
                format!("numbers: {}, {} bytes", matches!(answer, Answer::Numbers(_)), text.len())
            }
            Outcome::Bounced => "bounced".into(),
            Outcome::Deferred => "deferred".into(),
            Outcome::Begun | Outcome::Silence => String::new(),
        };
        batch.outcomes().map(|(to, outcome)| (to.connection.slot, text(outcome))).collect()
    }

    fn visit(executor: &mut Executor) -> Visit<'_> {
        let shards = Shards { count: 2, me: ShardId(0) };
        Visit { executor, census: &|_| {}, now: NOW, shards, sender: ShardId(1) }
    }

    /// Too small to be lent.
    const COPIED_BYTES: usize = 10_000;
    const GETS_THAT_FILL_A_LETTER: usize = REPLY_BYTES_MAX / COPIED_BYTES + 1;

    fn executor_with_values() -> Executor {
        let mut executor = Executor::alone(Shard::new(&Config::with_memory(16 << 20)).unwrap());
        for (key, bytes) in [("copied", COPIED_BYTES), ("large", 300_000)] {
            let mut batch = Batch::default();
            push(&mut batch, 0, &format!("set {key} 0 0 {bytes}\r\n{}\r\n", "x".repeat(bytes)));
            batch.execute(visit(&mut executor), &mut false);
            assert_eq!(outcomes(&batch), [(0, "STORED\r\n".to_string())]);
        }
        executor
    }

    #[test]
    fn a_large_value_is_lent_with_its_reply_and_handed_out_in_slices() {
        let mut executor = executor_with_values();
        let mut batch = Batch::default();
        push(&mut batch, 1, "get large\r\n");
        push(&mut batch, 1, "delete large\r\n");
        batch.execute(visit(&mut executor), &mut false);
        let expected = [(1, "24 and 300000 bytes".to_string()), (1, "DELETED\r\n".to_string())];
        assert_eq!(outcomes(&batch), expected);
        let Some((_, Outcome::Lending(reply, lent))) = batch.outcomes().next() else { panic!("seen above") };
        assert_eq!((reply, lent.place), (&b"VALUE large 0 300000\r\n\r\n"[..], 22));
        let mut value = Vec::new();
        while value.len() < lent.bytes {
            executor.answer(NOW, Question::Slice(lent.number), &mut value);
        }
        assert!(value == "x".repeat(300_000).as_bytes());
        assert!(executor.shard().memory().held > 0);
        executor.answer(NOW, Question::TakeBack(lent.number), &mut value);
        assert_eq!(executor.shard().memory().held, 0);
    }

    #[test]
    fn what_is_taken_back_is_sent_although_its_reader_is_gone() {
        let (mut returned, mut letter) = (Batch::default(), Batch::default());
        returned.ask(ReturnAddress::NOBODY, Question::TakeBack(3));
        returned.resend(&mut letter, &mut Three::default());
        assert!(returned.is_empty() && !letter.is_empty());
    }

    #[test]
    fn replies_come_back_in_order_with_answers_between() {
        let mut executor = executor_with_values();
        let mut batch = Batch::default();
        push(&mut batch, 1, "set a 0 0 1\r\n1\r\n");
        batch.ask(
            ReturnAddress { connection: connection(2), ticket: Outbox::default().expect() },
            Question::Report,
        );
        push(&mut batch, 3, "incr a 41\r\n");
        batch.execute(visit(&mut executor), &mut false);
        let expected = [(1, "STORED\r\n"), (2, "numbers: true, 0 bytes"), (3, "42\r\n")];
        assert_eq!(outcomes(&batch), expected.map(|(slot, text)| (slot, text.to_string())));
        assert!(!batch.has_bounced());
    }

    #[test]
    fn large_replies_make_the_rest_bounce_until_the_sender_resumes() {
        let mut executor = executor_with_values();
        let mut bouncing = false;
        let mut first = Batch::default();
        (0..GETS_THAT_FILL_A_LETTER).for_each(|_| push(&mut first, 1, "get copied\r\n"));
        push(&mut first, 2, "set late 0 0 1\r\n1\r\n");
        let mut second = Batch::default();
        push(&mut second, 2, "get late\r\n");
        for batch in [&mut first, &mut second] {
            batch.execute(visit(&mut executor), &mut bouncing);
            assert!(batch.has_bounced());
        }
        let expected = (2, "bounced".to_string());
        assert_eq!(outcomes(&first)[GETS_THAT_FILL_A_LETTER], expected);

        let (mut returned, mut letter) = (Batch::default(), Batch { resumes: true, ..Batch::default() });
        let mut senders = Three { open: true, ..Three::default() };
        returned.absorb(&first, |id| senders.bounced(id));
        returned.absorb(&second, |id| senders.bounced(id));
        returned.resend(&mut letter, &mut senders);
        assert_eq!(senders.bounced, [2, 2]);
        letter.execute(visit(&mut executor), &mut bouncing);
        let expected = [(2, "STORED\r\n"), (2, "VALUE late 0 1\r\n1\r\n")];
        assert_eq!(outcomes(&letter), expected.map(|(slot, text)| (slot, text.to_string())));
        assert!(returned.is_empty() && !bouncing);
    }

    #[test]
    fn what_the_gate_keeps_stays_in_order_and_what_it_drops_is_gone() {
        let (mut returned, mut letter) = (Batch::default(), Batch::default());
        for (slot, line) in [(1, "get a\r\n"), (2, "get b\r\n"), (1, "get c\r\n"), (3, "get d\r\n")] {
            push(&mut returned, slot, line);
        }
        returned.resend(&mut letter, &mut Three::default());
        let slots = |batch: &Batch| {
            batch.entries.iter().map(|entry| entry.sender.connection.slot).collect::<Vec<_>>()
        };
        assert_eq!((slots(&returned), slots(&letter)), (vec![1, 1], vec![2]));
        assert_eq!((&returned.bytes[..], &letter.bytes[..]), (&b"ac"[..], &b"b"[..]));
    }
}
