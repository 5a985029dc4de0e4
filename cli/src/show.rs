//! How a change of a cluster is shown while somebody waits: a bar on a terminal, lines without one, JSON for programs. Never knows
//! what the change is.

use std::io::{self, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use slabring_client::cluster::ring::Progress;

use crate::waits::{self, Wait};

/// One moment of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The ring's number.
    pub(crate) epoch: u64,
    /// What is happening, or waited for.
    pub(crate) what: String,
    /// What moves, if something does.
    pub(crate) progress: Option<Progress>,
    /// Whom it waits for.
    pub(crate) waits: Vec<Wait>,
    /// Whether nothing is left to do.
    pub(crate) is_done: bool,
}

/// What is going to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In words.
    pub(crate) text: String,
    /// What moves, as far as it can be told.
    pub(crate) progress: Option<Progress>,
    /// Copies of a partition that the ring wants, and how many the worst has afterwards.
    pub(crate) copies: (usize, usize),
}

impl Plan {
    fn json(&self) -> Value {
        json!({
            "plan": self.text,
            "partitions": self.progress.map(|progress| progress.moving),
            "copies_made": self.progress.map(|progress| progress.copies),
            "copies_wanted": self.copies.0,
            "copies_left": self.copies.1,
            "done": false,
        })
    }
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

    /// Tells what comes before anything happens.
    pub(crate) fn announce(&self, plan: &Plan) -> io::Result<()> {
        match self {
            Self::Json => writeln!(io::stdout(), "{}", plan.json()),
            Self::Lines | Self::Bar(_) => writeln!(io::stdout(), "{}", plan.text),
        }
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
    shown.set_message(what_of(moment));
    shown.tick();
    Ok(())
}

fn line_of(moment: &Moment) -> String {
    let moved = moment.progress.filter(|progress| progress.moving > 0);
    let moved = moved.map_or_else(String::new, |Progress { moving, moved, .. }| {
        format!(", {moved} of {moving} partitions")
    });
    let waits = waits::line(&moment.waits).map_or_else(String::new, |waits| format!("; {waits}"));
    format!("epoch {}: {}{moved}{waits}", moment.epoch, moment.what)
}

fn what_of(moment: &Moment) -> String {
    waits::line(&moment.waits)
        .map_or_else(|| moment.what.clone(), |waits| format!("{}; {waits}", moment.what))
}

fn json_of(moment: &Moment) -> Value {
    json!({
        "epoch": moment.epoch,
        "what": moment.what,
        "partitions": moment.progress.map(|progress| progress.moving),
        "moved": moment.progress.map(|progress| progress.moved),
        "waits_for": moment.waits.iter().map(Wait::json).collect::<Vec<_>>(),
        "done": moment.is_done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_one_line_for_people_and_one_for_programs() {
        let progress = Some(Progress { moving: 4_000, moved: 256, copies: 4_000 });
        let moment = Moment {
            epoch: 9,
            what: "n3 is draining".to_owned(),
            progress,
            waits: Vec::new(),
            is_done: false,
        };
        assert_eq!(line_of(&moment), "epoch 9: n3 is draining, 256 of 4000 partitions");
        let expected = json!({
            "epoch": 9, "what": "n3 is draining", "partitions": 4_000, "moved": 256, "waits_for": [], "done": false,
        });
        assert_eq!(json_of(&moment), expected);
        let done =
            Moment { epoch: 10, what: "done".to_owned(), progress: None, waits: Vec::new(), is_done: true };
        assert_eq!(line_of(&done), "epoch 10: done");
    }
}
