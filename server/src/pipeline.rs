//! Requests of a pipeline that are taken together: the keys of a line, and plain gets and sets. Their memory is fetched at the same
//! time, and they need no step of the parser each. Everything else goes through `dispatch.rs`, one by one.

use slabring_engine::{KeyHash, WARM_KEYS_MAX};
use slabring_protocol::{KEY_SIZE_MAX, KeysTaken, Plain, PlainTaken, PlainWork, Request};

use crate::batch::ReturnAddress;
use crate::cluster::links::Owner;
use crate::connection::{Connection, OUTPUT_BYTES_HIGH, OUTPUT_BYTES_LOW};
use crate::datagrams::is_datagram;
use crate::dispatch::Dispatcher;
use crate::lending::LENT_BYTES_MIN;
use crate::shards::ShardId;

/// Replies to a group of requests that lend nothing, at most.
const SMALL_REPLIES_BYTES_MAX: usize = WARM_KEYS_MAX * (LENT_BYTES_MIN + KEY_SIZE_MAX + 64);

/// Stands for the owner of a key that is another node's. A node has fewer shards.
const OF_ANOTHER_NODE: ShardId = ShardId(u16::MAX);

const _: () = assert!(SMALL_REPLIES_BYTES_MAX < OUTPUT_BYTES_LOW);

impl Dispatcher {
    /// Executes some more keys of a line, if they are all this shard's and nothing about them is special. Returns their bytes.
    pub fn execute_keys(&mut self, client: &mut Connection, rest: &[u8]) -> Option<usize> {
        if !client.parser.has_keys() || !self.is_alone() || !self.may_get_freely(client) {
            return None;
        }
        let parser_before = client.parser.clone();
        let mut keys = [&[][..]; WARM_KEYS_MAX];
        // The one that has just been let through is among them.
        let part = client.rest_of_part(self.node.settings.requests_per_turn).saturating_add(1);
        let places = usize::try_from(part).map_or(WARM_KEYS_MAX, |part| part.min(WARM_KEYS_MAX));
        let KeysTaken { with_cas, count, consumed } = client.parser.take_keys(rest, &mut keys[..places])?;
        let done = self.get_keys(client, &keys[..count], with_cas);
        client.served += u32::try_from(done - 1).expect("a few");
        if done == count {
            return Some(consumed);
        }
        client.parser = parser_before;
        client.parser.take_keys(rest, &mut keys[..done]).map(|taken| taken.consumed)
    }

    /// Gets keys until one of their values, which may be large, makes the next wait. Returns how many, at least 1.
    fn get_keys(&mut self, client: &mut Connection, keys: &[&[u8]], with_cas: bool) -> usize {
        let hashes = self.executor.shard().warm(keys.iter().copied());
        let connection = self.shards.connection_number(self.shards.me, client.id.slot);
        for (done, (key, hash)) in keys.iter().zip(hashes).enumerate() {
            if done > 0 && !(self.may_execute(client) && self.may_get_freely(client)) {
                return done;
            }
            let (executor, now) = (&mut self.executor, self.now);
            let request = Request::get(key, with_cas);
            client.outbox.local_lending(|out| executor.get_lending(now, &request, hash, connection, out));
        }
        keys.len()
    }

    /// Executes some more requests that are plain, if nothing about them is special. Returns their bytes.
    pub fn execute_plain(&mut self, client: &mut Connection, rest: &[u8]) -> Option<usize> {
        if !Plain::may_begin(rest) || self.executor.has_parked() || !self.may_get_freely(client) {
            return None;
        }
        let mut requests = [Plain::NONE; WARM_KEYS_MAX];
        // The one that has just been let through is among them.
        let part = client.rest_of_part(self.node.settings.requests_per_turn).saturating_add(1);
        let places = usize::try_from(part).map_or(WARM_KEYS_MAX, |part| part.min(WARM_KEYS_MAX));
        let PlainTaken { count, consumed } = client.parser.plain(rest, &self.limits, &mut requests[..places]);
        let done = self.execute_group(client, &requests[..count]);
        if done == 0 {
            return None;
        }
        client.served += u32::try_from(done - 1).expect("a few");
        if done == count {
            return Some(consumed);
        }
        Some(client.parser.plain(rest, &self.limits, &mut requests[..done]).consumed)
    }

    /// Executes plain requests, posts them to their shards or sends them to their nodes, until the connection has to wait or one needs
    /// more thought. Returns how many.
    fn execute_group(&mut self, client: &mut Connection, requests: &[Plain<'_>]) -> usize {
        let done = self.execute_each(client, requests);
        if self.cluster.is_some() {
            self.send_going(client, requests);
        }
        done
    }

    fn execute_each(&mut self, client: &mut Connection, requests: &[Plain<'_>]) -> usize {
        let mut owners = [self.shards.me; WARM_KEYS_MAX];
        let mut count = requests.len();
        if !self.is_alone() {
            count = self.find_owners(requests, &mut owners);
        }
        let requests = &requests[..count];
        let mine = requests.iter().zip(&owners).filter(|&(_, owner)| *owner == self.shards.me);
        let hashes = self.executor.shard().warm(mine.map(|(plain, _)| plain.key));
        if self.executor.replicates() {
            return self.execute_copied_group(client, requests, &owners, &hashes);
        }
        let connection = self.shards.connection_number(self.shards.me, client.id.slot);
        let mut hashes = hashes.into_iter();
        // Small replies of this shard change nothing about what may be executed.
        let mut is_sure = client.outbox.bytes() < OUTPUT_BYTES_HIGH - SMALL_REPLIES_BYTES_MAX;
        for (done, (plain, &owner)) in requests.iter().zip(&owners).enumerate() {
            if done > 0 && !is_sure && !(self.may_execute(client) && self.may_get_freely(client)) {
                return done;
            }
            if owner == self.shards.me {
                let hash = hashes.next().expect("there is one for each of this shard's");
                let (executor, now) = (&mut self.executor, self.now);
                let lends = client
                    .outbox
                    .local_lending(|out| executor.execute_plain(now, plain, hash, connection, out));
                is_sure &= !lends;
            } else if owner == OF_ANOTHER_NODE {
                is_sure = false;
                if !self.forward_freely(client, done, plain.key) {
                    return done;
                }
            } else {
                is_sure = false;
                self.executor.traffic.requests_posted += 1;
                client.posted(self.turn);
                let sender = ReturnAddress { connection: client.id, ticket: client.outbox.expect() };
                self.post.plain(owner, sender, plain);
            }
        }
        count
    }

    /// As [`Self::execute_group`], where items have copies: gets that follow each other are answered together.
    fn execute_copied_group(
        &mut self,
        client: &mut Connection,
        requests: &[Plain<'_>],
        owners: &[ShardId],
        mut hashes: &[KeyHash],
    ) -> usize {
        let mut done = 0;
        while done < requests.len() {
            if done > 0 && !(self.may_execute(client) && self.may_get_freely(client)) {
                return done;
            }
            let (rest, is_mine) = (&requests[done..], owners[done] == self.shards.me);
            let is_get = |&(plain, owner): &(&Plain<'_>, &ShardId)| {
                plain.work == PlainWork::Get && *owner == self.shards.me
            };
            let gets = rest.iter().zip(&owners[done..]).take_while(is_get).count();
            let answered = match is_mine {
                true if gets > 0 => self.get_together(client, &rest[..gets], hashes),
                true => {
                    self.execute_copied(client, &rest[0].request());
                    1
                }
                false => usize::from(self.forward_freely(client, done, rest[0].key)),
            };
            if answered == 0 {
                return done;
            }
            done += answered;
            hashes = &hashes[if is_mine { answered } else { 0 }..];
        }
        done
    }

    /// Answers gets of items that have copies. Returns how many, or 0 if the first must wait, or none may be answered.
    fn get_together(&mut self, client: &mut Connection, gets: &[Plain<'_>], hashes: &[KeyHash]) -> usize {
        let connection = self.shards.connection_number(self.shards.me, client.id.slot);
        let keys = gets.iter().map(|get| get.key).zip(hashes.iter().copied());
        let (executor, now, mut done) = (&mut self.executor, self.now, 0);
        client.outbox.local(|out| done = executor.get_copied(now, keys, connection, out));
        done
    }

    /// Has a get go to another node, if that needs no thought: the request of this number.
    #[inline(never)]
    fn forward_freely(&mut self, client: &mut Connection, number: usize, key: &[u8]) -> bool {
        let is_free = !client.lines.redirects
            && !self.executor.knows_elsewhere(key)
            && !self.may_wait_for_others(client, key);
        if is_free {
            self.have_go(client, number, key);
        }
        is_free
    }

    /// Fills in whose the keys are. Returns how many, up to the first set for another node, or request for another shard in a cluster.
    fn find_owners(&self, requests: &[Plain<'_>], owners: &mut [ShardId; WARM_KEYS_MAX]) -> usize {
        for (count, (plain, place)) in requests.iter().zip(owners).enumerate() {
            if self.executor.is_guarded() && plain.work != PlainWork::Get {
                return count;
            }
            *place = match self.owner_of_key(plain.key) {
                // A reply that waits for copies comes without the end of its line.
                Owner::Shard(owner) if owner == self.shards.me || self.cluster.is_none() => owner,
                Owner::Elsewhere(_) if plain.work == PlainWork::Get => OF_ANOTHER_NODE,
                Owner::Shard(_) | Owner::Elsewhere(_) => return count,
            };
        }
        requests.len()
    }

    /// Whether a get needs no thought, however large its value is.
    fn may_get_freely(&self, client: &Connection) -> bool {
        !is_datagram(client.id)
            && !self.budget.outputs_are_full()
            && self.executor.shard().has_room_for_any_pin()
    }
}
