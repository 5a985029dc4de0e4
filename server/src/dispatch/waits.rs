//! Why a connection's next request is not executed now. Who has to wait is stalled, and tried again when its way may be free.

use slabring_protocol::{Command, Step};

use super::Dispatcher;
use crate::cluster::links::Owner;
use crate::connection::Connection;
use crate::datagrams::is_datagram;
use crate::extending::extends;
use crate::lending::COPIED_BYTES_MAX;

/// What a binary request begins with.
const BINARY_MAGIC: u8 = 0x80;
/// And what follows if it flushes, loudly or quietly.
const BINARY_FLUSH: u8 = 0x08;
const BINARY_FLUSH_QUIETLY: u8 = 0x18;

impl Dispatcher {
    pub(super) fn stall(&mut self, client: &mut Connection) {
        client.stalled = true;
        self.executor.traffic.stalls += 1;
    }

    /// Whether a request of this connection may be executed.
    pub fn may_execute(&self, client: &Connection) -> bool {
        client.may_execute()
            && self.post.has_room()
            && (!self.budget.outputs_are_full() || client.has_read_all())
    }

    /// Whether the next of these requests may have to wait: a guess that is cheap, and errs on the side of yes.
    pub(super) fn may_wait(&self, client: &Connection, rest: &[u8]) -> bool {
        self.may_wait_for_others(client, rest)
            || self.may_be_flush(client, rest)
            || !self.executor.shard().has_room_for_any_pin()
    }

    /// Whether a step has to wait.
    pub(super) fn must_wait(&mut self, client: &Connection, step: &Step<'_>) -> bool {
        self.must_wait_for_value(step)
            || self.must_wait_for_node(client, step)
            || self.must_wait_for_answers(client, step)
    }

    /// Whether the next of these requests may have to wait for another node.
    pub fn may_wait_for_others(&self, client: &Connection, rest: &[u8]) -> bool {
        let Some(links) = &self.cluster else { return false };
        let owed = client.outbox.owed();
        owed > 0 && client.lines.expect_much(owed + 1)
            || client.lines.expect_large()
            || !links.has_room_for_any(rest.len())
    }

    /// Where there is no room to lend: whether a step asks for a large value that can neither be lent now, nor copied within
    /// the budget.
    fn must_wait_for_value(&mut self, step: &Step<'_>) -> bool {
        let Step::Request { request, .. } = step else { return false };
        if self.owner_of(request) != self.me() {
            return false;
        }
        let may_copy = self.budget.output_room().min(COPIED_BYTES_MAX);
        let waits = self.executor.value_bytes_to_copy(self.now, request) > may_copy;
        self.value_waited |= waits;
        waits
    }

    /// Whether a step is for another node, and there is no room for it on the way or perhaps for its reply here.
    fn must_wait_for_node(&mut self, client: &Connection, step: &Step<'_>) -> bool {
        let Step::Request { ref request, consumed } = *step else { return false };
        let Owner::Elsewhere(hash) = self.owner_of(request) else { return false };
        let Some(links) = &mut self.cluster else { return false };
        let owed = client.outbox.owed();
        let waits_for_large =
            client.lines.expect_large() && (links.awaits_large() || self.budget.outputs_are_full());
        links.holds(hash)
            || !client.lines.redirects
                && (owed > 0 && client.lines.expect_much(owed + 1)
                    || waits_for_large
                    || links.must_wait(hash, consumed))
    }

    /// Whether the next of these requests may be a flush that has to wait: a guess that costs one look.
    fn may_be_flush(&self, client: &Connection, rest: &[u8]) -> bool {
        let begins_like_it = match rest {
            [BINARY_MAGIC, opcode, ..] => matches!(*opcode, BINARY_FLUSH | BINARY_FLUSH_QUIETLY),
            _ => matches!(rest.first(), Some(b'f' | b' ')),
        };
        begins_like_it && client.outbox.owed() > 0
    }

    /// Whether a flush would overtake requests of the same client: those that another shard has deferred, those that wait for their
    /// copies, and those that are on their way to other nodes, where it goes by ways of its own.
    fn must_wait_for_answers(&self, client: &Connection, step: &Step<'_>) -> bool {
        let Step::Request { request, .. } = step else { return false };
        let is_flush = matches!(request.command, Command::FlushAll { .. });
        is_flush && client.outbox.owed() > 0
    }

    /// Whether a step puts something to a long value, which takes longer than a turn.
    pub(super) fn must_extend(&mut self, client: &Connection, step: &Step<'_>) -> bool {
        let Step::Request { request, .. } = step else { return false };
        extends(&request.command)
            && !is_datagram(client.id)
            && self.owner_of(request) == self.me()
            && self.executor.must_extend(self.now, (self.shards.me, client.id), request)
    }
}
