//! The file with the process id, for those who look after services. Removed at the end, unless another process has written its own
//! there meanwhile.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tracing::warn;

/// A written process id; the file goes when this is dropped.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes this process's id to `path`. Says so if the file named another process that runs.
    pub fn write(path: &Path) -> Result<Self> {
        if let Some(other) = running(path) {
            warn!("{} contained the id of a process that runs: {other}", path.display());
        }
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("-P {}: cannot write the process id", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if written(&self.0).is_some_and(|id| id != std::process::id()) {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.0) {
            warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// The process id in the file.
fn written(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn running(path: &Path) -> Option<u32> {
    let id = written(path)?;
    (id != std::process::id() && Path::new(&format!("/proc/{id}")).exists()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_another_process_has_written_since_stays() {
        let path = std::env::temp_dir().join(format!("slabring-pid-file-{}", std::process::id()));
        drop(PidFile::write(&path).unwrap());
        assert!(!path.exists());
        let ours = PidFile::write(&path).unwrap();
        std::fs::write(&path, "1\n").unwrap();
        drop(ours);
        assert_eq!(written(&path), Some(1));
        std::fs::remove_file(&path).unwrap();
    }
}
