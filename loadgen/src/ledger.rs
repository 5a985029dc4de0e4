//! What answers come to: counted, measured, looked into, and the steps that follow them. Sends nothing.

use std::collections::VecDeque;

use slabring_protocol::client::{Reply, ReplyKind};

use crate::connection::{Answer, Flight};
use crate::failure::{Failure, excerpt};
use crate::kind::Kind;
use crate::tally::Tally;
use crate::verify::{Asked, EXAMPLES_MAX, Fault};
use crate::worker::{Orders, Scratch, Step};
use crate::workload::Order;

/// Where the answers of one packet are entered.
pub(crate) struct Ledger<'a, 's> {
    pub(crate) orders: &'a Orders<'s>,
    pub(crate) tally: &'a mut Tally,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) client: usize,
    pub(crate) server: u16,
    pub(crate) now: u64,
    pub(crate) replies: u64,
    /// Requests that are through.
    pub(crate) released: usize,
}

impl Ledger<'_, '_> {
    #[inline]
    pub(crate) fn enter(&mut self, answer: Answer<'_>, asked: &mut VecDeque<Asked>) -> Result<(), Failure> {
        let (flight, reply, bytes) = match answer {
            Answer::To { flight, reply, bytes } => (flight, reply, bytes),
            Answer::Unasked { bytes } => return Err(Failure::Refused { text: excerpt(bytes) }),
            Answer::Malformed { bytes } => {
                let protocol = self.orders.protocol.name();
                return Err(Failure::Malformed { protocol, excerpt: excerpt(bytes) });
            }
        };
        self.replies += 1;
        let steps_before = self.scratch.steps.len();
        let is_measured = flight.due_ns >= self.orders.measure_from_ns;
        if flight.kind.reads() {
            self.enter_read(&flight, &reply, bytes, asked);
        }
        if flight.holds_slot && self.scratch.steps.len() == steps_before {
            self.released += 1;
        }
        if !is_measured && flight.version == 0 {
            return Ok(());
        }
        let counted = if is_measured {
            self.tally.count(flight.kind, flight.keys, &reply, bytes)
        } else {
            Ok(matches!(reply.kind, ReplyKind::Stored | ReplyKind::MetaDone | ReplyKind::Deleted))
        };
        let done = counted.map_err(|_misfit| Failure::OutOfStep { text: excerpt(bytes) })?;
        if flight.version > 0
            && let Some(verifier) = self.orders.verifier
        {
            // What is not there to be deleted is gone as well.
            let gone = flight.kind == Kind::Delete && reply.kind == ReplyKind::NotFound;
            verifier.book.end(flight.key, flight.version, done || gone);
        }
        if is_measured {
            self.tally.measure(flight.kind, self.server, self.now - flight.due_ns, self.now - flight.sent_ns);
            self.tally.last_reply_ns = self.now;
        }
        Ok(())
    }

    /// Looks into a reply where it has to be, and plans the steps that follow it.
    #[inline]
    fn enter_read(&mut self, flight: &Flight, reply: &Reply, bytes: &[u8], asked: &mut VecDeque<Asked>) {
        if asked.is_empty() {
            self.plan_steps(flight, reply, 0, &[]);
            return;
        }
        let keys = flight.keys as usize;
        asked.make_contiguous();
        let (own, _) = asked.as_slices();
        let cas = self.look_into(bytes, &own[..keys]);
        self.plan_steps(flight, reply, cas, &own[..keys]);
        asked.drain(..keys);
    }

    /// Checks every value of a reply against what was asked for. Notes which keys were found; returns the last token.
    fn look_into(&mut self, bytes: &[u8], asked: &[Asked]) -> u64 {
        let Self { orders, tally, scratch, .. } = self;
        scratch.found.clear();
        scratch.found.resize(asked.len(), false);
        let keys = &orders.workload.keys;
        let (mut cas, mut next) = (0, 0);
        orders.protocol.each_value(bytes, |found| {
            cas = found.cas;
            let place = match found.key.map(|name| keys.number(name)) {
                None => Some(found.at),
                // Replies come in the order of the keys, but for those that are missing.
                Some(number) => (next..asked.len()).find(|&at| Some(asked[at].key) == number),
            };
            let Some((place, own)) = place.and_then(|place| Some((place, *asked.get(place)?))) else {
                note_fault(tally, Fault::Foreign, found.key.unwrap_or_default());
                return;
            };
            next = place + 1;
            scratch.found[place] = true;
            let fault = orders
                .verifier
                .and_then(|verifier| verifier.fault(keys, orders.values, own, found.key, found.value));
            if let Some(fault) = fault {
                orders.workload.key(Kind::Get, own.key, &mut scratch.key);
                note_fault(tally, fault, &scratch.key);
            }
        });
        cas
    }

    #[inline]
    fn plan_steps(&mut self, flight: &Flight, reply: &Reply, cas: u64, asked: &[Asked]) {
        if reply.kind != ReplyKind::Values {
            return;
        }
        let Flight { key, size, ttl, .. } = *flight;
        if flight.before_cas && reply.hits == 1 {
            let order = Order { kind: Kind::Cas, key, size, ttl };
            self.scratch.steps.push(Step {
                due_ns: self.now,
                client: self.client,
                order,
                cas,
                holds_slot: true,
            });
        }
        let Some(aside_ns) = self.orders.aside_ns else { return };
        if flight.kind != Kind::Get || reply.hits == flight.keys {
            return;
        }
        let due_ns = self.now + aside_ns;
        if flight.keys == 1 {
            self.store_missing(flight, key, due_ns, true);
            return;
        }
        let mut is_first = true;
        for (at, asked) in asked.iter().enumerate() {
            if !self.scratch.found[at] {
                self.store_missing(flight, asked.key, due_ns, is_first);
                is_first = false;
            }
        }
    }

    fn store_missing(&mut self, flight: &Flight, key: u64, due_ns: u64, holds_slot: bool) {
        let size = if flight.size > 0 { flight.size } else { self.orders.workload.value_size(key) };
        let order = Order { kind: Kind::Set, key, size, ttl: flight.ttl };
        self.scratch.steps.push(Step { due_ns, client: self.client, order, cas: 0, holds_slot });
    }
}

#[cold]
fn note_fault(tally: &mut Tally, fault: Fault, key: &[u8]) {
    tally.wrong.count(fault);
    if tally.wrong_examples.len() < EXAMPLES_MAX {
        tally.wrong_examples.push(format!("{}: {fault}", excerpt(key)));
    }
}
