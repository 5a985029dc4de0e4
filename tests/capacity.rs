//! A cache with more to keep than it may: what it drops, what it refuses, what it costs.
//! Each case also runs against the installed memcached, which shows that it asks for nothing unusual.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use slabring_tests::cluster::Cluster;
use slabring_tests::{Connection, Server};

/// Memory a server may need beside its items: code, stacks, buffers, index.
const OVERHEAD_MAX_KIB: u64 = 64 << 10;

/// Bytes of values that are sent before their answers are read.
const PIPELINE_BYTES: usize = 16 << 10;

/// Runs a case against memcached where it is installed and against Slabring, both with these arguments.
fn check(args: &[&str], case: impl Fn(&Server)) {
    if let Some(memcached) = Server::memcached(args) {
        println!("memcached {args:?}");
        case(&memcached);
    }
    let mut slabring = Server::start(args).expect("slabring starts");
    println!("slabring {args:?}");
    case(&slabring);
    assert!(slabring.is_running(), "slabring is gone: {}", slabring.stderr());
}

/// A value that tells whose it is, so that a mix-up shows.
fn value_of(key: &str, size: usize) -> Vec<u8> {
    format!("{key}/").bytes().cycle().take(size).collect()
}

/// Sets a key, and says in one word how the server answered.
fn try_set(connection: &mut Connection, key: &str, value: &[u8]) -> String {
    let value = std::str::from_utf8(value).expect("values here are text");
    connection.command(&format!("set {key} 0 0 {}\r\n{value}", value.len()))
}

/// Sets keys to values of one size, which must all be stored: small ones many at a time.
#[track_caller]
fn set_all(connection: &mut Connection, keys: &[String], size: usize) {
    for keys in keys.chunks((PIPELINE_BYTES / size).max(1)) {
        let mut requests = Vec::new();
        for key in keys {
            requests.extend(format!("set {key} 0 0 {size}\r\n").into_bytes());
            requests.extend(value_of(key, size));
            requests.extend(b"\r\n");
        }
        connection.send(requests).expect("sets are taken");
        for key in keys {
            let answer = connection.read_line().expect("a set is answered");
            assert_eq!(answer, b"STORED", "{key}, {size} bytes: {}", answer.escape_ascii());
        }
    }
}

#[test]
fn a_value_of_every_size_class_is_stored_and_read_back() {
    check(&["-t", "2", "-m", "64"], |server| {
        let mut connection = server.connect();
        let sizes = std::iter::successors(Some(1_usize), |size| Some(size + size / 20 + 1));
        for size in sizes.take_while(|&size| size <= 1_000_000) {
            let value = value_of("size", size);
            assert_eq!(try_set(&mut connection, &format!("size:{size}"), &value), "STORED", "{size} bytes");
            let header = connection.command(&format!("mg size:{size} s v"));
            assert_eq!(header, format!("VA {size} s{size}"));
            let read = connection.read_line().expect("the value");
            assert!(read == value, "{size} bytes");
        }
    });
}

#[test]
fn a_full_cache_takes_everything_and_drops_the_oldest() {
    const KEYS: usize = 30_000;
    check(&["-t", "2", "-m", "32"], |server| {
        let mut random = SmallRng::seed_from_u64(1);
        let sizes: Vec<usize> = (0..KEYS).map(|_| random.random_range(0..8_000)).collect();
        let mut connection = server.connect();
        for (n, &size) in sizes.iter().enumerate() {
            let key = format!("key:{n}");
            assert_eq!(
                try_set(&mut connection, &key, &value_of(&key, size)),
                "STORED",
                "{key}, {size} bytes"
            );
        }
        let found = (0..KEYS).filter(|n| {
            let key = format!("key:{n}");
            let value = connection.get(&key);
            assert!(
                value.as_ref().is_none_or(|value| *value == value_of(&key, sizes[*n])),
                "{key} is another's"
            );
            value.is_some()
        });
        let found = found.count();
        assert!((KEYS / 20..KEYS / 3).contains(&found), "{found} of {KEYS} kept, a quarter fits");
        assert!(connection.stat("evictions") > 0);
        let size = server.resident_kib();
        assert!(size < (32 << 10) + OVERHEAD_MAX_KIB, "32 MiB of cache take {size} KiB");
    });
}

#[test]
fn values_of_changing_sizes_find_room_in_a_full_cache() {
    check(&["-t", "2", "-m", "32"], |server| {
        let mut connection = server.connect();
        for (round, size) in [100, 500_000, 3_000, 60_000, 100, 900_000].into_iter().enumerate() {
            let count = 80_000_000 / (size + 400);
            let keys: Vec<_> = (0..count).map(|n| format!("round:{round}:{n}")).collect();
            set_all(&mut connection, &keys, size);
            let last = keys.last().expect("many");
            assert!(connection.get(last) == Some(value_of(last, size)), "{last} was set last");
        }
    });
}

/// The sum of the README, with a program of a debug build.
#[test]
fn large_values_on_their_way_between_nodes_and_to_copies_take_what_is_said() {
    const MEMORY_MIB: u64 = 64;
    const ITEM_MIB: u64 = 8;
    const PROGRAM_MIB: u64 = 16;
    for (copies, beside_mib) in [("1", 5 * ITEM_MIB), ("2", (5 + 4) * ITEM_MIB + 4)] {
        let cluster =
            Cluster::of_peers(2, &["-t", "1", "-m", "64", "-I", "8m", "--io", "epoll", "--replicas", copies]);
        let write = |client: usize| {
            let mut connection = cluster.nodes[client % 2].connect();
            for n in 0..5 {
                // A machine that is busy may be late for the other node's patience: what is in memory then is the same.
                let _stored_or_late =
                    try_set(&mut connection, &format!("{client}.{n}"), &[b'v'; 7_900 << 10]);
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|client| drop(scope.spawn(move || write(client)))));
        for node in &cluster.nodes {
            let (kib, mib) = (node.resident_peak_kib(), MEMORY_MIB + PROGRAM_MIB + beside_mib);
            assert!(kib < mib << 10, "{copies} copies: {kib} KiB of {mib} MiB");
        }
    }
}

/// One of many clients: gets of several values before it reads one, and sets, of sizes that letters between shards do not like.
fn exchange_values(client: usize, server: &Server) {
    const ROUNDS: usize = 100;
    const KEYS: usize = 3_000;
    let mut random = SmallRng::seed_from_u64(client as u64);
    let mut connection = server.connect();
    for _ in 0..ROUNDS {
        if random.random() {
            let key = format!("between:{}", random.random_range(0..KEYS));
            let value = value_of(&key, random.random_range(100..90_000));
            assert_eq!(try_set(&mut connection, &key, &value), "STORED", "{key}");
            continue;
        }
        let keys: Vec<_> = (0..4).map(|_| format!("between:{}", random.random_range(0..KEYS))).collect();
        let requests: String = keys.iter().map(|key| format!("get {key}\r\n")).collect();
        connection.send(requests).expect("gets are taken");
        for key in keys {
            let line = connection.read_line().expect("an answer");
            if line == b"END" {
                continue;
            }
            let line = String::from_utf8(line).expect("an answer is text");
            let size = line.strip_prefix(&format!("VALUE {key} 0 ")).expect("what was asked for").parse();
            let size = size.expect("a number of bytes");
            assert!(connection.read_exact(size).expect("all of it") == value_of(&key, size), "{key}");
            assert_eq!(connection.read_line().expect("the end of the value"), b"");
            assert_eq!(connection.read_line().expect("the end of the answer"), b"END");
        }
    }
}

/// The sum of the README for many shards with little memory each, with a program of a debug build.
#[test]
fn values_on_their_way_between_many_shards_take_what_is_said() {
    const CLIENTS: usize = 100;
    const MEMORY_MIB: u64 = 64;
    const PROGRAM_MIB: u64 = 16;
    const SHARD_MIB: u64 = 2;
    for threads in [8, 16] {
        let shards = threads.to_string();
        let args = ["-m", "64", "-t", &shards];
        let server = Server::start(&args).expect("slabring starts");
        let server = &server;
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || exchange_values(client, server));
            }
        });
        let (kib, mib) = (server.resident_peak_kib(), MEMORY_MIB * 5 / 4 + PROGRAM_MIB + threads * SHARD_MIB);
        assert!(kib < mib << 10, "{args:?}: {kib} KiB of {mib} MiB");
    }
}

#[test]
fn a_cache_that_must_not_evict_refuses_and_keeps_what_it_has() {
    check(&["-t", "2", "-m", "32", "-M"], |server| {
        let mut connection = server.connect();
        let value = "v".repeat(10_000);
        let answers: Vec<String> =
            (0..10_000).map(|n| try_set(&mut connection, &format!("key:{n}"), value.as_bytes())).collect();
        let is_stored: Vec<bool> = answers.iter().map(|answer| answer == "STORED").collect();
        let refused = answers.iter().find(|answer| *answer != "STORED").expect("100 MB do not fit into 32");
        assert_eq!(refused, "SERVER_ERROR out of memory storing object");
        for (n, is_stored) in is_stored.into_iter().enumerate() {
            assert_eq!(connection.get(&format!("key:{n}")).is_some(), is_stored, "key:{n}");
        }
        assert_eq!(connection.stat("evictions"), 0);
    });
}

#[test]
fn room_that_is_freed_is_used_again() {
    check(&["-t", "2", "-m", "32", "-M"], |server| {
        let mut connection = server.connect();
        for round in 0..6 {
            for n in 0..15 {
                let answer = try_set(&mut connection, &format!("key:{n}"), &value_of("x", 900_000));
                assert_eq!(answer, "STORED", "round {round}, key:{n}");
            }
            for n in 0..15 {
                assert_eq!(connection.command(&format!("delete key:{n}")), "DELETED");
            }
        }
    });
}

#[test]
fn the_item_limit_is_what_it_is_set_to() {
    check(&["-t", "2", "-I", "4m", "-m", "64"], |server| {
        let mut connection = server.connect();
        let value = value_of("large", 4_000_000);
        assert_eq!(try_set(&mut connection, "large", &value), "STORED");
        assert!(connection.get("large") == Some(value));
        let answer = try_set(&mut connection, "large", &value_of("large", 4 << 20));
        assert_eq!(answer, "SERVER_ERROR object too large for cache");
        assert_eq!(connection.get("large"), None);
    });
    check(&["-t", "2", "-I", "512k"], |server| {
        let mut connection = server.connect();
        assert_eq!(try_set(&mut connection, "small", &value_of("small", 500_000)), "STORED");
        let answer = try_set(&mut connection, "small", &value_of("small", 512 << 10));
        assert_eq!(answer, "SERVER_ERROR object too large for cache");
    });
}

#[test]
fn an_expired_value_makes_room() {
    check(&["-t", "2", "-m", "32", "-M"], |server| {
        let mut connection = server.connect();
        let value = "v".repeat(100_000);
        for n in 0..100 {
            let answer = connection.command(&format!("set old:{n} 0 1 {}\r\n{value}", value.len()));
            assert_eq!(answer, "STORED", "old:{n}");
        }
        std::thread::sleep(Duration::from_millis(2_200));
        for n in 0..100 {
            assert_eq!(connection.get(&format!("old:{n}")), None);
        }
        for n in 0..150 {
            assert_eq!(try_set(&mut connection, &format!("new:{n}"), value.as_bytes()), "STORED", "new:{n}");
        }
    });
}

/// Clients that ask for large values, three times each, and read nothing.
fn ask_and_do_not_read<S: Write>(clients: usize, keys: usize, connect: impl Fn() -> S) -> Vec<S> {
    let mut streams: Vec<S> = (0..clients).map(|_| connect()).collect();
    for round in 0..3 {
        for (n, stream) in streams.iter_mut().enumerate() {
            let request = format!("get large:{}\r\n", (n * 7 + round) % keys);
            stream
                .write_all(request.as_bytes())
                .expect("the server reads requests, or the kernel keeps them");
        }
    }
    streams
}

/// The most memory that a server takes within the next two seconds.
fn resident_kib_max(server: &Server) -> u64 {
    let looks = (0..20).map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        server.resident_kib()
    });
    looks.max().expect("there are some")
}

/// Fills a cache with large values, has clients ask for them that do not read, and sees that others are served, that memory
/// stays near its limit, and that the values are as good as ever when the clients are gone.
#[track_caller]
fn check_unread(mib: u64, args: &[&str], clients: usize, size: usize) {
    let memory = mib.to_string();
    let args = [&["-m", &memory], args].concat();
    let server = Server::start(&args).expect("slabring starts");
    let mut healthy = server.connect();
    for n in 0..clients {
        let key = format!("large:{n}");
        assert_eq!(try_set(&mut healthy, &key, &value_of(&key, size)), "STORED", "{args:?}");
    }
    let mut streams = ask_and_do_not_read(clients, clients, || {
        TcpStream::connect(server.address()).expect("there is room for a client")
    });
    let many: String = (0..clients.min(20)).map(|n| format!(" large:{n}")).collect();
    for stream in &mut streams {
        stream.write_all(format!("get{many}\r\n").as_bytes()).expect("a line is little");
    }
    let size_kib = resident_kib_max(&server);
    healthy.set("small", "value");
    assert_eq!(healthy.get("small").as_deref(), Some(&b"value"[..]));
    assert!(size_kib < (mib << 10) + OVERHEAD_MAX_KIB, "{args:?}: {mib} MiB of cache take {size_kib} KiB");
    drop(streams);
    for n in 0..clients {
        let key = format!("large:{n}");
        let value = healthy.get(&key);
        assert!(value.is_none_or(|value| value == value_of(&key, size)), "{key} is another's");
    }
}

#[test]
fn clients_that_do_not_read_large_replies_cost_the_memory_of_the_cache_and_no_more() {
    for threads in ["1", "2"] {
        check_unread(64, &["-t", threads], 100, 1_000_000);
        check_unread(512, &["-t", threads, "-I", "64m"], 8, 63_000_000);
    }
}

/// Reads the answers to a get, a set of three bytes, and a get.
fn read_old_and_new(client: &mut Connection, key: &str, size: usize) {
    let mut line = client.read_line().expect("an answer");
    if line != b"END" {
        assert_eq!(line, format!("VALUE {key} 0 {size}").as_bytes());
        assert!(client.read_exact(size).expect("all of it") == value_of(key, size), "{key}");
        assert_eq!(client.read_line().expect("the end of the value"), b"");
        line = client.read_line().expect("the end of the answer");
    }
    assert_eq!(line, b"END");
    assert_eq!(client.read_line().expect("the next answer"), b"STORED");
    assert_eq!(client.read_line().expect("the last answer"), format!("VALUE {key} 0 3").as_bytes());
}

#[test]
fn what_waits_for_unread_replies_is_answered_when_they_are_read() {
    const SIZE: usize = 6_000_000;
    for threads in ["1", "2"] {
        let server = Server::start(&["-m", "64", "-I", "8m", "-t", threads]).expect("slabring starts");
        let mut connection = server.connect();
        for n in 0..6 {
            let key = format!("large:{n}");
            assert_eq!(try_set(&mut connection, &key, &value_of(&key, SIZE)), "STORED");
        }
        let kept: Vec<_> = (0..6).map(|n| connection.get(&format!("large:{n}")).is_some()).collect();
        let mut waiting: Vec<_> = (0..6).map(|_| server.connect()).collect();
        for (n, client) in waiting.iter_mut().enumerate() {
            // What follows must not overtake, although it could be answered at once.
            let request = format!("get large:{n}\r\nset large:{n} 0 0 3\r\nnew\r\nget large:{n}\r\n");
            client.send(request).expect("it is read");
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        // At the same time: who is served first is not who asked first.
        std::thread::scope(|scope| {
            for (n, client) in waiting.iter_mut().enumerate() {
                scope.spawn(move || read_old_and_new(client, &format!("large:{n}"), SIZE));
            }
        });
        assert!(kept.into_iter().filter(|kept| *kept).count() > 3, "the case needs values");
    }
}

/// Memory that a connection may cost which stands in the middle of a large value.
const HALF_SENT_KIB_MAX: u64 = 24;

/// Memory beside its pages that a server keeps when they have gone.
const GONE_KIB_MAX: u64 = 24 << 10;
/// What four large sets of another client may take then: each waits at most for the next second in which silent ones lose their
/// room, which takes one of them 5, and 12 until most are refused. The rest is for a busy machine.
const WHOLE_TIME_MAX: Duration = Duration::from_secs(50);

/// Clients that announce a large value each, send most of it and stop.
fn begin_large_values(server: &Server, clients: usize, size: usize) -> Vec<TcpStream> {
    let most = vec![b'x'; size / 9 * 8];
    let begin = |n| {
        let mut stream = TcpStream::connect(server.address()).expect("there is room for a client");
        stream.set_nonblocking(true).expect("a socket can be told so");
        stream.write_all(format!("set half:{n} 0 0 {size}\r\n").as_bytes()).expect("a line fits a socket");
        // As much as the kernel takes.
        match stream.write_all(&most) {
            Ok(()) | Err(_) => stream,
        }
    };
    (0..clients).map(begin).collect()
}

/// Sets four large values, which all others that want room must not keep from being stored.
#[track_caller]
fn set_whole_values(client: &mut Connection, name: &str, size: usize) {
    let asked = Instant::now();
    for n in 0..4 {
        let key = format!("{name}:{n}");
        client.stream().set_read_timeout(Some(WHOLE_TIME_MAX)).expect("a timeout that is not zero");
        assert_eq!(try_set(client, &key, &value_of(&key, size)), "STORED", "{key}");
    }
    assert!(asked.elapsed() < WHOLE_TIME_MAX, "{name}: {:?} for four sets", asked.elapsed());
}

/// Sets a large value in the second of many who stop. It may be refused with them, as by memcached, and its client goes on.
fn set_or_be_refused(mut client: Connection, key: &str, size: usize) {
    client.stream().set_read_timeout(Some(WHOLE_TIME_MAX)).expect("a timeout that is not zero");
    let answer = try_set(&mut client, key, &value_of(key, size));
    let is_expected = answer == "STORED" || answer == "SERVER_ERROR out of memory storing object";
    assert!(is_expected, "{key}: {answer}");
    assert!(answer == "STORED" || client.get(key).is_none(), "{key} is there: {answer}");
    assert_eq!(client.command("mn"), "MN");
}

/// Looks until the first number is not above the second.
#[track_caller]
fn within_a_minute(mut look: impl FnMut() -> (u64, u64), what: &str) {
    let since = Instant::now();
    while let (now, at_most) = look()
        && now > at_most
    {
        assert!(since.elapsed() < Duration::from_secs(60), "{now} {what} stay, at most {at_most}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn clients_that_stop_in_the_middle_of_large_values_cost_little_more_than_the_cache_and_go() {
    const CLIENTS: usize = 900;
    const SIZE: usize = 900_000;
    for threads in ["1", "3"] {
        let args = ["-m", "64", "-t", threads];
        let server = Server::start(&args).expect("slabring starts");
        let mut healthy = server.connect();
        let mut streams = begin_large_values(&server, CLIENTS / 2, SIZE);
        let among = server.connect();
        let among = std::thread::spawn(move || set_or_be_refused(among, "among", SIZE));
        streams.extend(begin_large_values(&server, CLIENTS / 2, SIZE));
        let behind = server.connect();
        let behind = std::thread::spawn(move || set_or_be_refused(behind, "behind", SIZE));
        let size_kib = resident_kib_max(&server);
        let limit_kib = (64 << 10) + OVERHEAD_MAX_KIB / 2 + CLIENTS as u64 * HALF_SENT_KIB_MAX;
        assert!(size_kib < limit_kib, "{args:?}: {size_kib} KiB, at most {limit_kib}");
        for len in [5, 300, 3_000] {
            assert_eq!(try_set(&mut healthy, "small", &value_of("small", len)), "STORED", "{args:?}: {len}");
        }
        set_whole_values(&mut healthy, "late", SIZE);
        for client in [among, behind] {
            client.join().expect("it is answered, and goes on");
        }
        drop(streams);
        within_a_minute(|| (healthy.stat("curr_connections"), 1), "connections");
        within_a_minute(|| (healthy.stat("slabring_memory_held_bytes"), 0), "bytes held");
        let gone_kib = || {
            let pages_kib = healthy.stat("slabring_memory_pages_bytes") >> 10;
            (server.resident_kib(), pages_kib + GONE_KIB_MAX)
        };
        within_a_minute(gone_kib, "KiB");
    }
}

#[test]
fn a_value_of_a_gibibyte_is_taken_and_given_back() {
    const SIZE: usize = (1 << 30) - (1 << 20);
    for (threads, mib) in [("1", "3500"), ("2", "6200")] {
        let args = ["-t", threads, "-m", mib, "-I", "1g"];
        let server = Server::start(&args).expect("slabring starts");
        let mut writer = server.connect();
        let block = value_of("large", 1 << 20);
        writer.send(format!("set large 0 0 {SIZE}\r\n")).expect("it is read");
        (0..SIZE >> 20).for_each(|_| writer.send(&block).expect("it is read"));
        assert_eq!(writer.command(""), "STORED", "{args:?}");
        writer.send("get large\r\n").expect("it is read");
        assert_eq!(writer.read_line().expect("an answer"), format!("VALUE large 0 {SIZE}").as_bytes());
        for n in 0..SIZE >> 20 {
            assert!(writer.read_exact(1 << 20).expect("all of it") == block, "MiB {n}");
        }
        assert_eq!(writer.read_line().expect("the end of the value"), b"");
        assert_eq!(writer.read_line().expect("the end"), b"END");
    }
}
