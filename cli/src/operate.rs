//! `cluster join`, `drain`, `weight` and `down`: a wish for a node, written where the ring is kept, and what comes of it. The nodes do
//! the work by themselves, step by step, so whoever waits here may stop at any time; the same command goes on waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use slabring_client::cluster::migrate::{self, FLIPS_MAX};
use slabring_client::cluster::names::NodeId;
use slabring_client::cluster::placement::{PARTITION_COUNT, PartitionId};
use slabring_client::cluster::replica::COPIED_ITEM_BYTES_MAX;
use slabring_client::cluster::report::Wish;
use slabring_client::cluster::ring::{Mode, NodeState, Ring, RingDocument, SlotEntry};
use slabring_client::cluster::table::{SlotId, Weight};
use slabring_client::{Client, Servers};
use slabring_etcd::{ClusterKeys, Standing};

use crate::args::{NodeArguments, Target};
use crate::cluster::{percent, state, words};
use crate::failure::Failure;
use crate::loss::Loss;
use crate::show::{Moment, Plan, Show};
use crate::waits;
use crate::{Verdict, is_confirmed};

/// Time from one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// To serve, with this share or the one it had.
    Join(Option<u16>),
    /// To have this share.
    Weight(u16),
    /// To have nothing.
    Drain,
    /// To be out.
    Down,
}

/// One verb for one node.
#[derive(Debug)]
pub(crate) struct Operation<'a> {
    keys: &'a ClusterKeys,
    target: &'a Target,
    arguments: &'a NodeArguments,
    standing: Standing,
    ring: Ring,
    node: NodeId,
    wish: Wish,
    is_join: bool,
    /// As of the beginning.
    loss: Loss,
}

/// The ring of a cluster that has one.
pub(crate) fn ring_of(standing: &Standing) -> Result<Ring, Failure> {
    let document = standing.ring.clone().ok_or(Failure::NoRing)?;
    Ring::new(document).map_err(|refusal| Failure::Ring(refusal.to_string()))
}

/// A client of all members.
pub(crate) fn client_of(ring: &Ring, target: &Target) -> Result<Client, Failure> {
    let members: Vec<_> = members(ring.document()).map(|(_, slot)| slot.client.to_string()).collect();
    Ok(Client::new(&Servers::ring(members.iter().map(String::as_str))?, target.options()))
}

fn members(document: &RingDocument) -> impl Iterator<Item = (SlotId, &SlotEntry)> {
    (0..).map(SlotId).zip(&document.slots).filter(|(_, slot)| slot.state != NodeState::Left)
}

impl<'a> Operation<'a> {
    /// What is to be done for the node that is named. Nothing has changed yet.
    pub(crate) fn new(
        keys: &'a ClusterKeys,
        target: &'a Target,
        arguments: &'a NodeArguments,
        goal: Goal,
    ) -> Result<Self, Failure> {
        let standing = keys.read()?;
        let ring = ring_of(&standing)?;
        let node = find(&standing, &ring, &arguments.node)?;
        let wish = match goal {
            Goal::Join(weight) => Wish::Weight(weight.unwrap_or_else(|| share_of(&standing, &ring, &node))),
            Goal::Weight(weight) => Wish::Weight(weight),
            Goal::Drain => Wish::Drain,
            Goal::Down => Wish::Down,
        };
        let is_join = matches!(goal, Goal::Join(_));
        let loss = Loss::of(&standing, &ring, &node, wish);
        let operation = Self { keys, target, arguments, standing, ring, node, wish, is_join, loss };
        operation.check()?;
        Ok(operation)
    }

    /// Makes the wish, unless it stands already, and waits until it is fulfilled.
    pub(crate) fn carry_out(mut self, mut show: Show) -> Result<Verdict, Failure> {
        let is_interrupted = Arc::new(AtomicBool::new(false));
        if self.is_to_be_wished() {
            let plan = self.announcement();
            show.announce(&plan)?;
            if self.needs_consent(plan.copies) && !self.arguments.yes && !is_confirmed("Go on?")? {
                return Err(Failure::NotWanted);
            }
        }
        // From here on Ctrl-C ends the waiting with a word about what goes on.
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&is_interrupted))?;
        }
        if self.is_to_be_wished() {
            self.keys.wish(&self.node, self.wish)?;
        }
        if self.arguments.no_wait {
            show.show(&self.moment())?;
            return Ok(Verdict::Done);
        }
        self.wait(&mut show, &is_interrupted)
    }

    fn wait(&mut self, show: &mut Show, is_interrupted: &AtomicBool) -> Result<Verdict, Failure> {
        let mut shown = None;
        loop {
            self.look()?;
            let moment = self.moment();
            if shown.as_ref() != Some(&moment) {
                show.show(&moment)?;
            }
            if moment.is_done {
                return Ok(Verdict::Done);
            }
            self.check_standing()?;
            shown = Some(moment);
            std::thread::sleep(LOOK_EVERY);
            if is_interrupted.load(Ordering::Relaxed) {
                return Err(Failure::Interrupted);
            }
        }
    }

    fn look(&mut self) -> Result<(), Failure> {
        let standing = self.keys.read()?;
        if standing.ring != self.standing.ring {
            self.ring = ring_of(&standing)?;
        }
        self.standing = standing;
        Ok(())
    }

    /// That the wish stands: nobody works at one that was replaced or deleted.
    fn check_standing(&self) -> Result<(), Failure> {
        match self.standing.wishes.get(&self.node) {
            Some(now) if *now == self.wish => Ok(()),
            Some(now) => Err(Failure::Overruled { node: self.node.to_string(), now: words(*now) }),
            None => Err(Failure::Forgotten(self.node.to_string())),
        }
    }

    fn member(&self) -> Option<(SlotId, &SlotEntry)> {
        members(self.ring.document()).find(|(_, slot)| slot.node == self.node)
    }

    /// What happens, or what is waited for.
    fn moment(&self) -> Moment {
        let document = self.ring.document();
        let is_done =
            self.is_done() && (self.standing.wishes.get(&self.node) == Some(&self.wish) || self.is_quiet());
        let what = if is_done { self.result() } else { self.doing() };
        let waits = if is_done { Vec::new() } else { waits::waits(&self.ring, &self.standing) };
        Moment { epoch: document.epoch.0, what, progress: self.ring.progress(), waits, is_done }
    }

    fn result(&self) -> String {
        let node = &self.node;
        match self.wish {
            Wish::Weight(_) if self.member().is_none() => {
                format!("{node} holds nothing and has left; `join` takes it in again")
            }
            Wish::Weight(weight) => format!("{node} serves with weight {weight}"),
            Wish::Drain if self.loss.is_absent => {
                format!("{node} has left the ring; it was not there, so what only it had is lost")
            }
            Wish::Drain => {
                format!("{node} holds nothing any more and may be stopped; `join` takes it in again")
            }
            Wish::Down => format!("{node} is out; `join` takes it in again"),
        }
    }

    fn doing(&self) -> String {
        if self.standing.conductor.is_none() {
            return "nobody decides on changes of the ring now: waits for a node that does".to_owned();
        }
        if self.ring.progress().is_some() {
            return "moving".to_owned();
        }
        if self.member().is_none() && !self.standing.nodes.contains_key(&self.node) {
            return format!("{} is not there any more: it joins when it is started again", self.node);
        }
        if let Some(why) = waits::unreached(&self.standing, &self.node) {
            return why;
        }
        let is_away = |slot: &SlotEntry| slot.state.is_away();
        if let Some((_, slot)) = members(self.ring.document()).find(|(_, slot)| is_away(slot)) {
            return format!("{} is {}", slot.node, state(slot.state));
        }
        "waits for the next change of the ring".to_owned()
    }

    /// Whether nothing is wished for the node that leads elsewhere.
    fn is_quiet(&self) -> bool {
        !self.standing.wishes.contains_key(&self.node)
    }

    /// Whether the ring is as it is wished to be.
    fn is_done(&self) -> bool {
        let is_still = self.ring.progress().is_none();
        match (self.wish, self.member()) {
            (Wish::Weight(weight), Some((_, slot))) => {
                is_still && slot.state == NodeState::Up && slot.weight == weight
            }
            // Who is to have nothing and is down leaves.
            (Wish::Weight(weight), None) => is_still && weight == 0,
            (Wish::Drain, member) => is_still && member.is_none(),
            (Wish::Down, member) => member.is_none_or(|(_, slot)| slot.state == NodeState::Down),
        }
    }

    fn is_to_be_wished(&self) -> bool {
        // Who is out and is to stay so must be told, or it returns.
        let needs_word = self.wish == Wish::Down
            || self.member().is_none() && self.standing.nodes.contains_key(&self.node);
        let is_there = self.is_done() && self.is_quiet() && !needs_word;
        self.standing.wishes.get(&self.node) != Some(&self.wish) && !is_there
    }

    /// Whether it takes something away, or cannot be taken back.
    fn needs_consent(&self, copies: (usize, usize)) -> bool {
        let is_first = self.ring.document().replication.is_none();
        is_first || takes_away(self.wish, self.loss, copies)
    }

    /// Members beside the node that hold something, or will.
    fn others(&self) -> impl Iterator<Item = &SlotEntry> {
        let movement = self.ring.document().replication.as_ref().and_then(|known| known.movement.as_ref());
        let weight = move |(slot, entry): &(SlotId, &SlotEntry)| {
            movement.map_or(entry.weight, |movement| movement.weights[usize::from(slot.0)])
        };
        let is_to_go = |node: &NodeId| {
            let wish = self.standing.wishes.get(node);
            matches!(wish, Some(Wish::Drain | Wish::Down | Wish::Weight(0)))
        };
        let others = members(self.ring.document()).filter(move |member| weight(member) > 0);
        others.map(|(_, entry)| entry).filter(move |entry| entry.node != self.node && !is_to_go(&entry.node))
    }

    /// Copies that each partition should have, and how many that with the fewest has afterwards.
    fn copies(&self) -> (usize, usize) {
        let wanted = usize::from(self.ring.document().replicas);
        let left = match self.wish {
            Wish::Weight(1..) => wanted,
            Wish::Weight(0) | Wish::Drain => wanted.min(self.others().count()),
            Wish::Down => self.copies_without(),
        };
        (wanted, left)
    }

    /// The fewest copies of a partition that are served when the node is not.
    fn copies_without(&self) -> usize {
        let serves = |slot: &&SlotId| {
            let entry = self.ring.slot(**slot);
            entry.state.serves() && entry.node != self.node
        };
        let copies = |partition| self.ring.owners(partition).iter().filter(serves).count();
        PartitionId::all().map(copies).min().unwrap_or_default()
    }

    /// What is going to happen.
    fn announcement(&self) -> Plan {
        let node = &self.node;
        let mut text = match self.wish {
            Wish::Weight(weight) if self.is_join => format!("{node} joins with weight {weight}"),
            Wish::Weight(weight) => format!("{node} gets weight {weight}"),
            Wish::Drain if self.loss.is_absent => {
                format!("{node} leaves the ring; it is not there and gives nothing away")
            }
            Wish::Drain => format!("{node} gives everything away and leaves the ring"),
            Wish::Down if self.ring.document().replicas > 1 => {
                format!("{node} is taken out at once; others that have copies of what it holds serve it")
            }
            Wish::Down => format!("{node} is taken out at once; what it holds is lost"),
        };
        let (wanted, left) = self.copies();
        if left < wanted && wanted > 1 {
            text += &format!(
                ", which leaves {left} cop{} of {} where the ring wants {wanted}",
                if left == 1 { "y" } else { "ies" },
                if self.wish == Wish::Down { "what it holds" } else { "each partition" },
            );
        }
        let progress = self.plan().as_ref().and_then(Ring::progress);
        if let Some(progress) = progress {
            text += &format!(
                ": {} of {PARTITION_COUNT} partitions ({:.1}%) change owners, in batches of at most {FLIPS_MAX}; {} copies are made",
                progress.moving,
                percent(progress.moving, PARTITION_COUNT),
                progress.copies,
            );
        }
        text += &self.loss.warning(node);
        if self.ring.document().replication.is_none() {
            text += "\nFrom the first such change on this ring keeps account of what moves, so that nothing is lost by it: \
                     writes cost more from then on, and values have at most 8 MiB.";
        }
        Plan { text, progress, copies: (wanted, left) }
    }

    /// The ring when the movement has begun; none if that cannot be told now.
    fn plan(&self) -> Option<Ring> {
        let ring = match migrate::upgrade(&self.ring) {
            Some(upgraded) => Ring::new(upgraded).ok()?,
            None => self.ring.clone(),
        };
        let weight = match self.wish {
            Wish::Weight(weight) => weight,
            Wish::Drain => 0,
            Wish::Down => return None,
        };
        let next = match self.member() {
            Some((slot, _)) => {
                let mut weights: Vec<_> = ring.document().slots.iter().map(|slot| slot.weight).collect();
                weights[usize::from(slot.0)] = weight;
                migrate::begin(&ring, weights)
            }
            None => {
                let joiner = slabring_client::cluster::conductor::entry(self.standing.nodes.get(&self.node)?);
                migrate::join(&ring, [SlotEntry { weight, ..joiner }])
            }
        };
        Ring::new(next?).ok()
    }

    /// What makes the wish one that cannot be fulfilled, or must not be.
    fn check(&self) -> Result<(), Failure> {
        let refuse = |why: String| Err(Failure::Impossible(why));
        let (node, document) = (&self.node, self.ring.document());
        let others = members(document).filter(|(_, slot)| slot.node != *node && slot.state.serves());
        let is_leaving = matches!(self.wish, Wish::Drain | Wish::Down);
        if is_leaving && self.member().is_some() && others.count() == 0 {
            return refuse(format!("{node} is the only node that serves"));
        }
        if matches!(self.wish, Wish::Drain | Wish::Weight(0))
            && self.member().is_some()
            && self.others().count() == 0
        {
            return refuse(format!(
                "{node} is the only node that is to hold anything: nobody could take what it gives away"
            ));
        }
        if let (Wish::Down, Some((slot, entry))) = (self.wish, self.member())
            && document.mode == Mode::Sync
            && entry.state != NodeState::Down
            && migrate::remove(&self.ring, slot).is_none()
        {
            return refuse(format!("{node} has the last copy of something, which `sync` does not give up"));
        }
        if matches!(self.wish, Wish::Weight(_)) && self.member().is_none() {
            if !self.is_join {
                return refuse(format!("{node} is not a member: `cluster join` takes it in"));
            }
            if !self.standing.nodes.contains_key(node) {
                return refuse(format!("{node} is not there: start it first"));
            }
        }
        if document.replication.is_none() && self.is_to_be_wished() { self.check_nodes() } else { Ok(()) }
    }

    /// Whether all members can keep account of what moves. One that cannot would stop following the ring.
    fn check_nodes(&self) -> Result<(), Failure> {
        for (server, settings) in client_of(&self.ring, self.target)?.stats("settings") {
            let settings = settings?;
            let value = |name: &str| settings.iter().find(|(known, _)| known == name).map(|(_, value)| value);
            let item_size_max = value("item_size_max").and_then(|text| text.parse::<usize>().ok());
            if item_size_max.is_none_or(|bytes| bytes > COPIED_ITEM_BYTES_MAX) {
                return Err(Failure::Impossible(format!(
                    "{server} takes values of more than 8 MiB (-I), which cannot move"
                )));
            }
            if value("cas_enabled").is_none_or(|is_enabled| is_enabled != "yes") {
                return Err(Failure::Impossible(format!(
                    "{server} has no CAS values (-C), so its items cannot move"
                )));
            }
        }
        Ok(())
    }
}

/// Whether a wish takes something away, of the copies that are wanted and left or for good.
fn takes_away(wish: Wish, loss: Loss, (wanted, left): (usize, usize)) -> bool {
    matches!(wish, Wish::Drain | Wish::Down) || loss.is_any() || left < wanted
}

/// The share that a node joins with unless told: the one it was wished, or has, or brings, or that of a full node.
fn share_of(standing: &Standing, ring: &Ring, node: &NodeId) -> u16 {
    let wished = match standing.wishes.get(node) {
        Some(Wish::Weight(weight)) => Some(*weight),
        _ => None,
    };
    let had = members(ring.document()).find(|(_, slot)| slot.node == *node).map(|(_, slot)| slot.weight);
    let brings = standing.nodes.get(node).map(|described| described.weight);
    let some = [wished, had, brings].into_iter().flatten().find(|weight| *weight > 0);
    some.unwrap_or(Weight::FULL.parts())
}

/// The node of that name, or with that address.
fn find(standing: &Standing, ring: &Ring, given: &str) -> Result<NodeId, Failure> {
    let slots = members(ring.document()).map(|(_, slot)| (&slot.node, &slot.client, &slot.peer));
    let registered = standing.nodes.values().map(|node| (&node.node, &node.client, &node.peer));
    let known: Vec<_> = slots.chain(registered).collect();
    let by_name = known.iter().find(|(node, ..)| node.0.as_str() == given);
    let by_address = || {
        known
            .iter()
            .find(|(_, client, peer)| [client, peer].iter().any(|address| address.to_string() == given))
    };
    if let Some((node, ..)) = by_name.or_else(by_address) {
        return Ok((*node).clone());
    }
    if let Some((node, wish)) = standing.wishes.iter().find(|(node, _)| node.0.as_str() == given) {
        let why = format!("{node} is neither a member nor running; what is wished for it: {}", words(*wish));
        return Err(Failure::Impossible(why));
    }
    let mut there: Vec<_> = known.iter().map(|(node, ..)| node.to_string()).collect();
    there.sort();
    there.dedup();
    Err(Failure::NoNode { given: given.to_owned(), there: there.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_nothing_is_asked_about_where_a_node_that_is_away_has_the_last_copies() {
        let lost = Loss { is_absent: true, partitions: 7 };
        let nothing = Loss { is_absent: false, partitions: 0 };
        assert!(takes_away(Wish::Weight(0), lost, (1, 1)));
        assert!(
            !takes_away(Wish::Weight(0), nothing, (1, 1)) && takes_away(Wish::Weight(0), nothing, (2, 1))
        );
        assert!(takes_away(Wish::Drain, nothing, (1, 1)) && !takes_away(Wish::Weight(9), nothing, (1, 1)));
    }
}
