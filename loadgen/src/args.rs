//! The command line: what may be asked for, in words for people, and which requests make no sense together.
//! Never opens a socket.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use slabring_protocol::KEY_SIZE_MAX;
use slabring_reactor::backend::Wish;

use crate::keys::Keys;
use crate::kind::{Kind, Mix};
use crate::popularity::Popularity;
use crate::protocol::Protocol;
use crate::route::Scheme;
use crate::sizes::Sizes;
use crate::ttl::Ttls;

/// Keys in one get at most, which no server's line or buffer limits stand in the way of.
const KEYS_PER_GET_MAX: u32 = 10_000;
const SERVERS_MAX: usize = 1024;
/// Threads with a ring each; starting so many takes seconds.
const THREADS_MAX: u32 = 256;
/// Requests in flight on a connection, for each of which there is a note.
const DEPTH_MAX: u32 = 1_000_000;
/// Keys whose writes are kept in mind, 20 bytes for each.
const VERIFIED_KEYS_MAX: u64 = 100_000_000;

const EXAMPLES: &str = "\
Other commands, each with its --help:
  slabring-load presets                  workloads that were measured somewhere, and where
  slabring-load slo --p99 1ms ...        the highest rate that keeps an objective
  slabring-load report A.json B.json --html OUT.html
                                         runs side by side on one page
  slabring-load agent 0.0.0.0:7070       takes part in runs of another machine's --coordinator

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
  Facebook's ETC pool, filled by its misses as an application would, 5 ms for each:
    slabring-load --preset etc --cache-aside --backend-delay 5 --rate 50000 -d 16
  A recorded trace ten times as fast as it was, and the hit ratio:
    slabring-load --replay cluster52.csv.zst --speed 10
  Two threads on CPUs 2 and 3, the result as JSON, and as a page with charts:
    slabring-load -t 2 --cpu 2 --json --html run.html 10.0.0.1:11211 > result.json
  Three servers, keys spread as libmemcached does:
    slabring-load --route ketama 10.0.0.1:11211 10.0.0.2:11211 10.0.0.3:11211
  A Slabring cluster, found by one of its nodes and followed while it changes:
    slabring-load --route ring 10.0.0.1:11211

Exit status: 0 if the run was completed, 1 if not, if a prefill fell short or a
value was wrong, 2 for a bad option.";

/// Drives any memcached server and measures throughput and latency.
#[derive(Clone, Parser, Debug)]
#[command(
    name = "slabring-load",
    version,
    max_term_width = 110,
    after_help = EXAMPLES,
    args_override_self = true
)]
pub(crate) struct Args {
    /// The servers: HOST, HOST:PORT, or the path of a Unix socket
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:11211")]
    pub(crate) addresses: Vec<String>,

    /// Options of a workload that was measured somewhere; `slabring-load presets` lists them. Options beside it win
    #[arg(long, value_name = "NAME", help_heading = "Workload")]
    pub(crate) preset: Option<String>,

    /// A TOML file with any of these options: `value-size = "32-1024"`. Options beside it win
    #[arg(long, value_name = "FILE", help_heading = "Workload")]
    pub(crate) config: Option<PathBuf>,

    /// Connections in total, spread over the threads; with several servers, to each of them
    #[arg(short, long, value_name = "N", default_value = "50", help_heading = "Load")]
    pub(crate) connections: NonZeroU32,

    /// Most requests in flight on a connection
    #[arg(short, long, value_name = "N", default_value = "1", help_heading = "Load")]
    pub(crate) depth: NonZeroU32,

    /// Threads, each with its own ring and its share of the connections
    #[arg(short, long, value_name = "N", default_value = "1", help_heading = "Load")]
    pub(crate) threads: NonZeroU32,

    /// Run for so long [default: 10, a trace to its end]
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
    #[arg(long, value_name = "SECONDS", value_parser = patience, default_value = "5", help_heading = "Load")]
    pub(crate) timeout: f64,

    /// Number of different keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), default_value = "100000", help_heading = "Workload")]
    pub(crate) keys: u64,

    /// Bytes in a key; distributions as for values
    #[arg(long, value_name = "BYTES", default_value = "16", help_heading = "Workload")]
    pub(crate) key_size: Sizes,

    /// Bytes in a value; MIN-MAX, normal:MEAN:DEVIATION, gpareto:LOCATION:SCALE:SHAPE or gev:LOCATION:SCALE:SHAPE
    /// gives each key a size of its own
    #[arg(long, value_name = "BYTES", default_value = "32", help_heading = "Workload")]
    pub(crate) value_size: Sizes,

    /// Mix of requests, SET first: 1:10 is one SET to ten GETs
    #[arg(
        long,
        value_name = "SET:GET",
        default_value = "0:1",
        help_heading = "Workload",
        conflicts_with = "mix"
    )]
    pub(crate) ratio: Ratio,

    /// Mix of any requests instead, with weights: get:90,set:8,delete:2. Kinds: get gets gat set add replace append
    /// prepend cas delete incr decr touch
    #[arg(long, value_name = "KIND:WEIGHT,...", help_heading = "Workload")]
    pub(crate) mix: Option<Mix>,

    /// Seconds that stored values live: 60, 60-120, or several with weights: 60@9,3600@1. 0 is for ever
    #[arg(long, value_name = "SECONDS", default_value = "0", help_heading = "Workload")]
    pub(crate) ttl: Ttls,

    /// Keys in one GET; MIN-MAX or another distribution draws anew for each
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Workload")]
    pub(crate) multiget: Sizes,

    /// Store every key first and check that each was stored
    #[arg(long, help_heading = "Workload")]
    pub(crate) prefill: bool,

    /// Which keys are asked for: uniform, zipf:S (S is the exponent, such as 0.99), hotset:KEYS:REQUESTS (two shares:
    /// hotset:0.1:0.9) or sequential
    #[arg(long, value_name = "SHAPE", default_value = "uniform", help_heading = "Workload")]
    pub(crate) distribution: Popularity,

    /// Store what a GET did not find
    #[arg(long, help_heading = "Workload")]
    pub(crate) cache_aside: bool,

    /// With --cache-aside or --replay: how long fetching takes before what was not found is stored
    #[arg(long, value_name = "MS", value_parser = milliseconds, default_value = "0", help_heading = "Workload")]
    pub(crate) backend_delay: f64,

    /// Ask what a trace asked: CTRACE01, libCacheSim's oracleGeneral or Twitter's CSV, each also compressed by zstd.
    /// What a GET does not find is stored
    #[arg(long, value_name = "FILE", help_heading = "Workload")]
    pub(crate) replay: Option<PathBuf>,

    /// What the trace is written in [default: by its name]
    #[arg(long, value_enum, requires = "replay", help_heading = "Workload")]
    pub(crate) replay_format: Option<ReplayFormat>,

    /// Play the trace at its own times, X times as fast [default: as fast as the loop goes]
    #[arg(long, value_name = "X", value_parser = rate, requires = "replay", conflicts_with = "rate", help_heading = "Workload")]
    pub(crate) speed: Option<f64>,

    /// Check every value that comes back: its key, whether it is whole, and that it is not older than what had been
    /// stored before it was asked for. Only one run at a time can do the last
    #[arg(long, help_heading = "Workload")]
    pub(crate) verify: bool,

    /// Seed of keys, mix and gaps: the same seed gives the same requests
    #[arg(long, value_name = "N", default_value = "1", help_heading = "Workload")]
    pub(crate) seed: u64,

    /// What to speak
    #[arg(long, value_enum, default_value = "text", help_heading = "Servers")]
    pub(crate) protocol: Protocol,

    /// How keys are spread over servers
    #[arg(long, value_enum, default_value = "jump", help_heading = "Servers")]
    pub(crate) route: Scheme,

    /// With --route shard: how many shards the server has
    #[arg(long, value_name = "N", help_heading = "Servers", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) shards: Option<u16>,

    /// With --route ring: the port of each node's first shard (the nodes' own --shard-ports); keys go to their shards
    #[arg(long, value_name = "PORT", help_heading = "Servers", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) shard_ports: Option<u16>,

    /// Speak TLS
    #[arg(long, help_heading = "Servers")]
    pub(crate) tls: bool,

    /// Certificates to trust, PEM
    #[arg(long, value_name = "FILE", requires = "tls", help_heading = "Servers")]
    pub(crate) tls_ca: Option<PathBuf>,

    /// Our own certificate and key, PEM, for servers that ask for one
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "Servers")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// See --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "Servers")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Name that the server's certificate must have [default: the host]
    #[arg(long, value_name = "NAME", requires = "tls", help_heading = "Servers")]
    pub(crate) tls_name: Option<String>,

    /// Believe any certificate
    #[arg(long, requires = "tls", help_heading = "Servers")]
    pub(crate) tls_insecure: bool,

    /// User and password: text authentication, SASL PLAIN in binary, AUTH in resp
    #[arg(
        long,
        value_name = "USER:PASSWORD",
        env = "SLABRING_LOAD_AUTH",
        hide_env_values = true,
        help_heading = "Servers"
    )]
    pub(crate) auth: Option<String>,

    /// Load from these agents instead of this machine
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',', help_heading = "Machine")]
    pub(crate) coordinator: Vec<String>,

    /// Pin thread i to CPU N + i
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) cpu: Option<usize>,

    /// How to talk to the kernel
    #[arg(long, value_enum, default_value = "auto", help_heading = "Machine")]
    pub(crate) io: IoWish,

    /// The result as one JSON object on standard output
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,

    /// A row for each second
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) csv: Option<PathBuf>,

    /// The latencies as an HdrHistogram log
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) hdr: Option<PathBuf>,

    /// One page with charts that needs no network
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) html: Option<PathBuf>,

    /// One progress line instead of the live view
    #[arg(long, help_heading = "Output")]
    pub(crate) plain: bool,

    /// Neither (there is none anyway when standard error is no terminal)
    #[arg(short, long, help_heading = "Output")]
    pub(crate) quiet: bool,

    /// What was typed, without passwords.
    #[arg(skip)]
    pub(crate) command: String,

    /// Nobody else writes these keys meanwhile: a value's age can be judged.
    #[arg(skip = true)]
    pub(crate) writes_alone: bool,
}

impl Args {
    /// Reads words that follow the program's name; prints help or what is wrong with them, and exits, where there is
    /// nothing to run.
    pub(crate) fn from_words(words: &[String]) -> Self {
        Self::read(words).unwrap_or_else(|error| error.exit())
    }

    /// The same for whoever lives on.
    pub(crate) fn read(words: &[String]) -> Result<Self, clap::Error> {
        let wrong = |message: String| Self::command().error(ErrorKind::ValueValidation, message);
        let all = crate::presets::expand(words).map_err(wrong)?;
        let program = std::iter::once("slabring-load");
        let mut args = Self::try_parse_from(program.chain(all.iter().map(String::as_str)))?;
        args.check().map_err(wrong)?;
        args.command = command_line("", words);
        Ok(args)
    }

    /// What no single option can know about itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.threads.get() > THREADS_MAX || self.depth.get() > DEPTH_MAX {
            return Err(format!("--threads is at most {THREADS_MAX}, --depth {DEPTH_MAX}"));
        }
        if self.verify && self.keys > VERIFIED_KEYS_MAX {
            return Err(format!("--verify takes at most {VERIFIED_KEYS_MAX} keys"));
        }
        if self.threads > self.connections {
            return Err(format!(
                "{} threads need at least as many connections, not {}",
                self.threads, self.connections
            ));
        }
        let size_min = Keys::size_min(self.keys);
        if self.key_size.fixed().is_some_and(|size| !(size_min..=KEY_SIZE_MAX).contains(&(size as usize))) {
            return Err(format!("--key-size for {} keys is {size_min} to {KEY_SIZE_MAX} bytes", self.keys));
        }
        let (keys_min, keys_max) = self.multiget.bounds();
        if keys_max == 0 || keys_max > KEYS_PER_GET_MAX || (keys_min == 0 && self.multiget.fixed().is_some())
        {
            return Err(format!("--multiget is 1 to {KEYS_PER_GET_MAX} keys"));
        }
        let mix = self.mix();
        if let Some(kind) = mix.kinds().find(|&kind| !self.protocol.speaks(kind)) {
            return Err(format!("--protocol {} has no {}", self.protocol.name(), kind.name()));
        }
        if self.verify && mix.kinds().any(|kind| matches!(kind, Kind::Append | Kind::Prepend)) {
            return Err("--verify cannot tell what values are after append and prepend".into());
        }
        if self.backend_delay > 0.0 && !self.cache_aside && self.replay.is_none() {
            return Err("--backend-delay goes with --cache-aside or --replay: nothing else fetches".into());
        }
        match (self.route, self.shards, self.addresses.len()) {
            (Scheme::Shard, None, _) => Err("--route shard needs --shards".into()),
            (Scheme::Shard, Some(_), 2..) => Err("--route shard is for one server".into()),
            (scheme, Some(_), _) if scheme != Scheme::Shard => Err("--shards goes with --route shard".into()),
            (_, _, count) if count > SERVERS_MAX => Err(format!("{SERVERS_MAX} servers at most")),
            _ => Ok(()),
        }?;
        if self.shard_ports.is_some() && self.route != Scheme::Ring {
            return Err("--shard-ports goes with --route ring; for one server it is --route shard".into());
        }
        if self.auth.as_ref().is_some_and(|auth| !auth.contains(':')) {
            return Err("--auth is USER:PASSWORD".into());
        }
        Ok(())
    }

    /// What is asked for how often.
    pub(crate) fn mix(&self) -> Mix {
        let Ratio { sets, gets } = self.ratio;
        self.mix.clone().unwrap_or_else(|| Mix::of_sets_and_gets(sets, gets))
    }

    #[cfg(test)]
    pub(crate) fn of(line: &str) -> Result<Self, String> {
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        Self::read(&words).map_err(|error| error.to_string())
    }
}

/// The words as they could be typed again, but for passwords.
pub(crate) fn command_line(command: &str, words: &[String]) -> String {
    let mut line = format!("slabring-load {command}").trim_end().to_owned();
    let mut hides_next = false;
    for word in words {
        line.push(' ');
        let is_auth = word.starts_with("--auth=");
        line.push_str(if hides_next || is_auth { "***" } else { word });
        hides_next = word == "--auth";
    }
    line
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

/// `--replay-format`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum ReplayFormat {
    /// CTRACE01
    Ctrace,
    /// libCacheSim's oracleGeneral
    Oracle,
    /// Twitter's CSV
    Twitter,
}

fn milliseconds(text: &str) -> Result<f64, String> {
    const MINUTE_MS: f64 = 60_000.0;
    match text.parse() {
        Ok(ms) if (0.0..=MINUTE_MS).contains(&ms) => Ok(ms),
        _ => Err(format!("expected milliseconds, 0 to {MINUTE_MS}")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    const DAY_SECONDS: f64 = 86_400.0;
    match text.parse() {
        Ok(seconds) if (0.0..=DAY_SECONDS).contains(&seconds) => Ok(seconds),
        _ => Err(format!("expected seconds, 0 to {DAY_SECONDS}")),
    }
}

fn patience(text: &str) -> Result<f64, String> {
    seconds(text)
        .and_then(|seconds| if seconds > 0.0 { Ok(seconds) } else { Err("no reply comes in no time".into()) })
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
        assert_eq!(args.value_size.bounds(), (32, 1024));
        assert_eq!(args.ratio, Ratio { sets: 1, gets: 10 });
        assert_eq!(Args::of("--value-size 0").unwrap().value_size.fixed(), Some(0));
        assert_eq!(Args::of("--preset etc --keys 7").unwrap().keys, 7, "options beside a preset win");
        let mix = |line: &str| Args::of(line).unwrap().mix().to_string();
        assert_eq!(mix("--preset etc"), "get:30,set:1");
        assert_eq!(mix("--preset etc --ratio 1:2"), "set:1,get:2", "also where they say it in another way");
        assert_eq!(mix("--ratio=1:2 --preset=etc"), "set:1,get:2");
        assert!(Args::of("--cache-aside --backend-delay 5").is_ok());
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
        refused("--protocol resp --mix get:1,touch:1", "resp has no touch");
        refused("--verify --mix append:1", "append");
        refused("--route shard", "--shards");
        refused("--shards 2", "--route shard");
        refused("--shard-ports 7000", "--route ring");
        refused("--multiget 0", "--multiget is 1");
        refused("--auth x", "USER:PASSWORD");
        refused("-t 257 -c 300", "--threads is at most 256");
        refused("-d 1000001", "--depth 1000000");
        refused("--verify --keys 1000000000", "--verify takes at most");
        refused("--timeout 0", "no time");
        refused("--backend-delay 5", "--cache-aside");
        refused("--mix get:1 --ratio 1:1", "cannot be used with");
        refused("--preset nosuch", "nosuch");
        refused("--config /nonexistent.toml", "/nonexistent.toml");
    }

    #[test]
    fn passwords_are_not_shown_again() {
        let args = Args::of("--auth u:secret --quiet").unwrap();
        assert_eq!(args.command, "slabring-load --auth *** --quiet");
        assert!(!format!("{:?}", Args::of("--auth=u:secret").unwrap().command).contains("secret"));
    }
}
