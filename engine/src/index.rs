//! From a key's hash to the location of its item: buckets of one cache line, found by range reduction, grown in
//! place a bucket at a time. Never looks at an item; whoever asks compares the keys.

use std::io;

use bytemuck::{Pod, Zeroable};

use crate::arena::{Location, Region};

mod tags;

/// Bytes of a bucket, one cache line.
pub(crate) const BUCKET_SIZE: usize = 64;

const SLOTS: usize = 12;
const ALL_SLOTS: u32 = (1 << SLOTS) - 1;
const EMPTY_TAG: u8 = 0;
const NO_LINK: u32 = 0;
/// Growth begins when this share of the slots of all home buckets would be filled.
const LOAD_PERCENT_MAX: u64 = 85;
const GROWTH_STEP_MIN: u64 = 64;
const GROWTH_DIVISOR: u64 = 8;
/// Home buckets that the hashes of one old bucket can fall into after growth: the sizes' ratio is at most two.
const TARGETS_MAX: usize = 3;

const _: () = assert!(size_of::<Bucket>() == BUCKET_SIZE);

/// | bytes | what |
/// |-------|------|
/// | 0..48 | 12 locations |
/// | 48..60 | 12 tags, 0 for an empty slot |
/// | 60..64 | number of the overflow bucket that continues this one, 0 for none |
#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Bucket {
    locations: [u32; SLOTS],
    /// Tags and link together, for they are loaded together.
    tags_and_link: [u8; 16],
}

/// A slot of a bucket; overflow buckets are numbered on from the home buckets' maximum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot {
    bucket: usize,
    slot: usize,
}

/// The index of one shard.
///
/// Growth from `buckets` to `buckets_next` moves the entries of one old bucket after the other, from the last
/// down to the `frontier`. Range reduction keeps the order of hashes, so an entry of bucket `b` moves to `b` or
/// beyond, where everything has moved already: old and new buckets share one array without meeting.
#[derive(Debug)]
pub(crate) struct Index {
    region: Region,
    /// Home buckets that hashes below the frontier are spread over.
    buckets: u64,
    /// Home buckets that all other hashes are spread over; the same as `buckets` unless growing.
    buckets_next: u64,
    /// First old bucket whose entries have moved.
    frontier: u64,
    buckets_max: u64,
    /// Home buckets in use on both sides of the frontier.
    home_buckets: usize,
    overflow_max: usize,
    /// Overflow buckets ever used; they follow the home buckets.
    overflow_used: usize,
    /// First of the overflow buckets given back, by its number.
    overflow_free: u32,
    overflow_free_count: usize,
    items: u64,
}

impl Index {
    /// Reserves address space for `items_max` items and puts `buckets` home buckets to use.
    pub(crate) fn reserve(items_max: usize, buckets: usize, huge_pages: bool) -> io::Result<Index> {
        let buckets_max = (items_max / 10).max(buckets).next_multiple_of(64) + 64;
        let overflow_max = buckets_max / 2;
        let region = Region::reserve((buckets_max + overflow_max) * BUCKET_SIZE, huge_pages)?;
        let buckets = buckets as u64;
        Ok(Index {
            region,
            buckets,
            buckets_next: buckets,
            frontier: buckets,
            buckets_max: buckets_max as u64,
            home_buckets: to_usize(buckets),
            overflow_max,
            overflow_used: 0,
            overflow_free: NO_LINK,
            overflow_free_count: 0,
            items: 0,
        })
    }

    /// Bytes in use: home buckets on both sides of the frontier, and overflow buckets.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        (self.home_buckets + self.overflow_used) * BUCKET_SIZE
    }

    /// Home buckets, those it is about to have included.
    pub(crate) fn buckets_wanted(&self) -> u64 {
        self.buckets_next
    }

    /// Has so many home buckets from now on, within what is reserved. Only while it is empty.
    pub(crate) fn begin_with(&mut self, buckets: u64) {
        assert!(self.items == 0 && !self.is_growing());
        let buckets = buckets.clamp(self.buckets, self.buckets_max);
        (self.buckets, self.buckets_next, self.frontier) = (buckets, buckets, buckets);
        self.home_buckets = to_usize(buckets);
    }

    pub(crate) fn items(&self) -> u64 {
        self.items
    }

    /// The location stored under `hash` for which `is_key` holds. One cache line, but for rare overflow.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is_key: impl FnMut(Location) -> bool) -> Option<Location> {
        let bucket = self.bucket(self.home(hash));
        match bucket.find(tag_of(hash), &mut is_key) {
            None if bucket.link() != NO_LINK => self.find_in_overflow(bucket.link(), hash, is_key),
            found => found,
        }
    }

    #[cold]
    fn find_in_overflow(
        &self,
        mut link: u32,
        hash: u64,
        mut is_key: impl FnMut(Location) -> bool,
    ) -> Option<Location> {
        let mut found = None;
        while found.is_none() && link != NO_LINK {
            let bucket = self.bucket(self.overflow_at(link));
            found = bucket.find(tag_of(hash), &mut is_key);
            link = bucket.link();
        }
        found
    }

    /// Has the CPU fetch the home bucket of `hash`.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.region.prefetch(self.home(hash) * BUCKET_SIZE);
    }

    /// The first location in the home bucket that may be the key's: mostly it is.
    #[inline]
    pub(crate) fn first_candidate(&self, hash: u64) -> Option<Location> {
        let bucket = self.bucket(self.home(hash));
        let matches = bucket.slots_with(tag_of(hash));
        (matches != 0).then(|| Location(bucket.locations[matches.trailing_zeros() as usize]))
    }

    /// Most bytes the next [`Index::insert`] of `hash` can add to [`Index::bytes`].
    pub(crate) fn insert_bytes_max(&self, hash: u64) -> usize {
        let last = self.last_of_chain(self.home(hash));
        if self.bucket(last).is_full() { self.overflow_bytes_max(1) } else { 0 }
    }

    /// Whether the next insert of `hash` finds a slot at all, whatever it costs.
    pub(crate) fn can_insert(&self, hash: u64) -> bool {
        let last = self.last_of_chain(self.home(hash));
        !self.bucket(last).is_full() || self.overflow_left() > 0
    }

    /// Adds a location under a hash. The caller made sure that there [is a slot](Index::can_insert) and that the
    /// key is not there yet.
    pub(crate) fn insert(&mut self, hash: u64, location: Location) {
        self.place(hash, location);
        self.items += 1;
    }

    /// Takes a location out, which must be there.
    pub(crate) fn remove(&mut self, hash: u64, location: Location) {
        let found = self.slot_of(hash, location);
        let home = self.home(hash);
        self.fill_from_last(home, found);
        self.items -= 1;
    }

    /// Puts another location in the place of one that must be there.
    pub(crate) fn replace(&mut self, hash: u64, from: Location, to: Location) {
        let found = self.slot_of(hash, from);
        self.bucket_mut(found.bucket).locations[found.slot] = to.0;
    }

    pub(crate) fn is_growing(&self) -> bool {
        self.buckets_next != self.buckets
    }

    /// Begins to grow if the buckets are filled far enough and there is address space left.
    pub(crate) fn begin_growth_if_loaded(&mut self) {
        let slots = self.buckets * SLOTS as u64;
        if self.is_growing() || self.items * 100 <= slots * LOAD_PERCENT_MAX {
            return;
        }
        let grown = self.buckets + (self.buckets / GROWTH_DIVISOR).max(GROWTH_STEP_MIN);
        self.buckets_next = grown.min(self.buckets_max).max(self.buckets);
    }

    /// Most bytes the next [`Index::migrate_bucket`] can add to [`Index::bytes`]. Growing only.
    pub(crate) fn migrate_bytes_max(&self) -> usize {
        assert!(self.is_growing());
        let now = self.home_buckets;
        let then = self.home_buckets_in_use(self.frontier - 1);
        (then - now) * BUCKET_SIZE + self.overflow_bytes_max(self.migrate_overflow_max())
    }

    /// Whether the next bucket can be moved at all, whatever it costs. Growing only.
    pub(crate) fn can_migrate(&self) -> bool {
        self.overflow_left() >= self.migrate_overflow_max()
    }

    /// Moves the entries of the bucket before the frontier to where they belong after growth. Growing only.
    pub(crate) fn migrate_bucket(&mut self, hash_of: impl Fn(Location) -> u64) {
        assert!(self.is_growing() && self.frontier > 0);
        self.frontier -= 1;
        let home = to_usize(self.frontier);
        let mut moving = std::mem::replace(self.bucket_mut(home), Bucket::zeroed());
        loop {
            for slot in moving.used_slots() {
                let location = Location(moving.locations[slot]);
                self.place(hash_of(location), location);
            }
            match moving.link() {
                NO_LINK => break,
                link => {
                    moving = *self.bucket(self.overflow_at(link));
                    self.release_overflow(link);
                }
            }
        }
        self.home_buckets = self.home_buckets_in_use(self.frontier);
        if self.frontier == 0 {
            self.buckets = self.buckets_next;
            self.frontier = self.buckets;
        }
    }

    /// Shows every entry of the bucket that `hash` falls into; returns the first hash that falls beyond it, if one does.
    pub(crate) fn walk(&self, hash: u64, mut show: impl FnMut(Location)) -> Option<u64> {
        for at in self.chain(self.home(hash)) {
            let bucket = self.bucket(at);
            bucket.used_slots().for_each(|slot| show(Location(bucket.locations[slot])));
        }
        let old = range_reduced(hash, self.buckets);
        if old < self.frontier {
            first_hash_of(old + 1, self.buckets)
        } else {
            first_hash_of(range_reduced(hash, self.buckets_next) + 1, self.buckets_next)
        }
    }

    /// What the next [`Index::migrate_bucket`] will ask the hashes of, but for overflow. Growing only.
    pub(crate) fn moving_next(&self) -> impl Iterator<Item = Location> + '_ {
        assert!(self.is_growing());
        let bucket = self.bucket(to_usize(self.frontier - 1));
        bucket.used_slots().map(|slot| Location(bucket.locations[slot]))
    }

    /// Checks the counters against the buckets and hands every entry to `check`.
    pub(crate) fn validate(&self, mut check: impl FnMut(Location)) {
        let (mut items, mut overflow) = (0, 0);
        let in_new = if self.is_growing() { self.frontier..self.buckets_next } else { 0..0 };
        for home in (0..self.frontier).chain(in_new) {
            let mut bucket = self.bucket(to_usize(home));
            loop {
                for slot in bucket.used_slots() {
                    items += 1;
                    check(Location(bucket.locations[slot]));
                }
                if bucket.link() == NO_LINK {
                    break;
                }
                assert!(bucket.is_full(), "only the last bucket of a chain has room");
                overflow += 1;
                bucket = self.bucket(self.overflow_at(bucket.link()));
                assert!(bucket.used_slots().next().is_some(), "an overflow bucket is never empty");
            }
        }
        assert_eq!(items, self.items);
        assert_eq!(self.home_buckets, self.home_buckets_in_use(self.frontier));
        assert_eq!(overflow + self.overflow_free_count, self.overflow_used);
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        let bucket = range_reduced(hash, self.buckets);
        to_usize(if bucket < self.frontier { bucket } else { range_reduced(hash, self.buckets_next) })
    }

    fn home_buckets_in_use(&self, frontier: u64) -> usize {
        let first_new = mul_div(frontier, self.buckets_next, self.buckets);
        to_usize(self.buckets + self.buckets_next - first_new.max(self.buckets))
    }

    #[inline]
    fn bucket(&self, at: usize) -> &Bucket {
        &self.region.records::<Bucket>()[at]
    }

    #[inline]
    fn bucket_mut(&mut self, at: usize) -> &mut Bucket {
        &mut self.region.records_mut::<Bucket>()[at]
    }

    /// Position of the overflow bucket with a number from 1.
    fn overflow_at(&self, link: u32) -> usize {
        debug_assert!(link != NO_LINK);
        to_usize(self.buckets_max) + link as usize - 1
    }

    fn overflow_left(&self) -> usize {
        self.overflow_free_count + self.overflow_max - self.overflow_used
    }

    fn overflow_bytes_max(&self, buckets: usize) -> usize {
        buckets.saturating_sub(self.overflow_free_count) * BUCKET_SIZE
    }

    /// Most overflow buckets that moving the next bucket can take, with none of its own given back yet.
    fn migrate_overflow_max(&self) -> usize {
        TARGETS_MAX + self.chain(to_usize(self.frontier - 1)).count()
    }

    fn chain(&self, home: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(home), |&at| match self.bucket(at).link() {
            NO_LINK => None,
            link => Some(self.overflow_at(link)),
        })
    }

    fn last_of_chain(&self, home: usize) -> usize {
        self.chain(home).last().expect("a chain begins with its home bucket")
    }

    fn place(&mut self, hash: u64, location: Location) {
        let mut at = self.last_of_chain(self.home(hash));
        if self.bucket(at).is_full() {
            let link = self.take_overflow();
            self.bucket_mut(at).set_link(link);
            at = self.overflow_at(link);
        }
        let bucket = self.bucket_mut(at);
        let slot = bucket.slots_with(EMPTY_TAG).trailing_zeros() as usize;
        bucket.set(slot, tag_of(hash), location.0);
    }

    fn slot_of(&self, hash: u64, location: Location) -> Slot {
        let in_bucket = |bucket: usize| {
            let found = self.bucket(bucket).locations.iter().enumerate();
            let tag = tag_of(hash);
            found
                .filter(|&(slot, &at)| at == location.0 && self.bucket(bucket).tag(slot) == tag)
                .map(move |(slot, _)| Slot { bucket, slot })
                .next()
        };
        self.chain(self.home(hash)).find_map(in_bucket).expect("the caller knows the location to be indexed")
    }

    /// Moves the chain's last entry into the slot that became empty, and gives back a bucket that did.
    fn fill_from_last(&mut self, home: usize, empty: Slot) {
        let mut before_last = None;
        let mut last = home;
        while self.bucket(last).link() != NO_LINK {
            before_last = Some(last);
            last = self.overflow_at(self.bucket(last).link());
        }
        let bucket = *self.bucket(last);
        let from = bucket.used_slots().next().expect("the chain holds the entry to be removed");
        let from = if last == empty.bucket { empty.slot } else { from };
        self.bucket_mut(empty.bucket).set(empty.slot, bucket.tag(from), bucket.locations[from]);
        self.bucket_mut(last).set(from, EMPTY_TAG, 0);
        if let Some(before) = before_last
            && self.bucket(last).used_slots().next().is_none()
        {
            let link = self.bucket(before).link();
            self.bucket_mut(before).set_link(NO_LINK);
            self.release_overflow(link);
        }
    }

    fn take_overflow(&mut self) -> u32 {
        if self.overflow_free != NO_LINK {
            let link = self.overflow_free;
            let at = self.overflow_at(link);
            self.overflow_free = self.bucket(at).link();
            self.overflow_free_count -= 1;
            self.bucket_mut(at).set_link(NO_LINK);
            return link;
        }
        assert!(self.overflow_used < self.overflow_max, "the caller made sure of room");
        self.overflow_used += 1;
        u32::try_from(self.overflow_used).expect("fewer overflow buckets than locations")
    }

    fn release_overflow(&mut self, link: u32) {
        let next = self.overflow_free;
        let at = self.overflow_at(link);
        *self.bucket_mut(at) = Bucket::zeroed();
        self.bucket_mut(at).set_link(next);
        self.overflow_free = link;
        self.overflow_free_count += 1;
    }
}

impl Bucket {
    #[inline]
    fn slots_with(&self, tag: u8) -> u32 {
        tags::matching(self.tags_and_link, tag) & ALL_SLOTS
    }

    #[inline]
    fn find(&self, tag: u8, is_key: &mut impl FnMut(Location) -> bool) -> Option<Location> {
        let mut matches = self.slots_with(tag);
        while matches != 0 {
            let location = Location(self.locations[matches.trailing_zeros() as usize]);
            if is_key(location) {
                return Some(location);
            }
            matches &= matches - 1;
        }
        None
    }

    fn used_slots(&self) -> impl Iterator<Item = usize> + use<> {
        let used = !self.slots_with(EMPTY_TAG);
        (0..SLOTS).filter(move |slot| used >> slot & 1 == 1)
    }

    fn is_full(&self) -> bool {
        self.slots_with(EMPTY_TAG) == 0
    }

    fn tag(&self, slot: usize) -> u8 {
        self.tags_and_link[slot]
    }

    fn set(&mut self, slot: usize, tag: u8, location: u32) {
        debug_assert!(slot < SLOTS);
        self.tags_and_link[slot] = tag;
        self.locations[slot] = location;
    }

    #[inline]
    fn link(&self) -> u32 {
        let [.., a, b, c, d] = self.tags_and_link;
        u32::from_ne_bytes([a, b, c, d])
    }

    fn set_link(&mut self, link: u32) {
        self.tags_and_link[SLOTS..].copy_from_slice(&link.to_ne_bytes());
    }
}

/// The low bits of the hash, which do not choose the bucket; never the tag of an empty slot.
#[inline]
fn tag_of(hash: u64) -> u8 {
    let [low, ..] = hash.to_le_bytes();
    low.max(EMPTY_TAG + 1)
}

/// Spreads hashes evenly over `0..range` and keeps their order.
#[inline]
fn range_reduced(hash: u64, range: u64) -> u64 {
    ((u128::from(hash) * u128::from(range)) >> u64::BITS) as u64
}

/// The lowest hash that [`range_reduced`] maps to a number or beyond, if there is one.
fn first_hash_of(number: u64, range: u64) -> Option<u64> {
    u64::try_from((u128::from(number) << u64::BITS).div_ceil(u128::from(range))).ok()
}

/// `a * b / divisor`, rounded down. Bucket numbers are far below 2^32, so nothing overflows.
fn mul_div(a: u64, b: u64, divisor: u64) -> u64 {
    a * b / divisor
}

fn to_usize(bucket: u64) -> usize {
    usize::try_from(bucket).expect("bucket numbers are below the region's size")
}

#[cfg(test)]
mod tests;
