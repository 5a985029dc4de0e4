//! Which key comes next. Never makes key bytes, and draws in constant time and memory whatever the key space.

use std::fmt;
use std::str::FromStr;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::values::mix;

/// How often which key is asked for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Popularity {
    /// All alike.
    Uniform,
    /// Key number k - 1 with a probability in proportion to 1 / k^exponent.
    Zipf(f64),
    /// A share of the keys that gets a share of the requests.
    HotSet { keys: f64, requests: f64 },
    /// One after the other, from the start again after the last.
    Sequential,
}

impl FromStr for Popularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPONENT_MAX: f64 = 10.0;
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            None if text == "sequential" => Ok(Self::Sequential),
            Some(("zipf", exponent)) => match exponent.parse() {
                Ok(exponent) if exponent > 0.0 && exponent <= EXPONENT_MAX => Ok(Self::Zipf(exponent)),
                _ => Err(format!("the S of zipf:S is above 0 and at most {EXPONENT_MAX}, such as zipf:0.99")),
            },
            Some(("hotset", shares)) => shares
                .split_once(':')
                .and_then(|(keys, requests)| Some((share(keys)?, share(requests)?)))
                .map(|(keys, requests)| Self::HotSet { keys, requests })
                .ok_or_else(|| "hotset:KEYS:REQUESTS are two shares below 1, such as hotset:0.1:0.9".into()),
            _ => Err("expected uniform, zipf:S, hotset:KEYS:REQUESTS or sequential".into()),
        }
    }
}

fn share(text: &str) -> Option<f64> {
    text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0)
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
            Self::HotSet { keys, requests } => write!(f, "hotset:{keys}:{requests}"),
            Self::Sequential => f.write_str("sequential"),
        }
    }
}

/// Random numbers of one thread.
#[derive(Clone, Debug)]
pub(crate) struct Dice(SmallRng);

impl Dice {
    /// Dice whose throws depend on `seed` and `stream` only; other streams are independent.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(SmallRng::seed_from_u64(mix(seed) ^ stream))
    }

    /// A number below `bound`, all equally likely but for 2^-64 `bound`.
    #[inline]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product is below `bound`, which fits.
        u64::try_from((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64).unwrap_or(0)
    }

    /// A number in (0, 1]: its logarithm is finite.
    #[inline]
    pub(crate) fn fraction(&mut self) -> f64 {
        const STEPS: f64 = (1_u64 << 53) as f64;
        ((self.0.next_u64() >> 11) + 1) as f64 / STEPS
    }
}

/// Draws key numbers. One for each thread.
#[derive(Clone, Debug)]
pub(crate) struct Picker {
    count: u64,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Uniform,
    Zipf(Zipf),
    HotSet { hot: u64, requests: f64 },
    Sequential { next: u64 },
}

impl Picker {
    /// Picks from keys 0 to `count` - 1; a sequence starts at key `first`.
    pub(crate) fn new(popularity: Popularity, count: u64, first: u64) -> Self {
        assert!(count > 0 && first <= count);
        let shape = match popularity {
            Popularity::Uniform => Shape::Uniform,
            Popularity::Zipf(exponent) => Shape::Zipf(Zipf::new(count, exponent)),
            Popularity::HotSet { keys, requests } => {
                let hot = rank_number((count as f64 * keys).round().clamp(1.0, count as f64));
                Shape::HotSet { hot: hot.min(count), requests }
            }
            Popularity::Sequential => Shape::Sequential { next: first % count },
        };
        Self { count, shape }
    }

    #[inline]
    pub(crate) fn pick(&mut self, dice: &mut Dice) -> u64 {
        match &mut self.shape {
            Shape::Uniform => dice.below(self.count),
            Shape::Zipf(zipf) => zipf.rank(dice) - 1,
            Shape::HotSet { hot, requests } if *hot == self.count || dice.fraction() <= *requests => {
                dice.below(*hot)
            }
            Shape::HotSet { hot, .. } => *hot + dice.below(self.count - *hot),
            Shape::Sequential { next } => {
                let key = *next;
                *next = if key + 1 == self.count { 0 } else { key + 1 };
                key
            }
        }
    }
}

/// Zipf's law by rejection-inversion: no table, at most a few tries whatever the exponent.
///
/// Source: Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete
/// distributions", 1996; names as there.
#[derive(Clone, Debug)]
struct Zipf {
    count: f64,
    exponent: f64,
    h_integral_first: f64,
    h_integral_last: f64,
    squeeze: f64,
}

impl Zipf {
    fn new(count: u64, exponent: f64) -> Self {
        let count = count as f64;
        let mut zipf = Self { count, exponent, h_integral_first: 0.0, h_integral_last: 0.0, squeeze: 0.0 };
        zipf.h_integral_first = zipf.h_integral(1.5) - 1.0;
        zipf.h_integral_last = zipf.h_integral(count + 0.5);
        zipf.squeeze = 2.0 - zipf.h_integral_inverse(zipf.h_integral(2.5) - zipf.h(2.0));
        zipf
    }

    /// A rank from 1 to `count`.
    fn rank(&self, dice: &mut Dice) -> u64 {
        loop {
            let u = self.h_integral_last + dice.fraction() * (self.h_integral_first - self.h_integral_last);
            let x = self.h_integral_inverse(u);
            let rank = x.round().clamp(1.0, self.count);
            if rank - x <= self.squeeze || u >= self.h_integral(rank + 0.5) - self.h(rank) {
                return rank_number(rank);
            }
        }
    }

    fn h(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    fn h_integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let scaled = (1.0 - self.exponent) * log;
        log * if scaled.abs() > 1e-8 { scaled.exp_m1() / scaled } else { 1.0 + scaled / 2.0 }
    }

    fn h_integral_inverse(&self, x: f64) -> f64 {
        // Rounding may take it below the domain of the logarithm.
        let scaled = (x * (1.0 - self.exponent)).max(-1.0);
        (x * if scaled.abs() > 1e-8 { scaled.ln_1p() / scaled } else { 1.0 - scaled / 2.0 }).exp()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 1..=count by the caller"
)]
fn rank_number(rank: f64) -> u64 {
    rank as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 400_000;

    fn frequencies(popularity: Popularity, count: u64, seed: u64) -> Vec<f64> {
        let (mut picker, mut dice) = (Picker::new(popularity, count, 0), Dice::new(seed, 0));
        let mut seen = vec![0_u32; usize::try_from(count).unwrap()];
        for _ in 0..DRAWS {
            seen[usize::try_from(picker.pick(&mut dice)).unwrap()] += 1;
        }
        seen.iter().map(|&times| f64::from(times) / f64::from(DRAWS)).collect()
    }

    /// Five standard deviations of a binomial count: false once in millions.
    #[track_caller]
    fn check(measured: &[f64], expected: &[f64], what: &str) {
        for (rank, (measured, expected)) in measured.iter().zip(expected).enumerate() {
            let tolerance = 5.0 * (expected * (1.0 - expected) / f64::from(DRAWS)).sqrt() + 1e-6;
            assert!((measured - expected).abs() < tolerance, "{what}: rank {rank}: {measured} {expected}");
        }
    }

    #[test]
    fn zipf_draws_each_rank_as_often_as_its_sum_says() {
        for exponent in [0.1, 0.5, 0.99, 1.0, 1.01, 2.0, 5.0] {
            for count in [1_u32, 2, 10, 1000] {
                let weights: Vec<f64> = (1..=count).map(|k| f64::from(k).powf(-exponent)).collect();
                let sum: f64 = weights.iter().sum();
                let expected: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
                let measured = frequencies(Popularity::Zipf(exponent), u64::from(count), 7);
                check(&measured, &expected, &format!("zipf {exponent} of {count}"));
            }
        }
    }

    #[test]
    fn uniform_draws_all_keys_alike() {
        check(&frequencies(Popularity::Uniform, 37, 3), &[1.0 / 37.0; 37], "uniform");
    }

    #[test]
    fn a_hot_set_gets_its_share() {
        let shape = Popularity::HotSet { keys: 0.1, requests: 0.9 };
        let mut expected = [0.1 / 36.0; 40];
        expected[..4].fill(0.9 / 4.0);
        check(&frequencies(shape, 40, 9), &expected, "hot set");
    }

    #[test]
    fn the_exponent_of_a_zipf_can_be_read_off_its_draws() {
        for exponent in [0.7, 0.99, 1.2] {
            let seen = frequencies(Popularity::Zipf(exponent), 1000, 11);
            // Least squares through the logarithms of the first ranks, which are drawn often.
            let points: Vec<_> = (0..60).map(|at| (((at + 1) as f64).ln(), seen[at].ln())).collect();
            let count = points.len() as f64;
            let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
            let (mean_x, mean_y) = (mean_x / count, mean_y / count);
            let slope = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum::<f64>()
                / points.iter().map(|p| (p.0 - mean_x).powi(2)).sum::<f64>();
            assert!((-slope / exponent - 1.0).abs() < 0.02, "{slope} for {exponent}");
        }
    }

    #[test]
    fn a_sequence_starts_where_told_and_wraps() {
        let (mut picker, mut dice) = (Picker::new(Popularity::Sequential, 5, 3), Dice::new(0, 0));
        let keys: Vec<u64> = (0..7).map(|_| picker.pick(&mut dice)).collect();
        assert_eq!(keys, [3, 4, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_huge_key_space_needs_no_table_and_stays_in_bounds() {
        let (mut picker, mut dice) = (Picker::new(Popularity::Zipf(0.9), 1 << 40, 0), Dice::new(0, 0));
        assert!((0..10_000).all(|_| picker.pick(&mut dice) < 1 << 40));
    }

    #[test]
    fn the_same_seed_gives_the_same_keys_and_other_streams_others() {
        let keys = |seed, stream| {
            let (mut picker, mut dice) =
                (Picker::new(Popularity::Uniform, 1 << 30, 0), Dice::new(seed, stream));
            (0..10).map(|_| picker.pick(&mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(keys(1, 0), keys(1, 0));
        assert_ne!(keys(1, 0), keys(1, 1));
        assert_ne!(keys(1, 0), keys(2, 0));
    }

    #[test]
    fn names_survive_the_way_there_and_back() {
        for text in ["uniform", "sequential", "zipf:0.99"] {
            assert_eq!(text.parse::<Popularity>().unwrap().to_string(), text);
        }
    }
}
