//! The one place where a protocol's request becomes an operation of the engine, and its outcome a reply. The classic and
//! the binary commands are in `classic.rs`, the meta commands in `meta.rs`.
//!
//! It runs on the shard that owns the key, whichever connection and shard the request came from. It decides nothing
//! about connections and makes no system call.

mod classic;
mod meta;

use slabring_engine::{
    Arithmetic, ArithmeticOutcome, Delete, DeleteOutcome, Seconds, Shard, Store, StoreMode as EngineMode,
    StoreOutcome,
};
use slabring_protocol::{Command, KEY_SIZE_MAX, Request, StoreMode};
use slabring_reactor::IoCounters;

use crate::report::{Answer, CommandCounters, Question, ShardReport, Traffic};

/// A shard with its counters.
pub struct Executor {
    shard: Shard,
    commands: CommandCounters,
    /// The thread's own part of a report.
    pub traffic: Traffic,
    /// The reactor's part of a report, as of the last turn.
    pub io: IoCounters,
}

impl Executor {
    /// An executor on a fresh shard.
    pub fn new(shard: Shard) -> Self {
        let (commands, traffic, io) = Default::default();
        Self { shard, commands, traffic, io }
    }

    /// The engine.
    pub fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// Begins to load what the requests with these keys will need. Nothing to gain with a single one.
    pub fn warm<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        let mut keys = keys.peekable();
        if let Some(first) = keys.next()
            && keys.peek().is_some()
        {
            self.shard.warm(std::iter::once(first).chain(keys));
        }
    }

    /// Executes a request with a key and appends the reply, if there is one.
    pub fn execute(&mut self, now: Seconds, request: &Request<'_>, out: &mut Vec<u8>) {
        let mut scratch = [0; KEY_SIZE_MAX];
        let key = request.decoded_key(&mut scratch);
        match request.command {
            Command::Get { .. } => self.get(now, request, out),
            Command::GetAndTouch { exptime, .. } => self.get_and_touch(now, request, exptime, out),
            Command::Store { .. } => self.store(now, request, out),
            Command::StoreTooLarge { removes } => self.store_too_large(now, request, key, removes, out),
            Command::Delete { compare } => self.delete(now, request, compare, out),
            Command::Arithmetic { .. } => self.arithmetic(now, request, out),
            Command::Touch { exptime } => self.touch(now, request, exptime, out),
            Command::MetaGet(flags) => self.meta_get(now, request, key, &flags, out),
            Command::MetaStore(flags) => self.meta_store(now, request, key, &flags, out),
            Command::MetaDelete(flags) => self.meta_delete(now, request, key, &flags, out),
            Command::MetaArithmetic(flags) => self.meta_arithmetic(now, request, key, &flags, out),
            Command::MetaDebug(_) => self.meta_debug(now, request, key, out),
            command => unreachable!("{command:?} has no key and no owner"),
        }
    }

    /// Answers a question to the shard as a whole.
    pub fn answer(&mut self, _now: Seconds, question: Question, _out: &mut Vec<u8>) -> Answer {
        match question {
            Question::Flush(None) => self.shard.flush(),
            Question::Flush(Some(due)) => self.shard.flush_at(due),
            Question::Report => return Answer::Numbers(Box::new(self.report())),
            Question::ResetCounters => {
                self.commands = CommandCounters::default();
                let buffer_bytes = self.traffic.buffer_bytes;
                self.traffic = Traffic { buffer_bytes, ..Traffic::default() };
                self.shard.reset_counters();
            }
        }
        Answer::Done
    }

    /// All numbers of this shard.
    pub fn report(&self) -> ShardReport {
        ShardReport {
            commands: self.commands,
            traffic: self.traffic,
            engine: *self.shard.counters(),
            memory: Some(self.shard.memory()),
            classes: self.shard.classes().collect(),
            io: self.io,
        }
    }

    fn count_store(&mut self, now: Seconds, store: &Store<'_>) -> StoreOutcome {
        let outcome = self.shard.store(now, store);
        match outcome {
            StoreOutcome::TooLarge => self.commands.store_too_large += 1,
            StoreOutcome::NoMemory => self.commands.store_no_memory += 1,
            _ => self.commands.cmd_set += 1,
        }
        if store.compare.is_some() {
            match outcome {
                StoreOutcome::Stored { .. } => self.commands.cas_hits += 1,
                StoreOutcome::Exists => self.commands.cas_badval += 1,
                StoreOutcome::NotFound => self.commands.cas_misses += 1,
                StoreOutcome::NotStored | StoreOutcome::TooLarge | StoreOutcome::NoMemory => {}
            }
        }
        outcome
    }

    fn count_delete(&mut self, now: Seconds, delete: &Delete<'_>) -> DeleteOutcome {
        let outcome = self.shard.delete(now, delete);
        match outcome {
            DeleteOutcome::Deleted => self.commands.delete_hits += 1,
            DeleteOutcome::NotFound => self.commands.delete_misses += 1,
            DeleteOutcome::Exists => {}
        }
        outcome
    }

    fn count_arithmetic(&mut self, now: Seconds, arithmetic: &Arithmetic<'_>) -> ArithmeticOutcome {
        let outcome = self.shard.arithmetic(now, arithmetic);
        let commands = &mut self.commands;
        let (hits, misses) = if arithmetic.decrement {
            (&mut commands.decr_hits, &mut commands.decr_misses)
        } else {
            (&mut commands.incr_hits, &mut commands.incr_misses)
        };
        match outcome {
            ArithmeticOutcome::Value { created: false, .. } => *hits += 1,
            ArithmeticOutcome::Value { created: true, .. } | ArithmeticOutcome::NotFound => *misses += 1,
            ArithmeticOutcome::NonNumeric | ArithmeticOutcome::Exists | ArithmeticOutcome::NoMemory => {}
        }
        outcome
    }
}

fn engine_mode(mode: StoreMode) -> EngineMode {
    match mode {
        StoreMode::Set => EngineMode::Set,
        StoreMode::Add => EngineMode::Add,
        StoreMode::Replace => EngineMode::Replace,
        StoreMode::Append => EngineMode::Append,
        StoreMode::Prepend => EngineMode::Prepend,
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an item is at most 1 GiB")
}
