//! Plain gets of other nodes, up to 16 that follow each other: parsed by a look, their memory fetched at the same time, executed one
//! behind the other. Nothing else of their link is looked at before they are executed. Knows no sockets.

use slabring_cluster::peers::Asked;
use slabring_cluster::placement::hash_key;
use slabring_cluster::wire::{Flags, Status};
use slabring_engine::WARM_KEYS_MAX;
use slabring_protocol::{KEY_SIZE_MAX, Plain, PlainWork, Request};

use super::Links;
use super::errands::{ERRAND_SLOTS, offer};
use crate::dispatch::Dispatcher;

/// What a node sends with a key of a line.
pub(super) const PART_FLAGS: Flags = Flags::AUTHENTICATED.with(Flags::PART);

/// How such a request begins.
const BEGINNING: &[u8] = b"get ";

/// What becomes of the bound of a link's replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bound {
    /// What is behind it waits until replies have left.
    Kept,
    /// Of up to 16 gets it may be exceeded: a request that looked like one of them must not overtake any.
    Exceeded,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    gets: Vec<Get>,
    /// Their keys, one behind the other.
    keys: Vec<u8>,
    /// When the first of them was looked at: the number of the turn.
    turn: u64,
}

#[derive(Debug)]
struct Get {
    asked: Asked,
    /// Where its key ends in `keys`.
    key_end: usize,
}

impl Gathered {
    pub(super) fn push(&mut self, asked: Asked, key: &[u8], turn: u64) {
        if self.gets.is_empty() {
            self.turn = turn;
        }
        self.keys.extend_from_slice(key);
        self.gets.push(Get { asked, key_end: self.keys.len() });
        assert!(self.gets.len() <= WARM_KEYS_MAX && self.keys.len() <= WARM_KEYS_MAX * KEY_SIZE_MAX);
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.gets.iter().map(|get| get.key_end));
        starts.zip(&self.gets).map(|(start, get)| &self.keys[start..get.key_end])
    }

    /// Forgets the first ones.
    fn drop_first(&mut self, count: usize) {
        let bytes = self.gets[..count].last().map_or(0, |get| get.key_end);
        self.gets.drain(..count);
        self.gets.iter_mut().for_each(|get| get.key_end -= bytes);
        self.keys.drain(..bytes);
    }
}

impl Links {
    /// Whether the next request can wait beside those that were gathered.
    #[inline]
    pub(super) fn gathers_on(&self) -> bool {
        self.gathered.gets.len() < WARM_KEYS_MAX && self.peers.goes_on_with(PART_FLAGS, BEGINNING)
    }

    /// Takes in the request that came last, if it is a plain get for this shard. False: it must be executed by itself.
    #[inline]
    pub(super) fn gather(&mut self, dispatcher: &Dispatcher, asked: Asked) -> bool {
        let has_room = self.gathered.gets.len() < WARM_KEYS_MAX;
        let waits = dispatcher.executor.replicates() || dispatcher.executor.has_parked();
        if asked.flags != PART_FLAGS || !has_room || waits {
            return false;
        }
        let Some(Plain { key, work: PlainWork::Get }) = Plain::only(self.peers.body(), &self.limits) else {
            return false;
        };
        let is_mine = self.shards.owner_of(key) == self.shards.me;
        if is_mine {
            self.gathered.push(asked, key, dispatcher.turn);
        }
        is_mine
    }

    /// Executes what was gathered, as far as the links that it came on take replies.
    #[inline]
    pub(super) fn execute_gathered(&mut self, dispatcher: &mut Dispatcher, bound: Bound) {
        if !self.gathered.gets.is_empty() {
            self.execute_gets(dispatcher, bound);
        }
    }

    fn execute_gets(&mut self, dispatcher: &mut Dispatcher, bound: Bound) {
        // Who has waited for earlier replies to leave may have waited too long, or the ring has changed.
        let has_waited = self.gathered.turn != dispatcher.turn;
        let hashes = dispatcher.executor.shard().warm(self.gathered.keys());
        let connection = self.shards.connection_number(self.shards.me, ERRAND_SLOTS);
        let mut done = 0;
        for ((get, key), hash) in self.gathered.gets.iter().zip(self.gathered.keys()).zip(hashes) {
            if bound == Bound::Kept && self.peers.stalls(&get.asked) {
                break;
            }
            done += 1;
            let executor = &mut dispatcher.executor;
            if has_waited && get.asked.deadline <= self.now {
                self.peers.respond(get.asked, Status::Expired, &[]);
            } else if has_waited && (executor.replicates() || !self.peers.owns(hash_key(key))) {
                self.peers.respond(get.asked, Status::WrongOwner, &[]);
            } else {
                self.reply.clear();
                let request = Request::get(key, false);
                executor.get_whole(dispatcher.now, &request, hash, connection, &mut self.reply);
                offer(executor, get.asked, &request);
                self.peers.respond(get.asked, Status::Done, &self.reply);
            }
        }
        self.gathered.drop_first(done);
    }
}

#[cfg(test)]
mod tests {
    use slabring_cluster::time::Micros;

    use super::*;

    /// Keys that are pushed and dropped, and the same in a list.
    #[test]
    fn what_is_left_keeps_its_keys() {
        let mut seed = 1_u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % below
        };
        let (mut gathered, mut twin) = (Gathered::default(), Vec::new());
        for number in 0..2_000 {
            if twin.len() < WARM_KEYS_MAX && random(3) > 0 {
                let key = format!("{number}{}", "k".repeat(random(KEY_SIZE_MAX - 8)));
                let mut asked = Asked::default();
                asked.deadline = Micros(number);
                gathered.push(asked, key.as_bytes(), 0);
                twin.push((number, key));
            } else {
                let count = random(twin.len() + 1);
                gathered.drop_first(count);
                twin.drain(..count);
            }
            let keys: Vec<_> = gathered.keys().map(|key| String::from_utf8(key.to_vec()).unwrap()).collect();
            let numbers = gathered.gets.iter().map(|get| get.asked.deadline.0);
            assert_eq!(numbers.zip(keys).collect::<Vec<_>>(), twin);
            assert_eq!(gathered.keys.len(), twin.iter().map(|(_, key)| key.len()).sum::<usize>());
        }
    }
}
