//! What the kernel did to a worker's thread: whether it took the CPU away, for how long, and page faults.
//!
//! Whether costs a load and a comparison: the [`Sentinel`]. How long is asked of the kernel only then, a microsecond, which
//! is little beside what was lost: the second number of `/proc/<pid>/task/<tid>/schedstat` is how long the thread was
//! ready to run and did not, in nanoseconds (`Documentation/scheduler/sched-stats.rst`). Page faults are counted by
//! `getrusage`, some 200 ns, before tasks of handlers that are worth it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::resource::{UsageWho, getrusage};

use crate::clock::Clock;
use crate::preempt::Sentinel;

/// Page faults of a thread so far: minor, major.
pub(crate) type Faults = (u64, u64);

/// Of one worker, on its own thread.
#[derive(Debug)]
pub(crate) struct Watch {
    sentinel: Sentinel,
    schedstat: Option<File>,
    /// Nanoseconds that the thread waited for a CPU when it was last asked.
    waited: u64,
    /// It slept since then, so some of what comes is a part of its waking.
    is_stale: bool,
    /// For so long, in nanoseconds: the waking took no more.
    asleep: u64,
    /// Faults when they were last asked for.
    pub(crate) faults: Faults,
    /// What a minor fault takes, in ticks.
    pub(crate) fault_ticks: u64,
}

impl Watch {
    /// Begins on the calling thread.
    pub(crate) fn begin(clock: &Clock) -> Self {
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        let mut this = Self {
            sentinel: Sentinel::of_this_thread(),
            schedstat,
            waited: 0,
            is_stale: false,
            asleep: 0,
            faults: (0, 0),
            fault_ticks: fault_ticks(clock),
        };
        this.faults = faults();
        this.sentinel.arm();
        this.waited = this.run_delay().unwrap_or(0);
        this
    }

    /// Of no thread: it never sees anything.
    pub(crate) fn blind() -> Self {
        let sentinel = Sentinel::default();
        Self { sentinel, schedstat: None, waited: 0, is_stale: false, asleep: 0, faults: (0, 0), fault_ticks: 0 }
    }

    /// Whether preemption is seen at all.
    pub(crate) fn sees_preemption(&self) -> bool {
        self.sentinel.is_there()
    }

    /// Whether it is told exactly for how long.
    pub(crate) fn knows_time(&self) -> bool {
        self.schedstat.is_some() && !self.is_stale
    }

    /// Whether the kernel has interfered since this was last looked into.
    #[inline(always)]
    pub(crate) fn is_disturbed(&self) -> bool {
        !self.sentinel.is_untouched()
    }

    /// How long the thread was ready to run and had no CPU since this was last asked, in nanoseconds, at least: what its waking
    /// may have been is left out. 0 if the kernel interfered in another way (a signal, a stop) or does not tell. `None` if it
    /// was a restartable sequence of somebody else.
    #[cold]
    pub(crate) fn look(&mut self) -> Option<u64> {
        let is_foreign = self.sentinel.is_replaced();
        let waited = if is_foreign { None } else { self.run_delay() };
        // Not before the question, which may cost the CPU itself: under a tracer it does, and each would ask for the next.
        self.sentinel.arm();
        let Some(waited) = waited else { return (!is_foreign).then_some(0) };
        let before = std::mem::replace(&mut self.waited, waited);
        let asleep = std::mem::take(&mut self.asleep);
        Some(waited.saturating_sub(before).saturating_sub(asleep))
    }

    /// It slept for so many nanoseconds.
    pub(crate) fn slept(&mut self, ns: u64) {
        self.sentinel.arm();
        self.is_stale = true;
        self.asleep = self.asleep.saturating_add(ns);
    }

    /// There is nothing to do: a good moment to ask.
    #[inline(always)]
    pub(crate) fn rest(&mut self) {
        if self.is_stale {
            self.catch_up();
        }
    }

    #[cold]
    fn catch_up(&mut self) {
        (self.is_stale, self.asleep) = (false, 0);
        if let Some(waited) = self.run_delay() {
            self.waited = waited;
        }
    }

    fn run_delay(&self) -> Option<u64> {
        let mut text = [0; 64];
        let length = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..length)?).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse().ok()
    }
}

/// Page faults of the calling thread so far.
#[cold]
pub(crate) fn faults() -> Faults {
    let count = |faults: i64| u64::try_from(faults).unwrap_or(0);
    match getrusage(UsageWho::RUSAGE_THREAD) {
        Ok(usage) => (count(usage.minor_page_faults()), count(usage.major_page_faults())),
        Err(_) => (0, 0),
    }
}

/// Pages to learn from what a fault takes.
const PAGES: usize = 16;
/// What it is taken for where none can be had, as with locked memory.
const FAULT_NS: u64 = 500;

/// What a minor fault takes here, in ticks.
fn fault_ticks(clock: &Clock) -> u64 {
    const PAGE: usize = 4096;
    let before = faults().0;
    // Larger than what an allocator keeps at hand, so it is fresh from the kernel; smaller than a huge page.
    let mut fresh = vec![0u8; 256 * PAGE];
    let begun = clock.now();
    fresh.iter_mut().step_by(PAGE).take(PAGES).for_each(|byte| *byte = std::hint::black_box(1));
    let ticks = clock.now().saturating_sub(begun);
    match faults().0.saturating_sub(before) {
        count if count >= PAGES as u64 => ticks / PAGES as u64,
        _ => clock.ns_to_ticks(FAULT_NS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_its_waking_is_no_preemption() {
        let mut watch = Watch::begin(&Clock::detect());
        let Some(waited) = watch.run_delay().filter(|&waited| waited > 0) else {
            println!("skipped: /proc tells nothing of this thread");
            return;
        };
        watch.waited = 0;
        assert!(watch.look() >= Some(waited), "it did not sleep");
        watch.waited = 0;
        watch.slept(u64::MAX);
        assert_eq!(watch.look(), Some(0));
        watch.waited = 0;
        assert!(watch.look() >= Some(waited), "after that look it is known again");
    }
}
