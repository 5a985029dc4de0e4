//! The ring as a node works with it: a document that was found good, and the table built from it. Never changes:
//! another document makes another ring. [`RingHolder`] decides which one follows which.

use std::sync::Arc;

use crate::names::NodeId;
use crate::placement::PartitionId;
use crate::table::{PartitionTable, Slot, SlotId, Weight, ZoneId};

pub mod document;
pub mod file;

pub use document::{Epoch, Mode, NodeState, Refusal, RingDocument, SlotEntry, Term};

/// A good document and what follows from it. About 32 KiB for each copy of a partition; shared by all shards.
#[derive(Clone, Debug)]
pub struct Ring {
    document: RingDocument,
    /// The document as it goes to other nodes.
    json: String,
    table: Arc<PartitionTable>,
}

impl Ring {
    /// Makes a ring of a document, or says what is wrong with it. Takes milliseconds: not for a shard thread.
    pub fn new(document: RingDocument) -> Result<Self, Refusal> {
        Self::with_table(document, |slots, replicas| Arc::new(PartitionTable::build(slots, replicas)))
    }

    /// As [`Self::new`], the table made by `build`: tests that see thousands of rings of few shapes keep tables.
    pub(crate) fn with_table(
        document: RingDocument,
        build: impl FnOnce(&[Slot], usize) -> Arc<PartitionTable>,
    ) -> Result<Self, Refusal> {
        document.validate()?;
        let table = build(&placement_slots(&document), usize::from(document.replicas));
        let json = document.to_json();
        Ok(Self { document, json, table })
    }

    /// What the ring was made of.
    pub fn document(&self) -> &RingDocument {
        &self.document
    }

    /// The document as JSON: what other nodes and clients are sent.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The number of the document.
    pub fn epoch(&self) -> Epoch {
        self.document.epoch
    }

    /// The slots that hold a partition, the preferred one first; never empty. O(1).
    pub fn owners(&self, partition: PartitionId) -> &[SlotId] {
        self.table.owners(partition)
    }

    /// The slot that orders all operations on a partition's keys. O(1).
    pub fn primary(&self, partition: PartitionId) -> SlotId {
        self.owners(partition)[0]
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

/// The slots as placement sees them: a node that does not serve weighs nothing, and zones are numbers.
fn placement_slots(document: &RingDocument) -> Vec<Slot> {
    let slots = &document.slots;
    let zone_of = |slot: &SlotEntry| {
        let first = slots.iter().position(|other| other.zone == slot.zone).expect("it is one of them");
        ZoneId(u16::try_from(first).expect("a ring has at most SLOT_COUNT_MAX slots"))
    };
    let weight_of =
        |slot: &SlotEntry| if slot.state.serves() { Weight::new(slot.weight) } else { Weight::NONE };
    slots.iter().map(|slot| Slot { weight: weight_of(slot), zone: zone_of(slot) }).collect()
}

#[cfg(test)]
mod tests;
