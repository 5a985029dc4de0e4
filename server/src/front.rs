//! One shard's part in copies of hot keys: as owner it grants them and keeps writes waiting until nobody reads them, as one of another
//! node it answers reads from them. The rules are `slabring-cluster`'s; this is what they mean for items, requests and replies.
//! No I/O.

use slabring_cluster::grants::{
    Copy, GRANT_WAIT, GRANTED_VALUE_BYTES_MAX, Garbled, Granting, Holding, Message, decode,
};
use slabring_cluster::names::NodeId;
use slabring_cluster::peers::LinkId;
use slabring_cluster::placement::{PartitionId, hash_key};
use slabring_cluster::ring::partitions::PartitionSet;
use slabring_cluster::ring::{Epoch, Ring, SlotEntry};
use slabring_cluster::time::Micros;
use slabring_engine::{Expiry, Item, Seconds};
use slabring_protocol::reply::{self, Hit, MetaItem, MetaWin};
use slabring_protocol::{Command, Dialect, ErrorReply, KEY_SIZE_MAX, Request};
use slabring_reactor::clock::Moment;

use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::dispatch::Dispatcher;
use crate::execute::{Asker, Executor, length};
use crate::outbox::Ticket;
use crate::replication::{Executed, Finished, Parked, WaitId, Waiter, Waiting, may_change};
use crate::report::Traffic;

/// Writes that wait for holders are tried again after this time, if none has spoken before.
const RETRY_EVERY: Micros = Micros::from_millis(2);
/// What waits here waits for a fifth of a second at most, so it has no time of its own.
const NO_DEADLINE: Micros = Micros::NEVER;
/// An item that dies sooner is not granted: it must not die while a copy of it is read. The first second may be a short one.
const LIVES_SECONDS_MIN: u32 = 2;
/// What a `mg` may ask of a copy.
const FLAGS_OF_COPIES: &[u8] = b"vkfsctOq";

const _: () = assert!(GRANT_WAIT.0 < 1_000_000 * (LIVES_SECONDS_MIN as u64 - 1));

/// See the module.
#[derive(Debug)]
pub struct Front {
    granting: Granting<LinkId>,
    holding: Holding<LinkId>,
    /// Requests of a node without copies on other nodes; where there are such, they wait with those that wait for them.
    waiting: Waiting,
    finished: Vec<Finished>,
    retry_at: Micros,
    /// Somebody has spoken: what waits is tried.
    has_news: bool,
    /// Another ring is to be followed, once nothing is read that was granted under this one.
    is_leaving: bool,
    hits: u64,
    start: Moment,
}

impl Front {
    /// One that knows nothing yet.
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            granting: Granting::default(),
            holding: Holding::default(),
            waiting: Waiting::default(),
            finished: Vec::new(),
            retry_at: Micros(0),
            has_news: false,
            is_leaving: false,
            hits: 0,
            start: cluster.start,
        }
    }

    /// Not the time of the turn: a thread that is stopped in its midst must see that time has passed.
    fn clock(&self) -> Micros {
        Micros(Moment::now().since_ns(self.start) / 1_000)
    }

    /// Memory of copies, and of requests that wait.
    pub fn buffer_bytes(&self) -> usize {
        self.holding.bytes() + self.waiting.bytes()
    }

    /// How long a turn may sleep.
    pub fn sleep_max(&self) -> Micros {
        let is_waiting = self.is_leaving || !self.waiting.is_empty();
        if is_waiting { RETRY_EVERY } else { Micros::NEVER }
    }

    /// Whether requests wait.
    pub fn has_parked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Notes its numbers for `stats`.
    pub fn report_to(&self, traffic: &mut Traffic) {
        let counts = self.granting.counts();
        traffic.front_hits = self.hits;
        traffic.grants_given = counts.granted;
        traffic.grants_held = self.holding.count(self.clock()) as u64;
        traffic.revocations = counts.revoked;
        traffic.revocation_waits = counts.waited;
    }

    /// Begins to count anew.
    pub fn reset_counters(&mut self) {
        self.hits = 0;
        self.granting.reset_counts();
    }

    /// A second is over.
    pub fn end_second(&mut self) {
        let now = self.clock();
        self.holding.tidy(now);
    }

    /// A flush passes, `delay_seconds` before it takes effect.
    pub fn flushed(&mut self, delay_seconds: u32) {
        let now = self.clock();
        self.holding.flushed(now, Micros(u64::from(delay_seconds) * 1_000_000));
    }

    /// The link to an owner is gone.
    pub fn lost(&mut self, link: LinkId) {
        self.holding.lost(link);
    }

    /// There is another ring, or the first, which is not to be followed while this is true: copies are read that this node has granted,
    /// or may have, in a life that ended just before this one began.
    pub fn must_wait_to_follow(&mut self, is_first: bool) -> bool {
        let now = self.clock();
        self.holding.drop_all();
        self.is_leaving = (is_first && now < GRANT_WAIT) || self.granting.must_wait_to_leave(now);
        self.is_leaving
    }

    /// The other ring is followed, which gives this node `gained`.
    pub fn arrived(&mut self, gained: &PartitionSet) {
        let now = self.clock();
        self.is_leaving = false;
        self.granting.arrived(now, gained);
    }

    /// What is to be sent.
    pub fn take_sends(&mut self) -> impl Iterator<Item = (LinkId, Vec<u8>)> {
        self.granting.take_sends().into_iter().chain(self.holding.take_sends())
    }

    /// What is answered, with those who wait for it.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Says who waits for what [`Executed::Later`] announced.
    pub fn attend(&mut self, id: WaitId, waiter: Waiter) {
        self.waiting.attend(id, waiter);
    }

    /// Whether a request, which may change its key, must wait for those who may read copies of it. If not, it is executed at once.
    pub fn must_wait(&mut self, hash: u64, key: &[u8]) -> bool {
        let now = self.clock();
        self.granting.must_wait(now, hash, key)
    }

    /// Executes a request with a key of this shard on a node without copies on others, or keeps it until it may be.
    fn execute(
        &mut self,
        executor: &mut Executor,
        now: Seconds,
        request: &Request<'_>,
        asker: Asker,
        out: &mut Vec<u8>,
    ) -> Executed {
        let hash = hash_key(request.decoded_key(&mut [0; KEY_SIZE_MAX]));
        if self.waiting.is_busy(hash) || self.keeps_waiting(executor, now, request) {
            let parked = Parked::new(request, asker);
            return match self.waiting.park(parked, hash, NO_DEADLINE) {
                Some(id) => Executed::Later(id),
                None => Executed::Refused(ErrorReply::CopiesOverloaded),
            };
        }
        executor.execute_for(now, request, asker, out);
        Executed::Now
    }

    fn keeps_waiting(&mut self, executor: &Executor, now: Seconds, request: &Request<'_>) -> bool {
        let mut scratch = [0; KEY_SIZE_MAX];
        let key = request.decoded_key(&mut scratch);
        may_change(executor.shard(), now, request, key) && self.must_wait(hash_key(key), key)
    }

    /// Tries what waits. Returns whether any write of this shard may have to wait. Once a turn, while that is so.
    fn turn(&mut self, executor: &mut Executor, now: Seconds) -> bool {
        let at = self.clock();
        if !self.waiting.is_empty() && (self.has_news || at >= self.retry_at) {
            self.retry_at = at + RETRY_EVERY;
            self.waiting.all_may_go();
        }
        self.has_news = false;
        while let Some(id) = self.waiting.next_to_go() {
            let Some((parked, _, _)) = self.waiting.parked(id) else { continue };
            if self.keeps_waiting(executor, now, &parked.request()) {
                self.waiting.park_again(id, parked);
                continue;
            }
            let mut reply = Vec::new();
            let outcome = if executor.replicates() {
                // Since it came here items have copies, and it would be executed without them.
                Err(ErrorReply::RingUnsettled)
            } else {
                executor.execute_for(now, &parked.request(), parked.asker, &mut reply);
                Ok(reply)
            };
            self.finished.extend(self.waiting.finish(id, outcome));
        }
        self.granting.is_watchful(at) || !self.waiting.is_empty()
    }

    /// Takes a message of another node. `is_mine` says whether a key is this shard's.
    pub fn received(
        &mut self,
        executor: &mut Executor,
        now: Seconds,
        link: LinkId,
        bytes: &[u8],
        is_mine: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Garbled> {
        let at = self.clock();
        match decode(bytes)? {
            Message::Offer { key } => self.holding.offered(at, link, key),
            Message::Grant { ticket, number, key, copy } => {
                self.holding.granted(at, link, (ticket, number), key, copy);
            }
            Message::Revoke { number, key } => self.holding.revoked(link, number, key),
            Message::Revoked { number, key } => {
                self.granting.revoked(link, number, key);
                self.has_news = true;
                executor.replication.iter_mut().for_each(|replication| replication.retry_soon());
            }
            Message::Want { ticket, hits, key } => {
                if is_mine(key) {
                    executor.count_reads_elsewhere(key, hits);
                }
                if is_mine(key) && executor.keeps(key) && self.granting.may_grant(at, key) {
                    self.grant(executor, now, link, ticket, key);
                }
            }
        }
        Ok(())
    }

    fn grant(&mut self, executor: &mut Executor, now: Seconds, link: LinkId, ticket: u64, key: &[u8]) {
        let Some(item) = executor.shard_mut().get(now, key).filter(|item| may_be_granted(item, now)) else {
            return;
        };
        let mut value = Vec::new();
        item.value().copy_to(&mut value);
        let (cas, client_flags) = (item.cas(), item.client_flags());
        let is_for_ever = item.expiry() == Expiry::Never;
        // Counts from when the copy is on its way.
        let at = self.clock();
        self.granting.grant(at, link, ticket, key, Copy { cas, client_flags, is_for_ever, value: &value });
        executor.set_guarded();
    }

    /// Tells another node that it asks often for a key, if it may have it.
    pub fn offer(&mut self, link: LinkId, key: &[u8]) {
        let now = self.clock();
        if self.granting.may_grant(now, key) {
            self.granting.offer(link, key);
        }
    }

    /// Answers a request for another node's key from a copy, if there is one that can.
    fn answer(&mut self, request: &Request<'_>, out: &mut Vec<u8>) -> bool {
        let now = self.clock();
        let Some(held) = self.holding.read(now, request.key) else { return false };
        let Copy { cas, client_flags, is_for_ever, value } = held.copy();
        let value_len = length(value.len());
        match request.command {
            Command::MetaGet(flags) if is_for_ever || !flags.has(b't') => {
                let item = MetaItem { value_len, client_flags, cas, ..MetaItem::default() };
                if reply::meta_get(out, request, &item, MetaWin::default()) {
                    out.extend_from_slice(value);
                    out.extend_from_slice(reply::CRLF);
                }
            }
            Command::Get { .. } => {
                reply::hit_header(out, request, &Hit { client_flags, value_len, cas });
                out.extend_from_slice(value);
                reply::hit_end(out, request);
            }
            _ => return false,
        }
        self.hits += 1;
        true
    }
}

impl Executor {
    /// Whether a request may have to wait for other nodes: then it is for [`Executor::execute_copied`].
    #[inline]
    pub fn asks_others(&self, request: &Request<'_>) -> bool {
        self.replicates() || self.is_guarded() && self.is_concerned(request)
    }

    #[cold]
    fn is_concerned(&self, request: &Request<'_>) -> bool {
        !matches!(request.command, Command::Get { .. }) || self.has_parked()
    }

    /// Whether requests wait until copies of their keys are not read any more.
    pub fn has_parked(&self) -> bool {
        self.is_guarded() && self.front.as_ref().is_some_and(|front| front.has_parked())
    }

    /// Whether another node's key is hot: there may be a copy here.
    pub fn knows_elsewhere(&self, key: &[u8]) -> bool {
        self.front.as_ref().is_some_and(|front| front.holding.knows(key))
    }

    /// As [`Executor::execute_copied`], on a node without copies on others.
    pub fn execute_guarded(
        &mut self,
        now: Seconds,
        request: &Request<'_>,
        asker: Asker,
        out: &mut Vec<u8>,
    ) -> Executed {
        let mut front = self.front.take().expect("only who has one is guarded");
        let executed = front.execute(self, now, request, asker, out);
        self.front = Some(front);
        executed
    }

    /// Whether a request that is not executed as a whole must wait for copies of its key. Asking calls them back.
    pub fn is_read_elsewhere(&mut self, key: &[u8]) -> bool {
        self.is_guarded() && self.front.as_mut().is_some_and(|front| front.must_wait(hash_key(key), key))
    }

    /// What waits for holders of copies. Once a turn.
    pub fn guard(&mut self, now: Seconds) {
        if self.is_guarded()
            && let Some(mut front) = self.front.take()
        {
            let is_guarded = front.turn(self, now);
            self.front = Some(front);
            if !is_guarded {
                self.end_guard();
            }
        }
    }

    /// Another ring is followed, which gives this node `gained`.
    pub fn follow_ring(&mut self, gained: &PartitionSet) {
        let Some(front) = &mut self.front else { return };
        let may_wait = !gained.is_empty();
        front.arrived(gained);
        if may_wait {
            self.set_guarded();
        }
    }

    /// Whether this shard says what a key is, and will as long as a copy of it may be read; and nothing is under way that would
    /// change it without asking.
    fn keeps(&self, key: &[u8]) -> bool {
        let keeps = self.replication.as_ref().is_none_or(|replication| replication.keeps(key, GRANT_WAIT));
        keeps && self.is_hot(key) && !self.has_open_values()
    }
}

impl Dispatcher {
    /// Answers a request for another node's key from a copy. False: it is to be sent there.
    pub fn answer_from_copy(&mut self, client: &mut Connection, request: &Request<'_>) -> bool {
        let Some(front) = self.executor.front.as_mut().filter(|front| !front.holding.is_empty()) else {
            return false;
        };
        if !is_for_copies(request) {
            if !only_reads(request) {
                front.holding.wrote(request.decoded_key(&mut [0; KEY_SIZE_MAX]));
            }
            return false;
        }
        // What was asked before for a key like this is answered first, by its owner, who may know something newer.
        let is_behind = client.lines.behind.is_some_and(|ticket| !client.outbox.is_answered(ticket));
        let is_current = self.cluster.as_ref().is_some_and(|links| !links.is_behind());
        let mut is_answered = false;
        if !is_behind && is_current {
            client.lines.behind = None;
            client.outbox.local(|out| is_answered = front.answer(request, out));
        }
        if is_answered {
            self.executor.count_hit_elsewhere();
        }
        is_answered
    }

    /// Notes that a request for another node's key is sent there: later ones of the same client are not to overtake it.
    pub fn note_sent_away(&mut self, client: &mut Connection, request: &Request<'_>, ticket: Ticket) {
        let Some(front) = self.executor.front.as_ref().filter(|front| !front.holding.is_empty()) else {
            return;
        };
        if front.holding.knows(request.decoded_key(&mut [0; KEY_SIZE_MAX])) {
            client.lines.behind = Some(ticket);
        }
    }
}

/// The partitions of `node` by `ring` whose owners before do not say when nothing is read of what they granted: they are gone, or the ring
/// keeps no copies, or owned them by a ring that this node did not see.
pub fn inherited(before: &Ring, ring: &Ring, node: &NodeId) -> PartitionSet {
    let mut inherited = PartitionSet::default();
    let Some(me) = ring.slot_of(node) else { return inherited };
    let has_gap = before.epoch().next() != Some(ring.epoch());
    let says_when_done = |owner: &SlotEntry| {
        let is = ring.slot_of(&owner.node).map(|slot| ring.slot(slot));
        let is_there = is.is_some_and(|is| is.incarnation == owner.incarnation && is.state.serves());
        is_there && (owner.node == *node || ring.document().is_replicated())
    };
    for partition in PartitionId::all().filter(|&partition| ring.primary(partition) == me) {
        if has_gap || !says_when_done(before.slot(before.primary(partition))) {
            inherited.insert(partition);
        }
    }
    inherited
}

/// All partitions of `node`, whose first ring this is: whoever owned them before it does not know.
pub fn inherited_at_first(ring: &Ring, node: &NodeId) -> PartitionSet {
    let mut inherited = PartitionSet::default();
    let is_new = ring.epoch() <= Epoch(1);
    if let Some(me) = ring.slot_of(node).filter(|_| !is_new) {
        for partition in PartitionId::all().filter(|&partition| ring.primary(partition) == me) {
            inherited.insert(partition);
        }
    }
    inherited
}

/// Whether a copy can answer this exactly, but for `t`.
fn is_for_copies(request: &Request<'_>) -> bool {
    request.dialect == Dialect::Text
        && match request.command {
            Command::Get { .. } => true,
            Command::MetaGet(flags) => flags.consists_of(FLAGS_OF_COPIES),
            _ => false,
        }
}

/// Whether a request leaves an item that is not stale as it is.
fn only_reads(request: &Request<'_>) -> bool {
    match request.command {
        Command::Get { .. } | Command::MetaDebug(_) => true,
        Command::MetaGet(flags) => !b"TNRE".iter().any(|&letter| flags.has(letter)),
        _ => false,
    }
}

fn may_be_granted(item: &Item<'_>, now: Seconds) -> bool {
    let lives = match item.expiry() {
        Expiry::Never => true,
        Expiry::At(second) => second.0.saturating_sub(now.0) >= LIVES_SECONDS_MIN,
    };
    let is_plain = !item.is_stale() && !item.is_token_sent() && !item.is_binary_key();
    lives && is_plain && item.value_len() <= GRANTED_VALUE_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use slabring_cluster::placement::PARTITION_COUNT;
    use slabring_cluster::ring::RingDocument;

    use super::*;

    fn ring(epoch: u64, nodes: &[(&str, u16)]) -> Ring {
        let node = |(name, weight): &(&str, u16)| {
            format!("[[node]]\npeer = \"{name}:7\"\nclient = \"{name}:11211\"\nweight = {weight}\n")
        };
        let text = format!("epoch = {epoch}\n{}", nodes.iter().map(node).collect::<String>());
        Ring::new(RingDocument::from_toml(&text).unwrap()).unwrap()
    }

    #[test]
    fn what_nobody_is_left_to_ask_about_is_inherited() {
        let before = ring(1, &[("a", 256), ("b", 256)]);
        let me = before.slot(before.primary(PartitionId::new(0))).node.clone();
        let (mine, other) = if me.0.as_str().starts_with('a') { ("a", "b") } else { ("b", "a") };
        let inherits = |epoch, weight| {
            let mut nodes = [(mine, 256), (other, weight)];
            nodes.sort_unstable();
            inherited(&before, &ring(epoch, &nodes), &me).len()
        };
        let half = inherits(2, 0);
        assert!((PARTITION_COUNT / 3..PARTITION_COUNT * 2 / 3).contains(&half), "{half}");
        assert_eq!(inherited(&before, &ring(2, &[(mine, 256)]), &me).len(), half);
        assert_eq!(inherits(2, 256), 0, "what was ours is ours");
        assert_eq!(inherits(3, 256), PARTITION_COUNT - half, "but for a ring that was not seen");
        assert_eq!(inherited_at_first(&before, &me).len(), 0, "nobody owned anything before");
        assert_eq!(inherited_at_first(&ring(2, &[(mine, 256)]), &me).len(), PARTITION_COUNT);
    }

    #[test]
    fn a_copy_answers_what_only_reads() {
        let meta = |line: &str| {
            use slabring_protocol::{Limits, Parser, Step};
            let Step::Request { request, .. } = Parser::default().next(line.as_bytes(), &Limits::default())
            else {
                panic!("{line:?} is a request")
            };
            (is_for_copies(&request), only_reads(&request))
        };
        for line in ["get k\r\n", "gets k\r\n", "mg k\r\n", "mg k v k f s c t Oabc q\r\n"] {
            assert_eq!(meta(line), (true, true), "{line:?}");
        }
        for line in ["mg k h\r\n", "mg k v l\r\n", "mg a2V5 b v\r\n", "mg k v c L7\r\n", "me k\r\n"] {
            assert_eq!(meta(line), (false, true), "{line:?}");
        }
        for line in
            ["mg k v T9\r\n", "mg k N9\r\n", "mg k R9\r\n", "delete k\r\n", "gat 9 k\r\n", "incr k 1\r\n"]
        {
            assert_eq!(meta(line), (false, false), "{line:?}");
        }
    }
}
