//! A cache with more to keep than it may: what it drops, what it refuses, what it costs.
//! Each case also runs against the installed memcached, which shows that it asks for nothing unusual.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use slabring_tests::{Connection, Server};

/// Memory a server may need beside its items: code, stacks, buffers, index.
const OVERHEAD_MAX_KIB: u64 = 64 << 10;

/// Runs a case against memcached where it is installed and against Slabring, both with these arguments.
fn check(args: &[&str], case: impl Fn(&Server)) {
    if let Some(memcached) = Server::memcached(args) {
        case(&memcached);
    }
    let mut slabring = Server::start(args).expect("slabring starts");
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
            for n in 0..80_000_000 / (size + 400) {
                let key = format!("round:{round}:{n}");
                let answer = try_set(&mut connection, &key, &value_of(&key, size));
                assert_eq!(answer, "STORED", "{key}, {size} bytes");
            }
            let last = format!("round:{round}:{}", 80_000_000 / (size + 400) - 1);
            assert!(connection.get(&last) == Some(value_of(&last, size)), "{last} was set last");
        }
    });
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
        std::thread::sleep(std::time::Duration::from_millis(2_200));
        for n in 0..100 {
            assert_eq!(connection.get(&format!("old:{n}")), None);
        }
        for n in 0..150 {
            assert_eq!(try_set(&mut connection, &format!("new:{n}"), value.as_bytes()), "STORED", "new:{n}");
        }
    });
}
