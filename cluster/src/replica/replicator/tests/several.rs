//! Several nodes of one shard each, in one ring: what they say to each other arrives at once, and each is told of a ring by itself.

use super::*;

pub(super) struct Several {
    pub(super) now: Micros,
    pub(super) ring: Arc<Ring>,
    pub(super) ends: Vec<End>,
    /// Those that nobody hears, and that hear nobody.
    pub(super) silent: BTreeSet<usize>,
}

impl Several {
    /// So many nodes with so many copies of everything, after four seconds.
    pub(super) fn new(nodes: u16, copies: u16, mode: Mode) -> Self {
        let node = |n| {
            format!("[[node]]\npeer = \"10.0.{n}.1:7000\"\nclient = \"10.0.{n}.1:11211\"\nincarnation = 1\n")
        };
        let text = format!("replicas = {copies}\n{}", (0..nodes).map(node).collect::<String>());
        let document = RingDocument { mode, ..RingDocument::from_toml(&text).unwrap() };
        let ring = Ring::new(migrate::upgrade(&Ring::new(document).unwrap()).unwrap()).unwrap();
        let ends = (0..nodes).map(|_| Self::end(nodes, 1)).collect();
        let now = Micros::from_millis(1_000);
        let mut several = Self { now, ring: Arc::new(ring), ends, silent: BTreeSet::new() };
        several.tell_all();
        several.pass(4_000);
        several
    }

    /// A shard of one of so many nodes in this life of it, connected with all.
    pub(super) fn end(nodes: u16, life: u64) -> End {
        let mut end = End::begin(0, life);
        let peers = (0..nodes).map(|slot| PeerShard { slot: SlotId(slot), shard: 0 });
        peers.for_each(|peer| end.replicator.connected(peer, true));
        end
    }

    /// Those nodes are told of the ring.
    pub(super) fn tell(&mut self, nodes: impl IntoIterator<Item = usize>) {
        for node in nodes {
            let (End { replicator, store }, slot) =
                (&mut self.ends[node], SlotId(u16::try_from(node).unwrap()));
            replicator.adopt(self.now, store, &self.ring, Some(slot));
        }
    }

    /// All are told of the ring, the silent ones as well.
    pub(super) fn tell_all(&mut self) {
        self.tell(0..self.ends.len());
    }

    pub(super) fn pass(&mut self, millis: u64) {
        const TURNS_EACH: usize = 3;
        let nodes = self.ends.len();
        for _ in 0..millis.div_ceil(100) {
            self.now = self.now + Micros::from_millis(100);
            for from in (0..nodes).cycle().take(TURNS_EACH * nodes) {
                self.say(from);
            }
        }
    }

    fn say(&mut self, from: usize) {
        let End { replicator, store } = &mut self.ends[from];
        replicator.confirmed(self.now);
        replicator.turn(self.now, store);
        replicator.check_invariants();
        while let Some(effect) = self.ends[from].replicator.next_effect() {
            let Effect::Send { to, bytes } = effect else { continue };
            let to = usize::from(to.slot.0);
            if !self.silent.contains(&from) && !self.silent.contains(&to) {
                let End { replicator, store } = &mut self.ends[to];
                replicator.received(self.now, store, &bytes).unwrap();
            }
        }
    }
}
