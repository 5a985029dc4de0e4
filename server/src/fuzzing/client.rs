//! A client that knows what it sent, and what a stream must have been answered with as far as that is cheap to say: how many
//! replies, in which order, and whether the connection is closed.

use std::fmt;
use std::ops::RangeInclusive;

use slabring_protocol::{Admin, Command, Dialect, Limits, MetaFlags, Parser, Request, Step};
use slabring_reactor::ConnectionId;

/// Questions that are answered last.
const TEXT_FENCE: &[u8] = b"mn\r\n";
const TEXT_FENCE_REPLY: &[u8] = b"MN\r\n";
const BINARY_FENCE: &[u8] = b"\x80\x0a\0\0\0\0\0\0\0\0\0\0\xfe\xce\xfe\xce\0\0\0\0\0\0\0\0";
const BINARY_FENCE_REPLY: &[u8] = b"\x81\x0a\0\0\0\0\0\0\0\0\0\0\xfe\xce\xfe\xce\0\0\0\0\0\0\0\0";
const BINARY_MAGIC: u8 = 0x80;
/// A piece that leaves this at the start of a line is TLS to the server, which closes then; the parser does not know.
const TLS_HANDSHAKE: u8 = 0x16;
const HEADER_SIZE: usize = 24;
/// Attempts to end what a stream ends in the middle of.
const FILLS_MAX: usize = 6;
/// A stream in the middle of more than that is left alone.
const FILL_BYTES_MAX: usize = 128 << 10;

/// One end of a connection.
pub(super) struct Client {
    pub(super) id: ConnectionId,
    pub(super) sent: Vec<u8>,
    /// It has closed, or said its last.
    pub(super) has_ended: bool,
}

impl Client {
    pub(super) fn new(id: ConnectionId) -> Self {
        Self { id, sent: Vec::new(), has_ended: false }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} sent {:?}", self.id, self.sent.escape_ascii().to_string())
    }
}

/// What the reference parser makes of a stream.
pub(super) struct Expected {
    /// The server closes at some point of it.
    pub(super) closes: bool,
    /// No request stops the stream, or does not, as it happens.
    pub(super) is_known: bool,
    /// Each request has at most one reply.
    is_countable: bool,
    replies: RangeInclusive<usize>,
    /// Binary: the opaques of the requests, in order.
    opaques: Vec<u32>,
    is_binary: bool,
    /// Bytes that are missing to the step that the stream ends in, or 0.
    missing: usize,
    ends_in_fence: bool,
}

impl Expected {
    pub(super) fn of(stream: &[u8], limits: &Limits) -> Self {
        let mut expected = Self {
            closes: false,
            is_known: true,
            is_countable: true,
            replies: 0..=0,
            opaques: Vec::new(),
            is_binary: stream.first() == Some(&BINARY_MAGIC),
            missing: 0,
            ends_in_fence: false,
        };
        let (mut parser, mut rest) = (Parser::default(), stream);
        while expected.is_known && !expected.closes {
            expected.is_known = rest.first() != Some(&TLS_HANDSHAKE);
            rest = match parser.next(rest, limits) {
                Step::Incomplete { total_bytes } => {
                    expected.missing = if rest.is_empty() { 0 } else { total_bytes - rest.len() };
                    break;
                }
                Step::Swallowed { consumed } => {
                    expected.ends_in_fence = false;
                    &rest[consumed..]
                }
                Step::Reply { error, consumed } => {
                    expected.answered(error.dialect, 1..=1);
                    &rest[consumed..]
                }
                Step::Close { error } => {
                    error.into_iter().for_each(|error| expected.answered(error.dialect, 1..=1));
                    expected.closes = true;
                    rest
                }
                Step::Request { request, consumed } => {
                    expected.request(&request);
                    &rest[consumed..]
                }
            };
        }
        expected
    }

    fn request(&mut self, request: &Request<'_>) {
        self.closes = request.command == Command::Quit;
        self.is_known &= !matches!(request.command, Command::Admin(Admin::Watch(_)));
        self.is_countable &= !matches!(request.command, Command::Stats(_) | Command::Admin(_));
        let replies = match (request.dialect, request.command) {
            (Dialect::Text, Command::Quit) => 0..=0,
            _ if request.noreply => 0..=0,
            (Dialect::Text, Command::Get { .. } | Command::GetAndTouch { .. }) => 0..=1,
            (Dialect::Binary(head), _) if head.quiet() => 0..=1,
            (_, command) if command.meta_flags().is_some_and(MetaFlags::quiet) => 0..=1,
            _ => 1..=1,
        };
        self.answered(request.dialect, replies);
        self.ends_in_fence = request.command == Command::MetaNoop;
    }

    fn answered(&mut self, dialect: Dialect, replies: RangeInclusive<usize>) {
        self.replies = self.replies.start() + replies.start()..=self.replies.end() + replies.end();
        self.ends_in_fence = false;
        if let Dialect::Binary(head) = dialect {
            self.opaques.push(head.opaque);
        }
    }

    /// What to send behind `stream` so that the last answer is known, if there is such a thing.
    pub(super) fn fence(&self, stream: &[u8], limits: &Limits) -> Option<Vec<u8>> {
        let fence = if self.is_binary { BINARY_FENCE } else { TEXT_FENCE };
        let mut whole = stream.to_vec();
        for _ in 0..FILLS_MAX {
            let filled = whole.len();
            whole.extend_from_slice(fence);
            let expected = Self::of(&whole, limits);
            if expected.closes || !expected.is_known {
                return None;
            }
            if expected.missing == 0 && expected.ends_in_fence {
                return Some(whole.split_off(stream.len()));
            }
            whole.truncate(filled);
            let missing = Self::of(&whole, limits).missing.max(1);
            if missing > FILL_BYTES_MAX {
                return None;
            }
            whole.resize(filled + missing, b'\n');
        }
        None
    }

    /// `is_whole`: the client has read everything there was.
    pub(super) fn check(&self, output: &[u8], is_whole: bool) {
        let replies = if self.is_binary { self.check_packets(output, is_whole) } else { count_text(output) };
        if self.is_countable {
            assert!(replies <= *self.replies.end(), "{replies} replies, at most {:?}", self.replies);
            assert!(!is_whole || replies >= *self.replies.start(), "{replies} replies of {:?}", self.replies);
        }
    }

    /// Replies stand in the order of the requests.
    fn check_packets(&self, mut output: &[u8], is_whole: bool) -> usize {
        let (mut requests, mut count) = (self.opaques.as_slice(), 0);
        while let Some(header) = output.first_chunk::<HEADER_SIZE>() {
            assert_eq!(header[0], 0x81, "no reply begins so");
            let [size, opaque] =
                [8, 12].map(|at| u32::from_be_bytes(*header[at..].first_chunk().expect("in it")));
            let behind = requests.iter().position(|&asked| asked == opaque);
            requests = &requests[behind.expect("a reply to an earlier request, or to none")..];
            count += 1;
            let size = HEADER_SIZE + usize::try_from(size).expect("usize has 32 bits");
            assert!(size <= output.len() || !is_whole, "half a reply");
            output = output.get(size..).unwrap_or_default();
        }
        count
    }
}

/// Lines, a value with the line before it being one.
fn count_text(mut output: &[u8]) -> usize {
    let mut count = 0;
    while let Some(end) = output.iter().position(|&byte| byte == b'\n') {
        let (line, rest) = output.split_at(end + 1);
        let mut words = line.trim_ascii_end().split(|&byte| byte == b' ');
        let size = match words.next() {
            Some(b"VALUE") => words.nth(2),
            Some(b"VA") => words.next(),
            _ => None,
        };
        let size =
            size.and_then(|size| str::from_utf8(size).ok()).and_then(|size| size.parse::<usize>().ok());
        output = size.map_or(rest, |size| rest.get(size + 2..).unwrap_or_default());
        count += 1;
    }
    count
}

/// The reply to a fence.
pub(super) fn fence_reply(fence: &[u8]) -> &'static [u8] {
    if fence.ends_with(BINARY_FENCE) { BINARY_FENCE_REPLY } else { TEXT_FENCE_REPLY }
}
