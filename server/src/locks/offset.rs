//! What the fences of a cluster's locks are counted from, so that they rise although etcd may lose what it had. No I/O, no clock, no threads:
//! what is known of the offset that etcd keeps, and which one the next key is to have.
//!
//! ```text
//! fence = offset + create revision        both of a session's key; the offset is written into it when it is created
//! ```
//!
//! **While etcd keeps what it has**, no clock is trusted. One key has the offset for who comes next. Whoever puts a session's key does so in a
//! transaction that compares that key with what was read of it, and may put a higher one. So of two sessions' keys the later one has
//! the higher create revision and no lower offset: fences rise over all locks. A session's key keeps its offset, so who asks again gets the
//! same fence. Of two nodes that raise the offset at once one finds another than it has read, and begins anew.
//!
//! **When etcd comes back empty or from a backup**, its revisions begin anew or go back. So offset and revision together, the *count*, are a
//! time as well, in 1 024ths of a millisecond since 1970: who creates a session's key and finds the count more than a second behind the
//! clock raises the offset in that transaction. etcd makes far fewer revisions than time makes such parts, so the count follows the fastest of
//! the nodes' clocks, and the first fence after the loss is above the last one before if between the two there is more time than a second, a call
//! (two) and what the clocks of two nodes differ by. For that nobody need remember anything, so fences that something outside remembers are
//! safe too, with all nodes started anew. Where clocks differ by more, a node that has heard of a higher count than it finds raises above
//! that one, whatever its clock says.
//!
//! A node's clock is read when it starts and runs on evenly: what is set right later counts as a difference until the next start.
//! A clock that was ahead once does no harm while nothing is lost: the count stays there. Fences are below 2^53 until the year 2248, and below 2^63 with any clock.
//! A session's key without an offset was put by a build that had none: its fence is, as it was then, the create revision.

use slabring_cluster::coordinator::Revision;

/// Counts in a millisecond: more than etcd makes revisions.
const COUNTS_PER_MS: u64 = 1_024;
/// The count is so far behind the clock at most when a session's key is created. Less would make more nodes begin anew.
const BEHIND_MS_MAX: u64 = 1_000;
/// No offset is higher, so that no fence is above 2^63.
const OFFSET_MAX: u64 = 1 << 62;

/// The offset that etcd keeps, as far as it is known. See the module.
#[derive(Default, Debug)]
pub struct Offset {
    /// Its key's value when it was read last; `None`: there was no such key.
    value: Option<Box<[u8]>>,
    offset: u64,
    /// etcd's revision then.
    revision: Revision,
    /// The highest count of which this node has heard in any history of etcd.
    count_max: u64,
}

/// What a session's key is put with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next<'a> {
    /// What the offset's key must be; `None`: it must not be there.
    pub known: Option<&'a [u8]>,
    /// The offset of one that is created.
    pub offset: u64,
    /// Whether it is to be put as that of all who come later.
    pub is_raised: bool,
}

impl Offset {
    /// The revision of what was read last. An answer to what is asked from now on has no earlier one, unless etcd has lost some.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Takes what was read at `revision`, of which `asked_after` was known when it was asked. False: etcd is in another history than it was.
    pub fn read(&mut self, asked_after: Revision, revision: Revision, value: Option<&[u8]>) -> bool {
        let is_same_history = revision >= asked_after;
        if !is_same_history || revision >= self.revision {
            self.revision = revision;
            self.offset = value.and_then(parse).unwrap_or(0);
            self.value = value.map(Box::from);
            self.count_max = self.count_max.max(self.count());
        }
        is_same_history
    }

    /// What a session's key is put with at this time.
    pub fn next(&self, unix_ms: u64) -> Next<'_> {
        let clock = unix_ms.saturating_mul(COUNTS_PER_MS);
        let is_behind = self.count() + BEHIND_MS_MAX * COUNTS_PER_MS < clock;
        let is_raised = is_behind || self.count() < self.count_max;
        let known = self.value.as_deref();
        if !is_raised {
            return Next { known, offset: self.offset, is_raised };
        }
        let offset = self.count_max.max(clock).saturating_sub(self.revision.0).min(OFFSET_MAX);
        assert!(offset >= self.offset, "it rises, or is at its highest");
        Next { known, offset, is_raised }
    }

    /// A session's key of the last revision had this fence at most.
    fn count(&self) -> u64 {
        self.offset.saturating_add(self.revision.0)
    }
}

/// Whatever is no offset counts as none, and is replaced.
fn parse(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok().filter(|offset| *offset <= OFFSET_MAX)
}

#[cfg(test)]
mod tests;
