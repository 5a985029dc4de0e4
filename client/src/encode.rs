//! Commands to bytes, on either wire. Decides nothing: keys and tokens were checked where they came in.

use slabring_protocol::client as wire;

use crate::command::{Command, Direction, StoreMode, StoreOptions};
use crate::key::Key;
use crate::meta::{MetaRequest, MetaVerb};
use crate::options::Wire;
use crate::ttl::Ttl;

/// What a request needs beside its command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) wire: Wire,
    /// Now, for times far away.
    pub(crate) unix_seconds: u64,
}

/// Appends one classic line that gets several keys, at least one.
pub(crate) fn append_gets<'k>(out: &mut Vec<u8>, keys: impl Iterator<Item = &'k Key>, cas: bool) {
    out.extend_from_slice(if cas { b"gets" } else { b"get" });
    for key in keys {
        out.push(b' ');
        out.extend_from_slice(key.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a command. `opaque` comes back in meta replies.
pub(crate) fn append(out: &mut Vec<u8>, command: &Command, context: Context, opaque: u64) {
    match (command, context.wire) {
        (Command::Meta { key, request }, _) => append_meta_request(out, key, request, opaque),
        (Command::Flush { delay_seconds: 0 }, _) => wire::flush_all(out),
        (Command::Flush { delay_seconds }, _) => append_text(out, &format!("flush_all {delay_seconds}")),
        (Command::Stats { topic }, _) if topic.is_empty() => wire::stats(out),
        (Command::Stats { topic }, _) => append_text(out, &format!("stats {topic}")),
        (Command::Version, _) => wire::version(out),
        (Command::Keys, _) => append_text(out, "lru_crawler metadump all"),
        (Command::Ring, _) => append_text(out, "config get ring"),
        (_, Wire::Text) => append_classic(out, command, context),
        (_, Wire::Meta) => append_as_meta(out, command, context, opaque),
    }
}

fn append_text(out: &mut Vec<u8>, line: &str) {
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn append_classic(out: &mut Vec<u8>, command: &Command, context: Context) {
    let exptime = |ttl: Ttl| ttl.exptime(context.unix_seconds);
    match command {
        Command::Get { key, cas } => append_gets(out, std::iter::once(key), *cas),
        Command::GetAndTouch { key, ttl, cas } => {
            out.extend_from_slice(if *cas { b"gats " } else { b"gat " });
            append_number(out, exptime(*ttl));
            append_word(out, key.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Command::Store { mode, key, value, options } => {
            out.extend_from_slice(classic_verb(*mode));
            append_word(out, key.as_bytes());
            append_text_numbers(out, options, exptime(options.ttl), value.len());
            if let StoreMode::Cas(token) = mode {
                out.push(b' ');
                append_number(out, token.0);
            }
            append_data(out, value);
        }
        Command::Delete { key } => wire::delete(out, key.as_bytes()),
        Command::Count { key, delta, direction } => {
            out.extend_from_slice(if *direction == Direction::Up { b"incr" } else { b"decr" });
            append_word(out, key.as_bytes());
            out.push(b' ');
            append_number(out, *delta);
            out.extend_from_slice(b"\r\n");
        }
        Command::Touch { key, ttl } => {
            out.extend_from_slice(b"touch");
            append_word(out, key.as_bytes());
            out.push(b' ');
            append_number(out, exptime(*ttl));
            out.extend_from_slice(b"\r\n");
        }
        _ => unreachable!("it is the same on both wires: {command:?}"),
    }
}

fn classic_verb(mode: StoreMode) -> &'static [u8] {
    match mode {
        StoreMode::Set => b"set",
        StoreMode::Add => b"add",
        StoreMode::Replace => b"replace",
        StoreMode::Append => b"append",
        StoreMode::Prepend => b"prepend",
        StoreMode::Cas(_) => b"cas",
    }
}

fn append_text_numbers(out: &mut Vec<u8>, options: &StoreOptions, exptime: i64, size: usize) {
    out.push(b' ');
    append_number(out, options.flags);
    out.push(b' ');
    append_number(out, exptime);
    out.push(b' ');
    append_number(out, size);
}

/// Writes a classic command as the meta command that does the same.
fn append_as_meta(out: &mut Vec<u8>, command: &Command, context: Context, opaque: u64) {
    let key = command.key().expect("only commands about keys have two forms");
    append_meta_request(out, key, &as_meta(command, context), opaque);
}

fn as_meta(command: &Command, context: Context) -> MetaRequest {
    let exptime = |ttl: Ttl| ttl.exptime(context.unix_seconds);
    let get = || MetaRequest::get().flag(b'f').flag(b'v');
    let with_cas = |request: MetaRequest, cas: bool| if cas { request.flag(b'c') } else { request };
    match command {
        Command::Get { cas, .. } => with_cas(get(), *cas),
        Command::GetAndTouch { ttl, cas, .. } => with_cas(get(), *cas).flag_with(b'T', exptime(*ttl)),
        Command::Store { mode, value, options, .. } => {
            let set = MetaRequest::set(value.as_slice());
            let whole =
                |set: MetaRequest| set.flag_with(b'F', options.flags).flag_with(b'T', exptime(options.ttl));
            match mode {
                StoreMode::Set => whole(set),
                StoreMode::Add => whole(set).flag_with(b'M', 'E'),
                StoreMode::Replace => whole(set).flag_with(b'M', 'R'),
                StoreMode::Append => set.flag_with(b'M', 'A'),
                StoreMode::Prepend => set.flag_with(b'M', 'P'),
                StoreMode::Cas(token) => whole(set).flag_with(b'C', token.0),
            }
        }
        Command::Delete { .. } => MetaRequest::delete(),
        Command::Count { delta, direction, .. } => {
            let mode = if *direction == Direction::Up { 'I' } else { 'D' };
            MetaRequest::arithmetic().flag(b'v').flag_with(b'D', delta).flag_with(b'M', mode)
        }
        Command::Touch { ttl, .. } => MetaRequest::get().flag_with(b'T', exptime(*ttl)),
        _ => unreachable!("it has no key, or is a meta command: {command:?}"),
    }
}

fn append_meta_request(out: &mut Vec<u8>, key: &Key, request: &MetaRequest, opaque: u64) {
    let (token, is_base64) = key.meta_token();
    out.extend_from_slice(match request.verb() {
        MetaVerb::Get => b"mg",
        MetaVerb::Set => b"ms",
        MetaVerb::Delete => b"md",
        MetaVerb::Arithmetic => b"ma",
        MetaVerb::Lock => b"lk",
    });
    append_word(out, &token);
    if let Some(value) = request.value() {
        out.push(b' ');
        append_number(out, value.len());
    }
    // The name of a lock is no key: encoded, it is another name, and the same one for everybody.
    if is_base64 && request.verb() != MetaVerb::Lock {
        out.extend_from_slice(b" b");
    }
    if !request.flags().is_empty() {
        append_word(out, request.flags());
    }
    out.extend_from_slice(b" O");
    append_number(out, opaque);
    match request.value() {
        Some(value) => append_data(out, value),
        None => out.extend_from_slice(b"\r\n"),
    }
}

fn append_word(out: &mut Vec<u8>, word: &[u8]) {
    assert!(!word.is_empty(), "an empty word would shift those behind it");
    out.push(b' ');
    out.extend_from_slice(word);
}

fn append_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn append_data(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::CasToken;
    use std::time::Duration;

    fn key(text: &str) -> Key {
        Key::new(text.as_bytes(), Wire::Meta).unwrap()
    }

    #[track_caller]
    fn check(command: &Command, text: &str, meta: &str) {
        for (wire, expected) in [(Wire::Text, text), (Wire::Meta, meta)] {
            let mut out = Vec::new();
            append(&mut out, command, Context { wire, unix_seconds: 1_800_000_000 }, 7);
            assert_eq!(out.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
        }
    }

    #[test]
    fn every_command_has_its_form_on_both_wires() {
        let ttl = Ttl::After(Duration::from_secs(60));
        let store = |mode| Command::Store {
            mode,
            key: key("k"),
            value: b"abc".to_vec(),
            options: StoreOptions { ttl, flags: 9 },
        };
        let count = |direction| Command::Count { key: key("k"), delta: 5, direction };
        check(&Command::Get { key: key("k"), cas: false }, "get k\r\n", "mg k f v O7\r\n");
        check(&Command::Get { key: key("k"), cas: true }, "gets k\r\n", "mg k f v c O7\r\n");
        let gat = Command::GetAndTouch { key: key("k"), ttl, cas: true };
        check(&gat, "gats 60 k\r\n", "mg k f v c T60 O7\r\n");
        check(&store(StoreMode::Set), "set k 9 60 3\r\nabc\r\n", "ms k 3 F9 T60 O7\r\nabc\r\n");
        check(&store(StoreMode::Add), "add k 9 60 3\r\nabc\r\n", "ms k 3 F9 T60 ME O7\r\nabc\r\n");
        check(&store(StoreMode::Replace), "replace k 9 60 3\r\nabc\r\n", "ms k 3 F9 T60 MR O7\r\nabc\r\n");
        check(&store(StoreMode::Append), "append k 9 60 3\r\nabc\r\n", "ms k 3 MA O7\r\nabc\r\n");
        check(&store(StoreMode::Prepend), "prepend k 9 60 3\r\nabc\r\n", "ms k 3 MP O7\r\nabc\r\n");
        let cas = store(StoreMode::Cas(CasToken(u64::MAX)));
        let max = u64::MAX;
        check(
            &cas,
            &format!("cas k 9 60 3 {max}\r\nabc\r\n"),
            &format!("ms k 3 F9 T60 C{max} O7\r\nabc\r\n"),
        );
        check(&Command::Delete { key: key("k") }, "delete k\r\n", "md k O7\r\n");
        check(&count(Direction::Up), "incr k 5\r\n", "ma k v D5 MI O7\r\n");
        check(&count(Direction::Down), "decr k 5\r\n", "ma k v D5 MD O7\r\n");
        check(&Command::Touch { key: key("k"), ttl: Ttl::Never }, "touch k 0\r\n", "mg k T0 O7\r\n");
    }

    #[test]
    fn commands_about_a_server_and_meta_commands_are_the_same_on_both() {
        let same = |command: &Command, text| check(command, text, text);
        same(&Command::Flush { delay_seconds: 0 }, "flush_all\r\n");
        same(&Command::Flush { delay_seconds: 9 }, "flush_all 9\r\n");
        same(&Command::Stats { topic: "items".to_owned() }, "stats items\r\n");
        same(&Command::Ring, "config get ring\r\n");
        let request = MetaRequest::set("v").flag_with(b'T', 3).flag(b'c');
        same(&Command::Meta { key: key("a b"), request }, "ms YSBi 1 b T3 c O7\r\nv\r\n");
    }
}
