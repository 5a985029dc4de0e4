//! The sweeper: frees dead items nobody asks for and keeps idle times from wrapping, a bounded step at a time.

use crate::arena::Location;
use crate::expiry::Seconds;
use crate::header::{Chunk, Header};
use crate::shard::Shard;
use crate::slab::PageId;

/// Chunks of a leaving page that a step looks at besides.
const MAINTAIN_CHUNKS: usize = 32;

/// What a step of the sweeper did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// Chunks looked at; a page without chunks counts as one.
    pub examined: usize,
    /// Dead items freed.
    pub freed: usize,
}

impl Shard {
    /// Examines the next `chunks_max` chunks, at most every page of the shard once. About 5 ns a chunk.
    ///
    /// Coming round in less than an hour keeps idle times right; coming round faster frees the memory of dead items
    /// sooner: within one [round](Shard::sweep_round) after they died.
    pub fn sweep(&mut self, now: Seconds, chunks_max: usize) -> Swept {
        self.maintain(now, MAINTAIN_CHUNKS);
        let mut swept = Swept::default();
        let mut pages_left = self.slabs.page_count();
        while swept.examined < chunks_max && pages_left > 0 {
            self.sweep_page(now, chunks_max, &mut swept);
            if self.sweep_chunk >= self.slabs.touched_in(self.sweep_page) {
                self.sweep_page = self.page_after(self.sweep_page);
                self.sweep_chunk = 0;
                pages_left -= 1;
            }
        }
        swept
    }

    /// Most that one round over everything looks at. O(classes).
    pub fn sweep_round(&self) -> usize {
        let chunks = self.slabs.class_ids().map(|class| self.slabs.class(class).chunks());
        self.slabs.page_count() + chunks.sum::<usize>()
    }

    /// Frees what was flushed and numbers the rest from `version` on; returns the last number given. O(chunks).
    #[cold]
    pub(crate) fn renumber(&mut self, mut version: u64) -> u64 {
        let pages =
            (0..self.slabs.page_count()).map(|page| PageId(u32::try_from(page).expect("pages are few")));
        for page in pages {
            for chunk in 0..self.slabs.touched_in(page) {
                let location = self.slabs.chunk_at(page, chunk);
                let Chunk::Item(mut header) = self.arena.chunk(location) else { continue };
                if self.is_flushed(location, header) {
                    self.reclaim(self.hash_at(location), location);
                    continue;
                }
                version += 1;
                header.set_version(version);
                self.arena.set_header(location, header);
            }
        }
        version
    }

    fn sweep_page(&mut self, now: Seconds, chunks_max: usize, swept: &mut Swept) {
        let page = self.sweep_page;
        let touched = self.slabs.touched_in(page);
        if touched == 0 {
            swept.examined += 1;
        }
        while self.sweep_chunk < touched && swept.examined < chunks_max {
            let location = self.slabs.chunk_at(page, self.sweep_chunk);
            self.sweep_chunk += 1;
            swept.examined += 1;
            if let Chunk::Item(header) = self.arena.chunk(location) {
                swept.freed += usize::from(self.sweep_item(now, location, header));
            }
        }
    }

    /// Whether the item was dead and is freed now.
    fn sweep_item(&mut self, now: Seconds, location: Location, header: Header) -> bool {
        if self.death(location, header, now).is_some() {
            self.reclaim(self.hash_at(location), location);
            return true;
        }
        if let Some(kept) = header.with_age_kept(now) {
            self.arena.set_header(location, kept);
        }
        false
    }

    fn page_after(&self, page: PageId) -> PageId {
        let next = PageId(page.0 + 1);
        if next.0 as usize == self.slabs.page_count() { PageId(0) } else { next }
    }
}
