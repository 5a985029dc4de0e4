//! The bytes of `FILE.meta`: what the shards of one node have left to be known about the memory file, each as the engine says it, under
//! one checksum. Believes nothing it reads, opens no file.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | what this is, in which version |
//! | 8 | 4 | CRC32C of everything behind it |
//! | 12 | 4 | number of shards |
//! | 16 | 8 | XXH3 of a certain key, as placement takes it: another one would look for keys in other shards |
//! | 24 | 8 | bytes of the memory file |
//! | 32 | 4 | last second of the process |
//! | 36 | 8 each | bytes of each shard's part |
//! | | | the parts, in order |
//!
//! Numbers are little-endian.

use crc32c::crc32c;
use slabring_cluster::placement::hash_key;

const MAGIC: u64 = u64::from_le_bytes(*b"slbnode1");
/// The checksum covers what is behind it.
const CHECKED_FROM: usize = 12;
const PROBE_KEY: &[u8] = b"placement";

/// What is known about a memory file beside its items.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// Its length.
    pub file_bytes: u64,
    /// Last second of the process that wrote it.
    pub at: u32,
    /// What each shard has said at its end, in their order.
    pub shards: Vec<Vec<u8>>,
}

/// Why some bytes are no such knowledge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// They are of another program or version, or cut off.
    #[error("the metadata are of another kind or version, or cut off")]
    Unknown,
    /// They have changed.
    #[error("the metadata are damaged: their checksum is wrong")]
    Checksum,
    /// They are of a program that spreads keys over shards in another way.
    #[error("the metadata are of a version that spreads keys over shards in another way")]
    Placement,
}

impl Saved {
    /// The bytes for the file.
    pub fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.shards.len()).expect("shards are numbered by 16 bits");
        let mut checked = count.to_le_bytes().to_vec();
        checked.extend(hash_key(PROBE_KEY).to_le_bytes());
        checked.extend(self.file_bytes.to_le_bytes());
        checked.extend(self.at.to_le_bytes());
        checked.extend(self.shards.iter().flat_map(|part| (part.len() as u64).to_le_bytes()));
        self.shards.iter().for_each(|part| checked.extend(part));
        [&MAGIC.to_le_bytes()[..], &crc32c(&checked).to_le_bytes(), &checked].concat()
    }

    /// What [`Saved::encode`] was given.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut rest = bytes;
        if u64::from_le_bytes(take(&mut rest)?) != MAGIC {
            return Err(Damage::Unknown);
        }
        let checksum = u32::from_le_bytes(take(&mut rest)?);
        if crc32c(&bytes[CHECKED_FROM..]) != checksum {
            return Err(Damage::Checksum);
        }
        let count = u32::from_le_bytes(take(&mut rest)?);
        if u64::from_le_bytes(take(&mut rest)?) != hash_key(PROBE_KEY) {
            return Err(Damage::Placement);
        }
        let file_bytes = u64::from_le_bytes(take(&mut rest)?);
        let at = u32::from_le_bytes(take(&mut rest)?);
        let lens = (0..count).map(|_| take(&mut rest).map(u64::from_le_bytes));
        let lens = lens.collect::<Result<Vec<_>, _>>()?;
        let shards = lens.into_iter().map(|len| take_part(&mut rest, len)).collect::<Result<_, _>>()?;
        if rest.is_empty() { Ok(Self { file_bytes, at, shards }) } else { Err(Damage::Unknown) }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Damage> {
    let (taken, behind) = rest.split_first_chunk().ok_or(Damage::Unknown)?;
    *rest = behind;
    Ok(*taken)
}

fn take_part(rest: &mut &[u8], len: u64) -> Result<Vec<u8>, Damage> {
    let split = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (part, behind) = split.ok_or(Damage::Unknown)?;
    *rest = behind;
    Ok(part.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        Saved { file_bytes: 1 << 20, at: 1_700_000_000, shards: vec![vec![1; 100], Vec::new(), vec![3; 7]] }
    }

    #[test]
    fn what_was_saved_is_what_is_read() {
        for shards in [0, 1, 3] {
            let saved = Saved { shards: saved().shards[..shards].to_vec(), ..saved() };
            assert_eq!(Saved::decode(&saved.encode()), Ok(saved));
        }
    }

    #[test]
    fn a_changed_bit_or_a_missing_or_added_byte_is_noticed_wherever_it_is() {
        let whole = saved().encode();
        for at in 0..whole.len() {
            assert!(Saved::decode(&whole[..at]).is_err(), "cut off at {at}");
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let wanted = if at < 8 { Damage::Unknown } else { Damage::Checksum };
                assert_eq!(Saved::decode(&changed), Err(wanted), "bit {bit} of byte {at}");
            }
        }
        assert!(Saved::decode(&[whole, vec![0]].concat()).is_err());
    }

    #[test]
    fn lengths_that_lie_are_refused_also_under_a_right_checksum() {
        let whole = saved().encode();
        for at in CHECKED_FROM..60 {
            for byte in [0xff, 0x80, 0] {
                let mut forged = whole.clone();
                forged[at] = byte;
                let checksum = crc32c(&forged[CHECKED_FROM..]);
                forged[8..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
                // What matters is that it returns.
                if let Ok(read) = Saved::decode(&forged) {
                    assert!(read.shards.iter().map(Vec::len).sum::<usize>() < whole.len());
                }
            }
        }
    }
}
