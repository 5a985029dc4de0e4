//! What operators and their tools ask a node: dumps of all keys, watchers, connections, statistics, memory, the end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use slabring_tests::{Connection, Server, wait_until};

/// Long, because the machine may be compiling too.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// Longer than any line that a watcher is told.
const LINE_SIZE_MAX: usize = 1_000;

fn start(args: &[&str]) -> Server {
    Server::start(args).expect("slabring starts")
}

/// Everything up to a line that is this one.
fn read_until(connection: &mut Connection, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = String::from_utf8_lossy(&connection.read_line().expect("an answer")).into_owned();
        if line == last {
            return lines;
        }
        lines.push(line);
    }
}

fn fill(server: &Server, items: usize) {
    let mut connection = server.connect();
    for first in (0..items).step_by(1000) {
        let batch: String = (first..items.min(first + 1000))
            .map(|item| format!("set key/{item} 7 0 5 noreply\r\nhello\r\n"))
            .collect();
        connection.send(batch).expect("the server reads");
    }
    assert_eq!(connection.command("mn"), "MN");
}

/// Waits until something is so.
#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(PAUSE);
    }
}

/// Reads on until all that has come has each of these parts. Shards hand over what they log some times a second, each when it has time.
#[track_caller]
fn read_until_told(connection: &mut Connection, parts: &[&str]) -> String {
    connection.stream().set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut text = Vec::new();
    let mut missing: Vec<_> = parts.to_vec();
    // A part may lie across two pieces.
    let mut searched = 0;
    while !missing.is_empty() {
        match connection.read_some() {
            Ok(piece) => text.extend(piece),
            Err(error) => panic!("{error}: {missing:?} is not in {}", text.escape_ascii()),
        }
        let new = String::from_utf8_lossy(&text[searched..]);
        missing.retain(|part| !new.contains(part));
        searched = text.len().saturating_sub(LINE_SIZE_MAX);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_metadump_shows_every_item_of_every_shard_once() {
    let server = start(&["-t", "3"]);
    fill(&server, 5_000);
    let mut connection = server.connect();
    connection.command("set expiring 0 1000 1\r\nx");
    assert_eq!(connection.command("lru_crawler metadump all"), "OK");
    // The lines of this dump end in LF alone, up to the last.
    let dump = String::from_utf8(connection.read_line().unwrap()).unwrap();
    let lines: Vec<_> = dump.strip_suffix("\nEND").expect("an end").lines().collect();
    let keys: BTreeSet<_> =
        lines.iter().filter_map(|line| line.strip_prefix("key=")?.split(' ').next()).collect();
    assert_eq!((lines.len(), keys.len()), (5_001, 5_001));
    assert!(keys.contains("key%2F4999") && keys.contains("expiring"));
    let line = lines.iter().find(|line| line.starts_with("key=key%2F77 ")).expect("it is there");
    assert!(
        line.contains(" exp=-1 la=") && line.contains(" fetch=no cls=") && line.ends_with(" flags=7 "),
        "{line}"
    );
}

#[test]
fn a_dump_that_is_not_read_holds_little_and_keeps_nobody_waiting() {
    let server = start(&["-t", "2", "-m", "64"]);
    fill(&server, 100_000);
    let buffers = |connection: &mut Connection| connection.stat("slabring_memory_buffers_bytes");
    let mut other = server.connect();
    let before = buffers(&mut other);
    let mut dumps: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for dump in &mut dumps {
        dump.send("lru_crawler mgdump all\r\nmn\r\n").expect("the server reads");
    }
    std::thread::sleep(Duration::from_millis(1500));
    let during = buffers(&mut other);
    assert!(during < before + 20 * (256 << 10), "{before} then {during} bytes of buffers");
    let start = Instant::now();
    other.set("k", "v");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let mut dump = dumps.pop().expect("twenty");
    assert_eq!(String::from_utf8(dump.read_line().unwrap()).unwrap(), "OK");
    let keys: BTreeSet<_> = read_until(&mut dump, "EN").into_iter().collect();
    assert!(keys.len() >= 100_000, "{} keys", keys.len());
    assert_eq!(dump.read_line().unwrap(), b"MN", "the connection goes on behind the dump");
}

#[test]
fn watchers_are_told_what_they_asked_for_by_every_shard() {
    let server = start(&["-t", "2"]);
    let mut watcher = server.connect();
    assert_eq!(watcher.command("watch fetchers mutations deletions"), "OK");
    let mut fetchers = server.connect();
    assert_eq!(fetchers.command("watch"), "OK");
    let mut client = server.connect();
    for key in 0..20 {
        client.set(&format!("a:{key}"), "hello");
        assert!(client.get(&format!("a:{key}")).is_some());
        assert_eq!(client.command(&format!("delete a:{key}")), "DELETED");
    }
    assert_eq!(client.stat("log_watchers"), 2);
    let told_of = |key: i32| {
        [
            format!("type=item_get key=a%3A{key} status=not_found clsid=0"),
            format!("type=item_store key=a%3A{key} status=stored cmd=set ttl=0 clsid=1"),
            format!("type=item_get key=a%3A{key} status=found clsid=1"),
            format!("type=deleted key=a%3A{key} cmd=delete clsid=1 size=5"),
        ]
    };
    let expected: Vec<_> = (0..20).flat_map(told_of).collect();
    read_until_told(&mut watcher, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    let found: Vec<_> = (0..20).map(|key| format!("type=item_get key=a%3A{key} status=found")).collect();
    let fetched = read_until_told(&mut fetchers, &found.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!fetched.contains("type=item_store"), "{fetched}");
    drop((watcher, fetchers));
    wait_for("the end of watching", || client.stat("log_watchers") == 0);
}

#[test]
fn a_watcher_that_does_not_read_misses_lines_and_is_told() {
    let server = start(&["-t", "2"]);
    let mut watcher = server.connect();
    assert_eq!(watcher.command("watch mutations"), "OK");
    let before = server.connect().stat("slabring_memory_buffers_bytes");
    // More than sockets and buffers hold.
    for _ in 0..4 {
        fill(&server, 100_000);
    }
    let mut client = server.connect();
    wait_for("a line that is skipped", || client.stat("log_watcher_skipped") > 0);
    std::thread::sleep(Duration::from_millis(1200));
    let after = client.stat("slabring_memory_buffers_bytes");
    assert!(after < before + (8 << 20), "{before} then {after} bytes of buffers");
    read_until_told(&mut watcher, &["\nskipped="]);
}

#[test]
fn a_watcher_sees_evictions_and_connections() {
    let server = start(&["-t", "2", "-m", "4"]);
    let mut watcher = server.connect();
    assert_eq!(watcher.command("watch evictions"), "OK");
    // By itself: where many are evicted there is no room for other lines.
    let mut porter = server.connect();
    assert_eq!(porter.command("watch connevents"), "OK");
    fill(&server, 100_000);
    let lines = read_until_told(&mut watcher, &["type=eviction", "\n"]);
    let eviction = lines.lines().next().expect("a line");
    assert!(eviction.contains(" fetch=no ttl=-1 la=") && eviction.contains(" size=5"), "{eviction}");
    let mut connection = server.connect();
    assert_eq!(connection.command("mn"), "MN");
    let passing = connection.stream().local_addr().expect("it is connected").port();
    drop(connection);
    let told = ["new", "close"].map(|what| format!("type=conn_{what} rip=127.0.0.1 rport={passing} "));
    read_until_told(&mut porter, &[&told[0], &told[1], " reason=normal cfd="]);
}

#[test]
fn the_twenty_first_watcher_is_refused_and_so_is_any_without_permission() {
    let server = start(&["-t", "1"]);
    let mut watchers: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for watcher in &mut watchers {
        assert_eq!(watcher.command("watch"), "OK");
    }
    assert_eq!(server.connect().command("watch"), "WATCHER_TOO_MANY log watcher limit reached");
    let server = start(&["-t", "1", "-W", "-X", "-F"]);
    let mut connection = server.connect();
    for (command, refusal) in [
        ("watch", "CLIENT_ERROR watch commands not allowed"),
        ("flush_all", "CLIENT_ERROR flush_all not allowed"),
        ("lru_crawler metadump all", "ERROR metadump not allowed"),
        ("lru_crawler mgdump all", "ERROR key dump not allowed"),
        ("stats detail on", "CLIENT_ERROR stats detail not allowed"),
        ("stats cachedump 1 1", "CLIENT_ERROR stats cachedump not allowed"),
    ] {
        assert_eq!(connection.command(command), refusal);
    }
}

#[test]
fn every_connection_is_told_by_its_number() {
    let server = start(&["-t", "2"]);
    let mut others: Vec<_> = (0..10).map(|_| server.connect()).collect();
    assert_eq!(others[0].command("watch"), "OK");
    let mut connection = server.connect();
    let listening = format!(":listen_addr tcp:{}", server.address());
    let count_in = |lines: &[String], part: &str| lines.iter().filter(|line| line.contains(part)).count();
    let mut lines = Vec::new();
    // Whoever looked whether the server listens may still be there on a busy machine.
    wait_until("the list of eleven", || {
        connection.send("stats conns\r\n").unwrap();
        lines = read_until(&mut connection, "END");
        count_in(&lines, &listening) == 11
    });
    let count = |part: &str| count_in(&lines, part);
    assert_eq!(count(":state conn_listening"), 1);
    assert_eq!((count(":state conn_watch"), count(":state conn_parse_cmd")), (1, 1));
    let own = connection.stream().local_addr().unwrap();
    assert_eq!(count(&format!(":addr tcp:{own}")), 1, "{lines:?}");
    let numbers: BTreeSet<_> = lines.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(numbers.len(), 12);
}

#[test]
fn statistics_by_prefix_are_summed_over_shards() {
    let server = start(&["-t", "3", "-D", "/"]);
    fill(&server, 300);
    let mut connection = server.connect();
    connection.send("stats detail dump\r\n").unwrap();
    assert_eq!(read_until(&mut connection, "END"), ["PREFIX key get 0 hit 0 set 300 del 0"]);
    assert_eq!(connection.command("stats reset"), "RESET");
    assert_eq!(connection.command("stats detail dump"), "END");
}

#[test]
fn a_lower_memory_limit_is_kept_and_can_be_raised_again() {
    let server = start(&["-t", "2", "-m", "64"]);
    let mut connection = server.connect();
    let store = |connection: &mut Connection| {
        for item in 0..600 {
            connection.set(&format!("large{item}"), vec![b'x'; 100_000]);
        }
    };
    store(&mut connection);
    assert!(connection.stat("bytes") > 40 << 20);
    assert_eq!(
        connection.command("cache_memlimit 65"),
        "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust"
    );
    assert_eq!(connection.command("cache_memlimit 16"), "OK");
    assert_eq!(connection.stat("limit_maxbytes"), 16 << 20);
    wait_for("the lower limit", || connection.stat("slabring_memory_pages_bytes") <= 16 << 20);
    store(&mut connection);
    assert!(connection.stat("slabring_memory_pages_bytes") <= 16 << 20);
    assert_eq!(connection.command("cache_memlimit 64"), "OK");
    store(&mut connection);
    assert!(connection.stat("bytes") > 40 << 20);
}

#[test]
fn dead_items_are_freed_by_a_crawl() {
    let server = start(&["-t", "2"]);
    fill(&server, 20_000);
    let mut connection = server.connect();
    assert_eq!(connection.command("flush_all"), "OK");
    assert_eq!(connection.command("lru_crawler crawl all"), "OK");
    wait_for("the end of the crawl", || connection.stat("curr_items") == 0);
    assert_eq!(connection.stat("lru_crawler_starts"), 1);
    assert_eq!(connection.stat("crawler_reclaimed"), 20_000);
}

#[test]
fn who_may_shuts_the_server_down() {
    let mut server = start(&["-t", "2", "-A"]);
    let mut connection = server.connect();
    assert_eq!(connection.command("shutdown nonsense"), "CLIENT_ERROR invalid shutdown mode");
    connection.send("shutdown graceful\r\n").unwrap();
    assert_eq!(connection.read_to_close().unwrap(), b"");
    assert!(server.wait(PATIENCE).is_some_and(|status| status.success()));
}
