//! The command line: what may be asked for, in words for people, and which requests make no sense together.
//! Never opens a socket.

use std::num::NonZeroU32;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use slabring_protocol::KEY_SIZE_MAX;
use slabring_reactor::backend::Wish;

use crate::keys::Keys;
use crate::popularity::Popularity;

/// Largest value that may be asked for, in bytes.
const VALUE_SIZE_MAX: u32 = 64 << 20;

const EXAMPLES: &str = "\
Examples:
  10 s of GETs on 50 connections, after storing the keys:
    slabring-load --prefill
  One SET to ten GETs, 16 requests in flight on each connection:
    slabring-load -c 50 -d 16 --ratio 1:10
  Open loop: 100,000 requests/s whatever the server does; latency counts from when
  a request was due, so a stall of the server shows:
    slabring-load --rate 100000 --poisson --prefill
  GETs of 100 keys, skewed, each value compared with what it must be:
    slabring-load --multiget 100 --value-size 32-1024 --distribution zipf:0.99 --prefill --verify
  Two threads on CPUs 2 and 3, the result as JSON:
    slabring-load -t 2 --cpu 2 --json 10.0.0.1:11211 > result.json
  Over a Unix socket:
    slabring-load /run/memcached.sock

Exit status: 0 if the run was completed, 1 if not, if a prefill fell short or a
value was wrong, 2 for a bad option.";

/// Drives any memcached server (text protocol) and measures throughput and latency.
#[derive(Clone, Parser, Debug)]
#[command(name = "slabring-load", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The server: HOST:PORT, or the path of a Unix socket
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:11211")]
    pub(crate) address: String,

    /// Connections in total, spread over the threads
    #[arg(short, long, value_name = "N", default_value = "50", help_heading = "Load")]
    pub(crate) connections: NonZeroU32,

    /// Most requests in flight on a connection
    #[arg(short, long, value_name = "N", default_value = "1", help_heading = "Load")]
    pub(crate) depth: NonZeroU32,

    /// Threads, each with its own ring and its share of the connections
    #[arg(short, long, value_name = "N", default_value = "1", help_heading = "Load")]
    pub(crate) threads: NonZeroU32,

    /// Run for so long [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Load", conflicts_with = "requests")]
    pub(crate) duration: Option<f64>,

    /// Run for so many requests instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Load")]
    pub(crate) requests: Option<u64>,

    /// Load the server for so long before measuring
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0", help_heading = "Load", conflicts_with = "requests")]
    pub(crate) warmup: f64,

    /// Open loop: start R requests/s in total, whether or not replies come. Without it the loop is closed: a
    /// connection sends its next request when a reply arrives
    #[arg(long, value_name = "R", value_parser = rate, help_heading = "Load")]
    pub(crate) rate: Option<f64>,

    /// Open loop with random (exponential) gaps instead of even ones
    #[arg(long, requires = "rate", help_heading = "Load")]
    pub(crate) poisson: bool,

    /// Give up when a reply takes longer
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "5", help_heading = "Load")]
    pub(crate) timeout: f64,

    /// Number of different keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), default_value = "100000", help_heading = "Requests")]
    pub(crate) keys: u64,

    /// Bytes in a key
    #[arg(long, value_name = "BYTES", default_value = "16", help_heading = "Requests")]
    pub(crate) key_size: usize,

    /// Bytes in a value; MIN-MAX gives each key a size of its own in between
    #[arg(long, value_name = "BYTES", default_value = "32", help_heading = "Requests")]
    pub(crate) value_size: Sizes,

    /// Mix of requests, SET first: 1:10 is one SET to ten GETs
    #[arg(long, value_name = "SET:GET", default_value = "0:1", help_heading = "Requests")]
    pub(crate) ratio: Ratio,

    /// Keys in one GET
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Requests")]
    pub(crate) multiget: NonZeroU32,

    /// Store every key first and check that each was stored
    #[arg(long, help_heading = "Requests")]
    pub(crate) prefill: bool,

    /// Which keys are asked for: uniform, zipf:S (S is the exponent, such as 0.99) or sequential
    #[arg(long, value_name = "SHAPE", default_value = "uniform", help_heading = "Requests")]
    pub(crate) distribution: Popularity,

    /// Compare every value that comes back with the one its key must have
    #[arg(long, help_heading = "Requests")]
    pub(crate) verify: bool,

    /// Seed of keys, mix and gaps: the same seed gives the same requests
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Requests")]
    pub(crate) seed: u64,

    /// Pin thread i to CPU N + i
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) cpu: Option<usize>,

    /// How to talk to the kernel
    #[arg(long, value_enum, default_value = "auto", help_heading = "Machine")]
    pub(crate) io: IoWish,

    /// The result as one JSON object on standard output
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,

    /// No progress line (there is none anyway when standard error is no terminal)
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,
}

impl Args {
    /// Reads the command line; prints help or what is wrong with it, and exits, where there is nothing to run.
    pub(crate) fn from_command_line() -> Self {
        let args = Self::parse();
        if let Err(message) = args.check() {
            Self::command().error(ErrorKind::ValueValidation, message).exit();
        }
        args
    }

    /// What no single option can know about itself.
    fn check(&self) -> Result<(), String> {
        if self.threads > self.connections {
            return Err(format!(
                "{} threads need at least as many connections, not {}",
                self.threads, self.connections
            ));
        }
        let size_min = Keys::size_min(self.keys);
        if !(size_min..=KEY_SIZE_MAX).contains(&self.key_size) {
            return Err(format!("--key-size for {} keys is {size_min} to {KEY_SIZE_MAX} bytes", self.keys));
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn of(line: &str) -> Result<Self, String> {
        let words = std::iter::once("slabring-load").chain(line.split_whitespace());
        let args = Self::try_parse_from(words).map_err(|error| error.to_string())?;
        args.check()?;
        Ok(args)
    }
}

/// Bytes in a value: from `min` to `max`, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sizes {
    pub(crate) min: u32,
    pub(crate) max: u32,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        match (min.parse(), max.parse()) {
            (Ok(min), Ok(max)) if min <= max && max <= VALUE_SIZE_MAX => Ok(Self { min, max }),
            _ => Err(format!("expected BYTES or MIN-MAX, at most {VALUE_SIZE_MAX}")),
        }
    }
}

/// How many SETs go with how many GETs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ratio {
    pub(crate) sets: u32,
    pub(crate) gets: u32,
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EACH_MAX: u32 = 1_000_000;
        let numbers = text.split_once(':').map(|(sets, gets)| (sets.parse(), gets.parse()));
        match numbers {
            Some((Ok(sets), Ok(gets))) if sets <= EACH_MAX && gets <= EACH_MAX && sets + gets > 0 => {
                Ok(Self { sets, gets })
            }
            _ => Err("expected SET:GET, two whole numbers such as 1:10, not both 0".into()),
        }
    }
}

/// `--io`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum IoWish {
    /// io_uring where the machine allows it, else epoll
    Auto,
    /// io_uring or nothing
    Uring,
    /// epoll
    Epoll,
}

impl From<IoWish> for Wish {
    fn from(wish: IoWish) -> Self {
        match wish {
            IoWish::Auto => Self::Auto,
            IoWish::Uring => Self::Uring,
            IoWish::Epoll => Self::Epoll,
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    const DAY_SECONDS: f64 = 86_400.0;
    match text.parse() {
        Ok(seconds) if (0.0..=DAY_SECONDS).contains(&seconds) => Ok(seconds),
        _ => Err(format!("expected seconds, 0 to {DAY_SECONDS}")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    const RATE_MAX: f64 = 1e9;
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(rate),
        _ => Err(format!("expected requests per second, above 0, at most {RATE_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(line: &str, because: &str) {
        let error = Args::of(line).unwrap_err();
        assert!(error.contains(because), "{line}: {error}");
    }

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_and_ratios_are_read_as_written() {
        let args = Args::of("--value-size 32-1024 --ratio 1:10").unwrap();
        assert_eq!(args.value_size, Sizes { min: 32, max: 1024 });
        assert_eq!(args.ratio, Ratio { sets: 1, gets: 10 });
        assert_eq!(Args::of("--value-size 0").unwrap().value_size, Sizes { min: 0, max: 0 });
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        refused("--ratio 0:0", "not both 0");
        refused("--ratio 5", "SET:GET");
        refused("--value-size 9-3", "MIN-MAX");
        refused("--threads 8 --connections 4", "at least as many connections");
        refused("--keys 1000000 --key-size 4", "--key-size for 1000000 keys is 7 to 250");
        refused("--key-size 251", "to 250 bytes");
        refused("--poisson", "--rate");
        refused("--rate 0", "above 0");
        refused("--rate nan", "above 0");
        refused("--duration 3 --requests 5", "cannot be used with");
        refused("--distribution zipf", "zipf:S");
        refused("--connections 0", "invalid value");
    }
}
