//! Where a run took place, for whoever reads its result later. Reads `/proc`; never fails.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The client's machine.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, Debug)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    /// When the run ended.
    pub(crate) unix_seconds: u64,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = model.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            kernel: kernel.trim().to_owned(),
            cpu,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            unix_seconds: now.as_secs(),
        }
    }
}
