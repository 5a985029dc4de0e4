//! What a shard thread does beside requests: a step of the sweeper, and once a second its accounts and who has waited too long.

use std::time::Duration;

use slabring_protocol::reply::CloseReason;
use slabring_reactor::Io;
use slabring_reactor::clock::Moment;

use super::{ShardThread, touch};
use crate::dispatch::refuse_input;

/// Chunks the sweeper examines in one turn at most: about 10 microseconds of work.
const SWEEP_STEP_CHUNKS: usize = 1024;
/// The sweeper comes by every chunk in about this time.
const SWEEP_PERIOD_SECONDS: usize = 60;

/// Time between two looks at what buffers take.
const BUFFERS_PAUSE: Duration = Duration::from_millis(10);

impl<I: Io> ShardThread<I> {
    /// A step of the sweeper, a look at the buffers, and once a second memory accounts and statistics.
    pub(super) fn upkeep(&mut self, began: Moment) {
        let (now, executor) = (self.dispatcher.now, &mut self.dispatcher.executor);
        self.settling = executor.settle(now);
        if executor.take_sweep_wanted() {
            self.sweep_due_chunks = executor.shard().sweep_round();
        }
        let step = self.sweep_due_chunks.min(SWEEP_STEP_CHUNKS);
        if step > 0 {
            self.sweep_due_chunks -= step;
            let swept = executor.shard_mut().sweep(now, step);
            executor.note_evictions(now);
            executor.traffic.swept += swept.examined as u64;
            executor.traffic.sweep_reclaimed += swept.freed as u64;
        }
        if began >= self.buffers_seen_at.after(BUFFERS_PAUSE) {
            self.buffers_seen_at = began;
            let buffers = self.dispatcher.count_all_buffers();
            self.crest.see(buffers);
        }
        if now == self.last_upkeep {
            return;
        }
        self.last_upkeep = now;
        let executor = &mut self.dispatcher.executor;
        executor.end_second(now);
        executor.io = *self.io.counters();
        self.dispatcher.post.shed();
        let buffers = self.crest.see(self.dispatcher.count_all_buffers());
        self.dispatcher.executor.shard_mut().set_external_bytes(buffers);
        self.crest.end_second();
        let report = self.dispatcher.executor.report();
        let chunks = self.dispatcher.executor.shard().sweep_round();
        // What a client has asked for goes on.
        self.sweep_due_chunks = self.sweep_due_chunks.max(chunks.div_ceil(SWEEP_PERIOD_SECONDS));
        self.node.published[self.shards.me.index()].store(&report);
        self.node.pulses.beat(self.shards.me.index());
        self.answer_for_silent();
        self.refuse_overdue();
        self.close_hopeless();
        for id in self.datagrams.overdue(&self.connections, now.0) {
            self.dispatcher.executor.traffic.datagrams_dropped += 1;
            self.close(id, CloseReason::Error);
        }
    }

    /// Gives up large inputs that have waited for memory, or kept it from others, too long.
    fn refuse_overdue(&mut self) {
        for id in self.dispatcher.budget.overdue(&self.connections, self.dispatcher.now) {
            let client = self.connections.get_mut(id).expect("the budget has just found it");
            let waited = client.waits_for_memory;
            if !(waited && self.dispatcher.refuse_value(client)) {
                refuse_input(client);
            }
            touch(&mut self.touched, client);
        }
        self.settle_touched();
    }
}
