//! How a change of a cluster is shown while somebody waits: a bar on a terminal, lines without one, JSON for programs. Never knows
//! what the change is.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use slabring_client::cluster::ring::Progress;

/// One moment of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The ring's number.
    pub(crate) epoch: u64,
    /// What is happening, or waited for.
    pub(crate) what: String,
    /// What moves, if something does.
    pub(crate) progress: Option<Progress>,
    /// Whether nothing is left to do.
    pub(crate) is_done: bool,
}

/// Where it is shown.
#[derive(Debug)]
pub(crate) enum Show {
    /// A bar on standard error.
    Bar(Option<ProgressBar>),
    /// A line for each change on standard output.
    Lines,
    /// A JSON object for each change, one a line.
    Json,
}

impl Show {
    /// As the program's user has it.
    pub(crate) fn new(json: bool) -> Self {
        match json {
            true => Self::Json,
            false if io::stderr().is_terminal() && io::stdout().is_terminal() => Self::Bar(None),
            false => Self::Lines,
        }
    }

    /// Tells people what comes before anything happens; programs know it.
    pub(crate) fn announce(&self, text: &str) -> io::Result<()> {
        if matches!(self, Self::Json) { Ok(()) } else { writeln!(io::stdout(), "{text}") }
    }

    /// Shows a moment that differs from the one before.
    pub(crate) fn show(&mut self, moment: &Moment) -> io::Result<()> {
        match self {
            Self::Json => writeln!(io::stdout(), "{}", json_of(moment)),
            Self::Lines => writeln!(io::stdout(), "{}", line_of(moment)),
            Self::Bar(bar) => draw(bar, moment),
        }
    }
}

fn draw(bar: &mut Option<ProgressBar>, moment: &Moment) -> io::Result<()> {
    if moment.is_done {
        bar.take().iter().for_each(ProgressBar::finish_and_clear);
        return writeln!(io::stdout(), "{}", line_of(moment));
    }
    let length = |count: usize| u64::try_from(count).expect("64-bit");
    let Progress { moving, moved, .. } =
        moment.progress.unwrap_or(Progress { moving: 0, moved: 0, copies: 0 });
    let shown = bar.get_or_insert_with(|| ProgressBar::new(0));
    let template = if moving > 0 {
        "{elapsed_precise} [{bar:40}] {pos}/{len} partitions, {msg}"
    } else {
        "{elapsed_precise} {spinner} {msg}"
    };
    shown.set_style(ProgressStyle::with_template(template).expect("a template that is good once is good"));
    shown.set_length(length(moving));
    shown.set_position(length(moved));
    shown.set_message(moment.what.clone());
    shown.tick();
    Ok(())
}

fn line_of(moment: &Moment) -> String {
    let moved = moment.progress.filter(|progress| progress.moving > 0);
    let moved = moved.map_or_else(String::new, |Progress { moving, moved, .. }| {
        format!(", {moved} of {moving} partitions")
    });
    format!("epoch {}: {}{moved}", moment.epoch, moment.what)
}

fn json_of(moment: &Moment) -> Value {
    json!({
        "epoch": moment.epoch,
        "what": moment.what,
        "partitions": moment.progress.map(|progress| progress.moving),
        "moved": moment.progress.map(|progress| progress.moved),
        "done": moment.is_done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_one_line_for_people_and_one_for_programs() {
        let progress = Some(Progress { moving: 4_000, moved: 256, copies: 4_000 });
        let moment = Moment { epoch: 9, what: "n3 is draining".to_owned(), progress, is_done: false };
        assert_eq!(line_of(&moment), "epoch 9: n3 is draining, 256 of 4000 partitions");
        let expected = json!({
            "epoch": 9, "what": "n3 is draining", "partitions": 4_000, "moved": 256, "done": false,
        });
        assert_eq!(json_of(&moment), expected);
        let done = Moment { epoch: 10, what: "done".to_owned(), progress: None, is_done: true };
        assert_eq!(line_of(&done), "epoch 10: done");
    }
}
