//! Properties of the table: what moves, what never moves, and how even it is.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn slots_of(weights: &[u16], zones: &[u16]) -> Vec<Slot> {
    let zones = zones.iter().cycle();
    weights.iter().zip(zones).map(|(&w, &z)| Slot { weight: Weight::new(w), zone: ZoneId(z) }).collect()
}

fn full(count: usize) -> Vec<Slot> {
    slots_of(&vec![256; count], &[0])
}

/// The twin: the scheme written as one loop, with zones counted in a set.
fn walk_plainly(partition: PartitionId, slots: &[Slot], replicas: usize) -> Vec<SlotId> {
    let live = |slot: &&Slot| slot.weight.parts() > 0;
    let live_zones = slots.iter().filter(live).map(|slot| slot.zone).collect::<BTreeSet<_>>().len();
    let (mut chosen, mut zones) = (Vec::new(), BTreeSet::new());
    let count = slots.len() as u64;
    for k in 0..64 * count + 64 {
        let start = mix(0x00c0_ffee ^ partition.index() as u64);
        let seed = mix(start.wrapping_add(k.wrapping_mul(0xd6e8_feb8_6659_fd93)));
        let id = jump(seed, u16::try_from(slots.len()).unwrap());
        let slot = slots[usize::from(id)];
        let weight = u64::from(slot.weight.parts());
        if weight == 0 || (weight < 256 && (mix(seed ^ (u64::from(id) << 32)) & 255) >= weight) {
            continue;
        }
        if chosen.contains(&SlotId(id)) {
            continue;
        }
        if zones.contains(&slot.zone) && zones.len() < replicas.min(live_zones) {
            continue;
        }
        chosen.push(SlotId(id));
        zones.insert(slot.zone);
        if chosen.len() == replicas {
            break;
        }
    }
    chosen
}

/// Enough partitions to see every case, few enough for many rings.
fn sample() -> impl Iterator<Item = PartitionId> {
    PartitionId::all().step_by(16)
}

/// Checks that partitions which `slot` owns neither before nor after the change keep their owners in order.
#[track_caller]
fn check_no_collateral(before: &[Slot], after: &[Slot], slot: SlotId, replicas: usize) {
    for partition in sample() {
        let (old, new) = (walk(partition, before, replicas), walk(partition, after, replicas));
        if !old.contains(&slot) && !new.contains(&slot) {
            assert_eq!(old, new, "{partition:?} moved though {slot:?} is not in it");
        }
    }
}

/// Checks the same where no zone interferes, and that the other owners of `slot`'s partitions keep their order: one
/// heir comes last or one victim goes last.
#[track_caller]
fn check_only_moves(before: &[Slot], after: &[Slot], slot: SlotId, replicas: usize) {
    check_no_collateral(before, after, slot, replicas);
    for partition in sample() {
        let (old, new) = (walk(partition, before, replicas), walk(partition, after, replicas));
        let others =
            |owners: Vec<SlotId>| owners.into_iter().filter(|&owner| owner != slot).collect::<Vec<_>>();
        let (old, new) = (others(old), others(new));
        let shared = old.len().min(new.len());
        assert_eq!(old[..shared], new[..shared], "{partition:?}");
    }
}

fn slot_id(index: usize) -> SlotId {
    SlotId(u16::try_from(index).unwrap())
}

fn primaries(table: &PartitionTable, slot_count: usize) -> Vec<usize> {
    let mut counts = vec![0; slot_count];
    for partition in PartitionId::all() {
        counts[usize::from(table.owners(partition)[0].0)] += 1;
    }
    counts
}

fn moved(before: &PartitionTable, after: &PartitionTable) -> usize {
    PartitionId::all().filter(|&p| before.owners(p)[0] != after.owners(p)[0]).count()
}

/// Weights a running ring has: none, or at least a half, so that no walk runs out of attempts.
fn weights(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u16>> {
    let weight = prop_oneof![1 => Just(0_u16), 4 => Just(256_u16), 2 => 128_u16..=256];
    prop::collection::vec(weight, count).prop_map(|mut weights| {
        weights[0] = 256;
        weights
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_walk_is_the_scheme(weights in weights(1..24), zones in prop::collection::vec(0_u16..5, 1..6), replicas in 1_usize..=5) {
        let slots = slots_of(&weights, &zones);
        for partition in sample() {
            prop_assert_eq!(walk(partition, &slots, replicas), walk_plainly(partition, &slots, replicas));
        }
    }

    #[test]
    fn owners_are_distinct_live_and_as_many_as_there_can_be(
        weights in prop::collection::vec(0_u16..=256, 1..24),
        zones in prop::collection::vec(0_u16..5, 1..6),
        replicas in 1_usize..=REPLICA_COUNT_MAX,
    ) {
        let slots = slots_of(&weights, &zones);
        let live = weights.iter().filter(|&&weight| weight > 0).count();
        prop_assume!(live > 0);
        for partition in sample() {
            let owners = walk(partition, &slots, replicas);
            prop_assert_eq!(owners.len(), replicas.min(live));
            prop_assert_eq!(owners.iter().collect::<BTreeSet<_>>().len(), owners.len());
            prop_assert!(owners.iter().all(|id| slots[usize::from(id.0)].is_live()));
        }
    }

    #[test]
    fn no_zone_is_used_twice_while_another_is_unused(
        weights in prop::collection::vec(0_u16..=256, 1..24),
        zones in prop::collection::vec(0_u16..5, 1..6),
        replicas in 1_usize..=5,
    ) {
        let slots = slots_of(&weights, &zones);
        let live_zones: BTreeSet<_> = slots.iter().filter(|slot| slot.is_live()).map(|slot| slot.zone).collect();
        prop_assume!(!live_zones.is_empty());
        let wanted = replicas.min(live_zones.len());
        for partition in sample() {
            let owners = walk(partition, &slots, replicas);
            let used: BTreeSet<_> = owners[..wanted].iter().map(|id| slots[usize::from(id.0)].zone).collect();
            prop_assert_eq!(used.len(), wanted, "{:?} is in {:?}", partition, used);
        }
    }

    #[test]
    fn losing_and_regaining_a_slot_moves_only_its_own_partitions(weights in weights(2..24), lost: prop::sample::Index, replicas in 1_usize..=4) {
        let lost = lost.index(weights.len());
        prop_assume!(weights.iter().enumerate().any(|(index, &weight)| index != lost && weight > 0));
        let whole = slots_of(&weights, &[0]);
        let mut degraded = whole.clone();
        degraded[lost].weight = Weight::NONE;
        check_only_moves(&whole, &degraded, slot_id(lost), replicas);
        check_only_moves(&degraded, &whole, slot_id(lost), replicas);
    }

    #[test]
    fn appending_a_slot_moves_partitions_only_to_it(weights in weights(1..24), replicas in 1_usize..=4) {
        let before = slots_of(&weights, &[0]);
        let mut after = before.clone();
        after.push(Slot { weight: Weight::FULL, zone: ZoneId(0) });
        check_no_collateral(&before, &after, slot_id(before.len()), replicas);
        for partition in sample() {
            let (old, new) = (walk(partition, &before, replicas), walk(partition, &after, replicas));
            prop_assert!(new[0] == old[0] || new[0] == slot_id(before.len()));
        }
    }

    #[test]
    fn a_changed_weight_moves_only_that_slots_partitions(
        weights in prop::collection::vec(0_u16..=256, 2..24),
        changed: prop::sample::Index,
        weight in 1_u16..=256,
        replicas in 1_usize..=4,
    ) {
        let changed = changed.index(weights.len());
        let before = slots_of(&weights, &[0]);
        prop_assume!(before.iter().any(|slot| slot.is_live()));
        let mut after = before.clone();
        after[changed].weight = Weight::new(weight);
        check_no_collateral(&before, &after, slot_id(changed), replicas);
    }

    #[test]
    fn zones_add_no_collateral_while_none_is_lost(weights in weights(6..24), lost: prop::sample::Index, replicas in 1_usize..=3) {
        let mut whole = slots_of(&weights, &[0, 1, 2]);
        for slot in &mut whole[..3] {
            slot.weight = Weight::FULL;
        }
        let lost = 3 + lost.index(weights.len() - 3);
        let mut degraded = whole.clone();
        degraded[lost].weight = Weight::NONE;
        check_no_collateral(&whole, &degraded, slot_id(lost), replicas);
    }
}

#[test]
fn losing_one_of_ten_moves_a_tenth_of_the_primaries() {
    let whole = full(10);
    let mut degraded = whole.clone();
    degraded[3].weight = Weight::NONE;
    let (before, after) = (PartitionTable::build(&whole, 2), PartitionTable::build(&degraded, 2));
    let lost = primaries(&before, 10)[3];
    assert_eq!(moved(&before, &after), lost, "only what the lost slot had");
    assert!((1_500..1_780).contains(&lost), "{lost} of {PARTITION_COUNT}");
    let heir_has_the_data = PartitionId::all()
        .filter(|&p| before.owners(p)[0] == SlotId(3))
        .all(|p| after.owners(p)[0] == before.owners(p)[1]);
    assert!(heir_has_the_data);
}

#[test]
fn what_moves_is_within_a_tenth_of_the_ideal() {
    for count in [3, 5, 10, 20] {
        let whole = full(count);
        let before = PartitionTable::build(&whole, 2);
        let mut grown = whole.clone();
        grown.push(Slot { weight: Weight::FULL, zone: ZoneId(0) });
        let mut halved = whole.clone();
        halved[1].weight = Weight::new(128);
        let share = 1.0 / count as f64;
        let cases = [
            ("appended", grown, 1.0 / (count + 1) as f64),
            // Half a slot's weight goes, and the whole is half a slot smaller.
            ("halved", halved, share - 0.5 / (count as f64 - 0.5)),
        ];
        for (change, after, ideal) in cases {
            let share = moved(&before, &PartitionTable::build(&after, 2)) as f64 / PARTITION_COUNT as f64;
            assert!(
                (share / ideal - 1.0).abs() < 0.1,
                "{change}, {count} slots: {share} moved, ideal {ideal}"
            );
        }
    }
}

#[test]
fn primaries_are_even() {
    for (count, ratio_max) in [(3, 1.05), (10, 1.05), (32, 1.14), (100, 1.30)] {
        let most = *primaries(&PartitionTable::build(&full(count), 2), count).iter().max().unwrap();
        let ratio = most as f64 * count as f64 / PARTITION_COUNT as f64;
        assert!(ratio < ratio_max, "{count} slots: the fullest has {ratio} times the mean");
    }
}

#[test]
fn a_share_follows_its_weight() {
    let table = PartitionTable::build(&slots_of(&[128, 256, 256], &[0]), 1);
    let share = primaries(&table, 3)[0] as f64 / PARTITION_COUNT as f64;
    assert!((0.185..0.215).contains(&share), "half a machine of 2.5 has {share}, not 0.2");
}

#[test]
fn tiny_weights_still_place_every_partition() {
    let mut weights = vec![0; 40];
    weights[7] = 1;
    weights[33] = 1;
    let table = PartitionTable::build(&slots_of(&weights, &[0, 1]), 3);
    assert_eq!(table.owners_per_partition(), 2);
    for partition in PartitionId::all() {
        let mut owners = table.owners(partition).to_vec();
        owners.sort_unstable();
        assert_eq!(owners, [SlotId(7), SlotId(33)]);
    }
}

#[test]
#[should_panic(expected = "without a live slot")]
fn a_ring_without_a_live_slot_is_the_callers_mistake() {
    PartitionTable::build(&slots_of(&[0, 0], &[0]), 1);
}
