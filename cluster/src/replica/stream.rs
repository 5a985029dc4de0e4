//! The sending end of one stream: from one shard of a primary to one shard of another node. What was sent is kept until it
//! is acknowledged, so that a connection may end and another go on. Never reads a message.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::PeerShard;
use super::message::{Ack, Entry, FENCES_MAX, Feed, Fences, Numbered, Sender, encode_feed_of};
use super::standings::{Standing, Standings};
use super::store::{Cursor, Delta, Portion, Record, Store};
use crate::names::Incarnation;
use crate::placement::{PartitionId, partition_of};
use crate::ring::Epoch;
use crate::ring::partitions::PartitionSet;
use crate::time::Micros;

/// Entries that were sent and are not acknowledged.
pub(super) const WINDOW_ENTRIES: u64 = 4_096;
/// Bytes of them. One entry may have more when it is the only one.
pub const WINDOW_BYTES: usize = 4 << 20;
/// Bytes of all that is kept, at most; a shard with little memory or many streams keeps less. More of it breaks the stream: the
/// backup gets everything anew.
pub(super) const QUEUE_BYTES_MAX: usize = 16 << 20;
/// However little memory there is, a stream may keep so much.
pub(super) const QUEUE_BYTES_MIN: usize = 1 << 20;
/// Entries of all that is kept.
pub(super) const QUEUE_ENTRIES_MAX: usize = 4 * 4_096;
/// Bulk goes on while less than this waits before it.
const BULK_BYTES_BEFORE: usize = 64 << 10;
/// Entries of one message.
pub(super) const FEED_ENTRIES_MAX: usize = 256;
/// Bytes of a message but for its entries, about.
const HEAD_BYTES: usize = 64;
/// Bytes of an entry but for its key and value.
const ENTRY_BYTES: usize = 48;
/// A source with nothing to say says that this often.
const BEAT_EVERY: Micros = Micros::from_millis(200);
/// A grant is good for so long from when the message was sent that it answers.
pub(super) const LEASE: Micros = Micros::from_millis(1_000);
/// A backup waits for so long after its last grant before it takes over: clocks may differ in speed by a fifth.
pub(super) const LEASE_OVER: Micros = Micros::from_millis(1_500);

const _: () = assert!(BULK_BYTES_BEFORE * 2 <= QUEUE_BYTES_MIN && QUEUE_BYTES_MIN <= QUEUE_BYTES_MAX);
const _: () = assert!(LEASE.0 * 12 / 10 < LEASE_OVER.0 && BEAT_EVERY.0 * 4 < LEASE.0);

/// Flushes that are said once more when a stream breaks.
const FLUSHES_AGAIN_MAX: usize = 64;

/// The number of a write of one shard.
pub(super) type WriteId = u64;

#[derive(Debug)]
struct Queued {
    numbered: Numbered,
    bytes: usize,
    /// Told when this entry is acknowledged.
    write: Option<WriteId>,
    /// The same, after the stream was broken.
    more_writes: Vec<WriteId>,
}

impl Queued {
    fn is_of(&self, partition: PartitionId) -> bool {
        self.numbered.entry.partition() == Some(partition)
    }

    /// Those who are told, and not again.
    fn take_writes(&mut self) -> impl Iterator<Item = WriteId> + use<> {
        self.write.take().into_iter().chain(std::mem::take(&mut self.more_writes))
    }
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    epoch: Epoch,
    until: Micros,
}

/// What is stable is so without copies that are behind: who takes over has to know of them before that.
#[derive(Clone, Copy, Debug)]
struct Held {
    stable: u64,
    /// The entry that tells.
    until: u64,
}

#[derive(Debug)]
struct Bulk {
    cursor: Cursor,
    partitions: PartitionSet,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u64,
    /// The keys that both ends have.
    pub(super) portion: Portion,
    pub(super) is_connected: bool,
    /// Whether the other end knows deltas, as it said when it was connected last.
    takes_deltas: bool,
    /// It was told some, in this stream, or who is behind.
    was_told_deltas: bool,
    /// The other end lacks what is not said again one by one, until it acknowledges this entry: the last of all while that has still
    /// to be made.
    behind: Option<u64>,
    /// Which other copies it was told to be behind, and what may be called stable until it has heard of it.
    told_behind: BTreeSet<PeerShard>,
    held: Option<Held>,
    /// The life of the other end that was heard of last.
    life: Option<Incarnation>,
    standings: Standings,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Bytes of what was sent of it.
    sent_bytes: usize,
    /// Numbers of the last entries made, sent and acknowledged.
    made: u64,
    sent: u64,
    acked: u64,
    /// Writes whose outcome is open, by their entries.
    open: VecDeque<(u64, WriteId)>,
    unknown: u64,
    /// As it was said last.
    stable: u64,
    grant: Option<Grant>,
    bulk: Option<Bulk>,
    /// Some partition may wait to be filled: without it nobody need look at all of them.
    may_begin: bool,
    beat_at: Micros,
}

/// What one stream has still to bring.
pub(super) struct Backlog {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    /// The other end does not hold all of what it is to hold.
    pub(super) is_out_of_sync: bool,
}

impl Stream {
    pub(super) fn backlog(&self) -> Backlog {
        let holds_all = |(_, standing)| matches!(standing, Standing::Joined(_) | Standing::InSync);
        let is_out_of_sync = !self.standings.iter().all(holds_all);
        Backlog { entries: self.queue.len(), bytes: self.queue_bytes, is_out_of_sync }
    }

    /// Bytes of what is kept.
    pub(super) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    pub(super) fn new(id: u64, portion: Portion) -> Self {
        Self {
            id,
            portion,
            is_connected: false,
            takes_deltas: false,
            was_told_deltas: false,
            behind: None,
            told_behind: BTreeSet::new(),
            held: None,
            life: None,
            standings: Standings::default(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            sent_bytes: 0,
            made: 0,
            sent: 0,
            acked: 0,
            open: VecDeque::new(),
            unknown: 0,
            stable: 0,
            grant: None,
            bulk: None,
            may_begin: false,
            beat_at: Micros::default(),
        }
    }

    /// Whether what is written in a partition goes into this stream.
    pub(super) fn gets(&self, partition: PartitionId) -> bool {
        self.standings.gets(partition)
    }

    /// Whether writes and reads of a partition wait for the other end.
    pub(super) fn counts(&self, partition: PartitionId) -> bool {
        self.standings.counts(partition)
    }

    /// Whether the other end is told what was put to a value, rather than what became of it: it has all values then, but those that it
    /// evicted. Who is being filled may not have been told of a value that the walk left out.
    pub(super) fn takes_deltas_of(&self, partition: PartitionId) -> bool {
        let standing = self.standings.get(partition).map(|(standing, _)| standing);
        self.takes_deltas && matches!(standing, Some(Standing::Joined(_) | Standing::InSync))
    }

    /// Whether something may wait that the other end does not know, which was another build until it was connected last.
    pub(super) fn is_beyond_the_other(&self) -> bool {
        self.was_told_deltas && !self.takes_deltas
    }

    /// Whether the other end has everything of a partition.
    pub(super) fn is_ready(&self, partition: PartitionId) -> bool {
        match self.standings.get(partition) {
            Some((Standing::Joined(end), _)) => end <= self.acked,
            Some((Standing::InSync, _)) => true,
            _ => false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.standings.is_empty() && self.queue.is_empty()
    }

    /// The other end is in sync by the ring.
    pub(super) fn count_in(&mut self, partition: PartitionId, since: Epoch) {
        let is_mended = |standing| matches!(standing, Standing::Lacks | Standing::Refills);
        if self.standings.get(partition).is_none_or(|(standing, _)| !is_mended(standing)) {
            self.standings.set(partition, Standing::InSync, since);
        }
    }

    /// The other end is to be filled anew: it may lack what this node cannot tell, or have what it must not.
    pub(super) fn fill_anew(&mut self, partition: PartitionId) {
        let Some((standing, since)) = self.standings.get(partition) else { return };
        let anew = match standing {
            Standing::Waits | Standing::Fills => Standing::Waits,
            _ => Standing::Lacks,
        };
        self.standings.set(partition, anew, since);
        self.may_begin = true;
        if anew == Standing::Lacks {
            self.behind = Some(u64::MAX);
        }
    }

    /// A write is not kept any more for who lacks it.
    pub(super) fn forget(&mut self, write: WriteId) {
        let first = self.queue.iter().find_map(|queued| queued.write.or(queued.more_writes.first().copied()));
        if first.is_some_and(|first| first <= write) {
            self.behind = self.behind.max(Some(self.made));
        }
    }

    /// Whether the other end lacks what is not said again one by one.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Tells the other end which other copies are behind, if it knows such words, before anything is called stable that they lack.
    pub(super) fn tell_behind(&mut self, epoch: Epoch, behind: BTreeSet<PeerShard>) {
        let is_known = self.told_behind == behind || !self.takes_deltas || self.standings.is_empty();
        if is_known || self.queue.len() >= QUEUE_ENTRIES_MAX {
            return;
        }
        let (told, stable) = (std::mem::take(&mut self.told_behind), self.stable);
        for &peer in behind.symmetric_difference(&told) {
            let is_behind = behind.contains(&peer);
            self.push(epoch, Entry::Behind { peer, is_behind });
            if is_behind {
                self.held = Some(Held { stable, until: self.made });
            }
        }
        self.told_behind = behind;
    }

    /// The other end is to be filled, unless it was since the same epoch.
    pub(super) fn fill(&mut self, partition: PartitionId, since: Epoch) {
        let known = self.standings.get(partition);
        if known.is_none_or(|(standing, at)| at != since || standing == Standing::InSync) {
            self.standings.set(partition, Standing::Waits, since);
            self.may_begin = true;
        }
    }

    /// The other end is no member any more. Gives all writes that wait for it here: after the stream was broken they wait for entries that
    /// are of no partition.
    pub(super) fn into_writes(mut self) -> Vec<WriteId> {
        self.queue.iter_mut().flat_map(Queued::take_writes).collect()
    }

    /// The partition is not the other end's business any more: what waits to be said of it is not said. Gives the writes that
    /// wait for it here.
    pub(super) fn leave(&mut self, partition: PartitionId) -> Vec<WriteId> {
        if !self.standings.remove(partition) {
            return Vec::new();
        }
        // What waits for the other end to be emptied is of no one partition.
        let is_last = self.standings.is_empty();
        let mut freed = Vec::new();
        for queued in &mut self.queue {
            if queued.is_of(partition) {
                queued.numbered.entry = Entry::Void;
            } else if !is_last {
                continue;
            }
            freed.extend(queued.take_writes());
        }
        freed
    }

    /// This node is not primary of the partition any more: what it did say before is said to the end, and waited for by nobody.
    /// True: something was waited for.
    pub(super) fn resign(&mut self, epoch: Epoch, partition: PartitionId) -> bool {
        if self.standings.get(partition).is_some_and(|(standing, _)| standing == Standing::Lacks) {
            // It must not go on with what it has.
            let mut partitions = PartitionSet::default();
            partitions.insert(partition);
            self.push(epoch, Entry::Begin(partitions));
        }
        self.standings.remove(partition);
        let its = self.queue.iter_mut().filter(|queued| queued.is_of(partition));
        let mut was_waited_for = false;
        for queued in its {
            was_waited_for |= queued.take_writes().count() > 0;
        }
        was_waited_for
    }

    /// What was said of such partitions and has not arrived is not said any more. Nobody may wait for it.
    pub(super) fn retract(&mut self, is_such: impl Fn(PartitionId) -> bool) {
        for queued in
            self.queue.iter_mut().filter(|queued| queued.numbered.entry.partition().is_some_and(&is_such))
        {
            assert!(queued.take_writes().next().is_none(), "who resigned waits for nothing");
            queued.numbered.entry = Entry::Void;
        }
    }

    /// What was said so far and is still open will stay unknown: somebody else decides it.
    pub(super) fn disown(&mut self) {
        self.unknown = self.made;
        self.open.clear();
    }

    /// Whether an entry of so many bytes can be kept where all may have `bytes_max`. A large one counts as half of that, so that it comes
    /// to its turn among small ones: what is kept is more than the bound by one entry at most.
    pub(super) fn has_room(&self, bytes: usize, bytes_max: usize) -> bool {
        let fits =
            self.queue_bytes + bytes.min(bytes_max / 2) <= bytes_max && self.queue.len() < QUEUE_ENTRIES_MAX;
        fits || self.queue.is_empty()
    }

    /// The other end is to forget what it was told so far, but for writes that are not done yet: they are said again behind that. False:
    /// there is no room, and nothing was said.
    pub(super) fn flush<'a>(
        &mut self,
        epoch: Epoch,
        bytes_max: usize,
        pending: impl IntoIterator<Item = (WriteId, &'a Record)>,
        mut waits: impl FnMut(WriteId),
    ) -> bool {
        let its = |(_, record): &(WriteId, &Record)| {
            self.gets(record.partition()) && self.portion.contains(record.hash)
        };
        let again: Vec<_> = pending.into_iter().filter(its).collect();
        let bytes: usize = again.iter().map(|(_, record)| ENTRY_BYTES + record_bytes(record)).sum();
        if self.queue.len() + again.len() >= QUEUE_ENTRIES_MAX || self.queue_bytes + bytes > bytes_max {
            return false;
        }
        self.push(epoch, Entry::Flush);
        for (write, record) in again {
            let counts = self.counts(record.partition());
            self.push_write(epoch, Entry::Live(record.clone()), write, counts);
            if counts {
                waits(write);
            }
        }
        true
    }

    /// What a write says, which is in doubt until it is closed. It waits for this entry if the other end counts.
    pub(super) fn push_write(&mut self, epoch: Epoch, entry: Entry, write: WriteId, counts: bool) {
        self.push(epoch, entry);
        self.open.push_back((self.made, write));
        if counts && let Some(queued) = self.queue.back_mut() {
            queued.write = Some(write);
        }
    }

    pub(super) fn push(&mut self, epoch: Epoch, entry: Entry) {
        self.made += 1;
        self.was_told_deltas |= matches!(entry, Entry::Delta(_) | Entry::Behind { .. });
        let bytes = entry_bytes(&entry);
        self.queue_bytes += bytes;
        let numbered = Numbered { sequence: self.made, epoch, entry };
        self.queue.push_back(Queued { numbered, bytes, write: None, more_writes: Vec::new() });
    }

    /// What is known of fences, in as many entries as that takes: before all that is said from now on.
    pub(super) fn push_fences(&mut self, epoch: Epoch, fences: &Fences) {
        let Fences { floor, known } = fences;
        if *floor > 0 && known.is_empty() {
            self.push(epoch, Entry::Fences(Fences { floor: *floor, known: Vec::new() }));
        }
        for known in known.chunks(FENCES_MAX) {
            self.push(epoch, Entry::Fences(Fences { floor: *floor, known: known.to_vec() }));
        }
    }

    /// The other end speaks. True: in another life than before, which has nothing of what was said.
    pub(super) fn is_heard_anew(&mut self, life: Incarnation) -> bool {
        self.life.replace(life).is_some_and(|known| known != life)
    }

    /// Gives up what is kept and begins anew: the other end forgets its partitions and is filled. Writes that wait for it
    /// wait for the beginning, or for what they say once more: `pending`, which the store does not have.
    pub(super) fn break_off(
        &mut self,
        id: u64,
        epoch: Epoch,
        write: Option<WriteId>,
        is_open: impl Fn(&WriteId) -> bool,
        pending: impl IntoIterator<Item = (WriteId, Record)>,
    ) {
        let is_flush = |queued: &&Queued| queued.numbered.entry == Entry::Flush;
        let flushes = self.queue.iter().filter(is_flush).count().min(FLUSHES_AGAIN_MAX);
        let kept = self.queue.drain(..).flat_map(|mut queued| queued.take_writes()).filter(is_open);
        let mut waiting = BTreeMap::new();
        kept.chain(write).for_each(|write| *waiting.entry(write).or_default() += 1);
        let standings = std::mem::take(&mut self.standings);
        let Self { portion, is_connected, takes_deltas, life, grant, .. } = *self;
        *self = Self { grant, life, is_connected, takes_deltas, may_begin: true, ..Self::new(id, portion) };
        let refill = |standing| match standing {
            Standing::Waits | Standing::Fills => Standing::Waits,
            Standing::Joined(_) | Standing::InSync | Standing::Lacks | Standing::Refills => Standing::Refills,
        };
        self.standings = standings;
        self.standings.change_all(refill);
        let refills = |(_, standing)| matches!(standing, Standing::Refills);
        self.behind = self.standings.iter().any(refills).then_some(u64::MAX);
        self.begin_bulk(epoch);
        // Who has performed them too waits for this node's word of each.
        (0..flushes).for_each(|_| self.push(epoch, Entry::Flush));
        for (write, record) in pending {
            if self.gets(record.partition()) && self.portion.contains(record.hash) {
                self.push_write(epoch, Entry::Live(record), write, false);
                let said = self.queue.back_mut().expect("just pushed");
                said.more_writes = vec![write; waiting.remove(&write).unwrap_or(0)];
            }
        }
        if let Some(begin) = self.queue.front_mut() {
            begin.more_writes = waiting.into_iter().flat_map(|(write, times)| vec![write; times]).collect();
        }
    }

    /// Begins to fill what waits for it. Gives the partitions: writes that are open must be said once more.
    pub(super) fn begin_bulk(&mut self, epoch: Epoch) -> Vec<PartitionId> {
        if self.bulk.is_some() || !std::mem::take(&mut self.may_begin) {
            return Vec::new();
        }
        let begins = |(_, standing): &(_, Standing)| {
            matches!(standing, Standing::Waits | Standing::Lacks | Standing::Refills)
        };
        let begun: Vec<_> = self.standings.iter().filter(begins).map(|(partition, _)| partition).collect();
        self.standings.change_all(|standing| match standing {
            Standing::Waits => Standing::Fills,
            Standing::Lacks => Standing::Refills,
            other => other,
        });
        if begun.is_empty() {
            self.has_all_said();
        } else {
            let mut partitions = PartitionSet::default();
            begun.iter().for_each(|&partition| assert!(partitions.insert(partition)));
            self.push(epoch, Entry::Begin(partitions.clone()));
            self.bulk = Some(Bulk { cursor: Cursor::default(), partitions });
        }
        begun
    }

    /// Goes on to fill, with at most `steps` steps of the store's walk: what it gives is left of them. What is pending is left out: it
    /// was said when it was written.
    pub(super) fn step_bulk(
        &mut self,
        now: Micros,
        epoch: Epoch,
        store: &impl Store,
        steps: usize,
        is_pending: impl Fn(&Record) -> bool,
    ) -> usize {
        let mut left = steps;
        while let Some(mut bulk) = self.bulk.take() {
            let is_full = self.queue_bytes >= BULK_BYTES_BEFORE || self.queue.len() >= QUEUE_ENTRIES_MAX / 2;
            if is_full || left == 0 {
                self.bulk = Some(bulk);
                return left;
            }
            left -= 1;
            let mut shown = Vec::new();
            let wants = |hash| {
                let partition = partition_of(hash);
                bulk.partitions.contains(partition) && self.portion.contains(hash) && self.gets(partition)
            };
            let more = store.scan(now, &mut bulk.cursor, &wants, &mut |record| shown.push(record));
            for record in shown.into_iter().filter(|record| !is_pending(record)) {
                self.push(epoch, Entry::Bulk(record));
            }
            if more {
                self.bulk = Some(bulk);
            } else {
                let its = |hash| bulk.partitions.contains(partition_of(hash)) && self.portion.contains(hash);
                let fences = store.fences(&its);
                self.push_fences(epoch, &fences);
                self.push(epoch, Entry::End(bulk.partitions));
                self.join();
            }
        }
        left
    }

    fn join(&mut self) {
        let made = self.made;
        self.standings.change_all(|standing| match standing {
            Standing::Fills => Standing::Joined(made),
            Standing::Refills => Standing::InSync,
            other => other,
        });
        self.has_all_said();
    }

    /// Nothing is being filled: unless something has yet to begin, who was behind is not when it has all that was said.
    fn has_all_said(&mut self) {
        let lacks = |(_, standing)| matches!(standing, Standing::Lacks);
        if self.behind == Some(u64::MAX) && !self.standings.iter().any(lacks) {
            self.behind = Some(self.made);
        }
    }

    /// Whether the other end grants, under the ring of `since` or a later one, that this node is primary.
    pub(super) fn is_granted(&self, now: Micros, since: Epoch) -> bool {
        self.grant.is_some_and(|grant| grant.epoch >= since && grant.until > now)
    }

    /// Takes what the other end says. Gives the writes that it has now.
    pub(super) fn acked(&mut self, ack: &Ack, epoch: Epoch) -> Vec<WriteId> {
        let mut arrived = Vec::new();
        if ack.stream != self.id || ack.applied > self.made {
            return arrived;
        }
        if let Some(sent_at) = ack.grant {
            let grant = Grant { epoch, until: sent_at + LEASE };
            let is_better = |known: Grant| grant.until >= known.until && grant.epoch >= known.epoch;
            self.grant = self.grant.filter(|known| !is_better(*known)).or(Some(grant));
        }
        while self.queue.front().is_some_and(|queued| queued.numbered.sequence <= ack.applied) {
            let mut queued = self.queue.pop_front().expect("just seen");
            self.queue_bytes -= queued.bytes;
            self.sent_bytes -= if queued.numbered.sequence <= self.sent { queued.bytes } else { 0 };
            arrived.extend(queued.take_writes());
        }
        self.acked = self.acked.max(ack.applied);
        self.behind = self.behind.filter(|&until| until > self.acked);
        self.held = self.held.filter(|held| held.until > self.acked);
        self.sent = self.sent.max(self.acked);
        if ack.wants_again {
            self.send_again();
            self.beat_at = Micros::default();
        }
        arrived
    }

    /// A connection is there, to who knows deltas or not.
    pub(super) fn connect(&mut self, takes_deltas: bool) {
        (self.is_connected, self.takes_deltas) = (true, takes_deltas);
        self.send_again();
        self.beat_at = Micros::default();
    }

    /// It is gone.
    pub(super) fn disconnect(&mut self) {
        self.is_connected = false;
        self.send_again();
        self.beat_at = Micros::default();
    }

    fn send_again(&mut self) {
        (self.sent, self.sent_bytes) = (self.acked, 0);
    }

    /// Something changed that the other end should hear of at once.
    pub(super) fn hurry(&mut self) {
        self.beat_at = Micros::default();
    }

    /// Appends the next message, if there is something to say or the other end has not heard for a while.
    pub(super) fn next_feed(
        &mut self,
        now: Micros,
        sender: &Sender,
        is_open: impl Fn(WriteId) -> bool,
        output: &mut Vec<u8>,
    ) -> bool {
        if !self.is_connected {
            return false;
        }
        let (before, bytes_before) = (self.sent, self.sent_bytes);
        self.send_next();
        if self.sent == before && now < self.beat_at {
            return false;
        }
        self.beat_at = now + BEAT_EVERY;
        while self.open.front().is_some_and(|&(_, write)| !is_open(write)) {
            self.open.pop_front();
        }
        let stable = self.open.front().map_or(self.made, |&(sequence, _)| sequence - 1);
        let Self { id, unknown, sent, .. } = *self;
        let stable = self.held.map_or(stable, |held| stable.min(held.stable)).max(unknown);
        self.stable = stable;
        let feed = Feed { stream: id, sent_at: now, unknown, stable, sent, entries: Vec::new() };
        let entries = self.queue.range(self.place_behind(before)..self.place_behind(sent));
        output.reserve(HEAD_BYTES + self.sent_bytes - bytes_before);
        encode_feed_of(now, sender, &feed, entries.map(|queued| &queued.numbered), output);
        true
    }

    /// Where in the queue what follows an entry lies.
    fn place_behind(&self, sequence: u64) -> usize {
        usize::try_from(sequence - self.acked).expect("what was sent is kept")
    }

    /// Counts as sent what goes with the next message.
    fn send_next(&mut self) {
        let first = self.acked + 1;
        for queued in self.queue.range(self.place_behind(self.sent)..).take(FEED_ENTRIES_MAX) {
            let sequence = queued.numbered.sequence;
            let bytes = self.sent_bytes + queued.bytes;
            let fits = sequence < first + WINDOW_ENTRIES && (bytes <= WINDOW_BYTES || sequence == first);
            if !fits {
                break;
            }
            (self.sent, self.sent_bytes) = (sequence, bytes);
        }
    }

    /// The writes that wait for the other end, each as often as it does.
    pub(super) fn waited_for(&self) -> impl Iterator<Item = WriteId> {
        self.queue.iter().flat_map(|queued| queued.write.iter().chain(&queued.more_writes)).copied()
    }

    pub(super) fn check_invariants(&self) {
        self.standings.check_invariants();
        assert!(self.acked <= self.sent && self.sent <= self.made);
        let bytes: usize = self.queue.iter().map(|queued| queued.bytes).sum();
        assert_eq!(bytes, self.queue_bytes);
        let sent = self.queue.iter().filter(|queued| queued.numbered.sequence <= self.sent);
        assert_eq!(sent.map(|queued| queued.bytes).sum::<usize>(), self.sent_bytes);
        let numbers = self.queue.iter().map(|queued| queued.numbered.sequence);
        assert!(numbers.eq(self.acked + 1..=self.made));
        assert!(
            self.queue.len() <= QUEUE_ENTRIES_MAX + FEED_ENTRIES_MAX,
            "{} entries wait",
            self.queue.len()
        );
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    let record = match entry {
        Entry::Live(record) | Entry::Bulk(record) => record,
        Entry::Delta(delta) => return ENTRY_BYTES + delta_bytes(delta),
        Entry::Begin(_) | Entry::End(_) => return ENTRY_BYTES + (4 << 10),
        Entry::Fences(fences) => return ENTRY_BYTES + fences.known.len() * 16,
        Entry::Handoff(_) | Entry::Flush | Entry::Behind { .. } | Entry::Void => return ENTRY_BYTES,
    };
    ENTRY_BYTES + record_bytes(record)
}

pub(super) fn delta_bytes(delta: &Delta) -> usize {
    delta.key.len() + delta.bytes.len()
}

pub(super) fn record_bytes(record: &Record) -> usize {
    record.key.len() + record.content.as_ref().map_or(0, |content| content.value.len())
}
