//! Both backends against real sockets: the same tests, the same behaviour.
#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slabring_reactor::{
    ConnectionId, DatagramsId, EndCause, Epoll, Event, Io, IoCounters, IoSettings, LoanId, Uring, Wait, Waker,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sends back what it receives, one send at a time, and closes when the peer does.
#[derive(Default)]
struct Echo {
    peers: Vec<Peer>,
}

#[derive(Default)]
struct Peer {
    waiting: Vec<u8>,
    sending: bool,
    ended: bool,
}

impl Echo {
    /// A connection that has just been adopted.
    fn begin(&mut self, id: ConnectionId) {
        let slot = id.slot as usize;
        if self.peers.len() <= slot {
            self.peers.resize_with(slot + 1, Peer::default);
        }
        self.peers[slot] = Peer::default();
    }

    fn handle(&mut self, event: &Event<'_>) -> Option<ConnectionId> {
        let id = match *event {
            Event::Received { connection, .. }
            | Event::Sent { connection, .. }
            | Event::Ended { connection, .. } => connection,
            Event::Accepted { .. }
            | Event::Returned(_)
            | Event::Readable(_)
            | Event::Datagram { .. }
            | Event::Woken => return None,
        };
        let peer = &mut self.peers[id.slot as usize];
        match event {
            Event::Received { data, .. } => peer.waiting.extend_from_slice(data),
            Event::Sent { .. } => peer.sending = false,
            Event::Ended { cause: EndCause::EndOfStream, .. } => peer.ended = true,
            Event::Ended { .. } => *peer = Peer { ended: true, ..Peer::default() },
            Event::Accepted { .. }
            | Event::Returned(_)
            | Event::Readable(_)
            | Event::Datagram { .. }
            | Event::Woken => {}
        }
        Some(id)
    }

    fn answer(&mut self, io: &mut impl Io, id: ConnectionId) {
        let peer = &mut self.peers[id.slot as usize];
        if !peer.sending && !peer.waiting.is_empty() {
            peer.sending = true;
            io.send(id, std::mem::take(&mut peer.waiting));
        } else if peer.ended && !peer.sending {
            io.close(id);
        }
    }
}

struct EchoServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<IoCounters>>,
}

impl EchoServer {
    fn start<I: Io>(settings: IoSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (tell, hear) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut io = I::new(&settings).unwrap();
            io.listen(OwnedFd::from(listener)).unwrap();
            tell.send(io.waker()).unwrap();
            let mut echo = Echo::default();
            while !stopped.load(Ordering::Acquire) {
                io.turn(Wait::AtMost(PATIENCE)).unwrap();
                let mut touched = Vec::new();
                while let Some(event) = io.next_event() {
                    touched.extend(echo.handle(&event));
                    if let Event::Accepted { stream, .. } = event {
                        echo.begin(io.adopt(stream).unwrap());
                    }
                }
                touched.sort_by_key(|id| id.slot);
                touched.dedup();
                for id in touched {
                    echo.answer(&mut io, id);
                }
            }
            io.stop_accepting();
            io.turn(Wait::Poll).unwrap();
            *io.counters()
        });
        Self { address, stop, waker: hear.recv_timeout(PATIENCE).unwrap(), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn stop(mut self) -> IoCounters {
        self.stop.store(true, Ordering::Release);
        self.waker.wake_from_outside();
        self.thread.take().unwrap().join().unwrap()
    }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[4]
        })
        .collect()
}

fn echo_round(stream: &TcpStream, data: &[u8]) {
    let mut writer = stream.try_clone().unwrap();
    let copy = data.to_vec();
    let writing = std::thread::spawn(move || writer.write_all(&copy).unwrap());
    let mut back = vec![0; data.len()];
    (&*stream).read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == data, "the echo differs from what was sent");
}

fn many_connections_get_back_what_they_sent<I: Io>() {
    let server = EchoServer::start::<I>(IoSettings::default());
    let streams: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for (seed, stream) in (0u64..).zip(&streams) {
        for bytes in [1, 100, 4096, 4097, 300_000] {
            echo_round(stream, &noise(seed, bytes));
        }
    }
    drop(streams);
    let counters = server.stop();
    assert!(counters.sends >= 40 * 5);
}

fn two_tiny_buffers_starve_but_lose_nothing<I: Io>() {
    let settings = IoSettings { submissions: 8, receive_buffers: 2, receive_buffer_bytes: 512 };
    let server = EchoServer::start::<I>(settings);
    std::thread::scope(|scope| {
        for seed in 0..8u64 {
            let server = &server;
            scope.spawn(move || echo_round(&server.connect(), &noise(seed, 200_000)));
        }
    });
    server.stop();
}

/// More comes at once than a ring of eight completions holds, twice: the second time finds receives that the first may have
/// ended.
fn completions_that_overflow_their_ring_are_late_and_not_lost<I: Io>() -> IoCounters {
    const CONNECTIONS: usize = 64;
    let mut io = I::new(&IoSettings { submissions: 1, ..IoSettings::default() }).unwrap();
    let mut peers = Vec::new();
    let mut ids = Vec::new();
    for number in 0..CONNECTIONS {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&noise(number as u64, 100)).unwrap();
        // There is no room to submit more than one at a time, and nobody looks at what they bring.
        ids.push(io.adopt(OwnedFd::from(ours)).unwrap());
        peers.push(theirs);
    }
    let mut received = vec![Vec::new(); CONNECTIONS];
    for bytes in [100, 200] {
        turn_until(&mut io, |event| {
            if let Event::Received { connection, data } = event {
                let number = ids.iter().position(|&id| id == connection).unwrap();
                received[number].extend_from_slice(data);
            }
            received.iter().all(|data| data.len() == bytes)
        });
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.write_all(&noise(number as u64, 200)[100..]).unwrap();
        }
    }
    assert!((0..CONNECTIONS).all(|number| received[number] == noise(number as u64, 200)));
    *io.counters()
}

#[test]
fn completions_overflow_in_uring() {
    let counters = completions_that_overflow_their_ring_are_late_and_not_lost::<Uring>();
    assert!(counters.overflows > 0, "the test provokes nothing: {counters:?}");
}

#[test]
fn as_much_at_once_in_epoll() {
    completions_that_overflow_their_ring_are_late_and_not_lost::<Epoll>();
}

fn a_half_closed_peer_still_gets_its_echo_and_then_the_end<I: Io>() {
    let server = EchoServer::start::<I>(IoSettings::default());
    let mut stream = server.connect();
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back, b"last words");
    server.stop();
}

fn slots_are_reused_by_many_short_connections<I: Io>() {
    let server = EchoServer::start::<I>(IoSettings::default());
    for seed in 0..300 {
        echo_round(&server.connect(), &noise(seed, 50));
    }
    server.stop();
}

fn a_reset_peer_ends_with_an_error_and_others_go_on<I: Io>() {
    let server = EchoServer::start::<I>(IoSettings::default());
    let stays = server.connect();
    for seed in 0..20 {
        let stream = server.connect();
        (&stream).write_all(&noise(seed, 100_000)).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        echo_round(&stays, &noise(seed, 10_000));
    }
    server.stop();
}

/// Turns until `until` has seen enough, with a bound.
fn turn_until<I: Io>(io: &mut I, mut until: impl FnMut(Event<'_>) -> bool) {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        io.turn(Wait::AtMost(Duration::from_millis(100))).unwrap();
        while let Some(event) = io.next_event() {
            if until(event) {
                return;
            }
        }
    }
    panic!("nothing came within {PATIENCE:?}");
}

fn pair<I: Io>() -> (I, ConnectionId, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut io = I::new(&IoSettings::default()).unwrap();
    let id = io.adopt(OwnedFd::from(listener.accept().unwrap().0)).unwrap();
    (io, id, peer)
}

fn a_paused_connection_is_silent_until_resumed_and_loses_nothing<I: Io>() {
    let (mut io, id, mut peer) = pair::<I>();
    let sent = noise(7, 50_000);
    let mut got = Vec::new();
    io.pause(id);
    io.turn(Wait::Poll).unwrap();
    while io.next_event().is_some() {}
    peer.write_all(&sent).unwrap();
    for _ in 0..5 {
        io.turn(Wait::AtMost(Duration::from_millis(20))).unwrap();
        while let Some(event) = io.next_event() {
            assert!(!matches!(event, Event::Received { .. }), "paused before anything was sent");
        }
    }
    io.resume(id);
    turn_until(&mut io, |event| {
        if let Event::Received { data, .. } = event {
            got.extend_from_slice(data);
        }
        got.len() == sent.len()
    });
    assert!(got == sent);
    // Pausing and resuming within one turn must not lose the receive either.
    io.pause(id);
    io.resume(id);
    peer.write_all(b"more").unwrap();
    turn_until(&mut io, |event| matches!(event, Event::Received { data: b"more", .. }));
}

fn who_is_paused_at_its_first_bytes_is_heard_no_further_than_a_burst<I: Io>() {
    const BURST_BYTES_MAX: usize = 20 << 10;
    let (mut io, id, mut peer) = pair::<I>();
    let sent = noise(3, 1 << 20);
    let writing = std::thread::spawn({
        let sent = sent.clone();
        move || peer.write_all(&sent).map(|()| peer)
    });
    // All that the sockets hold is there at once.
    std::thread::sleep(Duration::from_millis(100));
    let mut got = Vec::new();
    io.turn(Wait::AtMost(PATIENCE)).unwrap();
    for _ in 0..5 {
        while let Some(event) = io.next_event() {
            let Event::Received { data, .. } = event else { panic!("{event:?}") };
            got.extend_from_slice(data);
        }
        io.pause(id);
        io.turn(Wait::AtMost(Duration::from_millis(20))).unwrap();
    }
    assert!((1..=BURST_BYTES_MAX).contains(&got.len()), "{} bytes", got.len());
    io.resume(id);
    turn_until(&mut io, |event| {
        if let Event::Received { data, .. } = event {
            got.extend_from_slice(data);
        }
        got.len() == sent.len()
    });
    assert!(got == sent);
    writing.join().unwrap().unwrap();
}

/// Reads what there is by hand, in two places at once.
fn read<I: Io>(io: &mut I, id: ConnectionId, got: &mut Vec<u8>) -> std::io::Result<usize> {
    let (mut first, mut second) = ([0; 1_000], [0; 30_000]);
    let bytes = io.receive_into(id, &mut [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)])?;
    got.extend_from_slice(&[&first[..], &second].concat()[..bytes]);
    Ok(bytes)
}

fn bytes_that_are_read_by_hand_come_in_order_with_the_others_and_so_does_the_end<I: Io>() {
    let (mut io, id, mut peer) = pair::<I>();
    let sent = noise(4, 3_000_000);
    let writing = std::thread::spawn({
        let sent = sent.clone();
        move || {
            peer.write_all(&sent).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer
        }
    });
    let (mut got, mut ended, mut readable, mut turns) = (Vec::new(), false, 0, 0);
    while !ended {
        io.turn(Wait::AtMost(PATIENCE)).unwrap();
        let mut events = Vec::new();
        while let Some(event) = io.next_event() {
            match event {
                Event::Received { data, .. } => got.extend_from_slice(data),
                Event::Readable(id) => events.push(id),
                Event::Ended { cause: EndCause::EndOfStream, .. } => ended = true,
                other => panic!("{other:?}"),
            }
        }
        for id in events {
            readable += 1;
            match read(&mut io, id, &mut got) {
                Ok(bytes) => ended = bytes == 0,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        if !ended && turns % 3 == 1 && io.may_receive_now(id) {
            match read(&mut io, id, &mut got) {
                Ok(bytes) => ended = bytes == 0,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        turns += 1;
        // Both ways in turn, now and then within one turn, and not at all for a while.
        io.read_by_hand(id, turns % 7 < 5);
        if turns % 11 == 0 {
            io.pause(id);
            io.read_by_hand(id, turns % 3 == 0);
            io.turn(Wait::Poll).unwrap();
            while let Some(event) = io.next_event() {
                if let Event::Received { data, .. } = event {
                    got.extend_from_slice(data);
                }
            }
            io.resume(id);
        }
    }
    assert!(got == sent && readable > 5, "{} bytes, {readable} times readable", got.len());
    writing.join().unwrap();
}

fn a_connection_that_is_read_by_hand_can_be_closed_at_any_time<I: Io>() {
    for ends in [false, true] {
        let (mut io, id, mut peer) = pair::<I>();
        io.read_by_hand(id, true);
        io.turn(Wait::Poll).unwrap();
        while io.next_event().is_some() {}
        if ends {
            peer.write_all(b"bytes").unwrap();
            turn_until(&mut io, |event| matches!(event, Event::Readable(_)));
        }
        io.close(id);
        assert!(read(&mut io, id, &mut Vec::new()).is_err());
        while io.connections() > 0 {
            io.turn(Wait::AtMost(Duration::from_millis(10))).unwrap();
            if let Some(event) = io.next_event() {
                panic!("{event:?} of a connection that is closed");
            }
        }
        assert!(!matches!(peer.read(&mut [0]), Ok(1..)));
    }
}

fn what_is_lent_leaves_in_its_place_and_is_returned_once<I: Io>() {
    let (mut io, id, mut peer) = pair::<I>();
    let (lent, more) = (noise(1, 3_000_000), noise(2, 100));
    let slices = [(1, &lent[..1_000]), (1, &lent[1_000..]), (2, &more[..])];
    io.send_lent(id, b"<|>".to_vec(), LoanId(5), slices.into_iter());
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 3_000_103];
        peer.read_exact(&mut got).unwrap();
        (peer, got)
    });
    let (mut returned, mut sent) = (0, 0);
    turn_until(&mut io, |event| {
        match event {
            Event::Returned(LoanId(5)) => returned += 1,
            Event::Sent { buffer, sent_bytes, .. } => {
                assert!(buffer.is_empty());
                sent += sent_bytes;
            }
            other => panic!("{other:?}"),
        }
        returned == 1 && sent > 0
    });
    let (_peer, got) = reader.join().unwrap();
    assert_eq!(sent, got.len());
    assert!(got == [b"<", &lent[..], b"|", &more[..], b">"].concat());
}

fn a_loan_is_returned_once_after_a_close_and_when_the_connection_is_gone<I: Io>() {
    let (mut io, id, peer) = pair::<I>();
    // More than any socket buffer takes.
    let lent = noise(1, 30_000_000);
    io.send_lent(id, Vec::new(), LoanId(1), std::iter::once((0, &lent[..])));
    let mut returned = Vec::new();
    for _ in 0..3 {
        io.turn(Wait::AtMost(Duration::from_millis(20))).unwrap();
        while let Some(event) = io.next_event() {
            assert!(
                !matches!(event, Event::Returned(_) | Event::Sent { .. }),
                "the peer has not read: {event:?}"
            );
        }
    }
    io.close(id);
    io.send_lent(id, Vec::new(), LoanId(2), std::iter::once((0, &lent[..])));
    turn_until(&mut io, |event| {
        match event {
            Event::Returned(loan) => returned.push(loan.0),
            other => panic!("{other:?} of a connection that is gone"),
        }
        returned.len() == 2
    });
    returned.sort_unstable();
    assert_eq!(returned, [1, 2]);
    io.turn(Wait::AtMost(Duration::from_millis(20))).unwrap();
    assert!(io.next_event().is_none());
    drop(peer);
}

fn a_loan_is_returned_when_the_peer_resets<I: Io>() {
    let (mut io, id, peer) = pair::<I>();
    let lent = noise(1, 30_000_000);
    io.send_lent(id, Vec::new(), LoanId(1), std::iter::once((0, &lent[..])));
    io.turn(Wait::Poll).unwrap();
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    let (mut returned, mut ended) = (false, false);
    turn_until(&mut io, |event| {
        match event {
            Event::Returned(LoanId(1)) => returned = true,
            Event::Ended { cause: EndCause::Failed(_), .. } => ended = true,
            // Whoever asks first is told of the reset, be it the receive or the send.
            Event::Ended { cause: EndCause::EndOfStream, .. } => {}
            other => panic!("{other:?}"),
        }
        returned && ended
    });
    io.close(id);
}

fn closing_sends_the_peer_an_end_even_while_a_receive_is_armed<I: Io>() {
    let (mut io, id, mut peer) = pair::<I>();
    io.turn(Wait::Poll).unwrap();
    io.close(id);
    io.send(id, b"too late".to_vec());
    for _ in 0..5 {
        io.turn(Wait::AtMost(Duration::from_millis(20))).unwrap();
        assert!(io.next_event().is_none(), "a closed connection is silent");
    }
    assert_eq!(io.connections(), 0);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

fn a_peer_that_still_sends_when_it_is_closed_is_reset_at_once<I: Io>() {
    let (mut io, id, mut peer) = pair::<I>();
    peer.set_write_timeout(Some(PATIENCE)).unwrap();
    let sending = std::thread::spawn(move || {
        let start = Instant::now();
        while start.elapsed() < PATIENCE / 2 {
            if peer.write_all(&[0; 40_000]).is_err() {
                return true;
            }
        }
        false
    });
    turn_until(&mut io, |event| matches!(event, Event::Received { .. }));
    io.close(id);
    let start = Instant::now();
    while io.connections() > 0 && start.elapsed() < PATIENCE {
        io.turn(Wait::AtMost(Duration::from_millis(20))).unwrap();
        while io.next_event().is_some() {}
    }
    assert!(sending.join().unwrap(), "the peer was left before a closed window");
}

fn ending_the_receive_delivers_what_has_come_and_then_the_end<I: Io>() {
    let (mut io, id, mut peer) = pair::<I>();
    let sent = noise(9, 300_000);
    io.turn(Wait::Poll).unwrap();
    while io.next_event().is_some() {}
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        peer.write_all(&copy).unwrap();
        peer
    });
    let mut got = Vec::new();
    let mut ended = false;
    let start = Instant::now();
    while !ended && start.elapsed() < PATIENCE {
        io.turn(Wait::AtMost(Duration::from_millis(20))).unwrap();
        while let Some(event) = io.next_event() {
            match event {
                Event::Received { data, .. } => got.extend_from_slice(data),
                Event::Ended { cause: EndCause::EndOfStream, .. } => ended = true,
                _ => {}
            }
        }
        if got.len() == sent.len() {
            io.end_receiving(id);
        }
    }
    assert!(ended && got == sent);
    drop(writing.join().unwrap());
}

fn a_reactor_that_stopped_accepting_refuses_connections<I: Io>() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut io = I::new(&IoSettings::default()).unwrap();
    io.listen(OwnedFd::from(listener)).unwrap();
    let first = TcpStream::connect(address).unwrap();
    turn_until(&mut io, |event| matches!(event, Event::Accepted { .. }));
    io.stop_accepting();
    for _ in 0..5 {
        io.turn(Wait::AtMost(Duration::from_millis(5))).unwrap();
        while io.next_event().is_some() {}
    }
    assert!(TcpStream::connect(address).is_err(), "the port is still open");
    drop(first);
}

fn a_large_send_waits_for_a_slow_reader_and_arrives_whole<I: Io>() {
    let (mut io, id, mut peer) = pair::<I>();
    let data = noise(3, 16 << 20);
    io.send(id, data.clone());
    io.turn(Wait::AtMost(Duration::from_millis(50))).unwrap();
    let reader = std::thread::spawn(move || {
        let mut back = vec![0; 16 << 20];
        peer.read_exact(&mut back).unwrap();
        back
    });
    turn_until(&mut io, |event| match event {
        Event::Sent { connection, buffer, sent_bytes } => {
            assert_eq!((connection, buffer.len(), sent_bytes), (id, 0, 16 << 20));
            true
        }
        _ => false,
    });
    assert!(reader.join().unwrap() == data);
}

fn closing_a_connection_that_does_not_read_lets_go_of_its_socket<I: Io>() {
    let (mut io, id, mut peer) = pair::<I>();
    io.send(id, noise(4, 16 << 20));
    // Some of it leaves, and the rest has to wait for the peer.
    (0..5).for_each(|_| io.turn(Wait::AtMost(Duration::from_millis(10))).unwrap());
    io.close(id);
    for _ in 0..5 {
        io.turn(Wait::AtMost(Duration::from_millis(10))).unwrap();
        assert!(io.next_event().is_none(), "a closed connection is silent");
    }
    assert_eq!(io.connections(), 0, "the socket is still open");
    assert!(peer.read(&mut [0; 100]).unwrap() > 0, "something had left");
}

fn another_thread_ends_a_long_wait<I: Io>() {
    let mut io = I::new(&IoSettings::default()).unwrap();
    for _ in 0..3 {
        let waker = io.waker();
        let start = Instant::now();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            waker.wake_from_outside();
        });
        turn_until(&mut io, |event| matches!(event, Event::Woken));
        assert!(start.elapsed() < PATIENCE / 2);
        other.join().unwrap();
    }
}

fn two_reactors_wake_each_other_without_losing_a_wake<I: Io + 'static>() {
    const HOPS: u32 = 2000;
    let (mut to_b, mut at_b) = slabring_reactor::mailbox::mailbox::<u32>(4);
    let (mut to_a, mut at_a) = slabring_reactor::mailbox::mailbox::<u32>(4);
    let (tell_a, hear_b) = std::sync::mpsc::channel();
    let (tell_b, hear_a) = std::sync::mpsc::channel();
    let play = |mut io: I,
                peer: Arc<Waker>,
                to: &mut slabring_reactor::mailbox::Sender<u32>,
                at: &mut slabring_reactor::mailbox::Receiver<u32>| {
        let waker = io.waker();
        let mut seen = 0;
        while seen + 1 < HOPS {
            waker.prepare_sleep();
            let wait = if at.is_empty() { Wait::AtMost(PATIENCE) } else { Wait::Poll };
            let start = Instant::now();
            io.turn(wait).unwrap();
            assert!(start.elapsed() < PATIENCE, "a wake was lost");
            waker.awake();
            while io.next_event().is_some() {}
            while let Some(hop) = at.take() {
                seen = hop;
                to.stage(hop + 1).unwrap();
                to.publish();
                if peer.must_wake() {
                    io.wake(&peer);
                }
            }
        }
        io.turn(Wait::Poll).unwrap();
        // Keep the ring until the peer's last wake has found it.
        std::thread::sleep(Duration::from_millis(50));
    };
    let b = std::thread::spawn(move || {
        let io = I::new(&IoSettings::default()).unwrap();
        tell_b.send(io.waker()).unwrap();
        play(io, hear_b.recv().unwrap(), &mut to_a, &mut at_b);
    });
    let io = I::new(&IoSettings::default()).unwrap();
    tell_a.send(io.waker()).unwrap();
    to_b.stage(0).unwrap();
    to_b.publish();
    let peer = hear_a.recv().unwrap();
    peer.wake_from_outside();
    play(io, peer, &mut to_b, &mut at_a);
    b.join().unwrap();
}

/// A reactor that receives datagrams, and a peer of it.
fn datagram_pair<I: Io>() -> (I, DatagramsId, UdpSocket) {
    let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.connect(ours.local_addr().unwrap()).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut io = I::new(&IoSettings::default()).unwrap();
    let id = io.listen_datagrams(OwnedFd::from(ours)).unwrap();
    (io, id, peer)
}

fn datagrams_of_any_size_come_whole_with_their_sender_and_are_answered<I: Io>() {
    let (mut io, id, peer) = datagram_pair::<I>();
    for (seed, bytes) in (0..).zip([1, 0, 1400, 9000, 60_000]) {
        let sent = noise(seed, bytes);
        peer.send(&sent).unwrap();
        let mut sender = None;
        turn_until(&mut io, |event| match event {
            Event::Datagram { socket, from, data } => {
                assert!(socket == id && data == sent);
                sender = Some(from);
                true
            }
            _ => false,
        });
        assert_eq!(sender, peer.local_addr().ok());
        assert!(io.send_datagram(id, sender.unwrap(), &sent));
        let mut back = vec![0; 64 << 10];
        let length = peer.recv(&mut back).unwrap();
        assert!(back[..length] == sent);
    }
}

fn a_burst_of_datagrams_is_received_in_order_and_holds_up_no_connection<I: Io>() {
    const BURST: u32 = 150;
    let (mut io, _, peer) = datagram_pair::<I>();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    io.adopt(OwnedFd::from(listener.accept().unwrap().0)).unwrap();
    for number in 0..BURST {
        peer.send(&number.to_le_bytes()).unwrap();
    }
    client.write_all(b"hello").unwrap();
    let (mut next, mut heard) = (0_u32, false);
    turn_until(&mut io, |event| {
        match event {
            Event::Datagram { data, .. } => {
                assert_eq!(data, next.to_le_bytes());
                next += 1;
            }
            Event::Received { data, .. } => {
                assert_eq!(data, b"hello");
                heard = true;
            }
            _ => {}
        }
        next == BURST && heard
    });
}

fn a_reply_that_finds_nobody_does_not_end_the_socket<I: Io>() {
    let (mut io, id, peer) = datagram_pair::<I>();
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for _ in 0..3 {
        io.send_datagram(id, gone, b"anybody?");
        io.turn(Wait::AtMost(Duration::from_millis(10))).unwrap();
        while io.next_event().is_some() {}
    }
    peer.send(b"here").unwrap();
    turn_until(&mut io, |event| matches!(event, Event::Datagram { data: b"here", .. }));
    io.stop_accepting();
    peer.send(b"late").unwrap();
    for _ in 0..3 {
        io.turn(Wait::AtMost(Duration::from_millis(10))).unwrap();
        while let Some(event) = io.next_event() {
            assert!(!matches!(event, Event::Datagram { .. }), "received after the end");
        }
    }
}

macro_rules! on_both_backends {
    ($($test:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $test() { super::$test::<super::Uring>(); })*
        }
        mod epoll {
            $(#[test] fn $test() { super::$test::<super::Epoll>(); })*
        }
    };
}

on_both_backends!(
    many_connections_get_back_what_they_sent,
    two_tiny_buffers_starve_but_lose_nothing,
    a_half_closed_peer_still_gets_its_echo_and_then_the_end,
    slots_are_reused_by_many_short_connections,
    a_reset_peer_ends_with_an_error_and_others_go_on,
    a_paused_connection_is_silent_until_resumed_and_loses_nothing,
    who_is_paused_at_its_first_bytes_is_heard_no_further_than_a_burst,
    bytes_that_are_read_by_hand_come_in_order_with_the_others_and_so_does_the_end,
    a_connection_that_is_read_by_hand_can_be_closed_at_any_time,
    closing_sends_the_peer_an_end_even_while_a_receive_is_armed,
    a_peer_that_still_sends_when_it_is_closed_is_reset_at_once,
    ending_the_receive_delivers_what_has_come_and_then_the_end,
    a_reactor_that_stopped_accepting_refuses_connections,
    a_large_send_waits_for_a_slow_reader_and_arrives_whole,
    closing_a_connection_that_does_not_read_lets_go_of_its_socket,
    what_is_lent_leaves_in_its_place_and_is_returned_once,
    a_loan_is_returned_once_after_a_close_and_when_the_connection_is_gone,
    a_loan_is_returned_when_the_peer_resets,
    another_thread_ends_a_long_wait,
    two_reactors_wake_each_other_without_losing_a_wake,
    datagrams_of_any_size_come_whole_with_their_sender_and_are_answered,
    a_burst_of_datagrams_is_received_in_order_and_holds_up_no_connection,
    a_reply_that_finds_nobody_does_not_end_the_socket,
);
