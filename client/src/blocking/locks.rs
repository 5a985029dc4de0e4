//! Locks and writes under a fence, for threads. The core is `lock.rs`.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use super::Client;
use crate::command::StoreOptions;
use crate::error::Error;
use crate::lock::{self, Acquisition, Fenced, Lock, LockOptions, Renewing, Tried};
use crate::options::after;

impl Client {
    /// The lock of this name, `None` if somebody else holds it all the while.
    ///
    /// A lock alone excludes nobody: name its [fence](Lock::fence) with every write that it protects, as
    /// [`Client::set_fenced`] does. What is protected must be on a server that knows fences, which memcached does not.
    ///
    /// ```
    /// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
    /// # use slabring_client::{Client, Fenced, LockOptions, Options, Servers, Ttl};
    /// # let server = fake::Server::start();
    /// # let client = Client::new(&Servers::one(&server.address())?, Options::default());
    /// let options = LockOptions::default();
    /// let first = client.lock("report:lock", &options)?.expect("nobody else asks");
    /// assert_eq!(client.lock("report:lock", &options)?, None);
    /// assert_eq!(client.set_fenced("report", "by the first", Ttl::Never, first.fence())?, Fenced::Done);
    ///
    /// // The first is paused for so long that its lock ends, and another gets it.
    /// client.delete("report:lock")?;
    /// let second = client.lock("report:lock", &options)?.expect("it is free");
    /// assert_eq!(client.set_fenced("report", "by the second", Ttl::Never, second.fence())?, Fenced::Done);
    ///
    /// // The first goes on and does not know: its write is refused.
    /// assert_eq!(client.set_fenced("report", "old", Ttl::Never, first.fence())?, Fenced::Overtaken);
    /// assert!(!client.renew_lock(&first)?);
    /// assert!(client.unlock(second)?);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or the last try within [`LockOptions::wait`] failed.
    /// [`Error::NoVersions`]: the server has no fences to give. One whose [effect](Error::executed) is unknown may have left the lock
    /// held: it ends after its time.
    pub fn lock(&self, key: impl AsRef<[u8]>, options: &LockOptions) -> Result<Option<Lock>, Error> {
        let mut acquisition = Acquisition::new(self.key(key)?, options);
        let until = after(Instant::now(), options.wait);
        loop {
            match self.try_lock(&mut acquisition) {
                Ok(Tried::Held(lock)) => return Ok(Some(lock)),
                Ok(Tried::Taken) if Instant::now() >= until => return Ok(None),
                Err(error) if Instant::now() >= until => return Err(error),
                Ok(Tried::Taken) | Err(_) => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            thread::sleep(acquisition.next_pause().min(left));
        }
    }

    fn try_lock(&self, acquisition: &mut Acquisition) -> Result<Tried, Error> {
        let answer = self.ask(acquisition.command()).map(crate::Answer::meta);
        match acquisition.tried(answer)? {
            Some(tried) => Ok(tried),
            None => acquisition.looked(&self.ask(acquisition.look())?.meta()),
        }
    }

    /// Holds a lock for another [while](Lock::ttl). `false`: it was lost. The [fence](Lock::fence) stays, but where items have copies: it
    /// rises there.
    ///
    /// # Errors
    /// [`Error`]: the server failed or refused, and the lock may be held or not. It is worth another try until its time is over.
    pub fn renew_lock(&self, lock: &Lock) -> Result<bool, Error> {
        loop {
            let how = lock.renewing();
            let answer = self.ask(lock.renewal(how)).map(crate::Answer::meta);
            if let Some(is_held) = lock.renewed(how, answer)? {
                return Ok(is_held);
            }
        }
    }

    /// Gives a lock up. `false`: it was lost before.
    ///
    /// # Errors
    /// [`Error`]: the server failed or refused. The lock then ends by itself, after its time.
    pub fn unlock(&self, lock: Lock) -> Result<bool, Error> {
        if lock.renewing() == Renewing::Look {
            let found = self.ask(lock.renewal(Renewing::Look)).map(crate::Answer::meta);
            if lock.renewed(Renewing::Look, found)? == Some(false) {
                return Ok(false);
            }
        }
        Ok(lock::was_held(&self.ask(lock::release(lock))?.meta()))
    }

    /// Does some work while holding a lock, which a thread of its own renews meanwhile. `None` if somebody else holds it all the while.
    ///
    /// The work may lose the lock all the same: it names the fence with its writes, and asks [`Lock::is_lost`] before it goes on with
    /// what no fence protects.
    ///
    /// ```
    /// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
    /// # use slabring_client::{Client, Fenced, LockOptions, Options, Servers, Ttl};
    /// # let server = fake::Server::start();
    /// # let client = Client::new(&Servers::one(&server.address())?, Options::default());
    /// let done = client.with_lock("report:lock", &LockOptions::default(), |lock| {
    ///     client.set_fenced("report", "fresh", Ttl::Never, lock.fence())
    /// })?;
    /// assert_eq!(done, Some(Ok(Fenced::Done)));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error`]: the lock could not be had, as of [`Self::lock`]; the work was not begun.
    pub fn with_lock<T>(
        &self,
        key: impl AsRef<[u8]>,
        options: &LockOptions,
        work: impl FnOnce(&Lock) -> T,
    ) -> Result<Option<T>, Error> {
        let Some(lock) = self.lock(key, options)? else { return Ok(None) };
        let done = thread::scope(|scope| {
            // Dropped at the end of the work, also when that panics.
            let (_working, is_over) = channel::<()>();
            let lock = &lock;
            scope.spawn(move || {
                let mut ends = after(Instant::now(), lock.ttl());
                while is_over.recv_timeout(lock.renewal_pause()) == Err(RecvTimeoutError::Timeout) {
                    let asked = Instant::now();
                    match self.renew_lock(lock) {
                        Ok(true) => ends = after(asked, lock.ttl()),
                        Ok(false) => return,
                        // It is tried again for as long as that may help.
                        Err(_) if Instant::now() >= ends => lock.lose(),
                        Err(_) => {}
                    }
                }
            });
            work(lock)
        });
        // Not given up, it ends by itself.
        self.unlock(lock).ok();
        Ok(Some(done))
    }

    /// Stores a value under the fence of a lock: refused if the key was written under a higher one. Panics if the fence is 0.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn set_fenced(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
        fence: u64,
    ) -> Result<Fenced, Error> {
        let command = lock::store(self.key(key)?, value.into(), options.into(), fence);
        Ok(lock::written(&self.ask(command)?.meta()))
    }

    /// Removes an item under the fence of a lock: refused if the key was written under a higher one. Panics if the fence is 0.
    ///
    /// # Errors
    /// [`Error`]: the key cannot name an item, or its server failed or refused.
    /// [`Error::executed`] says whether it may be done all the same.
    pub fn delete_fenced(&self, key: impl AsRef<[u8]>, fence: u64) -> Result<Fenced, Error> {
        Ok(lock::written(&self.ask(lock::delete(self.key(key)?, fence))?.meta()))
    }
}
