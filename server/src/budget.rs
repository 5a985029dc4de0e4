//! A shard's account of its connections' buffers: how much they hold, and who has to wait when it is too much.
//!
//! Inputs: a client that sends a large value holds memory until its last byte has come. Over the limit, large inputs
//! wait in line; one at a time goes on regardless, so that the line always moves. Outputs: over the limit, a connection
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
/// One that waits in line is given up after this time: longer than it takes to find those who only keep others waiting.
const WAIT_SECONDS_MAX: u32 = 12;

const _: () = assert!(WAIT_SECONDS_MAX > 2 * SILENCE_SECONDS_MAX);

/// See the module.
pub struct Budget {
    limit_bytes: usize,
    input_bytes: usize,
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

    /// Brings a connection's part up to date.
    pub fn count(&mut self, client: &mut Connection) {
        let (input, output) = (client.input_capacity_bytes(), client.output_capacity_bytes());
        self.input_bytes = self.input_bytes - client.input_bytes_counted + input;
        self.output_bytes = self.output_bytes - client.output_bytes_counted + output;
        (client.input_bytes_counted, client.output_bytes_counted) = (input, output);
    }

    /// Takes a connection that has ended out of the account.
    pub fn forget(&mut self, client: &Connection) {
        self.input_bytes -= client.input_bytes_counted;
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
            || self.privileged == Some(client.id);
        if self.input_bytes > self.limit_bytes && !exempt {
            client.waits_for_memory = true;
            client.heard_at = now;
            self.line.push_back(client.id);
        }
    }

    /// Lets those in line go on as far as there is room, and one if there is none.
    pub fn admit(&mut self, connections: &mut Connections, mut note: impl FnMut(&mut Connection)) {
        while let Some(&id) = self.line.front() {
            let may_go = self.input_bytes <= self.limit_bytes || !self.has_privileged(connections);
            match connections.get_mut(id).filter(|client| client.waits_for_memory) {
                Some(_) if !may_go => return,
                Some(client) => {
                    if self.input_bytes > self.limit_bytes {
                        self.privileged = Some(id);
                    }
                    client.waits_for_memory = false;
                    note(client);
                }
                None => {}
            }
            self.line.pop_front();
        }
    }

    /// Connections to give up: they wait too long, or keep others waiting and send nothing.
    pub fn overdue(&self, connections: &Connections, now: Seconds) -> Vec<ConnectionId> {
        if self.line.is_empty() {
            return Vec::new();
        }
        connections.ids_of(|client| {
            let patience = if client.waits_for_memory { WAIT_SECONDS_MAX } else { SILENCE_SECONDS_MAX };
            is_large(client) && !client.stalled && now.0.saturating_sub(client.heard_at.0) >= patience
        })
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
        budget.admit(&mut connections, |client| admitted.push(client.id));
        assert_eq!(admitted, [ids[1]]);
        assert!(!grow(&mut budget, &mut connections, ids[1]), "the privileged one goes on");
        budget.admit(&mut connections, |client| admitted.push(client.id));
        assert_eq!(admitted, [ids[1]]);

        for &id in &ids[..2] {
            let client = connections.get_mut(id).unwrap();
            client.input.consume(client.input.unread().len());
            budget.count(client);
        }
        budget.admit(&mut connections, |client| admitted.push(client.id));
        assert_eq!(admitted, [ids[1], ids[2]]);
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
        budget.admit(&mut connections, |_| {});
        assert_eq!(budget.overdue(&connections, NOW), []);
        let late = Seconds(NOW.0 + SILENCE_SECONDS_MAX);
        assert_eq!(budget.overdue(&connections, late), [ids[0], ids[1]]);
        ids[..2].iter().for_each(|&id| connections.get_mut(id).unwrap().heard_at = late);
        assert_eq!(budget.overdue(&connections, late), []);
        let later = Seconds(NOW.0 + WAIT_SECONDS_MAX);
        ids[..2].iter().for_each(|&id| connections.get_mut(id).unwrap().heard_at = later);
        assert_eq!(budget.overdue(&connections, later), [ids[2]]);
        for &id in &ids {
            budget.forget(&connections.remove(id).unwrap());
        }
        assert_eq!(budget.bytes(), 0);
    }
}
