//! What a primary tells the nodes that hold copies of its items about reads: they see none, and would evict what is read most. A hint: a
//! sample, that may be lost or come late, that nobody waits for, and that changes nothing but what goes first. Keys and time in,
//! messages out. Never a connection; what a read is worth is the receiver's to know.

use std::collections::BTreeMap;

use crate::placement::hash_key;
use crate::replica::PeerShard;
use crate::time::Micros;

/// Bytes of a message, and of what is gathered for one.
pub const TOUCHES_BYTES_MAX: usize = 4 << 10;

/// What was gathered waits so long for more.
pub const TOUCHES_EVERY: Micros = Micros::from_millis(100);

/// From one message to the next, however much there is to tell: at most 400 KiB a second for each shard of another node.
pub const TOUCHES_PAUSE: Micros = Micros::from_millis(10);

const KEY_BYTES_MAX: usize = 250;
/// Beside the key: its length, and how often it was sampled.
const HEAD_BYTES: usize = 2;

const _: () = assert!(HEAD_BYTES + KEY_BYTES_MAX <= TOUCHES_BYTES_MAX && KEY_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(TOUCHES_PAUSE.0 <= TOUCHES_EVERY.0);

/// A key, and how often a read of it was sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch<'a> {
    /// The key.
    pub key: &'a [u8],
    /// At least 1.
    pub samples: u8,
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message about reads")]
pub struct Garbled;

/// The sampled reads of one shard that nobody was told of yet: at most [`TOUCHES_BYTES_MAX`]. What finds no room is forgotten: the sample is
/// a smaller one then.
#[derive(Debug, Default)]
pub struct Touches {
    /// As a message has them, but that a key comes as often as it was noted.
    gathered: Vec<u8>,
    /// When the first of them was seen.
    since: Option<Micros>,
    told_at: Option<Micros>,
}

impl Touches {
    /// Notes a sampled read. Allocates until it has once been full.
    pub fn note(&mut self, key: &[u8]) {
        assert!((1..=KEY_BYTES_MAX).contains(&key.len()), "keys have 1 to 250 bytes");
        if self.has_room() {
            append(&mut self.gathered, key, 1);
        }
    }

    fn has_room(&self) -> bool {
        self.gathered.len() + HEAD_BYTES + KEY_BYTES_MAX <= TOUCHES_BYTES_MAX
    }

    /// The messages to send, when it is time: to each of the shards that `copies` names for the hash of a key, one at most.
    pub fn take<C: Iterator<Item = PeerShard>>(
        &mut self,
        now: Micros,
        copies: impl Fn(u64) -> C,
    ) -> Vec<(PeerShard, Vec<u8>)> {
        if !self.is_due(now) {
            return Vec::new();
        }
        (self.since, self.told_at) = (None, Some(now));
        let mut counts = BTreeMap::<&[u8], u8>::new();
        for touch in entries(&self.gathered) {
            let Touch { key, samples } = touch.expect("it was gathered here");
            let count = counts.entry(key).or_default();
            *count = count.saturating_add(samples);
        }
        let mut messages = BTreeMap::<PeerShard, Vec<u8>>::new();
        for (key, samples) in counts {
            copies(hash_key(key)).for_each(|peer| append(messages.entry(peer).or_default(), key, samples));
        }
        self.gathered.clear();
        messages.into_iter().collect()
    }

    fn is_due(&mut self, now: Micros) -> bool {
        if self.gathered.is_empty() {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let has_rested = self.told_at.is_none_or(|at| now.since(at) >= TOUCHES_PAUSE);
        has_rested && (!self.has_room() || now.since(since) >= TOUCHES_EVERY)
    }

    /// Memory of them.
    pub fn buffer_bytes(&self) -> usize {
        self.gathered.capacity()
    }
}

fn append(message: &mut Vec<u8>, key: &[u8], samples: u8) {
    message.extend_from_slice(&[u8::try_from(key.len()).expect("a key has 250 bytes at most"), samples]);
    message.extend_from_slice(key);
}

/// Reads a message: nothing of it if any of it is wrong.
///
/// # Errors
/// [`Garbled`]: empty, too long, or cut.
pub fn decode(bytes: &[u8]) -> Result<impl Iterator<Item = Touch<'_>>, Garbled> {
    let is_one = (1..=TOUCHES_BYTES_MAX).contains(&bytes.len());
    if is_one && entries(bytes).all(|touch| touch.is_ok()) {
        Ok(entries(bytes).flatten())
    } else {
        Err(Garbled)
    }
}

/// The entries up to the first that is none.
fn entries(mut rest: &[u8]) -> impl Iterator<Item = Result<Touch<'_>, Garbled>> {
    std::iter::from_fn(move || {
        let next = if rest.is_empty() { None } else { Some(split_first(rest)) };
        rest = next.map_or(&[], |split| split.map_or(&[], |(_, rest)| rest));
        next.map(|split| split.map(|(touch, _)| touch))
    })
}

fn split_first(bytes: &[u8]) -> Result<(Touch<'_>, &[u8]), Garbled> {
    let (&[length, samples], rest) = bytes.split_first_chunk().ok_or(Garbled)?;
    let (key, rest) = rest.split_at_checked(length.into()).ok_or(Garbled)?;
    let is_one = (1..=KEY_BYTES_MAX).contains(&key.len()) && samples > 0;
    if is_one { Ok((Touch { key, samples }, rest)) } else { Err(Garbled) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::SlotId;

    /// The copies of a key, as some ring has them: none, one, or two.
    fn copies(hash: u64) -> impl Iterator<Item = PeerShard> {
        let peer = |slot: u64| PeerShard { slot: SlotId(u16::try_from(slot).unwrap()), shard: 0 };
        (0..hash % 3).map(move |n| peer((hash / 3 + n) % 4))
    }

    fn told(messages: &[(PeerShard, Vec<u8>)]) -> BTreeMap<(PeerShard, Vec<u8>), u64> {
        let mut all = BTreeMap::new();
        for (peer, message) in messages {
            assert!(message.len() <= TOUCHES_BYTES_MAX);
            for touch in decode(message).unwrap() {
                let before = all.insert((*peer, touch.key.to_vec()), touch.samples.into());
                assert!(before.is_none(), "a key comes once in a message");
            }
        }
        all
    }

    /// Random keys, of which the twin counts those that found room, told when they are due and never else.
    #[test]
    fn what_is_told_is_what_was_noted_and_found_room() {
        let mut seed = 1_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let (mut touches, mut twin) = (Touches::default(), BTreeMap::<Vec<u8>, u64>::new());
        let (mut now, mut first_seen, mut told_at) = (Micros(0), None, None);
        let (mut sent, mut lost, mut is_full) = (0, 0, false);
        for step in 0..50_000 {
            let burst = if step % 1_000 < 100 { 40 } else { random(2) };
            for _ in 0..burst {
                let number = random(40) * random(40);
                let key = format!("{number:0width$}", width = 4 + usize::try_from(number).unwrap() % 247)
                    .into_bytes();
                is_full |= touches.gathered.len() > TOUCHES_BYTES_MAX - HEAD_BYTES - KEY_BYTES_MAX;
                if is_full {
                    lost += 1;
                } else {
                    *twin.entry(key.clone()).or_default() += 1;
                }
                touches.note(&key);
                assert!(touches.gathered.len() <= TOUCHES_BYTES_MAX);
            }
            is_full |= touches.gathered.len() > TOUCHES_BYTES_MAX - HEAD_BYTES - KEY_BYTES_MAX;
            now = now + Micros(random(8_000));
            if !twin.is_empty() {
                first_seen = first_seen.or(Some(now));
            }
            let has_waited = first_seen.is_some_and(|seen| now.since(seen) >= TOUCHES_EVERY);
            let has_rested = told_at.is_none_or(|at| now.since(at) >= TOUCHES_PAUSE);
            let messages = touches.take(now, copies);
            if !(has_rested && (is_full || has_waited)) {
                assert!(messages.is_empty(), "step {step}: nothing is told before it is due");
                continue;
            }
            let expected = twin.iter().flat_map(|(key, &count)| {
                copies(hash_key(key)).map(move |peer| ((peer, key.clone()), count.min(255)))
            });
            assert_eq!(told(&messages), expected.collect(), "step {step}");
            sent += messages.len();
            twin.clear();
            (first_seen, told_at, is_full) = (None, Some(now), false);
        }
        assert!(sent > 1_000 && lost > 1_000, "{sent} messages, {lost} samples found no room");
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        let mut touches = Touches::default();
        for second in 0..10 {
            assert!(touches.take(Micros::from_millis(second * 1_000), copies).is_empty());
        }
    }

    #[test]
    fn messages_lie_as_the_table_says() {
        let mut touches = Touches::default();
        let everybody = |_| std::iter::once(PeerShard { slot: SlotId(1), shard: 2 });
        [&b"key"[..], b"k", b"key"].into_iter().for_each(|key| touches.note(key));
        assert!(touches.take(Micros(1), everybody).is_empty(), "more may come");
        let messages = touches.take(Micros(1) + TOUCHES_EVERY, everybody);
        let expected = b"\x01\x01k\x03\x02key".to_vec();
        assert_eq!(messages, [(PeerShard { slot: SlotId(1), shard: 2 }, expected)]);
    }

    #[test]
    fn garbage_is_refused_as_a_whole() {
        let long = [&[251, 1][..], &[b'k'; 251]].concat();
        let much = b"\x01\x01k".repeat(TOUCHES_BYTES_MAX / 3 + 1);
        let garbage: [&[u8]; 8] =
            [b"", b"\x01", b"\x01\x01", b"\x00\x01", b"\x01\x00k", b"\x02\x01k", b"\x01\x01k\x01", &long];
        for bytes in garbage.into_iter().chain([&much[..]]) {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(decode(&much[3..]).unwrap().count(), TOUCHES_BYTES_MAX / 3);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            if let Ok(touches) = decode(&bytes) {
                let lengths = touches.map(|touch| HEAD_BYTES + touch.key.len());
                prop_assert_eq!(lengths.sum::<usize>(), bytes.len());
            }
        }
    }
}
