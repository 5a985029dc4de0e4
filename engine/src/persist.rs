//! What a shard over a file has to remember beside it, so that another process can go on with its items. Knows layouts and
//! checksums; the items themselves are `restore.rs`'s.
//!
//! The file holds the arena and nothing else. All that is derived from it is built anew, so what is remembered is small: the layout,
//! the version counter, the pages in use, and a checksum of each.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::ConfigError;
use crate::expiry::Seconds;
use crate::fences::Fences;
use crate::shard::Shard;
use crate::slab::{PageId, Slabs};

/// Says what the bytes are, in which version, and in which byte order.
const MAGIC: u64 = u64::from_le_bytes(*b"slbring1");
const CHECKSUM_AT: Range<usize> = 8..16;
const NO_CLASS: u32 = u32::MAX;
const NO_FLUSH: u64 = u64::MAX;

const _: () = assert!(size_of::<Remembered>() == 14 * size_of::<u64>());
const _: () = assert!(size_of::<PageRemembered>() == 16);

/// Why nothing was restored. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// No shard can be built from the configuration, or the file not be mapped.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The metadata are not what [`Shard::persist`] returns, of this version and on this kind of machine.
    #[error("the metadata are of another kind or version, or cut off")]
    Unknown,
    /// The metadata have changed since.
    #[error("the metadata are damaged: their checksum is wrong")]
    Metadata,
    /// The items lie as this configuration would not have them.
    #[error("{what} was {stored} and is configured to be {configured}")]
    Layout {
        /// The setting.
        what: &'static str,
        /// Its value when the items were stored.
        stored: u64,
        /// Its value now.
        configured: u64,
    },
    /// The file has changed since.
    #[error("page {page} of the file is damaged: its checksum is wrong")]
    Page {
        /// The first such page.
        page: usize,
    },
}

/// The metadata's beginning; one [`PageRemembered`] for each page follows, and then the fences.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct Remembered {
    magic: u64,
    /// XXH3 of everything behind it.
    checksum: u64,
    layout: Layout,
    pub(crate) version: u64,
    pub(crate) flushed_version: u64,
    flush_due: u64,
    /// Home buckets of the index.
    pub(crate) buckets: u64,
    pages: u64,
}

/// What must be the same for the items to make sense.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub(crate) struct Layout {
    memory_bytes: u64,
    page_size: u64,
    chunk_sizes: u64,
    item_size_max: u64,
    cas_enabled: u64,
    cas_offset: u64,
    cas_step: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct PageRemembered {
    class: u32,
    pub(crate) touched: u32,
    checksum: u64,
}

impl PageRemembered {
    /// The class of a page in use.
    pub(crate) fn class(&self) -> Option<u32> {
        (self.class != NO_CLASS).then_some(self.class)
    }
}

impl Remembered {
    pub(crate) fn flush_due(&self) -> Option<Seconds> {
        u32::try_from(self.flush_due).ok().map(Seconds)
    }
}

impl Shard {
    /// Ends a shard [over a file](Shard::over_file); returns what [`Shard::restore`] needs to know about it. What is in the file
    /// is worth nothing without it, and nothing after any change. Reads all pages in use, about 0.1 s for a gigabyte.
    pub fn persist(mut self) -> Vec<u8> {
        self.free_flushed_groups();
        self.remembered()
    }

    pub(crate) fn remembered(&self) -> Vec<u8> {
        let pages: Vec<PageRemembered> = self.slabs.page_ids().map(|page| self.remember_page(page)).collect();
        let head = Remembered {
            magic: MAGIC,
            checksum: 0,
            layout: self.layout(),
            version: self.version,
            flushed_version: self.flushed_version,
            flush_due: self.flush_due.map_or(NO_FLUSH, |at| u64::from(at.0)),
            buckets: self.index.buckets_wanted(),
            pages: pages.len() as u64,
        };
        let parts = [bytemuck::bytes_of(&head), bytemuck::cast_slice(&pages), self.fences.remembered()];
        let mut bytes = parts.concat();
        let checksum = xxh3_64(&bytes[CHECKSUM_AT.end..]);
        bytes[CHECKSUM_AT].copy_from_slice(&checksum.to_ne_bytes());
        bytes
    }

    /// Whether every page in use is what it was.
    pub(crate) fn check_pages(&self, pages: &[PageRemembered]) -> Result<(), RestoreError> {
        let damaged = self.slabs.page_ids().zip(pages).find(|(page, remembered)| {
            let class = remembered.class();
            class.is_some_and(|class| {
                self.checksum_of(*page, class, remembered.touched) != Some(remembered.checksum)
            })
        });
        damaged.map_or(Ok(()), |(page, _)| Err(RestoreError::Page { page: page.index() }))
    }

    /// Whether the items of a shard that remembers this layout make sense in this one.
    pub(crate) fn check_layout(&self, remembered: &Remembered) -> Result<(), RestoreError> {
        let (stored, configured) = (remembered.layout.fields(), self.layout().fields());
        let mut both = stored.into_iter().zip(configured);
        if let Some(((what, stored), (_, configured))) =
            both.find(|(stored, configured)| stored != configured)
        {
            return Err(RestoreError::Layout { what, stored, configured });
        }
        // Who writes such metadata has written their checksum too.
        if remembered.pages == self.slabs.page_count() as u64 { Ok(()) } else { Err(RestoreError::Unknown) }
    }

    fn remember_page(&self, page: PageId) -> PageRemembered {
        let touched = self.slabs.touched_in(page);
        let class = self.slabs.page_class(page).map_or(NO_CLASS, |class| u32::from(class.0));
        let checksum = self.checksum_of(page, class, touched).unwrap_or(0);
        PageRemembered { class, touched, checksum }
    }

    /// XXH3 of the chunks of a page that were ever handed out.
    fn checksum_of(&self, page: PageId, class: u32, touched: u32) -> Option<u64> {
        let bytes = self.slabs.touched_bytes(page, class, touched)?;
        Some(xxh3_64(self.arena.bytes(bytes)))
    }

    fn layout(&self) -> Layout {
        let cas = self.cas;
        Layout {
            memory_bytes: self.memory_bytes as u64,
            page_size: self.slabs.page_size() as u64,
            chunk_sizes: chunk_sizes_of(&self.slabs),
            item_size_max: self.item_size_max as u64,
            cas_enabled: u64::from(cas.is_some()),
            cas_offset: cas.map_or(0, |cas| cas.offset),
            cas_step: cas.map_or(0, |cas| cas.step),
        }
    }
}

impl Layout {
    fn fields(&self) -> [(&'static str, u64); 7] {
        [
            ("the memory of a shard in bytes", self.memory_bytes),
            ("the page size", self.page_size),
            ("the checksum of all chunk sizes", self.chunk_sizes),
            ("the item size limit", self.item_size_max),
            ("whether there are CAS values", self.cas_enabled),
            ("a shard's place among the shards", self.cas_offset),
            ("the number of shards", self.cas_step),
        ]
    }
}

/// Takes metadata apart that are as [`Shard::persist`] made them.
pub(crate) fn parse(metadata: &[u8]) -> Result<(Remembered, Vec<PageRemembered>, Fences), RestoreError> {
    let (head, rest) = metadata.split_at_checked(size_of::<Remembered>()).ok_or(RestoreError::Unknown)?;
    let head: Remembered = bytemuck::pod_read_unaligned(head);
    let page_bytes = head.pages.saturating_mul(size_of::<PageRemembered>() as u64);
    let parts = usize::try_from(page_bytes).ok().and_then(|bytes| rest.split_at_checked(bytes));
    let (pages, fences) = parts.filter(|_| head.magic == MAGIC).ok_or(RestoreError::Unknown)?;
    if xxh3_64(&metadata[CHECKSUM_AT.end..]) != head.checksum {
        return Err(RestoreError::Metadata);
    }
    let pages = pages.chunks_exact(size_of::<PageRemembered>()).map(bytemuck::pod_read_unaligned).collect();
    Ok((head, pages, Fences::restore(fences).ok_or(RestoreError::Unknown)?))
}

fn chunk_sizes_of(slabs: &Slabs) -> u64 {
    let sizes = slabs.class_ids().map(|class| slabs.class(class).chunk_size as u64);
    xxh3_64(bytemuck::cast_slice(&sizes.collect::<Vec<u64>>()))
}
