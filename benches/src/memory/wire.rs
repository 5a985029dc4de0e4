//! A client that stores many small items, asks for a statistic, or for one thing. Text protocol, one connection.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::memory::{Keys, Shape};

const PATIENCE: Duration = Duration::from_secs(120);
/// Requests are sent in pieces of about so many bytes.
const BATCH_BYTES: usize = 256 << 10;

pub(crate) struct Wire {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Wire {
    pub(crate) fn connect(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { replies: BufReader::new(stream.try_clone()?), stream })
    }

    /// Stores `count` items and waits until the server has taken the last.
    pub(crate) fn fill(&mut self, shape: Shape, count: usize) -> anyhow::Result<()> {
        let (mut keys, value) = (Keys::new(shape), vec![b'v'; shape.value_bytes]);
        let mut batch = Vec::with_capacity(BATCH_BYTES + 2 * shape.bytes());
        for _ in 0..count {
            push_set(&mut batch, keys.next(), &value);
            if batch.len() >= BATCH_BYTES {
                self.stream.write_all(&batch)?;
                batch.clear();
            }
        }
        batch.extend(b"version\r\n");
        self.stream.write_all(&batch)?;
        let line = self.line()?;
        if !line.starts_with("VERSION") {
            bail!("the server refused an item: {line}");
        }
        Ok(())
    }

    /// A number out of `stats`.
    pub(crate) fn stat(&mut self, name: &str) -> anyhow::Result<u64> {
        self.stream.write_all(b"stats\r\n")?;
        let mut found = None;
        loop {
            let line = self.line()?;
            let mut words = line.split_ascii_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("STAT"), Some(word), Some(value)) if word == name => found = value.parse().ok(),
                (Some("STAT"), ..) => {}
                (Some("END"), ..) => return found.with_context(|| format!("no statistic {name}")),
                _ => bail!("not an answer to stats: {line}"),
            }
        }
    }

    /// Asks for one thing; the first line of the answer.
    pub(crate) fn command(&mut self, line: &str) -> anyhow::Result<String> {
        self.stream.write_all(format!("{line}\r\n").as_bytes())?;
        self.line()
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.replies.read_line(&mut line).context("the server does not answer")?;
        Ok(line.trim_end().to_owned())
    }
}

fn push_set(batch: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    batch.extend(b"set ");
    batch.extend(key);
    write!(batch, " 0 0 {} noreply\r\n", value.len()).expect("a vector takes everything");
    batch.extend(value);
    batch.extend(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn all_items_are_sent_and_the_statistic_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let expected = 10_000 * b"set 0000000001 0 0 3 noreply\r\nvvv\r\n".len() + b"version\r\n".len();
            let mut sets = vec![0; expected];
            stream.read_exact(&mut sets).unwrap();
            stream.write_all(b"VERSION 1\r\n").unwrap();
            stream.read_exact(&mut [0; 7]).unwrap();
            stream.write_all(b"STAT pid 7\r\nSTAT curr_items 42\r\nEND\r\n").unwrap();
            sets
        });
        let mut wire = Wire::connect(port).unwrap();
        wire.fill("10x3".parse().unwrap(), 10_000).unwrap();
        assert_eq!(wire.stat("curr_items").unwrap(), 42);
        let sets = server.join().unwrap();
        assert!(sets.ends_with(b"set 0000010000 0 0 3 noreply\r\nvvv\r\nversion\r\n"));
    }
}
