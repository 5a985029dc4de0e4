//! The loop of one shard thread: everything that can wake it, matched in one place. Who is closed, and how the thread ends, is in files of
//! its own.
//!
//! ```text
//! turn: kernel events -> letters of other shards -> what was said of locks -> links to other nodes and what copies ask for
//!   -> connections that had to wait -> frames to other nodes out -> letters out -> replies out -> upkeep -> a step towards the end
//! ```
//!
//! One system call a turn, one send per connection and turn, one letter per other shard and turn.

mod closing;
mod ending;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use slabring_engine::{Seconds, Shard};
use slabring_protocol::reply::CloseReason;
use slabring_protocol::{Auth, ErrorReply, Parser, reply};
use slabring_reactor::clock::Moment;
use slabring_reactor::{ConnectionId, EndCause, Event, Io, Wait, Waker};
use tracing::{info, warn};

use self::ending::{Phase, STOP_TURN};
use crate::arrivals::{Arrival, place_for};
use crate::batch::{Batch, Gate, Outcome, ReturnAddress, Senders};
use crate::budget::is_jammed;
use crate::census::describe;
use crate::cluster::forward::answer_later;
use crate::cluster::links::{Links, is_errand};
use crate::connection::{Connection, Connections, Deferred, Ending, OUTPUT_BYTES_LOW, Peer};
use crate::datagrams::{Datagrams, Sender, is_datagram};
use crate::dispatch::{Dispatcher, Output, refuse_input};
use crate::execute::Executor;
use crate::gather::{Gathered, SMALL_PACKET_BYTES};
use crate::listeners::Entrance;
use crate::live::Held;
use crate::node::Node;
use crate::post::{Letter, Post};
use crate::replication::{Finished, Waiter};
use crate::report::Answer;
use crate::session::Session;
use crate::shards::Shards;
use crate::tls::TlsConfigs;
use crate::track::TRACK_PAUSE;
use crate::watch::FETCH_PAUSE;

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
/// Bounced requests of one connection that are sent again in one turn: each may bring a value of the largest kind.
const RESENT_MAX: usize = 4;
/// Deferred requests are posted again after this time.
const RETRY_PAUSE: Duration = Duration::from_millis(2);
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
    dispatcher: Dispatcher,
    /// Connections with requests that were deferred, and when they were last posted again.
    deferring: Vec<ConnectionId>,
    retried_at: Moment,
    /// Small packets of this turn.
    gathered: Gathered,
    /// What connections begin with, by their listener.
    entrances: Vec<Entrance>,
    /// Datagrams that are being answered.
    datagrams: Datagrams,
    /// What connections with TLS begin with.
    tls: Held<TlsConfigs>,
    phase: Phase,
    last_upkeep: Seconds,
    /// Chunks that the sweeper has still to examine in this second.
    sweep_due_chunks: usize,
    /// Items have still to go for a lower limit on memory.
    settling: bool,
}

impl<I: Io> ShardThread<I> {
    /// A thread ready to run.
    pub fn new(
        node: Arc<Node>,
        shards: Shards,
        io: I,
        executor: Executor,
        post: Post,
        entrances: Vec<Entrance>,
    ) -> Self {
        let dispatcher = Dispatcher::new(Arc::clone(&node), shards, executor, post);
        Self {
            waker: io.waker(),
            connections: Connections::default(),
            touched: Vec::new(),
            stalled: Vec::new(),
            deferring: Vec::new(),
            retried_at: Moment::now(),
            gathered: Gathered::default(),
            entrances,
            datagrams: Datagrams::default(),
            tls: Held::default(),
            phase: Phase::Serving,
            last_upkeep: dispatcher.now,
            sweep_due_chunks: 0,
            settling: false,
            dispatcher,
            node,
            shards,
            io,
        }
    }

    /// Runs until the node is told to stop and everything received is answered. What is left is the items.
    pub fn run(mut self) -> Result<Shard> {
        while !self.is_finished() {
            self.turn()?;
        }
        Ok(self.end())
    }

    /// Takes everything back that is lent: with the reactor goes the last who reads it.
    fn end(mut self) -> Shard {
        self.connections.ids().into_iter().for_each(|id| self.close(id, CloseReason::Shutdown));
        drop(self.io);
        let mut executor = self.dispatcher.executor;
        executor.end_loans();
        executor.end_visits();
        executor.end_extending();
        executor.into_shard()
    }

    /// One turn of the loop.
    pub fn turn(&mut self) -> Result<()> {
        let wait = self.how_long_to_wait();
        self.io.turn(wait).context("the I/O backend failed")?;
        let began = Moment::now();
        self.waker.awake();
        self.dispatcher.now = Seconds(self.node.clock.unix_seconds());
        self.dispatcher.turn = self.io.counters().turns;
        self.dispatcher.executor.look_who_watches(&self.node.watchers);
        self.dispatcher.executor.look_who_tracks(&self.node.trackers);
        self.begin_cluster_turn();
        self.handle_events();
        self.handle_letters();
        self.hand_out_locks();
        self.run_links();
        self.run_copies();
        self.run_front();
        self.tell_connections();
        self.continue_waiting();
        self.retry_deferred();
        self.flush_links();
        self.publish_letters();
        self.settle_touched();
        self.upkeep();
        self.proceed_to_end();
        self.dispatcher.executor.turns.count(Moment::now().since_ns(began));
        Ok(())
    }

    /// What a fuzzer drives and looks at.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn parts(&mut self) -> (&mut I, &Connections, &Dispatcher) {
        (&mut self.io, &self.connections, &self.dispatcher)
    }

    /// Sleeps only if no letter waits, and tells the others so first.
    fn how_long_to_wait(&mut self) -> Wait {
        if self.shards.count > 1 {
            self.waker.prepare_sleep();
            if !self.dispatcher.post.is_empty() {
                self.waker.awake();
                return Wait::Poll;
            }
        }
        if std::mem::take(&mut self.dispatcher.has_more) {
            self.waker.awake();
            return Wait::Poll;
        }
        let links = self.dispatcher.cluster.as_ref();
        let for_links = links.map_or(SLEEP_MAX, |links| links.sleep_max());
        let copies = self.dispatcher.executor.replication.as_ref();
        let for_copies = copies.map_or(SLEEP_MAX, |copies| Duration::from_micros(copies.sleep_max().0));
        let front = self.dispatcher.executor.front.as_ref();
        let for_front = front.map_or(SLEEP_MAX, |front| Duration::from_micros(front.sleep_max().0));
        let for_cluster = for_links.min(for_copies).min(for_front);
        Wait::AtMost(for_cluster.min(match self.phase {
            Phase::Serving if self.sweep_due_chunks > 0 || self.settling => SWEEP_PAUSE,
            Phase::Serving if !self.deferring.is_empty() || !self.dispatcher.locks_gone.is_empty() => {
                RETRY_PAUSE
            }
            Phase::Serving if self.dispatcher.tracking > 0 => TRACK_PAUSE,
            Phase::Serving if self.dispatcher.watching > 0 => FETCH_PAUSE,
            Phase::Serving => SLEEP_MAX,
            Phase::Stopping(_) | Phase::Draining(_) | Phase::Drained(_) => STOP_TURN,
        }))
    }

    fn handle_events(&mut self) {
        while let Some(event) = self.io.next_event() {
            match event {
                Event::Received { connection, data }
                    if is_of_link(&mut self.dispatcher, |links| links.received(connection, data)) => {}
                Event::Sent { connection, buffer, .. }
                    if is_of_link(&mut self.dispatcher, |links| links.sent(connection)) =>
                {
                    self.dispatcher.keep_spare(buffer);
                }
                Event::Ended { connection, .. }
                    if is_of_link(&mut self.dispatcher, |links| links.ended(connection)) => {}
                Event::Received { connection, data } if data.len() <= SMALL_PACKET_BYTES => {
                    self.gathered.push(connection, data);
                }
                Event::Received { connection, data } => {
                    // What came before it may be of the same connection.
                    let note = |client: &mut Connection| touch(&mut self.touched, client);
                    self.gathered.execute(&mut self.dispatcher, &mut self.connections, note);
                    let Some(client) = self.connections.get_mut(connection) else { continue };
                    self.dispatcher.received(client, data);
                    touch(&mut self.touched, client);
                }
                Event::Sent { connection, buffer, sent_bytes } => {
                    self.dispatcher.executor.traffic.bytes_written += sent_bytes as u64;
                    self.dispatcher.keep_spare(buffer);
                    let Some(client) = self.connections.get_mut(connection) else { continue };
                    client.sending = false;
                    client.sending_bytes = 0;
                    touch(&mut self.touched, client);
                }
                Event::Readable(connection) => self.read_value(connection),
                Event::Returned(loan) => self.dispatcher.executor.end_sending(loan),
                Event::Accepted { stream, listener } => {
                    let entrance = self.entrances[listener.0 as usize];
                    self.arrived(Arrival { stream, entrance });
                }
                Event::Ended { connection, cause: EndCause::EndOfStream } => {
                    let Some(client) = self.connections.get_mut(connection) else { continue };
                    client.ending = client.ending.max(Ending::AfterInput);
                    self.dispatcher.end_lock_waits(client);
                    touch(&mut self.touched, client);
                }
                // Nothing can be sent any more, so nothing is owed.
                Event::Ended { connection, cause: EndCause::Failed(_) } => {
                    self.close(connection, CloseReason::Error);
                }
                Event::Datagram { socket, from, data } => {
                    let sender = Sender { socket, address: from };
                    let (connections, dispatcher) = (&mut self.connections, &mut self.dispatcher);
                    let id = self.datagrams.received(sender, data, connections, dispatcher);
                    if let Some(client) = id.and_then(|id| self.connections.get_mut(id)) {
                        touch(&mut self.touched, client);
                    }
                }
                Event::Woken => self.take_arrivals(),
            }
        }
        let note = |client: &mut Connection| touch(&mut self.touched, client);
        self.gathered.execute(&mut self.dispatcher, &mut self.connections, note);
    }

    /// Receives a part of a large value, straight to where it belongs.
    fn read_value(&mut self, id: ConnectionId) {
        let Some(client) = self.connections.get_mut(id) else { return };
        touch(&mut self.touched, client);
        if Dispatcher::is_for_hands(client) {
            self.receive_value(id);
        }
    }

    fn receive_value(&mut self, id: ConnectionId) {
        let client = self.connections.get_mut(id).expect("the caller has looked");
        match self.dispatcher.receive_value(client, |places| self.io.receive_into(id, places)) {
            Ok(Some(0)) => client.ending = client.ending.max(Ending::AfterInput),
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(_) => self.close(id, CloseReason::Error),
        }
    }

    /// Follows a newer ring, and tells clients who look for the nodes.
    fn begin_cluster_turn(&mut self) {
        if let Some(links) = &mut self.dispatcher.cluster
            && links.begin_turn(&mut self.dispatcher.executor)
            && let Some(view) = links.view()
        {
            self.dispatcher.executor.set_discovery(view.discovery.value());
            links.follow_copies(&mut self.dispatcher.executor, self.dispatcher.now);
            if let Some(old) = links.take_old()
                && !self.dispatcher.executor.replicates()
            {
                self.dispatcher.executor.drop_old(&old);
                info!("shard {} begins anew with keys that others have owned", self.shards.me.0);
            }
            self.dispatcher.executor.forget_copies();
        }
    }

    /// Does what the links to other nodes ask for.
    fn run_links(&mut self) {
        let Some(mut links) = self.dispatcher.cluster.take() else { return };
        let note = |client: &mut Connection| touch(&mut self.touched, client);
        links.run(&mut self.io, &mut self.dispatcher, &mut self.connections, note);
        self.dispatcher.cluster = Some(links);
    }

    /// Does what copies on other nodes ask for, and hands out the replies that waited for them.
    fn run_copies(&mut self) {
        let Some(mut replication) = self.dispatcher.executor.replication.take() else { return };
        let links = self.dispatcher.cluster.as_mut().expect("only a node of several has copies elsewhere");
        if replication.wants_to_hear(links.now()) {
            links.heard().for_each(|(node, at)| replication.heard(node, at));
        }
        replication.turn(&mut self.dispatcher.executor, self.dispatcher.now, links.confirmed_at());
        for (to, message) in replication.take_sends() {
            links.send_replica(to, &message);
        }
        for (to, message) in replication.take_touches() {
            let is_sent = links.send_touches(to, &message);
            self.dispatcher.executor.traffic.touches_sent += u64::from(is_sent);
        }
        replication.take_word().into_iter().for_each(|word| links.say(word));
        let finished = replication.take_finished();
        self.dispatcher.executor.replication = Some(replication);
        self.hand_out(finished);
    }

    /// Executes what waited until copies of its keys are not read any more.
    fn run_front(&mut self) {
        self.dispatcher.executor.guard(self.dispatcher.now);
        let finished = self.dispatcher.executor.front.as_mut().map(|front| front.take_finished());
        self.hand_out(finished.unwrap_or_default());
    }

    /// Hands out replies that waited for other nodes.
    fn hand_out(&mut self, finished: Vec<Finished>) {
        for Finished { waiter, manner, outcome } in finished {
            let outcome = outcome.as_deref().map_err(|error| *error);
            match waiter {
                Waiter::Client(place) => {
                    if let Some(client) = self.connections.get_mut(place.to.connection) {
                        answer_later(client, place, outcome);
                        touch(&mut self.touched, client);
                    }
                }
                Waiter::Shard(shard, to) => {
                    let reply = manner.reply(outcome);
                    self.dispatcher.post.deliver(shard, to, &reply);
                }
                Waiter::Node(asked) => {
                    let links = self.dispatcher.cluster.as_mut().expect("it has asked on one of them");
                    links.respond_later(asked, manner, outcome);
                }
            }
        }
    }

    /// Hands out replies that other shards have made later than in their letters.
    fn hand_out_deliveries(&mut self) {
        for (to, reply) in std::mem::take(&mut self.dispatcher.executor.deliveries) {
            match self.connections.get_mut(to.connection) {
                Some(client) => {
                    self.dispatcher.deliver(client, to, Outcome::Reply(&reply));
                    touch(&mut self.touched, client);
                }
                None if is_errand(to.connection) => self.deliver_errand(to, Outcome::Reply(&reply)),
                None => {}
            }
        }
    }

    fn flush_links(&mut self) {
        let Some(mut links) = self.dispatcher.cluster.take() else { return };
        links.send_grants(&mut self.dispatcher.executor);
        links.release_held(&mut self.connections, |client| touch(&mut self.touched, client));
        links.flush(&mut self.io, &mut self.dispatcher);
        self.dispatcher.cluster = Some(links);
    }

    /// Keeps a connection that the kernel has given to this shard, or hands it to one with fewer clients.
    fn arrived(&mut self, arrival: Arrival) {
        let (all, me) = (&self.node.arrivals, self.shards.me.index());
        let place = if arrival.entrance.direct { me } else { place_for(all, me) };
        let arrival = match place == me {
            true => arrival,
            false => match all[place].push(arrival) {
                Ok(()) => {
                    self.dispatcher.executor.traffic.connections_handed_over += 1;
                    return self.node.wake(place);
                }
                Err(arrival) => arrival,
            },
        };
        all[me].came();
        self.adopt(arrival);
    }

    /// Takes over connections from the unix socket, from other shards and of other nodes.
    fn take_arrivals(&mut self) {
        if let Some(links) = &mut self.dispatcher.cluster {
            links.take_arrivals(&mut self.io);
        }
        while let Some(arrival) = self.node.arrivals[self.shards.me.index()].take() {
            self.adopt(arrival);
        }
    }

    /// Begins to serve a connection that is counted already.
    fn adopt(&mut self, arrival: Arrival) {
        match self.io.adopt(arrival.stream) {
            Ok(id) => self.accepted(id, arrival.entrance),
            Err(error) => {
                self.node.arrivals[self.shards.me.index()].went();
                warn!("cannot take over a connection: {error}");
            }
        }
    }

    fn accepted(&mut self, id: ConnectionId, entrance: Entrance) {
        let auth = if self.node.users.is_some() { Auth::Required } else { Auth::Open };
        let parser = Parser::new(entrance.protocol.into(), auth);
        self.connections.insert(id, parser, self.dispatcher.now);
        let client = self.connections.get_mut(id).expect("inserted just now");
        client.listener = entrance.listener;
        client.peer = self.io.peer(id).map_or(Peer::Unknown, |peer| match peer.as_socket() {
            Some(address) => Peer::Tcp(address),
            None => Peer::Local,
        });
        self.dispatcher.note_arrival(client);
        if let Some(tls) = &self.node.tls
            && let Some(config) = self.tls.get(tls).for_use(entrance.tls)
        {
            let session = Session::new(config, self.dispatcher.now).expect("the configuration was checked");
            let client = self.connections.get_mut(id).expect("inserted just now");
            client.session = Some(Box::new(session));
            self.dispatcher.budget.count_session();
            self.dispatcher.executor.traffic.tls_sessions += 1;
        }
        let traffic = &mut self.dispatcher.executor.traffic;
        traffic.connections_total += 1;
        let before = self.node.connections.fetch_add(1, Ordering::Relaxed);
        if before >= self.node.max_connections.load(Ordering::Relaxed) {
            traffic.connections_rejected += 1;
            let client = self.connections.get_mut(id).expect("inserted just now");
            client.outbox.local(|out| reply::error(out, ErrorReply::TooManyConnections));
            client.ending = Ending::AfterOutput;
            touch(&mut self.touched, client);
        }
    }

    fn handle_letters(&mut self) {
        while let Some((place, letter)) = self.dispatcher.post.take() {
            // Its sender may follow a newer ring than this shard did when the turn began.
            self.begin_cluster_turn();
            match letter {
                Letter::Requests(batch) => {
                    let (connections, node, shards) = (&self.connections, &self.node, self.shards);
                    let now = self.dispatcher.now;
                    let census = |out: &mut Vec<u8>| describe(out, connections, node, shards, now);
                    self.dispatcher.execute_letter(place, batch, &census);
                }
                Letter::Replies(batch) => {
                    self.deliver(&batch);
                    self.keep_deferred(place, &batch);
                    let turn = self.io.counters().turns;
                    let links = self.dispatcher.cluster.as_deref_mut();
                    let mut senders = Resending { connections: &mut self.connections, links, turn };
                    self.dispatcher.post.recycle(place, batch, &mut senders);
                }
            }
        }
        self.hand_out_deliveries();
    }

    /// Hands out what was said of locks.
    fn hand_out_locks(&mut self) {
        self.dispatcher.tell_who_is_gone();
        let note = |client: &mut Connection| touch(&mut self.touched, client);
        self.dispatcher.take_lock_answers(&mut self.connections, note);
    }

    /// Tells those of this shard who asked of this shard's connections.
    fn tell_connections(&mut self) {
        for to in std::mem::take(&mut self.dispatcher.census_wanted) {
            let mut text = Vec::new();
            describe(&mut text, &self.connections, &self.node, self.shards, self.dispatcher.now);
            let Some(client) = self.connections.get_mut(to.connection) else { continue };
            self.dispatcher.deliver(client, to, Outcome::Answer(&Answer::Done, &text));
            touch(&mut self.touched, client);
        }
    }

    /// Hands out the replies of a batch that has come back. Those for connections that are gone are dropped.
    fn deliver(&mut self, batch: &Batch) {
        for (to, outcome) in batch.outcomes() {
            match self.connections.get_mut(to.connection) {
                Some(client) => {
                    self.dispatcher.deliver(client, to, outcome);
                    touch(&mut self.touched, client);
                }
                None if matches!(outcome, Outcome::Promised) => {}
                None if is_errand(to.connection) => self.deliver_errand(to, outcome),
                None => {
                    if let Outcome::Lending(_, lent) = outcome {
                        self.dispatcher.take_back(lent.owner, lent.number);
                    }
                }
            }
        }
    }

    /// Keeps what could not be executed with its connections, to be posted again.
    fn keep_deferred(&mut self, place: usize, batch: &Batch) {
        if !batch.has_deferred() {
            return;
        }
        self.dispatcher.value_waited = true;
        let owner = self.dispatcher.post.shard_at(place);
        let (connections, deferring) = (&mut self.connections, &mut self.deferring);
        let touched = &mut self.touched;
        let mut gone = Vec::new();
        let letter = self.dispatcher.post.letter_of_now(owner);
        batch.hand_out_deferred(|id, append| {
            let Some(client) = connections.get_mut(id) else { return gone.push(id) };
            if client.deferred.is_empty() {
                deferring.push(id);
            }
            let at = client.deferred.iter().position(|deferred| deferred.owner == owner);
            let at = at.unwrap_or_else(|| {
                client.deferred.push(Deferred { owner, requests: Batch::default(), letter });
                client.deferred.len() - 1
            });
            append(&mut client.deferred[at].requests);
            touch(touched, client);
        });
        gone.into_iter().for_each(|id| self.dispatcher.forget_at(owner, id));
    }

    /// Posts deferred requests again from time to time: values are lent for as long as it takes to send them. Values that wait to be
    /// taken in go in line; where that does not move, who came last goes first.
    fn retry_deferred(&mut self) {
        if self.deferring.is_empty() || Moment::now() < self.retried_at.after(RETRY_PAUSE) {
            return;
        }
        self.retried_at = Moment::now();
        let (connections, dispatcher) = (&mut self.connections, &mut self.dispatcher);
        let intake_of = |id: &ConnectionId| connections.get(*id)?.intake.as_deref();
        self.deferring.sort_by_cached_key(|id| intake_of(id).map(|intake| intake.number));
        let first = self.deferring.iter().find_map(intake_of);
        if first.is_some_and(|first| is_jammed(first.progress().0, dispatcher.now)) {
            self.deferring.reverse();
        }
        self.deferring
            .retain(|&id| connections.get_mut(id).is_some_and(|client| !dispatcher.retry_deferred(client)));
    }

    fn deliver_errand(&mut self, to: ReturnAddress, outcome: Outcome<'_>) {
        let Some(mut links) = self.dispatcher.cluster.take() else { return };
        let note = |client: &mut Connection| touch(&mut self.touched, client);
        links.letter_came(to, outcome, &mut self.dispatcher, &mut self.connections, note);
        self.dispatcher.cluster = Some(links);
    }

    /// Goes on with connections whose way has become free.
    fn continue_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.stalled);
        let mut served = 0;
        waiting.retain(|&id| {
            let Some(client) = self.connections.get_mut(id) else { return false };
            if client.stalled && client.outbox.bytes() < OUTPUT_BYTES_LOW {
                let unread = client.input.unread().len();
                self.dispatcher.execute_input(client);
                served += usize::from(client.stalled && client.input.unread().len() < unread);
                touch(&mut self.touched, client);
            }
            client.listed = client.stalled;
            client.stalled
        });
        // Who had its part of the room there was lets others go first next time.
        waiting.rotate_left(served);
        // Connections that stall from here on are added by `settle_touched`.
        self.stalled = waiting;
        let (touched, now) = (&mut self.touched, self.dispatcher.now);
        self.dispatcher.budget.admit(&mut self.connections, now, |client| {
            client.unfinished_since = now;
            touch(touched, client);
        });
    }

    /// Sends this turn's letters. Bounced requests go again for connections that read their replies, a few at a time.
    fn publish_letters(&mut self) {
        let turn = self.io.counters().turns;
        let links = self.dispatcher.cluster.as_deref_mut();
        let mut senders = Resending { connections: &mut self.connections, links, turn };
        self.dispatcher.post.publish(&mut self.io, &mut senders);
    }

    /// The end of the turn for each connection that it changed: send, pause or resume, count, close.
    fn settle_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            let Some(client) = self.connections.get_mut(id) else { continue };
            client.touched = false;
            if is_datagram(id) {
                let (connections, dispatcher) = (&mut self.connections, &mut self.dispatcher);
                if self.datagrams.settle(id, &mut self.io, connections, dispatcher) {
                    self.close(id, CloseReason::Normal);
                } else {
                    let client = self.connections.get_mut(id).expect("seen just now");
                    list_if_stalled(&mut self.stalled, client);
                }
                continue;
            }
            if !client.by_hand && Dispatcher::is_for_hands(client) && self.io.may_receive_now(id) {
                // The rest of a value is often there already: then nobody has to be told of it first.
                self.receive_value(id);
            }
            let Some(client) = self.connections.get_mut(id) else { continue };
            if let Some(Output { buffer, loan }) = self.dispatcher.take_output(client) {
                match loan {
                    None => self.io.send(id, buffer),
                    Some(loan) => {
                        let pieces = self.dispatcher.executor.lent_pieces(loan);
                        self.io.send_lent(id, buffer, loan, pieces);
                    }
                }
            }
            list_if_stalled(&mut self.stalled, client);
            let has_enough = client.stalled && client.input.unread().len() >= STALLED_INPUT_BYTES_MAX;
            let pause = has_enough || client.waits_for_memory;
            if pause != client.paused {
                client.paused = pause;
                if pause {
                    self.io.pause(id);
                } else {
                    client.resumed_at = (self.phase != Phase::Serving).then(Moment::now);
                    self.io.resume(id);
                }
            }
            let by_hand = Dispatcher::is_for_hands(client);
            if by_hand != client.by_hand {
                client.by_hand = by_hand;
                self.io.read_by_hand(id, by_hand);
            }
            self.dispatcher.budget.count(client);
            if client.is_over() {
                self.close(id, CloseReason::Normal);
            }
        }
        self.touched = touched;
    }

    fn close(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some(mut client) = self.connections.remove(id) else { return };
        self.dispatcher.drop_values(&mut client);
        self.dispatcher.drop_intake(&mut client);
        self.dispatcher.executor.drop_extending((self.shards.me, id));
        self.dispatcher.budget.forget(&client);
        if is_datagram(id) {
            return self.datagrams.forget(id);
        }
        self.io.close(id);
        self.dispatcher.note_departure(&client, reason);
        self.dispatcher.end_watch(&client);
        self.dispatcher.end_track(&client);
        self.dispatcher.end_lock_waits(&client);
        self.node.connections.fetch_sub(1, Ordering::Relaxed);
        self.node.arrivals[self.shards.me.index()].went();
    }

    /// A step of the sweeper, and once a second the memory accounts and statistics.
    fn upkeep(&mut self) {
        let (now, executor) = (self.dispatcher.now, &mut self.dispatcher.executor);
        self.settling = executor.settle(now);
        if executor.take_sweep_wanted() {
            self.sweep_due_chunks = executor.shard().sweep_round();
        }
        let step = self.sweep_due_chunks.min(SWEEP_STEP_CHUNKS);
        if step > 0 {
            self.sweep_due_chunks -= step;
            let swept = executor.shard_mut().sweep(now, step);
            executor.note_evictions(now);
            executor.traffic.swept += swept.examined as u64;
            executor.traffic.sweep_reclaimed += swept.freed as u64;
        }
        if now == self.last_upkeep {
            return;
        }
        self.last_upkeep = now;
        executor.end_second(now);
        executor.io = *self.io.counters();
        self.dispatcher.post.shed();
        let buffers = self.dispatcher.count_all_buffers();
        self.dispatcher.executor.shard_mut().set_external_bytes(buffers);
        let report = self.dispatcher.executor.report();
        let chunks = self.dispatcher.executor.shard().sweep_round();
        // What a client has asked for goes on.
        self.sweep_due_chunks = self.sweep_due_chunks.max(chunks.div_ceil(SWEEP_PERIOD_SECONDS));
        self.node.published[self.shards.me.index()].store(&report);
        self.refuse_overdue();
        self.close_hopeless();
        for id in self.datagrams.overdue(&self.connections, now.0) {
            self.dispatcher.executor.traffic.datagrams_dropped += 1;
            self.close(id, CloseReason::Error);
        }
    }

    /// Gives up large inputs that have waited for memory, or kept it from others, too long.
    fn refuse_overdue(&mut self) {
        for id in self.dispatcher.budget.overdue(&self.connections, self.dispatcher.now) {
            let client = self.connections.get_mut(id).expect("the budget has just found it");
            let waited = client.waits_for_memory;
            if !(waited && self.dispatcher.refuse_value(client)) {
                refuse_input(client);
            }
            touch(&mut self.touched, client);
        }
        self.settle_touched();
    }
}

/// Whether an event is of a link to another node, which `ask` hands it to.
fn is_of_link(dispatcher: &mut Dispatcher, ask: impl FnOnce(&mut Links) -> bool) -> bool {
    dispatcher.cluster.as_deref_mut().is_some_and(ask)
}

/// Whether a receive may go well the next time.
fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}

fn touch(touched: &mut Vec<ConnectionId>, client: &mut Connection) {
    if !client.touched {
        client.touched = true;
        touched.push(client.id);
    }
}

fn list_if_stalled(stalled: &mut Vec<ConnectionId>, client: &mut Connection) {
    if client.stalled && !client.listed {
        client.listed = true;
        stalled.push(client.id);
    }
}

/// What the post office must know of connections and errands whose requests bounced.
struct Resending<'a> {
    connections: &'a mut Connections,
    links: Option<&'a mut Links>,
    turn: u64,
}

impl Resending<'_> {
    fn links(&mut self) -> &mut Links {
        self.links.as_mut().expect("only a node of several runs errands")
    }
}

impl Senders for Resending<'_> {
    fn gate(&mut self, id: ConnectionId, feeds: bool) -> Gate {
        if is_errand(id) {
            // Its reply goes to another node, whose credit bounds what it may have asked for.
            self.links().errand_goes_again();
            return Gate::Send;
        }
        let Some(client) = self.connections.get_mut(id) else { return Gate::Drop };
        if client.resent_turn != self.turn {
            (client.resent_turn, client.resent) = (self.turn, 0);
        }
        if feeds {
            client.bounced -= 1;
            return Gate::Send;
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
        if is_errand(id) {
            self.links().errand_bounced();
        } else if let Some(client) = self.connections.get_mut(id) {
            client.bounced += 1;
        }
    }
}
