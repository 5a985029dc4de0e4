//! A turn's work for a node of several: the ring that is followed, the links, the copies of items, and copies of hot keys.

use slabring_reactor::Io;
use tracing::info;

use super::{ShardThread, touch};
use crate::cluster::forward::answer_later;
use crate::cluster::links::Links;
use crate::connection::Connection;
use crate::dispatch::Dispatcher;
use crate::replication::{Finished, Waiter};

impl<I: Io> ShardThread<I> {
    /// Follows a newer ring, and tells clients who look for the nodes.
    pub(super) fn begin_cluster_turn(&mut self) {
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
    pub(super) fn run_links(&mut self) {
        let Some(mut links) = self.dispatcher.cluster.take() else { return };
        let note = |client: &mut Connection| touch(&mut self.touched, client);
        links.run(&mut self.io, &mut self.dispatcher, &mut self.connections, note);
        self.dispatcher.cluster = Some(links);
    }

    /// Does what copies on other nodes ask for, and hands out the replies that waited for them.
    pub(super) fn run_copies(&mut self) {
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
    pub(super) fn run_front(&mut self) {
        self.dispatcher.executor.guard(self.dispatcher.now);
        let finished = self.dispatcher.executor.front.as_mut().map(|front| front.take_finished());
        self.hand_out(finished.unwrap_or_default());
    }

    /// Hands out replies that waited for other nodes.
    fn hand_out(&mut self, finished: Vec<Finished>) {
        for Finished { waiter, manner, outcome } in finished {
            let outcome = outcome.as_deref().map_err(|error| *error);
            match waiter {
                Waiter::Client(pending) => {
                    if let Some(client) = self.connections.get_mut(pending.to.connection) {
                        answer_later(client, pending, outcome);
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

    pub(super) fn flush_links(&mut self) {
        let Some(mut links) = self.dispatcher.cluster.take() else { return };
        links.send_grants(&mut self.dispatcher.executor);
        links.release_held(&mut self.connections, |client| touch(&mut self.touched, client));
        links.flush(&mut self.io, &mut self.dispatcher);
        self.dispatcher.cluster = Some(links);
    }
}

/// Whether an event is of a link to another node, which `ask` hands it to.
pub(super) fn is_of_link(dispatcher: &mut Dispatcher, ask: impl FnOnce(&mut Links) -> bool) -> bool {
    dispatcher.cluster.as_deref_mut().is_some_and(ask)
}
