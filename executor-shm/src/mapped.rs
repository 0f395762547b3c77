#![allow(
    unsafe_code,
    reason = "shared memory is reached through raw addresses; this is the one place that turns them into atomics"
)]
//! Words of mapped files: the only place where an address becomes an atomic.
//!
//! M1 to M3 are those of [`words`](crate::words); each kind of block here is one of its two roles: [`ReadWords`] over a
//! file that the kernel lets us only read, [`WriteWords`] over one that this process alone writes.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use executor_core::record::WORDS;

use crate::mapping::{ReadMapping, WriteMapping};
use crate::words::{Cell, Words, WordsMut, loads, naps, out_of_block, stores};

/// Address and length of mapped words, with the check that every access goes through.
#[derive(Clone, Copy, Debug)]
struct Span {
    base: NonNull<AtomicU64>,
    words: usize,
}

impl Span {
    /// The `N` words from `at`, each as an atomic of its own.
    #[inline(always)]
    fn cells<const N: usize>(&self, at: usize) -> [&AtomicU64; N] {
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

    /// The words from `at` on as a slice of atomics.
    #[inline]
    fn atomics(&self, at: usize, words: usize) -> &[AtomicU64] {
        if at > self.words || words > self.words - at {
            out_of_block(at, words, self.words);
        }
        // SAFETY: `at + words <= self.words` by the check above (M1), so the address is inside the mapping.
        let start = unsafe { self.base.add(at) };
        // SAFETY: these are `words` aligned mapped words that stay mapped while the owner of this span lives; memory
        // that other processes write may be referenced as atomics.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), words) }
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
    let from = from.cast::<AtomicU64>();
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
    mapping: Arc<ReadMapping>,
}

// SAFETY: the span points into the mapping the value keeps alive, and everything is done through atomic loads.
unsafe impl Send for ReadWords {}
// SAFETY: as for `Send`.
unsafe impl Sync for ReadWords {}

impl ReadWords {
    /// Word `at` as an atomic, for a futex.
    pub(crate) fn atomic(&self, at: usize) -> &AtomicU64 {
        self.cells::<1>(at)[0]
    }

    /// All whole words of the mapping.
    pub(crate) fn new(mapping: ReadMapping) -> Self {
        let (base, words) = (mapping.base().cast(), mapping.bytes() / 8);
        Self { span: Span { base, words }, mapping: Arc::new(mapping) }
    }

    /// Guards the mapping against a truncated file (see [`sigbus`](crate::sigbus)).
    pub(crate) fn guard(&self, word: &Arc<AtomicU32>) {
        self.mapping.guard(word);
    }

    #[inline(always)]
    fn cells<const N: usize>(&self, at: usize) -> [&AtomicU64; N] {
        self.span.cells(at)
    }
}

impl Words for ReadWords {
    #[inline(always)]
    fn len(&self) -> usize {
        self.span.words
    }

    loads!();
    naps!();

    #[inline]
    fn copy_out(&self, at: usize, into: &mut [u8]) {
        self.span.copy_out(at, into);
    }

    #[inline]
    fn atomics(&self, at: usize, words: usize) -> Option<&[AtomicU64]> {
        Some(self.span.atomics(at, words))
    }
}

/// Words of a file that we map writable and alone write. Not cloneable: one value, one writer.
#[derive(Debug)]
pub struct WriteWords {
    span: Span,
    mapping: WriteMapping,
}

// SAFETY: the span points into the mapping the value keeps alive, and everything is done through atomics or `&mut`.
unsafe impl Send for WriteWords {}
// SAFETY: through `&self` there are only atomic loads and stores.
unsafe impl Sync for WriteWords {}

impl WriteWords {
    /// All whole words of the mapping.
    pub(crate) fn new(mapping: WriteMapping) -> Self {
        let (base, words) = (mapping.base().cast(), mapping.bytes() / 8);
        Self { span: Span { base, words }, mapping }
    }

    /// As [`ReadWords::guard`].
    pub(crate) fn guard(&self, word: &Arc<AtomicU32>) {
        self.mapping.guard(word);
    }

    /// Shares the block between threads of the writing process, each of which owns other words of it: workers count in
    /// their own meter blocks, housekeeping writes the lane table. Nobody gets bytes of it any more.
    pub(crate) fn share(self) -> SharedWords {
        SharedWords(Arc::new(self))
    }

    #[inline(always)]
    fn cells<const N: usize>(&self, at: usize) -> [&AtomicU64; N] {
        self.span.cells(at)
    }
}

impl Words for WriteWords {
    #[inline(always)]
    fn len(&self) -> usize {
        self.span.words
    }

    loads!();
    naps!();

    #[inline]
    fn copy_out(&self, at: usize, into: &mut [u8]) {
        self.span.copy_out(at, into);
    }

    #[inline]
    fn atomics(&self, at: usize, words: usize) -> Option<&[AtomicU64]> {
        Some(self.span.atomics(at, words))
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
    pub(crate) fn atomic(&self, at: usize) -> &AtomicU64 {
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
    fn cells<const N: usize>(&self, at: usize) -> [&AtomicU64; N] {
        self.0.span.cells(at)
    }
}

impl Words for SharedWords {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.span.words
    }

    loads!();
    naps!();
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
    type Target = [AtomicU64];

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        // SAFETY: `SharedWords::meter` checked that `words` aligned words from `base` are mapped, `_block` keeps them
        // so; every writer of them is a thread of this process and uses atomics, and strangers map the file read-only.
        unsafe { std::slice::from_raw_parts(self.span.base.as_ptr(), self.span.words) }
    }
}
