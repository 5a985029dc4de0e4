//! The file with the process id, for those who look after services. Removed at the end.

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
        if let Err(error) = std::fs::remove_file(&self.0) {
            warn!("cannot remove {}: {error}", self.0.display());
        }
    }
}

fn running(path: &Path) -> Option<u32> {
    let id: u32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (id != std::process::id() && Path::new(&format!("/proc/{id}")).exists()).then_some(id)
}
