//! The order in which items entered the windows of the classes: queues made of small blocks from one pool, so
//! that a window grows and shrinks without a copy. Holds locations only; what has become of the item there is for
//! the caller to see, so entries may be stale.

use std::io;

use bytemuck::{Pod, Zeroable};

use crate::arena::{Location, Region};

/// Bytes of a block.
pub(crate) const BLOCK_SIZE: usize = 256;

const ENTRIES: usize = BLOCK_SIZE / size_of::<u32>() - 1;
const NO_BLOCK: u32 = u32::MAX;

const _: () = assert!(size_of::<Block>() == BLOCK_SIZE);

#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Block {
    entries: [u32; ENTRIES],
    next: u32,
}

/// The pool that all windows of a shard take blocks from.
#[derive(Debug)]
pub(crate) struct Blocks {
    region: Region,
    blocks_max: u32,
    /// Ever used, and so in memory.
    touched: u32,
    free: u32,
}

/// A first-in first-out queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    oldest_block: u32,
    newest_block: u32,
    /// Place of the oldest entry in its block, and the one behind the newest in its own.
    oldest_at: usize,
    newest_end: usize,
    len: usize,
}

impl Blocks {
    /// Reserves address space for `entries` entries in `windows` windows.
    pub(crate) fn reserve(entries: usize, windows: usize, huge_pages: bool) -> io::Result<Blocks> {
        let blocks = entries / ENTRIES + 2 * windows;
        let region = Region::reserve(blocks * BLOCK_SIZE, huge_pages)?;
        let blocks_max = u32::try_from(blocks).expect("fewer blocks than locations");
        Ok(Blocks { region, blocks_max, touched: 0, free: NO_BLOCK })
    }

    /// Bytes in use, blocks that no window needs at the moment included.
    pub(crate) fn bytes(&self) -> usize {
        self.touched as usize * BLOCK_SIZE
    }

    /// Bytes of the blocks that no window needs at the moment.
    pub(crate) fn free_bytes(&self) -> usize {
        let some = |block: u32| (block != NO_BLOCK).then_some(block);
        let free = std::iter::successors(some(self.free), |&block| some(self.block(block).next));
        free.count() * BLOCK_SIZE
    }

    fn take(&mut self) -> u32 {
        if self.free != NO_BLOCK {
            let block = self.free;
            self.free = self.block(block).next;
            return block;
        }
        assert!(self.touched < self.blocks_max, "the caller made sure of room");
        self.touched += 1;
        self.touched - 1
    }

    fn give(&mut self, block: u32) {
        self.block_mut(block).next = self.free;
        self.free = block;
    }

    fn block(&self, block: u32) -> &Block {
        &self.region.records::<Block>()[block as usize]
    }

    fn block_mut(&mut self, block: u32) -> &mut Block {
        &mut self.region.records_mut::<Block>()[block as usize]
    }
}

impl Default for Window {
    fn default() -> Window {
        Window { oldest_block: NO_BLOCK, newest_block: NO_BLOCK, oldest_at: 0, newest_end: 0, len: 0 }
    }
}

impl Window {
    /// Entries, stale ones included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Blocks in use.
    pub(crate) fn blocks(&self) -> usize {
        if self.len == 0 { 0 } else { (self.oldest_at + self.len).div_ceil(ENTRIES) }
    }

    /// Whether the next [`Window::push`] finds a place without a block more in memory.
    pub(crate) fn has_place(&self, blocks: &Blocks) -> bool {
        !self.needs_block() || blocks.free != NO_BLOCK
    }

    /// Whether the next [`Window::push`] finds a place at all, at the price of [`BLOCK_SIZE`] bytes.
    pub(crate) fn can_push(&self, blocks: &Blocks) -> bool {
        self.has_place(blocks) || blocks.touched < blocks.blocks_max
    }

    /// Adds the newest entry. The caller made sure that it [can](Window::can_push).
    pub(crate) fn push(&mut self, location: Location, blocks: &mut Blocks) {
        if self.needs_block() {
            let block = blocks.take();
            blocks.block_mut(block).next = NO_BLOCK;
            match self.newest_block {
                NO_BLOCK => (self.oldest_block, self.oldest_at) = (block, 0),
                newest => blocks.block_mut(newest).next = block,
            }
            (self.newest_block, self.newest_end) = (block, 0);
        }
        blocks.block_mut(self.newest_block).entries[self.newest_end] = location.0;
        self.newest_end += 1;
        self.len += 1;
    }

    /// The oldest entry.
    pub(crate) fn oldest(&self, blocks: &Blocks) -> Option<Location> {
        (self.len > 0).then(|| Location(blocks.block(self.oldest_block).entries[self.oldest_at]))
    }

    /// Takes the oldest entry.
    pub(crate) fn pop(&mut self, blocks: &mut Blocks) -> Option<Location> {
        let location = self.oldest(blocks)?;
        self.len -= 1;
        self.oldest_at += 1;
        if self.len == 0 {
            blocks.give(self.oldest_block);
            *self = Window::default();
        } else if self.oldest_at == ENTRIES {
            let next = blocks.block(self.oldest_block).next;
            blocks.give(self.oldest_block);
            (self.oldest_block, self.oldest_at) = (next, 0);
        }
        Some(location)
    }

    /// All entries, the oldest first.
    pub(crate) fn iter<'a>(&self, blocks: &'a Blocks) -> impl Iterator<Item = Location> + use<'a> {
        let (mut block, mut at) = (self.oldest_block, self.oldest_at);
        (0..self.len).map(move |_| {
            if at == ENTRIES {
                (block, at) = (blocks.block(block).next, 0);
            }
            at += 1;
            Location(blocks.block(block).entries[at - 1])
        })
    }

    fn needs_block(&self) -> bool {
        self.newest_block == NO_BLOCK || self.newest_end == ENTRIES
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn windows_that_share_a_pool_agree_with_deques_and_blocks_are_used_again() {
        for seed in 0..20 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut blocks = Blocks::reserve(10_000, 3, false).unwrap();
            let mut windows = [Window::default(); 3];
            let mut twins: [VecDeque<Location>; 3] = Default::default();
            for step in 0..20_000_u32 {
                let at = random.random_range(0..3);
                let (window, twin) = (&mut windows[at], &mut twins[at]);
                let growing = step / 2_000 % 2 == 0;
                if random.random_bool(if growing { 0.7 } else { 0.3 }) && window.can_push(&blocks) {
                    window.push(Location(step), &mut blocks);
                    twin.push_back(Location(step));
                } else {
                    assert_eq!(window.oldest(&blocks), twin.front().copied());
                    assert_eq!(window.pop(&mut blocks), twin.pop_front(), "seed {seed}");
                }
                assert_eq!(window.len(), twin.len());
            }
            for (window, twin) in windows.iter().zip(&twins) {
                assert!(window.iter(&blocks).eq(twin.iter().copied()), "seed {seed}");
            }
            assert!(blocks.bytes() < 3_000 / ENTRIES * BLOCK_SIZE + 9 * BLOCK_SIZE, "{}", blocks.bytes());
        }
    }
}
