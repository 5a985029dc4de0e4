//! One packet of the binary protocol to what it asks for. It sees the front of the input and keeps nothing.
//!
//! ```text
//!  0 magic 0x80   1 opcode        2 key size (2)   4 extras size   5 data type   6 vbucket (2)
//!  8 body size (4)   12 opaque (4)   16 CAS (8)   24 extras, key, value: together the body
//! ```
//!
//! Numbers are big-endian; data type and vbucket are ignored. Checks, statuses and what closes are those of memcached
//! 1.6.45 (`proto_bin.c`), but that
//! * everything the header alone shows to be wrong is answered when the header is there, not when the key is;
//! * `touch`, `gat` and `stat` with a value behind the key are refused, where memcached reads it as the next packet;
//! * an unknown opcode takes its body with it, where memcached takes key and extras twice.

use crate::errors::{DialectError, ErrorReply};
use crate::limits::{
    AUTH_DATA_SIZE_MAX, KEY_SIZE_MAX, Limits, PACKET_BODY_SIZE_MAX, SASL_MECHANISM_SIZE_MAX,
};
use crate::parser::{Announced, Auth};
use crate::request::{Command, Dialect, Request, StatsDetail, StatsTopic, StoreMode, Vivify};

/// First byte of a request.
pub(crate) const REQUEST_MAGIC: u8 = 0x80;
/// First byte of a reply.
pub(crate) const REPLY_MAGIC: u8 = 0x81;
/// Bytes of every header.
pub(crate) const HEADER_SIZE: usize = 24;
/// Expiration time of an `incr` or `decr` that makes nothing.
pub(crate) const DO_NOT_CREATE: u32 = u32::MAX;

/// The operations by their number.
///
/// Source: memcached `protocol_binary.h`.
pub(crate) mod opcode {
    pub(crate) const GET: u8 = 0x00;
    pub(crate) const SET: u8 = 0x01;
    pub(crate) const ADD: u8 = 0x02;
    pub(crate) const REPLACE: u8 = 0x03;
    pub(crate) const DELETE: u8 = 0x04;
    pub(crate) const INCREMENT: u8 = 0x05;
    pub(crate) const DECREMENT: u8 = 0x06;
    pub(crate) const QUIT: u8 = 0x07;
    pub(crate) const FLUSH: u8 = 0x08;
    pub(crate) const GETQ: u8 = 0x09;
    pub(crate) const NOOP: u8 = 0x0a;
    pub(crate) const VERSION: u8 = 0x0b;
    pub(crate) const GETK: u8 = 0x0c;
    pub(crate) const GETKQ: u8 = 0x0d;
    pub(crate) const APPEND: u8 = 0x0e;
    pub(crate) const PREPEND: u8 = 0x0f;
    pub(crate) const STAT: u8 = 0x10;
    pub(crate) const SETQ: u8 = 0x11;
    pub(crate) const ADDQ: u8 = 0x12;
    pub(crate) const REPLACEQ: u8 = 0x13;
    pub(crate) const DELETEQ: u8 = 0x14;
    pub(crate) const INCREMENTQ: u8 = 0x15;
    pub(crate) const DECREMENTQ: u8 = 0x16;
    pub(crate) const QUITQ: u8 = 0x17;
    pub(crate) const FLUSHQ: u8 = 0x18;
    pub(crate) const APPENDQ: u8 = 0x19;
    pub(crate) const PREPENDQ: u8 = 0x1a;
    pub(crate) const TOUCH: u8 = 0x1c;
    pub(crate) const GAT: u8 = 0x1d;
    pub(crate) const GATQ: u8 = 0x1e;
    pub(crate) const SASL_LIST: u8 = 0x20;
    pub(crate) const SASL_AUTH: u8 = 0x21;
    pub(crate) const SASL_STEP: u8 = 0x22;
    pub(crate) const GATK: u8 = 0x23;
    pub(crate) const GATKQ: u8 = 0x24;
}

/// What a binary reply repeats of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryHead {
    /// The operation as sent, its quiet form included.
    pub opcode: u8,
    /// The client's own number, as sent.
    pub opaque: u32,
}

impl BinaryHead {
    /// The operation without its quietness; a get that shows its key remains one. O(1).
    pub(crate) fn loud_opcode(self) -> u8 {
        match self.opcode {
            opcode::SETQ => opcode::SET,
            opcode::ADDQ => opcode::ADD,
            opcode::REPLACEQ => opcode::REPLACE,
            opcode::DELETEQ => opcode::DELETE,
            opcode::INCREMENTQ => opcode::INCREMENT,
            opcode::DECREMENTQ => opcode::DECREMENT,
            opcode::QUITQ => opcode::QUIT,
            opcode::FLUSHQ => opcode::FLUSH,
            opcode::APPENDQ => opcode::APPEND,
            opcode::PREPENDQ => opcode::PREPEND,
            opcode::GETQ => opcode::GET,
            opcode::GETKQ => opcode::GETK,
            opcode::GATQ => opcode::GAT,
            opcode::GATKQ => opcode::GATK,
            loud => loud,
        }
    }

    /// Hides the nominal answer: a miss of a get, the success of anything else. O(1).
    pub fn quiet(self) -> bool {
        self.loud_opcode() != self.opcode
    }

    /// A reply of a get shows the key. O(1).
    pub(crate) fn shows_key(self) -> bool {
        matches!(self.loud_opcode(), opcode::GETK | opcode::GATK)
    }
}

/// What the front of the input comes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packet<'a> {
    /// As [`Step::Incomplete`](crate::Step::Incomplete).
    Incomplete { total_bytes: usize },
    /// A whole request.
    Request { request: Request<'a>, consumed: usize },
    /// A request that is executed at once, although `rest` bytes follow that belong to nothing.
    RequestTooLarge { request: Request<'a>, consumed: usize, rest: usize },
    /// Nothing is executed, and `rest` bytes follow that belong to nothing.
    Refused { error: DialectError, consumed: usize, rest: usize },
    /// The end, with a last answer.
    Close { error: Option<DialectError> },
}

/// Reads the packet that `input` begins with. O(1): no body is looked at but extras, and keys of `stat`.
pub(crate) fn parse_packet<'a>(input: &'a [u8], auth: Auth, limits: &Limits) -> Packet<'a> {
    if input.first().is_some_and(|&magic| magic != REQUEST_MAGIC) {
        return Packet::Close { error: None };
    }
    let Some((header, body)) = input.split_first_chunk() else {
        return Packet::Incomplete { total_bytes: HEADER_SIZE };
    };
    let header = Header::parse(header);
    match header.check(auth) {
        Ok(()) => header.parse_body(body, auth, limits),
        Err(error) => Packet::Close { error: Some(header.error(error)) },
    }
}

/// See [`Parser::announced`](crate::Parser::announced).
pub(crate) fn announced<'a>(input: &'a [u8], auth: Auth, limits: &Limits) -> Option<Announced<'a>> {
    let (header, body) = input.split_first_chunk()?;
    let header = Header::parse(header);
    if input[0] != REQUEST_MAGIC || header.check(auth).is_err() || header.refuses(auth).is_some() {
        return None;
    }
    let (extras, behind) = body.split_at_checked(header.extras_size)?;
    let key = behind.get(..header.key_size)?;
    let value_bytes = header.value_size();
    let command = header.command(&Parts { extras, key, value_size: value_bytes }, limits).ok()?;
    let request = Request { dialect: Dialect::Binary(header.head), ..Request::keyed(command, key) };
    let head_bytes = HEADER_SIZE + header.extras_size + header.key_size;
    let is_store = matches!(command, Command::Store { .. });
    is_store.then_some(Announced { request, head_bytes, value_bytes, end: b"" })
}

/// A header whose sizes may be anything.
#[derive(Clone, Copy, Debug)]
struct Header {
    head: BinaryHead,
    key_size: usize,
    extras_size: usize,
    body_size: usize,
    cas: u64,
}

/// A body that is all there but, for a store command, its value.
#[derive(Clone, Copy, Debug)]
struct Parts<'a> {
    extras: &'a [u8],
    key: &'a [u8],
    value_size: usize,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_SIZE]) -> Self {
        Self {
            head: BinaryHead { opcode: bytes[1], opaque: u32_at(bytes, 12) },
            key_size: usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
            extras_size: usize::from(bytes[4]),
            body_size: usize::try_from(u32_at(bytes, 8)).expect("usize has at least 32 bits"),
            cas: u64_at(bytes, 16),
        }
    }

    fn value_size(&self) -> usize {
        self.body_size - self.key_size - self.extras_size
    }

    fn error(&self, error: ErrorReply) -> DialectError {
        DialectError { error, dialect: Dialect::Binary(self.head) }
    }

    /// Whether the connection can go on behind this packet, in memcached's order of questions.
    fn check(&self, auth: Auth) -> Result<(), ErrorReply> {
        if self.key_size + self.extras_size > self.body_size {
            return Err(ErrorReply::Error);
        }
        if self.body_size > PACKET_BODY_SIZE_MAX {
            return Err(ErrorReply::BadCommandLineFormat);
        }
        if auth == Auth::Required && !self.is_allowed_before_authentication() {
            return Err(ErrorReply::Unauthenticated);
        }
        if self.key_size > KEY_SIZE_MAX || !self.has_its_shape() {
            return Err(ErrorReply::BadCommandLineFormat);
        }
        Ok(())
    }

    fn is_allowed_before_authentication(&self) -> bool {
        matches!(
            self.head.opcode,
            opcode::VERSION | opcode::SASL_LIST | opcode::SASL_AUTH | opcode::SASL_STEP
        )
    }

    /// Which parts a body has, and the size of its extras, by operation.
    fn has_its_shape(&self) -> bool {
        let (has_key, has_value) = (self.key_size > 0, self.value_size() > 0);
        match self.head.loud_opcode() {
            opcode::GET | opcode::GETK | opcode::DELETE => self.extras_size == 0 && has_key && !has_value,
            opcode::SET | opcode::ADD | opcode::REPLACE => self.extras_size == 8 && has_key,
            opcode::APPEND | opcode::PREPEND | opcode::SASL_AUTH | opcode::SASL_STEP => {
                self.extras_size == 0 && has_key
            }
            opcode::INCREMENT | opcode::DECREMENT => self.extras_size == 20 && has_key && !has_value,
            opcode::TOUCH | opcode::GAT | opcode::GATK => self.extras_size == 4 && has_key && !has_value,
            opcode::FLUSH => matches!(self.extras_size, 0 | 4) && !has_key && !has_value,
            opcode::STAT => self.extras_size == 0 && !has_value,
            opcode::QUIT | opcode::NOOP | opcode::VERSION | opcode::SASL_LIST => self.body_size == 0,
            _ => true,
        }
    }

    /// `body` begins the body and may be shorter or longer than it.
    fn parse_body<'a>(&self, body: &'a [u8], auth: Auth, limits: &Limits) -> Packet<'a> {
        if let Some(error) = self.refuses(auth) {
            return Packet::Refused { error: self.error(error), consumed: HEADER_SIZE, rest: self.body_size };
        }
        let Some((extras, behind)) = body.split_at_checked(self.extras_size) else {
            return self.incomplete(self.extras_size + self.key_size);
        };
        let Some((key, behind)) = behind.split_at_checked(self.key_size) else {
            return self.incomplete(self.extras_size + self.key_size);
        };
        let command = match self.command(&Parts { extras, key, value_size: self.value_size() }, limits) {
            Ok(command) => command,
            Err(error) => return self.refused_whole(error),
        };
        let request = Request { dialect: Dialect::Binary(self.head), ..Request::keyed(command, key) };
        if matches!(command, Command::StoreTooLarge { .. }) {
            let consumed = HEADER_SIZE + self.extras_size + self.key_size;
            return Packet::RequestTooLarge { request, consumed, rest: self.value_size() };
        }
        match behind.get(..self.value_size()) {
            Some(value) => {
                let consumed = HEADER_SIZE + self.body_size;
                Packet::Request { request: Request { value, ..request }, consumed }
            }
            None => self.incomplete(self.body_size),
        }
    }

    /// What is refused without closing, before its body has come.
    fn refuses(&self, auth: Auth) -> Option<ErrorReply> {
        match self.head.loud_opcode() {
            opcode::GET..=opcode::STAT | opcode::TOUCH | opcode::GAT | opcode::GATK => None,
            opcode::SASL_LIST..=opcode::SASL_STEP if auth != Auth::Open => self.refuses_sasl(),
            _ => Some(ErrorReply::Error),
        }
    }

    fn refuses_sasl(&self) -> Option<ErrorReply> {
        if self.key_size > SASL_MECHANISM_SIZE_MAX {
            return Some(ErrorReply::BadCommandLineFormat);
        }
        (self.value_size() > AUTH_DATA_SIZE_MAX).then_some(ErrorReply::OutOfMemoryReading)
    }

    fn command(&self, parts: &Parts<'_>, limits: &Limits) -> Result<Command, ErrorReply> {
        let extras = parts.extras;
        let compare = (self.cas != 0).then_some(self.cas);
        Ok(match self.head.loud_opcode() {
            opcode::GET | opcode::GETK => Command::Get { with_cas: true },
            opcode::GAT | opcode::GATK => {
                Command::GetAndTouch { exptime: exptime(u32_at(extras, 0)), with_cas: true }
            }
            opcode::TOUCH => Command::Touch { exptime: exptime(u32_at(extras, 0)) },
            opcode::SET => store(StoreMode::Set, parts, compare, limits),
            opcode::ADD => store(StoreMode::Add, parts, compare, limits),
            opcode::REPLACE => store(StoreMode::Replace, parts, compare, limits),
            opcode::APPEND => store(StoreMode::Append, parts, compare, limits),
            opcode::PREPEND => store(StoreMode::Prepend, parts, compare, limits),
            opcode::DELETE => Command::Delete { compare },
            opcode::INCREMENT => arithmetic(false, extras, compare),
            opcode::DECREMENT => arithmetic(true, extras, compare),
            opcode::FLUSH if extras.is_empty() => Command::FlushAll { delay: 0 },
            opcode::FLUSH => Command::FlushAll { delay: exptime(u32_at(extras, 0)) },
            opcode::STAT => Command::Stats(stats_topic(parts.key)?),
            opcode::QUIT => Command::Quit,
            opcode::NOOP => Command::MetaNoop,
            opcode::VERSION => Command::Version,
            opcode::SASL_LIST => Command::SaslMechanisms,
            opcode::SASL_AUTH => Command::SaslStart,
            opcode::SASL_STEP => Command::SaslStep,
            unknown => unreachable!("{unknown} is refused before"),
        })
    }

    fn refused_whole<'a>(&self, error: ErrorReply) -> Packet<'a> {
        assert!(self.value_size() == 0, "only `stat` is refused by its key, and it has no value");
        Packet::Refused { error: self.error(error), consumed: HEADER_SIZE + self.body_size, rest: 0 }
    }

    fn incomplete<'a>(&self, body_bytes: usize) -> Packet<'a> {
        Packet::Incomplete { total_bytes: HEADER_SIZE + body_bytes }
    }
}

/// A `set`, `add` or `replace` that names a CAS is memcached's `cas`, whichever it is; the others keep their mode.
fn store(mode: StoreMode, parts: &Parts<'_>, compare: Option<u64>, limits: &Limits) -> Command {
    let concatenates = matches!(mode, StoreMode::Append | StoreMode::Prepend);
    let (client_flags, sent_exptime) =
        if concatenates { (0, 0) } else { (u32_at(parts.extras, 0), u32_at(parts.extras, 4)) };
    let fits = u32::try_from(parts.value_size)
        .is_ok_and(|value_size| limits.allow(parts.key.len(), client_flags, value_size));
    if !fits {
        return Command::StoreTooLarge { removes: mode == StoreMode::Set };
    }
    let mode = if compare.is_some() && !concatenates { StoreMode::Set } else { mode };
    Command::Store { mode, client_flags, exptime: exptime(sent_exptime), compare }
}

fn arithmetic(decrement: bool, extras: &[u8], compare: Option<u64>) -> Command {
    let sent_exptime = u32_at(extras, 16);
    let vivify = Vivify { initial: u64_at(extras, 8), exptime: exptime(sent_exptime) };
    let vivify = (sent_exptime != DO_NOT_CREATE).then_some(vivify);
    Command::Arithmetic { decrement, delta: u64_at(extras, 0), compare, vivify }
}

/// The first three by their beginning, the others whole, as memcached compares them.
fn stats_topic(key: &[u8]) -> Result<StatsTopic, ErrorReply> {
    match key {
        b"" => Ok(StatsTopic::General),
        b"items" => Ok(StatsTopic::Items),
        b"slabs" => Ok(StatsTopic::Slabs),
        b"sizes" => Ok(StatsTopic::Sizes),
        b"sizes_enable" => Ok(StatsTopic::CountSizes(true)),
        b"sizes_disable" => Ok(StatsTopic::CountSizes(false)),
        b"hotkeys" => Ok(StatsTopic::HotKeys),
        b"scrub" => Ok(StatsTopic::Scrub),
        _ if key.starts_with(b"reset") => Ok(StatsTopic::Reset),
        _ if key.starts_with(b"settings") => Ok(StatsTopic::Settings),
        _ if key.starts_with(b"detail dump") => Ok(StatsTopic::Detail(StatsDetail::Dump)),
        _ if key.starts_with(b"detail on") => Ok(StatsTopic::Detail(StatsDetail::On)),
        _ if key.starts_with(b"detail off") => Ok(StatsTopic::Detail(StatsDetail::Off)),
        _ => Err(ErrorReply::UnknownStats),
    }
}

/// Binary times have no sign: the largest is in 2106, and none is before now.
fn exptime(sent: u32) -> i64 {
    i64::from(sent)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at..].first_chunk().expect("the sizes were checked"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*bytes[at..].first_chunk().expect("the sizes were checked"))
}

#[cfg(test)]
mod tests;
