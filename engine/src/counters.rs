//! What a shard tells about itself. Plain numbers, read between operations.

use std::ops::Add;

use crate::slab::ClassId;

/// Running totals of one shard. All but `items` and `bytes` only ever rise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Items linked now, dead ones not yet found included.
    pub items: u64,
    /// Bytes of the linked items: headers, keys and values without the rest of their chunks.
    pub bytes: u64,
    /// Items ever stored; a replacement counts, and in a restored shard every item that was there at its start.
    pub total_items: u64,
    /// Live items dropped to make room: by the hand, with their page, or for an item of that page.
    pub evictions: u64,
    /// Those of `evictions` that no get ever hit.
    pub evicted_unfetched: u64,
    /// Dead items freed, wherever they were found.
    pub reclaimed: u64,
    /// Those of `reclaimed` that no get ever hit.
    pub expired_unfetched: u64,
    /// Gets that found an expired item.
    pub get_expired: u64,
    /// Gets that found a flushed item.
    pub get_flushed: u64,
    /// Pages taken from one class for the sake of another, of the index or of external bytes.
    pub page_moves: u64,
    /// Items that stayed although their page left its class: moved to another chunk of it.
    pub rescues: u64,
    /// Later parts of long values that were moved so.
    pub chunk_rescues: u64,
    /// Times the adaptive policy took up another setting.
    pub policy_switches: u64,
    /// New items that lost against an older one and were dropped from the window.
    pub admission_refusals: u64,
}

/// Where a shard's budget goes. `index + pages + policy + external` never exceeds `limit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryUse {
    /// The budget in bytes.
    pub limit: usize,
    /// Index buckets in use.
    pub index: usize,
    /// Pages assigned to a class, in bytes.
    pub pages: usize,
    /// All of `policy_parts`.
    pub policy: usize,
    /// What the policy and the tables need.
    pub policy_parts: PolicyMemory,
    /// As reported by the caller, capped at half the budget.
    pub external: usize,
    /// Bytes of the linked items, a part of `pages`.
    pub items: usize,
    /// Bytes of chunks that belong to no item, a part of `pages`: reservations, and pinned values whose item is gone.
    pub held: usize,
}

/// Bytes that choosing victims takes, by what they are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PolicyMemory {
    /// How often keys were asked for.
    pub sketch: usize,
    /// Which keys were evicted lately.
    pub ghost: usize,
    /// The order of the new items.
    pub windows: usize,
    /// Sampled caches that tell the best setting.
    pub shadows: usize,
    /// Which keys each class evicted last.
    pub departures: usize,
    /// The exact order of use, for the policy that goes by it.
    pub links: usize,
    /// Tables of pages, classes and held chunks.
    pub tables: usize,
}

impl MemoryUse {
    /// Bytes of the budget in use.
    pub fn used(&self) -> usize {
        self.index + self.pages + self.policy + self.external
    }
}

impl PolicyMemory {
    /// All parts together.
    pub fn total(&self) -> usize {
        let Self { sketch, ghost, windows, shadows, departures, links, tables } = *self;
        sketch + ghost + windows + shadows + departures + links + tables
    }
}

/// Of two shards together.
impl Add for MemoryUse {
    type Output = MemoryUse;

    fn add(self, other: MemoryUse) -> MemoryUse {
        MemoryUse {
            limit: self.limit + other.limit,
            index: self.index + other.index,
            pages: self.pages + other.pages,
            policy: self.policy + other.policy,
            policy_parts: self.policy_parts + other.policy_parts,
            external: self.external + other.external,
            items: self.items + other.items,
            held: self.held + other.held,
        }
    }
}

/// Of two shards together.
impl Add for PolicyMemory {
    type Output = PolicyMemory;

    fn add(self, other: PolicyMemory) -> PolicyMemory {
        PolicyMemory {
            sketch: self.sketch + other.sketch,
            ghost: self.ghost + other.ghost,
            windows: self.windows + other.windows,
            shadows: self.shadows + other.shadows,
            departures: self.departures + other.departures,
            links: self.links + other.links,
            tables: self.tables + other.tables,
        }
    }
}

/// One size class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassStats {
    /// Which; ids rise with the chunk size.
    pub class: ClassId,
    /// Bytes of a chunk.
    pub chunk_size: usize,
    /// Chunks in a page.
    pub chunks_per_page: usize,
    /// Pages assigned.
    pub pages: usize,
    /// Chunks holding an item or a part of one.
    pub used: usize,
    /// Chunks of assigned pages that hold nothing.
    pub free: usize,
    /// Items whose head is in this class.
    pub items: usize,
    /// Bytes of those items without the rest of their chunks.
    pub bytes: usize,
    /// Items in the admission window.
    pub window_items: usize,
    /// Items of this class dropped to make room.
    pub evicted: u64,
    /// Those of `evicted` that no get ever hit.
    pub evicted_unfetched: u64,
}
