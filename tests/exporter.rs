//! What prometheus/memcached_exporter reads: it logs an error for each field that is missing, and a dashboard shows a gap.
//!
//! Source of the lists: the exporter's `pkg/exporter/exporter.go`. `total_malloced` it reads from `stats slabs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use slabring_tests::{Cluster, Server};

/// Numbers of `stats`.
const GENERAL: &[&str] = &[
    "accepting_conns",
    "bytes",
    "bytes_read",
    "bytes_written",
    "cas_badval",
    "cas_hits",
    "cas_misses",
    "cmd_flush",
    "cmd_get",
    "cmd_set",
    "conn_yields",
    "crawler_items_checked",
    "crawler_reclaimed",
    "curr_connections",
    "curr_items",
    "decr_hits",
    "decr_misses",
    "delete_hits",
    "delete_misses",
    "direct_reclaims",
    "evictions",
    "get_hits",
    "get_misses",
    "incr_hits",
    "incr_misses",
    "limit_maxbytes",
    "listen_disabled_num",
    "lru_crawler_starts",
    "max_connections",
    "moves_to_cold",
    "moves_to_warm",
    "moves_within_lru",
    "reclaimed",
    "rejected_connections",
    "rusage_system",
    "rusage_user",
    "store_no_memory",
    "store_too_large",
    "time",
    "total_connections",
    "total_items",
    "touch_hits",
    "touch_misses",
    "uptime",
];

/// Numbers of `stats settings`.
const SETTINGS: &[&str] = &[
    "hot_lru_pct",
    "hot_max_factor",
    "lru_crawler_sleep",
    "lru_crawler_tocrawl",
    "maxconns",
    "warm_lru_pct",
    "warm_max_factor",
];

/// Words of `stats settings`, `yes` or `no`.
const SWITCHES: &[&str] = &["lru_crawler", "lru_maintainer_thread"];

/// Numbers of each class in `stats items`.
const ITEMS: &[&str] = &[
    "age",
    "crawler_reclaimed",
    "evicted",
    "evicted_nonzero",
    "evicted_time",
    "evicted_unfetched",
    "expired_unfetched",
    "lrutail_reflocked",
    "moves_to_cold",
    "moves_to_warm",
    "moves_within_lru",
    "number",
    "number_cold",
    "number_hot",
    "number_warm",
    "outofmemory",
    "reclaimed",
    "tailrepairs",
];

/// Numbers of each class in `stats slabs`.
const SLABS: &[&str] = &[
    "cas_badval",
    "cas_hits",
    "chunk_size",
    "chunks_per_page",
    "cmd_set",
    "decr_hits",
    "delete_hits",
    "free_chunks",
    "free_chunks_end",
    "get_hits",
    "incr_hits",
    "total_chunks",
    "total_pages",
    "touch_hits",
    "used_chunks",
];

type Stats = BTreeMap<String, String>;

/// Runs a case against memcached where it is installed and against Slabring, each with an item in it.
fn check(case: impl Fn(&Server)) {
    if let Some(memcached) = Server::memcached(&[]) {
        memcached.connect().set("key", "value");
        case(&memcached);
    }
    for threads in ["1", "2"] {
        let slabring = Server::start(&["-t", threads]).expect("slabring starts");
        slabring.connect().set("key", "value");
        case(&slabring);
    }
}

fn stats(server: &Server, topic: &str) -> Stats {
    let mut connection = server.connect();
    let mut line = connection.command(&format!("stats{topic}"));
    let mut stats = Stats::new();
    while line != "END" {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        let ["STAT", name, value] = words.as_slice() else { panic!("stats{topic}: {line:?}") };
        let old = stats.insert((*name).to_owned(), (*value).to_owned());
        assert!(old.is_none(), "stats{topic} tells {name} twice");
        line = String::from_utf8_lossy(&connection.read_line().expect("stats end")).into_owned();
    }
    stats
}

/// Checks that these are all there and that each is a number as the exporter reads one.
#[track_caller]
fn check_numbers(stats: &Stats, names: impl IntoIterator<Item = String>, server: &Server) {
    let is_number = |name: &String| stats.get(name).is_some_and(|value| value.parse::<f64>().is_ok());
    let missing: Vec<_> = names.into_iter().filter(|name| !is_number(name)).collect();
    assert!(missing.is_empty(), "{:?}: no number for {missing:?}", server.kind());
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The classes of a list whose fields are named `PREFIX CLASS : FIELD`.
fn classes(stats: &Stats, prefix: &str) -> Vec<String> {
    let class = |name: &String| name.strip_prefix(prefix)?.split_once(':').map(|(class, _)| class.to_owned());
    let mut classes: Vec<_> =
        stats.keys().filter_map(class).filter(|class| class.parse::<u32>().is_ok()).collect();
    classes.dedup();
    classes
}

#[test]
fn general_fields_are_numbers() {
    check(|server| {
        let stats = stats(server, "");
        check_numbers(&stats, owned(GENERAL), server);
        let version = stats.get("version").expect("stats tell the version");
        assert!(
            version.split('.').all(|part| part.parse::<u32>().is_ok()),
            "{version} is not dotted numbers"
        );
    });
}

/// One request, and what it adds to the counters of commands. Before each there are an item `key` and a number `n`.
const COUNTED: &[(&str, &str)] = &[
    ("get key", "cmd_get get_hits"),
    ("get absent", "cmd_get get_misses"),
    ("gat 0 key", "cmd_touch touch_hits"),
    ("gats 0 key", "cmd_touch touch_hits"),
    ("gat 0 absent", "cmd_touch touch_misses"),
    ("touch key 0", "cmd_touch touch_hits"),
    ("touch absent 0", "cmd_touch touch_misses"),
    ("mg key v", "cmd_get get_hits"),
    ("mg absent v", "cmd_get get_misses"),
    ("mg key T0 v", "cmd_touch touch_hits"),
    ("mg absent T0 v", "cmd_get get_misses"),
    ("md key", "delete_hits"),
    ("md absent", "delete_misses"),
    ("md key C1", "delete_misses"),
    ("md key I", ""),
    ("delete key", "delete_hits"),
    ("delete absent", "delete_misses"),
    ("ma n", "incr_hits"),
    ("ma n MD", "decr_hits"),
    ("ma absent", "incr_misses"),
    ("ma absent N0", ""),
    ("incr n 1", "incr_hits"),
    ("decr absent 1", "decr_misses"),
    ("ms key 1\r\nx", "cmd_set"),
    ("ms key 1 C1\r\nx", "cmd_set cas_badval"),
    ("ms absent 1 C1\r\nx", "cmd_set cas_misses"),
    ("ms key 1 MA C1\r\nx", "cmd_set"),
    ("cas key 0 0 1 1\r\nx", "cmd_set cas_badval"),
    ("add key 0 0 1\r\nx", "cmd_set"),
    ("append absent 0 0 1\r\nx", "cmd_set"),
];

#[test]
fn each_command_counts_as_memcached_counts_it() {
    const NAMES: &[&str] = &[
        "cas_badval",
        "cas_hits",
        "cas_misses",
        "cmd_get",
        "cmd_set",
        "cmd_touch",
        "decr_hits",
        "decr_misses",
        "delete_hits",
        "delete_misses",
        "get_hits",
        "get_misses",
        "incr_hits",
        "incr_misses",
        "touch_hits",
        "touch_misses",
    ];
    check(|server| {
        let mut connection = server.connect();
        for (request, expected) in COUNTED {
            assert_eq!(connection.command("flush_all"), "OK");
            connection.set("key", "x");
            connection.set("n", "5");
            let before = stats(server, "");
            connection.command(request);
            // Whatever its answer is, it ends before this one.
            connection.send("mn\r\n").expect("a server takes bytes");
            while connection.read_line().expect("an answer") != b"MN" {}
            let after = stats(server, "");
            let counted: Vec<_> =
                NAMES.iter().filter(|&&name| before[name] != after[name]).copied().collect();
            let mut expected: Vec<_> = expected.split_whitespace().collect();
            expected.sort_unstable();
            assert_eq!(counted, expected, "{request:?} at {:?}", server.kind());
        }
    });
}

#[test]
fn settings_are_numbers_and_switches() {
    check(|server| {
        let stats = stats(server, " settings");
        check_numbers(&stats, owned(SETTINGS), server);
        for name in SWITCHES {
            let value = stats.get(*name).map(String::as_str);
            assert!(matches!(value, Some("yes" | "no")), "{:?}: {name} is {value:?}", server.kind());
        }
    });
}

#[test]
fn classes_that_hold_items_tell_about_them() {
    check(|server| {
        let stats = stats(server, " items");
        let classes = classes(&stats, "items:");
        assert!(!classes.is_empty(), "{:?}: {stats:?}", server.kind());
        let names =
            classes.iter().flat_map(|class| ITEMS.iter().map(move |field| format!("items:{class}:{field}")));
        check_numbers(&stats, names, server);
    });
}

#[test]
fn classes_that_have_pages_tell_about_them() {
    check(|server| {
        let stats = stats(server, " slabs");
        let classes = classes(&stats, "");
        assert!(!classes.is_empty(), "{:?}: {stats:?}", server.kind());
        let names =
            classes.iter().flat_map(|class| SLABS.iter().map(move |field| format!("{class}:{field}")));
        check_numbers(&stats, names.chain(owned(&["active_slabs", "total_malloced"])), server);
    });
}

#[test]
fn sizes_are_numbers_or_off() {
    check(|server| {
        for (name, value) in stats(server, " sizes") {
            let is_off = name == "sizes_status" && value == "disabled";
            let is_size = name.parse::<u64>().is_ok() && value.parse::<u64>().is_ok();
            assert!(is_off || is_size, "{:?}: {name} {value}", server.kind());
        }
    });
}

#[test]
fn every_statistic_of_our_own_is_explained_under_its_whole_name() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let pages = fs::read_dir(directory).expect("the documentation").map(|page| page.expect("a page").path());
    let text: String =
        pages.filter(|page| page.is_file()).map(|page| fs::read_to_string(page).expect("text")).collect();
    let fences = std::env::temp_dir().join(format!("slabring-fences-{}", std::process::id()));
    let fences = fences.to_str().expect("a path");
    let alone = Server::start(&["-t", "2", "--lock-file", fences]).expect("slabring starts");
    let nodes = Cluster::of_peers(2, &["--replicas", "2", "-t", "1"]);
    let mut own = 0;
    for server in [&alone, &nodes.nodes[0]] {
        for topic in ["", " settings"] {
            let mut names: Vec<_> = stats(server, topic).into_keys().collect();
            names.retain(|name| name.starts_with("slabring_"));
            own += names.len();
            names.retain(|name| !text.contains(&format!("`{name}`")));
            assert!(names.is_empty(), "stats{topic}: the documentation does not explain {names:?}");
        }
    }
    assert!(own > 100, "only {own} of our own");
    fs::remove_file(fences).ok();
}
