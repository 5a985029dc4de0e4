//! The keys that a stream will ask for next, guessed: for who wants to fetch their memory before it parses. It checks nothing and
//! changes nothing; a wrong guess costs a needless fetch.

use memchr::memchr;

use crate::binary::{HEADER_SIZE, REQUEST_MAGIC};
use crate::limits::KEY_SIZE_MAX;
use crate::line::VALUE_END;
use crate::number::parse_u32;
use crate::tokens::Tokens;

/// Keys in the order of a stream, 1 to [`KEY_SIZE_MAX`] bytes each, as sent. See [`Parser::keys_ahead`](crate::Parser::keys_ahead).
#[derive(Clone, Debug)]
pub struct KeysAhead<'a> {
    /// Keys of the line that was begun.
    line: Tokens<'a>,
    /// What is behind it.
    rest: &'a [u8],
}

impl<'a> KeysAhead<'a> {
    /// Of a stream that goes on with the keys of a line, and behind it with requests.
    pub(crate) fn new(line: &'a [u8], rest: &'a [u8]) -> Self {
        Self { line: Tokens::new(line), rest }
    }

    /// Bytes of the stream behind what has been looked at.
    pub fn bytes_left(&self) -> usize {
        self.line.rest().len() + self.rest.len()
    }

    /// The key of the next request. That of a line of keys is its first, and the others wait in `line`.
    fn next_request(&mut self) -> Option<&'a [u8]> {
        if self.rest.first() == Some(&REQUEST_MAGIC) {
            return self.next_packet();
        }
        let (line, rest) = self.rest.split_at(memchr(b'\n', self.rest)? + 1);
        let line = &line[..line.len() - 1];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.rest = rest;
        // Most lines are these, and their keys are at hand.
        if let Some(keys) = line.strip_prefix(b"get ") {
            self.line = Tokens::new(keys);
            return Some(self.line.next().unwrap_or_default());
        }
        let (verb, arguments) = line.split_at(memchr(b' ', line).unwrap_or(line.len()));
        let mut tokens = Tokens::new(arguments);
        if let b"gat" | b"gats" = verb {
            tokens.next();
        }
        // Of what has no key, the first word is as good as any.
        let key = tokens.next().unwrap_or_default();
        match verb {
            b"get" | b"gets" | b"gat" | b"gats" => self.line = tokens,
            b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => self.skip_value(tokens.nth(2)),
            b"ms" => self.skip_value(tokens.next()),
            _ => {}
        }
        Some(key)
    }

    fn skip_value(&mut self, size: Option<&[u8]>) {
        let bytes = size.and_then(parse_u32).map_or(0, |size| size as usize + VALUE_END.len());
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn next_packet(&mut self) -> Option<&'a [u8]> {
        let (header, body) = self.rest.split_at_checked(HEADER_SIZE)?;
        let key_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let extras_bytes = usize::from(header[4]);
        let body_bytes = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
        self.rest = body.get(body_bytes..).unwrap_or_default();
        body.get(extras_bytes..)?.get(..key_bytes)
    }
}

impl<'a> Iterator for KeysAhead<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let Some(key) = self.line.next().or_else(|| self.next_request()) else {
                self.rest = &[];
                return None;
            };
            if (1..=KEY_SIZE_MAX).contains(&key.len()) {
                return Some(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Command, Limits, Parser, Step, client};

    /// What is guessed at each step of a stream, against what is parsed from there on.
    #[track_caller]
    fn check(stream: &[u8]) {
        let mut parser = Parser::default();
        let mut rest = stream;
        let mut asked = Vec::new();
        let mut guesses: Vec<(usize, Vec<&[u8]>)> = Vec::new();
        while !rest.is_empty() {
            guesses.push((asked.len(), parser.keys_ahead(rest).collect()));
            match parser.next(rest, &Limits::default()) {
                Step::Request { request, consumed } => {
                    if request.command.is_keyed() {
                        asked.push(request.key);
                    }
                    assert!(consumed > 0 || request.command == Command::EndOfKeys);
                    rest = &rest[consumed..];
                }
                step => panic!("{step:?}"),
            }
        }
        for (from, guessed) in guesses {
            assert_eq!(guessed, &asked[from..]);
        }
    }

    #[test]
    fn what_ordinary_requests_ask_for_is_guessed_from_any_place() {
        check(b"get a\r\nget  b c dd\r\ngets e\n");
        check(b"gat 10 a b\r\ntouch c 1\r\nincr d 2\r\ndelete e\r\nmg f v t\r\nmd g q\r\nma h\r\n");
        check(b"set a 0 0 5\r\nget b\r\nms c 2 T0\r\nxx\r\ncas d 0 0 1 7\r\n \r\nget e\r\n");
        let mut packets = Vec::new();
        client::binary::get(&mut packets, 7, b"k 1");
        client::binary::set(&mut packets, 8, b"kk", 0, 0, b"value");
        client::binary::get(&mut packets, 9, b"kkk");
        check(&packets);
    }

    #[test]
    fn a_stream_that_is_no_request_gives_what_it_gives_and_ends() {
        for stream in [&b"\r\n\r\n"[..], b"GET / HTTP/1.1\r\n", b"\x80", b"set a 0 0 4294967295\r\nx", b"get"]
        {
            assert!(Parser::default().keys_ahead(stream).count() <= 1, "{stream:?}");
        }
        let long = [&b"get "[..], &[b'k'; 251], b" short\r\n"].concat();
        assert_eq!(Parser::default().keys_ahead(&long).collect::<Vec<_>>(), [b"short"]);
    }

    #[test]
    fn a_guess_says_how_far_it_looked() {
        let stream = b"get a b\r\nget c\r\n";
        let mut keys = Parser::default().keys_ahead(stream);
        assert_eq!(keys.bytes_left(), stream.len());
        assert_eq!((keys.next(), keys.bytes_left()), (Some(&b"a"[..]), b" bget c\r\n".len()));
        assert_eq!((keys.by_ref().count(), keys.bytes_left()), (2, 0));
    }
}
