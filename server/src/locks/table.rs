//! Who holds which lock, and who waits for it: a state machine. No I/O, no clock, no threads; fences come from outside.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::rc::Rc;

use slabring_protocol::{LockCommand, LockVerb, SESSION_SIZE_MAX};

/// Locks held at a time, if there is memory for so many.
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

/// Where an answer goes.
pub trait Asker: Copy {
    /// Whose it is: a client has any number of requests, and all of them are gone when it is.
    type Client: Copy + Ord + Debug;

    /// See [`Asker::Client`].
    fn client(self) -> Self::Client;
}

type Name = Rc<[u8]>;

#[derive(Debug)]
struct Lock<W> {
    session: Box<[u8]>,
    fence: u64,
    ends_at: Millis,
    /// Its place in [`Table::due`].
    due: (Millis, u64),
    /// In the order in which they came.
    waiters: VecDeque<Waiter<W>>,
}

#[derive(Debug)]
struct Waiter<W> {
    who: W,
    number: u64,
    session: Box<[u8]>,
    ttl_ms: u32,
    gives_up_at: Millis,
}

/// See the module. `W` is where an answer goes. Whatever ends costs the logarithm of what there is, and a look at who waits for that
/// lock.
#[derive(Debug)]
pub struct Table<W: Asker> {
    locks: BTreeMap<Name, Lock<W>>,
    /// When something of a lock first ends by itself, and the lock's number.
    due: BTreeMap<(Millis, u64), Name>,
    /// For whom all wait, by client and the number of the request.
    waiting: BTreeMap<(W::Client, u64), Name>,
    /// Locks and requests that were given a number.
    numbered: u64,
    /// Bytes of all names.
    names_bytes: usize,
    bytes_max: usize,
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

    /// Gives memory back that a crowd has taken.
    fn shrink(&mut self) {
        if self.waiters.is_empty() {
            self.waiters = VecDeque::new();
        } else if self.waiters.capacity() > 4 * self.waiters.len() {
            self.waiters.shrink_to(2 * self.waiters.len());
        }
    }
}

impl<W: Asker> Waiter<W> {
    fn key(&self) -> (W::Client, u64) {
        (self.who.client(), self.number)
    }
}

impl<W: Asker> Table<W> {
    /// What a lock takes besides its name: the trees' nodes are at least half full, and the allocator rounds up.
    const LOCK_BYTES: usize = 2 * size_of::<(Name, Lock<W>, (Millis, u64), Name)>() + SESSION_SIZE_MAX + 48;
    /// What a request takes that waits.
    const WAITER_BYTES: usize = 2 * size_of::<(Waiter<W>, (W::Client, u64), Name)>() + SESSION_SIZE_MAX + 16;

    /// Nobody holds anything. No lock is given out, and nobody waits, that would take more memory than this.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            locks: BTreeMap::new(),
            due: BTreeMap::new(),
            waiting: BTreeMap::new(),
            numbered: 0,
            names_bytes: 0,
            bytes_max,
        }
    }

    /// Locks that are held, of which some may have ended since [`Table::expire`] was called.
    pub fn held(&self) -> usize {
        self.locks.len()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Memory, about.
    pub fn bytes(&self) -> usize {
        self.locks.len() * Self::LOCK_BYTES + self.waiting.len() * Self::WAITER_BYTES + self.names_bytes
    }

    /// When [`Table::expire`] should be called.
    pub fn wake_at(&self) -> Option<Millis> {
        self.due.first_key_value().map(|((at, _), _)| *at)
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
        let said = match (verb, self.locks.get_mut(&*name)) {
            (LockVerb::Query, Some(lock)) => lock.held(now),
            (LockVerb::Acquire | LockVerb::Renew, Some(lock)) if lock.session == session => {
                // Asked again because the answer was lost: the same fence.
                lock.ends_at = ends_at;
                let held = lock.held(now);
                self.reschedule(&name);
                held
            }
            (LockVerb::Acquire, None) => self.grant(now, name, session, ttl_ms, fence),
            (LockVerb::Acquire, Some(lock)) if wait_ms == 0 => lock.taken(now),
            (LockVerb::Acquire, Some(_)) => {
                let number = self.number();
                let waiter = Waiter { who, number, session, ttl_ms, gives_up_at: now.after(wait_ms) };
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
        while let Some((&(at, _), name)) = self.due.first_key_value()
            && at <= now
        {
            let name = Rc::clone(name);
            self.settle(now, &name, fence, answers);
        }
    }

    /// Nobody waits any more at this place: a lock that is given to it would be nobody's. Who is still there is told who holds it.
    pub fn forget(&mut self, now: Millis, client: W::Client, answers: &mut Vec<(W, Said)>) {
        while let Some((&(whose, number), name)) = self.waiting.range((client, 0)..).next()
            && whose == client
        {
            let name = Rc::clone(name);
            let lock = self.locks.get_mut(&name).expect("nobody waits for a lock that nobody holds");
            let at = lock.waiters.iter().position(|waiter| waiter.number == number);
            let waiter = lock.waiters.remove(at.expect("it waits there")).expect("it was just found");
            answers.push((waiter.who, lock.taken(now)));
            lock.shrink();
            self.waiting.remove(&(whose, number));
            self.reschedule(&name);
        }
    }

    /// Nobody gets anything any more: all who wait are told who holds what.
    pub fn end(&mut self, now: Millis, answers: &mut Vec<(W, Said)>) {
        for lock in self.locks.values_mut() {
            let taken = lock.taken(now);
            answers.extend(lock.waiters.drain(..).map(|waiter| (waiter.who, taken.clone())));
        }
        self.waiting.clear();
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
        if lock.ends_at <= now {
            while let Some(waiter) = lock.waiters.pop_front() {
                self.waiting.remove(&waiter.key());
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
                self.waiting.remove(&waiter.key());
                answers.push((waiter.who, taken.clone()));
            }
            goes_on
        });
        lock.shrink();
        if lock.ends_at <= now {
            self.due.remove(&lock.due);
            self.locks.remove(name);
            self.names_bytes -= name.len();
        } else {
            self.reschedule(name);
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
        if self.locks.len() >= LOCKS_MAX || !self.has_room(Self::LOCK_BYTES + name.len()) {
            return Said::TooMany;
        }
        let Some(fence) = fence() else { return Said::NoFence };
        let ends_at = now.after(ttl_ms);
        let due = (ends_at, self.number());
        let lock = Lock { session, fence, ends_at, due, waiters: VecDeque::new() };
        let held = lock.held(now);
        let name = Name::from(name);
        self.names_bytes += name.len();
        self.due.insert(due, Rc::clone(&name));
        self.locks.insert(name, lock);
        held
    }

    /// Lines up. Who asks again because its connection was lost keeps its place.
    fn wait(&mut self, now: Millis, name: &[u8], waiter: Waiter<W>, answers: &mut Vec<(W, Said)>) {
        let is_full = self.waiting.len() >= WAITERS_MAX || !self.has_room(Self::WAITER_BYTES);
        let (held, _) = self.locks.get_key_value(name).expect("the caller has looked");
        let held = Rc::clone(held);
        let lock = self.locks.get_mut(name).expect("the caller has looked");
        let key = waiter.key();
        if let Some(known) = lock.waiters.iter_mut().find(|known| known.session == waiter.session) {
            let replaced = std::mem::replace(known, waiter);
            self.waiting.remove(&replaced.key());
            answers.push((replaced.who, lock.taken(now)));
        } else if is_full {
            return answers.push((waiter.who, Said::TooMany));
        } else {
            lock.waiters.push_back(waiter);
        }
        self.waiting.insert(key, held);
        self.reschedule(name);
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes() + bytes <= self.bytes_max
    }

    fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    /// Sees to it that a lock is looked at when something of it ends.
    fn reschedule(&mut self, name: &[u8]) {
        let lock = self.locks.get_mut(name).expect("the caller has looked");
        let due = (next_of(lock), lock.due.1);
        if due != lock.due {
            let name = self.due.remove(&lock.due).expect("every lock has its place");
            self.due.insert(due, name);
            lock.due = due;
        }
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
