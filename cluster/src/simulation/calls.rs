//! How nodes and the simulated etcd reach each other: late, twice, out of order or not at all.

use super::*;

impl World {
    pub(super) fn call_arrives(
        &mut self,
        node: usize,
        life: u64,
        id: CallId,
        path: &'static str,
        body: &str,
    ) {
        if self.etcd_is_down {
            let delay = self.dice.below(300);
            return self.happen_in(delay, Happens::CallFailed { node, life, id });
        }
        if path == crate::coordinator::gateway::WATCH {
            let asked: serde_json::Value = serde_json::from_str(body).unwrap();
            let from = asked["create_request"]["start_revision"].as_str().unwrap().parse().unwrap();
            let (lines, next) = self.etcd.watch(Some(body), from);
            self.tell(node, life, id, lines);
            if let Some(at) = self.node(node, life) {
                at.watch = next.map(|next| (id, next));
            }
            return;
        }
        let rings = self.etcd.rings.len();
        let (status, answer) = self.etcd.execute(self.now, path, body);
        if self.etcd.rings.len() > rings {
            self.check_written(node, life);
        }
        let delay = self.dice.below(self.etcd_delay);
        self.happen_in(delay, Happens::Answered { node, life, id, status, body: answer });
        self.tell_watches();
    }

    /// A ring was written: by whom it should have been, and with no more moved than must be.
    pub(super) fn check_written(&self, node: usize, life: u64) {
        self.say(|| format!("n{node} wrote ring {}", self.etcd.rings.len()));
        let leader = self.etcd.entries.get("/slabring/sim/leader").map(|entry| entry.value.clone());
        let writer = format!("n{node} {life}");
        assert_eq!(leader.as_deref(), Some(writer.as_bytes()), "a ring was written by {writer}");
        self.check_movement();
    }

    /// I8, for the last two rings of one history. Not where movements are carried out partition by partition.
    pub(super) fn check_movement(&self) {
        if self.faults == Faults::Wishes {
            return;
        }
        let [.., before, after] = &self.etcd.rings[self.etcd.rings_before..] else { return };
        let read = |json: &[u8]| ring_of(RingDocument::from_json(json).unwrap()).unwrap();
        let (before, after) = (read(before), read(after));
        assert!(after.epoch() > before.epoch());
        let is_changed = |slot: usize| {
            let placed =
                |ring: &Ring| ring.document().slots.get(slot).map(|s| (s.weight, s.state, s.zone.clone()));
            placed(&before) != placed(&after)
        };
        for partition in PartitionId::all().step_by(61) {
            let (from, to) = (before.primary(partition), after.primary(partition));
            let has_cause = from == to || is_changed(from.0.into()) || is_changed(to.0.into());
            assert!(has_cause, "{partition:?} moved from {from:?} to {to:?}, and neither changed");
        }
    }

    pub(super) fn tell_watches(&mut self) {
        for node in 0..self.nodes.len() {
            let Some(at) = &self.nodes[node] else { continue };
            let Some((id, from)) = at.watch.filter(|&(_, from)| from <= self.etcd.revision) else { continue };
            let life = at.life;
            let (lines, next) = self.etcd.watch(None, from);
            self.nodes[node].as_mut().unwrap().watch = next.map(|next| (id, next));
            self.tell(node, life, id, lines);
        }
    }

    /// Lines of a watch, late, doubled and out of order.
    pub(super) fn tell(&mut self, node: usize, life: u64, id: CallId, lines: Vec<String>) {
        for line in lines {
            let copies = if self.dice.chance(100) { 2 } else { 1 };
            for _ in 0..copies {
                let bound = if self.dice.chance(100) { 1_500 } else { 20 };
                let delay = self.dice.below(bound);
                self.happen_in(delay, Happens::Told { node, life, id, bytes: line.clone().into_bytes() });
            }
        }
    }
}
