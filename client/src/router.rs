//! Which server is asked about a key: a list's rule, or the ring of a cluster as far as it is known. Asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use slabring_cluster::placement::{hash_key, partition_of, shard_of};
use slabring_cluster::ring::{Offered, Refusal, Ring, RingDocument, RingHolder, SlotEntry};

use crate::distribution::Placement;
use crate::endpoint::Endpoint;
use crate::options::{Options, Servers, after};

/// A node is asked about its shards so often: it has to be started anew to have others.
const SHARDS_INTERVAL: Duration = Duration::from_secs(30);

/// So many documents in a row that do not follow the ring mean that there is another cluster by now. A node that is late tells one.
const REFUSALS_MAX: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Router {
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    List { servers: Vec<Endpoint>, placement: Placement },
    Cluster(Cluster),
}

/// What is known of a cluster.
#[derive(Debug)]
struct Cluster {
    seeds: Vec<Endpoint>,
    ring: RingHolder,
    /// When the ring is asked for again; `None`: at once, before anything else.
    due: Option<Instant>,
    /// Seeds that failed before any answered.
    seeds_failed: usize,
    /// The nodes of a ring that was given up: asked when no seed answers.
    former: Vec<Endpoint>,
    /// The ring's nodes that have failed since any answered.
    failed: BTreeSet<Endpoint>,
    /// Documents in a row that do not follow the ring.
    refused: u32,
    /// Whose turn it is when any node will do.
    turn: usize,
    /// What the ring's nodes say of themselves, by where clients reach them.
    shards: BTreeMap<Endpoint, Shards>,
    /// No node is to be asked about its shards before.
    shards_due: Option<Instant>,
}

/// What is known of a node's shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shards {
    /// The port of the first, and how many there are, if they have ports of their own.
    ports: Option<(u16, u16)>,
    /// When it is asked again.
    due: Instant,
}

impl Router {
    /// Panics if there is no server.
    pub(crate) fn new(servers: &Servers) -> Self {
        let plan = match servers {
            Servers::List { servers, distribution } => Plan::List {
                placement: Placement::new(servers, *distribution),
                servers: servers.iter().map(|(server, _)| server.clone()).collect(),
            },
            Servers::Ring { seeds } => {
                assert!(!seeds.is_empty(), "a cluster is found by its nodes");
                let seeds = seeds.clone();
                let ring = RingHolder::default();
                Plan::Cluster(Cluster {
                    seeds,
                    ring,
                    due: None,
                    seeds_failed: 0,
                    former: Vec::new(),
                    failed: BTreeSet::new(),
                    refused: 0,
                    turn: 0,
                    shards: BTreeMap::new(),
                    shards_due: None,
                })
            }
        };
        Self { plan }
    }

    /// The server that has a key, but for those in `avoided`, where others can answer too.
    pub(crate) fn server_of(&mut self, key: &[u8], avoided: &[Endpoint], options: &Options) -> Endpoint {
        match &mut self.plan {
            Plan::List { servers, placement } => servers[placement.server_of(key)].clone(),
            Plan::Cluster(cluster) => {
                let owner = cluster.owner_of(key, options);
                owner.filter(|owner| !avoided.contains(owner)).unwrap_or_else(|| cluster.any(avoided))
            }
        }
    }

    /// All servers, each once.
    pub(crate) fn servers(&self) -> Vec<Endpoint> {
        match &self.plan {
            Plan::List { servers, .. } => servers.clone(),
            Plan::Cluster(cluster) => cluster.nodes(),
        }
    }

    /// Whether any node can answer for any other.
    pub(crate) fn any_node_will_do(&self) -> bool {
        matches!(self.plan, Plan::Cluster(_))
    }

    /// Whom to ask for the ring before anything else, while nobody has said whether there is one.
    pub(crate) fn first_seed(&self) -> Option<Endpoint> {
        match &self.plan {
            Plan::Cluster(cluster) if cluster.due.is_none() => {
                let mut all = cluster.seeds.iter().chain(&cluster.former).cycle();
                all.nth(cluster.seeds_failed).cloned()
            }
            _ => None,
        }
    }

    /// Whether every seed has been asked for the ring in vain.
    pub(crate) fn is_out_of_seeds(&self) -> bool {
        let Plan::Cluster(cluster) = &self.plan else { return false };
        cluster.due.is_none() && cluster.seeds_failed >= cluster.seeds.len() + cluster.former.len()
    }

    /// The seed that was asked did not answer. When all have failed, the next call begins anew.
    pub(crate) fn seed_failed(&mut self) {
        if let Plan::Cluster(cluster) = &mut self.plan {
            cluster.seeds_failed += 1;
        }
    }

    /// Forgets that seeds have failed: time has passed.
    pub(crate) fn forgive_seeds(&mut self) {
        if let Plan::Cluster(cluster) = &mut self.plan {
            cluster.seeds_failed = 0;
        }
    }

    /// Whether the ring should be asked for beside what is asked now. Says so once per interval.
    pub(crate) fn take_ring_due(&mut self, now: Instant, options: &Options) -> bool {
        let Plan::Cluster(cluster) = &mut self.plan else { return false };
        let is_due = cluster.due.is_some_and(|due| due <= now);
        if is_due {
            cluster.due = Some(after(now, options.ring_interval));
        }
        is_due
    }

    /// Whether this server should be asked about its shards beside what it is asked now: it is a node of the ring, or a shard of
    /// one. Says so once per interval.
    pub(crate) fn take_shards_due(&mut self, server: &Endpoint, now: Instant, options: &Options) -> bool {
        let Plan::Cluster(cluster) = &mut self.plan else { return false };
        if !options.shard_ports || cluster.shards_due.is_none_or(|due| due > now) {
            return false;
        }
        let is_due = |node: &Endpoint, shards: &Shards| shards.due <= now && shards.has(node, server);
        let found = cluster.shards.iter_mut().find(|(node, shards)| is_due(node, shards));
        let Some((_, shards)) = found else { return false };
        shards.due = now + SHARDS_INTERVAL;
        cluster.shards_due = cluster.shards.values().map(|shards| shards.due).min();
        true
    }

    /// A node has said how many shards it has, and at which port the first is, if they have ports.
    pub(crate) fn learn_shards(&mut self, server: &Endpoint, ports: Option<(u16, u16)>) {
        let Plan::Cluster(cluster) = &mut self.plan else { return };
        if let Some((_, shards)) = cluster.shards.iter_mut().find(|(node, shards)| shards.has(node, server)) {
            shards.ports = ports.filter(|(_, count)| *count > 0);
        }
    }

    /// A server has failed: if it was a shard's port, its node may not have it any more.
    pub(crate) fn doubt_shards(&mut self, server: &Endpoint, now: Instant) {
        let Plan::Cluster(cluster) = &mut self.plan else { return };
        if let Some((_, shards)) = cluster.shards.iter_mut().find(|(node, shards)| shards.has(node, server)) {
            *shards = Shards { ports: None, due: now };
            cluster.shards_due = Some(now);
        }
    }

    /// A server has answered.
    pub(crate) fn answered(&mut self) {
        if let Plan::Cluster(cluster) = &mut self.plan {
            cluster.failed.clear();
        }
    }

    /// A server has failed. When all nodes of the ring have and none has answered meanwhile, others may have taken their places: the
    /// seeds are asked again.
    pub(crate) fn failed(&mut self, server: &Endpoint) {
        let Plan::Cluster(cluster) = &mut self.plan else { return };
        let Some((node, _)) = cluster.shards.iter().find(|(node, shards)| shards.has(node, server)) else {
            return;
        };
        cluster.failed.insert(node.clone());
        if cluster.failed.len() == cluster.shards.len() {
            cluster.forget();
        }
    }

    /// Something suggests that the ring has changed.
    pub(crate) fn suspect_ring(&mut self, now: Instant) {
        if let Plan::Cluster(Cluster { due: Some(due), .. }) = &mut self.plan {
            *due = now.min(*due);
        }
    }

    /// Takes a document. A bad or older one is refused, and the ring stays; unless one after the other does not follow it: then the
    /// seeds are asked for another.
    pub(crate) fn learn(&mut self, json: &[u8], now: Instant, options: &Options) -> Result<(), Refusal> {
        let Plan::Cluster(cluster) = &mut self.plan else { return Ok(()) };
        cluster.due = Some(after(now, options.ring_interval));
        if cluster.ring.current().is_some_and(|ring| ring.json().as_bytes() == json) {
            cluster.refused = 0;
            return Ok(());
        }
        let offered = cluster.ring.offer(RingDocument::from_json(json)?);
        match offered {
            Ok(Offered::Adopted(_)) => {
                cluster.former.clear();
                cluster.meet_nodes(now);
            }
            Ok(Offered::Known) => {}
            Err(refusal) => {
                cluster.refused += 1;
                if cluster.refused >= REFUSALS_MAX && cluster.ring.current().is_some() {
                    cluster.forget();
                }
                return Err(refusal);
            }
        }
        cluster.refused = 0;
        Ok(())
    }

    /// A node said that it has no ring: any node is asked until there is one.
    pub(crate) fn no_ring(&mut self, now: Instant, options: &Options) {
        if let Plan::Cluster(cluster) = &mut self.plan {
            cluster.due = Some(after(now, options.ring_interval));
        }
    }

    /// The ring, if this is a cluster and it is known.
    pub(crate) fn ring(&self) -> Option<&Ring> {
        match &self.plan {
            Plan::Cluster(cluster) => cluster.ring.current().map(AsRef::as_ref),
            Plan::List { .. } => None,
        }
    }
}

impl Shards {
    /// Whether a server is this node, or one of its shards.
    fn has(&self, node: &Endpoint, server: &Endpoint) -> bool {
        let is_shard =
            |(base, count)| (0..count).any(|shard| node.at_port(base, shard).as_ref() == Some(server));
        node == server || self.ports.is_some_and(is_shard)
    }
}

impl Cluster {
    /// The owner of a key, at its shard's own port where there are such.
    fn owner_of(&self, key: &[u8], options: &Options) -> Option<Endpoint> {
        let ring = self.ring.current()?;
        let hash = hash_key(key);
        let slot = ring.slot(ring.primary(partition_of(hash)));
        let node = Endpoint::from(&slot.client);
        let ports = self.shards.get(&node).and_then(|shards| shards.ports).filter(|_| options.shard_ports);
        let shard = ports.and_then(|(base, count)| node.at_port(base, shard_of(hash, count)));
        Some(shard.unwrap_or(node))
    }

    /// The ring is none any more: what the seeds tell next is.
    fn forget(&mut self) {
        if self.ring.current().is_some() {
            self.former = self.nodes();
        }
        self.ring = RingHolder::default();
        (self.due, self.seeds_failed, self.refused) = (None, 0, 0);
        self.shards.clear();
        self.failed.clear();
        self.shards_due = None;
    }

    /// Nodes that have come are asked about their shards; what is known of others stays.
    fn meet_nodes(&mut self, now: Instant) {
        let unknown = Shards { ports: None, due: now };
        let known = |node: Endpoint| (node.clone(), self.shards.get(&node).copied().unwrap_or(unknown));
        self.shards = self.nodes().into_iter().map(known).collect();
        self.shards_due = self.shards.values().map(|shards| shards.due).min();
    }

    /// Some node, each in turn, none of `avoided` if there is another.
    fn any(&mut self, avoided: &[Endpoint]) -> Endpoint {
        let nodes = self.nodes();
        let (start, count) = (self.turn, nodes.len());
        self.turn = self.turn.wrapping_add(1);
        let mut candidates = (0..count).map(|n| &nodes[start.wrapping_add(n) % count]);
        let fresh = candidates.find(|node| !avoided.contains(node));
        fresh.unwrap_or(&nodes[start % count]).clone()
    }

    /// The nodes that serve; before there is a ring, the seeds.
    fn nodes(&self) -> Vec<Endpoint> {
        let Some(ring) = self.ring.current() else { return self.seeds.clone() };
        let serving = ring.document().slots.iter().filter(|slot| slot.state.serves());
        serving.map(|slot: &SlotEntry| Endpoint::from(&slot.client)).collect()
    }
}

#[cfg(test)]
mod tests;
