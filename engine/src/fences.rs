//! Fences: the highest number that a key was written under. Who writes under a lower one has lost its lock to somebody and does
//! not know. A bounded table that outlives the items; never accepts a fence below one that it has seen for the key.

use bytemuck::{Pod, Zeroable};
use xxhash_rust::xxh3::xxh3_64;

use crate::shard::Shard;

/// Keys that a bucket knows one by one.
const WAYS: usize = 7;
/// Of the budget, one part in so many goes to the table once a fence is seen.
const BUDGET_SHARE: usize = 128;
const BUCKETS_MIN: usize = 16;
/// 1 MiB, 57 344 keys.
const BUCKETS_MAX: usize = 8192;
/// What stands for no key.
const FREE: u64 = 0;

const _: () = assert!(size_of::<Bucket>() == 128);
const _: () = assert!(BUCKETS_MIN.is_power_of_two() && BUCKETS_MAX.is_power_of_two());

/// Keys whose hashes fall together.
///
/// | bytes | |
/// |---|---|
/// | 0..8 | `floor`: what a key without a place of its own must reach |
/// | 8..64 | `keys`: hashes, 0 where there is none |
/// | 64..120 | `fences`: the highest that each was written under |
/// | 120..128 | nothing |
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Bucket {
    floor: u64,
    keys: [u64; WAYS],
    fences: [u64; WAYS],
    unused: u64,
}

/// The fences of one shard. No memory before the first.
#[derive(Default, Debug)]
pub(crate) struct Fences {
    buckets: Vec<Bucket>,
}

impl Bucket {
    /// The place of a key, or else a free one.
    fn find(&self, key: u64) -> Option<usize> {
        self.keys.iter().position(|&known| known == key)
    }

    fn admit(&mut self, key: u64, fence: u64) -> bool {
        if let Some(at) = self.find(key) {
            let is_admitted = fence >= self.fences[at];
            self.fences[at] = self.fences[at].max(fence);
            return is_admitted;
        }
        if fence < self.floor {
            return false;
        }
        self.enter(key, fence);
        true
    }

    /// Gives a key a place. If there is none, the key with the lowest fence is forgotten, and every key without a place has to reach
    /// that fence from then on.
    fn enter(&mut self, key: u64, fence: u64) {
        let at = self.find(FREE).unwrap_or_else(|| self.lowest());
        let (forgotten, its_fence) = (self.keys[at], self.fences[at]);
        if forgotten != FREE && fence <= its_fence {
            self.floor = self.floor.max(fence);
            return;
        }
        if forgotten != FREE {
            self.floor = self.floor.max(its_fence);
        }
        (self.keys[at], self.fences[at]) = (key, fence);
    }

    fn lowest(&self) -> usize {
        (0..WAYS).min_by_key(|&at| self.fences[at]).expect("there are ways")
    }
}

impl Fences {
    /// Bytes of the table.
    pub(crate) fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    /// What another process needs to go on, for [`Fences::restore`].
    pub(crate) fn remembered(&self) -> &[u8] {
        bytemuck::cast_slice(&self.buckets)
    }

    /// The table that was [remembered](Fences::remembered), or none if these bytes are not one.
    pub(crate) fn restore(bytes: &[u8]) -> Option<Fences> {
        let buckets: Vec<Bucket> =
            bytes.chunks_exact(size_of::<Bucket>()).map(bytemuck::pod_read_unaligned).collect();
        let is_whole = buckets.len() * size_of::<Bucket>() == bytes.len();
        let is_table = buckets.is_empty() || buckets.len().is_power_of_two() && buckets.len() <= BUCKETS_MAX;
        (is_whole && is_table).then_some(Fences { buckets })
    }

    fn make_room(&mut self, memory_bytes: usize) {
        if self.buckets.is_empty() {
            let wanted = memory_bytes / BUDGET_SHARE / size_of::<Bucket>();
            let buckets = 1 << wanted.clamp(BUCKETS_MIN, BUCKETS_MAX).ilog2();
            self.buckets = vec![Bucket::zeroed(); buckets];
        }
    }

    fn admit(&mut self, hash: u64, fence: u64, memory_bytes: usize) -> bool {
        self.make_room(memory_bytes);
        let mask = self.buckets.len() as u64 - 1;
        let at = usize::try_from(hash & mask).expect("there are at most 8192");
        self.buckets[at].admit(hash.max(FREE + 1), fence)
    }

    fn of(&self, hash: u64) -> Option<u64> {
        let mask = (self.buckets.len() as u64).checked_sub(1)?;
        let bucket = &self.buckets[usize::try_from(hash & mask).expect("there are at most 8192")];
        bucket.find(hash.max(FREE + 1)).map(|at| bucket.fences[at])
    }

    /// The highest of the floors.
    fn floor(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.floor).max().unwrap_or(0)
    }

    fn known(&self) -> impl Iterator<Item = (u64, u64)> {
        let all = self.buckets.iter().flat_map(|bucket| bucket.keys.into_iter().zip(bucket.fences));
        all.filter(|(key, _)| *key != FREE)
    }
}

impl Shard {
    /// Whether a key may be written under this fence: no higher one was seen for it, stored or not, evicted or flushed since. If so,
    /// it is the lowest that may from here on.
    ///
    /// The table holds up to 57 344 keys in a hundred-and-twenty-eighth of the budget, taken at the first call. Beyond that the key with
    /// the lowest fence among seven that fall together is forgotten, and keys that are not known there must reach it: a fence may
    /// be refused that was the highest of its key, none is admitted that is not. O(1), one cache miss, and none of it is
    /// lost by [`Shard::persist`].
    pub fn admit_fence(&mut self, key: &[u8], fence: u64) -> bool {
        self.fences.admit(xxh3_64(key), fence, self.memory_bytes)
    }

    /// The highest fence that a key is known to have been written under. O(1).
    pub fn fence_of(&self, key: &[u8]) -> Option<u64> {
        self.fences.of(xxh3_64(key))
    }

    /// What another shard must know that takes keys over: the hashes of keys with their fences, and what keys that are not among them
    /// must reach. A walk over the whole table.
    pub fn known_fences(&self) -> (u64, impl Iterator<Item = (u64, u64)>) {
        (self.fences.floor(), self.fences.known())
    }

    /// Lets the key of this XXH3 hash not be written under less. As [`Shard::admit_fence`] of a key that is not at hand.
    pub fn raise_fence(&mut self, hash: u64, fence: u64) {
        self.fences.admit(hash, fence, self.memory_bytes);
    }

    /// Lets no key be written under less, unless the key's own fence is known. A walk over the whole table.
    pub fn raise_fence_floor(&mut self, floor: u64) {
        if floor > 0 {
            self.fences.make_room(self.memory_bytes);
            self.fences.buckets.iter_mut().for_each(|bucket| bucket.floor = bucket.floor.max(floor));
        }
    }

    /// Bytes that fences take, beside the budget.
    pub fn fence_bytes(&self) -> usize {
        self.fences.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::Config;

    fn shard() -> Shard {
        Shard::new(&Config::with_memory(1 << 20)).unwrap()
    }

    #[test]
    fn a_lower_fence_is_refused_and_an_equal_one_is_the_same_holder() {
        let mut shard = shard();
        assert_eq!(shard.fence_bytes(), 0);
        assert!(shard.admit_fence(b"k", 5) && shard.admit_fence(b"k", 5));
        assert!(!shard.admit_fence(b"k", 4));
        assert!(shard.admit_fence(b"other", 1));
        assert!(shard.admit_fence(b"k", 6) && !shard.admit_fence(b"k", 5));
        assert!(shard.fence_bytes() <= (1 << 20) / BUDGET_SHARE);
    }

    /// Against a map without bounds: however many keys there are, nothing is admitted that the map refuses, and while there
    /// are few nothing is refused that it admits.
    #[test]
    fn nothing_is_admitted_that_an_unbounded_map_refuses() {
        for seed in 0..20 {
            let mut random = SmallRng::seed_from_u64(seed);
            let keys = *[3_u64, 40, 4000].get(usize::try_from(seed % 3).unwrap()).unwrap();
            let (mut shard, mut twin) = (shard(), BTreeMap::<u64, u64>::new());
            let mut refused_for_nothing = 0;
            for _ in 0..20_000 {
                let (key, fence) = (random.random_range(0..keys), random.random_range(0..1_000_u64));
                let floor = twin.entry(key).or_default();
                let is_admitted = shard.admit_fence(&key.to_le_bytes(), fence);
                assert!(!is_admitted || fence >= *floor, "seed {seed}, key {key}: {fence} below {floor}");
                refused_for_nothing += usize::from(!is_admitted && fence >= *floor);
                if is_admitted {
                    *floor = fence;
                }
            }
            assert!(keys > 3 || refused_for_nothing == 0, "seed {seed}: {refused_for_nothing}");
        }
    }

    #[test]
    fn fences_of_one_counter_are_refused_only_when_they_are_older_than_seven_others() {
        let mut shard = shard();
        for fence in 1..100_000_u64 {
            assert!(shard.admit_fence(&(fence % 3000).to_le_bytes(), fence), "{fence}");
        }
    }

    /// Whatever the sizes of both tables: what one refused the other refuses that was told of it.
    #[test]
    fn who_takes_keys_over_refuses_what_the_one_before_refused() {
        for seed in 0..10 {
            let mut random = SmallRng::seed_from_u64(seed);
            let (mut one, mut other) = (shard(), Shard::new(&Config::with_memory(8 << 20)).unwrap());
            let mut seen = BTreeMap::<u64, u64>::new();
            for _ in 0..20_000 {
                let (key, fence) = (random.random_range(0..4_000_u64), random.random_range(0..1_000_u64));
                if one.admit_fence(&key.to_le_bytes(), fence) {
                    seen.insert(key, fence);
                }
            }
            let (floor, known) = one.known_fences();
            let known: Vec<_> = known.collect();
            assert!(floor > 0 && !known.is_empty());
            other.raise_fence_floor(floor);
            known.iter().for_each(|&(hash, fence)| other.raise_fence(hash, fence));
            for (key, fence) in seen {
                let key = key.to_le_bytes();
                assert!(one.fence_of(&key).is_none_or(|known| known == fence));
                assert!(fence == 0 || !other.admit_fence(&key, fence - 1), "seed {seed}");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_restored_and_anything_else_is_not() {
        let mut shard = shard();
        (0..100_u64).for_each(|key| assert!(shard.admit_fence(&key.to_le_bytes(), 7)));
        let remembered = shard.fences.remembered().to_vec();
        shard.fences = Fences::restore(&remembered).unwrap();
        assert!((0..100_u64).all(|key| !shard.admit_fence(&key.to_le_bytes(), 6)));
        assert!(Fences::restore(&remembered[1..]).is_none());
        assert!(Fences::restore(&remembered[..3 * size_of::<Bucket>()]).is_none());
        assert!(Fences::restore(&[]).is_some());
    }
}
