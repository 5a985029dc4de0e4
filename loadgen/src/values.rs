//! What each key's value must be: a function of the key's number alone, so that any process can check what
//! any other has stored. Printable, so no value holds a line end.

use crate::args::Sizes;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Characters at the start of a value that say whose it is: 60 bits of the key's hash.
const STAMP_SIZE: usize = 10;

/// Makes the pool differ from all stamps.
const POOL_SEED: u64 = 1 << 63;

/// Places in the pool at which the rest of a value may start.
const OFFSETS: usize = 1024;

/// A value is a stamp of its key and then a slice of a pool that all share: two copies, whatever its size.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    sizes: Sizes,
    pool: Vec<u8>,
}

impl Values {
    pub(crate) fn new(sizes: Sizes) -> Self {
        assert!(sizes.min <= sizes.max);
        let blocks = (sizes.max as usize + OFFSETS).div_ceil(STAMP_SIZE) as u64;
        Self { sizes, pool: (0..blocks).flat_map(|block| stamp(mix(block ^ POOL_SEED))).collect() }
    }

    /// Bytes in the value of key `number`.
    #[inline]
    pub(crate) fn size(&self, number: u64) -> u32 {
        let Sizes { min, max } = self.sizes;
        let spread = u64::from(max - min) + 1;
        // The high half of the product is below `spread`, which fits.
        let above = (u128::from(mix(!number)) * u128::from(spread)) >> 64;
        min + u32::try_from(above).unwrap_or(0)
    }

    /// Appends the value of key `number`.
    #[inline]
    pub(crate) fn append(&self, number: u64, out: &mut Vec<u8>) {
        let (stamp, rest) = self.parts(number);
        let size = self.size(number) as usize;
        let (stamp, rest) = (&stamp[..size.min(STAMP_SIZE)], &rest[..size.saturating_sub(STAMP_SIZE)]);
        out.extend_from_slice(stamp);
        out.extend_from_slice(rest);
    }

    /// Whether `part` stands at `offset` in the value of key `number`.
    pub(crate) fn holds(&self, number: u64, offset: usize, part: &[u8]) -> bool {
        let size = self.size(number) as usize;
        if offset > size || part.len() > size - offset {
            return false;
        }
        let (stamp, rest) = self.parts(number);
        let in_stamp = part.len().min(STAMP_SIZE.saturating_sub(offset));
        let (head, tail) = part.split_at(in_stamp);
        let tail_offset = (offset + in_stamp).saturating_sub(STAMP_SIZE);
        (head.is_empty() || stamp[offset..].starts_with(head)) && rest[tail_offset..].starts_with(tail)
    }

    fn parts(&self, number: u64) -> ([u8; STAMP_SIZE], &[u8]) {
        let hash = mix(number);
        (stamp(hash), &self.pool[(hash >> 32) as usize % OFFSETS..])
    }
}

fn stamp(hash: u64) -> [u8; STAMP_SIZE] {
    std::array::from_fn(|at| ALPHABET[(hash >> (6 * at) & 63) as usize])
}

/// The finaliser of splitmix64: a bijection that spreads every bit.
///
/// Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
pub(crate) fn mix(number: u64) -> u64 {
    let mut hash = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn value(values: &Values, number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        values.append(number, &mut out);
        out
    }

    #[test]
    fn every_part_of_a_value_is_recognised_and_no_other() {
        for sizes in [(0, 0), (1, 1), (9, 9), (10, 10), (32, 32), (0, 40), (2000, 3000)] {
            let values = Values::new(Sizes { min: sizes.0, max: sizes.1 });
            for number in 0..20 {
                let whole = value(&values, number);
                assert_eq!(whole.len(), values.size(number) as usize);
                assert!(whole.len() >= sizes.0 as usize && whole.len() <= sizes.1 as usize);
                for cut in 0..=whole.len() {
                    assert!(values.holds(number, 0, &whole[..cut]));
                    assert!(values.holds(number, cut, &whole[cut..]));
                }
                for at in 0..whole.len() {
                    let mut broken = whole.clone();
                    broken[at] ^= 1;
                    assert!(!values.holds(number, 0, &broken));
                    assert!(!values.holds(number, at, &broken[at..]));
                }
                assert!(!values.holds(number, whole.len(), b"x"));
                assert!(!values.holds(number, whole.len() + 1, b""));
            }
        }
    }

    #[test]
    fn values_differ_between_keys_and_fit_in_lines() {
        let values = Values::new(Sizes { min: 32, max: 32 });
        let all: HashSet<_> = (0..10_000).map(|number| value(&values, number)).collect();
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().flatten().all(u8::is_ascii_graphic));
    }

    #[test]
    fn a_key_keeps_its_value_when_other_sizes_are_possible() {
        let (short, long) =
            (Values::new(Sizes { min: 20, max: 20 }), Values::new(Sizes { min: 5000, max: 5000 }));
        assert!(value(&long, 7).starts_with(&value(&short, 7)));
    }

    #[test]
    fn sizes_of_a_range_are_spread_evenly() {
        let values = Values::new(Sizes { min: 100, max: 103 });
        let mut seen = [0_u32; 4];
        for number in 0..40_000 {
            seen[values.size(number) as usize - 100] += 1;
        }
        assert!(seen.iter().all(|&count| (9_600..10_400).contains(&count)), "{seen:?}");
    }
}
