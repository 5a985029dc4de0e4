//! A request that is kept beyond the bytes it was read from. The only copy of one, but for letters, which keep all of theirs in one box
//! (`batch.rs`).

use slabring_protocol::{Command, Dialect, Request};

/// See the module. One allocation.
#[derive(Clone, Debug)]
pub struct OwnedRequest {
    command: Command,
    noreply: bool,
    dialect: Dialect,
    /// Key, value and flags, one behind the other.
    bytes: Box<[u8]>,
    key_bytes: usize,
    value_bytes: usize,
}

impl OwnedRequest {
    /// A copy of a request.
    pub fn new(request: &Request<'_>) -> Self {
        let Request { command, noreply, dialect, key, value, flags } = *request;
        let bytes = [key, value, flags].concat().into();
        Self { command, noreply, dialect, bytes, key_bytes: key.len(), value_bytes: value.len() }
    }

    /// The request.
    pub fn request(&self) -> Request<'_> {
        let Self { command, noreply, dialect, key_bytes, value_bytes, .. } = *self;
        let (key, rest) = self.bytes.split_at(key_bytes);
        let (value, flags) = rest.split_at(value_bytes);
        Request { command, key, value, flags, noreply, dialect }
    }

    /// Bytes that it has copied.
    pub fn copied_bytes(&self) -> usize {
        self.bytes.len()
    }
}
