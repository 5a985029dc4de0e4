//! What clients did and saw, and whether they may have. Never looks at the cluster.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::replica::{Record, Version};
use crate::ring::Epoch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Did {
    Get,
    Set,
    /// Replaces what it read, by compare-and-swap.
    Change,
    /// Puts something to what is there, or sets it if nothing is.
    Extend,
    Delete,
}

#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) key: usize,
    pub(super) did: Did,
    pub(super) from: Micros,
    /// When the client was told that it is done.
    done_at: Option<Micros>,
    pub(super) node: usize,
    epoch: u64,
    /// Of what was written, or read.
    version: Option<Version>,
    /// The write whose value was read, or was there when it was replaced.
    pub(super) seen: Option<(Version, usize)>,
    judged_for_loss: bool,
}

impl Op {
    pub(super) fn new(key: usize, did: Did, from: Micros) -> Self {
        let judged_for_loss = true;
        Self { key, did, from, done_at: None, node: 0, epoch: 0, version: None, seen: None, judged_for_loss }
    }

    fn is_before(&self, other: &Self) -> bool {
        self.done_at.is_some_and(|done| done < other.from)
    }
}

/// Everything is forgotten.
#[derive(Clone, Copy, Debug)]
struct Flush {
    from: Micros,
    done_at: Option<Micros>,
    epoch: u64,
    /// Shards that have not performed it.
    missing: usize,
}

/// Nodes are told of a flush so soon, or not at all.
const FLUSH_TIME_MAX: Micros = Micros::from_millis(1_000);
/// One that failed may still be performed by who takes over until then, by whatever clock.
const FLUSH_OVER: Micros = Micros::from_millis(13_000);

impl Flush {
    /// Whether it may have made what a write wrote be forgotten.
    fn may_follow(&self, write: &Op) -> bool {
        self.done_at.unwrap_or(self.from + FLUSH_OVER) >= write.from
    }
}

#[derive(Default)]
pub(super) struct History {
    pub(super) ops: Vec<Op>,
    flushes: Vec<Flush>,
    /// Who wrote each value.
    writers: BTreeMap<Vec<u8>, usize>,
    may_lose: BTreeSet<usize>,
}

impl History {
    pub(super) fn begin(&mut self, op: Op) -> usize {
        self.ops.push(op);
        self.ops.len() - 1
    }

    /// A value that is none of those that were written is torn.
    fn seen(&self, found: Option<&Record>) -> Option<(Version, usize)> {
        let record = found?;
        let value = &record.content.as_ref().expect("it was read").value;
        let writer = self.writers.get(&value[..]);
        let writer = writer.unwrap_or_else(|| panic!("nobody wrote {:?}", String::from_utf8_lossy(value)));
        Some((record.version, *writer))
    }

    pub(super) fn saw(&mut self, op: usize, node: usize, epoch: u64, found: Option<&Record>) {
        let is_judged = !self.may_lose.contains(&self.ops[op].key);
        let seen = self.seen(found);
        let op = &mut self.ops[op];
        (op.node, op.epoch, op.seen, op.judged_for_loss) = (node, epoch, seen, is_judged);
        op.version = op.seen.map(|(version, _)| version);
    }

    pub(super) fn wrote(
        &mut self,
        op: usize,
        (node, epoch, version): (usize, u64, Version),
        over: Option<&Record>,
        change: &Change,
    ) {
        let found = over.and_then(|record| record.content.as_ref()).map_or(&[][..], |content| &content.value);
        let value = match change {
            Change::Becomes(content) => content.as_ref().map(|content| content.value.to_vec()),
            Change::Extends { side: Side::Front, bytes, .. } => Some([bytes, found].concat()),
            Change::Extends { side: Side::Back, bytes, .. } => Some([found, bytes].concat()),
        };
        self.writers.extend(value.map(|value| (value, op)));
        let seen = self.seen(over);
        let op = &mut self.ops[op];
        (op.node, op.epoch, op.version, op.seen) = (node, epoch, Some(version), seen);
    }

    pub(super) fn end(&mut self, op: usize, now: Micros, is_done: bool) {
        let op = &mut self.ops[op];
        assert!(op.done_at.is_none(), "an operation is answered once");
        op.done_at = is_done.then_some(now);
    }

    pub(super) fn begin_flush(&mut self, from: Micros, epoch: u64, missing: usize) -> usize {
        self.flushes.push(Flush { from, done_at: None, epoch, missing });
        self.flushes.len() - 1
    }

    /// Of the ring by which it was asked for.
    pub(super) fn epoch_of(&self, flush: usize) -> Epoch {
        Epoch(self.flushes[flush].epoch)
    }

    pub(super) fn is_late(&self, flush: usize, now: Micros) -> bool {
        now.since(self.flushes[flush].from) >= FLUSH_TIME_MAX
    }

    pub(super) fn flushed(&mut self, flush: usize, now: Micros) {
        let flush = &mut self.flushes[flush];
        flush.missing -= 1;
        flush.done_at = (flush.missing == 0).then_some(now);
    }

    /// Flushes that all performed.
    pub(super) fn flushes_done(&self) -> usize {
        self.flushes.iter().filter(|flush| flush.done_at.is_some()).count()
    }

    pub(super) fn may_lose(&mut self, key: usize) {
        self.may_lose.insert(key);
    }

    /// Operations that were answered well.
    pub(super) fn done(&self) -> usize {
        self.ops.iter().filter(|op| op.done_at.is_some()).count()
    }

    pub(super) fn check(&self, mode: Mode, has_failed: bool, may_evict: bool) {
        let mut keys: BTreeMap<usize, Vec<(usize, &Op)>> = BTreeMap::new();
        for (number, op) in self.ops.iter().enumerate() {
            keys.entry(op.key).or_default().push((number, op));
        }
        for ops in keys.values() {
            self.check_values(ops);
            self.check_flushes(ops, mode == Mode::Sync);
            if mode == Mode::Sync || !has_failed {
                check_order(ops);
                check_winners(ops);
            }
            if mode == Mode::Inval {
                self.check_invalidations(ops);
            }
            if mode == Mode::Sync && !may_evict {
                self.check_losses(ops);
            }
        }
    }

    /// What is read was written, to this key, and before the read ended.
    fn check_values(&self, ops: &[(usize, &Op)]) {
        for (number, op) in ops {
            let Some((_, written_by)) = op.seen else { continue };
            let write = &self.ops[written_by];
            let is_late = op.done_at.is_some_and(|done| done < write.from);
            assert!(write.key == op.key && !is_late, "op {number} reads what {written_by} wrote");
        }
    }

    /// A read does not give what an invalidating write, acknowledged before by the same ring or an older one, had followed.
    fn check_invalidations(&self, ops: &[(usize, &Op)]) {
        let is_invalidating = |op: &Op| matches!(op.did, Did::Delete | Did::Change | Did::Extend);
        for (number, read) in ops.iter().filter(|(_, op)| op.did == Did::Get && op.done_at.is_some()) {
            let Some((_, written_by)) = read.seen else { continue };
            let write = &self.ops[written_by];
            // A primary that was replaced and has not heard may acknowledge what nobody else has, for a while.
            let is_told = |op: &Op| write.epoch <= op.epoch && op.epoch <= read.epoch;
            let is_stale = |op: &Op| is_told(op) && write.is_before(op) && op.is_before(read);
            let stale = ops.iter().find(|(_, op)| is_invalidating(op) && is_stale(op));
            assert!(
                stale.is_none(),
                "op {number} reads what {written_by} wrote, invalidated by {:?}",
                stale.map(|op| op.0)
            );
        }
    }

    /// A read does not give what was written before a flush that was over before it. Where the mode allows that a primary which was
    /// replaced answers for a while: by the same ring or a later one.
    fn check_flushes(&self, ops: &[(usize, &Op)], is_sync: bool) {
        for (number, read) in ops.iter().filter(|(_, op)| op.did == Did::Get && op.done_at.is_some()) {
            let Some((_, written_by)) = read.seen else { continue };
            let write = &self.ops[written_by];
            let is_told =
                |flush: &Flush| is_sync || (write.epoch <= flush.epoch && flush.epoch <= read.epoch);
            let is_between = |flush: &Flush| {
                let is_behind = write.done_at.is_some_and(|done| done < flush.from);
                is_behind && flush.done_at.is_some_and(|done| done < read.from)
            };
            let flush = self.flushes.iter().position(|flush| is_told(flush) && is_between(flush));
            assert!(flush.is_none(), "op {number} reads what {written_by} wrote, and {flush:?} flushed");
        }
    }

    /// I2: a key that was never deleted is there after a write was acknowledged.
    fn check_losses(&self, ops: &[(usize, &Op)]) {
        if ops.iter().any(|(_, op)| op.did == Did::Delete) {
            return;
        }
        for (number, read) in ops {
            let is_miss = read.did == Did::Get && read.done_at.is_some() && read.seen.is_none();
            if is_miss && read.judged_for_loss {
                // By none that began before the read ended.
                let flushes =
                    self.flushes.iter().filter(|flush| read.done_at.is_some_and(|done| flush.from <= done));
                let stays = |write: &Op| !flushes.clone().any(|flush| flush.may_follow(write));
                let written = ops.iter().find(|(_, op)| {
                    matches!(op.did, Did::Set | Did::Extend) && op.is_before(read) && stays(op)
                });
                assert!(
                    written.is_none(),
                    "op {number} of {} at n{} misses: lost {:?}",
                    read.key,
                    read.node,
                    written.map(|op| op.0)
                );
            }
        }
    }
}

/// I3: versions that clients were told of never go down. By the order of answers and questions.
fn check_order(ops: &[(usize, &Op)]) {
    let mut ends: Vec<_> =
        ops.iter().filter_map(|(number, op)| Some((op.done_at?, op.version?, *number))).collect();
    ends.sort_unstable();
    let mut begins: Vec<_> = ops.iter().filter(|(_, op)| op.done_at.is_some()).collect();
    begins.sort_unstable_by_key(|(_, op)| op.from);
    let (mut ends, mut floor) = (ends.into_iter().peekable(), (Version(0), 0));
    for (number, op) in begins {
        while let Some((_, version, by)) = ends.next_if(|&(at, ..)| at < op.from) {
            floor = floor.max((version, by));
        }
        let is_old = op.version.is_some_and(|version| version < floor.0);
        assert!(
            !is_old,
            "op {number} {:?} of {} at n{} is stale: {:?}, and op {} was told {:?}",
            op.did, op.key, op.node, op.version, floor.1, floor.0
        );
    }
}

/// I4: one state is replaced once.
fn check_winners(ops: &[(usize, &Op)]) {
    let mut replaced = BTreeMap::new();
    for (number, op) in ops.iter().filter(|(_, op)| op.done_at.is_some()) {
        let is_by_state = matches!(op.did, Did::Change | Did::Extend);
        let Some((base, _)) = op.seen.filter(|_| is_by_state) else { continue };
        let other = replaced.insert(base, number);
        assert_eq!(other, None, "two changes of one state: by {number} too");
    }
}
