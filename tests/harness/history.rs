//! Judges what clients saw of a cache, knowing nothing of how it works: real-time order of versions over millions of operations, and for
//! one key at a time whether all of it could have happened one after the other. Never talks to a server.
//!
//! A miss says nothing, since any item may be evicted at any time, and an operation without an answer may have happened at any time
//! after it was asked for, or never.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What [`check_key`] tries at most. Histories that break where many operations overlap would take for ever.
const STEPS_MAX: u64 = 2_000_000;

/// What a client asked for. Values are numbers: each write of a history writes another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read this value; `None`: missed.
    Read(Option<u64>),
    /// Wrote this value, whatever was there.
    Write(u64),
    /// Replaced one value by another, if it was there.
    Swap(u64, u64),
    /// Deleted, whatever was there.
    Delete,
}

/// One operation of one client on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// On which key.
    pub key: u64,
    /// What it did. Of a read or a swap that has no answer nothing is known, and of a swap that failed: leave them out.
    pub action: Action,
    /// When it was sent, by one clock for all clients.
    pub asked_at: u64,
    /// When the answer was there; `None`: the outcome is unknown.
    pub done_at: Option<u64>,
    /// The version (CAS number) that the answer named, if it did.
    pub version: Option<u64>,
}

/// Why a history is impossible, as positions of operations in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read gave a value that nobody wrote to the key, or only later.
    NeverWritten {
        /// The read.
        read: usize,
    },
    /// The later one names a lower version, although the earlier one was over before it began.
    VersionFell {
        /// The earlier one.
        before: usize,
        /// The later one.
        after: usize,
    },
    /// Two reads or writes of one version and different values.
    TwoValues {
        /// One.
        one: usize,
        /// The other.
        other: usize,
    },
    /// No order explains all operations of the key.
    NoOrder {
        /// Which key.
        key: u64,
    },
}

/// What became of judging a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains everything.
    Possible,
    /// There is none.
    Impossible,
    /// It would take too long to tell.
    Unknown,
}

/// The first fault that the order of versions, and what was written at all, show. For any number of operations: O(n log n).
pub fn sweep(history: &[Operation]) -> Option<Fault> {
    never_written(history).or_else(|| two_values(history)).or_else(|| version_fell(history))
}

/// Judges each key of a history by [`check_key`]. Keys that take too long count as possible; ten thousand operations of eight clients on
/// one key are judged in a second.
pub fn check(history: &[Operation]) -> Option<Fault> {
    let mut keys: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key).or_default().push(*operation);
    }
    let impossible = |operations: &Vec<Operation>| check_key(operations) == Verdict::Impossible;
    keys.iter().find(|(_, operations)| impossible(operations)).map(|(&key, _)| Fault::NoOrder { key })
}

/// Reads, and swaps by what they found, of a value that was surely not there any more: an operation that `counts` began after the
/// value's own write was over, and was over before the read began. As positions, in no order. For any number of operations: O(n log n).
pub fn stale(history: &[Operation], counts: impl Fn(&Operation) -> bool) -> Vec<usize> {
    let ends = ends(history);
    let counts =
        |at: &usize| history[*at].done_at.is_some() && replaces(history[*at].action) && counts(&history[*at]);
    let mut by_end: Vec<_> = (0..history.len()).filter(counts).collect();
    by_end.sort_by_key(|&at| history[at].done_at);
    let mut by_start: Vec<_> = (0..history.len()).filter(|&at| history[at].done_at.is_some()).collect();
    by_start.sort_by_key(|&at| history[at].asked_at);
    let mut floors: BTreeMap<u64, u64> = BTreeMap::new();
    let mut ended = by_end.into_iter().peekable();
    let mut stale = Vec::new();
    for at in by_start {
        let op = history[at];
        while let Some(before) = ended.next_if(|&before| history[before].done_at < Some(op.asked_at)) {
            let floor = floors.entry(history[before].key).or_default();
            *floor = (*floor).max(history[before].asked_at);
        }
        let end = found(op.action).and_then(|value| ends.get(&(op.key, value)));
        if end.zip(floors.get(&op.key)).is_some_and(|(end, floor)| end < floor) {
            stale.push(at);
        }
    }
    stale
}

/// When each value was surely written: its write was over, or somebody had read it.
fn ends(history: &[Operation]) -> BTreeMap<(u64, u64), u64> {
    let mut ends = BTreeMap::new();
    for op in history {
        let Some(done_at) = op.done_at else { continue };
        for value in [written(op.action), found(op.action)].into_iter().flatten() {
            let end = ends.entry((op.key, value)).or_insert(done_at);
            *end = (*end).min(done_at);
        }
    }
    ends
}

fn replaces(action: Action) -> bool {
    !matches!(action, Action::Read(_))
}

/// What was there.
fn found(action: Action) -> Option<u64> {
    match action {
        Action::Read(value) => value,
        Action::Swap(from, _) => Some(from),
        Action::Write(_) | Action::Delete => None,
    }
}

fn written(action: Action) -> Option<u64> {
    match action {
        Action::Write(value) | Action::Swap(_, value) => Some(value),
        Action::Read(_) | Action::Delete => None,
    }
}

fn shown(action: Action) -> Option<u64> {
    if let Action::Read(value) = action { value } else { written(action) }
}

fn never_written(history: &[Operation]) -> Option<Fault> {
    let writes = history.iter().filter_map(|op| Some(((op.key, written(op.action)?), op.asked_at)));
    let writes: BTreeMap<_, _> = writes.collect();
    let is_made_up = |op: &Operation| {
        let Action::Read(Some(value)) = op.action else { return false };
        let asked_at = writes.get(&(op.key, value));
        asked_at.is_none_or(|&asked_at| op.done_at.is_some_and(|done_at| done_at < asked_at))
    };
    history.iter().position(is_made_up).map(|read| Fault::NeverWritten { read })
}

fn two_values(history: &[Operation]) -> Option<Fault> {
    let mut known = BTreeMap::new();
    for (other, op) in history.iter().enumerate() {
        let (Some(version), Some(value)) = (op.version, shown(op.action)) else { continue };
        let (first, one) = *known.entry((op.key, version)).or_insert((value, other));
        if first != value {
            return Some(Fault::TwoValues { one, other });
        }
    }
    None
}

fn version_fell(history: &[Operation]) -> Option<Fault> {
    let done = |at: &usize| history[*at].done_at.is_some() && history[*at].version.is_some();
    let mut by_end: Vec<_> = (0..history.len()).filter(done).collect();
    let mut by_start = by_end.clone();
    by_end.sort_by_key(|&at| history[at].done_at);
    by_start.sort_by_key(|&at| history[at].asked_at);
    let mut floors: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    let mut ended = by_end.into_iter().peekable();
    for after in by_start {
        let op = history[after];
        while let Some(at) = ended.next_if(|&at| history[at].done_at < Some(op.asked_at)) {
            let version = history[at].version.unwrap_or_default();
            let floor = floors.entry(history[at].key).or_insert((version, at));
            *floor = (*floor).max((version, at));
        }
        if let Some(&(version, before)) = floors.get(&op.key)
            && op.version.is_some_and(|own| own < version)
        {
            return Some(Fault::VersionFell { before, after });
        }
    }
    None
}

/// Whether operations on one key, which begins without a value, could have happened one after the other, each between its question
/// and its answer.
///
/// Wing and Gong's search with Lowe's memory of states that led nowhere.
pub fn check_key(operations: &[Operation]) -> Verdict {
    // A miss fits everywhere.
    let says_something = |op: &Operation| op.action != Action::Read(None);
    let mut operations = settle(operations.iter().copied().filter(says_something).collect());
    operations.sort_by_key(|op| op.asked_at);
    let mut search = Search { operations: &operations, seen: HashSet::new(), steps: 0 };
    match search.explain() {
        Some(true) => Verdict::Possible,
        Some(false) => Verdict::Impossible,
        None => Verdict::Unknown,
    }
}

/// Decides about operations without an answer, of which each would double what there is to try. One whose value nobody found explains
/// nothing that is not explained without it, so it is left out; another was over when its value was found.
fn settle(mut operations: Vec<Operation>) -> Vec<Operation> {
    loop {
        let ends = ends(&operations);
        let mut is_settled = true;
        for op in operations.iter_mut().filter(|op| op.done_at.is_none()) {
            op.done_at = written(op.action).and_then(|value| ends.get(&(op.key, value)).copied());
            // A swap that is certain now says when its own value was there.
            is_settled &= op.done_at.is_none();
        }
        if is_settled {
            operations.retain(|op| op.done_at.is_some());
            return operations;
        }
    }
}

struct Search<'a> {
    /// In the order of their questions, all with an answer.
    operations: &'a [Operation],
    /// Where nothing explained the rest.
    seen: HashSet<Point>,
    steps: u64,
}

/// How far an order has come.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Point {
    /// All before this one have happened.
    first: usize,
    /// And these behind it.
    ahead: BTreeSet<usize>,
    value: Option<u64>,
}

impl Point {
    fn then(&self, at: usize, value: Option<u64>) -> Self {
        let mut next = Self { value, ..self.clone() };
        next.ahead.insert(at);
        while next.ahead.remove(&next.first) {
            next.first += 1;
        }
        next
    }
}

impl Search<'_> {
    /// Whether the operations have an order; `None`: too many steps.
    fn explain(&mut self) -> Option<bool> {
        let mut stack = vec![Point { first: 0, ahead: BTreeSet::new(), value: None }];
        while let Some(point) = stack.pop() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return None;
            }
            if point.first == self.operations.len() {
                return Some(true);
            }
            if !self.seen.insert(point.clone()) {
                continue;
            }
            // Whoever is next began before the first of the rest was over.
            let mut first_end = None;
            for at in (point.first..self.operations.len()).filter(|at| !point.ahead.contains(at)) {
                let op = self.operations[at];
                if first_end.is_some_and(|end| op.asked_at > end) {
                    break;
                }
                first_end = first_end.into_iter().chain(op.done_at).min();
                stack.extend(after(op.action, point.value).map(|value| point.then(at, value)));
            }
        }
        Some(false)
    }
}

/// The value after an action on `value`; `None`: it cannot happen there.
fn after(action: Action, value: Option<u64>) -> Option<Option<u64>> {
    match action {
        Action::Read(read) => (read == value || read.is_none()).then_some(value),
        Action::Write(written) => Some(Some(written)),
        Action::Swap(from, to) => (value == Some(from)).then_some(Some(to)),
        Action::Delete => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Delete, Read, Swap, Write};
    use super::*;

    fn op(asked_at: u64, done_at: u64, action: Action) -> Operation {
        let done_at = (done_at > 0).then_some(done_at);
        Operation { key: 1, action, asked_at, done_at, version: None }
    }

    #[track_caller]
    fn check_is(verdict: Verdict, operations: &[Operation]) {
        assert_eq!(check_key(operations), verdict);
    }

    #[test]
    fn what_overlaps_may_happen_in_any_order() {
        check_is(Verdict::Possible, &[op(1, 5, Write(1)), op(2, 6, Write(2)), op(7, 8, Read(Some(1)))]);
        check_is(Verdict::Possible, &[op(1, 5, Write(1)), op(2, 6, Write(2)), op(7, 8, Read(Some(2)))]);
    }

    #[test]
    fn an_overwritten_value_is_not_read_again() {
        check_is(Verdict::Impossible, &[op(1, 2, Write(1)), op(3, 4, Write(2)), op(5, 6, Read(Some(1)))]);
    }

    #[test]
    fn a_miss_is_always_possible_and_a_deleted_value_does_not_return() {
        check_is(Verdict::Possible, &[op(1, 2, Write(1)), op(3, 4, Read(None)), op(5, 6, Read(Some(1)))]);
        check_is(Verdict::Impossible, &[op(1, 2, Write(1)), op(3, 4, Delete), op(5, 6, Read(Some(1)))]);
    }

    #[test]
    fn an_unknown_write_happens_late_or_never_but_once() {
        let lost = op(1, 0, Write(9));
        check_is(Verdict::Possible, &[lost, op(2, 3, Write(1)), op(4, 5, Read(Some(1)))]);
        check_is(Verdict::Possible, &[lost, op(2, 3, Write(1)), op(4, 5, Read(Some(9)))]);
        let twice = [op(4, 5, Read(Some(9))), op(6, 7, Read(Some(1))), op(8, 9, Read(Some(9)))];
        check_is(Verdict::Impossible, &[&[lost, op(2, 3, Write(1))], &twice[..]].concat());
    }

    #[test]
    fn of_two_swaps_of_one_value_one_wins() {
        let both = [op(1, 2, Write(1)), op(3, 6, Swap(1, 2)), op(4, 7, Swap(1, 3))];
        check_is(Verdict::Impossible, &both);
        check_is(Verdict::Possible, &[both[0], both[1], op(4, 0, Swap(1, 3))]);
    }

    #[test]
    fn reads_do_not_go_back() {
        let write = op(2, 9, Write(2));
        let reads = [op(3, 4, Read(Some(2))), op(5, 6, Read(Some(1)))];
        check_is(Verdict::Impossible, &[op(1, 1, Write(1)), write, reads[0], reads[1]]);
    }

    #[test]
    fn a_sweep_finds_a_version_that_falls_between_operations_that_do_not_overlap() {
        let versioned = |asked_at, done_at, version| Operation {
            version: Some(version),
            ..op(asked_at, done_at, Read(None))
        };
        assert_eq!(sweep(&[versioned(1, 5, 9), versioned(4, 6, 8)]), None);
        let fault = Fault::VersionFell { before: 0, after: 1 };
        assert_eq!(sweep(&[versioned(1, 5, 9), versioned(6, 7, 8)]), Some(fault));
        let other_key = Operation { key: 2, ..versioned(6, 7, 8) };
        assert_eq!(sweep(&[versioned(1, 5, 9), other_key]), None);
    }

    #[test]
    fn a_sweep_finds_values_out_of_nowhere_and_two_of_one_version() {
        assert_eq!(sweep(&[op(1, 2, Read(Some(5)))]), Some(Fault::NeverWritten { read: 0 }));
        let early = [op(1, 2, Read(Some(5))), op(3, 4, Write(5))];
        assert_eq!(sweep(&early), Some(Fault::NeverWritten { read: 0 }));
        let versioned =
            |asked_at, action| Operation { version: Some(7), ..op(asked_at, asked_at + 1, action) };
        let twice = [versioned(1, Write(1)), versioned(3, Write(2))];
        assert_eq!(sweep(&twice), Some(Fault::TwoValues { one: 0, other: 1 }));
    }

    /// The same by trying every order, and every choice of what without an answer never happened.
    fn is_possible(left: &[Operation], value: Option<u64>) -> bool {
        let Some(first_end) = left.iter().filter_map(|op| op.done_at).min() else { return true };
        (0..left.len()).filter(|&at| left[at].asked_at <= first_end).any(|at| {
            let rest = [&left[..at], &left[at + 1..]].concat();
            after(left[at].action, value).is_some_and(|value| is_possible(&rest, value))
        })
    }

    #[test]
    fn small_histories_are_judged_as_by_trying_everything() {
        let mut possible = 0;
        for seed in 0..4_000 {
            let mut dice = dice(seed);
            let mut history = Vec::new();
            for number in 1..=6 {
                let asked_at = dice(20);
                let done_at = if dice(3) > 0 { asked_at + 1 + dice(10) } else { 0 };
                let action = match dice(7) {
                    0..2 => Write(number),
                    2..4 => Read(Some(1 + dice(6))),
                    4..6 => Swap(1 + dice(6), number),
                    _ => Delete,
                };
                if done_at > 0 || !matches!(action, Read(_)) {
                    history.push(op(asked_at, done_at, action));
                }
            }
            let is_possible = is_possible(&history, None);
            possible += u32::from(is_possible);
            let verdict = if is_possible { Verdict::Possible } else { Verdict::Impossible };
            assert_eq!(check_key(&history), verdict, "seed {seed}: {history:?}");
            // What is surely stale is impossible, not the other way round.
            assert!(!is_possible || stale(&history, |_| true).is_empty(), "seed {seed}: {history:?}");
        }
        assert!((200..3_800).contains(&possible), "{possible}");
    }

    #[test]
    fn a_stale_read_is_one_whose_value_was_surely_replaced_before() {
        let history =
            [op(1, 2, Write(1)), op(3, 5, Delete), op(4, 7, Read(Some(1))), op(6, 8, Read(Some(1)))];
        assert_eq!(stale(&history, |_| true), [3]);
        assert!(stale(&history, |op| op.action != Delete).is_empty());
        // Nobody knows whether the write that came later was over before.
        let late = [op(1, 0, Write(1)), op(3, 5, Delete), op(6, 8, Read(Some(1)))];
        assert!(stale(&late, |_| true).is_empty());
        // It was, since somebody had read it.
        let seen = [op(1, 0, Write(1)), op(1, 2, Read(Some(1))), op(3, 5, Delete), op(6, 8, Read(Some(1)))];
        assert_eq!(stale(&seen, |_| true), [3]);
    }

    #[test]
    fn a_lost_write_and_a_deletion_that_is_undone_are_found_among_thousands_of_operations() {
        let mut history = good_history(7, 5_000);
        let last = history.len() as u64 * 10 + 100;
        let read_back = |by| {
            [
                op(last, last + 1, Write(1_000_000)),
                op(last + 2, last + 3, by),
                op(last + 4, last + 5, Read(Some(1_000_000))),
            ]
        };
        history.extend(read_back(Read(None)));
        assert_eq!(check(&history), None);
        history.truncate(5_000);
        history.extend(read_back(Delete));
        assert_eq!(check(&history), Some(Fault::NoOrder { key: 1 }));
        assert_eq!(stale(&history, |_| true), [5_002]);
        history.truncate(5_000);
        history.extend(read_back(Write(1_000_001)));
        assert_eq!(check(&history), Some(Fault::NoOrder { key: 1 }));
    }

    fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |bound| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        }
    }

    /// A register that is right: eight clients whose operations happen somewhere between question and answer.
    fn good_history(seed: u64, count: u64) -> Vec<Operation> {
        let mut dice = dice(seed);
        let (mut value, mut history) = (None, Vec::new());
        for number in 1..=count {
            // Each happens at its own time; what clients see reaches up to four operations to both sides.
            let at = number * 10;
            let action = match (dice(10), value) {
                (0..5, _) => Read(if dice(10) == 0 { None } else { value }),
                (5..8, _) => Write(number),
                (8, Some(from)) => Swap(from, number),
                _ => Delete,
            };
            value = after(action, value).unwrap();
            let is_known = matches!(action, Read(_)) || dice(30) > 0;
            history.push(op(at - dice(40).min(at - 1), if is_known { at + dice(40) } else { 0 }, action));
        }
        history
    }

    #[test]
    fn good_histories_pass_and_each_spoilt_read_is_found() {
        for seed in 0..40 {
            let history = good_history(seed, 300);
            assert_eq!(check(&history), None, "seed {seed}");
            assert_eq!(sweep(&history), None, "seed {seed}");
            // The last read gives a value of long ago that was overwritten by writes that are known.
            let old = history.iter().take(100).rev().find_map(|op| match op.action {
                Write(value) if op.done_at.is_some() => Some(value),
                _ => None,
            });
            let mut spoilt = history.clone();
            spoilt.push(op(9_000, 9_001, Write(1_000_000)));
            spoilt.push(op(9_010, 9_020, Read(old)));
            assert_eq!(check_key(&spoilt), Verdict::Impossible, "seed {seed}");
        }
    }
}
