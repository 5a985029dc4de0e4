//! Connections of other nodes: one thread accepts them for all shards and hands each to the shard that its first bytes name. Reads
//! nothing away and judges nothing else: that is the link's part.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use slabring_cluster::link::GREETING_TIME_MAX;
use slabring_cluster::wire::{HEADER_BYTES, hello_shard};
use socket2::SockRef;
use tracing::warn;

use super::Cluster;
use crate::node::Node;

/// Connections that have not said yet whom they want; more are closed.
const WAITING_MAX: usize = 256;
/// How often those are looked at.
const PAUSE: Duration = Duration::from_millis(1);
/// Pause after the process ran out of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);

struct Waiting {
    stream: TcpStream,
    since: Instant,
}

enum Wanted {
    Shard(usize),
    NotYet,
    Nobody,
}

/// Starts the thread. It ends with [`Cluster::stop_accepting`].
pub fn start(node: &Arc<Node>) -> Result<()> {
    let node = Arc::clone(node);
    let run = move || node.cluster.as_ref().into_iter().for_each(|cluster| accept_all(&node, cluster));
    std::thread::Builder::new()
        .name("peers".into())
        .spawn(run)
        .context("cannot start the thread that accepts other nodes")?;
    Ok(())
}

impl Cluster {
    /// Nobody else is let in.
    pub fn stop_accepting(&self) {
        match SockRef::from(&self.listener).shutdown(Shutdown::Both) {
            // It fails when it is shut down already.
            Ok(()) | Err(_) => {}
        }
    }
}

fn accept_all(node: &Node, cluster: &Cluster) {
    let mut waiting: Vec<Waiting> = Vec::new();
    while !node.stopping.load(Ordering::Acquire) {
        // While somebody is to speak, nobody sleeps in `accept`.
        if let Err(error) = cluster.listener.set_nonblocking(!waiting.is_empty()) {
            return warn!("other nodes cannot be accepted any more: {error}");
        }
        match cluster.listener.accept() {
            Ok((stream, _)) if waiting.len() < WAITING_MAX => {
                let is_ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_ok();
                waiting.extend(is_ready.then(|| Waiting { stream, since: Instant::now() }));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => std::thread::sleep(BACK_OFF),
        }
        waiting = waiting.into_iter().filter_map(|one| hand_over(node, cluster, one)).collect();
    }
}

/// Gives a connection to its shard; or back, if it has not spoken yet.
fn hand_over(node: &Node, cluster: &Cluster, waiting: Waiting) -> Option<Waiting> {
    match wanted(&waiting.stream, cluster.arrivals.len()) {
        Wanted::Shard(shard) => {
            // Whoever finds no room dials again.
            if cluster.arrivals[shard].push(waiting.stream.into()).is_ok() {
                node.wake(shard);
            }
            None
        }
        Wanted::NotYet => {
            let patience = Duration::from_micros(GREETING_TIME_MAX.0);
            (waiting.since.elapsed() < patience).then_some(waiting)
        }
        Wanted::Nobody => None,
    }
}

/// What the first bytes say. Strangers go to a shard as well: its link says and counts what is wrong with them.
fn wanted(stream: &TcpStream, shards: usize) -> Wanted {
    let mut head = [0; HEADER_BYTES];
    match stream.peek(&mut head) {
        Ok(0) => Wanted::Nobody,
        Ok(length) if length < HEADER_BYTES => Wanted::NotYet,
        Ok(_) => Wanted::Shard(hello_shard(&head).map_or(0, usize::from) % shards),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Wanted::NotYet
        }
        Err(_) => Wanted::Nobody,
    }
}
