//! One shard's copies: commands whose effect other nodes must have too, as primary, and what other primaries send, as backup.
//! The state machine is `slabring-cluster`'s; this is what it means for items, commands and replies. No I/O.
//!
//! ```text
//! command -> evaluate.rs: on a bench beside the shard -> Replicator::write -> items.rs: the shard
//!                                                          |-> other nodes
//!            waiting.rs: the reply waits for the answer <--'
//! ```

mod evaluate;
mod items;
mod waiting;

use std::sync::Arc;

use slabring_cluster::placement::hash_key;
use slabring_cluster::replica::message::Garbled;
use slabring_cluster::replica::{
    Bytes, Change, Content, Effect, Outcome, PeerShard, Refused, Replicator, Version, VersionClock, Write,
};
use slabring_cluster::report::ShardReport;
use slabring_cluster::ring::{Epoch, Mode, Ring};
use slabring_cluster::table::SlotId;
use slabring_cluster::time::Micros;
use slabring_engine::{KeyHash, Seconds, WARM_KEYS_MAX};
use slabring_protocol::{ErrorReply, KEY_SIZE_MAX, Request};
use slabring_reactor::clock::Moment;

use crate::cluster::Cluster;
use crate::execute::{Asker, Executor, fence_named, refuse_fence};
use crate::node::Node;
use crate::report::Traffic;
use crate::shards::Shards;

pub use evaluate::may_change;
use evaluate::{Bench, Evaluated};
use items::{Items, Kept};
pub use slabring_cluster::replica::COPIED_ITEM_BYTES_MAX;
pub use waiting::{Finished, Manner, Parked, WaitId, Waiter, Waiting};

/// A write whose copies do not confirm it for so long is answered: nobody knows what became of it.
const WRITE_TIME_MAX: Micros = Micros::from_millis(250);
/// What waits for other nodes has this part of a shard's memory, and counts as such.
const QUEUE_PART: usize = 4;
/// Requests that wait for their keys are tried again after this time, if nothing has told of them before.
const RETRY_EVERY: Micros = Micros::from_millis(2);
/// Time from one look at what the state machine has to do to the next, while nothing comes.
const REST: Micros = Micros::from_millis(50);
/// What this shard has to say to the conductor is said this often, and at once about another ring.
const WORD_EVERY: Micros = Micros::from_millis(200);
/// A step of the comparison with the primaries' items is made this often: some thousand items a second.
const SCRUB_EVERY: Micros = Micros::from_millis(100);
/// The same while somebody waits for the end: some ten thousand items a second.
const SCRUB_HURRIED_EVERY: Micros = Micros::from_millis(5);
/// Signs of life on the links are counted this often.
const HEAR_EVERY: Micros = Micros::from_millis(200);
/// Above this what is read together is answered before more is read.
const REPLIES_TOGETHER_BYTES: usize = 64 << 10;
const _: () = assert!(WRITE_TIME_MAX.0 > 10 * RETRY_EVERY.0);

/// What became of a request.
#[derive(Debug)]
pub enum Executed {
    /// Its reply, if there is one, was appended.
    Now,
    /// It was not executed.
    Refused(ErrorReply),
    /// [`Replication::attend`] says who waits for the reply.
    Later(WaitId),
}

/// See the module.
pub struct Replication {
    replicator: Replicator<WaitId>,
    bench: Bench,
    waiting: Waiting,
    /// What is to be sent, in order.
    sends: Vec<(PeerShard, Vec<u8>)>,
    /// What the copies are to hear of reads, whenever.
    touches: Vec<(PeerShard, Vec<u8>)>,
    /// What is answered.
    finished: Vec<Finished>,
    start: Moment,
    /// Unix microseconds at `start`.
    start_unix: u64,
    /// The time of this turn.
    now: Micros,
    retry_at: Micros,
    word_at: Micros,
    scrub_at: Micros,
    is_scrub_hurried: bool,
    hear_at: Micros,
    /// A list of nodes is the ring for as long as nobody gives another.
    has_coordinator: bool,
    /// When a flush comes that is not yet due.
    flush_due: Option<Seconds>,
    shards: Shards,
    /// Writes whose outcome nobody knows, and requests that were not executed.
    unconfirmed: u64,
    refused: u64,
}

impl Replication {
    /// A shard that follows no ring yet.
    pub fn new(node: &Node, cluster: &Cluster, shards: Shards) -> anyhow::Result<Self> {
        let partitions = u16::try_from(slabring_cluster::placement::PARTITION_COUNT).expect("2^14");
        let start = cluster.start;
        let has_coordinator = cluster.settings.has_coordinator();
        // The conductor gives every life a term of its own. A list stays what it is.
        let clock = match has_coordinator {
            true => VersionClock::default(),
            false => VersionClock::beginning_at(cluster.incarnation.0),
        };
        let replicator = Replicator::new(cluster.incarnation, shards.me.0, 0..partitions)
            .with_clock(clock)
            .with_queue_bytes(node.settings.shard_memory_bytes() / QUEUE_PART);
        Ok(Self {
            replicator,
            bench: Bench::new(&node.settings)?,
            waiting: Waiting::default(),
            sends: Vec::new(),
            touches: Vec::new(),
            finished: Vec::new(),
            start,
            start_unix: node.clock.unix_microseconds().saturating_sub(clock_of(start).0),
            now: Micros(0),
            retry_at: Micros(0),
            word_at: Micros(0),
            scrub_at: Micros(0),
            is_scrub_hurried: false,
            hear_at: Micros(0),
            has_coordinator,
            flush_due: None,
            shards,
            unconfirmed: 0,
            refused: 0,
        })
    }

    fn clock(&self) -> Micros {
        clock_of(self.start)
    }

    fn dated(&self, kept: Kept) -> Content {
        kept.dated(self.start_unix)
    }

    fn items<'e>(&self, executor: &'e mut Executor, now: Seconds) -> Items<'e> {
        let (shard, tracking) = executor.shard_and_tracking();
        Items::new(shard, now, self.start_unix, self.shards).telling(tracking)
    }

    /// Follows a newer ring, in which this node has the place `me`, if any.
    pub fn follow(&mut self, now: Seconds, executor: &mut Executor, ring: &Arc<Ring>, me: Option<SlotId>) {
        let is_newer = self.replicator.ring().is_none_or(|known| known.epoch() < ring.epoch());
        if is_newer {
            let at = self.clock();
            let mut items = self.items(executor, now);
            self.replicator.adopt(at, &mut items, ring, me);
            items.settle();
            self.word_at = at;
            executor.gather_touches(self.mode() != Mode::Rf1);
        }
    }

    /// A link to a shard of another node is up, maybe of a build that knows no deltas.
    pub fn link_is_up(&mut self, peer: PeerShard, takes_deltas: bool) {
        self.replicator.connected(peer, takes_deltas);
    }

    /// It is gone.
    pub fn link_is_gone(&mut self, peer: PeerShard) {
        self.replicator.lost(peer);
    }

    /// Whether it is time for [`Replication::heard`].
    pub fn wants_to_hear(&mut self, now: Micros) -> bool {
        let is_due = now >= self.hear_at;
        if is_due {
            self.hear_at = now + HEAR_EVERY;
        }
        is_due
    }

    /// Another node lives: it sent something on a link. Nodes without common copies hear of each other only so, and who hears of
    /// nobody answers nothing.
    pub fn heard(&mut self, node: SlotId, at: Micros) {
        self.replicator.heard(at, node);
    }

    /// A message of another node came in.
    pub fn received(&mut self, now: Seconds, executor: &mut Executor, message: &[u8]) -> Result<(), Garbled> {
        let at = self.clock();
        let mut items = self.items(executor, now);
        let outcome = self.replicator.received(at, &mut items, message);
        items.settle();
        outcome
    }

    /// Whether a flush that was asked for by the ring `epoch` may be performed now.
    pub fn may_flush(&self, epoch: Epoch) -> bool {
        self.replicator.may_flush(epoch).is_ok()
    }

    /// A client had everything forgotten, now or at a later second: the copies do as well.
    pub fn flushed(&mut self, due: Option<Seconds>) {
        self.flush_due = due;
        if due.is_none() {
            let at = self.clock();
            self.replicator.flushed(at);
        }
    }

    /// Before anything is written in the second in which a flush comes.
    fn flush_if_due(&mut self, now: Seconds) {
        if self.flush_due.is_some_and(|due| now >= due) {
            self.flushed(None);
        }
    }

    /// Notes its numbers for `stats`.
    pub fn report_to(&self, traffic: &mut Traffic) {
        let counts = self.replicator.counts();
        traffic.copies_primary = counts.primary;
        traffic.copies_backup = counts.backup;
        traffic.copies_learner = counts.learner;
        traffic.copies_writes_open = counts.writes_open;
        traffic.copies_lag_entries = counts.lag_entries;
        traffic.copies_lag_bytes = counts.lag_bytes;
        traffic.copies_out_of_sync = counts.out_of_sync;
        traffic.scrub_compared = counts.compared;
        traffic.scrub_gone = counts.gone;
        traffic.scrub_differed = counts.differed;
        traffic.scrub_open = u64::from(self.is_scrub_hurried);
        traffic.copies_waiting = self.waiting.len() as u64;
        traffic.copies_unconfirmed = self.unconfirmed;
        traffic.copies_refused = self.refused;
    }

    /// Begins to compare all copies with what their primaries have. One that is under way begins anew.
    pub fn begin_scrub(&mut self) {
        self.replicator.scrub_anew();
        self.is_scrub_hurried = true;
        self.scrub_at = Micros(0);
    }

    /// Memory of them.
    pub fn buffer_bytes(&self) -> usize {
        let sends: usize = self.sends.iter().map(|(_, bytes)| bytes.capacity()).sum();
        self.waiting.bytes() + self.replicator.buffer_bytes() + sends
    }

    /// Memory of the bench, which is beside the shard's.
    pub fn bench_bytes(&self) -> usize {
        let memory = self.bench.executor().shard().memory();
        memory.index + memory.pages + memory.policy
    }

    /// How writes are acknowledged.
    pub fn mode(&self) -> Mode {
        self.replicator.mode_now()
    }

    /// The bench's counters of commands.
    pub fn bench(&self) -> &Executor {
        self.bench.executor()
    }

    /// Begins to count anew.
    pub fn reset_counters(&mut self) {
        (self.unconfirmed, self.refused) = (0, 0);
        self.bench.executor_mut().reset_counters();
    }

    /// How long a turn may sleep.
    pub fn sleep_max(&self) -> Micros {
        match self.waiting.is_empty() {
            _ if self.replicator.is_in_a_hurry() => Micros(0),
            false => RETRY_EVERY,
            true if self.is_scrub_hurried => SCRUB_HURRIED_EVERY,
            true => REST,
        }
    }

    /// Who waits for what [`Executed::Later`] announced.
    pub fn attend(&mut self, id: WaitId, waiter: Waiter) {
        self.waiting.attend(id, waiter);
    }

    /// What the state machine has to do, and what waits for it. Once a turn.
    pub fn turn(&mut self, executor: &mut Executor, now: Seconds, confirmed_at: Micros) {
        self.now = self.clock();
        self.flush_if_due(now);
        self.replicator.confirmed(if self.has_coordinator { confirmed_at } else { self.now });
        self.collect(None);
        let is_due = self.now >= self.retry_at && !self.waiting.is_empty();
        if is_due {
            self.retry_at = self.now + RETRY_EVERY;
            self.waiting.all_may_go();
        }
        while let Some(id) = self.waiting.next_to_go() {
            self.retry(executor, now, id);
        }
        let mut items = self.items(executor, now);
        self.replicator.turn(self.now, &mut items);
        if self.now >= self.scrub_at {
            let has_more = self.replicator.scrub(self.now, &items);
            self.is_scrub_hurried &= has_more;
            self.scrub_at = self.now + if self.is_scrub_hurried { SCRUB_HURRIED_EVERY } else { SCRUB_EVERY };
        }
        items.settle();
        self.collect(None);
        if let Some(touches) = executor.touches() {
            self.touches = touches.take(self.now, |hash| self.replicator.copies_of(hash));
        }
    }

    /// What the copies are to hear of reads: it may get lost.
    pub fn take_touches(&mut self) -> Vec<(PeerShard, Vec<u8>)> {
        std::mem::take(&mut self.touches)
    }

    /// What there is to say to the conductor, when it is time.
    pub fn take_word(&mut self) -> Option<ShardReport> {
        if !self.has_coordinator || self.now < self.word_at {
            return None;
        }
        self.word_at = self.now + WORD_EVERY;
        Some(self.replicator.report(self.now))
    }

    /// What is to be sent.
    pub fn take_sends(&mut self) -> Vec<(PeerShard, Vec<u8>)> {
        std::mem::take(&mut self.sends)
    }

    /// What is answered, with those who wait for it.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Executes a request with a key of this shard.
    pub fn execute(
        &mut self,
        executor: &mut Executor,
        now: Seconds,
        request: &Request<'_>,
        asker: Asker,
        out: &mut Vec<u8>,
    ) -> Executed {
        let mut scratch = [0; KEY_SIZE_MAX];
        let hash = hash_key(request.decoded_key(&mut scratch));
        if self.waiting.is_busy(hash) {
            return self.park(request, hash, asker);
        }
        let id = self.waiting.next_id();
        match self.attempt(executor, now, request, (id, hash, asker), out) {
            Err(Refused::Wait) => self.park(request, hash, asker),
            Err(refused) => {
                self.refused += 1;
                Executed::Refused(told(refused))
            }
            Ok(executed) => executed,
        }
    }

    /// Reads keys of this shard that are asked for together, a line each, and answers all of them or none: whether it may is looked at
    /// once, when all are read. Returns how many: fewer where replies get large, 0 where the first must wait or none may be answered,
    /// and nothing is appended then.
    pub fn get_together<'k>(
        &self,
        executor: &mut Executor,
        now: Seconds,
        keys: impl Iterator<Item = (&'k [u8], KeyHash)>,
        connection: u32,
        out: &mut Vec<u8>,
    ) -> usize {
        let (start, mut done) = (out.len(), 0);
        let mut hashes = [0; WARM_KEYS_MAX];
        for ((key, shard_hash), hash) in keys.zip(&mut hashes) {
            *hash = hash_key(key);
            if self.waiting.is_busy(*hash) || out.len() - start > REPLIES_TOGETHER_BYTES {
                break;
            }
            executor.get_line(now, key, shard_hash, connection, out);
            done += 1;
        }
        let at = self.clock();
        if hashes[..done].iter().all(|&hash| self.replicator.may_read(at, hash).is_ok()) {
            return done;
        }
        out.truncate(start);
        0
    }

    fn park(&mut self, request: &Request<'_>, hash: u64, asker: Asker) -> Executed {
        let deadline = self.clock() + WRITE_TIME_MAX;
        match self.waiting.park(Parked::new(request, asker), hash, deadline) {
            Some(id) => Executed::Later(id),
            None => Executed::Refused(ErrorReply::CopiesOverloaded),
        }
    }

    /// Tries a request that waits for its key.
    fn retry(&mut self, executor: &mut Executor, now: Seconds, id: WaitId) {
        let Some((parked, hash, deadline)) = self.waiting.parked(id) else { return };
        let (request, asker) = (parked.request(), parked.asker);
        let mut reply = Vec::new();
        let attempt = self.attempt(executor, now, &request, (id, hash, asker), &mut reply);
        let outcome = match attempt {
            Err(Refused::Wait) if self.now < deadline => return self.waiting.park_again(id, parked),
            Err(refused) => {
                self.refused += 1;
                Err(told(refused))
            }
            Ok(Executed::Refused(error)) => Err(error),
            Ok(Executed::Now) => Ok(reply),
            Ok(Executed::Later(_)) => return,
        };
        self.finished.extend(self.waiting.finish(id, outcome));
    }

    /// Executes a request, or says why not now.
    fn attempt(
        &mut self,
        executor: &mut Executor,
        now: Seconds,
        request: &Request<'_>,
        (id, hash, asker): (WaitId, u64, Asker),
        out: &mut Vec<u8>,
    ) -> Result<Executed, Refused> {
        let mut scratch = [0; KEY_SIZE_MAX];
        let key = request.decoded_key(&mut scratch);
        let start = out.len();
        if !evaluate::may_change(executor.shard(), now, request, key) {
            executor.execute_for(now, request, asker, out);
            return self.check_read(hash, start, out).map(|()| Executed::Now);
        }
        if evaluate::names_cas(request) {
            return Ok(Executed::Refused(ErrorReply::CasIsVersion));
        }
        let at = self.clock();
        self.flush_if_due(now);
        self.replicator.may_write(at, hash)?;
        if executor.is_read_elsewhere(key) {
            return Err(Refused::Wait);
        }
        let version = self.replicator.peek_version().ok_or(Refused::WornOut)?;
        // Not before: who waits for the key comes by again and again.
        executor.look(request, key);
        let fence = fence_named(request);
        let known = fence.and_then(|_| executor.shard().fence_of(key));
        if !executor.admits(request, key) {
            refuse_fence(request, request.value.len(), out);
            return Ok(Executed::Now);
        }
        let raised = fence.filter(|_| known != fence);
        if let Some(fence) = raised {
            let items = self.items(executor, now);
            self.replicator.tell_fence(at, &items, hash, fence);
        }
        let change = match self.bench.evaluate(executor.shard(), now, request, key, version.0, out) {
            Evaluated::Unchanged if raised.is_none() => {
                return self.check_read(hash, start, out).map(|()| Executed::Now);
            }
            // The copies must have the fence before it is answered: what there is is said again.
            Evaluated::Unchanged => {
                Change::Becomes(executor.shard().peek(now, key).map(|item| self.dated(Kept::of(&item))))
            }
            Evaluated::Changed(kept) => Change::Becomes(kept.map(|kept| self.dated(kept))),
            Evaluated::Extended { base, side, value_len } => {
                let (base, bytes) = (Version(base), request.value.into());
                Change::Extends { base, side, bytes, value_len }
            }
            Evaluated::NoRoom => {
                self.collect(None);
                return Ok(Executed::Refused(ErrorReply::OutOfMemoryStoring));
            }
        };
        let invalidates = evaluate::invalidates(request) || fence.is_some();
        let (key, deadline) = (Bytes::from(key), at + WRITE_TIME_MAX);
        let write = Write { token: id, hash, key, change, invalidates, deadline };
        let mut items = self.items(executor, now);
        let written = self.replicator.write(at, &mut items, write);
        let has_room = items.settle();
        match written {
            Ok(given) => assert!(given == version, "the next version is the one that comes next"),
            Err(refused) => {
                out.truncate(start);
                return Err(refused);
            }
        }
        if !has_room {
            out.truncate(start);
            // Others have it. If this write is waited for, nobody is told of it any more.
            self.collect(None);
            return Ok(Executed::Refused(ErrorReply::OutOfMemoryStoring));
        }
        if self.collect(Some(id)) {
            return Ok(Executed::Now);
        }
        let is_exclusive = self.mode() == Mode::Sync;
        self.waiting.reply_later(id, Manner::of(request), out.split_off(start), hash, is_exclusive);
        Ok(Executed::Later(id))
    }

    /// Whether what was read since `start` may be answered: only now, because the lease must hold after the reading.
    fn check_read(&self, hash: u64, start: usize, out: &mut Vec<u8>) -> Result<(), Refused> {
        let allowed = self.replicator.may_read(self.clock(), hash);
        if allowed.is_err() {
            out.truncate(start);
        }
        allowed
    }

    /// Whether nobody can have taken over from this node unheard.
    pub fn is_in_touch(&self) -> bool {
        self.replicator.is_in_touch(self.clock())
    }

    /// Whether this shard says what a key is for `span` longer, and nobody is about to change it.
    pub fn keeps(&self, key: &[u8], span: Micros) -> bool {
        let hash = hash_key(key);
        let at = self.clock() + span;
        !self.waiting.is_busy(hash)
            && self.replicator.may_write(at, hash).is_ok()
            && self.replicator.may_read(at, hash).is_ok()
    }

    /// What waits for its key is tried in the next turn.
    pub fn retry_soon(&mut self) {
        self.retry_at = Micros(0);
    }

    /// Takes over what the state machine asks for. Whether `wanted` is answered, and done.
    fn collect(&mut self, wanted: Option<WaitId>) -> bool {
        let mut is_done = false;
        while let Some(effect) = self.replicator.next_effect() {
            match effect {
                Effect::Send { to, bytes } => self.sends.push((to, bytes)),
                Effect::Answer { token, outcome: Outcome::Done } if Some(token) == wanted => is_done = true,
                Effect::Answer { token, outcome } => {
                    self.unconfirmed += u64::from(outcome == Outcome::Unknown);
                    let finished = self.waiting.answered(token, outcome == Outcome::Done);
                    self.finished.extend(finished);
                }
            }
        }
        is_done
    }
}

fn clock_of(start: Moment) -> Micros {
    Micros(Moment::now().since_ns(start) / 1_000)
}

/// What a client is told.
fn told(refused: Refused) -> ErrorReply {
    match refused {
        Refused::NotPrimary => ErrorReply::RingUnsettled,
        Refused::Wait => ErrorReply::KeyUnsettled,
        Refused::NoLease => ErrorReply::CopiesSilent,
        Refused::Overloaded | Refused::WornOut => ErrorReply::CopiesOverloaded,
    }
}
