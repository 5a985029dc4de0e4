//! The shortest part of a stream that two servers still answer differently.

use std::time::{Duration, Instant};

use super::answers::Dialect;
use super::stream::Batch;
use super::{Difference, Pair, play};

/// Time to look for something shorter.
const SHRINK_TIMEOUT: Duration = Duration::from_secs(30);

/// Leaves out what the difference does not need. Another difference that shows up on the way is as good as the first.
pub fn shrink(
    mut batches: Vec<Batch>,
    difference: Difference,
    pair: Pair<'_>,
    dialect: Dialect,
) -> (Vec<Batch>, Difference) {
    batches.truncate(difference.batch + 2);
    let mut smallest =
        Smallest { batches, difference, pair, dialect, deadline: Instant::now() + SHRINK_TIMEOUT };
    smallest.leave_out(<[Batch]>::len, |batches, from, to| drop(batches.drain(from..to)));
    let mut batch = 0;
    while batch < smallest.batches.len() {
        smallest.leave_out(
            |batches| batches.get(batch).map_or(0, |batch| batch.requests.len().saturating_sub(1)),
            |batches, from, to| drop(batches[batch].requests.drain(from..to)),
        );
        smallest.try_with(|batches| batches[batch].is_held = false);
        smallest.try_with(|batches| batches[batch].cuts_seed = None);
        smallest.try_with(|batches| drop(batches[batch].requests.pop()));
        batch += 1;
    }
    (smallest.batches, smallest.difference)
}

struct Smallest<'a> {
    batches: Vec<Batch>,
    difference: Difference,
    pair: Pair<'a>,
    dialect: Dialect,
    deadline: Instant,
}

impl Smallest<'_> {
    /// Leaves out ranges of `count` parts, long ones first.
    fn leave_out(
        &mut self,
        count: impl Fn(&[Batch]) -> usize,
        leave_out: impl Fn(&mut Vec<Batch>, usize, usize),
    ) {
        let mut length = count(&self.batches);
        while length > 0 {
            let mut from = 0;
            while from < count(&self.batches) {
                let to = count(&self.batches).min(from + length);
                if !self.try_with(|batches| leave_out(batches, from, to)) {
                    from += length;
                }
            }
            length /= 2;
        }
    }

    /// Whether the servers still differ after a change, which is kept then.
    fn try_with(&mut self, change: impl FnOnce(&mut Vec<Batch>)) -> bool {
        let mut batches = self.batches.clone();
        change(&mut batches);
        if Instant::now() > self.deadline || batches.iter().any(|batch| batch.requests.is_empty()) {
            return false;
        }
        let Some(difference) = play(&batches, self.pair, self.dialect) else { return false };
        self.batches = batches;
        self.difference = difference;
        true
    }
}

/// A stream for a person: one line for each request.
pub fn describe(batches: &[Batch]) -> String {
    let mut text = String::new();
    for batch in batches {
        let held = if batch.is_held { ", first half of the first request sent early" } else { "" };
        let cuts = if batch.cuts_seed.is_some() { ", in pieces" } else { "" };
        text += &format!("  connection {}{cuts}{held}\n", batch.connection);
        for request in &batch.requests {
            text += &format!("    {}\n", request.describe());
        }
    }
    text
}
