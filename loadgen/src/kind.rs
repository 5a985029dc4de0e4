//! The kinds of requests and their mix. Makes no bytes.

use std::fmt;
use std::str::FromStr;

use crate::popularity::Dice;

/// What a request is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    #[default]
    Get,
    /// A get that asks for the CAS token.
    Gets,
    /// A get that sets the expiry.
    Gat,
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    /// Begins with a [`Kind::Gets`], which is counted as such.
    Cas,
    Delete,
    /// Counters have keys of their own.
    Incr,
    Decr,
    Touch,
}

impl Kind {
    /// All, in the order of their numbers.
    pub(crate) const ALL: [Self; 13] = [
        Self::Get,
        Self::Gets,
        Self::Gat,
        Self::Set,
        Self::Add,
        Self::Replace,
        Self::Append,
        Self::Prepend,
        Self::Cas,
        Self::Delete,
        Self::Incr,
        Self::Decr,
        Self::Touch,
    ];

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Gets => "gets",
            Self::Gat => "gat",
            Self::Set => "set",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Prepend => "prepend",
            Self::Cas => "cas",
            Self::Delete => "delete",
            Self::Incr => "incr",
            Self::Decr => "decr",
            Self::Touch => "touch",
        }
    }

    /// Whether its answer is values.
    pub(crate) const fn reads(self) -> bool {
        matches!(self, Self::Get | Self::Gets | Self::Gat)
    }

    /// Whether it carries a value.
    pub(crate) const fn stores(self) -> bool {
        matches!(self, Self::Set | Self::Add | Self::Replace | Self::Append | Self::Prepend | Self::Cas)
    }

    /// Whether it changes what a get of the key must find.
    pub(crate) const fn writes(self) -> bool {
        self.stores() || matches!(self, Self::Delete)
    }

    /// Whether it is for counters.
    pub(crate) const fn counts(self) -> bool {
        matches!(self, Self::Incr | Self::Decr)
    }
}

/// Weights of the kinds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mix {
    /// Kind and the sum of the weights up to it.
    sums: Vec<(Kind, u64)>,
}

impl Mix {
    /// SETs and GETs only, as many as each of them.
    pub(crate) fn of_sets_and_gets(sets: u32, gets: u32) -> Self {
        Self::of(&[(Kind::Set, u64::from(sets)), (Kind::Get, u64::from(gets))])
    }

    fn of(weights: &[(Kind, u64)]) -> Self {
        let mut sum = 0;
        let add = |&(kind, weight): &(Kind, u64)| {
            sum += weight;
            (kind, sum)
        };
        let sums: Vec<_> = weights.iter().filter(|(_, weight)| *weight > 0).map(add).collect();
        assert!(!sums.is_empty());
        Self { sums }
    }

    #[inline]
    pub(crate) fn pick(&self, dice: &mut Dice) -> Kind {
        let [.., (last, sum)] = self.sums[..] else { unreachable!("a mix has a kind") };
        if self.sums.len() == 1 {
            return last;
        }
        let place = dice.below(sum);
        self.sums.iter().find(|(_, end)| place < *end).map_or(last, |(kind, _)| *kind)
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.sums.iter().map(|(kind, _)| *kind)
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WEIGHT_MAX: u64 = 1_000_000;
        let one = |word: &str| {
            let (name, weight) = word.split_once(':').unwrap_or((word, "1"));
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
            let weight = weight.parse().ok().filter(|weight| *weight <= WEIGHT_MAX);
            kind.zip(weight)
        };
        let weights: Option<Vec<_>> = text.split(',').map(one).collect();
        match weights {
            Some(weights) if weights.iter().any(|(_, weight)| *weight > 0) => Ok(Self::of(&weights)),
            _ => {
                let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                Err(format!("expected KIND:WEIGHT,... with whole weights and the kinds {}", names.join(" ")))
            }
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = 0;
        for (at, (kind, sum)) in self.sums.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}", kind.name(), sum - before)?;
            before = *sum;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_in_the_order_of_their_numbers() {
        assert!(Kind::ALL.iter().enumerate().all(|(at, kind)| kind.index() == at));
    }

    #[test]
    fn a_mix_reads_as_it_is_written_and_draws_its_weights() {
        let mix: Mix = "get:90,set:7,delete:0,cas:3".parse().unwrap();
        assert_eq!(mix.to_string(), "get:90,set:7,cas:3");
        let mut dice = Dice::new(3, 0);
        let mut seen = [0_u32; Kind::ALL.len()];
        for _ in 0..100_000 {
            seen[mix.pick(&mut dice).index()] += 1;
        }
        for (kind, expected) in [(Kind::Get, 90_000), (Kind::Set, 7000), (Kind::Cas, 3000)] {
            assert!(seen[kind.index()].abs_diff(expected) < 400, "{kind:?} {seen:?}");
        }
        for text in ["", "get:0", "fly:1", "get:-1", "get:1;set:1"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
    }
}
