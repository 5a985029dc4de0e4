//! Who keeps copies of values hears of every change: the wire form, and the near cache of `slabring-client` over it.
#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use slabring_client::{Client, NearClient, NearCounts, NearOptions, Options, Servers, Ttl};
use slabring_tests::cluster::Cluster;
use slabring_tests::{Connection, Server, wait_until};

/// Both ways to talk to the kernel, one shard and several.
const WAYS: [&[&str]; 3] =
    [&["-t", "1", "--io", "uring"], &["-t", "2", "--io", "uring"], &["-t", "3", "--io", "epoll"]];

/// Time for any single step, long because the machine may be compiling too.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A connection that tracks, and what to mark reads with.
struct Tracker {
    connection: Connection,
    id: String,
    epoch: u64,
}

impl Tracker {
    fn new(server: &Server, prefixes: &str) -> Self {
        let mut connection = server.connect();
        let answer = connection.command(&format!("track on{prefixes}"));
        let words: Vec<_> = answer.split(' ').collect();
        let ["TRACKING", id, epoch] = words[..] else { panic!("{answer}") };
        Self { connection, id: id.to_owned(), epoch: epoch.parse().unwrap() }
    }

    /// The next line that is no `PING`.
    fn line(&mut self) -> String {
        loop {
            let line = String::from_utf8(self.connection.read_line().unwrap()).unwrap();
            if !line.starts_with("PING ") {
                return line;
            }
        }
    }

    /// Takes a marked copy of a key.
    #[track_caller]
    fn copy(&self, client: &mut Connection, key: &str) {
        let answer = client.command(&format!("mg {key} L{}", self.id));
        assert_eq!(answer, "HD L", "{key}");
    }
}

#[test]
fn every_kind_of_write_is_told_to_who_has_a_copy_and_a_read_is_not() {
    let writes = [
        "set {k} 0 0 1\r\n2\r\n",
        "append {k} 0 0 1\r\n2\r\n",
        "ms {k} 1\r\n2\r\n",
        "ma {k}\r\n",
        "incr {k} 1\r\n",
        "touch {k} 100\r\n",
        "mg {k} T100\r\n",
        "md {k} I T100\r\n",
        "delete {k}\r\n",
    ];
    for args in WAYS {
        let server = Server::start(args).unwrap();
        let mut tracker = Tracker::new(&server, "");
        let mut client = server.connect();
        for (n, write) in (1..).zip(writes) {
            // Keys of all shards.
            let key = format!("key{n}");
            client.set(&key, "1");
            tracker.copy(&mut client, &key);
            assert_eq!(client.get(&key).as_deref(), Some(&b"1"[..]));
            client.send(write.replace("{k}", &key)).unwrap();
            client.read_line().unwrap();
            assert_eq!(tracker.line(), format!("IV {} {n} {key}", tracker.epoch), "{args:?}: {write}");
            // Nobody has a copy any more.
            client.set(&key, "1");
        }
        let large = vec![b'x'; 300_000];
        for key in ["large1", "large2", "large3"] {
            client.set(key, "1");
            tracker.copy(&mut client, key);
            client.set(key, &large);
            assert!(tracker.line().ends_with(key), "{args:?}");
        }
        assert_eq!(client.stat("slabring_trackers"), 1);
        assert_eq!(client.stat("slabring_track_told"), writes.len() as u64 + 3, "{args:?}");
    }
}

#[test]
fn a_word_comes_every_second_and_a_flush_begins_an_epoch() {
    for args in WAYS {
        let server = Server::start(args).unwrap();
        let mut tracker = Tracker::new(&server, "");
        let mut client = server.connect();
        let started = Instant::now();
        let ping = String::from_utf8(tracker.connection.read_line().unwrap()).unwrap();
        let words: Vec<_> = ping.split(' ').collect();
        assert_eq!(words[..3], ["PING", &tracker.epoch.to_string(), "0"], "{args:?}");
        assert!((900..10_000).contains(&words[3].parse().unwrap()) && started.elapsed() < PATIENCE);
        client.set("k", "1");
        tracker.copy(&mut client, "k");
        assert_eq!(client.command("flush_all"), "OK");
        assert_eq!(tracker.line(), format!("IF {}", tracker.epoch + 1), "{args:?}");
    }
}

#[test]
fn a_tracker_of_beginnings_hears_of_all_such_keys_without_reading_any() {
    let server = Server::start(&["-t", "2"]).unwrap();
    let mut tracker = Tracker::new(&server, " user: page:");
    let mut client = server.connect();
    for key in ["other:1", "user:1", "use", "page:7", "user:1"] {
        client.set(key, "1");
    }
    let mut told: Vec<_> =
        (0..3).map(|_| tracker.line().split(' ').next_back().unwrap().to_owned()).collect();
    told.sort();
    assert_eq!(told, ["page:7", "user:1", "user:1"]);
    client.send("ms dXNlcjogMQ== 1 b\r\nx\r\n").unwrap();
    assert_eq!(client.read_line().unwrap(), b"HD");
    assert!(tracker.line().ends_with(" dXNlcjogMQ== b"), "a key that is no word is told in base64");
}

#[test]
fn a_mark_of_who_does_not_track_here_is_no_mark() {
    let server = Server::start(&["-t", "2"]).unwrap();
    let mut client = server.connect();
    client.set("k", "1");
    assert_eq!(client.command("mg k L1234567"), "HD");
    let tracker = Tracker::new(&server, "");
    tracker.copy(&mut client, "k");
    let id = tracker.id.clone();
    drop(tracker);
    wait_until("a tracker that is gone is forgotten", || client.stat("slabring_trackers") == 0);
    assert_eq!(client.command(&format!("mg k L{id}")), "HD");
}

#[test]
fn places_for_trackers_are_bounded_and_come_back() {
    let server = Server::start(&["-t", "2"]).unwrap();
    let trackers: Vec<_> = (0..256).map(|_| Tracker::new(&server, "")).collect();
    let mut late = server.connect();
    assert_eq!(late.command("track on"), "SERVER_ERROR no room for another tracker");
    drop(trackers);
    wait_until("a place comes back", || late.command("track on").starts_with("TRACKING "));
}

fn options() -> Options {
    let mut options = Options::default();
    options.timeout = PATIENCE;
    options.try_timeout = PATIENCE;
    options.connect_timeout = PATIENCE;
    options
}

fn near(servers: &Servers) -> NearClient {
    NearClient::new(Client::new(servers, options()), NearOptions::default())
}

fn one(address: SocketAddr) -> Servers {
    Servers::one(&address.to_string()).unwrap()
}

fn value(near: &NearClient, key: &str) -> Option<String> {
    near.get(key).unwrap().map(|item| String::from_utf8(item.value).unwrap())
}

/// Reads until copies answer.
#[track_caller]
fn wait_for_copies(near: &NearClient, key: &str) {
    let hits = near.counts().hits;
    wait_until("a copy answers", || near.get(key).is_ok() && near.counts().hits > hits);
}

#[test]
fn copies_answer_without_the_server_and_follow_every_change() {
    for args in WAYS {
        let server = Server::start(args).unwrap();
        let near = near(&one(server.address()));
        let mut other = server.connect();
        near.set("k", "1", Ttl::Never).unwrap();
        wait_for_copies(&near, "k");
        let gets = other.stat("cmd_get");
        (0..1000).for_each(|_| assert_eq!(value(&near, "k").as_deref(), Some("1")));
        assert!(other.stat("cmd_get") - gets <= 2, "{args:?}");
        other.set("k", "2");
        wait_until("the change is seen", || value(&near, "k").as_deref() == Some("2"));
        // What this client writes it reads at once.
        for n in 0..200 {
            near.set("k", n.to_string(), Ttl::Never).unwrap();
            assert_eq!(value(&near, "k"), Some(n.to_string()));
        }
        near.delete("k").unwrap();
        assert_eq!(value(&near, "k"), None);
        near.set("short", "1", Duration::from_secs(1)).unwrap();
        wait_until("a copy ends with its item", || value(&near, "short").is_none());
    }
}

/// One writer for each key counts up; readers of one near cache never see a number that was overwritten before the bound.
#[test]
fn racing_writers_are_never_read_beyond_the_bound() {
    const KEYS: usize = 4;
    const RUN: Duration = Duration::from_secs(5);
    let bound = NearOptions::default().silence_max;
    let server = Server::start(&["-t", "2"]).unwrap();
    let near = Arc::new(near(&one(server.address())));
    let started = Instant::now();
    let is_over = Arc::new(AtomicBool::new(false));
    // For each key the numbers written so far, with their times.
    let written: Arc<Vec<std::sync::Mutex<Vec<Instant>>>> =
        Arc::new((0..KEYS).map(|_| <_>::default()).collect());
    thread::scope(|scope| {
        for key in 0..KEYS {
            let (is_over, written) = (Arc::clone(&is_over), Arc::clone(&written));
            let mut connection = server.connect();
            scope.spawn(move || {
                for number in 0.. {
                    connection.set(&format!("k{key}"), number.to_string());
                    written[key].lock().unwrap().push(Instant::now());
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::sleep(Duration::from_millis(3 * (key as u64 + 1)));
                }
            });
        }
        for reader in 0..3 {
            let (near, written, is_over) = (Arc::clone(&near), Arc::clone(&written), Arc::clone(&is_over));
            scope.spawn(move || {
                let mut reads = reader;
                while !is_over.load(Ordering::Relaxed) {
                    let key = reads % KEYS;
                    reads += 1;
                    let asked_at = Instant::now();
                    let Some(number) = value(&near, &format!("k{key}")) else { continue };
                    let number: usize = number.parse().unwrap();
                    let overwritten = written[key].lock().unwrap().get(number + 1).copied();
                    let age = overwritten.map_or(Duration::ZERO, |at| asked_at.saturating_duration_since(at));
                    assert!(age <= bound, "{key} was overwritten {age:?} before");
                }
            });
        }
        // Readers that never rest may leave the writers little of a busy machine.
        let is_short =
            |counts: NearCounts| started.elapsed() < RUN || counts.changes <= 100 || counts.hits <= 100;
        while is_short(near.counts()) && started.elapsed() < PATIENCE {
            thread::sleep(POLL_INTERVAL);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let counts = near.counts();
    assert!(counts.hits > 100 && counts.changes > 100, "{counts:?}");
    for key in 0..KEYS {
        let last = (written[key].lock().unwrap().len() - 1).to_string();
        wait_until("the last number is read", || value(&near, &format!("k{key}")) == Some(last.clone()));
    }
}

/// Between a client and a server. Frozen, connections that track carry nothing any more and stay open.
struct Proxy {
    address: SocketAddr,
    is_frozen: Arc<RwLock<bool>>,
}

impl Proxy {
    fn new(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_frozen = Arc::new(RwLock::new(false));
        let frozen = Arc::clone(&is_frozen);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(server) else { return };
                let tracks = Arc::new(AtomicBool::new(false));
                for (from, to) in [(&client, &upstream), (&upstream, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (tracks, frozen) = (Arc::clone(&tracks), Arc::clone(&frozen));
                    thread::spawn(move || carry(from, to, &tracks, &frozen));
                }
            }
        });
        Self { address, is_frozen }
    }

    /// Who is carrying something has done so when this returns.
    fn freeze(&self, is_frozen: bool) {
        *self.is_frozen.write().unwrap() = is_frozen;
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, tracks: &AtomicBool, is_frozen: &RwLock<bool>) {
    let mut bytes = [0; 4096];
    while let Ok(size @ 1..) = from.read(&mut bytes) {
        if bytes[..size].starts_with(b"track on") {
            tracks.store(true, Ordering::SeqCst);
        }
        let mut frozen = is_frozen.read().unwrap();
        while tracks.load(Ordering::SeqCst) && *frozen {
            drop(frozen);
            thread::sleep(POLL_INTERVAL);
            frozen = is_frozen.read().unwrap();
        }
        if to.write_all(&bytes[..size]).is_err() {
            return;
        }
    }
    to.shutdown(std::net::Shutdown::Both).ok();
}

#[test]
fn a_dead_link_ends_its_copies_in_time_and_a_new_one_brings_them_back() {
    let bound = NearOptions::default().silence_max;
    let server = Server::start(&["-t", "2"]).unwrap();
    let proxy = Proxy::new(server.address());
    let near = near(&one(proxy.address));
    let mut other = server.connect();
    other.set("k", "old");
    wait_for_copies(&near, "k");
    proxy.freeze(true);
    let overwritten = Instant::now();
    other.set("k", "new");
    // Nobody tells it: for as long as a server may be silent the copy may be used, and no longer.
    let mut used_at = overwritten;
    wait_until("the copy is not used any more", || {
        let asked_at = Instant::now();
        let is_new = value(&near, "k").as_deref() == Some("new");
        used_at = if is_new { used_at } else { asked_at };
        is_new
    });
    let time = used_at - overwritten;
    assert!(time <= bound + Duration::from_millis(500), "{time:?}");
    // The last word was at most a second old when the link died.
    let time = overwritten.elapsed();
    assert!(time >= bound - Duration::from_millis(1_500), "the link was dead: {time:?}");
    // Until it is given up it may come back with what it had to tell, and nothing is lost.
    wait_until("the link is given up", || near.counts().flushes > 0);
    proxy.freeze(false);
    wait_for_copies(&near, "k");
    other.set("k", "newest");
    wait_until("changes are followed again", || value(&near, "k").as_deref() == Some("newest"));
}

#[test]
fn a_server_that_is_started_anew_is_followed_anew() {
    let server = Server::start(&["-t", "1"]).unwrap();
    let address = server.address();
    let near = near(&one(address));
    near.set("k", "1", Ttl::Never).unwrap();
    wait_for_copies(&near, "k");
    drop(server);
    let server = Server::start_on(address, &["-t", "1"]).unwrap();
    wait_until("the copy is gone with its server", || matches!(near.get("k"), Ok(None)));
    server.connect().set("k", "2");
    wait_for_copies(&near, "k");
    assert_eq!(value(&near, "k").as_deref(), Some("2"));
}

#[test]
fn in_a_cluster_every_node_tells_of_its_own_keys_whoever_writes_them() {
    let cluster = Cluster::of_peers(2, &["-t", "2"]);
    let seeds: Vec<_> = cluster.nodes.iter().map(|node| node.address().to_string()).collect();
    let near = near(&Servers::ring(seeds.iter().map(String::as_str)).unwrap());
    let mut nodes: Vec<_> = cluster.nodes.iter().map(Server::connect).collect();
    let keys: Vec<_> = (0..20).map(|n| format!("key{n}")).collect();
    for key in &keys {
        nodes[0].set(key, "old");
        wait_for_copies(&near, key);
    }
    let flushes = near.counts().flushes;
    for (n, key) in keys.iter().enumerate() {
        // By the owner or by the other.
        nodes[n % 2].set(key, "new");
        wait_until("the change is seen", || value(&near, key).as_deref() == Some("new"));
    }
    assert_eq!(near.counts().flushes, flushes);
    // A number of one node means nothing at the other.
    let tracker = Tracker::new(&cluster.nodes[0], "");
    let marked =
        |node: &mut Connection, key: &str| node.command(&format!("mg {key} L{}", tracker.id)) == "HD L";
    let at_first = keys.iter().filter(|key| marked(&mut nodes[0], key)).count();
    let at_second = keys.iter().filter(|key| marked(&mut nodes[1], key)).count();
    assert!((1..keys.len()).contains(&at_first) && at_second == 0, "{at_first} and {at_second}");
}
