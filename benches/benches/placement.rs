//! From a key to its owners and its shard: what a node does for every key, and what a change of the ring costs.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use slabring_cluster::placement::{hash_key, partition_of, shard_of};
use slabring_cluster::table::{PartitionTable, Slot, Weight, ZoneId};

const KEY: &[u8] = b"k000000000012345";
const MACHINES: u16 = 10;
const MACHINES_MANY: u16 = 100;
const REPLICAS: usize = 2;
const SHARDS: u16 = 16;

fn placement(c: &mut Criterion) {
    let slots: Vec<Slot> =
        (0..MACHINES).map(|at| Slot { weight: Weight::FULL, zone: ZoneId(at % 3) }).collect();
    let table = PartitionTable::build(&slots, REPLICAS);
    let mut group = c.benchmark_group("placement");
    group.bench_function("look_up", |b| {
        b.iter(|| {
            let hash = hash_key(black_box(KEY));
            (table.owners(partition_of(hash))[0], shard_of(hash, SHARDS))
        });
    });
    group.bench_function("hash_alone", |b| b.iter(|| hash_key(black_box(KEY))));
    let hash = hash_key(KEY);
    group.bench_function("look_up_beside_the_hash", |b| {
        b.iter(|| {
            let hash = black_box(hash);
            (table.owners(partition_of(hash))[0], shard_of(hash, SHARDS))
        });
    });
    group.sample_size(10);
    group.bench_function("build_table", |b| b.iter(|| PartitionTable::build(black_box(&slots), REPLICAS)));
    let many: Vec<Slot> =
        (0..MACHINES_MANY).map(|at| Slot { weight: Weight::FULL, zone: ZoneId(at % 3) }).collect();
    group.bench_function("build_table_of_100", |b| {
        b.iter(|| PartitionTable::build(black_box(&many), REPLICAS));
    });
    group.finish();
}

criterion_group!(benches, placement);
criterion_main!(benches);
