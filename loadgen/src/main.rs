//! `slabring-load`: drives any memcached server and says how fast it answers. The order of things is in `run.rs`.

#![forbid(unsafe_code)]

mod args;
mod connection;
mod failure;
mod keys;
mod popularity;
mod progress;
mod report;
mod requests;
mod run;
mod schedule;
mod tally;
mod target;
mod values;
mod verify;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;

use args::Args;
use report::Report;

fn main() -> ExitCode {
    let args = Args::from_command_line();
    let report = match run::run(&args) {
        Ok(report) => report,
        Err(failure) => {
            eprintln!("slabring-load: {failure}");
            return ExitCode::FAILURE;
        }
    };
    match print(&report, args.json) {
        Ok(()) if report.wrong_values == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        // Whoever closed the pipe has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slabring-load: cannot write the result: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        writeln!(out)
    } else {
        write!(out, "{report}")
    }
}
