#![allow(
    unsafe_code,
    reason = "memory that processes share is reached through raw addresses; this turns them into atomics"
)]
//! Words that several processes share: a table that forked children write, and files of an instance that are kept mapped.
//!
//! Neither takes a lock, and no part of the library is used: what watches the product must not lean on it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, fence};

use executor_shm::core::record::WORDS;
use executor_shm::words::Words;
use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Words that every process which has them may write.
#[derive(Debug)]
pub struct SharedTable(MmapRaw);

impl SharedTable {
    /// `words` zeros without a name, shared with every child that is forked while they are mapped.
    ///
    /// # Errors
    ///
    /// The system gives no memory.
    pub fn new(words: usize) -> io::Result<Self> {
        let file = File::from(memfd_create("executor-table", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(words as u64 * 8)?;
        Ok(Self(MmapOptions::new().len(words * 8).map_raw(&file)?))
    }

    /// Maps an open file that whoever likes may write.
    ///
    /// # Errors
    ///
    /// The file is empty, or the system does not map it.
    pub fn map(file: &File) -> io::Result<Self> {
        Ok(Self(MmapOptions::new().map_raw(file)?))
    }

    /// Words in the table.
    pub fn len(&self) -> usize {
        self.0.len() / 8
    }

    /// Whether it has no words.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Word `at`, which every process may load and store.
    ///
    /// # Panics
    ///
    /// It is past the end.
    #[inline]
    pub fn cell(&self, at: usize) -> &AtomicU64 {
        cell(&self.0, at)
    }
}

/// A file of an instance, mapped for reading and kept whatever becomes of its name.
#[derive(Debug)]
pub struct KeptFile(MmapRaw);

impl KeptFile {
    /// Maps an open file. Children that are forked later do not inherit it.
    ///
    /// # Errors
    ///
    /// The file is empty, or the system does not map it.
    pub fn map(file: &impl AsFd) -> io::Result<Self> {
        let file = File::from(file.as_fd().try_clone_to_owned()?);
        let map = MmapOptions::new().map_raw_read_only(&file)?;
        map.advise(Advice::DontFork)?;
        Ok(Self(map))
    }

    /// The low half of word `at`, for a futex. It must not be stored to: that would be a fault.
    pub fn half(&self, at: usize) -> &AtomicU32 {
        let word: *const AtomicU64 = cell(&self.0, at);
        // SAFETY: the first four bytes of a mapped, aligned word that lives as long as `self`; on a little-endian machine
        // they are its low half.
        unsafe { &*word.cast() }
    }
}

impl Words for KeptFile {
    fn len(&self) -> usize {
        self.0.len() / 8
    }

    fn load(&self, at: usize) -> u64 {
        cell(&self.0, at).load(Relaxed)
    }

    fn load_commit(&self, at: usize) -> u64 {
        let word = self.load(at);
        // fence: the reader's half of every commit. Pages mapped read-only allow Relaxed loads alone, so it stands apart;
        // the writer's half is its Release store of this word.
        fence(std::sync::atomic::Ordering::Acquire);
        word
    }

    fn load_record(&self, at: usize) -> [u64; WORDS] {
        std::array::from_fn(|word| if word == 0 { 0 } else { self.load(at + word) })
    }
}

fn cell(map: &MmapRaw, at: usize) -> &AtomicU64 {
    assert!(at < map.len() / 8, "word {at} of {}", map.len() / 8);
    let base = NonNull::new(map.as_mut_ptr()).expect("a mapping is nowhere at address 0").cast::<AtomicU64>();
    // SAFETY: `at * 8 + 8 <= len` by the check above, so the address is inside the mapping.
    let address = unsafe { base.add(at) };
    // SAFETY: a mapping begins on a page, so the address is 8-aligned; it stays mapped while `map` is borrowed; memory
    // that other processes write may be referenced as an atomic. A store through a read-only mapping would be a fault,
    // and `KeptFile`, the only owner of one, hands out references that are not to be stored to.
    unsafe { address.as_ref() }
}
