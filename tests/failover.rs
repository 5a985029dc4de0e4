//! Nodes whose items have copies, with a real etcd: a primary is killed while clients write, others take over with all that the mode
//! promises, and who returns is filled before it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slabring_tests::cluster::Cluster;
use slabring_tests::coordinated::{Coordinated, has_one_down, read};
use slabring_tests::tampering::{Tampering, Wait};
use slabring_tests::{Connection, wait_until};

const NODES: u8 = 3;
/// Keys that each node is primary of some of.
const KEYS: usize = 300;
/// Keys of two kinds that were named under a fence, and which.
const FENCED_KEYS: usize = 20;
const FENCE: u64 = 1_000;
/// Lines in which a tracker has heard of a new ring.
const PINGS_MAX: usize = 30;
/// The killed node's keys are answered within this time: a second and a half of silence, a step of the conductor, and air, because the
/// machine may be compiling too.
const FAIL_OVER_MAX: Duration = Duration::from_secs(30);
/// Time until nothing is refused any more.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

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

/// Names fences for keys without items: by deletions, and by writes that fail.
fn name_fences(connection: &mut Connection) {
    for n in 0..FENCED_KEYS {
        wait_until("a fence", || connection.command(&format!("md deleted{n} Y{FENCE}")) == "NF");
        assert_eq!(connection.command(&format!("ms failed{n} 1 MR Y{FENCE}\r\nx")), "NS");
    }
}

/// Nobody who serves a key now accepts less than who served it before.
fn check_fences(connection: &mut Connection, mode: &str) {
    for key in (0..FENCED_KEYS).flat_map(|n| [format!("deleted{n}"), format!("failed{n}")]) {
        let answer = connection.command(&format!("ms {key} 1 Y{}\r\nx", FENCE - 1));
        assert_eq!(answer, "EX", "{mode}: {key}");
        assert_eq!(connection.command(&format!("md {key} Y{FENCE}")), "NF", "{mode}: {key}");
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

fn check(mode: &str, threads: &str) {
    let args = ["--replicas", "2", "--replication", mode, "-t", threads];
    let Some(mut nodes) = Coordinated::start(NODES, &args) else { return };
    let mut front = nodes.cluster.nodes[0].connect();
    for key in 0..KEYS {
        wait_until("a write", || front.command(&format!("set key{key} 0 0 1\r\n0")) == "STORED");
    }
    name_fences(&mut front);
    wait_for_copies(&nodes.cluster);

    let mut tracker = nodes.cluster.nodes[1].connect();
    assert!(tracker.command("track on").starts_with("TRACKING "));
    let every = Arc::new(AtomicUsize::new(1));
    let writer = write_on(nodes.cluster.nodes[0].connect(), Arc::clone(&every));
    std::thread::sleep(Duration::from_millis(300));
    let killed = Instant::now();
    nodes.kill(2);
    // What was lost is seen where nothing is written from now on.
    every.store(2, Ordering::Relaxed);
    let mut other = nodes.cluster.nodes[1].connect();
    wait_until("a ring without it", || has_one_down(&nodes.cluster.nodes[1]));
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

    check_fences(&mut other, mode);
    let told = (0..PINGS_MAX).any(|_| tracker.read_line().expect("a tracker is told").starts_with(b"IF "));
    assert!(told, "whose copies may be of another owner's keys is told");
    nodes.start_node(NODES);
    wait_until("the return", || nodes.is_settled());
    wait_for_copies(&nodes.cluster);
    let mut returned = nodes.cluster.nodes[2].connect();
    assert_eq!(read_all(&mut returned), found, "{mode}: after the return");

    // It has everything that it should: another may go.
    nodes.wish(1, "\"down\"");
    drop(nodes.cluster.nodes.remove(0));
    wait_until("a ring without it", || has_one_down(&nodes.cluster.nodes[1]));
    assert_eq!(read_all(&mut returned), found, "{mode}: after another one's end");
    check_fences(&mut returned, mode);
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

#[test]
fn copies_take_over_from_a_node_of_which_one_shard_hangs_and_give_back_when_it_turns_again() {
    let Some(nodes) = Coordinated::start(2, &["--replicas", "2", "--replication", "sync", "-t", "2"]) else {
        return;
    };
    let [healthy, half] = &nodes.cluster.nodes[..] else { panic!("two nodes") };
    let mut client = healthy.connect();
    for key in 0..KEYS {
        wait_until("a write", || client.command(&format!("set key{key} 0 0 1\r\n0")) == "STORED");
    }
    let Some(tampering) = Tampering::begin(half, "shard-1", Wait::Hangs) else { return };
    wait_until("a ring without it", || has_one_down(healthy));
    half.wait_until_says("a shard stands still");
    assert!(read_all(&mut client).iter().all(|value| *value == Some(0)));
    drop(tampering);
    wait_until("the return", || nodes.is_settled());
}
