use super::*;
use crate::{Parser, Protocol, Step};
use proptest::prelude::*;

const LIMITS: Limits = Limits { item_size_max: 1024 };
const OPAQUE: u32 = 0xdead_beef;

/// A packet, spelled out: the obvious twin of the parser.
fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> Vec<u8> {
    let key_size = u16::try_from(key.len()).unwrap();
    let body_size = u32::try_from(extras.len() + key.len() + value.len()).unwrap();
    let mut bytes = vec![0x80, opcode];
    bytes.extend(key_size.to_be_bytes());
    bytes.extend([u8::try_from(extras.len()).unwrap(), 0, 0, 0]);
    bytes.extend(body_size.to_be_bytes());
    bytes.extend(OPAQUE.to_be_bytes());
    bytes.extend(cas.to_be_bytes());
    [&bytes[..], extras, key, value].concat()
}

fn head(opcode: u8) -> BinaryHead {
    BinaryHead { opcode, opaque: OPAQUE }
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// A packet, and the command, key and value it comes to.
type Sample = (Vec<u8>, Command, &'static [u8], &'static [u8]);

/// Every operation in every form.
fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut add = |opcodes: &[u8], extras: &[u8], cas, command, key: &'static [u8], value: &'static [u8]| {
        for &opcode in opcodes {
            samples.push((packet(opcode, extras, key, value, cas), command, key, value));
        }
    };
    let get = Command::Get { with_cas: true };
    let gat = Command::GetAndTouch { exptime: i64::from(u32::MAX), with_cas: true };
    let store = |mode, compare| Command::Store { mode, client_flags: 7, exptime: 60, compare };
    let grow = |mode, compare| Command::Store { mode, client_flags: 0, exptime: 0, compare };
    add(&[0x00, 0x09, 0x0c, 0x0d], &[], 5, get, b"k\0\xff", b"");
    add(&[0x1d, 0x1e, 0x23, 0x24], &numbers(&[u32::MAX]), 0, gat, b"key", b"");
    add(&[0x1c], &numbers(&[0]), 0, Command::Touch { exptime: 0 }, b"key", b"");
    add(&[0x01, 0x11], &numbers(&[7, 60]), 0, store(StoreMode::Set, None), b"key", b"value\r\n");
    add(&[0x02, 0x12], &numbers(&[7, 60]), 0, store(StoreMode::Add, None), b"key", b"");
    add(&[0x03, 0x13], &numbers(&[7, 60]), 0, store(StoreMode::Replace, None), b"key", b"v");
    for opcode in [0x01, 0x02, 0x03] {
        add(&[opcode], &numbers(&[7, 60]), 9, store(StoreMode::Set, Some(9)), b"key", b"v");
    }
    add(&[0x0e, 0x19], &[], 0, grow(StoreMode::Append, None), b"key", b"v");
    add(&[0x0f, 0x1a], &[], 9, grow(StoreMode::Prepend, Some(9)), b"key", b"v");
    add(&[0x04, 0x14], &[], 0, Command::Delete { compare: None }, b"key", b"");
    add(&[0x04], &[], u64::MAX, Command::Delete { compare: Some(u64::MAX) }, b"key", b"");
    let count = |decrement, compare, vivify| Command::Arithmetic { decrement, delta: 1, compare, vivify };
    let never = numbers(&[0, 1, 0, 2, u32::MAX]);
    let vivify = Some(Vivify { initial: 2, exptime: 3600 });
    add(&[0x05, 0x15], &numbers(&[0, 1, 0, 2, 3600]), 0, count(false, None, vivify), b"n", b"");
    add(&[0x06, 0x16], &never, 8, count(true, Some(8), None), b"n", b"");
    add(&[0x07, 0x17], &[], 0, Command::Quit, b"", b"");
    add(&[0x08, 0x18], &[], 0, Command::FlushAll { delay: 0 }, b"", b"");
    add(&[0x08, 0x18], &numbers(&[30]), 0, Command::FlushAll { delay: 30 }, b"", b"");
    add(&[0x0a], &[], 0, Command::MetaNoop, b"", b"");
    add(&[0x0b], &[], 0, Command::Version, b"", b"");
    for (key, topic) in [
        (&b""[..], StatsTopic::General),
        (b"items", StatsTopic::Items),
        (b"slabs", StatsTopic::Slabs),
        (b"sizes", StatsTopic::Sizes),
        (b"reset", StatsTopic::Reset),
        (b"settings", StatsTopic::Settings),
        (b"detail on", StatsTopic::Detail(StatsDetail::On)),
        (b"detail off", StatsTopic::Detail(StatsDetail::Off)),
        (b"detail dump", StatsTopic::Detail(StatsDetail::Dump)),
    ] {
        add(&[0x10], &[], 0, Command::Stats(topic), key, b"");
    }
    samples
}

#[track_caller]
fn check(stream: &[u8], auth: Auth, expected: &[Step<'_>]) {
    let mut parser = Parser::new(Protocol::Auto, auth);
    let mut rest = stream;
    for expected in expected {
        let step = parser.next(rest, &LIMITS);
        assert_eq!(&step, expected, "{}", rest.escape_ascii());
        match step {
            Step::Request { consumed, .. } | Step::Swallowed { consumed } | Step::Reply { consumed, .. } => {
                rest = &rest[consumed..];
            }
            Step::Close { .. } => return,
            Step::Incomplete { .. } => panic!("{step:?}"),
        }
    }
    assert_eq!(rest.len(), 0, "{}", rest.escape_ascii());
}

fn request<'a>(opcode: u8, command: Command, key: &'a [u8], value: &'a [u8]) -> Request<'a> {
    Request { value, dialect: Dialect::Binary(head(opcode)), ..Request::keyed(command, key) }
}

fn refused(opcode: u8, error: ErrorReply) -> DialectError {
    DialectError { error, dialect: Dialect::Binary(head(opcode)) }
}

#[track_caller]
fn check_closes(bytes: &[u8], error: ErrorReply) {
    let error = Some(refused(bytes[1], error));
    assert_eq!(Parser::default().next(bytes, &LIMITS), Step::Close { error });
}

#[test]
fn every_operation_is_read_and_its_quiet_form_means_the_same() {
    for (bytes, command, key, value) in samples() {
        let request = request(bytes[1], command, key, value);
        check(&bytes, Auth::Open, &[Step::Request { request, consumed: bytes.len() }]);
    }
}

#[test]
fn every_strict_prefix_of_a_packet_is_incomplete_and_says_what_is_worth_another_call() {
    for (bytes, ..) in samples() {
        let mut wanted = 0;
        for cut in 1..bytes.len() {
            let step = Parser::default().next(&bytes[..cut], &LIMITS);
            let Step::Incomplete { total_bytes } = step else { panic!("{cut}: {step:?}") };
            assert!(total_bytes > cut && total_bytes <= bytes.len() && total_bytes >= wanted, "{cut}");
            wanted = total_bytes;
        }
    }
}

#[test]
fn the_documented_packets_are_read_as_documented() {
    // Source: memcached wiki, "BinaryProtocolRevamped", examples of get, add, increment and quit.
    let get = b"\x80\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\
                \x00\x00\x00\x00\x00\x00\x00\x00Hello";
    let add = b"\x80\x02\x00\x05\x08\x00\x00\x00\x00\x00\x00\x12\x00\x00\x00\x00\
                \x00\x00\x00\x00\x00\x00\x00\x00\xde\xad\xbe\xef\x00\x00\x0e\x10HelloWorld";
    let increment = b"\x80\x05\x00\x07\x14\x00\x00\x00\x00\x00\x00\x1b\x00\x00\x00\x00\
                      \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\
                      \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0e\x10counter";
    let read = |bytes: &'static [u8]| match Parser::default().next(bytes, &LIMITS) {
        Step::Request { request, consumed } if consumed == bytes.len() => {
            (request.command, request.key, request.value)
        }
        step => panic!("{step:?}"),
    };
    assert_eq!(read(get), (Command::Get { with_cas: true }, &b"Hello"[..], &b""[..]));
    let store =
        Command::Store { mode: StoreMode::Add, client_flags: 0xdead_beef, exptime: 3600, compare: None };
    assert_eq!(read(add), (store, &b"Hello"[..], &b"World"[..]));
    let vivify = Some(Vivify { initial: 0, exptime: 3600 });
    let count = Command::Arithmetic { decrement: false, delta: 1, compare: None, vivify };
    assert_eq!(read(increment), (count, &b"counter"[..], &b""[..]));
}

#[test]
fn the_first_byte_decides_once_which_protocol_a_connection_speaks() {
    let limits = Limits::default();
    let mut parser = Parser::default();
    assert_eq!(parser.next(b"", &limits), Step::Incomplete { total_bytes: 1 });
    let noop = packet(0x0a, &[], b"", b"", 0);
    assert!(matches!(parser.next(&noop, &limits), Step::Request { .. }));
    assert_eq!(parser.next(b"mn\r\n", &limits), Step::Close { error: None });
    let mut parser = Parser::default();
    assert!(matches!(parser.next(b"mn\r\n", &limits), Step::Request { .. }));
    assert!(matches!(parser.next(b"\x80\n", &limits), Step::Reply { .. }));
    assert_eq!(Parser::new(Protocol::Binary, Auth::Open).next(b"m", &limits), Step::Close { error: None });
    let reply = [&b"\x81"[..], &noop[1..]].concat();
    assert_eq!(Parser::new(Protocol::Binary, Auth::Open).next(&reply, &limits), Step::Close { error: None });
    assert!(matches!(
        Parser::new(Protocol::Text, Auth::Open).next(b"\x80\n", &limits),
        Step::Reply { error: DialectError { dialect: Dialect::Text, .. }, .. }
    ));
}

#[test]
fn sizes_that_contradict_each_other_are_answered_and_close() {
    let mut key_beyond_body = packet(0x00, &[], b"key", b"", 0);
    key_beyond_body[11] = 2;
    check_closes(&key_beyond_body, ErrorReply::Error);
    let mut extras_beyond_body = packet(0x00, &[], b"key", b"", 0);
    extras_beyond_body[4] = 1;
    check_closes(&extras_beyond_body, ErrorReply::Error);
    for body_size in [u32::MAX, 0x8000_0000, (1 << 30) + 1] {
        let mut huge = packet(0x01, &numbers(&[0, 0]), b"key", b"", 0);
        huge[8..12].copy_from_slice(&body_size.to_be_bytes());
        check_closes(&huge, ErrorReply::BadCommandLineFormat);
    }
    check_closes(&packet(0x00, &[], &[b'k'; 251], b"", 0), ErrorReply::BadCommandLineFormat);
    check_closes(&packet(0x99, &[], &[b'k'; 251], b"", 0), ErrorReply::BadCommandLineFormat);
}

#[test]
fn a_body_of_the_wrong_shape_is_answered_and_closes() {
    let none: &[u8] = &[];
    let (four, eight, twenty) = (numbers(&[0]), numbers(&[0, 0]), numbers(&[0; 5]));
    let check_all = |opcodes: &[u8], extras, key, value| {
        for &opcode in opcodes {
            check_closes(&packet(opcode, extras, key, value, 0), ErrorReply::BadCommandLineFormat);
        }
    };
    check_all(&[0x00, 0x09, 0x0c, 0x0d, 0x04, 0x14], &four, b"k", none);
    check_all(&[0x00, 0x09, 0x0c, 0x0d, 0x04, 0x14], none, none, none);
    check_all(&[0x00, 0x09, 0x0c, 0x0d, 0x04, 0x14], none, b"k", b"v");
    check_all(&[0x01, 0x02, 0x03, 0x11, 0x12, 0x13], &four, b"k", b"v");
    check_all(&[0x01, 0x02, 0x03, 0x11, 0x12, 0x13], none, b"k", b"v");
    check_all(&[0x01, 0x02, 0x03, 0x11, 0x12, 0x13], &eight, none, b"v");
    check_all(&[0x0e, 0x0f, 0x19, 0x1a], &eight, b"k", b"v");
    check_all(&[0x0e, 0x0f, 0x19, 0x1a], none, none, b"v");
    check_all(&[0x05, 0x06, 0x15, 0x16], &eight, b"k", none);
    check_all(&[0x05, 0x06, 0x15, 0x16], &twenty, none, none);
    check_all(&[0x05, 0x06, 0x15, 0x16], &twenty, b"k", b"v");
    check_all(&[0x1c, 0x1d, 0x1e, 0x23, 0x24], none, b"k", none);
    check_all(&[0x1c, 0x1d, 0x1e, 0x23, 0x24], &four, none, none);
    check_all(&[0x1c, 0x1d, 0x1e, 0x23, 0x24], &four, b"k", b"v");
    check_all(&[0x07, 0x17, 0x0a, 0x0b, 0x20], none, b"k", none);
    check_all(&[0x08, 0x18], &eight, none, none);
    check_all(&[0x10], &four, none, none);
    check_closes(&packet(0x08, none, b"k", none, 0), ErrorReply::BadCommandLineFormat);
    check_closes(&packet(0x10, none, b"items", b"v", 0), ErrorReply::BadCommandLineFormat);
    check_closes(&packet(0x21, none, none, b"v", 0), ErrorReply::BadCommandLineFormat);
}

#[test]
fn an_unknown_opcode_is_answered_and_takes_its_body_with_it() {
    for opcode in [0x1b, 0x1f, 0x25, 0x30, 0x3c, 0xff, 0x20, 0x21, 0x22] {
        let key: &[u8] = if opcode == 0x20 { b"" } else { b"key" };
        let unknown = packet(opcode, &[], key, &[b'v'; 100][..if key.is_empty() { 0 } else { 100 }], 0);
        let noop = packet(0x0a, &[], b"", b"", 0);
        let reply = Step::Reply { error: refused(opcode, ErrorReply::Error), consumed: 24 };
        let rest = Step::Swallowed { consumed: unknown.len() - 24 };
        let after = Step::Request { request: request(0x0a, Command::MetaNoop, b"", b""), consumed: 24 };
        // All but the rest of the stream is swallowed at once, so that it comes alone first.
        let mut parser = Parser::default();
        assert_eq!(parser.next(&unknown, &LIMITS), reply);
        if unknown.len() > 24 {
            assert_eq!(parser.next(&unknown[24..], &LIMITS), rest);
        }
        assert_eq!(parser.next(&noop, &LIMITS), after);
    }
}

#[test]
fn unknown_statistics_are_not_found() {
    for key in [&b"conns"[..], b"cachedump 1 1", b"item", b"itemss", b"detail", b"detail x", b"rese"] {
        let bytes = packet(0x10, &[], key, b"", 0);
        let error = refused(0x10, ErrorReply::UnknownStats);
        check(&bytes, Auth::Open, &[Step::Reply { error, consumed: bytes.len() }]);
    }
}

#[test]
fn a_value_over_the_limit_is_refused_before_it_comes_and_only_a_set_removes_what_was() {
    for (opcode, removes) in [(0x01, true), (0x11, true), (0x02, false), (0x03, false), (0x0e, false)] {
        let extras = if opcode == 0x0e { Vec::new() } else { numbers(&[0, 0]) };
        let bytes = packet(opcode, &extras, b"key", &[0; 2000], 0);
        let front = 24 + extras.len() + 3;
        let request = request(opcode, Command::StoreTooLarge { removes }, b"key", b"");
        for input in [&bytes[..front], &bytes] {
            let mut parser = Parser::default();
            assert_eq!(parser.next(input, &LIMITS), Step::Request { request, consumed: front });
        }
        check(
            &bytes,
            Auth::Open,
            &[Step::Request { request, consumed: front }, Step::Swallowed { consumed: 2000 }],
        );
    }
}

#[test]
fn before_authentication_only_its_own_operations_and_version_are_let_through() {
    let start = packet(0x21, &[], b"PLAIN", b"\0user\0pass", 0);
    let step = packet(0x22, &[], b"PLAIN", b"", 0);
    for (bytes, command, key, value) in [
        (&start, Command::SaslStart, &b"PLAIN"[..], &b"\0user\0pass"[..]),
        (&step, Command::SaslStep, b"PLAIN", b""),
        (&packet(0x20, &[], b"", b"", 0), Command::SaslMechanisms, b"", b""),
        (&packet(0x0b, &[], b"", b"", 0), Command::Version, b"", b""),
    ] {
        for auth in [Auth::Required, Auth::Granted] {
            let request = request(bytes[1], command, key, value);
            check(bytes, auth, &[Step::Request { request, consumed: bytes.len() }]);
        }
    }
    for (bytes, ..) in samples().iter().filter(|(bytes, ..)| bytes[1] != 0x0b) {
        let error = Some(refused(bytes[1], ErrorReply::Unauthenticated));
        check(bytes, Auth::Required, &[Step::Close { error }]);
    }
    let mut parser = Parser::new(Protocol::Auto, Auth::Required);
    let Step::Request { request, .. } = parser.next(&start, &LIMITS) else { panic!("{parser:?}") };
    assert!(request.command.decides_what_follows() && !request.command.is_keyed());
    parser.set_authenticated(true);
    assert!(matches!(parser.next(&samples()[0].0, &LIMITS), Step::Request { .. }));
    parser.set_authenticated(false);
    assert!(matches!(parser.next(&samples()[0].0, &LIMITS), Step::Close { .. }));
}

#[test]
fn a_mechanism_or_message_that_is_too_long_is_refused_without_being_kept() {
    for (key_size, value_size, error) in [
        (33, 5, ErrorReply::BadCommandLineFormat),
        (32, AUTH_DATA_SIZE_MAX + 1, ErrorReply::OutOfMemoryReading),
    ] {
        let bytes = packet(0x21, &[], &vec![b'M'; key_size], &vec![0; value_size], 0);
        let steps = [
            Step::Reply { error: refused(0x21, error), consumed: 24 },
            Step::Swallowed { consumed: key_size + value_size },
        ];
        check(&bytes, Auth::Required, &steps);
    }
}

/// What a stream comes to, whichever way it is cut: steps as text, swallowed bytes counted together.
fn seen(stream: &[u8], cuts: &[usize]) -> Vec<String> {
    let (mut seen, mut swallowed, mut start) = (Vec::new(), 0, 0);
    let mut parser = Parser::new(Protocol::Binary, Auth::Open);
    for end in cuts.iter().copied().chain([stream.len()]) {
        loop {
            let input = &stream[start..end];
            let step = parser.next(input, &LIMITS);
            start += match step {
                Step::Incomplete { total_bytes } => {
                    assert!(total_bytes > input.len() && total_bytes <= 24 + (1 << 30));
                    break;
                }
                Step::Swallowed { consumed } => {
                    swallowed += consumed;
                    consumed
                }
                Step::Close { .. } => {
                    seen.push(format!("{swallowed} {step:?}"));
                    return seen;
                }
                Step::Request { consumed, .. } | Step::Reply { consumed, .. } => {
                    seen.push(format!("{swallowed} {step:?}"));
                    swallowed = 0;
                    consumed
                }
            };
        }
    }
    seen.push(format!("{swallowed} and {} left", stream.len() - start));
    seen
}

fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let sample = (0..samples().len()).prop_map(|at| samples()[at].0.clone());
    let bytes = |size| proptest::collection::vec(any::<u8>(), 0..size);
    let parts = (0_u8..0x40, prop_oneof![Just(0), Just(4), Just(8), Just(20)], bytes(300), bytes(1500));
    let random = (parts, any::<u64>())
        .prop_map(|((opcode, extras, key, value), cas)| packet(opcode, &vec![0; extras], &key, &value, cas));
    let bent =
        (sample.clone(), any::<proptest::sample::Index>(), any::<u8>()).prop_map(|(mut packet, at, to)| {
            *at.get_mut(&mut packet) = to;
            packet
        });
    prop_oneof![4 => sample, 2 => random, 1 => bent]
}

proptest! {
    #[test]
    fn any_cut_of_any_packets_gives_the_same_steps(
        packets in proptest::collection::vec(any_packet(), 1..12),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
    ) {
        let stream = packets.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(seen(&stream, &cuts), seen(&stream, &[]));
    }

    #[test]
    fn no_bytes_behind_a_magic_panic(mut stream in proptest::collection::vec(any::<u8>(), 1..2000)) {
        stream[0] = REQUEST_MAGIC;
        seen(&stream, &[1, stream.len() / 2]);
    }
}
