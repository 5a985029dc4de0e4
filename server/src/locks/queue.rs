//! Locks that several nodes keep in one store, as one of these nodes sees them: a state machine between what clients ask, steps to take in
//! the store, and what comes of them. No I/O, no clock, no threads; `etcd.rs` takes the steps.
//!
//! A name has a key in the store for each session that holds the lock or waits for it. The key that was created first holds the lock, and the
//! fence is counted from when that was (`offset.rs`): whoever gets the lock later was created later. Putting a key again changes nothing of
//! that, so whatever was not answered may be asked again. Each key lies under a lease: a holder's lasts for the lock's time and a second, that of one who waits for
//! as long as he waits; the node that put a key takes it away to the millisecond, unless somebody has put it since.
//!
//! What is done for a name is done one by one. A watch says only where to look; without it every name is looked at every two seconds.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use slabring_cluster::coordinator::Revision;
use slabring_cluster::coordinator::gateway::{Condition, LeaseId};
use slabring_protocol::{LockVerb, SESSION_SIZE_MAX};

use super::table::{Ask, Asker, Millis, Said};

/// Who may wait at a time at this node.
const WAITERS_MAX: usize = 16 << 10;
/// Requests of one name that wait for the one before.
const LINE_MAX: usize = 1_024;
/// Who waits is looked after this often, whatever the watch says.
const LOOK_EVERY_MS: u64 = 2_000;
/// After a step of which nothing is known, everything fails at once for so long.
const AWAY_MS: u64 = 500;
/// A request begins anew when others were faster, this often.
const TRIES_MAX: u32 = 8;
/// The store ends a key so much later than the node should.
const LEASE_AIR_MS: u64 = 1_000;

/// What is locked.
pub type Name = Rc<[u8]>;
/// Who locks.
pub type Session = Box<[u8]>;

/// What to do in the store for a name, at once or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reads who is there.
    Read,
    /// Puts a session's key if the condition holds, and reads who is there then, whether it holds or not.
    Put {
        /// Whose.
        session: Session,
        /// What must be so.
        condition: Condition,
        /// What is told to others: when it ends.
        ends_unix_ms: u64,
        /// The key is there for so long, at most two seconds more, unless it is put again.
        lease_ms: u64,
        /// The lease that it lies under until then.
        old: Option<LeaseId>,
        /// What its fence is counted from; `None`: it is a new one.
        offset: Option<u64>,
    },
    /// Takes a session's key away if nobody has put it since.
    Delete {
        /// Whose.
        session: Session,
        /// When it was put.
        changed: Revision,
    },
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether its condition held.
    pub succeeded: bool,
    /// The store's revision: that of what was put.
    pub revision: Revision,
    /// Who is there, first come first; nobody after a [`Step::Delete`].
    pub entries: Vec<Entry>,
}

/// A session's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose.
    pub session: Session,
    /// When it came.
    pub created: Revision,
    /// What its fence is counted from.
    pub offset: u64,
    /// When it was put last.
    pub changed: Revision,
    /// When it ends, as its node has it.
    pub ends_unix_ms: u64,
    /// What it lies under.
    pub lease: Option<LeaseId>,
}

/// Who is first in a line, as far as is known: a fence, and when it ends.
type First = (u64, u64);

/// What a client asked.
#[derive(Clone, Debug)]
struct Request<W> {
    who: W,
    number: u64,
    ask: Ask,
    gives_up_at: Millis,
    tries: u32,
    /// It has been in the line, since its key was put then: it must not be given anything when it waits no more.
    in_line: Option<Revision>,
}

/// What is to be done for a name.
#[derive(Clone, Debug)]
enum Work<W> {
    Asked(Request<W>),
    /// Somebody who waits may be first by now.
    Look,
    /// The time of a session's key is over, or nobody wants it any more.
    End {
        session: Session,
        changed: Revision,
    },
}

/// What the step under way is for.
#[derive(Clone, Copy, Debug)]
enum Doing {
    Reading,
    Holding { ends_at: Millis },
    LiningUp,
    Leaving,
}

#[derive(Debug)]
struct Line<W> {
    under_way: Option<(Work<W>, Doing)>,
    behind: VecDeque<Work<W>>,
}

#[derive(Debug)]
struct Waiter<W> {
    request: Request<W>,
    first: First,
}

/// A key that this node is to take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given {
    changed: Revision,
    due: Due,
}

/// A time, and a number that makes it one of its kind.
type Due = (Millis, u64);

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    Key(Name, Session),
    Wait(Name),
}

/// See the module. `W` is where an answer goes. Whatever ends costs the logarithm of what there is, and a look at who waits for that lock.
#[derive(Debug)]
pub struct Queue<W: Asker> {
    /// Unix milliseconds when time began.
    start_unix_ms: u64,
    bytes_max: usize,
    lines: BTreeMap<Name, Line<W>>,
    /// Names whose next work can begin.
    ready: VecDeque<Name>,
    /// Steps to take next.
    steps: VecDeque<(Name, Step)>,
    /// Requests that are not answered, by client and number.
    asked: BTreeMap<(W::Client, u64), Name>,
    /// Those of them that wait for others to leave.
    waiters: BTreeMap<Name, VecDeque<Waiter<W>>>,
    waiting: usize,
    given: BTreeMap<(Name, Session), Given>,
    due: BTreeMap<Due, Ending>,
    /// Bytes of the names in [`Self::asked`] and [`Self::given`].
    names_bytes: usize,
    /// Requests and keys that were given a number.
    numbered: u64,
    /// Everything up to here was seen.
    seen: Revision,
    look_at: Millis,
    away_until: Millis,
    answers: Vec<(W, Said)>,
}

impl<W: Asker> Queue<W> {
    /// What a request or a lock takes besides its name, about: the trees' nodes are at least half full, and the allocator rounds up.
    const ENTRY_BYTES: usize = 2 * size_of::<(Waiter<W>, (W::Client, u64), Name, Name, Due, Ending)>()
        + 2 * size_of::<Line<W>>()
        + SESSION_SIZE_MAX
        + 64;

    /// Nobody has asked anything. What is known of requests and locks takes no more than so much memory.
    pub fn new(start_unix_ms: u64, bytes_max: usize) -> Self {
        Self {
            start_unix_ms,
            bytes_max,
            lines: BTreeMap::new(),
            ready: VecDeque::new(),
            steps: VecDeque::new(),
            asked: BTreeMap::new(),
            waiters: BTreeMap::new(),
            waiting: 0,
            given: BTreeMap::new(),
            due: BTreeMap::new(),
            names_bytes: 0,
            numbered: 0,
            seen: Revision(0),
            look_at: Millis(0),
            away_until: Millis(0),
            answers: Vec::new(),
        }
    }

    /// Does what is asked. The answer comes later.
    pub fn ask(&mut self, now: Millis, who: W, ask: Ask) {
        let is_long = self.lines.get(&*ask.name).is_some_and(|line| line.behind.len() >= LINE_MAX);
        if is_long || self.bytes() + Self::ENTRY_BYTES + ask.name.len() > self.bytes_max {
            return self.answers.push((who, Said::TooMany));
        }
        if now < self.away_until {
            return self.answers.push((who, Said::NoCoordinator));
        }
        let name = Name::from(&*ask.name);
        let (number, gives_up_at) = (self.number(), now.after(ask.command.wait_ms));
        self.names_bytes += name.len();
        self.asked.insert((who.client(), number), Rc::clone(&name));
        let request = Request { who, number, ask, gives_up_at, tries: 0, in_line: None };
        self.queue(name, Work::Asked(request));
    }

    /// Nobody waits any more at this place. Who is still there is told who holds the lock.
    pub fn forget(&mut self, now: Millis, client: W::Client) {
        let requests = self.asked.range((client, 0)..).take_while(|((whose, _), _)| *whose == client);
        let requests: Vec<_> = requests.map(|(&(_, number), name)| (number, Rc::clone(name))).collect();
        for (number, name) in requests {
            self.give_up(now, &name, number);
        }
    }

    /// Nobody waits any more.
    pub fn end(&mut self, now: Millis) {
        let requests: Vec<_> =
            self.asked.iter().map(|(&(_, number), name)| (number, Rc::clone(name))).collect();
        for (number, name) in requests {
            self.give_up(now, &name, number);
        }
    }

    /// What is to be told, as far as it is known.
    pub fn take_answers(&mut self) -> Vec<(W, Said)> {
        std::mem::take(&mut self.answers)
    }

    /// Locks that this node gave. Another may have renewed some of them since.
    pub fn held(&self) -> usize {
        self.given.len()
    }

    /// Requests that wait in a line.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Memory, about.
    pub fn bytes(&self) -> usize {
        (self.given.len() + self.asked.len()) * Self::ENTRY_BYTES + self.names_bytes
    }

    /// The next step to take. Its name has no other before [`Self::came`] says what came of it.
    pub fn next(&mut self, now: Millis) -> Option<(Name, Step)> {
        self.expire(now);
        while self.steps.is_empty()
            && let Some(name) = self.ready.pop_front()
        {
            let line = self.lines.get_mut(&name).expect("who is ready has a line");
            match line.behind.pop_front().expect("who is ready has work") {
                Work::Asked(request) if now < self.away_until => {
                    self.answer_and_go_on(&name, &request, Said::NoCoordinator);
                }
                work => self.begin(&name, work),
            }
        }
        self.steps.pop_front()
    }

    /// When [`Self::next`] may have something although nothing came.
    pub fn wake_at(&self) -> Option<Millis> {
        let due = self.due.first_key_value().map(|((at, _), _)| *at);
        let look = (!self.waiters.is_empty()).then_some(self.look_at);
        due.into_iter().chain(look).min()
    }

    /// What came of a step; `None`: nobody knows whether it was taken.
    pub fn came(&mut self, now: Millis, name: &Name, found: Option<Found>) {
        let line = self.lines.get_mut(name).expect("a name with a step has a line");
        let (work, doing) = line.under_way.take().expect("a step is for something");
        let Some(found) = found else { return self.failed(now, name, work) };
        match (work, doing) {
            (Work::Look, _) => self.look(name, &found),
            (Work::End { .. }, _) => self.go_on(name),
            (Work::Asked(request), Doing::Reading) => self.decide(now, name, request, &found),
            (Work::Asked(request), Doing::Holding { ends_at }) => {
                self.held_by(now, name, request, ends_at, &found);
            }
            (Work::Asked(request), Doing::LiningUp) => self.lined_up(now, name, request, &found),
            (Work::Asked(request), Doing::Leaving) => self.left(name, request, &found),
        }
    }

    /// Somebody's key of that name came, was put again, or went.
    pub fn changed(&mut self, name: &[u8]) {
        if let Some((name, _)) = self.waiters.get_key_value(name) {
            self.look_after(Rc::clone(name));
        }
    }

    /// Whether changes matter, and from which on.
    pub fn watches_from(&self) -> Option<Revision> {
        (!self.waiters.is_empty()).then_some(Revision(self.seen.0 + 1))
    }

    /// Some changes may not have been told.
    pub fn missed_some(&mut self, now: Millis) {
        self.look_at = now;
    }

    /// The store has lost what it had, or some of it, and is at that revision: keys that this node was to take away are not those of then.
    pub fn went_back(&mut self, now: Millis, to: Revision) {
        self.seen = to;
        let given: Vec<_> = self.given.keys().cloned().collect();
        for (name, session) in given {
            self.take_back(&name, &session).expect("it is one of them");
        }
        self.missed_some(now);
    }

    fn queue(&mut self, name: Name, work: Work<W>) {
        let empty = || Line { under_way: None, behind: VecDeque::new() };
        let line = self.lines.entry(Rc::clone(&name)).or_insert_with(empty);
        line.behind.push_back(work);
        if line.under_way.is_none() && line.behind.len() == 1 {
            self.ready.push_back(name);
        }
    }

    fn begin(&mut self, name: &Name, work: Work<W>) {
        let step = match &work {
            Work::End { session, changed } => Step::Delete { session: session.clone(), changed: *changed },
            Work::Asked(_) | Work::Look => Step::Read,
        };
        self.take(name, work, Doing::Reading, step);
    }

    fn take(&mut self, name: &Name, work: Work<W>, doing: Doing, step: Step) {
        self.lines.get_mut(name).expect("it has work").under_way = Some((work, doing));
        self.steps.push_back((Rc::clone(name), step));
    }

    /// The work of a name is done: the next one's turn.
    fn go_on(&mut self, name: &Name) {
        if self.lines.get(name).expect("it had work").behind.is_empty() {
            self.lines.remove(name);
        } else {
            self.ready.push_back(Rc::clone(name));
        }
    }

    fn answer(&mut self, request: &Request<W>, said: Said) {
        let key = (request.who.client(), request.number);
        let name = self.asked.remove(&key).expect("each request is answered once");
        self.names_bytes -= name.len();
        self.answers.push((request.who, said));
    }

    fn answer_and_go_on(&mut self, name: &Name, request: &Request<W>, said: Said) {
        self.answer(request, said);
        self.go_on(name);
    }

    /// Others were faster: the request begins anew, before what is behind it, unless it did too often.
    fn retry(&mut self, name: &Name, request: Request<W>) {
        if request.tries == TRIES_MAX {
            return self.answer_and_go_on(name, &request, Said::NoCoordinator);
        }
        let request = Request { tries: request.tries + 1, ..request };
        self.begin(name, Work::Asked(request));
    }

    fn failed(&mut self, now: Millis, name: &Name, work: Work<W>) {
        self.away_until = Millis(now.0 + AWAY_MS);
        let (session, changed) = match work {
            Work::Look => return self.go_on(name),
            Work::End { session, changed } => (session, Some(changed)),
            // It may be done or not. A key that nobody knows of has its lease.
            Work::Asked(request) => {
                self.answer(&request, Said::NoCoordinator);
                (request.ask.session, request.in_line)
            }
        };
        if let Some(changed) = changed
            && !self.given.contains_key(&(Rc::clone(name), session.clone()))
        {
            self.give(name, session, changed, self.away_until);
        }
        self.go_on(name);
    }

    /// What follows from who is there.
    fn decide(&mut self, now: Millis, name: &Name, mut request: Request<W>, found: &Found) {
        self.seen = self.seen.max(found.revision);
        let mine = found.entries.iter().find(|entry| entry.session == request.ask.session);
        if mine.is_some_and(|mine| request.in_line.is_some_and(|changed| changed != mine.changed)) {
            // Another request of the session has put it since, and may have been given the lock: it is not to be taken away.
            request.in_line = None;
        }
        let (first, session, unix) = (found.entries.first(), &request.ask.session, self.unix(now));
        let is_mine = first.is_some_and(|first| first.session == *session);
        match (request.ask.command.verb, first) {
            (LockVerb::Query, Some(first)) => {
                let held = first.held(unix);
                self.answer_and_go_on(name, &request, held);
            }
            (LockVerb::Query | LockVerb::Renew | LockVerb::Release, None) => {
                self.answer_and_go_on(name, &request, Said::Free);
            }
            (LockVerb::Renew | LockVerb::Release, Some(_)) if !is_mine => {
                self.answer_and_go_on(name, &request, Said::NotYours);
            }
            (LockVerb::Release, Some(first)) => {
                let step = Step::Delete { session: session.clone(), changed: first.changed };
                self.take(name, Work::Asked(request), Doing::Leaving, step);
            }
            (LockVerb::Acquire, _) if request.waits_no_more(now) => {
                self.leave(name, &request, taken(first.map_or((0, 0), Entry::first), unix));
            }
            (LockVerb::Acquire, Some(first)) if !is_mine && request.gives_up_at <= now => {
                let taken = taken(first.first(), unix);
                self.answer_and_go_on(name, &request, taken);
            }
            (LockVerb::Acquire | LockVerb::Renew, _) => {
                let holds = is_mine || first.is_none();
                self.put(now, name, request, mine, holds);
            }
        }
    }

    /// Puts the key of one who is to hold the lock, or to wait for it.
    fn put(&mut self, now: Millis, name: &Name, request: Request<W>, mine: Option<&Entry>, holds: bool) {
        let ends_at = if holds { now.after(request.ask.command.ttl_ms) } else { request.gives_up_at };
        // Who lines up must not be holding it by now, by another request.
        let changed = Condition::Changed(mine.map_or(Revision(0), |mine| mine.changed));
        let condition = match mine {
            Some(mine) if holds && request.in_line.is_none() => Condition::Created(mine.created),
            None if holds => Condition::Empty,
            _ => changed,
        };
        let step = Step::Put {
            session: request.ask.session.clone(),
            condition,
            ends_unix_ms: self.unix(ends_at),
            lease_ms: ends_at.0.saturating_sub(now.0) + LEASE_AIR_MS,
            old: mine.and_then(|mine| mine.lease),
            offset: mine.map(|mine| mine.offset),
        };
        let doing = if holds { Doing::Holding { ends_at } } else { Doing::LiningUp };
        self.take(name, Work::Asked(request), doing, step);
    }

    fn held_by(&mut self, now: Millis, name: &Name, mut request: Request<W>, ends_at: Millis, found: &Found) {
        let mine = found.entries.first().filter(|first| first.session == request.ask.session);
        let Some(mine) = mine.filter(|_| found.succeeded) else { return self.retry(name, request) };
        if request.waits_no_more(now) {
            request.in_line = Some(found.revision);
            return self.leave(name, &request, taken(mine.first(), self.unix(now)));
        }
        let session = request.ask.session.clone();
        self.give(name, session.clone(), found.revision, ends_at);
        let left_ms = ends_at.0.saturating_sub(now.0);
        self.answer_and_go_on(name, &request, Said::Held { fence: mine.fence(), left_ms, session });
    }

    fn lined_up(&mut self, now: Millis, name: &Name, mut request: Request<W>, found: &Found) {
        self.seen = self.seen.max(found.revision);
        if !found.succeeded {
            return self.retry(name, request);
        }
        request.in_line = Some(found.revision);
        let first = found.entries.first();
        if first.is_none_or(|first| first.session == request.ask.session) {
            // Everybody else has left meanwhile.
            return self.retry(name, request);
        }
        let (first, unix) = (first.map_or((0, 0), Entry::first), self.unix(now));
        if request.waits_no_more(now) {
            self.leave(name, &request, taken(first, unix));
        } else if self.waiting >= WAITERS_MAX {
            self.leave(name, &request, Said::TooMany);
        } else {
            self.wait(now, name, Waiter { request, first });
            self.go_on(name);
        }
    }

    /// Answers one who has been in the line, and takes its key away.
    fn leave(&mut self, name: &Name, request: &Request<W>, said: Said) {
        self.answer(request, said);
        match request.in_line {
            Some(changed) => {
                let session = request.ask.session.clone();
                self.begin(name, Work::End { session, changed });
            }
            None => self.go_on(name),
        }
    }

    /// Who asks again because its connection was lost keeps its place.
    fn wait(&mut self, now: Millis, name: &Name, waiter: Waiter<W>) {
        if self.waiters.is_empty() {
            self.look_at = Millis(now.0 + LOOK_EVERY_MS);
        }
        self.due.insert(waiter.due(), Ending::Wait(Rc::clone(name)));
        let waiters = self.waiters.entry(Rc::clone(name)).or_default();
        let session = &waiter.request.ask.session;
        match waiters.iter_mut().find(|known| known.request.ask.session == *session) {
            Some(known) => {
                let replaced = std::mem::replace(known, waiter);
                self.due.remove(&replaced.due());
                self.answer(&replaced.request, taken(replaced.first, self.unix(now)));
            }
            None => {
                self.waiting += 1;
                waiters.push_back(waiter);
            }
        }
    }

    /// Who waits and is first, or not in the line any more, asks again.
    fn look(&mut self, name: &Name, found: &Found) {
        self.seen = self.seen.max(found.revision);
        let (first, entries) = (found.entries.first(), &found.entries);
        let is_due = |waiter: &Waiter<W>| {
            let session = &waiter.request.ask.session;
            first.is_none_or(|first| first.session == *session)
                || !entries.iter().any(|entry| entry.session == *session)
        };
        let waiters = self.waiters.remove(name).unwrap_or_default();
        let (due, mut stay): (VecDeque<_>, VecDeque<_>) = waiters.into_iter().partition(is_due);
        if let Some(first) = first {
            stay.iter_mut().for_each(|waiter| waiter.first = first.first());
        }
        if !stay.is_empty() {
            self.waiters.insert(Rc::clone(name), stay);
        }
        self.waiting -= due.len();
        let line = self.lines.get_mut(name).expect("it is being worked on");
        for waiter in due.into_iter().rev() {
            self.due.remove(&waiter.due());
            line.behind.push_front(Work::Asked(Request { tries: 0, ..waiter.request }));
        }
        self.go_on(name);
    }

    fn left(&mut self, name: &Name, request: Request<W>, found: &Found) {
        if !found.succeeded {
            // It was renewed, or its time was over, at this very moment.
            return self.retry(name, request);
        }
        self.take_back(name, &request.ask.session);
        self.answer_and_go_on(name, &request, Said::Released);
    }

    /// Remembers a key that this node is to take away at that time.
    fn give(&mut self, name: &Name, session: Session, changed: Revision, at: Millis) {
        self.take_back(name, &session);
        let due = (at, self.number());
        self.due.insert(due, Ending::Key(Rc::clone(name), session.clone()));
        self.names_bytes += name.len();
        self.given.insert((Rc::clone(name), session), Given { changed, due });
    }

    fn take_back(&mut self, name: &Name, session: &Session) -> Option<Given> {
        let given = self.given.remove(&(Rc::clone(name), session.clone()))?;
        self.due.remove(&given.due);
        self.names_bytes -= name.len();
        Some(given)
    }

    /// A request waits no more, wherever it is; unless it is being given something.
    fn give_up(&mut self, now: Millis, name: &Name, number: u64) {
        if let Some(waiter) = self.take_waiter(name, number) {
            return self.end_wait(now, name, waiter);
        }
        let Some(line) = self.lines.get_mut(name) else { return };
        let all = line.under_way.iter_mut().map(|(work, _)| work).chain(&mut line.behind);
        for work in all {
            match work {
                Work::Asked(request) if request.number == number => request.gives_up_at = Millis(0),
                _ => {}
            }
        }
    }

    fn take_waiter(&mut self, name: &Name, number: u64) -> Option<Waiter<W>> {
        let waiters = self.waiters.get_mut(name)?;
        let at = waiters.iter().position(|waiter| waiter.request.number == number)?;
        let waiter = waiters.remove(at).expect("it was just found");
        if waiters.is_empty() {
            self.waiters.remove(name);
        }
        self.waiting -= 1;
        self.due.remove(&waiter.due());
        Some(waiter)
    }

    fn end_wait(&mut self, now: Millis, name: &Name, waiter: Waiter<W>) {
        let Waiter { request, first } = waiter;
        self.answer(&request, taken(first, self.unix(now)));
        let changed = request.in_line.expect("who waits is in the line");
        self.queue(Rc::clone(name), Work::End { session: request.ask.session, changed });
    }

    /// Ends what is over, and looks after those who wait when it is time.
    fn expire(&mut self, now: Millis) {
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let ((_, number), ending) = entry.remove_entry();
            match ending {
                Ending::Key(name, session) => {
                    let given = self.take_back(&name, &session).expect("what is due is there");
                    self.queue(name, Work::End { session, changed: given.changed });
                }
                Ending::Wait(name) => {
                    let waiter = self.take_waiter(&name, number).expect("who is due waits");
                    self.end_wait(now, &name, waiter);
                }
            }
        }
        if !self.waiters.is_empty() && now >= self.look_at {
            self.look_at = Millis(now.0 + LOOK_EVERY_MS);
            let names: Vec<_> = self.waiters.keys().cloned().collect();
            names.into_iter().for_each(|name| self.look_after(name));
        }
    }

    fn look_after(&mut self, name: Name) {
        let looks = |line: &Line<W>| line.behind.iter().any(|work| matches!(work, Work::Look));
        if !self.lines.get(&name).is_some_and(looks) {
            self.queue(name, Work::Look);
        }
    }

    fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    fn unix(&self, at: Millis) -> u64 {
        self.start_unix_ms.saturating_add(at.0)
    }
}

impl<W> Request<W> {
    /// It was in the line, and its time is over or its client gone.
    fn waits_no_more(&self, now: Millis) -> bool {
        self.in_line.is_some() && self.gives_up_at <= now
    }
}

impl<W> Waiter<W> {
    fn due(&self) -> Due {
        (self.request.gives_up_at, self.request.number)
    }
}

impl Entry {
    /// Whoever comes later has a higher one.
    pub fn fence(&self) -> u64 {
        self.offset.saturating_add(self.created.0)
    }

    fn first(&self) -> First {
        (self.fence(), self.ends_unix_ms)
    }

    fn held(&self, unix: u64) -> Said {
        let left_ms = self.ends_unix_ms.saturating_sub(unix);
        Said::Held { fence: self.fence(), left_ms, session: self.session.clone() }
    }
}

/// Somebody else holds it, or did just now.
fn taken((fence, ends_unix_ms): First, unix: u64) -> Said {
    Said::Taken { fence, left_ms: ends_unix_ms.saturating_sub(unix) }
}

#[cfg(test)]
mod tests;
