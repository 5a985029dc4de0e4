//! How a server starts, refuses to start, and stops.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use slabring_tests::process::{Finished, run_to_end};
use slabring_tests::seccomp::refuse_io_uring;
use slabring_tests::server::{free_address, slabring_command, slabring_on_loopback};
use slabring_tests::tampering::{Tampering, Wait};
use slabring_tests::toolbox::find_program;
use slabring_tests::{Connection, Server, Signal, announce_skip};

/// Time a server has to stop once asked: it takes four seconds at most, and the machine may be compiling too.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Time a server has to say that it will not start.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(30);

/// A refusal is read in a terminal or a journal: more lines hide the one that matters.
const REFUSAL_LINES_MAX: usize = 6;

const BACKENDS: [&str; 2] = ["uring", "epoll"];

/// 127.0.0.1 and ::1, as the kernel shows them.
const LOOPBACK: [&str; 2] = ["0100007F", "00000000000000000000000001000000"];

fn start(io: &str) -> Option<Server> {
    Server::start_over(io, &["-t", "2"])
}

#[track_caller]
fn check_stop(signal: Signal) {
    for io in BACKENDS {
        let Some(mut server) = start(io) else { continue };
        server.connect().set("key", "value");
        let asked = Instant::now();
        server.signal(signal);
        let status = server.wait(STOP_TIMEOUT);
        let status = status.unwrap_or_else(|| panic!("--io {io} ignores {signal:?}: {}", server.stderr()));
        assert!(status.success(), "--io {io}: {signal:?} ends it with {status}: {}", server.stderr());
        println!("--io {io}: {signal:?} ends it within {:?}", asked.elapsed());
    }
}

/// Starts a server that must refuse, and checks that it says why in few words that hold each of `words`.
#[track_caller]
fn check_refusal(args: &[&str], words: &[&str]) {
    let Finished { status, stderr, .. } =
        run_to_end(slabring_command().args(args), REFUSAL_TIMEOUT).expect("a refused server ends");
    assert!(!status.success(), "{args:?} is accepted");
    assert!(status.code().is_some(), "{args:?} ends by a signal: {status}: {stderr}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?} is refused without a word of {word:?}: {stderr}");
    }
    let line_count = stderr.lines().filter(|line| !line.trim().is_empty()).count();
    assert!((1..=REFUSAL_LINES_MAX).contains(&line_count), "{args:?} takes {line_count} lines: {stderr}");
}

/// Slabring where the kernel refuses io_uring to it, as containers do by default.
fn slabring_without_uring() -> Command {
    let mut command = slabring_on_loopback();
    refuse_io_uring(&mut command);
    command
}

#[test]
fn sigterm_ends_it_in_time_with_code_0() {
    check_stop(Signal::Terminate);
}

#[test]
fn sigint_ends_it_in_time_with_code_0() {
    check_stop(Signal::Interrupt);
}

#[test]
fn a_shard_that_cannot_go_on_ends_the_whole_node_with_a_reason() {
    for io in BACKENDS {
        let Some(mut server) = start(io) else { continue };
        server.wait_until_answering();
        let Some(_tampering) = Tampering::begin(&server, "shard-1", Wait::Fails) else { return };
        let status = server.wait(REFUSAL_TIMEOUT);
        let status = status.unwrap_or_else(|| panic!("--io {io}: half a node lives: {}", server.stderr()));
        assert_eq!(status.code(), Some(1), "--io {io}: {}", server.stderr());
        server.wait_until_says("shard 1 cannot go on");
    }
}

#[test]
fn a_shard_that_hangs_is_told_of_and_questions_to_all_shards_are_refused_until_it_is_back() {
    let server = start("auto").expect("epoll is everywhere");
    // Few clients are spread evenly: some of each shard, also where the connection with which the harness found the server counts yet.
    let mut clients: Vec<_> = [(); 6].map(|()| server.connect()).into();
    clients.iter_mut().for_each(|client| assert_eq!(client.stat("slabring_shard_silences"), 0));
    let Some(tampering) = Tampering::begin(&server, "shard-1", Wait::Hangs) else { return };
    clients.iter_mut().for_each(|client| client.send("stats\r\n").unwrap());
    server.wait_until_says("shard 1 has made no turn for 5 s");
    // Who hangs as well says nothing, however long one waits.
    let mut later = (0..40).map(|turn: usize| {
        let client = &mut clients[turn % 6];
        client.stream().set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        client.read_line()
    });
    let refused = later.find_map(Result::ok).expect("a client of the other shard is answered");
    assert!(refused.starts_with(b"SERVER_ERROR a shard of this node does not answer"), "{refused:?}");
    drop(tampering);
    server.wait_until_says("shard 1 turns again");
    assert_eq!(served(&server).stat("slabring_shard_silences"), 1);
}

#[test]
fn sigterm_ends_it_in_order_while_clients_come_and_go() {
    for io in BACKENDS {
        let Some(mut server) = start(io) else { continue };
        let address = server.address();
        let stop = AtomicBool::new(false);
        let status = thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        // A server that has stopped refuses; that is what the loop waits for.
                        match Connection::open(address) {
                            Ok(mut connection) => drop(connection.send("get a\r\n")),
                            Err(_) => thread::sleep(Duration::from_millis(1)),
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(100));
            server.signal(Signal::Terminate);
            let status = server.wait(STOP_TIMEOUT);
            stop.store(true, Ordering::Relaxed);
            status
        });
        let status = status.unwrap_or_else(|| panic!("--io {io} does not end: {}", server.stderr()));
        assert!(status.success(), "--io {io} ends with {status}: {}", server.stderr());
    }
}

#[test]
fn a_client_that_reads_only_after_sigterm_gets_every_reply() {
    const REQUESTS: usize = 40_000;
    const SIZE: usize = 500;
    for io in BACKENDS {
        let Some(mut server) = start(io) else { continue };
        let mut connection = server.connect();
        connection.set("half", vec![b'h'; SIZE]);
        let mut writer = server.connect();
        writer.set("ready", "1");
        connection.stream().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let request = b"get half\r\n";
        let mut sent = 0;
        // As much as the kernel takes: the server stops reading when its replies are not read.
        while sent < REQUESTS && connection.send(request).is_ok() {
            sent += 1;
        }
        server.signal(Signal::Terminate);
        thread::sleep(Duration::from_millis(200));
        for number in 0..sent {
            let line = connection.read_line().unwrap_or_else(|error| {
                panic!("--io {io}: reply {number} of {sent} is missing: {error}; {}", server.stderr())
            });
            assert_eq!(line, format!("VALUE half 0 {SIZE}").as_bytes());
            connection.read_exact(SIZE + "\r\nEND\r\n".len()).unwrap();
        }
        assert!(server.wait(STOP_TIMEOUT).is_some_and(|status| status.success()));
    }
}

#[test]
fn what_was_received_before_sigterm_is_answered() {
    const REQUESTS: usize = 300;
    for io in BACKENDS {
        let Some(mut server) = start(io) else { continue };
        server.connect().set("key", "value");
        let mut connections: Vec<_> = (0..8).map(|_| server.connect()).collect();
        for connection in &mut connections {
            // One packet: when its first answer is here, all of it was received.
            connection.send("get key\r\n".repeat(REQUESTS)).unwrap();
            assert_eq!(connection.read_line().unwrap(), b"VALUE key 0 5");
        }
        server.signal(Signal::Terminate);
        for connection in &mut connections {
            let rest = connection.read_to_close().expect("the server closes");
            let rest = String::from_utf8(rest).unwrap();
            assert_eq!(rest.matches("END\r\n").count(), REQUESTS, "--io {io}");
            assert!(rest.ends_with("value\r\nEND\r\n"), "--io {io}");
        }
        let status = server.wait(STOP_TIMEOUT).expect("it ends in time");
        assert!(status.success(), "--io {io}: {status}");
    }
}

#[test]
fn idle_and_unfinished_connections_do_not_hold_up_the_end() {
    for io in BACKENDS {
        let Some(mut server) = start(io) else { continue };
        let idle: Vec<_> = (0..50).map(|_| server.connect()).collect();
        let mut unfinished = server.connect();
        unfinished.send("set key 0 0 1000\r\nabc").unwrap();
        let mut deaf = server.connect();
        deaf.set("large", vec![b'v'; 900_000]);
        deaf.send("get large\r\n".repeat(100)).unwrap();
        server.signal(Signal::Terminate);
        let status = server.wait(STOP_TIMEOUT);
        assert!(status.is_some_and(|status| status.success()), "--io {io}: {status:?}: {}", server.stderr());
        drop(idle);
    }
}

#[test]
fn a_stopped_server_frees_its_port() {
    let server = Server::start(&["-t", "2"]).expect("slabring starts");
    let address = server.address();
    let connection = server.connect();
    drop(server);
    drop(connection);
    TcpListener::bind(address).expect("the port is free again");
}

#[test]
fn a_port_in_use_is_named() {
    let holder = TcpListener::bind(free_address()).unwrap();
    let address = holder.local_addr().unwrap();
    let port = address.port().to_string();
    check_refusal(&["-l", "127.0.0.1", "-p", &port], &[&port, "in use"]);
    check_refusal(&["-l", "127.0.0.1", "-p", &port, "--io", "epoll"], &[&port, "in use"]);
}

#[test]
fn two_servers_cannot_share_a_port() {
    let first = Server::start(&["-t", "2"]).expect("slabring starts");
    let port = first.address().port().to_string();
    check_refusal(&["-l", "127.0.0.1", "-p", &port], &[&port, "in use"]);
}

#[test]
fn a_killed_server_starts_again_at_once_on_its_port() {
    let mut server = Server::start(&["-t", "2"]).expect("slabring starts");
    let address = server.address();
    for _ in 0..3 {
        let mut client = server.connect();
        client.set("key", "value");
        server.signal(Signal::Kill);
        server.wait(REFUSAL_TIMEOUT).expect("who is killed ends");
        server = Server::start_on(address, &["-t", "2"]).expect("the port is its own again");
        server.wait_until_answering();
        assert_eq!(server.connect().get("key"), None);
    }
}

#[test]
fn an_address_of_another_machine_is_named() {
    let port = free_address().port().to_string();
    check_refusal(&["-l", "192.0.2.1", "-p", &port], &["192.0.2.1"]);
    check_refusal(&["-l", "no such host", "-p", &port], &["no such host"]);
}

#[test]
fn a_bad_flag_is_named() {
    check_refusal(&["--nonsense"], &["--nonsense"]);
    check_refusal(&["-Q"], &["-Q"]);
    check_refusal(&["--io", "magic"], &["magic", "epoll"]);
    check_refusal(&["-t", "0"], &["0"]);
    check_refusal(&["-t", "many"], &["many"]);
    check_refusal(&["-p", "65536"], &["65536"]);
    check_refusal(&["-m", "lots"], &["lots"]);
    check_refusal(&["-c", "0"], &["0"]);
}

#[test]
fn a_bad_item_size_is_named() {
    check_refusal(&["-I", "100"], &["100"]);
    check_refusal(&["-I", "2g"], &["2g"]);
    check_refusal(&["-I", "some"], &["some"]);
    check_refusal(&["-m", "64", "-I", "60m"], &["60m"]);
}

#[test]
fn uring_is_refused_with_a_reason_and_a_remedy() {
    let mut command = slabring_without_uring();
    command.args(["-p", &free_address().port().to_string(), "--io", "uring"]);
    let Finished { status, stderr, .. } =
        run_to_end(&mut command, REFUSAL_TIMEOUT).expect("a refused server ends");
    assert!(!status.success() && status.code().is_some(), "{status}: {stderr}");
    assert!(stderr.contains("io_uring") && stderr.contains("epoll"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn auto_goes_on_with_epoll_and_says_why() {
    let server = Server::start_with(slabring_without_uring, &["-t", "2", "--io", "auto"])
        .expect("epoll is always there");
    let mut connection = server.connect();
    connection.set("key", "value");
    assert_eq!(connection.get("key").as_deref(), Some(&b"value"[..]));
    server.wait_until_says("io_uring");
    server.wait_until_says("epoll");
}

#[test]
fn help_is_readable() {
    const WIDTH_MAX: usize = 120;
    for flag in ["-h", "--help"] {
        let Finished { status, stdout, .. } =
            run_to_end(slabring_command().arg(flag), REFUSAL_TIMEOUT).expect("help ends");
        assert!(status.success(), "{flag}: {status}");
        for option in ["-p", "-l", "-m", "-t", "-c", "-I", "--io"] {
            assert!(stdout.contains(option), "{flag} is silent about {option}: {stdout}");
        }
        let too_wide = stdout.lines().find(|line| line.chars().count() > WIDTH_MAX);
        assert_eq!(too_wide, None, "{flag}");
    }
}

#[test]
fn the_version_is_one_line() {
    for flag in ["-V", "--version"] {
        let Finished { status, stdout, .. } =
            run_to_end(slabring_command().arg(flag), REFUSAL_TIMEOUT).expect("a version ends");
        assert!(status.success(), "{flag}: {status}");
        assert_eq!(stdout.lines().count(), 1, "{flag}: {stdout}");
        assert!(stdout.contains("slabring"), "{flag}: {stdout}");
    }
}

#[test]
fn nothing_listens_beyond_loopback_unless_told_to() {
    let server = Server::start_with(slabring_command, &["-t", "1"]).expect("slabring starts");
    let port = server.address().port();
    let listening =
        [listening_addresses("/proc/net/tcp", port), listening_addresses("/proc/net/tcp6", port)].concat();
    assert!(!listening.is_empty());
    assert!(listening.iter().all(|address| LOOPBACK.contains(&address.as_str())), "{listening:?}");
}

/// The local addresses, as the kernel shows them, where something listens on a port.
fn listening_addresses(table: &str, port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    // Without IPv6 there is no table of it.
    let table = std::fs::read_to_string(table).unwrap_or_default();
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let locals = rows.filter(|row| row[3] == LISTENING).map(|row| row[1].to_owned());
    let port = format!(":{port:04X}");
    locals.filter_map(|local| local.strip_suffix(&port).map(str::to_owned)).collect()
}

/// A file in the directory of temporary ones, removed at the end.
struct TextFile(PathBuf);

impl TextFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slabring-lifecycle-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("the temporary folder takes a file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("temporary names are UTF-8")
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        // The server may have removed it.
        std::fs::remove_file(&self.0).ok();
    }
}

/// A connection that is let in. The one with which the harness found the server may still count for a moment.
#[track_caller]
fn served(server: &Server) -> Connection {
    let start = Instant::now();
    loop {
        let mut client = server.connect();
        let answer = client.command("version");
        if answer.starts_with("VERSION") {
            return client;
        }
        assert!(start.elapsed() < REFUSAL_TIMEOUT, "{answer}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn sigusr1_ends_it_in_order_as_it_ends_memcached() {
    check_stop(Signal::Graceful);
}

#[test]
fn refusals_have_memcacheds_exit_codes() {
    for (args, code) in [
        (&["-c", "0"][..], 1),
        (&["-o", "nosuch"], 1),
        (&["-p", "70000"], 64),
        (&["-I", "100"], 64),
        (&["-l", "192.0.2.1", "-p", "11999"], 71),
    ] {
        let refused = run_to_end(slabring_command().args(args), REFUSAL_TIMEOUT).unwrap();
        assert_eq!(refused.status.code(), Some(code), "{args:?}: {}", refused.stderr);
    }
}

#[test]
fn check_config_tells_the_settings_and_their_origins_or_what_is_wrong() {
    let good = TextFile::new("good.toml", "threads = 2\n[extended]\nidle_timeout = 9\n");
    let check = |args: &[&str]| {
        let mut command = slabring_command();
        command.args(["--check-config"]).args(args).env("SLABRING_CONN_LIMIT", "77");
        run_to_end(&mut command, REFUSAL_TIMEOUT).unwrap()
    };
    let Finished { status, stdout, stderr } = check(&["--config", good.path(), "-m", "128"]);
    assert!(status.success(), "{stderr}");
    let place = format!("threads = \"2\"  # {}:1", good.path());
    for line in ["memory-limit = \"128\"  # flag", "conn-limit = \"77\"  # SLABRING_CONN_LIMIT", &place] {
        assert!(stdout.lines().any(|found| found == line), "{line}: {stdout}");
    }
    let found = |name: &str| stdout.lines().any(|line| line.starts_with(&format!("{name} = \"")));
    assert!(found("slab-growth-factor") && found("slab-min-size"), "{stdout}");
    assert!(check(&[]).stdout.lines().any(|line| line.starts_with("threads = ")));
    let bad = TextFile::new("bad.toml", "threads = 2\nport = 70000\n");
    let Finished { status, stderr, .. } = check(&["--config", bad.path()]);
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains(&format!("{}:2: port = 70000", bad.path())), "{stderr}");
}

#[test]
fn check_config_says_no_where_a_start_would_and_always_by_1() {
    let file = TextFile::new("no-socket", "");
    for (args, word) in [
        (&["-u", "no-such-user-here"][..], "no such user"),
        (&["-P", "/nonexistent/pid"], "-P /nonexistent/pid: No such file"),
        (&["-P", "/"], "-P /: is a directory"),
        (&["-s", "/nonexistent/socket"], "-s /nonexistent/socket: No such file"),
        (&["-s", file.path()], "no socket"),
        (&["--lock-file", "/nonexistent/locks"], "--lock-file /nonexistent/locks: No such file"),
        (&["-e", "/nonexistent/items"], "-e /nonexistent/items: No such file"),
        (&["-e", "/dev/null"], "not a regular file"),
        (&["-B", "nosuch"], "nosuch"),
        (&["-p", "70000"], "70000"),
    ] {
        for order in [[&["--check-config"][..], args].concat(), [args, &["--check-config"]].concat()] {
            let Finished { status, stderr, .. } =
                run_to_end(slabring_command().args(&order), REFUSAL_TIMEOUT).unwrap();
            assert!(stderr.contains(word), "{order:?} says no word of {word:?}: {stderr}");
            assert_eq!(status.code(), Some(1), "{order:?}: {stderr}");
        }
    }
}

#[test]
fn nobody_has_to_read_what_it_prints() {
    for args in [&["--check-config"][..], &["--help"], &["-V"], &["-i"], &["--check-config", "-p", "70000"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = slabring_command();
        command.args(args).stdout(writer.try_clone().unwrap()).stderr(writer);
        let code = command.status().unwrap().code();
        assert_eq!(code, Some(i32::from(args.contains(&"70000"))), "{args:?}");
    }
}

#[test]
fn sighup_takes_over_what_can_change_and_tells_what_needs_a_restart() {
    let file = TextFile::new("reload.toml", "conn-limit = 3\nthreads = 2\n");
    for io in BACKENDS {
        std::fs::write(file.path(), "conn-limit = 3\nthreads = 2\n").unwrap();
        let Some(server) = Server::start_over(io, &["--config", file.path()]) else { continue };
        let mut clients: Vec<_> = (0..3).map(|_| served(&server)).collect();
        assert_eq!(server.connect().read_line().unwrap(), b"ERROR Too many open connections");

        std::fs::write(file.path(), "conn-limit = 4\nthreads = 1\nverbose = 1\n").unwrap();
        server.signal(Signal::Reload);
        server.wait_until_says("threads = \"1\" needs a restart (is \"2\")");
        server.wait_until_says("conn-limit = \"4\" (was \"3\")");
        // Who was refused may still count for a moment.
        drop(served(&server));

        std::fs::write(file.path(), "conn-limit = none\n").unwrap();
        server.signal(Signal::Reload);
        server.wait_until_says(&format!("nothing is changed: {}:1", file.path()));
        assert!(clients[0].command("version").starts_with("VERSION"));
    }
}

#[test]
fn in_the_background_it_serves_when_the_command_returns_and_its_id_is_in_a_file() {
    let id_file = TextFile::new("pid", "");
    let address = free_address();
    let mut command = slabring_on_loopback();
    command.args(["-d", "-t", "1", "-p", &address.port().to_string(), "-P", id_file.path()]);
    let Finished { status, stderr, .. } = run_to_end(&mut command, REFUSAL_TIMEOUT).unwrap();
    assert!(status.success(), "{stderr}");
    let mut connection = Connection::open(address).expect("it serves already");
    let id: u64 = std::fs::read_to_string(id_file.path()).unwrap().trim().parse().unwrap();
    assert_eq!(connection.stat("pid"), id);

    // The same port: what goes wrong in the background is told in front.
    let mut second = slabring_on_loopback();
    second.args(["-d", "-t", "1", "-p", &address.port().to_string()]);
    let Finished { status, stderr, .. } = run_to_end(&mut second, REFUSAL_TIMEOUT).unwrap();
    assert_eq!(status.code(), Some(71));
    assert!(stderr.contains("in use"), "{stderr}");

    let killed = Command::new("kill").arg(id.to_string()).status().unwrap();
    assert!(killed.success());
    let start = Instant::now();
    while Path::new(id_file.path()).exists() {
        assert!(start.elapsed() < STOP_TIMEOUT, "the file with its id stays");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn root_is_given_up_when_asked() {
    let root = std::fs::metadata("/proc/self").unwrap();
    if std::os::unix::fs::MetadataExt::uid(&root) != 0 {
        return announce_skip("only root can become somebody else");
    }
    check_refusal(&["-u", "no-such-user-here"], &["no-such-user-here"]);
    for io in BACKENDS {
        let Some(server) = Server::start_over(io, &["-t", "2", "-u", "nobody"]) else { continue };
        server.connect().set("key", "value");
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        assert!(users.split_whitespace().all(|user| user != "0"), "--io {io}: {users}");
    }
}

#[test]
fn who_may_have_no_threads_is_told_which_limit_to_raise() {
    let Some(prlimit) = find_program("prlimit") else {
        return announce_skip("there is no prlimit, so the limit of threads is not lowered");
    };
    // Root has no such limit; `nobody` has, and whoever else runs this is near enough to one.
    let root = std::fs::metadata("/proc/self").unwrap();
    let is_root = std::os::unix::fs::MetadataExt::uid(&root) == 0;
    let user = if is_root { &["-u", "nobody"][..] } else { &[] };
    let slabring = slabring_on_loopback();
    let mut limited = Command::new(prlimit);
    limited.arg("--nproc=1").arg(slabring.get_program()).args(slabring.get_args());
    limited.args(["-p", "-1", "-t", "2"]).args(user);
    let Finished { status, stderr, .. } =
        run_to_end(&mut limited, REFUSAL_TIMEOUT).expect("a refused server ends");
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot start the thread") && stderr.contains("ulimit -u"), "{stderr}");
}

#[test]
fn silent_clients_are_closed_after_the_idle_timeout_and_busy_ones_are_not() {
    for io in BACKENDS {
        let Some(server) = Server::start_over(io, &["-t", "1", "-o", "idle_timeout=1"]) else { continue };
        let mut busy = server.connect();
        let mut silent = server.connect();
        let start = Instant::now();
        let reading = thread::spawn(move || silent.read_to_close().unwrap());
        while !reading.is_finished() {
            assert!(start.elapsed() < REFUSAL_TIMEOUT, "--io {io} keeps a silent client");
            assert!(busy.command("version").starts_with("VERSION"), "--io {io}");
            thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(reading.join().unwrap(), b"");
    }
}

#[test]
fn only_who_shows_a_password_of_the_file_is_served() {
    let file = TextFile::new("users", "ann:secret\n");
    let args = ["-t", "2", "-Y", file.path()];
    for io in BACKENDS {
        std::fs::write(file.path(), "ann:secret\n").unwrap();
        let Some(server) = Server::start_over(io, &args) else { continue };
        for command in ["get key", "version", "stats", "flush_all", "quit", "mn key", "mg key v"] {
            assert_eq!(
                server.connect().command(command),
                "CLIENT_ERROR unauthenticated",
                "--io {io} {command}"
            );
        }
        let mut client = server.connect();
        assert_eq!(client.command("set a 0 0 9\r\nann wrong"), "CLIENT_ERROR authentication failure");
        assert_eq!(client.command("get key"), "CLIENT_ERROR unauthenticated");
        assert_eq!(client.command("set a 0 0 10\r\nann secret"), "STORED");
        client.set("key", "value");
        assert_eq!(client.get("key").as_deref(), Some(&b"value"[..]));
        // In one packet, behind which the stream is read otherwise.
        let mut other = server.connect();
        other.send("set a 0 0 10\r\nann secret\r\nget key\r\n").unwrap();
        assert_eq!(other.read_line().unwrap(), b"STORED");
        assert_eq!(other.read_line().unwrap(), b"VALUE key 0 5");

        std::fs::write(file.path(), "bob:other\n").unwrap();
        server.signal(Signal::Reload);
        server.wait_until_says("1 users of");
        assert_eq!(
            server.connect().command("set a 0 0 10\r\nann secret"),
            "CLIENT_ERROR authentication failure"
        );
        assert_eq!(server.connect().command("set a 0 0 9\r\nbob other"), "STORED");
        std::fs::write(file.path(), "nobody\n").unwrap();
        server.signal(Signal::Reload);
        server.wait_until_says("the users stay as they were");
        assert_eq!(server.connect().command("set a 0 0 9\r\nbob other"), "STORED");
    }
}

#[test]
fn a_bad_password_file_is_refused_with_its_line() {
    let path = |text: &str| TextFile::new("bad-users", text);
    check_refusal(&["-Y", "/no/such/file"], &["/no/such/file", "cannot read"]);
    check_refusal(&["-Y", path("").path()], &["nobody could come in"]);
    let file = path("ann:secret\nbob\n");
    check_refusal(&["-Y", file.path()], &[&format!("{}:2", file.path())]);
    check_refusal(&["-Y", file.path(), "-U", "11999"], &["UDP"]);
    check_refusal(&["-Y", file.path(), "-B", "binary"], &["-B"]);
}
