//! One run of slabring-load: started, waited for, its result read.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::process::Process;

/// What a run may take beyond its measured time: connecting, storing keys, the last replies.
const PATIENCE: Duration = Duration::from_secs(120);

/// The fields of its result that are needed here.
#[derive(Deserialize, Debug)]
pub(crate) struct Load {
    pub(crate) operations: u64,
    pub(crate) operations_per_second: f64,
    pub(crate) misses: u64,
    /// Of gets; none without a get.
    pub(crate) hit_ratio: Option<f64>,
    pub(crate) errors: u64,
    first_error: Option<String>,
    pub(crate) client_cpu_us_per_op: f64,
    pub(crate) client_cpu_share: f64,
    pub(crate) latency: Latency,
}

/// Latencies of all kinds of requests together.
#[derive(Deserialize, Debug)]
pub(crate) struct Latency {
    pub(crate) all: Summary,
}

/// Some percentiles, in nanoseconds.
#[derive(Deserialize, Debug)]
pub(crate) struct Summary {
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
}

impl Load {
    /// Runs a command line on `cpu`. Fails when a request did.
    pub(crate) fn run(cpu: usize, words: &[String], measured: Duration) -> anyhow::Result<Self> {
        let (status, text) = Process::start_captured(cpu, words)?.output(PATIENCE + measured)?;
        ensure!(status.success(), "{} failed ({status}); is it built?", words.join(" "));
        let load = Self::read(&text)?;
        let first_error = load.first_error.as_deref().unwrap_or_default();
        ensure!(load.errors == 0, "{} errors, the first: {first_error}", load.errors);
        Ok(load)
    }

    /// Ends one that runs. What it measured until then, errors included.
    pub(crate) fn end(running: Process) -> anyhow::Result<Self> {
        running.interrupt()?;
        Self::read(&running.output(PATIENCE)?.1)
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        serde_json::from_str(text).context("slabring-load is of another version")
    }
}

/// Reads seconds of a run from a command line.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    const HOUR_SECONDS: f64 = 3600.0;
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= HOUR_SECONDS => Ok(seconds),
        _ => Err(format!("expected seconds, above 0, at most {HOUR_SECONDS}")),
    }
}
