//! Recorded traces played against live servers that have the same memory: what share of gets each one answers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::latency::contender::Contender;
use crate::load::Load;
use crate::process::{Process, beside_this, free_port};

/// What a replay may take.
const PATIENCE: Duration = Duration::from_secs(3600);

const EXAMPLES: &str = "\
Examples:
  slabring, memcached and redis-server with 64 MiB each:
    slabring-bench replay --memory 64 --trace *.ctr.zst
  Two policies of slabring:
    slabring-bench replay --servers slabring --server 'lru=slabring -p {port} -m 64 -t 1 --policy lru' --trace a.ctr.zst

What a get does not find is stored, as slabring-load --replay does it. slabring-bench hitratio plays traces against the engine
alone, which is quicker and counts in objects too.";

/// Replays traces against servers of equal memory, one after the other, and prints the hit ratios as a markdown table.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Traces: CTRACE01, libCacheSim's oracleGeneral or Twitter's CSV, each also compressed by zstd
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    trace: Vec<PathBuf>,

    /// Memory of each server, in MiB
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = clap::value_parser!(u32).range(1..))]
    memory: u32,

    /// Who takes part, of slabring, memcached and redis
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "slabring,memcached,redis")]
    servers: Vec<String>,

    /// Another server of the memcached protocol, as NAME=COMMAND with {port} in it
    #[arg(long, value_name = "NAME=COMMAND", value_parser = Contender::parse)]
    server: Vec<Contender>,

    /// Stop after this many requests of each trace
    #[arg(long, value_name = "N")]
    requests: Option<u64>,

    /// The slabring program [default: beside this one]
    #[arg(long, value_name = "PATH")]
    slabring: Option<PathBuf>,

    /// The slabring-load program [default: beside this one]
    #[arg(long, value_name = "PATH")]
    load: Option<PathBuf>,

    /// CPU of the server
    #[arg(long, value_name = "N", default_value = "0")]
    server_cpu: usize,

    /// CPU of the load
    #[arg(long, value_name = "N", default_value = "1")]
    load_cpu: usize,

    /// The result as one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Hit ratios of all servers, by trace.
#[derive(Serialize, Debug)]
struct Replays {
    memory_mib: u32,
    servers: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Serialize, Debug)]
struct Row {
    trace: String,
    /// In the order of the servers.
    hit_ratios: Vec<f64>,
}

/// Plays all traces and prints the result.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let slabring = beside_this(args.slabring.as_ref(), "slabring");
    let contenders = Contender::all(&args.servers, &args.server, &slabring, args.memory);
    ensure!(!contenders.is_empty(), "nobody is left to measure");
    let rows = args.trace.iter().map(|trace| {
        let ratios = contenders.iter().map(|contender| {
            let who = || format!("{}, {}", trace.display(), contender.name);
            let ratio = play(args, contender, trace).with_context(who)?;
            eprintln!("{}: {:.2} % of gets hit", who(), ratio * 100.0);
            Ok(ratio)
        });
        let name = trace.file_name().unwrap_or(trace.as_os_str()).to_string_lossy().into_owned();
        Ok(Row { trace: name, hit_ratios: ratios.collect::<anyhow::Result<_>>()? })
    });
    let replays = Replays {
        memory_mib: args.memory,
        rows: rows.collect::<anyhow::Result<_>>()?,
        servers: contenders.into_iter().map(|contender| contender.name).collect(),
    };
    match args.json {
        true => println!("{}", serde_json::to_string(&replays)?),
        false => print!("{replays}"),
    }
    Ok(())
}

/// A fresh server and one trace from its beginning, over one connection, so that the order stays.
fn play(args: &Args, contender: &Contender, trace: &Path) -> anyhow::Result<f64> {
    let port = free_port()?;
    let mut server = Process::start(args.server_cpu, &contender.words(port))?;
    server.wait_for_port(port)?;
    let mut words = vec![beside_this(args.load.as_ref(), "slabring-load")];
    words.extend(["--replay".into(), trace.to_string_lossy().into_owned()]);
    words.extend(["--connections", "1", "--depth", "16", "--quiet", "--json"].map(str::to_owned));
    words.extend(args.requests.into_iter().flat_map(|count| ["--requests".into(), count.to_string()]));
    words.extend(contender.protocol_words());
    words.push(format!("127.0.0.1:{port}"));
    Load::run(args.load_cpu, &words, PATIENCE)?.hit_ratio.context("nothing was asked for")
}

impl fmt::Display for Replays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Share of gets that hit, in percent; {} MiB for each server.\n", self.memory_mib)?;
        writeln!(f, "| trace | {} |", self.servers.join(" | "))?;
        writeln!(f, "| --- |{}", " ---: |".repeat(self.servers.len()))?;
        for Row { trace, hit_ratios } in &self.rows {
            let cells: Vec<_> = hit_ratios.iter().map(|ratio| format!("{:.2}", ratio * 100.0)).collect();
            writeln!(f, "| {trace} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_trace_and_a_cell_for_each_server() {
        let replays = Replays {
            memory_mib: 64,
            servers: vec!["a".into(), "b".into()],
            rows: vec![Row { trace: "t".into(), hit_ratios: vec![0.5, 0.123_456] }],
        };
        assert!(
            replays
                .to_string()
                .ends_with("| trace | a | b |\n| --- | ---: | ---: |\n| t | 50.00 | 12.35 |\n")
        );
    }
}
