use std::collections::HashMap;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;

/// The index, and a map from hash to location that must always agree. A location's hash is a function of it.
struct Pair {
    index: Index,
    twin: HashMap<u32, u64>,
}

fn hash_of(location: Location) -> u64 {
    let mixed = (u64::from(location.0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl Pair {
    fn new(items_max: usize, buckets: usize) -> Pair {
        Pair { index: Index::reserve(items_max, buckets, false).unwrap(), twin: HashMap::new() }
    }

    fn insert(&mut self, location: u32) {
        let hash = hash_of(Location(location));
        self.grow_a_little();
        assert!(self.index.can_insert(hash));
        let bytes_max = self.index.bytes() + self.index.insert_bytes_max(hash);
        self.index.insert(hash, Location(location));
        assert!(self.index.bytes() <= bytes_max);
        self.twin.insert(location, hash);
    }

    fn grow_a_little(&mut self) {
        self.index.begin_growth_if_loaded();
        if self.index.is_growing() && self.index.can_migrate() {
            let bytes_max = self.index.bytes() + self.index.migrate_bytes_max();
            self.index.migrate_bucket(hash_of);
            assert!(self.index.bytes() <= bytes_max);
        }
    }

    fn remove(&mut self, location: u32) {
        let hash = self.twin.remove(&location).unwrap();
        self.index.remove(hash, Location(location));
    }

    #[track_caller]
    fn check(&self) {
        let mut seen = 0;
        self.index.validate(|location| {
            assert!(self.twin.contains_key(&location.0));
            seen += 1;
        });
        assert_eq!(seen, self.twin.len());
        for (&location, &hash) in &self.twin {
            assert_eq!(self.index.find(hash, |at| at.0 == location), Some(Location(location)));
        }
    }
}

#[test]
fn random_inserts_and_removals_agree_with_a_map_through_many_growths() {
    for seed in 0..8 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut pair = Pair::new(20_000, 1 + usize::try_from(seed).unwrap());
        for step in 0..30_000 {
            let location = random.random_range(0..8_000);
            if pair.twin.contains_key(&location) {
                if random.random_bool(0.6) {
                    pair.remove(location);
                }
            } else {
                pair.insert(location);
            }
            if step % 3_000 == 0 {
                pair.check();
            }
        }
        pair.check();
    }
}

#[test]
fn a_replaced_location_is_found_and_its_predecessor_is_not() {
    let mut pair = Pair::new(100, 1);
    (0..40).for_each(|location| pair.insert(location));
    let hash = hash_of(Location(7));
    pair.index.replace(hash, Location(7), Location(700));
    assert_eq!(pair.index.find(hash, |at| at.0 == 7), None);
    assert_eq!(pair.index.find(hash, |at| at.0 == 700), Some(Location(700)));
}

#[test]
fn growth_moves_one_bucket_per_insert_and_is_done_before_it_is_needed_again() {
    let mut pair = Pair::new(400_000, 64);
    let mut growths = 0;
    for location in 0..400_000 {
        let growing = pair.index.is_growing();
        pair.insert(location);
        growths += u32::from(!growing && pair.index.is_growing());
        let slots = pair.index.buckets_next * SLOTS as u64;
        assert!(pair.index.items <= slots, "growth falls behind");
    }
    assert!(growths > 10);
    pair.check();
    let bytes_per_item = pair.index.bytes() as f64 / 400_000.0;
    assert!(bytes_per_item < 9.0, "{bytes_per_item}");
}

#[test]
fn an_emptied_index_has_given_back_every_overflow_bucket() {
    let mut pair = Pair::new(1000, 1);
    for location in 0..200 {
        let hash = hash_of(Location(location));
        pair.index.insert(hash, Location(location));
        pair.twin.insert(location, hash);
    }
    assert!(pair.index.overflow_used > 10);
    pair.check();
    (0..200).for_each(|location| pair.remove(location));
    pair.check();
    assert_eq!(pair.index.overflow_free_count, pair.index.overflow_used);
}
