//! Nodes that have their ring in a real etcd: it may be away, slow or mad, and ask who they are.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use slabring_cluster::ring::{Epoch, RingDocument};
use slabring_tests::cluster::{Cluster, File, Neighbourhood};
use slabring_tests::etcd::Etcd;
use slabring_tests::fickle::{Fickle, Mood};
use slabring_tests::machine::is_busy;
use slabring_tests::replay::{ABOUT_THE_NODE, Cuts, check_all};
use slabring_tests::{Connection, Server, wait_until};

/// Keys that every node of a small cluster owns some of.
const KEYS: usize = 300;
/// Time in which whoever could not renew a lease of five seconds, and is taken for dead after one and a half, would be removed.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(8);
/// Between two rounds over all keys: other nodes need the machine too.
const PAUSE: Duration = Duration::from_millis(10);

fn start(place: Neighbourhood, number: u8, url: &str, args: &[&str]) -> Server {
    let peer = place.peer(number).to_string();
    let all = [&["--etcd", url, "--peer-listen", &peer, "-t", "1", "-v"], args].concat();
    Server::start_on(place.client(number), &all).expect("a node starts")
}

/// Nodes that have found each other.
fn start_all(place: Neighbourhood, count: u8, url: &str, args: &[&str]) -> Cluster {
    let nodes = (1..=count).map(|number| start(place, number, url, args)).collect();
    let cluster = Cluster { nodes, place };
    wait_until("a ring of all", || cluster.nodes.iter().all(|node| serving(node) == usize::from(count)));
    cluster.wait_until_met();
    cluster
}

fn serving(node: &Server) -> usize {
    let mut connection = node.connect();
    let head = connection.command("config get cluster");
    let Some(length) = head.strip_prefix("CONFIG cluster 0 ") else { return 0 };
    let value = connection.read_exact(length.parse().expect("a length")).expect("nodes");
    value.iter().filter(|byte| **byte == b'|').count() / 2
}

fn has_ring(node: &Server) -> bool {
    node.connect().stat("slabring_ring_epoch") > 0
}

fn ring(node: &Server) -> RingDocument {
    let mut connection = node.connect();
    let head = connection.command("config get ring");
    let length: usize = head.strip_prefix("CONFIG ring 0 ").and_then(|n| n.parse().ok()).expect("a length");
    RingDocument::from_json(&connection.read_exact(length).expect("a document")).expect("a good one")
}

/// Sets and gets for a while, none of which may fail or miss.
fn use_for(connection: &mut Connection, time: Duration, what: &str) {
    let until = Instant::now() + time;
    let mut slowest = Duration::ZERO;
    while Instant::now() < until {
        for n in 0..KEYS {
            let sent = Instant::now();
            connection.set(&format!("key{n}"), "x");
            assert!(connection.get(&format!("key{n}")).is_some(), "key{n} beside {what}");
            slowest = slowest.max(sent.elapsed());
        }
        std::thread::sleep(PAUSE);
    }
    println!("slowest set and get beside {what}: {slowest:?}");
}

/// One node ends, and those that stay hear of it.
#[track_caller]
fn check_removal(cluster: &mut Cluster) {
    let left = cluster.nodes.len() - 1;
    drop(cluster.nodes.pop());
    wait_until("a ring without it", || cluster.nodes.iter().all(|node| serving(node) == left));
    let mut connection = cluster.nodes[0].connect();
    wait_until("all keys", || (0..KEYS).all(|n| connection.command(&format!("mg key{n}")).len() == 2));
    use_for(&mut connection, Duration::from_millis(1), "a node that has left");
}

#[test]
fn nodes_find_each_other_and_go_on_while_etcd_is_away() {
    let place = Neighbourhood::new();
    let Some(mut etcd) = Etcd::start(place) else { return };
    let mut cluster = start_all(place, 3, &etcd.url(), &[]);
    let mut connection = cluster.nodes[0].connect();
    etcd.kill();
    use_for(&mut connection, LONGER_THAN_A_LEASE, "a dead etcd");
    etcd.restart();
    compact(&etcd);
    use_for(&mut connection, Duration::from_secs(3), "an etcd that is back");
    assert!(cluster.nodes.iter().all(|node| serving(node) == 3), "nobody was removed meanwhile");
    check_removal(&mut cluster);
}

/// Throws away all that a watch has not heard of.
fn compact(etcd: &Etcd) {
    let key = BASE64_STANDARD.encode("elsewhere");
    for _ in 0..3 {
        etcd.post("/v3/kv/put", &format!("{{\"key\":\"{key}\",\"value\":\"\"}}"));
    }
    let answer = etcd.post("/v3/kv/range", &format!("{{\"key\":\"{key}\"}}"));
    let (_, revision) = answer.split_once("\"revision\":\"").expect("a revision");
    let revision = revision.split('"').next().expect("digits");
    etcd.post("/v3/kv/compaction", &format!("{{\"revision\":\"{revision}\"}}"));
}

fn check_mood(mood: Mood) {
    let place = Neighbourhood::new();
    let Some(etcd) = Etcd::start(place) else { return };
    let between = Fickle::start((place.ip(251), 2_379).into(), etcd.address());
    let mut cluster = start_all(place, 3, &between.url(), &[]);
    let mut connection = cluster.nodes[0].connect();
    between.become_now(mood);
    use_for(&mut connection, LONGER_THAN_A_LEASE, &format!("an etcd that is {mood:?}"));
    between.become_now(Mood::Honest);
    use_for(&mut connection, Duration::from_secs(2), "an etcd that is honest again");
    let serving = cluster.nodes.iter().map(serving).collect::<Vec<_>>();
    assert_eq!(serving, [3, 3, 3], "nobody was removed while it was {mood:?}");
    compact(&etcd);
    cluster.nodes[0].wait_until_says("the coordinator answers again");
    let said = cluster.nodes[0].stderr();
    let complaints = said.matches("the coordinator does not answer, the ring stays as it is").count();
    // etcd itself is late where the machine is.
    assert!((1..=2).contains(&complaints) || complaints > 2 && is_busy(), "{mood:?}: {said}");
    check_removal(&mut cluster);
}

#[test]
fn an_etcd_that_is_slow_fails_or_talks_nonsense_delays_nobody() {
    std::thread::scope(|scope| {
        for mood in [Mood::Slow, Mood::Failing, Mood::Mad] {
            scope.spawn(move || check_mood(mood));
        }
    });
}

/// Certificates of an authority, in files.
struct Papers {
    authority: File,
    etcd: [File; 2],
    node: [File; 2],
}

impl Papers {
    fn of(place: Neighbourhood) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, new_key()).expect("it signs itself");
        let issue = |name: String| {
            let params = CertificateParams::new(vec![name]).expect("a name or an address");
            let key = new_key();
            let certificate = params.signed_by(&key, &authority).expect("the authority signs");
            [File::new(&certificate.pem()), File::new(&key.serialize_pem())]
        };
        let (etcd, node) = (issue(place.ip(250).to_string()), issue("node.example".to_owned()));
        Self { authority: File::new(&authority.pem()), etcd, node }
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

#[test]
fn over_tls_nodes_and_etcd_know_each_other_by_certificates() {
    let place = Neighbourhood::new();
    let papers = Papers::of(place);
    let [certificate, key] = &papers.etcd;
    let args = ["--cert-file", certificate.path(), "--key-file", key.path(), "--client-cert-auth"];
    let args = [&args[..], &["--trusted-ca-file", papers.authority.path()]].concat();
    let Some(etcd) = Etcd::start_with(place, "https", &args) else { return };
    let [own, own_key] = &papers.node;
    let secured =
        ["--etcd-cacert", papers.authority.path(), "--etcd-cert", own.path(), "--etcd-key", own_key.path()];
    let mut cluster = start_all(place, 3, &etcd.url(), &[&secured[..], &["--zone", "north 1"]].concat());
    assert!(ring(&cluster.nodes[0]).slots.iter().all(|slot| slot.zone == "north 1"));
    let stranger = start(place, 4, &etcd.url(), &secured[..2]);
    wait_until("a complaint", || stranger.stderr().contains("the coordinator does not answer"));
    let others = Papers::of(place);
    let misled = start(place, 5, &etcd.url(), &["--etcd-cacert", others.authority.path()]);
    wait_until("a complaint", || misled.stderr().contains("certificate"));
    check_removal(&mut cluster);
    assert!(!has_ring(&stranger) && !has_ring(&misled));
}

#[test]
fn nodes_log_in_where_etcd_asks_and_again_when_that_was_too_long_ago() {
    let place = Neighbourhood::new();
    let Some(etcd) = Etcd::start_with(place, "http", &["--auth-token-ttl", "2"]) else { return };
    let (from, to) = (BASE64_STANDARD.encode("/slabring/"), BASE64_STANDARD.encode("/slabring0"));
    let may = format!(r#"{{"permType":"READWRITE","key":"{from}","range_end":"{to}"}}"#);
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"of all"}"#),
        ("user/grant", r#"{"user":"root","role":"root"}"#),
        ("user/add", r#"{"name":"node","password":"its: secret"}"#),
        ("role/add", r#"{"name":"nodes"}"#),
        ("role/grant", &format!(r#"{{"name":"nodes","perm":{may}}}"#)),
        ("user/grant", r#"{"user":"node","role":"nodes"}"#),
        ("enable", "{}"),
    ] {
        etcd.post(&format!("/v3/auth/{path}"), body);
    }
    let (good, bad) = (File::new("node:its: secret\n"), File::new("node:another"));
    let mut cluster = start_all(place, 3, &etcd.url(), &["--etcd-user-file", good.path()]);
    let mut connection = cluster.nodes[0].connect();
    use_for(&mut connection, Duration::from_secs(6), "tokens that end after 2 s");
    let stranger = start(place, 4, &etcd.url(), &["--etcd-user-file", bad.path()]);
    wait_until("a complaint", || stranger.stderr().contains("authentication failed"));
    check_removal(&mut cluster);
    assert!(!has_ring(&stranger));
}

fn check_transcripts(count: u8) {
    let place = Neighbourhood::new();
    let Some(etcd) = Etcd::start(place) else { return };
    let cluster = start_all(place, count, &etcd.url(), &[]);
    let mut ring = ring(&cluster.nodes[0]);
    ring.epoch = Epoch(ring.epoch.0 + 1);
    let front = place.peer(1).to_string();
    let own = ring.slots.iter_mut().find(|slot| slot.node.to_string() == front).expect("it is in the ring");
    own.weight = 0;
    let (key, value) =
        (BASE64_STANDARD.encode("/slabring/slabring/ring"), BASE64_STANDARD.encode(ring.to_json()));
    etcd.post("/v3/kv/put", &format!(r#"{{"key":"{key}","value":"{value}"}}"#));
    let epoch = ring.epoch.0;
    wait_until("the ring", || {
        cluster.nodes.iter().all(|node| node.connect().stat("slabring_ring_epoch") == epoch)
    });
    check_all(&cluster.nodes[0], &ABOUT_THE_NODE, &[Cuts::Turns]);
    assert_eq!(cluster.nodes[0].connect().stat("curr_items"), 0);
}

#[test]
fn the_front_of_three_nodes_with_etcd_answers_as_written() {
    check_transcripts(3);
}

#[test]
fn the_front_of_five_nodes_with_etcd_answers_as_written() {
    check_transcripts(5);
}
