//! Which shard of this node owns a key.

use slabring_cluster::placement::{hash_key, shard_of};

/// Lower numbers are for listeners.
const CONNECTION_NUMBER_MIN: u32 = 16;

/// A shard's number in its node, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

impl ShardId {
    /// For tables with one place per shard.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The shards of this node.
#[derive(Clone, Copy, Debug)]
pub struct Shards {
    /// How many, at least 1.
    pub count: u16,
    /// The one of this thread.
    pub me: ShardId,
}

impl Shards {
    /// The number by which people know a connection of a shard: no two of the node have the same at a time.
    #[inline]
    pub fn connection_number(self, shard: ShardId, slot: u32) -> u32 {
        slot.wrapping_mul(u32::from(self.count))
            .wrapping_add(u32::from(shard.0))
            .wrapping_add(CONNECTION_NUMBER_MIN)
    }

    /// The owner of a key of this hash.
    pub fn owner_by(self, hash: u64) -> ShardId {
        ShardId(shard_of(hash, self.count))
    }

    /// The owner of `key`. A node of one shard does not even hash it.
    pub fn owner_of(self, key: &[u8]) -> ShardId {
        if self.count == 1 { self.me } else { ShardId(shard_of(hash_key(key), self.count)) }
    }
}
