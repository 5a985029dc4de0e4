//! The only crate that talks to the kernel: sockets, rings, mailboxes between threads, pinning, clock.
//!
//! A shard thread owns one [`Io`] and drives it in turns: [`Io::turn`] is the only system call of
//! a turn, [`Io::next_event`] hands out what it brought, and everything asked for in between
//! ([`Io::send`], [`Io::close`], ...) leaves with the next turn. There are two twins behind the
//! trait, [`Uring`] (raw io_uring) and [`Epoll`] (`mio`); [`backend::choose`] says which one this
//! machine allows, and why.
//!
//! Nothing here knows what the bytes mean.

pub mod backend;
mod buffers;
pub mod clock;
mod datagrams;
mod epoll;
mod io;
pub mod mailbox;
mod outgoing;
pub mod process;
mod ring;
mod sleep;
mod sockets;
mod sync;
pub mod thread;
mod uring;
mod waker;

pub use epoll::Epoll;
pub use io::{
    ConnectionId, DatagramsId, EndCause, Event, Io, IoCounters, IoSettings, ListenerId, LoanId, Wait,
};
pub use uring::Uring;
pub use waker::Waker;
