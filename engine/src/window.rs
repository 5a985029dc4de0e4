//! The order in which the items of one class entered the admission window. Holds locations only; what has become
//! of the item there is for the caller to see, so entries may be stale.

use crate::arena::Location;

/// A first-in first-out queue of bounded, power-of-two capacity; capacity 0 is no window at all.
#[derive(Debug, Default)]
pub(crate) struct Window {
    entries: Box<[u32]>,
    head: usize,
    len: usize,
}

impl Window {
    /// Bytes a window of this capacity takes.
    pub(crate) fn bytes_of(capacity: usize) -> usize {
        capacity * size_of::<u32>()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.capacity()
    }

    /// Changes the capacity, to which the entries must fit. O(entries), and the only place that allocates.
    pub(crate) fn resize(&mut self, capacity: usize) {
        assert!(capacity == 0 || capacity.is_power_of_two());
        assert!(self.len <= capacity);
        let mut entries = vec![0; capacity];
        entries.iter_mut().zip(self.iter()).for_each(|(entry, location)| *entry = location.0);
        *self = Window { entries: entries.into_boxed_slice(), head: 0, len: self.len };
    }

    /// Adds the newest entry; there must be room.
    pub(crate) fn push(&mut self, location: Location) {
        assert!(!self.is_full());
        let at = self.position(self.len);
        self.entries[at] = location.0;
        self.len += 1;
    }

    /// Takes the oldest entry.
    pub(crate) fn pop(&mut self) -> Option<Location> {
        if self.len == 0 {
            return None;
        }
        let location = Location(self.entries[self.head]);
        self.head = self.position(1);
        self.len -= 1;
        Some(location)
    }

    /// Puts back the entry just popped.
    pub(crate) fn unpop(&mut self, location: Location) {
        assert!(!self.is_full());
        self.head = self.position(self.capacity() - 1);
        self.entries[self.head] = location.0;
        self.len += 1;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Location> + '_ {
        (0..self.len).map(|i| Location(self.entries[self.position(i)]))
    }

    fn position(&self, from_head: usize) -> usize {
        (self.head + from_head) & self.capacity().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    #[test]
    fn random_steps_agree_with_a_deque() {
        for seed in 0..20 {
            let mut random = SmallRng::seed_from_u64(seed);
            let (mut window, mut twin) = (Window::default(), VecDeque::new());
            for step in 0..2_000_u32 {
                match random.random_range(0..4) {
                    0 | 1 if !window.is_full() => {
                        window.push(Location(step));
                        twin.push_back(Location(step));
                    }
                    2 => assert_eq!(window.pop(), twin.pop_front(), "seed {seed}"),
                    3 if !twin.is_empty() => {
                        let popped = window.pop().unwrap();
                        window.unpop(popped);
                    }
                    _ => {
                        let capacity = 1 << random.random_range(0..7);
                        if capacity >= twin.len() {
                            window.resize(capacity);
                        }
                    }
                }
                assert!(window.iter().eq(twin.iter().copied()), "seed {seed} step {step}");
                assert_eq!(window.len(), twin.len());
            }
        }
    }
}
