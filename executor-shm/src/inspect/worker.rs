//! A worker as `status` tells of it.

use executor_core::idle::IdleStrategy;
use executor_core::meter::WorkerWord;
use executor_core::recorder::{HeadWord, Reader};

use crate::hold::HoldView;
use crate::housekeeping::LANES_OF_ONE;
use crate::layout::{Geometry, LINE, status};
use crate::status as table;
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
    /// What it spent its time on; `None` if nothing is recorded, or tasks are not timed.
    pub time: Option<TimeView>,
    /// Tasks over their threshold.
    pub slow_tasks: u64,
    /// Its errors; `None` if nothing is recorded.
    pub errors: Option<ErrorsView>,
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

/// How many errors a worker's tasks had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorsView {
    /// Errors that are told apart now.
    pub distinct: u64,
    /// Errors that had to make room for others, over all its lives.
    pub forgotten: u64,
}

/// What a worker spent its time on since it began to serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeView {
    /// When it began to serve, in ticks.
    pub serves_since: u64,
    /// Ticks inside handlers since then, of tasks that are over.
    pub busy_ticks: u64,
    /// Nanoseconds asleep since then, of sleeps that are over.
    pub asleep_ns: u64,
    /// When it last looked at all its lanes and found nothing, in ticks; 0 not yet.
    pub looked_at: u64,
    /// The longest time in which it looked at nothing although it had no task and did not sleep, over all its lives.
    pub longest_gap: Option<Gap>,
    /// How often the kernel was found to have run something else on its CPU, over all its lives.
    pub preemptions: u64,
    /// For how many nanoseconds.
    pub preempted_ns: u64,
}

/// A time in which a worker looked at nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How long it was, in ticks.
    pub ticks: u64,
    /// When it ended, in ticks.
    pub at: u64,
}

impl TimeView {
    /// Nanoseconds busy, asleep and idle, at most `now`, in ticks: what is neither busy nor asleep is idle, a task that runs
    /// and a sleep that lasts included.
    pub fn shares_ns(&self, clock: &executor_core::Clock, now: u64) -> [u64; 3] {
        let all = clock.ticks_to_ns(now.saturating_sub(self.serves_since));
        let busy = clock.ticks_to_ns(self.busy_ticks).min(all);
        let asleep = self.asleep_ns.min(all - busy);
        [busy, asleep, all - busy - asleep]
    }
}

impl WorkerView {
    /// Worker `worker`, for which the geometry has room.
    pub(super) fn load(words: &impl Words, geometry: &Geometry, worker: u32) -> Self {
        let line = status::WORKERS + worker as usize * LINE;
        let at = geometry.meter() + geometry.meter_layout().worker(worker as usize);
        let meter = |word: WorkerWord| words.load(at + word as usize);
        let time = (words.load(status::SLOW_AFTER) != 0 && table::is_timed(words)).then(|| TimeView {
            serves_since: meter(WorkerWord::ServesSince),
            busy_ticks: meter(WorkerWord::BusyTicks).saturating_sub(meter(WorkerWord::BusyBefore)),
            asleep_ns: meter(WorkerWord::AsleepNs).saturating_sub(meter(WorkerWord::AsleepBefore)),
            looked_at: meter(WorkerWord::LookedAt),
            longest_gap: Some(Gap { ticks: meter(WorkerWord::LongestGap), at: meter(WorkerWord::LongestGapAt) })
                .filter(|gap| gap.ticks != 0),
            preemptions: meter(WorkerWord::Preemptions),
            preempted_ns: meter(WorkerWord::PreemptedNs),
        });
        let layout = geometry.meter_layout();
        let reader = Reader::new(&layout, |at| words.load_commit(geometry.meter() + at));
        let errors = (words.load(status::SLOW_AFTER) != 0).then(|| ErrorsView {
            distinct: reader.errors_told(worker as usize),
            forgotten: reader.head(worker as usize, HeadWord::ErrorsForgotten),
        });
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
            time,
            slow_tasks: meter(WorkerWord::SlowTasks),
            errors,
            real_time: HoldView::real_time(words.load(line + status::WORKER_REAL_TIME), worker),
        }
    }
}
