//! What SIGHUP does: reads the configuration again, takes over what can change while the node runs, and says on stderr what
//! that was and what needs a restart. What is wrong changes nothing.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use anyhow::Result;

use crate::auth::read_users;
use crate::cluster::News;
use crate::log;
use crate::node::{Node, raise_files};
use crate::options::{CoordinatorSettings, Settings};

/// Options that can change while the node runs.
const LIVE: [&str; 3] = ["conn-limit", "extended", "verbose"];
/// The path can change, whether there is one cannot; `reload_users` tells.
const TOLD_ELSEWHERE: &str = "auth-file";

/// Reads everything again. Never fails: what cannot be used is told and left as it was.
pub fn reload(node: &Node) {
    let outcome = match read_again(node) {
        Ok(lines) if lines.is_empty() => vec!["nothing has changed".into()],
        Ok(lines) => lines,
        Err(error) => vec![format!("nothing is changed: {error:#}")],
    };
    for line in outcome {
        eprintln!("slabring: reload: {line}");
    }
}

fn read_again(node: &Node) -> Result<Vec<String>> {
    let settings = node.sources.read()?.settings(&node.sources)?;
    let mut latest = node.latest.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lines = Vec::new();
    for (name, now, then) in differences(&latest.options, &settings.options) {
        if LIVE.contains(&name) {
            lines.push(format!("{name} = {then} (was {now})"));
        }
    }
    take_over(node, &settings, &mut lines);
    reload_certificates(node, &settings, &mut lines);
    reload_users(node, &settings, &mut lines);
    // Compared with the start: a change that was undone needs no restart.
    for (name, now, then) in differences(&node.settings.options, &settings.options) {
        if !LIVE.contains(&name) && name != TOLD_ELSEWHERE {
            lines.push(format!("{name} = {then} needs a restart (is {now})"));
        }
    }
    reload_ring(node, &settings, &mut lines);
    *latest = settings;
    Ok(lines)
}

fn take_over(node: &Node, settings: &Settings, lines: &mut Vec<String>) {
    node.verbosity.store(settings.verbosity, Ordering::Relaxed);
    log::set_verbosity(settings.verbosity);
    node.idle_timeout_seconds.store(settings.idle_timeout_seconds, Ordering::Relaxed);
    match raise_files(settings) {
        Ok(()) => node.max_connections.store(settings.max_connections, Ordering::Relaxed),
        Err(error) => lines.push(format!("conn-limit stays: {error:#}")),
    }
}

/// New connections get the certificates that the files hold now; bad ones leave those that are.
fn reload_certificates(node: &Node, settings: &Settings, lines: &mut Vec<String>) {
    let (Some(_), Some(tls)) = (&node.tls, &settings.tls) else { return };
    lines.push(match node.load_certificates(tls) {
        Ok(()) => format!("certificates of {} are read", tls.chain.display()),
        Err(error) => format!("the certificates stay as they were: {error}"),
    });
}

/// Who comes in from here on is asked for the passwords that the file holds now; a bad one leaves those that are.
fn reload_users(node: &Node, settings: &Settings, lines: &mut Vec<String>) {
    match (&node.users, &settings.authentication) {
        (Some(live), Some(authentication)) => lines.push(match read_users(authentication) {
            Ok(users) => {
                let line = format!("{} users of {} are read", users.count(), authentication.file.display());
                live.replace(users);
                line
            }
            Err(error) => format!("the users stay as they were: {error}"),
        }),
        (None, None) => {}
        _ => lines.push("whether passwords are asked for needs a restart".into()),
    }
}

type Options = BTreeMap<String, String>;

/// The ring follows the file, if that has become a later one.
fn reload_ring(node: &Node, settings: &Settings, lines: &mut Vec<String>) {
    let (Some(cluster), Some(then)) = (&node.cluster, &settings.cluster) else { return };
    if let CoordinatorSettings::Local(document) = &then.coordinator {
        cluster.tell(News::List(document.clone()));
        lines.push(format!(
            "the ring of epoch {} is read; the log says whether it is followed",
            document.epoch.0
        ));
    }
}

/// Names whose values differ, with both values.
fn differences<'a>(now: &'a Options, then: &'a Options) -> Vec<(&'a str, &'a str, &'a str)> {
    let value = |options: &'a Options, name: &str| options.get(name).map_or("not given", String::as_str);
    let mut names: Vec<_> = now.keys().chain(then.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let both = names.into_iter().map(|name| (name, value(now, name), value(then, name)));
    both.filter(|(_, now, then)| now != then).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_tell_both_values_and_what_was_or_is_missing() {
        let options = |pairs: &[(&str, &str)]| -> Options {
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let now = options(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let then = options(&[("b", "2"), ("c", "4"), ("d", "5")]);
        let wanted = [("a", "1", "not given"), ("c", "3", "4"), ("d", "not given", "5")];
        assert_eq!(differences(&now, &then), wanted);
    }
}
