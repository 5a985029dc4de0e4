//! Nodes of one cluster on ports of loopback, one shard each, all on one CPU; and their etcd. Stopped when dropped.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use slabring_cluster::names::{ClusterId, NodeId};
use slabring_cluster::report::Wish;
use slabring_cluster::ring::{NodeState, RingDocument};
use slabring_etcd::{ClusterKeys, EtcdAccess, Gateway};

use super::Args;
use crate::memory::wire::Wire;
use crate::process::{Process, free_port};

/// What a cluster may take for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How often the ring is looked at while it changes: several times for each batch.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long etcd may take to answer.
const ETCD_PATIENCE: Duration = Duration::from_secs(5);

/// Keys that each node is asked for before it counts as one that reaches all others.
const MEETING_KEYS: u32 = 64;

/// Copies of each item, and what a write waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Copies {
    pub(crate) count: u8,
    pub(crate) mode: &'static str,
}

/// One node.
struct Node {
    words: Vec<String>,
    port: u16,
    /// None while it is dead.
    process: Option<Process>,
}

impl Node {
    fn start(&mut self, cpu: usize) -> anyhow::Result<()> {
        self.process.insert(Process::start(cpu, &self.words)?).wait_for_port(self.port)
    }
}

/// See the module.
pub(crate) struct Nodes {
    cpu: usize,
    nodes: Vec<Node>,
    // Ends after the nodes.
    etcd: Option<Etcd>,
}

impl Nodes {
    /// `count` nodes that do not know each other.
    pub(crate) fn alone(args: &Args, count: usize) -> anyhow::Result<Self> {
        let mut nodes = Self { cpu: args.server_cpu, nodes: Vec::new(), etcd: None };
        for _ in 0..count {
            let port = free_port()?;
            nodes.start(node_words(args, port), port)?;
        }
        Ok(nodes)
    }

    /// `count` nodes that have each other in a list.
    pub(crate) fn of_list(args: &Args, count: usize, copies: Option<Copies>) -> anyhow::Result<Self> {
        let ports = (0..count).map(|_| Ok((free_port()?, free_port()?)));
        let ports: Vec<(u16, u16)> = ports.collect::<anyhow::Result<_>>()?;
        let peers = ports.iter().map(|(port, peer)| format!("127.0.0.1:{peer}=127.0.0.1:{port}"));
        let peers = peers.collect::<Vec<_>>().join(",");
        let mut nodes = Self { cpu: args.server_cpu, nodes: Vec::new(), etcd: None };
        for (port, peer) in ports {
            let mut words = node_words(args, port);
            words.extend(["--peers".into(), peers.clone()]);
            words.extend(["--peer-listen".into(), format!("127.0.0.1:{peer}")]);
            words.extend(copies.iter().flat_map(Copies::words));
            nodes.start(words, port)?;
        }
        nodes.wait_until_met()?;
        Ok(nodes)
    }

    /// `members` nodes that have their ring in an etcd of their own, and one more that stands by.
    pub(crate) fn in_etcd(args: &Args, members: usize, copies: Option<Copies>) -> anyhow::Result<Self> {
        let etcd = Etcd::start(args)?;
        let url = etcd.url.clone();
        let mut nodes = Self { cpu: args.server_cpu, nodes: Vec::new(), etcd: Some(etcd) };
        for number in 1..=members + 1 {
            let (port, peer) = (free_port()?, free_port()?);
            let peer = format!("127.0.0.1:{peer}");
            let mut words = node_words(args, port);
            let options = [("--etcd", &url), ("--peer-listen", &peer), ("--node-id", &name(number))];
            words.extend(options.iter().flat_map(|(option, value)| [(*option).into(), (*value).clone()]));
            words.extend(copies.iter().flat_map(Copies::words));
            if number > members {
                words.extend(["--weight".into(), "0".into()]);
            }
            nodes.start(words, port)?;
        }
        nodes.wait_for_ring("a ring", |ring| up(ring) == members)?;
        nodes.wait_until_met()?;
        Ok(nodes)
    }

    /// Where clients of the nodes connect.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// User and system time of all nodes so far, in microseconds.
    pub(crate) fn cpu_us(&self) -> anyhow::Result<u64> {
        self.nodes.iter().filter_map(|node| node.process.as_ref()).map(Process::cpu_us).sum()
    }

    /// A number out of the statistics of a node, counted from 1.
    pub(crate) fn stat(&self, number: usize, name: &str) -> anyhow::Result<u64> {
        Wire::connect(self.nodes[number - 1].port)?.stat(name)
    }

    /// Ends a node, counted from 1, as a power cut would, and starts it again once the others have a ring without it.
    pub(crate) fn cut_power(&mut self, number: usize) -> anyhow::Result<()> {
        self.nodes[number - 1].process = None;
        let name = name(number);
        self.wait_for_ring("a ring without it", |ring| state(ring, &name) == Some(NodeState::Down))?;
        self.nodes[number - 1].start(self.cpu)
    }

    /// The keys of this cluster in etcd.
    pub(crate) fn keys(&self) -> &ClusterKeys {
        &self.etcd.as_ref().expect("asked of clusters with an etcd only").keys
    }

    /// Wishes something for a node, counted from 1.
    pub(crate) fn wish(&self, number: usize, wish: Wish) -> anyhow::Result<()> {
        Ok(self.keys().wish(&NodeId(name(number).parse().context("a node has a good name")?), wish)?)
    }

    /// Waits until the ring in etcd is as wanted.
    pub(crate) fn wait_for_ring(
        &self,
        what: &str,
        is_good: impl Fn(&RingDocument) -> bool,
    ) -> anyhow::Result<()> {
        wait_until(what, || Ok(self.keys().read()?.ring.is_some_and(|ring| is_good(&ring))))
    }

    fn start(&mut self, words: Vec<String>, port: u16) -> anyhow::Result<()> {
        let mut node = Node { words, port, process: None };
        node.start(self.cpu)?;
        self.nodes.push(node);
        Ok(())
    }

    fn wait_until_met(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            let mut wire = Wire::connect(node.port)?;
            let mut reaches_all = || {
                for key in 0..MEETING_KEYS {
                    if wire.command(&format!("mg meeting{key}"))? != "EN" {
                        return Ok(false);
                    }
                }
                Ok(true)
            };
            wait_until("the nodes to meet", &mut reaches_all)?;
        }
        Ok(())
    }
}

/// The name of a node, counted from 1.
pub(crate) fn name(number: usize) -> String {
    format!("n{number}")
}

/// The state of a member.
pub(crate) fn state(ring: &RingDocument, node: &str) -> Option<NodeState> {
    ring.slots.iter().find(|slot| slot.node.0.as_str() == node).map(|slot| slot.state)
}

/// Members that are up.
fn up(ring: &RingDocument) -> usize {
    ring.slots.iter().filter(|slot| slot.state == NodeState::Up).count()
}

fn node_words(args: &Args, port: u16) -> Vec<String> {
    let (port, memory) = (port.to_string(), args.memory_mib().to_string());
    let fixed = ["-l", "127.0.0.1", "-U", "0", "-t", "1", "-c", "4096", "-p", &port, "-m", &memory];
    std::iter::once(args.slabring()).chain(fixed.iter().map(ToString::to_string)).collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

impl Copies {
    fn words(&self) -> [String; 4] {
        ["--replicas".into(), self.count.to_string(), "--replication".into(), self.mode.into()]
    }
}

/// An etcd of one member on any CPU, with its data in a folder that goes with it.
struct Etcd {
    url: String,
    keys: ClusterKeys,
    data: PathBuf,
    process: Option<Process>,
}

impl Etcd {
    fn start(args: &Args) -> anyhow::Result<Self> {
        let (port, member_port) = (free_port()?, free_port()?);
        let (url, member) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{member_port}"));
        let data = std::env::temp_dir().join(format!("slabring-bench-etcd-{port}"));
        let folder = data.to_string_lossy().into_owned();
        let words = [
            [args.etcd.as_str(), "--logger=zap"],
            ["--log-outputs", "/dev/null"],
            ["--data-dir", &folder],
            ["--listen-client-urls", &url],
            ["--advertise-client-urls", &url],
            ["--listen-peer-urls", &member],
            ["--initial-advertise-peer-urls", &member],
            ["--initial-cluster", &format!("default={member}")],
        ];
        let words: Vec<String> = words.concat().iter().map(ToString::to_string).collect();
        let mut process = Process::start_on(&[args.server_cpu, args.load_cpu], &words)?;
        process.wait_for_port(port)?;
        let gateway = Gateway::new(vec![url.clone()], EtcdAccess::default(), ETCD_PATIENCE);
        let cluster = ClusterId("slabring".parse().context("the default name is a good one")?);
        let keys = ClusterKeys::new(gateway, &cluster);
        wait_until("etcd to answer", || Ok(keys.read().is_ok()))?;
        Ok(Self { url, keys, data, process: Some(process) })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.process = None;
        // What stays is a folder among temporary ones.
        match std::fs::remove_dir_all(&self.data) {
            Ok(()) | Err(_) => {}
        }
    }
}
