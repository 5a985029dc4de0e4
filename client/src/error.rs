//! What can go wrong, for callers to branch on, with what is known of its effect. The words for people are made here.

use std::io;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::key::NotAKey;

/// Bytes of a server's words that an error keeps.
const WORDS_BYTES_MAX: usize = 200;

/// Whether a server may have done what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    /// Certainly not: it may be tried again.
    No,
    /// Nobody knows: it was sent, and no answer came.
    Unknown,
}

/// Why a command has no answer. The connection it was on is used no further unless the server itself refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// These bytes cannot name an item. Not executed.
    #[error(transparent)]
    Key(#[from] NotAKey),
    /// The server cannot be reached. Not executed.
    #[error("{server} cannot be reached: {reason}")]
    Unreachable {
        /// Which one.
        server: Endpoint,
        /// What the system says.
        reason: String,
    },
    /// The server could not be reached lately and is left alone for a while. Not executed.
    #[error("{server} does not answer; it is tried again in {} ms", retry_in.as_millis())]
    Down {
        /// Which one.
        server: Endpoint,
        /// Until somebody may look again.
        retry_in: Duration,
    },
    /// All connections to the server are in use for as long as the call may take. Not executed.
    #[error("all connections to {server} are in use")]
    Busy {
        /// Which one.
        server: Endpoint,
    },
    /// The connection ended before the answer.
    #[error("the connection to {server} ended before the answer: {reason}{}", hint(*executed))]
    Lost {
        /// Which one.
        server: Endpoint,
        /// What the system says.
        reason: String,
        /// Whether it may have been executed.
        executed: Executed,
    },
    /// The time of the call was over before the answer.
    #[error("{server} did not answer in time{}", hint(*executed))]
    Late {
        /// Which one.
        server: Endpoint,
        /// Whether it may have been executed.
        executed: Executed,
    },
    /// The server answered what no server says to this.
    #[error("{server} answered what is no answer to this command: {words:?}{}", hint(*executed))]
    Rubbish {
        /// Which one.
        server: Endpoint,
        /// The beginning of it.
        words: String,
        /// Whether it may have been executed.
        executed: Executed,
    },
    /// The server gives items no versions (`-C`), so a lock would have no fence.
    #[error("the server gives items no versions, so a lock has no fence")]
    NoVersions,
    /// The server refused: `ERROR`, `CLIENT_ERROR` or `SERVER_ERROR`.
    #[error("{server} refused: {words}")]
    Refused {
        /// Which one.
        server: Endpoint,
        /// Its line.
        words: String,
        /// Whether it may have been executed: by another node, when the one asked had passed it on.
        executed: Executed,
    },
}

impl Error {
    /// Whether the server may have done what it was asked.
    pub fn executed(&self) -> Executed {
        match self {
            Self::Key(_)
            | Self::Unreachable { .. }
            | Self::Down { .. }
            | Self::Busy { .. }
            | Self::NoVersions => Executed::No,
            Self::Lost { executed, .. }
            | Self::Late { executed, .. }
            | Self::Rubbish { executed, .. }
            | Self::Refused { executed, .. } => *executed,
        }
    }

    /// The server it came from.
    pub fn server(&self) -> Option<&Endpoint> {
        match self {
            Self::Key(_) | Self::NoVersions => None,
            Self::Unreachable { server, .. }
            | Self::Down { server, .. }
            | Self::Busy { server }
            | Self::Lost { server, .. }
            | Self::Late { server, .. }
            | Self::Rubbish { server, .. }
            | Self::Refused { server, .. } => Some(server),
        }
    }
}

/// Why an exchange with a server ended early, before it is known for which commands.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    Unreachable(String),
    Down(Duration),
    Busy,
    Lost(String),
    Late,
    Rubbish(String),
}

impl Failure {
    /// Of a system call on a connection that had been made.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Late,
            io::ErrorKind::UnexpectedEof => Self::Lost("the server closed it".to_owned()),
            _ => Self::Lost(error.to_string()),
        }
    }

    /// The error of one command.
    pub(crate) fn error(&self, server: &Endpoint, executed: Executed) -> Error {
        let server = server.clone();
        match self.clone() {
            Self::Unreachable(reason) => Error::Unreachable { server, reason },
            Self::Down(retry_in) => Error::Down { server, retry_in },
            Self::Busy => Error::Busy { server },
            Self::Lost(reason) => Error::Lost { server, reason, executed },
            Self::Late => Error::Late { server, executed },
            Self::Rubbish(words) => Error::Rubbish { server, words, executed },
        }
    }
}

/// The beginning of what a server said, fit to be shown.
pub(crate) fn words(said: &[u8]) -> String {
    let line = said.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = String::new();
    for &byte in &line[..line.len().min(WORDS_BYTES_MAX)] {
        match byte {
            b' ' | b'\'' | b'"' => words.push(char::from(byte)),
            _ => words.extend(byte.escape_ascii().map(char::from)),
        }
    }
    words
}

fn hint(executed: Executed) -> &'static str {
    match executed {
        Executed::No => " (not executed)",
        Executed::Unknown => " (it may have been executed)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_shown_as_they_were_said_but_for_what_cannot_be_shown() {
        assert_eq!(words(b"SERVER_ERROR the key's node is busy\r\n"), "SERVER_ERROR the key's node is busy");
        assert_eq!(words(b"\x1b[2J\0\xff"), "\\x1b[2J\\x00\\xff");
        assert_eq!(words(&[b'x'; 5_000]).len(), WORDS_BYTES_MAX);
        assert_eq!(words(b""), "");
    }
}
