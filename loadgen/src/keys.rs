//! The key space: key number to key bytes, and back. Never draws a key: that is `popularity.rs`.

use std::ops::Range;

use slabring_protocol::KEY_SIZE_MAX;

use crate::sizes::Sizes;
use crate::values::mix;

/// First byte of a value's key, and of a counter's.
const VALUE_MARK: u8 = b'k';
const COUNTER_MARK: u8 = b'c';

/// Sizes of keys and of values are independent.
const KEY_SIZE_SALT: u64 = 0x6b65_795f_7369_7a65;

/// `00` to `99`.
static DIGIT_PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let (mut tens, mut at) = (b'0', 0);
    while at < pairs.len() {
        let mut ones = b'0';
        while ones <= b'9' {
            pairs[at] = [tens, ones];
            (ones, at) = (ones + 1, at + 1);
        }
        tens += 1;
    }
    pairs
};

/// Keys `k000…0` to `k000…N-1`: only their last digits, and with a distribution their sizes, differ.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    count: u64,
    sizes: Sizes,
    fixed_size: Option<usize>,
    /// A key of number 0, as long as any.
    zero: Vec<u8>,
    /// Digits that differ between keys, at the end of each.
    digits: usize,
}

impl Keys {
    /// Shortest key that tells `count` keys apart, in bytes.
    pub(crate) fn size_min(count: u64) -> usize {
        1 + digits_of(count)
    }

    /// The key space of `count` keys. A size below [`Keys::size_min`] or above the protocol's is brought to it.
    pub(crate) fn new(count: u64, sizes: Sizes) -> Self {
        assert!(count > 0 && Self::size_min(count) <= KEY_SIZE_MAX);
        let mut zero = vec![b'0'; KEY_SIZE_MAX];
        zero[0] = VALUE_MARK;
        let mut keys = Self { count, sizes, fixed_size: None, zero, digits: digits_of(count) };
        keys.fixed_size = keys.sizes.fixed().map(|size| keys.in_bounds(size));
        keys
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    fn in_bounds(&self, size: u32) -> usize {
        (size as usize).clamp(1 + self.digits, KEY_SIZE_MAX)
    }

    /// Bytes in the key of `number`.
    #[inline]
    pub(crate) fn size(&self, number: u64) -> usize {
        self.fixed_size.unwrap_or_else(|| self.in_bounds(self.sizes.at(mix(number ^ KEY_SIZE_SALT))))
    }

    /// Appends the key of `number`.
    #[inline]
    pub(crate) fn append(&self, number: u64, out: &mut Vec<u8>) {
        assert!(number < self.count);
        out.extend_from_slice(&self.zero[..self.size(number)]);
        let changing = out.len() - self.digits;
        let (first, pairs) = out[changing..].as_rchunks_mut::<2>();
        let mut left = number;
        for pair in pairs.iter_mut().rev() {
            *pair = DIGIT_PAIRS[(left % 100) as usize];
            left /= 100;
        }
        if let [digit] = first {
            // `left` is below 10: the number has no more digits than the key.
            *digit = DIGIT_PAIRS[(left % 100) as usize][1];
        }
    }

    /// Appends the key of counter `number`.
    pub(crate) fn append_counter(&self, number: u64, out: &mut Vec<u8>) {
        let at = out.len();
        self.append(number, out);
        out[at] = COUNTER_MARK;
    }

    /// The number of `key`, `None` if it is no value's key of this space.
    pub(crate) fn number(&self, key: &[u8]) -> Option<u64> {
        let (constant, digits) = key.split_at_checked(key.len().checked_sub(self.digits)?)?;
        if constant.len() > self.zero.len() || constant != &self.zero[..constant.len()] {
            return None;
        }
        let number = str::from_utf8(digits).ok()?.parse().ok()?;
        (number < self.count && self.size(number) == key.len()).then_some(number)
    }
}

/// Part `index` of `total` cut into `parts`, as even as it gets.
pub(crate) fn share(total: u64, parts: u32, index: u32) -> Range<u64> {
    assert!(index < parts);
    let (parts, index) = (u64::from(parts), u64::from(index));
    let (each, rest) = (total / parts, total % parts);
    let start = each * index + index.min(rest);
    start..start + each + u64::from(index < rest)
}

fn digits_of(count: u64) -> usize {
    (count - 1).checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patched_keys_are_those_a_formatter_would_write() {
        for (count, size) in [(1, 2), (10, 2), (11, 3), (100_000, 16), (u64::MAX, 250)] {
            let keys = Keys::new(count, Sizes::range(size, size));
            for number in [0, 1, 9, 10, 99, 12_345, count / 3, count - 1] {
                let number = number.min(count - 1);
                let mut key = Vec::new();
                keys.append(number, &mut key);
                let twin = format!("k{number:0width$}", width = size as usize - 1);
                assert_eq!(str::from_utf8(&key).unwrap(), twin);
                assert_eq!(keys.number(&key), Some(number));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_key_of_the_space_have_no_number() {
        let keys = Keys::new(50, Sizes::range(8, 8));
        for key in ["", "k", "k000000", "k00000000", "x0000001", "k0000050", "k00000-1", "k000000\u{ff}"] {
            assert_eq!(keys.number(key.as_bytes()), None, "{key}");
        }
    }

    #[test]
    fn keys_of_many_sizes_are_told_apart_and_found_again() {
        let keys = Keys::new(5000, "gev:30.7984:8.20449:0.078688".parse().unwrap());
        let mut sizes = std::collections::HashSet::new();
        for number in 0..5000 {
            let mut key = Vec::new();
            keys.append(number, &mut key);
            assert_eq!(keys.number(&key), Some(number));
            assert_eq!(keys.number(&[b"k0", &key[1..]].concat()), None);
            sizes.insert(key.len());
        }
        assert!(sizes.len() > 30);
    }

    #[test]
    fn shares_are_even_and_cover_everything_once() {
        for (total, parts) in [(0, 3), (1, 3), (10, 3), (12, 4), (1_000_003, 7)] {
            let shares: Vec<_> = (0..parts).map(|index| share(total, parts, index)).collect();
            assert_eq!((shares[0].start, shares.last().unwrap().end), (0, total));
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            let sizes = shares.iter().map(|share| share.end - share.start);
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }
}
