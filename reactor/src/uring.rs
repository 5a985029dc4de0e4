//! The io_uring backend: multishot accept and receive, provided buffers, one send in flight per
//! connection. Decides what completions mean for connections; all pointers live in `ring.rs`.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockAddr;

use crate::buffers::BufferId;
use crate::clock::Moment;
use crate::datagrams::Datagrams;
use crate::io::{
    ConnectionId, DatagramsId, EndCause, Event, Io, IoCounters, IoSettings, ListenerId, LoanId, Wait,
};
use crate::outgoing::Outgoing;
use crate::ring::{Completion, Ring};
use crate::sockets::{Socket, Sockets};
use crate::waker::Waker;

/// Pause before accepting again after the process ran out of descriptors or memory.
pub(crate) const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// Errors of `accept` that pass only when something else is freed.
pub(crate) fn is_exhaustion(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
}

/// What is in flight for a connection, and what is wanted.
#[derive(Clone, Copy, Default, Debug)]
struct Flight {
    /// A multishot receive is armed: its terminal completion is still to come.
    armed: bool,
    /// The owner wants to hear from the connection.
    wanted: bool,
    /// A send is in flight.
    sending: bool,
    /// The kernel will say once that there is something to read.
    listening: bool,
    /// The owner reads by itself.
    by_hand: bool,
    /// The owner is done with it; the slot is freed when nothing is in flight.
    closing: bool,
}

impl Flight {
    fn landed(self) -> bool {
        !self.armed && !self.sending && !self.listening
    }
}

enum Listener {
    Accepting(OwnedFd),
    BackingOff(OwnedFd, Moment),
    Stopped,
}

/// An [`Event`] without its bytes.
enum Happened {
    Accepted(OwnedFd, ListenerId),
    Received(ConnectionId, usize),
    Sent(ConnectionId, Vec<u8>, usize),
    Returned(LoanId),
    Readable(ConnectionId),
    Ended(ConnectionId, EndCause),
    Woken,
}

/// One thread's io_uring reactor.
pub struct Uring {
    // The ring cancels what is in flight when it is dropped, before the sockets are closed.
    ring: Ring,
    sockets: Sockets<Flight>,
    listeners: Vec<Listener>,
    datagrams: Datagrams,
    /// Connections whose receive has ended, to be armed again in the next turn: then it is known whether they are to be heard
    /// further, and there are buffers.
    starved: Vec<ConnectionId>,
    /// Loans of sends that have ended, to be told of.
    returned: Vec<LoanId>,
    /// The buffer behind the last `Received`.
    lent: Option<BufferId>,
    waker: Arc<Waker>,
    counters: IoCounters,
}

impl Uring {
    /// How the ring was set up, for people.
    #[must_use]
    pub fn description(&self) -> String {
        format!("{:?} set-up, multishot receive from {} buffers", self.ring.set_up(), self.buffer_count())
    }

    fn buffer_count(&self) -> usize {
        usize::from(self.ring.buffer_count())
    }

    fn step(&mut self) -> Option<Happened> {
        loop {
            if let Some(loan) = self.returned.pop() {
                return Some(Happened::Returned(loan));
            }
            let completion = self.ring.next()?;
            self.counters.completions += 1;
            let happened = match completion {
                Completion::Receive { connection, result, buffer, more } => {
                    self.received(connection, result, buffer, more)
                }
                Completion::Send { connection, result, outgoing } => self.sent(connection, result, outgoing),
                Completion::Accept { listener, result, more } => self.accepted(listener, result, more),
                Completion::Bell { more } => Some(self.bell_rang(more)),
                Completion::Rung => Some(Happened::Woken),
                Completion::Cancel => None,
                Completion::Datagrams { socket, more } => {
                    self.datagrams_came(DatagramsId(socket), more);
                    None
                }
                Completion::Readable { connection } => self.is_readable(connection),
            };
            if happened.is_some() {
                return happened;
            }
        }
    }

    fn received(
        &mut self,
        id: ConnectionId,
        result: Result<usize, i32>,
        buffer: Option<BufferId>,
        more: bool,
    ) -> Option<Happened> {
        let socket = self.sockets.get_mut(id).expect("a slot outlives its receive");
        let flight = &mut socket.state;
        flight.armed = more;
        if flight.closing {
            self.recycle(buffer);
            self.free_if_landed(id);
            return None;
        }
        match result {
            Ok(0) => {
                flight.wanted = false;
                self.recycle(buffer);
                Some(Happened::Ended(id, EndCause::EndOfStream))
            }
            Ok(length) => {
                if !more {
                    self.starved.push(id);
                }
                assert!(buffer.is_some() && self.lent.is_none(), "data comes in a buffer, one at a time");
                self.lent = buffer;
                Some(Happened::Received(id, length))
            }
            Err(errno) => {
                self.recycle(buffer);
                self.receive_failed(id, errno)
            }
        }
    }

    fn receive_failed(&mut self, id: ConnectionId, errno: i32) -> Option<Happened> {
        match errno {
            libc::ENOBUFS => {
                self.counters.out_of_buffers += 1;
                self.starved.push(id);
                None
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {
                self.arm(id);
                None
            }
            libc::EINVAL if self.ring.stop_limiting_bursts() => {
                self.arm(id);
                None
            }
            _ => Some(Happened::Ended(id, EndCause::Failed(errno))),
        }
    }

    /// Arms the receive, or listens, if that is wanted and neither is under way.
    fn arm(&mut self, id: ConnectionId) {
        let Some(Socket { fd, state }) = self.sockets.get_mut(id) else { return };
        if !state.wanted || state.armed || state.listening || state.closing {
            return;
        }
        if state.by_hand {
            state.listening = true;
            self.ring.listen_to_socket(id, fd.as_raw_fd());
        } else {
            state.armed = true;
            self.ring.receive(id, fd.as_raw_fd());
        }
        self.counters.rearmed += 1;
    }

    fn is_readable(&mut self, id: ConnectionId) -> Option<Happened> {
        let flight = &mut self.sockets.get_mut(id).expect("a slot outlives what listens to it").state;
        flight.listening = false;
        if flight.closing {
            self.free_if_landed(id);
            return None;
        }
        let is_asked_for = flight.wanted && flight.by_hand;
        self.starved.push(id);
        is_asked_for.then_some(Happened::Readable(id))
    }

    fn sent(&mut self, id: ConnectionId, result: Result<(), i32>, outgoing: Outgoing) -> Option<Happened> {
        let (mut buffer, sent_bytes, loan) = outgoing.into_parts();
        self.returned.extend(loan);
        let flight = &mut self.sockets.get_mut(id).expect("a slot outlives its send").state;
        flight.sending = false;
        if flight.closing {
            self.free_if_landed(id);
            return None;
        }
        match result {
            Ok(()) => {
                buffer.clear();
                Some(Happened::Sent(id, buffer, sent_bytes))
            }
            Err(errno) => Some(Happened::Ended(id, EndCause::Failed(errno))),
        }
    }

    fn may_send(&mut self, id: ConnectionId) -> bool {
        self.sockets.get_mut(id).is_some_and(|socket| !socket.state.closing)
    }

    fn begin_sending(&mut self, id: ConnectionId, outgoing: Outgoing) {
        let Socket { fd, state } = self.sockets.get_mut(id).expect("the caller has looked");
        assert!(!state.sending, "one send at a time per connection");
        state.sending = true;
        self.counters.sends += 1;
        self.ring.send(id, fd.as_raw_fd(), outgoing);
    }

    fn accepted(&mut self, number: u32, result: Result<OwnedFd, i32>, more: bool) -> Option<Happened> {
        let listener = &mut self.listeners[number as usize];
        let Listener::Accepting(fd) = listener else { return None };
        if !more {
            match result {
                Err(errno) if is_exhaustion(errno) => {
                    let Listener::Accepting(fd) = std::mem::replace(listener, Listener::Stopped) else {
                        unreachable!("matched above");
                    };
                    *listener = Listener::BackingOff(fd, Moment::now().after(ACCEPT_BACK_OFF));
                }
                _ => {
                    self.counters.rearmed += 1;
                    self.ring.accept(number, fd.as_raw_fd());
                }
            }
        }
        match result {
            Ok(stream) => Some(Happened::Accepted(stream, ListenerId(number))),
            Err(_) => {
                self.counters.accept_failures += 1;
                None
            }
        }
    }

    fn start(&mut self, fd: OwnedFd) -> ConnectionId {
        let raw = fd.as_raw_fd();
        let id = self.sockets.insert(fd, Flight { armed: true, wanted: true, ..Flight::default() });
        self.ring.receive(id, raw);
        id
    }

    fn bell_rang(&mut self, more: bool) -> Happened {
        self.waker.silence_bell();
        if !more {
            self.ring.listen_to_bell(self.waker.event_fd());
        }
        Happened::Woken
    }

    fn datagrams_came(&mut self, id: DatagramsId, more: bool) {
        self.datagrams.now_readable(id);
        if !more {
            self.ring.listen_to_datagrams(id.0, self.datagrams.fd(id));
        }
    }

    fn free_if_landed(&mut self, id: ConnectionId) {
        if self.sockets.get_mut(id).is_some_and(|socket| socket.state.landed()) {
            self.sockets.remove(id);
        }
    }

    fn recycle(&mut self, buffer: Option<BufferId>) {
        if let Some(id) = buffer {
            self.ring.give_back(id);
        }
    }

    /// Arms what waited: no more than there are buffers, or it would only fail again.
    fn feed_starved(&mut self) {
        let fed = self.starved.len().min(self.ring.free_buffers());
        for index in 0..fed {
            self.arm(self.starved[index]);
        }
        self.starved.drain(..fed);
    }

    fn has_work(&self) -> bool {
        self.datagrams.has_work() || !self.returned.is_empty() || !self.starved.is_empty()
    }

    /// Accepts again where the pause is over. Returns the time to the end of the nearest other pause.
    fn end_back_offs(&mut self) -> Option<Duration> {
        let mut nearest = None;
        for number in 0..self.listeners.len() {
            let Listener::BackingOff(_, until) = &self.listeners[number] else { continue };
            let left = until.since_ns(Moment::now());
            if left > 0 {
                let left = Duration::from_nanos(left);
                nearest = Some(nearest.map_or(left, |other: Duration| other.min(left)));
            } else if let Listener::BackingOff(fd, _) =
                std::mem::replace(&mut self.listeners[number], Listener::Stopped)
            {
                let name = u32::try_from(number).expect("listeners are few");
                self.ring.accept(name, fd.as_raw_fd());
                self.listeners[number] = Listener::Accepting(fd);
            }
        }
        nearest
    }
}

impl Io for Uring {
    fn new(settings: &IoSettings) -> io::Result<Self> {
        let mut ring = Ring::new(settings)?;
        let waker = Waker::new()?;
        waker.set_ring(ring.fd());
        ring.listen_to_bell(waker.event_fd());
        Ok(Self {
            ring,
            sockets: Sockets::new(),
            listeners: Vec::new(),
            datagrams: Datagrams::default(),
            starved: Vec::new(),
            returned: Vec::new(),
            lent: None,
            waker: Arc::new(waker),
            counters: IoCounters::default(),
        })
    }

    fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    fn listen(&mut self, listener: OwnedFd) -> io::Result<ListenerId> {
        let number = u32::try_from(self.listeners.len()).expect("listeners are few");
        self.ring.accept(number, listener.as_raw_fd());
        self.listeners.push(Listener::Accepting(listener));
        Ok(ListenerId(number))
    }

    fn stop_accepting(&mut self) {
        for number in 0..self.listeners.len() {
            self.ring.cancel_accept(u32::try_from(number).expect("listeners are few"));
            self.listeners[number] = Listener::Stopped;
        }
        self.datagrams.stop();
    }

    fn listen_datagrams(&mut self, socket: OwnedFd) -> io::Result<DatagramsId> {
        let id = self.datagrams.add(socket)?;
        self.ring.listen_to_datagrams(id.0, self.datagrams.fd(id));
        Ok(id)
    }

    fn send_datagram(&mut self, socket: DatagramsId, to: SocketAddr, data: &[u8]) -> bool {
        self.datagrams.send(socket, to, data)
    }

    fn adopt(&mut self, stream: OwnedFd) -> io::Result<ConnectionId> {
        Ok(self.start(stream))
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        let lent = self.lent.take();
        self.recycle(lent);
        self.ring.publish_buffers();
        self.feed_starved();
        let back_off = self.end_back_offs();
        let wait = match wait {
            Wait::Poll => None,
            Wait::AtMost(_) if self.has_work() => None,
            Wait::AtMost(time) => Some(back_off.map_or(time, |other| other.min(time))),
        };
        self.ring.enter(wait)?;
        self.datagrams.start_turn();
        self.counters.turns = self.ring.enters();
        self.counters.overflows = self.ring.overflows();
        Ok(())
    }

    fn next_event(&mut self) -> Option<Event<'_>> {
        let lent = self.lent.take();
        self.recycle(lent);
        let Some(happened) = self.step() else {
            let (socket, from, length) = self.datagrams.receive()?;
            return Some(Event::Datagram { socket, from, data: self.datagrams.bytes(length) });
        };
        Some(match happened {
            Happened::Accepted(stream, listener) => Event::Accepted { stream, listener },
            Happened::Received(connection, length) => {
                let id = self.lent.as_ref().expect("set with every `Received`");
                Event::Received { connection, data: self.ring.bytes(id, length) }
            }
            Happened::Sent(connection, buffer, sent_bytes) => Event::Sent { connection, buffer, sent_bytes },
            Happened::Returned(loan) => Event::Returned(loan),
            Happened::Readable(connection) => Event::Readable(connection),
            Happened::Ended(connection, cause) => Event::Ended { connection, cause },
            Happened::Woken => Event::Woken,
        })
    }

    fn send(&mut self, connection: ConnectionId, buffer: Vec<u8>) {
        if self.may_send(connection) {
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
        if self.may_send(connection) {
            self.begin_sending(connection, Outgoing::with_loan(buffer, loan, lent));
        } else {
            self.returned.push(loan);
        }
    }

    fn read_by_hand(&mut self, connection: ConnectionId, by_hand: bool) {
        let Some(Socket { state, .. }) = self.sockets.get_mut(connection) else { return };
        let was_by_hand = std::mem::replace(&mut state.by_hand, by_hand);
        if by_hand && !was_by_hand && state.armed {
            self.ring.cancel_receive(connection);
        }
        // What is under way now ends by itself, and then it is armed as it should be.
        self.arm(connection);
    }

    fn may_receive_now(&mut self, connection: ConnectionId) -> bool {
        let flight = self.sockets.get_mut(connection).map(|socket| socket.state);
        flight.is_some_and(|flight| flight.wanted && !flight.armed && !flight.listening && !flight.closing)
    }

    fn receive_into(&mut self, connection: ConnectionId, places: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let socket = self.sockets.get_mut(connection).filter(|socket| !socket.state.closing);
        let Some(Socket { fd, state }) = socket else {
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        };
        let received = crate::sockets::receive_now(fd, places);
        state.wanted &= !matches!(received, Ok(0));
        received
    }

    fn pause(&mut self, connection: ConnectionId) {
        let Some(Socket { state, .. }) = self.sockets.get_mut(connection) else { return };
        if std::mem::replace(&mut state.wanted, false) && state.armed {
            self.ring.cancel_receive(connection);
        }
    }

    fn resume(&mut self, connection: ConnectionId) {
        let Some(Socket { state, .. }) = self.sockets.get_mut(connection) else { return };
        state.wanted = true;
        // While the cancelled receive is still armed, its last completion arms the next one.
        self.arm(connection);
    }

    fn end_receiving(&mut self, connection: ConnectionId) {
        let Some(Socket { fd, .. }) = self.sockets.get_mut(connection) else { return };
        crate::sockets::shut_down_receive(fd);
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some(Socket { state, .. }) = self.sockets.get_mut(connection) else { return };
        state.closing = true;
        state.wanted = false;
        let flight = *state;
        // Closing the descriptor under an armed receive would tell the peer nothing: first both operations end. Shutting
        // the socket down instead would end them too, but leave a peer that still sends before a closed window.
        if flight.armed {
            self.ring.cancel_receive(connection);
        }
        if flight.listening {
            self.ring.stop_listening_to_socket(connection);
        }
        if flight.sending {
            self.ring.cancel_send(connection);
        }
        self.free_if_landed(connection);
    }

    fn peer(&self, connection: ConnectionId) -> Option<SockAddr> {
        self.sockets.peer(connection)
    }

    fn wake(&mut self, peer: &Waker) {
        self.counters.wakes += 1;
        match peer.ring() {
            Some(fd) => self.ring.ring_peer(fd),
            None => peer.ring_bell(),
        }
    }

    fn counters(&self) -> &IoCounters {
        &self.counters
    }

    fn connections(&self) -> usize {
        self.sockets.len()
    }
}
