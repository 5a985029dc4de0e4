//! What makes a node one of several: who they are, which of them this one is, and where they meet. Reads the ring file; opens
//! nothing.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use slabring_cluster::names::{Address, ClusterId, NodeId};
use slabring_cluster::ring::{Mode, Ring, RingDocument, SlotEntry, ZONE_BYTES_MAX};
use slabring_cluster::table::Weight;

use super::listen::Listen;
use super::sources::{Given, Origin};
use super::{EXIT_USAGE, Refused};
use slabring_etcd::EtcdAccess;

/// The name of a cluster that was given none.
const CLUSTER_DEFAULT: &str = "slabring";
/// Shards of a node as other nodes name them in a byte.
const THREADS_MAX: u16 = 256;
/// Options that mean nothing to a node that stands alone.
const FOR_CLUSTERS: [&str; 7] =
    ["node_id", "peer_listen", "cluster_secret_file", "cluster_id", "advertise", "replicas", "replication"];
/// Options that mean nothing where the ring is not in etcd.
const FOR_ETCD: [&str; 7] =
    ["etcd_cacert", "etcd_cert", "etcd_key", "etcd_user_file", "zone", "weight", "peer_advertise"];

/// A node's part in a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterSettings {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Where it listens for other nodes.
    pub listen: SocketAddr,
    /// Who keeps the ring.
    pub coordinator: CoordinatorSettings,
    /// File of what proves that a node belongs; none between nodes of one machine.
    pub secret_file: Option<PathBuf>,
}

/// Who keeps the ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CoordinatorSettings {
    /// Every node has it: there is no automatic fail-over.
    Local(RingDocument),
    /// An etcd.
    Etcd {
        /// `http://host:port` of each of its members.
        urls: Vec<String>,
        /// Where clients reach this node.
        client: Address,
        /// Where nodes reach it.
        peer: Address,
        /// Where it stands.
        zone: String,
        /// The share that it brings when it joins.
        weight: Weight,
        /// What etcd asks of who calls it.
        access: EtcdAccess,
        /// Copies in the first ring; the ring that is there says it from then on.
        replicas: u8,
        /// What its writes wait for.
        mode: Mode,
    },
}

impl ClusterSettings {
    /// Whether items have copies from the start.
    pub fn has_copies(&self) -> bool {
        let replicas = match &self.coordinator {
            CoordinatorSettings::Local(document) => document.replicas,
            CoordinatorSettings::Etcd { replicas, .. } => *replicas,
        };
        replicas > 1
    }

    /// Whether somebody decides on the ring while the nodes run.
    pub fn has_coordinator(&self) -> bool {
        matches!(self.coordinator, CoordinatorSettings::Etcd { .. })
    }
}

impl Given {
    /// The node's part in a cluster, if it has one.
    pub(super) fn cluster(
        &self,
        listen: &[Listen],
        threads: u16,
    ) -> Result<Option<ClusterSettings>, Refused> {
        if let Some(id) = ["peers", "etcd"].into_iter().find(|id| self.is_left_empty(id)) {
            return self.misuse(id, "names nobody; without it the node would stand alone");
        }
        // In a file, an empty list is none.
        let says = |id: &&str| match *id {
            "peers" => words(&self.arguments.peers).next().is_some(),
            "etcd" => words(&self.arguments.etcd).next().is_some(),
            _ => self.is_given(id),
        };
        let sources: Vec<_> = ["cluster", "peers", "etcd"].into_iter().filter(says).collect();
        if sources != ["etcd"]
            && let Some(id) = FOR_ETCD.into_iter().find(|id| self.is_given(id))
        {
            return self.misuse(id, "needs --etcd");
        }
        let settings = match sources[..] {
            [] => return self.stands_alone(),
            ["etcd"] => self.over_etcd(listen)?,
            ["peers"] => self.local(listen, self.peers_document(listen, threads)?)?,
            ["cluster"] => self.local(listen, self.file_document()?)?,
            [first, second, ..] => {
                let why =
                    format!("cannot be given with {}: one of them says who the nodes are", self.named(first));
                return self.misuse(second, &why);
            }
            [_] => unreachable!("these are all"),
        };
        if threads > THREADS_MAX {
            return self.misuse(
                sources[0],
                &format!("a node of a cluster has at most {THREADS_MAX} shard threads (-t)"),
            );
        }
        self.check_copies(sources[0], &settings, threads)?;
        if settings.secret_file.is_none() && !settings.listen.ip().is_loopback() {
            let why = format!(
                "{} is beyond this machine, so give --cluster-secret-file=FILE, the same 16 to 1024 bytes on all nodes",
                settings.listen
            );
            return self.misuse(sources[0], &why);
        }
        Ok(Some(settings))
    }

    /// What must hold where items have copies.
    fn check_copies(&self, source: &str, settings: &ClusterSettings, threads: u16) -> Result<(), Refused> {
        if !settings.has_copies() {
            return Ok(());
        }
        if self.arguments.disable_cas {
            return self.misuse("disable_cas", "items with copies need their CAS values");
        }
        let CoordinatorSettings::Local(document) = &settings.coordinator else { return Ok(()) };
        if document.slots.len() < usize::from(document.replicas) {
            let id = if self.is_given("replicas") { "replicas" } else { source };
            return self.misuse(id, "there are fewer nodes than copies");
        }
        let own = document.slots.iter().find(|slot| slot.node == settings.node);
        if own.is_some_and(|own| own.shards != threads) {
            return self.misuse(
                source,
                "with copies the file must say how many shards each node has (-t): shards = N",
            );
        }
        Ok(())
    }

    /// How many copies each item has, and what a write waits for.
    fn copies(&self) -> Result<(u8, Mode), Refused> {
        let replicas = self.arguments.replicas.unwrap_or(1);
        let mode = match self.arguments.replication.as_deref() {
            None => Mode::default_for(replicas),
            Some(_) if replicas < 2 => return self.misuse("replication", "needs --replicas=2 or more"),
            Some("async") => Mode::Async,
            Some("sync") => Mode::Sync,
            Some(_) => Mode::Inval,
        };
        Ok((replicas, mode))
    }

    /// Whether a list was given without anything in it, most likely by a variable that is not set.
    fn is_left_empty(&self, id: &str) -> bool {
        let is_empty = match id {
            "peers" => words(&self.arguments.peers).next().is_none(),
            _ => words(&self.arguments.etcd).next().is_none(),
        };
        is_empty && matches!(self.origin(id), Origin::Flag | Origin::Variable(_))
    }

    fn stands_alone(&self) -> Result<Option<ClusterSettings>, Refused> {
        match FOR_CLUSTERS.into_iter().find(|id| self.is_given(id)) {
            Some(id) => self.misuse(id, "needs --cluster, --peers or --etcd"),
            None => Ok(None),
        }
    }

    fn secret_file(&self) -> Option<PathBuf> {
        self.arguments.cluster_secret_file.as_ref().map(|path| self.path(path))
    }

    /// A value of a form of its own.
    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        id: &str,
        text: &str,
    ) -> Result<T, Refused> {
        text.parse().map_err(|error| self.refuse(id, &format!("{text:?}: {error}"), EXIT_USAGE))
    }

    fn cluster_id(&self) -> Result<ClusterId, Refused> {
        let text = self.arguments.cluster_id.as_deref().unwrap_or(CLUSTER_DEFAULT);
        self.parsed("cluster_id", text).map(ClusterId)
    }

    fn file_document(&self) -> Result<RingDocument, Refused> {
        const ID: &str = "cluster";
        if self.is_given("cluster_id") {
            return self.misuse("cluster_id", "the file of --cluster names the cluster");
        }
        if let Some(id) = ["replicas", "replication"].into_iter().find(|id| self.is_given(id)) {
            return self.misuse(id, "the file of --cluster says it: replicas = N, mode = MODE");
        }
        let path = self.path(self.arguments.cluster.as_deref().expect("it is given"));
        let cannot = |error: &dyn std::fmt::Display| self.refuse(ID, &error.to_string(), EXIT_USAGE);
        let text = std::fs::read_to_string(&path).map_err(|error| cannot(&error))?;
        RingDocument::from_toml(&text).map_err(|error| cannot(&one_line(&error.to_string())))
    }

    /// `PEER` or `PEER=CLIENT`, each `host:port`.
    fn peers_document(&self, listen: &[Listen], threads: u16) -> Result<RingDocument, Refused> {
        const ID: &str = "peers";
        let own_port = listen.first().map_or(0, |listen| listen.address.port());
        let mut pairs = Vec::new();
        for word in words(&self.arguments.peers) {
            let (peer, client) = word.split_once('=').unwrap_or((word, ""));
            let peer: Address = self.parsed(ID, peer)?;
            let client = match client {
                "" if own_port == 0 => {
                    return self
                        .misuse(ID, &format!("{word}: say where its clients connect: {word}=HOST:PORT"));
                }
                "" => with_port(&peer, own_port),
                text => self.parsed(ID, text)?,
            };
            pairs.push((peer, client));
        }
        let document = RingDocument::from_peers(pairs)
            .map_err(|error| self.refuse(ID, &error.to_string(), EXIT_USAGE))?;
        let (replicas, mode) = self.copies()?;
        let mut document = RingDocument { cluster: self.cluster_id()?, replicas, mode, ..document };
        if replicas > 1 {
            // Copies go from shard to shard, so all must know how many there are: the same number everywhere.
            document.slots.iter_mut().for_each(|slot| slot.shards = threads);
        }
        Ok(document)
    }

    fn local(&self, listen: &[Listen], document: RingDocument) -> Result<ClusterSettings, Refused> {
        let id = if self.is_given("peers") { "peers" } else { "cluster" };
        Ring::new(document.clone())
            .map_err(|error| self.refuse(id, &one_line(&error.to_string()), EXIT_USAGE))?;
        let own = self.own_slot(listen, &document)?;
        let (node, peer) = (own.node.clone(), own.peer.to_string());
        let listen = self.peer_listen(&peer)?;
        Ok(ClusterSettings {
            cluster: document.cluster.clone(),
            node,
            listen,
            coordinator: CoordinatorSettings::Local(document),
            secret_file: self.secret_file(),
        })
    }

    /// Which of the nodes this one is: by its name, or by an address of its own.
    fn own_slot<'d>(&self, listen: &[Listen], document: &'d RingDocument) -> Result<&'d SlotEntry, Refused> {
        if let Some(text) = &self.arguments.node_id {
            let node = NodeId(self.parsed("node_id", text)?);
            let own = document.slots.iter().find(|slot| slot.node == node);
            return own.ok_or_else(|| self.refuse("node_id", "no node has that name", EXIT_USAGE));
        }
        if let Some(text) = &self.arguments.peer_listen {
            let address: Address = self.parsed("peer_listen", text)?;
            if let Some(own) = document.slots.iter().find(|slot| slot.peer == address) {
                return Ok(own);
            }
        }
        let is_here = |slot: &&SlotEntry| {
            let ip = slot.peer.host().parse::<IpAddr>();
            ip.is_ok_and(|ip| listen.iter().any(|listen| listen.address.ip() == ip))
        };
        let mut here = document.slots.iter().filter(is_here);
        match (here.next(), here.next()) {
            (Some(own), None) => Ok(own),
            _ => {
                let id = if self.is_given("peers") { "peers" } else { "cluster" };
                Err(self.refuse(
                    id,
                    "which of the nodes is this one? give --node-id or --peer-listen",
                    EXIT_USAGE,
                ))
            }
        }
    }

    fn over_etcd(&self, listen: &[Listen]) -> Result<ClusterSettings, Refused> {
        let urls: Vec<_> =
            words(&self.arguments.etcd).map(|word| word.trim_end_matches('/').to_owned()).collect();
        let is_url = |url: &&String| {
            let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            rest.is_some_and(|rest| rest.parse::<Address>().is_ok())
        };
        if let Some(url) = urls.iter().find(|url| !is_url(url)) {
            return self
                .misuse("etcd", &format!("{url:?} is neither http://HOST:PORT nor https://HOST:PORT"));
        }
        if urls.is_empty() {
            return self.misuse("etcd", "give http://HOST:PORT of each of its members");
        }
        let Some(inside) = &self.arguments.peer_listen else {
            return self.misuse("etcd", "other nodes must find this one: give --peer-listen=HOST:PORT");
        };
        let inside: Address = self.parsed("peer_listen", inside)?;
        let peer = match &self.arguments.peer_advertise {
            Some(text) => self.parsed("peer_advertise", text)?,
            None => inside.clone(),
        };
        let client = match (&self.arguments.advertise, listen.first()) {
            (Some(text), _) => self.parsed("advertise", text)?,
            (None, Some(listen)) if !listen.address.ip().is_unspecified() && listen.address.port() != 0 => {
                self.parsed("listen", &listen.address.to_string())?
            }
            _ => return self.misuse("etcd", "clients must find this node: give --advertise=HOST:PORT"),
        };
        let node = self.arguments.node_id.clone().unwrap_or_else(|| peer.to_string());
        let (replicas, mode) = self.copies()?;
        Ok(ClusterSettings {
            cluster: self.cluster_id()?,
            node: NodeId(self.parsed("node_id", &node)?),
            listen: self.peer_listen(&inside.to_string())?,
            coordinator: CoordinatorSettings::Etcd {
                access: self.etcd_access(&urls)?,
                zone: self.zone()?,
                weight: self.arguments.weight.map_or(Weight::FULL, Weight::new),
                urls,
                client,
                peer,
                replicas,
                mode,
            },
            secret_file: self.secret_file(),
        })
    }

    fn zone(&self) -> Result<String, Refused> {
        let zone = self.arguments.zone.clone().unwrap_or_default();
        if zone.len() > ZONE_BYTES_MAX || zone.chars().any(char::is_control) {
            return self.misuse("zone", &format!("must be a text of at most {ZONE_BYTES_MAX} bytes"));
        }
        Ok(zone)
    }

    /// The files that etcd makes necessary. They are read once here, so that a mistake is told at the start.
    fn etcd_access(&self, urls: &[String]) -> Result<EtcdAccess, Refused> {
        let file = |text: &Option<String>| text.as_ref().map(|path| self.path(path));
        let arguments = &self.arguments;
        let (certificates, key) = (file(&arguments.etcd_cert), file(&arguments.etcd_key));
        let access = EtcdAccess {
            authorities: file(&arguments.etcd_cacert),
            identity: certificates.clone().zip(key.clone()),
            login: file(&arguments.etcd_user_file),
        };
        let is_secured = urls.iter().all(|url| url.starts_with("https://"));
        if access.authorities.is_some() != urls.iter().any(|url| url.starts_with("https://"))
            || access.authorities.is_some() && !is_secured
        {
            return self
                .misuse("etcd", "https:// needs --etcd-cacert, and is for all of its members or none");
        }
        if certificates.is_some() != key.is_some() || key.is_some() && !is_secured {
            return self.misuse("etcd", "--etcd-cert and --etcd-key go together, with https://");
        }
        let check = urls.iter().try_for_each(|url| access.tls(url).map(drop)).and_then(|()| access.login());
        check.map_err(|error| self.refuse("etcd", &error, EXIT_USAGE))?;
        Ok(access)
    }

    /// Where to listen for other nodes: as told, else where the ring says they look.
    fn peer_listen(&self, by_ring: &str) -> Result<SocketAddr, Refused> {
        let text = self.arguments.peer_listen.as_deref().unwrap_or(by_ring);
        let found = text.to_socket_addrs().ok().and_then(|mut found| found.next());
        found.ok_or_else(|| {
            self.refuse(
                "peer_listen",
                &format!("{text:?} is not an address of this machine: HOST:PORT"),
                EXIT_USAGE,
            )
        })
    }
}

/// The words of lists, each with commas or without.
fn words(lists: &[String]) -> impl Iterator<Item = &str> {
    lists.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty())
}

fn with_port(address: &Address, port: u16) -> Address {
    let host = address.host();
    let text = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    text.parse().expect("a host that is good for one port is good for another")
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
