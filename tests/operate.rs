//! An operator grows, shrinks and mends a cluster with `slabring-cli` while clients use it, with a real etcd: nothing that was stored is
//! lost by it, nothing old is read, and whoever stops waiting has stopped nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slabring_cluster::placement::{PARTITION_COUNT, PartitionId};
use slabring_cluster::ring::{NodeState, Ring, RingDocument};
use slabring_tests::cluster::Neighbourhood;
use slabring_tests::etcd::Etcd;
use slabring_tests::machine::is_busy;
use slabring_tests::process::Finished;
use slabring_tests::{Connection, Server, Signal, cli, wait_until};

/// Members from the start; one more stands by.
const NODES: u8 = 3;
const STANDBY: u8 = NODES + 1;
/// Items that nobody touches while nodes come and go.
const KEPT: usize = 2_000;
/// Keys that each client of the load writes and reads.
const KEYS: usize = 100;

struct Scene {
    place: Neighbourhood,
    etcd: Etcd,
    nodes: Vec<Server>,
}

impl Scene {
    /// Three members and one who stands by; `None` without an etcd.
    fn new(args: &[&str]) -> Option<Self> {
        // Built now, not while clients wait.
        cli::command();
        let place = Neighbourhood::new();
        let etcd = Etcd::start(place)?;
        let mut scene = Self { place, etcd, nodes: Vec::new() };
        for number in 1..=STANDBY {
            let more: &[&str] = if number == STANDBY { &["--weight", "0"] } else { &[] };
            let (url, peer) = (scene.etcd.url(), place.peer(number).to_string());
            let name = format!("n{number}");
            let own = ["--etcd", &url, "--peer-listen", &peer, "--node-id", &name];
            let node = Server::start_on(place.client(number), &[&own, args, more].concat());
            scene.nodes.push(node.expect("a node starts"));
        }
        wait_until("a ring of three", || scene.nodes.iter().all(|node| members(node) == usize::from(NODES)));
        Some(scene)
    }

    /// Runs a verb of `slabring-cli cluster`.
    #[track_caller]
    fn run(&self, verb: &str) -> Finished {
        cli::run(&self.words(verb))
    }

    /// Runs one that succeeds. What it printed.
    #[track_caller]
    fn done(&self, verb: &str) -> String {
        let finished = self.run(verb);
        assert!(finished.status.success(), "{verb}: {}{}", finished.stdout, finished.stderr);
        finished.stdout
    }

    fn words(&self, verb: &str) -> String {
        format!("cluster {verb} --etcd {}", self.etcd.url())
    }

    fn ring(&self) -> Ring {
        Ring::new(document(&self.nodes[0]).expect("a ring")).expect("a good one")
    }

    /// Of how many partitions a node is primary, in hundredths of all.
    fn share(&self, number: u8) -> usize {
        let ring = self.ring();
        let name = format!("n{number}");
        let is_its = |partition: &PartitionId| ring.slot(ring.primary(*partition)).node.0.as_str() == name;
        PartitionId::all().filter(is_its).count() * 100 / PARTITION_COUNT
    }

    /// How many of the items that nobody touches are there. Nobody says so while others take over.
    fn kept(&self) -> usize {
        let mut front = self.nodes[0].connect();
        (0..KEPT).filter(|key| is_there(&mut front, *key)).count()
    }
}

fn is_there(front: &mut Connection, key: usize) -> bool {
    let mut line = String::new();
    wait_until("an answer", || {
        line = front.command(&format!("mg kept{key} v"));
        line == "EN" || line.starts_with("VA ")
    });
    line != "EN" && front.read_line().expect("a value") == b"value"
}

fn document(node: &Server) -> Option<RingDocument> {
    let mut connection = node.connect();
    let head = connection.command("config get ring");
    let length: usize = head.strip_prefix("CONFIG ring 0 ")?.parse().expect("a length");
    let document = connection.read_exact(length).expect("a document");
    Some(RingDocument::from_json(&document).expect("a good one"))
}

fn members(node: &Server) -> usize {
    let slots = document(node).map_or_else(Vec::new, |document| document.slots);
    slots.iter().filter(|slot| slot.state == NodeState::Up).count()
}

/// What clients saw.
#[derive(Debug, Default)]
struct Seen {
    done: u64,
    misses: u64,
    stale: u64,
    errors: BTreeMap<String, u64>,
    /// The longest time without a good answer, of any one client.
    gap: Duration,
    /// Whether the machine let somebody wait meanwhile.
    was_busy: bool,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.misses += other.misses;
        self.stale += other.stale;
        self.gap = self.gap.max(other.gap);
        self.was_busy |= other.was_busy;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}

/// Clients that write and read keys of their own, each at another node.
struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    fn start(nodes: &[Server]) -> Self {
        /// No load reads what an earlier one wrote.
        static CLIENTS: AtomicUsize = AtomicUsize::new(0);
        let is_over = Arc::new(AtomicBool::new(false));
        let client = |node: &Server| {
            let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
            let (connection, is_over) = (node.connect(), Arc::clone(&is_over));
            std::thread::spawn(move || use_cache(connection, number, &is_over))
        };
        let mut clients: Vec<_> = nodes.iter().map(client).collect();
        let sleeper_is_over = Arc::clone(&is_over);
        clients.push(std::thread::spawn(move || watch_machine(&sleeper_is_over)));
        Self { is_over, clients }
    }

    fn stop(self) -> Seen {
        self.is_over.store(true, Ordering::Relaxed);
        let mut seen = Seen::default();
        self.clients.into_iter().for_each(|client| seen.add(client.join().expect("a client ends")));
        seen
    }
}

/// Sees nothing of the cache.
fn watch_machine(is_over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !is_over.load(Ordering::Relaxed) {
        seen.was_busy |= is_busy();
        std::thread::sleep(Duration::from_millis(100));
    }
    seen
}

fn use_cache(mut connection: Connection, number: usize, is_over: &AtomicBool) -> Seen {
    let (mut seen, mut good_at) = (Seen::default(), Instant::now());
    let (mut acknowledged, mut asked) = ([0_u64; KEYS], [0_u64; KEYS]);
    for turn in 1_u64.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let key = usize::try_from(turn).expect("64-bit") % KEYS;
        asked[key] = turn;
        let text = turn.to_string();
        let set = connection.command(&format!("set load{number}x{key} 0 0 {}\r\n{text}", text.len()));
        let is_stored = set == "STORED";
        if is_stored {
            acknowledged[key] = turn;
        } else {
            *seen.errors.entry(set).or_default() += 1;
        }
        let other = (key * 7 + 1) % KEYS;
        let got = connection.command(&format!("mg load{number}x{other} v"));
        let is_read = got == "EN" || got.starts_with("VA ");
        if got.starts_with("VA ") {
            let value = String::from_utf8(connection.read_line().expect("a value")).expect("text");
            let value: u64 = value.parse().expect("a number");
            seen.stale += u64::from(value < acknowledged[other] || value > asked[other]);
        } else if got == "EN" {
            seen.misses += u64::from(acknowledged[other] > 0);
        } else {
            *seen.errors.entry(got).or_default() += 1;
        }
        if is_stored && is_read {
            seen.gap = seen.gap.max(good_at.elapsed());
            good_at = Instant::now();
        }
        seen.done += u64::from(is_stored) + u64::from(is_read);
        std::thread::sleep(Duration::from_micros(200));
    }
    seen
}

/// Nothing but what `docs/cluster.md` names, and nothing old.
#[track_caller]
fn judge(what: &str, took: Duration, seen: &Seen) {
    println!("{what}: {took:.1?}, {seen:?}");
    let may_be = ["being written or handed over", "the ring is changing", "did not confirm in time"];
    // Nobody is late for as long as the machine has time for all.
    let may_be_where_busy = ["cannot be reached", "did not answer in time", "do not answer"];
    let late: &[&str] = if seen.was_busy { &may_be_where_busy } else { &[] };
    let is_named = |error: &String| may_be.iter().chain(late).any(|known| error.contains(known));
    assert!(seen.errors.keys().all(is_named), "{what}: {seen:?}");
    assert_eq!(seen.stale, 0, "{what}: {seen:?}");
    assert!(seen.done > 100, "{what}: {seen:?}");
}

/// A verb under load, and what the clients saw meanwhile.
#[track_caller]
fn under_load(scene: &Scene, verb: &str) -> String {
    let load = Load::start(&scene.nodes);
    let began = Instant::now();
    let printed = scene.done(verb);
    let took = began.elapsed();
    judge(verb, took, &load.stop());
    println!("{printed}");
    printed
}

fn check(args: &[&str], is_copied: bool) {
    let Some(scene) = Scene::new(args) else { return };
    let mut front = scene.nodes[0].connect();
    for key in 0..KEPT {
        wait_until("a write", || front.command(&format!("set kept{key} 0 0 5\r\nvalue")) == "STORED");
    }

    is_refused(&scene, "drain n3", "say --yes");
    under_load(&scene, "join n4 --yes");
    assert_eq!((members(&scene.nodes[3]), scene.kept()), (4, KEPT));
    assert!((23..=27).contains(&scene.share(4)) || is_copied, "{}", scene.share(4));
    under_load(&scene, "weight n4 64 --yes");
    let share = scene.share(4);
    assert!((5..=10).contains(&share) || is_copied, "a quarter of the others': {share}");
    assert_eq!(scene.kept(), KEPT);

    // Ctrl-C stops the waiting and nothing else; the same command goes on waiting.
    let interrupted = cli::interrupt_at(&scene.words("drain n2 --yes"), ": moving");
    assert_eq!(interrupted.status.code(), Some(130), "{}", interrupted.stderr);
    let printed = under_load(&scene, "drain n2");
    assert!(printed.contains("n2 holds nothing any more"), "{printed}");
    assert_eq!((members(&scene.nodes[0]), scene.share(2), scene.kept()), (3, 0, KEPT));
    assert!(scene.done("drain n2").lines().count() == 1, "nothing is left to do");

    let printed = scene.done("down n3 --yes");
    assert!(printed.contains("n3 is out"), "{printed}");
    let left = scene.kept();
    if !is_copied {
        check_gutter(&scene);
    }
    assert!(if is_copied { left == KEPT } else { (KEPT / 3..KEPT * 2 / 3).contains(&left) }, "{left}");
    let status = scene.done("status");
    for line in ["wished for n2: drain", "wished for n3: down", "not a member, and here: n2"] {
        assert!(status.contains(line), "{status}");
    }
    under_load(&scene, "join n3");
    assert_eq!(scene.kept(), left + usize::from(!is_copied));
    if is_copied {
        let scrubbed = scene.done("scrub");
        assert!(scrubbed.contains("differed and mended"), "{scrubbed}");
    }
}

/// Whether a verb wishes nothing, with the status for mistakes, and says why.
#[track_caller]
fn is_refused(scene: &Scene, verb: &str, why: &str) {
    let finished = scene.run(verb);
    assert_eq!(finished.status.code(), Some(2), "{verb}: {}{}", finished.stdout, finished.stderr);
    assert!(finished.stderr.contains(why), "{verb}: {}", finished.stderr);
    assert!(!scene.done("status").contains("wished"), "{verb}");
}

#[test]
fn what_would_do_harm_is_refused_and_says_why() {
    // One copy, and values that are too long to move.
    let Some(scene) = Scene::new(&["-t", "1", "-I", "16m"]) else { return };
    is_refused(&scene, "drain nobody --yes", "there are n1, n2, n3, n4");
    is_refused(&scene, "drain n1 --yes", "-I");
    is_refused(&scene, "weight n4 9 --yes", "n4 is not a member");
    is_refused(&scene, "scrub", "has no copies");
    is_refused(&scene, "down n1 --cluster-id other --yes", "--cluster-id");
}

/// The one who stands by gets its place while it stands still, and dies: with a lease of five seconds a slow machine may need some attempts.
fn join_and_kill(scene: &Scene) {
    let dying = &scene.nodes[usize::from(STANDBY) - 1];
    let has_place =
        |scene: &Scene| scene.ring().document().slots.iter().any(|slot| slot.node.0.as_str() == "n4");
    for _ in 0..20 {
        wait_until("a node that stands by", || scene.done("status").contains("not a member, and here: n4"));
        dying.signal(Signal::Stop);
        let joins = scene.run("join n4 --no-wait").status.success();
        let deadline = Instant::now() + Duration::from_secs(5);
        while joins && Instant::now() < deadline {
            if has_place(scene) {
                return dying.signal(Signal::Kill);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        dying.signal(Signal::Continue);
    }
    panic!("a node that stood still was never taken in");
}

#[test]
fn a_movement_to_a_node_that_died_says_whom_it_waits_for_and_turns_back_when_told() {
    let Some(mut scene) = Scene::new(&["-t", "1", "--replicas", "2"]) else { return };
    let (url, own) = (scene.etcd.url(), scene.place.peer(9).to_string());
    let elsewhere = scene.place.peer(10).to_string();
    let args = ["--etcd", &url, "--peer-listen", &own, "--peer-advertise", &elsewhere, "--node-id", "n9"];
    scene.nodes.push(Server::start_on(scene.place.client(9), &args).expect("a node starts"));
    let mut front = scene.nodes[0].connect();
    for key in 0..KEPT {
        wait_until("a write", || front.command(&format!("set kept{key} 0 0 5\r\nvalue")) == "STORED");
    }

    join_and_kill(&scene);
    let mut status = String::new();
    wait_until("a word of whom it waits for", || {
        status = scene.done("status");
        status.contains("waits for n4, which is down, until")
    });
    assert!(status.contains("when what has moved goes back") && status.contains("moving: "), "{status}");
    assert!(status.contains("n9 gets no place: n") && status.contains(&elsewhere), "{status}");
    let told = scene.done("status --json");
    assert!(told.contains(r#""turns_back":true"#) && told.contains("\"not_reached\":{\"n9\":"), "{told}");
    let mut printed = String::new();
    let overruled = cli::at(&scene.words("join n4"), ": moving", |_| printed = scene.done("weight n4 0"));
    assert!(printed.contains("n4 holds nothing and has left"), "{printed}");
    // Who waited for the wish before would wait for ever.
    assert_eq!(overruled.status.code(), Some(3), "{}{}", overruled.stdout, overruled.stderr);
    assert!(overruled.stderr.contains("what is wished for n4 now is weight 0"), "{}", overruled.stderr);
    assert_eq!((scene.ring().document().slots.len(), members(&scene.nodes[0])), (3, 3));
    assert_eq!(scene.kept(), KEPT);

    // Others need not wait for it, and are told what they leave.
    let asked = scene.run("down n3");
    assert!(
        asked.stdout.contains("leaves 1 copy of what it holds where the ring wants 2"),
        "{}",
        asked.stdout
    );
    let asked = scene.run("drain n3 --json");
    assert!(
        asked.stdout.contains(r#""copies_left":2"#) && asked.stdout.lines().count() == 1,
        "{}",
        asked.stdout
    );
    // Who has nothing already leaves as well.
    scene.done("weight n3 0");
    assert_eq!((members(&scene.nodes[0]), scene.share(3)), (3, 0));
    let printed = scene.done("drain n3 --yes");
    assert!(printed.contains("n3 holds nothing any more"), "{printed}");
    let asked = scene.run("weight n2 0");
    assert_eq!(asked.status.code(), Some(2), "{}", asked.stdout);
    assert!(
        asked.stdout.contains("leaves 1 copy of each partition where the ring wants 2"),
        "{}",
        asked.stdout
    );
    scene.done("drain n2 --yes");
    let refused = scene.run("weight n1 0 --yes");
    assert!(refused.stderr.contains("the only node"), "{}", refused.stderr);
    assert_eq!(scene.kept(), KEPT);
}

/// What is written for a node that is out, and had the only copy, lives where it would go next, and not for long.
fn check_gutter(scene: &Scene) {
    let mut front = scene.nodes[0].connect();
    let lost = (0..KEPT).find(|key| !is_there(&mut front, *key)).expect("a node is out");
    assert_eq!(front.command(&format!("set kept{lost} 0 0 5\r\nvalue")), "STORED");
    let left = front.command(&format!("mg kept{lost} t"));
    let seconds = left.strip_prefix("HD t").and_then(|text| text.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds <= 10), "{left}");
    // As long as the client said, if that is shorter.
    assert_eq!(front.command(&format!("touch kept{lost} 5")), "TOUCHED");
    assert!(is_there(&mut front, lost));
}

#[test]
fn nodes_come_and_go_under_load_and_every_item_stays_in_a_ring_of_one_copy() {
    check(&["-t", "1"], false);
}

#[test]
fn nodes_come_and_go_under_load_and_every_item_stays_in_a_ring_of_two_copies() {
    check(&["-t", "2", "--replicas", "2"], true);
}
