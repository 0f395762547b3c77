//! Locks that stand in for those of a process that is not there.

use std::fs::{File, OpenOptions};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// A lock over a whole file.
pub(crate) fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Opens a file and takes the write lock on it, as its owner would. Dropped, the lock is free.
pub(crate) fn hold(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK)))?;
    Ok(file)
}
