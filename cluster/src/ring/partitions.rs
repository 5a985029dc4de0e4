//! Facts about every partition, small enough to travel in a ring document: a bit each, or four. Never knows which machines
//! there are.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::{Deserialize, Serialize};

use crate::placement::{PARTITION_COUNT, PartitionId};
use crate::table::REPLICA_COUNT_MAX;

const SET_BYTES: usize = PARTITION_COUNT / 8;
const ROLES_BYTES: usize = PARTITION_COUNT / 2;
const _: () = assert!(PARTITION_COUNT.is_multiple_of(8) && REPLICA_COUNT_MAX <= 16);

/// Bytes of base64 that both take together at most.
pub(super) const TEXT_BYTES_MAX: usize = SET_BYTES.div_ceil(3) * 4 + ROLES_BYTES.div_ceil(3) * 4;

/// A set of partitions: 2 KiB, a bit each. As text base64 of its bytes, partition 0 the lowest bit of the first, without the
/// zeros at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartitionSet {
    bytes: Box<[u8]>,
}

impl Default for PartitionSet {
    fn default() -> Self {
        Self { bytes: vec![0; SET_BYTES].into() }
    }
}

impl PartitionSet {
    /// Whether a partition is in it. O(1).
    pub fn contains(&self, partition: PartitionId) -> bool {
        let (byte, bit) = place(partition);
        self.bytes[byte] & bit != 0
    }

    /// Puts a partition in. False: it was.
    pub fn insert(&mut self, partition: PartitionId) -> bool {
        let (byte, bit) = place(partition);
        let was_in = self.bytes[byte] & bit != 0;
        self.bytes[byte] |= bit;
        !was_in
    }

    /// Takes a partition out. False: it was not in.
    pub fn remove(&mut self, partition: PartitionId) -> bool {
        let (byte, bit) = place(partition);
        let was_in = self.bytes[byte] & bit != 0;
        self.bytes[byte] &= !bit;
        was_in
    }

    /// Puts all of another set in.
    pub fn insert_all(&mut self, other: &Self) {
        self.bytes.iter_mut().zip(&other.bytes).for_each(|(byte, more)| *byte |= more);
    }

    /// Keeps those that are in another set too.
    pub fn retain_all(&mut self, other: &Self) {
        self.bytes.iter_mut().zip(&other.bytes).for_each(|(byte, kept)| *byte &= kept);
    }

    /// Those that are not in it.
    pub fn others(&self) -> Self {
        Self { bytes: self.bytes.iter().map(|byte| !byte).collect() }
    }

    /// The partitions in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = PartitionId> + '_ {
        PartitionId::all().filter(|&partition| self.contains(partition))
    }

    /// How many are in it.
    pub fn len(&self) -> usize {
        let ones = |byte: &u8| usize::try_from(byte.count_ones()).expect("eight at most");
        self.bytes.iter().map(ones).sum()
    }

    /// Whether none is in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.iter().all(|&byte| byte == 0)
    }
}

fn place(partition: PartitionId) -> (usize, u8) {
    (partition.index() / 8, 1 << (partition.index() % 8))
}

/// Which of its owners is to be primary of each partition, by place in the walk: 8 KiB, four bits each. As text base64, the
/// even partition in the low half of a byte, without the zeros at the end: nothing where the first owner is primary of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Roles {
    bytes: Box<[u8]>,
}

impl Default for Roles {
    fn default() -> Self {
        Self { bytes: vec![0; ROLES_BYTES].into() }
    }
}

impl Roles {
    /// The place of the primary among the owners: `0..16`.
    pub fn get(&self, partition: PartitionId) -> usize {
        let byte = self.bytes[partition.index() / 2];
        usize::from(if partition.index().is_multiple_of(2) { byte & 0xf } else { byte >> 4 })
    }

    /// Makes the owner at `place`, below [`REPLICA_COUNT_MAX`], the primary.
    pub fn set(&mut self, partition: PartitionId, place: usize) {
        assert!(place < REPLICA_COUNT_MAX, "no partition has an owner number {place}");
        let place = u8::try_from(place).expect("below REPLICA_COUNT_MAX");
        let byte = &mut self.bytes[partition.index() / 2];
        *byte =
            if partition.index().is_multiple_of(2) { *byte & 0xf0 | place } else { *byte & 0xf | place << 4 };
    }

    /// The highest place that any partition names.
    pub(super) fn highest(&self) -> usize {
        self.bytes.iter().map(|byte| usize::from((byte & 0xf).max(byte >> 4))).max().unwrap_or(0)
    }
}

/// Text that names no partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the base64 of as many partitions as there are, without zeros at the end")]
pub struct NotPartitions;

fn to_text(bytes: &[u8]) -> String {
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    BASE64_STANDARD.encode(&bytes[..used])
}

fn from_text(text: &str, length: usize) -> Result<Box<[u8]>, NotPartitions> {
    let mut bytes = BASE64_STANDARD.decode(text).map_err(|_| NotPartitions)?;
    // One way to write a document, so that its checksum says what it means.
    if bytes.len() > length || bytes.last() == Some(&0) {
        return Err(NotPartitions);
    }
    bytes.resize(length, 0);
    Ok(bytes.into())
}

impl TryFrom<String> for PartitionSet {
    type Error = NotPartitions;

    fn try_from(text: String) -> Result<Self, NotPartitions> {
        from_text(&text, SET_BYTES).map(|bytes| Self { bytes })
    }
}

impl From<PartitionSet> for String {
    fn from(set: PartitionSet) -> Self {
        to_text(&set.bytes)
    }
}

impl TryFrom<String> for Roles {
    type Error = NotPartitions;

    fn try_from(text: String) -> Result<Self, NotPartitions> {
        from_text(&text, ROLES_BYTES).map(|bytes| Self { bytes })
    }
}

impl From<Roles> for String {
    fn from(roles: Roles) -> Self {
        to_text(&roles.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn partition(n: u16) -> PartitionId {
        PartitionId::new(n)
    }

    proptest! {
        #[test]
        fn a_set_is_a_set_and_comes_back_from_text(steps in prop::collection::vec((0_u16..1 << 14, any::<bool>()), 0..60)) {
            let (mut set, mut twin) = (PartitionSet::default(), BTreeSet::new());
            for (n, is_in) in steps {
                if is_in {
                    prop_assert_eq!(set.insert(partition(n)), twin.insert(partition(n)));
                } else {
                    prop_assert_eq!(set.remove(partition(n)), twin.remove(&partition(n)));
                }
            }
            prop_assert_eq!(set.len(), twin.len());
            prop_assert_eq!(set.is_empty(), twin.is_empty());
            prop_assert!(set.iter().eq(twin.iter().copied()));
            prop_assert_eq!(PartitionSet::try_from(String::from(set.clone())), Ok(set));
        }

        #[test]
        fn sets_are_joined_and_met(one: BTreeSet<u8>, other: BTreeSet<u8>) {
            let set = |members: &BTreeSet<u8>| {
                let mut set = PartitionSet::default();
                members.iter().for_each(|&n| assert!(set.insert(partition(u16::from(n) * 61))));
                set
            };
            let (mut joined, mut met) = (set(&one), set(&one));
            joined.insert_all(&set(&other));
            met.retain_all(&set(&other));
            prop_assert_eq!(joined, set(&(&one | &other)));
            prop_assert_eq!(met, set(&(&one & &other)));
        }

        #[test]
        fn roles_are_kept_apart_and_come_back_from_text(steps in prop::collection::vec((0_u16..1 << 14, 0_usize..8), 0..60)) {
            let (mut roles, mut twin) = (Roles::default(), BTreeMap::new());
            for (n, place) in steps {
                roles.set(partition(n), place);
                twin.insert(n, place);
                for near in [n ^ 1, n] {
                    prop_assert_eq!(roles.get(partition(near)), twin.get(&near).copied().unwrap_or(0));
                }
            }
            prop_assert_eq!(Roles::try_from(String::from(roles.clone())), Ok(roles));
        }
    }

    #[test]
    fn text_has_one_form() {
        assert_eq!(String::from(PartitionSet::default()), "");
        assert_eq!(PartitionSet::try_from("AQ==".to_owned()).unwrap().iter().next(), Some(partition(0)));
        for text in ["AQA=", "AA==", "A", "!", &BASE64_STANDARD.encode([1; SET_BYTES + 1])] {
            assert_eq!(PartitionSet::try_from(text.to_owned()), Err(NotPartitions), "{text}");
        }
    }
}
