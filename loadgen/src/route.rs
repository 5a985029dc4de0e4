//! Which of several servers owns a key, as the clients that people have decide it. Pure arithmetic over a table.

use clap::ValueEnum;
use md5::{Digest, Md5};
use slabring_cluster::jump::jump;
use slabring_cluster::placement::{hash_key, shard_of};

/// Digests on the circle for each server, and points that each digest gives.
///
/// Source: libmemcached 1.1.4, `MEMCACHED_POINTS_PER_SERVER_KETAMA` and `update_continuum`.
const KETAMA_DIGESTS: u32 = 40;
const POINTS_PER_DIGEST: usize = 4;

/// Port whose mention libmemcached leaves out of a server's name on the circle.
const PORT_DEFAULT: &str = "11211";

/// How keys are spread over servers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Scheme {
    /// Jump consistent hash of XXH3
    Jump,
    /// As libmemcached with MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED and equal weights, which is what most clients call ketama
    Ketama,
    /// One server, a port for each shard: ADDR's and the ones after it
    Shard,
}

/// Keys to servers.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    One,
    Jump(u16),
    Shard(u16),
    Ketama(Vec<(u32, u16)>),
}

impl Route {
    /// `names` are the servers as they were given, HOST:PORT.
    pub(crate) fn new(scheme: Scheme, names: &[String]) -> Self {
        let count = u16::try_from(names.len()).expect("the command line allows fewer");
        assert!(count > 0);
        match scheme {
            _ if count == 1 => Self::One,
            Scheme::Jump => Self::Jump(count),
            Scheme::Shard => Self::Shard(count),
            Scheme::Ketama => Self::Ketama(circle(names)),
        }
    }

    /// The number of the server that owns `key`.
    #[inline]
    pub(crate) fn owner(&self, key: &[u8]) -> usize {
        match self {
            Self::One => 0,
            Self::Jump(count) => jump(hash_key(key), *count).into(),
            Self::Shard(count) => shard_of(hash_key(key), *count).into(),
            Self::Ketama(circle) => {
                let hash = word(&Md5::digest(key), 0);
                let at = circle.partition_point(|(point, _)| *point < hash);
                circle[if at == circle.len() { 0 } else { at }].1.into()
            }
        }
    }

    pub(crate) fn is_one(&self) -> bool {
        matches!(self, Self::One)
    }
}

fn circle(names: &[String]) -> Vec<(u32, u16)> {
    let mut circle = Vec::new();
    for (server, name) in (0..).zip(names) {
        let name = name.strip_suffix(PORT_DEFAULT).and_then(|host| host.strip_suffix(':')).unwrap_or(name);
        for number in 0..KETAMA_DIGESTS {
            let digest = Md5::digest(format!("{name}-{number}"));
            circle.extend((0..POINTS_PER_DIGEST).map(|part| (word(&digest, part), server)));
        }
    }
    circle.sort_unstable();
    circle
}

/// Four bytes of a digest, least significant first.
fn word(digest: &[u8], part: usize) -> u32 {
    let bytes = digest[4 * part..].first_chunk().expect("a digest has four parts");
    u32::from_le_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:22122", "cache-four:11211"].map(String::from).into()
    }

    #[test]
    fn ketama_gives_a_key_the_server_that_libmemcached_gives_it() {
        // `pylibmc.Client(names, behaviors={"ketama_weighted": True}).hash(key)` of pylibmc 1.6.3.
        let route = Route::new(Scheme::Ketama, &names());
        let owners: Vec<usize> = (0..10).map(|n| route.owner(format!("k{n:015}").as_bytes())).collect();
        assert_eq!(owners, [2, 3, 0, 0, 1, 3, 1, 3, 0, 3]);
    }

    #[test]
    fn every_scheme_uses_every_server_about_alike() {
        for scheme in [Scheme::Jump, Scheme::Ketama, Scheme::Shard] {
            let route = Route::new(scheme, &names());
            let mut seen = [0_u32; 4];
            (0..40_000).for_each(|n| seen[route.owner(format!("key{n}").as_bytes())] += 1);
            assert!(seen.iter().all(|count| (6_000..14_000).contains(count)), "{scheme:?} {seen:?}");
        }
        assert!(Route::new(Scheme::Ketama, &names()[..1]).is_one());
    }
}
