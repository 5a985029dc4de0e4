//! One whole reply to the answer it is, judged by the command it must be an answer to. What does not fit is rubbish:
//! never a guess, and never a value of another key.
//!
//! Where a reply ends is known already: [`slabring_protocol::client::ReplyParser`] found it.

use slabring_protocol::client::ReplyKind;

use crate::command::{Answer, CasToken, Command, Direction, Item, Stored};
use crate::dump::KeyEntry;
use crate::key::Key;
use crate::meta::{MetaReply, MetaRequest, MetaStatus, MetaVerb};
use crate::options::Wire;

/// No answer to this command. The connection's position is no longer sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rubbish;

/// Takes the values of one classic `get` or `gets` apart: an answer for each of `keys`, in their order.
///
/// A server answers hits in the order of the keys and leaves misses out.
pub(crate) fn values<'k>(
    reply: &[u8],
    keys: impl Iterator<Item = &'k Key>,
    cas: bool,
) -> Result<Vec<Option<Item>>, Rubbish> {
    let mut rest = reply;
    let mut next = take_value(&mut rest, cas)?;
    let mut items = Vec::new();
    for key in keys {
        match &mut next {
            Some((found, item)) if *found == key.as_bytes() => {
                items.push(Some(std::mem::take(item)));
                next = take_value(&mut rest, cas)?;
            }
            _ => items.push(None),
        }
    }
    if next.is_some() { Err(Rubbish) } else { Ok(items) }
}

/// The answer to `command`, of which the reply is the whole. Refusals were told apart before.
pub(crate) fn answer(
    command: &Command,
    wire: Wire,
    opaque: u64,
    kind: ReplyKind,
    reply: &[u8],
) -> Result<Answer, Rubbish> {
    match (command, wire) {
        (Command::Meta { request, .. }, _) => meta_reply(request, opaque, kind, reply).map(Answer::Meta),
        (Command::Flush { .. }, _) if kind == ReplyKind::Ok => Ok(Answer::Done),
        (Command::Stats { .. }, _) => stats(kind, reply),
        (Command::Version, _) if kind == ReplyKind::Version => {
            Ok(Answer::Version(text(first_line(reply).strip_prefix(b"VERSION ").ok_or(Rubbish)?)))
        }
        (Command::Keys, _) => keys(kind, reply),
        (Command::Ring, _) => ring(reply),
        (_, Wire::Text) => classic(command, kind, reply),
        (_, Wire::Meta) => of_meta(command, opaque, kind, reply),
    }
}

fn classic(command: &Command, kind: ReplyKind, reply: &[u8]) -> Result<Answer, Rubbish> {
    match (command, kind) {
        (Command::Get { key, cas } | Command::GetAndTouch { key, cas, .. }, ReplyKind::Values) => {
            let item = values(reply, std::iter::once(key), *cas)?.pop().expect("one key, one answer");
            Ok(Answer::Item(item))
        }
        (Command::Store { .. }, _) => stored(kind).map(Answer::Stored),
        (Command::Delete { .. }, ReplyKind::Deleted) | (Command::Touch { .. }, ReplyKind::Touched) => {
            Ok(Answer::Found(true))
        }
        (Command::Delete { .. } | Command::Touch { .. }, ReplyKind::NotFound) => Ok(Answer::Found(false)),
        (Command::Count { .. }, ReplyKind::Number(number)) => Ok(Answer::Number(Some(number))),
        (Command::Count { .. }, ReplyKind::NotFound) => Ok(Answer::Number(None)),
        _ => Err(Rubbish),
    }
}

fn stored(kind: ReplyKind) -> Result<Stored, Rubbish> {
    match kind {
        ReplyKind::Stored | ReplyKind::MetaDone => Ok(Stored::Stored),
        ReplyKind::NotStored | ReplyKind::MetaNotStored => Ok(Stored::NotStored),
        ReplyKind::Exists | ReplyKind::MetaExists => Ok(Stored::Exists),
        ReplyKind::NotFound | ReplyKind::MetaNotFound => Ok(Stored::NotFound),
        _ => Err(Rubbish),
    }
}

/// The answer to a classic command that was sent as a meta command.
fn of_meta(command: &Command, opaque: u64, kind: ReplyKind, reply: &[u8]) -> Result<Answer, Rubbish> {
    let reply = parse_meta(kind, reply, opaque)?;
    match (command, reply.status) {
        (Command::Get { cas, .. } | Command::GetAndTouch { cas, .. }, MetaStatus::Value) => {
            let flags = reply.number(b'f').and_then(|flags| u32::try_from(flags).ok()).ok_or(Rubbish)?;
            let token = if *cas { reply.number(b'c').ok_or(Rubbish)? } else { 0 };
            let value = reply.value.ok_or(Rubbish)?;
            Ok(Answer::Item(Some(Item { value, flags, cas: CasToken(token) })))
        }
        (Command::Get { .. } | Command::GetAndTouch { .. }, MetaStatus::Miss) => Ok(Answer::Item(None)),
        (Command::Store { .. }, _) => stored(kind).map(Answer::Stored),
        (Command::Delete { .. } | Command::Touch { .. }, MetaStatus::Done) => Ok(Answer::Found(true)),
        (Command::Delete { .. }, MetaStatus::NotFound) | (Command::Touch { .. }, MetaStatus::Miss) => {
            Ok(Answer::Found(false))
        }
        (Command::Count { direction, .. }, MetaStatus::Value) => counted(*direction, &reply),
        (Command::Count { .. }, MetaStatus::NotFound) => Ok(Answer::Number(None)),
        _ => Err(Rubbish),
    }
}

/// A number that went down may be shown with spaces behind it, where the longer one was.
fn counted(direction: Direction, reply: &MetaReply) -> Result<Answer, Rubbish> {
    let value = reply.value.as_deref().ok_or(Rubbish)?;
    let digits = if direction == Direction::Down { value.trim_ascii_end() } else { value };
    Ok(Answer::Number(Some(number(digits)?)))
}

/// The reply to a meta command, if it is one that the verb can have.
fn meta_reply(
    request: &MetaRequest,
    opaque: u64,
    kind: ReplyKind,
    reply: &[u8],
) -> Result<MetaReply, Rubbish> {
    use MetaStatus::{Done, Exists, Miss, NotFound, NotStored, Value};
    let reply = parse_meta(kind, reply, opaque)?;
    let possible: &[MetaStatus] = match request.verb() {
        MetaVerb::Get if request.has(b'v') => &[Value, Miss],
        MetaVerb::Get => &[Value, Done, Miss],
        MetaVerb::Set => &[Done, NotStored, Exists, NotFound],
        MetaVerb::Delete => &[Done, NotFound, Exists],
        MetaVerb::Arithmetic => &[Value, Done, NotFound, NotStored, Exists],
        MetaVerb::Lock => &[Done, NotStored, NotFound, Exists],
    };
    if possible.contains(&reply.status) { Ok(reply) } else { Err(Rubbish) }
}

/// Reads a meta reply and sees that it is the one to the request of this opaque. A miss of `mg` does not say.
fn parse_meta(kind: ReplyKind, reply: &[u8], opaque: u64) -> Result<MetaReply, Rubbish> {
    let status = match kind {
        ReplyKind::MetaValue => MetaStatus::Value,
        ReplyKind::MetaDone => MetaStatus::Done,
        ReplyKind::MetaMiss => MetaStatus::Miss,
        ReplyKind::MetaNotFound => MetaStatus::NotFound,
        ReplyKind::MetaNotStored => MetaStatus::NotStored,
        ReplyKind::MetaExists => MetaStatus::Exists,
        _ => return Err(Rubbish),
    };
    let mut rest = reply;
    let line = take_line(&mut rest)?;
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).skip(1);
    let value = match status {
        MetaStatus::Value => Some(take_data(&mut rest, words.next().ok_or(Rubbish)?)?),
        _ => None,
    };
    let flags: Vec<_> = words.filter_map(|word| Some((*word.first()?, text(&word[1..])))).collect();
    let reply = MetaReply { status, flags, value };
    let is_mine = status == MetaStatus::Miss || reply.number(b'O') == Some(opaque);
    if is_mine && rest.is_empty() { Ok(reply) } else { Err(Rubbish) }
}

fn stats(kind: ReplyKind, reply: &[u8]) -> Result<Answer, Rubbish> {
    match kind {
        ReplyKind::Reset => Ok(Answer::Stats(Vec::new())),
        ReplyKind::Values => lines_to_end(reply, stat).map(Answer::Stats),
        _ => Err(Rubbish),
    }
}

fn stat(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
    Some((name.to_owned(), value.to_owned()))
}

fn keys(kind: ReplyKind, reply: &[u8]) -> Result<Answer, Rubbish> {
    match kind {
        ReplyKind::Values => lines_to_end(reply, KeyEntry::parse).map(Answer::Keys),
        _ => Err(Rubbish),
    }
}

fn lines_to_end<T>(mut reply: &[u8], parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Rubbish> {
    let mut parsed = Vec::new();
    loop {
        let line = take_line(&mut reply)?;
        if line == b"END" {
            return if reply.is_empty() { Ok(parsed) } else { Err(Rubbish) };
        }
        parsed.push(parse(&String::from_utf8_lossy(line)).ok_or(Rubbish)?);
    }
}

/// `CONFIG ring 0 SIZE`, the document, `END`.
fn ring(mut reply: &[u8]) -> Result<Answer, Rubbish> {
    let line = take_line(&mut reply)?;
    let size = line.strip_prefix(b"CONFIG ring 0 ").ok_or(Rubbish)?;
    let json = take_data(&mut reply, size)?;
    if reply == b"END\r\n" { Ok(Answer::Ring(json)) } else { Err(Rubbish) }
}

/// The next `VALUE` of a classic reply, its key and its item; `None` at the `END` that ends it.
fn take_value<'r>(rest: &mut &'r [u8], cas: bool) -> Result<Option<(&'r [u8], Item)>, Rubbish> {
    let line = take_line(rest)?;
    if line == b"END" {
        return if rest.is_empty() { Ok(None) } else { Err(Rubbish) };
    }
    let mut words = line.split(|&byte| byte == b' ');
    let mut word = || words.next().ok_or(Rubbish);
    if word()? != b"VALUE" {
        return Err(Rubbish);
    }
    let key = word()?;
    let flags = u32::try_from(number(word()?)?).map_err(|_| Rubbish)?;
    let size = word()?;
    let token = if cas { number(word()?)? } else { 0 };
    let value = take_data(rest, size)?;
    Ok(Some((key, Item { value, flags, cas: CasToken(token) })))
}

fn take_line<'r>(rest: &mut &'r [u8]) -> Result<&'r [u8], Rubbish> {
    let lf = memchr::memchr(b'\n', rest).ok_or(Rubbish)?;
    let (line, behind) = rest.split_at(lf);
    *rest = &behind[1..];
    Ok(line.strip_suffix(b"\r").unwrap_or(line))
}

/// A data block whose size a line said, without its line end.
fn take_data(rest: &mut &[u8], size: &[u8]) -> Result<Vec<u8>, Rubbish> {
    let size = usize::try_from(number(size)?).map_err(|_| Rubbish)?;
    let (data, behind) = rest.split_at_checked(size).ok_or(Rubbish)?;
    *rest = behind.strip_prefix(b"\r\n").ok_or(Rubbish)?;
    Ok(data.to_vec())
}

fn first_line(reply: &[u8]) -> &[u8] {
    let mut rest = reply;
    take_line(&mut rest).unwrap_or_default()
}

fn number(digits: &[u8]) -> Result<u64, Rubbish> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let digits = if is_number { str::from_utf8(digits).ok() } else { None };
    digits.and_then(|digits| digits.parse().ok()).ok_or(Rubbish)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
