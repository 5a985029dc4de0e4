//! What a shard sends to others: requests to the owners of keys, answers to those of others, and messages about copies and reads. Where
//! each goes, and whether there is room for it.

use super::{Asked, LinkId, Peers, Route, place_of};
use crate::forward::{Failure, Forward, LANE_SHARE_MIN, NODE_SHARE, Opaque, Stage};
use crate::link::{Credit, cost_bytes};
use crate::placement::{partition_of, shard_of};
use crate::replica::PeerShard;
use crate::ring::Epoch;
use crate::run;
use crate::table::SlotId;
use crate::time::Micros;
use crate::wire::{Flags, Header, Kind, Status};

/// Where gets go that may share a message: see [`Peers::run_lane`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLane {
    link: LinkId,
    shard: u8,
}

impl<P: Copy> Peers<P> {
    /// Sends a request to its owner, unless that is this node; or says at once why it cannot.
    ///
    /// # Errors
    /// [`Failure`]: there is no ring, no link to the owner that is up, or no room on it. Then nothing was sent, and nothing will come.
    pub fn forward(&mut self, now: Micros, place: P, request: &Forward<'_>) -> Result<Route, Failure> {
        self.forward_within(now, place, request, (false, 0))
    }

    /// As [`Self::forward`], for a get that was one of a [run](Self::run): what others have under way meanwhile is not in its way.
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub fn forward_alone(&mut self, now: Micros, place: P, request: &Forward<'_>) -> Result<Route, Failure> {
        self.forward_within(now, place, request, (true, 0))
    }

    /// As [`Self::forward`], for so many gets: their answers are [`Effect::Run`](super::Effect::Run)s.
    ///
    /// # Errors
    /// Those of [`Self::forward`], for all of them.
    pub fn forward_run(
        &mut self,
        now: Micros,
        place: P,
        request: &Forward<'_>,
        gets: usize,
    ) -> Result<Route, Failure> {
        assert!(request.flags.has(Flags::RUN) && (1..=run::GETS_MAX).contains(&gets));
        self.forward_within(now, place, request, (false, u16::MAX >> (run::GETS_MAX - gets)))
    }

    fn forward_within(
        &mut self,
        now: Micros,
        place: P,
        request: &Forward<'_>,
        manner: (bool, u16),
    ) -> Result<Route, Failure> {
        let ring = self.ring.as_ref().ok_or(Failure::NoRing)?;
        let owner = ring.primary(partition_of(request.hash));
        // While anything is held there are no new runs.
        if manner.1 == 0 && self.pending.holds(request.hash) {
            return self.wait_behind(now, place, request);
        }
        if Some(owner) == self.me {
            return Ok(Route::Here);
        }
        self.send_to(now, owner, place, request, manner)?;
        Ok(Route::Sent)
    }

    /// Where a get of a key goes, if it may share a message with others that go there. `None`: it goes by itself, or nowhere.
    pub fn run_lane(&self, hash: u64) -> Option<RunLane> {
        let owner = self.ring.as_ref()?.primary(partition_of(hash));
        let (link, shard) = self.lane_to(owner, hash)?;
        self.link(link)?.takes_runs().then_some(RunLane { link, shard })
    }

    /// Whether so many requests of so many bytes together need not wait, whoever owns their keys: little is under way, and nobody
    /// has had to wait of late. O(1).
    pub fn has_room_for_any(&self, requests: usize, request_bytes: usize) -> bool {
        let count = self.pending.len() + requests;
        let cost = self.pending.bytes() + request_bytes + count * place_of(cost_bytes(0));
        !self.is_crowded
            && !self.pending.is_holding()
            && count <= place_of(LANE_SHARE_MIN.operations)
            && cost <= place_of(LANE_SHARE_MIN.bytes)
    }

    /// Whether requests for a key wait behind one that came before the ring changed: also those of which this node is the owner by now
    /// must not be executed before it. O(1) but while the ring changes.
    #[inline]
    pub fn holds(&self, hash: u64) -> bool {
        self.pending.holds(hash)
    }

    /// Whether a request for a key had better wait: there is no room for it now, and those in its way are being answered; or it must
    /// not overtake one of them. Ask again when something was answered.
    pub fn must_wait(&mut self, now: Micros, hash: u64, request_bytes: usize) -> bool {
        let Some(ring) = &self.ring else { return false };
        let owner = ring.primary(partition_of(hash));
        if self.pending.holds(hash) {
            return true;
        }
        if Some(owner) == self.me {
            return false;
        }
        let Some((id, _)) = self.lane_to(owner, hash) else { return false };
        if !self.pending.has_room(request_bytes) {
            return self.pending.is_moving(now) || self.links().any(|(_, link)| link.is_delayed(now));
        }
        let share = self.share(owner);
        let place = &mut self.places[place_of(id.index)];
        let link = &mut place.entry.as_mut().expect("the lane is a link").link;
        let has_room = link.has_room(request_bytes, share);
        let must_wait = !has_room && link.is_moving(now);
        self.is_crowded = !has_room || self.is_crowded && self.links().any(|(_, link)| link.is_crowded());
        must_wait
    }

    /// What may be under way on one link to a node.
    fn share(&self, node: SlotId) -> Credit {
        let lanes = u32::from(self.lanes(node));
        Credit { operations: NODE_SHARE.operations / lanes, bytes: NODE_SHARE.bytes / lanes }
    }

    /// Sends a request that is for a node and not for a key: its flags have [`Flags::NODE`].
    ///
    /// # Errors
    /// [`Failure`]: no link to the node is up, or it takes no more now. Then nothing was sent.
    pub fn tell(
        &mut self,
        now: Micros,
        node: SlotId,
        place: P,
        request: &Forward<'_>,
    ) -> Result<(), Failure> {
        assert!(request.flags.has(Flags::NODE), "a request for a key goes where the key is");
        // It may use what is left of the credit.
        self.send_to(now, node, place, request, (true, 0))
    }

    fn send_to(
        &mut self,
        now: Micros,
        node: SlotId,
        place: P,
        request: &Forward<'_>,
        (may_use_all, gets): (bool, u16),
    ) -> Result<(), Failure> {
        let (id, shard) = self.lane_to(node, request.hash).ok_or(Failure::OwnerGone)?;
        let epoch = self.epoch();
        self.touch(id.index);
        let has_ample_room = self.link(id).is_some_and(|link| link.has_ample_room(request.bytes.len()));
        let share = if has_ample_room { LANE_SHARE_MIN } else { self.share(node) };
        let link = &mut self.places[place_of(id.index)].entry.as_mut().expect("the lane is a link").link;
        let is_within = may_use_all || link.has_room(request.bytes.len(), share);
        if !is_within || !self.pending.has_room(request.bytes.len()) {
            return Err(Failure::NoCredit);
        }
        let opaque = self.pending.insert(now, place, request, Stage::Sent { link: id, epoch });
        self.pending.get(opaque).expect("inserted just now").gets = gets;
        let header = request_header(opaque, request.hash, request.flags, shard, 1);
        if link.send_request(now, header, request.deadline, request.bytes).is_err() {
            self.forget(now, opaque);
            return Err(Failure::NoCredit);
        }
        Ok(())
    }

    /// The link to a node for a key, if it is up, and the key's shard there.
    pub(super) fn lane_to(&self, owner: SlotId, hash: u64) -> Option<(LinkId, u8)> {
        let shards = self.shards[usize::from(owner.0)];
        let shard = u8::try_from(shard_of(hash, shards)).expect("below SHARD_COUNT_MAX");
        let id = *self.dialled.get(&(owner, shard % self.lanes(owner)))?;
        self.link(id).filter(|link| link.is_up())?;
        Some((id, shard))
    }

    /// Answers a request of another node. `Done` with the reply, or another status without.
    pub fn respond(&mut self, asked: Asked, status: Status, reply: &[u8]) {
        if let Some(link) = self.link_mut(asked.link) {
            link.send_response(asked.owed, status, reply);
        }
    }

    /// Sends a message about copies to a shard of another node, behind those sent there before. False: there is no link to it
    /// that is up; [`Effect::Up`](super::Effect::Up) tells when there is.
    pub fn send_replica(&mut self, to: PeerShard, message: &[u8]) -> bool {
        let Some(id) = self.lane_of(to) else { return false };
        let link = self.link_mut(id).filter(|link| link.is_up());
        let is_sent = link.is_some();
        link.into_iter().for_each(|link| link.send_replica(message));
        is_sent
    }

    /// Sends a message about hot keys, if the link is still up: who does not get it waits until its time is over.
    pub fn send_grants(&mut self, link: LinkId, message: &[u8]) {
        let link = self.link_mut(link).filter(|link| link.is_up());
        link.into_iter().for_each(|link| link.send_grants(message));
    }

    /// Sends a message about reads to a shard of another node. False: it cannot be sent now, and need not be later.
    pub fn send_touches(&mut self, to: PeerShard, message: &[u8]) -> bool {
        let link = self.lane_of(to).and_then(|id| self.link_mut(id)).filter(|link| link.is_up());
        link.is_some_and(|link| link.send_touches(message))
    }

    /// The dialled link that leads to a shard of another node.
    fn lane_of(&self, to: PeerShard) -> Option<LinkId> {
        let lanes = self.dialled.range((to.slot, 0)..=(to.slot, u8::MAX)).map(|(_, &id)| id);
        lanes.into_iter().find(|&id| self.leads_to(id) == Some(to))
    }
}

pub(super) fn request_header(opaque: Opaque, hash: u64, flags: Flags, shard: u8, hop: u8) -> Header {
    Header {
        flags,
        partition: u16::try_from(partition_of(hash).index()).expect("below PARTITION_COUNT"),
        opaque: opaque.0,
        detail: hop,
        shard,
        ..Header::new(Kind::Request, Epoch::NONE)
    }
}
