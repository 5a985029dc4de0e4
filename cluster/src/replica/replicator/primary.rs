//! The primary's side: who may read and write, what a write waits for, what is sent.

use super::*;
use crate::placement::shard_of;
use crate::replica::message::{Ack, Entry, Fences};
use crate::replica::stream::{QUEUE_BYTES_MAX, QUEUE_BYTES_MIN};
use crate::table::REPLICA_COUNT_MAX;

/// Nodes that get the states of one key: owners of now and to come.
const RECEIVERS_MAX: usize = 2 * REPLICA_COUNT_MAX;

impl<T> Open<T> {
    /// What those are told who have what was there before.
    fn entry(&self) -> Entry {
        self.delta.clone().map_or_else(|| Entry::Live(self.record.clone()), Entry::Delta)
    }

    /// Bytes of that, and of what it keeps.
    pub(super) fn bytes(&self) -> usize {
        self.delta.as_ref().map_or_else(|| record_bytes(&self.record), delta_bytes)
    }

    /// The state that it says. `read` tells what the store holds.
    fn state(&self, read: impl Fn(&Delta) -> Option<Record>) -> Record {
        self.delta.as_ref().map_or_else(|| self.record.clone(), |delta| delta.whole(read(delta)))
    }
}

impl<T: Copy> Replicator<T> {
    /// Whether what was read of a key may be answered: asked after reading, since the lease must hold then.
    ///
    /// # Errors
    /// [`Refused`]: another shard is to be asked, or this one later.
    pub fn may_read(&self, now: Micros, hash: u64) -> Result<(), Refused> {
        self.may_serve(now, hash)?;
        let write = self.pending.get(&hash).map(|write| &self.open[write]);
        if write.is_some_and(|open| open.settles) { Err(Refused::Wait) } else { Ok(()) }
    }

    /// Whether a key may be written: asked before what is there is looked at.
    ///
    /// # Errors
    /// [`Refused`]: another shard is to be asked, or this one later.
    pub fn may_write(&self, now: Micros, hash: u64) -> Result<(), Refused> {
        self.may_serve(now, hash)?;
        if self.pending.contains_key(&hash) { Err(Refused::Wait) } else { Ok(()) }
    }

    /// Whether this node says what a key is, and nobody before it does any more.
    pub(super) fn may_serve_soon(&self, hash: u64) -> Result<&Tenure, Refused> {
        let partition = partition_of(hash);
        let tenure = self.tenures.get(partition).ok_or(Refused::NotPrimary)?;
        if self.fences.contains_key(&partition) || self.unsettled.contains(&partition) {
            return Err(Refused::Wait);
        }
        Ok(tenure)
    }

    fn may_serve(&self, now: Micros, hash: u64) -> Result<(), Refused> {
        let tenure = self.may_serve_soon(hash)?;
        if self.is_alone(now, ISOLATED_AFTER) {
            return Err(Refused::NoLease);
        }
        if self.mode() != Mode::Sync || !holds(Safeguard::LeaseIsChecked) {
            return Ok(());
        }
        let granted = |stream: &Stream| stream.is_granted(now, tenure.since);
        let mut counted = self.counted(hash, tenure);
        if counted.all(|(_, stream)| granted(stream)) { Ok(()) } else { Err(Refused::NoLease) }
    }

    /// The streams whose other ends count for a key.
    fn counted<'a>(&'a self, hash: u64, tenure: &'a Tenure) -> impl Iterator<Item = (PeerShard, &'a Stream)> {
        self.receivers(hash, tenure).filter(move |(_, stream)| stream.counts(partition_of(hash)))
    }

    /// Who gets the states of a key that this shard is primary of, as far as it knows: nobody if it is not.
    pub fn copies_of(&self, hash: u64) -> impl Iterator<Item = PeerShard> {
        let tenure = self.tenures.get(partition_of(hash)).into_iter();
        tenure.flat_map(move |tenure| self.receivers(hash, tenure)).map(|(peer, _)| peer)
    }

    fn receivers<'a>(
        &'a self,
        hash: u64,
        tenure: &'a Tenure,
    ) -> impl Iterator<Item = (PeerShard, &'a Stream)> {
        let ring = self.ring.as_ref().expect("a tenure is by a ring");
        tenure.receivers.iter().filter_map(move |&slot| {
            let peer = PeerShard { slot, shard: shard_of(hash, ring.slot(slot).shards) };
            let stream = self.streams.get(&peer)?;
            stream.gets(partition_of(hash)).then_some((peer, stream))
        })
    }

    /// Whether nobody can have taken over from this node unheard.
    pub fn is_in_touch(&self, now: Micros) -> bool {
        !self.is_alone(now, IN_TOUCH_FOR)
    }

    /// Whether this node hears so little, for so long, that it may have been removed.
    fn is_alone(&self, now: Micros, span: Micros) -> bool {
        let recent = |at: Micros| now.since(at) < span;
        let Some(ring) = &self.ring else { return true };
        if recent(self.confirmed_at) {
            return false;
        }
        let others = (0..).map(SlotId).zip(&ring.document().slots);
        let others = others.filter(|&(id, slot)| Some(id) != self.me && slot.state.serves());
        let is_heard = |id: SlotId| self.heard.get(&id).is_some_and(|&at| recent(at));
        let (heard, silent): (Vec<_>, Vec<_>) = others.partition(|&(id, _)| is_heard(id));
        heard.len() < silent.len()
    }

    /// Gives a key another state. [`Self::may_write`] must have allowed it in this turn. The answer is an [`Effect::Answer`];
    /// the version is the item's CAS token.
    ///
    /// # Errors
    /// [`Refused`]: another shard is to be asked, or this one later. Nothing has changed then.
    pub fn write(
        &mut self,
        now: Micros,
        store: &mut impl Store,
        mut write: Write<T>,
    ) -> Result<Version, Refused> {
        self.may_write(now, write.hash)?;
        self.forget_until(self.writes_max);
        if self.open.len() >= self.writes_max {
            return Err(Refused::Overloaded);
        }
        // What is put to a value dies with it, and what it is put to was written here too.
        if let Change::Becomes(Some(content)) = &mut write.change
            && self.tenures[partition_of(write.hash)].is_gutter
        {
            let latest = now + GUTTER_TTL_MAX;
            content.dies_at = Some(content.dies_at.map_or(latest, |dies_at| dies_at.min(latest)));
        }
        let version = self.peek_version().ok_or(Refused::WornOut)?;
        let value_len = if let Change::Extends { value_len, .. } = write.change { value_len } else { 0 };
        let (record, delta) = self.said_of(now, store, write.key, write.hash, version, write.change);
        let bytes = delta.as_ref().map_or_else(|| record_bytes(&record), delta_bytes);
        let bytes_max = self.queue_bytes_max();
        let is_full = |(_, stream): (_, &Stream)| !stream.has_room(bytes, bytes_max);
        let tenure = &self.tenures[record.partition()];
        if self.mode() == Mode::Sync && self.receivers(record.hash, tenure).any(is_full) {
            return Err(Refused::Overloaded);
        }
        assert_eq!(self.clock.next_version(), Some(version), "nothing else is written meanwhile");
        let waits = match self.mode() {
            Mode::Sync => true,
            Mode::Inval => write.invalidates,
            Mode::Async | Mode::Rf1 => false,
        };
        let is_pending = self.mode() == Mode::Sync && holds(Safeguard::PendingIsNotRead);
        if !is_pending {
            carry_out(now, store, &record, delta.as_ref());
        }
        let waits = waits && holds(Safeguard::WritesWaitForBackups);
        let token = if waits { Some(write.token) } else { None };
        let (deadline, missing, settles) = (write.deadline, 0, false);
        let whole_bytes = if is_pending && delta.is_some() { value_len } else { 0 };
        self.whole_bytes += whole_bytes;
        let open = Open { token, record, delta, whole_bytes, deadline, missing, is_pending, settles };
        self.say(now, open, store);
        if !waits {
            self.effects.push_back(Effect::Answer { token: write.token, outcome: Outcome::Done });
        }
        Ok(version)
    }

    /// What is said of a change: the state that it comes to, or what is put to the one before if all who get it were told that. The store has
    /// that, and is not changed.
    fn said_of(
        &self,
        now: Micros,
        store: &impl Store,
        key: Bytes,
        hash: u64,
        version: Version,
        change: Change,
    ) -> (Record, Option<Delta>) {
        let (base, side, bytes, value_len) = match change {
            Change::Becomes(content) => return (Record { key, hash, version, content }, None),
            Change::Extends { base, side, bytes, value_len } => (base, side, bytes, value_len),
        };
        let delta = Delta { key: Bytes::clone(&key), hash, version, base, side, bytes };
        let partition = partition_of(hash);
        // As if what is pending waited as a whole: should a copy begin anew meanwhile, it is said so.
        let whole_bytes = self.whole_bytes + value_len;
        let has_room = self.whole_bytes == 0 || whole_bytes <= self.queue_bytes_max();
        // A term has one primary: what was said in this one this node said, to all. What an earlier primary said to some, others may not have.
        let is_own = base.term() == version.term();
        let mut receivers = self.receivers(hash, &self.tenures[partition]);
        if has_room && is_own && receivers.all(|(_, stream)| stream.takes_deltas_of(partition)) {
            return (Record { key, hash, version, content: None }, Some(delta));
        }
        let record = delta.whole(store.read(now, hash, &key));
        assert!(record.content.is_some(), "the caller has seen what is there");
        (record, None)
    }

    /// A key was named under a fence: all who get its states hear of it before they hear of the next one. Whoever is to know that
    /// they have waits for that next one.
    pub fn tell_fence(&mut self, now: Micros, store: &impl Store, hash: u64, fence: u64) {
        let (epoch, partition) = (self.epoch(), partition_of(hash));
        let Some(tenure) = self.tenures.get(partition) else { return };
        let peers: Vec<_> = self.receivers(hash, tenure).map(|(peer, _)| peer).collect();
        let bytes_max = self.queue_bytes_max();
        for peer in peers {
            let stream = self.streams.get_mut(&peer).expect("a receiver has a stream");
            let fences = Fences { floor: 0, known: vec![(hash, fence)] };
            if stream.has_room(size_of::<(u64, u64)>(), bytes_max) {
                stream.push_fences(epoch, &fences);
            } else {
                // The bulk will bring it.
                self.break_off(peer, None, reader(now, store));
            }
        }
    }

    /// Makes room among the open writes: those that nobody waits for count as arrived, the first ones first. So a copy that is away
    /// stops nobody but who waits for it. Should another copy become primary before that one has everything, it does not say these again
    /// one by one: it was told who is behind, and fills it anew.
    pub(super) fn forget_until(&mut self, writes_max: usize) {
        let is_sync = self.mode() == Mode::Sync;
        let is_unwaited =
            |open: &Open<T>| open.token.is_none() && !open.is_pending && !(open.settles && is_sync);
        while self.open.len() >= writes_max
            && let Some(write) = self.open.iter().find(|(_, open)| is_unwaited(open)).map(|(&write, _)| write)
        {
            self.streams.values_mut().for_each(|stream| stream.forget(write));
            self.close(write, Outcome::Unknown);
        }
    }

    /// Bytes that each stream may keep: all of them together have a part of the shard's memory.
    pub(super) fn queue_bytes_max(&self) -> usize {
        (self.queue_bytes / self.streams.len().max(1)).clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX)
    }

    /// Sends a state to all who get it; what counts is waited for.
    pub(super) fn say(&mut self, now: Micros, mut open: Open<T>, store: &mut impl Store) {
        self.writes_made += 1;
        let (write, epoch) = (self.writes_made, self.epoch());
        let partition = open.record.partition();
        let tenure = &self.tenures[partition];
        let mut peers = [PeerShard { slot: SlotId(0), shard: 0 }; RECEIVERS_MAX];
        let mut peer_count = 0;
        for (place, (peer, _)) in peers.iter_mut().zip(self.receivers(open.record.hash, tenure)) {
            *place = peer;
            peer_count += 1;
        }
        let bytes_max = self.queue_bytes_max();
        let is_hidden = open.is_pending || (open.settles && self.mode() == Mode::Sync);
        if is_hidden {
            let before = self.pending.insert(open.record.hash, write);
            assert!(before.is_none(), "a key that is pending is not written");
        }
        for &peer in &peers[..peer_count] {
            let stream = self.streams.get_mut(&peer).expect("a receiver has a stream");
            let counts = stream.counts(partition);
            open.missing += u32::from(counts);
            if stream.has_room(open.bytes(), bytes_max) {
                stream.push_write(epoch, open.entry(), write, counts);
                continue;
            }
            self.break_off(peer, Some(write).filter(|_| counts && !is_hidden), reader(now, store));
            // Otherwise the item is in the store: the bulk will bring it.
            if is_hidden {
                let record = open.state(reader(now, store));
                let stream = self.streams.get_mut(&peer).expect("a receiver has a stream");
                stream.push_write(epoch, Entry::Live(record), write, counts);
            }
        }
        let is_done = open.missing == 0;
        if !is_hidden {
            // The store has it.
            (open.record.content, open.delta) = (None, None);
        }
        self.open.insert(write, open);
        if is_done {
            self.complete(now, store, write);
        }
    }

    /// Another node speaks. A life of it that nothing was said to gets everything from the beginning. A ring that names lives begins
    /// other streams by itself; a list admits any.
    pub(super) fn meet(&mut self, now: Micros, store: &impl Store, sender: &Sender) {
        let stream = self.streams.get_mut(&sender.peer);
        if stream.is_some_and(|stream| stream.is_heard_anew(sender.incarnation)) {
            self.break_off(sender.peer, None, reader(now, store));
        }
    }

    /// Another build has taken the place of one that knew deltas: what was to be said in them it would not understand.
    pub(super) fn begin_anew_for_older(&mut self, now: Micros, store: &impl Store) {
        let is_beyond = |(&peer, stream): (&PeerShard, &Stream)| stream.is_beyond_the_other().then_some(peer);
        let peers: Vec<_> = self.streams.iter().filter_map(is_beyond).collect();
        peers.into_iter().for_each(|peer| self.break_off(peer, None, reader(now, store)));
    }

    /// Fills the other end of a stream anew. The write, if any, waits for it to be emptied.
    pub(super) fn break_off(
        &mut self,
        peer: PeerShard,
        write: Option<WriteId>,
        read: impl Fn(&Delta) -> Option<Record>,
    ) {
        let epoch = self.epoch();
        let stream = self.streams.get_mut(&peer).expect("what breaks is there");
        // A write that is being said now is not open yet: who says it says it behind this.
        let known = |write: &WriteId| Some((*write, self.open.get(write)?.state(&read)));
        let pending = self.pending.values().filter_map(known);
        stream.break_off(mix(stream.id), epoch, write, |write| self.open.contains_key(write), pending);
    }

    /// An answer of a backup.
    pub(super) fn acked(&mut self, now: Micros, store: &mut impl Store, sender: &Sender, ack: &Ack) {
        let Some(stream) = self.streams.get_mut(&sender.peer) else { return };
        let arrived = stream.acked(ack, sender.epoch);
        self.arrived(now, store, &arrived);
    }

    /// Somebody has, or need not have, an entry of each of these writes.
    pub(super) fn arrived(&mut self, now: Micros, store: &mut impl Store, writes: &[WriteId]) {
        for &write in writes {
            let Some(open) = self.open.get_mut(&write) else { continue };
            open.missing = open.missing.checked_sub(1).expect("an entry arrives once");
            if open.missing == 0 {
                self.complete(now, store, write);
            }
        }
    }

    fn complete(&mut self, now: Micros, store: &mut impl Store, write: WriteId) {
        let open = self.open.get(&write).expect("what completes is open");
        if open.is_pending {
            carry_out(now, store, &open.record, open.delta.as_ref());
        }
        self.close(write, Outcome::Done);
    }

    /// Ends a write.
    pub(super) fn close(&mut self, write: WriteId, outcome: Outcome) {
        let Some(open) = self.open.remove(&write) else { return };
        self.whole_bytes -= open.whole_bytes;
        if self.pending.get(&open.record.hash) == Some(&write) {
            self.pending.remove(&open.record.hash);
        }
        if let Some(token) = open.token {
            self.effects.push_back(Effect::Answer { token, outcome });
        }
    }

    /// Answers clients that are given up on. What they wrote stays under way.
    pub(super) fn give_up(&mut self, now: Micros, store: &mut impl Store) {
        if now < self.give_up_at {
            return;
        }
        self.give_up_at = now + GIVE_UP_EVERY;
        let is_over = |open: &Open<T>| open.token.is_some() && open.deadline <= now;
        let over = self.open.iter().filter(|(_, open)| is_over(open)).map(|(&write, _)| write);
        for write in over.collect::<Vec<_>>() {
            if !holds(Safeguard::BackupsStayUntilDown) {
                self.complete(now, store, write);
                continue;
            }
            let token = self.open.get_mut(&write).and_then(|open| open.token.take());
            let outcome = Outcome::Unknown;
            self.effects.extend(token.map(|token| Effect::Answer { token, outcome }));
        }
    }

    /// Goes on to fill learners.
    pub(super) fn fill(&mut self, now: Micros, store: &impl Store) {
        let epoch = self.epoch();
        let (pending, open) = (&self.pending, &self.open);
        let mut steps = FILL_STEPS_MAX;
        for stream in self.streams.values_mut() {
            for partition in stream.begin_bulk(epoch) {
                // The store does not have these, or has what nobody may count on yet.
                let its = pending.values().map(|write| (write, &open[write]));
                for (&write, open) in its.filter(|(_, open)| open.record.partition() == partition) {
                    if stream.portion.contains(open.record.hash) {
                        let record = open.state(reader(now, store));
                        stream.push_write(epoch, Entry::Live(record), write, false);
                    }
                }
            }
            steps = stream.step_bulk(now, epoch, store, steps, |record| pending.contains_key(&record.hash));
        }
        self.is_filling_on = steps == 0;
    }

    /// Copies hear which others are behind.
    pub(super) fn tell_behind(&mut self) {
        let epoch = self.epoch();
        let behind = self.streams.iter().filter(|(_, stream)| stream.is_behind()).map(|(&peer, _)| peer);
        let behind: BTreeSet<_> = behind.filter(|_| holds(Safeguard::WhoIsBehindIsTold)).collect();
        for (peer, stream) in &mut self.streams {
            let others = behind.iter().filter(|other| other.slot != peer.slot).copied().collect();
            stream.tell_behind(epoch, others);
        }
    }

    /// Says what there is to say to whom it is due.
    pub(super) fn send_feeds(&mut self, now: Micros) {
        let Some(sender) = self.sender() else { return };
        for (&to, stream) in &mut self.streams {
            let mut bytes = Vec::new();
            while stream.next_feed(now, &sender, |write| self.open.contains_key(&write), &mut bytes) {
                self.effects.push_back(Effect::Send { to, bytes: std::mem::take(&mut bytes) });
            }
        }
    }
}

/// Gives the store what a write says. What it puts to a value it does not if that has been evicted meanwhile.
fn carry_out(now: Micros, store: &mut impl Store, record: &Record, delta: Option<&Delta>) {
    match delta {
        Some(delta) => {
            let _is_there = store.extend(now, delta);
        }
        None => store.apply(now, record),
    }
}

/// Reads the items that deltas are about.
fn reader(now: Micros, store: &impl Store) -> impl Fn(&Delta) -> Option<Record> {
    move |delta| store.read(now, delta.hash, &delta.key)
}
