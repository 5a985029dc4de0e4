//! Whether each shard still turns. A shard counts the seconds in which it turned, and an idle one wakes five times in each; the control
//! thread counts its own ticks since it saw that change. So a machine or a process that stood still as a whole is no reason to blame a shard:
//! then nobody counted. No clock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// A shard is silent when it made no turn for so long, while the control thread went on.
pub const SILENT_SECONDS: u32 = 5;
/// It stands still after this time: somebody else had better serve the node's keys. Beyond any turn that ends.
pub const STANDSTILL_SECONDS: u32 = 10;
/// How often the control thread looks.
pub const LOOKS_PER_SECOND: u32 = 10;

/// The shards of a node. Written and read relaxed.
#[derive(Debug)]
pub struct Pulses {
    shards: Vec<CachePadded<Pulse>>,
    /// Times that a shard became silent.
    silences: AtomicU64,
}

#[derive(Default, Debug)]
struct Pulse {
    /// Seconds in which it turned; 0 before it serves. Wraps.
    beats: AtomicU32,
    /// What the control thread saw of that last.
    seen: AtomicU32,
    /// Its ticks since then.
    ticks: AtomicU32,
}

/// What has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// That shard is silent now.
    Silent(usize),
    /// It turns again.
    Back(usize),
}

impl Pulses {
    /// Of so many shards, none of which serves yet.
    pub fn new(shards: u16) -> Self {
        Self { shards: (0..shards).map(|_| CachePadded::default()).collect(), silences: AtomicU64::new(0) }
    }

    /// A second in which this shard turned. Called by the shard.
    pub fn beat(&self, shard: usize) {
        self.shards[shard].beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at all shards. Called by the control thread at each of its ticks, [`LOOKS_PER_SECOND`].
    pub fn look(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        let silent = SILENT_SECONDS * LOOKS_PER_SECOND;
        for (shard, pulse) in self.shards.iter().enumerate() {
            let beats = pulse.beats.load(Ordering::Relaxed);
            let was = pulse.ticks.load(Ordering::Relaxed);
            let goes_on = pulse.seen.swap(beats, Ordering::Relaxed) != beats || beats == 0;
            let ticks = if goes_on { 0 } else { was.saturating_add(1) };
            pulse.ticks.store(ticks, Ordering::Relaxed);
            if was < silent && ticks >= silent {
                self.silences.fetch_add(1, Ordering::Relaxed);
                changes.push(Change::Silent(shard));
            } else if was >= silent && goes_on {
                changes.push(Change::Back(shard));
            }
        }
        changes
    }

    /// Whether a shard made no turn for so many seconds.
    pub fn is_any_still(&self, seconds: u32) -> bool {
        let ticks = seconds * LOOKS_PER_SECOND;
        self.shards.iter().any(|pulse| pulse.ticks.load(Ordering::Relaxed) >= ticks)
    }

    /// Times that a shard became silent since the start.
    pub fn silences(&self) -> u64 {
        self.silences.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_LOOKS: u32 = SILENT_SECONDS * LOOKS_PER_SECOND;

    /// Looks so often and tells what has changed, with the number of the look.
    fn look(pulses: &Pulses, times: u32) -> Vec<(u32, Change)> {
        (1..=times).flat_map(|at| pulses.look().into_iter().map(move |change| (at, change))).collect()
    }

    #[test]
    fn a_shard_that_stops_is_told_of_once_and_once_more_when_it_is_back() {
        let pulses = Pulses::new(2);
        [0, 1].into_iter().for_each(|shard| pulses.beat(shard));
        assert_eq!(look(&pulses, 1), []);
        let mut told = Vec::new();
        for second in 0..2 * STANDSTILL_SECONDS {
            pulses.beat(0);
            let changes = look(&pulses, LOOKS_PER_SECOND);
            told.extend(changes.into_iter().map(|(at, change)| (second * LOOKS_PER_SECOND + at, change)));
        }
        assert_eq!(told, [(SILENT_LOOKS, Change::Silent(1))]);
        assert!(pulses.is_any_still(STANDSTILL_SECONDS) && pulses.silences() == 1);
        pulses.beat(1);
        assert_eq!(look(&pulses, 1), [(1, Change::Back(1))]);
        assert!(!pulses.is_any_still(SILENT_SECONDS));
    }

    #[test]
    fn neither_a_shard_that_does_not_serve_yet_nor_a_pause_of_the_whole_process_is_a_silence() {
        let pulses = Pulses::new(1);
        assert_eq!(look(&pulses, 2 * SILENT_LOOKS), []);
        pulses.beat(0);
        // However long nobody ran: the control thread looks once before the shard turns, or after.
        for _ in 0..100 {
            assert_eq!(look(&pulses, LOOKS_PER_SECOND), []);
            pulses.beat(0);
        }
        assert_eq!(pulses.silences(), 0);
    }
}
