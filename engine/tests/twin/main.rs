//! Random operations against a map. The engine may forget an item when it is allowed to evict; whatever it does answer must
//! be what the map says.
//!
//! `SLABRING_MODEL_STEPS` makes the random shards' test longer than it is in a plain `cargo test`, and
//! `SLABRING_MODEL_SEED` repeats a run that failed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod model;
mod users;

use std::env;

use model::Pair;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{Config, MEMORY_BYTES_MIN, PAGE_SIZE_MIN, PAGES_MIN, PolicyKind};

const STEPS_PER_SHARD: u64 = 20_000;
const STEPS: u64 = match (cfg!(miri), cfg!(debug_assertions)) {
    (true, _) => 500,
    (_, true) => 100_000,
    _ => 400_000,
};
const STEPS_PER_CHECK: u64 = 1_000;

#[track_caller]
fn check_one(config: &Config, seed: u64, steps: u64) -> u64 {
    println!("seed {seed} {config:?}");
    let mut pair = Pair::new(config, seed);
    for step in 0..steps {
        pair.step();
        if step % STEPS_PER_CHECK == 0 {
            pair.shard.check_invariants();
            pair.check_users();
        }
    }
    pair.shard.check_invariants();
    pair.end_users();
    pair.shard.check_invariants();
    for id in pair.twin.keys().cloned().collect::<Vec<_>>() {
        pair.reconcile(&id);
    }
    pair.hits
}

#[track_caller]
fn check(config: &Config, seeds: std::ops::Range<u64>, steps: u64) {
    for seed in seeds {
        let hits = check_one(config, seed, steps);
        assert!(hits > steps / 400, "only {hits} hits");
    }
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Any configuration: budgets of all magnitudes from the smallest up, all policies, page sizes and limits.
fn any_config(random: &mut SmallRng) -> Config {
    let doublings = if cfg!(miri) { 1 } else { random.random_range(1..8) };
    let memory_bytes_max = MEMORY_BYTES_MIN << doublings;
    let memory_bytes = random.random_range(MEMORY_BYTES_MIN..memory_bytes_max);
    let page_size = PAGE_SIZE_MIN << random.random_range(0..5);
    let has_pages = memory_bytes / page_size >= PAGES_MIN;
    Config {
        policy: PolicyKind::ALL[random.random_range(0..PolicyKind::ALL.len())],
        evict: random.random_bool(0.8),
        cas_enabled: random.random_bool(0.8),
        item_size_max: 1 << random.random_range(10..24),
        growth_factor: random.random_range(1.05..2.0),
        chunk_size_min: random.random_range(8..200),
        page_size_bytes: (has_pages && random.random_bool(0.5)).then_some(page_size),
        items_max: random.random_bool(0.2).then(|| random.random_range(1..300)),
        ..Config::with_memory(memory_bytes)
    }
}

#[test]
fn random_shards_agree_with_the_twin() {
    let steps = setting("SLABRING_MODEL_STEPS", STEPS);
    let first = setting("SLABRING_MODEL_SEED", 1);
    for seed in first..first + steps.div_ceil(STEPS_PER_SHARD) {
        let config = any_config(&mut SmallRng::seed_from_u64(seed));
        check_one(&config, seed, STEPS_PER_SHARD.min(steps));
    }
}

fn config(memory_bytes: usize, policy: PolicyKind, evict: bool) -> Config {
    Config { policy, evict, item_size_max: 8 << 20, ..Config::with_memory(memory_bytes) }
}

#[test]
fn the_smallest_shard_agrees_with_the_twin() {
    check(&config(256 << 10, PolicyKind::TinyLfu, true), 0..6, 40_000);
    check(&config(256 << 10, PolicyKind::Clock, true), 10..14, 40_000);
}

#[test]
fn a_shard_of_three_megabytes_agrees_with_the_twin() {
    check(&config(3 << 20, PolicyKind::TinyLfu, true), 20..24, 40_000);
    check(&config(3 << 20, PolicyKind::Clock, true), 30..32, 40_000);
}

#[test]
fn under_every_policy_a_shard_agrees_with_the_twin() {
    for (seed, policy) in (100..).zip(PolicyKind::ALL) {
        check(&config(1 << 20, policy, true), seed..seed + 1, 30_000);
        let limited = Config { items_max: Some(60), ..config(1 << 20, policy, true) };
        check(&limited, seed + 10..seed + 11, 10_000);
    }
}

#[test]
fn a_shard_of_few_large_pages_that_leave_step_by_step_agrees_with_the_twin() {
    for (seed, policy) in (200..).zip(PolicyKind::ALL) {
        let pages = Config { page_size_bytes: Some(64 << 10), ..config(2 << 20, policy, true) };
        check(&pages, seed..seed + 1, 30_000);
    }
}

#[test]
fn a_shard_without_cas_agrees_with_the_twin() {
    for (seed, memory_bytes) in (300..).zip([256 << 10, 1 << 20, 3 << 20]) {
        let without = Config { cas_enabled: false, ..config(memory_bytes, PolicyKind::TinyLfu, true) };
        check(&without, seed..seed + 1, 40_000);
    }
}

#[test]
fn a_large_shard_agrees_with_the_twin() {
    check(&config(64 << 20, PolicyKind::TinyLfu, true), 40..42, 20_000);
}

#[test]
fn a_shard_that_must_not_evict_loses_nothing() {
    check(&config(256 << 10, PolicyKind::TinyLfu, false), 50..54, 40_000);
    check(&config(3 << 20, PolicyKind::TinyLfu, false), 60..63, 40_000);
    check(&config(64 << 20, PolicyKind::Clock, false), 70..71, 20_000);
}
