//! Questions to the shard as a whole, and what each does to it.

use slabring_engine::Seconds;
use slabring_protocol::ErrorReply;

use super::Executor;
use crate::replication::Replication;
use crate::report::{Answer, Question};

impl Executor {
    /// Answers a question to the shard as a whole.
    pub fn answer(&mut self, now: Seconds, question: Question, out: &mut Vec<u8>) -> Answer {
        match question {
            Question::Flush { due, epoch } => {
                let may_flush = |replication: &Replication| due.is_some() || replication.may_flush(epoch);
                if !self.replication.as_deref().is_none_or(may_flush) {
                    return Answer::Refused(ErrorReply::RingUnsettled);
                }
                match due {
                    None => self.shard.flush(),
                    Some(due) => self.shard.flush_at(due),
                }
                self.tracking.flushed(due);
                self.replication.iter_mut().for_each(|replication| replication.flushed(due));
                let delay_seconds = due.map_or(0, |due| due.0.saturating_sub(now.0));
                self.front.iter_mut().for_each(|front| front.flushed(delay_seconds));
            }
            Question::Report => return Answer::Numbers(Box::new(self.report())),
            Question::ResetCounters => self.reset_counters(),
            Question::Automove(automove) => self.shard.set_automove(automove),
            Question::MovePage { from, to } => return Answer::Moved(self.shard.move_page(from, to)),
            Question::LimitMemory(bytes) => {
                self.shard.set_memory_limit(bytes);
                self.settling = true;
            }
            Question::Sweep => self.sweep_wanted = true,
            Question::Scrub => self.replication.iter_mut().for_each(|replication| replication.begin_scrub()),
            Question::CountPrefixes(wanted) => self.set_counting(wanted),
            Question::Prefixes => return Answer::Prefixes(self.prefixes.clone().unwrap_or_default()),
            Question::Walk(walk) => return Answer::of_step(walk.step(&self.shard, now, out)),
            Question::Log(watcher) => {
                self.fetch_log(watcher, out);
                return Answer::Log;
            }
            Question::HotKeys => return Answer::HotKeys(self.hot_keys.list(self.me)),
            Question::Changes(id) => {
                return Answer::Changes { are_all: self.fetch_changes(id, out) };
            }
            Question::Slice { number, bytes } => {
                self.loans.slice(number, bytes, &self.shard, out);
                return Answer::Slice;
            }
            Question::TakeBack(number) => self.loans.take_back(number, &mut self.shard),
            Question::Forget(_) => unreachable!("who knows the sender answers"),
            Question::Connections => unreachable!("who has the connections answers"),
        }
        Answer::Done
    }
}
