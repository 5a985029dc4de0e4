//! Results as files: rows for spreadsheets, and HdrHistogram's log. Writes what it is given; measures nothing.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::report::Report;

/// A row for each second; times in nanoseconds.
pub(crate) fn csv(report: &Report, path: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    writeln!(
        out,
        "start_s,seconds,operations,operations_per_second,hits,misses,errors,wrong_values,p50_ns,p99_ns,p999_ns,max_ns"
    )?;
    for interval in &report.intervals {
        writeln!(
            out,
            "{},{:.3},{},{:.1},{},{},{},{},{},{},{},{}",
            interval.start,
            interval.seconds,
            interval.operations,
            interval.operations_per_second(),
            interval.hits,
            interval.misses,
            interval.errors,
            interval.wrong_values,
            interval.p50_ns,
            interval.p99_ns,
            interval.p999_ns,
            interval.max_ns
        )?;
    }
    out.flush()
}

/// An HdrHistogram log, version 1.3, with a line for latencies from when requests were due and, in an open loop, one for
/// those from when they were sent. Values are nanoseconds, the maxima milliseconds.
///
/// Source: HdrHistogram's `HistogramLogWriter`.
pub(crate) fn hdr(report: &Report, path: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let started = report.machine.unix_seconds as f64 - report.seconds;
    writeln!(out, "#[Logged by slabring-load {}; values in nanoseconds]", report.version)?;
    writeln!(out, "#[Histogram log format version 1.3]")?;
    writeln!(out, "#[StartTime: {started:.3} (seconds since epoch)]")?;
    writeln!(
        out,
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
    )?;
    let mut line = |tag: &str, max_ns: u64, histogram: &str| {
        writeln!(out, "Tag={tag},0.000,{:.3},{:.6},{histogram}", report.seconds, max_ns as f64 / 1e6)
    };
    line("due", report.latency.all.max_ns, &report.histogram)?;
    if let (Some(summary), Some(histogram)) = (&report.latency_from_send, &report.histogram_from_send) {
        line("sent", summary.max_ns, histogram)?;
    }
    out.flush()
}
