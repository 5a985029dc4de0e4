//! What a command would make of an item, before anything is changed: it is executed on a bench beside the shard, a shard of its own
//! that holds this one item, if any, for as long as that takes. So every command of every protocol means what it means
//! without copies. What sets or removes a key whatever is there needs no bench: it says itself what comes of it. What only puts something to a
//! value needs none either: that is all that is said.

use anyhow::Context;
use slabring_cluster::replica::Side;
use slabring_engine::{Config, Delete, DeleteMode, Expiry, Image, Item, PolicyKind, Seconds, Shard, Store};
use slabring_protocol::{Command, Request, StoreMode};

use super::items::Kept;
use crate::execute::{Executor, store_of};
use crate::extending;
use crate::options::Settings;

/// Items of the largest size that the bench has room for: an item and its successor, each with what chunks of their class waste.
const BENCH_ITEMS: usize = 4;
/// A page of each size class.
const BENCH_BYTES_BEYOND_ITEMS: usize = 4 << 20;

/// What a command came to.
#[derive(Debug)]
pub enum Evaluated {
    /// Nothing changes, here and on the copies: the reply is all.
    Unchanged,
    /// The key is to have this item, or none.
    Changed(Option<Kept>),
    /// The request's value is put to that of the item with this CAS value.
    Extended {
        /// Not 0.
        base: u64,
        /// Where.
        side: Side,
        /// Bytes of the value afterwards.
        value_len: usize,
    },
    /// Nothing was executed: the bench has no room for the item. It has as long as no item is larger than what it was made for.
    NoRoom,
}

/// See the module.
pub struct Bench {
    executor: Executor,
    item_size_max: usize,
}

impl Bench {
    /// An empty one. Its memory is beside the shard's budget: room for four items of the largest size and 4 MiB is reserved, and
    /// taken as such items come.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        Self::of_items_up_to(settings.item_size_max)
    }

    fn of_items_up_to(item_size_max: usize) -> anyhow::Result<Self> {
        let config = Config {
            item_size_max,
            policy: PolicyKind::Clock,
            huge_pages: false,
            ..Config::with_memory(BENCH_ITEMS * item_size_max + BENCH_BYTES_BEYOND_ITEMS)
        };
        let shard = Shard::new(&config).context("cannot reserve memory to evaluate commands in")?;
        Ok(Self { executor: Executor::alone(shard), item_size_max })
    }

    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    pub fn executor_mut(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// Executes a request that may change the key's item in `shard`, which stays as it is, and which has admitted the fence that the
    /// request names: the bench knows of none. What the request makes has the CAS value `version`. The reply is appended.
    pub fn evaluate(
        &mut self,
        shard: &Shard,
        now: Seconds,
        request: &Request<'_>,
        key: &[u8],
        version: u64,
        out: &mut Vec<u8>,
    ) -> Evaluated {
        if let Some(kept) = set_anyway(now, request, key) {
            self.executor.reply_stored(request, version, kept.value_len(), out);
            return Evaluated::Changed(Some(kept));
        }
        let before = shard.peek(now, key);
        if let Some(item) = &before
            && let Some(side) = self.extends(now, item, request, key)
        {
            let value_len = item.value_len() + request.value.len();
            self.executor.reply_stored(request, version, value_len, out);
            return Evaluated::Extended { base: item.cas(), side, value_len };
        }
        if is_removal(request) {
            self.executor.reply_deleted(request, before.is_some(), out);
            return Evaluated::Changed(None);
        }
        let bench = self.executor.shard_mut();
        bench.fix_cas(version);
        if let Some(item) = before.filter(|_| !is_plain_set(request)) {
            let cas = if is_touch(request) { version } else { item.cas() };
            if !put(bench, now, &item, cas) {
                return Evaluated::NoRoom;
            }
        }
        self.executor.execute_admitted(now, request, key, out);
        let after = self.executor.shard().peek(now, key);
        let is_changed = match (&before, &after) {
            // The copies may have what was evicted here.
            (None, None) => removes(request),
            (Some(before), Some(after)) => after.cas() == version || differ(before, after),
            _ => true,
        };
        let kept = after.filter(|_| is_changed).map(|item| Kept::of(&item));
        // Also what is dead.
        let delete = Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
        self.executor.shard_mut().delete(now, &delete);
        if is_changed { Evaluated::Changed(kept) } else { Evaluated::Unchanged }
    }

    /// Where a request puts its value to that of an item, if it does, and nothing else of the item changes but its CAS value.
    fn extends(&self, now: Seconds, item: &Item<'_>, request: &Request<'_>, key: &[u8]) -> Option<Side> {
        if !extending::extends(&request.command) {
            return None;
        }
        let Store { mode, value, compare, binary_key, .. } = store_of(now, request, key);
        let side = if mode == slabring_engine::StoreMode::Prepend { Side::Front } else { Side::Back };
        let is_meant = compare.is_none_or(|cas| cas == 0 || cas == item.cas());
        let keeps_marks = !item.is_stale() && !item.is_token_sent() && item.is_binary_key() >= binary_key;
        let fits = item.value_len() + value.len() <= self.item_size_max;
        (is_meant && keeps_marks && fits && item.cas() != 0).then_some(side)
    }
}

/// Makes an item the bench's. False: it has no room, and no item of this key.
fn put(bench: &mut Shard, now: Seconds, item: &Item<'_>, cas: u64) -> bool {
    let mut copied = Vec::new();
    let value = item.value().as_slice().unwrap_or_else(|| {
        item.value().copy_to(&mut copied);
        &copied
    });
    let image = Image {
        key: item.key(),
        value,
        client_flags: item.client_flags(),
        expiry: item.expiry(),
        cas,
        stale: item.is_stale(),
        token_sent: item.is_token_sent(),
        binary_key: item.is_binary_key(),
        fetched: item.fetched(),
    };
    bench.put_image(now, &image)
}

/// Whether anything of an item is another's, but for its CAS value.
fn differ(one: &Item<'_>, other: &Item<'_>) -> bool {
    let rest = |item: &Item<'_>| {
        (item.client_flags(), item.expiry(), item.is_stale(), item.is_token_sent(), item.is_binary_key())
    };
    // To be fetched changes nothing; what was fetched and is not any more is a new item.
    let is_renewed = one.fetched() && !other.fetched();
    is_renewed
        || one.value_len() != other.value_len()
        || rest(one) != rest(other)
        || !bytes(one).eq(bytes(other))
}

fn bytes<'a>(item: &Item<'a>) -> impl Iterator<Item = u8> + use<'a> {
    item.value().chunks().flatten().copied()
}

/// Whether a request can change the key's item: if not, it only reads.
pub fn may_change(shard: &Shard, now: Seconds, request: &Request<'_>, key: &[u8]) -> bool {
    let numbers = match request.command {
        Command::Get { .. } | Command::MetaDebug(_) => return false,
        Command::MetaGet(_) => request.meta_numbers(),
        _ => return true,
    };
    let Some(item) = shard.peek(now, key) else {
        return numbers.creation_exptime().is_some() || removes(request);
    };
    let left = match item.expiry() {
        Expiry::At(at) => i64::from(at.0.saturating_sub(now.0)),
        Expiry::Never => i64::MAX,
    };
    let wins = item.is_stale() || numbers.recache.is_some_and(|seconds| left < seconds);
    numbers.exptime.is_some() || (wins && !item.is_token_sent())
}

/// Whether a request says which CAS value the item is to have.
pub fn names_cas(request: &Request<'_>) -> bool {
    match request.command {
        Command::MetaGet(_) | Command::MetaStore(_) | Command::MetaDelete(_) | Command::MetaArithmetic(_) => {
            request.meta_numbers().explicit_cas.is_some()
        }
        _ => false,
    }
}

/// Whether a write makes values invalid that clients have seen, rather than bring a new one.
pub fn invalidates(request: &Request<'_>) -> bool {
    let (mode, compare, marks) = match request.command {
        Command::Store { mode, compare, .. } => (mode, compare, false),
        Command::MetaStore(flags) => (flags.store_mode(), request.meta_numbers().compare, flags.has(b'I')),
        // To win the right to recache says nothing about the value.
        Command::MetaGet(_) => return request.meta_numbers().exptime.is_some(),
        _ => return true,
    };
    let brings = matches!(mode, StoreMode::Set | StoreMode::Add | StoreMode::Replace);
    !brings || compare.is_some() || marks
}

/// Whether a request ends whatever value a key has, be it one that this node does not have any more.
fn removes(request: &Request<'_>) -> bool {
    let brings = |mode| matches!(mode, StoreMode::Set | StoreMode::Add);
    match request.command {
        Command::Delete { .. } | Command::MetaDelete(_) => true,
        Command::Touch { exptime } | Command::GetAndTouch { exptime, .. } => exptime < 0,
        Command::MetaGet(_) => request.meta_numbers().exptime.is_some_and(|exptime| exptime < 0),
        // A value that is too large, or dead already.
        Command::Store { mode, .. } => brings(mode),
        Command::StoreTooLarge { removes } => removes,
        Command::MetaStore(flags) => brings(flags.store_mode()),
        _ => false,
    }
}

/// What a request sets a key to whatever is there; `None` where something else is to be known, or the value is dead already.
fn set_anyway(now: Seconds, request: &Request<'_>, key: &[u8]) -> Option<Kept> {
    if !is_plain_set(request) {
        return None;
    }
    let Store { value, client_flags, expiry, binary_key, .. } = store_of(now, request, key);
    let is_dead = matches!(expiry, Expiry::At(at) if at <= now);
    (!is_dead).then(|| Kept::brought(value, client_flags, expiry, binary_key))
}

/// Whether a request removes whatever is there.
fn is_removal(request: &Request<'_>) -> bool {
    match request.command {
        Command::Delete { compare } => compare.is_none(),
        Command::MetaDelete(flags) => {
            !flags.has(b'x') && !flags.has(b'I') && request.meta_numbers().compare.is_none()
        }
        _ => false,
    }
}

/// Whether it does not matter to a request what is there.
fn is_plain_set(request: &Request<'_>) -> bool {
    match request.command {
        Command::Store { mode: StoreMode::Set, compare: None, .. } => true,
        Command::MetaStore(flags) => {
            let marks = flags.has(b'I');
            flags.store_mode() == StoreMode::Set && !marks && request.meta_numbers().compare.is_none()
        }
        _ => false,
    }
}

/// Whether a request that finds an item changes it in any case, and not its value: its reply shows the version that comes of it.
fn is_touch(request: &Request<'_>) -> bool {
    matches!(request.command, Command::Touch { .. } | Command::GetAndTouch { .. } | Command::MetaGet(_))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};
    use slabring_cluster::placement::hash_key;
    use slabring_cluster::replica::{Delta, Store as _, Version};
    use slabring_cluster::time::Micros;
    use slabring_protocol::{KEY_SIZE_MAX, Limits, Parser, Step};

    use super::super::items::Items;
    use super::*;
    use crate::shards::{ShardId, Shards};

    const NOW: u32 = 1_700_000_000;
    const MEMORY_BYTES: usize = 4 << 20;

    /// A shard on which commands are executed, and one that is given what they come to.
    struct Pair {
        plain: Executor,
        copied: Executor,
        bench: Bench,
        now: Seconds,
        version: u64,
        /// Values that something was put to where they are.
        extended: usize,
    }

    impl Pair {
        fn new() -> Self {
            let executor = || Executor::alone(Shard::new(&Config::with_memory(MEMORY_BYTES)).unwrap());
            let bench = Bench { executor: executor(), item_size_max: 1 << 20 };
            Self {
                plain: executor(),
                copied: executor(),
                bench,
                now: Seconds(NOW),
                version: 1 << 60,
                extended: 0,
            }
        }

        fn check(&mut self, key: &str, line: &str) {
            let lines = [&self.plain, &self.copied].map(|executor| {
                let cas = executor.shard().peek(self.now, key.as_bytes()).map_or(0, |item| item.cas());
                line.replace("CAS", &cas.to_string())
            });
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            let now = self.now;
            self.plain.execute_unobserved(now, &request(&lines[0]), &mut expected);
            self.execute_copied(&lines[1], &mut got);
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected), "{line:?}");
            let items =
                [&self.plain, &self.copied].map(|executor| executor.shard().peek(now, key.as_bytes()));
            match items {
                [None, None] => {}
                [Some(plain), Some(copied)] => {
                    let is_same = plain.fetched() == copied.fetched() && !differ(&plain, &copied);
                    assert!(is_same, "{line:?}: {plain:?}, {copied:?}");
                }
                items => panic!("{line:?}: {items:?}"),
            }
            assert_eq!(self.bench.executor.shard().counters().items, 0);
        }

        fn execute_copied(&mut self, line: &str, out: &mut Vec<u8>) {
            let request = request(line);
            let mut scratch = [0; KEY_SIZE_MAX];
            let key = request.decoded_key(&mut scratch);
            let seen = |shard: &Shard, now| {
                shard.peek(now, key).map(|item| (item.value_len(), item.cas(), item.expiry()))
            };
            let before = seen(self.copied.shard(), self.now);
            if !may_change(self.copied.shard(), self.now, &request, key) {
                self.copied.execute_unobserved(self.now, &request, out);
                let after = seen(self.copied.shard(), self.now);
                return assert_eq!(after, before, "{line:?} only reads");
            }
            self.version += 1;
            let shard = self.copied.shard();
            let kept = match self.bench.evaluate(shard, self.now, &request, key, self.version, out) {
                Evaluated::Unchanged => return,
                Evaluated::Changed(kept) => kept,
                Evaluated::Extended { base, side, .. } => return self.extend(key, base, side, request.value),
                Evaluated::NoRoom => panic!("{line:?}: no room on the bench"),
            };
            let shard = self.copied.shard_mut();
            match kept {
                Some(kept) => assert!(shard.put_image(self.now, &kept.image(key, self.version))),
                None => {
                    let delete = Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
                    shard.delete(self.now, &delete);
                }
            }
        }
    }

    impl Pair {
        fn extend(&mut self, key: &[u8], base: u64, side: Side, bytes: &[u8]) {
            let (base, version) = (Version(base), Version(self.version));
            let delta =
                Delta { key: key.into(), hash: hash_key(key), version, base, side, bytes: bytes.into() };
            let shards = Shards { count: 1, me: ShardId(0) };
            let mut items = Items::new(self.copied.shard_mut(), self.now, 0, shards);
            assert!(items.extend(Micros(0), &delta) && items.settle());
            self.extended += 1;
        }
    }

    fn request(line: &str) -> Request<'_> {
        request_within(line, &Limits::default())
    }

    fn request_within<'a>(line: &'a str, limits: &Limits) -> Request<'a> {
        match Parser::default().next(line.as_bytes(), limits) {
            Step::Request { request, .. } => request,
            other => panic!("{line:?} is {other:?}"),
        }
    }

    fn any_line(random: &mut SmallRng, key: &str) -> String {
        let values = ["", "1", "17", "18446744073709551615", "text", &"x".repeat(40_000)];
        let value = values[random.random_range(0..values.len())];
        let size = value.len();
        let time = [0, 0, 2, 100, -1][random.random_range(0..5)];
        let cas = ["CAS", "CAS", "0", "1"][random.random_range(0..4)];
        let (flags, verb) = (
            random.random_range(0..3),
            ["set", "add", "replace", "append", "prepend"][random.random_range(0..5)],
        );
        let mode = ["S", "E", "R", "A", "P"][random.random_range(0..5)];
        match random.random_range(0..16) {
            0..4 => format!("{verb} {key} {flags} {time} {size}\r\n{value}\r\n"),
            4 => format!("cas {key} {flags} {time} {size} {cas}\r\n{value}\r\n"),
            5 => format!("delete {key}\r\n"),
            6 => format!("incr {key} 7\r\n"),
            7 => format!("decr {key} 7\r\n"),
            8 => format!("touch {key} {time}\r\n"),
            9 => format!("gat {time} {key}\r\n"),
            10 => format!("ms {key} {size} T{time} F{flags} M{mode} N50 I C{cas} s\r\n{value}\r\n"),
            11 => format!("ms {key} {size} T{time} M{mode} s f\r\n{value}\r\n"),
            12 => format!("md {key} I T{time}{}\r\n", ["", " x", " CCAS"][random.random_range(0..3)]),
            13 => format!("md {key} x{}\r\n", ["", " C1", " CCAS"][random.random_range(0..3)]),
            14 => format!(
                "ma {key} N{time} J5 D3 t v{}\r\n",
                ["", " T30", " MD", " CCAS"][random.random_range(0..4)]
            ),
            _ => format!(
                "mg {key} v f t s{}\r\n",
                ["", " N30", " R50", " T90", " N10 R99 T9", " u"][random.random_range(0..6)]
            ),
        }
    }

    #[test]
    fn a_command_comes_to_the_same_on_the_bench_as_on_the_shard() {
        let (mut hits, mut misses, mut extended) = (0, 0, 0);
        for seed in 0..20 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut pair = Pair::new();
            for _ in 0..2_000 {
                let key = format!("key{}", random.random_range(0..4));
                let line = any_line(&mut random, &key);
                pair.check(&key, &line);
                pair.now.0 += u32::from(random.random_bool(0.1));
                let is_there = pair.plain.shard().peek(pair.now, key.as_bytes()).is_some();
                *(if is_there { &mut hits } else { &mut misses }) += 1;
            }
            extended += pair.extended;
        }
        assert!(
            hits > 5_000 && misses > 5_000 && extended > 1_000,
            "{hits} of {misses}, {extended} extended"
        );
    }

    #[test]
    fn what_ends_a_value_ends_it_on_the_copies_also_where_nothing_was_found() {
        let ends = [
            "delete k\r\n",
            "delete k noreply\r\n",
            "md k\r\n",
            "md k q\r\n",
            "md k I T30\r\n",
            "md k C7\r\n",
            "touch k -1\r\n",
            "gat -1 k\r\n",
            "mg k T-1\r\n",
            "mg k v q T-1\r\n",
            "set k 0 -1 1\r\n1\r\n",
            "ms k 1 T-1\r\n1\r\n",
        ];
        let leave =
            ["touch k 1\r\n", "gat 1 k\r\n", "mg k T1\r\n", "incr k 1\r\n", "replace k 0 0 1\r\n1\r\n"];
        let mut pair = Pair::new();
        let mut outcome = |line: &str| {
            let shard = pair.copied.shard();
            pair.bench.evaluate(shard, pair.now, &request(line), b"k", 1 << 60, &mut Vec::new())
        };
        for line in ends {
            let request = request(line);
            assert!(may_change(
                &Shard::new(&Config::with_memory(MEMORY_BYTES)).unwrap(),
                Seconds(NOW),
                &request,
                b"k"
            ));
            assert!(matches!(outcome(line), Evaluated::Changed(None)), "{line:?}");
        }
        for line in leave {
            assert!(matches!(outcome(line), Evaluated::Unchanged), "{line:?}");
        }
    }

    #[test]
    fn a_bench_has_room_for_any_item_after_items_of_all_sizes() {
        for item_size_max in [1 << 20, 8 << 20] {
            let mut bench = Bench::of_items_up_to(item_size_max).unwrap();
            let config = Config { item_size_max, ..Config::with_memory(4 * item_size_max) };
            let mut shard = Shard::new(&config).unwrap();
            // Each size class, and then chains of chunks of the largest.
            let grown = |&len: &usize| Some(if len < 64 << 10 { len + len / 20 + 1 } else { len * 2 });
            let sizes = std::iter::successors(Some(1), grown);
            let sizes = sizes.take_while(|&len| len < item_size_max).chain([item_size_max; 4]);
            for (version, len) in (1_u64 << 60..).zip(sizes) {
                let value = vec![1; len];
                shard.store(Seconds(NOW), &Store::set(b"k", &value, Expiry::Never));
                assert!(shard.peek(Seconds(NOW), b"k").is_some_and(|item| item.value_len() == len));
                // One item, and two: a copy, and one that takes its place.
                let replace = format!("replace k 0 0 {len}\r\n{}\r\n", "2".repeat(len));
                for line in ["touch k 100\r\n", &replace] {
                    let request = request_within(line, &Limits { item_size_max: u32::MAX });
                    let mut reply = Vec::new();
                    let came_to = bench.evaluate(&shard, Seconds(NOW), &request, b"k", version, &mut reply);
                    let is_changed = matches!(came_to, Evaluated::Changed(Some(_)));
                    assert!(is_changed, "{:?} of {len} bytes", request.command);
                }
            }
        }
    }

    #[test]
    fn an_item_that_the_bench_has_no_room_for_is_an_answer_and_no_panic() {
        let mut pair = Pair::new();
        let config = Config { item_size_max: 10, ..Config::with_memory(MEMORY_BYTES) };
        pair.bench.executor = Executor::alone(Shard::new(&config).unwrap());
        pair.copied.shard_mut().store(Seconds(NOW), &Store::set(b"k", &[1; 11], Expiry::Never));
        let mut reply = Vec::new();
        let (shard, touch) = (pair.copied.shard(), request("touch k 100\r\n"));
        let came_to = pair.bench.evaluate(shard, pair.now, &touch, b"k", 1 << 60, &mut reply);
        assert!(matches!(came_to, Evaluated::NoRoom) && reply.is_empty(), "{came_to:?}");
        assert_eq!(pair.bench.executor.shard().counters().items, 0);
    }

    #[test]
    fn the_bench_asks_for_no_fence() {
        let mut pair = Pair::new();
        // Fences go down from key to key: whatever few numbers the bench would keep in place of many would refuse the next.
        for n in (1..=20_000).rev() {
            let line = format!("ms key{n} 1 Y{n} I\r\n1\r\n");
            let mut reply = Vec::new();
            pair.version += 1;
            let request = request(&line);
            let key = format!("key{n}");
            let shard = pair.copied.shard();
            pair.bench.evaluate(shard, pair.now, &request, key.as_bytes(), pair.version, &mut reply);
            assert_eq!(reply, b"HD\r\n", "{line:?}");
        }
    }

    #[test]
    fn a_value_that_a_client_brings_invalidates_nothing() {
        let brings = ["set k 0 0 1\r\n1\r\n", "add k 0 0 1\r\n1\r\n", "ms k 1\r\n1\r\n", "mg k v N30\r\n"];
        let invalidate = [
            "delete k\r\n",
            "touch k 1\r\n",
            "incr k 1\r\n",
            "append k 0 0 1\r\n1\r\n",
            "cas k 0 0 1 5\r\n1\r\n",
            "md k I\r\n",
            "mg k T1\r\n",
            "gat 1 k\r\n",
        ];
        assert!(!brings.iter().any(|line| invalidates(&request(line))));
        assert!(invalidate.iter().all(|line| invalidates(&request(line))));
    }
}
