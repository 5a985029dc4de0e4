//! A shard's account of its connections' buffers: how much they hold, and who has to wait when it is too much.
//!
//! Inputs: a client that sends a large value holds memory until its last byte has come. Over the limit, large inputs
//! wait in line; one at a time goes on regardless, so that the line always moves. A line that does not move is one of clients
//! that have stopped: then who came last, and is the likeliest to go on sending, goes first. Outputs: over the limit, a connection
//! gets its next reply when the one before has left.

use std::collections::VecDeque;

use slabring_engine::Seconds;
use slabring_reactor::ConnectionId;

use crate::connection::{Connection, Connections};
use crate::session::SESSION_BYTES;

/// Inputs up to this size never wait: a few packets.
const SMALL_INPUT_BYTES: usize = 16 << 10;
/// Inputs, and outputs, may each take this share of the shard's memory.
const SHARE: usize = 4;
/// While others wait, a large input that makes no progress is given up after this time.
const SILENCE_SECONDS_MAX: u32 = 4;
/// One that waits in line may be refused after this time: longer than it takes to find those who only keep others waiting. memcached
/// refuses at once.
const WAIT_SECONDS_MAX: u32 = 6;
/// A line whose first waits for so long does not move by itself.
const ORDERLY_SECONDS_MAX: u32 = 2;

const _: () = assert!(WAIT_SECONDS_MAX > SILENCE_SECONDS_MAX + 1);
// Who gives way to who came last has done so when the first of those who keep others waiting are given up.
const _: () = assert!(ORDERLY_SECONDS_MAX < SILENCE_SECONDS_MAX);

/// Whether a line whose first came at `since` does not move: the last in it goes first then.
pub fn is_jammed(since: Seconds, now: Seconds) -> bool {
    now.0.saturating_sub(since.0) >= ORDERLY_SECONDS_MAX
}

/// Whether one that waits since then may be given up.
pub fn waits_too_long(since: Seconds, now: Seconds) -> bool {
    now.0.saturating_sub(since.0) >= WAIT_SECONDS_MAX
}

/// What buffers take, as the engine is told once a second: the most that was seen lately. Buffers grow within a turn and items go one
/// after the other, so room that was needed a moment ago is kept for the next time.
#[derive(Default, Debug)]
pub struct Crest {
    bytes: usize,
    /// The most of this second.
    bytes_now: usize,
}

impl Crest {
    /// Takes note of what buffers take now. Returns what they may soon take again.
    pub fn see(&mut self, bytes: usize) -> usize {
        self.bytes_now = self.bytes_now.max(bytes);
        self.bytes = self.bytes.max(bytes);
        self.bytes
    }

    /// A second is over: what it did not need is forgotten by half.
    pub fn end_second(&mut self) {
        let surplus = self.bytes - self.bytes_now;
        self.bytes -= surplus.div_ceil(2);
        self.bytes_now = 0;
    }
}

/// See the module.
pub struct Budget {
    limit_bytes: usize,
    input_bytes: usize,
    /// Memory that inputs do not have yet, but will be let have.
    promised_bytes: usize,
    output_bytes: usize,
    /// TLS sessions: memory that no waiting would free.
    session_bytes: usize,
    /// Connections whose input waits for memory, longest first.
    line: VecDeque<ConnectionId>,
    /// The one that may go on over the limit.
    privileged: Option<ConnectionId>,
}

impl Budget {
    /// The account of a shard with so much memory.
    pub fn new(shard_memory_bytes: usize) -> Self {
        Self {
            limit_bytes: shard_memory_bytes / SHARE,
            input_bytes: 0,
            promised_bytes: 0,
            output_bytes: 0,
            session_bytes: 0,
            line: VecDeque::new(),
            privileged: None,
        }
    }

    /// Memory of all connections' buffers.
    pub fn bytes(&self) -> usize {
        self.input_bytes + self.output_bytes + self.session_bytes
    }

    /// Takes a connection's TLS session into the account, until [`Budget::forget`].
    pub fn count_session(&mut self) {
        self.session_bytes += SESSION_BYTES;
    }

    /// Whether connections must read their replies one by one.
    pub fn outputs_are_full(&self) -> bool {
        self.output_bytes > self.limit_bytes
    }

    /// Bytes that outputs may still take.
    pub fn output_room(&self) -> usize {
        self.limit_bytes.saturating_sub(self.output_bytes)
    }

    fn claimed_bytes(&self) -> usize {
        self.input_bytes + self.promised_bytes
    }

    /// Brings a connection's part up to date.
    pub fn count(&mut self, client: &mut Connection) {
        let (input, output) = (client.input_capacity_bytes(), client.output_capacity_bytes());
        self.input_bytes = self.input_bytes - client.input_bytes_counted + input;
        let promised = client.input.promised_bytes();
        self.promised_bytes = self.promised_bytes - client.promised_bytes_counted + promised;
        client.promised_bytes_counted = promised;
        self.output_bytes = self.output_bytes - client.output_bytes_counted + output;
        (client.input_bytes_counted, client.output_bytes_counted) = (input, output);
    }

    /// Takes a connection that has ended out of the account.
    pub fn forget(&mut self, client: &Connection) {
        self.input_bytes -= client.input_bytes_counted;
        self.promised_bytes -= client.promised_bytes_counted;
        self.output_bytes -= client.output_bytes_counted;
        if client.session.is_some() {
            self.session_bytes -= SESSION_BYTES;
        }
    }

    /// Puts a connection whose input has just grown in line if it has to wait.
    pub fn queue_if_full(&mut self, client: &mut Connection, now: Seconds) {
        // A value that is being taken in has its room already, and others may be waiting for it to be whole.
        let exempt = !is_large(client)
            || client.waits_for_memory
            || client.intake.is_some()
            || client.input.is_granted();
        if self.claimed_bytes() > self.limit_bytes && !exempt {
            client.waits_for_memory = true;
            client.heard_at = now;
            self.line.push_back(client.id);
        }
    }

    /// Lets those in line go on as far as there is room for what they announce, and one if there is none.
    pub fn admit(
        &mut self,
        connections: &mut Connections,
        now: Seconds,
        mut note: impl FnMut(&mut Connection),
    ) {
        while let Some(id) = self.next_in_line(connections, now) {
            if self.claimed_bytes() > self.limit_bytes {
                if self.has_privileged(connections) {
                    return;
                }
                self.privileged = Some(id);
            }
            if self.line.front() == Some(&id) {
                self.line.pop_front()
            } else {
                self.line.pop_back()
            };
            let client = connections.get_mut(id).expect("seen just now");
            client.waits_for_memory = false;
            // It was not read meanwhile: its silence counts from here.
            client.heard_at = now;
            client.input.grant();
            self.count(client);
            note(client);
        }
    }

    /// Who goes next. Those at the ends of the line who do not wait any more leave it.
    fn next_in_line(&mut self, connections: &Connections, now: Seconds) -> Option<ConnectionId> {
        let waiting = |id: &ConnectionId| connections.get(*id).filter(|client| client.waits_for_memory);
        while self.line.front().is_some_and(|id| waiting(id).is_none()) {
            self.line.pop_front();
        }
        while self.line.back().is_some_and(|id| waiting(id).is_none()) {
            self.line.pop_back();
        }
        let first = waiting(self.line.front()?).expect("the others have left");
        let next = if is_jammed(first.heard_at, now) { self.line.back() } else { self.line.front() };
        next.copied()
    }

    /// Connections to give up: they keep others waiting and send nothing; and of those that wait too long, in line, as many as
    /// leave half of the room for the others.
    pub fn overdue(&self, connections: &Connections, now: Seconds) -> Vec<ConnectionId> {
        if self.line.is_empty() {
            return Vec::new();
        }
        let mut overdue = connections.ids_of(|client| {
            is_large(client)
                && !client.waits_for_memory
                && !client.stalled
                && now.0.saturating_sub(client.heard_at.0) >= SILENCE_SECONDS_MAX
        });
        let bytes_of = |client: &Connection| client.input_bytes_counted + client.promised_bytes_counted;
        let freed = overdue.iter().filter_map(|id| connections.get(*id)).map(bytes_of).sum();
        let mut left = self.claimed_bytes().saturating_sub(freed);
        let in_line = self.line.iter().filter_map(|id| connections.get(*id));
        let too_long = |client: &&Connection| client.waits_for_memory && waits_too_long(client.heard_at, now);
        for client in in_line.filter(too_long) {
            if left <= self.limit_bytes / 2 {
                break;
            }
            left = left.saturating_sub(bytes_of(client));
            overdue.push(client.id);
        }
        overdue
    }

    /// Whether some input waits for memory.
    pub fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    fn has_privileged(&self, connections: &mut Connections) -> bool {
        self.privileged.is_some_and(|id| connections.get_mut(id).is_some_and(|client| is_large(client)))
    }
}

fn is_large(client: &Connection) -> bool {
    client.input.capacity_bytes() > SMALL_INPUT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = Seconds(1000);
    const LARGE: usize = 100 << 10;

    fn grow(budget: &mut Budget, connections: &mut Connections, id: ConnectionId) -> bool {
        let client = connections.get_mut(id).unwrap();
        client.input.append(&[0; LARGE]);
        budget.count(client);
        budget.queue_if_full(client, NOW);
        client.waits_for_memory
    }

    fn four() -> (Budget, Connections, Vec<ConnectionId>) {
        let mut connections = Connections::default();
        let ids: Vec<_> = (0..4).map(|slot| ConnectionId { slot, generation: 1 }).collect();
        ids.iter().for_each(|&id| connections.insert(id, slabring_protocol::Parser::default(), NOW));
        (Budget::new(LARGE * SHARE), connections, ids)
    }

    #[test]
    fn over_the_limit_one_large_input_goes_on_at_a_time() {
        let (mut budget, mut connections, ids) = four();
        let waits: Vec<_> = ids.iter().map(|&id| grow(&mut budget, &mut connections, id)).collect();
        assert_eq!(waits, [false, true, true, true]);

        let mut admitted = Vec::new();
        budget.admit(&mut connections, NOW, |client| admitted.push(client.id));
        assert_eq!(admitted, [ids[1]]);
        assert!(!grow(&mut budget, &mut connections, ids[1]), "the privileged one goes on");
        budget.admit(&mut connections, NOW, |client| admitted.push(client.id));
        assert_eq!(admitted, [ids[1]]);

        for &id in &ids[..2] {
            let client = connections.get_mut(id).unwrap();
            client.input.consume(client.input.unread().len());
            budget.count(client);
        }
        budget.admit(&mut connections, NOW, |client| admitted.push(client.id));
        assert_eq!(admitted, [ids[1], ids[2]]);
    }

    #[test]
    fn room_for_buffers_stays_for_some_seconds_after_they_shrank() {
        let mut crest = Crest::default();
        assert_eq!([crest.see(10), crest.see(1000), crest.see(10)], [10, 1000, 1000]);
        let mut after_seconds = |bytes: &[usize]| -> Vec<usize> {
            let mut second = |bytes: &usize| {
                crest.end_second();
                crest.see(*bytes)
            };
            bytes.iter().map(&mut second).collect()
        };
        assert_eq!(after_seconds(&[10, 10, 10, 600, 0, 0]), [1000, 505, 257, 600, 600, 300]);
        assert_eq!(after_seconds(&[0; 10])[9], 0);
    }

    #[test]
    fn small_inputs_never_wait() {
        let (mut budget, mut connections, ids) = four();
        grow(&mut budget, &mut connections, ids[0]);
        grow(&mut budget, &mut connections, ids[1]);
        let client = connections.get_mut(ids[2]).unwrap();
        client.input.append(&[0; 100]);
        budget.count(client);
        budget.queue_if_full(client, NOW);
        assert!(!client.waits_for_memory);
    }

    #[test]
    fn who_keeps_others_waiting_in_silence_is_given_up() {
        let (mut budget, mut connections, ids) = four();
        for &id in &ids[..3] {
            grow(&mut budget, &mut connections, id);
        }
        budget.admit(&mut connections, NOW, |_| {});
        assert_eq!(budget.overdue(&connections, NOW), []);
        let late = Seconds(NOW.0 + SILENCE_SECONDS_MAX);
        assert_eq!(budget.overdue(&connections, late), [ids[0], ids[1]]);
        ids[..2].iter().for_each(|&id| connections.get_mut(id).unwrap().heard_at = late);
        assert_eq!(budget.overdue(&connections, late), []);
        for &id in &ids {
            budget.forget(&connections.remove(id).unwrap());
        }
        assert_eq!(budget.bytes(), 0);
    }
    #[test]
    fn the_silence_of_one_that_is_let_go_on_counts_from_then() {
        let (mut budget, mut connections, ids) = four();
        for &id in &ids {
            grow(&mut budget, &mut connections, id);
        }
        let late = Seconds(NOW.0 + SILENCE_SECONDS_MAX + 1);
        budget.admit(&mut connections, late, |_| {});
        assert!(!connections.get(ids[3]).unwrap().waits_for_memory, "the line had not moved");
        assert_eq!(budget.overdue(&connections, late), [ids[0]]);
    }

    #[test]
    fn a_line_that_does_not_move_is_served_from_its_end() {
        let (mut budget, mut connections, ids) = four();
        for &id in &ids {
            grow(&mut budget, &mut connections, id);
        }
        let jammed = Seconds(NOW.0 + ORDERLY_SECONDS_MAX);
        let mut admitted = Vec::new();
        budget.admit(&mut connections, jammed, |client| admitted.push(client.id));
        assert_eq!(admitted, [ids[3]]);
        budget.forget(&connections.remove(ids[3]).unwrap());
        // One in the middle and the first have gone: the one that is left is first and last.
        for id in [ids[1], ids[0]] {
            budget.forget(&connections.remove(id).unwrap());
        }
        budget.admit(&mut connections, jammed, |client| admitted.push(client.id));
        assert_eq!(admitted, [ids[3], ids[2]]);
        assert!(!budget.has_line());
    }

    #[test]
    fn of_those_that_wait_too_long_no_more_are_given_up_than_leaves_room_for_the_others() {
        let mut connections = Connections::default();
        let ids: Vec<_> = (0..10).map(|slot| ConnectionId { slot, generation: 1 }).collect();
        ids.iter().for_each(|&id| connections.insert(id, slabring_protocol::Parser::default(), NOW));
        let mut budget = Budget::new(6 * LARGE * SHARE);
        let waits: Vec<_> = ids.iter().map(|&id| grow(&mut budget, &mut connections, id)).collect();
        assert_eq!(waits.iter().filter(|waits| **waits).count(), 4);
        let later = Seconds(NOW.0 + WAIT_SECONDS_MAX);
        // Those before the line go on, and one of its four.
        ids[..6].iter().for_each(|&id| connections.get_mut(id).unwrap().heard_at = later);
        connections.get_mut(ids[9]).unwrap().heard_at = later;
        assert_eq!(budget.overdue(&connections, later), ids[6..9]);
        // Two of those before it do not: it takes fewer to make room.
        ids[..5].iter().for_each(|&id| connections.get_mut(id).unwrap().heard_at = NOW);
        assert_eq!(budget.overdue(&connections, later), [&ids[..5], &ids[6..8]].concat());
    }

    #[test]
    fn no_more_are_let_go_on_than_there_is_room_for_what_they_announce() {
        let mut connections = Connections::default();
        let ids: Vec<_> = (0..6).map(|slot| ConnectionId { slot, generation: 1 }).collect();
        ids.iter().for_each(|&id| connections.insert(id, slabring_protocol::Parser::default(), NOW));
        let mut budget = Budget::new(8 * LARGE * SHARE);
        for &id in &ids {
            assert!(!grow(&mut budget, &mut connections, id));
            let client = connections.get_mut(id).unwrap();
            client.input.need(3 * LARGE);
            client.waits_for_memory = true;
            budget.line.push_back(id);
        }
        let mut admitted = Vec::new();
        budget.admit(&mut connections, NOW, |client| admitted.push(client.id));
        // There is room for one's rest, the second may be over it, the third goes on regardless. None of it is taken yet.
        assert_eq!((&admitted[..], budget.bytes()), (&ids[..3], 6 * LARGE));
        for &id in &ids[..3] {
            assert!(!grow(&mut budget, &mut connections, id) && !grow(&mut budget, &mut connections, id));
        }
        for &id in &ids {
            budget.forget(&connections.remove(id).unwrap());
        }
        assert_eq!(budget.claimed_bytes(), 0);
    }
}
