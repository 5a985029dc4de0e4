//! The start of a node: which backend this machine allows, its threads, who builds what and in which order; and the wait for their end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use signal_hook::iterator::Signals;
use slabring_engine::{CasSeries, Config, MEMORY_BYTES_MIN, Seconds, Shard};
use slabring_reactor::backend::{Backend, Choice, Refusal, Wish};
use slabring_reactor::{Epoll, Io, IoSettings, Uring, Waker, backend};

use super::{Files, Node, assemble};
use crate::crew::{Crew, lacks_locked_memory};
use crate::downfall::end_because;
use crate::execute::Executor;
use crate::listeners::{Entrance, Listeners, ShardListeners, SocketFile};
use crate::locks::{self, Keeper, Locks};
use crate::memory_file::MemoryFile;
use crate::options::{ClusterSettings, Settings, Sources};
use crate::post::{LetterBoxes, Post, connect_all};
use crate::shard_thread::ShardThread;
use crate::shards::{ShardId, Shards};
use crate::{arrivals, cluster, control};

/// Receive buffers, and the rings, each take at most this share of a shard's memory.
const FIXED_SHARE: usize = 16;
const RECEIVE_BUFFERS_MIN: usize = 8;
const SUBMISSIONS_MIN: usize = 64;

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
            let left = shard.join().expect("a panic ends the process")?;
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
        Backend::Uring => match Crew::gather::<Uring>(count, settings.pinning, io_settings, run_shard) {
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
    let crew = Crew::gather::<Epoll>(count, settings.pinning, io_settings, run_shard)?;
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
    let post = Post::new(shards.me, boxes, &wakers, executor.shard().memory().limit);
    node.pulses.beat(shards.me.index());
    match ShardThread::new(node, shards, io, executor, post, entrances).run() {
        Ok(shard) => Ok(lasts.then(|| shard.persist())),
        Err(error) => end_because(&format!("shard {}", shards.me.0), &error),
    }
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
