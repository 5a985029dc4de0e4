//! The connections to one server, and whether it is worth asking. Holds connections of any kind and never makes one.

use std::time::{Duration, Instant};

use crate::options::{Options, after};

/// Idle connections to one server, and a count of those in use.
#[derive(Debug)]
pub(crate) struct Pool<C> {
    idle: Vec<C>,
    /// Idle ones and those in use.
    open: usize,
    /// In a row.
    failures: u32,
    rest: Option<Rest>,
}

/// A server that is left alone.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    back_off: Duration,
    /// Somebody is looking whether it is back.
    is_probed: bool,
}

/// What a pool has for who wants a connection.
#[derive(Debug)]
pub(crate) enum Taken<C> {
    /// One that was used before.
    Idle(C),
    /// The right to make one.
    New,
    /// All are in use.
    None,
    /// The server is left alone for so long.
    Down(Duration),
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self { idle: Vec::new(), open: 0, failures: 0, rest: None }
    }
}

impl<C> Pool<C> {
    /// A connection, if there may be one now. Whoever gets one gives it back by exactly one of the other calls.
    pub(crate) fn take(&mut self, now: Instant, options: &Options) -> Taken<C> {
        if let Some(rest) = &mut self.rest {
            let wait = rest.until.saturating_duration_since(now);
            if rest.is_probed || !wait.is_zero() {
                return Taken::Down(wait);
            }
            rest.is_probed = true;
        } else if let Some(connection) = self.idle.pop() {
            return Taken::Idle(connection);
        } else if self.open >= options.connections_max.max(1) {
            return Taken::None;
        }
        self.open += 1;
        Taken::New
    }

    /// A connection that may be used again: the server is well.
    pub(crate) fn put_back(&mut self, connection: C) {
        assert!(self.idle.len() < self.open, "a connection came back that was never given out");
        (self.failures, self.rest) = (0, None);
        self.idle.push(connection);
    }

    /// A connection was closed, and that says nothing about the server.
    pub(crate) fn close_one(&mut self) {
        assert!(self.idle.len() < self.open, "a connection was closed that was never given out");
        self.open -= 1;
        if let Some(rest) = &mut self.rest {
            rest.is_probed = false;
        }
    }

    /// A connection was closed, or not made, because the server does not do what it should. Says whether the server
    /// is left alone from now on, with the idle connections, which are closed.
    pub(crate) fn fail_one(&mut self, now: Instant, options: &Options) -> Vec<C> {
        self.close_one();
        self.failures = self.failures.saturating_add(1);
        if self.failures < options.failures_max.max(1) {
            return Vec::new();
        }
        let back_off = self.rest.map_or(options.back_off_min, |rest| rest.back_off.saturating_mul(2));
        let back_off = back_off.min(options.back_off_max);
        self.rest = Some(Rest { until: after(now, back_off), back_off, is_probed: false });
        self.open -= self.idle.len();
        std::mem::take(&mut self.idle)
    }

    /// Whether it gives out a connection, or refuses one, without anybody having to wait.
    pub(crate) fn answers_at_once(&self, now: Instant) -> bool {
        !self.idle.is_empty() || self.is_resting(now)
    }

    /// Whether the server is left alone at this time.
    pub(crate) fn is_resting(&self, now: Instant) -> bool {
        self.rest.is_some_and(|rest| rest.is_probed || rest.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            connections_max: 2,
            failures_max: 2,
            back_off_min: Duration::from_millis(100),
            back_off_max: Duration::from_millis(300),
            ..Options::default()
        }
    }

    #[track_caller]
    fn check(pool: &mut Pool<u8>, now: Instant, expected: &str) {
        assert_eq!(format!("{:?}", pool.take(now, &options())), expected);
    }

    #[test]
    fn connections_are_bounded_and_used_again() {
        let (mut pool, now) = (Pool::default(), Instant::now());
        check(&mut pool, now, "New");
        check(&mut pool, now, "New");
        check(&mut pool, now, "None");
        pool.put_back(7);
        check(&mut pool, now, "Idle(7)");
        check(&mut pool, now, "None");
        pool.close_one();
        check(&mut pool, now, "New");
    }

    #[test]
    fn a_server_that_fails_is_left_alone_longer_and_longer_and_asked_by_one_at_a_time() {
        let (mut pool, start) = (Pool::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        check(&mut pool, start, "New");
        pool.put_back(7);
        for _ in 0..2 {
            pool.open += 1;
            pool.fail_one(start, &options());
        }
        assert_eq!((pool.open, pool.idle.len()), (0, 0));
        check(&mut pool, at(60), "Down(40ms)");
        check(&mut pool, at(100), "New");
        check(&mut pool, at(100), "Down(0ns)");
        pool.fail_one(at(100), &options());
        check(&mut pool, at(250), "Down(50ms)");
        check(&mut pool, at(300), "New");
        pool.fail_one(at(300), &options());
        check(&mut pool, at(500), "Down(100ms)");
        check(&mut pool, at(600), "New");
        pool.put_back(8);
        assert!(!pool.is_resting(at(600)));
        check(&mut pool, at(600), "Idle(8)");
    }

    #[test]
    fn a_probe_that_is_given_up_lets_the_next_one_look() {
        let (mut pool, start) = (Pool::<u8>::default(), Instant::now());
        for _ in 0..2 {
            check(&mut pool, start, "New");
            pool.fail_one(start, &options());
        }
        let later = start + Duration::from_millis(100);
        check(&mut pool, later, "New");
        pool.close_one();
        check(&mut pool, later, "New");
    }
}
