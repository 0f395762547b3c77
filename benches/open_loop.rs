//! Closures submitted by the clock, a million a second, whatever becomes of those before: how late each ran.
//!
//! A closure counts from the moment at which it was due, so one that had to wait to be submitted is as late as it is: a
//! pause of the submitter, of the worker or of the machine delays all that fell due in it, and all of them are counted.
//! The floor is the machine's own pauses, counted alike: both CPUs do nothing but look at the clock, and a moment that was
//! due is as late as the later of the two saw it. No closure could have run sooner, for both CPUs have a part in it.

use std::error::Error;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Barrier, OnceLock};
use std::thread::{scope, yield_now};
use std::time::{Duration, Instant};

use executor_core::Clock;
use executord::floor::{FloorError, Pinned};

use crate::closures::quantile;
use crate::rates::{Refused, insist};

/// Closures a second.
pub(crate) const PER_SECOND: u64 = 1_000_000;
/// From the decision to begin to the first moment that is due.
const LEAD_NS: u64 = 1_000_000;
/// Longest that accepted closures may take to run, once nobody submits any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// In place of a lateness: it has not run.
const NEVER: u64 = u64::MAX;

/// How late the moments of one round were served, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lateness {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) most: f64,
}

impl Lateness {
    /// Of all but the first tenth, in which both sides warm up.
    fn of(clock: &Clock, mut ticks: Vec<u64>) -> Self {
        ticks.drain(..ticks.len() / 10);
        ticks.sort_unstable();
        let ns = |q| clock.ticks_to_ns(quantile(&ticks, q) as u64) as f64;
        Self { p50: ns(0.5), p99: ns(0.99), p999: ns(0.999), most: ns(1.0) }
    }
}

/// When each closure is due.
#[derive(Clone, Copy, Debug)]
struct Timetable {
    begin: u64,
    ticks_per_second: u64,
}

impl Timetable {
    fn new(clock: &Clock) -> Self {
        Self { begin: clock.now() + clock.ns_to_ticks(LEAD_NS), ticks_per_second: clock.ns_to_ticks(1_000_000_000) }
    }

    #[inline(always)]
    fn due(&self, number: u64) -> u64 {
        self.begin + number * self.ticks_per_second / PER_SECOND
    }
}

/// Looks at the clock until it is `due`, and once at least; returns how late it was then.
#[inline(always)]
fn await_moment(clock: &Clock, due: u64) -> u64 {
    loop {
        if let Some(late) = clock.now().checked_sub(due) {
            return late;
        }
    }
}

/// How late two CPUs that do nothing else see as many moments as there are `notes`, each as the later of the two.
pub(crate) fn hiccups(notes: &Notes, cpus: (u32, u32)) -> Result<Lateness, Box<dyn Error>> {
    let (ready, timetable, clock) = (Barrier::new(2), OnceLock::new(), &notes.clock);
    let watch = |cpu: u32| -> Result<Vec<u64>, FloorError> {
        let pinned = Pinned::to(cpu);
        let mut late = vec![NEVER; notes.late.len()]; // touched before it is needed
        ready.wait();
        let timetable: &Timetable = timetable.get_or_init(|| Timetable::new(clock));
        pinned?;
        for (number, late) in late.iter_mut().enumerate() {
            *late = await_moment(clock, timetable.due(number as u64));
        }
        Ok(late)
    };
    scope(|scope| {
        let watch = &watch;
        let [first, second] = [cpus.0, cpus.1].map(|cpu| scope.spawn(move || watch(cpu)));
        let [first, second] = [first, second].map(|thread| thread.join().map_err(|_| "a watch panicked"));
        let later = first??.into_iter().zip(second??).map(|(first, second)| first.max(second)).collect();
        Ok(Lateness::of(clock, later))
    })
}

/// What the worker writes down of each closure.
#[derive(Debug)]
pub(crate) struct Notes {
    clock: Clock,
    late: Vec<AtomicU64>,
}

/// One closure that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    notes: &'static Notes,
    number: u64,
    at: u64,
}

impl Due {
    /// What the closure does: it notes how late it ran.
    #[inline(always)]
    pub(crate) fn run(self) {
        let late = self.notes.clock.now().saturating_sub(self.at);
        if let Some(note) = self.notes.late.get(self.number as usize) {
            note.store(late, Release);
        }
    }
}

impl Notes {
    /// For so many closures. They lie where the worker can write for as long as the process lives.
    pub(crate) fn leaked(clock: Clock, closures: u64) -> &'static Self {
        let late = (0..closures).map(|_| AtomicU64::new(NEVER)).collect();
        Box::leak(Box::new(Self { clock, late }))
    }

    /// How many closures there is room for.
    pub(crate) fn len(&self) -> usize {
        self.late.len()
    }

    /// Waits until every closure has run.
    fn await_all(&self) -> Result<Vec<u64>, String> {
        let begun = Instant::now();
        let read = |late: &AtomicU64| late.load(Acquire);
        while self.late.iter().any(|late| read(late) == NEVER) {
            if begun.elapsed() > PATIENCE {
                let missing = self.late.iter().filter(|late| read(late) == NEVER).count();
                return Err(format!("{missing} of {} closures were accepted and did not run", self.late.len()));
            }
            yield_now();
        }
        Ok(self.late.iter().map(read).collect())
    }
}

/// Has a closure for every one of `notes` submitted from `cpu` when it is due: `task` makes what is submitted of it.
/// Returns how late they ran, and how many found no room at first.
///
/// # Errors
///
/// That of a submit; or a closure was accepted and did not run.
pub(crate) fn paced<T>(
    notes: &'static Notes,
    cpu: u32,
    task: impl Fn(Due) -> T,
    mut try_submit: impl FnMut(T) -> Result<(), Refused<T>>,
) -> Result<(Lateness, u64), Box<dyn Error>> {
    notes.late.iter().for_each(|late| late.store(NEVER, Relaxed));
    let _pinned = Pinned::to(cpu)?;
    let timetable = Timetable::new(&notes.clock);
    let mut refused = 0;
    for number in 0..notes.late.len() as u64 {
        let at = timetable.due(number);
        await_moment(&notes.clock, at);
        let mut is_refused = false;
        insist(task(Due { notes, number, at }), |task| try_submit(task).inspect_err(|_| is_refused = true))?;
        refused += u64::from(is_refused);
    }
    Ok((Lateness::of(&notes.clock, notes.await_all()?), refused))
}
