//! What a shard promises as a whole: nothing lost while there is room, the budget kept, no class starved, values
//! byte for byte, and a hit ratio worth its memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{HashSet, VecDeque};

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{
    Arithmetic, ArithmeticOutcome, CasSeries, Config, Expiry, MEMORY_BYTES_MIN, PolicyKind, Seconds, Shard,
    Store, StoreMode, StoreOutcome,
};

const NOW: Seconds = Seconds(1_700_000_000);

fn shard(memory_bytes: usize) -> Shard {
    Shard::new(&config(memory_bytes)).unwrap()
}

fn config(memory_bytes: usize) -> Config {
    Config { hash_seed: Some(1), ..Config::with_memory(memory_bytes) }
}

#[track_caller]
fn set(shard: &mut Shard, key: &[u8], value: &[u8]) {
    let outcome = shard.store(NOW, &Store::set(key, value, Expiry::Never));
    assert!(matches!(outcome, StoreOutcome::Stored { .. }), "{outcome:?}");
    let memory = shard.memory();
    assert!(memory.used() <= memory.limit, "{memory:?}");
}

fn value_of(shard: &mut Shard, key: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    shard.get(NOW, key)?.value().copy_to(&mut value);
    Some(value)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

#[test]
fn a_million_small_items_fit_and_none_is_lost_while_the_index_grows() {
    let mut shard = shard(96 << 20);
    for id in 0..1_000_000_u32 {
        set(&mut shard, format!("k{id:09}").as_bytes(), &[7; 32]);
    }
    assert_eq!((shard.counters().items, shard.counters().evictions), (1_000_000, 0));
    for id in 0..1_000_000_u32 {
        assert!(shard.get(NOW, format!("k{id:09}").as_bytes()).is_some(), "{id}");
    }
    shard.check_invariants();
}

#[test]
fn a_full_shard_gives_up_pages_for_the_growth_of_its_index() {
    let mut page_moves = 0;
    // Whether the last growth falls before or after the last page is a matter of sizes.
    for memory_bytes in (2 << 20..4 << 20).step_by(128 << 10) {
        let page_size_bytes = Some(16 << 10);
        let mut shard = Shard::new(&Config { page_size_bytes, ..config(memory_bytes) }).unwrap();
        for id in 0..100_000_u32 {
            set(&mut shard, &id.to_le_bytes(), b"1");
        }
        page_moves += shard.counters().page_moves;
        // A chunk of 48 bytes, and at most twenty for index and sketch.
        assert!(shard.counters().items > memory_bytes as u64 / 68, "{:?}", shard.counters());
        shard.check_invariants();
    }
    assert!(page_moves > 0);
}

#[test]
fn large_items_find_room_in_a_shard_full_of_tiny_ones() {
    for memory_bytes in [MEMORY_BYTES_MIN, 768 << 10, 3 << 20, 16 << 20] {
        let mut shard = shard(memory_bytes);
        for id in 0..memory_bytes / 32 {
            set(&mut shard, format!("{id}").as_bytes(), b"tiny");
        }
        assert!(shard.counters().evictions > 0);
        for id in 0..40_u64 {
            let (key, value) = (format!("large-{id}"), noise(id, 66_000));
            set(&mut shard, key.as_bytes(), &value);
            assert_eq!(value_of(&mut shard, key.as_bytes()), Some(value));
        }
        shard.check_invariants();
        for id in 0..memory_bytes / 32 {
            set(&mut shard, format!("{id}").as_bytes(), b"tiny again");
        }
        shard.check_invariants();
    }
}

#[test]
fn values_of_any_length_up_to_eight_megabytes_come_back_byte_for_byte() {
    let mut shard = Shard::new(&Config { item_size_max: 9 << 20, ..config(64 << 20) }).unwrap();
    let half_page = 512 << 10;
    let edges = [0, 1, half_page - 400, half_page - 30, half_page, 2 * half_page, 5 * half_page, 8 << 20];
    for edge in edges {
        for len in edge.max(20) - 20..=edge + 20 {
            let value = noise(len as u64, len);
            set(&mut shard, b"key", &value);
            assert!(value_of(&mut shard, b"key") == Some(value), "{len}");
        }
    }
    shard.check_invariants();
}

#[test]
fn append_and_prepend_join_values_across_the_border_to_chains() {
    let mut shard = Shard::new(&Config { item_size_max: 4 << 20, ..config(32 << 20) }).unwrap();
    let mut expected = noise(0, 10);
    set(&mut shard, b"key", &expected);
    for round in 1..60 {
        let part = noise(round, 40_000);
        let mode = if round % 2 == 0 { StoreMode::Append } else { StoreMode::Prepend };
        let request = Store { mode, ..Store::set(b"key", &part, Expiry::Never) };
        assert!(matches!(shard.store(NOW, &request), StoreOutcome::Stored { .. }));
        expected = if round % 2 == 0 { [expected, part].concat() } else { [part, expected].concat() };
        assert!(value_of(&mut shard, b"key").as_ref() == Some(&expected), "round {round}");
    }
    shard.check_invariants();
}

#[test]
fn without_eviction_a_full_shard_refuses_and_keeps_everything() {
    for memory_bytes in [MEMORY_BYTES_MIN, 2 << 20] {
        let mut shard = Shard::new(&Config { evict: false, ..config(memory_bytes) }).unwrap();
        let mut stored = 0;
        while let StoreOutcome::Stored { .. } =
            shard.store(NOW, &Store::set(format!("{stored}").as_bytes(), &[b'x'; 900], Expiry::Never))
        {
            stored += 1;
        }
        assert!(stored * 900 > memory_bytes / 2, "{stored}");
        assert!((0..stored).all(|id| shard.get(NOW, format!("{id}").as_bytes()).is_some()));
        shard.set_external_bytes(memory_bytes);
        assert_eq!(shard.counters().evictions, 0);
        shard.check_invariants();
    }
}

#[test]
fn without_eviction_dead_items_still_make_room() {
    let mut shard = Shard::new(&Config { evict: false, ..config(1 << 20) }).unwrap();
    // Other keys the second time: nothing dead is met by looking for its key.
    let fill = |shard: &mut Shard, from: u32| {
        let mut stores = |id: u32| shard.store(NOW, &Store::set(&id.to_le_bytes(), &[1; 500], Expiry::Never));
        (from..from + 10_000).take_while(|&id| matches!(stores(id), StoreOutcome::Stored { .. })).count()
    };
    let first = fill(&mut shard, 0);
    shard.flush();
    let second = fill(&mut shard, 10_000);
    assert!(first > 1_000 && second >= first, "{first} {second}");
    shard.check_invariants();
}

#[test]
fn external_bytes_push_items_out_and_give_the_room_back() {
    let mut shard = shard(4 << 20);
    for id in 0..8_000_u32 {
        set(&mut shard, &id.to_le_bytes(), &[1; 1000]);
    }
    let before = shard.memory();
    shard.set_external_bytes(1 << 20);
    while shard.maintain(NOW, 100) {}
    let during = shard.memory();
    assert_eq!(during.external, 1 << 20);
    assert!(during.used() <= during.limit && during.pages < before.pages);
    shard.check_invariants();
    shard.set_external_bytes(0);
    for id in 0..8_000_u32 {
        set(&mut shard, &id.to_le_bytes(), &[1; 1000]);
    }
    assert_eq!(shard.memory().pages, before.pages);
    shard.set_external_bytes(usize::MAX);
    while shard.maintain(NOW, 100) {}
    assert_eq!(shard.memory().external, 2 << 20);
    shard.check_invariants();
}

#[test]
fn a_flush_drops_what_is_older_and_nothing_stored_in_the_same_second() {
    let mut shard = shard(1 << 20);
    set(&mut shard, b"old", b"1");
    shard.flush();
    set(&mut shard, b"new", b"2");
    assert!(shard.get(NOW, b"old").is_none());
    assert!(shard.get(NOW, b"new").is_some());
    assert_eq!(shard.counters().get_flushed, 1);
}

#[test]
fn a_delayed_flush_also_drops_what_was_stored_after_it_was_asked_for() {
    let mut shard = shard(1 << 20);
    shard.flush_at(Seconds(NOW.0 + 10));
    set(&mut shard, b"key", b"1");
    assert!(shard.peek(Seconds(NOW.0 + 9), b"key").is_some());
    assert!(shard.peek(Seconds(NOW.0 + 10), b"key").is_none());
    assert!(shard.get(Seconds(NOW.0 + 10), b"key").is_none());
    set(&mut shard, b"key", b"2");
    assert!(shard.get(Seconds(NOW.0 + 20), b"key").is_some());
}

#[test]
fn the_sweeper_frees_every_dead_item_in_one_round() {
    let mut shard = shard(4 << 20);
    for id in 0..2_000_u32 {
        let expiry = if id % 2 == 0 { Expiry::At(Seconds(NOW.0 + 5)) } else { Expiry::Never };
        shard.store(NOW, &Store::set(&id.to_le_bytes(), &[1; 50], expiry));
    }
    let swept = shard.sweep(Seconds(NOW.0 + 5), usize::MAX);
    assert_eq!(swept.freed, 1_000);
    assert_eq!((shard.counters().items, shard.counters().reclaimed), (1_000, 1_000));
    shard.check_invariants();
}

#[test]
fn cas_values_of_interleaved_shards_never_meet_and_begin_above_one() {
    let mut seen = HashSet::new();
    for offset in 0..4 {
        let cas = CasSeries { offset, step: 4 };
        let mut shard = Shard::new(&Config { cas, ..config(1 << 20) }).unwrap();
        for id in 0..100_u32 {
            let outcome = shard.store(NOW, &Store::set(&id.to_le_bytes(), b"v", Expiry::Never));
            let StoreOutcome::Stored { cas, .. } = outcome else { panic!("{outcome:?}") };
            assert!(cas > 1 && seen.insert(cas));
        }
    }
}

#[test]
fn without_cas_every_cas_value_reads_zero() {
    let mut shard = Shard::new(&Config { cas_enabled: false, ..config(1 << 20) }).unwrap();
    let stored = shard.store(NOW, &Store::set(b"key", b"v", Expiry::Never));
    assert_eq!(stored, StoreOutcome::Stored { cas: 0, value_len: 1 });
    assert_eq!(shard.touch(NOW, b"key", Expiry::Never), Some(0));
}

#[test]
fn without_cas_a_flush_drops_everything_however_often_it_comes() {
    let mut shard = Shard::new(&Config { cas_enabled: false, ..config(1 << 20) }).unwrap();
    for round in 0..200_000_u32 {
        set(&mut shard, &round.to_le_bytes(), b"v");
        shard.flush();
        shard.flush();
        // Most of these are still in memory, and none was asked for since it was dropped.
        let earlier = (round - round % 1000).to_le_bytes();
        assert!(shard.peek(NOW, &earlier).is_none(), "{round}");
    }
    set(&mut shard, b"key", b"v");
    assert!(shard.get(NOW, b"key").is_some());
    shard.check_invariants();
}

#[test]
fn without_cas_an_item_takes_four_bytes_less() {
    let fill = |cas_enabled| {
        let mut shard = Shard::new(&Config { cas_enabled, ..config(1 << 20) }).unwrap();
        (0..1000_u32).for_each(|id| set(&mut shard, &id.to_le_bytes(), b"v"));
        shard.counters().bytes
    };
    assert_eq!(fill(true) - fill(false), 4 * 1000);
}

#[test]
fn a_batch_of_gets_of_any_length_answers_and_counts_as_single_ones_do() {
    let (mut batched, mut single) = (shard(1 << 20), shard(1 << 20));
    for shard in [&mut batched, &mut single] {
        (0..100_u32).step_by(3).for_each(|id| set(shard, &id.to_le_bytes(), &id.to_be_bytes()));
        let short_lived = Store::set(b"dead", b"v", Expiry::At(Seconds(NOW.0 + 1)));
        shard.store(NOW, &short_lived);
    }
    let later = Seconds(NOW.0 + 1);
    for count in [0, 1, 15, 16, 17, 64, 100] {
        // One key twice in a group, and one that dies of the first get.
        let keys: Vec<[u8; 4]> = (0..count).map(|id: u32| (id / 2).to_le_bytes()).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).chain([&b"dead"[..]]).collect();
        let mut places = Vec::new();
        batched.get_many(later, &keys, |place, item| {
            let expected = single.get(later, keys[place]);
            assert_eq!(
                item.map(|item| item.value().as_slice().map(<[u8]>::to_vec)),
                expected.map(|item| item.value().as_slice().map(<[u8]>::to_vec))
            );
            assert_eq!(item.map(|item| item.fetched()), expected.map(|item| item.fetched()));
            places.push(place);
        });
        assert!(places.into_iter().eq(0..keys.len()));
        assert_eq!(batched.counters(), single.counters());
    }
    batched.check_invariants();
}

#[test]
fn a_number_that_became_shorter_is_padded_in_place_and_still_a_number() {
    let mut shard = shard(1 << 20);
    set(&mut shard, b"n", b"10");
    let request = Arithmetic {
        key: b"n",
        delta: 1,
        decrement: true,
        compare: None,
        explicit_cas: None,
        touch: None,
        vivify: None,
        binary_key: false,
    };
    assert!(matches!(shard.arithmetic(NOW, &request), ArithmeticOutcome::Value { value: 9, .. }));
    assert_eq!(value_of(&mut shard, b"n").as_deref(), Some(&b"9 "[..]));
    let request = Arithmetic { decrement: false, ..request };
    assert!(matches!(shard.arithmetic(NOW, &request), ArithmeticOutcome::Value { value: 10, .. }));
    set(&mut shard, b"n", b"18446744073709551615");
    assert!(matches!(shard.arithmetic(NOW, &request), ArithmeticOutcome::Value { value: 0, .. }));
}

#[test]
fn idle_seconds_count_from_the_access_before() {
    let mut shard = shard(1 << 20);
    set(&mut shard, b"key", b"v");
    assert_eq!(shard.get(Seconds(NOW.0 + 7), b"key").map(|item| item.idle_seconds()), Some(7));
    assert_eq!(shard.get(Seconds(NOW.0 + 9), b"key").map(|item| item.idle_seconds()), Some(2));
    assert_eq!(shard.peek(Seconds(NOW.0 + 10), b"key").map(|item| item.idle_seconds()), Some(1));
}

/// Ranks with probability falling as their inverse, by inversion of the continuous distribution.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ranks are positive and below 2^53"
)]
fn zipf(random: &mut SmallRng, ranks: f64) -> u64 {
    ranks.powf(random.random::<f64>()) as u64
}

/// Hits of a cache-aside client: a miss is followed by a set. A scan of one-time keys runs through the workload.
fn hits(policy: PolicyKind, requests: u64) -> (u64, u64) {
    let mut shard = Shard::new(&Config { policy, ..config(4 << 20) }).unwrap();
    let mut random = SmallRng::seed_from_u64(3);
    let mut hits = 0;
    for request in 0..requests {
        let key = workload_key(&mut random, request);
        if shard.get(NOW, &key.to_le_bytes()).is_some() {
            hits += 1;
        } else {
            set(&mut shard, &key.to_le_bytes(), &[0; 200]);
        }
    }
    shard.check_invariants();
    (hits, shard.counters().items)
}

fn workload_key(random: &mut SmallRng, request: u64) -> u64 {
    if request.is_multiple_of(3) { u64::MAX - request } else { zipf(random, 400_000.0) }
}

fn fifo_hits(capacity: u64, requests: u64) -> u64 {
    let mut random = SmallRng::seed_from_u64(3);
    let (mut present, mut order) = (HashSet::new(), VecDeque::new());
    let mut hits = 0;
    for request in 0..requests {
        let key = workload_key(&mut random, request);
        if present.contains(&key) {
            hits += 1;
            continue;
        }
        if present.len() as u64 == capacity {
            present.remove(&order.pop_front().unwrap());
        }
        present.insert(key);
        order.push_back(key);
    }
    hits
}

#[test]
fn tiny_lfu_beats_clock_and_clock_beats_a_queue_when_a_scan_runs_through_a_skewed_workload() {
    let requests = 1_000_000;
    let (tiny_lfu, items) = hits(PolicyKind::TinyLfu, requests);
    let (clock, _) = hits(PolicyKind::Clock, requests);
    let fifo = fifo_hits(items, requests);
    println!("hits of {requests}: TinyLFU {tiny_lfu}, CLOCK {clock}, queue of {items} {fifo}");
    assert!(tiny_lfu > clock && clock > fifo, "{tiny_lfu} {clock} {fifo}");
}

#[test]
fn a_lower_memory_limit_is_reached_step_by_step_and_can_be_raised_again() {
    let memory_bytes = 8 << 20;
    let mut shard = Shard::new(&Config::with_memory(memory_bytes)).unwrap();
    let fill = |shard: &mut Shard| {
        for item in 0..20_000 {
            shard.store(NOW, &Store::set(format!("key{item}").as_bytes(), &[b'v'; 1000], Expiry::Never));
            assert!(shard.memory().used() <= memory_bytes);
        }
        shard.memory().pages
    };
    let before = fill(&mut shard);
    assert!(before > memory_bytes / 2);
    shard.set_external_bytes(100_000);
    shard.set_memory_limit(memory_bytes / 4);
    while shard.maintain(NOW, 64) {}
    for _ in 0..2 {
        let memory = shard.memory();
        assert!(memory.limit == memory_bytes / 4 && memory.used() <= memory.limit, "{memory:?}");
        shard.check_invariants();
        fill(&mut shard);
        while shard.maintain(NOW, 64) {}
    }
    shard.set_memory_limit(memory_bytes);
    assert!(fill(&mut shard) > memory_bytes / 2);
    shard.set_memory_limit(0);
    while shard.maintain(NOW, 64) {}
    assert_eq!(shard.memory().limit, memory_bytes / 16);
    fill(&mut shard);
    shard.check_invariants();
}
