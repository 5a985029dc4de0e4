//! Large values, which leave straight from the shard's memory and are written straight into it: whole whatever happens to their
//! items meanwhile, in every protocol, over both ways to the kernel, for keys of this shard and of another.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use slabring_tests::{Connection, Server};

/// More than any socket buffers between a server and a client that does not read.
const LARGE: usize = 24 << 20;

/// Runs a case over both ways to the kernel, with all keys in one shard and with keys of others.
fn check(case: impl Fn(&Server)) {
    for io in ["epoll", "uring"] {
        for threads in ["1", "3"] {
            let args = ["-t", threads, "-m", "400", "-I", "32m"];
            let Some(mut server) = Server::start_over(io, &args) else { continue };
            case(&server);
            assert!(server.is_running(), "--io {io} -t {threads} is gone: {}", server.stderr());
        }
    }
}

/// A value that tells whose it is and where each byte belongs.
fn value_of(key: &str, version: u32, size: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(size + key.len() + 32);
    for line in 0_u32.. {
        if value.len() >= size {
            break;
        }
        writeln!(value, "{key}/{version}/{line}").expect("a vector takes everything");
    }
    value.truncate(size);
    value
}

/// Sends bytes in pieces of random sizes.
fn send_in_pieces(connection: &mut Connection, mut bytes: &[u8], random: &mut SmallRng) {
    while !bytes.is_empty() {
        let size_max = [3, 5_000, 300_000][random.random_range(0..3_usize)];
        let (piece, rest) = bytes.split_at(random.random_range(1..=size_max).min(bytes.len()));
        connection.send(piece).expect("the server reads");
        bytes = rest;
        if random.random_ratio(1, 4) {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

fn request(line: &str, value: &[u8], end: &str) -> Vec<u8> {
    [line.as_bytes(), b"\r\n", value, end.as_bytes()].concat()
}

/// Sends a request in pieces and gives the line that answers it.
fn ask(connection: &mut Connection, bytes: &[u8], random: &mut SmallRng) -> String {
    send_in_pieces(connection, bytes, random);
    String::from_utf8(connection.read_line().expect("an answer")).expect("a line of text")
}

#[test]
fn a_value_that_comes_in_pieces_is_stored_when_it_is_whole_and_answered_as_ever() {
    check(|server| {
        let mut random = SmallRng::seed_from_u64(5);
        let mut connection = server.connect();
        let c = &mut connection;
        for (version, size) in (0..).zip([16_300, 16_384, 70_000, 1_000_000, 3_000_000]) {
            for key in ["one", "two", "three", "four"] {
                let (old, new) = (value_of(key, version, size), value_of(key, version + 100, size));
                let set = format!("set {key} 0 0 {size}");
                assert_eq!(ask(c, &request(&set, &old, "\r\n"), &mut random), "STORED");
                assert!(c.get(key) == Some(old.clone()), "{key}, {size} bytes");
                let add = request(&format!("add {key} 0 0 {size}"), &new, "\r\n");
                assert_eq!(ask(c, &add, &mut random), "NOT_STORED");
                let bad = request(&set, &new, "..");
                assert_eq!(ask(c, &bad, &mut random), "CLIENT_ERROR bad data chunk");
                send_in_pieces(c, &request(&format!("{set} noreply"), &new, ".."), &mut random);
                let cas = request(&format!("cas {key} 0 0 {size} 1"), &new, "\r\n");
                assert_eq!(ask(c, &cas, &mut random), "EXISTS");
                assert!(c.get(key) == Some(old.clone()), "{key} was not to be changed");
                send_in_pieces(c, &request(&format!("{set} noreply"), &new, "\r\n"), &mut random);
                assert!(c.get(key) == Some(new.clone()), "{key} without a reply");
                let meta = request(&format!("ms {key} {size} s Oq"), &old, "\r\n");
                assert_eq!(ask(c, &meta, &mut random), format!("HD s{size} Oq"));
                let append = request(&format!("append {key} 0 0 {size}"), &old, "\r\n");
                assert_eq!(ask(c, &append, &mut random), "STORED");
                assert!(c.get(key) == Some([&old[..], &old[..]].concat()), "{key} with more behind it");
                assert_eq!(c.command(&format!("delete {key}")), "DELETED");
            }
        }
    });
}

#[test]
fn a_value_whose_sender_goes_in_the_middle_is_forgotten_and_its_room_used_again() {
    check(|server| {
        let mut stays = server.connect();
        stays.set("key", "old");
        for round in 0..30_u32 {
            let mut goes = server.connect();
            goes.send(request("set key 0 0 20000000", &vec![b'x'; 2_000_000], "")).expect("it is read");
            if round % 2 == 0 {
                goes.finish_sending().expect("it is still connected");
            }
            drop(goes);
        }
        assert_eq!(stays.get("key").as_deref(), Some(&b"old"[..]));
        let value = value_of("key", 1, 20_000_000);
        stays.set("key", &value);
        assert!(stays.get("key") == Some(value));
    });
}

/// A client asks for a value and reads only when something else has happened to it.
fn check_stays_whole(happens: impl Fn(&mut Connection, &str)) {
    check(|server| {
        for key in ["one", "two", "three"] {
            let mut other = server.connect();
            let value = value_of(key, 1, LARGE);
            other.set(key, &value);
            let mut reader = server.connect();
            reader.send(format!("get {key}\r\n")).expect("it is read");
            // Some of it is here, so that it is on its way.
            let header = reader.read_line().expect("the first line");
            assert_eq!(header, format!("VALUE {key} 0 {LARGE}").as_bytes());
            happens(&mut other, key);
            assert!(reader.read_exact(LARGE).expect("all of it") == value, "{key} is not what it was");
            assert_eq!(reader.read_line().expect("the end"), b"");
            assert_eq!(reader.read_line().expect("the end"), b"END");
            assert_eq!(other.command("flush_all"), "OK");
        }
    });
}

#[test]
fn a_value_that_is_replaced_while_it_is_sent_arrives_as_it_was() {
    check_stays_whole(|other, key| {
        let new = value_of(key, 2, LARGE);
        other.set(key, &new);
        assert!(other.get(key) == Some(new));
        other.set(key, "small");
    });
}

#[test]
fn a_value_that_is_deleted_or_flushed_while_it_is_sent_arrives_as_it_was() {
    check_stays_whole(|other, key| {
        assert_eq!(other.command(&format!("delete {key}")), "DELETED");
        assert_eq!(other.command("flush_all"), "OK");
        assert_eq!(other.get(key), None);
        for n in 0..100 {
            other.set(&format!("other:{n}"), vec![b'x'; 500_000]);
        }
    });
}

#[test]
fn a_value_that_is_evicted_while_it_is_sent_arrives_as_it_was() {
    check_stays_whole(|other, _| {
        for n in 0..1_000 {
            other.set(&format!("other:{n}"), vec![b'x'; 900_000]);
        }
    });
}

#[test]
fn readers_that_go_in_the_middle_leave_nothing_behind() {
    check(|server| {
        let mut stays = server.connect();
        for key in ["one", "two", "three"] {
            stays.set(key, value_of(key, 1, LARGE));
        }
        for round in 0..90_usize {
            let mut goes = server.connect();
            goes.send(format!("get {}\r\n", ["one", "two", "three"][round % 3])).expect("it is read");
            if round % 2 == 0 {
                goes.read_exact(100_000).expect("a beginning");
            }
        }
        // With what was lent still held there would be no room for these.
        let value = value_of("key", 1, LARGE);
        for n in 0..60 {
            stays.set(&format!("key:{n}"), &value);
        }
        assert!(stays.get("key:59") == Some(value));
    });
}

#[test]
fn pipelined_gets_of_all_sizes_are_answered_in_order() {
    check(|server| {
        let mut random = SmallRng::seed_from_u64(11);
        let mut connection = server.connect();
        let sizes = [0, 100, 16_383, 16_384, 131_072, 262_144, 262_145, 2_000_000];
        for (n, size) in sizes.into_iter().enumerate() {
            connection.set(&format!("key:{n}"), value_of(&n.to_string(), 1, size));
        }
        for _ in 0..20 {
            let asked: Vec<usize> =
                (0..random.random_range(1..30)).map(|_| random.random_range(0..sizes.len())).collect();
            let lines: String = asked.iter().map(|n| format!("mg key:{n} v k\r\n")).collect();
            let mut writer = connection.stream().try_clone().expect("a second handle");
            let sending = thread::spawn(move || writer.write_all(lines.as_bytes()));
            for n in asked {
                let header = format!("VA {} kkey:{n}", sizes[n]);
                assert_eq!(connection.read_line().expect("a header"), header.as_bytes());
                let value = connection.read_exact(sizes[n]).expect("a value");
                assert!(value == value_of(&n.to_string(), 1, sizes[n]), "key:{n}");
                assert_eq!(connection.read_line().expect("an end"), b"");
            }
            sending.join().expect("it does not panic").expect("all is sent");
        }
    });
}

#[test]
fn values_of_all_sizes_are_answered_whole_however_many_are_asked_for_at_once() {
    check(|server| {
        let mut random = SmallRng::seed_from_u64(11);
        let mut connection = server.connect();
        let mut value = |key: &str| value_of(key, 0, random.random_range(32..40_000));
        let items: Vec<_> =
            (0..200).map(|number| format!("k{number}")).map(|key| (value(&key), key)).collect();
        items.iter().for_each(|(value, key)| connection.set(key, value));
        // More than may be owed to a connection, of which much comes from other shards: some of it copied, some lent, and what
        // is too much for a letter asked for again.
        for _round in 0..5 {
            let (mut lines, mut expected) = (Vec::new(), Vec::new());
            for _line in 0..6 {
                lines.extend_from_slice(b"get");
                for _key in 0..60 {
                    let (value, key) = &items[random.random_range(0..items.len())];
                    lines.extend_from_slice(format!(" {key}").as_bytes());
                    expected.extend(request(&format!("VALUE {key} 0 {}", value.len()), value, "\r\n"));
                }
                lines.extend_from_slice(b"\r\n");
                expected.extend_from_slice(b"END\r\n");
            }
            connection.send(&lines).expect("the server reads");
            assert!(connection.read_exact(expected.len()).expect("all of it comes") == expected);
        }
    });
}

/// Takes many turns to be written anew.
const LONG: usize = 8 << 20;

/// Has a value grow at both ends while its client asks for more, and sees every answer in its place.
fn check_growing(client: &mut Connection, key: &str, value: &[u8]) {
    client.set(key, value);
    let appends = (0..3).map(|n| format!("append {key} 0 0 3\r\n<{n}>\r\n"));
    let prepends = (0..3).map(|n| format!("ms {key} 3 MP\r\n[{n}]\r\n"));
    let rest = format!("mn\r\nget {key}\r\nappend {key} 0 0 1 noreply\r\n!\r\nmg {key} s\r\n");
    client.send([appends.chain(prepends).collect(), rest].concat()).expect("it is read");
    for expected in ["STORED", "STORED", "STORED", "HD", "HD", "HD", "MN"] {
        assert_eq!(client.read_line().expect("an answer"), expected.as_bytes(), "{key}");
    }
    let whole = [b"[2][1][0]", value, b"<0><1><2>"].concat();
    let header = format!("VALUE {key} 0 {}", whole.len());
    assert_eq!(client.read_line().expect("a line"), header.as_bytes());
    assert!(client.read_exact(whole.len()).expect("all of it") == whole, "{key} is not as it should be");
    assert_eq!(client.read_line().expect("the end"), b"");
    assert_eq!(client.read_line().expect("the end"), b"END");
    let size = format!("HD s{}", whole.len() + 1);
    assert_eq!(client.read_line().expect("an answer"), size.as_bytes(), "{key}");
}

#[test]
fn a_long_value_grows_and_nothing_that_its_client_asks_for_overtakes() {
    let value = b"seventeen letters".repeat(LONG / 17);
    check(|server| {
        let mut client = server.connect();
        ["one", "two", "three"].into_iter().for_each(|key| check_growing(&mut client, key, &value));
    });
}

#[test]
fn a_flush_waits_for_a_long_value_that_grows_and_for_what_stands_behind_it() {
    let value = vec![b'v'; 1 << 20];
    check(|server| {
        let mut client = server.connect();
        for n in 0..10 {
            client.set(&format!("key{n}"), &value);
            let keys: Vec<_> = (0..8).map(|m| format!("key{n}.{m}")).collect();
            let sets: String = keys.iter().map(|key| format!("set {key} 0 0 3\r\nold\r\n")).collect();
            client.send(format!("append key{n} 0 0 3\r\nend\r\n{sets}flush_all\r\n")).expect("it is read");
            for _ in 0..9 {
                assert_eq!(client.read_line().expect("an answer"), b"STORED");
            }
            assert_eq!(client.read_line().expect("an answer"), b"OK");
            assert!(keys.iter().all(|key| client.get(key).is_none()), "a flush has overtaken a set");
        }
    });
}

#[test]
fn whoever_goes_or_writes_while_a_long_value_grows_it_is_whole_and_no_memory_stays_held() {
    let old = vec![b'o'; LONG];
    let appended = |value: &[u8]| [value, b"end"].concat();
    check(|server| {
        let mut stays = server.connect();
        for round in 0..6_usize {
            // What one that goes has asked for may be done later.
            let key = format!("key:{round}");
            stays.set(&key, &old);
            let mut goes = server.connect();
            goes.send(format!("append {key} 0 0 3\r\nend\r\n")).expect("it is read");
            let first = if round < 3 {
                drop(goes);
                &old[..]
            } else {
                stays.set(&key, "new");
                assert_eq!(goes.read_line().expect("an answer"), b"STORED");
                b"new"
            };
            // Before or after what others did meanwhile: nothing in between.
            let now = stays.get(&key).expect("it is there");
            assert!(now == first || now == appended(first), "{key} is {} bytes long", now.len());
        }
        for n in 0..20 {
            stays.set(&format!("other:{n}"), &old);
        }
        // The last to be heard of may be a client that has gone.
        let mut looks = 0;
        while stays.stat("slabring_memory_held_bytes") > 0 {
            looks += 1;
            assert!(looks < 600, "memory is held for nobody");
            thread::sleep(Duration::from_millis(100));
        }
    });
}

#[test]
fn large_requests_that_are_wrong_are_refused_as_memcached_does_and_the_next_is_served() {
    const TOO_LARGE: usize = (32 << 20) + 1;
    const BAD_LINE: &str = "CLIENT_ERROR bad command line format";
    const ITEM_TOO_LARGE: &str = "SERVER_ERROR object too large for cache";
    // With how many bytes behind the line.
    let cases = [
        ("set KEY 0 0 33554433", TOO_LARGE, ITEM_TOO_LARGE),
        ("append KEY 0 0 33554433", TOO_LARGE, ITEM_TOO_LARGE),
        ("ms KEY 33554433", TOO_LARGE, ITEM_TOO_LARGE),
        ("append KEY 0 0 33554000", 33_554_000, "NOT_STORED"),
        ("ms KEY 70000 T0x", 70_000, "CLIENT_ERROR bad token in command line format"),
        ("ms KEY 70000 MX", 70_000, "CLIENT_ERROR invalid mode for ms M token"),
        ("ms KEY 70000 F4294967296x", 70_000, BAD_LINE),
        ("ms KEY 70000 b", 70_000, "CLIENT_ERROR error decoding key"),
        ("ms KEY 70000 C1 I MS", 70_000, "NF"),
        ("replace KEY 0 0 70000", 70_000, "NOT_STORED"),
        ("ms KEY 70000 E1 ME k", 70_000, "HD kKEY"),
        ("cas KEY 0 0 70000 2", 70_000, "EXISTS"),
        ("set KEY 0 -1 70000", 70_000, "STORED"),
        ("add KEY 4294967295 2147483647 70000", 70_000, "STORED"),
        ("append KEY 0 0 33500000", 33_500_000, "NOT_STORED"),
        ("prepend KEY 0 0 33400000", 33_400_000, "STORED"),
        ("set KEY 0 0 70000 again", 70_000, "STORED"),
    ];
    // Nothing follows: whoever sends such a line is not believed.
    let unbelieved = ["-1", "2147483647", "2147483648", "4294967296", "99999999999999999999", "0x10"];
    let bytes = vec![b'x'; TOO_LARGE];
    check(|server| {
        for key in ["one", "two"] {
            let mut client = server.connect();
            for (line, size, expected) in cases {
                client.send(request(&line.replace("KEY", key), &bytes[..size], "\r\n")).expect("it reads");
                let answer = client.read_line().expect("an answer");
                assert_eq!(answer, expected.replace("KEY", key).as_bytes(), "{line}");
                assert_eq!(client.command("mn"), "MN", "{line}");
            }
            for size in unbelieved {
                assert_eq!(client.command(&format!("set {key} 0 0 {size}")), BAD_LINE, "{size}");
                assert_eq!(client.command("mn"), "MN", "{size}");
            }
            assert_eq!(client.command(&format!("mg {key} s")), "HD s70000");
        }
    });
}
