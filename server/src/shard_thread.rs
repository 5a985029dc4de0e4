//! The loop of one shard thread: everything that can wake it, matched in one place. Each step of a turn that is more than a few lines
//! has a file of its own: how clients arrive and are closed, letters, the cluster, upkeep, the end.
//!
//! ```text
//! turn: kernel events -> letters of other shards -> what was said of locks -> links to other nodes and what copies ask for
//!   -> connections that had to wait -> frames to other nodes out -> letters out -> replies out -> upkeep -> a step towards the end
//! ```
//!
//! One system call a turn, one send per connection and turn, one letter per other shard and turn.

mod arriving;
mod closing;
mod cluster;
mod ending;
mod letters;
mod settling;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use slabring_engine::{Seconds, Shard};
use slabring_protocol::reply::CloseReason;
use slabring_reactor::clock::Moment;
use slabring_reactor::{ConnectionId, EndCause, Event, Io, Wait, Waker};

use self::cluster::is_of_link;
use self::ending::{Phase, STOP_TURN};
use self::letters::RETRY_PAUSE;
use crate::arrivals::Arrival;
use crate::budget::Crest;
use crate::connection::{Connection, Connections, Ending, OUTPUT_BYTES_LOW};
use crate::datagrams::{Datagrams, Sender, is_datagram};
use crate::dispatch::Dispatcher;
use crate::execute::Executor;
use crate::gather::{Gathered, SMALL_PACKET_BYTES};
use crate::listeners::Entrance;
use crate::live::Held;
use crate::node::Node;
use crate::post::Post;
use crate::shards::Shards;
use crate::tls::TlsConfigs;
use crate::track::TRACK_PAUSE;
use crate::watch::FETCH_PAUSE;

/// Longest sleep: the sweeper and the published statistics want to be looked after.
const SLEEP_MAX: Duration = Duration::from_millis(200);
/// Time between the sweeper's steps when nothing else happens.
const SWEEP_PAUSE: Duration = Duration::from_millis(2);

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
    /// What buffers take, and when that was last looked at.
    crest: Crest,
    buffers_seen_at: Moment,
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
            crest: Crest::default(),
            buffers_seen_at: Moment::now(),
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
        self.look_who_listens();
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
        self.upkeep(began);
        self.proceed_to_end();
        self.dispatcher.executor.turns.count(Moment::now().since_ns(began));
        Ok(())
    }

    /// Looks who watches and who tracks. Two loads.
    fn look_who_listens(&mut self) {
        self.dispatcher.executor.look_who_watches(&self.node.watchers);
        self.dispatcher.executor.look_who_tracks(&self.node.trackers);
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

    /// Hands out what was said of locks.
    fn hand_out_locks(&mut self) {
        self.dispatcher.tell_who_is_gone();
        let note = |client: &mut Connection| touch(&mut self.touched, client);
        self.dispatcher.take_lock_answers(&mut self.connections, note);
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
