//! What the machine is, and how busy it is with other things: a comparison on a busy machine is worth little.

use std::fs;

use anyhow::Context;

use crate::process::TICK_US;

/// The kernel's name and release.
pub(crate) fn kernel() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// The processor's name.
pub(crate) fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    model.and_then(|line| line.split_once(':')).map_or("unknown CPU".into(), |(_, model)| model.trim().into())
}

/// What a process occupies in memory, in bytes, by its id or `self`.
pub(crate) fn resident_bytes(process: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kibibytes = resident_kibibytes(&status).with_context(|| format!("{path} is not as expected"))?;
    Ok(kibibytes * 1024)
}

fn resident_kibibytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Time that all CPUs together have been busy since the start of the machine, in microseconds, time stolen by the
/// hypervisor included. 0 where the kernel does not say.
pub(crate) fn busy_us() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&stat).unwrap_or(0) * TICK_US
}

/// The first line is `cpu user nice system idle iowait irq softirq steal ...`.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks: Vec<u64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some(user + nice + system + irq + softirq + steal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_everything_but_idle_and_waiting() {
        assert_eq!(busy_ticks("cpu  1 20 300 9999 9999 4000 50000 600000 7 7\ncpu0 1 1"), Some(654_321));
        assert_eq!(busy_ticks("cpu  1 2 3"), None);
        assert_eq!(busy_ticks("intr 1"), None);
        assert_eq!(busy_ticks(""), None);
    }

    #[test]
    fn resident_memory_is_found_among_the_other_lines() {
        assert_eq!(resident_kibibytes("VmHWM:\t   99 kB\nVmRSS:\t    1234 kB\nx"), Some(1234));
        assert_eq!(resident_kibibytes("VmRSS:\t x kB"), None);
        assert!(resident_bytes("self").unwrap() > 100 << 10);
        assert!(resident_bytes("no such process").is_err());
    }

    #[test]
    fn this_machine_says_what_it_is_and_gets_busier() {
        assert!(kernel().len() > "Linux ".len());
        assert!(busy_us() > 0);
    }
}
