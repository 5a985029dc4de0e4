//! What the caller uses comes and goes at any moment, while values of changing sizes fill the cache: whatever is small finds room.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{Config, Expiry, Seconds, Shard, Store, StoreOutcome};

const NOW: Seconds = Seconds(1_700_000_000);
const MEMORY: usize = 16 << 20;
/// About what an item takes beside its value.
const OVERHEAD: usize = 400;

#[test]
fn stores_find_room_while_external_bytes_come_and_go() {
    for seed in 0..6 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut shard = Shard::new(&Config { hash_seed: Some(seed), ..Config::with_memory(MEMORY) }).unwrap();
        let (tide, upkeep) = (random.random_range(1..500), random.random_range(1..400));
        let most = random.random_range(1..MEMORY / 2);
        for (round, size) in [100_usize, 3_000, 60_000, 100, 900_000, 100].into_iter().enumerate() {
            let value = vec![b'v'; size];
            for item in 0..2 * MEMORY / (size + OVERHEAD) {
                if random.random_range(0..tide) == 0 {
                    let is_low = random.random_bool(0.3);
                    shard.set_external_bytes(if is_low { 0 } else { random.random_range(0..most) });
                }
                if random.random_range(0..upkeep) == 0 {
                    shard.maintain(NOW, 64);
                }
                let key = format!("{round}:{item}");
                let stored = shard.store(NOW, &Store::set(key.as_bytes(), &value, Expiry::Never));
                let memory = shard.memory();
                assert!(
                    matches!(stored, StoreOutcome::Stored { .. }),
                    "seed {seed}, {key}: {stored:?}, {memory:?}"
                );
            }
        }
        shard.check_invariants();
    }
}
