//! How long a node that was killed takes to hold everything again, and what its clients notice meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use slabring_cluster::ring::NodeState;

use super::nodes::{Copies, Nodes, name, state};
use super::{Args, load, load_words, prefill};
use crate::load::Load;
use crate::process::Process;

const COPIES: Copies = Copies { count: 2, mode: "inval" };
const NODES: usize = 3;
const VICTIM: usize = 3;
const VALUE_BYTES: u64 = 1 << 10;
/// Requests a second of the clients, one of ten a write.
const RATE: u32 = 5_000;
/// What they notice while nothing is wrong is measured for so long.
const CALM: Duration = Duration::from_secs(5);

/// Roles are levelled five seconds after the first ring.
const UNTIL_LEVEL: Duration = Duration::from_secs(8);
/// Until copies are made and statistics are of now.
const REST: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Resync {
    /// Keys and values that the node held in the end.
    pub(crate) bytes: u64,
    /// From the start of its process until the ring takes it back.
    pub(crate) until_back_seconds: f64,
    /// From then on until it counts again.
    pub(crate) seconds: f64,
    pub(crate) calm_p99_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
}

/// Fills three nodes, kills one, lets it return.
pub(crate) fn measure(args: &Args) -> anyhow::Result<Resync> {
    let mut nodes = Nodes::in_etcd(args, NODES, Some(COPIES))?;
    thread::sleep(UNTIL_LEVEL);
    // Of two copies on three nodes each holds two thirds.
    let keys = args.bytes() / VALUE_BYTES * NODES as u64 / u64::from(COPIES.count);
    let common = common_words(&nodes, keys);
    prefill(args, &common)?;
    thread::sleep(REST);
    let open = ["--rate", &RATE.to_string(), "--poisson", "--ratio", "1:9", "--duration"];
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    let until = |seconds: u64| [&open[..], &[seconds.to_string()], &common].concat();
    let calm = load(args, &until(CALM.as_secs()))?;
    nodes.cut_power(VICTIM)?;
    let returned = Instant::now();
    let clients = Process::start_captured(args.load_cpu, &load_words(args, &until(3600)))?;
    let is = |wanted: NodeState| {
        nodes.wait_for_ring("its return", |ring| state(ring, &name(VICTIM)) == Some(wanted))
    };
    is(NodeState::Syncing)?;
    let until_back = returned.elapsed();
    is(NodeState::Up)?;
    let took = returned.elapsed() - until_back;
    let meanwhile = Load::end(clients)?;
    thread::sleep(REST);
    Ok(Resync {
        bytes: nodes.stat(VICTIM, "bytes")?,
        until_back_seconds: until_back.as_secs_f64(),
        seconds: took.as_secs_f64(),
        calm_p99_ns: calm.latency.all.p99_ns,
        p99_ns: meanwhile.latency.all.p99_ns,
        p999_ns: meanwhile.latency.all.p999_ns,
        requests: meanwhile.operations,
        errors: meanwhile.errors,
    })
}

fn common_words(nodes: &Nodes, keys: u64) -> Vec<String> {
    let options = [
        ("--connections", "8".to_owned()),
        ("--keys", keys.to_string()),
        ("--value-size", VALUE_BYTES.to_string()),
        ("--route", "ring".to_owned()),
    ];
    let place = format!("127.0.0.1:{}", nodes.ports()[0]);
    options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).chain([place]).collect()
}
