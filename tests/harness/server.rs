//! A server under test: Slabring's real binary, or the installed memcached as its reference.

use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Socket, Type};

use crate::binaries::built;
use crate::process::{Output, wait_for_exit};
use crate::{Connection, Signal, announce_skip, machine};

/// Where Debian and most others install the reference server. `SLABRING_MEMCACHED` names another, of another version.
const MEMCACHED_PATH: &str = "/usr/bin/memcached";

/// Attempts to start on a free port before giving up: another process may take it in between.
const START_ATTEMPTS: u32 = 5;

/// Time a server has to accept its first connection: long, because the machine may be compiling too.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Time a server has to exit once asked, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    kind: Kind,
    stderr: Output,
}

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Slabring,
    /// The reference, in the version it says it has.
    Memcached(Version),
}

/// A version of memcached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Reads `1.6.45` or `VERSION 1.6.45`, with anything after the third number left out.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.trim().trim_start_matches("VERSION ");
        let mut parts = numbers.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self(parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

impl Server {
    /// Builds Slabring in the profile of this test and starts it on a free port of the loopback address.
    ///
    /// The error carries what the server wrote to stderr.
    pub fn start(args: &[&str]) -> Result<Self> {
        Self::start_with(slabring_on_loopback, args)
    }

    /// Starts Slabring with `args` over one of the two ways to talk to the kernel, `uring` or `epoll`.
    ///
    /// `None`, with one loud line, where this kernel refuses io_uring.
    pub fn start_over(io: &str, args: &[&str]) -> Option<Self> {
        match Self::start(&[args, &["--io", io]].concat()) {
            Ok(server) => Some(server),
            Err(error) if io == "uring" && error.to_string().contains("io_uring") => {
                announce_skip(format_args!("no io_uring here: {error:#}"));
                None
            }
            Err(error) => panic!("slabring {args:?} --io {io}: {error:#}"),
        }
    }

    /// Starts Slabring with `args` from a command that a test has prepared, on a port that is free on loopback.
    pub fn start_with(command: impl Fn() -> Command, args: &[&str]) -> Result<Self> {
        Self::start_on_free_port(Kind::Slabring, command, args)
    }

    /// Starts Slabring at an address of the loopback network that the caller chose.
    pub fn start_on(address: SocketAddr, args: &[&str]) -> Result<Self> {
        let mut command = slabring_command();
        command.args(["-l", &address.ip().to_string()]);
        Self::start_at(Kind::Slabring, command, address, args)
    }

    /// Starts the installed memcached, or says on stderr that there is none.
    pub fn memcached(args: &[&str]) -> Option<Self> {
        let path = std::env::var_os("SLABRING_MEMCACHED").unwrap_or_else(|| MEMCACHED_PATH.into());
        if !Path::new(&path).exists() {
            announce_skip(format_args!("{} is not there, so nothing is compared with it", path.display()));
            return None;
        }
        let command = || {
            let mut command = Command::new(&path);
            command.args(["-u", "root", "-l", "127.0.0.1"]);
            command
        };
        let mut server = Self::start_on_free_port(Kind::Memcached(Version(0, 0, 0)), command, args)
            .expect("an installed memcached starts");
        let answer = server.connect().command("version");
        server.kind = Kind::Memcached(Version::parse(&answer).expect("memcached tells its version"));
        Some(server)
    }

    fn start_on_free_port(kind: Kind, command: impl Fn() -> Command, args: &[&str]) -> Result<Self> {
        let mut result = Err(anyhow::anyhow!("never tried"));
        for _ in 0..START_ATTEMPTS {
            let address = free_address();
            result = Self::start_at(kind, command(), address, args);
            match &result {
                Err(error) if error.to_string().contains("in use") => {}
                _ => break,
            }
        }
        result
    }

    fn start_at(kind: Kind, mut command: Command, address: SocketAddr, args: &[&str]) -> Result<Self> {
        command.args(["-p", &address.port().to_string()]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        machine::watch();
        let mut child = command.spawn().with_context(|| format!("{command:?} does not run"))?;
        let stderr = Output::collect(child.stderr.take().expect("stderr is piped"));
        let mut server = Self { child, address, kind, stderr };
        server.wait_until_accepting()?;
        Ok(server)
    }

    fn wait_until_accepting(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status} before it accepted: {}", self.stderr.finish());
            }
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the server accepts nothing after {START_TIMEOUT:?}: {}", self.stderr());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until it answers. Who starts where another server was killed a moment ago may only have been accepted by what the kernel
    /// still has of that.
    #[track_caller]
    pub fn wait_until_answering(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        let ask =
            |mut connection: Connection| connection.send("version\r\n").and_then(|()| connection.read_line());
        while Connection::open(self.address).and_then(ask).is_err() {
            assert!(self.is_running() && Instant::now() < deadline, "it does not answer: {}", self.stderr());
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whose server it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Opens a connection.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        match Connection::open(self.address) {
            Ok(connection) => connection,
            Err(error) => panic!("{}: {error}; stderr: {}", self.address, self.stderr()),
        }
    }

    /// Physical memory of the server's process, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most that it has ever been.
    pub fn resident_peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("Linux shows a child of ours");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells the size");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// CPU time of the server's process so far, user and system.
    pub fn cpu_time(&self) -> Duration {
        const TICKS_PER_SECOND: u64 = 100;
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("Linux shows a child of ours");
        // The name in parentheses may hold spaces; the times are the 12th and 13th field behind it.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 =
            fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number of ticks")).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    /// The server's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the server has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until it has said so: what it says is on its way to this process for a moment.
    #[track_caller]
    pub fn wait_until_says(&self, text: &str) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.stderr().contains(text) {
            assert!(Instant::now() < deadline, "no word of {text:?}: {}", self.stderr());
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours can be asked").is_none()
    }

    /// Sends a signal without waiting for what it does, but for [`Signal::Stop`]: then every thread stands still when this
    /// returns.
    pub fn signal(&self, signal: Signal) {
        signal.send(&self.child);
        if signal == Signal::Stop {
            self.wait_until_stopped();
        }
    }

    /// The kernel stops a process thread by thread, each when it is next scheduled: on a busy machine one may still answer
    /// milliseconds after the signal.
    fn wait_until_stopped(&self) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while thread_states(self.id()).iter().any(|state| !matches!(state, 'T' | 'Z' | 'X')) {
            assert!(Instant::now() < deadline, "the server's threads are {:?}", thread_states(self.id()));
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until the process has ended by itself, or returns `None` when it has not within `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        wait_for_exit(&mut self.child, timeout)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        // A test may have left it standing still.
        self.signal(Signal::Continue);
        self.signal(Signal::Terminate);
        if self.wait(STOP_TIMEOUT).is_none() {
            eprintln!("the server ignores SIGTERM for {STOP_TIMEOUT:?} and is killed");
            self.child.kill().expect("a child of ours can be killed");
            self.child.wait().expect("a killed child can be waited for");
        }
    }
}

/// What the kernel says each thread of a process does: `R` for running, `T` for stopped.
fn thread_states(process: u32) -> Vec<char> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let stats = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    // The name before the state is in brackets and may hold any.
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}

/// [`slabring_command`], told to listen on the loopback address.
pub fn slabring_on_loopback() -> Command {
    let mut command = slabring_command();
    command.args(["-l", "127.0.0.1"]);
    command
}

/// Slabring's binary, built in the profile of this test, without arguments and without settings from the environment, but for
/// `SLABRING_IO`: with it all tests that do not choose for themselves run over the same way to the kernel.
pub fn slabring_command() -> Command {
    let mut command = Command::new(slabring_binary());
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command
}

fn is_setting(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("SLABRING_") && name != "SLABRING_IO"
}

/// The path of Slabring's binary, built once for each test process.
fn slabring_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("slabring"))
}

/// The target directory this test was built into: it runs from `target/PROFILE/deps/NAME`.
pub fn target_directory() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let directory =
        test.ancestors().nth(3).expect("cargo puts tests three levels below the target directory");
    directory.to_owned()
}

/// An address of the loopback interface where nobody listens now and no other test of this process will.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_ports(1)).into()
}

/// The first of so many ports of the loopback interface, side by side, where nobody listens now and no other test of this process will.
///
/// None of those that the kernel gives to whoever connects or listens anywhere: such a one may be another's when the server has started.
pub fn free_ports(count: u16) -> u16 {
    /// Below 32768, where the kernel begins, and above what tests take at addresses of their own.
    const PORTS: Range<u16> = 16_384..32_768;
    /// Test processes that run at the same time begin at different places.
    static NEXT: LazyLock<Mutex<u16>> = LazyLock::new(|| {
        let random = RandomState::new().hash_one(std::process::id()) % PORTS.len() as u64;
        Mutex::new(PORTS.start + u16::try_from(random).expect("fewer than all ports"))
    });
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in PORTS {
        let first = if PORTS.end - *next < count { PORTS.start } else { *next };
        *next = first + count;
        if (first..*next).all(is_free) {
            return first;
        }
    }
    panic!("no {count} ports of the loopback interface are free");
}

/// Whether a port can be bound. It is never listened on: a process that another thread is starting has the socket for a moment too, and
/// would take in who connects.
fn is_free(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into();
    let bind = |kind| {
        let socket = Socket::new(Domain::IPV4, kind, None)?;
        socket.set_reuse_address(kind == Type::STREAM)?;
        socket.bind(&address)
    };
    bind(Type::STREAM).is_ok() && bind(Type::DGRAM).is_ok()
}
