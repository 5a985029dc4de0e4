//! What it costs to be a cluster: CPU of all nodes and throughput against as many that do not know each other, in turns.
//!
//! Three processes on one CPU take turns and gather less in each than one does; the first line says how much that is, so that it is not
//! taken for what a mode costs.

use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;

use super::nodes::{Copies, Nodes};
use super::{Args, load, prefill};
use crate::machine;
use crate::median::median;

/// Connections of a load in all.
const CONNECTIONS: usize = 48;
/// Nodes of each cluster.
const NODES: usize = 3;
const _: () = assert!(CONNECTIONS.is_multiple_of(NODES));
const KEYS: u32 = 100_000;
const VALUE_BYTES: u32 = 32;

/// More than this of a CPU taken by other processes spoils a run.
const OTHERS_CPU_SHARE_MAX: f64 = 0.1;

/// Nodes, and how they are used.
struct Setup {
    name: &'static str,
    /// One that stands alone, or [`NODES`] that know each other.
    is_cluster: bool,
    copies: Option<Copies>,
    /// How the load spreads its keys: as the ring says, or not knowing it.
    route: &'static str,
}

const fn setup(name: &'static str, copies: Option<Copies>) -> Setup {
    Setup { name, is_cluster: true, copies, route: "ring" }
}

const fn copies(count: u8, mode: &'static str) -> Option<Copies> {
    Some(Copies { count, mode })
}

const SETUPS: [Setup; 9] = [
    Setup { is_cluster: false, route: "jump", ..setup("one node that stands alone", None) },
    setup("one copy", None),
    Setup { route: "jump", ..setup("one copy, clients that do not know the ring", None) },
    setup("async, 2 copies", copies(2, "async")),
    setup("inval, 2 copies", copies(2, "inval")),
    setup("sync, 2 copies", copies(2, "sync")),
    setup("async, 3 copies", copies(3, "async")),
    setup("inval, 3 copies", copies(3, "inval")),
    setup("sync, 3 copies", copies(3, "sync")),
];

/// One kind of request at one depth.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
pub(crate) struct Requests {
    pub(crate) is_set: bool,
    pub(crate) depth: u32,
}

/// One run of one side.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Run {
    pub(crate) operations_per_second: f64,
    /// User and system time of all nodes per request.
    pub(crate) cpu_us_per_op: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    /// What everything else on the machine used meanwhile, in CPUs.
    pub(crate) others_cpu_share: f64,
}

/// A setup against nodes that do not know each other, under one kind of request.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Comparison {
    pub(crate) requests: Requests,
    /// Both sides of each turn: those that do not know each other, and what is measured.
    pub(crate) turns: Vec<(Run, Run)>,
}

/// All that was measured of one way to be a cluster.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Cost {
    pub(crate) setup: &'static str,
    pub(crate) comparisons: Vec<Comparison>,
}

impl Comparison {
    /// The middle of the turns' ratios, what is measured over the others.
    pub(crate) fn ratio(&self, of: impl Fn(&Run) -> f64) -> Option<f64> {
        median(self.turns.iter().map(|(lone, nodes)| of(nodes) / of(lone)).collect())
    }

    /// How much CPU other processes took in the worst run.
    pub(crate) fn loudest_others(&self) -> Option<f64> {
        let runs = self.turns.iter().flat_map(|(lone, nodes)| [lone, nodes]);
        runs.map(|run| run.others_cpu_share).reduce(f64::max)
    }
}

/// Measures all that have `--only` in their names.
pub(crate) fn measure(args: &Args) -> anyhow::Result<Vec<Cost>> {
    let wanted: Vec<_> = SETUPS.iter().filter(|setup| setup.name.contains(&args.only)).collect();
    ensure!(!wanted.is_empty(), "no mode has {:?} in its name", args.only);
    wanted.into_iter().map(|setup| setup.measure(args)).collect()
}

impl Setup {
    /// Both sides stay up meanwhile: one that is not asked uses next to nothing.
    fn measure(&self, args: &Args) -> anyhow::Result<Cost> {
        let lone = Nodes::alone(args, NODES)?;
        let nodes = match self.is_cluster {
            true => Nodes::of_list(args, NODES, self.copies)?,
            false => Nodes::alone(args, 1)?,
        };
        prefill(args, &common_words(&lone, "jump"))?;
        prefill(args, &common_words(&nodes, self.route))?;
        let mut comparisons = Vec::new();
        for depth in args.depths.iter().copied() {
            for is_set in [false, true] {
                let requests = Requests { is_set, depth };
                comparisons.push(self.compare(args, requests, &lone, &nodes)?);
            }
        }
        Ok(Cost { setup: self.name, comparisons })
    }

    fn compare(
        &self,
        args: &Args,
        requests: Requests,
        lone: &Nodes,
        nodes: &Nodes,
    ) -> anyhow::Result<Comparison> {
        let turn = |_| {
            let turn =
                (run_quietly(args, requests, lone, "jump")?, run_quietly(args, requests, nodes, self.route)?);
            let (lone, nodes) = &turn;
            eprintln!(
                "{}, {} at depth {}: {:.2} against {:.2} us CPU/op, {:.0} against {:.0} op/s",
                self.name,
                requests.word(),
                requests.depth,
                nodes.cpu_us_per_op,
                lone.cpu_us_per_op,
                nodes.operations_per_second,
                lone.operations_per_second,
            );
            Ok(turn)
        };
        Ok(Comparison { requests, turns: (0..args.rounds).map(turn).collect::<anyhow::Result<_>>()? })
    }
}

impl Requests {
    pub(crate) fn word(self) -> &'static str {
        if self.is_set { "SET" } else { "GET" }
    }
}

/// Measures again what other processes have spoiled, some times, and takes the quietest.
fn run_quietly(args: &Args, requests: Requests, nodes: &Nodes, route: &str) -> anyhow::Result<Run> {
    let mut quietest = run(args, requests, nodes, route)?;
    for _ in 0..args.again {
        if quietest.others_cpu_share <= OTHERS_CPU_SHARE_MAX {
            break;
        }
        let run = run(args, requests, nodes, route)?;
        if run.others_cpu_share < quietest.others_cpu_share {
            quietest = run;
        }
    }
    Ok(quietest)
}

fn run(args: &Args, requests: Requests, nodes: &Nodes, route: &str) -> anyhow::Result<Run> {
    let ratio = if requests.is_set { "1:0" } else { "0:1" };
    let own = [
        ["--depth", &requests.depth.to_string()],
        ["--ratio", ratio],
        ["--duration", &args.seconds.to_string()],
    ];
    let words = [owned(own.concat()), common_words(nodes, route)].concat();
    let (before_us, busy_before_us, start) = (nodes.cpu_us()?, machine::busy_us(), Instant::now());
    let load = load(args, &words)?;
    let (cpu_us, busy_us) = (nodes.cpu_us()? - before_us, machine::busy_us() - busy_before_us);
    let operations = load.operations as f64;
    let own_us = cpu_us as f64 + load.client_cpu_us_per_op * operations;
    Ok(Run {
        operations_per_second: load.operations_per_second,
        cpu_us_per_op: cpu_us as f64 / operations,
        p50_ns: load.latency.all.p50_ns,
        p99_ns: load.latency.all.p99_ns,
        others_cpu_share: (busy_us as f64 - own_us).max(0.0) / start.elapsed().as_micros() as f64,
    })
}

fn common_words(nodes: &Nodes, route: &str) -> Vec<String> {
    let ports = nodes.ports();
    let options = [
        ("--connections", (CONNECTIONS / ports.len()).to_string()),
        ("--keys", KEYS.to_string()),
        ("--value-size", VALUE_BYTES.to_string()),
        ("--route", route.into()),
    ];
    let options = options.into_iter().flat_map(|(option, value)| [option.into(), value]);
    // A ring is asked for; the others have to be named.
    let named = if route == "ring" { 1 } else { ports.len() };
    options.chain(ports.iter().take(named).map(|port| format!("127.0.0.1:{port}"))).collect()
}

fn owned(words: Vec<&str>) -> Vec<String> {
    words.into_iter().map(Into::into).collect()
}
