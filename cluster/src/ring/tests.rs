//! What becomes a ring, what is refused and why, and what a ring says then.

use proptest::prelude::*;

use super::*;
use crate::names::{Address, ClusterId, Incarnation};

mod replicated;

fn three_nodes() -> RingDocument {
    RingDocument::from_toml(
        r#"
        cluster = "cache"
        replicas = 2
        [[node]]
        peer = "10.0.0.1:7000"
        client = "10.0.0.1:11211"
        zone = "a"
        [[node]]
        id = "second"
        peer = "10.0.0.2:7000"
        client = "cache-2.example:11211"
        zone = "b"
        shards = 8
        weight = 128
        [[node]]
        peer = "[::1]:7000"
        client = "[::1]:11211"
        state = "down"
        incarnation = 77
        "#,
    )
    .unwrap()
}

fn changed(change: impl FnOnce(&mut RingDocument)) -> RingDocument {
    let mut document = three_nodes();
    change(&mut document);
    document
}

#[test]
fn a_file_that_says_little_gets_the_rest() {
    let document = three_nodes();
    assert_eq!((document.epoch, document.term, document.mode), (Epoch(1), Term(1), Mode::Inval));
    let first = &document.slots[0];
    assert_eq!(first.node.to_string(), "10.0.0.1:7000");
    assert_eq!((first.weight, first.shards, first.state), (256, 1, NodeState::Up));
    assert_eq!((document.slots[1].node.to_string().as_str(), document.slots[1].shards), ("second", 8));
    assert_eq!(document.slots[2].incarnation, Incarnation(77));
}

#[test]
fn a_list_of_peers_is_a_ring_in_any_order() {
    let pair = |n: u16| {
        let address = |port: u16| format!("127.0.0.1:{port}").parse::<Address>().unwrap();
        (address(7000 + n), address(11211 + n))
    };
    let one = RingDocument::from_peers(vec![pair(0), pair(1), pair(2)]).unwrap();
    let other = RingDocument::from_peers(vec![pair(2), pair(0), pair(1)]).unwrap();
    assert_eq!(one, other);
    assert_eq!((one.mode, one.replicas), (Mode::Rf1, 1));
    assert!(Ring::new(one).is_ok());
}

#[test]
fn json_gives_the_document_back() {
    let document = three_nodes();
    assert_eq!(RingDocument::from_json(document.to_json().as_bytes()), Ok(document));
}

#[test]
fn the_json_is_what_other_languages_were_told() {
    let mut document = three_nodes();
    document.slots.truncate(1);
    let slot = r#"{"node":"10.0.0.1:7000","incarnation":0,"zone":"a","client":"10.0.0.1:11211","peer":"10.0.0.1:7000","shards":1,"weight":256,"state":"up"}"#;
    let bare = format!(
        r#"{{"format":1,"cluster":"cache","epoch":1,"term":1,"replicas":2,"mode":"inval","slots":[{slot}]}}"#
    );
    let sum = crc32c::crc32c(bare.as_bytes());
    assert_eq!(document.to_json(), format!("{},\"crc32c\":{sum}}}", bare.strip_suffix('}').unwrap()));
}

proptest! {
    #[test]
    fn a_damaged_document_is_refused_or_says_the_same(at: prop::sample::Index, flipped in 1_u8..=255) {
        let document = three_nodes();
        let mut json = document.to_json().into_bytes();
        let at = at.index(json.len());
        json[at] ^= flipped;
        // White space between members may become other white space; nothing else may pass.
        if let Ok(read) = RingDocument::from_json(&json) {
            prop_assert_eq!(read, document);
        }
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes: Vec<u8>, text: String) {
        let _ignored_refusals = (RingDocument::from_json(&bytes), RingDocument::from_toml(&text));
    }
}

#[test]
fn each_mistake_in_a_document_has_its_reason() {
    let node = three_nodes().slots[1].node.clone();
    let first_address: Address = "10.0.0.1:7000".parse().unwrap();
    let cases = [
        (changed(|d| d.format = 3), Refusal::Format(3)),
        (changed(|d| d.epoch = Epoch::NONE), Refusal::EpochRange(Epoch(0))),
        (changed(|d| d.epoch = Epoch(1 << 48)), Refusal::EpochRange(Epoch(1 << 48))),
        (changed(|d| d.term = Term(1 << 24)), Refusal::TermRange(Term(1 << 24))),
        (changed(|d| d.slots.clear()), Refusal::SlotCount(0)),
        (changed(|d| d.replicas = 0), Refusal::Replicas(0)),
        (changed(|d| d.replicas = 9), Refusal::Replicas(9)),
        (changed(|d| d.replicas = 1), Refusal::ModeMisfit(1)),
        (changed(|d| d.mode = Mode::Rf1), Refusal::ModeMisfit(2)),
        (changed(|d| d.slots[0].node = node.clone()), Refusal::NodeTwice(node.clone())),
        (
            changed(|d| d.slots[1].client = first_address.clone()),
            Refusal::AddressTwice(first_address.clone()),
        ),
        (changed(|d| d.slots[1].weight = 257), Refusal::WeightRange { node: node.clone(), weight: 257 }),
        (changed(|d| d.slots[1].shards = 0), Refusal::ShardCount { node: node.clone(), shards: 0 }),
        (changed(|d| d.slots[1].shards = 257), Refusal::ShardCount { node: node.clone(), shards: 257 }),
        (changed(|d| d.slots[1].zone = "\u{7}".to_owned()), Refusal::Zone(node)),
        (changed(|d| d.slots.iter_mut().for_each(|s| s.state = NodeState::Left)), Refusal::NobodyServes),
        (changed(|d| d.slots.iter_mut().for_each(|s| s.weight = 0)), Refusal::NobodyServes),
    ];
    for (document, reason) in cases {
        assert_eq!(Ring::new(document).unwrap_err(), reason);
    }
}

#[test]
fn text_that_is_no_document_has_its_reason() {
    let read = |json: &str| RingDocument::from_json(json.as_bytes()).unwrap_err();
    assert!(matches!(read("{"), Refusal::Unreadable(_)));
    assert!(matches!(read("[]"), Refusal::Unreadable(_)));
    assert!(matches!(read("{\"crc32c\":1}"), Refusal::Unreadable(_)));
    assert_eq!(read("{\"format\":9,\"slots\":{},\"crc32c\":1}"), Refusal::Format(9));
    let json = three_nodes().to_json();
    assert!(matches!(read(&json.replace("\"weight\":128", "\"weight\":129")), Refusal::Checksum { .. }));
    assert!(matches!(read(&json.replace("\"zone\":\"a\"", "\"room\":\"a\"")), Refusal::Unreadable(_)));
    assert_eq!(read(&" ".repeat(DOCUMENT_LENGTH)), Refusal::TooLong(DOCUMENT_LENGTH));
    assert!(matches!(RingDocument::from_toml("cluster = 1"), Err(Refusal::Unreadable(_))));
    assert!(matches!(
        RingDocument::from_toml("[[node]]\npeer=\"a:1\"\nclient=\"x\""),
        Err(Refusal::Unreadable(_))
    ));
}

const DOCUMENT_LENGTH: usize = document::DOCUMENT_BYTES_MAX + 1;

#[test]
fn the_longest_document_fits() {
    let mut document = three_nodes();
    let address = |n: usize| format!("{n:0>253}:65535").parse::<Address>().unwrap();
    document.slots = (0..crate::table::SLOT_COUNT_MAX)
        .map(|n| SlotEntry {
            node: NodeId(format!("{n:0>64}").parse().unwrap()),
            incarnation: Incarnation(u64::MAX),
            zone: "\"".repeat(64),
            client: address(n * 2),
            peer: address(n * 2 + 1),
            shards: 256,
            weight: 256,
            state: NodeState::Draining,
        })
        .collect();
    let mut roles = partitions::Roles::default();
    let mut flipped = partitions::PartitionSet::default();
    PartitionId::all().for_each(|partition| {
        roles.set(partition, 7);
        flipped.insert(partition);
    });
    let weights = vec![256; crate::table::SLOT_COUNT_MAX];
    let movement =
        Some(Movement { since: Epoch::MAX, weights, flipped, joined_from: Some(u16::MAX), left_from: None });
    let since = vec![Epoch::MAX; crate::table::SLOT_COUNT_MAX];
    document.replication = Some(Box::new(Replication { since, roles, movement }));
    let json = document.to_json();
    assert!(json.len() <= document::DOCUMENT_BYTES_MAX, "{} bytes", json.len());
    assert_eq!(RingDocument::from_json(json.as_bytes()), Ok(document));
}

/// A holder that follows `three_nodes` at epoch 5 and term 5.
fn at_epoch_five() -> RingHolder {
    let mut holder = RingHolder::default();
    holder.offer(changed(|d| (d.epoch, d.term) = (Epoch(5), Term(5)))).unwrap();
    holder
}

#[test]
fn what_is_older_foreign_or_a_twin_is_refused_and_the_ring_stays() {
    let mut holder = at_epoch_five();
    let other = ClusterId("other".parse().unwrap());
    let ours = three_nodes().cluster;
    let cases = [
        (
            changed(|d| (d.epoch, d.term) = (Epoch(4), Term(5))),
            Refusal::Older { offered: Epoch(4), current: Epoch(5) },
        ),
        (
            changed(|d| (d.epoch, d.term) = (Epoch(6), Term(4))),
            Refusal::TermFell { from: Term(5), to: Term(4) },
        ),
        (changed(|d| (d.epoch, d.term) = (Epoch(5), Term(6))), Refusal::Twin(Epoch(5))),
        (
            changed(|d| (d.epoch, d.cluster) = (Epoch(6), other.clone())),
            Refusal::OtherCluster { offered: other.clone(), ours },
        ),
        (changed(|d| (d.epoch, d.term, d.replicas) = (Epoch(6), Term(6), 0)), Refusal::Replicas(0)),
    ];
    for (document, reason) in cases {
        assert_eq!(holder.offer(document).unwrap_err(), reason);
        assert_eq!(holder.current().unwrap().epoch(), Epoch(5));
    }
}

#[test]
fn what_is_newer_is_adopted_once() {
    let mut holder = at_epoch_five();
    let newer = changed(|d| (d.epoch, d.term) = (Epoch(9), Term(5)));
    assert!(matches!(holder.offer(newer.clone()), Ok(Offered::Adopted(_))));
    assert!(matches!(holder.offer(newer), Ok(Offered::Known)));
    assert_eq!(holder.current().unwrap().epoch(), Epoch(9));
}

#[test]
fn only_nodes_that_serve_own_partitions() {
    let ring = Ring::new(three_nodes()).unwrap();
    let mut counts = [0_usize; 3];
    for partition in PartitionId::all() {
        assert_eq!(ring.owners(partition).len(), 2);
        counts[usize::from(ring.primary(partition).0)] += 1;
    }
    assert!(counts[0] > counts[1] && counts[1] > 0, "{counts:?}");
    assert_eq!(counts[2], 0, "it is down");
    assert_eq!(ring.slot_of(&NodeId("second".parse().unwrap())), Some(SlotId(1)));
    assert_eq!(ring.find_slot(SlotId(3)), None);
}
