//! What a client asks for, borrowed from the bytes it sent. No parsing and no replies.

use crate::admin::Admin;
use crate::base64;
use crate::binary::BinaryHead;
use crate::limits::KEY_SIZE_MAX;
use crate::lock::LockCommand;
use crate::meta::{MetaFlags, MetaNumbers};
use crate::tokens::Tokens;

/// One thing to execute. Everything in it borrows the input of [`Parser::next`](crate::Parser::next).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What to do.
    pub command: Command,
    /// The key token as sent, 1 to [`KEY_SIZE_MAX`] bytes; empty for a command without one. It may be base64:
    /// execute with [`Request::decoded_key`].
    pub key: &'a [u8],
    /// The value of a store command, without its CRLF; empty for every other one.
    pub value: &'a [u8],
    /// The meta flag tokens as sent, after key and length; empty for a classic command.
    pub flags: &'a [u8],
    /// A classic command asked for no answer, not even an error. Meta commands have
    /// [`MetaFlags::quiet`] instead and binary ones their opcode, which hide less.
    pub noreply: bool,
    /// How the answer is written.
    pub dialect: Dialect,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Lines: the classic and the meta commands.
    #[default]
    Text,
    /// Packets that repeat this of the request.
    Binary(BinaryHead),
}

/// A command and its arguments, checked: nothing in here needs validating again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// One key of a `get` or `gets`; answers a `VALUE` block or nothing.
    Get {
        /// The block shows the CAS.
        with_cas: bool,
    },
    /// One key of a `gat` or `gats`; answers as [`Command::Get`].
    GetAndTouch {
        /// The new expiration time as sent.
        exptime: i64,
        /// The block shows the CAS.
        with_cas: bool,
    },
    /// The keys of a line have all been given; answers `END`.
    EndOfKeys,
    /// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
    Store {
        /// How.
        mode: StoreMode,
        /// Opaque to the server.
        client_flags: u32,
        /// Expiration time as sent.
        exptime: i64,
        /// `cas`: store only over an item with this CAS. Its mode is [`StoreMode::Set`].
        compare: Option<u64>,
    },
    /// A store command whose item is over the limit; answers
    /// [`ErrorReply::TooLarge`](crate::ErrorReply::TooLarge) unless `noreply`. The parser swallows the value.
    StoreTooLarge {
        /// The old value goes: a client that meant to replace it must not read it again.
        removes: bool,
    },
    /// `delete`.
    Delete {
        /// Binary: delete only an item with this CAS.
        compare: Option<u64>,
    },
    /// `incr`, `decr`.
    Arithmetic {
        /// `decr`: stops at 0. `incr` wraps at 2^64.
        decrement: bool,
        /// By how much.
        delta: u64,
        /// Binary: count only an item with this CAS. It does not keep a missing one from being made.
        compare: Option<u64>,
        /// Binary: make what is missing.
        vivify: Option<Vivify>,
    },
    /// `touch`.
    Touch {
        /// The new expiration time as sent.
        exptime: i64,
    },
    /// `flush_all`.
    FlushAll {
        /// 0 and below: now. Otherwise seconds or a Unix time, as an expiration time.
        delay: i64,
    },
    /// `version`.
    Version,
    /// `verbosity`.
    Verbosity {
        /// 0 to [`VERBOSITY_MAX`](crate::VERBOSITY_MAX).
        level: u8,
    },
    /// `stats`.
    Stats(StatsTopic),
    /// `quit`: send what is owed, then close.
    Quit,
    /// `mg`.
    MetaGet(MetaFlags),
    /// `ms`; its mode is [`MetaFlags::store_mode`].
    MetaStore(MetaFlags),
    /// `md`.
    MetaDelete(MetaFlags),
    /// `ma`; its direction is [`MetaFlags::decrements`].
    MetaArithmetic(MetaFlags),
    /// `mn` and the binary noop: answered behind everything asked before it, by [`noop`](crate::reply::noop).
    MetaNoop,
    /// `me`.
    MetaDebug(MetaFlags),
    /// A command about the server.
    Admin(Admin),
    /// `track on`: the connection is answered by [`tracking`](crate::reply::tracking) and from then on only told which keys change: those
    /// that reads are marked for, and those that begin with a word of `flags`.
    Track,
    /// `lk`: `key` is the lock's name; answered by [`lock`](crate::reply::lock).
    Lock(LockCommand),
    /// `set` on a connection that has not authenticated: `key` is the user, `value` the password. It
    /// [decides](Command::decides_what_follows) how the rest of the stream is read, and is answered as a `set` or by
    /// [`ErrorReply::AuthenticationFailure`](crate::ErrorReply::AuthenticationFailure).
    Authenticate,
    /// Binary: which mechanisms there are; answered by [`sasl_mechanisms`](crate::reply::sasl_mechanisms).
    SaslMechanisms,
    /// Binary: begin to authenticate. `key` is the mechanism, `value` the first message. It
    /// [decides](Command::decides_what_follows) how the rest of the stream is read.
    SaslStart,
    /// Binary: go on to authenticate, as [`Command::SaslStart`]. No mechanism here has a second step.
    SaslStep,
}

/// What a counter that is not there becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vivify {
    /// Its value, which is not counted up or down.
    pub initial: u64,
    /// Its expiration time as sent.
    pub exptime: i64,
}

/// How a store command treats what is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// Store in any case.
    Set,
    /// Store only if there is nothing.
    Add,
    /// Store only if there is something.
    Replace,
    /// Put the value behind what is there, keeping its client flags and expiration time.
    Append,
    /// Put the value before what is there, keeping its client flags and expiration time.
    Prepend,
}

/// What `stats` is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsTopic {
    /// No sub-command.
    General,
    /// The configuration.
    Settings,
    /// Items by slab class.
    Items,
    /// Slabs by class.
    Slabs,
    /// Items by size.
    Sizes,
    /// Begin or end to count items by size; answers `sizes_status`.
    CountSizes(bool),
    /// The store on disk, which there is not: no fields.
    Extstore,
    /// Connections.
    Conns,
    /// Zero the counters; answers `RESET`.
    Reset,
    /// The keys that are asked for most. Not memcached's.
    HotKeys,
    /// Begin to compare all copies with what their primaries have.
    Scrub,
    /// Statistics by key prefix.
    Detail(StatsDetail),
    /// Keys of one slab class.
    Cachedump {
        /// Slab class, below 64.
        class: u32,
        /// Most items to show; 0 is all.
        limit: u32,
    },
}

/// What `stats detail` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsDetail {
    /// Start counting.
    On,
    /// Stop counting.
    Off,
    /// Show the counts.
    Dump,
}

impl Command {
    /// Whether the request names a key, so that it has an owner. O(1).
    pub fn is_keyed(&self) -> bool {
        match self {
            Self::Get { .. }
            | Self::GetAndTouch { .. }
            | Self::Store { .. }
            | Self::StoreTooLarge { .. }
            | Self::Delete { .. }
            | Self::Arithmetic { .. }
            | Self::Touch { .. }
            | Self::MetaGet(_)
            | Self::MetaStore(_)
            | Self::MetaDelete(_)
            | Self::MetaArithmetic(_)
            | Self::MetaDebug(_) => true,
            Self::EndOfKeys
            | Self::FlushAll { .. }
            | Self::Version
            | Self::Verbosity { .. }
            | Self::Stats(_)
            | Self::Quit
            | Self::MetaNoop
            | Self::Admin(_)
            | Self::Track
            | Self::Lock(_)
            | Self::Authenticate
            | Self::SaslMechanisms
            | Self::SaslStart
            | Self::SaslStep => false,
        }
    }

    /// Whether the bytes behind it may only be parsed when it has been executed and the parser told how it ended:
    /// who parses ahead stops here. O(1).
    pub fn decides_what_follows(&self) -> bool {
        matches!(self, Self::Authenticate | Self::SaslStart | Self::SaslStep)
    }

    /// The flags of a meta command that has some. O(1).
    pub fn meta_flags(&self) -> Option<&MetaFlags> {
        match self {
            Self::MetaGet(flags)
            | Self::MetaStore(flags)
            | Self::MetaDelete(flags)
            | Self::MetaArithmetic(flags)
            | Self::MetaDebug(flags) => Some(flags),
            _ => None,
        }
    }
}

/// A request is copied several times on its way, so what is rare stays in `flags`, as text.
const _: () = assert!(size_of::<Request<'_>>() <= 128);

impl<'a> Request<'a> {
    /// A request that is its command alone.
    pub(crate) fn bare(command: Command) -> Self {
        Self::keyed(command, &[])
    }

    /// One key of a `get` or `gets`.
    pub fn get(key: &'a [u8], with_cas: bool) -> Self {
        Self::keyed(Command::Get { with_cas }, key)
    }

    /// A request that is a command and a key.
    pub(crate) fn keyed(command: Command, key: &'a [u8]) -> Self {
        Self { command, key, value: &[], flags: &[], noreply: false, dialect: Dialect::Text }
    }

    /// Whether the key token is base64 (flag `b`). O(1) for all but [`Command::StoreTooLarge`].
    pub fn is_base64(&self) -> bool {
        match self.command {
            // Its flags were not kept: the command is rare and its reply shows none of them.
            Command::StoreTooLarge { .. } => Tokens::new(self.flags).any(|token| token.starts_with(b"b")),
            command => command.meta_flags().is_some_and(MetaFlags::base64),
        }
    }

    /// The numbers among the flags of a meta command, or what they are when nothing is sent. O(length of the flags) if there
    /// are any: who needs several asks once.
    pub fn meta_numbers(&self) -> MetaNumbers {
        self.command.meta_flags().map_or_else(MetaNumbers::default, |flags| flags.numbers(self.flags))
    }

    /// The key to execute with: `key` itself, or what its base64 form stands for, decoded into `scratch`.
    ///
    /// Panics if the key is base64 by its flags and not by its form; the parser never makes such a request.
    pub fn decoded_key<'s>(&self, scratch: &'s mut [u8; KEY_SIZE_MAX]) -> &'s [u8]
    where
        'a: 's,
    {
        if !self.is_base64() {
            return self.key;
        }
        base64::decode(self.key, scratch).expect("the parser refuses a key that does not decode")
    }
}
