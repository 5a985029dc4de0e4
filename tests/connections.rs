//! Connections that behave as connections do in the field: many at once, slow, reset in the middle, never reading.
//! Each case also runs against the installed memcached, which shows that it asks for nothing unusual.

use std::io::{ErrorKind, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use slabring_tests::{Connection, Server};

/// Time a healthy connection has for a single request while others misbehave: a thousand times the usual, and less than a server has patience
/// with those.
const PROMPT_TIMEOUT: Duration = Duration::from_millis(3_500);

/// Runs a case against memcached where it is installed and against Slabring in each way it runs.
fn check(case: impl Fn(&Server)) {
    if let Some(memcached) = Server::memcached(&["-t", "2"]) {
        case(&memcached);
    }
    for io in ["epoll", "uring"] {
        let Some(mut server) = Server::start_over(io, &["-t", "2"]) else { continue };
        case(&server);
        assert!(server.is_running(), "--io {io} is gone: {}", server.stderr());
    }
}

/// Checks that a fresh connection is served, and promptly.
#[track_caller]
fn check_serves(server: &Server) {
    let asked = Instant::now();
    let mut connection = server.connect();
    connection.set("healthy", "value");
    assert_eq!(connection.get("healthy").as_deref(), Some(&b"value"[..]));
    let kind = server.kind();
    assert!(asked.elapsed() < PROMPT_TIMEOUT, "{kind:?} serves only after {:?}", asked.elapsed());
}

/// A value that tells whose it is, so that a mix-up shows.
fn value_of(key: &str, version: u32, size: usize) -> Vec<u8> {
    format!("{key}/{version}/").bytes().cycle().take(size).collect()
}

#[test]
fn many_connections_at_once_each_read_what_they_wrote() {
    const THREADS: u64 = 8;
    const CONNECTIONS: usize = 25;
    const ROUNDS: u32 = 40;
    check(|server| {
        thread::scope(|scope| {
            for seed in 0..THREADS {
                scope.spawn(move || {
                    let mut random = SmallRng::seed_from_u64(seed);
                    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
                    for round in 0..ROUNDS {
                        for (index, connection) in connections.iter_mut().enumerate() {
                            let key = format!("key:{seed}:{index}");
                            // Mostly small, sometimes far over one packet and one buffer.
                            let size_max = if random.random_ratio(1, 20) { 100_000 } else { 500 };
                            let value = value_of(&key, round, random.random_range(0..size_max));
                            connection.set(&key, &value);
                            assert_eq!(connection.get(&key), Some(value), "seed {seed}, round {round}");
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn every_increment_from_every_connection_counts() {
    const THREADS: usize = 8;
    const INCREMENTS: usize = 2_000;
    check(|server| {
        server.connect().set("counter", "0");
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut connection = server.connect();
                    for _ in 0..INCREMENTS / 100 {
                        connection.send("incr counter 1\r\n".repeat(100)).unwrap();
                        let counts: Vec<u64> = (0..100)
                            .map(|_| {
                                String::from_utf8(connection.read_line().unwrap()).unwrap().parse().unwrap()
                            })
                            .collect();
                        assert!(
                            counts.is_sorted_by(|a, b| a < b),
                            "a counter never stands still: {counts:?}"
                        );
                    }
                });
            }
        });
        let total = (THREADS * INCREMENTS).to_string();
        assert_eq!(server.connect().get("counter"), Some(total.into_bytes()));
    });
}

#[test]
fn a_value_read_while_it_is_replaced_is_whole() {
    const WRITES: u32 = 300;
    const SIZES: [usize; 4] = [10, 1_000, 30_000, 300_000];
    check(|server| {
        server.connect().set("shared", value_of("shared", 0, 10));
        thread::scope(|scope| {
            for writer in 0..2 {
                scope.spawn(move || {
                    let mut connection = server.connect();
                    for version in (writer..WRITES).step_by(2) {
                        let size = SIZES[usize::try_from(version / 2).unwrap() % SIZES.len()];
                        connection.set("shared", value_of("shared", version, size));
                    }
                });
            }
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut connection = server.connect();
                    for _ in 0..WRITES {
                        let value = connection.get("shared").expect("always there");
                        let version = value.split(|&byte| byte == b'/').nth(1).unwrap_or(b"0");
                        let version = String::from_utf8_lossy(version).parse().unwrap_or(0);
                        let expected = value_of("shared", version, value.len());
                        assert!(value == expected, "{} bytes of no one version", value.len());
                    }
                });
            }
        });
    });
}

#[test]
fn of_many_adds_at_once_one_wins() {
    check(|server| {
        for round in 0..50 {
            let wins: usize = thread::scope(|scope| {
                let request = format!("add only:{round} 0 0 1\r\nx");
                let adders: Vec<_> = (0..4)
                    .map(|_| {
                        let request = request.clone();
                        scope.spawn(move || usize::from(server.connect().command(&request) == "STORED"))
                    })
                    .collect();
                adders.into_iter().map(|adder| adder.join().unwrap()).sum()
            });
            assert_eq!(wins, 1, "round {round}");
        }
    });
}

#[test]
fn a_pipeline_across_all_shards_is_answered_in_order() {
    const KEYS: usize = 2_000;
    check(|server| {
        let mut writer = server.connect();
        let mut request = Vec::new();
        for n in 0..KEYS {
            write!(request, "set spread:{n} 0 0 {} noreply\r\n{n}\r\n", n.to_string().len()).unwrap();
        }
        for n in 0..KEYS {
            write!(request, "get spread:{n}\r\n").unwrap();
        }
        let mut reader = writer.stream().try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || reader.write_all(&request).unwrap());
            for n in 0..KEYS {
                let digits = n.to_string();
                assert_eq!(
                    writer.read_line().unwrap(),
                    format!("VALUE spread:{n} 0 {}", digits.len()).as_bytes()
                );
                assert_eq!(writer.read_line().unwrap(), digits.as_bytes());
                assert_eq!(writer.read_line().unwrap(), b"END");
            }
        });
    });
}

#[test]
fn a_slow_writer_is_served_and_delays_nobody() {
    check(|server| {
        let mut slow = server.connect();
        for byte in b"set slow 0 0 20\r\nabcdefghijklmnopqrst\r\nget slow\r\n" {
            slow.send([*byte]).unwrap();
            thread::sleep(Duration::from_millis(2));
            check_serves(server);
        }
        assert_eq!(slow.read_line().unwrap(), b"STORED");
        assert_eq!(slow.read_line().unwrap(), b"VALUE slow 0 20");
    });
}

#[test]
fn a_value_cut_off_by_a_close_is_not_stored() {
    check(|server| {
        let mut watcher = server.connect();
        for size in [0, 1, 100, 5_000, 200_000] {
            let mut cut = server.connect();
            cut.send("set cut 0 0 300000\r\n").unwrap();
            cut.send(vec![b'v'; size]).unwrap();
            drop(cut);
        }
        wait_for_connections(&mut watcher, 1);
        assert_eq!(watcher.get("cut"), None);
        check_serves(server);
    });
}

#[test]
fn a_value_cut_off_by_a_reset_is_not_stored() {
    check(|server| {
        let mut watcher = server.connect();
        for _ in 0..100 {
            let mut cut = server.connect();
            // Closing a socket that has unread input sends a reset instead of an end.
            cut.send("version\r\n").unwrap();
            cut.stream().peek(&mut [0]).unwrap();
            cut.send("set cut 0 0 1000\r\nabc").unwrap();
            drop(cut);
        }
        wait_for_connections(&mut watcher, 1);
        assert_eq!(watcher.get("cut"), None);
        check_serves(server);
    });
}

#[test]
fn what_was_asked_before_half_closing_is_answered() {
    check(|server| {
        let mut connection = server.connect();
        connection.send("set half 0 0 1\r\nx\r\nget half\r\nmn\r\n").unwrap();
        connection.finish_sending().unwrap();
        let answers = connection.read_to_close().unwrap();
        assert_eq!(answers, b"STORED\r\nVALUE half 0 1\r\nx\r\nEND\r\nMN\r\n", "{}", answers.escape_ascii());
    });
}

#[test]
fn a_client_that_never_reads_delays_nobody_and_gets_everything_once_it_reads() {
    const SIZE: usize = 900_000;
    const REQUESTS: usize = 40;
    check(|server| {
        let mut deaf = server.connect();
        deaf.set("large", vec![b'v'; SIZE]);
        deaf.send("get large\r\n".repeat(REQUESTS)).unwrap();
        for _ in 0..20 {
            check_serves(server);
        }
        for _ in 0..REQUESTS {
            assert_eq!(deaf.read_line().unwrap(), format!("VALUE large 0 {SIZE}").as_bytes());
            let value = deaf.read_exact(SIZE).unwrap();
            assert!(value.iter().all(|&byte| byte == b'v'));
            assert_eq!(deaf.read_line().unwrap(), b"");
            assert_eq!(deaf.read_line().unwrap(), b"END");
        }
    });
}

/// Replies too large for one letter between shards make requests go twice; none may overtake another.
#[test]
fn each_read_in_a_pipeline_of_large_values_sees_the_write_before_it_and_none_behind() {
    const KEYS: usize = 4;
    const ROUNDS: usize = 60;
    const SIZE: usize = 200_000;
    const MARK_SIZE: usize = "<00>".len();
    check(|server| {
        let mut connection = server.connect();
        for key in 0..KEYS {
            connection.set(&format!("log{key}"), vec![b'v'; SIZE]);
        }
        let mut pipeline = String::new();
        for round in 0..ROUNDS {
            for key in 0..KEYS {
                let mark = format!("<{round:02}>");
                pipeline += &format!("append log{key} 0 0 {MARK_SIZE} noreply\r\n{mark}\r\nget log{key}\r\n");
            }
        }
        connection.send(pipeline).unwrap();
        for round in 0..ROUNDS {
            for key in 0..KEYS {
                let size = SIZE + (round + 1) * MARK_SIZE;
                assert_eq!(connection.read_line().unwrap(), format!("VALUE log{key} 0 {size}").as_bytes());
                let value = connection.read_exact(size).unwrap();
                let marks: String = (0..=round).map(|round| format!("<{round:02}>")).collect();
                assert!(value.ends_with(marks.as_bytes()), "log{key}, round {round}");
                assert_eq!(connection.read_line().unwrap(), b"");
                assert_eq!(connection.read_line().unwrap(), b"END");
            }
        }
    });
}

#[test]
fn clients_that_never_read_do_not_fill_the_memory() {
    const CLIENTS: usize = 8;
    /// Far above what a server may hold for eight clients, far below what they ask for: 8 GB.
    const GROWTH_MAX_KIB: u64 = 400_000;
    check(|server| {
        server.connect().set("large", vec![b'v'; 1_000_000]);
        let before = server.resident_kib();
        let mut deaf: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        for connection in &mut deaf {
            connection.stream().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            match connection.send("get large\r\n".repeat(1_000)) {
                // A server that stops reading from such a client is right to.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if slabring_tests::connection::is_end(&error) => {}
                result => result.unwrap(),
            }
        }
        for _ in 0..20 {
            check_serves(server);
            thread::sleep(Duration::from_millis(20));
        }
        let growth = server.resident_kib().saturating_sub(before);
        assert!(growth < GROWTH_MAX_KIB, "{CLIENTS} deaf clients cost {growth} KiB");
        drop(deaf);
        wait_for_connections(&mut server.connect(), 1);
    });
}

#[test]
fn many_large_values_at_once_are_all_stored_at_the_default_memory() {
    const CLIENTS: usize = 40;
    const ROUNDS: usize = 3;
    const SIZE: usize = 1_000_000;
    check(|server| {
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || {
                    let mut connection = server.connect();
                    for round in 0..ROUNDS {
                        connection.set(&format!("large:{client}:{round}"), vec![b'v'; SIZE]);
                    }
                });
            }
        });
        check_serves(server);
    });
}

#[test]
fn pipelined_statistics_that_nobody_reads_do_not_fill_the_memory() {
    const CLIENTS: usize = 20;
    const GROWTH_MAX_KIB: u64 = 100_000;
    check(|server| {
        let before = server.resident_kib();
        let mut deaf: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        for connection in &mut deaf {
            connection.stream().set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            match connection.send("stats\r\n".repeat(4_000)) {
                Ok(()) => {}
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                }
            }
        }
        check_serves(server);
        let growth = server.resident_kib().saturating_sub(before);
        assert!(growth < GROWTH_MAX_KIB, "{CLIENTS} readers of statistics cost {growth} KiB");
    });
}

#[test]
fn an_endless_line_does_not_fill_the_memory() {
    const GROWTH_MAX_KIB: u64 = 200_000;
    check(|server| {
        let before = server.resident_kib();
        let mut endless = server.connect();
        let junk = vec![b'x'; 1 << 20];
        let sent = (0..300).take_while(|_| endless.send(&junk).is_ok()).count();
        let growth = server.resident_kib().saturating_sub(before);
        assert!(sent < 300, "300 MB without a line end were taken");
        assert!(growth < GROWTH_MAX_KIB, "a line of {sent} MB costs {growth} KiB");
        check_serves(server);
    });
}

#[test]
fn a_thousand_connections_come_and_go() {
    check(|server| {
        let mut watcher = server.connect();
        for _ in 0..10 {
            let mut connections: Vec<_> = (0..100).map(|_| server.connect()).collect();
            for connection in &mut connections {
                assert!(connection.command("version").starts_with("VERSION "));
            }
            assert!(watcher.stat("curr_connections") > 100);
        }
        wait_for_connections(&mut watcher, 1);
        assert!(watcher.stat("total_connections") > 1_000);
    });
}

#[test]
fn statistics_count_what_was_done() {
    check(|server| {
        let mut connection = server.connect();
        for n in 0..20 {
            connection.set(&format!("counted:{n}"), "x");
        }
        for n in 0..30 {
            assert_eq!(connection.get(&format!("counted:{n}")).is_some(), n < 20);
        }
        assert_eq!(connection.command("delete counted:0"), "DELETED");
        assert_eq!(connection.command("delete counted:0"), "NOT_FOUND");
        connection.set("number", "1");
        assert_eq!(connection.command("incr number 1"), "2");
        assert_eq!(connection.command("incr absent 1"), "NOT_FOUND");
        assert_eq!(connection.command("touch number 100"), "TOUCHED");
        let expected = [
            ("cmd_set", 21),
            ("cmd_get", 30),
            ("get_hits", 20),
            ("get_misses", 10),
            ("delete_hits", 1),
            ("delete_misses", 1),
            ("incr_hits", 1),
            ("incr_misses", 1),
            ("cmd_touch", 1),
            ("touch_hits", 1),
            ("curr_items", 20),
            ("threads", 2),
            ("evictions", 0),
        ];
        for (name, count) in expected {
            assert_eq!(connection.stat(name), count, "{name}");
        }
    });
}

/// Waits until no more than `count` connections are open, the watcher's own among them, as far as the server knows.
#[track_caller]
fn wait_for_connections(watcher: &mut Connection, count: u64) {
    // memcached counts its listening socket and two of its own.
    const OWN_CONNECTIONS_MAX: u64 = 3;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let open = watcher.stat("curr_connections");
        if open <= count + OWN_CONNECTIONS_MAX {
            return;
        }
        assert!(Instant::now() < deadline, "{open} connections are still open");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_deep_pipeline_is_executed_in_parts_and_answered_in_order() {
    const REQUESTS: usize = 20_000;
    for io in ["epoll", "uring"] {
        let Some(server) = Server::start_over(io, &["-t", "2", "-R", "20"]) else { continue };
        let mut connection = server.connect();
        connection.set("counter", "0");
        let mut deep = server.connect();
        let text = "incr counter 1\r\n".repeat(REQUESTS);
        let mut writer = deep.stream().try_clone().expect("a socket has another name");
        thread::scope(|scope| {
            scope.spawn(move || writer.write_all(text.as_bytes()).expect("the server reads on"));
            for number in 1..=REQUESTS {
                let reply = deep.read_line().expect("every request has its reply");
                assert_eq!(reply, number.to_string().as_bytes());
            }
        });
        // A turn executes 20 of them, but those of one packet may be split between two turns.
        assert!(connection.stat("conn_yields") >= (REQUESTS / 20 / 2) as u64, "--io {io}");
    }
}

#[test]
fn a_request_that_never_ends_is_closed_in_time_and_a_silent_client_is_not() {
    for io in ["epoll", "uring"] {
        let Some(server) = Server::start_over(io, &["-t", "2", "--request-timeout", "1"]) else { continue };
        let mut silent = server.connect();
        let mut slow = server.connect();
        slow.send("get k").expect("the server listens");
        let mut value = server.connect();
        value.send("set key 0 0 100\r\nabc").expect("the server listens");
        // Written where they will lie, in this shard or the other.
        let mut large: Vec<_> = (0..4).map(|_| server.connect()).collect();
        for (number, client) in large.iter_mut().enumerate() {
            client.send(format!("set large:{number} 0 0 100000\r\nabc")).expect("the server listens");
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) && slow.send("k").is_ok() {
            thread::sleep(Duration::from_millis(100));
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "--io {io}: a byte now and then keeps a request alive"
        );
        assert!(value.read_to_close().is_ok_and(|rest| rest.is_empty()), "--io {io}");
        for mut client in large {
            assert!(client.read_to_close().is_ok_and(|rest| rest.is_empty()), "--io {io}");
        }
        assert_eq!(silent.get("key"), None, "--io {io}");
        assert_eq!(silent.stat("slabring_slow_kicks"), 6, "--io {io}");
    }
}

#[test]
fn two_shards_that_flood_each_other_answer_everything_in_order() {
    const KEYS: usize = 16;
    const VALUE_BYTES: usize = 20_000;
    const REQUESTS: usize = 4_000;
    for io in ["epoll", "uring"] {
        let Some(server) = Server::start_over(io, &["-t", "2"]) else { continue };
        // The server gives each shard one of two clients, and either shard owns some of the keys.
        let mut clients = [server.connect(), server.connect()];
        let keys: Vec<_> = (0..KEYS).map(|number| format!("key:{number}")).collect();
        keys.iter().for_each(|key| clients[0].set(key, value_of(key, 0, VALUE_BYTES)));
        thread::scope(|scope| {
            for (turn, client) in clients.iter_mut().enumerate() {
                let mut writer = client.stream().try_clone().expect("a socket has another name");
                let keys = &keys;
                scope.spawn(move || {
                    for number in 0..REQUESTS {
                        // Small requests with large replies, and large ones with small replies.
                        let key = &keys[(number * (turn + 1)) % KEYS];
                        let text = match number % 4 {
                            0 => format!(
                                "append other:{turn} 0 0 {VALUE_BYTES}\r\n{}\r\n",
                                "x".repeat(VALUE_BYTES)
                            ),
                            _ => format!("get {key}\r\n"),
                        };
                        writer.write_all(text.as_bytes()).expect("the server reads on");
                    }
                });
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(300));
                    for number in 0..REQUESTS {
                        let key = &keys[(number * (turn + 1)) % KEYS];
                        let line = client.read_line().expect("every request has its reply");
                        if number % 4 == 0 {
                            assert_eq!(line, b"NOT_STORED");
                            continue;
                        }
                        assert_eq!(
                            line,
                            format!("VALUE {key} 0 {VALUE_BYTES}").as_bytes(),
                            "request {number}"
                        );
                        let value = client.read_exact(VALUE_BYTES + 2).expect("the value");
                        assert!(value.starts_with(&value_of(key, 0, VALUE_BYTES)), "request {number}");
                        assert_eq!(client.read_line().expect("the end"), b"END");
                    }
                });
            }
        });
    }
}
