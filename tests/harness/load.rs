//! The load generator's binary, and servers that are scripted to the byte.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use crate::binaries::built;
use crate::process::{Finished, run_to_end};

/// Time for one run: long, because the machine may be compiling too.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// The load generator's binary, built once.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("slabring-load"))
}

/// Runs it with these words.
#[track_caller]
pub fn run(words: &str) -> Finished {
    let mut command = Command::new(binary());
    command.args(words.split_whitespace());
    run_to_end(&mut command, RUN_TIMEOUT).expect("slabring-load ends")
}

/// A result of `--json`.
#[derive(Debug)]
pub struct Json(pub String);

impl Json {
    /// The number behind the first `"name":` that follows `path`, each found behind the one before.
    #[track_caller]
    pub fn number(&self, path: &[&str]) -> f64 {
        let mut rest = self.0.as_str();
        for name in path {
            let key = format!("\"{name}\":");
            let at = rest.find(&key).unwrap_or_else(|| panic!("no {name} in {}", self.0));
            rest = &rest[at + key.len()..];
        }
        let end = rest.find([',', '}', ']']).unwrap_or(rest.len());
        rest[..end].parse().unwrap_or_else(|_| panic!("{path:?} is {}", &rest[..end]))
    }

    /// The text behind the first `"name":`.
    pub fn text(&self, name: &str) -> &str {
        let key = format!("\"{name}\":\"");
        let at = self.0.find(&key).unwrap_or_else(|| panic!("no {name}")) + key.len();
        &self.0[at..at + self.0[at..].find('"').expect("it ends")]
    }
}

/// Runs with `--json` and expects success.
#[track_caller]
pub fn load(words: &str) -> Json {
    let finished = run(&format!("--json {words}"));
    assert!(finished.status.success(), "{words}: {} {}", finished.stderr, finished.stdout);
    Json(finished.stdout)
}

type Answer = dyn Fn(&str, &[u8]) -> Vec<u8> + Send + Sync;

/// A server that answers each request line, with the value behind it if there is one, by what `answer` says.
pub fn fake(answer: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let answer: Arc<Answer> = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.expect("a connection"), Arc::clone(&answer));
            thread::spawn(move || converse(stream, &*answer));
        }
    });
    address
}

fn converse(stream: TcpStream, answer: &Answer) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let stores = matches!(words[0], "set" | "add" | "replace" | "append" | "prepend" | "cas");
        let mut value = vec![0; if stores { words[4].parse::<usize>().expect("a size") + 2 } else { 0 }];
        if stream.read_exact(&mut value).is_err() {
            return;
        }
        value.truncate(value.len().saturating_sub(2));
        if stream.get_mut().write_all(&answer(line.trim_end(), &value)).is_err() {
            return;
        }
    }
}

/// What a memcached without anything in it says.
pub fn empty(line: &str) -> Vec<u8> {
    let reply = match line.split(' ').next().expect("a word") {
        "get" | "gets" | "gat" => "END\r\n",
        "set" => "STORED\r\n",
        "add" => "NOT_STORED\r\n",
        "replace" | "append" | "prepend" => "NOT_STORED\r\n",
        _ => "NOT_FOUND\r\n",
    };
    reply.into()
}

/// A directory that is gone with this value.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// One whose name begins so.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slabring-load-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("room for a directory");
        Self(path)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("it was made");
    }
}
