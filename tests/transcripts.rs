//! Every transcript, against Slabring in every way it runs and against the installed memcached.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use slabring_tests::replay::{Cuts, Report};
use slabring_tests::transcript::Section;
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

/// A second may pass between any two lines, and then clocks of whole seconds tick: once in a thousand runs, and here before every line.
/// Servers stand beside each other, because all that is done is waiting.
#[track_caller]
fn check_with_pauses(start: impl Fn() -> Option<Server> + Sync) {
    const SERVERS: usize = 16;
    const PAUSE_MS: u64 = 1_000;
    let paused = |section: &Section| {
        let with_sleep = |at| section.with_sleep(at, PAUSE_MS);
        section.requests().into_iter().map(with_sleep).collect::<Vec<_>>()
    };
    let places = |transcript: Transcript| {
        let one = |section| Transcript { name: transcript.name.clone(), sections: vec![section] };
        transcript.sections.iter().flat_map(paused).map(one).collect::<Vec<_>>()
    };
    let all: Vec<_> = transcripts().into_iter().flat_map(places).collect();
    let next = AtomicUsize::new(0);
    let play = || {
        let mut report = Report::default();
        let mut server = start();
        while let Some(transcript) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Fences outlive the emptying between sections.
            if transcript.name == "own.txt" {
                server = start();
            }
            let Some(server) = &server else { return report };
            report.add(transcript, server, Cuts::Turns);
        }
        report
    };
    let reports: Vec<Report> = thread::scope(|scope| {
        let players: Vec<_> = (0..SERVERS).map(|_| scope.spawn(play)).collect();
        players.into_iter().map(|player| player.join().expect("a difference is no panic")).collect()
    });
    println!(
        "{} places, {} played",
        all.len(),
        reports.iter().map(|report| report.section_count).sum::<usize>()
    );
    let failures: Vec<_> = reports.into_iter().flat_map(|report| report.failures).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
#[ignore = "minutes: a second at each of thousands of places"]
fn a_second_may_pass_between_any_two_lines() {
    check_with_pauses(|| Some(Server::start(&["-t", "2"]).expect("slabring starts")));
}

#[test]
#[ignore = "minutes: a second at each of thousands of places"]
fn a_second_may_pass_between_any_two_lines_of_memcached() {
    check_with_pauses(|| Server::memcached(&[]));
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
