//! The `slabring` server: reads its options, starts a node, waits for its end.
#![forbid(unsafe_code)]
#![expect(unreachable_pub, reason = "a binary has no outside: `pub` here means beyond the module")]

mod batch;
mod budget;
mod connection;
mod control;
mod dispatch;
mod execute;
mod exptime;
mod gather;
mod node;
mod options;
mod outbox;
mod post;
mod report;
mod shard_thread;
mod shards;
mod stats;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use slabring_reactor::backend::Backend;
use slabring_reactor::thread::return_large_buffers;
use tracing::level_filters::LevelFilter;

use crate::node::Node;
use crate::options::{Arguments, Settings};

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slabring: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let settings = arguments.settings()?;
    return_large_buffers();
    start_log(&settings);
    let running = node::start(settings, signals()?)?;
    eprintln!("{}", banner(running.node()));
    running.join()
}

/// The signals that end a node.
fn signals() -> Result<Signals> {
    Signals::new([SIGTERM, SIGINT]).context("cannot catch signals")
}

fn start_log(settings: &Settings) {
    let level = match settings.verbosity {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}

fn banner(node: &Node) -> String {
    let settings = &node.settings;
    let addresses: Vec<_> = settings.listen.iter().map(ToString::to_string).collect();
    let why = match node.choice.backend {
        Backend::Uring => node.choice.reason.clone(),
        Backend::Epoll => format!("because {}", node.choice.reason),
    };
    format!(
        "slabring {} (memcached {} protocol): {} shard{}, {} MiB, {} ({why}), listening on {}",
        stats::SLABRING_VERSION,
        stats::MEMCACHED_VERSION,
        settings.threads,
        if settings.threads == 1 { "" } else { "s" },
        settings.memory_bytes >> 20,
        node.choice.backend,
        addresses.join(", "),
    )
}
