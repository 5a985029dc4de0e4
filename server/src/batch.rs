//! The letter between shards: many requests of one turn on their way to the owner of their keys, and their replies
//! on the way back in the same box. Reused for ever, so that a busy pair of shards does not allocate.

use slabring_engine::Seconds;
use slabring_protocol::{Command, Request};
use slabring_reactor::ConnectionId;

use crate::execute::Executor;
use crate::outbox::Ticket;
use crate::report::{Question, ShardReport};

/// Requests in one letter before the next is begun.
pub const REQUESTS_MAX: usize = 1024;
/// Bytes of keys and values in one letter before the next is begun. One request may be larger.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;
/// Capacity that an idle letter keeps.
const BYTES_KEPT: usize = 256 << 10;

/// Who is to get an answer.
#[derive(Clone, Copy, Debug)]
pub struct ReturnAddress {
    /// The connection that asked.
    pub connection: ConnectionId,
    /// Its place in that connection's order of replies.
    pub ticket: Ticket,
}

/// A request whose bytes lie in the batch, one after the other: key, value, flags.
#[derive(Debug)]
struct Posted {
    sender: ReturnAddress,
    command: Command,
    noreply: bool,
    key_bytes: usize,
    value_bytes: usize,
    flags_bytes: usize,
    reply_bytes: usize,
}

/// See the module.
#[derive(Default, Debug)]
pub struct Batch {
    requests: Vec<Posted>,
    bytes: Vec<u8>,
    replies: Vec<u8>,
    /// Questions to the shard itself, asked behind the first `usize` requests.
    questions: Vec<(usize, ReturnAddress, Question)>,
    answers: Vec<Option<Box<ShardReport>>>,
}

impl Batch {
    /// Whether there is nothing to deliver.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.questions.is_empty()
    }

    /// Whether it is time to begin another.
    pub fn is_full(&self) -> bool {
        self.requests.len() >= REQUESTS_MAX || self.bytes.len() >= REQUEST_BYTES_MAX
    }

    /// Memory that is reserved here.
    pub fn capacity_bytes(&self) -> usize {
        self.bytes.capacity() + self.replies.capacity() + self.requests.capacity() * size_of::<Posted>()
    }

    /// Copies a request in.
    pub fn push(&mut self, sender: ReturnAddress, request: &Request<'_>) {
        for part in [request.key, request.value, request.flags] {
            self.bytes.extend_from_slice(part);
        }
        self.requests.push(Posted {
            sender,
            command: request.command,
            noreply: request.noreply,
            key_bytes: request.key.len(),
            value_bytes: request.value.len(),
            flags_bytes: request.flags.len(),
            reply_bytes: 0,
        });
    }

    /// Adds a question to the shard itself. It is asked after the requests that are in before it.
    pub fn ask(&mut self, sender: ReturnAddress, question: Question) {
        self.questions.push((self.requests.len(), sender, question));
    }

    /// The owner's part: executes everything in order and keeps the replies in here.
    pub fn execute(&mut self, executor: &mut Executor, now: Seconds) {
        let mut questions = self.questions.iter().peekable();
        let mut rest = &self.bytes[..];
        for (number, posted) in self.requests.iter_mut().enumerate() {
            while let Some((_, _, question)) = questions.next_if(|(behind, _, _)| *behind <= number) {
                self.answers.push(executor.answer(*question));
            }
            let request = Request {
                command: posted.command,
                noreply: posted.noreply,
                key: split_off(&mut rest, posted.key_bytes),
                value: split_off(&mut rest, posted.value_bytes),
                flags: split_off(&mut rest, posted.flags_bytes),
            };
            let before = self.replies.len();
            executor.execute(now, &request, &mut self.replies);
            posted.reply_bytes = self.replies.len() - before;
        }
        for (_, _, question) in questions {
            self.answers.push(executor.answer(*question));
        }
    }

    /// The sender's part: hands out what came back.
    pub fn replies(&self) -> impl Iterator<Item = (ReturnAddress, &[u8])> {
        let mut rest = &self.replies[..];
        self.requests.iter().map(move |posted| (posted.sender, split_off(&mut rest, posted.reply_bytes)))
    }

    /// Answers to the questions.
    pub fn answers(&mut self) -> impl Iterator<Item = (ReturnAddress, Option<Box<ShardReport>>)> + '_ {
        self.questions.iter().zip(self.answers.drain(..)).map(|((_, sender, _), answer)| (*sender, answer))
    }

    /// Empties the batch for its next journey, keeping a bounded capacity.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.questions.clear();
        self.answers.clear();
        for buffer in [&mut self.bytes, &mut self.replies] {
            buffer.clear();
            buffer.shrink_to(BYTES_KEPT);
        }
    }
}

fn split_off<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (part, remainder) = rest.split_at(length);
    *rest = remainder;
    part
}
