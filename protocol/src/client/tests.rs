use super::*;
use crate::{Command, Limits, MetaFlags, Parser, Step, StoreMode, reply};
use proptest::prelude::*;

/// Every reply of a stream given in pieces that end at `cuts`.
#[track_caller]
fn replies(stream: &[u8], cuts: &[usize]) -> Vec<Reply> {
    let mut parser = ReplyParser::default();
    let mut replies = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([stream.len()]) {
        loop {
            match parser.next(&stream[start..end]) {
                ReplyStep::Reply { reply, consumed } => {
                    assert!(consumed > 0 || reply.hits > 0);
                    start += consumed;
                    replies.push(reply);
                }
                ReplyStep::Incomplete { consumed } => {
                    start += consumed;
                    break;
                }
                ReplyStep::Malformed => panic!("malformed at {start}"),
            }
        }
    }
    assert_eq!(start, stream.len(), "a whole stream leaves nothing");
    replies
}

fn plain(kind: ReplyKind) -> Reply {
    Reply { kind, hits: 0, value_bytes: 0 }
}

/// Some of its values look like lines that end a reply.
const STREAM: &[u8] = b"VALUE a 0 3\r\nEND\r\nVALUE b 0 0 77\r\n\r\nVALUE c 5 5\r\n\r\n\r\n\r\r\nEND\r\nEND\r\nSTORED\r\nNOT_STORED\r\n\
EXISTS\r\nNOT_FOUND\r\nDELETED\r\nTOUCHED\r\nOK\r\n18446744073709551615\r\nVA 4 s4 kfoo\r\nEND\r\r\nVA 0\r\n\r\nHD c7\r\n\
EN\r\nNF\r\nNS\r\nEX\r\nMN\r\nME k exp=-1\r\nSTAT pid 1\r\nSTAT version END\r\nEND\r\nRESET\r\nVERSION 1.6.45\r\n\
ERROR\r\nCLIENT_ERROR bad data chunk\r\nSERVER_ERROR object too large for cache\r\n";

fn expected() -> Vec<Reply> {
    use ReplyKind::*;
    let mut expected = vec![Reply { kind: Values, hits: 3, value_bytes: 8 }];
    expected.extend([Values, Stored, NotStored, Exists, NotFound, Deleted, Touched, Ok].map(plain));
    expected.push(plain(Number(u64::MAX)));
    expected.push(Reply { kind: MetaValue, hits: 1, value_bytes: 4 });
    expected.push(Reply { kind: MetaValue, hits: 1, value_bytes: 0 });
    expected.extend(
        [MetaDone, MetaMiss, MetaNotFound, MetaNotStored, MetaExists, MetaNoop, MetaDebug].map(plain),
    );
    expected.extend([Values, Reset, Version, Error, ClientError, ServerError].map(plain));
    expected
}

#[test]
fn a_stream_of_every_reply_is_told_apart() {
    assert_eq!(replies(STREAM, &[]), expected());
}

#[test]
fn every_single_cut_and_single_bytes_give_the_same_replies() {
    for cut in 0..=STREAM.len() {
        assert_eq!(replies(STREAM, &[cut]), expected(), "cut at {cut}");
    }
    let every: Vec<usize> = (1..STREAM.len()).collect();
    assert_eq!(replies(STREAM, &every), expected());
}

#[test]
fn what_no_server_says_is_malformed() {
    let endless = "A".repeat(crate::LINE_SIZE_MAX + 1);
    for stream in
        ["\r\n", "HELLO\r\n", "VALUE a 0 x\r\n", "VALUE a 0\r\n", "VA\r\n", "VALUE a 0 1\r\nxy\r\n", &endless]
    {
        assert_eq!(ReplyParser::default().next(stream.as_bytes()), ReplyStep::Malformed, "{stream:?}");
    }
}

#[test]
fn a_value_is_dropped_as_it_comes() {
    let mut parser = ReplyParser::default();
    assert_eq!(parser.next(b"VALUE k 0 1000000\r\nabc"), ReplyStep::Incomplete { consumed: 22 });
    assert_eq!(parser.next(&[0; 4096]), ReplyStep::Incomplete { consumed: 4096 });
}

/// What the server's parser makes of one request.
#[track_caller]
fn check(append: impl FnOnce(&mut Vec<u8>), key: &[u8], value: &[u8], command: Command) {
    let mut out = Vec::new();
    append(&mut out);
    match Parser::default().next(&out, &Limits::default()) {
        Step::Request { request, .. } => {
            assert_eq!((request.command, request.key, request.value), (command, key, value));
        }
        step => panic!("{step:?}"),
    }
}

#[test]
fn the_server_reads_what_the_client_writes() {
    let store = Command::Store { mode: StoreMode::Set, client_flags: 7, exptime: 60, compare: None };
    check(|out| get(out, b"k"), b"k", b"", Command::Get { with_cas: false });
    check(|out| set(out, b"k", 7, 60, b"\r\n"), b"k", b"\r\n", store);
    check(|out| delete(out, b"k"), b"k", b"", Command::Delete { compare: None });
    check(
        |out| incr(out, b"k", 3),
        b"k",
        b"",
        Command::Arithmetic { decrement: false, delta: 3, compare: None, vivify: None },
    );
    check(|out| touch(out, b"k", 9), b"k", b"", Command::Touch { exptime: 9 });
    check(|out| meta_get(out, b"k", b""), b"k", b"", Command::MetaGet(MetaFlags::default()));
    check(|out| meta_set(out, b"k", b"", b"v"), b"k", b"v", Command::MetaStore(MetaFlags::default()));
    check(|out| meta_delete(out, b"k", b""), b"k", b"", Command::MetaDelete(MetaFlags::default()));
    check(meta_noop, b"", b"", Command::MetaNoop);
    check(version, b"", b"", Command::Version);
    check(flush_all, b"", b"", Command::FlushAll { delay: 0 });
    check(stats, b"", b"", Command::Stats(crate::StatsTopic::General));
}

#[test]
#[should_panic(expected = "no space")]
fn a_key_that_would_be_two_is_the_callers_mistake() {
    get(&mut Vec::new(), b"a b");
}

proptest! {
    #[test]
    fn the_client_counts_what_the_server_sent(
        sizes in proptest::collection::vec(0_usize..300, 0..20),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..10),
    ) {
        let mut stream = Vec::new();
        for size in &sizes {
            reply::value_header(&mut stream, b"key", 1, u32::try_from(*size).unwrap(), Some(9));
            stream.extend(b"END\r\n".iter().cycle().take(*size));
            stream.extend_from_slice(reply::CRLF);
        }
        reply::end(&mut stream);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        let expected = Reply {
            kind: ReplyKind::Values,
            hits: u32::try_from(sizes.len()).unwrap(),
            value_bytes: sizes.iter().sum::<usize>() as u64,
        };
        prop_assert_eq!(replies(&stream, &cuts), vec![expected]);
    }

    #[test]
    fn no_bytes_at_all_panic_or_stall(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut parser = ReplyParser::default();
        let mut rest = &input[..];
        while let ReplyStep::Reply { consumed, .. } = parser.next(rest) {
            prop_assert!(consumed > 0);
            rest = &rest[consumed..];
        }
    }
}
