//! From a connection's bytes to executed requests: parses what is complete, decides which shard executes it, and stops
//! where a connection has to wait. No system calls: the loop in `shard_thread.rs` makes them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use slabring_engine::Seconds;
use slabring_protocol::{Command, ErrorReply, KEY_SIZE_MAX, KeysAhead, Limits, Request, Step, Users, reply};
use slabring_reactor::{ConnectionId, LoanId};

use crate::batch::{Batch, Outcome, ReturnAddress, Visit};
use crate::budget::Budget;
use crate::cluster::forward::{Place, answer_later};
use crate::cluster::links::{Links, Owner};
use crate::connection::{Connection, Deferred, Ending, Input, Stream};
use crate::datagrams::is_datagram;
use crate::execute::{Asker, Executor};
use crate::extending::extends;
use crate::gather::SMALL_PACKET_BYTES;
use crate::lending::{
    COPIED_BYTES_MAX, LENT_BYTES_MIN, Remote, SEALED_BYTES_MAX, SLICE_BYTES, Value, WINDOW_BYTES_MAX,
};
use crate::live::Held;
use crate::locks::Gone;
use crate::node::Node;
use crate::outbox::{Next, Ticket};
use crate::post::Post;
use crate::replication::{Executed, Waiter};
use crate::report::{Answer, Gathering, Question};
use crate::session::{Failure, Session};
use crate::shards::{ShardId, Shards};

/// Buffers kept for the next replies, and the capacity above which one is not kept: the largest value that is copied fits with its
/// line.
const SPARE_BUFFERS_MAX: usize = 64;
const SPARE_BUFFER_BYTES_MAX: usize = LENT_BYTES_MIN + (1 << 10);

/// What a TLS client's first record begins with. No command does.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a binary request begins with.
const BINARY_MAGIC: u8 = 0x80;
/// And what follows if it flushes, loudly or quietly.
const BINARY_FLUSH: u8 = 0x08;
const BINARY_FLUSH_QUIETLY: u8 = 0x18;

/// What one send takes.
#[derive(Debug)]
pub struct Output {
    /// Bytes of ours.
    pub buffer: Vec<u8>,
    /// What is lent with them.
    pub loan: Option<LoanId>,
}

/// What executing requests needs, apart from the connections and the kernel.
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
            let may_wait = self.may_wait_for_others(client, rest)
                || self.may_be_flush(client, rest)
                || !self.executor.shard().has_room_for_any_pin();
            let parser_before = may_wait.then(|| client.parser.clone());
            let step = client.parser.next(rest, &self.limits);
            if let Some(parser_before) = parser_before
                && (self.must_wait_for_value(&step)
                    || self.must_wait_for_node(client, &step)
                    || self.must_wait_for_answers(client, &step))
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

    fn stall(&mut self, client: &mut Connection) {
        client.stalled = true;
        self.executor.traffic.stalls += 1;
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

    /// Whether a request of this connection may be executed.
    pub fn may_execute(&self, client: &Connection) -> bool {
        client.may_execute()
            && self.post.has_room()
            && (!self.budget.outputs_are_full() || client.has_read_all())
    }

    /// Where there is no room to lend: whether a step asks for a large value that can neither be lent now, nor copied within
    /// the budget.
    fn must_wait_for_value(&mut self, step: &Step<'_>) -> bool {
        let Step::Request { request, .. } = step else { return false };
        if self.owner_of(request) != self.me() {
            return false;
        }
        let may_copy = self.budget.output_room().min(COPIED_BYTES_MAX);
        let waits = self.executor.value_bytes_to_copy(self.now, request) > may_copy;
        self.value_waited |= waits;
        waits
    }

    /// Whether the next of these requests may have to wait for another node.
    pub fn may_wait_for_others(&self, client: &Connection, rest: &[u8]) -> bool {
        let Some(links) = &self.cluster else { return false };
        let owed = client.outbox.waiting();
        owed > 0 && client.lines.expect_much(owed + 1)
            || client.lines.expect_large()
            || !links.has_room_for_any(rest.len())
    }

    /// Whether a step puts something to a long value, which takes longer than a turn.
    fn must_extend(&mut self, client: &Connection, step: &Step<'_>) -> bool {
        let Step::Request { request, .. } = step else { return false };
        extends(&request.command)
            && !is_datagram(client.id)
            && self.owner_of(request) == self.me()
            && self.executor.must_extend(self.now, (self.shards.me, client.id), request)
    }

    /// Whether a step is for another node, and there is no room for it on the way or perhaps for its reply here.
    fn must_wait_for_node(&mut self, client: &Connection, step: &Step<'_>) -> bool {
        let Step::Request { ref request, consumed } = *step else { return false };
        let Owner::Elsewhere(hash) = self.owner_of(request) else { return false };
        let Some(links) = &mut self.cluster else { return false };
        let owed = client.outbox.waiting();
        let waits_for_large =
            client.lines.expect_large() && (links.awaits_large() || self.budget.outputs_are_full());
        links.holds(hash)
            || !client.lines.redirects
                && (owed > 0 && client.lines.expect_much(owed + 1)
                    || waits_for_large
                    || links.must_wait(hash, consumed))
    }

    /// Whether the next of these requests may be a flush that has to wait: a guess that costs one look.
    fn may_be_flush(&self, client: &Connection, rest: &[u8]) -> bool {
        let begins_like_it = match rest {
            [BINARY_MAGIC, opcode, ..] => matches!(*opcode, BINARY_FLUSH | BINARY_FLUSH_QUIETLY),
            _ => matches!(rest.first(), Some(b'f' | b' ')),
        };
        begins_like_it && client.outbox.waiting() > 0
    }

    /// Whether a flush would overtake requests of the same client: those that another shard has deferred, those that wait for their
    /// copies, and those that are on their way to other nodes, where it goes by ways of its own.
    fn must_wait_for_answers(&self, client: &Connection, step: &Step<'_>) -> bool {
        let Step::Request { request, .. } = step else { return false };
        let is_flush = matches!(request.command, Command::FlushAll { .. });
        is_flush && client.outbox.waiting() > 0
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
                let place = Place::keep(client, request);
                answer_later(client, place, Err(error));
            }
            Executed::Later(id) => {
                let place = Place::keep(client, request);
                self.executor.attend(id, Waiter::Client(place));
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

    /// Hands one outcome of a letter that has come back to its connection.
    pub fn deliver(&mut self, client: &mut Connection, to: ReturnAddress, outcome: Outcome<'_>) {
        client.letter_came(self.turn);
        match outcome {
            Outcome::Reply(reply) => self.answer_from_shard(client, to, reply),
            Outcome::Lending(reply, lent) => {
                let value = (lent.place, Remote::new(lent));
                client.outbox.deliver_lending(to.ticket, reply, Some(value));
                self.ask_for_slice(client);
            }
            // The post office keeps it.
            Outcome::Bounced | Outcome::Deferred | Outcome::Silence | Outcome::Promised => {}
            Outcome::Begun => {
                // It was not read meanwhile.
                client.heard_at = self.now;
                client.intake.as_mut().expect("it waits for this").begun();
            }
            Outcome::Answer(Answer::Walked(walked), text) => {
                client.outbox.deliver(to.ticket, text);
                self.walked(client, walked);
            }
            Outcome::Answer(Answer::Log, text) => {
                client.outbox.deliver(to.ticket, text);
                if let Some(Stream::Watch(watch)) = &mut client.stream {
                    watch.fetched();
                }
            }
            Outcome::Answer(Answer::Changes, keys) => self.tell_changes(client, keys),
            Outcome::Answer(Answer::Slice, slice) => client.outbox.deliver_slice(slice),
            Outcome::Answer(answer, text) => {
                let add = |gathering: &mut Gathering| gathering.add(answer, text);
                if let Some(gathering) = client.outbox.deliver_part(to.ticket, add) {
                    let mut text = Vec::new();
                    self.render(&gathering, &mut text);
                    client.outbox.deliver(to.ticket, &text);
                }
            }
        }
    }

    /// Executes another shard's letter and sends it back.
    pub fn execute_letter(&mut self, place: usize, batch: Box<Batch>, census: &dyn Fn(&mut Vec<u8>)) {
        let (now, shards, sender) = (self.now, self.shards, self.post.shard_at(place));
        let visit = Visit { executor: &mut self.executor, census, now, shards, sender };
        self.post.execute(place, batch, visit);
    }

    /// What a connection may send now, if there is anything and nothing is on its way.
    pub fn take_output(&mut self, client: &mut Connection) -> Option<Output> {
        if client.sending || client.holds_back() {
            return None;
        }
        let output = match client.session.take() {
            None => self.take_plain(client)?,
            Some(mut session) => {
                let sealed = self.seal(client, &mut session);
                client.session = Some(session);
                Output { buffer: sealed, loan: None }
            }
        };
        if output.buffer.is_empty() && output.loan.is_none() {
            self.keep_spare(output.buffer);
            return None;
        }
        client.await_nodes_no_longer();
        client.sending = true;
        client.sent_at = self.now;
        client.sending_bytes = output.buffer.capacity();
        Some(output)
    }

    fn take_plain(&mut self, client: &mut Connection) -> Option<Output> {
        let bytes = |buffer| Some(Output { buffer, loan: None });
        match client.outbox.next() {
            Next::Nothing => None,
            Next::Bytes => bytes(client.outbox.take_ready(self.spare_buffer())),
            Next::Elsewhere(_) => bytes(self.take_slice(client)),
            Next::Window => {
                let mut buffer = self.spare_buffer();
                let shard = self.executor.shard_mut();
                let window = client.outbox.take_window(shard, WINDOW_BYTES_MAX, &mut buffer);
                let loan = (!window.is_empty()).then(|| self.executor.loans.begin_sending(window));
                Some(Output { buffer, loan })
            }
        }
    }

    /// What may be sealed next, copied.
    fn take_copy(&mut self, client: &mut Connection) -> Vec<u8> {
        match client.outbox.next() {
            Next::Nothing => self.spare_buffer(),
            Next::Bytes => client.outbox.take_ready(self.spare_buffer()),
            Next::Elsewhere(_) => self.take_slice(client),
            Next::Window => {
                let (mut bytes, mut buffer) = (self.spare_buffer(), self.spare_buffer());
                let shard = self.executor.shard_mut();
                let mut copied = 0;
                for (place, mut lent) in client.outbox.take_window(shard, SEALED_BYTES_MAX, &mut bytes) {
                    buffer.extend_from_slice(&bytes[copied..place]);
                    lent.copy_to(shard, usize::MAX, &mut buffer);
                    lent.give_back(shard);
                    copied = place;
                }
                buffer.extend_from_slice(&bytes[copied..]);
                bytes.clear();
                self.keep_spare(bytes);
                buffer
            }
        }
    }

    /// The slice that has come of another shard's value. Asks for the next.
    fn take_slice(&mut self, client: &mut Connection) -> Vec<u8> {
        let (slice, ended) = client.outbox.take_slice();
        if let Some(remote) = ended {
            self.take_back(remote.owner, remote.number);
        }
        self.ask_for_slice(client);
        slice
    }

    /// Asks for the next slice if it is another shard's value that is sent next: one ahead of what is being sent, or none
    /// where memory is short.
    fn ask_for_slice(&mut self, client: &mut Connection) {
        let may_be_ahead = !self.budget.outputs_are_full();
        let Next::Elsewhere(remote) = client.outbox.next() else { return };
        let has_none = !remote.asked && remote.slice.is_empty() && remote.to_ask > 0;
        if has_none && (may_be_ahead || !client.sending) {
            remote.asked = true;
            remote.to_ask -= remote.to_ask.min(SLICE_BYTES);
            let to = ReturnAddress { connection: client.id, ticket: Ticket::NONE };
            self.post.ask(remote.owner, to, Question::Slice(remote.number));
            self.has_more = true;
        }
    }

    /// Tells another shard that its value is not wanted any more.
    pub fn take_back(&mut self, owner: ShardId, number: u32) {
        self.post.ask(owner, ReturnAddress::NOBODY, Question::TakeBack(number));
        self.has_more = true;
    }

    /// Posts the deferred requests of a connection again, if there is room and nothing that it posted behind them is still under
    /// way: that would be deferred too, and something newer could overtake it. Says whether it did.
    pub fn retry_deferred(&mut self, client: &mut Connection) -> bool {
        if client.bounced > 0 {
            for deferred in &mut client.deferred {
                deferred.letter = u64::MAX;
            }
            return false;
        }
        for deferred in client.deferred.iter_mut().filter(|deferred| deferred.letter == u64::MAX) {
            deferred.letter = self.post.letter_of_now(deferred.owner);
        }
        let is_here = |deferred: &Deferred| self.post.is_answered(deferred.owner, deferred.letter);
        if !client.deferred.iter().all(is_here) {
            return false;
        }
        while self.post.has_room()
            && let Some(deferred) = client.deferred.pop()
        {
            self.post.again(deferred.owner, &deferred.requests);
        }
        client.deferred.is_empty()
    }

    /// Tells another shard that a connection, of which it keeps something, will not go on.
    pub fn forget_at(&mut self, owner: ShardId, connection: ConnectionId) {
        self.post.ask(owner, ReturnAddress::NOBODY, Question::Forget(connection));
        self.has_more = true;
    }

    /// Gives back what a connection that ends would have been sent.
    pub fn drop_values(&mut self, client: &mut Connection) {
        for value in client.outbox.take_values() {
            match value {
                Value::Here(lent) => lent.give_back(self.executor.shard_mut()),
                Value::There(remote) => self.take_back(remote.owner, remote.number),
            }
        }
        for deferred in std::mem::take(&mut client.deferred) {
            self.forget_at(deferred.owner, client.id);
        }
    }

    fn seal(&mut self, client: &mut Connection, session: &mut Session) -> Vec<u8> {
        let mut sealed = self.spare_buffer();
        if session.may_speak() {
            let mut plain = self.take_copy(client);
            session.seal(&plain, &mut sealed);
            plain.clear();
            self.keep_spare(plain);
        } else {
            session.seal(&[], &mut sealed);
        }
        if client.ending > Ending::No && (session.is_broken() || !client.stalled && client.outbox.is_empty())
        {
            session.say_goodbye(&mut sealed);
        }
        sealed
    }

    /// An empty buffer for the next replies.
    pub fn spare_buffer(&mut self) -> Vec<u8> {
        self.spare_buffers.pop().unwrap_or_default()
    }

    /// Takes a buffer back whose bytes have left.
    pub fn keep_spare(&mut self, buffer: Vec<u8>) {
        if self.spare_buffers.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BUFFER_BYTES_MAX {
            self.spare_buffers.push(buffer);
        }
    }

    /// All memory that is not the engine's and not fixed, for the budget; the report has the bench too, which is beside the budget.
    pub fn count_all_buffers(&mut self) -> usize {
        let spare: usize = self.spare_buffers.iter().map(Vec::capacity).sum();
        let logs = self.executor.log_capacity_bytes();
        let links = self.cluster.as_ref().map_or(0, |links| links.buffer_bytes());
        let waiting = self.executor.replication.as_ref().map_or(0, |replication| replication.buffer_bytes());
        let front = self.executor.front.as_ref().map_or(0, |front| front.buffer_bytes());
        let fences = self.executor.shard().fence_bytes();
        let locks = self.node.locks.as_ref().map_or(0, |locks| locks.counts.bytes.load(Ordering::Relaxed));
        let locks = locks / usize::from(self.shards.count);
        let bytes = self.budget.bytes()
            + spare
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
