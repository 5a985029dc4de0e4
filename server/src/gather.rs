//! Small packets of one turn, put aside so that the memory their requests need is fetched for many connections at once.
//! Decides nothing about them but when they are executed: in the order they came, before the turn goes on.

use slabring_engine::WARM_KEYS_MAX;
use slabring_reactor::ConnectionId;

use crate::connection::{Connection, Connections};
use crate::dispatch::Dispatcher;

/// A packet up to this size most likely holds a single request: longer ones are pipelines, which warm their own keys.
pub const SMALL_PACKET_BYTES: usize = 128;

/// See the module.
#[derive(Default)]
pub struct Gathered {
    bytes: Vec<u8>,
    /// Whose packet, and where it ends in `bytes`.
    packets: Vec<(ConnectionId, usize)>,
}

impl Gathered {
    /// Puts a packet aside.
    pub fn push(&mut self, connection: ConnectionId, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        self.packets.push((connection, self.bytes.len()));
    }

    /// Executes all packets and notes their connections.
    pub fn execute(
        &mut self,
        dispatcher: &mut Dispatcher,
        connections: &mut Connections,
        mut note: impl FnMut(&mut Connection),
    ) {
        let mut start = 0;
        for group in self.packets.chunks(WARM_KEYS_MAX) {
            dispatcher.executor.warm(packets_of(group, start, &self.bytes).filter_map(|(id, data)| {
                let client = connections.get(id)?;
                dispatcher.first_key(client, data)
            }));
            for (id, data) in packets_of(group, start, &self.bytes) {
                if let Some(client) = connections.get_mut(id) {
                    dispatcher.received(client, data);
                    note(client);
                }
            }
            start = group.last().map_or(start, |(_, end)| *end);
        }
        self.packets.clear();
        self.bytes.clear();
    }
}

fn packets_of<'a>(
    group: &'a [(ConnectionId, usize)],
    mut start: usize,
    bytes: &'a [u8],
) -> impl Iterator<Item = (ConnectionId, &'a [u8])> {
    group.iter().map(move |&(id, end)| {
        let data = &bytes[start..end];
        start = end;
        (id, data)
    })
}
