//! What a thread asks of the operating system about itself: CPUs, limits, time. No sockets.
#![expect(unsafe_code, reason = "libc calls without a safe wrapper")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

/// The CPUs this process may run on, in ascending order; never empty.
///
/// # Errors
/// What the kernel said.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the pointer is to a set of exactly the size passed.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero is a valid set, and the kernel has written over it.
    let set = unsafe { set.assume_init() };
    let bits = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: `cpu` is below the number of bits in the set.
    let cpus: Vec<usize> = (0..bits).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect();
    assert!(!cpus.is_empty(), "a running thread has a CPU to run on");
    Ok(cpus)
}

/// Pins the calling thread to `cpu`.
///
/// # Errors
/// What the kernel said, for example when `cpu` is not among [`allowed_cpus`].
pub fn pin_to(cpu: usize) -> io::Result<()> {
    assert!(cpu < usize::try_from(libc::CPU_SETSIZE).unwrap_or(0));
    let set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: all-zero is a valid, empty set.
    let mut set = unsafe { set.assume_init() };
    // SAFETY: `cpu` is below the number of bits in the set (asserted above).
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer is to a set of exactly the size passed.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
}

/// A resource limit of this process, in the resource's own unit.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Open file descriptors.
    OpenFiles,
    /// Bytes of locked memory, which io_uring's rings count against (not for root).
    LockedMemory,
    /// Bytes of a core dump.
    CoreDump,
}

/// Raises a soft limit to its hard limit and returns the result; `u64::MAX` is unlimited.
///
/// With `wanted` above the hard limit, tries to raise that too, as root may.
///
/// # Errors
/// What the kernel said.
pub fn raise_limit(limit: Limit, wanted: u64) -> io::Result<u64> {
    let resource = match limit {
        Limit::OpenFiles => libc::RLIMIT_NOFILE,
        Limit::LockedMemory => libc::RLIMIT_MEMLOCK,
        Limit::CoreDump => libc::RLIMIT_CORE,
    };
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    check(unsafe { libc::getrlimit(resource, &raw mut now) })?;
    if now.rlim_cur >= wanted {
        return Ok(now.rlim_cur);
    }
    let higher = libc::rlimit { rlim_cur: wanted, rlim_max: now.rlim_max.max(wanted) };
    let to_hard = libc::rlimit { rlim_cur: now.rlim_max.min(wanted), rlim_max: now.rlim_max };
    for attempt in [higher, to_hard] {
        // SAFETY: the pointer is to a live rlimit.
        if unsafe { libc::setrlimit(resource, &raw const attempt) } == 0 {
            return Ok(attempt.rlim_cur);
        }
    }
    Ok(now.rlim_cur)
}

/// User and system CPU time of this process so far, in microseconds.
#[must_use]
pub fn cpu_time_us() -> (u64, u64) {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a live rusage.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(result, 0, "getrusage of oneself cannot fail");
    // SAFETY: all-zero is valid, and the kernel has written over it.
    let usage = unsafe { usage.assume_init() };
    let us = |t: libc::timeval| {
        u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(t.tv_usec).unwrap_or(0)
    };
    (us(usage.ru_utime), us(usage.ru_stime))
}

/// Makes the allocator give large buffers back to the system as soon as they are freed. By itself it keeps them
/// once it has seen a few, and a burst of large values would stay in the process for ever.
pub fn return_large_buffers() {
    const LARGE_BYTES: libc::c_int = 64 << 10;
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers only; called before there are other threads, as the allocator wants it.
    let _unsupported_is_fine = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
}

/// Gives what the allocator keeps of freed memory back to the system. Locks the heap of one thread after the other meanwhile.
pub fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number only, and locks what it looks at.
    let _there_may_be_none = unsafe { libc::malloc_trim(0) };
}

/// Whether this process may do as it likes (effective user 0).
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// `CLOCK_BOOTTIME`: nanoseconds since boot, suspended time included.
pub(crate) fn boot_time_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A non-blocking eventfd.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_be_pinned_to_each_allowed_cpu_and_to_no_other() {
        std::thread::spawn(|| {
            let cpus = allowed_cpus().unwrap();
            for &cpu in &cpus {
                pin_to(cpu).unwrap();
                assert_eq!(allowed_cpus().unwrap(), [cpu]);
            }
            assert!(pin_to(1000).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn raising_a_limit_to_less_than_it_is_changes_nothing() {
        let now = raise_limit(Limit::OpenFiles, 1).unwrap();
        assert!(now >= 1);
        assert_eq!(raise_limit(Limit::OpenFiles, now).unwrap(), now);
    }
}
