//! Miss ratios on recorded traces, not checks:
//! `SLABRING_TRACES=folder cargo test --release -p slabring-engine --test ratios -- --ignored --nocapture`.
//!
//! The folder holds uncompressed `CTRACE01` files (`name.ctr`: a header of 64 bytes, records of 24) and
//! `goals.csv` with what other policies reached.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has failed")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use slabring_engine::{
    Config, Delete, DeleteMode, Expiry, MEMORY_BYTES_MIN, PolicyKind, Seconds, Shard, Store,
};

const NOW: Seconds = Seconds(1_700_000_000);
const HEADER_SIZE: usize = 64;
const RECORD_SIZE: usize = 24;
const TRACES: [&str; 5] = ["c2k_web12", "scarab_recs", "arc_oltp", "c2k_orm_busy", "arc_p3"];
/// Sizes of the cache in percent of the keys.
const PERCENTS: [u32; 4] = [1, 5, 10, 20];
const SIZED_TRACES: [&str; 5] = ["calc_scarab", "scarab_recs", "c2k_orm_busy", "twl_c14", "twl_c52"];
/// Sizes of the cache in percent of the bytes of all keys.
const SIZED_PERCENTS: [u32; 2] = [10, 30];
/// The same policy without fragmentation, with it, and what memcached does.
const REFERENCES: [&str; 3] =
    ["ideal-ADAPT5-ov24", "slab1.12-ADAPT5-ov24-rebal", "slab1.25-LRU-ov64-norebal-lazyTTL(memcached-like)"];
/// Every item is looked at within so many seconds of the trace's time.
const SWEEP_SECONDS: usize = 30;
struct Trace {
    keys: u64,
    ids: Vec<u32>,
}

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("SLABRING_TRACES").map(PathBuf::from);
    if folder.is_none() {
        println!("SKIPPED: SLABRING_TRACES names no folder of traces");
    }
    folder
}

fn load(folder: &Path, name: &str) -> Trace {
    let bytes = std::fs::read(folder.join(name).with_extension("ctr")).unwrap();
    assert_eq!(&bytes[..8], b"CTRACE01", "{name}");
    let keys = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    let id = |record: &[u8]| u32::from_le_bytes(record[..4].try_into().unwrap());
    let ids = bytes[HEADER_SIZE..].chunks_exact(RECORD_SIZE).map(id).collect();
    Trace { keys, ids }
}

/// Miss ratio of a cache-aside client whose items are all alike.
fn miss_ratio(trace: &Trace, policy: PolicyKind, items: usize) -> f64 {
    let config =
        Config { policy, items_max: Some(items), hash_seed: Some(1), ..Config::with_memory(1 << 30) };
    let mut shard = Shard::new(&config).unwrap();
    let mut misses = 0;
    for id in &trace.ids {
        let key = id.to_le_bytes();
        if shard.get(NOW, &key).is_none() {
            misses += 1;
            shard.store(NOW, &Store::set(&key, b"", Expiry::Never));
        }
    }
    assert!(shard.counters().items <= items as u64);
    f64::from(misses) / trace.ids.len() as f64
}

/// Lowest miss ratio of nineteen online policies, by trace and share.
fn best_known(folder: &Path) -> HashMap<(String, String), f64> {
    let table = std::fs::read_to_string(folder.join("goals.csv")).unwrap();
    let mut rows = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let best = rows.next().unwrap().iter().position(|&column| column == "best19").unwrap();
    rows.map(|row| ((row[0].to_owned(), row[1].to_owned()), row[best].parse().unwrap())).collect()
}

#[test]
#[ignore = "needs traces, takes long and checks nothing"]
fn miss_ratios_beside_the_best_known_policy_of_each_cell() {
    let Some(folder) = folder() else { return };
    let best = best_known(&folder);
    let policies = match std::env::var("SLABRING_POLICIES") {
        Ok(names) => names.split(',').map(|name| name.parse().unwrap()).collect(),
        Err(_) => PolicyKind::ALL.to_vec(),
    };
    print!("{:<14}{:>6}{:>8}", "trace", "share", "best");
    policies.iter().for_each(|policy| print!("{:>10}", policy.name()));
    println!();
    let mut gaps = vec![Vec::new(); policies.len()];
    for name in TRACES {
        let trace = load(&folder, name);
        for percent in PERCENTS {
            let share = f64::from(percent) / 100.0;
            let known = best[&(name.to_owned(), share.to_string())];
            print!("{name:<14}{share:>6}{known:>8.4}");
            for (policy, gaps) in policies.iter().zip(&mut gaps) {
                let items = usize::try_from(trace.keys * u64::from(percent) / 100).unwrap();
                let missed = miss_ratio(&trace, *policy, items);
                gaps.push(100.0 * (missed - known));
                print!("{missed:>10.4}");
            }
            println!();
        }
    }
    for (policy, gaps) in policies.iter().zip(&gaps) {
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let worst = gaps.iter().copied().fold(f64::MIN, f64::max);
        let near = gaps.iter().filter(|&&gap| gap <= 1.0).count();
        println!(
            "{:<10} mean gap {mean:.2} points, worst {worst:.2}, {near} of {} within 1",
            policy.name(),
            gaps.len()
        );
    }
}

struct Request {
    id: u64,
    size: usize,
    ttl: u32,
    second: u32,
    operation: u8,
}

fn requests(bytes: &[u8]) -> impl Iterator<Item = Request> + '_ {
    let word = |record: &[u8], at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
    bytes[HEADER_SIZE..].chunks_exact(RECORD_SIZE).map(move |record| Request {
        id: u64::from(word(record, 0)),
        size: word(record, 8) as usize,
        ttl: word(record, 12),
        second: word(record, 16),
        operation: record[20],
    })
}

/// Miss ratio of a cache-aside client whose items are as large and live as long as the trace says.
fn sized_miss_ratio(bytes: &[u8], policy: PolicyKind, memory_bytes: usize) -> f64 {
    let config = Config { policy, hash_seed: Some(1), ..Config::with_memory(memory_bytes) };
    let mut shard = Shard::new(&config).unwrap();
    let value = vec![0; 8 << 20];
    let (mut gets, mut misses, mut second) = (0, 0, 0);
    for request in requests(bytes) {
        if request.second != second {
            second = request.second;
            let chunks: usize = shard.classes().map(|class| class.used + class.free).sum();
            shard.sweep(Seconds(NOW.0 + second), chunks / SWEEP_SECONDS + 1);
        }
        let now = Seconds(NOW.0 + second);
        let key = request.id.to_le_bytes();
        let expiry = if request.ttl == 0 { Expiry::Never } else { Expiry::At(Seconds(now.0 + request.ttl)) };
        let value = &value[..request.size.saturating_sub(key.len())];
        match request.operation {
            0 => {
                gets += 1;
                if shard.get(now, &key).is_none() {
                    misses += 1;
                    shard.store(now, &Store::set(&key, value, expiry));
                }
            }
            1 => drop(shard.store(now, &Store::set(&key, value, expiry))),
            _ => {
                let delete =
                    Delete { key: &key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
                shard.delete(now, &delete);
            }
        }
    }
    f64::from(misses) / f64::from(gets)
}

#[test]
#[ignore = "needs traces, takes long and checks nothing"]
fn miss_ratios_in_bytes_beside_the_same_policy_without_fragmentation() {
    let Some(folder) = folder() else { return };
    let table = std::fs::read_to_string(folder.join("reference_bytes.csv")).unwrap();
    let policies = [PolicyKind::TinyLfu, PolicyKind::S3Fifo, PolicyKind::WTinyLfu, PolicyKind::Lru];
    println!("trace, share: ideal, slab simulator, memcached-like; then {policies:?}");
    for name in SIZED_TRACES {
        let bytes = std::fs::read(folder.join(name).with_extension("ctr")).unwrap();
        let unique_bytes = u64::from_le_bytes(bytes[32..40].try_into().unwrap());
        for percent in SIZED_PERCENTS {
            let share = f64::from(percent) / 100.0;
            print!("{name:<14}{share:>6}");
            for policy in REFERENCES {
                let row = |line: &&str| {
                    let fields: Vec<&str> = line.split(',').collect();
                    fields[0] == name && fields[1] == share.to_string() && fields[3] == policy
                };
                let known = table.lines().find(row).map(|line| line.split(',').nth(4).unwrap());
                print!("{:>10}", known.unwrap_or("-"));
            }
            for policy in policies {
                let memory_bytes = usize::try_from(unique_bytes * u64::from(percent) / 100).unwrap();
                print!("{:>10.4}", sized_miss_ratio(&bytes, policy, memory_bytes.max(MEMORY_BYTES_MIN)));
            }
            println!();
        }
    }
}
