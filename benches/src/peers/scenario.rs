//! What is measured, and how each server and the load generator are told to do it: command lines, nothing else.

use clap::ValueEnum;

use super::Args;
use crate::process::Place;

/// One of the servers measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Rival {
    /// This project's server, with one shard
    Slabring,
    /// memcached, with one worker thread
    Memcached,
    /// redis-server, without persistence
    Redis,
    /// slabring-bench echo: the ceiling
    Echo,
    /// This project's server with two shards, where half of the keys are the other shard's; the second is beside the load
    TwoShards,
}

impl Rival {
    /// The word on the command line and in the results.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Slabring => "slabring",
            Self::Memcached => "memcached",
            Self::Redis => "redis",
            Self::Echo => "echo",
            Self::TwoShards => "two-shards",
        }
    }
}

/// What the requests of a scenario are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Requests {
    Get,
    Set,
    MultiGet,
}

/// What the server and the load meet on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    Tcp,
    Unix,
}

/// When requests start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// When a reply has come.
    Closed,
    /// At random times, at [`OPEN_LOOP_SHARE`] of what memcached can do.
    Open,
}

/// One load that all its rivals have to bear.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Scenario {
    requests: Requests,
    depth: u32,
    keys: u64,
    value_size: u32,
    link: Link,
    pub(crate) pace: Pace,
    rivals: &'static [Rival],
}

/// Keys of the 100-key multi-get.
const MULTI_GET_KEYS: u32 = 100;

/// Memory of each server: more than any scenario fills.
const SERVER_MEGABYTES: u32 = 1024;

/// What the larger values of a scenario come to in all.
const LARGE_VALUES_BYTES: u64 = 256 << 20;

const LARGE_VALUE_SIZES: [u32; 3] = [4 << 10, 64 << 10, 1 << 20];

/// Depth of the comparison of two shards with one.
const TWO_SHARDS_DEPTH: u32 = 16;

/// Part of the rate that saturates memcached.
pub(crate) const OPEN_LOOP_SHARE: f64 = 0.6;

const ALL: &[Rival] = &[Rival::Slabring, Rival::Memcached, Rival::Redis, Rival::Echo];
const CACHES: &[Rival] = &[Rival::Slabring, Rival::Memcached, Rival::Redis];
const SHARDS: &[Rival] = &[Rival::Slabring, Rival::TwoShards];

impl Scenario {
    /// All scenarios, in the order of the table.
    pub(crate) fn all(args: &Args) -> Vec<Self> {
        args.keys
            .iter()
            .flat_map(|&keys| Self::of_small_values(args, keys))
            .chain(Self::others(args))
            .collect()
    }

    fn new(args: &Args, requests: Requests, depth: u32, keys: u64) -> Self {
        let value_size = args.value_size;
        Self { requests, depth, keys, value_size, link: Link::Tcp, pace: Pace::Closed, rivals: ALL }
    }

    fn of_small_values(args: &Args, keys: u64) -> impl Iterator<Item = Self> {
        let of = move |requests| args.depths.iter().map(move |&depth| Self::new(args, requests, depth, keys));
        let multi_get = Self::new(args, Requests::MultiGet, 1, keys);
        of(Requests::Get).chain(of(Requests::Set)).chain([multi_get])
    }

    fn others(args: &Args) -> impl Iterator<Item = Self> {
        let keys = args.keys.first().copied().unwrap_or(1);
        let get = Self::new(args, Requests::Get, 1, keys);
        let large = LARGE_VALUE_SIZES.map(|value_size| {
            let keys = keys.min(LARGE_VALUES_BYTES / u64::from(value_size));
            Self { value_size, keys, rivals: CACHES, ..get }
        });
        let unix = Self { link: Link::Unix, rivals: CACHES, ..get };
        let two_shards = Self { depth: TWO_SHARDS_DEPTH, rivals: SHARDS, ..get };
        let open = Self { pace: Pace::Open, rivals: CACHES, ..get };
        large.into_iter().chain([unix, two_shards, open])
    }

    /// Its line in the table.
    pub(crate) fn name(&self) -> String {
        let Self { depth, keys, .. } = self;
        let what = match self.requests {
            Requests::Get => "GET".to_owned(),
            Requests::Set => "SET".to_owned(),
            Requests::MultiGet => format!("GET of {MULTI_GET_KEYS} keys"),
        };
        let size = match self.value_size {
            size if size >= 1 << 20 => format!(", {} MiB", size >> 20),
            size if size >= 1 << 10 => format!(", {} KiB", size >> 10),
            _ => String::new(),
        };
        let link = if self.link == Link::Unix { ", unix socket" } else { "" };
        let shards = if self.rivals == SHARDS { ", one and two shards" } else { "" };
        let pace = if self.pace == Pace::Open { ", open loop" } else { "" };
        format!("{what}{size}, depth {depth}, {keys} keys{link}{shards}{pace}")
    }

    /// Who of `servers` takes part.
    pub(crate) fn rivals(&self, servers: &[Rival]) -> Vec<Rival> {
        let is_asked =
            |rival: &Rival| servers.contains(rival) || (*rival == Rival::TwoShards && !servers.is_empty());
        self.rivals.iter().copied().filter(is_asked).collect()
    }

    /// The path of the socket that goes with a port.
    fn socket_path(port: u16) -> String {
        std::env::temp_dir().join(format!("slabring-bench-{port}.sock")).to_string_lossy().into_owned()
    }

    /// The server's command line.
    pub(crate) fn server_words(&self, args: &Args, rival: Rival, port: u16) -> Vec<String> {
        let shards = if rival == Rival::TwoShards { "2" } else { "1" };
        match rival {
            Rival::Slabring | Rival::TwoShards => {
                words(&args.slabring(), &self.cache_words(port, shards), &args.slabring_args)
            }
            Rival::Memcached => words(&args.memcached, &self.cache_words(port, shards), &args.memcached_args),
            Rival::Redis => words(&args.redis, &self.redis_words(port), &args.redis_args),
            Rival::Echo => {
                let echo = ["echo", "--port", &port.to_string(), "--io", args.io.word()].map(str::to_owned);
                words(&args.own_program(), &echo, &self.echo_words())
            }
        }
    }

    /// What Slabring and memcached are told alike.
    fn cache_words(&self, port: u16, shards: &str) -> Vec<String> {
        let memory = SERVER_MEGABYTES.to_string();
        let place = match self.link {
            Link::Tcp => {
                vec!["-l".into(), "127.0.0.1".into(), "-p".into(), port.to_string(), "-U".into(), "0".into()]
            }
            Link::Unix => vec!["-s".into(), Self::socket_path(port)],
        };
        // With its key and header a value of 1 MiB is larger than what the default allows.
        let size = if self.value_size >= 1 << 20 { &["-I", "2m"][..] } else { &[] };
        let rest = ["-t", shards, "-m", &memory, "-c", "4096"];
        place.into_iter().chain(rest.iter().chain(size).map(ToString::to_string)).collect()
    }

    fn redis_words(&self, port: u16) -> Vec<String> {
        let memory = format!("{SERVER_MEGABYTES}mb");
        let (port, socket) = match self.link {
            Link::Tcp => (port.to_string(), None),
            Link::Unix => ("0".into(), Some(Self::socket_path(port))),
        };
        let socket = socket.map_or(vec![], |path| vec!["--unixsocket".into(), path]);
        let rest = ["--save", "", "--appendonly", "no", "--maxmemory", &memory];
        let policy = ["--maxmemory-policy", "allkeys-lru", "--loglevel", "warning"];
        ["--bind", "127.0.0.1", "--port", &port]
            .iter()
            .chain(&rest)
            .chain(&policy)
            .map(ToString::to_string)
            .chain(socket)
            .collect()
    }

    /// What makes the echo server's replies as long as a cache's, and as many.
    fn echo_words(&self) -> Vec<String> {
        let (reply, values, lines) = match self.requests {
            Requests::Get => ("end", 1, 1),
            Requests::Set => ("stored", 0, 2),
            Requests::MultiGet => ("end", MULTI_GET_KEYS, 1),
        };
        let options = [
            ("--reply", reply.into()),
            ("--values", values.to_string()),
            ("--lines-per-reply", lines.to_string()),
            ("--value-size", self.value_size.to_string()),
        ];
        options.into_iter().flat_map(|(name, value)| [name.into(), value]).collect()
    }

    /// The load generator's command line for the measured run. `rate` is requests a second of an open loop.
    pub(crate) fn load_words(&self, args: &Args, rival: Rival, port: u16, rate: Option<f64>) -> Vec<String> {
        let (ratio, keys) = match self.requests {
            Requests::Get => ("0:1", 1),
            Requests::Set => ("1:0", 1),
            Requests::MultiGet => ("0:1", MULTI_GET_KEYS),
        };
        let mut own = vec![
            "--depth".into(),
            self.depth.to_string(),
            "--ratio".into(),
            ratio.into(),
            "--multiget".into(),
            keys.to_string(),
            "--duration".into(),
            args.seconds.to_string(),
        ];
        if let Some(rate) = rate {
            own.extend(["--rate".into(), format!("{rate:.0}"), "--poisson".into()]);
        }
        words(&args.load(), &own, &self.common_load_words(args, rival, port))
    }

    /// The load generator's command line that stores all keys, and asks for one.
    pub(crate) fn prefill_words(&self, args: &Args, rival: Rival, port: u16) -> Vec<String> {
        let own = ["--prefill", "--requests", "1"].map(str::to_owned);
        words(&args.load(), &own, &self.common_load_words(args, rival, port))
    }

    fn common_load_words(&self, args: &Args, rival: Rival, port: u16) -> Vec<String> {
        let protocol = if rival == Rival::Redis { &["--protocol", "resp"][..] } else { &[] };
        let options = [
            ("--connections", args.connections.to_string()),
            ("--keys", self.keys.to_string()),
            ("--value-size", self.value_size.to_string()),
            ("--io", args.io.word().into()),
        ];
        let pairs = options.into_iter().flat_map(|(name, value)| [name.into(), value]);
        let place = match self.link {
            Link::Tcp => format!("127.0.0.1:{port}"),
            Link::Unix => Self::socket_path(port),
        };
        let protocol = protocol.iter().map(ToString::to_string);
        pairs.chain(protocol).chain(["--quiet".into(), "--json".into(), place]).collect()
    }

    /// Where the server is reached when it is ready.
    pub(crate) fn place(&self, port: u16) -> Place {
        match self.link {
            Link::Tcp => Place::Port(port),
            Link::Unix => Place::Socket(Self::socket_path(port)),
        }
    }
}

fn words(program: &str, first: &[String], rest: &[String]) -> Vec<String> {
    std::iter::once(program.into()).chain(first.iter().cloned()).chain(rest.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &[String], expected: &str) {
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn scenarios_are_each_depth_of_gets_and_sets_for_each_number_of_keys_and_what_is_asked_once() {
        let names: Vec<_> =
            Scenario::all(&Args::of("--depths 1,16 --keys 9,99")).iter().map(Scenario::name).collect();
        assert_eq!(names[..3], ["GET, depth 1, 9 keys", "GET, depth 16, 9 keys", "SET, depth 1, 9 keys"]);
        assert_eq!(names[4..6], ["GET of 100 keys, depth 1, 9 keys", "GET, depth 1, 99 keys"]);
        assert_eq!(
            names[10..],
            [
                "GET, 4 KiB, depth 1, 9 keys",
                "GET, 64 KiB, depth 1, 9 keys",
                "GET, 1 MiB, depth 1, 9 keys",
                "GET, depth 1, 9 keys, unix socket",
                "GET, depth 16, 9 keys, one and two shards",
                "GET, depth 1, 9 keys, open loop",
            ]
        );
    }

    #[test]
    fn caches_are_started_alike_and_with_the_arguments_given() {
        let args = Args::of(
            "--slabring S --slabring-args=--io=epoll --memcached M --memcached-args -R --memcached-args 99",
        );
        let get = Scenario::all(&args)[0];
        let same = |shards| format!("-l 127.0.0.1 -p 7 -U 0 -t {shards} -m 1024 -c 4096");
        check(&get.server_words(&args, Rival::Slabring, 7), &format!("S {} --io=epoll", same(1)));
        check(&get.server_words(&args, Rival::TwoShards, 7), &format!("S {} --io=epoll", same(2)));
        check(&get.server_words(&args, Rival::Memcached, 7), &format!("M {} -R 99", same(1)));
    }

    #[test]
    fn loads_are_told_what_the_scenario_says() {
        let args = Args::of("--load L --seconds 2 --io uring --depths 16 --keys 9");
        let common = "--connections 50 --keys 9 --value-size 32 --io uring";
        let [get, set, multi_get, ..] = Scenario::all(&args)[..] else { panic!("three of one depth") };
        for (scenario, depth, ratio, keys) in
            [(get, 16, "0:1", 1), (set, 16, "1:0", 1), (multi_get, 1, "0:1", 100)]
        {
            let own = format!("--depth {depth} --ratio {ratio} --multiget {keys} --duration 2");
            let line = format!("L {own} {common} --quiet --json 127.0.0.1:7");
            check(&scenario.load_words(&args, Rival::Slabring, 7, None), &line);
        }
        let line = format!("L --prefill --requests 1 {common} --protocol resp --quiet --json 127.0.0.1:7");
        check(&get.prefill_words(&args, Rival::Redis, 7), &line);
    }

    #[test]
    fn the_echo_server_answers_as_a_cache_would() {
        let args = Args::of("--value-size 99 --depths 1 --keys 9");
        let [get, set, multi_get, ..] = Scenario::all(&args)[..] else { panic!("three of one depth") };
        let echo = |reply: &str, values, lines| {
            format!("--reply {reply} --values {values} --lines-per-reply {lines} --value-size 99")
        };
        check(&get.echo_words(), &echo("end", 1, 1));
        check(&set.echo_words(), &echo("stored", 0, 2));
        check(&multi_get.echo_words(), &echo("end", 100, 1));
    }

    #[test]
    fn only_those_asked_for_take_part() {
        let scenarios = Scenario::all(&Args::of(""));
        let of = |index: usize, servers: &[Rival]| scenarios[index].rivals(servers);
        assert_eq!(of(0, &[Rival::Echo, Rival::Slabring]), [Rival::Slabring, Rival::Echo]);
        let two_shards = scenarios.len() - 2;
        assert_eq!(of(two_shards, &[Rival::Slabring]), [Rival::Slabring, Rival::TwoShards]);
        assert_eq!(of(scenarios.len() - 1, &[Rival::Echo]), []);
    }
}
