//! One connection's replies on their way out, in the order of its requests.
//!
//! A reply made on this shard while nothing before it is missing goes straight to `ready`. Behind a reply that
//! another shard still owes, everything is held back until it has come. No I/O.

use std::collections::VecDeque;
use std::ops::Range;

use crate::report::Gathering;

/// Bytes of `held` that an idle connection may keep, and below which compaction is not worth while.
const HELD_BYTES_KEPT: usize = 16 << 10;

/// Names one expected reply of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u64);

impl Ticket {
    /// Of no connection: for letters that nobody's order of replies waits for.
    pub const NONE: Self = Self(u64::MAX);
}

#[derive(Debug)]
struct Waiting {
    /// Answers from other shards that are still to come.
    missing: u16,
    /// Where the reply lies in `held`, once it is here.
    held: Range<usize>,
    /// What a question to all shards has brought so far.
    gathering: Option<Box<Gathering>>,
}

/// See the module.
#[derive(Default, Debug)]
pub struct Outbox {
    ready: Vec<u8>,
    waiting: VecDeque<Waiting>,
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

    /// Takes the bytes to send and leaves `empty` to write on.
    pub fn take_ready(&mut self, empty: Vec<u8>) -> Vec<u8> {
        debug_assert!(empty.is_empty());
        std::mem::replace(&mut self.ready, empty)
    }

    /// Bytes in here, sent or not yet sendable.
    pub fn bytes(&self) -> usize {
        self.ready.len() + self.held.len()
    }

    /// Memory that is reserved here.
    pub fn capacity_bytes(&self) -> usize {
        self.ready.capacity() + self.held.capacity() + self.waiting.capacity() * size_of::<Waiting>()
    }

    /// Replies that are still owed, or held behind one that is.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Answers of the whole node that are still gathering.
    pub fn gathering(&self) -> usize {
        self.gathering
    }

    /// Whether there is nothing to send and nothing owed.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.waiting.is_empty()
    }

    /// Appends a reply that is made here and now.
    pub fn local(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.waiting.is_empty() {
            write(&mut self.ready);
            return;
        }
        let start = self.held.len();
        write(&mut self.held);
        let end = self.held.len();
        match self.waiting.back_mut() {
            Some(last) if last.missing == 0 && last.held.end == start => last.held.end = end,
            _ => self.waiting.push_back(Waiting { missing: 0, held: start..end, gathering: None }),
        }
    }

    /// Keeps the place of a reply that another shard will make.
    pub fn expect(&mut self) -> Ticket {
        self.expect_parts(1, None)
    }

    /// Keeps the place of an answer to which `missing` other shards contribute.
    pub fn expect_parts(&mut self, missing: u16, gathering: Option<Box<Gathering>>) -> Ticket {
        assert!(missing > 0, "an answer that is here already needs no place");
        self.gathering += usize::from(gathering.is_some());
        self.waiting.push_back(Waiting { missing, held: 0..0, gathering });
        Ticket(self.first_ticket + self.waiting.len() as u64 - 1)
    }

    /// Fills in a reply.
    pub fn deliver(&mut self, ticket: Ticket, reply: &[u8]) {
        let index = self.index(ticket);
        if index == 0 {
            self.ready.extend_from_slice(reply);
            self.waiting[0].held = 0..0;
        } else {
            let start = self.held.len();
            self.held.extend_from_slice(reply);
            self.waiting[index].held = start..self.held.len();
        }
        let waiting = &mut self.waiting[index];
        waiting.missing -= 1;
        assert!(waiting.missing == 0, "a reply comes whole");
        self.release();
    }

    /// Notes one shard's part of an answer by `add`. With the last part, gives the whole back, to be rendered and
    /// then filled in by [`Outbox::deliver`].
    pub fn deliver_part(
        &mut self,
        ticket: Ticket,
        add: impl FnOnce(&mut Gathering),
    ) -> Option<Box<Gathering>> {
        let index = self.index(ticket);
        let waiting = &mut self.waiting[index];
        add(waiting.gathering.as_mut().expect("only questions to all shards are answered in parts"));
        if waiting.missing > 1 {
            waiting.missing -= 1;
            return None;
        }
        self.gathering -= 1;
        waiting.gathering.take()
    }

    fn index(&self, ticket: Ticket) -> usize {
        let index = ticket.0.checked_sub(self.first_ticket).expect("a reply comes once");
        let index = usize::try_from(index).expect("64-bit");
        assert!(index < self.waiting.len() && self.waiting[index].missing > 0, "a reply comes once");
        index
    }

    /// Moves what nothing missing stands before to `ready`.
    fn release(&mut self) {
        while self.waiting.front().is_some_and(|first| first.missing == 0) {
            let first = self.waiting.pop_front().expect("looked at just now");
            self.first_ticket += 1;
            self.released_bytes += first.held.len();
            self.ready.extend_from_slice(&self.held[first.held]);
        }
        if self.waiting.is_empty() {
            self.held.clear();
            self.held.shrink_to(HELD_BYTES_KEPT);
            self.released_bytes = 0;
        } else if self.held.len() > HELD_BYTES_KEPT && self.released_bytes * 2 > self.held.len() {
            self.compact();
        }
    }

    /// Drops what was released from `held`: a pipeline that never runs dry would otherwise grow it for ever. Each
    /// byte is moved at most once for each byte released.
    fn compact(&mut self) {
        let mut kept = Vec::with_capacity(self.held.len() - self.released_bytes);
        for waiting in &mut self.waiting {
            let start = kept.len();
            kept.extend_from_slice(&self.held[waiting.held.clone()]);
            waiting.held = start..kept.len();
        }
        self.held = kept;
        self.released_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(outbox.held.len() <= HELD_BYTES_KEPT * 2 + outbox.waiting() * 64 * 3);
        }
        for (ticket, text) in owed.drain(..) {
            outbox.deliver(ticket, text.as_bytes());
        }
        got.push_str(&ready(&mut outbox));
        assert!(got == expected);
        assert!(outbox.is_empty() && outbox.held.is_empty());
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
