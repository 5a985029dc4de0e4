//! What a shard still holds of partitions that others have owned meanwhile, and how it goes. Keys of partitions that stayed here
//! are not touched.

use slabring_cluster::placement::{PARTITION_COUNT, hash_key, partition_of};
use slabring_cluster::ring::partitions::PartitionSet;
use slabring_engine::{GROUPS, Shard};

const _: () = assert!(PARTITION_COUNT == GROUPS as usize);

/// What must go before a shard executes anything.
#[derive(Debug)]
pub enum Old {
    /// All that it holds.
    Everything,
    /// What it holds of these partitions.
    Of(PartitionSet),
}

impl Old {
    /// Of a node that owns `owned` now, `regained` among them, if that is any. Without CAS items do not tell when they were stored.
    pub fn new(regained: PartitionSet, owned: &PartitionSet, have_cas: bool) -> Option<Self> {
        if regained.is_empty() {
            return None;
        }
        Some(if have_cas && regained != *owned { Self::Of(regained) } else { Self::Everything })
    }

    /// Makes it a miss. O(partitions).
    pub fn drop_from(&self, shard: &mut Shard) {
        match self {
            Self::Everything => shard.flush(),
            Self::Of(partitions) => {
                for partition in partitions.iter() {
                    let group = u16::try_from(partition.index()).expect("14 bits fit");
                    shard.flush_group(group, group_of);
                }
            }
        }
    }
}

/// The engine's groups are the ring's partitions.
pub fn group_of(key: &[u8]) -> u16 {
    u16::try_from(partition_of(hash_key(key)).index()).expect("14 bits fit")
}

#[cfg(test)]
mod tests {
    use slabring_cluster::placement::PartitionId;
    use slabring_engine::{Config, Expiry, Seconds, Store};

    use super::*;

    const NOW: Seconds = Seconds(1_700_000_000);
    const KEYS: usize = 1_000;

    fn set_of(wanted: impl Fn(usize) -> bool) -> PartitionSet {
        let mut set = PartitionSet::default();
        PartitionId::all().filter(|partition| wanted(partition.index())).for_each(|partition| {
            set.insert(partition);
        });
        set
    }

    /// The keys that are left of many when what is old has gone.
    fn left(old: &Old) -> Vec<String> {
        let mut shard = Shard::new(&Config::with_memory(16 << 20)).unwrap();
        let mut keys: Vec<_> = (0..KEYS).map(|n| format!("key{n}")).collect();
        for key in &keys {
            shard.store(NOW, &Store::set(key.as_bytes(), b"value", Expiry::Never));
        }
        old.drop_from(&mut shard);
        keys.retain(|key| shard.peek(NOW, key.as_bytes()).is_some());
        keys
    }

    #[test]
    fn keys_of_partitions_that_stayed_are_still_there() {
        let (regained, owned) = (set_of(|n| n % 3 == 0), set_of(|_| true));
        let left = left(&Old::new(regained.clone(), &owned, true).unwrap());
        let stayed = |n: &usize| !regained.contains(partition_of(hash_key(format!("key{n}").as_bytes())));
        assert_eq!(left, (0..KEYS).filter(stayed).map(|n| format!("key{n}")).collect::<Vec<_>>());
        assert!((KEYS / 2..KEYS * 4 / 5).contains(&left.len()), "{}", left.len());
    }

    #[test]
    fn everything_goes_where_nothing_stayed_and_where_items_do_not_tell_when_they_were_stored() {
        let (regained, owned) = (set_of(|n| n % 3 == 0), set_of(|_| true));
        assert!(left(&Old::new(regained.clone(), &owned, false).unwrap()).is_empty());
        assert!(left(&Old::new(regained.clone(), &regained, true).unwrap()).is_empty());
        assert!(Old::new(PartitionSet::default(), &owned, true).is_none());
    }
}
