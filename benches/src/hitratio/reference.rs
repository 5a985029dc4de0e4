//! Miss ratios that other caches reached on the same traces, read from CSV files. Runs nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, ensure};
use clap::ValueEnum;

/// Online policies with this source are what the gap in objects is measured to.
const SIMULATOR: &str = "libcachesim";
/// They know the future, so nobody has to be as good.
const OFFLINE: &str = "Belady";

/// What the capacity of a cell counts.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Mode {
    /// Items, all of the same size
    Objects,
    /// Bytes of memory, all in
    Bytes,
}

impl Mode {
    /// The file in the reference directory.
    fn file(self) -> &'static str {
        match self {
            Self::Objects => "reference_objects.csv",
            Self::Bytes => "reference_bytes.csv",
        }
    }

    /// The shares for which there is a reference.
    pub(crate) fn shares(self) -> Vec<Share> {
        match self {
            Self::Objects => vec![Share(10_000), Share(50_000), Share(100_000), Share(200_000)],
            Self::Bytes => vec![Share(20_000), Share(100_000), Share(300_000)],
        }
    }

    /// The policies of the reference that are shown beside the engine's: title and name in the file.
    pub(crate) fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Objects => &[
                ("LRU", "LRU"),
                ("ARC", "ARC"),
                ("S3-FIFO", "S3FIFO"),
                ("W-TinyLFU 1 %", "WTinyLFU-1%"),
                ("ADAPT5 slab", "ADAPT5-2bit-slabimpl"),
                ("Belady", "Belady"),
            ],
            Self::Bytes => &[
                ("like memcached", "slab1.25-LRU-ov64-norebal-lazyTTL(memcached-like)"),
                ("ideal LRU", "ideal-LRU-ov24"),
                ("ideal S3-FIFO", "ideal-S3FIFO-ov24"),
                ("slab ADAPT5", "slab1.12-ADAPT5-ov24-rebal"),
            ],
        }
    }

    /// What gaps are measured to, in words.
    pub(crate) fn baseline_title(self) -> &'static str {
        match self {
            Self::Objects => "best of 19",
            Self::Bytes => "ideal ADAPT5",
        }
    }
}

/// A capacity as a share of the working set, in millionths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Share(u32);

impl Share {
    const WHOLE: u32 = 1_000_000;

    /// That much of `whole`, rounded down.
    pub(crate) fn of(self, whole: u64) -> u64 {
        let part = u128::from(whole) * u128::from(self.0) / u128::from(Self::WHOLE);
        u64::try_from(part).expect("a share is at most the whole")
    }

    pub(crate) fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("expected a share such as 0.05, at least 0.000001 and at most 1, not {text}");
        let fraction: f64 = text.parse().map_err(|_| refused())?;
        let millionths = (fraction * f64::from(Self::WHOLE)).round();
        if !(1.0..=f64::from(Self::WHOLE)).contains(&millionths) {
            return Err(refused());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in range, checked above"
        )]
        let share = Self(millionths as u32);
        Ok(share)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fraction())
    }
}

/// All rows of one file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Reference {
    mode: Mode,
    cells: BTreeMap<(String, Share), Vec<Entry>>,
}

#[derive(Clone, PartialEq, Debug)]
struct Entry {
    policy: String,
    miss_ratio: f64,
    source: String,
}

impl Entry {
    fn is_online_simulation(&self) -> bool {
        self.source.starts_with(SIMULATOR) && !self.policy.contains(OFFLINE)
    }
}

impl Reference {
    /// Reads the mode's file in a directory.
    pub(crate) fn read(directory: &Path, mode: Mode) -> anyhow::Result<Self> {
        let path = directory.join(mode.file());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(mode, &text).with_context(|| format!("{} is not as expected", path.display()))
    }

    fn parse(mode: Mode, text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        let titles: Vec<&str> = lines.next().context("no header")?.split(',').collect();
        let column = |title| {
            let found = titles.iter().position(|&have| have == title);
            found.with_context(|| format!("no column {title}"))
        };
        let (trace, share, policy) = (column("trace")?, column("size_frac")?, column("policy")?);
        let (miss_ratio, source) = (column("miss_ratio")?, column("source")?);
        let mut cells: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for line in lines {
            let fields: Vec<&str> = line.split(',').collect();
            ensure!(
                fields.len() == titles.len(),
                "{} fields instead of {}: {line}",
                fields.len(),
                titles.len()
            );
            let share: Share = fields[share].parse().map_err(anyhow::Error::msg)?;
            let entry = Entry {
                policy: fields[policy].into(),
                miss_ratio: fields[miss_ratio].parse().with_context(|| format!("no number: {line}"))?,
                source: fields[source].into(),
            };
            cells.entry((fields[trace].into(), share)).or_default().push(entry);
        }
        Ok(Self { mode, cells })
    }

    /// The miss ratio of a policy, by its name in the file.
    pub(crate) fn miss_ratio(&self, trace: &str, share: Share, policy: &str) -> Option<f64> {
        let entry = self.entries(trace, share).iter().find(|entry| entry.policy == policy)?;
        Some(entry.miss_ratio)
    }

    /// What the engine is measured against: the best of the online policies in objects, the adaptive policy
    /// without fragmentation in bytes. Returns its name and its miss ratio.
    pub(crate) fn baseline(&self, trace: &str, share: Share) -> Option<(&str, f64)> {
        let entries = self.entries(trace, share).iter();
        let entry = match self.mode {
            Mode::Objects => entries
                .filter(|entry| entry.is_online_simulation())
                .min_by(|a, b| a.miss_ratio.total_cmp(&b.miss_ratio)),
            Mode::Bytes => entries.clone().find(|entry| entry.policy == "ideal-ADAPT5-ov24"),
        }?;
        Some((&entry.policy, entry.miss_ratio))
    }

    fn entries(&self, trace: &str, share: Share) -> &[Entry] {
        self.cells.get(&(trace.into(), share)).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const OBJECTS: &str = "\
trace,size_frac,capacity_objects,policy,miss_ratio,source
a,0.01,10,LRU,0.5,libcachesim-0.3.5
a,0.01,10,ARC,0.4,libcachesim-0.3.5
a,0.01,10,Belady,0.1,libcachesim-0.3.5
a,0.01,10,ADAPT5-2bit-slabimpl,0.3,evsim
b,0.1,10,LRU,0.25,libcachesim-0.3.5
";

    pub(crate) fn objects() -> Reference {
        Reference::parse(Mode::Objects, OBJECTS).unwrap()
    }

    fn share(text: &str) -> Share {
        text.parse().unwrap()
    }

    #[test]
    fn the_best_online_policy_of_the_simulator_is_the_baseline() {
        assert_eq!(objects().baseline("a", share("0.010")), Some(("ARC", 0.4)));
        assert_eq!(objects().baseline("b", share("0.1")), Some(("LRU", 0.25)));
        assert_eq!(objects().baseline("b", share("0.2")), None);
        assert_eq!(objects().baseline("c", share("0.1")), None);
    }

    #[test]
    fn in_bytes_the_baseline_is_the_adaptive_policy_without_fragmentation() {
        let text = "trace,size_frac,capacity_bytes,policy,miss_ratio,byte_miss_ratio,source\n\
                    a,0.1,1000,ideal-LRU-ov24,0.1,,x\na,0.1,1000,ideal-ADAPT5-ov24,0.2,,x\n";
        let reference = Reference::parse(Mode::Bytes, text).unwrap();
        assert_eq!(reference.baseline("a", share("0.1")), Some(("ideal-ADAPT5-ov24", 0.2)));
        assert_eq!(reference.miss_ratio("a", share("0.1"), "ideal-LRU-ov24"), Some(0.1));
        assert_eq!(reference.miss_ratio("a", share("0.1"), "LRU"), None);
    }

    #[test]
    fn files_that_are_not_as_expected_are_refused() {
        for text in ["", "trace,size_frac\n", &OBJECTS.replace("0.25,", "x,"), &OBJECTS.replace(",evsim", "")]
        {
            assert!(Reference::parse(Mode::Objects, text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_exact_and_in_range() {
        assert_eq!(share("0.01"), share("1e-2"));
        assert_eq!(share("0.001").of(186_880), 186);
        assert_eq!(share("1").of(u64::MAX), u64::MAX);
        assert_eq!(share("0.05").to_string(), "0.05");
        for text in ["0", "1.1", "-0.1", "x", "NaN"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }
}
