//! How large a shard is and how it behaves; checked once, at construction.

use std::io;

use crate::policy::PolicyKind;

/// Smallest budget: enough pages for the classes of one kind of items.
pub const MEMORY_BYTES_MIN: usize = 256 << 10;
/// Largest budget: what a 32-bit location in units of eight bytes can address.
pub const MEMORY_BYTES_MAX: usize = 32 << 30;
/// Smallest page, no smaller than the kernel's own.
pub const PAGE_SIZE_MIN: usize = 4 << 10;
/// Largest page.
pub const PAGE_SIZE_MAX: usize = 1 << 20;
/// A shard of fewer pages than this could not serve its size classes.
pub const PAGES_MIN: usize = 16;
/// Longest value the format can hold.
pub const ITEM_SIZE_MAX: usize = 1 << 30;
/// Largest useful `chunk_size_min`: the smallest chunk must leave room for classes above it.
pub const CHUNK_SIZE_MIN_MAX: usize = 1024;

const ITEM_SIZE_DEFAULT: usize = 1 << 20;
/// Rounds sizes up by three percent on average. The pages it ties down in more classes cost less than that: see
/// `docs/engine.md`.
const GROWTH_FACTOR_DEFAULT: f64 = 1.06;
/// Pages that a budget is cut into at least, unless they would be too small or too large. With more of them, memory
/// follows a change of sizes too slowly; with fewer, it is stuck in large lumps.
const PAGES_WANTED: usize = 512;
const CHUNK_SIZE_MIN_DEFAULT: usize = 32;

const _: () = assert!(PAGE_SIZE_MIN.is_power_of_two() && PAGE_SIZE_MAX.is_power_of_two());
const _: () = assert!(PAGES_MIN * PAGE_SIZE_MIN <= MEMORY_BYTES_MIN);
const _: () = assert!(CHUNK_SIZE_MIN_MAX + 16 <= PAGE_SIZE_MIN / 2);

/// The CAS values of one shard: every `step`-th number, so that no two of `step` shards share one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CasSeries {
    /// This shard's place in a round of `step`, below `step`.
    pub offset: u64,
    /// Number of shards, at least 1.
    pub step: u64,
}

/// Everything a shard wants to know.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// One budget for items, index, policy and the caller's external bytes.
    pub memory_bytes: usize,
    /// Longest value in bytes. Never more than half of `memory_bytes` is honoured.
    pub item_size_max: usize,
    /// Ratio of neighbouring chunk sizes, above 1 (memcached's `-f`). One too low for 128 classes to reach the
    /// largest chunk is raised.
    pub growth_factor: f64,
    /// Bytes of key, value and client flags that the smallest chunk holds (memcached's `-n`); its header
    /// comes on top.
    pub chunk_size_min: usize,
    /// Forces the page size: a power of two, at least [`PAGE_SIZE_MIN`], at least [`PAGES_MIN`] to the budget.
    /// By default the budget is cut into 512 to 1024.
    pub page_size_bytes: Option<usize>,
    /// Which item goes when there is no room.
    pub policy: PolicyKind,
    /// `false` refuses stores instead of evicting (memcached's `-M`).
    pub evict: bool,
    /// `false` makes every CAS value read as 0 (memcached's `-C`).
    pub cas_enabled: bool,
    /// The CAS values this shard gives out.
    pub cas: CasSeries,
    /// Ask the kernel for huge pages where a table or the arena is larger than 32 MiB; its refusal is no error. Saves
    /// walks of page tables at each access, and costs a pause of a fraction of a millisecond for each two MiB when
    /// they are touched first.
    pub huge_pages: bool,
    /// Take the memory of items from the kernel when the shard is made, all but a sixteenth of the budget, which the index may need:
    /// then nobody waits for pages to be cleared later. Kernels before 5.14 refuse, which is no error.
    pub prefault: bool,
    /// Evict as if memory were full at so many items, at least 1. For libraries that count in items, and for
    /// comparing policies.
    pub items_max: Option<usize>,
    /// Fixes the hash seed, for tests. In production it is random, so that nobody can prepare keys that collide.
    pub hash_seed: Option<u64>,
}

/// A configuration no shard can be built from. Nothing was reserved, or all of it was given back.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The budget is out of range.
    #[error("memory of {bytes} bytes is outside {MEMORY_BYTES_MIN}..={MEMORY_BYTES_MAX}")]
    Memory {
        /// What was asked for.
        bytes: usize,
    },
    /// The page size is no power of two in range, or the budget has too few of them.
    #[error(
        "page size {bytes} is not a power of two in {PAGE_SIZE_MIN}..={PAGE_SIZE_MAX} with {PAGES_MIN} pages in memory"
    )]
    PageSize {
        /// What was asked for.
        bytes: usize,
    },
    /// The growth factor does not grow.
    #[error("growth factor {factor} is not a number above 1")]
    GrowthFactor {
        /// What was asked for.
        factor: f64,
    },
    /// The smallest chunk is out of range.
    #[error("smallest chunk of {bytes} bytes is outside 1..={CHUNK_SIZE_MIN_MAX}")]
    ChunkSize {
        /// What was asked for.
        bytes: usize,
    },
    /// The item limit is out of range.
    #[error("item size limit of {bytes} bytes is outside 1..={ITEM_SIZE_MAX}")]
    ItemSize {
        /// What was asked for.
        bytes: usize,
    },
    /// No item at all may be stored.
    #[error("an item limit of 0 leaves nothing to cache")]
    Items,
    /// The CAS series is empty or starts outside its first round.
    #[error("CAS offset {} is not below the step {}", series.offset, series.step)]
    Cas {
        /// What was asked for.
        series: CasSeries,
    },
    /// The kernel refused the address space.
    #[error("cannot reserve {bytes} bytes of address space: {source}")]
    Reserve {
        /// What was asked for.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Config {
    /// Good defaults for a budget: evicting, TinyLFU, items up to 1 MiB.
    pub fn with_memory(memory_bytes: usize) -> Config {
        Config {
            memory_bytes,
            item_size_max: ITEM_SIZE_DEFAULT,
            growth_factor: GROWTH_FACTOR_DEFAULT,
            chunk_size_min: CHUNK_SIZE_MIN_DEFAULT,
            page_size_bytes: None,
            policy: PolicyKind::TinyLfu,
            evict: true,
            cas_enabled: true,
            cas: CasSeries { offset: 0, step: 1 },
            huge_pages: true,
            prefault: false,
            items_max: None,
            hash_seed: None,
        }
    }

    /// The page size this configuration leads to.
    pub(crate) fn page_size(&self) -> usize {
        self.page_size_bytes.unwrap_or_else(|| {
            let share = (self.memory_bytes / PAGES_WANTED).max(PAGE_SIZE_MIN);
            (1 << share.ilog2()).min(PAGE_SIZE_MAX)
        })
    }

    /// Refuses what no shard can be built from.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !(MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&self.memory_bytes) {
            return Err(ConfigError::Memory { bytes: self.memory_bytes });
        }
        self.check_page_size()?;
        if !(self.growth_factor.is_finite() && self.growth_factor > 1.0) {
            return Err(ConfigError::GrowthFactor { factor: self.growth_factor });
        }
        if !(1..=CHUNK_SIZE_MIN_MAX).contains(&self.chunk_size_min) {
            return Err(ConfigError::ChunkSize { bytes: self.chunk_size_min });
        }
        if !(1..=ITEM_SIZE_MAX).contains(&self.item_size_max) {
            return Err(ConfigError::ItemSize { bytes: self.item_size_max });
        }
        if self.items_max == Some(0) {
            return Err(ConfigError::Items);
        }
        if self.cas.offset >= self.cas.step {
            return Err(ConfigError::Cas { series: self.cas });
        }
        Ok(())
    }

    fn check_page_size(&self) -> Result<(), ConfigError> {
        let bytes = self.page_size();
        let in_range = (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&bytes);
        if bytes.is_power_of_two() && in_range && self.memory_bytes / bytes >= PAGES_MIN {
            Ok(())
        } else {
            Err(ConfigError::PageSize { bytes })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_budget_has_at_least_sixteen_pages() {
        for memory_bytes in
            [MEMORY_BYTES_MIN, 300_000, 768 << 10, 3 << 20, 16 << 20, 64 << 20, MEMORY_BYTES_MAX]
        {
            let config = Config::with_memory(memory_bytes);
            config.check().unwrap();
            assert!(memory_bytes / config.page_size() >= PAGES_MIN, "{memory_bytes}");
        }
        assert_eq!(Config::with_memory(1 << 20).page_size(), PAGE_SIZE_MIN);
        assert_eq!(Config::with_memory(64 << 20).page_size(), 128 << 10);
        assert_eq!(Config::with_memory(1 << 30).page_size(), PAGE_SIZE_MAX);
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut Config)) {
        let mut config = Config::with_memory(1 << 20);
        change(&mut config);
        assert!(config.check().is_err(), "{config:?}");
    }

    #[test]
    fn what_no_shard_can_be_built_from_is_refused() {
        check_refused(|c| c.memory_bytes = MEMORY_BYTES_MIN - 1);
        check_refused(|c| c.memory_bytes = MEMORY_BYTES_MAX + 1);
        check_refused(|c| c.page_size_bytes = Some(PAGE_SIZE_MAX));
        check_refused(|c| c.page_size_bytes = Some(PAGE_SIZE_MIN + 8));
        check_refused(|c| c.growth_factor = 1.0);
        check_refused(|c| c.growth_factor = f64::NAN);
        check_refused(|c| c.chunk_size_min = 0);
        check_refused(|c| c.item_size_max = 0);
        check_refused(|c| c.items_max = Some(0));
        check_refused(|c| c.cas = CasSeries { offset: 2, step: 2 });
    }
}
