//! Every access to memory that another process may write, or may read while we write.
//!
//! A [`Words`] block is a run of aligned little-endian u64 words: mapped ([`mapped`](crate::mapped)), on the heap for
//! tests, or loom's. Nothing here knows what a word means. No `&[u8]`, no `&mut T` and no `&T` but a `&AtomicU64`, alone or
//! in a slice, is ever formed over memory that another process writes.
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

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use executor_core::record::WORDS;

use crate::rehearsal::step;

/// One word as a model checker or the machine has it.
pub(crate) trait Cell {
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
                step();
                self.load(O::Relaxed)
            }

            #[inline(always)]
            fn acquire(&self) -> u64 {
                use $order as O;
                step();
                let value = self.load(O::Relaxed);
                // fence: the second half of every Acquire; see the module's page.
                $fence(O::Acquire);
                value
            }

            #[inline(always)]
            fn set(&self, value: u64) {
                use $order as O;
                if step() {
                    self.store(value, O::Relaxed);
                }
            }

            #[inline(always)]
            fn release(&self, value: u64) {
                use $order as O;
                if step() {
                    self.store(value, O::Release);
                }
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

    /// Loads words `at` and `at + 1`, Relaxed, in whatever order, at the price of one check.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    #[inline(always)]
    fn load_pair(&self, at: usize) -> [u64; 2] {
        [self.load(at), self.load(at + 1)]
    }

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

    /// The `words` words from `at` on as atomics, to be loaded Relaxed by whoever reads them in place; `None` where the
    /// block has none of the machine's.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn atomics(&self, at: usize, words: usize) -> Option<&[AtomicU64]> {
        let _ = (at, words);
        None
    }

    /// Sleeps until somebody [wakes](Words::wake) word `at`, for at most `timeout`, or for no reason; not at all if the low
    /// half of the word is no longer that of `seen`, which is compared under a lock that a wake-up takes.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn nap(&self, at: usize, seen: u64, timeout: Duration) {
        let _ = (at, seen, timeout);
    }

    /// Wakes all who sleep on word `at` and says how many there were. Works where the block is only read.
    ///
    /// # Panics
    ///
    /// As [`Words::load`].
    fn wake(&self, at: usize) -> u32 {
        let _ = at;
        0
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

/// The loads of a block over its own `fn cells::<N>(&self, at) -> [&Cell; N]`.
macro_rules! loads {
    () => {
        #[inline(always)]
        fn load(&self, at: usize) -> u64 {
            self.cells::<1>(at)[0].relaxed()
        }

        #[inline(always)]
        fn load_pair(&self, at: usize) -> [u64; 2] {
            let [first, second] = self.cells::<2>(at);
            [first.relaxed(), second.relaxed()]
        }

        #[inline(always)]
        fn load_commit(&self, at: usize) -> u64 {
            self.cells::<1>(at)[0].acquire()
        }

        #[inline(always)]
        fn load_record(&self, at: usize) -> [u64; WORDS] {
            let cells = self.cells::<WORDS>(at);
            let mut words = [0; WORDS];
            // By index: `zip().skip(1)` is not unrolled and goes through memory, at some 5 ns a record.
            #[allow(clippy::needless_range_loop, reason = "the form that is unrolled to seven loads")]
            for i in 1..WORDS {
                words[i] = cells[i].relaxed();
            }
            words
        }
    };
}

/// The stores of a block over the same.
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
            #[allow(clippy::needless_range_loop, reason = "the form that is unrolled to seven stores")]
            for i in 1..WORDS {
                cells[i].set(record[i]);
            }
        }
    };
}

/// Sleeping on words and waking who does, over the same.
macro_rules! naps {
    () => {
        #[cold]
        fn nap(&self, at: usize, seen: u64, timeout: std::time::Duration) {
            crate::futex::nap(self.cells::<1>(at)[0], seen, timeout, crate::futex::Who::Anybody);
        }

        #[cold]
        fn wake(&self, at: usize) -> u32 {
            crate::futex::wake_all(self.cells::<1>(at)[0])
        }
    };
}

pub(crate) use {loads, naps, stores};

#[cold]
#[inline(never)]
pub(crate) fn out_of_block(at: usize, count: usize, words: usize) -> ! {
    panic!("words {at} to {} of a block of {words}", at + count)
}

#[cfg(not(loom))]
type HeapAtomic = std::sync::atomic::AtomicU64;
#[cfg(loom)]
type HeapAtomic = loom::sync::atomic::AtomicU64;

/// Words on the heap, for tests and models: under `--cfg loom` they are loom's. Clones share the words, so that one
/// clone plays the writer and another the reader.
#[derive(Clone, Debug)]
pub struct HeapWords {
    words: Arc<[HeapAtomic]>,
    #[cfg(loom)]
    bed: Arc<Bed>,
}

/// What the kernel is to who sleeps and who wakes, in a model: the comparison and the falling asleep are one step to a
/// wake-up. Nobody wakes by himself, so that a wake-up that is lost is a deadlock, which loom reports.
#[cfg(loom)]
#[derive(Debug)]
struct Bed {
    /// How many sleep on which word.
    sleepers: loom::sync::Mutex<std::collections::BTreeMap<usize, u32>>,
    woken: loom::sync::Condvar,
}

impl HeapWords {
    /// `words` zeros.
    pub fn new(words: usize) -> Self {
        Self {
            words: (0..words).map(|_| HeapAtomic::new(0)).collect(),
            #[cfg(loom)]
            bed: Arc::new(Bed { sleepers: loom::sync::Mutex::default(), woken: loom::sync::Condvar::new() }),
        }
    }

    #[inline(always)]
    fn cells<const N: usize>(&self, at: usize) -> [&HeapAtomic; N] {
        if at > self.words.len().wrapping_sub(N) || N > self.words.len() {
            out_of_block(at, N, self.words.len());
        }
        std::array::from_fn(|i| &self.words[at + i])
    }
}

impl Words for HeapWords {
    fn len(&self) -> usize {
        self.words.len()
    }

    loads!();

    #[cfg(not(loom))]
    naps!();

    #[cfg(loom)]
    fn nap(&self, at: usize, seen: u64, _timeout: Duration) {
        let Ok(mut sleepers) = self.bed.sleepers.lock() else { return };
        if self.load(at) == seen {
            *sleepers.entry(at).or_default() += 1;
            while sleepers.contains_key(&at) {
                let Ok(woken) = self.bed.woken.wait(sleepers) else { return };
                sleepers = woken;
            }
        }
    }

    #[cfg(loom)]
    fn wake(&self, at: usize) -> u32 {
        let Ok(mut sleepers) = self.bed.sleepers.lock() else { return 0 };
        self.bed.woken.notify_all();
        sleepers.remove(&at).unwrap_or(0)
    }
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
