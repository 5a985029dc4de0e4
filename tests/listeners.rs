//! Where a server listens and what is spoken there: several addresses, unix sockets, TLS.
#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rcgen::CertifiedKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use slabring_cluster::placement::{hash_key, shard_of};
use slabring_tests::connection::Connection;
use slabring_tests::process::{Finished, run_to_end};
use slabring_tests::server::{free_address, free_ports, slabring_command};
use slabring_tests::{Server, Signal, announce_skip};

const BACKENDS: [&str; 2] = ["uring", "epoll"];

/// Time for any single step, long because the machine may be compiling too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A handshake that stalls is given up after 10 s; the check comes by once a second. The rest is for a busy machine.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(50);

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slabring-{name}-{}", std::process::id()));
        // What a killed test left behind.
        std::fs::remove_dir_all(&path).ok();
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Writes a fresh certificate for localhost and its key.
    fn certify(&self, name: &str) -> Identity {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (chain, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        std::fs::write(&chain, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        Identity { chain, key }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

struct Identity {
    chain: String,
    key: String,
}

impl Identity {
    fn option(&self) -> String {
        format!("ssl_chain_cert={},ssl_key={}", self.chain, self.key)
    }
}

/// A server that is found by other means than a TCP port. Dropping it kills it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

fn spawn(args: &[&str]) -> Process {
    let mut command = slabring_command();
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Process(command.spawn().unwrap())
}

#[track_caller]
fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(found) = attempt() {
            return found;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} does not happen within {PATIENCE:?}");
}

#[track_caller]
fn check_refused(args: &[&str], words: &[&str]) {
    let Finished { status, stderr, .. } = run_to_end(slabring_command().args(args), PATIENCE).unwrap();
    assert!(!status.success(), "{args:?} is accepted");
    assert!(words.iter().all(|word| stderr.contains(word)), "{args:?}: {stderr}");
}

/// Says a command and checks the whole answer.
#[track_caller]
fn check_answer(stream: &mut (impl Read + Write), command: &str, answer: &str) {
    stream.write_all(command.as_bytes()).unwrap();
    let mut got = vec![0; answer.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), answer);
}

/// Reads to the end, which may be a reset.
fn read_to_close(stream: &mut impl Read) -> Vec<u8> {
    let mut got = Vec::new();
    match stream.read_to_end(&mut got) {
        Ok(_) => got,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => got,
        Err(error) => panic!("no end: {error}"),
    }
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A TLS client that trusts one certificate and may show its own.
fn tls(stream: TcpStream, trusted: &str, own: Option<&Identity>) -> Tls {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_file(&own.chain).unwrap()];
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&own.key).unwrap()).unwrap()
        }
    };
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

#[test]
fn one_server_listens_on_several_addresses_of_both_families() {
    let other = free_address().port().to_string();
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let more = format!("127.0.0.2,127.0.0.1:{other}{}", if has_ipv6 { ",[::1]" } else { "" });
    if !has_ipv6 {
        announce_skip("no IPv6 here");
    }
    for io in BACKENDS {
        let Some(server) = Server::start_over(io, &["-t", "2", "-l", &more]) else { continue };
        let port = server.address().port();
        server.connect().set("key", "value");
        let mut addresses = vec![format!("127.0.0.2:{port}"), format!("127.0.0.1:{other}")];
        addresses.extend(has_ipv6.then(|| format!("[::1]:{port}")));
        for address in addresses {
            let mut connection = Connection::open(address.parse().unwrap()).unwrap();
            assert_eq!(connection.get("key").as_deref(), Some(&b"value"[..]), "--io {io} {address}");
        }
    }
}

#[test]
fn any_free_port_is_found_and_told_in_a_file() {
    let directory = Directory::new("ports");
    let file = directory.path("ports");
    let mut command = slabring_command();
    command.args(["-p", "-1", "-l", "127.0.0.1", "-t", "2"]).env("MEMCACHED_PORT_FILENAME", &file);
    let _server = Process(command.stderr(Stdio::null()).spawn().unwrap());
    let ports = wait_for("a file with ports", || std::fs::read_to_string(&file).ok());
    let port = ports.trim().strip_prefix("TCP INET: ").expect(&ports).parse::<u16>().unwrap();
    let mut connection = wait_for("a server there", || Connection::open(([127, 0, 0, 1], port).into()).ok());
    assert!(connection.command("version").starts_with("VERSION"));
}

#[test]
fn a_unix_socket_serves_whom_its_mask_lets_and_no_network() {
    for io in BACKENDS {
        let directory = Directory::new(&format!("unix-{io}"));
        let path = directory.path("sock");
        let port = free_address().port().to_string();
        let server = spawn(&["-s", &path, "-a", "0640", "-p", &port, "-t", "2", "--io", io]);
        let mut first = wait_for("a server there", || UnixStream::connect(&path).ok());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        check_answer(&mut first, "set key 0 0 5\r\nvalue\r\n", "STORED\r\n");
        // More than there are shards: each shard gets some.
        for _ in 0..8 {
            let mut other = UnixStream::connect(&path).unwrap();
            check_answer(&mut other, "get key\r\n", "VALUE key 0 5\r\nvalue\r\nEND\r\n");
        }
        assert!(
            TcpStream::connect(("127.0.0.1", port.parse().unwrap())).is_err(),
            "the network is served too"
        );
        check_refused(&["-s", &path], &[&path, "another server listens there"]);
        check_answer(&mut first, "get key\r\n", "VALUE key 0 5\r\nvalue\r\nEND\r\n");
        drop(server);
        // It was killed, so its socket is still there, and in nobody's way.
        assert!(Path::new(&path).exists());
        let _next = spawn(&["-s", &path, "-t", "1", "--io", io]);
        wait_for("the next server", || UnixStream::connect(&path).ok());
    }
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let directory = Directory::new("file");
    let path = directory.path("precious");
    std::fs::write(&path, "data").unwrap();
    check_refused(&["-s", &path], &[&path, "no socket"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    drop(UnixListener::bind(directory.path("stale")).unwrap());
    let _server = spawn(&["-s", &directory.path("stale"), "-t", "1"]);
    wait_for("a server in place of a stale socket", || UnixStream::connect(directory.path("stale")).ok());
}

#[test]
fn tls_serves_small_and_large_values_and_ends_in_order() {
    const LARGE: usize = 900_000;
    let directory = Directory::new("tls");
    let identity = directory.certify("server");
    for io in BACKENDS {
        let args = ["-t", "2", "-Z", "-o", &identity.option()];
        let Some(server) = Server::start_over(io, &args) else { continue };
        let mut client = tls(connect(&server), &identity.chain, None);
        check_answer(
            &mut client,
            "set key 0 0 5\r\nvalue\r\nget key\r\n",
            "STORED\r\nVALUE key 0 5\r\nvalue\r\nEND\r\n",
        );
        let value = "v".repeat(LARGE);
        check_answer(&mut client, &format!("set large 0 0 {LARGE}\r\n{value}\r\n"), "STORED\r\n");
        let block = format!("VALUE large 0 {LARGE}\r\n{value}\r\nEND\r\n");
        check_answer(&mut client, &"get large\r\n".repeat(20), &block.repeat(20));
        let mut leaving = tls(connect(&server), &identity.chain, None);
        check_answer(&mut leaving, "version\r\n", "VERSION 1.6.45\r\n");
        leaving.conn.send_close_notify();
        leaving.flush().unwrap();
        // The server ends too, though the socket is open in both directions.
        assert_eq!(leaving.read_to_end(&mut Vec::new()).unwrap(), 0, "--io {io}");
        client.write_all(b"quit\r\n").unwrap();
        // An end without goodbye would be an error here.
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0, "--io {io}");
    }
}

#[test]
fn openssl_speaks_both_versions_with_it() {
    if Command::new("openssl").arg("version").output().is_err() {
        return announce_skip("openssl is not installed");
    }
    let directory = Directory::new("openssl");
    let identity = directory.certify("server");
    let server = Server::start(&["-t", "2", "-Z", "-o", &identity.option()]).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-verify_return_error", "-CAfile", &identity.chain, version]);
        openssl.args(["-servername", "localhost", "-connect", &server.address().to_string()]);
        openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Process(openssl.spawn().unwrap());
        child.0.stdin.as_mut().unwrap().write_all(b"version\r\nquit\r\n").unwrap();
        let mut answer = String::new();
        child.0.stdout.as_mut().unwrap().read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("VERSION "), "{version}: {answer:?}");
    }
}

#[test]
fn clients_without_a_good_certificate_are_turned_away_where_one_is_asked_for() {
    let directory = Directory::new("mutual");
    let (identity, good, bad) =
        (directory.certify("server"), directory.certify("good"), directory.certify("bad"));
    let other = free_address().port().to_string();
    let options = format!("{},ssl_ca_cert={},ssl_verify_mode=2", identity.option(), good.chain);
    let plain = format!("notls:127.0.0.1:{other}");
    let server = Server::start(&["-t", "2", "-Z", "-o", &options, "-l", &plain]).unwrap();
    check_answer(&mut tls(connect(&server), &identity.chain, Some(&good)), "mn\r\n", "MN\r\n");
    for own in [None, Some(&bad)] {
        let mut client = tls(connect(&server), &identity.chain, own);
        // The refusal may come with the handshake or with the first answer.
        let outcome = client.write_all(b"mn\r\n").and_then(|()| client.read_exact(&mut [0; 4]));
        assert!(outcome.is_err(), "a client without a good certificate is served");
    }
    let mut client = Connection::open(([127, 0, 0, 1], other.parse().unwrap()).into()).unwrap();
    assert_eq!(client.command("mn"), "MN");
}

#[test]
fn what_is_no_tls_on_a_tls_port_and_tls_on_a_plain_one_are_closed() {
    let directory = Directory::new("garbage");
    let identity = directory.certify("server");
    for io in BACKENDS {
        let args = ["-t", "2", "-Z", "-o", &identity.option()];
        let Some(server) = Server::start_over(io, &args) else { continue };
        let noise: Vec<u8> =
            (0..100_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        for words in [&b"get a\r\n"[..], b"\x80\x0a\0\0", b"\x16\x03\x01\xff\xff", &noise] {
            let mut client = connect(&server);
            // It may be closed while the noise is still being sent.
            client.write_all(words).ok();
            client.shutdown(std::net::Shutdown::Write).ok();
            let answer = read_to_close(&mut client);
            assert!(answer.len() < 64 && !answer.starts_with(b"END"), "--io {io}: {answer:?}");
        }
        check_answer(&mut tls(connect(&server), &identity.chain, None), "mn\r\n", "MN\r\n");

        let Some(plain) = Server::start_over(io, &["-t", "2"]) else { continue };
        let mut client = tls(connect(&plain), &identity.chain, None);
        let start = Instant::now();
        assert!(client.write_all(b"mn\r\n").and_then(|()| client.flush()).is_err());
        assert!(start.elapsed() < PATIENCE / 2, "--io {io} leaves a TLS client waiting");
    }
}

#[test]
fn a_handshake_that_stalls_is_closed_and_holds_up_nobody() {
    let directory = Directory::new("stall");
    let identity = directory.certify("server");
    let server = Server::start(&["-t", "2", "-Z", "-o", &identity.option()]).unwrap();
    let mut silent = connect(&server);
    let mut half = connect(&server);
    half.write_all(b"\x16\x03\x01\x02\x00\x01\x00").unwrap();
    check_answer(&mut tls(connect(&server), &identity.chain, None), "mn\r\n", "MN\r\n");
    let start = Instant::now();
    assert_eq!((read_to_close(&mut silent), read_to_close(&mut half)), (Vec::new(), Vec::new()));
    assert!(start.elapsed() < HANDSHAKE_PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn new_connections_get_the_certificate_that_sighup_finds_unless_it_is_bad() {
    let directory = Directory::new("reload");
    let (old, new) = (directory.certify("old"), directory.certify("new"));
    let used = Identity { chain: directory.path("used.pem"), key: directory.path("used.key") };
    let install = |identity: &Identity| {
        std::fs::copy(&identity.chain, &used.chain).unwrap();
        std::fs::copy(&identity.key, &used.key).unwrap();
    };
    install(&old);
    let server = Server::start(&["-t", "2", "-Z", "-o", &used.option()]).unwrap();
    let mut before = tls(connect(&server), &old.chain, None);
    check_answer(&mut before, "mn\r\n", "MN\r\n");

    install(&new);
    server.signal(Signal::Reload);
    server.wait_until_says("are read");
    check_answer(&mut tls(connect(&server), &new.chain, None), "mn\r\n", "MN\r\n");
    check_answer(&mut before, "mn\r\n", "MN\r\n");

    // The key of another certificate.
    std::fs::copy(&old.chain, &used.chain).unwrap();
    server.signal(Signal::Reload);
    server.wait_until_says("stay as they were");
    server.wait_until_says(&used.key);
    check_answer(&mut tls(connect(&server), &new.chain, None), "mn\r\n", "MN\r\n");
}

#[test]
fn bad_certificate_files_are_refused_by_name() {
    let directory = Directory::new("bad");
    let (one, other) = (directory.certify("one"), directory.certify("other"));
    let missing = directory.path("missing");
    let empty = directory.path("empty");
    std::fs::write(&empty, "").unwrap();
    for (chain, key, word) in [
        (&missing, &one.key, &missing),
        (&empty, &one.key, &empty),
        (&one.chain, &missing, &missing),
        (&one.chain, &empty, &empty),
        (&one.chain, &other.key, &other.key),
    ] {
        let options = format!("ssl_chain_cert={chain},ssl_key={key}");
        check_refused(&["-Z", "-o", &options], &["Error loading the", word]);
        check_refused(&["--check-config", "-Z", "-o", &options], &[word]);
    }
}

/// A datagram client: sends requests with numbers and puts replies together.
struct Datagrams(UdpSocket);

impl Datagrams {
    fn new(from: &str, to: &str) -> Self {
        let socket = UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(to).unwrap();
        Self(socket)
    }

    fn send(&self, id: u16, request: &[u8]) {
        let header = [id.to_be_bytes(), [0, 0], [0, 1], [0, 0]].concat();
        self.0.send(&[&header, request].concat()).unwrap();
    }

    /// The reply to a request, from datagrams in any order; checks each one's header and size.
    fn receive(&self, id: u16) -> Vec<u8> {
        let mut parts = std::collections::BTreeMap::new();
        loop {
            let mut datagram = [0; 65536];
            let length = self.0.recv(&mut datagram).expect("a reply");
            assert!((9..=1400).contains(&length), "a datagram of {length} bytes");
            let number = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
            assert_eq!((number(0), number(6)), (id, 0));
            parts.insert(number(2), datagram[8..length].to_vec());
            if parts.len() == usize::from(number(4)) {
                return parts.into_values().collect::<Vec<_>>().concat();
            }
        }
    }

    #[track_caller]
    fn check(&self, id: u16, request: &[u8], reply: &[u8]) {
        self.send(id, request);
        let got = self.receive(id);
        assert!(got == reply, "{}: {}", request.escape_ascii(), got.escape_ascii());
    }
}

#[test]
fn datagrams_are_answered_in_text_and_binary_and_in_as_many_as_it_takes() {
    const LARGE: usize = 20_000;
    for io in BACKENDS {
        let udp = free_address();
        let port = udp.port().to_string();
        let Some(server) = Server::start_over(io, &["-t", "2", "-U", &port]) else { continue };
        // Keys of both shards.
        let keys: Vec<_> = (0..20).map(|number| format!("key{number}")).collect();
        let mut writer = server.connect();
        keys.iter().for_each(|key| writer.set(key, key));
        let value = "v".repeat(LARGE);
        writer.set("large", &value);
        // Each client may meet another shard.
        for _ in 0..4 {
            let client = Datagrams::new("127.0.0.1:0", &udp.to_string());
            for (id, key) in (1000..).zip(&keys) {
                let reply = format!("VALUE {key} 0 {}\r\n{key}\r\nEND\r\n", key.len());
                client.check(id, format!("get {key}\r\n").as_bytes(), reply.as_bytes());
            }
            let both = format!("get {} {}\r\n", keys[0], keys[1]);
            let blocks = format!("VALUE {0} 0 4\r\n{0}\r\nVALUE {1} 0 4\r\n{1}\r\nEND\r\n", keys[0], keys[1]);
            client.check(7, both.as_bytes(), blocks.as_bytes());
            client.check(8, b"set small 0 0 3\r\nabc\r\n", b"STORED\r\n");
            client.check(0xffff, b"get small\r\n", b"VALUE small 0 3\r\nabc\r\nEND\r\n");
            let reply = format!("VALUE large 0 {LARGE}\r\n{value}\r\nEND\r\n");
            client.check(9, b"get large\r\n", reply.as_bytes());
            // A binary noop, with its opaque.
            let noop = |magic: u8| [&[magic, 0x0a][..], &[0; 10], b"opaq", &[0; 8]].concat();
            client.check(10, &noop(0x80), &noop(0x81));
        }
    }
}

#[test]
fn bad_datagrams_are_dropped_and_hold_up_nobody() {
    for io in BACKENDS {
        let udp = free_address();
        let port = udp.port().to_string();
        let Some(mut server) = Server::start_over(io, &["-t", "2", "-U", &port]) else { continue };
        // Whoever answers has opened all its sockets: that of datagrams comes behind the one that the harness found.
        server.wait_until_answering();
        let client = Datagrams::new("127.0.0.1:0", &udp.to_string());
        for bad in [&b""[..], b"\0\x01", b"\0\x01\0\0\0\x01\0\0", b"\0\x01\0\0\0\x02\0\0get a\r\n"] {
            client.0.send(bad).unwrap();
        }
        // Without its end, without its value, from one who leaves.
        for incomplete in
            [&b"get a"[..], b"set a 0 0 10000\r\nabc", b"quit\r\n", b"\x80\x00\xff", &[b'x'; 60_000]]
        {
            client.send(5, incomplete);
        }
        client.send(6, b"mn\r\n");
        assert_eq!(client.receive(6), b"MN\r\n", "--io {io}");
        assert!(server.is_running() && server.connect().command("mn") == "MN");
    }
}

#[test]
fn a_large_reply_leaves_the_machine_only_if_that_is_allowed() {
    // Asks for the address that packets to others leave from; sends nothing.
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr());
    let Some(own) = own.ok().filter(|address| !address.ip().is_loopback()) else {
        return announce_skip("this machine has no address but loopback");
    };
    let address = own.ip().to_string();
    for (allowed, args) in [(false, &[][..]), (true, &["--udp-allow-large"])] {
        let udp = free_address();
        let port = udp.port().to_string();
        let server = Server::start(&[&["-t", "1", "-l", &address, "-U", &port], args].concat());
        let server = server.expect("slabring starts");
        server.connect().set("large", "v".repeat(2000));
        let client = Datagrams::new(&format!("{}:0", own.ip()), &format!("{}:{port}", own.ip()));
        client.send(1, b"get large\r\n");
        client.send(2, b"mn\r\n");
        if allowed {
            assert!(client.receive(1).len() > 2000);
        }
        assert_eq!(client.receive(2), b"MN\r\n");
    }
}

/// Server CPU time of the same pipelined gets in plain text and over TLS. By hand, in release:
/// `cargo test --release -p slabring-tests --test listeners -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for an idle machine and a release build"]
fn tls_keeps_three_fifths_of_the_plain_throughput_per_cpu_second() {
    const DEPTH: usize = 16;
    const ROUNDS: usize = 60_000;
    let directory = Directory::new("speed");
    let identity = directory.certify("server");
    let value = "v".repeat(32);
    let request = "get key\r\n".repeat(DEPTH);
    let answer = format!("VALUE key 0 32\r\n{value}\r\nEND\r\n").repeat(DEPTH);
    let measure = |server: &Server, stream: &mut dyn FnMut(&str, &mut [u8])| {
        let mut got = vec![0; answer.len()];
        let before = server.cpu_time();
        let start = Instant::now();
        for _ in 0..ROUNDS {
            stream(&request, &mut got);
        }
        assert!(got == answer.as_bytes());
        ((server.cpu_time() - before).as_secs_f64(), start.elapsed().as_secs_f64())
    };
    let set = format!("set key 0 0 32\r\n{value}\r\n");
    for _ in 0..3 {
        let plain_server = Server::start(&["-t", "1"]).unwrap();
        let mut plain = connect(&plain_server);
        plain.set_nodelay(true).unwrap();
        check_answer(&mut plain, &set, "STORED\r\n");
        let (plain_cpu, plain_wall) = measure(&plain_server, &mut |request, got| {
            plain.write_all(request.as_bytes()).unwrap();
            plain.read_exact(got).unwrap();
        });
        let tls_server = Server::start(&["-t", "1", "-Z", "-o", &identity.option()]).unwrap();
        let stream = connect(&tls_server);
        stream.set_nodelay(true).unwrap();
        let mut sealed = tls(stream, &identity.chain, None);
        check_answer(&mut sealed, &set, "STORED\r\n");
        let (tls_cpu, tls_wall) = measure(&tls_server, &mut |request, got| {
            sealed.write_all(request.as_bytes()).unwrap();
            sealed.read_exact(got).unwrap();
        });
        let operations = f64::from(u32::try_from(ROUNDS * DEPTH).unwrap());
        println!(
            "plain {:.0} k op/CPU s ({:.0} k op/s), TLS {:.0} k op/CPU s ({:.0} k op/s): {:.2}",
            operations / plain_cpu / 1e3,
            operations / plain_wall / 1e3,
            operations / tls_cpu / 1e3,
            operations / tls_wall / 1e3,
            plain_cpu / tls_cpu
        );
    }
}

#[test]
fn a_shard_port_leads_to_the_owner_of_its_keys_without_a_way_between_threads() {
    const SHARDS: u16 = 3;
    for io in BACKENDS {
        let base = free_ports(SHARDS);
        let base_text = base.to_string();
        let args = ["-t", "3", "-l", "127.0.0.2", "--shard-ports", &base_text];
        let Some(server) = Server::start_over(io, &args) else { continue };
        let mut common = server.connect();
        assert_eq!(common.stat("slabring_shard_ports"), u64::from(base));
        let [mut first, mut second] = ["127.0.0.1", "127.0.0.2"].map(|ip| -> Vec<Connection> {
            (base..base + SHARDS)
                .map(|port| Connection::open((ip.parse::<std::net::IpAddr>().unwrap(), port).into()).unwrap())
                .collect()
        });
        let mut owned = [0; SHARDS as usize];
        for key in (0..60).map(|number| format!("key:{number}")) {
            common.set(&key, &key);
            let owner = usize::from(shard_of(hash_key(key.as_bytes()), SHARDS));
            owned[owner] += 1;
            let before = common.stat("slabring_requests_posted");
            for direct in [&mut first[owner], &mut second[owner]] {
                assert_eq!(direct.get(&key).as_deref(), Some(key.as_bytes()));
            }
            assert_eq!(
                common.stat("slabring_requests_posted"),
                before,
                "{key} of shard {owner} took the long way"
            );
        }
        assert!(owned.iter().all(|&keys| keys > 5), "{owned:?}");
        server.wait_until_says(&format!("its shards on the ports {base} to {}", base + SHARDS - 1));
    }
}

#[test]
fn a_shard_port_that_is_taken_is_named() {
    let base = free_ports(2);
    let taken = TcpListener::bind(("127.0.0.1", base + 1)).unwrap();
    let port = free_address().port().to_string();
    let address = taken.local_addr().unwrap().to_string();
    check_refused(
        &["-p", &port, "-t", "2", "--shard-ports", &base.to_string()],
        &[&address, "--shard-ports"],
    );
}

#[test]
fn few_connections_are_spread_over_all_shards() {
    for io in BACKENDS {
        let Some(server) = Server::start_over(io, &["-t", "2"]) else { continue };
        let mut first = server.connect();
        let wait_for_others = |first: &mut Connection| {
            wait_for("an end of all others", || (first.stat("curr_connections") == 1).then_some(()));
        };
        // Whoever looked whether it listens may still be there.
        wait_for_others(&mut first);
        // Chance alone would put eight or more of ten on one shard nine times of a hundred; here it never may.
        for _ in 0..5 {
            let mut others: Vec<_> = (1..10).map(|_| server.connect()).collect();
            for (number, connection) in others.iter_mut().enumerate() {
                connection.set(&format!("key:{number}"), "value");
            }
            let numbers = connection_numbers(&mut first);
            let odd = numbers.iter().filter(|number| *number % 2 == 1).count();
            assert_eq!((numbers.len(), odd), (10, 5), "{numbers:?}");
            drop(others);
            wait_for_others(&mut first);
        }
    }
}

/// Lower numbers are those of listeners.
const LISTENERS_MAX: u64 = 16;

/// The numbers of all clients. Those of two shards are odd and even.
fn connection_numbers(connection: &mut Connection) -> Vec<u64> {
    connection.send("stats conns\r\n").unwrap();
    let mut numbers = Vec::new();
    loop {
        let line = String::from_utf8(connection.read_line().unwrap()).unwrap();
        if line == "END" {
            return numbers;
        }
        if let Some((number, _)) = line.trim_start_matches("STAT ").split_once(":secs_since_last_cmd") {
            numbers.push(number.parse().unwrap());
            numbers.retain(|&number| number >= LISTENERS_MAX);
        }
    }
}
