//! The binary against a real memcached, where one is installed.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A memcached on a free loopback port, which dies with this value.
struct Memcached {
    child: Child,
    address: String,
}

impl Memcached {
    /// `None`, said aloud, where it is not installed.
    fn start() -> Option<Self> {
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
                return None;
            }
            Err(error) => panic!("memcached: {error}"),
        };
        let server = Self { child, address: format!("127.0.0.1:{port}") };
        let patience = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(&server.address).is_err() {
            assert!(Instant::now() < patience, "memcached does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(server)
    }

    fn load(&self, options: &str) -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_slabring-load"))
            .args(options.split_whitespace())
            .args(["--json", &self.address])
            .output()
            .expect("the binary runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{options}: {errors}");
        serde_json::from_slice(&output.stdout).expect("one JSON object")
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

#[test]
fn every_stored_value_comes_back_right_at_any_size_and_in_any_number() {
    let Some(memcached) = Memcached::start() else { return };
    for options in [
        "--keys 1000",
        "--keys 1000 --value-size 0-3000 -d 8",
        "--keys 500 --key-size 250 --multiget 100 -d 2 -c 4",
        "--keys 20 --value-size 500000 -c 3",
        "--keys 1000 --ratio 1:1 --value-size 10-200 -t 2 -d 16 --distribution zipf:0.99",
        "--keys 1000 --rate 5000 --poisson --io epoll",
    ] {
        let result = memcached.load(&format!("--requests 3000 --prefill --verify {options}"));
        assert_eq!(result["operations"], 3000, "{options}");
        for nothing in ["misses", "wrong_values", "errors"] {
            assert_eq!(result[nothing], 0, "{options}: {nothing}");
        }
    }
}

#[test]
fn a_timed_run_takes_its_time_and_measures_every_request() {
    let Some(memcached) = Memcached::start() else { return };
    let result = memcached.load("--duration 0.5 --prefill --keys 1000 --ratio 1:4");
    let seconds = result["seconds"].as_f64().expect("a number");
    assert!((0.4..1.5).contains(&seconds), "{seconds}");
    assert_eq!(result["latency"]["all"]["count"], result["operations"]);
    assert!(result["operations"].as_u64() > Some(100));
}
