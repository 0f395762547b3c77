//! Closures a second through one worker, submitted without a wait for any.

use std::error::Error;
use std::sync::Barrier;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread::{scope, yield_now};
use std::time::{Duration, Instant};

use executor_core::idle::{Idle, IdleStrategy};
use executord::floor::{CAPACITY, Pinned};

/// Submitters that share a worker.
pub(crate) const SUBMITTERS: [usize; 3] = [1, 2, 4];
/// A closure as others keep it.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Closures of one measurement before its clock starts, by submitter.
const WARM_UP: u64 = 16 * CAPACITY;
/// Longest that accepted closures may take to run, once nobody submits any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often [`count`] has run.
static RAN: AtomicU64 = AtomicU64::new(0);

/// What is submitted. It counts without an atomic addition: the one worker of the moment is the only writer.
pub(crate) fn count() {
    RAN.store(RAN.load(Relaxed) + 1, Release);
}

/// The same as others keep it; boxing it allocates nothing.
pub(crate) fn boxed_count() -> Job {
    Box::new(count)
}

/// Closures a second: each of `handles` is one thread's way to the one worker, all those threads are on `cpu`, and
/// `submit` returns once [`count`] is accepted. `tasks` are timed, in all, from the first submit until the last has run.
/// Returns the rate, and how many ran with those that warm up.
///
/// # Errors
///
/// That of a submit; or not exactly as many ran as were accepted.
pub(crate) fn rate<S: Send>(
    cpu: u32,
    tasks: u64,
    handles: Vec<S>,
    submit: impl Fn(&mut S) -> Result<(), String> + Sync,
) -> Result<(f64, u64), Box<dyn Error>> {
    let submitters = handles.len() as u64;
    let (warm_up, share) = (WARM_UP * submitters, tasks / submitters);
    let (warm, start) = (Barrier::new(handles.len() + 1), Barrier::new(handles.len() + 1));
    RAN.store(0, Release);
    let _pinned = Pinned::to(cpu)?; // the worker is left alone by this thread too
    let begun = scope(|scope| -> Result<Instant, String> {
        let threads: Vec<_> = handles
            .into_iter()
            .map(|mut handle| {
                let (submit, warm, start) = (&submit, &warm, &start);
                scope.spawn(move || {
                    let warmed = (0..WARM_UP).try_for_each(|_| submit(&mut handle));
                    warm.wait();
                    start.wait();
                    let begun = Instant::now();
                    warmed?;
                    (0..share).try_for_each(|_| submit(&mut handle))?;
                    Ok(begun)
                })
            })
            .collect();
        warm.wait();
        let warmed = await_count(warm_up);
        start.wait();
        let begun: Result<Vec<Instant>, String> =
            threads.into_iter().map(|thread| thread.join().map_err(|_| "a submitter panicked")?).collect();
        warmed?;
        begun?.into_iter().min().ok_or_else(|| "nobody submitted".to_owned())
    })?;
    let ran = warm_up + share * submitters;
    await_count(ran)?;
    Ok(((share * submitters) as f64 / begun.elapsed().as_secs_f64(), ran))
}

/// Waits until so many have run, and says if there were more, or fewer after a long time.
fn await_count(accepted: u64) -> Result<(), String> {
    let begun = Instant::now();
    while RAN.load(Acquire) < accepted && begun.elapsed() < PATIENCE {
        yield_now();
    }
    match RAN.load(Acquire) {
        ran if ran == accepted => Ok(()),
        ran => Err(format!("{accepted} closures were accepted and {ran} ran")),
    }
}

/// Why something was not accepted.
pub(crate) enum Refused<T> {
    /// There is no room; it comes back.
    Full(T),
    /// There will never be.
    Ended(String),
}

/// Submits until it is accepted. A submitter that finds no room spins and then yields: on a CPU that several share, there is
/// room while another runs.
#[inline(always)]
pub(crate) fn insist<T>(task: T, mut try_submit: impl FnMut(T) -> Result<(), Refused<T>>) -> Result<(), String> {
    let mut refused = match try_submit(task) {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    let mut idle = Idle::new(IdleStrategy::SpinThenYield);
    loop {
        let task = match refused {
            Refused::Full(task) => task,
            Refused::Ended(why) => return Err(why),
        };
        let _ = idle.miss(); // it never sleeps
        match try_submit(task) {
            Ok(()) => return Ok(()),
            Err(again) => refused = again,
        }
    }
}
