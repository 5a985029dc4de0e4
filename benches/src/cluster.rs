//! What it costs that several nodes are one cache: starts and stops clusters on loopback, all nodes on one CPU, clients on another.

mod cost;
mod flips;
mod nodes;
mod report;
mod resync;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::ValueEnum;

use crate::load::{Load, seconds};
use crate::machine;
use crate::process::{beside_this, is_installed};
use report::Report;

const EXAMPLES: &str = "\
Examples:
  Everything, about fifteen minutes:
    cargo build --release --workspace && target/release/slabring-bench cluster
  What `sync` costs, longer:
    slabring-bench cluster --parts cost --only sync --seconds 5 --rounds 5
  A try-out of what a node that returns costs:
    slabring-bench cluster --parts resync --gib 0.1

Use an idle machine: every other process changes the result.";

/// Memory of a node beyond what it is filled with.
const SPARE_MIB: u64 = 256;

/// A prefill is tried so often: on a busy machine, or while roles are levelled, a write may be refused.
const PREFILLS_MAX: u32 = 3;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Part {
    /// CPU and throughput of each mode against as many nodes that do not know each other
    Cost,
    /// A node that returns and is filled
    Resync,
    /// Keys that change hands
    Flips,
}

/// Measures clusters of three nodes against three that do not know each other, how long a node that returns takes, and how long keys that change hands
/// are not served, and prints tables.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to measure [default: all that this machine has the programs for]
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,

    /// Of `cost`, only modes with this in their name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,

    /// The slabring program [default: beside this one]
    #[arg(long, value_name = "PATH")]
    slabring: Option<PathBuf>,

    /// The slabring-load program [default: beside this one]
    #[arg(long, value_name = "PATH")]
    load: Option<PathBuf>,

    /// The etcd program
    #[arg(long, value_name = "PATH", default_value = "etcd")]
    etcd: String,

    /// Seconds of each run of `cost`
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    seconds: f64,

    /// How often each side of `cost` has its turn
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How often a run of `cost` is repeated that other processes have spoiled
    #[arg(long, value_name = "N", default_value = "2")]
    again: u32,

    /// Requests in flight on a connection, in `cost`
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,16")]
    depths: Vec<u32>,

    /// GiB that a node holds which returns, in `resync`
    #[arg(long, value_name = "GIB", default_value = "1", value_parser = gibibytes)]
    gib: f64,

    /// CPU of the nodes
    #[arg(long, value_name = "N", default_value = "0")]
    server_cpu: usize,

    /// CPU of the load
    #[arg(long, value_name = "N", default_value = "1")]
    load_cpu: usize,

    /// The result as one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

impl Args {
    /// What is to be measured. What was named must be possible, or minutes would be spent on half of it.
    fn parts(&self) -> anyhow::Result<Vec<Part>> {
        let is_possible = |part: Part| part == Part::Cost || is_installed(&self.etcd);
        let wanted = if self.parts.is_empty() { Part::value_variants() } else { &self.parts[..] };
        let (possible, missing): (Vec<_>, Vec<_>) =
            wanted.iter().copied().partition(|&part| is_possible(part));
        for part in missing {
            ensure!(self.parts.is_empty(), "cannot measure {part:?}: cannot run {}; see --etcd", self.etcd);
            eprintln!("SKIPPED {part:?}: cannot run {}", self.etcd);
        }
        Ok(possible)
    }

    fn slabring(&self) -> String {
        beside_this(self.slabring.as_ref(), "slabring")
    }

    /// What a node holds that returns.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "GIB_MAX is far below")]
    fn bytes(&self) -> u64 {
        (self.gib * (1_u64 << 30) as f64) as u64
    }

    /// Memory of a node, so that nothing is evicted: what it is filled with and half of that.
    fn memory_mib(&self) -> u64 {
        SPARE_MIB + (self.bytes() >> 20) * 3 / 2
    }
}

/// Measures and prints the result.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let parts = args.parts()?;
    let is_wanted = |part: Part| parts.contains(&part);
    let report = Report {
        kernel: machine::kernel(),
        cpu: machine::cpu(),
        seconds: args.seconds,
        rounds: args.rounds,
        costs: if is_wanted(Part::Cost) { cost::measure(args)? } else { Vec::new() },
        resync: is_wanted(Part::Resync).then(|| resync::measure(args)).transpose()?,
        changes: if is_wanted(Part::Flips) { flips::measure(args)? } else { Vec::new() },
    };
    match args.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => print!("{report}"),
    }
    Ok(())
}

/// The command line of a load.
fn load_words(args: &Args, words: &[String]) -> Vec<String> {
    let program = beside_this(args.load.as_ref(), "slabring-load");
    [program, "--quiet".into(), "--json".into()].into_iter().chain(words.iter().cloned()).collect()
}

/// Runs a load to its end.
fn load(args: &Args, words: &[String]) -> anyhow::Result<Load> {
    Load::run(args.load_cpu, &load_words(args, words), Duration::from_secs_f64(args.seconds))
}

/// Stores all keys of a load.
fn prefill(args: &Args, words: &[String]) -> anyhow::Result<()> {
    let own = ["--prefill", "--requests", "1"].map(str::to_owned);
    let words = [&own, words].concat();
    let mut filled = load(args, &words);
    for _ in 1..PREFILLS_MAX {
        filled = filled.or_else(|_| load(args, &words));
    }
    filled.map(drop)
}

/// Reads a size from a command line.
fn gibibytes(text: &str) -> Result<f64, String> {
    const GIB_MAX: f64 = 1024.0;
    match text.parse() {
        Ok(gib) if gib > 0.0 && gib <= GIB_MAX => Ok(gib),
        _ => Err(format!("expected GiB, above 0, at most {GIB_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_and_cannot_be_measured_is_refused_and_the_rest_is_left_out() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let parts = |line: &str| {
            let words = "cluster --etcd /nonexistent/etcd".split(' ').chain(line.split_whitespace());
            <Line as clap::Parser>::try_parse_from(words).unwrap().args.parts()
        };
        for named in ["--parts flips", "--parts cost,resync"] {
            assert!(
                parts(named).unwrap_err().to_string().contains("cannot run /nonexistent/etcd"),
                "{named}"
            );
        }
        assert_eq!(parts("--parts cost").unwrap(), [Part::Cost]);
        assert_eq!(parts("").unwrap(), [Part::Cost]);
    }

    #[test]
    fn sizes_are_positive_and_bounded() {
        assert_eq!(gibibytes("0.5"), Ok(0.5));
        assert!(["0", "-1", "1e9", "x", "nan"].iter().all(|text| gibibytes(text).is_err()));
    }
}
