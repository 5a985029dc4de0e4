//! The control thread: one unpinned glommio executor that minds signals, ticks the clock and publishes
//! statistics. Never on the path of a request. Where io_uring is refused, plain threads do the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use glommio::timer::sleep;
use glommio::{LocalExecutorBuilder, Placement};
use signal_hook::consts::{SIGHUP, SIGUSR1};
use signal_hook::iterator::Signals;
use slabring_reactor::backend::Backend;
use slabring_reactor::thread::return_freed_memory;
use tracing::{error, info, warn};

use crate::machine::resident_bytes;
use crate::node::{Node, Published};
use crate::pulse::{Change, LOOKS_PER_SECOND, SILENT_SECONDS};
use crate::reload::reload;

/// How often the second counter is looked after: an item outlives its time by at most this.
const TICK: Duration = Duration::from_millis(1_000 / LOOKS_PER_SECOND as u64);
/// Ticks between two lines of statistics in the log (`-v`).
const TICKS_PER_REPORT: u32 = 100;
/// Ticks between two looks at the memory of the process.
const TICKS_PER_LOOK: u32 = 10;
/// When so much more than at its least is nobody's, for so many looks, the allocator is told to give up what it keeps of freed buffers.
const KEPT_BYTES_MAX: u64 = 8 << 20;
const KEPT_LOOKS_MIN: u32 = 5;
/// glommio's own buffer arena; the control thread moves no bulk data yet. Its default is 10 MiB.
const GLOMMIO_MEMORY_BYTES: usize = 256 << 10;
const GLOMMIO_RING_DEPTH: usize = 32;
/// Exit code after a second signal: the first one's orderly end was too slow for somebody.
const EXIT_AT_ONCE: i32 = 1;

/// Starts the control thread, which lives as long as the process.
pub fn start(node: &Arc<Node>, signals: Signals) -> Result<()> {
    let handle = signals.handle();
    if node.choice.backend == Backend::Uring {
        match start_executor(Arc::clone(node), signals) {
            Ok(()) => return Ok(()),
            Err(error) => warn!("control runs on plain threads, because glommio does not start: {error}"),
        }
        // The executor took its signals with it.
        handle.close();
        return start_threads(node, crate::signals()?);
    }
    start_threads(node, signals)
}

fn start_executor(node: Arc<Node>, signals: Signals) -> Result<()> {
    let (tell, started) = mpsc::channel();
    let thread = LocalExecutorBuilder::new(Placement::Unbound)
        .name("control")
        .io_memory(GLOMMIO_MEMORY_BYTES)
        .ring_depth(GLOMMIO_RING_DEPTH)
        .spawn(move || async move {
            let minded = Arc::clone(&node);
            let minding = glommio::executor().spawn_blocking(move || mind(&minded, signals));
            glommio::spawn_local(minding).detach();
            // The node may have given up waiting, which ends the process anyway.
            if tell.send(()).is_err() {
                return;
            }
            let mut watch = Watch::default();
            loop {
                watch.tick(&node);
                sleep(TICK).await;
            }
        });
    let thread = thread.map_err(|error| anyhow!("{error}"))?;
    if started.recv().is_err() {
        // The executor ended before it began: its join says why.
        thread.join().map_err(|error| anyhow!("{error}"))?;
    }
    Ok(())
}

fn start_threads(node: &Arc<Node>, signals: Signals) -> Result<()> {
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .with_context(|| format!("cannot start the thread {name}; {}", crate::crew::FEW_THREADS))
    };
    let minded = Arc::clone(node);
    spawn("signals", Box::new(move || mind(&minded, signals)))?;
    let node = Arc::clone(node);
    spawn(
        "control",
        Box::new(move || {
            let mut watch = Watch::default();
            loop {
                watch.tick(&node);
                std::thread::sleep(TICK);
            }
        }),
    )?;
    Ok(())
}

/// The first signal to end ends the node in order, a second one at once. SIGHUP reloads.
fn mind(node: &Node, mut signals: Signals) {
    for signal in signals.forever() {
        if signal == SIGHUP {
            reload(node);
            continue;
        }
        if node.stopping.load(Ordering::Acquire) {
            warn!("signal {signal} again: ending at once");
            std::process::exit(EXIT_AT_ONCE);
        }
        info!("signal {signal}: finishing what was received");
        if signal == SIGUSR1 { node.stop_gracefully() } else { node.stop() }
    }
}

/// What is to be done from time to time.
#[derive(Default)]
struct Watch {
    ticks: u32,
    /// Resident bytes that no account has: the program, what it holds from start to end, what the allocator keeps. The least since some was
    /// given back.
    kept_bytes_min: Option<u64>,
    /// Looks that have seen much more, in a row.
    looks: u32,
}

impl Watch {
    fn tick(&mut self, node: &Node) {
        node.clock.tick();
        self.ticks = self.ticks.wrapping_add(1);
        if !node.stopping.load(Ordering::Relaxed) {
            look_for_silence(node);
        }
        if self.ticks.is_multiple_of(TICKS_PER_REPORT) && node.verbosity.load(Ordering::Relaxed) > 0 {
            log_statistics(node);
        }
        if self.ticks.is_multiple_of(TICKS_PER_LOOK)
            && let Some(resident) = resident_bytes()
        {
            node.resident_bytes.store(resident, Ordering::Relaxed);
            if self.keeps_much(resident.saturating_sub(sum(node, |shard| &shard.memory_bytes))) {
                return_freed_memory();
            }
        }
    }

    /// Whether so many bytes that nobody has are many more than they have to be, and have been for some time.
    fn keeps_much(&mut self, kept_bytes: u64) -> bool {
        let least = self.kept_bytes_min.map_or(kept_bytes, |least| least.min(kept_bytes));
        self.kept_bytes_min = Some(least);
        let is_much = kept_bytes - least >= KEPT_BYTES_MAX;
        self.looks = if is_much { self.looks + 1 } else { 0 };
        let keeps_much = self.looks == KEPT_LOOKS_MIN;
        if keeps_much {
            // What stays then is not the allocator's.
            (self.kept_bytes_min, self.looks) = (None, 0);
        }
        keeps_much
    }
}

/// Says which shards do not turn, and which do again.
fn look_for_silence(node: &Node) {
    for change in node.pulses.look() {
        match change {
            Change::Silent(shard) => {
                error!("shard {shard} has made no turn for {SILENT_SECONDS} s: its keys are not served");
            }
            Change::Back(shard) => warn!("shard {shard} turns again"),
        }
    }
}

fn sum(node: &Node, field: fn(&Published) -> &AtomicU64) -> u64 {
    node.published.iter().map(|shard| field(shard).load(Ordering::Relaxed)).sum()
}

fn log_statistics(node: &Node) {
    info!(
        connections = node.connections.load(Ordering::Relaxed),
        items = sum(node, |shard| &shard.items),
        gets = sum(node, |shard| &shard.gets),
        hits = sum(node, |shard| &shard.hits),
        sets = sum(node, |shard| &shard.sets),
        evictions = sum(node, |shard| &shard.evictions),
        "statistics"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_for_each_time_that_much_more_is_nobodys_and_stays_so() {
        let mut watch = Watch::default();
        let mut looks_that_tell = |looks: &[u64]| -> Vec<usize> {
            (0..looks.len()).filter(|&at| watch.keeps_much(looks[at] << 20)).collect()
        };
        assert_eq!(looks_that_tell(&[30, 20, 27, 27, 27, 27, 27, 27]), [0_usize; 0]);
        assert_eq!(looks_that_tell(&[28, 40, 99, 28, 27, 28, 28, 28, 28]), [0_usize; 0]);
        assert_eq!(looks_that_tell(&[28, 28, 28, 28, 28, 28, 28, 28]), [0]);
        assert_eq!(looks_that_tell(&[20, 35, 36, 36, 36, 36]), [5]);
    }
}
