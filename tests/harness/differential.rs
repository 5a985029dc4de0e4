//! The same random streams sent to two servers side by side, and the shortest stream that they answer differently.
//!
//! [`text`] and [`binary`] make streams up, [`answers`] reads what comes back and hides what may differ, [`shrink`] leaves
//! out of a stream what the difference does not need. A seed makes the same stream again.

pub mod answers;
pub mod binary;
pub mod shrink;
pub mod stream;
pub mod text;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::{Connection, Server};
use answers::{Answer, Dialect, Mark};
use stream::{Allowance, Batch, Request, Versions, is_same_text};

/// Connections to each server that one stream uses.
pub const CONNECTION_COUNT: usize = 3;

/// Time for the answers to a batch: long, because the machine may be compiling too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Seconds that two servers may disagree about a remaining or elapsed time: their clocks tick at different moments.
const TIME_TOLERANCE_S: i64 = 2;

/// Spaces that can be behind a counter: all digits of the largest one but one.
const PADDING_MAX: u64 = 19;

/// Lets the server see a piece by itself before the next one follows.
const PAUSE_BETWEEN_PIECES: Duration = Duration::from_micros(20);

/// The two servers that are compared.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Whose answers are right.
    pub reference: &'a Server,
    /// Whose answers are looked at.
    pub subject: &'a Server,
}

/// Where two servers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which batch of the stream it is in, from 0.
    pub batch: usize,
    /// What the reference said there.
    pub expected: String,
    /// What the subject said instead.
    pub got: String,
}

impl Difference {
    /// Whether one server has closed where the other has an answer yet.
    pub fn is_of_an_end(&self) -> bool {
        let closed = Answer::of_error(&io::ErrorKind::UnexpectedEof.into()).describe();
        [&self.expected, &self.got].contains(&&closed)
    }
}

/// Plays a stream against both servers, which are emptied first, up to the first difference.
///
/// Panics when a server cannot be reached.
pub fn play(batches: &[Batch], pair: Pair<'_>, dialect: Dialect) -> Option<Difference> {
    let mut sides = [Side::new(pair.reference, dialect), Side::new(pair.subject, dialect)];
    let mut versions = Versions::default();
    let mut held: Option<(usize, &Batch)> = None;
    for (index, batch) in batches.iter().enumerate() {
        // A held batch stays half sent while the next one, on another connection, is played.
        if held.is_some_and(|(_, held)| held.connection == batch.connection) {
            let (index, batch) = held.take().expect("just seen");
            if let Some(difference) = finish(&mut sides, index, batch, &mut versions) {
                return Some(difference);
            }
        }
        for (server, side) in sides.iter_mut().enumerate() {
            side.begin(batch, &versions.of_server(server));
        }
        if batch.is_held && held.is_none() {
            held = Some((index, batch));
            continue;
        }
        let finished = finish(&mut sides, index, batch, &mut versions);
        let late = held.take().and_then(|(index, batch)| finish(&mut sides, index, batch, &mut versions));
        if let Some(difference) = finished.or(late) {
            return Some(difference);
        }
    }
    held.and_then(|(index, batch)| finish(&mut sides, index, batch, &mut versions))
}

/// Sends the rest of a batch and compares the answers to all of it.
fn finish(
    sides: &mut [Side<'_>; 2],
    index: usize,
    batch: &Batch,
    versions: &mut Versions,
) -> Option<Difference> {
    let sent: Vec<_> = sides.iter_mut().map(|side| side.send_rest(batch)).collect();
    let answers: Vec<_> = sides.iter_mut().zip(sent).map(|(side, sent)| side.receive(batch, &sent)).collect();
    let [expected, got] = answers.try_into().expect("two sides");
    compare(batch, &expected, &got, versions).map(|(expected, got)| Difference {
        batch: index,
        expected,
        got,
    })
}

/// One server's connections and what was not sent to it yet.
struct Side<'a> {
    server: &'a Server,
    dialect: Dialect,
    connections: Vec<Connection>,
    /// By connection: bytes of its batch that are to be sent.
    unsent: BTreeMap<usize, Vec<u8>>,
}

/// What a server answered to the requests between two fences, and whether it closed the connection then.
type Segments = Vec<Vec<Answer>>;

impl<'a> Side<'a> {
    fn new(server: &'a Server, dialect: Dialect) -> Self {
        assert_eq!(server.connect().command("flush_all"), "OK");
        let connections = (0..CONNECTION_COUNT).map(|_| connect(server)).collect();
        Self { server, dialect, connections, unsent: BTreeMap::new() }
    }

    /// Sends what is to be sent before another connection has its turn.
    fn begin(&mut self, batch: &Batch, versions: &[u64]) {
        let mut bytes = Vec::new();
        for (number, request) in batch.requests.iter().enumerate() {
            request.append_to(&mut bytes, versions);
            if batch.is_fenced_behind(number) {
                self.dialect.append_fence(&mut bytes, number);
            }
        }
        if batch.is_held {
            let size = batch.requests.first().map_or(0, Request::size_min) / 2;
            let rest = bytes.split_off(size);
            // A server that has closed says so when the answers are read.
            self.connections[batch.connection].send(&bytes).unwrap_or_default();
            bytes = rest;
        }
        self.unsent.insert(batch.connection, bytes);
    }

    fn send_rest(&mut self, batch: &Batch) -> io::Result<()> {
        let bytes = self.unsent.remove(&batch.connection).expect("every batch was begun");
        let connection = &mut self.connections[batch.connection];
        let Some(seed) = batch.cuts_seed else { return connection.send(bytes) };
        let mut random = SmallRng::seed_from_u64(seed);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let size_max = random.random_range(1..=rest.len());
            let (piece, after) = rest.split_at(random.random_range(1..=size_max));
            connection.send(piece)?;
            std::thread::sleep(PAUSE_BETWEEN_PIECES);
            rest = after;
        }
        Ok(())
    }

    /// The answers up to the last fence, or up to the end of the connection, which is then replaced.
    fn receive(&mut self, batch: &Batch, sent: &io::Result<()>) -> Segments {
        let mut segments = vec![Vec::new()];
        let connection = &mut self.connections[batch.connection];
        loop {
            let answer = match sent {
                Err(error) if !crate::connection::is_end(error) => Err(io::Error::from(error.kind())),
                _ => self.dialect.read(connection),
            };
            match answer {
                Ok(answer) => match answer.fence {
                    None => segments.last_mut().expect("never empty").push(answer),
                    Some(number) if number + 1 == batch.requests.len() => return segments,
                    Some(_) => segments.push(Vec::new()),
                },
                Err(error) => {
                    segments.last_mut().expect("never empty").push(Answer::of_error(&error));
                    *connection = connect(self.server);
                    return segments;
                }
            }
        }
    }
}

fn connect(server: &Server) -> Connection {
    let connection = server.connect();
    connection.stream().set_read_timeout(Some(ANSWER_TIMEOUT)).expect("a timeout that is not zero");
    connection
}

/// The first pair of answers that differ.
fn compare(
    batch: &Batch,
    expected: &Segments,
    got: &Segments,
    versions: &mut Versions,
) -> Option<(String, String)> {
    let mut allowances = batch.allowances();
    for number in 0..expected.len().max(got.len()) {
        let allowance = allowances.next().unwrap_or(Allowance::Nothing);
        let [expected, got] = [expected, got]
            .map(|segments| allowance.normalize(segments.get(number).map(Vec::as_slice).unwrap_or_default()));
        for index in 0..expected.len().max(got.len()) {
            let (expected, got) = (expected.get(index), got.get(index));
            if !is_alike(expected, got, versions) {
                let describe =
                    |answer: Option<&Answer>| answer.map_or("nothing".to_owned(), Answer::describe);
                return Some((describe(expected), describe(got)));
            }
        }
    }
    None
}

fn is_alike(expected: Option<&Answer>, got: Option<&Answer>, versions: &mut Versions) -> bool {
    let (Some(expected), Some(got)) = (expected, got) else { return false };
    let are_marks_alike = expected.marks.iter().zip(&got.marks).all(|marks| match marks {
        (Mark::Version(expected), Mark::Version(got)) => versions.learn(*expected, *got),
        (Mark::Seconds(expected), Mark::Seconds(got)) => {
            expected.abs_diff(*got) <= TIME_TOLERANCE_S.unsigned_abs()
        }
        (Mark::Size(expected), Mark::Size(got)) => expected.abs_diff(*got) <= PADDING_MAX,
        _ => false,
    });
    is_same_text(&expected.text, &got.text) && expected.marks.len() == got.marks.len() && are_marks_alike
}
