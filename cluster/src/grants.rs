//! Copies of hot keys in the memory of nodes that do not own them: who may hold one, for how long, and what a write of the key waits
//! for. Messages and time in, messages out. Never a socket, a clock or the meaning of a command.
//!
//! ```text
//! owner                                      a shard of another node
//!   a key is asked for very often  --Offer-->
//!                                  <--Want--  with how often the copy was read since it last asked
//!   notes to whom, and until when  --Grant--> answers reads itself for GRANT_TIME from when it asked
//!   somebody wants to write        --Revoke-> drops the copy
//!   writes when all have said so   <--Revoked-
//!   or GRANT_WAIT after each grant
//! ```
//!
//! Nobody is told a version older than one that somebody was told before: a write is executed when no copy can be read any more, not
//! only acknowledged. So what a copy answers is what the owner would answer in that moment. Time alone makes it safe, whatever
//! becomes of messages; revoking makes it quick.

mod granting;
mod holding;
mod message;

#[cfg(test)]
mod simulation;

pub use granting::{Granting, GrantingCounts};
pub use holding::{Held, Holding};
pub use message::{Copy, Garbled, Message, decode};

use crate::time::Micros;

/// A copy is read for so long by its holder's clock, from when it asked for it.
pub const GRANT_TIME: Micros = Micros::from_millis(160);

/// An owner waits so long by its clock, from when it answered: a quarter more, because one clock may be a tenth slow and the other a
/// tenth fast. Below the time for which a write waits for other things, so that a holder that hangs makes no write fail.
pub const GRANT_WAIT: Micros = Micros::from_millis(200);

/// A key that was written is granted to nobody for so long: keys that are written often are only read at their owner.
pub const QUIET_TIME: Micros = Micros::from_millis(1_000);

/// Bytes of a value that is granted.
pub const GRANTED_VALUE_BYTES_MAX: usize = 64 << 10;

/// Keys that a shard may hold copies of, and their bytes.
pub const HELD_KEYS_MAX: usize = 1_024;
/// See [`HELD_KEYS_MAX`].
pub const HELD_BYTES_MAX: usize = 1 << 20;

/// Keys that an owner's shard keeps account of: more are not granted. Those that are hot are twenty at most.
pub const GRANTED_KEYS_MAX: usize = 256;

/// A holder that reads its copy asks anew when so little is left of it, and again after this time if nothing comes.
pub const ASK_BEFORE_END: Micros = Micros::from_millis(80);
/// See [`ASK_BEFORE_END`].
pub const ASK_EVERY: Micros = Micros::from_millis(40);

/// A flush reaches all nodes within a second, or fails: so long after it passed here nothing is asked for that may be from before.
pub const FLUSH_REST: Micros = Micros::from_millis(2_000);

const _: () =
    assert!(GRANT_TIME.0 * 11 < GRANT_WAIT.0 * 9, "the slowest holder is done before the fastest owner");
const _: () = assert!(QUIET_TIME.0 > 2 * GRANT_WAIT.0 && ASK_BEFORE_END.0 < GRANT_TIME.0);
const _: () = assert!(HELD_BYTES_MAX >= 4 * GRANTED_VALUE_BYTES_MAX);
