//! What replication asks of whatever keeps the items. Never how items are kept.
//!
//! The engine's shard can be one: a version is the explicit CAS of a store, [`Store::scan`] is its walk by hashes, and a flushed
//! partition is a floor under the shard's own sequence of stores, compared when an item is found.

use std::sync::Arc;

use crate::placement::{PartitionId, partition_of};
use crate::replica::{Fences, Version};
use crate::time::Micros;

/// Bytes of a key or a value: whoever keeps them shares them.
pub type Bytes = Arc<[u8]>;

/// The state of one key: what is replicated, rather than the operation that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// 1 to 250 bytes.
    pub key: Bytes,
    /// [`crate::placement::hash_key`] of the key.
    pub hash: u64,
    /// Which state of the key it is.
    pub version: Version,
    /// The item; `None`: the key was deleted.
    pub content: Option<Content>,
}

impl Record {
    /// The partition of its key.
    pub fn partition(&self) -> PartitionId {
        partition_of(self.hash)
    }
}

/// A state of one key by what was put to the value of another one: what is said of an append to who has that. Client flags, marks and
/// death stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// As in a [`Record`].
    pub key: Bytes,
    /// As in a [`Record`].
    pub hash: u64,
    /// Which state it comes to.
    pub version: Version,
    /// Which state it begins with. There is no state 0.
    pub base: Version,
    /// Where the bytes go.
    pub side: Side,
    /// What is put there.
    pub bytes: Bytes,
}

/// The end of a value that something is put to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before the first byte.
    Front,
    /// Behind the last one.
    Back,
}

impl Delta {
    /// The state that it comes to, where `found` is what a store holds: the state that it begins with, or already the one that it comes to.
    /// Anything else is no item: what it begins with has been evicted.
    pub(crate) fn whole(&self, found: Option<Record>) -> Record {
        let Self { key, hash, version, .. } = self;
        let content = found.and_then(|found| match found {
            Record { version, content, .. } if version == self.version => content,
            Record { version, content: Some(content), .. } if version == self.base => {
                let value = match self.side {
                    Side::Front => [&self.bytes[..], &content.value].concat(),
                    Side::Back => [&content.value[..], &self.bytes].concat(),
                };
                Some(Content { value: value.into(), ..content })
            }
            _ => None,
        });
        Record { key: Bytes::clone(key), hash: *hash, version: *version, content }
    }
}

/// An item but for its key and version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The value.
    pub value: Bytes,
    /// The client's flags.
    pub client_flags: u32,
    /// What else the server keeps of an item, one bit each: its own business.
    pub marks: u8,
    /// When it dies by this node's clock. Other nodes are told the time that is left.
    pub dies_at: Option<Micros>,
}

/// Those keys of a partition that one shard of a source can have: `[first, last]` of a hash's low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// The lowest.
    pub first: u32,
    /// The highest.
    pub last: u32,
}

impl Portion {
    /// All of them.
    pub const ALL: Self = Self { first: 0, last: u32::MAX };

    /// What shard `shard` of `shards` has.
    pub fn of_shard(shard: u16, shards: u16) -> Self {
        assert!(shard < shards, "shard {shard} of {shards}");
        let start = |shard: u16| (u64::from(shard) << u32::BITS).div_ceil(u64::from(shards));
        let low = |bound: u64| u32::try_from(bound).expect("below 2^32: the shard is one of them");
        Self { first: low(start(shard)), last: low(start(shard + 1) - 1) }
    }

    /// Whether a hash is in it.
    pub fn contains(self, hash: u64) -> bool {
        let low = hash & u64::from(u32::MAX);
        (u64::from(self.first)..=u64::from(self.last)).contains(&low)
    }

    /// Whether a hash can be in both.
    pub fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// How far a walk over a store came: the store's own number, 0 before the first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u64);

/// The items of one shard. It may drop any item at any time.
pub trait Store {
    /// The version of a live item.
    fn version(&self, now: Micros, hash: u64, key: &[u8]) -> Option<Version>;

    /// A live item.
    fn read(&self, now: Micros, hash: u64, key: &[u8]) -> Option<Record>;

    /// Makes the key's state this one, whatever it was.
    fn apply(&mut self, now: Micros, record: &Record);

    /// Makes the key's state what a delta comes to, if it is the state that the delta begins with. False: it is another one, or there is no
    /// room; then the key has none.
    fn extend(&mut self, now: Micros, delta: &Delta) -> bool;

    /// Drops the items of a partition. In constant time when the portion is [`Portion::ALL`] or all that this shard has.
    fn flush(&mut self, partition: PartitionId, portion: Portion);

    /// Shows live items whose hashes are wanted and moves the cursor, a bounded step: some hundred items, wanted or not. True: there
    /// is more. A wanted key that is there from before the first step until after the last is shown.
    fn scan(
        &self,
        now: Micros,
        cursor: &mut Cursor,
        wants: &dyn Fn(u64) -> bool,
        show: &mut dyn FnMut(Record),
    ) -> bool;

    /// All fences of keys whose hashes are wanted, and the floor of the others. A store without fences knows none.
    fn fences(&self, _is_wanted: &dyn Fn(u64) -> bool) -> Fences {
        Fences::default()
    }

    /// Lets no key be written under less than this.
    fn raise_fences(&mut self, _fences: &Fences) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::shard_of;

    #[test]
    fn a_portion_is_what_the_shard_has() {
        for shards in [1_u16, 2, 3, 7, 256] {
            let portions: Vec<_> = (0..shards).map(|shard| Portion::of_shard(shard, shards)).collect();
            assert_eq!((portions[0].first, portions[usize::from(shards) - 1].last), (0, u32::MAX));
            for (shard, portion) in (0..).zip(&portions) {
                for low in [portion.first, portion.last] {
                    assert_eq!(shard_of(u64::from(low), shards), shard, "{low} of {shards}");
                    assert!(portion.contains(7 << 40 | u64::from(low)));
                }
            }
        }
        assert!(!Portion::of_shard(0, 2).meets(Portion::of_shard(1, 2)));
        assert!(Portion::of_shard(1, 3).meets(Portion::of_shard(0, 2)));
    }
}
