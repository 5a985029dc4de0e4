//! Wakes one thread out of its turn: a sleep flag, so that only a sleeper costs a system call, and
//! an eventfd for wakers that have no ring. It carries no data; that is the mailbox's part.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::sleep::SleepFlag;

/// How other threads reach one reactor. Shared by reference; all methods take any thread.
#[derive(Debug)]
pub struct Waker {
    asleep: SleepFlag,
    event: File,
    ring_fd: AtomicI32,
}

impl Waker {
    /// A waker of a thread that is awake.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            asleep: SleepFlag::new(),
            event: File::from(crate::thread::eventfd()?),
            ring_fd: AtomicI32::new(-1),
        })
    }

    pub(crate) fn set_ring(&self, fd: RawFd) {
        self.ring_fd.store(fd, Ordering::Release);
    }

    /// The ring to send a `MSG_RING` to, if the sleeper has one.
    pub(crate) fn ring(&self) -> Option<RawFd> {
        let fd = self.ring_fd.load(Ordering::Acquire);
        (fd >= 0).then_some(fd)
    }

    pub(crate) fn event_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Says that this thread is about to block. The caller must look at its mailboxes after this and
    /// not block if one holds something.
    pub fn prepare_sleep(&self) {
        self.asleep.prepare_sleep();
    }

    /// Says that this thread is awake: nobody needs to wake it.
    pub fn awake(&self) {
        self.asleep.awake();
    }

    /// True for exactly one of those who post while the thread sleeps: that one must wake it.
    /// Called after the mailbox was published.
    #[must_use]
    pub fn must_wake(&self) -> bool {
        self.asleep.must_wake()
    }

    /// Wakes the thread, asleep or not, from a thread without a reactor.
    pub fn wake_from_outside(&self) {
        self.asleep.awake();
        self.ring_bell();
    }

    /// Makes the eventfd readable. It can fail only when it is readable already.
    pub(crate) fn ring_bell(&self) {
        match (&self.event).write_all(&1u64.to_ne_bytes()) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "eventfd write: {error}"),
        }
    }

    /// Makes the eventfd quiet again.
    pub(crate) fn silence_bell(&self) {
        match (&self.event).read_exact(&mut [0; 8]) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "eventfd read: {error}"),
        }
    }
}
