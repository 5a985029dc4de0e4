//! The client for tasks on tokio: the same core as `blocking.rs`, on other sockets.
//!
//! A future that is dropped closes the connections it was using: nothing half read is left behind.

mod locks;

use std::future::Future;
use std::panic;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slabring_cluster::ring::RingDocument;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

use crate::async_stream::AsyncStream;
use crate::call::{Batch, Call, Step, merge, split};
use crate::command::{Answer, CasToken, Command, Direction, Item, StoreMode, StoreOptions, Stored};
use crate::endpoint::Endpoint;
use crate::error::{Error, Failure};
use crate::key::Key;
use crate::lease::{self, FillError, Lease, LeaseOptions, Lookup};
use crate::meta::{MetaReply, MetaRequest, MetaStatus};
use crate::options::{Options, Servers, after};
use crate::pool::Taken;
use crate::shared::{Ending, Shared, Slot, Waker};
use crate::ttl::Ttl;

/// How long a task waits before it looks again whether somebody else has filled an item.
const FILL_POLL: Duration = Duration::from_millis(10);

/// A client for tasks. Cheap to clone; clones share connections. The calls are those of [`Client`](crate::Client).
///
/// ```
/// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
/// use std::time::Duration;
/// use slabring_client::{AsyncClient, Options, Servers};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = fake::Server::start();
/// # let address = server.address();
/// let client = AsyncClient::new(&Servers::one(&address)?, Options::default());
/// client.set("greeting", "hello", Duration::from_secs(60)).await?;
/// let item = client.get("greeting").await?.expect("it was just set");
/// assert_eq!(item.value, b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AsyncClient {
    shared: Arc<AsyncShared>,
}

type AsyncShared = Shared<AsyncStream, Notify>;

impl Waker for Notify {
    fn wake(&self) {
        self.notify_waiters();
    }
}

/// A connection in use.
struct Held {
    slot: Slot<AsyncStream, Notify>,
    stream: AsyncStream,
    is_fresh: bool,
}

impl AsyncClient {
    /// A client of these servers. Connects to none of them yet.
    pub fn new(servers: &Servers, options: Options) -> Self {
        Self { shared: Arc::new(Shared::new(servers, options, Notify::new())) }
    }

    /// The item, `None` if there is none.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused, at the last try that [`Options`] allow.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Get { key, cas: false }).await?.item())
    }

    /// The item with its version, for [`Self::cas`].
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused, at the last try that [`Options`] allow.
    pub async fn gets(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Get { key, cas: true }).await?.item())
    }

    /// The items of many keys, in the order of the keys; each server is asked once, all at the same time.
    ///
    /// # Errors
    /// Each key has its own result, as of [`Self::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Option<Item>, Error>> {
        let commands = keys.into_iter().map(|key| Ok(Command::Get { key: self.key(key)?, cas: false }));
        let commands: Vec<_> = commands.collect();
        self.ask_each(commands).await.into_iter().map(|answer| answer.map(Answer::item)).collect()
    }

    /// The item, which lives for another while from now on.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub async fn get_and_touch(
        &self,
        key: impl AsRef<[u8]>,
        ttl: impl Into<Ttl>,
    ) -> Result<Option<Item>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::GetAndTouch { key, ttl: ttl.into(), cas: false }).await?.item())
    }

    /// Stores a value, whatever there was.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub async fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
    ) -> Result<Stored, Error> {
        self.store(StoreMode::Set, key, value, options).await
    }

    /// Stores a value if the item is still of the version that [`Self::gets`] told.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub async fn cas(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
        token: CasToken,
    ) -> Result<Stored, Error> {
        self.store(StoreMode::Cas(token), key, value, options).await
    }

    /// Stores a value as `mode` says.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub async fn store(
        &self,
        mode: StoreMode,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
    ) -> Result<Stored, Error> {
        let key = self.key(key)?;
        let command = Command::Store { mode, key, value: value.into(), options: options.into() };
        Ok(self.ask(command).await?.stored())
    }

    /// Removes an item. Says whether there was one.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Delete { key }).await?.found())
    }

    /// Adds to a decimal number, wrapping at 2^64. `None` if there is no item.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    /// A value that is no number is refused.
    pub async fn incr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Count { key, delta, direction: Direction::Up }).await?.number())
    }

    /// Takes from a decimal number, down to 0. `None` if there is no item.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    /// A value that is no number is refused.
    pub async fn decr(&self, key: impl AsRef<[u8]>, delta: u64) -> Result<Option<u64>, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Count { key, delta, direction: Direction::Down }).await?.number())
    }

    /// Lets an item live for another while. Says whether there is one.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub async fn touch(&self, key: impl AsRef<[u8]>, ttl: impl Into<Ttl>) -> Result<bool, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Touch { key, ttl: ttl.into() }).await?.found())
    }

    /// Sends a meta command.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub async fn meta(&self, key: impl AsRef<[u8]>, request: MetaRequest) -> Result<MetaReply, Error> {
        let key = self.key(key)?;
        Ok(self.ask(Command::Meta { key, request }).await?.meta())
    }

    /// The item, or the lease to fill it, given to one client at a time.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused. Where it may have been executed, the lease may be nobody's
    /// until [`LeaseOptions::hold`] is over.
    pub async fn get_or_lease(&self, key: impl AsRef<[u8]>, options: &LeaseOptions) -> Result<Lookup, Error> {
        let key = self.key(key)?;
        let reply = self.ask(lease::lookup(key.clone(), options)).await?.meta();
        Ok(lease::found(key, reply))
    }

    /// Fills an item with the lease for it. `false` if it was written or deleted meanwhile: the value is not stored.
    ///
    /// # Errors
    /// [`Error`]: the server failed or refused. [`Error::executed`] says whether the value may be stored all the same.
    pub async fn fill(
        &self,
        lease: Lease,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
    ) -> Result<bool, Error> {
        Ok(self.ask(lease.fill(value.into(), options.into())).await?.stored().is_stored())
    }

    /// Gives a lease back unused: the next one who asks gets it.
    ///
    /// # Errors
    /// [`Error`]: the server failed or refused. The lease then ends by itself, after [`LeaseOptions::hold`].
    pub async fn release(&self, lease: Lease) -> Result<(), Error> {
        self.ask(lease.release()).await.map(|_| ())
    }

    /// Marks an item as old: for `grace` it is served as stale, and one client gets the lease to fill it anew.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub async fn invalidate(&self, key: impl AsRef<[u8]>, grace: Duration) -> Result<bool, Error> {
        let reply = self.ask(lease::invalidate(self.key(key)?, grace)).await?.meta();
        Ok(reply.status == MetaStatus::Done)
    }

    /// The value, made by `fill` if there is none: by one client at a time, while the others wait for it.
    ///
    /// Who has waited for [`LeaseOptions::hold`] makes the value for itself and does not store it. A value that was made is returned
    /// also when it could not be stored.
    ///
    /// # Errors
    /// [`FillError::Cache`]: nobody said whether there is a value, and `fill` was not called. [`FillError::Fill`]: what `fill` returned.
    pub async fn get_or_fill<E>(
        &self,
        key: impl AsRef<[u8]>,
        leases: &LeaseOptions,
        options: impl Into<StoreOptions>,
        fill: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<Vec<u8>, FillError<E>> {
        let patience = after(Instant::now(), leases.hold);
        let lease = loop {
            match self.get_or_lease(key.as_ref(), leases).await? {
                Lookup::Hit(item) | Lookup::Stale(item) => return Ok(item.value),
                Lookup::Lease(lease) => break lease,
                Lookup::Awaited if Instant::now() >= patience => return fill.await.map_err(FillError::Fill),
                Lookup::Awaited => sleep(FILL_POLL).await,
            }
        };
        match fill.await {
            Ok(value) => {
                // The caller has a value, whether or not it could be kept.
                self.fill(lease, value.clone(), options).await.ok();
                Ok(value)
            }
            Err(error) => {
                // Not released, it ends by itself: the caller's own error says more.
                self.release(lease).await.ok();
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
    pub async fn pipeline(&self, commands: impl IntoIterator<Item = Command>) -> Vec<Result<Answer, Error>> {
        self.ask_each(commands.into_iter().map(Ok).collect()).await
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
    pub async fn flush(&self, delay_seconds: u32) -> Vec<(Endpoint, Result<(), Error>)> {
        self.ask_all(&Command::Flush { delay_seconds }, Answer::done).await
    }

    /// What version each server says it is.
    ///
    /// # Errors
    /// Each server has its own result: one that fails takes no other along.
    pub async fn versions(&self) -> Vec<(Endpoint, Result<String, Error>)> {
        self.ask_all(&Command::Version, Answer::version).await
    }

    /// Statistics of each server; of a topic, as `items`, unless it is empty. Panics if a topic is not made of words.
    ///
    /// # Errors
    /// Each server has its own result: one that fails takes no other along.
    pub async fn stats(&self, topic: &str) -> Vec<(Endpoint, Result<Vec<(String, String)>, Error>)> {
        self.ask_all(&Command::stats(topic), Answer::stats).await
    }

    /// The servers: of a cluster, those that serve, as far as is known.
    pub fn servers(&self) -> Vec<Endpoint> {
        self.shared.lock().router.servers()
    }

    /// The ring of the cluster as it is now, as far as any server tells; `None` if they have none.
    ///
    /// # Errors
    /// [`Error`] of the server that was asked last, if none answers.
    pub async fn ring(&self) -> Result<Option<RingDocument>, Error> {
        let servers = self.shared.servers_to_ask_for_ring();
        let mut result = Ok(());
        for server in servers {
            // Whatever is asked of a cluster brings the ring along when it is due.
            let versions = self.run(vec![(Command::Version, Some(server))]).await;
            result = versions.into_iter().try_for_each(|result| result.map(drop));
            if result.is_ok() {
                break;
            }
        }
        result.map(|()| self.shared.ring())
    }

    async fn ask(&self, command: Command) -> Result<Answer, Error> {
        self.run(vec![(command, None)]).await.pop().expect("one command, one result")
    }

    /// Asks all whose key is one.
    async fn ask_each(&self, commands: Vec<Result<Command, Error>>) -> Vec<Result<Answer, Error>> {
        let (asked, refused) = split(commands);
        let answers = self.run(asked).await;
        merge(refused, answers)
    }

    /// Asks every server the same.
    async fn ask_all<T>(
        &self,
        command: &Command,
        read: fn(Answer) -> T,
    ) -> Vec<(Endpoint, Result<T, Error>)> {
        if self.shared.knows_only_seeds() {
            // Nobody tells it: then the seeds are asked, and each says itself what is wrong.
            self.ring().await.ok();
        }
        let servers = self.servers();
        let commands = servers.iter().map(|server| (command.clone(), Some(server.clone()))).collect();
        let results = self.run(commands).await.into_iter().map(|result| result.map(read));
        servers.into_iter().zip(results).collect()
    }

    async fn run(&self, commands: Vec<(Command, Option<Endpoint>)>) -> Vec<Result<Answer, Error>> {
        let mut call = Call::new(commands, self.shared.now_and_timeout());
        loop {
            match self.shared.step(&mut call) {
                Step::Done => return call.finish().collect(),
                Step::Wait(time) => sleep(time).await,
                Step::Exchange(batches) => self.exchange(&mut call, batches).await,
            }
        }
    }

    async fn exchange(&self, call: &mut Call, mut batches: Vec<Batch>) {
        let last = batches.pop().expect("a step asks at least one server");
        // Dropped with this future, they end too.
        let mut others: JoinSet<_> =
            batches.into_iter().map(|batch| exchange(Arc::clone(&self.shared), batch)).collect();
        let (batch, failure) = exchange(Arc::clone(&self.shared), last).await;
        self.shared.settle(call, batch, failure.as_ref());
        while let Some(joined) = others.join_next().await {
            let (batch, failure) = joined.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()));
            self.shared.settle(call, batch, failure.as_ref());
        }
    }
}

async fn exchange(shared: Arc<AsyncShared>, mut batch: Batch) -> (Batch, Option<Failure>) {
    let result = match connection(&shared, &batch.server, batch.deadline).await {
        Ok(mut held) => {
            let driven = timeout_at(batch.deadline.into(), held.stream.drive(&mut batch.exchange)).await;
            give_back(held, &batch, driven.unwrap_or(Err(Failure::Late)))
        }
        Err(failure) => Err(failure),
    };
    (batch, result.err())
}

/// A connection to a server: one that waits, a new one, or one that another task gives back in time.
async fn connection(
    shared: &Arc<AsyncShared>,
    server: &Endpoint,
    deadline: Instant,
) -> Result<Held, Failure> {
    loop {
        let freed = shared.waker.notified();
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
                return match AsyncStream::connect(server, &shared.options, deadline).await {
                    Ok(stream) => Ok(Held { slot, stream, is_fresh: true }),
                    Err(failure) => {
                        slot.fail();
                        Err(failure)
                    }
                };
            }
            Taken::None => timeout_at(deadline.into(), freed).await.map_err(|_| Failure::Busy)?,
            Taken::Down(time) => return Err(Failure::Down(time)),
        }
    }
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
