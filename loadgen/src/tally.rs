//! What one thread counts and measures, and how threads and machines are added up. Plain numbers; no clock.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use slabring_protocol::client::{Reply, ReplyKind};

use crate::failure::excerpt;
use crate::kind::Kind;
use crate::packed;
use crate::verify::{EXAMPLES_MAX, Wrong};

/// Longest latency told apart from longer ones: 100 s in nanoseconds.
const LATENCY_NS_MAX: u64 = 100_000_000_000;
/// Digits of a latency that are kept: 0.1 % error at most.
const DIGITS: u8 = 3;

/// Counters and histograms of requests that were due in a measured part of a run.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct Tally {
    pub(crate) kinds: Vec<Count>,
    pub(crate) first_error: Option<String>,
    pub(crate) wrong: Wrong,
    /// Wrong values in words, the first of them.
    pub(crate) wrong_examples: Vec<String>,
    /// Due in the open loop before the end, and never sent for want of a free connection.
    pub(crate) unsent: u64,
    /// Sent and without an answer when the run ended early.
    #[serde(default)]
    pub(crate) unanswered: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// When the last reply came, or was waited for no longer, on the run's clock.
    pub(crate) last_reply_ns: u64,
    /// From when a request was due to its reply, by kind; only of kinds that came.
    #[serde(with = "packed::list")]
    pub(crate) latency: Vec<Option<Box<Histogram<u64>>>>,
    /// From when it was sent. The same as the above in a closed loop, where it stays empty.
    #[serde(with = "packed::one")]
    pub(crate) service: Histogram<u64>,
    /// How late the client itself sent what was due.
    #[serde(with = "packed::one")]
    pub(crate) lag: Histogram<u64>,
    /// Where there are several servers, the requests of each.
    pub(crate) servers: Vec<ServerTally>,
    keeps_service: bool,
    keeps_servers: bool,
    #[serde(skip)]
    batch: Batch,
}

/// Answers to one kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Debug)]
pub(crate) struct Count {
    pub(crate) answers: u64,
    /// Keys that were there, or stores that took place.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) errors: u64,
}

/// Requests of one of several servers.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(crate) struct ServerTally {
    pub(crate) answers: u64,
    #[serde(with = "packed::one")]
    pub(crate) latency: Histogram<u64>,
}

/// Equal latencies one after the other: the replies of a pipeline that arrived together cost one record.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Batch {
    kind: Kind,
    server: u16,
    latency_ns: u64,
    service_ns: u64,
    count: u64,
}

/// The reply's kind does not fit the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Misfit;

impl Count {
    fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.hits += other.hits;
        self.misses += other.misses;
        self.errors += other.errors;
    }
}

impl ServerTally {
    pub(crate) fn new() -> Self {
        Self { answers: 0, latency: histogram() }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.latency += &other.latency;
    }
}

/// An empty histogram of the range and precision that all have.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds that are valid")
}

impl Tally {
    /// `keeps_service`: due and sent are two times. `servers`: how many there are.
    pub(crate) fn new(keeps_service: bool, servers: usize) -> Self {
        let keeps_servers = servers > 1;
        let servers = if keeps_servers { servers } else { 0 };
        Self {
            kinds: vec![Count::default(); Kind::ALL.len()],
            first_error: None,
            wrong: Wrong::default(),
            wrong_examples: Vec::new(),
            unsent: 0,
            unanswered: 0,
            sent_bytes: 0,
            received_bytes: 0,
            last_reply_ns: 0,
            latency: vec![None; Kind::ALL.len()],
            service: histogram(),
            lag: histogram(),
            servers: vec![ServerTally::new(); servers],
            keeps_service,
            keeps_servers,
            batch: Batch::default(),
        }
    }

    /// Empties it and keeps its memory.
    pub(crate) fn clear(&mut self) {
        assert!(self.batch.count == 0, "a thread flushes before it hands in");
        self.kinds.fill(Count::default());
        self.first_error = None;
        self.wrong = Wrong::default();
        self.wrong_examples.clear();
        (self.unsent, self.unanswered) = (0, 0);
        (self.sent_bytes, self.received_bytes, self.last_reply_ns) = (0, 0, 0);
        self.latency.iter_mut().flatten().for_each(|histogram| histogram.reset());
        self.service.reset();
        self.lag.reset();
        for server in &mut self.servers {
            server.answers = 0;
            server.latency.reset();
        }
    }

    pub(crate) fn of(&self, kind: Kind) -> &Count {
        &self.kinds[kind.index()]
    }

    fn sum(&self, which: impl Fn(Kind) -> bool, what: impl Fn(&Count) -> u64) -> u64 {
        Kind::ALL.into_iter().filter(|&kind| which(kind)).map(|kind| what(self.of(kind))).sum()
    }

    /// Requests answered, whatever the answer.
    pub(crate) fn operations(&self) -> u64 {
        self.sum(|_| true, |count| count.answers)
    }

    /// Answers to requests for values.
    pub(crate) fn gets(&self) -> u64 {
        self.sum(Kind::reads, |count| count.answers)
    }

    /// Answers to requests that store.
    pub(crate) fn sets(&self) -> u64 {
        self.sum(Kind::stores, |count| count.answers)
    }

    /// Keys found, of those asked for.
    pub(crate) fn hits(&self) -> u64 {
        self.sum(Kind::reads, |count| count.hits)
    }

    /// Keys not found, of those asked for.
    pub(crate) fn misses(&self) -> u64 {
        self.sum(Kind::reads, |count| count.misses)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.sum(|_| true, |count| count.errors)
    }

    pub(crate) fn stored(&self) -> u64 {
        self.sum(Kind::stores, |count| count.hits)
    }

    /// Counts one answer to a request for `keys` keys. `bytes` is the reply, or the end of it. Says whether it did what
    /// was asked.
    #[inline]
    pub(crate) fn count(
        &mut self,
        kind: Kind,
        keys: u32,
        reply: &Reply,
        bytes: &[u8],
    ) -> Result<bool, Misfit> {
        let count = &mut self.kinds[kind.index()];
        let (hits, misses) = match (kind, reply.kind) {
            (Kind::Get | Kind::Gets | Kind::Gat, ReplyKind::Values) if reply.hits <= keys => {
                (reply.hits, keys - reply.hits)
            }
            (kind, ReplyKind::Stored) if kind.stores() => (1, 0),
            (Kind::Delete, ReplyKind::Deleted)
            | (Kind::Touch, ReplyKind::Touched)
            | (Kind::Incr | Kind::Decr, ReplyKind::Number(_)) => (1, 0),
            (kind, ReplyKind::MetaDone) if !kind.reads() => (1, 0),
            // A meta touch is a get that shows nothing.
            (Kind::Touch, ReplyKind::Values) => (0, 1),
            (Kind::Delete | Kind::Touch | Kind::Incr | Kind::Decr, ReplyKind::NotFound) => (0, 1),
            (
                Kind::Add | Kind::Replace | Kind::Append | Kind::Prepend | Kind::Cas,
                ReplyKind::NotStored | ReplyKind::Exists | ReplyKind::NotFound,
            ) => (0, 1),
            (_, ReplyKind::Error | ReplyKind::ClientError | ReplyKind::ServerError)
            | (Kind::Set, ReplyKind::NotStored | ReplyKind::Exists | ReplyKind::NotFound) => {
                count.answers += 1;
                self.count_error(kind, bytes);
                return Ok(false);
            }
            _ => return Err(Misfit),
        };
        count.answers += 1;
        count.hits += u64::from(hits);
        count.misses += u64::from(misses);
        Ok(misses == 0)
    }

    #[cold]
    fn count_error(&mut self, kind: Kind, bytes: &[u8]) {
        self.kinds[kind.index()].errors += 1;
        self.first_error.get_or_insert_with(|| excerpt(bytes));
    }

    /// Measures one answer: `latency_ns` from when it was due, `service_ns` from when it was sent.
    #[inline]
    pub(crate) fn measure(&mut self, kind: Kind, server: u16, latency_ns: u64, service_ns: u64) {
        let one = Batch { kind, server, latency_ns, service_ns, count: self.batch.count };
        if one == self.batch {
            self.batch.count += 1;
        } else {
            self.flush();
            self.batch = Batch { count: 1, ..one };
        }
    }

    /// Counts a request that is waited for no longer, and measures it as if its answer had come now: it took longer.
    pub(crate) fn give_up(&mut self, kind: Kind, server: u16, latency_ns: u64, service_ns: u64) {
        self.unanswered += 1;
        self.latency_of(kind).saturating_record(latency_ns);
        if self.keeps_service {
            self.service.saturating_record(service_ns);
        }
        if self.keeps_servers {
            self.server(server.into()).latency.saturating_record(latency_ns);
        }
    }

    /// Measures requests that waited so long in vain for their turn to be sent.
    pub(crate) fn wait_unsent(&mut self, waited_ns: u64, count: u64) {
        self.unsent += count;
        self.latency_of(Kind::Get).saturating_record_n(waited_ns, count);
    }

    /// Measures how late a request was sent for reasons of this client's.
    #[inline]
    pub(crate) fn late(&mut self, ns: u64) {
        self.lag.saturating_record(ns);
    }

    /// Brings the histograms up to date.
    pub(crate) fn flush(&mut self) {
        let Batch { kind, server, latency_ns, service_ns, count } = self.batch;
        self.batch.count = 0;
        if count == 0 {
            return;
        }
        self.latency_of(kind).saturating_record_n(latency_ns, count);
        if self.keeps_service {
            self.service.saturating_record_n(service_ns, count);
        }
        if self.keeps_servers {
            let server = self.server(server.into());
            server.answers += count;
            server.latency.saturating_record_n(latency_ns, count);
        }
    }

    /// One of several servers, which may have joined since the run began.
    #[inline]
    fn server(&mut self, number: usize) -> &mut ServerTally {
        if number >= self.servers.len() {
            self.servers.resize_with(number + 1, ServerTally::new);
        }
        &mut self.servers[number]
    }

    #[inline]
    fn latency_of(&mut self, kind: Kind) -> &mut Histogram<u64> {
        self.latency[kind.index()].get_or_insert_with(|| Box::new(histogram()))
    }

    /// Adds another thread's, which is flushed.
    pub(crate) fn add(&mut self, other: &Self) {
        assert!(other.batch.count == 0, "a thread flushes before it hands in");
        for (own, others) in self.kinds.iter_mut().zip(&other.kinds) {
            own.add(others);
        }
        self.wrong.add(&other.wrong);
        let room = EXAMPLES_MAX - self.wrong_examples.len().min(EXAMPLES_MAX);
        self.wrong_examples.extend(other.wrong_examples.iter().take(room).cloned());
        self.unsent += other.unsent;
        self.unanswered += other.unanswered;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.last_reply_ns = self.last_reply_ns.max(other.last_reply_ns);
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        for (at, others) in other.latency.iter().enumerate() {
            if let Some(others) = others {
                *self.latency_of(Kind::ALL[at]) += &**others;
            }
        }
        self.service += &other.service;
        self.lag += &other.lag;
        for (number, others) in other.servers.iter().enumerate() {
            self.server(number).add(others);
        }
    }

    /// Latency of all kinds that `which` takes.
    pub(crate) fn latency_where(&self, which: impl Fn(Kind) -> bool) -> Histogram<u64> {
        let mut sum = histogram();
        for (kind, latency) in Kind::ALL.into_iter().zip(&self.latency) {
            if let (true, Some(latency)) = (which(kind), latency) {
                sum += &**latency;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(kind: ReplyKind, hits: u32) -> Reply {
        Reply { kind, hits, value_bytes: 0 }
    }

    #[test]
    fn batches_count_each_latency_as_often_as_it_came() {
        let mut tally = Tally::new(true, 1);
        let latencies = [5, 5, 5, 70, 5, 5, 900, 900, 900];
        for latency in latencies {
            tally.measure(Kind::Get, 0, latency, latency / 5);
        }
        tally.measure(Kind::Set, 0, 900, 180);
        tally.flush();
        let gets = tally.latency_where(Kind::reads);
        for latency in [5, 70, 900] {
            let expected = latencies.iter().filter(|&&other| other == latency).count() as u64;
            assert_eq!(gets.count_at(latency), expected);
        }
        assert_eq!((tally.latency_where(Kind::stores).len(), tally.service.len()), (1, 10));
        assert_eq!(tally.latency_where(|_| true).len(), 10);
    }

    #[test]
    fn a_sum_holds_what_its_parts_held_also_after_a_journey_as_text() {
        let (mut one, mut two) = (Tally::new(false, 2), Tally::new(false, 2));
        assert_eq!(one.count(Kind::Get, 3, &reply(ReplyKind::Values, 1), b""), Ok(false));
        one.measure(Kind::Get, 1, 10, 10);
        assert_eq!(two.count(Kind::Set, 1, &reply(ReplyKind::Stored, 0), b""), Ok(true));
        two.count(Kind::Set, 1, &reply(ReplyKind::ServerError, 0), b"SERVER_ERROR full\r\n").unwrap();
        two.measure(Kind::Set, 0, 20, 20);
        one.flush();
        two.flush();
        let journey: Tally = serde_json::from_str(&serde_json::to_string(&two).unwrap()).unwrap();
        one.add(&journey);
        assert_eq!((one.gets(), one.sets(), one.hits(), one.misses()), (1, 2, 1, 2));
        assert_eq!((one.stored(), one.errors(), one.operations()), (1, 1, 3));
        assert_eq!(one.first_error.as_deref(), Some("SERVER_ERROR full"));
        let all = one.latency_where(|_| true);
        assert_eq!((all.len(), all.max()), (2, 20));
        assert_eq!((one.servers[0].latency.max(), one.servers[1].answers), (20, 1));
        assert!(one.service.is_empty());
        one.clear();
        assert_eq!((one.operations(), one.latency_where(|_| true).len()), (0, 0));
    }

    #[test]
    fn answers_to_other_questions_are_misfits() {
        let mut tally = Tally::new(false, 1);
        for (kind, answer, hits) in [
            (Kind::Get, ReplyKind::Stored, 0),
            (Kind::Set, ReplyKind::Values, 0),
            (Kind::Get, ReplyKind::Values, 2),
            (Kind::Set, ReplyKind::Number(7), 0),
            (Kind::Delete, ReplyKind::Stored, 0),
        ] {
            assert_eq!(tally.count(kind, 1, &reply(answer, hits), b""), Err(Misfit), "{kind:?} {answer:?}");
        }
        assert_eq!(tally.operations(), 0);
    }

    #[test]
    fn a_latency_beyond_the_scale_is_kept_as_the_longest() {
        let mut tally = Tally::new(false, 1);
        tally.measure(Kind::Get, 0, u64::MAX, 0);
        tally.flush();
        assert!(tally.latency_where(|_| true).max() >= LATENCY_NS_MAX);
    }
}
