//! What a killed node costs, in each mode: until others answer for its keys, what was acknowledged and is lost, what is read that is
//! older than it may be, and how much of the ring moves. A table for `docs/cluster.md`, made when it is asked for:
//!
//! ```sh
//! SLABRING_KILLS=20 cargo test -p slabring-tests --test failover_times -- --nocapture
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use slabring_cluster::placement::PartitionId;
use slabring_cluster::ring::{Ring, RingDocument};
use slabring_tests::coordinated::{Coordinated, has_one_down, ring, wait_until};
use slabring_tests::{Connection, Server};

/// Says how many nodes are killed in each mode.
const KILLS: &str = "SLABRING_KILLS";
const NODES: u8 = 3;
const KEYS: usize = 300;
/// Of each key one write in so many is a deletion.
const DELETES_EVERY: u64 = 8;
/// Writes go on for so long before the kill and after the fail-over.
const AROUND: Duration = Duration::from_millis(500);
/// The goal: half of the kills, and the worst.
const GOAL: Duration = Duration::from_millis(2_500);

/// What is known of each key: the numbers of the last acknowledged write, of the last acknowledged deletion, and of the last one that was
/// asked for: it may have been done.
struct Book {
    set: Vec<AtomicU64>,
    deleted: Vec<AtomicU64>,
    to_delete: Vec<AtomicU64>,
    /// The keys that are written have this divisor; 0: the end.
    every: AtomicU64,
    is_over: AtomicBool,
}

/// What came of one kill.
#[derive(Clone, Copy, Default)]
struct Outcome {
    first_answer: Duration,
    all_answers: Duration,
    was_conductor: bool,
    acknowledged: u64,
    lost: usize,
    reads: u64,
    /// Reads older than a write that was acknowledged before, and than such a deletion.
    older_than_set: u64,
    older_than_deletion: u64,
    /// Primaries that changed, and those of the dead node.
    moved: usize,
    owned: usize,
}

fn set(connection: &mut Connection, key: usize, number: u64) -> bool {
    let text = number.to_string();
    connection.command(&format!("set key{key} 0 0 {}\r\n{text}", text.len())) == "STORED"
}

/// A number, none, or an error.
fn read(connection: &mut Connection, key: usize) -> Result<Option<u64>, String> {
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

/// Writes rising numbers, and deletes now and then. Gives what was acknowledged.
fn write_on(mut connection: Connection, book: &Book) -> u64 {
    let (mut number, mut acknowledged) = (0, 0);
    for key in (0..KEYS).cycle() {
        match book.every.load(SeqCst) {
            0 => break,
            every if !(key as u64).is_multiple_of(every) => continue,
            _ => number += 1,
        }
        let deletes = (number / KEYS as u64 + key as u64).is_multiple_of(DELETES_EVERY);
        let is_done = if deletes {
            book.to_delete[key].store(number, SeqCst);
            matches!(connection.command(&format!("delete key{key}")).as_str(), "DELETED" | "NOT_FOUND")
        } else {
            set(&mut connection, key, number)
        };
        let known = if deletes { &book.deleted } else { &book.set };
        if is_done {
            known[key].store(number, SeqCst);
            acknowledged += 1;
        }
    }
    acknowledged
}

/// Reads keys in turn: how many, and how many were older than what was acknowledged before they were asked for.
fn read_on(mut connection: Connection, book: &Book) -> [u64; 3] {
    let [mut reads, mut older_than_set, mut older_than_deletion] = [0; 3];
    for key in (0..KEYS).cycle().take_while(|_| !book.is_over.load(SeqCst)) {
        let (set, deleted) = (book.set[key].load(SeqCst), book.deleted[key].load(SeqCst));
        let Ok(Some(found)) = read(&mut connection, key) else { continue };
        reads += 1;
        older_than_deletion += u64::from(found < deleted);
        older_than_set += u64::from(deleted <= found && found < set);
    }
    [reads, older_than_set, older_than_deletion]
}

/// Keys of a node.
fn keys_of(node: &Server) -> Vec<usize> {
    let mut connection = node.connect();
    assert_eq!(connection.command("config set redirect on"), "OK");
    let is_own = |key: &usize| !connection.command(&format!("mg key{key}")).starts_with("SERVER_ERROR MOVED");
    (0..KEYS).filter(is_own).collect()
}

fn ring_of(node: &Server) -> Ring {
    let document = RingDocument::from_json(ring(node).expect("a ring").as_bytes()).expect("a good one");
    Ring::new(document).expect("a good one")
}

/// How many partitions have another primary.
fn moved(before: &Ring, after: &Ring) -> usize {
    PartitionId::all().filter(|&partition| before.primary(partition) != after.primary(partition)).count()
}

/// Kills node `number` of a fresh cluster.
fn kill_one(mode: &str, number: u8) -> Option<Outcome> {
    let mut nodes = Coordinated::start(NODES, &["--replicas", "2", "--replication", mode, "-t", "1"])?;
    let victim = usize::from(number - 1);
    let mut front = nodes.cluster.nodes[0].connect();
    (0..KEYS).for_each(|key| wait_until("a write", || set(&mut front, key, 0)));
    let numbers = || (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let book = Book {
        set: numbers(),
        deleted: numbers(),
        to_delete: numbers(),
        every: AtomicU64::new(1),
        is_over: AtomicBool::new(false),
    };
    let owned = keys_of(&nodes.cluster.nodes[victim]);
    let was_conductor = nodes.is_conductor(number);
    let before = ring_of(&nodes.cluster.nodes[victim]);
    let place = nodes.cluster.place;
    let stays: Vec<_> = (1..=NODES).filter(|n| *n != number).map(|n| place.client(n)).collect();
    let connect = |n: usize| Connection::open(stays[n]).expect("a node that stays");
    thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(connect(0), &book));
        let readers = [0, 1].map(|n| (n, connect(n)));
        let readers = readers.map(|(_, connection)| scope.spawn(|| read_on(connection, &book)));
        thread::sleep(AROUND);
        let killed = Instant::now();
        nodes.kill(victim);
        // What was lost is seen where nothing is written from now on.
        book.every.store(2, SeqCst);
        let mut asking = connect(1);
        // Its last answers may lie on the link yet.
        while read(&mut asking, owned[0]).is_ok() && killed.elapsed() < AROUND {}
        while read(&mut asking, owned[0]).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        let first_answer = killed.elapsed();
        while owned.iter().any(|&key| read(&mut asking, key).is_err()) {}
        let all_answers = killed.elapsed();
        wait_until("a ring without it", || has_one_down(&nodes.cluster.nodes[0]));
        let moved = moved(&before, &ring_of(&nodes.cluster.nodes[0]));
        thread::sleep(AROUND);
        book.every.store(0, SeqCst);
        book.is_over.store(true, SeqCst);
        let acknowledged = writer.join().expect("the writer ends");
        let [reads, older_than_set, older_than_deletion] = readers
            .map(|reader| reader.join().expect("the reader ends"))
            .into_iter()
            .fold([0; 3], |sum, one| [sum[0] + one[0], sum[1] + one[1], sum[2] + one[2]]);
        let is_lost = |key: &usize| {
            let (set, deleted) = (book.set[*key].load(SeqCst), book.deleted[*key].load(SeqCst));
            let found = read(&mut asking, *key).expect("all is well again");
            let may_be_gone = found.is_none() && book.to_delete[*key].load(SeqCst) > set;
            set > deleted && found < Some(set) && !may_be_gone || found.is_some_and(|found| found < deleted)
        };
        let lost = (0..KEYS).filter(is_lost).count();
        eprintln!("{mode}: n{number}, the conductor: {was_conductor}, {first_answer:?}, {all_answers:?}");
        let owned =
            PartitionId::all().filter(|&partition| before.primary(partition).0 == u16::from(number) - 1);
        Some(Outcome {
            first_answer,
            all_answers,
            was_conductor,
            acknowledged,
            lost,
            reads,
            older_than_set,
            older_than_deletion,
            moved,
            owned: owned.count(),
        })
    })
}

fn median_and_max(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let median = times[times.len() / 2];
    format!("{:.2} s, {:.2} s", median.as_secs_f64(), times[times.len() - 1].as_secs_f64())
}

/// One line of the table. Fails where a promise is broken.
fn check(mode: &str, kills: usize) {
    let victims = (1..=NODES).cycle().take(kills);
    let outcomes: Option<Vec<_>> = victims.map(|number| kill_one(mode, number)).collect();
    let Some(outcomes) = outcomes else { return };
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let first = outcomes.iter().map(|outcome| outcome.first_answer).collect();
    let all: Vec<_> = outcomes.iter().map(|outcome| outcome.all_answers).collect();
    let conductors = outcomes.iter().filter(|outcome| outcome.was_conductor).count();
    let lost = outcomes.iter().map(|outcome| outcome.lost).sum::<usize>();
    let (moved, owned): (Vec<_>, Vec<_>) =
        outcomes.iter().map(|outcome| (outcome.moved, outcome.owned)).unzip();
    let moved = moved.iter().sum::<usize>() as f64 / owned.iter().sum::<usize>() as f64;
    println!(
        "| `{mode}` | {} | {} | {conductors} of {kills} | {lost} of {} | {} / {} of {} | {moved:.2} |",
        median_and_max(first),
        median_and_max(all.clone()),
        sum(|outcome| outcome.acknowledged),
        sum(|outcome| outcome.older_than_set),
        sum(|outcome| outcome.older_than_deletion),
        sum(|outcome| outcome.reads),
    );
    assert!(mode != "sync" || lost == 0 && sum(|outcome| outcome.older_than_set) == 0, "{mode}");
    assert!(mode == "async" || sum(|outcome| outcome.older_than_deletion) == 0, "{mode}");
    assert!(all.iter().all(|time| *time <= GOAL), "{mode}: {all:?}");
}

#[test]
fn a_killed_nodes_keys_are_answered_before_long_and_nothing_promised_is_lost() {
    let Ok(kills) = std::env::var(KILLS) else { return };
    let kills = kills.parse().expect("a number of kills");
    println!(
        "| mode | first answer: median, max | all answers | conductors | lost of acknowledged | older than a set / a deletion of reads | moved / ideal |"
    );
    println!("|---|---|---|---|---|---|---|");
    ["sync", "inval", "async"].into_iter().for_each(|mode| check(mode, kills));
}
