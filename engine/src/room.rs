//! Making room: chunks for an item, pages for a class, bytes of the budget for the index. Never looks at a value.

use crate::arena::Location;
use crate::config::PAGE_SIZE_MAX;
use crate::expiry::Seconds;
use crate::header::Header;
use crate::shard::{Shard, hash_key};
use crate::slab::{ClassId, PageId};

/// The caller's external bytes are honoured up to this part of the budget.
const EXTERNAL_SHARE: usize = 2;
/// Bytes of empty pages that are given up for external bytes at once, a tenth of a millisecond's work.
const EXTERNAL_BYTES_AT_ONCE: usize = PAGE_SIZE_MAX;
/// So much of the budget stays for items that may go, whatever is held and whatever the caller uses: what is small finds room.
const UNHELD_SHARE: usize = 16;
/// A lower limit on memory is honoured down to this part of the budget.
const LIMIT_SHARE: usize = 16;

/// The chunks of one item that is being written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunks {
    pub(crate) head: Location,
    /// First continuation, if there is one.
    pub(crate) first: Location,
}

impl Shard {
    /// Takes note of memory the caller uses on this shard's behalf and gives up items for it if need be.
    ///
    /// At most half of the budget is honoured, nothing that would leave no room beside what is [held](Shard::pin_at), and without
    /// eviction only what no item needs. What does not fit at once is honoured as pages leave their classes: with stores, and in
    /// [`Shard::maintain`].
    pub fn set_external_bytes(&mut self, bytes: usize) {
        self.external_reported = bytes;
        self.withhold_external_bytes();
    }

    /// Uses no more than so many bytes of the budget from here on, or all of it again. At least a sixteenth stays for items, beside what
    /// is [held](Shard::pin_at), the index and what the policy remembers, which may be more than the limit. As with
    /// [external bytes](Shard::set_external_bytes), items go as pages leave.
    pub fn set_memory_limit(&mut self, bytes: usize) {
        let limit = bytes.clamp(self.memory_bytes / LIMIT_SHARE, self.memory_bytes);
        self.withheld_bytes = self.memory_bytes - limit;
        self.withhold_external_bytes();
    }

    fn withhold_external_bytes(&mut self) {
        self.reckon_with_holds();
        self.take_external_bytes();
        let pages = EXTERNAL_BYTES_AT_ONCE / self.slabs.page_size();
        for _ in 0..pages {
            if self.external_bytes == self.external_wanted {
                break;
            }
            let Some(page) = self.find_empty_page() else { break };
            self.unassign_page(page);
            self.arena.discard(self.slabs.bytes_of_page(page));
            self.take_external_bytes();
        }
    }

    /// What of the budget items should not have, as far as what is held allows it: called with every change of either. O(1).
    pub(crate) fn reckon_with_holds(&mut self) {
        let limit = self.memory_bytes - self.withheld_bytes;
        let external = self.external_reported.min(limit / EXTERNAL_SHARE);
        self.external_wanted = (self.withheld_bytes + external).min(self.unheld_bytes());
        self.external_bytes = self.external_bytes.min(self.external_wanted);
    }

    /// Bytes of the budget that are neither in pages that must stay, nor promised to who holds, nor needed for others. A page with the
    /// head of something held stays, and of continuations no more pages than they fill: the others have chunks for whoever needs one.
    fn unheld_bytes(&self) -> usize {
        let held = self.slabs.pages_held() * self.slabs.page_size() + self.holds.behind_bytes();
        let kept = self.memory_bytes / UNHELD_SHARE + self.slabs.page_size();
        self.memory_bytes.saturating_sub(held + self.index.bytes() + self.policy_bytes() + kept)
    }

    /// Whether something that takes so many bytes can be held, and what is small finds room all the same. Of a single value that is so.
    pub(crate) fn leaves_room_if_held(&self, chunk_bytes: usize) -> bool {
        self.holds.len() == 0 || self.slabs.page_size() + chunk_bytes <= self.unheld_bytes()
    }

    /// Counts as much of the external bytes as fits.
    pub(crate) fn take_external_bytes(&mut self) {
        let room = self.memory_bytes - self.used();
        self.external_bytes = self.external_wanted.min(self.external_bytes + room);
        self.look_for_ample_room();
    }

    /// Bytes of the budget in use.
    pub(crate) fn used(&self) -> usize {
        self.index.bytes() + self.slabs.bytes() + self.policy_bytes() + self.external_bytes
    }

    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.used() + bytes <= self.memory_bytes
    }

    /// Takes a chunk of `class` and `continuations` of the largest, evicting as need be. All or nothing.
    pub(crate) fn take_chunks(
        &mut self,
        now: Seconds,
        class: ClassId,
        continuations: usize,
    ) -> Option<Chunks> {
        let head = self.take_chunk(now, class)?;
        let mut first = Location::NONE;
        for _ in 0..continuations {
            let Some(location) = self.take_chunk(now, self.slabs.largest()) else {
                self.give_chunks(Chunks { head, first });
                return None;
            };
            self.arena.set_header(location, Header::continuation(first, head));
            first = location;
        }
        Some(Chunks { head, first })
    }

    /// Sees to it that one item more is within the limit on items, if there is one.
    pub(crate) fn make_item_room(&mut self, now: Seconds, class: ClassId) -> bool {
        while self.counters.items >= self.items_max {
            let fullest = || self.slabs.class_ids().max_by_key(|&class| self.slabs.class(class).items);
            let class = if self.slabs.class(class).items > 0 { Some(class) } else { fullest() };
            let found = class.is_some_and(|class| self.free_item_of(now, class));
            if !found {
                return false;
            }
        }
        true
    }

    /// Sees to it that the index can take one more location, and lets it grow by a step.
    pub(crate) fn make_index_room(&mut self, now: Seconds, hash: u64) -> bool {
        self.index.begin_growth_if_loaded();
        if self.index.is_growing()
            && self.index.can_migrate()
            && self.make_room_in_time(now, self.index.migrate_bytes_max())
        {
            self.migrate_bucket();
        }
        let bytes = self.index.insert_bytes_max(hash);
        self.index.can_insert(hash) && self.make_index_bytes(now, bytes) || self.make_slot(hash)
    }

    /// Bytes for an overflow bucket: out of the spare. Where a page at once would take long, only an empty one goes.
    fn make_index_bytes(&mut self, now: Seconds, bytes: usize) -> bool {
        let at_once = self.spare_bytes == 0 || self.slabs.has_empty_page();
        self.fits(bytes) || at_once && self.make_room(now, bytes)
    }

    /// A slot in a full bucket, at the price of an item in it.
    fn make_slot(&mut self, hash: u64) -> bool {
        let mut victim = None;
        self.index.walk(hash, |location| victim = Some(location));
        let victim = victim.filter(|_| self.evict);
        victim.into_iter().for_each(|victim| self.evict(victim));
        victim.is_some()
    }

    /// Frees a dead item.
    pub(crate) fn reclaim(&mut self, hash: u64, location: Location) {
        let unfetched = !self.arena.header(location).is_fetched();
        self.counters.reclaimed += 1;
        self.counters.expired_unfetched += u64::from(unfetched);
        self.show_removal(hash);
        self.unlink(hash, location);
    }

    /// Takes an item out of the index and frees its chunks.
    pub(crate) fn unlink(&mut self, hash: u64, location: Location) {
        self.index.remove(hash, location);
        self.free_item(location);
    }

    /// Frees the chunks of an item that the index no longer knows.
    pub(crate) fn free_item(&mut self, location: Location) {
        let head = self.arena.head(location);
        let footprint = head.footprint();
        self.recency.iter_mut().for_each(|recency| recency.remove(location, &self.slabs));
        let class = self.slabs.class_of(location);
        let class = self.slabs.class_mut(class);
        class.items -= 1;
        class.bytes -= footprint;
        class.window_items -= usize::from(head.header.in_window());
        self.counters.items -= 1;
        self.counters.bytes -= footprint as u64;
        let first = head.extension.chain.map_or(Location::NONE, |chain| Location(chain.first));
        if !self.keep_for_readers(location) {
            self.give_chunks(Chunks { head: location, first });
        }
    }

    /// Takes a chunk, evicting as need be.
    pub(crate) fn take_chunk(&mut self, now: Seconds, class: ClassId) -> Option<Location> {
        let location = self.take_own_chunk(now, class).or_else(|| self.borrow_chunk(now, class))?;
        self.arena.set_header(location, Header::reserved(Location::NONE));
        self.writing = true;
        Some(location)
    }

    fn take_own_chunk(&mut self, now: Seconds, class: ClassId) -> Option<Location> {
        loop {
            if let Some(location) = self.slabs.take_chunk(class, &self.arena) {
                return Some(location);
            }
            let found = self.free_dead_for(class) && self.has_chunk_or_page(class)
                || self.assign_page(class)
                || self.move_empty_page(class)
                || self.free_item_of(now, class)
                || self.assign_page_within(class, 0)
                || self.move_page_at_once(now, class)
                || self.free_dead(usize::MAX) > 0;
            if !found {
                return None;
            }
        }
    }

    /// Gives the class an empty page, if it has no free chunk.
    fn has_chunk_or_page(&mut self, class: ClassId) -> bool {
        self.slabs.has_room_in(class) || self.assign_page(class) || self.move_empty_page(class)
    }

    /// A chunk of a larger class, for a class that has none and gets no page in time.
    fn borrow_chunk(&mut self, now: Seconds, class: ClassId) -> Option<Location> {
        for larger in self.slabs.class_ids().filter(|&larger| larger > class) {
            loop {
                if let Some(location) = self.slabs.take_chunk(larger, &self.arena) {
                    return Some(location);
                }
                if !self.free_item_of(now, larger) {
                    break;
                }
            }
        }
        let moved = self.evict && self.move_cheapest_page(now, class);
        if moved { self.slabs.take_chunk(class, &self.arena) } else { None }
    }

    fn free_item_of(&mut self, now: Seconds, class: ClassId) -> bool {
        if self.evict { self.evict_one(now, class) } else { self.reclaim_under_hand(now, class) }
    }

    /// Gives a class a page, if the budget has one and a spare.
    fn assign_page(&mut self, class: ClassId) -> bool {
        self.assign_page_within(class, self.spare_bytes)
    }

    /// Gives a class a page, if the budget has one and so many bytes more.
    pub(crate) fn assign_page_within(&mut self, class: ClassId, spare_bytes: usize) -> bool {
        let links = self.link_bytes_of(class);
        let fits = self.fits(self.slabs.page_size() + links + spare_bytes);
        let assigned = fits && self.slabs.assign_page(class).is_some();
        if assigned {
            self.link_bytes += links;
        }
        assigned
    }

    fn move_empty_page(&mut self, class: ClassId) -> bool {
        let Some(page) = self.find_empty_page() else { return false };
        self.unassign_page(page);
        self.assign_page_within(class, 0)
    }

    /// Where pages are so small that it takes no longer than anything else.
    fn move_page_at_once(&mut self, now: Seconds, class: ClassId) -> bool {
        self.evict && self.spare_bytes == 0 && self.move_cheapest_page(now, class)
    }

    fn move_cheapest_page(&mut self, now: Seconds, class: ClassId) -> bool {
        if self.finish_leaving(now) && self.assign_page_within(class, 0) {
            return true;
        }
        let Some(page) = self.quickest_page(class) else { return false };
        self.release_page(now, page);
        self.counters.page_moves += 1;
        self.assign_page_within(class, 0)
    }

    /// Sees to it that the budget has room for so many bytes more: out of the spare, and if that is used up by
    /// giving up pages at once.
    fn make_room(&mut self, now: Seconds, bytes: usize) -> bool {
        while !self.fits(bytes) {
            if self.evict && self.finish_leaving(now) {
                continue;
            }
            let empty = self.find_empty_page();
            let cheapest = || self.evict.then(|| self.cheapest_page()).flatten();
            let Some(page) = empty.or_else(cheapest) else { return false };
            self.release_page(now, page);
            self.counters.page_moves += 1;
            self.arena.discard(self.slabs.bytes_of_page(page));
        }
        true
    }

    /// As [`Shard::make_room`], for what can wait: where a page at once would take long, the spare must do.
    fn make_room_in_time(&mut self, now: Seconds, bytes: usize) -> bool {
        self.fits(bytes) || self.spare_bytes == 0 && self.make_room(now, bytes)
    }

    fn migrate_bucket(&mut self) {
        let (arena, hasher) = (&self.arena, &self.hasher);
        self.index.migrate_bucket(|location| hash_key(hasher, arena.key(location)));
        if self.index.is_growing() {
            // By the time they are asked for, with the next new item, they will be there.
            self.index.moving_next().for_each(|location| arena.prefetch(location));
        }
    }

    pub(crate) fn find_empty_page(&self) -> Option<PageId> {
        if self.slabs.has_empty_page() { self.slabs.empty_page() } else { None }
    }
}
