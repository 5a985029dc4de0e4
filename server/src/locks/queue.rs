//! Locks that several nodes keep in etcd: a state machine between what clients ask, calls to make, and what comes of them. No I/O, no
//! clock, no threads.
//!
//! ```text
//! /slabring-locks/CLUSTER/NAME/SESSION     one who holds the lock or waits for it: when it ends, in Unix milliseconds
//! ```
//!
//! Of the keys of a name the one that was created first holds the lock, and its create revision is the fence: it rises over all locks, and
//! whoever gets the lock later was created later. Asking again puts the same key and changes nothing of that. Each key lies under a lease: a
//! holder's lasts for the lock's time and a second, one who waits for as long as he waits; the node that gave the lock ends it to the millisecond.
//! What is done for a name is done one by one. A watch says only where to look; without it everything is looked at every two seconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use slabring_cluster::coordinator::etcd::Login;
use slabring_cluster::coordinator::gateway::{
    self, Condition, Granted, KeyValue, LeaseId, LoggedIn, Ranged, Transacted,
};
use slabring_cluster::coordinator::{Answer, Call, CallId, Need, Revision};
use slabring_cluster::names::ClusterId;
use slabring_cluster::time::Micros;
use slabring_protocol::LockVerb;

use super::table::{Ask, Millis, Said};

/// Time for the head of an answer.
const CALL_TIME_MAX: Micros = Micros::from_millis(2_000);
/// A call of which nothing was heard for so long has failed, whoever made it.
const CALL_LOST_MS: u64 = 10_000;
/// Calls at a time, with the watch: the caller makes 32.
const CALLS_MAX: usize = 24;
/// Who may wait at a time at this node.
const WAITERS_MAX: usize = 16 << 10;
/// Requests of one name that wait for the one before.
const LINE_MAX: usize = 1_024;
/// Who waits is looked after this often, whatever the watch says.
const LOOK_EVERY_MS: u64 = 2_000;
/// After a call that failed everything fails at once for so long; a watch that ended waits as long.
const AWAY_MS: u64 = 500;
/// A request begins anew when others were faster, or a token was too old.
const TRIES_MAX: u32 = 8;
const OK: u16 = 200;
const UNAUTHENTICATED: u16 = 401;
/// What etcd answers to a login that it does not ask for.
const LOGIN_NOT_WANTED: &[u8] = b"authentication is not enabled";
/// Bytes of one line of the watch.
const LINE_BYTES_MAX: usize = 1 << 20;

type Name = Box<[u8]>;
type Session = Box<[u8]>;

/// What is to be done for a name.
#[derive(Clone, Debug)]
enum Work<W> {
    /// What a client asked, until then.
    Asked { who: W, ask: Ask, gives_up_at: Millis, tries: u32 },
    /// Somebody who waits may hold it by now.
    Look,
    /// The time of a session's key is over, or nobody wants it any more, unless it was put since.
    End { session: Box<[u8]>, changed: Revision, answer: Option<W> },
}

/// What the call under way of a name is for.
#[derive(Debug)]
enum Step {
    Read,
    Grant { entry: Option<KeyValue>, holds: bool },
    Hold { lease: LeaseId, old: Option<LeaseId>, ends_at: Millis },
    Wait { lease: LeaseId },
    Leave,
}

#[derive(Debug)]
struct Line<W> {
    work: Option<(Work<W>, Step)>,
    behind: VecDeque<Work<W>>,
}

#[derive(Debug)]
struct Waiter<W> {
    who: W,
    ask: Ask,
    gives_up_at: Millis,
    changed: Revision,
    /// Who is first, as far as is known.
    first: (u64, u64),
}

#[derive(Debug)]
enum Purpose {
    Login,
    Watch,
    Revoke,
    Of(Box<[u8]>),
}

/// A key of a name, read.
struct Entry<'a> {
    session: Box<[u8]>,
    ends_unix_ms: u64,
    key: &'a KeyValue,
}

/// See the module. `W` is where an answer goes.
#[derive(Debug)]
pub struct Queue<W> {
    prefix: String,
    login: Option<Login>,
    token: Option<String>,
    /// The time of the last event.
    now: Millis,
    /// Unix milliseconds when time began.
    start_unix_ms: u64,
    calls: u64,
    /// What each call is for, and since when.
    under_way: BTreeMap<CallId, (Purpose, Millis)>,
    lines: BTreeMap<Box<[u8]>, Line<W>>,
    /// Names whose next work waits for a call to end.
    ready: VecDeque<Box<[u8]>>,
    waiters: BTreeMap<Box<[u8]>, Vec<Waiter<W>>>,
    /// Locks that this node gave: when they end, unless they were renewed.
    given: BTreeMap<(Name, Session), (Revision, Millis)>,
    /// Everything up to here was seen.
    seen: Revision,
    watch: Option<CallId>,
    watch_at: Millis,
    line: Vec<u8>,
    look_at: Millis,
    away_until: Millis,
    needs: VecDeque<Need>,
    answers: Vec<(W, Said)>,
}

impl<W: Copy> Queue<W> {
    /// Locks of a cluster.
    pub fn new(cluster: &ClusterId, login: Option<Login>, start_unix_ms: u64) -> Self {
        Self {
            prefix: format!("/slabring-locks/{cluster}/"),
            login,
            token: None,
            now: Millis(0),
            start_unix_ms,
            calls: 0,
            under_way: BTreeMap::new(),
            lines: BTreeMap::new(),
            ready: VecDeque::new(),
            waiters: BTreeMap::new(),
            given: BTreeMap::new(),
            seen: Revision(0),
            watch: None,
            watch_at: Millis(0),
            line: Vec::new(),
            look_at: Millis(0),
            away_until: Millis(0),
            needs: VecDeque::new(),
            answers: Vec::new(),
        }
    }

    /// Does what is asked. The answer comes later.
    pub fn ask(&mut self, now: Millis, who: W, ask: Ask) {
        let gives_up_at = now.after(ask.command.wait_ms);
        let name = ask.name.clone();
        let is_full = self.lines.get(&name).is_some_and(|line| line.behind.len() >= LINE_MAX);
        if is_full {
            return self.answers.push((who, Said::TooMany));
        }
        if now < self.away_until {
            return self.answers.push((who, Said::NoCoordinator));
        }
        self.queue(name, Work::Asked { who, ask, gives_up_at, tries: 0 });
    }

    /// Nobody waits any more at these places. Each is told who holds it: it may be there yet.
    pub fn forget(&mut self, is_gone: impl Fn(W) -> bool) {
        let mut gone = Vec::new();
        for (name, waiters) in &mut self.waiters {
            let (leave, stay) = std::mem::take(waiters).into_iter().partition(|waiter| is_gone(waiter.who));
            *waiters = stay;
            let leave: Vec<Waiter<W>> = leave;
            gone.extend(leave.into_iter().map(|waiter| (name.clone(), waiter)));
        }
        self.waiters.retain(|_, waiters| !waiters.is_empty());
        for (name, waiter) in gone {
            self.answers.push((waiter.who, taken(waiter.first, 0)));
            let Waiter { ask, changed, .. } = waiter;
            self.queue(name, Work::End { session: ask.session, changed, answer: None });
        }
        // Who is not yet in the line is not to enter it.
        for line in self.lines.values_mut() {
            let all = line.behind.iter_mut().chain(line.work.as_mut().map(|(work, _)| work));
            for work in all {
                if let Work::Asked { who, gives_up_at, .. } = work
                    && is_gone(*who)
                {
                    *gives_up_at = Millis(0);
                }
            }
        }
    }

    /// Nobody waits any more.
    pub fn end(&mut self) {
        self.forget(|_| true);
    }

    /// What is to be told, as far as it is known.
    pub fn take_answers(&mut self) -> Vec<(W, Said)> {
        std::mem::take(&mut self.answers)
    }

    /// Locks that this node gave, of which others may have been renewed at another one meanwhile.
    pub fn held(&self) -> usize {
        self.given.len()
    }

    /// Who waits in a line, and is to be told here.
    pub fn waiting(&self) -> usize {
        self.waiters.values().map(Vec::len).sum()
    }

    /// What to do next; `None` until something comes or [`Self::wake_at`] has passed.
    pub fn next(&mut self, now: Millis) -> Option<Need> {
        self.expire(now);
        self.keep_watching(now);
        while self.needs.is_empty() && self.begin(now) {}
        self.needs.pop_front()
    }

    /// When [`Self::next`] has something to do although nothing came.
    pub fn wake_at(&self) -> Millis {
        let given = self.given.values().map(|(_, at)| *at);
        let waiters = self.waiters.values().flatten().map(|waiter| waiter.gives_up_at);
        let looks = (!self.waiters.is_empty()).then_some(self.look_at);
        given.chain(waiters).chain(looks).min().unwrap_or(Millis(u64::MAX))
    }

    /// Something came of a call.
    pub fn answered(&mut self, now: Millis, id: CallId, answer: Answer<'_>) {
        if let (Some((Purpose::Watch, _)), Answer::Chunk(bytes)) = (self.under_way.get(&id), answer) {
            return self.watched(bytes);
        }
        match self.under_way.remove(&id).map(|(purpose, _)| purpose) {
            None | Some(Purpose::Revoke) => {}
            Some(Purpose::Watch) => self.end_watch(now),
            Some(Purpose::Login) => self.logged_in(now, answer),
            Some(Purpose::Of(name)) => self.step(now, name, answer),
        }
    }

    fn queue(&mut self, name: Box<[u8]>, work: Work<W>) {
        let line =
            self.lines.entry(name.clone()).or_insert_with(|| Line { work: None, behind: VecDeque::new() });
        line.behind.push_back(work);
        if line.work.is_none() && line.behind.len() == 1 {
            self.ready.push_back(name);
        }
    }

    /// Begins the next work of a name, if a call can be made. Whether there may be more to begin.
    fn begin(&mut self, now: Millis) -> bool {
        if self.ready.is_empty() || self.under_way.len() >= CALLS_MAX {
            return false;
        }
        if self.login.is_some() && self.token.is_none() {
            self.log_in();
            return false;
        }
        let name = self.ready.pop_front().expect("looked at above");
        let line = self.lines.get_mut(&name).expect("who is ready has a line");
        let work = line.behind.pop_front().expect("who is ready has work");
        if let (Work::Asked { who, .. }, true) = (&work, now < self.away_until) {
            self.answers.push((*who, Said::NoCoordinator));
            self.go_on(name);
            return true;
        }
        self.start(&name, work);
        true
    }

    fn start(&mut self, name: &[u8], work: Work<W>) {
        let queue = self.queue_of(name);
        let (step, path, body) = match &work {
            Work::End { session, changed, .. } => {
                let body = gateway::leave(&queue, &key_of(&queue, session), Condition::Changed(*changed));
                (Step::Leave, gateway::TRANSACTION, body)
            }
            Work::Asked { .. } | Work::Look => (Step::Read, gateway::RANGE, gateway::range(&queue)),
        };
        self.make(name, work, step, path, body);
    }

    fn make(&mut self, name: &[u8], work: Work<W>, step: Step, path: &'static str, body: String) {
        self.lines.get_mut(name).expect("it is being worked on").work = Some((work, step));
        self.call(Purpose::Of(name.into()), path, body);
    }

    fn call(&mut self, purpose: Purpose, path: &'static str, body: String) -> CallId {
        self.calls += 1;
        let id = CallId(self.calls);
        let is_stream = matches!(purpose, Purpose::Watch);
        self.under_way.insert(id, (purpose, self.now));
        let token = self.token.clone().filter(|token| !token.is_empty());
        self.needs.push_back(Need::Call(Call { id, path, body, token, is_stream, timeout: CALL_TIME_MAX }));
        id
    }

    /// The work of a name is done: the next one's turn.
    fn go_on(&mut self, name: Box<[u8]>) {
        let line = self.lines.get_mut(&name).expect("it was worked on");
        line.work = None;
        if line.behind.is_empty() {
            self.lines.remove(&name);
        } else {
            self.ready.push_back(name);
        }
    }

    /// Begins a work anew, before what is behind it.
    fn again(&mut self, name: Box<[u8]>, work: Work<W>) {
        let line = self.lines.get_mut(&name).expect("it was worked on");
        line.work = None;
        line.behind.push_front(work);
        self.ready.push_front(name);
    }

    fn step(&mut self, now: Millis, name: Box<[u8]>, answer: Answer<'_>) {
        let line = self.lines.get_mut(&name).expect("a call of a name has a line");
        let (work, step) = line.work.take().expect("a call of a name has work");
        let body = match answer {
            Answer::Reply { status: OK, body } => body,
            Answer::Reply { status: UNAUTHENTICATED, .. } => {
                self.token = None;
                return self.retry(name, work);
            }
            Answer::Reply { .. } | Answer::Chunk(_) | Answer::Failed => return self.failed(now, name, work),
        };
        let is_understood = match step {
            Step::Read => {
                gateway::read_answer(body).map(|read: Ranged| self.have_read(now, &name, work.clone(), &read))
            }
            Step::Grant { entry, holds } => gateway::read_answer(body).map(|granted: Granted| {
                self.granted(now, &name, work.clone(), entry, holds, LeaseId(granted.id));
            }),
            Step::Hold { lease, old, ends_at } => gateway::read_answer(body)
                .map(|put: Transacted| self.now_held(now, &name, work.clone(), &put, lease, old, ends_at)),
            Step::Wait { lease } => gateway::read_answer(body)
                .map(|put: Transacted| self.entered(now, &name, work.clone(), &put, lease)),
            Step::Leave => gateway::read_answer(body).map(|left: Transacted| self.left(&name, &work, &left)),
        };
        if is_understood.is_none() {
            self.failed(now, name, work);
        }
    }

    /// The work begins anew, unless it did too often.
    fn retry(&mut self, name: Box<[u8]>, work: Work<W>) {
        match work {
            Work::Asked { who, tries: TRIES_MAX, .. } => {
                self.answers.push((who, Said::NoCoordinator));
                self.go_on(name);
            }
            Work::Asked { who, ask, gives_up_at, tries } => {
                self.again(name, Work::Asked { who, ask, gives_up_at, tries: tries + 1 });
            }
            // It is looked at again before long; what should end has its lease.
            Work::Look | Work::End { .. } => self.go_on(name),
        }
    }

    /// No answer that says anything: what was asked may be done or not.
    fn failed(&mut self, now: Millis, name: Box<[u8]>, work: Work<W>) {
        self.away_until = Millis(now.0 + AWAY_MS);
        match work {
            Work::Asked { who, .. } | Work::End { answer: Some(who), .. } => {
                self.answers.push((who, Said::NoCoordinator));
            }
            Work::End { session, changed, answer: None } => {
                self.given.insert((name.clone(), session), (changed, self.away_until));
            }
            Work::Look => {}
        }
        self.go_on(name);
    }

    fn have_read(&mut self, now: Millis, name: &[u8], work: Work<W>, read: &Ranged) {
        self.seen = self.seen.max(Revision(read.header.revision));
        let entries = self.entries(name, &read.keys);
        self.decide(now, name, work, &entries);
    }

    /// What follows from who is there, first come first.
    fn decide(&mut self, now: Millis, name: &[u8], work: Work<W>, entries: &[Entry<'_>]) {
        match work {
            Work::Asked { who, ask, gives_up_at, tries } => {
                self.decide_asked(now, name, (who, ask, gives_up_at, tries), entries);
            }
            Work::Look => {
                self.look(name, entries);
                self.go_on(name.into());
            }
            Work::End { .. } => unreachable!("it reads nothing first"),
        }
    }

    fn decide_asked(
        &mut self,
        now: Millis,
        name: &[u8],
        (who, ask, gives_up_at, tries): (W, Ask, Millis, u32),
        entries: &[Entry<'_>],
    ) {
        let first = entries.first();
        let mine = entries.iter().find(|entry| entry.session == ask.session);
        let is_mine = first.is_some_and(|first| first.session == ask.session);
        let unix = self.unix(now);
        let said = match (ask.command.verb, first) {
            (LockVerb::Query, Some(first)) => first.held(unix),
            (LockVerb::Renew | LockVerb::Release, Some(_)) if !is_mine => Said::NotYours,
            (LockVerb::Query | LockVerb::Renew | LockVerb::Release, None) => Said::Free,
            (LockVerb::Acquire, Some(first)) if !is_mine && gives_up_at <= now => taken(first.known(), unix),
            (LockVerb::Release, Some(first)) => {
                let (session, changed) = (ask.session, Revision(first.key.mod_revision));
                let work = Work::End { session, changed, answer: Some(who) };
                return self.start(name, work);
            }
            (LockVerb::Acquire | LockVerb::Renew, _) => {
                let holds = is_mine || first.is_none();
                let ms =
                    if holds { u64::from(ask.command.ttl_ms) } else { gives_up_at.0.saturating_sub(now.0) };
                let step = Step::Grant { entry: mine.map(|mine| mine.key.clone()), holds };
                let work = Work::Asked { who, ask, gives_up_at, tries };
                let body = gateway::grant(ms.div_ceil(1_000) + 1);
                return self.make(name, work, step, gateway::GRANT, body);
            }
        };
        self.answers.push((who, said));
        self.go_on(name.into());
    }

    fn granted(
        &mut self,
        now: Millis,
        name: &[u8],
        work: Work<W>,
        entry: Option<KeyValue>,
        holds: bool,
        lease: LeaseId,
    ) {
        let Work::Asked { ask, gives_up_at, .. } = &work else { unreachable!("only who asks gets a lease") };
        let queue = self.queue_of(name);
        let key = key_of(&queue, &ask.session);
        let ends_at = if holds { now.after(ask.command.ttl_ms) } else { *gives_up_at };
        let condition = match (&entry, holds) {
            (Some(entry), true) => Condition::Created(Revision(entry.create_revision)),
            (None, true) => Condition::Empty,
            (_, false) => Condition::Any,
        };
        let old = entry.map(|entry| LeaseId(entry.lease)).filter(|old| old.0 != 0);
        let step = if holds { Step::Hold { lease, old, ends_at } } else { Step::Wait { lease } };
        let value = self.unix(ends_at).to_string();
        let body = gateway::enter(&queue, &key, &value, lease, condition);
        self.make(name, work, step, gateway::TRANSACTION, body);
    }

    #[expect(clippy::too_many_arguments, reason = "what a step knows")]
    fn now_held(
        &mut self,
        now: Millis,
        name: &[u8],
        work: Work<W>,
        put: &Transacted,
        lease: LeaseId,
        old: Option<LeaseId>,
        ends_at: Millis,
    ) {
        let unneeded = if put.succeeded { old } else { Some(lease) };
        unneeded.into_iter().for_each(|lease| self.revoke(lease));
        if !put.succeeded {
            return self.retry(name.into(), work);
        }
        let Work::Asked { who, ask, .. } = work else { unreachable!("only who asks holds") };
        let changed = Revision(put.header.revision);
        let keys = put.ranged().map_or(&[][..], |read| &read.keys[..]);
        let fence = keys.iter().map(|key| key.create_revision).min().unwrap_or(changed.0);
        let left_ms = ends_at.0.saturating_sub(now.0);
        self.given.insert((name.into(), ask.session.clone()), (changed, ends_at));
        self.answers.push((who, Said::Held { fence, left_ms, session: ask.session }));
        self.go_on(name.into());
    }

    fn entered(&mut self, now: Millis, name: &[u8], work: Work<W>, put: &Transacted, lease: LeaseId) {
        let Work::Asked { who, ask, gives_up_at, tries } = work else { unreachable!("only who asks waits") };
        self.seen = self.seen.max(Revision(put.header.revision));
        let keys = put.ranged().map_or(&[][..], |read| &read.keys[..]);
        let entries = self.entries(name, keys);
        let first = entries.first().map(Entry::known);
        let is_first = entries.first().is_none_or(|first| first.session == ask.session);
        let waiting = self.waiting();
        if is_first {
            // Everybody else left meanwhile.
            return self.retry(name.into(), Work::Asked { who, ask, gives_up_at, tries });
        }
        if waiting >= WAITERS_MAX || gives_up_at <= now {
            self.revoke(lease);
            let said = if gives_up_at <= now {
                taken(first.unwrap_or_default(), self.unix(now))
            } else {
                Said::TooMany
            };
            self.answers.push((who, said));
            return self.go_on(name.into());
        }
        let changed = Revision(put.header.revision);
        let waiter = Waiter { who, ask, gives_up_at, changed, first: first.unwrap_or_default() };
        self.line_up(now, name, waiter);
        self.go_on(name.into());
    }

    /// Who asks again because its connection was lost keeps its place.
    fn line_up(&mut self, now: Millis, name: &[u8], waiter: Waiter<W>) {
        let unix = self.unix(now);
        if self.waiters.is_empty() {
            self.look_at = Millis(now.0 + LOOK_EVERY_MS);
        }
        let waiters = self.waiters.entry(name.into()).or_default();
        match waiters.iter_mut().find(|known| known.ask.session == waiter.ask.session) {
            Some(known) => {
                let replaced = std::mem::replace(known, waiter);
                self.answers.push((replaced.who, taken(replaced.first, unix)));
            }
            None => waiters.push(waiter),
        }
    }

    /// Who waits and is first, or not in the line any more, asks again.
    fn look(&mut self, name: &[u8], entries: &[Entry<'_>]) {
        let Some(waiters) = self.waiters.get_mut(name) else { return };
        let first = entries.first();
        let is_due = |waiter: &Waiter<W>| {
            let is_first = first.is_some_and(|first| first.session == waiter.ask.session);
            is_first || !entries.iter().any(|entry| entry.session == waiter.ask.session)
        };
        let (due, stay): (Vec<_>, Vec<_>) = std::mem::take(waiters).into_iter().partition(is_due);
        *waiters = stay;
        if let Some(first) = first {
            waiters.iter_mut().for_each(|waiter| waiter.first = first.known());
        }
        if waiters.is_empty() {
            self.waiters.remove(name);
        }
        for Waiter { who, ask, gives_up_at, .. } in due {
            let line = self.lines.get_mut(name).expect("it is being worked on");
            line.behind.push_front(Work::Asked { who, ask, gives_up_at, tries: 0 });
        }
    }

    fn left(&mut self, name: &[u8], work: &Work<W>, left: &Transacted) {
        let Work::End { session, answer, .. } = work else { unreachable!("only an end leaves") };
        if left.succeeded {
            self.given.remove(&(name.into(), session.clone()));
        }
        if let Some(who) = answer {
            // It was renewed, or its time was over, at this very moment.
            self.answers.push((*who, if left.succeeded { Said::Released } else { Said::NotYours }));
        }
        self.go_on(name.into());
    }

    /// Ends what is over.
    fn expire(&mut self, now: Millis) {
        self.now = now;
        let is_lost = |(purpose, since): &(Purpose, Millis)| {
            !matches!(purpose, Purpose::Watch) && now.0 >= since.0 + CALL_LOST_MS
        };
        let lost: Vec<_> =
            self.under_way.iter().filter(|(_, call)| is_lost(call)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.answered(now, id, Answer::Failed));
        let over: Vec<_> =
            self.given.iter().filter(|(_, (_, at))| *at <= now).map(|(key, _)| key.clone()).collect();
        for key in over {
            let (changed, _) = self.given.remove(&key).expect("it was there");
            let (name, session) = key;
            self.queue(name, Work::End { session, changed, answer: None });
        }
        let unix = self.unix(now);
        let mut over = Vec::new();
        for (name, waiters) in &mut self.waiters {
            let is_over = |waiter: &Waiter<W>| waiter.gives_up_at <= now;
            let (leave, stay) = std::mem::take(waiters).into_iter().partition(is_over);
            *waiters = stay;
            let leave: Vec<Waiter<W>> = leave;
            over.extend(leave.into_iter().map(|waiter| (name.clone(), waiter)));
        }
        self.waiters.retain(|_, waiters| !waiters.is_empty());
        for (name, Waiter { who, ask, changed, first, .. }) in over {
            self.answers.push((who, taken(first, unix)));
            self.queue(name, Work::End { session: ask.session, changed, answer: None });
        }
        if !self.waiters.is_empty() && now >= self.look_at {
            self.look_at = Millis(now.0 + LOOK_EVERY_MS);
            let names: Vec<_> = self.waiters.keys().cloned().collect();
            names.into_iter().for_each(|name| self.look_after(name));
        }
    }

    fn look_after(&mut self, name: Box<[u8]>) {
        let looks = |line: &Line<W>| line.behind.iter().any(|work| matches!(work, Work::Look));
        if !self.lines.get(&name).is_some_and(looks) {
            self.queue(name, Work::Look);
        }
    }

    fn keep_watching(&mut self, now: Millis) {
        match self.watch {
            Some(id) if self.waiters.is_empty() => {
                self.under_way.remove(&id);
                self.watch = None;
                self.line.clear();
                self.needs.push_back(Need::Cancel(id));
            }
            None if !self.waiters.is_empty() && now >= self.watch_at => {
                let body = gateway::watch(&self.prefix, Revision(self.seen.0 + 1));
                self.watch = Some(self.call(Purpose::Watch, gateway::WATCH, body));
            }
            _ => {}
        }
    }

    fn end_watch(&mut self, now: Millis) {
        self.watch = None;
        self.line.clear();
        self.watch_at = Millis(now.0 + AWAY_MS);
        self.look_at = now;
    }

    /// Some bytes of the watch: names to look at.
    fn watched(&mut self, bytes: &[u8]) {
        self.line.extend_from_slice(bytes);
        let mut line = std::mem::take(&mut self.line);
        let mut start = 0;
        let mut names = BTreeSet::new();
        while let Some(length) = line[start..].iter().position(|&byte| byte == b'\n') {
            if let Some(watched) = gateway::read_watched(&line[start..start + length]) {
                names.extend(watched.events.iter().filter_map(|event| self.name_of(&event.kv.key)));
            }
            start += length + 1;
        }
        line.drain(..start);
        // A line that is longer is none of ours: everything is looked at before long.
        line.truncate(LINE_BYTES_MAX);
        self.line = line;
        for name in names {
            if self.waiters.contains_key(&name) {
                self.look_after(name);
            }
        }
    }

    fn log_in(&mut self) {
        let is_asked = self.under_way.values().any(|(purpose, _)| matches!(purpose, Purpose::Login));
        if let (Some(Login { name, password }), false) = (&self.login, is_asked) {
            let body = gateway::login(name, password);
            self.call(Purpose::Login, gateway::LOGIN, body);
        }
    }

    fn logged_in(&mut self, now: Millis, answer: Answer<'_>) {
        let says = |body: &[u8]| body.windows(LOGIN_NOT_WANTED.len()).any(|said| said == LOGIN_NOT_WANTED);
        self.token = match answer {
            Answer::Reply { status: OK, body } => {
                gateway::read_answer::<LoggedIn>(body).map(|said| said.token)
            }
            Answer::Reply { body, .. } if says(body) => Some(String::new()),
            Answer::Reply { .. } | Answer::Chunk(_) | Answer::Failed => None,
        };
        if self.token.is_some() {
            return;
        }
        self.away_until = Millis(now.0 + AWAY_MS);
        while let Some(name) = self.ready.pop_front() {
            let line = self.lines.get_mut(&name).expect("who is ready has a line");
            let work = line.behind.pop_front().expect("who is ready has work");
            self.failed(now, name, work);
        }
    }

    fn revoke(&mut self, lease: LeaseId) {
        self.call(Purpose::Revoke, gateway::REVOKE, gateway::revoke(lease));
    }

    fn unix(&self, at: Millis) -> u64 {
        self.start_unix_ms.saturating_add(at.0)
    }

    fn queue_of(&self, name: &[u8]) -> String {
        format!("{}{}/", self.prefix, escaped(name))
    }

    /// Who is there for a name, first come first. What is not ours is left out.
    fn entries<'a>(&self, name: &[u8], keys: &'a [KeyValue]) -> Vec<Entry<'a>> {
        let queue = self.queue_of(name);
        let entry = |key: &'a KeyValue| {
            let session = unescaped(key.key.strip_prefix(queue.as_bytes())?)?;
            let ends_unix_ms = std::str::from_utf8(&key.value).ok()?.parse().ok()?;
            Some(Entry { session, ends_unix_ms, key })
        };
        let mut entries: Vec<_> = keys.iter().filter_map(entry).collect();
        entries.sort_by_key(|entry| entry.key.create_revision);
        entries
    }

    fn name_of(&self, key: &[u8]) -> Option<Box<[u8]>> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?;
        unescaped(&rest[..rest.iter().position(|&byte| byte == b'/')?])
    }
}

impl Entry<'_> {
    fn known(&self) -> (u64, u64) {
        (self.key.create_revision, self.ends_unix_ms)
    }

    fn held(&self, unix: u64) -> Said {
        let left_ms = self.ends_unix_ms.saturating_sub(unix);
        Said::Held { fence: self.key.create_revision, left_ms, session: self.session.clone() }
    }
}

/// Somebody else holds it, under that fence and until that Unix millisecond.
fn taken((fence, ends_unix_ms): (u64, u64), unix: u64) -> Said {
    let left_ms = if unix == 0 { 0 } else { ends_unix_ms.saturating_sub(unix) };
    Said::Taken { fence, left_ms }
}

fn key_of(queue: &str, session: &[u8]) -> String {
    format!("{queue}{}", escaped(session))
}

/// Names as parts of a key: letters and digits as they are, other bytes as `%` and two digits.
fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'.' | b':' | b'_' | b'-' => {
                text.push(char::from(byte));
            }
            _ => write!(text, "%{byte:02x}").expect("a String takes everything"),
        }
    }
    text
}

fn unescaped(text: &[u8]) -> Option<Box<[u8]>> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        if byte != b'%' {
            name.push(byte);
            rest = behind;
            continue;
        }
        let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
        name.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &behind[2..];
    }
    Some(name.into())
}
