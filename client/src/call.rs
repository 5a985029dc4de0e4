//! One call: commands that find their servers, are tried again where that is safe, and end with an answer or an error
//! each. No socket and no clock; whoever drives it, blocking or async, does what [`Step`] says and reports back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::command::{Answer, Command};
use crate::encode::Context;
use crate::endpoint::Endpoint;
use crate::error::{Error, Executed, Failure};
use crate::exchange::{Exchange, Outcome};
use crate::options::{Options, after};
use crate::refusal::{Refusal, hints_at_new_ring};
use crate::router::Router;

/// How long a cluster is left to settle before it is asked again.
const SETTLE_TIME: Duration = Duration::from_millis(10);

/// Where a node says how many shards it has and at which ports.
const SHARDS_TOPIC: &str = "settings";

/// Nodes that one command may be sent to besides its tries that failed: a ring names each owner once.
const MOVES_MAX: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Call {
    tasks: Vec<Task>,
    deadline: Instant,
    wait_until: Option<Instant>,
    last_failure: Option<(Endpoint, Failure)>,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Do all of these, at the same time where that is possible, and settle each.
    Exchange(Vec<Batch>),
    /// Come again after so long.
    Wait(Duration),
    /// Every command has its result.
    Done,
}

/// Commands for one server.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) server: Endpoint,
    pub(crate) exchange: Exchange,
    /// When it must have ended.
    pub(crate) deadline: Instant,
    /// Whose commands these are. What comes behind them is the client's own: the ring, a node's shards.
    tasks: Vec<usize>,
}

#[derive(Debug)]
struct Task {
    command: Option<Command>,
    /// Of a command about a server: which.
    server: Option<Endpoint>,
    failures: u32,
    moves: u32,
    avoided: Vec<Endpoint>,
    result: Option<Result<Answer, Error>>,
}

impl Call {
    /// A call of these commands. One without a key comes with the server that it is for.
    pub(crate) fn new(
        commands: impl IntoIterator<Item = (Command, Option<Endpoint>)>,
        deadline: Instant,
    ) -> Self {
        let task = |(command, server): (Command, Option<Endpoint>)| {
            assert!(command.key().is_some() != server.is_some(), "a key, or a server: {command:?}");
            Task { command: Some(command), server, failures: 0, moves: 0, avoided: Vec::new(), result: None }
        };
        let tasks = commands.into_iter().map(task).collect();
        Self { tasks, deadline, wait_until: None, last_failure: None }
    }

    /// What to do next. `unix_seconds` is for times far away.
    pub(crate) fn step(
        &mut self,
        router: &mut Router,
        now: Instant,
        unix_seconds: u64,
        options: &Options,
    ) -> Step {
        let pending: Vec<_> =
            (0..self.tasks.len()).filter(|&task| self.tasks[task].result.is_none()).collect();
        if pending.is_empty() {
            return Step::Done;
        }
        if let Some(wait) = self.wait_until.take().filter(|&until| until > now && until < self.deadline) {
            return Step::Wait(wait - now);
        }
        let context = Context { wire: options.wire, unix_seconds };
        let deadline = self.deadline.min(after(now, options.try_timeout));
        if let Some(seed) = router.first_seed() {
            if now < self.deadline && !router.is_out_of_seeds() {
                let exchange = Exchange::new(vec![Command::Ring], context, options.reply_size_max);
                return Step::Exchange(vec![Batch { server: seed, exchange, deadline, tasks: Vec::new() }]);
            }
            router.forgive_seeds();
            return self.give_up(&pending, router);
        }
        if now >= self.deadline {
            return self.give_up(&pending, router);
        }
        let mut wants_ring = router.take_ring_due(now, options);
        let batches = self.by_server(&pending, router, options).into_iter().map(|(server, tasks)| {
            let taken = tasks.iter().map(|&task| self.tasks[task].command.take());
            let mut commands: Vec<_> = taken.map(|command| command.expect("it is not under way")).collect();
            // The ring comes along with what is asked anyway: no connection more, and no wait. So do a node's shards.
            if std::mem::take(&mut wants_ring) {
                commands.push(Command::Ring);
            }
            if router.take_shards_due(&server, now, options) {
                commands.push(Command::stats(SHARDS_TOPIC));
            }
            let exchange = Exchange::new(commands, context, options.reply_size_max);
            Batch { server, exchange, deadline, tasks }
        });
        Step::Exchange(batches.collect())
    }

    /// Takes note of how a batch ended: with a failure, or with all outcomes.
    pub(crate) fn settle(
        &mut self,
        batch: Batch,
        failure: Option<&Failure>,
        router: &mut Router,
        now: Instant,
        options: &Options,
    ) {
        let Batch { server, exchange, tasks, .. } = batch;
        if let Some(failure) = failure {
            router.suspect_ring(now);
            self.last_failure = Some((server.clone(), failure.clone()));
        }
        let mut tasks = tasks.into_iter();
        for (command, outcome) in exchange.finish() {
            match tasks.next() {
                Some(task) => {
                    self.settle_task(task, command, outcome, (&server, failure), router, now, options);
                }
                None if command == Command::Ring => {
                    settle_ring(outcome, failure.is_some(), router, now, options);
                }
                None => {
                    if let Outcome::Answered(answer) = outcome {
                        router.learn_shards(&server, shard_ports(&answer.stats()));
                    }
                }
            }
        }
        assert!(tasks.next().is_none(), "each task had its command");
        match failure {
            Some(_) => {
                router.failed(&server);
                router.doubt_shards(&server, now);
            }
            None => router.answered(),
        }
    }

    /// The results, in the order of the commands.
    pub(crate) fn finish(self) -> impl Iterator<Item = Result<Answer, Error>> {
        self.tasks.into_iter().map(|task| task.result.expect("a call that is done has all results"))
    }

    /// The tasks by the server that each goes to now.
    ///
    /// In the order of servers: calls that need connections to several take them in one order, so no two wait for each other.
    fn by_server(
        &self,
        pending: &[usize],
        router: &mut Router,
        options: &Options,
    ) -> BTreeMap<Endpoint, Vec<usize>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for &task in pending {
            let Task { command, server, avoided, .. } = &self.tasks[task];
            let server = server.clone().unwrap_or_else(|| {
                let key = command.as_ref().and_then(Command::key).expect("asserted when the call was made");
                router.server_of(key.as_bytes(), avoided, options)
            });
            groups.entry(server).or_default().push(task);
        }
        groups
    }

    /// The time is over, or there is nobody to ask: all that is left fails. It is under way nowhere.
    fn give_up(&mut self, pending: &[usize], router: &Router) -> Step {
        let nobody = || (router.servers()[0].clone(), Failure::Late);
        let (server, failure) = self.last_failure.clone().unwrap_or_else(nobody);
        for &task in pending {
            self.tasks[task].result = Some(Err(failure.error(&server, Executed::No)));
        }
        Step::Done
    }

    #[expect(clippy::too_many_arguments, reason = "one call site; a struct of them would be named after it")]
    fn settle_task(
        &mut self,
        index: usize,
        command: Command,
        outcome: Outcome,
        (server, failure): (&Endpoint, Option<&Failure>),
        router: &mut Router,
        now: Instant,
        options: &Options,
    ) {
        let task = &mut self.tasks[index];
        let may_be_repeated = command.may_be_repeated();
        task.command = Some(command);
        match outcome {
            Outcome::Answered(answer) => task.result = Some(Ok(answer)),
            Outcome::Refused { refusal, words } => {
                if hints_at_new_ring(&words) {
                    router.suspect_ring(now);
                }
                let again = task.after_refusal(&refusal, options);
                if !again {
                    let executed = refusal.executed();
                    task.result = Some(Err(Error::Refused { server: server.clone(), words, executed }));
                } else if refusal == Refusal::Soon {
                    self.wait_until = Some(now + SETTLE_TIME);
                }
            }
            Outcome::Open(executed) => {
                let failure = failure.expect("an exchange without a failure leaves nothing open");
                task.failures += 1;
                let is_safe = executed == Executed::No || may_be_repeated;
                let has_other_way = task.server.is_none() && router.any_node_will_do();
                let is_worth_it = has_other_way || matches!(failure, Failure::Lost(_));
                if !(is_safe && is_worth_it && task.failures <= options.retries) {
                    task.result = Some(Err(failure.error(server, executed)));
                } else if has_other_way {
                    task.avoided.push(server.clone());
                }
            }
        }
    }
}

/// Commands to run, and in place of those whose key is none, why.
#[expect(clippy::type_complexity, reason = "two lists, used up at once")]
pub(crate) fn split(
    commands: Vec<Result<Command, Error>>,
) -> (Vec<(Command, Option<Endpoint>)>, Vec<Option<Error>>) {
    let mut asked = Vec::new();
    let refused = commands.into_iter().map(|command| match command {
        Ok(command) => {
            asked.push((command, None));
            None
        }
        Err(error) => Some(error),
    });
    let refused = refused.collect();
    (asked, refused)
}

/// The results of all commands that were [`split`].
pub(crate) fn merge(
    refused: Vec<Option<Error>>,
    answers: Vec<Result<Answer, Error>>,
) -> Vec<Result<Answer, Error>> {
    let mut answers = answers.into_iter();
    let next = |error: Option<Error>| match error {
        Some(error) => Err(error),
        None => answers.next().expect("one command, one result"),
    };
    refused.into_iter().map(next).collect()
}

impl Task {
    /// Whether a command that was refused goes on, and where.
    fn after_refusal(&mut self, refusal: &Refusal, options: &Options) -> bool {
        match refusal {
            Refusal::Final(_) => return false,
            Refusal::Soon => self.failures += 1,
            Refusal::Moved(owner) => {
                self.moves += 1;
                self.server = Some(owner.clone());
            }
        }
        self.failures <= options.retries && self.moves <= MOVES_MAX
    }
}

/// The port of a node's first shard and how many it has, if each has one.
fn shard_ports(settings: &[(String, String)]) -> Option<(u16, u16)> {
    let number = |name: &str| settings.iter().find(|(known, _)| known == name)?.1.parse().ok();
    Some((number("slabring_shard_ports")?, number("num_threads")?))
}

fn settle_ring(outcome: Outcome, has_failed: bool, router: &mut Router, now: Instant, options: &Options) {
    match outcome {
        Outcome::Answered(answer) => match router.learn(&answer.ring(), now, options) {
            // What is refused changes nothing: it is asked for again after the interval, or seeds are, if too much was.
            Ok(()) | Err(_) => {}
        },
        Outcome::Refused { .. } => router.no_ring(now, options),
        Outcome::Open(_) => {
            assert!(has_failed, "an exchange without a failure leaves nothing open");
            router.seed_failed();
        }
    }
}

#[cfg(test)]
mod tests;
