//! Writing an item: in the chunks of the one it replaces if they fit, in new ones otherwise. Never decides
//! whether to.

use crate::arena::Location;
use crate::expiry::Seconds;
use crate::header::{Chain, Extension, Head, Header};
use crate::room::Chunks;
use crate::shard::Shard;
use crate::slab::ClassId;
use crate::value::{Pieces, Writer};

/// An item to be written. Its value is `before`, the value of the replaced item if that is kept, and `after`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    /// Key length, version, expiry and marks; lengths, region and frequency are set when it is written.
    pub(crate) header: Header,
    pub(crate) client_flags: u32,
    /// Without the chain, which is added if need be.
    pub(crate) extension: Extension,
    pub(crate) key: &'a [u8],
    pub(crate) before: &'a [u8],
    pub(crate) keep_value: bool,
    pub(crate) after: &'a [u8],
}

/// There was no room, and nothing changed but for other items that were evicted in vain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom;

/// How an item is laid out in chunks.
pub(crate) struct Shape {
    /// All but the chain's first location.
    pub(crate) head: Head,
    pub(crate) class: ClassId,
    pub(crate) continuations: usize,
}

impl<'a> Draft<'a> {
    /// The item as it is, with another head.
    pub(crate) fn with_head(head: Head, key: &'a [u8]) -> Draft<'a> {
        let extension = Extension { chain: None, ..head.extension };
        Draft {
            header: head.header,
            client_flags: head.client_flags,
            extension,
            key,
            before: &[],
            keep_value: true,
            after: &[],
        }
    }
}

impl Shard {
    /// Writes an item under a key whose present item is `old`. On success `old` is gone, on failure it is as before.
    pub(crate) fn put(
        &mut self,
        now: Seconds,
        hash: u64,
        old: Option<Location>,
        draft: &Draft<'_>,
    ) -> Result<Location, NoRoom> {
        let shape = self.shape_of(draft, old);
        if let Some(location) = old
            && self.fits_in_place(location, &shape)
        {
            self.overwrite(location, &shape, draft);
            self.show_store(hash, location);
            return Ok(location);
        }
        self.protected = old.unwrap_or(Location::NONE);
        let chunks = self.take_chunks_and_slot(now, hash, old, &shape);
        self.protected = Location::NONE;
        self.writing = false;
        let chunks = chunks.ok_or(NoRoom)?;
        let mut head = shape.head;
        head.chain_to(chunks.first);
        self.write_new(old, chunks.head, &head, draft);
        self.finish_new(hash, old, chunks, head);
        Ok(chunks.head)
    }

    /// Makes an item of chunks that hold all of it but the headers, in the place of the one it replaces.
    pub(crate) fn finish_new(&mut self, hash: u64, old: Option<Location>, chunks: Chunks, mut head: Head) {
        let replaced = old.map(|location| self.arena.header(location));
        let class = self.slabs.class_of(chunks.head);
        self.mark_entry(class, hash, &mut head.header, replaced);
        // With it the continuations are the item's.
        self.arena.set_head(chunks.head, head);
        self.link(hash, old, chunks.head);
        self.resize_memory_of_requests();
        self.show_store(hash, chunks.head);
    }

    /// Gives the item another head: in place if the key stays where it is, elsewhere otherwise.
    pub(crate) fn put_head(
        &mut self,
        now: Seconds,
        hash: u64,
        location: Location,
        key: &[u8],
        head: Head,
    ) -> Result<Location, NoRoom> {
        let old = self.arena.head(location);
        debug_assert!(old.client_flags == head.client_flags && old.extension.chain == head.extension.chain);
        if old.key_offset() == head.key_offset() {
            self.arena.set_head(location, head);
            return Ok(location);
        }
        self.put(now, hash, Some(location), &Draft::with_head(head, key))
    }

    fn take_chunks_and_slot(
        &mut self,
        now: Seconds,
        hash: u64,
        old: Option<Location>,
        shape: &Shape,
    ) -> Option<Chunks> {
        if old.is_none() {
            self.count_return(shape.class, hash);
            if !self.make_item_room(now, shape.class) {
                return None;
            }
        }
        let chunks = self.take_chunks(now, shape.class, shape.continuations)?;
        if old.is_none() && !self.make_index_room(now, hash) {
            self.give_chunks(chunks);
            return None;
        }
        Some(chunks)
    }

    fn shape_of(&self, draft: &Draft<'_>, old: Option<Location>) -> Shape {
        let kept_len = match old {
            Some(location) if draft.keep_value => self.arena.head(location).value_len(),
            _ => 0,
        };
        let value_len = draft.before.len() + kept_len + draft.after.len();
        debug_assert!(value_len <= self.item_size_max && draft.header.key_len() == draft.key.len());
        let Draft { header, client_flags, extension, .. } = *draft;
        let head = Head { header_size: self.arena.header_size, header, client_flags, extension };
        self.shape(head, value_len)
    }

    /// The layout of an item with this head, as yet without a chain, and a value of this length.
    pub(crate) fn shape(&self, head: Head, value_len: usize) -> Shape {
        let mut shape = Shape { head, class: ClassId(0), continuations: 0 };
        let chunk_size_max = self.slabs.class(self.slabs.largest()).chunk_size;
        let mut head_len = value_len;
        if shape.head.value_offset() + value_len > chunk_size_max {
            let total = u32::try_from(value_len).expect("values are at most 1 GiB");
            shape.head.extension.chain = Some(Chain { value_len: total, first: Location::NONE.0 });
            let beyond = shape.head.value_offset() + value_len - chunk_size_max;
            shape.continuations = beyond.div_ceil(self.payload());
            head_len = value_len.saturating_sub(shape.continuations * self.payload());
        }
        shape.head.header.set_value_len(head_len);
        shape.class = self.slabs.class_for(shape.head.value_offset() + head_len);
        shape
    }

    /// Bytes of the chunks that a layout takes, at best.
    pub(crate) fn shape_bytes(&self, shape: &Shape) -> usize {
        let chunk_size = |class| self.slabs.class(class).chunk_size;
        chunk_size(shape.class) + shape.continuations * chunk_size(self.slabs.largest())
    }

    fn fits_in_place(&self, old: Location, shape: &Shape) -> bool {
        shape.continuations == 0
            && self.slabs.class_of(old) == shape.class
            && self.arena.head(old).extension.chain.is_none()
            && !self.is_pinned(old)
    }

    fn overwrite(&mut self, location: Location, shape: &Shape, draft: &Draft<'_>) {
        let old = self.arena.head(location);
        let mut head = shape.head;
        head.header.set_in_window(old.header.in_window());
        head.header.set_frequency(old.header.frequency());
        let start = location.offset();
        let value_start = start + head.value_offset();
        if draft.keep_value {
            let old_start = start + old.value_offset();
            let kept = old_start..old_start + old.header.value_len();
            // First of all, for head and key may be about to grow into it.
            self.arena.copy(kept, value_start + draft.before.len());
        }
        self.arena.set_head(location, head);
        self.write_key(location, &head, draft.key);
        self.arena.bytes_mut(value_start..value_start + draft.before.len()).copy_from_slice(draft.before);
        let value_end = value_start + head.header.value_len();
        self.arena.bytes_mut(value_end - draft.after.len()..value_end).copy_from_slice(draft.after);
        self.count_resized(location, old.footprint(), head.footprint());
        self.note_use(location);
    }

    /// Key and value of a new item.
    fn write_new(&mut self, old: Option<Location>, new: Location, head: &Head, draft: &Draft<'_>) {
        self.write_key(new, head, draft.key);
        let payload = self.payload();
        let kept = old.filter(|_| draft.keep_value).map(|location| {
            let old_head = self.arena.head(location);
            Pieces::of(location, &old_head, payload)
        });
        let mut writer = Writer::new(&mut self.arena, Pieces::of(new, head, payload));
        writer.write(draft.before);
        if let Some(kept) = kept {
            writer.copy(kept);
        }
        writer.write(draft.after);
    }

    pub(crate) fn write_key(&mut self, location: Location, head: &Head, key: &[u8]) {
        let start = location.offset() + head.key_offset();
        self.arena.bytes_mut(start..start + key.len()).copy_from_slice(key);
    }

    /// Makes a written item the one that its key finds, and counts it in.
    pub(crate) fn link(&mut self, hash: u64, old: Option<Location>, new: Location) {
        match old {
            Some(old) => {
                self.index.replace(hash, old, new);
                self.free_item(old);
            }
            None => self.index.insert(hash, new),
        }
        let head = self.arena.head(new);
        let class_id = self.slabs.class_of(new);
        self.barren &= class_id != self.slabs.largest() && head.extension.chain.is_none();
        let class = self.slabs.class_mut(class_id);
        class.items += 1;
        class.bytes += head.footprint();
        self.counters.items += 1;
        self.counters.bytes += head.footprint() as u64;
        self.recency.iter_mut().for_each(|recency| recency.insert(new, &self.slabs));
        if head.header.in_window() {
            self.enter_window(class_id, new);
        }
    }

    /// An item has become larger or smaller in place. Only the difference counts.
    #[inline]
    pub(crate) fn count_resized(&mut self, location: Location, from: usize, to: usize) {
        let class = self.slabs.class_of(location);
        let class = self.slabs.class_mut(class);
        class.bytes = class.bytes - from + to;
        self.counters.bytes = self.counters.bytes - from as u64 + to as u64;
    }
}
