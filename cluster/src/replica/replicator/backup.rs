//! The backup's side: what it takes from whom, the leases that it grants, and what it does about other nodes' unfinished
//! business when it becomes primary.

use std::cell::OnceCell;
use std::collections::hash_map;

use super::*;
use crate::replica::message::{Ack, Feed, Numbered};

/// Keys in doubt. With more, items are dropped, whichever: a miss is always right.
pub(super) const DOUBTS_MAX: usize = 64 << 10;

impl Source {
    /// Whether a message comes later than one that was sent after it: this end must not begin anew for an old stream, since the other
    /// end repeats nothing that was acknowledged. Marks it as the last one if not.
    fn is_late(&mut self, incarnation: Incarnation, sent_at: Micros) -> bool {
        let is_late = self.incarnation == incarnation && sent_at < self.sent_at;
        if !is_late {
            (self.sent_at, self.incarnation) = (sent_at, incarnation);
        }
        is_late
    }
}

impl<T: Copy> Replicator<T> {
    /// A message of a source.
    pub(super) fn fed(&mut self, now: Micros, store: &mut impl Store, sender: &Sender, feed: &Feed) {
        if self.me.is_none() {
            return;
        }
        let epoch = self.epoch();
        let grants = sender.epoch == epoch;
        let source = self.sources.entry(sender.peer).or_default();
        if source.is_late(sender.incarnation, feed.sent_at) {
            return;
        }
        if source.stream != feed.stream {
            let Source { sent_at, incarnation, granted_at, .. } = *source;
            let flushes = std::mem::take(&mut source.flushes);
            let kept = Source { sent_at, incarnation, granted_at, flushes, ..Source::default() };
            *source = Source { stream: feed.stream, ..kept };
        }
        if grants {
            source.granted_at = Some(now);
        }
        let is_whole = feed.entries.iter().all(|numbered| self.take(now, store, sender, feed, numbered));
        if sender.epoch == epoch {
            self.trust(sender.peer, feed);
        }
        let source = self.sources.get_mut(&sender.peer).expect("it was just made");
        source.has_gap = !is_whole || source.applied < feed.sent;
        // Asked again too early it would be refused again.
        let wants_again = source.has_gap && sender.epoch == epoch;
        let grant = grants.then_some(feed.sent_at);
        let ack = Ack { stream: feed.stream, applied: source.applied, grant, wants_again };
        self.send(now, sender.peer, &Message::Ack(ack));
        // Behind that: who waits for it may not say yet what the item is.
        self.ask_for_lacking(now);
    }

    /// After another ring: what was refused may be taken now.
    pub(super) fn ask_again(&mut self, now: Micros) {
        let asks = |(&peer, source): (&PeerShard, &Source)| {
            let ack = Ack { stream: source.stream, applied: source.applied, grant: None, wants_again: true };
            source.has_gap.then_some((peer, ack))
        };
        let asked: Vec<_> = self.sources.iter().filter_map(asks).collect();
        for (peer, ack) in asked {
            self.send(now, peer, &Message::Ack(ack));
        }
    }

    /// Takes one entry. False: not this one, and so none after it.
    fn take(
        &mut self,
        now: Micros,
        store: &mut impl Store,
        sender: &Sender,
        feed: &Feed,
        numbered: &Numbered,
    ) -> bool {
        let peer = sender.peer;
        let applied = self.sources[&peer].applied;
        if numbered.sequence <= applied {
            return true;
        }
        let sequence = numbered.sequence;
        if sequence > applied + 1 || numbered.epoch > self.epoch() {
            return false;
        }
        if !self.accepts(sender, numbered) {
            // A source that follows the same ring knows that this does not count.
            let is_void = sender.epoch == self.epoch();
            self.sources.get_mut(&peer).expect("it is fed").applied += u64::from(is_void);
            return is_void;
        }
        let doubt_about = |key: &Bytes, hash| {
            let is_known = sequence > feed.unknown && sequence <= feed.stable;
            let is_sure = is_known && !self.tenures.contains(partition_of(hash));
            (!is_sure).then(|| Doubt { of: peer, stream: feed.stream, sequence, key: Bytes::clone(key) })
        };
        match &numbered.entry {
            Entry::Live(record) => {
                let doubt = doubt_about(&record.key, record.hash);
                self.put(now, store, record, doubt);
            }
            Entry::Delta(delta) => {
                let doubt = doubt_about(&delta.key, delta.hash);
                self.extend(now, store, delta, doubt);
            }
            Entry::Bulk(record) => self.put(now, store, record, None),
            Entry::Begin(partitions) => {
                // In `sync` all that was not said before is said again, and what was is acknowledged.
                let takes_over = self.mode() != Mode::Sync;
                self.empty(store, peer, takes_over, |partition| partitions.contains(partition));
            }
            Entry::Flush => {
                self.sources.get_mut(&peer).expect("it is fed").flushes.heard(now);
                self.empty(store, peer, true, |_| true);
            }
            Entry::Handoff(partition) => self.handed_over(now, store, peer, *partition, numbered.epoch),
            Entry::Behind { peer: other, is_behind } => self.note_behind(peer, *other, *is_behind),
            Entry::Fences(fences) => store.raise_fences(fences),
            Entry::End(_) | Entry::Void => {}
        }
        self.sources.get_mut(&peer).expect("it is fed").applied = sequence;
        true
    }

    /// Whether the source may say this: as the primary, or as the one before until it has handed over.
    fn accepts(&self, sender: &Sender, numbered: &Numbered) -> bool {
        let peer = sender.peer;
        let Some(partition) = numbered.entry.partition() else { return true };
        if !holds(Safeguard::BackupsFence) {
            return true;
        }
        // Said before the source knew that this node holds it no more: nobody would keep it up to date here.
        if !self.has_part_in(partition) {
            return false;
        }
        let is_before = numbered.epoch < self.epoch() && self.is_taken_over_from(peer, partition);
        // What was sent under a later ring than the rival's would have been retracted if the sender had ceased to be primary: it
        // went on, and what it has is what the partition is.
        let is_overtaken = self.rivals.get(&partition).is_some_and(|&rival| sender.epoch <= rival);
        (self.is_primary(peer, partition) && !is_overtaken) || is_before
    }

    /// Whether a shard of the primary before this node may still say something.
    fn is_taken_over_from(&self, peer: PeerShard, partition: PartitionId) -> bool {
        let fences = self.fences.get(&partition).into_iter().flatten();
        fences.filter(|fence| fence.of == peer).any(|fence| self.is_last(partition, fence))
    }

    /// Whether a fence is of whom this node took over from: what an earlier primary says has been overtaken. An heir took over nothing:
    /// it was not told all, and would give what it was told before for the newest.
    pub(super) fn is_last(&self, partition: PartitionId, fence: &Fence) -> bool {
        let tenure = self.tenures.get(partition).filter(|tenure| !tenure.is_heir);
        tenure.is_some_and(|tenure| tenure.since == fence.epoch)
    }

    /// Whether this node holds a partition by its ring, or is being filled with it.
    pub(super) fn has_part_in(&self, partition: PartitionId) -> bool {
        let (Some(ring), Some(me)) = (&self.ring, self.me) else { return false };
        let is_in_sync = ring.owners(partition).contains(&me) && ring.slot(me).state.serves();
        is_in_sync || self.filling.contains_key(&partition) || self.tenures.contains(partition)
    }

    fn is_primary(&self, peer: PeerShard, partition: PartitionId) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.primary(partition) == peer.slot)
    }

    fn put(&mut self, now: Micros, store: &mut impl Store, record: &Record, doubt: Option<Doubt>) {
        store.apply(now, record);
        self.doubt_or_not(now, store, (record.hash, &record.key), doubt);
    }

    /// Puts to a value what the source has put to it. What it begins with may have been evicted here, or cannot be what the source took it
    /// for: then there is no item, as if it had been evicted now, and the primary is asked for it.
    fn extend(&mut self, now: Micros, store: &mut impl Store, delta: &Delta, doubt: Option<Doubt>) {
        let is_there = store.extend(now, delta);
        if !is_there && holds(Safeguard::DeltaNeedsItsBase) {
            self.lacking.push((delta.hash, Bytes::clone(&delta.key)));
        } else if !is_there {
            let nothing =
                Record { version: delta.base, content: Some(Content::default()), ..delta.whole(None) };
            store.apply(now, &delta.whole(Some(nothing)));
        }
        self.doubt_or_not(now, store, (delta.hash, &delta.key), doubt);
    }

    fn doubt_or_not(
        &mut self,
        now: Micros,
        store: &mut impl Store,
        (hash, key): (u64, &Bytes),
        doubt: Option<Doubt>,
    ) {
        match doubt {
            Some(doubt) => {
                let source = self.sources.get_mut(&doubt.of).expect("it is fed");
                source.doubted.push_back((doubt.sequence, hash));
                self.doubt(now, store, hash, doubt);
            }
            None if self.doubts.get(&hash).is_some_and(|doubt| doubt.key == *key) => {
                self.doubts.remove(&hash);
            }
            None => {}
        }
    }

    pub(super) fn doubt(&mut self, now: Micros, store: &mut impl Store, hash: u64, doubt: Doubt) {
        let key = Bytes::clone(&doubt.key);
        let same = self.doubts.insert(hash, doubt).filter(|other| other.key != key);
        let dropped = match same {
            Some(other) => Some((hash, other)),
            None if self.doubts.len() > DOUBTS_MAX => {
                let any = self.doubts.keys().next().copied();
                any.and_then(|hash| self.doubts.remove_entry(&hash))
            }
            None => None,
        };
        if let Some((hash, Doubt { key, .. })) = dropped {
            store.apply(now, &Record { key, hash, version: Version(0), content: None });
        }
    }

    /// Forgets what one shard of a primary has said of such partitions, `takes_over`: also of those that this node is primary of next.
    fn empty(
        &mut self,
        store: &mut impl Store,
        peer: PeerShard,
        takes_over: bool,
        is_such: impl Fn(PartitionId) -> bool,
    ) {
        let Some(ring) = self.ring.clone() else { return };
        let portion = Portion::of_shard(peer.shard, ring.slot(peer.slot).shards);
        let its = |partition: &PartitionId| match self.tenures.contains(*partition) {
            true => takes_over && self.is_taken_over_from(peer, *partition),
            false => ring.primary(*partition) == peer.slot,
        };
        let scope = self.scope.clone().map(PartitionId::new);
        let emptied: BTreeSet<_> = scope.filter(|partition| is_such(*partition)).filter(its).collect();
        if holds(Safeguard::FillingEmptiesFirst) {
            emptied.iter().for_each(|&partition| store.flush(partition, portion));
            let is_empty = |hash| emptied.contains(&partition_of(hash)) && portion.contains(hash);
            self.doubts.retain(|&hash, _| !is_empty(hash));
            // Of what this node takes over its learners may have been given what it had until now.
            for partition in emptied {
                if self.tenures.contains(partition) {
                    self.fill_learners_anew(partition);
                }
            }
        }
    }

    fn handed_over(
        &mut self,
        now: Micros,
        store: &mut impl Store,
        peer: PeerShard,
        partition: PartitionId,
        epoch: Epoch,
    ) {
        let fences = self.fences.get_mut(&partition).into_iter();
        let over =
            fences.flat_map(|all| all.extract_if(.., move |fence| fence.of == peer && fence.epoch <= epoch));
        for fence in over.collect::<Vec<_>>() {
            self.took_over(now, store, partition, fence);
        }
    }

    /// The source says that another copy is behind, or has everything again.
    fn note_behind(&mut self, peer: PeerShard, other: PeerShard, is_behind: bool) {
        let Some(ring) = &self.ring else { return };
        let is_known = ring.find_slot(other.slot).is_some_and(|slot| other.shard < slot.shards);
        let behind = &mut self.sources.get_mut(&peer).expect("it is fed").behind;
        if !is_behind || !is_known {
            behind.remove(&other);
            return;
        }
        behind.insert(other);
        // It says so late.
        let taken_over = self.fences.keys().filter(|partition| self.is_taken_over_from(peer, **partition));
        let taken_over: Vec<_> = taken_over.copied().collect();
        if let Some(stream) = self.streams.get_mut(&other) {
            taken_over.into_iter().for_each(|partition| stream.fill_anew(partition));
        }
    }

    /// The source says that everybody has what it said up to some entry.
    fn trust(&mut self, peer: PeerShard, feed: &Feed) {
        let source = self.sources.get_mut(&peer).expect("it is fed");
        while let Some((sequence, _)) = source.doubted.front()
            && *sequence <= feed.stable
        {
            let (sequence, hash) = source.doubted.pop_front().expect("just seen");
            // This node's own receivers may be others than the source's.
            if sequence <= feed.unknown || self.tenures.contains(partition_of(hash)) {
                continue;
            }
            if let hash_map::Entry::Occupied(known) = self.doubts.entry(hash)
                && (known.get().of, known.get().stream, known.get().sequence) == (peer, feed.stream, sequence)
            {
                known.remove();
            }
        }
    }

    /// Ends fences whose time is over, and settles what became this node's.
    pub(super) fn lift_fences(&mut self, now: Micros, store: &mut impl Store) {
        let mut over = Vec::new();
        self.fences.retain(|&partition, fences| {
            let ended = fences.extract_if(.., |fence| fence.until <= now);
            over.extend(ended.map(|fence| (partition, fence)));
            !fences.is_empty()
        });
        for (partition, fence) in over {
            self.took_over(now, store, partition, fence);
        }
        let all_follow = OnceCell::new();
        let is_mine_alone = |partition| {
            let tenure = &self.tenures[partition];
            !self.waits_for_words(tenure) || tenure.since <= *all_follow.get_or_init(|| self.all_follow(now))
        };
        let is_free =
            |partition: &&PartitionId| !self.fences.contains_key(partition) && is_mine_alone(**partition);
        let free: Vec<_> = self.unsettled.iter().filter(is_free).copied().collect();
        for partition in free {
            if self.flushed.remove(&partition) {
                self.flush(store, partition, Portion::ALL);
                self.fill_learners_anew(partition);
            }
            if self.settle(now, store, partition) {
                self.unsettled.remove(&partition);
            }
        }
    }

    /// Whoever was heir of a partition before, by rings that this node may not have seen, needs nobody's lease and serves until it follows
    /// this ring or a later one: all members must have said that they do.
    pub(super) fn waits_for_words(&self, tenure: &Tenure) -> bool {
        tenure.is_gutter && self.mode() == Mode::Sync && holds(Safeguard::HeirsWaitForAll)
    }

    /// The latest ring that all other members follow, or one after it. A member that is down is not waited for when it was for so long that
    /// it cannot serve; one that returned has said that it knew of that.
    fn all_follow(&self, now: Micros) -> Epoch {
        let (Some(ring), Some(me)) = (&self.ring, self.me) else { return Epoch::NONE };
        let may_serve_yet = self.down_since.iter().filter(|(_, (_, at))| now.since(*at) < ISOLATED_OVER);
        let down = may_serve_yet.flat_map(|(&slot, _)| self.peers_of(ring, slot));
        let waited_for = self.serving_peers(ring, me).into_iter().chain(down);
        let word = |peer| self.words.get(&peer).copied().unwrap_or(Epoch::NONE);
        waited_for.map(word).min().unwrap_or(ring.epoch())
    }

    /// Says again what an earlier primary may have said to this node only: whoever reads it here must find it elsewhere
    /// afterwards. False: there is more, and no room now.
    fn settle(&mut self, now: Micros, store: &mut impl Store, partition: PartitionId) -> bool {
        let is_its = |hash: &&u64| partition_of(**hash) == partition;
        let its: Vec<_> = self.doubts.keys().filter(is_its).copied().collect();
        for hash in its {
            self.forget_until(self.writes_max / 2);
            if self.open.len() >= self.writes_max / 2 {
                return false;
            }
            let Doubt { key, .. } = self.doubts.remove(&hash).expect("seen just now");
            if !holds(Safeguard::DoubtsAreSettled) {
                continue;
            }
            let Some(version) = self.clock.next_version() else { return false };
            let content = store.read(now, hash, &key).and_then(|record| record.content);
            let record = Record { key, hash, version, content };
            store.apply(now, &record);
            let (token, deadline) = (None, Micros::NEVER);
            let (missing, is_pending, settles) = (0, false, true);
            let (delta, whole_bytes) = (None, 0);
            let open = Open { token, record, delta, whole_bytes, deadline, missing, is_pending, settles };
            self.say(now, open, store);
        }
        true
    }
}
