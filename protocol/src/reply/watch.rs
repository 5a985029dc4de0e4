//! Lines for watchers. One event, one line; keys are URI-encoded, so that no key can forge a line.
//!
//! Source: memcached 1.6.45 `logger.c`. Microseconds have no leading zeroes there, so that they have none here.

use super::{append_field, append_or_never, append_uri};
use crate::limits::KEY_SIZE_MAX;

/// Something a watcher is told of. Sizes are those of values, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEvent<'a> {
    /// A get, for [`FETCHERS`](crate::WatchTopics::FETCHERS). Stores look first and are logged as gets, too.
    Fetch {
        /// The item, or only its key.
        item: LogItem<'a>,
        /// How it ended.
        status: FetchStatus,
        /// Number of the connection, as in `stats conns`.
        connection: u32,
    },
    /// A store, for [`MUTATIONS`](crate::WatchTopics::MUTATIONS).
    Store {
        /// The item, or only its key.
        item: LogItem<'a>,
        /// How it ended.
        status: StoreStatus,
        /// Which command.
        verb: StoreVerb,
        /// Seconds to live, 0 for ever.
        ttl: u32,
        /// Number of the connection.
        connection: u32,
    },
    /// An item left because memory was short, for [`EVICTIONS`](crate::WatchTopics::EVICTIONS).
    Eviction {
        /// The item.
        item: LogItem<'a>,
        /// Somebody had fetched it.
        fetched: bool,
        /// Seconds it had to live, `None` for ever.
        ttl: Option<u32>,
        /// Seconds since the last access.
        idle_seconds: u32,
    },
    /// A delete, for [`DELETIONS`](crate::WatchTopics::DELETIONS).
    Delete {
        /// The item.
        item: LogItem<'a>,
        /// By `md`.
        meta: bool,
    },
    /// A connection came, for [`CONNECTION_EVENTS`](crate::WatchTopics::CONNECTION_EVENTS).
    Connected {
        /// Its kind.
        transport: Transport,
        /// Address of the client, `unix` where it has none.
        address: &'a str,
        /// Port of the client, 0 where it has none.
        port: u16,
        /// Number of the connection.
        connection: u32,
    },
    /// A connection is gone.
    Closed {
        /// As for [`WatchEvent::Connected`].
        transport: Transport,
        /// As for [`WatchEvent::Connected`].
        address: &'a str,
        /// As for [`WatchEvent::Connected`].
        port: u16,
        /// Why.
        reason: CloseReason,
        /// Number of the connection.
        connection: u32,
    },
}

/// What a line says of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogItem<'a> {
    /// As stored.
    pub key: &'a [u8],
    /// Slab class, 0 if there is no item.
    pub class: u32,
    /// Size of the value, in bytes, 0 if there is no item.
    pub size: u32,
}

/// How a get ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchStatus {
    /// There is none.
    NotFound,
    /// It is there.
    Found,
    /// It was there before a `flush_all`.
    Flushed,
    /// It was there and is dead.
    Expired,
}

/// How a store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreStatus {
    /// There was something, or nothing, where there should not.
    NotStored,
    /// It is there.
    Stored,
    /// The CAS is another.
    Exists,
    /// There is nothing to compare with.
    NotFound,
    /// It is over the limit.
    TooLarge,
    /// There is no room.
    NoMemory,
}

/// What stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreVerb {
    /// `set`
    Set,
    /// `add`
    Add,
    /// `replace`
    Replace,
    /// `append`
    Append,
    /// `prepend`
    Prepend,
    /// `cas`
    Cas,
}

/// The kind of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A unix socket.
    Local,
    /// TCP, with or without TLS.
    Tcp,
    /// UDP.
    Udp,
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It broke, or spoke no protocol.
    Error,
    /// The client went.
    Normal,
    /// It was silent for too long.
    IdleTimeout,
    /// It asked the server to end.
    Shutdown,
}

/// One event. `unix_microseconds` is when it was, `number` counts the events of all threads.
pub fn watch_event(out: &mut Vec<u8>, unix_microseconds: u64, number: u64, event: &WatchEvent<'_>) {
    append_field(out, "ts=", unix_microseconds / 1_000_000);
    append_field(out, ".", unix_microseconds % 1_000_000);
    append_field(out, " gid=", number);
    match *event {
        WatchEvent::Fetch { item, status, connection } => {
            append_key(out, " type=item_get key=", &item);
            append_word(out, " status=", status.word());
            append_field(out, " clsid=", item.class);
            append_field(out, " cfd=", connection);
            append_field(out, " size=", item.size);
        }
        WatchEvent::Store { item, status, verb, ttl, connection } => {
            append_key(out, " type=item_store key=", &item);
            append_word(out, " status=", status.word());
            append_word(out, " cmd=", verb.word());
            append_field(out, " ttl=", ttl);
            append_field(out, " clsid=", item.class);
            append_field(out, " cfd=", connection);
            append_field(out, " size=", item.size);
        }
        WatchEvent::Eviction { item, fetched, ttl, idle_seconds } => {
            append_key(out, " type=eviction key=", &item);
            append_word(out, " fetch=", if fetched { "yes" } else { "no" });
            append_word(out, " ttl=", "");
            append_or_never(out, ttl);
            append_field(out, " la=", idle_seconds);
            append_field(out, " clsid=", item.class);
            append_field(out, " size=", item.size);
        }
        WatchEvent::Delete { item, meta } => {
            append_key(out, " type=deleted key=", &item);
            append_word(out, " cmd=", if meta { "md" } else { "delete" });
            append_field(out, " clsid=", item.class);
            append_field(out, " size=", item.size);
        }
        WatchEvent::Connected { transport, address, port, connection } => {
            append_peer(out, " type=conn_new", transport, address, port);
            append_field(out, " cfd=", connection);
        }
        WatchEvent::Closed { transport, address, port, reason, connection } => {
            append_peer(out, " type=conn_close", transport, address, port);
            append_word(out, " reason=", reason.word());
            append_field(out, " cfd=", connection);
        }
    }
    out.push(b'\n');
}

/// The watcher reads too slowly: so many events before the next line are not shown.
pub fn watch_skipped(out: &mut Vec<u8>, events: u64) {
    append_field(out, "skipped=", events);
    out.push(b'\n');
}

fn append_key(out: &mut Vec<u8>, name: &str, item: &LogItem<'_>) {
    assert!(item.key.len() <= KEY_SIZE_MAX);
    out.extend_from_slice(name.as_bytes());
    append_uri(out, item.key);
}

fn append_peer(out: &mut Vec<u8>, name: &str, transport: Transport, address: &str, port: u16) {
    assert!(!address.contains([' ', '\n']), "an address is one word");
    out.extend_from_slice(name.as_bytes());
    append_word(out, " rip=", address);
    append_field(out, " rport=", port);
    append_word(out, " transport=", transport.word());
}

fn append_word(out: &mut Vec<u8>, name: &str, word: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(word.as_bytes());
}

impl FetchStatus {
    fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Found => "found",
            Self::Flushed => "flushed",
            Self::Expired => "expired",
        }
    }
}

impl StoreStatus {
    fn word(self) -> &'static str {
        match self {
            Self::NotStored => "not_stored",
            Self::Stored => "stored",
            Self::Exists => "exists",
            Self::NotFound => "not_found",
            Self::TooLarge => "too_large",
            Self::NoMemory => "no_memory",
        }
    }
}

impl StoreVerb {
    fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Prepend => "prepend",
            Self::Cas => "cas",
        }
    }
}

impl Transport {
    fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl CloseReason {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Normal => "normal",
            Self::IdleTimeout => "idle_timeout",
            Self::Shutdown => "shutdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: LogItem<'_> = LogItem { key: b"a b", class: 1, size: 5 };

    #[track_caller]
    fn check(event: WatchEvent<'_>, expected: &str) {
        let mut out = Vec::new();
        watch_event(&mut out, 1_700_000_000_000_042, 7, &event);
        assert_eq!(str::from_utf8(&out).unwrap(), format!("ts=1700000000.42 gid=7 {expected}\n"));
    }

    #[test]
    fn every_event_is_memcacheds_line() {
        check(
            WatchEvent::Fetch { item: ITEM, status: FetchStatus::Found, connection: 28 },
            "type=item_get key=a%20b status=found clsid=1 cfd=28 size=5",
        );
        let (status, verb) = (StoreStatus::Stored, StoreVerb::Set);
        check(
            WatchEvent::Store { item: ITEM, status, verb, ttl: 60, connection: 28 },
            "type=item_store key=a%20b status=stored cmd=set ttl=60 clsid=1 cfd=28 size=5",
        );
        check(
            WatchEvent::Eviction { item: ITEM, fetched: false, ttl: None, idle_seconds: 3 },
            "type=eviction key=a%20b fetch=no ttl=-1 la=3 clsid=1 size=5",
        );
        check(WatchEvent::Delete { item: ITEM, meta: true }, "type=deleted key=a%20b cmd=md clsid=1 size=5");
        let (transport, address) = (Transport::Tcp, "127.0.0.1");
        check(
            WatchEvent::Connected { transport, address, port: 4000, connection: 28 },
            "type=conn_new rip=127.0.0.1 rport=4000 transport=tcp cfd=28",
        );
        let (transport, address, reason) = (Transport::Local, "unix", CloseReason::IdleTimeout);
        check(
            WatchEvent::Closed { transport, address, port: 0, reason, connection: 28 },
            "type=conn_close rip=unix rport=0 transport=local reason=idle_timeout cfd=28",
        );
    }

    #[test]
    fn a_key_cannot_forge_a_line() {
        let item = LogItem { key: b"k\nts=1", ..ITEM };
        let mut out = Vec::new();
        watch_event(&mut out, 0, 0, &WatchEvent::Delete { item, meta: false });
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        out.clear();
        watch_skipped(&mut out, 12);
        assert_eq!(out, b"skipped=12\n");
    }
}
