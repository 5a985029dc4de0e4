//! `slabring-bench`: Slabring, memcached and the bare kernel measured side by side, and the engine alone. Each
//! subcommand has its file.

#![forbid(unsafe_code)]

mod compare;
mod echo;
mod hitratio;
mod machine;
mod memory;
mod outcome;
mod process;
mod scenario;
mod worst;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Slabring against its rivals and against the ceiling that the kernel sets.
#[derive(Parser, Debug)]
#[command(name = "slabring-bench", version, max_term_width = 110)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Compare(compare::Args),
    Echo(echo::Args),
    Hitratio(hitratio::Args),
    Memory(memory::Args),
    Worst(worst::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Compare(args) => compare::run(args),
        Command::Echo(args) => echo::run(&args),
        Command::Hitratio(args) => hitratio::run(&args),
        Command::Memory(args) => memory::run(&args),
        Command::Worst(args) => worst::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slabring-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
