//! Calls of etcd's JSON gateway that wait for their answers. Knows nothing of what they say.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use slabring_cluster::coordinator::gateway::{LOGIN, LoggedIn, is_token_refused, login, read_answer};
use slabring_cluster::ring::Refusal;
use ureq::Agent;

use crate::EtcdAccess;

/// An answer has at most this many bytes: a ring of 1 MiB in base64, and the names of thousands of nodes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Characters of an answer that are shown.
const SHOWN_CHARACTERS_MAX: usize = 200;
const OK: u16 = 200;

/// Why there is no answer. What was asked for may have been done all the same, unless [`Failure::Access`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A file of certificates or of a password.
    #[error("{0}")]
    Access(String),
    /// None of the members answers.
    #[error("etcd does not answer: {0}")]
    Unreachable(String),
    /// It answers with an error.
    #[error("{url} refuses: {said}")]
    Refused {
        /// Who.
        url: String,
        /// What it says.
        said: String,
    },
    /// The cluster's ring is none that this version reads.
    #[error("the ring in etcd cannot be read: {0}")]
    Ring(Refusal),
}

/// A way into etcd.
#[derive(Debug)]
pub struct Gateway {
    urls: Vec<String>,
    access: EtcdAccess,
    /// The time for connecting, and again for the answer, of each member.
    timeout: Duration,
    /// The member that answered last.
    current: Cell<usize>,
    token: RefCell<Option<String>>,
}

impl Gateway {
    /// Asks whichever of `urls`, `http://HOST:PORT` or `https://HOST:PORT`, answers. There must be one.
    pub fn new(urls: Vec<String>, access: EtcdAccess, timeout: Duration) -> Self {
        assert!(!urls.is_empty(), "an etcd has a member");
        Self { urls, access, timeout, current: Cell::new(0), token: RefCell::new(None) }
    }

    /// Posts JSON and waits for JSON.
    ///
    /// # Errors
    /// [`Failure`]: nobody answered in time, a file cannot be read, or etcd refused. What was asked may have been done where no answer came.
    pub fn call(&self, path: &str, body: &str) -> Result<Vec<u8>, Failure> {
        if self.token.borrow().is_none() {
            self.log_in()?;
        }
        let (status, answer) = self.post(path, body)?;
        if is_token_refused(status, &answer) && self.log_in()? {
            return self.post(path, body).and_then(|answer| self.good(answer));
        }
        self.good((status, answer))
    }

    /// What a good answer that says nothing known is.
    pub(crate) fn rubbish(&self, answer: &[u8]) -> Failure {
        Failure::Refused { url: self.url(), said: shown(answer) }
    }

    fn good(&self, (status, answer): (u16, Vec<u8>)) -> Result<Vec<u8>, Failure> {
        if status == OK { Ok(answer) } else { Err(self.rubbish(&answer)) }
    }

    /// Gets a token, if there is a name to get one for. Whether there was.
    fn log_in(&self) -> Result<bool, Failure> {
        let Some(who) = self.access.login().map_err(Failure::Access)? else { return Ok(false) };
        self.token.take();
        let answer = self.post(LOGIN, &login(&who.name, &who.password))?;
        let answer = self.good(answer)?;
        let LoggedIn { token } = read_answer(&answer).ok_or_else(|| self.rubbish(&answer))?;
        self.token.replace(Some(token));
        Ok(true)
    }

    /// Asks one member after the other until one answers.
    fn post(&self, path: &str, body: &str) -> Result<(u16, Vec<u8>), Failure> {
        let mut trouble = String::new();
        for _ in 0..self.urls.len() {
            match self.ask(path, body) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Unreachable(why)) => trouble = why,
                Err(other) => return Err(other),
            }
            self.current.set((self.current.get() + 1) % self.urls.len());
        }
        Err(Failure::Unreachable(trouble))
    }

    fn ask(&self, path: &str, body: &str) -> Result<(u16, Vec<u8>), Failure> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(self.timeout))
            .timeout_recv_response(Some(self.timeout))
            .timeout_recv_body(Some(self.timeout))
            .proxy(None)
            .tls_config(self.access.tls(&self.url()).map_err(Failure::Access)?)
            .build();
        let request = config.new_agent().post(format!("{}{path}", self.url()));
        let mut request = request.header("content-type", "application/json");
        if let Some(token) = self.token.borrow().as_deref() {
            request = request.header("authorization", token);
        }
        let unreachable = |error: ureq::Error| Failure::Unreachable(format!("{}: {error}", self.url()));
        let mut response = request.send(body).map_err(unreachable)?;
        let status = response.status().as_u16();
        let answer = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        Ok((status, answer.map_err(unreachable)?))
    }

    fn url(&self) -> String {
        self.urls[self.current.get()].clone()
    }
}

fn shown(answer: &[u8]) -> String {
    answer.escape_ascii().to_string().chars().take(SHOWN_CHARACTERS_MAX).collect()
}
