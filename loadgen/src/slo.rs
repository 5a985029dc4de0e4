//! The highest rate at which a server keeps an objective: doubling until it fails, then bisection, each rate measured
//! several times. Decides rates; the load itself is `run.rs`'s.

use std::time::Duration;

use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::args::Args;
use crate::failure::Failure;
use crate::interrupt;
use crate::report::{Report, Summary, span_ns};
use crate::run::Session;

/// Rate that the search begins with, in requests a second.
const RATE_FIRST: f64 = 1000.0;
const RATE_MAX: f64 = 1e9;

const CLIENT_BOUND: &str = "this client was late itself when a rate was missed: the server may keep a higher one; use more --threads";

/// Finds the highest rate that keeps an objective.
///
/// Begins low and doubles the rate until the objective is missed, then bisects. A rate counts as kept if most of its
/// measurements keep it; the answer is measured as often again before it is given. All options of a run go with it.
#[derive(Parser, Debug)]
#[command(name = "slabring-load slo", max_term_width = 110)]
pub(crate) struct SloArgs {
    #[command(flatten)]
    pub(crate) load: Args,

    /// Half of all requests must be faster
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Objective")]
    p50: Option<Duration>,

    /// 99 % must be faster
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Objective")]
    p99: Option<Duration>,

    /// 99.9 % must be faster, such as 800us or 2ms
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Objective")]
    p999: Option<Duration>,

    /// Share of errors that is allowed
    #[arg(long, value_name = "SHARE", default_value = "0", help_heading = "Objective")]
    errors: f64,

    /// Seconds of each measurement
    #[arg(long, value_name = "SECONDS", default_value = "5", help_heading = "Search")]
    seconds: f64,

    /// Measurements of each rate; most of them decide
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=99), help_heading = "Search")]
    repeats: u32,

    /// Stop when the answer is known to this share
    #[arg(long, value_name = "SHARE", default_value = "0.05", help_heading = "Search")]
    precision: f64,
}

/// One measurement.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct Point {
    pub(crate) rate_per_second: f64,
    pub(crate) operations_per_second: f64,
    pub(crate) latency: Summary,
    pub(crate) errors: u64,
    pub(crate) kept: bool,
    /// This client, and not the server, may be what was measured.
    pub(crate) client_bound: bool,
}

/// What a search found.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct Search {
    pub(crate) command: String,
    pub(crate) objective: String,
    /// Highest rate that was kept; 0 if none was.
    pub(crate) rate_per_second: f64,
    /// Lowest rate that was not; none if all were.
    pub(crate) missed_per_second: Option<f64>,
    /// How many measurements of the highest rate kept the objective, of how many.
    pub(crate) kept: usize,
    pub(crate) measured: usize,
    /// Every measurement, in its order.
    pub(crate) points: Vec<Point>,
    pub(crate) warnings: Vec<String>,
    /// Why it ended before its time.
    pub(crate) failure: Option<String>,
}

impl Search {
    /// Whether it was completed and has an answer.
    pub(crate) fn is_good(&self) -> bool {
        self.failure.is_none() && self.rate_per_second > 0.0
    }

    /// Fastest and slowest p99 of the highest rate that was kept, in nanoseconds.
    fn p99_ns(&self) -> Option<(u64, u64)> {
        let own =
            self.points.iter().filter(|point| point.rate_per_second.total_cmp(&self.rate_per_second).is_eq());
        let p99 = own.map(|point| point.latency.p99_ns);
        Some((p99.clone().min()?, p99.max()?))
    }
}

impl SloArgs {
    /// What no single option can know about itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.p50.or(self.p99).or(self.p999).is_none() {
            return Err("an objective is needed: --p50, --p99 or --p999 with a time such as 1ms".into());
        }
        if self.load.csv.is_some() || self.load.hdr.is_some() || !self.load.coordinator.is_empty() {
            return Err("--csv, --hdr and --coordinator are for single runs".into());
        }
        if !(self.seconds > 0.0 && self.seconds <= 3600.0) {
            return Err("--seconds is above 0, at most an hour".into());
        }
        if !(0.0..1.0).contains(&self.errors) {
            return Err("--errors is a share from 0 to below 1".into());
        }
        if !(self.precision > 0.0 && self.precision < 1.0) {
            return Err("--precision is a share above 0 and below 1".into());
        }
        Ok(())
    }

    fn keeps(&self, report: &Report) -> bool {
        let latency = &report.latency.all;
        let fast =
            |limit: Option<Duration>, ns: u64| limit.is_none_or(|limit| Duration::from_nanos(ns) <= limit);
        let errors = report.errors as f64 <= self.errors * report.operations as f64;
        let sent = report.unsent == 0;
        fast(self.p50, latency.p50_ns)
            && fast(self.p99, latency.p99_ns)
            && fast(self.p999, latency.p999_ns)
            && errors
            && sent
            && report.is_good()
    }

    fn objective(&self) -> String {
        let part = |name: &str, limit: Option<Duration>| limit.map(|limit| format!("{name} <= {limit:?}"));
        let parts = [part("p50", self.p50), part("p99", self.p99), part("p99.9", self.p999)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// Searches. Blocks until it is done; tells on standard error how it goes. What ends a search early ends it with what was
/// measured until then.
pub(crate) fn search(args: &SloArgs) -> Result<Search, Failure> {
    let session = Session::new(args.load.clone())?;
    session.prefill()?;
    let mut points = Vec::new();
    let searched = bisect(args.precision, |rate| is_kept(args, &session, rate, &mut points))
        .and_then(|_| confirm(args, &session, &mut points));
    let failure = match searched {
        Err(failure) if points.is_empty() => return Err(failure),
        searched => searched.err().map(|failure| failure.to_string()),
    };
    let blames_client = points.iter().any(|point| !point.kept && point.client_bound);
    let rate_per_second = highest_kept(&points).unwrap_or(0.0);
    let missed = points.iter().map(|point| point.rate_per_second).filter(|rate| *rate > rate_per_second);
    Ok(Search {
        command: args.load.command.clone(),
        objective: args.objective(),
        rate_per_second,
        missed_per_second: missed.min_by(f64::total_cmp),
        kept: votes(&points, rate_per_second).0,
        measured: votes(&points, rate_per_second).1,
        points,
        warnings: if blames_client { vec![CLIENT_BOUND.into()] } else { Vec::new() },
        failure,
    })
}

/// Measures a rate until most of its repeats have kept the objective, or can no more.
fn is_kept(args: &SloArgs, session: &Session, rate: f64, points: &mut Vec<Point>) -> Result<bool, Failure> {
    let (mut kept, mut missed) = (0, 0);
    while kept * 2 <= args.repeats && missed * 2 < args.repeats {
        let point = measure(args, session, rate)?;
        if point.kept {
            kept += 1;
        } else {
            missed += 1;
        }
        points.push(point);
    }
    Ok(kept * 2 > args.repeats)
}

/// The highest rate that was kept may have been lucky: it is measured as often again, and if most of all its measurements
/// missed, so is the next lower one.
fn confirm(args: &SloArgs, session: &Session, points: &mut Vec<Point>) -> Result<(), Failure> {
    while let Some(rate) = highest_kept(points) {
        let measured = votes(points, rate).1;
        if measured > args.repeats as usize {
            return Ok(());
        }
        for _ in 0..args.repeats {
            points.push(measure(args, session, rate)?);
        }
        if highest_kept(points) == Some(rate) {
            return Ok(());
        }
    }
    Ok(())
}

/// How many measurements of a rate kept the objective, of how many.
fn votes(points: &[Point], rate: f64) -> (usize, usize) {
    let own = points.iter().filter(|point| point.rate_per_second.total_cmp(&rate).is_eq());
    (own.clone().filter(|point| point.kept).count(), own.count())
}

/// The highest rate that most of its measurements kept.
fn highest_kept(points: &[Point]) -> Option<f64> {
    let is_kept = |rate: &f64| {
        let (kept, measured) = votes(points, *rate);
        kept * 2 > measured
    };
    points.iter().map(|point| point.rate_per_second).filter(is_kept).max_by(f64::total_cmp)
}

fn measure(args: &SloArgs, session: &Session, rate: f64) -> Result<Point, Failure> {
    let load = Args { rate: Some(rate), ..args.load.clone() };
    let outcome = session.load_at(rate, Duration::from_secs_f64(args.seconds))?;
    if interrupt::came() {
        return Err(Failure::Interrupted);
    }
    let report = Report::new(&load, &session.shown_target(), None, &outcome);
    let kept = args.keeps(&report);
    if !args.load.quiet {
        let p99 = span_ns(report.latency.all.p99_ns);
        eprintln!("{rate:>12.0}/s  p99 {p99:>10}  {}", if kept { "kept" } else { "missed" });
    }
    Ok(Point {
        rate_per_second: rate,
        operations_per_second: report.operations_per_second,
        latency: report.latency.all,
        errors: report.errors,
        kept,
        client_bound: report.is_client_bound(),
    })
}

/// The highest rate known to be kept, and the lowest known not to be.
fn bisect<E>(precision: f64, mut keeps: impl FnMut(f64) -> Result<bool, E>) -> Result<(f64, Option<f64>), E> {
    let (mut low, mut high) = (0.0, None);
    let mut rate = RATE_FIRST;
    while rate <= RATE_MAX {
        if keeps(rate)? {
            low = rate;
        } else {
            high = Some(rate);
        }
        rate = match high {
            None => rate * 2.0,
            Some(high) if high - low > precision * high && high > 1.0 => f64::midpoint(low, high),
            Some(_) => break,
        };
    }
    Ok((low, high))
}

impl std::fmt::Display for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:>12} {:>12} {:>10} {:>10} {:>10}", "asked/s", "answered/s", "p50", "p99", "p99.9")?;
        let mut points: Vec<&Point> = self.points.iter().collect();
        points.sort_by(|one, other| one.rate_per_second.total_cmp(&other.rate_per_second));
        for point in points {
            let Summary { p50_ns, p99_ns, p999_ns, .. } = point.latency;
            writeln!(
                f,
                "{:>12.0} {:>12.0} {:>10} {:>10} {:>10}  {}",
                point.rate_per_second,
                point.operations_per_second,
                span_ns(p50_ns),
                span_ns(p99_ns),
                span_ns(p999_ns),
                match (point.kept, point.client_bound) {
                    (true, _) => "kept",
                    (false, false) => "missed",
                    (false, true) => "missed, client late",
                }
            )?;
        }
        match (self.rate_per_second, self.missed_per_second) {
            (rate, _) if rate <= 0.0 => writeln!(f, "\n{}: not kept at any rate", self.objective)?,
            (rate, Some(missed)) => {
                writeln!(f, "\n{}: {rate:.0} requests/s; {missed:.0} are too many", self.objective)?;
            }
            (rate, None) => writeln!(f, "\n{}: {rate:.0} requests/s and more", self.objective)?,
        }
        if let Some((best, worst)) = self.p99_ns() {
            let (best, worst) = (span_ns(best), span_ns(worst));
            writeln!(
                f,
                "kept by {} of its {} measurements, p99 from {best} to {worst}",
                self.kept, self.measured
            )?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

/// `1ms`, `250us`, `2s`.
fn time(text: &str) -> Result<Duration, String> {
    let units = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let parse = |(unit, seconds): (&str, f64)| {
        let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        (number > 0.0 && number <= 1e9).then(|| Duration::from_secs_f64(number * seconds))
    };
    units.into_iter().find_map(parse).ok_or_else(|| "expected a time such as 1ms, 250us or 2s".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(limit: f64, precision: f64) -> (f64, Option<f64>) {
        bisect(precision, |rate| Ok::<_, ()>(rate <= limit)).unwrap()
    }

    #[test]
    fn the_bound_is_found_to_the_precision_wherever_it_is() {
        for limit in [3.0, 700.0, 1000.0, 123_456.0, 9.9e6] {
            let (kept, missed) = search(limit, 0.02);
            let missed = missed.unwrap();
            assert!(kept <= limit && missed > limit, "{limit}: {kept} {missed}");
            assert!(missed - kept <= 0.02 * missed || missed <= 1.0, "{limit}: {kept} {missed}");
        }
        assert_eq!(search(1e12, 0.1).1, None);
        assert_eq!(search(0.0, 0.1).0, 0.0);
    }

    fn point(rate_per_second: f64, kept: bool) -> Point {
        let latency = Summary::of(&crate::tally::histogram());
        Point {
            rate_per_second,
            operations_per_second: rate_per_second,
            latency,
            errors: 0,
            kept,
            client_bound: false,
        }
    }

    #[test]
    fn most_measurements_of_a_rate_decide_and_half_do_not() {
        let points =
            [(100.0, true), (200.0, true), (200.0, false), (150.0, false), (150.0, true), (150.0, true)];
        let points = points.map(|(rate, kept)| point(rate, kept));
        assert_eq!((votes(&points, 200.0), votes(&points, 150.0)), ((1, 2), (2, 3)));
        assert_eq!(highest_kept(&points), Some(150.0));
        assert_eq!(highest_kept(&points[2..4]), None);
    }

    #[test]
    fn times_are_read_with_their_units() {
        assert_eq!(time("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(time("2.5us"), Ok(Duration::from_nanos(2500)));
        assert_eq!(time("3s"), Ok(Duration::from_secs(3)));
        assert!(time("3").is_err() && time("-1ms").is_err() && time("ms").is_err());
    }
}
