//! Connections on their way to a shard that did not accept them: from a shard that the kernel gave more than its part, and from
//! the one thread that accepts on the unix socket, whose clients the kernel does not spread at all. Decides where a client goes;
//! moves none that is served already.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::listeners::Entrance;
use crate::node::Node;
use crate::options::TlsUse;

/// Connections that may wait for one shard.
const ARRIVALS_MAX: usize = 1024;
/// A shard may have this part more clients than the one with the fewest before the next goes there: of many, chance spreads well
/// enough, and a short connection is not worth the way.
const SKEW_PART: usize = 8;
/// Pause after the process ran out of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A connection that nobody serves yet.
#[derive(Debug)]
pub struct Arrival {
    /// The connection.
    pub stream: OwnedFd,
    /// Where it came in.
    pub entrance: Entrance,
}

/// One shard's clients as other threads see them: how many, and those that it has not taken over yet.
#[derive(Debug)]
pub struct Arrivals {
    waiting: ArrayQueue<Arrival>,
    /// Clients, those that wait included.
    clients: CachePadded<AtomicUsize>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { waiting: ArrayQueue::new(ARRIVALS_MAX), clients: CachePadded::default() }
    }
}

impl Arrivals {
    /// The next one. A load when there is none.
    pub fn take(&self) -> Option<Arrival> {
        self.waiting.pop()
    }

    /// Sends one on its way, or gives it back when too many wait.
    pub fn push(&self, arrival: Arrival) -> Result<(), Arrival> {
        self.waiting.push(arrival)?;
        self.came();
        Ok(())
    }

    /// Counts a client of the shard.
    pub fn came(&self) {
        self.clients.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one less.
    pub fn went(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The shard for a client that shard `here` accepts: mostly that one.
pub fn place_for(all: &[Arrivals], here: usize) -> usize {
    let (place, fewest) = least_loaded(all, here);
    let clients = all[here].clients.load(Ordering::Relaxed);
    if clients > fewest + fewest / SKEW_PART { place } else { here }
}

/// The shard with the fewest clients and their number; of several such shards the first from `start` on.
fn least_loaded(all: &[Arrivals], start: usize) -> (usize, usize) {
    let places = (start..all.len()).chain(0..start);
    let loads = places.map(|place| (place, all[place].clients.load(Ordering::Relaxed)));
    loads.min_by_key(|&(_, clients)| clients).expect("there is a shard")
}

/// Starts the thread that accepts for all shards of `node`, which run. It ends with [`Node::stop`].
pub fn start(node: &Arc<Node>) -> Result<()> {
    let node = Arc::clone(node);
    std::thread::Builder::new()
        .name("acceptor".into())
        .spawn(move || node.unix.as_ref().into_iter().for_each(|listener| accept_all(&node, listener)))
        .context("cannot start the thread that accepts on the unix socket")?;
    Ok(())
}

fn accept_all(node: &Node, listener: &UnixListener) {
    let protocol = node.settings.protocol;
    // Its name is the last of all.
    let entrance =
        Entrance { listener: node.listeners.len() - 1, direct: true, tls: TlsUse::Never, protocol };
    let mut start = 0;
    while !node.stopping.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((stream, _)) => {
                let (shard, _) = least_loaded(&node.arrivals, start);
                start = (shard + 1) % node.arrivals.len();
                // A full queue is a shard that is hours behind: the client learns it by the end of the stream.
                if node.arrivals[shard].push(Arrival { stream: stream.into(), entrance }).is_ok() {
                    node.wake(shard);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => std::thread::sleep(BACK_OFF),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients come to shards by `chosen`, as the kernel would choose. Returns how many each shard has.
    fn spread(shards: usize, chosen: &[usize]) -> Vec<usize> {
        let all: Vec<_> = (0..shards).map(|_| Arrivals::default()).collect();
        chosen.iter().for_each(|&here| all[place_for(&all, here)].came());
        all.iter().map(|one| one.clients.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn few_clients_are_spread_evenly_wherever_the_kernel_sends_them() {
        assert_eq!(spread(2, &[1, 1]), [1, 1]);
        assert_eq!(spread(4, &[0; 12]), [3; 4]);
        assert_eq!(spread(1, &[0; 3]), [3]);
    }

    #[test]
    fn of_many_clients_a_small_skew_stays_and_a_large_one_does_not() {
        let chosen: Vec<usize> = (0..1000).map(|number| usize::from(number % 20 < 11)).collect();
        let skewed = spread(2, &chosen);
        assert!((510..=550).contains(&skewed[1]), "{skewed:?}");
        let spread = spread(2, &[0; 1000]);
        assert!(
            spread[0] > 500 && spread[0] * SKEW_PART <= spread[1] * (SKEW_PART + 1) + SKEW_PART,
            "{spread:?}"
        );
    }
}
