//! The line on a terminal that shows how a run goes, once a second. On anything but a terminal it shows nothing.

use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the line changes.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// The line of one phase of a run.
pub(crate) struct Progress {
    bar: ProgressBar,
    replies_before: u64,
}

impl Progress {
    /// A line that is full at `length`, in whatever unit [`Progress::show`] is told.
    pub(crate) fn new(phase: &'static str, length: u64, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template("{prefix:8} [{bar:30}] {percent:>3} %  {msg}")
            .expect("a constant template that is valid");
        let bar = ProgressBar::with_draw_target(Some(length), target).with_style(style).with_prefix(phase);
        Self { bar, replies_before: 0 }
    }

    /// Shows `position` and the rate since a [`TICK`] ago, of `replies` in total.
    pub(crate) fn show(&mut self, position: u64, replies: u64) {
        let rate = replies - self.replies_before;
        self.replies_before = replies;
        self.bar.set_position(position);
        self.bar.set_message(format!("{} requests/s", HumanCount(rate)));
        self.bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
