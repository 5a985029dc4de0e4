//! What people call things: clusters, nodes and addresses. Never resolves anything.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of a name. Together with the frame's fixed parts they keep a greeting small.
pub const NAME_BYTES_MAX: usize = 64;

/// Bytes of a host: the longest a DNS name can be.
const HOST_BYTES_MAX: usize = 253;

/// Bytes of an address as text.
pub const ADDRESS_BYTES_MAX: usize = HOST_BYTES_MAX + ":65535".len();

const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize);

/// Why a text is no name or no address. Nothing was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    /// Empty, too long, or with a byte that is not allowed.
    #[error("a name is 1 to {NAME_BYTES_MAX} letters, digits and any of . _ : - [ ]")]
    Name,
    /// Not `host:port`.
    #[error("an address is HOST:PORT or [IPV6]:PORT, the port 1 to 65535")]
    Address,
}

/// 1 to [`NAME_BYTES_MAX`] bytes that need no quoting in a path, a log line or a text protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-[]".contains(&byte);
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(allowed) { Ok(Self(text.to_owned())) } else { Err(NotAName::Name) }
    }
}

impl TryFrom<String> for Name {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One cache of many nodes. Nodes of different clusters refuse each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Name);

/// One node: it keeps this name for as long as it is a member, also when it starts anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Name);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of a node: another number after each start. 0 in a ring document admits any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// In a ring document: the node may start anew without a new document.
    pub const ANY: Self = Self(0);

    /// Whether a node in its life `actual` is the one that a ring document means by this.
    pub fn admits(self, actual: Self) -> bool {
        self == Self::ANY || self == actual
    }
}

/// Where something listens: `host:port`, the host a name, an IPv4 address or an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port: never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let (host, port) = text.rsplit_once(':').ok_or(NotAName::Address)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or(NotAName::Address)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(ipv6) => ipv6.parse::<std::net::Ipv6Addr>().is_ok().then_some(ipv6),
            None => is_host(host).then_some(host),
        };
        Ok(Self { host: host.ok_or(NotAName::Address)?.to_owned(), port })
    }
}

fn is_host(host: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=HOST_BYTES_MAX).contains(&host.len()) && host.bytes().all(allowed)
}

impl TryFrom<String> for Address {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_the_same() {
        for text in ["127.0.0.1:11211", "cache-1.example:1", "[::1]:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:7".parse::<Address>().unwrap().host(), "::1");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", "host", "host:", ":1", "host:0", "host:65536", "::1:7", "[x]:1", "a b:1", "h/:1", "h:+1x"]
        {
            assert_eq!(text.parse::<Address>(), Err(NotAName::Address), "{text:?}");
        }
    }

    #[test]
    fn names_have_a_length_and_no_strange_bytes() {
        for text in ["a", "10.0.0.1:7000", "[::1]:7000", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(text.parse::<Name>().unwrap().as_str(), text);
        }
        for text in ["", "a b", "a/b", "ä", "a\n", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert_eq!(text.parse::<Name>(), Err(NotAName::Name), "{text:?}");
        }
    }
}
