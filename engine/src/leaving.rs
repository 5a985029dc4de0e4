//! Taking a page from its class a few chunks at a time, and choosing the page. That pages follow demand is decided in `automove.rs`;
//! here only that somebody needs one. Never writes an item's value.
//!
//! A page that leaves gets no new items; what becomes of those it has is said in `rescue.rs`. Nobody waits for it: what is needed
//! meanwhile comes from one page's worth of budget that is kept free.

use crate::arena::Location;
use crate::expiry::Seconds;
use crate::header::{Chunk, Header};
use crate::shard::Shard;
use crate::slab::{CLASSES_MAX, Class, ClassId, PageId};
use crate::warm::PAGE_GROUP;

/// Chunks of a leaving page looked at for one store: a few microseconds, and more than any store adds.
const DRAIN_CHUNKS_PER_STORE: usize = 16;
/// So much may be spent on keeping items of a page that must go at once, in chunks looked at: a tenth of a millisecond.
const RESCUE_COST_AT_ONCE_MAX: usize = 512;
/// Pages of a class that are compared when one must go.
const PAGES_SAMPLED: usize = 8;
/// Chunks that stand for a page in that comparison.
const CHUNKS_SAMPLED: u32 = 32;
/// A page's worth in tenths of a hit: what an item of the main region is worth beyond its hits.
const WORTH_OF_MAIN: u64 = 3;
const WORTH_OF_HIT: u64 = 10;
const _: () = assert!(CLASSES_MAX <= u128::BITS as usize);

/// A page on its way out of its class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    pub(crate) page: PageId,
    /// The next chunk to look at.
    chunk: u32,
    destination: Destination,
}

/// What became of a chunk whose page is wanted; `cost` is in chunks looked at.
#[derive(Clone, Copy, Debug)]
enum Clearing {
    Done {
        cost: usize,
    },
    /// It is part of a long value that is being freed, and comes when it is its turn.
    Begun {
        cost: usize,
    },
    /// The current operation still needs it, or somebody who reads or writes it.
    Refused,
}

/// What a chunk is to whoever wants its page.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Free,
    /// Of the item with this head, which may be moved or evicted.
    Item(Location, Header),
    /// Of a value that is being freed.
    Dead,
    Stays,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination {
    /// Another class needs it more.
    Class(ClassId),
    /// Its memory is needed for something else.
    Budget,
}

impl Shard {
    /// A step of what is done in the background: pages that move between classes, room for the caller's external
    /// bytes. Looks at no more than `chunks_max` chunks, at a quarter of a microsecond each. True if there is more
    /// to do.
    ///
    /// Stores do a few chunks of this by themselves, and [`Shard::sweep`] does; a caller with time to spare, or with
    /// external bytes that rose by much, calls it as well.
    pub fn maintain(&mut self, now: Seconds, chunks_max: usize) -> bool {
        self.flush_if_due(now);
        let mut left = chunks_max - self.free_dead(chunks_max);
        while left > 0 && self.begin_what_is_needed() {
            left = self.drain(now, left);
        }
        self.begin_what_is_needed() || !self.dead.is_empty()
    }

    /// What every store does last, when it holds on to no location any more.
    #[inline]
    pub(crate) fn step_aside(&mut self, now: Seconds) {
        if !self.dead.is_empty() {
            self.free_dead(DRAIN_CHUNKS_PER_STORE);
        }
        if self.leaving.is_some() || self.is_short() {
            self.begin_what_is_needed();
            self.drain(now, DRAIN_CHUNKS_PER_STORE);
        } else if self.requests >= self.next_comparison {
            self.compare_classes();
        }
    }

    /// Finishes the page that is leaving, whatever it takes, unless it holds what must survive the current operation.
    pub(crate) fn finish_leaving(&mut self, now: Seconds) -> bool {
        let Some(Leaving { page, chunk, destination }) = self.leaving else { return false };
        let movable = self.is_movable(page);
        if movable {
            self.leaving = None;
            self.clear_page(now, page, chunk);
            self.arrive(page, destination);
        }
        movable
    }

    /// A page of the class with most of them, or of the next if none of its pages can go.
    pub(crate) fn cheapest_page(&self) -> Option<PageId> {
        self.page_by(None, |class| class.pages)
    }

    /// A page of another class for somebody who waits for it: where clearing one takes long, of a class with many pages
    /// and few items in each.
    pub(crate) fn quickest_page(&self, except: ClassId) -> Option<PageId> {
        let is_quick = self.spare_bytes == 0;
        let chunks = |class: &Class| if is_quick { 1 } else { class.chunks_per_page as usize };
        self.page_by(Some(except), |class| (class.pages << u16::BITS) / chunks(class))
    }

    fn page_by(&self, except: Option<ClassId>, score: impl Fn(&Class) -> usize) -> Option<PageId> {
        let mut tried = except.map_or(0, |class| 1_u128 << class.0);
        loop {
            let untried = self.slabs.class_ids().filter(|class| tried >> class.0 & 1 == 0);
            let donor = untried.max_by_key(|&class| score(self.slabs.class(class)))?;
            tried |= 1 << donor.0;
            let cheapest = self.cheapest_page_of(donor);
            if cheapest.is_some() {
                return cheapest;
            }
        }
    }

    /// Takes a page from its class at once. Few of its items are kept: somebody waits.
    pub(crate) fn release_page(&mut self, now: Seconds, page: PageId) {
        self.slabs.begin_leaving(page);
        self.clear_page(now, page, 0);
        self.unassign_page(page);
    }

    /// Clears a page that leaves, from a chunk on.
    fn clear_page(&mut self, now: Seconds, page: PageId, first: u32) {
        let mut cost_left = RESCUE_COST_AT_ONCE_MAX;
        for chunk in first..self.slabs.touched_in(page) {
            if chunk.is_multiple_of(PAGE_GROUP) {
                self.warm_page(page, chunk);
            }
            let location = self.slabs.chunk_at(page, chunk);
            loop {
                match self.clear_chunk(now, location, cost_left > 0) {
                    Clearing::Done { cost } => {
                        cost_left = cost_left.saturating_sub(cost - 1);
                        break;
                    }
                    Clearing::Begun { .. } => {}
                    Clearing::Refused => panic!("a page that is being written to cannot be moved"),
                }
            }
        }
    }

    /// Bytes of links that a page of a class needs, for the policy that keeps the order of use.
    pub(crate) fn link_bytes_of(&self, class: ClassId) -> usize {
        let chunks = self.slabs.class(class).chunks_per_page as usize;
        self.recency.as_ref().map_or(0, |recency| recency.bytes_of_page(chunks))
    }

    /// Whether memory is needed that only items hold.
    fn is_short(&self) -> bool {
        self.evict && (!self.fits(self.spare_bytes) || self.external_wanted > self.external_bytes)
    }

    /// Settles what fits already, and lets a page leave for the rest. True while one does.
    fn begin_what_is_needed(&mut self) -> bool {
        self.take_external_bytes();
        if self.leaving.is_none()
            && self.is_short()
            && let Some(page) = self.find_empty_page().or_else(|| self.cheapest_page())
        {
            self.begin_leaving(page, Destination::Budget);
        }
        self.leaving.is_some()
    }

    pub(crate) fn begin_leaving(&mut self, page: PageId, destination: Destination) {
        assert!(self.leaving.is_none());
        self.slabs.begin_leaving(page);
        self.leaving = Some(Leaving { page, chunk: 0, destination });
    }

    /// Looks at so many chunks of the leaving page; returns how many more there was leave to look at.
    pub(crate) fn drain(&mut self, now: Seconds, chunks_max: usize) -> usize {
        let mut left = chunks_max;
        self.cancel_if_held();
        while let Some(Leaving { page, chunk, destination }) = self.leaving {
            if chunk == self.slabs.touched_in(page) {
                self.leaving = None;
                self.arrive(page, destination);
                break;
            }
            if left == 0 {
                break;
            }
            if chunk.is_multiple_of(PAGE_GROUP) {
                self.warm_page(page, chunk);
            }
            match self.clear_chunk(now, self.slabs.chunk_at(page, chunk), true) {
                Clearing::Done { cost } => {
                    self.leaving = Some(Leaving { page, chunk: chunk + 1, destination });
                    left = left.saturating_sub(cost);
                }
                Clearing::Begun { cost } => left = left.saturating_sub(cost),
                // Part of a value that somebody reads since.
                Clearing::Refused => self.cancel_leaving(page),
            }
        }
        left
    }

    /// Nobody knows how long a reader takes, so a page with a value that is being sent stays, and another may leave.
    fn cancel_if_held(&mut self) {
        if let Some(Leaving { page, .. }) = self.leaving
            && self.slabs.is_held(page)
        {
            self.cancel_leaving(page);
        }
    }

    fn cancel_leaving(&mut self, page: PageId) {
        self.slabs.cancel_leaving(page);
        self.leaving = None;
    }

    fn arrive(&mut self, page: PageId, destination: Destination) {
        self.unassign_page(page);
        self.counters.page_moves += 1;
        match destination {
            Destination::Class(class) => {
                self.assign_page_within(class, 0);
            }
            Destination::Budget => {
                self.arena.discard(self.slabs.bytes_of_page(page));
                self.take_external_bytes();
            }
        }
    }

    /// Takes an empty page from its class.
    pub(crate) fn unassign_page(&mut self, page: PageId) {
        let class = self.slabs.page_class(page).expect("an assigned page");
        self.slabs.unassign_page(page);
        self.link_bytes -= self.link_bytes_of(class);
        self.recency.iter_mut().for_each(|recency| recency.discard(page));
    }

    /// Frees a chunk, or begins to. Whether somebody else of the class may be evicted for its item is the caller's to say.
    fn clear_chunk(&mut self, now: Seconds, location: Location, may_replace: bool) -> Clearing {
        let cost = match self.fate_of(location) {
            Fate::Free => 1,
            Fate::Stays => return Clearing::Refused,
            Fate::Dead => self.free_dead(DRAIN_CHUNKS_PER_STORE),
            Fate::Item(head, header) => 1 + self.rescue(now, location, head, header, may_replace),
        };
        match self.arena.chunk(location) {
            Chunk::Free { .. } => Clearing::Done { cost },
            Chunk::Item(_) | Chunk::Reserved { .. } | Chunk::Continuation { .. } => Clearing::Begun { cost },
        }
    }

    /// What a chunk is to whoever wants its page.
    fn fate_of(&self, location: Location) -> Fate {
        let head = match self.arena.chunk(location) {
            Chunk::Free { .. } => return Fate::Free,
            Chunk::Item(_) | Chunk::Reserved { .. } => location,
            Chunk::Continuation { head, .. } => head,
        };
        match self.arena.chunk(head) {
            Chunk::Item(header) if head != self.protected && !self.is_pinned(head) => {
                Fate::Item(head, header)
            }
            Chunk::Reserved { .. } if self.dead.contains(head) => Fate::Dead,
            Chunk::Item(_) | Chunk::Reserved { .. } => Fate::Stays,
            Chunk::Free { .. } | Chunk::Continuation { .. } => panic!("a continuation outlives its head"),
        }
    }

    pub(crate) fn cheapest_page_of(&self, class: ClassId) -> Option<PageId> {
        let is_leaving = |page| self.leaving.is_some_and(|leaving| leaving.page == page);
        let movable = self.slabs.pages_of(class).filter(|&page| !is_leaving(page) && self.is_movable(page));
        movable.take(PAGES_SAMPLED).min_by_key(|&page| self.worth_of(page))
    }

    /// Whether no chunk of a page is being written, sent or must survive the current operation.
    fn is_movable(&self, page: PageId) -> bool {
        if self.slabs.is_held(page) {
            return false;
        }
        let may_continue = self.slabs.page_class(page) == Some(self.slabs.largest()) && self.holds.len() > 0;
        if self.protected == Location::NONE && !self.writing && !may_continue {
            return true;
        }
        let mut chunks = (0..self.slabs.touched_in(page)).map(|chunk| self.slabs.chunk_at(page, chunk));
        chunks.all(|chunk| !matches!(self.fate_of(chunk), Fate::Stays))
    }

    /// What the items of a page are worth, by a sample of them.
    fn worth_of(&self, page: PageId) -> u64 {
        let touched = self.slabs.touched_in(page);
        let stride = (touched / CHUNKS_SAMPLED).max(1) as usize;
        let worth_of_item = |header: Header| {
            let main = if header.in_window() { 0 } else { WORTH_OF_MAIN };
            main + WORTH_OF_HIT * u64::from(header.frequency())
        };
        let item_of = |chunk| self.item_of(self.slabs.chunk_at(page, chunk));
        let worth = |chunk| item_of(chunk).map_or(0, |(_, header)| worth_of_item(header));
        (0..touched).step_by(stride).map(worth).sum::<u64>() * stride as u64
    }
}
