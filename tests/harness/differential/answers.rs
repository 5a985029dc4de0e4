//! Answers as they are compared: without what may differ, which is kept beside the text.

use std::io::{self, ErrorKind};

use crate::Connection;

/// The key of a text fence. No stream uses it for anything else.
const FENCE_KEY: &str = "~fence";

/// What begins the opaque of a fence; its number follows.
const FENCE_MARK: &str = "~";

/// Opaque of a binary fence without its number.
const BINARY_FENCE: u32 = 0xfe_0000;

const BINARY_HEADER_SIZE: usize = 24;
const BINARY_MAGIC: u8 = 0x81;
const BINARY_NOOP: u8 = 0x0a;
const BINARY_VERSION: u8 = 0x0b;

/// The language of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The classic and the meta commands.
    Text,
    /// The binary protocol.
    Binary,
}

/// One line with what belongs to it, or one binary packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// With a star in place of each mark.
    pub text: Vec<u8>,
    /// What may differ, in order.
    pub marks: Vec<Mark>,
    /// The number of the request that the fence is behind, when this is a fence.
    pub fence: Option<usize>,
}

/// A number that is not the same on two servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The version of an item.
    Version(u64),
    /// Time that is left or has gone by.
    Seconds(i64),
    /// Bytes of a value, spaces behind a counter included.
    Size(u64),
}

impl Answer {
    /// The end of a connection, or no answer in time.
    pub fn of_error(error: &io::Error) -> Self {
        let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        let text = match is_late {
            true => "(no answer)".to_owned(),
            false if crate::connection::is_end(error) => "(closed)".to_owned(),
            false => format!("({error})"),
        };
        Self { text: text.into_bytes(), ..Self::default() }
    }

    /// For a person.
    pub fn describe(&self) -> String {
        let marks = if self.marks.is_empty() { String::new() } else { format!(" {:?}", self.marks) };
        format!("\"{}\"{marks}", crate::transcript::shorten(&self.text))
    }

    fn push_version(&mut self, version: u64) {
        self.text.push(b'*');
        self.marks.push(Mark::Version(version));
    }

    fn push_size(&mut self, size: u64) {
        self.text.push(b'*');
        self.marks.push(Mark::Size(size));
    }

    fn push_seconds(&mut self, seconds: i64) {
        self.text.push(b'*');
        self.marks.push(Mark::Seconds(seconds));
    }
}

impl Dialect {
    /// Appends what is answered at once, with the number it carries.
    pub fn append_fence(self, bytes: &mut Vec<u8>, number: usize) {
        match self {
            Self::Text => {
                let fence = format!("ms {FENCE_KEY} 1 O{FENCE_MARK}{number}\r\nx\r\n");
                bytes.extend_from_slice(fence.as_bytes());
            }
            Self::Binary => {
                let mut header = [0; BINARY_HEADER_SIZE];
                (header[0], header[1]) = (0x80, BINARY_NOOP);
                let number = u32::try_from(number).expect("a batch is short");
                header[12..16].copy_from_slice(&(BINARY_FENCE + number).to_be_bytes());
                bytes.extend_from_slice(&header);
            }
        }
    }

    /// Reads the next answer.
    pub fn read(self, connection: &mut Connection) -> io::Result<Answer> {
        match self {
            Self::Text => read_text(connection),
            Self::Binary => read_binary(connection),
        }
    }
}

fn read_text(connection: &mut Connection) -> io::Result<Answer> {
    let line = connection.read_line()?;
    let mut answer = Answer::default();
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let number = |word: Option<&&[u8]>| {
        word.and_then(|word| std::str::from_utf8(word).ok()).and_then(|word| word.parse::<usize>().ok())
    };
    let value_size = match words[0] {
        b"HD" => {
            answer.fence = fence_number(&line);
            append_meta_flags(&mut answer, &words, 1);
            None
        }
        b"VA" => {
            append_meta_flags(&mut answer, &words, 2);
            number(words.get(1))
        }
        b"EN" | b"NS" | b"EX" | b"NF" => {
            append_meta_flags(&mut answer, &words, 1);
            None
        }
        b"ME" => {
            append_debug_words(&mut answer, &words);
            None
        }
        b"VALUE" => {
            append_value_line(&mut answer, &words);
            number(words.get(3))
        }
        b"VERSION" => {
            answer.text.extend_from_slice(b"VERSION *");
            None
        }
        _ => {
            answer.text.extend_from_slice(&line);
            None
        }
    };
    if let Some(size) = value_size {
        let value = connection.read_exact(size + 2)?;
        answer.text.extend_from_slice(b"\r\n");
        answer.text.extend_from_slice(without_padding(&value));
    }
    Ok(answer)
}

/// A body that may end with a counter, without the spaces behind that.
fn without_padding_behind_digits(body: &[u8]) -> &[u8] {
    let text = body.trim_ascii_end();
    if text.last().is_some_and(u8::is_ascii_digit) { text } else { body }
}

/// A value without the spaces that a counter may have behind it.
fn without_padding(value: &[u8]) -> &[u8] {
    let text = value.strip_suffix(b"\r\n").unwrap_or(value).trim_ascii_end();
    if !text.is_empty() && text.iter().all(u8::is_ascii_digit) { text } else { value }
}

fn fence_number(line: &[u8]) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("HD O")?.strip_prefix(FENCE_MARK)?.parse().ok()
}

/// `VALUE key flags size [version]`.
fn append_value_line(answer: &mut Answer, words: &[&[u8]]) {
    for (index, word) in words.iter().enumerate() {
        append_separator(answer, index);
        match parse::<u64>(word) {
            Some(version) if index == 4 => answer.push_version(version),
            Some(size) if index == 3 => answer.push_size(size),
            _ => answer.text.extend_from_slice(word),
        }
    }
}

/// The words of a meta answer, of which those from `first` on are flags: `c` a version, `s` a size, `t` seconds.
fn append_meta_flags(answer: &mut Answer, words: &[&[u8]], first: usize) {
    for (index, word) in words.iter().enumerate() {
        append_separator(answer, index);
        if let (1, 2, Some(size)) = (index, first, parse(word)) {
            answer.push_size(size);
            continue;
        }
        let (letter, rest) = word.split_at(usize::from(index >= first && !word.is_empty()));
        answer.text.extend_from_slice(letter);
        match (letter, parse::<u64>(rest), parse::<i64>(rest)) {
            (b"c", Some(version), _) => answer.push_version(version),
            (b"s", Some(size), _) => answer.push_size(size),
            // -1 is no time but never.
            (b"t", _, Some(seconds @ 0..)) => answer.push_seconds(seconds),
            // The reference remembers accesses to the minute.
            (b"l", _, Some(_)) => {}
            _ => answer.text.extend_from_slice(rest),
        }
    }
}

/// `ME key name=value...`: sizes and classes are each server's own, accesses remembered to the minute.
fn append_debug_words(answer: &mut Answer, words: &[&[u8]]) {
    for (index, word) in words.iter().enumerate() {
        append_separator(answer, index);
        let text = String::from_utf8_lossy(word);
        let (name, value) = text.split_once('=').unwrap_or((&text, ""));
        answer.text.extend_from_slice(name.as_bytes());
        match (name, value.parse::<u64>(), value.parse::<i64>()) {
            ("cas", Ok(version), _) => answer.push_version(version),
            // The reference counts the seconds since the end, which is before it.
            ("exp", _, Ok(seconds)) if seconds != -1 => answer.push_seconds(seconds.abs()),
            ("la" | "cls" | "size", ..) => {}
            _ => answer.text.extend_from_slice(value.as_bytes()),
        }
    }
}

fn append_separator(answer: &mut Answer, index: usize) {
    if index > 0 {
        answer.text.push(b' ');
    }
}

fn parse<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn read_binary(connection: &mut Connection) -> io::Result<Answer> {
    let header = connection.read_exact(BINARY_HEADER_SIZE)?;
    let field = |from: usize| {
        u32::from_be_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]])
    };
    let (body_size, opaque) = (field(8), field(12));
    let version = (u64::from(field(16)) << 32) | u64::from(field(20));
    if header[0] != BINARY_MAGIC {
        let text = [b"no binary answer: ".as_slice(), &header].concat();
        return Ok(Answer { text, ..Answer::default() });
    }
    let body = connection.read_exact(usize::try_from(body_size).map_err(io::Error::other)?)?;
    let fence = opaque.checked_sub(BINARY_FENCE).filter(|_| header[1] == BINARY_NOOP);
    let mut answer = Answer { fence: fence.and_then(|number| number.try_into().ok()), ..Answer::default() };
    answer.text.extend_from_slice(&header[..8]);
    answer.push_size(body_size.into());
    answer.text.extend_from_slice(&header[12..16]);
    answer.push_version(version);
    match header[1] {
        // The server's own version, of any length.
        BINARY_VERSION => answer.text.clear(),
        _ => answer.text.extend_from_slice(without_padding_behind_digits(&body)),
    }
    Ok(answer)
}
