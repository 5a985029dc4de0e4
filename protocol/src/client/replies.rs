//! Where one reply of a stream ends. It skips values without looking at them, so no value is ever buffered whole.

use crate::limits::LINE_SIZE_MAX;
use crate::number::{parse_u32, parse_u64};
use crate::tokens::Tokens;
use memchr::memchr;

/// One connection's position among its replies.
///
/// Contract: each call's input starts with the bytes the call before was given and did not consume.
#[derive(Clone, Debug, Default)]
pub struct ReplyParser {
    mode: Mode,
    /// Of the reply being read.
    hits: u32,
    value_bytes: u64,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyStep {
    /// Drop `consumed` bytes, which may be all of them, and come again with more behind the rest.
    Incomplete {
        /// Bytes to drop.
        consumed: usize,
    },
    /// One reply is complete. Drop `consumed` bytes.
    Reply {
        /// The reply.
        reply: Reply,
        /// Bytes to drop, at least 1.
        consumed: usize,
    },
    /// No server says that. Close: where the next reply starts is unknown.
    Malformed,
}

/// One reply: for a multi-get, all its values and the `END`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What was said.
    pub kind: ReplyKind,
    /// Values in it.
    pub hits: u32,
    /// Sizes of all values in it together, in bytes.
    pub value_bytes: u64,
}

/// What a server can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// `END`, and before it a `VALUE` block for each hit; also the end of statistics, dumps and a configuration.
    Values,
    /// `STORED`
    Stored,
    /// `NOT_STORED`
    NotStored,
    /// `EXISTS`
    Exists,
    /// `NOT_FOUND`
    NotFound,
    /// `DELETED`
    Deleted,
    /// `TOUCHED`
    Touched,
    /// `OK`
    Ok,
    /// `RESET`
    Reset,
    /// `VERSION`
    Version,
    /// A number, from `incr` and `decr`.
    Number(u64),
    /// `VA`
    MetaValue,
    /// `HD`
    MetaDone,
    /// `EN`
    MetaMiss,
    /// `NF`
    MetaNotFound,
    /// `NS`
    MetaNotStored,
    /// `EX`
    MetaExists,
    /// `MN`
    MetaNoop,
    /// `ME`
    MetaDebug,
    /// `ERROR`
    Error,
    /// `CLIENT_ERROR`
    ClientError,
    /// `SERVER_ERROR`, and `BUSY` of a dump that has to wait for another
    ServerError,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// At the start of a line, of which the first `scanned` bytes hold no LF.
    Line { scanned: usize },
    /// In a value of which `rest` bytes are left, its CRLF not counted.
    Value { rest: u32, last: bool },
    /// Behind a value. `last` ends the reply.
    ValueEnd { last: bool },
}

/// What one line says about the reply it is in.
enum Line {
    /// A value of this size follows; `last` ends the reply.
    Value { size: u32, last: bool },
    /// A line of a longer reply that shows nothing.
    Skipped,
    /// The reply ends here.
    End(ReplyKind),
}

impl Default for Mode {
    fn default() -> Self {
        Self::Line { scanned: 0 }
    }
}

impl ReplyParser {
    /// The next step of a stream that goes on with `input`.
    ///
    /// Cost: O(lines consumed); values are skipped. Panics if the input is shorter than the contract allows.
    pub fn next(&mut self, input: &[u8]) -> ReplyStep {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            match self.advance(rest) {
                Advance::Consumed(size) => consumed += size,
                Advance::Starved => return ReplyStep::Incomplete { consumed },
                Advance::Ended(kind, size) => {
                    return ReplyStep::Reply { reply: self.take(kind), consumed: consumed + size };
                }
                Advance::Malformed => return ReplyStep::Malformed,
            }
        }
    }

    fn advance(&mut self, input: &[u8]) -> Advance {
        match self.mode {
            Mode::Line { scanned } => self.advance_line(input, scanned),
            Mode::Value { rest, last } => self.advance_value(input, rest, last),
            Mode::ValueEnd { last } => self.advance_value_end(input, last),
        }
    }

    fn advance_line(&mut self, input: &[u8], scanned: usize) -> Advance {
        assert!(scanned <= input.len(), "bytes were dropped that no step consumed");
        let Some(lf) = memchr(b'\n', &input[scanned..]) else {
            self.mode = Mode::Line { scanned: input.len() };
            return if input.len() > LINE_SIZE_MAX { Advance::Malformed } else { Advance::Starved };
        };
        let text = &input[..scanned + lf];
        let size = text.len() + 1;
        self.mode = Mode::default();
        match parse_line(text.strip_suffix(b"\r").unwrap_or(text)) {
            None => Advance::Malformed,
            Some(Line::Skipped) => Advance::Consumed(size),
            Some(Line::End(kind)) => Advance::Ended(kind, size),
            Some(Line::Value { size: value_size, last }) => {
                self.hits = self.hits.saturating_add(1);
                self.value_bytes = self.value_bytes.saturating_add(u64::from(value_size));
                self.mode = Mode::Value { rest: value_size, last };
                Advance::Consumed(size)
            }
        }
    }

    fn advance_value(&mut self, input: &[u8], rest: u32, last: bool) -> Advance {
        let here = u32::try_from(input.len()).unwrap_or(u32::MAX).min(rest);
        let rest = rest - here;
        self.mode = if rest == 0 { Mode::ValueEnd { last } } else { Mode::Value { rest, last } };
        match usize::try_from(here) {
            Ok(0) if rest > 0 => Advance::Starved,
            Ok(here) => Advance::Consumed(here),
            Err(_) => unreachable!("it is no longer than the input"),
        }
    }

    fn advance_value_end(&mut self, input: &[u8], last: bool) -> Advance {
        match input {
            [b'\r', b'\n', ..] => {
                self.mode = Mode::default();
                if last { Advance::Ended(ReplyKind::MetaValue, 2) } else { Advance::Consumed(2) }
            }
            [] | [b'\r'] => Advance::Starved,
            _ => Advance::Malformed,
        }
    }

    fn take(&mut self, kind: ReplyKind) -> Reply {
        let reply = Reply { kind, hits: self.hits, value_bytes: self.value_bytes };
        (self.hits, self.value_bytes) = (0, 0);
        reply
    }
}

/// What one line, or one part of a value, came to.
enum Advance {
    Consumed(usize),
    Starved,
    Ended(ReplyKind, usize),
    Malformed,
}

fn parse_line(text: &[u8]) -> Option<Line> {
    let mut tokens = Tokens::new(text);
    let kind = match tokens.next()? {
        b"VALUE" | b"CONFIG" => return value(tokens.nth(2), false),
        b"VA" => return value(tokens.next(), true),
        b"STAT" | b"ITEM" | b"PREFIX" => return Some(Line::Skipped),
        line if line.starts_with(b"key=") => return Some(Line::Skipped),
        b"END" => ReplyKind::Values,
        b"STORED" => ReplyKind::Stored,
        b"NOT_STORED" => ReplyKind::NotStored,
        b"EXISTS" => ReplyKind::Exists,
        b"NOT_FOUND" => ReplyKind::NotFound,
        b"DELETED" => ReplyKind::Deleted,
        b"TOUCHED" => ReplyKind::Touched,
        b"OK" => ReplyKind::Ok,
        b"RESET" => ReplyKind::Reset,
        b"VERSION" => ReplyKind::Version,
        b"HD" => ReplyKind::MetaDone,
        b"EN" => ReplyKind::MetaMiss,
        b"NF" => ReplyKind::MetaNotFound,
        b"NS" => ReplyKind::MetaNotStored,
        b"EX" => ReplyKind::MetaExists,
        b"MN" => ReplyKind::MetaNoop,
        b"ME" => ReplyKind::MetaDebug,
        b"ERROR" => ReplyKind::Error,
        b"CLIENT_ERROR" => ReplyKind::ClientError,
        b"SERVER_ERROR" | b"SERVER_ERROR:" | b"BUSY" => ReplyKind::ServerError,
        number => ReplyKind::Number(parse_u64(number)?),
    };
    Some(Line::End(kind))
}

fn value(size: Option<&[u8]>, last: bool) -> Option<Line> {
    Some(Line::Value { size: parse_u32(size?)?, last })
}
