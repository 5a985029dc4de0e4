//! The end of a node of which a part cannot go on: at once, whole, and with a line that says why. Half a node is worse than none: who asks
//! the missing half waits for ever, and no copy takes over while the other half speaks. Never the orderly end, so nothing is saved.

use std::{panic, process};

use tracing::error;

use crate::options::EXIT_FAILURE;
use crate::tell;

/// From here on a panic of any thread ends the process by SIGABRT, behind the usual lines about it: nothing here relies on unwinding.
/// Called once, before there are other threads.
pub fn end_with_any_panic() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        told(panic);
        // Not the log: the panic may have come out of it.
        tell(format_args!("slabring: a thread panicked, and the node ends with it"));
        process::abort();
    }));
}

/// Ends the process because `thread` cannot go on.
pub fn end_because(thread: &str, error: &anyhow::Error) -> ! {
    error!("{thread} cannot go on, and the node ends with it: {error:#}");
    process::exit(i32::from(EXIT_FAILURE));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const IS_CHILD: &str = "SLABRING_TEST_PANICS";
    const SIGABRT: i32 = 6;

    #[test]
    fn a_panic_of_one_thread_ends_the_process() {
        if std::env::var_os(IS_CHILD).is_some() {
            end_with_any_panic();
            drop(std::thread::spawn(|| panic!("on purpose")).join());
            return;
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        let name = "downfall::tests::a_panic_of_one_thread_ends_the_process";
        let ended = child.args(["--exact", "--nocapture", name]).env(IS_CHILD, "1").output().unwrap();
        assert_eq!(ended.status.signal(), Some(SIGABRT), "{ended:?}");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("on purpose") && said.contains("the node ends with it"), "{said}");
    }
}
