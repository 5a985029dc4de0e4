//! What is noted of requests beside their replies, while somebody watches or counts by prefix. It goes by what the
//! execution left behind, so that executing itself knows nothing of it and costs one branch when nobody looks.

use slabring_engine::{Counters, Item, Seconds};
use slabring_protocol::reply::{
    CloseReason, FetchStatus, LogItem, StoreStatus, StoreVerb, Transport, WatchEvent,
};
use slabring_protocol::{Command, KEY_SIZE_MAX, Request, StoreMode, WatchTopics};

use crate::connection::{Connection, Peer};
use crate::dispatch::Dispatcher;
use crate::execute::{Executor, length};
use crate::prefixes::PrefixCounts;
use crate::report::{CommandCounters, class_number};

/// What is logged of requests.
pub const REQUEST_TOPICS: [WatchTopics; 4] =
    [WatchTopics::FETCHERS, WatchTopics::MUTATIONS, WatchTopics::EVICTIONS, WatchTopics::DELETIONS];

/// An item as it was.
#[derive(Clone, Copy)]
struct Seen {
    class: u32,
    size: u32,
}

/// How things stood before a request.
struct Before {
    commands: CommandCounters,
    engine: Counters,
    item: Option<Seen>,
}

impl Executor {
    /// Executes as usual, then notes what happened. `connection` is the number of who asks.
    #[cold]
    pub fn execute_observed(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        connection: u32,
        out: &mut Vec<u8>,
    ) {
        let mut scratch = [0; KEY_SIZE_MAX];
        let key = request.decoded_key(&mut scratch);
        let item = self.shard().peek(now, key).map(|item| seen(&item));
        let before = Before { commands: *self.commands(), engine: *self.shard().counters(), item };
        self.execute_unobserved(now, request, out);
        self.note_evictions(now);
        self.count_prefix(key, &request.command, &before);
        let class = item.map_or(0, |item| item.class);
        let size = item.map_or(0, |item| item.size);
        let status = self.fetch_status(&before);
        let item = LogItem { key, class, size };
        self.note(WatchTopics::FETCHERS, &WatchEvent::Fetch { item, status, connection });
        if let Some((verb, ttl)) = store_of(request) {
            let status = self.store_status(&before);
            let size = length(request.value.len());
            let class = match self.shard().peek(now, key) {
                Some(item) if status == StoreStatus::Stored => class_number(item.class()),
                _ => class,
            };
            let ttl = if status == StoreStatus::Stored { ttl } else { 0 };
            let item = LogItem { key, class, size };
            self.note(WatchTopics::MUTATIONS, &WatchEvent::Store { item, status, verb, ttl, connection });
        }
        if self.commands().delete_hits > before.commands.delete_hits {
            let meta = matches!(request.command, Command::MetaDelete(_));
            self.note(WatchTopics::DELETIONS, &WatchEvent::Delete { item, meta });
        }
    }

    fn fetch_status(&self, before: &Before) -> FetchStatus {
        let engine = self.shard().counters();
        match before.item {
            Some(_) => FetchStatus::Found,
            None if engine.get_expired > before.engine.get_expired => FetchStatus::Expired,
            None if engine.get_flushed > before.engine.get_flushed => FetchStatus::Flushed,
            None => FetchStatus::NotFound,
        }
    }

    fn store_status(&self, before: &Before) -> StoreStatus {
        let (now, then) = (self.commands(), &before.commands);
        let stored = self.shard().counters().total_items > before.engine.total_items;
        match () {
            () if stored => StoreStatus::Stored,
            () if now.cas_badval > then.cas_badval => StoreStatus::Exists,
            () if now.cas_misses > then.cas_misses => StoreStatus::NotFound,
            () if now.store_too_large > then.store_too_large => StoreStatus::TooLarge,
            () if now.store_no_memory > then.store_no_memory => StoreStatus::NoMemory,
            () => StoreStatus::NotStored,
        }
    }

    fn count_prefix(&mut self, key: &[u8], command: &Command, before: &Before) {
        let hit = self.commands().get_hits > before.commands.get_hits;
        let add = |counts: &mut PrefixCounts| match command {
            Command::Get { .. } | Command::GetAndTouch { .. } | Command::MetaGet(_) => {
                counts.gets += 1;
                counts.hits += u64::from(hit);
            }
            Command::Store { .. } | Command::MetaStore(_) => counts.sets += 1,
            Command::Delete { .. } | Command::MetaDelete(_) => counts.deletes += 1,
            _ => {}
        };
        self.count_by_prefix(key, add);
    }
}

impl Dispatcher {
    /// Tells watchers of a connection that has come.
    pub fn note_arrival(&mut self, client: &Connection) {
        if self.executor.is_watched(WatchTopics::CONNECTION_EVENTS) {
            let connection = self.shards.connection_number(self.shards.me, client.id.slot);
            let (transport, address, port) = describe(&client.peer);
            let event = WatchEvent::Connected { transport, address: &address, port, connection };
            self.executor.note(WatchTopics::CONNECTION_EVENTS, &event);
        }
    }

    /// Tells watchers of a connection that has gone.
    pub fn note_departure(&mut self, client: &Connection, reason: CloseReason) {
        if self.executor.is_watched(WatchTopics::CONNECTION_EVENTS) {
            let connection = self.shards.connection_number(self.shards.me, client.id.slot);
            let (transport, address, port) = describe(&client.peer);
            let event = WatchEvent::Closed { transport, address: &address, port, reason, connection };
            self.executor.note(WatchTopics::CONNECTION_EVENTS, &event);
        }
    }
}

fn describe(peer: &Peer) -> (Transport, String, u16) {
    match peer {
        Peer::Tcp(address) => (Transport::Tcp, address.ip().to_string(), address.port()),
        Peer::Local => (Transport::Local, "unix".to_owned(), 0),
        Peer::Unknown => (Transport::Tcp, "unknown".to_owned(), 0),
    }
}

fn seen(item: &Item<'_>) -> Seen {
    Seen { class: class_number(item.class()), size: length(item.value_len()) }
}

/// What a request stores by, and its seconds to live as sent.
fn store_of(request: &Request<'_>) -> Option<(StoreVerb, u32)> {
    let (mode, compare, exptime) = match request.command {
        Command::Store { mode, compare, exptime, .. } => (mode, compare, exptime),
        Command::MetaStore(flags) => {
            let numbers = request.meta_numbers();
            (flags.store_mode(), numbers.compare, numbers.exptime.unwrap_or(0))
        }
        Command::StoreTooLarge { .. } => (StoreMode::Set, None, 0),
        _ => return None,
    };
    let verb = match mode {
        StoreMode::Set | StoreMode::Replace if compare.is_some() => StoreVerb::Cas,
        StoreMode::Set => StoreVerb::Set,
        StoreMode::Add => StoreVerb::Add,
        StoreMode::Replace => StoreVerb::Replace,
        StoreMode::Append => StoreVerb::Append,
        StoreMode::Prepend => StoreVerb::Prepend,
    };
    Some((verb, u32::try_from(exptime).unwrap_or(0)))
}
