//! A shard and its twin, and every operation done to both. The twin is a map that follows memcached's rules to the letter.

use std::collections::BTreeMap;

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{
    Arithmetic, ArithmeticOutcome, CasSeries, Config, Delete, DeleteMode, DeleteOutcome, Expiry, Fetch,
    Fetched, GROUPS, Image, Item, Seconds, Shard, Store, StoreMode, StoreOutcome,
};

use crate::users::Users;

#[derive(Clone, Debug)]
pub(crate) struct TwinItem {
    pub(crate) value: Vec<u8>,
    pub(crate) client_flags: u32,
    pub(crate) expiry: Expiry,
    pub(crate) cas: u64,
    stale: bool,
    token_sent: bool,
    binary_key: bool,
    pub(crate) fetched: bool,
}

pub(crate) struct Pair {
    pub(crate) shard: Shard,
    pub(crate) twin: BTreeMap<Vec<u8>, TwinItem>,
    pub(crate) now: Seconds,
    /// What was dead then may have been freed.
    latest: Seconds,
    flush_at: Option<Seconds>,
    pub(crate) random: SmallRng,
    pub(crate) value_size_max: usize,
    cas_highest: u64,
    cas_enabled: bool,
    pub(crate) may_forget: bool,
    pub(crate) hits: u64,
    pub(crate) users: Users,
}

const KEYS: u32 = 400;

impl Pair {
    pub(crate) fn new(config: &Config, seed: u64) -> Pair {
        let config =
            Config { hash_seed: Some(seed), cas: CasSeries { offset: 1, step: 3 }, ..config.clone() };
        Pair {
            shard: Shard::new(&config).unwrap(),
            twin: BTreeMap::new(),
            now: Seconds(1_700_000_000),
            latest: Seconds(1_700_000_000),
            flush_at: None,
            random: SmallRng::seed_from_u64(seed),
            value_size_max: config.item_size_max.min(config.memory_bytes / 2),
            cas_highest: 1,
            cas_enabled: config.cas_enabled,
            may_forget: config.evict,
            hits: 0,
            users: Users::default(),
        }
    }

    pub(crate) fn step(&mut self) {
        let key = self.any_key();
        self.reconcile(&key);
        match self.random.random_range(0..100) {
            0..25 => self.store(&key),
            25..40 => self.get(&key),
            40..53 => self.fetch(&key),
            53..62 => self.arithmetic(&key),
            62..71 => self.delete(&key),
            71..77 => self.touch(&key),
            77..81 => self.pin(&key),
            81..85 => self.unpin_one(),
            85..88 => self.reserve(&key),
            88..92 => self.fill_one(),
            92..95 => self.scan(),
            95..97 => self.pass_time(),
            97 if self.random.random() => self.note_reads(&key),
            97 => self.maintain(),
            98 if self.random.random() => self.flush_group(&key),
            98 => self.put_image(&key),
            99 if self.random.random_bool(0.1) => self.flush(),
            _ => self.get(&key),
        }
        self.reconcile(&key);
    }

    /// Changes nothing that anybody sees but that the item was fetched.
    fn note_reads(&mut self, key: &[u8]) {
        let (reads, counted) = (self.random.random_range(1..100), *self.shard.counters());
        let is_there = self.shard.note_reads(self.now, key, reads);
        assert_eq!(is_there, self.twin.contains_key(key));
        self.twin.entry(key.to_vec()).and_modify(|item| item.fetched = true);
        assert_eq!(*self.shard.counters(), counted);
    }

    /// Forgets in the twin what died or was evicted, and compares the rest.
    #[track_caller]
    pub(crate) fn reconcile(&mut self, key: &[u8]) {
        self.expire(key);
        let Some(item) = self.shard.peek(self.now, key) else {
            self.users.forget(key);
            let lost = self.twin.remove(key);
            let may_be_lost = |item: TwinItem| self.may_forget || item.expiry.is_past(self.latest);
            assert!(lost.is_none_or(may_be_lost), "an item was lost without eviction");
            return;
        };
        let twin = self.twin.get(key).expect("the engine has an item that was never stored, or is dead");
        assert_eq!(item.key(), key);
        assert_eq!(value_of(&item), twin.value);
        assert_eq!(item.value_len(), twin.value.len());
        assert_eq!(item.client_flags(), twin.client_flags);
        assert_eq!(item.expiry(), twin.expiry);
        assert_eq!(item.cas(), twin.cas);
        assert_eq!((item.is_stale(), item.is_binary_key()), (twin.stale, twin.binary_key));
        assert_eq!(item.fetched(), twin.fetched);
    }

    fn expire(&mut self, key: &[u8]) {
        if self.flush_at.is_some_and(|at| self.now >= at) {
            self.twin.clear();
            self.users.forget_all();
            self.flush_at = None;
            self.shard.maintain(self.now, 0);
        }
        if self.twin.get(key).is_some_and(|item| item.expiry.is_past(self.now)) {
            self.twin.remove(key);
            self.look_at(key);
        }
    }

    /// Once seen dead by an operation, an item stays dead whatever the clock says later.
    fn look_at(&mut self, key: &[u8]) {
        let never = Some(u64::MAX);
        let looked = Delete { key, compare: never, mode: DeleteMode::Remove, explicit_cas: None };
        let outcome = self.shard.delete(self.now, &looked);
        assert_eq!(outcome, DeleteOutcome::NotFound, "an item outlived its expiry");
    }

    fn any_key(&mut self) -> Vec<u8> {
        // Skewed, so that some keys are hit often; lengths of all kinds.
        let id = self.random.random_range(0..KEYS).min(self.random.random_range(0..KEYS));
        let mut key = format!("key-{id}").into_bytes();
        key.resize(key.len().max((id as usize * 7) % 251), b'.');
        key
    }

    pub(crate) fn any_value(&mut self) -> Vec<u8> {
        let len = match self.random.random_range(0..40) {
            0 => 0,
            1..20 => self.random.random_range(0..200),
            20..35 => self.random.random_range(0..5_000),
            35..39 => self.random.random_range(0..self.value_size_max / 4),
            _ => self.random.random_range(0..self.value_size_max + 100),
        };
        if self.random.random_bool(0.2) {
            return self.random.random_range(0..2_000_u64).to_string().into_bytes();
        }
        let mut value = vec![0; len];
        self.random.fill_bytes(&mut value);
        value
    }

    pub(crate) fn any_expiry(&mut self) -> Expiry {
        match self.random.random_range(0..10) {
            0 => Expiry::At(Seconds(self.now.0 - 5)),
            1..5 => Expiry::At(Seconds(self.now.0 + self.random.random_range(1..100))),
            _ => Expiry::Never,
        }
    }

    pub(crate) fn any_cas(&mut self, key: &[u8]) -> Option<u64> {
        let present = self.twin.get(key).map_or(5, |item| item.cas);
        match self.random.random_range(0..10) {
            0 => Some(0),
            1..3 => Some(present),
            3 => Some(present.saturating_sub(1)),
            4 => Some(present + 1),
            _ => None,
        }
    }

    pub(crate) fn any_explicit_cas(&mut self) -> Option<u64> {
        self.random.random_bool(0.1).then(|| self.random.random_range(1_000_000..2_000_000))
    }

    /// What the series gives out, or what was asked for.
    #[track_caller]
    fn check_new_cas(&mut self, cas: u64, explicit: Option<u64>) {
        if !self.cas_enabled {
            return assert_eq!(cas, 0);
        }
        if let Some(explicit) = explicit {
            assert_eq!(cas, explicit);
            return;
        }
        assert!(cas > self.cas_highest && cas % 3 == 1, "{cas} after {}", self.cas_highest);
        self.cas_highest = cas;
    }

    fn store(&mut self, key: &[u8]) {
        let modes = [
            StoreMode::Set,
            StoreMode::Set,
            StoreMode::Add,
            StoreMode::Replace,
            StoreMode::Append,
            StoreMode::Prepend,
        ];
        let mode = modes[self.random.random_range(0..modes.len())];
        let value = self.any_value();
        let request = Store {
            mode,
            key,
            value: &value,
            client_flags: if self.random.random_bool(0.3) { self.random.random() } else { 0 },
            expiry: self.any_expiry(),
            compare: self.any_cas(key),
            explicit_cas: self.any_explicit_cas(),
            invalidate: self.random.random_bool(0.3),
            vivify: self.random.random_bool(0.3).then(|| self.any_expiry()),
            binary_key: self.random.random_bool(0.2),
        };
        let outcome = self.shard.store(self.now, &request);
        self.check_stored(&request, outcome);
    }

    #[track_caller]
    pub(crate) fn check_stored(&mut self, request: &Store<'_>, outcome: StoreOutcome) {
        match (outcome, self.store_in_twin(request)) {
            (StoreOutcome::Stored { cas, value_len }, Ok(mut item)) => {
                assert_eq!(value_len, item.value.len());
                self.check_new_cas(cas, request.explicit_cas);
                item.cas = cas;
                self.twin.insert(request.key.to_vec(), item);
            }
            (StoreOutcome::NoMemory, Ok(_)) => self.forget_if_set(request),
            // The present item may have been evicted while its successor looked for room; never in this engine.
            (outcome, expected) => {
                assert_eq!(Some(outcome), expected.err(), "{:?}", request.mode);
                if outcome == StoreOutcome::TooLarge {
                    self.forget_if_set(request);
                }
            }
        }
    }

    pub(crate) fn forget_if_set(&mut self, request: &Store<'_>) {
        if request.mode == StoreMode::Set && request.compare.is_none() {
            self.twin.remove(request.key);
            assert!(self.shard.peek(self.now, request.key).is_none());
        } else if let Some(item) = self.twin.get(request.key) {
            match self.shard.peek(self.now, request.key) {
                Some(kept) => assert_eq!(value_of(&kept), item.value),
                // It may have lain in a page that left after the refusal.
                None => assert!(self.may_forget, "a refused store keeps the old item"),
            }
        }
    }

    fn store_in_twin(&self, request: &Store<'_>) -> Result<TwinItem, StoreOutcome> {
        if request.value.len() > self.value_size_max {
            return Err(StoreOutcome::TooLarge);
        }
        let new = TwinItem {
            value: request.value.to_vec(),
            client_flags: request.client_flags,
            expiry: request.expiry,
            cas: 0,
            stale: false,
            token_sent: false,
            binary_key: request.binary_key,
            fetched: false,
        };
        let old = self.twin.get(request.key);
        match request.mode {
            StoreMode::Add if old.is_some() => Err(StoreOutcome::NotStored),
            StoreMode::Add => Ok(new),
            StoreMode::Set | StoreMode::Replace => match (old, request.compare) {
                (None, Some(_)) => Err(StoreOutcome::NotFound),
                (None, None) if request.mode == StoreMode::Replace => Err(StoreOutcome::NotStored),
                (_, None) => Ok(new),
                (Some(old), Some(cas)) if cas == old.cas => Ok(new),
                (Some(old), Some(cas)) if request.invalidate && cas != 0 && cas < old.cas => {
                    Ok(TwinItem { stale: true, token_sent: old.token_sent, expiry: old.expiry, ..new })
                }
                _ => Err(StoreOutcome::Exists),
            },
            StoreMode::Append | StoreMode::Prepend => match (old, request.vivify) {
                (None, Some(expiry)) => Ok(TwinItem { expiry, ..new }),
                (None, None) => Err(StoreOutcome::NotStored),
                (Some(old), _) => self.extend_in_twin(old, request),
            },
        }
    }

    fn extend_in_twin(&self, old: &TwinItem, request: &Store<'_>) -> Result<TwinItem, StoreOutcome> {
        if request.compare.is_some_and(|cas| cas != 0 && cas != old.cas) {
            return Err(StoreOutcome::Exists);
        }
        let value = match request.mode {
            StoreMode::Append => [&old.value, request.value].concat(),
            _ => [request.value, &old.value].concat(),
        };
        if value.len() > self.value_size_max {
            return Err(StoreOutcome::TooLarge);
        }
        let binary_key = old.binary_key || request.binary_key;
        Ok(TwinItem { value, stale: false, token_sent: false, fetched: false, binary_key, ..old.clone() })
    }

    /// A copy of an item that never was here, or of a later state of one that is.
    fn put_image(&mut self, key: &[u8]) {
        let value = self.any_value();
        let image = Image {
            key,
            value: &value,
            client_flags: if self.random.random_bool(0.3) { self.random.random() } else { 0 },
            expiry: self.any_expiry(),
            cas: self.random.random_range(1_000_000..u64::MAX),
            stale: self.random.random_bool(0.3),
            token_sent: self.random.random_bool(0.3),
            binary_key: self.random.random_bool(0.2),
            fetched: self.random.random_bool(0.2),
        };
        let is_stored = self.shard.put_image(self.now, &image);
        self.users.forget(key);
        self.twin.remove(key);
        if !is_stored {
            let is_too_large = value.len() > self.value_size_max;
            assert!(is_too_large || !self.may_forget || self.may_refuse(value.len()));
            return assert!(self.shard.peek(self.now, key).is_none());
        }
        let Image { client_flags, expiry, cas, stale, token_sent, binary_key, fetched, .. } = image;
        let cas = if self.cas_enabled { cas } else { 0 };
        let item = TwinItem { value, client_flags, expiry, cas, stale, token_sent, binary_key, fetched };
        self.twin.insert(key.to_vec(), item);
    }

    fn flush_group(&mut self, key: &[u8]) {
        if self.cas_enabled {
            self.shard.flush_group(group_of(key), group_of);
            self.twin.retain(|other, _| group_of(other) != group_of(key));
            self.users.forget_all();
        }
    }

    fn get(&mut self, key: &[u8]) {
        let twin = self.twin.get_mut(key);
        let item = self.shard.get(self.now, key);
        assert_eq!(item.is_some(), twin.is_some());
        if let (Some(item), Some(twin)) = (item, twin) {
            assert_eq!(value_of(&item), twin.value);
            assert_eq!(item.fetched(), twin.fetched);
            twin.fetched = true;
            self.hits += 1;
        }
    }

    fn touch(&mut self, key: &[u8]) {
        let expiry = self.any_expiry();
        let get_too = self.random.random_bool(0.5);
        let twin = self.twin.get_mut(key);
        let cas = match get_too {
            true => self.shard.get_and_touch(self.now, key, expiry).map(|item| {
                assert!(
                    item.expiry() == expiry
                        && Some(value_of(&item)) == twin.as_ref().map(|t| t.value.clone())
                );
                item.cas()
            }),
            false => self.shard.touch(self.now, key, expiry),
        };
        assert_eq!(cas, twin.as_ref().map(|item| item.cas));
        if let Some(item) = twin {
            item.expiry = expiry;
            item.fetched = true;
        }
    }

    fn fetch(&mut self, key: &[u8]) {
        let request = Fetch {
            bump: self.random.random_bool(0.7),
            touch: self.random.random_bool(0.2).then(|| self.any_expiry()),
            vivify: self.random.random_bool(0.2).then(|| self.any_expiry()),
            recache_below: self.random.random_bool(0.5).then(|| self.random.random_range(0..120)),
            recache_after_touch: self.random.random(),
            explicit_cas: self.any_explicit_cas(),
            binary_key: self.random.random_bool(0.2),
        };
        let now = self.now;
        let (won, cas) = match (self.shard.fetch(now, key, &request), self.twin.get_mut(key)) {
            (Fetched::Miss, None) => {
                assert!(request.vivify.is_none());
                return;
            }
            (Fetched::NoMemory, None) => {
                assert!(request.vivify.is_some() && (!self.may_forget || self.may_refuse(0)));
                return;
            }
            (Fetched::Hit { item, won, stale, token_sent, created, .. }, None) => {
                assert_eq!((won, stale, token_sent, item.value_len()), (true, false, false, 0));
                assert!(created);
                (None, item.cas())
            }
            (Fetched::Hit { item, expiry_before, won, stale, token_sent, created }, Some(twin)) => {
                assert!(!created);
                assert_eq!(value_of(&item), twin.value);
                assert_eq!((expiry_before, stale, token_sent), (twin.expiry, twin.stale, twin.token_sent));
                let touched = request.touch.unwrap_or(twin.expiry);
                let compared = if request.recache_after_touch { touched } else { twin.expiry };
                let nearly_dead = match (compared, request.recache_below) {
                    (Expiry::At(at), Some(seconds)) => at.0.saturating_sub(now.0) < seconds,
                    _ => false,
                };
                assert_eq!(won, !twin.token_sent && (twin.stale || nearly_dead));
                twin.fetched |= request.bump;
                twin.expiry = touched;
                assert_eq!(item.expiry(), twin.expiry);
                (Some(won), 0)
            }
            (fetched, twin) => panic!("{fetched:?} against {twin:?}"),
        };
        match won {
            Some(true) => self.twin.get_mut(key).unwrap().token_sent = self.token_was_kept(key),
            Some(false) => {}
            None => self.insert_vivified(key, &request, cas),
        }
    }

    /// In a full shard without eviction the mark may find no room; the engine says so by letting others win too.
    fn token_was_kept(&mut self, key: &[u8]) -> bool {
        match self.shard.fetch(self.now, key, &Fetch { bump: false, ..Fetch::default() }) {
            Fetched::Hit { token_sent, .. } => {
                assert!(token_sent || !self.may_forget);
                token_sent
            }
            _ => false,
        }
    }

    fn insert_vivified(&mut self, key: &[u8], request: &Fetch, cas: u64) {
        self.check_new_cas(cas, request.explicit_cas);
        let item = TwinItem {
            value: Vec::new(),
            client_flags: 0,
            expiry: request.vivify.unwrap(),
            cas,
            stale: false,
            token_sent: true,
            binary_key: request.binary_key,
            fetched: request.bump,
        };
        self.twin.insert(key.to_vec(), item);
    }

    fn arithmetic(&mut self, key: &[u8]) {
        let request = Arithmetic {
            key,
            delta: if self.random.random_bool(0.1) { u64::MAX } else { self.random.random_range(0..500) },
            decrement: self.random.random(),
            compare: self.any_cas(key),
            explicit_cas: self.any_explicit_cas(),
            touch: self.random.random_bool(0.2).then(|| self.any_expiry()),
            vivify: self
                .random
                .random_bool(0.3)
                .then(|| (self.random.random_range(0..100), self.any_expiry())),
            binary_key: false,
        };
        let outcome = self.shard.arithmetic(self.now, &request);
        let Some(old) = self.twin.get(key).cloned() else { return self.check_created(&request, outcome) };
        let number =
            std::str::from_utf8(&old.value).ok().and_then(|text| text.trim_matches(' ').parse::<u64>().ok());
        let plain = old.value.iter().all(|&byte| byte.is_ascii_digit() || byte == b' ');
        match (outcome, number.filter(|_| plain)) {
            (ArithmeticOutcome::Exists, _) => {
                assert!(!matches!(request.compare, None | Some(0)) && request.compare != Some(old.cas));
            }
            (ArithmeticOutcome::NonNumeric, number) => assert!(number.is_none(), "{:?}", old.value),
            (ArithmeticOutcome::NoMemory, Some(_)) => assert!(!self.may_forget || self.may_refuse(0)),
            (
                ArithmeticOutcome::Value { value, cas, expiry, expiry_before, created: false },
                Some(number),
            ) => {
                assert_eq!(expiry_before, old.expiry);
                let expected = match request.decrement {
                    true => number.saturating_sub(request.delta),
                    false => number.wrapping_add(request.delta),
                };
                assert_eq!((value, expiry), (expected, request.touch.unwrap_or(old.expiry)));
                self.check_new_cas(cas, request.explicit_cas);
                let text = self.number_text(key, value, expiry);
                self.twin.insert(key.to_vec(), TwinItem { value: text, expiry, cas, ..old });
            }
            (outcome, number) => panic!("{outcome:?} on {number:?}"),
        }
    }

    /// The stored form, which may or may not be padded on the right.
    fn number_text(&self, key: &[u8], value: u64, expiry: Expiry) -> Vec<u8> {
        let plain = value.to_string().into_bytes();
        match self.shard.peek(self.now, key) {
            Some(item) => {
                let stored = value_of(&item);
                assert_eq!(stored.trim_ascii_end(), plain);
                stored
            }
            None => {
                assert!(expiry.is_past(self.now) || self.may_forget);
                plain
            }
        }
    }

    fn check_created(&mut self, request: &Arithmetic<'_>, outcome: ArithmeticOutcome) {
        match (outcome, request.vivify) {
            (ArithmeticOutcome::NotFound, None) => {}
            (ArithmeticOutcome::NoMemory, Some(_)) => assert!(!self.may_forget || self.may_refuse(0)),
            (
                ArithmeticOutcome::Value { value, cas, expiry, expiry_before, created: true },
                Some(initial),
            ) => {
                assert_eq!(expiry_before, Expiry::Never);
                assert_eq!((value, expiry), initial);
                self.check_new_cas(cas, request.explicit_cas);
                let item = TwinItem {
                    value: value.to_string().into_bytes(),
                    client_flags: 0,
                    expiry,
                    cas,
                    stale: false,
                    token_sent: false,
                    binary_key: request.binary_key,
                    fetched: false,
                };
                self.twin.insert(request.key.to_vec(), item);
            }
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, key: &[u8]) {
        let touch = self.random.random_bool(0.5).then(|| self.any_expiry());
        let mode = match self.random.random_range(0..4) {
            0 | 1 => DeleteMode::Remove,
            2 => DeleteMode::Invalidate { touch },
            _ => DeleteMode::DropValue { invalidate: self.random.random(), touch },
        };
        let request = Delete { key, compare: self.any_cas(key), mode, explicit_cas: self.any_explicit_cas() };
        let outcome = self.shard.delete(self.now, &request);
        let Some(old) = self.twin.get(key).cloned() else {
            return assert_eq!(outcome, DeleteOutcome::NotFound);
        };
        if request.compare.is_some_and(|cas| cas != old.cas) {
            return assert_eq!(outcome, DeleteOutcome::Exists);
        }
        assert_eq!(outcome, DeleteOutcome::Deleted);
        self.twin.remove(key);
        let expiry = match mode {
            DeleteMode::Remove => return assert!(self.shard.peek(self.now, key).is_none()),
            DeleteMode::Invalidate { .. } => touch.unwrap_or(old.expiry),
            DeleteMode::DropValue { .. } => touch.unwrap_or(Expiry::Never),
        };
        let Some(cas) = self.shard.peek(self.now, key).map(|item| item.cas()) else {
            // Without room for the mark, for which a pinned item would have to be written anew, the item is removed.
            self.look_at(key);
            return assert!(expiry.is_past(self.now) || !self.may_forget || self.may_refuse(old.value.len()));
        };
        let left = self.left_of(old, mode, expiry, cas, request.explicit_cas);
        self.twin.insert(key.to_vec(), left);
    }

    fn left_of(
        &mut self,
        old: TwinItem,
        mode: DeleteMode,
        expiry: Expiry,
        cas: u64,
        explicit_cas: Option<u64>,
    ) -> TwinItem {
        match mode {
            DeleteMode::DropValue { invalidate, .. } => {
                if invalidate || explicit_cas.is_some() {
                    self.check_new_cas(cas, explicit_cas);
                } else {
                    assert_eq!(cas, old.cas);
                }
                let value = Vec::new();
                TwinItem {
                    value,
                    client_flags: 0,
                    stale: invalidate,
                    token_sent: false,
                    fetched: false,
                    expiry,
                    cas,
                    ..old
                }
            }
            _ => {
                self.check_new_cas(cas, explicit_cas);
                TwinItem { stale: true, token_sent: false, expiry, cas, ..old }
            }
        }
    }

    /// Mostly time passes. Now and then somebody sets the clock, or the machine was suspended.
    fn pass_time(&mut self) {
        match self.random.random_range(0..50) {
            0 => self.now.0 += self.random.random_range(0..20_000),
            1 => {
                self.now.0 -= self.random.random_range(0..1_000);
                // What was dead when a scan came by may live again.
                self.users.forget_all();
            }
            _ => self.now.0 += self.random.random_range(0..20),
        }
        self.latest = self.latest.max(self.now);
    }

    fn maintain(&mut self) {
        let chunks = self.random.random_range(0..2_000);
        let swept = self.shard.sweep(self.now, chunks);
        assert!(swept.examined <= chunks && swept.freed <= swept.examined);
        let limit = self.shard.memory().limit;
        let external = if self.random.random_bool(0.5) { 0 } else { self.random.random_range(0..limit / 3) };
        self.shard.set_external_bytes(external);
        self.shard.maintain(self.now, chunks);
        assert!(self.shard.memory().external <= external);
    }

    fn flush(&mut self) {
        if self.random.random() {
            self.shard.flush();
            self.twin.clear();
            self.users.forget_all();
            self.flush_at = None;
        } else {
            let at = Seconds(self.now.0 + self.random.random_range(0..50));
            self.shard.flush_at(at);
            self.flush_at = Some(at);
        }
    }
}

/// Few groups, so that each has some keys, at both ends of the table.
fn group_of(key: &[u8]) -> u16 {
    let sum = key.iter().fold(0, |sum: u16, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    match sum % 8 {
        group @ 0..4 => group,
        group => GROUPS - group,
    }
}

pub(crate) fn value_of(item: &Item<'_>) -> Vec<u8> {
    let mut value = Vec::new();
    item.value().copy_to(&mut value);
    assert_eq!(value.len(), item.value().len());
    if let Some(whole) = item.value().as_slice() {
        assert_eq!(whole, value);
    }
    value
}
