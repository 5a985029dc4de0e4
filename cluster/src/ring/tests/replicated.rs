//! Documents of format 2: what they say, what is refused, and who holds what by them.

use super::*;
use crate::ring::document::FORMAT_REPLICATED;
use crate::ring::partitions::PartitionSet;

/// Five nodes, two copies, the third one down.
fn replicated() -> RingDocument {
    let nodes: String = (1..=5)
        .map(|n| format!("[[node]]\npeer = \"10.0.0.{n}:7000\"\nclient = \"10.0.0.{n}:11211\"\n"))
        .collect();
    let mut document = RingDocument::from_toml(&format!("epoch = 7\nreplicas = 2\n{nodes}")).unwrap();
    document.format = FORMAT_REPLICATED;
    document.slots[2].state = NodeState::Down;
    document.replication = Some(Box::new(Replication::fresh(&document)));
    document
}

fn with(change: impl FnOnce(&mut RingDocument)) -> RingDocument {
    let mut document = replicated();
    change(&mut document);
    document
}

fn replication(document: &mut RingDocument) -> &mut Replication {
    document.replication.as_mut().unwrap()
}

/// The fifth node leaves; every third partition has moved.
fn moving() -> RingDocument {
    with(|document| {
        let mut flipped = PartitionSet::default();
        PartitionId::all().step_by(3).for_each(|partition| assert!(flipped.insert(partition)));
        replication(document).movement = Some(Movement {
            since: Epoch(6),
            weights: vec![256, 256, 256, 256, 0],
            flipped,
            joined_from: None,
            left_from: None,
        });
    })
}

const DOWN: SlotId = SlotId(2);
const LEAVES: SlotId = SlotId(4);

#[test]
fn both_formats_read_as_they_were_written_once() {
    let path = |name: &str| format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    let golden = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    let mut second = moving();
    replication(&mut second).roles.set(PartitionId::new(9), 1);
    for (name, document) in [("ring-1.json", three_nodes()), ("ring-2.json", second)] {
        if std::env::var_os("SLABRING_WRITE_GOLDEN").is_some() {
            std::fs::write(path(name), document.to_json()).unwrap();
        }
        assert_eq!(document.to_json(), golden(name), "{name}");
        assert_eq!(RingDocument::from_json(golden(name).as_bytes()), Ok(document));
    }
}

#[test]
fn what_replication_says_wrong_is_refused() {
    let cases: [fn(&mut RingDocument); 9] = [
        |document| document.format = 1,
        |document| document.replication = None,
        |document| replication(document).since.truncate(4),
        |document| replication(document).since[0] = Epoch(8),
        |document| replication(document).roles.set(PartitionId::new(5), 2),
        |document| replication(document).movement.as_mut().unwrap().weights.truncate(4),
        |document| replication(document).movement.as_mut().unwrap().weights[0] = 257,
        |document| replication(document).movement.as_mut().unwrap().weights = vec![0; 5],
        |document| replication(document).movement.as_mut().unwrap().since = Epoch(8),
    ];
    for (number, spoil) in cases.into_iter().enumerate() {
        let mut document = moving();
        assert!(Ring::new(document.clone()).is_ok());
        spoil(&mut document);
        assert_eq!(Ring::new(document).unwrap_err(), Refusal::Replication, "case {number}");
    }
}

#[test]
fn a_ring_of_format_2_is_followed_by_a_new_term_and_never_by_format_1() {
    let follow = |epoch, term, document: RingDocument| {
        let mut holder = RingHolder::default();
        holder.offer(replicated()).unwrap();
        let document = RingDocument { epoch: Epoch(epoch), term: Term(term), ..document };
        holder.offer(document).map(|_| ())
    };
    assert_eq!(follow(8, 2, replicated()), Ok(()));
    assert_eq!(follow(8, 1, replicated()), Err(Refusal::DoesNotFollow));
    let first = with(|document| (document.format, document.replication) = (1, None));
    assert_eq!(follow(8, 2, first), Err(Refusal::DoesNotFollow));
}

#[test]
fn a_member_that_is_down_keeps_its_place_and_a_copy_takes_over() {
    let all_up = Ring::new(with(|document| document.slots[2].state = NodeState::Up)).unwrap();
    let ring = Ring::new(replicated()).unwrap();
    for partition in PartitionId::all() {
        let assignment = ring.assignment(partition);
        assert_eq!(ring.owners(partition), all_up.owners(partition));
        let others = ring.owners(partition).iter().filter(|&&slot| slot != DOWN);
        assert!(assignment.in_sync.iter().eq(others));
        assert_eq!(assignment.primary, assignment.in_sync[0]);
        assert!(assignment.learners.is_empty() && !assignment.is_gutter);
    }
}

#[test]
fn a_member_that_returns_learns_what_it_holds_and_is_primary_of_nothing() {
    let ring = Ring::new(with(|document| {
        document.slots[2].state = NodeState::Syncing;
        replication(document).since[2] = Epoch(5);
    }));
    let ring = ring.unwrap();
    for partition in PartitionId::all() {
        let holds = ring.owners(partition).contains(&DOWN);
        let learners = ring.assignment(partition).learners;
        assert_eq!(learners, if holds { vec![Learner { slot: DOWN, since: Epoch(5) }] } else { vec![] });
        assert_ne!(ring.primary(partition), DOWN);
    }
}

#[test]
fn the_only_copy_gone_an_heir_holds_the_gutter() {
    let ring = Ring::new(with(|document| {
        (document.replicas, document.mode) = (1, Mode::Rf1);
    }));
    let ring = ring.unwrap();
    for partition in PartitionId::all() {
        let is_gone = ring.owners(partition)[0] == DOWN;
        let assignment = ring.assignment(partition);
        assert_eq!((assignment.is_gutter, assignment.in_sync.is_empty()), (is_gone, is_gone));
        assert_ne!(assignment.primary, DOWN);
    }
}

#[test]
fn a_partition_on_the_move_is_learned_by_its_new_owner_and_held_by_it_once_it_flipped() {
    let ring = Ring::new(moving()).unwrap();
    let mut learned = 0;
    for partition in PartitionId::all() {
        let assignment = ring.assignment(partition);
        if partition.index() % 3 == 0 {
            assert!(!ring.owners(partition).contains(&LEAVES) && assignment.learners.is_empty());
        } else {
            let learns = assignment.learners.iter().all(|learner| learner.since == Epoch(7));
            assert!(learns && !assignment.learners.iter().any(|learner| learner.slot == LEAVES));
            learned += assignment.learners.len();
            assert!(assignment.learners.is_empty() || ring.owners(partition).contains(&LEAVES));
        }
    }
    // Two fifths of two thirds, less the quarter that the node which is down will get.
    assert!((3_000..3_600).contains(&learned), "{learned}");
}

#[test]
fn a_role_stands_while_its_owner_is_in_sync() {
    let ring = Ring::new(with(|document| {
        PartitionId::all().for_each(|partition| replication(document).roles.set(partition, 1));
    }));
    let ring = ring.unwrap();
    for partition in PartitionId::all() {
        let [first, second] = ring.owners(partition) else { panic!("two copies") };
        assert_eq!(ring.primary(partition), if *second == DOWN { *first } else { *second });
    }
}
