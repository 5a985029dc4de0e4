//! Holds placement to `golden/placement.txt`, which other implementations of the ring can read too.
//!
//! A difference means that every running cluster would move its keys: change the code, not the file.
//! Written by `cargo test -p slabring-cluster --test golden -- --ignored`.

use std::path::PathBuf;

use slabring_cluster::jump::{jump, mix};
use slabring_cluster::placement::{PartitionId, hash_key, partition_of, shard_of};
use slabring_cluster::table::{PartitionTable, Slot, SlotId, Weight, ZoneId};

const HEADER: &str = "\
# Placement vectors of Slabring. Numbers are decimal, but hashes and keys, which are hexadecimal.
# mix IN OUT
# jump SEED BUCKETS BUCKET
# key BYTES XXH3-64 PARTITION SHARD-OF-1 SHARD-OF-4 SHARD-OF-7 SHARD-OF-64   (- is the empty key)
# ring REPLICAS WEIGHT/ZONE...
# owners PARTITION SLOT...      of the ring above
# table XXH3-64 of all owners of the ring above, as little-endian u16, partition after partition
";

/// Weights and zones of each ring, and its replicas.
fn rings() -> Vec<(usize, Vec<(u16, u16)>)> {
    vec![
        (1, vec![(256, 0)]),
        (2, vec![(256, 0); 3]),
        (2, (0..10).map(|slot| (if slot == 3 { 0 } else { 256 }, 0)).collect()),
        (3, (0..9).map(|slot| (256, slot % 3)).collect()),
        (2, (0..32).map(|slot| (256 - slot * 8, slot % 4)).collect()),
        (3, (0..40).map(|slot| (u16::from(slot % 13 == 7), slot % 2)).collect()),
    ]
}

fn keys() -> Vec<Vec<u8>> {
    let named = (0..140).map(|n| format!("user:{n}:profile").into_bytes());
    let lengths = (0..=64_u8).map(|length| (0..length).map(|byte| byte.wrapping_mul(37)).collect());
    let long = [128, 129, 240, 241, 250].map(|length| vec![b'k'; length]);
    named.chain(lengths).chain(long).collect()
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if digits.is_empty() { "-".to_owned() } else { digits }
}

fn key_line(key: &[u8]) -> String {
    let hash = hash_key(key);
    let shards = [1, 4, 7, 64].map(|shards| shard_of(hash, shards).to_string()).join(" ");
    format!("key {} {hash:016x} {} {shards}", hex(key), partition_of(hash).index())
}

fn ring_lines(replicas: usize, shape: &[(u16, u16)]) -> String {
    let slots: Vec<_> = shape
        .iter()
        .map(|&(weight, zone)| Slot { weight: Weight::new(weight), zone: ZoneId(zone) })
        .collect();
    let table = PartitionTable::build(&slots, replicas);
    let names: Vec<_> = shape.iter().map(|(weight, zone)| format!("{weight}/{zone}")).collect();
    let mut lines = format!("ring {replicas} {}\n", names.join(" "));
    for partition in PartitionId::all().step_by(1_023) {
        let owners: Vec<_> = table.owners(partition).iter().map(|SlotId(slot)| slot.to_string()).collect();
        lines += &format!("owners {} {}\n", partition.index(), owners.join(" "));
    }
    let all: Vec<u8> = PartitionId::all()
        .flat_map(|p| table.owners(p))
        .flat_map(|SlotId(slot)| slot.to_le_bytes())
        .collect();
    lines + &format!("table {:016x}\n", hash_key(&all))
}

fn vectors() -> String {
    let mut text = HEADER.to_owned();
    for seed in (1..=20).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
        text += &format!("mix {seed:016x} {:016x}\n", mix(seed));
        for buckets in [1, 2, 10, 1_000] {
            text += &format!("jump {seed:016x} {buckets} {}\n", jump(seed, buckets));
        }
    }
    for key in keys() {
        text += &(key_line(&key) + "\n");
    }
    for (replicas, shape) in rings() {
        text += &ring_lines(replicas, &shape);
    }
    text
}

fn golden_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/placement.txt")
}

#[test]
fn placement_is_what_it_has_always_been() {
    let golden = std::fs::read_to_string(golden_path()).expect("the vectors are part of the crate");
    let now = vectors();
    for (number, (expected, got)) in golden.lines().zip(now.lines()).enumerate() {
        assert_eq!(expected, got, "golden/placement.txt:{}", number + 1);
    }
    assert_eq!(golden.lines().count(), now.lines().count());
}

#[test]
#[ignore = "writes golden/placement.txt anew: only when the ring's contract changes on purpose"]
fn write_the_vectors() {
    std::fs::write(golden_path(), vectors()).expect("the crate's folder can be written");
}
