//! Signals to a child process.

#![expect(unsafe_code, reason = "the standard library can only kill a child, not ask it to stop")]

use std::process::Child;

/// The signals that a cache server is sent in daily life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// What a service manager sends.
    Terminate,
    /// What Ctrl-C sends.
    Interrupt,
    /// What asks a service to read its configuration again.
    Reload,
    /// What asks memcached for an orderly end.
    Graceful,
    /// What nobody can do anything about.
    Kill,
    /// What makes a process stand still, as a machine that hangs.
    Stop,
    /// What lets it go on.
    Continue,
}

impl Signal {
    /// Sends the signal to a child that has not been waited for.
    pub(crate) fn send(self, child: &Child) {
        let number = match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
            Self::Reload => libc::SIGHUP,
            Self::Graceful => libc::SIGUSR1,
            Self::Kill => libc::SIGKILL,
            Self::Stop => libc::SIGSTOP,
            Self::Continue => libc::SIGCONT,
        };
        let pid = libc::pid_t::try_from(child.id()).expect("a process id fits pid_t");
        // SAFETY: kill takes two numbers and touches no memory of ours; the child has not been waited for, so its id
        // still names it and no other process.
        let result = unsafe { libc::kill(pid, number) };
        assert_eq!(result, 0, "a child of ours can be signalled until it is waited for");
    }
}
