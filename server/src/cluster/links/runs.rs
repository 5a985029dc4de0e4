//! Gets that go to one shard of another node in one message, and their replies in one: of a client's pipeline, up to 16 that were
//! read together. What cannot be executed at once is as if it had come by itself. Knows no sockets.

use slabring_cluster::forward::{Failure, Forward};
use slabring_cluster::peers::{Asked, Route, RunLane, RunPart};
use slabring_cluster::placement::hash_key;
use slabring_cluster::run::{GETS_MAX, REPLY_BYTES_HIGH, Replies, append_later, append_reply};
use slabring_cluster::wire::{Flags, Status};
use slabring_engine::WARM_KEYS_MAX;
use slabring_protocol::{
    Auth, Limits, Parser, Plain, PlainTaken, PlainWork, Protocol, Request, client, reply,
};

use super::Links;
use super::errands::{ERRAND_SLOTS, offer};
use super::gathered::PART_FLAGS;
use crate::batch::ReturnAddress;
use crate::cluster::forward::{PATIENCE, PendingReply};
use crate::connection::Connection;
use crate::dispatch::Dispatcher;
use crate::outbox::Ticket;

/// What several gets are sent with.
const RUN_FLAGS: Flags = Flags::AUTHENTICATED.with(Flags::RUN);

/// A group's gets, and what stands between them in the order of replies, have a bit each.
const _: () = assert!(2 * WARM_KEYS_MAX <= u32::BITS as usize && WARM_KEYS_MAX == GETS_MAX);

/// Gets of one group of requests on their way to other nodes.
#[derive(Debug, Default)]
pub struct Going {
    gets: Vec<Get>,
    key_bytes: usize,
}

#[derive(Debug)]
struct Get {
    /// Which request of the group it is.
    number: usize,
    hash: u64,
    ticket: Ticket,
    /// Where it may go with others.
    lane: Option<RunLane>,
    is_sent: bool,
}

impl Going {
    /// How many.
    pub fn len(&self) -> usize {
        self.gets.len()
    }

    /// Bytes of their keys.
    pub fn key_bytes(&self) -> usize {
        self.key_bytes
    }
}

impl Dispatcher {
    /// Has a plain get go to another node with the next [`Self::send_going`]: the group's request of this number.
    pub fn have_go(&mut self, client: &mut Connection, number: usize, key: &[u8]) {
        let links = self.cluster.as_mut().expect("who stands alone owns every key");
        let hash = hash_key(key);
        let lane = links.peers.run_lane(hash);
        let ticket = client.outbox.expect();
        links.going.gets.push(Get { number, hash, ticket, lane, is_sent: false });
        links.going.key_bytes += key.len();
    }

    /// Sends the gets that go to other nodes: in one message those that go to one place, if their replies are small.
    pub fn send_going(&mut self, client: &mut Connection, requests: &[Plain<'_>]) {
        let links = self.cluster.as_mut().expect("who stands alone owns every key");
        if links.going.gets.is_empty() {
            return;
        }
        let (mut going, mut line) = (std::mem::take(&mut links.going), std::mem::take(&mut links.line));
        let may_share = client.lines.expect_within(going.len(), REPLY_BYTES_HIGH);
        for first in 0..going.gets.len() {
            if going.gets[first].is_sent {
                continue;
            }
            let Get { hash, ticket, lane, .. } = going.gets[first];
            let (mut places, mut count) = (0_u32, 0);
            line.clear();
            for get in &mut going.gets[first..] {
                let shares = may_share && lane.is_some() && get.lane == lane && !get.is_sent;
                if count == 0 || shares {
                    get.is_sent = true;
                    places |= 1 << get.ticket.behind(ticket);
                    count += 1;
                    client::get_one(&mut line, requests[get.number].key, false);
                }
            }
            let to = ReturnAddress { connection: client.id, ticket };
            if count == 1 {
                self.send_away(client, PendingReply::get(to, false), hash, PART_FLAGS, &line);
            } else {
                self.send_run(client, PendingReply::run(to, places), hash, count, &line);
            }
        }
        going.gets.clear();
        going.key_bytes = 0;
        let links = self.cluster.as_mut().expect("seen just now");
        (links.going, links.line) = (going, line);
    }

    fn send_run(
        &mut self,
        client: &mut Connection,
        place: PendingReply,
        hash: u64,
        gets: usize,
        bytes: &[u8],
    ) {
        let links = self.cluster.as_mut().expect("who stands alone owns every key");
        let deadline = links.now + PATIENCE;
        links.has_news = true;
        let request = Forward { hash, flags: RUN_FLAGS, deadline, bytes };
        match links.peers.forward_run(links.now, place, &request, gets) {
            Ok(Route::Sent) => {
                self.executor.traffic.forwarded += gets as u64;
                links.hold_back(client);
            }
            Ok(Route::Here) => unreachable!("dispatch has looked at the same ring"),
            Err(failure) => refuse(self, client, place.each(), failure),
        }
    }
}

impl Links {
    /// Hands out what has become of some gets that went together.
    pub(super) fn answer_run(
        &mut self,
        dispatcher: &mut Dispatcher,
        client: &mut Connection,
        place: PendingReply,
        gets: u16,
        outcome: Result<RunPart, Failure>,
    ) {
        let mut places = place.each().enumerate().filter(|(number, _)| gets >> number & 1 == 1);
        match outcome {
            Ok(RunPart::Replies) => {
                let replies = Replies(self.peers.body()).flatten();
                for (reply, (_, to)) in replies.zip(places) {
                    dispatcher.answer_from_afar(client, PendingReply::get(to, true), Ok(reply));
                }
            }
            Ok(RunPart::Reply) => {
                let (_, to) = places.next().expect("it is the reply to one of them");
                dispatcher.answer_from_afar(client, PendingReply::get(to, false), Ok(self.peers.body()));
            }
            Ok(RunPart::NotExecuted) => self.send_alone(dispatcher, client, places),
            Err(failure) => refuse(dispatcher, client, places.map(|(_, to)| to), failure),
        }
    }

    /// Sends gets of a run one by one, or executes them here if they belong here by now.
    #[cold]
    fn send_alone(
        &mut self,
        dispatcher: &mut Dispatcher,
        client: &mut Connection,
        places: impl Iterator<Item = (usize, ReturnAddress)>,
    ) {
        let (gets, deadline) = self.peers.run();
        let gets = gets.to_vec();
        let mut plain = [Plain::NONE; GETS_MAX];
        let count = take_gets(&gets, &self.limits, &mut plain);
        for (number, to) in places {
            assert!(number < count, "they are as they were written here");
            let (key, place) = (plain[number].key, PendingReply::get(to, false));
            let mut line = Vec::new();
            client::get_one(&mut line, key, false);
            let request = Forward { hash: hash_key(key), flags: PART_FLAGS, deadline, bytes: &line };
            self.has_news = true;
            match self.peers.forward_alone(self.now, place, &request) {
                Ok(Route::Sent) => {}
                Ok(Route::Here) => self.execute_here(dispatcher, client, place, &line),
                Err(failure) => dispatcher.answer_from_afar(client, place, Err(failure)),
            }
        }
    }

    /// Executes several gets of another node, and answers those together that are this shard's, need not wait and have small values.
    /// The others are executed as if each had come by itself.
    pub(super) fn execute_run(&mut self, dispatcher: &mut Dispatcher, asked: Asked) {
        let executor = &mut dispatcher.executor;
        let mut plain = [Plain::NONE; GETS_MAX];
        let count = take_gets(self.peers.body(), &self.limits, &mut plain);
        let plain = &plain[..count];
        executor.traffic.peer_requests += (count as u64).saturating_sub(1);
        let waits = executor.has_parked();
        let hashes = executor.shard().warm(plain.iter().map(|plain| plain.key));
        let connection = self.shards.connection_number(self.shards.me, ERRAND_SLOTS);
        let mut later = 0_u16;
        self.reply.clear();
        for (number, (plain, hash)) in plain.iter().zip(hashes).enumerate() {
            let place = hash_key(plain.key);
            let is_mine = self.peers.owns(place) && self.shards.owner_by(place) == self.shards.me;
            if waits || !is_mine || self.reply.len() >= REPLY_BYTES_HIGH {
                append_later(&mut self.reply);
                later |= 1 << number;
                continue;
            }
            let request = Request::get(plain.key, false);
            let (start, now, mut done) = (self.reply.len(), dispatcher.now, 1);
            append_reply(&mut self.reply, |out| {
                if executor.replicates() {
                    done = executor.get_copied(now, [(plain.key, hash)].into_iter(), connection, out);
                } else {
                    executor.get_whole(now, &request, hash, connection, out);
                    reply::end(out);
                }
            });
            if done == 0 {
                self.reply.truncate(start);
                append_later(&mut self.reply);
                later |= 1 << number;
                continue;
            }
            offer(executor, asked, &request);
        }
        if later == 0 {
            return self.peers.respond(asked, Status::Done, &self.reply);
        }
        let gets = self.peers.body().to_vec();
        self.peers.respond(asked, Status::Done, &self.reply);
        self.execute_later(dispatcher, asked, &gets, later);
    }

    #[cold]
    fn execute_later(&mut self, dispatcher: &mut Dispatcher, asked: Asked, gets: &[u8], later: u16) {
        let mut plain = [Plain::NONE; GETS_MAX];
        let count = take_gets(gets, &self.limits, &mut plain);
        for (number, plain) in
            plain[..count].iter().enumerate().filter(|(number, _)| later >> number & 1 == 1)
        {
            let (asked, hash) = (asked.part(number), hash_key(plain.key));
            let waits = dispatcher.executor.replicates() || dispatcher.executor.has_parked();
            if !self.peers.owns(hash) {
                self.peers.respond(asked, Status::WrongOwner, &[]);
            } else if waits || self.shards.owner_by(hash) != self.shards.me {
                self.get_alone(dispatcher, asked, plain.key);
            } else {
                self.gathered.push(asked, plain.key, dispatcher.turn);
            }
        }
    }
}

/// Says why there are no replies to gets.
fn refuse(
    dispatcher: &mut Dispatcher,
    client: &mut Connection,
    places: impl Iterator<Item = ReturnAddress>,
    failure: Failure,
) {
    for to in places {
        dispatcher.answer_from_afar(client, PendingReply::get(to, true), Err(failure));
    }
}

/// The plain gets that some bytes begin with.
fn take_gets<'b>(bytes: &'b [u8], limits: &Limits, places: &mut [Plain<'b>; GETS_MAX]) -> usize {
    let PlainTaken { count, .. } = Parser::new(Protocol::Text, Auth::Open).plain(bytes, limits, places);
    places[..count].iter().take_while(|plain| plain.work == PlainWork::Get).count()
}
