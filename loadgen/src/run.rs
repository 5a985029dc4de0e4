//! The order of a run: look up, prefill, load, add up. Starts the threads, watches them and takes the CPU time;
//! what a thread does is in `worker.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use slabring_reactor::backend::{self, Backend, Choice};
use slabring_reactor::clock::Moment;
use slabring_reactor::thread::{Limit, allowed_cpus, cpu_time_us, pin_to, raise_limit};
use slabring_reactor::{Epoll, Io, Uring};

use crate::access;
use crate::args::{Args, ReplayFormat};
use crate::book::Book;
use crate::failure::Failure;
use crate::interrupt;
use crate::intervals::{Interval, Sum};
use crate::keys::{Keys, share};
use crate::kind::{Kind, Mix};
use crate::lines::Manner;
use crate::live::{TICK, View};
use crate::popularity::{Dice, Picker, Popularity};
use crate::report::Report;
use crate::ring::{self, Follower};
use crate::route::{Route, Scheme};
use crate::schedule::Schedule;
use crate::sizes::Sizes;
use crate::tally::Tally;
use crate::target::{Access, Target};
use crate::trace::{Format, Trace};
use crate::values::{Values, mix};
use crate::verify::Verifier;
use crate::worker::{Bound, Desk, IO_SETTINGS, Message, Odometer, Orders, Pace, Watch, Worker};
use crate::workload::{Cursor, Draw, Source, Workload};

/// How long a run is when nobody says.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// A prefill keeps up to so many requests, and so many bytes of values, in flight on each connection.
const PREFILL_DEPTH: u32 = 64;
const PREFILL_BYTES: u32 = 1 << 20;

/// File descriptors of a run beside its connections: rings, standard streams, what the runtime holds.
const DESCRIPTORS_SPARE: u64 = 256;

/// Streams of dice: one for the requests and one for the gaps of each thread.
const GAP_STREAMS: u64 = 1 << 32;

/// Bits of a value that say which run wrote it.
const RUN_MASK: u64 = (1 << 12) - 1;

/// One phase, as all threads together carry it out.
#[derive(Clone, Debug)]
struct Plan {
    name: &'static str,
    workload: Workload,
    mix: Mix,
    popularity: Popularity,
    depth: u32,
    length: Length,
    warmup: Duration,
    rate: Rate,
    verify: bool,
    replays: bool,
    aside: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Time(Duration),
    Requests(u64),
    /// To the end of the trace.
    Trace,
}

#[derive(Clone, Copy, Debug)]
enum Rate {
    Closed,
    /// Requests a second of the open loop.
    Open(f64),
    /// The trace's own, so many times as fast.
    Recorded(f64),
}

/// What a phase came to.
#[derive(Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) intervals: Vec<Interval>,
    /// From the start of the measured part to the last reply.
    pub(crate) elapsed: Duration,
    /// User and system time of this process in the measured part.
    pub(crate) cpu_us: u64,
    /// How the kernel was talked to.
    pub(crate) io: String,
    /// Names of the servers, by their numbers.
    pub(crate) servers: Vec<String>,
    /// Why it ended before its time.
    pub(crate) failure: Option<String>,
}

/// Everything that is the same for all phases.
pub(crate) struct Session {
    pub(crate) args: Args,
    names: Vec<String>,
    targets: Vec<Target>,
    route: Route,
    /// Of a cluster whose servers may change.
    follower: Option<Follower>,
    access: Access,
    workload: Workload,
    values: Values,
    verifier: Option<Verifier>,
    trace: Option<Arc<Trace>>,
    choice: Choice,
}

/// Does what the command line asks for. Blocks until it is done.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let session = Session::new(args.clone())?;
    let prefilled = session.prefill()?;
    let outcome = session.load()?;
    Ok(Report::new(args, &session.shown_target(), prefilled, &outcome))
}

impl Session {
    /// Looks everything up that is needed. Sends nothing yet.
    pub(crate) fn new(args: Args) -> Result<Self, Failure> {
        let trace = match &args.replay {
            None => None,
            Some(path) => {
                let format = match args.replay_format {
                    None => Format::of(path),
                    Some(ReplayFormat::Ctrace) => Format::Ctrace,
                    Some(ReplayFormat::Oracle) => Format::OracleGeneral,
                    Some(ReplayFormat::Twitter) => Format::Twitter,
                };
                Some(Arc::new(Trace::open_as(path, format).map_err(Failure::File)?))
            }
        };
        let names = names_given(&args)?;
        let mut targets = names.iter().map(|name| Target::resolve(name)).collect::<Result<Vec<_>, _>>()?;
        let access = access::of(&args)?;
        let follows = args.route == Scheme::Ring;
        let follower =
            follows.then(|| Follower::discover(&targets, &access, args.shard_ports)).transpose()?;
        let route = match &follower {
            None => Route::new(args.route, &names)?,
            Some(follower) => {
                let ring::Snapshot { targets: nodes, route, .. } = follower.snapshot();
                targets = nodes;
                route
            }
        };
        let choice = backend::choose(args.io.into(), &IO_SETTINGS)?;
        let sockets = u64::from(args.connections.get()) * targets.len() as u64;
        // With too few left, the connection that fails says so.
        raise_limit(Limit::OpenFiles, sockets + DESCRIPTORS_SPARE)?;
        let count = trace.as_ref().map_or(args.keys, |trace| trace.keys);
        let keys = Keys::new(count, args.key_size.clone());
        let (_, drawn_max) = args.value_size.bounds();
        let recorded_max = trace.as_ref().map_or(0, |trace| trace.size_max_bytes());
        let value_size_max = drawn_max.max(u32::try_from(recorded_max).unwrap_or(u32::MAX));
        Ok(Self {
            verifier: args
                .verify
                .then(|| Verifier { book: Book::new(count, !args.writes_alone), run: this_run() }),
            workload: Workload {
                keys,
                value_sizes: args.value_size.clone(),
                keys_per_get: args.multiget.clone(),
                ttls: args.ttl.clone(),
                is_of_counters: false,
            },
            values: Values::new(value_size_max),
            access,
            names,
            targets,
            route,
            follower,
            trace,
            choice,
            args,
        })
    }

    /// The servers, for people.
    pub(crate) fn shown_target(&self) -> String {
        let names: Vec<String> = self.targets.iter().map(Target::to_string).collect();
        names.join(" ")
    }

    /// Names of the servers, by their numbers; of a cluster, those known so far.
    fn server_names(&self) -> Vec<String> {
        self.follower.as_ref().map_or_else(|| self.names.clone(), Follower::names)
    }

    /// Carries out the load.
    pub(crate) fn load(&self) -> Result<Outcome, Failure> {
        self.drive(&self.main_plan())
    }

    /// Carries out the load at this rate and for so long instead of what was asked for.
    pub(crate) fn load_at(&self, rate: f64, time: Duration) -> Result<Outcome, Failure> {
        self.drive(&Plan { rate: Rate::Open(rate), length: Length::Time(time), ..self.main_plan() })
    }

    fn main_plan(&self) -> Plan {
        let args = &self.args;
        let length = match (args.requests, args.duration, &self.trace) {
            (Some(requests), _, _) => Length::Requests(requests),
            (None, None, Some(_)) => Length::Trace,
            (None, seconds, _) => Length::Time(seconds.map_or(DURATION_DEFAULT, Duration::from_secs_f64)),
        };
        let replays = self.trace.is_some();
        let fetches = args.cache_aside || replays;
        Plan {
            name: "load",
            workload: self.workload.clone(),
            mix: args.mix(),
            popularity: args.distribution,
            depth: args.depth.get(),
            length,
            warmup: Duration::from_secs_f64(args.warmup),
            rate: match (args.rate, args.speed) {
                (Some(rate), _) => Rate::Open(rate),
                (None, Some(speed)) => Rate::Recorded(speed),
                (None, None) => Rate::Closed,
            },
            verify: args.verify,
            replays,
            aside: fetches.then(|| Duration::from_secs_f64(args.backend_delay / 1e3)),
        }
    }

    /// Stores every key once, if that was asked for, and every counter if the load counts. Returns how many were stored.
    pub(crate) fn prefill(&self) -> Result<Option<u64>, Failure> {
        if !self.args.prefill {
            return Ok(None);
        }
        let mut stored = self.store_all("prefill", self.workload.clone())?;
        if self.trace.is_none() && self.args.mix().kinds().any(Kind::counts) {
            stored += self.store_all("prefill of counters", self.workload.of_counters())?;
        }
        Ok(Some(stored))
    }

    /// Stores every key of `workload` once. Returns how many there are.
    fn store_all(&self, name: &'static str, workload: Workload) -> Result<u64, Failure> {
        let keys = workload.keys.count();
        let plan = Plan {
            name,
            depth: prefill_depth(&workload.value_sizes),
            workload,
            mix: Mix::of_sets_and_gets(1, 0),
            popularity: Popularity::Sequential,
            length: Length::Requests(keys),
            warmup: Duration::ZERO,
            rate: Rate::Closed,
            verify: false,
            replays: false,
            aside: None,
        };
        let outcome = self.drive(&plan)?;
        let stored = outcome.tally.stored();
        if stored == keys {
            return Ok(stored);
        }
        Err(match outcome.failure {
            Some(why) => Failure::PrefillCut { stored, keys, why },
            None => {
                let first_error = outcome.tally.first_error.unwrap_or_default();
                Failure::Prefill { stored, keys, first_error }
            }
        })
    }

    fn drive(&self, plan: &Plan) -> Result<Outcome, Failure> {
        let threads = self.args.threads.get();
        let stage = Stage {
            session: self,
            plan,
            epoch: Moment::now(),
            gate: Barrier::new(threads as usize + 1),
            start_ns: AtomicU64::new(0),
            watch: Watch::default(),
            odometers: (0..threads).map(|_| Odometer::default()).collect(),
        };
        let work = match self.choice.backend {
            Backend::Uring => Stage::work::<Uring>,
            Backend::Epoll => Stage::work::<Epoll>,
        };
        thread::scope(|scope| {
            let (out, messages) = mpsc::channel();
            let mut spares = Vec::new();
            for worker in 0..threads {
                let (spare, back) = mpsc::channel();
                spares.push(spare);
                let (stage, desk) = (&stage, Desk { worker, out: out.clone(), back });
                scope.spawn(move || stage.end(work(stage, &desk), &desk));
            }
            let (done, ended) = mpsc::channel();
            if let Some(follower) = &self.follower {
                scope.spawn(move || follow(follower, &ended));
            }
            let outcome = stage.watch(&messages, &spares);
            drop(done);
            outcome
        })
    }
}

/// Keeps up with a ring until the other end of `ended` is gone.
fn follow(follower: &Follower, ended: &Receiver<()>) {
    while ended.recv_timeout(ring::INTERVAL) == Err(RecvTimeoutError::Timeout) {
        follower.refresh();
    }
}

fn names_given(args: &Args) -> Result<Vec<String>, Failure> {
    let (Scheme::Shard, Some(shards), [address]) = (args.route, args.shards, &args.addresses[..]) else {
        return Ok(args.addresses.clone());
    };
    let unresolved =
        |text: &str| Failure::Unresolved { address: address.clone(), error: std::io::Error::other(text) };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| unresolved("shards have ports"))?;
    let port: u16 = port.parse().map_err(|_| unresolved("shards have ports"))?;
    let port_of = |shard| port.checked_add(shard).map(|port| format!("{host}:{port}"));
    (0..shards).map(port_of).collect::<Option<_>>().ok_or_else(|| unresolved("there are not so many ports"))
}

fn prefill_depth(sizes: &Sizes) -> u32 {
    let (_, max) = sizes.bounds();
    (PREFILL_BYTES / max.max(1)).clamp(1, PREFILL_DEPTH)
}

/// A number that earlier runs are not likely to have had.
fn this_run() -> u16 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mixed = mix(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) ^ u64::from(std::process::id()) << 40);
    u16::try_from(mixed & RUN_MASK).unwrap_or(0)
}

/// What all threads of a phase see.
struct Stage<'a> {
    session: &'a Session,
    plan: &'a Plan,
    epoch: Moment,
    /// Passed twice: when all are connected, and when `start_ns` is set.
    gate: Barrier,
    start_ns: AtomicU64,
    watch: Watch,
    odometers: Vec<Odometer>,
}

impl Stage<'_> {
    /// One thread, from its first connection to its last reply.
    fn work<I: Io>(&self, desk: &Desk) -> Result<(), Failure> {
        let prepared = self.prepare::<I>(desk.worker);
        if prepared.is_err() {
            self.watch.stop.store(true, Ordering::Relaxed);
        }
        self.gate.wait();
        self.gate.wait();
        let orders = self.orders(desk.worker, self.start_ns.load(Ordering::Relaxed));
        let odometer = &self.odometers[desk.worker as usize];
        prepared?.run(orders, self.epoch, &self.watch, odometer, desk)
    }

    fn prepare<I: Io>(&self, index: u32) -> Result<Worker<'_, I>, Failure> {
        let Session { args, targets, access, .. } = self.session;
        if let Some(first) = args.cpu {
            pin(first.saturating_add(index as usize))?;
        }
        let connections = share(u64::from(args.connections.get()), args.threads.get(), index);
        let clients = usize::try_from(connections.end - connections.start).expect("a part of a u32");
        let asks_many = args.multiget.fixed() != Some(1) && !self.plan.replays;
        let fetches_many = self.plan.aside.is_some() && asks_many;
        let keep_replies =
            self.plan.verify || fetches_many || self.plan.mix.kinds().any(|kind| kind == Kind::Cas);
        let manner = Manner { access, depth: self.plan.depth as usize, keep_replies };
        match &self.session.follower {
            None => Worker::connect(targets, clients, manner),
            Some(follower) => Worker::connect(&follower.snapshot().targets, clients, manner),
        }
    }

    fn orders(&self, index: u32, start_ns: u64) -> Orders<'_> {
        let Self { session, plan, .. } = self;
        let args = &session.args;
        let measure_from_ns = start_ns + nanoseconds(plan.warmup);
        let (source, cursor) = self.source(index);
        Orders {
            workload: &plan.workload,
            values: &session.values,
            route: session.route.clone(),
            follower: session.follower.as_ref(),
            protocol: args.protocol,
            source,
            depth: plan.depth as usize,
            pace: self.pace(index, start_ns, cursor.clone()),
            bound: match plan.length {
                Length::Time(time) => Bound::Until(measure_from_ns + nanoseconds(time)),
                Length::Requests(total) => {
                    let part = share(total, args.threads.get(), index);
                    Bound::Requests(part.end - part.start)
                }
                Length::Trace => Bound::Requests(cursor.map_or(0, |cursor| cursor.count())),
            },
            measure_from_ns,
            timeout: Duration::from_secs_f64(args.timeout),
            verifier: session.verifier.as_ref().filter(|_| plan.verify),
            aside_ns: plan.aside.map(nanoseconds),
        }
    }

    fn source(&self, index: u32) -> (Source<'_>, Option<Cursor>) {
        let (Session { args, trace, .. }, workload) = (self.session, &self.plan.workload);
        let threads = args.threads.get();
        if let Some(trace) = trace.as_ref().filter(|_| self.plan.replays) {
            let (_, key_size) = args.key_size.bounds();
            let cursor = Cursor::new(Arc::clone(trace), key_size, threads, index);
            return (Source::Recorded(cursor.clone()), Some(cursor));
        }
        let count = workload.keys.count();
        let picker = Picker::new(self.plan.popularity, count, share(count, threads, index).start);
        let dice = Dice::new(args.seed, u64::from(index));
        (Source::Drawn(Draw::new(workload, self.plan.mix.clone(), picker, dice)), None)
    }

    fn pace(&self, index: u32, start_ns: u64, cursor: Option<Cursor>) -> Pace {
        let args = &self.session.args;
        let threads = f64::from(args.threads.get());
        match (self.plan.rate, cursor) {
            (Rate::Closed, _) => Pace::Closed,
            (Rate::Recorded(speed), Some(cursor)) => Pace::Open(Schedule::recorded(start_ns, speed, cursor)),
            (Rate::Recorded(_), None) => unreachable!("the command line asks for a trace"),
            (Rate::Open(rate), _) if args.poisson => {
                let dice = Dice::new(args.seed, GAP_STREAMS + u64::from(index));
                Pace::Open(Schedule::poisson(start_ns, rate / threads, dice))
            }
            (Rate::Open(rate), _) => {
                Pace::Open(Schedule::even(start_ns, rate / threads, f64::from(index) / threads))
            }
        }
    }

    /// Tells the watcher of a thread's end, and stops the others after a failure.
    fn end(&self, result: Result<(), Failure>, desk: &Desk) {
        if result.is_err() {
            self.watch.stop.store(true, Ordering::Relaxed);
        }
        desk.out.send(Message::Ended(result)).expect("the watcher waits for every thread");
    }

    /// Starts the run, follows it to its end and adds the threads up.
    fn watch(&self, messages: &Receiver<Message>, spares: &[Sender<Box<Tally>>]) -> Result<Outcome, Failure> {
        self.gate.wait();
        let start_ns = self.now_ns();
        self.start_ns.store(start_ns, Ordering::Relaxed);
        self.gate.wait();
        let measure_from_ns = start_ns + nanoseconds(self.plan.warmup);
        let mut cpu_before_us = cpu_us();
        let mut measuring = self.plan.warmup.is_zero();
        let mut sum = Sum::new(spares.len(), self.session.targets.len());
        let mut failure = None;
        let mut view = self.view();
        let mut next_tick_ns = start_ns + nanoseconds(TICK);
        let mut running = spares.len();
        while running > 0 {
            let wake_ns = if measuring { next_tick_ns } else { next_tick_ns.min(measure_from_ns) };
            match messages.recv_timeout(Duration::from_nanos(wake_ns.saturating_sub(self.now_ns()))) {
                Ok(Message::Measured { interval, worker, tally }) => {
                    let worker = worker as usize;
                    if let Some(spare) = sum.add(worker, interval, tally) {
                        // Its thread may have ended.
                        drop(spares[worker].send(spare));
                    }
                }
                Ok(Message::Ended(result)) => {
                    running -= 1;
                    failure = failure.or(result.err());
                }
                Err(RecvTimeoutError::Timeout) if !measuring && self.now_ns() >= measure_from_ns => {
                    measuring = true;
                    cpu_before_us = cpu_us();
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.show(&mut view, start_ns, &sum);
                    next_tick_ns += nanoseconds(TICK);
                    if view.was_told_to_stop() {
                        self.watch.stop.store(true, Ordering::Relaxed);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => panic!("a load thread panicked"),
            }
        }
        self.outcome(sum, measure_from_ns, cpu_us() - cpu_before_us, failure)
    }

    fn outcome(
        &self,
        sum: Sum,
        measure_from_ns: u64,
        cpu_us: u64,
        failure: Option<Failure>,
    ) -> Result<Outcome, Failure> {
        let failure = failure.or(interrupt::came().then_some(Failure::Interrupted));
        let last_ns = sum.last_reply_ns();
        let elapsed = Duration::from_nanos(last_ns.saturating_sub(measure_from_ns));
        let (tally, intervals) = sum.finish(elapsed.as_secs_f64());
        match failure {
            // There is nothing to show beside it.
            Some(failure) if tally.operations() == 0 => Err(failure),
            failure => Ok(Outcome {
                tally,
                intervals,
                elapsed,
                cpu_us,
                io: self.session.choice.backend.to_string(),
                servers: self.session.server_names(),
                failure: failure.map(|failure| failure.to_string()),
            }),
        }
    }

    fn view(&self) -> View {
        let length = match self.plan.length {
            Length::Time(time) => (time + self.plan.warmup).as_secs().max(1),
            Length::Requests(total) => total,
            Length::Trace => self.session.trace.as_ref().map_or(0, |trace| trace.requests.len() as u64),
        };
        View::new(self.plan.name, length, &self.session.args)
    }

    fn show(&self, view: &mut View, start_ns: u64, sum: &Sum) {
        let replies = self.odometers.iter().map(|odometer| odometer.0.load(Ordering::Relaxed)).sum();
        let seconds = Duration::from_nanos(self.now_ns() - start_ns).as_secs();
        let position = if matches!(self.plan.length, Length::Time(_)) { seconds } else { replies };
        view.show(position, replies, &self.session.server_names(), &sum.intervals, &sum.total);
    }

    fn now_ns(&self) -> u64 {
        Moment::now().since_ns(self.epoch)
    }
}

fn pin(cpu: usize) -> Result<(), Failure> {
    let allowed = allowed_cpus()?;
    if !allowed.contains(&cpu) {
        let error = std::io::ErrorKind::InvalidInput.into();
        return Err(Failure::Pin { cpu, error, allowed });
    }
    pin_to(cpu).map_err(|error| Failure::Pin { cpu, error, allowed })
}

fn cpu_us() -> u64 {
    let (user, system) = cpu_time_us();
    user + system
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).expect("the command line allows a day")
}

#[cfg(test)]
mod tests;
