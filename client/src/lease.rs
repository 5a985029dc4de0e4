//! The right to fill a missing or old item, given to one client at a time: the others do not all ask the database.
//!
//! Rests on the flags `N`, `R`, `W`, `X` and `Z` of memcached's meta commands; any server of version 1.6 has them.
//! Source: memcached `doc/protocol.txt`, "Meta Get".

use std::time::Duration;

use crate::command::{CasToken, Command, Item, StoreMode, StoreOptions};
use crate::error::Error;
use crate::key::Key;
use crate::meta::{MetaReply, MetaRequest, MetaStatus};
use crate::ttl::Ttl;

/// A longer time would be read as a date.
const HOLD_MAX: Duration = Duration::from_secs(60 * 60 * 24 * 30);

/// How leases are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseOptions {
    /// How long others wait for who has the lease of a missing item: in whole seconds, from one to 30 days.
    pub hold: Duration,
    /// Give a lease for an item that has no longer than this to live; the item is still served to the others.
    pub renew_before: Option<Duration>,
}

impl Default for LeaseOptions {
    fn default() -> Self {
        Self { hold: Duration::from_secs(10), renew_before: None }
    }
}

/// What was found, and who is to fill it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The item.
    Hit(Item),
    /// The item was invalidated, and somebody else fills it anew.
    Stale(Item),
    /// Nobody else fills it: fill it, or release the lease.
    Lease(Lease),
    /// There is none, and somebody else fills it. Ask again in a moment.
    Awaited,
}

/// The right to fill an item. Not used, it ends by itself after [`LeaseOptions::hold`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    key: Key,
    cas: CasToken,
    old: Option<Item>,
}

impl Lease {
    /// What the item was before, if it is still known.
    pub fn old(&self) -> Option<&Item> {
        self.old.as_ref()
    }

    /// The key to fill.
    pub fn key(&self) -> &[u8] {
        self.key.as_bytes()
    }

    /// Stores the value unless the item has been written or deleted since the lease was given.
    pub(crate) fn fill(self, value: Vec<u8>, options: StoreOptions) -> Command {
        Command::Store { mode: StoreMode::Cas(self.cas), key: self.key, value, options }
    }

    /// Removes what holds the place, so that the next one who asks gets the lease.
    pub(crate) fn release(self) -> Command {
        Command::Meta { key: self.key, request: MetaRequest::delete().flag_with(b'C', self.cas.0) }
    }
}

/// Asks for an item, or the lease to fill it.
pub(crate) fn lookup(key: Key, options: &LeaseOptions) -> Command {
    let seconds = |duration: Duration| Ttl::After(duration.min(HOLD_MAX)).exptime(0).max(1);
    let request = MetaRequest::get().flag(b'f').flag(b'v').flag(b'c').flag_with(b'N', seconds(options.hold));
    let request = match options.renew_before {
        Some(rest) => request.flag_with(b'R', seconds(rest)),
        None => request,
    };
    Command::Meta { key, request }
}

/// Marks an item as old: it is served as stale until somebody has filled it.
pub(crate) fn invalidate(key: Key, grace: Duration) -> Command {
    let request =
        MetaRequest::delete().flag(b'I').flag_with(b'T', Ttl::After(grace.min(HOLD_MAX)).exptime(0));
    Command::Meta { key, request }
}

/// What a reply to [`lookup`] says.
pub(crate) fn found(key: Key, reply: MetaReply) -> Lookup {
    assert!(reply.status != MetaStatus::Done, "the value was asked for");
    let has = |flag| reply.flag(flag).is_some();
    let (is_winner, is_stale, has_winner) = (has(b'W'), has(b'X'), has(b'Z'));
    let cas = CasToken(reply.number(b'c').unwrap_or_default());
    let flags = reply.number(b'f').and_then(|flags| u32::try_from(flags).ok()).unwrap_or_default();
    let value = reply.value.unwrap_or_default();
    // What holds the place of a missing item is empty.
    let is_placeholder = value.is_empty();
    let item = Item { value, flags, cas };
    match (is_winner, is_stale, has_winner) {
        (true, _, _) => Lookup::Lease(Lease { key, cas, old: (!is_placeholder).then_some(item) }),
        (false, true, _) => Lookup::Stale(item),
        (false, false, true) if is_placeholder => Lookup::Awaited,
        // Whoever renews it does so before its end: it is as good as ever.
        (false, false, _) => Lookup::Hit(item),
    }
}

/// Why there is no value: the cache failed, or what should have filled it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError<E> {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] Error),
    /// What the caller's own function returned.
    #[error("{0}")]
    Fill(E),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Wire;

    fn reply(value: &str, flags: &[(u8, &str)]) -> MetaReply {
        let flags = flags.iter().map(|(flag, token)| (*flag, (*token).to_owned())).collect();
        MetaReply { status: MetaStatus::Value, flags, value: Some(value.as_bytes().to_vec()) }
    }

    #[track_caller]
    fn check(value: &str, letters: &[u8], expected: &str) {
        let mut flags = vec![(b'f', "0"), (b'c', "7")];
        flags.extend(letters.iter().map(|letter| (*letter, "")));
        let key = Key::new(b"k", Wire::Text).unwrap();
        let lookup = found(key, reply(value, &flags));
        let shown = match lookup {
            Lookup::Hit(_) => "hit",
            Lookup::Stale(_) => "stale",
            Lookup::Lease(Lease { old: None, .. }) => "lease",
            Lookup::Lease(Lease { old: Some(_), .. }) => "lease with old",
            Lookup::Awaited => "awaited",
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn one_client_gets_the_lease_and_the_others_what_there_is() {
        check("", b"W", "lease");
        check("", b"Z", "awaited");
        check("v", b"", "hit");
        check("", b"", "hit");
        check("v", b"WX", "lease with old");
        check("v", b"XZ", "stale");
        check("v", b"W", "lease with old");
        check("v", b"Z", "hit");
    }
}
