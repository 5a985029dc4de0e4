//! One connection of the async client: the twin of `stream.rs`. Its deadlines are its callers'.

use std::io;
use std::mem::MaybeUninit;
use std::time::Instant;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout_at;

use crate::blocking::as_unreachable;
use crate::endpoint::Endpoint;
use crate::error::Failure;
use crate::exchange::Exchange;
use crate::greeting;
use crate::options::{Options, after};
use crate::stream::{PEEK_WITHOUT_WAITING, READ_SIZE};

/// See the module.
#[derive(Debug)]
pub(crate) struct AsyncStream {
    socket: Socket,
    scratch: Box<[u8]>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(feature = "tokio-tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// The same call on whichever socket it is.
macro_rules! on_socket {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($stream) => $call,
            Socket::Unix($stream) => $call,
            #[cfg(feature = "tokio-tls")]
            Socket::Tls($stream) => $call,
        }
    };
}

impl AsyncStream {
    /// Connects, and says who we are where that is asked.
    pub(crate) async fn connect(
        server: &Endpoint,
        options: &Options,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let deadline = deadline.min(after(Instant::now(), options.connect_timeout));
        let connected = timeout_at(deadline.into(), Self::open(server, options)).await;
        connected.unwrap_or(Err(Failure::Late)).map_err(as_unreachable)
    }

    async fn open(server: &Endpoint, options: &Options) -> Result<Self, Failure> {
        let unreachable = |error: io::Error| Failure::Unreachable(error.to_string());
        let socket = match server {
            Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path).await.map_err(unreachable)?),
            Endpoint::Tcp { host, port } => {
                let stream = TcpStream::connect((&**host, *port)).await.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                secured(stream, host, options).await.map_err(unreachable)?
            }
        };
        let mut stream = Self { socket, scratch: vec![0; READ_SIZE].into() };
        if let Some(mut exchange) = greeting::exchange(options) {
            stream.drive(&mut exchange).await?;
            greeting::judge(exchange)?;
        }
        Ok(stream)
    }

    /// Whether a connection that waited is still open and nothing was said on it unasked.
    pub(crate) fn is_quiet(&self) -> bool {
        let socket = match &self.socket {
            Socket::Tcp(stream) => SockRef::from(stream),
            Socket::Unix(stream) => SockRef::from(stream),
            #[cfg(feature = "tokio-tls")]
            Socket::Tls(stream) => SockRef::from(stream.get_ref().0),
        };
        let peeked = socket.recv_with_flags(&mut [MaybeUninit::uninit()], PEEK_WITHOUT_WAITING);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends all and reads all replies. Dropped in between, the connection must be closed.
    pub(crate) async fn drive(&mut self, exchange: &mut Exchange) -> Result<(), Failure> {
        loop {
            self.send(exchange).await.map_err(|error| Failure::of_io(&error))?;
            if exchange.is_done() {
                return Ok(());
            }
            let Self { socket, scratch } = self;
            let received = on_socket!(socket, stream => stream.read(scratch).await);
            match received.map_err(|error| Failure::of_io(&error))? {
                0 => return Err(Failure::of_io(&io::ErrorKind::UnexpectedEof.into())),
                size => exchange.received(&scratch[..size])?,
            }
        }
    }

    async fn send(&mut self, exchange: &mut Exchange) -> io::Result<()> {
        while !exchange.output().is_empty() {
            match on_socket!(&mut self.socket, stream => stream.write(exchange.output()).await)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                size => exchange.wrote(size),
            }
        }
        on_socket!(&mut self.socket, stream => stream.flush().await)
    }
}

#[cfg(feature = "tokio-tls")]
async fn secured(stream: TcpStream, host: &str, options: &Options) -> io::Result<Socket> {
    let Some(tls) = &options.tls else { return Ok(Socket::Tcp(stream)) };
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::clone(&tls.config));
    Ok(Socket::Tls(Box::new(connector.connect(tls.name_of(host)?, stream).await?)))
}

#[cfg(not(feature = "tokio-tls"))]
async fn secured(stream: TcpStream, _: &str, options: &Options) -> io::Result<Socket> {
    #[cfg(feature = "tls")]
    if options.tls.is_some() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS for tasks is the feature tokio-tls"));
    }
    #[cfg(not(feature = "tls"))]
    let _: &Options = options;
    Ok(Socket::Tcp(stream))
}
