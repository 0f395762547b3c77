#![allow(unsafe_code, reason = "maps zero pages over a range that it was told about, from a signal handler")]
//! Lanes whose files somebody truncated: files in `/dev/shm` cannot be sealed, and a load past the end of one is a SIGBUS.
//!
//! Ranges are told beforehand with a word to raise. A fault inside one raises [`BROKEN`] in that word and maps zero pages
//! over the whole range, so that the instruction runs again and reads zeros. Nothing is mended behind its owner's back: who
//! reads from the range looks at the word before it uses what it read.
//!
//! # Invariants
//! - B1: the word is raised before the zeros can be read.
//! - B2: an entry is read whole or not at all: `start` is stored last and cleared first, and looked at again at the end.
//! - B3: an entry goes before its mapping and its word do.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Mutex, PoisonError};

/// In a lane's poison word: its files cannot be read or written any more.
pub(crate) const BROKEN: u32 = 1 << 8;

/// One guarded range.
struct Entry {
    start: AtomicUsize,
    bytes: AtomicUsize,
    word: AtomicPtr<AtomicU32>,
}

impl Entry {
    const fn empty() -> Self {
        Self { start: AtomicUsize::new(0), bytes: AtomicUsize::new(0), word: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// Enough for 1,024 lanes of two files, twice over. Fixed in size: a signal handler reads it.
const ENTRIES: usize = 4096;
static TABLE: [Entry; ENTRIES] = [const { Entry::empty() }; ENTRIES];
/// Entries below this one may be in use.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Held while entries come and go; never by a signal handler.
static CHANGES: Mutex<()> = Mutex::new(());

/// A range that is guarded while this lives. Drop it before its mapping.
#[derive(Debug)]
pub(crate) struct Guard {
    entry: Option<usize>,
    /// Kept alive for the handler.
    _word: Arc<AtomicU32>,
}

impl Guard {
    /// Guards `bytes` from `start`, one whole mapping of ours. With a full table the range stays unguarded.
    pub(crate) fn new(start: *const u8, bytes: usize, word: &Arc<AtomicU32>) -> Self {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = TABLE.iter().position(|entry| entry.start.load(Relaxed) == 0);
        if let Some((at, entry)) = entry.and_then(|at| TABLE.get(at).map(|entry| (at, entry))) {
            entry.bytes.store(bytes, Relaxed);
            entry.word.store(Arc::as_ptr(word).cast_mut(), Relaxed);
            entry.start.store(start as usize, Release); // B2
            USED.fetch_max(at + 1, Release);
        }
        Self { entry, _word: Arc::clone(word) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = self.entry.and_then(|at| TABLE.get(at)) {
            entry.start.store(0, Release); // B2, B3
        }
    }
}

/// Called by the handler of SIGBUS: whether the fault was over a guarded range, which now reads as zeros.
pub(crate) fn mend(address: usize) -> bool {
    for entry in TABLE.iter().take(USED.load(Acquire)) {
        let start = entry.start.load(Acquire);
        let bytes = entry.bytes.load(Relaxed);
        let word = entry.word.load(Acquire);
        // B2: an entry that somebody is replacing is not the one of this fault, whose mapping is in use.
        if start == 0 || address.wrapping_sub(start) >= bytes || entry.start.load(Relaxed) != start {
            continue;
        }
        // SAFETY: the entry is in the table, so by B3 its guard is alive and keeps the word alive.
        if let Some(word) = unsafe { word.as_ref() } {
            word.fetch_or(BROKEN, Release); // B1
        }
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
        // Writable even over a file that was only read: a futex of the kernel wants pages that it could write.
        // SAFETY: by B3 the range is one whole mapping that this process made and still owns; it is replaced by pages of
        // the same place and length, and whoever reads or writes there goes on doing so through atomics.
        let place = unsafe { libc::mmap(start as *mut libc::c_void, bytes, access, flags, -1, 0) };
        return place != libc::MAP_FAILED;
    }
    false
}
