//! The loss of a zone: its members go together, and nobody else does.

use super::*;

/// Nodes from 1 on, each in its zone.
fn zoned(zones: &[&str], replicas: u8, mode: Mode) -> Cluster {
    let nodes = (1..).zip(zones).map(|(n, zone)| {
        let described = NodeDescription { zone: (*zone).to_owned(), ..described(n, 1) };
        (described.node.clone(), described)
    });
    let mut cluster = Cluster::of(nodes.collect(), replicas, mode);
    cluster.watch(20_000);
    cluster
}

impl Cluster {
    /// Some are missed by others; the leases of those who are gone have ended.
    fn lose(&mut self, missed: &[u16], by: &[u16], gone: &[u16]) {
        self.silent = by.iter().flat_map(|&by| missed.iter().map(move |&whom| (by, whom))).collect();
        gone.iter().for_each(|&n| drop(self.view.nodes.remove(&described(n, 1).node)));
    }

    fn down(&self) -> usize {
        self.states().iter().filter(|&&state| state == Down).count()
    }
}

#[test]
fn a_zone_that_is_missed_by_all_others_goes_at_once_when_its_leases_have_ended() {
    for mode in [Mode::Inval, Mode::Sync] {
        let mut cluster = zoned(&["a", "a", "b", "b", "b"], 2, mode);
        cluster.lose(&[1, 2], &[3, 4, 5], &[]);
        cluster.watch(4_000);
        assert_eq!(cluster.down(), 1, "their leases last");
        cluster.lose(&[1, 2], &[3, 4, 5], &[1, 2]);
        cluster.watch(200);
        assert_eq!(cluster.states(), [Down, Down, Up, Up, Up]);
    }
}

#[test]
fn never_less_than_half_stays_however_large_the_zone_was() {
    let mut cluster = zoned(&["a", "a", "a", "b", "b"], 2, Mode::Sync);
    cluster.lose(&[1, 2, 3], &[4, 5], &[1, 2, 3]);
    cluster.watch(100_000);
    assert_eq!(cluster.down(), 2);
}

#[test]
fn the_pause_between_removals_stands_where_anything_is_not_as_if_a_zone_was_lost() {
    let (two, three) = (["a", "a", "b", "b", "b"], ["a", "a", "b", "b", "c", "c"]);
    // All in one zone.
    let mut cluster = zoned(&["a"; 5], 2, Mode::Inval);
    cluster.lose(&[1, 2], &[3, 4, 5], &[1, 2]);
    cluster.watch(20_000);
    assert_eq!(cluster.down(), 1);
    // One of the zone lives.
    let mut cluster = zoned(&["a", "a", "a", "b", "b", "b"], 2, Mode::Inval);
    cluster.lose(&[1, 2], &[4, 5, 6], &[1, 2]);
    cluster.watch(20_000);
    assert_eq!(cluster.down(), 1);
    // A zone does not miss them.
    let mut cluster = zoned(&three, 2, Mode::Inval);
    cluster.lose(&[1, 2], &[3, 4], &[1, 2]);
    cluster.watch(20_000);
    assert_eq!(cluster.down(), 1);
    // They are of two zones.
    let mut cluster = zoned(&two, 2, Mode::Inval);
    cluster.lose(&[1, 3], &[4, 5, 2], &[1, 3]);
    cluster.watch(20_000);
    assert_eq!(cluster.down(), 1);
}
