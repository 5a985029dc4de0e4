//! What was evicted lately, for a caller who wants to know: kept in order until it is taken, up to a bound. Nobody pays
//! for it but who asked, and one branch an eviction.

use crate::arena::Location;
use crate::expiry::{Expiry, Seconds};
use crate::header::Header;
use crate::shard::Shard;
use crate::slab::ClassId;

/// Evictions that are kept. Taken after every operation it never comes to this.
const EVICTIONS_MAX: usize = 1024;

/// An item that was evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EvictedItem<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Whether any get ever hit it.
    pub fetched: bool,
    /// When it would have been dead.
    pub expiry: Expiry,
    /// Seconds since the last access.
    pub idle_seconds: u32,
    /// Size class of its head.
    pub class: ClassId,
    /// Bytes of its value.
    pub value_len: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    keys: Vec<u8>,
    items: Vec<(Header, ClassId, usize)>,
    lost: u64,
}

impl Shard {
    /// Begins or ends to keep what is evicted. Costs a copy of the key for each.
    pub fn keep_evicted(&mut self, wanted: bool) {
        match (wanted, &self.evicted) {
            (true, None) => self.evicted = Some(Box::default()),
            (true, Some(_)) => {}
            (false, _) => self.evicted = None,
        }
    }

    /// Shows what was evicted since the last call, in order, and forgets it. Returns how many there were no room for.
    pub fn take_evicted(&mut self, now: Seconds, mut show: impl FnMut(&EvictedItem<'_>)) -> u64 {
        let Some(evicted) = &mut self.evicted else { return 0 };
        let mut keys = &evicted.keys[..];
        for (header, class, value_len) in evicted.items.drain(..) {
            let (key, rest) = keys.split_at(header.key_len());
            keys = rest;
            show(&EvictedItem {
                key,
                fetched: header.is_fetched(),
                expiry: header.expiry(),
                idle_seconds: header.idle_seconds(now),
                class,
                value_len,
            });
        }
        evicted.keys.clear();
        std::mem::take(&mut evicted.lost)
    }

    /// Keeps an item that is about to go.
    #[cold]
    pub(crate) fn note_evicted(&mut self, item: Location) {
        let head = self.arena.head(item);
        let class = self.slabs.class_of(item);
        let Some(evicted) = &mut self.evicted else { return };
        if evicted.items.len() == EVICTIONS_MAX {
            evicted.lost += 1;
            return;
        }
        evicted.keys.extend_from_slice(self.arena.key(item));
        evicted.items.push((head.header, class, head.value_len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::store::Store;

    const NOW: Seconds = Seconds(1_700_000_000);

    fn fill(shard: &mut Shard) {
        for item in 0..20_000 {
            shard.store(NOW, &Store::set(format!("key{item}").as_bytes(), &[b'v'; 100], Expiry::Never));
        }
    }

    #[test]
    fn what_is_evicted_is_told_once_and_is_not_there_any_more() {
        let mut shard = Shard::new(&Config { hash_seed: Some(1), ..Config::with_memory(1 << 20) }).unwrap();
        shard.keep_evicted(true);
        fill(&mut shard);
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let lost = shard.take_evicted(NOW, |item| {
            assert!(!item.fetched && item.value_len == 100 && item.idle_seconds == 0);
            keys.push(item.key.to_vec());
        });
        assert_eq!(keys.len() as u64 + lost, shard.counters().evictions);
        assert!(keys.len() == EVICTIONS_MAX && keys.iter().all(|key| shard.peek(NOW, key).is_none()));
        assert_eq!(shard.take_evicted(NOW, |_| panic!("taken already")), 0);
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let mut shard = Shard::new(&Config::with_memory(1 << 20)).unwrap();
        fill(&mut shard);
        assert_eq!(shard.take_evicted(NOW, |_| panic!("nobody asked")), 0);
        shard.keep_evicted(true);
        shard.keep_evicted(false);
        fill(&mut shard);
        assert!(shard.counters().evictions > 0 && shard.evicted.is_none());
    }
}
