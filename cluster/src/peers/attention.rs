//! Which of a shard's links are looked at: those that something happened to, and those whose time has come. So a turn costs what
//! happens in it, not what links there are. And which of them are read.

use super::{Asked, LinkId, Peers, place_of};
use crate::link::{Event, Link};
use crate::time::Micros;
use crate::wire::{self, Flags};

impl<P: Copy> Peers<P> {
    /// Something happens to a link: it is looked at in this turn, and whether it has something to send.
    pub(super) fn touch(&mut self, index: u32) {
        let entry = self.places[place_of(index)].entry.as_mut().expect("what is touched is there");
        if !std::mem::replace(&mut entry.is_ready, true) {
            self.ready.push_back(index);
        }
        if !std::mem::replace(&mut entry.may_send, true) {
            self.to_send.push(index);
        }
    }

    /// Looks at a link again when it wants that.
    fn rest(&mut self, index: u32) {
        let entry = self.places[place_of(index)].entry.as_mut().expect("what rests is there");
        entry.is_ready = false;
        let wakes_at = if entry.rests_for_good() { Micros::NEVER } else { entry.link.wake_at() };
        if wakes_at < entry.wakes_at {
            self.wakes.remove(&(entry.wakes_at, index));
            self.wakes.insert((wakes_at, index));
            entry.wakes_at = wakes_at;
        }
    }

    /// Has all links looked at whose time has come.
    fn wake(&mut self, now: Micros) {
        while let Some(&(at, index)) = self.wakes.first()
            && at <= now
        {
            self.wakes.pop_first();
            self.places[place_of(index)].entry.as_mut().expect("who wakes is there").wakes_at = Micros::NEVER;
            self.touch(index);
        }
    }

    /// The next message of a batch that the first link to be looked at has begun, by fewer steps than [`Self::next_event`] takes.
    /// `None`: it has to be asked.
    #[inline]
    pub(super) fn next_batched(&mut self) -> Option<(LinkId, Event)> {
        let &index = self.ready.front()?;
        let place = &mut self.places[place_of(index)];
        let event = place.entry.as_mut().expect("who is ready is there").link.next_batched()?;
        Some((LinkId { index, generation: place.generation }, event))
    }

    /// The next event of the links that something happened to, or whose time has come.
    pub(super) fn next_event(&mut self, now: Micros) -> Option<(LinkId, Event)> {
        self.wake(now);
        while let Some(&index) = self.ready.front() {
            let place = &mut self.places[place_of(index)];
            let id = LinkId { index, generation: place.generation };
            let entry = place.entry.as_mut().expect("who is ready is there");
            let event = if entry.rests_for_good() { None } else { entry.link.next(now) };
            if let Some(event) = event {
                return Some((id, event));
            }
            self.ready.pop_front();
            if entry.leaving && entry.link.has_ended() {
                self.remove(index);
            } else {
                self.rest(index);
            }
        }
        None
    }

    /// When a link wants to be looked at although nothing happens.
    pub(super) fn links_wake_at(&self) -> Micros {
        let touched = self.ready.iter().map(|&index| {
            let entry = self.places[place_of(index)].entry.as_ref().expect("who is ready is there");
            if entry.rests_for_good() { Micros::NEVER } else { entry.link.wake_at() }
        });
        let by_rest = self.wakes.first().map_or(Micros::NEVER, |&(at, _)| at);
        touched.min().unwrap_or(Micros::NEVER).min(by_rest)
    }

    /// The links that have something to send, each once: [`Self::take_output`] must follow. O(links that something happened
    /// to).
    pub fn links_to_send(&mut self) -> impl Iterator<Item = LinkId> {
        let places = &mut self.places;
        self.to_send.drain(..).filter_map(|index| {
            let place = &mut places[place_of(index)];
            let entry = place.entry.as_mut()?;
            let may_send = std::mem::replace(&mut entry.may_send, false);
            (may_send && entry.link.has_output()).then_some(LinkId { index, generation: place.generation })
        })
    }

    /// Decides whether a link is to be read now: [`Link::wants_bytes`] says it then. Of long messages that are on their way at the
    /// same time one goes on, if all together are longer than the longest may be: the one of which most is here. O(links) if one is on
    /// its way on this link.
    pub fn decide_reading(&mut self, now: Micros, id: LinkId) {
        let Some(bytes) = self.link(id).map(Link::assembled_bytes) else { return };
        let must_wait = bytes > 0 && self.must_wait_to_assemble(now, id, bytes);
        let entry = self.places[place_of(id.index)].entry.as_mut().expect("seen just now");
        entry.link.hold(must_wait);
    }

    fn must_wait_to_assemble(&self, now: Micros, id: LinkId, bytes: usize) -> bool {
        let all: usize = self.links().map(|(_, link)| link.assembled_bytes()).sum();
        // Who stands still gives way.
        let goes_first = |other: LinkId, link: &Link| {
            link.carries(now) && (link.assembled_bytes(), other.index) > (bytes, id.index)
        };
        all > self.identity.message_bytes_max && self.links().any(|(other, link)| goes_first(other, link))
    }

    /// Whether the next effect is most likely the execution of a request with these flags for this shard whose bytes begin so. O(1).
    #[inline]
    pub fn goes_on_with(&self, flags: Flags, beginning: &[u8]) -> bool {
        let Some(&index) = self.ready.front() else { return false };
        let entry = self.places[place_of(index)].entry.as_ref().expect("who is ready is there");
        wire::goes_on_with(entry.link.rest_of_batch(), flags, self.identity.shard, beginning)
    }

    /// Whether a link's replies must leave before more are made.
    pub fn stalls(&self, asked: &Asked) -> bool {
        self.link(asked.link).is_some_and(Link::stalls)
    }

    /// Checks that a link is not forgotten; for tests and debugging.
    pub(super) fn check_attention(&self, id: LinkId) {
        let entry = self.places[place_of(id.index)].entry.as_ref().expect("it has a link");
        assert_eq!(self.ready.contains(&id.index), entry.is_ready, "{id:?}");
        assert_eq!(self.wakes.contains(&(entry.wakes_at, id.index)), entry.wakes_at < Micros::NEVER);
        let is_late = entry.wakes_at > entry.link.wake_at() && !entry.rests_for_good();
        assert!(entry.is_ready || !is_late, "{id:?} sleeps too long");
        assert!(entry.may_send || !entry.link.has_output(), "{id:?} is not sent");
    }
}
