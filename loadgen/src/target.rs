//! Where the servers are, and how a socket to one is made ready: connected, TLS shaken, logged in. Blocks; the load itself
//! never comes through here.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use slabring_client::Endpoint;
use slabring_protocol::client::{self, binary};

use crate::failure::{Failure, excerpt};
use crate::protocol::Protocol;

/// The machine, or this process, has too many open files. Source: Linux `asm-generic/errno-base.h`.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// How long a server may take to accept, and to let us in.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// A server's address, looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Tcp { address: SocketAddr, host: String },
    Unix(PathBuf),
}

/// What a connection needs beside an address.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) protocol: Protocol,
    pub(crate) tls: Option<Tls>,
    pub(crate) login: Option<Login>,
}

#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    /// Name in the certificate, where it is not the host's.
    pub(crate) name: Option<String>,
}

/// A user and a password. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// What an address of the command line names: unlike the client library's, any text with a slash is a path.
pub(crate) fn endpoint(text: &str) -> Result<Endpoint, Failure> {
    if text.contains('/') {
        return Ok(Endpoint::unix(text));
    }
    let unresolved = |error| Failure::Unresolved { address: text.into(), error: io::Error::other(error) };
    text.parse().map_err(unresolved)
}

/// A socket that is ready for requests.
pub(crate) struct Socket {
    pub(crate) stream: OwnedFd,
    pub(crate) tls: Option<Box<ClientConnection>>,
}

impl Target {
    /// Reads HOST, HOST:PORT, or a path, known by its slash.
    pub(crate) fn resolve(text: &str) -> Result<Self, Failure> {
        let (host, port) = match endpoint(text)? {
            Endpoint::Unix(path) => return Ok(Self::Unix(path.to_path_buf())),
            Endpoint::Tcp { host, port } => (host, port),
        };
        let unresolved = |error| Failure::Unresolved { address: text.into(), error };
        match (&*host, port).to_socket_addrs().map_err(unresolved)?.next() {
            Some(address) => Ok(Self::Tcp { address, host: host.to_string() }),
            None => Err(unresolved(io::Error::other("the name has no address"))),
        }
    }

    /// A stream socket that is connected, secured and logged in. Blocks for a few times `patience` at most.
    pub(crate) fn connect(&self, access: &Access, patience: Duration) -> Result<Socket, Failure> {
        let failed = |error: io::Error| match (self.to_string(), error.raw_os_error()) {
            (address, Some(ENFILE | EMFILE)) => Failure::Sockets { address, error },
            (address, _) => Failure::Connect { address, error },
        };
        match self {
            Self::Tcp { address, host } => {
                let stream = TcpStream::connect_timeout(address, patience).map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                stream.set_read_timeout(Some(patience)).map_err(failed)?;
                let tls = self.prepare(&stream, access, host)?;
                stream.set_read_timeout(None).map_err(failed)?;
                Ok(Socket { stream: stream.into(), tls })
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(failed)?;
                stream.set_read_timeout(Some(patience)).map_err(failed)?;
                let tls = self.prepare(&stream, access, "localhost")?;
                stream.set_read_timeout(None).map_err(failed)?;
                Ok(Socket { stream: stream.into(), tls })
            }
        }
    }

    fn prepare<S>(
        &self,
        mut stream: &S,
        access: &Access,
        host: &str,
    ) -> Result<Option<Box<ClientConnection>>, Failure>
    where
        for<'a> &'a S: Read + Write,
    {
        let address = || self.to_string();
        let Some(Tls { config, name }) = &access.tls else {
            self.log_in(&mut stream, access)?;
            return Ok(None);
        };
        let failed = |error: io::Error| Failure::Tls { address: address(), error };
        let name = name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|error| failed(io::Error::other(error)))?;
        let mut session = ClientConnection::new(Arc::clone(config), name)
            .map_err(|error| failed(io::Error::other(error)))?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).map_err(failed)?;
        }
        self.log_in(&mut rustls::Stream::new(&mut session, &mut stream), access)?;
        Ok(Some(Box::new(session)))
    }

    fn log_in(&self, stream: &mut (impl Read + Write), access: &Access) -> Result<(), Failure> {
        let Some(Login { user, password }) = &access.login else { return Ok(()) };
        let failed = |error| Failure::Connect { address: self.to_string(), error };
        let mut request = Vec::new();
        match access.protocol {
            Protocol::Text | Protocol::Meta => {
                client::set(&mut request, b"login", 0, 0, format!("{user} {password}").as_bytes());
            }
            Protocol::Binary => {
                binary::sasl_plain(&mut request, 0, user.as_bytes(), password.as_bytes());
            }
            Protocol::Resp => {
                let (users, passwords) = (user.len(), password.len());
                let line =
                    format!("*3\r\n$4\r\nAUTH\r\n${users}\r\n{user}\r\n${passwords}\r\n{password}\r\n");
                request.extend_from_slice(line.as_bytes());
            }
        }
        stream.write_all(&request).map_err(failed)?;
        let answer = read_answer(stream, access.protocol).map_err(failed)?;
        let is_in = match access.protocol {
            Protocol::Text | Protocol::Meta => answer == b"STORED\r\n",
            Protocol::Binary => answer.get(6..8) == Some(&[0, 0]),
            Protocol::Resp => answer.starts_with(b"+"),
        };
        let text = excerpt(&answer);
        if is_in { Ok(()) } else { Err(Failure::Login { address: self.to_string(), text }) }
    }
}

/// One short answer: a line, or a binary packet.
fn read_answer(stream: &mut impl Read, protocol: Protocol) -> io::Result<Vec<u8>> {
    const ANSWER_SIZE_MAX: usize = 4096;
    let mut answer = Vec::new();
    let mut byte = [0];
    while answer.len() < ANSWER_SIZE_MAX {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
        let is_whole = match protocol {
            Protocol::Binary => matches!(binary::parse_reply(&answer), binary::BinaryStep::Reply { .. }),
            _ => answer.ends_with(b"\n"),
        };
        if is_whole {
            break;
        }
    }
    Ok(answer)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, .. } => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Access = Access { protocol: Protocol::Text, tls: None, login: None };

    #[test]
    fn a_slash_makes_it_a_path_and_who_names_no_port_means_the_usual_one() {
        assert_eq!(Target::resolve("./m.sock").unwrap(), Target::Unix("./m.sock".into()));
        for (text, shown) in
            [("127.0.0.1:99", "127.0.0.1:99"), ("127.0.0.1", "127.0.0.1:11211"), ("[::1]", "[::1]:11211")]
        {
            assert_eq!(Target::resolve(text).unwrap().to_string(), shown);
        }
        for text in ["", "127.0.0.1:x", "::1", "a b"] {
            assert!(matches!(Target::resolve(text), Err(Failure::Unresolved { .. })), "{text}");
        }
    }

    #[test]
    fn nobody_listening_is_said_with_the_address() {
        let error = Target::resolve("127.0.0.1:1")
            .unwrap()
            .connect(&PLAIN, CONNECT_PATIENCE)
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains("cannot connect to 127.0.0.1:1"), "{error}");
    }
}
