//! Streams of the classic and the meta protocol: what programs send, and what they send by mistake.
//!
//! What memcached 1.6.45 answers unlike older ones, and unlike Slabring, is left out where that is the reference (`docs/compatibility.md` has
//! all of it), and the flags that it has and older ones have not are used.
//!
//! Nothing in a stream depends on the time: an item never expires, or at once, or in hours. Left out is what versions
//! 1.6.18 and 1.6.45 of memcached answer in other ways than [`Allowance`] tells: spaces before a command, NUL in a key,
//! and the meta flags that 1.6.18 does not know or ignores (`C` and `E` of mg, `E` and `x` of all, `N` and `s` of an
//! appending ms, `q` of a vivifying ma). `flush_all` with a delay is left out too: the reference brings back what an
//! earlier one has flushed. Counters are never stale, nobody wins them, and nobody asks whether they were fetched: counting ends all of that,
//! or not, as it happens (the reference makes a new item of a number while an answer with the old one is on its way).

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::CONNECTION_COUNT;
use super::stream::{Allowance, Batch, Request};
use crate::server::Version;

const REQUESTS_MAX: usize = 40;

/// From this version on the reference reads lines with a parser of its own.
const NEWEST: Version = Version(1, 6, 45);

/// Few, so that requests meet each other's items.
const KEY_COUNT: usize = 24;

/// What begins the names of items that hold numbers.
const COUNTER_MARK: char = 'n';

const COUNTER_COUNT: usize = 6;

/// Bytes an item has beside a value: with a key of one byte and no flags, the largest value is this much below 1 MiB.
const ITEM_OVERHEAD: usize = 60;

const LARGEST_VALUE_SIZE: usize = (1 << 20) - ITEM_OVERHEAD;

/// Times that no test waits for: never, at once, in hours, and in the year 2038.
const EXPTIMES: &[&str] = &["0", "0", "0", "-1", "3600", "2592000", "2147483647", "-2147483648"];

/// What an integer argument is by mistake.
const NO_NUMBERS: &[&str] = &["abc", "", "1x", "-", "--1", "1.5", "0x10", "99999999999999999999999"];

/// Numbers, and one above them all. However often they are added up, a counter stays below 2^63: about a larger one the
/// reference looks for a minus sign in its memory behind the value too, and refuses to count if there is one.
const NUMBERS: &[&str] =
    &["0", "1", "7", "99", "4294967296", "281474976710656", "18446744073709551616", "00012"];

const OPAQUE_TOO_LONG: &str = " O12345678901234567890123456789012345";

const STORE_VERBS: &[&str] = &["set", "add", "replace", "append", "prepend"];
const READ_VERBS: &[&str] = &["get", "gets", "get", "gets"];

/// A stream of about this many requests for that version of the reference.
pub fn stream(seed: u64, request_count: usize, reference: Version) -> Vec<Batch> {
    let is_newest = reference >= NEWEST;
    let mut generator = Generator { random: SmallRng::seed_from_u64(seed), is_newest };
    let mut batches = Vec::new();
    let mut count = 0;
    while count < request_count {
        let batch = generator.batch();
        count += batch.requests.len();
        batches.push(batch);
    }
    batches
}

struct Generator {
    random: SmallRng,
    /// The reference is the newest one.
    is_newest: bool,
}

impl Generator {
    fn one_in(&mut self, count: u32) -> bool {
        self.random.random_ratio(1, count)
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices.choose(&mut self.random).expect("never empty")
    }

    fn batch(&mut self) -> Batch {
        let connection = self.random.random_range(0..CONNECTION_COUNT);
        if self.one_in(100) {
            let is_large = self.is_newest || self.one_in(3);
            let alone = if is_large { self.large() } else { self.read_of_a_key_too_long() };
            return Batch { connection, is_held: false, cuts_seed: None, requests: vec![alone] };
        }
        let count_max = self.random.random_range(1..=REQUESTS_MAX);
        let count = self.random.random_range(1..=count_max);
        let mut requests: Vec<_> = (0..count).map(|_| self.request()).collect();
        if self.one_in(100) {
            requests.push(Request::of("quit\r\n").closing());
        }
        let cuts_seed = self.one_in(4).then(|| self.random.random());
        Batch { connection, is_held: self.one_in(10), cuts_seed, requests }
    }

    fn request(&mut self) -> Request {
        let mut request = match self.random.random_range(0..100) {
            0..22 => self.store(),
            22..42 => self.read(),
            42..46 => self.get_and_touch(),
            46..51 => self.delete(),
            51..58 => self.count(),
            58..61 => self.touch(),
            61..67 => self.compare_and_swap(),
            67..74 => self.meta_get(),
            74..82 => self.meta_set(),
            82..86 => self.meta_delete(),
            86..91 => self.meta_arithmetic(),
            91..92 => self.meta_debug(),
            92..97 => self.mistake(),
            _ => self.administration(),
        };
        request.is_fenced |= self.one_in(8);
        request
    }

    fn counter(&mut self) -> String {
        format!("{COUNTER_MARK}{}", self.random.random_range(0..COUNTER_COUNT))
    }

    fn key(&mut self) -> String {
        if self.one_in(4) { self.counter() } else { self.key_of_text() }
    }

    fn key_of_text(&mut self) -> String {
        let number = self.random.random_range(0..KEY_COUNT);
        match self.random.random_range(0..40) {
            0 => "k".repeat(250),
            1 => format!("tab\t{number}"),
            2 => format!("ünïcode{number}"),
            3 => format!("\u{1}\u{7f}{number}"),
            _ => format!("k{number}"),
        }
    }

    /// What a key may hold: numbers under the names of counters, and nothing with digits under all others. When a counter
    /// gets shorter the reference leaves spaces behind it, or not, as it happens; whatever is joined to it shows them.
    fn value(&mut self, key: &str) -> Vec<u8> {
        const SPECIAL: [&[u8]; 5] = [b"", b"\r\n", b"END\r\n", b"\r\nSTORED\r\n", b"VALUE k 0 x\r\nx"];
        const NUMBERS: [&str; 6] =
            ["4611686018427387903", "0", " 12", "12 ", "99999999999999999999999", "abc"];
        if key.starts_with(COUNTER_MARK) {
            let number = self.random.random_range(0..2000_u32).to_string();
            return if self.one_in(4) { self.pick(&NUMBERS).into() } else { number.into_bytes() };
        }
        match self.random.random_range(0..20) {
            0..4 => SPECIAL.choose(&mut self.random).expect("never empty").to_vec(),
            4 => self.bytes(40_000),
            5..8 => self.bytes(3_000),
            _ => self.bytes(60),
        }
    }

    fn bytes(&mut self, size_max: usize) -> Vec<u8> {
        let size = self.random.random_range(0..=size_max);
        let alphabet: &[u8] = if self.one_in(3) { b"\0\r\n \x80\xff" } else { b"abcdefgh" };
        (0..size).map(|_| *alphabet.choose(&mut self.random).expect("never empty")).collect()
    }

    fn flags(&mut self) -> &'static str {
        self.pick(&["0", "0", "0", "5", "65536", "4294967295"])
    }

    fn exptime(&mut self) -> &'static str {
        self.pick(EXPTIMES)
    }

    fn no_exptime(&mut self) -> &'static str {
        match self.pick(NO_NUMBERS) {
            "-" if self.is_newest => "abc",
            mistake => mistake,
        }
    }

    fn number(&mut self) -> &'static str {
        if self.one_in(12) { self.pick(NO_NUMBERS) } else { self.pick(NUMBERS) }
    }

    fn noreply(&mut self) -> &'static str {
        if self.one_in(5) { " noreply" } else { "" }
    }

    fn line_end(&mut self) -> &'static str {
        if self.one_in(20) { "\n" } else { "\r\n" }
    }

    fn store(&mut self) -> Request {
        let verb = self.pick(STORE_VERBS);
        let is_joined = ["append", "prepend"].contains(&verb);
        let key = if is_joined { self.key_of_text() } else { self.key() };
        let (flags, exptime, noreply) = (self.flags(), self.exptime(), self.noreply());
        let value = self.value(&key);
        self.with_value(Request::of(format!("{verb} {key} {flags} {exptime}")), value, noreply)
    }

    fn compare_and_swap(&mut self) -> Request {
        let (key, flags, exptime) = (self.key(), self.flags(), self.exptime());
        let value = self.value(&key);
        let noreply = self.noreply();
        let version = self.random.random_range(0..100);
        Request::of(format!("cas {key} {flags} {exptime} {} ", value.len()))
            .then_version(version)
            .then(format!("{noreply}\r\n"))
            .then(value)
            .then("\r\n")
    }

    /// ` SIZE TAIL` and a value, which is sometimes not of that size.
    fn with_value(&mut self, head: Request, value: Vec<u8>, tail: &str) -> Request {
        const MISSING: &str = "\r\nABCDEFGH\r\n";
        let size = value.len();
        let line_end = self.line_end();
        match self.random.random_range(0..40) {
            // The rest of a value that is longer than it should be is a line of its own, and must not be a command.
            0 if size > 4 => {
                let value = vec![b'A'; size];
                head.then(format!(" {}{tail}{line_end}", size - 3)).then(value).then("\r\n")
            }
            // A value that is shorter takes the beginning of the next line.
            1 => head.then(format!(" {}{tail}{line_end}", size + 5)).then(value).then(MISSING),
            _ => head.then(format!(" {size}{tail}{line_end}")).then(value).then("\r\n"),
        }
    }

    fn keys(&mut self) -> String {
        let count_max = self.random.random_range(1..=30);
        let count = if self.one_in(2) { 1 } else { self.random.random_range(1..=count_max) };
        let keys: Vec<_> = (0..count).map(|_| self.key()).collect();
        keys.join(if self.one_in(20) { "  " } else { " " })
    }

    fn read(&mut self) -> Request {
        let verb = self.pick(READ_VERBS);
        let keys = self.keys();
        Request::of(format!("{verb} {keys}{}", self.line_end()))
    }

    fn get_and_touch(&mut self) -> Request {
        let verb = self.pick(&["gat", "gats"]);
        let exptime = self.exptime();
        let keys = self.keys();
        Request::of(format!("{verb} {exptime} {keys}{}", self.line_end()))
    }

    fn delete(&mut self) -> Request {
        let rest = if self.is_newest { "" } else { " a b c" };
        let tail = self.pick(&["", "", "", " 0", " noreply", " 0 noreply", rest]);
        Request::of(format!("delete {}{tail}{}", self.key(), self.line_end()))
    }

    fn count(&mut self) -> Request {
        let verb = self.pick(&["incr", "decr"]);
        let key = self.counter();
        let delta = if verb == "decr" && self.one_in(8) { "18446744073709551615" } else { self.number() };
        let noreply = self.noreply();
        Request::of(format!("{verb} {key} {delta}{noreply}{}", self.line_end()))
    }

    fn touch(&mut self) -> Request {
        let exptime = if self.one_in(12) { self.no_exptime() } else { self.exptime() };
        let noreply = self.noreply();
        Request::of(format!("touch {} {exptime}{noreply}\r\n", self.key()))
    }

    /// A key as a meta command has it, and whether it is base64.
    fn meta_key(&mut self) -> (String, &'static str) {
        // q1 to q6, which nobody asks for by these names: the reference tells the base64 name then. Bytes that are
        // no text, and what is no base64.
        const ENCODED: &[&str] =
            &["cTE=", "cTI=", "cTM=", "cTQ=", "cTU=", "cTY=", "AAEC/w==", "Zm9vIGJhcg==", "!!"];
        if self.one_in(8) { (self.pick(ENCODED).to_owned(), " b") } else { (self.key(), "") }
    }

    /// Some of these flags, in random order.
    fn some_flags(&mut self, known: &[&str]) -> String {
        let count = self.random.random_range(0..=known.len().min(6));
        known.sample(&mut self.random, count).map(|flag| format!(" {flag}")).collect()
    }

    /// The same, and rarely one that is wrong.
    fn meta_flags(&mut self, known: &[&str]) -> String {
        const WRONG: &[&str] = &[" !", OPAQUE_TOO_LONG, " q q", " Tabc", " é", " Nx", " Dx", " Z"];
        let wrong = if self.one_in(25) { self.pick(WRONG) } else { "" };
        let wrong = if self.is_newest { wrong.replace(['!', 'é'], "Tabc") } else { wrong.to_owned() };
        self.some_flags(known) + &wrong
    }

    /// Flags of an `mg`. It creates no item under a base64 key, which 1.6.18 forgets to be one, and no counter: that would
    /// be empty, and the reference counts on with what lies behind an empty value.
    fn meta_get_flags(&mut self, key: &str, b: &str) -> String {
        const READING: &[&str] =
            &["v", "v", "k", "f", "s", "c", "t", "h", "l", "u", "q", "Oabc", "T0", "T3600", "R60", "R7200"];
        const CREATING: &[&str] =
            &["v", "k", "f", "s", "c", "t", "h", "l", "u", "q", "Oabc", "N0", "N3600", "T3600"];
        let can_create = b.is_empty() && !key.starts_with(COUNTER_MARK) && self.one_in(3);
        let known = if can_create { CREATING } else { READING };
        let is_known = |flag: &&&str| !["h", "R7200"].contains(*flag) || !key.starts_with(COUNTER_MARK);
        let known: Vec<_> = known.iter().filter(is_known).copied().collect();
        // The reference creates the item before it finds the mistake.
        if can_create { self.some_flags(&known) } else { self.meta_flags(&known) }
    }

    fn meta_get(&mut self) -> Request {
        let (key, b) = self.meta_key();
        let flags = self.meta_get_flags(&key, b);
        Request::of(format!("mg {key}{b}{flags}{}", self.line_end()))
    }

    fn meta_set(&mut self) -> Request {
        const JOINING: &[&str] = &["MA", "MP"];
        const FLAGS: &[&str] = &[
            "k",
            "c",
            "q",
            "Oabc",
            "F5",
            "F4294967295",
            "T0",
            "T3600",
            "T-1",
            "MS",
            "ME",
            "MR",
            "MA",
            "MP",
            "Mx",
        ];
        let (key, b) = self.meta_key();
        // 1.6.18 forgets that a key is base64 when something is joined to its value.
        let is_joinable = !key.starts_with(COUNTER_MARK) && b.is_empty();
        let mut known: Vec<_> =
            FLAGS.iter().filter(|flag| is_joinable || !JOINING.contains(flag)).copied().collect();
        if self.is_newest {
            known.push("s");
        }
        // An item that joining makes under a base64 key is not known to be one.
        if self.is_newest && b.is_empty() {
            known.extend(["N3600", "N0"]);
        }
        let flags = self.meta_flags(&known);
        let value = self.value(&key);
        let tail = format!("{b}{flags}");
        if self.one_in(12) && !key.starts_with(COUNTER_MARK) {
            // Lower than any version, or higher: which of two items is the older one is not the same for all servers.
            let version = self.pick(&["1", "999999999999999"]);
            return self.with_value(Request::of(format!("ms {key}")), value, &format!("{tail} I C{version}"));
        }
        if self.one_in(5) {
            let version = self.random.random_range(0..100);
            return Request::of(format!("ms {key} {}{tail} C", value.len()))
                .then_version(version)
                .then("\r\n")
                .then(value)
                .then("\r\n");
        }
        self.with_value(Request::of(format!("ms {key}")), value, &tail)
    }

    fn meta_delete(&mut self) -> Request {
        const FLAGS: &[&str] = &["k", "q", "Oabc", "I", "T0", "T3600", "Ox", "q"];
        let (key, b) = self.meta_key();
        let is_known = |flag: &&&str| **flag != "I" || !key.starts_with(COUNTER_MARK);
        let mut known: Vec<_> = FLAGS.iter().filter(is_known).copied().collect();
        // 1.6.45 forgets that a key is base64 when the value goes.
        if self.is_newest && b.is_empty() && !key.starts_with(COUNTER_MARK) {
            known.push("x");
        }
        let flags = self.meta_flags(&known);
        let request = Request::of(format!("md {key}{b}{flags}"));
        let version = self.random.random_range(0..100);
        if self.one_in(3) {
            request.then(" C").then_version(version).then("\r\n")
        } else {
            request.then("\r\n")
        }
    }

    /// Without `T`: in the reference it counts or not, depending on who reads the item.
    fn meta_arithmetic(&mut self) -> Request {
        const FLAGS: &[&str] = &[
            "v",
            "t",
            "c",
            "k",
            "Oabc",
            "N0",
            "N3600",
            "J13",
            "J281474976710655",
            "D1",
            "D0",
            "D281474976710656",
            "MI",
            "MD",
            "M+",
        ];
        let key = self.counter();
        let is_creating = self.one_in(2);
        let is_known = |flag: &&&str| is_creating || !flag.starts_with('N');
        let known: Vec<_> = FLAGS.iter().filter(is_known).copied().collect();
        // The reference creates or counts before it finds some mistakes.
        let flags = if is_creating { self.some_flags(&known) } else { self.meta_flags(&known) };
        let flags = flags.replace(OPAQUE_TOO_LONG, "");
        let quiet = if !flags.contains('N') && self.one_in(5) { " q" } else { "" };
        Request::of(format!("ma {key}{flags}{quiet}\r\n"))
    }

    fn meta_debug(&mut self) -> Request {
        Request::of(format!("me {}\r\n", self.key_of_text()))
    }

    fn administration(&mut self) -> Request {
        match self.random.random_range(0..12) {
            0 => Request::of(self.pick(&["flush_all\r\n", "flush_all 0\r\n", "flush_all noreply\r\n"])),
            1 => Request::of(self.pick(&["flush_all -1\r\n", "flush_all abc\r\n"])),
            2 => Request::of("version\r\n"),
            3 => Request::of(self.pick(&["verbosity 0\r\n", "verbosity 0 noreply\r\n", "verbosity 0 0\r\n"])),
            5 => Request::of("stats reset\r\n"),
            _ => Request::of("mn\r\n"),
        }
    }

    fn mistake(&mut self) -> Request {
        const LINES: &[&str] = &[
            "",
            "x",
            "get",
            "gets",
            "gat",
            "set",
            "set k1",
            "set k1 0 0",
            "delete",
            "incr",
            "incr k1",
            "decr k1",
            "touch",
            "touch k1",
            "mg",
            "ms",
            "md",
            "ma",
            "me",
            "verbosity",
            "GET k1",
            "Set k1 0 0 1",
            "get\tk1",
            "mnx",
            "mg k1\t",
            "stats nonsense",
            "bogus command with words",
            "noreply",
        ];
        match self.random.random_range(0..9) {
            0..4 => match self.pick(LINES) {
                "noreply" if self.is_newest => Request::of("x\r\n"),
                line => Request::of(format!("{line}{}", self.line_end())),
            },
            4 => self.refused_store(),
            5 => self.refused_size(),
            6 => self.key_too_long(),
            7 => {
                let size = self.random.random_range(1..200);
                let line: String =
                    (0..size).map(|_| char::from(self.random.random_range(33..127_u8))).collect();
                Request::of(format!("{line}\r\n"))
            }
            _ => {
                let exptime = self.no_exptime();
                let exptime = if exptime.is_empty() { "abc" } else { exptime };
                let verb = self.pick(&["gat", "gats"]);
                Request::of(format!("{verb} {exptime} k1\r\n"))
            }
        }
    }

    /// A value that belongs to a line with something wrong. It is one word that is no command.
    fn refused_store(&mut self) -> Request {
        let (flags, exptime, key) = match self.random.random_range(0..4) {
            0 => (self.pick(NO_NUMBERS), "0", "k1".to_owned()),
            1 => ("0", self.pick(NO_NUMBERS), "k1".to_owned()),
            2 => ("-1", "0", "k1".to_owned()),
            _ => ("0", "0", "k".repeat(251)),
        };
        let verb = self.pick(STORE_VERBS);
        Request::of(format!("{verb} {key} {flags} {exptime} 8\r\nABCDEFGH\r\n"))
            .allowing(Allowance::ErrorCount)
    }

    /// A line without a size, so that nobody can know where its value ends.
    fn refused_size(&mut self) -> Request {
        let size = self.pick(&["-1", "abc", "1x", "2147483647", "4294967295", "-2147483648"]);
        let head = self.pick(&["set k1 0 0", "append k1 0 0", "ms k1"]);
        Request::of(format!("{head} {size}\r\n"))
    }

    /// 1.6.18 forgets the answers to what was sent before such a read.
    fn read_of_a_key_too_long(&mut self) -> Request {
        let head = self.pick(&["get", "gets", "gat 0", "gats 0 k1", "get k1 k2"]);
        Request::of(format!("{head} {}\r\n", "k".repeat(251)))
    }

    fn key_too_long(&mut self) -> Request {
        let head = self.pick(&["delete", "touch", "incr", "mg", "md", "ma"]);
        let tail = match head {
            "touch" | "incr" => " 1",
            _ => "",
        };
        Request::of(format!("{head} {}{tail}\r\n", "k".repeat(251)))
    }

    /// A value around the largest one that is stored, and a look at it.
    fn large(&mut self) -> Request {
        let verb = self.pick(&["set", "add", "replace"]);
        let key = self.pick(&["L", "M"]);
        let size = match self.random.random_range(0..4) {
            0 => 600_000,
            1 => LARGEST_VALUE_SIZE + 100_000,
            _ => self.random.random_range(LARGEST_VALUE_SIZE - 4..=LARGEST_VALUE_SIZE + 4),
        };
        let fill = self.random.random_range(b'a'..=b'z');
        Request::of(format!("{verb} {key} 0 0 {size}\r\n"))
            .then(vec![fill; size])
            .then(format!("\r\nget {key}\r\nget k1\r\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_stream_again() {
        let describe = |seed| super::super::shrink::describe(&stream(seed, 500, NEWEST));
        assert_eq!(describe(7), describe(7));
        assert_ne!(describe(7), describe(8));
    }
}
