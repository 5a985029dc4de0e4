//! Steps of a ring, walked through: nothing is held by nobody, and only what must move moves.

use super::*;
use crate::ring::Term;
use crate::simulation::dice::Dice;

fn ring(nodes: u16, replicas: u8, mode: Mode) -> Ring {
    let nodes: String = (1..=nodes)
        .map(|n| format!("[[node]]\npeer = \"10.0.{n}.1:7000\"\nclient = \"10.0.{n}.1:11211\"\n"))
        .collect();
    let mut document = RingDocument::from_toml(&format!("replicas = {replicas}\n{nodes}")).unwrap();
    document.mode = mode;
    Ring::new(upgrade(&Ring::new(document).unwrap()).unwrap()).unwrap()
}

#[track_caller]
fn step(ring: &mut Ring, next: Option<RingDocument>) {
    let next = next.expect("the step can be made");
    next.may_follow(ring.document()).unwrap();
    let next = Ring::new(next).unwrap();
    let keeps_parts = next.keeps_parts(ring);
    for partition in PartitionId::all().step_by(11).filter(|&partition| keeps_parts(partition)) {
        assert_eq!(
            next.assignment(partition),
            ring.assignment(partition),
            "{partition:?} is said to be as before"
        );
    }
    drop(keeps_parts);
    *ring = next;
}

fn loads(ring: &Ring) -> Vec<u32> {
    let mut loads = vec![0; ring.document().slots.len()];
    PartitionId::all().for_each(|partition| loads[usize::from(ring.primary(partition).0)] += 1);
    loads
}

#[test]
fn roles_are_level_within_a_hundredth_and_no_copy_moves() {
    for (nodes, replicas) in [(3, 2), (10, 2), (32, 3)] {
        let before = ring(nodes, replicas, Mode::Inval);
        let mut after = before.clone();
        while let Some(next) = level(&after) {
            step(&mut after, Some(next));
        }
        let loads = loads(&after);
        let mean = PARTITION_COUNT as f64 / f64::from(nodes);
        let most = f64::from(*loads.iter().max().unwrap());
        assert!(most / mean <= 1.01, "{nodes} nodes: {most} of {mean}");
        assert!(PartitionId::all().all(|partition| before.owners(partition) == after.owners(partition)));
    }
}

#[test]
fn a_join_moves_what_the_walk_says_in_batches_and_primaries_stay_where_they_can() {
    let mut ring = ring(4, 2, Mode::Sync);
    // The fourth joins: it had no weight.
    let mut without = next(&ring).unwrap();
    without.slots[3].weight = 0;
    step(&mut ring, Some(without));
    let before = ring.clone();
    let begun = begin(&ring, vec![256; 4]);
    step(&mut ring, begun);
    assert!(begin(&ring, vec![256, 256, 256, 9]).is_none(), "one movement at a time");
    assert!(flip(&ring, |_| false, |_| false).is_some(), "some do not move at all");
    let mut batches = 0;
    while finish(&ring).is_none() {
        let flipped = flip(&ring, |_| true, |_| false);
        let was = ring.clone();
        step(&mut ring, flipped);
        let moved = PartitionId::all().filter(|&partition| was.owners(partition) != ring.owners(partition));
        assert!(moved.count() <= FLIPS_MAX);
        batches += 1;
    }
    let finished = finish(&ring);
    step(&mut ring, finished);
    let moved = PartitionId::all().filter(|&partition| before.owners(partition) != ring.owners(partition));
    assert_eq!(batches, moved.count().div_ceil(FLIPS_MAX), "what stays needs no batches");
    let shape = crate::table::Slot { weight: crate::table::Weight::FULL, zone: crate::table::ZoneId(0) };
    let walk = |partition| crate::table::walk(partition, &[shape; 4], 2);
    for partition in PartitionId::all().step_by(7) {
        assert_eq!(ring.owners(partition), walk(partition));
        let was = before.primary(partition);
        let stays = ring.owners(partition).contains(&was);
        assert!(!stays || ring.primary(partition) == was, "{partition:?}");
    }
}

#[test]
fn in_a_ring_of_one_copy_a_dead_member_holds_up_no_movement_of_others() {
    // With the second dead as well, there is nothing to lose of what moves from one of them to the other.
    for (dead, weights) in [(&[0][..], [256, 256, 256, 256]), (&[0, 1], [0, 256, 256, 0])] {
        let mut ring = ring(4, 1, Mode::Rf1);
        let mut without = next(&ring).unwrap();
        without.slots[3].weight = 0;
        step(&mut ring, Some(without));
        for &slot in dead {
            let removed = remove(&ring, SlotId(slot));
            step(&mut ring, removed);
        }
        let begun = begin(&ring, weights.to_vec());
        step(&mut ring, begun);
        while finish(&ring).is_none() {
            let flipped = flip(&ring, |_| true, |_| false);
            step(&mut ring, flipped);
        }
    }
}

#[test]
fn what_a_dead_member_is_to_get_of_others_waits_for_it() {
    for (replicas, mode) in [(1, Mode::Rf1), (2, Mode::Inval)] {
        let mut ring = ring(4, replicas, mode);
        let removed = remove(&ring, SlotId(0));
        step(&mut ring, removed);
        let before = ring.clone();
        let begun = begin(&ring, vec![256, 64, 256, 256]);
        step(&mut ring, begun);
        while let Some(next) = flip(&ring, |_| true, |_| false) {
            step(&mut ring, Some(next));
        }
        assert!(finish(&ring).is_none());
        let held = |ring: &Ring, partition| ring.assignment(partition).in_sync.len();
        assert!(PartitionId::all().all(|partition| held(&ring, partition) >= held(&before, partition)));
        while finish(&ring).is_none() {
            let flipped = flip(&ring, |_| true, |slot| slot == SlotId(0));
            step(&mut ring, flipped);
        }
    }
}

#[test]
fn a_drained_member_leaves_and_holds_nothing() {
    let mut ring = ring(3, 2, Mode::Async);
    let mut draining = next(&ring).unwrap();
    draining.slots[0].state = NodeState::Draining;
    step(&mut ring, Some(draining));
    let begun = begin(&ring, vec![0, 256, 256]);
    step(&mut ring, begun);
    while finish(&ring).is_none() {
        let flipped = flip(&ring, |_| true, |_| false);
        step(&mut ring, flipped);
    }
    let finished = finish(&ring);
    step(&mut ring, finished);
    assert_eq!(ring.slot(SlotId(0)).state, NodeState::Left);
    assert!(PartitionId::all().all(|partition| !ring.owners(partition).contains(&SlotId(0))));
}

#[test]
fn a_member_goes_and_returns_filled() {
    let mut ring = ring(3, 2, Mode::Sync);
    let before = ring.clone();
    let removed = remove(&ring, SlotId(1));
    step(&mut ring, removed);
    assert!(remove(&ring, SlotId(1)).is_none(), "it is gone already");
    assert!(remove(&ring, SlotId(0)).is_none(), "it holds the last copy of something");
    let back = bring_back(&ring, SlotId(1), Incarnation(9));
    step(&mut ring, back);
    assert!(admit(&ring, SlotId(1), |partition| partition.index() != 5 && partition.index() != 6).is_none());
    let admitted = admit(&ring, SlotId(1), |_| true);
    step(&mut ring, admitted);
    assert!(PartitionId::all().all(|partition| before.primary(partition) == ring.primary(partition)));
    assert_eq!(ring.document().term, Term(5));
}

#[test]
fn what_may_lose_data_may_also_lose_its_last_copy() {
    let removed_all_but_one = |mode| {
        let mut ring = ring(3, 2, mode);
        for slot in [SlotId(0), SlotId(1)] {
            let removed = remove(&ring, slot);
            if removed.is_none() {
                return false;
            }
            step(&mut ring, removed);
        }
        true
    };
    assert!(removed_all_but_one(Mode::Inval) && !removed_all_but_one(Mode::Sync));
}

/// A movement to random weights of a random ring, with somebody who joins or leaves, gone on for a while; some have died meanwhile.
fn interrupted(dice: &mut Dice) -> (Ring, Ring) {
    let replicas = 1 + u8::try_from(dice.index(3)).unwrap();
    let mut ring = ring(4, replicas, if replicas == 1 { Mode::Rf1 } else { Mode::Inval });
    let mut without = next(&ring).unwrap();
    without.slots[1].weight = 128;
    if dice.chance(500) {
        without.slots[3].state = NodeState::Left;
        without.slots[3].weight = 0;
    }
    step(&mut ring, Some(without));
    let before = ring.clone();
    let joiner = SlotEntry {
        node: crate::names::NodeId("joiner".parse().unwrap()),
        client: "10.0.9.1:11211".parse().unwrap(),
        peer: "10.0.9.1:7000".parse().unwrap(),
        ..ring.slot(SlotId(0)).clone()
    };
    let begun = match dice.index(3) {
        0 => begin(&ring, vec![256, 256, 64, ring.slot(SlotId(3)).weight]),
        _ => join(&ring, [joiner]),
    };
    step(&mut ring, begun);
    for _ in 0..dice.index(30) {
        let flipped = flip(&ring, |_| true, |_| true);
        if flipped.is_some() {
            step(&mut ring, flipped);
        }
    }
    if dice.chance(700) {
        let slot = SlotId(u16::try_from(dice.index(ring.document().slots.len())).unwrap());
        let removed = remove(&ring, slot).filter(|_| ring.slot(slot).state.serves());
        if removed.is_some() {
            step(&mut ring, removed);
        }
    }
    (before, ring)
}

#[test]
fn a_movement_that_turned_back_leaves_everything_where_it_was_and_takes_nothing_from_anybody_on_the_way() {
    for seed in 0..40 {
        let (before, mut ring) = interrupted(&mut Dice(seed));
        let turned = turn_back(&ring);
        let was = ring.clone();
        step(&mut ring, turned);
        assert!(
            PartitionId::all().all(|partition| was.owners(partition) == ring.owners(partition)),
            "seed {seed}"
        );
        assert!(
            PartitionId::all().all(|partition| was.primary(partition) == ring.primary(partition)),
            "seed {seed}"
        );
        let again = turn_back(&ring).and_then(|document| Ring::new(document).ok()).unwrap();
        assert!(
            PartitionId::all().all(|partition| {
                (again.owners(partition), again.coming_owners(partition))
                    == (was.owners(partition), was.coming_owners(partition))
            }),
            "seed {seed}: the way there again"
        );
        while finish(&ring).is_none() {
            let flipped = flip(&ring, |_| true, |_| true);
            step(&mut ring, flipped);
        }
        let finished = finish(&ring);
        step(&mut ring, finished);
        assert!(
            PartitionId::all().all(|partition| before.owners(partition) == ring.owners(partition)),
            "seed {seed}"
        );
        let weights = |ring: &Ring| ring.document().slots.iter().map(|slot| slot.weight).collect::<Vec<_>>();
        assert_eq!(weights(&ring), weights(&before), "seed {seed}");
        assert_eq!(RingDocument::from_json(ring.json().as_bytes()).as_ref(), Ok(ring.document()));
        assert!(turn_back(&ring).is_none(), "nothing moves");
    }
}
