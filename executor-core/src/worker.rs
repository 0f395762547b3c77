//! One thread that serves lanes: whose turn is it, and what to do between tasks.
//!
//! It runs no task itself ([`dispatch`](crate::dispatch) does) and knows no file; lanes come and go through its
//! [`Control`].
//!
//! # Order
//! - W1: inside a lane tasks are served strictly in order.
//! - W2: lanes of one [`Priority`](crate::Priority) take turns of at most a quantum of tasks.
//! - W3: between any two tasks the worker looks at all lanes of a higher priority: a task there waits for at most the
//!   task that is running, but for W4.
//! - W4: a class of lanes is passed over by at most [`PASS_OVER_LIMIT`] tasks of higher classes, then one of its tasks
//!   is served. So the task at the head of one of `n` Low lanes starts after at most `n * (PASS_OVER_LIMIT + quantum)`
//!   other tasks.
//!
//! A handler that panics ends its task as any other; its lane loses the rest of its turn, so these hold for it too.
//! Commands are read between any two tasks, so a lane comes, goes or is hurried within one task.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::clock::Clock;
use crate::control::{Command, Orders, control};
use crate::dispatch::{Desk, Lane, Scratch, discard};
use crate::idle::{Idle, IdleStrategy, Rest};
use crate::meter::{self, MeterLayout, WorkerWord};
use crate::record::{DescriptorRecord, LENGTH_MAX};
use crate::recorder::{Notebook, Recording};
use crate::registry::{Registry, Since, Table, TableError};
use crate::rota::Rota;

pub use crate::control::{Control, ControlFull};

/// Tasks of higher classes that may pass over a class of lanes before one of its own is served.
pub const PASS_OVER_LIMIT: u32 = 64;
/// Tasks a lane may be served in one turn, unless configured.
pub const QUANTUM: u32 = 64;
/// Sweeps between two looks at the control ring, if nobody calls.
const CONTROL_INTERVAL: u64 = 16;

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
    /// Tasks a lane may be served in one turn; 0 is taken for 1.
    pub quantum: u32,
    /// The longest payload of any lane, in bytes; a lane that takes longer ones costs an allocation when it comes.
    pub request_bytes: usize,
    /// What to record beside counts.
    pub recording: Recording,
    /// Where to count.
    pub meter: M,
    /// Offsets in `meter`, with room for this worker, every handler of its registry and every lane.
    pub layout: MeterLayout,
}

/// A worker's lanes, for whoever puts it to sleep.
#[derive(Debug)]
pub struct Lanes<'a, L>(&'a mut Rota<L>);

impl<L> Lanes<'_, L> {
    /// Each lane once.
    pub fn iter(&self) -> impl Iterator<Item = &L> {
        self.0.iter().map(|served| &served.lane)
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut L> {
        self.0.iter_mut().map(|served| &mut served.lane)
    }
}

/// What ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There was something to do before it began.
    AtOnce,
    /// Somebody woke it.
    Woken,
    /// Its time was up and there was nothing to do.
    InTime,
    /// Its time was up, and a task had been waiting: a wake-up was lost.
    Overslept,
}

/// How a worker sleeps. It may wake for no reason, it must wake by itself within some 100 ms, and it must miss neither a
/// task nor a call that comes while it falls asleep.
pub trait Sleep<L>: Send + std::fmt::Debug {
    /// Sleeps until a lane may be ready or `call` is no longer 0.
    fn sleep(&mut self, lanes: &mut Lanes<'_, L>, call: &AtomicU32) -> Woken;
}

/// A worker that was not started yet. Its thread calls [`Worker::serve`].
#[derive(Debug)]
pub struct Worker<L, M> {
    options: WorkerOptions<M>,
    orders: Orders<L>,
    sleeper: Option<Box<dyn Sleep<L>>>,
}

impl<L: Lane, M: Deref<Target = [AtomicU64]>> Worker<L, M> {
    /// A worker and the control for it.
    pub fn new(options: WorkerOptions<M>) -> (Self, Control<L>) {
        let (control, orders) = control();
        (Self { options, orders, sleeper: None }, control)
    }

    /// Has it sleep by `sleeper` when its [`IdleStrategy`] says so; without one it yields instead.
    #[must_use]
    pub fn sleeping(mut self, sleeper: Box<dyn Sleep<L>>) -> Self {
        self.sleeper = Some(sleeper);
        self
    }

    /// Makes the handlers, calls `ready`, and [serves](Self::serve_with). Call it on the worker's own thread, pinned
    /// before.
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
        let table = Table::new(registry, self.options.worker);
        ready(table.as_ref().map(|_| ()));
        self.serve_with(table?.dated(since));
        Ok(())
    }

    /// Serves until it is told to close and has handed back its last lane. Call it on the thread that made the table of
    /// this worker's handlers, which may have been long before.
    pub fn serve_with(self, mut table: Table) {
        let options = self.options;
        let thresholds = table.slow_after();
        let meter = (&*options.meter, &options.layout);
        let notes =
            Notebook::begin(options.recording, options.timed, meter, options.worker, &options.clock, &thresholds);
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
                notes,
            },
            rota: Rota::new(options.quantum),
            draining: 0,
            idle: Idle::new(options.idle),
            sweeps: 0,
            has_slept: false,
            closing: false,
            orders: self.orders,
            sleeper: self.sleeper,
        };
        loop {
            // One guard around the whole loop, not around each task: a task that does not panic pays nothing for it.
            match catch_unwind(AssertUnwindSafe(|| turn.run())) {
                Ok(()) => return,
                Err(panic) => turn.resolve(panic),
            }
            // A worker whose every task panics must hear its commands too.
            if turn.tend(true) {
                return;
            }
        }
    }
}

/// Everything a serving worker holds; it survives a caught panic.
struct Turn<L, M> {
    desk: Desk<M>,
    rota: Rota<L>,
    /// Lanes that are being drained.
    draining: usize,
    idle: Idle,
    sweeps: u64,
    /// It slept and has not looked since.
    has_slept: bool,
    closing: bool,
    orders: Orders<L>,
    sleeper: Option<Box<dyn Sleep<L>>>,
}

impl<L: Lane, M: Deref<Target = [AtomicU64]>> Turn<L, M> {
    fn run(&mut self) {
        loop {
            // The set of lanes changes only in `tend`.
            let worked = match self.rota.only_class() {
                Some(class) => self.serve(|Self { rota, desk, orders, .. }| {
                    rota.sweep(class, |served, place| desk.step(served, place), || orders.is_called())
                }),
                None if self.rota.len() == 0 => {
                    self.missed();
                    false
                }
                None => self.serve(|Self { rota, desk, .. }| rota.next(|served, place| desk.step(served, place))),
            };
            if self.tend(worked) {
                return;
            }
        }
    }

    /// Looks for work until it is time for [`Turn::tend`]; says whether there was any.
    #[inline(always)]
    fn serve(&mut self, mut look: impl FnMut(&mut Self) -> bool) -> bool {
        let mut worked = false;
        for _ in 0..CONTROL_INTERVAL {
            if look(self) {
                worked = true;
                self.idle.hit();
                if self.orders.is_called() {
                    break;
                }
            } else if self.missed() {
                break; // awake again: first of all the commands
            }
        }
        worked
    }

    /// After a look that found nothing; says whether it slept.
    #[inline(always)]
    fn missed(&mut self) -> bool {
        self.desk.last_completed_at = 0;
        match self.idle.miss() {
            Rest::Again => {}
            // A yield may take longer than a gap that is worth a note, so each is looked at by itself.
            Rest::Yielded => self.desk.notes.looked(&self.desk.meter, self.rota.len(), true),
            Rest::Sleep => {
                self.sleep();
                return true;
            }
        }
        false
    }

    #[cold]
    fn sleep(&mut self) {
        let Some(sleeper) = &mut self.sleeper else { return std::thread::yield_now() };
        let (begun, begun_at) = (Instant::now(), self.desk.clock.now());
        let woken = sleeper.sleep(&mut Lanes(&mut self.rota), self.orders.call());
        let word = match woken {
            Woken::AtOnce => None,
            Woken::Woken => Some(WorkerWord::Wakes),
            Woken::InTime => Some(WorkerWord::Naps),
            Woken::Overslept => Some(WorkerWord::Overslept),
        };
        if let Some(word) = word {
            let worker = self.desk.layout.worker(self.desk.worker as usize);
            let slept = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            meter::add(&self.desk.meter, worker + word as usize, 1);
            meter::add(&self.desk.meter, worker + WorkerWord::AsleepNs as usize, slept);
        }
        // Falling asleep alone takes a barrier of the kernel's, which is no gap either.
        let ended_by = match woken {
            Woken::Woken => 1,
            Woken::Overslept => 3,
            // Ten a second of a worker with nothing to do would leave nothing else in the recorder.
            Woken::InTime | Woken::AtOnce => 0,
        };
        self.desk.notes.slept(&self.desk.meter, begun_at, self.desk.clock.now(), ended_by);
        self.has_slept = true;
        self.idle.slept();
    }

    /// Reads commands, gives back what is drained; says whether the worker has ended.
    fn tend(&mut self, worked: bool) -> bool {
        self.sweeps = self.sweeps.wrapping_add(CONTROL_INTERVAL);
        if !worked {
            self.publish(WorkerWord::Sweeps, self.sweeps);
            if !std::mem::take(&mut self.has_slept) {
                self.desk.notes.looked(&self.desk.meter, self.rota.len(), false);
            }
        }
        self.orders.answer();
        while let Some(command) = self.orders.next() {
            self.desk.last_completed_at = 0;
            self.obey(command);
        }
        if self.draining > 0 {
            self.give_back();
        }
        self.closing && self.rota.len() == 0
    }

    #[cold]
    fn obey(&mut self, command: Command<L>) {
        match command {
            Command::Adopt(served) => {
                let mut served = *served;
                served.since = self.desk.clock.now();
                self.desk.scratch.grow(served.lane.scratch_bytes().min(LENGTH_MAX));
                if self.closing && served.drain() {
                    self.draining += 1;
                }
                self.rota.push(served);
                self.publish(WorkerWord::Lanes, self.rota.len() as u64);
            }
            Command::Drain(lane) => {
                let mut asked = self.rota.iter_mut().filter(|served| served.facts.lane == lane);
                self.draining += asked.next().is_some_and(|served| served.drain()) as usize;
            }
            Command::Close => {
                self.closing = true;
                self.draining += self.rota.iter_mut().filter_map(|served| served.drain().then_some(())).count();
            }
        }
    }

    #[cold]
    fn give_back(&mut self) {
        let hurry = self.orders.hurry();
        // If housekeeping is behind with taking lanes, they stay where they are.
        while self.orders.can_return() {
            let done = |left: u64, lane: &L| left == 0 || hurry || !lane.is_ready();
            let Some(served) = self.rota.take(|served| served.left().is_some_and(|left| done(left, &served.lane)))
            else {
                break;
            };
            self.draining -= 1;
            self.orders.give_back(Box::new(served));
        }
        self.publish(WorkerWord::Lanes, self.rota.len() as u64);
    }

    fn publish(&self, word: WorkerWord, value: u64) {
        if let Some(word) = self.desk.meter.get(self.desk.layout.worker(self.desk.worker as usize) + word as usize) {
            word.store(value, Relaxed);
        }
    }

    /// After a panic: ends the task it came from. A panic from nowhere else than a handler is our own bug and goes on.
    #[cold]
    fn resolve(&mut self, panic: Box<dyn std::any::Any + Send>) {
        let Some(flight) = self.desk.in_flight.take() else { std::panic::resume_unwind(panic) };
        if let Some(served) = self.rota.get_mut(flight.place) {
            self.desk.resolve_panic(flight, served, &*panic);
        }
        self.rota.panicked(flight.place);
        self.desk.last_completed_at = 0; // what follows is no part of the next task
        discard(panic);
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
