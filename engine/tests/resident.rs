//! The budget as the kernel sees it. A process of its own, so that nothing else comes and goes in its memory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use slabring_engine::{Config, Expiry, Seconds, Shard, Store};

const NOW: Seconds = Seconds(1_700_000_000);
/// The ends of huge pages that a table or the arena has not reached yet: one each.
const BYTES_OVER_MAX: usize = 6 << 20;

fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What a shard adds to the process when it has taken in twice what it can hold, of sizes around `size`.
#[track_caller]
fn check(memory_bytes: usize, size: usize) {
    let before = resident_bytes();
    let mut shard = Shard::new(&Config::with_memory(memory_bytes)).unwrap();
    let value = vec![7; 2 * size];
    for id in 0..2 * memory_bytes / size {
        let value = &value[..size / 2 + id % size];
        shard.store(NOW, &Store::set(&id.to_le_bytes(), value, Expiry::Never));
    }
    let memory = shard.memory();
    let resident = resident_bytes() - before;
    println!("{size} bytes in {} MiB: {} KiB resident", memory_bytes >> 20, resident / 1024);
    assert!(memory.used() > memory_bytes / 100 * 98, "{memory:?}");
    assert!(resident <= memory_bytes + BYTES_OVER_MAX, "{resident} bytes resident, {memory:?}");
}

/// What a shard adds that takes its memory when it is made.
#[track_caller]
fn check_at_once(memory_bytes: usize) {
    let before = resident_bytes();
    let shard = Shard::new(&Config { prefault: true, ..Config::with_memory(memory_bytes) }).unwrap();
    let resident = resident_bytes() - before;
    let expected = memory_bytes / 16 * 15..memory_bytes + BYTES_OVER_MAX;
    // Kernels before 5.14 take none.
    assert!(expected.contains(&resident) || resident < BYTES_OVER_MAX, "{resident} bytes resident");
    drop(shard);
}

#[test]
fn a_full_shard_takes_its_budget_of_the_kernel_and_hardly_more() {
    check(1 << 20, 100);
    check(64 << 20, 40);
    check(64 << 20, 1000);
    check_at_once(64 << 20);
}

#[test]
#[ignore = "takes a gigabyte"]
fn a_full_shard_of_a_gigabyte_takes_its_budget_of_the_kernel_and_hardly_more() {
    check(1 << 30, 100);
    check(1 << 30, 1000);
}
