//! Which item goes: a window queue per class, a hand that sweeps the rest, and a frequency sketch between them.
//! Never decides that room is needed.
//!
//! W-TinyLFU with CLOCK for both regions (Einziger et al., 2017; Corbató, 1968). New items wait in the window;
//! the oldest of them enters the main region only if the sketch has seen it more often than the item under the
//! hand. Items enter the main region with a frequency of one, since the hand goes by address, not by age.

use crate::arena::Location;
use crate::expiry::Seconds;
use crate::header::{Chunk, FREQUENCY_MAX, Header};
use crate::shard::Shard;
use crate::sketch::Sketch;
use crate::slab::ClassId;
use crate::window::Window;

/// Share of a class that new items wait in.
const WINDOW_PERCENT: usize = 5;
/// Smaller classes have no window.
const WINDOW_CHUNKS_MIN: usize = 64;
/// Steps of the hand for one eviction, after which the least frequent item seen goes. Bounds the pause.
const HAND_STEPS_MAX: usize = 256;
/// Items of the window given another round for one eviction.
const SECOND_CHANCES_MAX: usize = 64;
/// Items moved on from an overfull window for one insert.
const OVERFLOW_STEPS_MAX: usize = 8;
const FREQUENCY_ON_ENTRY: u32 = 1;

const _: () = assert!(FREQUENCY_ON_ENTRY <= FREQUENCY_MAX);
const _: () = assert!(WINDOW_CHUNKS_MIN * WINDOW_PERCENT / 100 > 0);

/// The rule that picks the item to evict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PolicyKind {
    /// New items wait in a small window and enter the main region only if they are asked for more often than
    /// the item they would replace.
    #[default]
    TinyLfu,
    /// CLOCK with two frequency bits: every new item is admitted.
    Clock,
}

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
        if let Some(sketch) = &mut self.sketch {
            sketch.increment(hash);
        }
    }

    /// Frees at least one chunk of a class by evicting an item, or several dead ones. False if the class holds none.
    pub(crate) fn evict_one(&mut self, now: Seconds, class: ClassId) -> bool {
        if self.slabs.class(class).chunks_used == 0 {
            return false;
        }
        if self.window_is_full(class) {
            match self.oldest_of_window(now, class) {
                Found::Victim(candidate) => return self.contest(now, class, candidate),
                Found::Freed => return true,
                Found::Nothing => {}
            }
        }
        match self.victim_of_main(now, class) {
            Found::Victim(victim) => self.evict_under_hand(class, victim),
            Found::Freed => {}
            Found::Nothing => match self.oldest_of_window(now, class) {
                Found::Victim(victim) => self.evict(victim),
                Found::Freed => {}
                Found::Nothing => return false,
            },
        }
        true
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
            let item = match self.arena.chunk(location) {
                Chunk::Item(_) => location,
                Chunk::Continuation { head, .. } => head,
                Chunk::Free { .. } | Chunk::Reserved { .. } => continue,
            };
            if self.death(self.arena.header(item), now).is_some() {
                self.reclaim(self.hash_at(item), item);
                return true;
            }
        }
        false
    }

    /// Region and frequency of an item that enters a class, by those of the item it replaces.
    pub(crate) fn mark_entry(&self, class: ClassId, header: &mut Header, replaced: Option<Header>) {
        let in_window = replaced.is_none_or(Header::in_window) && self.window_limit(class) > 0;
        let frequency = replaced.map_or(0, Header::frequency);
        header.set_in_window(in_window);
        header.set_frequency(if in_window { frequency.min(1) } else { frequency.max(FREQUENCY_ON_ENTRY) });
    }

    /// Queues an item marked for the window, whose place in the class is its own already. Moves the oldest on if
    /// the window is larger than its share: there was free room, so nothing is contested.
    pub(crate) fn enter_window(&mut self, class: ClassId, location: Location) {
        // Counted first: the oldest entry may be a stale one for this very chunk.
        self.slabs.class_mut(class).window_items += 1;
        if self.slabs.class(class).window.is_full() {
            self.promote_oldest(class);
        }
        self.slabs.class_mut(class).window.push(location);
        for _ in 0..OVERFLOW_STEPS_MAX {
            if self.slabs.class(class).window_items <= self.window_limit(class) {
                break;
            }
            self.promote_oldest(class);
        }
    }

    /// Fits a class's window to the pages it has. One that finds no room in the budget stays as small as it is.
    pub(crate) fn resize_window(&mut self, class: ClassId) {
        let capacity = self.window_capacity_wanted(class);
        let now = self.slabs.class(class).window.capacity();
        if capacity == now || capacity > now && !self.fits(Window::bytes_of(capacity - now)) {
            return;
        }
        while self.slabs.class(class).window.len() > capacity {
            self.promote_oldest(class);
        }
        self.slabs.class_mut(class).window.resize(capacity);
        self.window_bytes = self.window_bytes - Window::bytes_of(now) + Window::bytes_of(capacity);
    }

    /// Lets the sketch grow with the number of items, as far as there is memory that nobody uses.
    pub(crate) fn resize_sketch(&mut self) {
        let items = self.index.items();
        let bytes = self.sketch.as_ref().map_or(0, Sketch::bytes);
        if self.sketch.as_ref().is_some_and(|sketch| sketch.is_too_small_for(items)) && self.fits(bytes) {
            self.sketch.iter_mut().for_each(Sketch::double);
        }
    }

    /// Whether a window entry still stands for an item of that class's window.
    pub(crate) fn is_in_window(&self, class: ClassId, location: Location) -> bool {
        self.slabs.is_chunk_of(class, location)
            && matches!(self.arena.chunk(location), Chunk::Item(header) if header.in_window())
    }

    pub(crate) fn window_capacity_wanted(&self, class: ClassId) -> usize {
        let chunks = self.slabs.class(class).chunks();
        if self.sketch.is_none() || chunks < WINDOW_CHUNKS_MIN {
            return 0;
        }
        (2 * chunks * WINDOW_PERCENT / 100).next_power_of_two()
    }

    /// Items the window of a class is meant to hold; at most half its queue, so that stale entries have room.
    fn window_limit(&self, class: ClassId) -> usize {
        let class = self.slabs.class(class);
        (class.chunks() * WINDOW_PERCENT / 100).min(class.window.capacity() / 2)
    }

    fn window_is_full(&self, class: ClassId) -> bool {
        let items = self.slabs.class(class).window_items;
        items > 0 && items >= self.window_limit(class)
    }

    /// Takes the window's oldest entry; the item, if it is still there, enters the main region.
    fn promote_oldest(&mut self, class: ClassId) {
        let oldest = self.slabs.class_mut(class).window.pop();
        if let Some(location) = oldest
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

    /// Takes the oldest item of the window that was not hit since it was queued.
    fn oldest_of_window(&mut self, now: Seconds, class: ClassId) -> Found {
        let mut chances = SECOND_CHANCES_MAX;
        for _ in 0..self.slabs.class(class).window.len() {
            let Some(location) = self.slabs.class_mut(class).window.pop() else { break };
            if !self.is_in_window(class, location) {
                continue;
            }
            let mut header = self.arena.header(location);
            if location == self.protected {
                self.slabs.class_mut(class).window.push(location);
            } else if self.death(header, now).is_some() {
                self.reclaim(self.hash_at(location), location);
                return Found::Freed;
            } else if header.frequency() > 0 && chances > 0 {
                chances -= 1;
                header.set_frequency(0);
                self.arena.set_header(location, header);
                self.slabs.class_mut(class).window.push(location);
            } else {
                return Found::Victim(location);
            }
        }
        Found::Nothing
    }

    /// The window's candidate against the main region's victim: the one asked for more often stays.
    fn contest(&mut self, now: Seconds, class: ClassId, candidate: Location) -> bool {
        match self.victim_under_hand(now, class) {
            Found::Freed => self.slabs.class_mut(class).window.unpop(candidate),
            Found::Victim(victim) if victim != candidate && self.is_preferred(candidate, victim) => {
                self.evict_under_hand(class, victim);
                self.promote(class, candidate);
            }
            Found::Victim(_) | Found::Nothing => {
                self.counters.admission_refusals += 1;
                self.evict(candidate);
            }
        }
        true
    }

    fn is_preferred(&self, candidate: Location, victim: Location) -> bool {
        let estimate = |location| {
            let hash = self.hash_at(location);
            self.sketch.as_ref().map_or(0, |sketch| sketch.estimate(hash))
        };
        estimate(candidate) > estimate(victim)
    }

    fn evict_under_hand(&mut self, class: ClassId, victim: Location) {
        self.slabs.advance_hand(class);
        self.evict(victim);
    }

    /// Sweeps on until something is found or the whole class was seen.
    fn victim_of_main(&mut self, now: Seconds, class: ClassId) -> Found {
        for _ in 0..=self.slabs.class(class).chunks() / HAND_STEPS_MAX {
            let found = self.victim_under_hand(now, class);
            if !matches!(found, Found::Nothing) {
                return found;
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
                if self.death(header, now).is_some() {
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
        let (item, header) = match self.arena.chunk(chunk) {
            Chunk::Item(header) if !header.in_window() => (chunk, header),
            Chunk::Continuation { head, .. } => (head, self.arena.header(head)),
            Chunk::Item(_) | Chunk::Free { .. } | Chunk::Reserved { .. } => return None,
        };
        (item != self.protected).then_some((item, header))
    }
}
