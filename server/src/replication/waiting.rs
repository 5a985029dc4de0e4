//! Replies that wait for copies, and requests that wait for their keys, in the order of their coming. Bounded. Knows nobody who
//! waits but by name.

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use slabring_cluster::peers::Asked;
use slabring_cluster::time::Micros;
use slabring_protocol::{Dialect, DialectError, ErrorReply, Request, reply};

use crate::batch::ReturnAddress;
use crate::cluster::forward::{PendingReply, is_part_of_line};
use crate::execute::Asker;
use crate::owned::OwnedRequest;
use crate::shards::ShardId;

/// Requests that wait for their keys.
const PARKED_MAX: usize = 4096;
/// Bytes of all of them. One request may have more when it is the only one.
const PARKED_BYTES_MAX: usize = 16 << 20;
/// What each costs beside its bytes.
const PARKED_BYTES_EACH: usize = 256;

/// One reply to come.
pub type WaitId = u64;

/// Who gets a reply that is made later.
#[derive(Clone, Copy, Debug)]
pub enum Waiter {
    /// A client of this shard.
    Client(PendingReply),
    /// A client of another shard of this node.
    Shard(ShardId, ReturnAddress),
    /// Another node.
    Node(Asked),
}

/// How a request is answered if it fails.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The form of an error.
    pub dialect: Dialect,
    /// Nothing is told.
    pub is_silent: bool,
    /// It is one key of a line.
    pub is_part: bool,
}

impl Manner {
    /// That of a request.
    pub fn of(request: &Request<'_>) -> Self {
        Self { dialect: request.dialect, is_silent: request.noreply, is_part: is_part_of_line(request) }
    }

    /// The reply as a whole. The error of one key of a line belongs in place of the line's end: whoever made the line sees to that.
    pub fn reply(self, outcome: Result<&[u8], ErrorReply>) -> Vec<u8> {
        let mut text = Vec::new();
        match outcome {
            Ok(reply) => text.extend_from_slice(reply),
            Err(_) if self.is_silent => {}
            Err(error) => reply::error(&mut text, DialectError { error, dialect: self.dialect }),
        }
        text
    }
}

/// A reply, or why there is none, and who waits for it.
#[derive(Debug)]
pub struct Finished {
    /// Who.
    pub waiter: Waiter,
    /// How an error is told.
    pub manner: Manner,
    /// What.
    pub outcome: Result<Vec<u8>, ErrorReply>,
}

/// A request that waits, and who asks.
#[derive(Debug)]
pub struct Parked {
    request: OwnedRequest,
    /// Who.
    pub asker: Asker,
}

impl Parked {
    /// A copy of a request.
    pub fn new(request: &Request<'_>, asker: Asker) -> Self {
        Self { request: OwnedRequest::new(request), asker }
    }

    /// The request.
    pub fn request(&self) -> Request<'_> {
        self.request.request()
    }

    fn cost(&self) -> usize {
        self.request.copied_bytes() + PARKED_BYTES_EACH
    }
}

#[derive(Debug)]
enum What {
    /// The reply to a write that the copies are to confirm.
    Reply(Vec<u8>),
    /// A request that is not executed yet.
    Parked(Option<Parked>, Micros),
}

#[derive(Debug)]
struct Entry {
    waiter: Option<Waiter>,
    manner: Manner,
    what: What,
    /// It stands in the line of this key.
    line: Option<u64>,
    cost: usize,
}

/// Who stands in line for a key that only one at a time may ask for.
#[derive(Debug)]
struct Line {
    first: WaitId,
    behind: VecDeque<WaitId>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Waiting {
    entries: HashMap<WaitId, Entry, RandomState>,
    last_id: WaitId,
    /// By the hashes of their keys.
    lines: HashMap<u64, Line, RandomState>,
    /// Parked requests that are to be tried.
    to_go: VecDeque<WaitId>,
    parked: usize,
    bytes: usize,
}

impl Waiting {
    /// All that waits.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing does.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A name for something that may come to wait.
    pub fn next_id(&mut self) -> WaitId {
        self.last_id += 1;
        self.last_id
    }

    /// Whether a request for this key would overtake another.
    pub fn is_busy(&self, hash: u64) -> bool {
        self.lines.contains_key(&hash)
    }

    /// Keeps a request until its turn comes; `None`: there is too much.
    pub fn park(&mut self, parked: Parked, hash: u64, deadline: Micros) -> Option<WaitId> {
        let cost = parked.cost();
        if self.parked >= PARKED_MAX || (self.parked > 0 && self.bytes + cost > PARKED_BYTES_MAX) {
            return None;
        }
        let id = self.next_id();
        let manner = Manner::of(&parked.request());
        self.parked += 1;
        self.insert(
            id,
            Entry {
                waiter: None,
                manner,
                what: What::Parked(Some(parked), deadline),
                line: Some(hash),
                cost,
            },
        );
        Some(id)
    }

    /// Keeps a reply until the copies have confirmed the write. An exclusive one keeps other requests for its key in line.
    pub fn reply_later(&mut self, id: WaitId, manner: Manner, reply: Vec<u8>, hash: u64, is_exclusive: bool) {
        let cost = reply.len() + PARKED_BYTES_EACH;
        let (line, what) = (is_exclusive.then_some(hash), What::Reply(reply));
        match self.entries.get_mut(&id) {
            // It was parked. It keeps its place, or leaves it to the next.
            Some(entry) => {
                self.bytes = self.bytes - entry.cost + cost;
                self.parked -= 1;
                entry.what = what;
                entry.cost = cost;
                if !is_exclusive && let Some(hash) = entry.line.take() {
                    self.leave(hash, id);
                }
            }
            None => self.insert(id, Entry { waiter: None, manner, what, line, cost }),
        }
    }

    fn insert(&mut self, id: WaitId, entry: Entry) {
        self.bytes += entry.cost;
        if let Some(hash) = entry.line {
            let line = self.lines.entry(hash);
            line.and_modify(|line| line.behind.push_back(id))
                .or_insert_with(|| Line { first: id, behind: VecDeque::new() });
        }
        let before = self.entries.insert(id, entry);
        assert!(before.is_none(), "a name is given once");
    }

    /// Says who waits.
    pub fn attend(&mut self, id: WaitId, waiter: Waiter) {
        self.entries.get_mut(&id).expect("it waits").waiter = Some(waiter);
    }

    /// Lets every parked request that is first in its line be tried.
    pub fn all_may_go(&mut self) {
        if self.parked == 0 {
            return self.to_go.clear();
        }
        let (lines, entries) = (&self.lines, &self.entries);
        let first = lines.values().map(|line| line.first);
        let is_parked = |id: &WaitId| matches!(entries.get(id), Some(Entry { what: What::Parked(..), .. }));
        self.to_go = first.filter(is_parked).collect();
    }

    /// The next one to try.
    pub fn next_to_go(&mut self) -> Option<WaitId> {
        self.to_go.pop_front()
    }

    /// Takes a parked request out to try it, with its key's hash and its deadline.
    pub fn parked(&mut self, id: WaitId) -> Option<(Parked, u64, Micros)> {
        let entry = self.entries.get_mut(&id)?;
        let What::Parked(parked, deadline) = &mut entry.what else { return None };
        let hash = entry.line.expect("what is parked stands in line");
        Some((parked.take()?, hash, *deadline))
    }

    /// Puts it back.
    pub fn park_again(&mut self, id: WaitId, request: Parked) {
        if let Some(Entry { what: What::Parked(parked, _), .. }) = self.entries.get_mut(&id) {
            *parked = Some(request);
        }
    }

    /// The copies have confirmed a write, or have not in time. `None`: nobody waits for it.
    pub fn answered(&mut self, id: WaitId, is_done: bool) -> Option<Finished> {
        let What::Reply(reply) = &mut self.entries.get_mut(&id)?.what else { return None };
        let reply = std::mem::take(reply);
        self.finish(id, if is_done { Ok(reply) } else { Err(ErrorReply::CopiesUnconfirmed) })
    }

    /// Ends the waiting.
    pub fn finish(&mut self, id: WaitId, outcome: Result<Vec<u8>, ErrorReply>) -> Option<Finished> {
        let Entry { waiter, manner, what, line, cost } = self.entries.remove(&id)?;
        self.bytes -= cost;
        self.parked -= usize::from(matches!(what, What::Parked(..)));
        line.into_iter().for_each(|hash| self.leave(hash, id));
        Some(Finished { waiter: waiter?, manner, outcome })
    }

    fn leave(&mut self, hash: u64, id: WaitId) {
        let line = self.lines.get_mut(&hash).expect("it stands in a line");
        if line.first != id {
            return line.behind.retain(|other| *other != id);
        }
        match line.behind.pop_front() {
            Some(next) => {
                line.first = next;
                self.to_go.push_back(next);
            }
            None => {
                self.lines.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    const DEADLINE: Micros = Micros(250_000);
    const MANNER: Manner = Manner { dialect: Dialect::Text, is_silent: false, is_part: false };

    fn parked(value_bytes: usize) -> Parked {
        let value = vec![b'x'; value_bytes];
        let request = Request { value: &value, ..Request::get(b"key", false) };
        Parked::new(&request, Asker { connection: 7, is_local: true })
    }

    /// Nobody overtakes another of the same key, whatever happens in between, and nothing is left at the end.
    #[test]
    fn everybody_for_one_key_comes_to_his_turn_in_order() {
        for seed in 0..50 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut waiting = Waiting::default();
            let mut lines: BTreeMap<u64, VecDeque<WaitId>> = BTreeMap::new();
            for step in 0..2_000 {
                let hash = random.random_range(0..5);
                if step < 1_500 && random.random_bool(0.5) {
                    let id = if waiting.is_busy(hash) || random.random_bool(0.3) {
                        waiting.park(parked(10), hash, DEADLINE).expect("there is room")
                    } else {
                        let id = waiting.next_id();
                        waiting.reply_later(id, MANNER, b"STORED\r\n".to_vec(), hash, true);
                        id
                    };
                    lines.entry(hash).or_default().push_back(id);
                } else if random.random_bool(0.5) {
                    waiting.all_may_go();
                    while let Some(id) = waiting.next_to_go() {
                        let Some((request, hash, _)) = waiting.parked(id) else { continue };
                        assert_eq!(lines[&hash].front(), Some(&id), "seed {seed}");
                        match random.random_range(0..3) {
                            0 => waiting.park_again(id, request),
                            1 => waiting.reply_later(id, MANNER, Vec::new(), hash, true),
                            _ => {
                                assert!(waiting.finish(id, Ok(Vec::new())).is_none(), "nobody attends");
                                lines.get_mut(&hash).unwrap().pop_front();
                            }
                        }
                    }
                } else if let Some(&id) = lines.get(&hash).and_then(VecDeque::front)
                    && waiting.answered(id, true).is_none()
                    && !waiting.entries.contains_key(&id)
                {
                    lines.get_mut(&hash).unwrap().pop_front();
                }
                lines.retain(|_, line| !line.is_empty());
                assert!((0..5).all(|hash| waiting.is_busy(hash) == lines.contains_key(&hash)), "seed {seed}");
                assert_eq!(waiting.len(), lines.values().map(VecDeque::len).sum::<usize>());
            }
            for id in lines.into_values().flatten() {
                waiting.finish(id, Err(ErrorReply::KeyUnsettled));
            }
            assert!(
                waiting.is_empty() && waiting.bytes() == 0 && waiting.parked == 0 && waiting.lines.is_empty()
            );
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let mut waiting = Waiting::default();
        assert!((0..PARKED_MAX).all(|_| waiting.park(parked(0), 1, DEADLINE).is_some()));
        assert!(waiting.park(parked(0), 2, DEADLINE).is_none());
        let mut waiting = Waiting::default();
        assert!(waiting.park(parked(PARKED_BYTES_MAX), 1, DEADLINE).is_some(), "alone");
        assert!(waiting.park(parked(0), 1, DEADLINE).is_none());
    }
}
