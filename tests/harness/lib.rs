//! What end-to-end tests share: the real binary as a child process, connections with bounded waits, and transcripts.
//!
//! Knows the protocol only as text in files and in tests: it links no crate of the server, so a mistake there cannot
//! hide behind the same mistake here. Every wait has a bound, and every child is stopped by its own handle.

#![expect(clippy::missing_errors_doc, reason = "a test fails with whatever goes wrong, and shows it")]

use std::io::Write as _;
use std::time::{Duration, Instant};

mod binaries;
pub mod cli;
pub mod clients;
pub mod cluster;
pub mod connection;
pub mod coordinated;
pub mod counter;
pub mod differential;
pub mod etcd;
pub mod fickle;
pub mod history;
pub mod load;
pub mod machine;
pub mod network;
pub mod process;
pub mod replay;
pub mod seccomp;
pub mod server;
mod signal;
pub mod tampering;
pub mod toolbox;
pub mod transcript;

pub use cluster::Cluster;
pub use connection::Connection;
pub use server::Server;
pub use signal::Signal;
pub use transcript::Transcript;

/// Time for what takes long: moving a third of everything, say, while the machine is compiling too.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Asks until there is an answer that does not say that a node was late on a busy machine. For what may be asked twice.
#[track_caller]
pub fn ask_until_in_time(mut ask: impl FnMut() -> String) -> String {
    let mut answer = String::new();
    wait_until("an answer in time", || {
        answer = ask();
        !machine::is_late(&answer)
    });
    answer
}

/// Says that something was left out, past the test harness, which hides what passing tests print.
pub fn announce_skip(reason: impl std::fmt::Display) {
    // Written at once, so that lines of parallel tests do not mix.
    let line = format!("\nSKIPPED: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}
