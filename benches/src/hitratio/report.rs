//! Miss ratios into a table, a summary with its goals, and CSV. Plays nothing.

use std::fmt::{self, Write};

use slabring_engine::PolicyKind;

use crate::hitratio::reference::{Mode, Reference, Share};
use crate::hitratio::replay::Replayed;

/// A cell counts as good if its miss ratio is at most this above the baseline.
const NEAR: f64 = 0.01;
/// In bytes a goal is set from this share on: below it, a small trace has fewer pages than there are size classes.
const GOAL_SHARE_MIN: f64 = 0.1;
/// Traces whose items expire; their names begin with this.
const EXPIRING_PREFIX: &str = "twl_";
/// The same slabs as ours in a simulator that frees items in the second they expire.
const EAGER_EXPIRY: &str = "slab1.12-ADAPT5-ov24-rebal";

/// One trace against one policy of one capacity.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Cell {
    pub(crate) trace: String,
    pub(crate) share: Share,
    /// Items or bytes.
    pub(crate) capacity: u64,
    pub(crate) policy: PolicyKind,
    pub(crate) replayed: Replayed,
}

impl Cell {
    /// Misses of all gets, the cold start included.
    pub(crate) fn miss_ratio(&self) -> f64 {
        self.replayed.misses as f64 / self.replayed.gets.max(1) as f64
    }
}

/// Everything measured, in the order in which it is to be shown.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Report {
    pub(crate) mode: Mode,
    /// The first is the one that has goals.
    pub(crate) policies: Vec<PolicyKind>,
    pub(crate) reference: Option<Reference>,
    /// Cells of one trace and share stand side by side.
    pub(crate) cells: Vec<Cell>,
}

/// Cells of one trace and share.
type Row<'a> = &'a [Cell];

impl Report {
    /// All cells with their gaps, one a line.
    pub(crate) fn csv(&self) -> String {
        let mut text =
            "mode,trace,size_frac,capacity,policy,gets,misses,miss_ratio,evictions,refused,baseline,gap\n"
                .to_owned();
        let mode = match self.mode {
            Mode::Objects => "objects",
            Mode::Bytes => "bytes",
        };
        for cell in &self.cells {
            let Replayed { gets, misses, evictions, refused, .. } = cell.replayed;
            let (trace, share, capacity, policy) =
                (&cell.trace, cell.share, cell.capacity, cell.policy.name());
            let (name, gap) = self.baseline(cell).map_or((String::new(), String::new()), |(name, best)| {
                (name.into(), format!("{:.6}", cell.miss_ratio() - best))
            });
            let ratio = cell.miss_ratio();
            writeln!(
                text,
                "{mode},{trace},{share},{capacity},{policy},{gets},{misses},{ratio:.6},{evictions},{refused},{name},{gap}"
            )
            .expect("a string takes everything");
        }
        text
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.cells.chunk_by(|a, b| (&a.trace, a.share) == (&b.trace, b.share))
    }

    /// Whom the cell is measured against, and what that reached.
    pub(crate) fn baseline(&self, cell: &Cell) -> Option<(&str, f64)> {
        self.reference.as_ref()?.baseline(&cell.trace, cell.share)
    }

    /// A policy of the reference in the row of a cell.
    fn reference_ratio(&self, cell: &Cell, name: &str) -> Option<f64> {
        self.reference.as_ref()?.miss_ratio(&cell.trace, cell.share, name)
    }

    /// The columns of the reference that are not empty.
    fn reference_columns(&self) -> Vec<(&'static str, &'static str)> {
        let known = |name| self.cells.iter().any(|cell| self.reference_ratio(cell, name).is_some());
        self.mode.columns().iter().copied().filter(|&(_, name)| known(name)).collect()
    }

    /// How a policy of the engine did in the cells that have a baseline.
    fn summary_of(&self, policy: PolicyKind) -> Option<Summary> {
        self.summary_where(|cell| cell.policy == policy)
    }

    fn summary_where(&self, wanted: impl Fn(&Cell) -> bool) -> Option<Summary> {
        Summary::of(self.cells.iter().filter(|cell| wanted(cell)).filter_map(|cell| {
            let (_, best) = self.baseline(cell)?;
            Some(Gap { miss_ratio: cell.miss_ratio(), gap: cell.miss_ratio() - best, at: place(cell) })
        }))
    }

    /// How a policy of the reference did in the cells that have a baseline.
    fn summary_of_reference(&self, name: &str) -> Option<Summary> {
        Summary::of(self.rows().filter_map(|row| {
            let (_, best) = self.baseline(&row[0])?;
            let miss_ratio = self.reference_ratio(&row[0], name)?;
            Some(Gap { miss_ratio, gap: miss_ratio - best, at: place(&row[0]) })
        }))
    }

    /// What the first policy is meant to reach, and has.
    fn goals(&self) -> Vec<Goal> {
        let Some(&policy) = self.policies.first() else { return Vec::new() };
        match self.mode {
            Mode::Objects => self.summary_of(policy).map_or(Vec::new(), |summary| goals_in_objects(&summary)),
            Mode::Bytes => self.goals_in_bytes(policy),
        }
    }

    fn goals_in_bytes(&self, policy: PolicyKind) -> Vec<Goal> {
        let counts = |cell: &Cell| cell.policy == policy && cell.share.fraction() >= GOAL_SHARE_MIN;
        let mean = self
            .summary_where(counts)
            .map(|summary| Goal::at_most("mean gap at 10 % and more, points", summary.mean_gap * 100.0, 1.5));
        let expiry = self.worst_against_eager_expiry(policy);
        let expiry = expiry.map(|gap| Goal::at_most("worst above eager expiry, points", gap * 100.0, 0.5));
        mean.into_iter().chain(expiry).collect()
    }

    fn worst_against_eager_expiry(&self, policy: PolicyKind) -> Option<f64> {
        let expiring = |cell: &&Cell| cell.policy == policy && cell.trace.starts_with(EXPIRING_PREFIX);
        let gaps = self
            .cells
            .iter()
            .filter(expiring)
            .filter_map(|cell| Some(cell.miss_ratio() - self.reference_ratio(cell, EAGER_EXPIRY)?));
        gaps.reduce(f64::max)
    }

    fn write_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = self.titles();
        write_row(f, &titles)?;
        write_row(f, &vec!["---".to_owned(); titles.len()])?;
        self.rows().try_for_each(|row| write_row(f, &self.texts(row)))
    }

    fn titles(&self) -> Vec<String> {
        let mut titles = vec!["trace".to_owned(), "share".into(), "capacity".into()];
        titles.extend(self.policies.iter().map(|policy| policy.name().into()));
        if self.reference.is_some() {
            titles.extend([self.mode.baseline_title().into(), "gap, points".into()]);
            titles.extend(self.reference_columns().iter().map(|&(title, _)| title.into()));
        }
        titles
    }

    /// What stands below the titles.
    fn texts(&self, row: Row<'_>) -> Vec<String> {
        let any = &row[0];
        let miss_ratio =
            |policy: &PolicyKind| row.iter().find(|cell| cell.policy == *policy).map(Cell::miss_ratio);
        let mut texts = vec![any.trace.clone(), percent(any.share), any.capacity.to_string()];
        texts.extend(self.policies.iter().map(|policy| ratio(miss_ratio(policy))));
        if self.reference.is_some() {
            let baseline = self.baseline(any);
            let ours = self.policies.first().and_then(miss_ratio);
            texts.push(baseline.map_or(NOTHING.into(), |(name, best)| match self.mode {
                Mode::Objects => format!("{} {name}", ratio(Some(best))),
                Mode::Bytes => ratio(Some(best)),
            }));
            texts.push(baseline.zip(ours).map_or(NOTHING.into(), |((_, best), ours)| points(ours - best)));
            let others = self.reference_columns().into_iter();
            texts.extend(others.map(|(_, name)| ratio(self.reference_ratio(any, name))));
        }
        texts
    }

    fn write_summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles =
            ["policy", "cells", "mean miss", "mean gap", "p90 gap", "worst gap", "where", "within 1 point"];
        write_row(f, &titles.map(String::from))?;
        write_row(f, &titles.map(|_| "---".into()))?;
        let own =
            self.policies.iter().map(|&policy| (format!("**{}**", policy.name()), self.summary_of(policy)));
        let others = self.reference_columns().into_iter();
        let others = others.map(|(title, name)| (title.to_owned(), self.summary_of_reference(name)));
        for (name, summary) in own.chain(others) {
            if let Some(summary) = summary {
                write_row(f, &summary.cells_of_row(name))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_table(f)?;
        if self.reference.is_some() {
            writeln!(
                f,
                "\nGaps in percentage points above {}; lower is better.\n",
                self.mode.baseline_title()
            )?;
            self.write_summary(f)?;
        }
        let goals = self.goals();
        if let (Some(policy), false) = (self.policies.first(), goals.is_empty()) {
            writeln!(f, "\nGoals of {}:\n", policy.name())?;
            for goal in goals {
                writeln!(f, "* {goal}")?;
            }
        }
        Ok(())
    }
}

/// One cell seen from the baseline.
struct Gap {
    miss_ratio: f64,
    gap: f64,
    at: String,
}

/// A policy over many cells.
#[derive(Clone, PartialEq, Debug)]
struct Summary {
    cells: usize,
    mean_miss_ratio: f64,
    mean_gap: f64,
    p90_gap: f64,
    worst_gap: f64,
    worst_at: String,
    /// Share of the cells with a gap of at most [`NEAR`].
    near: f64,
}

impl Summary {
    /// None of no cells.
    fn of(gaps: impl Iterator<Item = Gap>) -> Option<Self> {
        let mut gaps: Vec<Gap> = gaps.collect();
        gaps.sort_by(|a, b| a.gap.total_cmp(&b.gap));
        let (worst, cells) = (gaps.last()?, gaps.len());
        let mean = |number: fn(&Gap) -> f64| gaps.iter().map(number).sum::<f64>() / cells as f64;
        Some(Self {
            cells,
            mean_miss_ratio: mean(|gap| gap.miss_ratio),
            mean_gap: mean(|gap| gap.gap),
            p90_gap: gaps[(cells * 9).div_ceil(10) - 1].gap,
            worst_gap: worst.gap,
            worst_at: worst.at.clone(),
            near: gaps.iter().filter(|gap| gap.gap <= NEAR).count() as f64 / cells as f64,
        })
    }

    fn cells_of_row(self, name: String) -> [String; 8] {
        [
            name,
            self.cells.to_string(),
            ratio(Some(self.mean_miss_ratio)),
            points(self.mean_gap),
            points(self.p90_gap),
            points(self.worst_gap),
            self.worst_at,
            format!("{:.0} %", self.near * 100.0),
        ]
    }
}

fn goals_in_objects(summary: &Summary) -> Vec<Goal> {
    vec![
        Goal::at_most("mean gap, points", summary.mean_gap * 100.0, 0.9),
        Goal::at_least("cells within 1 point, %", summary.near * 100.0, 60.0),
        Goal::at_most("worst gap, points", summary.worst_gap * 100.0, 4.5),
    ]
}

/// A number that is to reach another.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Goal {
    what: &'static str,
    reached: f64,
    limit: f64,
    at_least: bool,
}

impl Goal {
    fn at_most(what: &'static str, reached: f64, limit: f64) -> Self {
        Self { what, reached, limit, at_least: false }
    }

    fn at_least(what: &'static str, reached: f64, limit: f64) -> Self {
        Self { what, reached, limit, at_least: true }
    }

    fn is_met(&self) -> bool {
        if self.at_least { self.reached >= self.limit } else { self.reached <= self.limit }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, reached, limit, at_least } = self;
        let bound = if *at_least { "at least" } else { "at most" };
        let verdict = if self.is_met() { "met" } else { "MISSED" };
        write!(f, "{what}: {reached:.2} (goal: {bound} {limit}), {verdict}")
    }
}

const NOTHING: &str = "-";

fn place(cell: &Cell) -> String {
    format!("{} {}", cell.trace, percent(cell.share))
}

fn percent(share: Share) -> String {
    format!("{:.4}", share.fraction() * 100.0).trim_end_matches('0').trim_end_matches('.').to_owned() + " %"
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or(NOTHING.into(), |ratio| format!("{ratio:.4}"))
}

fn points(gap: f64) -> String {
    format!("{:+.2}", gap * 100.0)
}

fn write_row(f: &mut fmt::Formatter<'_>, cells: &[String]) -> fmt::Result {
    writeln!(f, "| {} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hitratio::reference::tests::objects;

    fn cell(trace: &str, share: &str, policy: PolicyKind, misses: u64) -> Cell {
        let replayed = Replayed { gets: 1000, misses, evictions: 7, refused: 0, items: 10 };
        Cell { trace: trace.into(), share: share.parse().unwrap(), capacity: 10, policy, replayed }
    }

    fn report(reference: Option<Reference>) -> Report {
        let policies = vec![PolicyKind::TinyLfu, PolicyKind::Clock];
        let cells = vec![
            cell("a", "0.01", PolicyKind::TinyLfu, 405),
            cell("a", "0.01", PolicyKind::Clock, 500),
            cell("b", "0.1", PolicyKind::TinyLfu, 200),
            cell("c", "0.1", PolicyKind::TinyLfu, 100),
        ];
        Report { mode: Mode::Objects, policies, reference, cells }
    }

    #[test]
    fn the_table_has_a_row_for_each_trace_and_share_and_a_cell_for_every_column() {
        let text = report(Some(objects())).to_string();
        let table: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).collect();
        assert_eq!(table.len(), 5, "{text}");
        assert!(table.iter().all(|row| row.matches('|').count() == table[0].matches('|').count()), "{text}");
        assert!(
            table[2].starts_with("| a | 1 % | 10 | 0.4050 | 0.5000 | 0.4000 ARC | +0.50 | 0.5000 |"),
            "{text}"
        );
        assert!(table[3].starts_with("| b | 10 % | 10 | 0.2000 | - | 0.2500 LRU | -5.00 |"), "{text}");
        assert!(table[4].starts_with("| c | 10 % | 10 | 0.1000 | - | - | - | - |"), "{text}");
    }

    #[test]
    fn without_a_reference_there_are_only_our_own_columns() {
        let text = report(None).to_string();
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.starts_with("| trace | share | capacity | tinylfu | clock |\n"), "{text}");
    }

    #[test]
    fn the_summary_counts_cells_that_have_a_baseline() {
        let summary = report(Some(objects())).summary_of(PolicyKind::TinyLfu).unwrap();
        assert_eq!((summary.cells, summary.near, summary.worst_at.as_str()), (2, 1.0, "a 1 %"));
        assert!((summary.mean_gap - (0.005 - 0.05) / 2.0).abs() < 1e-12, "{summary:?}");
        assert!((summary.worst_gap - 0.005).abs() < 1e-12, "{summary:?}");
        assert_eq!(report(None).summary_of(PolicyKind::TinyLfu), None);
        let others = report(Some(objects())).summary_of_reference("LRU").unwrap();
        assert_eq!((others.cells, others.near), (2, 0.5));
    }

    #[test]
    fn the_ninetieth_percentile_leaves_a_tenth_above_it() {
        let gaps =
            |count| (1..=count).map(|gap| Gap { miss_ratio: 0.0, gap: f64::from(gap), at: String::new() });
        for (count, expected) in [(1, 1.0), (10, 9.0), (11, 10.0), (20, 18.0)] {
            assert_eq!(Summary::of(gaps(count)).unwrap().p90_gap, expected, "{count}");
        }
    }

    #[test]
    fn goals_say_whether_they_are_met() {
        let text = report(Some(objects())).to_string();
        assert!(text.contains("* worst gap, points: 0.50 (goal: at most 4.5), met"), "{text}");
        assert!(Goal::at_least("x", 59.0, 60.0).to_string().ends_with("MISSED"));
    }

    #[test]
    fn csv_has_a_line_for_each_cell_and_as_many_fields_as_titles() {
        let csv = report(Some(objects())).csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines.iter().all(|line| line.split(',').count() == 12), "{csv}");
        assert_eq!(lines[1], "objects,a,0.01,10,tinylfu,1000,405,0.405000,7,0,ARC,0.005000");
        assert_eq!(lines[4], "objects,c,0.1,10,tinylfu,1000,100,0.100000,7,0,,");
    }
}
