//! The command line: memcached's flags with memcached's meaning, and our own as long options. Parsing and checking only.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};
use slabring_engine::{Config, MEMORY_BYTES_MAX, MEMORY_BYTES_MIN, PolicyKind};
use slabring_reactor::backend::Wish;
use slabring_reactor::thread::allowed_cpus;

const MIB: usize = 1 << 20;
const THREADS_MAX: u16 = 1024;
const ITEM_SIZE_MIN: usize = 1 << 10;
const ITEM_SIZE_MAX: usize = 1 << 30;
const ITEM_SIZE_DEFAULT: usize = MIB;
/// A shard holds at least this many of the largest items: one stored, one coming in, and some air.
const ITEMS_PER_SHARD_MIN: usize = 3;

const AFTER_HELP: &str = "\
Examples:
  slabring                          a node on 127.0.0.1:11211, 64 MiB, one shard thread per CPU
  slabring -m 4096 -t 4 -c 20000    4 GiB over four shards, up to 20000 clients
  slabring -l 10.0.0.5 -p 11212     on one interface and another port

Any memcached client connects unchanged. Without -l only this machine can connect.
SIGTERM or SIGINT finishes what was received and ends; a second one ends at once.";

/// A memcached-compatible cache: one thread per core, each with its own slab shard and io_uring.
#[derive(Parser, Debug)]
#[command(name = "slabring", version, after_help = AFTER_HELP, max_term_width = 110, disable_help_flag = true)]
pub struct Arguments {
    /// TCP port to listen on.
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = 11211)]
    port: u16,

    /// UDP port; only 0 (off) is offered.
    #[arg(short = 'U', long, value_name = "PORT", default_value_t = 0, hide = true)]
    udp_port: u16,

    /// Address or name to listen on, with or without a port; may be repeated or a comma list. 0.0.0.0 is all of IPv4.
    #[arg(short = 'l', long, value_name = "ADDR", value_delimiter = ',', default_value = "127.0.0.1")]
    listen: Vec<String>,

    /// Memory of the whole node in MiB: items, index and connection buffers together.
    #[arg(short = 'm', long, value_name = "MIB", default_value_t = 64)]
    memory_limit: usize,

    /// Most clients at a time.
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1024)]
    conn_limit: usize,

    /// Shard threads, each pinned to a CPU [default: one per CPU this process may use].
    #[arg(short = 't', long, value_name = "N")]
    threads: Option<u16>,

    /// Largest item: bytes, or with suffix k, m or g; 1k to 1g.
    #[arg(short = 'I', long, value_name = "SIZE", default_value = "1m")]
    max_item_size: String,

    /// Answer with an error when memory is full instead of evicting.
    #[arg(short = 'M', long)]
    disable_evictions: bool,

    /// Ratio of neighbouring chunk sizes, above 1 [default: 1.06].
    #[arg(short = 'f', long, value_name = "FACTOR")]
    slab_growth_factor: Option<f64>,

    /// Length of the queue of connections that wait to be accepted.
    #[arg(short = 'b', long, value_name = "N", default_value_t = 1024)]
    listen_backlog: i32,

    /// Do without CAS numbers: every item reads as CAS 0.
    #[arg(short = 'C', long)]
    disable_cas: bool,

    /// Refuse `flush_all`.
    #[arg(short = 'F', long)]
    disable_flush_all: bool,

    /// Log more; -vv more still.
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    verbose: u8,

    /// How to talk to the kernel: io_uring where it is allowed (auto), io_uring or nothing (uring), epoll.
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t = IoWish::Auto)]
    io: IoWish,

    /// What goes when memory is full: chosen as it goes among S3-FIFO and TinyLFU with several windows (tinylfu), one of them
    /// for good (s3fifo, wtinylfu), plain CLOCK, the least recently (lru) or least often used (lfu), what expires
    /// first (ttl), or nothing (none, as -M).
    #[arg(long, value_name = "POLICY", default_value = "tinylfu", value_parser = policy_names())]
    policy: String,

    /// Print this help.
    #[arg(short = 'h', long, action = clap::ArgAction::HelpShort)]
    help: Option<bool>,
}

#[derive(Clone, Copy, ValueEnum, Debug)]
enum IoWish {
    Auto,
    Uring,
    Epoll,
}

/// What `--policy` takes besides the engine's own policies.
const POLICY_NONE: &str = "none";

fn policy_names() -> PossibleValuesParser {
    let names = PolicyKind::ALL.map(PolicyKind::name);
    PossibleValuesParser::new(names.into_iter().chain([POLICY_NONE]))
}

/// What the user asked for, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; at least one.
    pub listen: Vec<SocketAddr>,
    /// Memory of the node.
    pub memory_bytes: usize,
    /// Most clients at a time.
    pub max_connections: usize,
    /// Shards, at least 1.
    pub threads: u16,
    /// Largest item, counted as memcached counts it.
    pub item_size_max: usize,
    /// Evict when full.
    pub evict: bool,
    /// Ratio of neighbouring chunk sizes.
    pub growth_factor: f64,
    /// Queue of connections to be accepted.
    pub backlog: i32,
    /// Items have CAS numbers.
    pub cas_enabled: bool,
    /// `flush_all` is allowed.
    pub flush_enabled: bool,
    /// 0, 1 or 2.
    pub verbosity: usize,
    /// The backend wished for.
    pub io: Wish,
    /// What goes when memory is full.
    pub policy: PolicyKind,
}

impl Settings {
    /// A shard's part of the memory.
    pub fn shard_memory_bytes(&self) -> usize {
        self.memory_bytes / usize::from(self.threads)
    }

    /// The largest item that a shard takes, as the protocol counts it: the user's limit, or less where a shard is too
    /// small to hold an item of that size beside another that comes in.
    pub fn item_size_limit(&self) -> u32 {
        let bytes = self.item_size_max.min(self.shard_memory_bytes() / ITEMS_PER_SHARD_MIN);
        u32::try_from(bytes).expect("checked to be at most 1 GiB")
    }
}

impl Arguments {
    /// Checks everything that can be checked before the node starts.
    pub fn settings(&self) -> Result<Settings> {
        ensure!(self.udp_port == 0, "-U {}: UDP is not offered; leave -U out or give 0", self.udp_port);
        ensure!(self.conn_limit > 0, "-c 0: at least one client must be allowed");
        ensure!(self.listen_backlog > 0, "-b {}: must be above 0", self.listen_backlog);
        let growth_factor =
            self.slab_growth_factor.unwrap_or_else(|| Config::with_memory(MEMORY_BYTES_MIN).growth_factor);
        ensure!(
            growth_factor > 1.0 && growth_factor.is_finite(),
            "-f {growth_factor}: the growth factor must be above 1"
        );
        let threads = self.threads()?;
        let memory_bytes = self.memory_bytes(threads)?;
        Ok(Settings {
            listen: self.addresses()?,
            memory_bytes,
            max_connections: self.conn_limit,
            threads,
            item_size_max: self.item_size(memory_bytes, threads)?,
            evict: !self.disable_evictions && self.policy != POLICY_NONE,
            growth_factor,
            backlog: self.listen_backlog,
            cas_enabled: !self.disable_cas,
            flush_enabled: !self.disable_flush_all,
            verbosity: usize::from(self.verbose.min(2)),
            io: match self.io {
                IoWish::Auto => Wish::Auto,
                IoWish::Uring => Wish::Uring,
                IoWish::Epoll => Wish::Epoll,
            },
            // Without evictions it does not matter which.
            policy: self.policy.parse().unwrap_or_default(),
        })
    }

    fn threads(&self) -> Result<u16> {
        let threads = match self.threads {
            Some(threads) => threads,
            None => u16::try_from(allowed_cpus()?.len()).unwrap_or(THREADS_MAX).min(THREADS_MAX),
        };
        ensure!((1..=THREADS_MAX).contains(&threads), "-t {threads}: must be 1 to {THREADS_MAX}");
        Ok(threads)
    }

    fn memory_bytes(&self, threads: u16) -> Result<usize> {
        let shards = usize::from(threads);
        let bytes = self.memory_limit.saturating_mul(MIB);
        // Half a shard's memory is at most its buffers'.
        let least = (2 * shards * MEMORY_BYTES_MIN).div_ceil(MIB);
        let most = MEMORY_BYTES_MAX / MIB * shards;
        if bytes < least * MIB {
            bail!(
                "-m {}: {threads} shard threads need at least {least} MiB; raise -m or lower -t",
                self.memory_limit
            );
        }
        if bytes > most * MIB {
            bail!(
                "-m {}: {threads} shard threads hold at most {most} MiB; lower -m or raise -t",
                self.memory_limit
            );
        }
        Ok(bytes)
    }

    fn item_size(&self, memory_bytes: usize, threads: u16) -> Result<usize> {
        let text = self.max_item_size.as_str();
        let bytes = parse_size(text).with_context(|| {
            format!("-I {text}: not a size; give bytes or a number with k, m or g, such as 4m")
        })?;
        if !(ITEM_SIZE_MIN..=ITEM_SIZE_MAX).contains(&bytes) {
            bail!("-I {text}: the largest item must be 1k to 1g");
        }
        let shard = memory_bytes / usize::from(threads);
        if bytes > ITEM_SIZE_DEFAULT && bytes > shard / ITEMS_PER_SHARD_MIN {
            let mib = (ITEMS_PER_SHARD_MIN * usize::from(threads) * bytes).div_ceil(MIB);
            bail!(
                "-I {text}: each shard thread ({threads}) must have memory for {ITEMS_PER_SHARD_MIN} of the largest \
                 items; give -m {mib}, or lower -I or -t"
            );
        }
        Ok(bytes)
    }

    fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for text in &self.listen {
            let found = resolve(text, self.port).with_context(|| {
                format!("-l {text}: neither an address nor a known name; give one such as 127.0.0.1, ::1 or host:port")
            })?;
            addresses
                .extend(found.into_iter().filter(|address| !addresses.contains(address)).collect::<Vec<_>>());
        }
        ensure!(
            addresses.iter().all(|address| address.port() != 0),
            "-p 0: a node without a port serves nobody"
        );
        Ok(addresses)
    }
}

/// A number with an optional suffix k, m or g (powers of 1024).
fn parse_size(text: &str) -> Option<usize> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

/// `host`, `host:port`, `address`, `[address]:port` or `*`.
fn resolve(text: &str, port: u16) -> Result<Vec<SocketAddr>> {
    if text == "*" {
        return Ok(vec![SocketAddr::from(([0, 0, 0, 0], port))]);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found: Vec<_> = if text.contains(':') {
        text.to_socket_addrs()?.collect()
    } else {
        (text, port).to_socket_addrs()?.collect()
    };
    ensure!(!found.is_empty(), "no address");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn settings(arguments: &str) -> Result<Settings> {
        let words = std::iter::once("slabring").chain(arguments.split_whitespace());
        Arguments::try_parse_from(words)?.settings()
    }

    #[track_caller]
    fn check_refused(arguments: &str, word: &str) {
        let error = settings(arguments).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(word), "{text}");
        assert!(!text.trim().is_empty());
    }

    #[test]
    fn without_arguments_a_node_is_memcached_on_loopback() {
        let settings = settings("").unwrap();
        assert_eq!(settings.listen, [SocketAddr::from(([127, 0, 0, 1], 11211))]);
        assert_eq!((settings.memory_bytes, settings.max_connections), (64 * MIB, 1024));
        assert_eq!((settings.item_size_max, settings.evict), (MIB, true));
    }

    #[test]
    fn memcached_flags_keep_their_meaning() {
        let settings =
            settings("-p 1 -l ::1,127.0.0.2:7 -m 1024 -c 5 -t 3 -I 2m -M -f 1.5 -b 9 -C -F -vv").unwrap();
        assert_eq!(settings.listen, ["[::1]:1".parse().unwrap(), "127.0.0.2:7".parse().unwrap()]);
        assert_eq!((settings.memory_bytes, settings.max_connections, settings.threads), (1024 * MIB, 5, 3));
        assert_eq!((settings.item_size_max, settings.evict, settings.cas_enabled), (2 * MIB, false, false));
        assert_eq!((settings.backlog, settings.flush_enabled, settings.verbosity), (9, false, 2));
    }

    #[test]
    fn every_policy_can_be_named_and_none_is_no_eviction() {
        for kind in PolicyKind::ALL {
            let settings = settings(&format!("--policy {}", kind.name())).unwrap();
            assert_eq!((settings.policy, settings.evict), (kind, true));
        }
        assert!(!settings("--policy none").unwrap().evict);
    }

    #[test]
    fn small_shards_take_smaller_items_rather_than_none() {
        assert_eq!(settings("-m 64 -t 2").unwrap().item_size_limit(), 1 << 20);
        assert_eq!(settings("-m 3 -t 4").unwrap().item_size_limit(), 3 * (1 << 20) / 4 / 3);
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_flag() {
        check_refused("--policy mru", "mru");
        check_refused("-c 0", "-c 0");
        check_refused("-t 0", "-t 0");
        check_refused("-f 1", "-f 1");
        check_refused("-f nan", "-f NaN");
        check_refused("-m 0", "-m 0");
        check_refused("-m 1 -t 8", "lower -t");
        check_refused("-m 99999999999999", "-m 99999999999999");
        check_refused("-I 12x", "-I 12x");
        check_refused("-I 1000", "1k to 1g");
        check_refused("-I 2g", "1k to 1g");
        check_refused("-I 40m -t 1", "give -m 120");
        check_refused("-I 30m -t 4", "give -m 360");
        check_refused("-I m", "not a size");
        check_refused("-l no.such.name.invalid", "-l no.such.name.invalid");
        check_refused("-p 0", "-p 0");
        check_refused("-U 11211", "UDP");
        check_refused("-p 70000", "70000");
        check_refused("--no-such-flag", "--no-such-flag");
    }
}
