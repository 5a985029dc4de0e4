//! Entries for a fuzzer: each takes any bytes, and panics if a promise of this crate is broken. Not an interface.
//!
//! The first byte of an input says how the rest is cut into packets, so that a corpus is cuts and all.

use crate::limits::{KEYS_LINE_SIZE_MAX, Limits, PACKET_BODY_SIZE_MAX};
use crate::reply::{self, Hit, MetaItem, MetaStatus, MetaWin, Outcome};
use crate::request::{Command, Dialect, Request};
use crate::{Auth, ErrorReply, KEY_SIZE_MAX, Parser, Protocol, Step, parse_sasl_plain, udp};

const LIMITS: Limits = Limits { item_size_max: 1024 };

/// Lines: a stream means the same however it is cut, and everything it asks for can be answered.
pub fn fuzz_text(data: &[u8]) {
    fuzz_stream(data, Protocol::Text, Auth::Open);
    fuzz_stream(data, Protocol::Text, Auth::Required);
}

/// Packets, as [`fuzz_text`].
pub fn fuzz_binary(data: &[u8]) {
    for auth in [Auth::Open, Auth::Required, Auth::Granted] {
        fuzz_stream(data, Protocol::Binary, auth);
    }
}

/// Datagrams in, and any reply in datagrams out.
pub fn fuzz_udp(data: &[u8]) {
    if let Some((id, payload)) = udp::parse_datagram(data) {
        assert!(data.ends_with(payload) && payload.len() + udp::UDP_HEADER_SIZE == data.len());
        fuzz_stream(payload, Protocol::Auto, Auth::Open);
        let fragments = udp::fragments(id, payload).expect("a datagram's payload is short");
        let size: usize = fragments.map(|(_, payload)| payload.len()).sum();
        assert!(size == payload.len());
    }
}

fn fuzz_stream(data: &[u8], protocol: Protocol, auth: Auth) {
    let Some((&packet_size, stream)) = data.split_first() else { return };
    let whole = meaning(stream, stream.len(), protocol, auth);
    let cut = meaning(stream, usize::from(packet_size).max(1), protocol, auth);
    assert!(whole == cut, "packets of {packet_size} bytes changed what the stream means");
}

/// All replies to a stream that comes in packets of this size, and the bytes that no step consumed.
fn meaning(stream: &[u8], packet_size: usize, protocol: Protocol, auth: Auth) -> (Vec<u8>, usize) {
    let mut parser = Parser::new(protocol, auth);
    let (mut out, mut start, mut end) = (Vec::new(), 0, 0);
    loop {
        let input = &stream[start..end];
        match parser.next(input, &LIMITS) {
            Step::Incomplete { total_bytes } => {
                assert!(total_bytes > input.len() && total_bytes <= INPUT_SIZE_MAX);
                if end == stream.len() {
                    return (out, stream.len() - start);
                }
                end = stream.len().min(end + packet_size);
            }
            Step::Close { error } => {
                error.into_iter().for_each(|error| reply::error(&mut out, error));
                return (out, 0);
            }
            Step::Request { request, consumed } => {
                assert!(0 < consumed && consumed <= input.len());
                answer(&mut out, &request);
                start += consumed;
            }
            Step::Reply { error, consumed } => {
                assert!(0 < consumed && consumed <= input.len());
                reply::error(&mut out, error);
                start += consumed;
            }
            Step::Swallowed { consumed } => {
                assert!(0 < consumed && consumed <= input.len());
                start += consumed;
            }
        }
    }
}

/// More than any step may wait for.
const INPUT_SIZE_MAX: usize = KEYS_LINE_SIZE_MAX + PACKET_BODY_SIZE_MAX;

/// Answers in as many ways as there are, after what was asked.
fn answer(out: &mut Vec<u8>, request: &Request<'_>) {
    out.extend_from_slice(format!("{request:?}\n").as_bytes());
    assert!(request.decoded_key(&mut [0; KEY_SIZE_MAX]).len() <= request.key.len());
    if request.command.is_keyed() {
        assert!(!request.key.is_empty() && request.key.len() <= KEY_SIZE_MAX);
    }
    match request.command {
        Command::MetaGet(_) => {
            let with_value = reply::meta_get(out, request, &MetaItem::default(), MetaWin::default());
            out.extend_from_slice(if with_value { reply::CRLF } else { b"" });
        }
        Command::MetaStore(_) | Command::MetaDelete(_) => {
            reply::meta_status(out, request, MetaStatus::Exists, &MetaItem::default());
        }
        Command::MetaArithmetic(_) => reply::meta_arithmetic(out, request, &MetaItem::default(), 7),
        Command::MetaDebug(_) => reply::meta_debug(out, request, &MetaItem::default()),
        Command::Get { .. } | Command::GetAndTouch { .. } => {
            reply::hit_header(out, request, &Hit { client_flags: 0, value_len: 0, cas: 1 });
            reply::hit_end(out, request);
            reply::miss(out, request);
        }
        Command::MetaNoop => reply::noop(out, request),
        Command::Quit => reply::quit(out, request),
        Command::Version => reply::version_of(out, request, "1.6.45"),
        Command::Stats(_) => reply::stats(out, request, b"STAT pid 1\r\nEND\r\n"),
        Command::SaslMechanisms => reply::sasl_mechanisms(out, request, crate::SASL_MECHANISMS),
        Command::SaslStart | Command::SaslStep => {
            out.push(u8::from(parse_sasl_plain(request.value).is_some()));
            reply::outcome(out, request, Outcome::Refused(ErrorReply::AuthenticationFailure));
        }
        Command::EndOfKeys => {
            assert!(request.dialect == Dialect::Text);
            reply::end(out);
        }
        _ => {
            reply::outcome(out, request, Outcome::NotStored);
            reply::outcome(out, request, Outcome::Refused(ErrorReply::TooLarge));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a fuzzer would find first, so that it starts beyond.
    fn near_text() -> impl Strategy<Value = Vec<u8>> {
        "(.|(get|gat|set|cas|ms|mg|ma|me|lru|lru_crawler|slabs|watch|stats|config|shutdown)\
         ( ([a-z]{1,9}|-?[0-9]{1,20}|noreply|Zm9v|[A-Za-z][0-9]{0,3})){0,7}(\r?\n|\r\n..\r\n)){1,12}"
            .prop_map(String::into_bytes)
    }

    proptest! {
        #[test]
        fn no_bytes_break_a_promise(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            fuzz_text(&data);
            fuzz_binary(&data);
            fuzz_udp(&data);
        }

        #[test]
        fn near_misses_of_lines_break_no_promise(data in near_text()) {
            fuzz_text(&data);
            fuzz_udp(&[b"\0\0\0\0\0\x01\0\0", &data[..]].concat());
        }

        #[test]
        fn near_misses_of_packets_break_no_promise(
            packet_size: u8,
            packets in proptest::collection::vec(
                (0_u8..0x26, 0_u16..12, 0_u8..22, 0_u32..60, proptest::collection::vec(any::<u8>(), 60)),
                1..6,
            ),
        ) {
            let mut data = vec![packet_size];
            for (opcode, key, extras, body, bytes) in packets {
                let sizes = [&key.to_be_bytes()[..], &[extras, 0, 0, 0], &body.to_be_bytes()].concat();
                data.extend([&[0x80, opcode][..], &sizes, &[7; 12]].concat());
                data.extend(&bytes[..usize::try_from(body).unwrap()]);
            }
            fuzz_binary(&data);
        }
    }
}
