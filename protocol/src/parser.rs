//! One connection's bytes cut into steps. It holds a mode and never bytes: the caller keeps what is not consumed.

use crate::ahead::KeysAhead;
use crate::binary::{self, Packet};
use crate::errors::{DialectError, ErrorReply};
use crate::limits::{AUTH_LINE_SIZE_MIN, KEYS_LINE_SIZE_MAX, LEADING_SPACES_MAX, LINE_SIZE_MAX, Limits};
use crate::line::{KeysCommand, Line, Refusal, VALUE_END, parse_auth_line, parse_line};
use crate::plain::{self, Plain, PlainTaken};
use crate::request::{Command, Request};
use crate::tokens::Tokens;
use memchr::memchr;

/// One connection's parse position.
///
/// Contract: each call's input starts with the bytes the call before was given and did not consume, with
/// any number of new ones behind them.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    mode: Mode,
    protocol: Protocol,
    auth: Auth,
}

/// Which protocol a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The first byte decides, once for the connection: 0x80 is binary, anything else text.
    #[default]
    Auto,
    /// Lines: the classic and the meta commands.
    Text,
    /// Packets. Anything else closes.
    Binary,
}

/// Whether a connection may do more than authenticate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// Nobody is asked who they are: SASL commands are unknown.
    #[default]
    Open,
    /// Not yet: nothing else is let through.
    Required,
    /// It has.
    Granted,
}

/// What to do next. However a stream is cut into packets, it gives the same steps, but that the bytes of one
/// swallowed value may come as several [`Step::Swallowed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// There is nothing to do before the input holds `total_bytes`, which is more than it holds now. Nothing is
    /// consumed. At most [`KEYS_LINE_SIZE_MAX`] and one, or a line and a value that the limits allow.
    Incomplete {
        /// Size of an input that is worth another call.
        total_bytes: usize,
    },
    /// Execute this.
    Request {
        /// Borrows the input.
        request: Request<'a>,
        /// Bytes to drop, at least 1.
        consumed: usize,
    },
    /// These bytes belong to nothing: a value that was refused, or a refused line whose client wants no answer.
    Swallowed {
        /// Bytes to drop, at least 1.
        consumed: usize,
    },
    /// Answer this; nothing is executed.
    Reply {
        /// The answer, for [`reply::error`](crate::reply::error).
        error: DialectError,
        /// Bytes to drop, at least 1.
        consumed: usize,
    },
    /// Answer this if there is something, then close. The parser must not be called again.
    Close {
        /// The last answer.
        error: Option<DialectError>,
    },
}

/// Keys of one line, see [`Parser::take_keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysTaken {
    /// Their answers show the CAS.
    pub with_cas: bool,
    /// How many, at least 1.
    pub count: usize,
    /// Bytes to drop.
    pub consumed: usize,
}

/// A store command whose value is not all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced<'a> {
    /// The request, with no value.
    pub request: Request<'a>,
    /// Bytes of the input before the value.
    pub head_bytes: usize,
    /// Bytes of the value.
    pub value_bytes: usize,
    /// What must follow the value.
    pub end: &'static [u8],
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// At the start of a line, of which the first `scanned` bytes hold no LF, or of a packet.
    Line { scanned: usize },
    /// In a line of keys, of which `rest` bytes are left, its line end included. All of them are in the input.
    Keys { command: KeysCommand, rest: usize },
    /// In a value that belongs to nothing, of which `rest` bytes are left.
    Swallowing { rest: usize },
}

/// Verbs whose lines are bounded by [`KEYS_LINE_SIZE_MAX`].
const KEYS_VERBS: [&[u8]; 4] = [b"get ", b"gets ", b"gat ", b"gats "];

/// Every connection has one.
const _: () = assert!(size_of::<Parser>() <= 32);
/// A value is swallowed with its line end, also where `usize` has 32 bits.
const _: () = assert!(crate::limits::VALUE_SIZE_MAX as u64 + (VALUE_END.len() as u64) <= usize::MAX as u64);

impl Default for Mode {
    fn default() -> Self {
        Self::Line { scanned: 0 }
    }
}

impl Parser {
    /// A parser for a new connection. The default one takes both protocols and asks nobody who they are.
    pub fn new(protocol: Protocol, auth: Auth) -> Self {
        Self { mode: Mode::default(), protocol, auth }
    }

    /// How a request that [decides what follows](Command::decides_what_follows) ended.
    ///
    /// Panics if the parser never asked for authentication.
    pub fn set_authenticated(&mut self, authenticated: bool) {
        assert!(self.auth != Auth::Open, "nobody was asked to authenticate");
        self.auth = if authenticated { Auth::Granted } else { Auth::Required };
    }

    /// The next step of a stream that goes on with `input`.
    ///
    /// Cost: O(bytes consumed), and each byte of an unfinished line is looked at once over all calls. A value that
    /// is not all there is never looked at; its line is read again when it is.
    ///
    /// Panics if the input is shorter than the contract of [`Parser`] allows.
    #[inline]
    pub fn next<'a>(&mut self, input: &'a [u8], limits: &Limits) -> Step<'a> {
        if self.protocol == Protocol::Auto {
            self.decide(input);
        }
        match self.mode {
            Mode::Line { scanned } if self.speaks_lines() => self.next_line(input, scanned, limits),
            Mode::Line { scanned } => self.next_other(input, scanned, limits),
            Mode::Keys { command, rest } => self.next_key(input, command, 0, rest),
            Mode::Swallowing { rest } => self.swallow(input, rest),
        }
    }

    /// Whether [`Parser::take_keys`] is worth a call. O(1).
    #[inline]
    pub fn has_keys(&self) -> bool {
        matches!(self.mode, Mode::Keys { command: KeysCommand::Get { .. }, rest } if rest > VALUE_END.len())
    }

    /// Whether the stream stands behind the last key of a line of keys: the next step is [`Command::EndOfKeys`]. O(1).
    #[inline]
    pub fn ends_line(&self) -> bool {
        matches!(self.mode, Mode::Keys { rest, .. } if rest <= VALUE_END.len())
    }

    /// Takes the next keys of the line of a `get` or `gets` that the stream stands in, as many as there are places, without a step
    /// for each: they may be executed as [`Request::get`]s. `None` if it stands elsewhere, or at the line's end.
    #[inline]
    pub fn take_keys<'a>(&mut self, input: &'a [u8], places: &mut [&'a [u8]]) -> Option<KeysTaken> {
        let Mode::Keys { command: KeysCommand::Get { with_cas }, rest } = self.mode else { return None };
        let mut keys = Tokens::new(without_line_end(&input[..rest]));
        let text_bytes = keys.rest().len();
        let count = places.iter_mut().zip(keys.by_ref()).map(|(place, key)| *place = key).count();
        let consumed = text_bytes - keys.rest().len();
        self.mode = Mode::Keys { command: KeysCommand::Get { with_cas }, rest: rest - consumed };
        (count > 0).then_some(KeysTaken { with_cas, count, consumed })
    }

    /// Reads the [`Plain`] requests that a stream goes on with, as many as there are places, whole ones only. They may be executed in
    /// place of the steps that the parser would give for them: it stays as it is and goes on behind what of them was executed.
    #[inline]
    pub fn plain<'a>(&self, input: &'a [u8], limits: &Limits, places: &mut [Plain<'a>]) -> PlainTaken {
        match self.mode {
            Mode::Line { scanned: 0 } if self.speaks_lines() => plain::take(input, limits, places),
            _ => PlainTaken { count: 0, consumed: 0 },
        }
    }

    /// The keys that a stream which goes on with `input` will most likely ask for. O(1) for each key, but that lines and keys are
    /// looked for.
    pub fn keys_ahead<'a>(&self, input: &'a [u8]) -> KeysAhead<'a> {
        match self.mode {
            Mode::Line { .. } => KeysAhead::new(&[], input),
            Mode::Keys { rest, .. } => {
                let (line, behind) = input.split_at(rest.min(input.len()));
                KeysAhead::new(line.trim_ascii_end(), behind)
            }
            Mode::Swallowing { rest } => KeysAhead::new(&[], input.get(rest..).unwrap_or_default()),
        }
    }

    #[cold]
    fn decide(&mut self, input: &[u8]) {
        self.protocol = match input.first() {
            None => Protocol::Auto,
            Some(&binary::REQUEST_MAGIC) => Protocol::Binary,
            Some(_) => Protocol::Text,
        };
    }

    fn speaks_lines(&self) -> bool {
        self.protocol == Protocol::Text && self.auth != Auth::Required
    }

    /// At the start of anything but a line of somebody who may come in.
    #[inline(never)]
    fn next_other<'a>(&mut self, input: &'a [u8], scanned: usize, limits: &Limits) -> Step<'a> {
        match self.protocol {
            Protocol::Auto => Step::Incomplete { total_bytes: 1 },
            Protocol::Text => self.next_auth(input, scanned),
            Protocol::Binary => self.next_packet(input, limits),
        }
    }

    /// The store command that `input` begins with, if [`Parser::next`] has just found its value [incomplete](Step::Incomplete).
    ///
    /// For who takes the value in as it comes: head, value and end are then never shown to the parser, which goes on behind them. An
    /// end that is another one is answered by [`ErrorReply::BadDataChunk`]. O(head).
    pub fn announced<'a>(&self, input: &'a [u8], limits: &Limits) -> Option<Announced<'a>> {
        if !matches!(self.mode, Mode::Line { scanned: 0 }) {
            return None;
        }
        match self.protocol {
            Protocol::Binary => binary::announced(input, self.auth, limits),
            Protocol::Text if self.speaks_lines() => announced_by_line(input, limits),
            Protocol::Text | Protocol::Auto => None,
        }
    }

    fn next_packet<'a>(&mut self, input: &'a [u8], limits: &Limits) -> Step<'a> {
        match binary::parse_packet(input, self.auth, limits) {
            Packet::Incomplete { total_bytes } => Step::Incomplete { total_bytes },
            Packet::Request { request, consumed } => Step::Request { request, consumed },
            Packet::RequestTooLarge { request, consumed, rest } => {
                self.swallow_later(rest);
                Step::Request { request, consumed }
            }
            Packet::Refused { error, consumed, rest } => {
                self.swallow_later(rest);
                Step::Reply { error, consumed }
            }
            Packet::Close { error } => Step::Close { error },
        }
    }

    fn next_line<'a>(&mut self, input: &'a [u8], scanned: usize, limits: &Limits) -> Step<'a> {
        assert!(scanned <= input.len(), "bytes were dropped that no step consumed");
        let Some(lf) = memchr(b'\n', &input[scanned..]) else { return self.unfinished_line(input) };
        let line_size = scanned + lf + 1;
        let (line, behind) = input.split_at(line_size);
        if line_size > LINE_SIZE_MAX
            && let Some(close) = close_if_too_long(&line[..line_size - 1])
        {
            return close;
        }
        self.mode = Mode::default();
        match parse_line(without_line_end(line), limits) {
            Line::Keys { command, keys_offset } => self.next_key(input, command, keys_offset, line_size),
            Line::Store { request, value_size } => store(request, behind, line_size, usize_from(value_size)),
            Line::Request(request) => Step::Request { request, consumed: line_size },
            Line::StoreTooLarge { request, value_size } => {
                self.swallow_value(value_size);
                Step::Request { request, consumed: line_size }
            }
            Line::Refused(refusal) => self.refuse(refusal, line_size),
            Line::Close => Step::Close { error: None },
        }
    }

    /// `set anything flags exptime length`, then user and password with a space between them; nothing else.
    fn next_auth<'a>(&mut self, input: &'a [u8], scanned: usize) -> Step<'a> {
        assert!(scanned <= input.len(), "bytes were dropped that no step consumed");
        let line_end = memchr(b'\n', &input[scanned..]).map(|lf| scanned + lf + 1);
        let Some(line_size) = line_end.filter(|&size| size <= LINE_SIZE_MAX + 1) else {
            self.mode = Mode::Line { scanned: input.len() };
            let too_long = line_end.is_some() || input.len() > LINE_SIZE_MAX;
            return if too_long {
                Step::Close { error: None }
            } else {
                Step::Incomplete { total_bytes: input.len() + 1 }
            };
        };
        if line_size < AUTH_LINE_SIZE_MIN {
            return Step::Close { error: None };
        }
        self.mode = Mode::default();
        match parse_auth_line(without_line_end(&input[..line_size])) {
            Ok(data_size) => authenticate(input, line_size, data_size),
            Err(error) => Step::Reply { error: error.into(), consumed: line_size },
        }
    }

    fn unfinished_line<'a>(&mut self, input: &[u8]) -> Step<'a> {
        if let Some(close) = close_if_too_long(input) {
            return close;
        }
        self.mode = Mode::Line { scanned: input.len() };
        Step::Incomplete { total_bytes: input.len() + 1 }
    }

    /// The first key behind the first `skipped` bytes of the line that `input` starts with.
    fn next_key<'a>(
        &mut self,
        input: &'a [u8],
        command: KeysCommand,
        skipped: usize,
        line_size: usize,
    ) -> Step<'a> {
        assert!(line_size <= input.len(), "bytes were dropped that no step consumed");
        let text = without_line_end(&input[..line_size]);
        let mut keys = Tokens::new(&text[skipped..]);
        let Some(key) = keys.next() else {
            self.mode = Mode::default();
            return Step::Request { request: Request::bare(Command::EndOfKeys), consumed: line_size };
        };
        let consumed = text.len() - keys.rest().len();
        self.mode = Mode::Keys { command, rest: line_size - consumed };
        Step::Request { request: command.request(key), consumed }
    }

    fn refuse<'a>(&mut self, refusal: Refusal, consumed: usize) -> Step<'a> {
        if let Some(value_size) = refusal.value_size {
            self.swallow_value(value_size);
        }
        reply_unless_noreply(refusal.error, refusal.noreply, consumed)
    }

    fn swallow_value(&mut self, value_size: u32) {
        self.swallow_later(usize_from(value_size) + VALUE_END.len());
    }

    fn swallow_later(&mut self, rest: usize) {
        self.mode = if rest == 0 { Mode::default() } else { Mode::Swallowing { rest } };
    }

    fn swallow<'a>(&mut self, input: &[u8], rest: usize) -> Step<'a> {
        assert!(rest > 0);
        if input.is_empty() {
            return Step::Incomplete { total_bytes: 1 };
        }
        let consumed = rest.min(input.len());
        self.mode = match rest - consumed {
            0 => Mode::default(),
            rest => Mode::Swallowing { rest },
        };
        Step::Swallowed { consumed }
    }
}

fn announced_by_line<'a>(input: &'a [u8], limits: &Limits) -> Option<Announced<'a>> {
    let line_size = memchr(b'\n', input)? + 1;
    match parse_line(without_line_end(&input[..line_size]), limits) {
        Line::Store { request, value_size } => {
            let value_bytes = usize_from(value_size);
            Some(Announced { request, head_bytes: line_size, value_bytes, end: VALUE_END })
        }
        _ => None,
    }
}

/// Takes user and password from behind the line.
fn authenticate(input: &[u8], line_size: usize, data_size: usize) -> Step<'_> {
    let consumed = line_size + data_size + VALUE_END.len();
    let Some(data) = input.get(line_size..consumed) else {
        return Step::Incomplete { total_bytes: consumed };
    };
    let Some(data) = data.strip_suffix(VALUE_END) else {
        return Step::Reply { error: ErrorReply::AuthTokenTermination.into(), consumed };
    };
    let Some(space) = memchr(b' ', data) else {
        return Step::Reply { error: ErrorReply::AuthTokenFormat.into(), consumed };
    };
    let (key, value) = (&data[..space], &data[space + 1..]);
    Step::Request { request: Request { value, ..Request::keyed(Command::Authenticate, key) }, consumed }
}

/// Takes the value from `behind` the line.
fn store<'a>(request: Request<'a>, behind: &'a [u8], line_size: usize, value_size: usize) -> Step<'a> {
    let consumed = line_size + value_size + VALUE_END.len();
    let Some((value, behind)) = behind.split_at_checked(value_size) else {
        return Step::Incomplete { total_bytes: consumed };
    };
    match behind.get(..VALUE_END.len()) {
        None => Step::Incomplete { total_bytes: consumed },
        Some(end) if end == VALUE_END => Step::Request { request: Request { value, ..request }, consumed },
        Some(_) => reply_unless_noreply(ErrorReply::BadDataChunk, request.noreply, consumed),
    }
}

fn reply_unless_noreply<'a>(error: ErrorReply, noreply: bool, consumed: usize) -> Step<'a> {
    if noreply { Step::Swallowed { consumed } } else { Step::Reply { error: error.into(), consumed } }
}

/// Closes on a line that is too long for what it begins with. `text` holds no LF and may go on.
///
/// memcached closes only if the LF is not there yet, so that it depends on packets; here only the bytes count.
#[cold]
fn close_if_too_long<'a>(text: &[u8]) -> Option<Step<'a>> {
    if text.len() > KEYS_LINE_SIZE_MAX {
        let error = begins_line_of_keys(text).then(|| ErrorReply::LineTooLong.into());
        return Some(Step::Close { error });
    }
    (text.len() > LINE_SIZE_MAX && !begins_line_of_keys(text)).then_some(Step::Close { error: None })
}

fn begins_line_of_keys(text: &[u8]) -> bool {
    let spaces = text.iter().take(LEADING_SPACES_MAX + 1).take_while(|&&byte| byte == b' ').count();
    spaces <= LEADING_SPACES_MAX && KEYS_VERBS.iter().any(|verb| text[spaces..].starts_with(verb))
}

/// A line that ends in LF, without it and a CR before it.
fn without_line_end(line: &[u8]) -> &[u8] {
    let (&lf, text) = line.split_last().expect("a line ends in LF");
    assert!(lf == b'\n');
    text.strip_suffix(b"\r").unwrap_or(text)
}

fn usize_from(size: u32) -> usize {
    usize::try_from(size).expect("usize has at least 32 bits: checked above at compile time")
}

#[cfg(test)]
mod tests;
