//! Whether tasks were as fast as they were meant to be: a percentile over the last second or so.
//!
//! Each worker counts its own tasks in slices of time, of which a reader adds up those that are young enough. To meet a
//! target is a matter of two counts, so it is exact; only the figure of the percentile has a histogram's 3 %.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::histogram::{BUCKETS, HistogramSnapshot, bucket_of};
use crate::task::TaskId;

/// Slices a window is cut into.
const SLICES: u64 = 8;

/// Which time of a task is held against [`target_latency_ns`](super::ExecutorConfig::target_latency_ns).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LatencyKind {
    /// From its begin to its end.
    #[default]
    Execution,
    /// From its submit to its end.
    Total,
}

/// What it takes to meet the latency target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatencyGoal {
    /// Tasks that must be within the target, of 1: 0.99 is the 99th percentile.
    pub percentile: f64,
    /// Which of a task's times counts.
    pub kind: LatencyKind,
    /// How far back tasks count. Seven eighths of it always do.
    pub window: Duration,
}

impl Default for LatencyGoal {
    fn default() -> Self {
        Self { percentile: 0.99, kind: LatencyKind::Execution, window: Duration::from_secs(1) }
    }
}

/// One worker's tasks of late.
#[derive(Debug)]
pub(crate) struct Recent {
    target: u64,
    slice_ticks: u64,
    /// When the youngest slice ends, in ticks.
    ends_at: AtomicU64,
    youngest: AtomicU64,
    slices: Box<[Slice]>,
}

#[derive(Debug)]
struct Slice {
    /// In ticks; 0 while it holds nothing, or is made empty.
    began_at: AtomicU64,
    tasks: AtomicU64,
    over: AtomicU64,
    buckets: Box<[AtomicU64]>,
    /// Tasks over the target, by [`Reason`].
    causes: [AtomicU64; Reason::COUNT],
    /// The latency of `worst`.
    worst_ticks: AtomicU64,
    worst: Mutex<Option<(u64, Slow)>>,
}

/// Why a task was over the target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowCause {
    /// It ran for that long, on its CPU all the time as far as the kernel tells.
    Running,
    /// The kernel took its CPU away while it ran: for another thread, or for a wait in the task itself.
    Preempted,
    /// Its worker slept and had to be woken.
    Asleep,
    /// Its worker ran others; the longest of them is named.
    QueuedBehind {
        /// The longest task that ran while this one waited.
        name: String,
    },
    /// No worker looked, though the one that ran it neither slept nor worked for most of the wait: it had no CPU.
    NotLookedAt,
}

/// The same without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Running,
    Preempted,
    Asleep,
    QueuedBehind,
    NotLookedAt,
}

impl Reason {
    const COUNT: usize = 5;
    const NAMES: [&'static str; Self::COUNT] = ["running", "preempted", "asleep", "queued behind", "not looked at"];
}

impl SlowCause {
    fn reason(&self) -> Reason {
        match self {
            Self::Running => Reason::Running,
            Self::Preempted => Reason::Preempted,
            Self::Asleep => Reason::Asleep,
            Self::QueuedBehind { .. } => Reason::QueuedBehind,
            Self::NotLookedAt => Reason::NotLookedAt,
        }
    }
}

impl std::fmt::Display for SlowCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Reason::NAMES.get(self.reason() as usize).copied().unwrap_or_default())?;
        if let Self::QueuedBehind { name } = self { write!(f, " {name}") } else { Ok(()) }
    }
}

/// A task that was over the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slow {
    pub(crate) task_id: TaskId,
    pub(crate) name: String,
    pub(crate) cause: SlowCause,
}

/// Tasks within a window.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) tasks: u64,
    pub(crate) over: u64,
    pub(crate) histogram: HistogramSnapshot,
    causes: [u64; Reason::COUNT],
    worst: Option<(u64, Slow)>,
}

impl Recent {
    /// For a target and a window in ticks.
    pub(crate) fn new(target: u64, window: u64) -> Self {
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
        let slice = |_| Slice {
            began_at: AtomicU64::new(0),
            tasks: AtomicU64::new(0),
            over: AtomicU64::new(0),
            buckets: words(BUCKETS),
            causes: Default::default(),
            worst_ticks: AtomicU64::new(0),
            worst: Mutex::new(None),
        };
        Self {
            target,
            slice_ticks: (window / SLICES).max(1),
            ends_at: AtomicU64::new(0),
            youngest: AtomicU64::new(0),
            slices: (0..=SLICES).map(slice).collect(),
        }
    }

    /// Counts a task that took `ticks`, asks why if that was too long, and which one it was if none was as bad. The worker
    /// alone calls this.
    #[inline]
    pub(crate) fn count(
        &self,
        completed_at: u64,
        ticks: u64,
        why: impl FnOnce() -> Reason,
        which: impl FnOnce(Reason) -> Slow,
    ) {
        if completed_at >= self.ends_at.load(Relaxed) {
            self.advance(completed_at);
        }
        let Some(slice) = self.slices.get(self.youngest.load(Relaxed) as usize) else { return };
        let add = |word: &AtomicU64| word.store(word.load(Relaxed) + 1, Relaxed);
        add(&slice.tasks);
        if ticks > self.target {
            add(&slice.over);
            slice.blame(ticks, why(), which);
        }
        if let Some(bucket) = slice.buckets.get(bucket_of(ticks)) {
            add(bucket);
        }
    }

    #[cold]
    fn advance(&self, now: u64) {
        let next = (self.youngest.load(Relaxed) + 1) % self.slices.len() as u64;
        if let Some(slice) = self.slices.get(next as usize) {
            slice.began_at.store(0, Release);
            // fence: the words below are stored after it, so whoever loads one of those zeros finds the 0 above as well.
            std::sync::atomic::fence(Release);
            let words =
                [&slice.tasks, &slice.over, &slice.worst_ticks].into_iter().chain(&slice.buckets).chain(&slice.causes);
            words.for_each(|word| word.store(0, Relaxed));
            *slice.worst.lock().unwrap_or_else(PoisonError::into_inner) = None;
            slice.began_at.store(now, Release);
        }
        self.youngest.store(next, Relaxed);
        self.ends_at.store(now + self.slice_ticks, Relaxed);
    }

    /// Tasks of the window that ends now, and those of them over the target.
    fn counts(&self, now: u64) -> [u64; 2] {
        let oldest = now.saturating_sub(self.slice_ticks * SLICES);
        let young = self.slices.iter().filter_map(|slice| {
            let began_at =
                Some(slice.began_at.load(Acquire)).filter(|&began_at| began_at != 0 && began_at >= oldest)?;
            let over = slice.over.load(Relaxed); // before all of them, so that it is no greater
            let tasks = slice.tasks.load(Relaxed);
            // fence: the words above are loaded before the look whether they still are the slice's.
            std::sync::atomic::fence(Acquire);
            (slice.began_at.load(Relaxed) == began_at).then_some([tasks, over.min(tasks)])
        });
        young.fold([0; 2], |[tasks, over], [more, more_over]| [tasks + more, over + more_over])
    }

    /// Tasks of the window that ends now.
    pub(crate) fn window(&self, now: u64) -> Window {
        let oldest = now.saturating_sub(self.slice_ticks * SLICES);
        let mut window = Window::empty();
        for slice in &self.slices {
            let began_at = slice.began_at.load(Acquire);
            if began_at == 0 || began_at < oldest {
                continue;
            }
            let over = slice.over.load(Relaxed); // before all of them, so that it is no greater
            let histogram = HistogramSnapshot::from_buckets(slice.buckets.iter().map(|word| word.load(Relaxed)));
            let causes = slice.causes.each_ref().map(|word| word.load(Relaxed));
            let worst = slice.worst.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let tasks = slice.tasks.load(Relaxed);
            // fence: the words above are loaded before the look whether they still are the slice's.
            std::sync::atomic::fence(Acquire);
            if slice.began_at.load(Relaxed) == began_at {
                window = window.merge(&Window { tasks, over: over.min(tasks), histogram, causes, worst });
            }
        }
        window
    }
}

impl Slice {
    #[cold]
    fn blame(&self, ticks: u64, reason: Reason, which: impl FnOnce(Reason) -> Slow) {
        if let Some(word) = self.causes.get(reason as usize) {
            word.store(word.load(Relaxed) + 1, Relaxed);
        }
        if ticks > self.worst_ticks.load(Relaxed) {
            self.worst_ticks.store(ticks, Relaxed);
            *self.worst.lock().unwrap_or_else(PoisonError::into_inner) = Some((ticks, which(reason)));
        }
    }
}

impl Window {
    fn empty() -> Self {
        let histogram = HistogramSnapshot::from_buckets(std::iter::empty());
        Self { tasks: 0, over: 0, histogram, causes: [0; Reason::COUNT], worst: None }
    }

    fn merge(mut self, other: &Self) -> Self {
        self.tasks += other.tasks;
        self.over += other.over;
        self.histogram.merge(&other.histogram);
        self.causes.iter_mut().zip(other.causes).for_each(|(sum, count)| *sum += count);
        let longest = |window: &Self| window.worst.as_ref().map(|(ticks, _)| *ticks);
        if longest(other) > longest(&self) {
            self.worst = other.worst.clone();
        }
        self
    }
}

/// Whether the latency target is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetState {
    /// Enough tasks of the window were within the target.
    Met,
    /// Too many were not.
    Missed,
    /// No task has finished within the window.
    NoTasks,
    /// Timing is off.
    Unknown,
}

/// The figure behind [`is_meeting_latency_target`](super::TaskExecutor::is_meeting_latency_target).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LatencyTargetReport {
    /// Whether it is met.
    pub state: TargetState,
    /// The latency that was to be kept.
    pub target_ns: u64,
    /// By so many of the tasks, of 1.
    pub percentile: f64,
    /// Which of a task's times counts.
    pub kind: LatencyKind,
    /// How far back tasks count.
    pub window: Duration,
    /// The percentile's latency, within 3 %; 0 without tasks.
    pub latency_ns: u64,
    /// Tasks of the window.
    pub tasks: u64,
    /// Those of them above the target.
    pub over: u64,
    /// Why they were, each reason with its count of tasks, the most frequent first.
    pub reasons: Vec<(&'static str, u64)>,
    /// The worst of them.
    pub worst: Option<SlowTask>,
}

/// The slowest task of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowTask {
    /// The task.
    pub task_id: TaskId,
    /// Its name.
    pub name: String,
    /// Its latency.
    pub latency_ns: u64,
    /// What most of that was.
    pub cause: SlowCause,
}

impl std::fmt::Display for LatencyTargetReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { target_ns, percentile, latency_ns, tasks, over, .. } = self;
        let kind = match self.kind {
            LatencyKind::Execution => "execution",
            LatencyKind::Total => "total",
        };
        match self.state {
            TargetState::Unknown => return f.write_str("unknown: timing is off"),
            TargetState::NoTasks => return write!(f, "no task finished within {:?}", self.window),
            TargetState::Met => f.write_str("met: ")?,
            TargetState::Missed => f.write_str("missed: ")?,
        }
        let percent = percentile * 100.0;
        write!(f, "p{percent} of {kind} latency is {latency_ns} ns of {target_ns}, {over} of {tasks} tasks over it")?;
        if let Some(SlowTask { name, latency_ns, cause, .. }) = &self.worst {
            write!(f, "; the worst was {name} with {latency_ns} ns, {cause}")?;
        }
        Ok(())
    }
}

/// Whether at least `percentile` of `tasks` were within the target that `over` of them missed.
fn judge(percentile: f64, tasks: u64, over: u64) -> TargetState {
    match tasks {
        0 => TargetState::NoTasks,
        // Of a hundred tasks exactly one may miss a percentile of 0.99, which 1.0 - 0.99 is a little more than.
        _ if (over as f64) <= (1.0 - percentile) * tasks as f64 => TargetState::Met,
        _ => TargetState::Missed,
    }
}

impl super::engine::Engine {
    pub(crate) fn report(&self) -> LatencyTargetReport {
        let clock = self.time().clock();
        let LatencyGoal { percentile, kind, window } = self.terms.goal;
        let mut report = LatencyTargetReport {
            state: TargetState::Unknown,
            target_ns: self.terms.target_ns,
            percentile,
            kind,
            window,
            latency_ns: 0,
            tasks: 0,
            over: 0,
            reasons: Vec::new(),
            worst: None,
        };
        if !self.terms.timed {
            return report;
        }
        let now = clock.now();
        let all = self.accounts.iter().map(|account| account.recent.window(now));
        let found = all.fold(Window::empty(), |sum, window| sum.merge(&window));
        report.latency_ns = clock.ticks_to_ns(found.histogram.quantile(percentile).unwrap_or(0));
        (report.tasks, report.over) = (found.tasks, found.over);
        report.reasons = Reason::NAMES.into_iter().zip(found.causes).filter(|&(_, count)| count > 0).collect();
        report.reasons.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        report.worst = found.worst.clone().map(|(ticks, Slow { task_id, name, cause })| SlowTask {
            task_id,
            name,
            latency_ns: clock.ticks_to_ns(ticks),
            cause,
        });
        report.state = judge(percentile, found.tasks, found.over);
        report
    }

    /// The state of the report alone, for a hundredth of its price.
    pub(crate) fn target_state(&self) -> TargetState {
        if !self.terms.timed {
            return TargetState::Unknown;
        }
        let now = self.time().clock().now();
        let all = self.accounts.iter().map(|account| account.recent.counts(now));
        let [tasks, over] = all.fold([0; 2], |[tasks, over], [more, more_over]| [tasks + more, over + more_over]);
        judge(self.terms.goal.percentile, tasks, over)
    }
}
