#![allow(unsafe_code, reason = "the handlers' effects are plain stores to a page that processes share")]
//! What handlers did: a page that outlives them, one record for each time one was entered.
//!
//! A record becomes an effect when the count is stored, and all of it before; so a kill leaves whole records. Handlers
//! of one worker alone write, the tracer copies the page through its descriptor.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};

use executor_shm::core::TaskContext;
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

const WORDS: usize = 1024;
const RECORDS: usize = 8;
const RECORD_WORDS: usize = 5;

/// The page.
#[derive(Debug)]
pub(crate) struct Effects {
    file: File,
    map: MmapRaw,
}

/// One effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) tag: u64,
    /// The instance's random number and the task's id, which together name the task.
    pub(crate) key: (u64, u64),
    pub(crate) attempt: u64,
    /// The handler got to its end.
    pub(crate) done: bool,
}

impl Effects {
    /// A page without effects.
    pub(crate) fn new() -> Self {
        let file = File::from(memfd_create("effects", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(WORDS as u64 * 8).unwrap();
        let map = MmapOptions::new().len(WORDS * 8).map_raw(&file).unwrap();
        Self { file, map }
    }

    /// The descriptor of the page.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < WORDS, "more effects than the page has room for");
        let base = NonNull::new(self.map.as_mut_ptr()).unwrap().cast::<AtomicU64>();
        // SAFETY: `at < WORDS`, and the mapping has `WORDS` words.
        let word = unsafe { base.add(at) };
        // SAFETY: a mapping begins on a page, so the word is aligned; it stays mapped while `self` lives, and every
        // process that maps the page reaches it through atomics.
        unsafe { word.as_ref() }
    }

    /// Notes that a handler was entered; says which record it is.
    pub(crate) fn enter(&self, tag: u64, context: &TaskContext<'_>) -> usize {
        let count = self.word(0).load(Relaxed) as usize;
        let at = RECORDS + count * RECORD_WORDS;
        let key = context.key();
        let record = [tag, key.task_id.as_u64(), u64::from(context.attempt()), 0, key.instance_nonce];
        for (word, value) in record.into_iter().enumerate() {
            self.word(at + word).store(value, Relaxed);
        }
        self.word(0).store(count as u64 + 1, Release);
        at
    }

    /// Notes that the handler of record `at` got to its end.
    pub(crate) fn leave(&self, at: usize) {
        self.word(at + 3).store(1, Release);
    }

    /// The page's bytes.
    pub(crate) fn copy(&self) -> Vec<u8> {
        let mut bytes = vec![0; WORDS * 8];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Makes the page hold `bytes`; no handler may run.
    pub(crate) fn restore(&self, bytes: &[u8]) {
        self.file.write_all_at(bytes, 0).unwrap();
    }
}

/// The effects in a copy of the page.
pub(crate) fn read(bytes: &[u8]) -> Vec<Effect> {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at * 8 + i]));
    let record = |n: usize| {
        let at = RECORDS + n * RECORD_WORDS;
        Effect { tag: word(at), key: (word(at + 4), word(at + 1)), attempt: word(at + 2), done: word(at + 3) == 1 }
    };
    (0..word(0) as usize).map(record).collect()
}
