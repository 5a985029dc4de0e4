//! What is known of the cluster's keys, from reads, watches and this node's own writes in whatever order they come; and whether etcd is
//! in another history than it was.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::{Etcd, LINE_BYTES_MAX, Task};
use crate::coordinator::gateway::{self, KeyValue};
use crate::coordinator::{Fence, Leader, NodeDescription, Revision, View};
use crate::names::{Incarnation, NodeId};

/// Keys that are remembered. More are not ours.
const KEYS_MAX: usize = 8_192;

/// What is known of a key; also that it is gone.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) revision: Revision,
    pub(super) value: Option<Vec<u8>>,
}

/// What happened to a key.
pub(super) struct Change<'a> {
    pub(super) key: &'a [u8],
    pub(super) revision: Revision,
    pub(super) value: Option<&'a [u8]>,
}

impl Etcd {
    /// Whether what was read is of another history than what is known. etcd reads no older state than anybody has seen when it is
    /// asked, a key is never older than it was, and what it was at one revision it always was.
    pub(super) fn is_rewound(&self, at: Revision, found: &[KeyValue]) -> bool {
        let is_of_another = |key: &KeyValue| {
            let known = std::str::from_utf8(&key.key).ok().and_then(|name| self.keys.get(name));
            known.is_some_and(|known| match Revision(key.mod_revision).cmp(&known.revision) {
                Ordering::Less => known.revision <= at,
                Ordering::Equal => known.value.as_ref() != Some(&key.value),
                Ordering::Greater => false,
            })
        };
        at < self.read_asked_after || found.iter().any(is_of_another)
    }

    /// Forgets all that was known of another history.
    pub(super) fn forget(&mut self) {
        let View { is_reachable, read_at, rewinds, .. } = self.view;
        self.view = View { is_reachable, read_at, rewinds: rewinds + 1, ..View::default() };
        self.keys.clear();
        (self.known_up_to, self.newest) = (Revision(0), Revision(0));
        // It was judged by what counts no more.
        self.order = None;
        self.cancelled.extend(self.under_way.remove(&Task::Watch));
        self.line = Vec::new();
    }

    pub(super) fn apply_present(&mut self, key: &KeyValue) {
        self.apply(&Change { key: &key.key, revision: Revision(key.mod_revision), value: Some(&key.value) });
    }

    /// Takes what is newer than what is known of a key; nothing else changes.
    pub(super) fn apply(&mut self, change: &Change<'_>) {
        let Ok(key) = std::str::from_utf8(change.key) else { return };
        self.newest = self.newest.max(change.revision);
        let is_known = self.keys.get(key).map(|known| known.revision);
        let is_news = is_known.is_none_or(|revision| revision < change.revision);
        let has_room = is_known.is_some() || self.keys.len() < KEYS_MAX;
        let Some(name) = key.strip_prefix(&self.prefix).filter(|_| is_news && has_room) else { return };
        self.show(name, change);
        let value = change.value.map(<[u8]>::to_vec);
        let known = Known { revision: change.revision, value };
        self.keys.insert(key.to_owned(), known);
    }

    fn show(&mut self, name: &str, change: &Change<'_>) {
        if name == "ring" {
            self.view.ring = change.value.map(|json| (json.to_vec(), change.revision));
        } else if name == "leader" {
            self.view.leader = change.value.and_then(|value| leader(value, Fence(change.revision.0)));
        } else if let Some(node) = name.strip_prefix("node/") {
            let is_its_own = |described: &NodeDescription| described.node.to_string() == node;
            show_of(&mut self.view.nodes, node, change.value, is_its_own);
        } else if let Some(node) = name.strip_prefix("report/") {
            show_of(&mut self.view.reports, node, change.value, |_| true);
        } else if let Some(node) = name.strip_prefix("wish/") {
            show_of(&mut self.view.wishes, node, change.value, |_| true);
        }
    }

    /// Compares the view with what is known of each key; for tests and debugging.
    pub fn check_invariants(&self) {
        assert!(self.keys.len() <= KEYS_MAX);
        let ring =
            self.keys.get(&self.key("ring")).and_then(|known| Some((known.value.as_ref()?, known.revision)));
        assert_eq!(self.view.ring.as_ref().map(|(json, revision)| (json, *revision)), ring);
        let leading = self.keys.get(&self.key("leader"));
        let leading = leading.and_then(|known| leader(known.value.as_deref()?, Fence(known.revision.0)));
        assert_eq!(self.view.leader, leading);
        assert!(self.line.len() <= LINE_BYTES_MAX);
    }
}

/// Takes what a key says of a node; what cannot be read is as good as gone.
fn show_of<T: serde::de::DeserializeOwned>(
    shown: &mut BTreeMap<NodeId, T>,
    node: &str,
    value: Option<&[u8]>,
    is_good: impl Fn(&T) -> bool,
) {
    let Ok(node) = node.parse().map(NodeId) else { return };
    match value.and_then(gateway::read_answer::<T>).filter(is_good) {
        Some(said) => shown.insert(node, said),
        None => shown.remove(&node),
    };
}

/// Reads `NODE INCARNATION`.
pub fn leader(value: &[u8], fence: Fence) -> Option<Leader> {
    let (node, incarnation) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    Some(Leader {
        node: NodeId(node.parse().ok()?),
        incarnation: Incarnation(incarnation.parse().ok()?),
        fence,
    })
}
