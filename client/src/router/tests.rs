use super::*;
use crate::distribution::Distribution;

fn cluster(epoch: u64, states: &[&str]) -> RingDocument {
    let mut toml = format!("epoch = {epoch}\n");
    for (n, state) in states.iter().enumerate() {
        toml += &format!(
            "[[node]]\npeer = \"node{n}:7000\"\nclient = \"node{n}:11211\"\nshards = 4\nstate = \"{state}\"\n"
        );
    }
    RingDocument::from_toml(&toml).unwrap()
}

fn router() -> Router {
    Router::new(&Servers::ring(["seed0", "seed1"]).unwrap())
}

fn learn(router: &mut Router, document: &RingDocument) -> Result<(), Refusal> {
    router.learn(document.to_json().as_bytes(), Instant::now(), &Options::default())
}

#[test]
fn keys_go_to_the_owner_that_the_ring_names_and_to_its_shard() {
    let mut router = router();
    let document = cluster(1, &["up", "up", "up"]);
    learn(&mut router, &document).unwrap();
    let ring = Ring::new(document).unwrap();
    for n in 0..1_000 {
        let key = format!("key:{n}");
        let hash = hash_key(key.as_bytes());
        let node = format!("node{}", ring.primary(partition_of(hash)).0);
        let expected = Endpoint::tcp(&node, 11_211);
        assert_eq!(router.server_of(key.as_bytes(), &[], &Options::default()), expected);
    }
    for n in 0..3 {
        // Not what the ring says: a list of addresses does not know.
        router.learn_shards(&Endpoint::tcp(&format!("node{n}"), 11_211), Some((12_000, 4 + n)));
    }
    let off = Options { shard_ports: false, ..Options::default() };
    for n in 0..1_000 {
        let key = format!("key:{n}");
        let hash = hash_key(key.as_bytes());
        let owner = ring.primary(partition_of(hash)).0;
        let node = Endpoint::tcp(&format!("node{owner}"), 11_211);
        let shard = node.at_port(12_000, shard_of(hash, 4 + owner)).unwrap();
        assert_eq!(router.server_of(key.as_bytes(), &[], &Options::default()), shard);
        assert_eq!(router.server_of(key.as_bytes(), &[], &off), node);
    }
}

#[test]
fn nodes_are_asked_about_their_shards_when_they_come_once_an_interval_and_when_one_fails() {
    let (mut router, options) = (router(), Options::default());
    let start = Instant::now();
    let node = Endpoint::tcp("node0", 11_211);
    assert!(!router.take_shards_due(&node, start, &options), "nobody has said that it is one");
    router.learn(cluster(1, &["up", "up"]).to_json().as_bytes(), start, &options).unwrap();
    assert!(
        router.take_shards_due(&node, start, &options) && !router.take_shards_due(&node, start, &options)
    );
    assert!(!router.take_shards_due(&Endpoint::tcp("seed0", 11_211), start, &options));
    router.learn_shards(&node, Some((12_000, 2)));
    let later = start + SHARDS_INTERVAL;
    let shard = Endpoint::tcp("node0", 12_001);
    assert!(
        router.take_shards_due(&shard, later, &options) && !router.take_shards_due(&node, later, &options)
    );
    router.doubt_shards(&shard, later);
    assert!(router.take_shards_due(&node, later, &options), "it is asked at its common port");
    assert!(!router.take_shards_due(&shard, later, &options));
    router.learn_shards(&node, Some((12_000, 2)));
    router.learn(cluster(2, &["up"]).to_json().as_bytes(), later, &options).unwrap();
    assert!(!router.take_shards_due(&node, later, &options), "it is known already");
}

#[test]
fn without_a_ring_and_past_an_owner_that_fails_any_node_is_asked_in_turn() {
    let mut router = router();
    let seeds = [0, 1, 2].map(|_| router.server_of(b"k", &[], &Options::default()).to_string());
    assert_eq!(seeds, ["seed0:11211", "seed1:11211", "seed0:11211"]);

    learn(&mut router, &cluster(1, &["up", "down", "up"])).unwrap();
    assert_eq!(router.servers().len(), 2);
    let owner = router.server_of(b"k", &[], &Options::default());
    let other = router.server_of(b"k", std::slice::from_ref(&owner), &Options::default());
    assert_ne!(owner, other);
    let both = [owner, other];
    assert!(both.contains(&router.server_of(b"k", &both, &Options::default())));
}

#[test]
fn a_ring_from_the_past_or_a_damaged_one_is_refused() {
    let mut router = router();
    learn(&mut router, &cluster(7, &["up", "up"])).unwrap();
    assert!(learn(&mut router, &cluster(6, &["up"])).is_err());
    let now = Instant::now();
    for damaged in ["", "{}", "{\"format\":1"] {
        assert!(router.learn(damaged.as_bytes(), now, &Options::default()).is_err());
    }
    assert_eq!(router.servers().len(), 2);
    learn(&mut router, &cluster(8, &["up"])).unwrap();
    assert_eq!(router.servers().len(), 1);
}

#[test]
fn the_ring_is_due_once_an_interval_and_at_once_when_it_is_doubted() {
    let (mut router, options) = (router(), Options::default());
    let start = Instant::now();
    assert!(router.first_seed().is_some() && !router.take_ring_due(start, &options));
    let json = cluster(1, &["up"]).to_json();
    router.learn(json.as_bytes(), start, &options).unwrap();
    assert!(router.first_seed().is_none() && !router.take_ring_due(start, &options));
    let later = start + options.ring_interval;
    assert!(router.take_ring_due(later, &options) && !router.take_ring_due(later, &options));
    router.suspect_ring(later + Duration::from_millis(1));
    assert!(router.take_ring_due(later + Duration::from_millis(1), &options));
}

#[test]
fn seeds_are_asked_one_after_the_other_until_all_have_failed() {
    let mut router = router();
    assert_eq!(router.first_seed().unwrap().to_string(), "seed0:11211");
    router.seed_failed();
    assert_eq!(router.first_seed().unwrap().to_string(), "seed1:11211");
    assert!(!router.is_out_of_seeds());
    router.seed_failed();
    assert!(router.is_out_of_seeds());
}

#[test]
fn when_all_nodes_have_failed_the_seeds_are_asked_again_and_then_the_nodes() {
    let mut router = router();
    learn(&mut router, &cluster(7, &["up", "up", "down"])).unwrap();
    let node = |n| Endpoint::tcp(&format!("node{n}"), 11_211);
    router.failed(&node(0));
    router.answered();
    router.failed(&node(1));
    assert!(router.first_seed().is_none(), "one has answered meanwhile");
    router.failed(&node(0));
    let mut asked = Vec::new();
    while !router.is_out_of_seeds() {
        asked.push(router.first_seed().unwrap());
        router.seed_failed();
    }
    let seed = |n| Endpoint::tcp(&format!("seed{n}"), 11_211);
    assert_eq!(asked, [seed(0), seed(1), node(0), node(1)]);
    router.forgive_seeds();
    learn(&mut router, &cluster(1, &["up"])).unwrap();
    assert_eq!((router.servers(), router.first_seed()), (vec![node(0)], None), "a cluster that begins anew");
}

#[test]
fn another_cluster_is_believed_when_nobody_tells_the_ring_any_more() {
    let mut router = router();
    let (list, longer) = (cluster(1, &["up", "up"]), cluster(1, &["up", "up", "up"]));
    learn(&mut router, &list).unwrap();
    for _ in 0..10 {
        assert!(learn(&mut router, &longer).is_err());
        learn(&mut router, &list).unwrap();
    }
    assert!(router.first_seed().is_none(), "some node is late");
    while router.first_seed().is_none() {
        assert!(learn(&mut router, &longer).is_err());
    }
    learn(&mut router, &longer).unwrap();
    assert_eq!(router.servers().len(), 3);
}

#[test]
fn a_list_has_no_ring() {
    let list = Servers::list(["a", "b"], Distribution::Jump).unwrap();
    let mut router = Router::new(&list);
    assert!(router.first_seed().is_none() && router.ring().is_none() && !router.any_node_will_do());
    let server = router.server_of(b"k", &[], &Options::default());
    assert_eq!(router.server_of(b"k", std::slice::from_ref(&server), &Options::default()), server);
}
