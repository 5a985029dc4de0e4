//! Which keys were evicted lately, approximately: two generations of a Bloom filter. Knows hashes, not items.
//!
//! Both generations of a key lie in one cache line. A generation that has taken as many keys as half the items
//! becomes the older one, and what was the older one is forgotten: at once by number, and block by block as each
//! is next touched, so that there is no pause.

use std::io;

use bytemuck::{Pod, Zeroable};

use crate::arena::Region;

const BLOCK_SIZE: usize = 64;
const WORDS: usize = 4;
/// Bits of one generation in a block; the first few of the first generation number the generations.
const BITS: u32 = 256;
const NUMBER_BITS: u32 = 8;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
/// Generations are told apart modulo this; number 0 is a block never touched. A block takes 25 keys a generation
/// on average, so none goes untouched for as many generations as would make it look recent again.
const NUMBERS: u64 = 255;
const BITS_PER_KEY: u64 = 10;
const PROBES: u32 = 6;
/// Items whose evictions one block remembers: half of them in each generation.
const ITEMS_PER_BLOCK: u64 = 2 * (BITS - NUMBER_BITS) as u64 / BITS_PER_KEY;
/// A ghost that is too small grows by so much more than it must, for it forgets everything as it grows.
const GROWTH_DIVISOR: u64 = 8;

const _: () = assert!(size_of::<Block>() == BLOCK_SIZE && WORDS * 64 == BITS as usize);
const _: () = assert!(PROBES * 8 <= u64::BITS && NUMBERS <= NUMBER_MASK && NUMBERS % 2 == 1);

/// Two generations of 256 bits. The lowest eight bits of the whole are the number of the younger one.
#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Block {
    generations: [[u64; WORDS]; 2],
}

/// The ghost of one shard.
#[derive(Debug)]
pub(crate) struct Ghost {
    region: Region,
    blocks: u64,
    blocks_max: u64,
    /// Of the younger one; even generations use a block's first half.
    generation: u64,
    /// Keys in the younger one.
    keys: u64,
    /// Keys that fill a generation.
    keys_max: u64,
}

impl Ghost {
    /// Reserves address space for `items_max` items; begins with a single block.
    pub(crate) fn reserve(items_max: usize, huge_pages: bool) -> io::Result<Ghost> {
        let blocks_max = items_max as u64 / ITEMS_PER_BLOCK + 1;
        let bytes = usize::try_from(blocks_max).expect("far fewer blocks than items") * BLOCK_SIZE;
        let region = Region::reserve(bytes, huge_pages)?;
        Ok(Ghost { region, blocks: 1, blocks_max, generation: 0, keys: 0, keys_max: 1 })
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        bytes_of(self.blocks)
    }

    /// Bytes that [`Ghost::fit_to`] would add for so many items.
    pub(crate) fn growth_bytes(&self, items: u64) -> usize {
        bytes_of(self.blocks_for(items) - self.blocks)
    }

    /// Remembers as many keys as half the items in each generation. A ghost that grows for it forgets everything.
    #[inline]
    pub(crate) fn fit_to(&mut self, items: u64) {
        self.keys_max = (items / 2).max(1);
        if items > self.blocks * ITEMS_PER_BLOCK {
            self.grow(items);
        }
    }

    /// Remembers a key. One cache line.
    pub(crate) fn insert(&mut self, hash: u64) {
        if self.keys >= self.keys_max {
            self.generation += 1;
            self.keys = 0;
        }
        self.keys += 1;
        let at = self.position(hash);
        let mut block = self.up_to_date(at);
        let younger = &mut block.generations[half(self.generation)];
        younger.iter_mut().zip(bits_of(hash)).for_each(|(word, bits)| *word |= bits);
        self.region.records_mut::<Block>()[at] = block;
    }

    /// Has the CPU fetch what remembering a key, or asking for it, will touch.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.region.prefetch(self.position(hash) * BLOCK_SIZE);
    }

    /// Whether a key is remembered. One cache line; wrong for about one in fifty keys that never were.
    pub(crate) fn contains(&self, hash: u64) -> bool {
        let block = self.up_to_date(self.position(hash));
        let bits = bits_of(hash);
        let holds = |words: &[u64; WORDS]| words.iter().zip(bits).all(|(word, bits)| word & bits == bits);
        block.generations.iter().any(holds)
    }

    #[cold]
    fn grow(&mut self, items: u64) {
        self.blocks = self.blocks_for(items);
        // Two on: both generations of every block are forgotten.
        self.generation += 2;
        self.keys = 0;
    }

    fn blocks_for(&self, items: u64) -> u64 {
        let needed = items / ITEMS_PER_BLOCK + 1;
        if needed <= self.blocks {
            self.blocks
        } else {
            (needed + needed / GROWTH_DIVISOR).min(self.blocks_max).max(self.blocks)
        }
    }

    fn position(&self, hash: u64) -> usize {
        let at = (u128::from(mix(hash)) * u128::from(self.blocks)) >> u64::BITS;
        usize::try_from(at).expect("positions are below the region's size")
    }

    /// The block without what has been forgotten since it was last touched.
    fn up_to_date(&self, at: usize) -> Block {
        let mut block = self.region.records::<Block>()[at];
        let number = block.generations[0][0] & NUMBER_MASK;
        let now = self.generation % NUMBERS + 1;
        if number == now {
            return block;
        }
        if number != 0 && (number % NUMBERS) + 1 == now {
            block.generations[half(self.generation)] = [0; WORDS];
        } else {
            block = Block::zeroed();
        }
        block.generations[0][0] = block.generations[0][0] & !NUMBER_MASK | now;
        block
    }
}

fn half(generation: u64) -> usize {
    usize::from(generation % 2 == 1)
}

fn bytes_of(blocks: u64) -> usize {
    usize::try_from(blocks).expect("as many as were reserved") * BLOCK_SIZE
}

/// The bits that stand for a key in a generation, none of them where a number is kept.
fn bits_of(hash: u64) -> [u64; WORDS] {
    let mut rest = mix(hash.rotate_left(32));
    let mut bits = [0; WORDS];
    for _ in 0..PROBES {
        let [eight, ..] = rest.to_le_bytes();
        let bit = ((u32::from(eight) * (BITS - NUMBER_BITS)) >> u8::BITS) + NUMBER_BITS;
        bits[(bit / 64) as usize] |= 1 << (bit % 64);
        rest >>= u8::BITS;
    }
    bits
}

/// The index takes hashes by their upper bits; this spreads all bits anew.
fn mix(hash: u64) -> u64 {
    let mixed = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    fn ghost(items: u64) -> Ghost {
        let mut ghost = Ghost::reserve(1 << 20, false).unwrap();
        ghost.fit_to(items);
        ghost
    }

    #[test]
    fn the_last_half_as_many_keys_as_items_are_always_remembered_and_older_ones_seldom() {
        for (seed, items) in [(1, 10), (2, 137), (3, 5_000), (4, 60_000)] {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut ghost = ghost(items);
            let (mut recent, mut old) = (VecDeque::new(), Vec::new());
            for _ in 0..items * 20 {
                let hash = random.next_u64();
                ghost.insert(hash);
                recent.push_back(hash);
                if recent.len() as u64 > items {
                    old.push(recent.pop_front().unwrap());
                }
            }
            let sure = recent.iter().rev().take((items / 2) as usize);
            assert!(sure.clone().all(|&hash| ghost.contains(hash)), "seed {seed}");
            let wrong = old.iter().filter(|&&hash| ghost.contains(hash)).count();
            assert!(wrong * 25 < old.len(), "seed {seed}: {wrong} of {}", old.len());
        }
    }

    #[test]
    fn a_ghost_that_grows_forgets_and_then_remembers_again() {
        let mut ghost = ghost(100);
        ghost.insert(7);
        assert!(ghost.contains(7));
        let (bytes, more) = (ghost.bytes(), ghost.growth_bytes(10_000));
        ghost.fit_to(10_000);
        assert_eq!(ghost.bytes(), bytes + more);
        assert!(!ghost.contains(7));
        ghost.insert(7);
        assert!(ghost.contains(7));
    }

    #[test]
    fn a_full_ghost_takes_less_than_one_and_two_thirds_bytes_an_item() {
        let mut random = SmallRng::seed_from_u64(1);
        let mut ghost = Ghost::reserve(1 << 24, false).unwrap();
        for items in (10_000..1_000_000).step_by(777) {
            ghost.fit_to(items);
            ghost.insert(random.random());
            assert!(ghost.bytes() as u64 * 3 <= items * 5 + 1000);
        }
    }

    #[test]
    fn nothing_is_remembered_after_many_generations_whatever_their_number() {
        let mut ghost = ghost(2);
        ghost.insert(1 << 40);
        for generation in 0..1_000 {
            ghost.insert(generation);
            let same_block = ghost.blocks == 1;
            assert!(same_block && (generation < 2 || !ghost.contains(1 << 40)), "{generation}");
        }
    }
}
