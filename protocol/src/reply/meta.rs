//! Replies of the meta commands: the flags asked for, in the order they were asked.

use super::{CRLF, append_or_never};
use crate::limits::KEY_SIZE_MAX;
use crate::meta::MetaFlags;
use crate::number;
use crate::request::{Command, Request};
use crate::tokens::Tokens;

/// What a meta reply may show of an item. A reply shows what its request asks for; the rest is not looked at.
///
/// For a command that failed, give what there is: memcached shows `c0` and the size that was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaItem {
    /// Size of the value, in bytes. For `ms` the size stored, which `append` makes larger than what was sent.
    pub value_len: u32,
    /// Client flags.
    pub client_flags: u32,
    /// CAS, after a change if the command made one.
    pub cas: u64,
    /// Seconds to live before the command, `None` for ever, as for what it created.
    pub ttl_before: Option<u32>,
    /// Seconds to live by the command's `T`, `None` for ever. A `t` behind it shows them.
    pub ttl_touched: Option<u32>,
    /// Seconds to live by the command's `N`, `None` for ever. A `t` behind it shows them if the command created the item.
    pub ttl_vivified: Option<u32>,
    /// The command created it.
    pub created: bool,
    /// Somebody fetched it before this command.
    pub fetched: bool,
    /// Seconds since the last access before this command.
    pub idle_seconds: u32,
    /// Who asked will hear when it changes: shown where the request has its `L`.
    pub tracked: bool,
    /// Slab class, for `me`.
    pub class: u32,
    /// Size of the whole item in memory, in bytes, for `me`.
    pub size: u32,
}

/// What a client that recaches should know of the item it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaWin {
    /// `W`: this client is the one to recache.
    pub won: bool,
    /// `X`: the item is stale.
    pub stale: bool,
    /// `Z`: another client was told to recache.
    pub token_sent: bool,
}

/// How a meta command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaStatus {
    /// `HD`: done.
    Stored,
    /// `NS`: there was something, or nothing, where there should not.
    NotStored,
    /// `EX`: the CAS is another.
    Exists,
    /// `NF`: there is no such item.
    NotFound,
    /// `EN`: there is no such item to get.
    Miss,
}

/// A hit of `mg`: `VA` or `HD` and the flags asked for.
///
/// Returns whether the reply has a value, which the caller appends with [`CRLF`] behind it. It has none without `v`,
/// nor if the client's `C` says that it has this value already.
#[must_use = "a VA line without its value breaks the stream"]
pub fn meta_get(out: &mut Vec<u8>, request: &Request<'_>, item: &MetaItem, win: MetaWin) -> bool {
    let flags = flags_of(request);
    let with_value =
        flags.has(b'v') && !(flags.has(b'C') && request.meta_numbers().compare == Some(item.cas));
    head(out, with_value.then_some(item.value_len));
    append_flags(out, request, item, |out, letter, ttl| match letter {
        b's' => flag(out, b's', item.value_len),
        b't' => append_ttl(out, ttl),
        b'c' => flag(out, b'c', item.cas),
        b'f' => flag(out, b'f', item.client_flags),
        b'l' => flag(out, b'l', item.idle_seconds),
        b'h' => flag(out, b'h', item.fetched),
        b'L' if item.tracked => out.extend_from_slice(b" L"),
        _ => {}
    });
    for (shown, mark) in [(win.token_sent, b" Z"), (win.stale, b" X"), (win.won, b" W")] {
        if shown {
            out.extend_from_slice(mark);
        }
    }
    out.extend_from_slice(CRLF);
    with_value
}

/// A success of `ma`: `HD`, or with `v` the new `value` in a `VA` block of its own. Nothing with `q`.
pub fn meta_arithmetic(out: &mut Vec<u8>, request: &Request<'_>, item: &MetaItem, value: u64) {
    let flags = flags_of(request);
    if flags.quiet() {
        return;
    }
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value).as_bytes();
    let with_value = flags.has(b'v');
    head(out, with_value.then(|| u32::try_from(digits.len()).expect("a number has at most 20 digits")));
    append_flags(out, request, item, |out, letter, ttl| match letter {
        b't' => append_ttl(out, ttl),
        b'c' => flag(out, b'c', item.cas),
        _ => {}
    });
    out.extend_from_slice(CRLF);
    if with_value {
        out.extend_from_slice(digits);
        out.extend_from_slice(CRLF);
    }
}

/// A status line: every end of `ms`, `md`, and those of `mg`, `ma` and `me` that show no item.
///
/// With `q` the nominal one is hidden: `EN` of `mg`, `HD` of the others. All others are always sent.
pub fn meta_status(out: &mut Vec<u8>, request: &Request<'_>, status: MetaStatus, item: &MetaItem) {
    let nominal = matches!(status, MetaStatus::Stored | MetaStatus::Miss);
    if nominal && flags_of(request).quiet() {
        return;
    }
    out.extend_from_slice(status.text());
    if !matches!(request.command, Command::MetaDebug(_)) {
        let is_store = matches!(request.command, Command::MetaStore(_));
        append_flags(out, request, item, |out, letter, _| match letter {
            b'c' if is_store => flag(out, b'c', item.cas),
            b's' if is_store => flag(out, b's', item.value_len),
            _ => {}
        });
    }
    out.extend_from_slice(CRLF);
}

/// A hit of `me`: everything about the item, for people.
pub fn meta_debug(out: &mut Vec<u8>, request: &Request<'_>, item: &MetaItem) {
    out.extend_from_slice(b"ME ");
    out.extend_from_slice(request.key);
    out.extend_from_slice(b" exp=");
    append_or_never(out, item.ttl_before);
    for (name, number) in [(" la=", u64::from(item.idle_seconds)), (" cas=", item.cas)] {
        out.extend_from_slice(name.as_bytes());
        number::append(out, number);
    }
    out.extend_from_slice(if item.fetched { b" fetch=yes" } else { b" fetch=no" });
    for (name, number) in [(" cls=", item.class), (" size=", item.size)] {
        out.extend_from_slice(name.as_bytes());
        number::append(out, number);
    }
    out.extend_from_slice(CRLF);
}

/// Answers `mn`.
pub fn meta_noop(out: &mut Vec<u8>) {
    out.extend_from_slice(b"MN\r\n");
}

impl MetaStatus {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Stored => b"HD",
            Self::NotStored => b"NS",
            Self::Exists => b"EX",
            Self::NotFound => b"NF",
            Self::Miss => b"EN",
        }
    }
}

fn flags_of<'r>(request: &'r Request<'_>) -> &'r MetaFlags {
    request.command.meta_flags().expect("only a meta command has a meta reply")
}

fn head(out: &mut Vec<u8>, value_len: Option<u32>) {
    match value_len {
        Some(value_len) => {
            out.extend_from_slice(b"VA ");
            number::append(out, value_len);
        }
        None => out.extend_from_slice(b"HD"),
    }
}

/// Walks the flags as sent: `O` and `k` are the same in every reply, `T` and `N` change the time to live from there on, the
/// rest is up to `append`.
fn append_flags(
    out: &mut Vec<u8>,
    request: &Request<'_>,
    item: &MetaItem,
    append: impl Fn(&mut Vec<u8>, u8, Option<u32>),
) {
    let flags = flags_of(request);
    let mut ttl = item.ttl_before;
    for token in Tokens::new(request.flags) {
        match token[0] {
            b'O' => append_token(out, token),
            b'k' => append_key(out, request.key, flags.base64()),
            b'T' => ttl = item.ttl_touched,
            b'N' if item.created => ttl = item.ttl_vivified,
            letter => append(out, letter, ttl),
        }
    }
}

fn append_token(out: &mut Vec<u8>, token: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(token);
}

/// The key as sent: base64 stays so, and says so.
fn append_key(out: &mut Vec<u8>, key: &[u8], base64: bool) {
    assert!(key.len() <= KEY_SIZE_MAX);
    out.extend_from_slice(b" k");
    out.extend_from_slice(key);
    if base64 {
        out.extend_from_slice(b" b");
    }
}

fn flag(out: &mut Vec<u8>, letter: u8, number: impl Into<u64>) {
    out.extend_from_slice(&[b' ', letter]);
    number::append(out, number);
}

fn append_ttl(out: &mut Vec<u8>, ttl: Option<u32>) {
    out.extend_from_slice(b" t");
    append_or_never(out, ttl);
}

#[cfg(test)]
mod tests;
