//! What a worker notes while it serves: the only writer of its recorder and of its handlers' tables of slowest tasks.
//!
//! What is done for every task is little: a look at the sentinel before and after the handler, a spell of the history, and
//! one comparison with the bound of its handler. All else is for the few tasks that are over it.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::failure::{ErrorLog, Failure};
use super::history::History;
use super::pen::write_event;
use super::slow::{SlowTable, SlowTask, put_last, resume_last};
use super::watch::{Faults, Watch, faults};
use super::{Event, EventKind, HeadWord};
use crate::clock::Clock;
use crate::meter::{self, MeterLayout, WorkerWord};

/// Longer than this a task is slow, where neither its handler nor the sidecar says anything else.
pub const SLOW_AFTER: Duration = Duration::from_millis(1);

/// What a worker records beside counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    /// Nothing: no histograms, no bytes, no times, no recorder.
    Off,
    /// Everything; tasks that take longer than this from submit to end are slow, unless their handler says otherwise.
    SlowAfter(Duration),
}

impl Default for Recording {
    fn default() -> Self {
        Self::SlowAfter(SLOW_AFTER)
    }
}

/// After a task over its threshold was noted, others that are not among the slowest are not noted for so long.
const QUIET: Duration = Duration::from_millis(1);
/// Age at which the slowest tasks make room for any.
const OUTDATED: Duration = Duration::from_secs(600);
/// A longer gap is an event.
const GAP_EVENT: Duration = Duration::from_micros(100);
/// A shorter time between two looks is no gap: the first one after a sleep takes some 5 us, with all caches cold.
const STALL: Duration = Duration::from_micros(10);
/// And so much longer for each lane that is looked at: sixteen looks at one take some 25 ns.
const STALL_OF_LANE: Duration = Duration::from_nanos(100);
/// Page faults are counted before tasks of a handler whose last run took this long.
const LONG_RUN: Duration = Duration::from_micros(200);
/// And before so many tasks of a handler of which one was slow.
const WATCHED: u8 = 16;

/// Durations above, in ticks.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    quiet: u64,
    outdated: u64,
    gap_event: u64,
    stall: u64,
    stall_of_lane: u64,
    long_run: u64,
}

/// What a cold path found out about the task that was started at this tick.
#[derive(Clone, Copy, Debug)]
struct Of<T> {
    started_at: u64,
    found: T,
}

impl<T: Copy> Of<T> {
    fn of(&self, started_at: u64) -> Option<T> {
        (self.started_at == started_at && started_at != 0).then_some(self.found)
    }
}

/// The task that ended, for its notes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) task: SlowTask,
    pub(crate) dense: u32,
    /// When the worker got its lane.
    pub(crate) served_since: u64,
}

#[derive(Debug)]
pub(crate) struct Notebook {
    /// Whether anything is recorded.
    pub(crate) is_on: bool,
    /// Whether tasks are timed as well.
    pub(crate) times: bool,
    pub(crate) history: History,
    watch: Watch,
    /// By row of the registry: what [`SlowTable::bound`] says.
    bounds: Box<[u64]>,
    tables: Box<[SlowTable]>,
    /// By row: tasks before which page faults are to be counted.
    watched: Box<[u8]>,
    errors: ErrorLog,
    /// The next of the last tasks over their threshold.
    ring: usize,
    quiet_until: u64,
    /// What the kernel took of the CPU, if it interfered.
    wait_preempted: Of<Option<u64>>,
    run_preempted: Of<Option<u64>>,
    /// And when they had been counted.
    faults: Of<(Faults, u64)>,
    /// The words of the worker.
    worker_at: usize,
    worker: u32,
    recorder: usize,
    ticks: Ticks,
    clock: Clock,
}

impl Notebook {
    /// Begins on the thread of worker `worker`, behind what an earlier life recorded. `thresholds` are those of handlers that
    /// have their own, by row.
    pub(crate) fn begin(
        recording: Recording,
        timed: bool,
        (words, layout): (&[AtomicU64], &MeterLayout),
        worker: u32,
        clock: &Clock,
        thresholds: &[(u32, Duration)],
    ) -> Self {
        let ticks = |time: Duration| clock.ns_to_ticks(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let recorder = layout.recorder(worker as usize);
        let (is_on, slow_after) = match recording {
            Recording::Off => (false, Duration::MAX),
            Recording::SlowAfter(time) => (true, time),
        };
        let rows = if is_on { layout.handlers } else { 0 };
        let tables: Box<[SlowTable]> = (0..rows)
            .map(|row| {
                let own = thresholds.iter().find(|(dense, _)| *dense as usize == row);
                let threshold = ticks(own.map_or(slow_after, |&(_, time)| time));
                SlowTable::resume(words, layout.slowest(worker as usize, row), threshold)
            })
            .collect();
        let nothing = Of { started_at: 0, found: None };
        let stall = ticks(STALL);
        let this = Self {
            is_on,
            times: is_on && timed,
            history: History::new(stall),
            watch: if is_on && timed { Watch::begin(clock) } else { Watch::blind() },
            bounds: tables.iter().map(SlowTable::bound).collect(),
            watched: vec![0; rows].into(),
            tables,
            errors: if is_on { ErrorLog::resume(words, recorder) } else { ErrorLog::default() },
            ring: resume_last(words, recorder),
            quiet_until: 0,
            wait_preempted: nothing,
            run_preempted: nothing,
            faults: Of { started_at: 0, found: ((0, 0), 0) },
            worker_at: layout.worker(worker as usize),
            worker,
            recorder,
            ticks: Ticks {
                quiet: ticks(QUIET),
                outdated: ticks(OUTDATED),
                gap_event: ticks(GAP_EVENT),
                stall,
                stall_of_lane: ticks(STALL_OF_LANE),
                long_run: ticks(LONG_RUN),
            },
            clock: *clock,
        };
        if is_on {
            super::renumber(words, recorder);
            super::skip(words, recorder, HeadWord::Slow);
            super::skip(words, recorder, HeadWord::Errors);
            this.put(words, WorkerWord::BusyBefore, this.word(words, WorkerWord::BusyTicks));
            this.put(words, WorkerWord::AsleepBefore, this.word(words, WorkerWord::AsleepNs));
            this.put(words, WorkerWord::LookedAt, 0);
            this.put(words, WorkerWord::ServesSince, clock.now());
        }
        this
    }

    fn word(&self, words: &[AtomicU64], word: WorkerWord) -> u64 {
        meter::read(words, self.worker_at + word as usize)
    }

    fn put(&self, words: &[AtomicU64], word: WorkerWord, value: u64) {
        meter::store(words, self.worker_at + word as usize, value);
    }

    fn add(&self, words: &[AtomicU64], word: WorkerWord, by: u64) {
        meter::add(words, self.worker_at + word as usize, by);
    }

    /// A task was found, which starts at this tick: that of the end of the task before it, where it follows that one.
    #[inline(always)]
    pub(crate) fn found(&mut self, words: &[AtomicU64], started_at: u64, follows: bool) {
        if self.times && self.watch.is_disturbed() {
            let found = self.disturbed(words);
            // What was after its start is a part of its run.
            let of = if follows { &mut self.run_preempted } else { &mut self.wait_preempted };
            *of = Of { started_at, found };
        }
    }

    /// Its handler is about to run.
    #[inline(always)]
    pub(crate) fn runs(&mut self, dense: u32, started_at: u64) {
        if let Some(watched) = self.watched.get_mut(dense as usize)
            && *watched != 0
        {
            *watched -= 1;
            let found = faults();
            self.faults = Of { started_at, found: (found, self.clock.now()) };
        }
    }

    /// Its handler has run.
    #[inline(always)]
    pub(crate) fn ran(&mut self, words: &[AtomicU64], started_at: u64) {
        if self.times && self.watch.is_disturbed() {
            let before = self.run_preempted.of(started_at).flatten();
            let found = match (before, self.disturbed(words)) {
                (Some(before), Some(found)) => Some(before.saturating_add(found)),
                (before, found) => before.or(found),
            };
            self.run_preempted = Of { started_at, found };
        }
    }

    /// What the kernel took of the CPU, in ticks, if it interfered.
    #[cold]
    #[inline(never)]
    fn disturbed(&mut self, words: &[AtomicU64]) -> Option<u64> {
        let ns = self.watch.look()?;
        if ns != 0 {
            self.add(words, WorkerWord::Preemptions, 1);
            self.add(words, WorkerWord::PreemptedNs, ns);
        }
        Some(self.clock.ns_to_ticks(ns))
    }

    /// Whether a task that took so long in all is to be noted.
    #[inline(always)]
    pub(crate) fn is_slow(&self, dense: u32, total: u64) -> bool {
        self.bounds.get(dense as usize).is_some_and(|&bound| total > bound)
    }

    /// Whether [`took_long`](Self::took_long) is to be told of a run.
    #[inline(always)]
    pub(crate) fn is_long(&self, run: u64) -> bool {
        run > self.ticks.long_run
    }

    /// The handler of a task ran [long](Self::is_long), or the clock went back meanwhile.
    #[cold]
    #[inline(never)]
    pub(crate) fn took_long(
        &mut self,
        words: &[AtomicU64],
        dense: u32,
        (lane, position): (u32, u64),
        [started_at, completed_at]: [u64; 2],
    ) {
        let Some(run) = completed_at.checked_sub(started_at) else {
            return self.tell(words, EventKind::ClockBack, lane, &[position, started_at - completed_at]);
        };
        // Counting is no part of the handler: else, where it takes long as under a tracer, it would ask for itself.
        let counting = self.faults.of(started_at).map_or(0, |(_, counted_at)| counted_at.saturating_sub(started_at));
        if run.saturating_sub(counting) > self.ticks.long_run
            && self.run_preempted.of(started_at).flatten().unwrap_or(0) == 0
            && let Some(watched) = self.watched.get_mut(dense as usize)
        {
            *watched = (*watched).max(1);
        }
    }

    /// Whether a task that [`is_slow`](Self::is_slow) is noted: each that belongs among the slowest, and of those over their
    /// threshold one a millisecond, since where all are slow each costs a microsecond.
    #[cold]
    #[inline(never)]
    pub(crate) fn admits(&mut self, words: &[AtomicU64], dense: u32, total: u64, now: u64) -> bool {
        let Some(table) = self.tables.get(dense as usize) else { return false };
        let is_over = table.is_over_threshold(total);
        if is_over {
            self.add(words, WorkerWord::SlowTasks, 1);
        }
        let is_admitted = table.takes(total) || (is_over && now >= self.quiet_until);
        if is_admitted && is_over {
            self.quiet_until = now.saturating_add(self.ticks.quiet);
        }
        is_admitted
    }

    /// Notes a task that was [admitted](Self::admits). To be called before its spell is in the history.
    pub(crate) fn note(&mut self, words: &[AtomicU64], ending: &Ending) {
        let mut task = ending.task;
        let (started_at, total) = (task.started_at, task.total());
        let Some(table) = self.tables.get_mut(ending.dense as usize) else { return };
        let is_over = table.is_over_threshold(total);
        let before = self.faults.of(started_at).map(|(faults, _)| faults);
        if is_over || before.is_some() {
            let now = faults();
            let since = before.unwrap_or(self.watch.faults);
            let faults = (now.0.saturating_sub(since.0), now.1.saturating_sub(since.1));
            self.watch.faults = now;
            task.known.faults = before.is_some() || faults == (0, 0);
            task.minor_faults = u32::try_from(faults.0).unwrap_or(u32::MAX);
            task.major_faults = u32::try_from(faults.1).unwrap_or(u32::MAX);
            if task.known.faults {
                task.faulting = faults.0.saturating_add(faults.1).saturating_mul(self.watch.fault_ticks);
            }
        }
        task.run_preempted = self.run_preempted.of(started_at).flatten().unwrap_or(0);
        task.known.preemption = self.watch.sees_preemption();
        task.known.preempted_time = self.watch.knows_time();
        let wait_preempted = self.wait_preempted.of(started_at).flatten();
        self.history.explain(&mut task, ending.served_since, wait_preempted);

        let outdated = task.completed_at.saturating_sub(self.ticks.outdated);
        table.note(words, self.recorder, &task, outdated);
        if let Some(bound) = self.bounds.get_mut(ending.dense as usize) {
            *bound = table.bound();
        }
        if is_over {
            if let Some(watched) = self.watched.get_mut(ending.dense as usize) {
                *watched = WATCHED;
            }
            put_last(words, self.recorder, &mut self.ring, &task);
            let values = [task.position, total, task.wait(), task.run()];
            let event = Event { handler_id: task.handler_id, ..self.event(EventKind::SlowTask, task.completed_at) };
            write_event(words, self.recorder, &event.lane(task.lane).values(&values));
        }
    }

    fn event(&self, kind: EventKind, at: u64) -> Event {
        Event::new(kind, at).worker(self.worker)
    }

    /// Records an event of a task.
    #[cold]
    #[inline(never)]
    pub(crate) fn tell(&self, words: &[AtomicU64], kind: EventKind, lane: u32, values: &[u64]) {
        if self.is_on {
            let event = self.event(kind, self.clock.now());
            write_event(words, self.recorder, &event.lane(lane).values(values));
        }
    }

    /// A task ended as an error.
    #[cold]
    #[inline(never)]
    pub(crate) fn failed(&mut self, words: &[AtomicU64], failure: &Failure<'_>) {
        if self.is_on {
            let now = self.clock.now();
            self.errors.note(words, self.recorder, now, failure);
        }
    }

    /// The worker slept from `begin` to `end`; `ended_by` is what the event says of it, 0 if it is none.
    #[cold]
    pub(crate) fn slept(&mut self, words: &[AtomicU64], begin: u64, end: u64, ended_by: u64) {
        if !self.is_on {
            return;
        }
        self.watch.slept(self.clock.ticks_to_ns(end.saturating_sub(begin)));
        self.history.slept(begin, end);
        if ended_by != 0 {
            let event = self.event(EventKind::Slept, end).values(&[end.saturating_sub(begin), ended_by]);
            write_event(words, self.recorder, &event);
        }
    }

    /// The worker has looked at all its lanes, so many, once or some times, and found nothing. Of a gap in which it let others
    /// run there is no event: a yield on a busy machine is one, and a hundred of them leave nothing else in the recorder.
    #[inline(always)]
    pub(crate) fn looked(&mut self, words: &[AtomicU64], lanes: usize, has_yielded: bool) {
        if !self.times {
            return;
        }
        let now = self.clock.now();
        let since = self.history.rested_since();
        self.history.stall = self.ticks.stall + lanes as u64 * self.ticks.stall_of_lane;
        if self.watch.is_disturbed() || now.saturating_sub(since) > self.history.stall {
            self.stalled(words, since, now, has_yielded); // and the last look may have been before the gap
        } else {
            self.history.looked_at = now;
        }
        self.put(words, WorkerWord::LookedAt, now);
        self.watch.rest();
    }

    #[cold]
    #[inline(never)]
    fn stalled(&mut self, words: &[AtomicU64], since: u64, now: u64, has_yielded: bool) {
        let preempted = if self.watch.is_disturbed() { self.disturbed(words) } else { None };
        if since == 0 {
            self.history.looked_at = now; // its first look of all
            return;
        }
        let gap = now.saturating_sub(since);
        if gap <= self.history.stall {
            return;
        }
        self.history.gap(since, now, preempted);
        if gap > self.word(words, WorkerWord::LongestGap) {
            self.put(words, WorkerWord::LongestGap, gap);
            self.put(words, WorkerWord::LongestGapAt, now);
        }
        if gap > self.ticks.gap_event && !has_yielded {
            let taken = preempted.unwrap_or(0).min(gap);
            write_event(
                words,
                self.recorder,
                &self.event(EventKind::Gap, now).values(&[gap, taken, u64::from(preempted.is_some())]),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::reader;

    const LAYOUT: MeterLayout = MeterLayout { workers: 1, handlers: 1, lanes: 1 };

    #[test]
    fn a_clock_that_went_back_inside_a_task_is_told_however_short_the_task_was() {
        let meter = meter::heap(&LAYOUT);
        let clock = Clock::detect();
        let mut notes = Notebook::begin(Recording::default(), true, (&meter, &LAYOUT), 0, &clock, &[]);
        let end = |notes: &mut Notebook, [started_at, completed_at]: [u64; 2]| {
            let is_long = notes.is_long(completed_at.wrapping_sub(started_at));
            if is_long {
                notes.took_long(&meter, 0, (3, 17), [started_at, completed_at]);
            }
            is_long
        };
        assert!(!end(&mut notes, [1000, 1001]) && end(&mut notes, [1000, u64::MAX / 2]));
        assert!(reader(&LAYOUT, &meter).events(0).whole.is_empty());
        assert!(end(&mut notes, [1000, 999]));
        let told = reader(&LAYOUT, &meter).events(0).whole;
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].kind, told[0].lane, told[0].worker), (EventKind::ClockBack, Some(3), Some(0)));
        assert_eq!(told[0].values, [17, 1, 0, 0]);
    }

    #[test]
    fn the_first_look_of_all_ends_no_gap_and_the_next_ones_go_on_from_it() {
        let meter = meter::heap(&LAYOUT);
        let clock = Clock::detect();
        let mut notes = Notebook::begin(Recording::default(), true, (&meter, &LAYOUT), 0, &clock, &[]);
        let before = clock.now();
        notes.looked(&meter, 1, false);
        assert!(notes.history.rested_since() >= before, "what came before it is known to be nothing");
        assert_eq!(notes.word(&meter, WorkerWord::LongestGap), 0);
    }

    #[test]
    fn a_gap_is_longer_where_more_lanes_are_looked_at() {
        let meter = meter::heap(&LAYOUT);
        let clock = Clock::detect();
        let mut notes = Notebook::begin(Recording::default(), true, (&meter, &LAYOUT), 0, &clock, &[]);
        for (lanes, is_gap) in [(0, true), (usize::MAX >> 20, false)] {
            notes.looked(&meter, 1, false);
            notes.history.looked_at -= notes.ticks.stall + 1;
            let since = notes.history.looked_at;
            notes.looked(&meter, lanes, false);
            let spell_ends = notes.history.rested_since() > notes.history.looked_at;
            assert_eq!((spell_ends, notes.history.looked_at == since), (is_gap, is_gap), "{lanes} lanes");
        }
    }

    #[test]
    fn what_the_kernel_took_after_a_shared_stamp_was_taken_from_the_run() {
        let meter = meter::heap(&LAYOUT);
        let clock = Clock::detect();
        let mut notes = Notebook::begin(Recording::default(), true, (&meter, &LAYOUT), 0, &clock, &[]);
        let interfere = || crate::preempt::Sentinel::of_this_thread().disarm();
        if interfere().is_none() {
            println!("skipped: no rseq area");
            return;
        }
        notes.found(&meter, 100, false);
        assert!(notes.wait_preempted.of(100).is_some() && notes.run_preempted.of(100).is_none());
        interfere();
        notes.found(&meter, 200, true);
        assert!(notes.wait_preempted.of(200).is_none());
        notes.run_preempted.found = Some(7);
        interfere();
        notes.ran(&meter, 200);
        assert!(notes.run_preempted.of(200).flatten() >= Some(7), "and what it took later is added");
    }

    #[test]
    fn a_sleep_is_an_event_only_where_something_is_recorded() {
        let clock = Clock::detect();
        for (recording, events) in [(Recording::Off, 0), (Recording::default(), 1)] {
            let meter = meter::heap(&LAYOUT);
            let mut notes = Notebook::begin(recording, true, (&meter, &LAYOUT), 0, &clock, &[]);
            notes.slept(&meter, 10, 20, 1);
            assert_eq!(reader(&LAYOUT, &meter).sleeps(0).whole.len(), events, "{recording:?}");
        }
    }
}
