//! The loop of one shard thread: everything that can wake it, matched in one place.
//!
//! ```text
//! turn: kernel events -> letters of other shards -> connections that had to wait -> letters out -> replies out -> upkeep
//! ```
//!
//! One system call a turn, one send per connection and turn, one letter per other shard and turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use slabring_engine::Seconds;
use slabring_protocol::{Command, ErrorReply, KEY_SIZE_MAX, Limits, Request, StatsTopic, Step, reply};
use slabring_reactor::clock::Moment;
use slabring_reactor::{ConnectionId, EndCause, Event, Io, Wait, Waker};

use crate::batch::{Batch, Gate, Outcome, ReturnAddress, Senders};
use crate::connection::{Connection, Connections, Ending, Input, OUTPUT_BYTES_LOW};
use crate::execute::Executor;
use crate::exptime::flush_due;
use crate::node::Node;
use crate::post::{Letter, Post};
use crate::report::{Gathering, Question};
use crate::shards::{ShardId, Shards};
use crate::stats;

/// Longest sleep: the sweeper and the published statistics want to be looked after.
const SLEEP_MAX: Duration = Duration::from_millis(200);
/// Chunks the sweeper examines in one turn at most: about 10 microseconds of work.
const SWEEP_STEP_CHUNKS: usize = 1024;
/// The sweeper comes by every chunk in about this time.
const SWEEP_PERIOD_SECONDS: usize = 60;
/// Time between the sweeper's steps when nothing else happens.
const SWEEP_PAUSE: Duration = Duration::from_millis(2);
/// A connection that has to wait is still read until this much input waits with it.
const STALLED_INPUT_BYTES_MAX: usize = 16 << 10;
/// Buffers kept for the next replies, and the capacity above which one is not kept.
const SPARE_BUFFERS_MAX: usize = 64;
const SPARE_BUFFER_BYTES_MAX: usize = 16 << 10;
/// Buffers of connections may take this share of the shard's memory before large inputs are refused.
const INPUT_SHARE: usize = 2;
/// Bounced requests of one connection that are sent again in one turn: each may bring a value of the largest kind.
const RESENT_MAX: usize = 4;
/// After the order to stop: what clients have in flight gets this long to be heard, all else this long to finish.
const STOP_LISTENING: Duration = Duration::from_millis(50);
const STOP_PATIENCE: Duration = Duration::from_secs(4);
const STOP_TURN: Duration = Duration::from_millis(10);

/// How far the end of the thread has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Serving,
    /// Ordered to stop at that moment.
    Draining {
        since: Moment,
    },
    /// Its clients are gone; it still executes what other shards ask.
    Drained {
        since: Moment,
    },
}

/// See the module.
pub struct ShardThread<I> {
    node: Arc<Node>,
    shards: Shards,
    io: I,
    waker: Arc<Waker>,
    connections: Connections,
    /// Connections that this turn has changed.
    touched: Vec<ConnectionId>,
    /// Connections that have input they may not execute yet.
    stalled: Vec<ConnectionId>,
    core: Core,
    phase: Phase,
    last_upkeep: Seconds,
    /// Chunks that the sweeper has still to examine in this second.
    sweep_due_chunks: usize,
}

/// What executing requests needs, apart from the connections and the kernel.
struct Core {
    node: Arc<Node>,
    shards: Shards,
    limits: Limits,
    executor: Executor,
    post: Post,
    spare_buffers: Vec<Vec<u8>>,
    /// Memory of all connections' buffers.
    buffer_bytes: usize,
    now: Seconds,
}

impl<I: Io> ShardThread<I> {
    /// A thread ready to run.
    pub fn new(node: Arc<Node>, shards: Shards, io: I, executor: Executor, post: Post) -> Self {
        let now = Seconds(node.clock.unix_seconds());
        let limits = Limits { item_size_max: node.settings.item_size_limit() };
        Self {
            waker: io.waker(),
            connections: Connections::default(),
            touched: Vec::new(),
            stalled: Vec::new(),
            core: Core {
                node: Arc::clone(&node),
                shards,
                limits,
                executor,
                post,
                spare_buffers: Vec::new(),
                buffer_bytes: 0,
                now,
            },
            phase: Phase::Serving,
            last_upkeep: now,
            sweep_due_chunks: 0,
            node,
            shards,
            io,
        }
    }

    /// Runs until the node is told to stop and everything received is answered.
    pub fn run(mut self) -> Result<()> {
        while !self.is_finished() {
            let wait = self.how_long_to_wait();
            self.io.turn(wait).context("the I/O backend failed")?;
            self.waker.awake();
            self.core.now = Seconds(self.node.clock.unix_seconds());
            self.handle_events();
            self.handle_letters();
            self.retry_stalled();
            self.publish_letters();
            self.settle_touched();
            self.upkeep();
            self.proceed_to_end();
        }
        Ok(())
    }

    /// Sleeps only if no letter waits, and tells the others so first.
    fn how_long_to_wait(&self) -> Wait {
        if self.shards.count > 1 {
            self.waker.prepare_sleep();
            if !self.core.post.is_empty() {
                self.waker.awake();
                return Wait::Poll;
            }
        }
        Wait::AtMost(match self.phase {
            Phase::Serving if self.sweep_due_chunks > 0 => SWEEP_PAUSE,
            Phase::Serving => SLEEP_MAX,
            Phase::Draining { .. } | Phase::Drained { .. } => STOP_TURN,
        })
    }

    fn handle_events(&mut self) {
        while let Some(event) = self.io.next_event() {
            match event {
                Event::Received { connection, data } => {
                    let Some(client) = self.connections.get_mut(connection) else { continue };
                    self.core.received(client, data);
                    touch(&mut self.touched, client);
                }
                Event::Sent { connection, buffer, sent_bytes } => {
                    self.core.executor.traffic.bytes_written += sent_bytes as u64;
                    self.core.keep_spare(buffer);
                    let Some(client) = self.connections.get_mut(connection) else { continue };
                    client.sending = false;
                    touch(&mut self.touched, client);
                }
                Event::Accepted { connection, .. } => {
                    self.core.accepted(&mut self.connections, &mut self.touched, connection);
                }
                Event::Ended { connection, cause: EndCause::EndOfStream } => {
                    let Some(client) = self.connections.get_mut(connection) else { continue };
                    client.ending = client.ending.max(Ending::AfterInput);
                    touch(&mut self.touched, client);
                }
                // Nothing can be sent any more, so nothing is owed.
                Event::Ended { connection, cause: EndCause::Failed(_) } => self.close(connection),
                Event::Woken => {}
            }
        }
    }

    fn handle_letters(&mut self) {
        while let Some((place, letter)) = self.core.post.take() {
            match letter {
                Letter::Requests(batch) => {
                    self.core.post.execute(place, batch, &mut self.core.executor, self.core.now);
                }
                Letter::Replies(batch) => {
                    self.deliver(&batch);
                    let turn = self.io.counters().turns;
                    let mut senders = Resending { connections: &mut self.connections, turn };
                    self.core.post.recycle(place, batch, &mut senders);
                }
            }
        }
    }

    /// Hands out the replies of a batch that has come back. Those for connections that are gone are dropped.
    fn deliver(&mut self, batch: &Batch) {
        for (to, outcome) in batch.outcomes() {
            let Some(client) = self.connections.get_mut(to.connection) else { continue };
            touch(&mut self.touched, client);
            match outcome {
                Outcome::Reply(reply) => client.outbox.deliver(to.ticket, reply),
                // The post office keeps it.
                Outcome::Bounced => {}
                Outcome::Answer(report) => {
                    let add = |gathering: &mut Gathering| {
                        report.into_iter().for_each(|part| gathering.report.add(part));
                    };
                    if let Some(gathering) = client.outbox.deliver_part(to.ticket, add) {
                        let mut text = Vec::new();
                        self.core.render(&gathering, &mut text);
                        client.outbox.deliver(to.ticket, &text);
                    }
                }
            }
        }
    }

    /// Sends this turn's letters. Bounced requests go again for connections that read their replies, a few at a time.
    fn publish_letters(&mut self) {
        let turn = self.io.counters().turns;
        self.core.post.publish(&mut self.io, &mut Resending { connections: &mut self.connections, turn });
    }

    /// Goes on with connections whose way has become free.
    fn retry_stalled(&mut self) {
        let mut waiting = std::mem::take(&mut self.stalled);
        waiting.retain(|&id| {
            let Some(client) = self.connections.get_mut(id) else { return false };
            if client.stalled && client.outbox.bytes() < OUTPUT_BYTES_LOW {
                self.core.execute_input(client);
                touch(&mut self.touched, client);
            }
            client.listed = client.stalled;
            client.stalled
        });
        // Connections that stall from here on are added by `settle_touched`.
        self.stalled = waiting;
    }

    /// The end of the turn for each connection that it changed: send, pause or resume, count, close.
    fn settle_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            let Some(client) = self.connections.get_mut(id) else { continue };
            client.touched = false;
            if !client.sending && !client.outbox.ready().is_empty() {
                client.sending = true;
                let empty = self.core.spare_buffers.pop().unwrap_or_default();
                self.io.send(id, client.outbox.take_ready(empty));
            }
            if client.stalled && !client.listed {
                client.listed = true;
                self.stalled.push(id);
            }
            let pause = client.stalled && client.input.unread().len() > STALLED_INPUT_BYTES_MAX;
            if pause && !client.paused {
                client.paused = true;
                self.io.pause(id);
            } else if client.paused && !client.stalled {
                client.paused = false;
                self.io.resume(id);
            }
            self.core.count_buffers(client);
            if client.is_over() {
                self.close(id);
            }
        }
        self.touched = touched;
    }

    fn close(&mut self, id: ConnectionId) {
        let Some(client) = self.connections.remove(id) else { return };
        self.io.close(id);
        self.core.buffer_bytes -= client.buffer_bytes_counted;
        self.node.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// A step of the sweeper, and once a second the memory accounts and statistics.
    fn upkeep(&mut self) {
        let step = self.sweep_due_chunks.min(SWEEP_STEP_CHUNKS);
        if step > 0 {
            self.sweep_due_chunks -= step;
            self.core.executor.shard_mut().sweep(self.core.now, step);
        }
        if self.core.now == self.last_upkeep {
            return;
        }
        self.last_upkeep = self.core.now;
        self.core.executor.io = *self.io.counters();
        let buffers = self.core.count_all_buffers();
        self.core.executor.shard_mut().set_external_bytes(buffers);
        let report = self.core.executor.report();
        let chunks: usize = report.classes.iter().map(|class| class.used + class.free).sum();
        self.sweep_due_chunks = chunks.div_ceil(SWEEP_PERIOD_SECONDS);
        self.node.published[self.shards.me.index()].store(&report);
    }

    /// After the order to stop: hears what is in flight, answers it, closes, and stays for the others until they are done.
    fn proceed_to_end(&mut self) {
        match self.phase {
            Phase::Serving if self.node.stopping.load(Ordering::Acquire) => {
                self.io.stop_accepting();
                self.phase = Phase::Draining { since: Moment::now() };
            }
            Phase::Draining { since } => {
                let elapsed = Duration::from_nanos(Moment::now().since_ns(since));
                if elapsed >= STOP_LISTENING {
                    self.close_quiet(elapsed >= STOP_PATIENCE);
                }
                if self.connections.len() == 0 {
                    self.node.drained.fetch_add(1, Ordering::AcqRel);
                    self.phase = Phase::Drained { since };
                }
            }
            Phase::Serving | Phase::Drained { .. } => {}
        }
    }

    fn close_quiet(&mut self, at_once: bool) {
        for id in self.connections.ids() {
            self.io.pause(id);
            if at_once || self.connections.get_mut(id).is_some_and(|client| client.is_quiet()) {
                self.close(id);
            }
        }
    }

    fn is_finished(&self) -> bool {
        let Phase::Drained { since } = self.phase else { return false };
        let all_drained = self.node.drained.load(Ordering::Acquire) >= usize::from(self.shards.count);
        let late = Moment::now() > since.after(STOP_PATIENCE);
        late || all_drained && self.io.connections() == 0
    }
}

fn touch(touched: &mut Vec<ConnectionId>, client: &mut Connection) {
    if !client.touched {
        client.touched = true;
        touched.push(client.id);
    }
}

/// What the post office must know of connections whose requests bounced.
struct Resending<'a> {
    connections: &'a mut Connections,
    turn: u64,
}

impl Senders for Resending<'_> {
    fn gate(&mut self, id: ConnectionId) -> Gate {
        let Some(client) = self.connections.get_mut(id) else { return Gate::Drop };
        if client.resent_turn != self.turn {
            (client.resent_turn, client.resent) = (self.turn, 0);
        }
        // Once kept, always kept in this turn: no request overtakes an earlier one of its connection.
        if !client.has_room_for_reply() || client.resent >= RESENT_MAX {
            return Gate::Keep;
        }
        client.resent += 1;
        client.bounced -= 1;
        Gate::Send
    }

    fn bounced(&mut self, id: ConnectionId) {
        if let Some(client) = self.connections.get_mut(id) {
            client.bounced += 1;
        }
    }
}

impl Core {
    fn accepted(&mut self, connections: &mut Connections, touched: &mut Vec<ConnectionId>, id: ConnectionId) {
        connections.insert(id);
        self.executor.traffic.connections_total += 1;
        let before = self.node.connections.fetch_add(1, Ordering::Relaxed);
        let client = connections.get_mut(id).expect("inserted just now");
        if before >= self.node.settings.max_connections {
            self.executor.traffic.connections_rejected += 1;
            client.outbox.local(|out| reply::error(out, ErrorReply::TooManyConnections));
            client.ending = Ending::AfterOutput;
        }
        touch(touched, client);
    }

    fn received(&mut self, client: &mut Connection, data: &[u8]) {
        self.executor.traffic.bytes_read += data.len() as u64;
        if client.ending == Ending::AfterOutput {
            return;
        }
        if client.input.is_empty() && !client.stalled {
            let used = self.execute_bytes(client, data);
            self.keep_rest(client, &data[used..]);
        } else {
            self.keep_rest(client, data);
            if !client.stalled && client.input.is_worth_parsing() {
                self.execute_input(client);
            }
        }
    }

    /// Keeps what cannot be executed yet, if there is memory for it.
    fn keep_rest(&mut self, client: &mut Connection, rest: &[u8]) {
        if rest.is_empty() || client.ending == Ending::AfterOutput {
            return;
        }
        client.input.append(rest);
        self.count_buffers(client);
        if self.buffer_bytes > self.node.settings.shard_memory_bytes() / INPUT_SHARE
            && client.input.capacity_bytes() > SPARE_BUFFER_BYTES_MAX
        {
            client.input = Input::default();
            client.outbox.local(|out| reply::error(out, ErrorReply::OutOfMemoryReading));
            client.ending = Ending::AfterOutput;
        }
    }

    /// Executes what is kept.
    fn execute_input(&mut self, client: &mut Connection) {
        let mut input = client.input.lend();
        let used = self.execute_bytes(client, input.unread());
        input.consume(used);
        client.input.put_back(input);
    }

    /// Executes the requests in `bytes` as far as they are complete and may be executed. Returns the bytes done with.
    fn execute_bytes(&mut self, client: &mut Connection, bytes: &[u8]) -> usize {
        let mut used = 0;
        client.stalled = false;
        client.input.need(0);
        while used < bytes.len() && client.ending != Ending::AfterOutput {
            if !client.may_execute() || !self.post.has_room() {
                client.stalled = true;
                self.executor.traffic.stalls += 1;
                break;
            }
            match client.parser.next(&bytes[used..], &self.limits) {
                Step::Request { request, consumed } => {
                    used += consumed;
                    self.dispatch(client, &request);
                }
                Step::Incomplete { total_bytes } => {
                    client.input.need(total_bytes);
                    break;
                }
                Step::Swallowed { consumed } => used += consumed,
                Step::Reply { error, consumed } => {
                    used += consumed;
                    client.outbox.local(|out| reply::error(out, error));
                }
                Step::Close { error } => {
                    if let Some(error) = error {
                        client.outbox.local(|out| reply::error(out, error));
                    }
                    client.ending = Ending::AfterOutput;
                }
            }
        }
        used
    }

    /// Decides who executes a request: this shard, its owner, or all.
    fn dispatch(&mut self, client: &mut Connection, request: &Request<'_>) {
        if request.command.is_keyed() {
            let owner = self.owner_of(request);
            if owner == self.shards.me {
                client.outbox.local(|out| self.executor.execute(self.now, request, out));
            } else {
                self.executor.traffic.requests_posted += 1;
                let sender = ReturnAddress { connection: client.id, ticket: client.outbox.expect() };
                self.post.request(owner, sender, request);
            }
            return;
        }
        match request.command {
            Command::EndOfKeys => client.outbox.local(reply::end),
            Command::MetaNoop => client.outbox.local(reply::meta_noop),
            Command::Version => client.outbox.local(|out| reply::version(out, stats::MEMCACHED_VERSION)),
            Command::Quit => client.ending = Ending::AfterOutput,
            Command::Verbosity { level } => {
                self.node.verbosity.store(usize::from(level), Ordering::Relaxed);
                answer(client, request, reply::ok);
            }
            Command::FlushAll { .. } if !self.node.settings.flush_enabled => {
                answer(client, request, |out| reply::error(out, ErrorReply::FlushNotAllowed));
            }
            Command::FlushAll { delay } => {
                self.executor.traffic.cmd_flush += 1;
                let question = Question::Flush(flush_due(delay, self.now));
                self.ask_all(client, question, StatsTopic::General, request.noreply);
            }
            Command::Stats(StatsTopic::Reset) => {
                self.ask_all(client, Question::ResetCounters, StatsTopic::Reset, request.noreply);
            }
            Command::Stats(topic) => self.ask_all(client, Question::Report, topic, request.noreply),
            command => unreachable!("{command:?} has a key"),
        }
    }

    fn owner_of(&self, request: &Request<'_>) -> ShardId {
        if self.shards.count == 1 {
            return self.shards.me;
        }
        let mut scratch = [0; KEY_SIZE_MAX];
        self.shards.owner_of(request.decoded_key(&mut scratch))
    }

    /// Puts a question to all shards; the answer takes its place in the order of replies when the last has answered.
    fn ask_all(&mut self, client: &mut Connection, question: Question, topic: StatsTopic, noreply: bool) {
        let mut gathering = Box::new(Gathering { question, topic, noreply, report: Default::default() });
        self.count_all_buffers();
        if let Some(report) = self.executor.answer(question) {
            gathering.report.add(&report);
        }
        if self.shards.count == 1 {
            client.outbox.local(|out| self.render(&gathering, out));
            return;
        }
        let ticket = client.outbox.expect_parts(self.shards.count - 1, Some(gathering));
        self.post.ask_all(ReturnAddress { connection: client.id, ticket }, question);
    }

    fn render(&self, gathering: &Gathering, out: &mut Vec<u8>) {
        if gathering.noreply {
            return;
        }
        match gathering.question {
            Question::Flush(_) => reply::ok(out),
            Question::ResetCounters => reply::reset(out),
            Question::Report => stats::render(out, &self.node, gathering.topic, &gathering.report),
        }
    }

    fn keep_spare(&mut self, buffer: Vec<u8>) {
        if self.spare_buffers.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BUFFER_BYTES_MAX {
            self.spare_buffers.push(buffer);
        }
    }

    fn count_buffers(&mut self, client: &mut Connection) {
        let bytes = client.capacity_bytes();
        self.buffer_bytes = self.buffer_bytes - client.buffer_bytes_counted + bytes;
        client.buffer_bytes_counted = bytes;
    }

    /// All memory that is not the engine's and not fixed, for the report and the budget.
    fn count_all_buffers(&mut self) -> usize {
        let spare: usize = self.spare_buffers.iter().map(Vec::capacity).sum();
        let bytes = self.buffer_bytes + spare + self.post.capacity_bytes();
        self.executor.traffic.buffer_bytes = bytes as u64;
        bytes
    }
}

fn answer(client: &mut Connection, request: &Request<'_>, write: impl FnOnce(&mut Vec<u8>)) {
    if !request.noreply {
        client.outbox.local(write);
    }
}
