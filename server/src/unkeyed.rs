//! Requests without a key: about the connection, the node, or all its shards. Part of dispatch: no system calls.

use std::sync::atomic::Ordering;

use slabring_protocol::reply::{self, Outcome};
use slabring_protocol::{Command, ErrorReply, Request, SASL_MECHANISMS, StatsTopic};

use crate::batch::ReturnAddress;
use crate::connection::{Connection, Ending};
use crate::dispatch::Dispatcher;
use crate::exptime::flush_due;
use crate::log;
use crate::report::{Answer, Asked, Gathering, Question};
use crate::stats;

impl Dispatcher {
    /// Answers a request without a key, or has it answered.
    #[cold]
    pub fn dispatch_unkeyed(&mut self, client: &mut Connection, request: &Request<'_>) {
        match request.command {
            Command::Version => {
                client.outbox.local(|out| reply::version_of(out, request, stats::MEMCACHED_VERSION));
            }
            Command::Quit => {
                client.outbox.local(|out| reply::quit(out, request));
                client.ending = Ending::AfterOutput;
            }
            Command::Verbosity { level } => {
                self.node.verbosity.store(usize::from(level), Ordering::Relaxed);
                log::set_verbosity(usize::from(level));
                tell(client, request, Outcome::Done);
            }
            Command::FlushAll { .. } if !self.node.settings.flush_enabled => {
                refuse(client, request, ErrorReply::FlushNotAllowed);
            }
            Command::FlushAll { delay } => {
                self.executor.traffic.cmd_flush += 1;
                self.ask_all(client, request, Question::Flush(flush_due(delay, self.now)));
            }
            Command::Stats(StatsTopic::Reset) => self.ask_all(client, request, Question::ResetCounters),
            Command::Stats(_) => self.ask_all(client, request, Question::Report),
            Command::Authenticate | Command::SaslStart | Command::SaslStep => {
                self.authenticate(client, request);
            }
            Command::SaslMechanisms => {
                client.outbox.local(|out| reply::sasl_mechanisms(out, request, SASL_MECHANISMS));
            }
            _ => refuse(client, request, ErrorReply::Error),
        }
    }

    /// Puts a question to all shards; the answer takes its place in the order of replies when the last has answered.
    pub fn ask_all(&mut self, client: &mut Connection, request: &Request<'_>, question: Question) {
        self.count_all_buffers();
        let mut text = Vec::new();
        let answer = self.executor.answer(self.now, question, &mut text);
        let gathering = Gathering { asked: Asked::of(request), answer, text };
        if self.shards.count == 1 {
            client.outbox.local(|out| self.render(&gathering, out));
            return;
        }
        let ticket = client.outbox.expect_parts(self.shards.count - 1, Some(Box::new(gathering)));
        self.post.ask_all(ReturnAddress { connection: client.id, ticket }, question);
    }

    /// Writes the answer to which all shards have contributed.
    pub fn render(&self, gathering: &Gathering, out: &mut Vec<u8>) {
        let request = gathering.asked.request();
        match (&gathering.answer, request.command) {
            (Answer::Numbers(report), Command::Stats(topic)) => {
                let mut text = Vec::new();
                match stats::render(&mut text, &self.node, topic, report) {
                    Ok(()) => reply::stats(out, &request, &text),
                    Err(error) => reply::outcome(out, &request, Outcome::Refused(error)),
                }
            }
            (Answer::Done, Command::Stats(StatsTopic::Reset)) => {
                let mut text = Vec::new();
                reply::reset(&mut text);
                reply::stats(out, &request, &text);
            }
            (Answer::Done, _) => reply::outcome(out, &request, Outcome::Done),
            (answer, command) => unreachable!("{answer:?} is no answer to {command:?}"),
        }
    }
}

/// Tells how a request ended.
pub fn tell(client: &mut Connection, request: &Request<'_>, outcome: Outcome) {
    client.outbox.local(|out| reply::outcome(out, request, outcome));
}

/// Refuses a request.
pub fn refuse(client: &mut Connection, request: &Request<'_>, error: ErrorReply) {
    tell(client, request, Outcome::Refused(error));
}
