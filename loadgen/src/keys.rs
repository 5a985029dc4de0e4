//! The key space: key number to key bytes, in place and without a division per byte that is always zero.
//! Never draws a key: that is `popularity.rs`.

use std::ops::Range;

/// Keys `k000…0` to `k000…N-1`, all of one size: only their last digits differ.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    count: u64,
    /// The key of number 0.
    zero: Vec<u8>,
    /// Digits that differ between keys, at the end of each.
    digits: usize,
}

impl Keys {
    /// Shortest key that tells `count` keys apart, in bytes.
    pub(crate) fn size_min(count: u64) -> usize {
        1 + digits_of(count)
    }

    /// The key space of `count` keys of `size` bytes, at least [`Keys::size_min`].
    pub(crate) fn new(count: u64, size: usize) -> Self {
        assert!(count > 0 && size >= Self::size_min(count));
        let mut zero = vec![b'0'; size];
        zero[0] = b'k';
        Self { count, zero, digits: digits_of(count) }
    }

    /// The key of number 0: what a request's template holds.
    pub(crate) fn zero(&self) -> &[u8] {
        &self.zero
    }

    /// Turns a key into that of `number`. `key` is any key of this space.
    #[inline]
    pub(crate) fn patch(&self, key: &mut [u8], number: u64) {
        debug_assert!(number < self.count && key.len() == self.zero.len());
        let changing = key.len() - self.digits;
        let mut left = number;
        for digit in key[changing..].iter_mut().rev() {
            // The remainder is below 10.
            *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
            left /= 10;
        }
    }

    /// The number of `key`, `None` if it is no key of this space.
    pub(crate) fn number(&self, key: &[u8]) -> Option<u64> {
        let (constant, digits) = key.split_at_checked(self.zero.len() - self.digits)?;
        if constant != &self.zero[..constant.len()] || digits.len() != self.digits {
            return None;
        }
        let number = str::from_utf8(digits).ok()?.parse().ok()?;
        (number < self.count).then_some(number)
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
            let keys = Keys::new(count, size);
            let mut key = keys.zero().to_vec();
            for number in [0, 1, 9, 10, 99, 12_345, count / 3, count - 1] {
                let number = number.min(count - 1);
                keys.patch(&mut key, number);
                let twin = format!("k{number:0width$}", width = size - 1);
                assert_eq!(str::from_utf8(&key).unwrap(), twin);
                assert_eq!(keys.number(&key), Some(number));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_key_of_the_space_have_no_number() {
        let keys = Keys::new(50, 8);
        for key in ["", "k", "k000000", "k00000000", "x0000001", "k0000050", "k00000-1", "k000000\u{ff}"] {
            assert_eq!(keys.number(key.as_bytes()), None, "{key}");
        }
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
