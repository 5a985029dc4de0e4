//! Nodes, an etcd and the network between all of them, and what can be done to them.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use slabring_cluster::ring::{NodeState, RingDocument};
use slabring_tests::cluster::Neighbourhood;
use slabring_tests::etcd::Etcd;
use slabring_tests::network::Network;
use slabring_tests::{Connection, Server, Signal, wait_until};

/// Time for what takes a cluster longer: moving a third of everything, say, on a machine that compiles too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Room for nodes that join later.
pub(crate) const NODES_MAX: u8 = 4;

/// See the module.
pub(crate) struct Stage {
    pub(crate) place: Neighbourhood,
    pub(crate) network: Network,
    pub(crate) etcd: Etcd,
    args: Vec<String>,
    nodes: Vec<(u8, Server)>,
}

impl Stage {
    /// `count` nodes with `args` that have each its place. `None`, with a line that says so, where there is no etcd.
    pub(crate) fn start(count: u8, args: &[&str], seed: u64) -> Option<Self> {
        let place = Neighbourhood::new();
        let etcd = Etcd::start(place)?;
        let network = Network::start(place, NODES_MAX, seed);
        let args = args.iter().map(ToString::to_string).collect();
        let mut stage = Self { place, network, etcd, args, nodes: Vec::new() };
        (1..=count).for_each(|number| stage.add(number));
        stage.wait_until_whole(usize::from(count));
        Some(stage)
    }

    /// Starts a node.
    pub(crate) fn add(&mut self, number: u8) {
        let (etcd, name) = (self.network.etcd(number), format!("n{number}"));
        let (listen, found) = (self.place.peer(number).to_string(), self.network.peer(number).to_string());
        let mut args =
            vec!["--etcd", &etcd, "--node-id", &name, "--peer-listen", &listen, "--peer-advertise", &found];
        args.extend(self.args.iter().map(String::as_str));
        let mut node = Server::start_on(self.place.client(number), &args).expect("a node starts");
        node.wait_until_answering();
        self.nodes.push((number, node));
    }

    /// Where clients find a node.
    pub(crate) fn address(&self, number: u8) -> SocketAddr {
        self.place.client(number)
    }

    pub(crate) fn signal(&self, number: u8, signal: Signal) {
        self.node(number).signal(signal);
    }

    /// Ends a node as a power cut would.
    pub(crate) fn kill(&mut self, number: u8) {
        let at = self.nodes.iter().position(|(other, _)| *other == number).expect("it runs");
        let (_, mut node) = self.nodes.remove(at);
        node.signal(Signal::Kill);
        node.wait(PATIENCE).expect("who is killed ends");
    }

    fn node(&self, number: u8) -> &Server {
        &self.nodes.iter().find(|(other, _)| *other == number).expect("it runs").1
    }

    /// The ring that a node follows; `None`: none, or it does not answer now. It may stand still, or a busy machine gives it no time.
    pub(crate) fn ring(&self, number: u8) -> Option<RingDocument> {
        let mut connection = Connection::open(self.address(number)).ok()?;
        let head = connection.send("config get ring\r\n").and_then(|()| connection.read_line()).ok()?;
        let length = String::from_utf8(head).expect("text").strip_prefix("CONFIG ring 0 ")?.parse();
        let document = connection.read_exact(length.expect("a length")).ok()?;
        Some(RingDocument::from_json(&document).expect("a good one"))
    }

    /// The ring that a node follows, as soon as it says so.
    #[track_caller]
    pub(crate) fn told_ring(&self, number: u8) -> RingDocument {
        let mut told = None;
        wait_until("a ring", || {
            told = self.ring(number);
            told.is_some()
        });
        told.expect("just seen")
    }

    /// Whether all nodes that run follow one ring, in which `up` are up and nothing moves.
    pub(crate) fn is_whole(&self, up: usize) -> bool {
        let rings: Vec<_> = self.nodes.iter().map(|(number, _)| self.ring(*number)).collect();
        let is_good = |ring: &RingDocument| {
            let serving = ring.slots.iter().filter(|slot| slot.state == NodeState::Up).count();
            let is_leaving = ring.slots.iter().any(|slot| slot.state == NodeState::Draining);
            let moves = ring.replication.as_ref().is_some_and(|replication| replication.movement.is_some());
            serving == up && !moves && !is_leaving
        };
        rings[0].as_ref().is_some_and(is_good) && rings.windows(2).all(|pair| pair[0] == pair[1])
    }

    #[track_caller]
    pub(crate) fn wait_until_whole(&self, up: usize) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_whole(up) {
            assert!(Instant::now() < deadline, "the cluster is not whole again: {}", self.words());
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether a node that runs says that another one does not serve.
    pub(crate) fn is_out(&self, witness: u8, number: u8) -> bool {
        let name = format!("n{number}");
        let is_out = |ring: RingDocument| {
            ring.slots.iter().any(|slot| slot.node.to_string() == name && !slot.state.serves())
        };
        self.ring(witness).is_some_and(is_out)
    }

    /// What nodes wrote, and the ring of the first.
    pub(crate) fn words(&self) -> String {
        let said = self.nodes.iter().map(|(number, node)| format!("n{number}: {}", node.stderr()));
        let ring = self.nodes.first().and_then(|(number, _)| self.ring(*number));
        let slots = ring.map(|ring| format!("{:?} {:?}", ring.epoch, ring.slots)).unwrap_or_default();
        said.collect::<String>() + &slots
    }

    /// An operator's wish for a node.
    pub(crate) fn wish(&self, number: u8, wish: &str) {
        let key = BASE64_STANDARD.encode(format!("/slabring/slabring/wish/n{number}"));
        let value = BASE64_STANDARD.encode(wish);
        self.etcd.post("/v3/kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#));
    }

    /// Everything that was written is with all who hold it, for a moment.
    pub(crate) fn wait_for_copies(&self) {
        let lag = || -> u64 {
            let of = |(_, node): &(u8, Server)| node.connect().stat("slabring_replication_lag_entries");
            self.nodes.iter().map(of).sum()
        };
        wait_until("rest", || lag() == 0);
    }
}
