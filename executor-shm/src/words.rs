#![allow(unsafe_code, reason = "shared memory is reached through raw addresses; this is the one place that turns them into atomics")]
//! Every access to memory that another process may write, or may read while we write.
//!
//! A [`Words`] block is a run of aligned little-endian u64 words. Nothing here knows what a word means. No `&[u8]`, no
//! `&mut T` and no `&T` but a `&AtomicU64` is ever formed over memory that another process writes.
//!
//! # Invariants
//! - M1: an access is checked against the block's own private length before an address is formed.
//! - M2: a block that is only read (`Words` without `WordsMut`) has no method that stores.
//! - M3: the bytes behind [`WordsMut::buffer`] are written by the caller alone: one writer per file, enforced by the
//!   kernel, and one half of a lane per file, enforced by `&mut self`.
//!
//! # Memory ordering
//! | pair | `Release` store          | `Acquire` load                     | otherwise                   |
//! |------|--------------------------|------------------------------------|-----------------------------|
//! | any  | [`WordsMut::commit`]     | [`Words::load_commit`]             | words before it are not seen |
//!
//! `load_commit` is a `Relaxed` load followed by `fence(Acquire)`: on pages mapped read-only Rust defines only Relaxed
//! loads, and a fence after a Relaxed load synchronizes with the Release store just as an Acquire load would. On x86-64
//! both cost nothing. Rust's memory model has no final word on a stranger that races against us without atomics; what
//! such a stranger can do is change the values we load, which every caller treats as input.

use std::ptr::NonNull;
use std::sync::Arc;

use executor_core::record::WORDS;

use crate::mapping::{ReadMapping, WriteMapping};

/// One word as a model checker or the machine has it.
trait Cell {
    fn relaxed(&self) -> u64;
    fn acquire(&self) -> u64;
    fn set(&self, value: u64);
    fn release(&self, value: u64);
}

macro_rules! cell {
    ($atomic:ty, $fence:path, $order:path) => {
        impl Cell for $atomic {
            #[inline(always)]
            fn relaxed(&self) -> u64 {
                use $order as O;
                self.load(O::Relaxed)
            }

            #[inline(always)]
            fn acquire(&self) -> u64 {
                use $order as O;
                let value = self.load(O::Relaxed);
                // fence: the second half of every Acquire; see the module's page.
                $fence(O::Acquire);
                value
            }

            #[inline(always)]
            fn set(&self, value: u64) {
                use $order as O;
                self.store(value, O::Relaxed);
            }

            #[inline(always)]
            fn release(&self, value: u64) {
                use $order as O;
                self.store(value, O::Release);
            }
        }
    };
}

cell!(std::sync::atomic::AtomicU64, std::sync::atomic::fence, std::sync::atomic::Ordering);
#[cfg(loom)]
cell!(loom::sync::atomic::AtomicU64, loom::sync::atomic::fence, loom::sync::atomic::Ordering);

/// A block of words that somebody else may be writing.
pub trait Words {
    /// Words in the block.
    fn len(&self) -> usize;

    /// Whether the block has no words.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Loads word `at`, Relaxed.
    ///
    /// # Panics
    ///
    /// `at` is past the end; positions are masked and lengths checked before, so that is a bug of ours.
    fn load(&self, at: usize) -> u64;

    /// Loads word `at`; what its writer stored before committing it is visible afterwards.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn load_commit(&self, at: usize) -> u64;

    /// Loads words `at + 1 ..= at + 7` of the record at `at`, once each; word 0 of the result is 0.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn load_record(&self, at: usize) -> [u64; WORDS];

    /// Copies `into.len()` bytes that begin at word `at`. The copy may be torn if its writer is at work.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn copy_out(&self, at: usize, into: &mut [u8]) {
        for (word, chunk) in (at..).zip(into.chunks_mut(8)) {
            let bytes = self.load(word).to_le_bytes();
            chunk.copy_from_slice(bytes.get(..chunk.len()).unwrap_or_default());
        }
    }
}

/// A block of words that we alone write.
pub trait WordsMut: Words {
    /// Stores word `at`, Relaxed.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn store(&self, at: usize, value: u64);

    /// Stores word `at` so that whoever loads it with [`Words::load_commit`] sees all our stores before it.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn commit(&self, at: usize, value: u64);

    /// Stores words 1 to 7 of `record` at `at + 1 ..= at + 7`.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn store_record(&self, at: usize, record: &[u64; WORDS]);

    /// The `length` bytes that begin at word `at`, for their only writer. Blocks on the heap have none: empty.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn buffer(&mut self, at: usize, length: usize) -> &mut [u8];
}

/// Implements the access methods over one `fn cells(&self, at, count) -> impl Index` for each kind of block.
macro_rules! loads {
    () => {
        #[inline(always)]
        fn load(&self, at: usize) -> u64 {
            self.cells::<1>(at)[0].relaxed()
        }

        #[inline(always)]
        fn load_commit(&self, at: usize) -> u64 {
            self.cells::<1>(at)[0].acquire()
        }

        #[inline(always)]
        fn load_record(&self, at: usize) -> [u64; WORDS] {
            let cells = self.cells::<WORDS>(at);
            let mut words = [0; WORDS];
            for (word, cell) in words.iter_mut().zip(cells).skip(1) {
                *word = cell.relaxed();
            }
            words
        }
    };
}

macro_rules! stores {
    () => {
        #[inline(always)]
        fn store(&self, at: usize, value: u64) {
            self.cells::<1>(at)[0].set(value);
        }

        #[inline(always)]
        fn commit(&self, at: usize, value: u64) {
            self.cells::<1>(at)[0].release(value);
        }

        #[inline(always)]
        fn store_record(&self, at: usize, record: &[u64; WORDS]) {
            let cells = self.cells::<WORDS>(at);
            for (word, cell) in record.iter().zip(cells).skip(1) {
                cell.set(*word);
            }
        }
    };
}

#[cold]
#[inline(never)]
fn out_of_block(at: usize, count: usize, words: usize) -> ! {
    panic!("words {at} to {} of a block of {words}", at + count)
}

/// Address and length of mapped words, with the check that every access goes through.
#[derive(Clone, Copy, Debug)]
struct Span {
    base: NonNull<std::sync::atomic::AtomicU64>,
    words: usize,
}

impl Span {
    /// The `N` words from `at`, each as an atomic of its own.
    #[inline(always)]
    fn cells<const N: usize>(&self, at: usize) -> [&std::sync::atomic::AtomicU64; N] {
        if at > self.words.wrapping_sub(N) || N > self.words {
            out_of_block(at, N, self.words);
        }
        std::array::from_fn(|i| {
            // SAFETY: `at + i < words` by the check above (M1), and `base` is the start of a live mapping of `words`
            // words, so the address is inside it.
            let cell = unsafe { self.base.add(at + i) };
            // SAFETY: the address is 8-aligned (a mapping begins on a page) and stays mapped while the owner of this
            // span lives; memory shared with other processes may be referenced as an atomic.
            unsafe { cell.as_ref() }
        })
    }

    /// Copies bytes out without forming a reference to them.
    #[inline]
    fn copy_out(&self, at: usize, into: &mut [u8]) {
        let words = into.len().div_ceil(8);
        if words == 0 {
            return;
        }
        if at > self.words || words > self.words - at {
            out_of_block(at, words, self.words);
        }
        // SAFETY: `at + words <= self.words` by the check above, so the address is inside the mapping.
        let from = unsafe { self.base.add(at) };
        copy_bytes(from.cast::<u8>().as_ptr(), into);
    }
}

/// Copies from memory that a stranger may be writing. One assembly instruction the compiler knows nothing about, so no
/// assumption of the language about racing reads is broken; the bytes may be torn.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn copy_bytes(from: *const u8, into: &mut [u8]) {
    // SAFETY: the only caller checked that `from` is followed by `into.len()` mapped bytes (rounded up to words), and
    // `into` is a private exclusive slice of that length; `rep movsb` touches nothing else, and the direction flag is
    // clear by the ABI.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") into.len() => _,
            inout("rsi") from => _,
            inout("rdi") into.as_mut_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn copy_bytes(from: *const u8, into: &mut [u8]) {
    let from = from.cast::<std::sync::atomic::AtomicU64>();
    for (i, chunk) in into.chunks_mut(8).enumerate() {
        // SAFETY: the only caller checked that `from` is followed by `into.len()` mapped bytes rounded up to words.
        let cell = unsafe { from.add(i) };
        // SAFETY: 8-aligned, because blocks and buffers begin on words; mapped by the same check.
        let bytes = unsafe { &*cell }.relaxed().to_le_bytes();
        chunk.copy_from_slice(bytes.get(..chunk.len()).unwrap_or_default());
    }
}

/// Words of a file that we map read-only. Cheap to clone; clones share the mapping.
#[derive(Clone, Debug)]
pub struct ReadWords {
    span: Span,
    _mapping: Arc<ReadMapping>,
}

// SAFETY: the span points into the mapping the value keeps alive, and everything is done through atomic loads.
unsafe impl Send for ReadWords {}
// SAFETY: as for `Send`.
unsafe impl Sync for ReadWords {}

impl ReadWords {
    /// Word `at` as an atomic, for a futex.
    pub(crate) fn atomic(&self, at: usize) -> &std::sync::atomic::AtomicU64 {
        self.cells::<1>(at)[0]
    }

    /// All whole words of the mapping.
    pub(crate) fn new(mapping: ReadMapping) -> Self {
        let (base, words) = (mapping.base().cast(), mapping.bytes() / 8);
        Self { span: Span { base, words }, _mapping: Arc::new(mapping) }
    }

    #[inline(always)]
    fn cells<const N: usize>(&self, at: usize) -> [&std::sync::atomic::AtomicU64; N] {
        self.span.cells(at)
    }
}

impl Words for ReadWords {
    #[inline(always)]
    fn len(&self) -> usize {
        self.span.words
    }

    loads!();

    #[inline]
    fn copy_out(&self, at: usize, into: &mut [u8]) {
        self.span.copy_out(at, into);
    }
}

/// Words of a file that we map writable and alone write. Not cloneable: one value, one writer.
#[derive(Debug)]
pub struct WriteWords {
    span: Span,
    _mapping: WriteMapping,
}

// SAFETY: the span points into the mapping the value keeps alive, and everything is done through atomics or `&mut`.
unsafe impl Send for WriteWords {}
// SAFETY: through `&self` there are only atomic loads and stores.
unsafe impl Sync for WriteWords {}

impl WriteWords {
    /// All whole words of the mapping.
    pub(crate) fn new(mapping: WriteMapping) -> Self {
        let (base, words) = (mapping.base().cast(), mapping.bytes() / 8);
        Self { span: Span { base, words }, _mapping: mapping }
    }

    /// Shares the block between threads of the writing process, each of which owns other words of it: workers count in
    /// their own meter blocks, housekeeping writes the lane table. Nobody gets bytes of it any more.
    pub(crate) fn share(self) -> SharedWords {
        SharedWords(Arc::new(self))
    }

    #[inline(always)]
    fn cells<const N: usize>(&self, at: usize) -> [&std::sync::atomic::AtomicU64; N] {
        self.span.cells(at)
    }
}

impl Words for WriteWords {
    #[inline(always)]
    fn len(&self) -> usize {
        self.span.words
    }

    loads!();

    #[inline]
    fn copy_out(&self, at: usize, into: &mut [u8]) {
        self.span.copy_out(at, into);
    }
}

impl WordsMut for WriteWords {
    stores!();

    #[inline(always)]
    fn buffer(&mut self, at: usize, length: usize) -> &mut [u8] {
        let words = length.div_ceil(8);
        if at > self.span.words || words > self.span.words - at {
            out_of_block(at, words, self.span.words);
        }
        // SAFETY: `at + words <= len` by the check above, so the address is inside the mapping.
        let start = unsafe { self.span.base.add(at) };
        // SAFETY: the bytes are mapped and initialized (files read as zeros), and M3 makes us their only writer while
        // `&mut self` is borrowed; other processes only read them, through their own read-only mappings.
        unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>().as_ptr(), length) }
    }
}

/// A block written by several threads of one process, each its own words of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedWords(Arc<WriteWords>);

impl SharedWords {
    /// Word `at` as an atomic, for a futex.
    pub(crate) fn atomic(&self, at: usize) -> &std::sync::atomic::AtomicU64 {
        self.cells::<1>(at)[0]
    }

    /// The words from `at` on as a slice of atomics, for the meter, whose words only this process writes.
    pub(crate) fn meter(&self, at: usize, words: usize) -> MeterWords {
        let span = self.0.span;
        if at > span.words || words > span.words - at {
            out_of_block(at, words, span.words);
        }
        // SAFETY: `at + words <= len` by the check above, so the address is inside the mapping.
        let base = unsafe { span.base.add(at) };
        MeterWords { span: Span { base, words }, _block: Arc::clone(&self.0) }
    }

    #[inline(always)]
    fn cells<const N: usize>(&self, at: usize) -> [&std::sync::atomic::AtomicU64; N] {
        self.0.span.cells(at)
    }
}

impl Words for SharedWords {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.span.words
    }

    loads!();
}

impl WordsMut for SharedWords {
    stores!();

    fn buffer(&mut self, _at: usize, _length: usize) -> &mut [u8] {
        &mut []
    }
}

/// A run of counters of this process in a mapped file, as the dispatch loop wants them.
#[derive(Clone, Debug)]
pub struct MeterWords {
    span: Span,
    _block: Arc<WriteWords>,
}

// SAFETY: the span points into the mapping the value keeps alive, and only atomics are handed out.
unsafe impl Send for MeterWords {}
// SAFETY: as for `Send`.
unsafe impl Sync for MeterWords {}

impl std::ops::Deref for MeterWords {
    type Target = [std::sync::atomic::AtomicU64];

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        // SAFETY: `SharedWords::meter` checked that `words` aligned words from `base` are mapped, `_block` keeps them
        // so; every writer of them is a thread of this process and uses atomics, and strangers map the file read-only.
        unsafe { std::slice::from_raw_parts(self.span.base.as_ptr(), self.span.words) }
    }
}

#[cfg(not(loom))]
type HeapAtomic = std::sync::atomic::AtomicU64;
#[cfg(loom)]
type HeapAtomic = loom::sync::atomic::AtomicU64;

/// Words on the heap, for tests and models: under `--cfg loom` they are loom's. Clones share the words, so that one
/// clone plays the writer and another the reader.
#[derive(Clone, Debug)]
pub struct HeapWords(Arc<[HeapAtomic]>);

impl HeapWords {
    /// `words` zeros.
    pub fn new(words: usize) -> Self {
        Self((0..words).map(|_| HeapAtomic::new(0)).collect())
    }

    #[inline(always)]
    fn cells<const N: usize>(&self, at: usize) -> [&HeapAtomic; N] {
        if at > self.0.len().wrapping_sub(N) || N > self.0.len() {
            out_of_block(at, N, self.0.len());
        }
        std::array::from_fn(|i| &self.0[at + i])
    }
}

impl Words for HeapWords {
    fn len(&self) -> usize {
        self.0.len()
    }

    loads!();
}

impl WordsMut for HeapWords {
    stores!();

    fn buffer(&mut self, _at: usize, _length: usize) -> &mut [u8] {
        &mut []
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_access_past_the_end_is_a_panic_and_not_a_store() {
        let words = HeapWords::new(8);
        words.store(7, 1);
        for at in [8, 9, usize::MAX] {
            let words = words.clone();
            assert!(std::panic::catch_unwind(move || words.store(at, 2)).is_err(), "word {at}");
        }
        for at in [1, 8, usize::MAX - 3] {
            let words = words.clone();
            assert!(std::panic::catch_unwind(move || words.load_record(at)).is_err(), "record at {at}");
        }
        assert_eq!(words.load(7), 1);
    }

    #[test]
    fn a_record_keeps_the_order_of_its_words_and_leaves_the_commit_word_alone() {
        let words = HeapWords::new(16);
        words.store(8, 99);
        words.store_record(8, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(words.load_record(8), [0, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(words.load(8), 99);
    }

    #[test]
    fn bytes_are_copied_out_whole_at_every_length() {
        let words = HeapWords::new(8);
        for at in 0..8 {
            words.store(at, u64::from_le_bytes(std::array::from_fn(|i| (at * 8 + i) as u8)));
        }
        for length in 0..=56 {
            let mut bytes = vec![0xee; length];
            words.copy_out(1, &mut bytes);
            assert!(bytes.iter().enumerate().all(|(i, &byte)| usize::from(byte) == 8 + i), "length {length}");
        }
    }
}
