//! How clients of a managed service find the nodes: `config get cluster`, and a get of a certain key for older ones. The
//! answer names this node alone, or all nodes of its cluster.

use std::net::{SocketAddr, UdpSocket};

use slabring_cluster::names::Address;
use slabring_cluster::ring::Ring;
use slabring_protocol::reply;

/// The key that older clients get.
pub const DISCOVERY_KEY: &[u8] = b"AmazonElastiCache:cluster";

/// Clients act when it rises; that of a node alone never does while it runs, that of a ring is its epoch.
const VERSION: u64 = 1;
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";
/// Never sent anything: only the way there is looked up. It is reserved for documentation.
const FAR_AWAY: &str = "192.0.2.1:9";
/// Behind the value in the answer to `config get cluster`.
const END: &[u8] = b"\r\nEND\r\n";

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Discovery(Vec<u8>);

impl Discovery {
    /// Of a node that listens on these addresses; of none if it has no TCP.
    pub fn of(addresses: &[SocketAddr]) -> Self {
        let mut answer = Vec::new();
        if let Some(address) = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()) {
            let (host, ip) = reachable(*address);
            reply::cluster_config(&mut answer, VERSION, [(host.as_str(), ip.as_str(), address.port())]);
        }
        Self(answer)
    }

    /// Of all nodes of a ring that serve. `resolve` finds where a name leads.
    pub fn of_ring(ring: &Ring, resolve: impl Fn(&Address) -> Option<SocketAddr>) -> Self {
        let serving = ring.document().slots.iter().filter(|slot| slot.state.serves());
        let nodes: Vec<_> = serving
            .map(|slot| {
                let ip = resolve(&slot.client).map(|address| address.ip().to_string());
                (slot.client.host().to_owned(), ip.unwrap_or_default(), slot.client.port())
            })
            .collect();
        let mut answer = Vec::new();
        let nodes = nodes.iter().map(|(host, ip, port)| (host.as_str(), ip.as_str(), *port));
        reply::cluster_config(&mut answer, ring.epoch().0, nodes);
        Self(answer)
    }

    /// The answer to `config get cluster`; empty if there is none.
    pub fn answer(&self) -> &[u8] {
        &self.0
    }

    /// The value of [`DISCOVERY_KEY`]; empty if there is none.
    pub fn value(&self) -> &[u8] {
        let line_end = self.0.iter().position(|&byte| byte == b'\n').map_or(0, |lf| lf + 1);
        self.0[line_end..].strip_suffix(END).unwrap_or_default()
    }
}

/// Host name and address by which others reach what listens on `address`.
fn reachable(address: SocketAddr) -> (String, String) {
    let ip = address.ip();
    if !ip.is_unspecified() {
        return (ip.to_string(), ip.to_string());
    }
    let outward = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect(FAR_AWAY)?;
        socket.local_addr()
    });
    let ip = outward.map_or_else(|_| "127.0.0.1".to_owned(), |own| own.ip().to_string());
    let name = std::fs::read_to_string(HOST_NAME_FILE).unwrap_or_default();
    let is_word = |name: &&str| !name.is_empty() && !name.contains([' ', '|', '\r', '\n']);
    let host = Some(name.trim()).filter(is_word).map_or_else(|| ip.clone(), str::to_owned);
    (host, ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_names_the_address_it_listens_on() {
        let discovery = Discovery::of(&["10.1.2.3:11211".parse().unwrap()]);
        let text = "CONFIG cluster 0 26\r\n1\n10.1.2.3|10.1.2.3|11211\n\r\nEND\r\n";
        assert_eq!(str::from_utf8(discovery.answer()), Ok(text));
        assert_eq!(discovery.value(), b"1\n10.1.2.3|10.1.2.3|11211\n");
    }

    #[test]
    fn a_node_that_listens_everywhere_names_itself() {
        let value = Discovery::of(&["0.0.0.0:7".parse().unwrap()]).value().to_vec();
        let text = String::from_utf8(value).unwrap();
        assert!(text.ends_with("|7\n") && !text.contains("0.0.0.0"), "{text}");
        assert_eq!(Discovery::of(&[]).value(), b"");
    }
}
