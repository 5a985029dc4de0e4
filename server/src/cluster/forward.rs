//! The origin's part of a request whose key another node owns: what is sent, where the reply belongs, and what the client is
//! told when there is none. Part of dispatch: no system calls.

use std::collections::VecDeque;

use slabring_cluster::forward::{Failure, Forward};
use slabring_cluster::peers::Route;
use slabring_cluster::placement::partition_of;
use slabring_cluster::time::Micros;
use slabring_cluster::wire::Flags;
use slabring_protocol::{Command, Dialect, DialectError, ErrorReply, KEY_SIZE_MAX, Request, client, reply};

use crate::batch::{Outcome, ReturnAddress};
use crate::connection::{Connection, OUTPUT_BYTES_HIGH};
use crate::dispatch::Dispatcher;
use crate::outbox::{Outbox, Ticket};
use crate::report::{Answer, Asked, Gathering, Question};
use crate::unkeyed::refuse;

/// A client waits so long for another node, and then is told that there is no answer.
pub(super) const PATIENCE: Micros = Micros::from_millis(1_000);

/// What a reply of another node may have before any has come: a new connection asks for 16 at first.
const REPLY_BYTES_FIRST: usize = 64 << 10;
/// Replies from this size on are counted when they come, smaller ones at the end of the turn.
const COUNTED_REPLY_BYTES: usize = 4 << 10;

/// A reply that is made elsewhere: where it belongs, and how to say that there is none.
#[derive(Clone, Copy, Debug)]
pub struct PendingReply {
    /// The connection, and the place in its order of replies.
    pub to: ReturnAddress,
    dialect: Dialect,
    /// Nothing is answered, not even an error.
    is_silent: bool,
    part: Part,
    /// The reply may be large.
    pub is_large: bool,
}

/// What a reply is a part of.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// It is whole.
    Whole,
    /// The only key of a line: the line's end is still to be written behind it.
    Only,
    /// One key of this line.
    Line(u64),
    /// What one node says to a question to all.
    Gathering,
    /// Several gets: a bit for each place, counted from the first.
    Run(u32),
}

impl PendingReply {
    /// Keeps a place for the reply to a request of this client.
    pub fn keep(client: &mut Connection, request: &Request<'_>) -> Self {
        let is_part = is_part_of_line(request);
        Self {
            to: ReturnAddress { connection: client.id, ticket: client.outbox.expect() },
            dialect: request.dialect,
            is_silent: request.noreply,
            part: if is_part { Part::Line(client.lines.expect()) } else { Part::Whole },
            is_large: client.lines.expect_large(),
        }
    }

    /// As [`PendingReply::keep`], for a request that the client has sent as `raw`, and its parser is behind now. If it is the only key of
    /// its line, its reply has the line's end with it, and the line needs no place of its own.
    fn keep_forwarded(client: &mut Connection, request: &Request<'_>, raw: &[u8]) -> Self {
        // Behind another key of the line there is a space.
        let is_first = raw.first().is_some_and(|byte| *byte != b' ');
        if !(is_part_of_line(request) && is_first && client.parser.ends_line()) {
            return Self::keep(client, request);
        }
        client.lines.is_ended = true;
        let to = ReturnAddress { connection: client.id, ticket: client.outbox.expect() };
        let is_large = client.lines.expect_large();
        Self { to, dialect: request.dialect, is_silent: request.noreply, part: Part::Only, is_large }
    }

    /// That of several gets: a bit of `places` for each that is so far behind the first.
    pub(super) fn run(first: ReturnAddress, places: u32) -> Self {
        Self { to: first, dialect: Dialect::Text, is_silent: false, part: Part::Run(places), is_large: false }
    }

    /// That of one get, whose line's end comes with the reply if that `is_whole`.
    pub(super) fn get(to: ReturnAddress, is_whole: bool) -> Self {
        let part = if is_whole { Part::Whole } else { Part::Only };
        Self { to, dialect: Dialect::Text, is_silent: false, part, is_large: false }
    }

    /// The places of several gets, in their order; otherwise its own.
    pub fn each(&self) -> impl Iterator<Item = ReturnAddress> + use<> {
        let ReturnAddress { connection, ticket } = self.to;
        let places = if let Part::Run(places) = self.part { places } else { 1 };
        let taken = (0..u32::BITS).filter(move |place| places >> place & 1 == 1);
        taken.map(move |place| ReturnAddress { connection, ticket: ticket.plus(place.into()) })
    }

    /// The client's facts, as far as they matter to who executes the request.
    pub fn flags(&self) -> Flags {
        if matches!(self.dialect, Dialect::Binary(_)) { Flags::BINARY } else { Flags::NONE }
    }
}

/// The end of a line of keys.
#[derive(Clone, Copy, Debug)]
enum End {
    /// More keys are to come.
    Open,
    /// Its place in the order of replies.
    At(Ticket),
    /// There is none: something in the line was refused, or all is answered.
    Nowhere,
}

/// An error of a line of keys, as it is told.
type Text = Box<[u8]>;

#[derive(Debug)]
struct Line {
    missing: usize,
    /// What is told instead of the end.
    failed: Option<Text>,
    end: End,
}

/// A connection's lines of keys of which others answer some: other nodes, and where items have copies other shards, too. The first
/// failure of a line takes the place of its end: whoever reads values up to an end or an error stays in step with the stream.
#[derive(Debug)]
pub struct Lines {
    lines: VecDeque<Line>,
    first: u64,
    /// The last request that was sent to another node for a key of which there may be a copy here.
    pub behind: Option<Ticket>,
    /// Keys that other shards of this node answer, and their lines.
    posted: VecDeque<(Ticket, u64)>,
    /// The end of the line that comes next is written already, or will be with its only key.
    is_ended: bool,
    /// The client wants to be told where a key of another node is.
    pub redirects: bool,
    /// What the next reply of another node may have, from what the last ones had.
    reply_bytes_expected: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            lines: VecDeque::new(),
            first: 0,
            behind: None,
            posted: VecDeque::new(),
            is_ended: false,
            redirects: false,
            reply_bytes_expected: REPLY_BYTES_FIRST,
        }
    }
}

impl Lines {
    /// One more key of the line that is open.
    fn expect(&mut self) -> u64 {
        if !matches!(self.lines.back(), Some(Line { end: End::Open, .. })) {
            self.lines.push_back(Line { missing: 0, failed: None, end: End::Open });
        }
        let last = self.lines.back_mut().expect("pushed just now");
        last.missing += 1;
        self.first + self.lines.len() as u64 - 1
    }

    /// The line of a key that another shard has answered; `None`: it is in none.
    fn take_posted(&mut self, ticket: Ticket) -> Option<u64> {
        let at = self.posted.iter().position(|(posted, _)| *posted == ticket)?;
        self.posted.remove(at).map(|(_, line)| line)
    }

    /// A key is answered, or failed. Gives the line's end if that was all it waited for.
    fn settle(&mut self, line: u64, failed: Option<Text>) -> Option<(Ticket, Option<Text>)> {
        let index = usize::try_from(line - self.first).expect("64-bit");
        let line = &mut self.lines[index];
        line.missing -= 1;
        line.failed = line.failed.take().or(failed);
        let end = match line.end {
            End::At(ticket) if line.missing == 0 => {
                line.end = End::Nowhere;
                Some((ticket, line.failed.take()))
            }
            _ => None,
        };
        self.forget_settled();
        end
    }

    /// The keys of the line have all been given: writes its end, or keeps the place for it.
    pub fn end(&mut self, outbox: &mut Outbox) {
        if std::mem::take(&mut self.is_ended) {
            return;
        }
        match self.lines.back_mut() {
            Some(line) if matches!(line.end, End::Open) => {
                if line.missing == 0 {
                    outbox.local(|out| out.extend_from_slice(end_of_line(line.failed.as_deref())));
                    line.end = End::Nowhere;
                } else {
                    line.end = End::At(outbox.expect());
                }
                self.forget_settled();
            }
            _ => outbox.local(reply::end),
        }
    }

    /// Whether so many replies may be more than a connection should be owed at once.
    pub fn expect_much(&self, replies: usize) -> bool {
        replies.saturating_mul(self.reply_bytes_expected) > OUTPUT_BYTES_HIGH
    }

    /// Whether the next reply may be so large that it should be awaited alone.
    pub fn expect_large(&self) -> bool {
        self.reply_bytes_expected >= OUTPUT_BYTES_HIGH
    }

    /// Whether so many replies may be expected to have at most so many bytes.
    pub(super) fn expect_within(&self, replies: usize, bytes: usize) -> bool {
        replies.saturating_mul(self.reply_bytes_expected) <= bytes
    }

    /// A reply of another node has come. What is expected rises at once and falls by an eighth.
    fn learn(&mut self, reply_bytes: usize) {
        let falling = self.reply_bytes_expected - self.reply_bytes_expected / 8;
        self.reply_bytes_expected = falling.max(reply_bytes);
    }

    /// The line that is open has been answered by an error already.
    pub fn abandon(&mut self) {
        if let Some(line) = self.lines.back_mut()
            && matches!(line.end, End::Open)
        {
            line.end = End::Nowhere;
            self.forget_settled();
        }
    }

    fn forget_settled(&mut self) {
        while self.lines.front().is_some_and(|line| line.missing == 0 && matches!(line.end, End::Nowhere)) {
            self.lines.pop_front();
            self.first += 1;
        }
    }
}

impl Dispatcher {
    /// Keeps a place for what another shard of this node will answer. Where items have copies it may refuse a key for now, and an
    /// error has no place between the values of a line.
    pub fn keep_for_shard(&self, client: &mut Connection, request: &Request<'_>) -> ReturnAddress {
        if !self.executor.replicates() {
            return ReturnAddress { connection: client.id, ticket: client.outbox.expect() };
        }
        let pending = PendingReply::keep(client, request);
        if let Part::Line(line) = pending.part {
            client.lines.posted.push_back((pending.to.ticket, line));
        }
        pending.to
    }

    /// Fills in what another shard of this node has answered.
    pub fn answer_from_shard(&self, client: &mut Connection, to: ReturnAddress, reply: &[u8]) {
        match client.lines.take_posted(to.ticket) {
            Some(line) => settle_with(client, to.ticket, line, reply),
            None => client.outbox.deliver(to.ticket, reply),
        }
    }

    /// Sends a request to the node that owns its key, or says at once that it cannot.
    pub fn forward(&mut self, client: &mut Connection, request: &Request<'_>, raw: &[u8], hash: u64) {
        assert!(self.cluster.is_some(), "who stands alone owns every key");
        if !client.lines.redirects && self.answer_from_copy(client, request) {
            return;
        }
        let is_part = is_part_of_line(request);
        let pending = PendingReply::keep_forwarded(client, request, raw);
        self.note_sent_away(client, request, pending.to.ticket);
        if client.lines.redirects && request.dialect == Dialect::Text {
            return self.redirect(client, pending, hash);
        }
        let flags = pending.flags().with(Flags::AUTHENTICATED);
        if is_part {
            self.send_part(client, pending, hash, |line| write_part(line, request));
        } else {
            self.send_away(client, pending, hash, flags, raw);
        }
    }

    /// Sends one key of a line as a line of its own, written by `write`.
    fn send_part(
        &mut self,
        client: &mut Connection,
        pending: PendingReply,
        hash: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let links = self.cluster.as_mut().expect("who stands alone owns every key");
        let mut line = std::mem::take(&mut links.line);
        line.clear();
        write(&mut line);
        self.send_away(client, pending, hash, Flags::AUTHENTICATED.with(Flags::PART), &line);
        self.cluster.as_mut().expect("seen just now").line = line;
    }

    pub(super) fn send_away(
        &mut self,
        client: &mut Connection,
        pending: PendingReply,
        hash: u64,
        flags: Flags,
        bytes: &[u8],
    ) {
        let links = self.cluster.as_mut().expect("who stands alone owns every key");
        let deadline = links.now() + PATIENCE;
        match links.forward(pending, &Forward { hash, flags, deadline, bytes }) {
            Ok(Route::Sent) => {
                self.executor.traffic.forwarded += 1;
                self.cluster.as_mut().expect("seen just now").hold_back(client);
            }
            Ok(Route::Here) => unreachable!("dispatch has looked at the same ring"),
            Err(failure) => self.answer_from_afar(client, pending, Err(failure)),
        }
    }

    /// Hands the reply of another node to the connection that waits for it, or says why there is none.
    pub fn answer_from_afar(
        &mut self,
        client: &mut Connection,
        pending: PendingReply,
        outcome: Result<&[u8], Failure>,
    ) {
        let failed = outcome.err();
        self.executor.traffic.forwards_failed += u64::from(failed.is_some());
        self.executor.traffic.forwards_refused += u64::from(failed == Some(Failure::NoCredit));
        if matches!(pending.part, Part::Gathering) {
            return self.add_node(client, pending, outcome);
        }
        let reply = match outcome {
            Ok(reply) if self.is_too_much(client, reply.len()) => Err(ErrorReply::OutOfMemoryWriting),
            outcome => outcome.map_err(told),
        };
        answer_later(client, pending, reply);
    }

    /// Whether there is no memory for a reply of another node: clients read too slowly what they ask for too fast.
    fn is_too_much(&mut self, client: &mut Connection, reply_bytes: usize) -> bool {
        client.lines.learn(reply_bytes);
        if reply_bytes < COUNTED_REPLY_BYTES {
            return false;
        }
        self.budget.count(client);
        self.budget.outputs_are_full() && !client.has_read_all()
    }

    /// Tells where a key is, to a client that would rather ask there.
    fn redirect(&mut self, client: &mut Connection, pending: PendingReply, hash: u64) {
        let Some(view) = self.cluster.as_ref().and_then(|links| links.view()) else {
            return self.answer_from_afar(client, pending, Err(Failure::NoRing));
        };
        let partition = partition_of(hash);
        let owner = view.ring.slot(view.ring.primary(partition));
        let number = u16::try_from(partition.index()).expect("a ring has 2^14 partitions");
        let mut text = Vec::new();
        reply::moved(&mut text, view.ring.epoch().0, number, &owner.client.to_string());
        match pending.part {
            Part::Line(line) => settle(client, pending.to.ticket, line, b"", Some(text.into())),
            _ if pending.is_silent => client.outbox.deliver(pending.to.ticket, b""),
            _ => client.outbox.deliver(pending.to.ticket, &text),
        }
    }

    /// Has every node flush, this one by `question`. False: there is no other.
    pub fn flush_other_nodes(
        &mut self,
        client: &mut Connection,
        request: &Request<'_>,
        delay: i64,
        question: Question,
    ) -> bool {
        let Some(links) = &mut self.cluster else { return false };
        let nodes = links.others();
        if nodes.is_empty() {
            return false;
        }
        let answer = self.executor.answer(self.now, question, &mut Vec::new());
        if let Answer::Refused(error) = answer {
            refuse(client, request, error);
            return true;
        }
        let gathering = Gathering { asked: Asked::of(request), answer, text: Vec::new() };
        let others = self.shards.count - 1 + u16::try_from(nodes.len()).expect("a ring has fewer");
        let ticket = client.outbox.expect_parts(others, Some(Box::new(gathering)));
        let to = ReturnAddress { connection: client.id, ticket };
        self.post.ask_all(to, question);
        let pending = PendingReply {
            to,
            dialect: request.dialect,
            is_silent: request.noreply,
            part: Part::Gathering,
            is_large: false,
        };
        let (flags, deadline) = (Flags::NODE.with(Flags::AUTHENTICATED), links.now() + PATIENCE);
        let line = format!("flush_all {delay}\r\n");
        let forward = Forward { hash: 0, flags, deadline, bytes: line.as_bytes() };
        for node in nodes {
            let links = self.cluster.as_mut().expect("seen just now");
            match links.tell(node, pending, &forward) {
                Ok(()) => self.executor.traffic.forwarded += 1,
                Err(failure) => self.answer_from_afar(client, pending, Err(failure)),
            }
        }
        true
    }

    /// Adds what one node says to what all say.
    fn add_node(&mut self, client: &mut Connection, pending: PendingReply, outcome: Result<&[u8], Failure>) {
        let answer = match outcome {
            Ok(reply) if reply::is_ok(reply) => Answer::Done,
            Ok(reply) if reply::is_server_error(reply) => Answer::Refused(ErrorReply::RingUnsettled),
            Ok(_) => Answer::Refused(ErrorReply::FlushNotAllowed),
            Err(failure) => Answer::Refused(told(failure)),
        };
        self.deliver(client, pending.to, Outcome::Answer(&answer, b""));
    }
}

/// Fills in a reply that was waited for, or why there is none.
pub fn answer_later(client: &mut Connection, pending: PendingReply, outcome: Result<&[u8], ErrorReply>) {
    match (pending.part, outcome) {
        (Part::Gathering, _) => unreachable!("it is answered by what all say"),
        (Part::Run(_), _) => unreachable!("its gets are answered one by one"),
        (Part::Whole, Ok(reply)) => client.outbox.deliver(pending.to.ticket, reply),
        // Another shard of this node said so, which owns the key by now: an error is the whole reply, and has no `END`.
        (Part::Only, Ok(error)) if reply::is_server_error(error) => {
            client.outbox.deliver(pending.to.ticket, error);
        }
        (Part::Only, Ok(values)) => client.outbox.deliver_joined(pending.to.ticket, [values, reply::END]),
        (Part::Whole | Part::Only, Err(_)) if pending.is_silent => {
            client.outbox.deliver(pending.to.ticket, b"");
        }
        (Part::Whole | Part::Only, Err(error)) => {
            let mut text = Vec::new();
            reply::error(&mut text, DialectError { error, dialect: pending.dialect });
            client.outbox.deliver(pending.to.ticket, &text);
        }
        (Part::Line(line), Ok(reply)) => settle_with(client, pending.to.ticket, line, reply),
        (Part::Line(line), Err(error)) => {
            settle(client, pending.to.ticket, line, b"", Some(error.text().into()));
        }
    }
}

/// Fills in one key of a line: its value or nothing, or an error for the line's end.
fn settle_with(client: &mut Connection, ticket: Ticket, line: u64, reply: &[u8]) {
    if reply::is_server_error(reply) {
        settle(client, ticket, line, b"", Some(reply.into()));
    } else {
        settle(client, ticket, line, reply, None);
    }
}

/// Fills in one key of a line, and the line's end if that was the last.
fn settle(client: &mut Connection, ticket: Ticket, line: u64, reply: &[u8], failed: Option<Text>) {
    client.outbox.deliver(ticket, reply);
    if let Some((end, failed)) = client.lines.settle(line, failed) {
        client.outbox.deliver(end, end_of_line(failed.as_deref()));
    }
}

/// Whether a request is one key of a line: its reply has no end of its own.
pub fn is_part_of_line(request: &Request<'_>) -> bool {
    let is_get = matches!(request.command, Command::Get { .. } | Command::GetAndTouch { .. });
    is_get && request.dialect == Dialect::Text
}

/// One key of a line as a line of its own.
fn write_part(out: &mut Vec<u8>, request: &Request<'_>) {
    assert!(request.key.len() <= KEY_SIZE_MAX);
    match request.command {
        Command::Get { with_cas } => client::get_one(out, request.key, with_cas),
        Command::GetAndTouch { exptime, with_cas } => {
            client::get_and_touch(out, exptime, request.key, with_cas);
        }
        command => unreachable!("{command:?} is no key of a line"),
    }
}

fn end_of_line(failed: Option<&[u8]>) -> &[u8] {
    failed.unwrap_or(reply::END)
}

/// What a client is told.
fn told(failure: Failure) -> ErrorReply {
    match failure {
        Failure::NoRing => ErrorReply::NoRing,
        Failure::NoCredit => ErrorReply::OwnerOverloaded,
        Failure::OwnerGone => ErrorReply::OwnerGone,
        Failure::Expired => ErrorReply::OwnerSilent,
        Failure::Busy => ErrorReply::OwnerBusy,
        Failure::TooLarge => ErrorReply::TooLarge,
        Failure::Unsettled | Failure::Disagreement => ErrorReply::RingUnsettled,
    }
}

#[cfg(test)]
mod tests {
    use slabring_engine::Seconds;
    use slabring_protocol::Parser;
    use slabring_reactor::ConnectionId;

    use super::*;

    fn text(outbox: &mut Outbox) -> String {
        String::from_utf8(outbox.take_ready(Vec::new())).unwrap()
    }

    #[test]
    fn a_line_ends_when_its_last_key_is_answered() {
        let (mut lines, mut outbox) = (Lines::default(), Outbox::default());
        let (first, second) = (lines.expect(), lines.expect());
        lines.end(&mut outbox);
        assert!(lines.settle(second, None).is_none());
        let (end, failed) = lines.settle(first, None).unwrap();
        assert!(failed.is_none() && lines.lines.is_empty());
        outbox.deliver(end, b"END\r\n");
        assert_eq!(text(&mut outbox), "END\r\n");
    }

    #[test]
    fn a_key_that_another_shard_answers_is_one_of_its_line_once() {
        let (mut lines, mut outbox) = (Lines::default(), Outbox::default());
        let tickets: Vec<_> = (0..3).map(|_| outbox.expect()).collect();
        for &ticket in &tickets[..2] {
            let line = lines.expect();
            lines.posted.push_back((ticket, line));
        }
        lines.end(&mut outbox);
        assert_eq!(lines.take_posted(tickets[2]), None);
        let settled: Vec<_> = tickets[..2]
            .iter()
            .rev()
            .map(|&ticket| {
                let line = lines.take_posted(ticket).unwrap();
                lines.settle(line, None).is_some()
            })
            .collect();
        assert_eq!(settled, [false, true]);
        assert_eq!(lines.take_posted(tickets[0]), None);
        assert!(lines.lines.is_empty() && lines.posted.is_empty());
    }

    #[test]
    fn a_connection_asks_for_as_much_as_its_replies_are_small() {
        let mut lines = Lines::default();
        assert!(lines.expect_much(17) && !lines.expect_much(16));
        (0..60).for_each(|_| lines.learn(100));
        assert!(!lines.expect_much(4_096));
        lines.learn(OUTPUT_BYTES_HIGH);
        assert!(lines.expect_much(2) && !lines.expect_much(1), "one may always be asked for");
    }

    #[test]
    fn an_error_of_another_shard_is_the_whole_reply_to_a_get_of_one_key() {
        let id = ConnectionId { slot: 0, generation: 1 };
        let mut client = Connection::new(id, Parser::default(), Seconds(0));
        for said in ["SERVER_ERROR the key's copies do not answer\r\n", "VALUE k 0 1\r\nv\r\n", ""] {
            let to = ReturnAddress { connection: id, ticket: client.outbox.expect() };
            let pending = PendingReply {
                to,
                dialect: Dialect::Text,
                is_silent: false,
                part: Part::Only,
                is_large: false,
            };
            answer_later(&mut client, pending, Ok(said.as_bytes()));
            let end = if said.starts_with("SERVER_ERROR") { "" } else { "END\r\n" };
            assert_eq!(text(&mut client.outbox), format!("{said}{end}"));
        }
    }

    #[test]
    fn a_failure_takes_the_place_of_the_end_of_its_own_line_only() {
        let (mut lines, mut outbox) = (Lines::default(), Outbox::default());
        let failed = lines.expect();
        lines.end(&mut outbox);
        let good = lines.expect();
        lines.end(&mut outbox);
        assert!(matches!(lines.settle(good, None), Some((_, None))));
        let error: Text = Box::from(told(Failure::OwnerGone).text());
        assert!(matches!(lines.settle(failed, Some(error.clone())), Some((_, Some(told))) if told == error));
        assert!(lines.lines.is_empty());
    }

    #[test]
    fn a_line_that_failed_before_its_end_came_ends_at_once() {
        let (mut lines, mut outbox) = (Lines::default(), Outbox::default());
        let key = lines.expect();
        let error = told(Failure::NoRing).text();
        assert!(lines.settle(key, Some(error.into())).is_none());
        lines.end(&mut outbox);
        assert_eq!(text(&mut outbox), "SERVER_ERROR no ring yet\r\n");
        assert!(lines.lines.is_empty());
    }

    #[test]
    fn a_line_that_was_refused_in_the_middle_has_no_end_and_is_forgotten() {
        let (mut lines, mut outbox) = (Lines::default(), Outbox::default());
        let key = lines.expect();
        lines.abandon();
        assert!(lines.settle(key, None).is_none());
        assert!(lines.lines.is_empty());
        lines.end(&mut outbox);
        assert_eq!(text(&mut outbox), "END\r\n");
    }
}
