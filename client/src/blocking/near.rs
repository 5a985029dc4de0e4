//! A client that keeps copies of what it reads, for threads: a thread for each server listens to what changes there. The core is
//! `near.rs`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Client;
use crate::command::{CasToken, Command, Item, StoreOptions, Stored};
use crate::endpoint::Endpoint;
use crate::error::{Error, Failure};
use crate::key::Key;
use crate::meta::{MetaReply, MetaRequest, MetaStatus};
use crate::near::{Line, Look, Near, NearCounts, NearOptions};
use crate::options::{Options, after};
use crate::stream::Stream;

/// Pauses between two tries to listen to a server: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Failed tries to listen to a server, with nobody asking for it, after which it is left alone: some 3 seconds.
const IDLE_TRIES_MAX: u32 = 5;
/// Longest line of a server: two numbers and the longest key.
const LINE_SIZE_MAX: usize = 512;

/// A client that keeps copies of what it reads, as long as the server says that they are fresh.
///
/// A copy is at most as old as a server may be silent ([`NearOptions::silence_max`], 3 s), and usually some milliseconds. What this client
/// writes it reads at once. Needs Slabring servers; with others it reads as [`Client`] does.
///
/// ```
/// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
/// # use slabring_client::{Client, NearClient, NearOptions, Options, Servers, Ttl};
/// # let server = fake::Server::start();
/// let client = Client::new(&Servers::one(&server.address())?, Options::default());
/// let near = NearClient::new(client, NearOptions::default());
/// near.set("greeting", "hello", Ttl::Never)?;
/// assert_eq!(near.get("greeting")?.expect("it was just set").value, b"hello");
/// println!("{:?}", near.counts());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct NearClient {
    client: Client,
    shared: Arc<NearShared>,
}

#[derive(Debug)]
struct NearShared {
    near: Mutex<Near>,
    /// Servers that a thread listens to, and whether somebody read from there without copies since it tried last.
    followed: Mutex<HashMap<Endpoint, bool>>,
    is_over: AtomicBool,
    options: NearOptions,
}

impl NearShared {
    /// A panic while the lock was held was an assertion about one call.
    fn near(&self) -> MutexGuard<'_, Near> {
        self.near.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<Endpoint, bool>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NearClient {
    /// Keeps copies of what `client` reads through it.
    pub fn new(client: Client, options: NearOptions) -> Self {
        let near = Mutex::new(Near::new(options));
        let (followed, is_over) = Default::default();
        Self { client, shared: Arc::new(NearShared { near, followed, is_over, options }) }
    }

    /// The client beneath, for all that has no copies. What it writes is told by the server, as what others write.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The item, `None` if there is none. A copy has the version that the item had.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or there is no copy and its server failed or refused.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Item>, Error> {
        let key = self.client.key(key)?;
        let server = self.server_of(&key);
        let look = self.shared.near().look(&key, &server, Instant::now());
        match look {
            Look::Hit(item) => Ok(Some(item)),
            Look::Ask { id, token } => self.fetch(&key, id, token),
            Look::Bypass => {
                self.follow(&server);
                Ok(self.client.ask(Command::Get { key, cas: true })?.item())
            }
        }
    }

    /// Stores a value; what is read from here on is not older.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same. The copy is dropped in any case.
    pub fn set(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
    ) -> Result<Stored, Error> {
        let key = self.client.key(key)?;
        let result = self.client.set(key.as_bytes(), value, options);
        self.shared.near().forget(&key);
        result
    }

    /// Removes an item; what is read from here on is not older. Says whether there was one.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same. The copy is dropped in any case.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = self.client.key(key)?;
        let result = self.client.delete(key.as_bytes());
        self.shared.near().forget(&key);
        result
    }

    /// Drops the copy of a key, for who has changed it through another client and knows.
    ///
    /// # Errors
    /// [`Error::Key`]: the key cannot name an item.
    pub fn forget(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        let key = self.client.key(key)?;
        self.shared.near().forget(&key);
        Ok(())
    }

    /// What became of reads and copies so far.
    pub fn counts(&self) -> NearCounts {
        self.shared.near().counts
    }

    fn server_of(&self, key: &Key) -> Endpoint {
        let shared = &self.client.shared;
        shared.lock().router.server_of(key.as_bytes(), &[], &shared.options)
    }

    /// Asks, and keeps the answer if whoever gave it knows the number: a server of other keys, or another life of it, does not.
    fn fetch(&self, key: &Key, id: u64, token: u64) -> Result<Option<Item>, Error> {
        let request = MetaRequest::get().flag(b'v').flag(b'f').flag(b'c').flag(b't').flag_with(b'L', id);
        let result = self.client.ask(Command::Meta { key: key.clone(), request }).map(crate::Answer::meta);
        let mut near = self.shared.near();
        match result {
            Ok(reply) if reply.status == MetaStatus::Value => {
                let item = item_of(&reply);
                if reply.flag(b'L').is_some() {
                    near.fill(key, token, &item, ttl_of(&reply), Instant::now());
                } else {
                    near.give_up(key, token);
                }
                Ok(Some(item))
            }
            other => {
                near.give_up(key, token);
                other.map(|_| None)
            }
        }
    }

    /// Has a thread listen to a server, unless one does.
    fn follow(&self, server: &Endpoint) {
        let mut followed = self.shared.followed();
        if followed.insert(server.clone(), true).is_some() {
            return;
        }
        let (shared, server) = (Arc::clone(&self.shared), server.clone());
        let options = self.client.shared.options.clone();
        let name = format!("near {server}");
        let started = {
            let (shared, server) = (Arc::clone(&shared), server.clone());
            thread::Builder::new().name(name).spawn(move || shared.follow(&server, &options))
        };
        if started.is_err() {
            // Without a thread there are no copies; the next read tries again.
            followed.remove(&server);
        }
    }
}

impl Drop for NearClient {
    /// Its threads end when they hear the next word, within a second or so.
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl NearShared {
    fn follow(&self, server: &Endpoint, options: &Options) {
        let (mut pause, mut idle_tries) = (PAUSE_MIN, 0);
        while !self.is_over.load(Ordering::Relaxed) {
            let begun_at = Instant::now();
            // Whatever the reason: without the link there are no copies, and it is tried again.
            self.listen(server, options).err();
            self.near().lost(server);
            pause = if begun_at.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            thread::sleep(pause);
            let was_up = pause == PAUSE_MIN;
            idle_tries = if self.take_wanted(server) || was_up { 0 } else { idle_tries + 1 };
            if idle_tries >= IDLE_TRIES_MAX && self.leave(server) {
                return;
            }
        }
    }

    /// Whether somebody asked for a server since the last call.
    fn take_wanted(&self, server: &Endpoint) -> bool {
        self.followed().get_mut(server).is_some_and(std::mem::take)
    }

    /// Follows a server no longer, unless somebody asks for it this very moment. The next read from there begins anew.
    fn leave(&self, server: &Endpoint) -> bool {
        let mut followed = self.followed();
        let is_unwanted = followed.get(server) == Some(&false);
        if is_unwanted {
            followed.remove(server);
        }
        is_unwanted
    }

    /// Listens until the link ends, or what is said makes no sense.
    fn listen(&self, server: &Endpoint, options: &Options) -> Result<(), Failure> {
        let asked_at = Instant::now();
        let mut stream = Stream::connect(server, options, after(asked_at, self.options.silence_max))?;
        let asked_at = Instant::now();
        stream.send_bytes(b"track on\r\n", after(asked_at, self.options.silence_max))?;
        let mut input = Vec::new();
        while !self.is_over.load(Ordering::Relaxed) {
            input.extend_from_slice(stream.receive_bytes(after(Instant::now(), self.options.silence_max))?);
            let mut rest = &input[..];
            while let Some(end) = memchr::memchr(b'\n', rest) {
                let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
                let rubbish = || Failure::Rubbish(line.escape_ascii().to_string());
                let line = Line::parse(line).ok_or_else(rubbish)?;
                if !self.near().heard(server, line, asked_at, Instant::now()) {
                    return Err(Failure::Rubbish("a gap in what the server tells".to_owned()));
                }
                rest = &rest[end + 1..];
            }
            let left = rest.len();
            if left > LINE_SIZE_MAX {
                return Err(Failure::Rubbish("a line without an end".to_owned()));
            }
            input.drain(..input.len() - left);
        }
        Ok(())
    }
}

fn item_of(reply: &MetaReply) -> Item {
    let flags = reply.number(b'f').and_then(|flags| u32::try_from(flags).ok()).unwrap_or_default();
    let cas = CasToken(reply.number(b'c').unwrap_or_default());
    Item { value: reply.value.clone().unwrap_or_default(), flags, cas }
}

/// How long the item lives; `None` is for ever.
fn ttl_of(reply: &MetaReply) -> Option<Duration> {
    reply.number(b't').map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Servers;

    #[test]
    fn a_server_that_is_gone_and_that_nobody_asks_for_has_no_thread() {
        let server = crate::fake::nobody().to_string();
        let client = Client::new(&Servers::one(&server).unwrap(), Options::default());
        let near = NearClient::new(client, NearOptions::default());
        near.get("key").unwrap_err();
        assert_eq!(near.shared.followed().len(), 1);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !near.shared.followed().is_empty() {
            assert!(Instant::now() < deadline, "it is followed for ever");
            thread::sleep(PAUSE_MIN);
        }
        near.get("key").unwrap_err();
        assert_eq!(near.shared.followed().len(), 1, "the next read begins anew");
    }
}
