//! How many items a budget holds and where every byte of it goes: the engine in this process, and whole servers.

mod report;
pub(crate) mod wire;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use slabring_engine::{Config, Expiry, KEY_SIZE_MAX, Seconds, Shard, Store};
use slabring_reactor::thread::is_root;

use crate::machine;
use crate::process::beside_this;
use crate::process::{Process, free_port};
use report::{Breakdown, Held, Holder, Report};
use wire::Wire;

const NOW: Seconds = Seconds(1_700_000_000);
const MEBIBYTE: usize = 1 << 20;
const SERVER_CPU: usize = 0;

/// Enough digits that no budget holds all the keys they make.
const KEY_BYTES_MIN: usize = 10;
const VALUE_BYTES_MAX: usize = 512 << 10;

const EXAMPLES: &str = "\
Examples:
  The engine alone, half a minute:
    slabring-bench memory
  Beside it slabring and memcached as servers, a few minutes:
    cargo build --release --workspace && target/release/slabring-bench memory --servers
  One shape in one budget:
    slabring-bench memory --memory 256 --shapes 16x32 --json";

/// Fills caches with more than they can hold, and prints how many items stay and what each costs beyond key and value.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Budgets in MiB
    #[arg(long, value_name = "MIB,...", value_delimiter = ',', default_value = "64,1024",
          value_parser = clap::value_parser!(u32).range(1..=32 << 10))]
    memory: Vec<u32>,

    /// Bytes in a key and in a value
    #[arg(long, value_name = "KEYxVALUE,...", value_delimiter = ',', default_value = "10x32,50x200,20x1000")]
    shapes: Vec<Shape>,

    /// Also start slabring and memcached, and fill them over loopback
    #[arg(long)]
    servers: bool,

    /// Without CAS values, as with -C
    #[arg(long)]
    disable_cas: bool,

    /// The slabring program [default: beside this one]
    #[arg(long, value_name = "PATH")]
    slabring: Option<PathBuf>,

    /// The memcached program
    #[arg(long, value_name = "PATH", default_value = "memcached")]
    memcached: String,

    /// The result as one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Bytes in every key and in every value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    key_bytes: usize,
    value_bytes: usize,
}

impl Shape {
    fn bytes(self) -> usize {
        self.key_bytes + self.value_bytes
    }

    /// Items that are offered to a budget: a quarter more than it could hold if they cost nothing on top.
    fn offered(self, memory_bytes: usize) -> usize {
        memory_bytes / self.bytes() * 5 / 4
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = text.split_once('x').and_then(|(key_bytes, value_bytes)| {
            Some(Self { key_bytes: key_bytes.parse().ok()?, value_bytes: value_bytes.parse().ok()? })
        });
        let fits = |shape: &Self| {
            (KEY_BYTES_MIN..=KEY_SIZE_MAX).contains(&shape.key_bytes) && shape.value_bytes <= VALUE_BYTES_MAX
        };
        shape.filter(fits).ok_or_else(|| {
            format!("expected bytes as 10x32: a key of {KEY_BYTES_MIN} to {KEY_SIZE_MAX}, a value up to {VALUE_BYTES_MAX}")
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.key_bytes, self.value_bytes)
    }
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The keys of a shape, each its number in decimal.
struct Keys(Vec<u8>);

impl Keys {
    fn new(shape: Shape) -> Self {
        Self(vec![b'0'; shape.key_bytes])
    }

    /// The next key, beginning with number 1.
    fn next(&mut self) -> &[u8] {
        for digit in self.0.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                break;
            }
            *digit = b'0';
        }
        &self.0
    }
}

/// Fills everything and prints the result.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut report = Report::default();
    for &mebibytes in &args.memory {
        for &shape in &args.shapes {
            report.held.push(fill_engine(mebibytes, shape, !args.disable_cas)?);
            if args.servers {
                report.held.push(fill_server(args, Holder::Slabring, mebibytes, shape)?);
                report.held.push(fill_server(args, Holder::Memcached, mebibytes, shape)?);
            }
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// A shard in this process; its resident bytes are what this process grew by.
fn fill_engine(mebibytes: u32, shape: Shape, cas_enabled: bool) -> anyhow::Result<Held> {
    let memory_bytes = mebibytes as usize * MEBIBYTE;
    let before_bytes = machine::resident_bytes("self")?;
    let mut shard = Shard::new(&Config { cas_enabled, ..Config::with_memory(memory_bytes) })?;
    let (mut keys, value) = (Keys::new(shape), vec![b'v'; shape.value_bytes]);
    for _ in 0..shape.offered(memory_bytes) {
        shard.store(NOW, &Store::set(keys.next(), &value, Expiry::Never));
    }
    let items = shard.counters().items;
    Ok(Held {
        holder: Holder::Engine,
        memory_bytes,
        shape,
        items,
        resident_bytes: machine::resident_bytes("self")?.saturating_sub(before_bytes),
        breakdown: Some(Breakdown::of(&shard.memory(), items, shape)),
    })
}

/// A server of its own, filled over the protocol; its resident bytes are those of the whole process.
fn fill_server(args: &Args, holder: Holder, mebibytes: u32, shape: Shape) -> anyhow::Result<Held> {
    let port = free_port()?;
    let mut server = Process::start(SERVER_CPU, &server_words(args, holder, mebibytes, port))?;
    server.wait_for_port(port)?;
    let memory_bytes = mebibytes as usize * MEBIBYTE;
    let mut wire = Wire::connect(port)?;
    wire.fill(shape, shape.offered(memory_bytes))?;
    let items = wire.stat("curr_items")?;
    Ok(Held { holder, memory_bytes, shape, items, resident_bytes: server.resident_bytes()?, breakdown: None })
}

fn server_words(args: &Args, holder: Holder, mebibytes: u32, port: u16) -> Vec<String> {
    let program = match holder {
        Holder::Memcached => args.memcached.clone(),
        Holder::Slabring | Holder::Engine => beside_this(args.slabring.as_ref(), "slabring"),
    };
    let (port, mebibytes) = (port.to_string(), mebibytes.to_string());
    let options = ["-l", "127.0.0.1", "-p", &port, "-U", "0", "-t", "1", "-m", &mebibytes];
    // memcached refuses to run as root unless told that it is meant.
    let root: &[&str] = if holder == Holder::Memcached && is_root() { &["-u", "root"] } else { &[] };
    let cas: &[&str] = if args.disable_cas { &["-C"] } else { &[] };
    std::iter::once(program).chain(options.iter().chain(root).chain(cas).map(ToString::to_string)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_shown_and_must_make_sense() {
        let shape: Shape = "10x32".parse().unwrap();
        assert_eq!((shape.key_bytes, shape.value_bytes, shape.bytes()), (10, 32, 42));
        assert_eq!(shape.to_string(), "10x32");
        for text in ["", "10", "9x1", "251x1", "10x", "10x-1", "10x999999999"] {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_count_in_decimal() {
        let mut keys = Keys::new("10x1".parse().unwrap());
        let last = (1..=1100).map(|_| String::from_utf8(keys.next().to_vec()).unwrap()).collect::<Vec<_>>();
        assert_eq!(
            (last[0].as_str(), last[8].as_str(), last[9].as_str()),
            ("0000000001", "0000000009", "0000000010")
        );
        assert_eq!(last[1099], "0000001100");
    }

    #[test]
    fn a_shard_is_filled_to_its_budget_and_every_byte_is_accounted_for() {
        let held = fill_engine(1, "50x200".parse().unwrap(), true).unwrap();
        let breakdown = held.breakdown.clone().unwrap();
        assert!((2000..4195).contains(&held.items), "{held:?}");
        let all =
            breakdown.header + breakdown.rounding + breakdown.index + breakdown.policy + breakdown.unused;
        let whole = (250.0 + all) * held.items as f64;
        assert!((whole - held.memory_bytes as f64).abs() < 1.0, "{held:?}");
        assert!(breakdown.header >= 8.0 && breakdown.rounding >= 0.0 && breakdown.unused >= 0.0, "{held:?}");
    }
}
