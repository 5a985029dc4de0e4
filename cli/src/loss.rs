//! What nobody has any more when a node goes by an operator's wish. Looks at the ring and at who is registered; asks no node.

use slabring_client::cluster::migrate;
use slabring_client::cluster::names::NodeId;
use slabring_client::cluster::placement::PARTITION_COUNT;
use slabring_client::cluster::report::Wish;
use slabring_client::cluster::ring::{NodeState, Ring};
use slabring_client::cluster::table::SlotId;
use slabring_etcd::Standing;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// The node is a member and not there: it can give nothing away.
    pub(crate) is_absent: bool,
    /// Partitions that only it has, if they are lost.
    pub(crate) partitions: usize,
}

impl Loss {
    /// What is lost by a wish for a node, as things stand.
    pub(crate) fn of(standing: &Standing, ring: &Ring, node: &NodeId, wish: Wish) -> Self {
        let is_member = |slot: &SlotId| ring.slot(*slot).state != NodeState::Left;
        let Some(slot) = ring.slot_of(node).filter(is_member) else {
            return Self { is_absent: false, partitions: 0 };
        };
        let is_absent = !standing.nodes.contains_key(node);
        // Who serves no more has lost what it had before.
        let takes_away = match wish {
            Wish::Down => ring.slot(slot).state.serves(),
            Wish::Drain | Wish::Weight(0) => is_absent,
            Wish::Weight(_) => false,
        };
        let partitions = if takes_away { migrate::only_at(ring, slot).count() } else { 0 };
        Self { is_absent, partitions }
    }

    /// Whether anything is lost.
    pub(crate) fn is_any(self) -> bool {
        self.partitions > 0
    }

    /// A line for who is about to decide; empty if nothing is lost.
    pub(crate) fn warning(self, node: &NodeId) -> String {
        let Self { is_absent, partitions } = self;
        match partitions {
            0 => String::new(),
            _ if is_absent => format!(
                "\n{node} is not there: what only it had, {partitions} of {PARTITION_COUNT} partitions, is lost"
            ),
            _ => format!(
                "\n{node} has the last copy of {partitions} of {PARTITION_COUNT} partitions: what is in them is lost"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use slabring_client::cluster::coordinator::NodeDescription;
    use slabring_client::cluster::names::Incarnation;
    use slabring_client::cluster::ring::RingDocument;

    use super::*;

    /// Three nodes, of which those in `down` are.
    fn ring(replicas: u16, down: &[u16]) -> Ring {
        let mut toml = format!("epoch = 1\nreplicas = {replicas}\n");
        for n in 1..=3 {
            toml += &format!("[[node]]\nid = \"n{n}\"\npeer = \"p{n}:1\"\nclient = \"c{n}:1\"\n");
        }
        let ring = Ring::new(RingDocument::from_toml(&toml).unwrap()).unwrap();
        let ring = migrate::upgrade(&ring).map_or(ring, |upgraded| Ring::new(upgraded).unwrap());
        down.iter()
            .fold(ring, |ring, slot| Ring::new(migrate::remove(&ring, SlotId(*slot)).unwrap()).unwrap())
    }

    /// Of `n2`, if the nodes `there` are registered.
    fn loss(ring: &Ring, there: &[u16], wish: Wish) -> Loss {
        let nodes = there.iter().map(|slot| {
            let entry = ring.slot(SlotId(*slot));
            let node = NodeDescription {
                node: entry.node.clone(),
                incarnation: Incarnation(1),
                zone: String::new(),
                client: entry.client.clone(),
                peer: entry.peer.clone(),
                shards: 1,
                weight: 256,
            };
            (entry.node.clone(), node)
        });
        let standing = Standing { nodes: nodes.collect(), ..Standing::default() };
        Loss::of(&standing, ring, &ring.slot(SlotId(1)).node, wish)
    }

    #[test]
    fn the_second_node_that_is_taken_out_has_the_last_copy_of_what_both_had_until_it_is_made_anew() {
        let (whole, one_gone) = (ring(2, &[]), ring(2, &[2]));
        assert_eq!(loss(&whole, &[0, 1, 2], Wish::Down), Loss { is_absent: false, partitions: 0 });
        let second = loss(&one_gone, &[0, 1], Wish::Down);
        let third = PARTITION_COUNT / 4..PARTITION_COUNT / 2;
        assert!(third.contains(&second.partitions), "{second:?}");
        let warning = second.warning(&one_gone.slot(SlotId(1)).node);
        assert!(warning.contains("n2 has the last copy of"), "{warning}");
        // Who gives away loses nothing; nor does anybody who is down already.
        assert_eq!(loss(&one_gone, &[0, 1], Wish::Drain).partitions, 0);
        assert_eq!(loss(&ring(2, &[1, 2]), &[0], Wish::Down).partitions, 0);
    }

    #[test]
    fn a_node_that_is_not_there_gives_nothing_away() {
        let single = ring(1, &[]);
        let gone = loss(&single, &[0, 2], Wish::Drain);
        assert!(gone.is_absent && gone.partitions > PARTITION_COUNT / 4, "{gone:?}");
        let warning = gone.warning(&single.slot(SlotId(1)).node);
        assert!(warning.contains("n2 is not there: what only it had"), "{warning}");
        assert_eq!(loss(&single, &[0, 1, 2], Wish::Drain), Loss { is_absent: false, partitions: 0 });
        // A share of nothing says the same in other words, and is asked about as well.
        assert!(loss(&single, &[0, 2], Wish::Weight(0)) == gone && gone.is_any());
        assert!(!loss(&single, &[0, 2], Wish::Weight(9)).is_any());
        // Others have copies of what it had.
        assert_eq!(loss(&ring(2, &[]), &[0, 2], Wish::Drain), Loss { is_absent: true, partitions: 0 });
    }
}
