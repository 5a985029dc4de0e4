//! Which clients are closed for what they do not do: speak, come to an end, or read. Looked at once a second.

use std::sync::atomic::Ordering;

use slabring_engine::Seconds;
use slabring_protocol::reply::CloseReason;
use slabring_reactor::Io;

use super::{ShardThread, touch};
use crate::connection::Connection;
use crate::pulse::SILENT_SECONDS;

/// A client that has come to no agreement over TLS after this time is closed.
const HANDSHAKE_PATIENCE_SECONDS: u32 = 10;
/// While others wait for memory, a client is closed that has sent nothing of its large value for so long.
const UNFILLED_SECONDS_MAX: u32 = 4;
/// While others wait for memory, a client is closed that has not taken what it was sent, 256 KiB of a value at most, in such a time.
const UNREAD_SECONDS_MAX: u32 = 8;
/// What is sent of copies besides has a second more for each so many bytes.
const UNREAD_BYTES_PER_SECOND_MIN: usize = 64 << 10;

impl<I: Io> ShardThread<I> {
    /// Closes them all.
    pub(super) fn close_hopeless(&mut self) {
        self.close_idle();
        self.close_slow();
        self.close_stuck();
        self.close_stalled_handshakes();
    }

    /// Answers those who asked something of all shards while one of them does not answer.
    pub(super) fn answer_for_silent(&mut self) {
        if !self.node.pulses.is_any_still(SILENT_SECONDS) {
            return;
        }
        for id in self.connections.ids_of(|client| client.outbox.gathering() > 0) {
            let client = self.connections.get_mut(id).expect("it was found just now");
            self.dispatcher.give_up_gathering(client);
            touch(&mut self.touched, client);
        }
        self.settle_touched();
    }

    /// Closes clients that have not come to speak TLS in time.
    fn close_stalled_handshakes(&mut self) {
        if self.node.tls.is_none() {
            return;
        }
        let now = self.dispatcher.now.0;
        let is_late = |client: &Connection| {
            let session = client.session.as_ref();
            session.is_some_and(|session| {
                session.is_handshaking() && now.saturating_sub(session.since.0) > HANDSHAKE_PATIENCE_SECONDS
            })
        };
        for id in self.connections.ids_of(is_late) {
            self.dispatcher.executor.traffic.tls_handshake_errors += 1;
            self.close(id, CloseReason::Error);
        }
    }

    /// Closes clients that have said nothing for too long, if there is such a time.
    fn close_idle(&mut self) {
        let timeout = self.node.idle_timeout_seconds.load(Ordering::Relaxed);
        if timeout == 0 {
            return;
        }
        let now = self.dispatcher.now.0;
        let is_idle =
            |client: &Connection| client.is_quiet() && now.saturating_sub(client.heard_at.0) > timeout;
        for id in self.connections.ids_of(is_idle) {
            self.dispatcher.executor.traffic.idle_kicks += 1;
            self.close(id, CloseReason::IdleTimeout);
        }
    }

    /// Closes clients that do not come to the end of a request.
    fn close_slow(&mut self) {
        let (patience, now) = (self.node.settings.request_timeout_seconds, self.dispatcher.now);
        if patience == 0 {
            return;
        }
        for id in self.connections.ids_of(|client| client.is_too_slow(patience, now)) {
            self.dispatcher.executor.traffic.slow_kicks += 1;
            self.close(id, CloseReason::Error);
        }
    }

    /// Closes clients that stand still in the middle of a value while others of the node wait for memory.
    fn close_stuck(&mut self) {
        let now = self.dispatcher.now.0;
        let is_short = self.dispatcher.budget.outputs_are_full() || self.dispatcher.budget.has_line();
        if std::mem::take(&mut self.dispatcher.value_waited) || is_short {
            self.node.short_of_memory_at.store(now, Ordering::Relaxed);
        }
        let short_at = self.node.short_of_memory_at.load(Ordering::Relaxed);
        if short_at == 0 || now.saturating_sub(short_at) > 1 {
            return;
        }
        let seconds_since = |since: Seconds| now.saturating_sub(since.0) as usize;
        let is_stuck = |client: &Connection| {
            let to_read = UNREAD_SECONDS_MAX as usize + client.sending_bytes / UNREAD_BYTES_PER_SECOND_MIN;
            client.sending && seconds_since(client.sent_at) >= to_read
                || client.intake.is_some()
                    && !client.stalled
                    && seconds_since(client.heard_at) >= UNFILLED_SECONDS_MAX as usize
        };
        for id in self.connections.ids_of(is_stuck) {
            self.close(id, CloseReason::Error);
        }
    }
}
