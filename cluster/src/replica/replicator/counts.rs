//! What a shard tells about its part in replication. Never changes anything.

use super::*;
use crate::replica::stream::Backlog;

/// Numbers of one shard, as of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Partitions that this node is primary of.
    pub primary: u64,
    /// Partitions of which this node holds a copy that counts.
    pub backup: u64,
    /// Partitions that this node is being filled with.
    pub learner: u64,
    /// Writes that others do not have yet.
    pub writes_open: u64,
    /// Entries that are made and not acknowledged, of all streams, and their bytes.
    pub lag_entries: u64,
    /// See [`Self::lag_entries`].
    pub lag_bytes: u64,
    /// Streams whose other ends do not hold everything.
    pub out_of_sync: u64,
    /// Copies that others had compared with what this node has as primary, since the start.
    pub compared: u64,
    /// Those of them that this node did not have any more: nothing wrong, since every node evicts by itself.
    pub gone: u64,
    /// Those that differed although nothing was on its way.
    pub differed: u64,
}

impl<T: Copy> Replicator<T> {
    /// How the ring says that writes are acknowledged.
    pub fn mode_now(&self) -> Mode {
        self.mode()
    }

    /// The version that the next write will get; `None` after the last of the term.
    pub fn peek_version(&self) -> Option<Version> {
        self.clock.clone().next_version()
    }

    /// The numbers of now. A look at every partition that the ring has: once a second, not for every request.
    pub fn counts(&self) -> Counts {
        let backlogs: Vec<Backlog> = self.streams.values().map(Stream::backlog).collect();
        let sum = |of: fn(&Backlog) -> usize| as_u64(backlogs.iter().map(of).sum());
        Counts {
            primary: as_u64(self.tenures.len()),
            backup: self.backup_count(),
            learner: as_u64(self.filling.len()),
            writes_open: as_u64(self.open.len()),
            lag_entries: sum(|backlog| backlog.entries),
            lag_bytes: sum(|backlog| backlog.bytes),
            out_of_sync: sum(|backlog| usize::from(backlog.is_out_of_sync)),
            ..self.compared
        }
    }

    /// Memory of what waits for other nodes: a look at every open write.
    pub fn buffer_bytes(&self) -> usize {
        let queued: usize = self.streams.values().map(Stream::queue_bytes).sum();
        let open = self.open.values().map(|open| size_of::<Open<T>>() + open.bytes());
        queued + open.sum::<usize>()
    }

    fn backup_count(&self) -> u64 {
        let (Some(ring), Some(me)) = (&self.ring, self.me) else { return 0 };
        let is_held = |partition: &PartitionId| {
            let serves = ring.slot(me).state.serves();
            serves && ring.owners(*partition).contains(&me) && !self.tenures.contains(*partition)
        };
        as_u64(self.scope.clone().map(PartitionId::new).filter(is_held).count())
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).expect("64-bit")
}
