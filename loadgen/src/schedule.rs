//! When requests are due in an open loop. Decided before anything is sent, so no answer, late or missing,
//! can move it: that is what keeps slow moments in the statistics.

use crate::popularity::Dice;

const NS_PER_SECOND: f64 = 1e9;

/// Due times of one thread, in nanoseconds of the run's clock, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start_ns: u64,
    gap_ns: f64,
    /// Exponential gaps come from these dice; without them all are even.
    poisson: Option<Dice>,
    /// The next due time, from `start_ns` on.
    offset_ns: f64,
    issued: u64,
}

impl Schedule {
    /// `rate` requests a second from `start_ns` on; `phase`, below 1, moves even gaps so that threads take turns.
    pub(crate) fn even(start_ns: u64, rate: f64, phase: f64) -> Self {
        assert!(rate > 0.0 && (0.0..1.0).contains(&phase));
        let gap_ns = NS_PER_SECOND / rate;
        let phase_ns = nanoseconds(phase * gap_ns);
        Self { start_ns: start_ns + phase_ns, gap_ns, poisson: None, offset_ns: 0.0, issued: 0 }
    }

    /// A Poisson process of `rate` requests a second from `start_ns` on.
    pub(crate) fn poisson(start_ns: u64, rate: f64, dice: Dice) -> Self {
        assert!(rate > 0.0);
        let gap_ns = NS_PER_SECOND / rate;
        let mut schedule = Self { start_ns, gap_ns, poisson: Some(dice), offset_ns: 0.0, issued: 0 };
        schedule.advance();
        schedule
    }

    /// When the next request is due.
    #[inline]
    pub(crate) fn next_ns(&self) -> u64 {
        self.start_ns + nanoseconds(self.offset_ns)
    }

    /// Passes on to the request after the next.
    #[inline]
    pub(crate) fn advance(&mut self) {
        self.issued += 1;
        self.offset_ns = match &mut self.poisson {
            Some(dice) => self.offset_ns - dice.fraction().ln() * self.gap_ns,
            // A product, not a sum: no error piles up over a long run.
            None => self.issued as f64 * self.gap_ns,
        };
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and 2^64 ns are 584 years"
)]
fn nanoseconds(ns: f64) -> u64 {
    ns as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(mut schedule: Schedule, count: usize) -> Vec<u64> {
        let mut next = || {
            let ns = schedule.next_ns();
            schedule.advance();
            ns
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn even_gaps_do_not_drift() {
        let times = due(Schedule::even(500, 3.0, 0.0), 3_000_001);
        assert_eq!(times[..4], [500, 333_333_833, 666_667_166, 1_000_000_500]);
        assert_eq!(times[3_000_000], 1_000_000 * 1_000_000_000 + 500);
    }

    #[test]
    fn two_threads_take_turns() {
        let mut both = due(Schedule::even(0, 50.0, 0.0), 50);
        both.extend(due(Schedule::even(0, 50.0, 0.5), 50));
        both.sort_unstable();
        assert_eq!(both, due(Schedule::even(0, 100.0, 0.0), 100));
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let times = due(Schedule::poisson(0, 1000.0, Dice::new(5, 0)), 200_001);
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect();
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        let above_mean = gaps.iter().filter(|&&gap| gap > 1.0).count() as f64 / count;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
        assert!((above_mean - (-1.0_f64).exp()).abs() < 0.01, "{above_mean}");
    }
}
