//! Every socket a node listens on, opened before it becomes somebody else and before there are threads. Accepts nothing itself
//! but on the unix socket.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::options::{Binding, EXIT_SYSTEM, Listen, Refused, Settings, TlsUse, UnixListen};

/// An address in use is tried again so often before it is given up: the kernel closes the sockets of a killed process that used
/// io_uring some time after the process is gone.
const TRIES: u32 = 50;
const TRY_PAUSE: Duration = Duration::from_millis(20);

/// What a listener's connections begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entrance {
    /// Its place among the names of all listeners.
    pub listener: usize,
    /// Its connections are for the shard that accepts them, however many that has.
    pub direct: bool,
    /// Whether and how they speak TLS.
    pub tls: TlsUse,
    /// What they speak in it.
    pub protocol: Binding,
}

/// One shard's listeners.
#[derive(Default)]
pub struct ShardListeners {
    /// For connections.
    pub streams: Vec<(OwnedFd, Entrance)>,
    /// For datagrams.
    pub datagrams: Vec<OwnedFd>,
}

/// All listeners of a node.
#[derive(Default)]
pub struct Listeners {
    /// Those of each shard: the kernel spreads connections over those of one address.
    pub per_shard: Vec<ShardListeners>,
    /// The unix socket, of which there can be only one for all shards.
    pub unix: Option<UnixEntrance>,
    /// Where other nodes connect, if the node is one of several.
    pub cluster: Option<TcpListener>,
    /// TCP addresses with the ports that were found.
    pub tcp: Vec<SocketAddr>,
    /// TCP addresses that lead to one shard each: all those of the first address, then of the next.
    pub direct: Vec<SocketAddr>,
    /// UDP addresses with the ports that were found.
    pub udp: Vec<SocketAddr>,
}

/// A unix socket that is listened on. Its file goes with it.
pub struct UnixEntrance {
    /// The socket.
    pub listener: UnixListener,
    /// Its file.
    pub file: SocketFile,
}

/// The file of a unix socket, removed on drop, unless another server has put its own there meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// What no other file has: device, number, and, as numbers are given again, when it was made. Nothing writes to it.
    id: Option<FileId>,
}

/// Device, number, and second and nanosecond of the last write.
type FileId = (u64, u64, i64, i64);

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), id: Self::id_at(path) }
    }

    fn id_at(path: &Path) -> Option<FileId> {
        let found = std::fs::symlink_metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.id.is_some() && self.id == Self::id_at(&self.path) {
            // Who has given up root may not remove it; the next start does.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

impl Listeners {
    /// Opens them all.
    pub fn open(settings: &Settings) -> Result<Self> {
        let mut per_shard: Vec<_> = (0..settings.threads).map(|_| ShardListeners::default()).collect();
        let mut tcp = Vec::new();
        for listen in &settings.listen {
            let entrance = Entrance { listener: tcp.len(), direct: false, ..entrance_of(listen, settings) };
            let (address, fds) = patiently(|| open_tcp(listen.address, settings))
                .map_err(|error| in_use(listen.address, &error))?;
            tcp.push(address);
            for (place, fd) in per_shard.iter_mut().zip(fds) {
                place.streams.push((fd, entrance));
            }
        }
        let direct = open_direct(settings, tcp.len(), &mut per_shard)?;
        let mut udp = Vec::new();
        for &address in &settings.udp {
            let (address, fds) =
                patiently(|| open_udp(address, settings.threads)).map_err(|error| in_use(address, &error))?;
            udp.push(address);
            for (place, fd) in per_shard.iter_mut().zip(fds) {
                place.datagrams.push(fd);
            }
        }
        let unix = settings.unix.as_ref().map(|unix| open_unix(unix, settings.backlog)).transpose()?;
        let cluster = settings.cluster.as_ref().map(|cluster| open_peers(cluster.listen, settings.backlog));
        let cluster = cluster.transpose()?;
        Ok(Self { per_shard, unix, cluster, tcp, direct, udp })
    }

    /// Where clients find the node, for people.
    pub fn addresses(&self) -> String {
        let unix = self.unix.iter().map(|unix| format!("unix:{}", unix.file.path.display()));
        let udp = self.udp.iter().map(|address| format!("udp:{address}"));
        self.tcp.iter().map(ToString::to_string).chain(udp).chain(unix).collect::<Vec<_>>().join(", ")
    }

    /// Each as `stats conns` shows it: those for TCP in their order, those of shards, then the unix socket.
    pub fn names(&self) -> Vec<String> {
        let tcp = self.tcp.iter().chain(&self.direct).map(|address| {
            let family = if address.is_ipv4() { "tcp" } else { "tcp6" };
            format!("{family}:{address}")
        });
        tcp.chain(self.unix.iter().map(|unix| format!("unix:{}", unix.file.path.display()))).collect()
    }

    /// Writes the ports to a file, whole or not at all, as memcached does for who asked for any free port.
    pub fn write_ports(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for (transport, addresses) in [("TCP", &self.tcp), ("UDP", &self.udp)] {
            for address in addresses {
                let family = if address.is_ipv4() { "INET" } else { "INET6" };
                writeln!(text, "{transport} {family}: {}", address.port())?;
            }
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".lck");
        let cannot = || format!("cannot write the ports to {}", path.display());
        std::fs::write(&unfinished, text).with_context(cannot)?;
        std::fs::rename(&unfinished, path).with_context(cannot)
    }
}

/// Opens what may be in use for a moment still: about a second.
fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..TRIES {
        match open() {
            Err(error) if error.kind() == ErrorKind::AddrInUse => thread::sleep(TRY_PAUSE),
            opened => return opened,
        }
    }
    open()
}

fn in_use(address: SocketAddr, error: &io::Error) -> Refused {
    let remedy = match error.kind() {
        ErrorKind::AddrInUse => {
            "is another server running there? choose another port (-p, --shard-ports) or address (-l)"
        }
        ErrorKind::AddrNotAvailable => "no interface of this machine has that address (-l)",
        ErrorKind::PermissionDenied => "ports below 1024 are for root; choose another (-p)",
        _ => "choose another address (-l) or port (-p)",
    };
    Refused { text: format!("cannot listen on {address}: {error}: {remedy}"), exit_code: EXIT_SYSTEM }
}

fn entrance_of(listen: &Listen, settings: &Settings) -> Entrance {
    let protocol = listen.protocol.unwrap_or(settings.protocol);
    Entrance { listener: 0, direct: true, tls: listen.tls, protocol }
}

/// Opens a port for each shard on each address, if that is asked for, and returns where. `names` are taken before.
fn open_direct(settings: &Settings, names: usize, shards: &mut [ShardListeners]) -> Result<Vec<SocketAddr>> {
    let Some(base) = settings.shard_ports else { return Ok(Vec::new()) };
    let mut opened: Vec<SocketAddr> = Vec::new();
    for listen in &settings.listen {
        let ip = listen.address.ip();
        if opened.iter().any(|known| known.ip() == ip) {
            continue;
        }
        for (port, shard) in (base..).zip(&mut *shards) {
            let address = SocketAddr::new(ip, port);
            let open = || {
                let socket = bind_tcp(address, false)?;
                socket.listen(settings.backlog).map(|()| OwnedFd::from(socket))
            };
            let fd = patiently(open).map_err(|error| in_use(address, &error))?;
            let entrance = Entrance { listener: names + opened.len(), ..entrance_of(listen, settings) };
            shard.streams.push((fd, entrance));
            opened.push(address);
        }
    }
    Ok(opened)
}

/// One listener per shard, all on the same port.
fn open_tcp(mut address: SocketAddr, settings: &Settings) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    // Shared ports would let a second node bind beside the first without a word; a plain socket does not. It does not listen:
    // who connected to it would be reset when it goes.
    address.set_port(TcpListener::from(bind_tcp(address, false)?).local_addr()?.port());
    let listen = |_| {
        let socket = bind_tcp(address, true)?;
        socket.listen(settings.backlog)?;
        Ok(socket.into())
    };
    Ok((address, (0..settings.threads).map(listen).collect::<io::Result<_>>()?))
}

/// The listener for other nodes: one, since each connection says which shard it wants.
fn open_peers(address: SocketAddr, backlog: i32) -> Result<TcpListener> {
    let open = || {
        let socket = bind_tcp(address, false)?;
        socket.listen(backlog)?;
        Ok(socket.into())
    };
    patiently(open).map_err(|error: io::Error| {
        let text = format!("cannot listen on {address} for other nodes: {error}; see --peer-listen");
        Refused { text, exit_code: EXIT_SYSTEM }.into()
    })
}

/// One socket per shard, all on the same port.
fn open_udp(mut address: SocketAddr, threads: u16) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    // As for TCP: a plain socket finds out whether another server is there.
    address.set_port(bind_udp(address, false)?.local_addr()?.port());
    let bind = |_| Ok(bind_udp(address, true)?.into());
    Ok((address, (0..threads).map(bind).collect::<io::Result<_>>()?))
}

fn bind_udp(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Accepted sockets inherit the options set here.
fn bind_tcp(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new())?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn open_unix(unix: &UnixListen, backlog: i32) -> Result<UnixEntrance, Refused> {
    let path = unix.path.as_path();
    let refused = |what: &dyn std::fmt::Display| Refused {
        text: format!("-s {}: {what}", path.display()),
        exit_code: EXIT_SYSTEM,
    };
    remove_stale(path).map_err(|what| refused(&what))?;
    let bound = bind_unix(path, unix.mode, backlog).map_err(|error| refused(&error))?;
    Ok(UnixEntrance { listener: bound, file: SocketFile::new(path) })
}

/// Makes room for a socket where an earlier server has left its own.
fn remove_stale(path: &Path) -> Result<(), String> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err("there is a file of that name that is no socket; choose another path".into());
    }
    match UnixStream::connect(path) {
        Ok(_) => Err("another server listens there; stop it or choose another path".into()),
        Err(_) => {
            std::fs::remove_file(path).map_err(|error| format!("cannot remove the stale socket: {error}"))
        }
    }
}

fn bind_unix(path: &Path, mode: u32, backlog: i32) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    // Nobody can connect before it listens.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_goes_with_its_server_and_never_with_the_one_before() {
        let folder = std::env::temp_dir().join(format!("slabring-listeners-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let unix = UnixListen { path: folder.join("socket"), mode: 0o600 };
        let Ok(first) = open_unix(&unix, 8) else { panic!("the first binds") };
        drop(first.listener);
        let Ok(second) = open_unix(&unix, 8) else { panic!("the first listens no more") };
        drop(first.file);
        assert!(UnixStream::connect(&unix.path).is_ok(), "the first took the file of the second with it");
        drop(second);
        assert!(!unix.path.exists());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_address_that_becomes_free_in_a_moment_is_taken_and_another_error_is_told_at_once() {
        let outcome_of = |in_use: u32, then: fn() -> io::Result<()>| {
            let mut tries = 0;
            let outcome = patiently(|| {
                tries += 1;
                if tries <= in_use { Err(ErrorKind::AddrInUse.into()) } else { then() }
            });
            (outcome.map_err(|error| error.kind()), tries)
        };
        assert_eq!(outcome_of(3, || Ok(())), (Ok(()), 4));
        let denied = || Err(ErrorKind::PermissionDenied.into());
        assert_eq!(outcome_of(0, denied), (Err(ErrorKind::PermissionDenied), 1));
        assert_eq!(outcome_of(u32::MAX, || Ok(())), (Err(ErrorKind::AddrInUse), TRIES));
    }
}
