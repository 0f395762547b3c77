//! A worker without threads and without time: lanes whose tasks and arrivals a test scripts, served on the test's own
//! thread, with every completion logged in the order it was published.
//!
//! The lanes watch the worker: `take`, `start` and `publish` must come in this order, once each a task.

#![allow(dead_code, reason = "each test target uses its part")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use executor_core::clock::{Calibration, Clock, ClockSource};
use executor_core::dispatch::{Lane, Scratch, Served};
use executor_core::idle::IdleStrategy;
use executor_core::meter::{self, MeterLayout};
use executor_core::record::{CompletionRecord, DescriptorRecord, INLINE_PAYLOAD};
use executor_core::recorder::Recording;
use executor_core::registry::Since;
use executor_core::response::Response;
use executor_core::status::Poison;
use executor_core::task::LaneFacts;
use executor_core::worker::{Control, Worker, WorkerOptions};
use executor_core::{Priority, Registry, Status};

/// More tasks than any script runs: a worker that goes on past this is lost.
const TASKS_MAX: usize = 100_000;

/// One task that a lane holds.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) record: DescriptorRecord,
    pub(crate) payload: Vec<u8>,
    /// What `take` says, 1 for a fresh task.
    pub(crate) attempt: u16,
}

impl Task {
    /// A fresh task without a payload.
    pub(crate) fn new(handler_id: u32) -> Self {
        Self { record: DescriptorRecord::new(handler_id, 0, 0, 0), payload: Vec::new(), attempt: 1 }
    }
}

/// One completion, in the order of all of them.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) lane: u32,
    pub(crate) position: u64,
    pub(crate) completion: CompletionRecord,
    pub(crate) response: Vec<u8>,
}

impl Entry {
    pub(crate) fn status(&self) -> Status {
        self.completion.status().unwrap()
    }
}

type Hook = Box<dyn FnMut(&World)>;

/// What all lanes of a test share.
#[derive(Default)]
pub(crate) struct World {
    queues: RefCell<Vec<VecDeque<Task>>>,
    pub(crate) log: RefCell<Vec<Entry>>,
    after: RefCell<Option<Hook>>,
    /// Every lane looks poisoned while this is set.
    pub(crate) poison: Cell<Option<Poison>>,
    /// Looks at any lane that find nothing from now on.
    pub(crate) misses: Cell<u32>,
    /// Set while no payload can be read.
    pub(crate) payload_lost: Cell<bool>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    /// Gives lane `lane` another task.
    pub(crate) fn push(&self, lane: u32, task: Task) {
        let mut queues = self.queues.borrow_mut();
        let lane = lane as usize;
        if queues.len() <= lane {
            queues.resize_with(lane + 1, VecDeque::new);
        }
        queues[lane].push_back(task);
    }

    /// Tasks that lane `lane` holds.
    pub(crate) fn waiting(&self, lane: u32) -> usize {
        self.queues.borrow().get(lane as usize).map_or(0, VecDeque::len)
    }

    /// Completions so far.
    pub(crate) fn ended(&self) -> usize {
        self.log.borrow().len()
    }

    /// The lanes in the order in which their tasks ended.
    pub(crate) fn lanes(&self) -> Vec<u32> {
        self.log.borrow().iter().map(|entry| entry.lane).collect()
    }

    /// The lanes as [`World::lanes`] has them, each run with its length.
    pub(crate) fn runs(&self) -> Vec<(u32, usize)> {
        self.lanes().chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Between,
    Taken,
    Started,
}

/// A lane over a queue of the world.
#[derive(Debug)]
pub(crate) struct ScriptedLane {
    world: Rc<World>,
    lane: u32,
    position: u64,
    capacity: u64,
    request_bytes: usize,
    buffer: Vec<u8>,
    stage: Stage,
}

impl Lane for ScriptedLane {
    fn is_ready(&self) -> bool {
        self.world.waiting(self.lane) > 0
    }

    fn take(&mut self, into: &mut DescriptorRecord) -> u16 {
        assert_eq!(self.stage, Stage::Between, "a task is taken before the last one of its lane was published");
        if self.world.misses.get() > 0 {
            self.world.misses.update(|misses| misses - 1);
            return 0;
        }
        let queues = self.world.queues.borrow();
        let Some(task) = queues.get(self.lane as usize).and_then(VecDeque::front) else { return 0 };
        *into = task.record;
        self.stage = Stage::Taken;
        task.attempt
    }

    fn payload<'a>(&self, length: usize, scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        assert!(length > INLINE_PAYLOAD, "an inline payload needs no copy");
        if self.world.payload_lost.get() {
            return None;
        }
        let queues = self.world.queues.borrow();
        let task = queues.get(self.lane as usize)?.front()?;
        let copy = scratch.get(length)?;
        copy.copy_from_slice(task.payload.get(..length)?);
        Some(copy)
    }

    fn poison(&self) -> Option<Poison> {
        self.world.poison.get()
    }

    fn start(&mut self, _attempt: u16, _verdict: Option<Status>, _started_at: u64) -> bool {
        assert_eq!(self.stage, Stage::Taken);
        self.stage = Stage::Started;
        true
    }

    fn response(&mut self) -> Response<'_> {
        assert_eq!(self.stage, Stage::Started);
        Response::new(&mut self.buffer)
    }

    fn publish(&mut self, completion: &CompletionRecord) {
        assert_eq!(self.stage, Stage::Started);
        self.stage = Stage::Between;
        self.world.queues.borrow_mut()[self.lane as usize].pop_front().unwrap();
        let length = completion.response_length() as usize;
        let response = completion.inline_response().get(..length).unwrap_or_else(|| &self.buffer[..length]).to_vec();
        let entry = Entry { lane: self.lane, position: self.position, completion: *completion, response };
        self.world.log.borrow_mut().push(entry);
        self.position += 1;
        assert!(self.world.ended() < TASKS_MAX, "the worker does not stop");
        if let Some(after) = &mut *self.world.after.borrow_mut() {
            after(&self.world);
        }
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn request_bytes(&self) -> usize {
        self.request_bytes
    }

    fn capacity(&self) -> u64 {
        self.capacity
    }
}

/// The control that hooks share with the test.
pub(crate) type SharedControl = Rc<RefCell<Control<ScriptedLane>>>;

/// One worker with its world, not yet running.
pub(crate) struct Script {
    pub(crate) world: Rc<World>,
    pub(crate) control: SharedControl,
    pub(crate) meter: Arc<[AtomicU64]>,
    pub(crate) layout: MeterLayout,
    worker: Worker<ScriptedLane, Arc<[AtomicU64]>>,
}

/// How the worker of a script is set up.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) quantum: u32,
    pub(crate) timed: bool,
    pub(crate) clock: Clock,
}

impl Default for Setup {
    fn default() -> Self {
        Self { quantum: 64, timed: false, clock: monotonic() }
    }
}

/// A clock whose ticks are nanoseconds.
pub(crate) fn monotonic() -> Clock {
    Clock::new(ClockSource::Monotonic, Calibration::measure(ClockSource::Monotonic))
}

impl Script {
    pub(crate) fn new(setup: Setup) -> Self {
        let layout = MeterLayout { workers: 1, handlers: 16, lanes: 16 };
        let meter = meter::heap(&layout);
        let (worker, control) = Worker::new(WorkerOptions {
            recording: Recording::default(),
            worker: 0,
            clock: setup.clock,
            timed: setup.timed,
            idle: IdleStrategy::Spin,
            quantum: setup.quantum,
            request_bytes: 0,
            meter: Arc::clone(&meter),
            layout,
        });
        Self { world: Rc::default(), control: Rc::new(RefCell::new(control)), meter, layout, worker }
    }

    /// A lane of this world, to be adopted.
    pub(crate) fn lane(&self, lane: u32, priority: Priority, capacity: u64) -> Box<Served<ScriptedLane>> {
        lane_of(&self.world, &self.layout, lane, priority, capacity)
    }

    /// Adopts lanes 0, 1, 2 and so on with these priorities.
    pub(crate) fn adopt(&self, priorities: &[Priority]) -> &Self {
        for (lane, &priority) in priorities.iter().enumerate() {
            self.control.borrow_mut().adopt(self.lane(lane as u32, priority, 1024)).unwrap();
        }
        self
    }

    /// Calls `hook` after each completion.
    pub(crate) fn after(&self, mut hook: impl FnMut(&World, &mut Control<ScriptedLane>) + 'static) {
        let control = Rc::clone(&self.control);
        *self.world.after.borrow_mut() = Some(Box::new(move |world| hook(world, &mut control.borrow_mut())));
    }

    /// Serves until the script closes the worker, and returns the world with the lanes that came back.
    pub(crate) fn serve(self, registry: &Registry, since: &[Since]) -> (Rc<World>, Vec<Served<ScriptedLane>>) {
        self.worker.serve(registry, since, |ready| ready.unwrap()).unwrap();
        *self.world.after.borrow_mut() = None;
        let returned = std::iter::from_fn(|| self.control.borrow_mut().take_returned()).map(|served| *served).collect();
        (self.world, returned)
    }

    /// Serves until `total` tasks have ended, calling `hook` after each before it closes.
    pub(crate) fn serve_total(
        self,
        total: usize,
        registry: &Registry,
        mut hook: impl FnMut(&World) + 'static,
    ) -> Rc<World> {
        self.after(move |world, control| {
            hook(world);
            if world.ended() == total {
                control.close().unwrap();
                control.hurry();
            }
        });
        let (world, _) = self.serve(registry, &[]);
        assert_eq!(world.ended(), total, "a hurried worker stops after the task in its hands");
        world
    }
}

/// A lane of a world that has no worker yet, or of one whose worker runs.
pub(crate) fn lane_of(
    world: &Rc<World>,
    layout: &MeterLayout,
    lane: u32,
    priority: Priority,
    capacity: u64,
) -> Box<Served<ScriptedLane>> {
    let scripted = ScriptedLane {
        world: Rc::clone(world),
        lane,
        position: 0,
        capacity,
        request_bytes: 128,
        buffer: vec![0; 128],
        stage: Stage::Between,
    };
    let facts = LaneFacts {
        lane,
        base: 0,
        instance_nonce: 7,
        generation: 3,
        priority,
        attached_at: 1,
        meter: layout.lane(lane as usize),
    };
    Box::new(Served::new(scripted, facts))
}

/// Handler 1 does nothing, handler 2 panics with the text "boom", past the hook that would print it.
pub(crate) fn registry() -> Registry {
    let mut builder = Registry::builder();
    builder.handler(1, "nothing", |_, _, _| Ok(()));
    builder.handler(2, "boom", |_, _, _| std::panic::resume_unwind(Box::new("boom")));
    builder.build().unwrap()
}
