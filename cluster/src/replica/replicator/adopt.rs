//! What another ring changes: partitions that this node becomes or ceases to be primary of, and streams.

use super::*;
use crate::replica::stream::LEASE_OVER;
use crate::ring::Assignment;

impl<T: Copy> Replicator<T> {
    /// Follows a newer ring. `me` is this node's slot, if the ring means it in its present life.
    ///
    /// A look at every partition, and a step for each whose parts have changed: a millisecond or two.
    pub fn adopt(&mut self, now: Micros, store: &mut impl Store, ring: &Arc<Ring>, me: Option<SlotId>) {
        assert!(self.ring.as_ref().is_none_or(|old| old.epoch() < ring.epoch()), "rings only go forward");
        let old = self.ring.replace(Arc::clone(ring));
        let was = std::mem::replace(&mut self.me, me);
        self.primaries = None;
        self.clock.enter(ring.term());
        self.note_members(now, ring, old.as_deref());
        if was != me {
            self.begin_as_member(now, store);
        }
        let mut freed = self.drop_streams_of_others(ring, old.as_deref());
        let keeps_parts = old.as_deref().filter(|_| was == me).map(|old| ring.keeps_parts(old));
        let is_kept = |partition: &PartitionId| keeps_parts.as_ref().is_some_and(|keeps| keeps(*partition));
        for partition in self.scope.clone().map(PartitionId::new).filter(|partition| !is_kept(partition)) {
            let before = old.as_deref().filter(|_| was == me);
            let before = before.map(|old| (old.primary(partition), old.epoch()));
            freed.append(&mut self.follow(now, store, ring, partition, before));
        }
        let began = |partition: PartitionId| {
            self.tenures.get(partition).is_some_and(|tenure| tenure.since == ring.epoch())
        };
        // What this node said when it was primary of these before has been overtaken.
        self.streams.values_mut().for_each(|stream| stream.retract(began));
        // Only now: what was stepped down from is closed already, and stays unknown.
        self.arrived(now, store, &freed);
        self.ask_again(now);
        self.ask_for_words(ring);
        self.streams.retain(|_, stream| !stream.is_idle());
        self.streams.values_mut().for_each(Stream::hurry);
    }

    /// Who becomes a member, or one in another life, has a while to be heard of.
    fn note_members(&mut self, now: Micros, ring: &Ring, old: Option<&Ring>) {
        let is_member = |slot: &SlotEntry| slot.state.serves() || slot.state == NodeState::Syncing;
        let old_slots = old.map_or(&[][..], |old| &old.document().slots);
        for (index, slot) in (0..).zip(&ring.document().slots) {
            let was = old_slots.get(usize::from(index)).filter(|was| is_member(was));
            if !is_member(slot) {
                self.member_since.remove(&SlotId(index));
            } else if was.is_none_or(|was| was.incarnation != slot.incarnation) {
                self.member_since.insert(SlotId(index), now);
            }
        }
        let known = std::mem::take(&mut self.down_since);
        let since = ring.document().replication.iter().flat_map(|known| &known.since);
        let slots = (0..).map(SlotId).zip(&ring.document().slots).zip(since);
        for ((slot, _), &since) in slots.filter(|((_, entry), _)| entry.state == NodeState::Down) {
            let is_same = known.get(&slot).filter(|(epoch, _)| *epoch == since).copied();
            self.down_since.insert(slot, is_same.unwrap_or((since, now)));
        }
    }

    /// Another place in the ring: nothing that was held counts.
    fn begin_as_member(&mut self, now: Micros, store: &mut impl Store) {
        let lost: Vec<_> = self.tenures.iter().map(|(partition, _)| partition).collect();
        lost.into_iter().for_each(|partition| self.step_down(now, store, partition));
        self.fences.clear();
        self.rivals.clear();
        self.filling.clear();
        self.streams.clear();
    }

    /// Whoever is not a member in the life that the stream was made for gets another stream.
    fn drop_streams_of_others(&mut self, ring: &Ring, old: Option<&Ring>) -> Vec<WriteId> {
        let life = |ring: &Ring, slot| ring.find_slot(slot).map(|slot| (slot.incarnation, slot.shards));
        let is_same = |slot| old.is_some_and(|old| life(old, slot) == life(ring, slot));
        let is_member =
            |slot| ring.find_slot(slot).is_some_and(|slot| slot.state.serves() || slot.state.is_away());
        let gone = |peer: &PeerShard| !is_same(peer.slot) || !is_member(peer.slot);
        let peers: Vec<_> = self.streams.keys().copied().filter(gone).collect();
        let mut freed = Vec::new();
        for peer in peers {
            let stream = self.streams.remove(&peer).expect("it was just seen");
            freed.extend(stream.into_writes());
        }
        freed
    }

    fn follow(
        &mut self,
        now: Micros,
        store: &mut impl Store,
        ring: &Ring,
        partition: PartitionId,
        before: Option<(SlotId, Epoch)>,
    ) -> Vec<WriteId> {
        let assignment = ring.assignment(partition);
        let is_mine = Some(assignment.primary) == self.me;
        if let Some((before, epoch)) = before.filter(|&(before, _)| before != assignment.primary) {
            self.rivals.insert(partition, epoch);
            if Some(before) != self.me {
                self.fence(now, ring, partition, before);
            }
        }
        if !is_mine && self.tenures.contains(partition) {
            self.step_down(now, store, partition);
            self.hand_off(ring, partition, assignment.primary);
        }
        if let Some((_, epoch)) = before
            && assignment.is_gutter
            && self.may_have_missed_owners(ring, partition, epoch)
        {
            self.step_down(now, store, partition);
        }
        let Some(me) = self.me else { return Vec::new() };
        self.keep_or_empty(store, partition, me, &assignment);
        let former = before.map(|(before, _)| before).filter(|&before| before != assignment.primary);
        if !is_mine {
            former.into_iter().for_each(|former| self.doubt_flushed(now, store, partition, former));
            return Vec::new();
        }
        let (receivers, is_gutter) = (assignment.receivers().collect(), assignment.is_gutter);
        let known = self.tenures.get(partition).map(|tenure| (tenure.since, tenure.is_heir));
        if known.is_none() {
            self.unsettled.insert(partition);
            if before.is_none() || is_gutter {
                self.fence_past(now, ring, partition, me);
            }
        }
        let (since, is_heir) = known.unwrap_or((ring.epoch(), is_gutter || before.is_none()));
        let learners = assignment.learners.iter().map(|learner| learner.slot).collect();
        self.tenures.insert(partition, Tenure { since, receivers, learners, is_gutter, is_heir });
        let freed = self.connect_receivers(ring, partition, &assignment);
        former.into_iter().for_each(|former| self.fill_who_was_behind(partition, former));
        freed
    }

    /// The primary before would not have said again one by one what some copies lack.
    fn fill_who_was_behind(&mut self, partition: PartitionId, former: SlotId) {
        let ends = PeerShard { slot: former, shard: 0 }..=PeerShard { slot: former, shard: u16::MAX };
        let behind = self.sources.range(ends).flat_map(|(_, source)| &source.behind);
        for other in behind {
            if let Some(stream) = self.streams.get_mut(other) {
                stream.fill_anew(partition);
            }
        }
    }

    /// Whether others may have held a partition that this node is heir of, by a ring between the last one and this that it did not
    /// see: what it has is of before.
    fn may_have_missed_owners(&self, ring: &Ring, partition: PartitionId, epoch: Epoch) -> bool {
        let was_heir = self.tenures.get(partition).is_some_and(|tenure| tenure.is_gutter);
        let since = ring.document().replication.as_ref().map(|known| &known.since);
        let has_changed = |slot: &SlotId| since.is_some_and(|since| since[usize::from(slot.0)] > epoch);
        let has_skipped = epoch.next() != Some(ring.epoch());
        !was_heir || (has_skipped && ring.owners(partition).iter().any(has_changed))
    }

    /// Items that nobody will keep up to date go, and those of a partition that is to be filled, once.
    fn keep_or_empty(
        &mut self,
        store: &mut impl Store,
        partition: PartitionId,
        me: SlotId,
        assignment: &Assignment,
    ) {
        let filled_since = assignment.learner_since(me);
        let holds_it = assignment.in_sync.contains(&me)
            || (assignment.primary == me && self.tenures.contains(partition));
        let is_filling = filled_since.is_some() && self.filling.get(&partition).copied() == filled_since;
        if !holds_it && !is_filling && holds(Safeguard::FillingEmptiesFirst) {
            self.flush(store, partition, Portion::ALL);
        }
        match filled_since {
            Some(since) => self.filling.insert(partition, since),
            None => self.filling.remove(&partition),
        };
    }

    pub(super) fn flush(&mut self, store: &mut impl Store, partition: PartitionId, portion: Portion) {
        store.flush(partition, portion);
        self.doubts.retain(|&hash, _| partition_of(hash) != partition || !portion.contains(hash));
    }

    /// The node that was primary may believe so for a while.
    fn fence(&mut self, now: Micros, ring: &Ring, partition: PartitionId, before: SlotId) {
        let Some(slot) = ring.find_slot(before).filter(|_| holds(Safeguard::PromotionWaits)) else { return };
        let mine = if self.me.is_some() { self.portion(ring) } else { return };
        for shard in 0..slot.shards {
            let of = PeerShard { slot: before, shard };
            if !Portion::of_shard(shard, slot.shards).meets(mine) {
                continue;
            }
            let granted_at = self.sources.get(&of).and_then(|source| source.granted_at);
            let lease_over = granted_at.map_or(now, |at| at + LEASE_OVER);
            // Without leases only its word counts, and nobody waits for ever.
            let waits_for_word = self.mode() != Mode::Sync && slot.state.serves();
            let until = if waits_for_word { now + ISOLATED_AFTER } else { lease_over };
            let fences = self.fences.entry(partition).or_default();
            fences.retain(|fence| fence.of != of || fence.until > until);
            fences.push(Fence { of, epoch: ring.epoch(), until });
        }
    }

    /// Somebody may have a lease that this node does not know of: granted by an earlier life of it, or by those who held the
    /// partition and are gone.
    fn fence_past(&mut self, now: Micros, ring: &Ring, partition: PartitionId, me: SlotId) {
        if self.mode() == Mode::Sync && holds(Safeguard::PromotionWaits) {
            let of = PeerShard { slot: me, shard: self.shard };
            let fence = Fence { of, epoch: ring.epoch(), until: now + LEASE_OVER };
            self.fences.entry(partition).or_default().push(fence);
        }
    }

    /// An heir waits to hear that the others follow its ring. Whoever has nothing to say to them asks: it is acknowledged under the ring
    /// that the other one follows.
    fn ask_for_words(&mut self, ring: &Ring) {
        let waits = |partition: &PartitionId| self.waits_for_words(&self.tenures[*partition]);
        let Some(me) = self.me.filter(|_| self.unsettled.iter().any(waits)) else { return };
        for peer in self.serving_peers(ring, me) {
            let stream = self.stream(ring, peer);
            if stream.is_idle() {
                stream.push(ring.epoch(), Entry::Void);
            }
        }
    }

    /// Ends being primary of a partition. What is open stays unknown to its clients.
    fn step_down(&mut self, now: Micros, store: &mut impl Store, partition: PartitionId) {
        self.tenures.remove(partition);
        self.unsettled.remove(&partition);
        self.flushed.remove(&partition);
        let epoch = self.epoch();
        let mut has_lost = false;
        for stream in self.streams.values_mut() {
            has_lost |= stream.resign(epoch, partition);
        }
        let is_its = |open: &&WriteId| self.open[*open].record.partition() == partition;
        let lost: Vec<_> = self.open.keys().filter(is_its).copied().collect();
        for write in lost {
            has_lost = true;
            let Record { ref key, hash, .. } = self.open[&write].record;
            let key = Bytes::clone(key);
            self.close(write, Outcome::Unknown);
            if let Some(slot) = self.me {
                let of = PeerShard { slot, shard: self.shard };
                self.doubt(now, store, hash, Doubt { of, stream: 0, sequence: 0, key });
            }
        }
        if has_lost {
            self.streams.values_mut().for_each(Stream::disown);
        }
    }

    /// Tells the next primary that this node has said everything.
    fn hand_off(&mut self, ring: &Ring, partition: PartitionId, to: SlotId) {
        if self.me.is_none() {
            return;
        }
        for peer in self.peers_of(ring, to) {
            let epoch = ring.epoch();
            self.stream(ring, peer).push(epoch, Entry::Handoff(partition));
        }
    }

    fn connect_receivers(
        &mut self,
        ring: &Ring,
        partition: PartitionId,
        assignment: &Assignment,
    ) -> Vec<WriteId> {
        let receivers: Vec<_> = assignment.receivers().collect();
        let peers: Vec<_> = receivers.iter().flat_map(|&slot| self.peers_of(ring, slot)).collect();
        for peer in peers {
            let since = assignment.learner_since(peer.slot);
            let epoch = ring.epoch();
            let stream = self.stream(ring, peer);
            match since {
                Some(since) => stream.fill(partition, since),
                None => stream.count_in(partition, epoch),
            }
        }
        let gone = self.streams.iter_mut().filter(|(peer, _)| !receivers.contains(&peer.slot));
        gone.flat_map(|(_, stream)| stream.leave(partition)).collect()
    }

    /// The shards of a node that can have keys of this shard.
    pub(super) fn peers_of(&self, ring: &Ring, slot: SlotId) -> Vec<PeerShard> {
        let (mine, shards) = (self.portion(ring), ring.slot(slot).shards);
        let meets = |&shard: &u16| Portion::of_shard(shard, shards).meets(mine);
        (0..shards).filter(meets).map(|shard| PeerShard { slot, shard }).collect()
    }

    /// The shards of other members that can have keys of this shard.
    pub(super) fn serving_peers(&self, ring: &Ring, me: SlotId) -> Vec<PeerShard> {
        let all = (0..).map(SlotId).zip(&ring.document().slots);
        let others = all.filter(|(slot, entry)| *slot != me && entry.state.serves());
        others.flat_map(|(slot, _)| self.peers_of(ring, slot)).collect()
    }

    fn stream(&mut self, ring: &Ring, peer: PeerShard) -> &mut Stream {
        if !self.streams.contains_key(&peer) {
            let theirs = Portion::of_shard(peer.shard, ring.slot(peer.slot).shards);
            let mine = self.portion(ring);
            let common = Portion { first: mine.first.max(theirs.first), last: mine.last.min(theirs.last) };
            let mut stream = Stream::new(self.next_stream(), common);
            self.connected.get(&peer).into_iter().for_each(|&takes_deltas| stream.connect(takes_deltas));
            self.streams.insert(peer, stream);
        }
        self.streams.get_mut(&peer).expect("it was just made")
    }
}
