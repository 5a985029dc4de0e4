//! One shard or two by hand: what an heir serves and for how long, and how copies that differ become equal.

use super::*;
use crate::migrate;
use crate::placement::{PARTITION_COUNT, hash_key};
use crate::replica::memory::MemoryStore;
use crate::replica::message::Fences;
use crate::replica::stream::QUEUE_BYTES_MIN;
use crate::ring::RingDocument;

mod deltas;
mod heirs;
mod several;
mod three;

struct End {
    replicator: Replicator<u32>,
    store: MemoryStore,
}

impl End {
    fn begin(slot: u16, life: u64) -> Self {
        let partitions = u16::try_from(PARTITION_COUNT).unwrap();
        let mut replicator = Replicator::new(Incarnation(life), 0, 0..partitions);
        replicator.connected(PeerShard { slot: SlotId(1 - slot), shard: 0 }, true);
        Self { replicator, store: MemoryStore::default() }
    }
}

/// Two nodes of one shard each, with a connection that loses nothing.
struct Pair {
    now: Micros,
    ring: Arc<Ring>,
    ends: [End; 2],
}

impl Pair {
    fn new(replicas: u8, mode: Mode) -> Self {
        let node = |n| {
            format!("[[node]]\npeer = \"10.0.{n}.1:7000\"\nclient = \"10.0.{n}.1:11211\"\nincarnation = 1\n")
        };
        let text = format!("replicas = {replicas}\n{}{}", node(0), node(1));
        let document = RingDocument { mode, ..RingDocument::from_toml(&text).unwrap() };
        Self::of(Ring::new(migrate::upgrade(&Ring::new(document).unwrap()).unwrap()).unwrap())
    }

    /// By a list, which means every life of a node and stays as it is.
    fn of_list(mode: Mode) -> Self {
        let node = |n| format!("[[node]]\npeer = \"10.0.{n}.1:7000\"\nclient = \"10.0.{n}.1:11211\"\n");
        let text = format!("replicas = 2\n{}{}", node(0), node(1));
        let document = RingDocument { mode, ..RingDocument::from_toml(&text).unwrap() };
        Self::of(Ring::new(document).unwrap())
    }

    fn of(ring: Ring) -> Self {
        let (now, ends) = (Micros::from_millis(1_000), [End::begin(0, 1), End::begin(1, 1)]);
        let mut pair = Self { now, ring: Arc::new(ring), ends };
        pair.adopt();
        pair
    }

    fn follow(&mut self, next: Option<RingDocument>) {
        self.ring = Arc::new(Ring::new(next.expect("the step can be made")).unwrap());
        self.adopt();
    }

    /// The second node dies and begins another life, with nothing.
    fn restart(&mut self, life: u64) {
        let end = &mut self.ends[1];
        *end = End::begin(1, life);
        end.replicator.adopt(self.now, &mut end.store, &self.ring, Some(SlotId(1)));
        let peer = PeerShard { slot: SlotId(1), shard: 0 };
        self.ends[0].replicator.lost(peer);
        self.ends[0].replicator.connected(peer, true);
    }

    fn adopt(&mut self) {
        let (now, ring) = (self.now, Arc::clone(&self.ring));
        for (slot, end) in (0..).map(SlotId).zip(&mut self.ends) {
            end.replicator.adopt(now, &mut end.store, &ring, Some(slot));
        }
    }

    /// Lets time pass, and both say all that they have to say.
    fn pass(&mut self, millis: u64) {
        self.now = self.now + Micros::from_millis(millis);
        for from in [0, 1].into_iter().cycle().take(40) {
            let said = self.say(from);
            self.hear(1 - from, &said);
        }
    }

    /// What one has to say now, which the other does not hear.
    fn say(&mut self, from: usize) -> Vec<Vec<u8>> {
        let End { replicator, store } = &mut self.ends[from];
        replicator.confirmed(self.now);
        replicator.turn(self.now, store);
        replicator.check_invariants();
        let mut said = Vec::new();
        while let Some(effect) = replicator.next_effect() {
            if let Effect::Send { bytes, .. } = effect {
                said.push(bytes);
            }
        }
        said
    }

    fn hear(&mut self, to: usize, said: &[Vec<u8>]) {
        let End { replicator, store } = &mut self.ends[to];
        said.iter().for_each(|bytes| replicator.received(self.now, store, bytes).unwrap());
    }

    /// A key that a node is primary of.
    fn key_of(&self, slot: SlotId) -> Vec<u8> {
        self.keys_of(slot).next().unwrap()
    }

    fn keys_of(&self, slot: SlotId) -> impl Iterator<Item = Vec<u8>> + use<> {
        let ring = Arc::clone(&self.ring);
        let keys = (0_u32..).map(|n| n.to_string().into_bytes());
        keys.filter(move |key| ring.primary(partition_of(hash_key(key))) == slot)
    }

    fn set(
        &mut self,
        at: usize,
        key: &[u8],
        value: &str,
        dies_at: Option<Micros>,
    ) -> Result<Version, Refused> {
        let End { replicator, store } = &mut self.ends[at];
        let content = Content { value: value.as_bytes().into(), dies_at, ..Content::default() };
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

    fn read(&self, at: usize, key: &[u8]) -> Option<Record> {
        self.ends[at].store.read(self.now, hash_key(key), key)
    }
}

/// Others call a node silent after [`SILENT_AFTER`], and write its keys.
#[test]
fn who_hears_nobody_tells_near_caches_nothing_before_others_may_write() {
    let mut first = Pair::new(2, Mode::Sync).ends.into_iter().next().unwrap().replicator;
    let last = Micros::from_millis(9_000);
    let in_touch = |first: &Replicator<u32>| {
        [1, 999, 1_001, 1_400].map(|millis| first.is_in_touch(last + Micros::from_millis(millis)))
    };
    assert_eq!(in_touch(&first), [false; 4]);
    first.heard(last, SlotId(1));
    assert_eq!(in_touch(&first), [true, true, false, false]);
    first.confirmed(last + Micros::from_millis(500));
    assert_eq!(in_touch(&first), [true, true, true, true]);
}

#[test]
fn an_heir_keeps_new_values_for_ten_seconds_and_none_when_the_owner_is_back() {
    let mut pair = Pair::new(1, Mode::Rf1);
    let key = pair.key_of(SlotId(1));
    pair.pass(2_000);
    assert_eq!(pair.set(0, &key, "elsewhere", None), Err(Refused::NotPrimary));
    pair.follow(migrate::remove(&pair.ring, SlotId(1)));
    pair.pass(4_000);
    assert_eq!(pair.read(0, &key), None, "the heir begins with nothing");
    let soon = pair.now + Micros::from_millis(3_000);
    for (asked, kept) in [(None, pair.now + GUTTER_TTL_MAX), (Some(soon), soon)] {
        pair.set(0, &key, "kept for a while", asked).unwrap();
        let content = pair.read(0, &key).and_then(|record| record.content).unwrap();
        assert_eq!(content.dies_at, Some(kept));
    }
    pair.follow(migrate::bring_back(&pair.ring, SlotId(1), Incarnation(1)));
    pair.pass(1_000);
    pair.follow(migrate::admit(&pair.ring, SlotId(1), |_| true));
    assert_eq!(pair.read(0, &key), None, "what it kept is dropped with the ownership");
}

#[test]
fn scrubbing_makes_spoilt_stale_and_unknown_copies_what_the_primary_has() {
    let mut pair = Pair::new(2, Mode::Async);
    let key = pair.key_of(SlotId(0));
    pair.pass(2_000);
    pair.set(0, &key, "right", None).unwrap();
    pair.pass(100);
    let right = pair.read(0, &key).unwrap();
    assert_eq!(pair.read(1, &key).as_ref(), Some(&right));
    let (now, spoilt) = (pair.now, Content { value: Bytes::from(*b"spoilt"), ..Content::default() });
    let wrong = Record { version: Version(u64::MAX), content: Some(spoilt), ..right.clone() };
    let mut strangers = (0_u32..).map(|n| format!("x{n}").into_bytes());
    let is_first = |key: &Vec<u8>| pair.ring.primary(partition_of(hash_key(key))) == SlotId(0);
    let unknown_key = strangers.find(is_first).unwrap();
    let unknown =
        Record { key: Bytes::from(&unknown_key[..]), hash: hash_key(&unknown_key), ..wrong.clone() };
    pair.ends[1].store.apply(now, &wrong);
    pair.ends[1].store.apply(now, &unknown);
    pair.pass(10_000);
    assert_eq!(pair.read(1, &key), Some(wrong), "nothing else finds it");
    let End { replicator, store } = &mut pair.ends[1];
    replicator.scrub(now, store);
    pair.pass(100);
    assert_eq!(pair.read(1, &key), Some(right));
    assert_eq!(pair.read(1, &unknown_key), None);
    let compared = |pair: &Pair| {
        let Counts { compared, gone, differed, .. } = pair.ends[0].replicator.counts();
        (compared, gone, differed)
    };
    assert_eq!(compared(&pair), (2, 1, 1));
    // What is on its way to the copy does not differ from it.
    let End { replicator, store } = &mut pair.ends[1];
    replicator.scrub_anew();
    replicator.scrub(pair.now, store);
    pair.set(0, &key, "newer", None).unwrap();
    pair.pass(100);
    assert_eq!(compared(&pair), (3, 1, 1));
}

#[test]
fn who_shares_no_copies_with_anybody_serves_while_it_hears_of_half_of_the_others() {
    let mut pair = Pair::new(1, Mode::Rf1);
    let key = pair.key_of(SlotId(0));
    pair.pass(2_000);
    pair.set(0, &key, "confirmed", None).unwrap();
    pair.now = pair.now + Micros::from_millis(4_000);
    assert_eq!(pair.set(0, &key, "alone", None), Err(Refused::NoLease));
    let now = pair.now;
    pair.ends[0].replicator.heard(now, SlotId(1));
    pair.set(0, &key, "in company", None).unwrap();
}

#[test]
fn what_was_said_in_an_earlier_stream_and_comes_late_does_not_hold_up_the_present_one() {
    let mut pair = Pair::new(2, Mode::Async);
    let key = pair.key_of(SlotId(0));
    pair.pass(2_000);
    pair.now = pair.now + Micros::from_millis(500);
    let late = pair.say(0);
    assert!(!late.is_empty(), "it is to be heard of");
    pair.follow(migrate::remove(&pair.ring, SlotId(1)));
    pair.pass(100);
    pair.follow(migrate::bring_back(&pair.ring, SlotId(1), Incarnation(1)));
    pair.pass(100);
    pair.hear(1, &late);
    pair.set(0, &key, "new", None).unwrap();
    pair.pass(1_000);
    assert!(pair.read(1, &key).is_some());
    assert_eq!(pair.read(1, &key), pair.read(0, &key));
}

#[test]
fn copies_hear_of_a_fence_at_once_and_who_returns_when_it_is_filled() {
    let mut pair = Pair::new(2, Mode::Sync);
    let key = pair.key_of(SlotId(0));
    let hash = hash_key(&key);
    let known = |pair: &Pair, at: usize| pair.ends[at].store.fences(&|wanted| wanted == hash).known;
    let name = |pair: &mut Pair, fence| {
        let End { replicator, store } = &mut pair.ends[0];
        store.raise_fences(&Fences { floor: 0, known: vec![(hash, fence)] });
        replicator.tell_fence(pair.now, store, hash, fence);
    };
    pair.pass(2_000);
    name(&mut pair, 7);
    pair.pass(10);
    assert_eq!(known(&pair, 1), [(hash, 7)]);
    pair.follow(migrate::remove(&pair.ring, SlotId(1)));
    name(&mut pair, 8);
    pair.pass(1_000);
    assert_eq!(known(&pair, 1), [(hash, 7)], "nobody told it");
    // There is no item of the key, and it is told all the same.
    pair.ends[1].store = MemoryStore::default();
    pair.follow(migrate::bring_back(&pair.ring, SlotId(1), Incarnation(1)));
    pair.pass(2_000);
    assert_eq!(known(&pair, 1), [(hash, 8)]);
    assert_eq!(pair.read(1, &key), None);
}

#[test]
fn a_copy_that_is_away_holds_up_no_write_that_does_not_wait_for_it() {
    for mode in [Mode::Async, Mode::Inval] {
        let mut pair = Pair::new(2, mode);
        pair.ends[0].replicator.queue_bytes = 0;
        pair.pass(2_000);
        let keys = (0_u32..).map(|n| n.to_string().into_bytes());
        let is_mine = |key: &Vec<u8>| pair.ring.primary(partition_of(hash_key(key))) == SlotId(0);
        let keys: Vec<_> = keys.filter(is_mine).take(WRITES_MAX + 1_000).collect();
        let value = "x".repeat(300);
        let mut bytes_max = 0;
        for (n, key) in keys.iter().enumerate() {
            assert!(pair.set(0, key, &value, None).is_ok(), "write {n}");
            bytes_max =
                bytes_max.max(if n % 1_000 == 0 { pair.ends[0].replicator.buffer_bytes() } else { 0 });
            pair.ends[0].replicator.effects.clear();
        }
        pair.ends[0].replicator.check_invariants();
        let each = size_of::<Open<u32>>() + 10;
        assert!(bytes_max <= QUEUE_BYTES_MIN + WRITES_MAX * each, "{bytes_max} bytes wait");
        let is_behind = |counts: Counts| counts.lag_entries + counts.out_of_sync > 0;
        for _ in 0..1_000 {
            pair.pass(50);
            if !is_behind(pair.ends[0].replicator.counts()) {
                break;
            }
        }
        assert!(keys.iter().all(|key| pair.read(1, key).is_some() && pair.read(1, key) == pair.read(0, key)));
        assert_eq!(pair.ends[0].replicator.counts().writes_open, 0);
    }
}

#[test]
fn what_waited_for_a_copy_that_was_behind_is_done_when_the_ring_says_that_it_is_down() {
    for mode in [Mode::Async, Mode::Inval] {
        let mut pair = Pair::new(2, mode);
        pair.ends[0].replicator.queue_bytes = 0;
        pair.pass(2_000);
        let keys: Vec<_> = pair.keys_of(SlotId(0)).take(8_000).collect();
        let value = "x".repeat(300);
        for key in &keys {
            pair.set(0, key, &value, None).unwrap();
        }
        let counts = pair.ends[0].replicator.counts();
        assert!(counts.out_of_sync == 1 && counts.writes_open == 8_000, "{counts:?}");
        pair.follow(migrate::remove(&pair.ring, SlotId(1)));
        pair.ends[0].replicator.check_invariants();
        assert_eq!(pair.ends[0].replicator.counts().writes_open, 0, "{mode:?}");
    }
}

#[test]
fn filling_a_learner_of_few_keys_walks_over_many_in_many_turns() {
    const KEYS: usize = 3_000;
    let mut pair = Pair::new(1, Mode::Rf1);
    pair.pass(2_000);
    let keys = (0_u32..).map(|n| n.to_string().into_bytes());
    let is_mine = |key: &Vec<u8>| pair.ring.primary(partition_of(hash_key(key))) == SlotId(0);
    let keys: Vec<_> = keys.filter(is_mine).take(KEYS).collect();
    for key in &keys {
        pair.set(0, key, "value", None).unwrap();
    }
    pair.follow(migrate::begin(&pair.ring, vec![250, 256]));
    let mut turns = 0;
    loop {
        let said = pair.say(0);
        pair.hear(1, &said);
        turns += 1;
        if !pair.ends[0].replicator.is_in_a_hurry() {
            break;
        }
    }
    assert!(turns * FILL_STEPS_MAX * 3 >= KEYS, "{turns} turns");
    let has_come = |key: &&Vec<u8>| pair.read(1, key).is_some();
    let wanted = |key: &&Vec<u8>| !pair.ring.assignment(partition_of(hash_key(key))).learners.is_empty();
    let wanted: Vec<_> = keys.iter().filter(wanted).collect();
    assert!((1..KEYS / 10).contains(&wanted.len()) && wanted.iter().all(has_come));
}

#[test]
fn a_copy_that_begins_another_life_by_the_same_list_gets_all_that_it_lost_and_what_is_written_since() {
    for mode in [Mode::Sync, Mode::Inval, Mode::Async] {
        let mut pair = Pair::of_list(mode);
        let keys: Vec<_> = pair.keys_of(SlotId(0)).take(6).collect();
        pair.pass(2_000);
        for (n, key) in keys[..2].iter().enumerate() {
            pair.set(0, key, "before", None).unwrap();
            // The last is said, and the other end dies before it hears it.
            pair.pass(u64::from(n == 0));
        }
        pair.set(0, &keys[2], "said to nobody", None).unwrap();
        let lost = pair.say(0);
        assert!(!lost.is_empty());
        pair.restart(2);
        pair.set(0, &keys[3], "meanwhile", None).unwrap();
        pair.pass(300);
        pair.set(0, &keys[4], "after", None).unwrap();
        pair.pass(300);
        for key in &keys[..5] {
            assert!(pair.read(0, key).is_some());
            assert_eq!(pair.read(1, key), pair.read(0, key), "{mode:?}");
        }
        let Counts { writes_open, lag_entries, out_of_sync, .. } = pair.ends[0].replicator.counts();
        assert_eq!((writes_open, lag_entries, out_of_sync), (0, 0, 0), "{mode:?}");
    }
}

#[test]
fn what_waits_for_a_copy_that_begins_another_life_is_done_when_that_life_has_it() {
    let mut pair = Pair::of_list(Mode::Sync);
    let key = pair.key_of(SlotId(0));
    pair.pass(2_000);
    pair.set(0, &key, "pending", None).unwrap();
    let lost = pair.say(0);
    assert!(!lost.is_empty() && pair.read(0, &key).is_none());
    pair.restart(2);
    let heard = pair.say(0);
    pair.hear(1, &heard);
    let told = pair.say(1);
    pair.hear(0, &told);
    assert_eq!(pair.ends[0].replicator.counts().out_of_sync, 1, "it holds nothing yet");
    let said = pair.say(0);
    pair.hear(1, &said);
    assert!(pair.read(1, &key).is_some() && pair.read(0, &key).is_none());
    let told = pair.say(1);
    pair.hear(0, &told);
    assert_eq!(pair.read(1, &key), pair.read(0, &key));
}

#[test]
fn a_flush_comes_to_a_copy_behind_what_was_said_before_and_ahead_of_what_is_written_after() {
    for mode in [Mode::Inval, Mode::Async] {
        let mut pair = Pair::new(2, mode);
        let keys: Vec<_> = pair.keys_of(SlotId(0)).take(4).collect();
        pair.pass(2_000);
        pair.set(0, &keys[0], "old", None).unwrap();
        pair.pass(10);
        pair.follow(migrate::remove(&pair.ring, SlotId(1)));
        pair.follow(migrate::bring_back(&pair.ring, SlotId(1), Incarnation(1)));
        // The learner is told of it when the bulk is on its way, or not at all.
        let bulk = pair.say(0);
        pair.set(0, &keys[1], "on its way", None).unwrap();
        for end in &mut pair.ends {
            end.store.flush_all();
        }
        pair.ends[0].replicator.flushed(pair.now);
        pair.set(0, &keys[2], "new", None).unwrap();
        pair.hear(1, &bulk);
        assert!(pair.read(1, &keys[0]).is_some(), "{mode:?}: it comes late");
        pair.pass(1_000);
        for (key, is_there) in keys.iter().zip([false, false, true, false]) {
            assert_eq!(pair.read(0, key).is_some(), is_there, "{mode:?}");
            assert_eq!(pair.read(1, key), pair.read(0, key), "{mode:?}");
        }
        assert_eq!(pair.ends[0].replicator.counts().writes_open, 0);
    }
}

#[test]
fn a_write_that_waits_for_a_copy_comes_behind_a_flush() {
    let mut pair = Pair::new(2, Mode::Sync);
    let key = pair.key_of(SlotId(0));
    pair.pass(2_000);
    pair.set(0, &key, "pending", None).unwrap();
    let before = pair.say(0);
    for end in &mut pair.ends {
        end.store.flush_all();
    }
    pair.ends[0].replicator.flushed(pair.now);
    pair.hear(1, &before);
    let told = pair.say(1);
    pair.hear(0, &told);
    assert_eq!(pair.read(0, &key), None, "the copy is to forget it once more");
    pair.pass(100);
    assert!(pair.read(0, &key).is_some());
    assert_eq!(pair.read(1, &key), pair.read(0, &key));
}

#[test]
fn flushes_while_a_copy_is_away_take_no_room_without_bound() {
    let mut pair = Pair::new(2, Mode::Async);
    let key = pair.key_of(SlotId(0));
    pair.pass(2_000);
    (0..40_000).for_each(|_| pair.ends[0].replicator.flushed(pair.now));
    pair.ends[0].replicator.check_invariants();
    pair.set(0, &key, "after", None).unwrap();
    pair.pass(1_000);
    assert_eq!(pair.read(1, &key), pair.read(0, &key));
}

#[test]
fn a_new_primary_forgets_what_the_one_before_says_behind_a_flush() {
    let mut pair = Pair::new(2, Mode::Async);
    let key = pair.key_of(SlotId(0));
    pair.pass(2_000);
    pair.set(0, &key, "old", None).unwrap();
    let late = pair.say(0);
    assert!(!late.is_empty());
    // The role goes to the other one.
    let mut next = migrate::next(&pair.ring).unwrap();
    let partition = partition_of(hash_key(&key));
    let place = pair.ring.owners(partition).iter().position(|&slot| slot == SlotId(1)).unwrap();
    next.replication.as_mut().unwrap().roles.set(partition, place);
    pair.follow(Some(next));
    for end in &mut pair.ends {
        end.store.flush_all();
        end.replicator.flushed(pair.now);
    }
    pair.hear(1, &late);
    assert!(pair.read(1, &key).is_some());
    pair.pass(5_000);
    assert_eq!((pair.read(0, &key), pair.read(1, &key)), (None, None));
}

/// `cargo test --release -p slabring-cluster --lib how_long -- --ignored --nocapture`
#[test]
#[ignore = "it measures"]
fn how_long_a_shard_takes_to_follow_rings() {
    for nodes in [4, 100] {
        let node = |n| {
            format!("[[node]]\npeer = \"10.0.{n}.1:7000\"\nclient = \"10.0.{n}.1:11211\"\nincarnation = 1\n")
        };
        let text: String = (1..=nodes).map(node).collect();
        let document = RingDocument::from_toml(&format!("replicas = 2\n{text}")).unwrap();
        let mut ring = Ring::new(migrate::upgrade(&Ring::new(document).unwrap()).unwrap()).unwrap();
        let mut end = End::begin(0, 1);
        let mut took: BTreeMap<&str, Vec<u128>> = BTreeMap::new();
        let mut follow = |what, ring: &Ring| {
            let (at, ring) = (std::time::Instant::now(), Arc::new(ring.clone()));
            end.replicator.adopt(Micros::from_millis(1_000), &mut end.store, &ring, Some(SlotId(0)));
            took.entry(what).or_default().push(at.elapsed().as_micros());
        };
        follow("the first", &ring);
        let mut weights = vec![256; nodes];
        weights[1] = 128;
        let mut next = migrate::begin(&ring, weights);
        while let Some(document) = next {
            ring = Ring::new(document).unwrap();
            follow("a movement", &ring);
            next = migrate::flip(&ring, |_| true, |_| false).or_else(|| migrate::finish(&ring));
        }
        ring = Ring::new(migrate::remove(&ring, SlotId(2)).unwrap()).unwrap();
        follow("a removal", &ring);
        ring = Ring::new(migrate::bring_back(&ring, SlotId(2), Incarnation(2)).unwrap()).unwrap();
        follow("a return", &ring);
        for (what, mut times) in took {
            times.sort_unstable();
            let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
            println!("{nodes} nodes, {what}: median {median} us, most {most} us of {}", times.len());
        }
    }
}

/// Hashes that are equal can be made: a client may choose keys so.
#[test]
fn of_two_keys_in_doubt_with_one_hash_a_copy_keeps_the_later() {
    let mut pair = Pair::new(2, Mode::Async);
    pair.pass(2_000);
    let (now, End { replicator, store }) = (pair.now, &mut pair.ends[1]);
    let [first, second] = [Bytes::from(*b"first"), Bytes::from(*b"second")];
    for key in [&first, &second, &second] {
        let content = Some(Content { value: Bytes::from(*b"value"), ..Content::default() });
        let record = Record { key: Bytes::clone(key), hash: 7, version: Version(1), content };
        store.apply(now, &record);
        let of = PeerShard { slot: SlotId(0), shard: 0 };
        replicator.doubt(now, store, 7, Doubt { of, stream: 1, sequence: 1, key: record.key });
    }
    assert!(store.read(now, 7, &first).is_none() && store.read(now, 7, &second).is_some());
    assert_eq!(replicator.doubts.get(&7).map(|doubt| &doubt.key), Some(&second));
}

#[test]
fn who_did_not_run_calls_nobody_silent_for_what_it_did_not_hear_meanwhile() {
    let mut pair = Pair::new(2, Mode::Sync);
    (0..20).for_each(|_| pair.pass(100));
    let said_of_the_other = |pair: &Pair| {
        let report = pair.ends[0].replicator.report(pair.now);
        assert_eq!([report.silent.len(), report.heard.len()].iter().sum::<usize>(), 1, "it is a member");
        if report.silent.is_empty() { "heard" } else { "silent" }
    };
    let runs_alone = |pair: &mut Pair, millis: u64| {
        pair.now = pair.now + Micros::from_millis(millis);
        pair.say(0);
    };
    assert_eq!(said_of_the_other(&pair), "heard");
    // All of the machine stops for a minute, and this one is the first to run again.
    runs_alone(&mut pair, 60_000);
    for _ in 0..14 {
        assert_eq!(said_of_the_other(&pair), "heard");
        runs_alone(&mut pair, 100);
    }
    assert_eq!(said_of_the_other(&pair), "heard");
    runs_alone(&mut pair, 100);
    assert_eq!(said_of_the_other(&pair), "silent", "it ran for as long as that takes");
    // What it was away for before does not count twice, and a pause that is none changes nothing.
    runs_alone(&mut pair, 499);
    assert_eq!(said_of_the_other(&pair), "silent");
    pair.pass(1);
    assert_eq!(said_of_the_other(&pair), "heard");
}

/// Rings come to one node after the other.
#[test]
fn what_comes_late_to_who_holds_the_partition_no_more_is_not_kept() {
    let mut pair = Pair::new(2, Mode::Inval);
    let key = pair.key_of(SlotId(0));
    pair.pass(4_000);
    pair.set(0, &key, "late", None).unwrap();
    let late = pair.say(0);
    let moving = Ring::new(migrate::begin(&pair.ring, vec![256, 0]).unwrap()).unwrap();
    let moved = migrate::flip_up_to(&moving, PARTITION_COUNT, |_| true, |_| false).unwrap();
    let ring = Arc::new(Ring::new(moved).unwrap());
    for (slot, heard) in [(1, &late[..]), (0, &[])] {
        let End { replicator, store } = &mut pair.ends[usize::from(slot)];
        replicator.adopt(pair.now, store, &ring, Some(SlotId(slot)));
        pair.hear(1, heard);
        assert_eq!(pair.read(1, &key), None, "nobody would tell it what becomes of the key");
    }
    pair.pass(1_000);
    let counts = pair.ends[0].replicator.counts();
    assert_eq!((pair.read(1, &key), counts.lag_entries), (None, 0), "and the stream goes on");
    assert!(pair.read(0, &key).is_some());
}
