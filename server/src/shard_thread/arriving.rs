//! How clients come to a shard thread: from its listeners, from the unix socket, from shards with more clients.

use std::sync::atomic::Ordering;

use slabring_protocol::{Auth, ErrorReply, Parser, reply};
use slabring_reactor::{ConnectionId, Io};
use tracing::warn;

use super::{ShardThread, touch};
use crate::arrivals::{Arrival, place_for};
use crate::connection::{Ending, Peer};
use crate::listeners::Entrance;
use crate::session::Session;

impl<I: Io> ShardThread<I> {
    /// Keeps a connection that the kernel has given to this shard, or hands it to one with fewer clients.
    pub(super) fn arrived(&mut self, arrival: Arrival) {
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
    pub(super) fn take_arrivals(&mut self) {
        if let Some(links) = &mut self.dispatcher.cluster {
            links.take_arrivals(&mut self.io);
        }
        while let Some(arrival) = self.node.arrivals[self.shards.me.index()].take() {
            // As with letters: it may have come since the turn began, and a watcher before it.
            self.look_who_listens();
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
}
