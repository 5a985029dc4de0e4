//! A real etcd of one member, with its data in a folder that goes with it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::announce_skip;
use crate::cluster::Neighbourhood;

/// Where Debian installs it.
const ETCD_PATH: &str = "/usr/bin/etcd";
const CLIENT_PORT: u16 = 2_379;
const MEMBER_PORT: u16 = 2_380;
const START_TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// An etcd. Dropping it ends it.
#[derive(Debug)]
pub struct Etcd {
    place: Neighbourhood,
    data: PathBuf,
    child: Option<Child>,
    scheme: &'static str,
    args: Vec<String>,
}

impl Etcd {
    /// Starts one at address 250 of `place`, or says on stderr that none is installed.
    pub fn start(place: Neighbourhood) -> Option<Self> {
        Self::start_with(place, "http", &[])
    }

    /// As [`Self::start`], with arguments, over `http` or `https`.
    pub fn start_with(place: Neighbourhood, scheme: &'static str, args: &[&str]) -> Option<Self> {
        if !Path::new(ETCD_PATH).exists() {
            announce_skip(format_args!(
                "{ETCD_PATH} is not installed (etcd-server), so nothing is tried with it"
            ));
            return None;
        }
        let name = format!("slabring-etcd-{}-{}", std::process::id(), place.ip(250)).replace('.', "-");
        let args = args.iter().map(ToString::to_string).collect();
        let mut etcd = Self { place, data: std::env::temp_dir().join(name), child: None, scheme, args };
        // What a killed test of the same id left behind.
        etcd.forget();
        etcd.restart();
        Some(etcd)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (self.place.ip(250), CLIENT_PORT).into()
    }

    /// For `--etcd`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address())
    }

    /// Calls its gateway, over http; the status line, the head and the body.
    pub fn post(&self, path: &str, body: &str) -> String {
        let mut stream = self.connect().expect("it listens");
        let head = format!("POST {path} HTTP/1.0\r\nhost: etcd\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers with text");
        assert!(answer.lines().next().is_some_and(|line| line.contains(" 200 ")), "{path} {body}: {answer}");
        answer
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours can be killed");
            child.wait().expect("a killed child can be waited for");
        }
    }

    /// Keeps a copy of its data for [`Self::restore`]. It must not run.
    pub fn back_up(&self) {
        copy(&self.data, &self.backup());
    }

    /// Gives it the data of the backup in place of its own. It must not run.
    pub fn restore(&self) {
        self.empty();
        copy(&self.backup(), &self.data);
    }

    /// Takes its data away. It must not run.
    pub fn empty(&self) {
        assert!(self.child.is_none(), "it would go on with what it remembers");
        std::fs::remove_dir_all(&self.data).expect("it has had data");
    }

    fn backup(&self) -> PathBuf {
        self.data.with_extension("backup")
    }

    /// Starts it again on its data, and waits until it answers.
    pub fn restart(&mut self) {
        let member = format!("http://{}:{MEMBER_PORT}", self.place.ip(250));
        let url = self.url();
        let mut command = Command::new(ETCD_PATH);
        // Every step of a ring is a write that etcd waits for, and the disk is the compilers' too. What a kill leaves is in the page cache.
        command.arg("--unsafe-no-fsync").arg("--data-dir").arg(&self.data);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &member, "--initial-advertise-peer-urls", &member]);
        command.args(["--initial-cluster", &format!("default={member}")]).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("an installed etcd runs"));
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.answers() {
            assert!(Instant::now() < deadline, "etcd does not start");
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Etcd {
    /// Removes all its data.
    fn forget(&self) {
        for folder in [&self.data, &self.backup()] {
            match std::fs::remove_dir_all(folder) {
                // There is none, or whoever cleans the temporary folder was faster.
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(stream)
    }

    /// It listens before it has a leader; over https, listening must do.
    fn answers(&self) -> bool {
        let Ok(mut stream) = self.connect() else { return false };
        if self.scheme == "https" {
            return true;
        }
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /health HTTP/1.0\r\n\r\n");
        asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.contains("\"true\"")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        self.forget();
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(status.is_ok_and(|status| status.success()), "a folder is copied");
}
