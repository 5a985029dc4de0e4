//! The ring as a node works with it: a document that was found good, and the table built from it. Never changes:
//! another document makes another ring. [`RingHolder`] decides which one follows which.

use std::sync::Arc;

use crate::names::NodeId;
use crate::placement::PartitionId;
use crate::table::{PartitionTable, Slot, SlotId, Weight, ZoneId};

pub mod assignment;
pub mod document;
pub mod file;
pub mod partitions;
pub mod progress;
pub mod replication;

pub use assignment::{Assignment, Learner};
pub use document::{Epoch, Mode, NodeState, Refusal, RingDocument, SlotEntry, Term, ZONE_BYTES_MAX};
pub use progress::Progress;
pub use replication::{Movement, Replication};

/// In every mark: none is 0.
const MARKED: u64 = 1 << 32;

/// A good document and what follows from it. About 32 KiB for each copy of a partition; shared by all shards.
#[derive(Clone, Debug)]
pub struct Ring {
    document: RingDocument,
    /// The document as it goes to other nodes.
    json: String,
    mark: u64,
    table: Arc<PartitionTable>,
    /// While weights are on their way: the owners afterwards.
    coming: Option<Arc<PartitionTable>>,
    /// While members are away: who serves what nobody has.
    heirs: Option<Arc<PartitionTable>>,
}

impl Ring {
    /// Makes a ring of a document, or says what is wrong with it. Takes milliseconds: not for a shard thread.
    ///
    /// # Errors
    /// [`Refusal`]: what is wrong with it.
    pub fn new(document: RingDocument) -> Result<Self, Refusal> {
        Self::with_table(document, |slots, replicas| Arc::new(PartitionTable::build(slots, replicas)))
    }

    /// As [`Self::new`], the table made by `build`: tests that see thousands of rings of few shapes keep tables.
    pub(crate) fn with_table(
        document: RingDocument,
        build: impl Fn(&[Slot], usize) -> Arc<PartitionTable>,
    ) -> Result<Self, Refusal> {
        document.validate()?;
        let replicas = usize::from(document.replicas);
        let placed = placement_slots(&document, SlotEntry::placed_weight);
        let table = build(&placed[..document.slots_before()], replicas);
        let json = document.to_json();
        let mark = MARKED | u64::from(crc32c::crc32c(json.as_bytes()));
        let mut ring = Self { json, mark, document, table, coming: None, heirs: None };
        if let Some(replication) = &ring.document.replication {
            if let Some(movement) = &replication.movement {
                let coming = movement_slots(&ring.document, &movement.weights);
                ring.coming = Some(build(&coming[..ring.document.slots_after()], replicas));
            }
            if ring.document.slots.iter().any(|slot| slot.state.is_away()) {
                let mut heirs = placement_slots(&ring.document, |_, _| 0);
                let serving = |(_, slot): &(usize, &SlotEntry)| slot.state.serves();
                for (index, _) in ring.document.slots.iter().enumerate().filter(serving) {
                    heirs[index].weight = Weight::new(ring.document.weight_ever(index));
                }
                ring.heirs = Some(build(&heirs, replicas));
            }
        }
        Ok(ring)
    }

    /// What the ring was made of.
    pub fn document(&self) -> &RingDocument {
        &self.document
    }

    /// The document as JSON: what other nodes and clients are sent.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// A number that another document of the same epoch does not have, but by a chance of one in 2^32. Never 0.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// The number of the document.
    pub fn epoch(&self) -> Epoch {
        self.document.epoch
    }

    /// The slots whose place it is to hold a partition, the preferred one first; never empty. With replication some of them
    /// may be away: [`Self::assignment`] says who holds it. O(1).
    pub fn owners(&self, partition: PartitionId) -> &[SlotId] {
        let table = if self.is_flipped(partition) { self.coming.as_ref() } else { None };
        table.unwrap_or(&self.table).owners(partition)
    }

    /// The owners after the movement, of a partition that has not moved yet.
    pub(crate) fn coming_owners(&self, partition: PartitionId) -> Option<&[SlotId]> {
        let coming = self.coming.as_ref().filter(|_| !self.is_flipped(partition));
        coming.map(|coming| coming.owners(partition))
    }

    fn is_flipped(&self, partition: PartitionId) -> bool {
        let movement = self.document.replication.as_ref().and_then(|known| known.movement.as_ref());
        movement.is_some_and(|movement| movement.flipped.contains(partition))
    }

    /// The slot that orders all operations on a partition's keys: the owner that has the role if it is in sync, or the first
    /// that is, or an heir. O(1).
    #[inline]
    pub fn primary(&self, partition: PartitionId) -> SlotId {
        match &self.document.replication {
            None => self.table.owners(partition)[0],
            Some(replication) => self.primary_by_role(partition, replication),
        }
    }

    fn primary_by_role(&self, partition: PartitionId, replication: &Replication) -> SlotId {
        let owners = self.owners(partition);
        let serves = |slot: &&SlotId| self.state(**slot).serves();
        let named = owners.get(replication.roles.get(partition)).filter(serves);
        let in_sync = named.or_else(|| owners.iter().find(serves));
        let heir = || self.heirs.as_ref().map(|heirs| &heirs.owners(partition)[0]);
        *in_sync.or_else(heir).expect("a ring whose owners are away has heirs")
    }

    /// A slot that this ring has.
    pub fn slot(&self, id: SlotId) -> &SlotEntry {
        &self.document.slots[usize::from(id.0)]
    }

    /// A slot, if this ring has it: for numbers that came from elsewhere.
    pub fn find_slot(&self, id: SlotId) -> Option<&SlotEntry> {
        self.document.slots.get(usize::from(id.0))
    }

    /// The slot of a node. O(slots).
    pub fn slot_of(&self, node: &NodeId) -> Option<SlotId> {
        let index = self.document.slots.iter().position(|slot| slot.node == *node)?;
        Some(SlotId(u16::try_from(index).expect("a ring has at most SLOT_COUNT_MAX slots")))
    }
}

/// The ring that a node follows: the best document it was offered so far.
#[derive(Debug, Default)]
pub struct RingHolder {
    current: Option<Arc<Ring>>,
}

/// What became of a document that was not refused.
#[derive(Clone, Debug)]
pub enum Offered {
    /// It is the ring now.
    Adopted(Arc<Ring>),
    /// It was already.
    Known,
}

impl RingHolder {
    /// The ring now.
    pub fn current(&self) -> Option<&Arc<Ring>> {
        self.current.as_ref()
    }

    /// Adopts a document that is good and newer than the ring; refused, the ring stays as it is.
    ///
    /// # Errors
    /// [`Refusal`]: what is wrong with it, or that it is not newer.
    pub fn offer(&mut self, document: RingDocument) -> Result<Offered, Refusal> {
        self.offer_with(document, Ring::new)
    }

    /// As [`Self::offer`], the ring made by `make`.
    pub(crate) fn offer_with(
        &mut self,
        document: RingDocument,
        make: impl FnOnce(RingDocument) -> Result<Ring, Refusal>,
    ) -> Result<Offered, Refusal> {
        if let Some(ring) = &self.current {
            if *ring.document() == document {
                return Ok(Offered::Known);
            }
            document.may_follow(ring.document())?;
        }
        let ring = Arc::new(make(document)?);
        self.current = Some(Arc::clone(&ring));
        Ok(Offered::Adopted(ring))
    }
}

/// The slots as placement sees them: what each weighs, and zones as numbers.
fn placement_slots(document: &RingDocument, weight_of: impl Fn(&SlotEntry, bool) -> u16) -> Vec<Slot> {
    let slots = &document.slots;
    let stays = document.replication.is_some();
    let zone_of = |slot: &SlotEntry| {
        let first = slots.iter().position(|other| other.zone == slot.zone).expect("it is one of them");
        ZoneId(u16::try_from(first).expect("a ring has at most SLOT_COUNT_MAX slots"))
    };
    let placed = |slot| Slot { weight: Weight::new(weight_of(slot, stays)), zone: zone_of(slot) };
    slots.iter().map(placed).collect()
}

fn movement_slots(document: &RingDocument, weights: &[u16]) -> Vec<Slot> {
    let mut slots = placement_slots(document, SlotEntry::placed_weight);
    for ((slot, entry), &weight) in slots.iter_mut().zip(&document.slots).zip(weights) {
        let is_member = !matches!(entry.state, NodeState::Joining | NodeState::Left);
        slot.weight = if is_member { Weight::new(weight) } else { Weight::NONE };
    }
    slots
}

#[cfg(test)]
mod tests;
