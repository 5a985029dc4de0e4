//! HTTP calls of the coordinator, each on a thread of its own: they are few and may take long. Knows nothing of what they say, but that a
//! login says what `--etcd-user-file` says then.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slabring_cluster::coordinator::{Call, CallId, gateway};
use slabring_etcd::EtcdAccess;
use ureq::Agent;
use ureq::tls::TlsConfig;

use super::News;

/// The HTTP status of an answer that is none of refusal.
const OK: u16 = 200;
/// A whole answer has at most this many bytes: a ring of 1 MiB in base64, and the names of thousands of nodes.
const REPLY_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a stream that are told at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// A stream is begun anew after this time, so that one that died unnoticed costs no more.
const STREAM_TIME_MAX: Duration = Duration::from_secs(60);
/// Characters of an error that are told.
const TROUBLE_CHARACTERS_MAX: usize = 200;
/// Calls under way, with those that were given up and have not noticed; more fail.
const CALLS_MAX: usize = 32;

/// Makes calls.
pub struct Caller<T = News> {
    urls: Arc<[String]>,
    /// How many were given up until now; the next one after them is called, round and round.
    current: Arc<AtomicUsize>,
    access: Arc<EtcdAccess>,
    certificates: Arc<Mutex<Certificates>>,
    under_way: Arc<AtomicUsize>,
    given_up: BTreeMap<CallId, Arc<AtomicBool>>,
    trouble: Arc<Mutex<String>>,
    news: SyncSender<T>,
}

impl<T: From<News> + Send + 'static> Caller<T> {
    /// Calls whichever of `urls` answers. What comes of it is told as `news`.
    pub fn new(urls: &[String], access: &EtcdAccess, news: &SyncSender<T>) -> Self {
        Self {
            urls: urls.into(),
            current: Arc::default(),
            access: Arc::new(access.clone()),
            certificates: Arc::default(),
            under_way: Arc::default(),
            given_up: BTreeMap::new(),
            trouble: Arc::default(),
            news: news.clone(),
        }
    }

    /// What went wrong last, for people.
    pub fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a call.
    pub fn call(&mut self, call: Call) {
        let id = call.id;
        let is_given_up = Arc::new(AtomicBool::new(false));
        self.given_up.insert(id, Arc::clone(&is_given_up));
        let turn = self.current.load(Ordering::Relaxed);
        let one = Under {
            url: self.urls[turn % self.urls.len()].clone(),
            turn,
            current: Arc::clone(&self.current),
            access: Arc::clone(&self.access),
            certificates: Arc::clone(&self.certificates),
            is_given_up,
            trouble: Arc::clone(&self.trouble),
            news: self.news.clone(),
        };
        let under_way = Arc::clone(&self.under_way);
        let run = move || {
            one.run(&call);
            under_way.fetch_sub(1, Ordering::Relaxed);
        };
        let has_room = self.under_way.fetch_add(1, Ordering::Relaxed) < CALLS_MAX;
        let is_started =
            has_room && std::thread::Builder::new().name("coordinator".into()).spawn(run).is_ok();
        if !is_started {
            self.under_way.fetch_sub(1, Ordering::Relaxed);
            tell(&self.news, News::Failed(id), false);
        }
    }

    /// Nobody waits for it any more.
    pub fn cancel(&mut self, id: CallId) {
        if let Some(is_given_up) = self.given_up.remove(&id) {
            is_given_up.store(true, Ordering::Relaxed);
        }
    }

    /// It has ended.
    pub fn ended(&mut self, id: CallId) {
        self.given_up.remove(&id);
    }
}

/// The certificates that were good last. While they are replaced, one file after the other, the lease must be kept all the same.
#[derive(Default)]
struct Certificates {
    good: Option<TlsConfig>,
    /// What is wrong with the files now, as it was said last.
    complaint: Option<String>,
}

impl Certificates {
    /// What was found in the files, or what was there before if that is no good.
    fn newest_good(&mut self, found: Result<TlsConfig, String>) -> Result<TlsConfig, String> {
        match (found, &self.good) {
            (Ok(tls), _) => {
                self.complaint = None;
                self.good = Some(tls.clone());
                Ok(tls)
            }
            (Err(error), Some(good)) => {
                if self.complaint.as_ref() != Some(&error) {
                    tracing::warn!("etcd is called with the certificates of before: {error}");
                    self.complaint = Some(error);
                }
                Ok(good.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// A call under way.
struct Under<T> {
    url: String,
    /// What `current` was when the call began.
    turn: usize,
    current: Arc<AtomicUsize>,
    access: Arc<EtcdAccess>,
    certificates: Arc<Mutex<Certificates>>,
    is_given_up: Arc<AtomicBool>,
    trouble: Arc<Mutex<String>>,
    news: SyncSender<T>,
}

impl<T: From<News>> Under<T> {
    fn run(&self, call: &Call) {
        let outcome = self.make(call);
        match &outcome {
            Err(error) => {
                self.give_up_url();
                self.remember(error);
            }
            Ok(News::Reply(_, status, body)) if *status != OK => {
                self.remember(&format_args!("status {status}: {}", body.escape_ascii()));
            }
            Ok(_) => {}
        }
        if !self.is_given_up.load(Ordering::Relaxed) {
            tell(&self.news, outcome.unwrap_or(News::Failed(call.id)), true);
        }
    }

    /// Has the next call go elsewhere, unless another call saw to that: those that fail together would step over who answers.
    fn give_up_url(&self) {
        let next = self.turn.wrapping_add(1);
        let moved = self.current.compare_exchange(self.turn, next, Ordering::Relaxed, Ordering::Relaxed);
        if moved.is_err() {
            tracing::trace!("{} was given up already", self.url);
        }
    }

    fn remember(&self, trouble: &impl std::fmt::Display) {
        let text = format!("{}: {trouble}", self.url).chars().take(TROUBLE_CHARACTERS_MAX).collect();
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn make(&self, call: &Call) -> Result<News, String> {
        let found = self.access.tls(&self.url);
        let tls = self.certificates.lock().unwrap_or_else(PoisonError::into_inner).newest_good(found)?;
        self.ask(call, tls).map_err(|error| error.to_string())
    }

    fn ask(&self, call: &Call, tls: TlsConfig) -> Result<News, ureq::Error> {
        let head = Duration::from_micros(call.timeout.0);
        let body = if call.is_stream { STREAM_TIME_MAX } else { head };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(head))
            .timeout_recv_response(Some(head))
            .timeout_recv_body(Some(body))
            .proxy(None)
            .tls_config(tls)
            .build();
        let request = config.new_agent().post(format!("{}{}", self.url, call.path));
        let mut request = request.header("content-type", "application/json");
        if let Some(token) = &call.token {
            request = request.header("authorization", token);
        }
        let mut response = request.send(self.login_of_now(call).as_ref().unwrap_or(&call.body))?;
        let status = response.status().as_u16();
        if call.is_stream && status == OK {
            self.stream(call.id, response.body_mut().as_reader())?;
            return Ok(News::Failed(call.id));
        }
        let body = response.body_mut().with_config().limit(REPLY_BYTES_MAX).read_to_vec()?;
        Ok(News::Reply(call.id, status, body))
    }

    /// What a login says, by the file of now: a password may have been changed since the start. What cannot be read now was readable then.
    fn login_of_now(&self, call: &Call) -> Option<String> {
        let is_login = call.path == gateway::LOGIN;
        let login = if is_login { self.access.login().ok().flatten() } else { None };
        login.map(|login| gateway::login(&login.name, &login.password))
    }

    /// Tells what comes until it ends or nobody wants it.
    fn stream(&self, id: CallId, mut body: impl Read) -> Result<(), ureq::Error> {
        let mut bytes = vec![0; CHUNK_BYTES];
        loop {
            let length = body.read(&mut bytes)?;
            if length == 0 || self.is_given_up.load(Ordering::Relaxed) {
                return Ok(());
            }
            tell(&self.news, News::Chunk(id, bytes[..length].to_vec()), true);
        }
    }
}

/// Tells the thread that had it called; from a thread of its own it may wait for room.
fn tell<T: From<News>>(news: &SyncSender<T>, what: News, may_wait: bool) {
    let told = if may_wait { news.send(what.into()).is_ok() } else { news.try_send(what.into()).is_ok() };
    if !told {
        tracing::debug!("nobody listens to the coordinator any more");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, sync_channel};

    use slabring_cluster::time::Micros;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn call(id: u64) -> Call {
        Call {
            id: CallId(id),
            path: "/",
            body: String::new(),
            token: None,
            timeout: Micros(2_000_000),
            is_stream: false,
        }
    }

    fn has_answer(news: &Receiver<News>) -> bool {
        matches!(news.recv_timeout(PATIENCE).expect("each call ends"), News::Reply(..))
    }

    #[test]
    fn certificates_that_are_being_replaced_leave_those_of_before() {
        let mut certificates = Certificates::default();
        let wrong = || Err("a.pem: the key is another's".to_owned());
        assert!(certificates.newest_good(wrong()).is_err());
        let first = TlsConfig::builder().use_sni(false).build();
        assert!(!certificates.newest_good(Ok(first)).expect("good").use_sni());
        assert!(!certificates.newest_good(wrong()).expect("those of before").use_sni());
        assert!(certificates.complaint.is_some());
        assert!(certificates.newest_good(Ok(TlsConfig::default())).expect("good").use_sni());
        assert!(certificates.complaint.is_none());
        assert!(certificates.newest_good(wrong()).expect("those of before").use_sni());
    }

    /// Two calls that fail together are what a node makes of one member that is dead: its lease and its reading.
    #[test]
    fn calls_that_fail_together_go_to_the_next_address_together() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let answering = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let urls =
            [&silent, &answering].map(|server| format!("http://{}", server.local_addr().expect("bound")));
        std::thread::spawn(move || {
            for stream in answering.incoming() {
                let mut reader = BufReader::new(stream.expect("a caller"));
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                    line.clear();
                }
                reader
                    .get_mut()
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .expect("it waits");
            }
        });
        let (sender, news) = sync_channel(8);
        let mut caller: Caller = Caller::new(&urls, &EtcdAccess::default(), &sender);
        caller.call(call(1));
        caller.call(call(2));
        drop((0..2).map(|_| silent.accept().expect("both call it")).collect::<Vec<_>>());
        assert!(!has_answer(&news) && !has_answer(&news));
        caller.call(call(3));
        assert!(has_answer(&news), "{}", caller.trouble());
    }

    #[test]
    fn a_login_says_what_the_file_says_then_and_what_it_said_if_it_cannot_be_read() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let path = std::env::temp_dir().join(format!("slabring-login-{}", std::process::id()));
        let access = EtcdAccess { login: Some(path.clone()), ..EtcdAccess::default() };
        let (sender, _news) = sync_channel(8);
        let mut caller: Caller = Caller::new(&[url], &access, &sender);
        let old = gateway::login("node", "old");
        let mut said = |id, file: Option<&str>| {
            match file {
                Some(text) => std::fs::write(&path, text).expect("there is room for a file"),
                None => std::fs::remove_file(&path).expect("it was written before"),
            }
            caller.call(Call { path: gateway::LOGIN, body: old.clone(), ..call(id) });
            let mut reader = BufReader::new(listener.accept().expect("it calls").0);
            let mut length = 0;
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = text.trim().parse().expect("a number");
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("all of it comes");
            String::from_utf8(body).expect("JSON is text")
        };
        assert_eq!(said(1, Some("node:new\n")), gateway::login("node", "new"));
        assert_eq!(said(2, Some("other:newer")), gateway::login("other", "newer"));
        assert_eq!(said(3, None), old);
    }
}
