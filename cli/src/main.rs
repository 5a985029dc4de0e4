//! `slabring-cli`: a command line over [`slabring_client`]. It prints; everything else is the library's.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser as _;
use serde_json::{Value, json};
use slabring_client::cluster::ring::Ring;
use slabring_client::{Client, Endpoint, Error, Item, KeyEntry, Servers, StoreMode, StoreOptions, Ttl};
use slabring_etcd::{ClusterKeys, Standing};

use crate::args::{Arguments, ClusterArguments, ClusterCommand, Command, Target};
use crate::cluster::Plan;
use crate::failure::Failure;
use crate::operate::{Goal, Operation};
use crate::show::Show;
use crate::table::Table;

mod args;
mod cluster;
mod failure;
mod loss;
mod operate;
mod scrub;
mod show;
mod table;
mod waits;

/// What the exit status says of a command that worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// 0.
    Done,
    /// 1: no such item, or a condition did not hold.
    No,
}

impl Verdict {
    fn of(done: bool) -> Self {
        if done { Self::Done } else { Self::No }
    }
}

/// Where the answer goes, and in which form.
struct Printer {
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(Verdict::Done) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::from(1),
        // Who reads no further has what it wants.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("slabring-cli: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: &Arguments) -> Result<Verdict, Failure> {
    let client = Client::new(&arguments.target.servers(&arguments.command)?, arguments.target.options());
    let printer = Printer { json: arguments.target.json };
    match &arguments.command {
        Command::Get { keys } => get(&client, &printer, keys),
        Command::Set { key, value, ttl, flags, add, replace } => {
            let mode = match (add, replace) {
                (true, _) => StoreMode::Add,
                (_, true) => StoreMode::Replace,
                _ => StoreMode::Set,
            };
            set(&client, &printer, mode, key, value, StoreOptions { ttl: *ttl, flags: *flags })
        }
        Command::Delete { keys } => delete(&client, &printer, keys),
        Command::Touch { key, ttl } => touch(&client, &printer, key, *ttl),
        Command::Incr { key, delta } => number(&printer, key, client.incr(key, *delta)?),
        Command::Decr { key, delta } => number(&printer, key, client.decr(key, *delta)?),
        Command::Stats { topic } => stats(&client, &printer, &topic.join(" ")),
        Command::Keys { prefix, limit } => keys(&client, &printer, prefix, *limit),
        Command::Flush { delay, yes } => flush(&client, &printer, &arguments.target, *delay, *yes),
        Command::Version => version(&client, &printer),
        Command::Cluster(asked) => about_cluster(&client, &printer, &arguments.target, asked),
    }
}

fn about_cluster(
    client: &Client,
    printer: &Printer,
    target: &Target,
    asked: &ClusterArguments,
) -> Result<Verdict, Failure> {
    let keys = asked.keeper.keys(target.timeout())?;
    let of_members = || {
        let standing = keys.as_ref().map(ClusterKeys::read).transpose()?;
        members(client, target, standing.as_ref())
    };
    let (verb, node, goal) = match &asked.command {
        ClusterCommand::Status => return status(client, printer, target, keys.as_ref()),
        ClusterCommand::Plan { next, from } => {
            let next = cluster::read(next)?;
            let now = from.as_deref().map_or_else(|| ring(client), cluster::read)?;
            let plan = Plan::new(&now, &next);
            return printer.print(|| plan.json(), || plan.text());
        }
        ClusterCommand::Scrub => return scrub::run(&of_members()?.1, printer),
        ClusterCommand::Join { node, weight } => ("join", node, Goal::Join(*weight)),
        ClusterCommand::Drain { node } => ("drain", node, Goal::Drain),
        ClusterCommand::Weight { node, weight } => ("weight", node, Goal::Weight(*weight)),
        ClusterCommand::Down { node } => ("down", node, Goal::Down),
    };
    let keys = keys.ok_or(Failure::NoKeeper(verb))?;
    Operation::new(&keys, target, node, goal)?.carry_out(Show::new(printer.json))
}

impl Printer {
    fn print(&self, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Result<Verdict, Failure> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", json())?;
        } else {
            out.write_all(text().as_bytes())?;
        }
        Ok(Verdict::Done)
    }

    /// Prints one word, or its JSON, and passes the verdict on.
    fn say(&self, json: &Value, word: &str, verdict: Verdict) -> Result<Verdict, Failure> {
        self.print(|| json.clone(), || format!("{word}\n"))?;
        Ok(verdict)
    }
}

/// One key: its bytes as they are. Several: one line each.
fn get(client: &Client, printer: &Printer, keys: &[String]) -> Result<Verdict, Failure> {
    let items: Vec<_> = client.get_many(keys).into_iter().collect::<Result<_, Error>>()?;
    let all = items.iter().all(Option::is_some);
    if printer.json {
        let found: Vec<_> =
            keys.iter().zip(&items).map(|(key, item)| item_json(key, item.as_ref())).collect();
        printer.print(|| found.into(), String::new)?;
    } else if let [item] = &items[..] {
        let mut out = io::stdout().lock();
        if let Some(item) = item {
            out.write_all(&item.value)?;
            if io::stdout().is_terminal() {
                writeln!(out)?;
            }
        } else {
            eprintln!("slabring-cli: there is no item {}", keys[0]);
        }
    } else {
        let mut table = Table::new(["key", "flags", "value"]);
        for (key, item) in keys.iter().zip(&items) {
            match item {
                Some(item) => {
                    table.row([key.clone(), item.flags.to_string(), item.value.escape_ascii().to_string()]);
                }
                None => table.row([key.as_str(), "-", "(none)"]),
            }
        }
        printer.print(|| Value::Null, || table.to_string())?;
    }
    Ok(Verdict::of(all))
}

fn item_json(key: &str, item: Option<&Item>) -> Value {
    let Some(item) = item else { return json!({ "key": key, "found": false }) };
    match str::from_utf8(&item.value) {
        Ok(value) => json!({ "key": key, "found": true, "flags": item.flags, "value": value }),
        Err(_) => {
            let value = STANDARD.encode(&item.value);
            json!({ "key": key, "found": true, "flags": item.flags, "value_base64": value })
        }
    }
}

fn set(
    client: &Client,
    printer: &Printer,
    mode: StoreMode,
    key: &str,
    value: &str,
    options: StoreOptions,
) -> Result<Verdict, Failure> {
    let mut bytes = value.as_bytes().to_vec();
    if value == "-" {
        bytes.clear();
        io::stdin().read_to_end(&mut bytes)?;
    }
    let stored = client.store(mode, key, bytes, options)?.is_stored();
    let word = if stored { "stored" } else { "not stored" };
    printer.say(&json!({ "key": key, "stored": stored }), word, Verdict::of(stored))
}

fn delete(client: &Client, printer: &Printer, keys: &[String]) -> Result<Verdict, Failure> {
    let deleted: Vec<_> = keys.iter().map(|key| client.delete(key)).collect::<Result<_, _>>()?;
    let json: Vec<_> =
        keys.iter().zip(&deleted).map(|(key, deleted)| json!({ "key": key, "deleted": deleted })).collect();
    let word = |deleted: &bool| if *deleted { "deleted" } else { "not found" };
    let words: Vec<_> = deleted.iter().map(word).collect();
    printer.say(&json.into(), &words.join("\n"), Verdict::of(deleted.iter().all(|deleted| *deleted)))
}

fn touch(client: &Client, printer: &Printer, key: &str, ttl: Ttl) -> Result<Verdict, Failure> {
    let touched = client.touch(key, ttl)?;
    let word = if touched { "touched" } else { "not found" };
    printer.say(&json!({ "key": key, "touched": touched }), word, Verdict::of(touched))
}

fn number(printer: &Printer, key: &str, number: Option<u64>) -> Result<Verdict, Failure> {
    let word = number.map_or_else(|| "not found".to_owned(), |number| number.to_string());
    printer.say(&json!({ "key": key, "number": number }), &word, Verdict::of(number.is_some()))
}

/// A column for each server. One that fails is told, and the others are shown all the same.
fn stats(client: &Client, printer: &Printer, topic: &str) -> Result<Verdict, Failure> {
    let (servers, columns, first_error) = told(client.stats(topic));
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        for (name, value) in column {
            let known = rows.iter().position(|(known, _)| known == name);
            let row = known.unwrap_or_else(|| {
                rows.push((name.clone(), vec![String::new(); columns.len()]));
                rows.len() - 1
            });
            rows[row].1[index].clone_from(value);
        }
    }
    let json = || {
        let server = |(server, column): (&String, &Vec<(String, String)>)| {
            let column: serde_json::Map<_, _> =
                column.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
            (server.clone(), Value::Object(column))
        };
        Value::Object(servers.iter().zip(&columns).map(server).collect())
    };
    let text = || {
        let mut table = Table::new(std::iter::once("statistic").chain(servers.iter().map(String::as_str)));
        for (name, values) in &rows {
            table.row(std::iter::once(name.as_str()).chain(values.iter().map(String::as_str)));
        }
        table.to_string()
    };
    printer.print(json, text)?;
    first_error.map_or(Ok(Verdict::Done), |error| Err(error.into()))
}

fn keys(client: &Client, printer: &Printer, prefix: &str, limit: Option<usize>) -> Result<Verdict, Failure> {
    let (_, lists, first_error) = told(client.keys());
    let wanted = lists.into_iter().flatten().filter(|entry| entry.key.starts_with(prefix.as_bytes()));
    let entries: Vec<_> = wanted.take(limit.unwrap_or(usize::MAX)).collect();
    let name = |entry: &KeyEntry| entry.key.escape_ascii().to_string();
    let json = || {
        let entry = |entry: &KeyEntry| {
            json!({
                "key": name(entry), "expires": entry.expires, "last_access": entry.last_access,
                "fetched": entry.fetched, "class": entry.class, "size": entry.size,
            })
        };
        entries.iter().map(entry).collect()
    };
    let text = || {
        let mut table = Table::new(["key", "size", "class", "expires", "last access", "fetched"]);
        for entry in &entries {
            table.row([
                name(entry),
                entry.size.to_string(),
                entry.class.to_string(),
                entry.expires.map_or_else(|| "never".to_owned(), |second| second.to_string()),
                entry.last_access.to_string(),
                (if entry.fetched { "yes" } else { "no" }).to_owned(),
            ]);
        }
        table.to_string()
    };
    printer.print(json, text)?;
    first_error.map_or(Ok(Verdict::Done), |error| Err(error.into()))
}

fn flush(
    client: &Client,
    printer: &Printer,
    target: &Target,
    delay: u32,
    yes: bool,
) -> Result<Verdict, Failure> {
    if let Some(Err(error)) = client.versions().into_iter().map(|(_, version)| version).find(Result::is_err) {
        // Half a flush is worse than none: all servers have to be there.
        return Err(error.into());
    }
    let emptied = emptied_by(&client.servers(), target)?;
    let names = emptied.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    if !yes && !is_confirmed(&format!("Remove everything from {names}?"))? {
        return Err(Failure::NotConfirmed(names));
    }
    for (_, flushed) in client.flush(delay) {
        flushed?;
    }
    let json = json!({ "flushed": emptied.len(), "servers": emptied });
    printer.say(&json, "flushed", Verdict::Done)
}

/// Whom a flush empties: a node of a cluster has all of them do it.
fn emptied_by(servers: &[Endpoint], target: &Target) -> Result<BTreeSet<String>, Failure> {
    let mut emptied = BTreeSet::new();
    for server in servers {
        let name = server.to_string();
        match Client::new(&Servers::ring([&*name])?, target.options()).ring()? {
            Some(ring) => {
                let serving = ring.slots.iter().filter(|slot| slot.state.serves());
                emptied.extend(serving.map(|slot| slot.client.to_string()));
            }
            None => drop(emptied.insert(name)),
        }
    }
    Ok(emptied)
}

/// Asks on the terminal; without one the answer is no.
fn is_confirmed(question: &str) -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn version(client: &Client, printer: &Printer) -> Result<Verdict, Failure> {
    let (servers, versions, first_error) = told(client.versions());
    let builds = builds(client);
    let json = || {
        let pairs = servers.iter().zip(&versions);
        let said = |(server, version)| {
            (String::clone(server), json!({ "version": version, "slabring_version": builds.get(server) }))
        };
        Value::Object(pairs.map(said).collect())
    };
    let text = || {
        let mut table = Table::new(["server", "version", "slabring"]);
        for (server, version) in servers.iter().zip(&versions) {
            table.row([server.as_str(), version, builds.get(server).map_or("-", String::as_str)]);
        }
        table.to_string()
    };
    printer.print(json, text)?;
    first_error.map_or(Ok(Verdict::Done), |error| Err(error.into()))
}

/// Each Slabring's own version, which `version` does not tell, by its address.
fn builds(client: &Client) -> BTreeMap<String, String> {
    let build = |(server, stats): (Endpoint, Result<Vec<(String, String)>, Error>)| {
        let (_, version) = stats.ok()?.into_iter().find(|(name, _)| name == "slabring_version")?;
        Some((server.to_string(), version))
    };
    client.stats("").into_iter().filter_map(build).collect()
}

fn status(
    client: &Client,
    printer: &Printer,
    target: &Target,
    keys: Option<&ClusterKeys>,
) -> Result<Verdict, Failure> {
    let standing = keys.map(ClusterKeys::read).transpose()?;
    let (ring, client) = members(client, target, standing.as_ref())?;
    let said = |result: Result<String, Error>| match result {
        Ok(version) => version,
        Err(error) => error.to_string(),
    };
    let mut answers: BTreeMap<_, _> = client
        .versions()
        .into_iter()
        .map(|(server, version)| {
            (server.to_string(), cluster::Answer { version: said(version), build: None, shards: None })
        })
        .collect();
    for (server, build) in builds(&client) {
        answers.entry(server).and_modify(|answer| answer.build = Some(build));
    }
    for (server, settings) in client.stats("settings") {
        let settings = settings.unwrap_or_default();
        let threads = settings.iter().find(|(name, _)| name == "num_threads");
        if let Some(answer) = answers.get_mut(&server.to_string()) {
            answer.shards = threads.and_then(|(_, threads)| threads.parse().ok());
        }
    }
    let standing = standing.as_ref();
    printer.print(
        || cluster::status_json(&ring, &answers, standing),
        || cluster::status(&ring, &answers, standing),
    )
}

/// The ring, as etcd has it or else as a node tells it, and a client of its members.
fn members(client: &Client, target: &Target, standing: Option<&Standing>) -> Result<(Ring, Client), Failure> {
    let Some(standing) = standing else { return Ok((ring(client)?, client.clone())) };
    let ring = operate::ring_of(standing)?;
    let members = operate::client_of(&ring, target)?;
    Ok((ring, members))
}

fn ring(client: &Client) -> Result<Ring, Failure> {
    let document = client.ring()?;
    let document = document.ok_or_else(|| Failure::NoCluster(client.servers()[0].to_string()))?;
    Ring::new(document).map_err(|refusal| Failure::Ring(refusal.to_string()))
}

/// Parts what servers said from who said nothing: names, answers, and the first error. Each error is told at once.
fn told<T>(answers: Vec<(Endpoint, Result<T, Error>)>) -> (Vec<String>, Vec<T>, Option<Error>) {
    let (mut servers, mut told, mut first_error) = (Vec::new(), Vec::new(), None);
    for (server, answer) in answers {
        match answer {
            Ok(answer) => {
                servers.push(server.to_string());
                told.push(answer);
            }
            Err(error) if first_error.is_none() => first_error = Some(error),
            Err(error) => eprintln!("slabring-cli: {error}"),
        }
    }
    (servers, told, first_error)
}
