//! Once a shard is full it works without the allocator.

#![expect(unsafe_code, reason = "an allocator is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use slabring_engine::{Config, Delete, DeleteMode, Expiry, Seconds, Shard, Store};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps this function's contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn remove(key: &[u8]) -> Delete<'_> {
    Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None }
}

#[test]
fn a_full_shard_gets_sets_and_evicts_without_allocating() {
    let mut shard = Shard::new(&Config::with_memory(8 << 20)).unwrap();
    let now = Seconds(1_700_000_000);
    let value = [1; 3000];
    let mut work = |ids: std::ops::Range<u64>| {
        for id in ids {
            let value = &value[..usize::try_from(id % 7 * 100 + 1).unwrap()];
            shard.store(now, &Store::set(&id.to_le_bytes(), value, Expiry::Never));
            shard.get(now, &(id / 2).to_le_bytes());
            let pin = shard.pin(now, &id.to_le_bytes());
            shard.delete(now, &remove(&id.to_le_bytes()));
            pin.into_iter().for_each(|pin| shard.unpin(pin));
            let request = Store::set(b"reserved", &[], Expiry::Never);
            let reserved = shard.reserve(now, &request, value.len());
            reserved.into_iter().for_each(|reservation| shard.abandon(reservation));
            shard.store(now, &Store::set(&id.to_le_bytes(), value, Expiry::Never));
        }
        shard.counters().evictions
    };
    let evictions_before = work(0..200_000);
    let before = ALLOCATIONS.with(Cell::get);
    let evictions_after = work(200_000..400_000);
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert!(evictions_after > evictions_before + 100_000);
}
