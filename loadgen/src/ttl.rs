//! How long a stored value shall live. Draws one time per store; knows no clock.

use std::fmt;
use std::str::FromStr;

use crate::popularity::Dice;

/// Longest relative time of the protocol: 30 days.
const RELATIVE_SECONDS_MAX: u32 = 30 * 24 * 3600;

/// Times to live with their weights, in seconds; 0 is for ever.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Ttls {
    /// Shortest, longest, and the end of the share of 0..1.
    parts: Vec<(u32, u32, f64)>,
    text: String,
}

impl Ttls {
    #[inline]
    pub(crate) fn pick(&self, dice: &mut Dice) -> u32 {
        let [(min, max, _)] = self.parts[..] else { return self.pick_part(dice) };
        if min == max { min } else { between(min, max, dice) }
    }

    fn pick_part(&self, dice: &mut Dice) -> u32 {
        let place = dice.fraction();
        let part = self.parts.iter().find(|(_, _, end)| place <= *end).or(self.parts.last());
        part.map_or(0, |&(min, max, _)| between(min, max, dice))
    }
}

fn between(min: u32, max: u32, dice: &mut Dice) -> u32 {
    min + u32::try_from(dice.below(u64::from(max - min) + 1)).unwrap_or(0)
}

impl FromStr for Ttls {
    type Err = String;

    /// `60`, `60-120`, or several with weights: `60@0.9,3600@0.1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let one = |word: &str| {
            let (range, weight) = word.split_once('@').unwrap_or((word, "1"));
            let (min, max) = range.split_once('-').unwrap_or((range, range));
            let (min, max): (u32, u32) = (min.parse().ok()?, max.parse().ok()?);
            let weight: f64 = weight.parse().ok()?;
            let fits = min <= max && max <= RELATIVE_SECONDS_MAX && weight > 0.0 && weight.is_finite();
            fits.then_some((min, max, weight))
        };
        let parts: Option<Vec<_>> = text.split(',').map(one).collect();
        let mut parts = parts.ok_or_else(|| {
            format!("expected SECONDS or MIN-MAX, at most {RELATIVE_SECONDS_MAX}, or several as SECONDS@WEIGHT,...")
        })?;
        let whole: f64 = parts.iter().map(|part| part.2).sum();
        let mut end = 0.0;
        for part in &mut parts {
            end += part.2 / whole;
            part.2 = end;
        }
        Ok(Self { parts, text: text.into() })
    }
}

impl fmt::Display for Ttls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_as_often_as_they_weigh() {
        let ttls: Ttls = "60@3,3600-3700@1".parse().unwrap();
        let mut dice = Dice::new(1, 1);
        let drawn: Vec<u32> = (0..40_000).map(|_| ttls.pick(&mut dice)).collect();
        let short = drawn.iter().filter(|&&seconds| seconds == 60).count();
        assert!((29_500..30_500).contains(&short), "{short}");
        assert!(drawn.iter().all(|&seconds| seconds == 60 || (3600..=3700).contains(&seconds)));
        for text in ["", "5-4", "9999999", "5@0", "x"] {
            assert!(text.parse::<Ttls>().is_err(), "{text}");
        }
    }
}
