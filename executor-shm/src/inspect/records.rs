//! The last tasks of a lane as its rings still hold them.
//!
//! It takes no lock and the lane's owner and worker may be at work, so a row is shown only if its slots provably were
//! nobody else's while they were copied.
//!
//! # Invariants
//! - R1: the slot of task `s` in `sq` is written again only after task `s + capacity - 1` was committed, and after task
//!   `s` was answered (I1, I2 of [`lane`](crate::lane)). So a copy is whole if afterwards the slot still names `s`, and
//!   the slot before it was not yet that of `s + capacity - 1` or task `s` was still unanswered.
//! - R2: the slot of task `s` in `cq` is written again only after task `s + capacity` was committed, which R1's look at
//!   the slot in `sq` sees.
//!
//! On x86-64 a producer's stores are seen in their order, which R1 needs between a commit and the words after it. Words
//! are loaded with an Acquire each, so that the looks afterwards come after them.

use executor_core::TaskId;
use executor_core::record::{COMMIT, CompletionRecord, DescriptorRecord, WORDS};

use super::Inspector;
use crate::layout::{Geometry, journal::k, lane::SLOTS};
use crate::state::LaneState;
use crate::status as table;
use crate::words::Words;

/// A lane and its last tasks.
#[derive(Clone, Debug)]
pub struct LaneRecords {
    /// Its number.
    pub lane: u32,
    /// Its state; `None` for a damaged word.
    pub state: Option<LaneState>,
    /// The owner's pid as the owner told it, 0 none.
    pub owner: u64,
    /// Its last tasks, the newest last, or why they cannot be read.
    pub tasks: Result<Vec<TaskRow>, String>,
}

/// One task of a lane.
#[derive(Clone, Copy, Debug)]
pub struct TaskRow {
    /// Its position.
    pub position: u64,
    /// Its number in the instance.
    pub task_id: TaskId,
    /// What its slots hold; `None` if they were written meanwhile or hold another task: torn.
    pub task: Option<TaskView>,
}

/// A task's descriptor and how far it is.
#[derive(Clone, Copy, Debug)]
pub struct TaskView {
    /// What the producer asked. Its commit word is not part of the copy.
    pub descriptor: DescriptorRecord,
    /// How far it is.
    pub phase: Phase,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Accepted and not started.
    Waiting,
    /// Started and not ended: its handler runs, or ran when the sidecar died.
    InFlight {
        /// When it was started, in ticks; 0 unknown.
        started_at: u64,
    },
    /// Accepted and not ended; whether it was started is in the journal, which cannot be read.
    Unanswered,
    /// Ended so. Its commit word is not part of the copy.
    Ended(CompletionRecord),
}

impl Inspector {
    /// The last tasks of every lane that was ever made, or of one; at most `last` a lane. `None`: there is no such lane.
    pub fn records(&self, only: Option<u32>, last: usize) -> Option<Vec<LaneRecords>> {
        let lanes = (0..self.geometry.lanes).filter(|lane| only.is_none_or(|only| only == *lane));
        let records: Vec<LaneRecords> = lanes.filter_map(|lane| self.lane_records(lane, last)).collect();
        (only.is_none() || !records.is_empty()).then_some(records)
    }

    fn lane_records(&self, lane: u32, last: usize) -> Option<LaneRecords> {
        let row = table::load_lane(&self.status, &self.geometry, lane);
        if row.word.word() == 0 {
            return None;
        }
        let read = |sq: &_, cq: &_| {
            let journal = self.journal.as_ref().ok();
            let rings = Rings { lane, geometry: self.geometry, sq, cq, journal };
            rings.last(last).map(|position| rings.row(position, row.base)).collect()
        };
        let tasks = self.lane_files(lane, row.word.nonce()).and_then(|files| files.read(read));
        Some(LaneRecords { lane, state: row.word.state(), owner: row.owner, tasks })
    }
}

/// The two rings of a lane, and its journal where it can be read.
pub(super) struct Rings<'a, W> {
    pub(super) lane: u32,
    pub(super) geometry: Geometry,
    pub(super) sq: &'a W,
    pub(super) cq: &'a W,
    pub(super) journal: Option<&'a W>,
}

impl<W: Words> Rings<'_, W> {
    pub(super) fn slot(&self, position: u64) -> usize {
        SLOTS + (position & self.geometry.mask()) as usize * WORDS
    }

    fn commit(&self, ring: &W, position: u64) -> u64 {
        ring.load_commit(self.slot(position) + COMMIT)
    }

    /// The record of a position, each word with an Acquire.
    fn record(&self, ring: &W, position: u64) -> [u64; WORDS] {
        let slot = self.slot(position);
        let mut words = [0; WORDS];
        for (at, word) in words.iter_mut().enumerate().skip(1) {
            *word = ring.load_commit(slot + at);
        }
        words
    }

    fn is_committed(&self, ring: &W, position: u64) -> bool {
        self.commit(ring, position) == position.wrapping_add(1)
    }

    /// Position + 1 of the task that was started last, and when that was.
    fn started(&self) -> Option<(u64, u64)> {
        let journal = self.journal?;
        let lines = self.geometry.journal_lane(self.lane);
        Some((journal.load_commit(lines + COMMIT), journal.load_commit(lines + k::STARTED_AT)))
    }

    /// The newest position + 1: what `sq` has committed behind the task that was started last. Without a journal it is
    /// the greatest commit word that stands in its own slot.
    fn end(&self) -> u64 {
        let capacity = u64::from(self.geometry.capacity);
        let sq = self.sq;
        match self.started() {
            Some((started, _)) => {
                let waiting = (0..capacity).take_while(|ahead| self.is_committed(sq, started.wrapping_add(*ahead)));
                started.saturating_add(waiting.count() as u64)
            }
            None => (0..capacity)
                .map(|slot| (slot, self.commit(sq, slot)))
                .filter(|(slot, commit)| *commit > 0 && (commit - 1) & self.geometry.mask() == *slot)
                .map(|(_, commit)| commit)
                .max()
                .unwrap_or(0),
        }
    }

    /// The last positions that the rings can hold, the newest last. The oldest of a whole lap is left out once it was
    /// answered: the next submit writes its slot, so nobody could tell whether it is whole.
    pub(super) fn last(&self, last: usize) -> std::ops::Range<u64> {
        let end = self.end();
        let capacity = u64::from(self.geometry.capacity);
        let lap = end.saturating_sub(capacity);
        let is_past = end > lap + capacity - 1 && self.is_committed(self.cq, lap);
        (lap + u64::from(is_past)).max(end.saturating_sub(last as u64))..end
    }

    fn row(&self, position: u64, base: u64) -> TaskRow {
        let task_id = TaskId::new(self.lane, base.wrapping_add(position));
        TaskRow { position, task_id, task: self.task(position) }
    }

    /// A copy that is provably whole, or none.
    pub(super) fn task(&self, position: u64) -> Option<TaskView> {
        let Self { sq, cq, .. } = *self;
        if !self.is_committed(sq, position) {
            return None;
        }
        let descriptor = DescriptorRecord { words: self.record(sq, position) };
        // The journal before the answer: a task that a later one has overtaken there has one (I4).
        let started = self.started();
        let answer = self.commit(cq, position);
        let is_answered = answer == position.wrapping_add(1);
        let phase = if is_answered {
            Phase::Ended(CompletionRecord { words: self.record(cq, position) })
        } else {
            match started {
                None => Phase::Unanswered,
                Some((started, started_at)) if started == position.wrapping_add(1) => Phase::InFlight { started_at },
                Some((started, _)) if started <= position => Phase::Waiting,
                Some(_) => return None,
            }
        };
        let before = position.wrapping_add(u64::from(self.geometry.capacity)).wrapping_sub(1);
        let is_next_to_go = is_answered && self.is_committed(sq, before);
        let is_answer_same = !is_answered || self.commit(cq, position) == answer;
        let is_same = self.is_committed(sq, position) && is_answer_same; // R1, R2
        (is_same && !is_next_to_go).then_some(TaskView { descriptor, phase })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::words::{HeapWords, WordsMut};

    const CAPACITY: u64 = 4;
    const GEOMETRY: Geometry =
        Geometry { capacity: CAPACITY as u32, request_bytes: 0, response_bytes: 0, lanes: 1, handlers: 1, workers: 1 };

    /// A lane's owner and worker, a store at a time, in the order of [`lane`](crate::lane); the owner collects at once.
    struct Writers {
        sq: HeapWords,
        cq: HeapWords,
        journal: HeapWords,
        submitted: u64,
        submitting: usize,
        completed: u64,
        completing: usize,
        random: u64,
    }

    impl Writers {
        fn new(seed: u64) -> Self {
            let words = GEOMETRY.sq_bytes() / 8;
            let (sq, cq) = (HeapWords::new(words), HeapWords::new(words));
            let journal = HeapWords::new(GEOMETRY.journal_bytes() / 8);
            Self { sq, cq, journal, submitted: 0, submitting: 0, completed: 0, completing: 0, random: seed | 1 }
        }

        fn below(&mut self, end: u64) -> u64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % end
        }

        fn step(&mut self) {
            let slot = |position: u64| SLOTS + (position % CAPACITY) as usize * WORDS;
            if self.below(2) == 0 {
                let task = self.submitted;
                if self.submitting == 0 && task - self.completed == CAPACITY {
                    return; // full
                }
                self.submitting = (self.submitting + 1) % WORDS;
                match self.submitting {
                    0 => {
                        self.sq.commit(slot(task), task + 1);
                        self.submitted += 1;
                    }
                    at => self.sq.store(slot(task) + at, asked(task, at)),
                }
            } else {
                let task = self.completed;
                if self.submitted == task {
                    return; // nothing to do
                }
                if self.completing == 0 {
                    self.journal.commit(GEOMETRY.journal_lane(0) + COMMIT, task + 1);
                }
                self.completing = (self.completing + 1) % WORDS;
                match self.completing {
                    0 => {
                        self.cq.commit(slot(task), task + 1);
                        self.completed += 1;
                    }
                    at => self.cq.store(slot(task) + at, answered(task, at)),
                }
            }
        }
    }

    fn asked(task: u64, at: usize) -> u64 {
        task * 100 + at as u64
    }

    fn answered(task: u64, at: usize) -> u64 {
        task * 100 + 50 + at as u64
    }

    /// Words whose writers go on by some stores before each load.
    struct Racing<'a> {
        words: HeapWords,
        writers: &'a RefCell<Writers>,
        haste: u64,
    }

    impl Words for Racing<'_> {
        fn len(&self) -> usize {
            self.words.len()
        }

        fn load(&self, at: usize) -> u64 {
            let steps = self.writers.borrow_mut().below(self.haste);
            (0..steps).for_each(|_| self.writers.borrow_mut().step());
            self.words.load(at)
        }

        fn load_commit(&self, at: usize) -> u64 {
            self.load(at)
        }

        fn load_record(&self, at: usize) -> [u64; WORDS] {
            std::array::from_fn(|word| if word == 0 { 0 } else { self.load(at + word) })
        }
    }

    #[test]
    fn no_row_is_made_of_two_tasks_whatever_is_stored_between_two_loads() {
        let (mut whole, mut ended, mut torn) = (0, 0, 0);
        for seed in 1..4_000u64 {
            let writers = RefCell::new(Writers::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let racing = |words: &HeapWords| Racing { words: words.clone(), writers: &writers, haste: 2 + seed % 5 };
            let (sq, cq, journal) = {
                let writers = writers.borrow();
                (racing(&writers.sq), racing(&writers.cq), racing(&writers.journal))
            };
            let start = writers.borrow_mut().below(400);
            (0..start).for_each(|_| writers.borrow_mut().step());
            // Without a journal too, as in a copy that lacks it.
            let journal = (seed % 4 > 0).then_some(&journal);
            let rings = Rings { lane: 0, geometry: GEOMETRY, sq: &sq, cq: &cq, journal };
            for position in rings.last(10) {
                let Some(task) = rings.row(position, 0).task else {
                    torn += 1;
                    continue;
                };
                whole += 1;
                let asked: [u64; WORDS] = std::array::from_fn(|at| if at == 0 { 0 } else { asked(position, at) });
                assert_eq!(task.descriptor.words, asked, "seed {seed}, position {position}");
                if let Phase::Ended(end) = task.phase {
                    ended += 1;
                    let answered = std::array::from_fn(|at| if at == 0 { 0 } else { answered(position, at) });
                    assert_eq!(end.words, answered, "seed {seed}, position {position}");
                }
            }
        }
        assert!(ended > 100 && whole - ended > 100 && torn > 100, "{whole} whole, {ended} of them ended, {torn} torn");
    }

    /// S1 and S2 of [`saved`](crate::inspect::saved).
    #[test]
    fn a_copy_of_a_lane_holds_whole_tasks_in_an_order_that_can_be_whatever_is_stored_meanwhile() {
        let (mut whole, mut torn, mut in_flight, mut waiting) = (0, 0, 0, 0);
        for seed in 1..4_000u64 {
            let writers = RefCell::new(Writers::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let racing = |words: &HeapWords| Racing { words: words.clone(), writers: &writers, haste: 1 + seed % 4 };
            let (sq, cq, journal) = {
                let writers = writers.borrow();
                (racing(&writers.sq), racing(&writers.cq), racing(&writers.journal))
            };
            let start = writers.borrow_mut().below(400);
            (0..start).for_each(|_| writers.borrow_mut().step());
            let rings = Rings { lane: 0, geometry: GEOMETRY, sq: &sq, cq: &cq, journal: Some(&journal) };
            let image = crate::inspect::saved::LaneImage::new(&rings);
            // What a reader of the copy sees.
            let heap = |words: &[u64]| {
                let heap = HeapWords::new(words.len());
                words.iter().enumerate().for_each(|(at, word)| heap.store(at, *word));
                heap
            };
            let (sq, cq, journal) = (heap(&image.sq), heap(&image.cq), HeapWords::new(GEOMETRY.journal_bytes() / 8));
            let (started, words, started_at) = image.started;
            let line = GEOMETRY.journal_lane(0);
            words.iter().enumerate().for_each(|(at, word)| journal.store(line + at, *word));
            journal.store(line + COMMIT, started);
            journal.store(line + k::STARTED_AT, started_at);
            let copy = Rings { lane: 0, geometry: GEOMETRY, sq: &sq, cq: &cq, journal: Some(&journal) };
            let rows: Vec<TaskRow> = copy.last(CAPACITY as usize).map(|position| copy.row(position, 0)).collect();
            assert_eq!(copy.end(), rows.last().map_or(started, |row| row.position + 1), "seed {seed}");
            let mut ranks = Vec::new();
            for row in &rows {
                let position = row.position;
                let Some(task) = row.task else {
                    torn += 1;
                    ranks.push(0);
                    continue;
                };
                whole += 1;
                let asked: [u64; WORDS] = std::array::from_fn(|at| if at == 0 { 0 } else { asked(position, at) });
                assert_eq!(task.descriptor.words[1..], asked[1..], "seed {seed}, position {position}");
                ranks.push(match task.phase {
                    Phase::Ended(end) => {
                        let answered: [u64; WORDS] = std::array::from_fn(|at| answered(position, at));
                        assert_eq!(end.words[1..], answered[1..], "seed {seed}, position {position}");
                        0
                    }
                    Phase::InFlight { .. } => {
                        assert_eq!(words[1..], asked[1..], "seed {seed}, position {position}");
                        in_flight += 1;
                        1
                    }
                    Phase::Waiting => {
                        waiting += 1;
                        2
                    }
                    Phase::Unanswered => panic!("seed {seed}: the journal is there"),
                });
            }
            assert!(ranks.is_sorted() && ranks.iter().filter(|rank| **rank == 1).count() <= 1, "seed {seed}: {rows:?}");
            let intact = rows.iter().filter(|row| row.task.is_some()).count() as u64;
            assert_eq!((intact, rows.len() as u64 - intact), (image.tasks, image.torn), "seed {seed}: {rows:?}");
            // As `show` counts: the task that was started last is answered, or in flight.
            let is_answered = started > 0 && copy.commit(&cq, started - 1) >= started;
            assert_eq!(is_answered, started > 0 && !ranks.contains(&1), "seed {seed}: {rows:?}");
            let behind = rows.iter().filter(|row| row.position >= started).count();
            assert_eq!(behind, ranks.iter().filter(|rank| **rank == 2).count(), "seed {seed}: what waits is behind");
        }
        let seen = [whole, torn, in_flight, waiting];
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }
}
