//! The log on stderr and its level, which may change while the node runs.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Starts the log. Called once.
pub fn start(verbosity: usize) {
    let (filter, handle) = reload::Layer::new(level_of(verbosity));
    let is_terminal = std::io::stderr().is_terminal();
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal).with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    LEVEL.set(handle).expect("the log is started once");
}

/// Changes how much is logged from here on.
pub fn set_verbosity(verbosity: usize) {
    if let Some(Err(error)) = LEVEL.get().map(|level| level.reload(level_of(verbosity))) {
        tracing::warn!("the log level stays: {error}");
    }
}

fn level_of(verbosity: usize) -> LevelFilter {
    match verbosity {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}
