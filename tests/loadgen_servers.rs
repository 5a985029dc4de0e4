//! The load generator's binary and the servers it reaches: real ones in every protocol, behind TLS and passwords, several at
//! once, a cluster that changes, and agents on other machines.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use slabring_tests::cluster::{File, Neighbourhood};
use slabring_tests::load::{Directory, Json, RUN_TIMEOUT, binary, load, run};
use slabring_tests::machine::is_busy;
use slabring_tests::process::run_to_end;
use slabring_tests::toolbox::find_program;
use slabring_tests::{Cluster, Server, Signal, announce_skip, wait_until};

/// Everything at once: each protocol, all its kinds, values verified.
#[test]
fn real_servers_answer_every_kind_in_every_protocol() {
    let slabring = Server::start(&["-t", "2"]).expect("slabring starts");
    let memcached = Server::memcached(&[]);
    for server in std::iter::once(&slabring).chain(&memcached) {
        for protocol in ["text", "meta", "binary"] {
            let mix = "get:40,gets:5,gat:5,set:20,add:5,replace:5,cas:10,delete:5,incr:2,decr:2,touch:2";
            let words = format!(
                "--protocol {protocol} --mix {mix} --multiget 1-10 --prefill --verify --keys 500 --value-size 10-3000 \
                 --ttl 100-200 --requests 20000 -c 6 -d 4 {}",
                server.address()
            );
            let result = load(&words);
            assert_eq!(
                (result.number(&["errors"]), result.number(&["wrong_values"])),
                (0.0, 0.0),
                "{protocol}"
            );
            assert!(result.number(&["kinds", "cas", "hits"]) > 0.0, "{protocol}");
            assert!(result.number(&["kinds", "touch", "hits"]) > 0.0, "{protocol}");
            // Nothing deletes counters.
            for counting in ["incr", "decr"] {
                assert_eq!(result.number(&["kinds", counting, "misses"]), 0.0, "{protocol} {counting}");
            }
            assert!(result.number(&["hits"]) > 1000.0, "{protocol}");
        }
    }
}

#[test]
fn keys_go_to_the_servers_that_own_them() {
    let servers: Vec<Server> =
        (0..3).map(|_| Server::start(&["-t", "1"]).expect("slabring starts")).collect();
    let addresses: Vec<String> = servers.iter().map(|server| server.address().to_string()).collect();
    for route in ["modulo", "jump", "ketama", "ketama-weighted"] {
        let words = format!(
            "--route {route} --prefill --verify --keys 3000 --multiget 4 --ratio 1:3 --requests 6000 -c 2 -d 3 {}",
            addresses.join(" ")
        );
        let result = load(&words);
        assert_eq!((result.number(&["misses"]), result.number(&["wrong_values"])), (0.0, 0.0));
        for address in &addresses {
            assert!(result.0.contains(&format!("\"name\":\"{address}\"")), "{}", result.0);
        }
    }
}

#[test]
fn agents_share_a_run_and_their_results_are_added() {
    struct Agent(Child, String);
    impl Drop for Agent {
        fn drop(&mut self) {
            self.0.kill().expect("a child of ours can be killed");
            self.0.wait().expect("a killed child can be waited for");
        }
    }
    let start = || {
        let mut child = Command::new(binary())
            .args(["agent", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        let stderr = child.stderr.take().expect("piped");
        let mut stderr = BufReader::new(stderr);
        stderr.read_line(&mut line).expect("it says where it listens");
        let address = line.trim().rsplit(' ').next().expect("an address").to_owned();
        thread::spawn(move || stderr.read_to_string(&mut String::new()));
        Agent(child, address)
    };
    let (one, two) = (start(), start());
    let server = Server::start(&["-t", "1"]).expect("slabring starts");
    let result = load(&format!(
        "--coordinator {},{} --prefill --keys 1000 --requests 5001 -c 5 {}",
        one.1,
        two.1,
        server.address()
    ));
    assert_eq!((result.number(&["operations"]), result.number(&["misses"])), (5001.0, 0.0));
    assert_eq!(result.number(&["latency", "all", "count"]), 5001.0);
    let mut doomed = start();
    let mut command = Command::new(binary());
    let words =
        format!("--coordinator {},{} --rate 1000 --duration 4 -c 4 {}", one.1, doomed.1, server.address());
    command.args(words.split(' '));
    let before = server.connect().stat("cmd_get");
    let running = thread::spawn(move || run_to_end(&mut command, RUN_TIMEOUT).expect("slabring-load ends"));
    wait_until("requests", || server.connect().stat("cmd_get") > before + 200);
    doomed.0.kill().expect("a child of ours can be killed");
    let finished = running.join().expect("no panic");
    assert_eq!(finished.status.code(), Some(1));
    assert_eq!(finished.stderr.trim().lines().count(), 1, "{}", finished.stderr);
    assert!(
        finished.stderr.contains(&doomed.1) && finished.stderr.contains("has gone"),
        "{}",
        finished.stderr
    );
    let kept =
        finished.stdout.lines().find_map(|line| line.strip_prefix("requests ")?.trim().parse::<u32>().ok());
    // A busy machine does not send all that is due.
    assert!(
        kept == Some(2_000) || is_busy() && kept.is_some_and(|kept| (100..2_000).contains(&kept)),
        "what the other measured is kept: {}",
        finished.stdout
    );

    let mut command = Command::new(binary());
    let words =
        format!("--coordinator {},{} --rate 1000 --duration 60 -c 4 {}", one.1, two.1, server.address());
    let before = server.connect().stat("cmd_get");
    let child = command
        .args(words.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    wait_until("requests", || server.connect().stat("cmd_get") > before + 1_000);
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.is_ok_and(|status| status.success()));
    let output = child.wait_with_output().expect("it ends");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert!(output.status.code() == Some(1) && stdout.contains("requests/s"), "{stdout}");
    // Both wait for the next run.
    load(&format!("--coordinator {},{} --requests 100 -c 2 {}", one.1, two.1, server.address()));

    let gone = run(&format!("--coordinator 127.0.0.1:1 {}", server.address()));
    assert!(!gone.status.success() && gone.stderr.contains("127.0.0.1:1"), "{}", gone.stderr);
}

#[test]
fn tls_and_unix_sockets_and_passwords_let_in_who_may() {
    let directory = Directory::new("access");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (chain, key) = (directory.path("chain.pem"), directory.path("key.pem"));
    fs::write(&chain, made.cert.pem()).expect("room for a file");
    fs::write(&key, made.signing_key.serialize_pem()).expect("room for a file");
    let options = format!("ssl_chain_cert={chain},ssl_key={key}");
    let secure = Server::start(&["-t", "2", "-Z", "-o", &options]).expect("slabring starts");
    let work = "--prefill --verify --keys 300 --value-size 10-20000 --ratio 1:2 --multiget 3 --requests 2000 -c 4 -d 3";
    for trust in [format!("--tls-ca {chain} --tls-name localhost"), "--tls-insecure".to_owned()] {
        for io in ["auto", "epoll"] {
            let result = load(&format!("--tls {trust} --io {io} {work} {}", secure.address()));
            assert_eq!((result.number(&["misses"]), result.number(&["wrong_values"])), (0.0, 0.0));
        }
    }
    let stranger = run(&format!("--tls --tls-ca {chain} {}", secure.address()));
    assert!(!stranger.status.success() && stranger.stderr.contains("no TLS with"), "{}", stranger.stderr);

    let users = directory.path("users");
    fs::write(&users, "joe:secret\n").expect("room for a file");
    let guarded = Server::start(&["-t", "1", "-Y", &users]).expect("slabring starts");
    load(&format!("--auth joe:secret {work} {}", guarded.address()));
    let refused = run(&format!("--auth joe:wrong {}", guarded.address()));
    assert!(!refused.status.success() && refused.stderr.contains("did not let us in"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("wrong"), "passwords are not shown: {}", refused.stderr);
}

#[test]
fn redis_can_be_compared() {
    let Some(program) = find_program("redis-server") else {
        announce_skip("redis-server is not installed, so it is not loaded");
        return;
    };
    struct Redis(Child);
    impl Drop for Redis {
        fn drop(&mut self) {
            self.0.kill().expect("a child of ours can be killed");
            self.0.wait().expect("a killed child can be waited for");
        }
    }
    let address = slabring_tests::server::free_address();
    let port = address.port().to_string();
    let child = Command::new(program)
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
        .stdout(Stdio::null())
        .spawn();
    let _redis = Redis(child.expect("it runs"));
    for _ in 0..500 {
        if TcpStream::connect(address).is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let words = "--protocol resp --prefill --verify --keys 300 --value-size 0-5000 --ttl 100 --ratio 1:2 --requests 5000";
    for more in ["-c 3 -d 8", "--multiget 6"] {
        let result = load(&format!("{words} {more} {address}"));
        assert_eq!((result.number(&["misses"]), result.number(&["wrong_values"])), (0.0, 0.0), "{more}");
    }
}

/// A file for `--cluster` with nodes of two shards each.
fn ring_of_two_shards(place: Neighbourhood, epoch: u64, weights: &[u16]) -> String {
    place.ring(epoch, weights).replace("weight =", "shards = 2\nweight =")
}

#[test]
fn a_cluster_is_found_by_one_node_and_every_key_goes_to_its_owner() {
    let place = Neighbourhood::new();
    let file = File::new(&ring_of_two_shards(place, 1, &[256, 128, 64]));
    let cluster = Cluster::start(place, 3, &["-t", "2", "--cluster", file.path(), "--shard-ports", "12000"]);
    let count = |name: &str| cluster.nodes.iter().map(|node| node.connect().stat(name)).sum::<u64>();
    let (forwarded, posted) = (count("slabring_forwarded"), count("slabring_requests_posted"));
    for (protocol, more) in [("text", ""), ("meta", "--multiget 4"), ("binary", "--shard-ports 12000")] {
        let result = load(&format!(
            "--route ring {more} --protocol {protocol} --prefill --verify --keys 3000 --ratio 1:3 --requests 6000 -c 2 -d 3 {}",
            place.client(2)
        ));
        assert_eq!((result.number(&["misses"]), result.number(&["wrong_values"])), (0.0, 0.0), "{protocol}");
        let servers = result.0.matches(&format!("\"name\":\"{}", place.ip(1))).count();
        assert_eq!(servers, if more.contains("ports") { 2 } else { 1 }, "{}", result.0);
    }
    assert_eq!(count("slabring_forwarded"), forwarded, "no request went over a second node");
    let posted_by_port = count("slabring_requests_posted");
    load(&format!("--route ring --shard-ports 12000 --keys 3000 --requests 6000 {}", place.client(1)));
    assert!(posted_by_port > posted, "without shard ports some requests change shards");
    assert_eq!(count("slabring_requests_posted"), posted_by_port, "with them none does");
}

/// Waits until every key goes to its owner: clients ask for the ring now and then.
#[track_caller]
fn check_owners_are_asked(cluster: &Cluster) {
    let forwarded =
        || cluster.nodes.iter().map(|node| node.connect().stat("slabring_forwarded")).sum::<u64>();
    wait_until("that every key goes to its owner", || {
        let settled = forwarded();
        thread::sleep(Duration::from_millis(500));
        forwarded() == settled
    });
}

#[test]
fn a_ring_that_changes_under_load_is_followed_and_a_node_that_dies_is_done_without() {
    let place = Neighbourhood::new();
    let file = File::new(&place.ring(1, &[256, 256, 0]));
    let mut cluster = Cluster::start(place, 3, &["-t", "1", "--cluster", file.path()]);
    let mut loads = Vec::new();
    for pace in ["--rate 2000", "-t 2"] {
        let words = format!(
            "--json --route ring {pace} --keys 2000 --cache-aside --duration 15 -c 4 {}",
            place.client(1)
        );
        let mut command = Command::new(binary());
        command.args(words.split_whitespace());
        loads.push(thread::spawn(move || run_to_end(&mut command, RUN_TIMEOUT).expect("slabring-load ends")));
    }
    let gets = || cluster.nodes.iter().map(|node| node.connect().stat("cmd_get")).sum::<u64>();
    wait_until("requests", || gets() > 4_000);
    file.write(&place.ring(2, &[128, 256, 256]));
    cluster.nodes[1].signal(Signal::Reload);
    thread::sleep(Duration::from_millis(2000));
    check_owners_are_asked(&cluster);
    cluster.nodes.pop();
    thread::sleep(Duration::from_millis(500));
    let args = ["-t", "1", "--cluster", file.path()];
    cluster.nodes.push(Server::start_on(place.client(3), &args).expect("it starts again"));
    thread::sleep(Duration::from_millis(2500));
    check_owners_are_asked(&cluster);
    for load in loads {
        let finished = load.join().expect("no panic");
        assert!(finished.status.success(), "{} {}", finished.stderr, finished.stdout);
        let result = Json(finished.stdout);
        // The third node was none of the first ring's, and its connections broke.
        let third = format!("\"name\":\"{}\",\"answers\":", place.client(3));
        let at = result.0.find(&third).expect("the third node is a server") + third.len();
        let answers = result.0[at..].split(',').next().expect("a number");
        assert!(answers.parse::<u64>().expect("a number") > 100, "{answers}");
        assert!(result.number(&["errors"]) > 0.0, "{}", result.0);
        assert!(result.number(&["hits"]) > 1000.0);
    }
}

#[test]
fn who_tells_no_ring_is_named() {
    let alone = Server::start(&["-t", "1"]).expect("slabring starts");
    let finished = run(&format!("--route ring {}", alone.address()));
    assert!(!finished.status.success());
    assert!(finished.stderr.contains("tells no ring"), "{}", finished.stderr);
    assert_eq!(finished.stderr.trim().lines().count(), 1, "{}", finished.stderr);
}
