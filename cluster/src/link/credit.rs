//! What may be under way on a link, in number and in bytes, and who must wait. Counts; never sends.

use super::{Link, ROOM_WAIT_MAX};
use crate::forward::LANE_SHARE_MIN;
use crate::link::greeting::Side;
use crate::safeguard::{self, Safeguard};
use crate::time::Micros;
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

impl Link {
    /// Whether [`Self::has_room`] would say yes for any share of at least [`LANE_SHARE_MIN`], and change nothing.
    #[inline]
    pub(crate) fn has_ample_room(&self, body_bytes: usize) -> bool {
        let cost = cost_bytes(body_bytes);
        self.awaited_bytes == 0
            && self.used.admits(cost, LANE_SHARE_MIN)
            && self.used.admits(cost, self.granted)
    }

    /// Whether a request of `body_bytes` may go now, if `share` is what this side wants under way here at most. Who is refused
    /// for being too large goes before smaller ones: otherwise it might wait for ever.
    pub(crate) fn has_room(&mut self, body_bytes: usize, share: Credit) -> bool {
        let cost = cost_bytes(body_bytes);
        if self.used.operations == 0 {
            self.awaited_bytes = 0;
        }
        let granted = self.granted;
        let fits = self.used.admits(cost, share) && self.used.admits(cost, granted);
        if !safeguard::holds(Safeguard::CreditIsKept) {
            return true;
        }
        if fits && cost >= self.awaited_bytes {
            self.awaited_bytes = 0;
            return true;
        }
        if self.used.operations < share.operations.min(granted.operations) {
            self.awaited_bytes = self.awaited_bytes.max(cost);
        }
        false
    }

    /// Whether a dialled link has a request that waits for room, or less room than every link is thought to have.
    pub(crate) fn is_crowded(&self) -> bool {
        let grants_little =
            self.granted.operations < LANE_SHARE_MIN.operations || self.granted.bytes < LANE_SHARE_MIN.bytes;
        self.side == Side::Dialler
            && self.is_up()
            && (grants_little || self.awaited_bytes > 0 && self.used.operations > 0)
    }

    /// Whether the other side answers: requests that find no room may wait for it.
    pub(crate) fn is_moving(&self, now: Micros) -> bool {
        now.since(self.moved_at) < ROOM_WAIT_MAX || self.is_delayed(now)
    }

    /// Whether what was sent is late through nobody's fault: a long message goes before it, or it is held for the sake of one.
    pub(crate) fn is_delayed(&self, now: Micros) -> bool {
        self.is_held || self.carries(now)
    }

    /// Whether a long message is on its way, or was until just now.
    pub(crate) fn carries(&self, now: Micros) -> bool {
        self.carried_at.is_some_and(|at| now.since(at) < ROOM_WAIT_MAX)
    }

    /// Whether the rest of a long message had better wait on the way, for the sake of others: who reads bytes asks first. While it
    /// is held nobody calls the other side silent.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// A response came for a request of `body_bytes`: its credit is free again.
    pub fn settle(&mut self, now: Micros, body_bytes: usize) {
        self.used.give_back(cost_bytes(body_bytes));
        self.moved_at = now;
    }
}
