//! The one place where a protocol's request becomes an operation of the engine, and its outcome a reply.
//!
//! It runs on the shard that owns the key, whichever connection and shard the request came from. It decides nothing
//! about connections and makes no system call.

use slabring_engine::{
    Arithmetic, ArithmeticOutcome, Delete, DeleteMode, DeleteOutcome, Expiry, Fetch, Fetched, Item, Seconds,
    Shard, Store, StoreMode as EngineMode, StoreOutcome,
};
use slabring_protocol::reply::{self, MetaItem, MetaStatus, MetaWin};
use slabring_protocol::{Command, ErrorReply, KEY_SIZE_MAX, MetaFlags, Request, StoreMode};
use slabring_reactor::IoCounters;

use crate::exptime::{expiry_of, ttl_of};
use crate::report::{CommandCounters, Question, ShardReport, Traffic};

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
        let start = out.len();
        let mut scratch = [0; KEY_SIZE_MAX];
        let key = request.decoded_key(&mut scratch);
        match request.command {
            Command::Get { with_cas } => self.get(now, request, with_cas, out),
            Command::GetAndTouch { exptime, with_cas } => {
                self.get_and_touch(now, request, exptime, with_cas, out);
            }
            Command::Store { mode, client_flags, exptime, compare } => {
                let expiry = expiry_of(exptime, now);
                let store = Store {
                    mode: engine_mode(mode),
                    client_flags,
                    compare,
                    ..Store::set(key, request.value, expiry)
                };
                self.store(now, &store, out);
            }
            Command::StoreTooLarge { removes } => self.store_too_large(now, key, removes, out),
            Command::Delete => self.delete(now, key, out),
            Command::Arithmetic { decrement, delta } => self.arithmetic(now, key, decrement, delta, out),
            Command::Touch { exptime } => self.touch(now, key, expiry_of(exptime, now), out),
            Command::MetaGet(flags) => self.meta_get(now, request, key, &flags, out),
            Command::MetaStore(flags) => self.meta_store(now, request, key, &flags, out),
            Command::MetaDelete(flags) => self.meta_delete(now, request, key, &flags, out),
            Command::MetaArithmetic(flags) => self.meta_arithmetic(now, request, key, &flags, out),
            Command::MetaDebug(_) => self.meta_debug(now, request, key, out),
            command => unreachable!("{command:?} has no key and no owner"),
        }
        if request.noreply {
            out.truncate(start);
        }
    }

    /// Answers a question to the shard as a whole.
    pub fn answer(&mut self, question: Question) -> Option<ShardReport> {
        match question {
            Question::Flush(None) => self.shard.flush(),
            Question::Flush(Some(due)) => self.shard.flush_at(due),
            Question::Report => return Some(self.report()),
            Question::ResetCounters => {
                self.commands = CommandCounters::default();
                let buffer_bytes = self.traffic.buffer_bytes;
                self.traffic = Traffic { buffer_bytes, ..Traffic::default() };
                self.shard.reset_counters();
            }
        }
        None
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

    fn get(&mut self, now: Seconds, request: &Request<'_>, with_cas: bool, out: &mut Vec<u8>) {
        self.commands.cmd_get += 1;
        match self.shard.get(now, request.key) {
            Some(item) => {
                self.commands.get_hits += 1;
                append_value(out, request.key, &item, with_cas);
            }
            None => self.commands.get_misses += 1,
        }
    }

    fn get_and_touch(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        exptime: i64,
        with_cas: bool,
        out: &mut Vec<u8>,
    ) {
        self.commands.cmd_touch += 1;
        match self.shard.get_and_touch(now, request.key, expiry_of(exptime, now)) {
            Some(item) => {
                self.commands.touch_hits += 1;
                self.commands.get_hits += 1;
                append_value(out, request.key, &item, with_cas);
            }
            None => {
                self.commands.touch_misses += 1;
                self.commands.get_misses += 1;
            }
        }
    }

    fn store(&mut self, now: Seconds, store: &Store<'_>, out: &mut Vec<u8>) {
        match self.count_store(now, store) {
            StoreOutcome::Stored { .. } => reply::stored(out),
            StoreOutcome::NotStored => reply::not_stored(out),
            StoreOutcome::Exists => reply::exists(out),
            StoreOutcome::NotFound => reply::not_found(out),
            StoreOutcome::TooLarge => reply::error(out, ErrorReply::TooLarge),
            StoreOutcome::NoMemory => reply::error(out, ErrorReply::OutOfMemoryStoring),
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

    fn store_too_large(&mut self, now: Seconds, key: &[u8], removes: bool, out: &mut Vec<u8>) {
        self.commands.store_too_large += 1;
        if removes {
            self.shard.delete(now, &removal(key));
        }
        reply::error(out, ErrorReply::TooLarge);
    }

    fn delete(&mut self, now: Seconds, key: &[u8], out: &mut Vec<u8>) {
        match self.count_delete(now, &removal(key)) {
            DeleteOutcome::Deleted => reply::deleted(out),
            DeleteOutcome::NotFound | DeleteOutcome::Exists => reply::not_found(out),
        }
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

    fn arithmetic(&mut self, now: Seconds, key: &[u8], decrement: bool, delta: u64, out: &mut Vec<u8>) {
        let arithmetic = Arithmetic {
            key,
            delta,
            decrement,
            compare: None,
            explicit_cas: None,
            touch: None,
            vivify: None,
            binary_key: false,
        };
        match self.count_arithmetic(now, &arithmetic) {
            ArithmeticOutcome::Value { value, .. } => reply::number(out, value),
            ArithmeticOutcome::NotFound => reply::not_found(out),
            ArithmeticOutcome::NonNumeric => reply::error(out, ErrorReply::NonNumericValue),
            ArithmeticOutcome::Exists => reply::exists(out),
            ArithmeticOutcome::NoMemory => reply::error(out, ErrorReply::OutOfMemory),
        }
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

    fn touch(&mut self, now: Seconds, key: &[u8], expiry: Expiry, out: &mut Vec<u8>) {
        self.commands.cmd_touch += 1;
        match self.shard.touch(now, key, expiry) {
            Some(_) => {
                self.commands.touch_hits += 1;
                reply::touched(out);
            }
            None => {
                self.commands.touch_misses += 1;
                reply::not_found(out);
            }
        }
    }

    fn meta_get(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        key: &[u8],
        flags: &MetaFlags,
        out: &mut Vec<u8>,
    ) {
        let fetch = Fetch {
            bump: !flags.has(b'u'),
            touch: flags.exptime.map(|exptime| expiry_of(exptime, now)),
            vivify: flags.vivify.map(|exptime| expiry_of(exptime, now)),
            recache_below: flags.recache.map(seconds_below),
            explicit_cas: flags.explicit_cas,
            binary_key: flags.base64(),
        };
        let fetched = self.shard.fetch(now, key, &fetch);
        let commands = &mut self.commands;
        let hit = matches!(fetched, Fetched::Hit { .. });
        if fetch.touch.is_some() {
            commands.cmd_touch += 1;
            *(if hit { &mut commands.touch_hits } else { &mut commands.touch_misses }) += 1;
        } else {
            commands.cmd_get += 1;
        }
        *(if hit { &mut commands.get_hits } else { &mut commands.get_misses }) += 1;
        match fetched {
            Fetched::Miss => reply::meta_status(out, request, MetaStatus::Miss, &MetaItem::default()),
            Fetched::NoMemory => reply::error(out, ErrorReply::OutOfMemory),
            Fetched::Hit { item, expiry_before, won, stale, token_sent } => {
                let shown = MetaItem { ttl_before: ttl_of(expiry_before, now), ..meta_item(&item, now) };
                if reply::meta_get(out, request, &shown, MetaWin { won, stale, token_sent }) {
                    item.value().copy_to(out);
                    out.extend_from_slice(reply::CRLF);
                }
            }
        }
    }

    fn meta_store(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        key: &[u8],
        flags: &MetaFlags,
        out: &mut Vec<u8>,
    ) {
        let store = Store {
            mode: engine_mode(flags.store_mode()),
            key,
            value: request.value,
            client_flags: flags.client_flags,
            expiry: expiry_of(flags.exptime.unwrap_or(0), now),
            compare: flags.compare,
            explicit_cas: flags.explicit_cas,
            invalidate: flags.has(b'I'),
            vivify: flags.vivify.map(|exptime| expiry_of(exptime, now)),
            binary_key: flags.base64(),
        };
        let sent = MetaItem { value_len: length(request.value.len()), ..MetaItem::default() };
        let (status, item) = match self.count_store(now, &store) {
            StoreOutcome::Stored { cas, value_len } => {
                (MetaStatus::Stored, MetaItem { cas, value_len: length(value_len), ..sent })
            }
            StoreOutcome::NotStored => (MetaStatus::NotStored, sent),
            StoreOutcome::Exists => (MetaStatus::Exists, sent),
            StoreOutcome::NotFound => (MetaStatus::NotFound, sent),
            StoreOutcome::TooLarge => return reply::error(out, ErrorReply::TooLarge),
            StoreOutcome::NoMemory => return reply::error(out, ErrorReply::OutOfMemoryStoring),
        };
        reply::meta_status(out, request, status, &item);
    }

    fn meta_delete(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        key: &[u8],
        flags: &MetaFlags,
        out: &mut Vec<u8>,
    ) {
        let touch = flags.exptime.map(|exptime| expiry_of(exptime, now));
        let mode = match (flags.has(b'x'), flags.has(b'I')) {
            (true, invalidate) => DeleteMode::DropValue { invalidate, touch },
            (false, true) => DeleteMode::Invalidate { touch },
            (false, false) => DeleteMode::Remove,
        };
        let delete = Delete { key, compare: flags.compare, mode, explicit_cas: flags.explicit_cas };
        let status = match self.count_delete(now, &delete) {
            DeleteOutcome::Deleted => MetaStatus::Stored,
            DeleteOutcome::NotFound => MetaStatus::NotFound,
            DeleteOutcome::Exists => MetaStatus::Exists,
        };
        reply::meta_status(out, request, status, &MetaItem::default());
    }

    fn meta_arithmetic(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        key: &[u8],
        flags: &MetaFlags,
        out: &mut Vec<u8>,
    ) {
        let arithmetic = Arithmetic {
            key,
            delta: flags.delta,
            decrement: flags.decrements(),
            compare: flags.compare,
            explicit_cas: flags.explicit_cas,
            touch: flags.exptime.map(|exptime| expiry_of(exptime, now)),
            vivify: flags.vivify.map(|exptime| (flags.initial, expiry_of(exptime, now))),
            binary_key: flags.base64(),
        };
        let status = match self.count_arithmetic(now, &arithmetic) {
            ArithmeticOutcome::Value { value, cas, expiry, .. } => {
                let ttl = ttl_of(expiry, now);
                let item = MetaItem { cas, ttl_before: ttl, ttl_after: ttl, ..MetaItem::default() };
                return reply::meta_arithmetic(out, request, &item, value);
            }
            ArithmeticOutcome::NotFound => MetaStatus::NotFound,
            ArithmeticOutcome::Exists => MetaStatus::Exists,
            ArithmeticOutcome::NonNumeric => return reply::error(out, ErrorReply::NonNumericValue),
            ArithmeticOutcome::NoMemory => return reply::error(out, ErrorReply::OutOfMemory),
        };
        reply::meta_status(out, request, status, &MetaItem::default());
    }

    fn meta_debug(&mut self, now: Seconds, request: &Request<'_>, key: &[u8], out: &mut Vec<u8>) {
        self.commands.cmd_meta += 1;
        match self.shard.peek(now, key) {
            Some(item) => reply::meta_debug(out, request, &meta_item(&item, now)),
            None => reply::meta_status(out, request, MetaStatus::Miss, &MetaItem::default()),
        }
    }
}

fn append_value(out: &mut Vec<u8>, key: &[u8], item: &Item<'_>, with_cas: bool) {
    let cas = with_cas.then(|| item.cas());
    reply::value_header(out, key, item.client_flags(), length(item.value_len()), cas);
    item.value().copy_to(out);
    out.extend_from_slice(reply::CRLF);
}

fn meta_item(item: &Item<'_>, now: Seconds) -> MetaItem {
    let ttl = ttl_of(item.expiry(), now);
    MetaItem {
        value_len: length(item.value_len()),
        client_flags: item.client_flags(),
        cas: item.cas(),
        ttl_before: ttl,
        ttl_after: ttl,
        fetched: item.fetched(),
        idle_seconds: item.idle_seconds(),
        class: u32::from(item.class().0),
        size: length(item.footprint_bytes()),
    }
}

fn removal(key: &[u8]) -> Delete<'_> {
    Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None }
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

/// A client's number of seconds; a negative one is none.
fn seconds_below(seconds: i64) -> u32 {
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an item is at most 1 GiB")
}
