//! Settings of memcached's own machinery that clients may change and tools read back. They are kept and shown; what
//! `docs/compatibility.md` says of each is all the effect they have here.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use slabring_protocol::{Admin, Decimal};

/// See the module. The defaults are memcached 1.6.45's.
#[derive(Debug)]
pub struct Tuning {
    /// `lru_crawler enable`
    pub crawler: AtomicBool,
    /// `lru_crawler sleep`, in microseconds
    pub crawler_sleep: AtomicU32,
    /// `lru_crawler tocrawl`
    pub crawler_items: AtomicU32,
    /// `lru tune`, in percent
    pub hot_percent: AtomicU32,
    /// `lru tune`, in percent
    pub warm_percent: AtomicU32,
    /// `lru mode`
    pub segmented: AtomicBool,
    /// `lru temp_ttl`: whether it is on
    pub temporary: AtomicBool,
    /// `lru temp_ttl`, in seconds
    pub temporary_ttl: AtomicU32,
    /// `slabs automove`
    pub automove: AtomicU8,
    /// `slabs automove window`
    pub automove_window: AtomicU32,
    /// `stats sizes_enable`
    pub sizes: AtomicBool,
    /// `stats detail on`
    pub detail: AtomicBool,
    hot_max_factor: AtomicU64,
    warm_max_factor: AtomicU64,
    automove_ratio: AtomicU64,
    automove_free_ratio: AtomicU64,
}

impl Tuning {
    /// As a node starts, with or without counting by prefix.
    pub fn new(detail: bool) -> Self {
        Self {
            crawler: AtomicBool::new(true),
            crawler_sleep: AtomicU32::new(100),
            crawler_items: AtomicU32::new(0),
            hot_percent: AtomicU32::new(20),
            warm_percent: AtomicU32::new(40),
            segmented: AtomicBool::new(true),
            temporary: AtomicBool::new(false),
            temporary_ttl: AtomicU32::new(61),
            automove: AtomicU8::new(1),
            automove_window: AtomicU32::new(10),
            sizes: AtomicBool::new(false),
            detail: AtomicBool::new(detail),
            hot_max_factor: AtomicU64::new(0.2_f64.to_bits()),
            warm_max_factor: AtomicU64::new(2.0_f64.to_bits()),
            automove_ratio: AtomicU64::new(0.8_f64.to_bits()),
            automove_free_ratio: AtomicU64::new(0.01_f64.to_bits()),
        }
    }

    /// Keeps what a command says, if it is one of those that only set something.
    pub fn set(&self, admin: Admin) {
        match admin {
            Admin::LruTune { hot_percent, warm_percent, hot_max_factor, warm_max_factor } => {
                self.hot_percent.store(hot_percent, Ordering::Relaxed);
                self.warm_percent.store(warm_percent, Ordering::Relaxed);
                store(&self.hot_max_factor, hot_max_factor);
                store(&self.warm_max_factor, warm_max_factor);
            }
            Admin::LruMode { segmented } => self.segmented.store(segmented, Ordering::Relaxed),
            Admin::LruTemporaryTtl { seconds } => {
                self.temporary.store(seconds.is_some(), Ordering::Relaxed);
                if let Some(seconds) = seconds {
                    self.temporary_ttl.store(seconds, Ordering::Relaxed);
                }
            }
            Admin::CrawlerSleep { microseconds } => {
                self.crawler_sleep.store(microseconds, Ordering::Relaxed);
            }
            Admin::CrawlerToCrawl { items } => self.crawler_items.store(items, Ordering::Relaxed),
            Admin::SlabsAutomoveRatio(ratio) => store(&self.automove_ratio, ratio),
            Admin::SlabsAutomoveFreeRatio(ratio) => store(&self.automove_free_ratio, ratio),
            Admin::SlabsAutomoveWindow { rounds } => self.automove_window.store(rounds, Ordering::Relaxed),
            admin => unreachable!("{admin:?} does something"),
        }
    }

    /// `lru tune`
    pub fn hot_max_factor(&self) -> f64 {
        load(&self.hot_max_factor)
    }

    /// `lru tune`
    pub fn warm_max_factor(&self) -> f64 {
        load(&self.warm_max_factor)
    }

    /// `slabs automove ratio`
    pub fn automove_ratio(&self) -> f64 {
        load(&self.automove_ratio)
    }

    /// `slabs automove freeratio`
    pub fn automove_free_ratio(&self) -> f64 {
        load(&self.automove_free_ratio)
    }
}

fn store(cell: &AtomicU64, decimal: Decimal) {
    cell.store(decimal.get().to_bits(), Ordering::Relaxed);
}

fn load(cell: &AtomicU64) -> f64 {
    f64::from_bits(cell.load(Ordering::Relaxed))
}
