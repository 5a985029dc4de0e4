//! Takes the steps of locks in etcd: which calls a step is made of, logging in, and the watch that says where to look. No I/O, no clock, no
//! threads: calls to make go out, what comes of them comes in.
//!
//! ```text
//! /slabring-locks/CLUSTER/NAME/SESSION     one who holds the lock or waits for it: when it ends, in Unix milliseconds, and its fence's offset
//! /slabring-locks/CLUSTER/fences           the offset for who comes next: see `offset.rs`
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::rc::Rc;

use slabring_cluster::coordinator::etcd::Login;
use slabring_cluster::coordinator::gateway::{
    self, Beside, Condition, Granted, KeyValue, LeaseId, LoggedIn, Transacted,
};
use slabring_cluster::coordinator::{Answer, Call, CallId, Need, Revision};
use slabring_cluster::names::ClusterId;
use slabring_cluster::time::Micros;

use super::offset::Offset;
use super::queue::{Entry, Found, Name, Session, Step};
use super::table::Millis;

/// Time for the head of an answer.
const CALL_TIME_MAX: Micros = Micros::from_millis(2_000);
/// A call of which nothing was heard for so long has failed, whoever made it.
const CALL_LOST_MS: u64 = 10_000;
/// Steps at a time. With the watch, a login and leases that are ended the caller makes no more than it can, 32.
const STEPS_MAX: usize = 24;
/// A watch that ended begins again after so long.
const PAUSE_MS: u64 = 500;
/// One that was refused, for want of a token or a permission, after so long: its connection lives on for a while.
const REFUSED_PAUSE_MS: u64 = 5_000;
/// After a login that was refused every step fails at once for so long: another would be refused too, and etcd takes its time for each.
const LOGIN_PAUSE_MS: u64 = 1_000;
const OK: u16 = 200;
/// Bytes of one line of the watch.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Of a step; `None`: nobody knows whether it was taken.
    Came(Name, Option<Found>),
    /// A key of that name was put or went.
    Changed(Name),
    /// The watch has ended: there may be changes that nobody told.
    MissedSome,
    /// etcd has lost some revisions, or all: it is at this one.
    WentBack(Revision),
}

/// A step under way.
#[derive(Debug)]
struct Errand {
    name: Name,
    step: Step,
    /// The lease for what it puts, as soon as there is one.
    lease: Option<LeaseId>,
    /// The token was too old once.
    is_second_try: bool,
    /// What was known when it was asked last.
    asked_after: Revision,
}

#[derive(Debug)]
enum Purpose {
    Login,
    Watch,
    Revoke,
    Grant(Errand),
    Take(Errand),
}

/// See the module.
#[derive(Debug)]
pub struct Etcd {
    prefix: String,
    /// The key of the offset.
    offset_key: String,
    offset: Offset,
    /// Unix milliseconds when time began.
    start_unix_ms: u64,
    login: Option<Login>,
    /// What calls are made with; empty where etcd wants nothing.
    token: Option<String>,
    /// The next login is not made before.
    login_at: Millis,
    /// What each call is for, and since when.
    under_way: BTreeMap<CallId, (Purpose, Millis)>,
    calls: u64,
    /// Steps that wait for a token.
    waiting: VecDeque<Errand>,
    watch: Option<CallId>,
    watch_at: Millis,
    /// The beginning of the watch's next line.
    line: Vec<u8>,
    needs: VecDeque<Need>,
    heard: VecDeque<Heard>,
}

impl Etcd {
    /// The locks of a cluster; `start_unix_ms` is the Unix time at which time began here.
    pub fn new(cluster: &ClusterId, login: Option<Login>, start_unix_ms: u64) -> Self {
        Self {
            prefix: format!("/slabring-locks/{cluster}/"),
            offset_key: format!("/slabring-locks/{cluster}/fences"),
            offset: Offset::default(),
            start_unix_ms,
            login,
            token: None,
            login_at: Millis(0),
            under_way: BTreeMap::new(),
            calls: 0,
            waiting: VecDeque::new(),
            watch: None,
            watch_at: Millis(0),
            line: Vec::new(),
            needs: VecDeque::new(),
            heard: VecDeque::new(),
        }
    }

    /// Whether another step can be taken.
    pub fn has_room(&self) -> bool {
        self.under_way.len() + self.waiting.len() < STEPS_MAX
    }

    /// Takes a step. What comes of it is [`heard`](Self::heard).
    pub fn take(&mut self, now: Millis, name: Name, step: Step) {
        let asked_after = self.offset.revision();
        self.send(now, Errand { name, step, lease: None, is_second_try: false, asked_after });
    }

    /// Watches all names from a revision on, or none.
    pub fn watch(&mut self, now: Millis, from: Option<Revision>) {
        match (self.watch, from) {
            (Some(id), None) => {
                self.under_way.remove(&id);
                self.stop_watching();
                self.needs.push_back(Need::Cancel(id));
            }
            (None, Some(from)) if now >= self.watch_at && self.may_call() => {
                let body = gateway::watch(&self.prefix, from);
                self.watch = Some(self.call(now, Purpose::Watch, gateway::WATCH, body));
            }
            _ => {}
        }
    }

    /// What to do next.
    pub fn next(&mut self) -> Option<Need> {
        self.needs.pop_front()
    }

    /// What has come.
    pub fn heard(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    /// Gives up calls of which nothing was heard for long.
    pub fn expire(&mut self, now: Millis) {
        let is_lost = |(purpose, since): &(Purpose, Millis)| {
            !matches!(purpose, Purpose::Watch) && now.0 >= since.0 + CALL_LOST_MS
        };
        let lost = self.under_way.iter().filter(|(_, call)| is_lost(call));
        let lost: Vec<_> = lost.map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.answered(now, id, Answer::Failed));
    }

    /// Something came of a call.
    pub fn answered(&mut self, now: Millis, id: CallId, answer: Answer<'_>) {
        if let (true, Answer::Chunk(bytes)) = (self.watch == Some(id), answer) {
            return self.watched(now, id, bytes);
        }
        match self.under_way.remove(&id).map(|(purpose, _)| purpose) {
            None | Some(Purpose::Revoke) => {}
            Some(Purpose::Watch) => self.end_watch(now, PAUSE_MS),
            Some(Purpose::Login) => self.logged_in(now, answer),
            Some(Purpose::Grant(errand)) => self.granted(now, errand, answer),
            Some(Purpose::Take(errand)) => self.taken(now, errand, answer),
        }
    }

    /// Whether calls can be made, or etcd wants a login before.
    fn may_call(&self) -> bool {
        self.login.is_none() || self.token.is_some()
    }

    fn send(&mut self, now: Millis, errand: Errand) {
        let errand = Errand { asked_after: self.offset.revision(), ..errand };
        if !self.may_call() && now < self.login_at {
            return self.came(errand, None);
        }
        if !self.may_call() {
            self.waiting.push_back(errand);
            return self.log_in(now);
        }
        let queue = self.queue_of(&errand.name);
        let (path, body) = match &errand.step {
            Step::Read => (gateway::TRANSACTION, gateway::look(&queue, &self.offset_key)),
            Step::Delete { session, changed } => {
                let condition = Condition::Changed(*changed);
                (gateway::TRANSACTION, gateway::leave(&queue, &key_of(&queue, session), condition))
            }
            Step::Put { session, condition, ends_unix_ms, lease_ms, offset, .. } => {
                let Some(lease) = errand.lease else {
                    let body = gateway::grant(lease_ms.div_ceil(1_000));
                    self.call(now, Purpose::Grant(errand), gateway::GRANT, body);
                    return;
                };
                let next = self.offset.next(self.start_unix_ms.saturating_add(now.0));
                let raised = (offset.is_none() && next.is_raised).then(|| next.offset.to_string());
                let beside = Beside { key: &self.offset_key, known: next.known, value: raised.as_deref() };
                let value = format!("{ends_unix_ms} {}", offset.unwrap_or(next.offset));
                let key = key_of(&queue, session);
                (gateway::TRANSACTION, gateway::enter(&queue, &key, &value, lease, *condition, beside))
            }
        };
        self.call(now, Purpose::Take(errand), path, body);
    }

    fn call(&mut self, now: Millis, purpose: Purpose, path: &'static str, body: String) -> CallId {
        self.calls += 1;
        let id = CallId(self.calls);
        let is_stream = matches!(purpose, Purpose::Watch);
        self.under_way.insert(id, (purpose, now));
        let token = self.token.clone().filter(|token| !token.is_empty());
        self.needs.push_back(Need::Call(Call { id, path, body, token, is_stream, timeout: CALL_TIME_MAX }));
        id
    }

    fn granted(&mut self, now: Millis, errand: Errand, answer: Answer<'_>) {
        let Some((errand, body)) = self.body_of(now, errand, answer) else { return };
        match gateway::read_answer::<Granted>(body) {
            Some(granted) => self.send(now, Errand { lease: Some(LeaseId(granted.id)), ..errand }),
            None => self.came(errand, None),
        }
    }

    fn taken(&mut self, now: Millis, errand: Errand, answer: Answer<'_>) {
        let Some((errand, body)) = self.body_of(now, errand, answer) else { return };
        let found = gateway::read_answer(body).and_then(|done| self.found(now, &errand, &done));
        if let (Some(found), Step::Put { old, .. }) = (&found, &errand.step) {
            // Nothing lies under the other one any more.
            let unneeded = if found.succeeded { *old } else { errand.lease };
            unneeded.into_iter().for_each(|lease| self.revoke(now, lease));
        }
        self.came(errand, found);
    }

    /// What a transaction says; `None` where it says nothing of what it was to read.
    fn found(&mut self, now: Millis, errand: &Errand, done: &Transacted) -> Option<Found> {
        let revision = Revision(done.header.revision);
        let is_read = errand.step == Step::Read;
        let mut found = Found { succeeded: done.succeeded || is_read, revision, entries: Vec::new() };
        if !matches!(errand.step, Step::Delete { .. }) {
            let beside = done.reads().nth(1)?;
            if !self.offset.read(errand.asked_after, revision, beside.map(|key| &key.value[..])) {
                self.go_back(now, revision);
            }
            found.entries = self.entries(&errand.name, &done.ranged()?.keys);
        }
        Some(found)
    }

    /// The watch would wait for revisions that may never come.
    fn go_back(&mut self, now: Millis, revision: Revision) {
        if let Some(id) = self.watch {
            self.under_way.remove(&id);
            self.needs.push_back(Need::Cancel(id));
            self.end_watch(now, PAUSE_MS);
        }
        self.heard.push_back(Heard::WentBack(revision));
    }

    /// The body of a good answer; otherwise the errand is tried again, or nobody knows what came of it.
    fn body_of<'a>(&mut self, now: Millis, errand: Errand, answer: Answer<'a>) -> Option<(Errand, &'a [u8])> {
        match answer {
            Answer::Reply { status: OK, body } => return Some((errand, body)),
            Answer::Reply { status, body }
                if gateway::is_token_refused(status, body) && !errand.is_second_try =>
            {
                self.token = None;
                self.send(now, Errand { is_second_try: true, ..errand });
            }
            Answer::Reply { .. } | Answer::Chunk(_) | Answer::Failed => self.came(errand, None),
        }
        None
    }

    fn came(&mut self, errand: Errand, found: Option<Found>) {
        self.heard.push_back(Heard::Came(errand.name, found));
    }

    fn revoke(&mut self, now: Millis, lease: LeaseId) {
        self.call(now, Purpose::Revoke, gateway::REVOKE, gateway::revoke(lease));
    }

    fn log_in(&mut self, now: Millis) {
        let is_asked = self.under_way.values().any(|(purpose, _)| matches!(purpose, Purpose::Login));
        if let (Some(Login { name, password }), false) = (&self.login, is_asked) {
            let body = gateway::login(name, password);
            self.call(now, Purpose::Login, gateway::LOGIN, body);
        }
    }

    fn logged_in(&mut self, now: Millis, answer: Answer<'_>) {
        self.token = match answer {
            Answer::Reply { status: OK, body } => {
                self.watch_at = self.watch_at.min(now);
                gateway::read_answer::<LoggedIn>(body).map(|said| said.token)
            }
            Answer::Reply { body, .. } if gateway::is_login_unwanted(body) => Some(String::new()),
            Answer::Reply { .. } => {
                self.login_at = Millis(now.0 + LOGIN_PAUSE_MS);
                None
            }
            Answer::Chunk(_) | Answer::Failed => None,
        };
        for errand in std::mem::take(&mut self.waiting) {
            match self.token {
                Some(_) => self.send(now, errand),
                None => self.came(errand, None),
            }
        }
    }

    fn stop_watching(&mut self) {
        self.watch = None;
        self.line = Vec::new();
    }

    fn end_watch(&mut self, now: Millis, pause_ms: u64) {
        self.stop_watching();
        // It may have been the token: the next step asks for another.
        self.watch_at = Millis(now.0 + pause_ms);
        self.heard.push_back(Heard::MissedSome);
    }

    /// Some bytes of the watch: names to look at.
    fn watched(&mut self, now: Millis, id: CallId, bytes: &[u8]) {
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(bytes);
        let mut names = BTreeSet::new();
        let (mut is_over, mut is_refused) = (false, false);
        let complete = line.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        for watched in line[..complete].split(|&byte| byte == b'\n').filter_map(gateway::read_watched) {
            is_over |= watched.canceled;
            is_refused |= watched.canceled && watched.compact_revision == 0;
            names.extend(watched.events.iter().filter_map(|event| self.name_of(&event.kv.key)));
        }
        line.drain(..complete);
        self.heard.extend(names.into_iter().map(Heard::Changed));
        // What it should begin with is gone, or its line is none of ours: everything is looked at, and watched from there on.
        if is_over || line.len() > LINE_BYTES_MAX {
            self.under_way.remove(&id);
            self.needs.push_back(Need::Cancel(id));
            return self.end_watch(now, if is_refused { REFUSED_PAUSE_MS } else { PAUSE_MS });
        }
        self.line = line;
    }

    fn queue_of(&self, name: &[u8]) -> String {
        format!("{}{}/", self.prefix, escaped(name))
    }

    /// Who is there for a name, first come first. What is not ours is left out.
    fn entries(&self, name: &[u8], keys: &[KeyValue]) -> Vec<Entry> {
        let queue = self.queue_of(name);
        let mut entries: Vec<_> = keys.iter().filter_map(|key| entry_of(&queue, key)).collect();
        entries.sort_by_key(|entry| entry.created);
        entries
    }

    fn name_of(&self, key: &[u8]) -> Option<Name> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?;
        unescaped(&rest[..rest.iter().position(|&byte| byte == b'/')?]).map(Rc::from)
    }
}

fn entry_of(queue: &str, key: &KeyValue) -> Option<Entry> {
    let session: Session = unescaped(key.key.strip_prefix(queue.as_bytes())?)?.into();
    let value = std::str::from_utf8(&key.value).ok()?;
    // A key without an offset was put by a build that had none.
    let (ends, offset) = value.split_once(' ').unwrap_or((value, "0"));
    let (ends_unix_ms, offset) = (ends.parse().ok()?, offset.parse().ok()?);
    let (created, changed) = (Revision(key.create_revision), Revision(key.mod_revision));
    let lease = Some(LeaseId(key.lease)).filter(|lease| lease.0 != 0);
    Some(Entry { session, created, offset, changed, ends_unix_ms, lease })
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

fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
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
    Some(name)
}

#[cfg(test)]
mod tests;
