use super::*;
use crate::binary::BinaryHead;
use crate::reply;
use crate::request::{StoreMode, Vivify};

const OPAQUE: u32 = 0x0102_0304;
const STORE: Command = Command::Store { mode: StoreMode::Set, client_flags: 0, exptime: 0, compare: None };

fn request(opcode: u8, command: Command) -> Request<'static> {
    let dialect = Dialect::Binary(BinaryHead { opcode, opaque: OPAQUE });
    Request { dialect, ..Request::keyed(command, b"Hello") }
}

/// A reply packet, spelled out: the obvious twin.
fn packet(opcode: u8, status: u16, cas: u64, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x81, opcode];
    bytes.extend(u16::try_from(key.len()).unwrap().to_be_bytes());
    bytes.extend([u8::try_from(extras.len()).unwrap(), 0]);
    bytes.extend(status.to_be_bytes());
    bytes.extend(u32::try_from(extras.len() + key.len() + value.len()).unwrap().to_be_bytes());
    bytes.extend(OPAQUE.to_be_bytes());
    bytes.extend(cas.to_be_bytes());
    [&bytes[..], extras, key, value].concat()
}

#[track_caller]
fn check(append: impl FnOnce(&mut Vec<u8>), expected: &[u8]) {
    let mut out = b"before".to_vec();
    append(&mut out);
    let expected = [b"before", expected].concat();
    assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[track_caller]
fn check_outcome(opcode: u8, command: Command, ended: Outcome, status: u16, cas: u64, value: &[u8]) {
    let expected = packet(opcode, status, cas, b"", b"", value);
    check(|out| outcome(out, &request(opcode, command), ended), &expected);
}

#[test]
fn the_documented_replies_are_written_as_documented() {
    // Source: memcached wiki, "BinaryProtocolRevamped", examples of get, getk and a miss; the opaque is ours.
    let get = b"\x81\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x09\x01\x02\x03\x04\
                \x00\x00\x00\x00\x00\x00\x00\x01\xde\xad\xbe\xefWorld";
    let getk = b"\x81\x0c\x00\x05\x04\x00\x00\x00\x00\x00\x00\x0e\x01\x02\x03\x04\
                 \x00\x00\x00\x00\x00\x00\x00\x01\xde\xad\xbe\xefHelloWorld";
    let missed = b"\x81\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x09\x01\x02\x03\x04\
                   \x00\x00\x00\x00\x00\x00\x00\x00Not found";
    let hit = Hit { client_flags: 0xdead_beef, value_len: 5, cas: 1 };
    for (opcode, expected) in [(0x00, &get[..]), (0x0c, getk)] {
        let request = request(opcode, Command::Get { with_cas: true });
        check(
            |out| {
                hit_header(out, &request, &hit);
                out.extend_from_slice(b"World");
                hit_end(out, &request);
            },
            expected,
        );
    }
    check(|out| miss(out, &request(0x00, Command::Get { with_cas: true })), missed);
}

#[test]
fn quiet_gets_hide_only_their_misses_and_keyed_ones_repeat_the_key() {
    let command = Command::GetAndTouch { exptime: 0, with_cas: true };
    let hit = Hit { client_flags: 1, value_len: 0, cas: 2 };
    for (opcode, key) in [(0x09, &b""[..]), (0x0d, b"Hello"), (0x1e, b""), (0x24, b"Hello")] {
        check(|out| miss(out, &request(opcode, command)), b"");
        let expected = packet(opcode, 0, 2, b"\0\0\0\x01", key, b"");
        check(|out| hit_header(out, &request(opcode, command), &hit), &expected);
    }
    for opcode in [0x0c, 0x23] {
        check(|out| miss(out, &request(opcode, command)), &packet(opcode, 1, 0, b"", b"Hello", b""));
    }
    check(|out| miss(out, &request(0x1d, command)), &packet(0x1d, 1, 0, b"", b"", b"Not found"));
}

#[test]
fn successes_show_their_cas_and_quiet_ones_nothing() {
    let delete = Command::Delete { compare: None };
    let count = Command::Arithmetic {
        decrement: false,
        delta: 1,
        compare: None,
        vivify: Some(Vivify { initial: 0, exptime: 0 }),
    };
    let flush = Command::FlushAll { delay: 0 };
    check_outcome(0x01, STORE, Outcome::Stored { cas: 7 }, 0, 7, b"");
    check_outcome(0x04, delete, Outcome::Deleted, 0, 0, b"");
    check_outcome(0x05, count, Outcome::Number { value: 258, cas: 8 }, 0, 8, b"\0\0\0\0\0\0\x01\x02");
    check_outcome(0x08, flush, Outcome::Done, 0, 0, b"");
    check_outcome(0x21, Command::SaslStart, Outcome::Done, 0, 0, b"Authenticated");
    let touched = Outcome::Touched { client_flags: 9, cas: 3 };
    let expected = packet(0x1c, 0, 3, b"\0\0\0\x09", b"", b"");
    check(|out| outcome(out, &request(0x1c, Command::Touch { exptime: 0 }), touched), &expected);
    let quiet = [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x18, 0x19, 0x1a];
    for opcode in quiet {
        for ended in [Outcome::Stored { cas: 7 }, Outcome::Deleted, Outcome::Done] {
            check(|out| outcome(out, &request(opcode, STORE), ended), b"");
        }
        check_outcome(opcode, delete, Outcome::Exists, 2, 0, b"Data exists for key.");
    }
}

#[test]
fn what_was_not_stored_is_worded_by_the_operation() {
    for (opcode, status, text) in [
        (0x02, 2, "Data exists for key."),
        (0x12, 2, "Data exists for key."),
        (0x03, 1, "Not found"),
        (0x13, 1, "Not found"),
        (0x0e, 5, "Not stored."),
        (0x1a, 5, "Not stored."),
        (0x01, 5, "Not stored."),
    ] {
        check_outcome(opcode, STORE, Outcome::NotStored, status, 0, text.as_bytes());
        // A value that grew over the limit where it was stored.
        let too_large = Outcome::Refused(ErrorReply::TooLarge);
        check_outcome(opcode, STORE, too_large, status, 0, text.as_bytes());
        let announced = Command::StoreTooLarge { removes: false };
        check_outcome(opcode, announced, too_large, 3, 0, b"Too large.");
    }
    check_outcome(0x01, STORE, Outcome::NotFound, 1, 0, b"Not found");
    check_outcome(0x0e, STORE, Outcome::NotFound, 5, 0, b"Not stored.");
}

#[test]
fn refusals_have_memcacheds_status_and_text_and_no_request_hides_them() {
    for (error, status, text) in [
        (ErrorReply::Error, 0x81, "Unknown command"),
        (ErrorReply::BadCommandLineFormat, 0x04, "Invalid arguments"),
        (ErrorReply::NonNumericValue, 0x06, "Non-numeric server-side value for incr or decr"),
        (ErrorReply::UnknownStats, 0x01, "Not found"),
        (ErrorReply::Unauthenticated, 0x20, "Auth failure."),
        (ErrorReply::AuthenticationFailure, 0x20, "Auth failure."),
        (ErrorReply::FlushNotAllowed, 0x20, "Auth failure."),
        (ErrorReply::OutOfMemoryStoring, 0x82, "Out of memory allocating item"),
        (ErrorReply::OutOfMemory, 0x82, "Out of memory incrementing value"),
        (ErrorReply::OutOfMemoryReading, 0x82, "Out of memory"),
    ] {
        check_outcome(0x11, STORE, Outcome::Refused(error), status, 0, text.as_bytes());
        let expected = packet(0x01, status, 0, b"", b"", text.as_bytes());
        check(|out| reply::error(out, DialectError::of(&request(0x01, STORE), error)), &expected);
    }
}

#[test]
fn statistics_come_one_to_a_packet_and_an_empty_one_ends_them() {
    let text = b"STAT pid 7\r\nSTAT items:1:number 4\r\nSTAT version 1.6 b\r\nEND\r\n";
    let general = request(0x10, Command::Stats(StatsTopic::General));
    let expected = [
        packet(0x10, 0, 0, b"", b"pid", b"7"),
        packet(0x10, 0, 0, b"", b"items:1:number", b"4"),
        packet(0x10, 0, 0, b"", b"version", b"1.6 b"),
        packet(0x10, 0, 0, b"", b"", b""),
    ];
    check(|out| stats(out, &general, text), &expected.concat());
    let reset = request(0x10, Command::Stats(StatsTopic::Reset));
    check(|out| stats(out, &reset, b"RESET\r\n"), &expected[3]);
    let dump = request(0x10, Command::Stats(StatsTopic::Detail(StatsDetail::Dump)));
    let detailed = packet(0x10, 0, 0, b"", b"detailed", b"PREFIX a get 1\r\nEND\r\n");
    let expected = [&detailed[..], &expected[3]].concat();
    check(|out| stats(out, &dump, b"PREFIX a get 1\r\nEND\r\n"), &expected);
    let text_request = Request::bare(Command::Stats(StatsTopic::General));
    check(|out| stats(out, &text_request, text), text);
}

#[test]
fn what_is_about_the_connection_is_answered_in_its_dialect() {
    let empty = |opcode| packet(opcode, 0, 0, b"", b"", b"");
    check(|out| noop(out, &request(0x0a, Command::MetaNoop)), &empty(0x0a));
    check(|out| noop(out, &Request::bare(Command::MetaNoop)), b"MN\r\n");
    check(|out| quit(out, &request(0x07, Command::Quit)), &empty(0x07));
    check(|out| quit(out, &request(0x17, Command::Quit)), b"");
    check(|out| quit(out, &Request::bare(Command::Quit)), b"");
    let version = packet(0x0b, 0, 0, b"", b"", b"1.6.45");
    check(|out| version_of(out, &request(0x0b, Command::Version), "1.6.45"), &version);
    check(|out| version_of(out, &Request::bare(Command::Version), "1.6.45"), b"VERSION 1.6.45\r\n");
    let mechanisms = packet(0x20, 0, 0, b"", b"", b"PLAIN");
    check(|out| sasl_mechanisms(out, &request(0x20, Command::SaslMechanisms), "PLAIN"), &mechanisms);
}

#[test]
fn lines_say_the_same_as_ever_and_noreply_hides_all_of_it() {
    for (ended, text) in [
        (Outcome::Stored { cas: 1 }, "STORED\r\n"),
        (Outcome::NotStored, "NOT_STORED\r\n"),
        (Outcome::Exists, "EXISTS\r\n"),
        (Outcome::NotFound, "NOT_FOUND\r\n"),
        (Outcome::Deleted, "DELETED\r\n"),
        (Outcome::Touched { client_flags: 1, cas: 1 }, "TOUCHED\r\n"),
        (Outcome::Number { value: 12, cas: 1 }, "12\r\n"),
        (Outcome::Done, "OK\r\n"),
        (Outcome::Refused(ErrorReply::TooLarge), "SERVER_ERROR object too large for cache\r\n"),
    ] {
        let request = Request::keyed(STORE, b"k");
        check(|out| outcome(out, &request, ended), text.as_bytes());
        check(|out| outcome(out, &Request { noreply: true, ..request }, ended), b"");
    }
    let hit = Hit { client_flags: 5, value_len: 1, cas: 9 };
    for (command, header) in [
        (Command::Get { with_cas: false }, "VALUE k 5 1\r\n"),
        (Command::Get { with_cas: true }, "VALUE k 5 1 9\r\n"),
        (Command::GetAndTouch { exptime: 0, with_cas: true }, "VALUE k 5 1 9\r\n"),
    ] {
        let request = Request::keyed(command, b"k");
        check(|out| hit_header(out, &request, &hit), header.as_bytes());
        check(|out| hit_end(out, &request), b"\r\n");
        check(|out| miss(out, &request), b"");
    }
}
