//! `stats conns`: a shard's connections, for people. Reads only.

use slabring_engine::Seconds;
use slabring_protocol::reply;

use crate::connection::{Connection, Connections, Peer, Stream};
use crate::node::Node;
use crate::shards::Shards;

/// Appends what `stats conns` shows of this shard's connections, in the order of their numbers.
pub fn describe(out: &mut Vec<u8>, connections: &Connections, node: &Node, shards: Shards, now: Seconds) {
    for client in connections.iter() {
        let number = shards.connection_number(shards.me, client.id.slot);
        let listener = node.listeners.get(client.listener).map_or("unknown", String::as_str);
        let mut field = |name: &str, value: &str| {
            reply::stat(out, format_args!("{number}:{name}"), value);
        };
        match &client.peer {
            Peer::Tcp(address) if address.is_ipv4() => field("addr", &format!("tcp:{address}")),
            Peer::Tcp(address) => field("addr", &format!("tcp6:{address}")),
            Peer::Local => field("addr", listener),
            Peer::Unknown => field("addr", "?:<AF 0>"),
        }
        field("listen_addr", listener);
        field("state", state_of(client));
        let silent = now.0.saturating_sub(client.heard_at.0);
        reply::stat(out, format_args!("{number}:secs_since_last_cmd"), silent);
    }
}

/// Appends what `stats conns` shows of the listeners.
pub fn describe_listeners(out: &mut Vec<u8>, node: &Node) {
    for (number, address) in node.listeners.iter().enumerate() {
        reply::stat(out, format_args!("{number}:addr"), address.as_str());
        reply::stat(out, format_args!("{number}:state"), "conn_listening");
        let up = node.clock.uptime_seconds();
        reply::stat(out, format_args!("{number}:secs_since_last_cmd"), up);
    }
}

/// memcached's name for what a connection is about.
fn state_of(client: &Connection) -> &'static str {
    match &client.stream {
        Some(Stream::Watch(_) | Stream::Track(_)) => "conn_watch",
        Some(Stream::Dump(_)) => "conn_mwrite",
        None if client.outbox.owed() > 0 => "conn_parse_cmd",
        None if client.sending => "conn_mwrite",
        None if client.stalled => "conn_new_cmd",
        None if client.input.is_empty() => "conn_read",
        None => "conn_nread",
    }
}
