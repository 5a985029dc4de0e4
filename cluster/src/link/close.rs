//! Every reason for which a link ends, with its text for the log.

use crate::names::{ClusterId, NodeId};
use crate::wire::{Garbled, Kind, Versions};

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The connection could not be made, or the kernel or the other node closed it.
    #[error("the connection was closed or could not be made")]
    Lost,
    /// Bytes that are no frame.
    #[error("garbled: {0}")]
    Garbled(#[from] Garbled),
    /// A frame that has no place here.
    #[error("a frame out of place: {0:?}")]
    Unexpected(Kind),
    /// A greeting that cannot be read.
    #[error("a greeting that cannot be read")]
    Greeting,
    /// A node of another cluster.
    #[error("{node} is a node of the cluster {cluster}; see --cluster-id")]
    OtherCluster {
        /// As it says.
        node: NodeId,
        /// Of which.
        cluster: ClusterId,
    },
    /// Not the node that should be there.
    #[error("{0} answers there, another node is expected")]
    OtherNode(NodeId),
    /// The node was started anew, and the ring does not know yet.
    #[error("{0} is in another life than the ring says")]
    OtherLife(NodeId),
    /// This very node.
    #[error("it has this node's name: it is this node, or two have the same --node-id")]
    Itself,
    /// No version in common.
    #[error("it speaks the protocol versions {lowest} to {highest}", lowest = .0.lowest, highest = .0.highest)]
    Versions(Versions),
    /// It does not know the secret.
    #[error("it does not know the cluster's secret; see --cluster-secret-file")]
    Secret,
    /// The greeting took too long.
    #[error("no connection and greeting in time")]
    GreetingTime,
    /// It had not proved that it belongs when others needed its place.
    #[error("it did not prove in time that it belongs, for too many others want to")]
    Displaced,
    /// Nothing was heard.
    #[error("it is silent")]
    Silent,
    /// Nothing could be sent.
    #[error("it does not read")]
    Stuck,
    /// More requests than granted.
    #[error("it sends more than it was granted")]
    CreditExceeded,
    /// A message beyond the limit, or cut in a way that makes no sense.
    #[error("a message that is too long or cut wrongly")]
    Message,
    /// A response to nothing.
    #[error("a response that nobody waits for")]
    UnknownResponse,
    /// This node wants it no longer.
    #[error("it is not needed any more")]
    Retired,
}
