//! Where each reply of a stream ends, in any of the protocols. Values are skipped; nothing is kept but a position.

use memchr::memchr;
use slabring_protocol::client::{Reply, ReplyKind, ReplyParser, ReplyStep};

use crate::protocol::Protocol;

/// Longest line or error text that a server may say.
const TEXT_SIZE_MAX: usize = 2048;

/// Header of a binary reply. Source: memcached `protocol_binary.h`.
const HEADER_SIZE: usize = 24;
const REPLY_MAGIC: u8 = 0x81;

/// One connection's position among its replies.
///
/// Contract, as [`ReplyParser`]'s: each call's input starts with the bytes the call before was given and did not consume.
#[derive(Debug)]
pub(crate) struct Decoder {
    grammar: Grammar,
    /// Of the reply being read.
    hits: u32,
    value_bytes: u64,
    /// Bytes of a value, its line end included, that are still to be skipped.
    skip: usize,
}

#[derive(Debug)]
enum Grammar {
    Text(ReplyParser),
    Meta(ReplyParser),
    Binary,
    Resp {
        /// Elements of an array that are still to come.
        elements: u64,
    },
}

/// What one step over the input came to.
enum Advance {
    /// Go on behind so many bytes.
    Consumed(usize),
    /// The reply ends behind so many bytes.
    Ended(ReplyKind, usize),
    Starved,
    Malformed,
}

impl Decoder {
    pub(crate) fn new(protocol: Protocol) -> Self {
        let grammar = match protocol {
            Protocol::Text => Grammar::Text(ReplyParser::default()),
            Protocol::Meta => Grammar::Meta(ReplyParser::default()),
            Protocol::Binary => Grammar::Binary,
            Protocol::Resp => Grammar::Resp { elements: 0 },
        };
        Self { grammar, hits: 0, value_bytes: 0, skip: 0 }
    }

    /// The next step of a stream that goes on with `input`. `fenced`: the request asked for several keys, and meta values
    /// go on up to an `MN`. O(lines consumed).
    #[inline]
    pub(crate) fn next(&mut self, input: &[u8], fenced: bool) -> ReplyStep {
        if let Grammar::Text(parser) = &mut self.grammar {
            return parser.next(input);
        }
        self.next_of_others(input, fenced)
    }

    fn next_of_others(&mut self, input: &[u8], fenced: bool) -> ReplyStep {
        let mut consumed = 0;
        loop {
            match self.advance(&input[consumed..], fenced) {
                Advance::Consumed(size) => consumed += size,
                Advance::Starved => return ReplyStep::Incomplete { consumed },
                Advance::Malformed => return ReplyStep::Malformed,
                Advance::Ended(kind, size) => {
                    let reply = Reply { kind, hits: self.hits, value_bytes: self.value_bytes };
                    (self.hits, self.value_bytes) = (0, 0);
                    return ReplyStep::Reply { reply, consumed: consumed + size };
                }
            }
        }
    }

    fn advance(&mut self, input: &[u8], fenced: bool) -> Advance {
        if self.skip > 0 {
            return self.advance_value(input);
        }
        match &mut self.grammar {
            Grammar::Text(_) => unreachable!("its parser does it all"),
            Grammar::Meta(parser) => match parser.next(input) {
                ReplyStep::Incomplete { consumed: 0 } => Advance::Starved,
                ReplyStep::Incomplete { consumed } => Advance::Consumed(consumed),
                ReplyStep::Malformed => Advance::Malformed,
                ReplyStep::Reply { reply, consumed } => {
                    self.hits += reply.hits;
                    self.value_bytes += reply.value_bytes;
                    match (reply.kind, fenced) {
                        (ReplyKind::MetaValue, true) => Advance::Consumed(consumed),
                        (ReplyKind::MetaValue | ReplyKind::MetaMiss | ReplyKind::MetaNoop, _) => {
                            Advance::Ended(ReplyKind::Values, consumed)
                        }
                        (kind, _) => Advance::Ended(classic(kind), consumed),
                    }
                }
            },
            Grammar::Binary => self.advance_binary(input),
            Grammar::Resp { .. } => self.advance_resp(input),
        }
    }

    fn advance_value(&mut self, input: &[u8]) -> Advance {
        let here = self.skip.min(input.len());
        if here == 0 {
            return Advance::Starved;
        }
        self.skip -= here;
        if self.skip > 0 {
            return Advance::Consumed(here);
        }
        self.behind_value(here)
    }

    /// A value has ended; whether the reply has too depends on what was asked.
    fn behind_value(&mut self, size: usize) -> Advance {
        match &mut self.grammar {
            Grammar::Resp { elements } => {
                *elements = elements.saturating_sub(1);
                if *elements > 0 { Advance::Consumed(size) } else { Advance::Ended(ReplyKind::Values, size) }
            }
            _ => Advance::Ended(ReplyKind::Values, size),
        }
    }

    fn found(&mut self, bytes: u64) {
        self.hits = self.hits.saturating_add(1);
        self.value_bytes = self.value_bytes.saturating_add(bytes);
    }

    fn advance_binary(&mut self, input: &[u8]) -> Advance {
        const GETKQ: u8 = 0x0d;
        const NOOP: u8 = 0x0a;
        const BODY_SIZE_MAX: usize = 1 << 30;
        if input.first().is_some_and(|&magic| magic != REPLY_MAGIC) {
            return Advance::Malformed;
        }
        let Some(header) = input.first_chunk::<HEADER_SIZE>() else { return Advance::Starved };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (opcode, status) = (header[1], word(6));
        let body_size = usize::from(word(8)) << 16 | usize::from(word(10));
        if body_size > BODY_SIZE_MAX {
            return Advance::Malformed;
        }
        let size = HEADER_SIZE + body_size;
        let value_size = body_size.saturating_sub(usize::from(header[4]) + usize::from(word(2)));
        if status == 0 && header[4] == 4 {
            // Quiet values wait to be whole: what comes behind one tells whether the reply goes on.
            if opcode == GETKQ && input.len() < size {
                return Advance::Starved;
            }
            self.found(value_size as u64);
            return match opcode {
                GETKQ => Advance::Consumed(size),
                _ => self.skip_after(HEADER_SIZE, body_size),
            };
        }
        if body_size > TEXT_SIZE_MAX {
            return Advance::Malformed;
        }
        let Some(packet) = input.get(..size) else { return Advance::Starved };
        let kind = if opcode == NOOP { ReplyKind::Values } else { binary_kind(opcode, status, packet) };
        Advance::Ended(kind, size)
    }

    fn skip_after(&mut self, consumed: usize, skip: usize) -> Advance {
        self.skip = skip;
        if skip == 0 { self.behind_value(consumed) } else { Advance::Consumed(consumed) }
    }

    fn advance_resp(&mut self, input: &[u8]) -> Advance {
        let Some(lf) = memchr(b'\n', &input[..input.len().min(TEXT_SIZE_MAX)]) else {
            return if input.len() < TEXT_SIZE_MAX { Advance::Starved } else { Advance::Malformed };
        };
        let (line, size) = (input[..lf].trim_ascii_end(), lf + 1);
        let Some((mark, text)) = line.split_first() else { return Advance::Malformed };
        match (mark, text) {
            (b'+', _) => Advance::Ended(ReplyKind::Stored, size),
            (b'-', _) => Advance::Ended(ReplyKind::ServerError, size),
            (b'$', b"-1") => self.behind_value(size),
            (b'$' | b'*', _) => match (mark, str::from_utf8(text).ok().and_then(|text| text.parse().ok())) {
                (b'*', Some(elements)) if elements > 0 => {
                    self.grammar = Grammar::Resp { elements };
                    Advance::Consumed(size)
                }
                (b'$', Some(bytes)) if bytes <= 1 << 30 => {
                    self.found(bytes);
                    self.skip_after(size, usize::try_from(bytes).expect("2^30 fits") + 2)
                }
                _ => Advance::Malformed,
            },
            _ => Advance::Malformed,
        }
    }
}

/// The classic word for what a meta reply says.
fn classic(kind: ReplyKind) -> ReplyKind {
    match kind {
        ReplyKind::MetaNotFound => ReplyKind::NotFound,
        ReplyKind::MetaNotStored => ReplyKind::NotStored,
        ReplyKind::MetaExists => ReplyKind::Exists,
        other => other,
    }
}

fn binary_kind(opcode: u8, status: u16, packet: &[u8]) -> ReplyKind {
    const GETS: [u8; 3] = [0x00, 0x1d, 0x0c];
    match (status, opcode) {
        (0, 0x04) => ReplyKind::Deleted,
        (0, 0x1c) => ReplyKind::Touched,
        (0, 0x05 | 0x06) => {
            let number = packet.last_chunk().copied().map_or(0, u64::from_be_bytes);
            ReplyKind::Number(number)
        }
        (0, _) => ReplyKind::Stored,
        (1, opcode) if GETS.contains(&opcode) => ReplyKind::Values,
        (1, _) => ReplyKind::NotFound,
        (2, _) => ReplyKind::Exists,
        (5, _) => ReplyKind::NotStored,
        _ => ReplyKind::ServerError,
    }
}
