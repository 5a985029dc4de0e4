//! The flag that says whether a thread sleeps, so that only a sleeper costs its wakers a system call. It wakes nobody itself.
//!
//! The protocol is Dekker's: the sleeper raises the flag and then looks at its mailboxes, the poster
//! fills the mailbox and then looks at the flag, each with a sequentially consistent fence between,
//! so at least one of the two sees the other. `tests/model.rs` goes through all of their interleavings.

use crate::sync::{AtomicBool, Ordering, fence};

/// See the module. Shared by reference; only the sleeper calls [`SleepFlag::prepare_sleep`].
#[derive(Debug)]
pub(crate) struct SleepFlag(AtomicBool);

impl SleepFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Says that this thread is about to block. It must look at its mailboxes after this and not block if one holds
    /// something.
    pub(crate) fn prepare_sleep(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the thread is awake, or will be: nobody else needs to wake it.
    pub(crate) fn awake(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// True for exactly one of those who post while the thread sleeps: that one must wake it.
    /// Called after the mailbox was published.
    pub(crate) fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}
