//! What a link that is up carries: requests, responses and messages of other kinds, gathered here and heard there.

use super::greeting::Side;
use super::{
    CloseReason, DIFFERENCE_TOLD_EVERY, Event, Inbound, Link, NoCredit, OUTPUT_STALL_BYTES, Owed,
    REPLICA_BYTES_MAX, State, cost_bytes,
};
use crate::ring::Epoch;
use crate::safeguard::{self, Safeguard};
use crate::time::Micros;
use crate::wire::{BODY_BYTES_MAX, GREETING_BYTES_MAX, Header, Kind, Status, TOUCHES_VERSION};

impl Link {
    /// Gathers a request: its header's kind, epoch and deadline are filled in here. Dialler only, while up.
    ///
    /// # Errors
    /// [`NoCredit`]: the other side takes no more now. Nothing is gathered then.
    pub fn send_request(
        &mut self,
        now: Micros,
        header: Header,
        deadline: Micros,
        body: &[u8],
    ) -> Result<(), NoCredit> {
        assert!(self.side == Side::Dialler && self.is_up(), "requests go out on dialled links that are up");
        let cost = cost_bytes(body.len());
        if !self.used.admits(cost, self.granted) && safeguard::holds(Safeguard::CreditIsKept) {
            return Err(NoCredit);
        }
        if self.used.operations == 0 {
            self.moved_at = now;
        }
        self.used.take(cost);
        let left = u32::try_from(deadline.since(now).0).unwrap_or(u32::MAX);
        let header = Header { kind: Kind::Request, epoch: self.epoch, deadline_micros: left, ..header };
        self.output.append_message(header, body);
        Ok(())
    }

    /// Gathers a response. What is owed from before the link ended is dropped: nobody waits for it.
    pub fn send_response(&mut self, owed: Owed, status: Status, body: &[u8]) {
        if owed.session != self.session || !self.is_up() {
            return;
        }
        assert!(status == Status::Done || body.is_empty(), "only what was executed has a reply");
        if owed.part == 0 {
            self.used.give_back(owed.cost);
        }
        let header = Header {
            opaque: owed.opaque,
            detail: status as u8,
            shard: owed.part,
            ..Header::new(Kind::Response, self.epoch)
        };
        self.output.append_message(header, body);
    }

    /// Gathers a message about copies: dialler only, while up. Takes no credit: its senders wait for acknowledgements of their own.
    pub(crate) fn send_replica(&mut self, message: &[u8]) {
        assert!(self.side == Side::Dialler && self.is_up(), "messages go out on dialled links that are up");
        self.output.append_cut(Header::new(Kind::Replica, self.epoch), message);
    }

    /// Gathers a message about hot keys, while up: either side, behind what it said before.
    pub(crate) fn send_grants(&mut self, message: &[u8]) {
        assert!(self.is_up(), "messages go out on links that are up");
        self.output.append_cut(Header::new(Kind::Grants, self.epoch), message);
    }

    /// Gathers a message about reads: dialler only, while up. False: the other side knows none, or much waits already.
    pub(crate) fn send_touches(&mut self, message: &[u8]) -> bool {
        assert!(self.side == Side::Dialler && self.is_up(), "messages go out on dialled links that are up");
        let is_sent = self.version >= TOUCHES_VERSION && self.output_bytes() < OUTPUT_STALL_BYTES;
        if is_sent {
            self.output.append_cut(Header::new(Kind::Touches, self.epoch), message);
        }
        is_sent
    }

    /// Asks for the peer's ring if it is of `epoch` or later.
    pub fn ask_ring(&mut self, epoch: Epoch) {
        if self.is_up() {
            let header = Header { opaque: epoch.0, ..Header::new(Kind::RingWanted, self.epoch) };
            self.output.append(header, &[]);
        }
    }

    /// Gathers this node's ring, unless much waits already: the peer will ask again.
    pub fn send_ring(&mut self, json: &str) {
        if self.is_up() && self.output_bytes() < OUTPUT_STALL_BYTES {
            self.output.append(Header::new(Kind::RingDocument, self.epoch), json.as_bytes());
        }
    }

    /// What [`Self::next`] would give within a batch, by fewer steps. `None`: it has to be asked.
    #[inline]
    pub(crate) fn next_batched(&mut self) -> Option<Event> {
        if !self.is_up() || self.stalls() {
            return None;
        }
        let header = self.input.next_batched(self.identity.message_bytes_max)?;
        self.peer_epoch = self.peer_epoch.max(header.epoch);
        let event = match (header.kind, self.side) {
            (Kind::Request, Side::Acceptor) => self.take_request(header),
            (Kind::Response, Side::Dialler) => take_response(header, 0).map(Some),
            (kind, _) => Err(CloseReason::Unexpected(kind)),
        };
        event.unwrap_or_else(|reason| {
            self.close(reason);
            None
        })
    }

    /// What [`Self::next_batched`] will look at.
    pub(crate) fn rest_of_batch(&self) -> &[u8] {
        if self.is_up() && !self.stalls() { self.input.rest_of_batch() } else { &[] }
    }

    /// The next frame that means something to others.
    pub(super) fn next_frame(&mut self, now: Micros) -> Result<Option<Event>, CloseReason> {
        while !self.stalls() {
            if matches!(self.state, State::Over | State::Resting { .. } | State::Connecting { .. }) {
                return Ok(None);
            }
            let body_bytes_max = if self.is_up() { BODY_BYTES_MAX } else { GREETING_BYTES_MAX };
            let Some(header) = self.input.next_frame(body_bytes_max)? else { return Ok(None) };
            if let Some(event) = self.hear(now, header)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn hear(&mut self, now: Micros, header: Header) -> Result<Option<Event>, CloseReason> {
        if header.kind.is_greeting() {
            return self.greet(now, header);
        }
        if !self.is_up() {
            return Err(CloseReason::Unexpected(header.kind));
        }
        self.peer_epoch = self.peer_epoch.max(header.epoch);
        let Some(header) = self.input.assemble(header, self.message_bytes_max(header.kind))? else {
            return Ok(None);
        };
        match (header.kind, self.side) {
            (Kind::Heartbeat, _) => Ok(self.finds_difference(now, header).then_some(Event::RingDiffers)),
            (Kind::RingWanted, _) => Ok(Some(Event::RingWanted(Epoch(header.opaque)))),
            (Kind::RingDocument, _) => Ok(Some(Event::RingDocument)),
            (Kind::Replica, Side::Acceptor) => Ok(Some(Event::Replica)),
            (Kind::Grants, _) => Ok(Some(Event::Grants)),
            (Kind::Touches, Side::Acceptor) if self.version >= TOUCHES_VERSION => Ok(Some(Event::Touches)),
            (Kind::Request, Side::Acceptor) => self.take_request(header),
            (Kind::Response, Side::Dialler) => take_response(header, self.input.skipped_bytes()).map(Some),
            (kind, _) => Err(CloseReason::Unexpected(kind)),
        }
    }

    /// Whether a heartbeat tells that its sender follows another ring of the same epoch, and it is time to say so.
    fn finds_difference(&mut self, now: Micros, header: Header) -> bool {
        let (ours, theirs) = (self.ring_mark, header.opaque);
        let differs = header.epoch == self.epoch && ours != 0 && theirs != 0 && ours != theirs;
        let is_due = self.difference_told_at.is_none_or(|at| now.since(at) >= DIFFERENCE_TOLD_EVERY);
        if differs && is_due {
            self.difference_told_at = Some(now);
        }
        differs && is_due
    }

    pub(super) fn message_bytes_max(&self, kind: Kind) -> usize {
        let replica = if kind == Kind::Replica { REPLICA_BYTES_MAX } else { 0 };
        self.identity.message_bytes_max.max(replica)
    }

    fn take_request(&mut self, header: Header) -> Result<Option<Event>, CloseReason> {
        let skipped_bytes = self.input.skipped_bytes();
        let cost = cost_bytes(skipped_bytes.max(self.body().len()));
        if !self.used.admits(cost, self.granted) {
            return Err(CloseReason::CreditExceeded);
        }
        self.used.take(cost);
        let owed = Owed { session: self.session, opaque: header.opaque, cost, part: 0 };
        if skipped_bytes > 0 {
            self.send_response(owed, Status::TooLarge, &[]);
            return Ok(None);
        }
        Ok(Some(Event::Request(Inbound {
            owed,
            epoch: header.epoch,
            partition: header.partition,
            shard: header.shard,
            hop: header.detail,
            flags: header.flags,
            deadline: self.received_at + Micros(header.deadline_micros.into()),
        })))
    }
}

#[inline]
fn take_response(header: Header, skipped_bytes: usize) -> Result<Event, CloseReason> {
    let status = Status::of(header.detail).ok_or(CloseReason::Message)?;
    let status = if skipped_bytes > 0 { Status::TooLarge } else { status };
    Ok(Event::Response { opaque: header.opaque, status, part: header.shard, epoch: header.epoch })
}
