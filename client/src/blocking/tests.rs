use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use slabring_cluster::names::NodeId;
use slabring_cluster::ring::Ring;

use super::*;
use crate::distribution::Distribution;
use crate::error::Executed;
use crate::fake::{Reaction, Server, nobody};
use crate::lock::LockOptions;
use crate::options::Wire;

/// Long enough for a machine that compiles at the same time, and before us.
const PATIENT: Duration = Duration::from_secs(120);

fn list(servers: &[&Server]) -> Servers {
    let addresses: Vec<_> = servers.iter().map(|server| server.address()).collect();
    Servers::list(addresses.iter().map(String::as_str), Distribution::Jump).unwrap()
}

fn patient() -> Options {
    Options { timeout: PATIENT, try_timeout: PATIENT, connect_timeout: PATIENT, ..Options::default() }
}

fn client(server: &Server) -> Client {
    Client::new(&list(&[server]), patient())
}

fn value(item: Result<Option<Item>, Error>) -> Option<Vec<u8>> {
    item.unwrap().map(|item| item.value)
}

#[test]
fn every_command_answers_on_both_wires() {
    for wire in [Wire::Text, Wire::Meta] {
        let server = Server::start();
        let client = Client::new(&list(&[&server]), Options { wire, ..patient() });
        let never = Ttl::Never;
        assert_eq!(client.add("k", "b", StoreOptions { ttl: never, flags: 77 }).unwrap(), Stored::Stored);
        assert_eq!(client.add("k", "x", never).unwrap(), Stored::NotStored);
        assert_eq!(client.append("k", "c").unwrap(), Stored::Stored);
        assert_eq!(client.prepend("k", "a").unwrap(), Stored::Stored);
        let item = client.gets("k").unwrap().unwrap();
        assert_eq!((&*item.value, item.flags), (&b"abc"[..], 77));
        assert_eq!(client.cas("k", "new", never, item.cas).unwrap(), Stored::Stored);
        assert_eq!(client.cas("k", "old", never, item.cas).unwrap(), Stored::Exists);
        assert_eq!(client.cas("none", "v", never, item.cas).unwrap(), Stored::NotFound);
        assert_eq!(client.replace("none", "v", never).unwrap(), Stored::NotStored);
        assert_eq!(value(client.get_and_touch("k", Duration::from_secs(9))), Some(b"new".to_vec()));
        assert_eq!((client.touch("k", never), client.touch("none", never)), (Ok(true), Ok(false)));
        client.set("n", "10", never).unwrap();
        assert_eq!((client.incr("n", 5), client.decr("n", 99)), (Ok(Some(15)), Ok(Some(0))));
        assert_eq!(client.incr("none", 1), Ok(None));
        assert!(matches!(client.incr("k", 1), Err(Error::Refused { executed: Executed::No, .. })));
        assert_eq!(client.keys()[0].1.as_ref().unwrap().len(), 2);
        assert_eq!((client.delete("k"), client.delete("k")), (Ok(true), Ok(false)));
        assert_eq!(client.stats("").remove(0).1.unwrap()[1], ("curr_items".into(), "2".into()));
        assert_eq!(client.versions().remove(0).1.unwrap(), "1.6.99");
        assert_eq!(client.flush(0).remove(0).1, Ok(()));
        assert_eq!(client.get("n"), Ok(None));
    }
}

#[test]
fn keys_that_are_none_are_refused_one_by_one_before_anything_is_sent() {
    let server = Server::start();
    let client = client(&server);
    client.set("a", "1", Ttl::Never).unwrap();
    let sent = server.requests();
    assert!(matches!(client.get("a b"), Err(Error::Key(_))));
    assert!(matches!(client.set("a\r\nflush_all", "", Ttl::Never), Err(Error::Key(_))));
    assert_eq!(server.requests(), sent);
    let items = client.get_many(["a", "", "a", "b"]);
    assert!(items[0].is_ok() && items[1].is_err() && items[0] == items[2] && items[3] == Ok(None));
}

#[test]
fn a_reply_cut_anywhere_is_an_error_and_never_another_value() {
    let whole = b"VALUE k 0 5\r\nEND\r\n\r\nEND\r\n".len();
    for cut in 0..whole {
        let server = Server::spoiling(move |_, line, reply| match line {
            "get k" => Reaction::Close(reply[..cut].to_vec()),
            _ => Reaction::Reply(reply),
        });
        let options = Options { retries: 1, ..patient() };
        let client = Client::new(&list(&[&server]), options);
        client.set("k", "END\r\n", Ttl::Never).unwrap();
        let before = server.requests();
        let error = client.get("k").unwrap_err();
        assert!(matches!(error, Error::Lost { .. }), "cut at {cut}: {error}");
        assert_eq!(server.requests() - before, 2, "a get is tried again once");
        assert_eq!(client.get("other"), Ok(None), "cut at {cut}");
    }
}

#[test]
fn what_may_have_been_executed_is_not_sent_again_unless_it_changes_nothing() {
    let server = Server::spoiling(|_, _, _| Reaction::Close(Vec::new()));
    let client = Client::new(&list(&[&server]), Options { failures_max: 100, ..patient() });
    let lost = |result: Result<(), Error>| assert_eq!(result.unwrap_err().executed(), Executed::Unknown);
    lost(client.set("k", "v", Ttl::Never).map(drop));
    lost(client.delete("k").map(drop));
    lost(client.incr("k", 1).map(drop));
    assert_eq!(server.requests(), 3);
    lost(client.get("k").map(drop));
    lost(client.touch("k", Ttl::Never).map(drop));
    assert_eq!(server.requests(), 3 + 3 + 3);
}

#[test]
fn slow_bytes_are_waited_for_and_silence_only_until_the_time_is_over() {
    let slow = Server::spoiling(|_, _, reply| Reaction::Dribble(reply, Duration::from_millis(1)));
    let client = self::client(&slow);
    client.set("k", "v", Ttl::Never).unwrap();
    assert_eq!(value(client.get("k")), Some(b"v".to_vec()));

    let silent = Server::spoiling(|_, _, _| Reaction::Silence);
    let times = Options { timeout: Duration::from_millis(80), ..Options::default() };
    let client = Client::new(&list(&[&silent]), times);
    let start = Instant::now();
    let error = client.set("k", "v", Ttl::Never).unwrap_err();
    assert!(matches!(error, Error::Late { executed: Executed::Unknown, .. }), "{error}");
    assert!(start.elapsed() < PATIENT);
}

#[test]
fn a_server_that_hangs_takes_no_other_along_whichever_it_is() {
    const SERVERS: usize = 3;
    thread::scope(|scope| {
        for hung in 0..2 * SERVERS {
            scope.spawn(move || check_one_hangs(SERVERS, hung % SERVERS, hung >= SERVERS));
        }
    });
}

#[track_caller]
fn check_one_hangs(count: usize, hung: usize, is_large: bool) {
    let hangs = Arc::new(AtomicBool::new(false));
    let start = |number| {
        let hangs = Arc::clone(&hangs);
        Server::spoiling(move |_, _, reply| match number == hung && hangs.load(Ordering::SeqCst) {
            true => Reaction::Silence,
            false => Reaction::Reply(reply),
        })
    };
    let servers: Vec<_> = (0..count).map(start).collect();
    // The others need some milliseconds, and the machine may be compiling too.
    let times = Options { timeout: Duration::from_secs(5), retries: 0, back_off_min: PATIENT, ..patient() };
    let client = Client::new(&list(&servers.iter().collect::<Vec<_>>()), times);
    let keys: Vec<_> = (0..300).map(|n| format!("key:{n}")).collect();
    let value = "v".repeat(if is_large { 2_000 } else { 1 });
    // Before it hangs, so that there are connections to all.
    for key in &keys {
        assert_eq!(client.set(key, &*value, Ttl::Never), Ok(Stored::Stored));
    }
    hangs.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let versions = client.versions();
        let late = versions.iter().position(|(_, version)| version.is_err());
        assert_eq!((versions.iter().filter(|(_, version)| version.is_err()).count(), late), (1, Some(hung)));
        let items = client.get_many(&keys);
        let hits = items.iter().filter(|item| matches!(item, Ok(Some(_)))).count();
        assert!(hits > keys.len() / 2 && hits < keys.len(), "{hits} hits beside server {hung}");
        let failed: Vec<_> = items.iter().filter_map(|item| item.as_ref().err()).collect();
        let address = servers[hung].address();
        assert!(failed.iter().all(|error| error.to_string().contains(&address)), "{failed:?}");
    }
    assert_eq!(client.resting_servers().len(), 1, "only the one that hangs is left alone");
}

#[test]
fn rubbish_is_shown_and_its_connection_is_never_used_again() {
    let is_bad = Arc::new(AtomicBool::new(false));
    let spoils = Arc::clone(&is_bad);
    let server = Server::spoiling(move |_, _, reply| match spoils.load(Ordering::SeqCst) {
        true => Reaction::Reply(b"VALUE other 0 1\r\nx\r\nEND\r\n".to_vec()),
        false => Reaction::Reply(reply),
    });
    let client = client(&server);
    client.set("k", "v", Ttl::Never).unwrap();
    is_bad.store(true, Ordering::SeqCst);
    let error = client.get("k").unwrap_err();
    assert!(error.to_string().contains("VALUE other 0 1"), "{error}");
    is_bad.store(false, Ordering::SeqCst);
    assert_eq!(value(client.get("k")), Some(b"v".to_vec()));
    assert_eq!(server.connections(), 2);
}

#[test]
fn words_that_come_unasked_are_never_the_next_answer() {
    let server = Server::spoiling(|_, line, mut reply| {
        if line == "get k" {
            reply.extend_from_slice(b"VALUE other 0 5\r\nwrong\r\nEND\r\n");
        }
        Reaction::Reply(reply)
    });
    let client = client(&server);
    client.set("k", "v", Ttl::Never).unwrap();
    for _ in 0..20 {
        // Whether the second reply is here in time decides how it is noticed.
        let first = client.get("k");
        assert!(first.as_ref().is_err() || value(first) == Some(b"v".to_vec()));
        assert_eq!(client.get("other"), Ok(None));
    }
}

#[test]
fn a_dead_server_is_answered_for_at_once_takes_only_its_keys_along_and_is_found_again() {
    let address = nobody();
    let alive = Server::start();
    let (dead_text, alive_text) = (address.to_string(), alive.address());
    let servers = Servers::list([&*dead_text, &*alive_text], Distribution::Jump).unwrap();
    let options = Options { back_off_min: Duration::from_secs(3), failures_max: 1, ..patient() };
    let client = Client::new(&servers, options);
    let keys: Vec<_> = (0..50).map(|n| format!("key:{n}")).collect();

    let items = client.get_many(&keys);
    let failed = items.iter().filter(|item| item.is_err()).count();
    assert!(items.iter().all(|item| matches!(item, Ok(None) | Err(Error::Unreachable { .. }))));
    assert!((5..45).contains(&failed), "{failed} of 50");
    assert_eq!(client.resting_servers(), [address.to_string().parse().unwrap()]);
    let again = client.get_many(&keys);
    assert!(again.iter().all(|item| matches!(item, Ok(None) | Err(Error::Down { .. }))));

    let _back = Server::on(TcpListener::bind(address).unwrap(), |_, _, reply| Reaction::Reply(reply));
    let begun = Instant::now();
    while !client.get_many(&keys).iter().all(Result::is_ok) {
        assert!(begun.elapsed() < PATIENT, "it is not found again");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(client.resting_servers().is_empty());
}

#[test]
fn a_server_that_was_started_anew_is_not_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::on(listener, |n, _, reply| match n {
        0 => Reaction::Close(reply),
        _ => Reaction::Reply(reply),
    });
    let client = client(&server);
    client.set("k", "v", Ttl::Never).unwrap();
    while server.closed() == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    // The connection that waited has ended; a set on it could not be told from one that was executed.
    client.set("k", "w", Ttl::Never).unwrap();
    assert_eq!(value(client.get("k")), Some(b"w".to_vec()));
    assert_eq!(server.address(), address.to_string());
}

#[test]
fn threads_share_few_connections_and_wait_for_one() {
    let server = Server::start();
    let client = Client::new(&list(&[&server]), Options { connections_max: 2, ..patient() });
    thread::scope(|scope| {
        for n in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..50 {
                    let (key, text) = (format!("key:{n}"), format!("{n}:{round}"));
                    client.set(&key, text.as_str(), Ttl::Never).unwrap();
                    assert_eq!(value(client.get(&key)), Some(text.into_bytes()));
                }
            });
        }
    });
    assert!(server.connections() <= 2);

    // Who waits goes on when the other has its answer, over the same connection.
    let is_held = Arc::new(AtomicBool::new(true));
    let holds = Arc::clone(&is_held);
    let slow = Server::spoiling(move |_, _, reply| {
        while holds.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        Reaction::Reply(reply)
    });
    let client = Client::new(&list(&[&slow]), Options { connections_max: 1, ..patient() });
    thread::scope(|scope| {
        let asking = [0, 1].map(|_| scope.spawn(|| client.get("k")));
        thread::sleep(Duration::from_millis(100));
        assert!(slow.connections() <= 1 && slow.requests() <= 1);
        is_held.store(false, Ordering::SeqCst);
        assert!(asking.into_iter().all(|thread| thread.join().unwrap() == Ok(None)));
    });
    assert_eq!((slow.connections(), slow.requests()), (1, 2));

    let silent = Server::spoiling(|_, _, _| Reaction::Silence);
    let options = Options { connections_max: 1, timeout: Duration::from_millis(100), ..Options::default() };
    let client = Client::new(&list(&[&silent]), options);
    thread::scope(|scope| {
        let results = [0, 1].map(|_| scope.spawn(|| client.get("k"))).map(|thread| thread.join().unwrap());
        assert!(results.iter().all(Result::is_err));
    });
}

#[test]
fn large_values_and_long_pipelines_do_not_block_each_other() {
    let servers = [Server::start(), Server::start()];
    let client = Client::new(&list(&servers.each_ref()), patient());
    let large = vec![b'x'; 1 << 20];
    let key = |n: u32| client.key(format!("key:{n}")).unwrap();
    let store = |n| Command::Store {
        mode: StoreMode::Set,
        key: key(n),
        value: large.clone(),
        options: StoreOptions::default(),
    };
    let commands = (0..40).flat_map(|n| [store(n), Command::Get { key: key(n), cas: false }]);
    let answers = client.pipeline(commands);
    let is_whole = |answer: &Result<Answer, Error>| match answer {
        Ok(Answer::Item(Some(item))) => item.value.len() == large.len(),
        Ok(Answer::Stored(stored)) => stored.is_stored(),
        _ => false,
    };
    assert!(answers.len() == 80 && answers.iter().all(is_whole));
}

#[test]
fn one_thread_fills_and_the_others_wait_for_it() {
    let server = Server::start();
    let client = client(&server);
    let fills = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let fill = || {
                    fills.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(30));
                    Ok::<_, ()>(b"page".to_vec())
                };
                let value = client.get_or_fill("page", &LeaseOptions::default(), Ttl::Never, fill);
                assert_eq!(value.unwrap(), b"page");
            });
        }
    });
    assert_eq!(fills.load(Ordering::SeqCst), 1);

    assert!(client.invalidate("page", Duration::from_secs(9)).unwrap());
    let leases = LeaseOptions::default();
    let Lookup::Lease(lease) = client.get_or_lease("page", &leases).unwrap() else { panic!("nobody has it") };
    assert_eq!(lease.old().unwrap().value, b"page");
    assert!(matches!(client.get_or_lease("page", &leases), Ok(Lookup::Stale(_))));
    client.set("page", "newer", Ttl::Never).unwrap();
    assert_eq!(client.fill(lease, "too late", Ttl::Never), Ok(false));
}

#[test]
fn a_lease_whose_holder_fails_goes_to_the_next_one() {
    let server = Server::start();
    let client = client(&server);
    let leases = LeaseOptions::default();
    let failed = client.get_or_fill("page", &leases, Ttl::Never, || Err("no database"));
    assert_eq!(failed, Err(FillError::Fill("no database")));
    let filled = client.get_or_fill("page", &leases, Ttl::Never, || Ok::<_, ()>(b"page".to_vec()));
    assert_eq!(filled, Ok(b"page".to_vec()));
}

#[test]
fn a_value_that_was_made_is_returned_also_when_it_cannot_be_stored() {
    let server = Server::spoiling(|_, line, reply| {
        Reaction::Reply(match line.starts_with("cas ") {
            true => b"SERVER_ERROR out of memory storing object\r\n".to_vec(),
            false => reply,
        })
    });
    let client = client(&server);
    let filled =
        client.get_or_fill("page", &LeaseOptions::default(), Ttl::Never, || Ok::<_, ()>(b"page".to_vec()));
    assert_eq!(filled, Ok(b"page".to_vec()));
}

#[test]
fn a_time_without_end_is_no_reason_to_panic() {
    let server = Server::start();
    let always = Duration::MAX;
    let options = Options {
        timeout: always,
        try_timeout: always,
        connect_timeout: always,
        ring_interval: always,
        back_off_min: always,
        back_off_max: always,
        ..Options::default()
    };
    let client = Client::new(&list(&[&server]), options);
    let lock =
        client.lock("lock", &LockOptions { ttl: always, wait: always, ..LockOptions::default() }).unwrap();
    assert!(lock.is_some());
    let leases = LeaseOptions { hold: always, renew_before: Some(always) };
    let filled = client.get_or_fill("page", &leases, Ttl::Never, || Ok::<_, ()>(b"page".to_vec()));
    assert_eq!(filled, Ok(b"page".to_vec()));
}

/// A ring of the fake servers' addresses.
fn ring(epoch: u64, servers: &[&Server]) -> RingDocument {
    let mut toml = format!("epoch = {epoch}\n");
    for server in servers {
        toml += &format!("[[node]]\npeer = \"peer:{}\"\nclient = \"{}\"\n", server.port(), server.address());
    }
    RingDocument::from_toml(&toml).unwrap()
}

fn owner(document: &RingDocument, key: &str) -> usize {
    use slabring_cluster::placement::{hash_key, partition_of};
    let ring = Ring::new(document.clone()).unwrap();
    usize::from(ring.primary(partition_of(hash_key(key.as_bytes()))).0)
}

#[test]
fn a_cluster_is_asked_for_its_ring_and_each_owner_for_its_keys() {
    let servers = [Server::start(), Server::start(), Server::start()];
    let document = ring(1, &servers.each_ref());
    for server in &servers {
        server.set_ring(document.to_json());
    }
    let options = Options { ring_interval: PATIENT, ..patient() };
    let client = Client::new(&Servers::ring([&*servers[0].address()]).unwrap(), options);
    // One for the ring, and each node is asked once about its shards.
    let mut expected = [2, 1, 1];
    for n in 0..300 {
        let key = format!("key:{n}");
        client.set(&key, key.as_str(), Ttl::Never).unwrap();
        expected[owner(&document, &key)] += 1;
    }
    // On a machine that is slow the nodes are asked again about their shards by and by.
    let asked = servers.each_ref().map(Server::requests);
    assert!(
        asked.iter().zip(expected).all(|(&asked, expected)| (expected..expected + 20).contains(&asked)),
        "{asked:?}"
    );
    assert_eq!(client.ring().unwrap(), Some(document));
    assert_eq!(client_of_cluster(&servers[1]).versions().len(), 3);
    let keys: Vec<_> = (0..300).map(|n| format!("key:{n}")).collect();
    for (key, item) in keys.iter().zip(client.get_many(&keys)) {
        assert_eq!(value(item), Some(key.clone().into_bytes()));
    }
}

#[test]
fn the_ring_is_followed_when_a_node_says_that_it_changed() {
    let leaving = Server::spoiling(|_, line, reply| {
        let is_about_key = line.starts_with("get") || line.starts_with("set");
        Reaction::Reply(if is_about_key { b"SERVER_ERROR the ring is changing\r\n".to_vec() } else { reply })
    });
    let servers = [Server::start(), leaving];
    servers[0].set_ring(ring(1, &servers.each_ref()).to_json());
    let client = client_of_cluster(&servers[0]);
    let key =
        (0..).map(|n| format!("key:{n}")).find(|key| owner(&ring(1, &servers.each_ref()), key) == 1).unwrap();
    client.get("first").ok();
    // The second node has left: its keys go to the first as soon as the client knows.
    for server in &servers {
        server.set_ring(ring(2, &[&servers[0]]).to_json());
    }
    assert!(client.set(&key, "v", Ttl::Never).unwrap().is_stored());
    assert_eq!(client.servers().len(), 1);
}

#[test]
fn a_moved_key_is_asked_for_where_it_moved() {
    let new = Server::start();
    let address = new.address();
    let old = Server::spoiling(move |_, line, reply| match line.starts_with("config") {
        true => Reaction::Reply(reply),
        false => Reaction::Reply(format!("SERVER_ERROR MOVED 2 77 {address}\r\n").into_bytes()),
    });
    let client = client_of_cluster(&old);
    assert!(client.set("k", "v", Ttl::Never).unwrap().is_stored());
    assert_eq!(client.get("k").unwrap().map(|item| item.value), Some(b"v".to_vec()));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let to_itself = Server::on(listener, move |_, _, _| {
        Reaction::Reply(format!("SERVER_ERROR MOVED 2 77 {address}\r\n").into_bytes())
    });
    let error = client_of_cluster(&to_itself).get("k").unwrap_err();
    assert!(matches!(error, Error::Refused { executed: Executed::No, .. }), "{error}");
    assert!(to_itself.requests() < 12, "{} requests", to_itself.requests());
}

fn client_of_cluster(seed: &Server) -> Client {
    Client::new(&Servers::ring([&*seed.address()]).unwrap(), patient())
}

#[test]
fn an_owner_that_is_away_is_asked_for_through_any_other_node() {
    let alive = Server::start();
    let mut document = ring(1, &[&alive]);
    let mut away = document.slots[0].clone();
    away.node = NodeId("away".parse().unwrap());
    away.client = nobody().to_string().parse().unwrap();
    away.peer = "away:7000".parse().unwrap();
    document.slots.push(away);
    alive.set_ring(document.to_json());
    let client = client_of_cluster(&alive);
    for n in 0..50 {
        assert_eq!(client.get(format!("key:{n}")), Ok(None));
    }
}

#[test]
fn servers_without_a_ring_are_all_asked_and_dead_seeds_are_passed_over() {
    let server = Server::start();
    let client = Client::new(&Servers::ring(["127.0.0.1:1", &*server.address()]).unwrap(), patient());
    for n in 0..10 {
        assert_eq!(client.get(format!("key:{n}")), Ok(None));
    }
    assert_eq!(client.ring(), Ok(None));
    let nobody = Client::new(&Servers::ring(["127.0.0.1:1"]).unwrap(), Options::default());
    let start = Instant::now();
    assert!(nobody.get("k").is_err() && start.elapsed() < PATIENT);
}

#[test]
fn credentials_come_first_on_every_connection() {
    let server = Server::spoiling(|_, line, reply| match line {
        "set auth 0 0 9" => Reaction::Reply(reply),
        line if line.starts_with("set auth") => {
            Reaction::Reply(b"CLIENT_ERROR authentication failure\r\n".into())
        }
        _ => Reaction::Reply(reply),
    });
    let with = |password: &str| {
        let credentials = crate::options::Credentials { user: "user".into(), password: password.into() };
        Client::new(&list(&[&server]), Options { credentials: Some(credentials), ..patient() })
    };
    with("pass").set("k", "v", Ttl::Never).unwrap();
    let error = with("wrong").get("k").unwrap_err();
    assert!(error.to_string().contains("refuses the credentials"), "{error}");
}

/// Threads send random pipelines to servers that spoil replies in every way. Each value that comes out says which key
/// it belongs to.
#[test]
fn faults_never_mix_replies_up() {
    for seed in 0..20 {
        check_faults(seed);
    }
}

fn check_faults(seed: u64) {
    let spoil = move |number: usize, line: &str, reply: Vec<u8>| {
        let number = u64::try_from(number).unwrap();
        let mut random = StdRng::seed_from_u64(seed << 32 | number);
        let at = random.random_range(0..=reply.len());
        match random.random_range(0..60) {
            _ if line.starts_with("set") => Reaction::Reply(reply),
            0 => Reaction::Close(reply[..at].to_vec()),
            1 => Reaction::Reply(b"ERROR\r\n".to_vec()),
            2 => Reaction::Reply([&reply[..], b"END\r\n"].concat()),
            3 => Reaction::Reply(b"VALUE key:1 0 3\r\nbad\r\nEND\r\n".to_vec()),
            4 => Reaction::Dribble(reply, Duration::from_micros(50)),
            5 => Reaction::Reply(b"SERVER_ERROR out of memory\r\n".to_vec()),
            6 => Reaction::Silence,
            _ => Reaction::Reply(reply),
        }
    };
    let servers = [Server::spoiling(spoil), Server::spoiling(spoil)];
    let wire = if seed.is_multiple_of(2) { Wire::Text } else { Wire::Meta };
    let options = Options {
        wire,
        connections_max: 3,
        timeout: Duration::from_millis(60),
        failures_max: u32::MAX,
        ..Options::default()
    };
    let client = Client::new(&list(&servers.each_ref()), options);
    let hits = AtomicU32::new(0);
    thread::scope(|scope| {
        for thread in 0..3 {
            let (client, hits) = (&client, &hits);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed << 8 | thread);
                let begun = Instant::now();
                // A busy machine is late for nearly all of them: then it goes on.
                let is_short = || hits.load(Ordering::SeqCst) <= 20 && begun.elapsed() < PATIENT;
                for _ in (0..).take_while(|round| *round < 12 || is_short()) {
                    let keys: Vec<_> = (0..random.random_range(1..20))
                        .map(|_| format!("key:{}", random.random_range(0..50)))
                        .collect();
                    for key in &keys[..1] {
                        // Stored or not: what matters is what is read.
                        client.set(key, format!("value of {key}"), Ttl::Never).ok();
                    }
                    for (key, item) in keys.iter().zip(client.get_many(&keys)) {
                        let Ok(Some(item)) = item else { continue };
                        let is_forged = item.value == b"bad" && key == "key:1";
                        let is_own = item.value == format!("value of {key}").into_bytes();
                        assert!(
                            is_own || is_forged,
                            "seed {seed}: {key} has {:?}",
                            item.value.escape_ascii()
                        );
                        hits.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert!(hits.load(Ordering::SeqCst) > 0, "seed {seed}: everything failed");
}
