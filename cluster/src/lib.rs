//! Placement: which partition, which machines and which shard a key belongs to.
//!
//! Pure functions of a key, a slot table and nothing else, so every node and every client that
//! holds the same ring gives the same answer. Never a socket, a clock, a thread or unsafe code.
//!
//! ```text
//! key --XXH3-64--> h --top 14 bits--> partition --PartitionTable--> ordered slots (machines)
//!                  h --low 32 bits--> shard inside whichever machine serves it
//! ```
//!
//! The functions are frozen by `golden/placement.txt`: a change there moves every key of every
//! running cluster, and breaks every client that routes by itself.

#![forbid(unsafe_code)]

pub mod jump;
pub mod placement;
pub mod table;
