//! A whole node works without the allocator once it has warmed up: text requests to keys of this shard, of another and of another
//! node, for itself and for that one's clients, one by one and in pipelines, over both backends.
//!
//! The test starts itself anew as a node, with an allocator that counts. The client is a thread of that process, so that it can
//! read the count; what it asks for itself does not count.

#![expect(unsafe_code, reason = "an allocator is unsafe to write")]
#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use slabring_cluster::placement::{hash_key, shard_of};

/// Tells the test, started anew, which port its node has.
const PORT_VARIABLE: &str = "ALLOCATION_TEST_PORT";
/// Tells it that there is another node, and which port that has.
const NEIGHBOUR_VARIABLE: &str = "ALLOCATION_TEST_NEIGHBOUR";
/// Tells it to be that node, and nothing else.
const NODE_VARIABLE: &str = "ALLOCATION_TEST_NODE";
const PATIENCE: Duration = Duration::from_secs(20);
const SHARDS: u16 = 2;
const KEYS: usize = 64;
const ROUNDS: usize = 2_000;
/// Once a second a shard sums up its statistics and looks for silent clients, and the control thread has timers. A work has
/// some thousand requests a second at least, so this is far less than one allocation a request.
const ALLOCATIONS_PER_SECOND_MAX: u64 = 150;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What this thread asks for is not the node's.
    static IS_CLIENT: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count() {
    // A thread that ends has no such variable any more.
    if !IS_CLIENT.try_with(Cell::get).unwrap_or(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    if std::env::var_os(NODE_VARIABLE).is_some() {
        return slabring_server::main();
    }
    if let Ok(port) = std::env::var(PORT_VARIABLE) {
        let port = port.parse().unwrap();
        std::thread::spawn(move || {
            IS_CLIENT.set(true);
            let good = std::panic::catch_unwind(|| measure(port)).unwrap_or(false);
            std::process::exit(i32::from(!good));
        });
        return slabring_server::main();
    }
    let good = ["auto", "epoll"].map(|io| run_node(io) & run_pair(io));
    if good == [true, true] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ports that are free, one after the other, and stay so: the kernel gives those from 32768 on to whoever connects, or listens anywhere.
fn free_ports<const COUNT: usize>() -> [String; COUNT] {
    let random = RandomState::new().hash_one(std::process::id());
    let first = (0..).map(|n| 16_384 + u16::try_from((random.wrapping_add(n * 8)) % 16_000).unwrap());
    let all = |first: u16| std::array::from_fn(|n| first + u16::try_from(n).unwrap());
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports = first.map(all).find(|ports: &[u16; COUNT]| ports.iter().all(is_free));
    ports.expect("some are free").map(|port| port.to_string())
}

/// A node that counts beside one that does not: each owns half of the keys, and each has a client.
fn run_pair(io: &str) -> bool {
    println!("--io {io}, two nodes");
    let [port, neighbour, own_peer, other_peer] = free_ports();
    let pairs = [(&own_peer, &port), (&other_peer, &neighbour)];
    let peers = pairs.map(|(peer, port)| format!("127.0.0.1:{peer}=127.0.0.1:{port}")).join(",");
    let node = |port: &str, number: usize| {
        let peer = peers.split([',', '=']).nth(2 * number).unwrap();
        let mut node = Command::new(std::env::current_exe().unwrap());
        node.args(["-t", "1", "-p", port, "--io", io, "--peers", &peers, "--peer-listen", peer]);
        node
    };
    let mut other = node(&neighbour, 1).env(NODE_VARIABLE, "").spawn().unwrap();
    let status = node(&port, 0).env(PORT_VARIABLE, &port).env(NEIGHBOUR_VARIABLE, &neighbour).status();
    other.kill().unwrap();
    other.wait().unwrap();
    status.unwrap().success()
}

fn run_node(io: &str) -> bool {
    println!("--io {io}");
    let [port] = free_ports();
    let mut node = Command::new(std::env::current_exe().unwrap());
    node.args(["-t", &SHARDS.to_string(), "-p", &port, "--io", io]).env(PORT_VARIABLE, &port);
    node.status().unwrap().success()
}

struct Client {
    stream: TcpStream,
    reply: Vec<u8>,
}

impl Client {
    fn connect(port: u16) -> Self {
        let start = Instant::now();
        loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => {
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return Self { stream, reply: vec![0; 1 << 16] };
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                    assert!(start.elapsed() < PATIENCE, "the node does not start");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    /// Waits until the nodes know each other.
    fn wait_until_met(&mut self, keys: &[String]) {
        let start = Instant::now();
        for key in keys {
            loop {
                self.stream.write_all(format!("mg {key}\r\n").as_bytes()).unwrap();
                let bytes = self.stream.read(&mut self.reply).unwrap();
                if self.reply[..bytes] == *b"EN\r\n" {
                    break;
                }
                assert!(start.elapsed() < PATIENCE, "the nodes do not meet");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn ask(&mut self, request: &[u8], reply: &[u8]) {
        self.stream.write_all(request).unwrap();
        let got = &mut self.reply[..reply.len()];
        self.stream.read_exact(got).unwrap();
        assert_eq!(String::from_utf8_lossy(got), String::from_utf8_lossy(reply));
    }
}

/// Keys of a shard, each as long as the others.
fn keys_of(shard: u16) -> Vec<String> {
    let keys = (10_000..).map(|number| format!("key:{number}"));
    keys.filter(|key| shard_of(hash_key(key.as_bytes()), SHARDS) == shard).take(KEYS).collect()
}

/// Whether no kind of request costs an allocation. The node gives each shard one of the two clients; if there are two nodes, each
/// has one.
fn measure(port: u16) -> bool {
    let both: Vec<_> = keys_of(0).into_iter().zip(keys_of(1)).flat_map(|(one, other)| [one, other]).collect();
    let Ok(neighbour) = std::env::var(NEIGHBOUR_VARIABLE) else {
        let clients = [Client::connect(port), Client::connect(port)];
        let sets = [("of one shard", keys_of(0)), ("of the other", keys_of(1)), ("of both", both)];
        return measure_keys(clients, &sets);
    };
    let mut clients = [Client::connect(port), Client::connect(neighbour.parse().unwrap())];
    clients.iter_mut().for_each(|client| client.wait_until_met(&both));
    measure_keys(clients, &[("of both nodes", both)])
}

fn measure_keys(mut clients: [Client; 2], sets: &[(&str, Vec<String>)]) -> bool {
    let mut all_good = true;
    for (owner, keys) in sets {
        for (name, request, reply) in works(keys) {
            let mut run = |rounds: usize| {
                for _ in 0..rounds {
                    clients.iter_mut().for_each(|client| client.ask(request.as_bytes(), reply.as_bytes()));
                }
            };
            run(ROUNDS / 4);
            let (before, start) = (ALLOCATIONS.load(Ordering::Relaxed), Instant::now());
            run(ROUNDS);
            let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
            println!("  {name}, keys {owner}: {allocations} allocations in {} rounds", 2 * ROUNDS);
            all_good &= allocations <= ALLOCATIONS_PER_SECOND_MAX * (start.elapsed().as_secs() + 1);
        }
    }
    all_good
}

/// Names, requests and replies. Every work leaves its keys as it finds them, once they are set.
fn works(keys: &[String]) -> [(&'static str, String, String); 6] {
    let set = |key: &String| format!("set {key} 0 0 5\r\nvalue\r\n");
    let get = |key: &String| format!("get {key}\r\n");
    let value = |key: &String| format!("VALUE {key} 0 5\r\nvalue\r\n");
    let gotten = |key: &String| value(key) + "END\r\n";
    let each = |text: &dyn Fn(&String) -> String| keys.iter().map(text).collect::<String>();
    let one = &keys[0];
    [
        ("set", set(one), "STORED\r\n".into()),
        ("sets", each(&set), "STORED\r\n".repeat(keys.len())),
        ("get", get(one), gotten(one)),
        ("gets", each(&get), each(&gotten)),
        ("multi-get", format!("get {}\r\n", keys.join(" ")), each(&value) + "END\r\n"),
        ("delete and set", format!("delete {one}\r\n{}", set(one)), "DELETED\r\nSTORED\r\n".into()),
    ]
}
