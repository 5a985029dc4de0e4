//! The interface of a turn: what a shard thread may ask of the kernel, and the closed list of what
//! it can hear back. It holds no state and makes no system call itself.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockAddr;

use crate::waker::Waker;

/// Bytes that come from one connection before it can be paused, where the kernel allows it; a buffer more at most. Whoever is to wait
/// is heard no further, so this times the connections is what they cost at worst. `docs/measurements.md` has the figures.
pub(crate) const BURST_BYTES_MAX: usize = 16 << 10;

/// One accepted or adopted connection of one [`Io`].
///
/// The generation tells a connection from an earlier one in the same slot, so a late use of an old
/// id is recognised and ignored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionId {
    /// Index that is dense over live connections: fit for a table beside the reactor's own.
    pub slot: u32,
    /// Which tenant of the slot this is, 1 to 2^24 - 1.
    pub generation: u32,
}

/// One listening socket of one [`Io`], in the order of the [`Io::listen`] calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub u32);

/// One datagram socket of one [`Io`], in the order of the [`Io::listen_datagrams`] calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DatagramsId(pub u32);

/// Memory that was lent for one send, by the lender's own number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LoanId(pub u32);

/// Why no more bytes will come from a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndCause {
    /// The peer closed or half-closed; what was received before is complete, replies may still be sent.
    EndOfStream,
    /// The socket failed with this `errno`; nothing can be sent any more.
    Failed(i32),
}

/// Everything that a turn can bring.
#[derive(Debug)]
pub enum Event<'a> {
    /// A new connection, for [`Io::adopt`] of this reactor or another's.
    Accepted {
        /// The new connection.
        stream: OwnedFd,
        /// Where it came in.
        listener: ListenerId,
    },
    /// Bytes arrived. The slice is the kernel's own receive buffer and is given back at the next call.
    Received {
        /// Whose bytes.
        connection: ConnectionId,
        /// At least one byte.
        data: &'a [u8],
    },
    /// The whole buffer of [`Io::send`], or of [`Io::send_lent`] with all that was lent, has left; here it is again, cleared, for reuse.
    Sent {
        /// Whose send.
        connection: ConnectionId,
        /// The emptied buffer, with its capacity.
        buffer: Vec<u8>,
        /// How many bytes it held, with what was lent.
        sent_bytes: usize,
    },
    /// Nobody reads any more what was lent to [`Io::send_lent`]: it has left, or its connection is gone. Comes once for each
    /// loan, also after [`Io::close`].
    Returned(LoanId),
    /// There are bytes, or there is an end, for [`Io::receive_into`] to find. Only after [`Io::read_by_hand`], and once for each
    /// turn that finds some.
    Readable(ConnectionId),
    /// No more bytes come. The owner still has to call [`Io::close`]. A `Sent` may follow, and after
    /// `EndOfStream` also `Failed`.
    Ended {
        /// Which connection.
        connection: ConnectionId,
        /// Why.
        cause: EndCause,
    },
    /// A datagram arrived. Its slice is overwritten by the next one.
    Datagram {
        /// Where it came in.
        socket: DatagramsId,
        /// Who sent it, or claims to have.
        from: SocketAddr,
        /// May be empty.
        data: &'a [u8],
    },
    /// Another thread used this reactor's [`Waker`].
    Woken,
}

/// How long a turn may block when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Not at all: the caller has other work.
    Poll,
    /// Until an event, at most this long.
    AtMost(Duration),
}

/// Sizes a reactor is built with. The defaults suit a shard with up to some thousand connections.
#[derive(Clone, Copy, Debug)]
pub struct IoSettings {
    /// Submission entries, a power of two; the completion ring has eight times as many.
    pub submissions: u32,
    /// Receive buffers shared by all connections, a power of two up to 32768. Few of them stay in
    /// the CPU's cache: the kernel takes them first in, first out.
    pub receive_buffers: u16,
    /// Bytes in a receive buffer.
    pub receive_buffer_bytes: u32,
}

impl Default for IoSettings {
    fn default() -> Self {
        Self { submissions: 1024, receive_buffers: 128, receive_buffer_bytes: 4096 }
    }
}

impl IoSettings {
    /// Bytes of memory for one submission entry and its completions.
    pub const BYTES_PER_SUBMISSION: usize = 64 + 8 * 16;

    /// Bytes that the kernel charges a ring of these settings to its user's limit of locked memory: the rings, not the
    /// receive buffers. As root it charges none.
    #[must_use]
    pub const fn locked_bytes(&self) -> usize {
        const PAGE_BYTES: usize = 4096;
        let rings = self.submissions as usize * Self::BYTES_PER_SUBMISSION;
        // The heads of the rings, and the list of buffers.
        rings.next_multiple_of(PAGE_BYTES)
            + PAGE_BYTES
            + (self.receive_buffers as usize * 16).next_multiple_of(PAGE_BYTES)
    }

    /// Bytes of memory that a reactor of these settings holds for its whole life.
    #[must_use]
    pub const fn fixed_bytes(&self) -> usize {
        let ring = self.submissions as usize * Self::BYTES_PER_SUBMISSION;
        ring + self.receive_buffers as usize * (self.receive_buffer_bytes as usize + 16)
    }
}

/// What a reactor has done since its start. Plain numbers of one thread.
#[derive(Clone, Copy, Default, Debug)]
pub struct IoCounters {
    /// System calls that submitted or waited.
    pub turns: u64,
    /// Completions or readiness events seen.
    pub completions: u64,
    /// Sends started.
    pub sends: u64,
    /// Times the receive buffers ran dry.
    pub out_of_buffers: u64,
    /// Multishot operations that ended and were armed again.
    pub rearmed: u64,
    /// Times the completion ring overflowed.
    pub overflows: u64,
    /// Accepts that failed, mostly for want of file descriptors.
    pub accept_failures: u64,
    /// Wake-ups sent to other threads.
    pub wakes: u64,
}

/// One thread's way to the kernel.
pub trait Io: Sized {
    /// Builds the reactor on the thread that will use it.
    ///
    /// # Errors
    /// What the kernel said, with the step that failed.
    fn new(settings: &IoSettings) -> std::io::Result<Self>;

    /// The handle by which other threads wake this one out of [`Io::turn`].
    fn waker(&self) -> Arc<Waker>;

    /// Starts accepting on `listener`, a listening stream socket of any family. Accepted sockets
    /// inherit its options.
    ///
    /// # Errors
    /// What the kernel said.
    fn listen(&mut self, listener: OwnedFd) -> std::io::Result<ListenerId>;

    /// Receives datagrams on `socket`, which is bound.
    ///
    /// # Errors
    /// What the kernel said.
    fn listen_datagrams(&mut self, socket: OwnedFd) -> std::io::Result<DatagramsId>;

    /// Sends one datagram at once, if the kernel takes it; says whether it did.
    fn send_datagram(&mut self, socket: DatagramsId, to: SocketAddr, data: &[u8]) -> bool;

    /// Closes all listeners. Connections that the kernel has not handed over are refused, datagrams are not received any
    /// more.
    fn stop_accepting(&mut self);

    /// Takes over a connected stream socket and starts to receive on it.
    ///
    /// # Errors
    /// What the kernel said.
    fn adopt(&mut self, stream: OwnedFd) -> std::io::Result<ConnectionId>;

    /// Submits what was asked for, waits as told and collects what came. The only blocking call.
    ///
    /// # Errors
    /// Only what no later turn can mend.
    fn turn(&mut self, wait: Wait) -> std::io::Result<()>;

    /// The next thing that the last turn brought. The bytes of a `Received` are lent until the next call.
    fn next_event(&mut self) -> Option<Event<'_>>;

    /// Sends all of `buffer`, in order, and gives it back by [`Event::Sent`]. An id whose connection
    /// is gone drops the buffer.
    ///
    /// One send at a time per connection.
    fn send(&mut self, connection: ConnectionId, buffer: Vec<u8>);

    /// As [`Io::send`], with memory of the caller's between the bytes of `buffer`: each slice of `lent` goes before the byte
    /// of the buffer at its place; places do not go down. There must be something to send.
    ///
    /// The caller leaves the slices as they are until [`Event::Returned`] names the loan. Only the kernel reads them: were
    /// they changed or unmapped all the same, other bytes would be sent, or the connection would fail.
    fn send_lent<'a>(
        &mut self,
        connection: ConnectionId,
        buffer: Vec<u8>,
        loan: LoanId,
        lent: impl Iterator<Item = (usize, &'a [u8])>,
    );

    /// With `by_hand`, bytes of `connection` are not handed out any more but announced by [`Event::Readable`], for who knows
    /// where they belong; what was on its way still comes as [`Event::Received`], before. Without, it is as it was.
    fn read_by_hand(&mut self, connection: ConnectionId, by_hand: bool);

    /// Whether [`Io::receive_into`] may be called at once, without [`Io::read_by_hand`]: all that the kernel has handed over was
    /// handed out, and there may be more.
    fn may_receive_now(&mut self, connection: ConnectionId) -> bool;

    /// Fills `places`, in order, with what has come, and says how many bytes that were: 0 at the end of the stream. One copy, by
    /// the kernel. Fails with `WouldBlock` where there is nothing.
    ///
    /// # Errors
    /// What the kernel said.
    fn receive_into(
        &mut self,
        connection: ConnectionId,
        places: &mut [IoSliceMut<'_>],
    ) -> std::io::Result<usize>;

    /// Stops receiving from `connection` until [`Io::resume`]. What the kernel already handed over still comes.
    fn pause(&mut self, connection: ConnectionId);

    /// Receives again after [`Io::pause`].
    fn resume(&mut self, connection: ConnectionId);

    /// Receives only what the kernel has already, then [`Event::Ended`] comes as if the peer had closed.
    fn end_receiving(&mut self, connection: ConnectionId);

    /// Ends the connection: no event of it follows. A send in flight is cut short. A peer that was not read to its end is
    /// reset.
    fn close(&mut self, connection: ConnectionId);

    /// Whom a connection leads to, while the kernel knows. A system call.
    fn peer(&self, connection: ConnectionId) -> Option<SockAddr>;

    /// Wakes the thread behind `peer` if it sleeps. Leaves with the next turn at the latest.
    fn wake(&mut self, peer: &Waker);

    /// What was done so far.
    fn counters(&self) -> &IoCounters;

    /// Sockets that are open, listeners aside.
    fn connections(&self) -> usize;
}
