//! Where a server is. Never resolves a name and never connects.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use slabring_cluster::names::Address;

/// The port of a server whose address names none.
pub const PORT_DEFAULT: u16 = 11211;

/// What a unix socket's address may begin with.
const UNIX_PREFIX: &str = "unix:";

/// Where a server is. Cheap to clone.
///
/// As text: `host`, `host:port`, `[ipv6]:port`, `/path` or `unix:path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A host and a port.
    Tcp {
        /// A name, an IPv4 address, or an IPv6 address without brackets.
        host: Arc<str>,
        /// Never 0.
        port: u16,
    },
    /// A unix socket.
    Unix(Arc<Path>),
}

/// Why a text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server is HOST, HOST:PORT, [IPV6]:PORT or the path of a unix socket")]
pub struct NotAnEndpoint;

impl Endpoint {
    /// A server at a host and a port, which must not be 0.
    pub fn tcp(host: &str, port: u16) -> Self {
        assert!(port != 0, "port 0 is nobody's");
        Self::Tcp { host: host.into(), port }
    }

    /// A server at a unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(path.into().into())
    }

    /// The same host at another port, `None` where there are no ports or not so many.
    pub(crate) fn at_port(&self, base: u16, offset: u16) -> Option<Self> {
        match self {
            Self::Tcp { host, .. } => {
                Some(Self::Tcp { host: Arc::clone(host), port: base.checked_add(offset)? })
            }
            Self::Unix(_) => None,
        }
    }
}

impl From<&Address> for Endpoint {
    fn from(address: &Address) -> Self {
        Self::tcp(address.host(), address.port())
    }
}

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Self, NotAnEndpoint> {
        match text.strip_prefix(UNIX_PREFIX) {
            Some("") => return Err(NotAnEndpoint),
            Some(path) => return Ok(Self::unix(path)),
            None if text.starts_with('/') => return Ok(Self::unix(text)),
            None => {}
        }
        let has_port =
            text.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let with_port = if has_port { text.to_owned() } else { format!("{text}:{PORT_DEFAULT}") };
        with_port.parse::<Address>().map(|address| Self::from(&address)).map_err(|_| NotAnEndpoint)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        for (text, shown) in [
            ("cache", "cache:11211"),
            ("10.0.0.1:7", "10.0.0.1:7"),
            ("[::1]:7", "[::1]:7"),
            ("[::1]", "[::1]:11211"),
            ("/run/cache.sock", "/run/cache.sock"),
            ("unix:cache.sock", "cache.sock"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown, "{text}");
        }
        for text in ["", ":7", "a:0", "a:65536", "a b", "::1", "unix:", "a:b"] {
            assert_eq!(text.parse::<Endpoint>(), Err(NotAnEndpoint), "{text:?}");
        }
    }

    #[test]
    fn a_shard_port_is_counted_from_the_base_and_never_wraps() {
        let node = Endpoint::tcp("node", 11211);
        assert_eq!(node.at_port(12000, 3), Some(Endpoint::tcp("node", 12003)));
        assert_eq!(node.at_port(u16::MAX, 1), None);
        assert_eq!(Endpoint::unix("/a").at_port(1, 1), None);
    }
}
