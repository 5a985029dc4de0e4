//! Where the server is, and how a connected socket to it is made. Sends nothing.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::Failure;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// A server's address, looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    /// Reads HOST:PORT, or a path, known by its slash.
    pub(crate) fn resolve(address: &str) -> Result<Self, Failure> {
        if address.contains('/') {
            return Ok(Self::Unix(address.into()));
        }
        let unresolved = |error| Failure::Unresolved { address: address.into(), error };
        let first = address.to_socket_addrs().map_err(unresolved)?.next();
        first.map(Self::Tcp).ok_or_else(|| unresolved(io::Error::other("the name has no address")))
    }

    /// A connected stream socket. Blocks for some seconds at most.
    pub(crate) fn connect(&self) -> Result<OwnedFd, Failure> {
        let connected = match self {
            Self::Tcp(address) => TcpStream::connect_timeout(address, CONNECT_PATIENCE).and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(OwnedFd::from(stream))
            }),
            Self::Unix(path) => UnixStream::connect(path).map(OwnedFd::from),
        };
        connected.map_err(|error| Failure::Connect { address: self.to_string(), error })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_makes_it_a_path_and_anything_else_needs_a_port() {
        assert_eq!(Target::resolve("./m.sock").unwrap(), Target::Unix("./m.sock".into()));
        assert_eq!(Target::resolve("127.0.0.1:99").unwrap().to_string(), "127.0.0.1:99");
        assert!(matches!(Target::resolve("127.0.0.1"), Err(Failure::Unresolved { .. })));
    }

    #[test]
    fn nobody_listening_is_said_with_the_address() {
        let error = Target::resolve("127.0.0.1:1").unwrap().connect().unwrap_err();
        assert!(error.to_string().contains("cannot connect to 127.0.0.1:1"), "{error}");
    }
}
