//! Judges what clients saw of a number that only grows, by one at a time. It is what a register cannot show: writes that depend on what was
//! there, with outcomes that nobody knows. Never talks to a server.

/// One addition or one look. Of a look without an answer nothing is known: leave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Whether one was added.
    pub adds: bool,
    /// When it was sent, by one clock for all clients.
    pub asked_at: u64,
    /// When the answer was there, and the number then; `None`: whether it was added is unknown.
    pub done: Option<(u64, u64)>,
}

/// Why it cannot be, as positions of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Two additions came to the same number: one of them was lost.
    Twice {
        /// One.
        one: usize,
        /// The other.
        other: usize,
    },
    /// The later one shows a lower number, although the earlier one was over before it began.
    Fell {
        /// The earlier one.
        before: usize,
        /// The later one.
        after: usize,
    },
    /// More than was ever asked for.
    TooMuch {
        /// Who shows it.
        at: usize,
    },
}

/// The first fault of a number that began at 0. O(n log n).
pub fn check(counts: &[Count]) -> Option<Fault> {
    twice(counts).or_else(|| fell(counts)).or_else(|| too_much(counts))
}

/// Answered operations as number, time of the answer and position.
fn answered(counts: &[Count]) -> impl Iterator<Item = (u64, u64, usize)> {
    let answer = |(at, count): (usize, &Count)| count.done.map(|(done_at, number)| (number, done_at, at));
    counts.iter().enumerate().filter_map(answer)
}

fn twice(counts: &[Count]) -> Option<Fault> {
    let mut added: Vec<_> = answered(counts).filter(|&(.., at)| counts[at].adds).collect();
    added.sort_unstable();
    let pair = added.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
    Some(Fault::Twice { one: pair[0].2, other: pair[1].2 })
}

fn fell(counts: &[Count]) -> Option<Fault> {
    let mut by_end: Vec<_> = answered(counts).collect();
    let mut by_start = by_end.clone();
    by_end.sort_unstable_by_key(|&(_, done_at, _)| done_at);
    by_start.sort_unstable_by_key(|&(.., at)| counts[at].asked_at);
    let (mut ended, mut floor) = (by_end.into_iter().peekable(), None);
    for (number, _, after) in by_start {
        while let Some((number, _, at)) = ended.next_if(|&(_, done_at, _)| done_at < counts[after].asked_at) {
            floor = floor.max(Some((number, at)));
        }
        let Some((highest, before)) = floor else { continue };
        if number < highest || (number == highest && counts[after].adds) {
            return Some(Fault::Fell { before, after });
        }
    }
    None
}

fn too_much(counts: &[Count]) -> Option<Fault> {
    let mut asked: Vec<_> = counts.iter().filter(|count| count.adds).map(|count| count.asked_at).collect();
    asked.sort_unstable();
    let highest = |done_at: u64| asked.partition_point(|&asked_at| asked_at <= done_at);
    let is_made_up = |&(number, done_at, _): &(u64, u64, usize)| {
        usize::try_from(number).is_ok_and(|number| number > highest(done_at))
    };
    answered(counts).find(is_made_up).map(|(.., at)| Fault::TooMuch { at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(asked_at: u64, done_at: u64, number: u64) -> Count {
        Count { adds: true, asked_at, done: Some((done_at, number)) }
    }

    fn look(asked_at: u64, done_at: u64, number: u64) -> Count {
        Count { adds: false, ..add(asked_at, done_at, number) }
    }

    fn unknown(asked_at: u64) -> Count {
        Count { adds: true, asked_at, done: None }
    }

    #[test]
    fn what_nobody_heard_of_may_count_or_not() {
        assert_eq!(check(&[unknown(1), add(2, 3, 1), look(4, 5, 1)]), None);
        assert_eq!(check(&[unknown(1), add(2, 3, 2), look(4, 5, 2)]), None);
        assert_eq!(check(&[unknown(1), add(2, 3, 3)]), Some(Fault::TooMuch { at: 1 }));
    }

    #[test]
    fn a_lost_addition_is_found_by_the_next_one() {
        assert_eq!(check(&[add(1, 2, 1), add(3, 4, 1)]), Some(Fault::Twice { one: 0, other: 1 }));
        assert_eq!(
            check(&[add(1, 2, 1), add(3, 4, 2), look(5, 6, 1)]),
            Some(Fault::Fell { before: 1, after: 2 })
        );
        assert_eq!(
            check(&[look(1, 2, 1), add(1, 3, 2), add(4, 5, 1)]),
            Some(Fault::Fell { before: 1, after: 2 })
        );
    }

    #[test]
    fn what_overlaps_may_be_seen_in_any_order() {
        assert_eq!(check(&[add(1, 9, 2), add(1, 8, 1), look(2, 7, 1), look(2, 6, 2)]), None);
    }
}
