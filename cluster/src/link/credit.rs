//! What may be under way on a link, in number and in bytes. Counts; never sends.

use crate::wire::{CHECKSUM_BYTES, HEADER_BYTES};

/// What an acceptor grants unless told otherwise.
pub const CREDIT_DEFAULT: Credit = Credit { operations: 4_096, bytes: 4 << 20 };

/// Requests that may be under way, in number and in bytes. One request may have more bytes when it is the only one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Requests.
    pub operations: u32,
    /// Bytes of requests: see [`cost_bytes`].
    pub bytes: u32,
}

impl Credit {
    pub(super) const NONE: Self = Self { operations: 0, bytes: 0 };

    pub(super) fn encode(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.operations.to_le_bytes());
        bytes[4..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self { operations: u32::from_le_bytes([a, b, c, d]), bytes: u32::from_le_bytes([e, f, g, h]) }
    }

    /// Whether one more request of `bytes` may go while this much is used of `granted`.
    pub(crate) fn admits(self, bytes: u32, granted: Self) -> bool {
        let fits = self.bytes.checked_add(bytes).is_some_and(|sum| sum <= granted.bytes) || self.bytes == 0;
        fits && self.operations < granted.operations
    }

    pub(super) fn take(&mut self, bytes: u32) {
        self.operations += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn give_back(&mut self, bytes: u32) {
        assert!(self.operations > 0 && self.bytes >= bytes, "what is given back was taken");
        self.operations -= 1;
        self.bytes -= bytes;
    }
}

/// What a message of `body_bytes` costs: its bytes and one frame's.
pub fn cost_bytes(body_bytes: usize) -> u32 {
    u32::try_from(body_bytes + HEADER_BYTES + CHECKSUM_BYTES).unwrap_or(u32::MAX)
}
