//! How often keys were asked for lately, counted approximately. Knows hashes, not items.
//!
//! A count-min sketch of 4-bit counters after TinyLFU (Einziger, Friedman, Manes, 2017), with all four counters
//! of a key in one cache line. Instead of halving all counters at the end of a period at once, which would be a
//! pause, each block remembers the period it was last brought up to and catches up when it is next touched.

use std::io;

use bytemuck::{Pod, Zeroable};

use crate::arena::Region;

/// Largest count of a key.
pub(crate) const COUNT_MAX: u8 = 15;

const BLOCK_SIZE: usize = 64;
const ROWS: usize = 4;
/// A fuller table doubles. So there are four to eight counters an item over all rows.
const ITEMS_PER_BLOCK_MAX: u64 = 32;
/// All counts are halved after this many increments per item.
const INCREMENTS_PER_ITEM: u64 = 10;
/// Periods are told apart modulo this; 0 is a block never touched. A block sees 80 increments a period on average
/// or more, so none goes untouched for as many periods as would make it look recent again.
const PERIODS: u8 = 15;
/// A table with fewer items to a block takes as long for a period as if it had so many.
const ITEMS_PER_BLOCK_MIN: u64 = 8;
const BLOCKS_MIN: usize = 4;

const _: () = assert!(size_of::<Block>() == BLOCK_SIZE);

/// 128 counters of four bits; the very first of them holds the block's period instead.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Block {
    rows: [[u64; 2]; ROWS],
}

/// The frequency sketch of one shard.
#[derive(Debug)]
pub(crate) struct Sketch {
    region: Region,
    blocks: usize,
    blocks_max: usize,
    /// 1 to [`PERIODS`].
    period: u8,
    increments: u64,
    increments_max: u64,
}

impl Sketch {
    /// Reserves address space for `items_max` items; begins with the smallest table.
    pub(crate) fn reserve(items_max: usize, huge_pages: bool) -> io::Result<Sketch> {
        let blocks_max = (items_max / 16).next_power_of_two().max(BLOCKS_MIN);
        let region = Region::reserve(blocks_max * BLOCK_SIZE, huge_pages)?;
        let mut sketch =
            Sketch { region, blocks: BLOCKS_MIN, blocks_max, period: 1, increments: 0, increments_max: 0 };
        sketch.fit_to(0);
        Ok(sketch)
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks * BLOCK_SIZE
    }

    /// Whether so many items call for a larger table, and there is address space for it.
    pub(crate) fn is_too_small_for(&self, items: u64) -> bool {
        items > self.blocks as u64 * ITEMS_PER_BLOCK_MAX && self.blocks < self.blocks_max
    }

    /// Makes a period as long as so many items need.
    #[inline]
    pub(crate) fn fit_to(&mut self, items: u64) {
        self.increments_max = INCREMENTS_PER_ITEM * items.max(self.blocks as u64 * ITEMS_PER_BLOCK_MIN);
    }

    /// Doubles the table and [`Sketch::bytes`]. O(1): a new block starts as a copy of the one its keys counted in
    /// so far, made when it is first touched.
    pub(crate) fn double(&mut self) {
        assert!(self.blocks < self.blocks_max);
        self.blocks *= 2;
    }

    /// Counts one request. One cache line.
    #[inline]
    pub(crate) fn increment(&mut self, hash: u64) {
        let mixed = mix(hash);
        let at = self.position(mixed);
        if self.region.records::<Block>()[at].period() != self.period {
            let caught_up = self.up_to_date(at);
            self.region.records_mut::<Block>()[at] = caught_up;
        }
        let block = &mut self.region.records_mut::<Block>()[at];
        if block.raise_lowest(mixed) {
            self.count_increment();
        }
    }

    /// Has the CPU fetch what counting `hash` will touch.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.region.prefetch(self.position(mix(hash)) * BLOCK_SIZE);
    }

    /// About how many requests this and the last few periods saw: never too few, at most [`COUNT_MAX`].
    pub(crate) fn estimate(&self, hash: u64) -> u8 {
        let mixed = mix(hash);
        self.up_to_date(self.position(mixed)).lowest(mixed)
    }

    fn position(&self, mixed: u64) -> usize {
        let high = usize::try_from(mixed >> 32).expect("32 bits");
        high & (self.blocks - 1)
    }

    /// The block as it would be had every halving reached it in time.
    fn up_to_date(&self, at: usize) -> Block {
        let blocks = self.region.records::<Block>();
        let mut block = blocks[at];
        if block.period() == self.period {
            return block;
        }
        if block.period() == 0 && at >= BLOCKS_MIN {
            block = blocks[at & !(1 << at.ilog2())];
        }
        let behind = (self.period + PERIODS - block.period()) % PERIODS;
        if block.period() != 0 {
            block.halve(behind);
        }
        block.set_period(self.period);
        block
    }

    fn count_increment(&mut self) {
        self.increments += 1;
        if self.increments >= self.increments_max {
            self.increments /= 2;
            self.period = self.period % PERIODS + 1;
        }
    }
}

impl Block {
    fn period(&self) -> u8 {
        nibble(self.rows[0][0], 0)
    }

    fn set_period(&mut self, period: u8) {
        debug_assert!((1..=PERIODS).contains(&period));
        self.rows[0][0] = self.rows[0][0] & !0xf | u64::from(period);
    }

    fn lowest(&self, mixed: u64) -> u8 {
        let counts = self.counts(mixed);
        let [a, b, c, d] = counts.map(|(count, ..)| count);
        u8::try_from(a.min(b).min(c.min(d))).expect("four bits")
    }

    /// Raises the lowest of a key's counters, all of them if several are. False if even they are as high as can be.
    #[inline]
    fn raise_lowest(&mut self, mixed: u64) -> bool {
        let counts = self.counts(mixed);
        let [a, b, c, d] = counts.map(|(count, ..)| count);
        let lowest = a.min(b).min(c.min(d));
        if lowest == u64::from(COUNT_MAX) {
            return false;
        }
        for (row, (count, word, shift)) in self.rows.iter_mut().zip(counts) {
            row[word] += u64::from(count == lowest) << shift;
        }
        true
    }

    /// What each row counts for a key, in which word of it, from which bit on.
    #[inline]
    fn counts(&self, mixed: u64) -> [(u64, usize, u32); ROWS] {
        std::array::from_fn(|row| {
            let (word, shift) = place(row, mixed);
            (self.rows[row][word] >> shift & 0xf, word, shift)
        })
    }

    /// Halves all counters `times` over, the period's nibble included.
    fn halve(&mut self, times: u8) {
        let times = u32::from(times.min(4));
        let kept = 0x1111_1111_1111_1111 * (u64::from(COUNT_MAX) >> times);
        for word in self.rows.as_flattened_mut() {
            *word = *word >> times & kept;
        }
    }
}

/// Which word of a row counts a key, and from which bit on.
#[inline]
fn place(row: usize, mixed: u64) -> (usize, u32) {
    // A byte of the hash for each row; the other half tells the block.
    let byte = mixed.to_le_bytes()[row];
    let (word, shift) = (usize::from(byte & 1), u32::from(byte & 0x3c));
    // Counter 0 of row 0 is the period.
    if row == 0 && word == 0 { (word, shift.max(4)) } else { (word, shift) }
}

#[inline]
fn nibble(word: u64, shift: u32) -> u8 {
    u8::try_from(word >> shift & 0xf).expect("four bits")
}

/// The index takes hashes by their upper bits; this spreads all bits anew.
#[inline]
fn mix(hash: u64) -> u64 {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    fn sketch(items: u64) -> Sketch {
        let mut sketch = Sketch::reserve(1 << 20, false).unwrap();
        while sketch.is_too_small_for(items) {
            sketch.double();
        }
        sketch.fit_to(items);
        sketch
    }

    fn hash(key: u64) -> u64 {
        (key + 1).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(23).wrapping_mul(0x9fb2_1c65_1e98_df25)
    }

    #[test]
    fn an_estimate_is_never_below_an_exact_count_within_a_period_and_seldom_above() {
        let mut random = SmallRng::seed_from_u64(7);
        let mut sketch = sketch(1000);
        let mut exact: HashMap<u64, u8> = HashMap::new();
        for _ in 0..3_000 {
            let key = random.random_range(0..1000);
            sketch.increment(hash(key));
            let count = exact.entry(key).or_default();
            *count = (*count + 1).min(COUNT_MAX);
        }
        assert_eq!(sketch.period, 1);
        let excess: Vec<u8> = exact.iter().map(|(&key, &count)| sketch.estimate(hash(key)) - count).collect();
        let wrong = excess.iter().filter(|&&excess| excess > 1).count();
        assert!(wrong * 20 < exact.len(), "{wrong} of {}", exact.len());
    }

    #[test]
    fn counts_are_halved_when_a_period_ends() {
        let mut sketch = sketch(16);
        (0..12).for_each(|_| sketch.increment(hash(1)));
        assert_eq!(sketch.estimate(hash(1)), 12);
        for (periods, expected) in [(1, 6), (1, 3), (1, 1), (1, 0), (10, 0)] {
            for _ in 0..periods {
                sketch.period = sketch.period % PERIODS + 1;
            }
            assert_eq!(sketch.estimate(hash(1)), expected);
        }
    }

    #[test]
    fn a_doubled_sketch_remembers_what_was_counted_before() {
        let mut sketch = sketch(256);
        for key in 0..100 {
            (0..5).for_each(|_| sketch.increment(hash(key)));
        }
        let before: Vec<u8> = (0..100).map(|key| sketch.estimate(hash(key))).collect();
        sketch.double();
        let after: Vec<u8> = (0..100).map(|key| sketch.estimate(hash(key))).collect();
        assert_eq!(before, after);
        sketch.increment(hash(3));
        assert_eq!(sketch.estimate(hash(3)), before[3] + 1);
    }

    #[test]
    fn the_period_turns_after_ten_increments_an_item() {
        let mut sketch = sketch(1_000);
        let per_period = INCREMENTS_PER_ITEM * 1_000;
        let mut key = 0;
        while sketch.period == 1 {
            sketch.increment(hash(key));
            key += 1;
            assert!(key <= per_period * 2);
        }
        assert!(key >= per_period);
    }
}
