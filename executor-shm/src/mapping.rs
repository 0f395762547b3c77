#![allow(unsafe_code, reason = "asks the kernel about mapped ranges and vouches for the thread-safety of a mapping")]
//! Files mapped into memory: `shared_memory` maps what this process writes, `memmap2` what it only reads.
//!
//! It creates, checks and interprets nothing; that is [`files`](crate::files) and the modules of the single segments.
//!
//! Traps of `shared_memory` 0.12.4 that stay inside this file: an owning `Shmem` unlinks by name on drop, even a
//! successor's file, so ownership is given up at once; it is `!Send`; a file of 0 bytes fails with EINVAL from `mmap`;
//! its descriptor is not closed if it has the number 0.

use std::fs::File;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use shared_memory::{Shmem, ShmemConf, ShmemError};

use crate::layout::LINE;
use crate::lock::fork_generation;
use crate::rehearsal::step;
use crate::sigbus::Guard;

/// Why a file could not be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The kernel refused.
    #[error("cannot map {name}")]
    Refused {
        /// The file's name in `/dev/shm`.
        name: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The file has another length than its header says, or none.
    #[error("/dev/shm/{name} has {found} bytes, {} are needed; the file is damaged", needed(*expected))]
    Size {
        /// The file's name in `/dev/shm`.
        name: String,
        /// Its bytes.
        found: usize,
        /// The bytes needed.
        expected: usize,
    },
}

/// At least a header is.
fn needed(expected: usize) -> usize {
    expected.max(8 * LINE)
}

/// A file in `/dev/shm` that this process writes.
pub(crate) struct WriteMapping {
    /// `None` only while it is being dropped.
    shmem: Option<Shmem>,
    base: NonNull<u8>,
    bytes: usize,
    generation: u64,
    guard: OnceLock<Guard>,
}

impl std::fmt::Debug for WriteMapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WriteMapping({} bytes)", self.bytes)
    }
}

// SAFETY: `Shmem` is `!Send` only for the raw pointer it holds. It keeps no thread's identity: unmapping and closing
// work from any thread, and its file link, which it would remove as an owner, is never set.
unsafe impl Send for WriteMapping {}
// SAFETY: `&WriteMapping` gives away the base address and the length, which never change.
unsafe impl Sync for WriteMapping {}

impl WriteMapping {
    /// Maps the file `name` of `/dev/shm`, the pages of the first `present` bytes present. The name may have changed hands
    /// since the caller looked: prove the inode by the nonce in the header.
    ///
    /// # Errors
    ///
    /// The kernel refused, or the file has fewer than `expected` bytes.
    pub(crate) fn open(name: &str, expected: usize, present: usize) -> Result<Self, MapError> {
        step();
        let shmem = ShmemConf::new().os_id(format!("/{name}")).open();
        let mut shmem = shmem.map_err(|error| refused(name, expected, &error))?;
        shmem.set_owner(false);
        if shmem.len() != expected {
            return Err(MapError::Size { name: name.to_owned(), found: shmem.len(), expected });
        }
        let Some(base) = NonNull::new(shmem.as_ptr()) else {
            return Err(MapError::Size { name: name.to_owned(), found: 0, expected });
        };
        prepare(base, expected, present, libc::MADV_POPULATE_WRITE);
        let guard = OnceLock::new();
        Ok(Self { shmem: Some(shmem), base, bytes: expected, generation: fork_generation(), guard })
    }

    /// From here on a truncated file reads as zeros and raises a bit of `word`, in processes that installed the handler.
    pub(crate) fn guard(&self, word: &Arc<AtomicU32>) {
        self.guard.get_or_init(|| Guard::new(self.base.as_ptr(), self.bytes, word));
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for WriteMapping {
    fn drop(&mut self) {
        if self.generation != fork_generation() {
            // MADV_DONTFORK left this child without the pages; the range may hold something else of its by now.
            std::mem::forget(self.shmem.take());
            std::mem::forget(self.guard.take()); // its table's lock may have been held at the fork
        }
        drop(self.guard.take()); // before its range is unmapped
    }
}

fn refused(name: &str, expected: usize, error: &ShmemError) -> MapError {
    let code = match error {
        ShmemError::MapOpenFailed(code) | ShmemError::MapCreateFailed(code) | ShmemError::UnknownOsError(code) => *code,
        _ => Errno::EIO as u32,
    };
    if code == Errno::EINVAL as u32 {
        return MapError::Size { name: name.to_owned(), found: 0, expected }; // what `mmap` says of an empty file
    }
    MapError::Refused { name: name.to_owned(), source: std::io::Error::from_raw_os_error(code as i32) }
}

/// A file that this process only reads; the kernel refuses a store.
#[derive(Debug)]
pub(crate) struct ReadMapping {
    /// `None` only while it is being dropped.
    map: Option<memmap2::MmapRaw>,
    base: NonNull<u8>,
    bytes: usize,
    generation: u64,
    guard: OnceLock<Guard>,
}

impl ReadMapping {
    /// Maps an open file, the pages of the first `present` bytes present.
    ///
    /// # Errors
    ///
    /// The kernel refused, or the file has fewer than `expected` bytes.
    pub(crate) fn open(file: &File, name: &str, expected: usize, present: usize) -> Result<Self, MapError> {
        let refused = |source| MapError::Refused { name: name.to_owned(), source };
        let found = file.metadata().map_err(refused)?.len() as usize;
        if found != expected || found == 0 {
            return Err(MapError::Size { name: name.to_owned(), found, expected });
        }
        let map = memmap2::MmapOptions::new().len(found).map_raw_read_only(file).map_err(refused)?;
        let Some(base) = NonNull::new(map.as_mut_ptr()) else {
            return Err(MapError::Size { name: name.to_owned(), found: 0, expected });
        };
        prepare(base, found, present, libc::MADV_POPULATE_READ);
        let guard = OnceLock::new();
        Ok(Self { map: Some(map), base, bytes: found, generation: fork_generation(), guard })
    }

    /// As [`WriteMapping::guard`].
    pub(crate) fn guard(&self, word: &Arc<AtomicU32>) {
        self.guard.get_or_init(|| Guard::new(self.base.as_ptr(), self.bytes, word));
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for ReadMapping {
    fn drop(&mut self) {
        if self.generation != fork_generation() {
            std::mem::forget(self.map.take()); // as for `WriteMapping`
            std::mem::forget(self.guard.take());
        }
        drop(self.guard.take());
    }
}

// SAFETY: the pointer leads into the mapping the value owns, which any thread may unmap.
unsafe impl Send for ReadMapping {}
// SAFETY: `&ReadMapping` gives away the base address and the length, which never change.
unsafe impl Sync for ReadMapping {}

/// Makes pages present, keeps all of them out of forked children and core dumps. All three are advice: kernels before
/// 5.14 do not know how to populate and fault the pages in one by one instead.
fn prepare(base: NonNull<u8>, bytes: usize, present: usize, populate: libc::c_int) {
    let advices = [(populate, present.min(bytes)), (libc::MADV_DONTFORK, bytes), (libc::MADV_DONTDUMP, bytes)];
    for (advice, bytes) in advices {
        // SAFETY: `base .. base + bytes` lies in one mapping of ours, live during the call; these kinds of advice change
        // no content and unmap nothing in this process.
        let _ = unsafe { libc::madvise(base.as_ptr().cast(), bytes, advice) };
    }
}
