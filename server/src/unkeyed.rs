//! Requests without a key: about the connection, the node, or all its shards. Part of dispatch: no system calls.

use std::sync::atomic::Ordering;

use slabring_cluster::ring::Epoch;
use slabring_engine::MovePage;
use slabring_protocol::reply::{self, Outcome};
use slabring_protocol::{Classes, Command, ErrorReply, Request, SASL_MECHANISMS, StatsDetail, StatsTopic};

use crate::batch::ReturnAddress;
use crate::census;
use crate::connection::{Connection, Ending};
use crate::dispatch::Dispatcher;
use crate::dump::{Shows, Walk};
use crate::exptime::flush_due;
use crate::log;
use crate::pulse::SILENT_SECONDS;
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
                let view = self.cluster.as_ref().and_then(|links| links.view());
                let epoch = view.map_or(Epoch::NONE, |view| view.ring.epoch());
                let question = Question::Flush { due: flush_due(delay, self.now), epoch };
                if !self.flush_other_nodes(client, request, delay, question) {
                    self.ask_all(client, request, question);
                }
            }
            Command::Stats(topic) => self.dispatch_stats(client, request, topic),
            Command::Lock(command) => self.ask_lock(client, request, command),
            Command::Track => self.begin_track(client, request),
            Command::Admin(admin) => self.administer(client, request, admin),
            Command::SaslMechanisms => {
                client.outbox.local(|out| reply::sasl_mechanisms(out, request, SASL_MECHANISMS));
            }
            Command::Authenticate | Command::SaslStart | Command::SaslStep => {
                self.authenticate(client, request);
            }
            command => unreachable!("{command:?} has a key or is answered by dispatch"),
        }
    }

    fn dispatch_stats(&mut self, client: &mut Connection, request: &Request<'_>, topic: StatsTopic) {
        let may_dump = self.node.settings.dump_enabled;
        let tuning = &self.node.tuning;
        match topic {
            StatsTopic::Reset => self.ask_all(client, request, Question::ResetCounters),
            StatsTopic::HotKeys => self.ask_all(client, request, Question::HotKeys),
            StatsTopic::Scrub => self.ask_all(client, request, Question::Scrub),
            StatsTopic::Conns => self.ask_for_connections(client, request),
            StatsTopic::Detail(_) if !may_dump => refuse(client, request, ErrorReply::StatsDetailNotAllowed),
            StatsTopic::Detail(StatsDetail::Dump) => self.ask_all(client, request, Question::Prefixes),
            StatsTopic::Detail(detail) => {
                let wanted = detail == StatsDetail::On;
                tuning.detail.store(wanted, Ordering::Relaxed);
                self.ask_all(client, request, Question::CountPrefixes(wanted));
            }
            StatsTopic::Cachedump { .. } if !may_dump => {
                refuse(client, request, ErrorReply::StatsCachedumpNotAllowed);
            }
            StatsTopic::Cachedump { class, limit } => {
                let classes = Classes::Some(1 << class);
                self.begin_dump(client, request, Walk::new(Shows::Cachedump, classes, limit));
            }
            StatsTopic::CountSizes(wanted) => {
                tuning.sizes.store(wanted, Ordering::Relaxed);
                self.tell_sizes_status(client, request, wanted);
            }
            StatsTopic::Sizes if tuning.sizes.load(Ordering::Relaxed) => {
                self.begin_dump(client, request, Walk::new(Shows::Sizes, Classes::All, 0));
            }
            StatsTopic::Sizes => self.tell_sizes_status(client, request, false),
            StatsTopic::General
            | StatsTopic::Settings
            | StatsTopic::Items
            | StatsTopic::Slabs
            | StatsTopic::Extstore => self.ask_all(client, request, Question::Report),
        }
    }

    fn tell_sizes_status(&self, client: &mut Connection, request: &Request<'_>, enabled: bool) {
        let mut text = Vec::new();
        reply::stat(&mut text, "sizes_status", if enabled { "enabled" } else { "disabled" });
        reply::end(&mut text);
        client.outbox.local(|out| reply::stats(out, request, &text));
    }

    /// As [`Dispatcher::ask_all`]. This shard's own connections are told when none of them is being executed.
    fn ask_for_connections(&mut self, client: &mut Connection, request: &Request<'_>) {
        let gathering = Gathering { asked: Asked::of(request), answer: Answer::Done, text: Vec::new() };
        let ticket = client.outbox.expect_parts(self.shards.count, Some(Box::new(gathering)));
        let sender = ReturnAddress { connection: client.id, ticket };
        self.census_wanted.push(sender);
        self.post.ask_all(sender, Question::Connections);
    }

    /// Puts a question to all shards; the answer takes its place in the order of replies when the last has answered. Refused while a shard
    /// is silent.
    pub fn ask_all(&mut self, client: &mut Connection, request: &Request<'_>, question: Question) {
        if self.node.pulses.is_any_still(SILENT_SECONDS) {
            return refuse(client, request, ErrorReply::ShardSilent);
        }
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

    /// Answers what a client asked of the whole node, of which a shard is silent.
    pub fn give_up_gathering(&mut self, client: &mut Connection) {
        let Some((ticket, gathering)) = client.outbox.give_up() else { return };
        let mut text = Vec::new();
        let refused = Outcome::Refused(ErrorReply::ShardSilent);
        reply::outcome(&mut text, &gathering.asked.request(), refused);
        client.outbox.deliver(ticket, &text);
    }

    /// Writes the answer to which all shards have contributed.
    pub fn render(&self, gathering: &Gathering, out: &mut Vec<u8>) {
        let request = gathering.asked.request();
        match (&gathering.answer, request.command) {
            (Answer::Numbers(report), Command::Stats(topic)) => {
                let mut text = Vec::new();
                stats::render(&mut text, &self.node, topic, report);
                reply::stats(out, &request, &text);
            }
            (Answer::Done, Command::Stats(StatsTopic::Reset)) => {
                let mut text = Vec::new();
                reply::reset(&mut text);
                reply::stats(out, &request, &text);
            }
            (Answer::Done, Command::Stats(StatsTopic::Scrub)) => {
                let mut text = Vec::new();
                reply::stat(&mut text, "scrub", "begun");
                reply::end(&mut text);
                reply::stats(out, &request, &text);
            }
            (Answer::Done, Command::Stats(StatsTopic::Conns)) => {
                let mut text = Vec::new();
                census::describe_listeners(&mut text, &self.node);
                text.extend_from_slice(&gathering.text);
                reply::end(&mut text);
                reply::stats(out, &request, &text);
            }
            (Answer::Moved(moved), _) => {
                let outcome = match moved {
                    MovePage::Begun => Outcome::Done,
                    MovePage::Busy => Outcome::Refused(ErrorReply::ReassignRunning),
                    MovePage::UnknownClass => Outcome::Refused(ErrorReply::ReassignBadClass),
                    MovePage::SameClass => Outcome::Refused(ErrorReply::ReassignSame),
                    MovePage::NoSpare => Outcome::Refused(ErrorReply::ReassignNoSpare),
                };
                reply::outcome(out, &request, outcome);
            }
            (Answer::HotKeys(list), _) => {
                let mut text = Vec::new();
                list.render(&mut text);
                reply::stats(out, &request, &text);
            }
            (Answer::Prefixes(prefixes), _) => {
                let mut text = Vec::new();
                prefixes.render(&mut text);
                reply::stats(out, &request, &text);
            }
            (Answer::Done, _) => reply::outcome(out, &request, Outcome::Done),
            (Answer::Refused(error), _) => reply::outcome(out, &request, Outcome::Refused(*error)),
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
