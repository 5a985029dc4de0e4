//! Servers taking turns under the same loads. Starts and stops everything itself, on loopback only.

mod outcome;
mod scenario;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use slabring_reactor::thread::is_root;

use crate::echo::IoWish;
use crate::load::{Load, seconds};
use crate::machine;
use crate::process::{Process, beside_this, free_port, is_installed};
use outcome::{Comparison, Outcome, Run};
use scenario::{OPEN_LOOP_SHARE, Pace, Rival, Scenario};

const EXAMPLES: &str = "\
Examples:
  Build everything, then compare: small values at three depths, multi-get, 4 KiB to 1 MiB, a unix socket, two shards,
  latencies at a fixed rate (about 15 minutes):
    cargo build --release --workspace && target/release/slabring-bench peers
  Longer, with few keys and with many, as JSON:
    slabring-bench peers --seconds 10 --rounds 5 --keys 10000,1000000 --json > result.json
  One kind of request, without redis-server:
    slabring-bench peers --servers slabring,memcached,echo --only SET --depths 16
  slabring on epoll:
    slabring-bench peers --slabring-args=--io=epoll

Use an idle machine: every other process changes the result.";

/// Runs slabring, memcached, redis-server and the echo server in turn under the same loads, one CPU for the server and
/// one for the load, and prints a markdown table. Who is not installed is left out.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The slabring program [default: beside this one]
    #[arg(long, value_name = "PATH")]
    slabring: Option<PathBuf>,

    /// The memcached program
    #[arg(long, value_name = "PATH", default_value = "memcached")]
    pub(crate) memcached: String,

    /// The redis-server program
    #[arg(long, value_name = "PATH", default_value = "redis-server")]
    pub(crate) redis: String,

    /// The slabring-load program [default: beside this one]
    #[arg(long, value_name = "PATH")]
    load: Option<PathBuf>,

    /// More arguments for slabring, one for each use of the option
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) slabring_args: Vec<String>,

    /// More arguments for memcached, one for each use of the option
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) memcached_args: Vec<String>,

    /// More arguments for redis-server, one for each use of the option
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) redis_args: Vec<String>,

    /// Who takes part
    #[arg(long, value_enum, value_delimiter = ',', default_value = "slabring,memcached,redis,echo")]
    servers: Vec<Rival>,

    /// Only scenarios with this in their name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,

    /// Seconds of each run
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    pub(crate) seconds: f64,

    /// How often each server has its turn
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How often a run is repeated that other processes have spoiled
    #[arg(long, value_name = "N", default_value = "2")]
    again: u32,

    /// Requests in flight on a connection
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,16,64")]
    pub(crate) depths: Vec<u32>,

    /// Connections in total
    #[arg(long, value_name = "N", default_value = "50")]
    pub(crate) connections: u32,

    /// Number of different keys; with several, requests for small values are measured with each
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "100000")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: Vec<u64>,

    /// Bytes in a value
    #[arg(long, value_name = "BYTES", default_value = "32")]
    pub(crate) value_size: u32,

    /// How the load generator and the echo server talk to the kernel
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) io: IoWish,

    /// CPU of the server
    #[arg(long, value_name = "N", default_value = "0")]
    server_cpu: usize,

    /// CPU of the load
    #[arg(long, value_name = "N", default_value = "1")]
    load_cpu: usize,

    /// The result as one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn slabring(&self) -> String {
        beside_this(self.slabring.as_ref(), "slabring")
    }

    pub(crate) fn load(&self) -> String {
        beside_this(self.load.as_ref(), "slabring-load")
    }

    pub(crate) fn own_program(&self) -> String {
        beside_this(None, "slabring-bench")
    }

    /// memcached refuses to run as root unless told that it is meant.
    fn allow_root(&mut self) {
        self.memcached_args.extend(["-u".into(), "root".into()]);
    }

    fn leave_out_the_missing(&mut self) {
        for (rival, program) in [(Rival::Memcached, &self.memcached), (Rival::Redis, &self.redis)] {
            if self.servers.contains(&rival) && !is_installed(program) {
                eprintln!("SKIPPED {}: cannot run {program}", rival.word());
                self.servers.retain(|server| *server != rival);
            }
        }
    }
}

/// Measures all scenarios and prints the result.
pub(crate) fn run(mut args: Args) -> anyhow::Result<()> {
    if is_root() {
        args.allow_root();
    }
    args.leave_out_the_missing();
    ensure!(
        args.servers.contains(&Rival::Slabring),
        "slabring takes part in every comparison: name it in --servers"
    );
    let scenarios: Vec<_> =
        Scenario::all(&args).into_iter().filter(|scenario| scenario.name().contains(&args.only)).collect();
    ensure!(!scenarios.is_empty(), "no scenario has {:?} in its name", args.only);
    let outcomes =
        scenarios.iter().map(|scenario| measure(&args, scenario)).collect::<anyhow::Result<_>>()?;
    let comparison = Comparison {
        kernel: machine::kernel(),
        cpu: machine::cpu(),
        connections: args.connections,
        value_bytes: args.value_size,
        seconds: args.seconds,
        rounds: args.rounds,
        outcomes,
    };
    if args.json {
        println!("{}", serde_json::to_string(&comparison)?);
    } else {
        print!("{comparison}");
    }
    Ok(())
}

fn measure(args: &Args, scenario: &Scenario) -> anyhow::Result<Outcome> {
    let rate = match scenario.pace {
        Pace::Closed => None,
        Pace::Open => Some(open_loop_rate(args, scenario)?),
    };
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        for rival in scenario.rivals(&args.servers) {
            let who = || format!("{}, {}, round {round}", scenario.name(), rival.word());
            let run = measure_quietly(args, scenario, rival, round, rate).with_context(who)?;
            let (rate, cpu, others) =
                (run.operations_per_second, run.server_cpu_us_per_op, run.others_cpu_share * 100.0);
            eprintln!("{}: {rate:.0} op/s, {cpu:.3} us server CPU/op, others {others:.0} % of a CPU", who());
            runs.push(run);
        }
    }
    Ok(Outcome::new(scenario.name(), runs))
}

/// A part of what memcached, or Slabring where there is none, can do with the same load.
fn open_loop_rate(args: &Args, scenario: &Scenario) -> anyhow::Result<f64> {
    let rival = if args.servers.contains(&Rival::Memcached) { Rival::Memcached } else { Rival::Slabring };
    let run = measure_quietly(args, scenario, rival, 0, None)?;
    Ok(run.operations_per_second * OPEN_LOOP_SHARE)
}

/// Measures again what other processes have spoiled, some times, and takes the quietest.
fn measure_quietly(
    args: &Args,
    scenario: &Scenario,
    rival: Rival,
    round: u32,
    rate: Option<f64>,
) -> anyhow::Result<Run> {
    let mut quietest = measure_once(args, scenario, rival, round, rate)?;
    for _ in 0..args.again {
        if !quietest.is_spoiled() {
            break;
        }
        let run = measure_once(args, scenario, rival, round, rate)?;
        if run.others_cpu_share < quietest.others_cpu_share {
            quietest = run;
        }
    }
    Ok(quietest)
}

/// A fresh server, its keys, one load.
fn measure_once(
    args: &Args,
    scenario: &Scenario,
    rival: Rival,
    round: u32,
    rate: Option<f64>,
) -> anyhow::Result<Run> {
    let port = free_port()?;
    let cpus = match rival {
        Rival::TwoShards => &[args.server_cpu, args.load_cpu][..],
        _ => &[args.server_cpu],
    };
    let mut server = Process::start_on(cpus, &scenario.server_words(args, rival, port))?;
    server.wait_for(&scenario.place(port))?;
    if rival != Rival::Echo {
        load(args, &scenario.prefill_words(args, rival, port))?;
    }
    let (cpu_before_us, busy_before_us, start) = (server.cpu_us()?, machine::busy_us(), Instant::now());
    let load = load(args, &scenario.load_words(args, rival, port, rate))?;
    let (cpu_us, busy_us) = (server.cpu_us()? - cpu_before_us, machine::busy_us() - busy_before_us);
    let own_us = cpu_us as f64 + load.client_cpu_us_per_op * load.operations as f64;
    ensure!(load.operations > 0, "nothing was answered");
    ensure!(load.misses == 0, "{} keys were not found after they were stored", load.misses);
    Ok(Run {
        server: rival,
        round,
        operations_per_second: load.operations_per_second,
        server_cpu_us_per_op: cpu_us as f64 / load.operations as f64,
        client_cpu_us_per_op: load.client_cpu_us_per_op,
        client_cpu_share: load.client_cpu_share,
        others_cpu_share: (busy_us as f64 - own_us).max(0.0) / start.elapsed().as_micros() as f64,
        p50_ns: load.latency.all.p50_ns,
        p99_ns: load.latency.all.p99_ns,
        p999_ns: load.latency.all.p999_ns,
    })
}

fn load(args: &Args, words: &[String]) -> anyhow::Result<Load> {
    Load::run(args.load_cpu, words, Duration::from_secs_f64(args.seconds))
}

#[cfg(test)]
impl Args {
    /// The arguments of a command line behind `compare`.
    pub(crate) fn of(line: &str) -> Self {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            args: Args,
        }
        let words = std::iter::once("peers").chain(line.split_whitespace());
        <Alone as clap::Parser>::parse_from(words).args
    }
}
