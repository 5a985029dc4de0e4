//! The ring document as people write it: TOML with little that must be said, or a list of addresses.

use serde::Deserialize;

use super::document::{
    DOCUMENT_BYTES_MAX, Epoch, FORMAT, Mode, NodeState, Refusal, RingDocument, SlotEntry, Term,
};
use crate::names::{Address, ClusterId, Incarnation, Name, NodeId};
use crate::table::Weight;

/// The cluster's name where none is given.
const CLUSTER_DEFAULT: &str = "slabring";

/// The file. Only `node` and in it `peer` and `client` must be there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RingFile {
    cluster: Option<ClusterId>,
    #[serde(default = "first_epoch")]
    epoch: Epoch,
    #[serde(default = "first_term")]
    term: Term,
    #[serde(default = "one_copy")]
    replicas: u8,
    mode: Option<Mode>,
    #[serde(default, rename = "node")]
    nodes: Vec<NodeInFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeInFile {
    peer: Address,
    client: Address,
    id: Option<NodeId>,
    #[serde(default)]
    incarnation: Incarnation,
    #[serde(default)]
    zone: String,
    #[serde(default = "one_shard")]
    shards: u16,
    #[serde(default = "full_weight")]
    weight: u16,
    #[serde(default = "up")]
    state: NodeState,
}

fn first_epoch() -> Epoch {
    Epoch(1)
}

fn first_term() -> Term {
    Term(1)
}

fn one_copy() -> u8 {
    1
}

fn one_shard() -> u16 {
    1
}

fn full_weight() -> u16 {
    Weight::FULL.parts()
}

fn up() -> NodeState {
    NodeState::Up
}

impl RingDocument {
    /// Reads a TOML file. Where it is silent: cluster `slabring`, epoch 1, one copy, and for each node the peer address
    /// as its name, any incarnation, no zone, one shard, full weight, up.
    ///
    /// # Errors
    /// [`Refusal`]: too long, no TOML, or not what is to be in it.
    pub fn from_toml(text: &str) -> Result<Self, Refusal> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(Refusal::TooLong(text.len()));
        }
        let file: RingFile = toml::from_str(text).map_err(|error| Refusal::Unreadable(error.to_string()))?;
        Ok(Self {
            format: FORMAT,
            cluster: file.cluster.unwrap_or_else(default_cluster),
            epoch: file.epoch,
            term: file.term,
            replicas: file.replicas,
            mode: file.mode.unwrap_or_else(|| Mode::default_for(file.replicas)),
            slots: file.nodes.into_iter().map(NodeInFile::into_slot).collect::<Result<_, _>>()?,
            replication: None,
        })
    }

    /// Makes a ring of one copy from `(peer, client)` addresses. The order does not matter: the same list in another
    /// order gives the same ring.
    ///
    /// # Errors
    /// [`Refusal`]: an address that makes no name.
    pub fn from_peers(mut peers: Vec<(Address, Address)>) -> Result<Self, Refusal> {
        peers.sort();
        let in_file = |(peer, client)| NodeInFile {
            peer,
            client,
            id: None,
            incarnation: Incarnation::ANY,
            zone: String::new(),
            shards: one_shard(),
            weight: full_weight(),
            state: up(),
        };
        Ok(Self {
            format: FORMAT,
            cluster: default_cluster(),
            epoch: first_epoch(),
            term: first_term(),
            replicas: one_copy(),
            mode: Mode::Rf1,
            slots: peers.into_iter().map(|pair| in_file(pair).into_slot()).collect::<Result<_, _>>()?,
            replication: None,
        })
    }
}

impl NodeInFile {
    fn into_slot(self) -> Result<SlotEntry, Refusal> {
        let named_by_address = || self.peer.to_string().parse::<Name>().map(NodeId);
        let node = match self.id {
            Some(id) => id,
            None => named_by_address().map_err(|_| {
                Refusal::Unreadable(format!(
                    "the node {} needs an id: its address is too long for one",
                    self.peer
                ))
            })?,
        };
        Ok(SlotEntry {
            node,
            incarnation: self.incarnation,
            zone: self.zone,
            client: self.client,
            peer: self.peer,
            shards: self.shards,
            weight: self.weight,
            state: self.state,
        })
    }
}

fn default_cluster() -> ClusterId {
    ClusterId(CLUSTER_DEFAULT.parse().expect("it is a name"))
}
