//! From a connection's bytes to executed requests: parses what is complete, decides which shard executes it, and stops
//! where a connection has to wait (`waits.rs`). What it is sent is in `output.rs`, what other shards answer in `letters.rs`. No system
//! calls: the loop in `shard_thread.rs` makes them.

mod letters;
mod output;
mod waits;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use slabring_engine::Seconds;
use slabring_protocol::{Command, ErrorReply, KEY_SIZE_MAX, KeysAhead, Limits, Request, Step, Users, reply};

pub use self::output::Output;
use crate::batch::ReturnAddress;
use crate::budget::Budget;
use crate::cluster::forward::{PendingReply, answer_later};
use crate::cluster::links::{Links, Owner};
use crate::connection::{Connection, Ending, Input, Stream};
use crate::datagrams::is_datagram;
use crate::execute::{Asker, Executor};
use crate::gather::SMALL_PACKET_BYTES;
use crate::lending::LENT_BYTES_MIN;
use crate::live::Held;
use crate::locks::Gone;
use crate::node::Node;
use crate::post::Post;
use crate::replication::{Executed, Waiter};
use crate::session::Failure;
use crate::shards::Shards;

/// What a TLS client's first record begins with. No command does.
const TLS_HANDSHAKE: u8 = 0x16;

/// What executing requests needs, apart from the connections and the kernel.
///
/// What is more than a call of the executor has a file of its own, with its part of the `impl`: a pipeline (`pipeline.rs`), requests without a
/// key (`unkeyed.rs`, `admin.rs`, `auth.rs`), for other nodes (`cluster/forward.rs`, `cluster/links/runs.rs`, `front.rs`), for locks (`locks.rs`),
/// large values (`intake.rs`), and what is sent bit by bit (`dump.rs`, `watch.rs`, `track.rs`).
pub struct Dispatcher {
    /// The node this shard is part of.
    pub node: Arc<Node>,
    /// Who owns which key.
    pub shards: Shards,
    /// This shard's items.
    pub executor: Executor,
    /// Letters to and from other shards.
    pub post: Post,
    /// Links to other nodes, if the node is one of several.
    pub cluster: Option<Box<Links>>,
    /// The connections' buffers.
    pub budget: Budget,
    /// The second of this turn.
    pub now: Seconds,
    /// The number of this turn.
    pub turn: u64,
    /// Some connection could go on at once: the next turn must not wait.
    pub has_more: bool,
    /// Since somebody last looked, a client had to wait because too many values are lent.
    pub value_waited: bool,
    /// Large values that have ever begun to come.
    pub values_begun: u64,
    /// Connections that watch.
    pub watching: usize,
    /// Connections that track.
    pub tracking: usize,
    /// Requests for locks that are not answered yet.
    pub locks_asked: usize,
    /// Connections that have ended while they waited for locks.
    pub locks_gone: Gone,
    /// Who wants to hear of this shard's connections, which are not at hand while one of them is executed.
    pub census_wanted: Vec<ReturnAddress>,
    /// Who may come in, if that is asked.
    pub users: Held<Users>,
    /// What is refused before it has come.
    pub limits: Limits,
    spare_buffers: Vec<Vec<u8>>,
    spare_bytes: usize,
    spare_bytes_max: usize,
}

impl Dispatcher {
    /// A dispatcher for the shard `shards.me`.
    pub fn new(node: Arc<Node>, shards: Shards, executor: Executor, post: Post) -> Self {
        let settings = &node.settings;
        Self {
            limits: Limits { item_size_max: settings.item_size_limit() },
            budget: Budget::new(settings.shard_memory_bytes()),
            now: Seconds(node.clock.unix_seconds()),
            spare_buffers: Vec::new(),
            spare_bytes: 0,
            spare_bytes_max: settings.shard_memory_bytes() / output::SPARE_SHARE,
            turn: 0,
            has_more: false,
            value_waited: false,
            values_begun: 0,
            watching: 0,
            tracking: 0,
            locks_asked: 0,
            locks_gone: Gone::default(),
            census_wanted: Vec::new(),
            users: Held::default(),
            cluster: Links::of(&node, shards),
            executor,
            post,
            node,
            shards,
        }
    }

    /// Executes what `data` completes and keeps the rest with the connection.
    pub fn received(&mut self, client: &mut Connection, data: &[u8]) {
        self.executor.traffic.bytes_read += data.len() as u64;
        client.heard_at = self.now;
        match client.session.take() {
            None => self.received_plain(client, data),
            Some(mut session) => {
                let outcome = session.open(data, |plain| self.received_plain(client, plain));
                if session.heard_goodbye() {
                    client.ending = client.ending.max(Ending::AfterInput);
                }
                client.session = Some(session);
                if let Err(failure) = outcome {
                    self.session_failed(client, failure);
                }
            }
        }
    }

    fn session_failed(&mut self, client: &mut Connection, failure: Failure) {
        match failure {
            Failure::Handshake => self.executor.traffic.tls_handshake_errors += 1,
            Failure::Record => self.executor.traffic.tls_record_errors += 1,
        }
        client.input = Input::default();
        client.stalled = false;
        client.ending = Ending::AfterOutput;
    }

    fn received_plain(&mut self, client: &mut Connection, data: &[u8]) {
        if client.ending == Ending::AfterOutput || client.is_watching() {
            return;
        }
        if client.input.is_empty() && !client.stalled {
            let used = self.execute_bytes(client, data);
            let rest = &data[used..];
            if !client.stalled && rest.first() == Some(&TLS_HANDSHAKE) {
                // TLS where none is spoken: its client waits for an answer that no text can give.
                client.ending = Ending::AfterOutput;
            }
            self.keep(client, rest);
        } else {
            self.keep(client, data);
            if !client.stalled && client.input.is_worth_parsing() {
                self.execute_input(client);
            }
        }
    }

    fn keep(&mut self, client: &mut Connection, rest: &[u8]) {
        if !rest.is_empty() && client.ending != Ending::AfterOutput {
            if client.input.is_empty() {
                client.unfinished_since = self.now;
            }
            client.input.append(rest);
            self.budget.count(client);
            self.budget.queue_if_full(client, self.now);
        }
    }

    /// Executes what is kept.
    pub fn execute_input(&mut self, client: &mut Connection) {
        let mut input = client.input.lend();
        let used = self.execute_bytes(client, input.unread());
        if used > 0 {
            client.unfinished_since = self.now;
        }
        input.consume(used);
        client.input.put_back(input);
    }

    /// Executes the requests in `bytes` as far as they are complete and may be executed. Returns the bytes done with.
    ///
    /// The keys of a pipeline are looked for some requests ahead, so that the memory of all of them is fetched at the same time.
    fn execute_bytes(&mut self, client: &mut Connection, bytes: &[u8]) -> usize {
        client.stalled = false;
        client.input.need(0);
        self.go_on_streaming(client);
        let mut used = if client.intake.is_some() { self.take_in(client, bytes) } else { 0 };
        if client.intake.is_none() {
            used += self.execute_requests(client, &bytes[used..]);
        }
        client.stalled |= client.stream.is_some();
        if client.outbox.bytes() >= LENT_BYTES_MIN {
            // The next client of this turn may find it too much; small outputs are counted when the turn ends.
            self.budget.count(client);
        }
        used
    }

    /// Goes on with what a client is sent bit by bit.
    fn go_on_streaming(&mut self, client: &mut Connection) {
        match client.stream.take() {
            None => {}
            Some(Stream::Dump(dump)) => {
                client.stream = self.go_on_dumping(client, dump).map(Stream::Dump);
            }
            Some(Stream::Watch(mut watch)) => {
                self.go_on_watching(client, &mut watch);
                client.stream = Some(Stream::Watch(watch));
            }
            Some(Stream::Track(mut track)) => {
                self.go_on_tracking(client, &mut track);
                client.stream = Some(Stream::Track(track));
            }
        }
    }

    fn execute_requests(&mut self, client: &mut Connection, bytes: &[u8]) -> usize {
        let (mut used, mut warmed) = (0, 0);
        while used < bytes.len() && client.ending != Ending::AfterOutput {
            let rest = &bytes[used..];
            let had_its_part = !client.takes_part(self.turn, self.node.settings.requests_per_turn);
            if had_its_part || !self.may_execute(client) {
                self.stall(client);
                self.has_more |= had_its_part;
                return used;
            }
            if let Some(consumed) =
                self.execute_keys(client, rest).or_else(|| self.execute_plain(client, rest))
            {
                used += consumed;
                continue;
            }
            if used >= warmed && rest.len() > SMALL_PACKET_BYTES {
                warmed = bytes.len() - self.warm(client.parser.keys_ahead(rest));
            }
            // Copying what was written just now stalls the CPU, so it is done only where the copy may be needed.
            let parser_before = self.may_wait(client, rest).then(|| client.parser.clone());
            let step = client.parser.next(rest, &self.limits);
            if let Some(parser_before) = parser_before
                && self.must_wait(client, &step)
            {
                client.parser = parser_before;
                self.stall(client);
                return used;
            }
            if self.must_extend(client, &step) {
                // The parser stands before a line as it stands behind it.
                self.stall(client);
                self.has_more = true;
                return used;
            }
            match self.take_step(client, &step, rest) {
                Some(consumed) => used += consumed,
                None => {
                    let Step::Incomplete { total_bytes } = step else { return used };
                    return used + self.begin_intake(client, rest, total_bytes);
                }
            }
        }
        used
    }

    /// The key of the request that `data` begins with, if this shard will execute it at once.
    pub fn first_key<'a>(&self, client: &Connection, data: &'a [u8]) -> Option<&'a [u8]> {
        // Behind a quit the parser may stand in the middle of a request that nobody will read on.
        let reads = client.ending == Ending::No
            && !client.stalled
            && client.session.is_none()
            && client.intake.is_none();
        if !reads || !client.input.is_empty() {
            return None;
        }
        client.parser.keys_ahead(data).next().filter(|key| self.is_mine(key))
    }

    /// Begins to load what the next requests to this shard will need. Returns the bytes behind what it has looked at.
    fn warm(&mut self, mut keys: KeysAhead<'_>) -> usize {
        self.executor.warm(keys.by_ref().filter(|key| self.is_mine(key)));
        keys.bytes_left()
    }

    /// Whether this shard has a key, as it is sent.
    fn is_mine(&self, key: &[u8]) -> bool {
        self.is_alone() || self.owner_of_key(key) == self.me()
    }

    /// Does what a step says. Returns the bytes it consumed, or nothing where the stream ends for now.
    fn take_step(&mut self, client: &mut Connection, step: &Step<'_>, rest: &[u8]) -> Option<usize> {
        match *step {
            Step::Request { ref request, consumed } => {
                self.dispatch(client, request, &rest[..consumed]);
                Some(consumed)
            }
            Step::Incomplete { total_bytes } => {
                client.input.need(total_bytes);
                None
            }
            Step::Swallowed { consumed } => Some(consumed),
            Step::Reply { error, consumed } => {
                client.lines.abandon();
                client.outbox.local(|out| reply::error(out, error));
                Some(consumed)
            }
            Step::Close { error } => {
                error.into_iter().for_each(|error| client.outbox.local(|out| reply::error(out, error)));
                client.ending = Ending::AfterOutput;
                None
            }
        }
    }

    /// Decides who executes a request: this shard, its owner, or all.
    fn dispatch(&mut self, client: &mut Connection, request: &Request<'_>, raw: &[u8]) {
        if request.command.is_keyed() {
            let owner = match self.owner_of(request) {
                Owner::Shard(owner) => owner,
                Owner::Elsewhere(hash) => return self.forward(client, request, raw, hash),
            };
            if owner == self.shards.me && self.executor.asks_others(request) {
                self.execute_copied(client, request);
            } else if owner == self.shards.me {
                let connection = self.shards.connection_number(owner, client.id.slot);
                let (executor, now) = (&mut self.executor, self.now);
                if is_datagram(client.id) {
                    client.outbox.local(|out| executor.execute(now, request, connection, out));
                } else {
                    client
                        .outbox
                        .local_lending(|out| executor.execute_lending(now, request, connection, out));
                }
            } else {
                self.executor.traffic.requests_posted += 1;
                client.posted(self.turn);
                let sender = self.keep_for_shard(client, request);
                self.post.request(owner, sender, request);
            }
            return;
        }
        match request.command {
            Command::EndOfKeys => client.lines.end(&mut client.outbox),
            Command::MetaNoop => client.outbox.local(|out| reply::noop(out, request)),
            _ => self.dispatch_unkeyed(client, request),
        }
    }

    /// Executes a request for an item that has copies on other nodes: the reply may come later.
    pub fn execute_copied(&mut self, client: &mut Connection, request: &Request<'_>) {
        let connection = self.shards.connection_number(self.shards.me, client.id.slot);
        let asker = Asker { connection, is_local: true };
        let (executor, now) = (&mut self.executor, self.now);
        let mut executed = Executed::Now;
        client.outbox.local(|out| executed = executor.execute_copied(now, request, asker, out));
        match executed {
            Executed::Now => {}
            Executed::Refused(error) => {
                let pending = PendingReply::keep(client, request);
                answer_later(client, pending, Err(error));
            }
            Executed::Later(id) => {
                let pending = PendingReply::keep(client, request);
                self.executor.attend(id, Waiter::Client(pending));
            }
        }
    }

    fn me(&self) -> Owner {
        Owner::Shard(self.shards.me)
    }

    /// Who has the key of a request.
    pub fn owner_of(&self, request: &Request<'_>) -> Owner {
        if self.is_alone() || !request.command.is_keyed() {
            return self.me();
        }
        if request.is_base64() {
            return self.owner_of_key(request.decoded_key(&mut [0; KEY_SIZE_MAX]));
        }
        self.owner_of_key(request.key)
    }

    /// Whether all keys are this shard's.
    pub fn is_alone(&self) -> bool {
        self.shards.count == 1 && self.cluster.is_none()
    }

    /// Who has a key.
    pub fn owner_of_key(&self, key: &[u8]) -> Owner {
        match &self.cluster {
            None => Owner::Shard(self.shards.owner_of(key)),
            Some(links) => links.owner_of(key),
        }
    }

    /// All memory that is not the engine's and not fixed, for the budget; the report has the bench too, which is beside the budget.
    pub fn count_all_buffers(&mut self) -> usize {
        let logs = self.executor.log_capacity_bytes();
        let links = self.cluster.as_ref().map_or(0, |links| links.buffer_bytes());
        let waiting = self.executor.replication.as_ref().map_or(0, |replication| replication.buffer_bytes());
        let front = self.executor.front.as_ref().map_or(0, |front| front.buffer_bytes());
        let fences = self.executor.shard().fence_bytes();
        let locks = self.node.locks.as_ref().map_or(0, |locks| locks.counts.bytes.load(Ordering::Relaxed));
        let locks = locks / usize::from(self.shards.count);
        let bytes = self.budget.bytes()
            + self.spare_bytes
            + logs
            + self.post.capacity_bytes()
            + links
            + waiting
            + front
            + fences
            + locks;
        let bench = self.executor.replication.as_ref().map_or(0, |replication| replication.bench_bytes());
        self.executor.traffic.buffer_bytes = (bytes + bench) as u64;
        bytes
    }
}

/// Refuses a connection's input for want of memory and ends the connection.
pub fn refuse_input(client: &mut Connection) {
    client.input = Input::default();
    client.waits_for_memory = false;
    client.stalled = false;
    client.outbox.local(|out| reply::error(out, ErrorReply::OutOfMemoryReading));
    client.ending = Ending::AfterOutput;
}
