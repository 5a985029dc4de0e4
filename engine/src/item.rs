//! An item as the callers of a shard see it: borrowed, so that nothing can move it meanwhile.

use crate::arena::Location;
use crate::expiry::{Expiry, Seconds};
use crate::header::{Head, Header};
use crate::shard::Shard;
use crate::slab::ClassId;
use crate::value::Value;

/// A live item.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    shard: &'a Shard,
    location: Location,
    /// The header as it is now.
    header: Header,
    /// The header before the access that returned this item.
    before: Header,
    now: Seconds,
}

impl<'a> Item<'a> {
    #[inline]
    pub(crate) fn new(shard: &'a Shard, location: Location, before: Header, now: Seconds) -> Item<'a> {
        Item::after(shard, location, before, shard.arena.header(location), now)
    }

    /// As [`Item::new`], for who knows the header that the access left.
    #[inline]
    pub(crate) fn after(
        shard: &'a Shard,
        location: Location,
        before: Header,
        header: Header,
        now: Seconds,
    ) -> Item<'a> {
        Item { shard, location, header, before, now }
    }

    /// The value. O(1).
    #[inline]
    pub fn value(&self) -> Value<'a> {
        if self.header.is_extended() {
            return self.shard.value_of(self.location, &self.head());
        }
        let flags = if self.header.has_client_flags() { size_of::<u32>() } else { 0 };
        let offset = self.shard.arena.header_size.bytes() + flags + self.header.key_len();
        Value::in_one_piece(&self.shard.arena, self.location.offset() + offset, self.header.value_len())
    }

    /// Bytes of the value.
    #[inline]
    pub fn value_len(&self) -> usize {
        if self.header.is_extended() { self.head().value_len() } else { self.header.value_len() }
    }

    /// As stored; 0 if none were.
    #[inline]
    pub fn client_flags(&self) -> u32 {
        if self.header.has_client_flags() { self.head().client_flags } else { 0 }
    }

    /// The CAS value; 0 if the shard runs without.
    pub fn cas(&self) -> u64 {
        self.shard.cas_of(&self.head())
    }

    /// When the item will be dead, with what the access changed about it.
    pub fn expiry(&self) -> Expiry {
        self.header.expiry()
    }

    /// The key.
    pub fn key(&self) -> &'a [u8] {
        self.shard.arena.key(self.location)
    }

    /// Whether any access before this one fetched the item.
    pub fn fetched(&self) -> bool {
        self.before.is_fetched()
    }

    /// Seconds between the last access and this one. About 3.4 hours and anything longer read the same.
    pub fn idle_seconds(&self) -> u32 {
        self.before.idle_seconds(self.now)
    }

    /// Whether the item was invalidated and not stored since.
    pub fn is_stale(&self) -> bool {
        self.head().extension.stale
    }

    /// Whether somebody has won the right to recache the item, and not stored it since.
    pub fn is_token_sent(&self) -> bool {
        self.head().extension.token_sent
    }

    /// Whether the client that stored the item sent the key encoded.
    pub fn is_binary_key(&self) -> bool {
        self.head().extension.binary_key
    }

    /// The size class of the item's first chunk.
    #[inline]
    pub fn class(&self) -> ClassId {
        self.shard.slabs.class_of(self.location)
    }

    pub(crate) fn location(&self) -> Location {
        self.location
    }

    pub(crate) fn hash(&self) -> u64 {
        self.shard.hash_at(self.location)
    }

    pub(crate) fn version(&self) -> u64 {
        self.header.version()
    }

    /// Bytes of header, key and value, without the rest of the chunk.
    pub fn footprint_bytes(&self) -> usize {
        self.head().footprint()
    }

    /// What most callers never ask for is read only when they do.
    fn head(&self) -> Head {
        self.shard.arena.head(self.location)
    }
}

impl std::fmt::Debug for Item<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item").field("key", &self.key()).field("head", &self.head()).finish_non_exhaustive()
    }
}
