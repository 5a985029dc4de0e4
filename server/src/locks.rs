//! `lk`: locks of this node, or of all nodes of a cluster, kept by a thread of their own: a fence may have to be written down, or etcd be
//! asked. Shards hand it what clients ask and get the answers through a queue each; nobody waits for anybody.

pub mod etcd;
pub mod fences;
pub mod offset;
pub mod queue;
pub mod table;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use crossbeam::queue::ArrayQueue;
use slabring_cluster::coordinator::{Answer, Need};
use slabring_protocol::reply::{self, LockSaid};
use slabring_protocol::{ErrorReply, LockCommand, Request};
use slabring_reactor::ConnectionId;
use slabring_reactor::clock::Moment;
use tracing::warn;

use crate::batch::ReturnAddress;
use crate::cluster::News;
use crate::cluster::http::Caller;
use crate::connection::{Connection, Connections, Ending};
use crate::datagrams::is_datagram;
use crate::dispatch::Dispatcher;
use crate::locks::etcd::{Etcd, Heard};
use crate::locks::fences::Fences;
use crate::locks::queue::Queue;
use crate::locks::table::{Ask, Asker, Millis, Said, Table};
use crate::node::Node;
use crate::options::{ClusterSettings, CoordinatorSettings};
use crate::shards::ShardId;
use crate::unkeyed::refuse;

/// Requests of one shard that are not answered yet, those that wait for a lock included.
const ASKED_MAX: usize = 4096;
/// Requests that the thread has not looked at yet.
const JOBS_MAX: usize = 1024;
/// Locks take at most this share of the node's memory.
const MEMORY_SHARE: usize = 4;
/// The thread looks this often whether the node ends.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
struct Place {
    shard: ShardId,
    to: ReturnAddress,
    /// Its opaque, if it has one.
    opaque: [u8; slabring_protocol::OPAQUE_SIZE_MAX],
    opaque_bytes: usize,
}

impl Asker for Place {
    type Client = (ShardId, u32, u32);

    fn client(self) -> Self::Client {
        client_of(self.shard, self.to.connection)
    }
}

fn client_of(shard: ShardId, connection: ConnectionId) -> <Place as Asker>::Client {
    (shard, connection.slot, connection.generation)
}

#[derive(Debug)]
enum Job {
    Ask(Place, Ask),
    /// Whoever has this connection says nothing more, and may be gone.
    Gone(ShardId, ConnectionId),
    /// What came of a call.
    Called(News),
}

impl From<News> for Job {
    fn from(news: News) -> Self {
        Self::Called(news)
    }
}

/// An answer on its way to its shard.
#[derive(Debug)]
pub struct Answered {
    to: ReturnAddress,
    text: Vec<u8>,
}

/// The locks of a node, as its shards see them.
#[derive(Debug)]
pub struct Locks {
    jobs: SyncSender<Job>,
    /// For each shard. Never full: a shard asks no more than it has room for.
    answers: Vec<ArrayQueue<Answered>>,
    /// How many there are now.
    pub counts: Counts,
}

/// What there is now: stored relaxed by the thread, loaded relaxed by anybody.
#[derive(Default, Debug)]
pub struct Counts {
    /// Locks that are held.
    pub held: AtomicUsize,
    /// Requests that wait for one.
    pub waiting: AtomicUsize,
    /// Memory of both. Part of the node's budget: each shard does without an equal part of it.
    pub bytes: AtomicUsize,
}

impl Counts {
    fn store(&self, held: usize, waiting: usize, bytes: usize) {
        self.held.store(held, Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

/// Connections of a shard that are gone, of which the thread has still to hear: what it has not heard of may be given a lock.
#[derive(Default, Debug)]
pub struct Gone(Vec<ConnectionId>);

impl Gone {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn tell(&mut self, me: ShardId, locks: &Locks) {
        self.0.retain(|&connection| locks.tell(Job::Gone(me, connection)).is_err());
    }
}

/// What the thread works with.
pub struct Keeper {
    store: Store,
    jobs: Receiver<Job>,
}

/// What keeps the fences.
enum Store {
    File(Fences),
    /// The etcd of the node's cluster.
    Etcd,
}

impl Locks {
    /// Locks whose fences are kept in a file. The error is one line.
    pub fn open(path: &Path, threads: u16) -> Result<(Self, Keeper)> {
        let fences =
            Fences::open(path).map_err(|error| anyhow!("--lock-file {}: {error}", path.display()))?;
        Ok(Self::kept_by(Store::File(fences), threads))
    }

    /// Locks that all nodes of the cluster keep in its etcd.
    pub fn of_cluster(threads: u16) -> (Self, Keeper) {
        Self::kept_by(Store::Etcd, threads)
    }

    fn kept_by(store: Store, threads: u16) -> (Self, Keeper) {
        let (sender, jobs) = sync_channel(JOBS_MAX);
        let answers = (0..threads).map(|_| ArrayQueue::new(ASKED_MAX)).collect();
        (Self { jobs: sender, answers, counts: Counts::default() }, Keeper { store, jobs })
    }

    fn tell(&self, job: Job) -> Result<(), ErrorReply> {
        self.jobs.try_send(job).map_err(|_| ErrorReply::TooManyLocks)
    }
}

/// Starts the thread, which ends with the node.
pub fn start(node: &Arc<Node>, keeper: Keeper) -> Result<()> {
    let node = Arc::clone(node);
    let run = move || {
        if let Some(locks) = &node.locks {
            keeper.keep(&node, locks);
        }
    };
    std::thread::Builder::new().name("locks".into()).spawn(run).context("cannot start the locks' thread")?;
    Ok(())
}

impl Keeper {
    fn keep(self, node: &Node, locks: &Locks) {
        match self.store {
            Store::File(fences) => keep_here(node, locks, fences, &self.jobs),
            Store::Etcd => {
                let cluster =
                    node.cluster.as_ref().expect("only a node of a cluster keeps locks in its etcd");
                keep_in_etcd(node, locks, &cluster.settings, &self.jobs);
            }
        }
    }
}

fn keep_here(node: &Node, locks: &Locks, mut fences: Fences, jobs: &Receiver<Job>) {
    let start = Moment::now();
    let mut table = Table::new(node.settings.memory_bytes / MEMORY_SHARE);
    let mut answers = Vec::new();
    loop {
        let now = millis_since(start);
        let wait = table.wake_at().map_or(LOOK_EVERY, |at| Duration::from_millis(at.0.saturating_sub(now.0)));
        let job = jobs.recv_timeout(wait.min(LOOK_EVERY));
        let now = millis_since(start);
        let mut fence = || told(fences.next());
        table.expire(now, &mut fence, &mut answers);
        match job {
            Ok(Job::Ask(place, ask)) => table.ask(now, place, ask, &mut fence, &mut answers),
            Ok(Job::Gone(shard, connection)) => {
                table.forget(now, client_of(shard, connection), &mut answers);
            }
            Ok(Job::Called(_)) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let is_over = node.stopping.load(Ordering::Acquire);
        if is_over {
            table.end(now, &mut answers);
        }
        locks.counts.store(table.held(), table.waiting(), table.bytes());
        answers.drain(..).for_each(|(place, said)| hand_over(node, locks, &place, &said));
    }
}

fn keep_in_etcd(node: &Node, locks: &Locks, settings: &ClusterSettings, jobs: &Receiver<Job>) {
    let CoordinatorSettings::Etcd { urls, access, .. } = &settings.coordinator else { return };
    let start = Moment::now();
    // What cannot be read now was readable at the start: etcd will say that it wants it.
    let login = access.login().unwrap_or_default();
    let start_unix_ms = node.clock.unix_microseconds() / 1_000;
    let mut etcd = Etcd::new(&settings.cluster, login, start_unix_ms);
    let mut queue = Queue::new(start_unix_ms, node.settings.memory_bytes / MEMORY_SHARE);
    let mut caller = Caller::new(urls, access, &locks.jobs);
    loop {
        go_on(millis_since(start), &mut queue, &mut etcd);
        while let Some(need) = etcd.next() {
            match need {
                Need::Call(call) => caller.call(call),
                Need::Cancel(id) => caller.cancel(id),
            }
        }
        locks.counts.store(queue.held(), queue.waiting(), queue.bytes());
        for (place, said) in queue.take_answers() {
            hand_over(node, locks, &place, &said);
        }
        let now = millis_since(start);
        let wait = queue.wake_at().map_or(LOOK_EVERY, |at| Duration::from_millis(at.0.saturating_sub(now.0)));
        let job = jobs.recv_timeout(wait.min(LOOK_EVERY));
        let now = millis_since(start);
        match job {
            Ok(Job::Ask(place, ask)) => queue.ask(now, place, ask),
            Ok(Job::Gone(shard, connection)) => queue.forget(now, client_of(shard, connection)),
            Ok(Job::Called(News::Reply(id, status, body))) => {
                caller.ended(id);
                etcd.answered(now, id, Answer::Reply { status, body: &body });
            }
            Ok(Job::Called(News::Chunk(id, bytes))) => etcd.answered(now, id, Answer::Chunk(&bytes)),
            Ok(Job::Called(News::Failed(id))) => {
                caller.ended(id);
                etcd.answered(now, id, Answer::Failed);
            }
            Ok(Job::Called(
                News::Document(_)
                | News::List(_)
                | News::Differs
                | News::Reached(..)
                | News::Found(_)
                | News::Stop,
            ))
            | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if node.stopping.load(Ordering::Acquire) {
            queue.end(now);
        }
    }
}

/// Takes the steps that can be taken now.
fn go_on(now: Millis, queue: &mut Queue<Place>, etcd: &mut Etcd) {
    etcd.expire(now);
    while let Some(heard) = etcd.heard() {
        match heard {
            Heard::Came(name, found) => queue.came(now, &name, found),
            Heard::Changed(name) => queue.changed(&name),
            Heard::MissedSome => queue.missed_some(now),
            Heard::WentBack(to) => {
                warn!(
                    "etcd has lost locks: it is at revision {} again, and fences go on above those of before",
                    to.0
                );
                queue.went_back(now, to);
            }
        }
    }
    while etcd.has_room()
        && let Some((name, step)) = queue.next(now)
    {
        etcd.take(now, name, step);
    }
    etcd.watch(now, queue.watches_from());
}

fn millis_since(start: Moment) -> Millis {
    Millis(Moment::now().since_ns(start) / 1_000_000)
}

fn told(fence: io::Result<u64>) -> Option<u64> {
    fence.inspect_err(|error| warn!("--lock-file: {error}: no lock is given out")).ok()
}

fn hand_over(node: &Node, locks: &Locks, place: &Place, said: &Said) {
    let mut text = Vec::new();
    let opaque = &place.opaque[..place.opaque_bytes];
    match said {
        Said::TooMany => reply::error(&mut text, ErrorReply::TooManyLocks),
        Said::NoFence => reply::error(&mut text, ErrorReply::LockFileFailed),
        Said::NoCoordinator => reply::error(&mut text, ErrorReply::LockCoordinatorSilent),
        Said::Held { fence, left_ms, session } => {
            reply::lock(&mut text, LockSaid::Held { fence: *fence, left_ms: *left_ms, session }, opaque);
        }
        Said::Taken { fence, left_ms } => {
            reply::lock(&mut text, LockSaid::Taken { fence: *fence, left_ms: *left_ms }, opaque);
        }
        Said::Released => reply::lock(&mut text, LockSaid::Released, opaque),
        Said::Free => reply::lock(&mut text, LockSaid::Free, opaque),
        Said::NotYours => reply::lock(&mut text, LockSaid::NotYours, opaque),
    }
    let queue = &locks.answers[place.shard.index()];
    let pushed = queue.push(Answered { to: place.to, text });
    assert!(pushed.is_ok(), "a shard asks no more than it has room for");
    node.wake(place.shard.index());
}

impl Dispatcher {
    /// Hands what a client asks of a lock to the thread that keeps them.
    pub fn ask_lock(&mut self, client: &mut Connection, request: &Request<'_>, command: LockCommand) {
        let node = Arc::clone(&self.node);
        let Some(locks) = &node.locks else { return refuse(client, request, ErrorReply::NoLocks) };
        if is_datagram(client.id) || self.locks_asked >= ASKED_MAX {
            return refuse(client, request, ErrorReply::TooManyLocks);
        }
        let (session, token) = LockCommand::session_and_opaque(request);
        let mut opaque = [0; slabring_protocol::OPAQUE_SIZE_MAX];
        opaque[..token.len()].copy_from_slice(token);
        let to = ReturnAddress { connection: client.id, ticket: client.outbox.expect() };
        let place = Place { shard: self.shards.me, to, opaque, opaque_bytes: token.len() };
        // Who has hung up meanwhile is given what is free, and is not waited with.
        let wait_ms = if client.ending == Ending::No { command.wait_ms } else { 0 };
        let command = LockCommand { wait_ms, ..command };
        let ask = Ask { command, name: request.key.into(), session: session.into() };
        match locks.tell(Job::Ask(place, ask)) {
            Ok(()) => {
                self.locks_asked += 1;
                client.locks_asked += 1;
            }
            Err(error) => {
                let mut text = Vec::new();
                reply::error(&mut text, error);
                client.outbox.deliver(to.ticket, &text);
            }
        }
    }

    /// Hands out the answers that have come. `note` is called for each connection that got one.
    pub fn take_lock_answers(
        &mut self,
        connections: &mut Connections,
        mut note: impl FnMut(&mut Connection),
    ) {
        if self.locks_asked == 0 {
            return;
        }
        let node = Arc::clone(&self.node);
        let Some(queue) = node.locks.as_ref().map(|locks| &locks.answers[self.shards.me.index()]) else {
            return;
        };
        while let Some(Answered { to, text }) = queue.pop() {
            self.locks_asked -= 1;
            if let Some(client) = connections.get_mut(to.connection) {
                client.locks_asked -= 1;
                client.outbox.deliver(to.ticket, &text);
                note(client);
            }
        }
    }

    /// Whoever waits for a lock on a connection that ends waits no more: somebody who has hung up looks the same as somebody who
    /// has only said all there is to say, and must not be given a lock.
    pub fn end_lock_waits(&mut self, client: &Connection) {
        if client.locks_asked > 0 {
            self.locks_gone.0.push(client.id);
            self.tell_who_is_gone();
        }
    }

    /// Says which connections have ended, as far as there is room for it.
    pub fn tell_who_is_gone(&mut self) {
        if !self.locks_gone.is_empty()
            && let Some(locks) = &self.node.locks
        {
            self.locks_gone.tell(self.shards.me, locks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_while_the_thread_is_busy_is_told_later() {
        let path = std::env::temp_dir().join(format!("slabring-gone-{}", std::process::id()));
        let (locks, keeper) = Locks::open(&path, 1).unwrap();
        let id = |slot| ConnectionId { slot, generation: 1 };
        for _ in 0..JOBS_MAX {
            locks.tell(Job::Gone(ShardId(0), id(0))).unwrap();
        }
        let mut gone = Gone(vec![id(1), id(2)]);
        gone.tell(ShardId(0), &locks);
        assert_eq!(gone.0, [id(1), id(2)]);
        keeper.jobs.try_recv().unwrap();
        gone.tell(ShardId(0), &locks);
        assert_eq!(gone.0, [id(2)]);
        let heard: Vec<_> = keeper.jobs.try_iter().collect();
        assert!(matches!(heard.last(), Some(Job::Gone(ShardId(0), last)) if *last == id(1)));
        gone.tell(ShardId(0), &locks);
        assert!(gone.is_empty());
        std::fs::remove_file(path).unwrap();
    }
}
