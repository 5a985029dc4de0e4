//! What a start would find on this machine, looked at for `--check-config`: the user to become, and places where files would be made.
//! Makes nothing. It does not see what only the start can: an address in use, a full disk, what the other user may write.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{Access, access};
use slabring_reactor::process::User;

use crate::memory_file::directory_of;
use crate::options::{EXIT_FAILURE, Refused, Settings};

/// What may lie at a path already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Anything,
    RegularFile,
    Socket,
}

/// Says what of these settings a start would refuse. The error is one line.
pub fn rehearse(settings: &Settings) -> Result<(), Refused> {
    let refused = |text| Refused { text, exit_code: EXIT_FAILURE };
    if let Some(name) = &settings.user {
        match User::find(name) {
            Ok(Some(_)) => {}
            Ok(None) => return Err(refused(format!("-u {name}: there is no such user"))),
            Err(error) => return Err(refused(format!("-u {name}: cannot look the user up: {error}"))),
        }
    }
    let unix = settings.unix.as_ref().map(|unix| &unix.path);
    for (option, path, takes) in [
        ("-P", settings.pid_file.as_ref(), Takes::Anything),
        ("-s", unix, Takes::Socket),
        ("-e", settings.memory_file.as_ref(), Takes::RegularFile),
        ("--lock-file", settings.lock_file.as_ref(), Takes::RegularFile),
    ] {
        let Some(path) = path else { continue };
        may_make(path, takes).map_err(|error| refused(format!("{option} {}: {error}", path.display())))?;
    }
    Ok(())
}

fn may_make(path: &Path, takes: Takes) -> io::Result<()> {
    let found = match fs::metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(access(directory_of(path), Access::WRITE_OK | Access::EXEC_OK)?);
        }
        Err(error) => return Err(error),
    };
    match takes {
        Takes::Anything if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Takes::RegularFile if !found.is_file() => Err(io::Error::other("not a regular file")),
        Takes::Socket if !found.is_socket() => {
            Err(io::Error::other("there is a file of that name that is no socket; choose another path"))
        }
        // It would be made anew.
        Takes::Socket => Ok(access(directory_of(path), Access::WRITE_OK | Access::EXEC_OK)?),
        Takes::Anything => Ok(access(path, Access::WRITE_OK)?),
        Takes::RegularFile => Ok(access(path, Access::READ_OK | Access::WRITE_OK)?),
    }
}
