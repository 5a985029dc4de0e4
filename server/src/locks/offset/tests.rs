//! Nodes with clocks of their own over a store that is two values, and loses them.

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;

#[derive(Clone, Default)]
struct Store {
    revision: u64,
    value: Option<Vec<u8>>,
}

struct Node {
    offset: Offset,
    ahead_ms: u64,
    /// It has looked at a lock and may create a session's key until then.
    creates_until_ms: u64,
}

impl Node {
    fn new(ahead_ms: u64) -> Self {
        Self { offset: Offset::default(), ahead_ms, creates_until_ms: 0 }
    }

    fn read(&mut self, store: &Store) -> bool {
        let asked_after = self.offset.revision();
        self.offset.read(asked_after, Revision(store.revision), store.value.as_deref())
    }

    /// Creates a session's key, if the offset is what this node has read: its fence.
    fn create(&mut self, store: &mut Store, now_ms: u64) -> Option<u64> {
        let next = self.offset.next(now_ms + self.ahead_ms);
        let holds = next.known == store.value.as_deref();
        let fence = holds.then(|| {
            store.revision += 1;
            if next.is_raised {
                store.value = Some(next.offset.to_string().into_bytes());
            }
            next.offset + store.revision
        });
        self.read(store);
        fence
    }
}

/// A call that takes longer has failed.
const CALL_MS_MAX: u64 = 2_000;

/// How clocks differ, and for how long the store is away at least when it loses something.
struct Conditions {
    ahead_ms_max: u64,
    away_ms: u64,
}

/// The first fence that was not above all before, if there was one.
fn play(seed: u64, conditions: &Conditions) -> Option<u64> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut store = Store { revision: rng.random_range(0..1 << 40), value: None };
    let mut nodes: Vec<_> =
        (0..3).map(|_| Node::new(rng.random_range(0..=conditions.ahead_ms_max))).collect();
    let (mut now_ms, mut last) = (1_800_000_000_000, 0);
    let mut backup = Store::default();
    for _ in 0..2_000 {
        let at = rng.random_range(0..nodes.len());
        match rng.random_range(0..100) {
            0..30 => {
                nodes[at].read(&store);
                nodes[at].creates_until_ms = now_ms + CALL_MS_MAX;
            }
            30..70 if now_ms <= nodes[at].creates_until_ms => {
                if let Some(fence) = nodes[at].create(&mut store, now_ms) {
                    if fence <= last {
                        return Some(fence);
                    }
                    last = fence;
                }
            }
            70..96 => {
                let ms = rng.random_range(0..1_500);
                now_ms += ms;
                // Others use the store as well.
                store.revision += rng.random_range(0..=ms * 50);
            }
            96 => backup = store.clone(),
            97 => nodes[at] = Node::new(nodes[at].ahead_ms),
            98 => {
                store = if rng.random() { Store::default() } else { backup.clone() };
                now_ms += conditions.away_ms;
            }
            _ => {}
        }
    }
    None
}

#[test]
fn fences_rise_over_every_loss_that_takes_longer_than_clocks_differ() {
    let away_ms = CALL_MS_MAX + BEHIND_MS_MAX + 1;
    let longer = Conditions { ahead_ms_max: 5_000, away_ms: 5_000 + away_ms };
    let same = Conditions { ahead_ms_max: 0, away_ms };
    for seed in 0..300 {
        assert_eq!(play(seed, &longer), None, "seed {seed}");
        assert_eq!(play(seed, &same), None, "seed {seed}");
    }
    let at_once = Conditions { ahead_ms_max: 5_000, away_ms: 0 };
    assert!((0..300).any(|seed| play(seed, &at_once).is_some()), "nobody would need the time");
}

#[test]
fn fences_rise_whatever_clocks_say_while_nothing_is_lost() {
    for seed in 0..100 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut store = Store { revision: rng.random_range(0..1 << 40), value: None };
        let mut nodes: Vec<_> = (0..3).map(|_| Node::new(0)).collect();
        let mut last = 0;
        for _ in 0..1_000 {
            let at = rng.random_range(0..nodes.len());
            let unix_ms = rng.random::<u64>() >> rng.random_range(0..64);
            if let Some(fence) = nodes[at].create(&mut store, unix_ms) {
                assert!(fence > last && fence < 1 << 63, "seed {seed}: {fence} after {last}");
                last = fence;
            }
        }
        assert!(last > 0);
    }
}

#[test]
fn who_remembers_a_higher_count_raises_above_it_whatever_its_clock_says() {
    let (mut store, mut node) = (Store { revision: 5_000, value: None }, Node::new(0));
    let first = node.create(&mut store, 9_000_000).unwrap();
    for lost in [Store { revision: 4_000, value: Some(b"77".to_vec()) }, Store::default()] {
        store = lost;
        assert!(!node.read(&store), "it is another history");
        assert!(node.read(&store), "and goes on");
        let fence = node.create(&mut store, 1).unwrap();
        assert!(fence > first, "{fence} after {first}");
    }
}

#[test]
fn of_two_that_raise_the_offset_at_once_one_begins_anew_and_finds_it_raised() {
    let (mut store, mut one, mut two) = (Store { revision: 7, value: None }, Node::new(0), Node::new(0));
    assert!(one.read(&store) && two.read(&store));
    let first = one.create(&mut store, 1_000_000).unwrap();
    assert_eq!(two.create(&mut store, 1_000_100), None);
    assert_eq!(two.create(&mut store, 1_000_100), Some(first + 1), "it counts on from there");
    let second = two.create(&mut store, 1_000_000 + BEHIND_MS_MAX + 1).unwrap();
    assert!(second > first + COUNTS_PER_MS * BEHIND_MS_MAX);
}

#[test]
fn a_late_answer_is_no_news_and_no_other_history() {
    let mut offset = Offset::default();
    assert!(offset.read(Revision(0), Revision(9), Some(b"100")));
    assert!(offset.read(Revision(3), Revision(5), Some(b"10")), "it was asked before");
    assert_eq!(offset.next(0), Next { known: Some(b"100"), offset: 100, is_raised: false });
    assert_eq!(offset.revision(), Revision(9));
}

#[test]
fn what_is_no_offset_is_replaced() {
    let highest = OFFSET_MAX.to_string();
    let above = (OFFSET_MAX + 1).to_string();
    for (value, offset) in [("", 0), ("x", 0), ("-1", 0), (&above, 0), (&highest, OFFSET_MAX)] {
        let mut known = Offset::default();
        known.read(Revision(0), Revision(5), Some(value.as_bytes()));
        let next = known.next(u64::MAX);
        assert_eq!((next.known, next.offset), (Some(value.as_bytes()), OFFSET_MAX), "{value}");
        let next = known.next(0);
        assert_eq!((next.offset, next.is_raised), (offset, false), "{value}");
    }
}
