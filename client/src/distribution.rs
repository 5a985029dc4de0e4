//! Which server of a plain list has a key. Pure functions of the list and the key: the same on every machine, and the
//! same as in clients of other languages.

use md5::{Digest as _, Md5};
use slabring_cluster::jump::jump;
use slabring_cluster::placement::hash_key;

use crate::endpoint::{Endpoint, PORT_DEFAULT};

/// Points of a server on the unweighted ring. Source: libmemcached `MEMCACHED_POINTS_PER_SERVER`.
const POINTS_PER_SERVER: u32 = 100;

/// Points of a server of average weight on the weighted one. Source: `MEMCACHED_POINTS_PER_SERVER_KETAMA`.
const POINTS_PER_WEIGHTED_SERVER: f32 = 160.0;

/// Points that one digest makes on the weighted ring.
const POINTS_PER_DIGEST: u16 = 4;

/// How keys are spread over a plain list of servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// As libmemcached by default: Jenkins' one-at-a-time hash modulo the number of servers. Another server more or less
    /// moves nearly all keys.
    Modulo,
    /// Jump consistent hash of XXH3-64. A server more, at the end of the list, moves only the keys it gets.
    Jump,
    /// As libmemcached with `MEMCACHED_BEHAVIOR_KETAMA`, in pylibmc `ketama`: a ring of 100 points a server, made by the
    /// one-at-a-time hash. Weights do not count.
    #[default]
    Ketama,
    /// As libmemcached with `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`, in pylibmc `ketama_weighted`: a ring of 160 points a
    /// server on average, made by MD5, which spreads keys better.
    KetamaWeighted,
}

/// A list of servers, ready to be looked up.
#[derive(Clone, Debug)]
pub struct Placement {
    servers: usize,
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    Modulo,
    Jump,
    /// Points and the servers they belong to, by point, and the hash that makes a point of a key.
    Ketama(Vec<(u32, usize)>, fn(&[u8]) -> u32),
}

impl Placement {
    /// Places keys on `servers`, each with its weight: 1 to 65535 servers of weight 1 or more.
    ///
    /// Costs a sort of some hundred points for each server with ketama.
    pub fn new(servers: &[(Endpoint, u32)], distribution: Distribution) -> Self {
        assert!(!servers.is_empty(), "there is no server");
        assert!(u16::try_from(servers.len()).is_ok(), "at most 65535 servers");
        assert!(servers.iter().all(|(_, weight)| *weight > 0), "a server has a weight");
        let rule = match distribution {
            Distribution::Modulo => Rule::Modulo,
            Distribution::Jump => Rule::Jump,
            Distribution::Ketama => Rule::Ketama(sorted(unweighted_points(servers)), one_at_a_time),
            Distribution::KetamaWeighted => {
                Rule::Ketama(sorted(weighted_points(servers)), |key| point(&Md5::digest(key).into(), 0))
            }
        };
        Self { servers: servers.len(), rule }
    }

    /// The number of the server that has a key: its place in the list. A hash, and with ketama a binary search.
    pub fn server_of(&self, key: &[u8]) -> usize {
        let server = match &self.rule {
            Rule::Modulo => remainder(one_at_a_time(key), self.servers),
            Rule::Jump => {
                let servers = u16::try_from(self.servers).expect("asserted in `new`");
                usize::from(jump(hash_key(key), servers))
            }
            Rule::Ketama(points, hash) => {
                let hash = hash(key);
                let next = points.partition_point(|(point, _)| *point < hash);
                points[if next == points.len() { 0 } else { next }].1
            }
        };
        assert!(server < self.servers);
        server
    }
}

fn remainder(hash: u32, servers: usize) -> usize {
    let servers = u32::try_from(servers).expect("asserted in `new`");
    usize::try_from(hash % servers).expect("32 bits fit")
}

fn sorted(mut points: Vec<(u32, usize)>) -> Vec<(u32, usize)> {
    points.sort_unstable();
    points
}

fn unweighted_points(servers: &[(Endpoint, u32)]) -> Vec<(u32, usize)> {
    let points_of = |(index, (server, _)): (usize, &(Endpoint, u32))| {
        let name = name_on_ring(server);
        (0..POINTS_PER_SERVER).map(move |n| (one_at_a_time(format!("{name}-{n}").as_bytes()), index))
    };
    servers.iter().enumerate().flat_map(points_of).collect()
}

fn weighted_points(servers: &[(Endpoint, u32)]) -> Vec<(u32, usize)> {
    let total: u64 = servers.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut points = Vec::new();
    for (index, (server, weight)) in servers.iter().enumerate() {
        let name = name_on_ring(server);
        for n in 0..digests_of(*weight, total, servers.len()) {
            let digest = Md5::digest(format!("{name}-{n}")).into();
            points.extend((0..POINTS_PER_DIGEST).map(|part| (point(&digest, part), index)));
        }
    }
    points
}

/// How many digests a server gets. In single precision, as libmemcached reckons: another rounding moves keys.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the rounding is the contract: `update_continuum` in libmemcached's hosts.cc"
)]
fn digests_of(weight: u32, total: u64, servers: usize) -> u32 {
    let share = weight as f32 / total as f32;
    let points = share * POINTS_PER_WEIGHTED_SERVER / 4.0 * servers as f32;
    (f64::from(points) + 0.000_000_000_1).floor() as u32
}

/// A server's name in what is hashed: libmemcached leaves the usual port out.
fn name_on_ring(server: &Endpoint) -> String {
    match server {
        Endpoint::Tcp { host, port: PORT_DEFAULT } => host.to_string(),
        Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        Endpoint::Unix(path) => format!("{}:0", path.display()),
    }
}

/// Part `0..4` of a digest, as a little-endian number.
fn point(digest: &[u8; 16], part: u16) -> u32 {
    assert!(part < POINTS_PER_DIGEST);
    let start = usize::from(part) * size_of::<u32>();
    let bytes = digest[start..].first_chunk().expect("a digest has four parts");
    u32::from_le_bytes(*bytes)
}

/// Bob Jenkins' one-at-a-time hash. Source: libmemcached `libhashkit/one_at_a_time.cc`, whose `char` has a sign: bytes
/// from 128 on count as negative.
fn one_at_a_time(key: &[u8]) -> u32 {
    let mut hash = 0_u32;
    for &byte in key {
        hash = hash.wrapping_add_signed(i32::from(byte.cast_signed()));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

#[cfg(test)]
mod tests;
