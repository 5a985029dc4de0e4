//! A node's part in the agreement about the ring: what the coordinator says is offered to the holder, and while this node is
//! conductor its decisions are written. Never on a shard thread, never on the way of a request.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::conductor::Conductor;
use crate::coordinator::{
    Answer, CallId, Coordinator, Fence, Leader, Need, NodeDescription, Order, Revision,
};
use crate::names::{Incarnation, NodeId};
use crate::report::{Report, Waits};
use crate::ring::{Epoch, NodeState, Offered, Refusal, Ring, RingDocument, RingHolder};
use crate::time::Micros;

/// A node that could be conductor waits so long after it saw that there is none, so that not all try at once.
const CAMPAIGN_AFTER: Micros = Micros::from_millis(200);

/// What to do next, or what to log.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Make or cancel a call.
    Need(Need),
    /// Give this ring to every shard.
    Adopt(Arc<Ring>),
    /// A document was not adopted. The ring is as it was.
    Refused(Refusal),
    /// This node is the conductor now.
    Leading(Fence),
    /// It is not any more.
    Deposed,
    /// The coordinator has no ring, or an older one than this node follows: as conductor it writes its own, as this epoch.
    Restoring(Epoch),
    /// As conductor it wants to know whether this node is reached where it says: see [`Control::reached`].
    Reach(NodeDescription),
}

/// Makes a ring of a document.
type MakeRing = fn(RingDocument) -> Result<Ring, Refusal>;

/// A node's control state.
#[derive(Debug)]
pub struct Control<C> {
    node: NodeId,
    incarnation: Incarnation,
    coordinator: C,
    conductor: Conductor,
    holder: RingHolder,
    make_ring: MakeRing,
    /// The ring that the coordinator has, if it is one.
    written: Option<(Revision, Arc<Ring>)>,
    /// The document that was looked at last: of which of the coordinator's histories, and its revision.
    seen: Option<(u64, Revision)>,
    leading: Option<Fence>,
    /// Somebody follows another ring of the same epoch: of two histories of the coordinator.
    has_twin: bool,
    /// Since when the coordinator seems to have lost the ring.
    lost_since: Option<Micros>,
    vacant_since: Option<Micros>,
    /// What the shards have to say, and what this node waits for as conductor.
    said: Report,
    /// The Unix second in which the clock of its calls began.
    began: u64,
    effects: VecDeque<Effect>,
}

impl<C: Coordinator> Control<C> {
    /// A node that has no ring yet.
    pub fn new(node: NodeId, incarnation: Incarnation, coordinator: C, conductor: Conductor) -> Self {
        Self {
            node,
            incarnation,
            coordinator,
            conductor,
            holder: RingHolder::default(),
            make_ring: Ring::new,
            written: None,
            seen: None,
            leading: None,
            has_twin: false,
            lost_since: None,
            vacant_since: None,
            said: Report { incarnation, ..Report::default() },
            began: 0,
            effects: VecDeque::new(),
        }
    }

    /// With a clock that began in this Unix second: so it can tell people until when it waits.
    pub fn beginning_at(self, began: u64) -> Self {
        Self { began, ..self }
    }

    /// As [`Self::new`], rings made by `make_ring`.
    #[cfg(test)]
    pub(crate) fn with_rings(mut self, make_ring: MakeRing) -> Self {
        self.make_ring = make_ring;
        self
    }

    /// The ring.
    pub fn ring(&self) -> Option<&Arc<Ring>> {
        self.holder.current()
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &C {
        &self.coordinator
    }

    /// This conductor's number, while it is one.
    pub fn leading(&self) -> Option<Fence> {
        self.leading
    }

    /// What this node's shards have to say to the conductor: see [`crate::report::ReportBoard`]. As often as it likes: only what
    /// is new goes out.
    pub fn report(&mut self, report: &Report) {
        let waits = self.said.waits.take();
        self.said = Report { waits, ..report.clone() };
        self.coordinator.report(&self.said, self.is_out());
    }

    /// Tells people what it waits for as conductor, if that is news.
    fn tell_waits(&mut self) {
        let (view, ring) = (self.coordinator.view(), self.written.as_ref().map(|(_, ring)| &**ring));
        let waits = self.leading.map(|_| self.conductor.waits(view, ring, self.began));
        let waits = waits.filter(|waits| *waits != Waits::default()).map(Box::new);
        if self.said.waits != waits {
            self.said.waits = waits;
            self.coordinator.report(&self.said, self.is_out());
        }
    }

    /// Whether the ring says that this node is down: it says whatever it has to say under that ring, which shows that it lives.
    fn is_out(&self) -> bool {
        let slots = self.holder.current().map(|ring| &ring.document().slots);
        slots.into_iter().flatten().any(|slot| slot.node == self.node && slot.state == NodeState::Down)
    }

    /// Something came of a call.
    pub fn answered(&mut self, now: Micros, id: CallId, answer: Answer<'_>) {
        self.coordinator.answered(now, id, answer);
    }

    /// The node of an [`Effect::Reach`] was reached: it introduced itself as described, and both sides proved that they belong.
    pub fn reached(&mut self, described: &NodeDescription) {
        self.conductor.reached(described);
    }

    /// It was not, and why.
    pub fn not_reached(&mut self, described: &NodeDescription, why: &str) {
        self.conductor.not_reached(described, why);
    }

    /// A shard heard of a node that follows another ring of the same epoch, which it would follow for ever: the conductor writes its own
    /// again, as one that both follow.
    pub fn differs(&mut self) {
        self.has_twin = self.leading.is_some();
    }

    /// A shard had a ring document from another node.
    pub fn offer(&mut self, json: &[u8]) {
        match RingDocument::from_json(json) {
            Ok(document) => self.offer_document(document),
            Err(refusal) => self.effects.push_back(Effect::Refused(refusal)),
        }
    }

    fn offer_document(&mut self, document: RingDocument) {
        match self.holder.offer_with(document, self.make_ring) {
            Ok(Offered::Adopted(ring)) => self.effects.push_back(Effect::Adopt(ring)),
            Ok(Offered::Known) => {}
            Err(refusal) => self.effects.push_back(Effect::Refused(refusal)),
        }
    }

    /// When, after `now`, [`Self::next`] has something to do although nothing came.
    pub fn wake_at(&self, now: Micros) -> Micros {
        let by_conductor = if self.leading.is_some() { self.conductor.wake_at(now) } else { Micros::NEVER };
        // Later than that, the end of the call under way is what it waits for.
        let campaign_at = self.vacant_since.map(|since| since + CAMPAIGN_AFTER).filter(|&at| at > now);
        let by_vacancy = campaign_at.unwrap_or(Micros::NEVER);
        self.coordinator.wake_at().min(by_conductor).min(by_vacancy)
    }

    /// What to do next; `None` until something comes or [`Self::wake_at`] has passed.
    pub fn next(&mut self, now: Micros) -> Option<Effect> {
        self.read_ring();
        self.lead(now);
        self.tell_waits();
        if let Some(effect) = self.effects.pop_front() {
            return Some(effect);
        }
        self.coordinator.next(now).map(Effect::Need)
    }

    /// Offers what the coordinator has, once.
    fn read_ring(&mut self) {
        let view = self.coordinator.view();
        if view.namesake.is_some() && self.holder.current().is_none() {
            // It would serve what the other one serves.
            return;
        }
        let Some((json, revision)) = &view.ring else {
            self.written = None;
            return;
        };
        let name = Some((view.rewinds, *revision));
        if self.seen == name {
            return;
        }
        self.seen = name;
        match RingDocument::from_json(json) {
            Ok(document) => {
                let revision = *revision;
                self.offer_document(document.clone());
                let known = self.holder.current().filter(|ring| *ring.document() == document);
                // Older than what this node heard elsewhere, it is what a conductor replaces all the same.
                let made = known.cloned().or_else(|| (self.make_ring)(document).ok().map(Arc::new));
                self.written = made.map(|ring| (revision, ring));
            }
            Err(refusal) => {
                self.written = None;
                self.effects.push_back(Effect::Refused(refusal));
            }
        }
    }

    fn lead(&mut self, now: Micros) {
        let view = self.coordinator.view();
        let leads = |leader: &&Leader| leader.node == self.node && leader.incarnation == self.incarnation;
        let leading = view.leader.as_ref().filter(leads).map(|leader| leader.fence);
        let is_vacant = view.is_complete && view.leader.is_none();
        if self.leading != leading {
            self.conductor.look_away();
            self.leading = leading;
            self.effects.push_back(leading.map_or(Effect::Deposed, Effect::Leading));
        }
        if !view.is_reachable {
            // Who cannot ask does not know who is there.
            self.conductor.look_away();
            return;
        }
        if view.namesake.is_some() {
            return self.resign(leading);
        }
        match leading {
            Some(fence) => self.conduct(now, fence),
            None if is_vacant => self.campaign(now),
            None => self.succeed(),
        }
    }

    /// Decides no more while another process has this node's name: whose office it is could not be told.
    fn resign(&mut self, leading: Option<Fence>) {
        self.conductor.look_away();
        if let Some(fence) = leading.filter(|_| !self.coordinator.is_busy()) {
            self.coordinator.order(Order::Depose(fence));
        }
    }

    /// Takes the office of a conductor that others miss, and waits no longer for a vacancy: its lease lasts for seconds yet, and
    /// what it writes late is fenced. One step and not two, for each waits for the coordinator's disk.
    fn succeed(&mut self) {
        self.vacant_since = None;
        let (view, ring) = (self.coordinator.view(), self.written.as_ref().map(|(_, ring)| ring));
        let is_missed = |node: &NodeId| ring.is_some_and(|ring| self.conductor.is_missed(view, ring, node));
        let leader = view.leader.as_ref().filter(|leader| is_missed(&leader.node));
        let Some(fence) = leader.map(|leader| leader.fence) else { return };
        // Whom others miss as well would be followed at once.
        let order = if is_missed(&self.node) { Order::Depose(fence) } else { Order::Campaign(fence) };
        self.vacant_since = Some(Micros::default());
        if !self.coordinator.is_busy() {
            self.coordinator.order(order);
        }
    }

    fn campaign(&mut self, now: Micros) {
        let (view, ring) = (self.coordinator.view(), self.written.as_ref().map(|(_, ring)| ring));
        if ring.is_some_and(|ring| self.conductor.is_missed(view, ring, &self.node)) {
            // Others would end it at once.
            return;
        }
        let since = *self.vacant_since.get_or_insert(now);
        if now.since(since) >= CAMPAIGN_AFTER && !self.coordinator.is_busy() {
            self.vacant_since = Some(now);
            self.coordinator.order(Order::Campaign(Fence(0)));
        }
    }

    fn conduct(&mut self, now: Micros, fence: Fence) {
        self.vacant_since = None;
        let view = self.coordinator.view();
        // A ring that this node cannot read is not its to replace.
        if view.ring.is_some() && self.written.is_none() {
            return;
        }
        let (expect, ring) = match &self.written {
            Some((revision, ring)) => (*revision, Some(&**ring)),
            None => (Revision(0), None),
        };
        let document = ring.map(Ring::document);
        self.conductor.look(now, document, &view.nodes);
        view.nodes.get(&self.node).into_iter().for_each(|me| self.conductor.reached(me));
        let to_reach = std::iter::from_fn(|| self.conductor.to_reach(now, document));
        self.effects.extend(to_reach.map(Effect::Reach));
        if self.coordinator.is_busy() {
            return;
        }
        if self.has_lost_ring() || self.has_twin {
            let since = *self.lost_since.get_or_insert(now);
            // It may be known late here that it has a newer one, until it was asked.
            if let Some(next) = self.restored(now).filter(|_| view.read_at > since) {
                self.has_twin = false;
                self.effects.push_back(Effect::Restoring(next.epoch));
                self.coordinator.order(Order::WriteRing { expect, fence, json: next.to_json() });
            }
            return;
        }
        self.lost_since = None;
        let above = self.holder.current().map_or(Epoch::NONE, |ring| ring.epoch());
        if let Some(next) = self.conductor.decide(now, view, ring, above) {
            self.coordinator.order(Order::WriteRing { expect, fence, json: next.to_json() });
        }
    }

    /// Whether the coordinator has another ring than this node follows, or none.
    fn has_lost_ring(&self) -> bool {
        let Some(followed) = self.holder.current().map(|ring| ring.document()) else { return false };
        let written = self.written.as_ref().map(|(_, ring)| ring.document());
        written.is_none_or(|written| written != followed && written.cluster == followed.cluster)
    }

    /// The document by which it gets back what it lost.
    fn restored(&self, now: Micros) -> Option<RingDocument> {
        let written = self.written.as_ref().map(|(_, ring)| ring.document());
        self.conductor.restore(now, self.holder.current()?.document(), written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conductor::Judgement;
    use crate::coordinator::local::Local;

    #[test]
    fn a_list_is_adopted_and_replaced_by_a_later_one_only() {
        let pair = |n: u16| {
            let address = |port: u16| format!("127.0.0.1:{port}").parse().unwrap();
            (address(7_000 + n), address(11_000 + n))
        };
        let list = RingDocument::from_peers(vec![pair(1), pair(2)]).unwrap();
        let conductor = Conductor::new(list.cluster.clone(), Judgement::default());
        let node = list.slots[0].node.clone();
        let mut control = Control::new(node, Incarnation(1), Local::new(&list), conductor);
        assert!(matches!(control.next(Micros(0)), Some(Effect::Adopt(_))));
        assert!(control.next(Micros(0)).is_none());
        let later = RingDocument { epoch: Epoch(2), ..list.clone() };
        control.coordinator.replace(&later);
        assert!(matches!(control.next(Micros(0)), Some(Effect::Adopt(ring)) if ring.epoch() == Epoch(2)));
        control.coordinator.replace(&list);
        assert!(matches!(control.next(Micros(0)), Some(Effect::Refused(Refusal::Older { .. }))));
        assert_eq!(control.ring().unwrap().epoch(), Epoch(2));
    }
}
