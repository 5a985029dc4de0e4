//! What a run measured, second by second and in all. Adds up what workers hand in; knows no clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::tally::Tally;
use crate::worker::INTERVAL_NS;

/// A last second that is shorter belongs to the one before.
const SECONDS_MIN: f64 = 0.1;

/// One second of a run.
#[derive(Clone, Copy, PartialEq, Default, Serialize, Deserialize, Debug)]
pub(crate) struct Interval {
    /// When it began, in seconds from the start of the measured part.
    pub(crate) start: f64,
    /// How long it was: the last may be short.
    pub(crate) seconds: f64,
    pub(crate) operations: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) errors: u64,
    pub(crate) wrong_values: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

impl Interval {
    fn of(number: u64, tally: &Tally) -> Self {
        let latency = tally.latency_where(|_| true);
        Self {
            start: number as f64 * (INTERVAL_NS as f64 / 1e9),
            seconds: INTERVAL_NS as f64 / 1e9,
            operations: tally.operations(),
            hits: tally.hits(),
            misses: tally.misses(),
            errors: tally.errors(),
            wrong_values: tally.wrong.total(),
            p50_ns: latency.value_at_quantile(0.5),
            p99_ns: latency.value_at_quantile(0.99),
            p999_ns: latency.value_at_quantile(0.999),
            max_ns: latency.max(),
        }
    }

    pub(crate) fn operations_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.operations as f64 / self.seconds } else { 0.0 }
    }

    /// Share of the keys asked for that were found, if any were.
    pub(crate) fn hit_ratio(&self) -> Option<f64> {
        let keys = self.hits + self.misses;
        (keys > 0).then(|| self.hits as f64 / keys as f64)
    }

    /// Adds what another machine measured in the same second. Percentiles cannot be added: the worse one stays.
    pub(crate) fn join(&mut self, other: &Self) {
        self.operations += other.operations;
        self.hits += other.hits;
        self.misses += other.misses;
        self.errors += other.errors;
        self.wrong_values += other.wrong_values;
        self.p50_ns = self.p50_ns.max(other.p50_ns);
        self.p99_ns = self.p99_ns.max(other.p99_ns);
        self.p999_ns = self.p999_ns.max(other.p999_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

/// Adds up the tallies of all workers.
pub(crate) struct Sum {
    pub(crate) total: Tally,
    /// Seconds that every worker is through with, in their order.
    pub(crate) intervals: Vec<Interval>,
    /// Seconds that some worker may still add to.
    open: BTreeMap<u64, Box<Tally>>,
    /// The second that each worker is in.
    at: Vec<u64>,
}

impl Sum {
    pub(crate) fn new(workers: usize, servers: usize) -> Self {
        assert!(workers > 0);
        Self {
            total: Tally::new(true, servers),
            intervals: Vec::new(),
            open: BTreeMap::new(),
            at: vec![0; workers],
        }
    }

    /// Adds what one worker measured in second `number`. Returns a tally that is not needed any more.
    pub(crate) fn add(&mut self, worker: usize, number: u64, tally: Box<Tally>) -> Option<Box<Tally>> {
        self.at[worker] = number + 1;
        let mut spare = match self.open.get_mut(&number) {
            Some(sum) => {
                sum.add(&tally);
                Some(tally)
            }
            None => {
                self.open.insert(number, tally);
                None
            }
        };
        let closed_below = self.at.iter().copied().min().unwrap_or(0);
        while let Some(first) = self.open.first_entry()
            && *first.key() < closed_below
        {
            let (number, tally) = first.remove_entry();
            self.close(number, &tally);
            spare = spare.or(Some(tally));
        }
        spare
    }

    fn close(&mut self, number: u64, tally: &Tally) {
        self.total.add(tally);
        self.intervals.push(Interval::of(number, tally));
    }

    /// When the last reply came, on the run's clock.
    pub(crate) fn last_reply_ns(&self) -> u64 {
        let open_ns = self.open.values().map(|tally| tally.last_reply_ns).max();
        self.total.last_reply_ns.max(open_ns.unwrap_or(0))
    }

    /// Everything, after all workers have ended. `elapsed` in seconds: where the last second ends.
    pub(crate) fn finish(mut self, elapsed: f64) -> (Tally, Vec<Interval>) {
        for (number, tally) in std::mem::take(&mut self.open) {
            self.close(number, &tally);
        }
        // A thread may have handed in nothing but its end.
        while self.intervals.last().is_some_and(|last| last.operations == 0 && last.start >= elapsed) {
            self.intervals.pop();
        }
        let Some(mut last) = self.intervals.pop() else { return (self.total, self.intervals) };
        last.seconds = (elapsed - last.start).clamp(0.0, last.seconds);
        match self.intervals.last_mut() {
            // Too short for a rate: the replies that were still under way at the end.
            Some(before) if last.seconds < SECONDS_MIN => {
                before.join(&last);
                before.seconds += last.seconds;
            }
            _ => self.intervals.push(last),
        }
        (self.total, self.intervals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;

    fn tally(count: u64, latency_ns: u64) -> Box<Tally> {
        let mut tally = Tally::new(false, 1);
        tally.kinds[Kind::Get.index()].answers = count;
        (0..count).for_each(|_| tally.measure(Kind::Get, 0, latency_ns, latency_ns));
        tally.flush();
        Box::new(tally)
    }

    #[test]
    fn a_second_is_closed_when_every_worker_is_behind_it() {
        let mut sum = Sum::new(2, 1);
        assert!(sum.add(0, 0, tally(3, 10)).is_none());
        assert!(sum.add(0, 1, tally(1, 10)).is_none());
        assert!(sum.intervals.is_empty());
        assert!(sum.add(1, 1, tally(5, 20)).is_some());
        assert_eq!(sum.intervals.iter().map(|interval| interval.operations).collect::<Vec<_>>(), [3, 6]);
        assert!(sum.add(0, 2, tally(2, 30)).is_none());
        let (total, intervals) = sum.finish(2.5);
        assert_eq!((total.operations(), intervals.len()), (11, 3));
        assert_eq!((intervals[1].max_ns, intervals[2].seconds), (20, 0.5));
    }
}
