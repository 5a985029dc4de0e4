//! The engine and its rivals behind one interface: each a cache of byte strings in so many bytes of memory.

use std::hint::black_box;

use slabring_engine::{Config, Delete, DeleteMode, Expiry, PolicyKind, Seconds, Shard, Store};

const NOW: Seconds = Seconds(1_700_000_000);

/// What all of them can do. Keys are always of 16 bytes, and values of 32; none of the caches knows that.
pub(crate) trait Cache {
    const NAME: &'static str;
    /// A cache that takes about so many bytes, all in, when it is full.
    fn with_memory(bytes: usize) -> Self;
    /// Whether the key is there. Reads the value.
    fn get(&mut self, key: &[u8]) -> bool;
    /// How many of the keys are there. Reads their values.
    fn get_many(&mut self, keys: &[&[u8]]) -> usize {
        keys.iter().filter(|key| self.get(key)).count()
    }
    fn set(&mut self, key: &[u8], value: &[u8]);
    fn delete(&mut self, key: &[u8]);
}

impl Cache for Shard {
    const NAME: &'static str = "slabring";

    fn with_memory(bytes: usize) -> Self {
        let policy = std::env::var("SLABRING_BENCH_POLICY").map_or(PolicyKind::default(), |name| {
            name.parse().expect("SLABRING_BENCH_POLICY is the name of a policy")
        });
        Shard::new(&Config { policy, ..Config::with_memory(bytes) }).expect("a budget in range")
    }

    #[inline]
    fn get(&mut self, key: &[u8]) -> bool {
        let item = Shard::get(self, NOW, key);
        item.and_then(|item| black_box(item.value().as_slice()?.first())).is_some()
    }

    #[inline]
    fn get_many(&mut self, keys: &[&[u8]]) -> usize {
        let mut hits = 0;
        Shard::get_many(self, NOW, keys, |_, item| {
            let first = item.and_then(|item| black_box(item.value().as_slice()?.first()).copied());
            hits += usize::from(first.is_some());
        });
        hits
    }

    #[inline]
    fn set(&mut self, key: &[u8], value: &[u8]) {
        black_box(self.store(NOW, &Store::set(key, value, Expiry::Never)));
    }

    #[inline]
    fn delete(&mut self, key: &[u8]) {
        let delete = Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
        black_box(Shard::delete(self, NOW, &delete));
    }
}

#[cfg(feature = "peers")]
pub(crate) mod peers {
    //! Libraries from crates.io, set up as their documentation advises for byte strings of any length.

    use std::sync::{Arc, OnceLock};
    use std::time::Duration;

    use super::{Cache, black_box};

    /// Bytes that glibc's malloc takes for a key of 16 bytes and a value of 32.
    const MALLOC_BYTES: usize = 32 + 48;
    /// What quick_cache takes for an item besides when it is full, remembered evictions and spare slots of its
    /// table included: 84 bytes of entries and 11 to 15 of table, by its own account.
    const QUICK_CACHE_BYTES: usize = 96;
    const SEGMENT_BYTES: usize = 1 << 20;
    /// Items that tell what moka takes for one.
    const MOKA_PROBE_ITEMS: usize = 1 << 19;

    pub(crate) struct Segcache(segcache::Segcache);

    impl Cache for Segcache {
        const NAME: &'static str = "segcache";

        fn with_memory(bytes: usize) -> Self {
            // Eight bytes a slot; a slot for each item of 53 bytes, and an eighth of the slots is not for items.
            let hash_power = u8::try_from((bytes / 60).next_power_of_two().ilog2()).expect("below 64");
            let table_bytes = 8 << hash_power;
            let policy = segcache::Policy::Merge { max: 8, merge: 4, compact: 2 };
            let builder = segcache::Segcache::builder().hash_power(hash_power).eviction(policy);
            let cache = builder
                .heap_size((bytes - table_bytes).next_multiple_of(SEGMENT_BYTES))
                .segment_size(1 << 20)
                .build();
            Self(cache.expect("memory for it"))
        }

        #[inline]
        fn get(&mut self, key: &[u8]) -> bool {
            self.0.get(key).is_some_and(|item| {
                black_box(item.value());
                true
            })
        }

        #[inline]
        fn set(&mut self, key: &[u8], value: &[u8]) {
            // A store that finds no segment is part of what it costs.
            black_box(self.0.insert(key, value, None, Duration::ZERO)).ok();
        }

        #[inline]
        fn delete(&mut self, key: &[u8]) {
            black_box(self.0.delete(key));
        }
    }

    pub(crate) struct QuickCache(quick_cache::unsync::Cache<Box<[u8]>, Box<[u8]>>);

    impl Cache for QuickCache {
        const NAME: &'static str = "quick_cache";

        fn with_memory(bytes: usize) -> Self {
            Self(quick_cache::unsync::Cache::new(bytes / (MALLOC_BYTES + QUICK_CACHE_BYTES)))
        }

        #[inline]
        fn get(&mut self, key: &[u8]) -> bool {
            self.0.get(key).and_then(|value| black_box(value.first())).is_some()
        }

        #[inline]
        fn set(&mut self, key: &[u8], value: &[u8]) {
            self.0.insert(key.into(), value.into());
        }

        #[inline]
        fn delete(&mut self, key: &[u8]) {
            black_box(self.0.remove(key));
        }
    }

    pub(crate) struct Moka(moka::sync::Cache<Box<[u8]>, Arc<[u8]>>);

    impl Moka {
        fn with_items(items: usize) -> Self {
            Self(moka::sync::Cache::builder().max_capacity(items as u64).build())
        }
    }

    impl Cache for Moka {
        const NAME: &'static str = "moka";

        fn with_memory(bytes: usize) -> Self {
            Self::with_items(bytes / moka_item_bytes())
        }

        #[inline]
        fn get(&mut self, key: &[u8]) -> bool {
            self.0.get(key).and_then(|value| black_box(value.first().copied())).is_some()
        }

        #[inline]
        fn set(&mut self, key: &[u8], value: &[u8]) {
            self.0.insert(key.into(), value.into());
        }

        #[inline]
        fn delete(&mut self, key: &[u8]) {
            black_box(self.0.remove(key));
        }
    }

    /// What moka takes for an item, all in: it does not tell, so the process is asked. Has to be called before
    /// anything large is freed, or moka would fill the gaps.
    pub(crate) fn moka_item_bytes() -> usize {
        static BYTES: OnceLock<usize> = OnceLock::new();
        *BYTES.get_or_init(|| {
            let before = resident_bytes();
            let mut cache = Moka::with_items(MOKA_PROBE_ITEMS);
            for number in 0..MOKA_PROBE_ITEMS {
                cache.set(&crate::workload::stored(number), &[0; 32]);
            }
            cache.0.run_pending_tasks();
            (resident_bytes() - before) / MOKA_PROBE_ITEMS
        })
    }

    fn resident_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }
}
