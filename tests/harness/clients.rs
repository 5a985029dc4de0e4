//! Clients that use a cluster at once and write down what they asked for and what came of it. They know no node's secrets: they see what
//! any client sees, and go to the next node when one does not answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::Connection;

/// A client that hears nothing for so long asks the next node.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2_500);
/// Before it tries again where nobody answers.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Values of one client are apart from all others' by their high bits.
const CLIENT_SHIFT: u32 = 32;
/// What a client remembers to swap by.
const KNOWN_MAX: usize = 64;

/// What is refused, not executed, by what the answer says.
const REFUSALS: [&str; 8] = [
    "SERVER_ERROR no ring yet",
    "SERVER_ERROR too much under way to the key's node",
    "SERVER_ERROR the key's node is busy",
    "SERVER_ERROR the ring is changing",
    "SERVER_ERROR the key's copies do not answer",
    "SERVER_ERROR too much waits for the key's copies",
    "SERVER_ERROR the key is being written or handed over",
    "SERVER_ERROR out of memory storing object",
];
/// What may have been executed.
const DOUBTS: [&str; 3] = [
    "SERVER_ERROR the key's node cannot be reached",
    "SERVER_ERROR the key's node did not answer in time",
    "SERVER_ERROR the key's copies did not confirm in time",
];

/// What clients do.
#[derive(Clone, Debug)]
pub struct Habits {
    /// How many clients.
    pub clients: u64,
    /// Keys that are written and never deleted: from 0.
    pub kept: u64,
    /// Keys that are written and deleted: behind those.
    pub deleted: u64,
    /// Keys that are counted up: behind those. They must be there.
    pub counted: u64,
    /// How many of a hundred operations are on the first key.
    pub hot_percent: u32,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Between two operations of one client.
    pub pause: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        let (kept, deleted, counted) = (40, 20, 10);
        let pause = Duration::from_millis(2);
        Self { clients: 6, kept, deleted, counted, hot_percent: 10, value_bytes: 24, pause }
    }
}

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Written, swapped, read.
    Kept,
    /// And deleted.
    Deleted,
    /// Counted up and read.
    Counted,
}

impl Habits {
    /// All keys.
    pub fn keys(&self) -> u64 {
        self.kept + self.deleted + self.counted
    }

    /// What a key is used for.
    pub fn usage(&self, key: u64) -> Use {
        if key < self.kept {
            Use::Kept
        } else if key < self.kept + self.deleted {
            Use::Deleted
        } else {
            Use::Counted
        }
    }
}

/// What was asked for. Values are numbers, each written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The value.
    Read,
    /// That this is the value.
    Write(u64),
    /// That this is the value, if it is still the first one.
    Swap(u64, u64),
    /// That there is none.
    Delete,
    /// One more.
    Add,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; the number that was shown and the version that was named.
    Done(Option<u64>, Option<u64>),
    /// It was not: the key was not there, or changed.
    Not,
    /// It was not, because it cannot be now.
    Refused(String),
    /// Nobody knows.
    Doubt(String),
    /// What should never be answered.
    Nonsense(String),
}

impl Outcome {
    /// Whether the cluster did what it is for.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Done(..) | Self::Not)
    }
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// On which key.
    pub key: u64,
    /// What it was.
    pub asked: Asked,
    /// When, in nanoseconds of one clock.
    pub asked_at: u64,
    /// When it was over.
    pub done_at: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// Clients at work.
#[derive(Debug)]
pub struct Crew {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Event>>>,
    clock: Instant,
}

impl Crew {
    /// Sets them to work at `nodes`, by a clock that began at `clock`.
    pub fn begin(nodes: &[SocketAddr], habits: &Habits, clock: Instant, seed: u64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let hire = |number| {
            let mut client = Client::new(nodes, habits, clock, seed, number);
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    client.act();
                    thread::sleep(client.habits.pause);
                }
                client.events
            })
        };
        let threads = (1..=habits.clients).map(hire).collect();
        Self { is_over, threads, clock }
    }

    /// Now, by their clock.
    pub fn now(&self) -> u64 {
        nanos(self.clock)
    }

    /// Lets them finish, and takes what they wrote down.
    pub fn end(self) -> Vec<Event> {
        self.is_over.store(true, Ordering::Relaxed);
        let events = self.threads.into_iter().map(|thread| thread.join().expect("clients do not panic"));
        events.flatten().collect()
    }
}

/// One of them.
#[derive(Debug)]
pub struct Client {
    nodes: Vec<SocketAddr>,
    node: usize,
    connection: Option<Connection>,
    habits: Habits,
    clock: Instant,
    dice: StdRng,
    next_value: u64,
    /// Keys with the version and the value that they had.
    known: Vec<(u64, u64, u64)>,
    /// What it did.
    pub events: Vec<Event>,
}

impl Client {
    /// Number `number`, from 1; its values and its dice are its own.
    pub fn new(nodes: &[SocketAddr], habits: &Habits, clock: Instant, seed: u64, number: u64) -> Self {
        Self {
            nodes: nodes.to_vec(),
            node: usize::try_from(number).expect("there are few clients") % nodes.len(),
            connection: None,
            habits: habits.clone(),
            clock,
            dice: StdRng::seed_from_u64(seed ^ (number << CLIENT_SHIFT)),
            next_value: number << CLIENT_SHIFT,
            known: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Does something, and writes down what came of it.
    fn act(&mut self) {
        let is_hot = self.dice.random_range(0..100) < self.habits.hot_percent;
        let key = if is_hot { 0 } else { self.dice.random_range(0..self.habits.keys()) };
        let roll = self.dice.random_range(0..100);
        let known = self.known.iter().position(|(known, ..)| *known == key);
        match (self.habits.usage(key), roll, known) {
            (_, 0..50, _) => self.perform(key, Asked::Read, None),
            (Use::Counted, ..) => self.perform(key, Asked::Add, None),
            (_, 50..65, Some(at)) => {
                let (_, version, from) = self.known.swap_remove(at);
                let to = self.new_value();
                self.perform(key, Asked::Swap(from, to), Some(version))
            }
            (Use::Deleted, 65..80, _) => self.perform(key, Asked::Delete, None),
            _ => {
                let value = self.new_value();
                self.perform(key, Asked::Write(value), None)
            }
        };
    }

    fn new_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// Writes 0 for a number to count up, or a first value.
    pub fn prepare(&mut self, key: u64) -> bool {
        let value = if self.habits.usage(key) == Use::Counted { 0 } else { self.new_value() };
        self.perform(key, Asked::Write(value), None)
    }

    /// Reads a key. Says whether that was answered.
    pub fn look(&mut self, key: u64) -> bool {
        self.perform(key, Asked::Read, None)
    }

    fn perform(&mut self, key: u64, asked: Asked, version: Option<u64>) -> bool {
        let asked_at = nanos(self.clock);
        let Some(outcome) = self.exchange(key, asked, version) else { return false };
        let done_at = nanos(self.clock);
        if let (Outcome::Done(Some(value), Some(version)), Asked::Read) = (&outcome, asked) {
            self.known.retain(|(known, ..)| *known != key);
            self.known.truncate(KNOWN_MAX);
            self.known.push((key, *version, *value));
        }
        let is_good = outcome.is_good();
        self.events.push(Event { key, asked, asked_at, done_at, outcome });
        is_good
    }

    /// `None`: nobody was there to be asked.
    fn exchange(&mut self, key: u64, asked: Asked, version: Option<u64>) -> Option<Outcome> {
        let usage = self.habits.usage(key);
        let text = |value| match usage {
            Use::Counted => format!("{value}"),
            Use::Kept | Use::Deleted => written_out(value, self.habits.value_bytes),
        };
        let request = match asked {
            Asked::Read => format!("mg key{key} v c\r\n"),
            Asked::Write(value) => {
                let text = text(value);
                format!("ms key{key} {} c\r\n{text}\r\n", text.len())
            }
            Asked::Swap(_, value) => {
                let (text, version) = (text(value), version.unwrap_or_default());
                format!("ms key{key} {} c C{version}\r\n{text}\r\n", text.len())
            }
            Asked::Delete => format!("md key{key}\r\n"),
            Asked::Add => format!("ma key{key} v c\r\n"),
        };
        let connection = self.connected()?;
        match connection.send(request).and_then(|()| read_answer(connection)) {
            Ok((line, data)) => Some(judge(asked, &line, data.as_deref(), usage)),
            Err(error) => {
                self.give_up();
                Some(Outcome::Doubt(format!("no answer: {:?}", error.kind())))
            }
        }
    }

    fn connected(&mut self) -> Option<&mut Connection> {
        if self.connection.is_none() {
            let Ok(connection) = Connection::open(self.nodes[self.node]) else {
                self.give_up();
                thread::sleep(RECONNECT_PAUSE);
                return None;
            };
            connection.stream().set_read_timeout(Some(ANSWER_TIMEOUT)).expect("it is no time of zero");
            self.connection = Some(connection);
        }
        self.connection.as_mut()
    }

    fn give_up(&mut self) {
        self.connection = None;
        self.node = (self.node + 1 + self.dice.random_range(0..self.nodes.len())) % self.nodes.len();
    }
}

fn nanos(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_nanos()).expect("no test takes centuries")
}

fn read_answer(connection: &mut Connection) -> io::Result<(String, Option<Vec<u8>>)> {
    let line = String::from_utf8_lossy(&connection.read_line()?).into_owned();
    let Some(rest) = line.strip_prefix("VA ") else { return Ok((line, None)) };
    let length = rest.split(' ').next().and_then(|length| length.parse().ok()).unwrap_or(0);
    let data = connection.read_exact(length)?;
    connection.read_exact(2)?;
    Ok((line, Some(data)))
}

/// A value of so many bytes at least, each of which depends on the number.
fn written_out(value: u64, bytes: usize) -> String {
    let mut text = format!("{value}:");
    let letter = char::from(b'a' + u8::try_from(value % 26).expect("it is below 26"));
    text.extend(std::iter::repeat_n(letter, bytes.saturating_sub(text.len())));
    text
}

fn read_back(data: &[u8], usage: Use) -> Option<u64> {
    let text = std::str::from_utf8(data).ok()?;
    if usage == Use::Counted {
        return text.trim_end().parse().ok();
    }
    let value = text.split_once(':')?.0.parse().ok()?;
    (written_out(value, data.len()) == text).then_some(value)
}

fn judge(asked: Asked, line: &str, data: Option<&[u8]>, usage: Use) -> Outcome {
    let nonsense = || {
        let data = String::from_utf8_lossy(data.unwrap_or_default()).chars().take(60).collect::<String>();
        Outcome::Nonsense(format!("{asked:?}: {line} {data}"))
    };
    let version = || line.split(' ').find_map(|word| word.strip_prefix('c')?.parse().ok());
    let word = line.split(' ').next().unwrap_or_default();
    match (word, asked) {
        ("VA", Asked::Read | Asked::Add) => {
            let value = read_back(data.unwrap_or_default(), usage);
            if value.is_some() { Outcome::Done(value, version()) } else { nonsense() }
        }
        ("HD", Asked::Write(_) | Asked::Swap(..)) if version().is_some() => Outcome::Done(None, version()),
        ("HD", Asked::Delete) => Outcome::Done(None, None),
        ("EN", Asked::Read)
        | ("NF", Asked::Delete | Asked::Add | Asked::Swap(..))
        | ("EX", Asked::Swap(..)) => Outcome::Not,
        _ if REFUSALS.contains(&line) => Outcome::Refused(line.into()),
        _ if DOUBTS.contains(&line) => Outcome::Doubt(line.into()),
        _ => nonsense(),
    }
}
