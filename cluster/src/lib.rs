//! A cluster of nodes as state machines: which node a key belongs to, how nodes agree on that, and how a request
//! gets to its owner and the reply back.
//!
//! Events and time go in, effects come out. Never a socket, a clock, a thread or unsafe code: the server moves the
//! bytes, and a simulator can run whole clusters in one thread from one seed.
//!
//! ```text
//! key --XXH3-64--> h --top 14 bits--> partition --PartitionTable--> ordered slots (machines)
//!                  h --low 32 bits--> shard inside whichever machine serves it
//!
//! coordinator --ring document--> ring ----> peers (one per shard) --frames--> peers of other nodes
//! ```
//!
//! | module | is |
//! |---|---|
//! | [`jump`], [`placement`], [`table`] | pure functions from a key and a slot table to an owner |
//! | [`ring`] | the document that nodes must agree on, and the table made of it |
//! | [`wire`], [`link`] | frames, and one connection between two shards |
//! | [`forward`], [`peers`] | one shard's links and the requests under way on them |
//! | [`ownership`] | what a node of a ring of one copy may still hold that is old |
//! | [`grants`] | copies of hot keys at nodes that do not own them |
//! | [`replica`] | copies of partitions: streams, leases, hand-overs |
//! | [`touches`] | what is read where copies do not see it |
//! | [`migrate`] | the documents that remove, return, fill and move members step by step |
//! | [`coordinator`], [`conductor`], [`control`], [`report`] | how nodes agree on the next ring |
//!
//! Placement is frozen by `golden/placement.txt`: a change there moves every key of every running cluster, and
//! breaks every client that routes by itself.

#![forbid(unsafe_code)]

pub mod conductor;
pub mod control;
pub mod coordinator;
pub mod forward;
pub mod grants;
pub mod jump;
pub mod link;
pub mod migrate;
pub mod names;
pub mod ownership;
pub mod peers;
pub mod placement;
pub mod replica;
pub mod report;
pub mod ring;
pub mod run;
mod safeguard;
pub mod table;
pub mod time;
pub mod touches;
pub mod wire;

#[cfg(test)]
mod simulation;
