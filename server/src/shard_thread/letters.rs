//! Letters of other shards: theirs are executed, what ours bring back goes to the connections that wait for it, and what was not
//! executed is posted again.

use std::time::Duration;

use slabring_reactor::clock::Moment;
use slabring_reactor::{ConnectionId, Io};

use super::{ShardThread, touch};
use crate::batch::{Batch, Gate, Outcome, ReturnAddress, Senders};
use crate::budget::is_jammed;
use crate::census::describe;
use crate::cluster::links::{Links, is_errand};
use crate::connection::{Connection, Connections, Deferred};
use crate::post::Letter;
use crate::report::Answer;
use crate::shards::ShardId;

/// Deferred requests are posted again after this time.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(2);
/// Bounced requests of one connection that are sent again in one turn: each may bring a value of the largest kind.
const RESENT_MAX: usize = 4;

impl<I: Io> ShardThread<I> {
    pub(super) fn handle_letters(&mut self) {
        while let Some((shard, letter)) = self.dispatcher.post.take() {
            // Its sender may follow a newer ring than this shard did when the turn began, and who asks may have been told that somebody
            // watches or tracks.
            self.begin_cluster_turn();
            self.look_who_listens();
            match letter {
                Letter::Requests(batch) => {
                    let (connections, node, shards) = (&self.connections, &self.node, self.shards);
                    let now = self.dispatcher.now;
                    let census = |out: &mut Vec<u8>| describe(out, connections, node, shards, now);
                    self.dispatcher.execute_letter(shard, batch, &census);
                }
                Letter::Replies(batch) => {
                    self.deliver(&batch);
                    let Some(batch) = self.keep_deferred_whole(shard, batch) else { continue };
                    self.keep_deferred(shard, &batch);
                    let turn = self.io.counters().turns;
                    let links = self.dispatcher.cluster.as_deref_mut();
                    let mut senders = Resending { connections: &mut self.connections, links, turn };
                    self.dispatcher.post.recycle(shard, batch, &mut senders);
                }
            }
        }
        self.hand_out_deliveries();
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

    fn deliver_errand(&mut self, to: ReturnAddress, outcome: Outcome<'_>) {
        let Some(mut links) = self.dispatcher.cluster.take() else { return };
        let note = |client: &mut Connection| touch(&mut self.touched, client);
        links.letter_came(to, outcome, &mut self.dispatcher, &mut self.connections, note);
        self.dispatcher.cluster = Some(links);
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

    /// Tells those of this shard who asked of this shard's connections.
    pub(super) fn tell_connections(&mut self) {
        for to in std::mem::take(&mut self.dispatcher.census_wanted) {
            let mut text = Vec::new();
            describe(&mut text, &self.connections, &self.node, self.shards, self.dispatcher.now);
            let Some(client) = self.connections.get_mut(to.connection) else { continue };
            self.dispatcher.deliver(client, to, Outcome::Answer(&Answer::Done, &text));
            touch(&mut self.touched, client);
        }
    }

    /// Keeps a letter with the connection that all of it is of, if nothing of it could be executed and it is long: it is posted again as
    /// it is. Returns any other.
    fn keep_deferred_whole(&mut self, owner: ShardId, mut batch: Box<Batch>) -> Option<Box<Batch>> {
        let Some(client) = batch.is_deferred_whole().and_then(|id| self.connections.get_mut(id)) else {
            return Some(batch);
        };
        if client.deferred.iter().any(|deferred| deferred.owner == owner) {
            // It goes behind what is there.
            return Some(batch);
        }
        self.dispatcher.value_waited = true;
        if client.deferred.is_empty() {
            self.deferring.push(client.id);
        }
        self.dispatcher.post.kept(owner, &batch);
        let letter = self.dispatcher.post.letter_of_now(owner);
        batch.retry_whole();
        client.deferred.push(Deferred { owner, requests: batch, letter });
        touch(&mut self.touched, client);
        None
    }

    /// Keeps what could not be executed with its connections, to be posted again.
    fn keep_deferred(&mut self, owner: ShardId, batch: &Batch) {
        if !batch.has_deferred() {
            return;
        }
        self.dispatcher.value_waited = true;
        let (connections, deferring) = (&mut self.connections, &mut self.deferring);
        let touched = &mut self.touched;
        let mut gone = Vec::new();
        let letter_bytes = self.dispatcher.post.letter_bytes();
        let letter = self.dispatcher.post.letter_of_now(owner);
        batch.hand_out_deferred(|id, append| {
            let Some(client) = connections.get_mut(id) else { return gone.push(id) };
            if client.deferred.is_empty() {
                deferring.push(id);
            }
            let at = client.deferred.iter().position(|deferred| deferred.owner == owner);
            let at = at.unwrap_or_else(|| {
                client.deferred.push(Deferred { owner, requests: Box::new(Batch::of(letter_bytes)), letter });
                client.deferred.len() - 1
            });
            append(&mut client.deferred[at].requests);
            touch(touched, client);
        });
        gone.into_iter().for_each(|id| self.dispatcher.forget_at(owner, id));
    }

    /// Posts deferred requests again from time to time: values are lent for as long as it takes to send them. Values that wait to be
    /// taken in go in line; where that does not move, who came last goes first.
    pub(super) fn retry_deferred(&mut self) {
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

    /// Sends this turn's letters. Bounced requests go again for connections that read their replies, a few at a time.
    pub(super) fn publish_letters(&mut self) {
        let turn = self.io.counters().turns;
        let links = self.dispatcher.cluster.as_deref_mut();
        let mut senders = Resending { connections: &mut self.connections, links, turn };
        self.dispatcher.post.publish(&mut self.io, &mut senders);
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
