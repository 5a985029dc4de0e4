//! Every text a server sends, appended to the caller's buffer. No other crate spells a reply.
//!
//! It decides nothing: what happened comes in as arguments. It allocates only if the buffer must grow.

mod binary;
mod dialect;
mod dump;
mod meta;
mod own;
mod watch;

pub use dialect::{
    Hit, Outcome, hit_end, hit_header, hit_shows_cas, miss, noop, outcome, quit, sasl_mechanisms, stats,
    version_of,
};
pub use dump::{
    DumpItem, cachedump_item, certificates_error, cluster_config, metadump_end, metadump_item, mgdump_end,
    mgdump_item, moved, ring_config, stats_prefix,
};
pub use meta::{
    MetaItem, MetaStatus, MetaWin, meta_arithmetic, meta_debug, meta_get, meta_noop, meta_status,
};
pub use own::{HotKeyCounts, LockSaid, all_invalidated, hot_key, invalidated, lock, track_ping, tracking};
pub use watch::{
    CloseReason, FetchStatus, LogItem, StoreStatus, StoreVerb, Transport, WatchEvent, watch_event,
    watch_skipped,
};

use crate::errors::DialectError;
use crate::limits::KEY_SIZE_MAX;
use crate::number;
use crate::request::Dialect;
use std::fmt;
use std::io::Write as _;

/// Ends a reply line, and a value.
pub const CRLF: &[u8] = b"\r\n";
const OK: &[u8] = b"OK\r\n";

/// Bytes of a `VALUE` line beyond its key, at most: the word, three numbers, the spaces, CRLF.
const VALUE_LINE_SIZE_MAX: usize =
    "VALUE ".len() + " 4294967295".len() * 2 + " 18446744073709551615".len() + 2;

/// Something a `STAT` line can show: text, whole numbers, and floats with six decimals as `getrusage` has them.
///
/// For another form give a `format_args!`. Statistics are rare, so this may format.
pub trait StatText {
    /// Appends itself.
    fn append_to(self, out: &mut Vec<u8>);
}

/// A refusal, as a line unless it says otherwise.
#[inline]
pub fn error(out: &mut Vec<u8>, error: impl Into<DialectError>) {
    let DialectError { error, dialect } = error.into();
    match dialect {
        Dialect::Text => out.extend_from_slice(error.text()),
        Dialect::Binary(head) => binary::error(out, head, error),
    }
}

/// The first line of a `VALUE` block; the caller appends the value and [`CRLF`]. `cas` is shown if it is given.
#[inline]
pub fn value_header(out: &mut Vec<u8>, key: &[u8], client_flags: u32, value_len: u32, cas: Option<u64>) {
    assert!(key.len() <= KEY_SIZE_MAX);
    out.reserve(VALUE_LINE_SIZE_MAX + key.len());
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    append_flags_and_length(out, client_flags, value_len);
    if let Some(cas) = cas {
        out.push(b' ');
        number::append(out, cas);
    }
    out.extend_from_slice(CRLF);
}

/// The end of the answer to a line of keys.
pub const END: &[u8] = b"END\r\n";

/// All that answers a `get` of one key that is there.
#[inline]
pub fn value_and_end(out: &mut Vec<u8>, key: &[u8], client_flags: u32, value: &[u8]) {
    const VALUE_END: &[u8] = b"\r\nEND\r\n";
    let value_len = u32::try_from(value.len()).expect("a value is at most 1 GiB");
    out.reserve(VALUE_LINE_SIZE_MAX + key.len() + value.len() + VALUE_END.len());
    value_header(out, key, client_flags, value_len, None);
    out.extend_from_slice(value);
    out.extend_from_slice(VALUE_END);
}

/// After the last `VALUE` block or `STAT` line.
#[inline]
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(END);
}

/// The value is there.
#[inline]
pub fn stored(out: &mut Vec<u8>) {
    out.extend_from_slice(b"STORED\r\n");
}

/// `add` found something, or `replace`, `append`, `prepend` found nothing.
pub fn not_stored(out: &mut Vec<u8>) {
    out.extend_from_slice(b"NOT_STORED\r\n");
}

/// `cas` found another CAS.
pub fn exists(out: &mut Vec<u8>) {
    out.extend_from_slice(b"EXISTS\r\n");
}

/// There is no such item.
pub fn not_found(out: &mut Vec<u8>) {
    out.extend_from_slice(b"NOT_FOUND\r\n");
}

/// The item is gone.
pub fn deleted(out: &mut Vec<u8>) {
    out.extend_from_slice(b"DELETED\r\n");
}

/// The item has its new expiration time.
pub fn touched(out: &mut Vec<u8>) {
    out.extend_from_slice(b"TOUCHED\r\n");
}

/// Done.
pub fn ok(out: &mut Vec<u8>) {
    out.extend_from_slice(OK);
}

/// Whether a reply is that of [`ok`].
pub fn is_ok(reply: &[u8]) -> bool {
    reply == OK
}

/// Whether a reply in text says that the server could not do what was asked.
pub fn is_server_error(reply: &[u8]) -> bool {
    reply.starts_with(b"SERVER_ERROR ")
}

/// The counters are zero.
pub fn reset(out: &mut Vec<u8>) {
    out.extend_from_slice(b"RESET\r\n");
}

/// The new value of a counter.
pub fn number(out: &mut Vec<u8>, number: u64) {
    number::append(out, number);
    out.extend_from_slice(CRLF);
}

/// Answers `version`. The text is one line's rest.
pub fn version(out: &mut Vec<u8>, version: &str) {
    assert!(!version.contains(['\r', '\n']));
    out.extend_from_slice(b"VERSION ");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(CRLF);
}

/// One statistic. An empty value is shown as `NULL`: tools split the line at its spaces and want three parts.
pub fn stat(out: &mut Vec<u8>, name: impl StatText, value: impl StatText) {
    out.extend_from_slice(b"STAT ");
    name.append_to(out);
    out.push(b' ');
    let value_at = out.len();
    value.append_to(out);
    if out.len() == value_at {
        out.extend_from_slice(b"NULL");
    }
    out.extend_from_slice(CRLF);
}

impl StatText for &str {
    fn append_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl StatText for u64 {
    fn append_to(self, out: &mut Vec<u8>) {
        number::append(out, self);
    }
}

impl StatText for u32 {
    fn append_to(self, out: &mut Vec<u8>) {
        number::append(out, self);
    }
}

impl StatText for f64 {
    fn append_to(self, out: &mut Vec<u8>) {
        format_args!("{self:.6}").append_to(out);
    }
}

impl StatText for fmt::Arguments<'_> {
    fn append_to(self, out: &mut Vec<u8>) {
        out.write_fmt(self).expect("a vector takes every byte");
    }
}

/// Appends ` FLAGS LENGTH`: in one piece what nearly all values have, no flags and few digits.
#[inline]
fn append_flags_and_length(out: &mut Vec<u8>, client_flags: u32, value_len: u32) {
    let digit = number::last_digit;
    match (client_flags, u16::try_from(value_len)) {
        (0, Ok(len @ 0..10)) => out.extend_from_slice(&[b' ', b'0', b' ', digit(len)]),
        (0, Ok(len @ 10..100)) => out.extend_from_slice(&[b' ', b'0', b' ', digit(len / 10), digit(len)]),
        (0, Ok(len @ 100..1000)) => {
            out.extend_from_slice(&[b' ', b'0', b' ', digit(len / 100), digit(len / 10), digit(len)]);
        }
        _ => {
            out.push(b' ');
            number::append(out, client_flags);
            out.push(b' ');
            number::append(out, value_len);
        }
    }
}

/// Appends a key so that it is one word: all but letters, digits and `-._~` as `%` and two digits.
fn append_uri(out: &mut Vec<u8>, key: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

/// Appends ` name=number`, the form of dumps and logs; `name` brings the space and the sign.
fn append_field(out: &mut Vec<u8>, name: &str, number: impl Into<u64>) {
    out.extend_from_slice(name.as_bytes());
    number::append(out, number);
}

/// Appends a time, or -1 for never.
fn append_or_never(out: &mut Vec<u8>, number: Option<impl Into<u64>>) {
    match number {
        Some(number) => number::append(out, number),
        None => out.extend_from_slice(b"-1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::ErrorReply;

    #[track_caller]
    fn check(append: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut out = b"before\r\n".to_vec();
        append(&mut out);
        assert_eq!(str::from_utf8(&out).unwrap(), format!("before\r\n{expected}"));
    }

    #[test]
    fn a_value_line_shows_flags_and_length_whatever_they_are() {
        for client_flags in [0, 1, 10, u32::MAX] {
            for value_len in (0..1100).chain([9_999, 65_535, 65_536, u32::MAX]) {
                let expected = format!("VALUE k {client_flags} {value_len}\r\n");
                check(|out| value_header(out, b"k", client_flags, value_len, None), &expected);
            }
        }
    }

    #[test]
    fn a_value_line_shows_its_cas_only_when_asked() {
        check(|out| value_header(out, b"k", 0, 5, None), "VALUE k 0 5\r\n");
        check(
            |out| value_header(out, b"key", u32::MAX, u32::MAX, Some(u64::MAX)),
            "VALUE key 4294967295 4294967295 18446744073709551615\r\n",
        );
    }

    #[test]
    fn a_get_of_one_key_is_answered_as_by_its_parts() {
        check(|out| value_and_end(out, b"k", 0, b"value"), "VALUE k 0 5\r\nvalue\r\nEND\r\n");
        check(|out| value_and_end(out, b"k", 7, b""), "VALUE k 7 0\r\n\r\nEND\r\n");
    }

    #[test]
    fn a_value_line_never_grows_a_buffer_that_has_its_longest_size() {
        let key = [b'k'; KEY_SIZE_MAX];
        let mut out = Vec::with_capacity(VALUE_LINE_SIZE_MAX + KEY_SIZE_MAX);
        let capacity = out.capacity();
        value_header(&mut out, &key, u32::MAX, u32::MAX, Some(u64::MAX));
        assert_eq!((out.len(), out.capacity()), (VALUE_LINE_SIZE_MAX + KEY_SIZE_MAX, capacity));
    }

    #[test]
    fn fixed_replies_are_memcacheds() {
        check(end, "END\r\n");
        check(stored, "STORED\r\n");
        check(not_stored, "NOT_STORED\r\n");
        check(exists, "EXISTS\r\n");
        check(not_found, "NOT_FOUND\r\n");
        check(deleted, "DELETED\r\n");
        check(touched, "TOUCHED\r\n");
        check(ok, "OK\r\n");
        check(reset, "RESET\r\n");
        check(meta_noop, "MN\r\n");
        check(|out| number(out, u64::MAX), "18446744073709551615\r\n");
        check(|out| version(out, "1.6.45"), "VERSION 1.6.45\r\n");
        check(|out| error(out, ErrorReply::TooManyConnections), "ERROR Too many open connections\r\n");
    }

    #[test]
    fn statistics_show_every_kind_of_value_and_never_an_empty_one() {
        check(|out| stat(out, "pid", 7_u32), "STAT pid 7\r\n");
        check(|out| stat(out, "bytes", u64::MAX), "STAT bytes 18446744073709551615\r\n");
        check(|out| stat(out, "rusage_user", 1.5), "STAT rusage_user 1.500000\r\n");
        check(|out| stat(out, "growth_factor", format_args!("{:.2}", 1.25)), "STAT growth_factor 1.25\r\n");
        check(|out| stat(out, format_args!("items:{}:number", 3), 4_u64), "STAT items:3:number 4\r\n");
        check(|out| stat(out, "inter", ""), "STAT inter NULL\r\n");
    }
}
