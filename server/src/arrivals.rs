//! Connections on their way to a shard from the one thread that accepts on the unix socket, whose clients the kernel does not
//! spread over several listeners. Handed out in turn.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam::queue::ArrayQueue;

use crate::node::Node;

/// Connections that may wait for one shard; more are closed.
const ARRIVALS_MAX: usize = 1024;
/// Pause after the process ran out of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);

/// One shard's connections that it has not taken over yet.
#[derive(Debug)]
pub struct Arrivals(ArrayQueue<OwnedFd>);

impl Default for Arrivals {
    fn default() -> Self {
        Self(ArrayQueue::new(ARRIVALS_MAX))
    }
}

impl Arrivals {
    /// Adds one for the shard, which is then to be woken. False: there is no room, and it is closed.
    pub fn put(&self, stream: OwnedFd) -> bool {
        self.0.push(stream).is_ok()
    }

    /// The next one. A load when there is none.
    pub fn take(&self) -> Option<OwnedFd> {
        self.0.pop()
    }
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
    let mut shard = 0;
    while !node.stopping.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((stream, _)) => {
                shard = (shard + 1) % node.arrivals.len();
                // A full queue is a shard that is hours behind: the client learns it by the end of the stream.
                if node.arrivals[shard].0.push(stream.into()).is_ok() {
                    node.wake(shard);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => std::thread::sleep(BACK_OFF),
        }
    }
}
