//! Numbers, not checks: `cargo test --release -p slabring-engine --test measure -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Instant;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{Config, Expiry, PolicyKind, Seconds, Shard, Store};

const NOW: Seconds = Seconds(1_700_000_000);
const ITEMS: u32 = 1_000_000;
const ROUNDS: u32 = 4_000_000;

fn key(id: u32, buffer: &mut [u8; 10]) -> &[u8] {
    let mut rest = id;
    for digit in buffer.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    buffer
}

fn timed(name: &str, count: u32, mut step: impl FnMut(u32)) {
    let start = Instant::now();
    let mut worst = 0;
    let mut block = start;
    for i in 0..count {
        step(i);
        if i % 64 == 63 {
            let now = Instant::now();
            worst = worst.max((now - block).as_nanos());
            block = now;
        }
    }
    let each = start.elapsed().as_nanos() as f64 / f64::from(count);
    println!("{name:<44} {each:7.1} ns each, worst 64 in a row {:9.1} us", worst as f64 / 1000.0);
}

fn measure(policy: PolicyKind, huge_pages: bool) {
    println!("{policy:?}, huge pages {huge_pages}");
    let config = Config { policy, huge_pages, ..Config::with_memory(256 << 20) };
    let mut shard = Shard::new(&config).unwrap();
    let mut random = SmallRng::seed_from_u64(1);
    let mut buffer = [0; 10];
    let mut set = |shard: &mut Shard, id: u32| {
        shard.store(NOW, &Store::set(key(id, &mut buffer), &[7; 32], Expiry::Never));
    };
    timed("set, new", ITEMS, |id| set(&mut shard, id));
    timed("set, present, random", ROUNDS, |_| set(&mut shard, random.random_range(0..ITEMS)));
    let mut buffer = [0; 10];
    let mut get =
        |shard: &mut Shard, id: u32| shard.get(NOW, key(id, &mut buffer)).map_or(0, |item| item.value_len());
    timed("get, hit, random of a million", ROUNDS, |_| {
        assert_eq!(get(&mut shard, random.random_range(0..ITEMS)), 32);
    });
    timed("get, hit, random of ten thousand", ROUNDS, |_| {
        assert_eq!(get(&mut shard, random.random_range(0..10_000)), 32);
    });
    timed("get, hit, one key", ROUNDS, |_| assert_eq!(get(&mut shard, 5), 32));
    timed("get, miss, random", ROUNDS, |_| {
        assert_eq!(get(&mut shard, ITEMS + random.random_range(0..ITEMS)), 0);
    });
    timed("sweep of 64 chunks", ITEMS / 64, |_| {
        shard.sweep(NOW, 64);
    });
    let memory = shard.memory();
    let bytes = memory.used() as f64 / f64::from(ITEMS);
    println!("{bytes:.1} bytes an item all in, of which 42 are key and value; {memory:?}");
}

fn measure_full(policy: PolicyKind) {
    let config = Config { policy, ..Config::with_memory(64 << 20) };
    let mut shard = Shard::new(&config).unwrap();
    let mut buffer = [0; 10];
    let mut set = |shard: &mut Shard, id: u32| {
        shard.store(NOW, &Store::set(key(id, &mut buffer), &[7; 32], Expiry::Never));
    };
    (0..2 * ITEMS).for_each(|id| set(&mut shard, id));
    timed("set, new, with one eviction each", ROUNDS, |i| set(&mut shard, 2 * ITEMS + i));
    println!("{:?}", shard.counters());
}

/// Sizes that wander, so that pages leave one class for another all the time while the index grows and shrinks.
fn measure_churn(memory_bytes: usize) {
    let mut shard = Shard::new(&Config { huge_pages: true, ..Config::with_memory(memory_bytes) }).unwrap();
    let mut random = SmallRng::seed_from_u64(2);
    let value = vec![7; 8_000];
    let mut buffer = [0; 10];
    let (mut worst, mut over) = (0, 0);
    let start = Instant::now();
    for round in 0..3 * ROUNDS {
        let key = key(random.random_range(0..ITEMS), &mut buffer);
        let size = 20_usize << (round / 400_000 % 6);
        let value = &value[..size + random.random_range(0..size)];
        let before = Instant::now();
        if shard.get(NOW, key).is_none() {
            shard.store(NOW, &Store::set(key, value, Expiry::Never));
        }
        let nanos = before.elapsed().as_nanos();
        worst = worst.max(nanos);
        over += u32::from(nanos > 200_000);
    }
    let each = start.elapsed().as_nanos() as f64 / f64::from(3 * ROUNDS);
    println!(
        "churn in {} MiB: {each:.0} ns each, worst {} us, {over} over 200 us",
        memory_bytes >> 20,
        worst / 1_000
    );
    println!("{:?}", shard.counters());
}

fn measure_sweep() {
    let items = 10_000_000;
    let config = Config { huge_pages: true, ..Config::with_memory(1 << 30) };
    let mut shard = Shard::new(&config).unwrap();
    let mut buffer = [0; 10];
    for id in 0..items {
        let expiry = Expiry::At(Seconds(NOW.0 + 60 + id % 600));
        shard.store(NOW, &Store::set(key(id, &mut buffer), &[7; 32], expiry));
    }
    let start = Instant::now();
    let swept = shard.sweep(NOW, usize::MAX);
    let alive = start.elapsed();
    println!(
        "sweep of {items} live items: {alive:?}, {:.2} % of a core every 60 s",
        alive.as_secs_f64() / 0.6
    );
    assert!(swept.freed == 0 && swept.examined >= items as usize);
    let start = Instant::now();
    let freed = shard.sweep(Seconds(NOW.0 + 1_000), usize::MAX).freed;
    println!("sweep that frees {freed}: {:.0} ns each", start.elapsed().as_nanos() as f64 / freed as f64);
}

/// Bytes of everything but key and value, for each item of a full shard.
fn measure_overhead(policy: PolicyKind, value_size: usize) {
    let mut shard = Shard::new(&Config { policy, ..Config::with_memory(256 << 20) }).unwrap();
    let value = vec![7; value_size];
    let mut buffer = [0; 10];
    let mut id = 0;
    while shard.counters().evictions < 2_000_000 {
        shard.store(NOW, &Store::set(key(id, &mut buffer), &value, Expiry::Never));
        id += 1;
    }
    let (memory, items) = (shard.memory(), shard.counters().items as f64);
    let each = |bytes: usize| bytes as f64 / items;
    let class = shard.classes().find(|class| class.items > 0).unwrap();
    let data = value_size + buffer.len();
    let rounding = each(memory.pages) - 16.0 - data as f64;
    println!(
        "{policy:?}, {data} bytes of data: header 16, index {:.1}, policy {:.1}, chunk of {} and rest of page {rounding:.1}, free {:.1}; {items} items; {:?}",
        each(memory.index),
        each(memory.policy),
        class.chunk_size,
        each(memory.limit - memory.used()),
        memory.policy_parts,
    );
}

/// Every store of an index that grows all the way, by itself.
fn measure_growth(items: u32, huge_pages: bool) {
    let config = Config { huge_pages, ..Config::with_memory(items as usize * 100) };
    let mut shard = Shard::new(&config).unwrap();
    let mut buffer = [0; 10];
    let (mut worst, mut over) = (0, 0);
    let start = Instant::now();
    for id in 0..items {
        let before = Instant::now();
        shard.store(NOW, &Store::set(key(id, &mut buffer), &[7; 32], Expiry::Never));
        let nanos = before.elapsed().as_nanos();
        worst = worst.max(nanos);
        over += u32::from(nanos > 200_000);
    }
    let each = start.elapsed().as_nanos() / u128::from(items);
    println!(
        "growth to {items} items, huge pages {huge_pages}: {each} ns each, worst {} us, {over} over 200 us",
        worst / 1_000
    );
    assert_eq!(shard.counters().items, u64::from(items));
}

#[test]
#[ignore = "takes long and checks nothing"]
fn pauses_of_an_index_that_grows_to_ten_million_items() {
    measure_growth(10 * ITEMS, false);
    measure_growth(10 * ITEMS, true);
}

#[test]
#[ignore = "takes long and checks nothing"]
fn pauses_sweeps_and_overhead() {
    for policy in PolicyKind::ALL {
        measure_overhead(policy, 32);
        measure_overhead(policy, 240);
    }
    for megabytes in [8, 64, 256, 1024] {
        measure_churn(megabytes << 20);
    }
    measure_sweep();
}

#[test]
#[ignore = "takes long and checks nothing"]
fn times_and_bytes_of_a_million_small_items() {
    measure(PolicyKind::TinyLfu, false);
    measure(PolicyKind::TinyLfu, true);
    measure(PolicyKind::Clock, true);
    measure_full(PolicyKind::TinyLfu);
    measure_full(PolicyKind::Clock);
}
