//! What a value must be: a function of its key's number, of its version and of its size. Whoever reads one can tell whose
//! it is, of which write, and whether it is whole. Printable, so no value holds a line end.
//!
//! | characters | of a value of [`HEAD_SIZE`] or more |
//! |---|---|
//! | 0..10 | 60 bits of the key's hash |
//! | 10..12 | 12 bits of the run that wrote it |
//! | 12..17 | 30 bits of the version: the key's how-manieth write of that run |
//! | 17..22 | 30 bits of check: of all of the above and the size |
//! | 22.. | a piece of a pool, which piece depends on key and version |
//!
//! A shorter value is the key's hash and a piece of the pool: it cannot say its version.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

const STAMP_SIZE: usize = 10;
const RUN_SIZE: usize = 2;
const VERSION_SIZE: usize = 5;
const CHECK_SIZE: usize = 5;

/// Bytes before the piece of the pool.
pub(crate) const HEAD_SIZE: usize = STAMP_SIZE + RUN_SIZE + VERSION_SIZE + CHECK_SIZE;

/// Makes the pool differ from all stamps.
const POOL_SEED: u64 = 1 << 63;

/// Places in the pool at which the rest of a value may start.
const OFFSETS: usize = 1024;

/// Which write of a key. Versions of one run ascend from 1; 0 is what a prefill stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Written {
    /// 12 bits.
    pub(crate) run: u16,
    /// 30 bits.
    pub(crate) version: u32,
}

/// What a value turns out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// Whole, and of this write; none if it is too short to say.
    Whole(Option<Written>),
    /// Begins as another key's does.
    Foreign,
    /// Its head is whole, what follows is not of the same write or not of that size.
    Torn,
    /// Neither.
    Corrupt,
}

/// Makes values and judges them.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pool: Vec<u8>,
}

impl Values {
    /// For values of up to `size_max` bytes.
    pub(crate) fn new(size_max: u32) -> Self {
        let blocks = (size_max as usize + OFFSETS).div_ceil(STAMP_SIZE) as u64;
        Self { pool: (0..blocks).flat_map(|block| letters(mix(block ^ POOL_SEED))).collect::<Vec<u8>>() }
    }

    /// Appends the value of key `number` of `size` bytes, as of this write.
    #[inline]
    pub(crate) fn append(&self, number: u64, written: Written, size: u32, out: &mut Vec<u8>) {
        let size = size as usize;
        if size < HEAD_SIZE {
            let short = short(number);
            out.extend_from_slice(&short[..size]);
            return;
        }
        out.extend_from_slice(&head(number, written, size));
        out.extend_from_slice(&self.piece(number, written)[..size - HEAD_SIZE]);
    }

    /// Judges `value`, which stands under key `number`.
    pub(crate) fn judge(&self, number: u64, value: &[u8]) -> Finding {
        if value.len() < HEAD_SIZE {
            let whole = short(number).starts_with(value);
            return if whole { Finding::Whole(None) } else { Finding::Corrupt };
        }
        let (found, rest) = value.split_at(HEAD_SIZE);
        if found[..STAMP_SIZE] != stamp(number) {
            let (stamp, fields) = found.split_at(STAMP_SIZE);
            let check = bits(&fields[RUN_SIZE + VERSION_SIZE..]);
            let is_anothers = read(stamp, fields).is_some_and(|(hash, written)| {
                check == Some(u64::from(check_of(hash, written, value.len())))
            });
            return if is_anothers { Finding::Foreign } else { Finding::Corrupt };
        }
        let Some((_, written)) = read(&found[..STAMP_SIZE], &found[STAMP_SIZE..]) else {
            return Finding::Corrupt;
        };
        let piece = self.piece(number, written);
        let body_is_right = piece.get(..rest.len()) == Some(rest);
        match (found == head(number, written, value.len()), body_is_right) {
            (true, true) => Finding::Whole(Some(written)),
            // The check is of another size, or the body of another version.
            (false, true) | (true, false) => Finding::Torn,
            (false, false) => Finding::Corrupt,
        }
    }

    fn piece(&self, number: u64, written: Written) -> &[u8] {
        let mixed = mix(number ^ u64::from(written.version) << 32);
        &self.pool[usize::try_from(mixed % OFFSETS as u64).unwrap_or(0)..]
    }
}

fn head(number: u64, written: Written, size: usize) -> [u8; HEAD_SIZE] {
    let mut head = [0; HEAD_SIZE];
    let hash = mix(number) & STAMP_MASK;
    write(&mut head[..STAMP_SIZE], hash);
    write(&mut head[STAMP_SIZE..][..RUN_SIZE], u64::from(written.run));
    let check = u64::from(check_of(hash, written, size));
    write(&mut head[STAMP_SIZE + RUN_SIZE..], u64::from(written.version) | check << (6 * VERSION_SIZE));
    head
}

const STAMP_MASK: u64 = (1 << (6 * STAMP_SIZE)) - 1;

fn check_of(hash: u64, written: Written, size: usize) -> u32 {
    let fields = u64::from(written.run) << 32 | u64::from(written.version);
    let mixed = mix(mix(hash ^ fields.rotate_left(17)) ^ size as u64);
    u32::try_from(mixed >> (64 - 6 * CHECK_SIZE)).unwrap_or(0)
}

/// The start of a head: hash of the key, and who wrote it.
fn read(stamp: &[u8], fields: &[u8]) -> Option<(u64, Written)> {
    let (run, fields) = fields.split_at(RUN_SIZE);
    let run = u16::try_from(bits(run)?).ok()?;
    let version = u32::try_from(bits(&fields[..VERSION_SIZE])?).ok()?;
    Some((bits(stamp)?, Written { run, version }))
}

/// Twelve bits, the lower six first, as two letters: half the look-ups of letters one by one.
static PAIRS: [[u8; 2]; 1 << 12] = {
    let mut pairs = [[0; 2]; 1 << 12];
    let mut bits = 0;
    while bits < pairs.len() {
        pairs[bits] = [ALPHABET[bits & 63], ALPHABET[bits >> 6]];
        bits += 1;
    }
    pairs
};

/// Writes the lowest six bits for each byte of `out`, which has an even size.
#[inline]
fn write(out: &mut [u8], mut number: u64) {
    let (pairs, rest) = out.as_chunks_mut::<2>();
    assert!(rest.is_empty());
    for pair in pairs {
        *pair = PAIRS[(number & 0xfff) as usize];
        number >>= 12;
    }
}

fn bits(letters: &[u8]) -> Option<u64> {
    letters.iter().rev().try_fold(0, |number, &letter| {
        let digit = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        Some(number << 6 | u64::from(digit))
    })
}

fn stamp(number: u64) -> [u8; STAMP_SIZE] {
    letters(mix(number))
}

/// All that a value without a head may be.
fn short(number: u64) -> [u8; HEAD_SIZE] {
    let hash = mix(number);
    let mut short = [0; HEAD_SIZE];
    write(&mut short[..STAMP_SIZE], hash);
    write(&mut short[STAMP_SIZE..], mix(!hash));
    short
}

fn letters(hash: u64) -> [u8; STAMP_SIZE] {
    let mut letters = [0; STAMP_SIZE];
    write(&mut letters, hash);
    letters
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

    fn value(number: u64, version: u32, size: u32) -> Vec<u8> {
        let mut out = Vec::new();
        Values::new(3000).append(number, Written { run: 77, version }, size, &mut out);
        assert_eq!(out.len(), size as usize);
        out
    }

    #[test]
    fn a_whole_value_says_its_write_and_any_flipped_bit_shows() {
        let values = Values::new(3000);
        for size in [0, 1, 9, 10, 21, 22, 23, 32, 2000] {
            for (number, version) in [(0, 0), (7, 1), (1 << 40, (1 << 30) - 1)] {
                let whole = value(number, version, size);
                let written = (size as usize >= HEAD_SIZE).then_some(Written { run: 77, version });
                assert_eq!(values.judge(number, &whole), Finding::Whole(written));
                for bit in 0..whole.len() * 8 {
                    let mut broken = whole.clone();
                    broken[bit / 8] ^= 1 << (bit % 8);
                    let finding = values.judge(number, &broken);
                    assert!(matches!(finding, Finding::Corrupt | Finding::Torn), "{size} {bit} {finding:?}");
                }
            }
        }
    }

    #[test]
    fn another_keys_value_is_foreign_and_two_writes_in_one_are_torn() {
        let values = Values::new(3000);
        assert_eq!(values.judge(8, &value(7, 1, 100)), Finding::Foreign);
        let (one, two) = (value(7, 1, 1000), value(7, 2, 1000));
        assert_eq!(values.judge(7, &[&one[..500], &two[500..]].concat()), Finding::Torn);
        assert_eq!(values.judge(7, &one[..999]), Finding::Torn);
        assert_eq!(values.judge(7, &[&one[..], b"."].concat()), Finding::Corrupt);
        assert_eq!(values.judge(7, &vec![b'x'; 1000]), Finding::Corrupt);
    }

    #[test]
    fn values_differ_between_keys_and_fit_in_lines() {
        let all: HashSet<_> = (0..10_000).map(|number| value(number, 1, 32)).collect();
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().flatten().all(u8::is_ascii_graphic));
    }
}
