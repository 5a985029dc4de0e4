//! Connections of the simulated world: they delay, cut into pieces, go silent and end.

use super::*;

impl World {
    pub(super) fn dialled(&mut self, node: usize, life: u64, link: LinkId, to: usize) {
        let (now, nonces) = (self.now, [self.nonce(), self.nonce()]);
        if self.node(node, life).is_none_or(|at| at.peers.link(link).is_none()) {
            return;
        }
        let accepted =
            self.nodes[to].as_mut().and_then(|at| Some((at.life, at.peers.accept(now, nonces[0])?)));
        let dialler = self.node(node, life).unwrap();
        let Some((life_there, link_there)) = accepted else {
            dialler.peers.lost(link);
            return self.turn(node);
        };
        dialler.peers.connected(now, link, nonces[1]);
        let wire = self.wires.len();
        let ends = [Socket { node, life, link }, Socket { node: to, life: life_there, link: link_there }];
        let speed = if self.dice.chance(100) { 2_000 } else { 1_000_000 };
        self.wires.push(Wire { ends, is_open: true, is_cut: [false; 2], last_at: [now; 2], speed });
        self.nodes[node].as_mut().unwrap().sockets.insert(link, (wire, 0));
        self.nodes[to].as_mut().unwrap().sockets.insert(link_there, (wire, 1));
        self.turn(node);
        self.turn(to);
    }

    pub(super) fn send_all(&mut self, index: usize) {
        let now = self.now;
        let node = self.nodes[index].as_mut().unwrap();
        let links: Vec<LinkId> = node.peers.links_to_send().collect();
        for link in links {
            let node = self.nodes[index].as_mut().unwrap();
            let Some(bytes) = node.peers.take_output(now, link, Vec::new()) else { continue };
            let Some(&(wire, end)) = node.sockets.get(&link) else { continue };
            check_hops(&bytes);
            self.send(wire, end, &bytes);
        }
    }

    pub(super) fn send(&mut self, index: usize, from: usize, bytes: &[u8]) {
        let delay = Micros(100 + self.dice.below(2_000));
        let piece_bytes = if self.dice.chance(100) { 1 + self.dice.index(64) } else { 4_096 };
        let wire = &mut self.wires[index];
        let mut at = wire.last_at[from].max(self.now + delay);
        let pieces = bytes.chunks(piece_bytes).count();
        let mut deliveries = Vec::new();
        for (number, piece) in (1..).zip(bytes.chunks(piece_bytes)) {
            at = at + Micros(piece.len() as u64 * 1_000 / wire.speed);
            let is_last = number == pieces;
            deliveries.push((at, Happens::Delivered { wire: index, from, bytes: piece.to_vec(), is_last }));
        }
        wire.last_at[from] = at;
        for (at, delivery) in deliveries {
            self.happen_at(at, delivery);
        }
    }

    pub(super) fn delivered(&mut self, index: usize, from: usize, bytes: &[u8], is_last: bool) {
        let now = self.now;
        let wire = &self.wires[index];
        if !wire.is_open {
            return;
        }
        let (sender, receiver) = (wire.ends[from], wire.ends[1 - from]);
        if !wire.is_cut[from] {
            let Some(node) = self.node(receiver.node, receiver.life) else { return };
            node.peers.received(now, receiver.link, bytes);
            self.turn(receiver.node);
        }
        // A cut connection looks to its sender as if all was well.
        if is_last && let Some(node) = self.node(sender.node, sender.life) {
            node.peers.sent(sender.link);
            self.turn(sender.node);
        }
    }

    /// One end closes; the other hears of it unless its direction is cut.
    pub(super) fn hang_up(&mut self, index: usize, end: usize) {
        if !self.wires[index].is_cut[end] && self.wires[index].is_open {
            let at = self.wires[index].last_at[end].max(self.now) + Micros(1);
            self.happen_at(at, Happens::Closed { wire: index, end: 1 - end });
        }
    }

    pub(super) fn closed(&mut self, index: usize, end: usize) {
        let wire = &mut self.wires[index];
        let Socket { node, life, link } = wire.ends[end];
        if std::mem::replace(&mut wire.is_open, false)
            && let Some(at) = self.node(node, life)
        {
            at.peers.lost(link);
            self.turn(node);
        }
    }
}

/// I10: no frame says that a request was sent more often than it may be.
fn check_hops(mut bytes: &[u8]) {
    while let Ok(Decoded::Frame { header, frame_bytes }) = wire::decode(bytes, wire::BODY_BYTES_MAX) {
        let (frame, behind) = bytes.split_at(frame_bytes);
        if header.kind == Kind::Batch {
            let mut messages = &frame[wire::HEADER_BYTES..frame_bytes - wire::CHECKSUM_BYTES];
            while !messages.is_empty() {
                let (header, message_bytes) = wire::next_of_batch(messages).expect("a node's batch is one");
                check_message_hops(&header);
                messages = &messages[message_bytes..];
            }
        }
        check_message_hops(&header);
        bytes = behind;
    }
    assert!(bytes.is_empty(), "whole frames only");
}

fn check_message_hops(header: &Header) {
    let is_request = header.kind == Kind::Request;
    assert!(
        !is_request || (1..=HOPS_MAX).contains(&header.detail),
        "a request was sent {} times",
        header.detail
    );
}
