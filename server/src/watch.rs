//! `watch`: connections that are told what happens. Every shard writes lines into a bounded log for each watcher; the
//! watcher's own shard fetches them by letter a few times a second, as far as the watcher reads. What does not fit is
//! counted and told as skipped: a watcher never holds up a request.
//!
//! Who watches what stands in one table of atomics for the whole node, so that a watcher that is gone is forgotten by all
//! whatever becomes of its letters.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use slabring_protocol::reply::{self, Outcome, WatchEvent};
use slabring_protocol::{ErrorReply, Request, WATCHERS_MAX, WatchTopics};
use slabring_reactor::clock::{Clock, Moment};

use crate::batch::ReturnAddress;
use crate::connection::{Connection, Stream};
use crate::datagrams::is_datagram;
use crate::dispatch::Dispatcher;
use crate::report::Question;
use crate::shards::{ShardId, Shards};
use crate::unkeyed::refuse;

/// Bytes of lines that wait in one shard for one watcher.
pub const LOG_BYTES_MAX: usize = 64 << 10;
/// Output of a watcher above which nothing is fetched for it.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// Time between two fetches for a watcher.
pub const FETCH_PAUSE: Duration = Duration::from_millis(20);
const TOPIC_BITS: u32 = 16;

/// Who watches what.
#[derive(Default, Debug)]
pub struct Watchers {
    /// Rises with each change of `places`.
    epoch: AtomicU64,
    /// A stamp in the upper half, topics in the lower one; no topics: the place is free.
    places: [AtomicU32; WATCHERS_MAX],
}

/// One watcher as all shards know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatcherId {
    place: usize,
    stamped: u32,
}

/// A connection that watches.
#[derive(Debug)]
pub struct Watch {
    id: WatcherId,
    /// Shards whose lines are on their way.
    missing: u16,
    fetched_at: Moment,
}

/// One shard's lines for all watchers.
pub struct WatchLog {
    clock: Clock,
    epoch: u64,
    /// What anybody watches.
    topics: WatchTopics,
    logs: Vec<Log>,
    line: Vec<u8>,
    /// Numbers of the node's events are those of this shard and every so many further.
    number: u64,
    step: u64,
    /// What became of all lines.
    pub counters: LogCounters,
}

/// What is told of logs in statistics.
#[derive(Clone, Copy, Default)]
pub struct LogCounters {
    /// Lines written for anybody.
    pub written: u64,
    /// Lines fetched by a watcher.
    pub sent: u64,
    /// Lines that found no room.
    pub skipped: u64,
}

struct Log {
    id: WatcherId,
    topics: WatchTopics,
    lines: Vec<u8>,
    line_count: u64,
    skipped: u64,
}

const _: () = assert!(OUTPUT_BYTES_MAX > LOG_BYTES_MAX);

impl Watchers {
    /// A place for somebody who watches these topics, if there is one.
    pub fn enter(&self, topics: WatchTopics) -> Option<WatcherId> {
        for (place, cell) in self.places.iter().enumerate() {
            let before = cell.load(Ordering::Relaxed);
            let stamp = (before >> TOPIC_BITS).wrapping_add(1);
            let stamped = stamp << TOPIC_BITS | u32::from(topics.bits());
            let is_free = before & u32::from(u16::MAX) == 0;
            if is_free && cell.compare_exchange(before, stamped, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                self.epoch.fetch_add(1, Ordering::Release);
                return Some(WatcherId { place, stamped });
            }
        }
        None
    }

    fn leave(&self, id: WatcherId) {
        let stamp_only = id.stamped & !u32::from(u16::MAX);
        self.places[id.place].store(stamp_only, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ids().count()
    }

    fn ids(&self) -> impl Iterator<Item = WatcherId> {
        let stamped = self.places.iter().map(|cell| cell.load(Ordering::Acquire)).enumerate();
        let taken = stamped.filter(|(_, stamped)| stamped & u32::from(u16::MAX) != 0);
        taken.map(|(place, stamped)| WatcherId { place, stamped })
    }
}

impl WatcherId {
    fn topics(self) -> WatchTopics {
        WatchTopics::from_bits(u16::try_from(self.stamped & u32::from(u16::MAX)).expect("masked"))
    }
}

impl WatchLog {
    /// The log of one shard, which nobody watches.
    pub fn new(clock: Clock, shards: Shards) -> Self {
        Self {
            clock,
            epoch: 0,
            topics: WatchTopics::default(),
            logs: Vec::new(),
            line: Vec::new(),
            number: u64::from(shards.me.0) + 1,
            step: u64::from(shards.count),
            counters: LogCounters::default(),
        }
    }

    /// Whether anybody watches any of these. A load.
    #[inline]
    pub fn wants(&self, topics: WatchTopics) -> bool {
        self.topics.overlaps(topics)
    }

    /// Looks who watches. True if that has changed.
    #[inline]
    pub fn refresh(&mut self, watchers: &Watchers) -> bool {
        let epoch = watchers.epoch.load(Ordering::Acquire);
        if epoch == self.epoch {
            return false;
        }
        self.epoch = epoch;
        self.take_over(watchers);
        true
    }

    #[cold]
    fn take_over(&mut self, watchers: &Watchers) {
        let ids: Vec<_> = watchers.ids().collect();
        self.logs.retain(|log| ids.contains(&log.id));
        for id in ids {
            if !self.logs.iter().any(|log| log.id == id) {
                let topics = id.topics();
                self.logs.push(Log { id, topics, lines: Vec::new(), line_count: 0, skipped: 0 });
            }
        }
        self.topics = self.logs.iter().fold(WatchTopics::default(), |all, log| all.and(log.topics));
    }

    /// Writes an event down for those who watch its topic.
    pub fn note(&mut self, topic: WatchTopics, event: &WatchEvent<'_>) {
        let counters = &mut self.counters;
        self.line.clear();
        reply::watch_event(&mut self.line, self.clock.unix_microseconds(), self.number, event);
        self.number += self.step;
        for log in self.logs.iter_mut().filter(|log| log.topics.contains(topic)) {
            if log.lines.len() + self.line.len() > LOG_BYTES_MAX {
                log.skipped += 1;
                counters.skipped += 1;
            } else {
                log.lines.extend_from_slice(&self.line);
                log.line_count += 1;
                counters.written += 1;
            }
        }
    }

    /// Counts events that nobody wrote down.
    pub fn skip(&mut self, topic: WatchTopics, events: u64) {
        for log in self.logs.iter_mut().filter(|log| log.topics.contains(topic)) {
            log.skipped += events;
            self.counters.skipped += events;
        }
    }

    /// Appends what waits for a watcher.
    pub fn fetch(&mut self, id: WatcherId, out: &mut Vec<u8>) {
        let Some(log) = self.logs.iter_mut().find(|log| log.id == id) else { return };
        out.append(&mut log.lines);
        self.counters.sent += std::mem::take(&mut log.line_count);
        let skipped = std::mem::take(&mut log.skipped);
        if skipped > 0 {
            reply::watch_skipped(out, skipped);
        }
    }

    /// Memory that is reserved here.
    pub fn capacity_bytes(&self) -> usize {
        self.logs.iter().map(|log| log.lines.capacity()).sum()
    }
}

impl Dispatcher {
    /// Makes `client` a watcher, who is only told things from here on.
    pub fn begin_watch(&mut self, client: &mut Connection, request: &Request<'_>, topics: WatchTopics) {
        if !self.node.settings.watch_enabled {
            return refuse(client, request, ErrorReply::WatchNotAllowed);
        }
        if !client.outbox.is_empty() {
            return refuse(client, request, ErrorReply::WatchPipelined);
        }
        if is_datagram(client.id) {
            return refuse(client, request, ErrorReply::WatcherFailed);
        }
        let Some(id) = self.node.watchers.enter(topics) else {
            return refuse(client, request, ErrorReply::TooManyWatchers);
        };
        client.outbox.local(|out| reply::outcome(out, request, Outcome::Done));
        client.stream = Some(Stream::Watch(Watch { id, missing: 0, fetched_at: Moment::now() }));
        self.watching += 1;
        self.executor.look_who_watches(&self.node.watchers);
    }

    /// Fetches lines for a watcher if it is time to.
    pub fn go_on_watching(&mut self, client: &mut Connection, watch: &mut Watch) {
        let now = Moment::now();
        let is_time = watch.missing == 0 && now >= watch.fetched_at.after(FETCH_PAUSE);
        if !is_time || client.outbox.bytes() >= OUTPUT_BYTES_MAX || !self.post.has_room() {
            return;
        }
        watch.fetched_at = now;
        client.outbox.local(|out| self.executor.fetch_log(watch.id, out));
        for shard in (0..self.shards.count).map(ShardId).filter(|shard| *shard != self.shards.me) {
            let sender = ReturnAddress { connection: client.id, ticket: client.outbox.expect() };
            self.post.ask(shard, sender, Question::Log(watch.id));
            watch.missing += 1;
        }
    }

    /// Forgets a watcher whose connection ends.
    pub fn end_watch(&mut self, client: &Connection) {
        if let Some(Stream::Watch(watch)) = &client.stream {
            self.node.watchers.leave(watch.id);
            self.watching -= 1;
        }
    }
}

impl Watch {
    /// Takes note that a shard's lines have come.
    pub fn fetched(&mut self) {
        self.missing -= 1;
    }
}

#[cfg(test)]
mod tests {
    use slabring_protocol::reply::{FetchStatus, LogItem};

    use super::*;

    const ITEM: LogItem<'static> = LogItem { key: b"key", class: 0, size: 0 };
    const EVENT: WatchEvent<'static> =
        WatchEvent::Fetch { item: ITEM, status: FetchStatus::NotFound, connection: 7 };

    fn log() -> WatchLog {
        WatchLog::new(Clock::start(), Shards { count: 2, me: ShardId(1) })
    }

    fn fetch(log: &mut WatchLog, id: WatcherId) -> String {
        let mut out = Vec::new();
        log.fetch(id, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_watcher_gets_the_lines_of_its_topics_once() {
        let (watchers, mut log) = (Watchers::default(), log());
        assert!(!log.wants(WatchTopics::FETCHERS));
        let id = watchers.enter(WatchTopics::FETCHERS).unwrap();
        assert!(log.refresh(&watchers) && !log.refresh(&watchers));
        assert!(log.wants(WatchTopics::FETCHERS) && !log.wants(WatchTopics::MUTATIONS));
        log.note(WatchTopics::FETCHERS, &EVENT);
        log.note(WatchTopics::DELETIONS, &EVENT);
        log.note(WatchTopics::FETCHERS, &EVENT);
        let lines = fetch(&mut log, id);
        assert!(lines.contains(" gid=2 ") && lines.contains(" gid=6 ") && lines.lines().count() == 2);
        assert_eq!(fetch(&mut log, id), "");
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told() {
        let (watchers, mut log) = (Watchers::default(), log());
        let id = watchers.enter(WatchTopics::FETCHERS).unwrap();
        log.refresh(&watchers);
        for _ in 0..10_000 {
            log.note(WatchTopics::FETCHERS, &EVENT);
        }
        assert!(log.capacity_bytes() <= 2 * LOG_BYTES_MAX);
        let counters = log.counters;
        assert_eq!(counters.written + counters.skipped, 10_000);
        let lines = fetch(&mut log, id);
        let last = lines.lines().last().unwrap();
        assert_eq!(last, format!("skipped={}", counters.skipped));
        assert_eq!(lines.lines().count() as u64, counters.written + 1);
    }

    #[test]
    fn places_are_bounded_and_a_new_tenant_does_not_inherit_lines() {
        let (watchers, mut log) = (Watchers::default(), log());
        let ids: Vec<_> = (0..WATCHERS_MAX).map(|_| watchers.enter(WatchTopics::FETCHERS).unwrap()).collect();
        assert!(watchers.enter(WatchTopics::FETCHERS).is_none());
        log.refresh(&watchers);
        log.note(WatchTopics::FETCHERS, &EVENT);
        watchers.leave(ids[3]);
        assert_eq!(watchers.count(), WATCHERS_MAX - 1);
        let next = watchers.enter(WatchTopics::FETCHERS).unwrap();
        assert!(next.place == ids[3].place && next != ids[3]);
        log.refresh(&watchers);
        assert_eq!((fetch(&mut log, next), fetch(&mut log, ids[3])), (String::new(), String::new()));
        assert_ne!(fetch(&mut log, ids[4]), "");
    }
}
