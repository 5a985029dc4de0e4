//! The ring of a cluster, asked for and followed: which servers there are, and which of them has a key. Blocks on its own
//! sockets; a worker only looks at a number.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slabring_client::Endpoint;
use slabring_cluster::ring::{Offered, Ring, RingDocument, RingHolder, SlotEntry};
use slabring_protocol::client::{ReplyParser, ReplyStep};

use crate::failure::{Failure, excerpt};
use crate::protocol::Protocol;
use crate::route::{Map, Route};
use crate::target::{Access, Target};

/// How often the ring is asked for while a load runs.
pub(crate) const INTERVAL: Duration = Duration::from_millis(250);

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longest answer: the largest document and its lines.
const ANSWER_SIZE_MAX: usize = slabring_cluster::ring::document::DOCUMENT_BYTES_MAX + 256;

/// So many documents in a row that do not follow the ring mean that there is another cluster by now.
const REFUSALS_MAX: u32 = 3;

/// What is known of a cluster. All threads share it.
#[derive(Debug)]
pub(crate) struct Follower {
    access: Access,
    /// The port of the first shard of each node, where shards have ports.
    shard_ports: Option<u16>,
    /// Where the cluster was found, asked again when no node of it answers.
    seeds: Vec<Target>,
    known: Mutex<Known>,
    /// Rings that were ever adopted.
    number: AtomicU64,
    /// Whose turn it is to be asked.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Known {
    holder: RingHolder,
    /// Servers only ever join this list, so that their numbers stay.
    servers: Vec<Server>,
    map: Arc<Map>,
    /// Documents in a row that do not follow the ring.
    refused: u32,
}

#[derive(Clone, Debug)]
struct Server {
    name: String,
    target: Target,
    /// It answered when it was asked last.
    is_alive: bool,
}

/// What a worker has to know.
pub(crate) struct Snapshot {
    pub(crate) number: u64,
    /// All servers that were ever known, by their numbers.
    pub(crate) targets: Vec<Target>,
    /// Whether each has answered lately.
    pub(crate) alive: Vec<bool>,
    pub(crate) route: Route,
}

impl Follower {
    /// Asks the seeds, one after the other, until one tells the ring. Blocks.
    pub(crate) fn discover(
        seeds: &[Target],
        access: &Access,
        shard_ports: Option<u16>,
    ) -> Result<Self, Failure> {
        // It is asked for in text, whatever the load speaks.
        let access = Access { protocol: Protocol::Text, ..access.clone() };
        let mut failure = None;
        for seed in seeds {
            match ask(seed, &access) {
                Ok(ring) => {
                    let mut holder = RingHolder::default();
                    let refused =
                        |refusal| Failure::Ring { address: seed.to_string(), text: format!("{refusal}") };
                    let Offered::Adopted(ring) = holder.offer(ring).map_err(refused)? else {
                        unreachable!("there was none before")
                    };
                    let mut servers = Vec::new();
                    let map = Arc::new(map_of(&ring, shard_ports, &mut servers)?);
                    let known = Mutex::new(Known { holder, servers, map, refused: 0 });
                    let (seeds, number) = (seeds.to_vec(), AtomicU64::new(1));
                    return Ok(Self { access, shard_ports, seeds, known, number, turn: AtomicUsize::new(0) });
                }
                Err(other) => failure = Some(other),
            }
        }
        Err(failure.expect("the command line has an address"))
    }

    /// The number of the ring, which is not its epoch: another number, another [`Self::snapshot`].
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// What is known now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let known = self.known();
        Snapshot {
            number: self.number(),
            targets: known.servers.iter().map(|server| server.target.clone()).collect(),
            alive: known.servers.iter().map(|server| server.is_alive).collect(),
            route: Route::Ring(Arc::clone(&known.map)),
        }
    }

    /// The servers' names, by their numbers.
    pub(crate) fn names(&self) -> Vec<String> {
        self.known().servers.iter().map(|server| server.name.clone()).collect()
    }

    /// Asks one node, each in its turn, and adopts what is newer. Blocks for a moment. A node that does not answer, or tells
    /// an older ring, changes nothing; when none answers a seed is asked, and when one after the other tells what does not follow the
    /// ring, the last is believed.
    pub(crate) fn refresh(&self) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (number, target) = {
            let servers = &self.known().servers;
            let number = turn % servers.len();
            (number, servers[number].target.clone())
        };
        let mut told = ask(&target, &self.access);
        let is_anybody_there = {
            let servers = &mut self.known().servers;
            servers[number].is_alive = told.is_ok();
            servers.iter().any(|server| server.is_alive)
        };
        if !is_anybody_there {
            told = ask(&self.seeds[turn % self.seeds.len()], &self.access);
            if told.is_ok() {
                self.known().holder = RingHolder::default();
            }
        }
        let Ok(document) = told else { return };
        let mut known = self.known();
        let Known { holder, servers, map, refused } = &mut *known;
        let mut offered = holder.offer(document.clone());
        *refused = if offered.is_err() { *refused + 1 } else { 0 };
        if *refused >= REFUSALS_MAX {
            (*holder, *refused) = (RingHolder::default(), 0);
            offered = holder.offer(document);
        }
        if let Ok(Offered::Adopted(ring)) = offered
            && let Ok(next) = map_of(&ring, self.shard_ports, servers)
        {
            *map = Arc::new(next);
            self.number.fetch_add(1, Ordering::Release);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Servers may have been added by one who failed: they are servers all the same.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table of a ring; servers that are new get numbers.
fn map_of(ring: &Ring, shard_ports: Option<u16>, servers: &mut Vec<Server>) -> Result<Map, Failure> {
    let slots = &ring.document().slots;
    let mut numbers = vec![(0, 1); slots.len()];
    for (slot, number) in slots.iter().zip(&mut numbers).filter(|(slot, _)| slot.state.serves()) {
        let names = names_of(slot, shard_ports);
        let first = match servers.iter().position(|server| server.name == names[0]) {
            Some(first) => first,
            None => {
                let found = |name: &String| {
                    Ok(Server { name: name.clone(), target: Target::resolve(name)?, is_alive: true })
                };
                let first = servers.len();
                servers.extend(names.iter().map(found).collect::<Result<Vec<_>, Failure>>()?);
                first
            }
        };
        let narrow = |count: usize| u16::try_from(count).expect("a ring has few thousand shards");
        *number = (narrow(first), narrow(names.len()));
    }
    Ok(Map::new(ring, |slot| numbers[slot]))
}

/// A node's address for clients, or those of its shards.
fn names_of(slot: &SlotEntry, shard_ports: Option<u16>) -> Vec<String> {
    let node = Endpoint::from(&slot.client);
    let Some(base) = shard_ports else { return vec![node.to_string()] };
    let port_of = |shard| base.checked_add(shard);
    let ports = (0..slot.shards).map(port_of).collect::<Option<Vec<_>>>().unwrap_or_default();
    let names: Vec<String> =
        ports.into_iter().map(|port| Endpoint::tcp(slot.client.host(), port).to_string()).collect();
    if names.is_empty() { vec![node.to_string()] } else { names }
}

/// Asks one node for the ring.
fn ask(target: &Target, access: &Access) -> Result<RingDocument, Failure> {
    let failed = |error| Failure::Connect { address: target.to_string(), error };
    let socket = target.connect(access, PATIENCE)?;
    // Whichever family it is of: it is a stream.
    let mut stream = TcpStream::from(socket.stream);
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let answer = match socket.tls {
        None => exchange(&mut stream),
        Some(mut session) => exchange(&mut rustls::Stream::new(&mut *session, &mut stream)),
    };
    let answer =
        answer.map_err(|error| Failure::Mute { address: target.to_string(), why: silence(&error) })?;
    let none = |text: String| Failure::Ring { address: target.to_string(), text };
    let document = document_in(&answer).ok_or_else(|| none(excerpt(&answer)))?;
    RingDocument::from_json(document).map_err(|refusal| none(refusal.to_string()))
}

/// Why there is no answer, for people: the error of a read that took too long has another name.
fn silence(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("nothing within {PATIENCE:?}"),
        ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

fn exchange(stream: &mut (impl Read + Write)) -> std::io::Result<Vec<u8>> {
    stream.write_all(b"config get ring\r\n")?;
    stream.flush()?;
    let (mut answer, mut seen, mut parser) = (Vec::new(), 0, ReplyParser::default());
    let mut piece = [0; 4096];
    loop {
        match parser.next(&answer[seen..]) {
            ReplyStep::Incomplete { consumed } if answer.len() < ANSWER_SIZE_MAX => seen += consumed,
            _ => return Ok(answer),
        }
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            size => answer.extend_from_slice(&piece[..size]),
        }
    }
}

/// `CONFIG ring 0 SIZE`, the document, `END`.
fn document_in(answer: &[u8]) -> Option<&[u8]> {
    let line_end = memchr::memchr(b'\n', answer)?;
    let line = str::from_utf8(answer[..line_end].trim_ascii_end()).ok()?;
    let size: usize = line.strip_prefix("CONFIG ring 0 ")?.parse().ok()?;
    answer.get(line_end + 1..)?.get(..size)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A port for nodes waits for more than the question has.
    #[test]
    fn who_takes_a_connection_and_says_nothing_is_told_from_one_who_is_not_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let access = Access { protocol: Protocol::Text, tls: None, login: None };
        let why = |word: &str| {
            let seeds = [Target::resolve(&address.to_string()).unwrap()];
            let told = Follower::discover(&seeds, &access, None).unwrap_err().to_string();
            assert!(told.contains(word), "{told}");
        };
        why("nothing within 1s; is it the port for clients?");
        std::thread::scope(|scope| {
            scope.spawn(|| drop((listener.accept(), listener.accept())));
            why("does not answer");
        });
        drop(listener);
        why("cannot connect");
    }

    #[test]
    fn a_document_is_found_in_its_answer_and_nowhere_else() {
        assert_eq!(document_in(b"CONFIG ring 0 2\r\n{}\r\nEND\r\n"), Some(&b"{}"[..]));
        for text in [
            "",
            "ERROR\r\n",
            "CONFIG cluster 0 2\r\n{}\r\nEND\r\n",
            "CONFIG ring 0 9\r\n{}",
            "CONFIG ring 0 x\r\n",
        ] {
            assert_eq!(document_in(text.as_bytes()), None, "{text}");
        }
    }
}
