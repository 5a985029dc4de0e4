//! What was measured of clusters, as tables or JSON. Measures nothing.

use std::fmt;

use serde::Serialize;

use super::cost::{Comparison, Cost};
use super::flips::Change;
use super::resync::Resync;

/// Everything measured; what was not asked for is empty.
#[derive(Clone, PartialEq, Serialize, Debug)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) seconds: f64,
    pub(crate) rounds: u32,
    pub(crate) costs: Vec<Cost>,
    pub(crate) resync: Option<Resync>,
    pub(crate) changes: Vec<Change>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}; all nodes on one CPU, clients on another.", self.cpu, self.kernel)?;
        if !self.costs.is_empty() {
            self.show_costs(f)?;
        }
        if let Some(resync) = &self.resync {
            show_resync(f, resync)?;
        }
        if !self.changes.is_empty() {
            show_changes(f, &self.changes)?;
        }
        Ok(())
    }
}

impl Report {
    fn show_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nCPU of all nodes for a request and requests a second, as multiples of three nodes that do not know each other; medians of {} turns of {} s.\n",
            self.rounds, self.seconds
        )?;
        let compared = self.costs.first().map_or(&[][..], |cost| &cost.comparisons);
        let title = |of: &Comparison| format!("{}, depth {}", of.requests.word(), of.requests.depth);
        write_row(f, "nodes", compared.iter().map(title))?;
        write_row(f, "---", compared.iter().map(|_| "---:".into()))?;
        for cost in &self.costs {
            write_row(f, cost.setup, cost.comparisons.iter().map(ratios))?;
        }
        let others =
            self.costs.iter().flat_map(|cost| &cost.comparisons).filter_map(Comparison::loudest_others);
        let loudest = others.fold(0.0, f64::max);
        writeln!(f, "\nOther processes used at most {:.0} % of a CPU meanwhile.", loudest * 100.0)
    }
}

fn ratios(of: &Comparison) -> String {
    let times = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    let (cpu, rate) = (of.ratio(|run| run.cpu_us_per_op), of.ratio(|run| run.operations_per_second));
    format!("{} / {}", times(cpu), times(rate))
}

fn show_resync(f: &mut fmt::Formatter<'_>, of: &Resync) -> fmt::Result {
    let mib = of.bytes as f64 / f64::from(1 << 20);
    writeln!(f, "\nA node of three with two copies is killed and returns.\n")?;
    let titles = [
        "MiB it holds",
        "in the ring again",
        "filled after that",
        "MiB/s",
        "p99 before",
        "p99 meanwhile",
        "p99.9",
        "errors",
    ];
    write_row(f, titles[0], titles[1..].iter().map(ToString::to_string))?;
    write_row(f, "---:", titles[1..].iter().map(|_| "---:".into()))?;
    let ms = |ns: u64| format!("{:.2} ms", ns as f64 / 1e6);
    let cells = [
        format!("{:.1} s", of.until_back_seconds),
        format!("{:.1} s", of.seconds),
        format!("{:.0}", mib / of.seconds),
        ms(of.calm_p99_ns),
        ms(of.p99_ns),
        ms(of.p999_ns),
        format!("{} of {}", of.errors, of.requests),
    ];
    write_row(f, &format!("{mib:.0}"), cells.into_iter())
}

fn show_changes(f: &mut fmt::Formatter<'_>, changes: &[Change]) -> fmt::Result {
    writeln!(f, "\nThe longest wait of eight writers for a key of each batch.\n")?;
    let titles = ["copies", "partitions", "batches", "time", "wait: median", "longest", "refused"];
    write_row(f, "change", titles.iter().map(ToString::to_string))?;
    write_row(f, "---", titles.iter().map(|_| "---:".into()))?;
    for of in changes {
        let median = of.median_ms().map_or("-".into(), |ms| format!("{ms:.0} ms"));
        let cells = [
            of.copies.to_string(),
            of.partitions.to_string(),
            of.batches_ms.len().to_string(),
            format!("{:.1} s", of.seconds),
            median,
            format!("{:.0} ms", of.longest_ms()),
            format!("{} of {}", of.refused, of.refused + of.written),
        ];
        write_row(f, of.what, cells.into_iter())?;
    }
    Ok(())
}

fn write_row(f: &mut fmt::Formatter<'_>, first: &str, cells: impl Iterator<Item = String>) -> fmt::Result {
    writeln!(f, "| {first} | {} |", cells.collect::<Vec<_>>().join(" | "))
}

#[cfg(test)]
mod tests {
    use super::super::cost::{Requests, Run};
    use super::*;

    fn run(cpu_us_per_op: f64) -> Run {
        Run {
            operations_per_second: 1e6 / cpu_us_per_op,
            cpu_us_per_op,
            p50_ns: 1,
            p99_ns: 2,
            others_cpu_share: 0.25,
        }
    }

    #[test]
    fn ratios_are_taken_in_each_turn_before_the_median_and_what_was_not_measured_is_not_shown() {
        let turns = [(1.0, 2.0), (2.0, 5.0), (4.0, 16.0)].map(|(lone, nodes)| (run(lone), run(nodes)));
        let requests = Requests { is_set: true, depth: 16 };
        let comparisons = vec![Comparison { requests, turns: turns.into() }];
        let costs = vec![Cost { setup: "sync, 2 copies", comparisons }];
        let (kernel, cpu) = ("Linux".into(), "CPU".into());
        let report = Report { kernel, cpu, seconds: 1.0, rounds: 3, costs, resync: None, changes: vec![] };
        let text = report.to_string();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows, ["| nodes | SET, depth 16 |", "| --- | ---: |", "| sync, 2 copies | 2.50 / 0.40 |"]);
        assert!(text.contains("at most 25 % of a CPU"), "{text}");
    }

    #[test]
    fn a_change_is_told_by_its_batches() {
        let change = Change {
            what: "a fourth joins",
            copies: 2,
            seconds: 1.25,
            batches_ms: vec![4.0, 110.0, 20.0],
            partitions: 700,
            written: 90,
            refused: 10,
        };
        let (kernel, cpu, costs) = ("Linux".into(), "CPU".into(), vec![]);
        let report =
            Report { kernel, cpu, seconds: 1.0, rounds: 3, costs, resync: None, changes: vec![change] };
        let text = report.to_string();
        assert!(
            text.contains("| a fourth joins | 2 | 700 | 3 | 1.2 s | 20 ms | 110 ms | 10 of 100 |"),
            "{text}"
        );
    }
}
