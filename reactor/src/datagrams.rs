//! UDP for both backends: plain non-blocking calls on sockets whose readiness the backend reports. A datagram is never waited
//! for and never kept: what the kernel does not take at once is dropped, as the network might have dropped it.
//!
//! Each datagram costs a system call, unlike everything else in a turn; UDP is for small requests and off unless asked for.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::io::DatagramsId;

/// Longest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// Datagrams received in one turn before others are heard.
const RECEIVES_PER_TURN: usize = 64;

struct Socket {
    socket: UdpSocket,
    /// It may hold datagrams: set by readiness, cleared by a receive that finds none.
    readable: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Datagrams {
    sockets: Vec<Socket>,
    /// What was received last. Empty as long as there is no socket.
    buffer: Box<[u8]>,
    receives_left: usize,
    stopped: bool,
}

impl Datagrams {
    /// Adds a bound socket. The caller watches it.
    pub(crate) fn add(&mut self, fd: OwnedFd) -> io::Result<DatagramsId> {
        let socket = UdpSocket::from(fd);
        socket.set_nonblocking(true)?;
        if self.buffer.is_empty() {
            self.buffer = vec![0; DATAGRAM_BYTES_MAX].into();
        }
        let id = DatagramsId(u32::try_from(self.sockets.len()).expect("sockets are few"));
        self.sockets.push(Socket { socket, readable: true });
        Ok(id)
    }

    pub(crate) fn fd(&self, id: DatagramsId) -> RawFd {
        self.sockets[id.0 as usize].socket.as_raw_fd()
    }

    /// Notes that the backend has seen something.
    pub(crate) fn now_readable(&mut self, id: DatagramsId) {
        self.sockets[id.0 as usize].readable = true;
    }

    /// Receives nothing any more; replies still leave.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(crate) fn start_turn(&mut self) {
        self.receives_left = RECEIVES_PER_TURN;
    }

    /// Whether there may be something to receive now.
    pub(crate) fn has_work(&self) -> bool {
        !self.stopped && self.sockets.iter().any(|socket| socket.readable)
    }

    /// Receives the next one: where it came in, from whom, and its length in [`Datagrams::bytes`].
    pub(crate) fn receive(&mut self) -> Option<(DatagramsId, SocketAddr, usize)> {
        if self.stopped {
            return None;
        }
        for (number, Socket { socket, readable }) in (0..).zip(&mut self.sockets) {
            while *readable && self.receives_left > 0 {
                self.receives_left -= 1;
                match socket.recv_from(&mut self.buffer) {
                    Ok((length, from)) => return Some((DatagramsId(number), from, length)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => *readable = false,
                    // What is heard here is that an earlier reply of ours found nobody.
                    Err(_) => {}
                }
            }
        }
        None
    }

    /// What was received last.
    pub(crate) fn bytes(&self, length: usize) -> &[u8] {
        &self.buffer[..length]
    }

    /// Sends one datagram, or says that the kernel did not take it.
    pub(crate) fn send(&self, id: DatagramsId, to: SocketAddr, data: &[u8]) -> bool {
        self.sockets[id.0 as usize].socket.send_to(data, to).is_ok()
    }
}
