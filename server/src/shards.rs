//! Which shard of this node owns a key.

use slabring_cluster::placement::{hash_key, shard_of};

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
    /// The owner of `key`. A node of one shard does not even hash it.
    pub fn owner_of(self, key: &[u8]) -> ShardId {
        if self.count == 1 { self.me } else { ShardId(shard_of(hash_key(key), self.count)) }
    }
}
