//! What a shard counts: each outcome of the engine, by command and by class, all of it as one report, and how it begins anew. What
//! an outcome is called on the wire is told elsewhere.

use slabring_engine::{
    Arithmetic, ArithmeticOutcome, ClassId, Delete, DeleteMode, DeleteOutcome, Seconds, Store,
    StoreMode as EngineMode, StoreOutcome,
};
use slabring_protocol::reply::{self, MetaItem, MetaStatus, Outcome};
use slabring_protocol::{Command, Request};

use super::{Executor, reply_to_store};
use crate::prefixes::Prefixes;
use crate::report::{ByClass, ClassCounters, CommandCounters, ShardReport, Traffic};
use crate::track::TrackCounters;
use crate::turns::Turns;

impl Executor {
    /// All numbers of this shard.
    pub fn report(&self) -> ShardReport {
        let counters = self.watch_log.counters;
        let mut traffic = self.traffic;
        self.replication.iter().for_each(|replication| replication.report_to(&mut traffic));
        self.front.iter().for_each(|front| front.report_to(&mut traffic));
        let mut commands = self.commands;
        let bench = self.replication.as_ref().map(|replication| replication.bench().commands);
        bench.iter().for_each(|bench| commands.add(bench));
        let tracked = self.tracking.counters;
        ShardReport {
            commands,
            traffic: Traffic {
                log_written: counters.written,
                log_sent: counters.sent,
                log_skipped: counters.skipped,
                hot_samples: self.hot_keys.samples,
                tracked_keys: self.tracking.keys() as u64,
                tracked_reads: tracked.marked,
                track_told: tracked.told,
                track_forced: tracked.forced,
                track_flushes: tracked.flushes,
                ..traffic
            },
            engine: *self.shard.counters(),
            memory: Some(self.shard.memory()),
            classes: self.shard.classes().collect(),
            by_class: self.by_class.to_vec(),
            io: self.io,
            turns: self.turns,
        }
    }

    /// Begins to count anew.
    pub fn reset_counters(&mut self) {
        self.commands = CommandCounters::default();
        if let Some(replication) = &mut self.replication {
            replication.reset_counters();
        }
        self.front.iter_mut().for_each(|front| front.reset_counters());
        self.by_class.fill(ClassCounters::default());
        self.traffic.reset();
        self.shard.reset_counters();
        self.prefixes.iter_mut().for_each(Prefixes::clear);
        self.tracking.counters = TrackCounters::default();
        self.hot_keys.samples = 0;
        self.turns = Turns::default();
    }

    pub(super) fn count_store(&mut self, now: Seconds, store: &Store<'_>) -> StoreOutcome {
        let outcome = match self.finish_extending(now, store) {
            Some(outcome) => outcome,
            None => self.shard.store(now, store),
        };
        self.count_outcome(store, outcome)
    }

    /// Counts a store that has just ended so. Returns what the client is told.
    pub fn count_outcome(&mut self, store: &Store<'_>, outcome: StoreOutcome) -> StoreOutcome {
        match outcome {
            StoreOutcome::TooLarge => self.commands.store_too_large += 1,
            StoreOutcome::NoMemory => self.commands.store_no_memory += 1,
            _ => self.commands.cmd_set += 1,
        }
        let class = class_counters(&mut self.by_class, self.shard.last_class());
        class.cmd_set += u64::from(matches!(outcome, StoreOutcome::Stored { .. }));
        // memcached compares what is joined to a value too, and does not count it.
        let is_joined = matches!(store.mode, EngineMode::Append | EngineMode::Prepend);
        if store.compare.is_some() && !is_joined {
            match outcome {
                StoreOutcome::Stored { .. } => {
                    self.commands.cas_hits += 1;
                    class.cas_hits += 1;
                }
                StoreOutcome::Exists => {
                    self.commands.cas_badval += 1;
                    class.cas_badval += 1;
                }
                StoreOutcome::NotFound => self.commands.cas_misses += 1,
                StoreOutcome::NotStored | StoreOutcome::TooLarge | StoreOutcome::NoMemory => {}
            }
        }
        match (store.mode, outcome) {
            // memcached's answer to an append that would make an item too large.
            (EngineMode::Append | EngineMode::Prepend, StoreOutcome::TooLarge) => StoreOutcome::NotStored,
            _ => outcome,
        }
    }

    pub(super) fn count_delete(&mut self, now: Seconds, delete: &Delete<'_>) -> DeleteOutcome {
        let outcome = self.shard.delete(now, delete);
        let marks = matches!(
            delete.mode,
            DeleteMode::Invalidate { .. } | DeleteMode::DropValue { invalidate: true, .. }
        );
        match outcome {
            DeleteOutcome::Deleted if marks => {}
            DeleteOutcome::Deleted => {
                self.commands.delete_hits += 1;
                class_counters(&mut self.by_class, self.shard.last_class()).delete_hits += 1;
            }
            DeleteOutcome::NotFound => self.commands.delete_misses += 1,
            DeleteOutcome::Exists => {}
        }
        outcome
    }

    pub(super) fn count_arithmetic(
        &mut self,
        now: Seconds,
        arithmetic: &Arithmetic<'_>,
    ) -> ArithmeticOutcome {
        let outcome = self.shard.arithmetic(now, arithmetic);
        let commands = &mut self.commands;
        let class = class_counters(&mut self.by_class, self.shard.last_class());
        let (hits, class_hits, misses) = if arithmetic.decrement {
            (&mut commands.decr_hits, &mut class.decr_hits, &mut commands.decr_misses)
        } else {
            (&mut commands.incr_hits, &mut class.incr_hits, &mut commands.incr_misses)
        };
        match outcome {
            ArithmeticOutcome::Value { created: false, .. } => {
                *hits += 1;
                *class_hits += 1;
            }
            ArithmeticOutcome::NotFound => *misses += 1,
            ArithmeticOutcome::Value { created: true, .. }
            | ArithmeticOutcome::NonNumeric
            | ArithmeticOutcome::Exists
            | ArithmeticOutcome::NoMemory => {}
        }
        outcome
    }

    /// Counts and answers a store that is made elsewhere and does not fail.
    pub fn reply_stored(&mut self, request: &Request<'_>, cas: u64, value_len: usize, out: &mut Vec<u8>) {
        self.commands.cmd_set += 1;
        reply_to_store(request, request.value.len(), StoreOutcome::Stored { cas, value_len }, out);
    }

    /// Counts and answers a removal that is made elsewhere.
    pub fn reply_deleted(&mut self, request: &Request<'_>, was_there: bool, out: &mut Vec<u8>) {
        let (count, status, outcome) = match was_there {
            true => (&mut self.commands.delete_hits, MetaStatus::Stored, Outcome::Deleted),
            false => (&mut self.commands.delete_misses, MetaStatus::NotFound, Outcome::NotFound),
        };
        *count += 1;
        match request.command {
            Command::MetaDelete(_) => reply::meta_status(out, request, status, &MetaItem::default()),
            _ => reply::outcome(out, request, outcome),
        }
    }

    /// This shard has answered a read of another node's key.
    pub fn count_hit_elsewhere(&mut self) {
        self.commands.cmd_get += 1;
        self.commands.get_hits += 1;
    }
}

/// The counters of a class. There are no more classes than counters.
#[inline]
pub(super) fn class_counters(by_class: &mut ByClass, class: ClassId) -> &mut ClassCounters {
    &mut by_class[usize::from(class.0)]
}

/// Counts an `mg`. One that touches counts as a touch, but for one that finds nothing: that is a get, as in memcached.
pub(super) fn count_fetched(commands: &mut CommandCounters, is_hit: bool, touches: bool) {
    match (is_hit, touches) {
        (true, true) => {
            commands.cmd_touch += 1;
            commands.touch_hits += 1;
        }
        (true, false) => {
            commands.cmd_get += 1;
            commands.get_hits += 1;
        }
        (false, _) => {
            commands.cmd_get += 1;
            commands.get_misses += 1;
        }
    }
}
