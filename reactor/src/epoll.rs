//! The epoll backend, for machines that refuse io_uring: same turns, same events, same rules.
//!
//! All connections are read into one receive buffer, which stays in the CPU's cache; sends are tried
//! at once and wait for the socket only when it is full.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use socket2::{SockAddr, SockRef, Socket as RawSocket};

use crate::clock::Moment;
use crate::datagrams::Datagrams;
use crate::io::{
    BURST_BYTES_MAX, ConnectionId, DatagramsId, EndCause, Event, Io, IoCounters, IoSettings, ListenerId,
    LoanId, Wait,
};
use crate::outgoing::Outgoing;
use crate::sockets::{Socket, Sockets};
use crate::uring::{ACCEPT_BACK_OFF, is_exhaustion};
use crate::waker::Waker;

const READINESS_EVENTS: usize = 1024;
/// Connections accepted from one listener before others are heard.
const ACCEPTS_PER_TURN: usize = 64;

const BELL: Token = Token(usize::MAX);
const LISTENER_BIT: usize = 1 << 62;
const DATAGRAMS_BIT: usize = 1 << 61;

fn token_of(id: ConnectionId) -> Token {
    Token((id.generation as usize) << 32 | id.slot as usize)
}

#[expect(clippy::cast_possible_truncation, reason = "each field is masked to its width")]
fn connection_of(token: Token) -> ConnectionId {
    ConnectionId { slot: token.0 as u32, generation: (token.0 >> 32 & 0xff_ffff) as u32 }
}

#[derive(Default)]
struct State {
    /// The socket may hold bytes: set by readiness, cleared by a read that finds it empty.
    readable: bool,
    /// The peer has closed: the end of the stream is there to be read behind the last bytes.
    peer_closed: bool,
    /// It stands in `Epoll::ready`.
    queued: bool,
    /// The owner wants to hear from the connection.
    wanted: bool,
    /// The owner reads by itself.
    by_hand: bool,
    /// What is being sent.
    sending: Option<Outgoing>,
}

/// What a ready connection had.
enum Came {
    Bytes(usize),
    /// It was not read: that is its owner's.
    ForOwner,
    End(EndCause),
}

struct Listener {
    fd: RawSocket,
    readable: bool,
    back_off: Option<Moment>,
}

/// One thread's epoll reactor.
pub struct Epoll {
    poll: Poll,
    readiness: mio::Events,
    sockets: Sockets<State>,
    listeners: Vec<Listener>,
    datagrams: Datagrams,
    /// Connections that may have something to read.
    ready: VecDeque<ConnectionId>,
    /// Reads left in this turn: one for each connection that was ready at its start.
    reads_left: usize,
    accepts_left: usize,
    finished: VecDeque<Event<'static>>,
    receive_buffer: Box<[u8]>,
    waker: Arc<Waker>,
    counters: IoCounters,
}

impl Epoll {
    fn start(&mut self, fd: OwnedFd) -> io::Result<ConnectionId> {
        SockRef::from(&fd).set_nonblocking(true)?;
        let raw = fd.as_raw_fd();
        let id = self.sockets.insert(fd, State { wanted: true, ..State::default() });
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut SourceFd(&raw), token_of(id), interest) {
            self.sockets.remove(id);
            return Err(error);
        }
        Ok(id)
    }

    fn note_readiness(&mut self) {
        let readiness = std::mem::replace(&mut self.readiness, mio::Events::with_capacity(0));
        for event in &readiness {
            self.counters.completions += 1;
            let token = event.token();
            if token == BELL {
                self.waker.silence_bell();
                self.finished.push_back(Event::Woken);
            } else if token.0 & LISTENER_BIT != 0 {
                // A listener that was closed since may still be heard of once.
                if let Some(listener) = self.listeners.get_mut(token.0 & !LISTENER_BIT) {
                    listener.readable = true;
                }
            } else if token.0 & DATAGRAMS_BIT != 0 {
                let number = u32::try_from(token.0 & !DATAGRAMS_BIT).expect("sockets are few");
                self.datagrams.now_readable(DatagramsId(number));
            } else {
                let id = connection_of(token);
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.now_readable(id, event.is_read_closed() || event.is_error());
                }
                if event.is_writable() || event.is_write_closed() {
                    self.push_out(id);
                }
            }
        }
        self.readiness = readiness;
    }

    fn now_readable(&mut self, id: ConnectionId, peer_closed: bool) {
        if let Some(Socket { state, .. }) = self.sockets.get_mut(id) {
            state.readable = true;
            state.peer_closed |= peer_closed;
        }
        self.queue_if_ready(id);
    }

    fn queue_if_ready(&mut self, id: ConnectionId) {
        let Some(Socket { state, .. }) = self.sockets.get_mut(id) else { return };
        if state.readable && state.wanted && !state.queued {
            state.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Writes what the socket takes and reports when all of it has left.
    fn push_out(&mut self, id: ConnectionId) {
        let Some(Socket { fd, state }) = self.sockets.get_mut(id) else { return };
        let Some(outgoing) = &mut state.sending else { return };
        let outcome = loop {
            match outgoing.send_now(fd.as_raw_fd()) {
                Ok(bytes) => {
                    if outgoing.advance(bytes) {
                        break Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(errno_of(&error)),
            }
        };
        let (mut buffer, sent_bytes, loan) = state.sending.take().expect("present above").into_parts();
        self.finished.extend(loan.map(Event::Returned));
        self.finished.push_back(match outcome {
            Ok(()) => {
                buffer.clear();
                Event::Sent { connection: id, buffer, sent_bytes }
            }
            Err(errno) => Event::Ended { connection: id, cause: EndCause::Failed(errno) },
        });
    }

    fn begin_sending(&mut self, id: ConnectionId, outgoing: Outgoing) {
        let Socket { state, .. } = self.sockets.get_mut(id).expect("the caller has looked");
        assert!(state.sending.is_none(), "one send at a time per connection");
        state.sending = Some(outgoing);
        self.counters.sends += 1;
        self.push_out(id);
    }

    fn accept(&mut self) -> Option<Event<'static>> {
        for number in 0..self.listeners.len() {
            while self.listeners[number].readable && self.accepts_left > 0 {
                self.accepts_left -= 1;
                match self.listeners[number].fd.accept() {
                    Ok((stream, _)) => {
                        let listener = ListenerId(u32::try_from(number).expect("listeners are few"));
                        return Some(Event::Accepted { stream: OwnedFd::from(stream), listener });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.listeners[number].readable = false;
                    }
                    Err(error) => self.accept_failed(number, errno_of(&error)),
                }
            }
        }
        None
    }

    fn accept_failed(&mut self, number: usize, errno: i32) {
        self.counters.accept_failures += 1;
        if is_exhaustion(errno) {
            self.listeners[number].readable = false;
            self.listeners[number].back_off = Some(Moment::now().after(ACCEPT_BACK_OFF));
        }
    }

    /// Reads once from the next ready connection. Tells whose bytes, how many, or how it ended.
    fn read_next(&mut self) -> Option<(ConnectionId, Came)> {
        while self.reads_left > 0 {
            self.reads_left -= 1;
            let id = self.ready.pop_front()?;
            let Some(Socket { fd, state }) = self.sockets.get_mut(id) else { continue };
            state.queued = false;
            if !state.wanted {
                continue;
            }
            if state.by_hand {
                if !state.readable {
                    continue;
                }
                // Until its owner finds nothing more.
                self.queue_if_ready(id);
                return Some((id, Came::ForOwner));
            }
            match read(fd, &mut self.receive_buffer) {
                Ok(0) => {
                    state.wanted = false;
                    return Some((id, Came::End(EndCause::EndOfStream)));
                }
                Ok(length) => {
                    // A short read has emptied the socket, and what comes later raises a new edge; the
                    // edge of an end that is there already has been.
                    state.readable = length == self.receive_buffer.len() || state.peer_closed;
                    self.queue_if_ready(id);
                    return Some((id, Came::Bytes(length)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => state.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => self.queue_if_ready(id),
                Err(error) => {
                    state.wanted = false;
                    return Some((id, Came::End(EndCause::Failed(errno_of(&error)))));
                }
            }
        }
        None
    }

    fn end_back_offs(&mut self) -> Option<Duration> {
        let mut nearest: Option<Duration> = None;
        for listener in &mut self.listeners {
            let Some(until) = listener.back_off else { continue };
            let left = Duration::from_nanos(until.since_ns(Moment::now()));
            if left.is_zero() {
                listener.back_off = None;
                listener.readable = true;
            } else {
                nearest = Some(nearest.map_or(left, |other| other.min(left)));
            }
        }
        nearest
    }

    fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || !self.finished.is_empty()
            || self.listeners.iter().any(|listener| listener.readable)
            || self.datagrams.has_work()
    }
}

impl Io for Epoll {
    fn new(_settings: &IoSettings) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new()?;
        poll.registry().register(&mut SourceFd(&waker.event_fd()), BELL, Interest::READABLE)?;
        Ok(Self {
            poll,
            readiness: mio::Events::with_capacity(READINESS_EVENTS),
            sockets: Sockets::new(),
            listeners: Vec::new(),
            datagrams: Datagrams::default(),
            ready: VecDeque::new(),
            reads_left: 0,
            accepts_left: 0,
            finished: VecDeque::new(),
            receive_buffer: vec![0; BURST_BYTES_MAX].into(),
            waker: Arc::new(waker),
            counters: IoCounters::default(),
        })
    }

    fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    fn listen(&mut self, listener: OwnedFd) -> io::Result<ListenerId> {
        let fd = RawSocket::from(listener);
        fd.set_nonblocking(true)?;
        let number = self.listeners.len();
        let token = Token(LISTENER_BIT | number);
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        self.listeners.push(Listener { fd, readable: false, back_off: None });
        Ok(ListenerId(u32::try_from(number).expect("listeners are few")))
    }

    fn stop_accepting(&mut self) {
        for listener in self.listeners.drain(..) {
            match self.poll.registry().deregister(&mut SourceFd(&listener.fd.as_raw_fd())) {
                // It was registered when it was added, and closing it ends that anyway.
                Ok(()) | Err(_) => {}
            }
        }
        self.datagrams.stop();
    }

    fn listen_datagrams(&mut self, socket: OwnedFd) -> io::Result<DatagramsId> {
        let id = self.datagrams.add(socket)?;
        let token = Token(DATAGRAMS_BIT | id.0 as usize);
        self.poll.registry().register(&mut SourceFd(&self.datagrams.fd(id)), token, Interest::READABLE)?;
        Ok(id)
    }

    fn send_datagram(&mut self, socket: DatagramsId, to: SocketAddr, data: &[u8]) -> bool {
        self.datagrams.send(socket, to, data)
    }

    fn adopt(&mut self, stream: OwnedFd) -> io::Result<ConnectionId> {
        self.start(stream)
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        let back_off = self.end_back_offs();
        let timeout = match wait {
            Wait::AtMost(time) if !self.has_work() => back_off.map_or(time, |other| other.min(time)),
            _ => Duration::ZERO,
        };
        self.counters.turns += 1;
        match self.poll.poll(&mut self.readiness, Some(timeout)) {
            Ok(()) => self.note_readiness(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        self.reads_left = self.ready.len();
        self.accepts_left = ACCEPTS_PER_TURN;
        self.datagrams.start_turn();
        Ok(())
    }

    fn next_event(&mut self) -> Option<Event<'_>> {
        if let Some(event) = self.finished.pop_front() {
            return Some(event);
        }
        if let Some(event) = self.accept() {
            return Some(event);
        }
        if let Some((socket, from, length)) = self.datagrams.receive() {
            return Some(Event::Datagram { socket, from, data: self.datagrams.bytes(length) });
        }
        let (connection, came) = self.read_next()?;
        Some(match came {
            Came::Bytes(length) => Event::Received { connection, data: &self.receive_buffer[..length] },
            Came::ForOwner => Event::Readable(connection),
            Came::End(cause) => Event::Ended { connection, cause },
        })
    }

    fn send(&mut self, connection: ConnectionId, buffer: Vec<u8>) {
        if self.sockets.get_mut(connection).is_some() {
            self.begin_sending(connection, Outgoing::plain(buffer));
        }
    }

    fn send_lent<'a>(
        &mut self,
        connection: ConnectionId,
        buffer: Vec<u8>,
        loan: LoanId,
        lent: impl Iterator<Item = (usize, &'a [u8])>,
    ) {
        if self.sockets.get_mut(connection).is_some() {
            self.begin_sending(connection, Outgoing::with_loan(buffer, loan, lent));
        } else {
            self.finished.push_back(Event::Returned(loan));
        }
    }

    fn read_by_hand(&mut self, connection: ConnectionId, by_hand: bool) {
        if let Some(Socket { state, .. }) = self.sockets.get_mut(connection) {
            state.by_hand = by_hand;
        }
        self.queue_if_ready(connection);
    }

    fn may_receive_now(&mut self, connection: ConnectionId) -> bool {
        self.sockets.get_mut(connection).is_some_and(|socket| socket.state.wanted && socket.state.readable)
    }

    fn receive_into(&mut self, connection: ConnectionId, places: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let Some(Socket { fd, state }) = self.sockets.get_mut(connection) else {
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        };
        let room: usize = places.iter().map(|place| place.len()).sum();
        let received = crate::sockets::receive_now(fd, places);
        match &received {
            Ok(0) => state.wanted = false,
            Ok(length) => state.readable = *length == room || state.peer_closed,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => state.readable = false,
            Err(_) => {}
        }
        self.queue_if_ready(connection);
        received
    }

    fn pause(&mut self, connection: ConnectionId) {
        if let Some(Socket { state, .. }) = self.sockets.get_mut(connection) {
            state.wanted = false;
        }
    }

    fn resume(&mut self, connection: ConnectionId) {
        if let Some(Socket { state, .. }) = self.sockets.get_mut(connection) {
            state.wanted = true;
        }
        self.queue_if_ready(connection);
    }

    fn end_receiving(&mut self, connection: ConnectionId) {
        let Some(Socket { fd, .. }) = self.sockets.get_mut(connection) else { return };
        crate::sockets::shut_down_receive(fd);
        self.now_readable(connection, true);
    }

    fn close(&mut self, connection: ConnectionId) {
        if let Some(Socket { state, .. }) = self.sockets.get_mut(connection) {
            let loan = state.sending.take().and_then(|outgoing| outgoing.into_parts().2);
            self.finished.retain(|event| !is_about(event, connection));
            self.finished.extend(loan.map(Event::Returned));
            self.sockets.remove(connection);
        }
    }

    fn peer(&self, connection: ConnectionId) -> Option<SockAddr> {
        self.sockets.peer(connection)
    }

    fn wake(&mut self, peer: &Waker) {
        self.counters.wakes += 1;
        peer.ring_bell();
    }

    fn counters(&self) -> &IoCounters {
        &self.counters
    }

    fn connections(&self) -> usize {
        self.sockets.len()
    }
}

fn is_about(event: &Event<'_>, id: ConnectionId) -> bool {
    match event {
        Event::Sent { connection, .. } | Event::Ended { connection, .. } => *connection == id,
        Event::Accepted { .. }
        | Event::Received { .. }
        | Event::Returned(_)
        | Event::Readable(_)
        | Event::Datagram { .. }
        | Event::Woken => false,
    }
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn read(fd: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    (&*SockRef::from(fd)).read(into)
}
