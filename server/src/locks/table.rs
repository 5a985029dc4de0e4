//! Who holds which lock, and who waits for it: a state machine. No I/O, no clock, no threads; fences come from outside.

use std::collections::{BTreeMap, VecDeque};

use slabring_protocol::{LockCommand, LockVerb};

/// Locks held at a time.
const LOCKS_MAX: usize = 64 << 10;
/// Who may wait at a time, for all locks together.
const WAITERS_MAX: usize = 16 << 10;

/// The time, in milliseconds since any moment. Never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Millis(pub u64);

/// What is asked of a lock.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What.
    pub command: LockCommand,
    /// Of which.
    pub name: Box<[u8]>,
    /// Who asks; empty for a query.
    pub session: Box<[u8]>,
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Who asked, or who is named, holds it.
    Held { fence: u64, left_ms: u64, session: Box<[u8]> },
    /// Somebody else does.
    Taken { fence: u64, left_ms: u64 },
    /// It is given up.
    Released,
    /// Nobody holds it.
    Free,
    /// Somebody else holds it, and nothing changed.
    NotYours,
    /// There are too many. Nothing changed.
    TooMany,
    /// There was no fence for it. Nothing changed.
    NoFence,
    /// The nodes' coordinator does not answer: it may be done. Only of locks that several nodes keep.
    NoCoordinator,
}

#[derive(Debug)]
struct Lock<W> {
    session: Box<[u8]>,
    fence: u64,
    ends_at: Millis,
    /// In the order in which they came.
    waiters: VecDeque<Waiter<W>>,
}

#[derive(Debug)]
struct Waiter<W> {
    who: W,
    session: Box<[u8]>,
    ttl_ms: u32,
    gives_up_at: Millis,
}

/// See the module. `W` is where an answer goes.
#[derive(Debug)]
pub struct Table<W> {
    locks: BTreeMap<Box<[u8]>, Lock<W>>,
    waiting: usize,
    /// Nothing happens by itself before.
    wake_at: Option<Millis>,
}

impl<W> Lock<W> {
    fn held(&self, now: Millis) -> Said {
        let session = self.session.clone();
        Said::Held { fence: self.fence, left_ms: self.left_ms(now), session }
    }

    fn taken(&self, now: Millis) -> Said {
        Said::Taken { fence: self.fence, left_ms: self.left_ms(now) }
    }

    fn left_ms(&self, now: Millis) -> u64 {
        self.ends_at.0.saturating_sub(now.0)
    }
}

impl<W: Copy> Table<W> {
    /// Nobody holds anything.
    pub fn new() -> Self {
        Self { locks: BTreeMap::new(), waiting: 0, wake_at: None }
    }

    /// Locks that are held.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.locks.len()
    }

    /// When [`Table::expire`] should be called.
    pub fn wake_at(&self) -> Option<Millis> {
        self.wake_at
    }

    /// Does what is asked, and adds the answers that are due: this one's unless it waits, and those of others who had waited.
    pub fn ask(
        &mut self,
        now: Millis,
        who: W,
        ask: Ask,
        fence: &mut impl FnMut() -> Option<u64>,
        answers: &mut Vec<(W, Said)>,
    ) {
        // Nobody is told of a lock that has ended.
        self.settle(now, &ask.name, fence, answers);
        let Ask { command: LockCommand { verb, ttl_ms, wait_ms }, name, session } = ask;
        let ends_at = now.after(ttl_ms);
        let said = match (verb, self.locks.get_mut(&name)) {
            (LockVerb::Query, Some(lock)) => lock.held(now),
            (LockVerb::Acquire | LockVerb::Renew, Some(lock)) if lock.session == session => {
                // Asked again because the answer was lost: the same fence.
                lock.ends_at = ends_at;
                let held = lock.held(now);
                self.note(ends_at);
                held
            }
            (LockVerb::Acquire, None) => self.grant(now, name, session, ttl_ms, fence),
            (LockVerb::Acquire, Some(lock)) if wait_ms == 0 => lock.taken(now),
            (LockVerb::Acquire, Some(_)) => {
                let waiter = Waiter { who, session, ttl_ms, gives_up_at: now.after(wait_ms) };
                return self.wait(now, &name, waiter, answers);
            }
            (LockVerb::Release, Some(lock)) if lock.session == session => {
                lock.ends_at = now;
                answers.push((who, Said::Released));
                return self.settle(now, &name, fence, answers);
            }
            (LockVerb::Renew | LockVerb::Release, Some(_)) => Said::NotYours,
            (LockVerb::Renew | LockVerb::Release | LockVerb::Query, None) => Said::Free,
        };
        answers.push((who, said));
    }

    /// Ends what is over and adds the answers that are due.
    pub fn expire(
        &mut self,
        now: Millis,
        fence: &mut impl FnMut() -> Option<u64>,
        answers: &mut Vec<(W, Said)>,
    ) {
        if self.wake_at.is_none_or(|at| at > now) {
            return;
        }
        let is_due = |lock: &Lock<W>| {
            lock.ends_at <= now || lock.waiters.iter().any(|waiter| waiter.gives_up_at <= now)
        };
        let due: Vec<_> =
            self.locks.iter().filter(|(_, lock)| is_due(lock)).map(|(name, _)| name.clone()).collect();
        due.iter().for_each(|name| self.settle(now, name, fence, answers));
        self.wake_at = self.locks.values().map(next_of).min();
    }

    /// Nobody waits any more at this place: a lock that is given to it would be nobody's. Who is still there is told who holds it.
    pub fn forget(&mut self, now: Millis, is_gone: impl Fn(W) -> bool, answers: &mut Vec<(W, Said)>) {
        for lock in self.locks.values_mut() {
            let taken = lock.taken(now);
            let before = lock.waiters.len();
            lock.waiters.retain(|waiter| {
                let stays = !is_gone(waiter.who);
                if !stays {
                    answers.push((waiter.who, taken.clone()));
                }
                stays
            });
            self.waiting -= before - lock.waiters.len();
        }
    }

    /// Nobody gets anything any more: all who wait are told who holds what.
    pub fn end(&mut self, now: Millis, answers: &mut Vec<(W, Said)>) {
        for lock in self.locks.values_mut() {
            let taken = lock.taken(now);
            answers.extend(lock.waiters.drain(..).map(|waiter| (waiter.who, taken.clone())));
        }
        self.waiting = 0;
    }

    /// Ends a lock that is over, gives it to the first who still waits, and tells those who do not any more.
    fn settle(
        &mut self,
        now: Millis,
        name: &[u8],
        fence: &mut impl FnMut() -> Option<u64>,
        answers: &mut Vec<(W, Said)>,
    ) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        let before = lock.waiters.len();
        if lock.ends_at <= now {
            while let Some(waiter) = lock.waiters.pop_front() {
                if waiter.gives_up_at < now {
                    answers.push((waiter.who, lock.taken(now)));
                    continue;
                }
                let Some(fence) = fence() else {
                    answers.push((waiter.who, Said::NoFence));
                    continue;
                };
                lock.session = waiter.session;
                lock.fence = fence;
                lock.ends_at = now.after(waiter.ttl_ms);
                answers.push((waiter.who, lock.held(now)));
                break;
            }
        }
        let taken = lock.taken(now);
        lock.waiters.retain(|waiter| {
            let goes_on = waiter.gives_up_at > now;
            if !goes_on {
                answers.push((waiter.who, taken.clone()));
            }
            goes_on
        });
        self.waiting -= before - lock.waiters.len();
        if lock.ends_at <= now {
            self.locks.remove(name);
        } else {
            let next = next_of(lock);
            self.note(next);
        }
    }

    fn grant(
        &mut self,
        now: Millis,
        name: Box<[u8]>,
        session: Box<[u8]>,
        ttl_ms: u32,
        fence: &mut impl FnMut() -> Option<u64>,
    ) -> Said {
        if self.locks.len() >= LOCKS_MAX {
            return Said::TooMany;
        }
        let Some(fence) = fence() else { return Said::NoFence };
        let ends_at = now.after(ttl_ms);
        let lock = Lock { session, fence, ends_at, waiters: VecDeque::new() };
        let held = lock.held(now);
        self.locks.insert(name, lock);
        self.note(ends_at);
        held
    }

    /// Lines up. Who asks again because its connection was lost keeps its place.
    fn wait(&mut self, now: Millis, name: &[u8], waiter: Waiter<W>, answers: &mut Vec<(W, Said)>) {
        let lock = self.locks.get_mut(name).expect("the caller has looked");
        let gives_up_at = waiter.gives_up_at;
        if let Some(known) = lock.waiters.iter_mut().find(|known| known.session == waiter.session) {
            let replaced = std::mem::replace(known, waiter);
            answers.push((replaced.who, lock.taken(now)));
        } else if self.waiting >= WAITERS_MAX {
            return answers.push((waiter.who, Said::TooMany));
        } else {
            lock.waiters.push_back(waiter);
            self.waiting += 1;
        }
        self.note(gives_up_at);
    }

    fn note(&mut self, at: Millis) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }
}

impl Millis {
    pub(super) fn after(self, ms: u32) -> Self {
        Self(self.0 + u64::from(ms))
    }
}

fn next_of<W>(lock: &Lock<W>) -> Millis {
    let waiters = lock.waiters.iter().map(|waiter| waiter.gives_up_at);
    waiters.fold(lock.ends_at, Millis::min)
}

#[cfg(test)]
mod tests;
