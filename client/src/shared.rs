//! What all users of one client share: where keys live, and connections. One lock, held for look-ups only and never
//! while anybody waits for a server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use slabring_cluster::ring::RingDocument;

use crate::call::{Batch, Call, Step};
use crate::endpoint::Endpoint;
use crate::error::Failure;
use crate::options::{Options, Servers, after};
use crate::pool::{Pool, Taken};
use crate::router::Router;

/// Wakes who waits for a connection.
pub(crate) trait Waker {
    fn wake(&self);
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared<C, W> {
    pub(crate) options: Options,
    pub(crate) waker: W,
    state: Mutex<State<C>>,
}

#[derive(Debug)]
pub(crate) struct State<C> {
    pub(crate) router: Router,
    pools: HashMap<Endpoint, Pool<C>>,
}

impl<C> State<C> {
    pub(crate) fn take(&mut self, server: &Endpoint, options: &Options) -> Taken<C> {
        self.pools.entry(server.clone()).or_default().take(Instant::now(), options)
    }

    /// Whether it is known without waiting what becomes of a request to this server's pool.
    pub(crate) fn answers_at_once(&self, server: &Endpoint) -> bool {
        self.pools.get(server).is_some_and(|pool| pool.answers_at_once(Instant::now()))
    }

    /// Servers that are left alone at the moment.
    pub(crate) fn resting(&self) -> Vec<Endpoint> {
        let now = Instant::now();
        let resting = self.pools.iter().filter(|(_, pool)| pool.is_resting(now));
        resting.map(|(server, _)| server.clone()).collect()
    }
}

impl<C, W> Shared<C, W> {
    pub(crate) fn new(servers: &Servers, options: Options, waker: W) -> Self {
        let state = State { router: Router::new(servers), pools: HashMap::new() };
        Self { options, waker, state: Mutex::new(state) }
    }

    /// A panic while the lock was held was an assertion about one call: the rest is as it was before that call.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn step(&self, call: &mut Call) -> Step {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        call.step(&mut self.lock().router, Instant::now(), unix, &self.options)
    }

    pub(crate) fn settle(&self, call: &mut Call, batch: Batch, failure: Option<&Failure>) {
        call.settle(batch, failure, &mut self.lock().router, Instant::now(), &self.options);
    }

    /// The servers any of which can tell the ring, which is due from now on; none of a plain list.
    pub(crate) fn servers_to_ask_for_ring(&self) -> Vec<Endpoint> {
        let router = &mut self.lock().router;
        router.suspect_ring(Instant::now());
        if router.any_node_will_do() { router.servers() } else { Vec::new() }
    }

    /// Whether a cluster has not been asked for its nodes yet.
    pub(crate) fn knows_only_seeds(&self) -> bool {
        self.lock().router.first_seed().is_some()
    }

    /// The ring, if there is one and it is known.
    pub(crate) fn ring(&self) -> Option<RingDocument> {
        self.lock().router.ring().map(|ring| ring.document().clone())
    }

    pub(crate) fn now_and_timeout(&self) -> Instant {
        after(Instant::now(), self.options.timeout)
    }
}

/// The right to one connection of a pool. Dropped, the connection counts as closed: a call that is given up, by a panic
/// or by dropping its future, leaves nothing half read behind.
#[derive(Debug)]
pub(crate) struct Slot<C, W: Waker> {
    shared: Arc<Shared<C, W>>,
    server: Endpoint,
    is_settled: bool,
}

impl<C, W: Waker> Slot<C, W> {
    /// Of a connection, or the right to make one, that was just taken.
    pub(crate) fn new(shared: &Arc<Shared<C, W>>, server: &Endpoint) -> Self {
        Self { shared: Arc::clone(shared), server: server.clone(), is_settled: false }
    }

    /// The connection may be used again.
    pub(crate) fn put_back(mut self, connection: C) {
        self.settle(|pool, _| pool.put_back(connection));
    }

    /// The connection is closed because the server does not do what it should.
    pub(crate) fn fail(mut self) {
        let mut closed = Vec::new();
        self.settle(|pool, options| closed = pool.fail_one(Instant::now(), options));
        // Closed here, without the lock.
        drop(closed);
    }

    fn settle(&mut self, settle: impl FnOnce(&mut Pool<C>, &Options)) {
        assert!(!self.is_settled, "a connection is given back once");
        self.is_settled = true;
        settle(self.shared.lock().pools.entry(self.server.clone()).or_default(), &self.shared.options);
        self.shared.waker.wake();
    }
}

impl<C, W: Waker> Drop for Slot<C, W> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.settle(|pool, _| pool.close_one());
        }
    }
}

/// How a connection ends its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It waits for the next one.
    Kept,
    /// It is closed, and nobody is to blame.
    Closed,
    /// It is closed, and counts against the server.
    Blamed,
}

impl Ending {
    /// After an exchange on a connection that was `fresh`, made for it, or had been waiting.
    pub(crate) fn of(batch: &Batch, failure: Option<&Failure>, fresh: bool) -> Self {
        match failure {
            None if batch.exchange.leaves_connection_clean() => Self::Kept,
            None => Self::Closed,
            // A server that was started anew has closed what waited.
            Some(Failure::Lost(_)) if !fresh => Self::Closed,
            Some(_) if batch.exchange.is_poisoned() => Self::Closed,
            Some(_) => Self::Blamed,
        }
    }
}
