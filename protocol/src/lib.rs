//! The memcached wire formats: bytes to requests and replies to bytes, for server and client alike.
//!
//! No I/O, no clock, no threads, no unsafe, and no allocation for a key or a request: requests borrow the
//! caller's input, replies are appended to the caller's buffer. This crate has never heard of a shard.
//!
//! * [`Parser`] cuts a connection's bytes into [`Step`]s; the caller keeps the bytes and drops what a step consumed.
//! * [`reply`] holds every text a server sends. No other crate spells one.
//! * [`udp`] is the frame around both in datagrams, [`Users`] says who may come in.
//! * [`client`] is the other end: requests to bytes, and where one reply of a stream ends.
//!
//! The text, meta and binary protocols follow memcached 1.6.45. Where this crate is deliberately different, the place says so.

#![forbid(unsafe_code)]

mod admin;
mod ahead;
mod base64;
mod binary;
pub mod client;
mod errors;
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod line;
mod lock;
mod meta;
mod number;
mod parser;
mod plain;
pub mod reply;
mod request;
mod tokens;
pub mod udp;
mod users;

pub use admin::{Admin, Classes, Decimal, ShutdownMode, WatchTopics};
pub use ahead::KeysAhead;
pub use binary::BinaryHead;
pub use errors::{DialectError, ErrorReply};
pub use limits::{
    AUTH_DATA_SIZE_MAX, ITEM_SIZE_DEFAULT, KEY_SIZE_MAX, KEYS_LINE_SIZE_MAX, LINE_SIZE_MAX, LOCK_TTL_MS_MAX,
    LOCK_WAIT_MS_MAX, Limits, META_TOKENS_MAX, OPAQUE_SIZE_MAX, SESSION_SIZE_MAX, TRACKERS_MAX,
    VALUE_SIZE_MAX, VERBOSITY_MAX, WATCHERS_MAX,
};
pub use lock::{LockCommand, LockVerb};
pub use meta::{MetaFlags, MetaNumbers};
pub use parser::{Announced, Auth, KeysTaken, Parser, Protocol, Step};
pub use plain::{Plain, PlainTaken, PlainWork};
pub use request::{Command, Dialect, Request, StatsDetail, StatsTopic, StoreMode, Vivify};
pub use users::{
    AUTH_ENTRY_SIZE_MAX, AUTH_USERS_MAX, SASL_MECHANISMS, SASL_USERS_MAX, Users, UsersError, UsersFormat,
    parse_sasl_plain,
};
