//! A trace against one shard: how many of its gets miss. Fully determined by its arguments.

use slabring_engine::{
    Config, ConfigError, Delete, DeleteMode, Expiry, ITEM_SIZE_MAX, PolicyKind, Seconds, Shard, Store,
    StoreOutcome,
};

use slabring_load::trace::{Operation, Request, Trace};

/// The keys on the wire: a number that cannot be guessed from its neighbours, in hexadecimal.
const KEY_BYTES: usize = 16;
/// Bytes of every value where only the number of objects counts.
const OBJECT_VALUE_BYTES: usize = 8;
/// Far more than such an object takes, all in: where objects are counted, memory never is what limits.
const OBJECT_BYTES_MAX: usize = 256;
const OBJECTS_MEMORY_BYTES_MIN: usize = 16 << 20;

/// The trace's second 0.
const START: Seconds = Seconds(1_700_000_000);
/// The sweeper comes by every chunk in about this time, as the server's does.
const SWEEP_PERIOD_SECONDS: u32 = 60;

/// What limits the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Budget {
    /// This many items of one size.
    Objects(usize),
    /// This many bytes of memory for everything, with the sizes of the trace.
    Bytes(usize),
}

/// What a replay came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) gets: u64,
    pub(crate) misses: u64,
    pub(crate) evictions: u64,
    /// Stores that found no room.
    pub(crate) refused: u64,
    /// Items at the end.
    pub(crate) items: u64,
}

/// Plays a whole trace, from an empty cache on. The seed decides which keys the engine samples.
pub(crate) fn replay(
    trace: &Trace,
    policy: PolicyKind,
    budget: Budget,
    seed: u64,
) -> Result<Replayed, ConfigError> {
    let mut player = Player::new(trace, policy, budget, seed)?;
    for request in &trace.requests {
        player.play(request);
    }
    let counters = player.shard.counters();
    Ok(Replayed { evictions: counters.evictions, items: counters.items, ..player.replayed })
}

struct Player {
    shard: Shard,
    now: Seconds,
    budget: Budget,
    /// As long as the longest value of the trace.
    value: Vec<u8>,
    replayed: Replayed,
}

impl Player {
    fn new(trace: &Trace, policy: PolicyKind, budget: Budget, seed: u64) -> Result<Self, ConfigError> {
        let value_bytes_max = trace.size_max_bytes().max(OBJECT_VALUE_BYTES);
        let shard = Shard::new(&config(policy, budget, value_bytes_max, seed))?;
        let value = vec![b'v'; value_bytes_max];
        Ok(Self { shard, now: START, budget, value, replayed: Replayed::default() })
    }

    fn play(&mut self, request: &Request) {
        self.advance_to(Seconds(START.0 + request.second));
        let key = wire_key(request.key);
        match request.operation {
            Operation::Get => {
                self.replayed.gets += 1;
                if self.shard.get(self.now, &key).is_none() {
                    self.replayed.misses += 1;
                    self.store(&key, request);
                }
            }
            Operation::Set => self.store(&key, request),
            Operation::Delete => {
                let delete =
                    Delete { key: &key, compare: None, mode: DeleteMode::Remove, explicit_cas: None };
                self.shard.delete(self.now, &delete);
            }
        }
    }

    fn store(&mut self, key: &[u8], request: &Request) {
        let value_bytes = match self.budget {
            Budget::Objects(_) => OBJECT_VALUE_BYTES,
            Budget::Bytes(_) => (request.size_bytes as usize).saturating_sub(KEY_BYTES),
        };
        let expiry = match request.ttl_seconds {
            0 => Expiry::Never,
            seconds => Expiry::At(Seconds(self.now.0.saturating_add(seconds))),
        };
        let outcome = self.shard.store(self.now, &Store::set(key, &self.value[..value_bytes], expiry));
        self.replayed.refused += u64::from(!matches!(outcome, StoreOutcome::Stored { .. }));
    }

    /// Lets the sweeper do what it would have done in the time between two requests.
    fn advance_to(&mut self, now: Seconds) {
        if now <= self.now {
            return;
        }
        let seconds = (now.0 - self.now.0).min(SWEEP_PERIOD_SECONDS);
        self.now = now;
        let chunks: usize = self.shard.classes().map(|class| class.used + class.free).sum();
        self.shard.sweep(now, chunks * seconds as usize / SWEEP_PERIOD_SECONDS as usize + 1);
    }
}

fn config(policy: PolicyKind, budget: Budget, value_bytes_max: usize, seed: u64) -> Config {
    let (memory_bytes, items_max) = match budget {
        Budget::Objects(count) => ((count * OBJECT_BYTES_MAX).max(OBJECTS_MEMORY_BYTES_MIN), Some(count)),
        Budget::Bytes(bytes) => (bytes, None),
    };
    let common = Config::with_memory(memory_bytes);
    let item_size_max = common.item_size_max.max(value_bytes_max).min(ITEM_SIZE_MAX);
    Config { policy, items_max, item_size_max, hash_seed: Some(seed), ..common }
}

/// The key in the form a client would send.
fn wire_key(key: u64) -> [u8; KEY_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mixed = splitmix64(key).to_be_bytes();
    std::array::from_fn(|at| {
        let byte = mixed[at / 2];
        DIGITS[usize::from(if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 })]
    })
}

/// A bijection that leaves no order in its results.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
fn splitmix64(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(requests: Vec<Request>) -> Trace {
        Trace { name: "test".into(), keys: 1 << 20, unique_bytes: 0, requests }
    }

    #[track_caller]
    fn check(requests: Vec<Request>, budget: Budget, gets: u64, misses: u64) -> Replayed {
        let trace = trace(requests);
        let replayed = replay(&trace, PolicyKind::Clock, budget, 1).unwrap();
        assert_eq!((replayed.gets, replayed.misses), (gets, misses), "{replayed:?}");
        assert_eq!(replay(&trace, PolicyKind::Clock, budget, 1).unwrap(), replayed, "the same again");
        replayed
    }

    #[test]
    fn a_miss_fills_the_cache_and_only_gets_count() {
        let set = |key| Request { operation: Operation::Set, ..Request::get(key, 100) };
        let delete = |key| Request { operation: Operation::Delete, ..Request::get(key, 0) };
        let requests = vec![
            Request::get(1, 100),
            Request::get(1, 100),
            set(2),
            Request::get(2, 100),
            delete(1),
            Request::get(1, 100),
        ];
        for budget in [Budget::Objects(100), Budget::Bytes(1 << 20)] {
            assert_eq!(check(requests.clone(), budget, 4, 2).items, 2);
        }
    }

    #[test]
    fn items_expire_as_the_time_of_the_trace_goes_by() {
        let at = |second| Request { ttl_seconds: 10, second, ..Request::get(1, 100) };
        check(vec![at(0), at(9)], Budget::Objects(100), 2, 1);
        check(vec![at(0), at(9), at(10), at(19)], Budget::Objects(100), 4, 2);
        check(vec![at(0), at(10), at(19), at(20)], Budget::Objects(100), 4, 3);
    }

    #[test]
    fn a_budget_of_objects_holds_that_many() {
        let scan = |count| (0..count).map(|key| Request::get(key, 1_000_000));
        check(scan(300).chain(scan(300)).collect(), Budget::Objects(300), 600, 300);
        let replayed = check(scan(1000).collect(), Budget::Objects(300), 1000, 1000);
        assert_eq!((replayed.items, replayed.evictions), (300, 700));
    }

    #[test]
    fn a_budget_of_bytes_is_charged_with_the_sizes_of_the_trace() {
        let scan = |bytes| (0..1000).map(|key| Request::get(key, bytes)).collect();
        let small = check(scan(100), Budget::Bytes(1 << 20), 1000, 1000);
        assert_eq!((small.items, small.refused), (1000, 0));
        let large = check(scan(10_000), Budget::Bytes(1 << 20), 1000, 1000);
        assert!((50..105).contains(&large.items), "{large:?}");
        assert_eq!(check(scan(1 << 20), Budget::Bytes(1 << 20), 1000, 1000).refused, 1000);
    }

    /// Misses of a plain list of keys, the one used last at its front.
    fn lru_misses(requests: &[Request], capacity: usize) -> u64 {
        let mut list: Vec<u64> = Vec::new();
        let mut misses = 0;
        for request in requests {
            match list.iter().position(|&key| key == request.key) {
                Some(at) => list.remove(at),
                None => {
                    misses += 1;
                    0
                }
            };
            list.insert(0, request.key);
            list.truncate(capacity);
        }
        misses
    }

    #[test]
    fn lru_misses_exactly_as_often_as_the_obvious_list() {
        let skewed = |at: u64| splitmix64(at) % (1 + splitmix64(!at) % 700);
        let trace = trace((0..20_000).map(|at| Request::get(skewed(at), 50)).collect());
        for capacity in [1, 10, 100, 300] {
            let replayed = replay(&trace, PolicyKind::Lru, Budget::Objects(capacity), 1).unwrap();
            assert_eq!(replayed.misses, lru_misses(&trace.requests, capacity), "{capacity}");
        }
    }

    #[test]
    fn keys_are_the_mixed_number_in_hexadecimal() {
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(&wire_key(0), b"e220a8397b1dcdaf");
    }
}
