//! One shard without a server around it: a hit and an overwrite, in keys of a working set that exceeds the caches
//! of the CPU as a real one does.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slabring_engine::{Config, Expiry, Seconds, Shard, Store};

const NOW: Seconds = Seconds(1_700_000_000);
const MEMORY_BYTES: usize = 256 << 20;
const KEYS: usize = 1_000_000;
const VALUE: [u8; 32] = [b'v'; 32];

/// Coprime to [`KEYS`]: walks through all keys in an order that no prefetcher follows.
const STRIDE: usize = 618_033;

/// The keys lie side by side: fetching one costs the bench as little as it can.
fn filled() -> (Shard, Vec<[u8; 16]>) {
    let mut shard = Shard::new(&Config::with_memory(MEMORY_BYTES)).expect("a budget above the least one");
    let key = |number| format!("k{number:015}").into_bytes().try_into().expect("16 bytes");
    let keys: Vec<[u8; 16]> = (0..KEYS).map(key).collect();
    for key in &keys {
        shard.store(NOW, &Store::set(key, &VALUE, Expiry::Never));
    }
    (shard, keys)
}

fn engine(c: &mut Criterion) {
    let (mut shard, keys) = filled();
    let mut at = 0;
    let mut next_key = || {
        at = (at + STRIDE) % KEYS;
        &keys[at]
    };
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(1));
    group.bench_function("get_hit", |b| {
        b.iter(|| {
            let item = shard.get(NOW, next_key()).expect("nothing was evicted");
            black_box(item.value().as_slice());
        });
    });
    group.bench_function("set_over", |b| {
        b.iter(|| black_box(shard.store(NOW, &Store::set(next_key(), &VALUE, Expiry::Never))));
    });
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
