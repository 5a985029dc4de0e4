//! The entry of a fuzzer: whole shards, with their letters to each other, over a kernel made of memory. Any bytes become clients that
//! send in any pieces, stop reading, half-close and vanish; it panics if a promise of the server is broken. Not an interface.
//!
//! ```text
//! byte 0    which node: see `SETUPS`
//! the rest  what the client of now sends; 0xff and a byte `op` is an order:
//!           op & 3 is the client from there on, op >> 2 & 7 what happens before that: see `Order`; 0xff 0xff is the byte 0xff
//! ```

mod client;
mod memory;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use slabring_engine::{CasSeries, Config, Shard};
use slabring_protocol::{Limits, Users, UsersFormat};
use slabring_reactor::backend::{Backend, Choice};
use slabring_reactor::{ConnectionId, EndCause, Io, IoSettings};

use self::client::{Client, Expected};
use self::memory::Memory;
use crate::connection::OUTPUT_BYTES_HIGH;
use crate::execute::Executor;
use crate::listeners::{Entrance, Listeners};
use crate::node::{Files, Node, assemble};
use crate::options::{Settings, Sources, TlsUse};
use crate::post::{Post, connect_all};
use crate::shard_thread::ShardThread;
use crate::shards::{ShardId, Shards};

/// Command lines of nodes that differ in what a connection goes through.
const SETUPS: [&str; 5] = ["-t 1", "-t 2", "-t 3 -C", "-t 2 -Y users", "-t 2 -S"];
/// Small enough to evict; items are small enough that a short input makes replies that have to wait.
const COMMON: &str = "slabring -p 11211 -U 0 -m 4 -I 64k -l 127.0.0.1 --io epoll";
const USERS: &[u8] = b"u:p\n";
const CLIENTS: usize = 4;
/// The byte that begins an order.
const ORDER: u8 = 0xff;
/// Turns without anything to do after which nothing will be done.
const QUIET_TURNS: usize = 3;
/// More than any input that a fuzzer makes can keep a node busy for.
const TURNS_MAX: usize = 20_000;
/// Replies that the last request before the bound may add to a connection's: a multi-get's batch of the largest items, and
/// what another shard puts into one letter.
const OUTPUT_SLACK_BYTES: usize = 16 * (64 << 10) + (1 << 20);

/// What can happen between two pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The piece is sent; all shards have a turn.
    Turn,
    /// The piece is sent and nobody looks yet.
    Gather,
    /// The piece is sent; only the client's own shard has a turn.
    OwnTurn,
    /// The client sends its last byte.
    HalfClose,
    /// The client is gone.
    Vanish,
    /// The client reads nothing more.
    StopReading,
    /// It reads again.
    Read,
    /// A new client in its place.
    Reconnect,
}

impl Order {
    fn of(op: u8) -> Self {
        const ALL: [Order; 8] = [
            Order::Turn,
            Order::Gather,
            Order::OwnTurn,
            Order::HalfClose,
            Order::Vanish,
            Order::StopReading,
            Order::Read,
            Order::Reconnect,
        ];
        ALL[usize::from(op >> 2 & 7)]
    }
}

/// See the module.
pub fn fuzz_connections(data: &[u8]) {
    let Some((&setup, script)) = data.split_first() else { return };
    let mut world = World::new(usize::from(setup) % SETUPS.len());
    world.play(script);
    world.finish();
}

/// A node and its clients.
struct World {
    node: Arc<Node>,
    threads: Vec<ShardThread<Memory>>,
    clients: Vec<Client>,
    /// Streams can be read again here, because nobody has to come in first.
    is_open: bool,
}

impl World {
    fn new(setup: usize) -> Self {
        let (settings, sources, users) = plan(setup);
        let is_open = users.is_none();
        let count = settings.threads;
        let protocol = settings.protocol;
        let mut listeners = Listeners::default();
        let choice = Choice { backend: Backend::Epoll, reason: "a fuzzer's".into() };
        let (node, ..) = assemble(
            settings,
            sources,
            Files { tls: None, users, cluster_secret: None },
            &mut listeners,
            choice,
        );
        let node = Arc::new(node);
        let ios: Vec<_> = (0..count).map(|_| Memory::new(&IoSettings::default()).expect("memory")).collect();
        let wakers: Vec<_> = ios.iter().map(Io::waker).collect();
        let threads = (0..count).zip(connect_all(count)).zip(ios).map(|((number, boxes), io)| {
            let shards = Shards { count, me: ShardId(number) };
            let executor = Executor::new(shard(&node, shards), shards, &node);
            let post = Post::new(shards.me, boxes, &wakers, executor.shard().memory().limit);
            let entrance = Entrance { listener: 0, direct: true, tls: TlsUse::Never, protocol };
            ShardThread::new(Arc::clone(&node), shards, io, executor, post, vec![entrance])
        });
        let mut world = Self { threads: threads.collect(), clients: Vec::new(), node, is_open };
        for client in 0..CLIENTS {
            let id = world.connect(client);
            world.clients.push(Client::new(id));
        }
        world
    }

    fn play(&mut self, script: &[u8]) {
        let (mut now, mut piece) = (0, Vec::new());
        let mut bytes = script.iter().copied();
        while let Some(byte) = bytes.next() {
            match (byte, if byte == ORDER { bytes.next() } else { None }) {
                (ORDER, Some(op)) if op != ORDER => {
                    self.send(now, &std::mem::take(&mut piece));
                    self.obey(Order::of(op), now);
                    now = usize::from(op) % CLIENTS;
                }
                (byte, _) => piece.push(byte),
            }
        }
        self.send(now, &piece);
        self.turn();
    }

    fn obey(&mut self, order: Order, client: usize) {
        let shard = self.shard_of(client);
        let id = self.clients[client].id;
        match order {
            Order::Turn => self.turn(),
            Order::Gather => {}
            Order::OwnTurn => self.turn_of(shard),
            Order::HalfClose => self.end(client, EndCause::EndOfStream),
            Order::Vanish => self.end(client, EndCause::Failed(104)),
            Order::StopReading => self.io(shard).set_reading(id, false),
            Order::Read => self.io(shard).set_reading(id, true),
            Order::Reconnect => {
                self.end(client, EndCause::Failed(104));
                self.clients[client] = Client::new(self.connect(client));
            }
        }
    }

    fn shard_of(&self, client: usize) -> usize {
        client % self.threads.len()
    }

    fn io(&mut self, shard: usize) -> &mut Memory {
        self.threads[shard].parts().0
    }

    fn connect(&mut self, client: usize) -> ConnectionId {
        let shard = self.shard_of(client);
        self.io(shard).connect()
    }

    fn end(&mut self, client: usize, cause: EndCause) {
        let shard = self.shard_of(client);
        let id = self.clients[client].id;
        self.io(shard).end(id, cause);
        self.clients[client].has_ended = true;
    }

    fn send(&mut self, client: usize, piece: &[u8]) {
        let shard = self.shard_of(client);
        let Client { id, has_ended, ref mut sent } = self.clients[client];
        if !has_ended && !piece.is_empty() {
            sent.extend_from_slice(piece);
            self.io(shard).deliver(id, piece);
        }
    }

    fn turn(&mut self) {
        (0..self.threads.len()).for_each(|shard| self.turn_of(shard));
    }

    fn turn_of(&mut self, shard: usize) {
        self.threads[shard].turn().expect("memory does not fail");
        let (_, connections, _) = self.threads[shard].parts();
        for client in connections.iter() {
            assert!(
                client.outbox.bytes() <= OUTPUT_BYTES_HIGH + OUTPUT_SLACK_BYTES,
                "replies without a bound"
            );
            assert!(!client.stalled || client.listed, "a connection waits and nobody will look after it");
        }
    }

    /// Turns until nothing is left to do.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            let is_busy = (0..self.threads.len()).any(|shard| {
                let (io, _, dispatcher) = self.threads[shard].parts();
                io.take_was_busy() || dispatcher.has_more || !dispatcher.post.is_empty()
            });
            quiet = if is_busy { 0 } else { quiet + 1 };
            if quiet > QUIET_TURNS {
                return;
            }
            self.turn();
        }
        panic!("the node is still busy after {TURNS_MAX} turns");
    }

    /// Everybody reads to the end, whoever is in step asks one more question, and then all go.
    fn finish(&mut self) {
        for client in 0..CLIENTS {
            let (shard, id) = (self.shard_of(client), self.clients[client].id);
            self.io(shard).set_reading(id, true);
        }
        self.settle();
        for client in 0..CLIENTS {
            self.check_client(client);
        }
        (0..CLIENTS).for_each(|client| self.end(client, EndCause::Failed(104)));
        self.settle();
        self.check_empty();
    }

    fn check_client(&mut self, client: usize) {
        let shard = self.shard_of(client);
        let id = self.clients[client].id;
        if !self.is_open {
            return;
        }
        let limits = Limits { item_size_max: self.node.settings.item_size_limit() };
        let expected = Expected::of(&self.clients[client].sent, &limits);
        if !expected.is_known {
            return;
        }
        let is_over = self.io(shard).is_closed(id);
        if !self.clients[client].has_ended {
            assert_eq!(is_over, expected.closes, "who is closed: {:?}", self.clients[client]);
            if let Some(fence) = expected.fence(&self.clients[client].sent, &limits) {
                self.send(client, &fence);
                self.settle();
                let output = self.io(shard).output(id);
                assert!(
                    output.ends_with(client::fence_reply(&fence)),
                    "no answer: {:?}",
                    self.clients[client]
                );
            }
        } else if expected.closes {
            return;
        }
        let is_whole = !self.clients[client].has_ended;
        let output = self.io(shard).output(id).to_vec();
        let expected = Expected::of(&self.clients[client].sent, &limits);
        expected.check(&output, is_whole);
    }

    fn check_empty(&mut self) {
        for thread in &mut self.threads {
            let (io, connections, dispatcher) = thread.parts();
            let left = io.describe();
            assert_eq!((io.connections(), connections.len()), (0, 0), "{left}");
            assert_eq!(dispatcher.budget.bytes(), 0, "a buffer is still counted");
            assert!(dispatcher.post.is_at_rest(), "a letter is still under way");
            dispatcher.executor.shard().check_invariants();
        }
        assert_eq!(self.node.connections.load(Ordering::Relaxed), 0);
    }
}

/// A command line's settings, read once.
fn plan(setup: usize) -> (Settings, Sources, Option<Users>) {
    static PLANS: OnceLock<Vec<(Settings, Sources)>> = OnceLock::new();
    let read = |words: &&str| {
        let sources = Sources {
            words: format!("{COMMON} {words}").split_whitespace().map(str::to_owned).collect(),
            variables: BTreeMap::from([("MEMCACHED_SASL_PWDB".to_owned(), "users".to_owned())]),
            directory: PathBuf::from("/"),
        };
        let settings = sources.read().and_then(|mut given| given.settings(&sources)).expect("good words");
        (settings, sources)
    };
    let (settings, sources) = &PLANS.get_or_init(|| SETUPS.iter().map(read).collect())[setup];
    let users = settings.authentication.as_ref().map(|authentication| {
        let format = if authentication.sasl { UsersFormat::SaslDatabase } else { UsersFormat::AuthFile };
        Users::parse(USERS, format).expect("a good line")
    });
    (settings.clone(), sources.clone(), users)
}

fn shard(node: &Node, shards: Shards) -> Shard {
    let settings = &node.settings;
    let config = Config {
        item_size_max: settings.item_size_max,
        cas_enabled: settings.cas_enabled,
        cas: CasSeries { offset: u64::from(shards.me.0), step: u64::from(shards.count) },
        huge_pages: false,
        ..Config::with_memory(settings.shard_memory_bytes())
    };
    Shard::new(&config).expect("a small shard")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use slabring_protocol::WatchTopics;

    use super::*;

    /// What a fuzzer would find first, so that it starts beyond.
    const WORDS: [&[u8]; 30] = [
        b"get a\r\n",
        b"get a b c d\r\n",
        b"set a 0 0 5\r\nhello\r\n",
        b"set b 0 0 3000\r\n",
        b"ms c 2 c k Oq\r\nab\r\n",
        b"mg c v q k\r\n",
        b"mn\r\n",
        b"incr a 1\r\n",
        b"touch a 0\r\n",
        b"delete a noreply\r\n",
        b"flush_all\r\n",
        b"stats\r\n",
        b"stats conns\r\n",
        b"lru_crawler metadump all\r\n",
        b"watch\r\n",
        b"quit\r\n",
        b"get a",
        b"\r\n",
        b"set big 0 0 40000\r\n",
        b"bogus\r\n",
        b"\xff\x00",
        b"\xff\x01",
        b"\xff\x02",
        b"\xff\x0b",
        b"\xff\x0c",
        b"\xff\x11",
        b"\xff\x15",
        b"\xff\x18",
        b"\xff\x1d",
        b"\x80\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0",
    ];

    fn play_words(seed: u64) {
        let mut state = seed;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        let mut data = vec![u8::try_from(next(SETUPS.len())).unwrap()];
        for _ in 0..next(60) {
            match next(WORDS.len() + 2) {
                word if word < WORDS.len() => data.extend(WORDS[word]),
                fill => data.resize(data.len() + next(fill * 1500), b'x'),
            }
        }
        fuzz_connections(&data);
    }

    #[test]
    fn clients_of_every_manner_break_no_promise() {
        for seed in 0..2000 {
            let played = std::panic::catch_unwind(|| play_words(seed));
            assert!(played.is_ok(), "seed {seed}");
        }
    }

    fn is_deferred_at(thread: &mut ShardThread<Memory>) -> bool {
        let (_, connections, _) = thread.parts();
        connections.iter().any(|client| !client.deferred.is_empty())
    }

    /// All that the first client of a node is answered.
    fn answers(setup: usize, script: &[u8]) -> Vec<u8> {
        let mut world = World::new(setup);
        world.play(script);
        world.settle();
        // What was deferred is posted again after a while.
        while (0..world.threads.len()).any(|shard| is_deferred_at(&mut world.threads[shard])) {
            std::thread::sleep(Duration::from_millis(1));
            world.settle();
        }
        let id = world.clients[0].id;
        let output = world.io(0).output(id).to_vec();
        world.finish();
        output
    }

    #[test]
    fn a_pipeline_of_plain_requests_is_answered_as_the_same_requests_in_another_form() {
        const TURN: &[u8] = &[ORDER, 0];
        for seed in 0..60_u64 {
            let mut state = seed;
            let mut next = |below: usize| {
                state =
                    state.wrapping_mul(6_364_136_223_846_793_005_u64).wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(state >> 33).unwrap() % below
            };
            let (mut plain, mut spaced, mut cut) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..next(300) {
                let key = ["a", "key-of-16-bytes", "another-key", "no"][next(4)];
                let size = [0, 1, 32, 500, 20_000][next(5)] + next(9);
                let (line, value) = match next(3) {
                    0 if key != "no" => {
                        (format!("set {key} {} 0 {size}", next(2) * 77), Some("v".repeat(size)))
                    }
                    _ => (format!("get {key}"), None),
                };
                let value = value.map(|value| value + "\r\n").unwrap_or_default();
                spaced.extend_from_slice(format!("{line} \r\n{value}").as_bytes());
                let request = format!("{line}\r\n{value}");
                plain.extend_from_slice(request.as_bytes());
                let (before, behind) = request.as_bytes().split_at(next(request.len()));
                cut.extend([before, if next(8) == 0 { TURN } else { b"" }, behind].concat());
            }
            for setup in 0..3 {
                let expected = answers(setup, &spaced);
                check_same(&answers(setup, &plain), &expected, &format!("seed {seed}, setup {setup}"));
                check_same(&answers(setup, &cut), &expected, &format!("seed {seed}, setup {setup}, cut"));
            }
        }
    }

    #[track_caller]
    fn check_same(answers: &[u8], expected: &[u8], what: &str) {
        let same = answers.iter().zip(expected).take_while(|(a, b)| a == b).count();
        let around = |bytes: &[u8]| {
            let bytes = &bytes[same.saturating_sub(60)..bytes.len().min(same + 60)];
            String::from_utf8_lossy(bytes).into_owned()
        };
        assert!(answers == expected, "{what}: {:?} for {:?}", around(answers), around(expected));
    }

    #[test]
    fn a_multi_get_that_is_not_read_is_bounded_and_answered_in_the_end() {
        let mut data = b"\x01set a 0 0 40000\r\n".to_vec();
        data.resize(data.len() + 40_000, b'x');
        data.extend(b"\r\n\xff\x00\xff\x14");
        for _ in 0..100 {
            data.extend(b"get a a a a\r\n");
        }
        data.extend(b"\xff\x00\xff\x01get a\r\n\xff\x00\xff\x18");
        fuzz_connections(&data);
    }

    /// A client may have been told that it watches, and then ask, while another shard is in the middle of its turn.
    #[test]
    fn a_letter_that_comes_in_the_middle_of_a_turn_is_told_to_who_watches_by_then() {
        let mut world = World::new(1);
        world.turn();
        world.send(0, b"get a\r\nget b\r\nget c\r\nget d\r\n");
        world.turn_of(0);
        let node = Arc::clone(&world.node);
        let watch = move || assert!(node.watchers.enter(WatchTopics::FETCHERS).is_some());
        world.io(1).meanwhile(watch);
        world.turn_of(1);
        let told = world.threads[1].parts().2.executor.report().traffic.log_written;
        assert!(told > 0, "nobody is told of what another shard asked for");
    }
}
