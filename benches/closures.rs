//! One closure to another thread and its end back, timed, whoever runs it.
//!
//! The closure is empty and captures nothing, so boxing it allocates nothing: what is timed is the way there and back.

use std::error::Error;
use std::hint::black_box;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Release},
};
use std::time::Duration;

use executor_core::cpu::pin_current_thread;
use executord::floor::{Pinned, Spell, TripTimes, WARM_UP, sample_trips, time_after_gaps, time_trips};
use nix::sys::resource::{UsageWho, getrusage};

/// Trips of each sleeper before any is told.
const LESSONS: u64 = 64;

/// Somebody with one worker thread.
pub(crate) trait Runner {
    /// Has the worker run a closure and returns once it has.
    fn run(&mut self, closure: impl FnOnce() + Send + 'static) -> Result<(), Box<dyn Error>>;
}

/// The same with closures that capture 32 bytes more.
pub(crate) struct Capturing<R>(pub(crate) R);

impl<R: Runner> Runner for Capturing<R> {
    #[inline(always)]
    fn run(&mut self, closure: impl FnOnce() + Send + 'static) -> Result<(), Box<dyn Error>> {
        let captured = black_box([1u64; 4]);
        self.0.run(move || {
            black_box(captured);
            closure();
        })
    }
}

/// What the trips of one round showed, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trips {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Elapsed time by trips, of trips that follow each other without a clock read; NaN of others.
    pub(crate) mean: f64,
    /// What the samples leave out of the elapsed time; NaN where nothing can be said.
    pub(crate) unsampled: f64,
    /// Whether that is no more than reading the clock costs.
    pub(crate) agrees: Option<bool>,
    /// How often the worker went to sleep, by trips.
    pub(crate) worker_sleeps: f64,
    /// How often the submitter did.
    pub(crate) submitter_sleeps: f64,
}

impl Trips {
    /// Of trips that follow each other: a mean without a clock in the loop, and fenced samples.
    pub(crate) fn dense(mean: f64, times: &TripTimes) -> Self {
        Self {
            p50: times.p50_ns,
            p99: times.p99_ns,
            p999: times.p999_ns,
            mean,
            unsampled: times.unsampled_ns(),
            agrees: Some(times.agrees()),
            worker_sleeps: 0.0,
            submitter_sleeps: 0.0,
        }
    }

    /// Of trips with gaps between them. There is no elapsed time to compare with: it would be that of the gaps.
    fn sparse(mut times: Vec<u64>, worker_sleeps: u64, submitter_sleeps: u64) -> Self {
        let by_trips = |sleeps: u64| sleeps as f64 / times.len() as f64;
        let (worker_sleeps, submitter_sleeps) = (by_trips(worker_sleeps), by_trips(submitter_sleeps));
        times.sort_unstable();
        Self {
            p50: quantile(&times, 0.5),
            p99: quantile(&times, 0.99),
            p999: quantile(&times, 0.999),
            mean: f64::NAN,
            unsampled: f64::NAN,
            agrees: None,
            worker_sleeps,
            submitter_sleeps,
        }
    }
}

/// The value below which a share `q` of sorted values lies.
pub(crate) fn quantile(sorted: &[u64], q: f64) -> f64 {
    let place = (q * sorted.len() as f64) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |&value| value as f64)
}

/// Trips that follow each other at once: `trips` without a clock read, and as many samples. The submitter is on the first
/// CPU, the worker on the second.
pub(crate) fn dense(runner: &mut impl Runner, cpus: (u32, u32), trips: u64) -> Result<Trips, Box<dyn Error>> {
    pin_worker(runner, cpus.1)?;
    let _pinned = Pinned::to(cpus.0)?;
    time_trips(WARM_UP.min(trips), |_| runner.run(|| ()))?;
    let before = (worker_sleeps(runner)?, own_sleeps());
    let mean = time_trips(trips, |_| runner.run(|| ()))?;
    let times = sample_trips(trips, |_| runner.run(|| ()))?;
    let after = (worker_sleeps(runner)?, own_sleeps());
    let by_trips = |before: u64, after: u64| after.saturating_sub(before) as f64 / (2 * trips) as f64;
    Ok(Trips {
        worker_sleeps: by_trips(before.0, after.0),
        submitter_sleeps: by_trips(before.1, after.1),
        ..Trips::dense(mean, &times)
    })
}

/// A runner whose worker sleeps between trips, so that several may be measured in turn.
pub(crate) trait Sleeper {
    /// Makes the worker ready on its CPU.
    fn settle(&mut self, cpu: u32) -> Result<(), Box<dyn Error>>;
    /// There and back.
    fn trip(&mut self) -> Result<(), Box<dyn Error>>;
    /// How often the worker has gone to sleep so far.
    fn sleeps(&mut self) -> Result<u64, Box<dyn Error>>;
}

impl<R: Runner> Sleeper for R {
    fn settle(&mut self, cpu: u32) -> Result<(), Box<dyn Error>> {
        pin_worker(self, cpu)
    }

    fn trip(&mut self) -> Result<(), Box<dyn Error>> {
        self.run(|| ())
    }

    fn sleeps(&mut self) -> Result<u64, Box<dyn Error>> {
        worker_sleeps(self)
    }
}

/// Trips of which each comes after a gap, `trips` of each sleeper, one of each in turn, so that all meet the same machine. The
/// submitter is busy in the gap; a worker has all the gaps until its next turn to fall asleep.
pub(crate) fn sparse(
    sleepers: &mut [&mut dyn Sleeper],
    cpus: (u32, u32),
    trips: u64,
    gap: Duration,
) -> Result<Vec<Trips>, Box<dyn Error>> {
    for sleeper in &mut *sleepers {
        sleeper.settle(cpus.1)?;
    }
    let _pinned = Pinned::to(cpus.0)?;
    let mut before = Vec::new();
    for sleeper in &mut *sleepers {
        time_trips(LESSONS, |_| sleeper.trip())?;
        before.push(sleeper.sleeps()?);
    }
    let mut times = vec![Vec::with_capacity(trips as usize); sleepers.len()];
    let mut submitter = vec![0; sleepers.len()];
    for number in 0..trips as usize {
        for turn in 0..sleepers.len() {
            let at = if number.is_multiple_of(2) { turn } else { sleepers.len() - 1 - turn };
            let slept = own_sleeps();
            let spell = Spell { gap, warm_up: 0, trips: 1 };
            times[at].extend(time_after_gaps(&spell, |_| sleepers[at].trip())?);
            submitter[at] += own_sleeps() - slept;
        }
    }
    let mut shown = Vec::new();
    for (at, (sleeper, times)) in sleepers.iter_mut().zip(times).enumerate() {
        shown.push(Trips::sparse(times, sleeper.sleeps()?.saturating_sub(before[at]), submitter[at]));
    }
    Ok(shown)
}

/// Keeps the worker on one CPU. It does so itself: it is the only thread of its runner, so this closure meets it.
fn pin_worker(runner: &mut impl Runner, cpu: u32) -> Result<(), Box<dyn Error>> {
    static PINNED: AtomicBool = AtomicBool::new(false);
    PINNED.store(false, Release);
    runner.run(move || PINNED.store(pin_current_thread(cpu).is_ok(), Release))?;
    if PINNED.load(Acquire) { Ok(()) } else { Err(format!("the worker cannot be kept on CPU {cpu}").into()) }
}

/// How often the worker has gone to sleep so far.
fn worker_sleeps(runner: &mut impl Runner) -> Result<u64, Box<dyn Error>> {
    static SLEEPS: AtomicU64 = AtomicU64::new(0);
    runner.run(|| SLEEPS.store(own_sleeps(), Release))?;
    Ok(SLEEPS.load(Acquire))
}

fn own_sleeps() -> u64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.voluntary_context_switches() as u64)
}
