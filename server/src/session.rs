//! One connection's TLS: sealed bytes of the wire to plain ones and back. Sans I/O; what is inside the plain bytes is
//! dispatch's affair.

use std::io::{BufRead, ErrorKind, Write};
use std::sync::Arc;

use rustls::{Error, ServerConfig, ServerConnection};
use slabring_engine::Seconds;

/// Memory of one session beside the connection's own buffers. A server with 3000 idle sessions grew by 8.2 KB for each, and by
/// another 16 KB for each that had received a record of the largest kind.
pub const SESSION_BYTES: usize = 12 << 10;

/// See the module.
#[derive(Debug)]
pub struct Session {
    tls: ServerConnection,
    /// When it began.
    pub since: Seconds,
    /// Nothing can be said in it any more but the alert that says why.
    broken: bool,
    /// The client has said its goodbye: it asks nothing more.
    heard_goodbye: bool,
    said_goodbye: bool,
}

/// How a session failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Before it stood: a client that speaks no TLS, no version of ours, or shows no certificate.
    Handshake,
    /// Later.
    Record,
}

impl Session {
    /// A session that waits for the client's first words.
    pub fn new(config: &Arc<ServerConfig>, since: Seconds) -> Result<Self, Error> {
        let tls = ServerConnection::new(Arc::clone(config))?;
        Ok(Self { tls, since, broken: false, heard_goodbye: false, said_goodbye: false })
    }

    /// Takes what came and hands out what it means, piece by piece. After a failure nothing more is taken; what is to be said
    /// about it leaves with [`Session::seal`].
    pub fn open(&mut self, mut sealed: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), Failure> {
        while !sealed.is_empty() && !self.broken {
            let was_handshaking = self.tls.is_handshaking();
            let read = self.tls.read_tls(&mut sealed);
            // Nothing is read after the client's goodbye, nor more than a record that is not finished may hold.
            let outcome = match read {
                Ok(0) => return Ok(()),
                Ok(_) => self.tls.process_new_packets().map(|_| ()).map_err(|_| ()),
                Err(_) => Err(()),
            };
            // What was good before the failure counts.
            self.hand_out(&mut each);
            if outcome.is_err() {
                self.broken = true;
                return Err(if was_handshaking { Failure::Handshake } else { Failure::Record });
            }
        }
        Ok(())
    }

    fn hand_out(&mut self, each: &mut impl FnMut(&[u8])) {
        let mut reader = self.tls.reader();
        loop {
            match reader.fill_buf() {
                Ok([]) => {
                    self.heard_goodbye = true;
                    return;
                }
                Ok(plain) => {
                    each(plain);
                    let taken = plain.len();
                    reader.consume(taken);
                }
                Err(error) => {
                    debug_assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    return;
                }
            }
        }
    }

    /// Appends all of `plain`, sealed, to `out`, behind what the session itself has to say.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        assert!(plain.is_empty() || self.may_speak());
        self.flush(out);
        let mut rest = plain;
        while !rest.is_empty() {
            let taken = self.tls.writer().write(rest).expect("it only fills a buffer");
            assert!(taken > 0, "the buffer was flushed");
            rest = &rest[taken..];
            self.flush(out);
        }
    }

    /// Appends the end of the session to `out`. Once.
    pub fn say_goodbye(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.said_goodbye, true) && !self.broken {
            self.tls.send_close_notify();
            self.flush(out);
        }
    }

    /// Whether replies can be sealed.
    pub fn may_speak(&self) -> bool {
        !self.tls.is_handshaking() && !self.broken
    }

    /// Whether it does not stand yet.
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the client has said its goodbye.
    pub fn heard_goodbye(&self) -> bool {
        self.heard_goodbye
    }

    /// Whether it failed: nothing that is owed can be said.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether there is nothing left to say.
    pub fn is_over(&self) -> bool {
        self.said_goodbye && !self.tls.wants_write()
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        while self.tls.wants_write() {
            self.tls.write_tls(out).expect("a vector takes everything");
        }
    }
}
