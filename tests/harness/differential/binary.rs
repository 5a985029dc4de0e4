//! Streams of the binary protocol: every opcode with its quiet form, versions, wrong sizes and unknown opcodes.
//!
//! Nothing in a stream depends on the time, and nothing ends a connection but what is wrong in a way that must.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::CONNECTION_COUNT;
use super::stream::{Batch, Request};

const REQUESTS_MAX: usize = 40;

/// Few, so that requests meet each other's items.
const KEY_COUNT: usize = 24;

/// What begins the names of items that hold numbers.
const COUNTER_MARK: &str = "n";

const COUNTER_COUNT: usize = 6;

const MAGIC: u8 = 0x80;

/// Never, in hours, and in 2038.
const EXPTIMES: [u32; 5] = [0, 0, 3600, 2_592_000, 2_147_483_647];

/// The expiry that keeps a counter from being created.
const DO_NOT_CREATE: u32 = u32::MAX;

/// set, add, replace and their quiet forms.
const STORES: [u8; 6] = [0x01, 0x02, 0x03, 0x11, 0x12, 0x13];
/// append, prepend and their quiet forms.
const JOINS: [u8; 4] = [0x0e, 0x0f, 0x19, 0x1a];
/// get, getq, getk, getkq.
const READS: [u8; 4] = [0x00, 0x09, 0x0c, 0x0d];
/// touch, gat, gatq, gatk, gatkq.
const TOUCHES: [u8; 5] = [0x1c, 0x1d, 0x1e, 0x23, 0x24];
/// delete, deleteq.
const DELETES: [u8; 2] = [0x04, 0x14];
/// incr, decr, incrq, decrq.
const COUNTS: [u8; 4] = [0x05, 0x06, 0x15, 0x16];
/// flush, flushq.
const FLUSHES: [u8; 2] = [0x08, 0x18];
/// noop, version.
const QUESTIONS: [u8; 2] = [0x0a, 0x0b];
/// stat, which may have a key.
const STAT: u8 = 0x10;
/// quit, quitq.
const QUITS: [u8; 2] = [0x07, 0x17];

/// A stream of about this many requests.
pub fn stream(seed: u64, request_count: usize) -> Vec<Batch> {
    let mut generator = Generator { random: SmallRng::seed_from_u64(seed), opaque: 0 };
    let mut batches = Vec::new();
    let mut count = 0;
    while count < request_count {
        let batch = generator.batch();
        count += batch.requests.len();
        batches.push(batch);
    }
    batches
}

/// The body of a good packet.
struct Shape {
    extras_size: usize,
    has_key: bool,
    /// A value ends the connection.
    refuses_value: bool,
}

impl Shape {
    fn of(opcode: u8) -> Self {
        let is = |opcodes: &[u8]| opcodes.contains(&opcode);
        let extras_size = match () {
            () if is(&STORES) => 8,
            () if is(&COUNTS) => 20,
            () if is(&TOUCHES) => 4,
            () => 0,
        };
        Self {
            extras_size,
            has_key: !(is(&FLUSHES) || is(&QUESTIONS) || is(&QUITS) || opcode == STAT),
            refuses_value: !(is(&STORES) || is(&JOINS) || is(&TOUCHES) || opcode == STAT),
        }
    }
}

struct Generator {
    random: SmallRng,
    opaque: u16,
}

impl Generator {
    fn one_in(&mut self, count: u32) -> bool {
        self.random.random_ratio(1, count)
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        *choices.choose(&mut self.random).expect("never empty")
    }

    fn batch(&mut self) -> Batch {
        let connection = self.random.random_range(0..CONNECTION_COUNT);
        let count_max = self.random.random_range(1..=REQUESTS_MAX);
        let count = self.random.random_range(1..=count_max);
        let mut requests: Vec<_> = (0..count).map(|_| self.request()).collect();
        if self.one_in(10) {
            requests.push(self.mistake());
        }
        let cuts_seed = self.one_in(4).then(|| self.random.random());
        Batch { connection, is_held: self.one_in(10), cuts_seed, requests }
    }

    fn request(&mut self) -> Request {
        let mut request = match self.random.random_range(0..100) {
            0..25 => self.store(),
            25..32 => self.join(),
            32..55 => self.read(),
            55..63 => self.touch(),
            63..70 => self.delete(),
            70..85 => self.count(),
            85..96 if self.one_in(200) => self.packet(0x01, &[0; 8], b"L", &vec![b'x'; 1_100_000]),
            85..96 => {
                let opcode = self.pick(&QUESTIONS);
                self.packet(opcode, b"", b"", b"")
            }
            96..98 => self.flush(),
            _ => self.unknown(),
        };
        request.is_fenced |= self.one_in(8);
        request
    }

    /// A packet without a version, or with one that was seen before.
    fn packet(&mut self, opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Request {
        let body_size = extras.len() + key.len() + value.len();
        self.packet_of_size(opcode, extras, key, value, u32::try_from(body_size).expect("a short body"))
    }

    fn packet_of_size(
        &mut self,
        opcode: u8,
        extras: &[u8],
        key: &[u8],
        value: &[u8],
        body_size: u32,
    ) -> Request {
        let key_size = u16::try_from(key.len()).expect("a short key");
        let extras_size = u8::try_from(extras.len()).expect("short extras");
        self.opaque = self.opaque.wrapping_add(1);
        let mut head = vec![MAGIC, opcode];
        head.extend_from_slice(&key_size.to_be_bytes());
        head.extend_from_slice(&[extras_size, 0, 0, 0]);
        head.extend_from_slice(&body_size.to_be_bytes());
        head.extend_from_slice(&u32::from(self.opaque).to_be_bytes());
        let has_version =
            [STORES.as_slice(), &JOINS, &DELETES, &COUNTS].concat().contains(&opcode) && self.one_in(4);
        let request = Request::of(head);
        let number = self.random.random_range(0..100);
        let request = if has_version { request.then_binary_version(number) } else { request.then([0; 8]) };
        request.then([extras, key, value].concat())
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.random.random_range(0..KEY_COUNT);
        match self.random.random_range(0..40) {
            0 => vec![b'k'; 250],
            1 => format!("two words {number}").into_bytes(),
            2 => vec![0xff, 0x80, b'\r', b'\n', 1],
            _ => format!("k{number}").into_bytes(),
        }
    }

    fn counter(&mut self) -> Vec<u8> {
        format!("{COUNTER_MARK}{}", self.random.random_range(0..COUNTER_COUNT)).into_bytes()
    }

    fn key_of_any_kind(&mut self) -> Vec<u8> {
        if self.one_in(4) { self.counter() } else { self.key() }
    }

    /// Numbers for counters, and nothing with digits for all others, so that what the reference leaves behind a counter
    /// that gets shorter is never joined to anything.
    fn value(&mut self, key: &[u8]) -> Vec<u8> {
        if key.starts_with(COUNTER_MARK.as_bytes()) {
            return self.random.random_range(0..2000_u32).to_string().into_bytes();
        }
        let size_max = self.pick(&[0, 10, 60, 60, 3_000, 40_000]);
        let size = self.random.random_range(0..=size_max);
        (0..size).map(|_| self.random.random_range(0x80..=0xff)).collect()
    }

    fn store(&mut self) -> Request {
        let (opcode, key) = (self.pick(&STORES), self.key_of_any_kind());
        let value = self.value(&key);
        let flags = self.pick(&[0, 5, u32::MAX]);
        let extras = [flags.to_be_bytes(), self.pick(&EXPTIMES).to_be_bytes()].concat();
        self.packet(opcode, &extras, &key, &value)
    }

    fn join(&mut self) -> Request {
        let (opcode, key) = (self.pick(&JOINS), self.key());
        let value = self.value(&key);
        self.packet(opcode, b"", &key, &value)
    }

    fn read(&mut self) -> Request {
        let opcode = self.pick(&READS);
        let key = self.key_of_any_kind();
        self.packet(opcode, b"", &key, b"")
    }

    fn touch(&mut self) -> Request {
        let (opcode, key) = (self.pick(&TOUCHES), self.key_of_any_kind());
        let exptime = self.pick(&EXPTIMES).to_be_bytes();
        self.packet(opcode, &exptime, &key, b"")
    }

    fn delete(&mut self) -> Request {
        let (opcode, key) = (self.pick(&DELETES), self.key_of_any_kind());
        self.packet(opcode, b"", &key, b"")
    }

    /// Never creates a counter: the reference does not end the digits of such an item, and counts on with whatever digits
    /// its memory holds behind them.
    fn count(&mut self) -> Request {
        let (opcode, key) = (self.pick(&COUNTS), self.counter());
        let (delta, initial) = (self.pick(&[0, 1, 7, 1_u64 << 48]), self.pick(&[0, 40]));
        let extras =
            [delta.to_be_bytes().as_slice(), &u64::to_be_bytes(initial), &DO_NOT_CREATE.to_be_bytes()]
                .concat();
        self.packet(opcode, &extras, &key, b"")
    }

    fn flush(&mut self) -> Request {
        let opcode = self.pick(&FLUSHES);
        let extras: &[u8] = if self.one_in(2) { &[0; 4] } else { &[] };
        self.packet(opcode, extras, b"", b"")
    }

    /// Opcodes that nobody knows, without a body: the reference swallows too much behind one that has one.
    fn unknown(&mut self) -> Request {
        let opcode = self.pick(&[0x1b, 0x30, 0x3c, 0x40, 0x7f, 0xff]);
        self.packet(opcode, b"", b"", b"")
    }

    /// What ends the connection: quitting, and what is wrong in one way or several.
    fn mistake(&mut self) -> Request {
        let quit = self.pick(&QUITS);
        let mistake = if self.one_in(5) { self.packet(quit, b"", b"", b"") } else { self.malformed() };
        mistake.closing()
    }

    /// Extras of a wrong size, a key that is missing, too long or not wanted, a value where none belongs, sizes that do not add
    /// up. Left out are the values of touch, get-and-touch and stat, which the reference reads as the next packet, and
    /// bodies over 1 GiB, which 1.6.18 waits for.
    fn malformed(&mut self) -> Request {
        let opcode = self.pick(
            &[
                STORES.as_slice(),
                &JOINS,
                &READS,
                &TOUCHES,
                &DELETES,
                &COUNTS,
                &FLUSHES,
                &QUESTIONS,
                &QUITS,
                &[STAT],
            ]
            .concat(),
        );
        let shape = Shape::of(opcode);
        let mut extras_size = shape.extras_size;
        let mut key = if shape.has_key { self.key() } else { Vec::new() };
        let mut value_size = 0;
        match self.random.random_range(0..4) {
            0 => extras_size = self.pick(&[1, 3, 5, 12, 21, 255]),
            1 if shape.has_key => key.clear(),
            2 if shape.refuses_value => value_size = self.random.random_range(1..40),
            3 => {}
            _ => key = vec![b'k'; self.pick(&[251, 300])],
        }
        let (extras, value) = (vec![0; extras_size], vec![b'v'; value_size]);
        let body_size = extras.len() + key.len() + value.len();
        let is_well_shaped =
            extras_size == shape.extras_size && (1..=250).contains(&key.len()) == shape.has_key;
        if is_well_shaped && value.is_empty() {
            return match body_size {
                // Nothing can be smaller than nothing.
                0 => self.packet(opcode, &[0], b"", b""),
                _ => {
                    let size = self.random.random_range(0..body_size);
                    let size = u32::try_from(size).expect("a short body");
                    self.packet_of_size(opcode, &extras, &key, b"", size)
                }
            };
        }
        self.packet(opcode, &extras, &key, &value)
    }
}
