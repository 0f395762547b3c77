//! Where workers count: a flat block of words with one writer each, readable by anybody at any time.
//!
//! It only knows offsets. The words may be heap memory or a mapped file; every word is written with a plain load and
//! store by the one worker that owns it, so readers see each counter whole but a set of counters at slightly
//! different moments.
//!
//! ```text
//! worker 0: 64 words | its handlers 0..h: (16 counts, 1024 queue buckets, 1024 run buckets, 8 slowest tasks) each
//! worker 1: ...
//! lanes 0..l: (16 counts, 1024 total buckets) each
//! recorders 0..=w: see [`recorder`](crate::recorder)
//! ```
//!
//! The counts of a handler or a lane are those of its tasks by status byte, and the bytes of those that ran. A lane's `Done` is not counted: it is the lane's count of tasks less all its others. Histograms hold tasks whose handler
//! ran with timing on; queue wait and total hold those of them that the producer stamped.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::histogram::{BUCKETS, HistogramSnapshot, bucket_of};
use crate::recorder::{RECORDER_WORDS, SLOW_WORDS, SLOWEST};
use crate::status::Status;

/// Words before the histograms of a handler or a lane: one count per status byte, [`REQUEST_BYTES`], [`RESPONSE_BYTES`].
pub const COUNTS: usize = 16;
/// Among the counts: bytes of requests that were run.
pub const REQUEST_BYTES: usize = 14;
/// Among the counts: bytes of responses that were given.
pub const RESPONSE_BYTES: usize = 15;
/// Words of a worker before its handlers: see [`WorkerWord`].
pub const WORKER_WORDS: usize = 64;
/// Words of one handler of one worker.
pub const HANDLER_WORDS: usize = COUNTS + 2 * BUCKETS + SLOWEST * SLOW_WORDS;
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
    /// Ticks inside handlers, of tasks that were timed.
    BusyTicks = 7,
    /// When it began to serve, in ticks.
    ServesSince = 8,
    /// What [`BusyTicks`](Self::BusyTicks) was then.
    BusyBefore = 9,
    /// What [`AsleepNs`](Self::AsleepNs) was then.
    AsleepBefore = 10,
    /// When it last looked at all its lanes and found nothing, in ticks, told while it is idle.
    LookedAt = 11,
    /// The longest time between two such looks without a task or a sleep, in ticks.
    LongestGap = 12,
    /// When that ended, in ticks.
    LongestGapAt = 13,
    /// How often the kernel was found to have run something else on its CPU.
    Preemptions = 14,
    /// For how long, in nanoseconds.
    PreemptedNs = 15,
    /// Tasks over their threshold.
    SlowTasks = 16,
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
        self.recorder(self.workers + 1)
    }

    /// Words of its counts, without the recorders that come last.
    pub const fn words_of_counts(&self) -> usize {
        self.recorder(0)
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

    /// Where the slowest tasks of handler row `row` of worker `worker` begin.
    pub const fn slowest(&self, worker: usize, row: usize) -> usize {
        self.handler(worker, row) + COUNTS + 2 * BUCKETS
    }

    /// Where recorder `recorder` begins: that of a worker, or behind them that of whoever looks after the lanes.
    pub const fn recorder(&self, recorder: usize) -> usize {
        self.lane(self.lanes) + recorder * RECORDER_WORDS
    }
}

const _: () = assert!(Status::CODES <= REQUEST_BYTES && RESPONSE_BYTES < COUNTS);
const _: () = assert!(HANDLER_WORDS.is_multiple_of(8));
const _: () = assert!(LANE_WORDS.is_multiple_of(8));

/// Adds `by` to a word that only the caller writes.
#[inline(always)]
pub fn add(words: &[AtomicU64], at: usize, by: u64) {
    if let Some(word) = words.get(at) {
        word.store(word.load(Relaxed).wrapping_add(by), Relaxed);
    }
}

/// The `N` words from `at` on, which one check makes free to reach: where several of them are to be written.
#[inline(always)]
pub(crate) fn block<const N: usize>(words: &[AtomicU64], at: usize) -> Option<&[AtomicU64; N]> {
    words.get(at..)?.first_chunk()
}

/// Adds `by` to a word that only the caller writes.
#[inline(always)]
pub(crate) fn bump(word: &AtomicU64, by: u64) {
    word.store(word.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Stores a word that only the caller writes.
#[inline(always)]
pub fn store(words: &[AtomicU64], at: usize, value: u64) {
    if let Some(word) = words.get(at) {
        word.store(value, Relaxed);
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
pub fn counts(words: &[AtomicU64], at: usize) -> [u64; Status::CODES] {
    std::array::from_fn(|status| read(words, at + status))
}

/// A meter on the heap, for workers whose counts nobody outside the process reads.
pub fn heap(layout: &MeterLayout) -> std::sync::Arc<[AtomicU64]> {
    (0..layout.words()).map(|_| AtomicU64::new(0)).collect()
}

/// The same without recorders, for workers that record nothing.
pub fn heap_of_counts(layout: &MeterLayout) -> std::sync::Arc<[AtomicU64]> {
    (0..layout.words_of_counts()).map(|_| AtomicU64::new(0)).collect()
}
