//! The next document of a ring with replication: a member gone or back, weights on their way, roles levelled. Each function is
//! one step that can be committed by compare-and-swap and repeated by another conductor. Never decides when.
//!
//! ```text
//! a member:  Up --remove--> Down --bring_back--> Syncing --admit, when it holds everything--> Up
//!            Draining --end_life--> Down;  whoever weighs nothing while nothing moves --leave--> Left
//! weights:   begin, or join with new members --flip, 256 partitions at a time, those whose learners hold everything--> finish
//!                                       \--turn_back: the same, the other way
//! ```

use crate::names::Incarnation;
use crate::placement::{PARTITION_COUNT, PartitionId};
use crate::ring::document::FORMAT_REPLICATED;
use crate::ring::partitions::PartitionSet;
use crate::ring::{Mode, Movement, NodeState, Replication, Ring, RingDocument, SlotEntry};
use crate::safeguard::{self, Safeguard};
use crate::table::{SLOT_COUNT_MAX, SlotId};

/// Partitions that change hands in one document: each waits for its hand-over meanwhile.
pub const FLIPS_MAX: usize = 256;

/// Passes over all partitions to level roles: three were enough for every ring measured.
const LEVEL_PASSES_MAX: usize = 16;

/// The same ring under the next epoch and term; `None` after the last.
pub fn next(ring: &Ring) -> Option<RingDocument> {
    let document = ring.document();
    let (epoch, term) = (document.epoch.next()?, document.term.next()?);
    Some(RingDocument { epoch, term, ..document.clone() })
}

/// The ring in format 2: from here on members keep their places and are filled before they count.
pub fn upgrade(ring: &Ring) -> Option<RingDocument> {
    if ring.document().replication.is_some() {
        return None;
    }
    let mut document = next(ring)?;
    document.format = FORMAT_REPLICATED;
    document.replication = Some(Box::new(Replication::fresh(&document)));
    Some(document)
}

/// Takes a member out that does not answer; the others that hold its partitions go on. In [`Mode::Sync`] not the last one that
/// holds a partition: nobody else has what was acknowledged.
pub fn remove(ring: &Ring, slot: SlotId) -> Option<RingDocument> {
    let state = ring.slot(slot).state;
    let keeps_last = ring.document().mode == Mode::Sync && state.serves();
    if state == NodeState::Down || (keeps_last && only_at(ring, slot).next().is_some()) {
        return None;
    }
    set_state(ring, slot, NodeState::Down)
}

/// Calls a member down whose life is over, and that is to have nothing: there is nothing to keep, so also where it had the last copy.
pub fn end_life(ring: &Ring, slot: SlotId) -> Option<RingDocument> {
    set_state(ring, slot, NodeState::Down)
}

/// Ends the membership of one that has no weight, while nothing moves.
pub fn leave(ring: &Ring, slot: SlotId) -> Option<RingDocument> {
    let is_still = ring.document().replication.as_ref()?.movement.is_none();
    let may_leave = is_still && ring.slot(slot).weight == 0;
    if may_leave { set_state(ring, slot, NodeState::Left) } else { None }
}

/// Partitions that a slot is to hold and no other one serves.
pub fn only_at(ring: &Ring, slot: SlotId) -> impl Iterator<Item = PartitionId> {
    PartitionId::all().filter(move |&partition| {
        let owners = ring.owners(partition);
        let mut others = owners.iter().filter(|&&other| other != slot);
        owners.contains(&slot) && !others.any(|&other| ring.slot(other).state.serves())
    })
}

/// Lets a member return, in the same life or another. It holds nothing until it is filled; where nobody is left to fill it, it
/// begins empty.
pub fn bring_back(ring: &Ring, slot: SlotId, incarnation: Incarnation) -> Option<RingDocument> {
    let filled = set_state(ring, slot, NodeState::Syncing);
    let mut document = filled.or_else(|| set_state(ring, slot, NodeState::Up))?;
    document.slots[usize::from(slot.0)].incarnation = incarnation;
    Some(document)
}

/// Counts a member that returned as in sync, when for each partition that it is to hold the primary says under this very ring
/// that its learners hold everything.
pub fn admit(ring: &Ring, slot: SlotId, is_ready: impl Fn(PartitionId) -> bool) -> Option<RingDocument> {
    let holds = |partition: &PartitionId| ring.owners(*partition).contains(&slot);
    let is_syncing = ring.slot(slot).state == NodeState::Syncing;
    let is_filled = PartitionId::all().filter(holds).all(is_ready);
    if is_syncing && (is_filled || !safeguard::holds(Safeguard::PromotionNeedsSync)) {
        set_state(ring, slot, NodeState::Up)
    } else {
        None
    }
}

fn set_state(ring: &Ring, slot: SlotId, state: NodeState) -> Option<RingDocument> {
    let mut document = next(ring)?;
    let index = usize::from(slot.0);
    document.slots[index].state = state;
    document.replication.as_mut()?.since[index] = document.epoch;
    document.validate().is_ok().then_some(document)
}

/// Begins to move to other weights, one for each slot: joining is a weight from 0, draining one to 0. One at a time.
pub fn begin(ring: &Ring, weights: Vec<u16>) -> Option<RingDocument> {
    let mut document = next(ring)?;
    let since = document.epoch;
    let replication = document.replication.as_mut()?;
    let is_same = ring.document().slots.iter().map(|slot| slot.weight).eq(weights.iter().copied());
    if replication.movement.is_some() || is_same {
        return None;
    }
    let flipped = PartitionSet::default();
    replication.movement = Some(Movement { since, weights, flipped, joined_from: None, left_from: None });
    document.validate().is_ok().then_some(document)
}

/// Takes members in and begins to move to the weights that they bring: each in the slot that was its own, the lowest that is free, or a new one. Those
/// for whom there is no room, or whose names or addresses are taken, stay outside.
pub fn join(ring: &Ring, joiners: impl IntoIterator<Item = SlotEntry>) -> Option<RingDocument> {
    let mut document = next(ring)?;
    let since = document.epoch;
    let before = document.slots.len();
    let weights: Vec<_> = document.slots.iter().map(|slot| slot.weight).collect();
    let replication = document.replication.as_mut()?;
    if replication.movement.is_some() {
        return None;
    }
    let (flipped, joined_from) = (PartitionSet::default(), u16::try_from(before).ok());
    replication.movement = Some(Movement { since, weights, flipped, joined_from, left_from: None });
    let mut has_joined = false;
    for joiner in joiners {
        let joined = with_member(&document, joiner).filter(|joined| joined.validate().is_ok());
        has_joined |= joined.is_some();
        document = joined.unwrap_or(document);
    }
    if let Some(movement) = document.replication.as_mut()?.movement.as_mut()
        && document.slots.len() == before
    {
        movement.joined_from = None;
    }
    has_joined.then_some(document)
}

fn with_member(document: &RingDocument, joiner: SlotEntry) -> Option<RingDocument> {
    let mut document = document.clone();
    let since = document.epoch;
    let weight = joiner.weight;
    let entry = SlotEntry { weight: 0, state: NodeState::Up, ..joiner };
    let replication = document.replication.as_mut()?;
    let movement = replication.movement.as_mut()?;
    let is_free = |slot: &SlotEntry| slot.state == NodeState::Left;
    let was_its = |slot: &SlotEntry| is_free(slot) && slot.node == entry.node;
    let free = document.slots.iter().position(was_its).or_else(|| document.slots.iter().position(is_free));
    if let Some(free) = free {
        document.slots[free] = entry;
        (replication.since[free], movement.weights[free]) = (since, weight);
        return Some(document);
    }
    document.slots.push(entry);
    replication.since.push(since);
    movement.weights.push(weight);
    (document.slots.len() <= SLOT_COUNT_MAX).then_some(document)
}

/// As [`flip_up_to`], of [`FLIPS_MAX`] partitions.
pub fn flip(
    ring: &Ring,
    is_ready: impl Fn(PartitionId) -> bool,
    is_given_up: impl Fn(SlotId) -> bool,
) -> Option<RingDocument> {
    flip_up_to(ring, FLIPS_MAX, is_ready, is_given_up)
}

/// Gives up to `flips_max` partitions to their new owners: those without learners, and those of which the primary says under
/// this very ring that its learners hold everything. An heir must have begun under this ring too: what it held before is void. A
/// primary that stays an owner stays primary. Partitions whose owners stay the same change no hands, so all of them go at once.
///
/// A partition that fewer would hold afterwards waits until its new owners are there, or given up.
pub fn flip_up_to(
    ring: &Ring,
    flips_max: usize,
    is_ready: impl Fn(PartitionId) -> bool,
    is_given_up: impl Fn(SlotId) -> bool,
) -> Option<RingDocument> {
    let serves = |slot: &&SlotId| ring.slot(**slot).state.serves();
    let can_flip = |&partition: &PartitionId| {
        if ring.coming_owners(partition).is_none() || !ring.awaited_for(partition).all(&is_given_up) {
            return false;
        }
        let assignment = ring.assignment(partition);
        let waits = assignment.is_gutter || !assignment.learners.is_empty();
        !waits || is_ready(partition)
    };
    let stays = |&partition: &PartitionId| ring.coming_owners(partition) == Some(ring.owners(partition));
    let (mut flips, moving): (Vec<_>, Vec<_>) = PartitionId::all().filter(can_flip).partition(stays);
    flips.extend(moving.into_iter().take(flips_max));
    if flips.is_empty() {
        return None;
    }
    let mut document = next(ring)?;
    let replication = document.replication.as_mut()?;
    for &partition in &flips {
        let coming = ring.coming_owners(partition)?;
        let stays = coming.iter().position(|&slot| slot == ring.primary(partition));
        let held = || coming.iter().position(|slot| serves(&slot));
        // Where nobody serves, the first one is as good as any.
        replication.roles.set(partition, stays.or_else(held).unwrap_or(0));
        replication.movement.as_mut()?.flipped.insert(partition);
    }
    Some(document)
}

/// Turns a movement back: partitions that did not flip stay with their owners, those that did are filled anew where they were, and
/// flip. Who was to have something first by this movement leaves with it, and so do the slots that were made for it.
pub fn turn_back(ring: &Ring) -> Option<RingDocument> {
    let mut document = next(ring)?;
    let since = document.epoch;
    let movement = document.replication.as_mut()?.movement.as_mut()?;
    movement.since = since;
    movement.flipped = movement.flipped.others();
    std::mem::swap(&mut movement.joined_from, &mut movement.left_from);
    for (slot, weight) in document.slots.iter_mut().zip(&mut movement.weights) {
        std::mem::swap(&mut slot.weight, weight);
        match slot.state {
            NodeState::Up if *weight == 0 && slot.weight > 0 => slot.state = NodeState::Draining,
            NodeState::Draining if *weight > 0 => slot.state = NodeState::Up,
            _ => {}
        }
    }
    document.validate().is_ok().then_some(document)
}

/// Ends a movement whose partitions all have their new owners. A member without a weight that drains, or is down, has left.
pub fn finish(ring: &Ring) -> Option<RingDocument> {
    let mut document = next(ring)?;
    let replication = document.replication.as_mut()?;
    if replication.movement.as_ref()?.flipped.len() < PARTITION_COUNT {
        return None;
    }
    let movement = replication.movement.take()?;
    for (slot, weight) in document.slots.iter_mut().zip(movement.weights) {
        slot.weight = weight;
        if matches!(slot.state, NodeState::Draining | NodeState::Down) && weight == 0 {
            slot.state = NodeState::Left;
        }
    }
    let stay = movement.left_from.map_or(document.slots.len(), usize::from);
    document.slots.truncate(stay);
    document.replication.as_mut()?.since.truncate(stay);
    document.validate().is_ok().then_some(document)
}

/// Moves up to [`FLIPS_MAX`] primary roles to copies whose nodes have too few for their weights: no data moves. `None`:
/// they are level, or something else is under way.
pub fn level(ring: &Ring) -> Option<RingDocument> {
    let is_settled = ring.document().replication.as_ref()?.movement.is_none()
        && !ring.document().slots.iter().any(|slot| slot.state.is_away());
    let mut document = next(ring)?;
    let roles = &mut document.replication.as_mut()?.roles;
    let mut moves = if is_settled { level_moves(ring) } else { Vec::new() };
    moves.truncate(FLIPS_MAX);
    for &(partition, place) in &moves {
        roles.set(partition, place);
    }
    (!moves.is_empty()).then_some(document)
}

fn level_moves(ring: &Ring) -> Vec<(PartitionId, usize)> {
    let mut loads = vec![0_u64; ring.document().slots.len()];
    let mut primaries: Vec<SlotId> = PartitionId::all().map(|partition| ring.primary(partition)).collect();
    primaries.iter().for_each(|slot| loads[usize::from(slot.0)] += 1);
    let weight = |slot: SlotId| u64::from(ring.slot(slot).weight.max(1));
    for _ in 0..LEVEL_PASSES_MAX {
        let mut is_level = true;
        for (partition, primary) in PartitionId::all().zip(&mut primaries) {
            // By cross-multiplication, whether another copy has less to do even with this partition.
            let load = |slot: SlotId| loads[usize::from(slot.0)];
            let eases = |&&to: &&SlotId| (load(to) + 1) * weight(*primary) < load(*primary) * weight(to);
            let others = ring.owners(partition).iter().filter(|&slot| slot != primary).filter(eases);
            if let Some(&to) = others.min_by_key(|&&slot| load(slot) * 65_536 / weight(slot)) {
                loads[usize::from(primary.0)] -= 1;
                loads[usize::from(to.0)] += 1;
                *primary = to;
                is_level = false;
            }
        }
        if is_level {
            break;
        }
    }
    let place = |partition, slot| ring.owners(partition).iter().position(|&owner| owner == slot);
    let moved = PartitionId::all().zip(primaries).filter(|&(partition, to)| ring.primary(partition) != to);
    moved.filter_map(|(partition, to)| Some((partition, place(partition, to)?))).collect()
}

#[cfg(test)]
mod tests;
