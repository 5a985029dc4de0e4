//! The slowest single operations of a shard under churn: it grows, evicts, moves pages and sweeps meanwhile.
//! Time in which the kernel let other threads run is not counted; what the machine adds besides, interrupts above all, is
//! measured in the same loop and shown.

use std::fmt;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use anyhow::Context;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;
use slabring_engine::{Config, Counters, Delete, DeleteMode, Expiry, PolicyKind, Seconds, Shard, Store};
use slabring_reactor::thread::pin_to;

const START: Seconds = Seconds(1_700_000_000);
const OPERATIONS_PER_SECOND: u64 = 50_000;

/// As the server does: so many chunks in a turn, and here as many operations between two turns.
const SWEEP_CHUNKS: usize = 1024;
const OPERATIONS_PER_SWEEP: u64 = 1024;

/// Budget bytes per key of the key space: several times as many keys as there is room for.
const BYTES_PER_KEY: usize = 64;
const GET_PERCENT: u32 = 70;
const SET_PERCENT: u32 = 20;
/// One store in so many has a time to live, of at most so many seconds.
const EXPIRING_ONE_IN: u32 = 3;
const TTL_SECONDS_MAX: u32 = 120;

/// Values are of all magnitudes up to this, times the phase's scale, in quarters.
const VALUE_BITS: std::ops::Range<f64> = 4.0..10.0;
/// The sizes change with each third of the run, so that memory has to move from class to class.
const SCALE_QUARTERS: [usize; 3] = [4, 16, 2];
/// One value in so many is of this size: a chain of chunks.
const LARGE_ONE_IN: u32 = 10_000;
const LARGE_BYTES: usize = 700_000;

/// Rounds of plain arithmetic, about as long as an operation.
const CONTROL_ROUNDS: u64 = 256;
const SECOND_NS: u64 = 1_000_000_000;

/// An operation this long may have been interrupted by another thread, which is worth a look at the kernel's accounts.
const SUSPICIOUS_NS: u64 = 20_000;
/// On-CPU time, waiting time and time slices of the calling thread, in this order.
const SCHEDULE_ACCOUNT: &str = "/proc/thread-self/schedstat";

const _: () = assert!(GET_PERCENT + SET_PERCENT < 100);

const EXAMPLES: &str = "\
Examples:
  Ten million operations, some ten seconds:
    slabring-bench worst
  A hundred million on CPU 1:
    slabring-bench worst --operations 100000000 --cpu 1

Use an idle machine: what interrupts the control interrupts the operations, too.";

/// Times every single operation of a shard under churn and prints the slowest.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Gets, sets and deletes in all; a get that misses is followed by a set
    #[arg(long, value_name = "N", default_value = "10000000", value_parser = clap::value_parser!(u64).range(1..))]
    operations: u64,

    /// Budget in MiB
    #[arg(long, value_name = "MIB", default_value = "256", value_parser = clap::value_parser!(u32).range(2..=32 << 10))]
    memory: u32,

    /// Eviction policy
    #[arg(long, value_name = "P", default_value = "tinylfu")]
    policy: PolicyKind,

    /// Ask for huge pages
    #[arg(long)]
    huge_pages: bool,

    /// Pin to this CPU
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,

    /// The same seed does the same
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,

    /// The result as one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// What is timed apart.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Get,
    Set,
    Delete,
    Sweep,
    /// No operation of the shard, but as long: what the machine adds.
    Control,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Get, Self::Set, Self::Delete, Self::Sweep, Self::Control];

    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Sweep => "sweep of 1024 chunks",
            Self::Control => "control",
        }
    }
}

const _: () = assert!(SWEEP_CHUNKS == 1024);

/// Times of one kind of operation, in nanoseconds.
#[derive(Clone, PartialEq, Serialize, Debug)]
struct Times {
    kind: Kind,
    count: u64,
    mean_ns: f64,
    p50_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    p9999_ns: u64,
    max_ns: u64,
}

impl Times {
    fn of(kind: Kind, histogram: &Histogram<u64>) -> Self {
        let quantile = |quantile| histogram.value_at_quantile(quantile);
        Self {
            kind,
            count: histogram.len(),
            mean_ns: histogram.mean(),
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            p999_ns: quantile(0.999),
            p9999_ns: quantile(0.9999),
            max_ns: histogram.max(),
        }
    }
}

/// Everything measured, and what the shard went through meanwhile.
#[derive(Clone, PartialEq, Serialize, Debug)]
struct Report {
    times: Vec<Times>,
    items: u64,
    stores: u64,
    evictions: u64,
    reclaimed: u64,
    page_moves: u64,
    index_bytes: usize,
    /// Operations during which the kernel let another thread run, and for how long in all. Not part of the times.
    interrupted: u64,
    interrupted_ns: u64,
}

/// Churns and prints the result.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(cpu) = args.cpu {
        pin_to(cpu).with_context(|| format!("cannot pin to CPU {cpu}"))?;
    }
    let mut churn = Churn::new(args)?;
    for at in 0..args.operations {
        churn.step(at);
    }
    let report = churn.report();
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

struct Churn {
    shard: Shard,
    now: Seconds,
    keys: usize,
    operations: u64,
    random: SmallRng,
    value: Vec<u8>,
    histograms: [Histogram<u64>; Kind::ALL.len()],
    /// Waiting time of this thread as last read.
    waited_ns: u64,
    interrupted: u64,
    interrupted_ns: u64,
}

impl Churn {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let memory_bytes = (args.memory as usize) << 20;
        let Args { policy, huge_pages, seed, .. } = *args;
        let shard = Shard::new(&Config {
            policy,
            huge_pages,
            hash_seed: Some(seed),
            ..Config::with_memory(memory_bytes)
        })?;
        let histogram = Histogram::new_with_bounds(1, 10 * SECOND_NS, 3)?;
        Ok(Self {
            shard,
            now: START,
            keys: memory_bytes / BYTES_PER_KEY,
            operations: args.operations,
            random: SmallRng::seed_from_u64(seed),
            value: vec![b'v'; LARGE_BYTES],
            histograms: std::array::from_fn(|_| histogram.clone()),
            waited_ns: waited_ns(),
            interrupted: 0,
            interrupted_ns: 0,
        })
    }

    /// One operation, and what else is due.
    fn step(&mut self, at: u64) {
        if at % OPERATIONS_PER_SECOND == OPERATIONS_PER_SECOND - 1 {
            self.now.0 += 1;
        }
        if at.is_multiple_of(OPERATIONS_PER_SWEEP) {
            self.waited_ns = waited_ns();
            self.timed(Kind::Sweep, |shard, now| shard.sweep(now, SWEEP_CHUNKS).freed);
        }
        let key = self.key();
        let choice = self.random.random_range(0..100);
        if choice < GET_PERCENT {
            if !self.timed(Kind::Get, |shard, now| shard.get(now, &key).is_some()) {
                self.set(at, &key);
            }
        } else if choice < GET_PERCENT + SET_PERCENT {
            self.set(at, &key);
        } else {
            let delete = Delete { key: &key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
            self.timed(Kind::Delete, |shard, now| shard.delete(now, &delete));
        }
        self.timed(Kind::Control, |_, _| (0..CONTROL_ROUNDS).fold(at, |sum, round| black_box(sum ^ round)));
    }

    fn set(&mut self, at: u64, key: &[u8]) {
        let value_bytes = self.value_bytes(at);
        let expiry = match self.random.random_range(0..EXPIRING_ONE_IN) {
            0 => Expiry::At(Seconds(self.now.0 + self.random.random_range(1..=TTL_SECONDS_MAX))),
            _ => Expiry::Never,
        };
        let value = std::mem::take(&mut self.value);
        self.timed(Kind::Set, |shard, now| shard.store(now, &Store::set(key, &value[..value_bytes], expiry)));
        self.value = value;
    }

    fn timed<R>(&mut self, kind: Kind, operation: impl FnOnce(&mut Shard, Seconds) -> R) -> R {
        let start = Instant::now();
        let result = black_box(operation(&mut self.shard, self.now));
        let mut nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if nanoseconds >= SUSPICIOUS_NS {
            nanoseconds -= self.lost_to_others(nanoseconds);
        }
        self.histograms[kind as usize].saturating_record(nanoseconds.max(1));
        result
    }

    /// How much of an operation's time other threads had.
    fn lost_to_others(&mut self, nanoseconds: u64) -> u64 {
        let waited = waited_ns();
        let lost = waited.saturating_sub(std::mem::replace(&mut self.waited_ns, waited)).min(nanoseconds);
        self.interrupted += u64::from(lost > 0);
        self.interrupted_ns += lost;
        lost
    }

    /// Some keys are far more popular than others: half of the picks fall on an eighth of the keys.
    fn key(&mut self) -> [u8; 16] {
        let share = self.random.random::<f64>().powi(3);
        let number = floor(share * self.keys as f64);
        let mut key = *b"k000000000000000";
        let mut rest = number;
        for digit in key[1..].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
        key
    }

    fn value_bytes(&mut self, at: u64) -> usize {
        if self.random.random_range(0..LARGE_ONE_IN) == 0 {
            return LARGE_BYTES;
        }
        let phase = usize::try_from(at * 3 / self.operations).expect("one of three");
        floor(self.random.random_range(VALUE_BITS).exp2()) * SCALE_QUARTERS[phase] / 4
    }

    fn report(&self) -> Report {
        let Counters { items, total_items, evictions, reclaimed, page_moves, .. } = *self.shard.counters();
        let times = Kind::ALL.map(|kind| Times::of(kind, &self.histograms[kind as usize]));
        Report {
            times: times.to_vec(),
            items,
            stores: total_items,
            evictions,
            reclaimed,
            page_moves,
            index_bytes: self.shard.memory().index,
            interrupted: self.interrupted,
            interrupted_ns: self.interrupted_ns,
        }
    }
}

/// Nanoseconds for which this thread was ready to run and was not let; 0 where the kernel keeps no such account.
fn waited_ns() -> u64 {
    let account = fs::read_to_string(SCHEDULE_ACCOUNT).unwrap_or_default();
    account.split_whitespace().nth(1).and_then(|waited| waited.parse().ok()).unwrap_or(0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small and positive at every call"
)]
fn floor(number: f64) -> usize {
    debug_assert!((0.0..1e15).contains(&number));
    number as usize
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| operation | count | mean ns | p50 | p99 | p99.9 | p99.99 | max us |")?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        for times in &self.times {
            let Times { kind, count, mean_ns, p50_ns, p99_ns, p999_ns, p9999_ns, max_ns } = times;
            let (name, max_us) = (kind.name(), *max_ns as f64 / 1e3);
            writeln!(
                f,
                "| {name} | {count} | {mean_ns:.0} | {p50_ns} | {p99_ns} | {p999_ns} | {p9999_ns} | {max_us:.1} |"
            )?;
        }
        let Self { items, stores, evictions, reclaimed, page_moves, index_bytes, .. } = self;
        writeln!(
            f,
            "\n{items} items at the end of {stores} stores; {evictions} evicted, {reclaimed} expired ones freed, \
             {page_moves} pages moved; index grown to {index_bytes} bytes."
        )?;
        let (interrupted, lost_ms) = (self.interrupted, self.interrupted_ns as f64 / 1e6);
        writeln!(
            f,
            "Other threads had {lost_ms:.1} ms of {interrupted} operations, which is not counted above."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(operations: u64) -> Report {
        let policy = PolicyKind::Clock;
        let args = Args { operations, memory: 4, policy, huge_pages: false, cpu: None, seed: 1, json: false };
        let mut churn = Churn::new(&args).unwrap();
        (0..operations).for_each(|at| churn.step(at));
        churn.report()
    }

    #[test]
    fn every_operation_is_timed_and_the_shard_goes_through_everything() {
        let report = report(200_000);
        let count = |kind: Kind| report.times[kind as usize].count;
        assert_eq!(count(Kind::Control), 200_000);
        assert_eq!(count(Kind::Sweep), 200_000_u64.div_ceil(OPERATIONS_PER_SWEEP));
        assert!(count(Kind::Get) + count(Kind::Set) + count(Kind::Delete) > 200_000);
        assert!(report.evictions > 0 && report.reclaimed > 0 && report.stores > 0, "{report:?}");
        assert!(
            report.times.iter().all(|times| times.p50_ns <= times.p9999_ns && times.p9999_ns <= times.max_ns)
        );
        assert_eq!(report.to_string().lines().filter(|line| line.starts_with('|')).count(), 7);
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let done = |report: Report| (report.items, report.stores, report.evictions, report.page_moves);
        assert_eq!(done(report(20_000)), done(report(20_000)));
    }
}
