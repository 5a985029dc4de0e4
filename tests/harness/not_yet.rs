//! The one list of what the tests ask of Slabring and it does not have yet.

/// Features, and labels of lines in the rounds of clients. Whoever adds one to Slabring removes it here, and every
/// test that was waiting for it runs.
pub const NOT_YET: &[&str] =
    &[BINARY_PROTOCOL, EXPORTER_STATS, UNIX_SOCKETS, "append too much", "cache_memlimit"];

/// Requests that start with the byte 0x80.
pub const BINARY_PROTOCOL: &str = "binary protocol";

/// What the exporter reads from `stats`, `stats settings`, `stats items` and `stats slabs`.
pub const EXPORTER_STATS: &str = "stats for the exporter";

/// `-s PATH`.
pub const UNIX_SOCKETS: &str = "unix sockets";

/// Whether Slabring has this.
pub fn slabring_has(feature: &str) -> bool {
    !NOT_YET.contains(&feature)
}
