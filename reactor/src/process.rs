//! What a server asks of the operating system about its process: another user, the background, locked memory. Called once,
//! before there are threads. No sockets.
#![expect(unsafe_code, reason = "libc calls without a safe wrapper")]

use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::io::{self, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr;

/// Room for one line of the user database.
const USER_BYTES_MAX: usize = 16 << 10;
/// Written by the child when it serves.
const READY: u8 = b'.';

/// A user of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    name: CString,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

impl User {
    /// Looks a user up by name; `None` if there is none.
    ///
    /// # Errors
    /// The user database cannot be read.
    pub fn find(name: &str) -> io::Result<Option<Self>> {
        let Ok(name) = CString::new(name) else { return Ok(None) };
        let mut entry = MaybeUninit::<libc::passwd>::zeroed();
        let mut room = vec![0; USER_BYTES_MAX];
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are to live places, and the room's length is its own.
        let errno = unsafe {
            libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), room.as_mut_ptr(), room.len(), &raw mut found)
        };
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if found.is_null() {
            return Ok(None);
        }
        // SAFETY: all-zero is valid, and the call has said that it wrote over it.
        let entry = unsafe { entry.assume_init() };
        Ok(Some(Self { name, uid: entry.pw_uid, gid: entry.pw_gid }))
    }

    /// Becomes this user for good, with its groups.
    ///
    /// # Errors
    /// What the kernel said: mostly that only root may.
    pub fn assume(&self) -> io::Result<()> {
        let name: &CStr = &self.name;
        // SAFETY: the name ends in a NUL.
        check(unsafe { libc::initgroups(name.as_ptr(), self.gid) })?;
        // SAFETY: takes a number. The group first: without root it could not be changed.
        check(unsafe { libc::setgid(self.gid) })?;
        // SAFETY: takes a number.
        check(unsafe { libc::setuid(self.uid) })
    }
}

/// Keeps all memory of the process, present and future, out of swap.
///
/// # Errors
/// What the kernel said: mostly that the limit of locked memory is too low.
pub fn lock_memory() -> io::Result<()> {
    // SAFETY: takes a number.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) })
}

/// The child's side of [`detach`].
#[derive(Debug)]
pub struct Detached {
    parent: PipeWriter,
}

/// Goes on in a child process of its own session. The calling process stays in this call until the child says that it is
/// ready and then ends with code 0; if the child ends before, it ends with the child's code.
///
/// # Errors
/// What the kernel said. There is no child then.
pub fn detach() -> io::Result<Detached> {
    let (mut child, parent) = io::pipe()?;
    // SAFETY: there are no other threads that could hold a lock in the child.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid > 0 {
        drop(parent);
        let is_ready = matches!(child.read(&mut [0]), Ok(1));
        std::process::exit(if is_ready { 0 } else { exit_code_of(pid) });
    }
    drop(child);
    // SAFETY: takes nothing. It fails only for a group's leader, which a fresh child is not.
    if unsafe { libc::setsid() } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Detached { parent })
}

impl Detached {
    /// Lets the parent end. With `quiet`, input and output go nowhere from here on.
    ///
    /// # Errors
    /// There is no `/dev/null`, or the parent is gone.
    pub fn ready(mut self, quiet: bool) -> io::Result<()> {
        if quiet {
            let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null")?;
            for standard in 0..=2 {
                // SAFETY: takes two numbers; whoever uses the standard descriptors expects no more of them than this.
                if unsafe { libc::dup2(nowhere.as_raw_fd(), standard) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        self.parent.write_all(&[READY])
    }
}

fn exit_code_of(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: the pointer is to a live number.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if waited == child && libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 1 }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_nobody_else_by_a_wrong_one() {
        let root = User::find("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(User::find("no-such-user-here").unwrap(), None);
        assert_eq!(User::find("a\0b").unwrap(), None);
    }
}
