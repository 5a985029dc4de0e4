//! What end-to-end tests share: the real binary as a child process, connections with bounded waits, and transcripts.
//!
//! Knows the protocol only as text in files and in tests: it links no crate of the server, so a mistake there cannot
//! hide behind the same mistake here. Every wait has a bound, and every child is stopped by its own handle.

use std::io::Write as _;

pub mod cli;
pub mod clients;
pub mod cluster;
pub mod connection;
pub mod counter;
pub mod differential;
pub mod etcd;
pub mod fickle;
pub mod history;
pub mod load;
pub mod network;
pub mod process;
pub mod replay;
pub mod seccomp;
pub mod server;
mod signal;
pub mod toolbox;
pub mod transcript;

pub use cluster::Cluster;
pub use connection::Connection;
pub use server::Server;
pub use signal::Signal;
pub use transcript::Transcript;

/// Says that something was left out, past the test harness, which hides what passing tests print.
pub fn announce_skip(reason: impl std::fmt::Display) {
    // Written at once, so that lines of parallel tests do not mix.
    let line = format!("\nSKIPPED: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}
