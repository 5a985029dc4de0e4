//! From a key to its hash, its partition and its shard. Never knows which machines there are.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Seed of the placement hash. Part of the ring's contract: clients that route by themselves use it too.
pub const HASH_SEED: u64 = 0;

/// Bits of a hash that choose the partition: the top ones.
pub const PARTITION_BITS: u32 = 14;

/// Partitions of a ring: the unit of ownership and of movement.
pub const PARTITION_COUNT: usize = 1 << PARTITION_BITS;

/// Bits of a hash that choose the shard inside a machine: the low ones.
const SHARD_BITS: u32 = 32;

// Independent bits: a hot partition still spreads over every shard of its machine.
const _: () = assert!(PARTITION_BITS + SHARD_BITS <= u64::BITS);
const _: () = assert!(PARTITION_BITS <= u16::BITS);

/// A partition: `0..PARTITION_COUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(u16);

impl PartitionId {
    /// Names partition `index`, which must be below [`PARTITION_COUNT`].
    pub fn new(index: u16) -> Self {
        assert!(usize::from(index) < PARTITION_COUNT, "a ring has {PARTITION_COUNT} partitions, not {index}");
        Self(index)
    }

    /// The partition's number: `0..PARTITION_COUNT`.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Every partition, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u16::MAX).take(PARTITION_COUNT).map(Self)
    }
}

/// Hashes a key for placement: XXH3-64 with [`HASH_SEED`]. Any bytes, any length; about 5 ns for a short key.
///
/// Its output is fixed since xxHash 0.8 and the same on every processor. The seed is not a secret,
/// so a table keyed by this hash alone would let a client build collision chains.
#[inline]
pub fn hash_key(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, HASH_SEED)
}

/// The partition of a hash: its top [`PARTITION_BITS`] bits.
#[inline]
pub fn partition_of(hash: u64) -> PartitionId {
    let top = hash >> (u64::BITS - PARTITION_BITS);
    PartitionId(u16::try_from(top).expect("14 bits fit 16"))
}

/// The shard of a hash inside a machine of `shards` shards: `0..shards`, from the low 32 bits.
///
/// `shards` must not be zero. One multiplication, no division.
#[inline]
pub fn shard_of(hash: u64, shards: u16) -> u16 {
    assert!(shards > 0, "a machine has at least one shard");
    let low = hash & u64::from(u32::MAX);
    let shard = (low * u64::from(shards)) >> SHARD_BITS;
    u16::try_from(shard).expect("below `shards`, since `low` is below 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_is_the_published_xxh3() {
        // Values of the reference implementation: `xxhsum -H3`.
        assert_eq!(hash_key(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(hash_key(b"abc"), 0x78af_5f94_892f_3950);
    }

    #[test]
    fn a_partition_is_the_top_bits_and_a_shard_the_low_ones() {
        assert_eq!(partition_of(0), PartitionId::new(0));
        assert_eq!(partition_of(u64::MAX).index(), PARTITION_COUNT - 1);
        assert_eq!(partition_of(1 << 50), PartitionId::new(1));
        assert_eq!(shard_of(u64::MAX << 32, 7), 0);
        assert_eq!(shard_of(0xffff_ffff, 7), 6);
        assert_eq!(shard_of(0x8000_0000, 2), 1);
        assert_eq!(PartitionId::all().count(), PARTITION_COUNT);
    }

    #[test]
    fn one_partition_is_spread_evenly_over_the_shards() {
        const SHARDS: u16 = 8;
        let mut counts = [0_u32; SHARDS as usize];
        let hashes = (0..2_000_000_u32).map(|n| hash_key(&n.to_le_bytes()));
        for hash in hashes.filter(|&hash| partition_of(hash).index() < 16) {
            counts[usize::from(shard_of(hash, SHARDS))] += 1;
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(f64::from(*most) / f64::from(*least) < 1.3, "{counts:?}");
    }

    proptest! {
        #[test]
        fn every_hash_has_a_shard_and_a_partition(hash: u64, shards in 1_u16..) {
            prop_assert!(shard_of(hash, shards) < shards);
            prop_assert!(partition_of(hash).index() < PARTITION_COUNT);
        }
    }
}
