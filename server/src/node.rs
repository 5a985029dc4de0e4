//! A whole node: listeners, shard threads and the control thread, from start to end.

use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use signal_hook::iterator::Signals;
use slabring_cluster::link::Secret;
use slabring_engine::{CasSeries, Config, MEMORY_BYTES_MIN, Shard};
use slabring_protocol::Users;
use slabring_reactor::backend::{Backend, Choice};
use slabring_reactor::clock::Clock;
use slabring_reactor::thread::{Limit, allowed_cpus, pin_to, raise_limit};
use slabring_reactor::{Epoll, Io, IoSettings, Uring, Waker, backend};
use socket2::SockRef;

use crate::arrivals::{self, Arrivals};
use crate::auth::read_users;
use crate::cluster::{self, Cluster, News};
use crate::control;
use crate::discovery::Discovery;
use crate::execute::Executor;
use crate::listeners::{Entrance, Listeners, ShardListeners, SocketFile};
use crate::live::Live;
use crate::options::{EXIT_FAILURE, Refused, Settings, Sources, TlsSettings, TlsUse};
use crate::post::{LetterBoxes, Post, connect_all};
use crate::report::ShardReport;
use crate::shard_thread::ShardThread;
use crate::shards::{ShardId, Shards};
use crate::tls::TlsConfigs;
use crate::tuning::Tuning;
use crate::watch::Watchers;

/// Receive buffers, and the rings, each take at most this share of a shard's memory.
const FIXED_SHARE: usize = 16;
const RECEIVE_BUFFERS_MIN: usize = 8;
const SUBMISSIONS_MIN: usize = 64;
/// Descriptors beside those of clients: rings, listeners, logs.
const DESCRIPTORS_RESERVED: u64 = 64;
/// Those of links to other nodes: enough for 32 nodes of 8 shards each.
const DESCRIPTORS_FOR_LINKS: u64 = 4_096;

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
    /// Shards whose clients are all gone since then.
    pub drained: AtomicUsize,
    /// Each shard's main numbers as of its last second.
    pub published: Vec<Published>,
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
}

impl Published {
    /// Shows the numbers of `report`.
    pub fn store(&self, report: &ShardReport) {
        self.items.store(report.engine.items, Ordering::Relaxed);
        self.gets.store(report.commands.cmd_get, Ordering::Relaxed);
        self.hits.store(report.commands.get_hits, Ordering::Relaxed);
        self.sets.store(report.commands.cmd_set, Ordering::Relaxed);
        self.evictions.store(report.engine.evictions, Ordering::Relaxed);
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

type ShardHandle = JoinHandle<Result<()>>;

/// A running node.
pub struct Running {
    node: Arc<Node>,
    shards: Vec<ShardHandle>,
    _socket_file: Option<SocketFile>,
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

/// Starts a node on `listeners` and returns when it serves. `signals` will end it.
pub fn start(
    settings: Settings,
    sources: Sources,
    files: Files,
    listeners: Listeners,
    signals: Signals,
) -> Result<Running> {
    let io_settings = io_settings(settings.shard_memory_bytes());
    let choice = backend::choose(settings.io, &io_settings)
        .map_err(|refusal| anyhow!("--io uring: {refusal}; or start with --io auto or --io epoll"))?;
    let threads = settings.threads;
    let addresses = listeners.addresses();
    let discovery = Discovery::of(&listeners.tcp);
    let listener_names = listeners.names();
    let (unix, socket_file) = listeners.unix.map(|unix| (unix.listener, unix.file)).unzip();
    let clock = Clock::start();
    let (cluster, news) = match (&settings.cluster, files.cluster_secret, listeners.cluster) {
        (Some(part), Some(secret), Some(listener)) => {
            let item_size_max = settings.item_size_max;
            let (cluster, news) = Cluster::new(part.clone(), secret, listener, threads, item_size_max);
            (Some(cluster), Some(news))
        }
        _ => (None, None),
    };
    let node = Arc::new(Node {
        cluster,
        tls: files.tls.map(Live::new),
        certificates_read: AtomicU32::new(clock.unix_seconds()),
        clock,
        connections: AtomicUsize::new(0),
        max_connections: AtomicUsize::new(settings.max_connections),
        idle_timeout_seconds: AtomicU32::new(settings.idle_timeout_seconds),
        verbosity: AtomicUsize::new(settings.verbosity),
        stopping: AtomicBool::new(false),
        drained: AtomicUsize::new(0),
        published: (0..threads).map(|_| Published::default()).collect(),
        arrivals: (0..threads).map(|_| Arrivals::default()).collect(),
        wakers: OnceLock::new(),
        latest: Mutex::new(settings.clone()),
        tuning: Tuning::new(settings.detail_enabled),
        watchers: Watchers::default(),
        users: files.users.map(Live::new),
        memory_limit_bytes: AtomicUsize::new(settings.memory_bytes),
        listeners: listener_names,
        discovery,
        choice,
        addresses,
        sources,
        unix,
        settings,
    });
    control::start(&node, signals)?;
    let (wakers, shards) = match node.choice.backend {
        Backend::Uring => start_shards::<Uring>(&node, io_settings, listeners.per_shard)?,
        Backend::Epoll => start_shards::<Epoll>(&node, io_settings, listeners.per_shard)?,
    };
    node.wakers.set(wakers).expect("set here only");
    if node.unix.is_some() {
        arrivals::start(&node)?;
    }
    if let (Some(cluster), Some(news)) = (&node.cluster, news) {
        cluster::acceptor::start(&node)?;
        cluster::agreement::start(&node, cluster.news(), news)?;
    }
    if node.stopping.load(Ordering::Acquire) {
        // A signal came before there was anybody to wake.
        node.stop();
    }
    Ok(Running { node, shards, _socket_file: socket_file })
}

impl Running {
    /// What the node is, for the banner.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Waits until all shards have ended.
    pub fn join(self) -> Result<()> {
        for shard in self.shards {
            shard.join().map_err(|_| anyhow!("a shard thread panicked"))??;
        }
        Ok(())
    }
}

/// What one shard thread needs to be built.
struct Plan {
    node: Arc<Node>,
    shards: Shards,
    cpu: usize,
    io_settings: IoSettings,
    listeners: ShardListeners,
    boxes: LetterBoxes,
    ready: mpsc::Sender<(ShardId, Result<Arc<Waker>>)>,
    wakers: mpsc::Receiver<Vec<Arc<Waker>>>,
}

fn start_shards<I: Io>(
    node: &Arc<Node>,
    io_settings: IoSettings,
    listeners: Vec<ShardListeners>,
) -> Result<(Vec<Arc<Waker>>, Vec<ShardHandle>)> {
    let count = node.settings.threads;
    let cpus = allowed_cpus().context("cannot read the CPU affinity")?;
    let (ready, started) = mpsc::channel();
    let mut threads = Vec::new();
    let mut introductions = Vec::new();
    for ((number, boxes), listeners) in (0..count).zip(connect_all(count)).zip(listeners) {
        let (introduce, wakers) = mpsc::channel();
        introductions.push(introduce);
        let plan = Plan {
            node: Arc::clone(node),
            shards: Shards { count, me: ShardId(number) },
            cpu: cpus[usize::from(number) % cpus.len()],
            io_settings,
            listeners,
            boxes,
            ready: ready.clone(),
            wakers,
        };
        let name = format!("shard-{number}");
        threads.push(std::thread::Builder::new().name(name).spawn(move || run_shard::<I>(plan))?);
    }
    drop(ready);
    let wakers = collect_wakers(&started, usize::from(count))?;
    for introduce in introductions {
        // A thread that has gone reports why when it is joined.
        if introduce.send(wakers.clone()).is_err() {
            break;
        }
    }
    Ok((wakers, threads))
}

fn collect_wakers(
    started: &mpsc::Receiver<(ShardId, Result<Arc<Waker>>)>,
    count: usize,
) -> Result<Vec<Arc<Waker>>> {
    let mut wakers: Vec<_> = started.iter().take(count).collect();
    wakers.sort_by_key(|(shard, _)| *shard);
    let wakers = wakers
        .into_iter()
        .map(|(shard, waker)| waker.with_context(|| format!("shard {} cannot start", shard.0)))
        .collect::<Result<Vec<_>>>()?;
    if wakers.len() < count {
        bail!("a shard thread ended while it started");
    }
    Ok(wakers)
}

fn run_shard<I: Io>(mut plan: Plan) -> Result<()> {
    let me = plan.shards.me;
    match build_shard::<I>(&mut plan) {
        Ok((io, executor, entrances)) => {
            let Plan { node, shards, boxes, ready, wakers, .. } = plan;
            let introduced = ready.send((me, Ok(io.waker()))).ok().and_then(|()| wakers.recv().ok());
            // Without an introduction the node has given up, and says why itself.
            let Some(all) = introduced else { return Ok(()) };
            drop(ready);
            let post = Post::new(me, boxes, &all);
            ShardThread::new(node, shards, io, executor, post, entrances).run()
        }
        Err(error) => {
            // Nobody listens only when the node has given up already.
            if plan.ready.send((me, Err(error))).is_err() {
                bail!("shard {} cannot start", me.0);
            }
            Ok(())
        }
    }
}

fn build_shard<I: Io>(plan: &mut Plan) -> Result<(I, Executor, Vec<Entrance>)> {
    pin_to(plan.cpu).with_context(|| format!("cannot pin to CPU {}", plan.cpu))?;
    let mut io = I::new(&plan.io_settings)
        .context("cannot set up the I/O backend; too little locked memory? (ulimit -l), or use --io epoll")?;
    let mut entrances = Vec::new();
    for (listener, entrance) in plan.listeners.streams.drain(..) {
        let id = io.listen(listener).context("cannot accept connections")?;
        assert_eq!(id.0 as usize, entrances.len(), "listeners are numbered in their order");
        entrances.push(entrance);
    }
    for socket in plan.listeners.datagrams.drain(..) {
        io.listen_datagrams(socket).context("cannot receive datagrams")?;
    }
    let settings = &plan.node.settings;
    let fixed = plan.io_settings.fixed_bytes();
    let memory_bytes = settings.shard_memory_bytes().saturating_sub(fixed).max(MEMORY_BYTES_MIN);
    let step = u64::from(plan.shards.count);
    let shard = Shard::new(&Config {
        item_size_max: settings.item_size_max,
        growth_factor: settings.growth_factor,
        chunk_size_min: settings.chunk_size_min,
        policy: settings.policy,
        evict: settings.evict,
        cas_enabled: settings.cas_enabled,
        cas: CasSeries { offset: u64::from(plan.shards.me.0), step },
        huge_pages: true,
        ..Config::with_memory(memory_bytes)
    })?;
    Ok((io, Executor::new(shard, plan.shards, &plan.node), entrances))
}

/// A reactor's fixed memory is a small share of its shard's.
fn io_settings(shard_memory_bytes: usize) -> IoSettings {
    let defaults = IoSettings::default();
    let share = shard_memory_bytes / FIXED_SHARE;
    let buffers = share / defaults.receive_buffer_bytes as usize;
    let buffers = 1 << buffers.clamp(RECEIVE_BUFFERS_MIN, usize::from(defaults.receive_buffers)).ilog2();
    let submissions = share / IoSettings::BYTES_PER_SUBMISSION;
    let submissions = 1 << submissions.clamp(SUBMISSIONS_MIN, defaults.submissions as usize).ilog2();
    IoSettings {
        receive_buffers: u16::try_from(buffers).expect("clamped"),
        submissions: u32::try_from(submissions).expect("clamped"),
        ..defaults
    }
}

/// Raises what the system limits, before the process gives up the right to. Says what is not enough.
pub fn raise_limits(settings: &Settings) -> Result<()> {
    raise_files(settings)?;
    raise_limit(Limit::LockedMemory, u64::MAX)?;
    if settings.core_dumps && raise_limit(Limit::CoreDump, u64::MAX)? == 0 {
        bail!("-r: the system allows no core dumps (ulimit -Hc)");
    }
    Ok(())
}

/// Allows the process as many files as its clients and other nodes need.
pub fn raise_files(settings: &Settings) -> Result<()> {
    let max_connections = settings.max_connections;
    let for_links = if settings.cluster.is_some() { DESCRIPTORS_FOR_LINKS } else { 0 };
    let wanted = max_connections as u64 + DESCRIPTORS_RESERVED + for_links;
    let files = raise_limit(Limit::OpenFiles, wanted)?;
    if files < wanted {
        bail!(
            "-c {max_connections} needs {wanted} open files and the limit is {files}: raise it (ulimit -n {wanted}, \
             LimitNOFILE={wanted}) or lower -c"
        );
    }
    Ok(())
}
