//! What the policies are for, on sequences whose right answer is known: loops, scans, shifts, sizes that change,
//! times to live, and a clock that jumps.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::VecDeque;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{Config, Expiry, PolicyKind, Seconds, Shard, Store};

const NOW: Seconds = Seconds(1_700_000_000);
const ITEMS: usize = 2_000;

fn limited(policy: PolicyKind, items: usize) -> Shard {
    let config =
        Config { policy, items_max: Some(items), hash_seed: Some(1), ..Config::with_memory(16 << 20) };
    Shard::new(&config).unwrap()
}

/// Whether the key was there; a client that misses stores.
fn ask(shard: &mut Shard, key: u64) -> bool {
    let hit = shard.get(NOW, &key.to_le_bytes()).is_some();
    if !hit {
        shard.store(NOW, &Store::set(&key.to_le_bytes(), b"", Expiry::Never));
    }
    hit
}

/// Share of the requests that hit, in percent, of a shard that holds [`ITEMS`] items.
fn hit_percent(policy: PolicyKind, keys: impl Iterator<Item = u64>) -> u32 {
    let mut shard = limited(policy, ITEMS);
    let (mut hits, mut requests) = (0, 0);
    for key in keys {
        hits += u32::from(ask(&mut shard, key));
        requests += 1;
    }
    assert!(shard.counters().items <= ITEMS as u64);
    shard.check_invariants();
    100 * hits / requests
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ranks are positive and below 2^53"
)]
fn skewed(random: &mut SmallRng, keys: f64) -> u64 {
    keys.powf(random.random::<f64>()) as u64
}

#[test]
fn the_list_of_last_use_is_exact() {
    let mut random = SmallRng::seed_from_u64(1);
    let mut shard = limited(PolicyKind::Lru, 100);
    let mut twin: VecDeque<u64> = VecDeque::new();
    for step in 0..50_000 {
        let key = skewed(&mut random, 1_000.0);
        let at = twin.iter().position(|&other| other == key);
        assert_eq!(ask(&mut shard, key), at.is_some(), "step {step}");
        match at {
            Some(at) => drop(twin.remove(at)),
            None if twin.len() == 100 => drop(twin.pop_front()),
            None => {}
        }
        twin.push_back(key);
    }
    shard.check_invariants();
}

#[test]
fn a_loop_larger_than_the_cache_hits_where_the_policy_admits_by_frequency_and_never_under_lru() {
    let keys = || (0..3 * ITEMS as u64 / 2).cycle().take(200_000);
    assert_eq!(hit_percent(PolicyKind::Lru, keys()), 0);
    assert!(hit_percent(PolicyKind::WTinyLfu, keys()) > 40);
    let adaptive = hit_percent(PolicyKind::TinyLfu, keys());
    assert!(adaptive > 40, "{adaptive}");
}

#[test]
fn a_scan_through_a_skewed_workload_costs_the_adaptive_policy_little_and_lru_much() {
    let keys = |policy| {
        let mut random = SmallRng::seed_from_u64(2);
        let mixed = (0..300_000_u64)
            .map(move |step| if step % 2 == 0 { u64::MAX - step } else { skewed(&mut random, 20_000.0) });
        hit_percent(policy, mixed)
    };
    let [adaptive, s3, lru] = [PolicyKind::TinyLfu, PolicyKind::S3Fifo, PolicyKind::Lru].map(keys);
    assert!(adaptive >= lru + 4 && s3 >= lru + 4, "{adaptive} {s3} {lru}");
}

#[test]
fn a_working_set_that_shifts_is_taken_up_again_under_every_policy_but_the_purely_frequent_one() {
    for policy in
        [PolicyKind::TinyLfu, PolicyKind::S3Fifo, PolicyKind::WTinyLfu, PolicyKind::Clock, PolicyKind::Lru]
    {
        let mut random = SmallRng::seed_from_u64(3);
        let mut shard = limited(policy, ITEMS);
        for era in 0..3_u64 {
            let mut key = || era * 1_000_000 + random.random_range(0..ITEMS as u64 * 3 / 4);
            for _ in 0..40_000 {
                ask(&mut shard, key());
            }
            let hits = (0..10_000).filter(|_| ask(&mut shard, key())).count();
            assert!(hits > 9_000, "{policy:?}: {hits} in era {era}");
        }
    }
}

/// Of what a primary finds, how much in a hundred a copy has too that is given all stores and told of one read in 64, or of none.
fn percent_at_a_copy(policy: PolicyKind, is_told: bool) -> u32 {
    const SAMPLED_OF: u32 = 64;
    let mut random = SmallRng::seed_from_u64(5);
    let [mut primary, mut copy] = [(); 2].map(|()| limited(policy, ITEMS));
    let (mut hits, mut there) = (0, 0);
    for step in 0..400_000 {
        let key = skewed(&mut random, 20_000.0);
        let id = &key.to_le_bytes();
        if !ask(&mut primary, key) {
            copy.store(NOW, &Store::set(id, b"", Expiry::Never));
            continue;
        }
        if is_told && random.random_ratio(1, SAMPLED_OF) {
            copy.note_reads(NOW, id, SAMPLED_OF);
        }
        if step > 300_000 {
            hits += 1;
            there += u32::from(copy.peek(NOW, id).is_some());
        }
    }
    copy.check_invariants();
    100 * there / hits
}

#[test]
fn a_copy_that_is_told_of_a_sample_of_the_reads_keeps_what_is_read_most() {
    // Who keeps what was there first needs no telling, and the list of last use would have to be told of nearly all.
    let gains = [
        (PolicyKind::TinyLfu, 30),
        (PolicyKind::S3Fifo, 30),
        (PolicyKind::Clock, 10),
        (PolicyKind::Lru, 0),
        (PolicyKind::WTinyLfu, -3),
        (PolicyKind::Lfu, -3),
    ];
    for (policy, gain) in gains {
        let [untold, told] = [false, true].map(|is_told| percent_at_a_copy(policy, is_told).cast_signed());
        println!("{policy:?}: {untold} % without, {told} % with");
        assert!(told >= untold + gain, "{policy:?}: {told} % with, {untold} % without");
    }
}

#[test]
fn the_adaptive_policy_is_never_far_from_the_better_of_its_fixed_relatives() {
    for (seed, spread) in [(0, 4_000.0), (1, 20_000.0), (2, 100_000.0), (3, 1e6)] {
        let keys = |policy| {
            let mut random = SmallRng::seed_from_u64(seed);
            hit_percent(policy, (0..200_000).map(move |_| skewed(&mut random, spread)))
        };
        let [adaptive, s3, tiny] = [PolicyKind::TinyLfu, PolicyKind::S3Fifo, PolicyKind::WTinyLfu].map(keys);
        assert!(adaptive + 3 >= s3.max(tiny), "{adaptive} {s3} {tiny}");
    }
}

/// Hits of 100 requests, after small items filled the memory and others, larger ones, took their place.
fn hit_percent_after_sizes_changed(policy: PolicyKind) -> u32 {
    let config = Config { policy, hash_seed: Some(1), ..Config::with_memory(8 << 20) };
    let mut shard = Shard::new(&config).unwrap();
    let mut random = SmallRng::seed_from_u64(4);
    let mut hits = 0;
    for step in 0..600_000_u64 {
        let (keys, value_size) = if step < 200_000 { (0..60_000_u64, 150) } else { (60_000..68_000, 500) };
        let key = random.random_range(keys).to_le_bytes();
        if shard.get(NOW, &key).is_some() {
            hits += u32::from(step >= 500_000);
        } else {
            shard.store(NOW, &Store::set(&key, &vec![0; value_size], Expiry::Never));
        }
    }
    shard.check_invariants();
    assert!(shard.counters().page_moves > 0);
    hits / 1_000
}

#[test]
fn memory_follows_the_items_when_sizes_change() {
    for policy in PolicyKind::ALL {
        let hits = hit_percent_after_sizes_changed(policy);
        println!("{policy:?}: {hits}");
        assert!(hits > 80, "{policy:?}: {hits}");
    }
}

#[test]
fn what_returns_soon_after_it_left_the_window_is_admitted_at_once() {
    let mut shard = limited(PolicyKind::S3Fifo, ITEMS);
    for key in (0..ITEMS as u64).cycle().take(3 * ITEMS) {
        ask(&mut shard, key);
    }
    // Twice as many as the window holds, so that none is there any more when it comes again.
    let newcomers = || 10_000..10_000 + ITEMS as u64 / 5;
    let mut pass = || newcomers().filter(|&key| ask(&mut shard, key)).count();
    assert_eq!(pass(), 0);
    pass();
    let hits = pass();
    assert!(hits > 360, "{hits} of 400");
}

#[test]
fn a_new_item_stays_as_long_as_the_window_is_even_where_chunks_are_used_again_at_once() {
    for policy in [PolicyKind::S3Fifo, PolicyKind::WTinyLfu] {
        let mut shard = limited(policy, ITEMS);
        (0..10_000).for_each(|key| assert!(!ask(&mut shard, key)));
        for round in 1..50_u64 {
            let first = round * 100_000;
            let window = ITEMS as u64 * if policy == PolicyKind::S3Fifo { 10 } else { 5 } / 100;
            (first..first + window * 9 / 10).for_each(|key| assert!(!ask(&mut shard, key)));
            assert!(shard.peek(NOW, &first.to_le_bytes()).is_some(), "{policy:?} round {round}");
        }
    }
}

#[test]
fn soonest_to_expire_goes_first() {
    let mut shard = limited(PolicyKind::Ttl, 1_000);
    for id in 0..20_000_u32 {
        let expiry = Expiry::At(Seconds(NOW.0 + 1_000 + id % 1_000));
        shard.store(NOW, &Store::set(&id.to_le_bytes(), b"", expiry));
    }
    let kept = |id: &u32| shard.peek(NOW, &id.to_le_bytes()).is_some();
    let long = (0..20_000).filter(kept).filter(|id| id % 1_000 >= 500).count();
    assert!(long > 900, "{long} of 1000");
}

#[test]
fn least_often_asked_for_goes_first() {
    let mut shard = limited(PolicyKind::Lfu, 1_000);
    for key in (0..500).cycle().take(2_500).chain(1_000..5_000) {
        ask(&mut shard, key);
    }
    let kept = (0..500).filter(|&key| ask(&mut shard, key)).count();
    // By chance it would be one in five.
    assert!(kept > 400, "{kept} of 500");
}

#[test]
fn expired_items_make_room_before_live_ones_are_evicted() {
    let config = Config { hash_seed: Some(1), ..Config::with_memory(4 << 20) };
    let mut shard = Shard::new(&config).unwrap();
    let mut set = |now: u32, id: u32, lives: u32| {
        let expiry = Expiry::At(Seconds(NOW.0 + now + lives));
        shard.store(Seconds(NOW.0 + now), &Store::set(&id.to_le_bytes(), &[0; 100], expiry));
        shard.sweep(Seconds(NOW.0 + now), 200);
        shard.counters().evictions
    };
    let evictions: Vec<u64> = (0..200_000).map(|id| set(id / 1_000, id, 5)).collect();
    assert_eq!(evictions.last(), Some(&0));
    shard.check_invariants();
}

#[test]
fn a_jump_of_the_clock_and_back_kills_nothing_that_was_not_looked_at() {
    let mut shard = Shard::new(&Config::with_memory(1 << 20)).unwrap();
    for id in 0..100_u32 {
        let expiry = Expiry::At(Seconds(NOW.0 + 60));
        shard.store(NOW, &Store::set(&id.to_le_bytes(), b"v", expiry));
    }
    let jumped = Seconds(NOW.0 + 86_400);
    assert!(shard.get(jumped, &7_u32.to_le_bytes()).is_none());
    assert!((0..100_u32).filter(|id| shard.get(NOW, &id.to_le_bytes()).is_some()).count() == 99);
    shard.check_invariants();
}

#[test]
fn nothing_that_was_seen_dead_or_flushed_comes_back_with_an_earlier_time() {
    let mut shard = Shard::new(&Config::with_memory(1 << 20)).unwrap();
    let earlier = Seconds(NOW.0 - 10_000);
    shard.store(NOW, &Store::set(b"expired", b"v", Expiry::At(Seconds(NOW.0 + 10))));
    shard.store(NOW, &Store::set(b"flushed", b"v", Expiry::Never));
    assert!(shard.get(Seconds(NOW.0 + 10), b"expired").is_none());
    assert!(shard.get(earlier, b"expired").is_none());
    shard.flush_at(Seconds(NOW.0 + 20));
    assert!(shard.get(Seconds(NOW.0 + 20), b"flushed").is_none());
    shard.store(earlier, &Store::set(b"new", b"v", Expiry::Never));
    assert!(shard.get(earlier, b"flushed").is_none() && shard.get(earlier, b"new").is_some());
    shard.store(NOW, &Store::set(b"swept", b"v", Expiry::At(Seconds(NOW.0 + 10))));
    shard.sweep(Seconds(NOW.0 + 10), usize::MAX);
    assert!(shard.get(earlier, b"swept").is_none());
    shard.check_invariants();
}
