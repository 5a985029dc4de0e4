//! Frames between nodes: 32 bytes of header, a body, and a checksum over both. Bytes to values and back;
//! never a connection. `docs/wire.md` has the tables.

use bytemuck::{Pod, Zeroable};

use crate::ring::Epoch;
use crate::ring::document::DOCUMENT_BYTES_MAX;

/// Bytes before a body.
pub const HEADER_BYTES: usize = 32;

/// Bytes after it: CRC32C of header and body.
pub const CHECKSUM_BYTES: usize = 4;

/// Bytes of one body. Longer messages are cut: see [`Flags::MORE`].
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Bytes of a body before both sides have proved that they belong together.
pub const GREETING_BYTES_MAX: usize = 1 << 10;

/// Bytes of a batch before another is begun, with its head: what a turn brings fits, and small messages share a checksum.
pub const BATCH_BYTES_MAX: usize = 64 << 10;

/// Bytes of a frame.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + BODY_BYTES_MAX + CHECKSUM_BYTES;

/// The versions of the protocol that this build speaks: its own and two before. The header and the greeting are the same in
/// all of them.
pub const VERSIONS: Versions = Versions { lowest: 2, highest: 4 };

/// The version that began to know [`Flags::RUN`].
pub const RUN_VERSION: u8 = 3;

/// The version that began to know [`Kind::Touches`].
pub const TOUCHES_VERSION: u8 = 3;

/// The version that began to know [`crate::replica::message::Entry::Delta`].
pub const DELTA_VERSION: u8 = 4;

const _: () = assert!(BATCH_BYTES_MAX <= BODY_BYTES_MAX);
const _: () =
    assert!(VERSIONS.highest > VERSIONS.lowest, "a build speaks its own version and at least the one before");
const _: () = assert!(DOCUMENT_BYTES_MAX <= BODY_BYTES_MAX);
const _: () = {
    let mut index = 0;
    while index < Kind::ALL.len() {
        assert!(Kind::ALL[index] as usize == index + 1, "a kind is found by its number");
        index += 1;
    }
    index = 0;
    while index < Status::ALL.len() {
        assert!(Status::ALL[index] as usize == index, "a status is found by its number");
        index += 1;
    }
};
const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES && align_of::<RawHeader>() == 1);

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub lowest: u8,
    /// The newest.
    pub highest: u8,
}

impl Versions {
    /// The newest version that both speak.
    pub fn common(self, other: Self) -> Option<u8> {
        let newest = self.highest.min(other.highest);
        (newest >= self.lowest.max(other.lowest)).then_some(newest)
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Dialler to acceptor: who I am, and a nonce.
    Hello = 1,
    /// Acceptor to dialler: who I am, and a nonce.
    Challenge = 2,
    /// Dialler to acceptor: proof that it knows the secret.
    Proof = 3,
    /// Acceptor to dialler: the same proof in return, and the credit.
    Welcome = 4,
    /// I am here.
    Heartbeat = 5,
    /// A client's request that the receiver's node owns.
    Request = 6,
    /// What became of it.
    Response = 7,
    /// Send me your ring if it has this epoch or a later one.
    RingWanted = 8,
    /// A ring document as JSON.
    RingDocument = 9,
    /// Dialler to acceptor: what the shards at both ends say about copies. [`crate::replica`] knows what it means.
    Replica = 10,
    /// Several requests or responses: each with a head of its own, and one checksum for all.
    Batch = 11,
    /// Copies of hot keys: offered, granted, called back. [`crate::grants`] knows what it means.
    Grants = 12,
    /// Dialler to acceptor: what was read of whose copies the acceptor's shard may have. [`crate::touches`] knows what it means. From
    /// [`TOUCHES_VERSION`] on.
    Touches = 13,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Hello,
        Self::Challenge,
        Self::Proof,
        Self::Welcome,
        Self::Heartbeat,
        Self::Request,
        Self::Response,
        Self::RingWanted,
        Self::RingDocument,
        Self::Replica,
        Self::Batch,
        Self::Grants,
        Self::Touches,
    ];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }

    /// Whether it may be one of a [`Kind::Batch`].
    fn may_be_batched(self) -> bool {
        matches!(self, Self::Request | Self::Response)
    }

    /// Whether it belongs to the greeting.
    pub fn is_greeting(self) -> bool {
        matches!(self, Self::Hello | Self::Challenge | Self::Proof | Self::Welcome)
    }
}

/// Facts of one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// The message goes on in the next frame, which has the same kind and opaque and nothing between.
    pub const MORE: Self = Self(1);
    /// Request: the client has authenticated itself at the origin, or needed not to.
    pub const AUTHENTICATED: Self = Self(1 << 1);
    /// Request: one key of a multi-get. The reply is the key's part alone: the origin writes the end.
    pub const PART: Self = Self(1 << 2);
    /// Request: the bytes are of memcached's binary protocol; without it of the text and meta protocols.
    pub const BINARY: Self = Self(1 << 3);

    /// Request: it is for the receiver itself and has no key, so that it has no owner.
    pub const NODE: Self = Self(1 << 4);
    /// Request: several gets, one behind the other; [`crate::run`] is the reply. From [`RUN_VERSION`] on.
    pub const RUN: Self = Self(1 << 5);

    const ALL: u16 = (1 << 6) - 1;

    /// Whether all of `flags` are set.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// These without those.
    #[must_use]
    pub fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}

/// What became of a request: the `status` of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Executed. The body is the reply, byte for byte.
    Done = 0,
    /// Not executed: the sender is not the owner by a ring of the header's epoch.
    WrongOwner = 1,
    /// Not executed: the request's epoch is later than the sender's, which is in the header.
    Behind = 2,
    /// Not executed: its deadline had passed.
    Expired = 3,
    /// Not executed: the owner has no room.
    Busy = 4,
    /// Not executed: longer than the owner takes, whose largest items are smaller than the sender's.
    TooLarge = 5,
}

impl Status {
    const ALL: [Self; 6] =
        [Self::Done, Self::WrongOwner, Self::Behind, Self::Expired, Self::Busy, Self::TooLarge];

    /// The status a byte means.
    pub fn of(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// The head of a frame, as numbers. What a kind does not use is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Facts of one bit each.
    pub flags: Flags,
    /// The sender's ring at the time of sending: in every frame, so that each one tells who is behind.
    pub epoch: Epoch,
    /// Request: the key's partition.
    pub partition: u16,
    /// Request and response: the origin's number for the request. Heartbeat: the mark of the ring of its epoch.
    pub opaque: u64,
    /// Request: how often it has been sent, from 1. Response: a [`Status`].
    pub detail: u8,
    /// Request: the shard of the receiver that owns the key. Hello: the one that the dialler wants. Response to one get of a run: its
    /// place there, from 1 on.
    pub shard: u8,
    /// Request: microseconds from sending until nobody waits for a reply any more.
    pub deadline_micros: u32,
}

impl Header {
    /// A header of `kind` that says nothing more than the epoch.
    pub fn new(kind: Kind, epoch: Epoch) -> Self {
        Self {
            kind,
            flags: Flags::NONE,
            epoch,
            partition: 0,
            opaque: 0,
            detail: 0,
            shard: 0,
            deadline_micros: 0,
        }
    }
}

/// The head of a frame, as bytes; numbers are little-endian.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | body bytes |
/// | 4 | 1 | kind |
/// | 5 | 1 | 0, reserved |
/// | 6 | 2 | flags |
/// | 8 | 6 | epoch |
/// | 14 | 2 | partition |
/// | 16 | 8 | opaque |
/// | 24 | 2 | 0, reserved |
/// | 26 | 1 | detail |
/// | 27 | 1 | shard |
/// | 28 | 4 | deadline |
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawHeader {
    body_bytes: [u8; 4],
    kind: u8,
    operation: u8,
    flags: [u8; 2],
    epoch: [u8; 6],
    partition: [u8; 2],
    opaque: [u8; 8],
    key_bytes: [u8; 2],
    detail: u8,
    shard: u8,
    deadline_micros: [u8; 4],
}

impl RawHeader {
    fn of(header: &Header, body_bytes: u32) -> Self {
        assert!(header.epoch <= Epoch::MAX, "a ring's epoch fits six bytes");
        let mut epoch = [0; 6];
        epoch.copy_from_slice(&header.epoch.0.to_le_bytes()[..6]);
        Self {
            body_bytes: body_bytes.to_le_bytes(),
            kind: header.kind as u8,
            operation: 0,
            flags: header.flags.0.to_le_bytes(),
            epoch,
            partition: header.partition.to_le_bytes(),
            opaque: header.opaque.to_le_bytes(),
            key_bytes: [0; 2],
            detail: header.detail,
            shard: header.shard,
            deadline_micros: header.deadline_micros.to_le_bytes(),
        }
    }

    #[inline]
    fn read(&self) -> Result<Header, Garbled> {
        let flags = u16::from_le_bytes(self.flags);
        if flags & !Flags::ALL != 0 || self.operation != 0 || self.key_bytes != [0; 2] {
            return Err(Garbled::Reserved);
        }
        let mut epoch = [0; 8];
        epoch[..6].copy_from_slice(&self.epoch);
        Ok(Header {
            kind: Kind::of(self.kind).ok_or(Garbled::Kind(self.kind))?,
            flags: Flags(flags),
            epoch: Epoch(u64::from_le_bytes(epoch)),
            partition: u16::from_le_bytes(self.partition),
            opaque: u64::from_le_bytes(self.opaque),
            detail: self.detail,
            shard: self.shard,
            deadline_micros: u32::from_le_bytes(self.deadline_micros),
        })
    }
}

/// Why bytes are no frame. What follows them cannot be told from garbage either: the link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbled {
    /// A body that nobody may send.
    #[error("a body of {0} bytes")]
    Length(u32),
    /// A kind that this version does not know.
    #[error("an unknown kind of frame: {0}")]
    Kind(u8),
    /// Bits or bytes are set that have no meaning yet.
    #[error("reserved bits are set")]
    Reserved,
    /// Damaged on the way.
    #[error("the checksum does not fit")]
    Checksum,
    /// A batch that is cut wrongly, or with something in it that has no place there.
    #[error("a batch that is none")]
    Batch,
}

/// What the first bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole frame: `frame_bytes` long, its body between [`HEADER_BYTES`] and `frame_bytes - CHECKSUM_BYTES`.
    Frame {
        /// Its head.
        header: Header,
        /// Its length.
        frame_bytes: usize,
    },
    /// The beginning of one.
    Incomplete,
}

/// The shard that a dialler wants, from the head of its first frame. `None`: it is no dialler's.
pub fn hello_shard(head: &[u8; HEADER_BYTES]) -> Option<u8> {
    let raw: RawHeader = bytemuck::cast(*head);
    raw.read().ok().filter(|header| header.kind == Kind::Hello).map(|header| header.shard)
}

/// Appends a frame. The body is at most [`BODY_BYTES_MAX`] long.
pub fn encode(header: &Header, body: &[u8], output: &mut Vec<u8>) {
    let start = output.len();
    append_message(header, body, output);
    append_checksum(start, output);
}

fn append_message(header: &Header, body: &[u8], output: &mut Vec<u8>) {
    assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes", body.len());
    let body_bytes = u32::try_from(body.len()).expect("BODY_BYTES_MAX fits");
    output.extend_from_slice(bytemuck::bytes_of(&RawHeader::of(header, body_bytes)));
    output.extend_from_slice(body);
}

fn append_checksum(start: usize, output: &mut Vec<u8>) {
    let checksum = crc32c::crc32c(&output[start..]);
    output.extend_from_slice(&checksum.to_le_bytes());
}

/// A batch that is being written at the end of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct OpenBatch {
    start: usize,
    messages: usize,
}

impl OpenBatch {
    /// Begins one: leaves room for its head.
    pub fn begin(output: &mut Vec<u8>) -> Self {
        let start = output.len();
        output.resize(start + HEADER_BYTES, 0);
        Self { start, messages: 0 }
    }

    /// Whether there is room for one more message with such a body.
    pub fn has_room(&self, body_bytes: usize, output: &[u8]) -> bool {
        output.len() - self.start + body_bytes <= BATCH_BYTES_MAX
    }

    /// Appends a message: a request or a response that is not cut.
    pub fn add(&mut self, header: &Header, body: &[u8], output: &mut Vec<u8>) {
        assert!(header.kind.may_be_batched() && !header.flags.has(Flags::MORE), "{header:?} goes alone");
        append_message(header, body, output);
        self.messages += 1;
    }

    /// Ends it, as the frame of its only message if it has one.
    pub fn seal(self, epoch: Epoch, output: &mut Vec<u8>) {
        let messages = self.start + HEADER_BYTES;
        if self.messages == 1 {
            output.copy_within(messages.., self.start);
            output.truncate(output.len() - HEADER_BYTES);
        } else {
            let body_bytes = u32::try_from(output.len() - messages).expect("BATCH_BYTES_MAX fits");
            let head = RawHeader::of(&Header::new(Kind::Batch, epoch), body_bytes);
            output[self.start..messages].copy_from_slice(bytemuck::bytes_of(&head));
        }
        append_checksum(self.start, output);
    }
}

/// The first message of what is left of a batch, and its length.
///
/// # Errors
/// [`Garbled`]: no head, one that may not be in a batch, or more than there is.
#[inline]
pub fn next_of_batch(bytes: &[u8]) -> Result<(Header, usize), Garbled> {
    let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(Garbled::Batch)?;
    let raw: RawHeader = bytemuck::cast(*head);
    let header = raw.read()?;
    let body_bytes = usize::try_from(u32::from_le_bytes(raw.body_bytes)).map_err(|_| Garbled::Batch)?;
    let message_bytes = HEADER_BYTES.checked_add(body_bytes).ok_or(Garbled::Batch)?;
    let is_cut = message_bytes > bytes.len() || header.flags.has(Flags::MORE);
    if is_cut || !header.kind.may_be_batched() { Err(Garbled::Batch) } else { Ok((header, message_bytes)) }
}

/// Whether a batch goes on with a request of these flags for this shard whose body begins so: a look, before it is
/// [taken](next_of_batch).
#[inline]
pub fn goes_on_with(bytes: &[u8], flags: Flags, shard: u8, beginning: &[u8]) -> bool {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else { return false };
    let raw: &RawHeader = bytemuck::cast_ref(head);
    let is_such = raw.kind == Kind::Request as u8 && raw.flags == flags.0.to_le_bytes() && raw.shard == shard;
    is_such && bytes[HEADER_BYTES..].starts_with(beginning)
}

/// Looks at the first frame of `bytes`, whose body is to be at most `body_bytes_max` long.
///
/// The head is judged as soon as it is there; the checksum when the frame is.
///
/// # Errors
/// [`Garbled`]: no frame begins so, it is longer than allowed, or its checksum is wrong. Nothing behind it can be read then.
pub fn decode(bytes: &[u8], body_bytes_max: usize) -> Result<Decoded, Garbled> {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(Decoded::Incomplete);
    };
    let raw: RawHeader = bytemuck::cast(*head);
    let header = raw.read()?;
    let length = u32::from_le_bytes(raw.body_bytes);
    let body_bytes = usize::try_from(length).map_err(|_| Garbled::Length(length))?;
    if body_bytes > body_bytes_max.min(BODY_BYTES_MAX) {
        return Err(Garbled::Length(length));
    }
    let covered_bytes = HEADER_BYTES + body_bytes;
    let Some(checksum) = bytes.get(covered_bytes..).and_then(|rest| rest.first_chunk::<CHECKSUM_BYTES>())
    else {
        return Ok(Decoded::Incomplete);
    };
    if u32::from_le_bytes(*checksum) != crc32c::crc32c(&bytes[..covered_bytes]) {
        return Err(Garbled::Checksum);
    }
    Ok(Decoded::Frame { header, frame_bytes: covered_bytes + CHECKSUM_BYTES })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        let kind = prop::sample::select(&Kind::ALL[..]);
        (kind, 0..=Flags::ALL, 0..=Epoch::MAX.0, any::<(u16, u64, u8, u8, u32)>()).prop_map(
            |(kind, flags, epoch, (partition, opaque, detail, shard, deadline_micros))| Header {
                kind,
                flags: Flags(flags),
                epoch: Epoch(epoch),
                partition,
                opaque,
                detail,
                shard,
                deadline_micros,
            },
        )
    }

    fn frame(header: &Header, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(header, body, &mut bytes);
        bytes
    }

    #[test]
    fn a_header_lies_as_the_table_says() {
        let header = Header {
            kind: Kind::Request,
            flags: Flags::AUTHENTICATED.with(Flags::PART),
            epoch: Epoch(0x0605_0403_0201),
            partition: 0x1817,
            opaque: 0x2827_2625_2423_2221,
            detail: 2,
            shard: 9,
            deadline_micros: 0x3433_3231,
        };
        let expected = [
            3, 0, 0, 0, 6, 0, 6, 0, 1, 2, 3, 4, 5, 6, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27,
            0x28, 0, 0, 2, 9, 0x31, 0x32, 0x33, 0x34, b'a', b'b', b'c',
        ];
        let bytes = frame(&header, b"abc");
        assert_eq!(bytes[..35], expected);
        assert_eq!(bytes[35..], crc32c::crc32c(&expected).to_le_bytes());
    }

    #[test]
    fn the_checksum_is_the_castagnoli_one() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283, "RFC 3720's check value");
    }

    proptest! {
        #[test]
        fn a_frame_comes_back_and_each_strict_prefix_is_incomplete(header in header(), body: Vec<u8>, rest: Vec<u8>) {
            let bytes = frame(&header, &body);
            for cut in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..cut], BODY_BYTES_MAX), Ok(Decoded::Incomplete));
            }
            let frame_bytes = bytes.len();
            let stream = [bytes.clone(), rest].concat();
            prop_assert_eq!(decode(&stream, BODY_BYTES_MAX), Ok(Decoded::Frame { header, frame_bytes }));
            prop_assert_eq!(&stream[HEADER_BYTES..frame_bytes - CHECKSUM_BYTES], &body[..]);
        }

        #[test]
        fn a_flipped_bit_is_never_a_frame(header in header(), body: Vec<u8>, at: prop::sample::Index, bit in 0..8) {
            let mut bytes = frame(&header, &body);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let is_frame = matches!(decode(&bytes, BODY_BYTES_MAX), Ok(Decoded::Frame { .. }));
            prop_assert!(!is_frame);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, body_bytes_max: usize) {
            let _any_answer_will_do = decode(&bytes, body_bytes_max);
        }
    }

    #[test]
    fn messages_of_a_batch_come_back_in_order_under_one_checksum() {
        let message = |opaque| Header { opaque, ..Header::new(Kind::Request, Epoch(3)) };
        let bodies: [&[u8]; 3] = [b"get a\r\n", b"", b"get ccc\r\n"];
        let mut bytes = b"before".to_vec();
        let mut batch = OpenBatch::begin(&mut bytes);
        (1..).zip(bodies).for_each(|(opaque, body)| batch.add(&message(opaque), body, &mut bytes));
        batch.seal(Epoch(3), &mut bytes);
        let frame = &bytes[6..];
        let Ok(Decoded::Frame { header, frame_bytes }) = decode(frame, BODY_BYTES_MAX) else {
            panic!("a frame")
        };
        assert_eq!((header.kind, frame_bytes), (Kind::Batch, frame.len()));
        let mut rest = &frame[HEADER_BYTES..frame_bytes - CHECKSUM_BYTES];
        for (opaque, body) in (1..).zip(bodies) {
            let (header, message_bytes) = next_of_batch(rest).unwrap();
            assert_eq!((header, &rest[HEADER_BYTES..message_bytes]), (message(opaque), body));
            rest = &rest[message_bytes..];
        }
        assert!(rest.is_empty() && next_of_batch(rest) == Err(Garbled::Batch));
    }

    #[test]
    fn a_batch_of_one_is_its_frame() {
        let header = Header { opaque: 9, ..Header::new(Kind::Response, Epoch(3)) };
        let mut bytes = Vec::new();
        let mut batch = OpenBatch::begin(&mut bytes);
        batch.add(&header, b"END\r\n", &mut bytes);
        batch.seal(Epoch(3), &mut bytes);
        assert_eq!(bytes, frame(&header, b"END\r\n"));
    }

    #[test]
    fn a_batch_holds_whole_requests_and_responses_only() {
        let message = |header: Header, cut: usize| {
            let mut bytes = Vec::new();
            append_message(&header, b"body", &mut bytes);
            next_of_batch(&bytes[..bytes.len() - cut]).map(|(header, _)| header.kind)
        };
        let request = Header::new(Kind::Request, Epoch(1));
        assert_eq!(message(request, 0), Ok(Kind::Request));
        assert_eq!(message(request, 1), Err(Garbled::Batch));
        assert_eq!(message(Header { flags: Flags::MORE, ..request }, 0), Err(Garbled::Batch));
        for kind in [Kind::Batch, Kind::Hello, Kind::Replica, Kind::RingDocument] {
            assert_eq!(message(Header::new(kind, Epoch(1)), 0), Err(Garbled::Batch), "{kind:?}");
        }
    }

    #[test]
    fn the_first_frame_names_the_shard_that_a_dialler_wants() {
        let head = |kind| {
            let bytes = frame(&Header { shard: 7, ..Header::new(kind, Epoch(1)) }, b"x");
            *bytes.first_chunk::<HEADER_BYTES>().unwrap()
        };
        assert_eq!(hello_shard(&head(Kind::Hello)), Some(7));
        assert_eq!(hello_shard(&head(Kind::Heartbeat)), None);
        assert_eq!(hello_shard(b"GET / HTTP/1.1\r\nHost: localhost\r"), None);
    }

    #[test]
    fn garbled_frames_say_why() {
        let whole = frame(&Header::new(Kind::Heartbeat, Epoch(1)), b"");
        let with = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            decode(&bytes, GREETING_BYTES_MAX)
        };
        assert_eq!(with(4, 0), Err(Garbled::Kind(0)));
        assert_eq!(with(4, 99), Err(Garbled::Kind(99)));
        assert_eq!(with(5, 1), Err(Garbled::Reserved));
        assert_eq!(with(7, 0x80), Err(Garbled::Reserved));
        assert_eq!(with(24, 1), Err(Garbled::Reserved));
        assert_eq!(with(9, 7), Err(Garbled::Checksum));
        assert_eq!(with(3, 1), Err(Garbled::Length(1 << 24)));
        let long = frame(&Header::new(Kind::Hello, Epoch(1)), &[0; GREETING_BYTES_MAX + 1]);
        assert_eq!(decode(&long[..HEADER_BYTES], GREETING_BYTES_MAX), Err(Garbled::Length(1025)));
    }

    #[test]
    fn versions_meet_at_the_newest_both_speak() {
        let versions = |lowest, highest| Versions { lowest, highest };
        assert_eq!(versions(1, 2).common(versions(2, 3)), Some(2));
        assert_eq!(versions(1, 2).common(versions(1, 2)), Some(2));
        assert_eq!(versions(1, 1).common(versions(2, 3)), None);
        assert_eq!(versions(3, 4).common(versions(1, 2)), None);
    }
}
