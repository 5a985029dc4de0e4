//! The one place where a protocol's request becomes an operation of the engine, and its outcome a reply. The classic and
//! the binary commands are in `classic.rs`, the meta commands in `meta.rs`; what an outcome adds to the numbers is in `counters.rs`.
//! Whoever else is to hear of a request is in `samples.rs` and `audience.rs`, what large values leave behind in `lent.rs`, and what
//! is asked of the shard as a whole in `questions.rs`.
//!
//! It runs on the shard that owns the key, whichever connection and shard the request came from. It decides nothing
//! about connections and makes no system call.

mod audience;
mod classic;
mod counters;
mod lent;
mod meta;
mod questions;
mod samples;

use slabring_cluster::touches::Touches;
use slabring_engine::{
    CLASSES_MAX, Extension, KeyHash, Seconds, Shard, Store, StoreMode as EngineMode, StoreOutcome,
};
use slabring_protocol::reply::{self, MetaItem, MetaStatus, Outcome};
use slabring_protocol::{Command, ErrorReply, KEY_SIZE_MAX, MetaFlags, Plain, PlainWork, Request, StoreMode};
use slabring_reactor::IoCounters;

use crate::attention::Attention;
use crate::batch::{Deferring, ReturnAddress};
use crate::cluster::old::Old;
use crate::exptime::expiry_of;
use crate::extending::Extending;
use crate::front::Front;
use crate::hotkeys::HotKeys;
use crate::intake::Visitor;
use crate::lending::{Lent, Loans};
use crate::node::Node;
use crate::prefixes::Prefixes;
use crate::replication::{Executed, Replication, WaitId, Waiter};
use crate::report::{ByClass, ClassCounters, CommandCounters, Traffic};
use crate::shards::{ShardId, Shards};
use crate::track::Tracking;
use crate::turns::Turns;
use crate::watch::WatchLog;

/// Chunks looked at in a step towards a lower limit on memory: a quarter of a millisecond.
const SETTLE_CHUNKS: usize = 1024;

/// Who asks, as far as that matters to what is executed where items have copies.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The number by which people know the connection.
    pub connection: u32,
    /// A client of this node: the number of a tracker that it names means something here.
    pub is_local: bool,
}

/// A shard with its counters.
///
/// Who comes in where: plain requests of a pipeline or a letter by [`Executor::execute_plain`] and [`Executor::get_lending`]; any others of
/// this node's clients by [`Executor::execute_lending`], or by [`Executor::execute`] where nothing can be lent, as to datagrams and other
/// nodes, whose plain gets come by [`Executor::get_whole`]. Where a request may have to wait for other nodes
/// ([`Executor::asks_others`]), all of them come by [`Executor::execute_copied`].
pub struct Executor {
    shard: Shard,
    commands: CommandCounters,
    by_class: Box<ByClass>,
    /// Which requests are looked at.
    attention: Attention,
    hot_keys: HotKeys,
    /// A request for this key was a sample, and the key is hot: its hash.
    hot_sample: Option<u64>,
    /// Sampled reads, where items have copies that are to hear of them.
    touches: Option<Box<Touches>>,
    /// Who has copies of values.
    tracking: Tracking,
    me: ShardId,
    /// Somebody wants to be told of requests beside who sent them.
    observed: bool,
    watch_log: WatchLog,
    /// Counts by prefix, while somebody wants them.
    prefixes: Option<Prefixes>,
    prefix_delimiter: u8,
    /// What a get of [`DISCOVERY_KEY`](crate::discovery::DISCOVERY_KEY) is told.
    discovery: Vec<u8>,
    /// A client wants all of the shard swept.
    sweep_wanted: bool,
    /// Items have still to go for a lower limit on memory.
    settling: bool,
    /// A large value need not be copied into the reply: it may be left in `lent`.
    lends: bool,
    /// What is executed without lending is asked by a client of this node all the same.
    is_local: bool,
    lent: Option<Box<(usize, Lent)>>,
    /// Copies on other nodes, if the ring says that there are any.
    pub replication: Option<Box<Replication>>,
    /// Copies of hot keys, if the node is one of several.
    pub front: Option<Box<Front>>,
    /// Other nodes may read copies of some keys, or requests wait for that.
    is_guarded: bool,
    /// Values of clients of this shard that are taken in where they will lie.
    pub values_open: usize,
    /// Replies that other shards have made later than in their letters, for connections of this one.
    pub deliveries: Vec<(ReturnAddress, Vec<u8>)>,
    /// What is lent.
    pub loans: Loans,
    /// Connections of other shards that have to wait until a large value can be lent or taken in, who came first before: nothing of
    /// them is executed but in order.
    pub deferring: Vec<Deferring>,
    /// Values that come from connections of other shards.
    pub visitors: Vec<Visitor>,
    /// Long values that are being extended.
    pub extending: Vec<Extending>,
    /// One that is ready for the request that is executed next.
    pub extended: Option<Box<Extension>>,
    /// The thread's own part of a report.
    pub traffic: Traffic,
    /// The reactor's part of a report, as of the last turn.
    pub io: IoCounters,
    /// How long its turns take.
    pub turns: Turns,
}

impl Executor {
    /// An executor on a fresh shard of `node`.
    pub fn new(shard: Shard, shards: Shards, node: &Node) -> Self {
        let mut executor = Self::with_log(shard, WatchLog::new(node.clock.clone(), shards));
        executor.me = shards.me;
        executor.front = node.cluster.as_ref().map(|cluster| Box::new(Front::new(cluster)));
        executor.prefix_delimiter = node.settings.prefix_delimiter;
        executor.discovery = node.discovery.value().to_vec();
        if node.settings.detail_enabled {
            executor.set_counting(true);
        }
        executor
    }

    fn with_log(shard: Shard, watch_log: WatchLog) -> Self {
        let (commands, traffic, io) = Default::default();
        let memory_bytes = shard.memory().limit;
        // The hash is keyed anew in each process.
        let seed = shard.hash(b"attention");
        Self {
            attention: Attention::new(seed),
            hot_keys: HotKeys::default(),
            hot_sample: None,
            touches: None,
            tracking: Tracking::new(memory_bytes),
            me: ShardId(0),
            shard,
            commands,
            by_class: Box::new([ClassCounters::default(); CLASSES_MAX]),
            observed: false,
            watch_log,
            prefixes: None,
            prefix_delimiter: b':',
            discovery: Vec::new(),
            sweep_wanted: false,
            settling: false,
            lends: false,
            is_local: false,
            lent: None,
            replication: None,
            front: None,
            is_guarded: false,
            values_open: 0,
            deliveries: Vec::new(),
            loans: Loans::default(),
            deferring: Vec::new(),
            visitors: Vec::new(),
            extending: Vec::new(),
            extended: None,
            traffic,
            io,
            turns: Turns::default(),
        }
    }

    /// An executor without a node around it: nobody watches.
    pub fn alone(shard: Shard) -> Self {
        let shards = Shards { count: 1, me: crate::shards::ShardId(0) };
        Self::with_log(shard, WatchLog::new(slabring_reactor::clock::Clock::start(), shards))
    }

    /// What a get of the key that older clients ask for the nodes is told from here on.
    pub fn set_discovery(&mut self, value: &[u8]) {
        self.discovery = value.to_vec();
    }

    /// The engine.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The engine.
    pub fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// The engine, and whom to tell of changes, if anybody wants to hear of them.
    pub fn shard_and_tracking(&mut self) -> (&mut Shard, Option<&mut Tracking>) {
        (&mut self.shard, Some(&mut self.tracking).filter(|tracking| tracking.is_active()))
    }

    /// The engine, at the end.
    pub fn into_shard(self) -> Shard {
        self.shard
    }

    /// A step towards a lower limit on memory, if there is one. True if more are to come.
    pub fn settle(&mut self, now: Seconds) -> bool {
        if self.settling {
            self.settling = self.shard.maintain(now, SETTLE_CHUNKS);
        }
        self.settling
    }

    /// Commands so far.
    pub fn commands(&self) -> &CommandCounters {
        &self.commands
    }

    /// Whether all of the shard is to be swept at once. Asking settles it.
    pub fn take_sweep_wanted(&mut self) -> bool {
        std::mem::take(&mut self.sweep_wanted)
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

    /// Executes a request with a key and appends the reply, if there is one. `connection` is the number by which people know
    /// who asks.
    #[inline]
    pub fn execute(&mut self, now: Seconds, request: &Request<'_>, connection: u32, out: &mut Vec<u8>) {
        if self.attention.looks() {
            self.execute_and_look(now, request, connection, out);
        } else {
            self.execute_unobserved(now, request, out);
        }
    }

    #[cold]
    #[inline(never)]
    fn execute_and_look(&mut self, now: Seconds, request: &Request<'_>, connection: u32, out: &mut Vec<u8>) {
        let is_sample = self.attention.is_sample();
        if is_sample {
            let mut scratch = [0; KEY_SIZE_MAX];
            let key = request.decoded_key(&mut scratch);
            self.sample(request, key);
        }
        let hits_before = self.commands.get_hits;
        if self.observed {
            self.execute_observed(now, request, connection, out);
        } else {
            self.execute_unobserved(now, request, out);
        }
        if is_sample && self.commands.get_hits > hits_before {
            self.note_touch(request.decoded_key(&mut [0; KEY_SIZE_MAX]));
        }
        self.note_write(request);
    }

    /// Whether values are on their way to where they will lie: they become items without asking anybody.
    pub fn has_open_values(&self) -> bool {
        self.values_open > 0 || !self.visitors.is_empty() || !self.extending.is_empty()
    }

    /// Whether a write may have to wait for other nodes that read copies: see [`Executor::asks_others`].
    #[inline]
    pub fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// From here on it may.
    pub fn set_guarded(&mut self) {
        self.is_guarded = true;
    }

    /// It need not any more.
    pub fn end_guard(&mut self) {
        self.is_guarded = false;
    }

    /// Whether items have copies on other nodes: then requests are executed by [`Executor::execute_copied`].
    #[inline]
    pub fn replicates(&self) -> bool {
        self.replication.is_some()
    }

    /// As [`Executor::execute`], where items have copies on other nodes.
    pub fn execute_copied(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        asker: Asker,
        out: &mut Vec<u8>,
    ) -> Executed {
        let Some(mut replication) = self.replication.take() else {
            return self.execute_guarded(now, request, asker, out);
        };
        let executed = replication.execute(self, now, request, asker, out);
        self.replication = Some(replication);
        executed
    }

    /// Answers gets of items that have copies on other nodes: see [`Replication::get_together`].
    pub fn get_copied<'k>(
        &mut self,
        now: Seconds,
        keys: impl Iterator<Item = (&'k [u8], KeyHash)>,
        connection: u32,
        out: &mut Vec<u8>,
    ) -> usize {
        let replication = self.replication.take().expect("only who has copies asks");
        let done = replication.get_together(self, now, keys, connection, out);
        self.replication = Some(replication);
        done
    }

    /// As [`Executor::execute`], for one of whom more is known.
    pub fn execute_for(&mut self, now: Seconds, request: &Request<'_>, asker: Asker, out: &mut Vec<u8>) {
        self.is_local = asker.is_local;
        self.execute(now, request, asker.connection, out);
        self.is_local = false;
    }

    /// Says who waits for the reply to a request that was executed so.
    pub fn attend(&mut self, id: WaitId, waiter: Waiter) {
        match &mut self.replication {
            Some(replication) => replication.attend(id, waiter),
            None => self.front.as_mut().expect("it has made the request wait").attend(id, waiter),
        }
    }

    /// As [`Executor::execute`], but a large value may be lent in place of copying it: then it belongs at that place of `out`.
    #[inline]
    pub fn execute_lending(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        connection: u32,
        out: &mut Vec<u8>,
    ) -> Option<Box<(usize, Lent)>> {
        self.lends = true;
        self.execute(now, request, connection, out);
        self.lends = false;
        self.lent.take()
    }

    /// As [`Executor::execute_lending`], for a get of lines whose key has this hash in the shard.
    #[inline]
    pub fn get_lending(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        hash: KeyHash,
        connection: u32,
        out: &mut Vec<u8>,
    ) -> Option<Box<(usize, Lent)>> {
        self.lends = true;
        if self.attention.looks() {
            self.execute_and_look(now, request, connection, out);
        } else {
            self.get(now, request, hash, out);
        }
        self.lends = false;
        self.lent.take()
    }

    /// As [`Executor::execute`], for a get of lines whose key has this hash in the shard.
    #[inline]
    pub fn get_whole(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        hash: KeyHash,
        connection: u32,
        out: &mut Vec<u8>,
    ) {
        if self.attention.looks() {
            self.execute_and_look(now, request, connection, out);
        } else {
            self.get(now, request, hash, out);
        }
    }

    /// Answers the get of a line of one key, with the line's end, and copies the value however large it is.
    #[inline]
    pub fn get_line(&mut self, now: Seconds, key: &[u8], hash: KeyHash, connection: u32, out: &mut Vec<u8>) {
        if self.attention.looks() {
            self.execute_and_look(now, &Request::get(key, false), connection, out);
            reply::end(out);
        } else if let Some(lent) = self.get_plain(now, key, hash, out) {
            let (place, mut lent) = *lent;
            let behind = out.split_off(place);
            lent.copy_to(&self.shard, usize::MAX, out);
            lent.give_back(&mut self.shard);
            out.extend_from_slice(&behind);
        }
    }

    /// Executes a plain request whose key has this hash in the shard, as [`Executor::execute_lending`] would, with the end of the
    /// line of a get.
    #[inline]
    pub fn execute_plain(
        &mut self,
        now: Seconds,
        plain: &Plain<'_>,
        hash: KeyHash,
        connection: u32,
        out: &mut Vec<u8>,
    ) -> Option<Box<(usize, Lent)>> {
        if self.attention.looks() {
            return self.look_at_plain(now, plain, connection, out);
        }
        match plain.work {
            PlainWork::Get => self.get_plain(now, plain.key, hash, out),
            PlainWork::Set { client_flags, exptime, value } => {
                let set = Store { client_flags, ..Store::set(plain.key, value, expiry_of(exptime, now)) };
                self.set_plain(now, plain, hash, &set, out);
                None
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn look_at_plain(
        &mut self,
        now: Seconds,
        plain: &Plain<'_>,
        connection: u32,
        out: &mut Vec<u8>,
    ) -> Option<Box<(usize, Lent)>> {
        self.lends = true;
        self.execute_and_look(now, &plain.request(), connection, out);
        self.lends = false;
        if plain.work == PlainWork::Get {
            reply::end(out);
        }
        self.lent.take()
    }

    /// What others have owned meanwhile goes.
    pub fn drop_old(&mut self, old: &Old) {
        old.drop_from(&mut self.shard);
        self.tracking.flushed(None);
    }

    /// As [`Executor::execute`], telling nobody else.
    pub fn execute_unobserved(&mut self, now: Seconds, request: &Request<'_>, out: &mut Vec<u8>) {
        // Most requests are gets, and their keys are never encoded.
        if let Command::Get { .. } = request.command {
            return self.get(now, request, self.shard.hash_of(request.key), out);
        }
        let mut scratch = [0; KEY_SIZE_MAX];
        let key = request.decoded_key(&mut scratch);
        if !self.admits(request, key) {
            return refuse_fence(request, request.value.len(), out);
        }
        self.execute_admitted(now, request, key, out);
    }

    /// As [`Executor::execute_unobserved`], whatever fence the request names: it has been asked for. `key` is the decoded one.
    pub fn execute_admitted(&mut self, now: Seconds, request: &Request<'_>, key: &[u8], out: &mut Vec<u8>) {
        match request.command {
            Command::Get { .. } => self.get(now, request, self.shard.hash_of(request.key), out),
            Command::GetAndTouch { exptime, .. } => self.get_and_touch(now, request, exptime, out),
            Command::Store { .. } | Command::MetaStore(_) => {
                let outcome = self.count_store(now, &store_of(now, request, key));
                reply_to_store(request, request.value.len(), outcome, out);
            }
            Command::StoreTooLarge { removes } => self.store_too_large(now, request, key, removes, out),
            Command::Delete { compare } => self.delete(now, request, compare, out),
            Command::Arithmetic { .. } => self.arithmetic(now, request, out),
            Command::Touch { exptime } => self.touch(now, request, exptime, out),
            Command::MetaGet(flags) => self.meta_get(now, request, key, &flags, out),
            Command::MetaDelete(flags) => self.meta_delete(now, request, key, &flags, out),
            Command::MetaArithmetic(flags) => self.meta_arithmetic(now, request, key, &flags, out),
            Command::MetaDebug(_) => self.meta_debug(now, request, key, out),
            command => unreachable!("{command:?} has no key and no owner"),
        }
    }

    /// Whether a request may write its key under the fence it names, if it names one. Each is asked once: it raises what the next must
    /// name.
    #[inline]
    pub fn admits(&mut self, request: &Request<'_>, key: &[u8]) -> bool {
        fence_named(request).is_none_or(|fence| self.shard.admit_fence(key, fence))
    }
}

/// What a store command asks of the engine, with its value.
pub fn store_of<'a>(now: Seconds, request: &Request<'a>, key: &'a [u8]) -> Store<'a> {
    match request.command {
        Command::Store { mode, client_flags, exptime, compare } => Store {
            mode: engine_mode(mode),
            client_flags,
            compare,
            ..Store::set(key, request.value, expiry_of(exptime, now))
        },
        Command::MetaStore(flags) => {
            let numbers = request.meta_numbers();
            Store {
                mode: engine_mode(flags.store_mode()),
                key,
                value: request.value,
                client_flags: numbers.client_flags,
                expiry: expiry_of(numbers.exptime.unwrap_or(0), now),
                compare: numbers.compare,
                explicit_cas: numbers.explicit_cas,
                invalidate: flags.has(b'I'),
                vivify: numbers.vivify.map(|exptime| expiry_of(exptime, now)),
                binary_key: flags.base64(),
            }
        }
        command => unreachable!("{command:?} stores nothing"),
    }
}

/// Whether a command may change what a get of its key tells.
fn may_write(request: &Request<'_>) -> bool {
    match request.command {
        Command::Get { .. } | Command::MetaDebug(_) => false,
        Command::MetaGet(_) => {
            let numbers = request.meta_numbers();
            numbers.exptime.is_some() || numbers.vivify.is_some()
        }
        _ => true,
    }
}

/// The fence that a request names.
#[inline]
pub fn fence_named(request: &Request<'_>) -> Option<u64> {
    match &request.command {
        Command::MetaStore(flags) | Command::MetaDelete(flags) | Command::MetaArithmetic(flags)
            if flags.has(b'Y') =>
        {
            request.meta_numbers().fence
        }
        // Who has lost its lock may not remove what another has written since.
        Command::StoreTooLarge { removes: true } => MetaFlags::fence_of(request.flags),
        _ => None,
    }
}

/// Answers a request that names a lower fence than another before it, with a value of so many bytes.
#[cold]
pub fn refuse_fence(request: &Request<'_>, value_bytes: usize, out: &mut Vec<u8>) {
    if let Command::StoreTooLarge { .. } = request.command {
        return reply::outcome(out, request, Outcome::Refused(ErrorReply::TooLarge));
    }
    let item = MetaItem { value_len: length(value_bytes), ..MetaItem::default() };
    reply::meta_status(out, request, MetaStatus::Exists, &item);
}

/// Answers a store command that brought a value of so many bytes.
pub fn reply_to_store(request: &Request<'_>, value_bytes: usize, outcome: StoreOutcome, out: &mut Vec<u8>) {
    match request.command {
        Command::MetaStore(_) => meta::reply_to_store(request, value_bytes, outcome, out),
        _ => classic::reply_to_store(request, outcome, out),
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

/// A length as replies show it.
pub fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an item is at most 1 GiB")
}

#[cfg(test)]
mod tests;
