//! UDP clients: every datagram is a stream of its own, which lives until its replies are here and leave as datagrams with the
//! request's number. Nothing is kept for a client, nothing is sent twice, and a reply that could multiply a forger's traffic
//! does not leave this machine.

use std::net::SocketAddr;

use slabring_protocol::udp::{
    UDP_DATAGRAM_SIZE_MAX, UDP_HEADER_SIZE, UdpRequestId, fragments, parse_datagram,
};
use slabring_protocol::{Auth, Parser};
use slabring_reactor::{ConnectionId, DatagramsId, Io};

use crate::connection::{Connections, DATAGRAM_SLOTS, OUTPUT_BYTES_HIGH};
use crate::dispatch::Dispatcher;

/// Datagrams of one shard that wait for replies of others; more are dropped.
const IN_FLIGHT_MAX: usize = 256;
/// Replies that are not here after this time are dropped: nobody waits for them any more.
const PATIENCE_SECONDS: u32 = 2;
/// Longest reply that leaves this machine unless the user allows more: one datagram.
const REPLY_BYTES_MAX: usize = UDP_DATAGRAM_SIZE_MAX - UDP_HEADER_SIZE;

/// Who sent a datagram, or claims to have.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// Where it came in.
    pub socket: DatagramsId,
    /// Where the reply goes.
    pub address: SocketAddr,
}

/// A datagram that is being answered.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    sender: Sender,
    request: UdpRequestId,
    generation: u32,
}

/// A shard's datagrams that are being answered.
#[derive(Default)]
pub struct Datagrams {
    /// By the slot of their connection.
    exchanges: Vec<Option<Exchange>>,
    generation: u32,
}

impl Datagrams {
    /// Executes the requests in a datagram. Returns its connection, unless it was dropped.
    pub fn received(
        &mut self,
        sender: Sender,
        datagram: &[u8],
        connections: &mut Connections,
        dispatcher: &mut Dispatcher,
    ) -> Option<ConnectionId> {
        let Some((request, payload)) = parse_datagram(datagram) else {
            dispatcher.executor.traffic.datagrams_dropped += 1;
            return None;
        };
        let Some(id) = self.admit(sender, request) else {
            dispatcher.executor.traffic.datagrams_dropped += 1;
            return None;
        };
        let parser = Parser::new(dispatcher.node.settings.protocol.into(), Auth::Open);
        connections.insert(id, parser, dispatcher.now);
        let client = connections.get_mut(id).expect("inserted just now");
        dispatcher.received(client, payload);
        Some(id)
    }

    fn admit(&mut self, sender: Sender, request: UdpRequestId) -> Option<ConnectionId> {
        let free = self.exchanges.iter().position(Option::is_none);
        let place = free.unwrap_or(self.exchanges.len());
        if place == IN_FLIGHT_MAX {
            return None;
        }
        self.generation = self.generation.wrapping_add(1);
        let exchange = Exchange { sender, request, generation: self.generation };
        if free.is_none() {
            self.exchanges.push(None);
        }
        self.exchanges[place] = Some(exchange);
        Some(id_of(place, &exchange))
    }

    /// Answers a datagram if all its replies are here. Says whether it is done with.
    pub fn settle(
        &mut self,
        id: ConnectionId,
        io: &mut impl Io,
        connections: &mut Connections,
        dispatcher: &mut Dispatcher,
    ) -> bool {
        let client = connections.get_mut(id).expect("the caller has just seen it");
        let is_whole = client.outbox.owed() == 0 && !client.stalled;
        if !is_whole && client.outbox.bytes() < OUTPUT_BYTES_HIGH {
            dispatcher.budget.count(client);
            return false;
        }
        let exchange = self.exchanges[place_of(id)].expect("it waits until it is settled");
        if is_whole && may_leave(&exchange.sender, client.outbox.ready(), dispatcher) {
            let sent_bytes = send(&exchange, client.outbox.ready(), io);
            dispatcher.executor.traffic.bytes_written += sent_bytes as u64;
        } else {
            dispatcher.executor.traffic.datagrams_dropped += 1;
        }
        true
    }

    /// Those whose replies do not come.
    pub fn overdue(&self, connections: &Connections, now: u32) -> Vec<ConnectionId> {
        let names = self
            .exchanges
            .iter()
            .enumerate()
            .filter_map(|(place, exchange)| Some(id_of(place, exchange.as_ref()?)));
        let is_late = |id: &ConnectionId| {
            connections
                .get(*id)
                .is_some_and(|client| now.saturating_sub(client.heard_at.0) > PATIENCE_SECONDS)
        };
        names.filter(is_late).collect()
    }

    /// Forgets a datagram whose connection is gone.
    pub fn forget(&mut self, id: ConnectionId) {
        assert!(self.exchanges[place_of(id)].take().is_some(), "it is forgotten once");
    }
}

/// Whether a connection is a datagram's.
pub fn is_datagram(id: ConnectionId) -> bool {
    id.slot >= DATAGRAM_SLOTS
}

fn id_of(place: usize, exchange: &Exchange) -> ConnectionId {
    let place = u32::try_from(place).expect("below IN_FLIGHT_MAX");
    ConnectionId { slot: DATAGRAM_SLOTS + place, generation: exchange.generation }
}

fn place_of(id: ConnectionId) -> usize {
    assert!(is_datagram(id));
    (id.slot - DATAGRAM_SLOTS) as usize
}

fn may_leave(sender: &Sender, reply: &[u8], dispatcher: &Dispatcher) -> bool {
    let allowed = dispatcher.node.settings.udp_allow_large || sender.address.ip().is_loopback();
    allowed || reply.len() <= REPLY_BYTES_MAX
}

/// Sends a reply as far as the kernel takes it. Returns the bytes that have left.
fn send(exchange: &Exchange, reply: &[u8], io: &mut impl Io) -> usize {
    let mut datagram = [0; UDP_DATAGRAM_SIZE_MAX];
    let mut sent_bytes = 0;
    for (header, payload) in fragments(exchange.request, reply).into_iter().flatten() {
        let length = header.len() + payload.len();
        datagram[..header.len()].copy_from_slice(&header);
        datagram[header.len()..length].copy_from_slice(payload);
        if !io.send_datagram(exchange.sender.socket, exchange.sender.address, &datagram[..length]) {
            break;
        }
        sent_bytes += length;
    }
    sent_bytes
}
