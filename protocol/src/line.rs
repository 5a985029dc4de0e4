//! One command line to what it asks for. It sees a whole line without its end, and never the bytes behind it.

use crate::admin::parse_admin;
use crate::base64;
use crate::errors::ErrorReply;
use crate::limits::{
    AUTH_DATA_SIZE_MAX, KEY_SIZE_MAX, LINE_SIZE_MIN, Limits, SLAB_CLASSES_MAX, VALUE_SIZE_MAX, VERBOSITY_MAX,
};
use crate::lock::parse_lock;
use crate::meta::{Head, MetaFlags, MetaNumbers};
use crate::number::{parse_i64, parse_u32, parse_u64};
use crate::request::{Command, Request, StatsDetail, StatsTopic, StoreMode};
use crate::tokens::Tokens;

/// Bytes behind a value.
pub(crate) const VALUE_END: &[u8; 2] = b"\r\n";

/// What a line comes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line<'a> {
    /// A whole request.
    Request(Request<'a>),
    /// A line of keys, all of them short enough and at least one there. They start `keys_offset` bytes into the line.
    Keys { command: KeysCommand, keys_offset: usize },
    /// A request whose value follows the line.
    Store { request: Request<'a>, value_size: u32 },
    /// A request that is executed at once although a value follows, which belongs to nothing.
    StoreTooLarge { request: Request<'a>, value_size: u32 },
    /// Nothing is executed.
    Refused(Refusal),
    /// Not a memcached client.
    Close,
}

/// The command shared by all keys of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeysCommand {
    Get { with_cas: bool },
    GetAndTouch { exptime: i64, with_cas: bool },
}

/// Why nothing is executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) error: ErrorReply,
    /// The client asked to hear nothing.
    pub(crate) noreply: bool,
    /// Size of a value behind the line that belongs to nothing.
    pub(crate) value_size: Option<u32>,
}

impl KeysCommand {
    pub(crate) fn request(self, key: &[u8]) -> Request<'_> {
        let command = match self {
            Self::Get { with_cas } => Command::Get { with_cas },
            Self::GetAndTouch { exptime, with_cas } => Command::GetAndTouch { exptime, with_cas },
        };
        Request::keyed(command, key)
    }
}

/// Reads a line without its CRLF or LF. O(length).
#[inline]
pub(crate) fn parse_line<'a>(text: &'a [u8], limits: &Limits) -> Line<'a> {
    if text.len() < LINE_SIZE_MIN {
        return refused(ErrorReply::BadCommandLineFormat);
    }
    let (verb, arguments) = text.split_at(text.iter().position(|&byte| byte == b' ').unwrap_or(text.len()));
    match verb {
        b"get" => parse_get(text, arguments, false),
        b"gets" => parse_get(text, arguments, true),
        b"gat" => parse_gat(text, arguments, false),
        b"gats" => parse_gat(text, arguments, true),
        b"set" => parse_store(StoreMode::Set, arguments, limits),
        b"add" => parse_store(StoreMode::Add, arguments, limits),
        b"replace" => parse_store(StoreMode::Replace, arguments, limits),
        b"append" => parse_store(StoreMode::Append, arguments, limits),
        b"prepend" => parse_store(StoreMode::Prepend, arguments, limits),
        b"cas" => parse_cas(arguments, limits),
        b"delete" => parse_delete(arguments),
        b"incr" => parse_arithmetic(arguments, false),
        b"decr" => parse_arithmetic(arguments, true),
        b"touch" => parse_touch(arguments),
        b"mg" => parse_meta_get(arguments),
        b"ms" => parse_meta_store(arguments, limits),
        b"md" => parse_meta(arguments, Command::MetaDelete),
        b"ma" => parse_meta_arithmetic(arguments),
        b"mn" => Line::Request(Request::bare(Command::MetaNoop)),
        b"me" => parse_meta_debug(arguments),
        b"flush_all" => parse_flush_all(arguments),
        b"verbosity" => parse_verbosity(arguments),
        b"stats" => parse_stats(arguments),
        b"version" => Line::Request(Request::bare(Command::Version)),
        b"quit" => Line::Request(Request::bare(Command::Quit)),
        verb => parse_rare(verb, arguments),
    }
}

/// The size of what follows a line that authenticates. Only `set` and the length are looked at.
#[cold]
pub(crate) fn parse_auth_line(text: &[u8]) -> Result<usize, ErrorReply> {
    let mut tokens = Tokens::new(text);
    let is_set = text.starts_with(b"set") && tokens.next() == Some(b"set");
    let size = tokens.nth(3).and_then(parse_u32).filter(|_| is_set).ok_or(ErrorReply::Unauthenticated)?;
    match usize::try_from(size) {
        Ok(size @ ..=AUTH_DATA_SIZE_MAX) => Ok(size),
        _ => Err(ErrorReply::AuthTokenTooLong),
    }
}

fn parse_get<'a>(text: &'a [u8], arguments: &'a [u8], with_cas: bool) -> Line<'a> {
    parse_keys(text, arguments, KeysCommand::Get { with_cas })
}

fn parse_gat<'a>(text: &'a [u8], arguments: &'a [u8], with_cas: bool) -> Line<'a> {
    let mut tokens = Tokens::new(arguments);
    let Some(exptime) = tokens.next() else { return refused(ErrorReply::BadCommandLineFormat) };
    match (parse_i64(exptime), tokens.last_left()) {
        (_, None) => refused(ErrorReply::BadCommandLineFormat),
        (None, Some(_)) => refused(ErrorReply::InvalidExptime),
        (Some(exptime), Some(_)) => {
            parse_keys(text, tokens.rest(), KeysCommand::GetAndTouch { exptime, with_cas })
        }
    }
}

/// One long key refuses the whole line, so that no value is sent before the refusal.
fn parse_keys<'a>(text: &'a [u8], keys: &'a [u8], command: KeysCommand) -> Line<'a> {
    let mut tokens = Tokens::new(keys);
    let fits = |key: &[u8]| key.len() <= KEY_SIZE_MAX;
    if !tokens.next().is_some_and(fits) || !tokens.all(fits) {
        return refused(ErrorReply::BadCommandLineFormat);
    }
    Line::Keys { command, keys_offset: text.len() - keys.len() }
}

/// `set key flags exptime length [anything] [noreply]`
fn parse_store<'a>(mode: StoreMode, arguments: &'a [u8], limits: &Limits) -> Line<'a> {
    let Some(head) = StoreHead::parse(arguments) else { return refused(ErrorReply::BadCommandLineFormat) };
    head.store(mode, None, limits)
}

/// `cas key flags exptime length cas [anything] [noreply]`
fn parse_cas<'a>(arguments: &'a [u8], limits: &Limits) -> Line<'a> {
    let Some(mut head) = StoreHead::parse(arguments) else {
        return refused(ErrorReply::BadCommandLineFormat);
    };
    match head.tail.next().and_then(parse_u64) {
        Some(compare) => head.store(StoreMode::Set, Some(compare), limits),
        None => head.refused(),
    }
}

/// What every storage line begins with.
struct StoreHead<'a> {
    key: &'a [u8],
    client_flags: &'a [u8],
    exptime: &'a [u8],
    value_size: u32,
    noreply: bool,
    tail: Tokens<'a>,
}

impl<'a> StoreHead<'a> {
    /// `None` if nobody can tell how long the value is: then the line after this one is a command again.
    fn parse(arguments: &'a [u8]) -> Option<Self> {
        let mut tokens = Tokens::new(arguments);
        let (key, client_flags, exptime) = (tokens.next()?, tokens.next()?, tokens.next()?);
        let value_size = parse_value_size(tokens.next()?)?;
        Some(Self { key, client_flags, exptime, value_size, noreply: ends_in_noreply(tokens), tail: tokens })
    }

    fn store(self, mode: StoreMode, compare: Option<u64>, limits: &Limits) -> Line<'a> {
        let (Some(client_flags), Some(exptime)) = (parse_u32(self.client_flags), parse_i64(self.exptime))
        else {
            return self.refused();
        };
        if self.key.len() > KEY_SIZE_MAX {
            return self.refused();
        }
        let command = Command::Store { mode, client_flags, exptime, compare };
        let request = Request { noreply: self.noreply, ..Request::keyed(command, self.key) };
        let fits = limits.allow(self.key.len(), client_flags, self.value_size);
        store_or_refuse_value(request, self.value_size, fits, mode)
    }

    fn refused(&self) -> Line<'a> {
        Line::Refused(Refusal {
            error: ErrorReply::BadCommandLineFormat,
            noreply: self.noreply,
            value_size: Some(self.value_size),
        })
    }
}

fn store_or_refuse_value(request: Request<'_>, value_size: u32, fits: bool, mode: StoreMode) -> Line<'_> {
    if fits {
        return Line::Store { request, value_size };
    }
    let command = Command::StoreTooLarge { removes: mode == StoreMode::Set };
    Line::StoreTooLarge { request: Request { command, ..request }, value_size }
}

fn parse_value_size(token: &[u8]) -> Option<u32> {
    parse_u32(token).filter(|&size| size <= VALUE_SIZE_MAX)
}

/// `delete key [0] [noreply]`
///
/// memcached 1.6.45 ignores what follows the key. Its own tests want more refused, and older clients send the `0`.
fn parse_delete(arguments: &[u8]) -> Line<'_> {
    let mut tokens = Tokens::new(arguments);
    let Some(key) = tokens.next() else { return refused(ErrorReply::BadCommandLineFormat) };
    let noreply = ends_in_noreply(tokens);
    let understood = matches!(
        (tokens.next(), tokens.next(), tokens.next()),
        (None, ..) | (Some(b"0" | b"noreply"), None, _) | (Some(b"0"), Some(b"noreply"), None)
    );
    if !understood || key.len() > KEY_SIZE_MAX {
        return refused_unless_noreply(ErrorReply::BadCommandLineFormat, noreply);
    }
    Line::Request(Request { noreply, ..Request::keyed(Command::Delete { compare: None }, key) })
}

/// `incr key delta [noreply]`
fn parse_arithmetic(arguments: &[u8], decrement: bool) -> Line<'_> {
    parse_key_and_number(arguments, ErrorReply::InvalidDelta, |delta| {
        let delta = parse_u64(delta)?;
        Some(Command::Arithmetic { decrement, delta, compare: None, vivify: None })
    })
}

/// `touch key exptime [noreply]`
fn parse_touch(arguments: &[u8]) -> Line<'_> {
    parse_key_and_number(arguments, ErrorReply::InvalidExptime, |exptime| {
        Some(Command::Touch { exptime: parse_i64(exptime)? })
    })
}

fn parse_key_and_number(
    arguments: &[u8],
    not_a_number: ErrorReply,
    command: impl FnOnce(&[u8]) -> Option<Command>,
) -> Line<'_> {
    let mut tokens = Tokens::new(arguments);
    let (Some(key), Some(number)) = (tokens.next(), tokens.next()) else {
        return refused(ErrorReply::BadCommandLineFormat);
    };
    // As in memcached, the last word counts also where it stands for the number.
    let noreply = tokens.last_left().unwrap_or(number) == b"noreply";
    if key.len() > KEY_SIZE_MAX {
        return refused_unless_noreply(ErrorReply::BadCommandLineFormat, noreply);
    }
    match command(number) {
        Some(command) => Line::Request(Request { noreply, ..Request::keyed(command, key) }),
        None => refused_unless_noreply(not_a_number, noreply),
    }
}

/// `flush_all [delay] [noreply]`
fn parse_flush_all(arguments: &[u8]) -> Line<'_> {
    let mut tokens = Tokens::new(arguments);
    let noreply = ends_in_noreply(tokens);
    let delay = match tokens.next() {
        None => Some(0),
        Some(b"noreply") if noreply && tokens.last_left().is_none() => Some(0),
        Some(delay) => parse_i64(delay),
    };
    match delay {
        Some(delay) => Line::Request(Request { noreply, ..Request::bare(Command::FlushAll { delay }) }),
        None => refused_unless_noreply(ErrorReply::InvalidExptime, noreply),
    }
}

/// `verbosity level [noreply]`
fn parse_verbosity(arguments: &[u8]) -> Line<'_> {
    let noreply = ends_in_noreply(Tokens::new(arguments));
    match Tokens::new(arguments).next().and_then(parse_u32) {
        Some(level) => {
            let level = u8::try_from(level).unwrap_or(VERBOSITY_MAX).min(VERBOSITY_MAX);
            Line::Request(Request { noreply, ..Request::bare(Command::Verbosity { level }) })
        }
        None => refused_unless_noreply(ErrorReply::BadCommandLineFormat, noreply),
    }
}

fn parse_stats(arguments: &[u8]) -> Line<'_> {
    match parse_stats_topic(Tokens::new(arguments)) {
        Ok(topic) => Line::Request(Request::bare(Command::Stats(topic))),
        Err(error) => refused(error),
    }
}

/// The first name that begins with the token wins, in memcached's order; three names must be whole.
fn parse_stats_topic(mut tokens: Tokens<'_>) -> Result<StatsTopic, ErrorReply> {
    let Some(topic) = tokens.next() else { return Ok(StatsTopic::General) };
    match topic {
        b"items" => Ok(StatsTopic::Items),
        b"slabs" => Ok(StatsTopic::Slabs),
        b"sizes" => Ok(StatsTopic::Sizes),
        b"sizes_enable" => Ok(StatsTopic::CountSizes(true)),
        b"sizes_disable" => Ok(StatsTopic::CountSizes(false)),
        b"hotkeys" => Ok(StatsTopic::HotKeys),
        b"scrub" => Ok(StatsTopic::Scrub),
        _ if b"reset".starts_with(topic) => Ok(StatsTopic::Reset),
        _ if b"detail".starts_with(topic) => parse_stats_detail(tokens),
        _ if b"settings".starts_with(topic) => Ok(StatsTopic::Settings),
        _ if b"cachedump".starts_with(topic) => parse_cachedump(tokens),
        _ if b"conns".starts_with(topic) => Ok(StatsTopic::Conns),
        _ if b"extstore".starts_with(topic) => Ok(StatsTopic::Extstore),
        _ => Err(ErrorReply::UnknownStats),
    }
}

/// As [`parse_stats_topic`]: `o` is on.
fn parse_stats_detail(mut tokens: Tokens<'_>) -> Result<StatsTopic, ErrorReply> {
    let detail = match tokens.next() {
        Some(word) if b"on".starts_with(word) => StatsDetail::On,
        Some(word) if b"off".starts_with(word) => StatsDetail::Off,
        Some(word) if b"dump".starts_with(word) => StatsDetail::Dump,
        _ => return Err(ErrorReply::StatsDetailUsage),
    };
    Ok(StatsTopic::Detail(detail))
}

fn parse_cachedump(mut tokens: Tokens<'_>) -> Result<StatsTopic, ErrorReply> {
    let (Some(class), Some(limit)) = (tokens.next(), tokens.next()) else {
        return Err(ErrorReply::BadCommandLine);
    };
    match (parse_u32(class), parse_u32(limit)) {
        (Some(class), Some(_)) if class >= SLAB_CLASSES_MAX => Err(ErrorReply::IllegalSlabId),
        (Some(class), Some(limit)) => Ok(StatsTopic::Cachedump { class, limit }),
        _ => Err(ErrorReply::BadCommandLineFormat),
    }
}

/// As [`parse_meta`]. Who reads under a fence means something that is not done here.
fn parse_meta_get(arguments: &[u8]) -> Line<'_> {
    match parse_meta(arguments, Command::MetaGet) {
        Line::Request(Request { command: Command::MetaGet(flags), .. }) if flags.has(b'Y') => {
            refused(ErrorReply::InvalidFlag)
        }
        line => line,
    }
}

/// `mg key flags*`, `md key flags*`
fn parse_meta(arguments: &[u8], command: fn(MetaFlags) -> Command) -> Line<'_> {
    let mut tokens = Tokens::new(arguments);
    let Some(key) = tokens.next() else { return refused(ErrorReply::BadCommandLineFormat) };
    match parse_meta_flags(key, tokens.rest(), Head::Key) {
        Ok((flags, _)) => meta_request(command(flags), key, tokens.rest()),
        Err(error) => refused(error),
    }
}

/// `ma key flags*`: as [`parse_meta`], but it does not tell bad flags apart.
fn parse_meta_arithmetic(arguments: &[u8]) -> Line<'_> {
    let mut tokens = Tokens::new(arguments);
    let Some(key) = tokens.next().filter(|key| key.len() <= KEY_SIZE_MAX) else {
        return refused(ErrorReply::BadCommandLineFormat);
    };
    let Ok((flags, _)) = parse_meta_flags(key, tokens.rest(), Head::Key) else {
        return refused(ErrorReply::InvalidOrDuplicateFlag);
    };
    match flags.parse_decrements() {
        Ok(_) => meta_request(Command::MetaArithmetic(flags), key, tokens.rest()),
        Err(error) => refused(error),
    }
}

/// `ms key length flags*`. Once the length is known, whatever else is wrong takes the value with it.
fn parse_meta_store<'a>(arguments: &'a [u8], limits: &Limits) -> Line<'a> {
    let mut tokens = Tokens::new(arguments);
    let key = tokens.next();
    let (Some(key), Some(value_size)) = (key, tokens.next().and_then(parse_value_size)) else {
        return refused(ErrorReply::BadCommandLineFormat);
    };
    let flags = parse_meta_flags(key, tokens.rest(), Head::KeyAndLength);
    match flags.and_then(|(flags, numbers)| Ok((flags, numbers, flags.parse_store_mode()?))) {
        Ok((flags, numbers, mode)) => {
            let request = Request { flags: tokens.rest(), ..Request::keyed(Command::MetaStore(flags), key) };
            let key_size = if flags.base64() { base64::decoded_size(key) } else { Some(key.len()) };
            let fits =
                key_size.is_some_and(|key_size| limits.allow(key_size, numbers.client_flags, value_size));
            store_or_refuse_value(request, value_size, fits, mode)
        }
        Err(error) => Line::Refused(Refusal { error, noreply: false, value_size: Some(value_size) }),
    }
}

/// `me key [b]`
fn parse_meta_debug(arguments: &[u8]) -> Line<'_> {
    let mut tokens = Tokens::new(arguments);
    let Some(key) = tokens.next() else { return refused(ErrorReply::BadCommandLineFormat) };
    let flags = MetaFlags::parse_base64_only(tokens.rest());
    if key.len() > KEY_SIZE_MAX || (flags.base64() && base64::decoded_size(key).is_none()) {
        return refused(ErrorReply::BadCommandLineFormat);
    }
    meta_request(Command::MetaDebug(flags), key, tokens.rest())
}

fn parse_meta_flags(key: &[u8], flags: &[u8], head: Head) -> Result<(MetaFlags, MetaNumbers), ErrorReply> {
    if key.len() > KEY_SIZE_MAX {
        return Err(ErrorReply::BadCommandLineFormat);
    }
    let parsed = MetaFlags::parse(flags, head)?;
    if parsed.0.base64() && base64::decoded_size(key).is_none() {
        return Err(ErrorReply::BadKeyEncoding);
    }
    Ok(parsed)
}

fn meta_request<'a>(command: Command, key: &'a [u8], flags: &'a [u8]) -> Line<'a> {
    Line::Request(Request { flags, ..Request::keyed(command, key) })
}

#[cold]
fn parse_rare<'a>(verb: &[u8], arguments: &'a [u8]) -> Line<'a> {
    let noreply = ends_in_noreply(Tokens::new(arguments));
    if verb == b"track" {
        return parse_track(arguments);
    }
    if verb == b"lk" {
        return match parse_lock(arguments) {
            Ok(request) => Line::Request(request),
            Err(error) => refused(error),
        };
    }
    match parse_admin(verb, arguments) {
        Some(Ok(admin)) => Line::Request(Request { noreply, ..Request::bare(Command::Admin(admin)) }),
        Some(Err(error)) => refused_unless_noreply(error, noreply),
        None => parse_unknown(arguments),
    }
}

/// `track on [prefix]*`
fn parse_track(arguments: &[u8]) -> Line<'_> {
    let mut tokens = Tokens::new(arguments);
    let is_on = tokens.next() == Some(b"on");
    let prefixes = tokens.rest();
    if !is_on || tokens.any(|prefix| prefix.len() > KEY_SIZE_MAX) {
        return refused(ErrorReply::BadCommandLineFormat);
    }
    Line::Request(Request { flags: prefixes, ..Request::bare(Command::Track) })
}

/// A browser or a cross-site request is not answered: what it sends next is not meant for a cache.
fn parse_unknown(arguments: &[u8]) -> Line<'_> {
    match Tokens::new(arguments).last_left() {
        Some(last) if last.starts_with(b"HTTP/") => Line::Close,
        Some(b"noreply") => refused_unless_noreply(ErrorReply::Error, true),
        _ => refused(ErrorReply::Error),
    }
}

fn ends_in_noreply(tokens: Tokens<'_>) -> bool {
    tokens.last_left() == Some(b"noreply")
}

fn refused(error: ErrorReply) -> Line<'static> {
    refused_unless_noreply(error, false)
}

fn refused_unless_noreply(error: ErrorReply, noreply: bool) -> Line<'static> {
    Line::Refused(Refusal { error, noreply, value_size: None })
}
