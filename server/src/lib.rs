//! The `slabring` server: reads its options, starts a node, waits for its end. A library only so that a fuzzer can reach it.
#![deny(unsafe_code)]
#![expect(unreachable_pub, reason = "a server has no outside: `pub` here means beyond the module")]

// The process: what was asked for, and what it opens before it serves.
mod listeners;
mod log;
mod memory_file;
mod options;
mod pid_file;
mod rehearsal;
mod reload;
mod tls;

// A node and its threads, and what they share.
mod arrivals;
mod control;
mod crew;
mod discovery;
mod downfall;
mod live;
mod machine;
mod node;
mod pulse;
mod shard_thread;
mod shards;
mod tuning;

// A client: from its bytes to requests, and its replies on their way out.
mod auth;
mod budget;
mod connection;
mod datagrams;
mod dispatch;
mod gather;
mod outbox;
mod pipeline;
mod session;
mod unkeyed;

// Values too long for a buffer.
mod extending;
mod intake;
mod lending;

// Letters between shards.
mod batch;
mod post;

// Requests executed by the shard that owns the key.
mod execute;
mod exptime;
mod owned;

// Who hears of requests beside who sent them, some of it bit by bit.
mod attention;
mod dump;
mod hotkeys;
mod observe;
mod prefixes;
mod track;
mod tracked;
mod watch;

// Other nodes.
mod cluster;
mod front;
mod locks;
mod replication;

// What operators ask.
mod admin;
mod census;
mod report;
mod stats;
mod turns;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

use std::fmt;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use slabring_reactor::backend::Backend;
use slabring_reactor::process::{User, detach, lock_memory};
use slabring_reactor::thread::return_large_buffers;
use tracing::warn;

use crate::listeners::Listeners;
use crate::node::{Files, Node, raise_limits};
use crate::options::{EXIT_FAILURE, Refused, Settings, Sources, version_line};
use crate::pid_file::PidFile;

const LICENSE: &str = include_str!("../../LICENSE");

/// All of the program.
pub fn main() -> ExitCode {
    let sources = Sources::of_process();
    match run(&sources) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(Refused { text, exit_code: 0 }) => match print(text) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(EXIT_FAILURE),
            },
            refused => {
                tell(format_args!("slabring: {error:#}"));
                ExitCode::from(refused.map_or(EXIT_FAILURE, |refused| refused.exit_code))
            }
        },
    }
}

fn run(sources: &Sources) -> Result<()> {
    let check_only = sources.ask_only();
    let refuse = |refused: Refused| Refused {
        // Who only asks wants a yes or a no.
        exit_code: if check_only { refused.exit_code.min(EXIT_FAILURE) } else { refused.exit_code },
        ..refused
    };
    let mut given = sources.read().map_err(refuse)?;
    if given.arguments.version || given.arguments.license {
        let text = if given.arguments.version { version_line() + "\n" } else { LICENSE.into() };
        return print(&text).context("cannot write to stdout");
    }
    let settings = given.settings(sources).map_err(refuse)?;
    let files = Files::read(&settings).map_err(refuse)?;
    if check_only {
        rehearsal::rehearse(&settings).map_err(refuse)?;
        given.warnings.iter().for_each(|warning| tell(format_args!("slabring: {warning}")));
        return print(&given.listing(&settings)).context("cannot write to stdout");
    }
    serve(settings, files, sources, &given.warnings)
}

/// Writes to stdout. Who has closed it wants to know no more.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a line to stderr, if somebody still reads that.
pub fn tell(line: fmt::Arguments<'_>) {
    match writeln!(io::stderr(), "{line}") {
        Ok(()) | Err(_) => {}
    }
}

/// Runs a node to its end. There are no threads before the process has become what it will be.
fn serve(settings: Settings, files: Files, sources: &Sources, warnings: &[String]) -> Result<()> {
    let detached = settings.daemon.then(detach).transpose().context("-d: cannot go into the background")?;
    return_large_buffers();
    downfall::end_with_any_panic();
    log::start(settings.verbosity);
    // A file that may not grow (ulimit -f) is an error of the write, which says so, and not the end of the process.
    flag::register(SIGXFSZ, Arc::default()).context("cannot catch SIGXFSZ")?;
    warnings.iter().for_each(|warning| warn!("{warning}"));
    raise_limits(&settings)?;
    // Whoever finds a port open may send a signal: it is minded when the node runs.
    let signals = signals()?;
    let listeners = Listeners::open(&settings)?;
    if let Some(path) = &settings.port_file {
        listeners.write_ports(path)?;
    }
    let _pid_file = settings.pid_file.as_deref().map(PidFile::write).transpose()?;
    if settings.lock_memory
        && let Err(error) = lock_memory()
    {
        warn!("-k: memory is not locked: {error}; raise its limit (ulimit -l, LimitMEMLOCK)");
    }
    settings.user.as_deref().map_or(Ok(()), become_user)?;
    let quiet = settings.verbosity == 0;
    let running = node::start(settings, sources.clone(), files, listeners, signals)?;
    tell(format_args!("{}", banner(running.node())));
    if let Some(detached) = detached {
        std::env::set_current_dir("/").context("-d: cannot leave the directory")?;
        detached.ready(quiet).context("-d: cannot go into the background")?;
    }
    running.join()
}

fn become_user(name: &str) -> Result<()> {
    let Some(user) = User::find(name).with_context(|| format!("-u {name}: cannot look the user up"))? else {
        bail!("-u {name}: there is no such user");
    };
    user.assume().with_context(|| format!("-u {name}: cannot become that user"))
}

/// The signals that a node minds.
fn signals() -> Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGHUP]).context("cannot catch signals")
}

fn banner(node: &Node) -> String {
    let settings = &node.settings;
    let why = match node.choice.backend {
        Backend::Uring => node.choice.reason.clone(),
        Backend::Epoll => format!("because {}", node.choice.reason),
    };
    format!(
        "slabring {} (memcached {} protocol): {} shard{}, {} MiB, {} ({why}), listening on {}{}",
        stats::SLABRING_VERSION,
        stats::MEMCACHED_VERSION,
        settings.threads,
        if settings.threads == 1 { "" } else { "s" },
        settings.memory_bytes >> 20,
        node.choice.backend,
        node.addresses,
        settings.shard_ports.map_or(String::new(), |base| {
            format!(", its shards on the ports {base} to {}", base + (settings.threads - 1))
        }),
    )
}
