//! Somebody between a node and what it asks, who passes on what is said, or does worse.

use std::io::{Read as _, Write as _, copy};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Time for which an answer is kept back.
const DELAY: Duration = Duration::from_secs(3);

/// What it does with a connection, and with those that were made before when it changes its mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// Passes everything on.
    Honest,
    /// Takes what is said and answers nothing for a long time.
    Slow,
    /// Answers with status 500.
    Failing,
    /// Answers with what is no answer.
    Mad,
}

/// See the module. Its threads live as long as the process.
#[derive(Debug)]
pub struct Fickle {
    address: SocketAddr,
    mood: Arc<AtomicU8>,
    /// Connections that were passed on: closed when the mood changes.
    passed: Arc<Mutex<Vec<TcpStream>>>,
}

impl Fickle {
    /// Listens on `address` for who wants to speak with `behind`.
    pub fn start(address: SocketAddr, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        let fickle = Self { address, mood: Arc::default(), passed: Arc::default() };
        let (mood, passed) = (Arc::clone(&fickle.mood), Arc::clone(&fickle.passed));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (mood, passed) = (mood.load(Ordering::Relaxed), Arc::clone(&passed));
                thread::spawn(move || serve(stream, mood, behind, &passed));
            }
        });
        fickle
    }

    /// For `--etcd`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn become_now(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
        for stream in self.passed.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Who has gone already needs no end.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

/// What goes wrong here is what the other side is to endure.
fn serve(stream: TcpStream, mood: u8, behind: SocketAddr, passed: &Mutex<Vec<TcpStream>>) {
    let answer = |mut stream: TcpStream, text: &[u8]| {
        let mut asked = [0; 4_096];
        stream.read(&mut asked).and_then(|_| stream.write_all(text)).ok();
        stream.shutdown(Shutdown::Write).ok();
        // Closed with something unread, the answer would be lost.
        while matches!(stream.read(&mut asked), Ok(1..)) {}
    };
    match mood {
        mood if mood == Mood::Honest as u8 => {
            let Ok(other) = TcpStream::connect(behind) else { return };
            let pass = |from: &TcpStream, to: &TcpStream| {
                let (from, to) = (from.try_clone(), to.try_clone());
                from.and_then(|from| to.map(|to| (from, to)))
            };
            let (Ok(up), Ok(mut down)) = (pass(&stream, &other), pass(&other, &stream)) else { return };
            passed.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
            thread::spawn(move || {
                let (mut from, mut to) = up;
                copy(&mut from, &mut to).ok();
                to.shutdown(Shutdown::Write).ok();
            });
            copy(&mut down.0, &mut down.1).ok();
            down.1.shutdown(Shutdown::Both).ok();
        }
        mood if mood == Mood::Slow as u8 => {
            thread::sleep(DELAY);
            answer(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        }
        mood if mood == Mood::Failing as u8 => {
            answer(stream, b"HTTP/1.1 500 No\r\ncontent-length: 25\r\n\r\n{\"error\":\"no\",\"code\":13}");
        }
        _ => answer(stream, b"\x16\x03\x00 what is this? \xff\r\n\r\n"),
    }
}
