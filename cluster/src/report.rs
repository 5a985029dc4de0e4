//! What a node tells the conductor beside that it lives: whose copies are filled, and who is silent. Facts under one ring, void under
//! another; never a decision.

use serde::{Deserialize, Serialize};

use crate::names::{Incarnation, NodeId};
use crate::ring::Epoch;
use crate::ring::partitions::PartitionSet;
use crate::table::SlotId;

/// Members that one node calls silent. One that hears nobody of more has said enough.
pub const SILENT_MAX: usize = 64;

/// What the conductor tells of each kind that it waits for.
pub const WAITS_MAX: usize = 8;

/// Of why a node is not reached.
pub const WHY_CHARACTERS_MAX: usize = 160;

/// What one node says: at most 3 KiB of JSON, and as much again of what a conductor waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The life of the node.
    pub incarnation: Incarnation,
    /// The ring that it follows.
    pub epoch: Epoch,
    /// Partitions that it is primary of, with learners that all hold everything, or without anybody in sync.
    pub ready: PartitionSet,
    /// Slots of members that it was to hear of and did not: at most [`SILENT_MAX`].
    pub silent: Vec<u16>,
    /// What this node waits for as conductor, if for anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Box<Waits>>,
}

impl Report {
    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.silent.is_empty() && self.waits.is_none()
    }
}

/// What the conductor waits for: for people who look on, never for a node. At most [`WAITS_MAX`] of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// Members that are down and that the movement waits for.
    pub awaited: Vec<Awaited>,
    /// Nodes that ask for a place and were not reached.
    pub unreached: Vec<Unreached>,
}

/// A member that a movement waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Who.
    pub node: NodeId,
    /// The Unix second until which it is waited for, by the clock of who waits.
    pub until: u64,
    /// Whether the movement turns back then; otherwise it goes on without the member.
    pub turns_back: bool,
}

/// A node that asks for a place in the ring and does not get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    /// Who.
    pub node: NodeId,
    /// Why, in at most [`WHY_CHARACTERS_MAX`] characters.
    pub why: String,
}

/// What an operator wishes for a member. It stands until the operator takes it back: the conductor leads the ring there, step by
/// step, and back when something else changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// This share, in 256ths of a full node.
    Weight(u16),
    /// To give away everything and leave.
    Drain,
    /// To be out at once, as if it did not answer.
    Down,
}

/// What one shard contributes to its node's [`Report`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardReport {
    /// The ring that it follows.
    pub epoch: Epoch,
    /// As in [`Report::ready`], for the keys of this shard.
    pub ready: PartitionSet,
    /// Members that it was to hear of and did not.
    pub silent: Vec<SlotId>,
    /// Members that it was to hear of and did.
    pub heard: Vec<SlotId>,
}

/// The last word of each shard of a node.
#[derive(Clone, Debug)]
pub struct ReportBoard {
    incarnation: Incarnation,
    shards: Vec<ShardReport>,
}

impl ReportBoard {
    /// A node of so many shards, in its life `incarnation`.
    pub fn new(incarnation: Incarnation, shards: u16) -> Self {
        Self { incarnation, shards: vec![ShardReport::default(); usize::from(shards)] }
    }

    /// Replaces what a shard said.
    pub fn post(&mut self, shard: u16, report: ShardReport) {
        self.shards[usize::from(shard)] = report;
    }

    /// What the node says: ready is what all shards call so under the same ring, silent whom one misses and none heard.
    pub fn report(&self) -> Report {
        let epoch = self.shards.iter().map(|shard| shard.epoch).min().unwrap_or_default();
        let is_one_ring = self.shards.iter().all(|shard| shard.epoch == epoch);
        let mut ready = self.shards.first().map(|shard| shard.ready.clone()).unwrap_or_default();
        self.shards.iter().for_each(|shard| ready.retain_all(&shard.ready));
        let ready = if is_one_ring { ready } else { PartitionSet::default() };
        let is_heard = |slot| self.shards.iter().any(|shard| shard.heard.contains(slot));
        let missed = self.shards.iter().flat_map(|shard| &shard.silent).filter(|slot| !is_heard(slot));
        let mut silent: Vec<_> = missed.map(|slot| slot.0).collect();
        silent.sort_unstable();
        silent.dedup();
        silent.truncate(SILENT_MAX);
        Report { incarnation: self.incarnation, epoch, ready, silent, waits: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::PartitionId;

    fn said(epoch: u64, ready: &[u16], silent: &[u16], heard: &[u16]) -> ShardReport {
        let slots = |numbers: &[u16]| numbers.iter().copied().map(SlotId).collect();
        let mut set = PartitionSet::default();
        for &partition in ready {
            assert!(set.insert(PartitionId::new(partition)));
        }
        ShardReport { epoch: Epoch(epoch), ready: set, silent: slots(silent), heard: slots(heard) }
    }

    #[track_caller]
    fn check(shards: [ShardReport; 2], ready: &[usize], silent: &[u16]) {
        let mut board = ReportBoard::new(Incarnation(7), 2);
        (0..).zip(shards).for_each(|(shard, report)| board.post(shard, report));
        let report = board.report();
        assert_eq!(report.ready.iter().map(PartitionId::index).collect::<Vec<_>>(), ready);
        assert_eq!(report.silent, silent);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }

    #[test]
    fn a_node_is_ready_where_all_its_shards_are_under_one_ring() {
        check([said(3, &[1, 2], &[], &[]), said(3, &[2, 9], &[], &[])], &[2], &[]);
        check([said(3, &[1, 2], &[], &[]), said(4, &[1, 2], &[], &[])], &[], &[]);
    }

    #[test]
    fn a_member_is_silent_when_one_shard_misses_it_and_none_heard_it() {
        check([said(3, &[], &[4, 5], &[]), said(3, &[], &[4], &[5])], &[], &[4]);
    }

    #[test]
    fn a_report_is_small_whatever_it_says() {
        let all: Vec<u16> = (0..1 << 14).collect();
        let slots: Vec<u16> = (900..1024).collect();
        let mut board = ReportBoard::new(Incarnation(u64::MAX), 1);
        board.post(0, said((1 << 48) - 1, &all, &slots, &[]));
        let text = serde_json::to_string(&board.report()).unwrap();
        assert!(text.len() <= 3 << 10, "{} bytes", text.len());
    }

    #[test]
    fn wishes_are_read_as_they_are_written() {
        for (wish, text) in
            [(Wish::Weight(128), r#"{"weight":128}"#), (Wish::Drain, "\"drain\""), (Wish::Down, "\"down\"")]
        {
            assert_eq!(serde_json::to_string(&wish).unwrap(), text);
            assert_eq!(serde_json::from_str::<Wish>(text).unwrap(), wish);
        }
    }
}
