//! What a client is told: which servers, how keys are spread over them, and every bound.

use std::fmt;
use std::time::{Duration, Instant};

use crate::distribution::Distribution;
use crate::endpoint::{Endpoint, NotAnEndpoint};

/// Weight of a server that nobody gave one.
const WEIGHT_DEFAULT: u32 = 1;

/// What is later than this is as good as never: a century.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The moment so long after another, for any duration that a user gives: `Duration::MAX` is "for ever", and no reason to panic.
pub(crate) fn after(moment: Instant, duration: Duration) -> Instant {
    moment + duration.min(FAR)
}

/// How requests are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// memcached's classic text protocol: every server speaks it.
    #[default]
    Text,
    /// The meta protocol of memcached 1.6: any bytes in keys, and every reply but a miss says which request it answers.
    Meta,
}

/// The servers of a client, and what decides which one has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// A plain list: servers that know nothing of each other.
    List {
        /// Each with its weight, at least 1; [`Distribution::KetamaWeighted`] alone looks at it.
        servers: Vec<(Endpoint, u32)>,
        /// How keys are spread.
        distribution: Distribution,
    },
    /// A Slabring cluster, asked for its ring. Until there is one, and when an owner is away, any node is asked: each
    /// one passes a request on. When all nodes that are known have failed and none has answered meanwhile, or three answers in a row
    /// tell a ring that does not follow the one that is known, it is forgotten and the seeds are asked again, their names resolved anew,
    /// and behind them the nodes of before.
    Ring {
        /// Some of its nodes, best by names that stay: the rest are learnt.
        seeds: Vec<Endpoint>,
    },
}

impl Servers {
    /// A list, spread by `distribution`, all of the same weight. At least one server.
    ///
    /// # Errors
    /// [`NotAnEndpoint`]: a text names no server, or there is none.
    pub fn list<'t>(
        servers: impl IntoIterator<Item = &'t str>,
        distribution: Distribution,
    ) -> Result<Self, NotAnEndpoint> {
        let servers = endpoints(servers)?.into_iter().map(|server| (server, WEIGHT_DEFAULT)).collect();
        Ok(Self::List { servers, distribution })
    }

    /// One server.
    ///
    /// # Errors
    /// [`NotAnEndpoint`]: the text names no server.
    pub fn one(server: &str) -> Result<Self, NotAnEndpoint> {
        Self::list([server], Distribution::Modulo)
    }

    /// A cluster, by some of its nodes. At least one.
    ///
    /// # Errors
    /// [`NotAnEndpoint`]: a text names no server, or there is none.
    pub fn ring<'t>(seeds: impl IntoIterator<Item = &'t str>) -> Result<Self, NotAnEndpoint> {
        Ok(Self::Ring { seeds: endpoints(seeds)? })
    }
}

fn endpoints<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Vec<Endpoint>, NotAnEndpoint> {
    let endpoints: Vec<_> = texts.into_iter().map(str::parse).collect::<Result<_, _>>()?;
    if endpoints.is_empty() { Err(NotAnEndpoint) } else { Ok(endpoints) }
}

/// The bounds of a client, and how it speaks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// How requests are written.
    pub wire: Wire,
    /// Longest time of a call, retries and waiting for a connection included.
    pub timeout: Duration,
    /// Longest time of one try at one server, so that time is left for another.
    pub try_timeout: Duration,
    /// Longest time to make a connection; at most `try_timeout` counts.
    pub connect_timeout: Duration,
    /// Further tries of a command that was certainly not executed, or that changes nothing.
    pub retries: u32,
    /// Connections to one server, in use and idle together: at least 1.
    pub connections_max: usize,
    /// Failures in a row after which a server is left alone.
    pub failures_max: u32,
    /// For how long at first; it doubles with each failure to come back, up to `back_off_max`.
    pub back_off_min: Duration,
    /// For how long at most.
    pub back_off_max: Duration,
    /// How often a cluster is asked for its ring, beside other requests, when nothing suggests that it has changed: until then
    /// the node that had a key passes requests for it on.
    pub ring_interval: Duration,
    /// Whether nodes of a cluster that have a port for each shard (`--shard-ports`) are asked there: the way from thread to thread
    /// is saved, for more connections. Each node says itself how many shards it has.
    pub shard_ports: bool,
    /// Longest reply that is kept, in bytes: all values of one multi-get to one server together.
    pub reply_size_max: usize,
    /// User and password, sent on each new connection.
    pub credentials: Option<Credentials>,
    /// TLS, for TCP.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            wire: Wire::Text,
            timeout: Duration::from_secs(1),
            try_timeout: Duration::from_millis(500),
            connect_timeout: Duration::from_millis(250),
            retries: 2,
            connections_max: 16,
            failures_max: 2,
            back_off_min: Duration::from_millis(100),
            back_off_max: Duration::from_secs(5),
            ring_interval: Duration::from_secs(1),
            shard_ports: true,
            reply_size_max: 256 << 20,
            credentials: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

/// Who a client is, for servers that ask (`-Y`).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}
