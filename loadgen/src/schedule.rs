//! When requests are due in an open loop. Decided before anything is sent, so no answer, late or missing,
//! can move it: that is what keeps slow moments in the statistics.

use crate::popularity::Dice;
use crate::workload::Cursor;

const NS_PER_SECOND: f64 = 1e9;

/// Due times of one thread, in nanoseconds of the run's clock, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start_ns: u64,
    gap_ns: f64,
    gaps: Gaps,
    /// The next due time, from `start_ns` on.
    offset_ns: f64,
    issued: u64,
}

#[derive(Clone, Debug)]
enum Gaps {
    Even,
    /// Exponential.
    Poisson(Dice),
    /// Requests of one recorded second are spread over it.
    Recorded {
        cursor: Cursor,
        second: u32,
        left: u32,
        gap_ns: f64,
        over: bool,
    },
}

impl Schedule {
    /// `rate` requests a second from `start_ns` on; `phase`, below 1, moves even gaps so that threads take turns.
    pub(crate) fn even(start_ns: u64, rate: f64, phase: f64) -> Self {
        assert!(rate > 0.0 && (0.0..1.0).contains(&phase));
        let gap_ns = NS_PER_SECOND / rate;
        let phase_ns = nanoseconds(phase * gap_ns);
        Self { start_ns: start_ns + phase_ns, gap_ns, gaps: Gaps::Even, offset_ns: 0.0, issued: 0 }
    }

    /// A Poisson process of `rate` requests a second from `start_ns` on.
    pub(crate) fn poisson(start_ns: u64, rate: f64, dice: Dice) -> Self {
        assert!(rate > 0.0);
        let gap_ns = NS_PER_SECOND / rate;
        let gaps = Gaps::Poisson(dice);
        let mut schedule = Self { start_ns, gap_ns, gaps, offset_ns: 0.0, issued: 0 };
        schedule.advance();
        schedule
    }

    /// The times of a trace from `start_ns` on, `speed` times as fast as it was recorded.
    pub(crate) fn recorded(start_ns: u64, speed: f64, cursor: Cursor) -> Self {
        assert!(speed > 0.0);
        let gaps = Gaps::Recorded { cursor, second: 0, left: 0, gap_ns: 0.0, over: false };
        let gap_ns = NS_PER_SECOND / speed;
        let mut schedule = Self { start_ns, gap_ns, gaps, offset_ns: 0.0, issued: 0 };
        schedule.advance();
        schedule
    }

    /// When the next request is due.
    #[inline]
    pub(crate) fn next_ns(&self) -> u64 {
        if matches!(self.gaps, Gaps::Recorded { over: true, .. }) {
            return u64::MAX;
        }
        self.start_ns + nanoseconds(self.offset_ns)
    }

    /// How many requests there are for each of `parts` parts of the time until `end_ns`: at least 1.
    pub(crate) fn stride(&self, end_ns: u64, parts: f64) -> u64 {
        let left_ns = end_ns.saturating_sub(self.next_ns()) as f64;
        // Those of a trace are as many as fit in memory.
        if matches!(self.gaps, Gaps::Recorded { .. }) {
            1
        } else {
            nanoseconds(left_ns / self.gap_ns / parts).max(1)
        }
    }

    /// Passes on by `count` requests, by their mean gap where gaps are random.
    pub(crate) fn advance_by(&mut self, count: u64) {
        match &self.gaps {
            Gaps::Even if count > 1 => {
                self.issued += count;
                self.offset_ns = self.issued as f64 * self.gap_ns;
            }
            Gaps::Poisson(_) if count > 1 => {
                self.issued += count;
                self.offset_ns += count as f64 * self.gap_ns;
            }
            _ => self.advance(),
        }
    }

    /// Passes on to the request after the next.
    #[inline]
    pub(crate) fn advance(&mut self) {
        self.issued += 1;
        self.offset_ns = match &mut self.gaps {
            Gaps::Poisson(dice) => self.offset_ns - dice.fraction().ln() * self.gap_ns,
            // A product, not a sum: no error piles up over a long run.
            Gaps::Even => self.issued as f64 * self.gap_ns,
            Gaps::Recorded { left, gap_ns, .. } if *left > 1 => {
                *left -= 1;
                self.offset_ns + *gap_ns
            }
            Gaps::Recorded { cursor, second, left, gap_ns, over } => match cursor.next_second() {
                Some((next, count)) => {
                    (*second, *left) = (next, count);
                    *gap_ns = self.gap_ns / f64::from(count);
                    // Times of a trace that go back are taken as they come.
                    (f64::from(*second) * self.gap_ns).max(self.offset_ns)
                }
                None => {
                    *over = true;
                    self.offset_ns
                }
            },
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
    fn a_recorded_second_is_spread_and_played_at_any_speed() {
        use crate::trace::{Request, Trace};
        let requests = [0, 0, 0, 0, 2, 2].map(|second| Request { second, ..Request::get(0, 1) }).into();
        let trace = Trace { name: "t".into(), keys: 1, unique_bytes: 0, requests };
        let cursor = Cursor::new(std::sync::Arc::new(trace), 16, 1, 0);
        let times = due(Schedule::recorded(7, 10.0, cursor), 7);
        assert_eq!(times[..6], [7, 25_000_007, 50_000_007, 75_000_007, 200_000_007, 250_000_007]);
        assert_eq!(times[6], u64::MAX);
    }

    #[test]
    fn many_at_once_are_as_many_as_one_by_one() {
        let mut one = Schedule::even(0, 1e9, 0.0);
        let stride = one.stride(1_000_000_000, 1000.0);
        assert_eq!(stride, 1_000_000);
        let mut other = one.clone();
        (0..stride).for_each(|_| one.advance());
        other.advance_by(stride);
        assert_eq!((one.next_ns(), other.next_ns()), (1_000_000, 1_000_000));
        let mut random = Schedule::poisson(0, 1000.0, Dice::new(1, 1));
        let before = random.next_ns();
        random.advance_by(1000);
        assert_eq!(random.next_ns() - before, 1_000_000_000);
        assert_eq!(one.stride(0, 10.0), 1);
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
