//! `slabring-bench`: Slabring, memcached and the bare kernel measured side by side, and the engine alone. Each
//! subcommand has its file.

#![forbid(unsafe_code)]

mod cluster;
mod echo;
mod hitratio;
mod latency;
mod load;
mod machine;
mod median;
mod memory;
mod peers;
mod process;
mod replay;
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
    Cluster(cluster::Args),
    Echo(echo::Args),
    Hitratio(hitratio::Args),
    Latency(latency::Args),
    Memory(memory::Args),
    Peers(peers::Args),
    Replay(replay::Args),
    Worst(worst::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Cluster(args) => cluster::run(&args),
        Command::Echo(args) => echo::run(&args),
        Command::Hitratio(args) => hitratio::run(&args),
        Command::Latency(args) => latency::run(&args),
        Command::Memory(args) => memory::run(&args),
        Command::Peers(args) => peers::run(args),
        Command::Replay(args) => replay::run(&args),
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
