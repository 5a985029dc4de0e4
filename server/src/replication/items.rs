//! The engine's shard as the store that replication asks for. Translates seconds to die in into moments and back, and marks into
//! bits; decides nothing.

use std::cell::Cell;
use std::collections::BTreeMap;

use slabring_cluster::placement::{PartitionId, hash_key, partition_of};
use slabring_cluster::replica::{
    Bytes, Content, Cursor, Delta, Fences, Portion, Record, Side, Store, Version,
};
use slabring_cluster::time::Micros;
use slabring_engine::{
    Delete, DeleteMode, Expiry, Image, Item, Scan, ScanStep, Seconds, Shard, StoreMode, StoreOutcome,
};

use crate::cluster::old::group_of;
use crate::shards::Shards;
use crate::track::Tracking;

const STALE: u8 = 1;
const TOKEN_SENT: u8 = 1 << 1;
const BINARY_KEY: u8 = 1 << 2;
const FETCHED: u8 = 1 << 3;

/// Buckets of the index that a step of a walk looks at: some hundred items.
const SCAN_BUCKETS: usize = 32;
const MICROS_PER_SECOND: u64 = 1_000_000;

/// An item but for its key and version, with its death as the engine says it.
#[derive(Debug)]
pub struct Kept {
    value: Bytes,
    client_flags: u32,
    marks: u8,
    expiry: Expiry,
}

impl Kept {
    /// All of an item.
    pub fn of(item: &Item<'_>) -> Self {
        let value = item.value().as_slice().map_or_else(
            || {
                let mut value = Vec::with_capacity(item.value_len());
                item.value().copy_to(&mut value);
                value.into()
            },
            Bytes::from,
        );
        Self { value, client_flags: item.client_flags(), marks: marks_of(item), expiry: item.expiry() }
    }

    /// What a client brings, without any mark but this.
    pub fn brought(value: &[u8], client_flags: u32, expiry: Expiry, binary_key: bool) -> Self {
        let marks = if binary_key { BINARY_KEY } else { 0 };
        Self { value: value.into(), client_flags, marks, expiry }
    }

    /// Bytes of its value.
    pub fn value_len(&self) -> usize {
        self.value.len()
    }

    /// The same as the engine takes it.
    #[cfg(test)]
    pub fn image<'a>(&'a self, key: &'a [u8], cas: u64) -> Image<'a> {
        let Self { value, client_flags, marks, expiry } = self;
        Image {
            key,
            value,
            client_flags: *client_flags,
            expiry: *expiry,
            cas,
            stale: marks & STALE != 0,
            token_sent: marks & TOKEN_SENT != 0,
            binary_key: marks & BINARY_KEY != 0,
            fetched: marks & FETCHED != 0,
        }
    }

    /// The same, by a clock whose zero was at Unix microsecond `start_unix`.
    pub fn dated(self, start_unix: u64) -> Content {
        let Self { value, client_flags, marks, expiry } = self;
        Content { value, client_flags, marks, dies_at: dies_at(expiry, start_unix) }
    }
}

/// See the module.
pub struct Items<'s> {
    shard: &'s mut Shard,
    /// Who has copies of values in his own memory, if anybody.
    tracking: Option<&'s mut Tracking>,
    now: Seconds,
    start_unix: u64,
    shards: Shards,
    /// Parts of partitions that are flushed, and whose items have still to go: all of them in one walk.
    partial: BTreeMap<PartitionId, Vec<Portion>>,
    /// Something found no room.
    has_refused: Cell<bool>,
}

impl<'s> Items<'s> {
    /// The shard as of a second.
    pub fn new(shard: &'s mut Shard, now: Seconds, start_unix: u64, shards: Shards) -> Self {
        let (tracking, partial, has_refused) = (None, BTreeMap::new(), Cell::new(false));
        Self { shard, tracking, now, start_unix, shards, partial, has_refused }
    }

    /// Tells those who have a copy of a value as another is applied: not before, because who asks in between is given the old one.
    pub fn telling(self, tracking: Option<&'s mut Tracking>) -> Self {
        Self { tracking, ..self }
    }

    /// Ends what was begun. Whether all that was applied found room.
    pub fn settle(mut self) -> bool {
        self.drop_partial();
        !self.has_refused.get()
    }

    fn live(&self, hash: u64, key: &[u8]) -> Option<Item<'_>> {
        if self.is_dropped(hash) { None } else { self.shard.peek(self.now, key) }
    }

    fn is_dropped(&self, hash: u64) -> bool {
        let portions = self.partial.get(&partition_of(hash));
        portions.is_some_and(|portions| portions.iter().any(|portion| portion.contains(hash)))
    }

    fn record(&self, item: &Item<'_>, hash: u64) -> Record {
        let content = Kept::of(item).dated(self.start_unix);
        let version = Version(item.cas());
        Record { key: item.key().into(), hash, version, content: Some(content) }
    }

    /// Only nodes of different numbers of shards come to this: a walk over everything.
    fn drop_partial(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let (mut scan, mut dropped) = (Scan::new(), Vec::new());
        let show = |item: &Item<'_>| {
            if self.is_dropped(hash_key(item.key())) {
                dropped.push(item.key().to_vec());
            }
        };
        self.shard.scan(self.now, &mut scan, usize::MAX, show);
        dropped.iter().for_each(|key| self.delete(key));
        self.partial.clear();
    }

    /// Whoever has a copy of what a key was.
    fn tell(&mut self, key: &[u8]) {
        if let Some(tracking) = &mut self.tracking {
            tracking.wrote(self.shard.hash(key), key);
        }
    }

    fn delete(&mut self, key: &[u8]) {
        let delete = Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
        self.shard.delete(self.now, &delete);
    }
}

impl Store for Items<'_> {
    fn version(&self, _: Micros, hash: u64, key: &[u8]) -> Option<Version> {
        self.live(hash, key).map(|item| Version(item.cas()))
    }

    fn read(&self, _: Micros, hash: u64, key: &[u8]) -> Option<Record> {
        self.live(hash, key).map(|item| self.record(&item, hash))
    }

    fn extend(&mut self, _: Micros, delta: &Delta) -> bool {
        self.drop_partial();
        self.tell(&delta.key);
        let mode = match delta.side {
            Side::Front => StoreMode::Prepend,
            Side::Back => StoreMode::Append,
        };
        let store = slabring_engine::Store {
            mode,
            compare: Some(delta.base.0),
            explicit_cas: Some(delta.version.0),
            ..slabring_engine::Store::set(&delta.key, &delta.bytes, Expiry::Never)
        };
        match self.shard.store(self.now, &store) {
            StoreOutcome::Stored { .. } => return true,
            StoreOutcome::TooLarge | StoreOutcome::NoMemory => self.has_refused.set(true),
            StoreOutcome::NotStored | StoreOutcome::Exists | StoreOutcome::NotFound => {}
        }
        self.delete(&delta.key);
        false
    }

    fn apply(&mut self, _: Micros, record: &Record) {
        self.drop_partial();
        self.tell(&record.key);
        let Some(content) = &record.content else { return self.delete(&record.key) };
        let image = Image {
            key: &record.key,
            value: &content.value,
            client_flags: content.client_flags,
            expiry: expiry_of(content.dies_at, self.start_unix),
            cas: record.version.0,
            stale: content.marks & STALE != 0,
            token_sent: content.marks & TOKEN_SENT != 0,
            binary_key: content.marks & BINARY_KEY != 0,
            fetched: content.marks & FETCHED != 0,
        };
        if !self.shard.put_image(self.now, &image) {
            self.has_refused.set(true);
        }
    }

    fn flush(&mut self, partition: PartitionId, portion: Portion) {
        let mine = Portion::of_shard(self.shards.me.0, self.shards.count);
        if portion.first <= mine.first && mine.last <= portion.last {
            let group = u16::try_from(partition.index()).expect("14 bits fit");
            self.shard.flush_group(group, group_of);
        } else if portion.meets(mine) {
            self.partial.entry(partition).or_default().push(portion);
        }
    }

    fn scan(
        &self,
        _: Micros,
        cursor: &mut Cursor,
        wants: &dyn Fn(u64) -> bool,
        show: &mut dyn FnMut(Record),
    ) -> bool {
        let mut scan = Scan::resumed(cursor.0);
        let step = self.shard.scan(self.now, &mut scan, SCAN_BUCKETS, |item| {
            let hash = hash_key(item.key());
            if wants(hash) && !self.is_dropped(hash) {
                show(self.record(item, hash));
            }
        });
        cursor.0 = scan.place();
        step == ScanStep::More
    }

    fn fences(&self, is_wanted: &dyn Fn(u64) -> bool) -> Fences {
        let (floor, known) = self.shard.known_fences();
        Fences { floor, known: known.filter(|(hash, _)| is_wanted(*hash)).collect() }
    }

    fn raise_fences(&mut self, fences: &Fences) {
        self.shard.raise_fence_floor(fences.floor);
        for &(hash, fence) in &fences.known {
            self.shard.raise_fence(hash, fence);
        }
    }
}

/// Bits for what an item says about itself.
fn marks_of(item: &Item<'_>) -> u8 {
    let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    bit(item.is_stale(), STALE)
        | bit(item.is_token_sent(), TOKEN_SENT)
        | bit(item.is_binary_key(), BINARY_KEY)
        | bit(item.fetched(), FETCHED)
}

fn dies_at(expiry: Expiry, start_unix: u64) -> Option<Micros> {
    match expiry {
        Expiry::Never => None,
        Expiry::At(Seconds(second)) => {
            Some(Micros((u64::from(second) * MICROS_PER_SECOND).saturating_sub(start_unix)))
        }
    }
}

/// Exact for what is this node's own; what came from another dies up to a second early, never late.
fn expiry_of(dies_at: Option<Micros>, start_unix: u64) -> Expiry {
    let second = |at: Micros| u32::try_from(at.0.saturating_add(start_unix) / MICROS_PER_SECOND);
    dies_at.map_or(Expiry::Never, |at| Expiry::At(Seconds(second(at).unwrap_or(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use slabring_engine::Config;

    use super::*;
    use crate::shards::ShardId;

    const NOW: Seconds = Seconds(1_700_000_000);
    const START_UNIX: u64 = 1_699_999_990_400_000;

    fn record(key: &[u8], version: u64, marks: u8, dies_at: Option<Micros>) -> Record {
        let content = Content { value: Bytes::from(*b"value"), client_flags: 7, marks, dies_at };
        Record { key: key.into(), hash: hash_key(key), version: Version(version), content: Some(content) }
    }

    fn items(shard: &mut Shard, shards: u16) -> Items<'_> {
        Items::new(shard, NOW, START_UNIX, Shards { count: shards, me: ShardId(0) })
    }

    #[test]
    fn what_is_applied_is_read_back_whatever_its_marks_and_its_death() {
        let mut shard = Shard::new(&Config::with_memory(1 << 20)).unwrap();
        let mut items = items(&mut shard, 1);
        let deaths = [
            None,
            dies_at(Expiry::At(Seconds(NOW.0 + 1)), START_UNIX),
            dies_at(Expiry::At(Seconds(u32::MAX)), START_UNIX),
        ];
        for (marks, death) in (0..16).flat_map(|marks| deaths.map(|death| (marks, death))) {
            let record = record(b"key", u64::MAX - u64::from(marks), marks, death);
            items.apply(Micros(0), &record);
            assert_eq!(items.read(Micros(0), record.hash, b"key"), Some(record.clone()));
            assert_eq!(items.version(Micros(0), record.hash, b"key"), Some(record.version));
        }
        let deleted = Record { content: None, ..record(b"key", 9, 0, None) };
        items.apply(Micros(0), &deleted);
        assert_eq!(items.read(Micros(0), deleted.hash, b"key"), None);
        assert!(items.settle());
    }

    #[test]
    fn a_copy_never_outlives_its_original_by_its_own_clock() {
        for left in [1, 400_000, 999_999, 1_000_000, 61_000_000] {
            let at = Micros(9_600_000 + left);
            let Expiry::At(second) = expiry_of(Some(at), START_UNIX) else { panic!("it dies") };
            let dies = u64::from(second.0) * MICROS_PER_SECOND - START_UNIX;
            assert!(dies <= at.0 && at.0 - dies < MICROS_PER_SECOND, "{left}");
        }
    }

    #[test]
    fn a_walk_shows_everything_that_a_flush_has_left() {
        let mut shard = Shard::new(&Config::with_memory(4 << 20)).unwrap();
        let mut items = items(&mut shard, 2);
        let keys: Vec<_> = (0..2_000_u32).map(|n| n.to_string().into_bytes()).collect();
        keys.iter().for_each(|key| items.apply(Micros(0), &record(key, 5, 0, None)));
        let (all, part) = (partition_of(hash_key(&keys[0])), partition_of(hash_key(&keys[1])));
        items.flush(all, Portion::ALL);
        items.flush(part, Portion { first: 0, last: 1 << 30 });
        let is_left = |key: &[u8]| {
            let hash = hash_key(key);
            let in_part = partition_of(hash) == part && hash & u64::from(u32::MAX) <= 1 << 30;
            partition_of(hash) != all && !in_part
        };
        for _ in 0..2 {
            let (mut cursor, mut seen) = (Cursor::default(), Vec::new());
            while items.scan(Micros(0), &mut cursor, &|_| true, &mut |record| seen.push(record.key)) {}
            seen.sort();
            let mut left: Vec<Bytes> =
                keys.iter().filter(|key| is_left(key)).map(|key| key[..].into()).collect();
            left.sort();
            assert_eq!(seen, left);
            items.drop_partial();
        }
    }
}
