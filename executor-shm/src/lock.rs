#![allow(unsafe_code, reason = "registers fork handlers and closes inherited descriptors by number")]
//! Liveness and ownership as the kernel sees them: open-file-description locks, each on a description of its own that
//! is never mapped.
//!
//! A lock dies with its process, after the last store that process could make; it cannot be faked through a read-only
//! descriptor, and it is not shared with forked children: they lose it at once (see *Fork*).
//!
//! # Fork
//! A forked child would keep every description open, and so every lock alive. Descriptors are therefore registered, and
//! the child's fork handler closes them and raises [`fork_generation`]; whatever was made before the fork then refuses
//! to work in the child. `posix_spawn` and `vfork` children run no such handler: they delay a reap until they exec.

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::rehearsal;

/// An open file description that exists to carry a lock. Dropping it frees the lock.
#[derive(Debug)]
pub struct LockFile {
    fd: RawFd,
    generation: u64,
}

/// What kind of lock another description holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    /// A read lock: nobody of ours takes one.
    Reader,
    /// A write lock.
    Writer,
}

impl LockFile {
    /// Takes charge of a freshly opened descriptor. `open` runs while no fork can happen, so that no child inherits it
    /// unregistered.
    pub(crate) fn open(open: impl FnOnce() -> Result<OwnedFd, Errno>) -> Result<Self, Errno> {
        install();
        if !rehearsal::step() {
            return Err(Errno::ESRCH);
        }
        let guard = Guard::new();
        let fd = open()?.into_raw_fd();
        guard.register(fd);
        drop(guard);
        Ok(Self { fd, generation: fork_generation() })
    }

    /// Takes the write lock if nobody holds a lock.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if somebody does.
    pub(crate) fn try_lock(&self) -> Result<(), Errno> {
        let lock = whole(libc::F_WRLCK);
        self.with(|file| fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(drop))
    }

    /// Waits until nobody else holds a lock, and takes the write lock: for a thread that can be given up. Signals do not
    /// end the wait.
    #[cfg(not(shuttle))]
    pub(crate) fn lock(&self) -> Result<(), Errno> {
        let lock = whole(libc::F_WRLCK);
        self.with(|file| {
            loop {
                match fcntl(file, FcntlArg::F_OFD_SETLKW(&lock)) {
                    Err(Errno::EINTR) => {}
                    result => return result.map(drop),
                }
            }
        })
    }

    /// The same where the kernel must not wait: all processes of a rehearsal are its caller.
    #[cfg(shuttle)]
    pub(crate) fn lock(&self) -> Result<(), Errno> {
        loop {
            match self.try_lock() {
                Err(Errno::EAGAIN) => rehearsal::pause(),
                result => return result,
            }
        }
    }

    /// Whether another description holds a write lock: a reader's lock does not count, and probing needs no more than a
    /// read-only descriptor.
    pub(crate) fn is_write_locked(&self) -> Result<bool, Errno> {
        let mut lock = whole(libc::F_RDLCK);
        self.with(|file| fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).map(drop))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }

    /// The lock that keeps this description from the write lock, if any still does.
    pub(crate) fn rival(&self) -> Result<Option<Rival>, Errno> {
        let mut lock = whole(libc::F_WRLCK);
        self.with(|file| fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).map(drop))?;
        Ok(match i32::from(lock.l_type) {
            libc::F_UNLCK => None,
            libc::F_RDLCK => Some(Rival::Reader),
            _ => Some(Rival::Writer),
        })
    }

    /// Gives the file this mode, whatever the umask is.
    pub(crate) fn set_mode(&self, mode: nix::sys::stat::Mode) -> Result<(), Errno> {
        self.with(|file| nix::sys::stat::fchmod(file, mode))
    }

    /// Gives the file to this group.
    pub(crate) fn set_group(&self, gid: u32) -> Result<(), Errno> {
        self.with(|file| nix::unistd::fchown(file, None, Some(nix::unistd::Gid::from_raw(gid))))
    }

    /// The file's metadata.
    pub(crate) fn stat(&self) -> Result<nix::sys::stat::FileStat, Errno> {
        self.with(|file| nix::sys::stat::fstat(file))
    }

    /// Another description of the same file through `/proc/self/fd`, to be mapped.
    pub(crate) fn reopen_for_reading(&self) -> std::io::Result<File> {
        if self.generation != fork_generation() {
            return Err(Errno::EBADF.into());
        }
        File::open(format!("/proc/self/fd/{}", self.fd))
    }

    /// The file's length in bytes now; `None` if it cannot be told.
    pub fn size(&self) -> Option<u64> {
        self.with(|file| nix::sys::stat::fstat(file)).ok().and_then(|stat| u64::try_from(stat.st_size).ok())
    }

    fn with<R>(&self, call: impl FnOnce(&File) -> Result<R, Errno>) -> Result<R, Errno> {
        if self.generation != fork_generation() {
            return Err(Errno::EBADF);
        }
        if !rehearsal::step() {
            return Err(Errno::ESRCH);
        }
        // SAFETY: `fd` is open and ours: it was registered by `open`, only `drop` and a forked child's handler close
        // it, and the check above excludes the child. `ManuallyDrop` keeps this borrowed view from closing it.
        let file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(self.fd) });
        call(&file)
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if self.generation != fork_generation() {
            return; // the child's handler closed it; the number may be somebody else's by now
        }
        rehearsal::last_step();
        let guard = Guard::new();
        guard.forget(self.fd);
        // SAFETY: as in `with`; nobody uses the number after this.
        rehearsal::close(unsafe { OwnedFd::from_raw_fd(self.fd) });
    }
}

fn whole(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// How often this process is a forked child of one that used this crate: 0 for the first. Values made under another
/// number must not be used.
#[inline(always)]
pub fn fork_generation() -> u64 {
    GENERATION.load(Relaxed)
}

static GENERATION: AtomicU64 = AtomicU64::new(0);
/// Held while descriptors come and go, and by a forking thread from before the fork until after it.
static BUSY: AtomicBool = AtomicBool::new(false);
/// The registered descriptors + 1; 0 marks a free place. Fixed in size: a fork handler must not allocate.
static OPEN: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];
/// Enough for a sidecar of 1,024 lanes with two descriptions each, and then some.
const PLACES: usize = 4096;

struct Guard;

impl Guard {
    fn new() -> Self {
        enter();
        Self
    }

    fn register(&self, fd: RawFd) {
        // A full table means more locks than the product can have; the descriptor then only outlives a fork.
        if let Some(place) = OPEN.iter().find(|place| place.load(Relaxed) == 0) {
            place.store(fd as u64 + 1, Relaxed);
        }
    }

    fn forget(&self, fd: RawFd) {
        if let Some(place) = OPEN.iter().find(|place| place.load(Relaxed) == fd as u64 + 1) {
            place.store(0, Relaxed);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() {
    while BUSY.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
        std::thread::yield_now();
    }
}

fn leave() {
    BUSY.store(false, Release);
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the three handlers are plain functions of this library, which is never unloaded; they touch only
        // atomics and call `close`, all of which is allowed between fork and exec.
        let _ = unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork_parent), Some(after_fork_child)) };
    });
}

extern "C" fn before_fork() {
    enter();
}

extern "C" fn after_fork_parent() {
    leave();
}

extern "C" fn after_fork_child() {
    for place in &OPEN {
        let fd = place.swap(0, Relaxed);
        if fd != 0 {
            // SAFETY: the number was registered by the parent and is this child's own copy, which nobody here uses.
            let _ = unsafe { libc::close((fd - 1) as libc::c_int) };
        }
    }
    GENERATION.fetch_add(1, Relaxed);
    leave();
}

/// Whether two files are the same inode.
pub(crate) fn same_inode(a: &nix::sys::stat::FileStat, b: &nix::sys::stat::FileStat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path, flags: nix::fcntl::OFlag) -> LockFile {
        LockFile::open(|| nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())).unwrap()
    }

    #[test]
    fn a_lock_excludes_another_description_of_the_same_process_and_dies_with_its_own() {
        let path = std::env::temp_dir().join(format!("executor-lock-{}", std::process::id()));
        std::fs::write(&path, b"x").unwrap();
        let writable = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC;
        let readable = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
        let (first, second, reader) = (open(&path, writable), open(&path, writable), open(&path, readable));
        assert!(!reader.is_write_locked().unwrap());
        first.try_lock().unwrap();
        assert_eq!(second.try_lock(), Err(Errno::EAGAIN));
        assert!(reader.is_write_locked().unwrap(), "a probe needs no more than a read-only descriptor");
        assert_eq!(reader.try_lock(), Err(Errno::EBADF), "who may only read cannot fake life");
        drop(first);
        assert!(!reader.is_write_locked().unwrap());
        second.try_lock().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let third = open(&path, writable);
        let waiter = std::thread::spawn(move || tell.send(third.lock()).map(|()| third));
        assert!(told.recv_timeout(std::time::Duration::from_millis(50)).is_err(), "it waits for the second");
        drop(second);
        assert_eq!(told.recv().unwrap(), Ok(()));
        let third = waiter.join().unwrap().unwrap();
        assert!(reader.is_write_locked().unwrap());
        drop(third);
        assert!(!reader.is_write_locked().unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}
