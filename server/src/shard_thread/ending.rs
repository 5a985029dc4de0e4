//! How a shard thread ends: it hears for a moment what is in flight, answers it, closes its connections and stays for the other shards
//! until all are done.

use std::sync::atomic::Ordering;
use std::time::Duration;

use slabring_protocol::reply::CloseReason;
use slabring_reactor::Io;
use slabring_reactor::clock::Moment;

use super::ShardThread;
use crate::connection::Connection;

/// After the order to stop: what clients have in flight gets this long to be heard, all else this long to finish.
const STOP_LISTENING: Duration = Duration::from_millis(50);
const STOP_PATIENCE: Duration = Duration::from_secs(4);
pub(super) const STOP_TURN: Duration = Duration::from_millis(10);

/// How far the end of the thread has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Serving,
    /// Ordered to stop at that moment; clients are still heard.
    Stopping(Moment),
    /// Only what clients have sent by now is executed and answered.
    Draining(Moment),
    /// Its clients are gone; it still executes what other shards ask.
    Drained(Moment),
}

impl<I: Io> ShardThread<I> {
    /// After the order to stop: hears for a moment what is in flight, answers it, and stays for the others until they are
    /// done.
    pub(super) fn proceed_to_end(&mut self) {
        match self.phase {
            Phase::Serving if self.node.stopping.load(Ordering::Acquire) => {
                self.io.stop_accepting();
                self.phase = Phase::Stopping(Moment::now());
            }
            Phase::Stopping(since) if Moment::now() >= since.after(STOP_LISTENING) => {
                self.phase = Phase::Draining(since);
                self.stop_hearing();
            }
            Phase::Draining(since) => {
                self.stop_hearing();
                if Moment::now() >= since.after(STOP_PATIENCE) {
                    self.connections.ids().into_iter().for_each(|id| self.close(id, CloseReason::Shutdown));
                }
                if self.connections.len() == 0 {
                    if let Some(links) = &mut self.dispatcher.cluster {
                        links.close_all(&mut self.io);
                    }
                    self.node.drained.fetch_add(1, Ordering::AcqRel);
                    self.phase = Phase::Drained(since);
                }
            }
            Phase::Serving | Phase::Stopping(_) | Phase::Drained(_) => {}
        }
    }

    /// Ends the input of those who have been heard for a moment. Who is not read, because its replies wait, is heard later: much
    /// of what it has sent is still on its side.
    fn stop_hearing(&mut self) {
        let now = Moment::now();
        let was_heard = |client: &Connection| {
            !client.deaf
                && !client.paused
                && client.resumed_at.is_none_or(|resumed_at| now >= resumed_at.after(STOP_LISTENING))
        };
        for id in self.connections.ids_of(was_heard) {
            self.connections.get_mut(id).expect("it was found just now").deaf = true;
            self.io.end_receiving(id);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        let Phase::Drained(since) = self.phase else { return false };
        let all_drained = self.node.drained.load(Ordering::Acquire) >= usize::from(self.shards.count);
        let late = Moment::now() >= since.after(STOP_PATIENCE);
        late || all_drained && self.io.connections() == 0
    }
}
