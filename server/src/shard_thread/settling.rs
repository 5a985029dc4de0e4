//! The end of a turn for each connection that it changed: send, pause or resume, count, close.

use slabring_protocol::reply::CloseReason;
use slabring_reactor::clock::Moment;
use slabring_reactor::{ConnectionId, Io};

use super::ShardThread;
use super::ending::Phase;
use crate::connection::Connection;
use crate::datagrams::is_datagram;
use crate::dispatch::{Dispatcher, Output};

/// A connection that has to wait is still read until this much input waits with it.
const STALLED_INPUT_BYTES_MAX: usize = 16 << 10;

impl<I: Io> ShardThread<I> {
    /// Settles all of them.
    pub(super) fn settle_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.drain(..).for_each(|id| self.settle(id));
        self.touched = touched;
    }

    fn settle(&mut self, id: ConnectionId) {
        let Some(client) = self.connections.get_mut(id) else { return };
        client.touched = false;
        if is_datagram(id) {
            return self.settle_datagram(id);
        }
        if !client.by_hand && Dispatcher::is_for_hands(client) && self.io.may_receive_now(id) {
            // The rest of a value is often there already: then nobody has to be told of it first.
            self.receive_value(id);
        }
        let Some(client) = self.connections.get_mut(id) else { return };
        send(&mut self.io, &mut self.dispatcher, client);
        list_if_stalled(&mut self.stalled, client);
        pause_or_resume(&mut self.io, self.phase, client);
        read_by_hand_or_not(&mut self.io, client);
        self.dispatcher.budget.count(client);
        if client.is_over() {
            self.close(id, CloseReason::Normal);
        }
    }

    fn settle_datagram(&mut self, id: ConnectionId) {
        let (connections, dispatcher) = (&mut self.connections, &mut self.dispatcher);
        if self.datagrams.settle(id, &mut self.io, connections, dispatcher) {
            self.close(id, CloseReason::Normal);
        } else {
            let client = self.connections.get_mut(id).expect("seen just now");
            list_if_stalled(&mut self.stalled, client);
        }
    }
}

fn send(io: &mut impl Io, dispatcher: &mut Dispatcher, client: &mut Connection) {
    let Some(Output { buffer, loan }) = dispatcher.take_output(client) else { return };
    match loan {
        None => io.send(client.id, buffer),
        Some(loan) => io.send_lent(client.id, buffer, loan, dispatcher.executor.lent_pieces(loan)),
    }
}

fn list_if_stalled(stalled: &mut Vec<ConnectionId>, client: &mut Connection) {
    if client.stalled && !client.listed {
        client.listed = true;
        stalled.push(client.id);
    }
}

fn pause_or_resume(io: &mut impl Io, phase: Phase, client: &mut Connection) {
    let has_enough = client.stalled && client.input.unread().len() >= STALLED_INPUT_BYTES_MAX;
    let pause = has_enough || client.waits_for_memory;
    if pause == client.paused {
        return;
    }
    client.paused = pause;
    if pause {
        io.pause(client.id);
    } else {
        client.resumed_at = (phase != Phase::Serving).then(Moment::now);
        io.resume(client.id);
    }
}

/// The kernel writes a large value where it belongs, or hands out bytes as they come.
fn read_by_hand_or_not(io: &mut impl Io, client: &mut Connection) {
    let by_hand = Dispatcher::is_for_hands(client);
    if by_hand != client.by_hand {
        client.by_hand = by_hand;
        io.read_by_hand(client.id, by_hand);
    }
}
