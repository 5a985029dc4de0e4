//! Every transcript, against Slabring in every way it runs and against the installed memcached.

use std::path::{Path, PathBuf};

use slabring_tests::replay::{Cuts, Report};
use slabring_tests::{Server, Transcript, announce_skip};

/// Seeds of the random cuts. A failing one is named in the message.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

/// So that a lost file or a reader that stops early does not go unseen.
const EXCHANGE_COUNT_MIN: usize = 800;

fn transcripts() -> Vec<Transcript> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let entries = std::fs::read_dir(directory).expect("the transcripts are beside this file");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.iter().map(|path| Transcript::read(path).expect("a well-formed transcript")).collect()
}

/// Plays everything and fails with all differences at once.
#[track_caller]
fn check(name: &str, server: &Server, cuts: Cuts) {
    let mut report = Report::default();
    for transcript in transcripts() {
        report.add(&transcript, server, cuts);
    }
    let Report { section_count, exchange_count, skipped_count, failures } = report;
    println!(
        "{name}, {cuts:?}: {exchange_count} exchanges in {section_count} sections, {skipped_count} skipped"
    );
    if skipped_count > 0 && cuts == Cuts::Turns {
        announce_skip(format_args!("{skipped_count} sections that {:?} answers differently", server.kind()));
    }
    let stderr = server.stderr();
    assert!(failures.is_empty(), "{name}, {cuts:?}:\n{}\n{stderr}", failures.join("\n"));
}

#[track_caller]
fn check_slabring(threads: &str, io: &str, cuts: &[Cuts]) {
    for &cuts in cuts {
        // A fresh one each: fences outlive the emptying between sections.
        let Some(server) = Server::start_over(io, &["-t", threads]) else { return };
        check(&format!("slabring -t {threads} --io {io}"), &server, cuts);
    }
}

fn random_cuts() -> Vec<Cuts> {
    SEEDS.into_iter().map(Cuts::Random).collect()
}

#[test]
fn memcached_answers_as_written() {
    let Some(server) = Server::memcached(&[]) else { return };
    // The cuts too: what the reference answers differently by arrival is marked in the file, not excused for Slabring.
    for cuts in [Cuts::Turns, Cuts::Together, Cuts::Bytes, Cuts::Random(SEEDS[0])] {
        check("memcached", &server, cuts);
    }
}

#[test]
fn one_shard_over_uring_answers_as_written() {
    check_slabring("1", "uring", &[Cuts::Turns]);
}

#[test]
fn two_shards_over_uring_answer_as_written() {
    check_slabring("2", "uring", &[Cuts::Turns]);
}

#[test]
fn one_shard_over_epoll_answers_as_written() {
    check_slabring("1", "epoll", &[Cuts::Turns]);
}

#[test]
fn two_shards_over_epoll_answer_as_written() {
    check_slabring("2", "epoll", &[Cuts::Turns]);
}

#[test]
fn a_pipeline_over_uring_is_answered_like_single_requests() {
    check_slabring("2", "uring", &[Cuts::Together]);
}

#[test]
fn a_pipeline_over_epoll_is_answered_like_single_requests() {
    check_slabring("2", "epoll", &[Cuts::Together]);
}

#[test]
fn single_bytes_over_uring_are_answered_like_whole_requests() {
    check_slabring("2", "uring", &[Cuts::Bytes]);
}

#[test]
fn single_bytes_over_epoll_are_answered_like_whole_requests() {
    check_slabring("2", "epoll", &[Cuts::Bytes]);
}

#[test]
fn random_pieces_over_uring_are_answered_like_whole_requests() {
    check_slabring("2", "uring", &random_cuts());
}

#[test]
fn random_pieces_over_epoll_are_answered_like_whole_requests() {
    check_slabring("2", "epoll", &random_cuts());
}

#[test]
fn a_difference_names_its_file_and_line() {
    let server = Server::start(&["-t", "1"]).expect("slabring starts");
    let text = "# wrong\n> get k\n< MISSING\n# surplus\n> get k\n";
    let mut report = Report::default();
    report.add(&Transcript::parse("inline.txt", text).unwrap(), &server, Cuts::Turns);
    let [wrong, surplus] = report.failures.as_slice() else { panic!("{:?}", report.failures) };
    assert!(wrong.starts_with("inline.txt:3: expected \"MISSING\", got \"END\""), "{wrong}");
    assert!(surplus.starts_with("inline.txt:5: expected nothing more, got \"END\""), "{surplus}");
}

#[test]
fn there_are_enough_transcripts() {
    let count: usize = transcripts().iter().map(Transcript::exchange_count).sum();
    assert!(count >= EXCHANGE_COUNT_MIN, "{count} exchanges");
}
