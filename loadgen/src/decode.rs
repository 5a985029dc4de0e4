//! Where each reply of a stream ends, in any of the protocols. Values are skipped; nothing is kept but a position.

use memchr::{memchr, memchr2};
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
    Text {
        parser: ReplyParser,
        /// Nothing of the next reply has been consumed or looked at by the parser.
        is_between: bool,
    },
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
            Protocol::Text => Grammar::Text { parser: ReplyParser::default(), is_between: true },
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
        let Grammar::Text { parser, is_between } = &mut self.grammar else {
            return self.next_of_others(input, fenced);
        };
        if *is_between {
            if input.is_empty() {
                return ReplyStep::Incomplete { consumed: 0 };
            }
            if let Some((reply, consumed)) = common_text(input) {
                return ReplyStep::Reply { reply, consumed };
            }
        }
        let step = parser.next(input);
        *is_between = matches!(step, ReplyStep::Reply { .. });
        step
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
            Grammar::Text { .. } => unreachable!("its parser does it all"),
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
        // memcached sends the client flags with it, and no value.
        const TOUCH: u8 = 0x1c;
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
        if status == 0 && header[4] == 4 && opcode != TOUCH {
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

/// The replies that nearly all requests get, if `input` begins with one of them and holds all of it: what [`ReplyParser`]
/// says of them, at a fifth of the instructions.
#[inline]
fn common_text(input: &[u8]) -> Option<(Reply, usize)> {
    let plain = |kind, line: &[u8]| {
        input.starts_with(line).then_some((Reply { kind, hits: 0, value_bytes: 0 }, line.len()))
    };
    match input.first()? {
        b'V' => one_value(input),
        b'S' => plain(ReplyKind::Stored, b"STORED\r\n"),
        b'E' => plain(ReplyKind::Values, b"END\r\n"),
        _ => None,
    }
}

/// `VALUE key 0 size`, the value and `END`: one value without client flags and without a token.
#[inline]
fn one_value(input: &[u8]) -> Option<(Reply, usize)> {
    const HEAD: &[u8] = b"VALUE ";
    const DIGITS_MAX: usize = 8;
    let behind_head = input.strip_prefix(HEAD)?;
    let key_size = memchr2(b' ', b'\n', behind_head).filter(|size| *size > 0)?;
    let number = behind_head[key_size..].strip_prefix(b" 0 ")?;
    let (mut value_size, mut digits) = (0, 0);
    while let Some(digit @ b'0'..=b'9') = number.get(digits)
        && digits < DIGITS_MAX
    {
        value_size = 10 * value_size + usize::from(digit - b'0');
        digits += 1;
    }
    let is_line_end = digits > 0 && number[digits..].starts_with(b"\r\n");
    let end = HEAD.len() + key_size + 3 + digits + 2 + value_size;
    let is_whole = is_line_end && input.get(end..)?.starts_with(b"\r\nEND\r\n");
    let reply = Reply { kind: ReplyKind::Values, hits: 1, value_bytes: value_size as u64 };
    is_whole.then_some((reply, end + 7))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::popularity::Dice;

    const PIECES: [&[u8]; 22] = [
        b"VALUE ",
        b"k1",
        b" ",
        b"0",
        b" 0 ",
        b"5",
        b"00",
        b"\r\n",
        b"hello",
        b"END",
        b"END\r\n",
        b"\r\nEND\r\n",
        b"STORED\r\n",
        b"STORED",
        b"NOT_FOUND\r\n",
        b"\n",
        b"VALUE k1 0 5\r\nhello\r\nEND\r\n",
        b"VALUE k2 7 2\r\nab\r\n",
        b"VALUE k1 0 5 77\r\nhello\r\nEND\r\n",
        b"17\r\n",
        b"VALUE  0 1\r\n",
        b"99999999",
    ];

    /// Every step over `stream`, which comes in packets that end at `cuts`.
    fn steps(stream: &[u8], cuts: &[usize], mut next: impl FnMut(&[u8]) -> ReplyStep) -> Vec<ReplyStep> {
        let (mut steps, mut at) = (Vec::new(), 0);
        for &cut in cuts {
            loop {
                let step = next(&stream[at..cut]);
                match step {
                    ReplyStep::Incomplete { consumed } => at += consumed,
                    ReplyStep::Reply { consumed, .. } => {
                        at += consumed;
                        steps.push(step);
                    }
                    ReplyStep::Malformed => steps.push(step),
                }
                match step {
                    ReplyStep::Incomplete { .. } => break,
                    ReplyStep::Reply { .. } => {}
                    ReplyStep::Malformed => return steps,
                }
            }
        }
        steps
    }

    /// A binary reply without a key.
    fn packet(opcode: u8, status: u16, extras: &[u8], value: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_SIZE];
        (packet[0], packet[1]) = (REPLY_MAGIC, opcode);
        packet[4] = u8::try_from(extras.len()).unwrap();
        packet[6..8].copy_from_slice(&status.to_be_bytes());
        let body_size = u32::try_from(extras.len() + value.len()).unwrap();
        packet[8..12].copy_from_slice(&body_size.to_be_bytes());
        [&packet, extras, value].concat()
    }

    #[test]
    fn a_binary_touch_that_comes_with_client_flags_is_no_value() {
        let stream = [
            packet(0x1c, 0, &[0; 4], b""),
            packet(0x1c, 0, b"", b""),
            packet(0x1c, 1, b"", b"Not found"),
            packet(0x1d, 0, &[0; 4], b"five5"),
            packet(0x00, 0, &[0; 4], b""),
        ]
        .concat();
        let replies = [
            (ReplyKind::Touched, 0, 0),
            (ReplyKind::Touched, 0, 0),
            (ReplyKind::NotFound, 0, 0),
            (ReplyKind::Values, 1, 5),
            (ReplyKind::Values, 1, 0),
        ];
        let expected: Vec<Reply> =
            replies.map(|(kind, hits, value_bytes)| Reply { kind, hits, value_bytes }).into();
        for cut in 0..=stream.len() {
            let mut decoder = Decoder::new(Protocol::Binary);
            let seen = steps(&stream, &[cut, stream.len()], |input| decoder.next(input, false));
            let reply = |step: &ReplyStep| match step {
                ReplyStep::Reply { reply, .. } => Some(*reply),
                _ => None,
            };
            assert_eq!(seen.iter().filter_map(reply).collect::<Vec<_>>(), expected, "cut at {cut}");
        }
    }

    #[test]
    fn text_replies_are_cut_where_the_whole_parser_cuts_them_whatever_the_packets() {
        let (mut dice, mut replies) = (Dice::new(5, 0), 0);
        for seed in 0..200_000 {
            let mut draw = |bound| usize::try_from(dice.below(bound)).unwrap();
            let stream: Vec<u8> =
                (0..=draw(6)).flat_map(|_| PIECES[draw(PIECES.len() as u64)].iter().copied()).collect();
            let mut cuts = vec![draw(stream.len() as u64 + 1), stream.len()];
            cuts.sort_unstable();
            let (mut decoder, mut twin) = (Decoder::new(Protocol::Text), ReplyParser::default());
            let seen = steps(&stream, &cuts, |input| decoder.next(input, false));
            // Which bytes of a reply are dropped before it is whole is no affair of its reader's.
            let kinds = |steps: &[ReplyStep]| -> Vec<Option<Reply>> {
                let reply = |step: &ReplyStep| match step {
                    ReplyStep::Reply { reply, .. } => Some(*reply),
                    _ => None,
                };
                steps.iter().map(reply).collect()
            };
            let expected = steps(&stream, &cuts, |input| twin.next(input));
            assert_eq!(kinds(&seen), kinds(&expected), "{seed}: {}", stream.escape_ascii());
            replies += seen.len();
        }
        assert!(replies > 100_000, "{replies}");
    }
}
