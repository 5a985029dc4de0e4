//! Who has dialled this shard: places for nodes, and for a moment for whoever has still to prove that it belongs.

use std::sync::Arc;

use super::{Entry, LinkId, Peers, place_of};
use crate::link::{Link, Nonce};
use crate::time::Micros;

/// Links that other nodes may dial to one shard, proved and unproved.
pub const ACCEPTED_MAX: usize = 4_096;

/// Those of them whose other side has not proved yet that it belongs. A node needs milliseconds for that, and whoever takes longer than
/// [`crate::link::GREETING_TIME_MAX`] is closed; before that the oldest goes when another comes, so a crowd of strangers shuts no node out
/// unless more come in those milliseconds.
pub const STRANGERS_MAX: usize = 1_024;

impl<P: Copy> Peers<P> {
    /// Another node has dialled this shard, or a stranger. `None`: too many nodes have; close it. Of too many strangers the oldest ends
    /// with an [`Effect::Closed`](super::Effect::Closed). O(log strangers).
    pub fn accept(&mut self, now: Micros, nonce: Nonce) -> Option<LinkId> {
        if self.strangers.len() >= STRANGERS_MAX || self.accepted >= ACCEPTED_MAX {
            self.displace_oldest();
        }
        if self.accepted >= ACCEPTED_MAX {
            return None;
        }
        self.accepted += 1;
        let link = Link::acceptor(Arc::clone(&self.identity), self.epoch(), now, nonce);
        let id = self.place(Entry { stranger_since: Some(now), ..Entry::new(link, None) });
        self.strangers.insert((now, id.index));
        Some(id)
    }

    fn displace_oldest(&mut self) {
        let Some((_, index)) = self.strangers.pop_first() else { return };
        self.touch(index);
        let entry = self.places[place_of(index)].entry.as_mut().expect("who is a stranger is there");
        entry.stranger_since = None;
        entry.link.displace();
    }

    /// A link is up: if it was accepted, the other side has proved that it belongs.
    pub(super) fn befriend(&mut self, id: LinkId) {
        let entry = self.places[place_of(id.index)].entry.as_mut().expect("it has just spoken");
        if let Some(since) = entry.stranger_since.take() {
            self.strangers.remove(&(since, id.index));
        }
    }
}
