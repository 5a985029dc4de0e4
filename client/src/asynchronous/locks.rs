//! Locks and writes under a fence, for tasks. The core is `lock.rs`.

use std::pin::pin;
use std::time::Instant;

use tokio::time::{sleep, timeout};

use super::AsyncClient;
use crate::command::StoreOptions;
use crate::error::Error;
use crate::lock::{self, Acquisition, Fenced, Lock, LockOptions, Renewing, Tried};
use crate::options::after;

impl AsyncClient {
    /// As [`Client::lock`](crate::Client::lock).
    ///
    /// ```
    /// # mod fake { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/mod.rs")); }
    /// # use slabring_client::{AsyncClient, Fenced, LockOptions, Options, Servers, Ttl};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = fake::Server::start();
    /// # let client = AsyncClient::new(&Servers::one(&server.address())?, Options::default());
    /// let lock = client.lock("report:lock", &LockOptions::default()).await?.expect("nobody else asks");
    /// let stored = client.set_fenced("report", "fresh", Ttl::Never, lock.fence()).await?;
    /// assert_eq!(stored, Fenced::Done);
    /// assert!(client.unlock(lock).await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As there.
    pub async fn lock(&self, key: impl AsRef<[u8]>, options: &LockOptions) -> Result<Option<Lock>, Error> {
        let mut acquisition = Acquisition::new(self.key(key)?, options);
        let until = after(Instant::now(), options.wait);
        loop {
            match self.try_lock(&mut acquisition).await {
                Ok(Tried::Held(lock)) => return Ok(Some(lock)),
                Ok(Tried::Taken) if Instant::now() >= until => return Ok(None),
                Err(error) if Instant::now() >= until => return Err(error),
                Ok(Tried::Taken) | Err(_) => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            sleep(acquisition.next_pause().min(left)).await;
        }
    }

    async fn try_lock(&self, acquisition: &mut Acquisition) -> Result<Tried, Error> {
        let answer = self.ask(acquisition.command()).await.map(crate::Answer::meta);
        match acquisition.tried(answer)? {
            Some(tried) => Ok(tried),
            None => acquisition.looked(&self.ask(acquisition.look()).await?.meta()),
        }
    }

    /// As [`Client::renew_lock`](crate::Client::renew_lock).
    ///
    /// # Errors
    /// As there.
    pub async fn renew_lock(&self, lock: &Lock) -> Result<bool, Error> {
        loop {
            let how = lock.renewing();
            let answer = self.ask(lock.renewal(how)).await.map(crate::Answer::meta);
            if let Some(is_held) = lock.renewed(how, answer)? {
                return Ok(is_held);
            }
        }
    }

    /// As [`Client::unlock`](crate::Client::unlock).
    ///
    /// # Errors
    /// As there.
    pub async fn unlock(&self, lock: Lock) -> Result<bool, Error> {
        if lock.renewing() == Renewing::Look {
            let found = self.ask(lock.renewal(Renewing::Look)).await.map(crate::Answer::meta);
            if lock.renewed(Renewing::Look, found)? == Some(false) {
                return Ok(false);
            }
        }
        Ok(lock::was_held(&self.ask(lock::release(lock)).await?.meta()))
    }

    /// As [`Client::with_lock`](crate::Client::with_lock). The lock is renewed by the same task, when the work waits.
    ///
    /// Dropped before its end, the lock ends after its time.
    ///
    /// # Errors
    /// As there.
    pub async fn with_lock<T>(
        &self,
        key: impl AsRef<[u8]>,
        options: &LockOptions,
        work: impl AsyncFnOnce(&Lock) -> T,
    ) -> Result<Option<T>, Error> {
        let Some(lock) = self.lock(key, options).await? else { return Ok(None) };
        let done = {
            let mut working = pin!(work(&lock));
            let mut ends = after(Instant::now(), lock.ttl());
            loop {
                match timeout(lock.renewal_pause(), working.as_mut()).await {
                    Ok(done) => break done,
                    // When the lock is lost nothing helps.
                    Err(_) if lock.is_lost() => {}
                    Err(_) => {
                        let asked = Instant::now();
                        match self.renew_lock(&lock).await {
                            Ok(true) => ends = after(asked, lock.ttl()),
                            Err(_) if Instant::now() >= ends => lock.lose(),
                            Ok(false) | Err(_) => {}
                        }
                    }
                }
            }
        };
        // Not given up, it ends by itself.
        self.unlock(lock).await.ok();
        Ok(Some(done))
    }

    /// As [`Client::set_fenced`](crate::Client::set_fenced).
    ///
    /// # Errors
    /// As there.
    pub async fn set_fenced(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: impl Into<StoreOptions>,
        fence: u64,
    ) -> Result<Fenced, Error> {
        let command = lock::store(self.key(key)?, value.into(), options.into(), fence);
        Ok(lock::written(&self.ask(command).await?.meta()))
    }

    /// As [`Client::delete_fenced`](crate::Client::delete_fenced).
    ///
    /// # Errors
    /// As there.
    pub async fn delete_fenced(&self, key: impl AsRef<[u8]>, fence: u64) -> Result<Fenced, Error> {
        Ok(lock::written(&self.ask(lock::delete(self.key(key)?, fence)).await?.meta()))
    }
}
