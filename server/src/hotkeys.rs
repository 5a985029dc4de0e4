//! The keys that a shard is asked for most, from a sample of its requests. Allocates nothing after the start; knows no clock.
//!
//! Source: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams" (2005): of the keys
//! that were sampled more often than one 64th of the samples none is missing, and a count is too high by its error at most.

use slabring_protocol::{KEY_SIZE_MAX, reply};

use crate::attention::SAMPLED_OF;
use crate::shards::ShardId;

/// Keys that a shard counts, and that a client is shown.
pub const HOT_KEYS_MAX: usize = 64;
/// A key that was sampled less often in a second may be there by chance.
const SAMPLES_MIN: u32 = 2;

/// A key is hot that has one of so many of its shard's requests: 5 %.
const HOT_PART: u32 = 20;
/// What another node may say at once that it answered.
const READS_MAX: u32 = 1 << 20;
/// And that was sampled so often: some hundred requests a second.
const HOT_SAMPLES_MIN: u32 = 8;

/// What a shard was asked for in a second.
struct Window {
    hashes: [u64; HOT_KEYS_MAX],
    counts: [u32; HOT_KEYS_MAX],
    /// By how much each count may be too high.
    errors: [u32; HOT_KEYS_MAX],
    lengths: [u8; HOT_KEYS_MAX],
    /// Samples that may have written the key.
    writes: [u32; HOT_KEYS_MAX],
    keys: [[u8; KEY_SIZE_MAX]; HOT_KEYS_MAX],
    len: usize,
    samples: u32,
}

/// The keys of one shard: 34 KiB.
#[derive(Default)]
pub struct HotKeys {
    counting: Box<Window>,
    counted: Box<Window>,
    /// Reads that other nodes answered and that make no whole sample yet.
    reads_elsewhere: u32,
    /// Samples of all windows.
    pub samples: u64,
}

/// One key, as it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HotKey {
    key: Box<[u8]>,
    /// Requests in the last whole second, about.
    requests: u64,
    /// By how much that may be too high.
    error: u64,
    /// Those of the whole shard.
    of: u64,
    shard: ShardId,
}

/// Keys of several shards.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct HotList(Vec<HotKey>);

impl Default for Window {
    fn default() -> Self {
        Self {
            hashes: [0; HOT_KEYS_MAX],
            counts: [0; HOT_KEYS_MAX],
            errors: [0; HOT_KEYS_MAX],
            lengths: [0; HOT_KEYS_MAX],
            writes: [0; HOT_KEYS_MAX],
            keys: [[0; KEY_SIZE_MAX]; HOT_KEYS_MAX],
            len: 0,
            samples: 0,
        }
    }
}

impl Window {
    fn count(&mut self, hash: u64, key: &[u8], times: u32, writes: bool) {
        self.samples = self.samples.saturating_add(times);
        let at = match self.hashes[..self.len].iter().position(|&known| known == hash) {
            Some(at) => at,
            None => self.admit(hash, key),
        };
        self.counts[at] = self.counts[at].saturating_add(times);
        self.writes[at] += u32::from(writes);
    }

    /// The place of a new key: that of the least, whose count it inherits, if there is no other.
    fn admit(&mut self, hash: u64, key: &[u8]) -> usize {
        let at = if self.len < HOT_KEYS_MAX {
            self.len += 1;
            self.len - 1
        } else {
            (0..HOT_KEYS_MAX).min_by_key(|&at| self.counts[at]).expect("there are places")
        };
        self.hashes[at] = hash;
        self.errors[at] = self.counts[at];
        self.writes[at] = 0;
        self.lengths[at] = u8::try_from(key.len()).expect("a key has at most 250 bytes");
        self.keys[at][..key.len()].copy_from_slice(key);
        at
    }

    fn clear(&mut self) {
        self.counts[..self.len].fill(0);
        self.len = 0;
        self.samples = 0;
    }
}

impl HotKeys {
    /// Counts a sample.
    pub fn count(&mut self, hash: u64, key: &[u8], writes: bool) {
        self.samples += 1;
        self.counting.count(hash, key, 1, writes);
    }

    /// Counts reads that other nodes have answered from copies, as if they had been sampled here.
    pub fn count_reads(&mut self, hash: u64, key: &[u8], reads: u32) {
        let samples = self.reads_elsewhere + reads.min(READS_MAX);
        self.reads_elsewhere = samples % SAMPLED_OF;
        if samples >= SAMPLED_OF {
            self.counting.count(hash, key, samples / SAMPLED_OF, false);
        }
    }

    /// Whether a key had a good part of the last whole second's requests, and was not written as far as samples tell: other nodes
    /// may have copies of it. O(64).
    pub fn is_hot(&self, hash: u64) -> bool {
        let window = &self.counted;
        let at = window.hashes[..window.len].iter().position(|&known| known == hash);
        at.is_some_and(|at| {
            let count = window.counts[at] - window.errors[at];
            count >= HOT_SAMPLES_MIN && count >= window.samples / HOT_PART && window.writes[at] == 0
        })
    }

    /// A second is over.
    pub fn turn_over(&mut self) {
        std::mem::swap(&mut self.counting, &mut self.counted);
        self.counting.clear();
    }

    /// The keys of the last whole second that are not there by chance.
    pub fn list(&self, shard: ShardId) -> HotList {
        let window = &self.counted;
        let requests = |samples: u32| u64::from(samples) * u64::from(SAMPLED_OF);
        let is_hot = |at: &usize| window.counts[*at] - window.errors[*at] >= SAMPLES_MIN;
        let shown = (0..window.len).filter(is_hot).map(|at| HotKey {
            key: window.keys[at][..usize::from(window.lengths[at])].into(),
            requests: requests(window.counts[at]),
            error: requests(window.errors[at]),
            of: requests(window.samples),
            shard,
        });
        HotList(shown.collect())
    }
}

impl HotList {
    /// Adds another shard's keys.
    pub fn add(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// Appends the answer to `stats hotkeys`, hottest first.
    pub fn render(&self, out: &mut Vec<u8>) {
        let mut keys: Vec<_> = self.0.iter().collect();
        keys.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.key.cmp(&b.key)));
        for (rank, hot) in (1..).zip(keys.into_iter().take(HOT_KEYS_MAX)) {
            let HotKey { requests, error, of, .. } = *hot;
            let shard = u64::from(hot.shard.0);
            reply::hot_key(out, rank, &hot.key, &reply::HotKeyCounts { requests, error, of, shard });
        }
        reply::end(out);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SHARD: ShardId = ShardId(3);

    /// A stream of numbers, some far more often than others.
    fn stream(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed | 1;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let draw = state >> 40;
            // About one in 2^k is of the k-th group of numbers, which has 2^k members.
            let group = draw.trailing_zeros().min(12);
            (u64::from(group) << 32) + (draw >> 13) % (1 << group)
        })
    }

    /// Against a count without bounds: no frequent key is missing, and no count is further off than its error says.
    #[test]
    fn no_frequent_key_is_missing_and_no_count_is_further_off_than_it_says() {
        for seed in 0..20 {
            let (mut hot, mut twin) = (HotKeys::default(), BTreeMap::<u64, u32>::new());
            let samples = 20_000;
            for number in stream(seed).take(samples) {
                hot.count(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), &number.to_be_bytes(), false);
                *twin.entry(number).or_default() += 1;
            }
            let window = &hot.counting;
            for (number, &count) in &twin {
                let at = (0..window.len).find(|&at| window.keys[at][..8] == number.to_be_bytes());
                let is_frequent = count as usize > samples / HOT_KEYS_MAX;
                assert!(at.is_some() || !is_frequent, "seed {seed}: {number:x} came {count} times");
                if let Some(at) = at {
                    let (counted, error) = (window.counts[at], window.errors[at]);
                    assert!((counted - error..=counted).contains(&count), "seed {seed}: {number:x}");
                }
            }
            assert_eq!(window.counts.iter().sum::<u32>() as usize, samples);
        }
    }

    #[test]
    fn what_is_told_is_of_the_last_whole_second_and_not_of_chance() {
        let mut hot = HotKeys::default();
        (0..10).for_each(|_| hot.count(1, b"hot", false));
        hot.count(2, b"seen once", false);
        assert_eq!(hot.list(SHARD), HotList::default());
        hot.turn_over();
        hot.count(3, b"later", false);
        let list = hot.list(SHARD);
        assert_eq!(list.0.len(), 1);
        assert_eq!((&*list.0[0].key, list.0[0].requests, list.0[0].of), (&b"hot"[..], 640, 704));
        hot.turn_over();
        assert_eq!(hot.list(SHARD), HotList::default());
        assert_eq!(hot.samples, 12);
    }

    #[test]
    fn a_key_with_a_good_part_of_the_requests_is_hot_unless_it_is_written() {
        let mut hot = HotKeys::default();
        for n in 0..200_u64 {
            hot.count(n + 10, &n.to_be_bytes(), false);
        }
        (0..50).for_each(|n| hot.count(1, b"read", n == 100));
        (0..50).for_each(|n| hot.count(2, b"written", n == 40));
        (0..7).for_each(|_| hot.count_reads(3, b"elsewhere", 5 * SAMPLED_OF));
        assert!(!hot.is_hot(1), "the second is not over");
        hot.turn_over();
        assert_eq!([1, 2, 3, 4].map(|hash| hot.is_hot(hash)), [true, false, true, false]);
        (0..7).for_each(|_| hot.count(1, b"read", false));
        hot.turn_over();
        assert!(!hot.is_hot(1), "a few requests are no reason");
        (0..64).for_each(|_| hot.count_reads(1, b"read", 8));
        hot.turn_over();
        assert!(hot.is_hot(1), "parts of samples add up");
    }

    #[test]
    fn keys_of_all_shards_are_told_in_one_order() {
        let mut lists = Vec::new();
        for (shard, key, times) in [(0, "cool", 2), (1, "hot", 5), (2, "warm", 3)] {
            let mut hot = HotKeys::default();
            (0..times).for_each(|_| hot.count(9, key.as_bytes(), false));
            hot.turn_over();
            lists.push(hot.list(ShardId(shard)));
        }
        let mut all = HotList::default();
        lists.iter().for_each(|list| all.add(list));
        let mut out = Vec::new();
        all.render(&mut out);
        let text = String::from_utf8(out).unwrap();
        let keys: Vec<_> = text.lines().filter(|line| line.contains(":key ")).collect();
        assert_eq!(keys, ["STAT hot:1:key hot", "STAT hot:2:key warm", "STAT hot:3:key cool"]);
        assert!(text.contains("STAT hot:1:requests 320\r\n") && text.contains("STAT hot:1:shard 1\r\n"));
        assert!(text.contains("STAT hot:1:percent 100.0\r\n") && text.ends_with("END\r\n"), "{text}");
    }
}
