//! What follows a ring whose members hold copies: one step of [`crate::migrate`] at a time, the most urgent first. Each looks at the
//! ring and at what nodes say now, so another conductor goes on where the last one ended.

use std::collections::BTreeSet;

use super::{Conductor, Judgement, entry, has_place, leaves_half};
use crate::coordinator::{NodeDescription, View};
use crate::migrate;
use crate::names::NodeId;
use crate::placement::PartitionId;
use crate::report::{Report, Wish};
use crate::ring::{NodeState, Ring, RingDocument, SlotEntry};
use crate::table::SlotId;
use crate::time::Micros;

/// Removals after which the calm that a member must show does not grow any more: a minute.
const CALM_DOUBLINGS_MAX: u32 = 6;

impl Conductor {
    /// The next document of a ring in format 2.
    pub(super) fn decide_replicated(
        &mut self,
        now: Micros,
        view: &View,
        ring: &Ring,
    ) -> Option<RingDocument> {
        self.look_for_quiet(now, ring);
        self.remove(now, view, ring)
            .or_else(|| self.bring_back(now, view, ring))
            .or_else(|| admit(view, ring))
            .or_else(|| self.go_on(now, view, ring))
            .or_else(|| self.let_go(now, view, ring))
            .or_else(|| self.take_in(now, view, ring))
            .or_else(|| self.reweigh(now, view, ring))
            .or_else(|| self.level(now, ring))
    }

    /// Notes since when the members are as they are and nothing moves. That roles are levelled is no unrest.
    fn look_for_quiet(&mut self, now: Micros, ring: &Ring) {
        let slots = &ring.document().slots;
        if is_moving(ring) || self.quiet.0 != *slots {
            self.quiet = (slots.clone(), now);
        }
    }

    /// Takes out a member that does not answer, or is to be out: first whom most others call silent.
    fn remove(&mut self, now: Micros, view: &View, ring: &Ring) -> Option<RingDocument> {
        let mut gone: Vec<_> = members(ring).filter_map(|slot| self.is_gone(view, ring, slot)).collect();
        gone.sort_by_key(|(urgency, _)| std::cmp::Reverse(*urgency));
        let lost_zone = lost_zone(view, ring);
        for (urgency, (slot, entry)) in gone {
            let is_wished = urgency == u32::MAX;
            let is_time = !self.rests(now, ring.document()) || lost_zone == Some(&entry.zone);
            let may_go = is_wished || !entry.state.serves() || (is_time && leaves_half(ring.document()));
            let Some(next) = migrate::remove(ring, slot).filter(|_| may_go) else { continue };
            if entry.state.serves() && !is_wished {
                self.removed = Some((entry.node.clone(), now));
            }
            self.note_removal(now, &entry.node);
            return Some(next);
        }
        None
    }

    /// How urgent it is to remove a member, if it is: by the operator's wish, by the number of those who miss it, or because its
    /// own word is missing.
    fn is_gone<'r>(
        &self,
        view: &View,
        ring: &'r Ring,
        (slot, entry): (SlotId, &'r SlotEntry),
    ) -> Option<(u32, (SlotId, &'r SlotEntry))> {
        let accusers = accusers(view, ring, slot);
        let is_over = |since: &Micros| view.read_at.since(*since) >= self.judgement.down_after;
        let is_absent = self.absent.get(&entry.node).is_some_and(is_over);
        let is_unwished = view.wishes.get(&entry.node) == Some(&Wish::Down);
        let urgency = if is_unwished { u32::MAX } else { accusers };
        let is_gone = is_unwished || is_absent || accusers >= accusers_needed(ring);
        is_gone.then_some((urgency, (slot, entry)))
    }

    /// Whether so many members miss a node that it may be removed for it.
    pub(crate) fn is_missed(&self, view: &View, ring: &Ring, node: &NodeId) -> bool {
        let slot = members(ring).find(|(_, entry)| entry.node == *node);
        slot.is_some_and(|(slot, _)| accusers(view, ring, slot) >= accusers_needed(ring))
    }

    fn note_removal(&mut self, now: Micros, node: &NodeId) {
        let known = self.removals.get(node).filter(|(_, at)| now.since(*at) < self.judgement.forgets_after);
        let count = known.map_or(0, |(count, _)| *count) + 1;
        self.removals.insert(node.clone(), (count, now));
    }

    /// From when on a member that was removed may return: it must have been there and a member no more for so long.
    pub(super) fn calm_at(&self, node: &NodeId) -> Option<Micros> {
        let (_, since) = self.present.get(node)?;
        let (count, removed_at) = self.removals.get(node).copied().unwrap_or((1, *since));
        let doublings = (count - 1).min(CALM_DOUBLINGS_MAX);
        Some(removed_at.max(*since) + Micros(self.judgement.up_after.0 << doublings))
    }

    /// Lets a member return that was removed, or that is there in another life: it is filled before it counts.
    fn bring_back(&self, now: Micros, view: &View, ring: &Ring) -> Option<RingDocument> {
        let all = ring.document().slots.iter().enumerate();
        for (index, entry) in all.filter(|(_, entry)| entry.state != NodeState::Left) {
            let slot = SlotId(u16::try_from(index).expect("a ring has at most SLOT_COUNT_MAX slots"));
            let Some(described) = view.nodes.get(&entry.node) else { continue };
            let is_down = entry.state == NodeState::Down;
            let is_calm = || self.calm_at(&entry.node).is_some_and(|at| at <= now);
            let is_heard = || accusers(view, ring, slot) == 0 && lives_on(view, ring, slot, described);
            let is_unwished = view.wishes.get(&entry.node) == Some(&Wish::Down);
            // The life that the ring means is over, whatever else: nobody is served by it.
            let is_new = !entry.incarnation.admits(described.incarnation) && !is_down;
            // Who has nothing when this movement is over need not be filled for it: it leaves then, and joins anew.
            let may_return = is_down && !leaves(ring, slot);
            // For the same reason its place ends with the life that gave it away.
            if is_new
                && leaves(ring, slot)
                && let Some(ended) = migrate::end_life(ring, slot)
            {
                return Some(ended);
            }
            if !is_unwished && (is_new || (may_return && is_calm() && is_heard())) {
                return return_of(ring, slot, described);
            }
        }
        None
    }

    /// Takes in those who are there and have no place.
    fn take_in(&self, now: Micros, view: &View, ring: &Ring) -> Option<RingDocument> {
        let is_calm = |node: &NodeId| self.calm_at(node).is_some_and(|at| at <= now);
        let joiners = self.ready(now).filter(|described| !has_place(ring.document(), &described.node));
        let joiners = joiners.filter(|described| is_calm(&described.node));
        let joiners = joiners.filter_map(|described| match view.wishes.get(&described.node) {
            None if described.stands_by() => None,
            None => Some(entry(described)),
            Some(Wish::Weight(weight)) if *weight > 0 => {
                Some(SlotEntry { weight: *weight, ..entry(described) })
            }
            Some(_) => None,
        });
        let joiners: Vec<_> = joiners.collect();
        if joiners.is_empty() { None } else { migrate::join(ring, joiners) }
    }

    /// Whether a member was away for too long. Whether it lives makes no difference: it may be wished down, or reach nobody.
    fn is_given_up(&self, now: Micros, entry: &SlotEntry) -> bool {
        let is_over = |since: &Micros| now.since(*since) >= self.judgement.grace;
        entry.state == NodeState::Down && self.away.get(&entry.node).is_some_and(is_over)
    }

    /// Goes on moving. A new owner that is down is not waited for when it was for too long, or is wished away: another movement
    /// gives its place to others.
    fn go_on(&self, now: Micros, view: &View, ring: &Ring) -> Option<RingDocument> {
        if !is_moving(ring) {
            return None;
        }
        if self.turns_back(now, view, ring) {
            return migrate::turn_back(ring);
        }
        let words = Words::of(view, ring);
        let is_unwanted = |entry: &SlotEntry| entry.state == NodeState::Down && is_wished_away(view, entry);
        let is_given_up = |slot| self.is_given_up(now, ring.slot(slot)) || is_unwanted(ring.slot(slot));
        let flips_max = self.judgement.flips_max;
        migrate::flip_up_to(ring, flips_max, |partition| words.is_ready(partition), is_given_up)
            .or_else(|| migrate::finish(ring))
    }

    /// Whether the movement that is under way is to turn back: it waits for a member that was to get more by it and is down for too long, or
    /// is to have nothing. Not when the way back needs one that is down as well.
    fn turns_back(&self, now: Micros, view: &View, ring: &Ring) -> bool {
        let is_over = |since: &Micros| now.since(*since) >= self.judgement.turn_back_after;
        let is_lost = |entry: &SlotEntry| {
            is_wished_away(view, entry) || self.away.get(&entry.node).is_some_and(is_over)
        };
        let mut lost = newcomers_down(ring);
        lost.retain(|slot| is_lost(ring.slot(*slot)));
        !lost.is_empty() && ring.awaited().iter().any(|slot| lost.contains(slot))
    }

    /// Members that are down and that the movement waits for: until when, and whether it turns back then.
    pub(super) fn awaited(&self, ring: &Ring) -> Vec<(NodeId, Micros, bool)> {
        let newcomers = newcomers_down(ring);
        let told = |slot: SlotId| {
            let node = &ring.slot(slot).node;
            let turns_back = newcomers.contains(&slot);
            let Judgement { turn_back_after, grace, .. } = self.judgement;
            let until = *self.away.get(node)? + if turns_back { turn_back_after } else { grace };
            Some((node.clone(), until, turns_back))
        };
        let down = |slot: &SlotId| ring.slot(*slot).state == NodeState::Down;
        ring.awaited().into_iter().filter(down).filter_map(told).collect()
    }

    /// Lets go who has nothing already and is to leave, or was away for too long. No keys move by it.
    fn let_go(&self, now: Micros, view: &View, ring: &Ring) -> Option<RingDocument> {
        let is_to_leave = |entry: &SlotEntry| {
            view.wishes.get(&entry.node) == Some(&Wish::Drain) || self.is_given_up(now, entry)
        };
        let all = (0..).map(SlotId).zip(&ring.document().slots);
        let mut idle = all.filter(|(_, entry)| entry.weight == 0 && entry.state != NodeState::Left);
        let (slot, _) = idle.find(|(_, entry)| is_to_leave(entry))?;
        migrate::leave(ring, slot)
    }

    /// Begins to move to the weights that are wished for. Who was away for too long weighs nothing, and so does who is wished down
    /// when anything moves: it would be waited for, or copies would be missing where it was to have them.
    fn reweigh(&self, now: Micros, view: &View, ring: &Ring) -> Option<RingDocument> {
        let wished = |entry: &SlotEntry| match view.wishes.get(&entry.node) {
            _ if self.is_given_up(now, entry) => 0,
            // Who is down gets no more: it would be waited for.
            Some(Wish::Weight(weight)) if entry.state == NodeState::Down => entry.weight.min(*weight),
            Some(Wish::Weight(weight)) => *weight,
            Some(Wish::Drain) => 0,
            Some(Wish::Down) | None => entry.weight,
        };
        let slots = &ring.document().slots;
        let weights = slots
            .iter()
            .map(|entry| if entry.state == NodeState::Left { entry.weight } else { wished(entry) });
        let mut weights: Vec<_> = weights.collect();
        if !slots.iter().map(|entry| entry.weight).eq(weights.iter().copied()) {
            let is_out = |entry: &SlotEntry| {
                entry.state == NodeState::Down && view.wishes.get(&entry.node) == Some(&Wish::Down)
            };
            let out = weights.iter_mut().zip(slots).filter(|(_, entry)| is_out(entry));
            out.for_each(|(weight, _)| *weight = 0);
        }
        let mut next = migrate::begin(ring, weights)?;
        for entry in next.slots.iter_mut().filter(|entry| entry.state == NodeState::Up) {
            if view.wishes.get(&entry.node) == Some(&Wish::Drain) {
                entry.state = NodeState::Draining;
            }
        }
        Some(next)
    }

    /// Levels the roles of a ring that has been quiet for a while.
    fn level(&mut self, now: Micros, ring: &Ring) -> Option<RingDocument> {
        let is_quiet = now.since(self.quiet.1) >= self.judgement.level_after;
        let is_handed_over = self.levelled_at.is_none_or(|at| now.since(at) >= self.judgement.level_pause);
        if !is_quiet || !is_handed_over || self.level == ring.epoch() {
            return None;
        }
        let next = migrate::level(ring);
        if next.is_some() {
            self.levelled_at = Some(now);
        } else {
            self.level = ring.epoch();
        }
        next
    }
}

/// Slots of those who serve or are being filled.
fn members(ring: &Ring) -> impl Iterator<Item = (SlotId, &SlotEntry)> {
    let slots = (0..).map(SlotId).zip(&ring.document().slots);
    slots.filter(|(_, entry)| entry.state.serves() || entry.state == NodeState::Syncing)
}

fn is_moving(ring: &Ring) -> bool {
    ring.document().replication.as_ref().is_some_and(|known| known.movement.is_some())
}

/// Whether a member is to have nothing, or to be out.
fn is_wished_away(view: &View, entry: &SlotEntry) -> bool {
    matches!(view.wishes.get(&entry.node), Some(Wish::Drain | Wish::Weight(0) | Wish::Down))
}

/// Members that are down and were to get more by the movement that is under way. None where one that is down as well had more before: the
/// way back would need it.
fn newcomers_down(ring: &Ring) -> Vec<SlotId> {
    let movement = ring.document().replication.as_ref().and_then(|known| known.movement.as_ref());
    let weights = movement.into_iter().flat_map(|movement| &movement.weights);
    let all = (0..).map(SlotId).zip(&ring.document().slots).zip(weights);
    let down = all.filter(|((_, entry), _)| entry.state == NodeState::Down);
    let changes: Vec<_> = down.map(|((slot, entry), weight)| (slot, weight.cmp(&entry.weight))).collect();
    let has_way_back = !changes.iter().any(|(_, change)| change.is_lt());
    let newcomers = changes.into_iter().filter(|(_, change)| has_way_back && change.is_gt());
    newcomers.map(|(slot, _)| slot).collect()
}

/// Whether a member has nothing when the movement that is under way is over.
fn leaves(ring: &Ring, slot: SlotId) -> bool {
    let movement = ring.document().replication.as_ref().and_then(|known| known.movement.as_ref());
    movement.is_some_and(|movement| movement.weights[usize::from(slot.0)] == 0)
}

/// Members that are there and miss another one, under a ring that knew it in its present state. Of two who miss each other the
/// conductor is believed.
fn accusing<'r>(
    view: &'r View,
    ring: &'r Ring,
    accused: SlotId,
) -> impl Iterator<Item = &'r SlotEntry> + use<'r> {
    let since = ring.document().replication.as_ref().map(|known| known.since[usize::from(accused.0)]);
    let leads = |entry: &SlotEntry| view.leader.as_ref().is_some_and(|leader| leader.node == entry.node);
    let is_trusted = is_pair(ring) && leads(ring.slot(accused));
    let says = move |entry: &SlotEntry, report: &Report| {
        let is_its_own = entry.incarnation.admits(report.incarnation) && Some(report.epoch) >= since;
        is_its_own && report.silent.contains(&accused.0)
    };
    let serving = members(ring).map(|(_, entry)| entry).filter(|entry| entry.state.serves());
    serving.filter(move |entry| {
        let is_there = !is_trusted && view.nodes.contains_key(&entry.node);
        is_there && view.reports.get(&entry.node).is_some_and(|report| says(entry, report))
    })
}

fn accusers(view: &View, ring: &Ring, accused: SlotId) -> u32 {
    accusing(view, ring, accused).fold(0, |count, _| count + 1)
}

/// The zone that was lost as a whole: the leases of all its members that serve have ended, and each other zone misses each of
/// them. Two witnesses that know nothing of each other, so the pause between removals is not needed for it.
fn lost_zone<'r>(view: &View, ring: &'r Ring) -> Option<&'r str> {
    let serving: Vec<_> = members(ring).filter(|(_, entry)| entry.state.serves()).collect();
    let zones: BTreeSet<_> = serving.iter().map(|(_, entry)| entry.zone.as_str()).collect();
    let is_lost = |zone: &&str| {
        let others = || zones.iter().filter(|other| *other != zone);
        let mut all = serving.iter().filter(|(_, entry)| entry.zone == **zone);
        let is_missed_by = |slot, other: &str| accusing(view, ring, slot).any(|entry| entry.zone == *other);
        others().next().is_some()
            && all.all(|&(slot, entry)| {
                !view.nodes.contains_key(&entry.node) && others().all(|other| is_missed_by(slot, other))
            })
    };
    zones.iter().copied().find(is_lost)
}

fn is_pair(ring: &Ring) -> bool {
    members(ring).filter(|(_, entry)| entry.state.serves()).count() == 2
}

fn accusers_needed(ring: &Ring) -> u32 {
    if is_pair(ring) { 1 } else { 2 }
}

/// Whether a node that was removed said something since, or began another life. That it is registered shows nothing: so is a dead one
/// until its lease has ended.
fn lives_on(view: &View, ring: &Ring, slot: SlotId, described: &NodeDescription) -> bool {
    let since = ring.document().replication.as_ref().map(|known| known.since[usize::from(slot.0)]);
    let is_another_life = !ring.slot(slot).incarnation.admits(described.incarnation);
    let speaks = |report: &Report| report.incarnation == described.incarnation && Some(report.epoch) >= since;
    is_another_life || view.reports.get(&described.node).is_some_and(speaks)
}

/// Its zone and weight stay what the ring says: another zone would move what nobody has streamed.
fn return_of(ring: &Ring, slot: SlotId, described: &NodeDescription) -> Option<RingDocument> {
    let mut next = migrate::bring_back(ring, slot, described.incarnation)?;
    let entry = &mut next.slots[usize::from(slot.0)];
    let NodeDescription { client, peer, shards, .. } = described.clone();
    (entry.client, entry.peer, entry.shards) = (client, peer, shards);
    next.validate().is_ok().then_some(next)
}

fn admit(view: &View, ring: &Ring) -> Option<RingDocument> {
    let words = Words::of(view, ring);
    let syncing = members(ring).filter(|(_, entry)| entry.state == NodeState::Syncing);
    syncing
        .map(|(slot, _)| slot)
        .find_map(|slot| migrate::admit(ring, slot, |partition| words.is_ready(partition)))
}

/// What each member says under this very ring.
struct Words<'a> {
    ring: &'a Ring,
    by_slot: Vec<Option<&'a Report>>,
}

impl<'a> Words<'a> {
    fn of(view: &'a View, ring: &'a Ring) -> Self {
        let counts = |entry: &SlotEntry, report: &Report| {
            entry.incarnation.admits(report.incarnation) && report.epoch == ring.epoch()
        };
        let word = |entry: &SlotEntry| view.reports.get(&entry.node).filter(|report| counts(entry, report));
        Self { ring, by_slot: ring.document().slots.iter().map(word).collect() }
    }

    fn is_ready(&self, partition: PartitionId) -> bool {
        let primary = self.ring.primary(partition);
        self.by_slot[usize::from(primary.0)].is_some_and(|report| report.ready.contains(partition))
    }
}
