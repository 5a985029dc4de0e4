//! Appending to long values, and prepending: a part each turn, so that nobody else waits for long. Who asked waits, with all that it
//! asked behind it; then the request is executed as any other and finds the work done. No I/O.

use slabring_engine::{Extended, Extension, Seconds, Store, StoreOutcome};
use slabring_protocol::{Command, KEY_SIZE_MAX, Request, StoreMode};
use slabring_reactor::ConnectionId;

use crate::execute::{Executor, store_of};
use crate::shards::ShardId;

/// Bytes written in a turn for one connection.
pub const EXTENDED_BYTES_MAX: usize = 512 << 10;
/// A value that others change so often meanwhile is extended at once.
const RESTARTS_MAX: u32 = 3;

/// The value that a connection has extended.
#[derive(Debug)]
pub struct Extending {
    name: (ShardId, ConnectionId),
    extension: Box<Extension>,
    restarts: u32,
}

/// Whether a command puts something to a value that is there.
#[inline]
pub fn extends(command: &Command) -> bool {
    match command {
        Command::Store { mode, .. } => is_extending(*mode),
        Command::MetaStore(flags) => is_extending(flags.store_mode()),
        _ => false,
    }
}

fn is_extending(mode: StoreMode) -> bool {
    matches!(mode, StoreMode::Append | StoreMode::Prepend)
}

impl Executor {
    /// Whether a request that [extends](extends) must wait until a long value is extended. A part of it was done then, and it is to be
    /// asked again. Otherwise it is to be executed next.
    #[cold]
    pub fn must_extend(
        &mut self,
        now: Seconds,
        name: (ShardId, ConnectionId),
        request: &Request<'_>,
    ) -> bool {
        if self.replicates() || matches!(request.command, Command::MetaStore(flags) if flags.has(b'Y')) {
            // The one is evaluated elsewhere, the other may be refused for its fence, which is asked once.
            return false;
        }
        let mut scratch = [0; KEY_SIZE_MAX];
        let key = request.decoded_key(&mut scratch);
        if self.is_read_elsewhere(key) || self.has_parked() {
            // It waits as a whole.
            return false;
        }
        let store = store_of(now, request, key);
        let begun = self.extending.iter().position(|extending| extending.name == name);
        let begun = begun.map(|at| self.extending.swap_remove(at));
        let Some(mut extending) = begun.or_else(|| self.begin_extending(now, name, &store, 0)) else {
            return false;
        };
        match self.shard_mut().go_on_extending(now, &mut extending.extension, &store, EXTENDED_BYTES_MAX) {
            Extended::InPart => {}
            Extended::Whole => {
                self.extended = Some(extending.extension);
                return false;
            }
            Extended::InVain => {
                let restarts = extending.restarts + 1;
                self.shard_mut().abandon_extension(*extending.extension);
                let again =
                    (restarts <= RESTARTS_MAX).then(|| self.begin_extending(now, name, &store, restarts));
                let Some(again) = again.flatten() else { return false };
                extending = again;
            }
        }
        self.extending.push(extending);
        true
    }

    fn begin_extending(
        &mut self,
        now: Seconds,
        name: (ShardId, ConnectionId),
        store: &Store<'_>,
        restarts: u32,
    ) -> Option<Extending> {
        let extension = Box::new(self.shard_mut().begin_extension(now, store)?);
        Some(Extending { name, extension, restarts })
    }

    /// What has become of a store whose value has just been extended, if it was.
    pub fn finish_extending(&mut self, now: Seconds, store: &Store<'_>) -> Option<StoreOutcome> {
        let extension = self.extended.take()?;
        self.shard_mut().finish_extension(now, *extension, store)
    }

    /// The connection will not ask again.
    pub fn drop_extending(&mut self, name: (ShardId, ConnectionId)) {
        if let Some(at) = self.extending.iter().position(|extending| extending.name == name) {
            let Extending { extension, .. } = self.extending.swap_remove(at);
            self.shard_mut().abandon_extension(*extension);
        }
    }

    /// Nobody will ask again.
    pub fn end_extending(&mut self) {
        for Extending { extension, .. } in std::mem::take(&mut self.extending) {
            self.shard_mut().abandon_extension(*extension);
        }
    }
}
