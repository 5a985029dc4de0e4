//! One thread's connections: for each client one to each server. Opens them, finds them and, where servers come and go, gives
//! them up and opens them anew. Knows no request.

use std::time::Duration;

use slabring_reactor::Io;

use crate::connection::Connection;
use crate::decode::Decoder;
use crate::failure::Failure;
use crate::target::{Access, CONNECT_PATIENCE, Target};

/// How long a server of a ring may take to accept while the others wait.
const REOPEN_PATIENCE: Duration = Duration::from_millis(200);

/// No connection.
const NONE: u32 = u32::MAX;

/// How each connection is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner<'s> {
    pub(crate) access: &'s Access,
    pub(crate) depth: usize,
    pub(crate) keep_replies: bool,
}

/// See the module.
pub(crate) struct Lines<'s> {
    /// By their slot in the reactor. One that was given up stays, empty, until another gets its slot.
    pub(crate) connections: Vec<Connection>,
    /// Slot of each client's connection to each server: the clients of the first, of the second, ...
    slots: Vec<u32>,
    targets: Vec<Target>,
    clients: usize,
    manner: Manner<'s>,
}

impl<'s> Lines<'s> {
    /// Opens `clients` connections to each server. Blocks; one that cannot be opened is a failure.
    pub(crate) fn open<I: Io>(
        io: &mut I,
        targets: &[Target],
        clients: usize,
        manner: Manner<'s>,
    ) -> Result<Self, Failure> {
        assert!(clients > 0 && !targets.is_empty());
        let mut lines =
            Self { connections: Vec::new(), slots: Vec::new(), targets: Vec::new(), clients, manner };
        lines.know(targets);
        for server in 0..targets.len() {
            (0..clients).try_for_each(|client| lines.open_one(io, client, server, CONNECT_PATIENCE))?;
        }
        Ok(lines)
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients
    }

    pub(crate) fn servers(&self) -> usize {
        self.targets.len()
    }

    /// The slot of a client's connection to `server`, or where there is none of its connection to another, which passes
    /// requests on. `None` if it has none at all.
    #[inline]
    pub(crate) fn slot(&self, client: usize, server: usize) -> Option<usize> {
        match self.slots[server * self.clients + client] {
            NONE => self.any_slot(client),
            slot => Some(slot as usize),
        }
    }

    #[cold]
    fn any_slot(&self, client: usize) -> Option<usize> {
        let mut own = self.slots.iter().skip(client).step_by(self.clients);
        own.find(|slot| **slot != NONE).map(|slot| *slot as usize)
    }

    /// Learns of all servers: those known so far, and new ones behind them.
    pub(crate) fn know(&mut self, targets: &[Target]) {
        assert!(targets.starts_with(&self.targets), "servers keep their numbers");
        self.targets = targets.to_vec();
        self.slots.resize(targets.len() * self.clients, NONE);
    }

    /// Gives up a connection that has ended. It keeps its requests.
    pub(crate) fn give_up(&mut self, slot: usize) {
        let Connection { client, server, .. } = self.connections[slot];
        let place = &mut self.slots[server * self.clients + client];
        if *place as usize == slot {
            *place = NONE;
        }
    }

    /// Tries to open what is missing to servers that are `alive`. Of one that refuses, no more is tried. Blocks for a moment.
    /// Says whether all that are alive are connected.
    pub(crate) fn mend<I: Io>(&mut self, io: &mut I, alive: &[bool]) -> bool {
        let mut is_whole = true;
        for server in (0..self.targets.len()).filter(|&server| alive[server]) {
            for client in 0..self.clients {
                if self.slots[server * self.clients + client] == NONE
                    && self.open_one(io, client, server, REOPEN_PATIENCE).is_err()
                {
                    is_whole = false;
                    break;
                }
            }
        }
        is_whole
    }

    fn open_one<I: Io>(
        &mut self,
        io: &mut I,
        client: usize,
        server: usize,
        patience: Duration,
    ) -> Result<(), Failure> {
        let Manner { access, depth, keep_replies } = self.manner;
        let socket = self.targets[server].connect(access, patience)?;
        let id = io.adopt(socket.stream)?;
        let decoder = Decoder::new(access.protocol);
        let mut connection = Connection::new(id, socket.tls, depth, decoder, keep_replies);
        (connection.client, connection.server) = (client, server);
        self.slots[server * self.clients + client] = id.slot;
        let slot = id.slot as usize;
        assert!(slot <= self.connections.len(), "slots of a reactor are dense");
        if slot == self.connections.len() {
            self.connections.push(connection);
        } else {
            // One that was given up had this slot.
            self.connections[slot] = connection;
        }
        Ok(())
    }
}
