//! Reply packets: a header, and a body with extras, key and value. No decision but what a quiet request hides.

use super::dialect::{Hit, Outcome};
use crate::binary::{BinaryHead, HEADER_SIZE, REPLY_MAGIC, opcode};
use crate::errors::ErrorReply;
use crate::limits::KEY_SIZE_MAX;
use crate::request::Command;

/// Why a packet is answered as it is.
///
/// Source: memcached `protocol_binary.h`; the last two from its `protocol_binary.txt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Status {
    Success = 0x00,
    NotFound = 0x01,
    Exists = 0x02,
    TooLarge = 0x03,
    InvalidArguments = 0x04,
    NotStored = 0x05,
    NonNumeric = 0x06,
    AuthError = 0x20,
    UnknownCommand = 0x81,
    OutOfMemory = 0x82,
    Busy = 0x85,
    TemporaryFailure = 0x86,
}

/// Sizes of a reply's parts.
struct Sizes {
    extras: u8,
    key: usize,
    value: usize,
}

impl Sizes {
    const NONE: Self = Self { extras: 0, key: 0, value: 0 };

    fn of_value(value: &[u8]) -> Self {
        Self { value: value.len(), ..Self::NONE }
    }
}

impl Status {
    /// The body of a reply that has nothing else to say.
    fn text(self) -> &'static [u8] {
        match self {
            Self::Success => b"",
            Self::NotFound => b"Not found",
            Self::Exists => b"Data exists for key.",
            Self::TooLarge => b"Too large.",
            Self::InvalidArguments => b"Invalid arguments",
            Self::NotStored => b"Not stored.",
            Self::NonNumeric => b"Non-numeric server-side value for incr or decr",
            Self::AuthError => b"Auth failure.",
            Self::UnknownCommand => b"Unknown command",
            Self::OutOfMemory => b"Out of memory",
            Self::Busy => b"Busy",
            Self::TemporaryFailure => b"Temporary failure",
        }
    }
}

/// How a request ended, which memcached words by its operation.
pub(super) fn outcome(out: &mut Vec<u8>, head: BinaryHead, command: &Command, outcome: Outcome) {
    let success = matches!(
        outcome,
        Outcome::Stored { .. }
            | Outcome::Deleted
            | Outcome::Touched { .. }
            | Outcome::Number { .. }
            | Outcome::Done
    );
    if success && head.quiet() {
        return;
    }
    match outcome {
        Outcome::Stored { cas } => empty(out, head, cas),
        Outcome::Deleted => empty(out, head, 0),
        Outcome::Done if matches!(command, Command::SaslStart | Command::SaslStep) => {
            body(out, head, b"Authenticated");
        }
        Outcome::Done => empty(out, head, 0),
        Outcome::Touched { client_flags, cas } => {
            header(out, head, Status::Success, &Sizes { extras: 4, ..Sizes::NONE }, cas);
            out.extend_from_slice(&client_flags.to_be_bytes());
        }
        Outcome::Number { value, cas } => {
            let value = value.to_be_bytes();
            header(out, head, Status::Success, &Sizes::of_value(&value), cas);
            out.extend_from_slice(&value);
        }
        Outcome::Exists => failed(out, head, Status::Exists),
        Outcome::NotFound if concatenates(head) => failed(out, head, Status::NotStored),
        Outcome::NotFound => failed(out, head, Status::NotFound),
        Outcome::NotStored => failed(out, head, not_stored(head)),
        // What a whole item would make of it is only known when it is made, and then it was not stored.
        Outcome::Refused(ErrorReply::TooLarge) if matches!(command, Command::Store { .. }) => {
            failed(out, head, not_stored(head));
        }
        Outcome::Refused(refusal) => error(out, head, refusal),
    }
}

/// The answer to a get that hit, up to its value.
pub(super) fn hit_header(out: &mut Vec<u8>, head: BinaryHead, key: &[u8], hit: &Hit) {
    assert!(key.len() <= KEY_SIZE_MAX);
    let key = if head.shows_key() { key } else { b"" };
    let value = usize::try_from(hit.value_len).expect("usize has at least 32 bits");
    header(out, head, Status::Success, &Sizes { extras: 4, key: key.len(), value }, hit.cas);
    out.extend_from_slice(&hit.client_flags.to_be_bytes());
    out.extend_from_slice(key);
}

/// The answer to a get that missed.
pub(super) fn miss(out: &mut Vec<u8>, head: BinaryHead, key: &[u8]) {
    if head.quiet() {
        return;
    }
    if head.shows_key() {
        header(out, head, Status::NotFound, &Sizes { key: key.len(), ..Sizes::NONE }, 0);
        out.extend_from_slice(key);
    } else {
        failed(out, head, Status::NotFound);
    }
}

/// Success with nothing to show.
pub(super) fn empty(out: &mut Vec<u8>, head: BinaryHead, cas: u64) {
    header(out, head, Status::Success, &Sizes::NONE, cas);
}

/// Success with a text.
pub(super) fn body(out: &mut Vec<u8>, head: BinaryHead, value: &[u8]) {
    header(out, head, Status::Success, &Sizes::of_value(value), 0);
    out.extend_from_slice(value);
}

/// One statistic; one without name and value ends them.
pub(super) fn stat(out: &mut Vec<u8>, head: BinaryHead, name: &[u8], value: &[u8]) {
    header(out, head, Status::Success, &Sizes { extras: 0, key: name.len(), value: value.len() }, 0);
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

/// A refusal, which no request hides.
#[cold]
pub(super) fn error(out: &mut Vec<u8>, head: BinaryHead, error: ErrorReply) {
    let status = status_of(error);
    let text: &[u8] = match error {
        ErrorReply::OutOfMemoryStoring => b"Out of memory allocating item",
        ErrorReply::OutOfMemory => b"Out of memory incrementing value",
        _ => status.text(),
    };
    header(out, head, status, &Sizes::of_value(text), 0);
    out.extend_from_slice(text);
}

fn status_of(error: ErrorReply) -> Status {
    match error {
        ErrorReply::Error => Status::UnknownCommand,
        ErrorReply::UnknownStats | ErrorReply::StatsDetailUsage => Status::NotFound,
        ErrorReply::TooLarge => Status::TooLarge,
        ErrorReply::NonNumericValue => Status::NonNumeric,
        ErrorReply::FlushNotAllowed | ErrorReply::Unauthenticated | ErrorReply::AuthenticationFailure => {
            Status::AuthError
        }
        ErrorReply::OutOfMemoryStoring
        | ErrorReply::OutOfMemory
        | ErrorReply::OutOfMemoryWriting
        | ErrorReply::OutOfMemoryReading => Status::OutOfMemory,
        ErrorReply::OwnerOverloaded | ErrorReply::OwnerBusy | ErrorReply::CopiesOverloaded => Status::Busy,
        ErrorReply::NoRing
        | ErrorReply::OwnerGone
        | ErrorReply::OwnerSilent
        | ErrorReply::RingUnsettled
        | ErrorReply::ShardSilent
        | ErrorReply::CopiesSilent
        | ErrorReply::CopiesUnconfirmed
        | ErrorReply::KeyUnsettled => Status::TemporaryFailure,
        _ => Status::InvalidArguments,
    }
}

/// memcached has no single status for it.
fn not_stored(head: BinaryHead) -> Status {
    match head.loud_opcode() {
        opcode::ADD => Status::Exists,
        opcode::REPLACE => Status::NotFound,
        _ => Status::NotStored,
    }
}

fn concatenates(head: BinaryHead) -> bool {
    matches!(head.loud_opcode(), opcode::APPEND | opcode::PREPEND)
}

fn failed(out: &mut Vec<u8>, head: BinaryHead, status: Status) {
    let text = status.text();
    header(out, head, status, &Sizes::of_value(text), 0);
    out.extend_from_slice(text);
}

fn header(out: &mut Vec<u8>, head: BinaryHead, status: Status, sizes: &Sizes, cas: u64) {
    let body = usize::from(sizes.extras) + sizes.key + sizes.value;
    let key = u16::try_from(sizes.key).expect("a key has at most 250 bytes, a statistic's name fewer");
    let body = u32::try_from(body).expect("a value has at most 1 GiB");
    let mut bytes = [0; HEADER_SIZE];
    bytes[0] = REPLY_MAGIC;
    bytes[1] = head.opcode;
    bytes[2..4].copy_from_slice(&key.to_be_bytes());
    bytes[4] = sizes.extras;
    bytes[6..8].copy_from_slice(&(status as u16).to_be_bytes());
    bytes[8..12].copy_from_slice(&body.to_be_bytes());
    bytes[12..16].copy_from_slice(&head.opaque.to_be_bytes());
    bytes[16..].copy_from_slice(&cas.to_be_bytes());
    out.extend_from_slice(&bytes);
}
