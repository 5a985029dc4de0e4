//! Answers to requests of any dialect: what happened goes in, and the request says how it is written.
//!
//! They keep silent where the request asked for silence: `noreply`, and the quiet opcodes. The meta commands have their
//! own, which show what their flags ask for.

use super::{CRLF, binary};
use crate::errors::{DialectError, ErrorReply};
use crate::request::{Command, Dialect, Request, StatsDetail, StatsTopic};

/// How a request ended that shows no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The value is there, and its item has this CAS.
    Stored {
        /// The new CAS.
        cas: u64,
    },
    /// `add` found something, or `replace`, `append`, `prepend` found nothing.
    NotStored,
    /// There is another CAS than the one asked for.
    Exists,
    /// There is no such item.
    NotFound,
    /// The item is gone.
    Deleted,
    /// The item has its new expiration time.
    Touched {
        /// Its client flags.
        client_flags: u32,
        /// Its CAS, which is still the same.
        cas: u64,
    },
    /// The new value of a counter.
    Number {
        /// The value.
        value: u64,
        /// The new CAS.
        cas: u64,
    },
    /// A command about the server is done: `OK`.
    Done,
    /// Nothing was done.
    Refused(ErrorReply),
}

/// What the answer to a get shows of an item beside its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Client flags.
    pub client_flags: u32,
    /// Size of the value, in bytes.
    pub value_len: u32,
    /// CAS. Lines show it if the command asks for it, packets always: [`hit_shows_cas`].
    pub cas: u64,
}

/// How `request` ended.
#[inline]
pub fn outcome(out: &mut Vec<u8>, request: &Request<'_>, outcome: Outcome) {
    match request.dialect {
        Dialect::Binary(head) => binary::outcome(out, head, &request.command, outcome),
        Dialect::Text if request.noreply => {}
        Dialect::Text => text_outcome(out, outcome),
    }
}

/// The answer to a `get` or `gat` of a key that is there: the caller appends the value, then [`hit_end`].
#[inline]
pub fn hit_header(out: &mut Vec<u8>, request: &Request<'_>, hit: &Hit) {
    match request.dialect {
        Dialect::Binary(head) => binary::hit_header(out, head, request.key, hit),
        Dialect::Text => {
            let cas = hit_shows_cas(request).then_some(hit.cas);
            super::value_header(out, request.key, hit.client_flags, hit.value_len, cas);
        }
    }
}

/// Whether the answer to a `get` or `gat` shows the CAS, so that it has to be looked up. O(1).
#[inline]
pub fn hit_shows_cas(request: &Request<'_>) -> bool {
    matches!(request.dialect, Dialect::Binary(_))
        || matches!(
            request.command,
            Command::Get { with_cas: true } | Command::GetAndTouch { with_cas: true, .. }
        )
}

/// Behind the value that [`hit_header`] announced.
#[inline]
pub fn hit_end(out: &mut Vec<u8>, request: &Request<'_>) {
    if request.dialect == Dialect::Text {
        out.extend_from_slice(CRLF);
    }
}

/// The answer to a `get` or `gat` of a key that is not there: nothing, but for a packet that is not quiet.
#[inline]
pub fn miss(out: &mut Vec<u8>, request: &Request<'_>) {
    if let Dialect::Binary(head) = request.dialect {
        binary::miss(out, head, request.key);
    }
}

/// Answers `mn` and the binary noop.
pub fn noop(out: &mut Vec<u8>, request: &Request<'_>) {
    match request.dialect {
        Dialect::Binary(head) => binary::empty(out, head, 0),
        Dialect::Text => super::meta_noop(out),
    }
}

/// Answers `quit`: a loud packet is told that it was heard, anybody else sees the connection close.
pub fn quit(out: &mut Vec<u8>, request: &Request<'_>) {
    if let Dialect::Binary(head) = request.dialect
        && !head.quiet()
    {
        binary::empty(out, head, 0);
    }
}

/// Answers `version`. The text is one line's rest.
pub fn version_of(out: &mut Vec<u8>, request: &Request<'_>, version: &str) {
    match request.dialect {
        Dialect::Binary(head) => binary::body(out, head, version.as_bytes()),
        Dialect::Text => super::version(out, version),
    }
}

/// Answers a [`Command::SaslMechanisms`]: names with spaces between them.
///
/// The steps of authentication itself end as [`Outcome::Done`], or are refused.
pub fn sasl_mechanisms(out: &mut Vec<u8>, request: &Request<'_>, mechanisms: &str) {
    match request.dialect {
        Dialect::Binary(head) => binary::body(out, head, mechanisms.as_bytes()),
        Dialect::Text => unreachable!("only packets ask for mechanisms"),
    }
}

/// Answers `stats` of any topic: `text` is the whole answer as lines, which a packet's client gets one by one.
///
/// Cost: O(length). Statistics are rare, so that they are made as lines for either.
pub fn stats(out: &mut Vec<u8>, request: &Request<'_>, text: &[u8]) {
    let head = match request.dialect {
        Dialect::Text => return out.extend_from_slice(text),
        Dialect::Binary(head) => head,
    };
    if request.command == Command::Stats(StatsTopic::Detail(StatsDetail::Dump)) {
        binary::stat(out, head, b"detailed", text);
    } else {
        stat_lines(text).for_each(|(name, value)| binary::stat(out, head, name, value));
    }
    binary::stat(out, head, b"", b"");
}

/// Name and value of every `STAT` line.
fn stat_lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let line = line.strip_prefix(b"STAT ")?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let space = line.iter().position(|&byte| byte == b' ')?;
        Some((&line[..space], &line[space + 1..]))
    })
}

fn text_outcome(out: &mut Vec<u8>, outcome: Outcome) {
    match outcome {
        Outcome::Stored { .. } => super::stored(out),
        Outcome::NotStored => super::not_stored(out),
        Outcome::Exists => super::exists(out),
        Outcome::NotFound => super::not_found(out),
        Outcome::Deleted => super::deleted(out),
        Outcome::Touched { .. } => super::touched(out),
        Outcome::Number { value, .. } => super::number(out, value),
        Outcome::Done => super::ok(out),
        Outcome::Refused(error) => super::error(out, DialectError::from(error)),
    }
}

#[cfg(test)]
mod tests;
