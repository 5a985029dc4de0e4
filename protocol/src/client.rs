//! The other end: requests to bytes, and where each reply of a stream ends. For load generators and tests.
//!
//! It checks nothing a server would refuse but what would break the stream, and holds no values.

pub mod binary;
mod replies;

pub use replies::{Reply, ReplyKind, ReplyParser, ReplyStep};

use crate::limits::KEY_SIZE_MAX;
use crate::number;
use crate::reply::CRLF;

/// Appends `get key`. Its reply is [`ReplyKind::Values`].
pub fn get(out: &mut Vec<u8>, key: &[u8]) {
    get_many(out, [key]);
}

/// Appends `get` of all the keys, at least one. They have one reply, [`ReplyKind::Values`].
pub fn get_many<'k>(out: &mut Vec<u8>, keys: impl IntoIterator<Item = &'k [u8]>) {
    out.extend_from_slice(b"get");
    let size_before = out.len();
    for key in keys {
        append_key(out, key);
    }
    assert!(out.len() > size_before, "a get without keys has no reply but an error");
    out.extend_from_slice(CRLF);
}

/// Appends `get key`, or `gets key`.
pub fn get_one(out: &mut Vec<u8>, key: &[u8], with_cas: bool) {
    out.extend_from_slice(if with_cas { b"gets" } else { b"get" });
    append_key(out, key);
    out.extend_from_slice(CRLF);
}

/// Appends `gat exptime key`, or `gats`. `exptime` is as the protocol has it.
pub fn get_and_touch(out: &mut Vec<u8>, exptime: i64, key: &[u8], with_cas: bool) {
    out.extend_from_slice(if with_cas { b"gats " } else { b"gat " });
    if exptime < 0 {
        out.push(b'-');
    }
    number::append(out, exptime.unsigned_abs());
    append_key(out, key);
    out.extend_from_slice(CRLF);
}

/// Appends `set`. `exptime` is as the protocol has it: 0 never, to 30 days relative, then Unix time.
pub fn set(out: &mut Vec<u8>, key: &[u8], client_flags: u32, exptime: u32, value: &[u8]) {
    out.extend_from_slice(b"set");
    append_key(out, key);
    for number in [u64::from(client_flags), u64::from(exptime), value_size(value)] {
        out.push(b' ');
        number::append(out, number);
    }
    out.extend_from_slice(CRLF);
    out.extend_from_slice(value);
    out.extend_from_slice(CRLF);
}

/// Appends `delete`.
pub fn delete(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"delete");
    append_key(out, key);
    out.extend_from_slice(CRLF);
}

/// Appends `incr`. Its reply is [`ReplyKind::Number`].
pub fn incr(out: &mut Vec<u8>, key: &[u8], delta: u64) {
    out.extend_from_slice(b"incr");
    append_key(out, key);
    out.push(b' ');
    number::append(out, delta);
    out.extend_from_slice(CRLF);
}

/// Appends `touch`.
pub fn touch(out: &mut Vec<u8>, key: &[u8], exptime: u32) {
    out.extend_from_slice(b"touch");
    append_key(out, key);
    out.push(b' ');
    number::append(out, exptime);
    out.extend_from_slice(CRLF);
}

/// Appends `mg` with `flags` as the protocol spells them, `v k O7`. A quiet miss has no reply: fence with [`meta_noop`].
pub fn meta_get(out: &mut Vec<u8>, key: &[u8], flags: &[u8]) {
    out.extend_from_slice(b"mg");
    append_key(out, key);
    append_flags(out, flags);
    out.extend_from_slice(CRLF);
}

/// Appends `ms` with `flags` as [`meta_get`]. A quiet success has no reply.
pub fn meta_set(out: &mut Vec<u8>, key: &[u8], flags: &[u8], value: &[u8]) {
    out.extend_from_slice(b"ms");
    append_key(out, key);
    out.push(b' ');
    number::append(out, value_size(value));
    append_flags(out, flags);
    out.extend_from_slice(CRLF);
    out.extend_from_slice(value);
    out.extend_from_slice(CRLF);
}

/// Appends `md` with `flags` as [`meta_get`]. A quiet success has no reply.
pub fn meta_delete(out: &mut Vec<u8>, key: &[u8], flags: &[u8]) {
    out.extend_from_slice(b"md");
    append_key(out, key);
    append_flags(out, flags);
    out.extend_from_slice(CRLF);
}

/// Appends `mn`, whose reply comes behind those of everything before it.
pub fn meta_noop(out: &mut Vec<u8>) {
    out.extend_from_slice(b"mn\r\n");
}

/// Appends `version`.
pub fn version(out: &mut Vec<u8>) {
    out.extend_from_slice(b"version\r\n");
}

/// Appends `flush_all`.
pub fn flush_all(out: &mut Vec<u8>) {
    out.extend_from_slice(b"flush_all\r\n");
}

/// Appends `stats`. Its reply is [`ReplyKind::Values`] without hits.
pub fn stats(out: &mut Vec<u8>) {
    out.extend_from_slice(b"stats\r\n");
}

fn append_key(out: &mut Vec<u8>, key: &[u8]) {
    assert!(!key.is_empty() && key.len() <= KEY_SIZE_MAX, "a key has 1 to 250 bytes");
    assert!(
        !key.iter().any(|byte| matches!(byte, b' ' | b'\r' | b'\n')),
        "a key has no space and no line end"
    );
    out.push(b' ');
    out.extend_from_slice(key);
}

fn append_flags(out: &mut Vec<u8>, flags: &[u8]) {
    assert!(!flags.contains(&b'\n'), "flags have no line end");
    if !flags.is_empty() {
        out.push(b' ');
        out.extend_from_slice(flags);
    }
}

fn value_size(value: &[u8]) -> u64 {
    u64::try_from(value.len()).expect("usize has at most 64 bits")
}

#[cfg(test)]
mod tests;
