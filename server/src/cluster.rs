//! What the threads of a node share of its part in a cluster: who it is, the ring it follows, and connections of other nodes on
//! their way to a shard. Replaced now and then, never changed in place.
//!
//! ```text
//! coordinator <- agreement.rs (a thread) -> View -> every shard: links.rs <- sockets of other nodes
//!                                                   dispatch: forward.rs        ^- acceptor.rs (a thread)
//! ```

pub mod acceptor;
pub mod agreement;
mod complaints;
pub mod forward;
pub mod http;
pub mod links;
pub mod lookup;
pub mod old;
mod reach;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam::queue::ArrayQueue;
use rustls::crypto::{SecureRandom, ring};
use slabring_cluster::coordinator::{CallId, NodeDescription};
use slabring_cluster::link::{CREDIT_DEFAULT, Identity, NONCE_BYTES, Nonce, Secret};
use slabring_cluster::names::{Address, Incarnation};
use slabring_cluster::report::ShardReport;
use slabring_cluster::ring::{Ring, RingDocument};
use slabring_cluster::time::Micros;
use slabring_cluster::wire::VERSIONS;
use slabring_reactor::clock::Moment;

use crate::discovery::Discovery;
use crate::live::Live;
use crate::options::ClusterSettings;
use crate::shards::Shards;

/// Connections of other nodes that may wait for one shard.
const ARRIVALS_MAX: usize = 64;
/// News that wait for the thread that agrees on the ring; more are dropped, and come again.
const NEWS_MAX: usize = 64;
/// Pause between two warnings that another node follows another ring of the same epoch.
const WARN_EVERY_MILLIS: u64 = 10_000;
/// A request or reply has at most this beyond the largest item.
const MESSAGE_BYTES_BEYOND_ITEM: usize = 64 << 10;

/// What shards and signals tell the thread that agrees on the ring.
#[derive(Debug)]
pub enum News {
    /// Another node has sent its ring document.
    Document(Vec<u8>),
    /// The operator has given another list.
    List(RingDocument),
    /// A whole answer of the coordinator: its HTTP status and body.
    Reply(CallId, u16, Vec<u8>),
    /// A part of one without end.
    Chunk(CallId, Vec<u8>),
    /// A call that failed or an answer that ended.
    Failed(CallId),
    /// A node that asks for a place was reached; or was not, and why.
    Reached(NodeDescription, Option<String>),
    /// Names of the ring were looked up.
    Found(lookup::Found),
    /// A node was heard of that follows another ring of the same epoch.
    Differs,
    /// The node ends.
    Stop,
}

/// The ring and what is known beside it.
#[derive(Debug)]
pub struct View {
    /// The ring.
    pub ring: Arc<Ring>,
    /// Where the nodes of the ring listen for each other, as far as their names are known.
    pub addresses: BTreeMap<Address, SocketAddr>,
    /// What clients are told who look for the nodes.
    pub discovery: Discovery,
}

impl View {
    /// Whether a node of the ring listens at this address.
    fn has_member_at(&self, address: IpAddr) -> bool {
        self.addresses.values().any(|member| member.ip().to_canonical() == address)
    }
}

/// A node's part in a cluster.
#[derive(Debug)]
pub struct Cluster {
    /// What the user asked for.
    pub settings: ClusterSettings,
    /// This life of the node.
    pub incarnation: Incarnation,
    /// The ring of now; none before the first.
    pub view: Live<Option<View>>,
    /// Each shard's connections from other nodes.
    pub arrivals: Vec<ArrayQueue<OwnedFd>>,
    /// What each shard has to say to the conductor, while nobody has taken it: at most one, the last.
    pub words: Vec<ArrayQueue<ShardReport>>,
    listener: TcpListener,
    secret: Secret,
    random: &'static dyn SecureRandom,
    message_bytes_max: usize,
    news: SyncSender<News>,
    documents_refused: AtomicU64,
    /// Connections to the port for nodes that were closed to make room.
    turned_away: AtomicU64,
    /// Times that a link told of another ring of the same epoch.
    rings_different: AtomicU64,
    /// Milliseconds from the start until the next warning of that.
    difference_warned_until: AtomicU64,
    /// When the clocks of the node's part in the cluster began.
    pub start: Moment,
    /// When the coordinator was last heard of, in microseconds since then.
    confirmed_at: AtomicU64,
}

impl Cluster {
    /// A node that follows no ring yet, and what it will be told.
    pub fn new(
        settings: ClusterSettings,
        secret: Secret,
        listener: TcpListener,
        threads: u16,
        item_size_max: usize,
    ) -> (Self, std::sync::mpsc::Receiver<News>) {
        let (news, receiver) = std::sync::mpsc::sync_channel(NEWS_MAX);
        let cluster = Self {
            settings,
            incarnation: incarnation_now(),
            view: Live::new(None),
            arrivals: (0..threads).map(|_| ArrayQueue::new(ARRIVALS_MAX)).collect(),
            words: (0..threads).map(|_| ArrayQueue::new(1)).collect(),
            listener,
            secret,
            random: ring::default_provider().secure_random,
            message_bytes_max: item_size_max + MESSAGE_BYTES_BEYOND_ITEM,
            news,
            documents_refused: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            rings_different: AtomicU64::new(0),
            difference_warned_until: AtomicU64::new(0),
            start: Moment::now(),
            confirmed_at: AtomicU64::new(0),
        };
        (cluster, receiver)
    }

    /// How a shard introduces itself to other nodes.
    pub fn identity(&self, shards: Shards) -> Identity {
        Identity {
            versions: VERSIONS,
            cluster: self.settings.cluster.clone(),
            node: self.settings.node.clone(),
            incarnation: self.incarnation,
            shard: u8::try_from(shards.me.0).expect("the options allow 256"),
            shards: shards.count,
            secret: self.secret.clone(),
            message_bytes_max: self.message_bytes_max,
            granted: CREDIT_DEFAULT,
        }
    }

    /// Fresh random bytes. `None` if the system has none, which Linux does not do once it runs.
    pub fn nonce(&self) -> Option<Nonce> {
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce).ok()?;
        Some(nonce)
    }

    /// Where to tell news from threads that may wait.
    pub fn news(&self) -> SyncSender<News> {
        self.news.clone()
    }

    /// The epoch of the ring, 0 before the first.
    pub fn epoch(&self) -> u64 {
        let view = self.view.now();
        view.as_ref().as_ref().map_or(0, |view| view.ring.epoch().0)
    }

    /// When the coordinator was last heard of: the ring was what it is.
    pub fn confirmed_at(&self) -> Micros {
        Micros(self.confirmed_at.load(Ordering::Relaxed))
    }

    fn confirm(&self, at: Micros) {
        self.confirmed_at.fetch_max(at.0, Ordering::Relaxed);
    }

    /// Ring documents that were not followed.
    pub fn documents_refused(&self) -> u64 {
        self.documents_refused.load(Ordering::Relaxed)
    }

    /// Connections of those who said nothing that were closed to make room for others.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Times that another node was heard of to follow another ring of the same epoch: once a minute for each link.
    pub fn rings_different(&self) -> u64 {
        self.rings_different.load(Ordering::Relaxed)
    }

    /// Counts one of them. Whether it is time to warn: no shard has for a while.
    pub fn note_difference(&self) -> bool {
        self.rings_different.fetch_add(1, Ordering::Relaxed);
        let now = Moment::now().since_ns(self.start) / 1_000_000;
        let is_time = now >= self.difference_warned_until.load(Ordering::Relaxed);
        if is_time {
            self.difference_warned_until.store(now + WARN_EVERY_MILLIS, Ordering::Relaxed);
        }
        is_time
    }

    fn count_refused_document(&self) {
        self.documents_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells the thread that agrees on the ring. Never waits: who has no room now tells it again.
    pub fn tell(&self, news: News) {
        match self.news.try_send(news) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

/// Another number in each life: the microsecond of the start.
fn incarnation_now() -> Incarnation {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Incarnation(u64::try_from(since.as_micros()).unwrap_or(u64::MAX).max(1))
}

/// Reads the cluster's secret. The error is one line.
pub fn read_secret(path: Option<&Path>) -> Result<Secret, String> {
    let Some(path) = path else { return Ok(Secret::none()) };
    let mut bytes = std::fs::read(path)
        .map_err(|error| format!("{}: cannot read the cluster's secret: {error}", path.display()))?;
    // An editor's last line end is nobody's secret.
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    Secret::new(bytes).map_err(|error| format!("{}: {error}", path.display()))
}
