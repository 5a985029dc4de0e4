//! The client's end of the binary protocol: packets to bytes, and one reply of a stream taken apart.

use crate::binary::{DO_NOT_CREATE, HEADER_SIZE, REPLY_MAGIC, REQUEST_MAGIC, opcode};
use crate::limits::{KEY_SIZE_MAX, PACKET_BODY_SIZE_MAX};

/// A request, whatever it asks for: nothing is checked but that it is a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Operation, as `protocol_binary.h` numbers them.
    pub opcode: u8,
    /// The client's own number, repeated in every reply to it.
    pub opaque: u32,
    /// CAS the item must have, 0 for any.
    pub cas: u64,
    /// Arguments of the operation; at most 255 bytes.
    pub extras: &'a [u8],
    /// Key.
    pub key: &'a [u8],
    /// Value.
    pub value: &'a [u8],
}

/// A reply, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryReply<'a> {
    /// The operation it answers.
    pub opcode: u8,
    /// The opaque of the request.
    pub opaque: u32,
    /// 0 is success.
    pub status: u16,
    /// CAS of the item, 0 for none.
    pub cas: u64,
    /// Client flags of a get, four bytes.
    pub extras: &'a [u8],
    /// Key, if it was asked for.
    pub key: &'a [u8],
    /// Value, number or text.
    pub value: &'a [u8],
}

/// What the front of the input comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryStep<'a> {
    /// Come again when the input holds so many bytes.
    Incomplete {
        /// Size of an input that is worth another call.
        total_bytes: usize,
    },
    /// One reply. Drop `consumed` bytes.
    Reply {
        /// The reply.
        reply: BinaryReply<'a>,
        /// Bytes to drop, at least 24.
        consumed: usize,
    },
    /// No server says that. Close.
    Malformed,
}

/// Appends a packet. Panics if its sizes do not fit their fields.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    let body_size = packet.extras.len() + packet.key.len() + packet.value.len();
    assert!(body_size <= PACKET_BODY_SIZE_MAX, "a body has at most 1 GiB");
    let mut header = [0; HEADER_SIZE];
    header[0] = REQUEST_MAGIC;
    header[1] = packet.opcode;
    header[2..4].copy_from_slice(&size::<u16>(packet.key).to_be_bytes());
    header[4] = size(packet.extras);
    header[8..12].copy_from_slice(&u32::try_from(body_size).expect("checked above").to_be_bytes());
    header[12..16].copy_from_slice(&packet.opaque.to_be_bytes());
    header[16..].copy_from_slice(&packet.cas.to_be_bytes());
    for part in [&header, packet.extras, packet.key, packet.value] {
        out.extend_from_slice(part);
    }
}

/// Appends a get.
pub fn get(out: &mut Vec<u8>, opaque: u32, key: &[u8]) {
    keyed(out, Packet { opcode: opcode::GET, opaque, key, ..Packet::default() });
}

/// Appends a get that is only answered by a hit, which shows the key: end a group of them with [`noop`].
pub fn get_quietly(out: &mut Vec<u8>, opaque: u32, key: &[u8]) {
    keyed(out, Packet { opcode: opcode::GETKQ, opaque, key, ..Packet::default() });
}

/// Appends a set. `exptime` is as the protocol has it: 0 never, to 30 days relative, then Unix time.
pub fn set(out: &mut Vec<u8>, opaque: u32, key: &[u8], client_flags: u32, exptime: u32, value: &[u8]) {
    let mut extras = [0; 8];
    extras[..4].copy_from_slice(&client_flags.to_be_bytes());
    extras[4..].copy_from_slice(&exptime.to_be_bytes());
    keyed(out, Packet { opcode: opcode::SET, opaque, extras: &extras, key, value, cas: 0 });
}

/// Appends a delete.
pub fn delete(out: &mut Vec<u8>, opaque: u32, key: &[u8]) {
    keyed(out, Packet { opcode: opcode::DELETE, opaque, key, ..Packet::default() });
}

/// Appends an increment. What is missing becomes `initial` for ever, or stays missing without it.
pub fn incr(out: &mut Vec<u8>, opaque: u32, key: &[u8], delta: u64, initial: Option<u64>) {
    let mut extras = [0; 20];
    extras[..8].copy_from_slice(&delta.to_be_bytes());
    extras[8..16].copy_from_slice(&initial.unwrap_or(0).to_be_bytes());
    let exptime = if initial.is_some() { 0 } else { DO_NOT_CREATE };
    extras[16..].copy_from_slice(&exptime.to_be_bytes());
    keyed(out, Packet { opcode: opcode::INCREMENT, opaque, extras: &extras, key, ..Packet::default() });
}

/// Appends a touch.
pub fn touch(out: &mut Vec<u8>, opaque: u32, key: &[u8], exptime: u32) {
    let extras = exptime.to_be_bytes();
    keyed(out, Packet { opcode: opcode::TOUCH, opaque, extras: &extras, key, ..Packet::default() });
}

/// Appends a noop, whose reply comes behind those of everything before it.
pub fn noop(out: &mut Vec<u8>, opaque: u32) {
    packet(out, &Packet { opcode: opcode::NOOP, opaque, ..Packet::default() });
}

/// Appends an authentication by user and password.
pub fn sasl_plain(out: &mut Vec<u8>, opaque: u32, user: &[u8], password: &[u8]) {
    let message = [b"\0", user, b"\0", password].concat();
    let key = crate::users::SASL_MECHANISMS.as_bytes();
    packet(out, &Packet { opcode: opcode::SASL_AUTH, opaque, key, value: &message, ..Packet::default() });
}

/// The reply that `input` begins with. O(1).
pub fn parse_reply(input: &[u8]) -> BinaryStep<'_> {
    if input.first().is_some_and(|&magic| magic != REPLY_MAGIC) {
        return BinaryStep::Malformed;
    }
    let Some((header, body)) = input.split_first_chunk::<HEADER_SIZE>() else {
        return BinaryStep::Incomplete { total_bytes: HEADER_SIZE };
    };
    let [_, opcode, k0, k1, extras_size, _, s0, s1, b0, b1, b2, b3, o0, o1, o2, o3, cas @ ..] = *header;
    let key_size = usize::from(u16::from_be_bytes([k0, k1]));
    let extras_size = usize::from(extras_size);
    let body_size =
        usize::try_from(u32::from_be_bytes([b0, b1, b2, b3])).expect("usize has at least 32 bits");
    if extras_size + key_size > body_size || body_size > PACKET_BODY_SIZE_MAX {
        return BinaryStep::Malformed;
    }
    let consumed = HEADER_SIZE + body_size;
    let Some(body) = body.get(..body_size) else { return BinaryStep::Incomplete { total_bytes: consumed } };
    let (extras, rest) = body.split_at(extras_size);
    let (key, value) = rest.split_at(key_size);
    let (opaque, status) = (u32::from_be_bytes([o0, o1, o2, o3]), u16::from_be_bytes([s0, s1]));
    let reply = BinaryReply { opcode, opaque, status, cas: u64::from_be_bytes(cas), extras, key, value };
    BinaryStep::Reply { reply, consumed }
}

fn keyed(out: &mut Vec<u8>, request: Packet<'_>) {
    assert!(!request.key.is_empty() && request.key.len() <= KEY_SIZE_MAX, "a key has 1 to 250 bytes");
    packet(out, &request);
}

fn size<T: TryFrom<usize>>(part: &[u8]) -> T {
    T::try_from(part.len()).unwrap_or_else(|_| panic!("{} bytes do not fit their field", part.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::{self, Hit, Outcome};
    use crate::{Auth, Command, Dialect, Limits, Parser, Protocol, Request, Step, StoreMode, Vivify};
    use proptest::prelude::*;

    const STORE: Command =
        Command::Store { mode: StoreMode::Set, client_flags: 7, exptime: 60, compare: None };

    #[track_caller]
    fn check(append: impl FnOnce(&mut Vec<u8>), command: Command, key: &[u8], value: &[u8]) {
        let mut out = Vec::new();
        append(&mut out);
        let step = Parser::new(Protocol::Binary, Auth::Granted).next(&out, &Limits::default());
        let Step::Request { request, consumed } = step else { panic!("{step:?}") };
        assert_eq!((request.command, request.key, request.value), (command, key, value));
        assert!(matches!(request.dialect, Dialect::Binary(head) if head.opaque == 5));
        assert_eq!(consumed, out.len());
    }

    #[test]
    fn a_server_reads_what_a_client_writes() {
        let count = |vivify| Command::Arithmetic { decrement: false, delta: 3, compare: None, vivify };
        check(|out| get(out, 5, b"k"), Command::Get { with_cas: true }, b"k", b"");
        check(|out| get_quietly(out, 5, b"k"), Command::Get { with_cas: true }, b"k", b"");
        check(|out| set(out, 5, b"k", 7, 60, b"v"), STORE, b"k", b"v");
        check(|out| delete(out, 5, b"k"), Command::Delete { compare: None }, b"k", b"");
        check(|out| incr(out, 5, b"k", 3, None), count(None), b"k", b"");
        let vivify = Some(Vivify { initial: 9, exptime: 0 });
        check(|out| incr(out, 5, b"k", 3, Some(9)), count(vivify), b"k", b"");
        check(|out| touch(out, 5, b"k", 60), Command::Touch { exptime: 60 }, b"k", b"");
        check(|out| noop(out, 5), Command::MetaNoop, b"", b"");
        check(|out| sasl_plain(out, 5, b"user", b"pass"), Command::SaslStart, b"PLAIN", b"\0user\0pass");
    }

    #[test]
    fn a_client_reads_what_a_server_writes_and_every_prefix_of_it_is_incomplete() {
        let mut out = Vec::new();
        get_quietly(&mut out, 5, b"key");
        let Step::Request { request, .. } = Parser::default().next(&out, &Limits::default()) else {
            panic!()
        };
        let mut bytes = Vec::new();
        reply::hit_header(&mut bytes, &request, &Hit { client_flags: 1, value_len: 5, cas: 9 });
        bytes.extend_from_slice(b"value");
        for cut in 0..bytes.len() {
            let step = parse_reply(&bytes[..cut]);
            assert!(matches!(step, BinaryStep::Incomplete { total_bytes } if total_bytes > cut), "{cut}");
        }
        let consumed = bytes.len();
        let opcode = opcode::GETKQ;
        let (extras, key, value) = (&b"\0\0\0\x01"[..], &b"key"[..], &b"value"[..]);
        let expected = BinaryReply { opcode, opaque: 5, status: 0, cas: 9, extras, key, value };
        reply::outcome(&mut bytes, &Request { command: STORE, ..request }, Outcome::Exists);
        assert_eq!(parse_reply(&bytes), BinaryStep::Reply { reply: expected, consumed });
        let BinaryStep::Reply { reply, .. } = parse_reply(&bytes[consumed..]) else { panic!() };
        assert_eq!((reply.status, reply.value), (2, &b"Data exists for key."[..]));
    }

    #[test]
    fn what_no_server_says_is_malformed() {
        assert_eq!(parse_reply(b"END\r\n"), BinaryStep::Malformed);
        let mut key_beyond_body = [0; HEADER_SIZE];
        (key_beyond_body[0], key_beyond_body[3]) = (REPLY_MAGIC, 1);
        assert_eq!(parse_reply(&key_beyond_body), BinaryStep::Malformed);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            bytes[0] = REPLY_MAGIC;
            if let BinaryStep::Reply { consumed, .. } = parse_reply(&bytes) {
                prop_assert!(consumed <= bytes.len());
            }
        }
    }
}
