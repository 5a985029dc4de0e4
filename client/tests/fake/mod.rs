// A server of a few lines for tests and examples: enough of memcached's text and meta protocols over one map, and a hook
// that spoils replies. It shares no code with the client, so a mistake there cannot hide behind the same mistake here.
// Included by unit tests and by examples, where inner doc comments are not possible.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What becomes of one reply.
pub enum Reaction {
    /// It is sent.
    Reply(Vec<u8>),
    /// It is sent byte by byte, with a pause after each.
    Dribble(Vec<u8>, Duration),
    /// This is sent, and the connection closed.
    Close(Vec<u8>),
    /// Nothing is sent, ever.
    Silence,
}

/// Sees the number of a request, counted over all connections, its line and the good reply.
pub type Hook = dyn Fn(usize, &str, Vec<u8>) -> Reaction + Send + Sync;

/// A running server. Dropped, it accepts no more; connections end with their clients.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    items: Mutex<Items>,
    hook: Box<Hook>,
    requests: AtomicUsize,
    connections: AtomicUsize,
    closed: AtomicUsize,
    is_over: AtomicBool,
    ring: Mutex<Option<String>>,
}

#[derive(Default)]
struct Items {
    map: HashMap<String, Item>,
    cas: u64,
    /// The highest fence that each key was written under.
    fences: HashMap<String, u64>,
}

#[derive(Clone, Default)]
struct Item {
    value: Vec<u8>,
    flags: String,
    cas: u64,
    /// Somebody has the lease.
    is_leased: bool,
    is_stale: bool,
}

/// An address where nobody listens. All that listen in tests on any free port do so at 127.0.0.1, and one of their ports may be the one
/// that was free a moment ago.
#[allow(dead_code, reason = "each user needs a part of it")]
pub fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.9:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound")
}

#[allow(dead_code, reason = "each user needs a part of it")]
impl Server {
    /// A good server.
    pub fn start() -> Self {
        Self::spoiling(|_, _, reply| Reaction::Reply(reply))
    }

    /// One whose replies go through `hook`.
    pub fn spoiling(hook: impl Fn(usize, &str, Vec<u8>) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        Self::on(listener, hook)
    }

    /// One that accepts here.
    pub fn on(
        listener: TcpListener,
        hook: impl Fn(usize, &str, Vec<u8>) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            items: Mutex::default(),
            hook: Box::new(hook),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            ring: Mutex::new(None),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || accepting.accept(&listener));
        Self { address, state }
    }

    /// Where it listens, as text.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Connections that it has closed itself.
    pub fn closed(&self) -> usize {
        self.state.closed.load(Ordering::SeqCst)
    }

    /// Answers `config get ring` with this from now on.
    pub fn set_ring(&self, json: String) {
        *self.state.ring.lock().unwrap_or_else(PoisonError::into_inner) = Some(json);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts. Refused, it is gone already.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().map_while(Result::ok) {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            self.connections.fetch_add(1, Ordering::SeqCst);
            let state = Arc::clone(self);
            thread::spawn(move || state.serve(stream));
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|size| size > 0) {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            let mut value = vec![0; data_size(&words).map_or(0, |size| size + 2)];
            if reader.read_exact(&mut value).is_err() {
                return;
            }
            value.truncate(value.len().saturating_sub(2));
            let reply = self.reply(&words, value);
            let number = self.requests.fetch_add(1, Ordering::SeqCst);
            let goes_on = match (self.hook)(number, line.trim_end(), reply) {
                Reaction::Reply(reply) => stream.write_all(&reply).is_ok(),
                Reaction::Dribble(reply, pause) => reply.iter().all(|&byte| {
                    thread::sleep(pause);
                    stream.write_all(&[byte]).is_ok()
                }),
                Reaction::Close(reply) => {
                    // Whether it arrives or not, the connection ends here.
                    stream.write_all(&reply).ok();
                    stream.shutdown(std::net::Shutdown::Both).ok();
                    self.closed.fetch_add(1, Ordering::SeqCst);
                    false
                }
                Reaction::Silence => true,
            };
            if !goes_on {
                return;
            }
            line.clear();
        }
    }

    fn reply(&self, words: &[&str], value: Vec<u8>) -> Vec<u8> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        match words {
            ["config", "get", "ring"] => match &*self.ring.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(json) => format!("CONFIG ring 0 {}\r\n{json}\r\nEND\r\n", json.len()).into_bytes(),
                None => b"ERROR\r\n".to_vec(),
            },
            ["version"] => b"VERSION 1.6.99\r\n".to_vec(),
            ["stats", ..] => b"STAT pid 1\r\nSTAT curr_items 2\r\nEND\r\n".to_vec(),
            ["flush_all", ..] => {
                items.map.clear();
                b"OK\r\n".to_vec()
            }
            ["lru_crawler", "metadump", "all"] => items.dump(),
            [verb @ ("get" | "gets"), keys @ ..] => items.get(keys, *verb == "gets"),
            [verb @ ("gat" | "gats"), _, keys @ ..] => items.get(keys, *verb == "gats"),
            [verb @ ("incr" | "decr"), key, delta] => items.count(key, delta, *verb == "incr"),
            ["touch", key, _] => said(if items.map.contains_key(*key) { "TOUCHED" } else { "NOT_FOUND" }),
            ["delete", key] => said(if items.map.remove(*key).is_some() { "DELETED" } else { "NOT_FOUND" }),
            ["mg", key, flags @ ..] => items.meta_get(key, flags),
            ["ms", key, _, flags @ ..] => items.meta_set(key, flags, value),
            ["md", key, flags @ ..] => items.meta_delete(key, flags),
            ["ma", key, flags @ ..] => {
                let delta = token(flags, 'D').unwrap_or("1");
                let number = items.count(key, delta, token(flags, 'M') != Some("D"));
                let opaque = token(flags, 'O').unwrap_or_default();
                match number.strip_suffix(b"\r\n") {
                    Some(b"NOT_FOUND") => said(&format!("NF O{opaque}")),
                    Some(number) if number[0].is_ascii_digit() => {
                        [format!("VA {} O{opaque}\r\n", number.len()).as_bytes(), number, b"\r\n"].concat()
                    }
                    _ => number,
                }
            }
            ["cas", key, flags, _, _, cas] => items.store("C", key, flags, cas, value, CLASSIC),
            [verb, key, flags, _, _] => items.store(classic_mode(verb), key, flags, "", value, CLASSIC),
            _ => b"ERROR\r\n".to_vec(),
        }
    }
}

/// What is said when a value was stored, its condition did not hold, it is of another version, there is none.
const CLASSIC: [&str; 4] = ["STORED", "NOT_STORED", "EXISTS", "NOT_FOUND"];
const META: [&str; 4] = ["HD", "NS", "EX", "NF"];

impl Items {
    fn get(&self, keys: &[&str], with_cas: bool) -> Vec<u8> {
        let mut reply = Vec::new();
        for key in keys {
            if let Some(Item { value, flags, cas, .. }) = self.map.get(*key) {
                let cas = if with_cas { format!(" {cas}") } else { String::new() };
                reply.extend(format!("VALUE {key} {flags} {}{cas}\r\n", value.len()).bytes());
                reply.extend_from_slice(value);
                reply.extend_from_slice(b"\r\n");
            }
        }
        reply.extend_from_slice(b"END\r\n");
        reply
    }

    fn dump(&self) -> Vec<u8> {
        let mut reply = String::new();
        for (key, item) in &self.map {
            reply += &format!("key={key} exp=-1 la=1700000000 cas={} fetch=no cls=1 size=64\n", item.cas);
        }
        (reply + "END\r\n").into_bytes()
    }

    fn count(&mut self, key: &str, delta: &str, up: bool) -> Vec<u8> {
        let Some(item) = self.map.get_mut(key) else { return said("NOT_FOUND") };
        let number = String::from_utf8_lossy(&item.value).parse::<u64>();
        let (Ok(number), Ok(delta)) = (number, delta.parse()) else {
            return said("CLIENT_ERROR cannot increment or decrement non-numeric value");
        };
        let number = if up { number.wrapping_add(delta) } else { number.saturating_sub(delta) };
        item.value = number.to_string().into_bytes();
        said(&number.to_string())
    }

    fn store(
        &mut self,
        mode: &str,
        key: &str,
        flags: &str,
        cas: &str,
        value: Vec<u8>,
        says: [&str; 4],
    ) -> Vec<u8> {
        let [stored, not_stored, exists, not_found] = says;
        let old = self.map.get(key).cloned();
        let value = match (mode, &old) {
            ("C", None) => return said(not_found),
            ("C", Some(old)) if old.cas.to_string() != cas => return said(exists),
            ("E", Some(_)) | ("R" | "A" | "P", None) => return said(not_stored),
            ("A", Some(old)) => [old.value.clone(), value].concat(),
            ("P", Some(old)) => [value, old.value.clone()].concat(),
            _ => value,
        };
        self.cas += 1;
        let flags = match old.filter(|_| mode == "A" || mode == "P") {
            Some(old) => old.flags,
            None => flags.to_owned(),
        };
        let item = Item { value, flags, cas: self.cas, ..Item::default() };
        self.map.insert(key.to_owned(), item);
        said(stored)
    }

    fn meta_get(&mut self, key: &str, flags: &[&str]) -> Vec<u8> {
        let mut letters = String::new();
        if token(flags, 'N').is_some() {
            let next = self.cas + 1;
            let item = self.map.entry(key.to_owned()).or_insert_with(|| Item {
                flags: "0".to_owned(),
                cas: next,
                is_stale: true,
                ..Item::default()
            });
            self.cas = self.cas.max(item.cas);
            if item.is_stale {
                letters += if item.value.is_empty() { "" } else { " X" };
                letters += if item.is_leased { " Z" } else { " W" };
                item.is_leased = true;
            }
        }
        let Some(item) = self.map.get(key) else { return said("EN") };
        let mut words = String::new();
        for flag in flags {
            words += &match &flag[..1] {
                "f" => format!(" f{}", item.flags),
                "c" => format!(" c{}", item.cas),
                "s" => format!(" s{}", item.value.len()),
                "t" => " t-1".to_owned(),
                "b" => " b".to_owned(),
                "O" => format!(" {flag}"),
                _ => continue,
            };
        }
        if !flags.contains(&"v") {
            return said(&format!("HD{words}{letters}"));
        }
        let line = format!("VA {}{words}{letters}\r\n", item.value.len());
        [line.as_bytes(), &item.value, b"\r\n"].concat()
    }

    /// Whether a key may be written under the fence that is named.
    fn admits(&mut self, key: &str, flags: &[&str]) -> bool {
        let Some(fence) = token(flags, 'Y').and_then(|fence| fence.parse::<u64>().ok()) else { return true };
        let floor = self.fences.entry(key.to_owned()).or_default();
        *floor = fence.max(*floor);
        fence == *floor
    }

    fn meta_set(&mut self, key: &str, flags: &[&str], value: Vec<u8>) -> Vec<u8> {
        if !self.admits(key, flags) {
            return said(&format!("EX O{}", token(flags, 'O').unwrap_or_default()));
        }
        let client_flags = token(flags, 'F').unwrap_or("0");
        let reply = match (token(flags, 'C'), token(flags, 'M')) {
            (Some(cas), _) => self.store("C", key, client_flags, cas, value, META),
            (None, mode) => self.store(mode.unwrap_or("S"), key, client_flags, "", value, META),
        };
        let mut said_cas = String::new();
        if let Some(item) = self.map.get_mut(key).filter(|_| reply.starts_with(b"HD")) {
            item.cas = token(flags, 'E').and_then(|cas| cas.parse().ok()).unwrap_or(item.cas);
            said_cas = if flags.contains(&"c") { format!(" c{}", item.cas) } else { said_cas };
        }
        said(&format!(
            "{}{said_cas} O{}",
            String::from_utf8_lossy(&reply).trim_end(),
            token(flags, 'O').unwrap_or_default()
        ))
    }

    fn meta_delete(&mut self, key: &str, flags: &[&str]) -> Vec<u8> {
        let opaque = token(flags, 'O').unwrap_or_default();
        if !self.admits(key, flags) {
            return said(&format!("EX O{opaque}"));
        }
        let status = match (self.map.get_mut(key), token(flags, 'C')) {
            (None, _) => "NF",
            (Some(item), Some(cas)) if item.cas.to_string() != cas => "EX",
            (Some(item), _) if flags.contains(&"I") => {
                (item.is_stale, item.is_leased) = (true, false);
                "HD"
            }
            (Some(_), _) => {
                self.map.remove(key);
                "HD"
            }
        };
        said(&format!("{status} O{opaque}"))
    }
}

fn said(words: &str) -> Vec<u8> {
    format!("{words}\r\n").into_bytes()
}

fn token<'t>(flags: &[&'t str], letter: char) -> Option<&'t str> {
    flags.iter().find_map(|flag| flag.strip_prefix(letter))
}

/// The size of the value behind a line, for commands that have one.
fn data_size(words: &[&str]) -> Option<usize> {
    match words {
        ["set" | "add" | "replace" | "append" | "prepend" | "cas", _, _, _, size, ..] => size.parse().ok(),
        ["ms", _, size, ..] => size.parse().ok(),
        _ => None,
    }
}

fn classic_mode(verb: &str) -> &'static str {
    match verb {
        "add" => "E",
        "replace" => "R",
        "append" => "A",
        "prepend" => "P",
        _ => "S",
    }
}
