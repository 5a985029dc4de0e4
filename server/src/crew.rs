//! Shard threads before they serve: each is pinned if that is wanted, has a reactor, and waits for its orders. Nothing else is built before all of
//! them have one, because rings count against a limit of the whole user: the last may be refused where the first was not, and
//! then all of them must do without.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use slabring_reactor::thread::{allowed_cpus, pin_to};
use slabring_reactor::{Io, IoSettings, Waker};

use crate::options::Pinning;

/// What helps where a thread does not start.
pub const FEW_THREADS: &str = "raise the limit of processes and threads (ulimit -u, TasksMax)";

type Started = (usize, Result<Arc<Waker>>);

/// See the module. Dropped without orders, the threads end. `Left` is what a thread leaves behind.
pub struct Crew<Orders, Left> {
    /// How each thread is woken, by shard.
    pub wakers: Vec<Arc<Waker>>,
    orders: Vec<mpsc::Sender<Orders>>,
    threads: Vec<JoinHandle<Result<Left>>>,
}

impl<Orders: Send + 'static, Left: Default + Send + 'static> Crew<Orders, Left> {
    /// Starts `count` threads, which will `run` their reactors by their orders.
    pub fn gather<I: Io + 'static>(
        count: u16,
        pinning: Pinning,
        settings: &IoSettings,
        run: fn(I, Orders) -> Result<Left>,
    ) -> Result<Self> {
        let cpus = allowed_cpus().context("cannot read the CPU affinity")?;
        let (tell, started) = mpsc::channel();
        let (mut orders, mut threads) = (Vec::new(), Vec::new());
        for number in 0..usize::from(count) {
            let (order, ordered) = mpsc::channel();
            orders.push(order);
            let cpu = (pinning == Pinning::On).then(|| cpus[number % cpus.len()]);
            let (tell, settings) = (tell.clone(), *settings);
            let thread = std::thread::Builder::new().name(format!("shard-{number}"));
            let thread = thread.spawn(move || begin(number, cpu, &settings, &tell, &ordered, run));
            threads.push(
                thread
                    .with_context(|| format!("cannot start the thread of shard {number}; {FEW_THREADS}"))?,
            );
        }
        drop(tell);
        Ok(Self { wakers: collect(&started, usize::from(count))?, orders, threads })
    }

    /// Gives each thread its orders, in the order of shards, and returns what ends when they do.
    pub fn send_off(self, orders: impl Iterator<Item = Orders>) -> Vec<JoinHandle<Result<Left>>> {
        for (to, order) in self.orders.iter().zip(orders) {
            // A thread that has gone reports why when it is joined.
            if to.send(order).is_err() {
                break;
            }
        }
        self.threads
    }
}

/// Whether a crew could not gather for want of memory that the kernel may lock.
pub fn lacks_locked_memory(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory)
}

fn begin<I: Io, Orders, Left: Default>(
    number: usize,
    cpu: Option<usize>,
    settings: &IoSettings,
    tell: &mpsc::Sender<Started>,
    ordered: &mpsc::Receiver<Orders>,
    run: fn(I, Orders) -> Result<Left>,
) -> Result<Left> {
    let pinned = cpu.map_or(Ok(()), |cpu| pin_to(cpu).with_context(|| format!("cannot pin to CPU {cpu}")));
    let built = pinned.and_then(|()| I::new(settings).context("cannot set up the I/O backend"));
    let (io, outcome) = match built {
        Ok(io) => {
            let waker = io.waker();
            (Some(io), Ok(waker))
        }
        Err(error) => (None, Err(error)),
    };
    // Nobody listens, or orders, when the crew was given up; that is told elsewhere.
    if tell.send((number, outcome)).is_err() {
        return Ok(Left::default());
    }
    match (io, ordered.recv()) {
        (Some(io), Ok(orders)) => run(io, orders),
        _ => Ok(Left::default()),
    }
}

fn collect(started: &mpsc::Receiver<Started>, count: usize) -> Result<Vec<Arc<Waker>>> {
    let mut wakers: Vec<_> = started.iter().take(count).collect();
    wakers.sort_by_key(|(number, _)| *number);
    let wakers = wakers
        .into_iter()
        .map(|(number, waker)| waker.with_context(|| format!("shard {number} cannot start")))
        .collect::<Result<Vec<_>>>()?;
    if wakers.len() < count {
        bail!("a shard thread ended while it started");
    }
    Ok(wakers)
}
