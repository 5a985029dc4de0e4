//! What keeps the ring for all nodes: what it knows, and what it can be asked. Never on the way of a client's request:
//! while it is away, nodes go on with the ring they have.
//!
//! A coordinator is a state machine too: [`Coordinator::next`] says which HTTP call to make, [`Coordinator::answered`] takes
//! what came of it. [`local::Local`] makes none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{Address, Incarnation, NodeId};
use crate::report::{Report, Wish};
use crate::time::Micros;

pub mod etcd;
pub mod gateway;
pub mod local;

/// When a key was changed: larger is later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// The conductor's number: larger than those of all conductors before. A ring is written only with the number of the
/// moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

/// What a node says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Its name.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Where it stands.
    pub zone: String,
    /// Where clients reach it.
    pub client: Address,
    /// Where nodes reach it.
    pub peer: Address,
    /// Its shards.
    pub shards: u16,
    /// The share that it brings when it joins, in 256ths of a full node; 0: see [`Self::stands_by`].
    pub weight: u16,
}

impl NodeDescription {
    /// Whether it joins only when an operator wishes a weight for it.
    pub fn stands_by(&self) -> bool {
        self.weight == 0
    }
}

/// The node that decides on changes of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its name.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
    /// Its number.
    pub fence: Fence,
}

/// What a coordinator knows. As old as the last answer of whatever it asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Whether everything was read at least once.
    pub is_complete: bool,
    /// Whether the last call was answered.
    pub is_reachable: bool,
    /// Everything was read since then: what happened before is known, whatever news were lost.
    pub read_at: Micros,
    /// How often it was found to have an older state than before: emptied, or gone on from a copy. What was known then counts no more.
    pub rewinds: u64,
    /// Where another life is reached that is registered under this node's name and lives, as far as can be told: this one is not
    /// registered meanwhile.
    pub namesake: Option<Address>,
    /// The ring document, not yet judged.
    pub ring: Option<(Vec<u8>, Revision)>,
    /// The conductor.
    pub leader: Option<Leader>,
    /// The nodes that live, as far as can be told.
    pub nodes: BTreeMap<NodeId, NodeDescription>,
    /// What they say of copies and of each other.
    pub reports: BTreeMap<NodeId, Report>,
    /// What the operator wishes for members.
    pub wishes: BTreeMap<NodeId, Wish>,
}

/// What a coordinator can be asked to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// To make this node the conductor, if there is none (0), or in the place of the one with this number, if it still is one: others miss
    /// that one, and its lease lasts yet.
    Campaign(Fence),
    /// To end the office of the conductor with this number, if it still is one.
    Depose(Fence),
    /// To replace the ring of revision `expect` (0: there is none), if `fence` is the conductor's.
    WriteRing {
        /// The revision that it replaces.
        expect: Revision,
        /// This conductor's number.
        fence: Fence,
        /// The new document.
        json: String,
    },
}

/// Names a call for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// An HTTP POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub id: CallId,
    /// Where to, below the coordinator's address.
    pub path: &'static str,
    /// JSON.
    pub body: String,
    /// What to send as `authorization`, if that is wanted.
    pub token: Option<String>,
    /// Answered by one [`Answer::Reply`]; or by [`Answer::Chunk`]s as they come, without end.
    pub is_stream: bool,
    /// When to give up waiting for the head of the answer.
    pub timeout: Micros,
}

/// What came of a call.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// The whole answer.
    Reply {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: &'a [u8],
    },
    /// Some bytes of a stream's body, cut anywhere.
    Chunk(&'a [u8]),
    /// No answer in time, or the connection or stream ended.
    Failed,
}

/// What to do for a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Make this call.
    Call(Call),
    /// Nobody waits for this call any more: close its connection. No answer must follow.
    Cancel(CallId),
}

/// Keeps the ring for all nodes.
pub trait Coordinator {
    /// What is known now.
    fn view(&self) -> &View;

    /// Asks for a change. One at a time: not while [`Self::is_busy`]. Whether it was made shows in the view.
    fn order(&mut self, order: Order);

    /// What this node has to say, until it says something else. It is shown to all while the node lives. A node that has not said
    /// anything yet says nothing of nothing, unless it `must_speak`.
    fn report(&mut self, report: &Report, must_speak: bool);

    /// Whether the last order is under way.
    fn is_busy(&self) -> bool;

    /// What to do next; `None` until an answer comes or [`Self::wake_at`] has passed.
    fn next(&mut self, now: Micros) -> Option<Need>;

    /// When [`Self::next`] has something to do although nothing came.
    fn wake_at(&self) -> Micros;

    /// Something came of a call. Of one that is not under way any more: nothing happens.
    fn answered(&mut self, now: Micros, id: CallId, answer: Answer<'_>);
}
