//! Members that are to be out, or reach nobody, while they live: nothing waits for them for ever, and their copies are made elsewhere. And
//! those that are to have nothing and leave at last, whatever happened to them on the way.

use super::*;

impl Cluster {
    fn restart(&mut self, n: u16, life: u64) {
        self.view.nodes.insert(described(n, 1).node, described(n, life));
    }

    /// Lets a movement begin that nobody can finish yet.
    fn hold_movement(&mut self) -> PartitionSet {
        let ready = std::mem::take(&mut self.ready);
        self.watch(1_000);
        assert!(self.is_moving());
        ready
    }
}

#[test]
fn a_movement_that_is_under_way_does_not_wait_for_a_living_member_that_is_wished_down() {
    for nodes in [3, 4] {
        let mut cluster = Cluster::new(nodes, 2, Mode::Inval);
        cluster.watch(20_000);
        cluster.wish(1, Wish::Drain);
        let ready = cluster.hold_movement();
        cluster.wish(2, Wish::Down);
        cluster.watch(1_000);
        cluster.ready = ready;
        cluster.watch(30_000);
        assert!(!cluster.is_moving());
        assert_eq!(cluster.states()[..3], [Left, Down, Up]);
    }
}

#[test]
fn a_movement_that_begins_makes_the_copies_of_who_is_wished_down_elsewhere() {
    let mut cluster = Cluster::new(4, 2, Mode::Sync);
    cluster.watch(20_000);
    cluster.wish(2, Wish::Down);
    cluster.watch(10_000);
    assert_eq!(
        (cluster.states(), cluster.is_moving()),
        (vec![Up, Down, Up, Up], false),
        "it may be back soon"
    );
    cluster.wish(1, Wish::Weight(64));
    cluster.watch(30_000);
    assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up, Left, Up, Up], false));
    assert_eq!(cluster.ring.document().slots[0].weight, 64);
    assert!(is_whole(&cluster, 2));
    cluster.wish(2, Wish::Weight(256));
    cluster.watch(30_000);
    assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up; 4], false));
}

#[test]
fn who_is_wished_down_for_too_long_gives_up_its_place_although_it_lives() {
    let mut cluster = Cluster::new(4, 2, Mode::Sync);
    cluster.wish(3, Wish::Down);
    cluster.watch(590_000);
    assert_eq!(cluster.states(), [Up, Up, Down, Up]);
    cluster.watch(40_000);
    assert_eq!(cluster.states(), [Up, Up, Left, Up]);
    assert!(is_whole(&cluster, 2));
}

#[test]
fn who_reaches_etcd_and_no_node_is_filled_and_gone_again_and_again_and_gives_up_its_place() {
    let mut cluster = Cluster::new(4, 2, Mode::Inval);
    let mut returns = 0;
    while cluster.states()[3] != Left {
        // Nobody is to hear of a member that is down.
        let is_heard_of = cluster.states()[3] != Down;
        cluster.silent = if is_heard_of { vec![(1, 4), (2, 4), (3, 4)] } else { Vec::new() };
        returns += usize::from(cluster.states()[3] == Syncing);
        let ready = if is_heard_of { std::mem::take(&mut cluster.ready) } else { PartitionSet::default() };
        cluster.watch(100);
        if is_heard_of {
            cluster.ready = ready;
        }
        assert!(cluster.now < Micros::from_millis(700_000), "{:?} after {returns} returns", cluster.states());
    }
    assert!(returns > 5 && cluster.now > Micros::from_millis(590_000), "{returns} returns");
    assert!(is_whole(&cluster, 2));
}

#[test]
fn who_is_restarted_while_it_is_drained_leaves_and_returns_when_the_wish_is_taken_back() {
    for (replicas, mode) in [(1, Mode::Rf1), (2, Mode::Inval), (2, Mode::Sync)] {
        let mut cluster = Cluster::new(4, replicas, mode);
        cluster.watch(20_000);
        cluster.wish(1, Wish::Drain);
        let ready = cluster.hold_movement();
        cluster.restart(1, 8);
        cluster.watch(5_000);
        assert_eq!(cluster.states(), [Down, Up, Up, Up], "it need not be filled");
        cluster.ready = ready;
        cluster.watch(30_000);
        assert_eq!((cluster.states(), cluster.is_moving()), (vec![Left, Up, Up, Up], false), "{mode:?}");
        assert!(is_whole(&cluster, replicas.into()));
        cluster.view.wishes.clear();
        cluster.watch(30_000);
        assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up; 4], false), "{mode:?}");
    }
}

#[test]
fn who_is_filled_when_it_is_to_be_drained_leaves_too() {
    let mut cluster = Cluster::new(4, 2, Mode::Inval);
    let ready = std::mem::take(&mut cluster.ready);
    cluster.restart(1, 8);
    cluster.watch(1_000);
    assert_eq!(cluster.states(), [Syncing, Up, Up, Up]);
    cluster.wish(1, Wish::Drain);
    cluster.watch(1_000);
    cluster.ready = ready;
    cluster.watch(30_000);
    assert_eq!((cluster.states(), cluster.is_moving()), (vec![Left, Up, Up, Up], false));
}

#[test]
fn who_has_nothing_already_leaves_when_it_is_drained_or_dead_for_too_long() {
    for is_drained in [true, false] {
        let mut cluster = Cluster::new(3, 2, Mode::Inval);
        cluster.wish(1, Wish::Weight(0));
        cluster.watch(30_000);
        assert_eq!((cluster.states(), cluster.is_moving()), (vec![Up; 3], false), "it stays with nothing");
        if is_drained {
            cluster.wish(1, Wish::Drain);
            cluster.watch(200);
        } else {
            cluster.view.nodes.remove(&described(1, 1).node);
            cluster.watch(590_000);
            assert_eq!(cluster.states(), [Down, Up, Up]);
            cluster.watch(20_000);
        }
        assert_eq!(cluster.states(), [Left, Up, Up]);
        assert!(is_whole(&cluster, 2));
    }
}

#[test]
fn levelling_is_no_unrest_and_goes_on_without_a_pause_for_rest() {
    let mut cluster = Cluster::new(3, 2, Mode::Inval);
    cluster.watch(20_000);
    // Whoever leaves and returns is primary of nothing that others can be.
    for wish in [Wish::Drain, Wish::Weight(256)] {
        for n in [1, 2] {
            cluster.wish(n, wish);
            while cluster.watch(1_000) > 0 {}
        }
    }
    let documents = cluster.watch(20_000);
    assert!(documents > 5 && migrate::level(&cluster.ring).is_none(), "{documents} documents in 20 s");
    let most = (1..=3).map(|n| cluster.primaries(n)).max().unwrap();
    assert!(most * 300 <= PARTITION_COUNT * 101, "{most} of {PARTITION_COUNT} in three");
}
