//! The tests that clients bring along, against Slabring and against the installed memcached: what passes with memcached
//! must pass with Slabring.
//!
//! Their sources come from the registries in the versions that `tests/clients` pins. They name fixed addresses, so each run
//! is of a copy that names the servers under test instead. Left out are tests that need TLS, passwords or machines.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use slabring_tests::process::run_to_end;
use slabring_tests::server::target_directory;
use slabring_tests::toolbox::{Language, clients_directory, node_modules, python_source};
use slabring_tests::{Server, announce_skip};

/// Time for all the tests of one client.
const SUITE_TIMEOUT: Duration = Duration::from_secs(180);

/// The port that tests take a server to have, and two more for those that use several.
const USUAL_PORTS: [&str; 3] = ["11211", "11212", "11213"];

/// The socket that tests take a second server to have. A second server on a port does as well for those that spread keys.
const USUAL_SOCKET: &str = "/tmp/memcached.sock";

/// Servers of one kind that a suite may use.
type Cluster = [Server; USUAL_PORTS.len()];

/// A suite is run so often against Slabring: some of its tests set a value for one second and read it at once, and between the two the
/// second may end, with memcached as well.
const RUNS_MAX: usize = 3;

/// Runs a suite against clusters of both kinds and compares what passes.
#[track_caller]
fn check(name: &str, pass_count_min: usize, passed: impl Fn(&Cluster) -> (BTreeSet<String>, String)) {
    let start = |_| Server::start(&["-t", "2"]).expect("slabring starts");
    let ours = [0, 1, 2].map(start);
    let (mut got, mut report) = passed(&ours);
    let references: Vec<_> = (0..USUAL_PORTS.len()).filter_map(|_| Server::memcached(&[])).collect();
    let references = Cluster::try_from(references).ok();
    let (expected, _) = references.as_ref().map(&passed).unwrap_or_default();
    for _ in 1..RUNS_MAX {
        if got.is_superset(&expected) && got.len() >= pass_count_min {
            break;
        }
        let (again, more) = passed(&ours);
        got.extend(again);
        report += &more;
    }
    assert!(got.len() >= pass_count_min, "{name}: only {} pass:\n{report}", got.len());
    let missing: Vec<_> = expected.difference(&got).collect();
    assert!(missing.is_empty(), "{name}: {missing:?} pass with memcached alone:\n{report}");
    println!("{name}: {} tests pass", got.len());
}

#[test]
fn what_passes_with_memcached_passes_for_pymemcache() {
    let Some(python) = Language::Python.command() else { return };
    let environment = Path::new(python.get_program()).ancestors().nth(2).expect("BIN/python").to_owned();
    let Some(suite) = find(&environment.join("lib"), "pymemcache/test/test_integration.py") else {
        announce_skip("pymemcache comes without its tests");
        return;
    };
    check("pymemcache", 100, |cluster| {
        let port = cluster[0].address().port().to_string();
        let options = ["--server", "127.0.0.1", "--port", &port];
        run_pytest(&environment, std::slice::from_ref(&suite), &options, cluster)
    });
}

#[test]
fn what_passes_with_memcached_passes_for_pylibmc() {
    check_source(
        "pylibmc==1.6.3",
        37,
        &[
            "tests/test_client.py",
            "tests/test_cmemcached.py",
            "tests/test_pooling.py",
            "tests/test_refcounts.py",
            "tests/test_serialization.py",
        ],
    );
}

#[test]
fn what_passes_with_memcached_passes_for_python_binary_memcached() {
    check_source(
        "python-binary-memcached==0.33.0",
        100,
        &[
            "test/test_auth.py",
            "test/test_compression.py",
            "test/test_error_handling.py",
            "test/test_errors.py",
            "test/test_pickler.py",
            "test/test_raw_data.py",
            "test/test_server_parsing.py",
            "test/test_simple_functions.py",
        ],
    );
}

/// Runs test files of a Python client's source package.
#[track_caller]
fn check_source(requirement: &str, pass_count_min: usize, files: &[&str]) {
    let Some(python) = Language::Python.command() else { return };
    let source = match python_source(requirement) {
        Ok(source) => source,
        Err(error) => {
            announce_skip(format_args!("no source of {requirement}: {error:#}"));
            return;
        }
    };
    check(requirement, pass_count_min, |cluster| {
        let copy = copy_for(requirement, &source, cluster).expect("the target directory can be written");
        let files: Vec<_> = files.iter().map(|file| copy.join(file)).collect();
        run_pytest(
            Path::new(python.get_program()).ancestors().nth(2).expect("BIN/python"),
            &files,
            &[],
            cluster,
        )
    });
}

/// The names of the tests that pass, and everything the runner says.
fn run_pytest(
    environment: &Path,
    files: &[PathBuf],
    options: &[&str],
    cluster: &Cluster,
) -> (BTreeSet<String>, String) {
    let mut command = Command::new(environment.join("bin").join("python"));
    command.args(["-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider"]).args(files).args(options);
    let address = cluster[0].address();
    command.env("MEMCACHED_HOST", address.ip().to_string()).env("MEMCACHED_PORT", address.port().to_string());
    let root = files[0].ancestors().nth(2).expect("a test file is in a folder of a package");
    let finished = match run_to_end(command.current_dir(root), SUITE_TIMEOUT) {
        Ok(finished) => finished,
        // Some have a proxy of their own, which they start again at a port that another may have by then, and wait for it for ever.
        Err(error) => return (BTreeSet::new(), format!("{error:#}")),
    };
    let passed = finished.stdout.lines().filter_map(|line| line.strip_prefix("PASSED "));
    // What comes before the name is a path, which is another one for each server.
    let name = |test: &str| test.split_once("::").map_or(test, |(_, name)| name).to_owned();
    (passed.map(name).collect(), finished.stdout.clone() + &finished.stderr)
}

#[test]
fn what_passes_with_memcached_passes_for_memcached_from_node() {
    let Some(modules) = node_modules() else { return };
    check("memcached from node", 36, |cluster| {
        let copy =
            copy_for("node-memcached", &modules.join("memcached"), cluster).expect("a writable target");
        let mut command = Language::Node.command().expect("asked before");
        command.arg("--require").arg(clients_directory().join("mocha.js"));
        command.args(["--test", "--test-reporter=tap", "--test-concurrency=1"]);
        for name in ["add", "cas", "get-set", "incr-decr", "namespace", "parser", "touch"] {
            command.arg(copy.join("test").join(format!("memcached-{name}.test.js")));
        }
        command.env("MEMCACHED__HOST", "127.0.0.1");
        let finished = run_to_end(&mut command, SUITE_TIMEOUT).expect("the tests end");
        let passed = finished.stdout.lines().filter_map(|line| line.trim_start().strip_prefix("ok "));
        // Numbers come first: `ok 3 - name`.
        let name = |test: &str| test.split_once(" - ").map_or(test, |(_, name)| name).to_owned();
        (passed.map(name).collect(), finished.stdout.clone() + &finished.stderr)
    });
}

/// A copy of a source tree in which the usual ports are those of a cluster.
fn copy_for(name: &str, source: &Path, cluster: &Cluster) -> Result<PathBuf> {
    let port = cluster[0].address().port();
    let copy = target_directory().join("client-suites").join(format!("{name}-{port}"));
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    copy_tree(source, &copy, &|bytes| {
        let Ok(text) = String::from_utf8(bytes.clone()) else { return bytes };
        let text = text.replace(USUAL_SOCKET, &cluster[1].address().to_string());
        let ports = USUAL_PORTS.iter().zip(cluster);
        ports
            .fold(text, |text, (usual, server)| text.replace(usual, &server.address().port().to_string()))
            .into_bytes()
    })?;
    Ok(copy)
}

fn copy_tree(from: &Path, to: &Path, change: &impl Fn(Vec<u8>) -> Vec<u8>) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target, change)?;
        } else {
            fs::write(target, change(fs::read(entry.path())?))?;
        }
    }
    Ok(())
}

/// The file with this end of its path, somewhere below a directory.
fn find(directory: &Path, end: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
    let found = entries.iter().find(|path| path.ends_with(end)).cloned();
    found.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, end)))
}
