//! Who hears of requests beside those who sent them: watchers, trackers, and counts by prefix.

use slabring_engine::{EvictedItem, Seconds};
use slabring_protocol::reply::{LogItem, WatchEvent};
use slabring_protocol::{KEY_SIZE_MAX, Request, WatchTopics};

use super::{Executor, length, may_write};
use crate::exptime::ttl_of;
use crate::observe::REQUEST_TOPICS;
use crate::prefixes::PrefixCounts;
use crate::report::class_number;
use crate::track::Trackers;
use crate::watch::{WatcherId, Watchers};

impl Executor {
    /// Whether somebody wants to be told of requests.
    pub fn is_observed(&self) -> bool {
        self.observed
    }

    /// Looks whether somebody watches.
    #[inline]
    pub fn look_who_watches(&mut self, watchers: &Watchers) {
        if self.watch_log.refresh(watchers) {
            self.look_who_observes();
        }
    }

    /// Looks whether somebody tracks.
    #[inline]
    pub fn look_who_tracks(&mut self, trackers: &Trackers) {
        if self.tracking.refresh(trackers) {
            self.look_who_observes();
        }
    }

    fn look_who_observes(&mut self) {
        let requests = REQUEST_TOPICS.into_iter().fold(WatchTopics::default(), WatchTopics::and);
        self.observed = self.prefixes.is_some() || self.watch_log.wants(requests);
        self.shard.keep_evicted(self.watch_log.wants(WatchTopics::EVICTIONS));
        self.attention.look_at_all(self.observed || self.tracking.is_active());
    }

    /// Whether anybody watches this.
    pub fn is_watched(&self, topic: WatchTopics) -> bool {
        self.watch_log.wants(topic)
    }

    /// Tells those who watch this topic of an event.
    pub fn note(&mut self, topic: WatchTopics, event: &WatchEvent<'_>) {
        if self.watch_log.wants(topic) {
            self.watch_log.note(topic, event);
        }
    }

    /// Tells those who watch of what was evicted since the last call.
    pub fn note_evictions(&mut self, now: Seconds) {
        let Self { shard, watch_log, .. } = self;
        if !watch_log.wants(WatchTopics::EVICTIONS) {
            return;
        }
        let lost = shard.take_evicted(now, |evicted| {
            let EvictedItem { key, fetched, expiry, idle_seconds, class, value_len } = *evicted;
            let item = LogItem { key, class: class_number(class), size: length(value_len) };
            let event = WatchEvent::Eviction { item, fetched, ttl: ttl_of(expiry, now), idle_seconds };
            watch_log.note(WatchTopics::EVICTIONS, &event);
        });
        watch_log.skip(WatchTopics::EVICTIONS, lost);
    }

    /// Tells those who have a copy of a value that it may be another now. Of a request that changed nothing they hear too.
    pub fn note_write(&mut self, request: &Request<'_>) {
        if self.tracking.is_active() && may_write(request) {
            let mut scratch = [0; KEY_SIZE_MAX];
            let key = request.decoded_key(&mut scratch);
            self.tracking.wrote(self.shard.hash(key), key);
        }
    }

    /// Tells all trackers that any value may be another now: keys have other owners.
    pub fn forget_copies(&mut self) {
        if self.tracking.is_active() {
            self.tracking.flushed(None);
        }
    }

    /// Appends what waits for a watcher.
    pub fn fetch_log(&mut self, watcher: WatcherId, out: &mut Vec<u8>) {
        self.watch_log.fetch(watcher, out);
    }

    /// Appends what waits for a tracker. Whether that is all that was to be told: others may write the keys of a node that is cut off.
    pub fn fetch_changes(&mut self, id: u64, out: &mut Vec<u8>) -> bool {
        self.tracking.fetch(id, out);
        self.replication.as_ref().is_none_or(|replication| replication.is_in_touch())
    }

    /// Counts something for the prefix of a key, if anybody wants that.
    pub fn count_by_prefix(&mut self, key: &[u8], add: impl FnOnce(&mut PrefixCounts)) {
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.count(key, self.prefix_delimiter, add);
        }
    }

    pub(super) fn set_counting(&mut self, wanted: bool) {
        if wanted {
            self.prefixes.get_or_insert_default();
        } else {
            self.prefixes = None;
        }
        self.look_who_observes();
    }

    /// Memory of what waits for watchers, for trackers, and to be told to copies.
    pub fn log_capacity_bytes(&self) -> usize {
        let touches = self.touches.as_ref().map_or(0, |touches| touches.buffer_bytes());
        self.watch_log.capacity_bytes() + self.tracking.capacity_bytes() + touches
    }

    /// A second is over.
    pub fn end_second(&mut self, now: Seconds) {
        self.hot_keys.turn_over();
        self.front.iter_mut().for_each(|front| front.end_second());
        self.tracking.flush_if_due(now);
    }
}
