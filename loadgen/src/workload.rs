//! What is asked for next: drawn from a workload, or read from a recorded trace. Makes no bytes and knows no socket.

use std::sync::Arc;

use crate::keys::Keys;
use crate::kind::{Kind, Mix};
use crate::popularity::{Dice, Picker};
use crate::route::Route;
use crate::sizes::Sizes;
use crate::trace::{Operation, Trace};
use crate::ttl::Ttls;
use crate::values::{Values, Written, mix};

/// Tries to find another key of the same server for a get of several.
const REDRAWS_MAX: u32 = 1000;

/// What a counter begins with.
const ZERO: &[u8] = b"0";
const ZERO_SIZE: &str = "1";

/// One thing to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Order {
    pub(crate) kind: Kind,
    /// The key, or the first of several.
    pub(crate) key: u64,
    /// Bytes of the value that it stores, or that a miss lets store.
    pub(crate) size: u32,
    /// Seconds; 0 for ever.
    pub(crate) ttl: u32,
}

/// What all threads draw from.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) keys: Keys,
    pub(crate) value_sizes: Sizes,
    pub(crate) keys_per_get: Sizes,
    pub(crate) ttls: Ttls,
    /// Every key is a counter's, and every value a zero: what a prefill of counters stores.
    pub(crate) is_of_counters: bool,
}

impl Workload {
    /// The counters of the same key space, to be stored before they are counted with.
    pub(crate) fn of_counters(&self) -> Self {
        let value_sizes = ZERO_SIZE.parse().expect("a size in bytes");
        Self { is_of_counters: true, value_sizes, ..self.clone() }
    }

    /// Bytes in the value of key `number`, the same at every write.
    #[inline]
    pub(crate) fn value_size(&self, number: u64) -> u32 {
        self.value_sizes.at(mix(!number))
    }

    /// The server that owns key `number` by `route`. `scratch` is overwritten.
    #[inline]
    pub(crate) fn server(&self, route: &Route, kind: Kind, number: u64, scratch: &mut Vec<u8>) -> usize {
        if route.is_one() {
            return 0;
        }
        self.key(kind, number, scratch);
        route.owner(scratch)
    }

    /// Puts the key of `number` into `out`, which is emptied before.
    #[inline]
    pub(crate) fn key(&self, kind: Kind, number: u64, out: &mut Vec<u8>) {
        out.clear();
        let is_counter = kind.counts() || self.is_of_counters;
        if is_counter { self.keys.append_counter(number, out) } else { self.keys.append(number, out) }
    }

    /// Appends the value of key `number`, as of this write.
    #[inline]
    pub(crate) fn append_value(
        &self,
        values: &Values,
        number: u64,
        written: Written,
        size: u32,
        out: &mut Vec<u8>,
    ) {
        if self.is_of_counters {
            out.extend_from_slice(ZERO);
        } else {
            values.append(number, written, size, out);
        }
    }
}

/// Where one thread's orders come from.
pub(crate) enum Source<'w> {
    Drawn(Draw<'w>),
    Recorded(Cursor),
}

impl Source<'_> {
    /// The next order; with the keys of a get of several in `more`, the first left out, all of one server by `route`. `None`
    /// at the end of a trace.
    #[inline]
    pub(crate) fn next(&mut self, route: &Route, more: &mut Vec<u64>) -> Option<Order> {
        match self {
            Self::Drawn(draw) => Some(draw.next(route, more)),
            Self::Recorded(cursor) => cursor.next_order(),
        }
    }
}

/// Draws from a workload.
pub(crate) struct Draw<'w> {
    workload: &'w Workload,
    mix: Mix,
    picker: Picker,
    dice: Dice,
    /// Keys of every get, where all have as many.
    keys_per_get: Option<u32>,
    scratch: Vec<u8>,
}

impl<'w> Draw<'w> {
    pub(crate) fn new(workload: &'w Workload, mix: Mix, picker: Picker, dice: Dice) -> Self {
        let keys_per_get = workload.keys_per_get.fixed();
        Self { workload, mix, picker, dice, keys_per_get, scratch: Vec::new() }
    }

    #[inline]
    fn next(&mut self, route: &Route, more: &mut Vec<u64>) -> Order {
        let kind = self.mix.pick(&mut self.dice);
        let key = self.picker.pick(&mut self.dice);
        if kind == Kind::Get {
            self.draw_more(route, key, more);
        }
        let size = if kind.stores() { self.workload.value_size(key) } else { 0 };
        // A get may be followed by a store.
        let has_ttl = kind.stores() || kind.reads() || kind == Kind::Touch;
        let ttl = if has_ttl { self.workload.ttls.pick(&mut self.dice) } else { 0 };
        Order { kind, key, size, ttl }
    }

    /// The other keys of a get, all of the first one's server. Conditioned on its server each key comes as often as
    /// without, and the server comes as often as its keys do: in all, popularity is what was asked for.
    #[inline]
    fn draw_more(&mut self, route: &Route, first: u64, more: &mut Vec<u64>) {
        more.clear();
        let count = match self.keys_per_get {
            Some(count) => count,
            None => self.workload.keys_per_get.at(self.dice.below(u64::MAX)).max(1),
        };
        for _ in 1..count {
            let key = self.draw_beside(route, first);
            more.push(key);
        }
    }

    fn draw_beside(&mut self, route: &Route, first: u64) -> u64 {
        let workload = self.workload;
        if route.is_one() {
            return self.picker.pick(&mut self.dice);
        }
        let server = workload.server(route, Kind::Get, first, &mut self.scratch);
        for _ in 0..REDRAWS_MAX {
            let key = self.picker.pick(&mut self.dice);
            if workload.server(route, Kind::Get, key, &mut self.scratch) == server {
                return key;
            }
        }
        first
    }
}

/// One thread's part of a trace: the requests for its keys, in their order.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    trace: Arc<Trace>,
    key_size: u32,
    threads: u64,
    thread: u64,
    at: usize,
}

impl Cursor {
    /// `key_size` bytes of each item's are its key.
    pub(crate) fn new(trace: Arc<Trace>, key_size: u32, threads: u32, thread: u32) -> Self {
        assert!(thread < threads);
        Self { trace, key_size, threads: threads.into(), thread: thread.into(), at: 0 }
    }

    /// Requests of this part.
    pub(crate) fn count(&self) -> u64 {
        self.trace.requests.iter().filter(|request| self.owns(request.key)).count() as u64
    }

    fn owns(&self, key: u64) -> bool {
        self.threads == 1 || mix(key) % self.threads == self.thread
    }

    fn next_request(&mut self) -> Option<usize> {
        while let Some(request) = self.trace.requests.get(self.at) {
            self.at += 1;
            if self.owns(request.key) {
                return Some(self.at - 1);
            }
        }
        None
    }

    fn next_order(&mut self) -> Option<Order> {
        let at = self.next_request()?;
        let request = self.trace.requests[at];
        let kind = match request.operation {
            Operation::Get => Kind::Get,
            Operation::Set => Kind::Set,
            Operation::Delete => Kind::Delete,
        };
        let size = request.size_bytes.saturating_sub(self.key_size).max(1);
        Some(Order { kind, key: request.key, size, ttl: request.ttl_seconds })
    }

    /// The second of the next request, and how many requests of this part share it from here on.
    pub(crate) fn next_second(&mut self) -> Option<(u32, u32)> {
        let first = self.next_request()?;
        let second = self.trace.requests[first].second;
        let mut count = 1;
        while let Some(at) = self.next_request() {
            if self.trace.requests[at].second != second {
                self.at = at;
                break;
            }
            count += 1;
        }
        Some((second, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::popularity::Popularity;
    use crate::route::Scheme;
    use crate::trace::Request;

    fn workload(keys_per_get: &str) -> Workload {
        Workload {
            keys: Keys::new(1000, Sizes::range(12, 12)),
            value_sizes: Sizes::range(32, 64),
            keys_per_get: keys_per_get.parse().unwrap(),
            ttls: "0".parse().unwrap(),
            is_of_counters: false,
        }
    }

    #[test]
    fn keys_of_one_get_have_one_server_and_stay_as_popular_as_they_were() {
        let names: Vec<String> = (1..4).map(|port| format!("h:{port}")).collect();
        let workload = workload("4");
        let route = Route::new(Scheme::Jump, &names).unwrap();
        let mix = Mix::of_sets_and_gets(0, 1);
        let picker = Picker::new(Popularity::Uniform, 1000, 0);
        let mut draw = Draw::new(&workload, mix, picker, Dice::new(1, 1));
        let (mut seen, mut more, mut scratch) = (vec![0_u32; 1000], Vec::new(), Vec::new());
        for _ in 0..100_000 {
            let order = draw.next(&route, &mut more);
            let server = workload.server(&route, Kind::Get, order.key, &mut scratch);
            assert_eq!(more.len(), 3);
            for &key in std::iter::once(&order.key).chain(&more) {
                assert_eq!(workload.server(&route, Kind::Get, key, &mut scratch), server);
                seen[usize::try_from(key).unwrap()] += 1;
            }
        }
        assert!(seen.iter().all(|count| (280..520).contains(count)), "{:?}", seen.iter().max());
    }

    #[test]
    fn threads_share_a_trace_by_keys_and_keep_its_order_and_seconds() {
        let requests: Vec<Request> =
            (0..100).map(|at| Request { second: at / 10, ..Request::get(u64::from(at) % 7, 50) }).collect();
        let trace = Arc::new(Trace { name: "t".into(), keys: 7, unique_bytes: 0, requests });
        let mut seen = 0;
        for thread in 0..3 {
            let cursor = Cursor::new(Arc::clone(&trace), 16, 3, thread);
            let (mut orders, mut clock) = (cursor.clone(), cursor.clone());
            let mut seconds = 0;
            while let Some((_, count)) = clock.next_second() {
                seconds += u64::from(count);
            }
            let mut own = 0;
            while let Some(order) = orders.next_order() {
                assert_eq!((order.kind, order.size), (Kind::Get, 34));
                own += 1;
            }
            assert_eq!((own, seconds), (cursor.count(), cursor.count()));
            seen += own;
        }
        assert_eq!(seen, 100);
    }
}
