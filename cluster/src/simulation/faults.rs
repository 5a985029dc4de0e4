//! What goes wrong in the simulated world, and how it is mended.

use super::*;

impl World {
    pub(super) fn may_harm(&self) -> bool {
        self.faults != Faults::OnlyEtcd && (FORMED..FAULTS_END).contains(&self.now)
    }

    pub(super) fn fault(&mut self) {
        if self.now >= FAULTS_END {
            return;
        }
        let pause = 100 + self.dice.below(1_200);
        self.happen_in(pause, Happens::Fault);
        let kind = match self.faults {
            Faults::All => self.dice.below(10),
            Faults::OnlyEtcd => [0, 1, 2, 3, 9][self.dice.index(5)],
            Faults::Wishes => [0, 1, 3, 4, 7, 8, 10, 10, 10, 10, 11][self.dice.index(11)],
        };
        let node = self.dice.index(self.nodes.len());
        match kind {
            0 => {
                self.etcd_is_down = !self.etcd_is_down;
                self.say(|| format!("etcd is down: {}", self.etcd_is_down));
                if !self.etcd_is_down {
                    self.etcd.renew_all(self.now);
                }
            }
            1 => self.etcd_delay = [2, 20, 500, 2_500][self.dice.index(4)],
            2 => self.etcd.compact(),
            3 => self.break_watch(node),
            4 => self.cut(),
            5 | 6 => self.happen_in(0, Happens::Weights),
            7 => self.crash(node),
            9 => self.lose_history(),
            10 => self.happen_in(0, Happens::Wish),
            11 => self.isolate(Some(node).filter(|_| self.outsider.is_none())),
            _ => self.hang_up_some(),
        }
    }

    /// etcd is emptied or goes on from a copy, or a copy is made for another time.
    fn lose_history(&mut self) {
        let copy = match self.dice.below(3) {
            0 => self.etcd_copy.take().unwrap_or_default(),
            1 => SimEtcd::default(),
            _ => {
                self.etcd_copy = Some(self.etcd.clone());
                return;
            }
        };
        self.say(|| format!("etcd goes back from revision {} to {}", self.etcd.revision, copy.revision));
        self.etcd.go_back(self.now, copy);
        for index in 0..self.nodes.len() {
            let Some(node) = &mut self.nodes[index] else { continue };
            let life = node.life;
            if let Some((id, _)) = node.watch.take() {
                self.happen_in(1, Happens::CallFailed { node: index, life, id });
            }
        }
    }

    pub(super) fn break_watch(&mut self, index: usize) {
        let Some(node) = &mut self.nodes[index] else { return };
        if let Some((id, _)) = node.watch.take() {
            let life = node.life;
            // Half of them go silent instead.
            if self.dice.chance(500) {
                self.happen_in(1, Happens::CallFailed { node: index, life, id });
            }
        }
    }

    /// A connection loses what one end, or each, sends. For good: nodes must make another.
    pub(super) fn cut(&mut self) {
        if self.wires.is_empty() {
            return;
        }
        let (index, ends) = (self.dice.index(self.wires.len()), self.dice.below(3));
        self.say(|| format!("wire {index} is cut"));
        self.wires[index].is_cut = [ends != 1, ends != 0];
    }

    pub(super) fn hang_up_some(&mut self) {
        if self.wires.is_empty() {
            return;
        }
        let (index, end) = (self.dice.index(self.wires.len()), self.dice.index(2));
        self.closed(index, end);
    }

    /// The operator gives some node another weight: through etcd, on the ring that is there.
    pub(super) fn change_weights(&mut self) {
        let Some(json) = self.etcd.rings.last() else { return };
        if self.etcd_is_down || !self.may_harm() {
            return;
        }
        let mut document = RingDocument::from_json(json).unwrap();
        document.epoch = document.epoch.next().unwrap();
        let slot = self.dice.index(document.slots.len());
        document.slots[slot].weight = if self.dice.chance(500) { 256 } else { 128 };
        if ring_of(document.clone()).is_err() {
            return;
        }
        self.say(|| format!("the operator writes {:?}", document.epoch));
        self.etcd.put("/slabring/sim/ring", document.to_json().as_bytes(), 0);
        self.check_movement();
        self.tell_watches();
        // Often not the only change, and not without requests that meet it on the way.
        if self.dice.chance(600) {
            let pause = 1 + self.dice.below(12);
            self.happen_in(pause, Happens::Weights);
        }
        for _ in 0..12 {
            let pause = self.dice.below(30);
            self.happen_in(pause, Happens::Asks);
        }
    }

    /// A node ends without a word. Its connections are closed by its kernel, or silent with the machine.
    pub(super) fn crash(&mut self, index: usize) {
        if self.nodes[index].take().is_none() {
            return;
        }
        self.say(|| format!("n{index} crashes"));
        let machine_too = self.dice.chance(500);
        for wire in 0..self.wires.len() {
            for end in 0..2 {
                if self.wires[wire].ends[end].node == index && !machine_too {
                    self.hang_up(wire, end);
                } else if self.wires[wire].ends[end].node == index {
                    self.wires[wire].is_cut = [true; 2];
                }
            }
        }
        let life = self.lives[index];
        for asked in self.asked.iter_mut().filter(|asked| asked.node == index && asked.life == life) {
            asked.is_answered = true;
        }
        let pause = self.dice.below(8_000);
        self.happen_in(pause, Happens::Restart { node: index });
    }

    pub(super) fn mend(&mut self) {
        self.say(|| "everything is mended".to_owned());
        self.etcd_delay = 2;
        if std::mem::replace(&mut self.etcd_is_down, false) {
            self.etcd.renew_all(self.now);
        }
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        self.isolate(None);
    }
}
