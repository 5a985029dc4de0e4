//! A cluster's keys in etcd, for programs that may wait: how things stand, and what an operator wishes. Nodes have a state machine
//! for that (`slabring_cluster::coordinator`); they share the way in. Never registers, never decides.

#![forbid(unsafe_code)]

mod access;
mod gateway;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use slabring_cluster::coordinator::etcd::{leader, prefix};
use slabring_cluster::coordinator::gateway::{
    KeyValue, RANGE, Ranged, TRANSACTION, put_for_good, range, read_answer,
};
use slabring_cluster::coordinator::{Fence, NodeDescription};
use slabring_cluster::names::{ClusterId, NodeId};
use slabring_cluster::report::{Report, Waits, Wish};
use slabring_cluster::ring::RingDocument;

pub use access::EtcdAccess;
pub use gateway::{Failure, Gateway};

/// How a cluster stands, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The ring, if there is one yet.
    pub ring: Option<RingDocument>,
    /// Who decides on changes of it.
    pub conductor: Option<NodeId>,
    /// Who has registered: who lives, as far as can be told.
    pub nodes: BTreeMap<NodeId, NodeDescription>,
    /// What the operator wishes for members.
    pub wishes: BTreeMap<NodeId, Wish>,
    /// What the conductor waits for.
    pub waits: Waits,
}

/// The keys of one cluster.
#[derive(Debug)]
pub struct ClusterKeys {
    gateway: Gateway,
    prefix: String,
}

impl ClusterKeys {
    /// Those of `cluster` behind a gateway.
    pub fn new(gateway: Gateway, cluster: &ClusterId) -> Self {
        Self { gateway, prefix: prefix(cluster) }
    }

    /// Reads all of them: one call.
    ///
    /// # Errors
    /// [`Failure`]: nobody answered, etcd refused, or a key holds what this build cannot read.
    pub fn read(&self) -> Result<Standing, Failure> {
        let body = self.gateway.call(RANGE, &range(&self.prefix))?;
        let read: Ranged = read_answer(&body).ok_or_else(|| self.gateway.rubbish(&body))?;
        let (mut standing, mut reports) = (Standing::default(), BTreeMap::new());
        for key in &read.keys {
            self.show(&mut standing, &mut reports, key)?;
        }
        let report: Option<Report> = standing.conductor.as_ref().and_then(|node| reports.remove(node));
        standing.waits = report.and_then(|report| report.waits).map_or_else(Waits::default, |waits| *waits);
        Ok(standing)
    }

    /// Wishes something for a node, whatever was wished before. It stands until it is taken back.
    ///
    /// # Errors
    /// [`Failure`]: nobody answered, or etcd refused. Where no answer came it may stand all the same.
    pub fn wish(&self, node: &NodeId, wish: Wish) -> Result<(), Failure> {
        let value = serde_json::to_string(&wish).expect("a wish can always be written");
        self.gateway.call(TRANSACTION, &put_for_good(&self.wish_key(node), &value)).map(drop)
    }

    fn wish_key(&self, node: &NodeId) -> String {
        format!("{}wish/{node}", self.prefix)
    }

    fn show(
        &self,
        standing: &mut Standing,
        reports: &mut BTreeMap<NodeId, Report>,
        key: &KeyValue,
    ) -> Result<(), Failure> {
        let name = std::str::from_utf8(&key.key).ok().and_then(|name| name.strip_prefix(&self.prefix));
        match name.map(|name| name.split_once('/').unwrap_or((name, ""))) {
            Some(("ring", "")) => {
                let document = RingDocument::from_json(&key.value).map_err(Failure::Ring)?;
                standing.ring = Some(document);
            }
            Some(("leader", "")) => {
                standing.conductor = leader(&key.value, Fence(key.mod_revision)).map(|leader| leader.node);
            }
            Some(("node", node)) => show_of(&mut standing.nodes, node, &key.value),
            Some(("report", node)) => show_of(reports, node, &key.value),
            Some(("wish", node)) => show_of(&mut standing.wishes, node, &key.value),
            _ => {}
        }
        Ok(())
    }
}

/// What cannot be read is as good as not there, for nodes too.
fn show_of<T: DeserializeOwned>(shown: &mut BTreeMap<NodeId, T>, node: &str, value: &[u8]) {
    if let (Ok(node), Some(said)) = (node.parse().map(NodeId), read_answer(value)) {
        shown.insert(node, said);
    }
}
