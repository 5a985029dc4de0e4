//! A client's side of one connection: plain bytes, with a bound on every wait.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::machine::is_late;

/// Time a server has for any single answer: long, because the machine may be compiling too.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const READ_SIZE: usize = 64 * 1024;

/// A connection. Bytes that arrived and were not asked for yet stay in it.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// Bytes of `received` that were handed out.
    consumed: usize,
}

impl Connection {
    /// Connects, without Nagle's delay.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { stream, received: Vec::new(), consumed: 0 })
    }

    /// The socket, for what this type does not do. Reading from it takes bytes away from this type.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Says that nothing more will be sent. Answers can still be read.
    pub fn finish_sending(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// The next line, without its CRLF.
    pub fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut searched = 0;
        loop {
            let waiting = &self.received[self.consumed..];
            if let Some(end) = waiting[searched..].windows(2).position(|pair| pair == b"\r\n") {
                let line = waiting[..searched + end].to_vec();
                self.consumed += line.len() + 2;
                return Ok(line);
            }
            // The last byte may be the first half of a CRLF.
            searched = waiting.len().saturating_sub(1);
            self.receive()?;
        }
    }

    /// The next `count` bytes.
    pub fn read_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.received.len() - self.consumed < count {
            self.receive()?;
        }
        let bytes = self.received[self.consumed..self.consumed + count].to_vec();
        self.consumed += count;
        Ok(bytes)
    }

    /// What has come and was not read, or what comes next.
    pub fn read_some(&mut self) -> io::Result<Vec<u8>> {
        while self.received.len() == self.consumed {
            self.receive()?;
        }
        let bytes = self.received.split_off(self.consumed);
        Ok(bytes)
    }

    /// Everything up to the end of the stream. A reset is an end too: closing with unread input causes one.
    pub fn read_to_close(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.receive() {
                Ok(()) => {}
                Err(error) if is_end(&error) => return Ok(self.received.split_off(self.consumed)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one line and returns the one line that answers it.
    #[track_caller]
    pub fn command(&mut self, line: &str) -> String {
        let answer = self.send(format!("{line}\r\n")).and_then(|()| self.read_line());
        match answer {
            Ok(answer) => String::from_utf8_lossy(&answer).into_owned(),
            Err(error) => panic!("{:?} is not answered: {error}", line.chars().take(60).collect::<String>()),
        }
    }

    /// Stores a value without flags or expiry and checks that the server took it. A node that is late on a busy machine is asked again.
    #[track_caller]
    pub fn set(&mut self, key: &str, value: impl AsRef<[u8]>) {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut answer = self.try_set(key, value.as_ref());
        while is_late(&answer) && Instant::now() < deadline {
            answer = self.try_set(key, value.as_ref());
        }
        assert_eq!(answer, "STORED", "set {key}");
    }

    /// Asks to store a value, and gives the answer.
    #[track_caller]
    fn try_set(&mut self, key: &str, value: &[u8]) -> String {
        let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        let answer = self.send(request).and_then(|()| self.read_line()).expect("a set is answered");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The value of a key, if it has one. A node that is late on a busy machine is asked again.
    #[track_caller]
    pub fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut header = self.command(&format!("get {key}"));
        while is_late(&header) && Instant::now() < deadline {
            header = self.command(&format!("get {key}"));
        }
        if header == "END" {
            return None;
        }
        let prefix = format!("VALUE {key} 0 ");
        let length = header.strip_prefix(&prefix).and_then(|length| length.parse().ok());
        let value =
            self.read_exact(length.unwrap_or_else(|| panic!("get {key}: {header}"))).expect("a whole value");
        assert_eq!(self.read_line().expect("the end of the value"), b"");
        assert_eq!(self.read_line().expect("the end of the answer"), b"END");
        Some(value)
    }

    /// One number of `stats`.
    #[track_caller]
    pub fn stat(&mut self, name: &str) -> u64 {
        let prefix = format!("STAT {name} ");
        let mut line = self.command("stats");
        let mut found = None;
        while line != "END" {
            if let Some(value) = line.strip_prefix(&prefix) {
                found = value.parse().ok();
            }
            line = String::from_utf8_lossy(&self.read_line().expect("stats end")).into_owned();
        }
        found.unwrap_or_else(|| panic!("stats tell no number for {name}"))
    }

    fn receive(&mut self) -> io::Result<()> {
        if self.consumed == self.received.len() {
            self.received.clear();
            self.consumed = 0;
        }
        let filled = self.received.len();
        self.received.resize(filled + READ_SIZE, 0);
        let result = self.stream.read(&mut self.received[filled..]);
        self.received.truncate(filled + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            // A read with a timeout is interrupted when the machine stands still: signal(7). Who asks for more asks again.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether an error means that the other side has closed.
pub fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
