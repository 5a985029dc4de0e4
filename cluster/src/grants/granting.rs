//! The owner's side: what is granted to whom, and what a write waits for.

use std::collections::BTreeMap;

use super::{Copy as Copied, GRANT_WAIT, GRANTED_KEYS_MAX, Message, QUIET_TIME};
use crate::placement::partition_of;
use crate::ring::partitions::PartitionSet;
use crate::safeguard::{Safeguard, holds};
use crate::time::Micros;

/// A copy that somebody may read.
#[derive(Clone, Copy, Debug)]
struct Grant<L> {
    to: L,
    number: u64,
    until: Micros,
}

#[derive(Debug)]
struct Granted<L> {
    grants: Vec<Grant<L>>,
    /// Its holders were told.
    is_revoked: bool,
    quiet_until: Micros,
}

/// What an owner has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantingCounts {
    /// Copies given away.
    pub granted: u64,
    /// Copies called back.
    pub revoked: u64,
    /// Writes that had to wait for that.
    pub waited: u64,
}

/// See the module. `L` names a link that a holder has dialled; it is never that of another connection.
#[derive(Debug)]
pub struct Granting<L> {
    keys: BTreeMap<Box<[u8]>, Granted<L>>,
    last_number: u64,
    /// This node is about to follow another ring, or has no say for another reason.
    is_leaving: bool,
    /// Others owned these, and what they granted may still be read until then.
    inherited: PartitionSet,
    inherited_until: Micros,
    sends: Vec<(L, Vec<u8>)>,
    counts: GrantingCounts,
}

impl<L: Copy + PartialEq> Default for Granting<L> {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            last_number: 0,
            is_leaving: false,
            inherited: PartitionSet::default(),
            inherited_until: Micros::default(),
            sends: Vec::new(),
            counts: GrantingCounts::default(),
        }
    }
}

impl<L: Copy + PartialEq> Granting<L> {
    /// What was done.
    pub fn counts(&self) -> GrantingCounts {
        self.counts
    }

    /// Begins to count anew.
    pub fn reset_counts(&mut self) {
        self.counts = GrantingCounts::default();
    }

    /// Whether a key may be granted, as far as its writes go. That this node says what the key is, and will for [`GRANT_WAIT`], is
    /// for the caller to know.
    pub fn may_grant(&self, now: Micros, key: &[u8]) -> bool {
        !self.is_leaving
            && match self.keys.get(key) {
                Some(granted) => granted.quiet_until <= now,
                None => self.keys.len() < GRANTED_KEYS_MAX,
            }
    }

    /// Tells somebody who asks often that he may ask for a copy.
    pub fn offer(&mut self, to: L, key: &[u8]) {
        self.sends.push((to, Message::Offer { key }.encode()));
    }

    /// Gives a copy of what the key is at `now`, which was read after the request came. [`Self::may_grant`] must allow it.
    pub fn grant(&mut self, now: Micros, to: L, ticket: u64, key: &[u8], copy: Copied<'_>) {
        assert!(self.may_grant(now, key), "a key that is being written is granted to nobody");
        self.last_number += 1;
        self.counts.granted += 1;
        let number = self.last_number;
        let granted = self.keys.entry(key.into()).or_insert_with(|| Granted {
            grants: Vec::new(),
            is_revoked: false,
            quiet_until: Micros::default(),
        });
        granted.grants.retain(|grant| grant.to != to && grant.until > now);
        granted.is_revoked = false;
        granted.grants.push(Grant { to, number, until: now + GRANT_WAIT });
        self.sends.push((to, Message::Grant { ticket, number, key, copy }.encode()));
    }

    /// Whether a write must wait, because somebody may still read a copy of the key, whose
    /// [hash](crate::placement::hash_key) it is; all are told to stop. If not, the write is to be executed at once.
    pub fn must_wait(&mut self, now: Micros, hash: u64, key: &[u8]) -> bool {
        let is_held = self.revoke(now, key);
        let is_held = is_held && holds(Safeguard::WritesWaitForHolders);
        is_held || self.is_leaving || self.is_inherited(now, hash)
    }

    fn is_inherited(&self, now: Micros, hash: u64) -> bool {
        now < self.inherited_until && self.inherited.contains(partition_of(hash))
    }

    fn revoke(&mut self, now: Micros, key: &[u8]) -> bool {
        let Some(granted) = self.keys.get_mut(key) else { return false };
        granted.quiet_until = now + QUIET_TIME;
        granted.grants.retain(|grant| grant.until > now);
        if !granted.grants.is_empty() && !granted.is_revoked {
            granted.is_revoked = true;
            self.counts.waited += 1;
            self.counts.revoked += granted.grants.len() as u64;
            let revoke =
                |grant: &Grant<L>| (grant.to, Message::Revoke { number: grant.number, key }.encode());
            self.sends.extend(granted.grants.iter().map(revoke));
        }
        !granted.grants.is_empty()
    }

    /// A holder reads a key no more, as far as it was granted up to this number.
    pub fn revoked(&mut self, from: L, number: u64, key: &[u8]) {
        if let Some(granted) = self.keys.get_mut(key) {
            granted.grants.retain(|grant| grant.to != from || grant.number > number);
        }
    }

    /// This node hears of another ring: it grants nothing any more, and calls back everything. While this is true the ring is not to
    /// be followed: whoever owns a key after it would not know of the copies. Nor is anything written, which may belong here by the other
    /// ring only, and have been granted by somebody else.
    pub fn must_wait_to_leave(&mut self, now: Micros) -> bool {
        self.is_leaving = true;
        if !holds(Safeguard::GrantsEndBeforeRings) {
            return false;
        }
        let keys: Vec<_> = self.keys.keys().cloned().collect();
        let mut is_held = false;
        for key in keys {
            is_held |= self.revoke(now, &key);
        }
        is_held
    }

    /// The other ring is followed, which gives this node `gained`: what others owned and granted before, and cannot be asked for.
    pub fn arrived(&mut self, now: Micros, gained: &PartitionSet) {
        self.is_leaving = false;
        if !gained.is_empty() && holds(Safeguard::SuccessorsWait) {
            if self.inherited_until <= now {
                self.inherited = PartitionSet::default();
            }
            self.inherited.insert_all(gained);
            self.inherited_until = now + GRANT_WAIT;
        }
    }

    /// Whether any write may have to wait. Forgets what does not matter any more. O(keys).
    pub fn is_watchful(&mut self, now: Micros) -> bool {
        self.keys.retain(|_, granted| {
            granted.grants.retain(|grant| grant.until > now);
            !granted.grants.is_empty() || granted.quiet_until > now
        });
        now < self.inherited_until || self.keys.values().any(|granted| !granted.grants.is_empty())
    }

    /// What is to be sent, in order.
    pub fn take_sends(&mut self) -> Vec<(L, Vec<u8>)> {
        std::mem::take(&mut self.sends)
    }

    /// Checks every bound; for tests and debugging.
    pub fn check_invariants(&self) {
        assert!(self.keys.len() <= GRANTED_KEYS_MAX);
        let grants = self.keys.values().flat_map(|granted| &granted.grants);
        assert!(grants.into_iter().all(|grant| grant.number <= self.last_number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::decode;
    use crate::placement::{PartitionId, hash_key};

    const KEY: &[u8] = b"key";
    const COPY: Copied<'static> = Copied { cas: 7, client_flags: 0, is_for_ever: true, value: b"v" };

    fn at(millis: u64) -> Micros {
        Micros::from_millis(millis)
    }

    fn writes(granting: &mut Granting<u8>, now: Micros) -> bool {
        !granting.must_wait(now, hash_key(KEY), KEY)
    }

    #[test]
    fn a_write_waits_until_all_holders_have_said_so() {
        let mut granting = Granting::default();
        (1..=3).for_each(|to| granting.grant(at(0), to, 1, KEY, COPY));
        granting.grant(at(10), 1, 2, KEY, COPY);
        granting.take_sends();
        assert!(!writes(&mut granting, at(20)) && !writes(&mut granting, at(21)));
        let told = granting.take_sends();
        assert_eq!(told.len(), 3, "each is told once");
        granting.revoked(1, 1, KEY);
        for (to, message) in &told {
            assert!(!writes(&mut granting, at(30)));
            let Ok(Message::Revoke { number, key }) = decode(message) else { panic!("{message:?}") };
            granting.revoked(*to, number, key);
        }
        assert!(writes(&mut granting, at(40)));
        assert_eq!(granting.counts(), GrantingCounts { granted: 4, revoked: 3, waited: 1 });
        granting.check_invariants();
    }

    #[test]
    fn who_says_nothing_is_waited_for_until_his_time_is_over_by_this_clock() {
        let mut granting = Granting::default();
        granting.grant(at(0), 1, 1, KEY, COPY);
        granting.grant(at(50), 2, 1, KEY, COPY);
        granting.revoked(2, 1, KEY);
        assert!(!writes(&mut granting, at(249)) && granting.is_watchful(at(249)));
        assert!(writes(&mut granting, at(250)) && !granting.is_watchful(at(250)));
    }

    #[test]
    fn what_was_written_is_granted_to_nobody_for_a_second() {
        let mut granting = Granting::<u8>::default();
        granting.grant(at(0), 1, 1, KEY, COPY);
        assert!(writes(&mut granting, at(500)));
        assert!(!granting.may_grant(at(1_499), KEY) && granting.may_grant(at(1_499), b"other"));
        assert!(!granting.is_watchful(at(1_499)), "reads of it wait for nobody");
        assert!(granting.may_grant(at(1_500), KEY));
        granting.is_watchful(at(1_500));
        assert!(granting.keys.is_empty());
    }

    #[test]
    fn a_ring_is_followed_when_nobody_reads_what_was_granted_before() {
        let mut granting = Granting::default();
        granting.grant(at(0), 1, 1, KEY, COPY);
        assert!(granting.must_wait_to_leave(at(1)) && !granting.may_grant(at(1), b"other"));
        assert!(granting.must_wait(at(1), hash_key(b"other"), b"other"));
        granting.revoked(1, 1, KEY);
        assert!(!granting.must_wait_to_leave(at(2)));
        granting.arrived(at(2), &PartitionSet::default());
        assert!(granting.may_grant(at(2), b"other") && writes(&mut granting, at(2)));
    }

    #[test]
    fn what_others_owned_is_not_written_until_their_grants_are_over() {
        let mut granting = Granting::<u8>::default();
        let (mut gained, mut more) = (PartitionSet::default(), PartitionSet::default());
        gained.insert(partition_of(hash_key(KEY)));
        more.insert(PartitionId::new(u16::from(partition_of(hash_key(KEY)).index() == 0)));
        granting.arrived(at(0), &gained);
        granting.arrived(at(100), &more);
        assert!(!writes(&mut granting, at(299)) && granting.is_watchful(at(299)));
        assert!(!granting.must_wait(at(299), hash_key(b"another"), b"another"));
        assert!(writes(&mut granting, at(300)));
    }

    #[test]
    fn only_so_many_keys_are_granted() {
        let mut granting = Granting::<u8>::default();
        let key = |n: usize| n.to_string().into_bytes();
        (0..GRANTED_KEYS_MAX).for_each(|n| granting.grant(at(0), 1, 1, &key(n), COPY));
        assert!(!granting.may_grant(at(1), KEY) && granting.may_grant(at(1), &key(3)));
        granting.check_invariants();
        granting.is_watchful(at(200));
        assert!(granting.may_grant(at(200), KEY));
    }
}
