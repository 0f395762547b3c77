//! Where workers count: a flat block of words with one writer each, readable by anybody at any time.
//!
//! It only knows offsets. The words may be heap memory or a mapped file; every word is written with a plain load and
//! store by the one worker that owns it, so readers see each counter whole but a set of counters at slightly
//! different moments.
//!
//! ```text
//! worker 0: 64 words | its handlers 0..h: (16 counts by status, 1024 queue buckets, 1024 run buckets) each
//! worker 1: ...
//! lanes 0..l: (16 counts by status, 1024 total buckets) each
//! ```
//!
//! A lane's `Done` is not counted: it is the lane's count of tasks less all its others. Histograms hold tasks whose handler
//! ran with timing on; queue wait and total hold those of them that the producer stamped.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::histogram::{BUCKETS, HistogramSnapshot, bucket_of};

/// Words before the histograms of a handler or a lane: one count per status byte, the rest spare.
pub const COUNTS: usize = 16;
/// Words of a worker before its handlers: see [`WorkerWord`].
pub const WORKER_WORDS: usize = 64;
/// Words of one handler of one worker.
pub const HANDLER_WORDS: usize = COUNTS + 2 * BUCKETS;
/// Words of one lane.
pub const LANE_WORDS: usize = COUNTS + BUCKETS;

/// Words at the head of a worker's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum WorkerWord {
    /// Tasks ended.
    Tasks = 0,
    /// Sweeps over the lanes, a multiple of 16.
    Sweeps = 1,
    /// Lanes it serves now.
    Lanes = 2,
    /// Sleeps that it was woken from, by a task or a command.
    Wakes = 3,
    /// Sleeps that ended by themselves.
    Naps = 4,
    /// Those of them that found a task waiting: a wake-up that was lost. 0 unless something is wrong.
    Overslept = 5,
    /// Nanoseconds asleep.
    AsleepNs = 6,
}

/// Offsets of everything in a meter, in words. Every block begins on a 64-byte line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeterLayout {
    /// Workers there is room for.
    pub workers: usize,
    /// Handlers there is room for.
    pub handlers: usize,
    /// Lanes there is room for.
    pub lanes: usize,
}

impl MeterLayout {
    /// Words of the whole meter.
    pub const fn words(&self) -> usize {
        self.lane(self.lanes)
    }

    /// Where worker `worker` begins.
    pub const fn worker(&self, worker: usize) -> usize {
        worker * (WORKER_WORDS + self.handlers * HANDLER_WORDS)
    }

    /// Where handler row `row` of worker `worker` begins.
    pub const fn handler(&self, worker: usize, row: usize) -> usize {
        self.worker(worker) + WORKER_WORDS + row * HANDLER_WORDS
    }

    /// Where lane `lane` begins.
    pub const fn lane(&self, lane: usize) -> usize {
        self.worker(self.workers) + lane * LANE_WORDS
    }
}

const _: () = assert!(HANDLER_WORDS.is_multiple_of(8));
const _: () = assert!(LANE_WORDS.is_multiple_of(8));

/// Adds `by` to a word that only the caller writes.
#[inline(always)]
pub fn add(words: &[AtomicU64], at: usize, by: u64) {
    if let Some(word) = words.get(at) {
        word.store(word.load(Relaxed).wrapping_add(by), Relaxed);
    }
}

/// Counts `value` in the histogram that begins at `at`.
#[inline(always)]
pub fn record(words: &[AtomicU64], at: usize, value: u64) {
    add(words, at + bucket_of(value), 1);
}

/// Reads one word; 0 past the end.
pub fn read(words: &[AtomicU64], at: usize) -> u64 {
    words.get(at).map_or(0, |word| word.load(Relaxed))
}

/// Copies the histogram that begins at `at`.
pub fn histogram(words: &[AtomicU64], at: usize) -> HistogramSnapshot {
    HistogramSnapshot::from_buckets((0..BUCKETS).map(|bucket| read(words, at + bucket)))
}

/// Copies the counts by status that begin at `at`.
pub fn counts(words: &[AtomicU64], at: usize) -> [u64; COUNTS] {
    std::array::from_fn(|status| read(words, at + status))
}

/// A meter on the heap, for workers whose counts nobody outside the process reads.
pub fn heap(layout: &MeterLayout) -> std::sync::Arc<[AtomicU64]> {
    (0..layout.words()).map(|_| AtomicU64::new(0)).collect()
}
