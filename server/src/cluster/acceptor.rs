//! Connections of other nodes: one thread accepts them for all shards and hands each to the shard that its first bytes name. Reads
//! nothing away and judges nothing else: that is the link's part.

use std::io::ErrorKind;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use slabring_cluster::link::GREETING_TIME_MAX;
use slabring_cluster::time::Micros;
use slabring_cluster::wire::{HEADER_BYTES, hello_shard};
use slabring_reactor::clock::Moment;
use socket2::SockRef;
use tracing::warn;

use super::Cluster;
use super::complaints::Complaints;
use crate::downfall::end_because;
use crate::node::Node;

/// Connections that have not said yet whom they want. With more the oldest is closed, which had the most time: what a node has to
/// say is on its way when it connects.
const STRANGERS_MAX: usize = 256;
/// How often those are looked at.
const PAUSE: Duration = Duration::from_millis(1);
/// Pause after the process ran out of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A connection that has not said yet whom it wants.
struct Stranger {
    stream: TcpStream,
    from: IpAddr,
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
    let mut strangers: Vec<Stranger> = Vec::new();
    let mut complaints = Complaints::default();
    while !node.stopping.load(Ordering::Acquire) {
        // While somebody is to speak, nobody sleeps in `accept`.
        if let Err(error) = cluster.listener.set_nonblocking(!strangers.is_empty()) {
            end_because("accepting other nodes", &error.into());
        }
        match cluster.listener.accept() {
            Ok((stream, from)) => {
                let is_ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_ok();
                let from = from.ip().to_canonical();
                strangers.extend(is_ready.then(|| Stranger { stream, from, since: Instant::now() }));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => std::thread::sleep(BACK_OFF),
        }
        strangers = strangers.into_iter().filter_map(|one| hand_over(node, cluster, one)).collect();
        if strangers.len() > STRANGERS_MAX {
            let view = cluster.view.now();
            let is_member = |from| view.iter().any(|view| view.has_member_at(from));
            let place = dispensable(strangers.iter().map(|one| one.from), is_member);
            turn_away(cluster, &mut complaints, &strangers.remove(place));
        }
    }
}

/// Who goes when all places are taken: a stranger rather than a member, and who was here first in `addresses`.
fn dispensable(mut addresses: impl Iterator<Item = IpAddr>, is_member: impl Fn(IpAddr) -> bool) -> usize {
    addresses.position(|from| !is_member(from)).unwrap_or(0)
}

/// Counts one who is closed for others, and says so now and then.
fn turn_away(cluster: &Cluster, complaints: &mut Complaints<()>, one: &Stranger) {
    cluster.turned_away.fetch_add(1, Ordering::Relaxed);
    let now = Micros(Moment::now().since_ns(cluster.start) / 1_000);
    if let Some(count) = complaints.refused(now, ()) {
        warn!(
            "who says nothing on the port for other nodes is closed, for more than {STRANGERS_MAX} do: {count} since the last line, the last from {}",
            one.from
        );
    }
}

/// Gives a connection to its shard; or back, if it has not spoken yet.
fn hand_over(node: &Node, cluster: &Cluster, stranger: Stranger) -> Option<Stranger> {
    match wanted(&stranger.stream, cluster.arrivals.len()) {
        Wanted::Shard(shard) => {
            // Whoever finds no room dials again.
            if cluster.arrivals[shard].push(stranger.stream.into()).is_ok() {
                node.wake(shard);
            }
            None
        }
        Wanted::NotYet => {
            let patience = Duration::from_micros(GREETING_TIME_MAX.0);
            (stranger.since.elapsed() < patience).then_some(stranger)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_go_before_members_and_who_waits_longest_before_others() {
        let ip = |number| IpAddr::from([10, 0, 0, number]);
        let first_gone = |numbers: &[u8]| {
            dispensable(numbers.iter().copied().map(ip), |from| [ip(1), ip(2)].contains(&from))
        };
        assert_eq!(first_gone(&[9, 8, 1]), 0);
        assert_eq!(first_gone(&[1, 2, 9, 8]), 2);
        assert_eq!(first_gone(&[2, 1, 2]), 0);
    }
}
