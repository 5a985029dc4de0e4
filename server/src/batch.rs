//! The letter between shards: many requests of one turn on their way to the owner of their keys, and their replies
//! on the way back in the same box. Reused for ever, so that a busy pair of shards does not allocate.

use slabring_engine::{Seconds, WARM_KEYS_MAX};
use slabring_protocol::{Command, Dialect, KEY_SIZE_MAX, Plain, PlainWork, Request};
use slabring_reactor::ConnectionId;

use crate::budget::waits_too_long;
use crate::cluster::links::is_errand;
use crate::datagrams::is_datagram;
use crate::execute::{Asker, Executor};
use crate::extending::extends;
use crate::intake::Coming;
use crate::lending::{Lent, LentAway};
use crate::outbox::Ticket;
use crate::replication::{Executed, Manner, Waiter};
use crate::report::{Answer, Question};
use crate::shards::{ShardId, Shards};

/// Requests in one letter before the next is begun.
const REQUESTS_MAX: usize = 1024;
/// Bytes of keys and values in one letter before the next is begun, and of replies above which the rest of its requests bounce, where memory
/// allows. One request or reply may be larger. An idle letter keeps as much capacity.
pub const LETTER_BYTES_MAX: usize = 256 << 10;

/// An idle letter keeps so much in any case: a small one grows beyond what it is for by one request, and to cut that off each time
/// would leave the allocator with as many pieces that nobody wants.
const KEPT_BYTES_MIN: usize = 32 << 10;

/// A connection of which nothing is executed for now.
#[derive(Clone, Copy, Debug)]
pub struct Deferring {
    /// Whose, and which.
    pub name: (ShardId, ConnectionId),
    /// Since when.
    pub since: Seconds,
}

/// Who is to get an answer.
#[derive(Clone, Copy, Debug)]
pub struct ReturnAddress {
    /// The connection that asked.
    pub connection: ConnectionId,
    /// Its place in that connection's order of replies.
    pub ticket: Ticket,
}

/// What an entry asks for. What else is to be said of it lies in the batch, in the order of the entries that need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    /// A get of lines. Nearly all requests are, so it needs no [`Head`].
    Get { with_cas: bool },
    /// The only get of its line, whose end is part of the reply.
    GetAlone,
    /// Any other request. It has a head, and its bytes are key, value, flags.
    Request,
    /// The beginning of a request whose value comes in parts. It has a head, and its bytes are key and flags.
    BeginValue,
    /// A part of the value.
    ValuePart,
    /// All of it has come.
    EndValue,
    /// A reply that was promised to a connection of the receiver, who stands in the sender's place.
    Delivery,
    /// A question to the shard itself.
    Question,
}

/// What a request is beside its bytes, which lie among those of the whole letter: an `OwnedRequest` would allocate for each.
#[derive(Clone, Copy, Debug)]
struct Head {
    command: Command,
    noreply: bool,
    dialect: Dialect,
    flags_bytes: usize,
    /// Of a value that comes in parts.
    value_bytes: usize,
}

impl ReturnAddress {
    /// Nobody's: what is answered is forgotten.
    pub const NOBODY: Self =
        Self { connection: ConnectionId { slot: u32::MAX, generation: 0 }, ticket: Ticket::NONE };

    /// A connection's, for what is answered otherwise than by a reply.
    pub fn without_ticket(connection: ConnectionId) -> Self {
        Self { connection, ticket: Ticket::NONE }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// On its way to the owner, who has said nothing yet.
    Posted,
    /// Executed: the reply, or what a question brought as text, is the next of `Batch::replies`. The rest of the answer
    /// to a question is the next of `Batch::answers`.
    Done,
    /// As `Done`, but for a value that belongs into the reply: it is the next of `Batch::lent`.
    Lending,
    /// Not executed: the owner had no room for more replies. It must be posted again, behind nothing newer of its
    /// connection.
    Bounced,
    /// Not executed: it asks for a large value that cannot be lent now, or stands behind one of its connection that does. Its
    /// connection posts it again after a while, with all that is behind it.
    Deferred,
    /// The reply comes later, as a [`Work::Delivery`] of the owner.
    Promised,
}

/// It travels from core to core and back, by cache lines.
#[derive(Clone, Copy, Debug)]
struct Entry {
    sender: ReturnAddress,
    /// Its part of `Batch::bytes`.
    bytes: u32,
    key_bytes: u8,
    work: Work,
    /// It was deferred, and is the first of its connection to be posted again.
    retries: bool,
}

/// What the owner says of an entry. Apart from it, for what both sides write travels once more.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// Its part of `Batch::replies`.
    reply_bytes: u32,
    state: State,
}

const _: () = assert!(size_of::<Entry>() == 24 && size_of::<Fate>() == 8);
const _: () = assert!(KEY_SIZE_MAX <= u8::MAX as usize);

impl Entry {
    /// Whether it is a request that is here whole.
    fn has_key(&self) -> bool {
        matches!(self.work, Work::Get { .. } | Work::GetAlone | Work::Request)
    }
}

/// What belongs to one entry.
#[derive(Clone, Copy)]
struct Parcel<'a> {
    bytes: &'a [u8],
    head: Option<&'a Head>,
    question: Option<Question>,
}

/// What belongs to the entries that follow.
#[derive(Clone)]
struct Cargo<'a> {
    bytes: &'a [u8],
    heads: std::slice::Iter<'a, Head>,
    questions: std::slice::Iter<'a, Question>,
}

impl<'a> Cargo<'a> {
    /// What belongs to the next entry.
    fn take(&mut self, entry: &Entry) -> Parcel<'a> {
        let bytes = split_off(&mut self.bytes, entry.bytes as usize);
        let mut parcel = Parcel { bytes, head: None, question: None };
        match entry.work {
            Work::Get { .. } | Work::GetAlone | Work::ValuePart | Work::EndValue | Work::Delivery => {}
            Work::Request | Work::BeginValue => {
                parcel.head = Some(self.heads.next().expect("each has one"));
            }
            Work::Question => parcel.question = Some(*self.questions.next().expect("each has one")),
        }
        parcel
    }
}

impl<'a> Parcel<'a> {
    fn key(&self, entry: &Entry) -> &'a [u8] {
        &self.bytes[..usize::from(entry.key_bytes)]
    }

    /// The request that was put in; one whose value comes in parts has none.
    fn request(&self, entry: &Entry) -> Request<'a> {
        let (key, rest) = self.bytes.split_at(usize::from(entry.key_bytes));
        match (entry.work, self.head) {
            (Work::Get { with_cas }, None) => Request::get(key, with_cas),
            (Work::GetAlone, None) => Request::get(key, false),
            (_, Some(&Head { command, noreply, dialect, flags_bytes, .. })) => {
                let (value, flags) = rest.split_at(rest.len() - flags_bytes);
                Request { command, noreply, dialect, key, value, flags }
            }
            (work, None) => unreachable!("{work:?} is no request"),
        }
    }
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
    /// The reply comes later, or it is one that did.
    Promised,
}

/// The connections behind the requests of a batch.
pub trait Senders {
    /// Whether a request of this connection may be posted again. One that `feeds` its reader, with the next slice of a value
    /// that stands before all else, never waits for it.
    fn gate(&mut self, connection: ConnectionId, feeds: bool) -> Gate;
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
#[derive(Debug)]
pub struct Batch {
    /// See [`LETTER_BYTES_MAX`].
    bytes_max: usize,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    heads: Vec<Head>,
    questions: Vec<Question>,
    /// Of each entry, or none while the owner has not executed it.
    fates: Vec<Fate>,
    replies: Vec<u8>,
    answers: Vec<Answer>,
    lent: Vec<LentAway>,
    /// The sender has heard of all bounced requests: what follows may be executed again.
    pub resumes: bool,
    /// The sender's note of its memory when it left.
    pub posted_bytes: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self::of(LETTER_BYTES_MAX)
    }
}

impl Batch {
    /// An empty one for about so many bytes of requests, and as many of replies.
    pub fn of(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            entries: Vec::new(),
            bytes: Vec::new(),
            heads: Vec::new(),
            questions: Vec::new(),
            fates: Vec::new(),
            replies: Vec::new(),
            answers: Vec::new(),
            lent: Vec::new(),
            resumes: false,
            posted_bytes: 0,
        }
    }

    /// Whether there is nothing to deliver.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it is time to begin another.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= REQUESTS_MAX || self.bytes.len() >= self.bytes_max
    }

    /// Memory that is reserved here.
    pub fn capacity_bytes(&self) -> usize {
        let heads = self.heads.capacity() * size_of::<Head>();
        let questions = self.questions.capacity() * size_of::<Question>();
        let entries = self.entries.capacity() * size_of::<Entry>();
        let fates = self.fates.capacity() * size_of::<Fate>();
        self.bytes.capacity() + self.replies.capacity() + entries + fates + heads + questions
    }

    fn cargo(&self) -> Cargo<'_> {
        Cargo { bytes: &self.bytes, heads: self.heads.iter(), questions: self.questions.iter() }
    }

    fn add(&mut self, sender: ReturnAddress, work: Work, key: &[u8], parts: [&[u8]; 2]) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(key);
        parts.into_iter().for_each(|part| self.bytes.extend_from_slice(part));
        let bytes = count(self.bytes.len() - before);
        let key_bytes = u8::try_from(key.len()).expect("a key fits, checked above at compile time");
        self.entries.push(Entry { sender, bytes, key_bytes, work, retries: false });
    }

    /// Adds an entry of another batch.
    fn put(&mut self, entry: Entry, parcel: &Parcel<'_>) {
        self.bytes.extend_from_slice(parcel.bytes);
        self.heads.extend(parcel.head);
        self.questions.extend(parcel.question);
        self.entries.push(entry);
    }

    /// Copies a request in.
    pub fn push(&mut self, sender: ReturnAddress, request: &Request<'_>) {
        let &Request { command, key, value, flags, noreply, dialect } = request;
        if let (Command::Get { with_cas }, Dialect::Text) = (command, dialect) {
            return self.add(sender, Work::Get { with_cas }, key, [b"", b""]);
        }
        self.heads.push(Head { command, noreply, dialect, flags_bytes: flags.len(), value_bytes: 0 });
        self.add(sender, Work::Request, key, [value, flags]);
    }

    /// Copies a plain request in.
    pub fn push_plain(&mut self, sender: ReturnAddress, plain: &Plain<'_>) {
        match plain.work {
            PlainWork::Get => self.add(sender, Work::GetAlone, plain.key, [b"", b""]),
            PlainWork::Set { .. } => self.push(sender, &plain.request()),
        }
    }

    /// Announces a value.
    pub fn begin_value(&mut self, sender: ReturnAddress, coming: &Coming) {
        let Request { command, noreply, dialect, key, flags, .. } = coming.request();
        let (flags_bytes, value_bytes) = (flags.len(), coming.value_bytes);
        self.heads.push(Head { command, noreply, dialect, flags_bytes, value_bytes });
        self.add(sender, Work::BeginValue, key, [flags, b""]);
    }

    /// Copies a part of an announced value in.
    pub fn value_part(&mut self, sender: ReturnAddress, bytes: &[u8]) {
        self.add(sender, Work::ValuePart, b"", [bytes, b""]);
    }

    /// Ends an announced value.
    pub fn end_value(&mut self, sender: ReturnAddress) {
        self.add(sender, Work::EndValue, b"", [b"", b""]);
    }

    /// Copies a reply in that was promised to a connection of the receiver.
    pub fn deliver(&mut self, to: ReturnAddress, reply: &[u8]) {
        self.add(to, Work::Delivery, b"", [reply, b""]);
    }

    /// Adds a question to the shard itself. It is asked after what is in before it.
    pub fn ask(&mut self, sender: ReturnAddress, question: Question) {
        self.questions.push(question);
        self.add(sender, Work::Question, b"", [b"", b""]);
    }

    /// The owner's part: executes everything in order and keeps the replies in here.
    ///
    /// With more of them than it is meant for the rest bounces, and `bouncing` makes all later letters of this
    /// sender bounce too, so that nothing overtakes, until one comes that resumes.
    pub fn execute(&mut self, visit: Visit<'_>, bouncing: &mut bool) {
        let Visit { executor, census, now, shards, sender } = visit;
        let bytes_max = self.bytes_max;
        let Self { entries, bytes, heads, questions, fates, replies, answers, lent: all_lent, .. } = self;
        let mut cargo = Cargo { bytes, heads: heads.iter(), questions: questions.iter() };
        *bouncing &= !self.resumes;
        for group in entries.chunks(WARM_KEYS_MAX) {
            let hashes = executor.shard().warm(keys_of(group, cargo.clone()));
            let mut hashes = hashes.iter();
            for entry in group {
                let parcel = cargo.take(entry);
                let hash = if entry.has_key() { hashes.next() } else { None };
                *bouncing |= replies.len() > bytes_max;
                if *bouncing {
                    fates.push(Fate { reply_bytes: 0, state: State::Bounced });
                    continue;
                }
                if must_defer(entry, &parcel, executor, now, sender) {
                    fates.push(Fate { reply_bytes: 0, state: State::Deferred });
                    continue;
                }
                let before = replies.len();
                let mut state = State::Done;
                match (entry.work, parcel.question) {
                    (Work::GetAlone, _) => {
                        assert!(!executor.replicates(), "a node that stands alone has no copies");
                        let plain = Plain { key: parcel.bytes, work: PlainWork::Get };
                        let connection = shards.connection_number(sender, entry.sender.connection.slot);
                        let hash = *hash.expect("it has a key");
                        let lent = executor.execute_plain(now, &plain, hash, connection, replies);
                        if let Some(lent) = lent {
                            all_lent.push(lend_away(executor, shards.me, *lent, before));
                            state = State::Lending;
                        }
                    }
                    (Work::Get { .. } | Work::Request, _) => {
                        let request = parcel.request(entry);
                        let connection = shards.connection_number(sender, entry.sender.connection.slot);
                        if executor.asks_others(&request) {
                            assert!(entry.work != Work::GetAlone, "a node that stands alone has no copies");
                            let is_local = !is_answered_whole(entry.sender.connection);
                            let asker = Asker { connection, is_local };
                            match executor.execute_copied(now, &request, asker, replies) {
                                Executed::Now => {}
                                Executed::Refused(error) => {
                                    replies.extend(Manner::of(&request).reply(Err(error)));
                                }
                                Executed::Later(id) => {
                                    executor.attend(id, Waiter::Shard(sender, entry.sender));
                                    state = State::Promised;
                                }
                            }
                            fates.push(Fate { reply_bytes: count(replies.len() - before), state });
                            continue;
                        }
                        let lent = match (entry.work, hash) {
                            _ if is_answered_whole(entry.sender.connection) => {
                                executor.execute(now, &request, connection, replies);
                                None
                            }
                            (Work::Get { .. }, Some(&hash)) => {
                                executor.get_lending(now, &request, hash, connection, replies)
                            }
                            _ => executor.execute_lending(now, &request, connection, replies),
                        };
                        if let Some(lent) = lent {
                            all_lent.push(lend_away(executor, shards.me, *lent, before));
                            state = State::Lending;
                        }
                    }
                    (Work::BeginValue, _) => {
                        let value_bytes = parcel.head.expect("it has one").value_bytes;
                        let coming = Coming::new(&parcel.request(entry), value_bytes);
                        executor.begin_visit(now, sender, entry.sender.connection, coming);
                    }
                    (Work::ValuePart, _) => {
                        executor.go_on_visiting(now, sender, entry.sender.connection, parcel.bytes);
                    }
                    (Work::Delivery, _) => {
                        executor.deliveries.push((entry.sender, parcel.bytes.to_vec()));
                    }
                    (Work::EndValue, _) => {
                        executor.end_visit(now, sender, entry.sender.connection, replies);
                    }
                    (Work::Question, Some(Question::Connections)) => {
                        census(replies);
                        answers.push(Answer::Done);
                    }
                    (Work::Question, Some(Question::Forget(connection))) => {
                        executor.drop_visit(sender, connection);
                        executor.drop_extending((sender, connection));
                        executor.deferring.retain(|waiting| waiting.name != (sender, connection));
                        answers.push(Answer::Done);
                    }
                    (Work::Question, Some(question)) => {
                        answers.push(executor.answer(now, question, replies));
                    }
                    (Work::Question, None) => unreachable!("a question comes with one"),
                }
                fates.push(Fate { reply_bytes: count(replies.len() - before), state });
            }
        }
    }

    /// The sender's part: what became of each request, in the order they were posted. Deliveries are none: who they name is not the
    /// sender's.
    pub fn outcomes(&self) -> impl Iterator<Item = (ReturnAddress, Outcome<'_>)> {
        let mut rest = &self.replies[..];
        let mut answers = self.answers.iter();
        let mut lent = self.lent.iter();
        assert!(self.fates.len() == self.entries.len(), "the owner goes through all of them");
        let told = self.entries.iter().zip(&self.fates).filter(|(entry, _)| entry.work != Work::Delivery);
        told.map(move |(entry, fate)| {
            let reply = split_off(&mut rest, fate.reply_bytes as usize);
            let outcome = match (fate.state, entry.work) {
                (State::Done, Work::BeginValue) => Outcome::Begun,
                (State::Done, Work::ValuePart) => Outcome::Silence,
                (State::Done, Work::Get { .. } | Work::GetAlone | Work::Request | Work::EndValue) => {
                    Outcome::Reply(reply)
                }
                (State::Done, Work::Question) => {
                    let answer = answers.next().expect("every question that was asked has one");
                    Outcome::Answer(answer, reply)
                }
                (State::Lending, _) => {
                    let lent = lent.next().expect("every reply that lends says what");
                    Outcome::Lending(reply, *lent)
                }
                (State::Bounced, _) => Outcome::Bounced,
                (State::Deferred, _) => Outcome::Deferred,
                (State::Promised, _) => Outcome::Promised,
                (State::Done, Work::Delivery) => unreachable!("it was left out"),
                (State::Posted, _) => unreachable!("the owner has said something of it"),
            };
            (entry.sender, outcome)
        })
    }

    /// Whether some of it was not executed.
    pub fn has_bounced(&self) -> bool {
        matches!(self.fates.last(), Some(Fate { state: State::Bounced, .. }))
    }

    /// What the owner has said of each entry.
    fn states(&self) -> impl Iterator<Item = State> {
        self.fates.iter().map(|fate| fate.state).chain(std::iter::repeat(State::Posted))
    }

    /// Copies what of `other` is not executed behind what is here, and names the connections to `note`.
    pub fn absorb(&mut self, other: &Self, mut note: impl FnMut(ConnectionId)) {
        let mut cargo = other.cargo();
        for (entry, state) in other.entries.iter().zip(other.states()) {
            let parcel = cargo.take(entry);
            if matches!(state, State::Posted | State::Bounced) {
                self.put(*entry, &parcel);
                // What is delivered is for a connection of the receiver.
                if entry.work != Work::Delivery {
                    note(entry.sender.connection);
                }
            }
        }
    }

    /// Copies each deferred request to `keep`, in order, with a flag for it to be the first of its connection.
    pub fn hand_out_deferred(&self, mut keep: impl FnMut(ConnectionId, &mut dyn FnMut(&mut Self))) {
        let mut cargo = self.cargo();
        for (entry, state) in self.entries.iter().zip(self.states()) {
            let parcel = cargo.take(entry);
            if state == State::Deferred {
                keep(entry.sender.connection, &mut |deferred| {
                    let retries = deferred.entries.is_empty();
                    deferred.put(Entry { retries, ..*entry }, &parcel);
                });
            }
        }
    }

    /// Whether all of it was deferred, for one connection, and it is so much that it should not be copied. Which connection that is.
    pub fn is_deferred_whole(&self) -> Option<ConnectionId> {
        let first = self.entries.first()?.sender.connection;
        let is_whole = self.bytes.len() >= self.bytes_max
            && self.fates.iter().all(|fate| fate.state == State::Deferred)
            && self.entries.iter().all(|entry| entry.sender.connection == first);
        is_whole.then_some(first)
    }

    /// Makes a batch that was [deferred whole](Self::is_deferred_whole) one to be posted again.
    pub fn retry_whole(&mut self) {
        self.fates.clear();
        self.resumes = false;
        for (place, entry) in self.entries.iter_mut().enumerate() {
            entry.retries = place == 0;
        }
    }

    /// Whether something of it was deferred.
    pub fn has_deferred(&self) -> bool {
        self.fates.iter().any(|fate| fate.state == State::Deferred)
    }

    /// Moves what `senders` let through to `letter`, until that is full, and keeps the rest in order.
    pub fn resend(&mut self, letter: &mut Self, senders: &mut impl Senders) {
        let mut kept = Self::default();
        let mut cargo = self.cargo();
        for entry in &self.entries {
            let parcel = cargo.take(entry);
            let verdict = match parcel.question {
                _ if letter.is_full() => Gate::Keep,
                // It is owed to the owner, whoever was the reader.
                Some(Question::TakeBack(_) | Question::Forget(_)) => Gate::Send,
                // So is this to the reader, who is the owner's.
                _ if entry.work == Work::Delivery => Gate::Send,
                question => {
                    senders.gate(entry.sender.connection, matches!(question, Some(Question::Slice { .. })))
                }
            };
            let to = match verdict {
                Gate::Send => &mut *letter,
                Gate::Keep => &mut kept,
                Gate::Drop => continue,
            };
            to.put(*entry, &parcel);
        }
        *self = kept;
    }

    /// Empties the batch for its next journey, keeping a bounded capacity.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.fates.clear();
        self.heads.clear();
        self.questions.clear();
        self.answers.clear();
        self.lent.clear();
        self.resumes = false;
        let kept = self.bytes_max.max(KEPT_BYTES_MIN);
        for buffer in [&mut self.bytes, &mut self.replies] {
            buffer.clear();
            buffer.shrink_to(kept);
        }
    }
}

/// Whether the owner cannot execute an entry in its turn.
fn must_defer(
    entry: &Entry,
    parcel: &Parcel<'_>,
    executor: &mut Executor,
    now: Seconds,
    sender: ShardId,
) -> bool {
    let extends = matches!(parcel.head, Some(head) if extends(&head.command));
    let is_quiet = executor.deferring.is_empty() && !executor.is_guarded();
    if is_quiet && !extends && executor.shard().has_room_for_any_pin() {
        return false;
    }
    if matches!(entry.work, Work::Question | Work::Delivery) || is_answered_whole(entry.sender.connection) {
        return false;
    }
    let name = (sender, entry.sender.connection);
    let place = executor.deferring.iter().position(|waiting| waiting.name == name);
    if place.is_some() && !entry.retries {
        return true;
    }
    let waits = match (entry.work, parcel.head) {
        (Work::BeginValue, Some(_))
            if executor.is_read_elsewhere(parcel.request(entry).decoded_key(&mut [0; KEY_SIZE_MAX])) =>
        {
            true
        }
        (Work::BeginValue, Some(head)) => {
            !executor.shard().has_room_to_reserve(head.value_bytes)
                && place.is_none_or(|place| may_wait_on(&executor.deferring[place..], now))
        }
        (Work::Request, _) if extends => executor.must_extend(now, name, &parcel.request(entry)),
        (Work::Get { .. } | Work::GetAlone | Work::Request, _) => {
            executor.value_bytes_to_copy(now, &parcel.request(entry)) > 0
        }
        _ => false,
    };
    match (place, waits) {
        (None, true) => executor.deferring.push(Deferring { name, since: now }),
        (Some(place), false) => drop(executor.deferring.remove(place)),
        (None, false) | (Some(_), true) => {}
    }
    waits
}

/// Whether the first of these may go on waiting for room for a value. If not, its value is taken in without any, and refused at its
/// end. Who came last is not held up by those before: it may.
fn may_wait_on(line: &[Deferring], now: Seconds) -> bool {
    line.len() == 1 || !waits_too_long(line[0].since, now)
}

/// Keeps what a reply that began at `before` shows of a value, until its reader has it.
#[cold]
fn lend_away(
    executor: &mut Executor,
    owner: ShardId,
    (place, lent): (usize, Lent),
    before: usize,
) -> LentAway {
    let bytes = lent.left();
    LentAway { owner, place: place - before, number: executor.loans.lend_away(lent), bytes }
}

/// Whether nobody could ask for the rest of a reply.
fn is_answered_whole(sender: ConnectionId) -> bool {
    is_datagram(sender) || is_errand(sender)
}

/// The keys of entries whose cargo this is.
fn keys_of<'a>(entries: &[Entry], mut cargo: Cargo<'a>) -> impl Iterator<Item = &'a [u8]> {
    entries.iter().filter_map(move |entry| {
        let parcel = cargo.take(entry);
        entry.has_key().then(|| parcel.key(entry))
    })
}

/// A number of bytes of one request or reply, as entries hold it.
fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an item is at most 1 GiB")
}

fn split_off<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (part, remainder) = rest.split_at(length);
    *rest = remainder;
    part
}

#[cfg(test)]
mod tests;
