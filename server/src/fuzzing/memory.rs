//! A kernel made of memory: connections whose other ends are byte vectors. It checks what a reactor may expect of its owner.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut, Read as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use slabring_reactor::{
    ConnectionId, DatagramsId, EndCause, Event, Io, IoCounters, IoSettings, ListenerId, LoanId, Wait, Waker,
};
use socket2::SockAddr;

/// Bytes that come at once, as in a ring's buffer.
const RECEIVE_BYTES: usize = 4096;
/// Such pieces of one connection in one turn.
const RECEIVES_PER_TURN: usize = 4;

/// See the module.
pub(super) struct Memory {
    waker: Arc<Waker>,
    counters: IoCounters,
    pipes: Vec<Pipe>,
    /// What clients had read whose slots others have now.
    gone: Vec<(ConnectionId, Vec<u8>)>,
    events: VecDeque<Happening>,
    /// Who was accepted and not taken over yet.
    accepted: Option<ConnectionId>,
    /// A stream for [`Event::Accepted`], which nobody reads from.
    nothing: OwnedFd,
    /// What the last event lent out.
    lent: Vec<u8>,
    was_busy: bool,
    /// What somebody else does when a turn has begun, before its first event is looked at.
    meanwhile: Option<Box<dyn FnOnce()>>,
}

/// One connection.
#[derive(Default)]
struct Pipe {
    generation: u32,
    open: bool,
    /// What the client has sent and the server has not received.
    incoming: VecDeque<u8>,
    end: Option<EndCause>,
    /// What the client has read.
    output: Vec<u8>,
    reads: bool,
    paused: bool,
    by_hand: bool,
    in_flight: Option<Vec<u8>>,
}

/// An [`Event`] that owns what it brings.
enum Happening {
    Accepted(ConnectionId),
    Received(ConnectionId, Vec<u8>),
    Sent(ConnectionId, Vec<u8>, usize),
    Ended(ConnectionId, EndCause),
    Returned(LoanId),
    Readable(ConnectionId),
}

impl Happening {
    /// Whose it is; a loan is returned whoever is gone.
    fn connection(&self) -> Option<ConnectionId> {
        match *self {
            Self::Accepted(id)
            | Self::Received(id, _)
            | Self::Readable(id)
            | Self::Sent(id, ..)
            | Self::Ended(id, _) => Some(id),
            Self::Returned(_) => None,
        }
    }
}

impl Memory {
    /// A new client.
    pub(super) fn connect(&mut self) -> ConnectionId {
        let free = self.pipes.iter().position(|pipe| !pipe.open);
        let slot = free.unwrap_or_else(|| {
            self.pipes.push(Pipe::default());
            self.pipes.len() - 1
        });
        let slot_number = u32::try_from(slot).expect("few clients");
        let generation = self.pipes[slot].generation + 1;
        let new = Pipe { generation, open: true, reads: true, ..Pipe::default() };
        let old = std::mem::replace(&mut self.pipes[slot], new);
        self.gone.push((ConnectionId { slot: slot_number, generation: old.generation }, old.output));
        let id = ConnectionId { slot: slot_number, generation };
        self.events.push_back(Happening::Accepted(id));
        id
    }

    /// The client sends.
    pub(super) fn deliver(&mut self, id: ConnectionId, data: &[u8]) {
        if let Some(pipe) = self.pipe(id) {
            pipe.incoming.extend(data);
        }
    }

    /// The client sends no more, or is gone.
    pub(super) fn end(&mut self, id: ConnectionId, cause: EndCause) {
        if let Some(pipe) = self.pipe(id) {
            pipe.end = Some(cause);
        }
    }

    /// Whether the client reads.
    pub(super) fn set_reading(&mut self, id: ConnectionId, reads: bool) {
        if let Some(pipe) = self.pipe(id) {
            pipe.reads = reads;
        }
    }

    /// What the client has read.
    pub(super) fn output(&self, id: ConnectionId) -> &[u8] {
        let pipe = &self.pipes[id.slot as usize];
        let mut gone = self.gone.iter().filter(|(gone, _)| *gone == id);
        if pipe.generation == id.generation {
            &pipe.output
        } else {
            gone.next().map_or(&[], |(_, output)| output)
        }
    }

    /// Has something happen in the middle of the next turn.
    #[cfg(test)]
    pub(super) fn meanwhile(&mut self, happens: impl FnOnce() + 'static) {
        self.meanwhile = Some(Box::new(happens));
    }

    /// Who is left, for a person.
    pub(super) fn describe(&self) -> String {
        let left = self.pipes.iter().filter(|pipe| pipe.open);
        left.map(|pipe| format!("paused {} in flight {} ", pipe.paused, pipe.in_flight.is_some())).collect()
    }

    /// Whether the server has closed it.
    pub(super) fn is_closed(&self, id: ConnectionId) -> bool {
        let pipe = &self.pipes[id.slot as usize];
        pipe.generation != id.generation || !pipe.open
    }

    /// Whether anything has happened since the last call.
    pub(super) fn take_was_busy(&mut self) -> bool {
        std::mem::take(&mut self.was_busy) || !self.events.is_empty()
    }

    fn pipe(&mut self, id: ConnectionId) -> Option<&mut Pipe> {
        self.pipes.get_mut(id.slot as usize).filter(|pipe| pipe.open && pipe.generation == id.generation)
    }
}

impl Pipe {
    fn happen(&mut self, id: ConnectionId, events: &mut VecDeque<Happening>) {
        if let Some(EndCause::Failed(_)) = self.end {
            self.incoming.clear();
        }
        let has_something = self.end.is_some() || !self.incoming.is_empty();
        if self.by_hand && !self.paused && has_something {
            events.push_back(Happening::Readable(id));
        }
        for _ in 0..RECEIVES_PER_TURN {
            if self.paused || self.by_hand || self.incoming.is_empty() {
                break;
            }
            let size = self.incoming.len().min(RECEIVE_BYTES);
            events.push_back(Happening::Received(id, self.incoming.drain(..size).collect()));
        }
        if self.reads
            && let Some(mut buffer) = self.in_flight.take()
        {
            let size = buffer.len();
            self.output.append(&mut buffer);
            events.push_back(Happening::Sent(id, buffer, size));
        }
        // Who is not read from is missed when something is sent to it.
        let fails = matches!(self.end, Some(EndCause::Failed(_))) && self.in_flight.is_some();
        if (self.incoming.is_empty() && !self.paused && !self.by_hand || fails)
            && let Some(cause) = self.end.take()
        {
            events.push_back(Happening::Ended(id, cause));
        }
    }
}

impl Io for Memory {
    fn new(_: &IoSettings) -> io::Result<Self> {
        Ok(Self {
            waker: Arc::new(Waker::new()?),
            counters: IoCounters::default(),
            pipes: Vec::new(),
            gone: Vec::new(),
            events: VecDeque::new(),
            accepted: None,
            nothing: File::open("/dev/null")?.into(),
            lent: Vec::new(),
            was_busy: false,
            meanwhile: None,
        })
    }

    fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    fn listen(&mut self, _: OwnedFd) -> io::Result<ListenerId> {
        unreachable!("nobody listens in memory")
    }

    fn listen_datagrams(&mut self, _: OwnedFd) -> io::Result<DatagramsId> {
        unreachable!("nobody listens in memory")
    }

    fn send_datagram(&mut self, _: DatagramsId, _: SocketAddr, _: &[u8]) -> bool {
        unreachable!("there are no datagrams in memory")
    }

    fn stop_accepting(&mut self) {}

    fn adopt(&mut self, _: OwnedFd) -> io::Result<ConnectionId> {
        Ok(self.accepted.take().expect("only who was accepted here is taken over"))
    }

    fn turn(&mut self, _: Wait) -> io::Result<()> {
        self.counters.turns += 1;
        let Self { pipes, events, .. } = self;
        for (slot, pipe) in pipes.iter_mut().enumerate().filter(|(_, pipe)| pipe.open) {
            let slot = u32::try_from(slot).expect("few clients");
            pipe.happen(ConnectionId { slot, generation: pipe.generation }, events);
        }
        self.was_busy |= !self.events.is_empty();
        Ok(())
    }

    fn next_event(&mut self) -> Option<Event<'_>> {
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile();
        }
        let happening = self.events.pop_front()?;
        Some(match happening {
            Happening::Accepted(connection) => {
                self.accepted = Some(connection);
                let stream = self.nothing.try_clone().expect("a fuzzer has few files");
                Event::Accepted { stream, listener: ListenerId(0) }
            }
            Happening::Received(connection, data) => {
                self.lent = data;
                Event::Received { connection, data: &self.lent }
            }
            Happening::Sent(connection, buffer, sent_bytes) => {
                assert!(buffer.is_empty());
                Event::Sent { connection, buffer, sent_bytes }
            }
            Happening::Ended(connection, cause) => Event::Ended { connection, cause },
            Happening::Returned(loan) => Event::Returned(loan),
            Happening::Readable(connection) => Event::Readable(connection),
        })
    }

    fn send(&mut self, connection: ConnectionId, buffer: Vec<u8>) {
        assert!(!buffer.is_empty(), "nothing is sent");
        self.was_busy = true;
        let unreported =
            self.events.iter().any(|event| matches!(event, Happening::Sent(id, ..) if *id == connection));
        if let Some(pipe) = self.pipe(connection) {
            assert!(pipe.in_flight.is_none() && !unreported, "one send at a time");
            pipe.in_flight = Some(buffer);
        }
    }

    fn send_lent<'a>(
        &mut self,
        connection: ConnectionId,
        buffer: Vec<u8>,
        loan: LoanId,
        lent: impl Iterator<Item = (usize, &'a [u8])>,
    ) {
        let (mut joined, mut from) = (Vec::new(), 0);
        for (place, slice) in lent {
            joined.extend_from_slice(&buffer[from..place]);
            joined.extend_from_slice(slice);
            from = place;
        }
        joined.extend_from_slice(&buffer[from..]);
        self.send(connection, joined);
        self.events.push_back(Happening::Returned(loan));
    }

    fn read_by_hand(&mut self, connection: ConnectionId, by_hand: bool) {
        self.was_busy = true;
        self.pipe(connection).expect("the owner knows who is open").by_hand = by_hand;
    }

    fn may_receive_now(&mut self, connection: ConnectionId) -> bool {
        let is_handed_out =
            |event: &Happening| !matches!(event, Happening::Received(id, _) if *id == connection);
        let has_all = self.events.iter().all(is_handed_out);
        let pipe = self.pipe(connection).expect("the owner knows who is open");
        has_all && !pipe.paused && !pipe.incoming.is_empty()
    }

    fn receive_into(&mut self, connection: ConnectionId, places: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let pipe = self.pipe(connection).expect("the owner knows who is open");
        if pipe.incoming.is_empty() {
            return match pipe.end.take() {
                None => Err(io::Error::from(io::ErrorKind::WouldBlock)),
                Some(EndCause::EndOfStream) => Ok(0),
                Some(EndCause::Failed(errno)) => Err(io::Error::from_raw_os_error(errno)),
            };
        }
        let mut received = 0;
        for place in places {
            // What a deque has may lie in two parts, and it gives one at a time.
            let mut filled = 0;
            while filled < place.len() && !pipe.incoming.is_empty() {
                filled += pipe.incoming.read(&mut place[filled..])?;
            }
            received += filled;
        }
        Ok(received)
    }

    fn pause(&mut self, connection: ConnectionId) {
        self.was_busy = true;
        self.pipe(connection).expect("the owner knows who is open").paused = true;
    }

    fn resume(&mut self, connection: ConnectionId) {
        self.was_busy = true;
        self.pipe(connection).expect("the owner knows who is open").paused = false;
    }

    fn end_receiving(&mut self, connection: ConnectionId) {
        self.end(connection, EndCause::EndOfStream);
    }

    fn close(&mut self, connection: ConnectionId) {
        self.was_busy = true;
        self.events.retain(|event| event.connection() != Some(connection));
        self.pipe(connection).expect("closed once").open = false;
    }

    fn peer(&self, _: ConnectionId) -> Option<SockAddr> {
        None
    }

    fn wake(&mut self, _: &Waker) {}

    fn counters(&self) -> &IoCounters {
        &self.counters
    }

    fn connections(&self) -> usize {
        self.pipes.iter().filter(|pipe| pipe.open).count()
    }
}
