//! The command line's shape: memcached's short and long flags, and our own as long ones. Every long name is also a key of the
//! configuration file and, as `SLABRING_NAME`, a variable. Nothing is checked here but form.

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Parser, ValueEnum};
use slabring_engine::PolicyKind;
use slabring_protocol::Protocol;
use slabring_reactor::backend::Wish;

use crate::stats::{MEMCACHED_VERSION, SLABRING_VERSION};

const AFTER_HELP: &str = "\
Every long name is also a key of the TOML file given by --config and a variable: --memory-limit 64 is memory-limit = 64
and SLABRING_MEMORY_LIMIT=64. Flags win over variables, variables over the file.

Examples:
  slabring                          a node on 127.0.0.1:11211, 64 MiB, one shard thread per CPU
  slabring -m 4096 -t 4 -c 20000    4 GiB over four shards, up to 20000 clients
  slabring -l 10.0.0.5,[::1]:11212  on two interfaces, one with another port
  slabring -Z -o ssl_chain_cert=/etc/slabring/chain.pem,ssl_key=/etc/slabring/key.pem

Any memcached client connects unchanged. Without -l only this machine can connect.
SIGTERM or SIGINT finishes what was received and ends; a second one ends at once. SIGHUP reads the file, the certificates and
the password file again.";

/// What `--policy` takes besides the engine's own policies.
pub const POLICY_NONE: &str = "none";

fn policy_names() -> PossibleValuesParser {
    let names = PolicyKind::ALL.map(PolicyKind::name);
    PossibleValuesParser::new(names.into_iter().chain([POLICY_NONE]))
}

/// First line of the help, which clients' test suites look for, and of the version.
fn title() -> String {
    format!("memcached {MEMCACHED_VERSION} (slabring {SLABRING_VERSION})")
}

/// A memcached-compatible cache: one thread per core, each with its own slab shard and io_uring.
#[derive(Parser, Debug)]
#[command(
    name = "slabring",
    before_help = title(),
    after_help = AFTER_HELP,
    max_term_width = 110,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true,
    infer_long_args = true
)]
pub struct Arguments {
    /// TCP port to listen on; 0 for none, -1 for any free one.
    #[arg(short = 'p', long, value_name = "PORT", default_value = "11211", allow_hyphen_values = true)]
    pub port: String,

    /// UDP port; 0 for none, -1 for any free one. Without -p, TCP moves to the same port.
    #[arg(short = 'U', long, value_name = "PORT", default_value = "0", allow_hyphen_values = true)]
    pub udp_port: String,

    /// Unix socket to listen on, in place of TCP and UDP. One that nobody listens on any more is replaced.
    #[arg(short = 's', long, value_name = "PATH")]
    pub unix_socket: Option<String>,

    /// Who may use the unix socket: permission bits in octal.
    #[arg(short = 'a', long, value_name = "MASK", default_value = "0700")]
    pub unix_mask: String,

    /// Allow clients to end the server by the `shutdown` command.
    #[arg(short = 'A', long)]
    pub enable_shutdown: bool,

    /// Address or name to listen on, with or without a port; may be repeated or a comma list. `*` is all of IPv4. With -Z,
    /// prefixes choose for each address: `notls:` plain, `btls:` without and `mtls:` with certificates of clients.
    #[arg(short = 'l', long, value_name = "ADDR", default_value = "127.0.0.1", action = ArgAction::Append)]
    pub listen: Vec<String>,

    /// Run in the background. The command returns when the server serves, or says why it cannot.
    #[arg(short = 'd', long)]
    pub daemon: bool,

    /// Write the process id to a file, which is removed at the end.
    #[arg(short = 'P', long, value_name = "FILE")]
    pub pidfile: Option<String>,

    /// Allow core dumps of any size.
    #[arg(short = 'r', long)]
    pub enable_coredumps: bool,

    /// Become this user once the ports are open. For root.
    #[arg(short = 'u', long, value_name = "USER")]
    pub user: Option<String>,

    /// Memory of the whole node in MiB: items, index and connection buffers together.
    #[arg(short = 'm', long, value_name = "MIB", default_value_t = 64)]
    pub memory_limit: usize,

    /// Answer with an error when memory is full instead of evicting.
    #[arg(short = 'M', long)]
    pub disable_evictions: bool,

    /// Most clients at a time.
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1024)]
    pub conn_limit: usize,

    /// Keep all memory out of swap.
    #[arg(short = 'k', long)]
    pub lock_memory: bool,

    /// Log more than warnings and errors: -v each change of the ring, signals, and statistics every 10 s; -vv each link to another
    /// node that begins or fails too; -vvv what the libraries for HTTP and io_uring say. What clients do is told by `watch`, at no level.
    #[arg(short = 'v', long, action = ArgAction::Count)]
    pub verbose: u8,

    /// Print this help.
    #[arg(short = 'h', long, action = ArgAction::HelpShort)]
    help: Option<bool>,

    /// Print the licence.
    #[arg(short = 'i', long)]
    pub license: bool,

    /// Print the version.
    #[arg(short = 'V', long)]
    pub version: bool,

    /// Ratio of neighbouring chunk sizes, above 1 [default: 1.06].
    #[arg(short = 'f', long, value_name = "FACTOR")]
    pub slab_growth_factor: Option<f64>,

    /// Bytes of key, value and flags that the smallest chunk holds [default: 32].
    #[arg(short = 'n', long, value_name = "BYTES")]
    pub slab_min_size: Option<usize>,

    /// Take all memory for items at the start; large pages are asked for in any case.
    #[arg(short = 'L', long)]
    pub enable_largepages: bool,

    /// The character that ends a key's prefix; collects statistics by prefix.
    #[arg(short = 'D', long, value_name = "CHAR")]
    pub prefix_delimiter: Option<String>,

    /// Shard threads [default: one per CPU this process may use, by its affinity and by its cgroup's quota].
    #[arg(short = 't', long, value_name = "N")]
    pub threads: Option<u16>,

    /// Pin each shard thread to a CPU, from the first that this process may use on [default: on where there is a thread for each of
    /// them; with fewer the kernel places threads, because another process may have begun with the same CPUs].
    #[arg(long, value_enum, value_name = "WHEN")]
    pub pin: Option<Pinning>,

    /// Requests of one connection that are executed before others get their turn; each key of a multi-get is one.
    #[arg(short = 'R', long, value_name = "N", default_value_t = 256)]
    pub max_reqs_per_event: u32,

    /// Do without CAS numbers: every item reads as CAS 0.
    #[arg(short = 'C', long)]
    pub disable_cas: bool,

    /// Length of the queue of connections that wait to be accepted.
    #[arg(short = 'b', long, value_name = "N", default_value_t = 1024)]
    pub listen_backlog: i32,

    /// Which protocol clients speak: auto tells them apart by their first byte.
    #[arg(short = 'B', long, value_enum, value_name = "NAME", default_value_t = Binding::Auto)]
    pub protocol: Binding,

    /// Largest item: bytes, or with suffix k, m or g; 1k to 1g.
    #[arg(short = 'I', long, value_name = "SIZE", default_value = "1m")]
    pub max_item_size: String,

    /// Binary clients must authenticate (SASL PLAIN, with the passwords of the file that MEMCACHED_SASL_PWDB names).
    #[arg(short = 'S', long)]
    pub enable_sasl: bool,

    /// Refuse `flush_all`.
    #[arg(short = 'F', long)]
    pub disable_flush_all: bool,

    /// Refuse `stats cachedump`, `stats detail` and `lru_crawler metadump`.
    #[arg(short = 'X', long)]
    pub disable_dumping: bool,

    /// Refuse `watch`.
    #[arg(short = 'W', long)]
    pub disable_watch: bool,

    /// Text clients must authenticate with a line `user:password` of this file.
    #[arg(short = 'Y', long, value_name = "FILE")]
    pub auth_file: Option<String>,

    /// Keep the items in this file, best on tmpfs, and go on with them after a restart. An end by a signal or by `shutdown`
    /// writes what they mean to FILE.meta; a start reads that and removes it.
    #[arg(short = 'e', long, value_name = "FILE")]
    pub memory_file: Option<String>,

    /// Keep locks for clients (`lk`), and count their fences in this file, so that they rise whatever happens to the process. A
    /// node that stands alone.
    #[arg(long, value_name = "FILE")]
    pub lock_file: Option<String>,

    /// Speak TLS. Needs -o ssl_chain_cert=FILE and, unless that file holds it too, ssl_key=FILE.
    #[arg(short = 'Z', long)]
    pub enable_ssl: bool,

    /// memcached's number of NAPI ids; without effect here.
    #[arg(short = 'N', long = "napi_ids", alias = "napi-ids", value_name = "N", hide = true)]
    pub napi_ids: Option<u32>,

    /// memcached's extended options, as name=value,name,...; may be repeated. Those with an effect here: idle_timeout=SECONDS
    /// ssl_chain_cert, ssl_key, ssl_ca_cert=FILE ssl_verify_mode=0..3 ssl_min_version=2..3. The rest is taken
    /// with a warning.
    #[arg(short = 'o', long, value_name = "LIST", action = ArgAction::Append)]
    pub extended: Vec<String>,

    /// Close clients that begin a request and have not sent its end after so many seconds, unless they send 16 KiB of it a
    /// second; 0 for never.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub request_timeout: u32,

    /// How to talk to the kernel: io_uring where it is allowed (auto), io_uring or nothing (uring), epoll.
    #[arg(long, value_enum, value_name = "BACKEND", default_value_t = IoWish::Auto)]
    pub io: IoWish,

    /// What goes when memory is full: chosen as it goes among S3-FIFO and TinyLFU with several windows (tinylfu), one of them
    /// for good (s3fifo, wtinylfu), plain CLOCK, the least recently (lru) or least often used (lfu), what expires
    /// first (ttl), or nothing (none, as -M).
    #[arg(long, value_name = "POLICY", default_value = "tinylfu", value_parser = policy_names())]
    pub policy: String,

    /// Be one node of a cluster, by a TOML file of all nodes that is the same on each of them. SIGHUP reads it again. Nobody
    /// removes a node that fails.
    #[arg(long, value_name = "FILE")]
    pub cluster: Option<String>,

    /// As --cluster, by a list of where the nodes listen for each other: HOST:PORT,... or HOST:PORT=CLIENTS_HOST:PORT,... where
    /// clients do not connect to the same host at the port of -p.
    #[arg(long, value_name = "LIST", action = ArgAction::Append)]
    pub peers: Vec<String>,

    /// As --cluster, with the ring in etcd, which also tells who fails: http:// or https://HOST:PORT of each of its members.
    #[arg(long, value_name = "URLS", action = ArgAction::Append)]
    pub etcd: Vec<String>,

    /// Who signs the certificates of etcd's members, in PEM: for https://.
    #[arg(long, value_name = "FILE")]
    pub etcd_cacert: Option<String>,

    /// This node's certificates for an etcd that asks for them, in PEM.
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<String>,

    /// The key of --etcd-cert.
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<String>,

    /// File with NAME:PASSWORD for an etcd that asks for them.
    #[arg(long, value_name = "FILE")]
    pub etcd_user_file: Option<String>,

    /// Where this node stands: copies of a key are kept in different zones; with --etcd. A file of --cluster says it for each node.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,

    /// The share that this node brings when it joins, in 256ths of a full node; with --etcd. With 0 it stands by until
    /// `slabring-cli cluster join`, and is filled before it serves.
    #[arg(long, value_name = "PARTS", value_parser = clap::value_parser!(u16).range(0..=256))]
    pub weight: Option<u16>,

    /// Copies of each item, on as many nodes: 1 to 8. With --cluster the file says it; with --etcd it counts for the first ring, which
    /// waits for so many nodes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub replicas: Option<u8>,

    /// What a write waits for: nothing (async), the copies if it makes a value invalid (inval), or the copies (sync); inval
    /// unless given.
    #[arg(long, value_name = "MODE", value_parser = ["async", "inval", "sync"])]
    pub replication: Option<String>,

    /// This node's name in the cluster [default: where other nodes reach it].
    #[arg(long, value_name = "NAME")]
    pub node_id: Option<String>,

    /// Where to listen for other nodes [default: as the list or file says].
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,

    /// Where clients reach this node, told to those who look for the nodes; with --etcd [default: where it listens].
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Where other nodes reach this one; with --etcd [default: where it listens for them].
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_advertise: Option<String>,

    /// The cluster's name: nodes of another refuse each other [default: slabring].
    #[arg(long, value_name = "NAME")]
    pub cluster_id: Option<String>,

    /// File of 16 to 1024 bytes that prove that a node belongs, the same on all nodes. Needed beyond one machine.
    #[arg(long, value_name = "FILE")]
    pub cluster_secret_file: Option<String>,

    /// Send UDP replies longer than the request's own datagram could be (1400 bytes) beyond this machine too. They let anybody
    /// who forges a sender's address multiply traffic.
    #[arg(long)]
    pub udp_allow_large: bool,

    /// Give each shard a TCP port of its own beside the common one, on each address: PORT leads to the first, PORT + 1 to the
    /// second. A client that finds a key's shard by itself saves the node the way from thread to thread.
    #[arg(long, value_name = "PORT")]
    pub shard_ports: Option<u16>,

    /// Settings from a TOML file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,

    /// Print the settings as they would be used and where each comes from, or what is wrong with them; start nothing.
    #[arg(long)]
    pub check_config: bool,
}

/// Which protocol a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub enum Binding {
    /// Its first byte tells.
    Auto,
    /// Text and meta.
    Ascii,
    /// Binary.
    Binary,
}

impl Binding {
    /// Its name in `stats settings`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto-negotiate",
            Self::Ascii => "ascii",
            Self::Binary => "binary",
        }
    }
}

impl From<Binding> for Protocol {
    fn from(binding: Binding) -> Self {
        match binding {
            Binding::Auto => Self::Auto,
            Binding::Ascii => Self::Text,
            Binding::Binary => Self::Binary,
        }
    }
}

/// `--pin`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub enum Pinning {
    /// To one CPU each.
    On,
    /// The kernel places threads.
    Off,
}

impl Pinning {
    /// Its name, as it is given.
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// `--io`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub enum IoWish {
    /// See [`Wish::Auto`].
    Auto,
    /// See [`Wish::Uring`].
    Uring,
    /// See [`Wish::Epoll`].
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

/// What `-V` prints.
pub fn version_line() -> String {
    title()
}
