//! Runs into medians, and medians into a table or JSON. Measures nothing.

use std::fmt;

use serde::Serialize;

use super::scenario::Rival;
use crate::median::median;

/// More than this of a CPU taken by other processes spoils a comparison.
const OTHERS_CPU_SHARE_MAX: f64 = 0.1;

/// One run of one server.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Run {
    #[serde(serialize_with = "as_word")]
    pub(crate) server: Rival,
    pub(crate) round: u32,
    pub(crate) operations_per_second: f64,
    /// User and system time of the server per request.
    pub(crate) server_cpu_us_per_op: f64,
    pub(crate) client_cpu_us_per_op: f64,
    /// Share of its CPU that the load generator used: near 1 it may be what limits.
    pub(crate) client_cpu_share: f64,
    /// What everything else on the machine used meanwhile, in CPUs.
    pub(crate) others_cpu_share: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
}

/// All runs of one scenario, and what they come to.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Outcome {
    pub(crate) scenario: String,
    /// Requests per server CPU second of Slabring over those of each other server.
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) runs: Vec<Run>,
}

/// How Slabring compares with one other server.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Ratio {
    #[serde(serialize_with = "as_word")]
    pub(crate) over: Rival,
    /// One for each round, in their order.
    pub(crate) rounds: Vec<f64>,
    pub(crate) median: f64,
}

/// Everything measured.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Comparison {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) connections: u32,
    pub(crate) value_bytes: u32,
    pub(crate) seconds: f64,
    pub(crate) rounds: u32,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Run {
    /// Whether other processes took so much that the run says little.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.others_cpu_share > OTHERS_CPU_SHARE_MAX
    }
}

impl Outcome {
    pub(crate) fn new(scenario: String, runs: Vec<Run>) -> Self {
        let others = [Rival::Memcached, Rival::Redis, Rival::Echo, Rival::TwoShards];
        let ratios = others.into_iter().filter_map(|over| Ratio::of(&runs, over)).collect();
        Self { scenario, ratios, runs }
    }

    fn ratio(&self, over: Rival) -> Option<&Ratio> {
        self.ratios.iter().find(|ratio| ratio.over == over)
    }

    fn median_of(&self, server: Rival, number: impl Fn(&Run) -> f64) -> Option<f64> {
        median(self.runs.iter().filter(|run| run.server == server).map(number).collect())
    }

    /// Of all runs of caches: where it is near 1, the load generator may have been the limit.
    fn busiest_client(&self) -> Option<f64> {
        let caches = self.runs.iter().filter(|run| run.server != Rival::Echo);
        caches.map(|run| run.client_cpu_share).reduce(f64::max)
    }

    /// How much CPU other processes took in the worst run.
    fn loudest_others(&self) -> Option<f64> {
        self.runs.iter().map(|run| run.others_cpu_share).reduce(f64::max)
    }
}

impl Ratio {
    /// Runs of one round share the machine's moods, so each is divided by its neighbour before the median is taken.
    fn of(runs: &[Run], over: Rival) -> Option<Self> {
        let of = |server| runs.iter().filter(move |run| run.server == server);
        let rounds: Vec<f64> = of(Rival::Slabring)
            .filter_map(|ours| {
                let theirs = of(over).find(|theirs| theirs.round == ours.round)?;
                Some(theirs.server_cpu_us_per_op / ours.server_cpu_us_per_op)
            })
            .collect();
        Some(Self { over, median: median(rounds.clone())?, rounds })
    }

    fn lowest(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// A column: its title and what stands in it.
type Column = (&'static str, fn(&Outcome) -> String);

const COLUMNS: [Column; 16] = [
    ("slabring op/s", |of| thousands(of.median_of(Rival::Slabring, |run| run.operations_per_second))),
    ("slabring CPU us/op", |of| decimals(of.median_of(Rival::Slabring, |run| run.server_cpu_us_per_op))),
    ("memcached CPU us/op", |of| decimals(of.median_of(Rival::Memcached, |run| run.server_cpu_us_per_op))),
    ("redis CPU us/op", |of| decimals(of.median_of(Rival::Redis, |run| run.server_cpu_us_per_op))),
    ("echo CPU us/op", |of| decimals(of.median_of(Rival::Echo, |run| run.server_cpu_us_per_op))),
    ("two shards CPU us/op", |of| decimals(of.median_of(Rival::TwoShards, |run| run.server_cpu_us_per_op))),
    ("over memcached", |of| times(of.ratio(Rival::Memcached))),
    ("over redis", |of| times(of.ratio(Rival::Redis))),
    ("of echo", |of| times(of.ratio(Rival::Echo))),
    ("over two shards", |of| times(of.ratio(Rival::TwoShards))),
    ("slabring p99 us", |of| microseconds(of.median_of(Rival::Slabring, |run| run.p99_ns as f64))),
    ("slabring p99.9 us", |of| microseconds(of.median_of(Rival::Slabring, |run| run.p999_ns as f64))),
    ("memcached p99.9 us", |of| microseconds(of.median_of(Rival::Memcached, |run| run.p999_ns as f64))),
    ("redis p99.9 us", |of| microseconds(of.median_of(Rival::Redis, |run| run.p999_ns as f64))),
    ("load CPU", |of| percent(of.busiest_client())),
    ("others' CPU", |of| percent(of.loudest_others())),
];

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, cpu, connections, value_bytes, seconds, rounds, .. } = self;
        writeln!(
            f,
            "{cpu}, {kernel}; one server thread on one CPU, load on another; {connections} connections,"
        )?;
        writeln!(
            f,
            "values of {value_bytes} B where nothing else is said; medians of {rounds} rounds of {seconds} s, servers taking turns;"
        )?;
        writeln!(f, "ratios of operations per CPU second of the server, the lowest round in parentheses.\n")?;
        let is_filled = |column: &&Column| self.outcomes.iter().any(|outcome| column.1(outcome) != NOTHING);
        let columns: Vec<_> = COLUMNS.iter().filter(is_filled).collect();
        write_row(f, "scenario", columns.iter().map(|column| column.0.into()))?;
        write_row(f, "---", columns.iter().map(|_| "---:".into()))?;
        for outcome in &self.outcomes {
            write_row(f, &outcome.scenario, columns.iter().map(|column| column.1(outcome)))?;
        }
        if self.outcomes.iter().filter_map(Outcome::loudest_others).any(|share| share > OTHERS_CPU_SHARE_MAX)
        {
            writeln!(f, "\nOther processes used the CPUs meanwhile: repeat this on an idle machine.")?;
        }
        Ok(())
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, first: &str, cells: impl Iterator<Item = String>) -> fmt::Result {
    writeln!(f, "| {first} | {} |", cells.collect::<Vec<_>>().join(" | "))
}

const NOTHING: &str = "-";

fn thousands(number: Option<f64>) -> String {
    number.map_or(NOTHING.into(), |number| format!("{:.0} k", number / 1e3))
}

fn decimals(number: Option<f64>) -> String {
    number.map_or(NOTHING.into(), |number| format!("{number:.2}"))
}

fn times(ratio: Option<&Ratio>) -> String {
    ratio.map_or(NOTHING.into(), |ratio| format!("{:.2}x ({:.2})", ratio.median, ratio.lowest()))
}

fn percent(number: Option<f64>) -> String {
    number.map_or(NOTHING.into(), |number| format!("{:.0} %", number * 100.0))
}

fn microseconds(ns: Option<f64>) -> String {
    ns.map_or(NOTHING.into(), |ns| format!("{:.0}", ns / 1e3))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn as_word<S: serde::Serializer>(server: &Rival, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(server.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(server: Rival, round: u32, server_cpu_us_per_op: f64) -> Run {
        Run {
            server,
            round,
            operations_per_second: 1e6 / server_cpu_us_per_op,
            server_cpu_us_per_op,
            client_cpu_us_per_op: 0.5,
            client_cpu_share: 0.25,
            others_cpu_share: 0.02,
            p50_ns: 1000,
            p99_ns: 2000,
            p999_ns: 3000,
        }
    }

    fn outcome() -> Outcome {
        let costs = [(1, 1.0, 2.0), (2, 4.0, 6.0), (3, 1.0, 3.0)];
        let runs = costs.iter().flat_map(|&(round, ours, theirs)| {
            [
                run(Rival::Slabring, round, ours),
                run(Rival::Memcached, round, theirs),
                run(Rival::Echo, round, 0.5),
            ]
        });
        Outcome::new("GET".into(), runs.collect())
    }

    #[test]
    fn a_ratio_is_taken_in_each_round_before_the_median() {
        let outcome = outcome();
        let over_memcached = outcome.ratio(Rival::Memcached).expect("it ran");
        assert_eq!(
            (over_memcached.rounds.as_slice(), over_memcached.median),
            ([2.0, 1.5, 3.0].as_slice(), 2.0)
        );
        assert_eq!(times(outcome.ratio(Rival::Memcached)), "2.00x (1.50)");
        assert_eq!(times(outcome.ratio(Rival::Echo)), "0.50x (0.12)");
        assert_eq!(outcome.ratio(Rival::Redis), None);
    }

    #[test]
    fn the_table_has_a_cell_for_every_column_and_no_column_for_those_who_did_not_run() {
        let alone = Outcome::new("SET".into(), vec![run(Rival::Memcached, 1, 2.0)]);
        let comparison = Comparison {
            kernel: "Linux".into(),
            cpu: "CPU".into(),
            connections: 50,
            value_bytes: 32,
            seconds: 3.0,
            rounds: 3,
            outcomes: vec![outcome(), alone],
        };
        let text = comparison.to_string();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 4);
        let cells = |row: &str| row.matches('|').count();
        assert!(rows.iter().all(|row| cells(row) == cells(rows[0])), "{text}");
        assert!(!rows[0].contains("redis") && rows[0].contains("echo"), "{text}");
        assert!(rows[3].starts_with("| SET | - | - | 2.00 | - | - |"), "{text}");
        assert!(serde_json::to_string(&comparison).unwrap().contains(r#""server":"echo""#));
    }
}
