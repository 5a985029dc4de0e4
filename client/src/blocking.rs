//! The client for threads. A call returns when all its answers are there, or its time is over.

mod locks;
mod near;
mod talks;

pub use near::NearClient;

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slabring_cluster::ring::RingDocument;

use crate::call::{Batch, Call, Step, merge, split};
use crate::command::{Answer, CasToken, Command, Direction, Item, StoreMode, StoreOptions, Stored};
use crate::dump::KeyEntry;
use crate::endpoint::Endpoint;
use crate::error::{Error, Failure};
use crate::key::Key;
use crate::lease::{self, FillError, Lease, LeaseOptions, Lookup};
use crate::meta::{MetaReply, MetaRequest, MetaStatus};
use crate::options::{Options, Servers, after};
use crate::pool::Taken;
use crate::shared::{Ending, Shared, Slot, Waker};
use crate::stream::Stream;
use crate::ttl::Ttl;

/// How long a caller waits before it looks again whether somebody else has filled an item.
const FILL_POLL: Duration = Duration::from_millis(10);

/// A client for threads. Cheap to clone; clones share connections.
///
/// ```
/// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
/// use std::time::Duration;
/// use slabring_client::{Client, Options, Servers};
///
/// # let server = fake::Server::start();
/// # let address = server.address();
/// let client = Client::new(&Servers::one(&address)?, Options::default());
/// client.set("greeting", "hello", Duration::from_secs(60))?;
/// let item = client.get("greeting")?.expect("it was just set");
/// assert_eq!(item.value, b"hello");
/// assert_eq!(client.get("nothing")?, None);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<BlockingShared>,
}

type BlockingShared = Shared<Stream, Freed>;
type BlockingSlot = Slot<Stream, Freed>;

/// Tells waiting threads that a connection was given back: a count, so that none is missed.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Freed {
    fn count(&self) -> u64 {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the count is another than `seen`, or until the deadline.
    fn wait(&self, seen: u64, deadline: Instant) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(count, left, |count| *count == seen);
        drop(waited);
    }
}

impl Waker for Freed {
    fn wake(&self) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.wrapping_add(1);
        self.changed.notify_all();
    }
}

/// A connection in use.
struct Held {
    slot: BlockingSlot,
    stream: Stream,
    is_fresh: bool,
}

impl Client {
    /// A client of these servers. Connects to none of them yet.
    pub fn new(servers: &Servers, options: Options) -> Self {
        Self { shared: Arc::new(Shared::new(servers, options, Freed::default())) }
    }

    /// The item, `None` if there is none.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused, at the last try that [`Options`] allow.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Get { key, cas: false })?.item())
    }

    /// The item with its version, for [`Self::cas`].
    ///
    /// ```
    /// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
    /// # use slabring_client::{Client, Options, Servers, Stored, Ttl};
    /// # let server = fake::Server::start();
    /// # let client = Client::new(&Servers::one(&server.address())?, Options::default());
    /// client.set("stock", "5", Ttl::Never)?;
    /// let item = client.gets("stock")?.expect("it was just set");
    /// assert_eq!(client.cas("stock", "4", Ttl::Never, item.cas)?, Stored::Stored);
    /// assert_eq!(client.cas("stock", "3", Ttl::Never, item.cas)?, Stored::Exists);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused, at the last try that [`Options`] allow.
    pub fn gets(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Get { key, cas: true })?.item())
    }

    /// The items of many keys, in the order of the keys; each server is asked once, all at the same time.
    ///
    /// A server that fails takes only its own keys with it.
    ///
    /// ```
    /// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
    /// # use slabring_client::{Client, Distribution, Error, Options, Servers, Ttl};
    /// # let (one, two) = (fake::Server::start(), fake::Server::start());
    /// # let addresses = [one.address(), two.address()];
    /// let servers = Servers::list(addresses.iter().map(String::as_str), Distribution::Ketama)?;
    /// let client = Client::new(&servers, Options::default());
    /// client.set("a", "1", Ttl::Never)?;
    /// client.set("b", "2", Ttl::Never)?;
    /// let items: Vec<_> = client.get_many(["a", "nothing", "b"]).into_iter().collect::<Result<_, Error>>()?;
    /// let values: Vec<_> = items.into_iter().map(|item| item.map(|item| item.value)).collect();
    /// assert_eq!(values, [Some(b"1".to_vec()), None, Some(b"2".to_vec())]);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Each key has its own result, as of [`Self::get`].
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Option<Item>, Error>> {
        let commands = keys.into_iter().map(|key| Ok(Command::Get { key: self.key(key)?, cas: false }));
        self.ask_each(commands).into_iter().map(|answer| answer.map(Answer::item)).collect()
    }

    /// The item, which lives for another while from now on.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn get_and_touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<Option<Item>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::GetAndTouch { key, ttl: ttl.into(), cas: false })?.item())
    }

    /// Stores a value, whatever there was. Takes a [`Duration`], a [`Ttl`] or [`StoreOptions`].
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
    ) -> Result<Stored, Error> {
        self.store(StoreMode::Set, key, value, options)
    }

    /// Stores a value if there is none.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn add(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
    ) -> Result<Stored, Error> {
        self.store(StoreMode::Add, key, value, options)
    }

    /// Stores a value if there is one.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
    ) -> Result<Stored, Error> {
        self.store(StoreMode::Replace, key, value, options)
    }

    /// Puts bytes behind the value there is.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn append(&self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<Stored, Error> {
        self.store(StoreMode::Append, key, value, StoreOptions::default())
    }

    /// Puts bytes before the value there is.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn prepend(&self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<Stored, Error> {
        self.store(StoreMode::Prepend, key, value, StoreOptions::default())
    }

    /// Stores a value if the item is still of the version that [`Self::gets`] told.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn cas(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
        token: CasToken,
    ) -> Result<Stored, Error> {
        self.store(StoreMode::Cas(token), key, value, options)
    }

    /// Stores a value as `mode` says.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn store(
        &self,
        mode: StoreMode,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
    ) -> Result<Stored, Error> {
        let key = self.key(key)?;
        let command = Command::Store { mode, key, value: value.into(), options: options.into() };
        Ok(self.ask(command)?.stored())
    }

    /// Removes an item. Says whether there was one.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Delete { key })?.found())
    }

    /// Adds to a decimal number, wrapping at 2^64. `None` if there is no item.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    /// A value that is no number is refused.
    pub fn incr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Count { key, delta, direction: Direction::Up })?.number())
    }

    /// Takes from a decimal number, down to 0. `None` if there is no item.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    /// A value that is no number is refused.
    pub fn decr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Count { key, delta, direction: Direction::Down })?.number())
    }

    /// Lets an item live for another while. Says whether there is one.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Touch { key, ttl: ttl.into() })?.found())
    }

    /// Sends a meta command.
    ///
    /// ```
    /// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
    /// # use slabring_client::{Client, MetaRequest, MetaStatus, Options, Servers, Ttl};
    /// # let server = fake::Server::start();
    /// # let client = Client::new(&Servers::one(&server.address())?, Options::default());
    /// client.set("k", "value", Ttl::Never)?;
    /// let reply = client.meta("k", MetaRequest::get().flag(b's').flag(b'v'))?;
    /// assert_eq!((reply.status, reply.number(b's')), (MetaStatus::Value, Some(5)));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn meta(&self, key: impl AsRef<[u8]>, request: MetaRequest) -> Result<MetaReply, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Meta { key, request })?.meta())
    }

    /// The item, or the lease to fill it, given to one client at a time.
    ///
    /// ```
    /// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
    /// # use slabring_client::{Client, LeaseOptions, Lookup, Options, Servers, Ttl};
    /// # let server = fake::Server::start();
    /// # let client = Client::new(&Servers::one(&server.address())?, Options::default());
    /// # let leases = LeaseOptions::default();
    /// let Lookup::Lease(lease) = client.get_or_lease("page", &leases)? else { panic!("nobody else asks") };
    /// assert_eq!(client.get_or_lease("page", &leases)?, Lookup::Awaited);
    /// assert!(client.fill(lease, "<html>", Ttl::Never)?);
    /// assert!(matches!(client.get_or_lease("page", &leases)?, Lookup::Hit(_)));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused. Where it may have been executed, the lease may be nobody's
    /// until [`LeaseOptions::hold`] is over.
    pub fn get_or_lease(&self, key: impl AsRef<[u8]>, options: &LeaseOptions) -> Result<Lookup, Error> {
        let key = self.key(key)?;
        let reply = self.ask(lease::lookup(key.clone(), options))?.meta();
        Ok(lease::found(key, reply))
    }

    /// Fills an item with the lease for it. `false` if it was written or deleted meanwhile: the value is not stored.
    ///
    /// # Errors
    /// [`Error`]: the server failed or refused. [`Error::executed`] says whether the value may be stored all the same.
    pub fn fill(
        &self,
        lease: Lease,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
    ) -> Result<bool, Error> {
        Ok(self.ask(lease.fill(value.into(), options.into()))?.stored().is_stored())
    }

    /// Gives a lease back unused: the next one who asks gets it.
    ///
    /// # Errors
    /// [`Error`]: the server failed or refused. The lease then ends by itself, after [`LeaseOptions::hold`].
    pub fn release(&self, lease: Lease) -> Result<(), Error> {
        self.ask(lease.release()).map(|_| ())
    }

    /// Marks an item as old: for `grace`, at most 30 days, it is served as stale, and one client gets the lease to fill it anew. Says
    /// whether there was one.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn invalidate(&self, key: impl AsRef<[u8]>, grace: Duration) -> Result<bool, Error> {
        let reply = self.ask(lease::invalidate(self.key(key)?, grace))?.meta();
        Ok(reply.status == MetaStatus::Done)
    }

    /// The value, made by `fill` if there is none: by one client at a time, while the others wait for it.
    ///
    /// Who has waited for [`LeaseOptions::hold`] makes the value for itself and does not store it. A value that was made is returned
    /// also when it could not be stored.
    ///
    /// # Errors
    /// [`FillError::Cache`]: nobody said whether there is a value, and `fill` was not called. [`FillError::Fill`]: what `fill` returned.
    pub fn get_or_fill<E>(
        &self,
        key: impl AsRef<[u8]>,
        leases: &LeaseOptions,
        options: impl Into<StoreOptions>,
        fill: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, FillError<E>> {
        let patience = after(Instant::now(), leases.hold);
        loop {
            match self.get_or_lease(key.as_ref(), leases)? {
                Lookup::Hit(item) | Lookup::Stale(item) => return Ok(item.value),
                Lookup::Lease(lease) => return self.fill_leased(lease, options.into(), fill),
                Lookup::Awaited if Instant::now() >= patience => return fill().map_err(FillError::Fill),
                Lookup::Awaited => thread::sleep(FILL_POLL),
            }
        }
    }

    fn fill_leased<E>(
        &self,
        lease: Lease,
        options: StoreOptions,
        fill: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, FillError<E>> {
        match fill() {
            Ok(value) => {
                // The caller has a value, whether or not it could be kept.
                self.fill(lease, value.clone(), options).ok();
                Ok(value)
            }
            Err(error) => {
                // Not released, it ends by itself: the caller's own error says more.
                self.release(lease).ok();
                Err(FillError::Fill(error))
            }
        }
    }

    /// Sends many commands at once, each to its server, and returns their answers in the same order.
    ///
    /// Panics if a command has no key.
    ///
    /// # Errors
    /// Each command has its own result: [`Error::executed`] says whether it may be done all the same.
    pub fn pipeline(&self, commands: impl IntoIterator<Item = Command>) -> Vec<Result<Answer, Error>> {
        self.ask_each(commands.into_iter().map(Ok))
    }

    /// A key for a [`Command`] of a pipeline.
    ///
    /// # Errors
    /// [`Error::Key`]: no key of memcached's, or not one that [`Options::wire`] can say.
    pub fn key(&self, key: impl AsRef<[u8]>) -> Result<Key, Error> {
        Ok(Key::new(key.as_ref(), self.shared.options.wire)?)
    }

    /// Empties every server, now or after some seconds.
    ///
    /// # Errors
    /// Each server has its own result: [`Error::executed`] says whether it may be emptied all the same.
    pub fn flush(&self, delay_seconds: u32) -> Vec<(Endpoint, Result<(), Error>)> {
        self.ask_all(&Command::Flush { delay_seconds }, Answer::done)
    }

    /// What version each server says it is.
    ///
    /// # Errors
    /// Each server has its own result: one that fails takes no other along.
    pub fn versions(&self) -> Vec<(Endpoint, Result<String, Error>)> {
        self.ask_all(&Command::Version, Answer::version)
    }

    /// Statistics of each server; of a topic, as `items`, unless it is empty. Panics if a topic is not made of words.
    ///
    /// # Errors
    /// Each server has its own result: one that fails takes no other along.
    #[expect(clippy::type_complexity, reason = "it is what it says")]
    pub fn stats(&self, topic: &str) -> Vec<(Endpoint, Result<Vec<(String, String)>, Error>)> {
        self.ask_all(&Command::stats(topic), Answer::stats)
    }

    /// All keys of each server. Held in memory whole, about 150 bytes for each; more than [`Options::reply_size_max`] from one
    /// server is an error.
    ///
    /// # Errors
    /// Each server has its own result: one that fails takes no other along.
    pub fn keys(&self) -> Vec<(Endpoint, Result<Vec<KeyEntry>, Error>)> {
        self.ask_all(&Command::Keys, Answer::keys)
    }

    /// The servers: of a cluster, those that serve, as far as is known.
    pub fn servers(&self) -> Vec<Endpoint> {
        self.shared.lock().router.servers()
    }

    /// Servers that failed and are left alone at the moment.
    pub fn resting_servers(&self) -> Vec<Endpoint> {
        self.shared.lock().resting()
    }

    /// The ring of the cluster as it is now, as far as any server tells; `None` if they have none.
    ///
    /// # Errors
    /// [`Error`] of the server that was asked last, if none answers.
    pub fn ring(&self) -> Result<Option<RingDocument>, Error> {
        let servers = self.shared.servers_to_ask_for_ring();
        let mut result = Ok(());
        for server in servers {
            // Whatever is asked of a cluster brings the ring along when it is due.
            result = self
                .run([(Command::Version, Some(server))])
                .into_iter()
                .try_for_each(|result| result.map(drop));
            if result.is_ok() {
                break;
            }
        }
        result.map(|()| self.shared.ring())
    }

    fn ask(&self, command: Command) -> Result<Answer, Error> {
        self.run([(command, None)]).pop().expect("one command, one result")
    }

    /// Asks all whose key is one.
    fn ask_each(&self, commands: impl Iterator<Item = Result<Command, Error>>) -> Vec<Result<Answer, Error>> {
        let (asked, refused) = split(commands.collect());
        merge(refused, self.run(asked))
    }

    /// Asks every server the same.
    fn ask_all<T>(&self, command: &Command, read: fn(Answer) -> T) -> Vec<(Endpoint, Result<T, Error>)> {
        if self.shared.knows_only_seeds() {
            // Nobody tells it: then the seeds are asked, and each says itself what is wrong.
            self.ring().ok();
        }
        let servers = self.servers();
        let commands = servers.iter().map(|server| (command.clone(), Some(server.clone())));
        let results = self.run(commands);
        servers.iter().cloned().zip(results.into_iter().map(|result| result.map(read))).collect()
    }

    fn run(
        &self,
        commands: impl IntoIterator<Item = (Command, Option<Endpoint>)>,
    ) -> Vec<Result<Answer, Error>> {
        let mut call = Call::new(commands, self.shared.now_and_timeout());
        loop {
            match self.shared.step(&mut call) {
                Step::Done => return call.finish().collect(),
                Step::Wait(time) => thread::sleep(time),
                Step::Exchange(batches) => self.exchange(&mut call, batches),
            }
        }
    }

    fn exchange(&self, call: &mut Call, batches: Vec<Batch>) {
        for (batch, failure) in self.talk(batches) {
            self.shared.settle(call, batch, failure.as_ref());
        }
    }

    fn start(&self, batch: &mut Batch) -> Result<Held, Failure> {
        let mut held = self.connection(&batch.server, batch.deadline)?;
        match held.stream.send(&mut batch.exchange, batch.deadline) {
            Ok(()) => Ok(held),
            Err(failure) => Err(give_back(held, batch, Err(failure)).expect_err("it failed")),
        }
    }

    /// A connection to a server: one that waits, a new one, or one that another thread gives back in time.
    fn connection(&self, server: &Endpoint, deadline: Instant) -> Result<Held, Failure> {
        let shared = &self.shared;
        loop {
            let seen = shared.waker.count();
            let taken = shared.lock().take(server, &shared.options);
            match taken {
                Taken::Idle(stream) => {
                    let slot = Slot::new(shared, server);
                    if stream.is_quiet() {
                        return Ok(Held { slot, stream, is_fresh: false });
                    }
                }
                Taken::New => {
                    let slot = Slot::new(shared, server);
                    return match Stream::connect(server, &shared.options, deadline) {
                        Ok(stream) => Ok(Held { slot, stream, is_fresh: true }),
                        Err(failure) => {
                            slot.fail();
                            Err(as_unreachable(failure))
                        }
                    };
                }
                Taken::None if Instant::now() < deadline => shared.waker.wait(seen, deadline),
                Taken::None => return Err(Failure::Busy),
                Taken::Down(time) => return Err(Failure::Down(time)),
            }
        }
    }
}

/// Before a connection is made nothing was asked on it, whatever failed.
pub(crate) fn as_unreachable(failure: Failure) -> Failure {
    match failure {
        Failure::Late => Failure::Unreachable("it does not answer in time".to_owned()),
        Failure::Lost(reason) | Failure::Rubbish(reason) => Failure::Unreachable(reason),
        other => other,
    }
}

fn end(mut held: Held, batch: &mut Batch) -> Result<(), Failure> {
    let result = held.stream.drive(&mut batch.exchange, batch.deadline);
    give_back(held, batch, result)
}

fn give_back(held: Held, batch: &Batch, result: Result<(), Failure>) -> Result<(), Failure> {
    match Ending::of(batch, result.as_ref().err(), held.is_fresh) {
        Ending::Kept => held.slot.put_back(held.stream),
        Ending::Closed => drop(held),
        Ending::Blamed => held.slot.fail(),
    }
    result
}

#[cfg(test)]
mod tests;
