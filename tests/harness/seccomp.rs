//! A child to which the kernel refuses io_uring, as Docker's default profile does.

#![expect(unsafe_code, reason = "a filter is installed between fork and exec by plain system calls")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// `io_uring_setup` on every architecture Linux runs on but Alpha.
const IO_URING_SETUP: u32 = 425;

/// Where a filter finds the number of the system call: `offsetof(struct seccomp_data, nr)`.
const NUMBER_OFFSET: u32 = 0;

const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// `io_uring_setup` fails with EPERM, everything else goes on.
static FILTER: [libc::sock_filter; 4] = [
    instruction(LOAD_WORD, 0, 0, NUMBER_OFFSET),
    instruction(JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
    instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | 1),
    instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
];

// The 1 in the filter.
const _: () = assert!(libc::EPERM == 1);

/// Makes the kernel refuse io_uring to the process that `command` starts, and to its children.
pub fn refuse_io_uring(command: &mut Command) {
    // SAFETY: `install` only makes two system calls over static memory: no allocation, no lock, nothing that a fork
    // of a program with threads could have left half done.
    unsafe { command.pre_exec(install) };
}

fn install() -> io::Result<()> {
    let length = libc::c_ushort::try_from(FILTER.len()).expect("a filter of four instructions");
    let program = libc::sock_fprog { len: length, filter: FILTER.as_ptr().cast_mut() };
    // SAFETY: takes four numbers. Without it, a process that is not root may not install a filter.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: `program` outlives the call and names FILTER.len() instructions, which the kernel copies and never writes.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const fn instruction(code: u16, if_true: u8, if_false: u8, operand: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: if_true, jf: if_false, k: operand }
}
