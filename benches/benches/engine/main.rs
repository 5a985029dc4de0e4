//! One shard without a server around it: nanoseconds per operation on ten million items, far more than the caches
//! of the CPU hold, and with `--features peers` other caches in the same run and the same memory.
//!
//! `SLABRING_BENCH_ITEMS=1000000 cargo bench -p slabring-bench --bench engine` is quicker, and
//! `SLABRING_BENCH_POLICY=clock` beside it tells what the default policy's bookkeeping costs.

#![forbid(unsafe_code)]

mod caches;
mod workload;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use slabring_engine::Shard;

use caches::Cache;
use workload::{BATCH_KEYS, Popularity, Sequence, absent, scattered, stored};

const ITEMS_DEFAULT: usize = 10_000_000;
/// Memory of each cache for an item of 48 bytes: the engine, at least, keeps them all.
const BYTES_PER_ITEM: usize = 96;
const VALUE: [u8; 32] = [b'v'; 32];
/// Keys deleted until they are stored again.
const DELETES_MAX: usize = 1 << 22;

fn items() -> usize {
    match std::env::var("SLABRING_BENCH_ITEMS") {
        Ok(text) => text.parse().expect("SLABRING_BENCH_ITEMS is a number"),
        Err(_) => ITEMS_DEFAULT,
    }
}

/// A cache that was given all items once. Says how many it kept.
fn filled<C: Cache>(items: usize) -> C {
    let mut cache = C::with_memory(items * BYTES_PER_ITEM);
    for number in 0..items {
        cache.set(&stored(number), &VALUE);
    }
    let kept = (0..items).filter(|&number| cache.get(&stored(number))).count();
    let mebibytes = (items * BYTES_PER_ITEM) >> 20;
    eprintln!("{}: keeps {kept} of {items} items in {mebibytes} MiB", C::NAME);
    cache
}

/// Everything for one cache. What evicts comes last.
fn measure<C: Cache>(c: &mut Criterion) {
    let items = items();
    let mut cache = filled::<C>(items);
    let mut group = c.benchmark_group(C::NAME);
    group.throughput(Throughput::Elements(1));
    for popularity in Popularity::ALL {
        let mut keys = Sequence::new(popularity, items, |key| cache.get(key));
        group.bench_function(format!("get_hit/{}", popularity.name()), |b| {
            b.iter(|| black_box(cache.get(keys.next())));
        });
        get_batch(&mut group, &mut cache, &mut keys, popularity);
        group.bench_function(format!("set_over/{}", popularity.name()), |b| {
            b.iter(|| cache.set(keys.next(), &VALUE));
        });
    }
    get_miss(&mut group, &mut cache);
    delete(&mut group, &mut cache, items);
    set_new(&mut group, &mut cache, items);
    group.finish();
}

/// As many keys in one call as a multi-get or a deep pipeline brings.
fn get_batch<C: Cache>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    cache: &mut C,
    keys: &mut Sequence,
    popularity: Popularity,
) {
    group.throughput(Throughput::Elements(BATCH_KEYS as u64));
    group.bench_function(format!("get_{BATCH_KEYS}/{}", popularity.name()), |b| {
        b.iter(|| cache.get_many(&keys.next_batch().each_ref().map(|key| &key[..])));
    });
    group.throughput(Throughput::Elements(1));
}

fn get_miss<C: Cache>(group: &mut BenchmarkGroup<'_, WallTime>, cache: &mut C) {
    let mut number = 0;
    group.bench_function("get_miss", |b| {
        b.iter(|| {
            number += 1;
            black_box(cache.get(&absent(number)))
        });
    });
}

/// Deletes in an order that no prefetcher follows. Storing the keys again after each round is not timed.
fn delete<C: Cache>(group: &mut BenchmarkGroup<'_, WallTime>, cache: &mut C, items: usize) {
    let keys: Vec<_> = (0..items.min(DELETES_MAX)).map(|number| stored(scattered(number, items))).collect();
    let mut deleted = 0;
    group.bench_function("delete", |b| {
        b.iter_custom(|count| {
            let (mut time, mut left) = (Duration::ZERO, usize::try_from(count).expect("64 bits"));
            while left > 0 {
                if deleted == keys.len() {
                    keys.iter().for_each(|key| cache.set(key, &VALUE));
                    deleted = 0;
                }
                let now = left.min(keys.len() - deleted);
                let start = Instant::now();
                keys[deleted..deleted + now].iter().for_each(|key| cache.delete(key));
                time += start.elapsed();
                (deleted, left) = (deleted + now, left - now);
            }
            time
        });
    });
}

/// New keys without end in a cache that is full: each takes the place of another.
fn set_new<C: Cache>(group: &mut BenchmarkGroup<'_, WallTime>, cache: &mut C, items: usize) {
    // Up to here there may have been room; twice the items leave none.
    let mut number = items;
    (0..2 * items).for_each(|_| {
        number += 1;
        cache.set(&stored(number), &VALUE);
    });
    group.bench_function("set_new", |b| {
        b.iter(|| {
            number += 1;
            cache.set(&stored(number), &VALUE);
        });
    });
}

#[cfg(not(feature = "peers"))]
fn engine(c: &mut Criterion) {
    measure::<Shard>(c);
}

#[cfg(feature = "peers")]
fn engine(c: &mut Criterion) {
    use caches::peers::{Moka, QuickCache, Segcache, moka_item_bytes};
    eprintln!("moka: {} bytes an item", moka_item_bytes());
    measure::<Shard>(c);
    measure::<Segcache>(c);
    measure::<QuickCache>(c);
    measure::<Moka>(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = engine
}
criterion_main!(benches);
