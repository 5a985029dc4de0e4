//! Keys and the order in which they are asked for, laid out before anything is timed.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The exponent of YCSB's skewed loads.
const ZIPF_EXPONENT: f64 = 0.99;
/// Long enough that a second round finds nothing of the first in the caches of the CPU.
const PICKS: usize = 1 << 22;

/// Keys of one batch.
pub(crate) const BATCH_KEYS: usize = 64;

pub(crate) type Key = [u8; 16];

/// Which keys of a set are asked for how often.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Popularity {
    Uniform,
    Zipf,
}

impl Popularity {
    pub(crate) const ALL: [Self; 2] = [Self::Uniform, Self::Zipf];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf 0.99",
        }
    }

    /// A key number for each pick.
    fn picks(self, keys: usize) -> Vec<usize> {
        let mut random = SmallRng::seed_from_u64(1);
        match self {
            Self::Uniform => (0..PICKS).map(|_| random.random_range(0..keys)).collect(),
            Self::Zipf => {
                let below = cumulative(keys);
                let all = below[keys - 1];
                let mut rank = || {
                    let point = random.random::<f64>() * all;
                    below.partition_point(|&sum| sum <= point).min(keys - 1)
                };
                // Or the popular ones would have been stored side by side.
                (0..PICKS).map(|_| scattered(rank(), keys)).collect()
            }
        }
    }
}

/// The weights of all ranks up to each.
fn cumulative(keys: usize) -> Vec<f64> {
    let weights = (1..=keys).map(|rank| (rank as f64).powf(-ZIPF_EXPONENT));
    weights
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect()
}

/// Keys in the order in which they are asked for, again and again. They lie side by side, so fetching one costs little.
pub(crate) struct Sequence {
    keys: Vec<Key>,
    at: usize,
}

impl Sequence {
    /// Of the keys 0 to `keys` - 1, those that `wanted` agrees to.
    pub(crate) fn new(popularity: Popularity, keys: usize, mut wanted: impl FnMut(&Key) -> bool) -> Self {
        let keys: Vec<Key> =
            popularity.picks(keys).into_iter().map(stored).filter(|key| wanted(key)).collect();
        assert!(!keys.is_empty(), "the cache holds something");
        Self { keys, at: 0 }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> &Key {
        self.at = if self.at + 1 == self.keys.len() { 0 } else { self.at + 1 };
        &self.keys[self.at]
    }

    #[inline]
    pub(crate) fn next_batch(&mut self) -> &[Key; BATCH_KEYS] {
        self.at = if self.at + 2 * BATCH_KEYS > self.keys.len() { 0 } else { self.at + BATCH_KEYS };
        self.keys[self.at..].first_chunk().expect("far more keys than in a batch")
    }
}

/// Another number below `count` for each number below it.
pub(crate) fn scattered(number: usize, count: usize) -> usize {
    /// A prime, so it has no divisor in common with any count that it does not divide.
    const STEP: usize = 0x9e37_79b1;
    number * STEP % count
}

/// A key that is stored before the measurement.
pub(crate) fn stored(number: usize) -> Key {
    key(*b"stored--", number)
}

/// A key that is not.
pub(crate) fn absent(number: usize) -> Key {
    key(*b"absent--", number)
}

#[inline]
fn key(prefix: [u8; 8], number: usize) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&prefix);
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}
