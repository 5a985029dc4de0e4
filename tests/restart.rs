//! Warm restart (`-e`): what a server knew is known to the next one after an end in order, and to nobody otherwise.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use slabring_tests::process::{Finished, run_to_end};
use slabring_tests::server::slabring_on_loopback;
use slabring_tests::{Connection, Server, Signal, announce_skip, wait_until};

/// Long, because the machine may be compiling too.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const THREADS: [&str; 2] = ["1", "2"];
/// Where `FILE.meta` says in which second it was written, and what its checksum covers. See `server/src/memory_file/metadata.rs`.
const SAVED_AT: std::ops::Range<usize> = 32..36;
const CHECKED_FROM: usize = 12;
const CHECKSUM: std::ops::Range<usize> = 8..12;

/// A way to end a server in order.
type End = Box<dyn Fn(&Server)>;

/// Something that happens to the files while no server runs.
type Damage<'a> = &'a dyn Fn(&Place);

/// A memory file in a directory of its own, which goes with this.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn new() -> Self {
        Self::under(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// Where nothing waits for a disk, if there is such a place.
    fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::under(memory) } else { Self::new() }
    }

    fn under(parent: &Path) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("slabring-restart-{}-{number}", std::process::id()));
        // What a killed test of the same id left behind.
        fs::remove_dir_all(&directory).ok();
        fs::create_dir(&directory).unwrap();
        Self { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("items")
    }

    fn metadata(&self) -> PathBuf {
        self.directory.join("items.meta")
    }

    fn start(&self, args: &[&str]) -> Server {
        Server::start(&[&["-e", self.file().to_str().unwrap(), "-m", "8", "-A", "-v"], args].concat())
            .unwrap()
    }

    /// Starts a server that must refuse, and returns what it says.
    fn refusal(&self) -> String {
        let mut command = slabring_on_loopback();
        command.args(["-p", "-1", "-t", "2", "-m", "8", "-e"]).arg(self.file());
        let Finished { status, stderr, .. } = run_to_end(&mut command, STOP_TIMEOUT).unwrap();
        assert_eq!(status.code(), Some(1), "{stderr}");
        stderr
    }

    /// Another place with the same files.
    fn copy(&self) -> Self {
        let copy = Self::under(self.directory.parent().unwrap());
        fs::copy(self.file(), copy.file()).unwrap();
        fs::copy(self.metadata(), copy.metadata()).unwrap();
        copy
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

#[track_caller]
fn stop(mut server: Server, signal: Signal) {
    server.signal(signal);
    check_ended(&mut server);
}

#[track_caller]
fn check_ended(server: &mut Server) {
    let status = server.wait(STOP_TIMEOUT).unwrap_or_else(|| panic!("it does not end: {}", server.stderr()));
    assert!(status.success(), "{status}: {}", server.stderr());
}

/// A value that no other key has, of a length that goes by its number.
fn value_of(number: usize) -> Vec<u8> {
    const LENS: [usize; 10] = [0, 1, 7, 30, 100, 1_000, 5_000, 40_000, 300_000, 900_000];
    let len = LENS[if number < LENS.len() { number } else { number % 7 }];
    let mut value = vec![0; len];
    SmallRng::seed_from_u64(number as u64).fill_bytes(&mut value);
    value
}

/// Stores `count` items with flags, times to live and CAS numbers.
fn fill(connection: &mut Connection, count: usize) {
    for number in 0..count {
        let value = value_of(number);
        let ttl = if number.is_multiple_of(3) { 1000 } else { 0 };
        let mut request =
            format!("set key-{number} {} {ttl} {}\r\n", number % 5 * 1000, value.len()).into_bytes();
        request.extend_from_slice(&value);
        request.extend_from_slice(b"\r\n");
        connection.send(request).unwrap();
        assert_eq!(connection.read_line().unwrap(), b"STORED");
    }
}

/// All that a client can tell about an item, and its CAS number; `None` if it is not there.
fn look(connection: &mut Connection, key: &str) -> Option<(String, u64, Vec<u8>)> {
    let line = connection.command(&format!("mg {key} s v f c"));
    if line == "EN" {
        return None;
    }
    let (before, cas) = line.split_once(" c").unwrap_or_else(|| panic!("mg {key}: {line}"));
    let len: usize = before.split(' ').nth(1).unwrap().parse().unwrap();
    let value = connection.read_exact(len + 2).unwrap();
    Some((before.to_owned(), cas.parse().unwrap(), value))
}

fn look_at_all(connection: &mut Connection, count: usize) -> Vec<Option<(String, u64, Vec<u8>)>> {
    (0..count).map(|number| look(connection, &format!("key-{number}"))).collect()
}

#[track_caller]
fn check_empty(server: &Server, reason: &str) {
    let mut connection = server.connect();
    assert_eq!(connection.stat("curr_items"), 0, "{}", server.stderr());
    assert_eq!(connection.get("key-3"), None);
    server.wait_until_says("starts empty");
    server.wait_until_says(reason);
    let log = server.stderr();
    assert!(!log.contains("panicked"), "{log}");
    connection.set("key-3", "new");
    assert_eq!(connection.get("key-3").unwrap(), b"new");
}

#[test]
fn after_every_orderly_end_the_next_server_has_every_item() {
    const COUNT: usize = 400;
    let by_command = |command: &'static str| {
        move |server: &Server| {
            server.connect().send(format!("{command}\r\n")).unwrap();
        }
    };
    let by_signal = |signal: Signal| move |server: &Server| server.signal(signal);
    let ends: [End; 5] = [
        Box::new(by_signal(Signal::Terminate)),
        Box::new(by_signal(Signal::Interrupt)),
        Box::new(by_signal(Signal::Graceful)),
        Box::new(by_command("shutdown")),
        Box::new(by_command("shutdown graceful")),
    ];
    for threads in THREADS {
        let place = Place::new();
        let mut server = place.start(&["-t", threads]);
        fill(&mut server.connect(), COUNT);
        for (round, end) in ends.iter().enumerate() {
            let before = look_at_all(&mut server.connect(), COUNT);
            assert!(before.iter().all(Option::is_some));
            end(&server);
            check_ended(&mut server);
            assert!(place.metadata().exists(), "-t {threads}, end {round}: {}", server.stderr());
            // Who stores and who goes on need not talk to the kernel in the same way.
            server = place.start(&["-t", threads, "--io", ["epoll", "auto"][round % 2]]);
            let mut connection = server.connect();
            assert!(look_at_all(&mut connection, COUNT) == before, "-t {threads}, end {round}");
            assert!(!place.metadata().exists(), "a server that runs may be killed");
            assert_eq!(connection.stat("curr_items"), COUNT as u64 + round as u64);
            assert_eq!(connection.stat("total_items"), COUNT as u64 + round as u64);
            let given: Vec<u64> = before.iter().flatten().map(|(_, cas, _)| *cas).collect();
            for key in ["key-0", "key-1", "key-2", "key-3", &format!("round-{round}")] {
                connection.set(key, "v");
                let (_, cas, _) = look(&mut connection, key).unwrap();
                assert!(!given.contains(&cas), "-t {threads}: {cas} was given before");
            }
        }
    }
}

#[test]
fn sigusr1_says_what_memcached_says() {
    let mut server = Server::start(&["-t", "1"]).unwrap();
    server.signal(Signal::Graceful);
    check_ended(&mut server);
    server.wait_until_says("Gracefully stopping\n");
}

#[test]
fn times_to_live_and_a_pending_flush_go_on_while_it_is_down() {
    for threads in THREADS {
        let place = Place::new();
        let server = place.start(&["-t", threads]);
        let mut connection = server.connect();
        for (key, ttl) in [("short", 2), ("long", 600), ("ever", 0)] {
            assert_eq!(connection.command(&format!("set {key} 0 {ttl} 1\r\nv")), "STORED");
        }
        let stored = Instant::now();
        assert_eq!(connection.command("flush_all 8"), "OK");
        stop(server, Signal::Terminate);
        thread::sleep(Duration::from_secs(4).saturating_sub(stored.elapsed()));
        let server = place.start(&["-t", threads]);
        let mut connection = server.connect();
        assert_eq!(connection.get("short"), None);
        let ever = connection.get("ever");
        // Of who starts as late as that nothing is to be seen.
        assert!(ever.as_deref() == Some(b"v") || stored.elapsed() > Duration::from_secs(6));
        let left = connection.command("mg long t");
        let left: u64 = left.strip_prefix("HD t").unwrap().parse().unwrap();
        assert!((300..=597).contains(&left), "{left}");
        wait_until("the flush that was pending", || connection.get("ever").is_none());
        assert!(stored.elapsed() > Duration::from_secs(6), "{:?}", stored.elapsed());
        // The clock shows whole seconds, and is looked at some times in one.
        thread::sleep(Duration::from_millis(1_500));
        connection.set("ever", "again");
        assert!(connection.get("ever").is_some());
    }
}

#[test]
fn what_was_flushed_stays_so() {
    for args in [&["-t", "1"][..], &["-t", "2"], &["-t", "2", "-C"]] {
        let place = Place::in_memory();
        let server = place.start(args);
        let mut connection = server.connect();
        fill(&mut connection, 100);
        assert_eq!(connection.command("flush_all"), "OK");
        connection.set("after", "v");
        stop(server, Signal::Graceful);
        let server = place.start(args);
        let mut connection = server.connect();
        assert_eq!(connection.stat("curr_items"), 1);
        assert_eq!(connection.get("key-3"), None);
        assert_eq!(connection.get("after").unwrap(), b"v");
    }
}

#[test]
fn a_wall_clock_that_went_back_brings_nothing_back_and_prolongs_nothing() {
    const BACK_SECONDS: u32 = 1800;
    const LEFT_SECONDS: u32 = 600;
    let place = Place::new();
    let server = place.start(&["-t", "2"]);
    let mut connection = server.connect();
    fill(&mut connection, 50);
    assert_eq!(connection.command(&format!("ms left 1 T{}\r\nx", BACK_SECONDS + LEFT_SECONDS)), "HD");
    stop(server, Signal::Terminate);
    // Saved by a process whose clock was ahead of ours.
    let mut metadata = fs::read(place.metadata()).unwrap();
    let at = u32::from_le_bytes(metadata[SAVED_AT].try_into().unwrap());
    metadata[SAVED_AT].copy_from_slice(&(at + BACK_SECONDS).to_le_bytes());
    let checksum = crc32c::crc32c(&metadata[CHECKED_FROM..]);
    metadata[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    fs::write(place.metadata(), metadata).unwrap();
    let server = place.start(&["-t", "2"]);
    let mut connection = server.connect();
    for number in 0..50_usize {
        let is_there = look(&mut connection, &format!("key-{number}")).is_some();
        assert_eq!(is_there, !number.is_multiple_of(3), "key-{number}");
    }
    // What it had left by the clock that it was saved by, give or take how long stopping and starting took.
    let left = connection.command("mg left t");
    let left: u32 = left.strip_prefix("HD t").unwrap().parse().unwrap();
    assert!((LEFT_SECONDS - 60..=LEFT_SECONDS).contains(&left), "{left}");
    assert!(server.stderr().contains("behind that of who saved the items"), "{}", server.stderr());
}

#[test]
fn after_kill_9_it_starts_empty() {
    for threads in THREADS {
        let place = Place::in_memory();
        let server = place.start(&["-t", threads]);
        fill(&mut server.connect(), 100);
        stop(server, Signal::Terminate);
        let mut server = place.start(&["-t", threads]);
        assert_eq!(server.connect().stat("curr_items"), 100);
        server.signal(Signal::Kill);
        server.wait(STOP_TIMEOUT).unwrap();
        let server = place.start(&["-t", threads]);
        check_empty(&server, "nothing was saved, as whoever had it last did not end in order");
        let log = server.stderr();
        assert!(log.contains(" WARN ") && !log.contains('\x1b'), "{log}");
    }
}

#[test]
fn what_was_acknowledged_before_the_end_is_there_after_it() {
    for threads in THREADS {
        let place = Place::new();
        let mut server = place.start(&["-t", threads]);
        let address = server.address();
        let is_over = AtomicBool::new(false);
        let stored: Vec<usize> = thread::scope(|scope| {
            let is_over = &is_over;
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    scope.spawn(move || {
                        let mut connection = Connection::open(address).unwrap();
                        let mut last = 0;
                        while !is_over.load(Ordering::Relaxed) {
                            let value = format!("{:08}", last + 1);
                            let sent = connection.send(format!("set writer-{writer} 0 0 8\r\n{value}\r\n"));
                            match sent.and_then(|()| connection.read_line()) {
                                Ok(line) => assert_eq!(line, b"STORED"),
                                Err(_) => break,
                            }
                            last += 1;
                        }
                        last
                    })
                })
                .collect();
            let begun = Instant::now();
            let mut looker = Connection::open(address).unwrap();
            while (0..4).any(|writer| looker.get(&format!("writer-{writer}")).is_none()) {
                assert!(begun.elapsed() < STOP_TIMEOUT, "nobody writes");
            }
            thread::sleep(Duration::from_millis(200));
            server.signal(Signal::Terminate);
            check_ended(&mut server);
            is_over.store(true, Ordering::Relaxed);
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        let server = place.start(&["-t", threads]);
        let mut connection = server.connect();
        for (writer, last) in stored.into_iter().enumerate() {
            let found = connection.get(&format!("writer-{writer}")).unwrap();
            let found: usize = String::from_utf8(found).unwrap().parse().unwrap();
            assert!(last > 0 && (last..=last + 1).contains(&found), "{found} of {last}");
        }
    }
}

#[test]
fn items_of_other_settings_are_refused_with_the_setting() {
    let place = Place::in_memory();
    let server = place.start(&["-t", "2"]);
    fill(&mut server.connect(), 100);
    stop(server, Signal::Terminate);
    for (args, reason) in [
        (&["-t", "1"][..], "they are of 2 shard threads (-t) and there are 1"),
        (&["-t", "2", "-m", "9"], "the memory of a shard in bytes was"),
        (&["-t", "2", "-m", "7"], "the memory of a shard in bytes was"),
        (&["-t", "2", "-I", "512k"], "the item size limit was 1048576 and is configured to be 524288"),
        (&["-t", "2", "-f", "1.5"], "the checksum of all chunk sizes was"),
        (&["-t", "2", "-n", "100"], "the checksum of all chunk sizes was"),
        (&["-t", "2", "-C"], "whether there are CAS values was 1 and is configured to be 0"),
    ] {
        let copy = place.copy();
        let server = copy.start(args);
        check_empty(&server, reason);
        stop(server, Signal::Terminate);
        assert_eq!(copy.start(args).connect().get("key-3").unwrap(), b"new", "{args:?}");
    }
    // What tells nothing about where items lie may change.
    let server = place.start(&["-t", "2", "-M", "-c", "100", "--policy", "s3fifo"]);
    assert_eq!(server.connect().stat("curr_items"), 100);
}

#[test]
fn damaged_files_are_refused_with_the_damage() {
    let place = Place::new();
    let server = place.start(&["-t", "2"]);
    fill(&mut server.connect(), 100);
    stop(server, Signal::Terminate);
    let rewrite = |copy: &Place, change: &dyn Fn(&mut Vec<u8>)| {
        let mut metadata = fs::read(copy.metadata()).unwrap();
        change(&mut metadata);
        fs::write(copy.metadata(), metadata).unwrap();
    };
    let open = |path: PathBuf| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let damages: [(Damage<'_>, &str); 8] = [
        (&|copy| rewrite(copy, &|bytes| bytes[100] ^= 1), "the metadata are damaged"),
        (&|copy| rewrite(copy, &|bytes| bytes.truncate(bytes.len() / 2)), "the metadata are damaged"),
        (&|copy| rewrite(copy, &|bytes| bytes.clear()), "of another kind or version, or cut off"),
        (
            &|copy| fs::write(copy.metadata(), "Tmain\nKslab_config 1.25\n").unwrap(),
            "of another kind or version",
        ),
        (&|copy| open(copy.file()).set_len(1 << 20).unwrap(), "the file has 1048576 of"),
        (&|copy| fs::remove_file(copy.file()).unwrap(), "the file has 0 of"),
        (&|copy| fs::remove_file(copy.metadata()).unwrap(), "nothing was saved"),
        (&|copy| flip_bit(&open(copy.file()), 100), "of the file is damaged: its checksum is wrong"),
    ];
    for (damage, reason) in damages {
        let copy = place.copy();
        damage(&copy);
        let server = copy.start(&["-t", "2"]);
        check_empty(&server, reason);
        stop(server, Signal::Graceful);
        assert_eq!(copy.start(&["-t", "2"]).connect().get("key-3").unwrap(), b"new", "{reason}");
    }
}

fn flip_bit(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn whichever_bits_change_it_starts_and_no_key_has_a_wrong_value() {
    const COUNT: usize = 300;
    let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let (flips, seed) =
        (variable("SLABRING_TEST_FLIPS").unwrap_or(24), variable("SLABRING_TEST_SEED").unwrap_or(1));
    let place = Place::in_memory();
    let server = place.start(&["-t", "2"]);
    fill(&mut server.connect(), COUNT);
    stop(server, Signal::Terminate);
    let mut random = SmallRng::seed_from_u64(seed);
    let mut empty = 0;
    for flip in 0..flips {
        let copy = place.copy();
        let path = if random.random_bool(0.3) { copy.metadata() } else { copy.file() };
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (len, times) = (file.metadata().unwrap().len(), random.random_range(1..20));
        (0..times).for_each(|_| flip_bit(&file, random.random_range(0..len)));
        let server = copy.start(&["-t", "2"]);
        let mut connection = server.connect();
        for number in 0..COUNT {
            let found = look(&mut connection, &format!("key-{number}"));
            if let Some((_, _, value)) = found {
                assert!(
                    value.strip_suffix(b"\r\n") == Some(&value_of(number)[..]),
                    "seed {seed}, flip {flip}: key-{number}"
                );
            }
        }
        empty += usize::from(connection.stat("curr_items") == 0);
        fill(&mut connection, COUNT);
        assert!(!server.stderr().contains("panicked"), "seed {seed}, flip {flip}: {}", server.stderr());
        stop(server, Signal::Terminate);
    }
    assert!(empty as u64 > flips / 2, "{empty} of {flips}");
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_the_reason() {
    let place = Place::new();
    let server = place.start(&["-t", "2"]);
    // It listens before it takes the file.
    server.connect().set("it", "serves");
    let refusal = place.refusal();
    assert!(refusal.contains("items: a running process keeps its items there"), "{refusal}");
    server.connect().set("still", "here");
    stop(server, Signal::Terminate);

    fs::remove_file(place.metadata()).unwrap();
    fs::create_dir(place.metadata()).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("items.meta: cannot remove"), "{refusal}");

    fs::remove_file(place.file()).unwrap();
    fs::create_dir(place.file()).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("items: Is a directory"), "{refusal}");

    fs::remove_dir(place.file()).unwrap();
    std::os::unix::fs::symlink("/dev/null", place.file()).unwrap();
    let refusal = place.refusal();
    assert!(refusal.contains("items: not a regular file"), "{refusal}");
    fs::remove_file(place.file()).unwrap();
}

#[test]
fn what_cannot_be_saved_is_an_error_and_the_next_server_is_empty() {
    let place = Place::new();
    let mut server = place.start(&["-t", "2"]);
    fill(&mut server.connect(), 10);
    fs::create_dir(place.directory.join("items.meta.new")).unwrap();
    server.signal(Signal::Terminate);
    let status = server.wait(STOP_TIMEOUT).unwrap();
    assert_eq!(status.code(), Some(1));
    server.wait_until_says("the items are not saved");
    check_empty(&place.start(&["-t", "2"]), "nothing was saved");
}

#[test]
fn where_there_is_no_room_it_serves_without_the_file() {
    const MIB: &str = "60000";
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() || !is_smaller(memory, 50 << 30) {
        return announce_skip("/dev/shm is not there or too large to be too small");
    }
    let place = Place::under(memory);
    let mut server = place.start(&["-t", "2", "-m", MIB]);
    server.wait_until_says("not used, and nothing will be saved: No space left");
    server.connect().set("key", "value");
    server.signal(Signal::Terminate);
    check_ended(&mut server);
    assert!(!place.metadata().exists());
    assert_eq!(fs::metadata(place.file()).unwrap().len(), 0);
}

fn is_smaller(directory: &Path, bytes: u64) -> bool {
    let mut command = std::process::Command::new("df");
    let Ok(Finished { stdout, .. }) =
        run_to_end(command.args(["--output=size", "--block-size=1"]).arg(directory), STOP_TIMEOUT)
    else {
        return false;
    };
    stdout.lines().last().and_then(|line| line.trim().parse::<u64>().ok()).is_some_and(|size| size < bytes)
}

#[test]
fn settings_name_the_file() {
    let place = Place::new();
    let server = place.start(&["-t", "1"]);
    let mut connection = server.connect();
    connection.send("stats settings\r\n").unwrap();
    let wanted = format!("STAT memory_file {}", place.file().display());
    while connection.read_line().unwrap() != wanted.as_bytes() {}
}

#[test]
fn a_file_that_may_not_be_as_long_as_the_memory_is_told_and_the_server_goes_on_without() {
    let place = Place::new();
    let limited = || {
        let slabring = slabring_on_loopback();
        let mut limited = std::process::Command::new("sh");
        // Blocks of 512 bytes, or of 1024: far less than the memory in either.
        limited.args(["-c", "ulimit -f 64 && exec \"$0\" \"$@\""]);
        limited.arg(slabring.get_program()).args(slabring.get_args());
        limited
    };
    let file = place.file();
    let server = Server::start_with(limited, &["-e", file.to_str().unwrap(), "-m", "8", "-v"]).unwrap();
    server.wait_until_says("File too large");
    server.connect().set("it", "serves");
    stop(server, Signal::Terminate);
}
