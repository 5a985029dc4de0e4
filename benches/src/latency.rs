//! Latency at given rates, servers taking turns: what a user sees of a cache that is not at its limit.

pub(crate) mod contender;
mod page;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::load::{Load, seconds};
use crate::machine;
use crate::median::median;
use crate::process::{Process, beside_this, free_port};
use contender::Contender;

const EXAMPLES: &str = "\
Examples:
  slabring, memcached and redis-server, as far as they are installed, with a page to look at:
    slabring-bench latency --html latency.html
  Other servers; {port} is where they are to listen on 127.0.0.1:
    slabring-bench latency --servers slabring --server 'old=./slabring-0.1 -p {port} -m 1024' \\
      --server 'threads=memcached -p {port} -m 1024 -t 4'
  Rates of one's own, GETs of 1 KiB with one SET to nine, longer:
    slabring-bench latency --rates 20000,50000,100000 --seconds 20 --load-args=--value-size=1024 --load-args=--ratio=1:9

Use an idle machine: every other process shows up in the tail.";

/// Memory of each server: more than the keys fill.
const SERVER_MEGABYTES: u32 = 1024;

/// What part of the slowest server's saturation is tried where no rates are given, in percent.
const SHARES: [u32; 6] = [10, 30, 50, 70, 80, 90];

/// Runs an open loop at each rate against each server in turn and prints the percentiles of the latency as a markdown table.
///
/// Latency counts from the moment at which a request was due. Each server runs on one CPU and the load on another; a
/// server is started for each run, its keys are stored, and it is stopped.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Who takes part, of slabring, memcached and redis
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "slabring,memcached,redis")]
    servers: Vec<String>,

    /// Another server of the memcached protocol, as NAME=COMMAND with {port} in it
    #[arg(long, value_name = "NAME=COMMAND", value_parser = Contender::parse)]
    server: Vec<Contender>,

    /// The slabring program [default: beside this one]
    #[arg(long, value_name = "PATH")]
    slabring: Option<PathBuf>,

    /// The slabring-load program [default: beside this one]
    #[arg(long, value_name = "PATH")]
    load: Option<PathBuf>,

    /// Requests a second [default: parts of what the slowest server can do]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    rates: Vec<u32>,

    /// Seconds of each run
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    seconds: f64,

    /// How often each server has its turn
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// More arguments for slabring-load, one for each use of the option
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    load_args: Vec<String>,

    /// CPU of the server
    #[arg(long, value_name = "N", default_value = "0")]
    server_cpu: usize,

    /// CPU of the load
    #[arg(long, value_name = "N", default_value = "1")]
    load_cpu: usize,

    /// Writes a page with the table, curves and the conditions; it needs nothing else to be shown
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// The result as one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Latencies of one server at one rate: the median of each percentile over the rounds.
#[derive(Clone, PartialEq, Serialize, Debug)]
struct Point {
    server: String,
    /// Requests a second that were asked for.
    rate: u32,
    /// Requests a second that were answered.
    answered: f64,
    /// From the moment a request was due, in nanoseconds.
    p50_ns: f64,
    p99_ns: f64,
    p999_ns: f64,
    /// The lowest and the highest p99.9 of the rounds, in nanoseconds.
    p999_range_ns: (f64, f64),
}

/// Everything measured.
#[derive(Clone, PartialEq, Serialize, Debug)]
struct Sweep {
    kernel: String,
    cpu: String,
    command: String,
    seconds: f64,
    rounds: u32,
    /// Requests a second in a closed loop, by server.
    saturation: Vec<(String, f64)>,
    /// By rate, then by server.
    points: Vec<Point>,
}

/// Measures all rates and prints the result.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let slabring = beside_this(args.slabring.as_ref(), "slabring");
    let contenders = Contender::all(&args.servers, &args.server, &slabring, SERVER_MEGABYTES);
    ensure!(!contenders.is_empty(), "nobody is left to measure");
    // Before minutes are spent: somebody may have mistyped the folder.
    if let Some(path) = &args.html {
        fs::write(path, "").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let sweep = sweep(args, &contenders)?;
    if let Some(path) = &args.html {
        fs::write(path, page::html(&sweep)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match args.json {
        true => println!("{}", serde_json::to_string(&sweep)?),
        false => print!("{}", page::table(&sweep)),
    }
    Ok(())
}

fn sweep(args: &Args, contenders: &[Contender]) -> anyhow::Result<Sweep> {
    let saturation = contenders.iter().map(|contender| {
        let load = measure(args, contender, None)?;
        eprintln!("{}: {:.0} op/s in a closed loop", contender.name, load.operations_per_second);
        Ok((contender.name.clone(), load.operations_per_second))
    });
    let saturation: Vec<_> = saturation.collect::<anyhow::Result<_>>()?;
    let slowest = saturation.iter().map(|(_, rate)| *rate).fold(f64::INFINITY, f64::min);
    let rates = if args.rates.is_empty() { shares_of(slowest) } else { args.rates.clone() };
    let mut points = Vec::new();
    for rate in rates {
        let mut runs: Vec<Vec<Load>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 1..=args.rounds {
            for (contender, runs) in contenders.iter().zip(&mut runs) {
                let load = measure(args, contender, Some(rate))
                    .with_context(|| format!("{}, {rate} requests/s, round {round}", contender.name))?;
                let p999_us = load.latency.all.p999_ns / 1000;
                eprintln!("{}, {rate} requests/s, round {round}: p99.9 {p999_us} us", contender.name);
                runs.push(load);
            }
        }
        points.extend(contenders.iter().zip(&runs).filter_map(|(of, runs)| Point::of(&of.name, rate, runs)));
    }
    Ok(Sweep {
        kernel: machine::kernel(),
        cpu: machine::cpu(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        seconds: args.seconds,
        rounds: args.rounds,
        saturation,
        points,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate of requests is small and positive"
)]
fn shares_of(rate: f64) -> Vec<u32> {
    SHARES.iter().map(|share| ((rate * f64::from(*share) / 100.0) as u32).max(1)).collect()
}

/// A fresh server, its keys, one load: closed, or open at `rate`.
fn measure(args: &Args, contender: &Contender, rate: Option<u32>) -> anyhow::Result<Load> {
    let port = free_port()?;
    let mut server = Process::start(args.server_cpu, &contender.words(port))?;
    server.wait_for_port(port)?;
    let program = beside_this(args.load.as_ref(), "slabring-load");
    let common = || {
        let place = [String::from("--quiet"), "--json".into(), format!("127.0.0.1:{port}")];
        contender.protocol_words().chain(args.load_args.clone()).chain(place)
    };
    let words =
        |own: Vec<String>| [program.clone()].into_iter().chain(own).chain(common()).collect::<Vec<_>>();
    Load::run(
        args.load_cpu,
        &words(vec!["--prefill".into(), "--requests".into(), "1".into()]),
        Duration::ZERO,
    )?;
    let mut own = vec!["--duration".into(), args.seconds.to_string()];
    if let Some(rate) = rate {
        own.extend(["--rate".into(), rate.to_string(), "--poisson".into()]);
    }
    Load::run(args.load_cpu, &words(own), Duration::from_secs_f64(args.seconds))
}

impl Point {
    fn of(server: &str, rate: u32, runs: &[Load]) -> Option<Self> {
        let of = |number: fn(&Load) -> f64| median(runs.iter().map(number).collect());
        let p999 = || runs.iter().map(|run| run.latency.all.p999_ns as f64);
        Some(Self {
            server: server.into(),
            rate,
            answered: of(|run| run.operations_per_second)?,
            p50_ns: of(|run| run.latency.all.p50_ns as f64)?,
            p99_ns: of(|run| run.latency.all.p99_ns as f64)?,
            p999_ns: of(|run| run.latency.all.p999_ns as f64)?,
            p999_range_ns: (p999().fold(f64::INFINITY, f64::min), p999().fold(0.0, f64::max)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_parts_of_what_the_slowest_server_can_do() {
        assert_eq!(shares_of(1000.0), [100, 300, 500, 700, 800, 900]);
        assert!(shares_of(0.0).iter().all(|&rate| rate == 1));
    }
}
