//! What is measured, and how each server and the load generator are told to do it: command lines, nothing else.

use clap::ValueEnum;

use crate::compare::Args;

/// One of the servers compared.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Rival {
    /// This project's server, with one shard
    Slabring,
    /// memcached, with one worker thread
    Memcached,
    /// slabring-bench echo: the ceiling
    Echo,
}

impl Rival {
    /// The word on the command line and in the results.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Slabring => "slabring",
            Self::Memcached => "memcached",
            Self::Echo => "echo",
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

/// One load that all rivals have to bear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scenario {
    requests: Requests,
    depth: u32,
}

/// Keys of the 100-key multi-get.
const MULTI_GET_KEYS: u32 = 100;

/// Memory of each server: more than any scenario fills.
const SERVER_MEGABYTES: u32 = 1024;

impl Scenario {
    /// All scenarios, in the order of the table.
    pub(crate) fn all(depths: &[u32]) -> Vec<Self> {
        let of = |requests| depths.iter().map(move |&depth| Self { requests, depth });
        let multi_get = Self { requests: Requests::MultiGet, depth: 1 };
        of(Requests::Get).chain(of(Requests::Set)).chain([multi_get]).collect()
    }

    /// Its line in the table.
    pub(crate) fn name(&self) -> String {
        match self.requests {
            Requests::Get => format!("GET, depth {}", self.depth),
            Requests::Set => format!("SET, depth {}", self.depth),
            Requests::MultiGet => format!("GET of {MULTI_GET_KEYS} keys, depth {}", self.depth),
        }
    }

    /// The server's command line.
    pub(crate) fn server_words(&self, args: &Args, rival: Rival, port: u16) -> Vec<String> {
        let port = port.to_string();
        let megabytes = SERVER_MEGABYTES.to_string();
        let cache = ["-l", "127.0.0.1", "-p", &port, "-U", "0", "-t", "1", "-m", &megabytes, "-c", "4096"];
        match rival {
            Rival::Slabring => words(&args.slabring(), &cache, &args.slabring_args),
            Rival::Memcached => words(&args.memcached, &cache, &args.memcached_args),
            Rival::Echo => {
                let echo = ["echo", "--port", &port, "--io", args.io.word()];
                words(&args.own_program(), &echo, &self.echo_words(args))
            }
        }
    }

    /// What makes the echo server's replies as long as a cache's, and as many.
    fn echo_words(&self, args: &Args) -> Vec<String> {
        let (reply, values, lines) = match self.requests {
            Requests::Get => ("end", 1, 1),
            Requests::Set => ("stored", 0, 2),
            Requests::MultiGet => ("end", MULTI_GET_KEYS, 1),
        };
        let options = [
            ("--reply", reply.into()),
            ("--values", values.to_string()),
            ("--lines-per-reply", lines.to_string()),
            ("--value-size", args.value_size.to_string()),
        ];
        options.into_iter().flat_map(|(name, value)| [name.into(), value]).collect()
    }

    /// The load generator's command line for the measured run.
    pub(crate) fn load_words(&self, args: &Args, port: u16) -> Vec<String> {
        let (ratio, keys) = match self.requests {
            Requests::Get => ("0:1", 1),
            Requests::Set => ("1:0", 1),
            Requests::MultiGet => ("0:1", MULTI_GET_KEYS),
        };
        let (depth, seconds, keys) = (self.depth.to_string(), args.seconds.to_string(), keys.to_string());
        let options = ["--depth", &depth, "--ratio", ratio, "--multiget", &keys, "--duration", &seconds];
        words(&args.load(), &options, &common_load_words(args, port))
    }

    /// The load generator's command line that stores all keys, and asks for one.
    pub(crate) fn prefill_words(args: &Args, port: u16) -> Vec<String> {
        words(&args.load(), &["--prefill", "--requests", "1"], &common_load_words(args, port))
    }
}

fn common_load_words(args: &Args, port: u16) -> Vec<String> {
    let options = [
        ("--connections", args.connections.to_string()),
        ("--keys", args.keys.to_string()),
        ("--value-size", args.value_size.to_string()),
        ("--io", args.io.word().into()),
    ];
    let pairs = options.into_iter().flat_map(|(name, value)| [name.into(), value]);
    pairs.chain(["--quiet".into(), "--json".into(), format!("127.0.0.1:{port}")]).collect()
}

fn words(program: &str, first: &[&str], rest: &[String]) -> Vec<String> {
    let first = first.iter().map(ToString::to_string);
    std::iter::once(program.into()).chain(first).chain(rest.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &[String], expected: &str) {
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn scenarios_are_each_depth_of_gets_and_sets_and_one_multi_get() {
        let names: Vec<_> = Scenario::all(&[1, 16]).iter().map(Scenario::name).collect();
        assert_eq!(
            names,
            ["GET, depth 1", "GET, depth 16", "SET, depth 1", "SET, depth 16", "GET of 100 keys, depth 1"]
        );
    }

    #[test]
    fn caches_are_started_alike_and_with_the_arguments_given() {
        let args = Args::of(
            "--slabring S --slabring-args=--io=epoll --memcached M --memcached-args -R --memcached-args 99",
        );
        let [get, ..] = Scenario::all(&[16])[..] else { panic!("there are some") };
        let same = "-l 127.0.0.1 -p 7 -U 0 -t 1 -m 1024 -c 4096";
        check(&get.server_words(&args, Rival::Slabring, 7), &format!("S {same} --io=epoll"));
        check(&get.server_words(&args, Rival::Memcached, 7), &format!("M {same} -R 99"));
    }

    #[test]
    fn loads_are_told_what_the_scenario_says() {
        let args = Args::of("--load L --seconds 2 --io uring");
        let common = "--connections 50 --keys 100000 --value-size 32 --io uring --quiet --json 127.0.0.1:7";
        let [get, set, multi_get] = Scenario::all(&[16])[..] else { panic!("three of one depth") };
        for (scenario, depth, ratio, keys) in
            [(get, 16, "0:1", 1), (set, 16, "1:0", 1), (multi_get, 1, "0:1", 100)]
        {
            let own = format!("--depth {depth} --ratio {ratio} --multiget {keys} --duration 2");
            check(&scenario.load_words(&args, 7), &format!("L {own} {common}"));
        }
        check(&Scenario::prefill_words(&args, 7), &format!("L --prefill --requests 1 {common}"));
    }

    #[test]
    fn the_echo_server_answers_as_a_cache_would() {
        let args = Args::of("--value-size 99");
        let [get, set, multi_get] = Scenario::all(&[1])[..] else { panic!("three of one depth") };
        let echo = |reply: &str, values, lines| {
            format!("--reply {reply} --values {values} --lines-per-reply {lines} --value-size 99")
        };
        check(&get.echo_words(&args), &echo("end", 1, 1));
        check(&set.echo_words(&args), &echo("stored", 0, 2));
        check(&multi_get.echo_words(&args), &echo("end", 100, 1));
    }
}
