//! One shard's part in the cluster: its links to other nodes, the requests it has sent and those it was sent.
//! Events and time in, effects out. Never a socket, a clock or a key's value.
//!
//! The owner of the sockets calls what happened ([`Peers::connected`], [`Peers::received`], ...), then [`Peers::next`] until it
//! gives `None`, then sends what [`Peers::links_to_send`] names: once a turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::forward::{Failure, Opaque, PendingTable, Stage, admit};
use crate::link::{CloseReason, Event, Expected, Identity, Inbound, Link, Nonce, Owed};
use crate::names::{Address, NodeId};
use crate::placement::partition_of;
use crate::replica::PeerShard;
use crate::ring::{Epoch, NodeState, Ring, SlotEntry};
use crate::table::SlotId;
use crate::time::Micros;
use crate::wire::Flags;

mod acceptance;
mod attention;
mod dialling;
mod sending;
mod under_way;

pub use acceptance::{ACCEPTED_MAX, STRANGERS_MAX};
pub use sending::RunLane;

/// Links from one shard to one node, at most.
pub const LINKS_PER_PEER_MAX: u8 = 8;

/// Capacity for a request that has been given up.
const SCRATCH_BYTES_KEPT: usize = 64 << 10;

/// A node that is behind asks for the ring this often.
const ASK_EVERY: Micros = Micros::from_millis(100);

/// One of a shard's links: an accepted one is over with its [`Effect::Closed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    index: u32,
    generation: u32,
}

/// A request of another node that must be answered with [`Peers::respond`]. The default one is of no link: its answer is dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    link: LinkId,
    owed: Owed,
    /// The shard of this node that owns the key.
    pub shard: u8,
    /// The client's facts.
    pub flags: Flags,
    /// When nobody waits for the reply any more.
    pub deadline: Micros,
    /// Of the ring by which it was sent.
    pub epoch: Epoch,
}

impl Asked {
    /// The link that it came on.
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// One get of a [`Flags::RUN`], counted from 0: it is answered by itself, when the response to all of them has said so.
    #[must_use]
    pub fn part(self, number: usize) -> Self {
        let flags = Flags::AUTHENTICATED.with(Flags::PART);
        Self { owed: self.owed.part(number), flags, ..self }
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// This node owns the key: nothing was sent.
    Here,
    /// The answer will be an [`Effect::Answer`], or [`Effect::ExecuteHere`].
    Sent,
}

/// What has become of gets that were sent together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPart {
    /// [`Peers::body`] is what [`run::Replies`](crate::run::Replies) reads.
    Replies,
    /// [`Peers::body`] is the reply to the one get, without its end line.
    Reply,
    /// They were not executed: [`Peers::run`] has them, to be [sent one by one](Peers::forward_alone).
    NotExecuted,
}

/// What to do next.
#[derive(Clone, Debug)]
pub enum Effect<P> {
    /// Dial shard `shard` of the node at `address`; then [`Peers::connected`] or [`Peers::lost`].
    Connect {
        /// For this link.
        link: LinkId,
        /// The node.
        address: Address,
        /// The shard.
        shard: u8,
    },
    /// The link is up.
    Up {
        /// Which.
        link: LinkId,
    },
    /// Close the link's socket, if there is one. A dialled link will be dialled again.
    Closed {
        /// Which.
        link: LinkId,
        /// Why.
        reason: CloseReason,
        /// Whether it had been up.
        was_up: bool,
    },
    /// Execute [`Peers::body`] and [`Peers::respond`].
    Execute(Asked),
    /// A request of this node is answered: [`Peers::body`] is the owner's reply.
    Answer {
        /// Whose.
        place: P,
        /// Why there is none.
        outcome: Result<(), Failure>,
    },
    /// Some gets of a [`Flags::RUN`] are answered.
    Run {
        /// Whose.
        place: P,
        /// Which: the lowest bit is the first.
        gets: u16,
        /// How, or why not.
        outcome: Result<RunPart, Failure>,
    },
    /// A request that was sent away belongs here by a newer ring: execute [`Peers::body`].
    ExecuteHere {
        /// Whose.
        place: P,
    },
    /// A message about copies is [`Peers::body`]: give it to the shard's [`crate::replica::Replicator`].
    Replica {
        /// The link it came on.
        link: LinkId,
    },
    /// A message about hot keys is [`Peers::body`]. See [`crate::grants`].
    Grants {
        /// The link it came on.
        link: LinkId,
    },
    /// A message about reads is [`Peers::body`]. See [`crate::touches`].
    Touches {
        /// The link it came on.
        link: LinkId,
    },
    /// The node at the other end follows another ring of the same epoch: somebody gave them different lists.
    RingDiffers {
        /// The link.
        link: LinkId,
    },
    /// A ring document of another node is [`Peers::body`]: offer it to the holder, and [`Peers::adopt`] what comes of it.
    RingReceived,
}

#[derive(Debug)]
struct Entry {
    link: Link,
    /// Dialled links: where to.
    target: Option<Target>,
    /// The entry goes when the link ends.
    leaving: bool,
    /// It stands in the list of links to look at, and in that of links that may have something to send.
    is_ready: bool,
    may_send: bool,
    /// When it is looked at although nothing came: not later than the link wants.
    wakes_at: Micros,
    /// It was accepted then, and has not proved yet that it belongs.
    stranger_since: Option<Micros>,
}

impl Entry {
    /// A dialled link that is not to be dialled again.
    fn rests_for_good(&self) -> bool {
        self.leaving && self.target.is_some() && !self.link.is_ending()
    }

    fn new(link: Link, target: Option<Target>) -> Self {
        let leaving = target.is_none();
        Self {
            link,
            target,
            leaving,
            is_ready: false,
            may_send: false,
            wakes_at: Micros::NEVER,
            stranger_since: None,
        }
    }
}

/// What a link was dialled to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    slot: SlotId,
    /// Which of the links from this shard to that node: 0 first.
    lane: u8,
    address: Address,
    shard: u8,
    expected: Expected,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    entry: Option<Box<Entry>>,
}

/// Where the bytes of the last effect are.
#[derive(Clone, Copy, Debug)]
enum Body {
    Link(LinkId),
    Scratch,
}

/// One shard's links and forwards. `P` says where a reply belongs.
#[derive(Debug)]
pub struct Peers<P> {
    identity: Arc<Identity>,
    links_per_peer: u8,
    ring: Option<Arc<Ring>>,
    me: Option<SlotId>,
    /// Shards of the node in each slot: as it says itself, else as the ring says.
    shards: Vec<u16>,
    /// What nodes said of their shards. At most one for each node of the ring.
    told_shards: BTreeMap<NodeId, u16>,
    places: Vec<Place>,
    free: Vec<u32>,
    accepted: usize,
    /// Accepted links that are not up yet, the oldest first.
    strangers: BTreeSet<(Micros, u32)>,
    dialled: BTreeMap<(SlotId, u8), LinkId>,
    pending: PendingTable<P>,
    /// Some link may have less room than [`LANE_SHARE_MIN`], or a request that waits for it.
    is_crowded: bool,
    /// With the gets of a run that it concerns.
    failed: VecDeque<(P, Failure, u16)>,
    scratch: Vec<u8>,
    /// When the client of the run in `scratch` is given up on.
    run_deadline: Micros,
    body: Body,
    /// The links that something happened to since they were last looked at.
    ready: VecDeque<u32>,
    /// The links that may have something to send.
    to_send: Vec<u32>,
    /// When to look at which although nothing happened: at most once for each.
    wakes: BTreeSet<(Micros, u32)>,
    /// The latest epoch that a link has spoken of.
    heard_epoch: Epoch,
    /// The link that was asked for the ring last, and when another will be.
    asked: usize,
    ask_at: Micros,
    jitter: u64,
}

impl<P: Copy> Peers<P> {
    /// A shard without a ring. `links_per_peer` is 1 to [`LINKS_PER_PEER_MAX`]; `jitter` is any number, another for each shard
    /// of each node.
    pub fn new(identity: Identity, links_per_peer: u8, jitter: u64) -> Self {
        assert!((1..=LINKS_PER_PEER_MAX).contains(&links_per_peer), "{links_per_peer} links per peer");
        Self {
            identity: Arc::new(identity),
            links_per_peer,
            ring: None,
            me: None,
            shards: Vec::new(),
            told_shards: BTreeMap::new(),
            places: Vec::new(),
            free: Vec::new(),
            accepted: 0,
            strangers: BTreeSet::new(),
            dialled: BTreeMap::new(),
            pending: PendingTable::new(),
            is_crowded: true,
            failed: VecDeque::new(),
            scratch: Vec::new(),
            run_deadline: Micros::default(),
            body: Body::Scratch,
            ready: VecDeque::new(),
            to_send: Vec::new(),
            wakes: BTreeSet::new(),
            heard_epoch: Epoch::NONE,
            asked: 0,
            ask_at: Micros::default(),
            jitter,
        }
    }

    /// The ring it follows.
    pub fn ring(&self) -> Option<&Arc<Ring>> {
        self.ring.as_ref()
    }

    fn epoch(&self) -> Epoch {
        self.ring.as_ref().map_or(Epoch::NONE, |ring| ring.epoch())
    }

    fn ring_mark(&self) -> u64 {
        self.ring.as_ref().map_or(0, |ring| ring.mark())
    }

    /// Whether this node owns a key of this hash. Without a ring it owns nothing. O(1).
    pub fn owns(&self, hash: u64) -> bool {
        self.me.is_some() && self.ring.as_ref().map(|ring| ring.primary(partition_of(hash))) == self.me
    }

    /// Memory of what waits: requests under way, and bytes of links that are not sent or not looked at. O(links).
    pub fn buffer_bytes(&self) -> usize {
        let links = self.links().map(|(_, link)| link.buffer_bytes());
        self.pending.bytes() + self.scratch.capacity() + links.sum::<usize>()
    }

    /// Requests that wait for an answer.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// The bytes of the effect that [`Self::next`] gave last, until the next call of any `&mut` function.
    pub fn body(&self) -> &[u8] {
        match self.body {
            Body::Link(id) => self.link(id).map_or(&[], Link::body),
            Body::Scratch => &self.scratch,
        }
    }

    /// All gets of the run of which some were [not executed](RunPart::NotExecuted), and when their client is given up on; until the
    /// next call of any `&mut` function.
    pub fn run(&self) -> (&[u8], Micros) {
        (&self.scratch, self.run_deadline)
    }

    /// A link, while there is one of that name.
    pub fn link(&self, id: LinkId) -> Option<&Link> {
        let place = self.places.get(usize::try_from(id.index).ok()?)?;
        let entry = place.entry.as_ref().filter(|_| place.generation == id.generation)?;
        Some(&entry.link)
    }

    /// A link that something happens to: it will be looked at.
    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.link(id)?;
        self.touch(id.index);
        let entry = self.places[place_of(id.index)].entry.as_mut().expect("seen just now");
        Some(&mut entry.link)
    }

    /// All links.
    pub fn links(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        let live = |(index, place)| Some((name(index, place), &place.entry.as_ref()?.link));
        self.places.iter().enumerate().filter_map(live)
    }

    /// Follows a newer ring: dials its nodes, lets go of others, and sends again what waited for it.
    pub fn adopt(&mut self, now: Micros, ring: Arc<Ring>) {
        self.me = ring.slot_of(&self.identity.node);
        self.told_shards.retain(|node, _| ring.slot_of(node).is_some());
        self.ring = Some(ring);
        let (epoch, mark) = (self.epoch(), self.ring_mark());
        for id in self.links().map(|(id, _)| id).collect::<Vec<_>>() {
            self.link_mut(id).expect("it is one of them").set_ring(epoch, mark);
        }
        self.redial(now);
        let is_served = |stage| matches!(stage, Stage::WaitsForRing { epoch: wanted, .. } if wanted <= epoch);
        let served = self.pending.select(|pending| is_served(pending.stage));
        if self.pending.len() > 0 {
            self.line_up(now);
        }
        served.into_iter().for_each(|opaque| self.pending.set_stage(opaque, Stage::WaitsForTurn));
    }

    fn place(&mut self, mut entry: Entry) -> LinkId {
        entry.link.set_mark(self.ring_mark());
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            u32::try_from(self.places.len() - 1).expect("links are bounded")
        });
        let place = &mut self.places[place_of(index)];
        assert!(place.entry.is_none(), "a free place is empty");
        place.generation = place.generation.wrapping_add(1);
        place.entry = Some(Box::new(entry));
        let id = LinkId { index, generation: place.generation };
        self.touch(index);
        id
    }

    /// Ends a dialled link for good. One that rests has no end to come: it goes at once.
    fn leave(&mut self, index: u32) {
        self.touch(index);
        let entry = self.places[place_of(index)].entry.as_mut().expect("a link that is dialled is there");
        entry.leaving = true;
        entry.link.retire();
    }

    /// Removes a link that has ended. It stands in no list but that of what may be sent, where nobody takes it for another.
    fn remove(&mut self, index: u32) {
        let entry = self.places[place_of(index)].entry.take().expect("what is removed is there");
        self.wakes.remove(&(entry.wakes_at, index));
        self.accepted -= usize::from(entry.target.is_none());
        if let Some(since) = entry.stranger_since {
            self.strangers.remove(&(since, index));
        }
        self.free.push(index);
    }

    /// The socket of [`Effect::Connect`] is connected.
    pub fn connected(&mut self, now: Micros, id: LinkId, nonce: Nonce) {
        if self.link_mut(id).is_none() {
            return;
        }
        let entry = self.places[place_of(id.index)].entry.as_deref_mut();
        let Some(Entry { link, target: Some(target), .. }) = entry else {
            unreachable!("only dialled links are connected");
        };
        link.connected(now, nonce, target.shard);
    }

    /// The socket of a link could not be connected or was closed.
    pub fn lost(&mut self, id: LinkId) {
        if let Some(link) = self.link_mut(id) {
            link.lost();
        }
    }

    /// Bytes came.
    pub fn received(&mut self, now: Micros, id: LinkId, bytes: &[u8]) {
        if let Some(link) = self.link_mut(id) {
            link.receive(now, bytes);
        }
    }

    /// See [`Link::take_output`].
    pub fn take_output(&mut self, now: Micros, id: LinkId, spare: Vec<u8>) -> Option<Vec<u8>> {
        self.link_mut(id)?.take_output(now, spare)
    }

    /// The kernel has taken all of the output.
    pub fn sent(&mut self, id: LinkId) {
        if let Some(link) = self.link_mut(id) {
            link.sent();
        }
    }

    /// The other nodes that hold items: those that serve, and those that are being filled, which may serve before long.
    pub fn others(&self) -> impl Iterator<Item = SlotId> {
        let slots = self.ring.iter().flat_map(|ring| &ring.document().slots);
        let serves =
            |(_, entry): &(SlotId, &SlotEntry)| entry.state.serves() || entry.state == NodeState::Syncing;
        let is_other = |slot: &SlotId| Some(*slot) != self.me;
        (0..).map(SlotId).zip(slots).filter(serves).map(|(slot, _)| slot).filter(is_other)
    }

    fn forget(&mut self, now: Micros, opaque: Opaque) {
        self.pending.forget(now, opaque);
        self.scratch.clear();
        self.scratch.shrink_to(SCRATCH_BYTES_KEPT);
    }

    /// The shard of another node that a dialled link leads to.
    pub fn leads_to(&self, id: LinkId) -> Option<PeerShard> {
        let place = self.places.get(usize::try_from(id.index).ok()?)?;
        let entry = place.entry.as_ref().filter(|_| place.generation == id.generation)?;
        let target = entry.target.as_ref()?;
        Some(PeerShard { slot: target.slot, shard: target.shard.into() })
    }

    /// The message of an [`Effect::Replica`], [`Effect::Grants`] or [`Effect::Touches`] is none: ends its link.
    pub fn refuse_message(&mut self, link: LinkId) {
        self.link_mut(link).into_iter().for_each(Link::refuse_message);
    }

    /// When [`Self::next`] has something to do although nothing came.
    pub fn wake_at(&self) -> Micros {
        let by_ring = if self.is_behind() { self.ask_at } else { Micros::NEVER };
        self.links_wake_at().min(self.pending.wake_at()).min(by_ring)
    }

    /// Whether some node has spoken of a later ring than this one follows.
    pub fn is_behind(&self) -> bool {
        self.heard_epoch > self.epoch()
    }

    /// What to do next; `None` until something comes or [`Self::wake_at`] has passed.
    pub fn next(&mut self, now: Micros) -> Option<Effect<P>> {
        while let Some((id, event)) = self.next_batched() {
            if let Some(effect) = self.hear(now, id, event) {
                return Some(effect);
            }
        }
        self.expire(now);
        loop {
            if let Some((place, failure, gets)) = self.failed.pop_front() {
                return Some(match gets {
                    0 => Effect::Answer { place, outcome: Err(failure) },
                    gets => Effect::Run { place, gets, outcome: Err(failure) },
                });
            }
            if let Some(opaque) = self.pending.next_overtaken() {
                self.give_up(now, opaque);
                continue;
            }
            if let Some(opaque) = self.pending.next_to_go() {
                if let Some(effect) = self.send_again(now, opaque) {
                    return Some(effect);
                }
                continue;
            }
            let Some((id, event)) = self.next_event(now) else {
                break;
            };
            if let Some(effect) = self.hear(now, id, event) {
                return Some(effect);
            }
        }
        self.ask_ring(now);
        None
    }

    #[inline]
    fn hear(&mut self, now: Micros, id: LinkId, event: Event) -> Option<Effect<P>> {
        self.body = Body::Link(id);
        match event {
            Event::Request(inbound) => self.take_request(now, id, inbound),
            Event::Response { opaque, status, part, epoch } => {
                self.take_response(now, id, Opaque(opaque), (status, part), epoch)
            }
            event => self.hear_other(now, id, event),
        }
    }

    #[inline(never)]
    fn hear_other(&mut self, now: Micros, id: LinkId, event: Event) -> Option<Effect<P>> {
        match event {
            Event::Connect => {
                let entry = self.places[place_of(id.index)].entry.as_ref().expect("it has just spoken");
                let target = entry.target.as_ref().expect("only dialled links connect");
                Some(Effect::Connect { link: id, address: target.address.clone(), shard: target.shard })
            }
            Event::Up => {
                self.befriend(id);
                self.learn_shards(now, id);
                self.dial_back(now, id);
                self.is_crowded = true;
                Some(Effect::Up { link: id })
            }
            Event::Closed { reason, was_up } => {
                self.fail_sent(now, id);
                Some(Effect::Closed { link: id, reason, was_up })
            }
            Event::PeerEpoch(theirs) => {
                self.heard_epoch = self.heard_epoch.max(theirs);
                let waits = |stage| matches!(stage, Stage::WaitsForPeer { link, epoch, .. } if link == id && epoch <= theirs);
                for opaque in self.pending.select(|pending| waits(pending.stage)) {
                    self.pending.set_stage(opaque, Stage::WaitsForTurn);
                }
                None
            }
            Event::RingWanted(epoch) => {
                self.send_ring(id, epoch);
                None
            }
            Event::RingDocument => Some(Effect::RingReceived),
            Event::RingDiffers => Some(Effect::RingDiffers { link: id }),
            Event::Replica => Some(Effect::Replica { link: id }),
            Event::Grants => Some(Effect::Grants { link: id }),
            Event::Touches => Some(Effect::Touches { link: id }),
            Event::Request(_) | Event::Response { .. } => unreachable!("they are heard where they come"),
        }
    }

    #[inline]
    fn take_request(&mut self, now: Micros, id: LinkId, inbound: Inbound) -> Option<Effect<P>> {
        match admit(now, &inbound, self.ring.as_deref(), self.me) {
            Ok(()) => {
                let Inbound { owed, shard, flags, deadline, epoch, .. } = inbound;
                Some(Effect::Execute(Asked { link: id, owed, shard, flags, deadline, epoch }))
            }
            Err(status) => {
                let link = self.link_mut(id).expect("it has just spoken");
                link.send_response(inbound.owed, status, &[]);
                None
            }
        }
    }

    /// A node that is behind asks those that are ahead, one after the other.
    fn ask_ring(&mut self, now: Micros) {
        if now < self.ask_at || !self.is_behind() {
            return;
        }
        self.ask_at = now + ASK_EVERY;
        let ours = self.epoch();
        for step in 1..=self.places.len() {
            let index = (self.asked + step) % self.places.len();
            let Some(entry) = &mut self.places[index].entry else { continue };
            if entry.link.is_up() && entry.link.peer_epoch() > ours {
                entry.link.ask_ring(ours.next().expect("a later epoch was heard of"));
                self.asked = index;
                return self.touch(u32::try_from(index).expect("links are bounded"));
            }
        }
        // Who spoke of it is gone.
        self.heard_epoch = ours;
    }

    fn send_ring(&mut self, id: LinkId, wanted: Epoch) {
        let Some(ring) = self.ring.as_ref().filter(|ring| ring.epoch() >= wanted).map(Arc::clone) else {
            return;
        };
        self.link_mut(id).expect("it has just spoken").send_ring(ring.json());
    }

    /// Recomputes every sum from scratch; for tests and debugging. O(everything).
    pub fn check_invariants(&self) {
        self.pending.check_invariants();
        assert!(self.pending.len() <= crate::forward::PENDING_MAX);
        assert!(self.accepted <= ACCEPTED_MAX);
        let accepted = self.places.iter().filter_map(|place| place.entry.as_ref());
        assert_eq!(accepted.clone().filter(|entry| entry.target.is_none()).count(), self.accepted);
        assert_eq!(accepted.filter(|entry| entry.stranger_since.is_some()).count(), self.strangers.len());
        assert!(self.strangers.len() <= STRANGERS_MAX);
        for (id, link) in self.links() {
            link.check_invariants();
            self.check_attention(id);
            if self.dialled.values().any(|&dialled| dialled == id) && link.is_up() {
                let used = link.used();
                assert_eq!(self.pending.under_way(id), (used.operations, used.bytes), "{id:?}");
            }
        }
        assert!(self.pending.bytes() <= crate::forward::PENDING_BYTES_MAX || self.pending.len() == 1);
    }
}

/// The index of a link as one of a list.
fn place_of(index: u32) -> usize {
    usize::try_from(index).expect("64-bit")
}

fn name(index: usize, place: &Place) -> LinkId {
    LinkId { index: u32::try_from(index).expect("links are bounded"), generation: place.generation }
}

#[cfg(test)]
mod tests;
