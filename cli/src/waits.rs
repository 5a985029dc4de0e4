//! Whom a change of a cluster waits for, until when, and why a node gets no place: in words and for programs. Knows what the ring and the
//! node that decides say, and decides nothing.

use std::fmt;

use serde_json::{Value, json};
use slabring_client::cluster::names::NodeId;
use slabring_client::cluster::report::Awaited;
use slabring_client::cluster::ring::{NodeState, Ring};
use slabring_etcd::Standing;

use crate::cluster::state;

const DAY_SECONDS: u64 = 86_400;

/// A member that a movement waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    node: NodeId,
    state: NodeState,
    /// Until when, and what comes then: as far as the node that decides has told.
    end: Option<(u64, bool)>,
}

/// Whom the movement of a ring waits for.
pub(crate) fn waits(ring: &Ring, standing: &Standing) -> Vec<Wait> {
    let told = |node: &NodeId| standing.waits.awaited.iter().find(|awaited| awaited.node == *node);
    let end = |Awaited { until, turns_back, .. }: &Awaited| (*until, *turns_back);
    let wait = |slot| {
        let entry = ring.slot(slot);
        Wait { node: entry.node.clone(), state: entry.state, end: told(&entry.node).map(end) }
    };
    ring.awaited().into_iter().map(wait).collect()
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, which is {}", self.node, state(self.state))?;
        let Some((until, turns_back)) = self.end else { return Ok(()) };
        let then = if turns_back { "what has moved goes back" } else { "it goes on without" };
        write!(f, ", until {}, when {then}", Clock(until))
    }
}

impl Wait {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "node": self.node.to_string(),
            "state": state(self.state),
            "until": self.end.map(|(until, _)| until),
            "turns_back": self.end.map(|(_, turns_back)| turns_back),
        })
    }
}

/// Several of them in a line; nothing for none.
pub(crate) fn line(waits: &[Wait]) -> Option<String> {
    let all: Vec<_> = waits.iter().map(ToString::to_string).collect();
    (!all.is_empty()).then(|| format!("waits for {}", all.join("; and for ")))
}

/// Why a node that runs gets no place, if it was not reached.
pub(crate) fn unreached(standing: &Standing, node: &NodeId) -> Option<String> {
    let told = standing.waits.unreached.iter().find(|told| told.node == *node)?;
    let conductor = standing.conductor.as_ref()?;
    let peer = &standing.nodes.get(node)?.peer;
    let whose = standing.nodes.values().find(|other| other.peer == *peer && other.node != *node);
    let why = whose.map_or_else(
        || told.why.clone(),
        |other| format!("{} says that it is there (--peer-advertise of one of them is wrong)", other.node),
    );
    Some(format!("{node} gets no place: {conductor}, which decides, does not reach it at {peer}: {why}"))
}

/// The time of day of a Unix second.
struct Clock(u64);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.0 % DAY_SECONDS;
        write!(f, "{:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
    }
}

#[cfg(test)]
mod tests {
    use slabring_client::cluster::coordinator::NodeDescription;
    use slabring_client::cluster::names::Incarnation;
    use slabring_client::cluster::report::{Unreached, Waits};

    use super::*;

    #[test]
    fn who_is_waited_for_is_told_with_the_time_and_what_comes_then() {
        let node = NodeId("n4".parse().unwrap());
        let mut wait = Wait { node, state: NodeState::Down, end: Some((1_763_826_190, true)) };
        let text = line(std::slice::from_ref(&wait)).unwrap();
        assert_eq!(text, "waits for n4, which is down, until 15:43:10 UTC, when what has moved goes back");
        wait.end = None;
        assert_eq!(
            line(&[wait.clone(), wait]).unwrap(),
            "waits for n4, which is down; and for n4, which is down"
        );
        assert_eq!(line(&[]), None);
    }

    #[test]
    fn two_nodes_that_say_that_they_are_at_one_address_are_named_together() {
        let name = |name: &str| NodeId(name.parse().unwrap());
        let described = |node: &str, peer: &str| {
            let (node, incarnation, zone) = (name(node), Incarnation(1), String::new());
            let (client, peer) = ("c:1".parse().unwrap(), peer.parse().unwrap());
            (node.clone(), NodeDescription { node, incarnation, zone, client, peer, shards: 1, weight: 256 })
        };
        let told = |node: &str| Unreached { node: name(node), why: "it closed".into() };
        let waits = Waits { unreached: vec![told("n2"), told("n3")], ..Waits::default() };
        let nodes = [described("n1", "p:1"), described("n2", "p:1"), described("n3", "p:3")];
        let standing =
            Standing { conductor: Some(name("n1")), nodes: nodes.into(), waits, ..Standing::default() };
        let why = unreached(&standing, &name("n2")).unwrap();
        assert!(
            why.ends_with("at p:1: n1 says that it is there (--peer-advertise of one of them is wrong)"),
            "{why}"
        );
        assert!(unreached(&standing, &name("n3")).unwrap().ends_with("at p:3: it closed"));
    }
}
