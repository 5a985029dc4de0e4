//! What the two ends of a stream say to each other, and its bytes. `docs/wire.md` has the tables. Never a connection.

use super::store::{Bytes, Content, Delta, Record, Side};
use super::stream::FEED_ENTRIES_MAX;
use super::{PeerShard, Version};
use crate::names::Incarnation;
use crate::placement::{PartitionId, hash_key, partition_of};
use crate::ring::Epoch;
use crate::ring::partitions::PartitionSet;
use crate::table::SlotId;
use crate::time::Micros;

/// Bytes of a key.
const KEY_BYTES_MAX: usize = 250;

/// What a small entry takes: for the room to read entries into.
const ENTRY_BYTES_GUESSED: usize = 64;

/// Bytes of the partition sets in entries.
const SET_TEXT_BYTES_MAX: usize = 4 << 10;

/// Who says it, and by which ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The shard.
    pub peer: PeerShard,
    /// The life of its node.
    pub incarnation: Incarnation,
    /// Its ring.
    pub epoch: Epoch,
}

/// Source to backup: what has changed, and that the source is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Which stream: another number after every loss of its state at the source.
    pub stream: u64,
    /// The source's clock, which a grant repeats.
    pub sent_at: Micros,
    /// Entries after this one and up to [`Self::stable`] are with everybody who counts.
    pub unknown: u64,
    /// See [`Self::unknown`].
    pub stable: u64,
    /// The last entry sent so far, this message included.
    pub sent: u64,
    /// In order, without gaps.
    pub entries: Vec<Numbered>,
}

/// An entry and its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// From 1, each one the next.
    pub sequence: u64,
    /// The source's ring when it was made.
    pub epoch: Epoch,
    /// What it says.
    pub entry: Entry,
}

/// What a stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The state of a key that was written just now.
    Live(Record),
    /// The same, for who has the state before: over links of [`crate::wire::DELTA_VERSION`] only.
    Delta(Delta),
    /// The state of a key that has had it for a while.
    Bulk(Record),
    /// Forget these partitions: all of their items follow.
    Begin(PartitionSet),
    /// They have followed.
    End(PartitionSet),
    /// The source is not primary of this partition any more, and has said everything about it.
    Handoff(PartitionId),
    /// Under which fences keys were written, written or not: they must not be written under lower ones.
    Fences(Fences),
    /// Forget what the source is primary of: a client had everything forgotten. Nothing follows for it.
    Flush,
    /// What was said to that shard is not all there, and will not be said again one by one; or it has everything again. Of what the
    /// source is primary of; who takes over fills it anew. Over links of [`crate::wire::DELTA_VERSION`] only.
    Behind {
        /// Another copy.
        peer: PeerShard,
        /// Or not any more.
        is_behind: bool,
    },
    /// Nothing: takes the place of what must not be said any more.
    Void,
}

impl Entry {
    /// Of which it says what a key is.
    pub(super) fn partition(&self) -> Option<PartitionId> {
        match self {
            Self::Live(record) | Self::Bulk(record) => Some(record.partition()),
            Self::Delta(delta) => Some(partition_of(delta.hash)),
            _ => None,
        }
    }
}

/// What is known of fences. To raise one is always right: one too many is refused, none accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fences {
    /// What a key must reach that is not among [`Self::known`], here or there.
    pub floor: u64,
    /// Hashes of keys, and what those must reach: at most [`FENCES_MAX`].
    pub known: Vec<(u64, u64)>,
}

/// Fences of one entry: 4 KiB.
pub const FENCES_MAX: usize = 256;

/// Backup to source: what has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of which stream.
    pub stream: u64,
    /// Entries up to this one are applied.
    pub applied: u64,
    /// The backup will not be primary of what the source is primary of until a while after it got the message sent at
    /// this time.
    pub grant: Option<Micros>,
    /// Send again what follows `applied`.
    pub wants_again: bool,
}

/// Backup to primary: what it holds of some keys. The answer comes in the primary's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Every key is answered for, also where both are equal.
    pub wants_all: bool,
    /// Keys and the versions that the backup holds; 0: it does not have the key.
    pub keys: Vec<(Bytes, Version)>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Source to backup.
    Feed(Feed),
    /// Backup to source.
    Ack(Ack),
    /// Backup to primary.
    Check(Check),
}

/// Bytes that are no message: the link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of replication")]
pub struct Garbled;

const FEED: u8 = 1;
const ACK: u8 = 2;
const CHECK: u8 = 3;
const GRANTED: u8 = 1;
const AGAIN: u8 = 1 << 1;

const LIVE: u8 = 1;
const BULK: u8 = 2;
const BEGIN: u8 = 3;
const END: u8 = 4;
const HANDOFF: u8 = 5;
const VOID: u8 = 6;
const FENCES: u8 = 7;
const FLUSH: u8 = 8;
const DELTA: u8 = 9;
const BEHIND: u8 = 10;

const BACK: u8 = 0;
const FRONT: u8 = 1;

const HAS_CONTENT: u8 = 1;
const DIES: u8 = 1 << 1;

/// Appends a message. `now` is the sender's clock: what dies travels as the time that is left.
pub fn encode(now: Micros, sender: &Sender, message: &Message, output: &mut Vec<u8>) {
    let kind = match message {
        Message::Feed(_) => FEED,
        Message::Ack(_) => ACK,
        Message::Check(_) => CHECK,
    };
    encode_head(kind, sender, output);
    match message {
        Message::Feed(feed) => encode_feed(now, feed, feed.entries.iter(), output),
        Message::Ack(ack) => {
            let granted = if ack.grant.is_some() { GRANTED } else { 0 };
            output.push(granted | if ack.wants_again { AGAIN } else { 0 });
            for number in [ack.stream, ack.applied, ack.grant.unwrap_or_default().0] {
                put(output, &number.to_le_bytes());
            }
        }
        Message::Check(check) => {
            output.push(u8::from(check.wants_all));
            for (key, version) in &check.keys {
                put_key(output, key);
                put(output, &version.0.to_le_bytes());
            }
        }
    }
}

/// As [`encode`], for a feed of which the entries are elsewhere.
pub fn encode_feed_of<'e>(
    now: Micros,
    sender: &Sender,
    feed: &Feed,
    entries: impl Iterator<Item = &'e Numbered>,
    output: &mut Vec<u8>,
) {
    encode_head(FEED, sender, output);
    encode_feed(now, feed, entries, output);
}

fn encode_head(kind: u8, sender: &Sender, output: &mut Vec<u8>) {
    output.push(kind);
    put(output, &sender.peer.slot.0.to_le_bytes());
    put(output, &sender.peer.shard.to_le_bytes());
    put(output, &sender.incarnation.0.to_le_bytes());
    put(output, &sender.epoch.0.to_le_bytes());
}

fn encode_feed<'e>(
    now: Micros,
    feed: &Feed,
    entries: impl Iterator<Item = &'e Numbered>,
    output: &mut Vec<u8>,
) {
    for number in [feed.stream, feed.sent_at.0, feed.unknown, feed.stable, feed.sent] {
        put(output, &number.to_le_bytes());
    }
    entries.for_each(|entry| encode_entry(now, entry, output));
}

fn put(output: &mut Vec<u8>, bytes: &[u8]) {
    output.extend_from_slice(bytes);
}

fn encode_entry(now: Micros, numbered: &Numbered, output: &mut Vec<u8>) {
    let kind = match numbered.entry {
        Entry::Live(_) => LIVE,
        Entry::Delta(_) => DELTA,
        Entry::Bulk(_) => BULK,
        Entry::Begin(_) => BEGIN,
        Entry::End(_) => END,
        Entry::Handoff(_) => HANDOFF,
        Entry::Fences(_) => FENCES,
        Entry::Flush => FLUSH,
        Entry::Behind { .. } => BEHIND,
        Entry::Void => VOID,
    };
    output.push(kind);
    put(output, &numbered.sequence.to_le_bytes());
    put(output, &numbered.epoch.0.to_le_bytes());
    match &numbered.entry {
        Entry::Live(record) | Entry::Bulk(record) => encode_record(now, record, output),
        Entry::Delta(delta) => encode_delta(delta, output),
        Entry::Begin(set) | Entry::End(set) => {
            let text = String::from(set.clone());
            put_sized(output, text.as_bytes());
        }
        Entry::Handoff(partition) => {
            let index = u16::try_from(partition.index()).expect("14 bits fit");
            put(output, &index.to_le_bytes());
        }
        Entry::Fences(fences) => encode_fences(fences, output),
        Entry::Behind { peer, is_behind } => {
            put(output, &peer.slot.0.to_le_bytes());
            put(output, &peer.shard.to_le_bytes());
            output.push(u8::from(*is_behind));
        }
        Entry::Flush | Entry::Void => {}
    }
}

fn encode_fences(fences: &Fences, output: &mut Vec<u8>) {
    put(output, &fences.floor.to_le_bytes());
    assert!(fences.known.len() <= FENCES_MAX, "{} fences", fences.known.len());
    let count = u16::try_from(fences.known.len()).expect("at most 256");
    put(output, &count.to_le_bytes());
    for (hash, fence) in &fences.known {
        put(output, &hash.to_le_bytes());
        put(output, &fence.to_le_bytes());
    }
}

fn encode_record(now: Micros, record: &Record, output: &mut Vec<u8>) {
    put_key(output, &record.key);
    put(output, &record.version.0.to_le_bytes());
    let Some(content) = &record.content else { return output.push(0) };
    output.push(HAS_CONTENT | if content.dies_at.is_some() { DIES } else { 0 });
    if let Some(dies_at) = content.dies_at {
        put(output, &dies_at.since(now).0.to_le_bytes());
    }
    output.push(content.marks);
    put(output, &content.client_flags.to_le_bytes());
    put_sized(output, &content.value);
}

fn encode_delta(delta: &Delta, output: &mut Vec<u8>) {
    put_key(output, &delta.key);
    put(output, &delta.version.0.to_le_bytes());
    put(output, &delta.base.0.to_le_bytes());
    output.push(match delta.side {
        Side::Back => BACK,
        Side::Front => FRONT,
    });
    put_sized(output, &delta.bytes);
}

fn put_key(output: &mut Vec<u8>, key: &[u8]) {
    output.push(u8::try_from(key.len()).expect("a key has 250 bytes at most"));
    put(output, key);
}

fn put_sized(output: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a value has 1 GiB at most");
    put(output, &length.to_le_bytes());
    put(output, bytes);
}

/// Reads a message. `now` is the receiver's clock.
///
/// # Errors
/// [`Garbled`]: no message, or one that is cut or longer than it says.
pub fn decode(now: Micros, bytes: &[u8]) -> Result<(Sender, Message), Garbled> {
    let mut reader = Reader { rest: bytes };
    let kind = reader.byte()?;
    let peer = PeerShard { slot: SlotId(reader.u16()?), shard: reader.u16()? };
    let sender = Sender { peer, incarnation: Incarnation(reader.u64()?), epoch: Epoch(reader.u64()?) };
    let message = match kind {
        FEED => Message::Feed(decode_feed(now, &mut reader)?),
        ACK => Message::Ack(decode_ack(&mut reader)?),
        CHECK => Message::Check(decode_check(&mut reader)?),
        _ => return Err(Garbled),
    };
    if reader.rest.is_empty() { Ok((sender, message)) } else { Err(Garbled) }
}

fn decode_feed(now: Micros, reader: &mut Reader<'_>) -> Result<Feed, Garbled> {
    let (stream, sent_at) = (reader.u64()?, Micros(reader.u64()?));
    let (unknown, stable, sent) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let guess = reader.rest.len() / ENTRY_BYTES_GUESSED;
    let mut entries = Vec::with_capacity(guess.min(FEED_ENTRIES_MAX));
    while !reader.rest.is_empty() {
        entries.push(decode_entry(now, reader)?);
    }
    Ok(Feed { stream, sent_at, unknown, stable, sent, entries })
}

fn decode_ack(reader: &mut Reader<'_>) -> Result<Ack, Garbled> {
    let flags = reader.byte()?;
    let (stream, applied, granted) = (reader.u64()?, reader.u64()?, Micros(reader.u64()?));
    if flags & !(GRANTED | AGAIN) != 0 {
        return Err(Garbled);
    }
    let grant = (flags & GRANTED != 0).then_some(granted);
    Ok(Ack { stream, applied, grant, wants_again: flags & AGAIN != 0 })
}

fn decode_check(reader: &mut Reader<'_>) -> Result<Check, Garbled> {
    let wants_all = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err(Garbled),
    };
    let mut keys = Vec::new();
    while !reader.rest.is_empty() {
        keys.push((reader.key()?.into(), Version(reader.u64()?)));
    }
    Ok(Check { wants_all, keys })
}

fn decode_entry(now: Micros, reader: &mut Reader<'_>) -> Result<Numbered, Garbled> {
    let kind = reader.byte()?;
    let (sequence, epoch) = (reader.u64()?, Epoch(reader.u64()?));
    let entry = match kind {
        LIVE => Entry::Live(decode_record(now, reader)?),
        DELTA => Entry::Delta(decode_delta(reader)?),
        BULK => Entry::Bulk(decode_record(now, reader)?),
        BEGIN => Entry::Begin(decode_set(reader)?),
        END => Entry::End(decode_set(reader)?),
        HANDOFF => Entry::Handoff(decode_partition(reader)?),
        FENCES => Entry::Fences(decode_fences(reader)?),
        FLUSH => Entry::Flush,
        BEHIND => decode_behind(reader)?,
        VOID => Entry::Void,
        _ => return Err(Garbled),
    };
    Ok(Numbered { sequence, epoch, entry })
}

fn decode_behind(reader: &mut Reader<'_>) -> Result<Entry, Garbled> {
    let peer = PeerShard { slot: SlotId(reader.u16()?), shard: reader.u16()? };
    let is_behind = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err(Garbled),
    };
    Ok(Entry::Behind { peer, is_behind })
}

fn decode_fences(reader: &mut Reader<'_>) -> Result<Fences, Garbled> {
    let (floor, count) = (reader.u64()?, usize::from(reader.u16()?));
    if count > FENCES_MAX {
        return Err(Garbled);
    }
    let known = (0..count).map(|_| Ok((reader.u64()?, reader.u64()?))).collect::<Result<_, Garbled>>()?;
    Ok(Fences { floor, known })
}

fn decode_set(reader: &mut Reader<'_>) -> Result<PartitionSet, Garbled> {
    let text = reader.sized(SET_TEXT_BYTES_MAX)?.to_vec();
    let text = String::from_utf8(text).map_err(|_| Garbled)?;
    PartitionSet::try_from(text).map_err(|_| Garbled)
}

fn decode_partition(reader: &mut Reader<'_>) -> Result<PartitionId, Garbled> {
    let index = u64::from(reader.u16()?);
    let hash = index.checked_shl(50).filter(|hash| hash >> 50 == index).ok_or(Garbled)?;
    Ok(partition_of(hash))
}

fn decode_record(now: Micros, reader: &mut Reader<'_>) -> Result<Record, Garbled> {
    let key = Bytes::from(reader.key()?);
    let version = Version(reader.u64()?);
    let flags = reader.byte()?;
    let content = match flags {
        0 => None,
        _ if flags & !(HAS_CONTENT | DIES) == 0 && flags & HAS_CONTENT != 0 => {
            let left = if flags & DIES != 0 { Some(Micros(reader.u64()?)) } else { None };
            let (marks, client_flags) = (reader.byte()?, reader.u32()?);
            let value = reader.sized(usize::MAX)?.into();
            Some(Content { value, client_flags, marks, dies_at: left.map(|left| now + left) })
        }
        _ => return Err(Garbled),
    };
    Ok(Record { hash: hash_key(&key), key, version, content })
}

fn decode_delta(reader: &mut Reader<'_>) -> Result<Delta, Garbled> {
    let key = Bytes::from(reader.key()?);
    let (version, base) = (Version(reader.u64()?), Version(reader.u64()?));
    let side = match reader.byte()? {
        BACK => Side::Back,
        FRONT => Side::Front,
        _ => return Err(Garbled),
    };
    let bytes = reader.sized(usize::MAX)?.into();
    if base == Version(0) {
        Err(Garbled)
    } else {
        Ok(Delta { hash: hash_key(&key), key, version, base, side, bytes })
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Garbled> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Garbled)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Garbled> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Garbled)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Garbled> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Garbled> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Garbled> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Garbled> {
        self.array().map(u64::from_le_bytes)
    }

    fn key(&mut self) -> Result<&'a [u8], Garbled> {
        let length = usize::from(self.byte()?);
        if (1..=KEY_BYTES_MAX).contains(&length) { self.bytes(length) } else { Err(Garbled) }
    }

    fn sized(&mut self, bytes_max: usize) -> Result<&'a [u8], Garbled> {
        let length = usize::try_from(self.u32()?).map_err(|_| Garbled)?;
        if length > bytes_max { Err(Garbled) } else { self.bytes(length) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = Micros(1_000);

    fn sender() -> Sender {
        let peer = PeerShard { slot: SlotId(0x0201), shard: 3 };
        Sender { peer, incarnation: Incarnation(4), epoch: Epoch(5) }
    }

    fn record() -> impl Strategy<Value = Record> {
        let content = (any::<Vec<u8>>(), any::<(u32, u8)>(), prop::option::of(NOW.0..1 << 60)).prop_map(
            |(value, (client_flags, marks), dies_at)| Content {
                value: value.into(),
                client_flags,
                marks,
                dies_at: dies_at.map(Micros),
            },
        );
        let key = prop::collection::vec(any::<u8>(), 1..=KEY_BYTES_MAX);
        (key, any::<u64>(), prop::option::of(content)).prop_map(|(key, version, content)| Record {
            hash: hash_key(&key),
            key: key.into(),
            version: Version(version),
            content,
        })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let set = prop::collection::vec(0_u16..1 << 14, 0..9).prop_map(|members| {
            let mut set = PartitionSet::default();
            for n in members {
                set.insert(PartitionId::new(n));
            }
            set
        });
        prop_oneof![
            record().prop_map(Entry::Live),
            record().prop_map(Entry::Bulk),
            (record(), 1..=u64::MAX, any::<(bool, Vec<u8>)>()).prop_map(
                |(record, base, (is_front, bytes))| {
                    let Record { key, hash, version, .. } = record;
                    let side = if is_front { Side::Front } else { Side::Back };
                    Entry::Delta(Delta { key, hash, version, base: Version(base), side, bytes: bytes.into() })
                }
            ),
            set.clone().prop_map(Entry::Begin),
            set.prop_map(Entry::End),
            (0_u16..1 << 14).prop_map(|n| Entry::Handoff(PartitionId::new(n))),
            (any::<u64>(), prop::collection::vec(any::<(u64, u64)>(), 0..5))
                .prop_map(|(floor, known)| Entry::Fences(Fences { floor, known })),
            Just(Entry::Flush),
            any::<(u16, u16, bool)>().prop_map(|(slot, shard, is_behind)| {
                Entry::Behind { peer: PeerShard { slot: SlotId(slot), shard }, is_behind }
            }),
            Just(Entry::Void),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let numbered = (any::<u64>(), 0..1_u64 << 48, entry())
            .prop_map(|(sequence, epoch, entry)| Numbered { sequence, epoch: Epoch(epoch), entry });
        let entries = prop::collection::vec(numbered, 0..4);
        let feed = (any::<[u64; 5]>(), entries).prop_map(|(numbers, entries)| {
            let [stream, sent_at, unknown, stable, sent] = numbers;
            Message::Feed(Feed { stream, sent_at: Micros(sent_at), unknown, stable, sent, entries })
        });
        let ack =
            (any::<[u64; 2]>(), any::<(Option<u64>, bool)>()).prop_map(|(numbers, (grant, wants_again))| {
                let [stream, applied] = numbers;
                Message::Ack(Ack { stream, applied, grant: grant.map(Micros), wants_again })
            });
        let key = prop::collection::vec(any::<u8>(), 1..=KEY_BYTES_MAX);
        let keys = prop::collection::vec((key.prop_map(Bytes::from), any::<u64>().prop_map(Version)), 0..4);
        let check =
            (any::<bool>(), keys).prop_map(|(wants_all, keys)| Message::Check(Check { wants_all, keys }));
        prop_oneof![feed, ack, check]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_message_comes_back(message in message()) {
            let mut bytes = Vec::new();
            encode(NOW, &sender(), &message, &mut bytes);
            prop_assert_eq!(decode(NOW, &bytes), Ok((sender(), message)));
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, kind in 0_u8..8, message in message(), cut: prop::sample::Index) {
            let _any_answer_will_do = decode(NOW, &bytes);
            bytes.insert(0, kind);
            let _nor_here = decode(NOW, &bytes);
            let mut whole = Vec::new();
            encode(NOW, &sender(), &message, &mut whole);
            let _nor_of_a_part = decode(NOW, &whole[..cut.index(whole.len())]);
        }
    }

    #[test]
    fn messages_lie_as_the_tables_say() {
        let key = Bytes::from(*b"k");
        let content =
            Content { value: Bytes::from(*b"va"), client_flags: 9, marks: 1, dies_at: Some(Micros(1_007)) };
        let record = Record { hash: hash_key(&key), key, version: Version(6), content: Some(content) };
        let numbered = Numbered { sequence: 8, epoch: Epoch(5), entry: Entry::Live(record) };
        let feed = Feed {
            stream: 0x11,
            sent_at: Micros(0x22),
            unknown: 3,
            stable: 7,
            sent: 8,
            entries: vec![numbered],
        };
        let mut bytes = Vec::new();
        encode(NOW, &sender(), &Message::Feed(feed), &mut bytes);
        let number = |n: u8| [n, 0, 0, 0, 0, 0, 0, 0];
        let head = [&[1, 1, 2, 3, 0][..], &number(4), &number(5)].concat();
        let feed = [number(0x11), number(0x22), number(3), number(7), number(8)].concat();
        let entry =
            [&[1][..], &number(8), &number(5), b"\x01k", &number(6), &[3], &number(7), &[1, 9, 0, 0, 0]];
        let value = [2, 0, 0, 0, b'v', b'a'];
        assert_eq!(bytes, [head, feed, entry.concat(), value.to_vec()].concat());

        let key = Bytes::from(*b"k");
        let delta = Delta {
            hash: hash_key(&key),
            key,
            version: Version(6),
            base: Version(5),
            side: Side::Front,
            bytes: Bytes::from(*b"va"),
        };
        let mut bytes = Vec::new();
        encode_entry(NOW, &Numbered { sequence: 8, epoch: Epoch(5), entry: Entry::Delta(delta) }, &mut bytes);
        let entry = [&[9][..], &number(8), &number(5), b"\x01k", &number(6), &number(5), &[1]];
        assert_eq!(bytes, [entry.concat(), value.to_vec()].concat());

        let behind = Entry::Behind { peer: sender().peer, is_behind: true };
        let mut bytes = Vec::new();
        encode_entry(NOW, &Numbered { sequence: 8, epoch: Epoch(5), entry: behind }, &mut bytes);
        assert_eq!(bytes, [&[10][..], &number(8), &number(5), &[1, 2, 3, 0, 1]].concat());

        let ack = Ack { stream: 0x11, applied: 8, grant: Some(Micros(0x22)), wants_again: true };
        let mut bytes = Vec::new();
        encode(NOW, &sender(), &Message::Ack(ack), &mut bytes);
        let head = [&[2, 1, 2, 3, 0][..], &number(4), &number(5), &[3]].concat();
        assert_eq!(bytes, [head, number(0x11).into(), number(8).into(), number(0x22).into()].concat());

        let check = Check { wants_all: true, keys: vec![(Bytes::from(*b"k"), Version(6))] };
        let mut bytes = Vec::new();
        encode(NOW, &sender(), &Message::Check(check), &mut bytes);
        let head = [&[3, 1, 2, 3, 0][..], &number(4), &number(5), &[1]].concat();
        assert_eq!(bytes, [head, b"\x01k".to_vec(), number(6).into()].concat());
    }

    #[test]
    fn a_time_to_live_only_gets_shorter_on_the_way() {
        let content = Content { dies_at: Some(Micros(50_000)), ..Content::default() };
        let key = Bytes::from(*b"k");
        let record = Record { hash: hash_key(&key), key, version: Version(1), content: Some(content) };
        let numbered = Numbered { sequence: 1, epoch: Epoch(1), entry: Entry::Bulk(record) };
        let feed =
            Feed { stream: 1, sent_at: Micros(0), unknown: 0, stable: 0, sent: 1, entries: vec![numbered] };
        let mut bytes = Vec::new();
        encode(Micros(20_000), &sender(), &Message::Feed(feed), &mut bytes);
        let (_, message) = decode(Micros(7_000_000), &bytes).unwrap();
        let Message::Feed(feed) = message else { panic!("a feed") };
        let Entry::Bulk(record) = &feed.entries[0].entry else { panic!("an item") };
        assert_eq!(record.content.as_ref().unwrap().dies_at, Some(Micros(7_030_000)));
    }
}
