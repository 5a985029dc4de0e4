//! `slabring-client` against the real binary and the installed memcached: every transport and both wires.
#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command as Process};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use slabring_client::{
    Answer, AsyncClient, Client, Command, Direction, Distribution, LeaseOptions, Lookup, MetaRequest,
    MetaStatus, Options, Servers, StoreMode, StoreOptions, Stored, Tls, Ttl, Wire,
};
use slabring_tests::cluster::{Cluster, File, Neighbourhood};
use slabring_tests::process::run_to_end;
use slabring_tests::server::{Kind, free_address, slabring_command};
use slabring_tests::toolbox::{clients_directory, python};
use slabring_tests::{Server, Signal, announce_skip};

/// Time for any single step, long because the machine may be compiling too.
const PATIENCE: Duration = Duration::from_secs(20);

fn options(wire: Wire) -> Options {
    let mut options = Options::default();
    options.wire = wire;
    options.timeout = PATIENCE;
    options.try_timeout = PATIENCE;
    options.connect_timeout = PATIENCE;
    options
}

/// Slabring of one and of two shards, and memcached where it is installed.
fn servers() -> Vec<Server> {
    let ours = ["1", "2"].map(|threads| Server::start(&["-t", threads]).unwrap());
    ours.into_iter().chain(Server::memcached(&["-t", "2"])).collect()
}

fn one(server: &Server) -> Servers {
    Servers::one(&server.address().to_string()).unwrap()
}

#[test]
fn every_command_is_answered_alike_on_both_wires_by_all_servers() {
    for server in servers() {
        for wire in [Wire::Text, Wire::Meta] {
            check_commands(
                &Client::new(&one(&server), options(wire)),
                server.kind(),
                &format!("{:?} {wire:?}", server.kind()),
            );
        }
    }
}

fn check_commands(client: &Client, kind: Kind, who: &str) {
    let never = Ttl::Never;
    client.flush(0).remove(0).1.unwrap();
    let flags = StoreOptions { ttl: Ttl::After(Duration::from_secs(90)), flags: u32::MAX };
    assert_eq!(client.add("k", "b", flags), Ok(Stored::Stored), "{who}");
    assert_eq!(client.add("k", "x", never), Ok(Stored::NotStored), "{who}");
    assert_eq!(client.append("k", "c"), Ok(Stored::Stored), "{who}");
    assert_eq!(client.prepend("k", "a"), Ok(Stored::Stored), "{who}");
    assert_eq!(client.append("none", "c"), Ok(Stored::NotStored), "{who}");
    let item = client.gets("k").unwrap().unwrap();
    assert_eq!((&*item.value, item.flags), (&b"abc"[..], u32::MAX), "{who}");
    assert_eq!(client.cas("k", "new", never, item.cas), Ok(Stored::Stored), "{who}");
    assert_eq!(client.cas("k", "old", never, item.cas), Ok(Stored::Exists), "{who}");
    assert_eq!(client.cas("none", "v", never, item.cas), Ok(Stored::NotFound), "{who}");
    assert_eq!(client.replace("k", "newer", never), Ok(Stored::Stored), "{who}");
    assert_eq!(client.replace("none", "v", never), Ok(Stored::NotStored), "{who}");
    assert_eq!(client.get_and_touch("k", never).unwrap().unwrap().value, b"newer", "{who}");
    assert_eq!((client.touch("k", never), client.touch("none", never)), (Ok(true), Ok(false)), "{who}");
    client.set("n", "10", never).unwrap();
    assert_eq!((client.incr("n", 5), client.decr("n", 6)), (Ok(Some(15)), Ok(Some(9))), "{who}");
    assert_eq!((client.decr("n", 99), client.incr("none", 1)), (Ok(Some(0)), Ok(None)), "{who}");
    assert!(client.incr("k", 1).is_err(), "{who}");
    client.set("dead", "v", Duration::ZERO).unwrap();
    assert_eq!(client.get("dead"), Ok(None), "{who}");
    let size = client.meta("k", MetaRequest::get().flag(b's').flag(b't')).unwrap();
    assert_eq!(
        (size.status, size.number(b's'), size.flag(b't')),
        (MetaStatus::Done, Some(5), Some("-1")),
        "{who}"
    );
    check_keys(client, kind, &[b"k", b"n"], who);
    assert_eq!((client.delete("k"), client.delete("k")), (Ok(true), Ok(false)), "{who}");
    assert!(client.stats("").remove(0).1.unwrap().iter().any(|(name, _)| name == "curr_items"), "{who}");
    assert!(client.stats("settings").remove(0).1.unwrap().len() > 10, "{who}");
    assert!(client.versions().remove(0).1.unwrap().starts_with("1."), "{who}");
    let error = client.set("large", vec![b'x'; 2 << 20], never).unwrap_err();
    assert!(error.to_string().contains("too large"), "{who}: {error}");
    assert_eq!(client.get("large"), Ok(None), "{who}");
}

/// That the server holds `expected`, sorted, and nothing else. Slabring says so at the first question; memcached's crawler leaves out
/// each item that another of its threads holds at that moment, so of memcached it is asked again.
#[track_caller]
fn check_keys(client: &Client, kind: Kind, expected: &[&[u8]], who: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let entries = client.keys().remove(0).1.unwrap();
        let mut keys: Vec<_> = entries.into_iter().map(|entry| entry.key).collect();
        keys.sort();
        if keys == expected {
            return;
        }
        let may_leave_out = matches!(kind, Kind::Memcached(_)) && Instant::now() < deadline;
        assert!(may_leave_out, "{who}: {keys:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn keys_of_any_bytes_travel_over_the_meta_wire() {
    for server in servers() {
        let client = Client::new(&one(&server), options(Wire::Meta));
        let keys: Vec<Vec<u8>> = vec![b"a b".to_vec(), b"\0\r\n".to_vec(), vec![0xff; 186], "plain".into()];
        for key in &keys {
            assert_eq!(client.set(key, key.as_slice(), Ttl::Never), Ok(Stored::Stored));
        }
        for (key, item) in keys.iter().zip(client.get_many(&keys)) {
            assert_eq!(item.unwrap().unwrap().value, *key, "{:?}", server.kind());
        }
    }
}

#[test]
fn one_client_gets_the_lease_whoever_serves() {
    for server in servers() {
        let client = Client::new(&one(&server), options(Wire::Text));
        let leases = LeaseOptions::default();
        let Lookup::Lease(lease) = client.get_or_lease("page", &leases).unwrap() else {
            panic!("nobody has it")
        };
        assert_eq!(client.get_or_lease("page", &leases), Ok(Lookup::Awaited));
        client.release(lease).unwrap();
        let Lookup::Lease(lease) = client.get_or_lease("page", &leases).unwrap() else {
            panic!("given back")
        };
        assert_eq!(client.fill(lease, "first", Ttl::Never), Ok(true));
        assert!(matches!(client.get_or_lease("page", &leases), Ok(Lookup::Hit(_))));
        assert_eq!(client.invalidate("page", PATIENCE), Ok(true));
        let Lookup::Lease(lease) = client.get_or_lease("page", &leases).unwrap() else {
            panic!("it is stale")
        };
        assert_eq!(lease.old().unwrap().value, b"first", "{:?}", server.kind());
        assert!(matches!(client.get_or_lease("page", &leases), Ok(Lookup::Stale(_))));
        client.set("page", "written meanwhile", Ttl::Never).unwrap();
        assert_eq!(client.fill(lease, "too late", Ttl::Never), Ok(false), "{:?}", server.kind());
    }
}

/// The twin is a map; pipelines are long, so that both shards, letters and the window have their part.
#[test]
fn random_pipelines_are_answered_as_a_map_would() {
    for server in servers() {
        for (wire, seed) in [(Wire::Text, 1), (Wire::Meta, 2)] {
            let client = Client::new(&one(&server), options(wire));
            client.flush(0).remove(0).1.unwrap();
            check_against_map(&client, seed);
        }
    }
}

fn check_against_map(client: &Client, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut twin: HashMap<u32, Vec<u8>> = HashMap::new();
    for round in 0..20 {
        let (mut commands, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..random.random_range(1..1_000) {
            let n = random.random_range(0..200);
            let key = client.key(format!("key:{n}")).unwrap();
            match random.random_range(0..10) {
                0..6 => {
                    commands.push(Command::Get { key, cas: false });
                    expected.push(twin.get(&n).map_or("miss".to_owned(), |value| shown(value)));
                }
                6..8 => {
                    let value = vec![b'v'; random.random_range(0..3_000)];
                    twin.insert(n, value.clone());
                    let options = StoreOptions::default();
                    commands.push(Command::Store { mode: StoreMode::Set, key, value, options });
                    expected.push("stored".to_owned());
                }
                8 => {
                    commands.push(Command::Delete { key });
                    expected.push(twin.remove(&n).is_some().to_string());
                }
                _ => {
                    commands.push(Command::Count { key, delta: 1, direction: Direction::Up });
                    let is_there = twin.contains_key(&n);
                    expected.push(if is_there { "refused".to_owned() } else { "no number".to_owned() });
                }
            }
        }
        let answers = client.pipeline(commands);
        assert_eq!(answers.len(), expected.len());
        for (n, (answer, expected)) in answers.into_iter().zip(expected).enumerate() {
            let answer = match answer {
                Ok(Answer::Item(None)) => "miss".to_owned(),
                Ok(Answer::Item(Some(item))) => shown(&item.value),
                Ok(Answer::Stored(Stored::Stored)) => "stored".to_owned(),
                Ok(Answer::Found(found)) => found.to_string(),
                Ok(Answer::Number(None)) => "no number".to_owned(),
                Err(error) if error.to_string().contains("non-numeric") => "refused".to_owned(),
                other => panic!("seed {seed} round {round}, command {n}: {other:?}"),
            };
            assert_eq!(answer, expected, "seed {seed} round {round}, command {n}");
        }
    }
}

fn shown(value: &[u8]) -> String {
    format!("{} bytes", value.len())
}

#[test]
fn many_keys_over_many_servers_come_back_in_their_order() {
    let servers: Vec<_> = (0..3).map(|_| Server::start(&["-t", "2"]).unwrap()).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address().to_string()).collect();
    for distribution in
        [Distribution::Ketama, Distribution::KetamaWeighted, Distribution::Jump, Distribution::Modulo]
    {
        let list = Servers::list(addresses.iter().map(String::as_str), distribution).unwrap();
        let client = Client::new(&list, options(Wire::Text));
        let keys: Vec<_> = (0..2_000).map(|n| format!("{distribution:?}:{n}")).collect();
        let store = |key: &String| Command::Store {
            mode: StoreMode::Set,
            key: client.key(key).unwrap(),
            value: key.clone().into_bytes(),
            options: StoreOptions::default(),
        };
        assert!(client.pipeline(keys.iter().map(store)).iter().all(Result::is_ok));
        for (key, item) in keys.iter().zip(client.get_many(&keys)) {
            assert_eq!(item.unwrap().unwrap().value, key.as_bytes());
        }
    }
}

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slabring-client-{name}-{}", std::process::id()));
        // What a killed test left behind.
        std::fs::remove_dir_all(&path).ok();
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn a_unix_socket_is_a_server_too() {
    let directory = Directory::new("unix");
    let path = directory.0.join("socket");
    let mut server = slabring_command().arg("-s").arg(&path).args(["-t", "2"]).spawn().unwrap();
    let start = Instant::now();
    // A socket has its name before it listens.
    while UnixStream::connect(&path).is_err() && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    let servers = Servers::one(path.to_str().unwrap()).unwrap();
    let client = Client::new(&servers, options(Wire::Text));
    let stored = client.set("k", "v", Ttl::Never);
    let read = client.get("k").map(|item| item.map(|item| item.value));
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!((stored, read), (Ok(Stored::Stored), Ok(Some(b"v".to_vec()))));
}

#[test]
fn tls_is_spoken_to_who_proves_its_name_and_to_nobody_else() {
    let directory = Directory::new("tls");
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (chain, key) = (directory.0.join("chain.pem"), directory.0.join("key.pem"));
    std::fs::write(&chain, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let option = format!("ssl_chain_cert={},ssl_key={}", chain.display(), key.display());
    let server = Server::start(&["-t", "2", "-Z", "-o", &option]).unwrap();

    let tls = |trusted: bool| {
        let mut roots = RootCertStore::empty();
        if trusted {
            roots.add(CertificateDer::from_pem_file(&chain).unwrap()).unwrap();
        }
        let config = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        let mut options = options(Wire::Meta);
        options.tls = Some(Tls { config, server_name: Some(ServerName::try_from("localhost").unwrap()) });
        options
    };
    let large = vec![b'x'; 500_000];
    let client = Client::new(&one(&server), tls(true));
    client.set("k", large.as_slice(), Ttl::Never).unwrap();
    assert_eq!(client.get("k").unwrap().unwrap().value, large);
    let error = Client::new(&one(&server), tls(false)).get("k").unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = AsyncClient::new(&one(&server), tls(true));
        assert_eq!(client.get("k").await.unwrap().unwrap().value, large);
        let error = AsyncClient::new(&one(&server), tls(false)).get("k").await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    });
}

#[test]
fn tasks_are_served_as_threads_are() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for server in servers() {
        runtime.block_on(async {
            let client = AsyncClient::new(&one(&server), options(Wire::Text));
            let keys: Vec<_> = (0..1_000).map(|n| format!("key:{n}")).collect();
            for key in &keys {
                assert_eq!(client.set(key, key.as_str(), Ttl::Never).await, Ok(Stored::Stored));
            }
            for (key, item) in keys.iter().zip(client.get_many(&keys).await) {
                assert_eq!(item.unwrap().unwrap().value, key.as_bytes());
            }
        });
    }
}

#[test]
fn a_server_that_comes_back_is_used_again() {
    let address = free_address();
    let start = || {
        let port = address.port().to_string();
        slabring_command().args(["-l", "127.0.0.1", "-t", "1", "-p", &port]).spawn().unwrap()
    };
    let client = Client::new(&Servers::one(&address.to_string()).unwrap(), Options::default());
    let answers_within_patience = || {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if client.set("k", "v", Ttl::Never).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    };
    for _ in 0..2 {
        let mut server = start();
        let answered = answers_within_patience();
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(answered);
        assert!(client.set("k", "v", Ttl::Never).is_err());
    }
}

/// Nodes of one cluster. Dropped, they are killed.
struct Nodes(Vec<Child>);

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in &mut self.0 {
            node.kill().unwrap();
            node.wait().unwrap();
        }
    }
}

#[test]
fn a_node_that_stands_alone_is_found_as_a_cluster_of_any_nodes() {
    let server = Server::start(&["-t", "2"]).unwrap();
    let servers = Servers::ring([&*server.address().to_string()]).unwrap();
    let client = Client::new(&servers, options(Wire::Text));
    assert_eq!(client.set("k", "v", Ttl::Never), Ok(Stored::Stored));
    assert_eq!(client.ring(), Ok(None));
}

#[test]
fn keys_of_a_cluster_are_asked_of_their_owners_and_of_any_node_when_one_is_away() {
    const NODES: usize = 3;
    let (peers, clients) = ([(); NODES].map(|()| free_address()), [(); NODES].map(|()| free_address()));
    let list: Vec<_> = peers.iter().zip(&clients).map(|(peer, client)| format!("{peer}={client}")).collect();
    let list = list.join(",");
    let probe =
        slabring_command().args(["--check-config", "--peers", &list, "-l", "127.0.0.1"]).output().unwrap();
    if String::from_utf8_lossy(&probe.stderr).contains("unexpected argument") {
        return announce_skip("this build has no --peers, so no cluster is asked");
    }
    let start = |(peer, client): (&SocketAddr, &SocketAddr)| {
        let ports =
            ["-p".to_owned(), client.port().to_string(), "--peer-listen".to_owned(), peer.to_string()];
        slabring_command().args(["-l", "127.0.0.1", "-t", "2", "--peers", &list]).args(ports).spawn().unwrap()
    };
    let mut nodes = Nodes(peers.iter().zip(&clients).map(start).collect());
    let seeds: Vec<_> = clients.iter().map(ToString::to_string).collect();
    let client = Client::new(&Servers::ring(seeds.iter().map(String::as_str)).unwrap(), options(Wire::Text));
    let is_up = || {
        let answers = (0..100).all(|n| client.set(format!("key:{n}"), "v", Ttl::Never).is_ok());
        let all_are_there = client.stats("").iter().all(|(_, stats)| stats.is_ok());
        answers && all_are_there && client.ring().is_ok_and(|ring| ring.is_some())
    };
    let begin = Instant::now();
    while !is_up() {
        assert!(begin.elapsed() < PATIENCE, "the cluster does not begin");
        thread::sleep(Duration::from_millis(20));
    }
    let keys: Vec<_> = (0..300).map(|n| format!("key:{n}")).collect();
    for key in &keys {
        assert_eq!(client.set(key, key.as_str(), Ttl::Never), Ok(Stored::Stored));
    }
    for (key, item) in keys.iter().zip(client.get_many(&keys)) {
        assert_eq!(item.unwrap().unwrap().value, key.as_bytes());
    }
    let items = client.stats("").into_iter().map(|(_, stats)| {
        let stats: HashMap<_, _> = stats.unwrap().into_iter().collect();
        stats["curr_items"].parse::<usize>().unwrap()
    });
    let items: Vec<_> = items.collect();
    assert!(items.len() == NODES && items.iter().all(|items| (50..200).contains(items)), "{items:?}");

    nodes.0[0].kill().unwrap();
    // The ring has its own order of the nodes: any of these may be that one's.
    let away = items.iter().copied().max().unwrap();
    let alive = client.get_many(&keys).into_iter().filter(Result::is_ok).count();
    assert!(alive >= keys.len() - away, "{alive} of {} with at most {away} away", keys.len());
}

/// Three nodes of two shards with ports of their own, whose ring is in a file.
fn ring_of_three() -> (Cluster, File, Servers) {
    let place = Neighbourhood::new();
    let ring = File::new(&place.ring(1, &[256, 256, 256]));
    let args = ["-t", "2", "--cluster", ring.path(), "--shard-ports", "12000"];
    let cluster = Cluster::start(place, 3, &args);
    let seeds = [place.client(1).to_string()];
    let servers = Servers::ring(seeds.iter().map(String::as_str)).unwrap();
    (cluster, ring, servers)
}

/// What the nodes have passed on to each other, and from shard to shard.
fn passed_on(cluster: &Cluster) -> [u64; 2] {
    ["slabring_forwarded", "slabring_requests_posted"]
        .map(|name| cluster.nodes.iter().map(|node| node.connect().stat(name)).sum())
}

#[test]
fn a_change_of_the_ring_under_load_costs_no_call_and_is_followed_to_the_shard() {
    let (cluster, ring, servers) = ring_of_three();
    for wire in [Wire::Text, Wire::Meta] {
        let client = Client::new(&servers, options(wire));
        let call_all = || {
            for n in 0..300 {
                let key = format!("key:{n}");
                assert_eq!(client.set(&key, key.as_str(), Ttl::Never), Ok(Stored::Stored));
                let item = client.get(&key).unwrap();
                // Between the two the key may have moved.
                assert!(item.is_none_or(|item| item.value == key.as_bytes()), "{key}");
            }
        };
        let epoch = client.ring().unwrap().map_or(1, |ring| ring.epoch.0);
        for (change, weights) in [[256, 0, 256], [0, 256, 256], [256, 256, 256]].iter().enumerate() {
            let epoch = epoch + 1 + change as u64;
            ring.write(&cluster.place.ring(epoch, weights));
            cluster.nodes[change].signal(Signal::Reload);
            let start = Instant::now();
            while client.ring().unwrap().is_none_or(|ring| ring.epoch.0 < epoch) {
                call_all();
                assert!(start.elapsed() < PATIENCE, "the client does not follow");
            }
            call_all();
        }
        call_all();
        let before = passed_on(&cluster);
        call_all();
        assert_eq!(passed_on(&cluster), before, "each request goes to the shard of its key: {wire:?}");
    }
}

#[test]
fn tasks_follow_a_change_of_the_ring_too_and_go_on_when_a_node_dies() {
    let (mut cluster, ring, servers) = ring_of_three();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = AsyncClient::new(&servers, options(Wire::Meta));
        let keys: Vec<_> = (0..300).map(|n| format!("key:{n}")).collect();
        for (change, weights) in [[256, 0, 256], [0, 256, 256], [256, 256, 0]].iter().enumerate() {
            ring.write(&cluster.place.ring(2 + change as u64, weights));
            cluster.nodes[change].signal(Signal::Reload);
            let start = Instant::now();
            while client.ring().await.unwrap().is_none_or(|ring| ring.epoch.0 < 2 + change as u64) {
                for key in &keys {
                    assert_eq!(client.set(key, key.as_str(), Ttl::Never).await, Ok(Stored::Stored));
                }
                assert!(client.get_many(&keys).await.iter().all(Result::is_ok));
                assert!(start.elapsed() < PATIENCE, "the client does not follow");
            }
        }
        // The ring does not need it any more.
        drop(cluster.nodes.pop());
        for key in &keys {
            assert_eq!(client.set(key, key.as_str(), Ttl::Never).await, Ok(Stored::Stored));
            assert_eq!(client.get(key).await.unwrap().unwrap().value, key.as_bytes());
        }
    });
}

#[test]
fn a_client_that_knows_no_ring_of_now_is_answered_by_any_node() {
    let (cluster, ring, servers) = ring_of_three();
    let mut patient = options(Wire::Text);
    patient.ring_interval = Duration::from_secs(3_600);
    let client = Client::new(&servers, patient);
    client.set("k", "v", Ttl::Never).unwrap();
    ring.write(&cluster.place.ring(9, &[256, 0, 0]));
    cluster.nodes[2].signal(Signal::Reload);
    let start = Instant::now();
    while cluster.nodes.iter().any(|node| node.connect().stat("slabring_ring_epoch") != 9) {
        assert!(start.elapsed() < PATIENCE, "the ring does not change");
    }
    for n in 0..300 {
        let key = format!("key:{n}");
        assert_eq!(client.set(&key, key.as_str(), Ttl::Never), Ok(Stored::Stored));
        assert_eq!(client.get(&key).unwrap().unwrap().value, key.as_bytes());
    }
    assert!(passed_on(&cluster)[0] > 300, "nobody has told the client");
}

#[test]
fn libmemcached_puts_keys_where_the_vectors_say() {
    let Some(python) = python() else { return };
    let script = clients_directory().join("placement_vectors.py");
    let finished = run_to_end(Process::new(python).arg(script), Duration::from_secs(60)).unwrap();
    if finished.stderr.contains("Address already in use") {
        return announce_skip("the ports of the placement vectors are taken");
    }
    let expected = include_str!("../client/golden/libmemcached.txt");
    let is_vector = |line: &&str| !line.starts_with('#');
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(finished.stdout.lines().filter(is_vector).eq(expected.lines().filter(is_vector)));
}
