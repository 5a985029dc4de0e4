//! The holder's side: copies that others granted, and asking for them.

use std::collections::BTreeMap;

use super::{
    ASK_BEFORE_END, ASK_EVERY, Copy as Copied, FLUSH_REST, GRANT_TIME, GRANTED_VALUE_BYTES_MAX,
    HELD_BYTES_MAX, HELD_KEYS_MAX, Message,
};
use crate::safeguard::{Safeguard, holds};
use crate::time::Micros;

/// What a key costs beside its bytes and those of its value.
const HELD_BYTES_EACH: usize = 256;

/// A copy.
#[derive(Debug)]
pub struct Held {
    number: u64,
    ends_at: Micros,
    cas: u64,
    client_flags: u32,
    is_for_ever: bool,
    value: Box<[u8]>,
}

/// A request for a copy that is not answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: u64,
    at: Micros,
}

/// A key that its owner has offered.
#[derive(Debug)]
struct Known<L> {
    owner: L,
    /// Anything but its answer comes too late.
    asked: Option<Asked>,
    held: Option<Held>,
    /// Reads since it was last asked for.
    hits: u32,
    /// When it was offered or read last.
    used_at: Micros,
}

/// See the module. `L` names the link to an owner; it is another when the link was lost in between.
#[derive(Debug)]
pub struct Holding<L> {
    keys: BTreeMap<Box<[u8]>, Known<L>>,
    bytes: usize,
    last_ticket: u64,
    /// A flush passes: nothing is asked for until then.
    rests_until: Micros,
    sends: Vec<(L, Vec<u8>)>,
}

impl Held {
    /// What it says.
    pub fn copy(&self) -> Copied<'_> {
        let Self { cas, client_flags, is_for_ever, ref value, .. } = *self;
        Copied { cas, client_flags, is_for_ever, value }
    }
}

impl<L: Copy + PartialEq> Default for Holding<L> {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            bytes: 0,
            last_ticket: 0,
            rests_until: Micros::default(),
            sends: Vec::new(),
        }
    }
}

impl<L: Copy + PartialEq> Holding<L> {
    /// Whether no key is known: nothing needs to be looked up.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Memory of the copies.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies that may be read at `now`. O(keys).
    pub fn count(&self, now: Micros) -> usize {
        self.keys.values().filter(|known| known.is_held(now)).count()
    }

    /// Whether a key is one of those that owners have offered.
    pub fn knows(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// The owner of a key would grant it.
    pub fn offered(&mut self, now: Micros, owner: L, key: &[u8]) {
        if now < self.rests_until || !self.make_place(now, key) {
            return;
        }
        let bytes = bytes_of(key, &[]);
        let known = self.keys.entry(key.into()).or_insert_with(|| {
            self.bytes += bytes;
            Known { owner, asked: None, held: None, hits: 0, used_at: now }
        });
        if known.owner != owner {
            (known.owner, known.asked) = (owner, None);
            self.bytes -= known.drop_copy();
        }
        known.used_at = now;
        self.ask(now, key);
    }

    /// Makes room for one more key. False: all are in use.
    fn make_place(&mut self, now: Micros, key: &[u8]) -> bool {
        if self.knows(key) {
            return true;
        }
        let has_place = |holding: &Self| {
            holding.keys.len() < HELD_KEYS_MAX && holding.bytes + bytes_of(key, &[]) <= HELD_BYTES_MAX
        };
        if !has_place(self) {
            self.tidy(now);
        }
        has_place(self)
    }

    /// Forgets keys that are not read any more.
    pub fn tidy(&mut self, now: Micros) {
        let bytes = &mut self.bytes;
        self.keys.retain(|key, known| {
            let is_used = now.since(known.used_at) < GRANT_TIME + GRANT_TIME;
            if !is_used {
                *bytes -= known.drop_copy() + bytes_of(key, &[]);
            }
            is_used
        });
    }

    fn ask(&mut self, now: Micros, key: &[u8]) {
        let known = self.keys.get_mut(key).expect("the caller has it");
        if now < self.rests_until || known.asked.is_some_and(|asked| now.since(asked.at) < ASK_EVERY) {
            return;
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        known.asked = Some(Asked { ticket, at: now });
        let hits = std::mem::take(&mut known.hits);
        self.sends.push((known.owner, Message::Want { ticket, hits, key }.encode()));
    }

    /// The copy of a key, if it may be read. `now` is looked at after the request came, and after everything that was received before
    /// it: who was stopped in between must not answer.
    pub fn read(&mut self, now: Micros, key: &[u8]) -> Option<&Held> {
        let known = self.keys.get_mut(key)?;
        known.used_at = now;
        if !known.is_held(now) {
            self.bytes -= known.drop_copy();
            return None;
        }
        known.hits = known.hits.saturating_add(1);
        let is_ending = known.held.as_ref().is_some_and(|held| held.ends_at.since(now) < ASK_BEFORE_END);
        if is_ending {
            self.ask(now, key);
        }
        self.keys.get(key)?.held.as_ref()
    }

    /// Somebody here writes a key, or may: who asks here afterwards must be told by its owner.
    pub fn wrote(&mut self, key: &[u8]) {
        if let Some(known) = self.keys.get_mut(key) {
            known.asked = None;
            self.bytes -= known.drop_copy();
        }
    }

    /// The owner grants what was asked for.
    pub fn granted(
        &mut self,
        now: Micros,
        owner: L,
        (ticket, number): (u64, u64),
        key: &[u8],
        copy: Copied<'_>,
    ) {
        let Some(known) = self.keys.get_mut(key) else { return };
        let Some(asked) = known.asked.filter(|asked| asked.ticket == ticket && known.owner == owner) else {
            return;
        };
        known.asked = None;
        self.bytes -= known.drop_copy();
        let is_too_much = self.bytes + copy.value.len() > HELD_BYTES_MAX;
        if copy.value.len() > GRANTED_VALUE_BYTES_MAX || is_too_much {
            return;
        }
        let from = if holds(Safeguard::GrantsRunFromAsking) { asked.at } else { now };
        let Copied { cas, client_flags, is_for_ever, value } = copy;
        self.bytes += value.len();
        known.held = Some(Held {
            number,
            ends_at: from + GRANT_TIME,
            cas,
            client_flags,
            is_for_ever,
            value: value.into(),
        });
    }

    /// The owner calls back what it granted up to a number, and is told that it is not read any more.
    pub fn revoked(&mut self, owner: L, number: u64, key: &[u8]) {
        if let Some(known) = self.keys.get_mut(key)
            && known.held.as_ref().is_some_and(|held| held.number <= number)
        {
            self.bytes -= known.drop_copy();
        }
        self.sends.push((owner, Message::Revoked { number, key }.encode()));
    }

    /// The link to an owner is gone.
    pub fn lost(&mut self, owner: L) {
        let bytes = &mut self.bytes;
        self.keys.retain(|key, known| {
            if known.owner == owner {
                *bytes -= known.drop_copy() + bytes_of(key, &[]);
            }
            known.owner != owner
        });
    }

    /// The ring changes: whoever granted anything may not own it any more.
    pub fn drop_all(&mut self) {
        self.keys.clear();
        self.bytes = 0;
    }

    /// A flush passes, which all nodes execute within a second, or `delay` after that.
    pub fn flushed(&mut self, now: Micros, delay: Micros) {
        self.drop_all();
        self.rests_until = self.rests_until.max(now + delay + FLUSH_REST);
    }

    /// What is to be sent, in order.
    pub fn take_sends(&mut self) -> Vec<(L, Vec<u8>)> {
        std::mem::take(&mut self.sends)
    }

    /// Recomputes the sum; for tests and debugging.
    pub fn check_invariants(&self) {
        let value = |known: &Known<L>| known.held.as_ref().map_or(0, |held| held.value.len());
        let sum: usize = self.keys.iter().map(|(key, known)| bytes_of(key, &[]) + value(known)).sum();
        assert_eq!(sum, self.bytes);
        assert!(self.keys.len() <= HELD_KEYS_MAX && self.bytes <= HELD_BYTES_MAX);
    }
}

impl<L> Known<L> {
    fn is_held(&self, now: Micros) -> bool {
        self.held.as_ref().is_some_and(|held| now < held.ends_at)
    }

    /// Returns the bytes of the copy that is gone.
    fn drop_copy(&mut self) -> usize {
        self.held.take().map_or(0, |held| held.value.len())
    }
}

fn bytes_of(key: &[u8], value: &[u8]) -> usize {
    HELD_BYTES_EACH + key.len() + value.len()
}

const _: () =
    assert!(HELD_KEYS_MAX * (HELD_BYTES_EACH + 250) < HELD_BYTES_MAX, "keys alone leave room for values");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::decode;

    const KEY: &[u8] = b"key";

    fn at(millis: u64) -> Micros {
        Micros::from_millis(millis)
    }

    fn copy(value: &[u8]) -> Copied<'_> {
        Copied { cas: 7, client_flags: 3, is_for_ever: false, value }
    }

    /// The ticket and the hits of the only thing that was sent.
    #[track_caller]
    fn wanted(holding: &mut Holding<u8>) -> (u64, u32) {
        let sends = holding.take_sends();
        let [(_, bytes)] = &sends[..] else { panic!("{sends:?}") };
        let Ok(Message::Want { ticket, hits, .. }) = decode(bytes) else { panic!("{bytes:?}") };
        (ticket, hits)
    }

    /// One that asked at 0 and was answered at 20.
    fn holder() -> Holding<u8> {
        let mut holding = Holding::default();
        holding.offered(at(0), 1, KEY);
        let (ticket, _) = wanted(&mut holding);
        holding.granted(at(20), 1, (ticket, 5), KEY, copy(b"value"));
        holding
    }

    #[test]
    fn a_copy_is_read_from_its_coming_until_its_time_from_asking_is_over() {
        let mut holding = holder();
        assert_eq!(holding.read(at(21), KEY).map(|held| held.copy()), Some(copy(b"value")));
        assert!(holding.read(at(159), KEY).is_some() && holding.read(at(160), KEY).is_none());
        assert!(holding.read(at(30), b"other").is_none());
        holding.check_invariants();
    }

    #[test]
    fn who_reads_towards_the_end_asks_anew_and_says_how_often_it_was_read() {
        let mut holding = holder();
        (0..5).for_each(|_| assert!(holding.read(at(70), KEY).is_some()));
        assert!(holding.take_sends().is_empty());
        assert!(holding.read(at(90), KEY).is_some() && holding.read(at(100), KEY).is_some());
        let (ticket, hits) = wanted(&mut holding);
        assert_eq!(hits, 6);
        holding.granted(at(110), 1, (ticket, 6), KEY, copy(b"new"));
        assert_eq!(holding.read(at(249), KEY).map(|held| held.copy()), Some(copy(b"new")));
        assert!(holding.read(at(250), KEY).is_none());
    }

    #[test]
    fn what_is_called_back_or_written_from_here_is_not_read_again() {
        let (mut called_back, mut wrote) = (holder(), holder());
        called_back.revoked(1, 5, KEY);
        assert_eq!(decode(&called_back.take_sends()[0].1), Ok(Message::Revoked { number: 5, key: KEY }));
        wrote.wrote(KEY);
        for mut holding in [called_back, wrote] {
            assert!(holding.read(at(30), KEY).is_none());
            holding.check_invariants();
        }
    }

    #[test]
    fn only_the_answer_to_what_was_asked_last_counts() {
        let mut holding = Holding::default();
        holding.offered(at(0), 1, KEY);
        let (before, _) = wanted(&mut holding);
        holding.wrote(KEY);
        holding.granted(at(1), 1, (before, 5), KEY, copy(b"old"));
        assert!(holding.read(at(1), KEY).is_none(), "it was asked for before the write");
        holding.offered(at(1), 1, KEY);
        let (after, _) = wanted(&mut holding);
        holding.granted(at(2), 1, (before, 6), KEY, copy(b"old"));
        holding.granted(at(2), 2, (after, 6), KEY, copy(b"of another"));
        assert!(holding.read(at(2), KEY).is_none());
        holding.granted(at(2), 1, (after, 6), KEY, copy(b"new"));
        assert!(holding.read(at(2), KEY).is_some());
    }

    #[test]
    fn a_lost_link_another_ring_and_a_flush_leave_nothing() {
        type End = fn(&mut Holding<u8>);
        let ends: [(End, bool); 3] = [
            (|holding| holding.lost(1), true),
            (|holding| holding.drop_all(), true),
            (|holding| holding.flushed(at(30), at(1_000)), false),
        ];
        for (end, asks) in ends {
            let mut holding = holder();
            holding.lost(2);
            assert!(holding.read(at(30), KEY).is_some());
            end(&mut holding);
            assert!(holding.read(at(30), KEY).is_none());
            holding.offered(at(3_029), 1, KEY);
            assert_eq!(holding.take_sends().len(), usize::from(asks));
            holding.offered(at(3_080), 1, KEY);
            assert_eq!(holding.take_sends().len(), 1);
            holding.check_invariants();
        }
    }

    #[test]
    fn keys_and_bytes_are_bounded() {
        let mut holding = Holding::default();
        let value = vec![0; GRANTED_VALUE_BYTES_MAX];
        for n in 0..2 * HELD_KEYS_MAX {
            holding.offered(at(0), 1, n.to_string().as_bytes());
            for (_, bytes) in holding.take_sends() {
                let Ok(Message::Want { ticket, key, .. }) = decode(&bytes) else { panic!("it asks") };
                holding.granted(at(0), 1, (ticket, 1), key, copy(&value));
            }
            holding.check_invariants();
        }
        assert!(holding.bytes() > HELD_BYTES_MAX / 2 && holding.count(at(1)) > 5);
        let mut holding = Holding::default();
        (0..2 * HELD_KEYS_MAX).for_each(|n| holding.offered(at(0), 1, n.to_string().as_bytes()));
        holding.check_invariants();
        assert_eq!(holding.keys.len(), HELD_KEYS_MAX);
        holding.offered(at(400), 1, KEY);
        assert_eq!(holding.keys.len(), 1, "the others were not read for long");
    }
}
