//! One thread that serves lanes: whose turn is it, and what to do between tasks.
//!
//! It runs no task itself ([`dispatch`](crate::dispatch) does) and knows no file; lanes come and go through its
//! [`Control`].
//!
//! # Order
//! - W1: inside a lane tasks are served strictly in order.
//! - W2: lanes of one [`Priority`] take turns of at most a quantum of tasks.
//! - W3: between any two tasks the worker looks at all lanes of a higher priority: a task there waits for at most the
//!   task that is running, but for W4.
//! - W4: a class of lanes is passed over by at most [`PASS_OVER_LIMIT`] tasks of higher classes, then one of its tasks
//!   is served. So the task at the head of one of `n` Low lanes starts after at most `n * (PASS_OVER_LIMIT + 1)` other
//!   tasks once the worker looks again.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::clock::Clock;
use crate::dispatch::{Desk, Lane, Place, Scratch, Served};
use crate::idle::{Idle, IdleStrategy};
use crate::meter::{self, MeterLayout, WorkerWord};
use crate::record::DescriptorRecord;
use crate::registry::{Registry, Since, Table, TableError};
use crate::task::Priority;

/// Tasks of higher classes that may pass over a class of lanes before one of its own is served.
pub const PASS_OVER_LIMIT: u32 = 64;
/// Tasks a lane may be served in one turn, unless configured.
pub const QUANTUM: u32 = 64;
/// Sweeps between two looks at the control ring.
const CONTROL_INTERVAL: u64 = 16;
/// Commands that can wait for a worker, and lanes that can wait to be taken back.
const CONTROL_SLOTS: usize = 2 * 128;

/// What a worker is told.
#[derive(Debug)]
enum Command<L> {
    Adopt(Box<Served<L>>),
    Drain(u32),
    Close,
}

/// The other end of a worker's control rings, in the hands of the housekeeping thread.
#[derive(Debug)]
pub struct Control<L> {
    commands: rtrb::Producer<Command<L>>,
    returned: rtrb::Consumer<Box<Served<L>>>,
    hurry: Arc<AtomicBool>,
}

/// The worker has more commands to read than its ring holds; try again later.
#[derive(Debug, thiserror::Error)]
#[error("the worker's control ring is full")]
pub struct ControlFull<T>(pub T);

impl<L> Control<L> {
    /// Gives the worker a lane to serve.
    ///
    /// # Errors
    ///
    /// Hands the lane back if the worker does not read its commands now.
    pub fn adopt(&mut self, served: Box<Served<L>>) -> Result<(), ControlFull<Box<Served<L>>>> {
        self.commands.push(Command::Adopt(served)).map_err(|rtrb::PushError::Full(command)| match command {
            Command::Adopt(served) => ControlFull(served),
            _ => unreachable!("the ring hands back what was pushed"),
        })
    }

    /// Asks for lane `lane` back once it is empty, or has been served its capacity once more.
    ///
    /// # Errors
    ///
    /// The worker does not read its commands now.
    pub fn drain(&mut self, lane: u32) -> Result<(), ControlFull<()>> {
        self.commands.push(Command::Drain(lane)).map_err(|_| ControlFull(()))
    }

    /// Tells the worker to serve what is there, at most a capacity a lane, hand all lanes back and end.
    ///
    /// # Errors
    ///
    /// The worker does not read its commands now.
    pub fn close(&mut self) -> Result<(), ControlFull<()>> {
        self.commands.push(Command::Close).map_err(|_| ControlFull(()))
    }

    /// Tells a worker that drains or closes to do so after the task in its hands.
    pub fn hurry(&self) {
        self.hurry.store(true, Relaxed);
    }

    /// A lane that came back.
    pub fn take_returned(&mut self) -> Option<Box<Served<L>>> {
        self.returned.pop().ok()
    }
}

/// How a worker is set up.
#[derive(Debug)]
pub struct WorkerOptions<M> {
    /// Its number.
    pub worker: u32,
    /// The clock of all stamps.
    pub clock: Clock,
    /// Whether to stamp and to time tasks.
    pub timed: bool,
    /// What to do when there is nothing to do.
    pub idle: IdleStrategy,
    /// Tasks a lane may be served in one turn.
    pub quantum: u32,
    /// The longest payload of any lane, in bytes.
    pub request_bytes: usize,
    /// Where to count.
    pub meter: M,
    /// Offsets in `meter`.
    pub layout: MeterLayout,
}

/// A worker that was not started yet. Its thread calls [`Worker::serve`].
#[derive(Debug)]
pub struct Worker<L, M> {
    options: WorkerOptions<M>,
    commands: rtrb::Consumer<Command<L>>,
    returned: rtrb::Producer<Box<Served<L>>>,
    hurry: Arc<AtomicBool>,
}

impl<L: Lane, M: Deref<Target = [AtomicU64]>> Worker<L, M> {
    /// A worker and the control for it.
    pub fn new(options: WorkerOptions<M>) -> (Self, Control<L>) {
        let (command_writer, commands) = rtrb::RingBuffer::new(CONTROL_SLOTS);
        let (returned, returned_reader) = rtrb::RingBuffer::new(CONTROL_SLOTS);
        let hurry = Arc::new(AtomicBool::new(false));
        let control = Control { commands: command_writer, returned: returned_reader, hurry: Arc::clone(&hurry) };
        (Self { options, commands, returned, hurry }, control)
    }

    /// Serves until it is told to close and has handed back its last lane. Call it on the worker's own thread, pinned
    /// before: per-worker handlers are made here, and `ready` is called once they are.
    ///
    /// # Errors
    ///
    /// A per-worker handler panicked while it was made; no lane was served.
    pub fn serve(
        self,
        registry: &Registry,
        since: &[Since],
        ready: impl FnOnce(Result<(), &TableError>),
    ) -> Result<(), TableError> {
        let table = match Table::new(registry, since, self.options.worker) {
            Ok(table) => table,
            Err(error) => {
                ready(Err(&error));
                return Err(error);
            }
        };
        let options = self.options;
        let mut turn = Turn {
            desk: Desk {
                table,
                clock: options.clock,
                timed: options.timed,
                worker: options.worker,
                meter: options.meter,
                layout: options.layout,
                scratch: Scratch::new(options.request_bytes),
                record: DescriptorRecord::default(),
                in_flight: None,
                last_completed_at: 0,
            },
            lanes: Lanes::default(),
            quantum: options.quantum.max(1),
            idle: Idle::new(options.idle),
            sweeps: 0,
            closing: false,
            commands: self.commands,
            returned: self.returned,
            hurry: self.hurry,
        };
        ready(Ok(()));
        loop {
            // One guard around the whole loop, not around each task: a task that does not panic pays nothing for it.
            match catch_unwind(AssertUnwindSafe(|| turn.run())) {
                Ok(()) => return Ok(()),
                Err(panic) => turn.resolve(panic),
            }
        }
    }
}

/// A worker's lanes by priority.
#[derive(Debug)]
struct Lanes<L> {
    classes: [Vec<Served<L>>; Priority::COUNT],
    cursors: [usize; Priority::COUNT],
    taken: [u32; Priority::COUNT],
    passed_over: [u32; Priority::COUNT],
    draining: usize,
}

impl<L> Default for Lanes<L> {
    fn default() -> Self {
        Self {
            classes: Default::default(),
            cursors: Default::default(),
            taken: Default::default(),
            passed_over: Default::default(),
            draining: 0,
        }
    }
}

impl<L> Lanes<L> {
    fn len(&self) -> usize {
        self.classes.iter().map(Vec::len).sum()
    }

    /// The only class that has lanes, if there is but one.
    fn only_class(&self) -> Option<usize> {
        let mut used = self.classes.iter().enumerate().filter(|(_, lanes)| !lanes.is_empty());
        match (used.next(), used.next()) {
            (Some((class, _)), None) => Some(class),
            _ => None,
        }
    }

    fn find(&mut self, lane: u32) -> Option<&mut Served<L>> {
        self.classes.iter_mut().flatten().find(|served| served.facts.lane == lane)
    }
}

/// Everything a serving worker holds; it survives a caught panic.
struct Turn<L, M> {
    desk: Desk<M>,
    lanes: Lanes<L>,
    quantum: u32,
    idle: Idle,
    sweeps: u64,
    closing: bool,
    commands: rtrb::Consumer<Command<L>>,
    returned: rtrb::Producer<Box<Served<L>>>,
    hurry: Arc<AtomicBool>,
}

impl<L: Lane, M: Deref<Target = [AtomicU64]>> Turn<L, M> {
    fn run(&mut self) {
        loop {
            let mut worked = false;
            // The set of lanes changes only in `tend`.
            match self.lanes.only_class() {
                Some(class) => {
                    for _ in 0..CONTROL_INTERVAL {
                        if self.sweep_class(class) {
                            worked = true;
                            self.idle.hit();
                        } else {
                            self.missed();
                        }
                    }
                }
                None if self.lanes.len() == 0 => self.missed(),
                None => {
                    for _ in 0..CONTROL_INTERVAL {
                        if self.serve_next() {
                            worked = true;
                            self.idle.hit();
                        } else {
                            self.missed();
                        }
                    }
                }
            }
            self.sweeps = self.sweeps.wrapping_add(CONTROL_INTERVAL);
            if self.tend(worked) {
                return;
            }
        }
    }

    #[inline(always)]
    fn missed(&mut self) {
        self.desk.last_completed_at = 0;
        self.idle.miss();
    }

    /// A turn for each lane of the only class (W2).
    #[inline(always)]
    fn sweep_class(&mut self, class: usize) -> bool {
        let mut worked = false;
        let Some(lanes) = self.lanes.classes.get_mut(class) else { return false };
        for (index, served) in lanes.iter_mut().enumerate() {
            let quota = served.budget.map_or(self.quantum, |budget| budget.min(u64::from(self.quantum)) as u32);
            let mut taken = 0;
            while taken < quota && self.desk.step(served, Place { class, index }) {
                taken += 1;
            }
            if taken > 0 {
                worked = true;
                if let Some(budget) = &mut served.budget {
                    *budget -= u64::from(taken);
                }
            }
        }
        worked
    }

    /// One task of the class whose turn it is (W3, W4), and in it of the lane whose turn it is (W2).
    fn serve_next(&mut self) -> bool {
        for class in 0..Priority::COUNT - 1 {
            if self.lanes.passed_over.get(class).is_some_and(|&passed| passed >= PASS_OVER_LIMIT) {
                if let Some(passed) = self.lanes.passed_over.get_mut(class) {
                    *passed = 0;
                }
                if self.serve_one(class, 1) {
                    return true;
                }
            }
        }
        (0..Priority::COUNT).rev().any(|class| self.serve_one(class, self.quantum))
    }

    fn serve_one(&mut self, class: usize, quantum: u32) -> bool {
        let Lanes { classes, cursors, taken, passed_over, .. } = &mut self.lanes;
        let (Some(lanes), Some(cursor), Some(taken)) =
            (classes.get_mut(class), cursors.get_mut(class), taken.get_mut(class))
        else {
            return false;
        };
        for _ in 0..lanes.len() {
            if *cursor >= lanes.len() || *taken >= quantum {
                *cursor = if *cursor + 1 >= lanes.len() { 0 } else { *cursor + 1 };
                *taken = 0;
            }
            let Some(served) = lanes.get_mut(*cursor) else { return false };
            let place = Place { class, index: *cursor };
            if served.budget != Some(0) && self.desk.step(served, place) {
                *taken += 1;
                if let Some(budget) = &mut served.budget {
                    *budget -= 1;
                }
                for (lower, passed) in passed_over.iter_mut().enumerate() {
                    *passed = if lower < class { passed.saturating_add(1) } else { *passed };
                    if lower == class {
                        *passed = 0;
                    }
                }
                return true;
            }
            *taken = quantum; // nothing there: the next lane's turn
        }
        false
    }

    /// Reads commands, gives back what is drained; says whether the worker has ended.
    fn tend(&mut self, worked: bool) -> bool {
        if !worked {
            let words = &self.desk.meter;
            let worker = self.desk.layout.worker(self.desk.worker as usize);
            if let Some(word) = words.get(worker + WorkerWord::Sweeps as usize) {
                word.store(self.sweeps, Relaxed);
            }
        }
        while let Ok(command) = self.commands.pop() {
            self.desk.last_completed_at = 0;
            self.obey(command);
        }
        if self.lanes.draining > 0 {
            self.give_back();
        }
        self.closing && self.lanes.len() == 0
    }

    #[cold]
    fn obey(&mut self, command: Command<L>) {
        match command {
            Command::Adopt(served) => {
                let mut served = *served;
                if self.closing {
                    served.budget = Some(served.lane.capacity());
                    self.lanes.draining += 1;
                }
                if let Some(lanes) = self.lanes.classes.get_mut(served.facts.priority as usize) {
                    lanes.push(served);
                }
                self.publish_lanes();
            }
            Command::Drain(lane) => {
                if let Some(served) = self.lanes.find(lane)
                    && served.budget.is_none()
                {
                    served.budget = Some(served.lane.capacity());
                    self.lanes.draining += 1;
                }
            }
            Command::Close => {
                self.closing = true;
                for served in self.lanes.classes.iter_mut().flatten() {
                    if served.budget.is_none() {
                        served.budget = Some(served.lane.capacity());
                        self.lanes.draining += 1;
                    }
                }
            }
        }
    }

    #[cold]
    fn give_back(&mut self) {
        let hurry = self.hurry.load(Relaxed);
        for lanes in &mut self.lanes.classes {
            let mut at = 0;
            while let Some(served) = lanes.get(at) {
                let done = match served.budget {
                    None => false,
                    Some(0) => true,
                    Some(_) => hurry || !served.lane.is_ready(),
                };
                if !done {
                    at += 1;
                    continue;
                }
                if self.returned.is_full() {
                    return; // housekeeping is behind; the lane stays where it is
                }
                let served = lanes.swap_remove(at);
                self.lanes.draining -= 1;
                if self.returned.push(Box::new(served)).is_err() {
                    unreachable!("the ring was not full and has one writer");
                }
            }
        }
        self.publish_lanes();
    }

    fn publish_lanes(&self) {
        let worker = self.desk.layout.worker(self.desk.worker as usize);
        if let Some(word) = self.desk.meter.get(worker + WorkerWord::Lanes as usize) {
            word.store(self.lanes.len() as u64, Relaxed);
        }
    }

    /// After a panic: ends the task it came from. A panic from nowhere else than a handler is our own bug and goes on.
    #[cold]
    fn resolve(&mut self, panic: Box<dyn std::any::Any + Send>) {
        let Some(flight) = self.desk.in_flight.take() else { std::panic::resume_unwind(panic) };
        let served = self.lanes.classes.get_mut(flight.place.class).and_then(|lanes| lanes.get_mut(flight.place.index));
        if let Some(served) = served {
            self.desk.resolve_panic(flight, served, &*panic);
            if let Some(budget) = &mut served.budget {
                *budget = budget.saturating_sub(1);
            }
        }
        // The payload is the author's own type; its drop may panic again, which must not end the worker.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
    }
}

/// Meter totals of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WorkerTotals {
    /// Tasks ended.
    pub tasks: u64,
    /// Lanes it serves now.
    pub lanes: u64,
}

/// Reads the totals of worker `worker`.
pub fn totals(words: &[AtomicU64], layout: &MeterLayout, worker: u32) -> WorkerTotals {
    let at = layout.worker(worker as usize);
    WorkerTotals {
        tasks: meter::read(words, at + WorkerWord::Tasks as usize),
        lanes: meter::read(words, at + WorkerWord::Lanes as usize),
    }
}
