use super::*;

/// What pylibmc answers. `tests/clients/placement_vectors.py` wrote it; the end-to-end test of the client asks again.
const LIBMEMCACHED: &str = include_str!("../../golden/libmemcached.txt");

fn list(words: &str) -> (Distribution, Vec<(Endpoint, u32)>) {
    let mut words = words.split(' ');
    let distribution = match words.next().unwrap() {
        "modulo" => Distribution::Modulo,
        "ketama" => Distribution::Ketama,
        "ketama_weighted" => Distribution::KetamaWeighted,
        other => panic!("no distribution: {other}"),
    };
    let server = |word: &str| {
        let (address, weight) = word.split_once('/').unwrap();
        (address.parse().unwrap(), weight.parse().unwrap())
    };
    (distribution, words.map(server).collect())
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn keys_are_where_libmemcached_puts_them() {
    let mut placement = None;
    let (mut keys, mut wrong) = (0, Vec::new());
    for line in LIBMEMCACHED.lines() {
        if let Some(words) = line.strip_prefix("list ") {
            let (distribution, servers) = list(words);
            placement = Some((Placement::new(&servers, distribution), words));
        } else if let Some(words) = line.strip_prefix("key ") {
            let (hex, server) = words.split_once(' ').unwrap();
            let (placement, list) = placement.as_ref().unwrap();
            keys += 1;
            if placement.server_of(&bytes(hex)).to_string() != server {
                wrong.push(format!("{list}: {hex} belongs to {server}"));
            }
        }
    }
    assert!(keys > 1_000, "{keys} vectors");
    assert!(wrong.is_empty(), "{} of {keys}, as {}", wrong.len(), wrong[0]);
}

#[test]
fn another_server_at_the_end_moves_only_what_it_gets() {
    let servers: Vec<_> = (1..=8).map(|port| (Endpoint::tcp("node", port), 1)).collect();
    for (distribution, moved_max) in [(Distribution::Jump, 0.15), (Distribution::Ketama, 0.2)] {
        let before = Placement::new(&servers[..7], distribution);
        let after = Placement::new(&servers, distribution);
        let mut moved = 0;
        for n in 0..10_000 {
            let key = format!("key:{n}");
            let (old, new) = (before.server_of(key.as_bytes()), after.server_of(key.as_bytes()));
            assert!(old == new || new == 7, "{key} moved from {old} to {new} by {distribution:?}");
            moved += u32::from(old != new);
        }
        assert!((0.08..moved_max).contains(&(f64::from(moved) / 10_000.0)), "{moved} by {distribution:?}");
    }
}
