//! The result of a run: one structure, shown as JSON or as text. Measures nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::args::Args;
use crate::intervals::Interval;
use crate::kind::Kind;
use crate::machine::Machine;
use crate::packed;
use crate::run::Outcome;
use crate::verify::Wrong;

/// Share of a CPU per thread from which on the client may be what limits a closed loop.
const CLIENT_CPU_SHARE_MAX: f64 = 0.9;
/// Shorter runs are as much starting and ending as loading.
const CPU_SECONDS_MIN: f64 = 0.1;
/// How late this client may send one in a hundred of what is due, in nanoseconds.
const LAG_NS_MAX: u64 = 1_000_000;
/// An open loop that gets through less of its rate than this has not kept it.
const RATE_KEPT_MIN: f64 = 0.99;

/// All that is known about a run. Field names are the JSON's: they stay.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct Report {
    pub(crate) version: String,
    /// What was typed.
    pub(crate) command: String,
    /// Where this ran.
    pub(crate) machine: Machine,
    pub(crate) target: String,
    /// `text`, `meta`, `binary` or `resp`.
    pub(crate) protocol: String,
    /// `io_uring` or `epoll`.
    pub(crate) io: String,
    pub(crate) threads: u32,
    pub(crate) connections: u32,
    pub(crate) depth: u32,
    /// Requests a second asked for; none in a closed loop.
    pub(crate) rate_per_second: Option<f64>,
    pub(crate) poisson: bool,
    pub(crate) keys: u64,
    /// The largest.
    pub(crate) key_bytes: u32,
    pub(crate) value_bytes_min: u32,
    pub(crate) value_bytes_max: u32,
    /// As they were asked for.
    pub(crate) key_sizes: String,
    pub(crate) value_sizes: String,
    /// SET:GET, where nothing else was asked for.
    pub(crate) ratio: String,
    /// Kinds of requests with their weights.
    pub(crate) mix: String,
    pub(crate) ttl_seconds: String,
    /// The largest.
    pub(crate) keys_per_get: u32,
    /// The trace that was played.
    pub(crate) replay: Option<String>,
    pub(crate) distribution: String,
    pub(crate) seed: u64,
    /// Keys stored before the run, counters included, each of them checked.
    pub(crate) prefilled_keys: Option<u64>,

    pub(crate) seconds: f64,
    /// Requests answered.
    pub(crate) operations: u64,
    pub(crate) operations_per_second: f64,
    pub(crate) gets: u64,
    pub(crate) sets: u64,
    /// Keys found and not found, of all gets.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    /// Share of the keys asked for that were found.
    pub(crate) hit_ratio: Option<f64>,
    /// Answers that were errors.
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Of `--verify`; none without it is not known to be right.
    pub(crate) verified: bool,
    pub(crate) wrong_values: u64,
    pub(crate) wrong: Wrong,
    /// The first of them, with their keys.
    pub(crate) wrong_examples: Vec<String>,
    /// Requests of the open loop that were due and found no free connection before the end.
    pub(crate) unsent: u64,
    /// Requests without an answer when the run ended before its time; they count in the latencies as what they had waited.
    #[serde(default)]
    pub(crate) unanswered: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,

    /// From when a request was due to its reply; in a closed loop a request is due when it is sent.
    pub(crate) latency: Latency,
    /// From when a request was sent: what a closed loop would have claimed. Only in an open loop.
    pub(crate) latency_from_send: Option<Summary>,
    /// How late this client itself sent what was due. Only in an open loop.
    pub(crate) lag: Option<Summary>,
    /// Every kind of request that was answered.
    pub(crate) kinds: BTreeMap<String, KindReport>,
    /// Where there are several.
    pub(crate) servers: Vec<ServerReport>,
    /// Second by second.
    pub(crate) intervals: Vec<Interval>,
    /// Histograms of `latency.all` and `latency_from_send` in nanoseconds, HdrHistogram V2 compressed, base64.
    pub(crate) histogram: String,
    pub(crate) histogram_from_send: Option<String>,

    /// User and system time of this process per request. In an open loop it includes waiting for due times.
    pub(crate) client_cpu_us_per_op: f64,
    /// Of one CPU for each thread.
    pub(crate) client_cpu_share: f64,
    pub(crate) warnings: Vec<String>,
    /// Why it ended before its time.
    pub(crate) failure: Option<String>,
}

/// One kind of request.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct KindReport {
    pub(crate) answers: u64,
    /// Keys found, or changes that took place.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) errors: u64,
    pub(crate) latency: Summary,
}

/// One of several servers.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct ServerReport {
    pub(crate) name: String,
    pub(crate) answers: u64,
    pub(crate) latency: Summary,
}

/// Latencies by kind of request.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct Latency {
    pub(crate) all: Summary,
    pub(crate) get: Summary,
    pub(crate) set: Summary,
}

/// One histogram in a few numbers, in nanoseconds. All 0 when nothing was measured.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) mean_ns: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p90_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

impl Summary {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            mean_ns: histogram.mean(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
        }
    }
}

impl Report {
    pub(crate) fn new(args: &Args, target: &str, prefilled_keys: Option<u64>, outcome: &Outcome) -> Self {
        let Outcome { tally, intervals, elapsed, cpu_us, io, servers: _, failure } = outcome;
        let operations = tally.operations();
        let all = tally.latency_where(|_| true);
        let latency = Latency {
            all: Summary::of(&all),
            get: Summary::of(&tally.latency_where(Kind::reads)),
            set: Summary::of(&tally.latency_where(Kind::stores)),
        };
        let is_open = args.rate.is_some() || args.speed.is_some();
        let seconds = elapsed.as_secs_f64();
        let (value_bytes_min, value_bytes_max) = args.value_size.bounds();
        let mut report = Self {
            version: env!("CARGO_PKG_VERSION").into(),
            command: args.command.clone(),
            machine: Machine::this(),
            target: target.into(),
            protocol: args.protocol.name().into(),
            io: io.clone(),
            threads: args.threads.get(),
            connections: args.connections.get(),
            depth: args.depth.get(),
            rate_per_second: args.rate,
            poisson: args.poisson,
            keys: args.keys,
            key_bytes: args.key_size.bounds().1,
            value_bytes_min,
            value_bytes_max,
            key_sizes: args.key_size.to_string(),
            value_sizes: args.value_size.to_string(),
            ratio: format!("{}:{}", args.ratio.sets, args.ratio.gets),
            mix: args.mix().to_string(),
            ttl_seconds: args.ttl.to_string(),
            keys_per_get: args.multiget.bounds().1,
            replay: args.replay.as_ref().map(|path| path.display().to_string()),
            distribution: args.distribution.to_string(),
            seed: args.seed,
            prefilled_keys,
            seconds,
            operations,
            operations_per_second: ratio(operations as f64, seconds),
            gets: tally.gets(),
            sets: tally.sets(),
            hits: tally.hits(),
            misses: tally.misses(),
            hit_ratio: hit_ratio(tally.hits(), tally.misses()),
            errors: tally.errors(),
            first_error: tally.first_error.clone(),
            verified: args.verify,
            wrong_values: tally.wrong.total(),
            wrong: tally.wrong,
            wrong_examples: tally.wrong_examples.clone(),
            unsent: tally.unsent,
            unanswered: tally.unanswered,
            sent_bytes: tally.sent_bytes,
            received_bytes: tally.received_bytes,
            latency,
            latency_from_send: is_open.then(|| Summary::of(&tally.service)),
            lag: is_open.then(|| Summary::of(&tally.lag)),
            kinds: kinds(outcome),
            servers: servers(outcome),
            intervals: intervals.clone(),
            histogram: packed::pack(&all),
            histogram_from_send: is_open.then(|| packed::pack(&tally.service)),
            client_cpu_us_per_op: ratio(*cpu_us as f64, operations as f64),
            client_cpu_share: ratio(*cpu_us as f64 / 1e6, seconds * f64::from(args.threads.get())),
            warnings: Vec::new(),
            failure: failure.clone(),
        };
        report.warnings = report.doubts();
        report
    }

    /// Whether it was completed and everything that came back was right.
    pub(crate) fn is_good(&self) -> bool {
        self.failure.is_none() && self.wrong_values == 0
    }

    /// Whether this client, and not the server, may be what was measured.
    pub(crate) fn is_client_bound(&self) -> bool {
        self.is_cpu_bound() || self.lag.is_some_and(|lag| lag.p99_ns > LAG_NS_MAX)
    }

    /// In an open loop it polls for due times, so its CPU says nothing.
    fn is_cpu_bound(&self) -> bool {
        self.lag.is_none() && self.seconds >= CPU_SECONDS_MIN && self.client_cpu_share > CLIENT_CPU_SHARE_MAX
    }

    /// What a reader has to know before believing the numbers.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.is_cpu_bound() {
            doubts.push(format!(
                "this client used {:.0} % of its CPU: the server may be faster than measured; use more --threads",
                self.client_cpu_share * 100.0
            ));
        }
        if let Some(lag) = self.lag.filter(|lag| lag.p99_ns > LAG_NS_MAX) {
            doubts.push(format!(
                "this client sent 1 % of its requests {} or more after they were due: latencies are its own; use more \
                 --threads, or a CPU that nobody else uses",
                span_ns(lag.p99_ns)
            ));
        }
        let kept = self.rate_per_second.map_or(1.0, |rate| self.operations_per_second / rate);
        if self.unsent > 0 || (!self.poisson && kept < RATE_KEPT_MIN) {
            doubts.push(format!(
                "the rate was not kept ({:.1} %, {} requests never sent): latencies show a queue that grows with the run",
                kept * 100.0,
                self.unsent
            ));
        }
        if self.unanswered > 0 {
            doubts.push(format!(
                "{} requests had no answer at the end: they count with the time that they had waited until then",
                self.unanswered
            ));
        }
        if self.wrong_values > 0 {
            doubts.push(format!("{} values were WRONG: {}", self.wrong_values, self.wrong));
        }
        doubts.extend(self.misses_only());
        doubts
    }

    /// Kinds of requests that never did what they are there for: they were measured, and are not what was meant.
    fn misses_only(&self) -> Vec<String> {
        if self.replay.is_some() {
            return Vec::new();
        }
        let in_vain = self.kinds.iter().filter(|(_, kind)| kind.hits == 0 && kind.misses > 0);
        let (adds, others): (Vec<_>, Vec<_>) =
            in_vain.map(|(name, _)| name.as_str()).partition(|&name| name == Kind::Add.name());
        let mut doubts = Vec::new();
        if !others.is_empty() {
            let advice = if self.prefilled_keys.is_some() { "" } else { ": use --prefill to measure hits" };
            doubts.push(format!("no {} found its key{advice}", others.join(", no ")));
        }
        if !adds.is_empty() {
            doubts.push("no add stored anything: every key was there before".into());
        }
        doubts
    }
}

fn kinds(outcome: &Outcome) -> BTreeMap<String, KindReport> {
    let tally = &outcome.tally;
    let came = Kind::ALL.into_iter().filter(|&kind| tally.of(kind).answers > 0);
    came.map(|kind| {
        let count = tally.of(kind);
        let latency = Summary::of(&tally.latency_where(|other| other == kind));
        let report = KindReport {
            answers: count.answers,
            hits: count.hits,
            misses: count.misses,
            errors: count.errors,
            latency,
        };
        (kind.name().to_owned(), report)
    })
    .collect()
}

fn servers(outcome: &Outcome) -> Vec<ServerReport> {
    let servers = outcome.servers.iter().zip(&outcome.tally.servers);
    servers
        .map(|(name, server)| ServerReport {
            name: name.clone(),
            answers: server.answers,
            latency: Summary::of(&server.latency),
        })
        .collect()
}

fn hit_ratio(hits: u64, misses: u64) -> Option<f64> {
    (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64)
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        self.write_counts(f)?;
        self.write_latencies(f)?;
        writeln!(
            f,
            "\nclient CPU {:.3} us per request, {:.0} % of {} CPU",
            self.client_cpu_us_per_op,
            self.client_cpu_share * 100.0,
            self.threads
        )?;
        self.wrong_examples.iter().try_for_each(|example| writeln!(f, "wrong: {example}"))?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

impl Report {
    fn write_head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pace = match (self.rate_per_second, &self.lag) {
            (None, None) => "closed loop".into(),
            (None, Some(_)) => "open loop at the trace's times".into(),
            (Some(rate), _) => {
                format!("open loop, {rate}/s {}", if self.poisson { "Poisson" } else { "even" })
            }
        };
        writeln!(
            f,
            "{}: {}, {} connections x depth {}, {} threads, {}, {pace}",
            self.target, self.protocol, self.connections, self.depth, self.threads, self.io
        )?;
        if let Some(replay) = &self.replay {
            return writeln!(f, "the requests of {replay}\n");
        }
        let Self { keys, key_sizes, value_sizes, distribution, mix, keys_per_get, .. } = self;
        writeln!(
            f,
            "{keys} keys of {key_sizes} B, values of {value_sizes} B, {distribution}, {mix}, {keys_per_get} keys a GET\n"
        )
    }

    fn write_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: String| writeln!(f, "{name:12} {value:>16}");
        row("seconds", format!("{:.3}", self.seconds))?;
        row("requests", self.operations.to_string())?;
        row("requests/s", format!("{:.0}", self.operations_per_second))?;
        if self.gets > 0 {
            row("hits", self.hits.to_string())?;
            row("misses", self.misses.to_string())?;
            row("hit ratio", self.hit_ratio.map_or("-".into(), |ratio| format!("{:.3} %", ratio * 100.0)))?;
        }
        if self.sets > 0 {
            row("sets", self.sets.to_string())?;
        }
        if self.verified {
            row("wrong values", self.wrong_values.to_string())?;
        }
        let first_error = self.first_error.as_ref().map_or(String::new(), |text| format!("  first: {text}"));
        row("errors", format!("{}{first_error}", self.errors))?;
        if self.unanswered > 0 {
            row("unanswered", self.unanswered.to_string())?;
        }
        row("sent", format!("{} B", self.sent_bytes))?;
        row("received", format!("{} B", self.received_bytes))
    }

    fn write_latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = "latency";
        writeln!(
            f,
            "\n{title:12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "p50", "p90", "p99", "p99.9", "max", "mean"
        )?;
        write_latency(f, if self.lag.is_some() { "from due" } else { "all" }, &self.latency.all)?;
        if self.kinds.len() > 1 {
            self.kinds.iter().try_for_each(|(name, kind)| write_latency(f, name, &kind.latency))?;
        }
        self.servers.iter().try_for_each(|server| write_latency(f, &server.name, &server.latency))?;
        self.latency_from_send.iter().try_for_each(|summary| write_latency(f, "from send", summary))
    }
}

fn write_latency(f: &mut fmt::Formatter<'_>, name: &str, summary: &Summary) -> fmt::Result {
    let Summary { p50_ns, p90_ns, p99_ns, p999_ns, max_ns, mean_ns, .. } = *summary;
    write!(f, "{name:12}")?;
    for ns in [p50_ns, p90_ns, p99_ns, p999_ns, max_ns] {
        write!(f, " {:>9}", span(Duration::from_nanos(ns)))?;
    }
    writeln!(f, " {:>9}", span(Duration::from_secs_f64(mean_ns / 1e9)))
}

/// A time in nanoseconds, for people.
pub(crate) fn span_ns(ns: u64) -> String {
    span(Duration::from_nanos(ns))
}

fn span(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1e-3 => format!("{:.1} us", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.2} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intervals::Interval;
    use crate::tally::Tally;
    use slabring_protocol::client::{Reply, ReplyKind};

    fn report(line: &str) -> Report {
        let mut tally = Tally::new(true, 1);
        for ns in 1..=1000_u64 {
            let reply = Reply { kind: ReplyKind::Values, hits: 0, value_bytes: 0 };
            tally.count(Kind::Get, 1, &reply, b"").unwrap();
            tally.measure(Kind::Get, 0, ns * 1000, ns);
        }
        tally.flush();
        let outcome = Outcome {
            tally,
            intervals: vec![Interval { operations: 1000, ..Interval::default() }],
            elapsed: Duration::from_secs(2),
            cpu_us: 1_900_000,
            io: "epoll".into(),
            servers: Vec::new(),
            failure: None,
        };
        Report::new(&Args::of(line).unwrap(), "/run/m.sock", Some(7), &outcome)
    }

    #[test]
    fn json_holds_everything_and_reads_back() {
        for line in ["--ratio 1:9 --value-size 3-5", "--rate 500 --poisson", "--verify"] {
            let report = report(line);
            let json = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
            assert!(!json.contains('\n'));
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let Latency { all, set, .. } = report("").latency;
        for (measured, expected) in [(all.p50_ns, 500_000), (all.p90_ns, 900_000), (all.p99_ns, 990_000)] {
            assert!(measured.abs_diff(expected) <= expected / 1000, "{measured} {expected}");
        }
        assert_eq!((all.count, set.count, set.max_ns), (1000, 0, 0));
    }

    #[test]
    fn a_busy_client_and_a_missed_rate_are_warned_of() {
        assert!(report("").warnings.iter().any(|text| text.contains("95 % of its CPU")));
        assert!(report("--threads 2").warnings.iter().all(|text| !text.contains("CPU")));
        assert!(report("--rate 1000").warnings.iter().any(|text| text.contains("rate was not kept (50.0 %")));
        assert!(report("--rate 500").warnings.iter().all(|text| !text.contains("rate")));
    }

    #[test]
    fn each_kind_that_only_missed_is_warned_of() {
        let mut report = report("--mix get:1,incr:1,add:1");
        report.prefilled_keys = None;
        let get = report.kinds["get"];
        report.kinds.insert("incr".into(), KindReport { hits: 0, misses: 3, ..get });
        report.kinds.insert("touch".into(), KindReport { hits: 1, misses: 3, ..get });
        report.kinds.insert("add".into(), KindReport { hits: 0, misses: 3, ..get });
        let [of_keys, of_adds] = &report.misses_only()[..] else { panic!("{:?}", report.misses_only()) };
        assert_eq!(of_keys, "no get, no incr found its key: use --prefill to measure hits");
        assert_eq!(of_adds, "no add stored anything: every key was there before");
        report.prefilled_keys = Some(100);
        assert_eq!(report.misses_only()[0], "no get, no incr found its key");
    }

    #[test]
    fn a_client_that_is_late_itself_is_warned_of() {
        let mut report = report("--rate 500");
        assert!(!report.is_client_bound());
        report.lag.as_mut().unwrap().p99_ns = 2_000_000;
        assert!(report.is_client_bound());
        assert!(report.doubts().iter().any(|text| text.contains("2.00 ms or more after they were due")));
    }

    #[test]
    fn text_names_units_and_shows_both_clocks_of_an_open_loop() {
        let closed = report("").to_string();
        assert!(closed.contains("requests/s                500"), "{closed}");
        assert!(closed.contains("500.2 us") && !closed.contains("from send"), "{closed}");
        let open = report("--rate 500").to_string();
        assert!(open.contains("from due") && open.contains("from send"), "{open}");
    }
}
