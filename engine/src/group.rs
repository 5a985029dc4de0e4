//! Flushing one group of keys. A group is a number that the caller derives from a key; the shard asks for it only where an
//! item may have been flushed, and stores nothing of it with the items.

use crate::arena::Location;
use crate::expiry::Seconds;
use crate::header::Header;
use crate::shard::Shard;

/// Groups that keys can be in: `0..GROUPS`.
pub const GROUPS: u16 = 1 << 14;

/// What was flushed of each group: 128 KiB, beside the shard's budget.
pub(crate) struct Groups {
    of: fn(&[u8]) -> u16,
    /// Items of a group of this version and older are dead.
    floors: Box<[u64]>,
}

impl Shard {
    /// Makes every item of a group of keys stored so far a miss. O(1), after the first call, which allocates 128 KiB; the memory
    /// of the items comes back as they are met.
    ///
    /// `of` derives the group of a key, below [`GROUPS`], and must be the same in all calls. It is asked at reads of items
    /// that were stored before the last flush of any group, and no others. The shard must have CAS.
    pub fn flush_group(&mut self, group: u16, of: fn(&[u8]) -> u16) {
        assert!(self.cas.is_some(), "without CAS items do not tell when they were stored");
        let new = || Groups { of, floors: vec![0; usize::from(GROUPS)].into() };
        let groups = self.groups.get_or_insert_with(new);
        groups.floors[usize::from(group)] = self.version;
        self.doubted_version = self.version;
    }

    /// Whether an item that may have been flushed was.
    #[cold]
    pub(crate) fn was_flushed(&self, location: Location, header: Header) -> bool {
        let group_was = |groups: &Groups| {
            let group = (groups.of)(self.arena.key(location));
            header.version() <= groups.floors[usize::from(group)]
        };
        header.version() <= self.flushed_version || self.groups.as_ref().is_some_and(group_was)
    }

    /// All items have got new versions: none of those that are left was flushed.
    pub(crate) fn forget_floors(&mut self) {
        self.groups = None;
        self.doubted_version = 0;
    }

    /// Frees what only this process knows to be dead.
    pub(crate) fn free_flushed_groups(&mut self) {
        if self.groups.is_some() {
            self.sweep_chunk = 0;
            // An expiry in the past makes no difference to what is dead anyway.
            self.sweep(Seconds(0), usize::MAX);
        }
    }
}
