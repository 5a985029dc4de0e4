//! One shard of Slabring's items: a slab-allocated arena, its index, eviction and expiry.
//!
//! A [`Shard`] belongs to one thread and has never heard of sockets, clocks or wire formats: keys and values
//! are bytes, the time is an argument. So it serves just as well as a cache inside another program:
//!
//! ```
//! use slabring_engine::{Config, Expiry, Seconds, Shard, Store, StoreMode};
//! # fn main() -> Result<(), slabring_engine::ConfigError> {
//! let mut shard = Shard::new(&Config::with_memory(64 << 20))?;
//! let now = Seconds(1_700_000_000);
//! shard.store(now, &Store::set(b"key", b"value", Expiry::Never));
//! let item = shard.get(now, b"key");
//! assert_eq!(item.and_then(|item| item.value().as_slice()), Some(&b"value"[..]));
//! # Ok(())
//! # }
//! ```

mod arena;
mod arithmetic;
mod automove;
mod config;
mod counters;
mod dead;
mod delete;
mod departures;
mod evicted;
mod eviction;
mod expiry;
mod extend;
mod fences;
mod fetch;
mod ghost;
mod group;
mod header;
mod held;
mod image;
mod index;
mod item;
mod leaving;
mod persist;
mod pin;
mod policy;
mod recency;
mod rescue;
mod reserve;
mod restore;
mod room;
mod scan;
mod shadow;
mod shard;
mod sketch;
mod slab;
mod store;
mod sweep;
mod validate;
mod value;
mod warm;
mod window;
mod write;

pub use arithmetic::{Arithmetic, ArithmeticOutcome};
pub use automove::{Automove, MovePage};
pub use config::{
    CHUNK_SIZE_MIN_MAX, CasSeries, Config, ConfigError, ITEM_SIZE_MAX, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN,
    PAGE_SIZE_MAX, PAGE_SIZE_MIN, PAGES_MIN,
};
pub use counters::{ClassStats, Counters, MemoryUse, PolicyMemory};
pub use delete::{Delete, DeleteMode, DeleteOutcome};
pub use evicted::EvictedItem;
pub use expiry::{Expiry, Seconds};
pub use extend::{EXTENDED_AT_ONCE_MAX, Extended, Extension};
pub use fetch::{Fetch, Fetched};
pub use group::GROUPS;
pub use image::Image;
pub use item::Item;
pub use persist::RestoreError;
pub use pin::{Pin, Place};
pub use policy::{PolicyKind, UnknownPolicy};
pub use reserve::{Reservation, Room, SPACES_MAX};
pub use restore::Pause;
pub use scan::{Scan, ScanStep};
pub use shard::Shard;
pub use slab::{CLASSES_MAX, ClassId};
pub use store::{Store, StoreMode, StoreOutcome};
pub use sweep::Swept;
pub use value::{Reading, Value};
pub use warm::{KeyHash, WARM_KEYS_MAX};

/// Longest key in bytes, memcached's limit.
pub const KEY_SIZE_MAX: usize = 250;
