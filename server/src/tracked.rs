//! The keys that clients keep copies of, and who: a bounded table of one shard. A key that has to make room for another is told as
//! if it had changed. No I/O, no protocol.

use std::collections::HashMap;

use slabring_protocol::{KEY_SIZE_MAX, TRACKERS_MAX};

/// Of a shard's memory, one part in so many goes to the table once a key is tracked.
const MEMORY_SHARE: usize = 32;
const KEYS_MIN: usize = 64;
const KEYS_MAX: usize = 64 << 10;
/// Places of the index for each key: less than half full, a hash table is put in order where it lies and never grows.
const INDEX_PLACES: usize = 2;
const WORDS: usize = TRACKERS_MAX / 64;

const _: () = assert!(TRACKERS_MAX.is_multiple_of(64));
const _: () = assert!(size_of::<Slot>() == 296);

/// Places of trackers in their table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Places([u64; WORDS]);

/// One key.
#[derive(Clone, Debug)]
struct Slot {
    hash: u64,
    places: Places,
    /// 0: the slot is free.
    len: u8,
    key: [u8; KEY_SIZE_MAX],
}

/// See the module. No memory before the first key.
#[derive(Debug)]
pub struct Tracked {
    slots: Vec<Slot>,
    /// Slots by the hash of their key.
    index: HashMap<u64, u32>,
    /// The slot that is taken next, in use or not: the oldest.
    next: usize,
    keys_max: usize,
}

impl Places {
    fn insert(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    /// Those in it.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..WORDS).flat_map(move |word| {
            let mut bits = self.0[word];
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits.checked_sub(1)?;
                Some(word * 64 + bit)
            })
        })
    }
}

impl Slot {
    fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.len)]
    }
}

impl Tracked {
    /// A table for a shard of so much memory.
    pub fn new(memory_bytes: usize) -> Self {
        let keys_max = (memory_bytes / MEMORY_SHARE / size_of::<Slot>()).clamp(KEYS_MIN, KEYS_MAX);
        Self { slots: Vec::new(), index: HashMap::new(), next: 0, keys_max }
    }

    /// Keys in it.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * (size_of::<Slot>() + INDEX_PLACES * size_of::<(u64, u32)>())
    }

    /// Takes note that the tracker in this place has a copy of a key. `tell` is called for the key that has to go for it.
    pub fn insert(&mut self, hash: u64, key: &[u8], place: usize, tell: impl FnOnce(&[u8], Places)) {
        if self.slots.capacity() == 0 {
            self.slots.reserve_exact(self.keys_max);
            self.index.reserve(INDEX_PLACES * self.keys_max);
        }
        let at = match self.index.get(&hash) {
            Some(&at) => at as usize,
            None => self.next_slot(),
        };
        let slot = &mut self.slots[at];
        if slot.len > 0 && (slot.hash != hash || slot.key() != key) {
            self.index.remove(&slot.hash);
            tell(slot.key(), slot.places);
            slot.len = 0;
        }
        if slot.len == 0 {
            slot.hash = hash;
            slot.places = Places::default();
            slot.len = u8::try_from(key.len()).expect("a key has at most 250 bytes");
            slot.key[..key.len()].copy_from_slice(key);
            let at = u32::try_from(at).expect("there are at most 65536");
            self.index.insert(hash, at);
        }
        slot.places.insert(place);
    }

    /// Who has a copy of a key. From here on nobody has.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Places> {
        let at = *self.index.get(&hash)? as usize;
        let slot = &mut self.slots[at];
        if slot.key() != key {
            return None;
        }
        slot.len = 0;
        self.index.remove(&hash);
        Some(slot.places)
    }

    /// Nobody has a copy of anything.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.index.clear();
        self.next = 0;
    }

    fn next_slot(&mut self) -> usize {
        let at = self.next;
        if at == self.slots.len() {
            self.slots.push(Slot { hash: 0, places: Places::default(), len: 0, key: [0; KEY_SIZE_MAX] });
        }
        self.next = (at + 1) % self.keys_max;
        at
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn table() -> Tracked {
        Tracked::new(0)
    }

    fn all(places: Places) -> BTreeSet<usize> {
        places.iter().collect()
    }

    #[test]
    fn places_are_a_set() {
        let mut places = Places::default();
        for place in [0, 63, 64, 255, 63] {
            places.insert(place);
        }
        assert_eq!(places.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
    }

    /// Against a map without bounds: a copy is forgotten only after it was told.
    #[test]
    fn no_copy_is_forgotten_that_was_not_told() {
        for seed in 0..50_u64 {
            let mut state = seed * 2 + 1;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let (mut tracked, mut twin) = (table(), BTreeMap::<Vec<u8>, BTreeSet<usize>>::new());
            for _ in 0..5_000 {
                let key = format!("key-{}", random(200)).into_bytes();
                // Few hashes, so that keys collide.
                let hash =
                    u64::from(key.iter().fold(7_u32, |hash, &byte| hash * 31 % 1009 + u32::from(byte)));
                if random(3) == 0 {
                    let told = tracked.remove(hash, &key).map(all).unwrap_or_default();
                    assert_eq!(told, twin.remove(&key).unwrap_or_default(), "seed {seed}");
                } else {
                    let place = usize::try_from(random(256)).unwrap();
                    tracked.insert(hash, &key, place, |gone, places| {
                        assert_eq!(twin.remove(gone), Some(all(places)), "seed {seed}");
                    });
                    twin.entry(key).or_default().insert(place);
                }
                assert_eq!(tracked.len(), twin.len(), "seed {seed}");
                assert!(tracked.len() <= KEYS_MIN);
            }
        }
    }

    #[test]
    fn the_table_takes_nothing_before_its_first_key_and_never_grows_after_it() {
        let index_places = |tracked: &Tracked| tracked.index.capacity();
        let mut tracked = Tracked::new(64 << 20);
        assert_eq!(tracked.bytes(), 0);
        tracked.insert(1, b"k", 0, |_, _| {});
        let bytes = tracked.bytes();
        assert!(bytes < 3 << 20, "{bytes}");
        let places = index_places(&tracked);
        for n in 0..20_000_u64 {
            tracked.insert(n << 7, &n.to_le_bytes(), 0, |_, _| {});
        }
        assert!(tracked.bytes() == bytes && index_places(&tracked) <= places);
        tracked.clear();
        assert_eq!((tracked.len(), tracked.bytes()), (0, bytes));
    }
}
