//! Replies of what memcached does not have: hot keys, and lines for who keeps copies of values.

use super::{CRLF, append_field, append_uri, stat};
use crate::base64;
use crate::limits::KEY_SIZE_MAX;
use crate::number;

/// How often a key was asked for in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotKeyCounts {
    /// Requests, about.
    pub requests: u64,
    /// By how much that may be too high.
    pub error: u64,
    /// Requests to its shard.
    pub of: u64,
    /// The shard.
    pub shard: u64,
}

/// The key of this rank in `stats hotkeys`, as five lines.
pub fn hot_key(out: &mut Vec<u8>, rank: u64, key: &[u8], counts: &HotKeyCounts) {
    assert!(key.len() <= KEY_SIZE_MAX);
    out.extend_from_slice(b"STAT hot:");
    number::append(out, rank);
    out.extend_from_slice(b":key ");
    append_uri(out, key);
    out.extend_from_slice(CRLF);
    let HotKeyCounts { requests, error, of, shard } = *counts;
    let per_mille = requests.saturating_mul(1000) / of.max(1);
    let percent = format_args!("{}.{}", per_mille / 10, per_mille % 10);
    stat(out, format_args!("hot:{rank}:requests"), requests);
    stat(out, format_args!("hot:{rank}:error"), error);
    stat(out, format_args!("hot:{rank}:percent"), percent);
    stat(out, format_args!("hot:{rank}:shard"), shard);
}

/// How a lock command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockSaid<'a> {
    /// `HD`: who asked holds it, or who is named.
    Held {
        /// Higher than all before of any name.
        fence: u64,
        /// For how long from now on, in milliseconds.
        left_ms: u64,
        /// Who.
        session: &'a [u8],
    },
    /// `NS`: somebody else holds it.
    Taken {
        /// That one's fence.
        fence: u64,
        /// For how long from now on, in milliseconds, unless it is renewed.
        left_ms: u64,
    },
    /// `HD`: it is given up.
    Released,
    /// `NF`: nobody holds it.
    Free,
    /// `EX`: somebody else holds it, and nothing changed.
    NotYours,
}

/// Answers `lk`. `opaque` is empty or begins with its letter.
pub fn lock(out: &mut Vec<u8>, said: LockSaid<'_>, opaque: &[u8]) {
    let word: &[u8] = match said {
        LockSaid::Held { .. } | LockSaid::Released => b"HD",
        LockSaid::Taken { .. } => b"NS",
        LockSaid::Free => b"NF",
        LockSaid::NotYours => b"EX",
    };
    out.extend_from_slice(word);
    if let LockSaid::Held { fence, left_ms, .. } | LockSaid::Taken { fence, left_ms } = said {
        append_field(out, " F", fence);
        append_field(out, " t", left_ms);
    }
    if let LockSaid::Held { session, .. } = said {
        out.extend_from_slice(b" S");
        out.extend_from_slice(session);
    }
    if !opaque.is_empty() {
        out.push(b' ');
        out.extend_from_slice(opaque);
    }
    out.extend_from_slice(CRLF);
}

/// Answers `track on`: from here on the connection is only told things. Reads are marked with the number.
pub fn tracking(out: &mut Vec<u8>, id: u64, epoch: u64) {
    append_field_line(out, "TRACKING ", &[id, epoch]);
}

/// A key may have another value than it had: the `number`-th line of its epoch, from 1.
///
/// A key that is no word is shown in base64, with a `b` behind it.
pub fn invalidated(out: &mut Vec<u8>, epoch: u64, number: u64, key: &[u8]) {
    assert!(!key.is_empty() && key.len() <= KEY_SIZE_MAX);
    append_field(out, "IV ", epoch);
    append_field(out, " ", number);
    out.push(b' ');
    if key.iter().all(u8::is_ascii_graphic) {
        out.extend_from_slice(key);
    } else {
        base64::append(out, key);
        out.extend_from_slice(b" b");
    }
    out.extend_from_slice(CRLF);
}

/// All keys may: a new epoch begins.
pub fn all_invalidated(out: &mut Vec<u8>, epoch: u64) {
    append_field_line(out, "IF ", &[epoch]);
}

/// Whatever changed before this moment was told: `milliseconds` after [`tracking`], in the line of this number or before it.
pub fn track_ping(out: &mut Vec<u8>, epoch: u64, number: u64, milliseconds: u64) {
    append_field_line(out, "PING ", &[epoch, number, milliseconds]);
}

fn append_field_line(out: &mut Vec<u8>, word: &str, numbers: &[u64]) {
    let spaces = std::iter::once(word).chain(std::iter::repeat(" "));
    spaces.zip(numbers).for_each(|(before, &number)| append_field(out, before, number));
    out.extend_from_slice(CRLF);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(append: impl FnOnce(&mut Vec<u8>), expected: &str) {
        let mut out = Vec::new();
        append(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn who_tracks_is_told_keys_as_one_word() {
        check(|out| tracking(out, 7, 12), "TRACKING 7 12\r\n");
        check(|out| invalidated(out, 12, 1, b"user:1"), "IV 12 1 user:1\r\n");
        check(|out| invalidated(out, 12, 2, b"a b"), "IV 12 2 YSBi b\r\n");
        check(|out| all_invalidated(out, 13), "IF 13\r\n");
        check(|out| track_ping(out, 13, 0, 1000), "PING 13 0 1000\r\n");
    }

    #[test]
    fn a_lock_is_told_with_its_fence() {
        let held = LockSaid::Held { fence: 7, left_ms: 5000, session: b"me" };
        check(|out| lock(out, held, b"O1"), "HD F7 t5000 Sme O1\r\n");
        check(|out| lock(out, LockSaid::Taken { fence: 7, left_ms: 1 }, b""), "NS F7 t1\r\n");
        check(|out| lock(out, LockSaid::Released, b"O1"), "HD O1\r\n");
        check(|out| lock(out, LockSaid::Free, b""), "NF\r\n");
        check(|out| lock(out, LockSaid::NotYours, b""), "EX\r\n");
    }

    #[test]
    fn a_hot_key_is_told_with_its_part_of_its_shard() {
        let counts = HotKeyCounts { requests: 1280, error: 64, of: 10_000, shard: 1 };
        check(
            |out| hot_key(out, 1, b"a b", &counts),
            "STAT hot:1:key a%20b\r\nSTAT hot:1:requests 1280\r\nSTAT hot:1:error 64\r\n\
             STAT hot:1:percent 12.8\r\nSTAT hot:1:shard 1\r\n",
        );
    }
}
