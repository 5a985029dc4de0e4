//! Clients that ask for several keys in one message. Their dice are their own, so that they change nothing for others.

use super::{Asked, REQUEST_TIME_MAX, World};
use crate::forward::{Failure, Forward};
use crate::peers::{self, Route, RunPart};
use crate::placement::hash_key;
use crate::run::{Replies, append_later, append_reply};
use crate::wire::{Flags, Status};

/// Keys that a client would ask for together, if they all went one way.
const KEYS_MAX: u64 = 12;
/// Bytes of one of them as it is sent: its number and its key.
const GET_BYTES: usize = 16;

impl World {
    /// A client asks for the keys of a few that go the same way.
    pub(super) fn ask_run(&mut self, index: usize, must_succeed: bool) {
        let mut keys: Vec<u64> = (0..KEYS_MAX).map(|_| self.run_dice.any()).collect();
        let Some(node) = &self.nodes[index] else { return };
        let lane_of = |key: &u64| node.peers.run_lane(hash_key(&key.to_le_bytes()));
        let Some(lane) = keys.iter().find_map(lane_of) else { return };
        keys.retain(|key| lane_of(key) == Some(lane));
        let (life, first, at) = (node.life, self.asked.len() as u64, self.now);
        let asked =
            || Asked { node: index, life, at, is_answered: false, executions: 0, must_succeed, next: None };
        self.asked.extend(keys.iter().map(|_| asked()));
        let numbers = (first..).zip(&keys);
        let gets: Vec<u8> =
            numbers.flat_map(|(number, key)| [number.to_le_bytes(), key.to_le_bytes()].concat()).collect();
        let request = Forward {
            hash: hash_key(&keys[0].to_le_bytes()),
            flags: Flags::AUTHENTICATED.with(Flags::RUN),
            deadline: at + REQUEST_TIME_MAX,
            bytes: &gets,
        };
        let gets_all = u16::try_from((1_u32 << keys.len()) - 1).unwrap();
        let node = self.nodes[index].as_mut().unwrap();
        match node.peers.forward_run(at, first, &request, keys.len()) {
            Ok(Route::Sent) => {}
            Ok(Route::Here) => unreachable!("a lane leads to another node"),
            Err(failure) => self.answer_run(index, first, gets_all, Err(failure)),
        }
    }

    /// The owner of a run executes some of it together, and the others by themselves.
    pub(super) fn execute_run(&mut self, index: usize, asked: peers::Asked) {
        let gets = self.nodes[index].as_ref().unwrap().peers.body().to_vec();
        let (mut replies, mut later) = (Vec::new(), Vec::new());
        for (number, get) in gets.chunks_exact(GET_BYTES).enumerate() {
            let is_mine = self.nodes[index].as_ref().unwrap().peers.owns(hash_key(&get[8..]));
            if is_mine && !self.run_dice.chance(50) {
                let reply = self.execute(index, get);
                append_reply(&mut replies, |out| out.extend(reply));
            } else {
                append_later(&mut replies);
                later.push((asked.part(number), get, is_mine));
            }
        }
        self.nodes[index].as_mut().unwrap().peers.respond(asked, Status::Done, &replies);
        for (asked, get, is_mine) in later {
            let reply = if is_mine { self.execute(index, get) } else { Vec::new() };
            let status = if is_mine { Status::Done } else { Status::WrongOwner };
            self.nodes[index].as_mut().unwrap().peers.respond(asked, status, &reply);
        }
    }

    /// What has become of some gets of a run: those that were not executed are sent by themselves.
    pub(super) fn answer_run(
        &mut self,
        index: usize,
        first: u64,
        gets: u16,
        outcome: Result<RunPart, Failure>,
    ) {
        let numbers =
            (0..u64::from(u16::BITS)).filter(|place| gets >> place & 1 == 1).map(|place| first + place);
        let numbers: Vec<_> = numbers.collect();
        let peers = &self.nodes[index].as_ref().unwrap().peers;
        match outcome {
            Err(failure) => numbers.iter().for_each(|&number| self.answer(number, Some(failure.to_string()))),
            Ok(RunPart::Replies) => {
                let replies: Vec<_> = Replies(peers.body()).flatten().map(<[u8]>::to_vec).collect();
                assert_eq!(replies.len(), numbers.len());
                for (&number, reply) in numbers.iter().zip(replies) {
                    assert!(reply.starts_with(&number.to_le_bytes()), "the reply of another request");
                    self.answer(number, None);
                }
                self.run_gets[0] += numbers.len() as u64;
            }
            Ok(RunPart::Reply) => {
                assert!(peers.body().starts_with(&numbers[0].to_le_bytes()), "the reply of another request");
                self.answer(numbers[0], None);
                self.run_gets[1] += 1;
            }
            Ok(RunPart::NotExecuted) => self.send_alone(index, first, &numbers),
        }
    }

    fn send_alone(&mut self, index: usize, first: u64, numbers: &[u64]) {
        let (gets, deadline) = self.nodes[index].as_ref().unwrap().peers.run();
        let gets = gets.to_vec();
        assert!(gets.starts_with(&first.to_le_bytes()), "the gets of another run");
        for (number, get) in (first..).zip(gets.chunks_exact(GET_BYTES)) {
            if !numbers.contains(&number) {
                continue;
            }
            self.run_gets[2] += 1;
            let flags = Flags::AUTHENTICATED.with(Flags::PART);
            let request = Forward { hash: hash_key(&get[8..]), flags, deadline, bytes: get };
            let node = self.nodes[index].as_mut().unwrap();
            match node.peers.forward_alone(self.now, number, &request) {
                Ok(Route::Sent) => {}
                Ok(Route::Here) => {
                    self.execute(index, get);
                    self.answer(number, None);
                }
                Err(failure) => self.answer(number, Some(failure.to_string())),
            }
        }
    }
}
