//! Instructions per operation, which no other load on the machine changes: this program runs itself under callgrind.
//!
//! `cargo bench -p slabring-bench --bench instructions`, with `--features peers` beside other caches. Needs valgrind.

#![forbid(unsafe_code)]

#[expect(dead_code, reason = "moka runs threads of its own, whose instructions would count")]
mod caches;
#[expect(dead_code, reason = "the time of operations needs more orders of keys")]
mod workload;

use std::hint::black_box;
use std::process::Command;

use slabring_engine::Shard;

use caches::Cache;
use workload::{BATCH_KEYS, Key, absent, scattered, stored};

/// Far fewer than for times: instructions do not depend on what the CPU's caches hold.
const ITEMS: usize = 200_000;
const BYTES_PER_ITEM: usize = 96;
const VALUE: [u8; 32] = [b'v'; 32];
/// Operations counted, a multiple of a batch.
const COUNTED: usize = 200 * BATCH_KEYS;
const OPERATIONS: [&str; 6] = ["get hit", "get miss", "get 64", "set over", "delete", "set new"];

fn main() {
    let words: Vec<String> = std::env::args().collect();
    match &words[..] {
        [_, cache, operation] if OPERATIONS.contains(&operation.as_str()) => run(cache, operation),
        _ => print_all(&words[0]),
    }
}

fn print_all(program: &str) {
    println!("| cache | {} |", OPERATIONS.join(" | "));
    println!("|---|{}", "---|".repeat(OPERATIONS.len()));
    let policies = ["slabring tinylfu", "slabring s3fifo", "slabring clock"];
    let peers: &[&str] = if cfg!(feature = "peers") { &["segcache", "quick_cache"] } else { &[] };
    for cache in policies.iter().chain(peers) {
        let counts: Vec<String> =
            OPERATIONS.iter().map(|operation| counted(program, cache, operation)).collect();
        println!("| {cache} | {} |", counts.join(" | "));
    }
}

/// Instructions of one operation, as callgrind says.
fn counted(program: &str, cache: &str, operation: &str) -> String {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*toggle_counting*"])
        .args([program, cache, operation])
        .output()
        .expect("valgrind is installed");
    let log = String::from_utf8_lossy(&output.stderr);
    let total = log.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    let total: usize = total.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{log}"));
    (total / COUNTED).to_string()
}

fn run(cache: &str, operation: &str) {
    match cache {
        "slabring tinylfu" => measure(&mut with_policy("tinylfu"), operation),
        "slabring s3fifo" => measure(&mut with_policy("s3fifo"), operation),
        "slabring clock" => measure(&mut with_policy("clock"), operation),
        #[cfg(feature = "peers")]
        "segcache" => measure(&mut caches::peers::Segcache::with_memory(ITEMS * BYTES_PER_ITEM), operation),
        #[cfg(feature = "peers")]
        "quick_cache" => {
            measure(&mut caches::peers::QuickCache::with_memory(ITEMS * BYTES_PER_ITEM), operation)
        }
        _ => panic!("no cache is called {cache}"),
    }
}

fn with_policy(name: &str) -> Shard {
    let policy = name.parse().expect("a policy's name");
    let config =
        slabring_engine::Config { policy, ..slabring_engine::Config::with_memory(ITEMS * BYTES_PER_ITEM) };
    Shard::new(&config).expect("a budget in range")
}

fn measure<C: Cache>(cache: &mut C, operation: &str) {
    let more = if operation == "set new" { 3 * ITEMS } else { 0 };
    (0..ITEMS + more).for_each(|number| cache.set(&stored(number), &VALUE));
    let present = |cache: &mut C| {
        let keys = (0..ITEMS).map(|number| stored(scattered(number, ITEMS)));
        keys.filter(|key| cache.get(key)).take(COUNTED).collect::<Vec<Key>>()
    };
    let keys = match operation {
        "get miss" => (0..COUNTED).map(absent).collect(),
        "set new" => (0..COUNTED).map(|number| stored(ITEMS + more + number)).collect(),
        _ => present(cache),
    };
    assert_eq!(keys.len(), COUNTED);
    toggle_counting(cache, operation, &keys);
}

/// Callgrind counts while this runs.
#[inline(never)]
fn toggle_counting<C: Cache>(cache: &mut C, operation: &str, keys: &[Key]) {
    match operation {
        "get hit" | "get miss" => keys.iter().for_each(|key| {
            black_box(cache.get(key));
        }),
        "get 64" => {
            for batch in keys.as_chunks::<BATCH_KEYS>().0 {
                black_box(cache.get_many(&batch.each_ref().map(|key| &key[..])));
            }
        }
        "delete" => keys.iter().for_each(|key| cache.delete(key)),
        _ => keys.iter().for_each(|key| cache.set(key, &VALUE)),
    }
}
