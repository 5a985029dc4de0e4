//! What letters are to a connection: their replies, its requests that are posted again, and what other shards hear when it ends.

use slabring_reactor::ConnectionId;

use super::Dispatcher;
use crate::batch::{Batch, Outcome, ReturnAddress, Visit};
use crate::connection::{Connection, Deferred, Stream};
use crate::lending::{Remote, Value};
use crate::report::{Answer, Gathering, Question};
use crate::shards::ShardId;

impl Dispatcher {
    /// Executes another shard's letter and sends it back.
    pub fn execute_letter(&mut self, sender: ShardId, batch: Box<Batch>, census: &dyn Fn(&mut Vec<u8>)) {
        let (now, shards) = (self.now, self.shards);
        let visit = Visit { executor: &mut self.executor, census, now, shards, sender };
        self.post.execute(batch, visit);
    }

    /// Hands one outcome of a letter that has come back to its connection.
    pub fn deliver(&mut self, client: &mut Connection, to: ReturnAddress, outcome: Outcome<'_>) {
        client.letter_came(self.turn);
        match outcome {
            Outcome::Reply(reply) => self.answer_from_shard(client, to, reply),
            Outcome::Lending(reply, lent) => {
                let value = (lent.place, Remote::new(lent));
                client.outbox.deliver_lending(to.ticket, reply, Some(value));
                self.ask_for_slice(client);
            }
            // The post office keeps it.
            Outcome::Bounced | Outcome::Deferred | Outcome::Silence | Outcome::Promised => {}
            Outcome::Begun => {
                // It was not read meanwhile.
                client.heard_at = self.now;
                client.intake.as_mut().expect("it waits for this").begun();
            }
            Outcome::Answer(Answer::Walked(walked), text) => {
                client.outbox.deliver(to.ticket, text);
                self.walked(client, walked);
            }
            Outcome::Answer(Answer::Log, text) => {
                client.outbox.deliver(to.ticket, text);
                if let Some(Stream::Watch(watch)) = &mut client.stream {
                    watch.fetched();
                }
            }
            Outcome::Answer(Answer::Changes { are_all }, keys) => self.tell_changes(client, keys, *are_all),
            Outcome::Answer(Answer::Slice, slice) => {
                let empty = self.buffer_for(slice.len());
                client.outbox.deliver_slice(slice, empty);
            }
            Outcome::Answer(answer, text) => {
                let add = |gathering: &mut Gathering| gathering.add(answer, text);
                if let Some(gathering) = client.outbox.deliver_part(to.ticket, add) {
                    let mut text = Vec::new();
                    self.render(&gathering, &mut text);
                    client.outbox.deliver(to.ticket, &text);
                }
            }
        }
    }

    /// Posts the deferred requests of a connection again, if there is room and nothing that it posted behind them is still under
    /// way: that would be deferred too, and something newer could overtake it. Says whether it did.
    pub fn retry_deferred(&mut self, client: &mut Connection) -> bool {
        if client.bounced > 0 {
            for deferred in &mut client.deferred {
                deferred.letter = u64::MAX;
            }
            return false;
        }
        for deferred in client.deferred.iter_mut().filter(|deferred| deferred.letter == u64::MAX) {
            deferred.letter = self.post.letter_of_now(deferred.owner);
        }
        let is_here = |deferred: &Deferred| self.post.is_answered(deferred.owner, deferred.letter);
        if !client.deferred.iter().all(is_here) {
            return false;
        }
        while self.post.has_room()
            && let Some(deferred) = client.deferred.pop()
        {
            self.post.again(deferred.owner, deferred.requests);
        }
        client.deferred.is_empty()
    }

    /// Gives back what a connection that ends would have been sent.
    pub fn drop_values(&mut self, client: &mut Connection) {
        for value in client.outbox.take_values() {
            match value {
                Value::Here(lent) => lent.give_back(self.executor.shard_mut()),
                Value::There(remote) => self.take_back(remote.owner, remote.number),
            }
        }
        for deferred in std::mem::take(&mut client.deferred) {
            self.forget_at(deferred.owner, client.id);
        }
    }

    /// Tells another shard that its value is not wanted any more.
    pub fn take_back(&mut self, owner: ShardId, number: u32) {
        self.post.ask(owner, ReturnAddress::NOBODY, Question::TakeBack(number));
        self.has_more = true;
    }

    /// Tells another shard that a connection, of which it keeps something, will not go on.
    pub fn forget_at(&mut self, owner: ShardId, connection: ConnectionId) {
        self.post.ask(owner, ReturnAddress::NOBODY, Question::Forget(connection));
        self.has_more = true;
    }
}
