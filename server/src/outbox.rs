//! One connection's replies on their way out, in the order of its requests.
//!
//! A reply made on this shard while nothing before it is missing goes straight to `ready`. Behind a reply that
//! another shard still owes, everything is held back until it has come. A large value is not in the bytes: its place among them
//! is known, and the value itself is lent (`lending.rs`). No I/O.

use std::collections::VecDeque;
use std::ops::Range;

use slabring_engine::Shard;

use crate::lending::{Lent, Remote, Value};
use crate::report::Gathering;

/// Bytes of `held` that an idle connection may keep, and below which compaction is not worth while.
const HELD_BYTES_KEPT: usize = 16 << 10;

/// Names one expected reply of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u64);

impl Ticket {
    /// Of no connection: for letters that nobody's order of replies waits for.
    pub const NONE: Self = Self(u64::MAX);

    /// How many places it is behind an earlier one.
    pub fn behind(self, first: Self) -> u64 {
        self.0 - first.0
    }

    /// The one so many places behind.
    pub fn plus(self, places: u64) -> Self {
        Self(self.0 + places)
    }
}

/// A reply that is owed, or held behind one that is.
#[derive(Debug)]
struct Owed {
    /// Answers from other shards that are still to come.
    missing: u16,
    /// Where the reply lies in `held`, once it is here.
    held: Range<usize>,
    /// What a question to all shards has brought so far.
    gathering: Option<Box<Gathering>>,
    /// What it shows, with the place in its part of `held`.
    values: Vec<(usize, Value)>,
}

/// What may be sent next.
#[derive(Debug)]
pub enum Next<'a> {
    /// Nothing now.
    Nothing,
    /// All that is ready, which is bytes.
    Bytes,
    /// Bytes with values of this shard between them.
    Window,
    /// A value of another shard.
    Elsewhere(&'a mut Remote),
}

/// See the module.
#[derive(Default, Debug)]
pub struct Outbox {
    ready: Vec<u8>,
    /// What goes between those bytes, with its place.
    values: VecDeque<(usize, Value)>,
    /// Bytes of all values here.
    value_bytes: usize,
    owed: VecDeque<Owed>,
    /// How many of those gather answers of the whole node.
    gathering: usize,
    held: Vec<u8>,
    /// Bytes of `held` that are in `ready` or gone.
    released_bytes: usize,
    first_ticket: u64,
}

impl Outbox {
    /// Bytes that may be sent now.
    pub fn ready(&self) -> &[u8] {
        &self.ready
    }

    /// What may be sent now.
    pub fn next(&mut self) -> Next<'_> {
        match self.values.front_mut() {
            None if self.ready.is_empty() => Next::Nothing,
            None => Next::Bytes,
            Some((0, Value::There(remote))) => Next::Elsewhere(remote),
            Some(_) => Next::Window,
        }
    }

    /// Takes the bytes to send, which are [all there is](Next::Bytes), and leaves `empty` to write on.
    pub fn take_ready(&mut self, empty: Vec<u8>) -> Vec<u8> {
        debug_assert!(empty.is_empty() && self.values.is_empty());
        std::mem::replace(&mut self.ready, empty)
    }

    /// Moves about `bytes_max` of what may be sent: bytes to `buffer`, and values out, each with its place in `buffer`. Ends before
    /// a value of another shard.
    pub fn take_window(
        &mut self,
        shard: &mut Shard,
        bytes_max: usize,
        buffer: &mut Vec<u8>,
    ) -> Vec<(usize, Lent)> {
        let mut window = Vec::new();
        let (mut room, mut taken) = (bytes_max, 0);
        while room > 0 {
            let until = self.values.front().map_or(self.ready.len(), |(place, _)| *place);
            let bytes = room.min(until - taken);
            buffer.extend_from_slice(&self.ready[taken..taken + bytes]);
            taken += bytes;
            room -= bytes;
            let Some((_, Value::Here(lent))) = self.values.front_mut() else { break };
            if taken < until || room == 0 {
                break;
            }
            let part = if lent.left() > room { Some(lent.split_off(shard, room)) } else { self.pop_here() };
            let part = part.expect("it is this shard's");
            room -= part.left();
            self.value_bytes -= part.left();
            window.push((buffer.len(), part));
        }
        self.drop_ready(taken);
        window
    }

    fn pop_here(&mut self) -> Option<Lent> {
        match self.values.pop_front() {
            Some((_, Value::Here(lent))) => Some(lent),
            Some((_, Value::There(_))) | None => None,
        }
    }

    fn drop_ready(&mut self, bytes: usize) {
        self.ready.drain(..bytes);
        self.values.iter_mut().for_each(|(place, _)| *place -= bytes);
    }

    /// Takes the slice that has come of the value of another shard that is [next](Next::Elsewhere), and with the last one the value.
    pub fn take_slice(&mut self) -> (Vec<u8>, Option<Box<Remote>>) {
        let Some((0, Value::There(remote))) = self.values.front_mut() else { return (Vec::new(), None) };
        let slice = std::mem::take(&mut remote.slice);
        remote.left -= slice.len();
        self.value_bytes -= slice.len();
        if remote.left > 0 {
            return (slice, None);
        }
        let Some((0, Value::There(remote))) = self.values.pop_front() else { unreachable!("seen above") };
        (slice, Some(remote))
    }

    /// Keeps a slice of the value that is next in the buffer `empty`: no other is asked for.
    pub fn deliver_slice(&mut self, slice: &[u8], empty: Vec<u8>) {
        let Some((0, Value::There(remote))) = self.values.front_mut() else { panic!("nobody asked") };
        assert!(remote.asked && remote.slice.is_empty() && slice.len() <= remote.left);
        remote.asked = false;
        remote.slice = empty;
        remote.slice.extend_from_slice(slice);
    }

    /// Takes out all values: nothing of them will be sent.
    pub fn take_values(&mut self) -> impl Iterator<Item = Value> {
        self.value_bytes = 0;
        let held = self.owed.iter_mut().flat_map(|owed| owed.values.drain(..));
        self.values.drain(..).chain(held).map(|(_, value)| value)
    }

    /// Bytes in here, sent or not yet sendable, with those of values.
    pub fn bytes(&self) -> usize {
        self.ready.len() + self.held.len() + self.value_bytes
    }

    /// Bytes that may be sent now, with those of values.
    pub fn ready_bytes(&self) -> usize {
        self.ready.len() + self.values.iter().map(|(_, value)| value.left()).sum::<usize>()
    }

    /// Memory that is reserved here. Values are where they are, but for slices of other shards'.
    pub fn capacity_bytes(&self) -> usize {
        let slice = match self.values.front() {
            Some((_, Value::There(remote))) => remote.slice.capacity(),
            _ => 0,
        };
        let places = self.values.capacity() * size_of::<(usize, Value)>();
        let owed = self.owed.capacity() * size_of::<Owed>();
        self.ready.capacity() + self.held.capacity() + slice + places + owed
    }

    /// Replies that are still owed, or held behind one that is.
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether the reply of this place has come.
    pub fn is_answered(&self, ticket: Ticket) -> bool {
        let Some(index) = ticket.0.checked_sub(self.first_ticket) else { return true };
        let owed = usize::try_from(index).ok().and_then(|index| self.owed.get(index));
        owed.is_none_or(|owed| owed.missing == 0)
    }

    /// Answers of the whole node that are still gathering.
    pub fn gathering(&self) -> usize {
        self.gathering
    }

    /// Whether there is nothing to send and nothing owed.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.values.is_empty() && self.owed.is_empty()
    }

    /// Appends a reply that is made here and now.
    pub fn local(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.local_lending(|out| {
            write(out);
            None
        });
    }

    /// As [`Outbox::local`], for a reply that may show a value without containing it: at a place in what was written on. Says
    /// whether it does.
    #[inline]
    pub fn local_lending(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<Box<(usize, Lent)>>) -> bool {
        if !self.owed.is_empty() {
            return self.held_lending(write);
        }
        let Some(lent) = write(&mut self.ready) else { return false };
        let (place, lent) = *lent;
        self.value_bytes += lent.left();
        self.values.push_back((place, Value::Here(lent)));
        true
    }

    /// As [`Outbox::local_lending`], behind a reply that is missing.
    fn held_lending(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<Box<(usize, Lent)>>) -> bool {
        let start = self.held.len();
        let value = write(&mut self.held).map(|lent| (lent.0, Value::Here(lent.1)));
        let end = self.held.len();
        let lends = value.is_some();
        if start == end && !lends {
            return false;
        }
        self.value_bytes += value.as_ref().map_or(0, |(_, value)| value.left());
        match self.owed.back_mut() {
            Some(last) if last.missing == 0 && last.held.end == start => {
                last.held.end = end;
                last.values.extend(value.map(|(place, value)| (place - last.held.start, value)));
            }
            _ => {
                let values = value.map(|(place, value)| (place - start, value)).into_iter().collect();
                self.owed.push_back(Owed { missing: 0, held: start..end, gathering: None, values });
            }
        }
        lends
    }

    /// Keeps the place of a reply that another shard will make.
    pub fn expect(&mut self) -> Ticket {
        self.expect_parts(1, None)
    }

    /// Keeps the place of an answer to which `missing` other shards contribute.
    pub fn expect_parts(&mut self, missing: u16, gathering: Option<Box<Gathering>>) -> Ticket {
        assert!(missing > 0, "an answer that is here already needs no place");
        self.gathering += usize::from(gathering.is_some());
        self.owed.push_back(Owed { missing, held: 0..0, gathering, values: Vec::new() });
        Ticket(self.first_ticket + self.owed.len() as u64 - 1)
    }

    /// Fills in a reply.
    #[inline]
    pub fn deliver(&mut self, ticket: Ticket, reply: &[u8]) {
        self.deliver_joined(ticket, [reply, b""]);
    }

    /// As [`Outbox::deliver`], for a reply in two pieces.
    #[inline]
    pub fn deliver_joined(&mut self, ticket: Ticket, pieces: [&[u8]; 2]) {
        if ticket.0 == self.first_ticket && self.owed.front().is_some_and(|first| first.missing == 1) {
            // The one that all others wait for, as in a letter most are: its place is not needed any more.
            pieces.into_iter().for_each(|piece| self.ready.extend_from_slice(piece));
            self.owed.pop_front();
            self.first_ticket += 1;
            self.release();
        } else {
            self.put(ticket, pieces, None);
        }
    }

    /// As [`Outbox::deliver`], for a reply that shows a value of another shard at a place in it.
    pub fn deliver_lending(&mut self, ticket: Ticket, reply: &[u8], value: Option<(usize, Remote)>) {
        self.put(ticket, [reply, b""], value);
    }

    fn put(&mut self, ticket: Ticket, pieces: [&[u8]; 2], value: Option<(usize, Remote)>) {
        let index = self.index(ticket);
        let value = value.map(|(place, remote)| (place, Value::There(Box::new(remote))));
        self.value_bytes += value.as_ref().map_or(0, |(_, value)| value.left());
        if index == 0 {
            let start = self.ready.len();
            pieces.into_iter().for_each(|piece| self.ready.extend_from_slice(piece));
            self.values.extend(value.map(|(place, value)| (start + place, value)));
            self.owed[0].held = 0..0;
        } else {
            let start = self.held.len();
            pieces.into_iter().for_each(|piece| self.held.extend_from_slice(piece));
            self.owed[index].held = start..self.held.len();
            self.owed[index].values.extend(value);
        }
        let owed = &mut self.owed[index];
        owed.missing -= 1;
        assert!(owed.missing == 0, "a reply comes whole");
        self.release();
    }

    /// Notes one shard's part of an answer by `add`. With the last part, gives the whole back, to be rendered and
    /// then filled in by [`Outbox::deliver`]. What was [given up](Outbox::give_up) is not waited for any more.
    pub fn deliver_part(
        &mut self,
        ticket: Ticket,
        add: impl FnOnce(&mut Gathering),
    ) -> Option<Box<Gathering>> {
        if self.is_answered(ticket) {
            return None;
        }
        let index = self.index(ticket);
        let owed = &mut self.owed[index];
        add(owed.gathering.as_mut().expect("only questions to all shards are answered in parts"));
        if owed.missing > 1 {
            owed.missing -= 1;
            return None;
        }
        self.gathering -= 1;
        owed.gathering.take()
    }

    /// Ends the wait for an answer of the whole node: its place, still to be filled in, and what has come of it.
    pub fn give_up(&mut self) -> Option<(Ticket, Box<Gathering>)> {
        let index = self.owed.iter().position(|owed| owed.gathering.is_some())?;
        let owed = &mut self.owed[index];
        owed.missing = 1;
        self.gathering -= 1;
        Some((Ticket(self.first_ticket + index as u64), owed.gathering.take()?))
    }

    fn index(&self, ticket: Ticket) -> usize {
        let index = ticket.0.checked_sub(self.first_ticket).expect("a reply comes once");
        let index = usize::try_from(index).expect("64-bit");
        assert!(index < self.owed.len() && self.owed[index].missing > 0, "a reply comes once");
        index
    }

    /// Moves what nothing missing stands before to `ready`.
    fn release(&mut self) {
        while self.owed.front().is_some_and(|first| first.missing == 0) {
            let first = self.owed.pop_front().expect("looked at just now");
            self.first_ticket += 1;
            self.released_bytes += first.held.len();
            let start = self.ready.len();
            self.values.extend(first.values.into_iter().map(|(place, value)| (start + place, value)));
            self.ready.extend_from_slice(&self.held[first.held]);
        }
        if self.owed.is_empty() {
            self.held.clear();
            if self.held.capacity() > HELD_BYTES_KEPT {
                self.held.shrink_to(HELD_BYTES_KEPT);
            }
            self.released_bytes = 0;
        } else if self.held.len() > HELD_BYTES_KEPT && self.released_bytes * 2 > self.held.len() {
            self.compact();
        }
    }

    /// Drops what was released from `held`: a pipeline that never runs dry would otherwise grow it for ever. Each
    /// byte is moved at most once for each byte released.
    fn compact(&mut self) {
        let mut kept = Vec::with_capacity(self.held.len() - self.released_bytes);
        for owed in &mut self.owed {
            let start = kept.len();
            kept.extend_from_slice(&self.held[owed.held.clone()]);
            owed.held = start..kept.len();
        }
        self.held = kept;
        self.released_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lending::LentAway;
    use crate::shards::ShardId;

    fn ready(outbox: &mut Outbox) -> String {
        String::from_utf8(outbox.take_ready(Vec::new())).unwrap()
    }

    fn say(outbox: &mut Outbox, text: &str) {
        outbox.local(|out| out.extend_from_slice(text.as_bytes()));
    }

    #[test]
    fn local_replies_are_ready_at_once() {
        let mut outbox = Outbox::default();
        say(&mut outbox, "a");
        say(&mut outbox, "b");
        assert_eq!(ready(&mut outbox), "ab");
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_missing_reply_holds_back_what_follows_and_nothing_else() {
        let mut outbox = Outbox::default();
        say(&mut outbox, "1");
        let second = outbox.expect();
        say(&mut outbox, "3");
        let fourth = outbox.expect();
        say(&mut outbox, "5");
        say(&mut outbox, "6");
        assert_eq!(ready(&mut outbox), "1");
        outbox.deliver(fourth, b"4");
        assert_eq!(ready(&mut outbox), "");
        outbox.deliver(second, b"2");
        assert_eq!(ready(&mut outbox), "23456");
        assert!(outbox.is_empty());
    }

    #[test]
    fn any_order_of_arrival_gives_the_order_of_requests_and_bounded_memory() {
        let mut seed = 0x5EED_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % below
        };
        let mut outbox = Outbox::default();
        let (mut expected, mut got) = (String::new(), String::new());
        let mut owed: Vec<(Ticket, String)> = Vec::new();
        for number in 0..20_000 {
            let text = format!("<{number}:{}>", "x".repeat(random(40)));
            expected.push_str(&text);
            if random(3) == 0 {
                say(&mut outbox, &text);
            } else {
                owed.push((outbox.expect(), text));
            }
            // Never runs dry: the last 16 stay owed.
            while owed.len() > 16 + random(16) {
                let (ticket, text) = owed.swap_remove(random(16));
                outbox.deliver(ticket, text.as_bytes());
            }
            got.push_str(&ready(&mut outbox));
            // What is held is bounded by what waits, not by what has passed.
            assert!(outbox.held.len() <= HELD_BYTES_KEPT * 2 + outbox.owed() * 64 * 3);
        }
        for (ticket, text) in owed.drain(..) {
            outbox.deliver(ticket, text.as_bytes());
        }
        got.push_str(&ready(&mut outbox));
        assert!(got == expected);
        assert!(outbox.is_empty() && outbox.held.is_empty());
    }

    /// What the outbox sends from here on, in windows of so many bytes.
    fn sent(outbox: &mut Outbox, shard: &mut Shard, window_bytes: usize) -> String {
        let mut sent = Vec::new();
        loop {
            let mut buffer = Vec::new();
            match outbox.next() {
                Next::Nothing => return String::from_utf8(sent).unwrap(),
                Next::Bytes => sent.append(&mut outbox.take_ready(Vec::new())),
                Next::Elsewhere(remote) => {
                    remote.asked = true;
                    outbox.deliver_slice(b"there", Vec::new());
                    let (slice, ended) = outbox.take_slice();
                    assert!(ended.is_some());
                    sent.extend(slice);
                }
                Next::Window => {
                    let mut copied = 0;
                    for (place, mut lent) in outbox.take_window(shard, window_bytes, &mut buffer) {
                        sent.extend_from_slice(&buffer[copied..place]);
                        lent.copy_to(shard, usize::MAX, &mut sent);
                        lent.give_back(shard);
                        copied = place;
                    }
                    sent.extend_from_slice(&buffer[copied..]);
                    assert!(buffer.len() <= window_bytes);
                }
            }
        }
    }

    #[test]
    fn values_keep_their_places_among_bytes_and_behind_missing_replies() {
        use slabring_engine::{Config, Expiry, Seconds, Store};
        let mut shard = Shard::new(&Config::with_memory(2 << 20)).unwrap();
        shard.store(Seconds(1), &Store::set(b"key", b"value", Expiry::Never));
        for window_bytes in [1, 2, 3, 7, 100] {
            let mut outbox = Outbox::default();
            let mut lend = |outbox: &mut Outbox, text: &str| {
                let pin = shard.pin(Seconds(1), b"key").unwrap();
                let lent = Lent::new(&shard, pin);
                outbox.local_lending(|out| {
                    out.extend_from_slice(text.as_bytes());
                    Some(Box::new((out.len() - 1, lent)))
                });
            };
            lend(&mut outbox, "a:.");
            say(&mut outbox, "b");
            lend(&mut outbox, "c:.");
            let missing = outbox.expect();
            lend(&mut outbox, "e:.");
            lend(&mut outbox, "f:.");
            let last = outbox.expect();
            assert_eq!(outbox.bytes(), 4 * 5 + 4 * 3 + 1);
            let lent = LentAway { owner: ShardId(1), place: 1, number: 0, bytes: 5 };
            outbox.deliver_lending(last, b"<>", Some((1, Remote::new(lent))));
            assert_eq!(sent(&mut outbox, &mut shard, window_bytes), "a:value.bc:value.");
            outbox.deliver(missing, b"d");
            assert_eq!(sent(&mut outbox, &mut shard, window_bytes), "de:value.f:value.<there>");
            assert!(outbox.is_empty() && outbox.bytes() == 0 && shard.memory().held == 0);
        }
    }

    #[test]
    #[should_panic(expected = "a reply comes once")]
    fn a_second_reply_to_one_ticket_is_a_bug() {
        let mut outbox = Outbox::default();
        let ticket = outbox.expect();
        outbox.deliver(ticket, b"x");
        outbox.deliver(ticket, b"x");
    }
}
