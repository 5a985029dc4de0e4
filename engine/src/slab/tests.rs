use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::sizes::{CHUNKS_PER_PAGE_MIN, whole};
use super::*;
use crate::header::HeaderSize;

const PAGE_SIZE: usize = 16 << 10;

fn slabs(pages: usize) -> (Slabs, Arena) {
    let arena = Arena::reserve(pages * PAGE_SIZE, HeaderSize::Full, false).unwrap();
    (Slabs::new(PAGE_SIZE, pages, 48, 1.25), arena)
}

#[test]
fn every_size_finds_the_smallest_chunk_that_holds_it() {
    let slabs = Slabs::new(1 << 20, 16, 48, 1.25);
    for size in (1..5000).chain((5000..=CHUNK_SIZE_MAX).step_by(997)).chain([CHUNK_SIZE_MAX]) {
        let class = slabs.class_for(size);
        assert!(slabs.class(class).chunk_size >= size);
        assert!(class.0 == 0 || slabs.class(ClassId(class.0 - 1)).chunk_size < size);
    }
    assert_eq!(slabs.class(slabs.largest()).chunk_size, CHUNK_SIZE_MAX);
}

#[test]
fn any_growth_factor_reaches_the_largest_chunk_within_the_number_of_classes() {
    for growth_factor in [1.000_1, 1.05, 1.12, 1.25, 2.0, 1e9] {
        for page_size in [1 << 12, 1 << 16, 1 << 20] {
            let slabs = Slabs::new(page_size, 16, 13, growth_factor);
            assert!(slabs.classes.len() <= CLASSES_MAX);
            assert!(slabs.classes.windows(2).all(|pair| pair[0].chunk_size < pair[1].chunk_size));
            let largest = CHUNK_SIZE_MAX.min(page_size / CHUNKS_PER_PAGE_MIN);
            assert_eq!(slabs.class(slabs.largest()).chunk_size, largest);
        }
    }
}

#[test]
fn by_default_sizes_up_to_a_chunk_waste_three_to_six_percent_on_average_rests_of_pages_included() {
    let default = crate::Config::with_memory(1 << 20);
    for (page_size, used_min) in [(1 << 12, 0.94), (1 << 14, 0.94), (1 << 17, 0.95), (1 << 20, 0.96)] {
        let slabs = Slabs::new(page_size, 16, 48, default.growth_factor);
        let (mut used, mut taken) = (0.0, 0.0);
        // Every size class of items weighs the same: an even spread over the logarithm of sizes.
        let mut size = 48.0_f64;
        while size < slabs.class(slabs.largest()).chunk_size as f64 {
            let class = slabs.class(slabs.class_for(whole(size)));
            let share = page_size as f64 / f64::from(class.chunks_per_page);
            used += size.floor() / share;
            taken += 1.0;
            size *= 1.003;
        }
        println!("{page_size}: {} in {} classes", used / taken, slabs.classes.len());
        assert!(used / taken > used_min);
    }
}

#[test]
fn no_chunk_is_in_use_twice_whatever_the_order_of_taking_and_giving() {
    for seed in 0..10 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut slabs, mut arena) = slabs(8);
        let mut used: Vec<Location> = Vec::new();
        for _ in 0..4_000 {
            let class = ClassId(random.random_range(10..13));
            match random.random_range(0..10) {
                0 => drop(slabs.assign_page(class)),
                1 => {
                    if let Some(page) = slabs.empty_page() {
                        slabs.unassign_page(page);
                    }
                }
                2..=5 if !used.is_empty() => {
                    let given = used.swap_remove(random.random_range(0..used.len()));
                    slabs.give_chunk(given, &mut arena);
                }
                _ => {
                    if let Some(taken) = slabs.take_chunk(class, &arena) {
                        assert!(!used.contains(&taken) && slabs.class_of(taken) == class);
                        arena.set_header(taken, Header::reserved(Location::NONE));
                        used.push(taken);
                    }
                }
            }
        }
        slabs.validate(&arena);
        assert_eq!(slabs.classes.iter().map(|class| class.chunks_used).sum::<usize>(), used.len());
    }
}

#[test]
fn the_hand_visits_every_chunk_of_a_class_once_a_round() {
    let (mut slabs, mut arena) = slabs(4);
    let class = ClassId(12);
    let mut taken = Vec::new();
    for _ in 0..3 {
        slabs.assign_page(class).unwrap();
        while let Some(location) = slabs.take_chunk(class, &arena) {
            arena.set_header(location, Header::reserved(Location::NONE));
            taken.push(location);
        }
    }
    for _ in 0..2 {
        let mut visited: Vec<Location> = (0..taken.len())
            .map(|_| {
                let location = slabs.hand(class);
                slabs.advance_hand(class);
                location
            })
            .collect();
        visited.sort_by_key(|location| location.0);
        taken.sort_by_key(|location| location.0);
        assert_eq!(visited, taken);
    }
}
