//! Locks and fences against the real binary: whoever has lost a lock writes nothing any more.
#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::thread;
use std::time::{Duration, Instant};

use slabring_client::{AsyncClient, Client, Fenced, LockKind, LockOptions, Options, Servers, Ttl, Wire};
use slabring_tests::cluster::{Cluster, File};
use slabring_tests::coordinated::Coordinated;
use slabring_tests::{Connection, Server, Signal, wait_until};

/// Fences rise over a loss of etcd's data if that takes longer than three seconds and what clocks differ by: here there is one.
const LONGER_THAN_CLOCKS_ARE_ASKED_FOR: Duration = Duration::from_secs(4);

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

fn client(server: &Server, wire: Wire) -> Client {
    Client::new(&Servers::one(&server.address().to_string()).unwrap(), options(wire))
}

fn store_fenced(connection: &mut Connection, key: &str, fence: u64) -> String {
    connection.send(format!("ms {key} 1 Y{fence}\r\nx\r\n")).unwrap();
    String::from_utf8(connection.read_line().unwrap()).unwrap()
}

#[test]
fn a_holder_that_was_paused_beyond_its_time_writes_nothing_any_more() {
    for (threads, wire) in [("1", Wire::Text), ("2", Wire::Meta)] {
        let server = Server::start(&["-t", threads]).unwrap();
        let [first, second] = [(); 2].map(|()| client(&server, wire));
        let options = LockOptions { ttl: Duration::from_secs(60), ..LockOptions::default() };
        let held = first.lock("lock", &options).unwrap().unwrap();
        assert_eq!(first.set_fenced("k", "1", Ttl::Never, held.fence()).unwrap(), Fenced::Done);
        assert_eq!(second.lock("lock", &options).unwrap(), None);
        // The first is paused here, until nearly the end of its lock; the second waits for it.
        assert_eq!(server.connect().command("touch lock 1"), "TOUCHED");
        let patient = LockOptions { wait: PATIENCE, ..options };
        let next = second.lock("lock", &patient).unwrap().expect("a lock ends");
        assert!(next.fence() > held.fence());
        assert_eq!(second.set_fenced("k", "2", Ttl::Never, next.fence()).unwrap(), Fenced::Done);
        // The first goes on and does not know.
        assert_eq!(first.set_fenced("k", "3", Ttl::Never, held.fence()).unwrap(), Fenced::Overtaken);
        assert_eq!(first.delete_fenced("k", held.fence()).unwrap(), Fenced::Overtaken);
        assert_eq!((first.renew_lock(&held), first.unlock(held)), (Ok(false), Ok(false)));
        assert_eq!(first.get("k").unwrap().unwrap().value, b"2");
        assert_eq!(second.delete_fenced("none", next.fence()).unwrap(), Fenced::NotFound);
        assert!(second.unlock(next).unwrap());
    }
}

/// Long enough that a machine may stand still for a while.
const RENEWED: LockOptions =
    LockOptions { ttl: Duration::from_secs(6), wait: Duration::ZERO, kind: LockKind::Item };

/// Waits until the time that is left to `lock` has become more.
fn wait_for_renewal(connection: &mut Connection) {
    let mut least = u64::MAX;
    wait_until("a renewal", || {
        let answer = connection.command("mg lock t");
        let left = answer.strip_prefix("HD t").and_then(|left| left.parse().ok());
        let left = left.unwrap_or_else(|| panic!("{answer}"));
        let is_renewed = left > least;
        least = least.min(left);
        is_renewed
    });
}

#[test]
fn a_lock_that_is_renewed_is_held_under_the_same_fence() {
    let server = Server::start(&["-t", "2"]).unwrap();
    let [first, second] = [(); 2].map(|()| client(&server, Wire::Meta));
    let done = first.with_lock("lock", &RENEWED, |lock| {
        for _ in 0..2 {
            wait_for_renewal(&mut server.connect());
            assert_eq!(second.lock("lock", &RENEWED).unwrap(), None);
            assert_eq!(first.set_fenced("k", "v", Ttl::Never, lock.fence()).unwrap(), Fenced::Done);
        }
        lock.fence()
    });
    let fence = done.unwrap().expect("nobody else had it");
    let next = second.lock("lock", &RENEWED).unwrap().expect("it was given up at once");
    assert!(next.fence() > fence);
}

#[test]
fn where_items_have_copies_a_renewal_raises_the_fence_and_the_lock_is_held_on() {
    let cluster = Cluster::of_peers(2, &["-t", "1", "--replicas", "2", "--replication", "sync"]);
    let client = client(&cluster.nodes[0], Wire::Meta);
    let patient = LockOptions { ttl: Duration::from_secs(60), wait: PATIENCE, ..LockOptions::default() };
    let lock = client.lock("lock", &patient).unwrap().expect("nobody else asks");
    let first = lock.fence();
    assert_eq!([(); 2].map(|()| client.renew_lock(&lock)), [Ok(true), Ok(true)]);
    assert!(lock.fence() > first && !lock.is_lost());
    assert_eq!(client.set_fenced("k", "v", Ttl::Never, lock.fence()), Ok(Fenced::Done));
    assert_eq!(client.unlock(lock), Ok(true), "under the fence that it has by now");
}

#[test]
fn of_many_who_count_under_a_lock_none_is_lost() {
    const WORKERS: u64 = 8;
    const ROUNDS: u64 = 25;
    let server = Server::start(&["-t", "2"]).unwrap();
    let client = client(&server, Wire::Text);
    client.set("count", "0", Ttl::Never).unwrap();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let patient = LockOptions {
                        ttl: Duration::from_secs(60),
                        wait: Duration::from_secs(120),
                        ..LockOptions::default()
                    };
                    let lock = client.lock("lock", &patient).unwrap().expect("all give it up");
                    let count = client.get("count").unwrap().unwrap().value;
                    let count: u64 = String::from_utf8(count).unwrap().parse().unwrap();
                    let next = (count + 1).to_string();
                    assert_eq!(client.set_fenced("count", next, Ttl::Never, lock.fence()), Ok(Fenced::Done));
                    assert_eq!(client.unlock(lock), Ok(true));
                }
            });
        }
    });
    assert_eq!(client.get("count").unwrap().unwrap().value, (WORKERS * ROUNDS).to_string().as_bytes());
}

#[test]
fn tasks_lock_and_renew_as_threads_do() {
    let server = Server::start(&["-t", "2"]).unwrap();
    let servers = Servers::one(&server.address().to_string()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = AsyncClient::new(&servers, options(Wire::Meta));
        let other = AsyncClient::new(&servers, options(Wire::Meta));
        let work = async |lock: &slabring_client::Lock| {
            let mut connection = server.connect();
            tokio::task::spawn_blocking(move || wait_for_renewal(&mut connection)).await.unwrap();
            assert_eq!(other.lock("lock", &RENEWED).await, Ok(None));
            client.set_fenced("k", "v", Ttl::Never, lock.fence()).await
        };
        assert_eq!(client.with_lock("lock", &RENEWED, work).await, Ok(Some(Ok(Fenced::Done))));
        let lock = other.lock("lock", &RENEWED).await.unwrap().expect("it was given up");
        assert_eq!(client.set_fenced("k", "v", Ttl::Never, 1).await, Ok(Fenced::Overtaken));
        assert_eq!(client.delete_fenced("k", lock.fence()).await, Ok(Fenced::Done));
    });
}

#[test]
fn fences_outlive_items_that_are_evicted() {
    let server = Server::start(&["-t", "2", "-m", "8"]).unwrap();
    let mut connection = server.connect();
    let value = vec![b'x'; 10_000];
    connection.send([b"ms k 10000 Y77\r\n", &*value, b"\r\n"].concat()).unwrap();
    assert_eq!(connection.read_line().unwrap(), b"HD");
    for n in 0..3_000 {
        connection.set(&format!("filler{n}"), &value);
    }
    assert_eq!(connection.get("k"), None, "it was evicted long ago");
    assert_eq!(store_fenced(&mut connection, "k", 76), "EX");
    assert_eq!(store_fenced(&mut connection, "k", 77), "HD");
}

#[test]
fn fences_go_through_a_warm_restart() {
    let file = File::new("");
    let args = ["-t", "2", "-m", "16", "-e", file.path()];
    let mut server = Server::start(&args).unwrap();
    assert_eq!(store_fenced(&mut server.connect(), "k", 77), "HD");
    server.signal(Signal::Terminate);
    server.wait(PATIENCE).expect("it ends");
    let server = Server::start(&args).unwrap();
    let mut connection = server.connect();
    assert!(connection.get("k").is_some(), "it is warm: {}", server.stderr());
    assert_eq!(store_fenced(&mut connection, "k", 76), "EX");
    assert_eq!(store_fenced(&mut connection, "k", 78), "HD");
}

#[test]
fn a_fence_holds_whichever_node_is_asked() {
    let cluster = Cluster::of_peers(3, &["-t", "2"]);
    let mut nodes: Vec<_> = cluster.nodes.iter().map(Server::connect).collect();
    for n in 0..30 {
        let key = format!("key{n}");
        assert_eq!(store_fenced(&mut nodes[n % 3], &key, 5), "HD");
        for node in &mut nodes {
            assert_eq!(store_fenced(node, &key, 4), "EX");
            assert_eq!(node.command(&format!("md {key} Y4")), "EX");
        }
    }
    let seeds: Vec<_> = cluster.nodes.iter().map(|node| node.address().to_string()).collect();
    let servers = Servers::ring(seeds.iter().map(String::as_str)).unwrap();
    let client = Client::new(&servers, options(Wire::Meta));
    for n in 0..10 {
        let lock = client.lock(format!("lock{n}"), &LockOptions::default()).unwrap().unwrap();
        assert_eq!(client.unlock(lock), Ok(true));
    }
}

/// `lk` on a connection of its own.
fn lk(server: &Server, line: &str) -> String {
    server.connect().command(&format!("lk {line}"))
}

/// The fence of an answer.
#[track_caller]
fn fence_of(answer: &str) -> u64 {
    let fence = answer.split(' ').find_map(|word| word.strip_prefix('F'));
    fence.and_then(|fence| fence.parse().ok()).unwrap_or_else(|| panic!("{answer}"))
}

/// What a server says that ends at once; its port may be open for a moment.
fn why_it_ends(args: &[&str]) -> String {
    match Server::start(args) {
        Err(error) => format!("{error:#}"),
        Ok(mut server) => {
            server.wait(PATIENCE).expect("it ends");
            server.stderr()
        }
    }
}

#[test]
fn without_a_file_for_its_fences_there_are_no_locks() {
    let server = Server::start(&["-t", "1"]).unwrap();
    let refused = "SERVER_ERROR no locks here: lk needs --lock-file on a node that stands alone, or --etcd";
    assert_eq!(lk(&server, "l MA Sme"), refused);
    let file = File::new("");
    let said = why_it_ends(&["--lock-file", file.path(), "--peers", "127.0.0.1:1"]);
    assert!(said.contains("stands alone"), "{said}");
    file.write("no fences");
    let said = why_it_ends(&["--lock-file", file.path()]);
    assert!(said.contains("no file of fences"), "{said}");
}

#[test]
fn one_session_holds_a_lock_and_is_told_so_again() {
    for threads in ["1", "2"] {
        let file = File::new("");
        let server = Server::start(&["-t", threads, "--lock-file", file.path()]).unwrap();
        let answer = lk(&server, "l MA Sone T60000 O7");
        let fence = fence_of(&answer);
        assert_eq!(answer, format!("HD F{fence} t60000 Sone O7"));
        assert_eq!(
            fence_of(&lk(&server, "l MA Sone T60000")),
            fence,
            "an answer that was lost is given again"
        );
        assert!(lk(&server, "l MA Stwo").starts_with(&format!("NS F{fence} t")));
        assert!(lk(&server, "l MQ").ends_with(" Sone"));
        assert_eq!((lk(&server, "l MR Stwo").as_str(), lk(&server, "l MU Stwo").as_str()), ("EX", "EX"));
        assert_eq!(fence_of(&lk(&server, "l MR Sone T1")), fence);
        thread::sleep(Duration::from_millis(50));
        assert_eq!((lk(&server, "l MR Sone").as_str(), lk(&server, "l MQ O1").as_str()), ("NF", "NF O1"));
        assert!(fence_of(&lk(&server, "l MA Stwo")) > fence);
        assert_eq!((lk(&server, "l MU Stwo").as_str(), lk(&server, "l MU Stwo").as_str()), ("HD", "NF"));
    }
}

#[test]
fn who_waits_gets_the_lock_in_the_order_of_coming_and_never_after_leaving() {
    let file = File::new("");
    let server = Server::start(&["-t", "3", "--lock-file", file.path()]).unwrap();
    let first = fence_of(&lk(&server, "l MA Szero T60000"));
    let mut waiting: Vec<_> = (0..6)
        .map(|n| {
            let mut connection = server.connect();
            // What comes behind it on the same connection is answered behind it.
            connection.send(format!("lk l MA S{n} T60000 W60000\r\nmn\r\n")).unwrap();
            wait_until("it is in the line", || waiting_at(&server) == n + 1);
            connection
        })
        .collect();
    let impatient = Instant::now();
    assert!(lk(&server, "l MA Snobody W200").starts_with("NS F"));
    // Its time was counted from when it was heard, in whole milliseconds.
    assert!(impatient.elapsed() >= Duration::from_millis(150));
    // The second in line is gone.
    drop(waiting.remove(1));
    wait_until("it waits no more", || waiting_at(&server) == 5);
    let (mut holder, mut last) = ("zero".to_owned(), first);
    for (connection, n) in waiting.iter_mut().zip([0, 2, 3, 4, 5]) {
        assert_eq!(lk(&server, &format!("l MU S{holder}")), "HD");
        let answer = String::from_utf8(connection.read_line().unwrap()).unwrap();
        assert!(answer.ends_with(&format!(" S{n}")) && fence_of(&answer) > last, "{answer}");
        assert_eq!(connection.read_line().unwrap(), b"MN");
        (holder, last) = (n.to_string(), fence_of(&answer));
    }
}

#[test]
fn fences_rise_whatever_happens_to_the_process() {
    let file = File::new("");
    let mut last = 0;
    for round in 0..4 {
        let mut server = Server::start(&["-t", "2", "--lock-file", file.path()]).unwrap();
        for n in 0..300 {
            let fence = fence_of(&lk(&server, &format!("l{n} MA Sme")));
            assert!(fence > last, "{fence} after {last} in round {round}");
            last = fence;
        }
        server.signal(Signal::Kill);
        server.wait(PATIENCE).expect("it is gone");
    }
}

#[test]
fn a_node_ends_while_clients_wait_for_locks() {
    let file = File::new("");
    let mut server = Server::start(&["-t", "2", "--lock-file", file.path()]).unwrap();
    lk(&server, "l MA Sme T60000");
    let mut waiting = server.connect();
    waiting.send("lk l MA Sother W60000\r\n").unwrap();
    wait_until("it is in the line", || waiting_at(&server) == 1);
    server.signal(Signal::Terminate);
    assert!(waiting.read_line().unwrap().starts_with(b"NS F"));
    // It would be a minute.
    server.wait(PATIENCE).expect("it does not wait for them");
}

#[test]
fn nodes_keep_locks_together_whichever_is_asked() {
    let Some(nodes) = Coordinated::start(2, &["-t", "2"]) else { return };
    let [one, two] = [&nodes.cluster.nodes[0], &nodes.cluster.nodes[1]];
    let answer = lk(one, "a/lock MA Ssession/one T60000 O7");
    let fence = fence_of(&answer);
    let left =
        answer.strip_prefix(&format!("HD F{fence} t")).and_then(|rest| rest.strip_suffix(" Ssession/one O7"));
    assert!(left.is_some_and(|left| (1..=60_000).contains(&left.parse().unwrap_or(0))), "{answer}");
    // Asking again is safe, also elsewhere.
    assert_eq!(fence_of(&lk(two, "a/lock MA Ssession/one T60000")), fence);
    assert!(lk(two, "a/lock MA Stwo").starts_with(&format!("NS F{fence} t")));
    assert!(lk(two, "a/lock MQ").ends_with(" Ssession/one"));
    assert_eq!((lk(two, "a/lock MR Stwo").as_str(), lk(one, "a/lock MU Stwo").as_str()), ("EX", "EX"));
    assert_eq!(fence_of(&lk(two, "a/lock MR Ssession/one T60000")), fence);
    assert_eq!(lk(two, "a/lock MU Ssession/one O9"), "HD O9");
    assert_eq!((lk(one, "a/lock MU Ssession/one").as_str(), lk(two, "a/lock MQ").as_str()), ("NF", "NF"));
    assert!(fence_of(&lk(one, "other MA Ssession/one T1")) > fence, "fences rise over all locks");
    wait_until("the end of its time", || lk(two, "other MQ") == "NF");
    assert_eq!(lk(one, "other MR Ssession/one"), "NF");
    // Whoever said something on one connection is heard in that order.
    let mut connection = one.connect();
    connection.send("lk l MA Sme\r\nlk l MU Sme\r\nlk l MQ\r\nmn\r\n").unwrap();
    let mut read = || String::from_utf8(connection.read_line().unwrap()).unwrap();
    assert!(fence_of(&read()) > fence);
    assert_eq!([read(), read(), read()], ["HD", "NF", "MN"]);
}

fn waiting_at(node: &Server) -> u64 {
    node.connect().stat("slabring_locks_waiting")
}

#[test]
fn who_waits_at_any_node_gets_the_lock_in_the_order_of_coming_and_never_after_leaving() {
    let Some(nodes) = Coordinated::start(2, &["-t", "1"]) else { return };
    let node = |n: usize| &nodes.cluster.nodes[n % 2];
    let first = fence_of(&lk(node(0), "l MA Szero T600000"));
    let mut waiting: Vec<_> = (0..6)
        .map(|n| {
            let mut connection = node(n).connect();
            connection.send(format!("lk l MA S{n} T600000 W60000\r\nmn\r\n")).unwrap();
            wait_until("it is in the line", || waiting_at(node(n)) == n as u64 / 2 + 1);
            connection
        })
        .collect();
    assert!(lk(node(0), "l MA Snobody W200").starts_with(&format!("NS F{first} t")));
    drop(waiting.remove(1));
    wait_until("it waits no more", || waiting_at(node(1)) == 2);
    // Asked again at another node, one keeps its place.
    let mut again = node(1).connect();
    again.send("lk l MA S2 T600000 W60000\r\n").unwrap();
    wait_until("it is in the line", || waiting_at(node(1)) == 3);
    let (mut holder, mut last) = ("zero".to_owned(), first);
    for (connection, n) in waiting.iter_mut().zip([0, 2, 3, 4, 5]) {
        assert_eq!(lk(node(n + 1), &format!("l MU S{holder}")), "HD");
        let answer = String::from_utf8(connection.read_line().unwrap()).unwrap();
        assert!(answer.ends_with(&format!(" S{n}")) && fence_of(&answer) > last, "{answer}");
        assert_eq!(connection.read_line().unwrap(), b"MN");
        if n == 2 {
            assert!(again.read_line().unwrap().ends_with(b" S2"));
        }
        (holder, last) = (n.to_string(), fence_of(&answer));
    }
}

#[test]
fn a_lock_outlives_the_node_that_gave_it_and_a_dead_waiter_does_not_get_it() {
    let Some(mut nodes) = Coordinated::start(2, &["-t", "1"]) else { return };
    let fence = fence_of(&lk(&nodes.cluster.nodes[1], "long MA Sme T600000"));
    let short = fence_of(&lk(&nodes.cluster.nodes[1], "short MA Sme T500"));
    let mut dead = nodes.cluster.nodes[1].connect();
    dead.send("lk short MA Sdead T60000 W1000\r\n").unwrap();
    nodes.kill(1);
    let node = &nodes.cluster.nodes[0];
    assert!(lk(node, "long MA Sother").starts_with(&format!("NS F{fence} t")));
    assert_eq!(fence_of(&lk(node, "long MA Sme T600000")), fence);
    // Nobody ends it to the millisecond any more, but its lease does.
    let answer = lk(node, "short MA Sother W60000");
    assert!(fence_of(&answer) > short && answer.starts_with("HD"), "{answer}");
}

#[test]
fn without_etcd_no_lock_is_given_and_the_keys_are_answered() {
    let Some(mut nodes) = Coordinated::start(2, &["-t", "1"]) else { return };
    let fence = fence_of(&lk(&nodes.cluster.nodes[0], "l MA Sme T600000"));
    nodes.etcd.kill();
    let node = &nodes.cluster.nodes[0];
    let silent = "SERVER_ERROR the coordinator of the locks does not answer: it may be done";
    assert_eq!(lk(node, "l MA Sme T600000"), silent);
    node.connect().set("k", "v");
    nodes.etcd.restart();
    wait_until("an answer", || lk(node, "l MA Sme T600000") != silent);
    assert_eq!(fence_of(&lk(node, "l MA Sme T600000")), fence);
}

/// The fence of a lock, as soon as somebody gives it.
fn take(node: &Server, lock: &str) -> u64 {
    let mut answer = String::new();
    wait_until("a lock", || {
        answer = lk(node, &format!("{lock} MA Sme T600000"));
        answer.starts_with("HD")
    });
    fence_of(&answer)
}

#[test]
fn fences_rise_though_etcd_comes_back_from_a_backup_or_empty_and_nobody_remembers_them() {
    let Some(mut nodes) = Coordinated::start(2, &["-t", "1"]) else { return };
    let held = take(&nodes.cluster.nodes[0], "held");
    nodes.etcd.kill();
    nodes.etcd.back_up();
    nodes.etcd.restart();
    let last = (0..20).map(|n| take(&nodes.cluster.nodes[0], &format!("l{n}"))).max().unwrap();
    nodes.etcd.kill();
    nodes.etcd.restore();
    thread::sleep(LONGER_THAN_CLOCKS_ARE_ASKED_FOR);
    nodes.etcd.restart();
    // The second node has heard of none of them.
    let first = take(&nodes.cluster.nodes[1], "l0");
    assert!(first > last, "{first} after {last}");
    assert_eq!(
        take(&nodes.cluster.nodes[0], "held"),
        held,
        "who held a lock then has it under the fence of then"
    );
    (0..2).for_each(|_| nodes.kill(0));
    nodes.etcd.kill();
    nodes.etcd.empty();
    thread::sleep(LONGER_THAN_CLOCKS_ARE_ASKED_FOR);
    nodes.etcd.restart();
    nodes.start_node(1);
    let next = take(&nodes.cluster.nodes[0], "held");
    assert!(next > first, "{next} after {first}");
}

#[test]
fn the_client_library_locks_by_the_cluster_and_who_was_overtaken_writes_nothing() {
    let Some(nodes) = Coordinated::start(2, &["-t", "1", "--replicas", "2", "--replication", "sync"]) else {
        return;
    };
    let seeds: Vec<_> = nodes.cluster.nodes.iter().map(|node| node.address().to_string()).collect();
    let servers = Servers::ring(seeds.iter().map(String::as_str)).unwrap();
    let [first, second] = [(); 2].map(|()| Client::new(&servers, options(Wire::Meta)));
    let once =
        LockOptions { ttl: Duration::from_secs(600), kind: LockKind::Coordinated, ..LockOptions::default() };
    let held = first.lock("cluster:lock", &once).unwrap().unwrap();
    assert_eq!(second.lock("cluster:lock", &once).unwrap(), None);
    // A node that is slow may be without its copies' grant for a moment.
    let write = |client: &Client, value: &str, fence: u64| {
        let mut outcome = None;
        wait_until("a write", || {
            outcome = client.set_fenced("k", value, Ttl::Never, fence).ok();
            outcome.is_some()
        });
        outcome
    };
    assert_eq!(write(&first, "1", held.fence()), Some(Fenced::Done));
    // The first is paused here, until its time is over.
    let node = &nodes.cluster.nodes[0];
    let answer = lk(node, "cluster:lock MQ");
    let (_, session) = answer.split_once(" S").expect("somebody holds it");
    assert_eq!(fence_of(&lk(node, &format!("cluster:lock MR S{session} T1"))), held.fence());
    let patient = LockOptions { wait: PATIENCE, ..once };
    let next = second.lock("cluster:lock", &patient).unwrap().expect("a lock ends");
    assert!(next.fence() > held.fence());
    assert_eq!(write(&second, "2", next.fence()), Some(Fenced::Done));
    assert_eq!(write(&first, "3", held.fence()), Some(Fenced::Overtaken));
    assert_eq!((first.renew_lock(&held), first.unlock(held)), (Ok(false), Ok(false)));
    assert_eq!((second.renew_lock(&next), second.unlock(next)), (Ok(true), Ok(true)));
}
