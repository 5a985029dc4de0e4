//! etcd as coordinator: this node's lease, what the cluster's keys say, and the writes. Which call comes next and
//! what an answer means; never a connection.
//!
//! ```text
//! /slabring/CLUSTER/ring             the ring document
//! /slabring/CLUSTER/leader           the conductor's name, under its lease; put at its fence
//! /slabring/CLUSTER/node/NODE        what a node says of itself, under its lease
//! /slabring/CLUSTER/report/NODE      what it says of copies and of others, under its lease
//! /slabring/CLUSTER/wish/NODE        what the operator wishes for a node
//! ```
//!
//! A lease is a hint that a node lives, never a lock, and the leader's key may be another's before its lease ends: what makes writes
//! safe is that each one names the revision it replaces and that of the leader's key. Everything is read anew from time to
//! time, so a watch only makes news faster: one that ends, doubles, reorders or loses events costs time, not truth.

use std::collections::{BTreeMap, VecDeque};

use super::gateway::{self, Granted, KeyValue, LeaseId, LoggedIn, Office, Ranged, Transacted};
use super::{Answer, Call, CallId, Coordinator, Fence, Leader, Need, NodeDescription, Order, Revision, View};
use crate::names::ClusterId;
use crate::report::Report;
use crate::safeguard::{self, Safeguard};
use crate::time::Micros;

mod known;

pub use known::leader;
use known::{Change, Known};

/// Seconds for which a node that is not heard of counts as alive.
pub const LEASE_SECONDS: u64 = 5;

/// Time for the head of an answer.
const CALL_TIME_MAX: Micros = Micros::from_millis(2_000);

/// The lease is kept this often.
const KEEP_EVERY: Micros = Micros::from_millis(LEASE_SECONDS * 1_000 / 4);

/// All keys are read this often, whatever the watch says; by the conductor more often, who removes nobody before.
const READ_EVERY: Micros = Micros::from_millis(5_000);
const CONDUCTOR_READS_EVERY: Micros = Micros::from_millis(1_000);

/// Pause after a call that failed; a watch that ended waits as long.
const RETRY_AFTER: Micros = Micros::from_millis(500);

/// Pause after a login that was refused.
const LOGIN_AGAIN_AFTER: Micros = Micros::from_millis(5_000);

/// Pause after a watch that was refused, for want of a token or a permission: its connection lives on for a while.
const WATCH_AGAIN_AFTER: Micros = Micros::from_millis(5_000);

/// Bytes of one line of a watch.
const LINE_BYTES_MAX: usize = 8 << 20;

const _: () = assert!(KEEP_EVERY.0 + CALL_TIME_MAX.0 < LEASE_SECONDS * 1_000_000, "one renewal may be late");

/// What a call under way is for: one of each at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Login,
    Grant,
    Keep,
    Register,
    Report,
    Read,
    Watch,
    Campaign,
    Depose,
    Write,
}

/// Who this node is to an etcd that asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name.
    pub name: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The cluster's keys in etcd.
#[derive(Debug)]
pub struct Etcd {
    prefix: String,
    me: NodeDescription,
    login: Option<Login>,
    /// What the last login gave; empty where none is wanted.
    token: Option<String>,
    /// Whether a call with it was answered well.
    is_token_proven: bool,
    lease: Option<LeaseId>,
    is_registered: bool,
    was_registered: bool,
    /// What is to be said, and what is being said.
    report: Report,
    must_speak: bool,
    telling: String,
    keep_at: Micros,
    read_at: Micros,
    /// When the read under way was asked for, and the newest revision that was known then.
    read_asked_at: Micros,
    read_asked_after: Revision,
    retry_at: Micros,
    watch_at: Micros,
    /// Everything up to here is known.
    known_up_to: Revision,
    /// The newest that was heard of.
    newest: Revision,
    keys: BTreeMap<String, Known>,
    line: Vec<u8>,
    under_way: BTreeMap<Task, CallId>,
    cancelled: VecDeque<CallId>,
    order: Option<Order>,
    calls: u64,
    view: View,
}

impl Etcd {
    /// A node that registers itself in a cluster.
    pub fn new(cluster: &ClusterId, me: NodeDescription) -> Self {
        Self {
            prefix: prefix(cluster),
            me,
            login: None,
            token: None,
            is_token_proven: false,
            lease: None,
            is_registered: false,
            was_registered: false,
            report: Report::default(),
            must_speak: false,
            telling: String::new(),
            keep_at: Micros::default(),
            read_at: Micros::default(),
            read_asked_at: Micros::default(),
            read_asked_after: Revision(0),
            retry_at: Micros::default(),
            watch_at: Micros::default(),
            known_up_to: Revision(0),
            newest: Revision(0),
            keys: BTreeMap::new(),
            line: Vec::new(),
            under_way: BTreeMap::new(),
            cancelled: VecDeque::new(),
            order: None,
            calls: 0,
            view: View::default(),
        }
    }

    /// With a name and a password.
    pub fn with_login(mut self, login: Option<Login>) -> Self {
        self.login = login;
        self
    }

    /// Whether nothing can be asked before a login.
    fn is_locked_out(&self) -> bool {
        self.login.is_some() && self.token.is_none()
    }

    fn call(&mut self, task: Task) -> Call {
        self.calls += 1;
        let id = CallId(self.calls);
        if task == Task::Report {
            self.telling =
                serde_json::to_string(&self.report).expect("numbers and texts can always be written");
        }
        let (path, body) = self.call_text(task);
        let before = self.under_way.insert(task, id);
        assert!(before.is_none(), "one {task:?} at a time");
        let token = self.token.clone().filter(|token| !token.is_empty());
        Call { id, path, body, token, is_stream: task == Task::Watch, timeout: CALL_TIME_MAX }
    }

    fn call_text(&self, task: Task) -> (&'static str, String) {
        let lease = || self.lease.expect("tasks that need a lease wait for it");
        match task {
            Task::Login => {
                let Login { name, password } = self.login.as_ref().expect("who logs in has a name");
                (gateway::LOGIN, gateway::login(name, password))
            }
            Task::Grant => (gateway::GRANT, gateway::grant(LEASE_SECONDS)),
            Task::Keep => (gateway::KEEP_ALIVE, gateway::keep_alive(lease())),
            Task::Register => {
                let value = serde_json::to_string(&self.me).expect("texts and numbers can always be written");
                let key = self.node_key();
                let there = self.keys.get(&key).filter(|known| known.value.is_some());
                let expect = there.map_or(Revision(0), |known| known.revision);
                (gateway::TRANSACTION, gateway::claim(&key, expect, &value, lease()))
            }
            Task::Report => (gateway::TRANSACTION, gateway::put(&self.report_key(), &self.telling, lease())),
            Task::Read => (gateway::RANGE, gateway::range(&self.prefix)),
            Task::Watch => (gateway::WATCH, gateway::watch(&self.prefix, Revision(self.known_up_to.0 + 1))),
            Task::Campaign => {
                let Some(Order::Campaign(Fence(over))) = self.order else { unreachable!("it has an order") };
                let holder = self.holder();
                (gateway::TRANSACTION, gateway::claim(&self.key("leader"), Revision(over), &holder, lease()))
            }
            Task::Depose => {
                let Some(Order::Depose(fence)) = &self.order else { unreachable!("it has an order") };
                (gateway::TRANSACTION, gateway::delete_held(&self.key("leader"), *fence))
            }
            Task::Write => {
                let Some(Order::WriteRing { expect, fence, json }) = &self.order else {
                    unreachable!("a write has an order")
                };
                let (key, holder) = (self.key("leader"), self.holder());
                let office = Office { key: &key, holder: &holder, fence: *fence };
                let is_fenced = safeguard::holds(Safeguard::RingWritesAreFenced);
                (gateway::TRANSACTION, gateway::replace(&self.key("ring"), *expect, json, office, is_fenced))
            }
        }
    }

    /// This life of this node, as the holder of the office is written down.
    fn holder(&self) -> String {
        format!("{} {}", self.me.node, self.me.incarnation.0)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn node_key(&self) -> String {
        self.key(&format!("node/{}", self.me.node))
    }

    fn report_key(&self) -> String {
        self.key(&format!("report/{}", self.me.node))
    }

    /// The task whose time has come.
    fn due(&self, now: Micros) -> Option<Task> {
        let idle = |task| !self.under_way.contains_key(&task);
        if self.is_locked_out() {
            return (idle(Task::Login) && now >= self.retry_at).then_some(Task::Login);
        }
        if self.lease.is_none() {
            return (idle(Task::Grant) && now >= self.retry_at)
                .then_some(Task::Grant)
                .or_else(|| self.due_reads(now));
        }
        if self.may_register() && idle(Task::Register) && now >= self.retry_at {
            return Some(Task::Register);
        }
        if now >= self.keep_at && idle(Task::Keep) {
            return Some(Task::Keep);
        }
        match self.order {
            Some(Order::Campaign(_)) if idle(Task::Campaign) => Some(Task::Campaign),
            Some(Order::Depose(_)) if idle(Task::Depose) => Some(Task::Depose),
            Some(Order::WriteRing { .. }) if idle(Task::Write) => Some(Task::Write),
            _ if self.has_news() && idle(Task::Report) && now >= self.retry_at => Some(Task::Report),
            _ => self.due_reads(now),
        }
    }

    /// Whether this node is to be registered and nobody else has its name.
    fn may_register(&self) -> bool {
        let is_free = self.view.is_complete && self.view.namesake.is_none();
        self.lease.is_some() && !self.is_registered && is_free
    }

    /// The other life that is registered under this node's name, unless it is over. It is when this one has its address: a node that
    /// is started again within its last lease need not wait for that.
    fn namesake(&self) -> Option<&NodeDescription> {
        let other = self.view.nodes.get(&self.me.node)?;
        let is_last_life = !self.was_registered && other.peer == self.me.peer;
        (other.incarnation != self.me.incarnation && !is_last_life).then_some(other)
    }

    /// Whether there is something to say that is not there yet. A node with nothing to say says nothing.
    fn has_news(&self) -> bool {
        let said = self.view.reports.get(&self.me.node);
        let is_nothing = self.report.is_empty() && !self.must_speak;
        let is_said = said.map_or(is_nothing, |said| *said == self.report);
        self.is_registered && !is_said
    }

    fn due_reads(&self, now: Micros) -> Option<Task> {
        let idle = |task| !self.under_way.contains_key(&task);
        if now >= self.read_at && idle(Task::Read) {
            return Some(Task::Read);
        }
        let may_watch = self.view.is_complete && now >= self.watch_at && idle(Task::Watch);
        may_watch.then_some(Task::Watch)
    }

    fn finish(&mut self, now: Micros, task: Task, answer: Answer<'_>) {
        self.under_way.remove(&task);
        let body = match answer {
            Answer::Reply { status: 200, body } => body,
            Answer::Reply { status, body } => return self.refused(now, task, status, body),
            Answer::Chunk(_) | Answer::Failed => return self.failed(now, task),
        };
        let is_understood = match task {
            Task::Login => self.logged_in(now, body),
            Task::Grant => self.granted(now, body),
            Task::Keep => self.kept(now, body),
            Task::Register => self.registered(now, body),
            Task::Report => self.told(body),
            Task::Read => self.have_read(now, body),
            Task::Campaign => self.campaigned(body),
            Task::Depose => self.deposed(body),
            Task::Write => self.wrote(body),
            Task::Watch => None,
        };
        self.view.is_reachable = is_understood.is_some();
        self.is_token_proven |= self.view.is_reachable && task != Task::Login;
        if is_understood.is_none() {
            self.failed(now, task);
        }
    }

    /// etcd answered with an error. Most often a lease or a token is gone.
    fn refused(&mut self, now: Micros, task: Task, status: u16, body: &[u8]) {
        let was_reachable = self.view.is_reachable;
        self.failed(now, task);
        if matches!(task, Task::Register | Task::Report | Task::Campaign)
            && gateway::says(body, b"lease not found")
        {
            self.lose_lease();
            self.view.is_reachable = true;
        }
        if task == Task::Login {
            let is_unwanted = gateway::is_login_unwanted(body);
            self.token = is_unwanted.then(String::new);
            self.view.is_reachable = is_unwanted;
            if is_unwanted {
                (self.read_at, self.retry_at) = (now, now);
            } else {
                self.retry_at = now + LOGIN_AGAIN_AFTER;
            }
        } else if gateway::is_token_refused(status, body) {
            // Tokens end: that one was good until now is no trouble that anybody need hear of.
            self.view.is_reachable = was_reachable && self.is_token_proven;
            self.token = None;
            self.retry_at = now;
        }
    }

    fn logged_in(&mut self, now: Micros, body: &[u8]) -> Option<()> {
        let LoggedIn { token } = gateway::read_answer(body)?;
        self.watch_at = self.watch_at.min(now);
        self.token = Some(token);
        self.is_token_proven = false;
        Some(())
    }

    /// No answer that says anything. What was ordered may or may not have been done: reading tells.
    fn failed(&mut self, now: Micros, task: Task) {
        self.retry_at = now + RETRY_AFTER;
        match task {
            Task::Watch => self.watch_at = now + RETRY_AFTER,
            Task::Keep => self.keep_at = now + RETRY_AFTER,
            Task::Campaign | Task::Depose | Task::Write => self.order = None,
            Task::Login | Task::Read | Task::Grant | Task::Register | Task::Report => {}
        }
        if task != Task::Watch {
            self.view.is_reachable = false;
            self.read_at = now + RETRY_AFTER;
        }
    }

    fn lose_lease(&mut self) {
        self.lease = None;
        self.is_registered = false;
        // Nobody can be conductor without a lease.
        self.order = None;
    }

    fn granted(&mut self, now: Micros, body: &[u8]) -> Option<()> {
        let granted: Granted = gateway::read_answer(body)?;
        self.lease = Some(LeaseId(granted.id));
        self.is_registered = false;
        self.keep_at = now + KEEP_EVERY;
        Some(())
    }

    fn kept(&mut self, now: Micros, body: &[u8]) -> Option<()> {
        if gateway::read_kept_alive(body)? == 0 {
            self.lose_lease();
        }
        self.keep_at = now + KEEP_EVERY;
        Some(())
    }

    fn registered(&mut self, now: Micros, body: &[u8]) -> Option<()> {
        let answer: Transacted = gateway::read_answer(body)?;
        let (key, at) = (self.node_key(), Revision(answer.header.revision));
        self.is_registered = answer.succeeded;
        self.was_registered |= answer.succeeded;
        let me = serde_json::to_string(&self.me).expect("texts and numbers can always be written");
        let value = answer.succeeded.then_some(me.as_bytes());
        if answer.succeeded || answer.reads().any(|read| read.is_none()) {
            self.apply(&Change { key: key.as_bytes(), revision: at, value });
        }
        if !answer.succeeded {
            self.retry_at = now + RETRY_AFTER;
        }
        answer.reads().flatten().for_each(|key| self.apply_present(key));
        Some(())
    }

    fn told(&mut self, body: &[u8]) -> Option<()> {
        let answer: Transacted = gateway::read_answer(body)?;
        let at = Revision(answer.header.revision);
        let (key, said) = (self.report_key(), std::mem::take(&mut self.telling));
        self.apply(&Change { key: key.as_bytes(), revision: at, value: Some(said.as_bytes()) });
        Some(())
    }

    fn have_read(&mut self, now: Micros, body: &[u8]) -> Option<()> {
        let read: Ranged = gateway::read_answer(body)?;
        let at = Revision(read.header.revision);
        if self.is_rewound(at, &read.keys) {
            self.forget();
        }
        self.newest = self.newest.max(at);
        let found: Vec<&[u8]> = read.keys.iter().map(|key| &key.key[..]).collect();
        let gone =
            self.keys.iter().filter(|(key, known)| !found.contains(&key.as_bytes()) && known.revision < at);
        let gone: Vec<String> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.apply(&Change { key: key.as_bytes(), revision: at, value: None });
        }
        for key in &read.keys {
            self.apply_present(key);
        }
        // Events up to here need not be told any more; a watch that is further on goes on.
        self.known_up_to = self.known_up_to.max(at);
        self.view.is_complete = true;
        // Somebody deleted or changed what this node says of itself.
        self.is_registered &= self.view.nodes.get(&self.me.node) == Some(&self.me);
        self.view.read_at = self.read_asked_at;
        let leads =
            |leader: &Leader| leader.node == self.me.node && leader.incarnation == self.me.incarnation;
        let is_conductor = self.view.leader.as_ref().is_some_and(leads);
        self.read_at = now + if is_conductor { CONDUCTOR_READS_EVERY } else { READ_EVERY };
        Some(())
    }

    fn campaigned(&mut self, body: &[u8]) -> Option<()> {
        let answer: Transacted = gateway::read_answer(body)?;
        self.order = None;
        let (key, at) = (self.key("leader"), Revision(answer.header.revision));
        if answer.succeeded {
            let value = self.holder();
            self.apply(&Change { key: key.as_bytes(), revision: at, value: Some(value.as_bytes()) });
        } else if answer.reads().any(|read| read.is_none()) {
            // Who was to be followed has left.
            self.apply(&Change { key: key.as_bytes(), revision: at, value: None });
        }
        answer.reads().flatten().for_each(|key| self.apply_present(key));
        Some(())
    }

    fn deposed(&mut self, body: &[u8]) -> Option<()> {
        let answer: Transacted = gateway::read_answer(body)?;
        self.order = None;
        let (key, at) = (self.key("leader"), Revision(answer.header.revision));
        if answer.succeeded || answer.reads().any(|read| read.is_none()) {
            self.apply(&Change { key: key.as_bytes(), revision: at, value: None });
        }
        answer.reads().flatten().for_each(|key| self.apply_present(key));
        Some(())
    }

    fn wrote(&mut self, body: &[u8]) -> Option<()> {
        let answer: Transacted = gateway::read_answer(body)?;
        let order = self.order.take();
        if let (true, Some(Order::WriteRing { json, .. })) = (answer.succeeded, order) {
            let key = self.key("ring");
            let at = Revision(answer.header.revision);
            self.apply(&Change { key: key.as_bytes(), revision: at, value: Some(json.as_bytes()) });
        }
        let reads: Vec<Option<&KeyValue>> = answer.reads().collect();
        if let [_, None] = reads[..] {
            // Deposed, and nobody has followed yet.
            let (key, at) = (self.key("leader"), Revision(answer.header.revision));
            self.apply(&Change { key: key.as_bytes(), revision: at, value: None });
        }
        reads.into_iter().flatten().for_each(|key| self.apply_present(key));
        Some(())
    }

    /// Some bytes of the watch.
    fn watched(&mut self, now: Micros, bytes: &[u8]) {
        self.line.extend_from_slice(bytes);
        let mut line = std::mem::take(&mut self.line);
        let mut start = 0;
        while let Some(length) = line[start..].iter().position(|&byte| byte == b'\n') {
            if let Some(pause) = self.watched_line(&line[start..start + length]) {
                return self.end_watch(now, pause);
            }
            start += length + 1;
        }
        line.drain(..start);
        if line.len() > LINE_BYTES_MAX {
            return self.end_watch(now, RETRY_AFTER);
        }
        self.line = line;
    }

    /// After what pause to watch anew, if the watch is over.
    fn watched_line(&mut self, line: &[u8]) -> Option<Micros> {
        let Some(watched) = gateway::read_watched(line) else { return Some(RETRY_AFTER) };
        for event in &watched.events {
            let revision = Revision(event.kv.mod_revision);
            let value = (!event.is_delete()).then_some(&event.kv.value[..]);
            self.apply(&Change { key: &event.kv.key, revision, value });
        }
        let pause = if watched.compact_revision > 0 { RETRY_AFTER } else { WATCH_AGAIN_AFTER };
        watched.canceled.then_some(pause)
    }

    /// What the watch did not tell must be read: it may have been compacted.
    fn end_watch(&mut self, now: Micros, pause: Micros) {
        self.cancelled.extend(self.under_way.remove(&Task::Watch));
        self.line = Vec::new();
        self.watch_at = now + pause;
        self.read_at = now;
    }
}

/// Where all keys of a cluster begin.
pub fn prefix(cluster: &ClusterId) -> String {
    format!("/slabring/{cluster}/")
}

impl Coordinator for Etcd {
    fn view(&self) -> &View {
        &self.view
    }

    fn order(&mut self, order: Order) {
        assert!(!self.is_busy(), "one order at a time");
        self.order = Some(order);
    }

    fn report(&mut self, report: &Report, must_speak: bool) {
        self.report.clone_from(report);
        self.must_speak = must_speak;
    }

    fn is_busy(&self) -> bool {
        let under_way = |task| self.under_way.contains_key(&task);
        let is_writing = [Task::Campaign, Task::Depose, Task::Write].into_iter().any(under_way);
        self.order.is_some() || self.lease.is_none() || is_writing
    }

    fn next(&mut self, now: Micros) -> Option<Need> {
        if let Some(id) = self.cancelled.pop_front() {
            return Some(Need::Cancel(id));
        }
        let task = self.due(now)?;
        if task == Task::Read {
            (self.read_asked_at, self.read_asked_after) = (now, self.newest);
        }
        Some(Need::Call(self.call(task)))
    }

    fn wake_at(&self) -> Micros {
        if self.is_locked_out() {
            let is_asked = self.under_way.contains_key(&Task::Login);
            return if is_asked { Micros::NEVER } else { self.retry_at };
        }
        let times = [
            (Task::Grant, if self.lease.is_none() { self.retry_at } else { Micros::NEVER }),
            (Task::Register, if self.may_register() { self.retry_at } else { Micros::NEVER }),
            (Task::Report, if self.has_news() { self.retry_at } else { Micros::NEVER }),
            (Task::Keep, if self.lease.is_some() { self.keep_at } else { Micros::NEVER }),
            (Task::Read, self.read_at),
            (Task::Watch, if self.view.is_complete { self.watch_at } else { Micros::NEVER }),
        ];
        let idle = times.into_iter().filter(|(task, _)| !self.under_way.contains_key(task));
        idle.map(|(_, at)| at).min().unwrap_or(Micros::NEVER)
    }

    fn answered(&mut self, now: Micros, id: CallId, answer: Answer<'_>) {
        let Some((&task, _)) = self.under_way.iter().find(|(_, under_way)| **under_way == id) else {
            return;
        };
        match (task, answer) {
            (Task::Watch, Answer::Chunk(bytes)) => self.watched(now, bytes),
            (Task::Watch, _) => {
                self.under_way.remove(&task);
                self.end_watch(now, RETRY_AFTER);
            }
            (task, answer) => self.finish(now, task, answer),
        }
        self.view.namesake = self.namesake().map(|other| other.peer.clone());
        self.is_registered &= self.view.namesake.is_none();
    }
}

#[cfg(test)]
mod tests;
