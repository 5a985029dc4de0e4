//! What one thread counts and measures, and how threads are added up. Plain numbers; no clock.

use hdrhistogram::Histogram;
use slabring_protocol::client::{Reply, ReplyKind};

use crate::failure::excerpt;
use crate::requests::Kind;

/// Longest latency told apart from longer ones: 100 s in nanoseconds.
const LATENCY_NS_MAX: u64 = 100_000_000_000;
/// Digits of a latency that are kept: 0.1 % error at most.
const DIGITS: u8 = 3;

/// Counters and histograms of requests that were due in the measured part of a run.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) gets: u64,
    pub(crate) sets: u64,
    /// Keys found, and keys not found.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) stored: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) wrong_values: u64,
    /// Due in the open loop before the end, and never sent for want of a free connection.
    pub(crate) unsent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    /// When the last reply came, on the run's clock.
    pub(crate) last_reply_ns: u64,
    /// From when a request was due to its reply.
    pub(crate) get_latency: Histogram<u64>,
    pub(crate) set_latency: Histogram<u64>,
    /// From when it was sent. The same as the above in a closed loop, where it stays empty.
    pub(crate) service: Histogram<u64>,
    keeps_service: bool,
    batch: Batch,
}

/// Equal latencies one after the other: the replies of a pipeline that arrived together cost one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Batch {
    kind: Kind,
    latency_ns: u64,
    service_ns: u64,
    count: u64,
}

/// The reply's kind does not fit the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Misfit;

impl Tally {
    pub(crate) fn new(keeps_service: bool) -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("constant bounds that are valid");
        Self {
            gets: 0,
            sets: 0,
            hits: 0,
            misses: 0,
            stored: 0,
            errors: 0,
            first_error: None,
            wrong_values: 0,
            unsent: 0,
            sent_bytes: 0,
            received_bytes: 0,
            last_reply_ns: 0,
            get_latency: histogram(),
            set_latency: histogram(),
            service: histogram(),
            keeps_service,
            batch: Batch { kind: Kind::Get, latency_ns: 0, service_ns: 0, count: 0 },
        }
    }

    /// Requests answered, whatever the answer.
    pub(crate) fn operations(&self) -> u64 {
        self.gets + self.sets
    }

    /// Counts one answer. `bytes` is the reply, or the end of it.
    #[inline]
    pub(crate) fn count(&mut self, kind: Kind, keys: u32, reply: &Reply, bytes: &[u8]) -> Result<(), Misfit> {
        match (kind, reply.kind) {
            (Kind::Get, ReplyKind::Values) if reply.hits <= keys => {
                self.hits += u64::from(reply.hits);
                self.misses += u64::from(keys - reply.hits);
            }
            (Kind::Set, ReplyKind::Stored) => self.stored += 1,
            (_, ReplyKind::Error | ReplyKind::ClientError | ReplyKind::ServerError)
            | (Kind::Set, ReplyKind::NotStored | ReplyKind::Exists | ReplyKind::NotFound) => {
                self.count_error(bytes);
            }
            _ => return Err(Misfit),
        }
        match kind {
            Kind::Get => self.gets += 1,
            Kind::Set => self.sets += 1,
        }
        Ok(())
    }

    #[cold]
    fn count_error(&mut self, bytes: &[u8]) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| excerpt(bytes));
    }

    /// Measures one answer: `latency_ns` from when it was due, `service_ns` from when it was sent.
    #[inline]
    pub(crate) fn measure(&mut self, kind: Kind, latency_ns: u64, service_ns: u64) {
        let one = Batch { kind, latency_ns, service_ns, count: self.batch.count };
        if one == self.batch {
            self.batch.count += 1;
        } else {
            self.flush();
            self.batch = Batch { count: 1, ..one };
        }
    }

    /// Measures a request that waited so long in vain for its turn to be sent.
    pub(crate) fn wait_unanswered(&mut self, waited_ns: u64) {
        self.get_latency.saturating_record(waited_ns);
    }

    /// Brings the histograms up to date.
    pub(crate) fn flush(&mut self) {
        let Batch { kind, latency_ns, service_ns, count } = self.batch;
        self.batch.count = 0;
        if count == 0 {
            return;
        }
        let histogram = match kind {
            Kind::Get => &mut self.get_latency,
            Kind::Set => &mut self.set_latency,
        };
        histogram.saturating_record_n(latency_ns, count);
        if self.keeps_service {
            self.service.saturating_record_n(service_ns, count);
        }
    }

    /// Adds another thread's, which is flushed.
    pub(crate) fn add(&mut self, other: &Self) {
        assert!(other.batch.count == 0, "a thread flushes before it hands in");
        self.gets += other.gets;
        self.sets += other.sets;
        self.hits += other.hits;
        self.misses += other.misses;
        self.stored += other.stored;
        self.errors += other.errors;
        self.wrong_values += other.wrong_values;
        self.unsent += other.unsent;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.last_reply_ns = self.last_reply_ns.max(other.last_reply_ns);
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        self.get_latency += &other.get_latency;
        self.set_latency += &other.set_latency;
        self.service += &other.service;
    }

    /// Latency of gets and sets together.
    pub(crate) fn latency(&self) -> Histogram<u64> {
        let mut both = self.get_latency.clone();
        both += &self.set_latency;
        both
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
        let mut tally = Tally::new(true);
        let latencies = [5, 5, 5, 70, 5, 5, 900, 900, 900];
        for latency in latencies {
            tally.measure(Kind::Get, latency, latency / 5);
        }
        tally.measure(Kind::Set, 900, 180);
        tally.flush();
        for latency in [5, 70, 900] {
            let expected = latencies.iter().filter(|&&other| other == latency).count() as u64;
            assert_eq!(tally.get_latency.count_at(latency), expected);
        }
        assert_eq!((tally.set_latency.len(), tally.service.len()), (1, 10));
        assert_eq!(tally.latency().len(), 10);
    }

    #[test]
    fn a_sum_holds_what_its_parts_held() {
        let (mut one, mut two) = (Tally::new(false), Tally::new(false));
        one.count(Kind::Get, 3, &reply(ReplyKind::Values, 1), b"").unwrap();
        one.measure(Kind::Get, 10, 10);
        two.count(Kind::Set, 1, &reply(ReplyKind::Stored, 0), b"").unwrap();
        two.count(Kind::Set, 1, &reply(ReplyKind::ServerError, 0), b"SERVER_ERROR full\r\n").unwrap();
        two.measure(Kind::Set, 20, 20);
        one.flush();
        two.flush();
        one.add(&two);
        assert_eq!((one.gets, one.sets, one.hits, one.misses, one.stored, one.errors), (1, 2, 1, 2, 1, 1));
        assert_eq!(one.first_error.as_deref(), Some("SERVER_ERROR full"));
        assert_eq!((one.latency().len(), one.latency().max()), (2, 20));
        assert!(one.service.is_empty());
    }

    #[test]
    fn answers_to_other_questions_are_misfits() {
        let mut tally = Tally::new(false);
        for (kind, answer, hits) in [
            (Kind::Get, ReplyKind::Stored, 0),
            (Kind::Set, ReplyKind::Values, 0),
            (Kind::Get, ReplyKind::Values, 2),
            (Kind::Set, ReplyKind::Number(7), 0),
        ] {
            assert_eq!(tally.count(kind, 1, &reply(answer, hits), b""), Err(Misfit), "{kind:?} {answer:?}");
        }
        assert_eq!(tally.operations(), 0);
    }

    #[test]
    fn a_latency_beyond_the_scale_is_kept_as_the_longest() {
        let mut tally = Tally::new(false);
        tally.measure(Kind::Get, u64::MAX, 0);
        tally.flush();
        assert!(tally.get_latency.max() >= LATENCY_NS_MAX);
    }
}
