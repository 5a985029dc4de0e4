//! How many bytes a key or a value has: distributions that are evaluated at a hash, so that each key keeps its sizes
//! without a table. Never draws.

use std::fmt;
use std::str::FromStr;

use crate::values::mix;

/// Largest size that may be named, in bytes.
const NAMED_SIZE_MAX: u32 = 64 << 20;

/// Where the endless tail of a distribution is cut, in bytes: what a memcached of default settings stores.
const TAIL_SIZE_MAX: u32 = 1_000_000;

/// A distribution of sizes.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Sizes {
    /// Upper ends of the parts' shares of 0..1, ascending; the last is 1.
    parts: Vec<(f64, Part)>,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Part {
    /// All sizes from `min` to `max` alike.
    Even {
        min: u32,
        max: u32,
    },
    Normal {
        mean: f64,
        deviation: f64,
    },
    /// Generalised Pareto.
    Pareto {
        location: f64,
        scale: f64,
        shape: f64,
    },
    /// Generalised extreme value.
    Extreme {
        location: f64,
        scale: f64,
        shape: f64,
    },
}

impl Sizes {
    #[cfg(test)]
    pub(crate) fn range(min: u32, max: u32) -> Self {
        format!("{min}-{max}").parse().unwrap()
    }

    /// The size that belongs to `hash`. O(parts), an exponential at most.
    #[inline]
    pub(crate) fn at(&self, hash: u64) -> u32 {
        if let [(_, Part::Even { min, max })] = self.parts[..] {
            return even(min, max, hash);
        }
        self.at_part(hash)
    }

    fn at_part(&self, hash: u64) -> u32 {
        let place = fraction(mix(!hash));
        let part = self.parts.iter().find(|(end, _)| place <= *end).or(self.parts.last());
        part.map_or(0, |(_, part)| part.at(hash))
    }

    /// Smallest and largest that may come.
    pub(crate) fn bounds(&self) -> (u32, u32) {
        let parts = || self.parts.iter().map(|(_, part)| part.bounds());
        let min = parts().map(|(min, _)| min).min().unwrap_or(0);
        (min, parts().map(|(_, max)| max).max().unwrap_or(0))
    }

    /// The one size there is, if all are the same.
    pub(crate) fn fixed(&self) -> Option<u32> {
        let (min, max) = self.bounds();
        (min == max).then_some(min)
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Part {
    fn at(self, hash: u64) -> u32 {
        let u = fraction(hash);
        let size = match self {
            Self::Even { min, max } => return even(min, max, hash),
            // Box and Muller, of two hashes.
            Self::Normal { mean, deviation } => {
                let angle = fraction(mix(hash)) * std::f64::consts::TAU;
                mean + deviation * (-2.0 * u.ln()).sqrt() * angle.cos()
            }
            Self::Pareto { location, scale, shape } if shape.abs() < 1e-9 => location - scale * u.ln(),
            Self::Pareto { location, scale, shape } => location + scale * (u.powf(-shape) - 1.0) / shape,
            Self::Extreme { location, scale, shape } => {
                let rate = -u.min(1.0 - f64::EPSILON).ln();
                match shape {
                    shape if shape.abs() < 1e-9 => location - scale * rate.ln(),
                    shape => location + scale * (rate.powf(-shape) - 1.0) / shape,
                }
            }
        };
        rounded(size)
    }

    fn bounds(self) -> (u32, u32) {
        match self {
            Self::Even { min, max } => (min, max),
            Self::Pareto { location, .. } => (rounded(location), TAIL_SIZE_MAX),
            // No draw of 53 bits is further away than nine deviations.
            Self::Normal { mean, deviation } => {
                (rounded(mean - 9.0 * deviation), rounded(mean + 9.0 * deviation))
            }
            Self::Extreme { .. } => (0, TAIL_SIZE_MAX),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(':');
        let name = words.next()?;
        let numbers: Vec<f64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        if numbers.iter().any(|number| !number.is_finite()) {
            return None;
        }
        match (name, &numbers[..]) {
            ("normal", &[mean, deviation]) if deviation >= 0.0 => Some(Self::Normal { mean, deviation }),
            ("gpareto", &[location, scale, shape]) if scale > 0.0 => {
                Some(Self::Pareto { location, scale, shape })
            }
            ("gev", &[location, scale, shape]) if scale > 0.0 => {
                Some(Self::Extreme { location, scale, shape })
            }
            (range, []) => Self::parse_range(range),
            _ => None,
        }
    }

    fn parse_range(text: &str) -> Option<Self> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let (min, max) = (min.parse().ok()?, max.parse().ok()?);
        (min <= max && max <= NAMED_SIZE_MAX).then_some(Self::Even { min, max })
    }
}

impl FromStr for Sizes {
    type Err = String;

    /// Parts with commas in between, each but one with its share: `2@0.18,11@0.09,gpareto:15:214.5:0.348`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected BYTES, MIN-MAX, normal:MEAN:DEVIATION, gpareto:LOCATION:SCALE:SHAPE, gev:LOCATION:SCALE:SHAPE, \
                 or several with their shares and one without, such as 2@0.2,MIN-MAX; at most {NAMED_SIZE_MAX}"
            )
        };
        let (mut parts, mut rest, mut end) = (Vec::new(), None, 0.0);
        for word in text.split(',') {
            let (part, share) = match word.split_once('@') {
                None => (word, None),
                Some((part, share)) => (part, Some(share.parse::<f64>().map_err(|_| wrong())?)),
            };
            let part = Part::parse(part).ok_or_else(wrong)?;
            match share {
                Some(share) if share > 0.0 && share <= 1.0 => {
                    end += share;
                    parts.push((end, part));
                }
                None if rest.is_none() => rest = Some(part),
                _ => return Err(wrong()),
            }
        }
        match rest {
            Some(part) => parts.push((1.0, part)),
            None if (end - 1.0).abs() > 0.02 => return Err(wrong()),
            // Shares that were rounded for people.
            None => parts.iter_mut().for_each(|(share_end, _)| *share_end /= end),
        }
        let ascending = parts.windows(2).all(|pair| pair[0].0 <= pair[1].0);
        if ascending { Ok(Self { parts, text: text.into() }) } else { Err(wrong()) }
    }
}

#[inline]
fn even(min: u32, max: u32, hash: u64) -> u32 {
    let spread = u64::from(max - min) + 1;
    // The high half of the product is below `spread`, which fits.
    min + u32::try_from((u128::from(hash) * u128::from(spread)) >> 64).unwrap_or(0)
}

/// A hash as a number in (0, 1].
fn fraction(hash: u64) -> f64 {
    const STEPS: f64 = (1_u64 << 53) as f64;
    ((hash >> 11) + 1) as f64 / STEPS
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=TAIL_SIZE_MAX; what is no number becomes 0"
)]
fn rounded(size: f64) -> u32 {
    size.round().clamp(0.0, f64::from(TAIL_SIZE_MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(text: &str) -> Vec<f64> {
        let sizes: Sizes = text.parse().unwrap();
        let (min, max) = sizes.bounds();
        let drawn: Vec<u32> = (0..200_000).map(|number| sizes.at(mix(number))).collect();
        assert!(drawn.iter().all(|size| (min..=max).contains(size)), "{text}");
        drawn.into_iter().map(f64::from).collect()
    }

    fn mean(sample: &[f64]) -> f64 {
        sample.iter().sum::<f64>() / sample.len() as f64
    }

    #[track_caller]
    fn near(value: f64, expected: f64, share: f64) {
        assert!((value - expected).abs() < expected * share, "{value}, not {expected}");
    }

    #[test]
    fn means_are_those_of_the_textbooks() {
        near(mean(&sample("100-300")), 200.0, 0.01);
        near(mean(&sample("normal:500:50")), 500.0, 0.01);
        // location + scale / (1 - shape).
        near(mean(&sample("gpareto:15:214.476:0.348238")), 344.1, 0.02);
        // location + scale (gamma(1 - shape) - 1) / shape; gamma(0.921312) = 1.0535.
        near(mean(&sample("gev:30.7984:8.20449:0.078688")), 36.38, 0.02);
    }

    #[test]
    fn parts_come_as_often_as_their_shares() {
        let sample = sample("2@0.2,11@0.1,1000-1000");
        let share = |size: f64| sample.iter().filter(|&&drawn| drawn == size).count() as f64 / 200_000.0;
        near(share(2.0), 0.2, 0.03);
        near(share(11.0), 0.1, 0.03);
        near(share(1000.0), 0.7, 0.03);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "9-3", "x", "-5", "normal:5", "normal:nan:1", "gev:1:0:1", "5@2", "5@0.2,6@0.2", "5,6"]
        {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }
}
