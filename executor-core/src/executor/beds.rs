//! Where workers sleep, and who wakes how many of them.
//!
//! # Invariants
//! - S1: a worker that sleeps has its bit in `asleep` set; whoever clears the bit wakes it, nobody else does.
//! - S2: between setting its bit and sleeping a worker looks at every lane once more, and between pushing a task and looking
//!   for bits a submitter does nothing: with a full barrier between the two on both sides, either the worker sees the task or
//!   the submitter sees the bit.
//! - S3: a submitter wakes a worker if more tasks are accepted and not finished than workers are awake: each task that runs
//!   keeps one of them busy, and each other one that is awake looks at every lane before it sleeps. A worker that is with a
//!   waker or a value of somebody's after its task has finished counts as busy too: that code may take its time.
//!
//! The submitter's barrier is the kernel's where it lends one (`membarrier`): the worker that falls asleep has it put into
//! all threads of the process, some microseconds a sleep, and a submit has none to pay for.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use std::time::Duration;

use super::depth::{Apart, Depth};
use super::sync::{AtomicU32, AtomicU64, barrier, compiler_fence, fence, is_lent, nap, rouse};
use crate::worker::Woken;

/// Longest sleep: an idle worker looks around once a second, in case a wake-up was lost that none is.
const NAP: Duration = Duration::from_secs(1);

/// Beds of all workers of an executor.
#[derive(Debug)]
pub(crate) struct Beds {
    workers: usize,
    /// A bit for each worker that sleeps, 64 a word.
    asleep: Apart<Box<[AtomicU64]>>,
    /// What each sleeps on: 1 once it is woken.
    words: Box<[Apart<AtomicU32>]>,
    lent: bool,
    /// Workers that are up and with code of somebody else's after their task has counted as finished.
    away: Apart<AtomicU32>,
}

/// A worker that is away.
pub(crate) struct Away<'a>(&'a AtomicU32);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Release);
    }
}

impl Beds {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            asleep: Apart((0..workers.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()),
            words: (0..workers).map(|_| Apart(AtomicU32::new(0))).collect(),
            lent: is_lent(),
            away: Apart(AtomicU32::new(0)),
        }
    }

    /// The calling worker looks at no lane until this is dropped, whether its task counts as finished or not. Say so before it
    /// does: who sees it finished sees this.
    #[inline]
    pub(crate) fn leave(&self) -> Away<'_> {
        self.away.0.fetch_add(1, Release);
        Away(&self.away.0)
    }

    /// Workers asleep.
    pub(crate) fn asleep(&self) -> usize {
        self.asleep.0.iter().map(|word| word.load(Acquire).count_ones() as usize).sum()
    }

    /// Wakes as many workers as `pushed` tasks may need that were just pushed, first those that are near.
    #[inline]
    pub(crate) fn pushed(&self, pushed: u64, depth: &Depth, is_near: impl Fn(usize) -> bool) {
        if self.lent {
            // SeqCst: the compiler alone is held back; the processor is by the barrier in `sleep` (S2).
            compiler_fence(SeqCst);
        } else {
            // SeqCst: the push comes before the look at the bits, as in `sleep` the bit comes before the look at the lanes (S2).
            fence(SeqCst);
        }
        if self.asleep.0.iter().any(|word| word.load(Acquire) != 0) {
            self.wake_for(pushed, depth, is_near);
        }
    }

    #[cold]
    fn wake_for(&self, pushed: u64, depth: &Depth, is_near: impl Fn(usize) -> bool) {
        for _ in 0..pushed.min(self.workers as u64) {
            let awake = self.workers - self.asleep(); // before the depth, which then counts what those run (S3)
            let waiting = depth.waiting(); // before who is away: of a task that it no longer counts, the worker is seen there
            let busy = waiting + u64::from(self.away.0.load(Acquire));
            if busy <= awake as u64 || !(self.wake_one(&is_near) || self.wake_one(|_| true)) {
                return;
            }
        }
    }

    /// Wakes one worker of those; `false` if none sleeps.
    fn wake_one(&self, of: impl Fn(usize) -> bool) -> bool {
        self.asleep.0.iter().enumerate().any(|(group, word)| {
            let bits = word.load(Acquire);
            let sleepers = (0..64).filter(|bit| bits & 1 << bit != 0).map(|bit| group * 64 + bit);
            sleepers.filter(|&worker| of(worker)).any(|worker| self.wake(worker))
        })
    }

    /// Wakes worker `worker` if it sleeps; says whether this call did.
    pub(crate) fn wake(&self, worker: usize) -> bool {
        let (Some(group), Some(word)) = (self.asleep.0.get(worker / 64), self.words.get(worker)) else { return false };
        let bit = 1 << (worker % 64);
        if group.fetch_and(!bit, AcqRel) & bit == 0 {
            return false; // S1
        }
        word.0.store(1, Release);
        rouse(&word.0);
        true
    }

    /// Puts worker `worker` to sleep unless `is_due` says, after its bit is set, that there is something to do.
    pub(crate) fn sleep(&self, worker: usize, is_due: impl Fn() -> bool) -> Woken {
        let (Some(group), Some(word)) = (self.asleep.0.get(worker / 64), self.words.get(worker)) else {
            return Woken::AtOnce;
        };
        let bit = 1 << (worker % 64);
        word.0.store(0, Release);
        group.fetch_or(bit, AcqRel);
        // SeqCst: the bit comes before the look at the lanes, as in `pushed` the push comes before the look at the bits (S2).
        fence(SeqCst);
        let mut time = NAP;
        if self.lent && !barrier() {
            time = Duration::from_millis(1); // it was lent once and is refused now: no sleep that nobody may end
        }
        if is_due() {
            group.fetch_and(!bit, AcqRel);
            return Woken::AtOnce;
        }
        while word.0.load(Acquire) == 0 && !nap(&word.0, 0, Some(time)) {}
        if group.fetch_and(!bit, AcqRel) & bit == 0 {
            return Woken::Woken;
        }
        if is_due() { Woken::Overslept } else { Woken::InTime }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_away_after_its_task_is_not_counted_on() {
        for is_away in [false, true] {
            let (beds, depth) = (Beds::new(2), Depth::new(10));
            beds.asleep.0.iter().for_each(|word| word.store(0b10, Release)); // worker 1 sleeps, worker 0 ran a task
            assert_eq!(depth.admit(1), Ok(1));
            let away = is_away.then(|| beds.leave());
            depth.finish();
            assert_eq!(depth.admit(1), Ok(1));
            beds.pushed(1, &depth, |_| true);
            assert_eq!(beds.asleep(), usize::from(!is_away), "woken for a task that worker 0 does not look for");
            drop(away);
        }
    }

    #[test]
    fn a_burst_wakes_as_many_workers_as_it_has_tasks_and_not_one_more() {
        const WORKERS: usize = 70; // more than a word holds
        for tasks in [1, 2, 63, 64, 65, WORKERS as u64, 200] {
            for at_once in [true, false] {
                let (beds, depth) = (Beds::new(WORKERS), Depth::new(1000));
                for (word, bits) in beds.asleep.0.iter().zip([u64::MAX, 0b11_1111]) {
                    word.store(bits, Release);
                }
                assert_eq!(beds.asleep(), WORKERS);
                if at_once {
                    assert_eq!(depth.admit(tasks), Ok(tasks));
                    beds.pushed(tasks, &depth, |_| true);
                } else {
                    for _ in 0..tasks {
                        assert_eq!(depth.admit(1), Ok(1));
                        beds.pushed(1, &depth, |_| true);
                    }
                }
                assert_eq!(beds.asleep() as u64, (WORKERS as u64).saturating_sub(tasks), "{tasks} tasks");
            }
        }
    }
}
