//! Transcripts: conversations with a server as text files. Reading them never talks to anything.
//!
//! ```text
//! -- a comment
//! # name of a section: a fresh connection to an empty cache
//! @since 1.6.45         memcached below this version answers this section differently
//! @before 1.6.45        memcached of this version and above answers this section differently: docs/compatibility.md says why we do not
//! @only slabring        memcached of any version answers this section differently
//! @whole                a section whose answers depend on how its bytes arrive
//! > a line to send, CRLF is added
//! >> bytes to send, nothing is added
//! < the line expected next, without its CRLF
//! << the bytes expected next
//! = quiet               nothing more arrives before the answer of an `mn` sent here
//! = closed              the server closes the connection
//! = sleep 1100          milliseconds
//! ```
//!
//! Both sides understand `\r \n \t \0 \\ \{ \s \xHH` (`\s` is a space that an editor would strip) and `{x*1000}`, a text
//! a thousand times. A line to send may name `{a}`, a number seen before. A line expected may hold `{a}`, any number at first and
//! the same one from then on, `{!a}`, a number other than that one, and `{*}`, any text up to what follows.
//! A section ends with `= quiet` of its own unless it ends closed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::server::{Kind, Version};

/// A file of sections.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// The file's name, for messages.
    pub name: String,
    /// In the order of the file.
    pub sections: Vec<Section>,
}

/// A conversation on one connection with a cache that is empty at first.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// What its `#` line says.
    pub title: String,
    /// Who is expected to answer like this.
    pub audience: Audience,
    /// Its bytes must arrive as the file has them.
    pub whole: bool,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// Which servers a section is true for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Every memcached, and Slabring.
    #[default]
    All,
    /// Slabring, and memcached from this version on.
    Since(Version),
    /// Slabring, and memcached below this version.
    Before(Version),
    /// Slabring alone.
    Slabring,
}

impl Audience {
    /// Whether a server of this kind is expected to answer like the section.
    pub fn includes(self, kind: Kind) -> bool {
        match (self, kind) {
            (_, Kind::Slabring) | (Self::All, _) => true,
            (Self::Since(first), Kind::Memcached(version)) => version >= first,
            (Self::Before(first), Kind::Memcached(version)) => version < first,
            (Self::Slabring, Kind::Memcached(_)) => false,
        }
    }
}

/// One line of a section.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its number in the file, from 1.
    pub line: usize,
    /// What it asks for.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends these bytes.
    Send(Template),
    /// Expects a line.
    Line(Template),
    /// Expects exactly these bytes.
    Bytes(Vec<u8>),
    /// Expects the end of the stream and nothing before it.
    Closed,
    /// Expects nothing before a fence.
    Quiet,
    /// Waits for this many milliseconds.
    Sleep(u64),
}

/// Numbers that a section has named so far.
pub type Captures = BTreeMap<String, Vec<u8>>;

/// Bytes with holes.
#[derive(Clone, Debug, Default)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Bytes(Vec<u8>),
    /// The number of this name.
    Same(String),
    /// A number other than the one of this name.
    Other(String),
    AnyText,
}

impl Transcript {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self::parse(&name, &text)
    }

    /// Reads a file's text.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut sections: Vec<Section> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(title) = line.strip_prefix("# ") {
                sections.push(Section { title: title.to_owned(), ..Section::default() });
            } else if !line.is_empty() && !line.starts_with("--") {
                let section =
                    sections.last_mut().with_context(|| format!("{name}:{number}: no section yet"))?;
                section.read_line(number, line).with_context(|| format!("{name}:{number}: {line}"))?;
            }
        }
        Ok(Self { name: name.to_owned(), sections })
    }

    /// Requests and the answers expected to them, each counted once however long.
    pub fn exchange_count(&self) -> usize {
        self.sections.iter().map(Section::exchange_count).sum()
    }
}

impl Section {
    /// Places where the conversation turns from sending to expecting.
    pub fn exchange_count(&self) -> usize {
        let is_sending: Vec<_> =
            self.steps.iter().map(|step| matches!(step.action, Action::Send(_))).collect();
        is_sending.windows(2).filter(|pair| pair[0] && !pair[1]).count()
    }

    /// The steps that send something. Of a section whose bytes must arrive as the file has them, those at which a turn begins.
    pub fn requests(&self) -> Vec<usize> {
        let sends = |at: usize| matches!(self.steps[at].action, Action::Send(_));
        let is_first = |at: usize| at == 0 || !sends(at - 1);
        (0..self.steps.len()).filter(|&at| sends(at) && (is_first(at) || !self.whole)).collect()
    }

    /// The same with a wait before step `at`.
    #[must_use]
    pub fn with_sleep(&self, at: usize, milliseconds: u64) -> Self {
        let mut paused = self.clone();
        paused.steps.insert(at, Step { line: self.steps[at].line, action: Action::Sleep(milliseconds) });
        paused
    }

    /// Milliseconds the section waits in all.
    pub fn sleep_ms(&self) -> u64 {
        let sleep =
            |step: &Step| if let Action::Sleep(milliseconds) = step.action { milliseconds } else { 0 };
        self.steps.iter().map(sleep).sum()
    }

    fn read_line(&mut self, number: usize, line: &str) -> Result<()> {
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        let action = match mark {
            "@since" => {
                let version = Version::parse(rest).context("a version has three numbers")?;
                self.audience = Audience::Since(version);
                return Ok(());
            }
            "@before" => {
                let version = Version::parse(rest).context("a version has three numbers")?;
                self.audience = Audience::Before(version);
                return Ok(());
            }
            "@only" => {
                ensure!(rest == "slabring", "only Slabring can have sections of its own");
                self.audience = Audience::Slabring;
                return Ok(());
            }
            "@whole" => {
                self.whole = true;
                return Ok(());
            }
            ">" => Action::Send(Template::parse(rest)?.followed_by(b"\r\n")),
            ">>" => Action::Send(Template::parse(rest)?),
            "<" => Action::Line(Template::parse(rest)?),
            "<<" => Action::Bytes(Template::parse(rest)?.fill(&Captures::new())?),
            "=" => read_event(rest)?,
            _ => bail!("a line starts with > >> < << = @ # or --"),
        };
        self.steps.push(Step { line: number, action });
        Ok(())
    }
}

fn read_event(text: &str) -> Result<Action> {
    match text.split_once(' ').unwrap_or((text, "")) {
        ("quiet", "") => Ok(Action::Quiet),
        ("closed", "") => Ok(Action::Closed),
        ("sleep", milliseconds) => Ok(Action::Sleep(milliseconds.parse()?)),
        _ => bail!("an event is quiet, closed or sleep"),
    }
}

impl Template {
    fn parse(mut text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut bytes = Vec::new();
        while let Some(first) = text.chars().next() {
            match first {
                '\\' => {
                    let (byte, length) = read_escape(text)?;
                    bytes.push(byte);
                    text = &text[length..];
                }
                '{' => {
                    let (hole, rest) = text[1..].split_once('}').context("a hole ends with }")?;
                    text = rest;
                    match read_hole(hole)? {
                        Part::Bytes(repeated) => bytes.extend(repeated),
                        part => {
                            parts.extend([Part::Bytes(std::mem::take(&mut bytes)), part]);
                        }
                    }
                }
                _ => {
                    let length = first.len_utf8();
                    bytes.extend_from_slice(&text.as_bytes()[..length]);
                    text = &text[length..];
                }
            }
        }
        parts.push(Part::Bytes(bytes));
        Ok(Self(parts))
    }

    fn followed_by(mut self, bytes: &[u8]) -> Self {
        self.0.push(Part::Bytes(bytes.to_vec()));
        self
    }

    /// Whether the template needs numbers that the conversation has to show first.
    pub fn has_holes(&self) -> bool {
        self.0.iter().any(|part| !matches!(part, Part::Bytes(_)))
    }

    /// The bytes, with each number put in.
    pub fn fill(&self, captures: &Captures) -> Result<Vec<u8>> {
        let mut filled = Vec::new();
        for part in &self.0 {
            match part {
                Part::Bytes(bytes) => filled.extend_from_slice(bytes),
                Part::Same(name) => {
                    filled.extend_from_slice(captures.get(name).context("no such number yet")?);
                }
                Part::Other(_) | Part::AnyText => bail!("only {{name}} can be sent"),
            }
        }
        Ok(filled)
    }

    /// Whether `line` is what the template describes. Remembers numbers that it names first.
    pub fn matches(&self, line: &[u8], captures: &mut Captures) -> bool {
        matches_parts(&self.0, line, captures)
    }

    /// The template as the file has it, near enough for a message.
    pub fn describe(&self) -> String {
        let describe = |part: &Part| match part {
            Part::Bytes(bytes) => shorten(bytes),
            Part::Same(name) => format!("{{{name}}}"),
            Part::Other(name) => format!("{{!{name}}}"),
            Part::AnyText => "{*}".to_owned(),
        };
        self.0.iter().map(describe).collect()
    }
}

fn matches_parts(parts: &[Part], line: &[u8], captures: &mut Captures) -> bool {
    let Some((part, others)) = parts.split_first() else {
        return line.is_empty();
    };
    match part {
        Part::Bytes(bytes) => {
            line.strip_prefix(bytes.as_slice()).is_some_and(|rest| matches_parts(others, rest, captures))
        }
        Part::AnyText => (0..=line.len()).any(|skipped| matches_parts(others, &line[skipped..], captures)),
        Part::Same(name) => {
            let (number, rest) = split_number(line);
            let known = captures.entry(name.clone()).or_insert_with(|| number.to_vec());
            !number.is_empty() && known == number && matches_parts(others, rest, captures)
        }
        Part::Other(name) => {
            let (number, rest) = split_number(line);
            let differs = captures.get(name).is_some_and(|known| known != number);
            !number.is_empty() && differs && matches_parts(others, rest, captures)
        }
    }
}

fn split_number(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(line.len());
    line.split_at(end)
}

/// The byte an escape at the start of `text` stands for, and the escape's length.
fn read_escape(text: &str) -> Result<(u8, usize)> {
    let byte = match text[1..].chars().next().context("an escape needs a letter")? {
        'r' => b'\r',
        'n' => b'\n',
        't' => b'\t',
        '0' => 0,
        's' => b' ',
        '\\' => b'\\',
        '{' => b'{',
        'x' => {
            let digits = text.get(2..4).context("\\x needs two digits")?;
            return Ok((u8::from_str_radix(digits, 16)?, 4));
        }
        other => bail!("\\{other} is no escape"),
    };
    Ok((byte, 2))
}

fn read_hole(hole: &str) -> Result<Part> {
    if hole == "*" {
        return Ok(Part::AnyText);
    }
    if let Some((text, count)) = hole.rsplit_once('*') {
        return Ok(Part::Bytes(text.repeat(count.parse()?).into_bytes()));
    }
    let (is_other, name) = hole.strip_prefix('!').map_or((false, hole), |name| (true, name));
    let is_name = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric());
    ensure!(is_name, "a hole is {{*}}, {{text*count}}, {{name}} or {{!name}}");
    let name = name.to_owned();
    Ok(if is_other { Part::Other(name) } else { Part::Same(name) })
}

/// Bytes for a message: escaped, and with the middle of a long text left out.
pub fn shorten(bytes: &[u8]) -> String {
    const SHOWN: usize = 120;
    if bytes.len() <= 2 * SHOWN {
        return bytes.escape_ascii().to_string();
    }
    let (head, tail) = (&bytes[..SHOWN], &bytes[bytes.len() - SHOWN..]);
    format!("{} ... {} ({} bytes)", head.escape_ascii(), tail.escape_ascii(), bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, line: &str, expected: bool) {
        let mut captures = Captures::from([("seen".to_owned(), b"17".to_vec())]);
        let matched = Template::parse(template).unwrap().matches(line.as_bytes(), &mut captures);
        assert_eq!(matched, expected, "{template:?} against {line:?}");
    }

    #[test]
    fn a_template_matches_its_line_and_no_other() {
        check("STORED", "STORED", true);
        check("STORED", "STORED ", false);
        check("STORED", "NOT_STORED", false);
        check("{ab*3}", "ababab", true);
        check("VALUE k 0 1 {cas}", "VALUE k 0 1 12", true);
        check("VALUE k 0 1 {cas}", "VALUE k 0 1 ", false);
        check("{seen}", "17", true);
        check("{seen}", "171", false);
        check("{!seen}", "18", true);
        check("{!seen}", "17", false);
        check("{a} {a}", "5 5", true);
        check("{a} {a}", "5 6", false);
        check("VERSION {*}", "VERSION 1.6", true);
        check("{*}=1{*}", "a=0 b=1 c", true);
        check("\\x41\\s\\{", "A {", true);
    }

    #[test]
    fn a_file_becomes_sections_of_steps() {
        let text = "-- note\n# one\n> get a\n< END\n\n# two\n@since 1.6.45\n@whole\n>> x\\r\\n\n= closed\n";
        let transcript = Transcript::parse("name", text).unwrap();
        assert_eq!(transcript.exchange_count(), 2);
        let [one, two] = transcript.sections.as_slice() else { panic!("two sections") };
        assert_eq!((one.title.as_str(), one.audience, one.whole), ("one", Audience::All, false));
        assert_eq!((two.audience, two.whole), (Audience::Since(Version(1, 6, 45)), true));
        assert_eq!(two.steps[0].line, 9);
    }

    #[test]
    fn a_mistake_in_a_file_names_its_line() {
        let error = Transcript::parse("bad.txt", "# one\n> ok\n? what\n").unwrap_err();
        assert!(error.to_string().starts_with("bad.txt:3"), "{error}");
        assert!(Transcript::parse("bad.txt", "> before any section\n").is_err());
        assert!(Transcript::parse("bad.txt", "# one\n< {never ends\n").is_err());
    }
}
