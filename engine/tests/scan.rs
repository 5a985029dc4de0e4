//! A scan while the index grows, pages leave and items are replaced, evicted and deleted: who lived throughout is shown
//! exactly once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{Config, Delete, DeleteMode, Expiry, Item, Scan, ScanStep, Seconds, Shard, Store};

const NOW: Seconds = Seconds(1_700_000_000);

fn set(shard: &mut Shard, id: u32, value: &[u8]) {
    shard.store(NOW, &Store::set(&id.to_le_bytes(), value, Expiry::Never));
}

fn id_of(item: &Item<'_>) -> u32 {
    u32::from_le_bytes(item.key().try_into().unwrap())
}

/// Scans a bucket at a time with `between` in between; how often each key was shown.
fn shown_with(shard: &mut Shard, mut between: impl FnMut(&mut Shard)) -> HashMap<u32, u32> {
    let mut shown = HashMap::new();
    let mut scan = Scan::new();
    while shard.scan(NOW, &mut scan, 1, |item| *shown.entry(id_of(item)).or_insert(0) += 1) == ScanStep::More
    {
        between(shard);
    }
    shown
}

#[test]
fn every_item_is_shown_once_however_far_the_index_grows_meanwhile() {
    for seed in 0..20 {
        let config = Config { hash_seed: Some(seed), ..Config::with_memory(32 << 20) };
        let mut shard = Shard::new(&config).unwrap();
        let before = 100 << (seed % 8);
        (0..before).for_each(|id| set(&mut shard, id, b"1"));
        let (index_before, mut next) = (shard.memory().index, before);
        let shown = shown_with(&mut shard, |shard| {
            let new = next..(next + 100).min(200_000);
            new.for_each(|id| set(shard, id, b"2"));
            next += 100;
        });
        assert_eq!(shard.counters().evictions, 0);
        assert!(shard.memory().index > 2 * index_before, "the index did not grow");
        assert!((0..before).all(|id| shown.get(&id) == Some(&1)), "seed {seed}");
        assert!(shown.values().all(|&times| times == 1), "seed {seed}");
    }
}

#[test]
fn who_lives_throughout_is_shown_once_while_everything_else_comes_and_goes() {
    for seed in 0..10 {
        let config = Config { hash_seed: Some(seed), ..Config::with_memory(1 << 20) };
        let mut shard = Shard::new(&config).unwrap();
        let mut random = SmallRng::seed_from_u64(seed);
        (0..2_000).for_each(|id| set(&mut shard, id, &[1; 200]));
        let mut lived: Vec<bool> = vec![true; 8_000];
        let mut note = |shard: &Shard, id: u32| {
            lived[id as usize] &= shard.peek(NOW, &id.to_le_bytes()).is_some();
        };
        (0..8_000).for_each(|id| note(&shard, id));
        let shown = shown_with(&mut shard, |shard| {
            for _ in 0..30 {
                let id = random.random_range(0..8_000);
                note(shard, id);
                match random.random_range(0..10) {
                    0 => {
                        let key = &id.to_le_bytes();
                        let delete =
                            Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
                        shard.delete(NOW, &delete);
                    }
                    1..3 => set(shard, id, &vec![2; random.random_range(0..3_000)]),
                    _ => drop(shard.get(NOW, &id.to_le_bytes()).is_some()),
                }
                note(shard, id);
            }
            shard.sweep(NOW, 100);
        });
        assert!(shard.counters().evictions > 0);
        (0..8_000).for_each(|id| note(&shard, id));
        let survivors = lived.iter().filter(|&&lived| lived).count();
        assert!(survivors > 20, "{survivors}");
        assert!((0..8_000).all(|id| !lived[id as usize] || shown.contains_key(&id)), "seed {seed}");
        assert!(shown.values().all(|&times| times == 1), "seed {seed}");
    }
}

#[test]
fn a_scan_shows_what_is_known_of_an_item_and_skips_the_dead() {
    let mut shard = Shard::new(&Config::with_memory(1 << 20)).unwrap();
    let expiry = Expiry::At(Seconds(NOW.0 + 10));
    shard.store(NOW, &Store { client_flags: 7, ..Store::set(b"key", b"value", expiry) });
    shard.store(NOW, &Store::set(b"dead", b"value", Expiry::At(Seconds(NOW.0 - 1))));
    assert!(shard.get(Seconds(NOW.0 + 3), b"key").is_some());
    let mut shown = 0;
    let step = shard.scan(Seconds(NOW.0 + 5), &mut Scan::new(), usize::MAX, |item| {
        shown += 1;
        assert_eq!((item.key(), item.value_len(), item.client_flags()), (&b"key"[..], 5, 7));
        assert_eq!((item.expiry(), item.idle_seconds(), item.fetched()), (expiry, 2, true));
        assert!(item.cas() > 1 && item.footprint_bytes() > 8 && item.class().0 < 64);
    });
    assert_eq!((step, shown), (ScanStep::Done, 1));
}
