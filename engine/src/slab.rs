//! Pages, the size classes they are assigned to, and the free chunks in them. Never reads an item.

mod sizes;
mod validate;

use std::ops::Range;

use crate::arena::{Arena, LOCATION_UNIT, Location};
use crate::departures::Departures;
use crate::header::{Chunk, Header};
use crate::persist::PageRemembered;
use crate::window::Window;

/// The largest chunks where pages are large: chains of them cost next to nothing and are rounded up but once.
pub(crate) const CHUNK_SIZE_MAX: usize = 32 << 10;
/// Most size classes of a shard.
pub const CLASSES_MAX: usize = 127;

/// Sizes up to this one find their class by table.
const TABLED_SIZE_MAX: usize = 2048;
const NO_CLASS: u8 = u8::MAX;

const _: () = assert!(CLASSES_MAX < NO_CLASS as usize);
const _: () = assert!(size_of::<Page>() == 32);

/// A size class of one shard; ids rise with the chunk size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClassId(pub u8);

impl ClassId {
    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A page of the arena, by its position.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PageId(pub(crate) u32);

impl PageId {
    pub(crate) const NONE: PageId = PageId(u32::MAX);

    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where the CLOCK hand of a class points: a chunk of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hand {
    page: PageId,
    chunk: u32,
}

/// What a page is used for; a list of 32-byte entries beside the arena.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// The pages of a class form a ring; unassigned pages form a list by `next`.
    next: PageId,
    previous: PageId,
    /// The pages of a class with a free chunk form a list.
    room_next: PageId,
    room_previous: PageId,
    free_head: Location,
    /// Chunks handed out at least once. Those beyond were never written and are not to be read.
    touched: u32,
    /// Chunks in use.
    live: u32,
    class: u8,
    /// On its way out of the class: gets no new items, and counts neither as having room nor as empty.
    leaving: bool,
    /// Chunks that must stay although no operation is under way.
    held: u16,
}

/// One size class: its pages, and totals over the items whose head lies in it.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) chunk_size: usize,
    pub(crate) chunks_per_page: u32,
    pub(crate) pages: usize,
    pub(crate) chunks_used: usize,
    pub(crate) items: usize,
    pub(crate) bytes: usize,
    pub(crate) window_items: usize,
    pub(crate) evicted: u64,
    pub(crate) evicted_unfetched: u64,
    pub(crate) window: Window,
    pub(crate) departures: Departures,
    /// How much the class would gain by another page: keys that came back soon after they were evicted, the
    /// recent ones counting most.
    pub(crate) demand: f64,
    /// Gets of sampled keys that hit an item of the class, the recent ones counting most.
    pub(crate) hits_sampled: f64,
    /// Items evicted, the recent ones counting most.
    pub(crate) evicted_lately: f64,
    room: PageId,
    hand: Hand,
}

impl Class {
    /// Chunks of all its pages.
    pub(crate) fn chunks(&self) -> usize {
        self.pages * self.chunks_per_page as usize
    }
}

/// All pages and classes of one shard.
#[derive(Debug)]
pub(crate) struct Slabs {
    page_size: usize,
    pages: Vec<Page>,
    classes: Vec<Class>,
    /// Class of every size up to [`TABLED_SIZE_MAX`], in steps of [`LOCATION_UNIT`].
    class_by_size: Vec<u8>,
    /// First page of the list of those given back.
    unassigned: PageId,
    /// Pages never assigned follow from here on.
    untouched: PageId,
    pages_assigned: usize,
    /// Assigned pages without a chunk in use.
    pages_empty: usize,
    classes_in_use: usize,
    /// Pages with a chunk that must stay.
    pages_held: usize,
}

impl Slabs {
    pub(crate) fn new(page_size: usize, pages_max: usize, smallest: usize, growth_factor: f64) -> Slabs {
        assert!(page_size.is_power_of_two() && pages_max > 0);
        let sizes = sizes::chunk_sizes(page_size, smallest, growth_factor);
        let steps = TABLED_SIZE_MAX / LOCATION_UNIT;
        let class_of = |size: usize| sizes.partition_point(|&chunk_size| chunk_size < size);
        let class_by_size = (0..=steps).map(|step| narrow(class_of(step * LOCATION_UNIT))).collect();
        let class = |&chunk_size: &usize| Class::new(chunk_size, page_size / chunk_size);
        Slabs {
            page_size,
            pages: vec![Page::UNASSIGNED; pages_max],
            classes: sizes.iter().map(class).collect(),
            class_by_size,
            unassigned: PageId::NONE,
            untouched: PageId(0),
            pages_assigned: 0,
            pages_empty: 0,
            classes_in_use: 0,
            pages_held: 0,
        }
    }

    /// Bytes of the tables of pages and classes.
    pub(crate) fn table_bytes(&self) -> usize {
        self.pages.len() * size_of::<Page>() + self.classes.len() * size_of::<Class>()
    }

    pub(crate) fn page_size(&self) -> usize {
        self.page_size
    }

    /// Bytes of the assigned pages.
    pub(crate) fn bytes(&self) -> usize {
        self.pages_assigned * self.page_size
    }

    pub(crate) fn has_empty_page(&self) -> bool {
        self.pages_empty > 0
    }

    pub(crate) fn class_ids(&self) -> impl Iterator<Item = ClassId> + use<> {
        (0..narrow(self.classes.len())).map(ClassId)
    }

    /// The class of the largest chunks, which continuations are made of.
    pub(crate) fn largest(&self) -> ClassId {
        ClassId(narrow(self.classes.len() - 1))
    }

    /// The class with the smallest chunks that hold `size` bytes, at most a chunk of the largest.
    #[inline]
    pub(crate) fn class_for(&self, size: usize) -> ClassId {
        if size <= TABLED_SIZE_MAX {
            return ClassId(self.class_by_size[size.div_ceil(LOCATION_UNIT)]);
        }
        let class = self.classes.partition_point(|class| class.chunk_size < size);
        assert!(class < self.classes.len(), "larger items are chained");
        ClassId(narrow(class))
    }

    #[inline]
    pub(crate) fn class(&self, class: ClassId) -> &Class {
        &self.classes[class.index()]
    }

    #[inline]
    pub(crate) fn class_mut(&mut self, class: ClassId) -> &mut Class {
        &mut self.classes[class.index()]
    }

    /// The class of the page that a chunk in use lies in.
    #[inline]
    pub(crate) fn class_of(&self, location: Location) -> ClassId {
        let class = self.pages[self.page_of(location).index()].class;
        debug_assert!(class != NO_CLASS);
        ClassId(class)
    }

    #[inline]
    pub(crate) fn page_of(&self, location: Location) -> PageId {
        PageId(narrow(location.offset() >> self.page_size.ilog2()))
    }

    /// The part of the arena that a page is.
    pub(crate) fn bytes_of_page(&self, page: PageId) -> Range<usize> {
        let start = page.index() * self.page_size;
        start..start + self.page_size
    }

    pub(crate) fn page_class(&self, page: PageId) -> Option<ClassId> {
        let class = self.pages[page.index()].class;
        (class != NO_CLASS).then_some(ClassId(class))
    }

    pub(crate) fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// Chunks in a page of the smallest class.
    pub(crate) fn chunks_per_page_max(&self) -> usize {
        self.classes[0].chunks_per_page as usize
    }

    pub(crate) fn touched_in(&self, page: PageId) -> u32 {
        self.pages[page.index()].touched
    }

    /// The place of a chunk that was handed out at least once.
    pub(crate) fn chunk_at(&self, page: PageId, chunk: u32) -> Location {
        let entry = self.pages[page.index()];
        debug_assert!(chunk < entry.touched);
        let chunk_size = self.classes[usize::from(entry.class)].chunk_size;
        Location::from_offset(page.index() * self.page_size + chunk as usize * chunk_size)
    }

    /// How many chunks lie before this one in its page.
    pub(crate) fn place_in_page(&self, location: Location) -> usize {
        let class = self.pages[self.page_of(location).index()].class;
        (location.offset() & (self.page_size - 1)) / self.classes[usize::from(class)].chunk_size
    }

    /// Whether a chunk of this class begins at `location` and was handed out at least once.
    pub(crate) fn is_chunk_of(&self, class: ClassId, location: Location) -> bool {
        let entry = &self.pages[self.page_of(location).index()];
        let chunk = (location.offset() & (self.page_size - 1)) / self.classes[class.index()].chunk_size;
        entry.class == class.0 && chunk < entry.touched as usize
    }

    /// Takes a free chunk of a class, if it has one. Its content is undefined; the caller writes a header at once.
    pub(crate) fn take_chunk(&mut self, class: ClassId, arena: &Arena) -> Option<Location> {
        let page = self.classes[class.index()].room;
        if page == PageId::NONE {
            return None;
        }
        let location = self.take_from(page, arena);
        self.classes[class.index()].chunks_used += 1;
        if !self.has_room(page) {
            self.unlink_room(page);
        }
        Some(location)
    }

    /// Whether a class has a free chunk.
    pub(crate) fn has_room_in(&self, class: ClassId) -> bool {
        self.classes[class.index()].room != PageId::NONE
    }

    /// Gives back a chunk in use.
    pub(crate) fn give_chunk(&mut self, location: Location, arena: &mut Arena) {
        let page = self.page_of(location);
        let had_room = self.has_room(page);
        let entry = &mut self.pages[page.index()];
        assert!(entry.live > 0);
        arena.set_header(location, Header::free(entry.free_head));
        entry.free_head = location;
        entry.live -= 1;
        let leaving = entry.leaving;
        self.pages_empty += usize::from(entry.live == 0 && !leaving);
        self.classes[usize::from(entry.class)].chunks_used -= 1;
        if !had_room && !leaving {
            self.link_room(page);
        }
    }

    /// Assigns a page to a class, if one is unassigned.
    pub(crate) fn assign_page(&mut self, class: ClassId) -> Option<PageId> {
        let page = self.take_unassigned()?;
        self.pages[page.index()] = Page { class: class.0, ..Page::UNASSIGNED };
        self.link_ring(class, page);
        self.link_room(page);
        self.classes_in_use += usize::from(self.classes[class.index()].pages == 0);
        self.classes[class.index()].pages += 1;
        self.pages_assigned += 1;
        self.pages_empty += 1;
        Some(page)
    }

    /// Whether the page that a chunk in use lies in is on its way out of its class.
    pub(crate) fn is_leaving(&self, location: Location) -> bool {
        self.pages[self.page_of(location).index()].leaving
    }

    pub(crate) fn page_ids(&self) -> impl Iterator<Item = PageId> + use<> {
        (0..narrow(self.pages.len())).map(PageId)
    }

    /// The part of the arena that so many chunks of a page of a class take, if there can be such a page.
    pub(crate) fn touched_bytes(&self, page: PageId, class: u32, touched: u32) -> Option<Range<usize>> {
        let class = self.classes.get(class as usize)?;
        let start = page.index() * self.page_size;
        let is_possible = page.index() < self.pages.len() && touched <= class.chunks_per_page;
        is_possible.then(|| start..start + touched as usize * class.chunk_size)
    }

    /// Whether a chunk of this class, handed out at least once, begins exactly at `location`, which may be anything.
    pub(crate) fn is_chunk(&self, class: ClassId, location: Location) -> bool {
        let in_page = location.offset() & (self.page_size - 1);
        location.offset() < self.pages.len() * self.page_size
            && in_page.is_multiple_of(self.classes[class.index()].chunk_size)
            && self.is_chunk_of(class, location)
    }

    /// Assigns pages as another process had them, all chunks ever handed out in use. Nothing is assigned before.
    pub(crate) fn restore(&mut self, pages: &[PageRemembered]) {
        assert!(self.pages_assigned == 0 && pages.len() == self.pages.len());
        self.untouched = PageId(narrow(self.pages.len()));
        for (page, remembered) in self.page_ids().zip(pages) {
            let touched = remembered.touched;
            let Some(class) = remembered.class() else {
                self.pages[page.index()].next = std::mem::replace(&mut self.unassigned, page);
                continue;
            };
            let class = ClassId(narrow(class as usize));
            self.pages[page.index()] = Page { class: class.0, touched, live: touched, ..Page::UNASSIGNED };
            self.link_ring(class, page);
            if self.has_room(page) {
                self.link_room(page);
            }
            let entry = &mut self.classes[class.index()];
            self.classes_in_use += usize::from(entry.pages == 0);
            entry.pages += 1;
            entry.chunks_used += touched as usize;
            self.pages_assigned += 1;
            self.pages_empty += usize::from(touched == 0);
        }
    }

    /// Takes a leaving page back into its class.
    pub(crate) fn cancel_leaving(&mut self, page: PageId) {
        let entry = &mut self.pages[page.index()];
        assert!(entry.leaving);
        entry.leaving = false;
        self.pages_empty += usize::from(entry.live == 0);
        if self.has_room(page) {
            self.link_room(page);
        }
    }

    /// Marks a chunk in use as one that must stay.
    pub(crate) fn hold(&mut self, chunk: Location) {
        let page = self.page_of(chunk).index();
        self.pages_held += usize::from(self.pages[page].held == 0);
        self.pages[page].held += 1;
    }

    /// Undoes one [`Slabs::hold`].
    pub(crate) fn let_go(&mut self, chunk: Location) {
        let page = self.page_of(chunk).index();
        self.pages[page].held -= 1;
        self.pages_held -= usize::from(self.pages[page].held == 0);
    }

    /// Whether a page has a chunk that must stay.
    #[inline]
    pub(crate) fn is_held(&self, page: PageId) -> bool {
        self.pages[page.index()].held > 0
    }

    pub(crate) fn pages_held(&self) -> usize {
        self.pages_held
    }

    /// Whether a chunk begins at `location` that was handed out at least once.
    pub(crate) fn is_in_use(&self, location: Location) -> bool {
        self.page_class(self.page_of(location)).is_some_and(|class| self.is_chunk_of(class, location))
    }

    /// The pages that are on their way out of their class. O(pages).
    pub(crate) fn pages_leaving(&self) -> impl Iterator<Item = PageId> + '_ {
        let leaving = |&page: &PageId| self.pages[page.index()].leaving;
        (0..narrow(self.pages.len())).map(PageId).filter(leaving)
    }

    /// Hands out no more chunks of an assigned page.
    pub(crate) fn begin_leaving(&mut self, page: PageId) {
        let entry = self.pages[page.index()];
        assert!(entry.class != NO_CLASS && !entry.leaving);
        if self.has_room(page) {
            self.unlink_room(page);
        }
        self.pages_empty -= usize::from(entry.live == 0);
        self.pages[page.index()].leaving = true;
    }

    /// Classes that have a page.
    pub(crate) fn classes_in_use(&self) -> usize {
        self.classes_in_use
    }

    /// Takes a page without a chunk in use away from its class.
    pub(crate) fn unassign_page(&mut self, page: PageId) {
        let entry = self.pages[page.index()];
        assert!(entry.live == 0 && entry.held == 0 && entry.class != NO_CLASS);
        if !entry.leaving {
            self.unlink_room(page);
            self.pages_empty -= 1;
        }
        self.unlink_ring(page);
        let class = &mut self.classes[usize::from(entry.class)];
        class.pages -= 1;
        self.classes_in_use -= usize::from(class.pages == 0);
        self.pages_assigned -= 1;
        self.pages[page.index()] = Page { next: self.unassigned, ..Page::UNASSIGNED };
        self.unassigned = page;
    }

    /// The chunk under the hand of a class that has a page in use.
    pub(crate) fn hand(&mut self, class: ClassId) -> Location {
        self.settle_hand(class);
        let Hand { page, chunk } = self.classes[class.index()].hand;
        self.chunk_at(page, chunk)
    }

    /// Moves the hand to the next chunk, in address order within a page.
    pub(crate) fn advance_hand(&mut self, class: ClassId) {
        self.classes[class.index()].hand.chunk += 1;
    }

    /// The pages of a class, from the one under its hand on.
    pub(crate) fn pages_of(&self, class: ClassId) -> impl Iterator<Item = PageId> + '_ {
        let Class { hand, pages, .. } = &self.classes[class.index()];
        std::iter::successors(Some(hand.page), |page| Some(self.pages[page.index()].next)).take(*pages)
    }

    /// A page without a chunk in use. O(pages).
    pub(crate) fn empty_page(&self) -> Option<PageId> {
        let is_empty = |page: &Page| page.class != NO_CLASS && page.live == 0 && !page.leaving;
        self.pages.iter().position(is_empty).map(|page| PageId(narrow(page)))
    }

    fn take_from(&mut self, page: PageId, arena: &Arena) -> Location {
        let entry = &mut self.pages[page.index()];
        self.pages_empty -= usize::from(entry.live == 0);
        entry.live += 1;
        let location = entry.free_head;
        if location != Location::NONE {
            let Chunk::Free { next } = arena.chunk(location) else {
                panic!("a chunk in use was listed free")
            };
            entry.free_head = next;
            if next != Location::NONE {
                // The next who takes one will not wait for it.
                arena.prefetch(next);
            }
            return location;
        }
        entry.touched += 1;
        let chunk = entry.touched - 1;
        self.chunk_at(page, chunk)
    }

    fn has_room(&self, page: PageId) -> bool {
        let entry = &self.pages[page.index()];
        entry.live < self.classes[usize::from(entry.class)].chunks_per_page
    }

    fn take_unassigned(&mut self) -> Option<PageId> {
        let page = self.unassigned;
        if page != PageId::NONE {
            self.unassigned = self.pages[page.index()].next;
            return Some(page);
        }
        let page = self.untouched;
        if page.index() == self.pages.len() {
            return None;
        }
        self.untouched = PageId(page.0 + 1);
        Some(page)
    }

    fn link_ring(&mut self, class: ClassId, page: PageId) {
        let hand = &mut self.classes[class.index()].hand;
        if hand.page == PageId::NONE {
            *hand = Hand { page, chunk: 0 };
            self.pages[page.index()].next = page;
            self.pages[page.index()].previous = page;
            return;
        }
        // Behind the hand: the page is new and comes last.
        let next = hand.page;
        let previous = self.pages[next.index()].previous;
        self.pages[page.index()].next = next;
        self.pages[page.index()].previous = previous;
        self.pages[previous.index()].next = page;
        self.pages[next.index()].previous = page;
    }

    fn unlink_ring(&mut self, page: PageId) {
        let Page { next, previous, class, .. } = self.pages[page.index()];
        self.pages[previous.index()].next = next;
        self.pages[next.index()].previous = previous;
        let hand = &mut self.classes[usize::from(class)].hand;
        if hand.page == page {
            *hand = Hand { page: if next == page { PageId::NONE } else { next }, chunk: 0 };
        }
    }

    fn link_room(&mut self, page: PageId) {
        let class = usize::from(self.pages[page.index()].class);
        let next = std::mem::replace(&mut self.classes[class].room, page);
        self.pages[page.index()].room_next = next;
        self.pages[page.index()].room_previous = PageId::NONE;
        if next != PageId::NONE {
            self.pages[next.index()].room_previous = page;
        }
    }

    fn unlink_room(&mut self, page: PageId) {
        let Page { room_next: next, room_previous: previous, class, .. } = self.pages[page.index()];
        if previous == PageId::NONE {
            assert!(self.classes[usize::from(class)].room == page);
            self.classes[usize::from(class)].room = next;
        } else {
            self.pages[previous.index()].room_next = next;
        }
        if next != PageId::NONE {
            self.pages[next.index()].room_previous = previous;
        }
    }

    /// Moves the hand on to the next page with chunks to look at if it is past the end of its own.
    fn settle_hand(&mut self, class: ClassId) {
        let pages = self.classes[class.index()].pages;
        for _ in 0..=pages {
            let Hand { page, chunk } = self.classes[class.index()].hand;
            assert!(page != PageId::NONE, "the class has a page");
            if chunk < self.pages[page.index()].touched {
                return;
            }
            self.classes[class.index()].hand = Hand { page: self.pages[page.index()].next, chunk: 0 };
        }
        panic!("the class has a chunk in use");
    }
}

impl Class {
    fn new(chunk_size: usize, chunks_per_page: usize) -> Class {
        Class {
            chunk_size,
            chunks_per_page: u32::try_from(chunks_per_page).expect("a page is at most 1 MiB"),
            pages: 0,
            chunks_used: 0,
            items: 0,
            bytes: 0,
            window_items: 0,
            evicted: 0,
            evicted_unfetched: 0,
            window: Window::default(),
            departures: Departures::default(),
            demand: 0.0,
            hits_sampled: 0.0,
            evicted_lately: 0.0,
            room: PageId::NONE,
            hand: Hand { page: PageId::NONE, chunk: 0 },
        }
    }
}

impl Page {
    const UNASSIGNED: Page = Page {
        next: PageId::NONE,
        previous: PageId::NONE,
        room_next: PageId::NONE,
        room_previous: PageId::NONE,
        free_head: Location::NONE,
        touched: 0,
        live: 0,
        class: NO_CLASS,
        leaving: false,
        held: 0,
    };
}

/// For counts and positions whose limits are far inside the narrow type.
fn narrow<T: TryFrom<usize>>(count: usize) -> T {
    T::try_from(count).ok().expect("limits of pages and classes fit their ids")
}

#[cfg(test)]
mod tests;
