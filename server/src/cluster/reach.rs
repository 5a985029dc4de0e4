//! Whether a node that asks for a place in the ring is reached where it says, and is what it says: the greeting of a link, once, on a
//! thread of its own. Sends nothing else, and decides nothing.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use slabring_cluster::coordinator::NodeDescription;
use slabring_cluster::link::{Event, Expected, GREETING_TIME_MAX, Identity, Link, Nonce};
use slabring_cluster::ring::Epoch;
use slabring_cluster::time::Micros;
use slabring_reactor::clock::Moment;

use super::{Cluster, News};
use crate::node::Node;
use crate::shards::{ShardId, Shards};

/// Greetings under way; who finds no room is tried again later.
const GREETINGS_MAX: usize = 16;
/// Bytes read at once: a greeting has fewer.
const READ_BYTES: usize = 4 << 10;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Tries to reach a node; [`News::Reached`] says what came of it.
pub fn start(node: &Node, cluster: &Cluster, described: NodeDescription) {
    let shards = Shards { me: ShardId(0), count: node.settings.threads };
    let (identity, news) = (cluster.identity(shards), cluster.news());
    let Some(nonce) = cluster.nonce() else { return };
    let run = move || {
        let trouble = greet(identity, nonce, &described).err();
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        if news.send(News::Reached(described, trouble)).is_err() {
            tracing::debug!("the node ends");
        }
    };
    let has_room = UNDER_WAY.fetch_add(1, Ordering::Relaxed) < GREETINGS_MAX;
    if !has_room || std::thread::Builder::new().name("reach".into()).spawn(run).is_err() {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Greets a node as a link does, and hangs up.
fn greet(identity: Identity, nonce: Nonce, described: &NodeDescription) -> Result<(), String> {
    let text = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => error.to_string(),
    };
    let time = Duration::from_micros(GREETING_TIME_MAX.0);
    let peer = &described.peer;
    let address = (peer.host(), peer.port()).to_socket_addrs().map_err(text)?.next();
    let address = address.ok_or("this machine does not know the host")?;
    let mut stream = TcpStream::connect_timeout(&address, time).map_err(text)?;
    stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(time))).map_err(text)?;
    let start = Moment::now();
    let now = || Micros(Moment::now().since_ns(start) / 1_000);
    let NodeDescription { node, incarnation, .. } = described.clone();
    let mut link = Link::dialler(Arc::new(identity), Expected { node, incarnation }, Epoch::NONE, now(), 0);
    let mut bytes = [0; READ_BYTES];
    loop {
        while let Some(event) = link.next(now()) {
            match event {
                Event::Connect => link.connected(now(), nonce, 0),
                Event::Up => return Ok(()),
                Event::Closed { reason, .. } => return Err(reason.to_string()),
                _ => {}
            }
        }
        if let Some(output) = link.take_output(now(), Vec::new()) {
            stream.write_all(&output).map_err(text)?;
            link.sent();
        }
        match stream.read(&mut bytes).map_err(text)? {
            0 => {
                return Err(format!(
                    "who listens there closed the connection: it is not {} (--peer-advertise), or has another --cluster-secret-file or \
                     --cluster-id",
                    described.node
                ));
            }
            length => link.receive(now(), &bytes[..length]),
        }
    }
}
