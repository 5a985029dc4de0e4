//! The order of a run: look up, prefill, load, add up. Starts the threads, watches them and takes the CPU time;
//! what a thread does is in `worker.rs`.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use slabring_reactor::backend::{self, Backend, Choice};
use slabring_reactor::clock::Moment;
use slabring_reactor::thread::{Limit, allowed_cpus, cpu_time_us, pin_to, raise_limit};
use slabring_reactor::{Epoll, Io, Uring};

use crate::args::{Args, Ratio, Sizes};
use crate::failure::Failure;
use crate::keys::{Keys, share};
use crate::popularity::{Dice, Picker, Popularity};
use crate::progress::{Progress, TICK};
use crate::report::Report;
use crate::requests::{Requests, Space};
use crate::schedule::Schedule;
use crate::tally::Tally;
use crate::target::Target;
use crate::values::Values;
use crate::worker::{Bound, IO_SETTINGS, Odometer, Orders, Pace, Watch, Worker};

/// How long a run is when nobody says.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// A prefill keeps up to so many requests, and so many bytes of values, in flight on each connection.
const PREFILL_DEPTH: u32 = 64;
const PREFILL_BYTES: u32 = 1 << 20;

/// File descriptors of a run beside its connections: rings, standard streams, what the runtime holds.
const DESCRIPTORS_SPARE: u64 = 256;

/// Streams of dice: one for the requests and one for the gaps of each thread.
const GAP_STREAMS: u64 = 1 << 32;

/// One phase, as all threads together carry it out.
#[derive(Clone, Copy, Debug)]
struct Plan {
    name: &'static str,
    ratio: Ratio,
    popularity: Popularity,
    depth: u32,
    length: Length,
    warmup: Duration,
    /// Requests a second of the open loop.
    rate: Option<f64>,
    verify: bool,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Time(Duration),
    Requests(u64),
}

/// What a phase came to.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// From the start of the measured part to the last reply.
    pub(crate) elapsed: Duration,
    /// User and system time of this process in the measured part.
    pub(crate) cpu_us: u64,
}

/// What all threads of a phase see.
struct Stage<'a> {
    args: &'a Args,
    target: &'a Target,
    space: &'a Space,
    plan: Plan,
    epoch: Moment,
    /// Passed twice: when all are connected, and when `start_ns` is set.
    gate: Barrier,
    start_ns: AtomicU64,
    watch: Watch,
    odometers: Vec<Odometer>,
}

/// Does what the command line asks for. Blocks until it is done.
pub(crate) fn run(args: &Args) -> Result<Report, Failure> {
    let target = Target::resolve(&args.address)?;
    let choice = backend::choose(args.io.into(), &IO_SETTINGS)?;
    let descriptors = u64::from(args.connections.get()) + DESCRIPTORS_SPARE;
    // With too few left, the connection that fails says so.
    raise_limit(Limit::OpenFiles, descriptors)?;
    let space = Space { keys: Keys::new(args.keys, args.key_size), values: Values::new(args.value_size) };
    let prefilled = if args.prefill { Some(prefill(args, &target, &space, &choice)?) } else { None };
    let outcome = drive(args, &target, &space, main_plan(args), &choice)?;
    Ok(Report::new(args, &target, choice.backend, prefilled, &outcome))
}

fn main_plan(args: &Args) -> Plan {
    let time = args.duration.map_or(DURATION_DEFAULT, Duration::from_secs_f64);
    Plan {
        name: "load",
        ratio: args.ratio,
        popularity: args.distribution,
        depth: args.depth.get(),
        length: args.requests.map_or(Length::Time(time), Length::Requests),
        warmup: Duration::from_secs_f64(args.warmup),
        rate: args.rate,
        verify: args.verify,
    }
}

/// Stores every key once. Returns how many there are.
fn prefill(args: &Args, target: &Target, space: &Space, choice: &Choice) -> Result<u64, Failure> {
    let plan = Plan {
        name: "prefill",
        ratio: Ratio { sets: 1, gets: 0 },
        popularity: Popularity::Sequential,
        depth: prefill_depth(args.value_size),
        length: Length::Requests(args.keys),
        warmup: Duration::ZERO,
        rate: None,
        verify: false,
    };
    let tally = drive(args, target, space, plan, choice)?.tally;
    if tally.stored == args.keys {
        return Ok(tally.stored);
    }
    let first_error = tally.first_error.unwrap_or_default();
    Err(Failure::Prefill { stored: tally.stored, keys: args.keys, first_error })
}

fn prefill_depth(sizes: Sizes) -> u32 {
    (PREFILL_BYTES / sizes.max.max(1)).clamp(1, PREFILL_DEPTH)
}

fn drive(
    args: &Args,
    target: &Target,
    space: &Space,
    plan: Plan,
    choice: &Choice,
) -> Result<Outcome, Failure> {
    let threads = args.threads.get();
    let stage = Stage {
        args,
        target,
        space,
        plan,
        epoch: Moment::now(),
        gate: Barrier::new(threads as usize + 1),
        start_ns: AtomicU64::new(0),
        watch: Watch::default(),
        odometers: (0..threads).map(|_| Odometer::default()).collect(),
    };
    let work = match choice.backend {
        Backend::Uring => Stage::work::<Uring>,
        Backend::Epoll => Stage::work::<Epoll>,
    };
    thread::scope(|scope| {
        let (results, finished) = mpsc::channel();
        for index in 0..threads {
            let (stage, results) = (&stage, results.clone());
            scope.spawn(move || stage.report(work(stage, index), &results));
        }
        stage.watch(&finished)
    })
}

impl Stage<'_> {
    /// One thread, from its first connection to its last reply.
    fn work<I: Io>(&self, index: u32) -> Result<Tally, Failure> {
        let prepared = self.prepare::<I>(index);
        if prepared.is_err() {
            self.watch.stop.store(true, Ordering::Relaxed);
        }
        self.gate.wait();
        self.gate.wait();
        let orders = self.orders(index, self.start_ns.load(Ordering::Relaxed));
        prepared?.run(orders, self.epoch, &self.watch, &self.odometers[index as usize])
    }

    fn prepare<I: Io>(&self, index: u32) -> Result<Worker<I>, Failure> {
        if let Some(first) = self.args.cpu {
            pin(first.saturating_add(index as usize))?;
        }
        let connections = share(u64::from(self.args.connections.get()), self.args.threads.get(), index);
        let count = u32::try_from(connections.end - connections.start).expect("a part of a u32");
        Worker::connect(self.target, count, self.plan.depth as usize, self.plan.verify)
    }

    fn orders(&self, index: u32, start_ns: u64) -> Orders<'_> {
        let Self { args, plan, space, .. } = self;
        let threads = args.threads.get();
        let first = share(args.keys, threads, index).start;
        let requests = Requests::new(
            space,
            args.value_size,
            plan.ratio,
            args.multiget.get(),
            Picker::new(plan.popularity, args.keys, first),
            Dice::new(args.seed, u64::from(index)),
        );
        let measure_from_ns = start_ns + nanoseconds(plan.warmup);
        Orders {
            space,
            requests,
            depth: plan.depth as usize,
            pace: self.pace(index, start_ns),
            bound: match plan.length {
                Length::Time(time) => Bound::Until(measure_from_ns + nanoseconds(time)),
                Length::Requests(total) => {
                    let part = share(total, threads, index);
                    Bound::Requests(part.end - part.start)
                }
            },
            measure_from_ns,
            timeout: Duration::from_secs_f64(args.timeout),
            verify: plan.verify,
        }
    }

    fn pace(&self, index: u32, start_ns: u64) -> Pace {
        let threads = f64::from(self.args.threads.get());
        match self.plan.rate {
            None => Pace::Closed,
            Some(rate) if self.args.poisson => {
                let dice = Dice::new(self.args.seed, GAP_STREAMS + u64::from(index));
                Pace::Open(Schedule::poisson(start_ns, rate / threads, dice))
            }
            Some(rate) => Pace::Open(Schedule::even(start_ns, rate / threads, f64::from(index) / threads)),
        }
    }

    /// Hands a thread's result to the watcher, and stops the others after a failure.
    fn report(&self, result: Result<Tally, Failure>, results: &Sender<Result<Tally, Failure>>) {
        if result.is_err() {
            self.watch.stop.store(true, Ordering::Relaxed);
        }
        results.send(result).expect("the watcher waits for every thread");
    }

    /// Starts the run, follows it to its end and adds the threads up.
    fn watch(&self, finished: &Receiver<Result<Tally, Failure>>) -> Result<Outcome, Failure> {
        self.gate.wait();
        let start_ns = self.now_ns();
        self.start_ns.store(start_ns, Ordering::Relaxed);
        self.gate.wait();
        let measure_from_ns = start_ns + nanoseconds(self.plan.warmup);
        let mut cpu_before_us = cpu_us();
        let mut measuring = self.plan.warmup.is_zero();
        let mut tally = Tally::new(true);
        let mut failure = None;
        let mut progress = self.progress();
        let mut next_tick_ns = start_ns + nanoseconds(TICK);
        let mut running = self.args.threads.get();
        while running > 0 {
            let wake_ns = if measuring { next_tick_ns } else { next_tick_ns.min(measure_from_ns) };
            match finished.recv_timeout(Duration::from_nanos(wake_ns.saturating_sub(self.now_ns()))) {
                Ok(result) => {
                    running -= 1;
                    match result {
                        Ok(part) => tally.add(&part),
                        Err(error) => failure = failure.or(Some(error)),
                    }
                }
                Err(RecvTimeoutError::Timeout) if !measuring && self.now_ns() >= measure_from_ns => {
                    measuring = true;
                    cpu_before_us = cpu_us();
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.show(&mut progress, start_ns);
                    next_tick_ns += nanoseconds(TICK);
                }
                Err(RecvTimeoutError::Disconnected) => panic!("a load thread panicked"),
            }
        }
        let elapsed = Duration::from_nanos(tally.last_reply_ns.saturating_sub(measure_from_ns));
        failure.map_or_else(|| Ok(Outcome { tally, elapsed, cpu_us: cpu_us() - cpu_before_us }), Err)
    }

    fn progress(&self) -> Progress {
        let length = match self.plan.length {
            Length::Time(time) => (time + self.plan.warmup).as_secs().max(1),
            Length::Requests(total) => total,
        };
        Progress::new(self.plan.name, length, self.args.quiet)
    }

    fn show(&self, progress: &mut Progress, start_ns: u64) {
        let replies = self.odometers.iter().map(|odometer| odometer.0.load(Ordering::Relaxed)).sum();
        let seconds = Duration::from_nanos(self.now_ns() - start_ns).as_secs();
        progress.show(if matches!(self.plan.length, Length::Time(_)) { seconds } else { replies }, replies);
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
