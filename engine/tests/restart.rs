//! A shard over a file, and the one that goes on with it: nothing is lost, nothing damaged is believed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unsafe_code, reason = "that a file is nobody else's is promised here")]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{
    Config, Expiry, Item, Pause, PolicyKind, RestoreError, Scan, Seconds, Shard, Store, StoreMode,
    StoreOutcome,
};

const NOW: Seconds = Seconds(1_700_000_000);
const LATER: Seconds = Seconds(NOW.0 + 50);
/// The file begins with something of the caller's.
const OFFSET: u64 = 8192;

/// A file that is gone when the test is over.
struct Backing {
    path: PathBuf,
    file: File,
}

impl Backing {
    fn new(name: &str, config: &Config) -> Backing {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        file.set_len(OFFSET + Shard::file_bytes(config).unwrap()).unwrap();
        Backing { path, file }
    }

    /// An empty shard over the file.
    fn begin(&self, config: &Config) -> Shard {
        // SAFETY: the file is the test's own, by the name of its process, and one shard at a time lives over it.
        unsafe { Shard::over_file(config, &self.file, OFFSET) }.unwrap()
    }

    fn restore(&self, config: &Config, metadata: &[u8], now: Seconds) -> Result<Shard, RestoreError> {
        self.restore_after(config, metadata, Pause { left: now, now })
    }

    fn restore_after(&self, config: &Config, metadata: &[u8], pause: Pause) -> Result<Shard, RestoreError> {
        // SAFETY: as above.
        unsafe { Shard::restore(config, &self.file, OFFSET, metadata, pause) }
    }

    fn flip_bit(&self, at: u64, bit: u32) {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, at).unwrap();
        self.file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        fs::remove_file(&self.path).unwrap();
    }
}

/// All that a client could tell about an item.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Seen {
    key: Vec<u8>,
    value: Vec<u8>,
    told: (u32, u64, u32, bool, bool, u32),
}

fn seen(item: &Item<'_>) -> Seen {
    let mut value = Vec::new();
    item.value().copy_to(&mut value);
    let expiry = match item.expiry() {
        Expiry::Never => 0,
        Expiry::At(second) => second.0,
    };
    let told =
        (item.client_flags(), item.cas(), expiry, item.is_stale(), item.fetched(), item.idle_seconds());
    Seen { key: item.key().to_vec(), value, told }
}

fn all_of(shard: &Shard, now: Seconds) -> Vec<Seen> {
    let mut all = Vec::new();
    shard.scan(now, &mut Scan::new(), usize::MAX, |item| all.push(seen(item)));
    all.sort_unstable();
    all
}

/// Stores, reads, replaces and deletes at random; sizes of all magnitudes, some with a time to live.
fn churn(shard: &mut Shard, seed: u64, steps: u32) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut value = vec![0; 300_000];
    random.fill_bytes(&mut value);
    for _ in 0..steps {
        let key = format!("key-{}", random.random_range(0..20_000));
        let len = 1 << random.random_range(0..13);
        let len = if random.random_bool(0.003) { 200_000 } else { random.random_range(0..len) };
        let from = random.random_range(0..1_000);
        let expiry = if random.random_bool(0.3) {
            Expiry::At(Seconds(NOW.0 + random.random_range(1..100)))
        } else {
            Expiry::Never
        };
        let mode = if random.random_bool(0.1) { StoreMode::Append } else { StoreMode::Set };
        let client_flags = if random.random_bool(0.3) { random.random() } else { 0 };
        let request =
            Store { mode, client_flags, ..Store::set(key.as_bytes(), &value[from..from + len], expiry) };
        shard.store(NOW, &request);
        shard.get(NOW, format!("key-{}", random.random_range(0..20_000)).as_bytes());
    }
}

fn config(policy: PolicyKind) -> Config {
    Config { policy, ..Config::with_memory(6 << 20) }
}

#[test]
fn under_every_policy_a_restored_shard_has_every_live_item_and_goes_on() {
    for (seed, policy) in (0..).zip(PolicyKind::ALL) {
        let config = Config { cas_enabled: seed % 3 != 2, ..config(policy) };
        let backing = Backing::new(&format!("whole-{seed}"), &config);
        let mut shard = backing.begin(&config);
        churn(&mut shard, seed, 20_000);
        shard.flush_at(Seconds(LATER.0 + 10));
        let (before, evictions) = (all_of(&shard, LATER), shard.counters().evictions);
        assert!(before.len() > 500 && evictions > 0, "{} {evictions}", before.len());
        let last_cas = before.iter().map(|item| item.told.1).max();
        let metadata = shard.persist();
        let mut shard = backing.restore(&config, &metadata, LATER).unwrap();
        shard.check_invariants();
        assert!(all_of(&shard, LATER) == before, "{policy:?}");
        let counters = shard.counters();
        assert_eq!((counters.items, counters.total_items), (before.len() as u64, before.len() as u64));
        let StoreOutcome::Stored { cas, .. } = shard.store(LATER, &Store::set(b"k", b"", Expiry::Never))
        else {
            panic!("no room for an empty value")
        };
        assert!(Some(cas) > last_cas || !config.cas_enabled, "a CAS value was given out again");
        churn(&mut shard, seed + 100, 20_000);
        shard.check_invariants();
        assert!(all_of(&shard, Seconds(LATER.0 + 10)).is_empty(), "the flush that was pending");
    }
}

#[test]
fn what_is_not_as_it_was_left_is_refused_and_can_be_had_when_it_is_mended() {
    let config = config(PolicyKind::TinyLfu);
    let backing = Backing::new("damaged", &config);
    let mut shard = backing.begin(&config);
    churn(&mut shard, 1, 10_000);
    let before = all_of(&shard, LATER);
    let metadata = shard.persist();
    let restore = |config: &Config, metadata: &[u8]| {
        backing.restore(config, metadata, LATER).map(|shard| all_of(&shard, LATER))
    };
    let mut random = SmallRng::seed_from_u64(1);
    for _ in 0..300 {
        let mut flipped = metadata.clone();
        flipped[random.random_range(0..metadata.len())] ^= 1 << random.random_range(0..8);
        assert!(matches!(restore(&config, &flipped), Err(RestoreError::Unknown | RestoreError::Metadata)));
        let cut = &metadata[..random.random_range(0..metadata.len())];
        assert!(matches!(restore(&config, cut), Err(RestoreError::Unknown)));
    }
    let mut refused = 0;
    for _ in 0..100 {
        let (at, bit) = (random.random_range(OFFSET..OFFSET + (6 << 20)), random.random_range(0..8));
        backing.flip_bit(at, bit);
        match restore(&config, &metadata) {
            Err(RestoreError::Page { .. }) => refused += 1,
            // Nothing was ever stored in that place.
            Ok(restored) => assert!(restored == before),
            Err(other) => panic!("{other}"),
        }
        backing.flip_bit(at, bit);
    }
    assert!(refused > 90, "{refused}");
    for other in [
        Config { memory_bytes: 5 << 20, ..config.clone() },
        Config { growth_factor: 1.3, ..config.clone() },
        Config { item_size_max: 1 << 19, ..config.clone() },
        Config { cas_enabled: false, ..config.clone() },
    ] {
        assert!(matches!(restore(&other, &metadata), Err(RestoreError::Layout { .. })), "{other:?}");
    }
    backing.file.set_len(OFFSET + (5 << 20)).unwrap();
    assert!(matches!(restore(&config, &metadata), Err(RestoreError::Config(_))));
    assert!(restore(&config, &metadata).is_err());
}

#[test]
#[ignore = "takes a gigabyte of disk and measures time"]
fn how_long_a_gigabyte_takes_to_restore() {
    for value_len in [32, 1_000] {
        let config = Config::with_memory(1 << 30);
        let backing = Backing::new("large", &config);
        let mut shard = backing.begin(&config);
        let mut id = 0_u64;
        while shard.counters().evictions == 0 {
            shard.store(NOW, &Store::set(&id.to_le_bytes(), &vec![7; value_len], Expiry::Never));
            id += 1;
        }
        let items = shard.counters().items;
        let start = Instant::now();
        let metadata = shard.persist();
        let persisted = start.elapsed();
        let start = Instant::now();
        let shard = backing.restore(&config, &metadata, NOW).unwrap();
        let restored = start.elapsed();
        assert_eq!(shard.counters().items, items);
        println!("{items} items of {value_len} bytes: persisted in {persisted:?}, restored in {restored:?}");
    }
}

#[test]
fn a_clock_that_went_back_lets_no_item_live_longer_or_read_as_unused() {
    let config = config(PolicyKind::default());
    let backing = Backing::new("back", &config);
    let mut shard = backing.begin(&config);
    churn(&mut shard, 1, 20_000);
    shard.flush_at(Seconds(LATER.0 + 10));
    let before = all_of(&shard, LATER);
    assert!(before.iter().any(|item| item.told.2 != 0), "none has a time to live");
    let metadata = shard.persist();
    let back = 3_600;
    let now = Seconds(LATER.0 - back);
    let shard = backing.restore_after(&config, &metadata, Pause { left: LATER, now }).unwrap();
    shard.check_invariants();
    let expected = before.into_iter().map(|item| {
        let (flags, cas, expiry, is_stale, fetched, idle) = item.told;
        Seen { told: (flags, cas, expiry.saturating_sub(back), is_stale, fetched, idle), ..item }
    });
    assert!(all_of(&shard, now) == expected.collect::<Vec<_>>());
    assert!(!all_of(&shard, Seconds(now.0 + 9)).is_empty(), "flushed too early");
    assert!(all_of(&shard, Seconds(now.0 + 10)).is_empty(), "the flush that was pending");
}
