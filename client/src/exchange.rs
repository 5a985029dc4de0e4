//! Commands on one connection: their bytes in order, and their replies told apart. Never a socket and never a clock.
//!
//! Requests are sent ahead of replies, but only [`WINDOW_SIZE`] bytes of them: those fit what the kernel keeps for a
//! connection, so a server that stops reading until its replies are taken cannot block a client that writes first.

use std::collections::VecDeque;
use std::ops::Range;

use slabring_protocol::KEY_SIZE_MAX;
use slabring_protocol::client::{Reply, ReplyKind, ReplyParser, ReplyStep};

use crate::command::{Answer, Command};
use crate::decode;
use crate::encode::{self, Context};
use crate::error::{Executed, Failure, words};
use crate::options::Wire;
use crate::refusal::Refusal;

/// Bytes of requests that may wait for their replies; a longer request goes alone.
///
/// Linux gives the receiving side 64 KiB of window at first, and the sending side 16 KiB at least.
pub(crate) const WINDOW_SIZE: usize = 32 << 10;

/// Keys of one classic `get`. More make several, so that the window goes on.
const KEYS_PER_GET_MAX: usize = 100;

const _: () = assert!(KEYS_PER_GET_MAX * (KEY_SIZE_MAX + 1) < WINDOW_SIZE);

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered(Answer),
    Refused {
        refusal: Refusal,
        words: String,
    },
    /// The exchange ended before.
    Open(Executed),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Exchange {
    commands: Vec<Command>,
    context: Context,
    reply_size_max: usize,
    /// Of the first commands, whose replies have been read.
    outcomes: Vec<Outcome>,
    /// Commands from here on are not encoded yet.
    next: usize,
    /// Requests that are encoded and not answered.
    in_flight: VecDeque<Request>,
    /// Encoded bytes, of which the first `written` are sent; both count from `output_start`.
    output: Vec<u8>,
    written: usize,
    output_start: usize,
    /// Received bytes that belong to a reply which is not complete.
    input: Vec<u8>,
    /// Of them, so many has the parser seen.
    parsed: usize,
    parser: ReplyParser,
    /// A refusal that may have left the server in the middle of a value.
    is_poisoned: bool,
}

/// One request: a command, or several gets in one line.
#[derive(Clone, Debug)]
struct Request {
    commands: Range<usize>,
    /// Its bytes, counted from the exchange's first.
    bytes: Range<usize>,
}

impl Exchange {
    /// An exchange of at least one command.
    pub(crate) fn new(commands: Vec<Command>, context: Context, reply_size_max: usize) -> Self {
        assert!(!commands.is_empty(), "there is nothing to exchange");
        Self {
            commands,
            context,
            reply_size_max,
            outcomes: Vec::new(),
            next: 0,
            in_flight: VecDeque::new(),
            output: Vec::new(),
            written: 0,
            output_start: 0,
            input: Vec::new(),
            parsed: 0,
            parser: ReplyParser::default(),
            is_poisoned: false,
        }
    }

    /// The bytes to send now; empty while replies are awaited.
    pub(crate) fn output(&mut self) -> &[u8] {
        while self.has_room() {
            self.encode_next();
        }
        &self.output[self.written..]
    }

    /// The first `size` bytes of the output are sent, or may be.
    pub(crate) fn wrote(&mut self, size: usize) {
        assert!(size <= self.output.len() - self.written, "more was sent than there was");
        self.written += size;
        if self.written == self.output.len() {
            self.output_start += self.written;
            self.output.clear();
            self.written = 0;
        }
    }

    /// Whether all commands have their outcome.
    pub(crate) fn is_done(&self) -> bool {
        self.outcomes.len() == self.commands.len()
    }

    /// Whether the connection may be used for another exchange.
    pub(crate) fn leaves_connection_clean(&self) -> bool {
        self.is_done() && self.input.is_empty() && self.written == self.output.len() && !self.is_poisoned
    }

    /// Whether a refusal ended the exchange: the server is well, and the connection is not.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.is_poisoned
    }

    /// Takes what was received. After a failure the connection must be closed.
    pub(crate) fn received(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.input.extend_from_slice(bytes);
        let mut start = 0;
        let result = self.read_replies(&mut start);
        self.input.drain(..start);
        result
    }

    /// Each command with its outcome, in order.
    pub(crate) fn finish(mut self) -> impl Iterator<Item = (Command, Outcome)> {
        let sent = self.output_start + self.written;
        let requests = std::mem::take(&mut self.in_flight);
        for request in requests {
            // A server does not execute what it has not read to its end.
            let executed = if request.bytes.end <= sent { Executed::Unknown } else { Executed::No };
            let open = request.commands.len();
            self.outcomes.extend(std::iter::repeat_n(Outcome::Open(executed), open));
        }
        self.outcomes.resize(self.commands.len(), Outcome::Open(Executed::No));
        self.commands.into_iter().zip(self.outcomes)
    }

    fn has_room(&self) -> bool {
        if self.next == self.commands.len() || self.is_poisoned {
            return false;
        }
        let encoded = self.output_start + self.output.len();
        let waiting = self.in_flight.front().map_or(0, |request| encoded - request.bytes.start);
        let next = &self.commands[self.next..self.next + self.gets_in_one_line()];
        let next_size: usize = next.iter().map(Command::wire_size_estimate).sum();
        waiting == 0 || waiting + next_size <= WINDOW_SIZE
    }

    fn encode_next(&mut self) {
        let commands = self.next..self.next + self.gets_in_one_line();
        let start = self.output_start + self.output.len();
        match &self.commands[commands.start] {
            Command::Get { cas, .. } if commands.len() > 1 => {
                let keys = self.commands[commands.clone()].iter().filter_map(Command::key);
                encode::append_gets(&mut self.output, keys, *cas);
            }
            command => encode::append(&mut self.output, command, self.context, opaque(commands.start)),
        }
        let bytes = start..self.output_start + self.output.len();
        assert!(!bytes.is_empty(), "every request has bytes");
        self.next = commands.end;
        self.in_flight.push_back(Request { commands, bytes });
    }

    /// How many commands from the next one on are gets of one kind that one classic line can hold; at least 1.
    fn gets_in_one_line(&self) -> usize {
        let commands = &self.commands[self.next..];
        let Command::Get { cas: first, .. } = &commands[0] else { return 1 };
        if self.context.wire == Wire::Meta {
            return 1;
        }
        let same = |command: &&Command| matches!(command, Command::Get { cas, .. } if cas == first);
        commands.iter().take(KEYS_PER_GET_MAX).take_while(same).count()
    }

    /// Reads replies from `start` on, which moves to the first byte that is still needed.
    fn read_replies(&mut self, start: &mut usize) -> Result<(), Failure> {
        loop {
            match self.parser.next(&self.input[*start + self.parsed..]) {
                ReplyStep::Incomplete { consumed } => {
                    self.parsed += consumed;
                    let is_bounded = self.input.len() - *start <= self.reply_size_max;
                    return if is_bounded { Ok(()) } else { Err(self.rubbish(*start)) };
                }
                ReplyStep::Malformed => return Err(self.rubbish(*start)),
                ReplyStep::Reply { reply, consumed } => {
                    let end = *start + self.parsed + consumed;
                    self.parsed = 0;
                    self.settle(reply, *start..end)?;
                    *start = end;
                }
            }
            if self.is_poisoned && !self.is_done() {
                return Err(Failure::Lost(
                    "closed, since the server may have taken a value for commands".into(),
                ));
            }
            if *start == self.input.len() {
                return Ok(());
            }
        }
    }

    fn settle(&mut self, reply: Reply, bytes: Range<usize>) -> Result<(), Failure> {
        let sent = self.output_start + self.written;
        // An answer to what was not asked yet is an answer to something else.
        let Some(request) = self.in_flight.front().filter(|request| request.bytes.end <= sent) else {
            return Err(self.rubbish(bytes.start));
        };
        let request = request.clone();
        let is_dump = matches!(self.commands[request.commands.start], Command::Keys);
        if is_dump && reply.kind == ReplyKind::Ok {
            // Servers that follow memcached's documentation say so before they begin.
            return Ok(());
        }
        let text = &self.input[bytes.clone()];
        // Values may stand before a refusal.
        let refused = words(last_line(text));
        if let Some(refusal) = Refusal::of(reply.kind, &refused) {
            self.refuse(&request, &refusal, &refused);
        } else {
            let answers = self.answers(&request, reply, text).map_err(|_| self.rubbish(bytes.start))?;
            assert_eq!(answers.len(), request.commands.len(), "each command has one answer");
            self.outcomes.extend(answers.into_iter().map(Outcome::Answered));
        }
        self.in_flight.pop_front();
        assert_eq!(self.outcomes.len(), request.commands.end, "replies are settled in order");
        Ok(())
    }

    fn answers(&self, request: &Request, reply: Reply, text: &[u8]) -> Result<Vec<Answer>, decode::Rubbish> {
        let commands = &self.commands[request.commands.clone()];
        if let ([Command::Get { cas, .. }, _, ..], Wire::Text) = (commands, self.context.wire) {
            let keys = commands.iter().filter_map(Command::key);
            return Ok(decode::values(text, keys, *cas)?.into_iter().map(Answer::Item).collect());
        }
        let opaque = opaque(request.commands.start);
        decode::answer(&commands[0], self.context.wire, opaque, reply.kind, text).map(|answer| vec![answer])
    }

    fn refuse(&mut self, request: &Request, refusal: &Refusal, words: &str) {
        let command = &self.commands[request.commands.start];
        // A server that does not know the command goes on with the value as if it were commands.
        self.is_poisoned |= command.has_data() && *refusal == Refusal::Final(Executed::No);
        let outcome = Outcome::Refused { refusal: refusal.clone(), words: words.to_owned() };
        self.outcomes.extend(std::iter::repeat_n(outcome, request.commands.len()));
    }

    fn rubbish(&self, start: usize) -> Failure {
        Failure::Rubbish(words(&self.input[start..]))
    }
}

fn last_line(reply: &[u8]) -> &[u8] {
    let before = &reply[..reply.len().saturating_sub(1)];
    let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |lf| lf + 1);
    &reply[start..]
}

/// The number by which a meta reply names its request.
fn opaque(command: usize) -> u64 {
    u64::try_from(command).expect("usize has at most 64 bits")
}

#[cfg(test)]
mod tests;
