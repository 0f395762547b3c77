//! One worker that serves what a lane holds, with a journal and without, and what a task takes it.
//!
//! The worker is that of the sidecar, on this very thread: a lane is filled, the worker is told to serve it and to end,
//! and the first and the last stamp of its completions say how long that took. So nothing but the serving is timed, and
//! nothing is waited for. The lane lies in words on the heap, which are loaded and stored as mapped ones are.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use executor_client::bytemuck::bytes_of;
use executor_core::clock::Clock;
use executor_core::dispatch::Served;
use executor_core::idle::IdleStrategy;
use executor_core::meter::{self, MeterLayout};
use executor_core::record::{COMMIT, CompletionRecord, DescriptorRecord, WORDS};
use executor_core::recorder::Recording;
use executor_core::task::LaneFacts;
use executor_core::worker::{QUANTUM, Worker, WorkerOptions};
use executor_core::{Priority, Registry, TaskSpec};
use executor_shm::lane::{LaneShape, WorkerHalf};
use executor_shm::layout::{Geometry, lane::SLOTS};
use executor_shm::words::{HeapWords, Words, WordsMut};

use crate::sum::{Sum, Wrong, sum};

/// A default lane.
const GEOMETRY: Geometry =
    Geometry { capacity: 1024, request_bytes: 0, response_bytes: 0, lanes: 1, handlers: 8, workers: 1 };

/// Tasks of a lap that are not timed.
const BEGINNING: usize = 256;

/// A journal that takes no notes. What it would note is the worker's copy of the descriptor, on its stack all the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoNotes;

impl Words for NoNotes {
    fn len(&self) -> usize {
        usize::MAX
    }

    #[inline(always)]
    fn load(&self, _at: usize) -> u64 {
        0
    }

    #[inline(always)]
    fn load_commit(&self, _at: usize) -> u64 {
        0
    }

    #[inline(always)]
    fn load_record(&self, _at: usize) -> [u64; WORDS] {
        [0; WORDS]
    }
}

impl WordsMut for NoNotes {
    #[inline(always)]
    fn store(&self, _at: usize, _value: u64) {}

    #[inline(always)]
    fn commit(&self, _at: usize, _value: u64) {}

    #[inline(always)]
    fn store_record(&self, _at: usize, _record: &[u64; WORDS]) {}

    fn buffer(&mut self, _at: usize, _length: usize) -> &mut [u8] {
        &mut []
    }
}

/// A lane that is filled and served again and again.
#[derive(Debug)]
pub(crate) struct Course<J> {
    sq: HeapWords,
    cq: HeapWords,
    journal: J,
    position: u64,
    registry: Registry,
    clock: Clock,
    recording: Recording,
    /// Of all laps, as a sidecar's is: the slowest tasks of the first laps are slow for the later ones too.
    meter: Arc<[AtomicU64]>,
    layout: MeterLayout,
}

impl Course<HeapWords> {
    /// As the sidecar has it.
    pub(crate) fn with_journal() -> Result<Self, Box<dyn Error>> {
        Self::new(HeapWords::new(GEOMETRY.journal_bytes() / 8))
    }
}

impl Course<NoNotes> {
    /// The same without a store to the journal.
    pub(crate) fn without_journal() -> Result<Self, Box<dyn Error>> {
        Self::new(NoNotes)
    }
}

impl<J: WordsMut + Clone> Course<J> {
    fn new(journal: J) -> Result<Self, Box<dyn Error>> {
        let registry = Registry::builder().typed::<Sum>(|_, numbers| Ok(sum(numbers))).build()?;
        let layout = MeterLayout { workers: 1, handlers: registry.handlers().len(), lanes: 1 };
        Ok(Self {
            sq: HeapWords::new(GEOMETRY.sq_bytes() / 8),
            cq: HeapWords::new(GEOMETRY.cq_bytes() / 8),
            journal,
            position: 0,
            registry,
            clock: Clock::detect(),
            recording: Recording::default(),
            meter: meter::heap(&layout),
            layout,
        })
    }

    /// The same with another recording.
    #[allow(dead_code, reason = "not every bench asks what recording costs")]
    pub(crate) fn recording(mut self, recording: Recording) -> Self {
        self.recording = recording;
        self
    }

    /// Fills the lane, serves it and checks every answer; nanoseconds a task.
    pub(crate) fn lap(&mut self) -> Result<f64, Box<dyn Error>> {
        let tasks = u64::from(GEOMETRY.capacity);
        let slot = |position: u64| SLOTS + (position & GEOMETRY.mask()) as usize * WORDS;
        let first = self.position;
        let now = self.clock.now();
        for position in first..first + tasks {
            let mut record = DescriptorRecord::new(Sum::ID, 32, now, 0);
            record.inline_payload_mut().copy_from_slice(bytes_of(&[position, 1, 2, 3]));
            self.sq.store_record(slot(position), &record.words);
            self.sq.commit(slot(position) + COMMIT, position + 1);
        }
        self.serve()?;
        self.position += tasks;
        let ends: Vec<CompletionRecord> = (first..first + tasks)
            .map(|position| CompletionRecord { words: self.cq.load_record(slot(position)) })
            .collect();
        for (number, end) in (first..).zip(&ends) {
            let committed = self.cq.load_commit(slot(number) + COMMIT);
            if committed != number + 1 || end.words[5] != number + 6 {
                return Err(Wrong::Sum { number }.into());
            }
        }
        // A worker that has just begun meets cold memory, which one that serves for long does not.
        let [Some(begin), Some(end)] = [ends.get(BEGINNING), ends.last()] else { return Err("no task".into()) };
        let elapsed = self.clock.ticks_to_ns(end.completed_at().saturating_sub(begin.completed_at()));
        Ok(elapsed as f64 / (tasks as usize - BEGINNING - 1) as f64)
    }

    fn serve(&self) -> Result<(), Box<dyn Error>> {
        let (worker, mut control) = Worker::new(WorkerOptions {
            recording: self.recording,
            worker: 0,
            clock: self.clock,
            timed: true,
            idle: IdleStrategy::Spin,
            quantum: QUANTUM,
            request_bytes: 0,
            meter: Arc::clone(&self.meter),
            layout: self.layout,
        });
        let facts = LaneFacts {
            lane: 0,
            base: 0,
            instance_nonce: 1,
            generation: 1,
            priority: Priority::Normal,
            attached_at: 0,
            meter: self.layout.lane(0),
        };
        let half = WorkerHalf::new(
            self.sq.clone(),
            self.cq.clone(),
            self.journal.clone(),
            GEOMETRY.journal_lane(0),
            LaneShape::new(&GEOMETRY),
            (self.position, None),
            Arc::default(),
        );
        control.adopt(Box::new(Served::new(half, facts))).map_err(|_| "the worker takes no lane")?;
        control.close().map_err(|_| "the worker does not end")?;
        worker.serve(&self.registry, &[], |_| {})?;
        Ok(())
    }
}
