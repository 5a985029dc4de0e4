//! `-e FILE`: items that outlive the process. All shards lie in one file, one behind the other; an end in order writes what the next
//! process must know about them to `FILE.meta`, and a start takes that away before anything in the file changes.
//!
//! So after any other end there is no `FILE.meta`, and the node starts empty. What is there is believed only if all checksums
//! are right: those of the metadata (`metadata.rs`) and of every page of items (the engine). Never used while the node serves.

#![expect(unsafe_code, reason = "that the file is nobody else's is promised here")]

mod metadata;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, fstatfs};
use rustix::io::Errno;
use slabring_engine::{Config, ConfigError, Pause, RestoreError, Seconds, Shard};
use slabring_reactor::clock::Moment;
use slabring_reactor::thread::{allowed_cpus, pin_to};
use tracing::{info, warn};

use self::metadata::{Damage, Saved};

/// Only the user of the node reads what clients have stored.
const FILE_MODE: u32 = 0o600;
/// More than that many shards of the smallest pages have to say.
const METADATA_BYTES_MAX: u64 = 1 << 30;
/// `f_type` of a file system in memory, and of `/dev/shm`. Source: statfs(2).
const TMPFS: u64 = 0x0102_1994;
/// The unit of `st_blocks`, whatever the file system's own. Source: stat(3type).
const STAT_BLOCK_BYTES: u64 = 512;

/// The file under all shards. Nobody else uses it as long as this lives.
#[derive(Debug)]
pub struct MemoryFile {
    file: File,
    path: PathBuf,
    metadata_path: PathBuf,
}

/// Why the node does not go on with what is in the file. It starts empty.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("nothing was saved")]
    Nothing,
    #[error("nothing was saved, as whoever had it last did not end in order")]
    Crashed,
    #[error("cannot read the metadata: {0}")]
    Unreadable(io::Error),
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("they are of {stored} shard threads (-t) and there are {configured}")]
    Shards { stored: usize, configured: usize },
    #[error("the file has {bytes} of {wanted} bytes")]
    Short { bytes: u64, wanted: u64 },
    #[error("cannot use the file: {0}")]
    File(#[from] io::Error),
    #[error("shard {shard}: {source}")]
    Shard { shard: usize, source: RestoreError },
}

impl MemoryFile {
    /// Opens the file and returns it with a shard for each of `configs`, which must be alike: with the items that another
    /// process left there, or empty ones. An item is as old as if its process had gone on, also when the wall clock went back.
    ///
    /// `None`, with a warning, where there is no room for the file: the node does without it.
    ///
    /// # Errors
    /// The file cannot be used at all, or another node does.
    pub fn open(path: &Path, configs: &[Config], now: Seconds) -> Result<Option<(Self, Vec<Shard>)>> {
        let memory = Self::lock(path).with_context(|| format!("-e {}", path.display()))?;
        let left = memory.read_metadata();
        memory.remove_metadata()?;
        let begin = Moment::now();
        match left.and_then(|metadata| memory.restore(&metadata, configs, now)) {
            Ok(shards) => {
                let items: u64 = shards.iter().map(|shard| shard.counters().items).sum();
                let ms = Moment::now().since_ns(begin) / 1_000_000;
                info!("-e {}: going on with {items} items after {ms} ms", path.display());
                return Ok(Some((memory, shards)));
            }
            Err(Unusable::Nothing) => {
                info!("-e {}: nothing was saved: the node starts empty", path.display());
            }
            Err(reason) => {
                warn!(
                    "-e {}: the items there are not used and the node starts empty: {reason}",
                    path.display()
                );
            }
        }
        memory.begin_empty(configs)
    }

    /// Writes what the shards have left to be known, which makes the items those of the next process. `at` is the last second
    /// of this one.
    ///
    /// # Errors
    /// It cannot be written: the next process starts empty.
    pub fn save(&self, at: Seconds, shards: Vec<Vec<u8>>) -> Result<()> {
        let file_bytes = self.file.metadata()?.len();
        let bytes = Saved { file_bytes, at: at.0, shards }.encode();
        let unfinished = with_suffix(&self.metadata_path, ".new");
        write_whole(&unfinished, &bytes)
            .and_then(|()| fs::rename(&unfinished, &self.metadata_path))
            .and_then(|()| self.sync_directory())
            .with_context(|| {
                format!("-e {}: the items are not saved: {}", self.path.display(), unfinished.display())
            })?;
        info!("-e {}: the items are saved", self.path.display());
        Ok(())
    }

    fn lock(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        if !file.metadata()?.is_file() {
            bail!("not a regular file");
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                bail!("a running process keeps its items there; each needs its own file")
            }
            locked => locked?,
        }
        Ok(Self { file, path: path.to_owned(), metadata_path: with_suffix(path, ".meta") })
    }

    fn read_metadata(&self) -> Result<Vec<u8>, Unusable> {
        match read_bounded(&self.metadata_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.file.metadata()?.len() {
                0 => Err(Unusable::Nothing),
                _ => Err(Unusable::Crashed),
            },
            read => read.map_err(Unusable::Unreadable),
        }
    }

    /// From here on, any end but one in order leaves nothing to go on with, not even when the power fails.
    fn remove_metadata(&self) -> Result<()> {
        let removed = match fs::remove_file(&self.metadata_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed,
        };
        removed
            .and_then(|()| self.sync_directory())
            .with_context(|| format!("-e {}: cannot remove the old metadata", self.metadata_path.display()))
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync_directory_of(&self.path)
    }

    /// The shards that another process left, all of them or none.
    fn restore(&self, metadata: &[u8], configs: &[Config], now: Seconds) -> Result<Vec<Shard>, Unusable> {
        let saved = Saved::decode(metadata)?;
        if saved.shards.len() != configs.len() {
            return Err(Unusable::Shards { stored: saved.shards.len(), configured: configs.len() });
        }
        let bytes = self.file.metadata()?.len();
        if bytes < saved.file_bytes {
            return Err(Unusable::Short { bytes, wanted: saved.file_bytes });
        }
        let each_bytes = bytes_of_each(configs)?;
        let all_bytes = each_bytes * configs.len() as u64;
        // Where that makes it longer, the engine says which setting has changed.
        self.file.set_len(bytes.max(all_bytes))?;
        self.reserve(all_bytes)?;
        let pause = Pause { left: Seconds(saved.at), now };
        if pause.left > now {
            let seconds = pause.left.0 - now.0;
            warn!(
                "-e {}: the wall clock is {seconds} s behind that of who saved the items: they keep what they had left to live",
                self.path.display()
            );
        }
        in_parallel(configs.len(), |shard| {
            let offset = shard as u64 * each_bytes;
            // SAFETY: the file is locked (`lock`) until the node ends, by one process at a time; nobody makes it shorter from here on,
            // and each shard has `each_bytes` of its own.
            let restored =
                unsafe { Shard::restore(&configs[shard], &self.file, offset, &saved.shards[shard], pause) };
            restored.map_err(|source| Unusable::Shard { shard, source })
        })
    }

    fn begin_empty(self, configs: &[Config]) -> Result<Option<(Self, Vec<Shard>)>> {
        let each_bytes = bytes_of_each(configs)?;
        if let Err(error) = self.make_room(each_bytes * configs.len() as u64) {
            warn!("-e {}: not used, and nothing will be saved: {error}", self.path.display());
            return Ok(None);
        }
        let offsets = (0..).map(|shard| shard * each_bytes);
        let shards = configs.iter().zip(offsets).map(|(config, at)| {
            // SAFETY: the file is locked (`lock`) until the node ends, by one process at a time; nobody makes it shorter from here on,
            // and each shard has `each_bytes` of its own.
            unsafe { Shard::over_file(config, &self.file, at) }
        });
        let shards = shards.collect::<Result<_, ConfigError>>();
        let shards = shards.with_context(|| format!("-e {}", self.path.display()))?;
        Ok(Some((self, shards)))
    }

    /// Empties the file and gives it that length.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(bytes)?;
        self.reserve(bytes).or_else(|error| self.file.set_len(0).and(Err(error)))
    }

    /// Sees to it that the file has room for that many bytes: a write to memory that the disk has no room for ends the process.
    ///
    /// In a file system in memory the room is only looked for, so that memory which no item needs stays the system's.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let system = fstatfs(&self.file)?;
        if u64::try_from(system.f_type) != Ok(TMPFS) {
            return match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
                Err(Errno::OPNOTSUPP) => Ok(()),
                reserved => Ok(reserved?),
            };
        }
        let block_bytes = u64::try_from(system.f_bsize).unwrap_or(0);
        let free_bytes = system.f_bavail.saturating_mul(block_bytes);
        let own_bytes = self.file.metadata()?.blocks() * STAT_BLOCK_BYTES;
        // Without a limit it has no blocks at all.
        if system.f_blocks == 0 || free_bytes.saturating_add(own_bytes) >= bytes {
            return Ok(());
        }
        Err(io::Error::from(Errno::NOSPC))
    }
}

/// Waits until the name of a file is on the disk, or that it is gone.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// Where a file lies.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Bytes of the file for each of some shards that are alike.
fn bytes_of_each(configs: &[Config]) -> io::Result<u64> {
    configs.first().map_or(Ok(0), Shard::file_bytes).map_err(io::Error::other)
}

/// One result for each shard, from a thread where it will run if that is pinned, so that its memory is near.
fn in_parallel(
    count: usize,
    make: impl Fn(usize) -> Result<Shard, Unusable> + Sync,
) -> Result<Vec<Shard>, Unusable> {
    let cpus = allowed_cpus()?;
    let pinned = |shard: usize| {
        pin_to(cpus[shard % cpus.len()])?;
        make(shard)
    };
    thread::scope(|scope| {
        let begin = |shard| {
            let name = format!("restore-{shard}");
            thread::Builder::new().name(name).spawn_scoped(scope, move || pinned(shard))
        };
        let threads = (0..count).map(begin).collect::<io::Result<Vec<_>>>()?;
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(METADATA_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
