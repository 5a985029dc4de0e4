//! Locks on the data plane: an item that only one client can add is a lock, and its version is the fence; and those that servers keep,
//! which outlive items and nodes. No sockets, no clock.
//!
//! A lock alone excludes nobody: its holder may be paused, its item may end or be evicted, and another holds it then. What excludes
//! is the fence: whoever writes names it, and a write under a lower fence than another before is refused. `docs/locks.md` has the
//! whole story.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use crate::command::{Command, StoreOptions};
use crate::error::{Error, Executed};
use crate::key::Key;
use crate::meta::{MetaReply, MetaRequest, MetaStatus};
use crate::ttl::Ttl;

/// A holder who renews does so this many times within the life of its lock.
const RENEWALS_PER_LIFE: u32 = 3;
/// Pauses between two tries to get a lock: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// What servers keep for nobody longer.
const DAY: Duration = Duration::from_secs(60 * 60 * 24);

/// How a lock is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockOptions {
    /// How long it is held unless it is renewed, in whole seconds, at least one; a coordinated lock up to a day.
    pub ttl: Duration,
    /// How long to try while somebody else holds it. Zero is one try.
    pub wait: Duration,
    /// What the lock is.
    pub kind: LockKind,
}

/// What a lock is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockKind {
    /// An item, which any server of memcached 1.6 can keep. Its fence is its version: one request, and the fences of a key rise while its
    /// node lives, or has copies of it.
    #[default]
    Item,
    /// `lk`: kept by the etcd of a cluster of Slabring, or by one node and its file of fences. It is not evicted, ends to the
    /// millisecond, and its fences rise whatever happens to nodes. Hundreds in a second, not more.
    Coordinated,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(30), wait: Duration::ZERO, kind: LockKind::Item }
    }
}

/// A lock that was held when it was given. Dropped, it ends by itself after its time.
#[derive(Debug, PartialEq, Eq)]
pub struct Lock {
    key: Key,
    fence: u64,
    owner: String,
    ttl: Duration,
    kind: LockKind,
}

impl Lock {
    /// What writes name: higher than that of every holder before; see [`LockKind`].
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// What is locked.
    pub fn key(&self) -> &[u8] {
        self.key.as_bytes()
    }

    /// How long it is held after it was given or renewed.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Time between two renewals that leave room for one to fail.
    pub(crate) fn renewal_pause(&self) -> Duration {
        self.ttl / RENEWALS_PER_LIFE
    }
}

/// What became of a write under a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// It is done.
    Done,
    /// There was nothing to delete. The fence counts all the same.
    NotFound,
    /// Somebody has written under a higher fence: the lock is lost, and nothing was changed.
    Overtaken,
}

/// The work of getting one lock.
pub(crate) struct Acquisition {
    key: Key,
    owner: String,
    ttl: Duration,
    kind: LockKind,
    /// A try had no answer: the lock may be held by this very acquisition.
    is_in_doubt: bool,
    pause: Duration,
}

/// What a try has come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    Held(Lock),
    /// Somebody holds it.
    Taken,
}

impl Acquisition {
    pub(crate) fn new(key: Key, options: &LockOptions) -> Self {
        let &LockOptions { ttl, kind, .. } = options;
        let ttl = ttl.max(Duration::from_secs(1));
        let ttl = if kind == LockKind::Coordinated { ttl.min(DAY) } else { ttl };
        Self { key, owner: owner_name(), ttl, kind, is_in_doubt: false, pause: PAUSE_MIN }
    }

    /// What to send.
    pub(crate) fn command(&self) -> Command {
        let request = match self.kind {
            LockKind::Item => {
                let request = MetaRequest::set(self.owner.as_str()).flag_with(b'M', "E").flag(b'c');
                request.flag_with(b'T', seconds(self.ttl))
            }
            LockKind::Coordinated => {
                MetaRequest::lock('A', &self.owner).flag_with(b'T', self.ttl.as_millis())
            }
        };
        Command::Meta { key: self.key.clone(), request }
    }

    /// What to send next, when the answer to a try is to be looked into.
    pub(crate) fn look(&self) -> Command {
        Command::Meta { key: self.key.clone(), request: MetaRequest::get().flag(b'v').flag(b'c') }
    }

    /// Takes note of an answer to [`Self::command`]. `None`: only a [look](Self::look) can tell.
    pub(crate) fn tried(&mut self, answer: Result<MetaReply, Error>) -> Result<Option<Tried>, Error> {
        match answer {
            Ok(reply) if reply.status == MetaStatus::Done => self.held(&reply).map(Some),
            // Who keeps sessions says it again when it is asked again.
            Ok(_) if self.is_in_doubt && self.kind == LockKind::Item => Ok(None),
            Ok(_) => Ok(Some(Tried::Taken)),
            Err(error) => {
                self.is_in_doubt |= error.executed() == Executed::Unknown;
                Err(error)
            }
        }
    }

    /// Takes note of the answer to [`Self::look`].
    pub(crate) fn looked(&self, reply: &MetaReply) -> Result<Tried, Error> {
        if reply.value.as_deref() == Some(self.owner.as_bytes()) {
            self.held(reply)
        } else {
            Ok(Tried::Taken)
        }
    }

    /// The pause before the next try.
    pub(crate) fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }

    fn held(&self, reply: &MetaReply) -> Result<Tried, Error> {
        let letter = if self.kind == LockKind::Item { b'c' } else { b'F' };
        let fence = reply.number(letter).filter(|&fence| fence > 0).ok_or(Error::NoVersions)?;
        let Self { key, owner, ttl, kind, .. } = self;
        Ok(Tried::Held(Lock { key: key.clone(), fence, owner: owner.clone(), ttl: *ttl, kind: *kind }))
    }
}

/// Holds a lock for another while, under the same fence, if it is still held.
pub(crate) fn renew(lock: &Lock) -> Command {
    let request = match lock.kind {
        LockKind::Item => {
            let request = MetaRequest::set(lock.owner.as_str()).flag_with(b'C', lock.fence);
            request.flag_with(b'E', lock.fence).flag_with(b'T', seconds(lock.ttl))
        }
        LockKind::Coordinated => MetaRequest::lock('R', &lock.owner).flag_with(b'T', lock.ttl.as_millis()),
    };
    Command::Meta { key: lock.key.clone(), request }
}

/// Gives a lock up, if it is still held.
pub(crate) fn release(lock: Lock) -> Command {
    let request = match lock.kind {
        LockKind::Item => MetaRequest::delete().flag_with(b'C', lock.fence),
        LockKind::Coordinated => MetaRequest::lock('U', &lock.owner),
    };
    Command::Meta { key: lock.key, request }
}

/// Whether the lock was still held.
pub(crate) fn was_held(reply: &MetaReply) -> bool {
    reply.status == MetaStatus::Done
}

/// Stores a value under a fence. Panics if it is 0.
pub(crate) fn store(key: Key, value: Vec<u8>, options: StoreOptions, fence: u64) -> Command {
    assert!(fence > 0, "no lock has the fence 0");
    let StoreOptions { ttl, flags } = options;
    let request = MetaRequest::set(value).flag_with(b'Y', fence).flag_with(b'F', flags);
    let request = match ttl {
        Ttl::Never => request,
        Ttl::After(ttl) => request.flag_with(b'T', seconds(ttl)),
    };
    Command::Meta { key, request }
}

/// Deletes an item under a fence. Panics if it is 0.
pub(crate) fn delete(key: Key, fence: u64) -> Command {
    assert!(fence > 0, "no lock has the fence 0");
    Command::Meta { key, request: MetaRequest::delete().flag_with(b'Y', fence) }
}

/// What became of a write under a fence.
pub(crate) fn written(reply: &MetaReply) -> Fenced {
    match reply.status {
        MetaStatus::Done => Fenced::Done,
        MetaStatus::NotFound => Fenced::NotFound,
        _ => Fenced::Overtaken,
    }
}

/// What a server is told of a time: whole seconds, and beyond 30 days those, because a larger number would be read as a date.
fn seconds(ttl: Duration) -> i64 {
    const DAYS_30: Duration = Duration::from_secs(60 * 60 * 24 * 30);
    Ttl::After(ttl.min(DAYS_30)).exptime(0)
}

/// A name that no other acquisition has.
fn owner_name() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{}-{:016x}{:016x}", std::process::id(), random(), random())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Wire;

    fn reply(status: MetaStatus, cas: &str, value: Option<&[u8]>) -> MetaReply {
        MetaReply { status, flags: vec![(b'c', cas.to_owned())], value: value.map(<[u8]>::to_vec) }
    }

    fn acquisition() -> Acquisition {
        acquisition_of(LockKind::Item)
    }

    fn acquisition_of(kind: LockKind) -> Acquisition {
        let options = LockOptions { ttl: Duration::from_secs(5), kind, ..LockOptions::default() };
        Acquisition::new(Key::new(b"lock", Wire::Text).unwrap(), &options)
    }

    #[test]
    fn who_was_first_has_the_lock_and_its_version_is_the_fence() {
        let mut acquisition = acquisition();
        let tried = acquisition.tried(Ok(reply(MetaStatus::Done, "7", None))).unwrap();
        let Some(Tried::Held(lock)) = tried else { panic!("{tried:?}") };
        assert_eq!((lock.fence(), lock.key(), lock.ttl()), (7, &b"lock"[..], Duration::from_secs(5)));
        let taken = acquisition.tried(Ok(reply(MetaStatus::NotStored, "0", None))).unwrap();
        assert_eq!(taken, Some(Tried::Taken));
    }

    #[test]
    fn after_a_lost_answer_it_looks_whether_the_holder_is_itself() {
        let mut acquisition = acquisition();
        let server = "127.0.0.1:1".parse::<crate::Endpoint>().unwrap();
        let late = Error::Late { server: server.clone(), executed: Executed::Unknown };
        assert!(acquisition.tried(Err(late)).is_err());
        assert_eq!(acquisition.tried(Ok(reply(MetaStatus::NotStored, "0", None))), Ok(None));
        let owner = acquisition.owner.clone();
        let looked = acquisition.looked(&reply(MetaStatus::Value, "9", Some(owner.as_bytes()))).unwrap();
        assert!(matches!(looked, Tried::Held(lock) if lock.fence() == 9));
        let other = acquisition.looked(&reply(MetaStatus::Value, "9", Some(b"somebody"))).unwrap();
        assert_eq!(other, Tried::Taken);
        let gone =
            acquisition.looked(&MetaReply { status: MetaStatus::Miss, flags: Vec::new(), value: None });
        assert_eq!(gone.unwrap(), Tried::Taken);
    }

    #[test]
    fn a_coordinated_lock_has_its_fence_from_who_keeps_it_and_says_it_again() {
        let mut acquisition = acquisition_of(LockKind::Coordinated);
        let Command::Meta { request, .. } = acquisition.command() else { panic!() };
        assert_eq!(request.flags(), format!("MA S{} T5000", acquisition.owner).as_bytes());
        assert!(request.is_read_only(), "it may be asked again");
        let server = "127.0.0.1:1".parse::<crate::Endpoint>().unwrap();
        assert!(acquisition.tried(Err(Error::Late { server, executed: Executed::Unknown })).is_err());
        let taken = MetaReply { status: MetaStatus::NotStored, flags: vec![(b'F', "8".into())], value: None };
        assert_eq!(acquisition.tried(Ok(taken)), Ok(Some(Tried::Taken)));
        let held = MetaReply { status: MetaStatus::Done, flags: vec![(b'F', "9".into())], value: None };
        let Ok(Some(Tried::Held(lock))) = acquisition.tried(Ok(held)) else { panic!() };
        assert_eq!(lock.fence(), 9);
        let Command::Meta { request, .. } = renew(&lock) else { panic!() };
        assert_eq!(request.flags(), format!("MR S{} T5000", lock.owner).as_bytes());
        let owner = lock.owner.clone();
        let Command::Meta { request, .. } = release(lock) else { panic!() };
        assert_eq!(request.flags(), format!("MU S{owner}").as_bytes());
    }

    #[test]
    fn without_versions_there_is_no_fence_and_no_lock() {
        let refused = acquisition().tried(Ok(reply(MetaStatus::Done, "0", None)));
        assert_eq!(refused, Err(Error::NoVersions));
    }

    #[test]
    fn no_two_acquisitions_have_one_name() {
        assert_ne!(acquisition().owner, acquisition().owner);
    }
}
