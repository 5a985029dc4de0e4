//! What is hit all the time stays while pages leave its size class, and what it costs is bounded.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{Automove, Config, Expiry, PolicyKind, Seconds, Shard, Store};

const NOW: Seconds = Seconds(1_700_000_000);
const MEMORY: usize = 16 << 20;
/// About what an item takes beside its value.
const OVERHEAD: usize = 80;
/// Times that the caller takes a sixteenth of the memory and gives it back.
const TIDES: usize = 16;

fn set(shard: &mut Shard, key: &str, value_len: usize) {
    shard.store(NOW, &Store::set(key.as_bytes(), &vec![b'v'; value_len], Expiry::Never));
}

fn hot(key: u32) -> String {
    format!("hot{key:06}")
}

/// A shard, three quarters full, in which items that were hit often lie among others of their size. Returns how many those are.
fn shard_with_hot_items(config: &Config, hot_percent: usize, value_len: usize) -> (Shard, u32) {
    let mut shard = Shard::new(&Config { hash_seed: Some(1), ..config.clone() }).unwrap();
    let items = config.memory_bytes * 3 / 4 / (value_len + OVERHEAD);
    let keys = u32::try_from(items * hot_percent / 100).unwrap();
    for key in 0..keys {
        set(&mut shard, &hot(key), value_len);
        for other in 1..100 / hot_percent {
            set(&mut shard, &format!("before{key}:{other}"), value_len);
        }
    }
    for key in (0..keys).cycle().take(8 * keys as usize) {
        assert!(shard.get(NOW, hot(key).as_bytes()).is_some(), "the cache is not full yet");
    }
    (shard, keys)
}

/// Of a million reads of hot keys, how many miss while others of their size are written and the caller's buffers come and go.
fn misses_in_a_million(policy: PolicyKind, hot_percent: usize, value_len: usize) -> u64 {
    let config = Config { policy, ..Config::with_memory(MEMORY) };
    let (mut shard, keys) = shard_with_hot_items(&config, hot_percent, value_len);
    let mut random = SmallRng::seed_from_u64(1);
    let writes = 4 * MEMORY / (value_len + OVERHEAD);
    let mut misses = 0;
    for write in 0..writes {
        if write % (writes / TIDES / 2) == 0 {
            let is_high = write / (writes / TIDES / 2) % 2 == 1;
            shard.set_external_bytes(if is_high { MEMORY / 16 } else { 0 });
        }
        let key = hot(random.random_range(0..keys));
        if shard.get(NOW, key.as_bytes()).is_none() {
            misses += 1;
            set(&mut shard, &key, value_len);
        }
        set(&mut shard, &format!("other{write}"), value_len);
    }
    shard.check_invariants();
    assert!(shard.counters().page_moves > 400, "{:?}", shard.counters());
    misses * 1_000_000 / writes as u64
}

#[test]
fn what_is_hit_all_the_time_stays_while_pages_leave_its_class() {
    for policy in [PolicyKind::TinyLfu, PolicyKind::WTinyLfu] {
        // If a page took them with it, five times as many and more.
        for (hot_percent, value_len, most) in [(5, 1_000, 2_000), (25, 1_000, 20_000), (25, 100, 20_000)] {
            let misses = misses_in_a_million(policy, hot_percent, value_len);
            println!("{policy:?}, {hot_percent} % of {value_len} bytes: {misses}");
            assert!(misses < most, "{policy:?}, {hot_percent} % of {value_len} bytes: {misses}");
        }
    }
}

#[test]
fn a_page_that_an_operator_takes_leaves_its_hot_items_behind_long_ones_too() {
    for value_len in [1_000, 30_000] {
        let (mut shard, keys) = shard_with_hot_items(&Config::with_memory(MEMORY), 25, value_len);
        shard.set_automove(Automove::Off);
        for write in 0..2 * MEMORY / value_len {
            set(&mut shard, &format!("other{write}"), value_len);
            let _ = shard.get(NOW, hot(u32::try_from(write).unwrap() % keys).as_bytes());
        }
        let there =
            |shard: &Shard| (0..keys).filter(|&key| shard.peek(NOW, hot(key).as_bytes()).is_some()).count();
        let from = shard.classes().max_by_key(|class| class.pages).unwrap().class;
        let to = shard.classes().next().unwrap().class;
        let before = there(&shard);
        for _ in 0..32 {
            shard.move_page(Some(from), to);
            while shard.maintain(NOW, 16) {}
            shard.check_invariants();
        }
        let (after, counters) = (there(&shard), shard.counters());
        assert!(counters.rescues + counters.chunk_rescues > 32, "{counters:?}");
        println!("{value_len}: {after} of {before}, {counters:?}");
        assert!(after * 100 >= before * 98, "{value_len}: {after} of {before}");
    }
}
