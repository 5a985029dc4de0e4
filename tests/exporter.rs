//! What prometheus/memcached_exporter reads: it logs an error for each field that is missing, and a dashboard shows a gap.
//!
//! Source of the lists: the exporter's `pkg/exporter/exporter.go`. `total_malloced` it reads from `stats slabs`.

use std::collections::BTreeMap;

use slabring_tests::Server;

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
