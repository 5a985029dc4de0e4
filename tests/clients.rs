//! Real clients against the real server. Each round also runs against the installed memcached, which shows that the
//! round asks for nothing but what clients are used to, and what a round prints must be equal for both.

use std::collections::{BTreeSet, HashMap};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use memcache::exp::{Memcache, Ttl};
use slabring_tests::process::run_to_end;
use slabring_tests::toolbox::{Language, clients_directory, find_program};
use slabring_tests::{Server, announce_skip};

/// Names of the tool that checks a server's protocol: distributions do not agree on the spelling.
const MEMCAPABLE_NAMES: [&str; 2] = ["memccapable", "memcapable"];

/// So that a round that ends early does not go unseen.
const LINE_COUNT_MIN: usize = 70;

/// Numbers of shards, and of memcached's threads.
const THREAD_COUNTS: [&str; 2] = ["1", "2"];

/// Time for one client's whole round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(120);

const MINUTE: Duration = Duration::from_secs(60);

/// Runs a client's round against Slabring with one and two shards, and against memcached where it is installed.
fn check(round: impl Fn(&Server)) {
    if let Some(memcached) = Server::memcached(&[]) {
        round(&memcached);
    }
    for threads in THREAD_COUNTS {
        let mut slabring = Server::start(&["-t", threads]).expect("slabring starts");
        round(&slabring);
        assert!(slabring.is_running(), "the round ended the server: {}", slabring.stderr());
    }
}

fn classic_client(server: &Server) -> memcache::Client {
    let url = format!("memcache://{}?protocol=ascii&timeout=10&tcp_nodelay=true", server.address());
    memcache::connect(url).expect("a running server accepts")
}

#[test]
fn the_memcache_crate_stores_and_reads() {
    check(|server| {
        let client = classic_client(server);
        assert_eq!(client.get::<String>("absent").unwrap(), None);
        client.set("key", "value", 0).unwrap();
        assert_eq!(client.get("key").unwrap(), Some("value".to_owned()));
        client.append("key", "!").unwrap();
        client.prepend("key", "?").unwrap();
        assert_eq!(client.get("key").unwrap(), Some("?value!".to_owned()));
        // This client does not tell whether add and replace stored anything.
        client.add("key", "x", 0).unwrap();
        assert_eq!(client.get("key").unwrap(), Some("?value!".to_owned()));
        client.replace("key", "third", 0).unwrap();
        assert_eq!(client.get("key").unwrap(), Some("third".to_owned()));
        assert!(client.touch("key", 1000).unwrap());
        assert!(client.delete("key").unwrap());
        assert!(!client.delete("key").unwrap());
        client.replace("key", "x", 0).unwrap();
        assert_eq!(client.get::<String>("key").unwrap(), None);
        client.add("key", "fresh", 0).unwrap();
        assert_eq!(client.get("key").unwrap(), Some("fresh".to_owned()));
    });
}

#[test]
fn the_memcache_crate_counts() {
    check(|server| {
        let client = classic_client(server);
        client.increment("counter", 1).expect_err("there is no counter yet");
        client.set("counter", 40, 0).unwrap();
        assert_eq!(client.increment("counter", 2).unwrap(), 42);
        assert_eq!(client.decrement("counter", 100).unwrap(), 0);
        client.set("counter", u64::MAX, 0).unwrap();
        assert_eq!(client.increment("counter", 1).unwrap(), 0);
    });
}

#[test]
fn the_memcache_crate_reads_many_and_swaps() {
    check(|server| {
        let client = classic_client(server);
        let keys: Vec<String> = (0..300).map(|n| format!("many:{n}")).collect();
        for key in &keys {
            client.set(key, format!("value of {key}"), 0).unwrap();
        }
        let wanted: Vec<&str> = keys.iter().map(String::as_str).chain(["absent"]).collect();
        let found: HashMap<String, String> = client.gets(&wanted).unwrap();
        assert_eq!(found.len(), keys.len());
        assert!(keys.iter().all(|key| found[key] == format!("value of {key}")));

        let found: HashMap<String, (Vec<u8>, u32, Option<u64>)> = client.gets(&["many:7"]).unwrap();
        let version = found["many:7"].2.expect("gets tells a version");
        assert!(client.cas("many:7", "new", 0, version).unwrap());
        assert!(!client.cas("many:7", "newer", 0, version).unwrap());
        assert_eq!(client.get("many:7").unwrap(), Some("new".to_owned()));
    });
}

#[test]
fn the_memcache_crate_moves_large_values() {
    check(|server| {
        let client = classic_client(server);
        for size in [0, 1, 4095, 4096, 65_536, 400_000, 1_048_000] {
            let value: Vec<u8> = (0..=250).cycle().take(size).collect();
            client.set("large", value.as_slice(), 0).unwrap();
            assert_eq!(client.get("large").unwrap(), Some(value));
        }
        client.set("large", vec![0; 2_000_000].as_slice(), 0).expect_err("two megabytes are too much");
        assert_eq!(client.get::<String>("large").unwrap(), None);
    });
}

#[test]
fn the_memcache_crate_tells_versions_and_flushes() {
    check(|server| {
        let client = classic_client(server);
        client.set("key", "x", 0).unwrap();
        assert!(!client.version().unwrap()[0].1.is_empty());
        client.flush().unwrap();
        assert_eq!(client.get::<String>("key").unwrap(), None);
    });
}

#[test]
fn the_meta_client_reads_writes_and_counts() {
    check(|server| {
        let cache = Memcache::connect([server.address()]).unwrap();
        assert_eq!(cache.get::<String>("absent").unwrap(), None);
        cache.set("key", "value", Ttl::NEVER).unwrap();
        assert_eq!(cache.get::<String>("key").unwrap().as_deref(), Some("value"));
        assert!(!cache.add("key", "x", Ttl::secs(60)).unwrap());
        assert!(cache.replace("key", "third", Ttl::secs(60)).unwrap());
        assert_eq!(cache.get_and_touch::<String>("key", Ttl::secs(600)).unwrap().as_deref(), Some("third"));
        let about = cache.inspect("key").unwrap().expect("the key is there");
        assert!(format!("{about:?}").contains("ttl"), "{about:?}");
        cache.delete("key").unwrap();
        assert_eq!(cache.incr("counter", 5, Ttl::secs(60)).unwrap(), 5);
        assert_eq!(cache.incr("counter", 5, Ttl::secs(60)).unwrap(), 10);
        assert_eq!(cache.decr("counter", 3, Ttl::secs(60)).unwrap(), 7);
        cache.set(b"\x00 binary\r\n", "spaces and line ends", Ttl::secs(60)).unwrap();
        let read = cache.get::<String>(b"\x00 binary\r\n").unwrap();
        assert_eq!(read.as_deref(), Some("spaces and line ends"));
    });
}

#[test]
fn the_meta_client_moves_many_values() {
    check(|server| {
        let cache = Memcache::connect([server.address()]).unwrap();
        let pairs: Vec<(String, String)> =
            (0..400).map(|n| (format!("many:{n}"), format!("{n}").repeat(n % 90 + 1))).collect();
        cache.set_many(pairs.clone(), Ttl::secs(600)).unwrap();
        let keys: Vec<String> = pairs.iter().map(|(key, _)| key.clone()).collect();
        let found = cache.get_many::<String, _>(keys.clone()).unwrap();
        assert_eq!(found, pairs.into_iter().collect());
        cache.delete_many(keys.clone()).unwrap();
        assert!(cache.get_many::<String, _>(keys).unwrap().is_empty());
    });
}

#[test]
fn updates_of_the_meta_client_from_many_threads_all_count() {
    const THREADS: u64 = 8;
    const UPDATES: u64 = 50;
    check(|server| {
        let address = server.address();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(move || {
                    let cache = Memcache::connect([address]).unwrap();
                    for _ in 0..UPDATES {
                        // Gives up after a number of lost races, so it is asked again.
                        while cache
                            .update("shared", Ttl::secs(600), |n: Option<u64>| n.unwrap_or(0) + 1)
                            .is_err()
                        {}
                    }
                });
            }
        });
        let cache = Memcache::connect([address]).unwrap();
        assert_eq!(cache.get::<u64>("shared").unwrap(), Some(THREADS * UPDATES));
    });
}

#[test]
fn one_of_many_meta_clients_computes_what_all_of_them_miss() {
    check(|server| {
        let address = server.address();
        let computed = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let cache = Memcache::connect([address]).unwrap();
                    let value: String = cache
                        .fetch("report", Ttl::secs(600), || {
                            computed.fetch_add(1, Ordering::Relaxed);
                            thread::sleep(Duration::from_millis(100));
                            Ok::<_, std::io::Error>("done".to_owned())
                        })
                        .unwrap();
                    assert_eq!(value, "done");
                });
            }
        });
        assert_eq!(computed.into_inner(), 1);

        let cache = Memcache::connect([address]).unwrap();
        cache.invalidate("report", MINUTE).unwrap();
        assert_eq!(cache.get::<String>("report").unwrap().as_deref(), Some("done"), "stale is readable");
        let fresh: String =
            cache.fetch("report", Ttl::secs(600), || Ok::<_, std::io::Error>("again".to_owned())).unwrap();
        assert_eq!(fresh, "again");
    });
}

#[test]
fn pymemcache_sees_no_difference() {
    check_round(Language::Python, "pymemcache_round.py", &[]);
}

#[test]
fn libmemcached_sees_no_difference_in_text() {
    check_round(Language::Python, "pylibmc_round.py", &["text"]);
}

#[test]
fn libmemcached_sees_no_difference_in_binary() {
    check_round(Language::Python, "pylibmc_round.py", &["binary"]);
}

#[test]
fn python_binary_memcached_sees_no_difference() {
    check_round(Language::Python, "bmemcached_round.py", &[]);
}

#[test]
fn aiomcache_sees_no_difference() {
    check_round(Language::Python, "aiomcache_round.py", &[]);
}

#[test]
fn emcache_sees_no_difference() {
    check_round(Language::Python, "emcache_round.py", &[]);
}

#[test]
fn memjs_sees_no_difference() {
    check_round(Language::Node, "memjs_round.js", &[]);
}

#[test]
fn memcached_from_node_sees_no_difference() {
    check_round(Language::Node, "node_memcached_round.js", &[]);
}

#[test]
fn perl_sees_no_difference() {
    check_round(Language::Perl, "fast_round.pl", &[]);
}

/// Runs a client's round against all servers at once and compares what it prints for each of them.
#[track_caller]
fn check_round(language: Language, script: &str, arguments: &[&str]) {
    if language.command().is_none() {
        return;
    }
    let mut servers: Vec<Server> =
        THREAD_COUNTS.into_iter().filter_map(|threads| Server::memcached(&["-t", threads])).collect();
    servers.extend(THREAD_COUNTS.map(|threads| Server::start(&["-t", threads]).expect("slabring starts")));
    let prints = thread::scope(|scope| {
        let play = |server| scope.spawn(move || play_round(language, script, arguments, server));
        let players: Vec<_> = servers.iter().map(play).collect();
        players.into_iter().map(|player| player.join().expect("a round does not panic")).collect::<Vec<_>>()
    });
    let pairs = prints.iter().zip(&servers);
    let differences: Vec<_> =
        pairs.flat_map(|(print, server)| differences(&prints[0], print, server)).collect();
    assert!(differences.is_empty(), "{script} {arguments:?}:\n{}", differences.join("\n"));
    assert!(prints.iter().all(|print| print.lines().count() >= LINE_COUNT_MIN), "{prints:?}");
}

/// What the round prints, and how it ended when that was not well.
fn play_round(language: Language, script: &str, arguments: &[&str], server: &Server) -> String {
    let mut command = language.command().expect("asked before");
    command.arg(clients_directory().join(script)).arg(server.address().port().to_string()).args(arguments);
    let finished = run_to_end(&mut command, ROUND_TIMEOUT).expect("the round ends");
    match finished.status.success() {
        true => finished.stdout,
        false => format!("{}{}: {}\n{}", finished.stdout, finished.status, finished.stderr, server.stderr()),
    }
}

/// Lines of a print that are not as expected.
fn differences(expected: &str, print: &str, server: &Server) -> Vec<String> {
    let (expected_lines, lines): (Vec<_>, Vec<_>) = (expected.lines().collect(), print.lines().collect());
    let line_count = expected_lines.len().max(lines.len());
    let line_of = |lines: &[&str], number: usize| lines.get(number).copied().unwrap_or("nothing").to_owned();
    (0..line_count)
        .map(|number| (line_of(&expected_lines, number), line_of(&lines, number)))
        .filter(|(expected, line)| expected != line)
        .map(|(expected, line)| format!("{:?}: expected {expected}\n  got {line}", server.kind()))
        .collect()
}

#[test]
fn memcapable_finds_every_text_command() {
    check_memcapable("-a");
}

#[test]
fn memcapable_finds_every_binary_command() {
    check_memcapable("-b");
}

/// Checks that the tool's tests that memcached passes pass for Slabring.
#[track_caller]
fn check_memcapable(protocol: &str) {
    let Some(tool) = MEMCAPABLE_NAMES.into_iter().find(|name| find_program(name).is_some()) else {
        announce_skip(format_args!("neither of {MEMCAPABLE_NAMES:?} is installed"));
        return;
    };
    let memcached = Server::memcached(&[]);
    let expected = memcached.map(|memcached| memcapable_tests_passed(tool, protocol, &memcached).0);
    for threads in THREAD_COUNTS {
        let slabring = Server::start(&["-t", threads]).expect("slabring starts");
        let (passed, report) = memcapable_tests_passed(tool, protocol, &slabring);
        let missing: Vec<_> = expected.iter().flatten().filter(|name| !passed.contains(*name)).collect();
        assert!(
            !passed.is_empty() && missing.is_empty(),
            "{missing:?} fail:\n{report}\n{}",
            slabring.stderr()
        );
    }
}

/// The names of the tests that a server passes, and the tool's whole report.
fn memcapable_tests_passed(tool: &str, protocol: &str, server: &Server) -> (BTreeSet<String>, String) {
    let (host, port) = (server.address().ip().to_string(), server.address().port().to_string());
    let mut command = Command::new(tool);
    command.args(["-h", &host, "-p", &port, protocol, "-v", "-t", "10"]);
    let finished = run_to_end(&mut command, ROUND_TIMEOUT).expect("the tool ends");
    let report = finished.stdout + &finished.stderr;
    let passed = report.lines().filter_map(|line| line.strip_suffix("[pass]"));
    (passed.map(|name| name.trim().to_owned()).collect(), report)
}
