//! What lasts longer than one operation: pins, reservations and scans.

use std::collections::BTreeSet;

use rand::RngExt;
use slabring_engine::{Expiry, Pin, Reservation, Room, Scan, ScanStep, Store, StoreMode};

use crate::model::{Pair, value_of};

const PINS_MAX: usize = 24;
const WRITINGS_MAX: usize = 6;

/// Everything that is under way.
#[derive(Default)]
pub(crate) struct Users {
    pins: Vec<(Pin, Vec<u8>)>,
    writings: Vec<Writing>,
    walk: Option<Walk>,
}

/// A value that is being written piece by piece.
struct Writing {
    reservation: Reservation,
    request: OwnedStore,
}

/// A store as long as it lasts.
struct OwnedStore {
    key: Vec<u8>,
    value: Vec<u8>,
    mode: StoreMode,
    client_flags: u32,
    expiry: Expiry,
    compare: Option<u64>,
    explicit_cas: Option<u64>,
    binary_key: bool,
}

/// A scan that is under way.
struct Walk {
    scan: Scan,
    /// Keys that were there all the time.
    lived: BTreeSet<Vec<u8>>,
    seen: BTreeSet<Vec<u8>>,
}

impl Users {
    /// A key is gone.
    pub(crate) fn forget(&mut self, key: &[u8]) {
        self.walk.iter_mut().for_each(|walk| {
            walk.lived.remove(key);
        });
    }

    pub(crate) fn forget_all(&mut self) {
        self.walk.iter_mut().for_each(|walk| walk.lived.clear());
    }
}

impl OwnedStore {
    fn new(store: &Store<'_>, value: Vec<u8>) -> OwnedStore {
        let Store { mode, client_flags, expiry, compare, explicit_cas, binary_key, .. } = *store;
        let key = store.key.to_vec();
        OwnedStore { key, value, mode, client_flags, expiry, compare, explicit_cas, binary_key }
    }

    fn store(&self) -> Store<'_> {
        Store {
            mode: self.mode,
            client_flags: self.client_flags,
            compare: self.compare,
            explicit_cas: self.explicit_cas,
            binary_key: self.binary_key,
            ..Store::set(&self.key, &self.value, self.expiry)
        }
    }
}

impl Pair {
    /// Whether the shard may refuse to hold a value of this length, for it holds others or this one is large.
    pub(crate) fn may_refuse(&self, value_len: usize) -> bool {
        let Users { pins, writings, .. } = &self.users;
        !pins.is_empty() || !writings.is_empty() || value_len > self.shard.memory().limit / 8
    }

    pub(crate) fn pin(&mut self, key: &[u8]) {
        let pin = if self.random.random() {
            self.shard.pin(self.now, key)
        } else {
            let place = self.shard.get(self.now, key).map(|item| item.place());
            self.twin.get_mut(key).into_iter().for_each(|item| item.fetched = true);
            place.and_then(|place| self.shard.pin_at(place))
        };
        let value = self.twin.get(key).map(|item| item.value.clone());
        match (pin, value) {
            (Some(pin), Some(value)) => self.users.pins.push((pin, value)),
            (None, Some(value)) => assert!(self.may_refuse(value.len()), "a lonely pin of {}", value.len()),
            (pin, None) => assert!(pin.is_none(), "a pin of nothing"),
        }
        if self.users.pins.len() > PINS_MAX {
            self.unpin_one();
        }
    }

    pub(crate) fn unpin_one(&mut self) {
        if !self.users.pins.is_empty() {
            let at = self.random.random_range(0..self.users.pins.len());
            let (pin, value) = self.users.pins.swap_remove(at);
            self.check_pinned(&pin, &value);
            self.shard.unpin(pin);
        }
    }

    fn check_pinned(&self, pin: &Pin, value: &[u8]) {
        let pieces: Vec<&[u8]> = self.shard.pinned_value(pin).chunks().collect();
        assert!(pieces.concat() == value, "a pinned value changed");
    }

    /// All values that are being read are still what they were.
    pub(crate) fn check_users(&self) {
        self.users.pins.iter().for_each(|(pin, value)| self.check_pinned(pin, value));
    }

    pub(crate) fn reserve(&mut self, key: &[u8]) {
        let modes = [StoreMode::Set, StoreMode::Set, StoreMode::Add, StoreMode::Replace, StoreMode::Append];
        let value = self.any_value();
        let mode = modes[self.random.random_range(0..modes.len())];
        let request = Store {
            mode,
            client_flags: if self.random.random_bool(0.3) { self.random.random() } else { 0 },
            compare: self.any_cas(key),
            explicit_cas: self.any_explicit_cas(),
            invalidate: self.random.random_bool(0.1),
            binary_key: self.random.random_bool(0.2),
            ..Store::set(key, &[], self.any_expiry())
        };
        let Some(reservation) = self.shard.reserve(self.now, &request, value.len()) else {
            let fits = mode != StoreMode::Append && !request.invalidate && value.len() <= self.value_size_max;
            return assert!(!fits || !self.may_forget || self.may_refuse(value.len()), "{}", value.len());
        };
        assert!(reservation.left() == value.len());
        self.users.writings.push(Writing { reservation, request: OwnedStore::new(&request, value) });
        if self.users.writings.len() > WRITINGS_MAX {
            self.fill_one();
        }
    }

    /// Fills some of a value, and commits it if it is complete then. Some are given up.
    pub(crate) fn fill_one(&mut self) {
        if self.users.writings.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.users.writings.len());
        let mut writing = self.users.writings.swap_remove(at);
        for _ in 0..self.random.random_range(0..10) {
            let value = &writing.request.value;
            let done = value.len() - writing.reservation.left();
            if done == value.len() {
                break;
            }
            let wanted = [1, 1_000, usize::MAX][self.random.random_range(0..3_usize)];
            let spaces = match self.shard.spaces(self.now, &mut writing.reservation, wanted) {
                Room::Here(spaces) => spaces,
                Room::Later => continue,
                Room::NoMemory => {
                    let may_fail = !self.may_forget || self.may_refuse(writing.request.value.len());
                    assert!(may_fail, "a lonely value finds the room that it was promised");
                    return self.shard.abandon(writing.reservation);
                }
            };
            assert!(!spaces[0].is_empty());
            let room = spaces.iter().map(|space| space.len()).sum();
            let len = self.random.random_range(0..=room);
            let mut source = &value[done..done + len];
            for space in spaces {
                let (now, later) = source.split_at(space.len().min(source.len()));
                space[..now.len()].copy_from_slice(now);
                source = later;
            }
            self.shard.filled(&mut writing.reservation, len);
        }
        if self.random.random_bool(0.1) {
            self.shard.abandon(writing.reservation);
        } else if writing.reservation.left() > 0 {
            self.users.writings.push(writing);
        } else {
            self.commit(writing);
        }
    }

    fn commit(&mut self, writing: Writing) {
        let Writing { reservation, request } = writing;
        self.reconcile(&request.key);
        let outcome = self.shard.commit(self.now, reservation);
        self.check_stored(&request.store(), outcome);
        self.reconcile(&request.key);
    }

    /// A step of a scan, or the beginning of one.
    pub(crate) fn scan(&mut self) {
        let buckets = self.random.random_range(0..8);
        let mut walk = self.users.walk.take().unwrap_or_else(|| self.begin_walk());
        let step = self.shard.scan(self.now, &mut walk.scan, buckets, |item| {
            assert!(walk.seen.insert(item.key().to_vec()), "an item was shown twice");
            // One that was evicted or died unseen may still be in the twin, but never the other way round.
            let twin = self.twin.get(item.key()).expect("the scan shows what was never stored");
            assert!(value_of(item) == twin.value && item.cas() == twin.cas && item.expiry() == twin.expiry);
            assert!(item.client_flags() == twin.client_flags && item.fetched() == twin.fetched);
        });
        match step {
            ScanStep::More => self.users.walk = Some(walk),
            ScanStep::Done => self.end_walk(walk),
        }
    }

    fn begin_walk(&mut self) -> Walk {
        let is_there = |key: &&Vec<u8>| self.shard.peek(self.now, key).is_some();
        let lived = self.twin.keys().filter(is_there).cloned().collect();
        Walk { scan: Scan::new(), lived, seen: BTreeSet::new() }
    }

    fn end_walk(&mut self, mut walk: Walk) {
        let after = self.shard.scan(self.now, &mut walk.scan, 1, |_| panic!("shown after the end"));
        assert_eq!(after, ScanStep::Done);
        for key in walk.lived {
            let is_there = self.shard.peek(self.now, &key).is_some();
            assert!(!is_there || walk.seen.contains(&key), "an item was not shown");
        }
    }

    /// Gives everything back.
    pub(crate) fn end_users(&mut self) {
        self.check_users();
        let Users { pins, writings, .. } = std::mem::take(&mut self.users);
        pins.into_iter().for_each(|(pin, _)| self.shard.unpin(pin));
        writings.into_iter().for_each(|writing| self.shard.abandon(writing.reservation));
        assert_eq!(self.shard.memory().held, 0);
    }
}
