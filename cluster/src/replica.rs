//! Copies of partitions: how what the primary writes gets to the others, and who may answer when somebody is gone.
//!
//! ```text
//! primary shard --Feed: states of keys, in order--> backup shard
//!               <--Ack: how far, and a lease-------
//! ```
//!
//! A [`Replicator`] is one shard's part in it, as primary and as backup. It replicates states, never operations (of a long value
//! that something was put to: what that was, for those who have the value), and decides nothing about the ring: who is primary, in sync, or being filled is what [`crate::ring::Assignment`] says.
//! `docs/replication.md` has the promises of each mode.

use crate::table::SlotId;

#[cfg(test)]
mod memory;
pub mod message;
mod replicator;
#[cfg(test)]
mod simulation;
mod standings;
pub mod store;
mod stream;
mod tenures;
mod version;

pub use message::Fences;
pub use replicator::{Change, Counts, Effect, Outcome, Refused, Replicator, Write};
pub use store::{Bytes, Content, Cursor, Delta, Portion, Record, Side, Store};
pub use stream::WINDOW_BYTES;
pub use version::{Version, VersionClock};

/// Longest value of an item with copies, or that may move: it travels in one message.
pub const COPIED_ITEM_BYTES_MAX: usize = 8 << 20;

/// One shard of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerShard {
    /// The node's place in the ring.
    pub slot: SlotId,
    /// Which of its shards.
    pub shard: u16,
}
