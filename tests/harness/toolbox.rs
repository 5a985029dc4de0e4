//! Programs that the tests drive and did not build: interpreters and the clients they run.
//!
//! Clients are installed from their registries into directories of their own under the target directory, in the
//! versions that the files in `tests/clients` pin, once for each version of these files. What cannot be had is
//! announced in one loud line and left out; an installation never waits without a bound.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::announce_skip;
use crate::process::run_to_end;
use crate::server::target_directory;

/// Time to download and install the packages of one registry.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(180);

/// Names under which an interpreter of each language is installed.
const PYTHON: &str = "python3";
const NODE: &str = "node";
const PERL: &str = "perl";

/// The Perl client, which comes from the distribution: it has to be compiled against the installed Perl.
const PERL_CLIENT: &str = "Cache::Memcached::Fast";

/// Which language a client is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// With pymemcache, pylibmc, python-binary-memcached, aiomcache and emcache.
    Python,
    /// With memcached and memjs.
    Node,
    /// With Cache::Memcached::Fast.
    Perl,
}

impl Language {
    /// A command of its interpreter that finds the clients. `None`, announced once, where it cannot be had.
    pub fn command(self) -> Option<Command> {
        match self {
            Self::Python => python().map(Command::new),
            Self::Node => node_modules().map(|modules| {
                let mut command = Command::new(NODE);
                command.env("NODE_PATH", modules);
                command
            }),
            Self::Perl => has_perl_client().then(|| Command::new(PERL)),
        }
    }
}

/// Where the rounds and the lists of packages are.
pub fn clients_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// The Python that has the clients, or `None`, announced once.
pub fn python() -> Option<&'static Path> {
    static PYTHON_PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    once(&PYTHON_PATH, "Python clients", install_python_clients)
}

/// The `node_modules` that holds the clients, or `None`, announced once.
pub fn node_modules() -> Option<&'static Path> {
    static MODULES: OnceLock<Option<PathBuf>> = OnceLock::new();
    once(&MODULES, "node clients", install_node_clients)
}

/// Where a program of this name is installed.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// Runs a command to its end within the time of an installation. Not to succeed is an error with what it wrote.
pub fn run_successfully(command: &mut Command) -> Result<()> {
    let finished = run_to_end(command, INSTALL_TIMEOUT)?;
    ensure!(finished.status.success(), "{command:?}: {}{}", finished.stdout.trim(), finished.stderr.trim());
    Ok(())
}

/// The source package of a pinned Python client, unpacked. Its own tests are in it and not in what is installed.
pub fn python_source(requirement: &str) -> Result<PathBuf> {
    let python = python().context("no Python clients")?;
    let directory = target_directory().join("client-sources").join(requirement);
    if !is_current(&directory, requirement) {
        clear(&directory)?;
        let download =
            ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--retries", "1"];
        let python_command = || Command::new(python);
        run_successfully(python_command().args(download).arg("--dest").arg(&directory).arg(requirement))?;
        let archive = only_entry(&directory)?;
        run_successfully(
            python_command().args(["-m", "tarfile", "--extract"]).arg(&archive).arg(&directory),
        )?;
        fs::remove_file(archive)?;
        mark_current(&directory, requirement)?;
    }
    only_entry(&directory)
}

fn once(
    cell: &'static OnceLock<Option<PathBuf>>,
    what: &str,
    install: fn() -> Result<PathBuf>,
) -> Option<&'static Path> {
    let installed = cell.get_or_init(|| match install() {
        Ok(path) => Some(path),
        Err(error) => {
            announce_skip(format_args!("no {what}: {error:#}"));
            None
        }
    });
    installed.as_deref()
}

fn has_perl_client() -> bool {
    static HAS_CLIENT: OnceLock<bool> = OnceLock::new();
    *HAS_CLIENT.get_or_init(|| {
        let use_it = format!("-M{PERL_CLIENT}");
        let result = run_successfully(Command::new(PERL).args([&use_it, "-e", "1"]));
        if let Err(error) = &result {
            announce_skip(format_args!("no Perl client: {error:#}"));
        }
        result.is_ok()
    })
}

fn install_python_clients() -> Result<PathBuf> {
    let list = clients_directory().join("requirements.txt");
    let requirements = fs::read_to_string(&list)?;
    let environment = target_directory().join("python-clients");
    let python = environment.join("bin").join("python");
    if !is_current(&environment, &requirements) {
        run_successfully(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(&environment))?;
        let install =
            ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--retries", "1"];
        run_successfully(Command::new(&python).args(install).arg("--requirement").arg(&list))?;
        mark_current(&environment, &requirements)?;
    }
    Ok(python)
}

fn install_node_clients() -> Result<PathBuf> {
    const LISTS: [&str; 2] = ["package.json", "package-lock.json"];
    let directory = target_directory().join("node-clients");
    let lock = fs::read_to_string(clients_directory().join(LISTS[1]))?;
    if !is_current(&directory, &lock) {
        clear(&directory)?;
        for list in LISTS {
            fs::copy(clients_directory().join(list), directory.join(list))?;
        }
        let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries", "1"];
        run_successfully(Command::new("npm").args(install).current_dir(&directory))?;
        mark_current(&directory, &lock)?;
    }
    Ok(directory.join("node_modules"))
}

/// Whether a directory was filled completely from this list.
fn is_current(directory: &Path, list: &str) -> bool {
    fs::read_to_string(mark_of(directory)).is_ok_and(|marked| marked == list)
}

fn mark_current(directory: &Path, list: &str) -> Result<()> {
    Ok(fs::write(mark_of(directory), list)?)
}

/// Beside the directory, so that it can be told from what is installed.
fn mark_of(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(".installed");
    PathBuf::from(name)
}

/// An empty directory at this path, whatever was there.
fn clear(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    Ok(fs::create_dir_all(directory)?)
}

fn only_entry(directory: &Path) -> Result<PathBuf> {
    let entries: Vec<_> = fs::read_dir(directory)?.collect::<std::io::Result<_>>()?;
    ensure!(entries.len() == 1, "{} holds {} entries", directory.display(), entries.len());
    Ok(entries[0].path())
}
