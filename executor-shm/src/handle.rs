//! A running sidecar in the hands of the program that started it.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use executor_core::Status;
use executor_core::clock::ClockSource;
use executor_core::idle::IdleStrategy;
use executor_core::meter::WorkerWord;
use nix::sys::eventfd::EventFd;

use crate::files::InstanceName;
use crate::futex::{self, Who};
use crate::group::Group;
use crate::hold::{Held, HoldView};
use crate::housekeeping::{Ending, Orders, RecoveryReport};
use crate::layout::{Geometry, status};
use crate::lock::fork_generation;
use crate::mapped::SharedWords;
use crate::rehearsal::{JoinHandle, last_step};
use crate::signals::{StopSignals, Waited, wait};
use crate::slice::ShortSlice;
use crate::words::Words;

/// What a sidecar has done, summed over all its lives on these files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SidecarStats {
    /// Tasks ended, whatever their status.
    pub tasks: u64,
    /// Tasks ended by status byte (see [`Status::code`]); 0 is unused.
    pub by_status: [u64; Status::CODES],
    /// Lanes that workers serve now.
    pub lanes: u64,
}

pub(crate) fn read_stats(words: &impl Words, geometry: &Geometry) -> SidecarStats {
    let layout = geometry.meter_layout();
    let word = |at: usize| words.load(geometry.meter() + at);
    let mut stats = SidecarStats::default();
    for worker in 0..layout.workers {
        stats.lanes = stats.lanes.saturating_add(word(layout.worker(worker) + WorkerWord::Lanes as usize));
    }
    // Lanes count what did not end well, handlers what did. Each word only grows, and so does each sum of them: the
    // difference of the tasks and what did not end well, read while they are counted, would not.
    for (code, count) in stats.by_status.iter_mut().enumerate().skip(2) {
        *count = (0..layout.lanes).map(|lane| word(layout.lane(lane) + code)).fold(0, u64::saturating_add);
    }
    let done = usize::from(Status::Done.code());
    let rows = (0..layout.workers).flat_map(|worker| (0..layout.handlers).map(move |row| (worker, row)));
    stats.by_status[done] =
        rows.map(|(worker, row)| word(layout.handler(worker, row) + done)).fold(0, u64::saturating_add);
    stats.tasks = stats.by_status.iter().copied().fold(0, u64::saturating_add);
    stats
}

/// How far the loop of a worker has come. Both counts go on over restarts of the sidecar or begin again; only whether they
/// differ from an earlier reading means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerProgress {
    /// Tasks ended.
    pub tasks: u64,
    /// Looks at all its lanes that found nothing, in steps of 16; a worker with work does not count them.
    pub sweeps: u64,
}

pub(crate) fn read_progress(words: &impl Words, geometry: &Geometry, worker: usize) -> WorkerProgress {
    let at = geometry.meter() + geometry.meter_layout().worker(worker);
    let word = |word: WorkerWord| words.load(at + word as usize);
    WorkerProgress { tasks: word(WorkerWord::Tasks), sweeps: word(WorkerWord::Sweeps) }
}

/// Why the closure of [`SidecarHandle::run_until_ticking`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The interval has passed since the last call for a tick, or since the beginning.
    Tick,
    /// The first signal came and the stop was just ordered. Ticks go on while accepted tasks are served.
    Stopping,
}

/// A running sidecar. Dropping it stops it with manners and waits for that.
#[derive(Debug)]
pub struct SidecarHandle {
    pub(crate) instance: InstanceName,
    pub(crate) cpus: Vec<u32>,
    pub(crate) workers: usize,
    pub(crate) geometry: Geometry,
    pub(crate) bytes: u64,
    pub(crate) idle: IdleStrategy,
    pub(crate) holds: Vec<HoldView>,
    /// Until it has ended.
    pub(crate) _held: Option<Held>,
    pub(crate) timed: bool,
    pub(crate) group: Option<Group>,
    pub(crate) clock: ClockSource,
    pub(crate) recovery: RecoveryReport,
    pub(crate) status: SharedWords,
    pub(crate) generation: u64,
    pub(crate) orders: Arc<Orders>,
    pub(crate) problem: Arc<Mutex<Option<String>>>,
    pub(crate) ended: Arc<EventFd>,
    pub(crate) keeper: Option<JoinHandle<Option<(Ending, u32)>>>,
}

/// How a sidecar ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// What it had done.
    pub stats: SidecarStats,
    /// What became of the files.
    pub ending: Ending,
}

/// Why a sidecar did not end well. Its files are left for the next start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// A thread of the sidecar panicked: a bug of this library or of a handler's destructor.
    #[error("a thread of the sidecar died; the files are left for the next start")]
    ThreadDied,
    /// This process is a forked child of the one that started the sidecar, which serves on there.
    #[error("this process was forked after the start; the sidecar is its parent's")]
    Forked,
    /// Waiting for a signal failed.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
}

impl SidecarHandle {
    /// The instance it serves.
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    /// The CPUs its workers are pinned to.
    pub fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// The sizes in force.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Bytes of its files in `/dev/shm` at the start; more lanes are made as they are needed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What its workers do between tasks.
    pub fn idle(&self) -> IdleStrategy {
        self.idle
    }

    /// What was asked for to be held, and whether it is: [`HoldView::complaint`] says what the system refused, and the cure.
    pub fn holds(&self) -> &[HoldView] {
        &self.holds
    }

    /// Whether tasks carry timestamps.
    pub fn is_timed(&self) -> bool {
        self.timed
    }

    /// The group whose members may attach besides the owner.
    pub fn group(&self) -> Option<Group> {
        self.group
    }

    /// The clock of all stamps.
    pub fn clock_source(&self) -> ClockSource {
        self.clock
    }

    /// What the start found of an earlier life.
    pub fn recovery(&self) -> RecoveryReport {
        self.recovery
    }

    /// What it has done so far.
    pub fn stats(&self) -> SidecarStats {
        if self.generation != fork_generation() {
            return SidecarStats::default(); // the sidecar is the parent's
        }
        read_stats(&self.status, &self.geometry)
    }

    /// How far each worker has come. A worker that serves or waits for tasks differs from its last reading within
    /// microseconds; one that does not is inside a handler, or the kernel runs it not. Two loads a worker and no store
    /// anywhere. Empty in a forked child.
    pub fn progress(&self) -> Vec<WorkerProgress> {
        if self.generation != fork_generation() {
            return Vec::new(); // the sidecar is the parent's
        }
        (0..self.workers).map(|worker| read_progress(&self.status, &self.geometry, worker)).collect()
    }

    /// The last thing housekeeping could not do, if any: a full `/dev/shm`, names taken away.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().ok().and_then(|problem| problem.clone())
    }

    /// Orders a stop with manners and returns at once.
    pub fn stop(&self) {
        if self.generation != fork_generation() {
            return;
        }
        self.orders.stop.store(true, Relaxed);
        futex::wake(self.status.atomic(status::NAP), Who::Keeper, i32::MAX);
    }

    /// Waits for the end that [`stop`](Self::stop) ordered.
    ///
    /// # Errors
    ///
    /// A thread of the sidecar died.
    pub fn join(mut self) -> Result<StopReport, StopError> {
        self.wait()
    }

    fn wait(&mut self) -> Result<StopReport, StopError> {
        if self.generation != fork_generation() {
            return Err(StopError::Forked);
        }
        let keeper = self.keeper.take().ok_or(StopError::ThreadDied)?;
        let (ending, _) = keeper.join().ok().flatten().ok_or(StopError::ThreadDied)?;
        Ok(StopReport { stats: self.stats(), ending })
    }

    /// Blocks SIGTERM and SIGINT in this thread and waits for one of them, then stops with manners. A second signal,
    /// 200 ms later or more, ends the process at once with exit code 130; what was accepted is in the files for the next
    /// start.
    ///
    /// A signal that comes between the start and this call ends the process as by default; to close that gap make
    /// [`StopSignals`] before the start and use [`run_until`](Self::run_until).
    ///
    /// # Errors
    ///
    /// A thread of the sidecar died, or the kernel gave no signal descriptor.
    pub fn run_until_signal(self) -> Result<StopReport, StopError> {
        let signals = StopSignals::block().map_err(StopError::Signals)?;
        self.run_until(&signals)
    }

    /// As [`run_until_signal`](Self::run_until_signal), with signals that were blocked before the start.
    ///
    /// # Errors
    ///
    /// As [`run_until_signal`](Self::run_until_signal).
    pub fn run_until(self, signals: &StopSignals) -> Result<StopReport, StopError> {
        self.run(signals, None, |_, _| {})
    }

    /// As [`run_until`](Self::run_until), and calls the program between the signals: at every [`Moment::Tick`], some
    /// `interval` apart, and when the stop begins. The closure runs on this thread, apart from all workers; while it runs,
    /// signals wait. An interval below a millisecond is one.
    ///
    /// # Errors
    ///
    /// As [`run_until_signal`](Self::run_until_signal).
    pub fn run_until_ticking(
        self,
        signals: &StopSignals,
        interval: Duration,
        called: impl FnMut(&Self, Moment),
    ) -> Result<StopReport, StopError> {
        self.run(signals, Some(interval), called)
    }

    fn run(
        mut self,
        signals: &StopSignals,
        interval: Option<Duration>,
        mut called: impl FnMut(&Self, Moment),
    ) -> Result<StopReport, StopError> {
        let ended = Arc::clone(&self.ended);
        let _short = ShortSlice::take();
        let after = || interval.and_then(|interval| Instant::now().checked_add(interval));
        let (mut stopping, mut tick) = (None, after());
        loop {
            match wait(Some(signals), ended.as_fd(), tick).map_err(StopError::Signals)? {
                Waited::Other => return self.wait(),
                Waited::Timeout => {
                    called(&self, Moment::Tick);
                    tick = after();
                }
                Waited::Signal if stopping.is_some_and(|first| is_same_stop(first, Instant::now())) => {}
                // Asked twice: whoever asks has a reason. Everything accepted is in the files for the next start.
                Waited::Signal if stopping.is_some() => std::process::exit(130),
                Waited::Signal => {
                    stopping = Some(Instant::now());
                    self.stop();
                    called(&self, Moment::Stopping);
                }
            }
        }
    }
}

/// Signals this close together ask for one stop: `timeout` sends its signal to the process and to its group, and a
/// terminal's Ctrl-C may come beside a supervisor's.
const ONE_STOP: Duration = Duration::from_millis(200);

fn is_same_stop(first: Instant, now: Instant) -> bool {
    now.saturating_duration_since(first) < ONE_STOP
}

impl Drop for SidecarHandle {
    fn drop(&mut self) {
        if self.keeper.is_some() && self.generation == fork_generation() && last_step() {
            self.stop();
            let _ = self.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{HeapWords, WordsMut};

    #[test]
    fn what_was_done_is_not_taken_back_while_failures_are_counted() {
        let geometry = Geometry { capacity: 4, request_bytes: 0, response_bytes: 0, lanes: 1, handlers: 1, workers: 1 };
        let words = HeapWords::new(geometry.status_bytes() / 8);
        let (layout, meter) = (geometry.meter_layout(), geometry.meter());
        let (done, failed) = (usize::from(Status::Done.code()), usize::from(Status::Expired.code()));
        words.store(meter + layout.handler(0, 0) + done, 5);
        // A reader that saw the tasks of the worker before these failures, and the lane after them.
        words.store(meter + layout.worker(0) + WorkerWord::Tasks as usize, 5);
        words.store(meter + layout.lane(0) + failed, 3);
        let stats = read_stats(&words, &geometry);
        assert_eq!((stats.by_status[done], stats.by_status[failed], stats.tasks), (5, 3, 8));
    }

    #[test]
    fn signals_close_together_ask_for_one_stop() {
        let first = Instant::now();
        assert!(is_same_stop(first, first) && is_same_stop(first, first + Duration::from_millis(199)));
        assert!(!is_same_stop(first, first + ONE_STOP));
    }
}
