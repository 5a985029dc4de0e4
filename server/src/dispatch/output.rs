//! What a connection sends next: bytes that are ready, values that are lent, or another shard's value as it comes; sealed, where
//! the connection speaks TLS.

use slabring_reactor::LoanId;

use super::Dispatcher;
use crate::batch::ReturnAddress;
use crate::connection::{Connection, Ending};
use crate::lending::{LENT_BYTES_MIN, SEALED_BYTES_MAX, SLICE_BYTES_MAX, WINDOW_BYTES_MAX};
use crate::outbox::{Next, Ticket};
use crate::report::Question;
use crate::session::Session;

/// Buffers kept for the next replies, the part of the memory that they may have, and the capacity above which one is not kept: the largest
/// value that is copied fits with its line.
const SPARE_BUFFERS_MAX: usize = 64;
pub(super) const SPARE_SHARE: usize = 32;
const SPARE_BUFFER_BYTES_MAX: usize = LENT_BYTES_MIN + (1 << 10);

/// What one send takes.
#[derive(Debug)]
pub struct Output {
    /// Bytes of ours.
    pub buffer: Vec<u8>,
    /// What is lent with them.
    pub loan: Option<LoanId>,
}

impl Dispatcher {
    /// What a connection may send now, if there is anything and nothing is on its way.
    pub fn take_output(&mut self, client: &mut Connection) -> Option<Output> {
        if client.sending || client.holds_back() {
            return None;
        }
        let output = match client.session.take() {
            None => self.take_plain(client)?,
            Some(mut session) => {
                let sealed = self.seal(client, &mut session);
                client.session = Some(session);
                Output { buffer: sealed, loan: None }
            }
        };
        if output.buffer.is_empty() && output.loan.is_none() {
            self.keep_spare(output.buffer);
            return None;
        }
        client.await_nodes_no_longer();
        client.sending = true;
        client.sent_at = self.now;
        client.sending_bytes = output.buffer.capacity();
        Some(output)
    }

    fn seal(&mut self, client: &mut Connection, session: &mut Session) -> Vec<u8> {
        let mut sealed = self.spare_buffer();
        if session.may_speak() {
            let mut plain = self.take_copy(client);
            session.seal(&plain, &mut sealed);
            plain.clear();
            self.keep_spare(plain);
        } else {
            session.seal(&[], &mut sealed);
        }
        if client.ending > Ending::No && (session.is_broken() || !client.stalled && client.outbox.is_empty())
        {
            session.say_goodbye(&mut sealed);
        }
        sealed
    }

    fn take_plain(&mut self, client: &mut Connection) -> Option<Output> {
        let bytes = |buffer| Some(Output { buffer, loan: None });
        match client.outbox.next() {
            Next::Nothing => None,
            Next::Bytes => bytes(client.outbox.take_ready(self.spare_buffer())),
            Next::Elsewhere(_) => bytes(self.take_slice(client)),
            Next::Window => {
                let mut buffer = self.spare_buffer();
                let shard = self.executor.shard_mut();
                let window = client.outbox.take_window(shard, WINDOW_BYTES_MAX, &mut buffer);
                let loan = (!window.is_empty()).then(|| self.executor.loans.begin_sending(window));
                Some(Output { buffer, loan })
            }
        }
    }

    /// What may be sealed next, copied.
    fn take_copy(&mut self, client: &mut Connection) -> Vec<u8> {
        match client.outbox.next() {
            Next::Nothing => self.spare_buffer(),
            Next::Bytes => client.outbox.take_ready(self.spare_buffer()),
            Next::Elsewhere(_) => self.take_slice(client),
            Next::Window => {
                let (mut bytes, mut buffer) = (self.spare_buffer(), self.spare_buffer());
                let shard = self.executor.shard_mut();
                let mut copied = 0;
                for (place, mut lent) in client.outbox.take_window(shard, SEALED_BYTES_MAX, &mut bytes) {
                    buffer.extend_from_slice(&bytes[copied..place]);
                    lent.copy_to(shard, usize::MAX, &mut buffer);
                    lent.give_back(shard);
                    copied = place;
                }
                buffer.extend_from_slice(&bytes[copied..]);
                bytes.clear();
                self.keep_spare(bytes);
                buffer
            }
        }
    }

    /// The slice that has come of another shard's value. Asks for the next.
    fn take_slice(&mut self, client: &mut Connection) -> Vec<u8> {
        let (slice, ended) = client.outbox.take_slice();
        if let Some(remote) = ended {
            self.take_back(remote.owner, remote.number);
        }
        self.ask_for_slice(client);
        slice
    }

    /// Asks for the next slice if it is another shard's value that is sent next: one ahead of what is being sent, or none
    /// where memory is short.
    pub(super) fn ask_for_slice(&mut self, client: &mut Connection) {
        let may_be_ahead = !self.budget.outputs_are_full();
        let Next::Elsewhere(remote) = client.outbox.next() else { return };
        let has_none = !remote.asked && remote.slice.is_empty() && remote.to_ask > 0;
        if has_none && (may_be_ahead || !client.sending) {
            let bytes = self.post.letter_bytes().min(SLICE_BYTES_MAX);
            remote.asked = true;
            remote.to_ask -= remote.to_ask.min(bytes);
            let to = ReturnAddress { connection: client.id, ticket: Ticket::NONE };
            self.post.ask(remote.owner, to, Question::Slice { number: remote.number, bytes });
            self.has_more = true;
        }
    }

    /// An empty buffer for the next replies.
    pub fn spare_buffer(&mut self) -> Vec<u8> {
        let buffer = self.spare_buffers.pop().unwrap_or_default();
        self.spare_bytes -= buffer.capacity();
        buffer
    }

    /// An empty buffer for so many bytes: a spare one, if it would be again.
    pub(super) fn buffer_for(&mut self, bytes: usize) -> Vec<u8> {
        if bytes <= SPARE_BUFFER_BYTES_MAX { self.spare_buffer() } else { Vec::with_capacity(bytes) }
    }

    /// Takes a buffer back whose bytes have left.
    pub fn keep_spare(&mut self, buffer: Vec<u8>) {
        let has_room = self.spare_buffers.len() < SPARE_BUFFERS_MAX
            && self.spare_bytes + buffer.capacity() <= self.spare_bytes_max;
        if has_room && buffer.capacity() <= SPARE_BUFFER_BYTES_MAX {
            self.spare_bytes += buffer.capacity();
            self.spare_buffers.push(buffer);
        }
    }
}
