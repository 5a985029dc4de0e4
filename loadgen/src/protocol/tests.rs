//! Requests against the server's own parser, and replies cut at every byte.

use slabring_protocol::client::{Reply, ReplyKind, ReplyStep};
use slabring_protocol::{Auth, Limits, Parser, Protocol as Wire, Step};

use super::*;
use crate::decode::Decoder;

/// What the server's parser makes of one request: its command, key and value.
fn parsed(protocol: Protocol, kind: Kind) -> String {
    let mut out = Vec::new();
    let value: &[u8] = if kind.stores() { b"value" } else { b"" };
    let cas = if kind == Kind::Cas { 9 } else { 0 };
    protocol.append(&mut out, &Single { kind, key: b"key", value, ttl: 60, cas });
    let wire = if protocol == Protocol::Binary { Wire::Binary } else { Wire::default() };
    let step = Parser::new(wire, Auth::Granted).next(&out, &Limits::default());
    let Step::Request { request, consumed } = step else { panic!("{kind:?}: {step:?}") };
    assert_eq!((request.key, request.value), (&b"key"[..], value), "{kind:?}");
    // The end of a text get's line is a step of its own.
    assert!(consumed == out.len() || (kind.reads() && out[consumed..] == *b"\r\n"), "{kind:?}");
    format!("{:?}", request.command)
}

#[test]
fn a_server_reads_every_kind_as_what_it_is() {
    for protocol in [Protocol::Text, Protocol::Meta, Protocol::Binary] {
        for kind in Kind::ALL {
            let command = parsed(protocol, kind);
            let words: &[&str] = match kind {
                Kind::Get | Kind::Gets => &["Get"],
                Kind::Gat => &["60"],
                Kind::Set => &["Set", "60"],
                Kind::Add => &["Add", "60"],
                Kind::Replace => &["Replace", "60"],
                Kind::Append => &["Append"],
                Kind::Prepend => &["Prepend"],
                Kind::Cas => &["9", "60"],
                Kind::Delete => &["Delete"],
                Kind::Incr => &["1"],
                Kind::Decr => &["1"],
                Kind::Touch => &["60"],
            };
            // The meta protocol has one command for many of them; its flags stand in the command.
            if protocol != Protocol::Meta {
                assert!(words.iter().all(|word| command.contains(word)), "{protocol:?} {kind:?}: {command}");
            }
        }
    }
}

/// A stream of replies, and for each what it is and its values.
fn script(protocol: Protocol) -> (&'static [u8], Vec<(ReplyKind, u32)>) {
    match protocol {
        Protocol::Text => (
            b"VALUE k 0 5 7\r\nab\r\nc\r\nEND\r\nEND\r\nSTORED\r\nSERVER_ERROR out\r\n",
            vec![
                (ReplyKind::Values, 1),
                (ReplyKind::Values, 0),
                (ReplyKind::Stored, 0),
                (ReplyKind::ServerError, 0),
            ],
        ),
        Protocol::Meta => (
            b"VA 5 c7\r\nab\r\nc\r\nEN\r\nHD\r\nNS\r\nNF\r\nEX\r\n",
            vec![
                (ReplyKind::Values, 1),
                (ReplyKind::Values, 0),
                (ReplyKind::MetaDone, 0),
                (ReplyKind::NotStored, 0),
                (ReplyKind::NotFound, 0),
                (ReplyKind::Exists, 0),
            ],
        ),
        Protocol::Binary => (
            b"\x81\0\0\0\x04\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0ab\r\nc\
              \x81\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0no\
              \x81\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\
              \x81\x05\0\0\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x2a\
              \x81\x0d\0\x01\x04\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0kab\
              \x81\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
              \x81\x01\0\0\0\0\0\x82\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0oom",
            vec![
                (ReplyKind::Values, 1),
                (ReplyKind::Values, 0),
                (ReplyKind::Stored, 0),
                (ReplyKind::Number(42), 0),
                (ReplyKind::Values, 1),
                (ReplyKind::ServerError, 0),
            ],
        ),
        Protocol::Resp => (
            b"$5\r\nab\r\nc\r\n$-1\r\n+OK\r\n*3\r\n$0\r\n\r\n$-1\r\n$2\r\nab\r\n-ERR x\r\n",
            vec![
                (ReplyKind::Values, 1),
                (ReplyKind::Values, 0),
                (ReplyKind::Stored, 0),
                (ReplyKind::Values, 2),
                (ReplyKind::ServerError, 0),
            ],
        ),
    }
}

fn decode(protocol: Protocol, packets: &[&[u8]]) -> Vec<(ReplyKind, u32)> {
    let (mut decoder, mut seen, mut rest) = (Decoder::new(protocol), Vec::new(), Vec::new());
    for packet in packets {
        rest.extend_from_slice(packet);
        loop {
            match decoder.next(&rest, false) {
                ReplyStep::Incomplete { consumed } => {
                    rest.drain(..consumed);
                    break;
                }
                ReplyStep::Reply { reply: Reply { kind, hits, .. }, consumed } => {
                    seen.push((kind, hits));
                    rest.drain(..consumed);
                }
                ReplyStep::Malformed => return seen,
            }
        }
    }
    seen
}

#[test]
fn any_cut_into_packets_gives_the_same_replies() {
    for protocol in [Protocol::Text, Protocol::Meta, Protocol::Binary, Protocol::Resp] {
        let (stream, expected) = script(protocol);
        for one in 0..=stream.len() {
            for two in one..=stream.len() {
                let packets = [&stream[..one], &stream[one..two], &stream[two..]];
                assert_eq!(decode(protocol, &packets), expected, "{protocol:?} cut at {one} and {two}");
            }
        }
    }
}

#[test]
fn a_fenced_get_ends_at_the_fence() {
    let mut decoder = Decoder::new(Protocol::Meta);
    let stream = b"VA 1 kone\r\nx\r\nVA 2 ktwo\r\nyy\r\nMN\r\nHD\r\n";
    let ReplyStep::Reply { reply, consumed } = decoder.next(stream, true) else { panic!() };
    assert_eq!((reply.kind, reply.hits, reply.value_bytes), (ReplyKind::Values, 2, 3));
    assert_eq!(&stream[consumed..], b"HD\r\n");
}

#[test]
fn values_are_shown_with_their_keys_or_their_places() {
    let shown = |protocol: Protocol, reply: &[u8]| {
        let mut seen = Vec::new();
        let understood = protocol.each_value(reply, |found| {
            let key = found.key.map(<[u8]>::to_vec);
            seen.push((key, found.at, found.value.to_vec(), found.cas));
        });
        assert!(understood);
        seen
    };
    let key = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(
        shown(Protocol::Text, b"VALUE one 0 2 8\r\n\r\n\r\nVALUE two 0 1\r\nx\r\nEND\r\n"),
        [(key("one"), 0, b"\r\n".to_vec(), 8), (key("two"), 1, b"x".to_vec(), 0)]
    );
    assert_eq!(shown(Protocol::Meta, b"VA 1 kone c5\r\nx\r\nMN\r\n"), [(key("one"), 0, b"x".to_vec(), 5)]);
    assert_eq!(
        shown(Protocol::Resp, b"*3\r\n$1\r\nx\r\n$-1\r\n$0\r\n\r\n"),
        [(None, 0, b"x".to_vec(), 0), (None, 2, b"".to_vec(), 0)]
    );
    let (stream, _) = script(Protocol::Binary);
    let values = shown(Protocol::Binary, stream);
    assert_eq!(values[0], (None, 0, b"ab\r\nc".to_vec(), 7));
    assert_eq!(values[1], (key("k"), 1, b"ab".to_vec(), 7));
}
