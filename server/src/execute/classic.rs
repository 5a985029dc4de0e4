//! The classic commands, which the text and the binary protocol share. The request says how its answer is written.

use slabring_engine::{
    Arithmetic, ArithmeticOutcome, Delete, DeleteMode, DeleteOutcome, Item, KeyHash, Place, Seconds, Store,
    StoreOutcome,
};
use slabring_protocol::reply::{self, CRLF, Hit, Outcome};
use slabring_protocol::{Command, ErrorReply, Plain, Request};

use super::counters::class_counters;
use super::{Executor, length};
use crate::discovery::DISCOVERY_KEY;
use crate::exptime::expiry_of;
use crate::lending::{LENT_BYTES_MIN, Lent};

/// The ends of a value and of its line.
const BEHIND_VALUE_BYTES: usize = b"\r\nEND\r\n".len();

impl Executor {
    pub(super) fn get(&mut self, now: Seconds, request: &Request<'_>, hash: KeyHash, out: &mut Vec<u8>) {
        let lent_bytes_min = self.lent_bytes_min();
        self.commands.cmd_get += 1;
        match self.shard.get_hashed(now, hash, request.key) {
            Some(item) => {
                self.commands.get_hits += 1;
                class_counters(&mut self.by_class, item.class()).get_hits += 1;
                if let Some(place) = append_value(out, request, &item, lent_bytes_min) {
                    self.append_large(place, out);
                    reply::hit_end(out, request);
                }
            }
            None => {
                self.commands.get_misses += 1;
                self.miss(request, out);
            }
        }
    }

    /// Answers a get of one key by lines, its end included.
    #[inline]
    pub(super) fn get_plain(
        &mut self,
        now: Seconds,
        key: &[u8],
        hash: KeyHash,
        out: &mut Vec<u8>,
    ) -> Option<Box<(usize, Lent)>> {
        self.commands.cmd_get += 1;
        let Some(item) = self.shard.get_hashed(now, hash, key) else {
            self.commands.get_misses += 1;
            self.miss(&Request::get(key, false), out);
            reply::end(out);
            return None;
        };
        self.commands.get_hits += 1;
        class_counters(&mut self.by_class, item.class()).get_hits += 1;
        let value = item.value();
        match value.as_slice() {
            Some(whole) if whole.len() < LENT_BYTES_MIN => {
                reply::value_and_end(out, key, item.client_flags(), whole);
                None
            }
            _ => {
                let (place, client_flags) = (item.place(), item.client_flags());
                reply::value_header(out, key, client_flags, length(value.len()), None);
                self.append_large(place, out);
                out.extend_from_slice(CRLF);
                reply::end(out);
                self.lent.take()
            }
        }
    }

    #[inline]
    pub(super) fn set_plain(
        &mut self,
        now: Seconds,
        plain: &Plain<'_>,
        hash: KeyHash,
        set: &Store<'_>,
        out: &mut Vec<u8>,
    ) {
        let outcome = self.shard.store_hashed(now, hash, set);
        if let StoreOutcome::Stored { .. } = outcome {
            self.commands.cmd_set += 1;
            class_counters(&mut self.by_class, self.shard.last_class()).cmd_set += 1;
            reply::stored(out);
        } else {
            let outcome = self.count_outcome(set, outcome);
            reply_to_store(&plain.request(), outcome, out);
        }
    }

    /// A key that older clients of a managed service ask for the nodes is answered although nobody stored it.
    fn miss(&self, request: &Request<'_>, out: &mut Vec<u8>) {
        if request.key == DISCOVERY_KEY && !self.discovery.is_empty() {
            let value_len = length(self.discovery.len());
            reply::hit_header(out, request, &Hit { client_flags: 0, value_len, cas: 0 });
            out.extend_from_slice(&self.discovery);
            reply::hit_end(out, request);
        } else {
            reply::miss(out, request);
        }
    }

    pub(super) fn get_and_touch(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        exptime: i64,
        out: &mut Vec<u8>,
    ) {
        let lent_bytes_min = self.lent_bytes_min();
        self.commands.cmd_touch += 1;
        match self.shard.get_and_touch(now, request.key, expiry_of(exptime, now)) {
            Some(item) => {
                self.commands.touch_hits += 1;
                class_counters(&mut self.by_class, item.class()).touch_hits += 1;
                if let Some(place) = append_value(out, request, &item, lent_bytes_min) {
                    self.append_large(place, out);
                    reply::hit_end(out, request);
                }
            }
            None => {
                self.commands.touch_misses += 1;
                reply::miss(out, request);
            }
        }
    }

    /// `key` is decoded: a meta command may have come to this.
    pub(super) fn store_too_large(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        key: &[u8],
        removes: bool,
        out: &mut Vec<u8>,
    ) {
        self.commands.store_too_large += 1;
        if removes {
            self.shard.delete(now, &removal(key, None));
        }
        reply::outcome(out, request, Outcome::Refused(ErrorReply::TooLarge));
    }

    pub(super) fn delete(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        compare: Option<u64>,
        out: &mut Vec<u8>,
    ) {
        let outcome = match self.count_delete(now, &removal(request.key, compare)) {
            DeleteOutcome::Deleted => Outcome::Deleted,
            DeleteOutcome::NotFound => Outcome::NotFound,
            DeleteOutcome::Exists => Outcome::Exists,
        };
        reply::outcome(out, request, outcome);
    }

    pub(super) fn arithmetic(&mut self, now: Seconds, request: &Request<'_>, out: &mut Vec<u8>) {
        let Command::Arithmetic { decrement, delta, compare, vivify } = request.command else {
            unreachable!("the caller has looked")
        };
        let arithmetic = Arithmetic {
            key: request.key,
            delta,
            decrement,
            compare,
            explicit_cas: None,
            touch: None,
            vivify: vivify.map(|vivify| (vivify.initial, expiry_of(vivify.exptime, now))),
            binary_key: false,
        };
        let outcome = match self.count_arithmetic(now, &arithmetic) {
            ArithmeticOutcome::Value { value, cas, .. } => Outcome::Number { value, cas },
            ArithmeticOutcome::NotFound => Outcome::NotFound,
            ArithmeticOutcome::NonNumeric => Outcome::Refused(ErrorReply::NonNumericValue),
            ArithmeticOutcome::Exists => Outcome::Exists,
            ArithmeticOutcome::NoMemory => Outcome::Refused(ErrorReply::OutOfMemory),
        };
        reply::outcome(out, request, outcome);
    }

    pub(super) fn touch(&mut self, now: Seconds, request: &Request<'_>, exptime: i64, out: &mut Vec<u8>) {
        self.commands.cmd_touch += 1;
        let outcome = match self.shard.get_and_touch(now, request.key, expiry_of(exptime, now)) {
            Some(item) => {
                self.commands.touch_hits += 1;
                class_counters(&mut self.by_class, item.class()).touch_hits += 1;
                Outcome::Touched { client_flags: item.client_flags(), cas: item.cas() }
            }
            None => {
                self.commands.touch_misses += 1;
                Outcome::NotFound
            }
        };
        reply::outcome(out, request, outcome);
    }
}

pub(super) fn reply_to_store(request: &Request<'_>, outcome: StoreOutcome, out: &mut Vec<u8>) {
    let outcome = match outcome {
        StoreOutcome::Stored { cas, .. } => Outcome::Stored { cas },
        StoreOutcome::NotStored => Outcome::NotStored,
        StoreOutcome::Exists => Outcome::Exists,
        StoreOutcome::NotFound => Outcome::NotFound,
        StoreOutcome::TooLarge => Outcome::Refused(ErrorReply::TooLarge),
        StoreOutcome::NoMemory => Outcome::Refused(ErrorReply::OutOfMemoryStoring),
    };
    reply::outcome(out, request, outcome);
}

/// Appends a hit, or if the value has so many bytes only what comes before it; then the caller goes on.
fn append_value(
    out: &mut Vec<u8>,
    request: &Request<'_>,
    item: &Item<'_>,
    lent_bytes_min: usize,
) -> Option<Place> {
    let value = item.value();
    let cas = if reply::hit_shows_cas(request) { item.cas() } else { 0 };
    let hit = Hit { client_flags: item.client_flags(), value_len: length(value.len()), cas };
    reply::hit_header(out, request, &hit);
    if value.len() >= lent_bytes_min {
        return Some(item.place());
    }
    // With the room for what follows, or a buffer that just holds the value is doubled for it, and then too large to be kept.
    out.reserve(value.len() + BEHIND_VALUE_BYTES);
    value.copy_to(out);
    reply::hit_end(out, request);
    None
}

fn removal(key: &[u8], compare: Option<u64>) -> Delete<'_> {
    Delete { key, compare, mode: DeleteMode::Remove, explicit_cas: None }
}
