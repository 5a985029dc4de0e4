//! A node: what all of its threads share. How it starts, and is waited for, is in `start.rs`.

mod limits;
mod start;

use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Result;
use slabring_cluster::link::Secret;
use slabring_protocol::Users;
use slabring_reactor::Waker;
use slabring_reactor::backend::Choice;
use slabring_reactor::clock::Clock;
use socket2::SockRef;

pub use self::limits::{raise_files, raise_limits};
pub use self::start::start;
use crate::arrivals::Arrivals;
use crate::auth::read_users;
use crate::cluster::{self, Cluster, News};
use crate::discovery::Discovery;
use crate::listeners::{Listeners, SocketFile};
use crate::live::Live;
use crate::locks::Locks;
use crate::options::{EXIT_FAILURE, Refused, Settings, Sources, TlsSettings, TlsUse};
use crate::pulse::Pulses;
use crate::report::ShardReport;
use crate::tell;
use crate::tls::TlsConfigs;
use crate::track::Trackers;
use crate::tuning::Tuning;
use crate::watch::Watchers;

/// What all threads of a node share. Written rarely, read by relaxed loads.
#[derive(Debug)]
pub struct Node {
    /// What the user asked for at the start.
    pub settings: Settings,
    /// Where that was asked for, to look there again.
    pub sources: Sources,
    /// What the user asked for last: the settings at the start, or those of the last reload.
    pub latest: Mutex<Settings>,
    /// What may be set and read back.
    pub tuning: Tuning,
    /// Who watches.
    pub watchers: Watchers,
    /// Who tracks.
    pub trackers: Trackers,
    /// Locks, if there is a file for their fences.
    pub locks: Option<Locks>,
    /// What clients are told who look for the nodes.
    pub discovery: Discovery,
    /// What of the memory may be used.
    pub memory_limit_bytes: AtomicUsize,
    /// Every listener, as `stats conns` shows it: those for TCP in their order, then the unix socket.
    pub listeners: Vec<String>,
    /// Where clients find the node, for people.
    pub addresses: String,
    /// The unix socket, if it is listened on.
    pub unix: Option<UnixListener>,
    /// Each shard's connections from there.
    pub arrivals: Vec<Arrivals>,
    /// Most clients at a time.
    pub max_connections: AtomicUsize,
    /// Silent clients are closed after this time; 0 is never.
    pub idle_timeout_seconds: AtomicU32,
    /// The time.
    pub clock: Clock,
    /// The backend and why.
    pub choice: Choice,
    /// Clients connected to any shard.
    pub connections: AtomicUsize,
    /// TLS, if it is spoken anywhere.
    pub tls: Option<Live<TlsConfigs>>,
    /// Who may come in, if that is asked.
    pub users: Option<Live<Users>>,
    /// When the certificates were last read.
    pub certificates_read: AtomicU32,
    /// Log level that clients may change.
    pub verbosity: AtomicUsize,
    /// Set once: finish and end.
    pub stopping: AtomicBool,
    /// The last second in which a client of any shard waited for memory that others hold; 0 if none ever did.
    pub short_of_memory_at: AtomicU32,
    /// Shards whose clients are all gone since then.
    pub drained: AtomicUsize,
    /// Resident memory of the process as of the last second; 0 if Linux does not say.
    pub resident_bytes: AtomicU64,
    /// Each shard's main numbers as of its last second.
    pub published: Vec<Published>,
    /// Whether each shard turns.
    pub pulses: Pulses,
    /// The node's part in a cluster, if it has one.
    pub cluster: Option<Cluster>,
    /// How to wake the shards, once they run.
    wakers: OnceLock<Vec<Arc<Waker>>>,
}

/// A shard's main numbers for the control thread: stored relaxed by the shard, loaded relaxed by anybody.
#[derive(Default, Debug)]
pub struct Published {
    /// Items in the shard.
    pub items: AtomicU64,
    /// Gets executed.
    pub gets: AtomicU64,
    /// Those that hit.
    pub hits: AtomicU64,
    /// Stores executed.
    pub sets: AtomicU64,
    /// Items evicted.
    pub evictions: AtomicU64,
    /// Memory that is accounted for: items, what finds and judges them, and buffers.
    pub memory_bytes: AtomicU64,
}

impl Published {
    /// Shows the numbers of `report`.
    pub fn store(&self, report: &ShardReport) {
        self.items.store(report.engine.items, Ordering::Relaxed);
        self.gets.store(report.commands.cmd_get, Ordering::Relaxed);
        self.hits.store(report.commands.get_hits, Ordering::Relaxed);
        self.sets.store(report.commands.cmd_set, Ordering::Relaxed);
        self.evictions.store(report.engine.evictions, Ordering::Relaxed);
        let memory = report.memory.as_ref();
        let engine = memory.map_or(0, |memory| memory.pages + memory.index + memory.policy);
        self.memory_bytes.store(engine as u64 + report.traffic.buffer_bytes, Ordering::Relaxed);
    }
}

impl Node {
    /// Asks all shards to end. Returns at once.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(cluster) = &self.cluster {
            cluster.stop_accepting();
            cluster.tell(News::Stop);
        }
        if let Some(listener) = &self.unix {
            match SockRef::from(listener).shutdown(Shutdown::Both) {
                // It fails when it is shut down already.
                Ok(()) | Err(_) => {}
            }
        }
        for waker in self.wakers.get().into_iter().flatten() {
            waker.wake_from_outside();
        }
    }

    /// [`Node::stop`], with memcached's words for it.
    pub fn stop_gracefully(&self) {
        tell(format_args!("Gracefully stopping"));
        self.stop();
    }

    /// Reads the certificates again, for connections to come. The error says what is wrong with them; the old ones stay.
    pub fn refresh_certificates(&self) -> Result<(), String> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).tls.clone();
        self.load_certificates(&latest.ok_or("Error TLS not enabled")?)
    }

    /// Reads the certificates that `settings` name, as [`Node::refresh_certificates`].
    pub fn load_certificates(&self, settings: &TlsSettings) -> Result<(), String> {
        let live = self.tls.as_ref().ok_or("Error TLS not enabled")?;
        let asks_all = self.settings.listen.iter().any(|listen| listen.tls == TlsUse::Mutual);
        if asks_all && settings.authorities.is_none() {
            return Err("Error loading the CA certificates: mtls: listeners need ssl_ca_cert".into());
        }
        live.replace(TlsConfigs::load(settings)?);
        self.certificates_read.store(self.clock.unix_seconds(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes a shard that runs look for what is new.
    pub fn wake(&self, shard: usize) {
        if let Some(wakers) = self.wakers.get() {
            wakers[shard].wake_from_outside();
        }
    }
}

/// What the settings name files for, read. All of it is secret.
pub struct Files {
    /// Certificates and keys.
    pub tls: Option<TlsConfigs>,
    /// Users and passwords.
    pub users: Option<Users>,
    /// What proves that a node belongs to the cluster.
    pub cluster_secret: Option<Secret>,
}

impl Files {
    /// Reads them. The error is one line.
    pub fn read(settings: &Settings) -> Result<Self, Refused> {
        let refused = |text| Refused { text, exit_code: EXIT_FAILURE };
        let tls = settings.tls.as_ref().map(TlsConfigs::load).transpose().map_err(refused)?;
        let users = settings.authentication.as_ref().map(read_users).transpose().map_err(refused)?;
        let secret_file = settings.cluster.as_ref().map(|cluster| cluster.secret_file.as_deref());
        let cluster_secret = secret_file.map(cluster::read_secret).transpose().map_err(refused)?;
        Ok(Self { tls, users, cluster_secret })
    }
}

/// What all threads will share, and the file of the unix socket. Takes the unix socket out of `listeners`.
pub fn assemble(
    settings: Settings,
    sources: Sources,
    files: Files,
    listeners: &mut Listeners,
    choice: Choice,
) -> (Node, Option<SocketFile>, Option<Receiver<News>>) {
    let threads = settings.threads;
    let addresses = listeners.addresses();
    let discovery = Discovery::of(&listeners.tcp);
    let listener_names = listeners.names();
    let (unix, socket_file) = listeners.unix.take().map(|unix| (unix.listener, unix.file)).unzip();
    let clock = Clock::start();
    let (cluster, news) = match (&settings.cluster, files.cluster_secret, listeners.cluster.take()) {
        (Some(part), Some(secret), Some(listener)) => {
            let item_size_max = settings.item_size_max;
            let (cluster, news) = Cluster::new(part.clone(), secret, listener, threads, item_size_max);
            (Some(cluster), Some(news))
        }
        _ => (None, None),
    };
    let node = Node {
        cluster,
        tls: files.tls.map(Live::new),
        certificates_read: AtomicU32::new(clock.unix_seconds()),
        clock,
        connections: AtomicUsize::new(0),
        max_connections: AtomicUsize::new(settings.max_connections),
        idle_timeout_seconds: AtomicU32::new(settings.idle_timeout_seconds),
        verbosity: AtomicUsize::new(settings.verbosity),
        stopping: AtomicBool::new(false),
        short_of_memory_at: AtomicU32::new(0),
        drained: AtomicUsize::new(0),
        resident_bytes: AtomicU64::new(0),
        published: (0..threads).map(|_| Published::default()).collect(),
        pulses: Pulses::new(threads),
        arrivals: (0..threads).map(|_| Arrivals::default()).collect(),
        wakers: OnceLock::new(),
        latest: Mutex::new(settings.clone()),
        tuning: Tuning::new(settings.detail_enabled),
        watchers: Watchers::default(),
        trackers: Trackers::default(),
        locks: None,
        users: files.users.map(Live::new),
        memory_limit_bytes: AtomicUsize::new(settings.memory_bytes),
        listeners: listener_names,
        discovery,
        choice,
        addresses,
        sources,
        unix,
        settings,
    };
    (node, socket_file, news)
}
