//! What caches held into tables: bytes of overhead per item, and the ratio to memcached. Measures nothing.

use std::fmt;

use serde::Serialize;
use slabring_engine::MemoryUse;

use crate::memory::Shape;

/// Who holds the items.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Holder {
    /// A shard in this process.
    Engine,
    Slabring,
    Memcached,
}

/// Bytes per item beyond key and value, by what they are for. Together with key and value they make up the budget.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Breakdown {
    pub(crate) header: f64,
    /// The rest of the chunk, and chunks and pages that hold nothing.
    pub(crate) rounding: f64,
    pub(crate) index: f64,
    pub(crate) policy: f64,
    /// Budget that the shard has not put to use.
    pub(crate) unused: f64,
}

impl Breakdown {
    pub(crate) fn of(memory: &MemoryUse, items: u64, shape: Shape) -> Self {
        let each = |bytes: usize| bytes as f64 / items.max(1) as f64;
        Self {
            header: each(memory.items) - shape.bytes() as f64,
            rounding: each(memory.pages) - each(memory.items),
            index: each(memory.index),
            policy: each(memory.policy),
            unused: each(memory.limit) - each(memory.used()),
        }
    }

    /// What an item costs in memory that is in use.
    fn overhead(&self) -> f64 {
        self.header + self.rounding + self.index + self.policy
    }
}

/// One cache of one budget, full of items of one shape.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Held {
    pub(crate) holder: Holder,
    pub(crate) memory_bytes: usize,
    pub(crate) shape: Shape,
    pub(crate) items: u64,
    pub(crate) resident_bytes: u64,
    /// Only the engine tells.
    pub(crate) breakdown: Option<Breakdown>,
}

impl Held {
    /// Bytes of the budget per item beyond key and value.
    fn overhead(&self) -> f64 {
        self.memory_bytes as f64 / self.items.max(1) as f64 - self.shape.bytes() as f64
    }

    /// Bytes of the process per item beyond key and value.
    fn resident_overhead(&self) -> f64 {
        self.resident_bytes as f64 / self.items.max(1) as f64 - self.shape.bytes() as f64
    }
}

/// Everything measured.
#[derive(Clone, PartialEq, Default, Serialize, Debug)]
pub(crate) struct Report {
    pub(crate) held: Vec<Held>,
}

impl Report {
    /// Items of one over memcached's in the same budget.
    fn ratio(&self, held: &Held) -> Option<f64> {
        let like = |other: &&Held| {
            other.holder == Holder::Memcached
                && (other.memory_bytes, other.shape) == (held.memory_bytes, held.shape)
        };
        let theirs = self.held.iter().find(like)?;
        Some(held.items as f64 / theirs.items.max(1) as f64)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Bytes per item beyond key and value. \"all\" divides the whole budget by the items, \"resident\" the process.\n"
        )?;
        let titles = [
            "budget",
            "key x value",
            "cache",
            "items",
            "of memcached",
            "resident",
            "all",
            "in use",
            "header",
            "rounding",
            "index",
            "policy",
            "unused",
        ];
        write_row(f, &titles.map(String::from))?;
        write_row(f, &titles.map(|_| "---".into()))?;
        self.held.iter().try_for_each(|held| write_row(f, &self.row(held)))
    }
}

impl Report {
    fn row(&self, held: &Held) -> [String; 13] {
        let holder = match held.holder {
            Holder::Engine => "engine",
            Holder::Slabring => "slabring",
            Holder::Memcached => "memcached",
        };
        let part =
            |part: fn(&Breakdown) -> f64| held.breakdown.as_ref().map_or("-".into(), |all| bytes(part(all)));
        [
            format!("{} MiB", held.memory_bytes >> 20),
            held.shape.to_string(),
            holder.into(),
            held.items.to_string(),
            self.ratio(held).map_or("-".into(), |ratio| format!("{ratio:.2}")),
            format!(
                "{:.1} MiB, {}",
                held.resident_bytes as f64 / f64::from(1 << 20),
                bytes(held.resident_overhead())
            ),
            bytes(held.overhead()),
            part(Breakdown::overhead),
            part(|all| all.header),
            part(|all| all.rounding),
            part(|all| all.index),
            part(|all| all.policy),
            part(|all| all.unused),
        ]
    }
}

fn bytes(number: f64) -> String {
    format!("{number:.1}")
}

fn write_row(f: &mut fmt::Formatter<'_>, cells: &[String]) -> fmt::Result {
    writeln!(f, "| {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: Holder, memory_bytes: usize, items: u64) -> Held {
        let shape = "10x30".parse().unwrap();
        Held { holder, memory_bytes, shape, items, resident_bytes: 1 << 20, breakdown: None }
    }

    #[test]
    fn a_ratio_is_taken_in_the_same_budget_only() {
        let report = Report {
            held: vec![
                held(Holder::Slabring, 1 << 20, 300),
                held(Holder::Memcached, 1 << 20, 200),
                held(Holder::Slabring, 2 << 20, 600),
            ],
        };
        assert_eq!(
            report.held.iter().map(|held| report.ratio(held)).collect::<Vec<_>>(),
            [Some(1.5), Some(1.0), None]
        );
        let text = report.to_string();
        assert!(text.contains("| 1 MiB | 10x30 | slabring | 300 | 1.50 |"), "{text}");
    }

    #[test]
    fn a_breakdown_adds_up_to_the_budget() {
        let memory = MemoryUse {
            limit: 100_000,
            index: 1000,
            pages: 90_000,
            policy: 500,
            items: 60_000,
            ..MemoryUse::default()
        };
        let breakdown = Breakdown::of(&memory, 1000, "10x30".parse().unwrap());
        assert_eq!((breakdown.header, breakdown.rounding, breakdown.unused), (20.0, 30.0, 8.5));
        assert_eq!(breakdown.overhead(), 51.5);
        let held = Held { breakdown: Some(breakdown), ..held(Holder::Engine, 100_000, 1000) };
        assert_eq!(held.overhead(), 60.0);
        let json = serde_json::to_string(&Report { held: vec![held] }).unwrap();
        assert!(json.contains(r#""holder":"engine""#) && json.contains(r#""shape":"10x30""#), "{json}");
    }
}
