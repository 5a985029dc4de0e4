//! Commands about the server and not about a key: what they ask for, and how their lines are read.
//!
//! It checks all that a line alone can show to be wrong. Whether the server has such a thing, or allows it, is the
//! server's to say. Sub-commands may be shortened and texts are those of memcached 1.6.45 (`proto_text.c`).

use crate::errors::ErrorReply;
use crate::limits::SLAB_CLASSES_MAX;
use crate::number::{parse_f64, parse_i64, parse_u32};
use crate::tokens::Tokens;

/// The least that `cache_memlimit` takes, in MiB.
const MEMORY_LIMIT_MEGABYTES_MIN: u32 = 8;
/// The most: above it somebody meant bytes.
const MEMORY_LIMIT_MEGABYTES_MAX: u32 = 1_000_000_000;
/// Highest share of memory that hot and warm may have together, in percent.
const LRU_PERCENT_MAX: u32 = 80;
/// Longest pause of the crawler between items, in microseconds.
const CRAWLER_SLEEP_MICROSECONDS_MAX: u32 = 1_000_000;
/// How far the page mover may look back, in its own rounds.
const AUTOMOVE_WINDOW: std::ops::RangeInclusive<u32> = 3..=1800;
const AUTOMOVE_LEVEL_MAX: u32 = 2;

/// A command about the server. All but the ones that say so are answered by `OK`
/// ([`Outcome::Done`](crate::reply::Outcome::Done)) or a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admin {
    /// `lru tune`
    LruTune {
        /// Share of memory for new items, in percent.
        hot_percent: u32,
        /// Share of memory for items that were hit, in percent; at most 80 with the other.
        warm_percent: u32,
        /// Age of the oldest hot item by that of the oldest cold one; above 0.
        hot_max_factor: Decimal,
        /// As `hot_max_factor`, for warm ones.
        warm_max_factor: Decimal,
    },
    /// `lru mode`
    LruMode {
        /// Or flat.
        segmented: bool,
    },
    /// `lru temp_ttl`
    LruTemporaryTtl {
        /// Items that live shorter are never moved up; `None` switches it off.
        seconds: Option<u32>,
    },
    /// `lru_crawler enable` and `disable`
    Crawler {
        /// Or disable.
        enabled: bool,
    },
    /// `lru_crawler sleep`
    CrawlerSleep {
        /// Pause between items, up to a second.
        microseconds: u32,
    },
    /// `lru_crawler tocrawl`
    CrawlerToCrawl {
        /// Most items looked at in one class.
        items: u32,
    },
    /// `lru_crawler crawl`: free what is dead.
    Crawl(Classes),
    /// `lru_crawler metadump`: the rest of the stream is [`metadump_item`](crate::reply::metadump_item) lines and
    /// an end.
    Metadump(Classes),
    /// `lru_crawler mgdump`: as [`Admin::Metadump`], with [`mgdump_item`](crate::reply::mgdump_item).
    Mgdump(Classes),
    /// `slabs reassign`: move a page.
    SlabsReassign {
        /// Class that loses it; -1 is any.
        from: i32,
        /// Class that gets it; 0 is the pool of all.
        to: i32,
    },
    /// `slabs automove`
    SlabsAutomove {
        /// 0 is never, 1 slowly, 2 at every eviction.
        level: u8,
    },
    /// `slabs automove ratio`
    SlabsAutomoveRatio(Decimal),
    /// `slabs automove freeratio`
    SlabsAutomoveFreeRatio(Decimal),
    /// `slabs automove window`
    SlabsAutomoveWindow {
        /// 3 to 1800.
        rounds: u32,
    },
    /// `cache_memlimit`
    MemoryLimit {
        /// For items, in MiB; at least 8.
        megabytes: u32,
    },
    /// `watch`: the connection is answered by `OK` and from then on only sent
    /// [`watch_event`](crate::reply::watch_event) lines.
    Watch(WatchTopics),
    /// `shutdown`: not answered if it is allowed.
    Shutdown(ShutdownMode),
    /// `refresh_certs`
    RefreshCertificates,
    /// Any well-formed `extstore`: there is none here, so that nothing is to be done.
    Extstore,
    /// `config get cluster`, a managed service's question for the nodes, answered by
    /// [`cluster_config`](crate::reply::cluster_config).
    ClusterConfig,
    /// `config get ring`: the ring document, answered by [`ring_config`](crate::reply::ring_config).
    RingConfig,
    /// `config set redirect on|off`: whether this connection is told where a key of another node is, by
    /// [`moved`](crate::reply::moved), instead of having its request passed on.
    Redirect(bool),
}

/// How a server is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// Now.
    Now,
    /// When what is under way is done and what is to be kept is written.
    Graceful,
    /// A word nobody knows: [`ErrorReply::InvalidShutdownMode`], but only where the command is allowed at all.
    Unknown,
}

/// Which items a crawler looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    /// Every class, one after the other.
    All,
    /// Everything, in the order of the index.
    Hash,
    /// Bit `n` for class `n`, 1 to 127; none of them is a crawl that
    /// [does not start](ErrorReply::CrawlerNotStarted).
    Some(u128),
}

/// A number with a fraction, as a client spelled it; finite. It is compared by its bits, so that commands are `Eq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal(u64);

/// What a watcher wants to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchTopics(u16);

impl Decimal {
    fn parse(token: &[u8]) -> Option<Self> {
        parse_f64(token).map(|number| Self(number.to_bits()))
    }

    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl WatchTopics {
    /// Every request as sent.
    pub const RAW_COMMANDS: Self = Self(1);
    /// Items that leave because memory is short.
    pub const EVICTIONS: Self = Self(1 << 1);
    /// Gets; what a watcher that names nothing is told.
    pub const FETCHERS: Self = Self(1 << 2);
    /// Stores.
    pub const MUTATIONS: Self = Self(1 << 3);
    /// The server itself.
    pub const SYSTEM_EVENTS: Self = Self(1 << 4);
    /// Connections that come and go.
    pub const CONNECTION_EVENTS: Self = Self(1 << 5);
    /// The proxy, which there is not.
    pub const PROXY: Self = Self(1 << 6);
    /// Deletes.
    pub const DELETIONS: Self = Self(1 << 7);

    /// Names, in the order in which memcached compares them: the first that begins with the word wins.
    const NAMES: [(&[u8], Self); 10] = [
        (b"rawcmds", Self::RAW_COMMANDS),
        (b"evictions", Self::EVICTIONS),
        (b"fetchers", Self::FETCHERS),
        (b"mutations", Self::MUTATIONS),
        (b"sysevents", Self::SYSTEM_EVENTS),
        (b"connevents", Self::CONNECTION_EVENTS),
        (b"proxyreqs", Self::PROXY),
        (b"proxyevents", Self::PROXY),
        (b"proxyuser", Self::PROXY),
        (b"deletions", Self::DELETIONS),
    ];

    /// Whether all of `topics` are in here. O(1).
    pub fn contains(self, topics: Self) -> bool {
        self.0 & topics.0 == topics.0
    }

    /// Whether any of `topics` is in here. O(1).
    pub fn overlaps(self, topics: Self) -> bool {
        self.0 & topics.0 != 0
    }

    /// A number to keep them by. O(1).
    pub fn bits(self) -> u16 {
        self.0
    }

    /// The topics of [`WatchTopics::bits`]. O(1).
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// These and those. O(1).
    #[must_use]
    pub fn and(self, topics: Self) -> Self {
        Self(self.0 | topics.0)
    }

    fn parse(tokens: Tokens<'_>) -> Result<Self, ErrorReply> {
        let topics = tokens.map(Self::by_name).try_fold(Self::default(), |all, topic| Some(all.and(topic?)));
        match topics {
            None => Err(ErrorReply::Error),
            Some(none) if none == Self::default() => Ok(Self::FETCHERS),
            Some(topics) => Ok(topics),
        }
    }

    fn by_name(word: &[u8]) -> Option<Self> {
        Self::NAMES.iter().find(|(name, _)| name.starts_with(word)).map(|&(_, topic)| topic)
    }
}

impl Classes {
    /// `all`, `hash`, or numbers with commas between them.
    fn parse(token: &[u8]) -> Result<Self, ErrorReply> {
        match token {
            b"all" => return Ok(Self::All),
            b"hash" => return Ok(Self::Hash),
            _ => {}
        }
        let mut numbers = token.split(|&byte| byte == b',').filter(|number| !number.is_empty());
        let bits = numbers.try_fold(0, |bits, number| Some(bits | class_bit(number)?));
        bits.map(Self::Some).ok_or(ErrorReply::BadClass)
    }
}

/// Reads the arguments of `verb`, or `None` if it is not a command about the server.
pub(crate) fn parse_admin(verb: &[u8], arguments: &[u8]) -> Option<Result<Admin, ErrorReply>> {
    let tokens = Tokens::new(arguments);
    Some(match verb {
        b"lru" => parse_lru(tokens),
        b"lru_crawler" => parse_crawler(tokens),
        b"slabs" => parse_slabs(tokens),
        b"cache_memlimit" => parse_memory_limit(tokens),
        b"watch" => WatchTopics::parse(tokens).map(Admin::Watch),
        b"shutdown" => Ok(Admin::Shutdown(parse_shutdown(tokens))),
        b"refresh_certs" => Ok(Admin::RefreshCertificates),
        b"extstore" => parse_extstore(tokens),
        b"config" => parse_config(tokens),
        _ => return None,
    })
}

/// `lru tune hot warm hot_factor warm_factor | mode flat|segmented | temp_ttl seconds`
fn parse_lru(mut tokens: Tokens<'_>) -> Result<Admin, ErrorReply> {
    let (Some(topic), Some(argument)) = (tokens.next(), tokens.next()) else { return Err(ErrorReply::Error) };
    match (topic, argument) {
        _ if b"tune".starts_with(topic) => parse_lru_tune(argument, tokens),
        (_, b"flat") if b"mode".starts_with(topic) => Ok(Admin::LruMode { segmented: false }),
        (_, b"segmented") if b"mode".starts_with(topic) => Ok(Admin::LruMode { segmented: true }),
        (_, seconds) if b"temp_ttl".starts_with(topic) => {
            let seconds = parse_i32(seconds).ok_or(ErrorReply::Error)?;
            Ok(Admin::LruTemporaryTtl { seconds: u32::try_from(seconds).ok() })
        }
        _ => Err(ErrorReply::Error),
    }
}

fn parse_lru_tune(hot: &[u8], mut tokens: Tokens<'_>) -> Result<Admin, ErrorReply> {
    let hot_percent = parse_u32(hot);
    let warm_percent = tokens.next().and_then(parse_u32);
    let mut factor = || tokens.next().and_then(Decimal::parse);
    let (Some(hot_percent), Some(warm_percent), Some(hot_max_factor), Some(warm_max_factor)) =
        (hot_percent, warm_percent, factor(), factor())
    else {
        return Err(ErrorReply::Error);
    };
    if hot_percent.saturating_add(warm_percent) > LRU_PERCENT_MAX {
        return Err(ErrorReply::LruPercents);
    }
    if hot_max_factor.get() <= 0.0 || warm_max_factor.get() <= 0.0 {
        return Err(ErrorReply::LruFactors);
    }
    Ok(Admin::LruTune { hot_percent, warm_percent, hot_max_factor, warm_max_factor })
}

/// `lru_crawler enable | disable | crawl c | metadump c | mgdump c | tocrawl n | sleep us`, and nothing behind it
fn parse_crawler(mut tokens: Tokens<'_>) -> Result<Admin, ErrorReply> {
    let Some(topic) = tokens.next() else { return Err(ErrorReply::Error) };
    match (tokens.next(), tokens.next()) {
        (None, _) if b"enable".starts_with(topic) => Ok(Admin::Crawler { enabled: true }),
        (None, _) if b"disable".starts_with(topic) => Ok(Admin::Crawler { enabled: false }),
        (Some(argument), None) => parse_crawler_argument(topic, argument),
        _ => Err(ErrorReply::Error),
    }
}

fn parse_crawler_argument(topic: &[u8], argument: &[u8]) -> Result<Admin, ErrorReply> {
    let number = || parse_u32(argument).ok_or(ErrorReply::BadCommandLineFormat);
    match topic {
        _ if b"crawl".starts_with(topic) => Classes::parse(argument).map(Admin::Crawl),
        _ if b"metadump".starts_with(topic) => Classes::parse(argument).map(Admin::Metadump),
        _ if b"mgdump".starts_with(topic) => Classes::parse(argument).map(Admin::Mgdump),
        _ if b"tocrawl".starts_with(topic) => Ok(Admin::CrawlerToCrawl { items: number()? }),
        _ if b"sleep".starts_with(topic) => match number()? {
            microseconds @ ..=CRAWLER_SLEEP_MICROSECONDS_MAX => Ok(Admin::CrawlerSleep { microseconds }),
            _ => Err(ErrorReply::CrawlerSleepTooLong),
        },
        _ => Err(ErrorReply::Error),
    }
}

/// `slabs reassign from to`, and nothing behind it, or `slabs automove ...`
fn parse_slabs(mut tokens: Tokens<'_>) -> Result<Admin, ErrorReply> {
    let (Some(topic), Some(first)) = (tokens.next(), tokens.next()) else { return Err(ErrorReply::Error) };
    let mut rest = tokens;
    match (rest.next(), rest.next()) {
        (Some(second), None) if b"reassign".starts_with(topic) => match (parse_i32(first), parse_i32(second))
        {
            (Some(from), Some(to)) => Ok(Admin::SlabsReassign { from, to }),
            _ => Err(ErrorReply::BadCommandLineFormat),
        },
        _ if b"automove".starts_with(topic) => parse_automove(first, tokens.next()),
        _ => Err(ErrorReply::Error),
    }
}

/// `slabs automove level | ratio f | freeratio f | window n`
fn parse_automove(topic: &[u8], argument: Option<&[u8]>) -> Result<Admin, ErrorReply> {
    let ratio = || argument.and_then(Decimal::parse).ok_or(ErrorReply::Error);
    match topic {
        _ if b"ratio".starts_with(topic) => Ok(Admin::SlabsAutomoveRatio(ratio()?)),
        _ if b"freeratio".starts_with(topic) => Ok(Admin::SlabsAutomoveFreeRatio(ratio()?)),
        _ if b"window".starts_with(topic) => {
            let rounds = argument.and_then(parse_u32).ok_or(ErrorReply::BadCommandLineFormat)?;
            let valid = AUTOMOVE_WINDOW.contains(&rounds);
            if valid { Ok(Admin::SlabsAutomoveWindow { rounds }) } else { Err(ErrorReply::AutomoveWindow) }
        }
        level => match parse_u32(level) {
            None => Err(ErrorReply::BadCommandLineFormat),
            Some(level @ ..=AUTOMOVE_LEVEL_MAX) => {
                Ok(Admin::SlabsAutomove { level: u8::try_from(level).expect("at most 2") })
            }
            Some(_) => Err(ErrorReply::Error),
        },
    }
}

fn parse_memory_limit(mut tokens: Tokens<'_>) -> Result<Admin, ErrorReply> {
    match tokens.next().and_then(parse_u32) {
        None => Err(ErrorReply::Error),
        Some(..MEMORY_LIMIT_MEGABYTES_MIN) => Err(ErrorReply::MemoryLimitTooSmall),
        Some(megabytes @ ..=MEMORY_LIMIT_MEGABYTES_MAX) => Ok(Admin::MemoryLimit { megabytes }),
        Some(_) => Err(ErrorReply::MemoryLimitInBytes),
    }
}

fn parse_shutdown(mut tokens: Tokens<'_>) -> ShutdownMode {
    match (tokens.next(), tokens.next()) {
        (None, _) => ShutdownMode::Now,
        (Some(b"graceful"), None) => ShutdownMode::Graceful,
        _ => ShutdownMode::Unknown,
    }
}

/// `extstore free_memchunks class n`, or one of many settings and its number
fn parse_extstore(mut tokens: Tokens<'_>) -> Result<Admin, ErrorReply> {
    const SETTINGS: [&[u8]; 8] = [
        b"item_size",
        b"item_age",
        b"low_ttl",
        b"recache_rate",
        b"compact_under",
        b"drop_under",
        b"max_sleep",
        b"drop_unread",
    ];
    let (Some(topic), Some(first)) = (tokens.next(), tokens.next()) else { return Err(ErrorReply::Error) };
    let understood = match tokens.next() {
        Some(limit) if b"free_memchunks".starts_with(topic) => {
            parse_u32(first).is_some_and(|class| class < SLAB_CLASSES_MAX) && parse_u32(limit).is_some()
        }
        _ if SETTINGS.iter().any(|name| name.starts_with(topic)) => parse_u32(first).is_some(),
        _ => b"max_frag".starts_with(topic) && parse_f64(first).is_some(),
    };
    if understood { Ok(Admin::Extstore) } else { Err(ErrorReply::Error) }
}

fn parse_config(mut tokens: Tokens<'_>) -> Result<Admin, ErrorReply> {
    match (tokens.next(), tokens.next(), tokens.next()) {
        (Some(b"get"), Some(b"cluster"), None) => Ok(Admin::ClusterConfig),
        (Some(b"get"), Some(b"ring"), None) => Ok(Admin::RingConfig),
        (Some(b"set"), Some(b"redirect"), Some(word)) if tokens.next().is_none() => match word {
            b"on" => Ok(Admin::Redirect(true)),
            b"off" => Ok(Admin::Redirect(false)),
            _ => Err(ErrorReply::Error),
        },
        _ => Err(ErrorReply::Error),
    }
}

fn class_bit(number: &[u8]) -> Option<u128> {
    parse_u32(number).filter(|class| (1..SLAB_CLASSES_MAX).contains(class)).map(|class| 1 << class)
}

fn parse_i32(token: &[u8]) -> Option<i32> {
    i32::try_from(parse_i64(token)?).ok()
}

/// Every class has its bit.
const _: () = assert!(SLAB_CLASSES_MAX <= u128::BITS);

#[cfg(test)]
mod tests;
