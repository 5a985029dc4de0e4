//! Nodes that have their ring in a real etcd, where one can be killed and another takes over. Reads the ring as text.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::cluster::{Cluster, Neighbourhood};
use crate::etcd::Etcd;
use crate::{Connection, Server, Signal, wait_until};

/// Time for what takes a cluster long: moving a third of everything, say, while the machine is compiling too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The value of `keyKEY`, a number, or that there is none; or the error.
pub fn read(connection: &mut Connection, key: usize) -> Result<Option<u64>, String> {
    let line = connection.command(&format!("mg key{key} v"));
    match line.split(' ').next() {
        Some("EN") => Ok(None),
        Some("VA") => {
            let value = String::from_utf8(connection.read_line().expect("a value")).expect("text");
            Ok(Some(value.parse().expect("a number")))
        }
        _ => Err(line),
    }
}

/// Nodes and their etcd. The nodes end first.
#[derive(Debug)]
pub struct Coordinated {
    /// The nodes that run.
    pub cluster: Cluster,
    /// What they agree in.
    pub etcd: Etcd,
    args: Vec<String>,
}

impl Coordinated {
    /// Starts `count` nodes with `args`, and waits until each has its place and what belongs there; `None`: no etcd is installed.
    #[track_caller]
    pub fn start(count: u8, args: &[&str]) -> Option<Self> {
        let place = Neighbourhood::new();
        let etcd = Etcd::start(place)?;
        let args = args.iter().map(ToString::to_string).collect();
        let mut nodes = Self { cluster: Cluster { nodes: Vec::new(), place }, etcd, args };
        (1..=count).for_each(|number| nodes.start_node(number));
        wait_until("rest", || nodes.is_settled());
        Some(nodes)
    }

    /// Starts a node, which becomes the last of [`Cluster::nodes`].
    #[track_caller]
    pub fn start_node(&mut self, number: u8) {
        let place = self.cluster.place;
        let (url, peer) = (self.etcd.url(), place.peer(number).to_string());
        let given = self.args.iter().map(String::as_str);
        let all: Vec<&str> = ["--etcd", &url, "--peer-listen", &peer].into_iter().chain(given).collect();
        self.cluster.nodes.push(Server::start_on(place.client(number), &all).expect("a node starts"));
    }

    /// Ends a node as a power cut would, and waits until it is gone.
    #[track_caller]
    pub fn kill(&mut self, index: usize) {
        let mut node = self.cluster.nodes.remove(index);
        node.signal(Signal::Kill);
        node.wait(PATIENCE).expect("a killed process ends");
    }

    /// An operator's wish for a node.
    pub fn wish(&self, number: u8, wish: &str) {
        let key =
            BASE64_STANDARD.encode(format!("/slabring/slabring/wish/{}", self.cluster.place.peer(number)));
        let value = BASE64_STANDARD.encode(wish);
        self.etcd.post("/v3/kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#));
    }

    /// Whether all nodes that run follow one ring, in which all are up and nothing moves.
    pub fn is_settled(&self) -> bool {
        let rings: Vec<_> = self.cluster.nodes.iter().map(ring).collect();
        let is_good = |ring: &String| {
            count(ring, "up") == self.cluster.nodes.len() && !ring.contains(r#""movement":{"#)
        };
        rings[0].as_ref().is_some_and(is_good) && rings.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Whether a node decides on changes of the ring.
    pub fn is_conductor(&self, number: u8) -> bool {
        let key = BASE64_STANDARD.encode("/slabring/slabring/leader");
        let answer = self.etcd.post("/v3/kv/range", &format!(r#"{{"key":"{key}"}}"#));
        let value = answer.split_once(r#""value":""#).and_then(|(_, rest)| rest.split('"').next());
        let name = value.and_then(|value| BASE64_STANDARD.decode(value).ok()).unwrap_or_default();
        name.starts_with(format!("{} ", self.cluster.place.peer(number)).as_bytes())
    }
}

/// The ring that a node follows.
pub fn ring(node: &Server) -> Option<String> {
    let mut connection = node.connect();
    let head = connection.command("config get ring");
    let length: usize = head.strip_prefix("CONFIG ring 0 ")?.parse().expect("a length");
    let document = connection.read_exact(length).expect("a document");
    Some(String::from_utf8(document).expect("JSON"))
}

/// Whether a node's ring has a member that is down.
pub fn has_one_down(node: &Server) -> bool {
    ring(node).is_some_and(|ring| count(&ring, "down") > 0)
}

fn count(ring: &str, state: &str) -> usize {
    ring.matches(&format!(r#""state":"{state}""#)).count()
}
