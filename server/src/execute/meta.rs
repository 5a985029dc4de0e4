//! The meta commands. Their replies show what their flags ask for.

use slabring_engine::{
    Arithmetic, ArithmeticOutcome, Delete, DeleteMode, DeleteOutcome, Fetch, Fetched, Item, Seconds,
    StoreOutcome,
};
use slabring_protocol::reply::{self, MetaItem, MetaStatus, MetaWin};
use slabring_protocol::{ErrorReply, MetaFlags, MetaNumbers, Request};

use super::counters::{class_counters, count_fetched};
use super::{Executor, length};
use crate::exptime::{OFFSET_SECONDS_MAX, expiry_of, ttl_of};
use crate::report::class_number;

impl Executor {
    pub(super) fn meta_get(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        key: &[u8],
        flags: &MetaFlags,
        out: &mut Vec<u8>,
    ) {
        let numbers = request.meta_numbers();
        let fetch = Fetch {
            bump: !flags.has(b'u'),
            touch: numbers.exptime.map(|exptime| expiry_of(exptime, now)),
            vivify: numbers.creation_exptime().map(|exptime| expiry_of(exptime, now)),
            recache_below: numbers.recache.map(|time| seconds_below(time, now)),
            recache_after_touch: numbers.recaches_after_touch(),
            explicit_cas: numbers.explicit_cas,
            binary_key: flags.base64(),
        };
        let lent_bytes_min = self.lent_bytes_min();
        let tracked = self.mark_copy(key, &numbers);
        let fetched = self.shard.fetch(now, key, &fetch);
        let touches = fetch.touch.is_some();
        count_fetched(&mut self.commands, matches!(fetched, Fetched::Hit { .. }), touches);
        match fetched {
            Fetched::Miss => reply::meta_status(out, request, MetaStatus::Miss, &MetaItem::default()),
            Fetched::NoMemory => reply::error(out, ErrorReply::OutOfMemory),
            Fetched::Hit { item, expiry_before, won, stale, token_sent, created } => {
                let class = class_counters(&mut self.by_class, item.class());
                *(if touches { &mut class.touch_hits } else { &mut class.get_hits }) += 1;
                let times = times(&numbers, now, ttl_of(expiry_before, now), created);
                let shown = MetaItem { tracked, ..meta_item(&item, times) };
                if reply::meta_get(out, request, &shown, MetaWin { won, stale, token_sent }) {
                    let value = item.value();
                    if value.len() < lent_bytes_min {
                        value.copy_to(out);
                    } else {
                        let place = item.place();
                        self.append_large(place, out);
                    }
                    out.extend_from_slice(reply::CRLF);
                }
            }
        }
    }

    /// Takes note of who will have a copy of what it reads. Only of clients of this node: a number that another node gave out means
    /// nothing here.
    fn mark_copy(&mut self, key: &[u8], numbers: &MetaNumbers) -> bool {
        let id = numbers.tracker.filter(|_| self.lends || self.is_local);
        id.is_some_and(|id| self.tracking.mark(self.shard.hash(key), key, id))
    }

    pub(super) fn meta_delete(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        key: &[u8],
        flags: &MetaFlags,
        out: &mut Vec<u8>,
    ) {
        let numbers = request.meta_numbers();
        let touch = numbers.exptime.map(|exptime| expiry_of(exptime, now));
        let mode = match (flags.has(b'x'), flags.has(b'I')) {
            (true, invalidate) => DeleteMode::DropValue { invalidate, touch },
            (false, true) => DeleteMode::Invalidate { touch },
            (false, false) => DeleteMode::Remove,
        };
        let delete = Delete { key, compare: numbers.compare, mode, explicit_cas: numbers.explicit_cas };
        let status = match self.count_delete(now, &delete) {
            DeleteOutcome::Deleted => MetaStatus::Stored,
            DeleteOutcome::NotFound => MetaStatus::NotFound,
            DeleteOutcome::Exists => {
                self.commands.delete_misses += 1;
                MetaStatus::Exists
            }
        };
        reply::meta_status(out, request, status, &MetaItem::default());
    }

    pub(super) fn meta_arithmetic(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        key: &[u8],
        flags: &MetaFlags,
        out: &mut Vec<u8>,
    ) {
        let numbers = request.meta_numbers();
        let arithmetic = Arithmetic {
            key,
            delta: numbers.delta,
            decrement: flags.decrements(),
            compare: numbers.compare,
            explicit_cas: numbers.explicit_cas,
            touch: numbers.exptime.map(|exptime| expiry_of(exptime, now)),
            vivify: numbers.creation_exptime().map(|exptime| (numbers.initial, expiry_of(exptime, now))),
            binary_key: flags.base64(),
        };
        let status = match self.count_arithmetic(now, &arithmetic) {
            ArithmeticOutcome::Value { value, cas, expiry_before, created, .. } => {
                let item = MetaItem { cas, ..times(&numbers, now, ttl_of(expiry_before, now), created) };
                return reply::meta_arithmetic(out, request, &item, value);
            }
            ArithmeticOutcome::NotFound => MetaStatus::NotFound,
            ArithmeticOutcome::Exists => MetaStatus::Exists,
            ArithmeticOutcome::NonNumeric => return reply::error(out, ErrorReply::NonNumericValue),
            ArithmeticOutcome::NoMemory => return reply::error(out, ErrorReply::OutOfMemory),
        };
        reply::meta_status(out, request, status, &MetaItem::default());
    }

    pub(super) fn meta_debug(&mut self, now: Seconds, request: &Request<'_>, key: &[u8], out: &mut Vec<u8>) {
        self.commands.cmd_meta += 1;
        match self.shard.peek(now, key) {
            Some(item) => {
                let times = MetaItem { ttl_before: ttl_of(item.expiry(), now), ..MetaItem::default() };
                reply::meta_debug(out, request, &meta_item(&item, times));
            }
            None => reply::meta_status(out, request, MetaStatus::Miss, &MetaItem::default()),
        }
    }
}

/// What a `t` shows, wherever it stands.
fn times(numbers: &MetaNumbers, now: Seconds, ttl_before: Option<u32>, created: bool) -> MetaItem {
    let ttl = |exptime: Option<i64>| exptime.and_then(|exptime| ttl_of(expiry_of(exptime, now), now));
    MetaItem {
        ttl_before,
        ttl_touched: ttl(numbers.exptime),
        ttl_vivified: ttl(numbers.vivify),
        created,
        ..MetaItem::default()
    }
}

pub(super) fn reply_to_store(
    request: &Request<'_>,
    value_bytes: usize,
    outcome: StoreOutcome,
    out: &mut Vec<u8>,
) {
    let sent = MetaItem { value_len: length(value_bytes), ..MetaItem::default() };
    let (status, item) = match outcome {
        StoreOutcome::Stored { cas, value_len } => {
            (MetaStatus::Stored, MetaItem { cas, value_len: length(value_len), ..sent })
        }
        StoreOutcome::NotStored => (MetaStatus::NotStored, sent),
        StoreOutcome::Exists => (MetaStatus::Exists, sent),
        StoreOutcome::NotFound => (MetaStatus::NotFound, sent),
        StoreOutcome::TooLarge => return reply::error(out, ErrorReply::TooLarge),
        StoreOutcome::NoMemory => return reply::error(out, ErrorReply::OutOfMemoryStoring),
    };
    reply::meta_status(out, request, status, &item);
}

fn meta_item(item: &Item<'_>, times: MetaItem) -> MetaItem {
    MetaItem {
        value_len: length(item.value_len()),
        client_flags: item.client_flags(),
        cas: item.cas(),
        fetched: item.fetched(),
        idle_seconds: item.idle_seconds(),
        class: class_number(item.class()),
        size: length(item.footprint_bytes()),
        ..times
    }
}

/// Seconds that a client's time is ahead, which reads as an expiration time does: a long one is a Unix time, and a negative one is none.
fn seconds_below(time: i64, now: Seconds) -> u32 {
    let seconds = if time > OFFSET_SECONDS_MAX { time - i64::from(now.0) } else { time };
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}
