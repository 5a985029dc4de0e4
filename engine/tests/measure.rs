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

#[test]
#[ignore = "takes long and checks nothing"]
fn times_and_bytes_of_a_million_small_items() {
    measure(PolicyKind::TinyLfu, false);
    measure(PolicyKind::TinyLfu, true);
    measure(PolicyKind::Clock, true);
    measure_full(PolicyKind::TinyLfu);
    measure_full(PolicyKind::Clock);
}
