//! The counter of fences, in a file: it never gives out a number twice, whatever happens to the process or the machine. Numbers are
//! written down a block ahead, so that a lock costs no write of its own; a start leaves out what is left of a block.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crc32c::crc32c;
use rustix::fs::{FlockOperation, flock};

use crate::memory_file::sync_directory_of;

/// Numbers that are written down at once.
const BLOCK: u64 = 1 << 10;
/// A record: a number in 20 digits, a space, its checksum in 8, a line end.
const RECORD_BYTES: usize = 30;
/// Written by turns: whatever becomes of a write, the other is whole.
const RECORDS: u64 = 2;

/// See the module.
#[derive(Debug)]
pub struct Fences {
    file: File,
    /// The last that was given out.
    last: u64,
    /// The last that may be: written down.
    limit: u64,
    /// Records written so far.
    writes: u64,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The system says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Another process has it.
    #[error("another process uses it")]
    Busy,
    /// It holds something, and no number: who began anew could give out numbers twice.
    #[error("it is no file of fences, or damaged; with another file fences begin anew")]
    Damaged,
}

impl Fences {
    /// Goes on where the file says, or from 1 in a new one.
    pub fn open(path: &Path) -> Result<Self, Unusable> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| Unusable::Busy)?;
        let size = file.metadata()?.len();
        let records = (0..RECORDS).filter_map(|place| read(&file, place));
        let limit = match records.max() {
            Some(limit) => limit,
            None if size == 0 => 0,
            None => return Err(Unusable::Damaged),
        };
        // The place of the older record is written next.
        let writes = if read(&file, 0) == Some(limit) { 1 } else { 0 };
        let mut fences = Self { file, last: limit, limit, writes };
        // Whether it can be written shows now.
        fences.extend()?;
        if size == 0 {
            // Else a power failure takes the file itself, and fences begin anew.
            sync_directory_of(path)?;
        }
        Ok(fences)
    }

    /// A number above all before. Writes once for many of them, and waits until that is on the disk.
    pub fn next(&mut self) -> io::Result<u64> {
        if self.last == self.limit {
            self.extend()?;
        }
        self.last += 1;
        assert!(self.last <= self.limit);
        Ok(self.last)
    }

    fn extend(&mut self) -> io::Result<()> {
        let limit = self.limit + BLOCK;
        let digits = format!("{limit:020}");
        let record = format!("{digits} {:08x}\n", crc32c(digits.as_bytes()));
        assert_eq!(record.len(), RECORD_BYTES);
        self.file.write_all_at(record.as_bytes(), self.writes % RECORDS * RECORD_BYTES as u64)?;
        self.file.sync_all()?;
        self.writes += 1;
        self.limit = limit;
        Ok(())
    }
}

/// The number of a record, if it is whole.
fn read(file: &File, place: u64) -> Option<u64> {
    let mut record = [0; RECORD_BYTES];
    file.read_exact_at(&mut record, place * RECORD_BYTES as u64).ok()?;
    let text = std::str::from_utf8(&record).ok()?.strip_suffix('\n')?;
    let (digits, checksum) = text.split_once(' ')?;
    let is_whole = u32::from_str_radix(checksum, 16) == Ok(crc32c(digits.as_bytes()));
    is_whole.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("slabring-fences-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("fences")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn fences_rise_over_any_number_of_starts() {
        let folder = Folder::new("rise");
        let mut last = 0;
        for numbers in [0, 1, 5, 2 * BLOCK + 7, 0, 3] {
            let mut fences = Fences::open(&folder.file()).unwrap();
            for _ in 0..numbers {
                let next = fences.next().unwrap();
                assert!(next > last, "{next} after {last}");
                last = next;
            }
        }
    }

    #[test]
    fn one_process_has_it_at_a_time() {
        let folder = Folder::new("busy");
        let first = Fences::open(&folder.file()).unwrap();
        assert!(matches!(Fences::open(&folder.file()), Err(Unusable::Busy)));
        drop(first);
        assert!(Fences::open(&folder.file()).is_ok());
    }

    /// Every way in which the last write may have been cut: the number before it still counts.
    #[test]
    fn a_write_that_was_cut_costs_no_number() {
        let folder = Folder::new("cut");
        let mut given = 0;
        {
            let mut fences = Fences::open(&folder.file()).unwrap();
            for _ in 0..3 * BLOCK {
                given = fences.next().unwrap();
            }
        }
        let whole = std::fs::read(folder.file()).unwrap();
        // The fourth record is being written into the second place.
        for cut in 0..RECORD_BYTES {
            let mut bytes = whole.clone();
            bytes[RECORD_BYTES..RECORD_BYTES + cut].fill(b'7');
            std::fs::write(folder.file(), &bytes).unwrap();
            match Fences::open(&folder.file()) {
                Ok(mut fences) => assert!(fences.next().unwrap() > given, "{cut}"),
                Err(error) => panic!("{cut}: {error}"),
            }
        }
        for junk in [&b"x"[..], &[0; 200]] {
            std::fs::write(folder.file(), junk).unwrap();
            assert!(matches!(Fences::open(&folder.file()), Err(Unusable::Damaged)));
        }
    }
}
