//! Three nodes, each with a copy of everything: what one of them lacks, or has, when the primary of the others dies.

use super::several::Several;
use super::*;
use crate::safeguard::without;

/// Three of them, all with a copy of everything.
fn three(mode: Mode) -> Several {
    Several::new(3, 3, mode)
}

impl Several {
    fn returns(&mut self, node: usize) {
        self.silent.remove(&node);
        for (from, to) in (0..3).map(|other| (node, other)).chain((0..3).map(|other| (other, node))) {
            let peer = PeerShard { slot: SlotId(u16::try_from(to).unwrap()), shard: 0 };
            self.ends[from].replicator.lost(peer);
            self.ends[from].replicator.connected(peer, true);
        }
    }

    /// The first node is gone, and the others hear of it.
    fn loses_the_first(&mut self) {
        self.silent.insert(0);
        self.ring = Arc::new(Ring::new(migrate::remove(&self.ring, SlotId(0)).unwrap()).unwrap());
        self.tell_all();
    }

    /// Keys of the first node, and of the second when that is gone.
    fn keys(&self, count: usize) -> Vec<Vec<u8>> {
        let next = Ring::new(migrate::remove(&self.ring, SlotId(0)).unwrap()).unwrap();
        let keys = (0_u32..).map(|n| n.to_string().into_bytes());
        let primaries = |key: &Vec<u8>| {
            let partition = partition_of(hash_key(key));
            (self.ring.primary(partition), next.primary(partition))
        };
        keys.filter(|key| primaries(key) == (SlotId(0), SlotId(1))).take(count).collect()
    }

    fn set(&mut self, at: usize, key: &[u8], value: &str) -> Result<Version, Refused> {
        let End { replicator, store } = &mut self.ends[at];
        let content = Content { value: value.as_bytes().into(), ..Content::default() };
        let write = Write {
            token: 0,
            hash: hash_key(key),
            key: key.into(),
            change: Change::Becomes(Some(content)),
            invalidates: false,
            deadline: self.now + Micros::from_millis(250),
        };
        replicator.write(self.now, store, write)
    }

    fn set_all(&mut self, keys: &[Vec<u8>], value: &str) {
        for key in keys {
            self.set(0, key, value).unwrap();
        }
    }

    fn value(&self, at: usize, key: &[u8]) -> Option<String> {
        let content = self.ends[at].store.read(self.now, hash_key(key), key)?.content?;
        Some(String::from_utf8_lossy(&content.value).into_owned())
    }

    fn flush(&mut self, at: usize) {
        let End { replicator, store } = &mut self.ends[at];
        store.flush_all();
        replicator.flushed(self.now);
    }
}

/// What the third one has at last, which was away while the primary forgot what it said to it, and what the others have.
fn after_the_primary_forgot(mode: Mode) -> (Option<String>, Option<String>) {
    let mut three = three(mode);
    three.ends.iter_mut().for_each(|end| end.replicator.writes_max = 16);
    let keys = three.keys(40);
    three.set(0, &keys[0], "old").unwrap();
    // Until it is known that all have it.
    three.pass(400);
    three.silent.insert(2);
    three.set_all(&keys, "new");
    three.pass(300);
    three.loses_the_first();
    three.pass(4_000);
    three.returns(2);
    three.pass(1_000);
    assert_eq!(three.ends[1].replicator.counts().out_of_sync, 0);
    (three.value(2, &keys[0]), three.value(1, &keys[0]))
}

#[test]
fn who_takes_over_fills_anew_who_was_behind_when_its_primary_forgot() {
    for mode in [Mode::Async, Mode::Inval] {
        let new = Some("new".to_owned());
        assert_eq!(after_the_primary_forgot(mode), (new.clone(), new), "{mode:?}");
    }
}

#[test]
fn without_telling_who_is_behind_a_copy_keeps_what_is_old() {
    let copies = without(Safeguard::WhoIsBehindIsTold, || after_the_primary_forgot(Mode::Async));
    assert_eq!(copies, (Some("old".to_owned()), Some("new".to_owned())));
}

#[test]
fn a_copy_that_caught_up_is_not_filled_anew() {
    let mut three = three(Mode::Async);
    three.ends.iter_mut().for_each(|end| end.replicator.writes_max = 16);
    let keys = three.keys(40);
    let first = PeerShard { slot: SlotId(0), shard: 0 };
    let third = PeerShard { slot: SlotId(2), shard: 0 };
    three.silent.insert(2);
    three.set_all(&keys, "new");
    three.pass(300);
    let behind = |three: &Several| three.ends[1].replicator.sources[&first].behind.contains(&third);
    assert!(behind(&three));
    three.returns(2);
    three.pass(300);
    assert!(!behind(&three));
    three.loses_the_first();
    assert_eq!(three.ends[1].replicator.counts().out_of_sync, 0);
    assert_eq!(three.value(2, &keys[0]).as_deref(), Some("new"));
}

/// The second has more doubts than it may say again at a time.
#[test]
fn who_takes_over_serves_while_another_copy_is_away_whatever_it_doubts() {
    for mode in [Mode::Async, Mode::Inval] {
        let mut three = three(mode);
        let keys = three.keys(WRITES_MAX / 2 + 100);
        three.silent.insert(2);
        for keys in keys.chunks(1_000) {
            three.set_all(keys, "new");
            three.pass(100);
        }
        assert!(three.ends[1].replicator.doubts.len() > WRITES_MAX / 2);
        three.loses_the_first();
        three.pass(4_000);
        for key in &keys {
            let served = three.ends[1].replicator.may_read(three.now, hash_key(key));
            assert_eq!(served, Ok(()), "{mode:?}");
        }
        three.set(1, &keys[0], "newer").unwrap();
        three.returns(2);
        three.pass(1_000);
        for key in &keys {
            assert!(three.value(1, key).is_some() && three.value(1, key) == three.value(2, key), "{mode:?}");
        }
    }
}

/// What the second and the third have of a key when the first one died behind a flush: `late`, one of them, performed it first, then got
/// what the first had said before it performed it too, and did not hear its word of it.
fn after_a_flush(mode: Mode, late: usize) -> [Option<String>; 2] {
    let mut three = three(mode);
    let key = three.keys(1).remove(0);
    three.flush(late);
    three.set(0, &key, "before").unwrap();
    three.pass(400);
    assert_eq!(three.value(late, &key).as_deref(), Some("before"), "it was on its way");
    three.flush(3 - late);
    three.pass(400);
    three.silent.insert(late);
    three.flush(0);
    three.pass(100);
    three.loses_the_first();
    three.returns(late);
    three.pass(4_000);
    assert_eq!(three.ends[1].replicator.may_read(three.now, hash_key(&key)), Ok(()));
    [three.value(1, &key), three.value(2, &key)]
}

#[test]
fn a_copy_forgets_what_came_since_a_flush_when_its_primary_dies_before_its_word_of_it() {
    for mode in [Mode::Async, Mode::Inval] {
        for late in [1, 2] {
            assert_eq!(after_a_flush(mode, late), [None, None], "{mode:?}, node {late}");
        }
    }
}

#[test]
fn without_awaiting_the_word_of_a_flush_what_was_before_returns() {
    for late in [1, 2] {
        let copies = without(Safeguard::FlushesAreAwaited, || after_a_flush(Mode::Async, late));
        assert_eq!(copies[late - 1].as_deref(), Some("before"), "node {late}");
    }
}

/// In whatever order they perform it.
#[test]
fn what_is_written_behind_a_flush_outlives_the_primary() {
    for order in [[0, 1, 2], [1, 2, 0], [1, 0, 2], [2, 0, 1]] {
        let mut three = three(Mode::Sync);
        let key = three.keys(1).remove(0);
        for node in order {
            three.flush(node);
            three.pass(100);
        }
        three.set(0, &key, "after").unwrap();
        three.pass(100);
        three.loses_the_first();
        three.pass(4_000);
        for node in [1, 2] {
            assert_eq!(three.value(node, &key).as_deref(), Some("after"), "node {node}, {order:?}");
        }
    }
}

/// Nobody dies: what the first says comes to the second when that is primary already.
#[test]
fn a_flush_comes_behind_what_was_said_before_also_to_who_takes_over() {
    let mut pair = Pair::new(2, Mode::Async);
    let key = pair.key_of(SlotId(0));
    pair.pass(2_000);
    let flush = |pair: &mut Pair, at: usize| {
        let End { replicator, store } = &mut pair.ends[at];
        store.flush_all();
        replicator.flushed(pair.now);
    };
    flush(&mut pair, 1);
    pair.set(0, &key, "before", None).unwrap();
    flush(&mut pair, 0);
    let late = pair.say(0);
    let mut next = migrate::next(&pair.ring).unwrap();
    let partition = partition_of(hash_key(&key));
    let place = pair.ring.owners(partition).iter().position(|&slot| slot == SlotId(1)).unwrap();
    next.replication.as_mut().unwrap().roles.set(partition, place);
    pair.follow(Some(next));
    pair.hear(1, &late);
    pair.pass(5_000);
    assert_eq!(pair.ends[1].replicator.may_read(pair.now, hash_key(&key)), Ok(()));
    assert_eq!((pair.read(0, &key), pair.read(1, &key)), (None, None));
}

/// Another node may be primary by another ring, and has not heard of the flush; or answers on, and will be heard.
#[test]
fn a_flush_by_another_ring_or_by_who_takes_over_is_refused() {
    let mut three = three(Mode::Sync);
    let before = three.ring.epoch();
    let may_flush =
        |three: &Several| [before, three.ring.epoch()].map(|epoch| three.ends[1].replicator.may_flush(epoch));
    assert_eq!(may_flush(&three), [Ok(()); 2]);
    three.loses_the_first();
    assert_eq!(may_flush(&three), [Err(Refused::Wait); 2]);
    three.pass(4_000);
    assert_eq!(may_flush(&three), [Err(Refused::Wait), Ok(())]);
}
