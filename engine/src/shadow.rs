//! Sampled shadow caches that tell which setting of the policy would hit most. They hold hashes and sizes only,
//! and see about one request in as many as the shard has times more items than they.
//!
//! One table of sampled keys serves all of them: an entry says for each shadow whether the key is in it, in which
//! region, and how often it was hit. So a sampled request costs one look-up. Scores fade by two percent an epoch; a
//! setting is left only for one that led it by more than chance, which takes several epochs: traffic comes in bursts
//! that favour one setting and then the other, and who follows each of them is worse off than who stays.

use std::collections::VecDeque;
use std::io;

use crate::ghost::Ghost;
use crate::header::FREQUENCY_MAX;
use crate::policy::{Rule, SETTINGS, Setting};
use crate::sketch::Sketch;

/// Items of a shadow, at most.
const ITEMS_MAX: usize = 1024;
/// A shard whose budget affords fewer keeps the setting it starts with.
const ITEMS_MIN: usize = 512;
/// The shadows may take this part of the budget.
const BUDGET_SHARE: usize = 128;
/// Entries of the table for each item of a shadow: what the five hold differs, but not by that much.
const ENTRIES_PER_ITEM: usize = 3;
/// What is left of scores and of squared leads after an epoch.
const SCORE_KEPT: f64 = 0.98;
/// A lead counts if it is this share of the score and so many hits more, and if it is so many times as large as the
/// leads of single epochs would come to by chance. A single epoch comes to 1, `n` alike to `n` in the square root, so
/// at least four have to agree.
const LEAD_SHARE: f64 = 0.01;
const LEAD_HITS: f64 = 2.0;
const LEAD_DEVIATIONS: f64 = 2.0;
/// Steps of a hand for one eviction.
const HAND_STEPS_MAX: usize = 4096;
const NONE: u32 = u32::MAX;

const WINDOW: u8 = 1 << 6;
const PRESENT: u8 = 1 << 7;
const FREQUENCY: u8 = WINDOW - 1;
const FREQUENCY_CAP: u8 = 7;

const _: () = assert!(FREQUENCY_CAP as u32 == FREQUENCY_MAX && FREQUENCY_CAP <= FREQUENCY);
const _: () = assert!(ITEMS_MIN <= ITEMS_MAX && size_of::<Entry>() == 24);

/// What each shadow knows of a key: present, in the window, frequency. 0 where it is absent.
type States = [u8; SETTINGS.len()];

/// A sampled key.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    size: u32,
    /// The next entry of its chain, or of the free list.
    next: u32,
    states: States,
}

/// One cache that never was.
#[derive(Debug)]
struct Shadow {
    setting: Setting,
    window: VecDeque<u32>,
    window_items: usize,
    items: usize,
    bytes: u64,
    hand: usize,
    ghost: Ghost,
    hits: u32,
    score: f64,
}

/// All shadows of one shard.
#[derive(Debug)]
pub(crate) struct Shadows {
    entries: Vec<Entry>,
    chains: Vec<u32>,
    free: u32,
    shadows: [Shadow; SETTINGS.len()],
    /// By two shadows, the squares of how far one led the other in an epoch; they fade as scores do.
    squared_leads: [[f64; SETTINGS.len()]; SETTINGS.len()],
    items_max: usize,
    /// Keys whose sampled bits are below this are sampled.
    sampled_below: u32,
    /// Bytes that each shadow stands for.
    capacity: u64,
    gets: usize,
}

impl Shadows {
    /// Bytes of shadows of so many items.
    fn bytes_of(items: usize) -> usize {
        let entries = items * ENTRIES_PER_ITEM;
        let windows = SETTINGS.len() * 2 * items * size_of::<u32>();
        entries * size_of::<Entry>()
            + entries.next_power_of_two() * size_of::<u32>()
            + windows
            + SETTINGS.len() * items * 2
    }

    /// Shadows for a shard of this budget, if it affords any.
    pub(crate) fn for_budget(memory_bytes: usize) -> io::Result<Option<Shadows>> {
        let affordable = |items: &usize| Shadows::bytes_of(*items) <= memory_bytes / BUDGET_SHARE;
        let sizes = std::iter::successors(Some(ITEMS_MAX), |items| Some(items - items / 8));
        let mut sizes = sizes.take_while(|&items| items >= ITEMS_MIN);
        sizes.find(affordable).map(Shadows::of).transpose()
    }

    fn of(items_max: usize) -> io::Result<Shadows> {
        let count = items_max * ENTRIES_PER_ITEM;
        let mut ghosts = Vec::new();
        for _ in SETTINGS {
            ghosts.push(Ghost::reserve(items_max, false)?);
        }
        let mut ghosts = ghosts.into_iter();
        let shadow = |setting| {
            let ghost = ghosts.next().expect("one for each setting");
            Shadow::new(setting, items_max, ghost)
        };
        let mut shadows = Shadows {
            entries: vec![Entry { hash: 0, size: 0, next: NONE, states: States::default() }; count],
            chains: vec![NONE; count.next_power_of_two()],
            free: NONE,
            shadows: SETTINGS.map(shadow),
            squared_leads: Default::default(),
            items_max,
            sampled_below: u32::MAX,
            capacity: 0,
            gets: 0,
        };
        shadows.free_all();
        Ok(shadows)
    }

    /// Bytes in use, all from the start.
    pub(crate) fn bytes(&self) -> usize {
        Shadows::bytes_of(self.items_max)
    }

    /// What [`sampled_bits`] of a key must be below for the shadows to hear of it.
    pub(crate) fn sampled_below(&self) -> u32 {
        self.sampled_below
    }

    /// Sets the size that the shadows stand for. Samples fewer keys as the shard has more items, and more as it has
    /// fewer.
    pub(crate) fn fit_to(&mut self, items: u64, bytes: u64) {
        let sampled = |below: u32| (items * u64::from(below)) >> u32::BITS;
        while sampled(self.sampled_below) > self.items_max as u64 {
            self.sampled_below /= 2;
            self.drop_unsampled();
        }
        if sampled(self.sampled_below) < self.items_max as u64 / 4 {
            self.sampled_below = self.sampled_below.saturating_mul(2) | 1;
        }
        let share = |total: u64| (u128::from(total) * u128::from(self.sampled_below)) >> u32::BITS;
        self.capacity = u64::try_from(share(bytes)).expect("less than the whole");
    }

    /// Counts a get of a sampled key, whose size is known if it hit. Returns which of the settings the shard should
    /// now go by, if not `current`.
    pub(crate) fn get(
        &mut self,
        hash: u64,
        size: Option<u32>,
        current: Setting,
        sketch: &Sketch,
    ) -> Option<Setting> {
        let states = self.find(hash).map_or(States::default(), |at| self.entries[at].states);
        for (shadow, state) in self.shadows.iter_mut().zip(states) {
            shadow.hits += u32::from(state & PRESENT != 0);
        }
        if let Some(at) = self.find(hash) {
            self.entries[at].states = states.map(after_hit);
        }
        if let Some(size) = size {
            self.store(hash, size, sketch);
        }
        self.gets += 1;
        if self.gets < self.items_max {
            return None;
        }
        self.gets = 0;
        self.choose(current)
    }

    /// Puts a sampled key into the shadows it is absent from.
    pub(crate) fn store(&mut self, hash: u64, size: u32, sketch: &Sketch) {
        if u64::from(size) > self.capacity || sampled_bits(hash) >= self.sampled_below {
            return;
        }
        let at = match self.find(hash) {
            Some(at) => at,
            None => self.add(hash, sketch),
        };
        self.resize(at, size);
        for which in 0..self.shadows.len() {
            if self.entries[at].states[which] == 0 {
                self.make_room(which, size, sketch);
                self.enter(which, at);
            }
        }
    }

    /// Takes a sampled key out of all shadows.
    pub(crate) fn remove(&mut self, hash: u64) {
        if let Some(at) = self.find(hash) {
            for which in 0..self.shadows.len() {
                self.leave(which, at);
            }
            self.free(at);
        }
    }

    /// Checks every counter and list against a walk over all entries.
    pub(crate) fn validate(&self) {
        let mut listed = vec![false; self.entries.len()];
        for &first in &self.chains {
            let some = |at: u32| (at != NONE).then_some(at as usize);
            for at in std::iter::successors(some(first), |&at| some(self.entries[at].next)) {
                assert!(!std::mem::replace(&mut listed[at], true), "an entry is in two chains");
                assert!(sampled_bits(self.entries[at].hash) < self.sampled_below);
            }
        }
        for (which, shadow) in self.shadows.iter().enumerate() {
            let state_is = |entry: &&Entry, bit| entry.states[which] & bit != 0;
            let present = || self.entries.iter().filter(|entry| state_is(entry, PRESENT));
            assert_eq!(present().count(), shadow.items);
            assert_eq!(present().map(|entry| u64::from(entry.size)).sum::<u64>(), shadow.bytes);
            assert_eq!(present().filter(|entry| state_is(entry, WINDOW)).count(), shadow.window_items);
        }
        for (entry, listed) in self.entries.iter().zip(listed) {
            assert!(listed || entry.states == States::default());
        }
    }

    fn choose(&mut self, current: Setting) -> Option<Setting> {
        self.end_epoch();
        let current = self.shadows.iter().position(|shadow| shadow.setting == current)?;
        let score = |which: &usize| self.shadows[*which].score;
        let ahead = (0..self.shadows.len()).filter(|&which| self.is_ahead(which, current));
        let best = ahead.max_by(|a, b| score(a).total_cmp(&score(b)))?;
        Some(self.shadows[best].setting)
    }

    /// Adds the hits of an epoch to the scores.
    fn end_epoch(&mut self) {
        let hits = self.shadows.each_ref().map(|shadow| f64::from(shadow.hits));
        for (shadow, hits) in self.shadows.iter_mut().zip(hits) {
            shadow.score = SCORE_KEPT * shadow.score + hits;
            shadow.hits = 0;
        }
        for (squares, hits_of_one) in self.squared_leads.iter_mut().zip(hits) {
            for (square, hits_of_other) in squares.iter_mut().zip(hits) {
                *square = SCORE_KEPT * *square + (hits_of_one - hits_of_other).powi(2);
            }
        }
    }

    /// Whether one shadow did better than another by more than chance.
    fn is_ahead(&self, one: usize, other: usize) -> bool {
        let other_score = self.shadows[other].score;
        let by_chance = LEAD_DEVIATIONS * self.squared_leads[one][other].sqrt();
        self.shadows[one].score - other_score > LEAD_SHARE * other_score + LEAD_HITS + by_chance
    }

    fn enter(&mut self, which: usize, at: usize) {
        let Entry { hash, size, .. } = self.entries[at];
        let shadow = &mut self.shadows[which];
        let direct = shadow.setting.rule == Rule::S3 && shadow.ghost.contains(hash);
        shadow.items += 1;
        shadow.bytes += u64::from(size);
        self.entries[at].states[which] = if direct { PRESENT | 1 } else { PRESENT | WINDOW };
        if !direct {
            shadow.window_items += 1;
            if shadow.window.len() == shadow.window.capacity() {
                self.promote_oldest(which);
            }
            self.shadows[which].window.push_back(index(at));
        }
        while self.shadows[which].is_overfull() {
            self.promote_oldest(which);
        }
    }

    fn leave(&mut self, which: usize, at: usize) {
        let Entry { size, states, .. } = self.entries[at];
        if states[which] & PRESENT == 0 {
            return;
        }
        let shadow = &mut self.shadows[which];
        shadow.items -= 1;
        shadow.bytes -= u64::from(size);
        shadow.window_items -= usize::from(states[which] & WINDOW != 0);
        self.entries[at].states[which] = 0;
    }

    /// Evicts from one shadow until so many bytes fit.
    fn make_room(&mut self, which: usize, size: u32, sketch: &Sketch) {
        while self.shadows[which].items > 0 && self.shadows[which].bytes + u64::from(size) > self.capacity {
            self.evict_one(which, sketch);
        }
    }

    fn evict_one(&mut self, which: usize, sketch: &Sketch) {
        let candidate = if self.shadows[which].is_full() { self.unhit_of_window(which) } else { None };
        let victim = match (candidate, self.shadows[which].setting.rule) {
            (Some(at), Rule::S3) => Some(at),
            (Some(at), Rule::TinyLfu) => Some(self.contest(which, at, sketch)),
            (None, _) => self.victim_of_main(which).or_else(|| self.unhit_of_window(which)),
        };
        let victim = victim.expect("a shadow with items has a victim");
        let Entry { hash, states, .. } = self.entries[victim];
        if states[which] & WINDOW != 0 {
            let shadow = &mut self.shadows[which];
            shadow.ghost.fit_to(shadow.items as u64);
            shadow.ghost.insert(hash);
        }
        self.leave(which, victim);
        if self.entries[victim].states == States::default() {
            self.free(victim);
        }
    }

    /// Takes the window's oldest item that was not hit, moving the others on as the rule says.
    fn unhit_of_window(&mut self, which: usize) -> Option<usize> {
        for _ in 0..2 * self.shadows[which].window.len() {
            let at = self.shadows[which].window.pop_front()? as usize;
            let state = self.entries[at].states[which];
            if state & WINDOW == 0 {
                continue;
            }
            if state & FREQUENCY == 0 {
                return Some(at);
            }
            match self.shadows[which].setting.rule {
                Rule::S3 => self.promote(which, at),
                Rule::TinyLfu => {
                    self.entries[at].states[which] = PRESENT | WINDOW;
                    self.shadows[which].window.push_back(index(at));
                }
            }
        }
        None
    }

    /// Who of the window's candidate and the main region's victim was asked for less often.
    fn contest(&mut self, which: usize, candidate: usize, sketch: &Sketch) -> usize {
        let Some(victim) = self.victim_of_main(which) else { return candidate };
        let estimate = |at: usize| sketch.estimate(self.entries[at].hash);
        if estimate(candidate) > estimate(victim) {
            self.promote(which, candidate);
            self.shadows[which].hand += 1;
            victim
        } else {
            candidate
        }
    }

    /// The first item of the main region without a hit since the hand passed, or the last one seen; the hand points
    /// at it.
    fn victim_of_main(&mut self, which: usize) -> Option<usize> {
        if self.shadows[which].items == self.shadows[which].window_items {
            return None;
        }
        let mut last = None;
        for _ in 0..HAND_STEPS_MAX.max(self.entries.len()) {
            let at = self.shadows[which].hand % self.entries.len();
            let state = &mut self.entries[at].states[which];
            if *state & PRESENT != 0 && *state & WINDOW == 0 {
                if *state & FREQUENCY == 0 {
                    self.shadows[which].hand = at;
                    return Some(at);
                }
                *state -= 1;
                last = Some(at);
            }
            self.shadows[which].hand = at + 1;
        }
        last
    }

    fn promote_oldest(&mut self, which: usize) {
        let oldest = self.shadows[which].window.pop_front();
        if let Some(at) = oldest.map(|at| at as usize)
            && self.entries[at].states[which] & WINDOW != 0
        {
            self.promote(which, at);
        }
    }

    fn promote(&mut self, which: usize, at: usize) {
        self.entries[at].states[which] = PRESENT | 1;
        self.shadows[which].window_items -= 1;
    }

    fn resize(&mut self, at: usize, size: u32) {
        let Entry { size: before, states, .. } = self.entries[at];
        self.entries[at].size = size;
        for (shadow, state) in self.shadows.iter_mut().zip(states) {
            if state & PRESENT != 0 {
                shadow.bytes = shadow.bytes - u64::from(before) + u64::from(size);
            }
        }
    }

    fn find(&self, hash: u64) -> Option<usize> {
        let mut at = self.chains[self.chain(hash)];
        while at != NONE {
            if self.entries[at as usize].hash == hash {
                return Some(at as usize);
            }
            at = self.entries[at as usize].next;
        }
        None
    }

    /// A new entry in no shadow yet. If the table is full, the shadows evict until one is free.
    fn add(&mut self, hash: u64, sketch: &Sketch) -> usize {
        while self.free == NONE {
            for which in 0..self.shadows.len() {
                if self.shadows[which].items > 0 {
                    self.evict_one(which, sketch);
                }
            }
        }
        let at = self.free as usize;
        self.free = self.entries[at].next;
        let chain = self.chain(hash);
        self.entries[at] = Entry { hash, size: 0, next: self.chains[chain], states: States::default() };
        self.chains[chain] = index(at);
        at
    }

    fn free(&mut self, at: usize) {
        let chain = self.chain(self.entries[at].hash);
        let next = self.entries[at].next;
        if self.chains[chain] as usize == at {
            self.chains[chain] = next;
        } else {
            let mut before = self.chains[chain] as usize;
            while self.entries[before].next as usize != at {
                before = self.entries[before].next as usize;
            }
            self.entries[before].next = next;
        }
        self.entries[at].next = self.free;
        self.free = index(at);
    }

    fn free_all(&mut self) {
        for at in (0..self.entries.len()).rev() {
            self.entries[at].next = self.free;
            self.free = index(at);
        }
    }

    fn drop_unsampled(&mut self) {
        for at in 0..self.entries.len() {
            let Entry { hash, states, .. } = self.entries[at];
            if states != States::default() && sampled_bits(hash) >= self.sampled_below {
                self.remove(hash);
            }
        }
    }

    fn chain(&self, hash: u64) -> usize {
        let spread = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(spread).expect("32 bits") & (self.chains.len() - 1)
    }
}

impl Shadow {
    fn new(setting: Setting, items_max: usize, ghost: Ghost) -> Shadow {
        Shadow {
            setting,
            window: VecDeque::with_capacity(2 * items_max),
            window_items: 0,
            items: 0,
            bytes: 0,
            hand: 0,
            ghost,
            hits: 0,
            score: 0.0,
        }
    }

    fn is_full(&self) -> bool {
        self.window_items > 0 && self.window_items >= self.setting.window_limit(self.items)
    }

    fn is_overfull(&self) -> bool {
        self.window_items > self.setting.window_limit(self.items)
    }
}

/// The part of a hash that decides whether a key is sampled. The index goes by the bits on either side of it.
#[inline]
pub(crate) fn sampled_bits(hash: u64) -> u32 {
    u32::try_from(hash >> 8 & u64::from(u32::MAX)).expect("32 bits")
}

fn after_hit(state: u8) -> u8 {
    let cap = if state & WINDOW != 0 { 1 } else { FREQUENCY_CAP };
    if state & PRESENT != 0 && state & FREQUENCY < cap { state + 1 } else { state }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("a table has thousands of entries")
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    const ITEMS: usize = 256;

    fn sketch() -> Sketch {
        let mut sketch = Sketch::reserve(1 << 16, false).unwrap();
        while sketch.is_too_small_for(1 << 12) {
            sketch.double();
        }
        sketch.fit_to(1 << 12);
        sketch
    }

    fn hash(key: u64) -> u64 {
        (key + 1).wrapping_mul(0x9fb2_1c65_1e98_df25).rotate_left(31).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn counters_and_chains_survive_random_gets_stores_and_removals() {
        for seed in 0..6 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut shadows = Shadows::of(ITEMS).unwrap();
            let sketch = sketch();
            for step in 0..30_000_u64 {
                let hash = hash(random.random_range(0..4_000));
                shadows.fit_to(step / 8, step / 8 * 100);
                if sampled_bits(hash) >= shadows.sampled_below() {
                    continue;
                }
                let size = random.random_range(1..300);
                match random.random_range(0..10) {
                    0..5 => {
                        let size = random.random_bool(0.3).then_some(size);
                        shadows.get(hash, size, SETTINGS[0], &sketch);
                    }
                    5..9 => shadows.store(hash, size, &sketch),
                    _ => shadows.remove(hash),
                }
                if step % 1_000 == 0 {
                    shadows.validate();
                }
            }
            shadows.validate();
        }
    }

    /// The setting recommended last over a sequence of keys, asked for and stored as a client does.
    fn recommended(keys: impl Iterator<Item = u64>) -> Setting {
        let mut shadows = Shadows::of(ITEMS).unwrap();
        let mut sketch = sketch();
        let mut current = SETTINGS[0];
        shadows.fit_to(ITEMS as u64, ITEMS as u64);
        for key in keys {
            let hash = hash(key);
            sketch.increment(hash);
            current = shadows.get(hash, None, current, &sketch).unwrap_or(current);
            shadows.store(hash, 1, &sketch);
        }
        current
    }

    #[test]
    fn a_loop_larger_than_the_cache_calls_for_admission_by_frequency() {
        let setting = recommended((0..400_u64).cycle().take(60_000));
        assert_eq!(setting.rule, Rule::TinyLfu);
        assert!(setting.window_percent < 50, "{setting:?}");
    }

    #[test]
    fn keys_that_are_asked_for_again_after_a_while_and_never_later_call_for_a_large_window() {
        // Each key comes back twice, further apart than the smaller windows are long.
        let turns = (0..60_000_u64).flat_map(|turn| [turn, turn.saturating_sub(40), turn.saturating_sub(80)]);
        let setting = recommended(turns);
        assert!(setting.window_percent >= 40, "{setting:?}");
    }

    #[test]
    fn a_burst_that_favours_another_setting_is_not_followed_and_a_habit_is() {
        let sketch = sketch();
        let mut shadows = Shadows::of(ITEMS).unwrap();
        let mut epoch = |hits: [u32; SETTINGS.len()]| {
            for (shadow, hits) in shadows.shadows.iter_mut().zip(hits) {
                shadow.hits = hits;
            }
            shadows.gets = shadows.items_max - 1;
            shadows.get(hash(1), None, SETTINGS[0], &sketch)
        };
        for _ in 0..10 {
            assert_eq!(epoch([100, 100, 100, 100, 100]), None);
            assert_eq!(epoch([100, 90, 90, 90, 200]), None);
            assert_eq!(epoch([100, 90, 90, 90, 10]), None);
        }
        let switched = (0..20).find_map(|_| epoch([100, 120, 90, 90, 90]));
        assert_eq!(switched, Some(SETTINGS[1]));
    }

    #[test]
    fn without_a_difference_nothing_is_switched() {
        let mut random = SmallRng::seed_from_u64(3);
        assert_eq!(recommended((0..50_000).map(|_| random.next_u64())), SETTINGS[0]);
        assert_eq!(recommended((0..100_u64).cycle().take(50_000)), SETTINGS[0]);
    }

    #[test]
    fn shadows_take_their_share_of_the_budget_and_no_more_or_there_are_none() {
        assert!(Shadows::for_budget(256 << 10).unwrap().is_none());
        for megabytes in [10, 16, 64, 1024] {
            let shadows = Shadows::for_budget(megabytes << 20).unwrap().unwrap();
            assert!(shadows.bytes() <= (megabytes << 20) / BUDGET_SHARE);
        }
    }
}
