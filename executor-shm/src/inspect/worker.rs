//! A worker as `status` tells of it.

use executor_core::idle::IdleStrategy;
use executor_core::meter::WorkerWord;

use crate::hold::HoldView;
use crate::housekeeping::LANES_OF_ONE;
use crate::layout::{Geometry, LINE, status};
use crate::words::Words;

/// Lanes that a worker can sleep on; one with more looks every millisecond.
pub const SLEEP_LANES: u64 = LANES_OF_ONE as u64;

/// One worker as it stands.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Its number.
    pub worker: u32,
    /// The CPU it is pinned to.
    pub cpu: Option<u32>,
    /// Tasks ended.
    pub tasks: u64,
    /// Sweeps over its lanes, told while it is idle.
    pub sweeps: u64,
    /// Lanes it serves.
    pub lanes: u64,
    /// What it does without tasks; `None` for a strategy this build does not know.
    pub idle: Option<IdleStrategy>,
    /// How it slept.
    pub sleep: SleepView,
    /// Its real-time scheduling, if that was asked for.
    pub real_time: Option<HoldView>,
}

/// How a worker slept, over all its lives on these files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SleepView {
    /// Sleeps that a task or a command ended.
    pub wakes: u64,
    /// Sleeps that ended by themselves.
    pub naps: u64,
    /// Sleeps that ended by themselves and found a task waiting: wake-ups that were lost.
    pub overslept: u64,
    /// Nanoseconds asleep.
    pub asleep_ns: u64,
    /// The kernel refuses the barrier: producers use fences of their own.
    pub without_barrier: bool,
    /// The kernel refuses to let it sleep on several words: it naps for a millisecond at a time.
    pub without_watch: bool,
}

impl WorkerView {
    /// Worker `worker`, for which the geometry has room.
    pub(super) fn load(words: &impl Words, geometry: &Geometry, worker: u32) -> Self {
        let line = status::WORKERS + worker as usize * LINE;
        let at = geometry.meter() + geometry.meter_layout().worker(worker as usize);
        let meter = |word: WorkerWord| words.load(at + word as usize);
        let lacks = words.load(line + status::WORKER_LACKS);
        Self {
            worker,
            cpu: (words.load(line + status::WORKER_CPU) as u32).checked_sub(1),
            tasks: meter(WorkerWord::Tasks),
            sweeps: meter(WorkerWord::Sweeps),
            lanes: meter(WorkerWord::Lanes),
            idle: IdleStrategy::from_code(words.load(line + status::WORKER_IDLE)),
            sleep: SleepView {
                wakes: meter(WorkerWord::Wakes),
                naps: meter(WorkerWord::Naps),
                overslept: meter(WorkerWord::Overslept),
                asleep_ns: meter(WorkerWord::AsleepNs),
                without_barrier: lacks & 1 != 0,
                without_watch: lacks & 2 != 0,
            },
            real_time: HoldView::real_time(words.load(line + status::WORKER_REAL_TIME), worker),
        }
    }
}
