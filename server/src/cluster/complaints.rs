//! When a line is due about nodes that are refused: who is refused dials again every second, for as long as nobody reads the log. No
//! clock, no logging.

use slabring_cluster::time::Micros;

/// Lines about refused nodes are at least this far apart, and each time twice as far as before.
const PAUSE_MIN: Micros = Micros::from_millis(1_000);
/// But no further than this. After so long without any the next is told at once.
const PAUSE_MAX: Micros = Micros::from_millis(5 * 60 * 1_000);

/// See the module.
#[derive(Debug)]
pub struct Complaints {
    told_at: Option<Micros>,
    refused_at: Micros,
    pause: Micros,
    /// Refusals since the last line.
    untold: u64,
}

impl Default for Complaints {
    fn default() -> Self {
        Self { told_at: None, refused_at: Micros(0), pause: PAUSE_MIN, untold: 0 }
    }
}

impl Complaints {
    /// A node was refused: whether that is told, and how many were refused since the last line, this one included.
    pub fn refused(&mut self, now: Micros) -> Option<u64> {
        if now.since(self.refused_at) >= PAUSE_MAX {
            *self = Self::default();
        }
        self.refused_at = now;
        self.untold += 1;
        if self.told_at.is_some_and(|at| now.since(at) < self.pause) {
            return None;
        }
        if self.told_at.is_some() {
            self.pause = Micros(2 * self.pause.0).min(PAUSE_MAX);
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_again_and_again_is_told_of_ever_less_often_and_counted() {
        let mut complaints = Complaints::default();
        let mut told = Vec::new();
        let second = |number: u64| Micros(number * 1_000_000);
        for number in 1..=3_600 {
            told.extend(complaints.refused(second(number)).map(|count| (number, count)));
        }
        assert_eq!(told[..6], [(1, 1), (2, 1), (4, 2), (8, 4), (16, 8), (32, 16)]);
        let last = told.len() - 1;
        assert_eq!(told[last].0 - told[last - 1].0, 300);
        assert!(told.len() < 25, "{told:?}");
        assert_eq!(complaints.refused(second(3_900)), Some(1), "after a while of peace");
        assert_eq!(complaints.refused(second(3_901)), Some(1));
        assert_eq!(complaints.refused(second(3_902)), None);
    }
}
