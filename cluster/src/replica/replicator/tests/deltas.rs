//! What is put to a value, told to those who have it as that, and to all others as what became of it.

use super::*;
use crate::replica::message::Entry;

impl Pair {
    fn extend(&mut self, key: &[u8], side: Side, text: &str) {
        let found = self.read(0, key).expect("there is something to extend");
        let (base, value_len) = (found.version, found.content.unwrap().value.len() + text.len());
        let End { replicator, store } = &mut self.ends[0];
        let write = Write {
            token: 0,
            hash: hash_key(key),
            key: key.into(),
            change: Change::Extends { base, side, bytes: text.as_bytes().into(), value_len },
            invalidates: true,
            deadline: self.now + Micros::from_millis(250),
        };
        replicator.write(self.now, store, write).unwrap();
    }

    fn value(&self, at: usize, key: &[u8]) -> String {
        let content = self.read(at, key).and_then(|record| record.content);
        content.map_or_else(String::new, |content| String::from_utf8_lossy(&content.value).into_owned())
    }

    /// Begins with a long value of the first node's, on both.
    fn with_value(mode: Mode) -> (Self, Vec<u8>) {
        let mut pair = Self::new(2, mode);
        let key = pair.key_of(SlotId(0));
        pair.pass(2_000);
        pair.set(0, &key, "long", None).unwrap();
        pair.pass(10);
        assert_eq!(pair.value(1, &key), "long");
        (pair, key)
    }
}

/// Entries that say what was put to a value, and those that say what a key has become.
fn said(messages: &[Vec<u8>]) -> (usize, usize) {
    let (mut deltas, mut states) = (0, 0);
    for bytes in messages {
        let Ok((_, Message::Feed(feed))) = decode(Micros(0), bytes) else { continue };
        for numbered in feed.entries {
            deltas += usize::from(matches!(numbered.entry, Entry::Delta(_)));
            states += usize::from(matches!(numbered.entry, Entry::Live(_) | Entry::Bulk(_)));
        }
    }
    (deltas, states)
}

#[test]
fn who_has_a_value_is_told_what_was_put_to_it_and_no_more() {
    for mode in [Mode::Async, Mode::Inval, Mode::Sync] {
        let (mut pair, key) = Pair::with_value(mode);
        pair.extend(&key, Side::Back, "er");
        let messages = pair.say(0);
        assert_eq!(said(&messages), (1, 0), "{mode:?}");
        assert_eq!(pair.value(0, &key), if mode == Mode::Sync { "long" } else { "longer" }, "{mode:?}");
        pair.hear(1, &messages);
        // Whatever comes twice counts once.
        pair.hear(1, &messages);
        assert_eq!(pair.value(1, &key), "longer", "{mode:?}");
        pair.pass(10);
        pair.extend(&key, Side::Front, "no ");
        pair.pass(10);
        assert_eq!(pair.value(1, &key), "no longer", "{mode:?}");
        assert_eq!(pair.read(0, &key), pair.read(1, &key), "{mode:?}");
    }
}

#[test]
fn a_copy_without_the_value_has_none_until_it_is_told_all_of_it() {
    for mode in [Mode::Async, Mode::Inval, Mode::Sync] {
        let (mut pair, key) = Pair::with_value(mode);
        pair.ends[1].store.evict(hash_key(&key), &key);
        pair.extend(&key, Side::Back, "er");
        let messages = pair.say(0);
        assert_eq!(said(&messages), (1, 0), "{mode:?}");
        pair.hear(1, &messages);
        assert_eq!(pair.read(1, &key), None, "{mode:?}");
        let asked = pair.say(1);
        pair.hear(0, &asked);
        assert_eq!(pair.value(0, &key), "longer", "{mode:?}: nobody waits for what was evicted");
        let messages = pair.say(0);
        assert_eq!(said(&messages), (0, 1), "{mode:?}");
        pair.hear(1, &messages);
        assert_eq!(pair.read(0, &key), pair.read(1, &key), "{mode:?}");
    }
}

#[test]
fn a_copy_with_another_value_drops_it() {
    let (mut pair, key) = Pair::with_value(Mode::Async);
    let spoilt = Record { version: Version(7), ..pair.read(1, &key).unwrap() };
    pair.ends[1].store.apply(pair.now, &spoilt);
    pair.extend(&key, Side::Back, "er");
    let messages = pair.say(0);
    pair.hear(1, &messages);
    assert_eq!(pair.read(1, &key), None);
    pair.pass(10);
    assert_eq!(pair.value(1, &key), "longer");
}

/// The walk leaves out what is pending, so it is said when the filling begins: all of it.
#[test]
fn a_copy_that_begins_another_life_meanwhile_is_told_all_of_the_value() {
    let mut pair = Pair::of_list(Mode::Sync);
    let key = pair.key_of(SlotId(0));
    pair.pass(2_000);
    pair.set(0, &key, "long", None).unwrap();
    pair.pass(10);
    pair.extend(&key, Side::Back, "er");
    assert_eq!(said(&pair.say(0)), (1, 0));
    pair.restart(2);
    let told = pair.say(1);
    pair.hear(0, &told);
    let mut messages = pair.say(0);
    pair.hear(1, &messages);
    let told = pair.say(1);
    pair.hear(0, &told);
    messages.extend(pair.say(0));
    assert_eq!(said(&messages).0, 0);
    pair.pass(10);
    assert_eq!((pair.value(0, &key), pair.value(1, &key)), ("longer".to_owned(), "longer".to_owned()));
}

#[test]
fn a_node_of_an_older_build_is_told_all_of_the_value() {
    let (mut pair, key) = Pair::with_value(Mode::Inval);
    let peer = PeerShard { slot: SlotId(1), shard: 0 };
    pair.extend(&key, Side::Back, "er");
    let lost = pair.say(0);
    assert_eq!(said(&lost), (1, 0));
    // The other build has taken its place before this one was heard.
    pair.ends[0].replicator.lost(peer);
    pair.ends[0].replicator.connected(peer, false);
    let mut messages = pair.say(0);
    pair.hear(1, &messages);
    pair.extend(&key, Side::Back, " still");
    messages.extend(pair.say(0));
    let (deltas, states) = said(&messages);
    assert!(deltas == 0 && states > 0, "{deltas} and {states}");
    pair.hear(1, &messages[1..]);
    pair.pass(100);
    assert_eq!(pair.value(1, &key), "longer still");
    assert_eq!(pair.read(0, &key), pair.read(1, &key));
    // A newer one comes back.
    pair.ends[0].replicator.lost(peer);
    pair.ends[0].replicator.connected(peer, true);
    pair.pass(10);
    pair.extend(&key, Side::Front, "even ");
    assert_eq!(said(&pair.say(0)), (1, 0));
}

#[test]
fn what_is_put_to_a_value_that_is_flushed_meanwhile_goes_with_it() {
    let (mut pair, key) = Pair::with_value(Mode::Sync);
    pair.extend(&key, Side::Back, "er");
    let messages = pair.say(0);
    pair.ends.iter_mut().for_each(|end| end.store.flush_all());
    pair.ends[0].replicator.flushed(pair.now);
    pair.hear(1, &messages);
    pair.pass(100);
    assert_eq!((pair.read(0, &key), pair.read(1, &key)), (None, None));
    pair.set(0, &key, "new", None).unwrap();
    pair.pass(10);
    assert_eq!((pair.value(0, &key), pair.value(1, &key)), ("new".to_owned(), "new".to_owned()));
}

/// Each may have to be said as a whole value, should a copy begin anew.
#[test]
fn what_is_put_to_many_long_values_at_once_is_told_as_values_beyond_what_may_wait() {
    let mut pair = Pair::new(2, Mode::Sync);
    let keys: Vec<_> = pair.keys_of(SlotId(0)).take(30).collect();
    pair.pass(2_000);
    let replicator =
        std::mem::replace(&mut pair.ends[0].replicator, Replicator::new(Incarnation(9), 0, 0..0));
    pair.ends[0].replicator = replicator.with_queue_bytes(QUEUE_BYTES_MIN);
    let long = "x".repeat(QUEUE_BYTES_MIN / 20);
    for key in &keys {
        pair.set(0, key, &long, None).unwrap();
        pair.pass(10);
    }
    keys.iter().for_each(|key| pair.extend(key, Side::Back, "y"));
    let (deltas, states) = said(&pair.say(0));
    assert!(deltas == 19 && states == 11, "{deltas} and {states}");
    pair.ends[0].replicator.lost(PeerShard { slot: SlotId(1), shard: 0 });
    pair.ends[0].replicator.connected(PeerShard { slot: SlotId(1), shard: 0 }, true);
    pair.pass(100);
    assert!(keys.iter().all(|key| pair.value(1, key).len() == long.len() + 1));
    assert!(keys.iter().all(|key| pair.read(0, key) == pair.read(1, key)));
}
