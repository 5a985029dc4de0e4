//! What the machine, or the container that is taken for one, has. Reads what Linux says; changes nothing.

use std::fs;
use std::path::Path;

const CGROUPS: &str = "/sys/fs/cgroup";
/// Of the older hierarchy, where a container sees its own limit at the root.
const OLD_LIMIT: &str = "memory/memory.limit_in_bytes";

/// Memory that this process can use at most: the machine's, or less by a limit of its cgroup or one above. `None` if Linux does not say.
pub fn memory_bytes() -> Option<u64> {
    let machine = total_of(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(limit_of(Path::new(CGROUPS), &cgroups).map_or(machine, |limit| limit.min(machine)))
}

/// Memory of this process that is in the machine's. `None` if Linux does not say.
pub fn resident_bytes() -> Option<u64> {
    kib_of(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

fn total_of(meminfo: &str) -> Option<u64> {
    kib_of(meminfo, "MemTotal:")
}

/// Bytes of a line of one of Linux's tables in KiB.
fn kib_of(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// The least limit from the process's cgroup up to the root; "max" is none.
fn limit_of(root: &Path, cgroups: &str) -> Option<u64> {
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = root.join(own);
    let of_this_kind =
        own.ancestors().take_while(|path| path.starts_with(root)).map(|path| path.join("memory.max"));
    let read = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
    of_this_kind.chain([root.join(OLD_LIMIT)]).filter_map(read).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_the_cgroups_above_a_process_counts() {
        let root = std::env::temp_dir().join(format!("slabring-cgroups-{}", std::process::id()));
        fs::create_dir_all(root.join("pod/box")).unwrap();
        for (path, text) in [("pod/memory.max", "1048576\n"), ("pod/box/memory.max", "max\n")] {
            fs::write(root.join(path), text).unwrap();
        }
        let limit = |cgroups| limit_of(&root, cgroups);
        assert_eq!(limit("1:cpu:/x\n0::/pod/box\n"), Some(1 << 20));
        assert_eq!(limit("0::/\n"), None);
        assert_eq!(limit(""), None);
        fs::create_dir(root.join("memory")).unwrap();
        fs::write(root.join(OLD_LIMIT), "4096\n").unwrap();
        assert_eq!(limit("4:memory:/x\n"), Some(4096));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn this_machine_has_memory() {
        assert_eq!(total_of("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert!(memory_bytes().unwrap() > 1 << 20);
        assert!((1 << 20..memory_bytes().unwrap()).contains(&resident_bytes().unwrap()));
    }
}
