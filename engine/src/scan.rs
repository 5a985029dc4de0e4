//! Walking over all items in bounded steps, while operations change the shard between them. Never changes anything.
//!
//! The walk goes by the order of the keys' hashes, and all it remembers is how far it came. A bucket of the index holds the
//! keys of one range of hashes however many buckets there are, so growth does not disturb it, and neither do items that are
//! replaced or moved: their keys keep their hashes.

use crate::expiry::Seconds;
use crate::item::Item;
use crate::shard::Shard;

/// How far a walk over the items of one shard came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Keys with hashes below this were passed.
    next: u64,
    done: bool,
}

/// Whether a walk is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanStep {
    /// There may be more items.
    More,
    /// Every item was passed.
    Done,
}

impl Scan {
    /// Before the first item.
    pub fn new() -> Scan {
        Scan::default()
    }

    /// As it was when its [place](Scan::place) was told.
    pub fn resumed(place: u64) -> Scan {
        Scan { next: place, done: false }
    }

    /// How far it came, as a number: 0 before the first item. Good for as long as the shard lives.
    pub fn place(&self) -> u64 {
        self.next
    }
}

impl Shard {
    /// Shows the live items of the next `buckets_max` buckets, about ten in each. One cache miss for a bucket and
    /// one for each item.
    ///
    /// A key that was there from before the first step until after the last is shown exactly once, whatever is stored,
    /// deleted and evicted between the steps; any other key at most once. The step after the last shows nothing.
    pub fn scan(
        &self,
        now: Seconds,
        scan: &mut Scan,
        buckets_max: usize,
        mut show: impl FnMut(&Item<'_>),
    ) -> ScanStep {
        for _ in 0..buckets_max {
            if scan.done {
                break;
            }
            // After growth the bucket may hold keys that were passed already.
            let next = self.index.walk(scan.next, |location| {
                let header = self.arena.header(location);
                if self.hash_at(location) >= scan.next && self.death(location, header, now).is_none() {
                    show(&Item::new(self, location, header, now));
                }
            });
            scan.done = next.is_none();
            scan.next = next.unwrap_or(u64::MAX);
        }
        if scan.done { ScanStep::Done } else { ScanStep::More }
    }
}
