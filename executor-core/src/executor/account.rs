//! What each worker counts: one writer, plain loads and stores, readable at any time.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::target::Recent;
use crate::task::TaskId;

/// One worker's counts. Times are in ticks.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Account {
    pub(crate) executed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) run_ticks: AtomicU64,
    /// [`u64::MAX`] before the first task.
    pub(crate) min_ticks: AtomicU64,
    pub(crate) max_ticks: AtomicU64,
    /// 0 while no task runs, or else a number that each task has for itself.
    pub(crate) running: AtomicU64,
    /// The task that runs, or ran last.
    pub(crate) current: Mutex<Current>,
    pub(crate) recent: Recent,
}

/// A task that is with a worker.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) id: TaskId,
    pub(crate) name: Cow<'static, str>,
    /// 0 with timing off.
    pub(crate) started_at: u64,
}

impl Account {
    pub(crate) fn new(recent: Recent) -> Self {
        Self {
            executed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            run_ticks: AtomicU64::new(0),
            min_ticks: AtomicU64::new(u64::MAX),
            max_ticks: AtomicU64::new(0),
            running: AtomicU64::new(0),
            current: Mutex::new(Current { id: TaskId::from_u64(0), name: Cow::Borrowed(""), started_at: 0 }),
            recent,
        }
    }

    /// A task begins.
    #[inline]
    pub(crate) fn begin(&self, current: Current) {
        // The task before last is dropped here, after the lock is given back: a name may be freed, which takes its time.
        let _former = std::mem::replace(&mut *self.current.lock().unwrap_or_else(PoisonError::into_inner), current);
        self.running.store(self.executed.load(Relaxed) + 1, Relaxed);
    }

    /// It ended. Its worker alone calls this.
    #[inline]
    pub(crate) fn end(&self, success: bool, [started_at, completed_at]: [u64; 2]) {
        let add = |word: &AtomicU64, by: u64| word.store(word.load(Relaxed).wrapping_add(by), Relaxed);
        if !success {
            add(&self.failed, 1);
        }
        if completed_at != 0 {
            let ticks = completed_at.saturating_sub(started_at);
            add(&self.run_ticks, ticks);
            if ticks < self.min_ticks.load(Relaxed) {
                self.min_ticks.store(ticks, Relaxed);
            }
            if ticks > self.max_ticks.load(Relaxed) {
                self.max_ticks.store(ticks, Relaxed);
            }
        }
        add(&self.executed, 1);
        self.running.store(0, Relaxed);
    }

    /// The task that runs at this moment, and its number.
    pub(crate) fn current(&self) -> Option<(u64, Current)> {
        let number = Some(self.running.load(Relaxed)).filter(|&number| number != 0)?;
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.running.load(Relaxed) == number).then_some((number, current))
    }
}
