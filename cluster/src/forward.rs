//! Requests that were sent to their owners: who waits for them, what an answer means, and what an owner answers.
//! Never sends anything: [`crate::peers`] does.
//!
//! A request is sent at most [`HOPS_MAX`] times and only by its origin, never passed on by a third node: who passes on
//! needs credit of a second link while it holds credit of the first, and two nodes that do so can wait for each other for
//! ever. What may have been executed is never sent again: an increment must not happen twice.

use crate::link::{CREDIT_DEFAULT, Credit, Inbound, ROOM_WAIT_MAX, cost_bytes};
use crate::peers::{LINKS_PER_PEER_MAX, LinkId};
use crate::placement::{PARTITION_COUNT, PartitionId, hash_key};
use crate::ring::{Epoch, Ring};
use crate::run;
use crate::safeguard::{self, Safeguard};
use crate::table::SlotId;
use crate::time::Micros;
use crate::wire::{Flags, Status};

mod order;

use order::{Name, Order, Standing};

/// How often one request is sent: to the owner by the origin's ring, and once more by a newer ring.
pub const HOPS_MAX: u8 = 2;

/// Requests of one shard that wait for an answer.
pub const PENDING_MAX: usize = 16_384;

/// Bytes of all of them together. One request may have more when it is the only one.
pub const PENDING_BYTES_MAX: usize = 16 << 20;

/// What of that may be under way to one node, over all its links: a node that hangs leaves room for others.
pub(crate) const NODE_SHARE: Credit = Credit { operations: 4_000, bytes: 4 << 20 };

/// What of a node's share one link has at least.
pub(crate) const LANE_SHARE_MIN: Credit = Credit {
    operations: NODE_SHARE.operations / LINKS_PER_PEER_MAX as u32,
    bytes: NODE_SHARE.bytes / LINKS_PER_PEER_MAX as u32,
};

/// How long a request waits for a ring that both sides agree on.
pub const PARK_TIME_MAX: Micros = Micros::from_millis(50);

/// Capacity for a request's bytes that an empty place keeps.
const BYTES_KEPT: usize = 256;

/// Larger buffers that are kept for requests that need them, and their capacity: that of a run of the longest keys.
const SPARES_MAX: usize = 64;
const SPARE_BYTES_MAX: usize = 5 << 10;

/// Between two looks at all deadlines is at least this time: an answer may be late by so much.
const EXPIRY_PAUSE: Micros = Micros::from_millis(5);

const INDEX_BITS: u32 = 16;
const _: () = assert!(PENDING_MAX <= 1 << INDEX_BITS);
const _: () = assert!(PENDING_MAX >= 4 * NODE_SHARE.operations as usize);
const _: () = assert!(PENDING_BYTES_MAX >= 4 * NODE_SHARE.bytes as usize);
const _: () = assert!(NODE_SHARE.operations < CREDIT_DEFAULT.operations, "a flush finds credit");

/// Why a client gets an error instead of the owner's reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no ring yet. Not executed.
    #[error("this node has no ring yet")]
    NoRing,
    /// Too much is under way to the owner, or from here at all. Not executed.
    #[error("too much is under way to the owner")]
    NoCredit,
    /// No link to the owner. A request that had been sent may have been executed.
    #[error("the owner cannot be reached")]
    OwnerGone,
    /// No answer in time. It may have been executed.
    #[error("the owner did not answer in time")]
    Expired,
    /// The owner had no room. Not executed.
    #[error("the owner is busy")]
    Busy,
    /// The owner does not take requests of this length, or its reply is longer than what this node takes: their limits of an item's
    /// size differ. Not executed, but for what only reads.
    #[error("too large for the owner, or its reply for this node")]
    TooLarge,
    /// The ring changes faster than requests. Not executed.
    #[error("the ring is changing")]
    Unsettled,
    /// Two nodes hold different rings of one epoch. Not executed.
    #[error("two nodes disagree about the ring")]
    Disagreement,
}

/// What an answer means to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Reply,
    Fail(Failure),
    /// By the ring that the origin has by now.
    SendAgain,
    /// Until the origin has a ring of this epoch.
    WaitForRing(Epoch),
    /// Until the owner has the ring that the request was sent by.
    WaitForPeer,
}

/// Judges an answer to a request that was sent under `sent` for the `hop`th time; the origin's ring is of `ours` now and
/// the owner's of `theirs`.
pub(crate) fn judge(status: Status, hop: u8, sent: Epoch, ours: Epoch, theirs: Epoch) -> Verdict {
    match status {
        Status::Done => return Verdict::Reply,
        Status::Expired => return Verdict::Fail(Failure::Expired),
        Status::Busy => return Verdict::Fail(Failure::Busy),
        Status::TooLarge => return Verdict::Fail(Failure::TooLarge),
        Status::WrongOwner | Status::Behind => {}
    }
    if hop >= HOPS_MAX && safeguard::holds(Safeguard::HopsAreLimited) {
        return Verdict::Fail(Failure::Unsettled);
    }
    match status {
        Status::WrongOwner if theirs > ours => Verdict::WaitForRing(theirs),
        _ if ours > sent && ours >= theirs => Verdict::SendAgain,
        _ if theirs < sent => Verdict::WaitForPeer,
        Status::Behind => Verdict::SendAgain,
        _ => Verdict::Fail(Failure::Disagreement),
    }
}

/// Whether the owner executes a request that came in; otherwise the answer.
pub(crate) fn admit(
    now: Micros,
    inbound: &Inbound,
    ring: Option<&Ring>,
    me: Option<SlotId>,
) -> Result<(), Status> {
    if inbound.deadline <= now && safeguard::holds(Safeguard::DeadlinesHold) {
        return Err(Status::Expired);
    }
    if inbound.flags.has(Flags::NODE) {
        return Ok(());
    }
    let ring = ring.ok_or(Status::Behind)?;
    if inbound.epoch > ring.epoch() {
        return Err(Status::Behind);
    }
    let in_range = usize::from(inbound.partition) < PARTITION_COUNT && (1..=HOPS_MAX).contains(&inbound.hop);
    if !in_range && safeguard::holds(Safeguard::HopsAreLimited) {
        return Err(Status::WrongOwner);
    }
    let is_ours = me == Some(ring.primary(PartitionId::new(inbound.partition)));
    if is_ours || !safeguard::holds(Safeguard::OwnershipIsChecked) { Ok(()) } else { Err(Status::WrongOwner) }
}

/// A request on its way to its owner.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// [`crate::placement::hash_key`] of its key.
    pub hash: u64,
    /// The client's facts: [`Flags::AUTHENTICATED`], [`Flags::PART`], [`Flags::BINARY`], [`Flags::NODE`],
    /// [`Flags::RUN`].
    pub flags: Flags,
    /// When the client is given up on.
    pub deadline: Micros,
    /// The request as the client wrote it.
    pub bytes: &'a [u8],
}

/// Where a pending request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// On a link, in session order.
    Sent { link: LinkId, epoch: Epoch },
    /// Not sent, until this node has a ring of `epoch`, or `until`.
    WaitsForRing { epoch: Epoch, until: Micros },
    /// Not sent, until the node at the other end has a ring of `epoch`, or `until`.
    WaitsForPeer { link: LinkId, epoch: Epoch, until: Micros },
    /// Not sent, until those for its key that came before are.
    WaitsForTurn,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub(crate) struct Pending<P> {
    /// Where the reply belongs; `None` when the client was answered already and only the credit is to come back.
    pub(crate) place: Option<P>,
    pub(crate) stage: Stage,
    pub(crate) hop: u8,
    pub(crate) hash: u64,
    pub(crate) flags: Flags,
    pub(crate) deadline: Micros,
    pub(crate) bytes: Vec<u8>,
    /// Of a run: a bit for each get that is not answered.
    pub(crate) gets: u16,
    /// Of a run: it has given its credit back.
    pub(crate) is_settled: bool,
    /// When it came: later ones have higher numbers.
    number: u64,
    standing: Standing,
}

#[derive(Debug)]
struct Cell<P> {
    generation: u64,
    pending: Option<Pending<P>>,
    /// An empty buffer for the next request here.
    spare: Vec<u8>,
}

/// All requests of one shard that wait for an answer. `P` says where a reply belongs.
#[derive(Debug)]
pub(crate) struct PendingTable<P> {
    cells: Vec<Cell<P>>,
    free: Vec<u16>,
    /// Empty buffers of more than [`BYTES_KEPT`].
    spares: Vec<Vec<u8>>,
    bytes: usize,
    /// No request's time is over before.
    expire_at: Micros,
    /// When a request was last taken out.
    moved_at: Micros,
    /// Requests that ever came.
    count: u64,
    order: Order,
}

/// The number of a pending request on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opaque(pub(crate) u64);

impl Opaque {
    fn index(self) -> usize {
        usize::try_from(self.0 & ((1 << INDEX_BITS) - 1)).expect("16 bits fit")
    }
}

impl<P: Copy> PendingTable<P> {
    pub(crate) fn new() -> Self {
        Self {
            cells: Vec::new(),
            free: Vec::new(),
            spares: Vec::new(),
            bytes: 0,
            expire_at: Micros::NEVER,
            moved_at: Micros(0),
            count: 0,
            order: Order::default(),
        }
    }

    /// Requests in it.
    pub(crate) fn len(&self) -> usize {
        self.cells.len() - self.free.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.len() < PENDING_MAX && (self.bytes + bytes <= PENDING_BYTES_MAX || self.bytes == 0)
    }

    /// Whether requests leave it: those that find no room may wait.
    pub(crate) fn is_moving(&self, now: Micros) -> bool {
        now.since(self.moved_at) < ROOM_WAIT_MAX
    }

    /// Takes a request in, for which there is room.
    pub(crate) fn insert(&mut self, now: Micros, place: P, request: &Forward<'_>, stage: Stage) -> Opaque {
        assert!(self.has_room(request.bytes.len()), "the caller asked whether there is room");
        let index = self.free.pop().unwrap_or_else(|| {
            self.cells.push(Cell { generation: 0, pending: None, spare: Vec::new() });
            u16::try_from(self.cells.len() - 1).expect("PENDING_MAX fits")
        });
        let cell = &mut self.cells[usize::from(index)];
        assert!(cell.pending.is_none(), "a free place is empty");
        cell.generation += 1;
        // Buffers have one of few sizes, so that each fits what comes next.
        let (mut bytes, size) = match request.bytes.len() {
            ..=BYTES_KEPT => (std::mem::take(&mut cell.spare), BYTES_KEPT),
            length => (self.spares.pop().unwrap_or_default(), length.next_power_of_two()),
        };
        if bytes.capacity() < request.bytes.len() {
            bytes.reserve_exact(size);
        }
        bytes.extend_from_slice(request.bytes);
        self.bytes += bytes.len();
        let Forward { hash, flags, deadline, .. } = *request;
        self.count += 1;
        let (number, standing) = (self.count, Standing::Out);
        let hop = u8::from(stage != Stage::WaitsForTurn);
        let place = Some(place);
        let (gets, is_settled) = (0, false);
        let pending =
            Pending { place, stage, hop, hash, flags, deadline, bytes, gets, is_settled, number, standing };
        cell.pending = Some(pending);
        let opaque = Opaque(cell.generation << INDEX_BITS | u64::from(index));
        if self.order.is_kept() {
            self.stand(opaque);
        }
        if self.len() == 1 {
            self.moved_at = now;
        }
        self.look_at(stage.until().min(deadline));
        opaque
    }

    pub(crate) fn get(&mut self, opaque: Opaque) -> Option<&mut Pending<P>> {
        let cell = self.cells.get_mut(opaque.index())?;
        (cell.generation == opaque.0 >> INDEX_BITS).then_some(cell.pending.as_mut()).flatten()
    }

    /// Takes a request out, its bytes into `taken`.
    pub(crate) fn remove(&mut self, now: Micros, opaque: Opaque, taken: &mut Vec<u8>) {
        let bytes = &mut self.get(opaque).expect("what is removed is there").bytes;
        let length = bytes.len();
        std::mem::swap(taken, bytes);
        bytes.clear();
        self.bytes -= length;
        self.forget(now, opaque);
    }

    /// Takes a request out whose bytes nobody needs any more.
    pub(crate) fn forget(&mut self, now: Micros, opaque: Opaque) {
        self.leave(opaque);
        let cell = &mut self.cells[opaque.index()];
        assert_eq!(cell.generation, opaque.0 >> INDEX_BITS, "what is removed is there");
        let mut bytes = cell.pending.take().expect("what is removed is there").bytes;
        self.bytes -= bytes.len();
        self.moved_at = now;
        bytes.clear();
        keep(bytes, cell, &mut self.spares);
        self.free.push(u16::try_from(opaque.index()).expect("PENDING_MAX fits"));
    }

    /// Takes a request out that was sent on a link and whose client waits, if nobody needs its bytes any more. Gives its place and its
    /// length.
    #[inline]
    pub(crate) fn take_sent(&mut self, now: Micros, opaque: Opaque, on: LinkId) -> Option<(P, usize)> {
        let cell =
            self.cells.get_mut(opaque.index()).filter(|cell| cell.generation == opaque.0 >> INDEX_BITS)?;
        let pending = cell.pending.as_mut()?;
        let place = pending.place?;
        let is_run = pending.flags.has(Flags::RUN);
        if is_run || !matches!(pending.stage, Stage::Sent { link, .. } if link == on) {
            return None;
        }
        let mut bytes = std::mem::take(&mut pending.bytes);
        let length = bytes.len();
        if pending.standing != Standing::Out {
            self.order.done(pending.hash, pending.number);
            self.order.shift(pending.name(opaque), pending.standing, Standing::Out);
        }
        cell.pending = None;
        bytes.clear();
        keep(bytes, cell, &mut self.spares);
        self.bytes -= length;
        self.moved_at = now;
        self.free.push(u16::try_from(opaque.index()).expect("PENDING_MAX fits"));
        Some((place, length))
    }

    /// A ring came, or a request was refused: from now on every request stands in the line of its key; `astray` says which are on their
    /// way to a node that is not its owner. O(places).
    pub(crate) fn line_up(&mut self, now: Micros, astray: &[Opaque]) {
        self.order.keep(now);
        for opaque in self.select(|_| true) {
            self.stand(opaque);
        }
        for &opaque in astray {
            self.stand_as(opaque, Standing::Astray);
        }
    }

    /// A request was refused. False: requests do not stand in lines yet.
    pub(crate) fn keeps_order(&mut self, now: Micros) -> bool {
        let is_kept = self.order.is_kept();
        if is_kept {
            self.order.keep(now);
        }
        is_kept
    }

    /// Whether a request for some key has to wait behind another that is to be sent again, or is on its way to a node that owns the
    /// key no more.
    #[inline]
    pub(crate) fn is_holding(&self) -> bool {
        self.order.is_holding()
    }

    /// Whether a request for this key has to.
    #[inline]
    pub(crate) fn holds(&self, hash: u64) -> bool {
        self.order.holds(hash)
    }

    /// Whether a later request for the same key has been executed.
    pub(crate) fn is_overtaken(&mut self, opaque: Opaque) -> bool {
        let Some((hash, number)) = self.get(opaque).map(|pending| (pending.hash, pending.number)) else {
            return false;
        };
        self.order.is_overtaken(hash, number)
    }

    /// Some gets of a run have been executed: what came before them and was not is overtaken.
    pub(crate) fn executed(&mut self, opaque: Opaque, gets: u16) {
        let cell = &self.cells[opaque.index()];
        let Some(run) = cell.pending.as_ref().filter(|_| self.order.is_kept()) else { return };
        for (_, key) in run::keys(&run.bytes).enumerate().filter(|(at, _)| gets >> at & 1 == 1) {
            self.order.done(hash_key(key), run.number);
        }
    }

    /// One that waits and was overtaken, each once.
    pub(crate) fn next_overtaken(&mut self) -> Option<Opaque> {
        std::iter::from_fn(|| self.order.next_overtaken()).find(|&opaque| {
            let pending = self.cells[opaque.index()].pending.as_ref();
            let is_it = self.cells[opaque.index()].generation == opaque.0 >> INDEX_BITS;
            is_it && pending.is_some_and(|pending| pending.standing == Standing::Waiting)
        })
    }

    /// The next request whose turn it is to be sent again: it is sent or taken out before this is asked again.
    pub(crate) fn next_to_go(&mut self) -> Option<Opaque> {
        let cells = &self.cells;
        let stage_of = |opaque: Opaque| cells[opaque.index()].pending.as_ref().map(|pending| pending.stage);
        self.order.next_to_go(|opaque| stage_of(opaque) == Some(Stage::WaitsForTurn))
    }

    /// A request goes to another stage.
    pub(crate) fn set_stage(&mut self, opaque: Opaque, stage: Stage) {
        self.get(opaque).expect("the caller has just seen it").stage = stage;
        self.look_at(stage.until());
        if self.order.is_kept() {
            self.stand(opaque);
        }
    }

    /// Its client was answered: what is behind it waits for it no more. Gives whom to tell.
    pub(crate) fn take_place(&mut self, opaque: Opaque) -> Option<P> {
        self.leave(opaque);
        self.get(opaque)?.place.take()
    }

    fn leave(&mut self, opaque: Opaque) {
        self.stand_as(opaque, Standing::Out);
    }

    /// Puts a request where its stage belongs.
    fn stand(&mut self, opaque: Opaque) {
        let Some(pending) = self.get(opaque) else { return };
        let standing = match pending.stage {
            _ if pending.place.is_none() || pending.flags.has(Flags::NODE) => Standing::Out,
            // Gets of many keys: nothing waits behind them.
            _ if pending.flags.has(Flags::RUN) => Standing::Out,
            Stage::Sent { .. } => Standing::Sent,
            _ => Standing::Waiting,
        };
        if standing == Standing::Waiting && pending.standing == Standing::Waiting {
            // It may be ready now.
            self.stand_as(opaque, Standing::Out);
        }
        self.stand_as(opaque, standing);
    }

    fn stand_as(&mut self, opaque: Opaque, standing: Standing) {
        let Some(pending) = self.get(opaque) else { return };
        let name = pending.name(opaque);
        let before = std::mem::replace(&mut pending.standing, standing);
        if before != standing {
            self.order.shift(name, before, standing);
        }
    }

    /// Ends the lines when nothing waits in them any more.
    fn end_lines(&mut self, now: Micros) {
        if self.order.may_end(now) {
            self.order = Order::default();
            let pending = self.cells.iter_mut().filter_map(|cell| cell.pending.as_mut());
            pending.for_each(|pending| pending.standing = Standing::Out);
        }
    }

    /// Recomputes the lines from scratch. O(places).
    pub(crate) fn check_invariants(&self) {
        let all = self.select(|_| true).into_iter().filter_map(|opaque| {
            let pending = self.cells[opaque.index()].pending.as_ref()?;
            Some((pending.name(opaque), pending.standing))
        });
        self.order.check_invariants(all);
    }

    /// The numbers of all requests for which `wanted` holds. O(places).
    pub(crate) fn select(&self, wanted: impl Fn(&Pending<P>) -> bool) -> Vec<Opaque> {
        let number = |(index, cell): (usize, &Cell<P>)| {
            let index = u64::try_from(index).expect("PENDING_MAX fits");
            cell.pending.as_ref().filter(|pending| wanted(pending))?;
            Some(Opaque(cell.generation << INDEX_BITS | index))
        };
        self.cells.iter().enumerate().filter_map(number).collect()
    }

    /// Some request's time may be over then.
    pub(crate) fn look_at(&mut self, until: Micros) {
        self.expire_at = self.expire_at.min(until);
    }

    /// The requests whose time is over: those nobody waits for any more, and those that waited for a ring long enough. Looks
    /// when the first of them may be.
    pub(crate) fn expired(&mut self, now: Micros) -> Vec<Opaque> {
        self.end_lines(now);
        if now < self.expire_at {
            return Vec::new();
        }
        let awaited = self.cells.iter().filter_map(|cell| cell.pending.as_ref());
        let times = awaited.filter(|pending| pending.place.is_some()).map(Pending::until);
        let next = times.filter(|&until| until > now).min().unwrap_or(Micros::NEVER);
        self.expire_at = next.max(now + EXPIRY_PAUSE);
        self.select(|pending| pending.place.is_some() && pending.until() <= now)
    }

    /// Gives a request more time.
    pub(crate) fn put_off(&mut self, opaque: Opaque, until: Micros) {
        self.get(opaque).expect("who has more time waits").deadline = until;
        self.look_at(until);
    }

    /// When [`Self::expired`] should be called.
    pub(crate) fn wake_at(&self) -> Micros {
        self.expire_at
    }

    /// What the requests on a link cost together. A run that has given its credit back costs nothing.
    pub(crate) fn under_way(&self, on: LinkId) -> (u32, u32) {
        let on_link = |pending: &&Pending<P>| matches!(pending.stage, Stage::Sent { link, .. } if link == on);
        let pending = self.cells.iter().filter_map(|cell| cell.pending.as_ref());
        let sent = pending.filter(on_link).filter(|pending| !pending.is_settled);
        sent.fold((0, 0), |(count, cost), pending| (count + 1, cost + cost_bytes(pending.bytes.len())))
    }
}

/// Keeps an empty buffer for a request to come.
#[inline]
fn keep<P>(bytes: Vec<u8>, cell: &mut Cell<P>, spares: &mut Vec<Vec<u8>>) {
    match bytes.capacity() {
        ..=BYTES_KEPT => cell.spare = bytes,
        ..=SPARE_BYTES_MAX if spares.len() < SPARES_MAX => spares.push(bytes),
        _ => {}
    }
}

impl Stage {
    fn until(self) -> Micros {
        match self {
            Self::Sent { .. } | Self::WaitsForTurn => Micros::NEVER,
            Self::WaitsForRing { until, .. } | Self::WaitsForPeer { until, .. } => until,
        }
    }
}

impl<P> Pending<P> {
    fn name(&self, opaque: Opaque) -> Name {
        (self.hash, self.number, opaque)
    }

    /// When its time is over.
    fn until(&self) -> Micros {
        self.deadline.min(self.stage.until())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(bytes: &[u8]) -> Forward<'_> {
        Forward { hash: 7, flags: Flags::NONE, deadline: Micros(1_000_000), bytes }
    }

    const STAGE: Stage = Stage::WaitsForRing { epoch: Epoch(1), until: Micros(50_000) };

    #[test]
    fn an_answer_is_judged_by_the_three_epochs() {
        let judged = |status, hop, [sent, ours, theirs]: [u64; 3]| {
            judge(status, hop, Epoch(sent), Epoch(ours), Epoch(theirs))
        };
        use Status::{Behind, Busy, Done, Expired, TooLarge, WrongOwner};
        let cases = [
            (Done, 1, [5, 6, 7], Verdict::Reply),
            (Expired, 1, [5, 5, 5], Verdict::Fail(Failure::Expired)),
            (Busy, 1, [5, 5, 5], Verdict::Fail(Failure::Busy)),
            (TooLarge, 2, [5, 6, 7], Verdict::Fail(Failure::TooLarge)),
            (WrongOwner, 1, [5, 5, 6], Verdict::WaitForRing(Epoch(6))),
            (WrongOwner, 1, [5, 6, 7], Verdict::WaitForRing(Epoch(7))),
            (WrongOwner, 1, [5, 6, 6], Verdict::SendAgain),
            (WrongOwner, 1, [5, 7, 6], Verdict::SendAgain),
            (WrongOwner, 1, [5, 5, 5], Verdict::Fail(Failure::Disagreement)),
            (Behind, 1, [5, 5, 4], Verdict::WaitForPeer),
            (Behind, 1, [5, 6, 4], Verdict::SendAgain),
            (Behind, 1, [5, 5, 5], Verdict::SendAgain),
            (WrongOwner, 2, [5, 5, 6], Verdict::Fail(Failure::Unsettled)),
            (Behind, 2, [5, 5, 4], Verdict::Fail(Failure::Unsettled)),
        ];
        for (status, hop, epochs, verdict) in cases {
            assert_eq!(judged(status, hop, epochs), verdict, "{status:?} at hop {hop}, epochs {epochs:?}");
        }
    }

    #[test]
    fn a_number_is_good_for_one_request_only() {
        let mut table = PendingTable::new();
        let first = table.insert(Micros(0), 'a', &request(b"get k\r\n"), STAGE);
        let mut bytes = Vec::new();
        table.remove(Micros(0), first, &mut bytes);
        assert_eq!(bytes, b"get k\r\n");
        let second = table.insert(Micros(0), 'b', &request(b""), STAGE);
        assert_eq!(first.index(), second.index());
        assert!(table.get(first).is_none());
        assert_eq!(table.get(second).unwrap().place, Some('b'));
        assert!(table.get(Opaque(u64::MAX)).is_none());
    }

    #[test]
    fn the_table_is_bounded_in_number_and_bytes() {
        let mut table = PendingTable::new();
        for _ in 0..PENDING_MAX {
            assert!(table.has_room(10));
            table.insert(Micros(0), (), &request(&[0; 10]), STAGE);
        }
        assert!(!table.has_room(0));
        let mut table = PendingTable::new();
        assert!(table.has_room(PENDING_BYTES_MAX + 1), "alone");
        table.insert(Micros(0), (), &request(&[0; 1]), STAGE);
        assert!(table.has_room(PENDING_BYTES_MAX - 1) && !table.has_room(PENDING_BYTES_MAX));
    }

    #[test]
    fn time_is_over_at_the_deadline_or_when_parked_for_long_enough() {
        let mut table = PendingTable::new();
        let parked = table.insert(Micros(0), 'p', &request(b""), STAGE);
        let link = LinkId::default();
        let sent = table.insert(Micros(0), 's', &request(b""), Stage::Sent { link, epoch: Epoch(1) });
        assert_eq!(table.wake_at(), Micros(50_000));
        assert_eq!(table.expired(Micros(49_999)), []);
        assert_eq!(table.expired(Micros(60_000)), [parked]);
        assert_eq!(table.wake_at(), Micros(1_000_000));
        table.get(parked).unwrap().deadline = Micros(3_000_000);
        table.get(sent).unwrap().place = None;
        assert_eq!(table.expired(Micros(1_000_000)), [parked], "nobody waits for the other");
    }
}
