//! Which of several servers owns a key, as the clients that people have decide it. Pure arithmetic over a table; who the
//! servers of a cluster are is `ring.rs`'s affair.

use std::sync::Arc;

use clap::ValueEnum;
use slabring_client::{Distribution, Placement};
use slabring_cluster::placement::{PARTITION_COUNT, PartitionId, hash_key, partition_of, shard_of};
use slabring_cluster::ring::Ring;

use crate::failure::Failure;
use crate::target::endpoint;

/// How keys are spread over servers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Scheme {
    /// As libmemcached by default: a hash modulo the number of servers
    Modulo,
    /// Jump consistent hash of XXH3
    Jump,
    /// As libmemcached with MEMCACHED_BEHAVIOR_KETAMA (pylibmc: ketama)
    Ketama,
    /// As libmemcached with MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED and equal weights, which is what most clients call ketama
    KetamaWeighted,
    /// One server, a port for each shard: ADDR's and the ones after it
    Shard,
    /// A Slabring cluster: any of its nodes is asked for the ring, which is followed while it changes
    Ring,
}

/// Keys to servers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    One,
    Shard(u16),
    List(Arc<Placement>),
    Ring(Arc<Map>),
}

impl Route {
    /// `names` are the servers as they were given, HOST:PORT; those of a ring make a [`Map`].
    pub(crate) fn new(scheme: Scheme, names: &[String]) -> Result<Self, Failure> {
        let count = u16::try_from(names.len()).expect("the command line allows fewer");
        assert!(count > 0);
        let distribution = match scheme {
            _ if count == 1 => return Ok(Self::One),
            Scheme::Shard => return Ok(Self::Shard(count)),
            Scheme::Ring => unreachable!("a ring makes its own route"),
            Scheme::Modulo => Distribution::Modulo,
            Scheme::Jump => Distribution::Jump,
            Scheme::Ketama => Distribution::Ketama,
            Scheme::KetamaWeighted => Distribution::KetamaWeighted,
        };
        let servers =
            names.iter().map(|name| Ok((endpoint(name)?, 1))).collect::<Result<Vec<_>, Failure>>()?;
        Ok(Self::List(Arc::new(Placement::new(&servers, distribution))))
    }

    /// The number of the server that owns `key`.
    #[inline]
    pub(crate) fn owner(&self, key: &[u8]) -> usize {
        match self {
            Self::One => 0,
            Self::Shard(count) => shard_of(hash_key(key), *count).into(),
            Self::List(placement) => placement.server_of(key),
            Self::Ring(map) => map.owner(key),
        }
    }

    pub(crate) fn is_one(&self) -> bool {
        matches!(self, Self::One)
    }
}

/// Where one partition's keys are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Place {
    /// The node's server, or that of its first shard.
    first: u16,
    /// Servers of the node: 1, or one for each shard.
    shards: u16,
}

/// A ring as a table of servers: 64 KiB.
#[derive(Debug)]
pub(crate) struct Map {
    places: Vec<Place>,
}

impl Map {
    /// `number` gives the server of a node's slot and how many the node has: one, or one for each shard.
    pub(crate) fn new(ring: &Ring, number: impl Fn(usize) -> (u16, u16)) -> Self {
        let place = |partition: PartitionId| {
            let (first, shards) = number(usize::from(ring.primary(partition).0));
            assert!(shards > 0);
            Place { first, shards }
        };
        Self { places: PartitionId::all().map(place).collect() }
    }

    fn owner(&self, key: &[u8]) -> usize {
        const _: () = assert!(PARTITION_COUNT <= 1 << 16);
        let hash = hash_key(key);
        let Place { first, shards } = self.places[partition_of(hash).index()];
        usize::from(first) + usize::from(shard_of(hash, shards))
    }
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
        let route = Route::new(Scheme::KetamaWeighted, &names()).unwrap();
        let owners: Vec<usize> = (0..10).map(|n| route.owner(format!("k{n:015}").as_bytes())).collect();
        assert_eq!(owners, [2, 3, 0, 0, 1, 3, 1, 3, 0, 3]);
    }

    #[test]
    fn every_scheme_uses_every_server_about_alike() {
        use Scheme::{Jump, Ketama, KetamaWeighted, Modulo, Shard};
        for scheme in [Modulo, Jump, Ketama, KetamaWeighted, Shard] {
            let route = Route::new(scheme, &names()).unwrap();
            let mut seen = [0_u32; 4];
            (0..40_000).for_each(|n| seen[route.owner(format!("key{n}").as_bytes())] += 1);
            assert!(seen.iter().all(|count| (6_000..14_000).contains(count)), "{scheme:?} {seen:?}");
        }
        assert!(Route::new(Ketama, &names()[..1]).unwrap().is_one());
        assert!(Route::new(Jump, &["a b:1".into(), "c:2".into()]).is_err());
    }
}
