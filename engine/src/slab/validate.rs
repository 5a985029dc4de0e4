//! Every list and counter of the pages against a walk over all of them, for `check_invariants`. Changes nothing.

use super::{Class, NO_CLASS, Page, PageId, Slabs, narrow};
use crate::arena::{Arena, Location};
use crate::header::Chunk;

impl Slabs {
    /// Checks every list and counter against a walk over all pages and chunks.
    pub(crate) fn validate(&self, arena: &Arena) {
        let mut used = vec![0; self.classes.len()];
        let mut pages = vec![0; self.classes.len()];
        let assigned =
            (0..narrow(self.pages.len())).map(PageId).filter(|&page| self.page_class(page).is_some());
        for page in assigned {
            let entry = &self.pages[page.index()];
            pages[usize::from(entry.class)] += 1;
            used[usize::from(entry.class)] += entry.live as usize;
            self.validate_page(page, arena);
        }
        for class in self.class_ids() {
            let Class { chunks_used, pages: expected, room, .. } = self.classes[class.index()];
            assert_eq!((chunks_used, expected), (used[class.index()], pages[class.index()]));
            assert!(self.pages_of(class).all(|page| self.page_class(page) == Some(class)));
            let open = |page: &PageId| self.has_room(*page) && !self.pages[page.index()].leaving;
            let with_room = self.pages_of(class).filter(open).count();
            let some = |page: PageId| (page != PageId::NONE).then_some(page);
            let listed = std::iter::successors(some(room), |page| some(self.pages[page.index()].room_next));
            assert_eq!(listed.count(), with_room);
        }
        assert_eq!(pages.iter().sum::<usize>(), self.pages_assigned);
        assert_eq!(pages.iter().filter(|&&pages| pages > 0).count(), self.classes_in_use);
        let empty = |page: &&Page| page.class != NO_CLASS && page.live == 0 && !page.leaving;
        assert_eq!(self.pages.iter().filter(empty).count(), self.pages_empty);
    }

    /// Checks how many chunks each page holds against a count.
    pub(crate) fn validate_held(&self, held: &[usize]) {
        assert!(self.pages.iter().map(|page| usize::from(page.held)).eq(held.iter().copied()));
        assert_eq!(held.iter().filter(|&&held| held > 0).count(), self.pages_held);
    }

    fn validate_page(&self, page: PageId, arena: &Arena) {
        let entry = &self.pages[page.index()];
        let chunks = (0..entry.touched).map(|chunk| arena.chunk(self.chunk_at(page, chunk)));
        let free = chunks.filter(|chunk| matches!(chunk, Chunk::Free { .. })).count();
        assert_eq!(entry.touched as usize - free, entry.live as usize);
        let mut listed = 0;
        let mut next = entry.free_head;
        while next != Location::NONE {
            assert_eq!(self.page_of(next), page);
            let Chunk::Free { next: after } = arena.chunk(next) else {
                panic!("a chunk in use is listed free")
            };
            next = after;
            listed += 1;
        }
        assert_eq!(listed, free);
    }
}
