//! What `docs/replication.md` promises in each mode, held against what clients saw. Knows nothing of how the cluster came to do it.

use std::collections::BTreeMap;
use std::time::Duration;

use slabring_tests::clients::{Asked, Event, Habits, Outcome, Use};
use slabring_tests::counter::{self, Count};
use slabring_tests::history::{self, Action, Fault, Operation};

/// What a write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Async,
    Inval,
    Sync,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Async, Self::Inval, Self::Sync];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Inval => "inval",
            Self::Sync => "sync",
        }
    }
}

/// What happened to the cluster meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) mode: Mode,
    /// A member was taken out of the ring or began another life. Until then every mode shows what is written.
    pub(crate) was_disturbed: bool,
    /// Somebody who was replaced may have gone on answering.
    pub(crate) was_split: bool,
    /// Items may have been evicted.
    pub(crate) may_evict: bool,
    /// When clients began in earnest, by their clock: errors count from then on.
    pub(crate) begun_at: u64,
    /// When it was whole again.
    pub(crate) whole_at: u64,
}

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What must not be, in words.
    pub(crate) violations: Vec<String>,
    pub(crate) operations: usize,
    /// Answers that are no use to a client, by their text.
    pub(crate) errors: BTreeMap<String, usize>,
    /// Reads of what had surely been replaced before.
    pub(crate) stale: usize,
    /// Keys whose acknowledged writes are not there in the end.
    pub(crate) lost: usize,
    /// The longest time from an error to a good answer for the same key.
    pub(crate) unavailable: Duration,
}

/// Holds what clients saw against what is promised.
pub(crate) fn judge(events: &[Event], habits: &Habits, course: Course) -> Findings {
    let mut findings = Findings { operations: events.len(), ..Findings::default() };
    let in_earnest: Vec<_> = events.iter().filter(|event| event.asked_at >= course.begun_at).collect();
    for event in &in_earnest {
        match &event.outcome {
            Outcome::Done(..) | Outcome::Not => {}
            Outcome::Refused(why) | Outcome::Doubt(why) => {
                *findings.errors.entry(why.clone()).or_default() += 1;
            }
            Outcome::Nonsense(what) => findings.violations.push(format!("unexpected answer: {what}")),
        }
    }
    findings.unavailable = unavailable(&in_earnest);
    judge_registers(&registers(events, habits), habits, course, &mut findings);
    for key in (0..habits.keys()).filter(|&key| habits.usage(key) == Use::Counted) {
        judge_counter(key, &counts(events, key), course, &mut findings);
    }
    let lost = (0..habits.keys()).filter(|&key| is_lost(events, habits, key)).collect::<Vec<_>>();
    findings.lost += lost.len();
    if course.shows_everything() && !course.may_evict && !lost.is_empty() {
        findings.violations.push(format!("acknowledged and not there in the end: keys {lost:?}"));
    }
    findings
}

impl Course {
    /// Whether no acknowledged write may be lost, for however short a time.
    fn shows_everything(self) -> bool {
        self.mode == Mode::Sync || !self.was_disturbed
    }
}

fn judge_registers(registers: &[Operation], habits: &Habits, course: Course, findings: &mut Findings) {
    let stale = history::stale(registers, |_| true);
    findings.stale = stale.len();
    // A value out of nowhere, or another one under the same version, is right in no mode.
    let swept = history::sweep(registers);
    let is_wrong = !matches!(swept, None | Some(Fault::VersionFell { .. }));
    if let Some(fault) = swept.filter(|_| is_wrong || course.shows_everything()) {
        findings.violations.push(format!("{fault:?}: {}", describe(registers, &fault)));
    }
    if course.shows_everything() {
        if let Some(&at) = stale.first() {
            findings.violations.push(format!("{} stale reads: {}", stale.len(), story(registers, at)));
        }
        if let Some(fault) = history::check(registers) {
            findings.violations.push(format!("{fault:?} ({:?})", first_key(&fault, habits)));
        }
    } else if course.mode == Mode::Inval {
        let is_invalidating = |op: &Operation| matches!(op.action, Action::Delete | Action::Swap(..));
        let counts = |at: &usize| !course.was_split || registers[*at].asked_at > course.whole_at;
        let stale: Vec<_> = history::stale(registers, is_invalidating).into_iter().filter(counts).collect();
        if let Some(&at) = stale.first() {
            let text = format!("{} reads of what was invalidated: {}", stale.len(), story(registers, at));
            findings.violations.push(text);
        }
    }
}

fn first_key(fault: &Fault, habits: &Habits) -> Option<Use> {
    if let Fault::NoOrder { key } = fault { Some(habits.usage(*key)) } else { None }
}

/// Where a number may not go back: in `inval`, whatever is acknowledged is with all copies.
fn judge_counter(key: u64, counts: &[Count], course: Course, findings: &mut Findings) {
    let is_kept = course.shows_everything() || (course.mode == Mode::Inval && !course.was_split);
    let Some(fault) = counter::check(counts) else { return };
    if is_kept || matches!(fault, counter::Fault::TooMuch { .. }) {
        findings.violations.push(format!("key{key}: {fault:?}"));
    } else {
        findings.lost += 1;
    }
}

/// Operations on keys that are no counters, as the checkers take them.
fn registers(events: &[Event], habits: &Habits) -> Vec<Operation> {
    let is_register = |event: &&Event| habits.usage(event.key) != Use::Counted;
    events.iter().filter(is_register).filter_map(operation).collect()
}

fn operation(event: &Event) -> Option<Operation> {
    let (value, version, done_at) = match &event.outcome {
        Outcome::Done(value, version) => (*value, *version, Some(event.done_at)),
        Outcome::Not if event.asked == Asked::Read => (None, None, Some(event.done_at)),
        Outcome::Doubt(_) | Outcome::Nonsense(_) if event.asked != Asked::Read => (None, None, None),
        Outcome::Not | Outcome::Refused(_) | Outcome::Doubt(_) | Outcome::Nonsense(_) => return None,
    };
    let action = match event.asked {
        Asked::Read => Action::Read(value),
        Asked::Write(value) => Action::Write(value),
        Asked::Swap(from, to) => Action::Swap(from, to),
        Asked::Delete => Action::Delete,
        Asked::Add => return None,
    };
    Some(Operation { key: event.key, action, asked_at: event.asked_at, done_at, version })
}

fn counts(events: &[Event], key: u64) -> Vec<Count> {
    let count = |event: &Event| {
        let adds = event.asked == Asked::Add;
        let done = match (&event.outcome, event.asked) {
            (Outcome::Done(Some(number), _), Asked::Read | Asked::Add) => Some((event.done_at, *number)),
            (Outcome::Doubt(_), Asked::Add) => None,
            _ => return None,
        };
        Some(Count { adds, asked_at: event.asked_at, done })
    };
    events.iter().filter(|event| event.key == key).filter_map(count).collect()
}

/// Whether the last look at a key, in the end, finds nothing or something old, although nobody deleted it.
fn is_lost(events: &[Event], habits: &Habits, key: u64) -> bool {
    let is_answered_look = |event: &&Event| event.asked == Asked::Read && event.outcome.is_good();
    let of_key = || events.iter().filter(|event| event.key == key);
    let Some(last) = of_key().filter(is_answered_look).max_by_key(|event| event.asked_at) else {
        return false;
    };
    let is_deleted = habits.usage(key) == Use::Deleted;
    match last.outcome {
        Outcome::Not => !is_deleted,
        _ if habits.usage(key) == Use::Counted => false,
        _ => {
            let history: Vec<_> = of_key().filter_map(operation).collect();
            let is_last = |&at: &usize| history[at].asked_at == last.asked_at;
            history::stale(&history, |_| true).iter().any(is_last)
        }
    }
}

/// The longest time from an error to the end of the next good answer for its key.
fn unavailable(events: &[&Event]) -> Duration {
    let mut by_key: BTreeMap<u64, Vec<&Event>> = BTreeMap::new();
    for event in events {
        by_key.entry(event.key).or_default().push(event);
    }
    let mut longest = 0;
    for events in by_key.values_mut() {
        events.sort_by_key(|event| event.asked_at);
        let mut since = None;
        for event in events {
            if !event.outcome.is_good() {
                since.get_or_insert(event.asked_at);
            } else if let Some(since) = since.take() {
                longest = longest.max(event.done_at - since);
            }
        }
    }
    Duration::from_nanos(longest)
}

fn describe(history: &[Operation], fault: &Fault) -> String {
    match *fault {
        Fault::NeverWritten { read } => format!("{:?}", history[read]),
        Fault::VersionFell { before, after } => format!("{:?} then {:?}", history[before], history[after]),
        Fault::TwoValues { one, other } => format!("{:?} and {:?}", history[one], history[other]),
        Fault::NoOrder { key } => format!("key{key}"),
    }
}

/// What clients saw of a key around an operation: its value's write, and what was done and asked beside.
fn story(history: &[Operation], at: usize) -> String {
    const BEFORE: usize = 12;
    let op = history[at];
    let mut of_key: Vec<_> = history.iter().filter(|other| other.key == op.key).collect();
    of_key.sort_by_key(|other| other.asked_at);
    let here = of_key.partition_point(|other| other.asked_at <= op.asked_at);
    let mut text = String::new();
    if let Action::Read(Some(value)) | Action::Swap(value, _) = op.action {
        let wrote = |other: &&&Operation| matches!(other.action, Action::Write(new) | Action::Swap(_, new) if new == value);
        text +=
            &of_key.iter().find(wrote).map(|write| format!("\n  written by {write:?}")).unwrap_or_default();
    }
    for other in &of_key[here.saturating_sub(BEFORE)..(here + 2).min(of_key.len())] {
        text += &format!("\n  {other:?}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Course = Course {
        mode: Mode::Sync,
        was_disturbed: true,
        was_split: false,
        may_evict: false,
        begun_at: 0,
        whole_at: 1_000,
    };
    /// By [`Habits::default`].
    const KEPT: u64 = 1;
    const DELETED: u64 = 41;
    const COUNTED: u64 = 61;

    /// One after the other; each takes ten from its question to its answer.
    fn told(story: &[(u64, Asked, Option<u64>)]) -> Vec<Event> {
        let event = |(at, &(key, asked, shown)): (u64, &(u64, Asked, Option<u64>))| {
            let is_miss = asked == Asked::Read && shown.is_none();
            let outcome = if is_miss { Outcome::Not } else { Outcome::Done(shown, None) };
            Event { key, asked, asked_at: at * 20, done_at: at * 20 + 10, outcome }
        };
        (1..).zip(story).map(event).collect()
    }

    fn wrong(events: &[Event], course: Course) -> usize {
        judge(events, &Habits::default(), course).violations.len()
    }

    #[track_caller]
    fn check(story: &[(u64, Asked, Option<u64>)], wrong_in: [bool; 3]) {
        for (mode, is_wrong) in Mode::ALL.into_iter().zip(wrong_in) {
            assert_eq!(wrong(&told(story), Course { mode, ..QUIET }) > 0, is_wrong, "{mode:?}");
            let undisturbed = Course { mode, was_disturbed: false, ..QUIET };
            assert_eq!(wrong(&told(story), undisturbed) > 0, wrong_in[2], "{mode:?} where nothing happened");
        }
    }

    #[test]
    fn a_stale_read_is_wrong_where_every_write_waits_for_copies() {
        let write = |value| (KEPT, Asked::Write(value), None);
        check(&[write(1), write(2), (KEPT, Asked::Read, Some(2))], [false, false, false]);
        check(&[write(1), write(2), (KEPT, Asked::Read, Some(1))], [false, false, true]);
    }

    #[test]
    fn a_lost_write_is_wrong_where_every_write_waits_for_copies_unless_items_are_evicted() {
        let story = [(KEPT, Asked::Write(1), None), (KEPT, Asked::Read, None)];
        check(&story, [false, false, true]);
        assert_eq!(wrong(&told(&story), Course { may_evict: true, ..QUIET }), 0);
    }

    #[test]
    fn a_deletion_that_is_undone_is_wrong_where_deletions_wait_for_copies() {
        let write = (DELETED, Asked::Write(1), None);
        check(&[write, (DELETED, Asked::Delete, None), (DELETED, Asked::Read, Some(1))], [false, true, true]);
        check(&[write, (DELETED, Asked::Read, None), (DELETED, Asked::Read, Some(1))], [false, false, false]);
    }

    #[test]
    fn what_was_swapped_does_not_return_where_swaps_wait_for_copies() {
        let (write, swap) = ((KEPT, Asked::Write(1), None), (KEPT, Asked::Swap(1, 2), None));
        check(&[write, swap, (KEPT, Asked::Read, Some(1))], [false, true, true]);
    }

    #[test]
    fn a_lost_addition_is_wrong_where_additions_wait_for_copies() {
        let add = |number| (COUNTED, Asked::Add, Some(number));
        check(&[add(1), add(2), (COUNTED, Asked::Read, Some(2))], [false, false, false]);
        check(&[add(1), add(2), (COUNTED, Asked::Read, Some(1))], [false, true, true]);
        check(&[add(1), add(1)], [false, true, true]);
    }

    #[test]
    fn who_was_replaced_may_answer_until_the_cluster_is_whole() {
        let story = [
            (DELETED, Asked::Write(1), None),
            (DELETED, Asked::Delete, None),
            (DELETED, Asked::Read, Some(1)),
        ];
        let split = Course { mode: Mode::Inval, was_split: true, ..QUIET };
        assert_eq!(wrong(&told(&story), split), 0);
        assert_eq!(wrong(&told(&story), Course { whole_at: 50, ..split }), 1);
    }

    #[test]
    fn what_nobody_wrote_and_what_nobody_expects_is_wrong_everywhere() {
        check(&[(KEPT, Asked::Read, Some(7))], [true, true, true]);
        let mut events = told(&[(KEPT, Asked::Write(1), None), (KEPT, Asked::Read, Some(1))]);
        events[1].outcome = Outcome::Nonsense("ERROR".into());
        assert!(Mode::ALL.into_iter().all(|mode| wrong(&events, Course { mode, ..QUIET }) > 0));
    }

    #[test]
    fn a_key_is_away_from_its_first_error_to_its_next_answer() {
        let mut events = told(&[(KEPT, Asked::Read, None); 4]);
        events[1].outcome = Outcome::Refused("no".into());
        events[2].outcome = Outcome::Doubt("no".into());
        let findings = judge(&events, &Habits::default(), QUIET);
        assert_eq!(findings.unavailable, Duration::from_nanos(50));
        assert_eq!(findings.errors["no"], 2);
    }
}
