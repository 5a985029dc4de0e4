//! Random streams that Slabring and the installed memcached must answer alike, byte for byte.
//!
//! `SLABRING_TEST_REQUESTS` says how many requests each test sends, `SLABRING_TEST_SEED` which ones.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use slabring_tests::Server;
use slabring_tests::differential::answers::Dialect;
use slabring_tests::differential::shrink::{describe, shrink};
use slabring_tests::differential::stream::Batch;
use slabring_tests::differential::{Difference, Pair, binary, play, text};
use slabring_tests::server::{Kind, Version};

/// Requests of each dialect, over all tests of it.
const REQUEST_COUNT: usize = 100_000;

/// Requests of one stream. A stream starts with empty servers and is played again from its own seed.
const STREAM_REQUEST_COUNT: usize = 500;

/// Differences that are looked for before a test ends.
const DIFFERENCE_COUNT_MAX: usize = 8;

/// A stream is played so often where answers may have been lost.
const PLAYS_MAX: usize = 4;

/// Enough that nothing is evicted.
const MEMORY: [&str; 2] = ["-m", "256"];

/// Makes a stream of a seed, with about so many requests, for that version of the reference.
type Stream = fn(u64, usize, Version) -> Vec<Batch>;

fn binary_stream(seed: u64, request_count: usize, _reference: Version) -> Vec<Batch> {
    binary::stream(seed, request_count)
}

#[test]
fn one_shard_answers_text_like_memcached() {
    check(Dialect::Text, "1", text::stream);
}

#[test]
fn two_shards_answer_text_like_memcached() {
    check(Dialect::Text, "2", text::stream);
}

#[test]
fn one_shard_answers_binary_like_memcached() {
    check(Dialect::Binary, "1", binary_stream);
}

#[test]
fn two_shards_answer_binary_like_memcached() {
    check(Dialect::Binary, "2", binary_stream);
}

#[test]
fn memcached_answers_text_like_memcached() {
    check_reference(Dialect::Text, text::stream);
}

#[test]
fn memcached_answers_binary_like_memcached() {
    check_reference(Dialect::Binary, binary_stream);
}

#[test]
fn requests_behind_quit_do_no_harm() {
    let mut server = Server::start(&["-t", "1"]).expect("slabring starts");
    // More keys than are parsed ahead, and packets that come before the connection is closed.
    let request = format!("quit\r\nget{}\r\n", " key".repeat(100));
    for _ in 0..200 {
        let mut connection = server.connect();
        connection.send(&request).expect("a new connection takes bytes");
        for _ in 0..3 {
            // It may be closed by now.
            connection.send("get key\r\n").unwrap_or_default();
        }
    }
    server.connect().set("key", "value");
    assert!(server.is_running(), "{}", server.stderr());
}

#[track_caller]
fn check(dialect: Dialect, threads: &str, stream: Stream) {
    let Some(reference) = Server::memcached(&MEMORY) else { return };
    let subject = Server::start(&[&["-t", threads], MEMORY.as_slice()].concat()).expect("slabring starts");
    check_pair(Pair { reference: &reference, subject: &subject }, dialect, REQUEST_COUNT / 2, stream);
}

/// Shows that a stream is answered alike by two servers that are alike: what differs then is chance.
#[track_caller]
fn check_reference(dialect: Dialect, stream: Stream) {
    let Some(reference) = Server::memcached(&MEMORY) else { return };
    let subject = Server::memcached(&[&["-t", "1"], MEMORY.as_slice()].concat()).expect("it started once");
    check_pair(Pair { reference: &reference, subject: &subject }, dialect, REQUEST_COUNT / 10, stream);
}

#[track_caller]
fn check_pair(pair: Pair<'_>, dialect: Dialect, count: usize, stream: Stream) {
    let first_seed = setting("SLABRING_TEST_SEED").unwrap_or(1);
    let count = setting("SLABRING_TEST_REQUESTS").unwrap_or(u64::try_from(count).expect("a small number"));
    let Kind::Memcached(version) = pair.reference.kind() else { panic!("the reference is a memcached") };
    let mut seen = BTreeSet::new();
    let mut report = String::new();
    let mut played = 0;
    for seed in first_seed.. {
        if played >= count || seen.len() >= DIFFERENCE_COUNT_MAX {
            break;
        }
        let batches = stream(seed, STREAM_REQUEST_COUNT, version);
        played +=
            batches.iter().map(|batch| u64::try_from(batch.requests.len()).expect("short")).sum::<u64>();
        let Some(difference) = play_on(&batches, pair, dialect) else { continue };
        let (batches, difference) = shrink(batches, difference, pair, dialect);
        if seen.insert(describe(&batches)) {
            write!(
                report,
                "SLABRING_TEST_SEED={seed} SLABRING_TEST_REQUESTS=1, batch {}:\n{}  expected {}\n  got      {}\n",
                difference.batch,
                describe(&batches),
                difference.expected,
                difference.got
            )
            .expect("a string takes everything");
        }
    }
    println!("{played} requests from seed {first_seed}, {version:?}");
    assert!(report.is_empty(), "{played} requests, {} differences:\n{report}", seen.len());
}

/// Plays a stream; again, where one server seems to have closed before an answer: the last answers of one that closes while more comes are
/// lost where the reset that follows is faster than they.
fn play_on(batches: &[Batch], pair: Pair<'_>, dialect: Dialect) -> Option<Difference> {
    let mut difference = play(batches, pair, dialect)?;
    for _ in 1..PLAYS_MAX {
        if difference.is_of_an_end() {
            difference = play(batches, pair, dialect)?;
        }
    }
    Some(difference)
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not {value:?}")))
}
