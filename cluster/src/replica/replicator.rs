//! One shard's part in replication, as primary and as backup: who may read and write here, what waits for whom, what is said
//! to the others. Never a socket, a clock, or the meaning of a command.
//!
//! The owner calls what happened ([`Replicator::adopt`], [`Replicator::received`], [`Replicator::write`], ...), then
//! [`Replicator::turn`], then [`Replicator::next_effect`] until it gives `None`: once a turn of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use ahash::RandomState;

use super::message::{Entry, Garbled, Message, Sender, decode, encode};
use super::store::{Bytes, Content, Cursor, Delta, Portion, Record, Side, Store};
use super::stream::{Stream, WriteId, delta_bytes, record_bytes};
use super::tenures::Tenures;
use super::{PeerShard, Version, VersionClock};
use crate::jump::mix;
use crate::link::AWAY_MIN;
use crate::names::Incarnation;
use crate::placement::{PartitionId, partition_of};
use crate::report::ShardReport;
use crate::ring::partitions::PartitionSet;
use crate::ring::{Epoch, Mode, NodeState, Ring, SlotEntry};
use crate::safeguard::{Safeguard, holds};
use crate::table::SlotId;
use crate::time::Micros;

mod adopt;
mod backup;
mod check;
mod counts;
mod flushes;
mod primary;

pub use counts::Counts;
use flushes::Flushes;

/// A primary that has heard neither of half of the others nor of the coordinator for so long answers nothing: it may have
/// been removed. It also bounds how long a new primary waits for the old one's word where there are no leases.
const ISOLATED_AFTER: Micros = Micros::from_millis(3_000);

/// A node that has heard neither of half of the others nor of the coordinator for so long tells near caches no more that their copies are
/// good: from then on it may be called silent ([`SILENT_AFTER`]), and others may write its keys.
const IN_TOUCH_FOR: Micros = Micros::from_millis(1_000);
const _: () = assert!(IN_TOUCH_FOR.0 * 12 / 10 < SILENT_AFTER.0);

/// Who needed nobody's lease and is called down answers nothing any more when so long has passed, though its clock be slower by a
/// fifth.
const ISOLATED_OVER: Micros = Micros::from_millis(4_000);
const _: () = assert!(ISOLATED_AFTER.0 * 12 / 10 < ISOLATED_OVER.0);

/// A member that was to be heard of and was not for so long is called silent. Sources speak five times in a second.
const SILENT_AFTER: Micros = Micros::from_millis(1_500);

/// Items of a partition that nobody holds live no longer: ten seconds are promised, and who counts seconds may be a second late.
const GUTTER_TTL_MAX: Micros = Micros::from_millis(9_000);

/// Clients are given up on this often.
const GIVE_UP_EVERY: Micros = Micros::from_millis(5);

/// Steps of the store's walk in one turn, for all learners together: a millisecond, in which nobody is served. A learner of few
/// partitions wants few of the items that the walk comes by, so what is ready to be sent is no bound.
const FILL_STEPS_MAX: usize = 16;

/// Writes of one shard that wait for others.
const WRITES_MAX: usize = 16 << 10;

/// Why an operation is not carried out here and now. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another node is primary.
    #[error("another node is primary")]
    NotPrimary,
    /// Soon, perhaps: the key is being written, or the partition is being handed over.
    #[error("the key is being written or handed over")]
    Wait,
    /// Another node may have become primary meanwhile.
    #[error("the other copies do not answer")]
    NoLease,
    /// Too much waits for others.
    #[error("too much waits for the other copies")]
    Overloaded,
    /// The term has no versions left.
    #[error("the term has no versions left")]
    WornOut,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is where the mode says it must be.
    Done,
    /// It may come to be, or not.
    Unknown,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<T> {
    /// Send these bytes, after what was sent there before.
    Send {
        /// To whom.
        to: PeerShard,
        /// A message.
        bytes: Vec<u8>,
    },
    /// Answer a client.
    Answer {
        /// Whose write it is.
        token: T,
        /// What became of it.
        outcome: Outcome,
    },
}

/// What a write makes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This item, whatever there was; `None` deletes.
    Becomes(Option<Content>),
    /// More is put to the value of the item that the store holds now. Nothing else of it changes.
    Extends {
        /// Its version.
        base: Version,
        /// Where.
        side: Side,
        /// What.
        bytes: Bytes,
        /// Bytes of the value afterwards.
        value_len: usize,
    },
}

/// The state that a key is to have. The command that leads to it was evaluated on what the store holds.
#[derive(Clone, Debug)]
pub struct Write<T> {
    /// Whose it is.
    pub token: T,
    /// [`crate::placement::hash_key`] of the key.
    pub hash: u64,
    /// The key.
    pub key: Bytes,
    /// What becomes of it.
    pub change: Change,
    /// In [`Mode::Inval`]: it makes values that clients hold invalid, so it waits for the copies.
    pub invalidates: bool,
    /// When the client is given up on: the outcome is unknown then.
    pub deadline: Micros,
}

/// A partition that this node is primary of.
#[derive(Clone, Debug)]
pub(super) struct Tenure {
    since: Epoch,
    receivers: Box<[SlotId]>,
    learners: Box<[SlotId]>,
    is_gutter: bool,
    /// It began with nothing.
    is_heir: bool,
}

#[cfg(test)]
impl Tenure {
    /// With nobody else, for tests of where tenures are kept.
    pub(super) fn of_nobody(since: Epoch) -> Self {
        Self { since, receivers: Box::default(), learners: Box::default(), is_gutter: false, is_heir: false }
    }
}

/// A shard of an earlier primary that may still believe that it is.
#[derive(Clone, Copy, Debug)]
struct Fence {
    of: PeerShard,
    epoch: Epoch,
    until: Micros,
}

/// A write that others do not have yet.
#[derive(Debug)]
struct Open<T> {
    token: Option<T>,
    record: Record,
    /// In place of the record's content: what is put to the item that the store has.
    delta: Option<Delta>,
    /// Bytes of what a delta that is pending comes to: it may have to be said as that.
    whole_bytes: usize,
    deadline: Micros,
    /// Entries that are not acknowledged.
    missing: u32,
    /// In the store only when nothing is missing. Otherwise neither the record's content nor the delta is kept here.
    is_pending: bool,
    /// It settles a doubt. The store has it, and in [`Mode::Sync`] nobody may see it yet.
    settles: bool,
}

/// The receiving end of a stream.
#[derive(Debug, Default)]
struct Source {
    /// When what it said last was sent, by the clock of its life.
    sent_at: Micros,
    incarnation: Incarnation,
    stream: u64,
    applied: u64,
    /// An entry was not taken: all after it must be sent again.
    has_gap: bool,
    granted_at: Option<Micros>,
    /// Entries whose keys are in doubt, and the keys' hashes.
    doubted: VecDeque<(u64, u64)>,
    /// Other copies that lack what it does not say again one by one.
    behind: BTreeSet<PeerShard>,
    flushes: Flushes,
}

/// A key whose state came from a primary, perhaps this node, that may not have brought it to everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Doubt {
    of: PeerShard,
    stream: u64,
    sequence: u64,
    key: Bytes,
}

/// Found by a key's hash, which clients can choose: it is hashed again.
type ByHash<V> = HashMap<u64, V, RandomState>;

/// In tests a seed stands for one history.
fn by_hash<V>() -> ByHash<V> {
    let is_repeatable = cfg!(test);
    HashMap::with_hasher(if is_repeatable { RandomState::with_seeds(1, 2, 3, 4) } else { RandomState::new() })
}

/// See the module. `T` says whose a write is.
#[derive(Debug)]
pub struct Replicator<T> {
    incarnation: Incarnation,
    shard: u16,
    /// The partitions that it keeps account of: all, but in tests.
    scope: Range<u16>,
    ring: Option<Arc<Ring>>,
    me: Option<SlotId>,
    clock: VersionClock,
    tenures: Tenures,
    fences: BTreeMap<PartitionId, Vec<Fence>>,
    /// The last ring by which another than the primary of now was primary: what the primary sent under it or before is void.
    rivals: BTreeMap<PartitionId, Epoch>,
    /// Partitions that this node became primary of, and has doubts about.
    unsettled: BTreeSet<PartitionId>,
    /// Those of them that are to be forgotten when nobody says anything of them any more.
    flushed: BTreeSet<PartitionId>,
    /// Partitions that are being filled here, since which epoch.
    filling: BTreeMap<PartitionId, Epoch>,
    streams: BTreeMap<PeerShard, Stream>,
    streams_made: u64,
    sources: BTreeMap<PeerShard, Source>,
    /// By the hashes of their keys. Of two keys with the same one is dropped.
    doubts: ByHash<Doubt>,
    /// Hashes and keys of items that were to be extended and were not there: asked for with the answer to the message that said it.
    lacking: Vec<(u64, Bytes)>,
    open: BTreeMap<WriteId, Open<T>>,
    writes_made: WriteId,
    /// Keys whose state is not to be seen or changed until it is with everybody, by their hashes: another key of the same waits too.
    pending: ByHash<WriteId>,
    /// Bytes of what the deltas among them come to.
    whole_bytes: usize,
    /// And whether they know deltas.
    connected: BTreeMap<PeerShard, bool>,
    heard: BTreeMap<SlotId, Micros>,
    /// The last turn, and the first after the last time that there was none for long: nobody can be heard of by who does not run.
    turned_at: Micros,
    back_at: Micros,
    /// Since when each member is one in its present life.
    member_since: BTreeMap<SlotId, Micros>,
    /// Members that are down: since which epoch, and when this node heard of it.
    down_since: BTreeMap<SlotId, (Epoch, Micros)>,
    /// The latest ring that each shard of another node is known to follow.
    words: BTreeMap<PeerShard, Epoch>,
    confirmed_at: Micros,
    give_up_at: Micros,
    check_at: Micros,
    scrubbed: Cursor,
    /// What came of comparing; the other counts are those of the moment, and nothing here.
    compared: Counts,
    /// Filling has more to do at once.
    is_filling_on: bool,
    /// Bytes that its streams may keep, in all.
    queue_bytes: usize,
    /// [`WRITES_MAX`], but in tests.
    writes_max: usize,
    /// Who is primary of something that this node has copies of, by this ring, once that was asked for.
    primaries: Option<BTreeSet<SlotId>>,
    effects: VecDeque<Effect<T>>,
}

impl<T: Copy> Replicator<T> {
    /// Shard `shard` of a node in its life `incarnation`, which no other life of the node had.
    pub fn new(incarnation: Incarnation, shard: u16, scope: Range<u16>) -> Self {
        Self {
            incarnation,
            shard,
            tenures: Tenures::new(&scope),
            scope,
            ring: None,
            me: None,
            clock: VersionClock::default(),
            fences: BTreeMap::new(),
            rivals: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            flushed: BTreeSet::new(),
            filling: BTreeMap::new(),
            streams: BTreeMap::new(),
            streams_made: 0,
            sources: BTreeMap::new(),
            doubts: by_hash(),
            lacking: Vec::new(),
            open: BTreeMap::new(),
            writes_made: 0,
            pending: by_hash(),
            whole_bytes: 0,
            connected: BTreeMap::new(),
            heard: BTreeMap::new(),
            turned_at: Micros::default(),
            back_at: Micros::default(),
            confirmed_at: Micros::default(),
            member_since: BTreeMap::new(),
            down_since: BTreeMap::new(),
            words: BTreeMap::new(),
            give_up_at: Micros::default(),
            check_at: Micros::default(),
            scrubbed: Cursor::default(),
            compared: Counts::default(),
            is_filling_on: false,
            queue_bytes: usize::MAX,
            writes_max: WRITES_MAX,
            primaries: None,
            effects: VecDeque::new(),
        }
    }

    /// With at most so many bytes that wait for other nodes, in all, but that each shard of them has room for 1 MiB and an item.
    pub fn with_queue_bytes(self, queue_bytes: usize) -> Self {
        Self { queue_bytes, ..self }
    }

    /// With fewer writes that wait for others.
    #[cfg(test)]
    pub(super) fn set_writes_max(&mut self, writes_max: usize) {
        self.writes_max = writes_max;
    }

    /// With versions that begin elsewhere: see [`VersionClock::beginning_at`].
    pub fn with_clock(mut self, clock: VersionClock) -> Self {
        assert!(self.ring.is_none(), "no version was given yet");
        self.clock = clock;
        self
    }

    /// The ring it follows.
    pub fn ring(&self) -> Option<&Arc<Ring>> {
        self.ring.as_ref()
    }

    fn epoch(&self) -> Epoch {
        self.ring.as_ref().map_or(Epoch::NONE, |ring| ring.epoch())
    }

    fn mode(&self) -> Mode {
        self.ring.as_ref().map_or(Mode::Rf1, |ring| ring.document().mode)
    }

    /// The coordinator said that the ring is still this one, or a newer one.
    pub fn confirmed(&mut self, now: Micros) {
        self.confirmed_at = self.confirmed_at.max(now);
    }

    /// A node gave a sign of life, on any link.
    pub fn heard(&mut self, at: Micros, slot: SlotId) {
        let last = self.heard.entry(slot).or_default();
        *last = at.max(*last);
    }

    /// A connection to a shard of another node is up, with nothing in it. It may be of a build that knows no deltas.
    pub fn connected(&mut self, peer: PeerShard, takes_deltas: bool) {
        self.connected.insert(peer, takes_deltas);
        if let Some(stream) = self.streams.get_mut(&peer) {
            stream.connect(takes_deltas);
        }
    }

    /// It is gone, and what was on the way with it.
    pub fn lost(&mut self, peer: PeerShard) {
        self.connected.remove(&peer);
        if let Some(stream) = self.streams.get_mut(&peer) {
            stream.disconnect();
        }
    }

    /// A message came in.
    ///
    /// # Errors
    /// [`Garbled`]: no message of this version. Nothing has changed then.
    pub fn received(&mut self, now: Micros, store: &mut impl Store, bytes: &[u8]) -> Result<(), Garbled> {
        let (sender, message) = decode(now, bytes)?;
        if self.knows(&sender) {
            self.heard(now, sender.peer.slot);
            self.meet(now, store, &sender);
            let word = self.words.entry(sender.peer).or_default();
            *word = sender.epoch.max(*word);
            match message {
                Message::Feed(feed) => self.fed(now, store, &sender, &feed),
                Message::Ack(ack) => self.acked(now, store, &sender, &ack),
                Message::Check(check) => self.checked(now, store, &sender, check),
            }
        }
        Ok(())
    }

    /// Whether the sender is who the ring says it is.
    fn knows(&self, sender: &Sender) -> bool {
        let slot = self.ring.as_ref().and_then(|ring| ring.find_slot(sender.peer.slot));
        slot.is_some_and(|slot| {
            slot.incarnation.admits(sender.incarnation) && sender.peer.shard < slot.shards
        })
    }

    /// What time brings: hand-overs that are over, clients that are given up on, bulk, messages that are due.
    pub fn turn(&mut self, now: Micros, store: &mut impl Store) {
        if now.since(std::mem::replace(&mut self.turned_at, now)) >= AWAY_MIN {
            self.back_at = now;
        }
        self.begin_anew_for_older(now, store);
        self.lift_fences(now, store);
        self.give_up(now, store);
        self.fill(now, store);
        self.check_doubts(now);
        self.tell_behind();
        self.send_feeds(now);
    }

    /// Whether the next [`Replicator::turn`] should come at once: there are items to walk over, and nothing will wake anybody for it.
    pub fn is_in_a_hurry(&self) -> bool {
        self.is_filling_on
    }

    /// The next thing to do.
    pub fn next_effect(&mut self) -> Option<Effect<T>> {
        self.effects.pop_front()
    }

    /// What this shard has to say to the conductor. A look at every partition that it is primary of: now and then, not every turn.
    pub fn report(&self, now: Micros) -> ShardReport {
        let members = self.streams.iter().filter(|(_, stream)| !stream.is_idle()).map(|(peer, _)| peer.slot);
        let mut members: Vec<_> = members.filter(|slot| self.member_since.contains_key(slot)).collect();
        members.dedup();
        let is_silent = |slot: &SlotId| {
            let heard_at = self.heard.get(slot).max(self.member_since.get(slot)).copied();
            now.since(heard_at.unwrap_or_default().max(self.back_at)) >= SILENT_AFTER
        };
        let (silent, heard) = members.into_iter().partition(is_silent);
        ShardReport { epoch: self.epoch(), ready: self.ready(), silent, heard }
    }

    /// The partitions whose learners have everything, on all of their shards that get something from this one; and those that it
    /// began as heir. The conductor counts on it, and reads and writes here count on the learners from before on.
    fn ready(&self) -> PartitionSet {
        // What was said again after a learner was filled it may not have.
        let settling = self.open.values().filter(|open| open.settles).map(|open| open.record.partition());
        let settling: BTreeSet<_> = settling.collect();
        // Nor what an earlier primary may still say, or has said to this node only.
        let is_settled = |partition: &PartitionId| {
            !self.fences.contains_key(partition)
                && !self.unsettled.contains(partition)
                && !settling.contains(partition)
        };
        let is_filled = |partition: PartitionId, learner: SlotId| {
            let mut ends = self.ends(learner).peekable();
            ends.peek().is_some() && ends.all(|stream| stream.is_ready(partition) && !stream.is_behind())
        };
        let mut ready = PartitionSet::default();
        for (partition, tenure) in self.tenures.iter() {
            let matters = tenure.is_gutter || !tenure.learners.is_empty();
            let has_filled = || tenure.learners.iter().all(|&learner| is_filled(partition, learner));
            if matters && is_settled(&partition) && has_filled() {
                ready.insert(partition);
            }
        }
        ready
    }

    fn ends(&self, slot: SlotId) -> impl Iterator<Item = &Stream> {
        let all = PeerShard { slot, shard: 0 }..=PeerShard { slot, shard: u16::MAX };
        self.streams.range(all).map(|(_, stream)| stream)
    }

    fn portion(&self, ring: &Ring) -> Portion {
        let me = self.me.expect("only a member has a portion");
        Portion::of_shard(self.shard, ring.slot(me).shards)
    }

    fn next_stream(&mut self) -> u64 {
        self.streams_made += 1;
        mix(self.incarnation.0 ^ u64::from(self.shard) << 48) ^ self.streams_made
    }

    /// What every message begins with; a node without a place in the ring says nothing.
    fn sender(&self) -> Option<Sender> {
        let peer = PeerShard { slot: self.me?, shard: self.shard };
        Some(Sender { peer, incarnation: self.incarnation, epoch: self.epoch() })
    }

    fn send(&mut self, now: Micros, to: PeerShard, message: &Message) {
        let Some(sender) = self.sender() else { return };
        let mut bytes = Vec::new();
        encode(now, &sender, message, &mut bytes);
        self.effects.push_back(Effect::Send { to, bytes });
    }

    /// Checks every bound; for tests and debugging.
    pub fn check_invariants(&self) {
        self.streams.values().for_each(Stream::check_invariants);
        assert!(self.open.len() <= self.writes_max, "{} writes are open", self.open.len());
        assert!(self.doubts.len() <= backup::DOUBTS_MAX, "{} keys are in doubt", self.doubts.len());
        assert_eq!(self.whole_bytes, self.open.values().map(|open| open.whole_bytes).sum::<usize>());
        for (hash, write) in &self.pending {
            assert_eq!(&self.open[write].record.hash, hash, "what is pending is open");
        }
        let mut waits: BTreeMap<WriteId, u32> = BTreeMap::new();
        for write in self.streams.values().flat_map(Stream::waited_for) {
            *waits.entry(write).or_default() += 1;
        }
        for (write, open) in &self.open {
            assert_eq!(Some(&open.missing), waits.get(write), "write {write} waits for nobody, or is done");
        }
    }
}

#[cfg(test)]
mod tests;
