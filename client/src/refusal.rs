//! What a server's refusal means for the client: whether it was executed, and what to do about it. Never a refusal of
//! the client's own.

use slabring_protocol::client::ReplyKind;

use crate::endpoint::Endpoint;
use crate::error::Executed;

/// `SERVER_ERROR MOVED EPOCH PARTITION HOST:PORT`: another node owns the key.
const MOVED: &str = "SERVER_ERROR MOVED ";

/// Said by a node that did not execute the request and may a moment later. Source: `slabring_protocol`'s `ErrorReply`.
const SOON: [&str; 7] = [
    "SERVER_ERROR no ring yet",
    "SERVER_ERROR the ring is changing",
    "SERVER_ERROR the key's node is busy",
    "SERVER_ERROR too much under way to the key's node",
    "SERVER_ERROR the key's copies do not answer",
    "SERVER_ERROR too much waits for the key's copies",
    "SERVER_ERROR the key is being written or handed over",
];

/// Begins what a server says that passed a request on and does not know more.
const PASSED_ON: [&str; 2] =
    ["SERVER_ERROR the key's node cannot be reached", "SERVER_ERROR the key's node did not answer in time"];

/// What to do about a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is the answer.
    Final(Executed),
    /// Not executed: ask again in a moment.
    Soon,
    /// Not executed: ask this node, and learn the ring anew.
    Moved(Endpoint),
}

impl Refusal {
    /// What a line means; `None` if it is no refusal.
    pub(crate) fn of(kind: ReplyKind, words: &str) -> Option<Self> {
        match kind {
            ReplyKind::Error | ReplyKind::ClientError => Some(Self::Final(Executed::No)),
            ReplyKind::ServerError => Some(Self::of_server_error(words)),
            _ => None,
        }
    }

    /// Whether what was refused may have been executed.
    pub(crate) fn executed(&self) -> Executed {
        match self {
            Self::Final(executed) => *executed,
            Self::Soon | Self::Moved(_) => Executed::No,
        }
    }

    fn of_server_error(words: &str) -> Self {
        let owner = words.strip_prefix(MOVED).and_then(|rest| rest.split(' ').nth(2));
        if let Some(owner) = owner.and_then(|text| text.parse().ok()) {
            return Self::Moved(owner);
        }
        if SOON.contains(&words) {
            return Self::Soon;
        }
        Self::Final(Executed::Unknown)
    }
}

/// Whether a refusal suggests that the ring has changed.
pub(crate) fn hints_at_new_ring(words: &str) -> bool {
    words.starts_with(MOVED) || SOON[..2].contains(&words) || PASSED_ON.contains(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: ReplyKind, words: &str, refusal: &Option<Refusal>) {
        assert_eq!(Refusal::of(kind, words), *refusal, "{words}");
    }

    #[test]
    fn only_what_was_certainly_not_executed_is_asked_again() {
        let unknown = &Some(Refusal::Final(Executed::Unknown));
        check(ReplyKind::ServerError, "SERVER_ERROR out of memory storing object", unknown);
        check(ReplyKind::ServerError, PASSED_ON[1], unknown);
        check(ReplyKind::ServerError, SOON[1], &Some(Refusal::Soon));
        for words in &SOON[4..] {
            check(ReplyKind::ServerError, words, &Some(Refusal::Soon));
        }
        let unconfirmed = "SERVER_ERROR the key's copies did not confirm in time";
        check(ReplyKind::ServerError, unconfirmed, unknown);
        check(ReplyKind::Error, "ERROR", &Some(Refusal::Final(Executed::No)));
        check(ReplyKind::Stored, "STORED", &None);
        let moved = "SERVER_ERROR MOVED 7 123 10.0.0.2:11211";
        check(ReplyKind::ServerError, moved, &Some(Refusal::Moved(Endpoint::tcp("10.0.0.2", 11211))));
        check(ReplyKind::ServerError, "SERVER_ERROR MOVED 7 123 nowhere:x", unknown);
    }

    #[test]
    fn refusals_of_the_ring_make_the_client_ask_for_it() {
        assert!(hints_at_new_ring("SERVER_ERROR MOVED 7 123 a:1") && hints_at_new_ring(SOON[0]));
        assert!(!hints_at_new_ring(SOON[2]) && hints_at_new_ring(PASSED_ON[0]));
    }
}
