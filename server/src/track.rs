//! `track on`: connections that are told which keys change, for clients that keep copies of values. Every shard writes the keys down
//! in a bounded list for each tracker; the tracker's own shard fetches them by letter. A list that overflows becomes the word that
//! everything may have changed: no change is ever kept from a tracker. A tracker never holds up a request.
//!
//! Once a second a tracker gets a `PING` behind a round through all shards: all that changed before that round was told before it. There
//! is none while this node is cut off from the others, who may write its keys then.
//! `docs/near-cache.md` has what a client does with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slabring_engine::Seconds;
use slabring_protocol::{ErrorReply, Request, TRACKERS_MAX, reply};
use slabring_reactor::clock::Moment;

use crate::batch::ReturnAddress;
use crate::connection::{Connection, Stream};
use crate::datagrams::is_datagram;
use crate::dispatch::Dispatcher;
use crate::report::Question;
use crate::shards::ShardId;
use crate::tracked::{Places, Tracked};
use crate::unkeyed::refuse;

/// Bytes of keys that wait in one shard for one tracker.
const LIST_BYTES_MAX: usize = 64 << 10;
/// Output of a tracker above which nothing is fetched for it.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// A change is told after this time, about.
pub const TRACK_PAUSE: Duration = Duration::from_millis(5);
/// Time between two rounds that end in a `PING`.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Bits of a tracker's number that are its place.
const PLACE_BITS: u32 = 8;
/// In a list, in the place of a key: all keys.
const ALL_KEYS: u8 = 0;

const _: () = assert!(1 << PLACE_BITS == TRACKERS_MAX);

/// Who tracks, for all shards.
#[derive(Default, Debug)]
pub struct Trackers {
    /// Rises with each change.
    generation: AtomicU64,
    places: Mutex<Vec<Option<Arc<Tracker>>>>,
}

/// A connection that tracks, as all shards know it.
#[derive(Debug)]
pub struct Tracker {
    /// Its place, and above that a number that no other tracker of any node has.
    id: u64,
    /// Beginnings of keys, all of whose changes it is told.
    prefixes: Vec<Box<[u8]>>,
    /// Some shard has written something down for it.
    has_news: AtomicBool,
}

/// A connection that tracks, as its own shard knows it.
#[derive(Debug)]
pub struct Track {
    tracker: Arc<Tracker>,
    epoch: u64,
    /// Lines told in this epoch.
    number: u64,
    /// Shards whose keys are on their way.
    missing: u16,
    begun_at: Moment,
    fetched_at: Moment,
    pinged_at: Moment,
    /// The round that is under way ends in a `PING`, as far as it has come.
    pings: bool,
}

/// What one shard has to tell trackers.
pub struct Tracking {
    generation: u64,
    /// By place.
    lists: Vec<Option<List>>,
    /// Lists there are.
    count: usize,
    /// Some of them name prefixes.
    has_prefixes: bool,
    tracked: Tracked,
    /// When a flush comes that is not yet due.
    flush_due: Option<Seconds>,
    /// What became of it all.
    pub counters: TrackCounters,
}

/// What is told of tracking in statistics.
#[derive(Clone, Copy, Default)]
pub struct TrackCounters {
    /// Reads that were marked.
    pub marked: u64,
    /// Keys written down for some tracker.
    pub told: u64,
    /// Of these, those that had not changed: there was no more room to know who has a copy.
    pub forced: u64,
    /// Times a tracker was told that everything may have changed.
    pub flushes: u64,
}

struct List {
    tracker: Arc<Tracker>,
    /// A length and a key, again and again.
    keys: Vec<u8>,
}

impl Tracker {
    fn place(&self) -> usize {
        place_of(self.id)
    }
}

fn place_of(id: u64) -> usize {
    usize::try_from(id % TRACKERS_MAX as u64).expect("below 256")
}

impl Trackers {
    /// A place for somebody who tracks these prefixes, if there is one. `stamp` is another at every call, and on every node.
    fn enter(&self, prefixes: Vec<Box<[u8]>>, stamp: u64) -> Option<Arc<Tracker>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.resize(TRACKERS_MAX, None);
        let place = places.iter().position(Option::is_none)?;
        let id = stamp << PLACE_BITS | place as u64;
        let tracker = Arc::new(Tracker { id, prefixes, has_news: AtomicBool::new(false) });
        places[place] = Some(Arc::clone(&tracker));
        self.generation.fetch_add(1, Ordering::Release);
        Some(tracker)
    }

    fn leave(&self, tracker: &Tracker) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)[tracker.place()] = None;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().count()
    }
}

impl List {
    fn write(&mut self, key: &[u8]) {
        if self.keys.first() == Some(&ALL_KEYS) {
            return;
        }
        if self.keys.len() + 1 + key.len() > LIST_BYTES_MAX {
            return self.write_all();
        }
        self.keys.push(u8::try_from(key.len()).expect("a key has at most 250 bytes"));
        self.keys.extend_from_slice(key);
        self.tracker.has_news.store(true, Ordering::Release);
    }

    fn write_all(&mut self) {
        self.keys.clear();
        self.keys.push(ALL_KEYS);
        self.tracker.has_news.store(true, Ordering::Release);
    }
}

impl Tracking {
    /// Of a shard of so much memory, which nobody tracks.
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            generation: 0,
            lists: Vec::new(),
            count: 0,
            has_prefixes: false,
            tracked: Tracked::new(memory_bytes),
            flush_due: None,
            counters: TrackCounters::default(),
        }
    }

    /// Whether anybody tracks.
    #[inline]
    pub fn is_active(&self) -> bool {
        self.count > 0
    }

    /// Keys of which somebody has a copy.
    pub fn keys(&self) -> usize {
        self.tracked.len()
    }

    /// Memory that is reserved here.
    pub fn capacity_bytes(&self) -> usize {
        let lists: usize = self.lists.iter().flatten().map(|list| list.keys.capacity()).sum();
        lists + self.tracked.bytes()
    }

    /// Looks who tracks. True if that has changed.
    #[inline]
    pub fn refresh(&mut self, trackers: &Trackers) -> bool {
        let generation = trackers.generation.load(Ordering::Acquire);
        if generation == self.generation {
            return false;
        }
        self.generation = generation;
        self.take_over(trackers);
        true
    }

    #[cold]
    fn take_over(&mut self, trackers: &Trackers) {
        let places = trackers.places.lock().unwrap_or_else(PoisonError::into_inner);
        self.lists.resize_with(places.len(), || None);
        for (list, tracker) in self.lists.iter_mut().zip(&*places) {
            let id = |tracker: &Tracker| tracker.id;
            if list.as_ref().map(|list| id(&list.tracker)) != tracker.as_deref().map(id) {
                *list = tracker.clone().map(|tracker| List { tracker, keys: Vec::new() });
            }
        }
        self.count = self.lists.iter().flatten().count();
        self.has_prefixes = self.lists.iter().flatten().any(|list| !list.tracker.prefixes.is_empty());
        if self.count == 0 {
            self.tracked.clear();
        }
    }

    /// Takes note that the tracker of this number has a copy of a key. False: there is no such tracker, or not here.
    pub fn mark(&mut self, hash: u64, key: &[u8], id: u64) -> bool {
        let place = place_of(id);
        if !matches!(self.lists.get(place), Some(Some(list)) if list.tracker.id == id) {
            return false;
        }
        self.counters.marked += 1;
        let (lists, counters) = (&mut self.lists, &mut self.counters);
        self.tracked.insert(hash, key, place, |gone, places| {
            counters.forced += write_to(lists, places, gone);
        });
        true
    }

    /// A key may have another value from here on: writes it down for all who have a copy, or wish to know.
    pub fn wrote(&mut self, hash: u64, key: &[u8]) {
        if let Some(places) = self.tracked.remove(hash, key) {
            self.counters.told += write_to(&mut self.lists, places, key);
        }
        if self.has_prefixes {
            for list in self.lists.iter_mut().flatten() {
                if list.tracker.prefixes.iter().any(|prefix| key.starts_with(prefix)) {
                    list.write(key);
                    self.counters.told += 1;
                }
            }
        }
    }

    /// All keys may have another value from here on, or from that second on.
    pub fn flushed(&mut self, due: Option<Seconds>) {
        self.flush_due = due;
        if due.is_none() {
            self.tracked.clear();
            self.lists.iter_mut().flatten().for_each(List::write_all);
            self.counters.flushes += self.count as u64;
        }
    }

    /// Looks whether a flush has become due.
    pub fn flush_if_due(&mut self, now: Seconds) {
        if self.flush_due.is_some_and(|due| now >= due) {
            self.flushed(None);
        }
    }

    /// Appends what waits for a tracker, for [`Track::told`].
    pub fn fetch(&mut self, id: u64, out: &mut Vec<u8>) {
        if let Some(Some(list)) = self.lists.get_mut(place_of(id))
            && list.tracker.id == id
        {
            out.append(&mut list.keys);
        }
    }
}

/// Writes a key down for those in these places who still track. Says for how many.
fn write_to(lists: &mut [Option<List>], places: Places, key: &[u8]) -> u64 {
    let mut written = 0;
    for place in places.iter() {
        // Who came into the place since has no copy, and is not hurt by hearing of it.
        if let Some(Some(list)) = lists.get_mut(place) {
            list.write(key);
            written += 1;
        }
    }
    written
}

impl Track {
    fn new(tracker: Arc<Tracker>, epoch: u64) -> Self {
        let now = Moment::now();
        let (begun_at, fetched_at, pinged_at) = (now, now, now);
        Self { tracker, epoch, number: 0, missing: 0, begun_at, fetched_at, pinged_at, pings: false }
    }

    /// Writes the lines for what a shard had for it.
    fn tell(&mut self, mut keys: &[u8], out: &mut Vec<u8>) {
        while let Some((&length, rest)) = keys.split_first() {
            let (key, rest) = rest.split_at(usize::from(length));
            if length == ALL_KEYS {
                self.epoch += 1;
                self.number = 0;
                reply::all_invalidated(out, self.epoch);
            } else {
                self.number += 1;
                reply::invalidated(out, self.epoch, self.number, key);
            }
            keys = rest;
        }
    }

    fn end_round(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.pings) {
            let milliseconds = self.fetched_at.since_ns(self.begun_at) / 1_000_000;
            reply::track_ping(out, self.epoch, self.number, milliseconds);
        }
    }
}

impl Dispatcher {
    /// Makes `client` a tracker, who is only told things from here on.
    pub fn begin_track(&mut self, client: &mut Connection, request: &Request<'_>) {
        if !client.outbox.is_empty() {
            return refuse(client, request, ErrorReply::TrackPipelined);
        }
        if is_datagram(client.id) {
            return refuse(client, request, ErrorReply::TrackerFailed);
        }
        let words = request.flags.split(|&byte| byte == b' ');
        let prefixes = words.filter(|word| !word.is_empty()).map(Into::into).collect();
        let stamp = self.node.clock.unix_microseconds();
        let Some(tracker) = self.node.trackers.enter(prefixes, stamp) else {
            return refuse(client, request, ErrorReply::TrackerFailed);
        };
        client.outbox.local(|out| reply::tracking(out, tracker.id, stamp));
        client.stream = Some(Stream::Track(Box::new(Track::new(tracker, stamp))));
        self.tracking += 1;
        self.executor.look_who_tracks(&self.node.trackers);
    }

    /// Fetches keys for a tracker if there are some or it is time for a `PING`.
    pub fn go_on_tracking(&mut self, client: &mut Connection, track: &mut Track) {
        let now = Moment::now();
        let may_fetch =
            track.missing == 0 && client.outbox.bytes() < OUTPUT_BYTES_MAX && self.post.has_room();
        if !may_fetch || now < track.fetched_at.after(TRACK_PAUSE) {
            return;
        }
        track.fetched_at = now;
        track.pings = now >= track.pinged_at.after(PING_EVERY);
        if track.pings {
            track.pinged_at = now;
        }
        // Shards write first and say so then: what is written while this looks is found now or the next time.
        let has_news = track.tracker.has_news.swap(false, Ordering::AcqRel);
        if !has_news && !track.pings {
            return;
        }
        let mut keys = self.spare_buffer();
        track.pings &= self.executor.fetch_changes(track.tracker.id, &mut keys);
        client.outbox.local(|out| track.tell(&keys, out));
        keys.clear();
        self.keep_spare(keys);
        for shard in (0..self.shards.count).map(ShardId).filter(|shard| *shard != self.shards.me) {
            self.post.ask(
                shard,
                ReturnAddress::without_ticket(client.id),
                Question::Changes(track.tracker.id),
            );
            track.missing += 1;
        }
        if track.missing == 0 {
            client.outbox.local(|out| track.end_round(out));
        }
    }

    /// Tells a tracker what another shard had for it.
    pub fn tell_changes(&mut self, client: &mut Connection, keys: &[u8], are_all: bool) {
        let Some(Stream::Track(track)) = &mut client.stream else { return };
        track.pings &= are_all;
        track.missing -= 1;
        client.outbox.local(|out| track.tell(keys, out));
        if track.missing == 0 {
            client.outbox.local(|out| track.end_round(out));
        }
    }

    /// Forgets a tracker whose connection ends.
    pub fn end_track(&mut self, client: &Connection) {
        if let Some(Stream::Track(track)) = &client.stream {
            self.node.trackers.leave(&track.tracker);
            self.tracking -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Vec<Box<[u8]>> = Vec::new();

    fn tracking() -> Tracking {
        Tracking::new(1 << 20)
    }

    fn lines(tracking: &mut Tracking, track: &mut Track) -> String {
        let (mut keys, mut out) = (Vec::new(), Vec::new());
        tracking.fetch(track.tracker.id, &mut keys);
        track.tell(&keys, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn who_has_a_copy_is_told_of_the_next_change_and_of_no_other() {
        let (trackers, mut tracking) = (Trackers::default(), tracking());
        let mut track = Track::new(trackers.enter(NONE, 9).unwrap(), 9);
        assert!(!tracking.mark(1, b"k", track.tracker.id), "not seen yet");
        assert!(tracking.refresh(&trackers) && !tracking.refresh(&trackers) && tracking.is_active());
        assert!(tracking.mark(1, b"k", track.tracker.id));
        tracking.wrote(2, b"other");
        assert!(!track.tracker.has_news.load(Ordering::Relaxed));
        tracking.wrote(1, b"k");
        tracking.wrote(1, b"k");
        assert!(track.tracker.has_news.load(Ordering::Relaxed));
        assert_eq!(lines(&mut tracking, &mut track), "IV 9 1 k\r\n");
        assert_eq!(lines(&mut tracking, &mut track), "");
    }

    #[test]
    fn a_flush_begins_an_epoch_and_one_that_is_not_due_waits() {
        let (trackers, mut tracking) = (Trackers::default(), tracking());
        let mut track = Track::new(trackers.enter(NONE, 9).unwrap(), 9);
        tracking.refresh(&trackers);
        tracking.mark(1, b"k", track.tracker.id);
        tracking.flushed(Some(Seconds(100)));
        tracking.flush_if_due(Seconds(99));
        assert_eq!((lines(&mut tracking, &mut track).as_str(), tracking.keys()), ("", 1));
        tracking.flush_if_due(Seconds(100));
        tracking.flush_if_due(Seconds(101));
        tracking.wrote(1, b"k");
        assert_eq!((lines(&mut tracking, &mut track).as_str(), tracking.keys()), ("IF 10\r\n", 0));
        tracking.mark(1, b"k", track.tracker.id);
        tracking.wrote(1, b"k");
        assert_eq!(lines(&mut tracking, &mut track), "IV 10 1 k\r\n");
    }

    #[test]
    fn a_list_that_overflows_says_that_all_may_have_changed() {
        let (trackers, mut tracking) = (Trackers::default(), tracking());
        let prefixes = vec![Box::from(*b"user:"), Box::from(*b"page:")];
        let mut track = Track::new(trackers.enter(prefixes, 9).unwrap(), 9);
        tracking.refresh(&trackers);
        for n in 0..100_000_u64 {
            tracking.wrote(n, format!("user:{n}").as_bytes());
            tracking.wrote(n, format!("other:{n}").as_bytes());
        }
        assert!(tracking.capacity_bytes() <= 2 * LIST_BYTES_MAX);
        assert_eq!(lines(&mut tracking, &mut track), "IF 10\r\n");
        tracking.wrote(1, b"page:1");
        assert_eq!(lines(&mut tracking, &mut track), "IV 10 1 page:1\r\n");
    }

    #[test]
    fn a_number_is_good_for_one_tracker_and_places_are_bounded() {
        let (trackers, mut tracking) = (Trackers::default(), tracking());
        let all: Vec<_> = (1..).map_while(|stamp| trackers.enter(NONE, stamp)).take(1000).collect();
        assert_eq!((all.len(), trackers.count()), (TRACKERS_MAX, TRACKERS_MAX));
        trackers.leave(&all[3]);
        let next = trackers.enter(NONE, 5000).unwrap();
        assert_eq!(next.place(), all[3].place());
        tracking.refresh(&trackers);
        assert!(tracking.mark(1, b"k", next.id) && !tracking.mark(1, b"k", all[3].id));
        assert!(!tracking.mark(1, b"k", u64::MAX));
        all.iter().chain([&next]).for_each(|tracker| trackers.leave(tracker));
        assert!(tracking.refresh(&trackers) && !tracking.is_active());
        assert_eq!(tracking.keys(), 0);
    }
}
