use super::*;
use crate::limits::{KEY_SIZE_MAX, VALUE_SIZE_MAX};
use crate::{MetaFlags, StatsDetail, StatsTopic, StoreMode};
use proptest::prelude::*;
use proptest::sample::Index;

mod auth;

const LIMITS: Limits = Limits { item_size_max: 1024 };

/// A step with nothing in it that depends on how the stream was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Request { command: Command, key: String, value: String, flags: String, noreply: bool },
    Swallowed(usize),
    Reply(ErrorReply),
    Close(Option<ErrorReply>),
}

impl Seen {
    fn request(command: Command, key: &str) -> Self {
        Self::Request { command, key: key.into(), value: String::new(), flags: String::new(), noreply: false }
    }

    fn value(self, sent: &str) -> Self {
        let Self::Request { command, key, flags, noreply, .. } = self else { panic!("{self:?}") };
        Self::Request { command, key, value: sent.into(), flags, noreply }
    }

    fn flags(self, sent: &str) -> Self {
        let Self::Request { command, key, value, noreply, .. } = self else { panic!("{self:?}") };
        Self::Request { command, key, value, flags: sent.into(), noreply }
    }

    fn noreply(self) -> Self {
        let Self::Request { command, key, value, flags, .. } = self else { panic!("{self:?}") };
        Self::Request { command, key, value, flags, noreply: true }
    }
}

/// Every step of a stream given in pieces that end at `cuts`, and the bytes left over.
#[track_caller]
fn steps(stream: &[u8], cuts: &[usize]) -> (Vec<Seen>, usize) {
    let mut parser = Parser::default();
    let mut seen = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([stream.len()]) {
        loop {
            let input = &stream[start..end];
            let consumed = match parser.next(input, &LIMITS) {
                Step::Incomplete { total_bytes } => {
                    assert!(total_bytes > input.len());
                    assert!(total_bytes <= KEYS_LINE_SIZE_MAX + 1);
                    break;
                }
                Step::Close { error } => {
                    seen.push(Seen::Close(error.map(|error| error.error)));
                    return (seen, 0);
                }
                step => see(step, &mut seen),
            };
            assert!(consumed > 0 && consumed <= input.len());
            start += consumed;
        }
    }
    (seen, stream.len() - start)
}

fn see(step: Step<'_>, seen: &mut Vec<Seen>) -> usize {
    match step {
        Step::Request { request, consumed } => {
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            seen.push(Seen::Request {
                command: request.command,
                key: text(request.key),
                value: text(request.value),
                flags: text(request.flags.trim_ascii()),
                noreply: request.noreply,
            });
            consumed
        }
        Step::Swallowed { consumed } => {
            match seen.last_mut() {
                Some(Seen::Swallowed(size)) => *size += consumed,
                _ => seen.push(Seen::Swallowed(consumed)),
            }
            consumed
        }
        Step::Reply { error, consumed } => {
            seen.push(Seen::Reply(error.error));
            consumed
        }
        Step::Incomplete { .. } | Step::Close { .. } => panic!("no bytes consumed: {step:?}"),
    }
}

#[track_caller]
fn check(stream: &str, expected: &[Seen]) {
    assert_eq!(steps(stream.as_bytes(), &[]), (expected.to_vec(), 0), "{stream:?}");
}

#[track_caller]
fn check_refused(stream: &str, error: ErrorReply) {
    check(stream, &[Seen::Reply(error)]);
}

fn get(key: &str) -> Seen {
    Seen::request(Command::Get { with_cas: false }, key)
}

fn end() -> Seen {
    Seen::request(Command::EndOfKeys, "")
}

fn noop() -> Seen {
    Seen::request(Command::MetaNoop, "")
}

fn store(mode: StoreMode, key: &str, value: &str) -> Seen {
    Seen::request(Command::Store { mode, client_flags: 0, exptime: 0, compare: None }, key).value(value)
}

fn meta(flags: &str) -> MetaFlags {
    MetaFlags::parse(flags.as_bytes(), crate::meta::Head::Key).unwrap().0
}

/// One of each, with every spelling that is understood.
fn samples() -> Vec<(&'static str, Vec<Seen>)> {
    let request = Seen::request;
    let delete = || request(Command::Delete { compare: None }, "k");
    let counting = |decrement, delta| Command::Arithmetic { decrement, delta, compare: None, vivify: None };
    let compare = Command::Store { mode: StoreMode::Set, client_flags: 4, exptime: -1, compare: Some(9) };
    let gats = |key| request(Command::GetAndTouch { exptime: -5, with_cas: true }, key);
    vec![
        ("get k\r\n", vec![get("k"), end()]),
        ("get k\n", vec![get("k"), end()]),
        ("get  a   a b  \r\n", vec![get("a"), get("a"), get("b"), end()]),
        ("get noreply\r\n", vec![get("noreply"), end()]),
        ("get a\tb\r\n", vec![get("a\\tb"), end()]),
        ("gets k\r\n", vec![request(Command::Get { with_cas: true }, "k"), end()]),
        ("gat 60 k\r\n", vec![request(Command::GetAndTouch { exptime: 60, with_cas: false }, "k"), end()]),
        ("gats -5 a b\r\n", vec![gats("a"), gats("b"), end()]),
        ("set k 0 0 1\r\nx\r\n", vec![store(StoreMode::Set, "k", "x")]),
        ("set k 0 0 0\n\r\n", vec![store(StoreMode::Set, "k", "")]),
        ("set k 0 0 2 noreply\r\n\r\n\r\n", vec![store(StoreMode::Set, "k", "\\r\\n").noreply()]),
        ("set k 0 0 1 more than asked\r\nx\r\n", vec![store(StoreMode::Set, "k", "x")]),
        ("add k 0 0 1\r\nx\r\n", vec![store(StoreMode::Add, "k", "x")]),
        ("replace k 0 0 1\r\nx\r\n", vec![store(StoreMode::Replace, "k", "x")]),
        ("append k 0 0 1\r\nx\r\n", vec![store(StoreMode::Append, "k", "x")]),
        ("prepend k 0 0 1\r\nx\r\n", vec![store(StoreMode::Prepend, "k", "x")]),
        ("cas k 4 -1 1 9\r\nx\r\n", vec![request(compare, "k").value("x")]),
        ("cas k 4 -1 1 9 noreply\r\nx\r\n", vec![request(compare, "k").value("x").noreply()]),
        ("delete k\r\n", vec![delete()]),
        ("delete k 0\r\n", vec![delete()]),
        ("delete k noreply\r\n", vec![delete().noreply()]),
        ("delete k 0 noreply\r\n", vec![delete().noreply()]),
        ("incr k 18446744073709551615\r\n", vec![request(counting(false, u64::MAX), "k")]),
        ("decr k 1 noreply\r\n", vec![request(counting(true, 1), "k").noreply()]),
        ("touch k 2592001\r\n", vec![request(Command::Touch { exptime: 2_592_001 }, "k")]),
        ("flush_all\r\n", vec![request(Command::FlushAll { delay: 0 }, "")]),
        ("flush_all noreply\r\n", vec![request(Command::FlushAll { delay: 0 }, "").noreply()]),
        ("flush_all 10\r\n", vec![request(Command::FlushAll { delay: 10 }, "")]),
        ("flush_all -1 noreply\r\n", vec![request(Command::FlushAll { delay: -1 }, "").noreply()]),
        ("verbosity 1\r\n", vec![request(Command::Verbosity { level: 1 }, "")]),
        ("verbosity 4294967295 noreply\r\n", vec![request(Command::Verbosity { level: 2 }, "").noreply()]),
        ("version\r\n", vec![request(Command::Version, "")]),
        ("version 2\r\n", vec![request(Command::Version, "")]),
        ("quit\r\n", vec![request(Command::Quit, "")]),
        ("stats\r\n", vec![request(Command::Stats(StatsTopic::General), "")]),
        ("stats  settings\r\n", vec![request(Command::Stats(StatsTopic::Settings), "")]),
        (
            "stats cachedump 3 0\r\n",
            vec![request(Command::Stats(StatsTopic::Cachedump { class: 3, limit: 0 }), "")],
        ),
        ("mg k\r\n", vec![request(Command::MetaGet(meta("")), "k")]),
        ("mg k v t  Oabc\r\n", vec![request(Command::MetaGet(meta("v t Oabc")), "k").flags("v t  Oabc")]),
        ("mg Zm9v b k\r\n", vec![request(Command::MetaGet(meta("b k")), "Zm9v").flags("b k")]),
        ("ms k 1\r\nx\r\n", vec![request(Command::MetaStore(meta("")), "k").value("x")]),
        (
            "ms k 2 T0 MA\r\n\n\n\r\n",
            vec![request(Command::MetaStore(meta("T0 MA")), "k").value("\\n\\n").flags("T0 MA")],
        ),
        ("md k q\r\n", vec![request(Command::MetaDelete(meta("q")), "k").flags("q")]),
        ("ma k MD D3\r\n", vec![request(Command::MetaArithmetic(meta("MD D3")), "k").flags("MD D3")]),
        ("mn\r\n", vec![request(Command::MetaNoop, "")]),
        ("mn\n", vec![request(Command::MetaNoop, "")]),
        ("me k\r\n", vec![request(Command::MetaDebug(meta("")), "k")]),
        ("me Zm9v b ?\r\n", vec![request(Command::MetaDebug(meta("b")), "Zm9v").flags("b ?")]),
        ("set k x 0 3\r\nget\r\n", vec![Seen::Reply(ErrorReply::BadCommandLineFormat), Seen::Swallowed(5)]),
        ("set k x 0 3 noreply\r\nget\r\n", vec![Seen::Swallowed(26)]),
        ("set k 0 0 3\r\nabcde", vec![Seen::Reply(ErrorReply::BadDataChunk)]),
        ("delete k 10 noreply\r\n", vec![Seen::Swallowed(21)]),
        ("what\r\n", vec![Seen::Reply(ErrorReply::Error)]),
    ]
}

#[test]
fn every_command_is_read_in_every_spelling() {
    for (stream, expected) in samples() {
        check(stream, &expected);
    }
}

#[test]
fn every_strict_prefix_of_a_command_is_incomplete() {
    for (stream, _) in samples().iter().filter(|(_, expected)| matches!(expected[0], Seen::Request { .. })) {
        // A line of keys is given key by key as soon as it is whole, so only its first step has prefixes.
        let whole = Parser::default().next(stream.as_bytes(), &LIMITS);
        assert!(matches!(whole, Step::Request { .. }), "{stream:?}: {whole:?}");
        for cut in 0..stream.len() {
            let step = Parser::default().next(&stream.as_bytes()[..cut], &LIMITS);
            assert!(matches!(step, Step::Incomplete { .. }), "{:?}: {step:?}", &stream[..cut]);
        }
    }
}

#[test]
fn every_single_cut_of_a_conversation_gives_the_same_steps() {
    let stream: String = samples().iter().map(|(stream, _)| *stream).collect();
    let expected = merged(samples().into_iter().flat_map(|(_, expected)| expected).collect());
    for cut in 0..=stream.len() {
        assert_eq!(steps(stream.as_bytes(), &[cut]), (expected.clone(), 0), "cut at {cut}");
    }
    let every: Vec<usize> = (1..stream.len()).collect();
    assert_eq!(steps(stream.as_bytes(), &every), (expected, 0));
}

#[test]
fn a_missing_value_says_how_many_bytes_are_worth_another_call() {
    let line = b"set k 0 0 500\r\n";
    let total_bytes = line.len() + 500 + 2;
    let mut parser = Parser::default();
    assert_eq!(parser.next(line, &LIMITS), Step::Incomplete { total_bytes });
    let mut input = line.to_vec();
    input.resize(total_bytes - 1, b'x');
    assert_eq!(parser.next(&input, &LIMITS), Step::Incomplete { total_bytes });
}

#[test]
fn too_few_tokens_are_a_format_error() {
    for line in [
        "",
        " ",
        "a",
        "get",
        "get ",
        "gets",
        "gat",
        "gat 1",
        "gats 1 ",
        "set",
        "set k",
        "set k 0",
        "set k 0 0",
        "cas k 0 0",
        "add k",
        "append",
        "delete",
        "delete ",
        "incr",
        "incr k",
        "decr k",
        "touch",
        "touch k",
        "verbosity",
        "mg",
        "mg ",
        "ms",
        "ms k",
        "md",
        "ma",
        "me",
        "ms k S100",
    ] {
        check_refused(&format!("{line}\r\n"), ErrorReply::BadCommandLineFormat);
        check_refused(&format!("{line}\n"), ErrorReply::BadCommandLineFormat);
    }
}

#[test]
fn unknown_commands_are_errors_and_case_counts() {
    for line in ["GET k", " get k", "foo", "gett k", "flush", "SHUTDOWN", "mx k", "debugtime p"] {
        check_refused(&format!("{line}\r\n"), ErrorReply::Error);
    }
    check("foo noreply\r\n", &[Seen::Swallowed(13)]);
}

#[test]
fn a_browser_is_not_answered() {
    check("GET / HTTP/1.1\r\nget k\r\n", &[Seen::Close(None)]);
    check("POST /x HTTP/2 \r\n", &[Seen::Close(None)]);
    check("get HTTP/1.1\r\n", &[get("HTTP/1.1"), end()]);
}

#[test]
fn bad_numbers_have_their_own_texts_and_noreply_hides_them() {
    let cases = [
        ("gat x k", ErrorReply::InvalidExptime),
        ("touch k x", ErrorReply::InvalidExptime),
        ("flush_all x", ErrorReply::InvalidExptime),
        ("incr k x", ErrorReply::InvalidDelta),
        ("incr k -1", ErrorReply::InvalidDelta),
        ("decr k 18446744073709551616", ErrorReply::InvalidDelta),
        ("verbosity x", ErrorReply::BadCommandLineFormat),
        ("delete k 5", ErrorReply::BadCommandLineFormat),
        ("delete k a b c d", ErrorReply::BadCommandLineFormat),
        ("delete k 0 0", ErrorReply::BadCommandLineFormat),
    ];
    for (line, error) in cases {
        check_refused(&format!("{line}\r\n"), error);
        if !line.starts_with("gat") {
            check(&format!("{line} noreply\r\n"), &[Seen::Swallowed(line.len() + " noreply\r\n".len())]);
        }
    }
}

#[test]
fn a_storage_line_whose_length_is_known_takes_its_value_with_it() {
    let refused = [Seen::Reply(ErrorReply::BadCommandLineFormat), Seen::Swallowed(5), noop()];
    for line in ["set k -1 0 3", "set k 4294967296 0 3", "set k 0 1x 3", "cas k 0 0 3", "cas k 0 0 3 x"] {
        check(&format!("{line}\r\nget\r\nmn\r\n"), &refused);
    }
    let key = "k".repeat(KEY_SIZE_MAX + 1);
    check(&format!("set {key} 0 0 3\r\nget\r\nmn\r\n"), &refused);
    check(&format!("ms {key} 3\r\nget\r\nmn\r\n"), &refused);
}

#[test]
fn a_storage_line_whose_length_is_not_known_is_followed_by_a_command() {
    let too_long = VALUE_SIZE_MAX + 1;
    for line in [
        "set k 0 0 -1".into(),
        "set k 0 0 x noreply".into(),
        format!("set k 0 0 {too_long}"),
        "ms k -1".into(),
    ] {
        check(&format!("{line}\r\nmn\r\n"), &[Seen::Reply(ErrorReply::BadCommandLineFormat), noop()]);
    }
}

#[test]
fn a_value_without_its_line_end_is_refused_whole_and_the_rest_is_a_command() {
    check("set k 0 0 1\r\nxyzmn\r\n", &[Seen::Reply(ErrorReply::BadDataChunk), noop()]);
    check("set k 0 0 1\r\nx\nymn\r\n", &[Seen::Reply(ErrorReply::BadDataChunk), noop()]);
    check("set k 0 0 1 noreply\r\nxyzmn\r\n", &[Seen::Swallowed(24), noop()]);
    check("ms k 1 q\r\nxyzmn\r\n", &[Seen::Reply(ErrorReply::BadDataChunk), noop()]);
}

#[test]
fn a_value_over_the_limit_is_refused_before_it_comes_and_never_buffered() {
    let mut parser = Parser::default();
    let line = b"set k 0 0 2000000\r\n";
    let request = Request::keyed(Command::StoreTooLarge { removes: true }, b"k");
    assert_eq!(parser.next(line, &LIMITS), Step::Request { request, consumed: line.len() });
    assert_eq!(parser.next(b"", &LIMITS), Step::Incomplete { total_bytes: 1 });
    let mut rest = 2_000_002;
    while rest > 0 {
        let packet = vec![b'\n'; 65_536.min(rest)];
        assert_eq!(parser.next(&packet, &LIMITS), Step::Swallowed { consumed: packet.len() });
        rest -= packet.len();
    }
    assert!(matches!(parser.next(b"mn\r\n", &LIMITS), Step::Request { .. }));
}

#[test]
fn only_a_command_that_replaces_removes_what_it_could_not_replace() {
    for (line, removes) in [
        ("set k 0 0 9999", true),
        ("cas k 0 0 9999 1", true),
        ("add k 0 0 9999", false),
        ("replace k 0 0 9999", false),
        ("append k 0 0 9999", false),
        ("prepend k 0 0 9999", false),
    ] {
        check_too_large(line, removes, "k", "");
    }
    check_too_large("ms k 9999 v", true, "k", "v");
    check_too_large("ms k 9999 ME", false, "k", "ME");
    check_too_large("ms Zm9v 9999 b", true, "Zm9v", "b");
}

#[track_caller]
fn check_too_large(line: &str, removes: bool, key: &str, flags: &str) {
    let line = format!("{line}\r\n");
    let (seen, left) = steps(line.as_bytes(), &[]);
    assert_eq!((seen, left), (vec![Seen::request(Command::StoreTooLarge { removes }, key).flags(flags)], 0));
}

#[test]
fn noreply_and_the_key_reach_a_refused_value() {
    let mut parser = Parser::default();
    let Step::Request { request, .. } = parser.next(b"set k 0 0 9999 noreply\r\n", &LIMITS) else { panic!() };
    assert!(request.noreply && request.command.is_keyed());
    let Step::Request { request, .. } = Parser::default().next(b"ms Zm9v 9999 b\r\n", &LIMITS) else {
        panic!()
    };
    assert_eq!(request.decoded_key(&mut [0; KEY_SIZE_MAX]), b"foo");
}

#[test]
fn the_limit_counts_what_memcached_counts() {
    // 48 + 8 + 3 + 1 + 2 leaves 962 of 1024.
    assert!(matches!(steps(b"set key 0 0 962\r\n", &[]), (seen, 17) if seen.is_empty()));
    check_too_large("set key 0 0 963", true, "key", "");
    check_too_large("set key 1 0 959", true, "key", "");
    // The base64 form is longer than the key that is stored.
    assert!(matches!(steps(b"ms Zm9v 962 b\r\n", &[]), (seen, 15) if seen.is_empty()));
}

#[test]
fn one_key_over_the_limit_refuses_a_whole_line() {
    let (longest, long) = ("k".repeat(KEY_SIZE_MAX), "k".repeat(KEY_SIZE_MAX + 1));
    check(&format!("get {longest}\r\n"), &[get(&longest), end()]);
    for line in [
        format!("get {long}"),
        format!("get a {long}"),
        format!("gat 0 a b {long} c"),
        format!("gets {long} a"),
    ] {
        check_refused(&format!("{line}\r\n"), ErrorReply::BadCommandLineFormat);
    }
    for line in
        [format!("incr {long} 1"), format!("touch {long} 1"), format!("delete {long}"), format!("mg {long}")]
    {
        check_refused(&format!("{line}\r\n"), ErrorReply::BadCommandLineFormat);
    }
    check_refused(&format!("me {long}\r\n"), ErrorReply::BadCommandLineFormat);
}

#[test]
fn a_line_of_keys_may_be_long() {
    let keys: Vec<String> = (0..18_725).map(|key| format!("key{key:06}")).collect();
    let stream = format!("get {}\r\n", keys.join(" "));
    let mut expected: Vec<Seen> = keys.iter().map(|key| get(key)).collect();
    expected.push(end());
    assert_eq!(steps(stream.as_bytes(), &[]), (expected.clone(), 0));
    let cuts: Vec<usize> = (1000..stream.len()).step_by(1000).collect();
    assert_eq!(steps(stream.as_bytes(), &cuts), (expected, 0));
}

#[test]
fn any_other_long_line_closes_wherever_its_line_end_is() {
    let spaces = " ".repeat(LINE_SIZE_MAX);
    for verb in ["incr", "set", "mg", "x"] {
        check(&format!("{verb} {spaces}k 1\r\n"), &[Seen::Close(None)]);
        check(&format!("{verb} {spaces}"), &[Seen::Close(None)]);
    }
    check(&format!("get {spaces}k\r\n"), &[get("k"), end()]);
    check(&format!("{}\n", "x".repeat(LINE_SIZE_MAX)), &[Seen::Reply(ErrorReply::Error)]);
    check(&format!("{}\n", "x".repeat(LINE_SIZE_MAX + 1)), &[Seen::Close(None)]);
}

#[test]
fn a_hundred_spaces_are_forgiven_before_a_long_line_of_keys() {
    let keys = "k ".repeat(LINE_SIZE_MAX);
    check_refused(&format!("{}get {keys}\r\n", " ".repeat(LEADING_SPACES_MAX)), ErrorReply::Error);
    check(&format!("{}get {keys}\r\n", " ".repeat(LEADING_SPACES_MAX + 1)), &[Seen::Close(None)]);
}

#[test]
fn an_endless_line_of_keys_is_scanned_once_and_then_closes() {
    let mut input = b"get ".to_vec();
    let mut parser = Parser::default();
    loop {
        input.resize(input.len() + 4096, b'k');
        match parser.next(&input, &LIMITS) {
            Step::Incomplete { total_bytes } => {
                assert_eq!(total_bytes, input.len() + 1);
                assert!(matches!(parser.mode, Mode::Line { scanned } if scanned == input.len()));
            }
            step => {
                assert_eq!(step, Step::Close { error: Some(ErrorReply::LineTooLong.into()) });
                break;
            }
        }
    }
    assert!(input.len() <= KEYS_LINE_SIZE_MAX + 4096);
    input.push(b'\n');
    let whole = Parser::default().next(&input, &LIMITS);
    assert_eq!(whole, Step::Close { error: Some(ErrorReply::LineTooLong.into()) });
}

#[test]
#[should_panic(expected = "no step consumed")]
fn dropping_bytes_that_no_step_consumed_is_the_callers_mistake() {
    let mut parser = Parser::default();
    parser.next(b"get k", &LIMITS);
    parser.next(b"\r\n", &LIMITS);
}

#[test]
fn statistics_are_found_by_the_beginning_of_their_name() {
    let cases = [
        ("r", StatsTopic::Reset),
        ("reset", StatsTopic::Reset),
        ("s", StatsTopic::Settings),
        ("settings", StatsTopic::Settings),
        ("co", StatsTopic::Conns),
        ("items", StatsTopic::Items),
        ("slabs", StatsTopic::Slabs),
        ("sizes", StatsTopic::Sizes),
        ("detail on", StatsTopic::Detail(StatsDetail::On)),
        ("d off", StatsTopic::Detail(StatsDetail::Off)),
        ("detail dump", StatsTopic::Detail(StatsDetail::Dump)),
        ("cachedump 63 7", StatsTopic::Cachedump { class: 63, limit: 7 }),
    ];
    for (topic, expected) in cases {
        check(&format!("stats {topic}\r\n"), &[Seen::request(Command::Stats(expected), "")]);
    }
    for (topic, error) in [
        ("detail", ErrorReply::StatsDetailUsage),
        ("detail what", ErrorReply::StatsDetailUsage),
        ("cachedump", ErrorReply::BadCommandLine),
        ("cachedump 1", ErrorReply::BadCommandLine),
        ("cachedump 128 1", ErrorReply::IllegalSlabId),
        ("cachedump x 1", ErrorReply::BadCommandLineFormat),
    ] {
        check_refused(&format!("stats {topic}\r\n"), error);
    }
}

#[test]
fn every_refusal_reads_as_memcacheds() {
    let long_opaque = format!("mg k O{}", "x".repeat(32));
    let scripts = [
        ("what", "ERROR"),
        ("set k 0 0", "CLIENT_ERROR bad command line format"),
        ("stats cachedump", "CLIENT_ERROR bad command line"),
        ("set k 0 0 1\r\nxyz", "CLIENT_ERROR bad data chunk"),
        ("touch k x", "CLIENT_ERROR invalid exptime argument"),
        ("incr k x", "CLIENT_ERROR invalid numeric delta argument"),
        ("stats cachedump 128 0", "CLIENT_ERROR Illegal slab id"),
        ("stats detail", "CLIENT_ERROR usage: stats detail on|off|dump"),
        ("mg k a", "CLIENT_ERROR invalid flag"),
        ("mg k v v", "CLIENT_ERROR duplicate flag"),
        ("ma k v v", "CLIENT_ERROR invalid or duplicate flag"),
        ("mg k b c f h k l q s t u v x I L P O T1 N1 R1", "CLIENT_ERROR options flags are too long"),
        ("mg k Tx", "CLIENT_ERROR bad token in command line format"),
        ("mg k b", "CLIENT_ERROR error decoding key"),
        (&long_opaque, "CLIENT_ERROR opaque token too long"),
        ("ms k 0 MX", "CLIENT_ERROR invalid mode for ms M token"),
        ("ma k MX", "CLIENT_ERROR invalid mode for ma M token"),
        ("mg k Dx", "CLIENT_ERROR invalid numeric delta value"),
        ("mg k Jx", "CLIENT_ERROR invalid numeric initial value"),
    ];
    for (line, text) in scripts {
        let (seen, _) = steps(format!("{line}\r\n").as_bytes(), &[]);
        let [Seen::Reply(error), ..] = seen[..] else { panic!("{line:?}: {seen:?}") };
        assert_eq!(error.text(), format!("{text}\r\n").as_bytes(), "{line:?}");
    }
}

#[test]
fn bad_meta_flags_are_told_apart_but_for_arithmetic() {
    let opaque = format!("O{}", "x".repeat(32));
    let many = "b c f h k l q s t u v x I L P O T1 N1 R1".to_string();
    let cases = [
        ("!", ErrorReply::BadCommandLineFormat),
        ("a", ErrorReply::InvalidFlag),
        ("v v", ErrorReply::DuplicateFlag),
        ("Tx", ErrorReply::BadToken),
        ("b", ErrorReply::BadKeyEncoding),
        (&opaque, ErrorReply::OpaqueTooLong),
        (&many, ErrorReply::TooManyFlags),
    ];
    for (flags, error) in cases {
        check_refused(&format!("mg k {flags}\r\n"), error);
        check_refused(&format!("md k {flags}\r\n"), error);
        check_refused(&format!("ma k {flags}\r\n"), ErrorReply::InvalidOrDuplicateFlag);
        check(&format!("ms k 3 {flags}\r\nget\r\nmn\r\n"), &[Seen::Reply(error), Seen::Swallowed(5), noop()]);
    }
    check("ms k 3 Mx\r\nget\r\n", &[Seen::Reply(ErrorReply::InvalidStoreMode), Seen::Swallowed(5)]);
    check_refused("ma k Mx\r\n", ErrorReply::InvalidArithmeticMode);
    check_refused("me k b\r\n", ErrorReply::BadCommandLineFormat);
}

#[test]
fn a_key_is_decoded_only_when_its_flag_says_so() {
    for (line, key) in
        [("mg Zm9v b\r\n", "foo"), ("mg Zm9v\r\n", "Zm9v"), ("me Zm9v b\r\n", "foo"), ("get b\r\n", "b")]
    {
        let Step::Request { request, .. } = Parser::default().next(line.as_bytes(), &LIMITS) else {
            panic!("{line}")
        };
        assert_eq!(request.decoded_key(&mut [0; KEY_SIZE_MAX]), key.as_bytes(), "{line}");
    }
}

/// A request and what it must come to: the obvious twin of a parser is a printer.
fn any_request() -> impl Strategy<Value = (Vec<u8>, Vec<Seen>)> {
    prop_oneof![
        any_store().boxed(),
        any_keys().boxed(),
        (0..samples().len()).prop_map(|at| (samples()[at].0.into(), samples().swap_remove(at).1)).boxed(),
    ]
}

fn any_store() -> impl Strategy<Value = (Vec<u8>, Vec<Seen>)> {
    let numbers = (any::<u32>(), any::<i64>(), any::<Option<u64>>(), any::<bool>());
    ("[!-~]{1,250}", proptest::collection::vec(any::<u8>(), 0..1200), numbers).prop_map(
        |(key, value, numbers)| {
            let (client_flags, exptime, compare, noreply) = numbers;
            let verb = if compare.is_some() { "cas" } else { "set" };
            let id = compare.map_or(String::new(), |id| format!(" {id}"));
            let suffix = if noreply { " noreply" } else { "" };
            let line = format!("{verb} {key} {client_flags} {exptime} {}{id}{suffix}\r\n", value.len());
            let shown_key = key.as_bytes().escape_ascii().to_string();
            let fits = 48 + 8 + 4 * usize::from(client_flags != 0) + key.len() + 1 + value.len() + 2 <= 1024;
            let seen = if fits {
                let command = Command::Store { mode: StoreMode::Set, client_flags, exptime, compare };
                vec![Seen::request(command, &shown_key).value(&value.escape_ascii().to_string())]
            } else {
                vec![
                    Seen::request(Command::StoreTooLarge { removes: true }, &shown_key),
                    Seen::Swallowed(value.len() + 2),
                ]
            };
            let seen = if noreply { seen.into_iter().map(hide).collect() } else { seen };
            ([line.as_bytes(), &value, b"\r\n"].concat(), seen)
        },
    )
}

fn hide(seen: Seen) -> Seen {
    if matches!(seen, Seen::Request { .. }) { seen.noreply() } else { seen }
}

fn any_keys() -> impl Strategy<Value = (Vec<u8>, Vec<Seen>)> {
    (proptest::collection::vec("[!-~]{1,40}", 1..60), " {1,3}", any::<bool>()).prop_map(
        |(keys, space, crlf)| {
            let line = format!("get{space}{}{}", keys.join(&space), if crlf { "\r\n" } else { "\n" });
            let mut seen: Vec<Seen> =
                keys.iter().map(|key| get(&key.as_bytes().escape_ascii().to_string())).collect();
            seen.push(end());
            (line.into_bytes(), seen)
        },
    )
}

/// Adjacent swallowed bytes are one, as [`steps`] sees them.
fn merged(seen: Vec<Seen>) -> Vec<Seen> {
    let mut merged: Vec<Seen> = Vec::new();
    for seen in seen {
        match (merged.last_mut(), seen) {
            (Some(Seen::Swallowed(size)), Seen::Swallowed(more)) => *size += more,
            (_, seen) => merged.push(seen),
        }
    }
    merged
}

proptest! {
    #[test]
    fn any_cut_of_any_conversation_gives_what_was_printed(
        requests in proptest::collection::vec(any_request(), 1..20),
        cuts in proptest::collection::vec(any::<Index>(), 0..30),
    ) {
        let (bytes, seen): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let stream = bytes.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(steps(&stream, &cuts), (merged(seen.concat()), 0));
    }

    #[test]
    fn garbage_never_panics_and_cuts_do_not_change_what_it_means(
        stream in proptest::collection::vec(any::<u8>(), 0..3000),
        cuts in proptest::collection::vec(0_usize..3000, 0..10),
    ) {
        check_cuts(&stream, cuts);
    }

    #[test]
    fn near_misses_never_panic_and_cuts_do_not_change_what_they_mean(
        stream in "((get|gets|gat|gats|set|cas|append|delete|incr|touch|mg|ms|md|ma|me|mn|stats|flush_all|verbosity|quit|GET)\
                   ( {1,2}([a-z0-9]{1,4}|-?[0-9]{1,20}|noreply|Zm9v|[A-Za-z][0-9]{0,3}|HTTP/1|[^\n])){0,8}(\r?\n|\r\n..\r\n)){1,30}",
        cuts in proptest::collection::vec(0_usize..3000, 0..10),
    ) {
        check_cuts(stream.as_bytes(), cuts);
    }
}

#[track_caller]
fn check_cuts(stream: &[u8], mut cuts: Vec<usize>) {
    cuts.retain(|cut| *cut < stream.len());
    cuts.sort_unstable();
    assert_eq!(steps(stream, &cuts), steps(stream, &[]));
}

/// What is announced of a request after its first `bytes`, once the parser has found it incomplete.
fn announced_of(request: &[u8], bytes: usize, protocol: Protocol) -> Option<(String, usize, usize)> {
    let (mut parser, limits) = (Parser::new(protocol, Auth::Open), Limits::default());
    assert!(matches!(parser.next(&request[..bytes], &limits), Step::Incomplete { .. }));
    let announced = parser.announced(&request[..bytes], &limits)?;
    assert_eq!(announced.request.value, b"");
    let rest = &request[announced.head_bytes + announced.value_bytes..];
    assert_eq!(rest, announced.end, "what follows the value");
    let key = String::from_utf8(announced.request.key.to_vec()).unwrap();
    Some((key, announced.head_bytes, announced.value_bytes))
}

#[test]
fn a_store_is_announced_as_soon_as_its_value_is_all_that_is_missing() {
    for line in ["set key 1 0 5", "cas key 1 0 5 7 noreply", "append key 1 0 5", "ms key 5 T0 c"] {
        let request = format!("{line}\r\nvalue\r\n").into_bytes();
        let head = line.len() + 2;
        for bytes in 1..request.len() {
            let expected = (bytes >= head).then(|| ("key".to_string(), head, 5));
            assert_eq!(announced_of(&request, bytes, Protocol::Text), expected, "{line}, {bytes}");
        }
    }
    let mut packet = vec![0x80, 1, 0, 3, 8, 0, 0, 0, 0, 0, 0, 16];
    packet.extend_from_slice(&[0; 20]);
    packet.extend_from_slice(b"keyvalue");
    for bytes in 1..packet.len() {
        let expected = (bytes >= 35).then(|| ("key".to_string(), 35, 5));
        assert_eq!(announced_of(&packet, bytes, Protocol::Binary), expected, "{bytes}");
    }
}

#[test]
fn nothing_else_is_announced() {
    for start in ["get key", "get a b", "set key 1 0", "ms key 5", "touch key 1"] {
        assert_eq!(announced_of(format!("{start}\r\n").as_bytes(), start.len(), Protocol::Text), None);
    }
}

#[test]
fn keys_taken_together_are_those_of_the_steps_and_leave_the_end_to_the_parser() {
    let stream = b"gets a  bb ccc d \r\nget e\r\n";
    for places in 1..6 {
        let (mut one_by_one, mut together) = (Parser::default(), Parser::default());
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let Step::Request { request, consumed } = one_by_one.next(rest, &Limits::default()) else {
                panic!()
            };
            expected.push(request);
            rest = &rest[consumed..];
        }
        rest = &stream[..];
        while !rest.is_empty() {
            let mut keys = [&[][..]; 6];
            if let Some(taken) = together.take_keys(rest, &mut keys[..places]) {
                got.extend(keys[..taken.count].iter().map(|key| Request::get(key, taken.with_cas)));
                rest = &rest[taken.consumed..];
            }
            let Step::Request { request, consumed } = together.next(rest, &Limits::default()) else {
                panic!()
            };
            got.push(request);
            rest = &rest[consumed..];
        }
        assert_eq!(got, expected);
    }
}
