//! One node to which several others send long messages at the same time, over wires that the test holds.

use std::collections::VecDeque;

use super::*;

const MESSAGE_BYTES: usize = 4 << 20;
const OTHERS: usize = 12;
/// Bytes that a wire carries at once.
const PIECE_BYTES: usize = 64 << 10;

struct Other {
    peers: Peers<u32>,
    link: LinkId,
    /// The same link at the other end.
    there: LinkId,
    on_the_way: VecDeque<u8>,
}

fn long_identity(node: &str) -> Identity {
    Identity {
        message_bytes_max: MESSAGE_BYTES,
        granted: Credit { operations: 9, bytes: 1 << 20 },
        ..identity(node)
    }
}

/// Another node, with a link to the owner that is up.
fn meet(owner: &mut Peers<u32>, now: Micros, number: usize) -> Other {
    let mut peers = Peers::new(long_identity(&format!("c{number}")), 1, number as u64);
    peers.adopt(now, ring(1, [0, 256]));
    let (mut here, mut there) = (LinkId::default(), LinkId::default());
    loop {
        match peers.next(now) {
            Some(Effect::Connect { link, address, .. }) if address.to_string() == "10.0.0.2:7000" => {
                there = owner.accept(now, [1; NONCE_BYTES]).unwrap();
                here = link;
                peers.connected(now, link, [2; NONCE_BYTES]);
            }
            Some(Effect::Connect { link, .. }) => peers.lost(link),
            Some(Effect::Up { .. }) => break,
            Some(_) => {}
            None => {
                pass(&mut peers, here, owner, there, now);
                while owner.next(now).is_some() {}
                pass(owner, there, &mut peers, here, now);
            }
        }
    }
    Other { peers, link: here, there, on_the_way: VecDeque::new() }
}

fn pass(from: &mut Peers<u32>, here: LinkId, to: &mut Peers<u32>, there: LinkId, now: Micros) {
    if let Some(bytes) = from.take_output(now, here, Vec::new()) {
        from.sent(here);
        to.received(now, there, &bytes);
    }
}

impl Other {
    /// Carries a piece to the owner, if the owner reads. False: it does not.
    fn carry(&mut self, owner: &mut Peers<u32>, now: Micros) -> bool {
        owner.decide_reading(now, self.there);
        if !owner.link(self.there).unwrap().wants_bytes() {
            return false;
        }
        if self.on_the_way.is_empty() {
            self.peers.sent(self.link);
            self.on_the_way.extend(self.peers.take_output(now, self.link, Vec::new()).into_iter().flatten());
        }
        let piece: Vec<u8> = self.on_the_way.drain(..self.on_the_way.len().min(PIECE_BYTES)).collect();
        owner.received(now, self.there, &piece);
        true
    }
}

#[test]
fn of_long_messages_that_come_at_once_one_goes_on_and_all_are_whole_in_the_end() {
    let now = Micros(1_000);
    let mut owner = Peers::new(long_identity("b"), 1, 2);
    owner.adopt(now, ring(1, [0, 256]));
    let mut others: Vec<_> = (0..OTHERS).map(|number| meet(&mut owner, now, number)).collect();
    let bytes = vec![b'x'; MESSAGE_BYTES];
    for other in &mut others {
        let deadline = now + Micros::from_millis(500);
        let request = Forward { hash: hash_key(b"key"), flags: Flags::NONE, deadline, bytes: &bytes };
        assert_eq!(other.peers.forward(now, 1, &request), Ok(Route::Sent));
    }
    let (mut executed, mut most_bytes) = (0, 0);
    while executed < OTHERS {
        let mut was_read = false;
        for other in &mut others {
            was_read |= other.carry(&mut owner, now);
            most_bytes = most_bytes.max(owner.buffer_bytes());
            while let Some(effect) = owner.next(now) {
                if let Effect::Execute(asked) = effect {
                    assert_eq!(owner.body().len(), MESSAGE_BYTES);
                    executed += 1;
                    owner.respond(asked, Status::Done, b"STORED\r\n");
                }
            }
        }
        assert!(was_read, "one goes on at any time");
    }
    // The longest, and of each other a frame that is here and one that comes.
    let bound_bytes = 2 * MESSAGE_BYTES + OTHERS * (1 << 20) + OTHERS * PIECE_BYTES;
    assert!(most_bytes <= bound_bytes, "{most_bytes} bytes of {}", OTHERS * MESSAGE_BYTES);
}
