//! Requests of other nodes at the shard that their link ends at: executed here, or by the shard that owns the key, which is an
//! errand. Replies travel whole. Knows no sockets.

use std::collections::{BTreeMap, VecDeque};

use slabring_cluster::forward::Failure;
use slabring_cluster::peers::Asked;
use slabring_cluster::placement::hash_key;
use slabring_cluster::wire::{Flags, Status};
use slabring_protocol::{
    Auth, Command, DialectError, ErrorReply, KEY_SIZE_MAX, Limits, Parser, Protocol, Request, Step, client,
    reply,
};
use slabring_reactor::ConnectionId;

use super::Links;
use super::gathered::Bound;
use crate::batch::{Outcome, ReturnAddress};
use crate::cluster::forward::{PendingReply, answer_later};
use crate::connection::{Connection, Connections};
use crate::dispatch::Dispatcher;
use crate::execute::{Asker, Executor};
use crate::exptime::flush_due;
use crate::outbox::Ticket;
use crate::replication::{Executed, Manner, Waiter};
use crate::report::{Answer, Question};

/// Slots from here on are those of errands: neither the reactor nor the connections
/// know them.
pub(super) const ERRAND_SLOTS: u32 = 3 << 30;

/// A request that another shard executes.
#[derive(Debug, Default)]
struct Errand {
    generation: u32,
    whose: Option<Whose>,
    /// Shards that have not answered yet.
    missing: u16,
    /// Why one of them did not do its part.
    refused: Option<ErrorReply>,
    /// The request while it waits to be posted.
    request: Vec<u8>,
}

/// All errands of a shard: as many as credit allows other nodes.
#[derive(Debug, Default)]
pub(super) struct Errands {
    all: Vec<Errand>,
    free: Vec<u32>,
    /// Those whose request is still to be posted, in order.
    waiting: VecDeque<u32>,
    /// Letters' entries of errands that have bounced, and that the post office has not sent again yet.
    bounced: usize,
    /// Memory of the requests that wait.
    pub(super) bytes: usize,
}

#[derive(Debug)]
enum Whose {
    /// Another node's.
    Node(Asked),
    /// A client's of this node, who had been sent away before the ring changed, for a key of this hash.
    Client(PendingReply, u64),
}

/// Whether this is no connection but stands for a request of another node, whose reply travels whole.
pub fn is_errand(id: ConnectionId) -> bool {
    (ERRAND_SLOTS..ReturnAddress::NOBODY.connection.slot).contains(&id.slot)
}

impl Links {
    /// Answers a request of another node that had to wait.
    pub fn respond_later(&mut self, asked: Asked, manner: Manner, outcome: Result<&[u8], ErrorReply>) {
        self.has_news = true;
        match outcome {
            Ok(reply) => self.peers.respond(asked, Status::Done, reply),
            Err(error) => self.refuse(asked, manner, error),
        }
    }

    /// Says why a request of another node was not executed.
    fn refuse(&mut self, asked: Asked, manner: Manner, error: ErrorReply) {
        if manner.is_part {
            // An error has no place between the values of a line: its origin tells one instead of the end.
            return self.peers.respond(asked, Status::Busy, &[]);
        }
        self.reply.clear();
        if !manner.is_silent {
            reply::error(&mut self.reply, DialectError { error, dialect: manner.dialect });
        }
        self.peers.respond(asked, Status::Done, &self.reply);
    }

    /// What a letter brought back for no connection that is still there: for another node, if `to` is of one.
    pub fn letter_came(
        &mut self,
        to: ReturnAddress,
        outcome: Outcome<'_>,
        dispatcher: &mut Dispatcher,
        connections: &mut Connections,
        note: impl FnOnce(&mut Connection),
    ) {
        let Some(index) = to.connection.slot.checked_sub(ERRAND_SLOTS) else { return };
        // What bounced was not executed, and the post office sends it again.
        if matches!(outcome, Outcome::Bounced) {
            return;
        }
        let errand = &mut self.errands.all[index as usize];
        assert!(errand.generation == to.connection.generation, "a letter comes back once");
        errand.missing -= 1;
        if let Outcome::Answer(Answer::Refused(error), _) = outcome {
            errand.refused = Some(*error);
        }
        if errand.missing > 0 {
            return;
        }
        self.has_news = true;
        let reply = match outcome {
            Outcome::Reply(reply) => reply,
            _ => {
                self.reply.clear();
                match errand.refused {
                    Some(error) => self.reply.extend_from_slice(error.text()),
                    None => reply::ok(&mut self.reply),
                }
                &self.reply[..]
            }
        };
        match errand.whose.take().expect("a letter comes back once") {
            Whose::Node(asked) if asked.flags.has(Flags::PART) && reply::is_server_error(reply) => {
                self.peers.respond(asked, Status::Busy, &[]);
            }
            Whose::Node(asked) => self.peers.respond(asked, Status::Done, reply),
            Whose::Client(place, hash) => {
                has_returned(&mut self.returning, hash);
                if let Some(client) = connections.get_mut(place.to.connection) {
                    dispatcher.answer_from_afar(client, place, Ok(reply));
                    note(client);
                }
            }
        }
        self.end_errand(index);
    }

    fn end_errand(&mut self, index: u32) {
        self.errands.all[index as usize].whose = None;
        self.errands.free.push(index);
    }

    /// A letter's entry of an errand is held back by the post office: nothing newer is posted, lest it overtakes.
    pub fn errand_bounced(&mut self) {
        self.errands.bounced += 1;
    }

    /// The post office sends one of those again.
    pub fn errand_goes_again(&mut self) {
        self.errands.bounced -= 1;
    }

    /// Has another shard execute a request: now, or when there is room in its letter box and those before have gone.
    fn send_errand(&mut self, dispatcher: &mut Dispatcher, whose: Whose, request: Vec<u8>) {
        let errand = self.begin_errand(whose, 1);
        let index = errand.connection.slot - ERRAND_SLOTS;
        self.errands.bytes += request.len();
        self.errands.all[index as usize].request = request;
        self.errands.waiting.push_back(index);
        self.post_errands(dispatcher);
    }

    /// Posts what waits, as far as there is room.
    pub(super) fn post_errands(&mut self, dispatcher: &mut Dispatcher) {
        if self.errands.bounced > 0 {
            return;
        }
        while dispatcher.post.has_room()
            && let Some(index) = self.errands.waiting.pop_front()
        {
            self.post_errand(dispatcher, index);
        }
    }

    fn post_errand(&mut self, dispatcher: &mut Dispatcher, index: u32) {
        let errand = &mut self.errands.all[index as usize];
        let request = std::mem::take(&mut errand.request);
        self.errands.bytes -= request.len();
        if let Some(Whose::Node(asked)) = &errand.whose
            && asked.deadline <= self.now
        {
            self.peers.respond(*asked, Status::Expired, &[]);
            return self.end_errand(index);
        }
        let flags = match errand.whose.as_ref().expect("who waits is awaited") {
            Whose::Node(asked) => asked.flags,
            Whose::Client(place, _) => place.flags(),
        };
        let request = parse(&request, flags, &self.limits).expect("it was a request before");
        let mut scratch = [0; KEY_SIZE_MAX];
        let owner = self.shards.owner_of(request.decoded_key(&mut scratch));
        let connection = ConnectionId { slot: ERRAND_SLOTS + index, generation: errand.generation };
        dispatcher.post.request(owner, ReturnAddress { connection, ticket: Ticket::NONE }, &request);
    }

    fn begin_errand(&mut self, whose: Whose, shards: u16) -> ReturnAddress {
        let index = self.errands.free.pop().unwrap_or_else(|| {
            self.errands.all.push(Errand::default());
            u32::try_from(self.errands.all.len() - 1).expect("credit bounds them")
        });
        let errand = &mut self.errands.all[index as usize];
        errand.generation = errand.generation.wrapping_add(1);
        errand.whose = Some(whose);
        (errand.missing, errand.refused) = (shards, None);
        let connection = ConnectionId { slot: ERRAND_SLOTS + index, generation: errand.generation };
        ReturnAddress { connection, ticket: Ticket::NONE }
    }

    /// Executes a request of another node, or has its shard do so. Plain gets may wait for others to be executed together with.
    pub(super) fn execute(&mut self, dispatcher: &mut Dispatcher, asked: Asked) {
        dispatcher.executor.traffic.peer_requests += 1;
        if self.gather(dispatcher, asked) {
            return;
        }
        self.execute_gathered(dispatcher, Bound::Exceeded);
        if asked.flags.has(Flags::RUN) {
            return self.execute_run(dispatcher, asked);
        }
        if asked.flags.has(Flags::NODE) {
            return self.execute_for_node(dispatcher, asked);
        }
        let body = self.peers.body();
        let request = match parse(body, asked.flags, &self.limits) {
            Ok(request) => request,
            Err(error) => {
                self.reply.clear();
                reply::error(&mut self.reply, error);
                return self.peers.respond(asked, Status::Done, &self.reply);
            }
        };
        let mut scratch = [0; KEY_SIZE_MAX];
        let owner = self.shards.owner_of(request.decoded_key(&mut scratch));
        if owner == self.shards.me {
            let connection = self.shards.connection_number(owner, ERRAND_SLOTS);
            let attempt = attempt(dispatcher, asked, &request, connection, &mut self.reply);
            self.answer_attempt(asked, attempt);
        } else {
            let body = body.to_vec();
            self.send_errand(dispatcher, Whose::Node(asked), body);
        }
    }

    /// Executes one get of several that cannot be executed together.
    pub(super) fn get_alone(&mut self, dispatcher: &mut Dispatcher, asked: Asked, key: &[u8]) {
        let owner = self.shards.owner_of(key);
        if owner == self.shards.me {
            let connection = self.shards.connection_number(owner, ERRAND_SLOTS);
            let request = Request::get(key, false);
            let attempt = attempt(dispatcher, asked, &request, connection, &mut self.reply);
            self.answer_attempt(asked, attempt);
        } else {
            let mut line = Vec::new();
            client::get_one(&mut line, key, false);
            self.send_errand(dispatcher, Whose::Node(asked), line);
        }
    }

    fn answer_attempt(&mut self, asked: Asked, attempt: Attempt) {
        match attempt {
            Attempt::Done => self.peers.respond(asked, Status::Done, &self.reply),
            Attempt::Refused(manner, error) => self.refuse(asked, manner, error),
            Attempt::Waits => {}
        }
    }

    /// Executes what another node asks of this one as a whole: `flush_all`, and nothing else.
    fn execute_for_node(&mut self, dispatcher: &mut Dispatcher, asked: Asked) {
        let refusal = match Parser::new(Protocol::Text, Auth::Open).next(self.peers.body(), &self.limits) {
            Step::Request { request, .. } => match request.command {
                Command::FlushAll { .. } if !self.node.settings.flush_enabled => ErrorReply::FlushNotAllowed,
                Command::FlushAll { delay } => return self.flush_all(dispatcher, asked, delay),
                _ => ErrorReply::Error,
            },
            _ => ErrorReply::Error,
        };
        self.peers.respond(asked, Status::Done, refusal.text());
    }

    fn flush_all(&mut self, dispatcher: &mut Dispatcher, asked: Asked, delay: i64) {
        let question = Question::Flush { due: flush_due(delay, dispatcher.now), epoch: asked.epoch };
        let answer = dispatcher.executor.answer(dispatcher.now, question, &mut Vec::new());
        if let Answer::Refused(error) = answer {
            self.peers.respond(asked, Status::Done, error.text());
        } else if self.shards.count == 1 {
            self.reply.clear();
            reply::ok(&mut self.reply);
            self.peers.respond(asked, Status::Done, &self.reply);
        } else {
            let sender = self.begin_errand(Whose::Node(asked), self.shards.count - 1);
            dispatcher.post.ask_all(sender, question);
        }
    }

    /// Executes a client's request that was sent away and belongs here since the ring has changed.
    pub(super) fn execute_here(
        &mut self,
        dispatcher: &mut Dispatcher,
        client: &mut Connection,
        place: PendingReply,
        body: &[u8],
    ) {
        let Ok(request) = parse(body, place.flags(), &self.limits) else {
            return dispatcher.answer_from_afar(client, place, Err(Failure::Unsettled));
        };
        let mut scratch = [0; KEY_SIZE_MAX];
        let owner = self.shards.owner_of(request.decoded_key(&mut scratch));
        if owner == self.shards.me {
            self.reply.clear();
            let connection = self.shards.connection_number(owner, client.id.slot);
            let (executor, now) = (&mut dispatcher.executor, dispatcher.now);
            if !executor.asks_others(&request) {
                executor.execute(now, &request, connection, &mut self.reply);
                return dispatcher.answer_from_afar(client, place, Ok(&self.reply));
            }
            let asker = Asker { connection, is_local: true };
            match executor.execute_copied(now, &request, asker, &mut self.reply) {
                Executed::Now => dispatcher.answer_from_afar(client, place, Ok(&self.reply)),
                Executed::Refused(error) => answer_later(client, place, Err(error)),
                Executed::Later(id) => executor.attend(id, Waiter::Client(place)),
            }
        } else {
            let (body, hash) = (body.to_vec(), hash_key(request.decoded_key(&mut scratch)));
            *self.returning.entry(hash).or_default() += 1;
            self.send_errand(dispatcher, Whose::Client(place, hash), body);
        }
    }
}

/// What has come of a request of another node.
#[derive(Clone, Copy)]
enum Attempt {
    Done,
    Refused(Manner, ErrorReply),
    /// It is answered later.
    Waits,
}

/// Executes a request of another node for a key of this shard; the reply is in `reply`.
fn attempt(
    dispatcher: &mut Dispatcher,
    asked: Asked,
    request: &Request<'_>,
    connection: u32,
    reply: &mut Vec<u8>,
) -> Attempt {
    reply.clear();
    let (executor, now) = (&mut dispatcher.executor, dispatcher.now);
    if !executor.asks_others(request) {
        executor.execute(now, request, connection, reply);
        offer(executor, asked, request);
        return Attempt::Done;
    }
    let manner = Manner::of(request);
    // The number of a tracker that another node gave out means nothing here.
    let asker = Asker { connection, is_local: false };
    let executed = executor.execute_copied(now, request, asker, reply);
    offer(executor, asked, request);
    match executed {
        Executed::Now => Attempt::Done,
        Executed::Refused(error) => Attempt::Refused(manner, error),
        Executed::Later(id) => {
            executor.attend(id, Waiter::Node(asked));
            Attempt::Waits
        }
    }
}

/// A request for a key of this hash that had been sent away was executed by another shard of this node.
fn has_returned(returning: &mut BTreeMap<u64, usize>, hash: u64) {
    let count = returning.get_mut(&hash).expect("it was counted");
    *count -= 1;
    if *count == 0 {
        returning.remove(&hash);
    }
}

/// Tells another node that it may have a copy of a key that is asked for very often.
#[inline]
pub(super) fn offer(executor: &mut Executor, asked: Asked, request: &Request<'_>) {
    if executor.take_hot_sample(request.key)
        && matches!(request.command, Command::Get { .. } | Command::MetaGet(_))
    {
        executor.front.iter_mut().for_each(|front| front.offer(asked.link(), request.key));
    }
}

/// The one request that another node may send in one message.
fn parse<'b>(body: &'b [u8], flags: Flags, limits: &Limits) -> Result<Request<'b>, ErrorReply> {
    let protocol = if flags.has(Flags::BINARY) { Protocol::Binary } else { Protocol::Text };
    match Parser::new(protocol, Auth::Open).next(body, limits) {
        Step::Request { request, .. } if request.command.is_keyed() => Ok(request),
        // Its origin has let it pass, so it is larger than this node allows.
        Step::Incomplete { .. } => Err(ErrorReply::TooLarge),
        _ => Err(ErrorReply::Error),
    }
}
