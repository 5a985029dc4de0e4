//! A whole node: listeners, shard threads and the control thread, from start to end.

use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use signal_hook::iterator::Signals;
use slabring_cluster::link::Secret;
use slabring_engine::{CasSeries, Config, MEMORY_BYTES_MIN, Seconds, Shard};
use slabring_protocol::Users;
use slabring_reactor::backend::{Backend, Choice, Refusal, Wish};
use slabring_reactor::clock::Clock;
use slabring_reactor::thread::{Limit, raise_limit};
use slabring_reactor::{Epoll, Io, IoSettings, Uring, Waker, backend};
use socket2::SockRef;

use crate::arrivals::{self, Arrivals};
use crate::auth::read_users;
use crate::cluster::{self, Cluster, News};
use crate::control;
use crate::crew::{Crew, lacks_locked_memory};
use crate::discovery::Discovery;
use crate::execute::Executor;
use crate::listeners::{Entrance, Listeners, ShardListeners, SocketFile};
use crate::live::Live;
use crate::locks::{self, Keeper, Locks};
use crate::memory_file::MemoryFile;
use crate::options::{ClusterSettings, EXIT_FAILURE, Refused, Settings, Sources, TlsSettings, TlsUse};
use crate::post::{LetterBoxes, Post, connect_all};
use crate::report::ShardReport;
use crate::shard_thread::ShardThread;
use crate::shards::{ShardId, Shards};
use crate::tell;
use crate::tls::TlsConfigs;
use crate::track::Trackers;
use crate::tuning::Tuning;
use crate::watch::Watchers;

/// Receive buffers, and the rings, each take at most this share of a shard's memory.
const FIXED_SHARE: usize = 16;
const RECEIVE_BUFFERS_MIN: usize = 8;
const SUBMISSIONS_MIN: usize = 64;
/// Descriptors that a node of any size has: logs, the control thread's rings, and some that an accept may take before it is refused.
const DESCRIPTORS_RESERVED: usize = 48;
/// Those of a shard: its ring or epoll, its bell, and one that is on its way from another.
const DESCRIPTORS_PER_SHARD: usize = 4;
/// Those of links to other nodes: enough for 32 nodes of 8 shards each.
const DESCRIPTORS_FOR_LINKS: usize = 4_096;

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
    /// Memory of connections' buffers.
    pub buffer_bytes: AtomicU64,
}

impl Published {
    /// Shows the numbers of `report`.
    pub fn store(&self, report: &ShardReport) {
        self.items.store(report.engine.items, Ordering::Relaxed);
        self.gets.store(report.commands.cmd_get, Ordering::Relaxed);
        self.hits.store(report.commands.get_hits, Ordering::Relaxed);
        self.sets.store(report.commands.cmd_set, Ordering::Relaxed);
        self.evictions.store(report.engine.evictions, Ordering::Relaxed);
        self.buffer_bytes.store(report.traffic.buffer_bytes, Ordering::Relaxed);
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

/// What a shard over a file leaves to be known when it ends.
type Left = Option<Vec<u8>>;

type ShardHandle = JoinHandle<Result<Left>>;

/// A running node.
pub struct Running {
    node: Arc<Node>,
    shards: Vec<ShardHandle>,
    memory_file: Option<MemoryFile>,
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
        published: (0..threads).map(|_| Published::default()).collect(),
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

/// Starts a node on `listeners` and returns when it serves. `signals` will end it.
pub fn start(
    settings: Settings,
    sources: Sources,
    files: Files,
    mut listeners: Listeners,
    signals: Signals,
) -> Result<Running> {
    let io_settings = io_settings(settings.shard_memory_bytes());
    let (choice, crew) = muster(&settings, &io_settings)?;
    let (node, socket_file, news) = assemble(settings, sources, files, &mut listeners, choice);
    let mut node = node;
    let (locks, keeper) = open_locks(&node.settings)?.unzip();
    node.locks = locks;
    // Before any shard accepts: it may hand its first client to another, which must wake.
    node.wakers.set(crew.wakers.clone()).expect("set here only");
    let node = Arc::new(node);
    control::start(&node, signals)?;
    if let Some(keeper) = keeper {
        locks::start(&node, keeper)?;
    }
    let (memory_file, warm) = open_memory_file(&node, &io_settings)?.unzip();
    let shards = start_shards(&node, crew, io_settings, listeners.per_shard, warm.unwrap_or_default())?;
    if node.unix.is_some() {
        arrivals::start(&node)?;
    }
    if let (Some(cluster), Some(news)) = (&node.cluster, news) {
        cluster::acceptor::start(&node)?;
        cluster::agreement::start(&node, cluster.news(), news)?;
    }
    if node.stopping.load(Ordering::Acquire) {
        // A signal came before all of this was there to be stopped.
        node.stop();
    }
    Ok(Running { node, shards, memory_file, _socket_file: socket_file })
}

impl Running {
    /// What the node is, for the banner.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Waits until all shards have ended, and saves what they leave if there is a file for it.
    pub fn join(self) -> Result<()> {
        let ended = self.shards.into_iter().map(|shard| {
            let left = shard.join().map_err(|_| anyhow!("a shard thread panicked"))??;
            Ok(left.unwrap_or_default())
        });
        let left = ended.collect::<Result<Vec<_>>>()?;
        let now = Seconds(self.node.clock.unix_seconds());
        self.memory_file.map_or(Ok(()), |file| file.save(now, left))
    }
}

/// Finds the backend that this machine allows, for all shards, and starts their threads over it.
fn muster(settings: &Settings, io_settings: &IoSettings) -> Result<(Choice, Crew<Plan, Left>)> {
    let forbidden = |refusal| anyhow!("--io uring: {refusal}; or start with --io auto or --io epoll");
    let choice = backend::choose(settings.io, io_settings).map_err(forbidden)?;
    let count = settings.threads;
    let reason = match choice.backend {
        Backend::Epoll => choice.reason,
        Backend::Uring => match Crew::gather::<Uring>(count, io_settings, run_shard) {
            Ok(crew) => return Ok((choice, crew)),
            Err(error) if lacks_locked_memory(&error) => {
                let refusal = Refusal::locked_memory(io_settings, count);
                if settings.io == Wish::Uring {
                    return Err(forbidden(refusal));
                }
                refusal.to_string()
            }
            Err(error) => return Err(error),
        },
    };
    let crew = Crew::gather::<Epoll>(count, io_settings, run_shard)?;
    Ok((Choice { backend: Backend::Epoll, reason }, crew))
}

/// What one shard thread needs besides its reactor.
struct Plan {
    node: Arc<Node>,
    shards: Shards,
    io_settings: IoSettings,
    listeners: ShardListeners,
    /// One over a file, if there is one.
    shard: Option<Shard>,
    boxes: LetterBoxes,
    wakers: Vec<Arc<Waker>>,
    ready: mpsc::Sender<(ShardId, Result<()>)>,
    /// Speaks when all shards are ready.
    go: mpsc::Receiver<()>,
}

fn start_shards(
    node: &Arc<Node>,
    crew: Crew<Plan, Left>,
    io_settings: IoSettings,
    listeners: Vec<ShardListeners>,
    warm: Vec<Shard>,
) -> Result<Vec<ShardHandle>> {
    let count = node.settings.threads;
    let mut warm = warm.into_iter();
    let (ready, built) = mpsc::channel();
    let (mut starts, mut plans) = (Vec::new(), Vec::new());
    for ((number, boxes), listeners) in (0..count).zip(connect_all(count)).zip(listeners) {
        let (start, go) = mpsc::channel();
        starts.push(start);
        plans.push(Plan {
            node: Arc::clone(node),
            shards: Shards { count, me: ShardId(number) },
            io_settings,
            listeners,
            shard: warm.next(),
            boxes,
            wakers: crew.wakers.clone(),
            ready: ready.clone(),
            go,
        });
    }
    drop(ready);
    let threads = crew.send_off(plans.into_iter());
    wait_until_built(&built, count)?;
    for start in starts {
        // A thread that has gone reports why when it is joined.
        if start.send(()).is_err() {
            break;
        }
    }
    Ok(threads)
}

fn wait_until_built(built: &mpsc::Receiver<(ShardId, Result<()>)>, count: u16) -> Result<()> {
    let mut outcomes: Vec<_> = built.iter().take(usize::from(count)).collect();
    outcomes.sort_by_key(|(shard, _)| *shard);
    let all_told = outcomes.len() == usize::from(count);
    for (shard, outcome) in outcomes {
        outcome.with_context(|| format!("shard {} cannot start", shard.0))?;
    }
    if !all_told {
        bail!("a shard thread ended while it started");
    }
    Ok(())
}

fn run_shard<I: Io>(mut io: I, mut plan: Plan) -> Result<Left> {
    let lasts = plan.shard.is_some();
    let built = build_shard(&mut io, &mut plan);
    let Plan { node, shards, boxes, ready, wakers, go, .. } = plan;
    let (built, outcome) = match built {
        Ok(built) => (Some(built), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let told = ready.send((shards.me, outcome));
    drop(ready);
    // Unless all are ready the node has given up, and says why itself.
    let (Some((executor, entrances)), Ok(()), Ok(())) = (built, told, go.recv()) else { return Ok(None) };
    let post = Post::new(shards.me, boxes, &wakers);
    let shard = ShardThread::new(node, shards, io, executor, post, entrances).run()?;
    Ok(lasts.then(|| shard.persist()))
}

fn build_shard<I: Io>(io: &mut I, plan: &mut Plan) -> Result<(Executor, Vec<Entrance>)> {
    let mut entrances = Vec::new();
    for (listener, entrance) in plan.listeners.streams.drain(..) {
        let id = io.listen(listener).context("cannot accept connections")?;
        assert_eq!(id.0 as usize, entrances.len(), "listeners are numbered in their order");
        entrances.push(entrance);
    }
    for socket in plan.listeners.datagrams.drain(..) {
        io.listen_datagrams(socket).context("cannot receive datagrams")?;
    }
    let shard = match plan.shard.take() {
        Some(shard) => shard,
        None => Shard::new(&shard_config(&plan.node.settings, &plan.io_settings, plan.shards.me))?,
    };
    Ok((Executor::new(shard, plan.shards, &plan.node), entrances))
}

/// The locks of the node and who keeps them, if there is a file for their fences, or an etcd. Nodes of a list would give out fences that do
/// not rise.
fn open_locks(settings: &Settings) -> Result<Option<(Locks, Keeper)>> {
    if settings.cluster.as_ref().is_some_and(ClusterSettings::has_coordinator) {
        return Ok(Some(Locks::of_cluster(settings.threads)));
    }
    let path = settings.lock_file.as_ref().filter(|_| settings.cluster.is_none());
    path.map(|path| Locks::open(path, settings.threads)).transpose()
}

/// The file for all shards, and they themselves, if there is to be one.
fn open_memory_file(node: &Node, io_settings: &IoSettings) -> Result<Option<(MemoryFile, Vec<Shard>)>> {
    let Some(path) = &node.settings.memory_file else { return Ok(None) };
    let config = |shard| shard_config(&node.settings, io_settings, ShardId(shard));
    let configs: Vec<_> = (0..node.settings.threads).map(config).collect();
    MemoryFile::open(path, &configs, Seconds(node.clock.unix_seconds()))
}

fn shard_config(settings: &Settings, io_settings: &IoSettings, shard: ShardId) -> Config {
    let fixed = io_settings.fixed_bytes();
    let memory_bytes = settings.shard_memory_bytes().saturating_sub(fixed).max(MEMORY_BYTES_MIN);
    Config {
        item_size_max: settings.item_size_max,
        growth_factor: settings.growth_factor,
        chunk_size_min: settings.chunk_size_min,
        policy: settings.policy,
        evict: settings.evict,
        cas_enabled: settings.cas_enabled,
        cas: CasSeries { offset: u64::from(shard.0), step: u64::from(settings.threads) },
        huge_pages: true,
        prefault: settings.take_memory_at_start,
        ..Config::with_memory(memory_bytes)
    }
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

/// Allows the process as many files as its clients and shards need.
pub fn raise_files(settings: &Settings) -> Result<()> {
    let wanted = descriptors(settings) as u64;
    let files = raise_limit(Limit::OpenFiles, wanted)?;
    if files < wanted {
        bail!(
            "-c {} and -t {} need {wanted} open files and the limit is {files}: raise it (ulimit -n {wanted}, \
             LimitNOFILE={wanted}) or lower -c",
            settings.max_connections,
            settings.threads
        );
    }
    Ok(())
}

/// Files that are open when there are as many clients as there may be.
fn descriptors(settings: &Settings) -> usize {
    let (tcp, udp) = (settings.listen.len(), settings.udp.len());
    let listeners = tcp + udp + settings.shard_ports.map_or(0, |_| tcp);
    let shards = usize::from(settings.threads) * (DESCRIPTORS_PER_SHARD + listeners);
    let links = settings.cluster.as_ref().map_or(0, |_| DESCRIPTORS_FOR_LINKS);
    (DESCRIPTORS_RESERVED + links).saturating_add(shards).saturating_add(settings.max_connections)
}
