//! Taking a page from its class a few chunks at a time, and deciding which class could spare one. Never writes an
//! item's value but to move it.
//!
//! A page that leaves gets no new items; those it has are evicted, or moved within their class if they were hit
//! lately and there is room, and so is what continues an item. Nobody waits for it: what is needed meanwhile comes from one page's worth of budget
//! that is kept free.

use std::iter::successors;

use crate::arena::Location;
use crate::automove::Automove;
use crate::departures::Departures;
use crate::expiry::Seconds;
use crate::header::{Chunk, Header};
use crate::room::Chunks;
use crate::shard::Shard;
use crate::slab::{CLASSES_MAX, Class, ClassId, PageId};
use crate::warm::PAGE_GROUP;

/// Chunks of a leaving page looked at for one store: a few microseconds, and more than any store adds.
const DRAIN_CHUNKS_PER_STORE: usize = 16;
/// Copying or walking along so much costs as much time as looking at a chunk that is far away.
const COPY_BYTES_PER_CHUNK: usize = 4096;
const WALK_STEPS_PER_CHUNK: usize = 4;
/// A continuation so far from its head is not worth the walk to move it.
const WALK_STEPS_MAX: usize = 256;
/// Pages of a class that are compared when one must go.
const PAGES_SAMPLED: usize = 8;
/// Chunks that stand for a page in that comparison.
const CHUNKS_SAMPLED: u32 = 32;
/// A page's worth in tenths of a hit: what an item of the main region is worth beyond its hits.
const WORTH_OF_MAIN: u64 = 3;
const WORTH_OF_HIT: u64 = 10;
/// Pages are compared across classes this many times for as many requests as there are items.
const COMPARISONS_PER_ITEMS: u64 = 32;
const REQUESTS_MIN: u64 = 256;
/// Demand a returning key adds to its class: on average it could have been kept by half of two pages.
const DEMAND_OF_RETURN: f64 = 0.5;
const DEMAND_KEPT: f64 = 0.9;
/// Demand that moves a page must be so many times the donor's, and so much more.
const DEMAND_RATIO: f64 = 2.0;
const DEMAND_MARGIN: f64 = 8.0;
/// Hits that a donor's pages would get from the taker's items must be so many times its own, and so much more. They
/// are sampled, so the margin is in hits, not in hits a page: those come to less than one where pages are many.
const HITS_RATIO: f64 = 8.0;
const HITS_MARGIN: f64 = 24.0;

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
            left = self.drain(left);
        }
        self.begin_what_is_needed() || !self.dead.is_empty()
    }

    /// What every store does last, when it holds on to no location any more.
    #[inline]
    pub(crate) fn step_aside(&mut self) {
        if !self.dead.is_empty() {
            self.free_dead(DRAIN_CHUNKS_PER_STORE);
        }
        if self.leaving.is_some() || self.is_short() {
            self.begin_what_is_needed();
            self.drain(DRAIN_CHUNKS_PER_STORE);
        } else if self.requests >= self.next_comparison {
            self.compare_classes();
        }
    }

    /// Counts a key that comes back to its class after it was evicted from it, for the demand of the class.
    pub(crate) fn count_return(&mut self, class: ClassId, hash: u64) {
        if self.slabs.classes_in_use() < 2 {
            return;
        }
        let class = self.slabs.class_mut(class);
        if class.departures.contains(hash) {
            class.demand += DEMAND_OF_RETURN;
        }
    }

    /// Remembers that a class evicted a key, if there is memory to do so and another class to compete with.
    pub(crate) fn count_departure(&mut self, class: ClassId, hash: u64) {
        if self.slabs.classes_in_use() < 2 {
            return;
        }
        if self.slabs.class(class).departures.bytes() == 0 {
            self.allocate_departures(class);
        }
        self.slabs.class_mut(class).departures.insert(hash);
    }

    /// Finishes the page that is leaving, whatever it takes, unless it holds what must survive the current operation.
    pub(crate) fn finish_leaving(&mut self) -> bool {
        let Some(leaving) = self.leaving else { return false };
        let movable = self.is_movable(leaving.page);
        if movable {
            self.drain(usize::MAX);
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

    /// Evicts the items of a page and takes it from its class, all at once.
    pub(crate) fn release_page(&mut self, page: PageId) {
        for chunk in 0..self.slabs.touched_in(page) {
            if chunk.is_multiple_of(PAGE_GROUP) {
                self.warm_page(page, chunk);
            }
            let location = self.slabs.chunk_at(page, chunk);
            loop {
                match self.clear_chunk(location) {
                    Clearing::Done { .. } => break,
                    Clearing::Begun { .. } => {}
                    Clearing::Refused => panic!("a page that is being written to cannot be moved"),
                }
            }
        }
        self.unassign_page(page);
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
    pub(crate) fn drain(&mut self, chunks_max: usize) -> usize {
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
            match self.clear_chunk(self.slabs.chunk_at(page, chunk)) {
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

    fn unassign_page(&mut self, page: PageId) {
        let class = self.slabs.page_class(page).expect("an assigned page");
        self.slabs.unassign_page(page);
        self.link_bytes -= self.link_bytes_of(class);
        self.recency.iter_mut().for_each(|recency| recency.discard(page));
    }

    /// Frees a chunk, or begins to.
    fn clear_chunk(&mut self, location: Location) -> Clearing {
        let cost = match self.fate_of(location) {
            Fate::Free => 1,
            Fate::Stays => return Clearing::Refused,
            Fate::Dead => self.free_dead(DRAIN_CHUNKS_PER_STORE),
            Fate::Item(head, header) if head == location => self.clear_item(head, header.frequency() > 0),
            Fate::Item(head, _) => {
                self.relocate_continuation(location, head).unwrap_or_else(|| self.clear_item(head, false))
            }
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

    /// Moves an item or evicts it.
    fn clear_item(&mut self, location: Location, keep: bool) -> usize {
        let head = self.arena.head(location);
        let continuations = (head.value_len() - head.header.value_len()) / self.payload();
        let class = self.slabs.class_of(location);
        let moved = keep && continuations <= WALK_STEPS_MAX && self.relocate(location, head.header);
        if !moved {
            self.evict(location);
        }
        let copied = if moved { self.slabs.class(class).chunk_size } else { 0 };
        1 + copied / COPY_BYTES_PER_CHUNK + continuations.min(WALK_STEPS_MAX) / WALK_STEPS_PER_CHUNK
    }

    /// Moves a part of an item to a free chunk. `None` if there is none, or the item is very long.
    fn relocate_continuation(&mut self, from: Location, head: Location) -> Option<usize> {
        if !self.slabs.is_leaving(from) {
            return None;
        }
        let mut item = self.arena.head(head);
        let first = item.extension.chain.map_or(Location::NONE, |chain| Location(chain.first));
        let chunks = Chunks { head, first };
        let chain = successors(Some(head), |&chunk| self.chunk_behind(chunks, chunk));
        let (walked, before) = chain
            .enumerate()
            .take(WALK_STEPS_MAX)
            .find(|&(_, at)| self.chunk_behind(chunks, at) == Some(from))?;
        let class = self.slabs.class_of(from);
        let to = self.slabs.take_chunk(class, &self.arena)?;
        let size = self.slabs.class(class).chunk_size;
        self.arena.copy(from.offset()..from.offset() + size, to.offset());
        if before == head {
            item.chain_to(to);
            self.arena.set_head(head, item);
        } else {
            self.arena.set_header(before, Header::continuation(to, head));
        }
        self.slabs.give_chunk(from, &mut self.arena);
        Some(1 + size / COPY_BYTES_PER_CHUNK + walked / WALK_STEPS_PER_CHUNK)
    }

    /// Moves an item to a free chunk of its class, into the main region. False if there is none.
    fn relocate(&mut self, from: Location, mut header: Header) -> bool {
        let class_id = self.slabs.class_of(from);
        if !self.slabs.is_leaving(from) {
            return false;
        }
        let Some(to) = self.slabs.take_chunk(class_id, &self.arena) else { return false };
        let size = self.slabs.class(class_id).chunk_size;
        self.arena.copy(from.offset()..from.offset() + size, to.offset());
        if header.in_window() {
            header.set_in_window(false);
            self.slabs.class_mut(class_id).window_items -= 1;
            self.arena.set_header(to, header);
        }
        self.redirect_continuations(to);
        self.index.replace(self.hash_at(to), from, to);
        self.recency.iter_mut().for_each(|recency| recency.replace(from, to, &self.slabs));
        self.slabs.give_chunk(from, &mut self.arena);
        true
    }

    fn redirect_continuations(&mut self, head: Location) {
        let chain = self.arena.head(head).extension.chain;
        let mut next = chain.map_or(Location::NONE, |chain| Location(chain.first));
        while next != Location::NONE {
            let Chunk::Continuation { next: after, .. } = self.arena.chunk(next) else {
                panic!("a chain leads out of its item")
            };
            self.arena.set_header(next, Header::continuation(after, head));
            next = after;
        }
    }

    /// Moves a page from the class that would miss it least to the one that would gain most, if it is clear that it
    /// would. The margins are wide on purpose: eager moves gain nothing on average and can lose much.
    fn compare_classes(&mut self) {
        let interval = (self.counters.items / COMPARISONS_PER_ITEMS).max(REQUESTS_MIN);
        self.next_comparison = self.requests + interval / self.automove.comparisons();
        let demand = |class: &ClassId| self.slabs.class(*class).demand;
        let by_demand = |a: &ClassId, b: &ClassId| demand(a).total_cmp(&demand(b));
        let neediest = self.slabs.class_ids().max_by(by_demand);
        let donor = neediest.and_then(|neediest| self.donor_for(neediest));
        let by_demand = neediest.zip(donor);
        if self.automove != Automove::Off
            && let Some((taker, donor)) = by_demand.or_else(|| self.by_hits())
            && let Some(page) = self.cheapest_page_of(donor)
        {
            self.begin_leaving(page, Destination::Class(taker));
            self.slabs.class_mut(taker).demand /= 2.0;
        }
        for class in self.slabs.class_ids() {
            let class = self.slabs.class_mut(class);
            class.evicted_lately *= DEMAND_KEPT;
            class.hits_sampled *= DEMAND_KEPT;
            class.demand *= DEMAND_KEPT;
        }
    }

    /// The class whose pages are hit least, of those in clearly less demand.
    fn donor_for(&self, neediest: ClassId) -> Option<ClassId> {
        let demand = self.slabs.class(neediest).demand;
        let margin = self.automove.margin_share() * DEMAND_MARGIN;
        let is_donor = |class: &ClassId| {
            let donor = self.slabs.class(*class);
            donor.pages > 1 && demand > DEMAND_RATIO * donor.demand + margin
        };
        let donors = self.slabs.class_ids().filter(is_donor);
        donors.min_by(|&a, &b| self.hits_per_page(a).total_cmp(&self.hits_per_page(b)))
    }

    /// A class that evicts while its pages are hit many times more often than those of another: what is left of a
    /// time when sizes were different.
    fn by_hits(&self) -> Option<(ClassId, ClassId)> {
        let by_hits = |a: &ClassId, b: &ClassId| self.hits_per_page(*a).total_cmp(&self.hits_per_page(*b));
        let evicts = |class: &ClassId| self.slabs.class(*class).evicted_lately >= 1.0;
        let spares = |class: &ClassId| self.slabs.class(*class).pages > 1;
        let taker = self.slabs.class_ids().filter(evicts).max_by(by_hits)?;
        let donor = self.slabs.class_ids().filter(spares).min_by(by_hits)?;
        let Class { pages, hits_sampled, .. } = self.slabs.class(donor);
        let expected = self.hits_per_page(taker) * (*pages as f64);
        let clear = expected > HITS_RATIO * *hits_sampled + self.automove.margin_share() * HITS_MARGIN;
        clear.then_some((taker, donor))
    }

    pub(crate) fn hits_per_page(&self, class: ClassId) -> f64 {
        let class = self.slabs.class(class);
        class.hits_sampled / class.pages.max(1) as f64
    }

    fn allocate_departures(&mut self, class: ClassId) {
        let chunks = self.slabs.class(class).chunks_per_page as usize;
        let bytes = Departures::bytes_of(chunks);
        if self.fits(bytes) {
            self.departure_bytes += bytes;
            self.slabs.class_mut(class).departures = Departures::new(chunks);
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
