//! What a worker leaves behind for whoever asks why a task was slow: rows in the same block of words as its counts.
//!
//! Every thread that records has one *recorder*, and writes nobody else's: each worker one, and whoever looks after the
//! lanes the last. Every handler of every worker has a table of its slowest tasks beside its histograms.
//!
//! ```text
//! recorder:  64-byte head | 128 events | 64 sleeps | 32 slow tasks | 32 errors
//! event:     number + 1 | when | kind, worker, lane, handler | five words more
//! ```
//!
//! # Rows
//! - G1: the first word of a row is 0 while its writer is at work on it, and its *number* + 1 else, which grows with each
//!   writing of any row of its kind. A reader that finds the same number before and after its copy has the row whole; a
//!   row that stays 0 is one whose writer died in it.
//! - G2: a number that is the next to be given is stored in the head after its row. A writer that is killed in between leaves
//!   a row of that number, and its successor begins behind it (`renumber`): no number is ever that of two writings.
//!
//! The words of a row are stored Release and loaded Acquire, one by one: a reader that sees a word of the next writing sees
//! the 0 before it as well, and its second look at the number tells. On x86-64 that costs nothing.
//!
//! Times are ticks of the instance's clock. Nothing here is part of the protocol: a damaged row is a wrong picture.

mod failure;
mod history;
mod notebook;
mod pen;
mod slow;
mod watch;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::meter::MeterLayout;

pub(crate) use failure::Failure;
pub use failure::{ERROR_TEXT, ErrorEntry};
pub(crate) use notebook::{Ending, Notebook};
pub use notebook::{Recording, SLOW_AFTER};
pub use pen::EventPen;
pub use slow::{Behind, Known, SlowTask};

/// Words at the head of a recorder: the next number of each kind of row, then spare.
pub const HEAD_WORDS: usize = 8;
/// Events that a recorder keeps, sleeps aside.
pub const EVENTS: usize = 128;
/// Sleeps that it keeps.
pub const SLEEPS: usize = 64;
/// Tasks over their threshold that it keeps.
pub const SLOW_TASKS: usize = 32;
/// Errors that it tells apart.
pub const ERRORS: usize = 32;
/// Slowest tasks that each handler of each worker keeps.
pub const SLOWEST: usize = 8;

/// Words of an event or a sleep.
pub const EVENT_WORDS: usize = 8;
/// Words of a slow task.
pub const SLOW_WORDS: usize = 24;
/// Words of an error.
pub const ERROR_WORDS: usize = 24;

const SLEEPS_AT: usize = HEAD_WORDS + EVENTS * EVENT_WORDS;
const SLOW_AT: usize = SLEEPS_AT + SLEEPS * EVENT_WORDS;
const ERRORS_AT: usize = SLOW_AT + SLOW_TASKS * SLOW_WORDS;
/// Words of a recorder.
pub const RECORDER_WORDS: usize = ERRORS_AT + ERRORS * ERROR_WORDS;

const _: () = assert!(RECORDER_WORDS.is_multiple_of(8));
const _: () = assert!(SLOW_WORDS.is_multiple_of(8) && ERROR_WORDS.is_multiple_of(8));

/// Where the next number of a kind of row stands in the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum HeadWord {
    /// Events that were ever recorded.
    Events = 0,
    /// Sleeps likewise.
    Sleeps = 1,
    /// Writings of rows of slow tasks, those in the handlers' tables included.
    Slow = 2,
    /// Writings of rows of errors.
    Errors = 3,
    /// Errors that had to make room for others.
    ErrorsForgotten = 4,
}

/// Bytes that recording takes in an instance of these sizes, its histograms included: what `status` is mostly made of.
///
/// `8 * (workers * handlers * (2 * 1024 + 8 * 24) + lanes * 1024 + (workers + 1) * 3080)`
pub const fn bytes(layout: &MeterLayout) -> usize {
    let rows = layout.workers * layout.handlers * (2 * crate::histogram::BUCKETS + SLOWEST * SLOW_WORDS);
    8 * (rows + layout.lanes * crate::histogram::BUCKETS + (layout.workers + 1) * RECORDER_WORDS)
}

const _: () = assert!(RECORDER_WORDS == 3080 && SLOWEST * SLOW_WORDS == 8 * 24);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// A task took longer than its threshold. Values: position, total, wait and run in ticks.
    SlowTask,
    /// A worker slept. Values: ticks asleep, what ended it (1 it was woken, 2 its time was up, 3 likewise, and a task had been
    /// waiting).
    Slept,
    /// A producer has a lane. Values: the nonce of the lane, the owner's pid, priority.
    LaneTaken,
    /// The producer of a lane is gone; what it submitted is served.
    LaneLeft,
    /// A lane is free again under another nonce. Values: that nonce.
    LaneReset,
    /// A lane is poisoned. Values: why, as in a completion.
    LanePoisoned,
    /// A sidecar started. Values: which start it is, its pid, lanes that it found with an owner or unanswered tasks.
    Started,
    /// A sidecar was told to stop.
    Stopping,
    /// A task that was in flight when a sidecar died runs again. Values: position, attempt.
    RunAgain,
    /// A worker looked at nothing for a while, served nothing, and had not yielded. Values: ticks, those of them in which it was ready and had no
    /// CPU, 1 if the kernel interfered at all.
    Gap,
    /// The clock of the stamps and CLOCK_MONOTONIC went apart. Values: nanoseconds of the first, of the second.
    ClockApart,
    /// The clock of the stamps went back inside a task. Values: position, by how many ticks.
    ClockBack,
    /// A task that was in flight when a sidecar died was answered by the next start. Values: position, status and detail as in a
    /// completion.
    Answered,
    /// Something that this build does not know.
    Other(u8),
}

macro_rules! kinds {
    ($($kind:ident = $code:literal $name:literal),+ $(,)?) => {
        impl EventKind {
            /// Its byte.
            pub const fn code(self) -> u8 {
                match self { $(Self::$kind => $code,)+ Self::Other(code) => code }
            }

            /// The kind of a byte.
            pub const fn from_code(code: u8) -> Self {
                match code { $($code => Self::$kind,)+ other => Self::Other(other) }
            }

            /// As tools print it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ Self::Other(_) => "unknown" }
            }
        }
    };
}

kinds! {
    SlowTask = 1 "slow_task",
    Slept = 2 "slept",
    LaneTaken = 3 "lane_taken",
    LaneLeft = 4 "lane_left",
    LaneReset = 5 "lane_reset",
    LanePoisoned = 6 "lane_poisoned",
    Started = 7 "started",
    Stopping = 8 "stopping",
    RunAgain = 9 "run_again",
    Gap = 10 "gap",
    ClockApart = 11 "clock_apart",
    ClockBack = 12 "clock_back",
    Answered = 13 "answered",
}

/// One event of a flight recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number among those of its kind of row and its recorder, from 0.
    pub number: u64,
    /// When, in ticks: for what lasted, its end.
    pub at: u64,
    /// What happened.
    pub kind: EventKind,
    /// The worker it happened to; `None` for what happened to no worker.
    pub worker: Option<u32>,
    /// The lane it happened to.
    pub lane: Option<u32>,
    /// The handler it is about, 0 none.
    pub handler_id: u32,
    /// What [`EventKind`] says.
    pub values: [u64; 4],
}

impl Event {
    /// An event that is about nothing in particular yet.
    pub const fn new(kind: EventKind, at: u64) -> Self {
        Self { number: 0, at, kind, worker: None, lane: None, handler_id: 0, values: [0; 4] }
    }

    /// The same of a lane.
    #[must_use]
    pub const fn lane(mut self, lane: u32) -> Self {
        self.lane = Some(lane);
        self
    }

    /// The same about a handler.
    #[must_use]
    pub const fn handler(mut self, handler_id: u32) -> Self {
        self.handler_id = handler_id;
        self
    }

    /// The same of a worker.
    #[must_use]
    pub const fn worker(mut self, worker: u32) -> Self {
        self.worker = Some(worker);
        self
    }

    /// The same with values, at most four.
    #[must_use]
    pub fn values(mut self, values: &[u64]) -> Self {
        for (into, value) in self.values.iter_mut().zip(values) {
            *into = *value;
        }
        self
    }

    fn words(&self) -> [u64; EVENT_WORDS] {
        let part = |of: Option<u32>, bits: u32| of.map_or(0, |of| u64::from(of) + 1) & ((1 << bits) - 1);
        let what = u64::from(self.kind.code())
            | part(self.worker, 8) << 8
            | part(self.lane, 16) << 16
            | u64::from(self.handler_id) << 32;
        let [a, b, c, d] = self.values;
        [0, self.at, what, a, b, c, d, 0]
    }

    fn from_words(words: [u64; EVENT_WORDS]) -> Self {
        let [commit, at, what, a, b, c, d, _] = words;
        Self {
            number: commit.wrapping_sub(1),
            at,
            kind: EventKind::from_code(what as u8),
            worker: ((what >> 8) as u32 & 0xff).checked_sub(1),
            lane: ((what >> 16) as u32 & 0xffff).checked_sub(1),
            handler_id: (what >> 32) as u32,
            values: [a, b, c, d],
        }
    }
}

/// Rows of one kind, as they were copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// Those that are whole, in no order.
    pub whole: Vec<T>,
    /// Rows that were being written at each look: if their writer is dead, it died in them.
    pub torn: u32,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { whole: Vec::new(), torn: 0 }
    }
}

impl<T> Rows<T> {
    /// Adds those of another recorder.
    pub fn extend(&mut self, other: Self) {
        self.whole.extend(other.whole);
        self.torn += other.torn;
    }
}

/// Reads what was recorded, from words that somebody may be writing.
///
/// `load` loads a word of the meter with Acquire, 0 past the end.
#[derive(Debug)]
pub struct Reader<'a, F> {
    layout: &'a MeterLayout,
    load: F,
}

/// Looks at a row before it is taken for torn.
const LOOKS: u32 = 100;

impl<'a, F: Fn(usize) -> u64> Reader<'a, F> {
    /// A reader of a meter of these sizes.
    pub const fn new(layout: &'a MeterLayout, load: F) -> Self {
        Self { layout, load }
    }

    /// The events of a recorder.
    pub fn events(&self, recorder: usize) -> Rows<Event> {
        self.rows(self.layout.recorder(recorder) + HEAD_WORDS, EVENTS, Event::from_words)
    }

    /// The sleeps of a recorder.
    pub fn sleeps(&self, recorder: usize) -> Rows<Event> {
        self.rows(self.layout.recorder(recorder) + SLEEPS_AT, SLEEPS, Event::from_words)
    }

    /// The last tasks of a recorder's worker that were over their threshold.
    pub fn slow_tasks(&self, recorder: usize) -> Rows<SlowTask> {
        self.rows(self.layout.recorder(recorder) + SLOW_AT, SLOW_TASKS, SlowTask::from_words)
    }

    /// The slowest tasks of handler row `row` with worker `worker`.
    pub fn slowest(&self, worker: usize, row: usize) -> Rows<SlowTask> {
        self.rows(self.layout.slowest(worker, row), SLOWEST, SlowTask::from_words)
    }

    /// The errors of a recorder's worker.
    pub fn errors(&self, recorder: usize) -> Rows<ErrorEntry> {
        self.rows(self.layout.recorder(recorder) + ERRORS_AT, ERRORS, ErrorEntry::from_words)
    }

    /// How many errors of a recorder's worker are told apart now, those that are being written included.
    pub fn errors_told(&self, recorder: usize) -> u64 {
        let begin = self.layout.recorder(recorder) + ERRORS_AT;
        (0..ERRORS).filter(|row| (self.load)(begin + row * ERROR_WORDS + 1) != 0).count() as u64 // their key
    }

    /// A word of a recorder's head.
    pub fn head(&self, recorder: usize, word: HeadWord) -> u64 {
        (self.load)(self.layout.recorder(recorder) + word as usize)
    }

    /// Hands over a copy of every row, and where it is, for whoever copied its words one by one: a row that is not whole has
    /// no number.
    pub fn copy_rows(&self, mut keep: impl FnMut(usize, &[u64])) {
        for recorder in 0..=self.layout.workers {
            let begin = self.layout.recorder(recorder);
            for row in 0..EVENTS + SLEEPS {
                self.copy_row::<EVENT_WORDS>(begin + HEAD_WORDS + row * EVENT_WORDS, &mut keep);
            }
            (0..SLOW_TASKS).for_each(|row| self.copy_row::<SLOW_WORDS>(begin + SLOW_AT + row * SLOW_WORDS, &mut keep));
            (0..ERRORS).for_each(|row| self.copy_row::<ERROR_WORDS>(begin + ERRORS_AT + row * ERROR_WORDS, &mut keep));
        }
        for (worker, row) in (0..self.layout.workers).flat_map(|it| (0..self.layout.handlers).map(move |row| (it, row)))
        {
            let begin = self.layout.slowest(worker, row);
            (0..SLOWEST).for_each(|row| self.copy_row::<SLOW_WORDS>(begin + row * SLOW_WORDS, &mut keep));
        }
    }

    fn copy_row<const N: usize>(&self, at: usize, keep: &mut impl FnMut(usize, &[u64])) {
        match self.row::<N>(at) {
            Row::Whole(words) => keep(at, &words),
            Row::Torn => keep(at, &std::array::from_fn::<u64, N, _>(|word| u64::from(word != 0))),
            Row::Unused => keep(at, &[0; N]),
        }
    }

    fn rows<const N: usize, T>(&self, begin: usize, count: usize, parse: impl Fn([u64; N]) -> T) -> Rows<T> {
        let mut rows = Rows::default();
        for at in (0..count).map(|row| begin + row * N) {
            match self.row(at) {
                Row::Whole(words) => rows.whole.push(parse(words)),
                Row::Torn => rows.torn += 1,
                Row::Unused => {}
            }
        }
        rows
    }

    fn row<const N: usize>(&self, at: usize) -> Row<N> {
        for _ in 0..LOOKS {
            let number = (self.load)(at);
            let mut words: [u64; N] =
                std::array::from_fn(|word| if word == 0 { number } else { (self.load)(at + word) });
            if (self.load)(at) == number {
                if number != 0 {
                    words[0] = number;
                    return Row::Whole(words);
                }
                if words.iter().all(|&word| word == 0) {
                    return Row::Unused;
                }
            }
            std::hint::spin_loop();
        }
        Row::Torn // G1
    }
}

enum Row<const N: usize> {
    Whole([u64; N]),
    Torn,
    Unused,
}

/// Writes a row (G1). `words[0]` is not looked at.
fn write<const N: usize>(meter: &[AtomicU64], at: usize, number: u64, words: &[u64; N]) {
    let Some(row) = meter.get(at..at + N) else { return };
    let Some((commit, rest)) = row.split_first() else { return };
    commit.store(0, Relaxed);
    for (into, word) in rest.iter().zip(words.iter().skip(1)) {
        into.store(*word, Release);
    }
    commit.store(number.wrapping_add(1), Release);
}

/// Takes the next number of a kind of row, which its only writer may use for one row, and then [`count`]s.
fn next(meter: &[AtomicU64], recorder: usize, word: HeadWord) -> u64 {
    meter.get(recorder + word as usize).map_or(0, |word| word.load(Relaxed))
}

fn count(meter: &[AtomicU64], recorder: usize, word: HeadWord, number: u64) {
    if let Some(word) = meter.get(recorder + word as usize) {
        word.store(number.wrapping_add(1), Release);
    }
}

/// Begins a new life of a recorder's writer. The last one may have ended between a row and its number: that number is
/// given to no other row, or a reader that stood still meanwhile would take half of each for one.
fn renumber(meter: &[AtomicU64], recorder: usize) {
    for (word, begin, rows) in [(HeadWord::Events, HEAD_WORDS, EVENTS), (HeadWord::Sleeps, SLEEPS_AT, SLEEPS)] {
        let number = next(meter, recorder, word);
        let row = recorder + begin + (number % rows as u64) as usize * EVENT_WORDS;
        if crate::meter::read(meter, row) == number.wrapping_add(1) {
            count(meter, recorder, word, number);
        }
    }
}

/// The same of rows that are in any place, whose numbers nobody counts.
fn skip(meter: &[AtomicU64], recorder: usize, word: HeadWord) {
    count(meter, recorder, word, next(meter, recorder, word));
}

/// A reader of words in this process.
pub fn reader<'a>(layout: &'a MeterLayout, words: &'a [AtomicU64]) -> Reader<'a, impl Fn(usize) -> u64 + 'a> {
    Reader::new(layout, move |at| words.get(at).map_or(0, |word| word.load(Acquire)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    const LAYOUT: MeterLayout = MeterLayout { workers: 1, handlers: 1, lanes: 1 };

    /// An event all of whose words tell its number.
    fn event(number: u64) -> Event {
        Event::new(EventKind::Started, number).values(&[number; 4])
    }

    /// Ends the writer also where the reader has panicked.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    fn is_whole(event: &Event) -> bool {
        event.values == [event.at; 4] && event.kind == EventKind::Started
    }

    #[test]
    fn a_row_that_is_read_while_it_is_written_is_of_one_writing() {
        let meter = crate::meter::heap(&LAYOUT);
        let is_over = AtomicBool::new(false);
        let pen = EventPen::new(&*meter, &LAYOUT, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 0;
                while !is_over.load(Relaxed) {
                    // Always the same row.
                    write(&meter, LAYOUT.recorder(0) + HEAD_WORDS, number, &event(number).words());
                    number += 1;
                }
            });
            let _stop = Stop(&is_over);
            let reader = reader(&LAYOUT, &meter);
            let (mut last, mut changes) = (0, 0);
            while changes < 20_000 {
                let rows = reader.events(0);
                assert!(rows.whole.len() <= 1 && rows.torn <= 1);
                let mut copied = [0; EVENT_WORDS];
                reader.copy_rows(|at, words| {
                    if at == LAYOUT.recorder(0) + HEAD_WORDS {
                        copied.copy_from_slice(words);
                    }
                });
                let copied = Some(Event::from_words(copied)).filter(|_| copied[0] != 0);
                for event in rows.whole.into_iter().chain(copied) {
                    assert!(is_whole(&event) && event.number == event.at, "half of another: {event:?}");
                    assert!(event.number >= last, "{event:?} after {last}");
                    changes += u64::from(event.number != last);
                    last = event.number;
                }
            }
        });
        let before = next(&meter, LAYOUT.recorder(0), HeadWord::Events);
        pen.write(&event(before));
        assert_eq!(next(&meter, LAYOUT.recorder(0), HeadWord::Events), before + 1);
    }

    #[test]
    fn a_number_whose_writer_died_before_it_counted_it_is_given_to_no_other_row() {
        let meter = crate::meter::heap(&LAYOUT);
        let at = LAYOUT.recorder(0);
        write(&meter, at + HEAD_WORDS, 0, &event(0).words()); // and no more
        EventPen::new(&*meter, &LAYOUT, 0).write(&event(1));
        let mut numbers: Vec<u64> = reader(&LAYOUT, &meter).events(0).whole.iter().map(|event| event.number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1]);
        assert_eq!(next(&meter, at, HeadWord::Events), 2, "and none is counted that there was not");
        EventPen::new(&*meter, &LAYOUT, 0);
        assert_eq!(next(&meter, at, HeadWord::Events), 2);
    }

    #[test]
    fn a_row_whose_writer_died_in_it_is_torn_in_every_copy_and_its_successor_writes_over_it() {
        let meter = crate::meter::heap(&LAYOUT);
        let pen = EventPen::new(&*meter, &LAYOUT, 0);
        (0..3).for_each(|number| pen.write(&event(number)));
        // The first of all its stores was the last.
        let row = LAYOUT.recorder(0) + HEAD_WORDS + 3 * EVENT_WORDS;
        crate::meter::store(&meter, row + 1, 77);
        let rows = reader(&LAYOUT, &meter).events(0);
        assert_eq!((rows.whole.len(), rows.torn), (3, 1));
        let copy = crate::meter::heap(&LAYOUT);
        reader(&LAYOUT, &meter).copy_rows(|at, words| {
            words.iter().enumerate().for_each(|(word, &value)| crate::meter::store(&copy, at + word, value));
        });
        assert_eq!(reader(&LAYOUT, &copy).events(0), rows);
        pen.write(&event(3));
        let rows = reader(&LAYOUT, &meter).events(0);
        assert_eq!((rows.whole.len(), rows.torn), (4, 0));
    }
}
