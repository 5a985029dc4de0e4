//! Several machines that load the same servers: a coordinator tells agents what to do and adds up what they measured.
//! JSON lines over TCP, one connection for each run.
//!
//! ```text
//! coordinator                          agent
//! {words, agent, agents}       ---->
//!                              <----   {"Ready": keys stored} or {"Failed": text}     when it is prepared
//! "Go"                         ---->                                                  when all are
//! "Stop", or the end           ---->                                                  if it shall end early
//!                              <----   {"Done": outcome} or {"Failed": text}
//! ```
//!
//! An agent that goes takes its part of the result with it; those of the others are kept.
//!
//! An agent does what whoever reaches it says, within the options of a load: it belongs on a network of one's own.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::args::Args;
use crate::failure::Failure;
use crate::interrupt;
use crate::keys::share;
use crate::report::Report;
use crate::run::{Outcome, Session};
use crate::tally::{ServerTally, Tally};

/// Where an agent listens when nobody says.
pub(crate) const ADDRESS_DEFAULT: &str = "127.0.0.1:7070";

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// How often a coordinator that waits looks whether it was told to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Serialize, Deserialize)]
struct Task {
    words: Vec<String>,
    /// Which of them it is.
    agent: u32,
    agents: u32,
}

#[derive(Serialize, Deserialize)]
enum Go {
    Go,
    Stop,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    /// With the keys that were stored.
    Ready(Option<u64>),
    Done(Box<Outcome>),
    Failed(String),
}

/// One end of a conversation.
struct Line {
    stream: BufReader<TcpStream>,
    peer: String,
}

impl Line {
    fn new(stream: TcpStream, peer: String) -> Self {
        Self { stream: BufReader::new(stream), peer }
    }

    fn outcome(&self, answer: Answer) -> Result<Outcome, Failure> {
        match answer {
            Answer::Done(outcome) => Ok(*outcome),
            Answer::Failed(text) => Err(self.fail(&text)),
            Answer::Ready(_) => Err(self.fail(&"is ready twice")),
        }
    }

    fn fail(&self, text: &dyn ToString) -> Failure {
        Failure::Agent { agent: self.peer.clone(), text: text.to_string() }
    }

    fn say(&mut self, what: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(what).map_err(|error| self.fail(&error))? + "\n";
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        sent.map_err(|error| self.fail(&error))
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let mut line = Vec::new();
        let mut was_told = false;
        loop {
            match self.stream.read_until(b'\n', &mut line) {
                Ok(0) => return Err(self.fail(&"has gone")),
                Ok(_) => return serde_json::from_slice(&line).map_err(|error| self.fail(&error)),
                // Only a coordinator's reads end so.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if interrupt::came() && !was_told {
                        was_told = true;
                        self.say(&Go::Stop)?;
                    }
                }
                Err(error) => return Err(self.fail(&error)),
            }
        }
    }
}

/// Listens for coordinators for ever, one run after the other.
pub(crate) fn serve(address: &str) -> Result<(), Failure> {
    let listener =
        TcpListener::bind(address).map_err(|error| Failure::Listen { address: address.into(), error })?;
    eprintln!("slabring-load: agent at {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        let peer = stream.peer_addr().map_or_else(|_| "?".into(), |peer| peer.to_string());
        if let Err(failure) = attend(Line::new(stream, peer)) {
            eprintln!("slabring-load: {failure}");
        }
    }
    Ok(())
}

fn attend(mut line: Line) -> Result<(), Failure> {
    let task: Task = line.hear()?;
    eprintln!("slabring-load: {}", task.words.join(" "));
    let prepared = prepare(&task).and_then(|session| {
        let stored = session.prefill()?;
        Ok((session, stored))
    });
    let (session, stored) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return line.say(&Answer::Failed(failure.to_string())),
    };
    line.say(&Answer::Ready(stored))?;
    let Go::Go = line.hear()? else { return Ok(()) };
    interrupt::clear();
    let mut ears = line.stream.get_ref().try_clone()?;
    let listener = thread::spawn(move || {
        // Whatever is said now, or an end, ends the run.
        match ears.read(&mut [0]) {
            Ok(_) | Err(_) => interrupt::raise(),
        }
    });
    let answer = match session.load() {
        Ok(outcome) => Answer::Done(Box::new(outcome)),
        Err(failure) => Answer::Failed(failure.to_string()),
    };
    let said = line.say(&answer);
    // One that has gone already is shut down.
    drop(line.stream.get_ref().shutdown(Shutdown::Read));
    listener.join().expect("reading a byte does not panic");
    said
}

/// This agent's part of what all were told.
fn prepare(task: &Task) -> Result<Session, Failure> {
    let Task { words, agent, agents } = task;
    if agent >= agents {
        return Err(Failure::File(anyhow::anyhow!("agent {agent} of {agents}")));
    }
    let mut args = Args::read(words).map_err(|error| Failure::File(anyhow::anyhow!("{}", error.render())))?;
    let part = |total: u64| {
        let range = share(total, *agents, *agent);
        range.end - range.start
    };
    let connections = u32::try_from(part(args.connections.get().into())).unwrap_or(u32::MAX);
    args.connections = NonZeroU32::new(connections).unwrap_or(NonZeroU32::MIN);
    args.threads = args.threads.min(args.connections);
    args.requests = args.requests.map(|requests| part(requests).max(1));
    args.rate = args.rate.map(|rate| rate / f64::from(*agents));
    args.seed = args.seed.wrapping_add(u64::from(*agent) << 32);
    args.prefill &= *agent == 0;
    args.writes_alone = *agents == 1;
    Session::new(args)
}

/// Has the agents do what the command line asks for. Blocks until they are done.
pub(crate) fn coordinate(args: &Args, words: &[String]) -> Result<Report, Failure> {
    let agents = u32::try_from(args.coordinator.len()).expect("a command line has fewer");
    let mut lines = Vec::new();
    for (agent, address) in (0..).zip(&args.coordinator) {
        let mut line = connect(address)?;
        let words = without_coordinator(words);
        line.say(&Task { words, agent, agents })?;
        lines.push(line);
    }
    let mut prefilled = None;
    for line in &mut lines {
        match line.hear()? {
            Answer::Ready(stored) => prefilled = prefilled.or(stored),
            Answer::Failed(text) => return Err(line.fail(&text)),
            Answer::Done(_) => return Err(line.fail(&"was done before it began")),
        }
    }
    lines.iter_mut().try_for_each(|line| line.say(&Go::Go))?;
    let (mut sum, mut failure): (Option<Outcome>, Option<Failure>) = (None, None);
    for line in &mut lines {
        match (line.hear().and_then(|answer| line.outcome(answer)), &mut sum) {
            (Ok(outcome), None) => sum = Some(outcome),
            (Ok(outcome), Some(sum)) => join(sum, outcome),
            (Err(other), _) => failure = failure.or(Some(other)),
        }
    }
    let Some(mut outcome) = sum else { return Err(failure.expect("there is an agent")) };
    outcome.failure = failure.map(|failure| failure.to_string()).or(outcome.failure);
    let threads = args.threads.saturating_mul(NonZeroU32::new(agents).expect("there is an agent"));
    let args = Args { threads, ..args.clone() };
    Ok(Report::new(&args, &args.addresses.join(" "), prefilled, &outcome))
}

fn connect(address: &str) -> Result<Line, Failure> {
    let failed = |error| Failure::Connect { address: address.into(), error };
    let found = address.to_socket_addrs().map_err(failed)?.next();
    let found = found.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    let stream = TcpStream::connect_timeout(&found, CONNECT_PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(LOOK_INTERVAL)).map_err(failed)?;
    Ok(Line::new(stream, address.into()))
}

fn without_coordinator(words: &[String]) -> Vec<String> {
    let mut skips_next = false;
    let keeps = |word: &&String| {
        let keeps = !skips_next && *word != "--coordinator" && !word.starts_with("--coordinator=");
        skips_next = *word == "--coordinator";
        keeps
    };
    words.iter().filter(keeps).cloned().collect()
}

fn join(sum: &mut Outcome, mut other: Outcome) {
    join_servers(sum, &mut other);
    let mut whole = Tally::new(true, sum.tally.servers.len());
    whole.add(&sum.tally);
    whole.add(&other.tally);
    sum.tally = whole;
    for (at, interval) in other.intervals.into_iter().enumerate() {
        match sum.intervals.get_mut(at) {
            Some(own) => own.join(&interval),
            None => sum.intervals.push(interval),
        }
    }
    sum.elapsed = sum.elapsed.max(other.elapsed);
    sum.cpu_us += other.cpu_us;
    sum.failure = sum.failure.take().or(other.failure);
}

/// Each agent numbers the servers that it has found by itself: they are added by name.
fn join_servers(sum: &mut Outcome, other: &mut Outcome) {
    let names = std::mem::take(&mut other.servers);
    for (name, server) in names.into_iter().zip(std::mem::take(&mut other.tally.servers)) {
        match sum.servers.iter().position(|own| *own == name) {
            Some(at) if at < sum.tally.servers.len() => sum.tally.servers[at].add(&server),
            Some(_) => {}
            None => {
                // Nobody may have asked the last ones anything.
                sum.tally.servers.resize_with(sum.servers.len(), ServerTally::new);
                sum.servers.push(name);
                sum.tally.servers.push(server);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_not_told_of_agents() {
        let words = ["-c", "5", "--coordinator", "a:1,b:2", "--coordinator=x:1", "h:1"].map(String::from);
        assert_eq!(without_coordinator(&words), ["-c", "5", "h:1"]);
    }

    #[test]
    fn the_parts_of_all_agents_are_the_whole() {
        let words: Vec<String> =
            "-c 7 --requests 100 --rate 9 --prefill 127.0.0.1:1".split(' ').map(String::from).collect();
        let parts: Vec<Args> = (0..3)
            .map(|agent| prepare(&Task { words: words.clone(), agent, agents: 3 }).unwrap().args)
            .collect();
        assert_eq!(parts.iter().map(|args| args.connections.get()).sum::<u32>(), 7);
        assert_eq!(parts.iter().filter_map(|args| args.requests).sum::<u64>(), 100);
        assert_eq!(parts.iter().filter_map(|args| args.rate).sum::<f64>(), 9.0);
        assert_eq!(parts.iter().filter(|args| args.prefill).count(), 1);
    }
}
