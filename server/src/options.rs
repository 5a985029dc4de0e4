//! What the user asked for, checked: memcached's flags with memcached's meaning, and our own. Opens and starts nothing. The
//! flags themselves are in `arguments.rs`, what is refused in `check.rs`.

mod arguments;
mod check;
mod cluster;
mod config_file;
mod extended;
mod listen;
mod sources;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use slabring_engine::PolicyKind;
use slabring_reactor::backend::Wish;

pub use arguments::{Binding, Pinning, version_line};
pub use cluster::{ClusterSettings, CoordinatorSettings};
pub use listen::{Listen, TlsUse};
pub use sources::Sources;

/// A shard holds at least this many of the largest items: one stored, one coming in, and some air.
const ITEMS_PER_SHARD_MIN: usize = 3;

/// Exit code of most refusals, as memcached's.
pub const EXIT_FAILURE: u8 = 1;
/// `EX_USAGE`: options that contradict each other or are out of range.
pub const EXIT_USAGE: u8 = 64;
/// `EX_OSERR`: the system refused an address.
pub const EXIT_SYSTEM: u8 = 71;

/// Why nothing starts, in one line, and the exit code that goes with it. A code of 0 is no refusal: the text was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// What, where and what to do.
    pub text: String,
    /// For the shell.
    pub exit_code: u8,
}

/// A unix socket to listen on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnixListen {
    /// Where.
    pub path: PathBuf,
    /// Who may connect: permission bits.
    pub mode: u32,
}

/// Who is let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authentication {
    /// Lines `user:password`.
    pub file: PathBuf,
    /// Clients prove themselves by SASL in the binary protocol, else by a `set` in text.
    pub sasl: bool,
}

/// How TLS is spoken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsSettings {
    /// PEM file of the certificate chain, and of the key if there is no other.
    pub chain: PathBuf,
    /// File of the private key.
    pub key: PathBuf,
    /// PEM file of those who sign clients' certificates.
    pub authorities: Option<PathBuf>,
    /// What is asked of clients.
    pub verify: Verify,
    /// TLS 1.2 is too old.
    pub only_1_3: bool,
}

/// What a TLS client must show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verify {
    /// Nothing.
    Nothing,
    /// A good certificate or none.
    Optional,
    /// A good certificate.
    Required,
}

/// What the user asked for, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen for TCP; none with a unix socket.
    pub listen: Vec<Listen>,
    /// The port that leads to the first shard; each next one's is the next.
    pub shard_ports: Option<u16>,
    /// Where to listen for UDP.
    pub udp: Vec<SocketAddr>,
    /// Large UDP replies also leave this machine.
    pub udp_allow_large: bool,
    /// Where to listen in the file system.
    pub unix: Option<UnixListen>,
    /// TLS, if it is spoken.
    pub tls: Option<TlsSettings>,
    /// Authentication, if it is asked for.
    pub authentication: Option<Authentication>,
    /// What clients speak.
    pub protocol: Binding,
    /// Memory of the node.
    pub memory_bytes: usize,
    /// Most clients at a time.
    pub max_connections: usize,
    /// Requests of one connection that are executed in a turn, keys of a multi-get counted one by one; at least 1.
    pub requests_per_turn: u32,
    /// Shards, at least 1.
    pub threads: u16,
    /// Whether each shard's thread keeps to one CPU.
    pub pinning: Pinning,
    /// Largest item, counted as memcached counts it.
    pub item_size_max: usize,
    /// Evict when full.
    pub evict: bool,
    /// Ratio of neighbouring chunk sizes.
    pub growth_factor: f64,
    /// Bytes that the smallest chunk holds.
    pub chunk_size_min: usize,
    /// Queue of connections to be accepted.
    pub backlog: i32,
    /// Items have CAS numbers.
    pub cas_enabled: bool,
    /// `flush_all` is allowed.
    pub flush_enabled: bool,
    /// `stats cachedump`, `stats detail` and `lru_crawler metadump` are allowed.
    pub dump_enabled: bool,
    /// `watch` is allowed.
    pub watch_enabled: bool,
    /// `shutdown` is allowed.
    pub shutdown_enabled: bool,
    /// Ends a key's prefix.
    pub prefix_delimiter: u8,
    /// Statistics by prefix are collected from the start.
    pub detail_enabled: bool,
    /// 0 to 3.
    pub verbosity: usize,
    /// Silent clients are closed after this time; 0 is never.
    pub idle_timeout_seconds: u32,
    /// A client that does not come to the end of a request is closed after this time; 0 is never.
    pub request_timeout_seconds: u32,
    /// The backend wished for.
    pub io: Wish,
    /// What goes when memory is full.
    pub policy: PolicyKind,
    /// Run in the background.
    pub daemon: bool,
    /// What the items lie in, to be there after a restart.
    pub memory_file: Option<PathBuf>,
    /// Where fences of locks are counted.
    pub lock_file: Option<PathBuf>,
    /// Where to write the process id.
    pub pid_file: Option<PathBuf>,
    /// Where to write the ports.
    pub port_file: Option<PathBuf>,
    /// Whom to become.
    pub user: Option<String>,
    /// Core dumps of any size.
    pub core_dumps: bool,
    /// The memory of items is taken from the system before the first client comes.
    pub take_memory_at_start: bool,
    /// No swapping.
    pub lock_memory: bool,
    /// The node's part in a cluster, if it has one.
    pub cluster: Option<ClusterSettings>,
    /// Every option as given, by its long name: what a reload compares.
    pub options: BTreeMap<String, String>,
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

#[cfg(test)]
mod tests;
