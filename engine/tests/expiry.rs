//! Dead items' memory comes back in time, and finding them costs little.

use std::time::Instant;

use slabring_engine::{Config, Expiry, Seconds, Shard, Store};

const NOW: Seconds = Seconds(1_700_000_000);
/// A round of the sweeper, as the server drives it.
const PERIOD_SECONDS: usize = 60;

/// Sweeps as much as is due in one second.
fn sweep_a_second(shard: &mut Shard, now: Seconds) {
    let chunks = shard.sweep_round().div_ceil(PERIOD_SECONDS);
    shard.sweep(now, chunks);
}

#[test]
fn what_has_expired_is_free_within_a_period_however_full_the_shard_is() {
    for items in [1, 1_000, 200_000_u32] {
        let mut shard = Shard::new(&Config::with_memory(64 << 20)).unwrap();
        for id in 0..items {
            let expiry = Expiry::At(Seconds(NOW.0 + id % 100));
            shard.store(NOW, &Store::set(&id.to_le_bytes(), &[1; 100], expiry));
        }
        let period = u32::try_from(PERIOD_SECONDS).unwrap();
        for second in 1..200 {
            let now = Seconds(NOW.0 + second);
            sweep_a_second(&mut shard, now);
            let due = (0..items).filter(|id| id % 100 + period < second).count() as u64;
            assert!(shard.counters().reclaimed >= due, "second {second} of {items} items");
        }
        assert_eq!(shard.counters().items, 0);
        shard.check_invariants();
    }
}

#[test]
#[ignore = "takes half a minute and a gigabyte; measures time"]
fn sweeping_ten_million_items_takes_less_than_two_percent_of_a_core() {
    let mut shard = Shard::new(&Config::with_memory(1 << 30)).unwrap();
    for id in 0..10_000_000_u32 {
        shard
            .store(NOW, &Store::set(&id.to_le_bytes(), &[7; 32], Expiry::At(Seconds(NOW.0 + 60 + id % 600))));
    }
    assert_eq!(shard.counters().items, 10_000_000);
    let mut percent_of = |what: &str, from: u32| {
        let start = Instant::now();
        for second in 0..u32::try_from(PERIOD_SECONDS).unwrap() {
            sweep_a_second(&mut shard, Seconds(NOW.0 + from + second));
        }
        let percent = start.elapsed().as_secs_f64() / PERIOD_SECONDS as f64 * 100.0;
        println!("a round over {what}: {percent:.2} % of a core, {} items left", shard.counters().items);
        assert!(percent < 2.0);
    };
    percent_of("live items", 0);
    percent_of("items of which 17 thousand expire each second", 60);
}
