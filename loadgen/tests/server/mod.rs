//! A real memcached for tests, where one is installed.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_ATTEMPTS: usize = 5;
/// Long, because the machine may be compiling too.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A memcached on a free loopback port, which dies with this value.
pub(crate) struct Memcached {
    child: Child,
    address: String,
}

impl Memcached {
    /// `None`, said aloud, where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        // Another process may take the port before it does.
        (0..START_ATTEMPTS).find_map(|_| Self::try_to_start()).expect("an installed memcached starts")
    }

    /// `None`: it ended before it listened. `Some(None)`: it is not installed.
    fn try_to_start() -> Option<Option<Self>> {
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        let spawned = Command::new("memcached")
            .args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: memcached is not installed");
                return Some(None);
            }
            Err(error) => panic!("memcached: {error}"),
        };
        let mut server = Self { child, address: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(&server.address).is_err() {
            if server.child.try_wait().expect("a child of ours can be asked").is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "memcached does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Some(server))
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        // It may have died on its own; either way it is gone afterwards.
        if self.child.kill().is_ok() {
            self.child.wait().expect("a killed child can be waited for");
        }
    }
}
