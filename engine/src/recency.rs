//! The exact order of last use, one list per class, for the policy that wants it. Keeps links beside the arena,
//! eight bytes for each chunk, and never reads an item.

use std::io;

use bytemuck::{Pod, Zeroable};

use crate::arena::{Location, Region};
use crate::slab::{ClassId, PageId, Slabs};

/// Links of one page of chunks begin on a page of the kernel's, so that only those in use take memory. Where they would
/// not fill one they lie side by side.
const KERNEL_PAGE_SIZE: usize = 4096;
const LINKS_PER_KERNEL_PAGE: usize = KERNEL_PAGE_SIZE / size_of::<Link>();

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Link {
    newer: u32,
    older: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    newest: Location,
    oldest: Location,
}

/// The lists of one shard, by the class that an item's head lies in.
#[derive(Debug)]
pub(crate) struct Recency {
    links: Region,
    links_per_page: usize,
    lists: Vec<List>,
}

impl Recency {
    /// Reserves address space for the links of every chunk.
    pub(crate) fn reserve(slabs: &Slabs) -> io::Result<Recency> {
        let classes = slabs.class_ids().count();
        let links_per_page = match slabs.chunks_per_page_max() {
            few @ ..LINKS_PER_KERNEL_PAGE => few,
            many => many.next_multiple_of(LINKS_PER_KERNEL_PAGE),
        };
        let links = Region::reserve(slabs.page_count() * links_per_page * size_of::<Link>(), false)?;
        let empty = List { newest: Location::NONE, oldest: Location::NONE };
        Ok(Recency { links, links_per_page, lists: vec![empty; classes] })
    }

    /// Bytes of links that a page of so many chunks needs.
    pub(crate) fn bytes_of_page(&self, chunks: usize) -> usize {
        let stride = self.links_per_page * size_of::<Link>();
        stride.min((chunks * size_of::<Link>()).next_multiple_of(KERNEL_PAGE_SIZE))
    }

    /// Adds an item as the newest of its class.
    pub(crate) fn insert(&mut self, location: Location, slabs: &Slabs) {
        let class = slabs.class_of(location);
        let newest = self.lists[class.index()].newest;
        *self.link_mut(location, slabs) = Link { newer: Location::NONE.0, older: newest.0 };
        match newest {
            Location::NONE => self.lists[class.index()].oldest = location,
            newest => self.link_mut(newest, slabs).newer = location.0,
        }
        self.lists[class.index()].newest = location;
    }

    /// Takes an item out.
    pub(crate) fn remove(&mut self, location: Location, slabs: &Slabs) {
        let class = slabs.class_of(location);
        let Link { newer, older } = *self.link_mut(location, slabs);
        match Location(newer) {
            Location::NONE => self.lists[class.index()].newest = Location(older),
            newer => self.link_mut(newer, slabs).older = older,
        }
        match Location(older) {
            Location::NONE => self.lists[class.index()].oldest = Location(newer),
            older => self.link_mut(older, slabs).newer = newer,
        }
    }

    /// Puts a chunk in the place of another one of its class.
    pub(crate) fn replace(&mut self, from: Location, to: Location, slabs: &Slabs) {
        let class = slabs.class_of(from);
        let link = *self.link_mut(from, slabs);
        *self.link_mut(to, slabs) = link;
        match Location(link.newer) {
            Location::NONE => self.lists[class.index()].newest = to,
            newer => self.link_mut(newer, slabs).older = to.0,
        }
        match Location(link.older) {
            Location::NONE => self.lists[class.index()].oldest = to,
            older => self.link_mut(older, slabs).newer = to.0,
        }
    }

    /// Makes an item the newest of its class.
    #[inline]
    pub(crate) fn touch(&mut self, location: Location, slabs: &Slabs) {
        if self.lists[slabs.class_of(location).index()].newest != location {
            self.remove(location, slabs);
            self.insert(location, slabs);
        }
    }

    /// The items of a class, least recently used first.
    pub(crate) fn oldest_first<'a>(
        &'a self,
        class: ClassId,
        slabs: &'a Slabs,
    ) -> impl Iterator<Item = Location> + 'a {
        let some = |location| (location != Location::NONE).then_some(location);
        std::iter::successors(some(self.lists[class.index()].oldest), move |&at| {
            some(Location(self.links.records::<Link>()[self.place(at, slabs)].newer))
        })
    }

    /// Gives back the memory of a page's links, none of which is in use, if nobody else's lie on the same kernel page.
    pub(crate) fn discard(&mut self, page: PageId) {
        if self.links_per_page < LINKS_PER_KERNEL_PAGE {
            return;
        }
        let start = page.index() * self.links_per_page * size_of::<Link>();
        self.links.discard(start..start + self.links_per_page * size_of::<Link>());
    }

    fn place(&self, location: Location, slabs: &Slabs) -> usize {
        slabs.page_of(location).index() * self.links_per_page + slabs.place_in_page(location)
    }

    fn link_mut(&mut self, location: Location, slabs: &Slabs) -> &mut Link {
        let place = self.place(location, slabs);
        &mut self.links.records_mut::<Link>()[place]
    }
}
