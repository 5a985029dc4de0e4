//! `cluster status` and `cluster plan`: what a ring means for its nodes, and what another one would move. Pure
//! functions of ring documents; nothing is changed anywhere.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use slabring_client::cluster::names::NodeId;
use slabring_client::cluster::placement::{PARTITION_COUNT, PartitionId};
use slabring_client::cluster::report::Wish;
use slabring_client::cluster::ring::{NodeState, Progress, Ring, RingDocument};
use slabring_etcd::Standing;

use crate::failure::Failure;
use crate::table::Table;
use crate::waits::{self, Wait};

/// One node's part of a ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    /// Partitions that it orders.
    primaries: usize,
    /// Partitions that it has a copy of.
    copies: usize,
}

/// What changes from one ring to the next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// For each node of either ring, by name: before and after.
    parts: BTreeMap<String, (Part, Part)>,
    /// Partitions whose primary is another.
    moved_primaries: usize,
    /// Copies that a node gets which it did not have.
    moved_copies: usize,
    epochs: (u64, u64),
}

/// Reads a ring document, TOML or JSON by its first character.
pub(crate) fn read(path: &Path) -> Result<Ring, Failure> {
    let bad = |reason: String| Failure::File { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let is_json = text.trim_start().starts_with('{');
    let document = if is_json {
        RingDocument::from_json(text.trim().as_bytes())
    } else {
        RingDocument::from_toml(&text)
    };
    document.and_then(Ring::new).map_err(|refusal| bad(refusal.to_string()))
}

/// What a node says of itself.
pub(crate) struct Answer {
    /// Its version, or why it does not answer.
    pub(crate) version: String,
    /// Its own version, if it is a Slabring that answers.
    pub(crate) build: Option<String>,
    /// Its threads, if it tells: a ring need not know.
    pub(crate) shards: Option<u16>,
}

/// A ring as a table. `answers` has what each node that was asked said, by its client address.
/// With an etcd, also what only that knows.
pub(crate) fn status(ring: &Ring, answers: &BTreeMap<String, Answer>, standing: Option<&Standing>) -> String {
    let document = ring.document();
    let parts = parts(ring);
    let mut table = Table::new([
        "slot",
        "node",
        "state",
        "zone",
        "client",
        "shards",
        "weight",
        "partitions",
        "share",
        "copies",
        "answers",
        "slabring",
    ]);
    for (slot, entry) in document.slots.iter().enumerate() {
        let part = &parts[slot];
        let client = entry.client.to_string();
        table.row([
            slot.to_string(),
            entry.node.to_string(),
            state(entry.state).to_owned(),
            if entry.zone.is_empty() { "-".to_owned() } else { entry.zone.clone() },
            client.clone(),
            answers
                .get(&client)
                .and_then(|answer| answer.shards)
                .map_or_else(|| "?".to_owned(), |n| n.to_string()),
            entry.weight.to_string(),
            part.primaries.to_string(),
            format!("{:.2}%", percent(part.primaries, PARTITION_COUNT)),
            part.copies.to_string(),
            answers.get(&client).map_or_else(|| "-".to_owned(), |answer| answer.version.clone()),
            answers.get(&client).and_then(|answer| answer.build.clone()).unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    format!(
        "cluster {}, epoch {}, term {}, {} cop{} of each partition, mode {}\nbalance {:.3} (most loaded node over mean, by weight)\n\n{table}{}",
        document.cluster,
        document.epoch.0,
        document.term.0,
        document.replicas,
        if document.replicas == 1 { "y" } else { "ies" },
        mode(document),
        balance(ring),
        changes(ring, standing),
    )
}

/// What is under way, and who stands by.
fn changes(ring: &Ring, standing: Option<&Standing>) -> String {
    let mut lines = Vec::new();
    if let Some(Progress { moving, moved, .. }) = ring.progress() {
        lines.push(format!("moving: {moved} of {moving} partitions have their new owners"));
    }
    if let Some(standing) = standing {
        lines.extend(waits::line(&waits::waits(ring, standing)));
        let conductor = standing.conductor.as_ref();
        lines.push(conductor.map_or_else(
            || "nobody decides on changes of the ring now".to_owned(),
            |node| format!("decides on changes of the ring: {node}"),
        ));
        let wish = |(node, wish): (&NodeId, &Wish)| format!("wished for {node}: {}", words(*wish));
        lines.extend(standing.wishes.iter().map(wish));
        lines.extend(standing_by(ring, standing).map(|node| format!("not a member, and here: {node}")));
        lines.extend(standing.nodes.keys().filter_map(|node| waits::unreached(standing, node)));
    }
    if lines.is_empty() { String::new() } else { format!("\n{}\n", lines.join("\n")) }
}

/// Nodes that have registered and have no place.
fn standing_by<'s>(ring: &'s Ring, standing: &'s Standing) -> impl Iterator<Item = &'s NodeId> {
    let has_place = |node: &NodeId| {
        ring.document().slots.iter().any(|slot| slot.node == *node && slot.state != NodeState::Left)
    };
    standing.nodes.keys().filter(move |node| !has_place(node))
}

/// A wish as it is told to people.
pub(crate) fn words(wish: Wish) -> String {
    match wish {
        Wish::Weight(weight) => format!("weight {weight}"),
        Wish::Drain => "drain".to_owned(),
        Wish::Down => "down".to_owned(),
    }
}

/// As [`status`], for programs.
pub(crate) fn status_json(
    ring: &Ring,
    answers: &BTreeMap<String, Answer>,
    standing: Option<&Standing>,
) -> Value {
    let document = ring.document();
    let nodes = document.slots.iter().zip(parts(ring)).enumerate().map(|(slot, (entry, part))| {
        let answer = answers.get(&entry.client.to_string());
        json!({
            "slot": slot,
            "node": entry.node.to_string(),
            "state": state(entry.state),
            "zone": entry.zone,
            "client": entry.client.to_string(),
            "peer": entry.peer.to_string(),
            "shards": answer.and_then(|answer| answer.shards),
            "weight": entry.weight,
            "partitions": part.primaries,
            "copies": part.copies,
            "answers": answer.map(|answer| &answer.version),
            "slabring_version": answer.and_then(|answer| answer.build.as_ref()),
        })
    });
    let mut json = json!({
        "cluster": document.cluster.to_string(),
        "epoch": document.epoch.0,
        "term": document.term.0,
        "replicas": document.replicas,
        "mode": mode(document),
        "balance": balance(ring),
        "nodes": nodes.collect::<Vec<_>>(),
        "movement": ring.progress().map(|Progress { moving, moved, copies }| {
            json!({ "partitions": moving, "moved": moved, "copies": copies })
        }),
    });
    if let Some(standing) = standing {
        let wish = |(node, wish): (&NodeId, &Wish)| (node.to_string(), words(*wish).into());
        json["conductor"] = standing.conductor.as_ref().map(ToString::to_string).into();
        json["wishes"] = Value::Object(standing.wishes.iter().map(wish).collect());
        let unreached = standing.waits.unreached.iter();
        let unreached = unreached.map(|told| (told.node.to_string(), told.why.clone().into()));
        json["waits_for"] = waits::waits(ring, standing).iter().map(Wait::json).collect();
        json["not_reached"] = Value::Object(unreached.collect());
        json["not_members"] = standing_by(ring, standing).map(ToString::to_string).collect();
    }
    json
}

impl Plan {
    /// What becomes different.
    pub(crate) fn new(now: &Ring, next: &Ring) -> Self {
        let mut all: BTreeMap<String, (Part, Part)> = BTreeMap::new();
        for (slot, part) in now.document().slots.iter().zip(parts(now)) {
            add(&mut all.entry(slot.node.to_string()).or_default().0, &part);
        }
        for (slot, part) in next.document().slots.iter().zip(parts(next)) {
            add(&mut all.entry(slot.node.to_string()).or_default().1, &part);
        }
        let (mut moved_primaries, mut moved_copies) = (0, 0);
        for partition in PartitionId::all() {
            let (old, new) = (owners(now, partition), owners(next, partition));
            moved_primaries += usize::from(old[0] != new[0]);
            moved_copies += new.iter().filter(|owner| !old.contains(owner)).count();
        }
        let epochs = (now.epoch().0, next.epoch().0);
        Self { parts: all, moved_primaries, moved_copies, epochs }
    }

    /// Partitions whose primary must be another, however they are placed.
    fn least_moves(&self) -> usize {
        self.parts.values().map(|(now, next)| next.primaries.saturating_sub(now.primaries)).sum()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut table =
            Table::new(["node", "partitions now", "then", "share now", "then ", "copies now", " then"]);
        for (node, (now, next)) in &self.parts {
            table.row([
                node.clone(),
                now.primaries.to_string(),
                next.primaries.to_string(),
                format!("{:.2}%", percent(now.primaries, PARTITION_COUNT)),
                format!("{:.2}%", percent(next.primaries, PARTITION_COUNT)),
                now.copies.to_string(),
                next.copies.to_string(),
            ]);
        }
        let (now, next) = self.epochs;
        let warning = if next > now {
            String::new()
        } else {
            format!(
                "\nNote: epoch {next} is not after {now}: nodes would refuse this ring. Raise `epoch` in the file.\n"
            )
        };
        format!(
            "epoch {now} -> {next}: {} of {PARTITION_COUNT} partitions get another owner ({:.2}%; at least {} have to)\n\
             {} copies are made where there is none\n\n{table}{warning}",
            self.moved_primaries,
            percent(self.moved_primaries, PARTITION_COUNT),
            self.least_moves(),
            self.moved_copies,
        )
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let part = |part: &Part| json!({ "partitions": part.primaries, "copies": part.copies });
        let nodes = self
            .parts
            .iter()
            .map(|(node, (now, next))| json!({ "node": node, "now": part(now), "then": part(next) }));
        json!({
            "epoch_now": self.epochs.0,
            "epoch_then": self.epochs.1,
            "partitions": PARTITION_COUNT,
            "moved_partitions": self.moved_primaries,
            "moved_partitions_min": self.least_moves(),
            "moved_copies": self.moved_copies,
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }
}

/// The parts of all slots.
fn parts(ring: &Ring) -> Vec<Part> {
    let mut parts = vec![Part::default(); ring.document().slots.len()];
    for partition in PartitionId::all() {
        parts[usize::from(ring.primary(partition).0)].primaries += 1;
        for owner in ring.owners(partition) {
            parts[usize::from(owner.0)].copies += 1;
        }
    }
    parts
}

fn add(sum: &mut Part, part: &Part) {
    sum.primaries += part.primaries;
    sum.copies += part.copies;
}

fn owners(ring: &Ring, partition: PartitionId) -> Vec<&str> {
    ring.owners(partition).iter().map(|&slot| ring.slot(slot).node.0.as_str()).collect()
}

/// How much more than its share, by weight, the most loaded node has: 1 is even.
fn balance(ring: &Ring) -> f64 {
    let slots = &ring.document().slots;
    let weight = |slot: usize| if slots[slot].state.serves() { f64::from(slots[slot].weight) } else { 0.0 };
    let total: f64 = (0..slots.len()).map(weight).sum();
    let load = |(slot, part): (usize, &Part)| {
        let fair = weight(slot) / total;
        if fair > 0.0 { percent(part.primaries, PARTITION_COUNT) / 100.0 / fair } else { 0.0 }
    };
    parts(ring).iter().enumerate().map(load).fold(0.0, f64::max)
}

pub(crate) fn percent(part: usize, whole: usize) -> f64 {
    let exact = |number: usize| f64::from(u32::try_from(number).expect("a ring has 16384 partitions"));
    100.0 * exact(part) / exact(whole)
}

pub(crate) fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Syncing => "syncing",
        NodeState::Up => "up",
        NodeState::Draining => "draining",
        NodeState::Down => "down",
        NodeState::Left => "left",
    }
}

fn mode(document: &RingDocument) -> String {
    format!("{:?}", document.mode).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(epoch: u64, nodes: usize) -> Ring {
        let mut toml = format!("epoch = {epoch}\n");
        for n in 0..nodes {
            toml += &format!("[[node]]\nid = \"node{n}\"\npeer = \"p{n}:1\"\nclient = \"c{n}:1\"\n");
        }
        Ring::new(RingDocument::from_toml(&toml).unwrap()).unwrap()
    }

    #[test]
    fn a_node_more_moves_only_what_it_gets() {
        let plan = Plan::new(&ring(1, 4), &ring(2, 5));
        assert_eq!(plan.moved_primaries, plan.least_moves());
        assert_eq!(plan.parts["node4"].1.primaries, plan.moved_primaries);
        assert!((15.0..25.0).contains(&percent(plan.moved_primaries, PARTITION_COUNT)));
        assert!(!plan.text().contains("Note"));
    }

    #[test]
    fn the_same_ring_moves_nothing_and_says_that_it_would_be_refused() {
        let plan = Plan::new(&ring(1, 3), &ring(1, 3));
        assert_eq!((plan.moved_primaries, plan.moved_copies), (0, 0));
        assert!(plan.text().contains("Raise `epoch`"));
    }

    #[test]
    fn a_status_names_every_node_and_shares_add_up() {
        let ring = ring(1, 3);
        let build = Some("0.9.8".to_owned());
        let answer = Answer { version: "1.6.99".to_owned(), build, shards: Some(7) };
        let answers = BTreeMap::from([("c1:1".to_owned(), answer)]);
        let text = status(&ring, &answers, None);
        assert!(
            (0..3).all(|n| text.contains(&format!("node{n}"))) && text.contains("1.6.99   0.9.8"),
            "{text}"
        );
        assert_eq!(parts(&ring).iter().map(|part| part.primaries).sum::<usize>(), PARTITION_COUNT);
        assert!((1.0..1.1).contains(&balance(&ring)));
        let json = status_json(&ring, &answers, None);
        assert_eq!(
            (&json["nodes"][1]["answers"], &json["nodes"][1]["shards"]),
            (&json!("1.6.99"), &json!(7))
        );
        assert!(json["nodes"][0]["shards"].is_null() && text.contains(" ? "), "{text}");
    }
}
