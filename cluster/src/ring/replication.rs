//! What a ring document of format 2 says more: who holds what since when, what moves, and who is primary. Never decides
//! any of it: [`crate::conductor`] and [`crate::migrate`] do.

use serde::{Deserialize, Serialize};

use super::document::{Epoch, Refusal, RingDocument};
use super::partitions::{PartitionSet, Roles, TEXT_BYTES_MAX};
use crate::table::{SLOT_COUNT_MAX, Weight};

/// Bytes of the JSON: an epoch of 15 digits and a weight of three for each slot, each with its comma.
pub(super) const REPLICATION_BYTES_MAX: usize = TEXT_BYTES_MAX + SLOT_COUNT_MAX * (15 + 3 + 2) + 200;

/// The part of a document that only rings with replication or movement have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replication {
    /// For each slot the epoch in which its node came into its state. A node that receives partitions empties them first,
    /// once for each such epoch.
    pub since: Vec<Epoch>,
    /// The owner, by place in the walk, that is to be primary while it is in sync.
    pub roles: Roles,
    /// Weights on their way to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub movement: Option<Movement>,
}

/// One change of weights, carried out partition by partition. There is at most one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Movement {
    /// The epoch that began it.
    pub since: Epoch,
    /// For each slot its weight afterwards.
    pub weights: Vec<u16>,
    /// The partitions that have their new owners already.
    pub flipped: PartitionSet,
    /// Slots behind so many joined with this movement: the walk of before does not know them, since a place more moves partitions
    /// also while it weighs nothing. Unless given: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_from: Option<u16>,
    /// Slots behind so many end with this movement, which turns back one that they joined with: the walk of afterwards does not know
    /// them. Unless given: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_from: Option<u16>,
}

impl Replication {
    /// Everybody is where it is since the document's epoch; nothing moves.
    pub fn fresh(document: &RingDocument) -> Self {
        Self { since: vec![document.epoch; document.slots.len()], ..Self::default() }
    }

    pub(super) fn validate(&self, document: &RingDocument) -> Result<(), Refusal> {
        let is_past = |since: &Epoch| *since <= document.epoch;
        let fits = self.since.len() == document.slots.len() && self.since.iter().all(is_past);
        if !fits || self.roles.highest() >= usize::from(document.replicas) {
            return Err(Refusal::Replication);
        }
        let Some(movement) = &self.movement else { return Ok(()) };
        let weights = &movement.weights;
        let fits = weights.len() == document.slots.len() && is_past(&movement.since);
        let is_member = |slot: &super::SlotEntry| slot.state.serves() || slot.state.is_away();
        let has_heirs =
            document.slots.iter().zip(weights).any(|(slot, &weight)| is_member(slot) && weight > 0);
        let in_range = weights.iter().all(|&weight| weight <= Weight::FULL.parts());
        let (before, joined) = document.slots.split_at_checked(document.slots_before()).unwrap_or_default();
        let is_placed = before.iter().any(|slot| is_member(slot) && slot.weight > 0);
        let is_placed = is_placed && joined.iter().all(|slot| slot.weight == 0);
        let leaving = weights.split_at_checked(document.slots_after()).map(|(_, leaving)| leaving);
        let fits = fits && leaving.is_some_and(|leaving| leaving.iter().all(|&weight| weight == 0));
        if fits && has_heirs && in_range && is_placed { Ok(()) } else { Err(Refusal::Replication) }
    }
}
