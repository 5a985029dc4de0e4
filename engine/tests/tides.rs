//! What the caller uses comes and goes at any moment, while values of changing sizes fill the cache and some of them are held: whatever
//! is small finds room.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use slabring_engine::{
    Config, Delete, DeleteMode, Expiry, Pin, PolicyKind, Reservation, Room, Seconds, Shard, Store,
    StoreOutcome,
};

const NOW: Seconds = Seconds(1_700_000_000);
const MEMORY: usize = 16 << 20;
/// About what an item takes beside its value.
const OVERHEAD: usize = 400;
/// What always finds room: an item of so much fits a chunk in the smallest shard here.
const SMALL_MAX: usize = 700;
const ROUNDS: usize = 10;
const STEPS_MAX: usize = 6_000;

#[test]
fn stores_find_room_while_external_bytes_come_and_go() {
    for seed in 0..6 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut shard = Shard::new(&Config { hash_seed: Some(seed), ..Config::with_memory(MEMORY) }).unwrap();
        let (tide, upkeep) = (random.random_range(1..500), random.random_range(1..400));
        let most = random.random_range(1..MEMORY / 2);
        for (round, size) in [100_usize, 3_000, 60_000, 100, 900_000, 100].into_iter().enumerate() {
            let value = vec![b'v'; size];
            for item in 0..2 * MEMORY / (size + OVERHEAD) {
                if random.random_range(0..tide) == 0 {
                    let is_low = random.random_bool(0.3);
                    shard.set_external_bytes(if is_low { 0 } else { random.random_range(0..most) });
                }
                if random.random_range(0..upkeep) == 0 {
                    shard.maintain(NOW, 64);
                }
                let key = format!("{round}:{item}");
                let stored = shard.store(NOW, &Store::set(key.as_bytes(), &value, Expiry::Never));
                let memory = shard.memory();
                assert!(
                    matches!(stored, StoreOutcome::Stored { .. }),
                    "seed {seed}, {key}: {stored:?}, {memory:?}"
                );
            }
        }
        shard.check_invariants();
    }
}

/// A shard of which much is held, and what holds it.
struct Crowd {
    random: SmallRng,
    shard: Shard,
    now: Seconds,
    pins: Vec<Pin>,
    reservations: Vec<Reservation>,
    /// Keys that were set are below.
    keys: u32,
    value: Vec<u8>,
}

impl Crowd {
    fn new(seed: u64) -> Crowd {
        let mut random = SmallRng::seed_from_u64(seed);
        let memory = [1 << 20, 3 << 20, 8 << 20, 16 << 20][random.random_range(0..4)];
        let policies = [PolicyKind::TinyLfu, PolicyKind::S3Fifo, PolicyKind::Lru, PolicyKind::Clock];
        let policy = policies[random.random_range(0..policies.len())];
        let config = Config { hash_seed: Some(seed), policy, ..Config::with_memory(memory) };
        let shard = Shard::new(&config).expect("a good configuration");
        let value = vec![b'v'; (1 << 20).min(memory / 3)];
        Crowd { random, shard, now: NOW, pins: Vec::new(), reservations: Vec::new(), keys: 0, value }
    }

    fn is(&mut self, per_mille: u32) -> bool {
        self.random.random_range(0..1_000) < per_mille
    }

    fn size(&mut self) -> usize {
        let bits = self.random.random_range(3..20);
        self.random.random_range(1 << bits..2 << bits).min(self.value.len())
    }

    /// One that was set lately, or long ago.
    fn some_key(&mut self) -> [u8; 4] {
        let lately = self.is(700);
        let back = self.random.random_range(0..if lately { 50 } else { 5_000 });
        self.keys.saturating_sub(back).to_be_bytes()
    }

    fn set(&mut self, size: usize) -> StoreOutcome {
        self.keys += 1;
        let expiry = if self.is(100) { Expiry::At(Seconds(self.now.0 + 3)) } else { Expiry::Never };
        let key = if self.is(900) { self.keys.to_be_bytes() } else { self.some_key() };
        self.shard.store(self.now, &Store::set(&key, &self.value[..size], expiry))
    }

    fn pin_or_unpin(&mut self, share: u32) {
        if self.is(share) {
            let key = self.some_key();
            self.pins.extend(self.shard.pin(self.now, &key));
        } else if !self.pins.is_empty() {
            let at = self.random.random_range(0..self.pins.len());
            self.shard.unpin(self.pins.swap_remove(at));
        }
    }

    fn reserve_or_fill(&mut self, share: u32) {
        if self.is(share) || self.reservations.is_empty() {
            let size = self.size().max(1);
            self.keys += 1;
            let key = self.keys.to_be_bytes();
            let request = Store::set(&key, &[], Expiry::Never);
            self.reservations.extend(self.shard.reserve(self.now, &request, size));
            return;
        }
        let at = self.random.random_range(0..self.reservations.len());
        let mut reservation = self.reservations.swap_remove(at);
        for _ in 0..self.random.random_range(1..40) {
            if reservation.left() == 0 {
                break;
            }
            match self.shard.space(self.now, &mut reservation) {
                Room::Here(space) => {
                    space.fill(b'r');
                    let bytes = space.len();
                    self.shard.filled(&mut reservation, bytes);
                }
                Room::Later | Room::NoMemory => break,
            }
        }
        if reservation.left() == 0 {
            self.shard.commit(self.now, reservation);
        } else if self.is(100) {
            self.shard.abandon(reservation);
        } else {
            self.reservations.push(reservation);
        }
    }

    fn end(mut self) {
        self.pins.drain(..).for_each(|pin| self.shard.unpin(pin));
        self.reservations.drain(..).for_each(|reservation| self.shard.abandon(reservation));
        self.shard.check_invariants();
    }
}

/// How often something is done beside a store, in thousandths.
struct Mood {
    tide: u32,
    limit: u32,
    pin: u32,
    /// Of those that pin or unpin.
    pin_more: u32,
    reserve: u32,
    /// Of those that reserve or fill.
    reserve_more: u32,
    large: u32,
    upkeep: u32,
    /// Of the large values.
    size: usize,
    tide_bytes_max: usize,
    memory: usize,
}

impl Mood {
    fn new(crowd: &mut Crowd, memory: usize) -> Mood {
        let [tide, limit, pin, reserve, large, upkeep] =
            [(); 6].map(|()| [0, 3, 30, 300][crowd.random.random_range(0..4)]);
        let [pin_more, reserve_more] = [400, 100].map(|least| least + crowd.random.random_range(0..300));
        let (size, tide_bytes_max) = (crowd.size(), crowd.random.random_range(1..memory));
        let limit = limit / 30;
        Mood {
            tide,
            limit,
            pin,
            pin_more,
            reserve,
            reserve_more,
            large,
            upkeep,
            size,
            tide_bytes_max,
            memory,
        }
    }
}

impl Crowd {
    /// What happens between two small stores.
    fn stir(&mut self, mood: &Mood) {
        if self.is(mood.tide) {
            let bytes = if self.is(300) { 0 } else { self.random.random_range(0..mood.tide_bytes_max) };
            self.shard.set_external_bytes(bytes);
        }
        if self.is(mood.limit) {
            let bytes = if self.is(500) { mood.memory } else { self.random.random_range(0..mood.memory) };
            self.shard.set_memory_limit(bytes);
        }
        if self.is(mood.pin) {
            self.pin_or_unpin(mood.pin_more);
        }
        if self.is(mood.reserve) {
            self.reserve_or_fill(mood.reserve_more);
        }
        if self.is(mood.upkeep) {
            self.shard.maintain(self.now, 64);
        }
        let key = &self.some_key()[..];
        if self.is(200) {
            self.shard.get(self.now, key);
        }
        if self.is(10) {
            let delete = Delete { key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
            self.shard.delete(self.now, &delete);
        }
        self.now.0 += u32::from(self.is(1));
        if self.is(mood.large) {
            // Too much may be held for it.
            let _stored_or_refused = self.set(mood.size);
        }
    }
}

#[track_caller]
fn check_small_values_find_room(seed: u64) {
    let mut crowd = Crowd::new(seed);
    let memory = crowd.shard.memory().limit;
    for round in 0..ROUNDS {
        let mood = Mood::new(&mut crowd, memory);
        for step in 0..crowd.random.random_range(1..STEPS_MAX) {
            crowd.stir(&mood);
            let size = crowd.random.random_range(0..SMALL_MAX);
            let stored = crowd.set(size);
            let (memory, pins, reservations) =
                (crowd.shard.memory(), crowd.pins.len(), crowd.reservations.len());
            assert!(
                matches!(stored, StoreOutcome::Stored { .. }),
                "seed {seed}, round {round}, step {step}, {size} bytes: {stored:?}, {memory:?}, {pins} pins, {reservations} reservations",
            );
        }
    }
    crowd.end();
}

#[test]
fn small_values_find_room_whatever_is_held_and_limited() {
    let variable = |name: &str, default| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let (first, seeds) = (variable("SLABRING_FIRST_SEED", 0), variable("SLABRING_SEEDS", 5));
    for seed in first..first + seeds {
        check_small_values_find_room(seed);
    }
}
