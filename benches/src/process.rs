//! Child processes: pinned when they start, dead when their handle is, and how much CPU they used.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Socket, Type};

use crate::machine;

/// How long a server may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(5);

/// The unit of `/proc/PID/stat`: 100 ticks a second on every Linux that runs today (`USER_HZ`).
pub(crate) const TICK_US: u64 = 10_000;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// A port of 127.0.0.1.
    Port(u16),
    /// A unix socket.
    Socket(String),
}

impl Place {
    fn accepts(&self) -> bool {
        match self {
            Self::Port(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok(),
            Self::Socket(path) => UnixStream::connect(path).is_ok(),
        }
    }
}

/// A child process that is killed when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `words`, a program and its arguments, on `cpu` alone. What it prints is dropped, its errors are shown.
    pub(crate) fn start(cpu: usize, words: &[String]) -> anyhow::Result<Self> {
        Self::start_on(&[cpu], words)
    }

    /// As [`Process::start`], on several CPUs.
    pub(crate) fn start_on(cpus: &[usize], words: &[String]) -> anyhow::Result<Self> {
        Self::start_printing_to(Stdio::null(), cpus, words)
    }

    /// As [`Process::start`], and what it prints waits for [`Process::output`].
    pub(crate) fn start_captured(cpu: usize, words: &[String]) -> anyhow::Result<Self> {
        Self::start_printing_to(Stdio::piped(), &[cpu], words)
    }

    fn start_printing_to(stdout: Stdio, cpus: &[usize], words: &[String]) -> anyhow::Result<Self> {
        let name = words.first().context("a command has a first word")?.clone();
        let child = Command::new("taskset")
            .args(["-c", &cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")])
            .args(words)
            .stdin(Stdio::null())
            .stdout(stdout)
            .spawn()
            .context("cannot run taskset (package util-linux), which pins the servers")?;
        Ok(Self { name, child })
    }

    /// Waits until somebody listens on `port` of loopback.
    pub(crate) fn wait_for_port(&mut self, port: u16) -> anyhow::Result<()> {
        self.wait_for(&Place::Port(port))
    }

    /// Waits until somebody listens there.
    pub(crate) fn wait_for(&mut self, place: &Place) -> anyhow::Result<()> {
        let start = Instant::now();
        while !place.accepts() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended at its start ({status}); is it installed and built?", self.name);
            }
            ensure!(
                start.elapsed() < START_PATIENCE,
                "{} does not listen after {START_PATIENCE:?}",
                self.name
            );
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// User and system time of all its threads so far, in microseconds, to 10 ms.
    pub(crate) fn cpu_us(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat =
            fs::read_to_string(&path).with_context(|| format!("{} has ended: no {path}", self.name))?;
        let ticks = cpu_ticks(&stat).with_context(|| format!("{path} is not as expected: {stat}"))?;
        Ok(ticks * TICK_US)
    }

    /// Asks it to end, as Ctrl-C does.
    pub(crate) fn interrupt(&self) -> anyhow::Result<()> {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-INT", &id]).status().context("cannot run kill")?;
        ensure!(status.success(), "{} has ended", self.name);
        Ok(())
    }

    /// What it occupies in memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        machine::resident_bytes(&self.child.id().to_string())
            .with_context(|| format!("{} has ended", self.name))
    }

    /// Waits at most `patience` for its end. Returns how it ended and what it printed, if that was captured: no more
    /// than a pipe holds, or it would not end.
    pub(crate) fn output(mut self, patience: Duration) -> anyhow::Result<(ExitStatus, String)> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(start.elapsed() < patience, "{} does not end after {patience:?}", self.name);
            thread::sleep(POLL);
        };
        let mut text = String::new();
        if let Some(mut output) = self.child.stdout.take() {
            output.read_to_string(&mut text)?;
        }
        Ok((status, text))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killing a child that has ended does nothing; one that was killed is gone at once.
        match self.child.kill().and_then(|()| self.child.wait()) {
            Ok(_) => {}
            Err(error) => eprintln!("slabring-bench: cannot stop {}: {error}", self.name),
        }
    }
}

/// A port of loopback that nobody uses at the moment. It is not listened on: a process that is just being started has the socket for
/// a moment too, and would take in who connects.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket.local_addr()?.as_socket().expect("an address of IPv4").port())
}

/// The program asked for, or the one of that name beside this.
pub(crate) fn beside_this(path: Option<&PathBuf>, name: &str) -> String {
    let beside =
        || std::env::current_exe().map(|own| own.with_file_name(name)).unwrap_or_else(|_| name.into());
    path.cloned().unwrap_or_else(beside).to_string_lossy().into_owned()
}

/// Whether a program can be started at all.
pub(crate) fn is_installed(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok()
}

/// Fields 14 and 15 of `/proc/PID/stat`. Field 2 is a name that may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 397 1153 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(1550));
        assert_eq!(cpu_ticks("7 (a) S 1 2"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn a_process_is_gone_when_its_handle_is() {
        let process = Process::start(0, &words("sleep 1000")).unwrap();
        let stat = format!("/proc/{}/stat", process.child.id());
        assert!(fs::exists(&stat).unwrap());
        assert!(process.cpu_us().unwrap() < 1_000_000);
        drop(process);
        assert!(!fs::exists(&stat).unwrap());
    }

    #[test]
    fn what_a_process_prints_is_read_and_waiting_is_bounded() {
        let (status, text) =
            Process::start_captured(0, &words("echo hello")).unwrap().output(START_PATIENCE).unwrap();
        assert!(status.success());
        assert_eq!(text, "hello\n");
        let error =
            Process::start(0, &words("sleep 1000")).unwrap().output(Duration::from_millis(30)).unwrap_err();
        assert!(error.to_string().contains("does not end"), "{error}");
    }

    #[test]
    fn a_server_that_dies_at_its_start_is_told_from_a_slow_one() {
        let mut process = Process::start(0, &words("false")).unwrap();
        let error = process.wait_for_port(free_port().unwrap()).unwrap_err();
        assert!(error.to_string().contains("ended at its start"), "{error}");
    }
}
