//! The slowest tasks of each handler, and the last ones over their threshold, with what they waited for.

use std::sync::atomic::AtomicU64;

use super::{HeadWord, SLOW_AT, SLOW_TASKS, SLOW_WORDS, SLOWEST, count, next, write};
use crate::meter;
use crate::task::TaskId;

/// A task that was slow, and where its time went, in ticks.
///
/// Its total is the sum of [`wait`](Self::wait) and [`run`](Self::run), and each of these the sum of what it was spent on:
/// see [`wait_unexplained`](Self::wait_unexplained) and [`run_itself`](Self::run_itself).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowTask {
    /// The task.
    pub task_id: u64,
    /// Its lane.
    pub lane: u32,
    /// Its position there.
    pub position: u64,
    /// The worker that served it.
    pub worker: u32,
    /// The handler it asked for.
    pub handler_id: u32,
    /// Status byte.
    pub status: u8,
    /// Detail byte.
    pub detail: u8,
    /// The attempt that ended.
    pub attempt: u16,
    /// Bytes of its request.
    pub request_bytes: u32,
    /// Bytes of its response.
    pub response_bytes: u32,
    /// When it was submitted: as the producer stamped it, held between its attach and the start; the start if it stamped
    /// nothing.
    pub submitted_at: u64,
    /// When it was started.
    pub started_at: u64,
    /// When it ended.
    pub completed_at: u64,
    /// Of its wait: no worker had the lane yet, after an attach or a restart.
    pub unserved: u64,
    /// Of its wait: the worker slept, its waking included.
    pub asleep: u64,
    /// Of its wait: tasks before it in its lane were served.
    pub behind_lane: Behind,
    /// Of its wait: tasks of other lanes of its worker were served.
    pub behind_others: Behind,
    /// Of its wait: the worker looked and it was not there, so its producer stamped it and was late to commit it.
    pub late: u64,
    /// Of its wait: the kernel ran something else on the worker's CPU.
    pub wait_preempted: u64,
    /// Of its wait: the worker looked at nothing although the kernel did not take its CPU away: the hypervisor, the firmware, or
    /// an interrupt did.
    pub wait_stalled: u64,
    /// Of its run: the kernel ran something else on the worker's CPU.
    pub run_preempted: u64,
    /// Page faults of its run that needed no file.
    pub minor_faults: u32,
    /// Page faults of its run that waited for a file or for swap.
    pub major_faults: u32,
    /// Of its run: those faults, as long as a minor one takes on this machine. An estimate, and too little for major ones.
    pub faulting: u64,
    /// How far all this is to be believed.
    pub known: Known,
}

/// Tasks that another one waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// For how long.
    pub ticks: u64,
    /// The handler that it waited for longest.
    pub handler_id: u32,
    /// The lane of those tasks.
    pub lane: u32,
    /// How many tasks these were, of any handler; the greatest number there is for more. Of tasks that followed each other
    /// without a pause from before the wait on, the share that is in it: an estimate.
    pub tasks: u16,
}

impl Behind {
    const fn word(&self) -> u64 {
        self.handler_id as u64 | (self.lane as u64 & 0xffff) << 32 | (self.tasks as u64) << 48
    }

    const fn from_words(ticks: u64, word: u64) -> Self {
        let lane = (word >> 32) as u32 & 0xffff;
        Self { ticks, handler_id: word as u32, lane, tasks: (word >> 48) as u16 }
    }
}

/// What could be told of a slow task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Whether the kernel took the CPU away: false where threads have no `rseq` area.
    pub preemption: bool,
    /// For how long it did: false where `/proc` does not tell, and where the worker slept shortly before.
    pub preempted_time: bool,
    /// Page faults of exactly this task; false: at most so many, since some of them may be of tasks before it.
    pub faults: bool,
    /// What the worker did in all of the task's wait; false: of the beginning of it too much is past.
    pub history: bool,
}

impl Known {
    const fn bits(self) -> u64 {
        self.preemption as u64
            | (self.preempted_time as u64) << 1
            | (self.faults as u64) << 2
            | (self.history as u64) << 3
    }

    const fn from_bits(bits: u64) -> Self {
        Self { preemption: bits & 1 != 0, preempted_time: bits & 2 != 0, faults: bits & 4 != 0, history: bits & 8 != 0 }
    }
}

impl SlowTask {
    /// From submit to end.
    pub const fn total(&self) -> u64 {
        self.completed_at.saturating_sub(self.submitted_at)
    }

    /// From submit to start.
    pub const fn wait(&self) -> u64 {
        self.started_at.saturating_sub(self.submitted_at)
    }

    /// From start to end.
    pub const fn run(&self) -> u64 {
        self.completed_at.saturating_sub(self.started_at)
    }

    /// Of its wait: what nothing is known of.
    pub const fn wait_unexplained(&self) -> u64 {
        let explained = self
            .unserved
            .saturating_add(self.asleep)
            .saturating_add(self.behind_lane.ticks)
            .saturating_add(self.behind_others.ticks)
            .saturating_add(self.late)
            .saturating_add(self.wait_preempted)
            .saturating_add(self.wait_stalled);
        self.wait().saturating_sub(explained)
    }

    /// Of its run: the handler.
    pub const fn run_itself(&self) -> u64 {
        self.run().saturating_sub(self.run_preempted.saturating_add(self.faulting))
    }

    /// Its number in the instance.
    pub const fn id(&self) -> TaskId {
        TaskId::from_u64(self.task_id)
    }

    fn words(&self) -> [u64; SLOW_WORDS] {
        let place = u64::from(self.lane) & 0xffff
            | (u64::from(self.worker) & 0xff) << 16
            | u64::from(self.status) << 24
            | u64::from(self.detail) << 32
            | u64::from(self.attempt) << 40;
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            0,
            self.task_id,
            self.position,
            place,
            u64::from(self.handler_id),
            pair(self.request_bytes, self.response_bytes),
            self.submitted_at,
            self.started_at,
            self.completed_at,
            self.unserved,
            self.asleep,
            self.behind_lane.ticks,
            self.behind_lane.word(),
            self.behind_others.ticks,
            self.behind_others.word(),
            self.late,
            self.wait_preempted,
            self.wait_stalled,
            self.run_preempted,
            pair(self.minor_faults, self.major_faults),
            self.faulting,
            self.known.bits(),
            0,
            0,
        ]
    }

    /// From words that anybody may have damaged: times that contradict each other are held, the later ones to the earlier.
    pub(super) fn from_words(words: [u64; SLOW_WORDS]) -> Self {
        let [_, task_id, position, place, handler, bytes, submitted_at, started_at, completed_at, rest @ ..] = words;
        let [unserved, asleep, lane_ticks, lane_word, other_ticks, other_word, late, rest @ ..] = rest;
        let [wait_preempted, wait_stalled, run_preempted, faults, faulting, known, _, _] = rest;
        let mut this = Self {
            task_id,
            lane: place as u32 & 0xffff,
            position,
            worker: (place >> 16) as u32 & 0xff,
            handler_id: handler as u32,
            status: (place >> 24) as u8,
            detail: (place >> 32) as u8,
            attempt: (place >> 40) as u16,
            request_bytes: bytes as u32,
            response_bytes: (bytes >> 32) as u32,
            submitted_at,
            started_at,
            completed_at,
            unserved,
            asleep,
            behind_lane: Behind::from_words(lane_ticks, lane_word),
            behind_others: Behind::from_words(other_ticks, other_word),
            late,
            wait_preempted,
            wait_stalled,
            run_preempted,
            minor_faults: faults as u32,
            major_faults: (faults >> 32) as u32,
            faulting,
            known: Known::from_bits(known),
        };
        this.hold();
        this
    }

    /// Holds what a wait and a run were spent on to the wait and the run.
    pub(super) fn hold(&mut self) {
        self.started_at = self.started_at.max(self.submitted_at);
        self.completed_at = self.completed_at.max(self.started_at);
        let mut left = self.wait();
        for part in [
            &mut self.unserved,
            &mut self.asleep,
            &mut self.behind_lane.ticks,
            &mut self.behind_others.ticks,
            &mut self.late,
            &mut self.wait_preempted,
            &mut self.wait_stalled,
        ] {
            *part = (*part).min(left);
            left -= *part;
        }
        self.run_preempted = self.run_preempted.min(self.run());
        self.faulting = self.faulting.min(self.run() - self.run_preempted);
    }
}

/// A row as its only writer knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    total: u64,
    completed_at: u64,
}

/// The slowest tasks of one handler of one worker, in private; the rows are for others.
#[derive(Debug)]
pub(crate) struct SlowTable {
    rows: [Row; SLOWEST],
    threshold: u64,
    /// Where the rows begin.
    at: usize,
}

impl SlowTable {
    /// Goes on with what an earlier life left at `at`.
    pub(crate) fn resume(words: &[AtomicU64], at: usize, threshold: u64) -> Self {
        let word = |row: usize, word: usize| meter::read(words, at + row * SLOW_WORDS + word);
        let rows = std::array::from_fn(|row| {
            let (submitted_at, completed_at) = (word(row, 6), word(row, 8));
            let is_whole = word(row, 0) != 0;
            if is_whole {
                Row { total: completed_at.saturating_sub(submitted_at), completed_at }
            } else {
                Row::default()
            }
        });
        Self { rows, threshold, at }
    }

    /// A task that took longer than this may have to be [noted](Self::note).
    pub(crate) fn bound(&self) -> u64 {
        self.much_slower().min(self.threshold)
    }

    /// An eighth more than the least slow one took; 0 while there is room for any. So the rows end up within an eighth of the
    /// slowest, and a long row of tasks each of which is a little slower than the one before costs little.
    fn much_slower(&self) -> u64 {
        let least = self.rows.iter().map(|row| row.total).fold(u64::MAX, u64::min);
        least.saturating_add(least / 8)
    }

    /// Whether a task that took so long is over the handler's threshold.
    pub(crate) fn is_over_threshold(&self, total: u64) -> bool {
        total > self.threshold
    }

    /// Whether a task that took so long belongs among the slowest.
    pub(crate) fn takes(&self, total: u64) -> bool {
        total > self.much_slower()
    }

    /// Puts a task in the place of the least slow one, if it is to be [taken](Self::takes); of one that ended before `outdated`
    /// in any case.
    pub(crate) fn note(&mut self, meter: &[AtomicU64], recorder: usize, task: &SlowTask, outdated: u64) {
        let by_total = |row: &Row| if row.completed_at < outdated { 0 } else { row.total };
        let least = self.rows.iter().enumerate().min_by_key(|(_, row)| (by_total(row), row.total));
        let is_taken = |row: &Row| by_total(row) == 0 || self.takes(task.total());
        let Some(at) = least.filter(|(_, row)| is_taken(row)).map(|(at, _)| at) else { return };
        if let Some(row) = self.rows.get_mut(at) {
            *row = Row { total: task.total(), completed_at: task.completed_at };
        }
        put(meter, recorder, self.at + at * SLOW_WORDS, task);
    }
}

fn put(meter: &[AtomicU64], recorder: usize, at: usize, task: &SlowTask) {
    let number = next(meter, recorder, HeadWord::Slow);
    write(meter, at, number, &task.words());
    count(meter, recorder, HeadWord::Slow, number);
}

/// Puts a task among the last ones over their threshold; `ring` counts them.
pub(crate) fn put_last(meter: &[AtomicU64], recorder: usize, ring: &mut usize, task: &SlowTask) {
    put(meter, recorder, recorder + SLOW_AT + (*ring % SLOW_TASKS) * SLOW_WORDS, task);
    *ring = ring.wrapping_add(1);
}

/// Where to go on among them: behind the newest.
pub(crate) fn resume_last(meter: &[AtomicU64], recorder: usize) -> usize {
    let number = |row: usize| meter::read(meter, recorder + SLOW_AT + row * SLOW_WORDS);
    let newest = (0..SLOW_TASKS).max_by_key(|&row| number(row)).unwrap_or(0);
    if number(newest) == 0 { 0 } else { newest + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::MeterLayout;
    use crate::recorder::reader;

    const LAYOUT: MeterLayout = MeterLayout { workers: 1, handlers: 1, lanes: 1 };

    fn task(position: u64, total: u64, completed_at: u64) -> SlowTask {
        let submitted_at = completed_at - total;
        SlowTask { position, submitted_at, started_at: submitted_at, completed_at, ..SlowTask::default() }
    }

    #[test]
    fn every_field_of_a_slow_task_survives_its_row() {
        let task = SlowTask {
            task_id: 1,
            lane: 1023,
            position: 3,
            worker: 63,
            handler_id: 4095,
            status: 9,
            detail: 255,
            attempt: 7,
            request_bytes: 8,
            response_bytes: 9,
            submitted_at: 1000,
            started_at: 2000,
            completed_at: 3000,
            unserved: 10,
            asleep: 11,
            behind_lane: Behind { ticks: 12, handler_id: 4094, lane: 1023, tasks: 13 },
            behind_others: Behind { ticks: 14, handler_id: 4093, lane: 1022, tasks: u16::MAX },
            late: 15,
            wait_preempted: 16,
            wait_stalled: 17,
            run_preempted: 18,
            minor_faults: 19,
            major_faults: 20,
            faulting: 21,
            known: Known { preemption: true, preempted_time: false, faults: true, history: true },
        };
        assert_eq!(SlowTask::from_words(task.words()), task);
        assert_eq!(task.wait_unexplained(), 1000 - 95);
        assert_eq!(task.run_itself(), 1000 - 39);
    }

    #[test]
    fn the_parts_of_any_row_add_up_to_its_total() {
        let mut state = 1u64;
        for _ in 0..10_000 {
            let words = std::array::from_fn(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> (state >> 58)
            });
            let task = SlowTask::from_words(words);
            let wait = [task.unserved, task.asleep, task.late, task.wait_preempted, task.wait_stalled];
            let behind = task.behind_lane.ticks + task.behind_others.ticks;
            assert_eq!(wait.iter().sum::<u64>() + behind + task.wait_unexplained(), task.wait());
            assert_eq!(task.run_preempted + task.faulting + task.run_itself(), task.run());
            assert_eq!(task.wait() + task.run(), task.total());
        }
    }

    #[test]
    fn the_slowest_stay_and_outdated_ones_make_room() {
        let meter = meter::heap(&LAYOUT);
        let (at, recorder) = (LAYOUT.slowest(0, 0), LAYOUT.recorder(0));
        let mut table = SlowTable::resume(&meter, at, u64::MAX);
        assert_eq!(table.bound(), 0, "there is room for any task");
        for position in 0..200 {
            table.note(&meter, recorder, &task(position, 80 + position % 30, 1000), 0);
        }
        let positions = |table: &SlowTable| {
            let rows = reader(&LAYOUT, &meter).slowest(0, 0);
            let mut totals: Vec<u64> = rows.whole.iter().map(SlowTask::total).collect();
            totals.sort_unstable();
            assert_eq!(table.bound(), totals[0] + totals[0] / 8);
            totals
        };
        let slowest = positions(&table);
        assert_eq!((slowest.len(), slowest[7]), (SLOWEST, 109), "the slowest of all");
        assert!(slowest[0] * 9 / 8 >= 109, "no row is more than an eighth from it: {slowest:?}");
        let mut table = SlowTable::resume(&meter, at, u64::MAX);
        assert_eq!(positions(&table), slowest, "another life goes on with them");
        table.note(&meter, recorder, &task(99, 50, 5000), 2000);
        assert_eq!(positions(&table)[..2], [50, slowest[1]], "all others are outdated, the least slow one goes first");
        table.note(&meter, recorder, &task(100, 51, 5000), 0);
        assert_eq!(positions(&table)[0], 50, "51 is not much slower than any");
        table.note(&meter, recorder, &task(100, 60, 5000), 0);
        assert_eq!(positions(&table)[0], 60);
    }

    #[test]
    fn the_last_over_their_threshold_are_kept_in_turn_over_lives() {
        let meter = meter::heap(&LAYOUT);
        let recorder = LAYOUT.recorder(0);
        for life in 0..4 {
            let mut ring = resume_last(&meter, recorder);
            for position in 0..20 {
                put_last(&meter, recorder, &mut ring, &task(life * 20 + position, 1, 1000));
            }
        }
        let mut positions: Vec<u64> =
            reader(&LAYOUT, &meter).slow_tasks(0).whole.iter().map(|task| task.position).collect();
        positions.sort_unstable();
        assert_eq!(positions, (80 - SLOW_TASKS as u64..80).collect::<Vec<_>>());
    }
}
