//! The safeguards that tests take away one at a time, to see that it would find their absence.
//! Outside the crate's own tests all of them hold, and asking is free.

/// What keeps a cluster right when messages are late, doubled or lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Safeguard {
    /// A ring is followed by a newer one only.
    EpochsRise,
    /// A node executes only what its ring says is its own.
    OwnershipIsChecked,
    /// A request is sent at most [`crate::forward::HOPS_MAX`] times.
    HopsAreLimited,
    /// A request is sent only while the peer granted credit.
    CreditIsKept,
    /// A request waits behind those of its key that are to be sent again or are on their way to another node.
    KeysKeepTheirOrder,
    /// An expired request is not executed.
    DeadlinesHold,
    /// A silent peer's link is closed.
    SilenceIsNoticed,
    /// A ring is written only by the conductor of the moment.
    RingWritesAreFenced,
    /// What is read is not answered unless the lease held afterwards.
    LeaseIsChecked,
    /// A new primary waits until no lease of the old one can be good.
    PromotionWaits,
    /// Whoever begins with nothing, since nobody holds anything, waits until all others know.
    HeirsWaitForAll,
    /// A backup takes nothing from a node that is not primary by its ring.
    BackupsFence,
    /// What is not with all backups is not read.
    PendingIsNotRead,
    /// A write is acknowledged when all backups have it.
    WritesWaitForBackups,
    /// A primary waits for a silent backup until the ring says that it is down.
    BackupsStayUntilDown,
    /// Only a node that holds everything may become primary.
    PromotionNeedsSync,
    /// A new primary says again what it is not sure that the others have.
    DoubtsAreSettled,
    /// What is filled is emptied first.
    FillingEmptiesFirst,
    /// A primary tells its copies who of them is behind.
    WhoIsBehindIsTold,
    /// What was said since a flush, before the primary's word of it, does not outlive that primary.
    FlushesAreAwaited,
    /// A copy puts what is put to a value to that very value only.
    DeltaNeedsItsBase,
    /// A write is executed when nobody can read a copy of what it changes.
    WritesWaitForHolders,
    /// A copy of a hot key is read for a time that begins when it is asked for.
    GrantsRunFromAsking,
    /// A node follows another ring when nobody reads what it granted.
    GrantsEndBeforeRings,
    /// Who owns what a node owned that cannot be asked lets the time of its grants pass.
    SuccessorsWait,
}

/// Whether a safeguard is in force.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn holds(_: Safeguard) -> bool {
    true
}

#[cfg(test)]
pub(crate) use switch::{holds, without};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::Safeguard;

    thread_local! {
        static OFF: Cell<Option<Safeguard>> = const { Cell::new(None) };
    }

    pub(crate) fn holds(safeguard: Safeguard) -> bool {
        OFF.get() != Some(safeguard)
    }

    /// Runs `work` with one safeguard off, on this thread.
    pub(crate) fn without<T>(safeguard: Safeguard, work: impl FnOnce() -> T) -> T {
        struct Restored;
        impl Drop for Restored {
            fn drop(&mut self) {
                OFF.set(None);
            }
        }
        OFF.set(Some(safeguard));
        let _restored = Restored;
        work()
    }
}
