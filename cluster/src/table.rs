//! Which machines hold a partition: a walk over weighted slots, and the table of all walks.
//!
//! Built once for each ring document, off the data path; the data path reads a row. Holds no history:
//! the same slots give the same table, however the ring came to have them. Never decides who is primary:
//! a walk names the set of owners in order of preference, and a role stays with a machine that has the data.

use crate::jump::{jump, mix};
use crate::placement::{PARTITION_COUNT, PartitionId};

/// Slots of a ring, dead ones included.
pub const SLOT_COUNT_MAX: usize = 1024;

/// Copies of a partition.
pub const REPLICA_COUNT_MAX: usize = 8;

/// Separates the walks of neighbouring partitions.
const PARTITION_SALT: u64 = 0x00c0_ffee;

/// Step between the seeds of one walk's attempts: odd, so no attempt repeats another's seed.
const ATTEMPT_STEP: u64 = 0xd6e8_feb8_6659_fd93;

/// Attempts a walk makes for each slot of the ring before it falls back, and once more in all.
///
/// A slot of full weight is missed by all of them with odds of `e^-64`.
const ATTEMPTS_PER_SLOT: u64 = 64;

const _: () = assert!(ATTEMPT_STEP % 2 == 1);
const _: () = assert!(SLOT_COUNT_MAX <= u16::MAX as usize);
const _: () = assert!(REPLICA_COUNT_MAX <= SLOT_COUNT_MAX);

/// A machine's place in the ring. It keeps its number for as long as the ring lives: a machine that is dead,
/// draining, joining or small has another weight, never another slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u16);

/// Where machines fail together: a rack, a room, a power feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneId(pub u16);

/// A slot's share of the partitions, in 256ths of what a full machine takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// Takes nothing: dead, drained, or not filled yet.
    pub const NONE: Self = Self(0);
    /// A full machine.
    pub const FULL: Self = Self(256);

    /// A weight of `parts` 256ths: `0..=256`.
    pub fn new(parts: u16) -> Self {
        assert!(parts <= Self::FULL.0, "a weight is at most {}, not {parts}", Self::FULL.0);
        Self(parts)
    }

    /// The weight in 256ths: `0..=256`.
    pub fn parts(self) -> u16 {
        self.0
    }

    /// True when `draw`, evenly spread over all 64-bit numbers, falls into this weight's share of them.
    fn accepts(self, draw: u64) -> bool {
        self == Self::FULL || (draw & 0xff) < u64::from(self.0)
    }
}

/// One place in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Share of the partitions.
    pub weight: Weight,
    /// Where it stands.
    pub zone: ZoneId,
}

impl Slot {
    fn is_live(self) -> bool {
        self.weight != Weight::NONE
    }
}

/// The owners of every partition, in order of preference.
///
/// When one slot's weight changes or a slot is appended:
///
/// * a partition that the slot owns neither before nor after keeps its owners in their order,
/// * primaries move only to or from that slot,
/// * an appended slot seldom brings a third one along as a further owner of a partition it joins.
///
/// Where zones are few this holds for changes that leave `min(replicas, live zones)` as it was: losing a whole zone
/// moves more. For an appended slot it rests on walks that end within their attempts, which they do unless weights
/// are tiny and most slots dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTable {
    /// Rows of `owners_per_partition` slots.
    owners: Vec<SlotId>,
    owners_per_partition: usize,
}

impl PartitionTable {
    /// Places every partition on `replicas` of the slots, or on all live ones when there are fewer.
    ///
    /// `slots` holds 1 to [`SLOT_COUNT_MAX`], at least one of them live; `replicas` is 1 to [`REPLICA_COUNT_MAX`].
    /// Takes milliseconds.
    pub fn build(slots: &[Slot], replicas: usize) -> Self {
        let plan = Plan::new(slots, replicas);
        let mut owners = Vec::with_capacity(PARTITION_COUNT * plan.owners_wanted);
        for partition in PartitionId::all() {
            owners.extend(plan.walk(partition));
        }
        assert_eq!(owners.len(), PARTITION_COUNT * plan.owners_wanted);
        Self { owners, owners_per_partition: plan.owners_wanted }
    }

    /// The slots that own a partition, the preferred one first: distinct, live, and never empty. O(1).
    pub fn owners(&self, partition: PartitionId) -> &[SlotId] {
        let start = partition.index() * self.owners_per_partition;
        &self.owners[start..start + self.owners_per_partition]
    }

    /// Owners of each partition: `replicas`, or the number of live slots when that is lower.
    pub fn owners_per_partition(&self) -> usize {
        self.owners_per_partition
    }
}

/// The owners of one partition, as [`PartitionTable::build`] would choose them.
pub fn walk(partition: PartitionId, slots: &[Slot], replicas: usize) -> Vec<SlotId> {
    Plan::new(slots, replicas).walk(partition)
}

/// What all walks of one ring share.
struct Plan<'a> {
    slots: &'a [Slot],
    slot_count: u16,
    owners_wanted: usize,
    /// Owners come from this many zones before any zone is used twice.
    zones_wanted: usize,
}

impl<'a> Plan<'a> {
    fn new(slots: &'a [Slot], replicas: usize) -> Self {
        assert!(slots.len() <= SLOT_COUNT_MAX, "a ring has at most {SLOT_COUNT_MAX} slots");
        assert!((1..=REPLICA_COUNT_MAX).contains(&replicas), "{replicas} replicas");
        let live: Vec<_> = slots.iter().filter(|slot| slot.is_live()).collect();
        assert!(!live.is_empty(), "a ring without a live slot places nothing");
        let mut zones: Vec<_> = live.iter().map(|slot| slot.zone).collect();
        zones.sort_unstable();
        zones.dedup();
        Self {
            slots,
            slot_count: u16::try_from(slots.len()).expect("at most SLOT_COUNT_MAX"),
            owners_wanted: replicas.min(live.len()),
            zones_wanted: replicas.min(zones.len()),
        }
    }

    fn walk(&self, partition: PartitionId) -> Vec<SlotId> {
        let salt = mix(PARTITION_SALT ^ partition_bits(partition));
        let mut chosen = Vec::with_capacity(self.owners_wanted);
        for attempt in 0..ATTEMPTS_PER_SLOT * (u64::from(self.slot_count) + 1) {
            if chosen.len() == self.owners_wanted {
                return chosen;
            }
            let seed = mix(salt.wrapping_add(attempt.wrapping_mul(ATTEMPT_STEP)));
            let candidate = SlotId(jump(seed, self.slot_count));
            if self.draws(candidate, seed) && self.fits(candidate, &chosen) {
                chosen.push(candidate);
            }
        }
        self.fill(partition, chosen)
    }

    /// Whether a slot wins the attempt with `seed`: as often as its weight says, drawn anew each time.
    fn draws(&self, candidate: SlotId, seed: u64) -> bool {
        self.slot(candidate).weight.accepts(mix(seed ^ (u64::from(candidate.0) << 32)))
    }

    /// Whether a slot is live and may join the owners: not yet one of them, and in a new zone while there are any.
    fn fits(&self, candidate: SlotId, chosen: &[SlotId]) -> bool {
        let slot = self.slot(candidate);
        let zone_is_used = chosen.iter().any(|&owner| self.slot(owner).zone == slot.zone);
        slot.is_live() && !chosen.contains(&candidate) && !(zone_is_used && self.wants_new_zone(chosen))
    }

    fn wants_new_zone(&self, chosen: &[SlotId]) -> bool {
        // No zone repeats before the last wanted one is used, so owners count zones until then.
        chosen.len() < self.zones_wanted
    }

    /// Completes a walk that ran out of attempts: by highest random weight, under the same zone rule.
    fn fill(&self, partition: PartitionId, mut chosen: Vec<SlotId>) -> Vec<SlotId> {
        let salt = mix(partition_bits(partition));
        while chosen.len() < self.owners_wanted {
            let heir = (0..self.slot_count)
                .map(SlotId)
                .filter(|&candidate| self.fits(candidate, &chosen))
                .max_by_key(|candidate| mix(salt ^ u64::from(candidate.0)))
                .expect("live slots, and live zones while they are wanted, outnumber the owners so far");
            chosen.push(heir);
        }
        chosen
    }

    fn slot(&self, id: SlotId) -> Slot {
        self.slots[usize::from(id.0)]
    }
}

fn partition_bits(partition: PartitionId) -> u64 {
    u64::try_from(partition.index()).expect("below PARTITION_COUNT")
}

#[cfg(test)]
mod tests;
