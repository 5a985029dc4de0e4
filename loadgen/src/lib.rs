//! `slabring-load`: drives any memcached server and says how fast it answers. The order of things is in `run.rs`. Others use
//! only its reader of recorded requests.

#![forbid(unsafe_code)]

mod access;
mod agents;
mod args;
mod book;
mod connection;
mod decode;
mod export;
mod failure;
mod interrupt;
mod intervals;
mod keys;
mod kind;
mod ledger;
mod lines;
mod live;
mod machine;
mod packed;
mod page;
mod popularity;
mod presets;
mod protocol;
mod report;
mod ring;
mod route;
mod run;
mod schedule;
mod sizes;
mod slo;
mod tally;
mod target;
mod tls;
pub mod trace;
mod ttl;
mod values;
mod verify;
mod worker;
mod workload;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use args::Args;
use failure::Failure;
use page::Run;
use report::Report;
use slo::SloArgs;

/// Puts the results of earlier runs on one page.
#[derive(Parser, Debug)]
#[command(name = "slabring-load report", max_term_width = 110)]
struct ReportArgs {
    /// Results that --json wrote
    #[arg(value_name = "FILE", required = true)]
    results: Vec<PathBuf>,

    /// Where the page goes
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
}

/// Takes part in the runs of another machine's --coordinator. Whoever reaches it can have it load any address: it
/// belongs on a network of one's own.
#[derive(Parser, Debug)]
#[command(name = "slabring-load agent", max_term_width = 110)]
struct AgentArgs {
    /// Where to listen
    #[arg(value_name = "ADDR", default_value = agents::ADDRESS_DEFAULT)]
    address: String,
}

/// The program, with the words behind its name. Blocks until its end; a wrong word ends the process.
pub fn main(words: &[String]) -> ExitCode {
    let rest = || words.iter().skip(1).map(String::as_str);
    match words.first().map(String::as_str) {
        Some("presets") => finish(print(&presets::list()), true),
        Some("help") => load(&["--help".to_owned()]),
        Some("slo") => search(&words[1..]),
        Some("report") => {
            let args = ReportArgs::parse_from(std::iter::once("slabring-load report").chain(rest()));
            report_of(&args).map_or_else(|error| fail(&format_args!("{error:#}")), |()| ExitCode::SUCCESS)
        }
        Some("agent") => {
            let args = AgentArgs::parse_from(std::iter::once("slabring-load agent").chain(rest()));
            agents::serve(&args.address).map_or_else(|failure| fail(&failure), |()| ExitCode::SUCCESS)
        }
        _ => load(words),
    }
}

fn load(words: &[String]) -> ExitCode {
    let args = Args::from_words(words);
    let listening = interrupt::listen();
    let result = listening.map_err(Failure::from).and_then(|()| {
        if args.coordinator.is_empty() { run::run(&args) } else { agents::coordinate(&args, words) }
    });
    let report = match result {
        Ok(report) => report,
        Err(failure) => return fail(&failure),
    };
    if let Some(failure) = &report.failure {
        eprintln!("slabring-load: {failure}; what was measured until then follows");
    }
    let exported = export(&args, &report);
    let shown = finish(show(&report, args.json), report.is_good());
    exported.map_or_else(|failure| fail(&failure), |()| shown)
}

/// The files that were asked for. All are tried; the first failure is told.
fn export(args: &Args, report: &Report) -> Result<(), Failure> {
    let mut result = Ok(());
    let mut try_one = |path: &Option<PathBuf>, write: &dyn Fn(&Path) -> io::Result<()>| {
        if let Some(path) = path
            && let Err(error) = write(path)
            && result.is_ok()
        {
            result = Err(Failure::Export { path: path.display().to_string(), error });
        }
    };
    try_one(&args.csv, &|path| export::csv(report, path));
    try_one(&args.hdr, &|path| export::hdr(report, path));
    result.and(export_page(args.html.as_deref(), || {
        page::render(&[Run { name: report.target.clone(), report: report.clone() }])
    }))
}

fn report_of(args: &ReportArgs) -> anyhow::Result<()> {
    let read = |path: &PathBuf| {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let report =
            serde_json::from_str(&text).with_context(|| format!("{shown} is no result of --json"))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Run { name, report })
    };
    let runs = args.results.iter().map(read).collect::<anyhow::Result<Vec<Run>>>()?;
    fs::write(&args.html, page::render(&runs)?)
        .with_context(|| format!("cannot write {}", args.html.display()))
}

fn search(words: &[String]) -> ExitCode {
    let wrong = |message: String| SloArgs::command().error(ErrorKind::ValueValidation, message);
    let read = || {
        let all = presets::expand(words).map_err(wrong)?;
        let program = std::iter::once("slabring-load slo");
        let mut args = SloArgs::try_parse_from(program.chain(all.iter().map(String::as_str)))?;
        args.check().and(args.load.check()).map_err(wrong)?;
        args.load.command = args::command_line("slo", words);
        Ok(args)
    };
    let args: SloArgs = read().unwrap_or_else(|error: clap::Error| error.exit());
    match interrupt::listen().map_err(Failure::from).and_then(|()| slo::search(&args)) {
        Err(failure) => fail(&failure),
        Ok(search) => {
            if let Some(failure) = &search.failure {
                eprintln!("slabring-load: {failure}; what was measured until then follows");
            }
            let exported = export_page(args.load.html.as_deref(), || page::render_search(&search));
            let text = if args.load.json {
                serde_json::to_string(&search).map(|json| json + "\n").map_err(io::Error::from)
            } else {
                Ok(search.to_string())
            };
            let shown = finish(text.and_then(|text| print(&text)), search.is_good());
            exported.map_or_else(|failure| fail(&failure), |()| shown)
        }
    }
}

fn export_page(path: Option<&Path>, page: impl FnOnce() -> anyhow::Result<String>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let written = page().map_err(io::Error::other).and_then(|page| fs::write(path, page));
    written.map_err(|error| Failure::Export { path: path.display().to_string(), error })
}

fn fail(failure: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("slabring-load: {failure}");
    ExitCode::FAILURE
}

fn finish(printed: io::Result<()>, is_good: bool) -> ExitCode {
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(&format_args!("cannot write the result: {error}"))
        }
        // Whoever closed the pipe has what it wanted.
        Ok(()) | Err(_) if is_good => ExitCode::SUCCESS,
        Ok(()) | Err(_) => ExitCode::FAILURE,
    }
}

fn show(report: &Report, json: bool) -> io::Result<()> {
    if json { print(&(serde_json::to_string(report)? + "\n")) } else { print(&report.to_string()) }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
