//! What becomes of the requests that a shard has sent: answered, sent again where the ring says by now, or given up. What may
//! have been executed is never sent again.

use super::sending::request_header;
use super::{Body, Effect, LinkId, Peers, Route, RunPart, place_of};
use crate::forward::{Failure, Forward, Opaque, PARK_TIME_MAX, Stage, Verdict, judge};
use crate::placement::partition_of;
use crate::ring::Epoch;
use crate::run;
use crate::time::Micros;
use crate::wire::{Flags, Status};

/// What is late because a long message goes before it, or is one, is looked at again after this time.
const CARRIED_TIME: Micros = Micros::from_millis(100);

impl<P: Copy> Peers<P> {
    #[inline]
    pub(super) fn take_response(
        &mut self,
        now: Micros,
        id: LinkId,
        opaque: Opaque,
        (status, part): (Status, u8),
        theirs: Epoch,
    ) -> Option<Effect<P>> {
        if status == Status::Done
            && let Some((place, bytes)) = self.pending.take_sent(now, opaque, id)
        {
            let entry = self.places[place_of(id.index)].entry.as_mut().expect("it has just spoken");
            entry.link.settle(now, bytes);
            return Some(Effect::Answer { place, outcome: Ok(()) });
        }
        if self.pending.get(opaque).is_some_and(|pending| pending.flags.has(Flags::RUN)) {
            return self.take_run_response(now, id, opaque, status, part);
        }
        self.judge_response(now, id, opaque, status, theirs)
    }

    /// The response to several gets, or to one of them that was to come by itself. What was not executed is never sent again as it
    /// was: its keys may have owners of their own by now.
    fn take_run_response(
        &mut self,
        now: Micros,
        id: LinkId,
        opaque: Opaque,
        status: Status,
        part: u8,
    ) -> Option<Effect<P>> {
        let outcome = match (status, part) {
            (Status::Done, 0) => Ok(RunPart::Replies),
            (Status::Done, _) => Ok(RunPart::Reply),
            (Status::WrongOwner | Status::Behind, _) | (Status::TooLarge, 0) => Ok(RunPart::NotExecuted),
            (Status::TooLarge, _) => Err(Failure::TooLarge),
            (Status::Expired, _) => Err(Failure::Expired),
            (Status::Busy, _) => Err(Failure::Busy),
        };
        let named =
            part.checked_sub(1).map_or(u16::MAX, |number| 1_u16.checked_shl(number.into()).unwrap_or(0));
        let body = self.places[place_of(id.index)].entry.as_ref().expect("it has just spoken").link.body();
        let pending = self.pending.get(opaque).expect("the caller has looked");
        let replied = match outcome {
            Ok(RunPart::Replies) => run::answered(body, pending.gets.count_ones()),
            _ => Some(u16::MAX),
        };
        let is_sent = matches!(pending.stage, Stage::Sent { link, .. } if link == id);
        let is_next = is_sent && pending.is_settled != (part == 0) && pending.gets & named != 0;
        let Some(gets) = replied.map(|replied| pending.gets & named & replied).filter(|_| is_next) else {
            self.link_mut(id).expect("it has just spoken").refuse_response();
            return None;
        };
        pending.gets &= !gets;
        pending.is_settled = true;
        let (is_over, place, bytes) = (pending.gets == 0, pending.place, pending.bytes.len());
        self.run_deadline = pending.deadline;
        if part == 0 {
            self.link_mut(id).expect("it has just spoken").settle(now, bytes);
        }
        if matches!(outcome, Ok(RunPart::Replies | RunPart::Reply)) {
            self.pending.executed(opaque, gets);
        }
        match (outcome, is_over) {
            (Ok(RunPart::NotExecuted), true) => self.pending.remove(now, opaque, &mut self.scratch),
            (Ok(RunPart::NotExecuted), false) => {
                let pending = self.pending.get(opaque).expect("seen just now");
                self.scratch.clone_from(&pending.bytes);
            }
            (_, true) => self.pending.forget(now, opaque),
            (_, false) => {}
        }
        Some(Effect::Run { place: place?, gets, outcome })
    }

    /// What is not just a reply that a client waits for.
    fn judge_response(
        &mut self,
        now: Micros,
        id: LinkId,
        opaque: Opaque,
        status: Status,
        theirs: Epoch,
    ) -> Option<Effect<P>> {
        let ours = self.epoch();
        let pending = self.pending.get(opaque);
        let Some((sent, pending)) = pending.and_then(|pending| match pending.stage {
            Stage::Sent { link, epoch } if link == id => Some((epoch, pending)),
            _ => None,
        }) else {
            self.link_mut(id).expect("it has just spoken").refuse_response();
            return None;
        };
        let (bytes, place, hop) = (pending.bytes.len(), pending.place, pending.hop);
        let until = now + PARK_TIME_MAX;
        let mut verdict = judge(status, hop, sent, ours, theirs);
        let stage = match verdict {
            Verdict::WaitForRing(epoch) => Some(Stage::WaitsForRing { epoch, until }),
            Verdict::SendAgain => Some(Stage::WaitsForTurn),
            Verdict::WaitForPeer => Some(Stage::WaitsForPeer { link: id, epoch: sent, until }),
            Verdict::Reply | Verdict::Fail(_) => None,
        };
        if let Some(stage) = stage {
            if !self.pending.keeps_order(now) {
                self.line_up(now);
            }
            if self.pending.is_overtaken(opaque) {
                verdict = Verdict::Fail(Failure::Unsettled);
            } else {
                self.pending.set_stage(opaque, stage);
            }
        }
        let link = self.link_mut(id).expect("it has just spoken");
        link.settle(now, bytes);
        let Some(place) = place else {
            self.forget(now, opaque);
            return None;
        };
        match verdict {
            Verdict::Reply => {
                self.forget(now, opaque);
                Some(Effect::Answer { place, outcome: Ok(()) })
            }
            Verdict::Fail(failure) => {
                self.forget(now, opaque);
                Some(Effect::Answer { place, outcome: Err(failure) })
            }
            Verdict::SendAgain | Verdict::WaitForRing(_) | Verdict::WaitForPeer => None,
        }
    }

    /// A ring came, or a request was refused: requests for one key stand in line for a while.
    pub(super) fn line_up(&mut self, now: Micros) {
        let Some(ring) = &self.ring else { return };
        let astray = self.pending.select(|pending| match pending.stage {
            _ if pending.flags.has(Flags::NODE) || pending.flags.has(Flags::RUN) => false,
            Stage::Sent { link, .. } if pending.place.is_some() => {
                let owner = ring.primary(partition_of(pending.hash));
                self.leads_to(link).is_none_or(|peer| peer.slot != owner)
            }
            _ => false,
        });
        self.pending.line_up(now, &astray);
    }

    /// Keeps a request that would overtake another until it may be sent.
    pub(super) fn wait_behind(
        &mut self,
        now: Micros,
        place: P,
        request: &Forward<'_>,
    ) -> Result<Route, Failure> {
        if !self.pending.has_room(request.bytes.len()) {
            return Err(Failure::NoCredit);
        }
        self.pending.insert(now, place, request, Stage::WaitsForTurn);
        Ok(Route::Sent)
    }

    /// A request that was not executed must not be any more.
    pub(super) fn give_up(&mut self, now: Micros, opaque: Opaque) {
        let place = self.pending.take_place(opaque);
        self.failed.extend(place.map(|place| (place, Failure::Unsettled, 0)));
        self.forget(now, opaque);
    }

    /// Sends a request that was not executed where the ring says now.
    pub(super) fn send_again(&mut self, now: Micros, opaque: Opaque) -> Option<Effect<P>> {
        let pending = self.pending.get(opaque).expect("its turn has come");
        let (hash, place) = (pending.hash, pending.place.expect("who waits has not been answered"));
        let ring = self.ring.as_ref().expect("it was sent by one");
        let owner = ring.primary(partition_of(hash));
        if Some(owner) == self.me {
            self.pending.remove(now, opaque, &mut self.scratch);
            self.body = Body::Scratch;
            return Some(Effect::ExecuteHere { place });
        }
        let failure = match self.lane_to(owner, hash) {
            Some((id, shard)) if self.send_pending(now, opaque, id, shard) => return None,
            Some(_) => Failure::NoCredit,
            None => Failure::OwnerGone,
        };
        self.forget(now, opaque);
        Some(Effect::Answer { place, outcome: Err(failure) })
    }

    /// Sends a pending request once more. False: no credit.
    fn send_pending(&mut self, now: Micros, opaque: Opaque, id: LinkId, shard: u8) -> bool {
        let epoch = self.epoch();
        self.touch(id.index);
        let pending = self.pending.get(opaque).expect("the caller has just seen it");
        let hop = pending.hop.saturating_add(1);
        let header = request_header(opaque, pending.hash, pending.flags, shard, hop);
        let entry = self.places[place_of(id.index)].entry.as_mut().expect("the lane is a link");
        let is_sent = entry.link.send_request(now, header, pending.deadline, &pending.bytes).is_ok();
        if is_sent {
            pending.hop = hop;
            self.pending.set_stage(opaque, Stage::Sent { link: id, epoch });
        }
        is_sent
    }

    /// The link is gone: what was sent on it may or may not have been executed, and no answer will come.
    pub(super) fn fail_sent(&mut self, now: Micros, id: LinkId) {
        let on_it = |stage| match stage {
            Stage::Sent { link, .. } | Stage::WaitsForPeer { link, .. } => link == id,
            Stage::WaitsForRing { .. } | Stage::WaitsForTurn => false,
        };
        for opaque in self.pending.select(|pending| on_it(pending.stage)) {
            let gets = self.pending.get(opaque).expect("it was just selected").gets;
            let place = self.pending.take_place(opaque);
            self.failed.extend(place.map(|place| (place, Failure::OwnerGone, gets)));
            self.forget(now, opaque);
        }
    }

    /// Answers those whose time is over. What is under way keeps its place until the response or the link's end.
    pub(super) fn expire(&mut self, now: Micros) {
        for opaque in self.pending.expired(now) {
            if self.goes_behind_long(now, opaque) {
                self.pending.put_off(opaque, now + CARRIED_TIME);
                continue;
            }
            let pending = self.pending.get(opaque).expect("it was just selected");
            let failure = if pending.deadline <= now { Failure::Expired } else { Failure::Unsettled };
            let (is_sent, gets) = (matches!(pending.stage, Stage::Sent { .. }), pending.gets);
            let place = self.pending.take_place(opaque);
            self.failed.extend(place.map(|place| (place, failure, gets)));
            if !is_sent {
                self.forget(now, opaque);
            }
        }
    }

    /// Whether a request is on a link with a long message on its way: its own, its reply, or one before it.
    fn goes_behind_long(&mut self, now: Micros, opaque: Opaque) -> bool {
        let stage = self.pending.get(opaque).expect("the caller has just selected it").stage;
        let Stage::Sent { link, .. } = stage else { return false };
        self.link(link).is_some_and(|link| link.is_delayed(now))
    }
}
