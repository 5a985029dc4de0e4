//! How long the turns of a shard take, from when the kernel has handed over what came to when it is asked again: for so long
//! nobody else of the shard is served. What other processes take of the CPU meanwhile is in it.

/// A turn that takes longer is counted.
pub const LONG_TURN_NS: u64 = 1_000_000;
const NS_PER_US: u64 = 1_000;

/// What is known of the turns of one shard, or of several.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Turns {
    max_ns: u64,
    /// Those above [`LONG_TURN_NS`].
    pub long: u64,
}

impl Turns {
    /// Counts one turn. O(1).
    pub fn count(&mut self, took_ns: u64) {
        self.max_ns = self.max_ns.max(took_ns);
        self.long += u64::from(took_ns > LONG_TURN_NS);
    }

    /// Microseconds of the longest.
    pub fn max_us(&self) -> u64 {
        self.max_ns.div_ceil(NS_PER_US)
    }

    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        self.max_ns = self.max_ns.max(other.max_ns);
        self.long += other.long;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_all_turns_is_told_and_long_ones_are_counted() {
        let (mut one, mut other) = (Turns::default(), Turns::default());
        [10, LONG_TURN_NS, LONG_TURN_NS + 1].into_iter().for_each(|took| one.count(took));
        other.count(3 * LONG_TURN_NS + 1);
        one.add(&other);
        assert_eq!((one.max_us(), one.long), (3_001, 2));
    }
}
