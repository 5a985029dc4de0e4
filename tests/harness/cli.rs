//! The command line's binary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::Signal;
use crate::binaries::built;
use crate::process::{Finished, Output, run_to_end, wait_for_exit};

/// Time for one command: long, because the machine may be compiling too.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The command line's binary, built once, with no word of its own yet.
pub fn command() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let path: &Path = BINARY.get_or_init(|| built("slabring-cli"));
    let mut command = Command::new(path);
    command.env_remove("SLABRING_SERVERS").env_remove("SLABRING_ETCD");
    command
}

/// Runs it with these words.
#[track_caller]
pub fn run(words: &str) -> Finished {
    run_to_end(command().args(words.split_whitespace()), RUN_TIMEOUT).expect("slabring-cli ends")
}

/// Runs it with these words, and presses Ctrl-C when it has printed `what`.
#[track_caller]
pub fn interrupt_at(words: &str, what: &str) -> Finished {
    at(words, what, |child| Signal::Interrupt.send(child))
}

/// Runs it with these words to its end, and does `then` when it has printed `what`.
#[track_caller]
pub fn at(words: &str, what: &str, then: impl FnOnce(&Child)) -> Finished {
    let mut command = command();
    command.args(words.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("slabring-cli runs");
    let mut stdout = Output::collect(child.stdout.take().expect("stdout is piped"));
    let mut stderr = Output::collect(child.stderr.take().expect("stderr is piped"));
    let deadline = Instant::now() + RUN_TIMEOUT;
    while !stdout.text().contains(what) {
        let is_over = child.try_wait().expect("a child of ours can be asked").is_some();
        assert!(!is_over && Instant::now() < deadline, "{words}: {}{}", stdout.text(), stderr.text());
        std::thread::sleep(POLL_INTERVAL);
    }
    then(&child);
    let status = wait_for_exit(&mut child, RUN_TIMEOUT).expect("it ends");
    Finished { status, stdout: stdout.finish(), stderr: stderr.finish() }
}
