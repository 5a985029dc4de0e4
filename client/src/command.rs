//! What a client can ask, and what it can be told. Values that own their bytes; nothing here knows a wire.

use std::time::Duration;

use crate::dump::KeyEntry;
use crate::key::Key;
use crate::meta::{MetaReply, MetaRequest};
use crate::ttl::Ttl;

/// A stored value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// The value.
    pub value: Vec<u8>,
    /// The client's own number, stored beside it.
    pub flags: u32,
    /// The version of the item: 0 unless it was asked for, as by `gets`.
    pub cas: CasToken,
}

/// The version of an item. An item of another version has another token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CasToken(pub u64);

/// How a value is stored: how long, and with which client flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// How long it lives.
    pub ttl: Ttl,
    /// The client's own number, stored beside it.
    pub flags: u32,
}

impl From<Ttl> for StoreOptions {
    fn from(ttl: Ttl) -> Self {
        Self { ttl, flags: 0 }
    }
}

impl From<Duration> for StoreOptions {
    fn from(duration: Duration) -> Self {
        Ttl::After(duration).into()
    }
}

/// Under which condition, and where, a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// Always.
    Set,
    /// If there is no item.
    Add,
    /// If there is one.
    Replace,
    /// Behind the value of the item there is, which keeps its flags and time.
    Append,
    /// Before it.
    Prepend,
    /// If the item is still of this version.
    Cas(CasToken),
}

/// What became of a value that was to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is stored.
    Stored,
    /// The mode's condition did not hold.
    NotStored,
    /// The item is of another version.
    Exists,
    /// There is no item any more.
    NotFound,
}

impl Stored {
    /// Whether it is stored.
    pub fn is_stored(self) -> bool {
        self == Self::Stored
    }
}

/// One request. Its key has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The item, with its version if `cas`.
    Get {
        /// Which.
        key: Key,
        /// Whether the version is wanted.
        cas: bool,
    },
    /// The item, which lives for another while.
    GetAndTouch {
        /// Which.
        key: Key,
        /// How long.
        ttl: Ttl,
        /// Whether the version is wanted.
        cas: bool,
    },
    /// Stores a value.
    Store {
        /// Condition.
        mode: StoreMode,
        /// Which.
        key: Key,
        /// What.
        value: Vec<u8>,
        /// How.
        options: StoreOptions,
    },
    /// Removes an item.
    Delete {
        /// Which.
        key: Key,
    },
    /// Adds to a decimal number, wrapping at 2^64, or takes from it, to 0 at least.
    Count {
        /// Which.
        key: Key,
        /// By how much.
        delta: u64,
        /// Add or take.
        direction: Direction,
    },
    /// Lets an item live for another while.
    Touch {
        /// Which.
        key: Key,
        /// How long.
        ttl: Ttl,
    },
    /// A meta command, on either wire.
    Meta {
        /// Which.
        key: Key,
        /// The rest of it.
        request: MetaRequest,
    },
    /// Everything a server has is gone, now or after a while.
    Flush {
        /// After how many seconds.
        delay_seconds: u32,
    },
    /// Statistics, of a topic unless it is empty.
    Stats {
        /// As `items`, `settings`.
        topic: String,
    },
    /// What version the server says it is.
    Version,
    /// All keys of a server.
    Keys,
    /// The ring document of a cluster.
    Ring,
}

/// Whether a number goes up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `incr`.
    Up,
    /// `decr`.
    Down,
}

impl Command {
    /// Statistics of a topic, which is made of words.
    pub(crate) fn stats(topic: &str) -> Self {
        let is_words = topic.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        assert!(is_words, "a topic is made of words: {topic:?}");
        Self::Stats { topic: topic.to_owned() }
    }

    /// The key that decides which server is asked; `None` if the command is about a server.
    pub(crate) fn key(&self) -> Option<&Key> {
        match self {
            Self::Get { key, .. }
            | Self::GetAndTouch { key, .. }
            | Self::Store { key, .. }
            | Self::Delete { key }
            | Self::Count { key, .. }
            | Self::Touch { key, .. }
            | Self::Meta { key, .. } => Some(key),
            Self::Flush { .. } | Self::Stats { .. } | Self::Version | Self::Keys | Self::Ring => None,
        }
    }

    /// Whether a second execution changes nothing that the first one did not.
    ///
    /// `set` and `delete` are not among them: another client may have written between the two.
    pub(crate) fn may_be_repeated(&self) -> bool {
        match self {
            Self::Get { .. }
            | Self::GetAndTouch { .. }
            | Self::Touch { .. }
            | Self::Stats { .. }
            | Self::Version
            | Self::Keys
            | Self::Ring => true,
            Self::Meta { request, .. } => request.is_read_only(),
            Self::Store { .. } | Self::Delete { .. } | Self::Count { .. } | Self::Flush { .. } => false,
        }
    }

    /// Whether a data block follows the line: refused, it may be taken for further commands.
    pub(crate) fn has_data(&self) -> bool {
        match self {
            Self::Store { .. } => true,
            Self::Meta { request, .. } => request.value().is_some(),
            _ => false,
        }
    }

    /// About as many bytes as it takes on the wire.
    pub(crate) fn wire_size_estimate(&self) -> usize {
        const LINE_SIZE: usize = 96;
        let value_size = match self {
            Self::Store { value, .. } => value.len(),
            Self::Meta { request, .. } => request.value().map_or(0, <[u8]>::len),
            _ => 0,
        };
        LINE_SIZE + value_size + self.key().map_or(0, |key| key.as_bytes().len())
    }
}

/// What a server said to a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `Get` and `GetAndTouch`: `None` is a miss.
    Item(Option<Item>),
    /// To `Store`.
    Stored(Stored),
    /// To `Delete` and `Touch`: whether there was an item.
    Found(bool),
    /// To `Count`: the number now; `None` is a miss.
    Number(Option<u64>),
    /// To `Meta`.
    Meta(MetaReply),
    /// To `Flush`.
    Done,
    /// To `Stats`: names and values, in the server's order.
    Stats(Vec<(String, String)>),
    /// To `Version`.
    Version(String),
    /// To `Keys`.
    Keys(Vec<KeyEntry>),
    /// To `Ring`: JSON.
    Ring(Vec<u8>),
}

/// The answer to a command of this kind is of that kind: [`crate::decode`] makes no other.
macro_rules! only {
    ($answer:expr, $kind:pat => $value:expr) => {
        match $answer {
            $kind => $value,
            other => unreachable!("a reply was decoded for another command: {other:?}"),
        }
    };
}

impl Answer {
    pub(crate) fn item(self) -> Option<Item> {
        only!(self, Self::Item(item) => item)
    }

    pub(crate) fn stored(self) -> Stored {
        only!(self, Self::Stored(stored) => stored)
    }

    pub(crate) fn found(self) -> bool {
        only!(self, Self::Found(found) => found)
    }

    pub(crate) fn number(self) -> Option<u64> {
        only!(self, Self::Number(number) => number)
    }

    pub(crate) fn meta(self) -> MetaReply {
        only!(self, Self::Meta(reply) => reply)
    }

    pub(crate) fn done(self) {
        only!(self, Self::Done => ());
    }

    pub(crate) fn stats(self) -> Vec<(String, String)> {
        only!(self, Self::Stats(stats) => stats)
    }

    pub(crate) fn version(self) -> String {
        only!(self, Self::Version(version) => version)
    }

    pub(crate) fn keys(self) -> Vec<KeyEntry> {
        only!(self, Self::Keys(keys) => keys)
    }

    pub(crate) fn ring(self) -> Vec<u8> {
        only!(self, Self::Ring(json) => json)
    }
}
