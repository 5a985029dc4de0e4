//! The protocols that can be spoken: which bytes a request is, and which values a reply holds. Where replies end is
//! `decode.rs`'s affair; nothing here remembers a connection.

use std::io::Write;

use clap::ValueEnum;
use slabring_protocol::client::{self, binary};

use crate::kind::Kind;

/// Operations of the binary protocol that [`binary`] has no function for.
///
/// Source: memcached `protocol_binary.h`.
mod opcode {
    pub(super) const ADD: u8 = 0x02;
    pub(super) const SET: u8 = 0x01;
    pub(super) const REPLACE: u8 = 0x03;
    pub(super) const INCREMENT: u8 = 0x05;
    pub(super) const DECREMENT: u8 = 0x06;
    pub(super) const APPEND: u8 = 0x0e;
    pub(super) const PREPEND: u8 = 0x0f;
    pub(super) const GAT: u8 = 0x1d;
}

/// Expiration time of a binary `incr` that makes nothing.
const DO_NOT_CREATE: u32 = u32::MAX;

/// Which one.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Protocol {
    /// memcached's classic text protocol
    Text,
    /// memcached's meta commands
    Meta,
    /// memcached's binary protocol
    Binary,
    /// Redis' RESP2: GET, MGET and SET, to compare with its servers
    Resp,
}

/// A request with one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Single<'a> {
    pub(crate) kind: Kind,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Seconds; 0 for ever.
    pub(crate) ttl: u32,
    /// Token of a [`Kind::Cas`].
    pub(crate) cas: u64,
}

impl Protocol {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Meta => "meta",
            Self::Binary => "binary",
            Self::Resp => "resp",
        }
    }

    /// Whether it has such requests.
    pub(crate) const fn speaks(self, kind: Kind) -> bool {
        !matches!(self, Self::Resp) || matches!(kind, Kind::Get | Kind::Set)
    }

    /// Appends a request with one key.
    #[inline]
    pub(crate) fn append(self, out: &mut Vec<u8>, single: &Single<'_>) {
        match self {
            Self::Text => append_text(out, single),
            Self::Meta => append_meta(out, single),
            Self::Binary => append_binary(out, single),
            Self::Resp => append_resp(out, single),
        }
    }

    /// Appends a get of several keys, which has one reply.
    pub(crate) fn append_get_many<'k>(
        self,
        out: &mut Vec<u8>,
        keys: impl ExactSizeIterator<Item = &'k [u8]>,
    ) {
        match self {
            Self::Text => client::get_many(out, keys),
            Self::Meta => {
                keys.for_each(|key| client::meta_get(out, key, b"v k q"));
                client::meta_noop(out);
            }
            Self::Binary => {
                keys.for_each(|key| binary::get_quietly(out, 0, key));
                binary::noop(out, 0);
            }
            Self::Resp => {
                resp_array(out, keys.len() + 1);
                resp_word(out, b"MGET");
                keys.for_each(|key| resp_word(out, key));
            }
        }
    }
}

fn append_text(out: &mut Vec<u8>, single: &Single<'_>) {
    let Single { kind, key, value, ttl, cas } = *single;
    match kind {
        // Not by `client`, which looks at every byte of a key: these are known to be good.
        Kind::Get => line(out, b"get ", key),
        Kind::Gets | Kind::Delete => words(out, &[kind.name().as_bytes(), key]),
        Kind::Incr => client::incr(out, key, 1),
        Kind::Touch => client::touch(out, key, ttl),
        Kind::Decr => words(out, &[b"decr", key, b"1"]),
        Kind::Gat => words(out, &[b"gat", number(&mut itoa::Buffer::new(), ttl.into()), key]),
        Kind::Set => {
            out.extend_from_slice(b"set ");
            out.extend_from_slice(key);
            out.extend_from_slice(b" 0 ");
            push_number(out, ttl.into());
            out.push(b' ');
            push_number(out, value.len() as u64);
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        Kind::Add | Kind::Replace | Kind::Append | Kind::Prepend | Kind::Cas => {
            let (mut ttl_digits, mut size_digits, mut cas_digits) = Default::default();
            let ttl = number(&mut ttl_digits, ttl.into());
            let size = number(&mut size_digits, value.len() as u64);
            let line = [kind.name().as_bytes(), key, b"0", ttl, size, number(&mut cas_digits, cas)];
            words(out, if kind == Kind::Cas { &line } else { &line[..5] });
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn append_meta(out: &mut Vec<u8>, single: &Single<'_>) {
    let Single { kind, key, value, ttl, cas } = *single;
    let mut flags = FlagLine { bytes: [0; 48], size: 0 };
    if ttl > 0 && (kind.stores() || matches!(kind, Kind::Gat | Kind::Touch)) {
        flags.add(b'T', ttl.into());
    }
    match kind {
        Kind::Get => client::meta_get(out, key, b"v"),
        Kind::Gets => client::meta_get(out, key, b"v c"),
        Kind::Gat => {
            flags.word(b"v");
            client::meta_get(out, key, flags.text());
        }
        Kind::Touch => client::meta_get(out, key, if ttl > 0 { flags.text() } else { b"T0" }),
        Kind::Delete => client::meta_delete(out, key, b""),
        Kind::Incr => words(out, &[b"ma", key]),
        Kind::Decr => words(out, &[b"ma", key, b"MD"]),
        Kind::Set | Kind::Add | Kind::Replace | Kind::Append | Kind::Prepend | Kind::Cas => {
            match kind {
                Kind::Add => flags.word(b"ME"),
                Kind::Replace => flags.word(b"MR"),
                Kind::Append => flags.word(b"MA"),
                Kind::Prepend => flags.word(b"MP"),
                Kind::Cas => flags.add(b'C', cas),
                _ => {}
            }
            client::meta_set(out, key, flags.text(), value);
        }
    }
}

fn append_binary(out: &mut Vec<u8>, single: &Single<'_>) {
    let Single { kind, key, value, ttl, cas } = *single;
    let store = |out: &mut Vec<u8>, opcode, extras| {
        binary::packet(out, &binary::Packet { opcode, opaque: 0, cas, extras, key, value });
    };
    let mut stored_extras = [0; 8];
    stored_extras[4..].copy_from_slice(&ttl.to_be_bytes());
    let mut count_extras = [0; 20];
    count_extras[7] = 1;
    count_extras[16..].copy_from_slice(&DO_NOT_CREATE.to_be_bytes());
    match kind {
        Kind::Get | Kind::Gets => binary::get(out, 0, key),
        Kind::Set => binary::set(out, 0, key, 0, ttl, value),
        Kind::Delete => binary::delete(out, 0, key),
        Kind::Touch => binary::touch(out, 0, key, ttl),
        Kind::Gat => store(out, opcode::GAT, &ttl.to_be_bytes()),
        Kind::Incr => store(out, opcode::INCREMENT, &count_extras),
        Kind::Decr => store(out, opcode::DECREMENT, &count_extras),
        Kind::Add => store(out, opcode::ADD, &stored_extras),
        Kind::Replace => store(out, opcode::REPLACE, &stored_extras),
        Kind::Append => store(out, opcode::APPEND, b""),
        Kind::Prepend => store(out, opcode::PREPEND, b""),
        Kind::Cas => store(out, opcode::SET, &stored_extras),
    }
}

fn append_resp(out: &mut Vec<u8>, single: &Single<'_>) {
    let Single { kind, key, value, ttl, .. } = *single;
    match kind {
        Kind::Get => {
            resp_array(out, 2);
            resp_word(out, b"GET");
            resp_word(out, key);
        }
        _ => {
            assert!(kind == Kind::Set, "the command line refuses other kinds");
            resp_array(out, if ttl > 0 { 5 } else { 3 });
            resp_word(out, b"SET");
            resp_word(out, key);
            resp_word(out, value);
            if ttl > 0 {
                resp_word(out, b"EX");
                resp_word(out, number(&mut itoa::Buffer::new(), ttl.into()));
            }
        }
    }
}

/// Meta flags in the making: a lifetime and a token at most.
struct FlagLine {
    bytes: [u8; 48],
    size: usize,
}

impl FlagLine {
    fn word(&mut self, word: &[u8]) {
        if self.size > 0 {
            self.push(b" ");
        }
        self.push(word);
    }

    fn add(&mut self, flag: u8, value: u64) {
        self.word(&[flag]);
        self.push(number(&mut itoa::Buffer::new(), value));
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.size..][..bytes.len()].copy_from_slice(bytes);
        self.size += bytes.len();
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

/// A verb with its space and a key: the most frequent request, without a loop over its words.
#[inline]
fn line(out: &mut Vec<u8>, verb: &[u8; 4], key: &[u8]) {
    out.extend_from_slice(verb);
    out.extend_from_slice(key);
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn push_number(out: &mut Vec<u8>, number: u64) {
    match u8::try_from(number) {
        Ok(digit @ ..10) => out.push(b'0' + digit),
        _ => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
    }
}

#[inline]
fn words(out: &mut Vec<u8>, words: &[&[u8]]) {
    for (at, word) in words.iter().enumerate() {
        if at > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
}

fn number(buffer: &mut itoa::Buffer, number: u64) -> &[u8] {
    buffer.format(number).as_bytes()
}

fn resp_array(out: &mut Vec<u8>, size: usize) {
    write!(out, "*{size}\r\n").expect("a vector takes everything");
}

fn resp_word(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b'$');
    out.extend_from_slice(number(&mut itoa::Buffer::new(), word.len() as u64));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(word);
    out.extend_from_slice(b"\r\n");
}

/// One value of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found<'a> {
    /// Where the protocol says it; the others answer in the order of the keys.
    pub(crate) key: Option<&'a [u8]>,
    /// Which key of the request it belongs to, where the reply does not say.
    pub(crate) at: usize,
    pub(crate) value: &'a [u8],
    /// 0 where it was not asked for.
    pub(crate) cas: u64,
}

impl Protocol {
    /// Shows the values in `reply`, which the decoder has found complete. Says whether all of it was understood.
    pub(crate) fn each_value(self, reply: &[u8], mut each: impl FnMut(Found<'_>)) -> bool {
        let mut rest = reply;
        let mut at = 0;
        while !rest.is_empty() {
            let block = match self {
                Self::Text => text_block(rest),
                Self::Meta => meta_block(rest),
                Self::Binary => binary_block(rest),
                Self::Resp => resp_block(rest),
            };
            let Some((found, consumed)) = block else { return false };
            rest = &rest[consumed..];
            match found {
                Block::Value(found) => {
                    each(Found { at, ..found });
                    at += 1;
                }
                Block::Missing => at += 1,
                Block::Other => {}
            }
        }
        true
    }
}

enum Block<'a> {
    Value(Found<'a>),
    /// A key without a value.
    Missing,
    /// A line that shows nothing.
    Other,
}

/// The line that `reply` begins with, and its size with the line end.
fn line_of(reply: &[u8]) -> Option<(&[u8], usize)> {
    let lf = memchr::memchr(b'\n', reply)?;
    Some((reply[..lf].trim_ascii_end(), lf + 1))
}

fn digits(word: &[u8]) -> Option<u64> {
    str::from_utf8(word).ok()?.parse().ok()
}

fn value_behind(reply: &[u8], line_size: usize, size: u64) -> Option<(&[u8], usize)> {
    let end = line_size.checked_add(usize::try_from(size).ok()?)?;
    let value = reply.get(line_size..end)?;
    (reply.get(end..end + 2)? == b"\r\n").then_some((value, end + 2))
}

fn text_block(reply: &[u8]) -> Option<(Block<'_>, usize)> {
    let (line, line_size) = line_of(reply)?;
    let mut words = line.split(|&byte| byte == b' ');
    if words.next() != Some(b"VALUE") {
        return Some((Block::Other, line_size));
    }
    let key = words.next()?;
    let size = digits(words.nth(1)?)?;
    let cas = words.next().map_or(Some(0), digits)?;
    let (value, consumed) = value_behind(reply, line_size, size)?;
    Some((Block::Value(Found { key: Some(key), at: 0, value, cas }), consumed))
}

fn meta_block(reply: &[u8]) -> Option<(Block<'_>, usize)> {
    let (line, line_size) = line_of(reply)?;
    let mut words = line.split(|&byte| byte == b' ');
    if words.next() != Some(b"VA") {
        return Some((Block::Other, line_size));
    }
    let (value, consumed) = value_behind(reply, line_size, digits(words.next()?)?)?;
    let mut found = Found { key: None, at: 0, value, cas: 0 };
    for word in words {
        match word.split_first() {
            Some((b'k', key)) => found.key = Some(key),
            Some((b'c', cas)) => found.cas = digits(cas)?,
            _ => {}
        }
    }
    Some((Block::Value(found), consumed))
}

fn binary_block(reply: &[u8]) -> Option<(Block<'_>, usize)> {
    let binary::BinaryStep::Reply { reply, consumed } = binary::parse_reply(reply) else { return None };
    let key = (!reply.key.is_empty()).then_some(reply.key);
    // Only values have the client flags in front of them.
    let block = match (reply.status, reply.extras.len()) {
        (0, 4) => Block::Value(Found { key, at: 0, value: reply.value, cas: reply.cas }),
        _ => Block::Other,
    };
    Some((block, consumed))
}

fn resp_block(reply: &[u8]) -> Option<(Block<'_>, usize)> {
    let (line, line_size) = line_of(reply)?;
    match line.split_first()? {
        (b'$', b"-1") => Some((Block::Missing, line_size)),
        (b'$', size) => {
            let (value, consumed) = value_behind(reply, line_size, digits(size)?)?;
            Some((Block::Value(Found { key: None, at: 0, value, cas: 0 }), consumed))
        }
        _ => Some((Block::Other, line_size)),
    }
}

#[cfg(test)]
mod tests;
