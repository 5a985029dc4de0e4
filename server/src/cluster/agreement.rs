//! The thread that agrees with other nodes on the ring: runs the coordinator, offers what shards heard, and gives every shard the
//! ring that comes of it. Never on the way of a request: while it or its coordinator is away, shards go on with what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use slabring_cluster::conductor::{Conductor, Judgement};
use slabring_cluster::control::{Control, Effect};
use slabring_cluster::coordinator::etcd::Etcd;
use slabring_cluster::coordinator::local::Local;
use slabring_cluster::coordinator::{Answer, Coordinator, Need, NodeDescription};
use slabring_cluster::names::{Address, Incarnation, NodeId};
use slabring_cluster::report::ReportBoard;
use slabring_cluster::ring::{NodeState, Refusal, Ring, RingDocument};
use slabring_cluster::time::Micros;
use slabring_etcd::EtcdAccess;
use slabring_reactor::clock::Moment;
use tracing::{debug, error, info, warn};

use super::http::Caller;
use super::lookup::{Found, LOOK_UP_EVERY, Lookup};
use super::{Cluster, News, View, reach};
use crate::discovery::Discovery;
use crate::node::Node;
use crate::options::CoordinatorSettings;
use crate::pulse::STANDSTILL_SECONDS;
use crate::replication::COPIED_ITEM_BYTES_MAX;

/// The coordinator answers again when it did for this time: one that answers some calls and refuses others is told of once.
const CALM: Duration = Duration::from_secs(2);
/// What shards have to say of copies is taken this often.
const WORDS_EVERY: Duration = Duration::from_millis(100);

/// Starts the thread, which ends with [`News::Stop`]. `news` reaches it through `sender` too.
pub fn start(node: &Arc<Node>, sender: SyncSender<News>, news: Receiver<News>) -> Result<()> {
    let node = Arc::clone(node);
    let run =
        move || node.cluster.as_ref().into_iter().for_each(|cluster| agree(&node, cluster, &sender, &news));
    std::thread::Builder::new()
        .name("agreement".into())
        .spawn(run)
        .context("cannot start the cluster's thread")?;
    Ok(())
}

fn agree(node: &Node, cluster: &Cluster, sender: &SyncSender<News>, news: &Receiver<News>) {
    let settings = &cluster.settings;
    let conductor = |judgement| Conductor::new(settings.cluster.clone(), judgement);
    match &settings.coordinator {
        CoordinatorSettings::Local(document) => {
            let conductor = conductor(Judgement::default());
            let control =
                Control::new(settings.node.clone(), cluster.incarnation, Local::new(document), conductor);
            Agreement::new(node, cluster, control, Caller::new(&[], &EtcdAccess::default(), sender))
                .run(news);
        }
        CoordinatorSettings::Etcd { urls, client, peer, zone, weight, access, replicas, mode } => {
            let me = NodeDescription {
                node: settings.node.clone(),
                incarnation: cluster.incarnation,
                zone: zone.clone(),
                client: client.clone(),
                peer: peer.clone(),
                shards: node.settings.threads,
                weight: weight.parts(),
            };
            // What cannot be read now was readable at the start: etcd will say that it wants it.
            let login = access.login().unwrap_or_default();
            let etcd = Etcd::new(&settings.cluster, me).with_login(login);
            let judgement = Judgement {
                first_nodes: usize::from(*replicas),
                first_replicas: *replicas,
                first_mode: Some(*mode),
                ..Judgement::default()
            };
            let control =
                Control::new(settings.node.clone(), cluster.incarnation, etcd, conductor(judgement))
                    .beginning_at(unix_second_of(cluster.start));
            Agreement::new(node, cluster, control, Caller::new(urls, access, sender)).run(news);
        }
    }
}

struct Agreement<'n, C> {
    node: &'n Node,
    cluster: &'n Cluster,
    control: Control<C>,
    caller: Caller,
    board: ReportBoard,
    start: Moment,
    view: Option<Arc<Ring>>,
    lookup: Lookup,
    addresses: BTreeMap<Address, SocketAddr>,
    was_reachable: bool,
    /// When it was not, last.
    troubled: Option<Moment>,
    rewinds_told: u64,
    namesake_told: Option<Address>,
    unreached_told: BTreeMap<NodeId, Incarnation>,
}

impl<'n, C: Coordinator> Agreement<'n, C> {
    fn new(node: &'n Node, cluster: &'n Cluster, control: Control<C>, caller: Caller) -> Self {
        let start = cluster.start;
        Self {
            node,
            cluster,
            control,
            caller,
            board: ReportBoard::new(cluster.incarnation, node.settings.threads),
            start,
            view: None,
            lookup: Lookup::default(),
            addresses: BTreeMap::new(),
            was_reachable: true,
            troubled: None,
            rewinds_told: 0,
            namesake_told: None,
            unreached_told: BTreeMap::new(),
        }
    }

    fn now(&self) -> Micros {
        Micros(Moment::now().since_ns(self.start) / 1_000)
    }

    fn run(mut self, news: &Receiver<News>) {
        loop {
            self.stand_back();
            self.hear_shards();
            while let Some(effect) = self.control.next(self.now()) {
                self.carry_out(effect);
            }
            self.tell_whether_reachable();
            if let Some(ring) = &self.view {
                self.lookup.begin_again(ring, &self.cluster.news());
            }
            let pause = Duration::from_micros(self.control.wake_at(self.now()).since(self.now()).0);
            match news.recv_timeout(pause.min(self.pause_max())) {
                Ok(News::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(news) => self.hear(news),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// While a shard stands still the node keeps silent to its coordinator, as if it were gone as a whole, so that copies take over what that
    /// shard has. A list knows no such thing.
    fn stand_back(&self) {
        let stands_still = || {
            self.cluster.settings.has_coordinator()
                && !self.node.stopping.load(Ordering::Relaxed)
                && self.node.pulses.is_any_still(STANDSTILL_SECONDS)
        };
        if !stands_still() {
            return;
        }
        error!("a shard stands still: the coordinator hears no more of this node, so that copies take over");
        while stands_still() {
            std::thread::sleep(WORDS_EVERY);
        }
        warn!("the coordinator hears of this node again");
    }

    fn pause_max(&self) -> Duration {
        let has_words = self.cluster.settings.has_coordinator()
            && self.view.as_ref().is_some_and(|ring| ring.document().is_replicated());
        if has_words { WORDS_EVERY } else { LOOK_UP_EVERY }
    }

    /// Takes what shards have to say to the conductor.
    fn hear_shards(&mut self) {
        let mut has_news = false;
        for (shard, words) in (0..).zip(&self.cluster.words) {
            if let Some(word) = words.pop() {
                self.board.post(shard, word);
                has_news = true;
            }
        }
        if has_news {
            self.control.report(&self.board.report());
        }
    }

    fn hear(&mut self, news: News) {
        let now = self.now();
        match news {
            News::Document(json) => self.control.offer(&json),
            News::List(document) => self.control.offer(document.to_json().as_bytes()),
            News::Reply(id, status, body) => {
                self.caller.ended(id);
                self.control.answered(now, id, Answer::Reply { status, body: &body });
            }
            News::Chunk(id, bytes) => self.control.answered(now, id, Answer::Chunk(&bytes)),
            News::Failed(id) => {
                self.caller.ended(id);
                self.control.answered(now, id, Answer::Failed);
            }
            News::Found(found) => self.hear_found(found),
            News::Differs => self.control.differs(),
            News::Reached(described, trouble) => self.hear_reached(&described, trouble),
            News::Stop => unreachable!("the loop ends there"),
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Need(Need::Call(call)) => self.caller.call(call),
            Effect::Need(Need::Cancel(id)) => self.caller.cancel(id),
            Effect::Adopt(ring) => self.adopt(ring),
            Effect::Refused(refusal @ Refusal::Older { .. }) if self.cluster.settings.has_coordinator() => {
                // It was read while this node heard of the next one in another way.
                debug!("a ring document comes late: {refusal}");
            }
            Effect::Refused(refusal) => {
                self.cluster.count_refused_document();
                warn!("a ring document is refused and the ring stays: {refusal}");
            }
            Effect::Leading(fence) => info!("this node decides on changes of the ring now ({})", fence.0),
            Effect::Reach(described) => reach::start(self.node, self.cluster, described),
            Effect::Restoring(epoch) => {
                warn!(
                    "the coordinator has no ring, or an older one than nodes follow: that is written again, as ring {}",
                    epoch.0
                );
            }
            Effect::Deposed => info!("this node does not decide on changes of the ring any more"),
        }
    }

    /// A node that was not reached is told of once in its life.
    fn hear_reached(&mut self, described: &NodeDescription, trouble: Option<String>) {
        let NodeDescription { node, incarnation, peer, .. } = described;
        let Some(trouble) = trouble else {
            self.unreached_told.remove(node);
            return self.control.reached(described);
        };
        self.control.not_reached(described, &trouble);
        if self.unreached_told.insert(node.clone(), *incarnation) != Some(*incarnation) {
            let document = self.view.as_ref().map(|ring| ring.document());
            let is_member = document.is_some_and(|ring| ring.slots.iter().any(|slot| slot.node == *node));
            let what = if is_member { "stays out of the ring" } else { "gets no place in the ring" };
            warn!("{node} is registered and not reached at {peer}, so it {what}: {trouble}");
        }
    }

    fn adopt(&mut self, ring: Arc<Ring>) {
        let document = ring.document();
        let settings = &self.node.settings;
        if document.is_replicated()
            && (!settings.cas_enabled || settings.item_size_max > COPIED_ITEM_BYTES_MAX)
        {
            self.cluster.count_refused_document();
            error!(
                "ring {} asks for copies, which a node without CAS values (-C) or with items above 8 MiB (-I) cannot have: it stays out",
                document.epoch.0
            );
            return;
        }
        if let CoordinatorSettings::Etcd { replicas, .. } = &self.cluster.settings.coordinator
            && *replicas > 1
            && self.view.is_none()
            && *replicas != document.replicas
        {
            let (has, cluster) = (document.replicas, &self.cluster.settings.cluster.0);
            error!(
                "this cluster keeps {has} of each item, not the {replicas} of --replicas, which counts only for a cluster's first ring: give --replicas={has} to keep it, or start all nodes with another name than --cluster-id={cluster} for one with {replicas}, which begins empty"
            );
        }
        if let Some(before) = &self.view {
            tell_changes(before.document(), document);
        }
        let serving = document.slots.iter().filter(|slot| slot.state.serves()).count();
        info!("ring {}: {serving} of {} nodes serve", document.epoch.0, document.slots.len());
        self.lookup.begin(&ring, &self.cluster.news());
        self.addresses = self.lookup.addresses(&ring);
        self.publish(&ring);
        self.view = Some(ring);
    }

    fn publish(&self, ring: &Arc<Ring>) {
        let discovery = Discovery::of_ring(ring, |address| self.addresses.get(address).copied());
        let addresses = self.addresses.clone();
        self.cluster.view.replace(Some(View { ring: Arc::clone(ring), addresses, discovery }));
        for shard in 0..self.cluster.arrivals.len() {
            self.node.wake(shard);
        }
    }

    /// A name may lead elsewhere by now.
    fn hear_found(&mut self, found: Found) {
        let Some(ring) = self.view.clone() else { return };
        self.lookup.hear(found, &ring, &self.cluster.news());
        let addresses = self.lookup.addresses(&ring);
        if addresses != self.addresses {
            self.addresses = addresses;
            self.publish(&ring);
        }
    }

    fn tell_whether_reachable(&mut self) {
        let view = self.control.coordinator().view();
        if self.namesake_told != view.namesake {
            self.namesake_told.clone_from(&view.namesake);
            let name = &self.cluster.settings.node;
            match &view.namesake {
                Some(address) => warn!(
                    "another process is registered as {name}, and reached at {address}: this one waits until that has been gone for 5 s; every node needs a --node-id of its own"
                ),
                None => info!("no other process is registered as {name} any more"),
            }
        }
        if std::mem::replace(&mut self.rewinds_told, view.rewinds) != view.rewinds {
            warn!(
                "the coordinator has an older state than it had: it was emptied, or goes on from a copy; everything is read anew"
            );
        }
        if view.is_reachable && view.is_complete {
            self.cluster.confirm(view.read_at);
        }
        let is_reachable = view.is_reachable || !view.is_complete && self.caller.trouble().is_empty();
        let now = Moment::now();
        if !is_reachable {
            self.troubled = Some(now);
            if std::mem::replace(&mut self.was_reachable, false) {
                warn!("the coordinator does not answer, the ring stays as it is: {}", self.caller.trouble());
            }
        } else if !self.was_reachable && self.troubled.is_none_or(|last| now >= last.after(CALM)) {
            self.was_reachable = true;
            warn!("the coordinator answers again");
        }
    }
}

/// A line for each node that serves no more, or again.
fn tell_changes(before: &RingDocument, now: &RingDocument) {
    let state_in = |ring: &RingDocument, node: &NodeId| {
        ring.slots.iter().find(|slot| slot.node == *node).map_or(NodeState::Left, |slot| slot.state)
    };
    let nodes: BTreeSet<_> = before.slots.iter().chain(&now.slots).map(|slot| &slot.node).collect();
    for node in nodes {
        if let Some(what) = change_of(state_in(before, node), state_in(now, node), now.replicas) {
            warn!("{node} {what} (ring {})", now.epoch.0);
        }
    }
}

/// What a change of a node's state is to people; most are not worth a line at the default level.
fn change_of(before: NodeState, now: NodeState, replicas: u8) -> Option<&'static str> {
    match (before.serves(), now) {
        (true, NodeState::Down) if replicas > 1 => Some("is down: its copies answer"),
        (true, NodeState::Down) => {
            Some("is down: its keys are misses or errors until it is back or loses its place")
        }
        (true, NodeState::Left) => Some("has left the ring"),
        (true, NodeState::Joining | NodeState::Syncing) => Some("does not serve: it is filled"),
        (false, NodeState::Up | NodeState::Draining) if before == NodeState::Left => {
            Some("is new in the ring")
        }
        (false, NodeState::Up | NodeState::Draining) if before == NodeState::Joining => Some("serves"),
        (false, NodeState::Up | NodeState::Draining) => Some("serves again"),
        (false, NodeState::Left) if before == NodeState::Down => Some("has lost its place in the ring"),
        _ => None,
    }
}

/// The Unix second of a moment that has passed, as far as the wall clock has not been set since.
fn unix_second_of(moment: Moment) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_nanos(Moment::now().since_ns(moment))).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_serves_no_more_or_again_is_worth_a_line_and_nothing_else_is() {
        use NodeState::{Down, Draining, Joining, Left, Syncing, Up};
        assert_eq!(change_of(Up, Down, 2), Some("is down: its copies answer"));
        assert!(change_of(Up, Down, 1).is_some_and(|text| text.contains("misses")));
        assert_eq!(change_of(Draining, Left, 2), Some("has left the ring"));
        assert_eq!(change_of(Syncing, Up, 2), Some("serves again"));
        assert_eq!(change_of(Joining, Up, 2), Some("serves"));
        assert_eq!(change_of(Left, Up, 1), Some("is new in the ring"));
        for (before, now) in
            [(Up, Up), (Up, Draining), (Draining, Up), (Down, Syncing), (Left, Joining), (Down, Down)]
        {
            assert_eq!(change_of(before, now, 2), None, "{before:?} {now:?}");
        }
    }
}
