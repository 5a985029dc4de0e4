//! One blocking connection: TCP, a unix socket, or TLS over TCP. Every call on it has a deadline.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::endpoint::Endpoint;
use crate::error::Failure;
use crate::exchange::Exchange;
use crate::options::{Options, after};

/// Bytes read at a time.
pub(crate) const READ_SIZE: usize = 16 << 10;

/// `MSG_PEEK | MSG_DONTWAIT` on Linux: look, and do not wait.
pub(crate) const PEEK_WITHOUT_WAITING: i32 = 0x02 | 0x40;

/// What is there already takes no longer than this to be read.
const MOMENT: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    scratch: Box<[u8]>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<crate::tls::TlsStream>),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream.sock.as_fd(),
        }
    }
}

impl Stream {
    /// Connects. A name is looked up first, by the system and in its own time.
    pub(crate) fn connect(server: &Endpoint, options: &Options, deadline: Instant) -> Result<Self, Failure> {
        let deadline = deadline.min(after(Instant::now(), options.connect_timeout));
        let unreachable = |error: io::Error| Failure::Unreachable(error.to_string());
        let socket = match server {
            Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path).map_err(unreachable)?),
            Endpoint::Tcp { host, port } => {
                let stream = connect_tcp(host, *port, deadline).map_err(unreachable)?;
                Self::secured(stream, host, options, deadline)?
            }
        };
        let mut stream = Self { socket, scratch: vec![0; READ_SIZE].into() };
        if let Some(mut greeting) = crate::greeting::exchange(options) {
            stream.drive(&mut greeting, deadline)?;
            crate::greeting::judge(greeting)?;
        }
        Ok(stream)
    }

    #[cfg(feature = "tls")]
    fn secured(
        stream: TcpStream,
        host: &str,
        options: &Options,
        deadline: Instant,
    ) -> Result<Socket, Failure> {
        let Some(tls) = &options.tls else { return Ok(Socket::Tcp(stream)) };
        set_timeouts(&stream, deadline)?;
        let stream = tls.connect(stream, host).map_err(|error| Failure::Unreachable(error.to_string()))?;
        Ok(Socket::Tls(Box::new(stream)))
    }

    #[cfg(not(feature = "tls"))]
    #[expect(clippy::unnecessary_wraps, reason = "with TLS it can fail")]
    fn secured(stream: TcpStream, _: &str, _: &Options, _: Instant) -> Result<Socket, Failure> {
        Ok(Socket::Tcp(stream))
    }

    /// Whether a connection that waited is still open and nothing was said on it unasked.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = self.socket().recv_with_flags(&mut byte, PEEK_WITHOUT_WAITING);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends what may be sent without waiting for a reply.
    pub(crate) fn send(&mut self, exchange: &mut Exchange, deadline: Instant) -> Result<(), Failure> {
        while !exchange.output().is_empty() {
            self.set_timeouts(deadline)?;
            match self.writer().write(exchange.output()) {
                Ok(0) => return Err(Failure::Lost("the server takes no more".to_owned())),
                Ok(size) => exchange.wrote(size),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::of_io(&error)),
            }
        }
        self.writer().flush().map_err(|error| Failure::of_io(&error))
    }

    /// Sends all and reads all replies.
    pub(crate) fn drive(&mut self, exchange: &mut Exchange, deadline: Instant) -> Result<(), Failure> {
        loop {
            self.send(exchange, deadline)?;
            if exchange.is_done() {
                return Ok(());
            }
            let size = self.receive(deadline)?;
            exchange.received(&self.scratch[..size])?;
        }
    }

    /// A step of an exchange whose first requests are sent: reads once if something can be read, and sends what that lets out. True at its
    /// end. What has come by the deadline still counts.
    pub(crate) fn step(
        &mut self,
        exchange: &mut Exchange,
        deadline: Instant,
        is_ready: bool,
    ) -> Result<bool, Failure> {
        if exchange.is_done() {
            return Ok(true);
        }
        if !is_ready {
            return if Instant::now() < deadline { Ok(false) } else { Err(Failure::Late) };
        }
        let size = self.receive(deadline.max(Instant::now() + MOMENT))?;
        exchange.received(&self.scratch[..size])?;
        if !exchange.is_done() {
            self.send(exchange, deadline)?;
        }
        match exchange.is_done() {
            false if Instant::now() >= deadline && !self.has_more() => Err(Failure::Late),
            is_done => Ok(is_done),
        }
    }

    /// Whether something can be read although the socket has nothing.
    pub(crate) fn has_more(&mut self) -> bool {
        match &mut self.socket {
            Socket::Tcp(_) | Socket::Unix(_) => false,
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => {
                stream.conn.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
            }
        }
    }

    /// Sends bytes that are no exchange.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), Failure> {
        self.set_timeouts(deadline)?;
        let sent = self.writer().write_all(bytes).and_then(|()| self.writer().flush());
        sent.map_err(|error| Failure::of_io(&error))
    }

    /// What comes unasked, at least a byte.
    pub(crate) fn receive_bytes(&mut self, deadline: Instant) -> Result<&[u8], Failure> {
        let size = self.receive(deadline)?;
        Ok(&self.scratch[..size])
    }

    fn receive(&mut self, deadline: Instant) -> Result<usize, Failure> {
        loop {
            self.set_timeouts(deadline)?;
            let Self { socket, scratch } = self;
            let received = match socket {
                Socket::Tcp(stream) => stream.read(scratch),
                Socket::Unix(stream) => stream.read(scratch),
                #[cfg(feature = "tls")]
                Socket::Tls(stream) => stream.read(scratch),
            };
            match received {
                Ok(0) => return Err(Failure::of_io(&io::ErrorKind::UnexpectedEof.into())),
                Ok(size) => return Ok(size),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::of_io(&error)),
            }
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.socket {
            Socket::Tcp(stream) => stream,
            Socket::Unix(stream) => stream,
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream,
        }
    }

    fn socket(&self) -> SockRef<'_> {
        match &self.socket {
            Socket::Tcp(stream) => SockRef::from(stream),
            Socket::Unix(stream) => SockRef::from(stream),
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => SockRef::from(&stream.sock),
        }
    }

    fn set_timeouts(&self, deadline: Instant) -> Result<(), Failure> {
        set_timeouts_of(&self.socket(), deadline)
    }
}

fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(feature = "tls")]
fn set_timeouts(stream: &TcpStream, deadline: Instant) -> Result<(), Failure> {
    set_timeouts_of(&SockRef::from(stream), deadline)
}

/// Bounds the next read and write. Past the deadline there is none.
fn set_timeouts_of(socket: &SockRef<'_>, deadline: Instant) -> Result<(), Failure> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Failure::Late);
    }
    let set = socket.set_read_timeout(Some(left)).and_then(|()| socket.set_write_timeout(Some(left)));
    set.map_err(|error| Failure::of_io(&error))
}
