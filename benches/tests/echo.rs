//! The echo server as a process: what it answers over a real connection, on either backend.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Time for any single step, long because the machine may be compiling too.
const PATIENCE: Duration = Duration::from_secs(20);

/// An echo server that dies with this value.
struct Echo {
    child: Child,
    port: u16,
}

impl Echo {
    fn start(options: &str) -> Self {
        let port = free_port().expect("loopback has a free port");
        let mut command = Command::new(env!("CARGO_BIN_EXE_slabring-bench"));
        command.args(["echo", "--port", &port.to_string()]).args(options.split_whitespace());
        Self { child: command.spawn().expect("the binary was built"), port }
    }

    fn connect(&self) -> TcpStream {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it says to `input`, up to so many bytes.
    fn answer(&self, input: &[u8], expected_bytes: usize) -> io::Result<Vec<u8>> {
        let mut stream = self.connect();
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(input)?;
        let mut answer = vec![0; expected_bytes];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

/// Not one of those from 32768 on, which the kernel gives to whoever connects, or listens anywhere. Not listened on: the process that the
/// other test is just starting has the socket for a moment too, and would take in who connects.
fn free_port() -> io::Result<u16> {
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        let port = rand::random_range(16_384..32_768);
        match socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound.map(|()| port),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.child.kill().expect("it was not waited for");
        self.child.wait().expect("it was killed");
    }
}

#[track_caller]
fn check(options: &str, input: &str, expected: &str) {
    for io in ["auto", "epoll"] {
        let echo = Echo::start(&format!("--io {io} {options}"));
        for _connection in 0..3 {
            let answer = echo.answer(input.as_bytes(), expected.len()).expect("an answer in time");
            assert_eq!(String::from_utf8_lossy(&answer), expected, "{io}");
        }
    }
}

#[test]
fn every_line_gets_the_same_answer() {
    check("", "get a\r\nget b\r\n", "END\r\nEND\r\n");
    check(
        "--values 2 --key-size 1 --value-size 3",
        "get a b\r\n",
        "VALUE k 0 3\r\nvvv\r\nVALUE k 0 3\r\nvvv\r\nEND\r\n",
    );
    check("--reply stored --lines-per-reply 2", "set a 0 0 1\r\nx\r\n", "STORED\r\n");
}

#[test]
fn a_pipeline_far_larger_than_any_buffer_is_answered_whole() {
    let lines = 10_000;
    check("", &"get a\r\n".repeat(lines), &"END\r\n".repeat(lines));
}
