//! Where the names of the ring lead. They are looked up on a thread of its own, since a resolver that does not answer takes many seconds,
//! in which the node has to renew its lease. An address that was found stays until another one is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use slabring_cluster::names::Address;
use slabring_cluster::ring::Ring;
use slabring_reactor::clock::Moment;
use tracing::{info, warn};

use super::News;

/// Names are looked up again this often.
pub const LOOK_UP_EVERY: Duration = Duration::from_secs(10);

/// For each name where it leads, with port 0; if anywhere.
pub type Found = BTreeMap<String, Option<SocketAddr>>;

/// What names are known.
#[derive(Debug, Default)]
pub struct Lookup {
    known: BTreeMap<String, SocketAddr>,
    /// Names that lead nowhere, which was told.
    told: BTreeSet<String>,
    is_under_way: bool,
    /// When the last one began.
    begun: Option<Moment>,
}

impl Lookup {
    /// Where the ring's addresses lead, as far as it is known.
    pub fn addresses(&self, ring: &Ring) -> BTreeMap<Address, SocketAddr> {
        let find = |address: &Address| match address.host().parse::<IpAddr>() {
            Ok(ip) => Some(SocketAddr::new(ip, address.port())),
            Err(_) => {
                let mut found = *self.known.get(address.host())?;
                found.set_port(address.port());
                Some(found)
            }
        };
        addresses_of(ring).filter_map(|address| Some((address.clone(), find(address)?))).collect()
    }

    /// Looks the ring's names up, unless that is under way; [`News::Found`] says what came of it.
    pub fn begin(&mut self, ring: &Ring, news: &SyncSender<News>) {
        let names = names_of(ring);
        if names.is_empty() || self.is_under_way {
            return;
        }
        self.begun = Some(Moment::now());
        let news = news.clone();
        let run = move || {
            let found = names.into_iter().map(|name| {
                let address = (name.as_str(), 0).to_socket_addrs().ok().and_then(|mut all| all.next());
                (name, address)
            });
            if news.send(News::Found(found.collect())).is_err() {
                tracing::debug!("the node ends");
            }
        };
        self.is_under_way = std::thread::Builder::new().name("look-up".into()).spawn(run).is_ok();
    }

    /// The same when it is time: a name may lead elsewhere by now.
    pub fn begin_again(&mut self, ring: &Ring, news: &SyncSender<News>) {
        if self.begun.is_none_or(|begun| Moment::now() >= begun.after(LOOK_UP_EVERY)) {
            self.begin(ring, news);
        }
    }

    /// Takes what was found. Each name that leads nowhere is told of once, and when it leads somewhere again. Begins anew if the ring has
    /// other names by now.
    pub fn hear(&mut self, found: Found, ring: &Ring, news: &SyncSender<News>) {
        self.is_under_way = false;
        let names = names_of(ring);
        let is_complete = names.iter().all(|name| found.contains_key(name));
        for (name, address) in found {
            self.take(name, address);
        }
        self.known.retain(|name, _| names.contains(name));
        self.told.retain(|name| names.contains(name));
        if !is_complete {
            self.begin(ring, news);
        }
    }

    fn take(&mut self, name: String, address: Option<SocketAddr>) {
        match address {
            Some(address) => {
                if self.told.remove(&name) {
                    info!("{name}: this machine knows the host again");
                }
                self.known.insert(name, address);
            }
            None if self.told.insert(name.clone()) => match self.known.get(&name) {
                Some(known) => {
                    warn!(
                        "{name}: this machine does not know the host any more: {} stays its address",
                        known.ip()
                    );
                }
                None => warn!(
                    "{name}: this machine does not know the host: its node is not reached until it does"
                ),
            },
            None => {}
        }
    }
}

fn addresses_of(ring: &Ring) -> impl Iterator<Item = &Address> {
    ring.document().slots.iter().flat_map(|slot| [&slot.peer, &slot.client])
}

fn names_of(ring: &Ring) -> BTreeSet<String> {
    let hosts = addresses_of(ring).map(Address::host);
    hosts.filter(|host| host.parse::<IpAddr>().is_err()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use slabring_cluster::ring::RingDocument;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn ring(hosts: &[&str]) -> Ring {
        let node =
            |(n, host): (u32, &&str)| format!("[[node]]\npeer = \"{host}:2{n}\"\nclient = \"{host}:1{n}\"\n");
        let text = format!("epoch = 1\n{}", (1..).zip(hosts).map(node).collect::<String>());
        Ring::new(RingDocument::from_toml(&text).expect("a document")).expect("a ring")
    }

    fn found(news: &Receiver<News>) -> Found {
        match news.recv_timeout(PATIENCE).expect("a look-up ends") {
            News::Found(found) => found,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_are_known_at_once_and_names_when_they_are_found() {
        let (sender, news) = sync_channel(4);
        let mut lookup = Lookup::default();
        let ring = ring(&["127.0.0.9", "localhost"]);
        lookup.begin(&ring, &sender);
        assert_eq!(lookup.addresses(&ring).len(), 2);
        lookup.hear(found(&news), &ring, &sender);
        let addresses = lookup.addresses(&ring);
        let ports: Vec<_> = addresses.values().map(SocketAddr::port).collect();
        assert!(
            ports.len() == 4 && [11, 21, 12, 22].iter().all(|port| ports.contains(port)),
            "{addresses:?}"
        );
        assert!(addresses.values().all(|address| address.ip().to_canonical().is_loopback()), "{addresses:?}");
    }

    #[test]
    fn an_address_stays_while_its_name_is_not_known() {
        let (sender, news) = sync_channel(4);
        let mut lookup = Lookup::default();
        let ring = ring(&["n1.test", "n2.test"]);
        let at = |text: &str| Some(text.parse::<SocketAddr>().expect("an address"));
        let found = |first, second| Found::from([("n1.test".into(), first), ("n2.test".into(), second)]);
        lookup.hear(found(at("10.0.0.1:0"), at("10.0.0.2:0")), &ring, &sender);
        let before = lookup.addresses(&ring);
        assert_eq!(before.len(), 4);
        lookup.hear(found(None, None), &ring, &sender);
        assert_eq!(lookup.addresses(&ring), before);
        lookup.hear(found(at("10.0.0.7:0"), None), &ring, &sender);
        let now = lookup.addresses(&ring);
        assert_ne!(now, before);
        assert!(now.values().any(|address| address.to_string() == "10.0.0.7:11"), "{now:?}");
        assert!(news.try_recv().is_err(), "nothing was left to look up");
    }

    #[test]
    fn names_that_came_while_others_were_looked_up_are_looked_up_next() {
        let (sender, news) = sync_channel(4);
        let mut lookup = Lookup::default();
        let (before, now) = (ring(&["127.0.0.9"]), ring(&["localhost"]));
        lookup.begin(&before, &sender);
        lookup.hear(Found::new(), &now, &sender);
        lookup.hear(found(&news), &now, &sender);
        assert_eq!(lookup.addresses(&now).len(), 2);
    }
}
