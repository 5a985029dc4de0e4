//! The ceiling: a server that finds line ends and answers, over the same reactor, and does nothing else.
//! It never looks at what a line says and stores nothing.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use memchr::memchr_iter;
use slabring_reactor::backend::{self, Backend, Wish};
use slabring_reactor::thread::pin_to;
use slabring_reactor::{ConnectionId, Epoll, Event, Io, IoSettings, Uring, Wait};
use socket2::{Domain, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

const NAP: Duration = Duration::from_secs(1);

/// Replies that may wait for a connection to read; one more and it is closed.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

const EXAMPLES: &str = "\
Examples:
  END to every line:
    slabring-bench echo --port 11300
  A 32-byte value to every line, the ceiling of a GET:
    slabring-bench echo --port 11300 --values 1
  The ceiling of a SET:
    slabring-bench echo --port 11300 --reply stored --lines-per-reply 2";

/// A server over Slabring's own reactor that gives each line the same answer: what no cache can beat.
///
/// It listens on loopback only and runs until it is killed.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Port on 127.0.0.1
    #[arg(long, value_name = "P")]
    port: u16,

    /// How to talk to the kernel
    #[arg(long, value_enum, default_value = "auto")]
    io: IoWish,

    /// Pin to this CPU
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,

    /// What to answer
    #[arg(long, value_enum, default_value = "end")]
    reply: ReplyText,

    /// VALUE blocks before each END
    #[arg(long, value_name = "N", default_value = "0")]
    values: usize,

    /// Bytes in the key of a VALUE block
    #[arg(long, value_name = "BYTES", default_value = "16")]
    key_size: usize,

    /// Bytes in the value of a VALUE block
    #[arg(long, value_name = "BYTES", default_value = "32")]
    value_size: usize,

    /// Lines that make a request: 2 for a SET, whose value is the second
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    lines_per_reply: u32,
}

/// `--io`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum IoWish {
    /// io_uring where the machine allows it, else epoll
    Auto,
    /// io_uring or nothing
    Uring,
    /// epoll
    Epoll,
}

impl IoWish {
    /// The word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

impl From<IoWish> for Wish {
    fn from(wish: IoWish) -> Self {
        match wish {
            IoWish::Auto => Self::Auto,
            IoWish::Uring => Self::Uring,
            IoWish::Epoll => Self::Epoll,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum ReplyText {
    /// END, after the VALUE blocks if any
    End,
    /// STORED
    Stored,
}

/// Serves until it is killed.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let settings = IoSettings::default();
    let choice = backend::choose(args.io.into(), &settings)?;
    if let Some(cpu) = args.cpu {
        pin_to(cpu).with_context(|| format!("cannot pin to CPU {cpu}"))?;
    }
    let listener = listen(args.port).with_context(|| format!("cannot listen on 127.0.0.1:{}", args.port))?;
    match choice.backend {
        Backend::Uring => serve::<Uring>(&settings, listener, args),
        Backend::Epoll => serve::<Epoll>(&settings, listener, args),
    }
}

fn listen(port: u16) -> std::io::Result<OwnedFd> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn serve<I: Io>(settings: &IoSettings, listener: OwnedFd, args: &Args) -> anyhow::Result<()> {
    let mut io = I::new(settings)?;
    io.listen(listener)?;
    let mut peers = Peers::new(reply_of(args), args.lines_per_reply);
    loop {
        io.turn(Wait::AtMost(NAP))?;
        while let Some(event) = io.next_event() {
            if let Event::Accepted { stream, .. } = event {
                peers.begin(io.adopt(stream)?);
            } else if let Some(gone) = peers.handle(event) {
                io.close(gone);
            }
        }
        peers.send(&mut io);
    }
}

fn reply_of(args: &Args) -> Vec<u8> {
    let mut reply = Vec::new();
    match args.reply {
        ReplyText::Stored => reply.extend_from_slice(b"STORED\r\n"),
        ReplyText::End => {
            for _ in 0..args.values {
                let (key, value) = ("k".repeat(args.key_size), "v".repeat(args.value_size));
                write!(reply, "VALUE {key} 0 {}\r\n{value}\r\n", args.value_size)
                    .expect("memory takes all bytes");
            }
            reply.extend_from_slice(b"END\r\n");
        }
    }
    reply
}

/// All connections, by slot.
struct Peers {
    reply: Vec<u8>,
    lines_per_reply: usize,
    peers: Vec<Option<Peer>>,
    touched: Vec<ConnectionId>,
}

struct Peer {
    id: ConnectionId,
    /// Lines of a request that is not complete.
    lines: usize,
    output: Vec<u8>,
    spare: Vec<u8>,
    sending: bool,
    touched: bool,
}

impl Peers {
    fn new(reply: Vec<u8>, lines_per_reply: u32) -> Self {
        assert!(!reply.is_empty() && lines_per_reply > 0);
        Self { reply, lines_per_reply: lines_per_reply as usize, peers: Vec::new(), touched: Vec::new() }
    }

    /// A connection that has just been adopted.
    fn begin(&mut self, connection: ConnectionId) {
        let slot = connection.slot as usize;
        if self.peers.len() <= slot {
            self.peers.resize_with(slot + 1, || None);
        }
        self.peers[slot] = Some(Peer::new(connection));
    }

    /// Returns a connection to close.
    fn handle(&mut self, event: Event<'_>) -> Option<ConnectionId> {
        match event {
            Event::Received { connection, data } => {
                let peer = self.peers[connection.slot as usize].as_mut()?;
                peer.lines += memchr_iter(b'\n', data).count();
                for _ in 0..peer.lines / self.lines_per_reply {
                    peer.output.extend_from_slice(&self.reply);
                }
                peer.lines %= self.lines_per_reply;
                if peer.output.len() > OUTPUT_BYTES_MAX {
                    return self.forget(connection);
                }
                self.touch(connection);
                None
            }
            Event::Sent { connection, buffer, .. } => {
                let peer = self.peers[connection.slot as usize].as_mut()?;
                peer.sending = false;
                peer.spare = buffer;
                self.touch(connection);
                None
            }
            Event::Ended { connection, .. } => self.forget(connection),
            Event::Accepted { .. }
            | Event::Returned(_)
            | Event::Readable(_)
            | Event::Datagram { .. }
            | Event::Woken => None,
        }
    }

    fn forget(&mut self, connection: ConnectionId) -> Option<ConnectionId> {
        self.peers[connection.slot as usize].take().map(|peer| peer.id)
    }

    fn touch(&mut self, connection: ConnectionId) {
        if let Some(peer) = &mut self.peers[connection.slot as usize]
            && !std::mem::replace(&mut peer.touched, true)
        {
            self.touched.push(connection);
        }
    }

    fn send(&mut self, io: &mut impl Io) {
        for connection in self.touched.drain(..) {
            let Some(peer) = &mut self.peers[connection.slot as usize] else { continue };
            peer.touched = false;
            if !peer.sending && !peer.output.is_empty() {
                peer.sending = true;
                let output = std::mem::replace(&mut peer.output, std::mem::take(&mut peer.spare));
                io.send(peer.id, output);
            }
        }
    }
}

impl Peer {
    fn new(id: ConnectionId) -> Self {
        Self { id, lines: 0, output: Vec::new(), spare: Vec::new(), sending: false, touched: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ConnectionId = ConnectionId { slot: 0, generation: 1 };

    fn answers(lines_per_reply: u32, packets: &[&str]) -> String {
        let mut peers = Peers::new(b"OK\n".to_vec(), lines_per_reply);
        peers.begin(ID);
        for packet in packets {
            assert_eq!(peers.handle(Event::Received { connection: ID, data: packet.as_bytes() }), None);
        }
        String::from_utf8(peers.peers[0].as_ref().unwrap().output.clone()).unwrap()
    }

    #[test]
    fn each_line_has_one_answer_however_it_is_cut() {
        assert_eq!(answers(1, &["get a\r\nget b\r\n"]), "OK\nOK\n");
        assert_eq!(answers(1, &["get a", "\r", "\nget b\r\nge"]), "OK\nOK\n");
        assert_eq!(answers(2, &["set a\r\n", "value\r\nset b\r\n"]), "OK\n");
        assert_eq!(answers(2, &["set a\r\nvalue", "\r\nset b\r\nv\r\n"]), "OK\nOK\n");
    }

    #[test]
    fn a_connection_that_ends_is_closed_once_and_forgotten() {
        let mut peers = Peers::new(b"OK\n".to_vec(), 1);
        peers.begin(ID);
        let cause = slabring_reactor::EndCause::EndOfStream;
        assert_eq!(peers.handle(Event::Ended { connection: ID, cause }), Some(ID));
        assert_eq!(peers.handle(Event::Ended { connection: ID, cause }), None);
        assert_eq!(peers.handle(Event::Received { connection: ID, data: b"x\n" }), None);
    }
}
