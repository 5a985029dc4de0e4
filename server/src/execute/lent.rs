//! Large values leave without being copied into the reply: what can be lent, and what has been until it is given back.

use slabring_engine::{Place, Seconds};
use slabring_protocol::{Command, KEY_SIZE_MAX, Request};
use slabring_reactor::LoanId;

use super::Executor;
use crate::lending::{LENT_BYTES_MIN, Lent};

impl Executor {
    /// Bytes that the answer to a get would have to copy because they cannot be lent now; 0 for anything else.
    pub fn value_bytes_to_copy(&self, now: Seconds, request: &Request<'_>) -> usize {
        let shows_value = match request.command {
            Command::Get { .. } | Command::GetAndTouch { .. } => true,
            Command::MetaGet(flags) => flags.has(b'v'),
            _ => false,
        };
        if !shows_value {
            return 0;
        }
        let mut scratch = [0; KEY_SIZE_MAX];
        let item = self.shard.peek(now, request.decoded_key(&mut scratch));
        item.map_or(0, |item| match item.value_len() {
            bytes if bytes < LENT_BYTES_MIN || self.shard.has_room_for_pin(item.place()) => 0,
            bytes => bytes,
        })
    }

    /// Lends the value of the item that was just read, or copies it if that cannot be.
    pub(super) fn append_large(&mut self, place: Place, out: &mut Vec<u8>) {
        match self.shard.pin_at(place) {
            Some(pin) => self.lent = Some(Box::new((out.len(), Lent::new(&self.shard, pin)))),
            None => self.shard.value_at(place).expect("it was just read").copy_to(out),
        }
    }

    /// The least value that is lent.
    pub(super) fn lent_bytes_min(&self) -> usize {
        if self.lends { LENT_BYTES_MIN } else { usize::MAX }
    }

    /// What the kernel is lent, with the places in its buffer.
    pub fn lent_pieces(&self, loan: LoanId) -> impl Iterator<Item = (usize, &[u8])> {
        self.loans.pieces(loan, &self.shard)
    }

    /// The kernel gives a loan back.
    pub fn end_sending(&mut self, loan: LoanId) {
        self.loans.end_sending(loan, &mut self.shard);
    }

    /// Nobody reads any more what was lent.
    pub fn end_loans(&mut self) {
        self.loans.end(&mut self.shard);
    }
}
