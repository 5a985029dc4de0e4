//! Meta commands as values: what memcached's `mg`, `ms`, `md` and `ma` can be asked beyond the classic commands.

/// Flags that the client sets itself: an opaque tells replies apart, and a key is encoded where it must be.
const FLAGS_OF_THE_CLIENT: &[u8] = b"bkqO";

/// Which meta command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaVerb {
    /// `mg`.
    Get,
    /// `ms`.
    Set,
    /// `md`.
    Delete,
    /// `ma`.
    Arithmetic,
    /// `lk`, which is no meta command of memcached's and looks like one.
    Lock,
}

/// A meta command without its key.
///
/// The flags are memcached's, `doc/protocol.txt` "Meta Commands". Not `b`, `k`, `q` and `O`: those are the client's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaRequest {
    verb: MetaVerb,
    flags: Vec<u8>,
    value: Option<Vec<u8>>,
    is_read_only: bool,
}

impl MetaRequest {
    /// `mg`.
    pub fn get() -> Self {
        Self { verb: MetaVerb::Get, flags: Vec::new(), value: None, is_read_only: true }
    }

    /// `ms` of a value.
    pub fn set(value: impl Into<Vec<u8>>) -> Self {
        Self { verb: MetaVerb::Set, flags: Vec::new(), value: Some(value.into()), is_read_only: false }
    }

    /// `md`.
    pub fn delete() -> Self {
        Self { verb: MetaVerb::Delete, flags: Vec::new(), value: None, is_read_only: false }
    }

    /// `ma`.
    pub fn arithmetic() -> Self {
        Self { verb: MetaVerb::Arithmetic, flags: Vec::new(), value: None, is_read_only: false }
    }

    /// `lk`: `A` acquires, `R` renews, `U` gives up. A session may ask again: it is told the same.
    pub(crate) fn lock(verb: char, session: &str) -> Self {
        let lock = Self { verb: MetaVerb::Lock, flags: Vec::new(), value: None, is_read_only: true };
        lock.flag_with(b'M', verb).flag_with(b'S', session)
    }

    /// Adds a flag without a token, as `v`.
    #[must_use]
    pub fn flag(self, flag: u8) -> Self {
        self.flag_with(flag, "")
    }

    /// Adds a flag with its token, as `T` with `30`. Panics if the flag is the client's own or the token has a space.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a number or a word, as it is at hand")]
    pub fn flag_with(mut self, flag: u8, token: impl ToString) -> Self {
        assert!(flag.is_ascii_alphabetic(), "a flag is a letter");
        assert!(!FLAGS_OF_THE_CLIENT.contains(&flag), "the flag {} is set by the client", char::from(flag));
        let token = token.to_string();
        assert!(token.bytes().all(|byte| byte.is_ascii_graphic()), "a token has no space: {token:?}");
        // N makes an item, T moves its end; R hands out the right to recache, and W says who has it.
        self.is_read_only &= self.verb == MetaVerb::Lock || !b"NTREY".contains(&flag);
        if !self.flags.is_empty() {
            self.flags.push(b' ');
        }
        self.flags.push(flag);
        self.flags.extend_from_slice(token.as_bytes());
        self
    }

    pub(crate) fn verb(&self) -> MetaVerb {
        self.verb
    }

    pub(crate) fn flags(&self) -> &[u8] {
        &self.flags
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags.split(|&byte| byte == b' ').any(|word| word.first() == Some(&flag))
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }
}

/// What a server said to a meta command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaReply {
    /// The two letters.
    pub status: MetaStatus,
    /// The flags it came with, each with its token.
    pub flags: Vec<(u8, String)>,
    /// The value, with [`MetaStatus::Value`].
    pub value: Option<Vec<u8>>,
}

/// The two letters of a meta reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaStatus {
    /// `VA`: a value follows.
    Value,
    /// `HD`: done, or found.
    Done,
    /// `EN`: a miss of `mg`.
    Miss,
    /// `NF`: no item.
    NotFound,
    /// `NS`: not stored.
    NotStored,
    /// `EX`: the item is of another version.
    Exists,
}

impl MetaReply {
    /// The token of a flag: empty if it has none, `None` if the flag is not there.
    pub fn flag(&self, flag: u8) -> Option<&str> {
        self.flags.iter().find(|(name, _)| *name == flag).map(|(_, token)| token.as_str())
    }

    /// The number that a flag came with.
    pub fn number(&self, flag: u8) -> Option<u64> {
        self.flag(flag)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hands_out_a_lease_is_not_asked_twice() {
        assert!(MetaRequest::get().flag(b'v').flag(b'c').is_read_only());
        for flag in [b'N', b'R', b'T'] {
            assert!(!MetaRequest::get().flag_with(flag, 30).is_read_only());
        }
        assert!(!MetaRequest::set("v").is_read_only() && !MetaRequest::delete().is_read_only());
    }

    #[test]
    #[should_panic(expected = "set by the client")]
    fn a_quiet_command_would_leave_the_client_waiting() {
        let _never = MetaRequest::get().flag(b'q');
    }
}
