//! Every bound of the text and meta protocols, and how they relate. No parsing.

/// Longest key, in bytes as sent; also the longest base64 form of one.
pub const KEY_SIZE_MAX: usize = 250;

/// Longest command line before its LF, in bytes, for every command but the multi-key ones. A longer one closes.
pub const LINE_SIZE_MAX: usize = 2048;

/// Longest line of `get`, `gets`, `gat` and `gats` before its LF, in bytes.
///
/// memcached has no such bound and grows a buffer until memory ends; 8 MiB is 33,000 keys of the longest kind.
pub const KEYS_LINE_SIZE_MAX: usize = 8 << 20;

/// Longest value a line may announce, in bytes. What is stored is bounded by [`Limits::item_size_max`].
pub const VALUE_SIZE_MAX: u32 = i32::MAX as u32 - 2;

/// Most tokens in a meta command's line, command and key included.
pub const META_TOKENS_MAX: usize = 20;

/// Longest opaque token, in bytes, its `O` included.
pub const OPAQUE_SIZE_MAX: usize = 32;

/// Highest verbosity; a higher one asked for is cut to it.
pub const VERBOSITY_MAX: u8 = 2;

/// Longest secret a client may send to authenticate, in bytes: `user pass`, or one SASL message.
pub const AUTH_DATA_SIZE_MAX: usize = 16 << 10;

/// Most connections that may watch at a time.
pub const WATCHERS_MAX: usize = 20;

/// Most connections that may track at a time.
pub const TRACKERS_MAX: usize = 256;

/// Longest name of who holds a lock by `lk`, in bytes.
pub const SESSION_SIZE_MAX: usize = 64;

/// Longest time for which a lock is held at once, in milliseconds: a day.
pub const LOCK_TTL_MS_MAX: u32 = 86_400_000;

/// Longest time to wait for a lock, in milliseconds: a minute.
pub const LOCK_WAIT_MS_MAX: u32 = 60_000;

/// Longest name of a SASL mechanism, in bytes.
pub(crate) const SASL_MECHANISM_SIZE_MAX: usize = 32;

/// Longest body a binary header may announce, in bytes. A longer one closes.
pub(crate) const PACKET_BODY_SIZE_MAX: usize = 1 << 30;

/// What `item_size_max` is when nobody says otherwise, in bytes.
pub const ITEM_SIZE_DEFAULT: u32 = 1 << 20;

/// Spaces memcached forgives before the verb of a line that is allowed to be long.
pub(crate) const LEADING_SPACES_MAX: usize = 100;

/// Shortest line that can name a command, in bytes before its line end.
pub(crate) const LINE_SIZE_MIN: usize = 2;

/// Shortest line, its end included, from a client that has to authenticate. A shorter one closes.
pub(crate) const AUTH_LINE_SIZE_MIN: usize = 6;

/// Slab class numbers a client may name are below this.
pub(crate) const SLAB_CLASSES_MAX: u32 = 128;

/// Bytes memcached counts for an item beyond its key, client flags and value: header, CAS, a NUL and CRLF.
const ITEM_OVERHEAD_BYTES: u64 = 48 + 8 + 1 + 2;
const CLIENT_FLAGS_BYTES: u64 = 4;

const _: () = assert!(LINE_SIZE_MAX < KEYS_LINE_SIZE_MAX);
/// A longest key and meta flags of the longest kinds fit in a line.
const _: () = assert!(
    KEY_SIZE_MAX + OPAQUE_SIZE_MAX + META_TOKENS_MAX * " C18446744073709551615".len() < LINE_SIZE_MAX
);
/// Whether a line may be long is decided within the size of a short one.
const _: () = assert!(LEADING_SPACES_MAX + "gats ".len() < LINE_SIZE_MAX);

/// What a server refuses before it reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest item in bytes, counted as memcached counts its `-I`: 48 header, 8 CAS, 4 if the client flags are
    /// not 0, key, 1, value, 2.
    pub item_size_max: u32,
}

impl Limits {
    /// Whether an item of these sizes may be stored. O(1).
    pub(crate) fn allow(self, key_size: usize, client_flags: u32, value_size: u32) -> bool {
        let flags_size = if client_flags == 0 { 0 } else { CLIENT_FLAGS_BYTES };
        let item_size = ITEM_OVERHEAD_BYTES + flags_size + key_size as u64 + u64::from(value_size);
        item_size <= u64::from(self.item_size_max)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { item_size_max: ITEM_SIZE_DEFAULT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_item_size_admits_exactly_memcacheds_largest_value() {
        let limits = Limits::default();
        assert!(limits.allow(1, 0, 1_048_516));
        assert!(!limits.allow(1, 0, 1_048_517));
    }

    #[test]
    fn client_flags_cost_four_bytes_when_they_are_not_zero() {
        let limits = Limits { item_size_max: 1024 };
        assert!(limits.allow(1, 0, 964));
        assert!(!limits.allow(1, 1, 964));
        assert!(limits.allow(1, 1, 960));
    }
}
