//! A key that is asked for very often, at nodes that do not own it: they answer it themselves, and nobody sees time go back, whoever
//! writes, hangs or dies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slabring_cluster::placement::{hash_key, partition_of};
use slabring_cluster::ring::{Ring, RingDocument};
use slabring_tests::cluster::{Cluster, Neighbourhood};
use slabring_tests::etcd::Etcd;
use slabring_tests::machine::is_late;
use slabring_tests::{Connection, Server, Signal, ask_until_in_time, wait_until};

const KEY: &str = "hot";
const NODES: u8 = 3;
/// Requests that a reader sends at once, four of five for the hot key.
const BATCH: usize = 20;
/// A write waits for a holder that hangs for a fifth of a second. The rest is air: the machine may be compiling too.
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);
/// Time for anything, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// What everybody knows of the hot key, and clients that find out more.
struct Readers {
    /// The latest number that was acknowledged, or read.
    known: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    fn start(nodes: &[SocketAddr], errors: bool) -> Self {
        let readers = Self {
            known: Arc::default(),
            is_over: Arc::default(),
            asked: Arc::default(),
            threads: Vec::new(),
        };
        let read = |(&node, seed)| {
            let (known, is_over) = (Arc::clone(&readers.known), Arc::clone(&readers.is_over));
            let asked = Arc::clone(&readers.asked);
            std::thread::spawn(move || read_on(node, seed, errors, &known, &is_over, &asked))
        };
        let threads = nodes.iter().zip(0..).map(read).collect();
        Self { threads, ..readers }
    }

    #[track_caller]
    fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|reader| reader.join().expect("nothing old was read"));
    }

    /// Writes the next number and says so.
    fn write(&self, connection: &mut Connection, how: &str) {
        let next = self.known.load(Ordering::SeqCst) + 1;
        let line = match how {
            "incr" => format!("incr {KEY} 1"),
            _ => format!("set {KEY} 0 0 {}\r\n{next}", next.to_string().len()),
        };
        let answer = connection.command(&line);
        if is_late(&answer) && how != "incr" {
            return self.write(connection, how);
        }
        assert!(answer == "STORED" || answer == next.to_string(), "{line:?}: {answer}");
        self.known.fetch_max(next, Ordering::SeqCst);
    }
}

/// Asks one node for the hot key and some others, again and again. No answer may be older than what anybody knew before it was asked
/// for, or than an answer before it.
fn read_on(
    node: SocketAddr,
    seed: u64,
    errors: bool,
    known: &AtomicU64,
    is_over: &AtomicBool,
    asked: &AtomicU64,
) {
    let mut connection = Connection::open(node).expect("the node listens");
    let mut round = seed;
    while !is_over.load(Ordering::SeqCst) {
        round += 1;
        let is_hot = |n: usize| !n.is_multiple_of(5);
        let request = |n| match is_hot(n) {
            true if n % 2 == 0 => format!("get {KEY}\r\n"),
            true => format!("mg {KEY} v c\r\n"),
            false => format!("get cold{}\r\n", (round * 7 + n as u64) % 500),
        };
        let mut floor = known.load(Ordering::SeqCst);
        connection.send((0..BATCH).map(request).collect::<String>()).expect("the node lives");
        for n in 0..BATCH {
            let answer = next_value(&mut connection, is_hot(n) && n % 2 == 1);
            match answer {
                Ok(Some(value)) if is_hot(n) => {
                    assert!(value >= floor, "{value} was read after {floor}");
                    floor = value;
                }
                Ok(_) => {}
                Err(error) => assert!(errors || is_late(&error), "{error}"),
            }
        }
        known.fetch_max(floor, Ordering::SeqCst);
        asked.fetch_add(BATCH as u64 * 4 / 5, Ordering::Relaxed);
    }
}

fn next_value(connection: &mut Connection, is_meta: bool) -> Result<Option<u64>, String> {
    let line = String::from_utf8(connection.read_line().expect("an answer")).expect("text");
    match line.split(' ').next() {
        Some("END" | "EN") => return Ok(None),
        Some("VALUE" | "VA") => {}
        _ => return Err(line),
    }
    let value = String::from_utf8(connection.read_line().expect("a value")).expect("text");
    if !is_meta {
        assert_eq!(connection.read_line().expect("an end"), b"END");
    }
    Ok(value.parse().ok())
}

fn ring(node: &Server) -> Ring {
    let mut connection = node.connect();
    let head = connection.command("config get ring");
    let length: usize = head.rsplit(' ').next().expect("a length").parse().expect("a length");
    let document = connection.read_exact(length).expect("a document");
    Ring::new(RingDocument::from_json(&document).expect("a good one")).expect("a ring")
}

/// The place of the node that owns the hot key, and of the others.
fn owner_and_others(cluster: &Cluster) -> (usize, Vec<usize>) {
    let ring = ring(&cluster.nodes[0]);
    let slot = ring.slot(ring.primary(partition_of(hash_key(KEY.as_bytes()))));
    let address = slot.client.to_string();
    let is_owner = |node: &Server| node.address().to_string() == address;
    let owner = cluster.nodes.iter().position(is_owner).expect("one of them");
    (owner, (0..cluster.nodes.len()).filter(|&node| node != owner).collect())
}

fn addresses(cluster: &Cluster, nodes: impl IntoIterator<Item = usize>) -> Vec<SocketAddr> {
    nodes.into_iter().map(|node| cluster.nodes[node].address()).collect()
}

fn stat(node: &Server, name: &str) -> u64 {
    node.connect().stat(name)
}

/// Waits until these nodes hold copies of the hot key, and no other key is hot.
#[track_caller]
fn wait_for_copies(cluster: &Cluster, nodes: &[usize]) {
    wait_until("copies", || nodes.iter().all(|&node| stat(&cluster.nodes[node], "slabring_grants_held") > 0));
}

/// Everybody reads at all nodes, while the key is written again and again, at its owner and elsewhere.
fn check_writes(args: &[&str]) {
    let cluster = Cluster::of_peers(NODES, args);
    let (owner, others) = owner_and_others(&cluster);
    let mut writers: Vec<_> = cluster.nodes.iter().map(Server::connect).collect();
    wait_until("a write", || writers[owner].command(&format!("set {KEY} 0 0 1\r\n0")) == "STORED");
    let readers = Readers::start(&addresses(&cluster, 0..usize::from(NODES)), false);
    for (round, writer) in [owner, others[0], others[1]].into_iter().enumerate() {
        let how = if round == 1 { "incr" } else { "set" };
        let waits = || stat(&cluster.nodes[owner], "slabring_revocation_waits");
        let before = waits();
        // Where the machine stops all for a moment copies have run out before they are called back.
        wait_until("a write that calls copies back", || {
            wait_for_copies(&cluster, &others);
            readers.write(&mut writers[writer], how);
            waits() > before
        });
        (0..5).for_each(|_| readers.write(&mut writers[writer], how));
    }
    // A flush leaves nothing to read anywhere.
    wait_for_copies(&cluster, &others);
    assert_eq!(ask_until_in_time(|| writers[others[0]].command("flush_all")), "OK");
    let found: Vec<_> = writers.iter_mut().map(|node| node.get(KEY)).collect();
    assert_eq!(found, [None, None, None]);
    readers.end();
}

#[test]
fn who_writes_a_hot_key_is_never_followed_by_who_reads_the_old_value() {
    check_writes(&["-t", "2"]);
}

#[test]
fn who_writes_a_hot_key_with_copies_is_never_followed_by_who_reads_the_old_value() {
    check_writes(&["-t", "1", "--replicas", "2", "--replication", "sync"]);
}

#[test]
fn a_hot_key_is_answered_where_it_is_asked_for() {
    let cluster = Cluster::of_peers(NODES, &["-t", "1"]);
    let (owner, others) = owner_and_others(&cluster);
    cluster.nodes[owner].connect().set(KEY, "0");
    let readers = Readers::start(&addresses(&cluster, others.iter().copied()), true);
    let counts = || {
        let hits: u64 = others.iter().map(|&node| stat(&cluster.nodes[node], "slabring_front_hits")).sum();
        let sent = stat(&cluster.nodes[owner], "slabring_peer_requests");
        (hits, sent, readers.asked.load(Ordering::Relaxed))
    };
    wait_for_copies(&cluster, &others);
    // A machine that stops all for a moment lets copies run out: most of the time it does not.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (hits, sent, asked) = counts();
        let enough = asked + 10_000;
        wait_until("some thousand more", || readers.asked.load(Ordering::Relaxed) >= enough);
        let after = counts();
        let (hits, sent, asked) = (after.0 - hits, after.1 - sent, after.2 - asked);
        println!("{hits} of {asked} were answered from copies, {sent} of these and others by the owner");
        if hits * 2 > asked && sent < hits {
            break;
        }
        assert!(Instant::now() < deadline, "{hits} of {asked}, and {sent}");
    }

    // A holder that hangs holds up a write for the time of its grant, and reads nothing old afterwards.
    wait_for_copies(&cluster, &others);
    let mut writer = cluster.nodes[owner].connect();
    cluster.nodes[others[0]].signal(Signal::Stop);
    let asked_at = Instant::now();
    readers.write(&mut writer, "set");
    let took = asked_at.elapsed();
    println!("a write under a holder that hangs took {took:?}");
    cluster.nodes[others[0]].signal(Signal::Continue);
    assert!(took < WRITE_TIME_MAX, "{took:?}");
    wait_for_copies(&cluster, &others);

    // So does an owner that hangs while its copies run out.
    cluster.nodes[owner].signal(Signal::Stop);
    let held = || others.iter().map(|&node| stat(&cluster.nodes[node], "slabring_grants_held")).sum::<u64>();
    wait_until("the end of all copies", || held() == 0);
    cluster.nodes[owner].signal(Signal::Continue);
    readers.write(&mut writer, "incr");
    readers.end();
}

#[test]
fn nobody_reads_what_was_granted_by_an_owner_that_was_killed() {
    let place = Neighbourhood::new();
    let Some(etcd) = Etcd::start(place) else { return };
    let start = |number| {
        let (url, peer) = (etcd.url(), place.peer(number).to_string());
        let args =
            ["--etcd", &url, "--peer-listen", &peer, "--replicas", "2", "--replication", "sync", "-t", "1"];
        Server::start_on(place.client(number), &args).expect("a node starts")
    };
    let mut cluster = Cluster { nodes: (1..=NODES).map(start).collect(), place };
    cluster.wait_until_met();
    let mut first = cluster.nodes[0].connect();
    wait_until("a write", || first.command(&format!("set {KEY} 0 0 1\r\n0")) == "STORED");
    let (owner, others) = owner_and_others(&cluster);
    let readers = Readers::start(&addresses(&cluster, others.iter().copied()), true);
    wait_for_copies(&cluster, &others);
    drop(cluster.nodes.remove(owner));
    let mut writers: Vec<_> = cluster.nodes.iter().map(Server::connect).collect();
    for n in 0..4 {
        let writer = &mut writers[n % 2];
        let next = readers.known.load(Ordering::SeqCst) + 1;
        let line = format!("set {KEY} 0 0 {}\r\n{next}", next.to_string().len());
        wait_until("a write", || writer.command(&line) == "STORED");
        readers.known.fetch_max(next, Ordering::SeqCst);
    }
    readers.end();
}
