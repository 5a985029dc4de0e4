//! The command line: what may be asked for, in words for people. Never opens a socket.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use slabring_client::cluster::names::{ClusterId, NotAName};
use slabring_client::{Distribution, NotAnEndpoint, Options, Servers, Ttl, Wire};
use slabring_etcd::{ClusterKeys, EtcdAccess, Gateway};

use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  slabring-cli set greeting hello --ttl 10m
  slabring-cli get greeting
  slabring-cli -s 10.0.0.1,10.0.0.2 --distribution ketama-weighted get user:7
  slabring-cli -s 10.0.0.1 cluster status
  slabring-cli -s 10.0.0.1 cluster plan larger.toml
  slabring-cli cluster drain cache-3 --etcd http://10.0.0.9:2379
  slabring-cli keys --prefix user: --json

Exit status: 0 done; 1 no such item, or a condition did not hold; 2 a bad option,
key, node or file; 3 a server or etcd failed or refused; 130 interrupted.";

/// Talks to memcached servers and Slabring clusters.
#[derive(Debug, Parser)]
#[command(name = "slabring-cli", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) target: Target,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whom to ask.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Servers: HOST, HOST:PORT or the path of a unix socket, separated by commas
    #[arg(
        short,
        long,
        global = true,
        value_name = "LIST",
        default_value = "127.0.0.1:11211",
        env = "SLABRING_SERVERS",
        value_delimiter = ','
    )]
    servers: Vec<String>,

    /// The servers are nodes of one cluster: ask them for their ring
    #[arg(long, global = true)]
    cluster: bool,

    /// How keys are spread over a list of servers
    #[arg(long, global = true, value_enum, default_value = "ketama")]
    distribution: Spread,

    /// Use the meta protocol: any bytes in keys
    #[arg(long, global = true)]
    meta: bool,

    /// Longest time of a command, in milliseconds
    #[arg(long, global = true, value_name = "MS", default_value = "5000", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,

    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// [`Distribution`], as it is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Spread {
    /// As libmemcached by default
    Modulo,
    /// Jump consistent hash
    Jump,
    /// As libmemcached's ketama
    Ketama,
    /// As libmemcached's weighted ketama
    KetamaWeighted,
}

impl From<Spread> for Distribution {
    fn from(spread: Spread) -> Self {
        match spread {
            Spread::Modulo => Self::Modulo,
            Spread::Jump => Self::Jump,
            Spread::Ketama => Self::Ketama,
            Spread::KetamaWeighted => Self::KetamaWeighted,
        }
    }
}

impl Target {
    /// The servers, or what is wrong with their addresses. A command about a cluster needs no flag to say so.
    pub(crate) fn servers(&self, command: &Command) -> Result<Servers, NotAnEndpoint> {
        let texts = self.servers.iter().map(String::as_str);
        if self.cluster || matches!(command, Command::Cluster(_)) {
            Servers::ring(texts)
        } else {
            Servers::list(texts, self.distribution.into())
        }
    }

    /// Longest time of a command.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }

    /// Bounds for somebody who waits in front of a screen.
    pub(crate) fn options(&self) -> Options {
        let mut options = Options::default();
        options.wire = if self.meta { Wire::Meta } else { Wire::Text };
        options.timeout = self.timeout();
        options.try_timeout = options.timeout;
        options.connect_timeout = options.timeout;
        options
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the values of keys
    Get {
        /// Keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Store a value
    Set {
        /// Key
        key: String,
        /// Value, or `-` for what comes from standard input
        value: String,
        /// How long it lives: 90, 90s, 15m, 12h, 7d or never
        #[arg(long, default_value = "never", value_parser = ttl)]
        ttl: Ttl,
        /// The client's own number, stored beside the value
        #[arg(long, default_value = "0")]
        flags: u32,
        /// Only if there is no item
        #[arg(long, conflicts_with = "replace")]
        add: bool,
        /// Only if there is one
        #[arg(long)]
        replace: bool,
    },
    /// Remove items
    Delete {
        /// Keys
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Let an item live for another while
    Touch {
        /// Key
        key: String,
        /// How long: 90, 90s, 15m, 12h, 7d or never
        #[arg(value_parser = ttl)]
        ttl: Ttl,
    },
    /// Add to a number
    Incr {
        /// Key
        key: String,
        /// How much
        #[arg(default_value = "1")]
        delta: u64,
    },
    /// Take from a number, down to 0
    Decr {
        /// Key
        key: String,
        /// How much
        #[arg(default_value = "1")]
        delta: u64,
    },
    /// Print statistics of every server
    Stats {
        /// items, slabs, settings, sizes, conns
        #[arg(value_parser = word)]
        topic: Vec<String>,
    },
    /// List keys; every server writes its whole index
    Keys {
        /// Only those that begin so
        #[arg(long, default_value = "")]
        prefix: String,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Empty every server
    Flush {
        /// After so many seconds
        #[arg(long, value_name = "SECONDS", default_value = "0")]
        delay: u32,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Print what version every server says it is
    Version,
    /// Look at a cluster and change it
    Cluster(ClusterArguments),
}

/// What to do about a cluster, and where its ring is kept.
#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    #[command(flatten)]
    pub(crate) keeper: Keeper,

    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

/// The etcd that keeps the ring: the same options, variables and files as the nodes'.
#[derive(Debug, Args)]
pub(crate) struct Keeper {
    /// The etcd that keeps the ring: http:// or https://HOST:PORT of each of its members
    #[arg(long, global = true, value_name = "URLS", env = "SLABRING_ETCD", value_delimiter = ',')]
    etcd: Vec<String>,

    /// Who signs the certificates of etcd's members (PEM); for https://
    #[arg(long, global = true, value_name = "FILE", env = "SLABRING_ETCD_CACERT")]
    etcd_cacert: Option<PathBuf>,

    /// Certificates for an etcd that asks for them (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "SLABRING_ETCD_CERT", requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,

    /// The key of --etcd-cert
    #[arg(long, global = true, value_name = "FILE", env = "SLABRING_ETCD_KEY", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,

    /// File with NAME:PASSWORD for an etcd that asks for them
    #[arg(long, global = true, value_name = "FILE", env = "SLABRING_ETCD_USER_FILE")]
    etcd_user_file: Option<PathBuf>,

    /// The cluster's name
    #[arg(long, global = true, value_name = "NAME", env = "SLABRING_CLUSTER_ID", default_value = "slabring", value_parser = cluster_id)]
    cluster_id: ClusterId,
}

impl Keeper {
    /// The cluster's keys, if it is said which etcd has them.
    pub(crate) fn keys(&self, timeout: Duration) -> Result<Option<ClusterKeys>, Failure> {
        let urls: Vec<_> = self.etcd.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        let urls: Vec<_> = urls.into_iter().filter(|url| !url.is_empty()).collect();
        let is_url = |url: &&String| url.starts_with("http://") || url.starts_with("https://");
        if let Some(url) = urls.iter().find(|url| !is_url(url)) {
            return Err(Failure::NotAnEtcd(url.clone()));
        }
        let access = EtcdAccess {
            authorities: self.etcd_cacert.clone(),
            identity: self.etcd_cert.clone().zip(self.etcd_key.clone()),
            login: self.etcd_user_file.clone(),
        };
        let gateway = (!urls.is_empty()).then(|| Gateway::new(urls, access, timeout));
        Ok(gateway.map(|gateway| ClusterKeys::new(gateway, &self.cluster_id)))
    }
}

fn cluster_id(text: &str) -> Result<ClusterId, NotAName> {
    text.parse().map(ClusterId)
}

/// What to do about a node, and how.
#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    /// The node, by its name or an address of it
    pub(crate) node: String,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Do not wait for the end: the cluster goes on by itself
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// What to do about a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Nodes, their states, shares and balance, and what moves
    Status,
    /// Let a node serve that stands by, was drained or was taken out: it is filled before
    Join {
        #[command(flatten)]
        node: NodeArguments,
        /// Its share, in 256ths of a full node
        #[arg(long, value_name = "PARTS", value_parser = clap::value_parser!(u16).range(1..=256))]
        weight: Option<u16>,
    },
    /// Move everything away from a node; then it may be stopped
    Drain {
        #[command(flatten)]
        node: NodeArguments,
    },
    /// Give a node another share
    Weight {
        #[command(flatten)]
        node: NodeArguments,
        /// Its share, in 256ths of a full node; with 0 it holds nothing and stays a member
        #[arg(value_name = "PARTS", value_parser = clap::value_parser!(u16).range(0..=256))]
        weight: u16,
    },
    /// Compare all copies with what their primaries have, now; what differs is mended
    Scrub,
    /// Take a node out at once, as if it had died, and keep it out until `join`
    Down {
        #[command(flatten)]
        node: NodeArguments,
    },
    /// What would move if the ring were the one in a file; nothing is changed
    Plan {
        /// The ring to come, TOML or JSON
        next: PathBuf,
        /// The ring to start from; without it the cluster is asked
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
}

fn word(text: &str) -> Result<String, &'static str> {
    let is_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    match text {
        // What these say is not a name and a value.
        "cachedump" => Err("it lists items and no statistics: `slabring-cli keys` lists them"),
        "detail" => {
            Err("it answers in lines of its own, which are not shown; ask over a connection of your own")
        }
        _ if is_word => Ok(text.to_owned()),
        _ => Err("a topic is a word"),
    }
}

fn ttl(text: &str) -> Result<Ttl, String> {
    const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    if text == "never" {
        return Ok(Ttl::Never);
    }
    let unit = UNITS.iter().find_map(|(name, seconds)| Some((text.strip_suffix(name)?, *seconds)));
    let (digits, seconds) = unit.unwrap_or((text, 1));
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    match number {
        // In memcached's protocol 0 is for ever: whichever was meant, the other would be a surprise.
        Some(0) => Err("0 is no time to live: say never, or delete the item".to_owned()),
        Some(seconds) => Ok(Ttl::After(Duration::from_secs(seconds))),
        None => Err("a time is 90, 90s, 15m, 12h, 7d or never".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(ttl("never"), Ok(Ttl::Never));
        for (text, seconds) in
            [("1", 1), ("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800)]
        {
            assert_eq!(ttl(text), Ok(Ttl::After(Duration::from_secs(seconds))));
        }
        for text in
            ["", "0", "0s", "0d", "-1", "1w", "m", "1.5h", "99999999999999999999", "999999999999999999d"]
        {
            assert!(ttl(text).is_err(), "{text}");
        }
    }
}
