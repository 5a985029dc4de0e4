//! The ring document: which nodes there are, where they listen, and how much each one takes. Text in and out,
//! and every reason to refuse one. Never places a key.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::replication::{REPLICATION_BYTES_MAX, Replication};
use crate::names::{ADDRESS_BYTES_MAX, Address, ClusterId, Incarnation, NAME_BYTES_MAX, NodeId};
use crate::safeguard::{self, Safeguard};
use crate::table::{REPLICA_COUNT_MAX, SLOT_COUNT_MAX, Weight};

/// The format of a ring whose partitions do not move by streaming. Another number than this and the next means fields that
/// this version does not know.
pub const FORMAT: u16 = 1;

/// The format of a ring that has a [`Replication`]: a member that is down keeps its place, and one that returns is filled
/// before it counts.
pub const FORMAT_REPLICATED: u16 = 2;

/// Bytes of a document's JSON. The largest ring with the longest names stays below it.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Shards of a node: a frame names them in one byte.
pub const SHARD_COUNT_MAX: u16 = 256;

/// Bytes of a slot's JSON: a name, a zone of nothing but quotes, two addresses, and 250 for the rest.
const SLOT_BYTES_MAX: usize = NAME_BYTES_MAX + 2 * ZONE_BYTES_MAX + 2 * ADDRESS_BYTES_MAX + 250;
/// Bytes of everything else in a document's JSON.
const FRAME_BYTES_MAX: usize = 512 + REPLICATION_BYTES_MAX;
const _: () = assert!(SLOT_BYTES_MAX * SLOT_COUNT_MAX + FRAME_BYTES_MAX <= DOCUMENT_BYTES_MAX);

/// Bytes of a zone's name.
pub const ZONE_BYTES_MAX: usize = 64;

/// Name of the JSON member that holds the checksum.
const CHECKSUM_MEMBER: &str = "crc32c";

/// The number of a ring document: each change has the next one. Below 2^48: frames carry six bytes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first document.
    pub const NONE: Self = Self(0);
    /// The last there can be.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The one that follows; `None` after the last, which only a file can reach: a thousand changes a second would take
    /// 8 900 years.
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX).then(|| Self(self.0 + 1))
    }
}

/// The upper part of every version that a primary gives: rises whenever primaries may move. Below 2^24.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u32);

impl Term {
    /// The last there can be.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// The one that follows; `None` after the last: one a minute would take 31 years.
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX).then(|| Self(self.0 + 1))
    }
}

/// What a write waits for, and so what a fail-over can lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One copy.
    Rf1,
    /// Copies follow.
    Async,
    /// Copies follow; what invalidates waits for them.
    Inval,
    /// Every write waits for the copies.
    Sync,
}

impl Mode {
    /// What a ring of so many copies does unless told.
    pub fn default_for(replicas: u8) -> Self {
        if replicas <= 1 { Self::Rf1 } else { Self::Inval }
    }
}

/// Where a node is in its life as a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Known, owns nothing yet.
    Joining,
    /// Receives what it will own.
    Syncing,
    /// Serves.
    Up,
    /// Serves until others have taken over.
    Draining,
    /// Does not answer; its heirs serve. Its slot waits for it.
    Down,
    /// Gone. Its slot is free.
    Left,
}

impl NodeState {
    /// Whether keys are placed on it.
    pub fn serves(self) -> bool {
        matches!(self, Self::Up | Self::Draining)
    }

    /// Whether it is a member that does not serve now.
    pub fn is_away(self) -> bool {
        matches!(self, Self::Down | Self::Syncing)
    }
}

/// One place in the ring and the node that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotEntry {
    /// Whose place it is.
    pub node: NodeId,
    /// The life of the node that is meant.
    pub incarnation: Incarnation,
    /// Where it stands: any printable text of up to 64 bytes. Copies of a partition go to different zones while there are enough.
    pub zone: String,
    /// Where clients reach it.
    pub client: Address,
    /// Where other nodes reach it.
    pub peer: Address,
    /// Shards it has: 1 to [`SHARD_COUNT_MAX`].
    pub shards: u16,
    /// Its share, in 256ths of what a full node takes.
    pub weight: u16,
    /// Where it is in its life as a member.
    pub state: NodeState,
}

/// Everything that nodes must agree on. A value: whoever has it may change it; only [`super::Ring`] is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingDocument {
    /// [`FORMAT`] or [`FORMAT_REPLICATED`].
    pub format: u16,
    /// Which cluster it is of.
    pub cluster: ClusterId,
    /// Its number.
    pub epoch: Epoch,
    /// The upper part of versions given under it.
    pub term: Term,
    /// Copies of each partition: 1 to [`REPLICA_COUNT_MAX`].
    pub replicas: u8,
    /// What a write waits for.
    pub mode: Mode,
    /// The places, by number.
    pub slots: Vec<SlotEntry>,
    /// What format 2 says more; nothing in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Box<Replication>>,
}

/// Why a document did not become the ring. The ring is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than [`DOCUMENT_BYTES_MAX`].
    #[error("it has {0} bytes, and {DOCUMENT_BYTES_MAX} are the most")]
    TooLong(usize),
    /// Not the JSON or TOML of a ring.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Of another format.
    #[error("its format is {0}, and this version reads {FORMAT} and {FORMAT_REPLICATED}")]
    Format(u64),
    /// Damaged.
    #[error(
        "its checksum is {found:08x}, and its content has {computed:08x}: it was damaged, or edited by hand"
    )]
    Checksum {
        /// What it says.
        found: u32,
        /// What it should say.
        computed: u32,
    },
    /// Of another cluster.
    #[error("it is of the cluster {offered}, and this node is of {ours}")]
    OtherCluster {
        /// Whose it is.
        offered: ClusterId,
        /// Whose this node is.
        ours: ClusterId,
    },
    /// From the past.
    #[error("its epoch is {offered}, and the ring has {current} already", offered = offered.0, current = current.0)]
    Older {
        /// Its epoch.
        offered: Epoch,
        /// The ring's.
        current: Epoch,
    },
    /// Of the ring's epoch and different all the same: two writers.
    #[error("it differs from the ring of the same epoch {epoch}: two coordinators, or two lists that should be one", epoch = .0.0)]
    Twin(Epoch),
    /// Of a later epoch and an earlier term.
    #[error("its term fell from {from} to {to}", from = from.0, to = to.0)]
    TermFell {
        /// The ring's term.
        from: Term,
        /// Its own.
        to: Term,
    },
    /// Of a format that the ring has left behind, or of another epoch in the same term where primaries may have moved.
    #[error("it does not follow: its format is lower, or its term is the same")]
    DoesNotFollow,
    /// What it says about replication contradicts the rest.
    #[error("what it says about replication does not fit its slots")]
    Replication,
    /// Epoch 0, or one that frames cannot carry.
    #[error("its epoch {epoch} is not 1 to 2^48 - 1", epoch = .0.0)]
    EpochRange(Epoch),
    /// A term that versions cannot carry.
    #[error("its term {term} is not below 2^24", term = .0.0)]
    TermRange(Term),
    /// No slots, or too many.
    #[error("it has {0} slots, and 1 to {SLOT_COUNT_MAX} are possible")]
    SlotCount(usize),
    /// Copies out of range.
    #[error("it asks for {0} replicas, and 1 to {REPLICA_COUNT_MAX} are possible")]
    Replicas(u8),
    /// `rf1` with copies, or copies with `rf1`.
    #[error("its mode does not fit {0} replicas: rf1 is for one, the others for more")]
    ModeMisfit(u8),
    /// Nobody serves.
    #[error("none of its nodes serves")]
    NobodyServes,
    /// Twice the same node, among those that have not left.
    #[error("the node {0} is in it twice")]
    NodeTwice(NodeId),
    /// Twice the same address.
    #[error("the address {0} is in it twice: every node has one for clients and another for nodes")]
    AddressTwice(Address),
    /// Above a full node.
    #[error("the weight {weight} of {node} is above {max}", max = Weight::FULL.parts())]
    WeightRange {
        /// Whose weight.
        node: NodeId,
        /// What it is.
        weight: u16,
    },
    /// None or too many.
    #[error("{node} has {shards} shards, and 1 to {SHARD_COUNT_MAX} are possible")]
    ShardCount {
        /// Whose shards.
        node: NodeId,
        /// How many.
        shards: u16,
    },
    /// A zone's name is too long or has control characters.
    #[error("the zone of {0} is longer than {ZONE_BYTES_MAX} bytes or has a character that cannot be shown")]
    Zone(NodeId),
}

impl RingDocument {
    /// Reads what [`Self::to_json`] wrote. Judges form and checksum, not yet the content.
    ///
    /// # Errors
    /// [`Refusal`]: too long, not such a document, of an unknown format, or changed since it was written.
    pub fn from_json(json: &[u8]) -> Result<Self, Refusal> {
        if json.len() > DOCUMENT_BYTES_MAX {
            return Err(Refusal::TooLong(json.len()));
        }
        let unreadable = |error: serde_json::Error| Refusal::Unreadable(error.to_string());
        let mut members: serde_json::Map<_, _> = serde_json::from_slice(json).map_err(unreadable)?;
        // The format comes first: a later one may have changed anything else.
        match members.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if [FORMAT, FORMAT_REPLICATED].map(u64::from).contains(&format) => {}
            Some(format) => return Err(Refusal::Format(format)),
            None => return Err(Refusal::Unreadable("it has no format".to_owned())),
        }
        let found = members.remove(CHECKSUM_MEMBER).and_then(|value| u32::try_from(value.as_u64()?).ok());
        let found = found.ok_or_else(|| Refusal::Unreadable(format!("it has no {CHECKSUM_MEMBER}")))?;
        let document: Self = serde_json::from_value(members.into()).map_err(unreadable)?;
        let computed = document.checksum();
        if found == computed { Ok(document) } else { Err(Refusal::Checksum { found, computed }) }
    }

    /// Writes the document with its checksum as last member.
    pub fn to_json(&self) -> String {
        let mut json = self.bare_json();
        let checksum = crc32c::crc32c(json.as_bytes());
        assert_eq!(json.pop(), Some('}'), "a document is an object");
        json + &format!(",\"{CHECKSUM_MEMBER}\":{checksum}}}")
    }

    /// CRC32C of the JSON without the checksum: members in the order of this type, no white space.
    fn checksum(&self) -> u32 {
        crc32c::crc32c(self.bare_json().as_bytes())
    }

    fn bare_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers can always be written")
    }

    /// Whether its members keep account of who holds what: for copies, or for moving what they hold.
    pub fn is_replicated(&self) -> bool {
        self.replicas > 1 || self.replication.is_some()
    }

    /// Judges the content.
    pub(crate) fn validate(&self) -> Result<(), Refusal> {
        if ![FORMAT, FORMAT_REPLICATED].contains(&self.format) {
            return Err(Refusal::Format(self.format.into()));
        }
        if (self.format == FORMAT_REPLICATED) != self.replication.is_some() {
            return Err(Refusal::Replication);
        }
        if self.epoch == Epoch::NONE || self.epoch > Epoch::MAX {
            return Err(Refusal::EpochRange(self.epoch));
        }
        if self.term > Term::MAX {
            return Err(Refusal::TermRange(self.term));
        }
        if !(1..=SLOT_COUNT_MAX).contains(&self.slots.len()) {
            return Err(Refusal::SlotCount(self.slots.len()));
        }
        self.validate_copies()?;
        self.slots.iter().try_for_each(SlotEntry::validate)?;
        self.validate_differences()?;
        self.replication.as_ref().map_or(Ok(()), |replication| replication.validate(self))?;
        let serves = |(index, slot): (usize, &SlotEntry)| slot.state.serves() && self.weight_ever(index) > 0;
        if self.slots.iter().enumerate().any(serves) { Ok(()) } else { Err(Refusal::NobodyServes) }
    }

    /// What a slot weighs now or after the movement, whichever is more: with 0 it holds nothing.
    pub(super) fn weight_ever(&self, slot: usize) -> u16 {
        let movement = self.replication.as_ref().and_then(|known| known.movement.as_ref());
        self.slots[slot].weight.max(movement.map_or(0, |movement| movement.weights[slot]))
    }

    /// Slots that the walk of before the movement knows; without one, all.
    pub(super) fn slots_before(&self) -> usize {
        let movement = self.replication.as_ref().and_then(|known| known.movement.as_ref());
        movement.and_then(|movement| movement.joined_from).map_or(self.slots.len(), usize::from)
    }

    /// Slots that the walk of after the movement knows; without one, all.
    pub(super) fn slots_after(&self) -> usize {
        let movement = self.replication.as_ref().and_then(|known| known.movement.as_ref());
        movement.and_then(|movement| movement.left_from).map_or(self.slots.len(), usize::from)
    }

    fn validate_copies(&self) -> Result<(), Refusal> {
        if !(1..=REPLICA_COUNT_MAX).contains(&usize::from(self.replicas)) {
            return Err(Refusal::Replicas(self.replicas));
        }
        let fits = (self.replicas == 1) == (self.mode == Mode::Rf1);
        if fits { Ok(()) } else { Err(Refusal::ModeMisfit(self.replicas)) }
    }

    /// Members must be told apart; those that left may be named again elsewhere.
    fn validate_differences(&self) -> Result<(), Refusal> {
        let (mut nodes, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for slot in self.slots.iter().filter(|slot| slot.state != NodeState::Left) {
            if !nodes.insert(&slot.node) {
                return Err(Refusal::NodeTwice(slot.node.clone()));
            }
            for address in [&slot.client, &slot.peer] {
                if !addresses.insert(address) {
                    return Err(Refusal::AddressTwice(address.clone()));
                }
            }
        }
        Ok(())
    }

    /// Whether this document, which is not `current`, may take its place.
    pub(crate) fn may_follow(&self, current: &Self) -> Result<(), Refusal> {
        if self.cluster != current.cluster {
            return Err(Refusal::OtherCluster {
                offered: self.cluster.clone(),
                ours: current.cluster.clone(),
            });
        }
        if self.epoch == current.epoch {
            return Err(Refusal::Twin(self.epoch));
        }
        if self.epoch < current.epoch && safeguard::holds(Safeguard::EpochsRise) {
            return Err(Refusal::Older { offered: self.epoch, current: current.epoch });
        }
        if self.term < current.term && safeguard::holds(Safeguard::EpochsRise) {
            return Err(Refusal::TermFell { from: current.term, to: self.term });
        }
        // Versions of two primaries must never be of one term.
        let has_new_term = self.replication.is_none() || self.term > current.term;
        let follows = self.format >= current.format && has_new_term;
        if follows || !safeguard::holds(Safeguard::EpochsRise) { Ok(()) } else { Err(Refusal::DoesNotFollow) }
    }
}

impl SlotEntry {
    /// What it weighs in placement: a member that is away weighs nothing, or with replication as much as ever.
    pub(super) fn placed_weight(&self, stays: bool) -> u16 {
        let counts = self.state.serves() || (stays && self.state.is_away());
        if counts { self.weight } else { 0 }
    }

    fn validate(&self) -> Result<(), Refusal> {
        if self.weight > Weight::FULL.parts() {
            return Err(Refusal::WeightRange { node: self.node.clone(), weight: self.weight });
        }
        if !(1..=SHARD_COUNT_MAX).contains(&self.shards) {
            return Err(Refusal::ShardCount { node: self.node.clone(), shards: self.shards });
        }
        let shown = self.zone.len() <= ZONE_BYTES_MAX && !self.zone.chars().any(char::is_control);
        if shown { Ok(()) } else { Err(Refusal::Zone(self.node.clone())) }
    }
}
