//! Every refusal a server can send, and its exact text. No formatting: each is a constant line.

use crate::request::{Dialect, Request};

/// A refusal, as a client reads it.
///
/// Tools compare these texts byte for byte, so they are memcached 1.6.45's own, its odd colon included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorReply {
    /// Unknown command or sub-command.
    Error,
    /// Statistics nobody keeps.
    UnknownStats,
    /// Too few tokens, a bad number in a storage line, a key over the limit.
    BadCommandLineFormat,
    /// `stats cachedump` without its arguments.
    BadCommandLine,
    /// A value not followed by CRLF.
    BadDataChunk,
    /// A multi-key line over [`KEYS_LINE_SIZE_MAX`](crate::KEYS_LINE_SIZE_MAX). The connection closes.
    LineTooLong,
    /// `touch`, `gat` or `flush_all` with a time that is not a number.
    InvalidExptime,
    /// `incr` or `decr` with a delta that is not a number.
    InvalidDelta,
    /// `incr` or `decr` on a value that is not a number.
    NonNumericValue,
    /// A class number out of range.
    IllegalSlabId,
    /// `stats detail` with anything but on, off or dump.
    StatsDetailUsage,
    /// A meta flag nobody knows.
    InvalidFlag,
    /// A meta flag sent twice.
    DuplicateFlag,
    /// Any bad flag of `ma`, which does not tell them apart.
    InvalidOrDuplicateFlag,
    /// More tokens than [`META_TOKENS_MAX`](crate::META_TOKENS_MAX).
    TooManyFlags,
    /// A meta flag whose number is not one.
    BadToken,
    /// The `b` flag on a key that is not base64.
    BadKeyEncoding,
    /// An opaque token over [`OPAQUE_SIZE_MAX`](crate::OPAQUE_SIZE_MAX).
    OpaqueTooLong,
    /// `ms` with an unknown mode.
    InvalidStoreMode,
    /// `ma` with an unknown mode.
    InvalidArithmeticMode,
    /// A meta `D` that is not a number.
    InvalidDeltaValue,
    /// A meta `J` that is not a number.
    InvalidInitialValue,
    /// `flush_all` on a server started with `-F`.
    FlushNotAllowed,
    /// `stats detail` on a server started with `-X`.
    StatsDetailNotAllowed,
    /// `stats cachedump` on a server started with `-X`.
    StatsCachedumpNotAllowed,
    /// An item over the server's limit.
    TooLarge,
    /// No room for a value and nothing may be evicted.
    OutOfMemoryStoring,
    /// No room for the result of an arithmetic command.
    OutOfMemory,
    /// No room for a reply.
    OutOfMemoryWriting,
    /// No room for a request that comes in pieces. The connection closes.
    OutOfMemoryReading,
    /// The connection limit is reached. The connection closes.
    TooManyConnections,
    /// `shutdown` on a server started without `-A`.
    ShutdownNotEnabled,
    /// Anything but authentication from a client that has not authenticated.
    Unauthenticated,
    /// A user nobody knows, or the wrong password.
    AuthenticationFailure,
    /// A crawl while the crawler is disabled.
    CrawlerDisabled,
    /// A crawl while another is under way.
    CrawlerRunning,
    /// A crawl of a class that cannot be.
    BadClass,
    /// A crawl with nothing to look at.
    CrawlerNotStarted,
    /// A crawl that failed otherwise.
    CrawlerFailed,
    /// A crawl while the tables are being changed.
    CrawlerLocked,
    /// A pause of the crawler of more than a second.
    CrawlerSleepTooLong,
    /// `lru_crawler enable` while it is enabled.
    CrawlerStart,
    /// `lru_crawler disable` that did not succeed.
    CrawlerStop,
    /// `lru_crawler metadump` on a server started with `-X`.
    MetadumpNotAllowed,
    /// `lru_crawler mgdump` on a server started with `-X`.
    MgdumpNotAllowed,
    /// `lru_crawler metadump` behind requests that are not answered yet.
    MetadumpPipelined,
    /// As `MetadumpPipelined`, for `mgdump`.
    MgdumpPipelined,
    /// As `MetadumpPipelined`, for `watch`.
    WatchPipelined,
    /// `watch` on a server started with `-W`.
    WatchNotAllowed,
    /// [`WATCHERS_MAX`](crate::WATCHERS_MAX) watch already.
    TooManyWatchers,
    /// A watcher for whom there is no room otherwise.
    WatcherFailed,
    /// As `MetadumpPipelined`, for `track`.
    TrackPipelined,
    /// [`TRACKERS_MAX`](crate::TRACKERS_MAX) track already, or there are no such things here.
    TrackerFailed,
    /// `lk` on a node that was given no file for its fences, or is one of a list.
    NoLocks,
    /// `lk` with more locks or more who wait than there may be. Nothing changed.
    TooManyLocks,
    /// A question to the whole node, of which a shard does not answer. The others may have done what was asked.
    ShardSilent,
    /// `lk` whose fence could not be written down. Nothing changed.
    LockFileFailed,
    /// What keeps the locks of several nodes does not answer: a change may be made or not.
    LockCoordinatorSilent,
    /// `lru tune` with shares of more than 80 percent.
    LruPercents,
    /// `lru tune` with a factor that is not above 0.
    LruFactors,
    /// `slabs reassign` on a server that moves no pages.
    ReassignDisabled,
    /// `slabs reassign` while a page is being moved.
    ReassignRunning,
    /// `slabs reassign` of a class that is not there.
    ReassignBadClass,
    /// `slabs reassign` from a class with too few pages.
    ReassignNoSpare,
    /// `slabs reassign` from a class to itself.
    ReassignSame,
    /// A window of the page mover out of range.
    AutomoveWindow,
    /// `cache_memlimit` below 8.
    MemoryLimitTooSmall,
    /// `cache_memlimit` that can only mean bytes.
    MemoryLimitInBytes,
    /// `cache_memlimit` that the server cannot follow.
    MemoryLimitFailed,
    /// `shutdown` with a word nobody knows.
    InvalidShutdownMode,
    /// `refresh_certs` on a server without TLS.
    TlsNotEnabled,
    /// More than [`AUTH_DATA_SIZE_MAX`](crate::AUTH_DATA_SIZE_MAX) to authenticate with.
    AuthTokenTooLong,
    /// User and password not followed by CRLF.
    AuthTokenTermination,
    /// User and password without a space between them.
    AuthTokenFormat,
    /// The node is of a cluster and does not know its nodes yet. Not executed.
    NoRing,
    /// Too much is under way to the node that owns the key. Not executed.
    OwnerOverloaded,
    /// The node that owns the key cannot be reached. What was on its way to it may have been executed.
    OwnerGone,
    /// The node that owns the key did not answer in time. It may have been executed.
    OwnerSilent,
    /// The node that owns the key has no room now. Not executed.
    OwnerBusy,
    /// Keys change their owners faster than this request finds its own. Not executed.
    RingUnsettled,
    /// The nodes that hold copies of the key do not answer, so another may be its primary by now. Not executed.
    CopiesSilent,
    /// Not all copies have confirmed a write in time. It may be done, or be done yet.
    CopiesUnconfirmed,
    /// Too many writes wait for copies. Not executed.
    CopiesOverloaded,
    /// The key is being written by somebody else, or changes its primary. Not executed.
    KeyUnsettled,
    /// `E` where items have copies. Not executed.
    CasIsVersion,
}

/// A refusal and the form it is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialectError {
    /// What is refused.
    pub error: ErrorReply,
    /// Who reads it.
    pub dialect: Dialect,
}

impl From<ErrorReply> for DialectError {
    fn from(error: ErrorReply) -> Self {
        Self { error, dialect: Dialect::Text }
    }
}

impl DialectError {
    /// A refusal of this request.
    pub fn of(request: &Request<'_>, error: ErrorReply) -> Self {
        Self { error, dialect: request.dialect }
    }
}

impl ErrorReply {
    /// The whole line as sent, CRLF included.
    pub const fn text(self) -> &'static [u8] {
        match self {
            Self::Error | Self::UnknownStats => b"ERROR\r\n",
            Self::BadCommandLineFormat => b"CLIENT_ERROR bad command line format\r\n",
            Self::BadCommandLine => b"CLIENT_ERROR bad command line\r\n",
            Self::BadDataChunk => b"CLIENT_ERROR bad data chunk\r\n",
            Self::LineTooLong => b"CLIENT_ERROR line too long\r\n",
            Self::InvalidExptime => b"CLIENT_ERROR invalid exptime argument\r\n",
            Self::InvalidDelta => b"CLIENT_ERROR invalid numeric delta argument\r\n",
            Self::NonNumericValue => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
            Self::IllegalSlabId => b"CLIENT_ERROR Illegal slab id\r\n",
            Self::StatsDetailUsage => b"CLIENT_ERROR usage: stats detail on|off|dump\r\n",
            Self::InvalidFlag => b"CLIENT_ERROR invalid flag\r\n",
            Self::DuplicateFlag => b"CLIENT_ERROR duplicate flag\r\n",
            Self::InvalidOrDuplicateFlag => b"CLIENT_ERROR invalid or duplicate flag\r\n",
            Self::TooManyFlags => b"CLIENT_ERROR options flags are too long\r\n",
            Self::BadToken => b"CLIENT_ERROR bad token in command line format\r\n",
            Self::BadKeyEncoding => b"CLIENT_ERROR error decoding key\r\n",
            Self::OpaqueTooLong => b"CLIENT_ERROR opaque token too long\r\n",
            Self::InvalidStoreMode => b"CLIENT_ERROR invalid mode for ms M token\r\n",
            Self::InvalidArithmeticMode => b"CLIENT_ERROR invalid mode for ma M token\r\n",
            Self::InvalidDeltaValue => b"CLIENT_ERROR invalid numeric delta value\r\n",
            Self::InvalidInitialValue => b"CLIENT_ERROR invalid numeric initial value\r\n",
            Self::FlushNotAllowed => b"CLIENT_ERROR flush_all not allowed\r\n",
            Self::StatsDetailNotAllowed => b"CLIENT_ERROR stats detail not allowed\r\n",
            Self::StatsCachedumpNotAllowed => b"CLIENT_ERROR stats cachedump not allowed\r\n",
            Self::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
            Self::OutOfMemoryStoring => b"SERVER_ERROR out of memory storing object\r\n",
            Self::OutOfMemory => b"SERVER_ERROR out of memory\r\n",
            Self::OutOfMemoryWriting => b"SERVER_ERROR out of memory writing get response\r\n",
            Self::OutOfMemoryReading => b"SERVER_ERROR out of memory reading request\r\n",
            Self::TooManyConnections => b"ERROR Too many open connections\r\n",
            Self::ShutdownNotEnabled => b"SERVER_ERROR: shutdown not enabled\r\n",
            Self::Unauthenticated => b"CLIENT_ERROR unauthenticated\r\n",
            Self::AuthenticationFailure => b"CLIENT_ERROR authentication failure\r\n",
            Self::CrawlerDisabled => b"CLIENT_ERROR lru crawler disabled\r\n",
            Self::CrawlerRunning => b"BUSY currently processing crawler request\r\n",
            Self::BadClass => b"BADCLASS invalid class id\r\n",
            Self::CrawlerNotStarted => b"NOTSTARTED no items to crawl\r\n",
            Self::CrawlerFailed => b"ERROR an unknown error happened\r\n",
            Self::CrawlerLocked => b"ERROR locked try again later\r\n",
            Self::CrawlerSleepTooLong => b"CLIENT_ERROR sleep must be one second or less\r\n",
            Self::CrawlerStart => b"ERROR failed to start lru crawler thread\r\n",
            Self::CrawlerStop => b"ERROR failed to stop lru crawler thread\r\n",
            Self::MetadumpNotAllowed => b"ERROR metadump not allowed\r\n",
            Self::MgdumpNotAllowed => b"ERROR key dump not allowed\r\n",
            Self::MetadumpPipelined => b"ERROR cannot pipeline other commands before metadump\r\n",
            Self::MgdumpPipelined => b"ERROR cannot pipeline other commands before mgdump\r\n",
            Self::WatchPipelined => b"ERROR cannot pipeline other commands before watch\r\n",
            Self::WatchNotAllowed => b"CLIENT_ERROR watch commands not allowed\r\n",
            Self::TooManyWatchers => b"WATCHER_TOO_MANY log watcher limit reached\r\n",
            Self::WatcherFailed => b"WATCHER_FAILED failed to add log watcher\r\n",
            Self::TrackPipelined => b"ERROR cannot pipeline other commands before track\r\n",
            Self::TrackerFailed => b"SERVER_ERROR no room for another tracker\r\n",
            Self::NoLocks => {
                b"SERVER_ERROR no locks here: lk needs --lock-file on a node that stands alone, or --etcd\r\n"
            }
            Self::TooManyLocks => b"SERVER_ERROR too many locks\r\n",
            Self::ShardSilent => b"SERVER_ERROR a shard of this node does not answer: its log says which\r\n",
            Self::LockFileFailed => b"SERVER_ERROR the lock file cannot be written\r\n",
            Self::LockCoordinatorSilent => {
                b"SERVER_ERROR the coordinator of the locks does not answer: it may be done\r\n"
            }
            Self::LruPercents => b"ERROR hot and warm pcts must not exceed 80\r\n",
            Self::LruFactors => b"ERROR hot/warm age factors must be greater than 0\r\n",
            Self::ReassignDisabled => b"CLIENT_ERROR slab reassignment disabled\r\n",
            Self::ReassignRunning => b"BUSY currently processing reassign request\r\n",
            Self::ReassignBadClass => b"BADCLASS invalid src or dst class id\r\n",
            Self::ReassignNoSpare => b"NOSPARE source class has no spare pages\r\n",
            Self::ReassignSame => b"SAME src and dst class are identical\r\n",
            Self::AutomoveWindow => b"CLIENT_ERROR automove window too low or too high\r\n",
            Self::MemoryLimitTooSmall => b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n",
            Self::MemoryLimitInBytes => b"MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes\r\n",
            Self::MemoryLimitFailed => b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n",
            Self::InvalidShutdownMode => b"CLIENT_ERROR invalid shutdown mode\r\n",
            Self::TlsNotEnabled => b"Error TLS not enabled\r\n",
            Self::AuthTokenTooLong => b"CLIENT_ERROR auth token too long\r\n",
            Self::AuthTokenTermination => b"CLIENT_ERROR bad command line termination\r\n",
            Self::AuthTokenFormat => b"CLIENT_ERROR bad authentication token format\r\n",
            Self::NoRing => b"SERVER_ERROR no ring yet\r\n",
            Self::OwnerOverloaded => b"SERVER_ERROR too much under way to the key's node\r\n",
            Self::OwnerGone => b"SERVER_ERROR the key's node cannot be reached\r\n",
            Self::OwnerSilent => b"SERVER_ERROR the key's node did not answer in time\r\n",
            Self::OwnerBusy => b"SERVER_ERROR the key's node is busy\r\n",
            Self::RingUnsettled => b"SERVER_ERROR the ring is changing\r\n",
            Self::CopiesSilent => b"SERVER_ERROR the key's copies do not answer\r\n",
            Self::CopiesUnconfirmed => b"SERVER_ERROR the key's copies did not confirm in time\r\n",
            Self::CopiesOverloaded => b"SERVER_ERROR too much waits for the key's copies\r\n",
            Self::KeyUnsettled => b"SERVER_ERROR the key is being written or handed over\r\n",
            Self::CasIsVersion => {
                b"CLIENT_ERROR no E where items have copies: the CAS value is the version\r\n"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_only_a_server_can_make_read_as_memcacheds() {
        for (error, text) in [
            (ErrorReply::TooLarge, "SERVER_ERROR object too large for cache\r\n"),
            (ErrorReply::NonNumericValue, "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
            (ErrorReply::OutOfMemoryStoring, "SERVER_ERROR out of memory storing object\r\n"),
            (ErrorReply::OutOfMemory, "SERVER_ERROR out of memory\r\n"),
            (ErrorReply::OutOfMemoryWriting, "SERVER_ERROR out of memory writing get response\r\n"),
            (ErrorReply::OutOfMemoryReading, "SERVER_ERROR out of memory reading request\r\n"),
            (ErrorReply::FlushNotAllowed, "CLIENT_ERROR flush_all not allowed\r\n"),
            (ErrorReply::StatsDetailNotAllowed, "CLIENT_ERROR stats detail not allowed\r\n"),
            (ErrorReply::StatsCachedumpNotAllowed, "CLIENT_ERROR stats cachedump not allowed\r\n"),
            (ErrorReply::TooManyConnections, "ERROR Too many open connections\r\n"),
            (ErrorReply::ShutdownNotEnabled, "SERVER_ERROR: shutdown not enabled\r\n"),
            (ErrorReply::LineTooLong, "CLIENT_ERROR line too long\r\n"),
        ] {
            assert_eq!(error.text(), text.as_bytes());
        }
    }
}
