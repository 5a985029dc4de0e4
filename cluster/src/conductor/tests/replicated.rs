//! Rings with copies: each step that the conductor takes, and what it waits for.

use super::*;
use crate::coordinator::{Fence, Leader};
use crate::migrate::FLIPS_MAX;
use crate::placement::{PARTITION_COUNT, PartitionId};
use crate::report::{Report, Waits, Wish};
use crate::ring::partitions::PartitionSet;

/// Nodes that say what they are told to, and a conductor that looks ten times a second.
struct Cluster {
    conductor: Conductor,
    now: Micros,
    ring: Ring,
    view: View,
    /// What the next reports call ready.
    ready: PartitionSet,
    /// Who calls whom silent.
    silent: Vec<(u16, u16)>,
    /// Reports are of this ring; unless given, of the present one.
    reported: Option<Epoch>,
    /// Who says nothing any more.
    mute: Option<u16>,
}

impl Cluster {
    fn new(nodes: u16, replicas: u8, mode: Mode) -> Self {
        Self::of(registered(&(1..=nodes).collect::<Vec<_>>()), replicas, mode)
    }

    fn of(nodes: BTreeMap<NodeId, NodeDescription>, replicas: u8, mode: Mode) -> Self {
        let judgement = Judgement {
            first_nodes: nodes.len(),
            first_replicas: replicas,
            first_mode: Some(mode),
            ..Judgement::default()
        };
        let mut conductor = Conductor::new(ClusterId("c".parse().unwrap()), judgement);
        let leader = Leader { node: described(1, 1).node, incarnation: Incarnation(1), fence: Fence(1) };
        let view = View { leader: Some(leader), nodes, ..View::default() };
        conductor.look(Micros(0), None, &view.nodes);
        view.nodes.values().for_each(|described| conductor.reached(described));
        let now = Micros::from_millis(1_000);
        let first = conductor.decide(now, &view, None, Epoch(4)).unwrap();
        let ring = Ring::new(first).unwrap();
        let mut ready = PartitionSet::default();
        PartitionId::all().for_each(|partition| assert!(ready.insert(partition)));
        Self { conductor, now, ring, view, ready, silent: Vec::new(), reported: None, mute: None }
    }

    fn report(&mut self) {
        let epoch = self.reported.unwrap_or(self.ring.epoch());
        for n in (1..=9).filter(|n| Some(*n) != self.mute) {
            let Some(NodeDescription { node, incarnation, .. }) = self.view.nodes.get(&described(n, 1).node)
            else {
                continue;
            };
            let silent = self.silent.iter().filter(|(by, _)| *by == n).map(|(_, whom)| whom - 1).collect();
            let report =
                Report { incarnation: *incarnation, epoch, ready: self.ready.clone(), silent, waits: None };
            self.view.reports.insert(node.clone(), report);
        }
    }

    /// Looks ten times a second. Gives the changes.
    fn watch(&mut self, millis: u64) -> usize {
        let mut changes = 0;
        for _ in 0..millis / 100 {
            self.now = self.now + Micros::from_millis(100);
            self.view.read_at = self.now;
            self.report();
            self.conductor.look(self.now, Some(self.ring.document()), &self.view.nodes);
            self.view.nodes.values().for_each(|described| self.conductor.reached(described));
            if let Some(next) = self.conductor.decide(self.now, &self.view, Some(&self.ring), Epoch::NONE) {
                next.may_follow(self.ring.document()).unwrap();
                self.ring = Ring::new(next).unwrap();
                changes += 1;
            }
        }
        changes
    }

    fn states(&self) -> Vec<NodeState> {
        self.ring.document().slots.iter().map(|slot| slot.state).collect()
    }

    fn is_moving(&self) -> bool {
        self.ring.document().replication.as_ref().unwrap().movement.is_some()
    }

    fn wish(&mut self, n: u16, wish: Wish) {
        self.view.wishes.insert(described(n, 1).node, wish);
    }

    fn primaries(&self, n: u16) -> usize {
        PartitionId::all().filter(|&partition| self.ring.primary(partition).0 == n - 1).count()
    }
}

use NodeState::{Down, Left, Syncing, Up};

#[test]
fn a_first_ring_with_copies_has_its_mode_and_is_levelled_when_it_is_quiet() {
    let mut cluster = Cluster::new(3, 2, Mode::Sync);
    let first = cluster.ring.document();
    assert_eq!((first.format, first.mode, first.epoch), (FORMAT_REPLICATED, Mode::Sync, Epoch(5)));
    assert_eq!(cluster.watch(4_000), 0);
    let changes = cluster.watch(60_000);
    assert!((1..=4).contains(&changes), "{changes} documents to level roles");
    let most = (1..=3).map(|n| cluster.primaries(n)).max().unwrap();
    assert!(most * 300 <= PARTITION_COUNT * 101, "{most} of {PARTITION_COUNT} in three");
}

#[test]
fn a_ring_of_format_1_with_copies_goes_on_in_format_2() {
    let mut cluster = Cluster::new(3, 2, Mode::Inval);
    let bare = RingDocument { format: FORMAT, replication: None, ..cluster.ring.document().clone() };
    cluster.ring = Ring::new(bare).unwrap();
    assert_eq!(cluster.watch(100), 1);
    assert!(cluster.ring.document().replication.is_some());
}

#[test]
fn who_is_missed_by_two_is_removed_long_before_its_lease_ends() {
    let mut cluster = Cluster::new(4, 2, Mode::Sync);
    cluster.silent = vec![(2, 4)];
    assert_eq!(cluster.watch(3_000), 0, "one accuser may be the one who is cut off");
    cluster.silent.push((3, 4));
    assert_eq!(cluster.watch(100), 1);
    assert_eq!(cluster.states(), [Up, Up, Up, Down]);
    assert_eq!(cluster.watch(3_000), 0, "it is registered and stays away while it is missed");
    cluster.silent.clear();
    cluster.watch(1_000);
    assert_eq!(cluster.states(), [Up; 4], "it came back and was filled");
}

#[test]
fn the_next_removal_waits_for_half_a_minute_or_until_who_was_removed_serves_again() {
    let mut cluster = Cluster::new(5, 2, Mode::Async);
    let (one, another) = ([(1, 4), (2, 4)], [(1, 5), (2, 5)]);
    cluster.silent = [one, another].concat();
    assert_eq!(cluster.watch(29_000), 1);
    assert_eq!(cluster.states(), [Up, Up, Up, Down, Up], "one at a time");
    assert_eq!(cluster.watch(2_000), 1);
    assert_eq!(cluster.states(), [Up, Up, Up, Down, Down]);
    cluster.silent.clear();
    cluster.watch(3_000);
    assert_eq!(cluster.states(), [Up; 5]);
    // Merely slow, and back: who is dead does not wait for that.
    cluster.silent = one.to_vec();
    cluster.watch(200);
    assert_eq!(cluster.states(), [Up, Up, Up, Down, Up]);
    cluster.silent = another.to_vec();
    cluster.watch(4_000);
    assert_eq!(cluster.states(), [Up, Up, Up, Up, Down]);
}

#[test]
fn a_dead_one_stays_out_although_its_lease_lasts_and_returns_when_it_speaks() {
    let mut cluster = Cluster::new(3, 2, Mode::Sync);
    cluster.silent = vec![(1, 3), (2, 3)];
    cluster.mute = Some(3);
    assert_eq!(cluster.watch(100), 1);
    assert_eq!(cluster.states(), [Up, Up, Down]);
    // Nobody is to hear of it any more, so nobody misses it.
    cluster.silent.clear();
    assert_eq!(cluster.watch(60_000), 0);
    cluster.mute = None;
    cluster.watch(200);
    assert_eq!(cluster.states(), [Up; 3]);
}

#[test]
fn a_dead_one_that_begins_another_life_returns_before_it_speaks() {
    let mut cluster = Cluster::new(3, 2, Mode::Sync);
    cluster.silent = vec![(1, 3), (2, 3)];
    cluster.mute = Some(3);
    assert_eq!(cluster.watch(100), 1);
    cluster.silent.clear();
    cluster.view.nodes.insert(described(3, 1).node, described(3, 8));
    cluster.watch(1_500);
    assert_eq!(cluster.states(), [Up; 3]);
}

#[test]
fn a_conductor_is_missed_when_two_say_so_and_of_two_nodes_never() {
    let mut cluster = Cluster::new(3, 2, Mode::Inval);
    let is_missed = |cluster: &Cluster, n| {
        cluster.conductor.is_missed(&cluster.view, &cluster.ring, &described(n, 1).node)
    };
    cluster.silent = vec![(2, 1)];
    cluster.report();
    assert!(!is_missed(&cluster, 1));
    cluster.silent.push((3, 1));
    cluster.report();
    assert!(is_missed(&cluster, 1) && !is_missed(&cluster, 2));
    let mut pair = Cluster::new(2, 2, Mode::Inval);
    pair.silent = vec![(2, 1), (1, 2)];
    pair.report();
    assert!(!is_missed(&pair, 1), "only the end of its lease shows which of two is dead");
    assert!(is_missed(&pair, 2));
}

#[test]
fn of_two_who_miss_each_other_the_conductor_stays() {
    let mut cluster = Cluster::new(2, 2, Mode::Inval);
    cluster.silent = vec![(1, 2), (2, 1)];
    cluster.watch(100);
    assert_eq!(cluster.states(), [Up, Down]);
}

#[test]
fn who_is_missed_by_most_goes_first_and_never_more_than_half() {
    let mut cluster = Cluster::new(5, 2, Mode::Inval);
    let (one_side, other_side) = ([1, 2], [3, 4, 5]);
    for one in one_side {
        for other in other_side {
            cluster.silent.extend([(one, other), (other, one)]);
        }
    }
    cluster.watch(120_000);
    assert_eq!(cluster.states(), [Down, Down, Up, Up, Up]);
}

#[test]
fn old_accusations_do_not_remove_who_returned() {
    let mut cluster = Cluster::new(3, 2, Mode::Inval);
    cluster.silent = vec![(1, 3), (2, 3)];
    cluster.watch(100);
    assert_eq!(cluster.states(), [Up, Up, Down]);
    cluster.silent.clear();
    cluster.watch(1_100);
    cluster.reported = Some(Epoch(5));
    cluster.silent = vec![(1, 3), (2, 3)];
    cluster.watch(2_000);
    assert_ne!(cluster.states(), [Up, Up, Down], "they are of an earlier ring");
}

#[test]
fn a_restart_within_a_second_is_another_life_that_is_filled_first() {
    let mut cluster = Cluster::new(3, 2, Mode::Sync);
    cluster.ready = PartitionSet::default();
    cluster.view.nodes.insert(described(2, 1).node, described(2, 8));
    assert_eq!(cluster.watch(100), 1);
    assert_eq!(cluster.states(), [Up, Syncing, Up]);
    assert_eq!(cluster.ring.document().slots[1].incarnation, Incarnation(8));
    assert_eq!(cluster.watch(1_000), 0, "nobody said that it holds everything");
    PartitionId::all().for_each(|partition| assert!(cluster.ready.insert(partition)));
    cluster.reported = Some(Epoch(5));
    assert_eq!(cluster.watch(1_000), 0, "what was said of another ring is void");
    cluster.reported = None;
    assert_eq!(cluster.watch(100), 1);
    assert_eq!(cluster.states(), [Up; 3]);
}

#[test]
fn who_fails_again_and_again_returns_later_and_later() {
    let mut cluster = Cluster::new(3, 2, Mode::Inval);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        cluster.silent = vec![(1, 3), (2, 3)];
        cluster.watch(40_000);
        assert_eq!(cluster.states(), [Up, Up, Down]);
        cluster.silent.clear();
        cluster.view.nodes.remove(&described(3, 1).node);
        cluster.watch(100);
        cluster.view.nodes.insert(described(3, 1).node, described(3, 1));
        let began = cluster.now;
        while cluster.states()[2] == Down {
            cluster.watch(100);
        }
        pauses.push(cluster.now.since(began).0 / 1_000_000);
        cluster.watch(200);
    }
    assert_eq!(pauses, [1, 2, 4, 8]);
}

#[test]
fn a_joiner_is_filled_and_nothing_else_moves() {
    let mut cluster = Cluster::new(3, 2, Mode::Sync);
    cluster.watch(60_000);
    let before = cluster.ring.clone();
    cluster.ready = PartitionSet::default();
    cluster.view.nodes.insert(described(4, 1).node, described(4, 1));
    // Partitions that it gets nothing of go on at once.
    let mut changes = cluster.watch(3_000);
    assert!(cluster.is_moving());
    PartitionId::all().for_each(|partition| {
        assert!(!cluster.ring.owners(partition).contains(&crate::table::SlotId(3)), "it holds nothing yet");
    });
    PartitionId::all().for_each(|partition| assert!(cluster.ready.insert(partition)));
    changes += cluster.watch(20_000);
    let moved =
        PartitionId::all().filter(|&partition| before.owners(partition) != cluster.ring.owners(partition));
    assert!(changes > moved.count() / FLIPS_MAX, "{changes} batches, and an end");
    assert!(!cluster.is_moving());
    assert_eq!(cluster.states(), [Up; 4]);
    let mut brought = 0;
    for partition in PartitionId::all() {
        let (was, is) = (before.owners(partition), cluster.ring.owners(partition));
        let is_kept = is.iter().all(|slot| was.contains(slot) || slot.0 == 3);
        assert!(is_kept || is.iter().any(|slot| slot.0 == 3), "{partition:?} moved: {was:?} to {is:?}");
        brought += usize::from(!is_kept);
    }
    // Where a joiner takes one copy the walk seldom finds another owner for the other one.
    assert!(brought * 20 < PARTITION_COUNT, "{brought} copies moved between others");
    assert!(cluster.primaries(4) > 0);
}

/// A ring of three that goes on to a fourth, which dies before it has anything.
fn dead_joiner(replicas: u8, mode: Mode) -> Cluster {
    let mut cluster = Cluster::new(3, replicas, mode);
    // So that a ring of one copy keeps account of movements.
    cluster.wish(1, Wish::Weight(255));
    cluster.watch(60_000);
    let ready = std::mem::take(&mut cluster.ready);
    cluster.view.nodes.insert(described(4, 1).node, described(4, 1));
    cluster.watch(3_000);
    cluster.view.nodes.remove(&described(4, 1).node);
    cluster.watch(20_000);
    cluster.ready = ready;
    cluster.watch(10_000);
    assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up, Up, Up, Down], true));
    cluster
}

fn is_whole(cluster: &Cluster, replicas: usize) -> bool {
    PartitionId::all().all(|partition| cluster.ring.assignment(partition).in_sync.len() == replicas)
}

#[test]
fn copies_are_not_given_up_for_a_joiner_that_died_and_it_may_return() {
    for (replicas, mode) in [(1, Mode::Rf1), (2, Mode::Inval), (2, Mode::Sync)] {
        let mut cluster = dead_joiner(replicas, mode);
        assert!(is_whole(&cluster, replicas.into()), "{mode:?}");
        cluster.view.nodes.insert(described(4, 1).node, described(4, 8));
        cluster.watch(60_000);
        assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up; 4], false), "{mode:?}");
        assert!(is_whole(&cluster, replicas.into()) && cluster.primaries(4) > 0);
    }
}

/// As [`dead_joiner`], some partitions have moved to it when it dies. Also the ring before it came.
fn dead_in_the_middle(replicas: u8, mode: Mode) -> (Cluster, Ring) {
    let mut cluster = Cluster::new(3, replicas, mode);
    cluster.wish(1, Wish::Weight(255));
    cluster.watch(60_000);
    let before = cluster.ring.clone();
    cluster.view.nodes.insert(described(4, 1).node, described(4, 1));
    while cluster.ring.progress().is_none_or(|progress| progress.moved == 0) {
        cluster.watch(100);
    }
    cluster.view.nodes.remove(&described(4, 1).node);
    cluster.watch(10_000);
    assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up, Up, Up, Down], true));
    (cluster, before)
}

#[test]
fn what_moves_to_a_joiner_that_died_turns_back_after_a_minute_or_at_once_when_it_is_to_have_nothing() {
    for (replicas, mode) in [(1, Mode::Rf1), (2, Mode::Inval), (2, Mode::Sync)] {
        for wish in [None, Some(Wish::Drain), Some(Wish::Weight(0)), Some(Wish::Down)] {
            let (mut cluster, before) = dead_in_the_middle(replicas, mode);
            match wish {
                Some(wish) => cluster.wish(4, wish),
                None => {
                    cluster.watch(45_000);
                    assert!(cluster.is_moving(), "it may be back soon");
                    cluster.watch(5_000);
                }
            }
            cluster.watch(10_000);
            assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up; 3], false), "{mode:?} {wish:?}");
            assert!(is_whole(&cluster, replicas.into()));
            let owned = |ring: &Ring| {
                PartitionId::all().map(|partition| ring.owners(partition).to_vec()).collect::<Vec<_>>()
            };
            assert!(owned(&cluster.ring) == owned(&before), "{mode:?} {wish:?}");
            // Others do not wait for it, and it may come again.
            cluster.wish(2, Wish::Weight(128));
            cluster.watch(20_000);
            assert_eq!(cluster.ring.document().slots[1].weight, 128);
            cluster.wish(4, Wish::Weight(256));
            cluster.view.nodes.insert(described(4, 1).node, described(4, 9));
            cluster.watch(100_000);
            assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up; 4], false), "{mode:?} {wish:?}");
        }
    }
}

#[test]
fn nothing_is_lost_while_a_movement_turns_back_and_nobody_who_died_is_needed_for_it() {
    let (mut cluster, _) = dead_in_the_middle(2, Mode::Inval);
    let held = |cluster: &Cluster| -> Vec<usize> {
        PartitionId::all().map(|partition| cluster.ring.assignment(partition).in_sync.len()).collect()
    };
    cluster.wish(4, Wish::Drain);
    let mut before = held(&cluster);
    while cluster.is_moving() {
        cluster.watch(100);
        let now = held(&cluster);
        assert!(before.iter().zip(&now).all(|(before, now)| before <= now));
        before = now;
    }
    assert!(before.iter().all(|copies| *copies == 2));
}

#[test]
fn a_member_that_is_to_get_more_and_dies_keeps_what_it_had_and_is_not_waited_for_again() {
    let mut cluster = Cluster::new(4, 2, Mode::Inval);
    cluster.wish(4, Wish::Weight(64));
    cluster.watch(60_000);
    cluster.wish(4, Wish::Weight(256));
    cluster.ready = PartitionSet::default();
    cluster.watch(1_000);
    cluster.view.nodes.remove(&described(4, 1).node);
    cluster.watch(5_000);
    PartitionId::all().for_each(|partition| assert!(cluster.ready.insert(partition)));
    assert!(cluster.is_moving());
    cluster.watch(70_000);
    assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up, Up, Up, Down], false));
    assert_eq!(cluster.ring.document().slots[3].weight, 64);
    assert_eq!(cluster.watch(60_000), 0, "who is down gets no more");
    cluster.view.nodes.insert(described(4, 1).node, described(4, 9));
    cluster.watch(60_000);
    assert_eq!(cluster.ring.document().slots[3].weight, 256, "the wish stands");
}

#[test]
fn people_are_told_whom_a_movement_waits_for_and_until_when() {
    let (mut cluster, _) = dead_in_the_middle(2, Mode::Inval);
    let waits = |cluster: &Cluster| cluster.conductor.waits(&cluster.view, Some(&cluster.ring), 1_000);
    let told = waits(&cluster);
    let [awaited] = &told.awaited[..] else { panic!("{told:?}") };
    let left = awaited.until - 1_000 - cluster.now.0 / 1_000_000;
    assert_eq!((&awaited.node, awaited.turns_back), (&described(4, 1).node, true));
    assert!((45..=60).contains(&left), "{left} s");
    cluster.watch(70_000);
    assert_eq!(waits(&cluster), Waits::default());
}

#[test]
fn who_goes_and_comes_with_each_attempt_to_join_waits_longer_and_longer() {
    let mut cluster = dead_joiner(2, Mode::Inval);
    let mut pauses = Vec::new();
    for life in 10..13 {
        // It is there again, and gone when it has its place.
        while cluster.is_moving() {
            cluster.watch(1_000);
        }
        cluster.view.nodes.insert(described(4, 1).node, described(4, life));
        let began = cluster.now;
        while !cluster.is_moving() {
            cluster.watch(100);
        }
        pauses.push(cluster.now.since(began).0 / 1_000_000);
        cluster.ready = PartitionSet::default();
        cluster.view.nodes.remove(&described(4, 1).node);
        cluster.watch(5_000);
        PartitionId::all().for_each(|partition| assert!(cluster.ready.insert(partition)));
    }
    assert_eq!(pauses, [1, 2, 4]);
}

#[test]
fn who_is_drained_leaves_and_stays_away_until_the_wish_is_taken_back() {
    let mut cluster = Cluster::new(3, 2, Mode::Async);
    cluster.wish(3, Wish::Drain);
    cluster.watch(60_000);
    assert_eq!(cluster.states(), [Up, Up, Left]);
    cluster.view.wishes.clear();
    cluster.watch(60_000);
    assert_eq!(cluster.states(), [Up; 3]);
}

#[test]
fn a_weight_is_moved_to_and_back_also_by_another_conductor() {
    let mut cluster = Cluster::new(3, 1, Mode::Rf1);
    assert_eq!(cluster.ring.document().format, FORMAT, "one copy that nobody wishes elsewhere");
    cluster.wish(2, Wish::Weight(64));
    cluster.watch(1_000);
    assert!(cluster.is_moving());
    cluster.conductor = Conductor::new(ClusterId("c".parse().unwrap()), Judgement::default());
    cluster.watch(60_000);
    let weights: Vec<_> = cluster.ring.document().slots.iter().map(|slot| slot.weight).collect();
    assert_eq!((weights, cluster.is_moving()), (vec![256, 64, 256], false));
}

#[test]
fn who_is_wished_down_is_out_at_once_and_returns_when_it_is_not() {
    let mut cluster = Cluster::new(3, 2, Mode::Inval);
    cluster.wish(2, Wish::Down);
    assert_eq!(cluster.watch(100), 1);
    assert_eq!(cluster.states(), [Up, Down, Up]);
    assert_eq!(cluster.watch(3_000), 0);
    cluster.view.wishes.clear();
    cluster.watch(2_000);
    assert_eq!(cluster.states(), [Up; 3]);
}

#[test]
fn who_is_away_for_too_long_gives_up_its_place_and_copies_are_made_elsewhere() {
    let mut cluster = Cluster::new(4, 2, Mode::Sync);
    cluster.view.nodes.remove(&described(4, 1).node);
    cluster.watch(590_000);
    assert_eq!(cluster.states(), [Up, Up, Up, Down]);
    cluster.watch(40_000);
    assert_eq!(cluster.states(), [Up, Up, Up, Left]);
    let is_whole = |partition| cluster.ring.assignment(partition).in_sync.len() == 2;
    assert!(PartitionId::all().all(is_whole));
}

#[test]
fn in_sync_the_last_copy_is_never_removed() {
    let mut cluster = Cluster::new(4, 2, Mode::Sync);
    cluster.view.nodes.remove(&described(4, 1).node);
    cluster.view.nodes.remove(&described(3, 1).node);
    cluster.watch(100_000);
    assert_eq!(cluster.states().iter().filter(|&&state| state == Down).count(), 1);
}

#[test]
fn who_stands_by_joins_when_a_weight_is_wished_for_it_and_is_filled_first() {
    for (replicas, mode) in [(1, Mode::Rf1), (2, Mode::Inval)] {
        let mut cluster = Cluster::new(3, replicas, mode);
        let waits = NodeDescription { weight: 0, ..described(4, 1) };
        cluster.view.nodes.insert(waits.node.clone(), waits);
        cluster.watch(60_000);
        assert_eq!(cluster.states(), [Up; 3], "nobody asked it to come");
        cluster.wish(4, Wish::Weight(128));
        cluster.ready = PartitionSet::default();
        cluster.watch(3_000);
        assert!(cluster.is_moving() && cluster.primaries(4) == 0, "it holds nothing yet");
        PartitionId::all().for_each(|partition| assert!(cluster.ready.insert(partition)));
        cluster.watch(60_000);
        assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up; 4], false));
        assert_eq!(cluster.ring.document().slots[3].weight, 128);
    }
}

mod away;
mod zones;
