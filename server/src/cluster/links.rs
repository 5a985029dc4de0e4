//! One shard's links to other nodes over the reactor: their sockets, and what the state machine of `slabring-cluster` asks for. Decides
//! nothing about requests but who executes them.

use std::collections::{BTreeMap, VecDeque};
use std::mem::{Discriminant, discriminant};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use slabring_cluster::forward::{Failure, Forward};
use slabring_cluster::link::CloseReason;
use slabring_cluster::ownership::Ownership;
use slabring_cluster::peers::{Effect, LINKS_PER_PEER_MAX, LinkId, Peers, Route};
use slabring_cluster::placement::hash_key;
use slabring_cluster::replica::PeerShard;
use slabring_cluster::report::ShardReport;
use slabring_cluster::ring::Ring;
use slabring_cluster::ring::partitions::PartitionSet;
use slabring_cluster::table::SlotId;
use slabring_cluster::time::Micros;
use slabring_cluster::touches;
use slabring_engine::Seconds;
use slabring_protocol::Limits;
use slabring_reactor::clock::Moment;
use slabring_reactor::{ConnectionId, Io};
use socket2::{Domain, Socket, TcpKeepalive, Type};
use tracing::{debug, info, warn};

use super::forward::PendingReply;
use super::old::Old;
use super::{Cluster, News, View};
use crate::cluster::complaints::Complaints;
use crate::connection::{Connection, Connections};
use crate::discovery::DISCOVERY_KEY;
use crate::dispatch::Dispatcher;
use crate::execute::Executor;
use crate::front::{inherited, inherited_at_first};
use crate::live::Held;
use crate::node::Node;
use crate::options::CoordinatorSettings;
use crate::replication::Replication;
use crate::shards::{ShardId, Shards};

mod errands;
mod gathered;
mod grants;
mod runs;

use errands::Errands;
pub use errands::is_errand;
use gathered::{Bound, Gathered};
pub use runs::Going;

/// Linux's number for a connection that is being made.
const EINPROGRESS: i32 = 115;
/// One key of a line becomes a line of its own: `gats` and the longest time.
const PART_BYTES_BEYOND_KEY: usize = 32;
/// Capacity for a reply that is kept from turn to turn.
const REPLY_BYTES_KEPT: usize = 64 << 10;

/// Replies that are here wait so long for those of other nodes: what a node in reach takes, which is busy. A client that asks for
/// keys of several nodes at once has its answers in one piece then.
const HELD_BACK_TIME_MAX: Micros = Micros(200);

/// Who executes a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A shard of this node.
    Shard(ShardId),
    /// Another node, that of a key of this hash.
    Elsewhere(u64),
}

/// A link's socket.
#[derive(Debug)]
struct Link {
    connection: ConnectionId,
    /// The other end, for people.
    name: String,
    is_paused: bool,
}

/// See the module.
pub struct Links {
    node: Arc<Node>,
    shards: Shards,
    peers: Peers<PendingReply>,
    ownership: Ownership,
    /// What this shard holds is older than what other nodes have been told since.
    old: Option<Old>,
    /// The ring before this one, until copies have followed.
    ring_before: Option<Arc<Ring>>,
    /// Whether the executor answers for its own keys only.
    has_copies: bool,
    view: Held<Option<View>>,
    /// The view that was looked at last.
    seen: Option<Arc<Option<View>>>,
    sockets: BTreeMap<LinkId, Link>,
    /// The links by the reactor's slots.
    by_slot: Vec<Option<(ConnectionId, LinkId)>>,
    errands: Errands,
    /// Hashes of keys for which requests that had been sent away are executed by other shards of this node, and how many: what comes
    /// behind them must not get there first.
    returning: BTreeMap<u64, usize>,
    /// Links that this turn has read from, or that are not read.
    to_pace: Vec<LinkId>,
    outgoing: Vec<LinkId>,
    reply: Vec<u8>,
    limits: Limits,
    start: Moment,
    now: Micros,
    wake_at: Micros,
    /// Something came: the state machine has something to do.
    has_news: bool,
    complaints: Complaints<Discriminant<CloseReason>>,
    /// Links that are up.
    up: u64,
    /// The node ends.
    is_closed: bool,
    /// Connections whose replies wait for those of other nodes, and until when.
    holding: VecDeque<(Micros, ConnectionId)>,
    /// Requests under way whose replies may be large: one at a time.
    large_awaited: usize,
    /// Room for a line of one key, lent to who writes one.
    pub line: Vec<u8>,
    /// Gets of a client for other nodes.
    pub going: Going,
    /// Gets of other nodes that are executed together.
    gathered: Gathered,
}

impl Links {
    /// Those of a shard, if its node is one of several.
    pub fn of(node: &Arc<Node>, shards: Shards) -> Option<Box<Self>> {
        let cluster = node.cluster.as_ref()?;
        let jitter = cluster.incarnation.0 ^ u64::from(shards.me.0) << 32;
        Some(Box::new(Self {
            peers: Peers::new(cluster.identity(shards), LINKS_PER_PEER_MAX, jitter),
            ownership: match cluster.settings.coordinator {
                CoordinatorSettings::Local(_) => Ownership::by_hand(),
                CoordinatorSettings::Etcd { .. } => Ownership::automatic(),
            },
            old: None,
            ring_before: None,
            has_copies: false,
            node: Arc::clone(node),
            shards,
            view: Held::default(),
            seen: None,
            sockets: BTreeMap::new(),
            by_slot: Vec::new(),
            errands: Errands::default(),
            returning: BTreeMap::new(),
            to_pace: Vec::new(),
            outgoing: Vec::new(),
            reply: Vec::new(),
            limits: Limits { item_size_max: node.settings.item_size_limit() },
            start: Moment::now(),
            now: Micros(0),
            wake_at: Micros(0),
            has_news: true,
            complaints: Complaints::default(),
            up: 0,
            is_closed: false,
            holding: VecDeque::new(),
            large_awaited: 0,
            line: Vec::new(),
            going: Going::default(),
            gathered: Gathered::default(),
        }))
    }

    fn cluster(&self) -> &Cluster {
        self.node.cluster.as_ref().expect("only a node of several has links")
    }

    /// The time of this turn.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// How long a turn may sleep for the sake of the links.
    pub fn sleep_max(&self) -> Duration {
        let release_at = self.holding.front().map_or(Micros::NEVER, |(until, _)| *until);
        Duration::from_micros(self.wake_at.min(release_at).since(self.now).0)
    }

    /// Lets a connection's replies wait for a moment for those of another node, so that one send takes all of them.
    pub fn hold_back(&mut self, client: &mut Connection) {
        let until = self.now + HELD_BACK_TIME_MAX;
        if client.sent_away(until) {
            self.holding.push_back((until, client.id));
        }
    }

    /// Lets those go whose time is over, and forgets those that do not wait any more. `note` is told of the former.
    pub fn release_held(&mut self, connections: &mut Connections, mut note: impl FnMut(&mut Connection)) {
        while let Some(&(until, id)) = self.holding.front() {
            let waiting = connections.get_mut(id).filter(|client| client.awaits_nodes_until(until));
            match waiting {
                Some(client) if until <= self.now => {
                    client.await_nodes_no_longer();
                    note(client);
                }
                Some(client) if client.outbox.owed() > 0 => return,
                Some(client) => client.await_nodes_no_longer(),
                None => {}
            }
            self.holding.pop_front();
        }
    }

    /// Memory of requests and links.
    pub fn buffer_bytes(&self) -> usize {
        self.peers.buffer_bytes() + self.reply.capacity() + self.errands.bytes
    }

    /// The ring as clients are told it, if there is one.
    pub fn view(&self) -> Option<&View> {
        self.seen.as_deref()?.as_ref()
    }

    /// Whether requests for a key have to wait for one that was sent before the ring changed.
    #[inline]
    pub fn holds(&self, hash: u64) -> bool {
        self.peers.holds(hash) || !self.returning.is_empty() && self.returning.contains_key(&hash)
    }

    /// Who executes a request for this key. While requests for it have to wait, nobody here.
    pub fn owner_of(&self, key: &[u8]) -> Owner {
        let hash = hash_key(key);
        if self.peers.owns(hash) && !self.holds(hash) {
            Owner::Shard(self.shards.owner_by(hash))
        } else if key == DISCOVERY_KEY && !self.has_copies {
            // Any node knows the nodes. With copies only the key's primary may say that nobody has stored it.
            Owner::Shard(self.shards.me)
        } else {
            Owner::Elsewhere(hash)
        }
    }

    /// See [`Peers::forward`].
    pub fn forward(&mut self, place: PendingReply, request: &Forward<'_>) -> Result<Route, Failure> {
        self.has_news = true;
        if self.returning.contains_key(&request.hash) {
            return Err(Failure::Unsettled);
        }
        let outcome = self.peers.forward(self.now, place, request);
        self.large_awaited += usize::from(place.is_large && outcome == Ok(Route::Sent));
        outcome
    }

    /// Whether a large reply is awaited.
    pub fn awaits_large(&self) -> bool {
        self.large_awaited > 0
    }

    /// See [`Peers::has_room_for_any`]: for one request more, beside those that are going.
    pub fn has_room_for_any(&self, request_bytes: usize) -> bool {
        let bytes = request_bytes + self.going.key_bytes();
        let requests = self.going.len() + 1;
        let bytes = bytes + requests * PART_BYTES_BEYOND_KEY;
        self.returning.is_empty() && self.peers.has_room_for_any(requests, bytes)
    }

    /// Whether a request had better wait: see [`Peers::must_wait`].
    pub fn must_wait(&mut self, hash: u64, request_bytes: usize) -> bool {
        self.returning.contains_key(&hash)
            || self.peers.must_wait(self.now, hash, request_bytes + PART_BYTES_BEYOND_KEY)
    }

    /// The other nodes that hold items.
    pub fn others(&self) -> Vec<SlotId> {
        self.peers.others().collect()
    }

    /// See [`Peers::tell`].
    pub fn tell(&mut self, node: SlotId, place: PendingReply, request: &Forward<'_>) -> Result<(), Failure> {
        self.has_news = true;
        self.peers.tell(self.now, node, place, request)
    }

    /// Sends a message about copies. What cannot be sent now is sent again by those who wait for its answer.
    pub fn send_replica(&mut self, to: PeerShard, message: &[u8]) {
        self.has_news |= self.peers.send_replica(to, message);
    }

    /// Sends a message about reads. False: it cannot be sent now, and need not be later.
    pub fn send_touches(&mut self, to: PeerShard, message: &[u8]) -> bool {
        let is_sent = self.peers.send_touches(to, message);
        self.has_news |= is_sent;
        is_sent
    }

    /// When the coordinator was last heard of.
    pub fn confirmed_at(&self) -> Micros {
        self.cluster().confirmed_at()
    }

    /// When each node that this one has a link with was heard of last, by whatever it sent.
    pub fn heard(&self) -> impl Iterator<Item = (SlotId, Micros)> + '_ {
        let up = self.peers.links().filter(|(_, link)| link.is_up());
        up.filter_map(|(id, link)| Some((self.peers.leads_to(id)?.slot, link.received_at())))
    }

    /// Keeps the last word for the conductor where the thread that agrees on the ring finds it. Never waits.
    pub fn say(&self, word: ShardReport) {
        self.cluster().words[usize::from(self.shards.me.0)].force_push(word);
    }

    /// Follows the ring of now with this shard's copies. They begin with the first ring that asks for them, and know the one before:
    /// who was primary by it holds what it has.
    pub fn follow_copies(&mut self, executor: &mut Executor, now: Seconds) {
        let before = self.ring_before.take();
        let Some(View { ring, .. }) = self.view() else { return };
        let begins = executor.replication.is_none();
        if begins && !ring.document().is_replicated() {
            return;
        }
        let Some(mut replication) = executor.replication.take().or_else(|| self.begin_copies()) else {
            return;
        };
        if begins && before.is_none() {
            // Of a memory file: others may have written since.
            executor.drop_old(&Old::Everything);
        }
        for ring in before.iter().filter(|_| begins).chain([ring]) {
            replication.follow(now, executor, ring, self.own_slot(ring));
        }
        executor.replication = Some(replication);
        self.has_copies = true;
    }

    /// This node's place, if the ring means it in its present life.
    fn own_slot(&self, ring: &Ring) -> Option<SlotId> {
        let cluster = self.cluster();
        let is_meant = |slot: &SlotId| ring.slot(*slot).incarnation.admits(cluster.incarnation);
        ring.slot_of(&cluster.settings.node).filter(is_meant)
    }

    fn begin_copies(&self) -> Option<Box<Replication>> {
        let mut replication = match Replication::new(&self.node, self.cluster(), self.shards) {
            Ok(replication) => Box::new(replication),
            Err(error) => {
                warn!("this shard keeps no copies: {error:#}");
                return None;
            }
        };
        let up = self.peers.links().filter(|(_, link)| link.is_up());
        let peers = up.filter_map(|(id, link)| Some((self.peers.leads_to(id)?, link)));
        peers.for_each(|(peer, link)| replication.link_is_up(peer, link.takes_deltas()));
        Some(replication)
    }

    /// A turn begins. True if there is another view, which [`Links::view`] tells: not while copies are read that were granted under
    /// the ring of now.
    pub fn begin_turn(&mut self, executor: &mut Executor) -> bool {
        self.now = Micros(Moment::now().since_ns(self.start) / 1_000);
        let cluster = self.node.cluster.as_ref().expect("only a node of several has links");
        let view = self.view.get(&cluster.view);
        if self.seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, view)) {
            return false;
        }
        let is_first = self.peers.ring().is_none() && view.is_some();
        if executor.front.as_mut().is_some_and(|front| front.must_wait_to_follow(is_first)) {
            return false;
        }
        let view = Arc::clone(view);
        let mut gained = PartitionSet::default();
        if let Some(View { ring, .. }) = &*view {
            let is_newer = self.peers.ring().is_none_or(|known| ring.epoch() > known.epoch());
            if is_newer {
                let regained = self.ownership.follow(ring, ring.slot_of(&cluster.settings.node));
                // Copies have streams to tell them.
                if !ring.document().is_replicated() {
                    assert!(self.old.is_none(), "what is old goes at once");
                    let have_cas = self.node.settings.cas_enabled;
                    self.old = Old::new(regained, self.ownership.owned(), have_cas);
                }
                self.ring_before = self.peers.ring().cloned();
                let node = &cluster.settings.node;
                gained = match &self.ring_before {
                    Some(before) => inherited(before, ring, node),
                    // What a list gave this node it had in its life before.
                    None if cluster.settings.has_coordinator() => inherited_at_first(ring, node),
                    None => PartitionSet::default(),
                };
                self.peers.adopt(self.now, Arc::clone(ring));
            }
        }
        executor.follow_ring(&gained);
        self.seen = Some(view);
        self.has_news = true;
        true
    }

    /// What this shard holds that must go before it executes anything. Says so once.
    pub fn take_old(&mut self) -> Option<Old> {
        self.old.take()
    }

    fn link_of(&self, connection: ConnectionId) -> Option<LinkId> {
        let place = self.by_slot.get(connection.slot as usize)?.as_ref();
        place.filter(|(known, _)| *known == connection).map(|(_, link)| *link)
    }

    /// Takes bytes of a link. False: they are of somebody else.
    pub fn received(&mut self, connection: ConnectionId, data: &[u8]) -> bool {
        let Some(link) = self.link_of(connection) else { return false };
        self.peers.received(self.now, link, data);
        self.to_pace.push(link);
        self.has_news = true;
        true
    }

    /// A link's bytes have left. False: they were of somebody else.
    pub fn sent(&mut self, connection: ConnectionId) -> bool {
        let Some(link) = self.link_of(connection) else { return false };
        self.peers.sent(link);
        self.has_news = true;
        true
    }

    /// A link's connection has ended. False: it was somebody else's.
    pub fn ended(&mut self, connection: ConnectionId) -> bool {
        let Some(link) = self.link_of(connection) else { return false };
        self.peers.lost(link);
        self.has_news = true;
        true
    }

    /// Takes over connections of other nodes.
    pub fn take_arrivals(&mut self, io: &mut impl Io) {
        while let Some(stream) = self.cluster().arrivals[self.shards.me.index()].pop() {
            let Some(nonce) = self.cluster().nonce() else { continue };
            let connection = match io.adopt(stream) {
                Ok(connection) => connection,
                Err(error) => {
                    warn!("cannot take over a connection of another node: {error}");
                    continue;
                }
            };
            let Some(link) = self.peers.accept(self.now, nonce) else {
                io.close(connection);
                continue;
            };
            let peer = io.peer(connection).and_then(|peer| peer.as_socket());
            let name = peer.map_or_else(|| "a node that has gone".into(), |peer| peer.to_string());
            self.register(link, connection, name);
        }
    }

    fn register(&mut self, link: LinkId, connection: ConnectionId, name: String) {
        let slot = connection.slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, None);
        }
        self.by_slot[slot] = Some((connection, link));
        self.sockets.insert(link, Link { connection, name, is_paused: false });
        self.has_news = true;
    }

    /// Does what the links ask for. `note` is told of connections that were answered.
    pub fn run(
        &mut self,
        io: &mut impl Io,
        dispatcher: &mut Dispatcher,
        connections: &mut Connections,
        mut note: impl FnMut(&mut Connection),
    ) {
        if self.is_closed {
            return;
        }
        self.post_errands(dispatcher);
        if !self.has_news && self.now < self.wake_at {
            return;
        }
        self.execute_gathered(dispatcher, Bound::Kept);
        while let Some(effect) = self.next_effect(dispatcher) {
            match effect {
                Effect::Answer { place, outcome } => {
                    self.large_awaited -= usize::from(place.is_large);
                    if let Some(client) = connections.get_mut(place.to.connection) {
                        let outcome = outcome.map(|()| self.peers.body());
                        dispatcher.answer_from_afar(client, place, outcome);
                        note(client);
                    }
                }
                Effect::Run { place, gets, outcome } => {
                    if let Some(client) = connections.get_mut(place.to.connection) {
                        self.answer_run(dispatcher, client, place, gets, outcome);
                        note(client);
                    }
                }
                Effect::Execute(asked) => self.execute(dispatcher, asked),
                Effect::ExecuteHere { place } => {
                    self.large_awaited -= usize::from(place.is_large);
                    if let Some(client) = connections.get_mut(place.to.connection) {
                        let body = self.peers.body().to_vec();
                        self.execute_here(dispatcher, client, place, &body);
                        note(client);
                    }
                }
                Effect::Connect { link, address, shard: _ } => {
                    let target = self.view().and_then(|view| view.addresses.get(&address).copied());
                    self.connect(io, link, target, address.to_string());
                }
                Effect::Up { link } => self.came_up(link, dispatcher),
                Effect::Replica { link } => self.take_replica(link, dispatcher),
                Effect::Grants { link } => self.take_grants(link, dispatcher),
                Effect::Touches { link } => self.take_touches(link, dispatcher),
                Effect::Closed { link, reason, was_up } => {
                    self.closed(io, link, &reason, was_up, dispatcher);
                }
                Effect::RingDiffers { link } => self.tell_difference(link),
                Effect::RingReceived => {
                    self.cluster().tell(News::Document(self.peers.body().to_vec()));
                }
            }
        }
    }

    /// What to do next. What was gathered is executed before anything but another get to be gathered.
    #[inline]
    fn next_effect(&mut self, dispatcher: &mut Dispatcher) -> Option<Effect<PendingReply>> {
        if !self.gathers_on() {
            self.execute_gathered(dispatcher, Bound::Kept);
        }
        self.peers.next(self.now)
    }

    /// All nodes must be given the same list and the same options about it, or the same file.
    fn tell_difference(&self, link: LinkId) {
        let Some(peer) = self.peers.link(link).and_then(|link| link.peer()) else { return };
        self.cluster().tell(News::Differs);
        if self.cluster().note_difference() {
            warn!(
                "{} follows another ring of the same epoch {}: compare --peers or the file of --cluster, --replicas, --replication, \
                 with copies -t, and the clients' ports, on both nodes",
                peer.node,
                self.cluster().epoch()
            );
        }
    }

    fn connect(&mut self, io: &mut impl Io, link: LinkId, target: Option<SocketAddr>, name: String) {
        let nonce = self.cluster().nonce();
        let connection = target.map(|target| dial(target).and_then(|stream| io.adopt(stream)));
        match (connection, nonce) {
            (Some(Ok(connection)), Some(nonce)) => {
                self.register(link, connection, name);
                self.peers.connected(self.now, link, nonce);
            }
            (Some(Err(error)), _) => {
                debug!("{name}: {error}");
                self.peers.lost(link);
            }
            _ => self.peers.lost(link),
        }
    }

    fn take_replica(&mut self, link: LinkId, dispatcher: &mut Dispatcher) {
        let now = dispatcher.now;
        let executor = &mut dispatcher.executor;
        // Who is ahead of this node's ring sends again.
        let Some(mut replication) = executor.replication.take() else { return };
        if replication.received(now, executor, self.peers.body()).is_err() {
            self.peers.refuse_message(link);
        }
        executor.replication = Some(replication);
    }

    /// Another node has answered reads of what this one may have copies of.
    fn take_touches(&mut self, link: LinkId, dispatcher: &mut Dispatcher) {
        let now = dispatcher.now;
        let touches = touches::decode(self.peers.body());
        let outcome = touches.map(|all| all.for_each(|touch| dispatcher.executor.touched(now, touch)));
        if outcome.is_err() {
            self.peers.refuse_message(link);
        }
    }

    fn tell_copies(&self, link: LinkId, is_up: bool, dispatcher: &mut Dispatcher) {
        if let (Some(replication), Some(peer)) =
            (&mut dispatcher.executor.replication, self.peers.leads_to(link))
        {
            match self.peers.link(link).filter(|_| is_up) {
                Some(link) => replication.link_is_up(peer, link.takes_deltas()),
                None => replication.link_is_gone(peer),
            }
        }
    }

    fn came_up(&mut self, link: LinkId, dispatcher: &mut Dispatcher) {
        self.up += 1;
        self.tell_copies(link, true, dispatcher);
        dispatcher.executor.traffic.peer_links = self.up;
        let peer = self.peers.link(link).and_then(|link| link.peer());
        if let (Some(peer), Some(socket)) = (peer, self.sockets.get_mut(&link)) {
            debug!("shard {}: a link with {} ({})", self.shards.me.0, peer.node, socket.name);
            socket.name = format!("{} ({})", peer.node, socket.name);
        }
    }

    fn closed(
        &mut self,
        io: &mut impl Io,
        link: LinkId,
        reason: &CloseReason,
        was_up: bool,
        dispatcher: &mut Dispatcher,
    ) {
        self.up -= u64::from(was_up);
        dispatcher.executor.front.iter_mut().for_each(|front| front.lost(link));
        if was_up {
            self.tell_copies(link, false, dispatcher);
        }
        dispatcher.executor.traffic.peer_links = self.up;
        let Some(Link { connection, name, .. }) = self.sockets.remove(&link) else { return };
        self.by_slot[connection.slot as usize] = None;
        io.close(connection);
        match reason {
            CloseReason::Retired => {}
            CloseReason::Lost | CloseReason::GreetingTime if !was_up => debug!("{name}: {reason}"),
            CloseReason::Lost | CloseReason::Silent | CloseReason::Stuck | CloseReason::GreetingTime => {
                dispatcher.executor.traffic.peer_links_lost += 1;
                info!("the link with {name} is lost: {reason}");
            }
            _ => {
                dispatcher.executor.traffic.peer_links_refused += 1;
                self.complain(&name, reason);
            }
        }
    }

    /// A line about a node that is refused. Who dials again and again is counted, not told each time.
    fn complain(&mut self, name: &str, reason: &CloseReason) {
        match self.complaints.refused(self.now, discriminant(reason)) {
            None => {}
            Some(1) => warn!("refused {name} as another node: {reason}"),
            Some(count) => {
                warn!("refused {name} as another node: {reason}; {count} times since the last line");
            }
        }
    }

    /// The end of a turn: one send for each link, and reading only what can be taken.
    pub fn flush(&mut self, io: &mut impl Io, dispatcher: &mut Dispatcher) {
        if self.is_closed || !self.has_news && self.now < self.wake_at {
            return;
        }
        self.has_news = false;
        let mut outgoing = std::mem::take(&mut self.outgoing);
        outgoing.extend(self.peers.links_to_send());
        for link in outgoing.drain(..) {
            let Some(socket) = self.sockets.get(&link) else { continue };
            if let Some(full) = self.peers.take_output(self.now, link, dispatcher.spare_buffer()) {
                io.send(socket.connection, full);
            }
        }
        self.outgoing = outgoing;
        self.reply.clear();
        self.reply.shrink_to(REPLY_BYTES_KEPT);
        self.pace(io);
        self.wake_at = self.peers.wake_at();
        dispatcher.executor.traffic.forwards_pending = self.peers.pending_count() as u64;
    }

    fn pace(&mut self, io: &mut impl Io) {
        let (peers, sockets, now) = (&mut self.peers, &mut self.sockets, self.now);
        self.to_pace.retain(|link| {
            peers.decide_reading(now, *link);
            let (Some(link), Some(socket)) = (peers.link(*link), sockets.get_mut(link)) else { return false };
            let pause = !link.wants_bytes();
            if pause != std::mem::replace(&mut socket.is_paused, pause) {
                if pause { io.pause(socket.connection) } else { io.resume(socket.connection) }
            }
            pause
        });
    }

    /// Ends all links: the node ends.
    pub fn close_all(&mut self, io: &mut impl Io) {
        for (_, socket) in std::mem::take(&mut self.sockets) {
            io.close(socket.connection);
        }
        self.by_slot.clear();
        self.is_closed = true;
    }
}

/// Begins to connect: what is sent on the socket waits in the kernel until it is connected.
fn dial(target: SocketAddr) -> std::io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new())?;
    socket.set_nonblocking(true)?;
    match socket.connect(&target.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}
