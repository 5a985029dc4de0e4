//! Several nodes on addresses of the loopback network of their own, so that ports never clash.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::Server;

/// Where clients connect.
const CLIENT_PORT: u16 = 11_211;
/// Where nodes connect.
pub const PEER_PORT: u16 = 7_000;
/// Time for all links to come up: long, because the machine may be compiling too.
const MEET_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Addresses for one cluster: nobody else in this process or another has them.
#[derive(Clone, Copy, Debug)]
pub struct Neighbourhood([u8; 3]);

impl Neighbourhood {
    /// One of its own for each call.
    pub fn new() -> Self {
        /// One for each that this process has, as long as it lives: at a port of its address 0 nobody listens.
        static HELD: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        // Processes with ids that are neighbours begin far from each other.
        let [low, high, ..] = std::process::id().to_le_bytes();
        let begin = u16::from_be_bytes([low, high]);
        for number in 0..=u16::MAX {
            // Another process may have it, with an id that differs by little and many places; and 127.0 is of servers without a cluster.
            let [a, b] = begin.wrapping_add(number).to_be_bytes();
            let place = Self([127, a, b]);
            if a > 0
                && let Ok(socket) = place.hold()
            {
                held.push(socket);
                return place;
            }
        }
        panic!("no addresses of the loopback network are free");
    }

    /// A socket that nobody else can have.
    fn hold(self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.ip(0), PEER_PORT)).into())?;
        Ok(socket)
    }

    /// The address of node `number`, from 1.
    pub fn ip(self, number: u8) -> IpAddr {
        let Self([a, b, c]) = self;
        Ipv4Addr::new(a, b, c, number).into()
    }

    /// Where its clients connect.
    pub fn client(self, number: u8) -> SocketAddr {
        (self.ip(number), CLIENT_PORT).into()
    }

    /// Where other nodes connect to it.
    pub fn peer(self, number: u8) -> SocketAddr {
        (self.ip(number), PEER_PORT).into()
    }

    /// The list of `count` nodes for `--peers`.
    pub fn peers(self, count: u8) -> String {
        (1..=count).map(|number| self.peer(number).to_string()).collect::<Vec<_>>().join(",")
    }

    /// A file for `--cluster` with one node for each weight.
    pub fn ring(self, epoch: u64, weights: &[u16]) -> String {
        let head = format!("epoch = {epoch}\n");
        let nodes = (1..).zip(weights).map(|(number, weight)| {
            let (peer, client) = (self.peer(number), self.client(number));
            format!("[[node]]\npeer = \"{peer}\"\nclient = \"{client}\"\nweight = {weight}\n")
        });
        head + &nodes.collect::<String>()
    }
}

impl Default for Neighbourhood {
    fn default() -> Self {
        Self::new()
    }
}

/// A file that goes with its owner.
#[derive(Debug)]
pub struct File(PathBuf);

impl File {
    /// Writes it, under a name that no other of this process has.
    pub fn new(text: &str) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = Self(std::env::temp_dir().join(format!("slabring-{}-{number}", std::process::id())));
        file.write(text);
        file
    }

    /// Writes it anew.
    pub fn write(&self, text: &str) {
        std::fs::write(&self.0, text).expect("the temporary folder takes files");
    }

    /// Its path.
    pub fn path(&self) -> &str {
        self.0.to_str().expect("the temporary folder has a plain name")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A file that has gone already is no loss.
        match std::fs::remove_file(&self.0) {
            Ok(()) | Err(_) => {}
        }
    }
}

/// Nodes that know each other.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in the order of their numbers.
    pub nodes: Vec<Server>,
    /// Their addresses.
    pub place: Neighbourhood,
}

impl Cluster {
    /// Starts `count` nodes with `--peers` and `args`, and waits until they have met.
    #[track_caller]
    pub fn of_peers(count: u8, args: &[&str]) -> Self {
        let place = Neighbourhood::new();
        let peers = place.peers(count);
        Self::start(place, count, &[&["--peers", &peers], args].concat())
    }

    /// Starts `count` nodes with `args`, and waits until they have met.
    #[track_caller]
    pub fn start(place: Neighbourhood, count: u8, args: &[&str]) -> Self {
        let start = |number| Server::start_on(place.client(number), args).expect("a node starts");
        let cluster = Self { nodes: (1..=count).map(start).collect(), place };
        cluster.wait_until_met();
        cluster
    }

    /// Waits until every node can forward to every other: a key of each is found through each.
    #[track_caller]
    pub fn wait_until_met(&self) {
        let deadline = Instant::now() + MEET_TIMEOUT;
        for node in &self.nodes {
            let mut connection = node.connect();
            while let Some(answer) =
                (0..256).map(|n| connection.command(&format!("mg meet{n}"))).find(|a| a != "EN")
            {
                assert!(Instant::now() < deadline, "the nodes do not meet: {answer}; {}", node.stderr());
                std::thread::sleep(POLL_INTERVAL);
            }
        }
    }
}
