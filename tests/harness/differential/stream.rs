//! What a stream is made of: requests in batches, with holes where each server gets a version of its own.

use std::collections::BTreeMap;

use super::answers::Answer;

/// Stands for a version that no server has given to an item.
const UNKNOWN_VERSION: u64 = 999_999_999_999_999;

/// Requests that are sent over one connection before any of their answers is read.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Which connection it is sent over.
    pub connection: usize,
    /// Whether the first half of its first request is sent some time before the rest.
    pub is_held: bool,
    /// Seed of the pieces it is sent in, or `None` for one piece.
    pub cuts_seed: Option<u64>,
    /// Never empty.
    pub requests: Vec<Request>,
}

/// One request, or bytes that look like one.
#[derive(Clone, Debug, Default)]
pub struct Request {
    parts: Vec<Part>,
    /// How far the answers to it may differ.
    pub allowance: Allowance,
    /// Whether the server closes the connection. Then it is the last request of its batch and no fence follows: a server that
    /// closes with something unread may take back what it has answered before.
    pub closes: bool,
    /// Whether a fence follows it, so that its answers can be told from those to the requests after it.
    pub is_fenced: bool,
}

#[derive(Clone, Debug)]
enum Part {
    Bytes(Vec<u8>),
    /// One of the versions seen so far, by a number that is taken modulo their count. As digits, or as eight bytes.
    Version {
        number: usize,
        is_binary: bool,
    },
}

/// How far the answers to one request may differ. [`RENAMED_TEXTS`] is allowed for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allowance {
    /// Not at all.
    #[default]
    Nothing,
    /// 1.6.18 takes the value of a refused storage line for a command and answers it with another error.
    ErrorCount,
}

const FORMAT_ERROR: &str = "CLIENT_ERROR bad command line format";

/// Answers of memcached 1.6.18, and what 1.6.45 and Slabring say in their place. The reference is whichever version is
/// installed.
const RENAMED_TEXTS: [(&str, &[&str]); 2] = [
    // Too few words, an empty line.
    ("ERROR", &[FORMAT_ERROR]),
    ("CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]", &[FORMAT_ERROR]),
];

/// Texts about mistakes in meta flags. 1.6.18 has one for most of them, and a line with two may be answered with either.
const META_TEXTS: [&str; 9] = [
    "CLIENT_ERROR invalid or duplicate flag",
    "CLIENT_ERROR invalid flag",
    "CLIENT_ERROR duplicate flag",
    "CLIENT_ERROR error decoding key",
    "CLIENT_ERROR opaque token too long",
    "CLIENT_ERROR invalid numeric delta value",
    "CLIENT_ERROR invalid mode for ms M token",
    "CLIENT_ERROR bad token in command line format",
    FORMAT_ERROR,
];

/// Whether the reference and the subject have said the same, in each one's version.
pub fn is_same_text(expected: &[u8], got: &[u8]) -> bool {
    let is_renamed = |(old, new): &(&str, &[&str])| {
        expected == old.as_bytes() && new.iter().any(|new| got == new.as_bytes())
    };
    let is_meta = |text: &[u8]| META_TEXTS.iter().any(|meta| text == meta.as_bytes());
    expected == got || (is_meta(expected) && is_meta(got)) || RENAMED_TEXTS.iter().any(is_renamed)
}

impl Allowance {
    /// Answers as they are compared.
    pub fn normalize(self, answers: &[Answer]) -> Vec<Answer> {
        let mut answers = answers.to_vec();
        if self == Self::Nothing {
            return answers;
        }
        let is_error = |answer: &Answer| is_same_text(b"ERROR", &answer.text);
        answers.dedup_by(|a, b| is_error(a) && is_error(b));
        answers
            .iter_mut()
            .filter(|answer| is_error(answer))
            .for_each(|answer| answer.text = b"ERROR".to_vec());
        answers
    }
}

impl Request {
    /// A request of these bytes.
    pub fn of(bytes: impl Into<Vec<u8>>) -> Self {
        Self { parts: vec![Part::Bytes(bytes.into())], ..Self::default() }
    }

    /// With more bytes behind it.
    #[must_use]
    pub fn then(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.parts.push(Part::Bytes(bytes.into()));
        self
    }

    /// With a version behind it, as digits.
    #[must_use]
    pub fn then_version(mut self, number: usize) -> Self {
        self.parts.push(Part::Version { number, is_binary: false });
        self
    }

    /// With a version behind it, as eight bytes.
    #[must_use]
    pub fn then_binary_version(mut self, number: usize) -> Self {
        self.parts.push(Part::Version { number, is_binary: true });
        self
    }

    /// With answers that may differ, and fenced so that no others may.
    #[must_use]
    pub fn allowing(mut self, allowance: Allowance) -> Self {
        self.is_fenced |= allowance != Allowance::Nothing;
        self.allowance = self.allowance.max(allowance);
        self
    }

    /// A request that ends the connection.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// Bytes it has whatever the versions are.
    pub fn size_min(&self) -> usize {
        self.parts.iter().map(|part| if let Part::Bytes(bytes) = part { bytes.len() } else { 0 }).sum()
    }

    /// Appends it as one server gets it.
    pub fn append_to(&self, bytes: &mut Vec<u8>, versions: &[u64]) {
        for part in &self.parts {
            match part {
                Part::Bytes(part) => bytes.extend_from_slice(part),
                Part::Version { number, is_binary } => {
                    let known = versions.get(number.checked_rem(versions.len()).unwrap_or(0));
                    let version = known.copied().unwrap_or(UNKNOWN_VERSION);
                    if *is_binary {
                        bytes.extend_from_slice(&version.to_be_bytes());
                    } else {
                        bytes.extend_from_slice(version.to_string().as_bytes());
                    }
                }
            }
        }
    }

    /// For a person.
    pub fn describe(&self) -> String {
        let parts = self.parts.iter().map(|part| match part {
            Part::Bytes(bytes) => crate::transcript::shorten(bytes),
            Part::Version { .. } => "{version}".to_owned(),
        });
        parts.collect()
    }
}

impl Batch {
    /// Whether a fence follows the request of this number. One follows the last one, so that a batch has an end, if the
    /// connection does not end there.
    pub fn is_fenced_behind(&self, number: usize) -> bool {
        let next = self.requests.get(number + 1);
        let is_next_special = next.is_some_and(|next| next.allowance != Allowance::Nothing);
        !self.requests[number].closes
            && (self.requests[number].is_fenced || is_next_special || next.is_none())
    }

    /// How far the answers between each two fences may differ.
    pub fn allowances(&self) -> impl Iterator<Item = Allowance> {
        (0..self.requests.len())
            .filter(|&number| self.is_fenced_behind(number))
            .map(|number| self.requests[number].allowance)
    }
}

/// Which version of the subject is which version of the reference.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    pairs: Vec<(u64, u64)>,
    of_reference: BTreeMap<u64, u64>,
    of_subject: BTreeMap<u64, u64>,
}

impl Versions {
    /// Whether two versions can be of the same item at the same time, given all those that were before.
    pub fn learn(&mut self, reference: u64, subject: u64) -> bool {
        // No version at all is the same for everybody.
        if reference == 0 || subject == 0 {
            return reference == subject;
        }
        let known = *self.of_reference.entry(reference).or_insert(subject);
        let known_back = *self.of_subject.entry(subject).or_insert(reference);
        if known == subject && known_back == reference {
            self.pairs.push((reference, subject));
        }
        known == subject && known_back == reference
    }

    /// The versions of the server of this number, 0 for the reference and 1 for the subject, in the order they were seen.
    pub fn of_server(&self, server: usize) -> Vec<u64> {
        let pick = |&(reference, subject): &(u64, u64)| if server == 0 { reference } else { subject };
        // The last ones are likelier to be of something that is still there.
        self.pairs.iter().rev().take(8).map(pick).collect()
    }
}
