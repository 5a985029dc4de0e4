//! Real nodes in one cluster: any of them takes any key, whatever happens to the others.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use slabring_tests::cluster::{Cluster, File, Neighbourhood};
use slabring_tests::machine::{in_time, is_late};
use slabring_tests::process::run_to_end;
use slabring_tests::replay::{ABOUT_THE_NODE, Cuts, check_all};
use slabring_tests::{Connection, Server, Signal, announce_skip, ask_until_in_time, toolbox, wait_until};

/// Keys that every node of a small cluster owns some of.
const KEYS: usize = 300;

/// Both ways to talk to the kernel, one shard and several.
const WAYS: [&[&str]; 3] =
    [&["-t", "1", "--io", "uring"], &["-t", "2", "--io", "uring"], &["-t", "2", "--io", "epoll"]];

/// Time for what takes a cluster seconds: long, because the machine may be compiling too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Weights of clusters whose first node owns nothing.
const FRONT: [u16; 3] = [0, 256, 256];
const FRONT_OF_FIVE: [u16; 5] = [0, 256, 256, 256, 256];

fn answer_line(connection: &mut Connection) -> String {
    String::from_utf8(connection.read_line().expect("an answer")).expect("text")
}

#[test]
fn two_nodes_are_one_cache() {
    for args in WAYS {
        let cluster = Cluster::of_peers(2, args);
        let [mut one, mut two] = [&cluster.nodes[0], &cluster.nodes[1]].map(Server::connect);
        for n in 0..KEYS {
            one.set(&format!("key{n}"), format!("value {n}"));
        }
        for n in 0..KEYS {
            let value = format!("value {n}").into_bytes();
            assert_eq!(one.get(&format!("key{n}")).as_ref(), Some(&value), "{args:?}");
            assert_eq!(two.get(&format!("key{n}")), Some(value), "{args:?}");
        }
        let items = [&mut one, &mut two].map(|node| node.stat("curr_items"));
        assert_eq!(items[0] + items[1], KEYS as u64, "{args:?}");
        assert!(items.into_iter().all(|items| items > KEYS as u64 / 4), "{args:?}: {items:?}");
    }
}

#[test]
fn nodes_with_different_numbers_of_shards_are_one_cache() {
    let place = Neighbourhood::new();
    let peers = place.peers(2);
    let start = |number, threads| {
        Server::start_on(place.client(number), &["--peers", &peers, "-t", threads]).expect("a node starts")
    };
    let cluster = Cluster { nodes: vec![start(1, "1"), start(2, "3")], place };
    cluster.wait_until_met();
    let [mut one, mut two] = [&cluster.nodes[0], &cluster.nodes[1]].map(Server::connect);
    for n in 0..KEYS {
        one.set(&format!("key{n}"), "x");
        assert!(two.get(&format!("key{n}")).is_some());
    }
    // Its shards were learnt from the node itself: no request has to change shards there.
    let asked = two.stat("slabring_requests_posted");
    for n in 0..KEYS {
        assert!(one.get(&format!("key{n}")).is_some());
    }
    assert_eq!(two.stat("slabring_requests_posted"), asked);
}

#[test]
fn a_line_of_keys_is_answered_in_its_order_from_all_nodes() {
    let cluster = Cluster::of_peers(3, &["-t", "2"]);
    let mut connection = cluster.nodes[0].connect();
    for n in 0..100 {
        connection.set(&format!("k{n}"), format!("{n}"));
    }
    let keys: Vec<_> = (0..100).map(|n| format!("k{n}")).collect();
    for verb in ["get", "gets", "gat 100", "gats 100"] {
        let mut line = connection.command(&format!("{verb} absent {} absent", keys.join(" ")));
        for n in 0..100 {
            assert!(line.starts_with(&format!("VALUE k{n} 0 {}", n.to_string().len())), "{verb}: {line}");
            assert_eq!(answer_line(&mut connection), n.to_string());
            line = answer_line(&mut connection);
        }
        assert_eq!(line, "END");
    }
}

/// The owner executes gets together, and more of them than the link has room for replies.
#[test]
fn what_stands_behind_gets_of_large_values_does_not_overtake_them() {
    in_time(|| check_order_behind_large_values(&["-t", "2", "-m", "256"]));
}

/// More shards than a node has links with another: what is for the others changes shards at the owner, where letters of large values
/// come back half done.
#[test]
fn nodes_with_more_shards_than_links_lose_no_request_behind_large_values() {
    let cluster = in_time(|| check_order_behind_large_values(&["-t", "10", "-m", "1024"]));
    for node in &cluster.nodes {
        wait_until("nothing under way", || node.connect().stat("slabring_forwards_pending") == 0);
    }
}

fn check_order_behind_large_values(args: &[&str]) -> Cluster {
    const LARGE: usize = 300_000;
    let place = Neighbourhood::new();
    let ring = File::new(&place.ring(1, &FRONT[..2]));
    let cluster = Cluster::start(place, 2, &[&["--cluster", ring.path()], args].concat());
    for round in 0..5 {
        let mut connection = cluster.nodes[0].connect();
        let keys: Vec<_> = (0..20).map(|n| format!("round{round}key{n}")).collect();
        keys.iter().for_each(|key| connection.set(key, vec![b'o'; LARGE]));
        // A connection that has seen no large reply asks for all at once.
        let mut connection = cluster.nodes[0].connect();
        let gets: String = keys.iter().map(|key| format!("get {key}\r\n")).collect();
        let sets: String = keys.iter().map(|key| format!("set {key} 0 0 3\r\nnew\r\n")).collect();
        connection.send([&gets[..], &sets, &gets].concat()).expect("it is read");
        for (value, kept) in [(vec![b'o'; LARGE], "old"), (b"new".to_vec(), "new")] {
            for key in &keys {
                assert_eq!(answer_line(&mut connection), format!("VALUE {key} 0 {}", value.len()), "{kept}");
                assert!(
                    connection.read_exact(value.len() + 2).expect("all of it").starts_with(&value),
                    "{key}: {kept}"
                );
                assert_eq!(answer_line(&mut connection), "END");
            }
            if kept == "old" {
                keys.iter().for_each(|_| assert_eq!(answer_line(&mut connection), "STORED"));
            }
        }
    }
    cluster
}

/// Gets of a pipeline go together to a node, and come back together where their values are small. The twin is a map.
#[test]
fn pipelines_of_gets_and_sets_through_any_node_are_answered_in_order_whatever_the_values() {
    ["1", "2"].into_iter().for_each(|threads| in_time(|| check_pipelines(threads)));
}

fn check_pipelines(threads: &str) {
    const LENGTHS: [usize; 6] = [0, 20, 20, 20, 3_000, 40_000];
    let seed = 7;
    let mut random = SmallRng::seed_from_u64(seed);
    let cluster = Cluster::of_peers(3, &["-t", threads]);
    let mut connection = cluster.nodes[0].connect();
    let mut values = HashMap::new();
    for round in 0..40 {
        let (mut requests, mut expected) = (Vec::new(), Vec::new());
        for step in 0..64 {
            let key = format!("key{}", random.random_range(0..60));
            if random.random_range(0..100) < [0, 5, 50][round % 3] {
                let value =
                    format!("{round}.{step}.").repeat(LENGTHS[random.random_range(0..LENGTHS.len())] / 6);
                requests.extend(format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()).bytes());
                expected.extend(b"STORED\r\n");
                values.insert(key, value);
            } else {
                requests.extend(format!("get {key}\r\n").bytes());
                let value = values.get(&key);
                let shown = value.map(|value| format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len()));
                expected.extend(format!("{}END\r\n", shown.unwrap_or_default()).bytes());
            }
        }
        requests.extend(b"mn\r\n");
        expected.extend(b"MN\r\n");
        connection.send(&requests).expect("a server that reads");
        let mut got = Vec::new();
        while !got.ends_with(b"MN\r\n") {
            got.extend(connection.read_some().expect("an answer"));
        }
        let differ = got.iter().zip(&expected).position(|(got, expected)| got != expected);
        assert_eq!(
            differ.map(|at| String::from_utf8_lossy(&got[at.saturating_sub(60)..]).into_owned()),
            None,
            "seed {seed}, round {round}"
        );
        assert_eq!(got.len(), expected.len(), "seed {seed}, round {round}");
    }
}

#[test]
fn flush_all_through_one_node_empties_all() {
    for threads in ["1", "2"] {
        let cluster = Cluster::of_peers(3, &["-t", threads]);
        let mut connection = cluster.nodes[0].connect();
        for n in 0..KEYS {
            connection.set(&format!("key{n}"), "x");
        }
        assert_eq!(ask_until_in_time(|| connection.command("flush_all")), "OK");
        assert!((0..KEYS).all(|n| connection.get(&format!("key{n}")).is_none()));
    }
}

#[test]
fn a_flush_overtakes_nothing_that_its_client_sent_before() {
    let cluster = Cluster::of_peers(3, &["-t", "2"]);
    let mut connection = cluster.nodes[0].connect();
    for n in 0..100 {
        let (set, get) = (format!("set key{n} 0 0 1\r\n"), format!("get key{n}\r\n"));
        connection.send(format!("{set}a\r\nflush_all\r\n{get}{set}b\r\n{get}mn\r\n")).unwrap();
        let lines = std::iter::repeat_with(|| answer_line(&mut connection));
        let answers: Vec<String> = lines.take_while(|line| line != "MN").collect();
        if answers.iter().any(|answer| is_late(answer)) {
            // Who is late may execute it yet.
            std::thread::sleep(Duration::from_secs(2));
            continue;
        }
        let value = format!("VALUE key{n} 0 1");
        assert_eq!(answers, ["STORED", "OK", "END", "STORED", &value, "b", "END"]);
    }
}

fn check_transcripts(weights: &[u16], args: &[&str]) {
    let place = Neighbourhood::new();
    let ring = File::new(&place.ring(1, weights));
    let count = u8::try_from(weights.len()).expect("few nodes");
    let cluster = Cluster::start(place, count, &[&["--cluster", ring.path()], args].concat());
    let report = check_all(&cluster.nodes[0], &ABOUT_THE_NODE, &[Cuts::Turns, Cuts::Together]);
    let mut front = cluster.nodes[0].connect();
    assert_eq!(front.stat("curr_items"), 0);
    assert!(front.stat("slabring_forwarded") > 1_000);
    announce_skip(format_args!("{} sections about the node that is asked", report.skipped_count));
}

#[test]
fn a_node_that_owns_nothing_answers_as_written_over_uring() {
    check_transcripts(&FRONT, &["-t", "2", "--io", "uring"]);
}

#[test]
fn a_node_that_owns_nothing_answers_as_written_over_epoll() {
    check_transcripts(&FRONT, &["-t", "1", "--io", "epoll"]);
}

#[test]
fn the_front_of_five_nodes_answers_as_written() {
    check_transcripts(&FRONT_OF_FIVE, &["-t", "1"]);
}

/// The keys of `key0..` that this node owns itself, and some that it does not.
fn own_and_foreign(cluster: &Cluster, front: usize, other: usize) -> (Vec<String>, Vec<String>) {
    let owner = |node: usize| {
        let mut connection = cluster.nodes[node].connect();
        assert_eq!(connection.command("config set redirect on"), "OK");
        move |key: &str| !connection.command(&format!("mg {key}")).starts_with("SERVER_ERROR MOVED")
    };
    let (mut is_own, mut is_others) = (owner(front), owner(other));
    let keys = (0..KEYS).map(|n| format!("key{n}"));
    let (own, rest): (Vec<_>, Vec<_>) = keys.partition(|key| is_own(key));
    (own, rest.into_iter().filter(|key| is_others(key)).collect())
}

#[test]
fn who_asks_for_it_is_told_where_a_key_is() {
    let cluster = Cluster::of_peers(2, &["-t", "1"]);
    let (own, foreign) = own_and_foreign(&cluster, 0, 1);
    assert!(own.len() > KEYS / 4 && own.len() + foreign.len() == KEYS);
    let mut connection = cluster.nodes[0].connect();
    assert_eq!(connection.command("config set redirect on"), "OK");
    let told = connection.command(&format!("get {}", foreign[0]));
    let address = cluster.place.client(2).to_string();
    assert!(told.starts_with("SERVER_ERROR MOVED 1 ") && told.ends_with(&address), "{told}");
    connection.set(&own[0], "x");
    assert_eq!(
        connection.command(&format!("get {} {}", own[0], foreign[0])),
        format!("VALUE {} 0 1", own[0])
    );
    assert_eq!(answer_line(&mut connection), "x");
    assert_eq!(answer_line(&mut connection), told);
    assert_eq!(connection.command("config set redirect off"), "OK");
    assert_eq!(connection.get(&foreign[0]), None);
}

#[test]
fn a_node_that_stands_still_delays_nobody_elses_requests() {
    let cluster = Cluster::of_peers(3, &["-t", "1"]);
    let (own, foreign) = own_and_foreign(&cluster, 0, 2);
    let [mut local, mut remote, mut waiting] = [(); 3].map(|()| cluster.nodes[0].connect());
    own.iter().for_each(|key| local.set(key, "x"));
    cluster.nodes[2].signal(Signal::Stop);
    let asked = Instant::now();
    // Answered when the node's patience of a second is over. Until then it shows that all others do not wait for that.
    waiting.send(format!("mg {}\r\n", foreign[0])).expect("a server that reads");
    waiting.stream().set_nonblocking(true).expect("a socket can be told so");
    let is_waiting =
        || waiting.stream().peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    // Many requests under way to it, one of them in the middle of a line.
    let line = format!("get {} {} {}\r\n", own[0], foreign[0], own[1]);
    remote.send(line.repeat(50)).expect("a server that reads");
    let mut answered = 0;
    for key in own.iter().cycle().take_while(|_| is_waiting()) {
        assert!(local.get(key).is_some());
        answered += 1;
        assert!(asked.elapsed() < PATIENCE, "who asks the node that stands still has no answer");
    }
    println!("{answered} local gets beside a node that stands still");
    assert!(answered > 1, "{answered} local gets were answered before one of the node that stands still");
    for _ in 0..50 {
        for key in [&own[0], &own[1]] {
            assert_eq!(answer_line(&mut remote), format!("VALUE {key} 0 1"));
            assert_eq!(answer_line(&mut remote), "x");
        }
        let end = answer_line(&mut remote);
        assert!(end.starts_with("SERVER_ERROR the key's node "), "{end}");
    }
    // One patience for all of them, not one for each.
    assert!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
    // The link is closed before long: nobody waits any more.
    wait_until("the link's end", || {
        remote.command(&format!("mg {}", foreign[0])) == "SERVER_ERROR the key's node cannot be reached"
    });
    cluster.nodes[2].signal(Signal::Continue);
    cluster.wait_until_met();
}

/// Sends everything at once, reads what comes, and gives the first lines of errors.
fn flood(address: SocketAddr, requests: Vec<u8>, replies: usize) -> JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        let reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
        let writer = std::thread::spawn(move || stream.write_all(&requests).expect("a server that reads"));
        let (mut count, mut errors) = (0, Vec::new());
        for line in reader.split(b'\n') {
            let line = line.expect("an answer");
            count +=
                usize::from(line.starts_with(b"HD") || line.starts_with(b"VA ") || line.starts_with(b"EN"));
            if line.starts_with(b"SERVER_ERROR") {
                errors.push(String::from_utf8_lossy(&line).into_owned());
                count += 1;
            }
            if count == replies {
                break;
            }
        }
        writer.join().expect("it writes to its end");
        errors
    })
}

/// Two nodes that own half of the keys each, and clients of both that ask for more than may be under way.
fn check_flood(cluster: &Cluster, clients: usize, requests: usize, value_bytes: usize) {
    let value = "v".repeat(value_bytes);
    let mut text = Vec::new();
    for n in 0..requests / 2 {
        write!(text, "ms key{} {value_bytes}\r\n{value}\r\nmg key{} v\r\n", n % KEYS, n * 7 % KEYS)
            .expect("memory takes what is written");
    }
    let addresses = cluster.nodes.iter().map(Server::address);
    let floods: Vec<_> = (0..clients)
        .flat_map(|_| addresses.clone())
        .map(|address| flood(address, text.clone(), requests / 2 * 2))
        .collect();
    for flood in floods {
        let mut errors = flood.join().expect("all is answered");
        // A node is late where the machine is, and then some are in vain: not many.
        if errors.len() < requests / 10 {
            errors.retain(|error| !is_late(error.trim_end()));
        }
        assert!(errors.is_empty(), "{} errors, the first: {}", errors.len(), errors[0]);
    }
}

#[test]
fn clients_that_ask_for_more_than_may_be_under_way_wait_and_get_no_error() {
    for args in WAYS {
        check_flood(&Cluster::of_peers(2, args), 8, 20_000, 10);
    }
}

#[test]
fn two_nodes_whose_clients_flood_both_with_large_values_do_not_block_each_other() {
    for args in WAYS {
        check_flood(&Cluster::of_peers(2, args), 3, 200, 300_000);
    }
}

#[test]
fn what_clients_ask_of_another_node_and_do_not_read_takes_a_part_of_the_memory() {
    const VALUE_BYTES: usize = 1_000_000;
    const LIMIT_KIB: u64 = (64 << 10) + (32 << 10);
    let cluster = Cluster::of_peers(2, &["-t", "1", "-m", "64"]);
    let (_, foreign) = own_and_foreign(&cluster, 0, 1);
    let mut connection = cluster.nodes[0].connect();
    connection.set(&foreign[0], vec![b'x'; VALUE_BYTES]);
    let line = format!("mg {} v\r\n", foreign[0]);
    let ask = |_| {
        let mut connection = cluster.nodes[0].connect();
        connection.send(line.repeat(500)).expect("a server that reads");
        connection
    };
    let mut asking: Vec<_> = (0..8).map(ask).collect();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        let used = cluster.nodes[0].resident_kib();
        assert!(used < LIMIT_KIB, "{used} KiB");
    }
    // Who reads after all has every answer in its place: the value, or that there was no memory for it.
    let values = (0..500).filter(|_| {
        let answer = answer_line(&mut asking[0]);
        if answer == format!("VA {VALUE_BYTES}") {
            asking[0].read_exact(VALUE_BYTES + 2).expect("a value");
            return true;
        }
        // A machine that is busy may be late for the node's patience.
        let is_late = is_late(&answer);
        assert!(is_late || answer == "SERVER_ERROR out of memory writing get response", "{answer}");
        is_late
    });
    assert!(values.count() > 400);
}

#[test]
fn a_node_with_more_shards_than_links_answers_floods_too() {
    check_flood(&Cluster::of_peers(2, &["-t", "11"]), 4, 10_000, 1_000);
}

#[test]
fn a_node_that_dies_under_load_leaves_no_request_without_an_answer() {
    let mut cluster = Cluster::of_peers(3, &["-t", "2"]);
    let mut connection = cluster.nodes[0].connect();
    let request: String = (0..KEYS).map(|n| format!("set key{n} 0 0 1\r\nx\r\nget key{n}\r\n")).collect();
    for round in 0..20 {
        if round == 5 {
            drop(cluster.nodes.pop());
        }
        connection.send(&request).expect("a server that reads");
        for _ in 0..KEYS {
            let stored = answer_line(&mut connection);
            assert!(stored == "STORED" || stored.starts_with("SERVER_ERROR "), "{stored}");
            let got = answer_line(&mut connection);
            if got.starts_with("VALUE ") {
                assert_eq!(answer_line(&mut connection), "x");
                assert_eq!(answer_line(&mut connection), "END");
            } else {
                assert!(
                    got.starts_with("SERVER_ERROR ") || got == "END" && stored != "STORED",
                    "{stored}, {got}"
                );
            }
        }
    }
    assert_eq!(connection.stat("slabring_forwards_pending"), 0);
}

#[test]
fn a_change_of_the_ring_under_load_loses_no_reply_and_moves_what_must_move_only() {
    let place = Neighbourhood::new();
    let ring = File::new(&place.ring(1, &[256, 256, 256]));
    let cluster = Cluster::start(place, 3, &["-t", "1", "--cluster", ring.path()]);
    let (_, of_third) = own_and_foreign(&cluster, 0, 2);
    let mut connection = cluster.nodes[1].connect();
    (0..KEYS).for_each(|n| connection.set(&format!("key{n}"), "x"));
    ring.write(&place.ring(2, &[256, 256, 0]));
    let gets: String = (0..KEYS).map(|n| format!("mg key{n} v\r\n")).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut rounds_after = 0;
    for round in 0.. {
        if round == 10 {
            cluster.nodes.iter().for_each(|node| node.signal(Signal::Reload));
        }
        connection.send(&gets).expect("a server that reads");
        let mut missed = Vec::new();
        for n in 0..KEYS {
            match answer_line(&mut connection).as_str() {
                "VA 1" => assert_eq!(answer_line(&mut connection), "x"),
                "EN" => missed.push(format!("key{n}")),
                error => {
                    assert!(
                        round >= 10 && error.starts_with("SERVER_ERROR the ring") || is_late(error),
                        "{error}"
                    );
                }
            }
        }
        assert!(missed.iter().all(|key| of_third.contains(key)), "{missed:?}");
        rounds_after += u32::from(missed == of_third);
        if rounds_after > 20 {
            break;
        }
        assert!(Instant::now() < deadline, "{missed:?}");
    }
    // A document from the past.
    ring.write(&place.ring(1, &[256, 256, 256]));
    cluster.nodes[0].signal(Signal::Reload);
    wait_until("a refusal", || cluster.nodes[0].connect().stat("slabring_rings_refused") > 0);
    wait_until("a line of it", || cluster.nodes[0].stderr().contains("a ring document is refused"));
    assert_eq!(cluster.nodes[0].connect().stat("slabring_ring_epoch"), 2);
}

#[test]
fn a_node_that_owns_keys_again_serves_nothing_of_before() {
    let place = Neighbourhood::new();
    let ring = File::new(&place.ring(1, &[256, 256]));
    let cluster = Cluster::start(place, 2, &["-t", "2", "--cluster", ring.path()]);
    let mut connection = cluster.nodes[0].connect();
    for (step, weights) in [[256, 256], [256, 0], [256, 256], [0, 256], [256, 256]].iter().enumerate() {
        let epoch = 1 + step as u64;
        ring.write(&place.ring(epoch, weights));
        cluster.nodes[step % 2].signal(Signal::Reload);
        wait_until("the ring", || {
            cluster.nodes.iter().all(|node| node.connect().stat("slabring_ring_epoch") == epoch)
        });
        for n in 0..KEYS {
            let (key, value) = (format!("key{n}"), format!("{step} {n}").into_bytes());
            let found = connection.get(&key);
            let last = step.checked_sub(1).map(|last| format!("{last} {n}").into_bytes());
            assert!(found.is_none() || found == last, "{found:?} in step {step}");
            connection.set(&key, &value);
        }
    }
}

#[test]
fn keys_that_stayed_are_still_there_when_a_node_owns_others_again() {
    let place = Neighbourhood::new();
    let ring = File::new(&place.ring(1, &[256, 256]));
    let cluster = Cluster::start(place, 2, &["-t", "2", "--cluster", ring.path()]);
    let mut connection = cluster.nodes[0].connect();
    let keys = || (0..KEYS).map(|n| format!("key{n}"));
    let (_, of_second) = own_and_foreign(&cluster, 0, 1);
    keys().for_each(|key| connection.set(&key, "old"));
    let follow = |epoch, weights: &[u16]| {
        ring.write(&place.ring(epoch, weights));
        cluster.nodes[0].signal(Signal::Reload);
        wait_until("the ring", || {
            cluster.nodes.iter().all(|node| node.connect().stat("slabring_ring_epoch") == epoch)
        });
    };
    follow(2, &[256, 64]);
    let (_, kept) = own_and_foreign(&cluster, 0, 1);
    let moved: Vec<_> = of_second.iter().filter(|key| !kept.contains(key)).collect();
    assert!(kept.len() > KEYS / 20 && moved.len() > KEYS / 10, "{} stay", kept.len());
    moved.iter().for_each(|key| connection.set(key, "new"));
    follow(3, &[256, 256]);
    for key in keys() {
        let expected = if moved.contains(&&key) { None } else { Some(b"old".to_vec()) };
        assert_eq!(connection.get(&key), expected, "{key}");
    }
}

#[test]
fn a_ring_that_one_node_has_reaches_all() {
    let place = Neighbourhood::new();
    let ring = File::new(&place.ring(1, &[256, 256, 256]));
    let cluster = Cluster::start(place, 3, &["-t", "1", "--cluster", ring.path()]);
    ring.write(&place.ring(7, &[256, 256, 0]));
    cluster.nodes[0].signal(Signal::Reload);
    wait_until("the ring", || {
        cluster.nodes.iter().all(|node| node.connect().stat("slabring_ring_epoch") == 7)
    });
}

#[test]
fn strangers_are_refused_counted_and_told() {
    let place = Neighbourhood::new();
    let (peers, secret, other) = (
        place.peers(2),
        File::new("sixteen bytes or more\n"),
        File::new("another secret of the same length"),
    );
    let start = |number, args: &[&str]| {
        Server::start_on(place.client(number), &[&["--peers", &peers, "-t", "1"], args].concat())
            .expect("a node starts")
    };
    let node = start(1, &["--cluster-secret-file", secret.path()]);
    let refused = || node.connect().stat("slabring_peer_links_refused");
    let wait_for = |word: &str, before: u64| {
        wait_until(word, || refused() > before && node.stderr().contains(word));
    };
    {
        let before = refused();
        let _stranger = start(2, &["--cluster-secret-file", other.path()]);
        wait_for("does not know the cluster's secret", before);
    }
    {
        let before = refused();
        let _stranger = start(2, &["--cluster-secret-file", secret.path(), "--cluster-id", "elsewhere"]);
        wait_for("a node of the cluster elsewhere", before);
    }
    // Lines about strangers are a second apart, and the last of the one before may be late: this one comes until there is a line of it.
    let before = refused();
    wait_until("a line of what is garbled", || {
        let mut stranger = TcpStream::connect(place.peer(1)).expect("it listens");
        stranger.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        stranger.write_all(&[b'?'; 64]).expect("it reads");
        let mut answer = Vec::new();
        assert!(!matches!(stranger.read_to_end(&mut answer), Ok(1..)), "a stranger is told nothing");
        refused() > before && node.stderr().contains("garbled")
    });
    // Who says nothing keeps nobody else out.
    let connect = || TcpStream::connect(place.peer(1)).expect("it listens");
    let silent: Vec<_> = (0..20).map(|_| connect()).collect();
    let _friend = start(2, &["--cluster-secret-file", secret.path()]);
    wait_until("a link", || node.connect().stat("slabring_peer_links") >= 2);
    drop(silent);
    // Nor if he is many: of more than 256 the one who was silent for longest goes.
    let before = refused();
    let mut silent = Vec::new();
    wait_until("the silent to be refused", || {
        silent.extend((0..100).map(|_| connect()));
        silent.drain(..silent.len().saturating_sub(600));
        refused() > before && node.stderr().contains("who says nothing")
    });
}

#[test]
fn clients_that_look_for_the_nodes_find_all_of_them() {
    let cluster = Cluster::of_peers(3, &["-t", "1"]);
    let nodes: Vec<_> = (1..=3).map(|number| format!("{0}|{0}|11211", cluster.place.ip(number))).collect();
    let value = format!("1\n{}\n", nodes.join(" "));
    let mut connection = cluster.nodes[1].connect();
    let length = value.len();
    assert_eq!(connection.command("config get cluster"), format!("CONFIG cluster 0 {length}"));
    let rest = format!("{value}\r\nEND\r\n");
    assert_eq!(connection.read_exact(rest.len()).expect("an answer"), rest.as_bytes());
    assert_eq!(connection.get("AmazonElastiCache:cluster"), Some(value.into_bytes()));
    let head = connection.command("config get ring");
    let length: usize = head.strip_prefix("CONFIG ring 0 ").and_then(|n| n.parse().ok()).expect("a length");
    let json = connection.read_exact(length).expect("a document");
    assert!(json.starts_with(br#"{"format":1,"cluster":"slabring","epoch":1,"#), "{}", json.escape_ascii());
    assert_eq!(connection.read_exact(7).expect("an end"), b"\r\nEND\r\n");
}

#[test]
fn a_managed_services_client_follows_the_nodes() {
    let Some(python) = toolbox::python() else { return };
    let place = Neighbourhood::new();
    let ring = File::new(&place.ring(1, &[256, 256, 256]));
    let cluster = Cluster::start(place, 3, &["-t", "1", "--cluster", ring.path()]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join("following_round.py");
    let mut command = Command::new(python);
    command.arg(script).arg(place.client(2).to_string());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let said = lines.next().and_then(Result::ok);
    // The last node of the file leaves.
    ring.write(&(place.ring(2, &[256, 256, 256]) + "state = \"left\"\n"));
    cluster.nodes[0].signal(Signal::Reload);
    assert!(child.wait().expect("a child of ours").success());
    assert_eq!(said.as_deref(), Some("found 3"));
}

#[test]
fn a_managed_services_client_finds_the_nodes_by_itself() {
    let Some(python) = toolbox::python() else { return };
    let cluster = Cluster::of_peers(3, &["-t", "1"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join("discovery_round.py");
    let mut command = Command::new(python);
    command.arg(script).arg(cluster.place.client(2).to_string());
    let finished = run_to_end(&mut command, PATIENCE).expect("it runs");
    assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    let sets = cluster.nodes.iter().map(|node| node.connect().stat("total_connections") - 1);
    assert!(sets.into_iter().all(|connections| connections > 1), "each node was asked");
}

#[test]
fn nodes_that_were_given_different_options_about_the_ring_say_so() {
    let place = Neighbourhood::new();
    let peers = place.peers(2);
    let start = |number, args: &[&str]| {
        let args = [&["--peers", &peers, "-t", "1"], args].concat();
        Server::start_on(place.client(number), &args).expect("a node starts")
    };
    let nodes = [start(1, &["--replicas", "2", "--replication", "sync"]), start(2, &[])];
    for node in &nodes {
        wait_until("a count", || node.connect().stat("slabring_rings_different") > 0);
        wait_until("a word", || node.stderr().contains("follows another ring of the same epoch 1"));
    }
    let cluster = Cluster::of_peers(2, &["-t", "1"]);
    assert!(cluster.nodes.iter().all(|node| node.connect().stat("slabring_rings_different") == 0));
}

#[test]
fn a_value_that_another_node_does_not_take_is_an_error_and_the_link_stays() {
    let place = Neighbourhood::new();
    let peers = place.peers(2);
    let start = |number, item_size| {
        let args = ["--peers", &peers, "-t", "1", "-m", "100", "-I", item_size];
        Server::start_on(place.client(number), &args).expect("a node starts")
    };
    let cluster = Cluster { nodes: vec![start(1, "8m"), start(2, "1m")], place };
    cluster.wait_until_met();
    let (own, foreign) = own_and_foreign(&cluster, 0, 1);
    let [mut roomy, mut small] = [&cluster.nodes[0], &cluster.nodes[1]].map(Server::connect);
    let value = "x".repeat(2_000_000);
    let set = |key: &str| format!("set {key} 0 0 {}\r\n{value}", value.len());
    assert_eq!(roomy.command(&set(&own[0])), "STORED");
    // What was under way meanwhile is answered.
    let mut other = cluster.nodes[0].connect();
    for key in &foreign[1..100] {
        other.send(format!("set {key} 0 0 1\r\n1\r\n")).expect("it is sent");
    }
    assert_eq!(roomy.command(&set(&foreign[0])), "SERVER_ERROR object too large for cache");
    assert!((1..100).all(|_| answer_line(&mut other) == "STORED"));
    assert_eq!(small.command(&format!("get {}", own[0])), "SERVER_ERROR object too large for cache");
    for node in [&mut roomy, &mut small] {
        assert_eq!(node.stat("slabring_peer_links_lost"), 0);
    }
}
