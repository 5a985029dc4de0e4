//! The real conductor over a coordinator that is late, forgets who is silent, and is away at times.

use std::sync::LazyLock;

use super::*;
use crate::conductor::{Conductor, Judgement};
use crate::coordinator::{Fence, Leader, NodeDescription, View};
use crate::migrate;
use crate::names::{ClusterId, NodeId};
use crate::report::{Report, ReportBoard, Wish};
use crate::ring::partitions::PartitionSet;
use crate::ring::{Assignment, Epoch, Movement};

const LOOKS_EVERY: u64 = 200;
/// A node that did not speak to the coordinator for so long is not registered any more.
const LEASE: Micros = Micros::from_millis(2_000);

/// Partitions that no key is in.
static KEYLESS: LazyLock<PartitionSet> = LazyLock::new(|| {
    let mut keyless = PartitionSet::default();
    PartitionId::all().skip(usize::from(SCOPE)).for_each(|partition| assert!(keyless.insert(partition)));
    keyless
});

/// What the coordinator knows, and who decides.
pub(super) struct Office {
    conductor: Conductor,
    pub(super) view: View,
    seen_at: BTreeMap<usize, Micros>,
    pub(super) is_away: bool,
}

impl Office {
    pub(super) fn new() -> Self {
        let judgement = Judgement {
            down_after: Micros::from_millis(500),
            up_after: Micros::from_millis(100),
            removal_pause: Micros::from_millis(500),
            forgets_after: Micros::from_millis(3_000),
            turn_back_after: Micros::from_millis(300),
            level_after: Micros::from_millis(2_000),
            ..Judgement::default()
        };
        let conductor = Conductor::new(ClusterId("slabring".parse().unwrap()), judgement);
        let leader = Leader { node: name(0), incarnation: Incarnation(1), fence: Fence(1) };
        let view = View { is_complete: true, is_reachable: true, leader: Some(leader), ..View::default() };
        Self { conductor, view, seen_at: BTreeMap::new(), is_away: false }
    }
}

fn name(node: usize) -> NodeId {
    NodeId(format!("10.0.{node}.1:7000").parse().unwrap())
}

fn described(node: usize, life: u64, shards: u16) -> NodeDescription {
    NodeDescription {
        node: name(node),
        incarnation: Incarnation(life),
        zone: String::new(),
        client: format!("10.0.{node}.1:11211").parse().unwrap(),
        peer: format!("10.0.{node}.1:7000").parse().unwrap(),
        shards,
        weight: 256,
    }
}

pub(super) fn first_ring(shard_counts: &[u16], replicas: u8, mode: Mode) -> Arc<Ring> {
    let node = |(n, shards): (usize, &u16)| {
        let addresses = format!("peer = \"10.0.{n}.1:7000\"\nclient = \"10.0.{n}.1:11211\"\n");
        format!("[[node]]\n{addresses}shards = {shards}\nincarnation = 1\n")
    };
    let nodes: String = shard_counts.iter().enumerate().map(node).collect();
    let mut document = RingDocument::from_toml(&format!("replicas = {replicas}\n{nodes}")).unwrap();
    document.mode = mode;
    let ring = ring_of(document).unwrap();
    Arc::new(ring_of(migrate::upgrade(&ring).unwrap()).unwrap())
}

impl World {
    /// A node speaks to the coordinator: it is there, and what its shards say.
    pub(super) fn speak(&mut self, index: usize) {
        let now = self.local(index);
        let Some(node) = &self.nodes[index] else { return };
        if node.is_cut_off || self.office.is_away {
            return;
        }
        let mut board = ReportBoard::new(Incarnation(node.life), self.shard_counts[index]);
        for (shard, at) in (0..).zip(&node.shards) {
            board.post(shard, at.replicator.report(now));
        }
        let mut report = board.report();
        self.say(|| {
            let ready: Vec<_> = report.ready.iter().map(PartitionId::index).collect();
            format!("n{index} under {:?}: ready {ready:?}, silent {:?}", report.epoch, report.silent)
        });
        // Where there are no keys nothing need be waited for.
        report.ready.insert_all(&KEYLESS);
        let (life, delay) = (node.life, 1 + self.dice.below(40));
        self.happen_in(delay, Happens::Spoke { node: index, life, report });
    }

    pub(super) fn spoke(&mut self, index: usize, life: u64, report: &Report) {
        if life != self.lives[index] || self.office.is_away {
            return;
        }
        self.office.seen_at.insert(index, self.now);
        let described = described(index, life, self.shard_counts[index]);
        self.office.view.reports.insert(described.node.clone(), report.clone());
        self.office.view.nodes.insert(described.node.clone(), described);
    }

    pub(super) fn conduct(&mut self) {
        let pause = LOOKS_EVERY / 2 + self.dice.below(LOOKS_EVERY);
        self.happen_in(pause, Happens::Conductor);
        if self.office.is_away {
            return self.office.conductor.look_away();
        }
        let ring = Arc::clone(self.rings.last().unwrap());
        self.forget_the_silent();
        self.forget_who_would_get_another_place(&ring);
        let Office { conductor, view, .. } = &mut self.office;
        view.read_at = self.now;
        conductor.look(self.now, Some(ring.document()), &view.nodes);
        view.nodes.values().for_each(|described| conductor.reached(described));
        let Some(mut next) = conductor.decide(self.now, view, Some(&ring), Epoch::NONE) else { return };
        // What no key is in need not come in batches: those would be 64 rings.
        if let Some(movement) = next.replication.as_mut().and_then(|known| known.movement.as_mut()) {
            movement.flipped.insert_all(&KEYLESS);
        }
        next.may_follow(ring.document()).unwrap();
        self.commit(&Arc::new(ring_of(next).unwrap()));
    }

    /// Places are numbers here: who has none comes when his is the next, and nobody has left another free.
    fn forget_who_would_get_another_place(&mut self, ring: &Ring) {
        let slots = &ring.document().slots;
        let is_any_free = slots.iter().any(|slot| slot.state == NodeState::Left);
        let known = slots.len() + usize::from(!is_any_free);
        self.office.view.nodes.retain(|node, _| (0..known).any(|index| *node == name(index)));
    }

    fn forget_the_silent(&mut self) {
        let Office { view, seen_at, .. } = &mut self.office;
        for (&node, _) in seen_at.iter().filter(|(_, at)| self.now.since(**at) > LEASE) {
            view.nodes.remove(&name(node));
            view.reports.remove(&name(node));
        }
    }

    fn commit(&mut self, next: &Arc<Ring>) {
        self.say(|| describe(next));
        let slots = &next.document().slots;
        assert!(
            slots.iter().enumerate().all(|(index, slot)| slot.node == name(index)),
            "places are numbers here"
        );
        self.rings.push(Arc::clone(next));
        self.note_losses();
        for node in 0..self.nodes.len() {
            // Late, seldom very late; the cut off hear of it from others.
            let late = if self.kills_all_copies && self.now < FAULTS_END { 400 } else { 100 };
            let lag = if self.dice.chance(late) { 3_000 } else { 60 };
            self.has_failed |= lag > 1_000;
            let is_cut_off = self.nodes[node].as_ref().is_some_and(|node| node.is_cut_off);
            let delay = self.dice.below(lag) + if is_cut_off { 1_000 } else { 0 };
            // In time to be served before the end.
            let delay = delay.min(END.since(self.now).0 / 2_000);
            let life = self.lives[node];
            self.happen_in(delay, Happens::Learns { node, life, ring: Arc::clone(next) });
        }
        if self.kills_newcomers && self.now < FAULTS_END {
            self.kill_newcomers(next);
        }
    }

    fn kill_newcomers(&mut self, ring: &Ring) {
        for (index, slot) in ring.document().slots.iter().enumerate() {
            let gains = movement_of(ring).is_some_and(|movement| movement.weights[index] > slot.weight);
            if gains && self.dice.chance(300) {
                self.crash(index);
            }
        }
    }

    /// How many movements turned back.
    pub(super) fn turned_back(&self) -> usize {
        let began = |ring: &Ring| movement_of(ring).map(|movement| movement.since);
        let is_other = |pair: &&[Arc<Ring>]| {
            let (before, after) = (began(&pair[0]), began(&pair[1]));
            before.is_some() && after.is_some() && before != after
        };
        self.rings.windows(2).filter(is_other).count()
    }

    /// How often a partition that nobody holds passed from one heir to another.
    pub(super) fn heirs_of_heirs(&self) -> usize {
        let passes = |pair: &[Arc<Ring>], partition: &PartitionId| {
            let (before, after) = (pair[0].assignment(*partition), pair[1].assignment(*partition));
            before.is_gutter && after.is_gutter && before.primary != after.primary
        };
        let partitions = || (0..SCOPE).map(PartitionId::new);
        self.rings
            .windows(2)
            .map(|pair| partitions().filter(|partition| passes(pair, partition)).count())
            .sum()
    }

    /// The operator changes his mind about a node.
    pub(super) fn wish(&mut self, node: usize) {
        let wishes = &mut self.office.view.wishes;
        // Where a node is to join, nobody gives up his place: it would be taken.
        let may_leave = self.shard_counts.len() == self.rings[0].document().slots.len();
        let wish = match self.dice.below(5) {
            0 | 1 if may_leave => Wish::Weight(0),
            2 if may_leave => Wish::Drain,
            3 => Wish::Down,
            // Up and down, without a throw: seeds that once failed stay what they are.
            _ => Wish::Weight(if self.count.is_multiple_of(2) { 128 } else { 256 }),
        };
        // Whom nobody serves without his wish stays.
        if wishes.remove(&name(node)).is_none() {
            self.has_failed |= wish == Wish::Down;
            wishes.insert(name(node), wish);
        }
        self.say(|| format!("the operator wishes {:?}", self.office.view.wishes));
    }

    /// Another conductor, who remembers nothing.
    pub(super) fn replace_conductor(&mut self) {
        let view = std::mem::take(&mut self.office.view);
        let seen_at = std::mem::take(&mut self.office.seen_at);
        let is_away = self.office.is_away;
        self.office = Office { view, seen_at, is_away, ..Office::new() };
    }
}

fn movement_of(ring: &Ring) -> Option<&Movement> {
    ring.document().replication.as_ref()?.movement.as_ref()
}

/// A ring in one line for each partition that has keys.
fn describe(ring: &Ring) -> String {
    let document = ring.document();
    let states: Vec<_> = document.slots.iter().map(|slot| (slot.state, slot.weight)).collect();
    let is_moving = document.replication.as_ref().is_some_and(|known| known.movement.is_some());
    let parts = (0..SCOPE).map(|n| {
        let Assignment { primary, in_sync, learners, is_gutter } = ring.assignment(PartitionId::new(n));
        let number = |slot: &SlotId| slot.0;
        let in_sync: Vec<_> = in_sync.iter().map(number).collect();
        let learners: Vec<_> = learners.iter().map(|learner| learner.slot.0).collect();
        format!(
            "\n    {n}: primary {}, in sync {in_sync:?}, learners {learners:?}, gutter {is_gutter}",
            primary.0
        )
    });
    format!("{:?}: {states:?}, moving: {is_moving}{}", ring.epoch(), parts.collect::<String>())
}
