//! Which item goes: a window queue per class, a hand that sweeps the rest, and a rule between them. Never decides
//! that room is needed.
//!
//! One mechanism serves S3-FIFO (Yang et al., 2023), W-TinyLFU (Einziger et al., 2017) and CLOCK (Corbató, 1968):
//! new items wait in the window, and the rule says which of its oldest enter the main region. Items enter there
//! with a frequency of one, since the hand goes by address, not by age: with zero, those that happen to lie before
//! the hand would be gone at once.

use crate::arena::Location;
use crate::expiry::{Expiry, Seconds};
use crate::header::{Chunk, FREQUENCY_MAX, Header};
use crate::policy::{Order, Rule, Score};
use crate::shadow::sampled_bits;
use crate::shard::Shard;
use crate::sketch::COUNT_MAX;
use crate::slab::ClassId;
use crate::window::BLOCK_SIZE;

/// Smaller classes have no window.
const WINDOW_ITEMS_MIN: usize = 64;
/// Steps of the hand for one eviction, after which the least frequent item seen goes. Bounds the pause.
const HAND_STEPS_MAX: usize = 256;
/// Items of the window given another round, or moved to the main region, for one eviction.
const SECOND_CHANCES_MAX: usize = 64;
/// Items moved on from an overfull window for one insert.
const OVERFLOW_STEPS_MAX: usize = 8;
/// Items of which the lowest goes, for the policies that sample.
const SAMPLE_ITEMS: usize = 32;
/// Items at the old end of a list that may not be evictable just now: only ever one is protected.
const PROTECTED_MAX: usize = 1;
const FREQUENCY_ON_ENTRY: u32 = 1;
/// Keys that tell how much each class is hit, where there are no shadows to sample for.
const SAMPLED_KEYS: u64 = 2048;

const _: () = assert!(FREQUENCY_ON_ENTRY <= FREQUENCY_MAX);
const _: () = assert!(SAMPLE_ITEMS <= HAND_STEPS_MAX);

/// What a search for a victim came to.
enum Found {
    /// This item may go.
    Victim(Location),
    /// A dead item was met and freed, so nothing has to go.
    Freed,
    Nothing,
}

impl Shard {
    /// Counts a request for a key, hit or miss.
    #[inline]
    pub(crate) fn count_request(&mut self, hash: u64) {
        self.requests += 1;
        if let Some(sketch) = &mut self.sketch
            && !self.has_ample_room
        {
            sketch.increment(hash);
        }
    }

    /// Counts requests for a key that were answered elsewhere.
    pub(crate) fn count_reads(&mut self, hash: u64, reads: u32) {
        if let Some(sketch) = &mut self.sketch
            && !self.has_ample_room
        {
            (0..reads.min(COUNT_MAX.into())).for_each(|_| sketch.increment(hash));
        }
    }

    /// Notes that an item was used just now, for the policy that keeps the order of it.
    #[inline]
    pub(crate) fn note_use(&mut self, location: Location) {
        if let Some(recency) = &mut self.recency {
            recency.touch(location, &self.slabs);
        }
    }

    /// Lets the shadows see a get and goes by the setting they recommend.
    #[inline]
    pub(crate) fn show_get(&mut self, hash: u64, found: Option<(Location, Header)>) {
        if sampled_bits(hash) < self.sampled_below {
            self.show_sampled_get(hash, found.map(|(location, _)| location));
        }
    }

    #[cold]
    fn show_sampled_get(&mut self, hash: u64, found: Option<Location>) {
        if let Some(location) = found {
            let class = self.slabs.class_of(location);
            self.slabs.class_mut(class).hits_sampled += 1.0;
        }
        if self.has_ample_room {
            return;
        }
        let size = found.map(|location| self.shadow_size(location));
        if let (Some(shadows), Some(sketch)) = (&mut self.shadows, &self.sketch)
            && let Some(setting) = shadows.get(hash, size, self.setting, sketch)
        {
            self.setting = setting;
            self.counters.policy_switches += 1;
        }
    }

    /// Lets the shadows see a store.
    #[inline]
    pub(crate) fn show_store(&mut self, hash: u64, location: Location) {
        if sampled_bits(hash) >= self.sampled_below {
            return;
        }
        if self.shadows.is_none() {
            let share = (SAMPLED_KEYS << u32::BITS) / self.counters.items.max(1);
            self.sampled_below = u32::try_from(share).unwrap_or(u32::MAX);
        }
        let size = self.shadow_size(location);
        if let (Some(shadows), Some(sketch)) = (&mut self.shadows, &self.sketch) {
            shadows.fit_to(self.counters.items, self.counters.bytes);
            shadows.store(hash, size, sketch);
            self.sampled_below = shadows.sampled_below();
        }
    }

    /// Lets the shadows see that a key is gone for another reason than want of room.
    pub(crate) fn show_removal(&mut self, hash: u64) {
        if sampled_bits(hash) < self.sampled_below {
            self.shadows.iter_mut().for_each(|shadows| shadows.remove(hash));
        }
    }

    /// What an item counts for in the shadows.
    fn shadow_size(&self, location: Location) -> u32 {
        u32::try_from(self.arena.head(location).footprint()).unwrap_or(u32::MAX)
    }

    /// Frees at least one chunk of a class by evicting an item, or several dead ones. False if the class holds none.
    pub(crate) fn evict_one(&mut self, now: Seconds, class: ClassId) -> bool {
        let is_largest = class == self.slabs.largest();
        if self.slabs.class(class).chunks_used == 0 || is_largest && self.barren {
            return false;
        }
        let found = match self.order {
            Order::Regions => self.victim_by_rule(now, class),
            Order::Recency => self.least_recent(now, class),
            Order::Sampled(score) => self.lowest_of_sample(now, class, score),
        };
        // What lies in continuations only, or in the window only, is found by the hand or by the window alone.
        let found = match found {
            Found::Nothing => self.victim_of_main(now, class),
            found => found,
        };
        let found = match found {
            Found::Nothing => self.unhit_of_window(now, class),
            found => found,
        };
        match found {
            Found::Victim(victim) => self.evict_for_good(class, victim),
            Found::Freed => {}
            Found::Nothing => {
                self.barren |= is_largest && self.protected == Location::NONE;
                return false;
            }
        }
        true
    }

    /// Evicts an item and its entry in the window, if it is the oldest: its chunk is about to be used again, and
    /// the entry would stand for the new item.
    fn evict_for_good(&mut self, class: ClassId, victim: Location) {
        if self.slabs.class(class).window.oldest(&self.blocks) == Some(victim) {
            self.pop_window(class);
            self.warm_next_victims(class);
        }
        self.evict(victim);
    }

    /// Frees at least one chunk of a class if the next few chunks under the hand belong to a dead item. What a
    /// shard does that must not evict.
    pub(crate) fn reclaim_under_hand(&mut self, now: Seconds, class: ClassId) -> bool {
        if self.slabs.class(class).chunks_used == 0 {
            return false;
        }
        for _ in 0..HAND_STEPS_MAX {
            let location = self.slabs.hand(class);
            self.slabs.advance_hand(class);
            let Some((item, header)) = self.item_of(location) else { continue };
            // An item that a fetch gave an expiry in the past may be about to be written anew.
            if item != self.protected && self.death(item, header, now).is_some() {
                self.reclaim(self.hash_at(item), item);
                return true;
            }
        }
        false
    }

    /// Region and frequency of an item that enters a class, by those of the item it replaces.
    pub(crate) fn mark_entry(
        &self,
        class: ClassId,
        hash: u64,
        header: &mut Header,
        replaced: Option<Header>,
    ) {
        let in_window = match replaced {
            Some(replaced) => replaced.in_window() && self.window_limit(class) > 0,
            None => self.window_limit(class) > 0 && !self.returns_soon(hash),
        };
        let frequency = replaced.map_or(0, Header::frequency);
        header.set_in_window(in_window);
        header.set_frequency(if in_window { frequency.min(1) } else { frequency.max(FREQUENCY_ON_ENTRY) });
    }

    /// Queues an item marked for the window, whose place in the class is its own already. Moves the oldest on if
    /// the window is larger than its share: there was free room, so nothing is contested.
    pub(crate) fn enter_window(&mut self, class: ClassId, location: Location) {
        self.slabs.class_mut(class).window_items += 1;
        if !self.find_window_place(class) {
            return self.promote(class, location);
        }
        self.slabs.class_mut(class).window.push(location, &mut self.blocks);
        for _ in 0..OVERFLOW_STEPS_MAX {
            if self.slabs.class(class).window_items <= self.window_limit(class) {
                break;
            }
            self.promote_oldest(class);
        }
    }

    /// Notes whether what is asked for now matters to who will have to go: while half of the budget is free it does not, and what was
    /// counted would have faded by then. A limit on items is not known to be far.
    pub(crate) fn look_for_ample_room(&mut self) {
        self.has_ample_room = self.items_max == u64::MAX && self.used() * 2 < self.memory_bytes;
    }

    /// Fits sketch and ghost to the number of items, as far as there is memory that nobody uses.
    pub(crate) fn resize_memory_of_requests(&mut self) {
        let items = self.index.items();
        let used = self.used();
        self.look_for_ample_room();
        if let Some(sketch) = &mut self.sketch {
            if sketch.is_too_small_for(items) && used + sketch.bytes() <= self.memory_bytes {
                sketch.double();
            }
            sketch.fit_to(items);
        }
        let used = self.used();
        if let Some(ghost) = &mut self.ghost
            && used + ghost.growth_bytes(items) <= self.memory_bytes
        {
            ghost.fit_to(items);
        }
    }

    /// Whether a window entry still stands for an item of that class's window.
    pub(crate) fn is_in_window(&self, class: ClassId, location: Location) -> bool {
        self.slabs.is_chunk_of(class, location)
            && matches!(self.arena.chunk(location), Chunk::Item(header) if header.in_window())
    }

    /// Drops a live item for the sake of others.
    pub(crate) fn evict(&mut self, location: Location) {
        if self.evicted.is_some() {
            self.note_evicted(location);
        }
        let header = self.arena.header(location);
        let unfetched = u64::from(!header.is_fetched());
        let class_id = self.slabs.class_of(location);
        let class = self.slabs.class_mut(class_id);
        class.evicted += 1;
        class.evicted_lately += 1.0;
        class.evicted_unfetched += unfetched;
        self.counters.evictions += 1;
        self.counters.evicted_unfetched += unfetched;
        let hash = self.hash_at(location);
        self.count_departure(class_id, hash);
        if header.in_window() && self.setting.rule == Rule::S3 {
            self.ghost.iter_mut().for_each(|ghost| ghost.insert(hash));
        }
        self.unlink(hash, location);
    }

    /// Items the window of a class is meant to hold.
    fn window_limit(&self, class: ClassId) -> usize {
        let items = self.slabs.class(class).items;
        if items < WINDOW_ITEMS_MIN { 0 } else { self.setting.window_limit(items) }
    }

    fn window_is_full(&self, class: ClassId) -> bool {
        let items = self.slabs.class(class).window_items;
        items > 0 && items >= self.window_limit(class)
    }

    /// Whether a key was evicted from the window so lately that it need not wait there again.
    fn returns_soon(&self, hash: u64) -> bool {
        self.setting.rule == Rule::S3 && self.ghost.as_ref().is_some_and(|ghost| ghost.contains(hash))
    }

    /// A place for another entry, at the price of the oldest ones if memory is short.
    fn find_window_place(&mut self, class: ClassId) -> bool {
        for _ in 0..SECOND_CHANCES_MAX {
            let window = &self.slabs.class(class).window;
            if window.has_place(&self.blocks) || window.can_push(&self.blocks) && self.fits(BLOCK_SIZE) {
                return true;
            }
            if window.len() == 0 {
                return false;
            }
            self.promote_oldest(class);
        }
        false
    }

    /// Takes the window's oldest entry; the item, if it is still there, enters the main region.
    fn promote_oldest(&mut self, class: ClassId) {
        if let Some(location) = self.pop_window(class)
            && self.is_in_window(class, location)
        {
            self.promote(class, location);
        }
    }

    fn promote(&mut self, class: ClassId, location: Location) {
        let mut header = self.arena.header(location);
        debug_assert!(header.in_window());
        header.set_in_window(false);
        header.set_frequency(FREQUENCY_ON_ENTRY);
        self.arena.set_header(location, header);
        self.slabs.class_mut(class).window_items -= 1;
    }

    fn pop_window(&mut self, class: ClassId) -> Option<Location> {
        self.slabs.class_mut(class).window.pop(&mut self.blocks)
    }

    fn victim_by_rule(&mut self, now: Seconds, class: ClassId) -> Found {
        if !self.window_is_full(class) {
            return Found::Nothing;
        }
        let found = self.unhit_of_window(now, class);
        match (found, self.setting.rule) {
            (Found::Victim(candidate), Rule::TinyLfu) => self.contest(now, class, candidate),
            (found, _) => found,
        }
    }

    /// The oldest item of the window that was not hit since it was queued. Its entry stays the oldest; those that
    /// were hit enter the main region or queue again, as the rule says.
    fn unhit_of_window(&mut self, now: Seconds, class: ClassId) -> Found {
        let mut chances = SECOND_CHANCES_MAX;
        for _ in 0..self.slabs.class(class).window.len() {
            let Some(location) = self.slabs.class(class).window.oldest(&self.blocks) else { break };
            if !self.is_in_window(class, location) {
                self.pop_window(class);
                continue;
            }
            let header = self.arena.header(location);
            if location == self.protected {
                self.requeue(class, location, header.frequency());
            } else if self.death(location, header, now).is_some() {
                self.pop_window(class);
                self.reclaim(self.hash_at(location), location);
                return Found::Freed;
            } else if header.frequency() > 0 && chances > 0 {
                chances -= 1;
                match self.setting.rule {
                    Rule::S3 => self.promote_oldest(class),
                    Rule::TinyLfu => self.requeue(class, location, 0),
                }
            } else {
                return Found::Victim(location);
            }
        }
        Found::Nothing
    }

    /// Moves the window's oldest entry to its new end.
    fn requeue(&mut self, class: ClassId, location: Location, frequency: u32) {
        let mut header = self.arena.header(location);
        header.set_frequency(frequency);
        self.arena.set_header(location, header);
        self.pop_window(class);
        // The pop made no place if its block is still in use.
        if self.find_window_place(class) {
            self.slabs.class_mut(class).window.push(location, &mut self.blocks);
        } else {
            self.promote(class, location);
        }
    }

    /// The window's candidate against the main region's victim: the one asked for more often stays.
    fn contest(&mut self, now: Seconds, class: ClassId, candidate: Location) -> Found {
        match self.victim_under_hand(now, class) {
            Found::Freed => Found::Freed,
            Found::Victim(victim) if victim != candidate && self.is_preferred(candidate, victim) => {
                self.slabs.advance_hand(class);
                self.promote_oldest(class);
                Found::Victim(victim)
            }
            Found::Victim(_) | Found::Nothing => {
                self.counters.admission_refusals += 1;
                Found::Victim(candidate)
            }
        }
    }

    fn is_preferred(&self, candidate: Location, victim: Location) -> bool {
        self.estimate(candidate) > self.estimate(victim)
    }

    /// How often the key of an item was asked for lately.
    fn estimate(&self, location: Location) -> u8 {
        let hash = self.hash_at(location);
        self.sketch.as_ref().map_or(0, |sketch| sketch.estimate(hash))
    }

    /// Sweeps on until something is found or the whole class was seen.
    fn victim_of_main(&mut self, now: Seconds, class: ClassId) -> Found {
        for _ in 0..=self.slabs.class(class).chunks() / HAND_STEPS_MAX {
            match self.victim_under_hand(now, class) {
                Found::Nothing => {}
                Found::Freed => return Found::Freed,
                Found::Victim(victim) => {
                    self.slabs.advance_hand(class);
                    return Found::Victim(victim);
                }
            }
        }
        Found::Nothing
    }

    /// Sweeps until the hand points at an item of frequency 0, but not too far: then the least frequent one met.
    fn victim_under_hand(&mut self, now: Seconds, class: ClassId) -> Found {
        let mut least: Option<(u32, Location)> = None;
        for _ in 0..HAND_STEPS_MAX {
            let location = self.slabs.hand(class);
            if let Some((item, mut header)) = self.item_of_main(location) {
                if self.death(item, header, now).is_some() {
                    self.reclaim(self.hash_at(item), item);
                    return Found::Freed;
                }
                let frequency = header.frequency();
                if frequency == 0 {
                    return Found::Victim(item);
                }
                header.set_frequency(frequency - 1);
                self.arena.set_header(item, header);
                if least.is_none_or(|(lowest, _)| frequency < lowest) {
                    least = Some((frequency, item));
                }
            }
            self.slabs.advance_hand(class);
        }
        least.map_or(Found::Nothing, |(_, item)| Found::Victim(item))
    }

    /// The evictable item that a chunk belongs to. A continuation stands for its item, whatever region that is in.
    fn item_of_main(&self, chunk: Location) -> Option<(Location, Header)> {
        let (item, header) = self.item_of(chunk)?;
        let waits = item == chunk && header.in_window();
        (item != self.protected && !waits).then_some((item, header))
    }

    /// The item that a chunk belongs to, if it is one's that the index knows.
    pub(crate) fn item_of(&self, chunk: Location) -> Option<(Location, Header)> {
        let head = match self.arena.chunk(chunk) {
            Chunk::Item(header) => return Some((chunk, header)),
            Chunk::Continuation { head, .. } => head,
            Chunk::Free { .. } | Chunk::Reserved { .. } => return None,
        };
        match self.arena.chunk(head) {
            Chunk::Item(header) => Some((head, header)),
            Chunk::Free { .. } | Chunk::Reserved { .. } | Chunk::Continuation { .. } => None,
        }
    }

    fn least_recent(&mut self, now: Seconds, class: ClassId) -> Found {
        let recency = self.recency.as_ref().expect("the policy keeps the order");
        let mut oldest = recency.oldest_first(class, &self.slabs).take(1 + PROTECTED_MAX);
        let evictable = oldest.find(|&item| item != self.protected);
        drop(oldest);
        let Some(item) = evictable else { return Found::Nothing };
        if self.death(item, self.arena.header(item), now).is_some() {
            self.reclaim(self.hash_at(item), item);
            return Found::Freed;
        }
        Found::Victim(item)
    }

    /// The lowest of the next few items under the hand, which passes them.
    fn lowest_of_sample(&mut self, now: Seconds, class: ClassId, score: Score) -> Found {
        let mut lowest: Option<(u32, Location)> = None;
        let mut left = SAMPLE_ITEMS;
        for _ in 0..HAND_STEPS_MAX {
            let location = self.slabs.hand(class);
            self.slabs.advance_hand(class);
            let Some((item, header)) = self.item_of_main(location) else { continue };
            if self.death(item, header, now).is_some() {
                self.reclaim(self.hash_at(item), item);
                return Found::Freed;
            }
            let scored = self.score(item, header, score);
            if lowest.is_none_or(|(lowest, _)| scored < lowest) {
                lowest = Some((scored, item));
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        lowest.map_or(Found::Nothing, |(_, item)| Found::Victim(item))
    }

    fn score(&self, item: Location, header: Header, score: Score) -> u32 {
        match (score, header.expiry()) {
            // Whatever the sketch mixes it up with: it was asked for once, when it was missed.
            (Score::Frequency, _) if !header.is_fetched() => 0,
            (Score::Frequency, _) => u32::from(self.estimate(item)),
            (Score::TimeToLive, Expiry::At(second)) => second.0,
            (Score::TimeToLive, Expiry::Never) => u32::MAX,
        }
    }
}
