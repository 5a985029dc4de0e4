//! The one list of what the tests ask of Slabring and it does not have yet.

/// Features, and labels of lines in the rounds of clients. Whoever adds one to Slabring removes it here, and every
/// test that was waiting for it runs.
pub const NOT_YET: &[&str] = &[META_FLAGS_IN_ORDER];

/// Requests that start with the byte 0x80.
pub const BINARY_PROTOCOL: &str = "binary protocol";

/// The flags `N`, `T` and `t` of one `mg` or `ma` count in their order: `t` tells the time before the `T` behind it, and of
/// `N` and `T` the later one gives a new item its time.
pub const META_FLAGS_IN_ORDER: &str = "meta flags in order";

/// `incr key noreply` and `touch key noreply`: the last word is the number and keeps the error about it from being sent.
pub const NOREPLY_FOR_A_NUMBER: &str = "noreply for a number";

/// `quit` with requests behind it in the same packet, and another packet after that.
pub const REQUESTS_BEHIND_QUIT: &str = "requests behind quit";

/// Counts of requests for each class in `stats slabs`.
pub const STATS_BY_CLASS: &str = "counts by class";

/// Whether Slabring has this.
pub fn slabring_has(feature: &str) -> bool {
    !NOT_YET.contains(&feature)
}
