//! The requests that most streams consist of, in the form that every client writes them: a `get` of one key, and a `set` whose value
//! is there. Read in one pass over a key; whatever looks different in any byte is left to the parser. It changes nothing.

use crate::limits::{KEY_SIZE_MAX, Limits};
use crate::line::VALUE_END;
use crate::request::{Command, Request, StoreMode};

/// Verbs, to compare them as a whole.
const GET: u32 = u32::from_le_bytes(*b"get ");
const SET: u32 = u32::from_le_bytes(*b"set ");

const WORD_BYTES: usize = 8;
/// Digits of the longest number that is read here: lengths, client flags and Unix times have no more.
const DIGITS_MAX: usize = 10;

/// A request in its plain form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<'a> {
    /// 1 to [`KEY_SIZE_MAX`] bytes, all of them above a space.
    pub key: &'a [u8],
    /// What to do.
    pub work: PlainWork<'a>,
}

/// What a [`Plain`] request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainWork<'a> {
    /// `get KEY`: a [`Command::Get`] without CAS, and the end of its line.
    Get,
    /// `set KEY FLAGS EXPTIME LENGTH`: within the limits.
    Set {
        /// Opaque to the server.
        client_flags: u32,
        /// Expiration time as sent.
        exptime: i64,
        /// All of it.
        value: &'a [u8],
    },
}

/// Requests at the front of a stream, see [`Parser::plain`](crate::Parser::plain).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainTaken {
    /// How many.
    pub count: usize,
    /// Their bytes.
    pub consumed: usize,
}

impl<'a> Plain<'a> {
    /// Fills a place that was not taken.
    pub const NONE: Self = Self { key: &[], work: PlainWork::Get };

    /// Whether a stream that goes on so may go on with a plain request. O(1): for who would make places for them otherwise.
    #[inline]
    pub fn may_begin(input: &[u8]) -> bool {
        matches!(input.first_chunk().map(|verb| u32::from_le_bytes(*verb)), Some(GET | SET))
    }

    /// The request that the whole of `input` is, if it is plain and within the limits. O(key).
    #[inline]
    pub fn only(input: &'a [u8], limits: &Limits) -> Option<Self> {
        // By the loop that everybody uses: a second caller would move `take_one` out of it.
        let mut places = [Self::NONE];
        let taken = take(input, limits, &mut places);
        (taken.count == 1 && taken.consumed == input.len()).then_some(places[0])
    }

    /// The request as the parser gives it. That of a get is followed by the end of its line.
    pub fn request(&self) -> Request<'a> {
        match self.work {
            PlainWork::Get => Request::get(self.key, false),
            PlainWork::Set { client_flags, exptime, value } => {
                let command = Command::Store { mode: StoreMode::Set, client_flags, exptime, compare: None };
                Request { value, ..Request::keyed(command, self.key) }
            }
        }
    }
}

/// Reads plain requests until there is another, an unfinished one, or no more place. O(bytes but those of values).
#[inline]
pub(crate) fn take<'a>(input: &'a [u8], limits: &Limits, places: &mut [Plain<'a>]) -> PlainTaken {
    let mut taken = PlainTaken { count: 0, consumed: 0 };
    for place in places {
        let rest = &input[taken.consumed..];
        let Some((plain, bytes)) = take_one(rest, limits) else { break };
        *place = plain;
        taken.count += 1;
        taken.consumed += bytes;
    }
    taken
}

#[inline]
fn take_one<'a>(input: &'a [u8], limits: &Limits) -> Option<(Plain<'a>, usize)> {
    let (verb, rest) = input.split_first_chunk()?;
    let (key, behind) = rest.split_at(key_size(rest)?);
    let (work, behind) = match u32::from_le_bytes(*verb) {
        GET => (PlainWork::Get, behind),
        SET => take_set(key, behind, limits)?,
        _ => return None,
    };
    let behind = behind.strip_prefix(VALUE_END)?;
    (!key.is_empty()).then(|| (Plain { key, work }, input.len() - behind.len()))
}

/// What follows the key of a set, up to the end of its value.
#[inline]
fn take_set<'a>(key: &[u8], behind: &'a [u8], limits: &Limits) -> Option<(PlainWork<'a>, &'a [u8])> {
    let (client_flags, behind) = take_number(behind)?;
    let (exptime, behind) = take_number(behind)?;
    let (value_size, behind) = take_number(behind)?;
    let behind = behind.strip_prefix(VALUE_END)?;
    let client_flags = u32::try_from(client_flags).ok()?;
    let value_size =
        u32::try_from(value_size).ok().filter(|&size| limits.allow(key.len(), client_flags, size))?;
    let (value, behind) = behind.split_at_checked(value_size as usize)?;
    Some((PlainWork::Set { client_flags, exptime: i64::try_from(exptime).ok()?, value }, behind))
}

/// Bytes before the first one that may not be in a plain key. `None` if they are too many for a key, or no other byte follows them.
#[inline]
fn key_size(text: &[u8]) -> Option<usize> {
    let text = &text[..text.len().min(KEY_SIZE_MAX + 1)];
    let mut words = text.chunks_exact(WORD_BYTES);
    let mut before = 0;
    for word in words.by_ref() {
        if let Some(at) = first_low_byte(word) {
            return Some(before + at);
        }
        before += WORD_BYTES;
    }
    words.remainder().iter().position(|&byte| byte <= b' ').map(|at| before + at)
}

/// Where the first byte up to a space is, all bytes looked at together: the lowest borrow out of a byte below 0x80 is right.
#[inline]
fn first_low_byte(word: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let word = u64::from_le_bytes(word.try_into().ok()?);
    let low = word.wrapping_sub(ONES * (u64::from(b' ') + 1)) & !word & (ONES << 7);
    (low != 0).then(|| low.trailing_zeros() as usize / 8)
}

/// A space and a number behind it.
#[inline]
fn take_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.strip_prefix(b" ")?;
    let mut number = 0;
    let mut count = 0;
    for digit in digits.iter().map(|byte| byte.wrapping_sub(b'0')).take_while(|&digit| digit < 10) {
        if count == DIGITS_MAX {
            return None;
        }
        number = number * 10 + u64::from(digit);
        count += 1;
    }
    (count > 0).then(|| (number, &digits[count..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Parser, Protocol, Step};
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { item_size_max: 200 };

    /// The plain requests at the front of a stream, one by one as the parser sees them.
    fn twin(mut stream: &[u8]) -> Vec<Request<'_>> {
        let mut parser = Parser::new(Protocol::Text, crate::Auth::Open);
        let mut requests = Vec::new();
        while let Step::Request { request, consumed } = parser.next(stream, &LIMITS) {
            stream = &stream[consumed..];
            requests.push(request);
        }
        requests
    }

    /// Takes what is plain and compares it with the first requests of the parser, which must go on behind it.
    #[track_caller]
    fn check(stream: &[u8], expected_count: Option<usize>) {
        let mut places = [Plain::NONE; 16];
        let taken = Parser::new(Protocol::Text, crate::Auth::Open).plain(stream, &LIMITS, &mut places);
        let mut requests = twin(stream).into_iter();
        for plain in &places[..taken.count] {
            assert_eq!(Some(plain.request()), requests.next());
            if plain.work == PlainWork::Get {
                assert_eq!(requests.next().map(|request| request.command), Some(Command::EndOfKeys));
            }
        }
        assert_eq!(requests.collect::<Vec<_>>(), twin(&stream[taken.consumed..]));
        assert!(taken.count == 0 || Plain::may_begin(stream));
        assert!(expected_count.is_none_or(|count| count == taken.count), "{taken:?} of {stream:?}");
    }

    #[test]
    fn a_get_of_one_key_and_a_whole_set_are_plain_and_nothing_else_is() {
        check(b"get a\r\n", Some(1));
        check(b"get 0123456789abcdef\r\nget \xff\x80\r\nget a\r\n", Some(3));
        check(b"set a 0 0 0\r\n\r\nset abcdefghi 4294967295 9999999999 12\r\n0123456789\r\n\r\n", Some(2));
        check(b"set a 0 0 5\r\nvalue\r\nget b\r\n", Some(2));
        let odd: [&[u8]; 26] = [
            b"get a b\r\n",
            b"get  a\r\n",
            b"get a \r\n",
            b"get a\n",
            b"get a\tb\r\n",
            b"get \r\n",
            b"get\r\n",
            b"gets a\r\n",
            b" get a\r\n",
            b"GET a\r\n",
            b"get a\r",
            b"get a\rb\n",
            b"set a 0 0 1\r\n\r\n\r\n",
            b"set a 0 0 1\r\nx\n\n",
            b"set a 0 0 1\nx\r\n",
            b"set a 0 0 1 \r\nx\r\n",
            b"set a 0 0 1 noreply\r\nx\r\n",
            b"set a 0 0 -1\r\nx\r\n",
            b"set a 0 -1 1\r\nx\r\n",
            b"set a 4294967296 0 1\r\nx\r\n",
            b"set a 0 00000000000 1\r\nx\r\n",
            b"set a 0  0 1\r\nx\r\n",
            b"set a 0 0\r\nx\r\n",
            b"set a 0 0 1\r\nx",
            b"set a 0 0 141\r\nx\r\n",
            b"set  0 0 1\r\nx\r\n",
        ];
        for stream in odd {
            check(stream, Some(0));
        }
    }

    #[test]
    fn keys_are_plain_up_to_the_longest() {
        for (size, count) in [(1, 1), (249, 1), (250, 1), (251, 0), (500, 0)] {
            check(&[b"get ", vec![b'k'; size].as_slice(), b"\r\n"].concat(), Some(count));
        }
    }

    #[test]
    fn no_more_is_taken_than_there_are_places() {
        let stream = b"get a\r\n".repeat(5);
        let taken = take(&stream, &LIMITS, &mut [Plain::NONE; 3]);
        assert_eq!(taken, PlainTaken { count: 3, consumed: 21 });
    }

    #[test]
    fn where_a_client_has_to_authenticate_or_a_line_is_begun_nothing_is_plain() {
        let places = || [Plain::NONE; 4];
        let nothing = PlainTaken { count: 0, consumed: 0 };
        let required = Parser::new(Protocol::Text, crate::Auth::Required);
        assert_eq!(required.plain(b"get a\r\n", &LIMITS, &mut places()), nothing);
        let binary = Parser::new(Protocol::Binary, crate::Auth::Open);
        assert_eq!(binary.plain(b"get a\r\n", &LIMITS, &mut places()), nothing);
        let mut parser = Parser::new(Protocol::Text, crate::Auth::Open);
        parser.next(b"get b c\r\nget a\r\n", &LIMITS);
        assert_eq!(parser.plain(b"get a\r\n", &LIMITS, &mut places()), nothing);
    }

    proptest! {
        #[test]
        fn the_first_low_byte_is_where_a_loop_finds_it(text in proptest::collection::vec(any::<u8>(), 0..40), low in 0_u8..0x40) {
            let text: Vec<u8> = text.into_iter().map(|byte| if byte < 0x30 { byte + low } else { byte }).collect();
            prop_assert_eq!(key_size(&text), text.iter().position(|&byte| byte <= b' '));
        }

        #[test]
        fn whatever_is_plain_is_what_the_parser_says(
            parts in proptest::collection::vec("(get |set |gets |a|0|1|7|99| | |\r\n|\r\n|\n|\r|\u{1}|\u{7f}|key|value)", 0..24),
            cut in 0_usize..100,
        ) {
            let stream = parts.concat().into_bytes();
            check(&stream[..stream.len().min(cut)], None);
        }

        #[test]
        fn a_pipeline_of_plain_requests_cut_anywhere_is_what_the_parser_says(
            requests in proptest::collection::vec(("[a-z]{1,20}", 0_u32..40, 0_usize..60, any::<bool>()), 1..12),
            cut in 0_usize..1000,
        ) {
            let mut stream = Vec::new();
            for (key, flags, size, is_set) in &requests {
                let text = match is_set {
                    false => format!("get {key}\r\n"),
                    true => format!("set {key} {flags} {flags} {size}\r\n{}\r\n", "\r".repeat(*size)),
                };
                stream.extend_from_slice(text.as_bytes());
            }
            check(&stream, Some(requests.len()));
            check(&stream[..stream.len().min(cut)], None);
        }
    }
}
