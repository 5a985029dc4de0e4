//! In which order requests for one key are executed while the ring changes. A client that does not wait for answers has several under
//! way; one that is refused, or is on its way to a node that owns the key no more, must not be overtaken by those behind it.
//!
//! Kept only for a while after a ring came or a request was refused: then every request under way stands in the line of its key. Where
//! one waits to be sent again, or is astray, later ones wait behind it; those that wait are sent in the order of their coming when
//! nothing that came later is under way any more. What was overtaken nevertheless, because its owner refused it and took the one behind
//! it, is given up: it was not executed. Never sends.

use std::collections::{BTreeMap, BTreeSet};

use super::Opaque;
use crate::safeguard::{self, Safeguard};
use crate::time::Micros;

/// Lines are kept for so long after the last event that unsettled them: looking at all requests for each refusal would cost more.
const KEPT_TIME: Micros = super::PARK_TIME_MAX;

/// A request's part in the line of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// None: no lines are kept, it is for no key, or nobody waits for its answer.
    Out,
    /// It is on its way to the key's owner.
    Sent,
    /// It is on its way to a node that owns the key no more.
    Astray,
    /// It will be sent.
    Waiting,
}

/// A request: its key's hash, when it came, as a number, and its own number.
pub(super) type Name = (u64, u64, Opaque);

#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    sent: u32,
    astray: u32,
    waiting: BTreeMap<u64, Opaque>,
    /// None later than this was sent, or done, since the line began.
    last_sent: u64,
    last_done: u64,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.sent == 0 && self.astray == 0 && self.waiting.is_empty()
    }

    fn holds(&self) -> bool {
        self.astray > 0 || !self.waiting.is_empty()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Order {
    kept_until: Option<Micros>,
    lines: BTreeMap<u64, Line>,
    /// Requests that others wait behind.
    holding: usize,
    /// Lines to look at: something has left them, or may be sent.
    to_look: BTreeSet<u64>,
    overtaken: Vec<Opaque>,
}

impl Order {
    /// Whether lines are kept.
    #[inline]
    pub(super) fn is_kept(&self) -> bool {
        self.kept_until.is_some()
    }

    /// Something has happened that may bring requests out of order.
    pub(super) fn keep(&mut self, now: Micros) {
        self.kept_until = Some(now + KEPT_TIME);
    }

    /// Whether it is time to keep lines no more.
    pub(super) fn may_end(&self, now: Micros) -> bool {
        self.holding == 0 && self.kept_until.is_some_and(|until| until <= now)
    }

    /// Whether a request for some key has to wait.
    #[inline]
    pub(super) fn is_holding(&self) -> bool {
        self.holding > 0
    }

    /// Whether a request for this key has to wait.
    #[inline]
    pub(super) fn holds(&self, hash: u64) -> bool {
        self.is_holding()
            && self.lines.get(&hash).is_some_and(Line::holds)
            && safeguard::holds(Safeguard::KeysKeepTheirOrder)
    }

    /// A request's standing changes.
    pub(super) fn shift(&mut self, (hash, number, opaque): Name, from: Standing, to: Standing) {
        let line = self.lines.entry(hash).or_default();
        self.holding -= usize::from(matches!(from, Standing::Astray | Standing::Waiting));
        self.holding += usize::from(matches!(to, Standing::Astray | Standing::Waiting));
        match from {
            Standing::Out => {}
            Standing::Sent => line.sent -= 1,
            Standing::Astray => line.astray -= 1,
            Standing::Waiting => assert!(line.waiting.remove(&number).is_some(), "it waits"),
        }
        match to {
            Standing::Out => {}
            Standing::Sent => line.sent += 1,
            Standing::Astray => line.astray += 1,
            Standing::Waiting => assert!(line.waiting.insert(number, opaque).is_none(), "it waits once"),
        }
        if matches!(to, Standing::Sent | Standing::Astray) {
            line.last_sent = line.last_sent.max(number);
        }
        if line.is_empty() {
            self.lines.remove(&hash);
        } else if !line.waiting.is_empty() {
            self.to_look.insert(hash);
        }
    }

    /// A request that stands in a line has been executed. Those before it that wait are overtaken.
    pub(super) fn done(&mut self, hash: u64, number: u64) {
        let Some(line) = self.lines.get_mut(&hash) else { return };
        line.last_done = line.last_done.max(number);
        self.overtaken.extend(line.waiting.range(..number).map(|(_, opaque)| *opaque));
    }

    /// Whether a later request for the key has been executed already.
    pub(super) fn is_overtaken(&self, hash: u64, number: u64) -> bool {
        self.lines.get(&hash).is_some_and(|line| number < line.last_done)
            && safeguard::holds(Safeguard::KeysKeepTheirOrder)
    }

    /// One that was overtaken, each once.
    pub(super) fn next_overtaken(&mut self) -> Option<Opaque> {
        self.overtaken.pop().filter(|_| safeguard::holds(Safeguard::KeysKeepTheirOrder))
    }

    /// The request that may be sent next, if it `is_ready`.
    pub(super) fn next_to_go(&mut self, is_ready: impl Fn(Opaque) -> bool) -> Option<Opaque> {
        let is_free = !safeguard::holds(Safeguard::KeysKeepTheirOrder);
        while let Some(hash) = self.to_look.first() {
            let first = self.lines.get(hash).and_then(|line| {
                let (&number, &opaque) = line.waiting.first_key_value()?;
                let is_behind_all = line.astray == 0 && (line.sent == 0 || number > line.last_sent);
                (is_behind_all || is_free).then_some(opaque)
            });
            if let Some(opaque) = first.filter(|&opaque| is_ready(opaque)) {
                return Some(opaque);
            }
            self.to_look.pop_first();
        }
        None
    }

    /// Compares with lines that were made from scratch.
    pub(super) fn check_invariants(&self, standings: impl Iterator<Item = (Name, Standing)>) {
        let mut twin = Self::default();
        for (name, standing) in standings.filter(|(_, standing)| *standing != Standing::Out) {
            twin.shift(name, Standing::Out, standing);
        }
        assert_eq!(self.holding, twin.holding);
        assert!(self.is_kept() || self.lines.is_empty());
        let counts = |(hash, line): (&u64, &Line)| (*hash, line.sent, line.astray, line.waiting.clone());
        assert!(self.lines.iter().map(counts).eq(twin.lines.iter().map(counts)));
    }
}
