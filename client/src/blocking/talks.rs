//! Exchanges with several servers at the same time: each is read when its replies come, so that one that hangs costs the others nothing.
//! Who may have to be waited for before anything is sent has a thread of its own for so long. Decides nothing about what is asked.

use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Client, Held, end, give_back};
use crate::call::Batch;
use crate::error::Failure;
use crate::exchange::WINDOW_SIZE;

/// An exchange that has ended, and why if not well.
pub(super) type Ended = (Batch, Option<Failure>);

/// One that goes on.
struct Talk {
    batch: Batch,
    held: Held,
}

impl Client {
    /// Has all exchanges, each until it has ended or its time is over.
    pub(super) fn talk(&self, mut batches: Vec<Batch>) -> Vec<Ended> {
        if batches.len() == 1 {
            return batches.pop().map(|batch| self.talk_alone(batch)).into_iter().collect();
        }
        let (mut apart, mut together) = (Vec::new(), Vec::new());
        for mut batch in batches {
            match self.may_wait_to_begin(&mut batch) {
                true => apart.push(Mutex::new(Some(batch))),
                false => together.push(batch),
            }
        }
        thread::scope(|scope| {
            let begin = |slot| {
                let run = move || self.talk_about(slot);
                thread::Builder::new().spawn_scoped(scope, run).ok()
            };
            let threads: Vec<_> = apart.iter().skip(usize::from(together.is_empty())).map(begin).collect();
            let mut ended = self.talk_together(together);
            // The first, if nobody else had this thread, and those for which there was none.
            let has_thread = |place: usize| threads.get(place).is_some_and(Option::is_some);
            let skipped = apart.len() - threads.len();
            for (place, slot) in apart.iter().enumerate() {
                if place < skipped || !has_thread(place - skipped) {
                    ended.extend(self.talk_about(slot));
                }
            }
            let theirs = threads.into_iter().flatten().map(thread::ScopedJoinHandle::join);
            ended.extend(theirs.filter_map(|ended| ended.expect("an exchange does not panic")));
            ended
        })
    }

    /// Whether something that takes time comes before the first byte is sent, or the server takes more than it must at once.
    fn may_wait_to_begin(&self, batch: &mut Batch) -> bool {
        batch.exchange.output().len() > WINDOW_SIZE || !self.shared.lock().answers_at_once(&batch.server)
    }

    fn talk_about(&self, slot: &Mutex<Option<Batch>>) -> Option<Ended> {
        let batch = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        batch.map(|batch| self.talk_alone(batch))
    }

    fn talk_alone(&self, mut batch: Batch) -> Ended {
        let failure = self.start(&mut batch).and_then(|held| end(held, &mut batch)).err();
        (batch, failure)
    }

    /// Writes to all, then reads from each what has come.
    fn talk_together(&self, batches: Vec<Batch>) -> Vec<Ended> {
        let (mut talks, mut ended) = (Vec::new(), Vec::new());
        for mut batch in batches {
            match self.start(&mut batch) {
                Ok(held) => talks.push(Talk { batch, held }),
                Err(failure) => ended.push((batch, Some(failure))),
            }
        }
        while !talks.is_empty() {
            let ready = wait_for_any(&mut talks);
            let mut open = Vec::with_capacity(talks.len());
            for (mut talk, is_ready) in talks.into_iter().zip(ready) {
                let Talk { batch, held } = &mut talk;
                match held.stream.step(&mut batch.exchange, batch.deadline, is_ready) {
                    Ok(false) => open.push(talk),
                    result => ended.push(talk.end(result.map(drop))),
                }
            }
            talks = open;
        }
        ended
    }
}

impl Talk {
    fn end(self, result: Result<(), Failure>) -> Ended {
        let failure = give_back(self.held, &self.batch, result).err();
        (self.batch, failure)
    }
}

/// Waits until a server has said something, or until the time of one is over. Says of each whether something can be read.
fn wait_for_any(talks: &mut [Talk]) -> Vec<bool> {
    let now = Instant::now();
    let has_more: Vec<_> = talks.iter_mut().map(|talk| talk.held.stream.has_more()).collect();
    let until = talks.iter().zip(&has_more).map(|(talk, has_more)| {
        if *has_more || talk.batch.exchange.is_done() { now } else { talk.batch.deadline }
    });
    let wait = until.min().map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
    let mut sockets: Vec<_> =
        talks.iter().map(|talk| PollFd::from_borrowed_fd(talk.held.stream.as_fd(), PollFlags::IN)).collect();
    // A time beyond what the kernel counts is none.
    let polled = poll(&mut sockets, Timespec::try_from(wait).ok().as_ref());
    let is_ready = |socket: &PollFd<'_>| polled.is_ok() && !socket.revents().is_empty();
    sockets.iter().zip(has_more).map(|(socket, has_more)| has_more || is_ready(socket)).collect()
}
