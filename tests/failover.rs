//! Nodes whose items have copies, with a real etcd: a primary is killed while clients write, others take over with all that the mode
//! promises, and who returns is filled before it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use slabring_cluster::ring::{NodeState, RingDocument};
use slabring_tests::cluster::{Cluster, Neighbourhood};
use slabring_tests::coordinated::read;
use slabring_tests::etcd::Etcd;
use slabring_tests::{Connection, Server, wait_until};

const NODES: u8 = 3;
/// Keys that each node is primary of some of.
const KEYS: usize = 300;
/// The killed node's keys are answered within this time: a second and a half of silence, a step of the conductor, and air, because the
/// machine may be compiling too.
const FAIL_OVER_MAX: Duration = Duration::from_secs(10);
/// Time for what takes a cluster longer: moving a third of everything, say.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

fn start(place: Neighbourhood, number: u8, etcd: &Etcd, args: &[&str]) -> Server {
    let (url, peer) = (etcd.url(), place.peer(number).to_string());
    let all = [&["--etcd", &url, "--peer-listen", &peer], args].concat();
    Server::start_on(place.client(number), &all).expect("a node starts")
}

/// Nodes of which each has its place and what belongs there.
fn start_all(place: Neighbourhood, etcd: &Etcd, args: &[&str]) -> Cluster {
    let nodes = (1..=NODES).map(|number| start(place, number, etcd, args)).collect();
    let cluster = Cluster { nodes, place };
    wait_until("rest", || is_settled(&cluster));
    cluster
}

fn ring(node: &Server) -> Option<RingDocument> {
    let mut connection = node.connect();
    let head = connection.command("config get ring");
    let length: usize = head.strip_prefix("CONFIG ring 0 ")?.parse().expect("a length");
    let document = connection.read_exact(length).expect("a document");
    Some(RingDocument::from_json(&document).expect("a good one"))
}

/// Whether all nodes that run follow one ring, in which all are up and nothing moves.
fn is_settled(cluster: &Cluster) -> bool {
    let rings: Vec<_> = cluster.nodes.iter().map(ring).collect();
    let is_good = |ring: &RingDocument| {
        let up = ring.slots.iter().filter(|slot| slot.state == NodeState::Up).count();
        let moves = ring.replication.as_ref().is_some_and(|replication| replication.movement.is_some());
        up == cluster.nodes.len() && !moves
    };
    rings[0].as_ref().is_some_and(is_good) && rings.windows(2).all(|pair| pair[0] == pair[1])
}

fn has_one_down(node: &Server) -> bool {
    ring(node).is_some_and(|ring| ring.slots.iter().any(|slot| slot.state == NodeState::Down))
}

fn sum(cluster: &Cluster, name: &str) -> u64 {
    cluster.nodes.iter().map(|node| node.connect().stat(name)).sum()
}

/// Everything that was written is with all who hold it.
#[track_caller]
fn wait_for_copies(cluster: &Cluster) {
    wait_until("rest", || sum(cluster, "slabring_replication_lag_entries") == 0);
    wait_until("every copy", || sum(cluster, "curr_items") == 2 * KEYS as u64);
}

/// The values of all keys, when there are no errors any more.
#[track_caller]
fn read_all(connection: &mut Connection) -> Vec<Option<u64>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let read = (0..KEYS).map(|key| read(connection, key));
        match read.collect::<Result<Vec<_>, _>>() {
            Ok(values) => return values,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Writes rising numbers to the keys that have `every` as divisor, in turn, until that is 0. Gives the last number of each key that was
/// acknowledged, and the last of all.
fn write_on(mut connection: Connection, every: Arc<AtomicUsize>) -> JoinHandle<(Vec<u64>, u64)> {
    std::thread::spawn(move || {
        let (mut acknowledged, mut number) = (vec![0; KEYS], 0);
        for key in (0..KEYS).cycle() {
            match every.load(Ordering::Relaxed) {
                0 => break,
                every if key % every != 0 => continue,
                _ => number += 1,
            }
            let text = number.to_string();
            if connection.command(&format!("set key{key} 0 0 {}\r\n{text}", text.len())) == "STORED" {
                acknowledged[key] = number;
            }
        }
        (acknowledged, number)
    })
}

/// An operator's wish for a node.
fn wish(etcd: &Etcd, place: Neighbourhood, number: u8, wish: &str) {
    let key = BASE64_STANDARD.encode(format!("/slabring/slabring/wish/{}", place.peer(number)));
    let value = BASE64_STANDARD.encode(wish);
    etcd.post("/v3/kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#));
}

fn check(mode: &str, threads: &str) {
    let place = Neighbourhood::new();
    let Some(etcd) = Etcd::start(place) else { return };
    let args = ["--replicas", "2", "--replication", mode, "-t", threads];
    let mut cluster = start_all(place, &etcd, &args);
    let mut front = cluster.nodes[0].connect();
    for key in 0..KEYS {
        wait_until("a write", || front.command(&format!("set key{key} 0 0 1\r\n0")) == "STORED");
    }
    wait_for_copies(&cluster);

    let every = Arc::new(AtomicUsize::new(1));
    let writer = write_on(cluster.nodes[0].connect(), Arc::clone(&every));
    std::thread::sleep(Duration::from_millis(300));
    let killed = Instant::now();
    drop(cluster.nodes.pop());
    // What was lost is seen where nothing is written from now on.
    every.store(2, Ordering::Relaxed);
    let mut other = cluster.nodes[1].connect();
    wait_until("a ring without it", || has_one_down(&cluster.nodes[1]));
    let noticed = killed.elapsed();
    read_all(&mut other);
    let took = killed.elapsed();
    assert!(took < FAIL_OVER_MAX, "{mode}: {took:?}");
    every.store(0, Ordering::Relaxed);
    let (acknowledged, last) = writer.join().expect("the writer ends");
    let found = read_all(&mut other);
    let is_older = |key: &usize| found[*key] < Some(acknowledged[*key]);
    let lost = (0..KEYS).filter(is_older).count();
    println!(
        "{mode}: removed {noticed:?} and all keys answered {took:?} after the kill; of {last} writes {lost} were acknowledged and lost"
    );
    for (key, (found, acknowledged)) in found.iter().zip(&acknowledged).enumerate() {
        let found = found.unwrap_or_else(|| panic!("{mode}: key{key} is lost"));
        // Nothing that was never written, and in `sync` nothing older than what a client was told.
        assert!(found <= last, "{mode}: key{key} is {found}");
        assert!(mode != "sync" || found >= *acknowledged, "key{key} is {found} after {acknowledged}");
    }

    cluster.nodes.push(start(place, NODES, &etcd, &args));
    wait_until("the return", || is_settled(&cluster));
    wait_for_copies(&cluster);
    let mut returned = cluster.nodes[2].connect();
    assert_eq!(read_all(&mut returned), found, "{mode}: after the return");

    // It has everything that it should: another may go.
    wish(&etcd, place, 1, "\"down\"");
    drop(cluster.nodes.remove(0));
    wait_until("a ring without it", || has_one_down(&cluster.nodes[1]));
    assert_eq!(read_all(&mut returned), found, "{mode}: after another one's end");
}

#[test]
fn a_killed_primarys_keys_are_served_by_its_copies_in_async() {
    check("async", "1");
}

#[test]
fn a_killed_primarys_keys_are_served_by_its_copies_in_inval() {
    check("inval", "2");
}

#[test]
fn nothing_acknowledged_is_lost_with_a_killed_primary_in_sync() {
    check("sync", "1");
}

#[test]
fn nothing_acknowledged_is_lost_with_a_killed_primary_of_two_shards_in_sync() {
    check("sync", "2");
}
