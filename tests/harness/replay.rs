//! Plays transcripts against a server and says where it answers differently.
//!
//! How the bytes of a request arrive must never matter, so the same transcript can be sent in one piece for each turn
//! of the conversation, byte by byte, in random pieces, or with all its requests ahead of the first answer.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::machine::tells_of_lateness;
use crate::server::Server;
use crate::transcript::{Action, Captures, Section, Step, Template, Transcript, shorten};
use crate::{Connection, ask_until_in_time};

/// What answers at once and shows that nothing was sent before it.
const FENCE_REQUEST: &[u8] = b"mn\r\n";
const FENCE_ANSWER: &[u8] = b"MN";

/// Values longer than this are cut finely only at their ends, or a megabyte would take a minute.
const FINE_CUT_SIZE_MAX: usize = 256;

/// Sections that wait longer are about time and not about how bytes arrive: they are played in whole turns only.
const SLEEP_MS_MAX: u64 = 1000;

/// A section is played again so often where a node of a cluster says that it was late.
const LATE_MAX: usize = 5;

/// Lets the server see a piece by itself before the next one follows.
const PAUSE_BETWEEN_PIECES: Duration = Duration::from_micros(30);

/// How requests are cut into writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cuts {
    /// One write for each turn of the conversation.
    Turns,
    /// One write for each byte.
    Bytes,
    /// Writes of random lengths, from this seed.
    Random(u64),
    /// One write for the whole section, where no request needs a number from an earlier answer.
    Together,
}

/// What came of playing transcripts.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Sections played.
    pub section_count: usize,
    /// Turns from asking to answering in them.
    pub exchange_count: usize,
    /// Sections left out because the server is not among their audience.
    pub skipped_count: usize,
    /// One text for each section that went wrong.
    pub failures: Vec<String>,
}

impl Report {
    /// Plays one transcript. A section that goes wrong does not stop the ones after it.
    pub fn add(&mut self, transcript: &Transcript, server: &Server, cuts: Cuts) {
        for section in &transcript.sections {
            if !section.audience.includes(server.kind()) {
                self.skipped_count += 1;
                continue;
            }
            if cuts != Cuts::Turns && section.sleep_ms() > SLEEP_MS_MAX {
                continue;
            }
            self.section_count += 1;
            self.exchange_count += section.exchange_count();
            let cuts = if section.whole { Cuts::Turns } else { cuts };
            let mut played = play(section, server, cuts);
            // A node that is late on a busy machine says so in place of the answer.
            for _ in 0..LATE_MAX {
                if played.as_ref().err().is_none_or(|failure| !tells_of_lateness(failure)) {
                    break;
                }
                played = play(section, server, cuts);
            }
            if let Err(failure) = played {
                self.failures.push(format!("{}:{failure} (section {:?})", transcript.name, section.title));
            }
        }
    }
}

/// Sections that ask for what only the node with the items can tell, its statistics and dumps; or that name the one node there is.
pub const ABOUT_THE_NODE: [&str; 6] = [
    "statistics by prefix follow the keys",
    "meta gets count by prefix, too",
    "only one kind of requests waits behind a dump: all",
    "a base64 key is dumped as one",
    "sizes are counted once that is switched on",
    "clients of a managed service find the node",
];

/// Plays all transcripts of the folder `transcripts` against a server, in each of these ways, but for the sections with titles of
/// `left_out`, which count as skipped. Panics if an answer is another.
#[track_caller]
pub fn check_all(server: &Server, left_out: &[&str], ways: &[Cuts]) -> Report {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let mut report = Report::default();
    for entry in std::fs::read_dir(folder).expect("the transcripts are beside the tests") {
        let path = entry.expect("a readable folder").path();
        let mut transcript = Transcript::read(&path).expect("a well-formed transcript");
        let sections = transcript.sections.len();
        transcript.sections.retain(|section| !left_out.contains(&section.title.as_str()));
        report.skipped_count += sections - transcript.sections.len();
        // Fences stay when a server is emptied, so what is about them can be played once.
        let times = if transcript.name == "own.txt" { 1 } else { ways.len() };
        ways[..times].iter().for_each(|&cuts| report.add(&transcript, server, cuts));
    }
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
    report
}

fn play(section: &Section, server: &Server, cuts: Cuts) -> Result<(), String> {
    let mut cleaner = server.connect();
    assert_eq!(ask_until_in_time(|| cleaner.command("flush_all")), "OK");
    let mut player = Player { connection: server.connect(), captures: Captures::new() };
    let steps = with_closing_fence(section);
    for turn in turns(&steps, cuts == Cuts::Together) {
        player.play_turn(turn, cuts)?;
    }
    Ok(())
}

/// The steps of a section, and a last one that makes sure nothing is left unread.
fn with_closing_fence(section: &Section) -> Vec<Step> {
    let mut steps = section.steps.clone();
    let last = steps.last().expect("a section has steps");
    if !matches!(last.action, Action::Closed | Action::Quiet) {
        steps.push(Step { line: last.line, action: Action::Quiet });
    }
    steps
}

/// Cuts steps into turns: what can be sent before anything is expected, and everything expected then.
fn turns(steps: &[Step], together: bool) -> Vec<&[Step]> {
    let starts_turn = |index: &usize| {
        let (before, here) = (&steps[*index - 1].action, &steps[*index].action);
        let alternates = !matches!(before, Action::Send(_)) && matches!(here, Action::Send(_));
        let waits = matches!(before, Action::Sleep(_)) || matches!(here, Action::Sleep(_));
        let needs_an_answer = matches!(here, Action::Send(template) if template.has_holes());
        waits || needs_an_answer || (alternates && !together)
    };
    let starts: Vec<usize> =
        [0].into_iter().chain((1..steps.len()).filter(starts_turn)).chain([steps.len()]).collect();
    starts.windows(2).map(|ends| &steps[ends[0]..ends[1]]).collect()
}

struct Player {
    connection: Connection,
    captures: Captures,
}

impl Player {
    fn play_turn(&mut self, turn: &[Step], cuts: Cuts) -> Result<(), String> {
        let request = self.request_of(turn)?;
        let is_closed = turn.iter().any(|step| matches!(step.action, Action::Closed));
        let stream = self.connection.stream().try_clone().expect("a socket can be shared with a thread");
        // Another thread sends, so that answers are read while a long request is still on its way.
        thread::scope(|scope| {
            let sender = scope.spawn(|| send_in_pieces(&stream, &request, cuts));
            let result = turn.iter().try_for_each(|step| self.expect(step));
            let sent = sender.join().expect("the sender does not panic");
            match (result, sent) {
                (Ok(()), Err(error)) if !is_closed => Err(format!("{}: cannot send: {error}", turn[0].line)),
                (result, _) => result,
            }
        })
    }

    fn request_of(&self, turn: &[Step]) -> Result<Vec<u8>, String> {
        let mut request = Vec::new();
        for step in turn {
            match &step.action {
                Action::Send(template) => {
                    let bytes = template.fill(&self.captures);
                    request.extend(bytes.map_err(|error| format!("{}: {error}", step.line))?);
                }
                Action::Quiet => request.extend_from_slice(FENCE_REQUEST),
                Action::Sleep(milliseconds) => thread::sleep(Duration::from_millis(*milliseconds)),
                Action::Line(_) | Action::Bytes(_) | Action::Closed => {}
            }
        }
        Ok(request)
    }

    fn expect(&mut self, step: &Step) -> Result<(), String> {
        let failure = match &step.action {
            Action::Send(_) | Action::Sleep(_) => None,
            Action::Line(template) => self.expect_line(template),
            Action::Bytes(bytes) => self.expect_bytes(bytes),
            Action::Quiet => self.expect_fence(),
            Action::Closed => self.expect_end(),
        };
        failure.map_or(Ok(()), |failure| Err(format!("{}: {failure}", step.line)))
    }

    fn expect_line(&mut self, template: &Template) -> Option<String> {
        let line = self.connection.read_line();
        let is_expected = line.as_ref().is_ok_and(|line| template.matches(line, &mut self.captures));
        (!is_expected).then(|| format!("expected {:?}, got {}", template.describe(), describe(&line)))
    }

    fn expect_bytes(&mut self, bytes: &[u8]) -> Option<String> {
        let received = self.connection.read_exact(bytes.len());
        let is_expected = received.as_ref().is_ok_and(|received| received == bytes);
        (!is_expected).then(|| format!("expected \"{}\", got {}", shorten(bytes), describe(&received)))
    }

    fn expect_fence(&mut self) -> Option<String> {
        let line = self.connection.read_line();
        let is_expected = line.as_ref().is_ok_and(|line| line == FENCE_ANSWER);
        (!is_expected).then(|| format!("expected nothing more, got {}", describe(&line)))
    }

    fn expect_end(&mut self) -> Option<String> {
        let rest = self.connection.read_to_close();
        let is_expected = rest.as_ref().is_ok_and(Vec::is_empty);
        (!is_expected).then(|| format!("expected the end of the connection, got {}", describe(&rest)))
    }
}

fn describe(received: &io::Result<Vec<u8>>) -> String {
    match received {
        Ok(bytes) => format!("\"{}\"", shorten(bytes)),
        Err(error) => error.to_string(),
    }
}

fn send_in_pieces(mut stream: &TcpStream, request: &[u8], cuts: Cuts) -> io::Result<()> {
    let mut rest = request;
    let mut random = SmallRng::seed_from_u64(if let Cuts::Random(seed) = cuts { seed } else { 0 });
    while !rest.is_empty() {
        let sent = request.len() - rest.len();
        let (piece, after) = rest.split_at(piece_size(cuts, sent, rest.len(), &mut random));
        stream.write_all(piece)?;
        rest = after;
        if !rest.is_empty() {
            thread::sleep(PAUSE_BETWEEN_PIECES);
        }
    }
    Ok(())
}

/// Bytes of the next write: at least one, at most `left`.
fn piece_size(cuts: Cuts, sent: usize, left: usize, random: &mut SmallRng) -> usize {
    let is_middle_of_something_long = sent > FINE_CUT_SIZE_MAX && left > 2 * FINE_CUT_SIZE_MAX;
    match cuts {
        Cuts::Turns | Cuts::Together => left,
        Cuts::Bytes if is_middle_of_something_long => left - FINE_CUT_SIZE_MAX,
        Cuts::Random(_) if is_middle_of_something_long => random.random_range(1..=left - FINE_CUT_SIZE_MAX),
        Cuts::Bytes => 1,
        Cuts::Random(_) => {
            // Drawn twice, so that short pieces are likelier than long ones.
            let size_max = random.random_range(1..=left);
            random.random_range(1..=size_max)
        }
    }
}
