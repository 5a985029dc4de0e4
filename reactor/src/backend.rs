//! Which backend this machine allows, found out by trying it, and the reason in words.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::io::{Event, Io, IoSettings, Wait};
use crate::uring::Uring;

/// What the user asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Wish {
    /// io_uring where the machine allows it, else epoll.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

/// What is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// [`crate::Uring`].
    Uring,
    /// [`crate::Epoll`].
    Epoll,
}

/// A backend and why it was chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The backend to build on every shard thread.
    pub backend: Backend,
    /// One clause for the banner.
    pub reason: String,
}

/// Why io_uring cannot be used here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// seccomp or the sysctl says no.
    #[error(
        "io_uring is forbidden here (EPERM): check sysctl kernel.io_uring_disabled, or in a container the seccomp \
         profile (docker run --security-opt seccomp=unconfined)"
    )]
    Forbidden,
    /// The kernel has no io_uring.
    #[error("io_uring is not in this kernel or hidden by seccomp (ENOSYS): Linux 6.0 or newer is needed")]
    Missing,
    /// The rings do not fit into the memlock limit.
    #[error(
        "io_uring needs about {} KiB of locked memory for {rings} rings and the limit leaves too little: raise it (ulimit -l \
         unlimited, LimitMEMLOCK=infinity, docker run --ulimit memlock=-1)",
        need_bytes.div_ceil(1024)
    )]
    LockedMemory {
        /// What all of them are charged.
        need_bytes: usize,
        /// One for each thread.
        rings: u16,
    },
    /// The kernel has io_uring but not multishot receive with buffer rings.
    #[error("io_uring of this kernel is too old ({what}): Linux 6.0 or newer is needed")]
    TooOld {
        /// The step that failed.
        what: String,
    },
    /// Anything else.
    #[error("io_uring does not work here: {what}")]
    Broken {
        /// The step that failed.
        what: String,
    },
}

impl Refusal {
    /// The refusal of the last of so many rings.
    #[must_use]
    pub const fn locked_memory(settings: &IoSettings, rings: u16) -> Self {
        Self::LockedMemory { need_bytes: settings.locked_bytes() * rings as usize, rings }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Decides which backend to use by building one ring and passing a few bytes through it. A few milliseconds.
///
/// # Errors
/// Only for [`Wish::Uring`], when io_uring does not work here.
pub fn choose(wish: Wish, settings: &IoSettings) -> Result<Choice, Refusal> {
    match wish {
        Wish::Epoll => Ok(Choice { backend: Backend::Epoll, reason: "asked for by --io epoll".into() }),
        Wish::Uring => {
            let description = try_uring(settings)?;
            Ok(Choice { backend: Backend::Uring, reason: format!("asked for by --io uring, {description}") })
        }
        Wish::Auto => Ok(match try_uring(settings) {
            Ok(reason) => Choice { backend: Backend::Uring, reason },
            Err(refusal) => Choice { backend: Backend::Epoll, reason: refusal.to_string() },
        }),
    }
}

fn try_uring(settings: &IoSettings) -> Result<String, Refusal> {
    let mut uring = Uring::new(settings).map_err(|error| refusal_of(&error, settings))?;
    pass_bytes(&mut uring).map_err(|error| Refusal::TooOld { what: format!("self-test: {error}") })?;
    Ok(uring.description())
}

fn refusal_of(error: &io::Error, settings: &IoSettings) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Refusal::Forbidden,
        Some(libc::ENOSYS) => Refusal::Missing,
        Some(libc::ENOMEM) => Refusal::locked_memory(settings, 1),
        Some(libc::EINVAL) => Refusal::TooOld { what: error.to_string() },
        _ => Refusal::Broken { what: error.to_string() },
    }
}

/// Multishot receive and buffer rings have no feature bit: only a connection tells.
fn pass_bytes(uring: &mut Uring) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_millis(500);
    let (mut ours, theirs) = UnixStream::pair()?;
    uring.adopt(OwnedFd::from(theirs))?;
    ours.write_all(b"ping")?;
    for _ in 0..4 {
        uring.turn(Wait::AtMost(PATIENCE))?;
        while let Some(event) = uring.next_event() {
            match event {
                Event::Received { data: b"ping", .. } => return Ok(()),
                Event::Ended { cause, .. } => return Err(io::Error::other(format!("{cause:?}"))),
                _ => {}
            }
        }
    }
    Err(io::Error::other("no bytes came through"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoll_is_given_when_asked_for_and_auto_always_finds_one() {
        let settings = IoSettings::default();
        assert_eq!(choose(Wish::Epoll, &settings).unwrap().backend, Backend::Epoll);
        let choice = choose(Wish::Auto, &settings).unwrap();
        assert!(!choice.reason.is_empty());
        assert_eq!(choose(Wish::Uring, &settings).is_ok(), choice.backend == Backend::Uring);
    }
}
