//! What a client had forgotten, everything at once. Each node does it at its own moment and says so in its streams; a copy that has done
//! it before its primary did may be told what the primary had before, and that must not outlive the primary.

use super::*;

/// A copy that has performed a flush waits so long for its primary's word of it. A word that does not come in this time will not: the
/// flush failed there.
const OWED_FOR: Micros = Micros::from_millis(10_000);

/// A primary is so much earlier than a copy at most: nodes are told within a second, and each counts seconds of its own when
/// the flush is one that is yet to come.
const EARLY_BY: Micros = Micros::from_millis(3_000);

/// Flushes of each kind that are remembered.
const REMEMBERED_MAX: usize = 64;

/// Flushes that this node and the one at the other end of a stream have not both performed, as far as is known here: when each was.
#[derive(Clone, Debug, Default)]
pub(super) struct Flushes {
    /// Performed here; the word of the other end has not come.
    owed: VecDeque<Micros>,
    /// The other end's word came first.
    early: VecDeque<Micros>,
}

impl Flushes {
    /// This node has performed one. The word of the other end is waited for if it is one that `speaks`.
    fn performed(&mut self, now: Micros, speaks: bool) {
        self.early.retain(|&at| now.since(at) < EARLY_BY);
        if self.early.pop_front().is_none() && speaks {
            remember(&mut self.owed, now);
        }
    }

    /// The other end says that it has.
    pub(super) fn heard(&mut self, now: Micros) {
        self.owed.retain(|&at| now.since(at) < OWED_FOR);
        if self.owed.pop_front().is_none() {
            remember(&mut self.early, now);
        }
    }

    /// Whether what was said since may be from before.
    fn is_owed(&self, now: Micros) -> bool {
        self.owed.iter().any(|&at| now.since(at) < OWED_FOR)
    }
}

fn remember(times: &mut VecDeque<Micros>, now: Micros) {
    if times.len() == REMEMBERED_MAX {
        times.pop_front();
    }
    times.push_back(now);
}

impl<T: Copy> Replicator<T> {
    /// Whether a flush that was asked for by the ring `epoch` may be performed here now: asked before the store is emptied. Where all members
    /// perform it by the same ring, each key has one primary that does, and tells its copies in order. And what a former primary has
    /// still to say, or may answer yet, was said before.
    ///
    /// # Errors
    /// [`Refused::Wait`]: not now, and nothing is done.
    pub fn may_flush(&self, epoch: Epoch) -> Result<(), Refused> {
        if self.epoch() == epoch && self.unsettled.is_empty() { Ok(()) } else { Err(Refused::Wait) }
    }

    /// The store was emptied, as a client had everything forgotten. Copies forget what this node is primary of when they have heard
    /// all that was said of it before. A write that waits for copies in [`Mode::Sync`] comes behind it.
    ///
    /// A look at every partition when it is the first by a ring.
    pub fn flushed(&mut self, now: Micros) {
        let (epoch, bytes_max) = (self.epoch(), self.queue_bytes_max());
        // The store had these, and has not any more.
        let settling = self.open.values_mut().filter(|open| open.settles);
        settling.for_each(|open| open.record.content = None);
        // What earlier primaries have still to say comes before it. So does what was put to values that are gone now: it is not said again.
        self.flushed.extend(&self.unsettled);
        let primaries = self.primaries.take().unwrap_or_else(|| self.find_primaries());
        // Who has said nothing yet, as to one that joins, may yet say what was before.
        if let Some(ring) = self.ring.clone() {
            let peers = primaries.iter().flat_map(|&slot| self.peers_of(&ring, slot));
            for peer in peers.collect::<Vec<_>>() {
                self.sources.entry(peer).or_default();
            }
        }
        for (peer, source) in &mut self.sources {
            source.flushes.performed(now, primaries.contains(&peer.slot));
        }
        self.primaries = Some(primaries);
        let peers: Vec<_> = self.streams.keys().copied().collect();
        for peer in peers {
            let said = |write: &WriteId| {
                Some((*write, &self.open[write])).filter(|(_, open)| open.is_pending && open.delta.is_none())
            };
            let pending = self.pending.values().filter_map(said).map(|(write, open)| (write, &open.record));
            let mut again = Vec::new();
            let stream = self.streams.get_mut(&peer).expect("just seen");
            if stream.flush(epoch, bytes_max, pending, |write| again.push(write)) {
                for write in again {
                    self.open.get_mut(&write).expect("what is pending is open").missing += 1;
                }
            } else {
                self.break_off(peer, None, |_| None);
                self.streams.get_mut(&peer).expect("just seen").push(epoch, Entry::Flush);
            }
        }
    }

    /// Who is primary of something that this node has copies of: they speak to it.
    fn find_primaries(&self) -> BTreeSet<SlotId> {
        let (Some(ring), Some(me)) = (&self.ring, self.me) else { return BTreeSet::new() };
        let is_here = |partition: &PartitionId| {
            ring.owners(*partition).contains(&me) || self.filling.contains_key(partition)
        };
        let all = self.scope.clone().map(PartitionId::new).filter(is_here);
        all.map(|partition| ring.primary(partition)).filter(|&primary| primary != me).collect()
    }

    /// Another node than `before` is primary now, and not this one: what `before` said is not believed if a flush of it was awaited.
    pub(super) fn doubt_flushed(
        &mut self,
        now: Micros,
        store: &mut impl Store,
        partition: PartitionId,
        before: SlotId,
    ) {
        let ends = PeerShard { slot: before, shard: 0 }..=PeerShard { slot: before, shard: u16::MAX };
        let owing = self.sources.range(ends).filter(|(_, source)| source.flushes.is_owed(now));
        let owing: Vec<_> = owing.map(|(&peer, _)| peer).collect();
        for peer in owing {
            self.forget_what(store, partition, peer);
        }
    }

    /// This node is primary, and the one before it says nothing any more: neither its word of a flush.
    pub(super) fn took_over(
        &mut self,
        now: Micros,
        store: &mut impl Store,
        partition: PartitionId,
        fence: Fence,
    ) {
        let is_owed = self.sources.get(&fence.of).is_some_and(|source| source.flushes.is_owed(now));
        if is_owed && self.is_last(partition, &fence) {
            self.forget_what(store, partition, fence.of);
            self.fill_learners_anew(partition);
        }
    }

    /// Forgets what one shard of a primary may have said of a partition. Not in [`Mode::Sync`]: what was acknowledged there before the flush
    /// began was with all copies, and went with their own; and what was acknowledged behind it must stay, whatever else is in doubt.
    fn forget_what(&mut self, store: &mut impl Store, partition: PartitionId, peer: PeerShard) {
        if self.mode() != Mode::Sync && holds(Safeguard::FlushesAreAwaited) {
            let slot = self.ring.as_ref().and_then(|ring| ring.find_slot(peer.slot));
            let shards = slot.map(|slot| slot.shards).filter(|&shards| peer.shard < shards);
            let portion = shards.map_or(Portion::ALL, |shards| Portion::of_shard(peer.shard, shards));
            self.flush(store, partition, portion);
        }
    }

    /// Learners may have been given what was forgotten here now.
    pub(super) fn fill_learners_anew(&mut self, partition: PartitionId) {
        let learners = self.tenures.get(partition).map(|tenure| tenure.learners.clone()).unwrap_or_default();
        let ends = self.streams.iter_mut().filter(|(peer, _)| learners.contains(&peer.slot));
        ends.for_each(|(_, stream)| stream.fill_anew(partition));
    }
}
