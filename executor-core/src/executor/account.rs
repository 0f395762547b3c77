//! What each worker counts: one writer, plain loads and stores, readable at any time.
//!
//! Names are no words: they lie behind a lock, which the worker takes once a task and nobody contends for but the steward,
//! ten times a second, and who asks for tasks that are stuck.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::target::{LatencyKind, Reason, Recent, Slow, SlowCause};
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
    /// When it last woke from a sleep.
    pub(crate) woke_at: AtomicU64,
    began_at: AtomicU64,
    ended_at: AtomicU64,
    desk: Mutex<Desk>,
    pub(crate) recent: Recent,
}

/// What needs more than a word.
#[derive(Debug)]
struct Desk {
    /// The task that runs, or ran last.
    current: Current,
    /// The longest task since the one that runs was submitted.
    ahead: Ahead,
}

/// A task that is with a worker.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) id: TaskId,
    pub(crate) name: Cow<'static, str>,
    /// 0 with timing off.
    pub(crate) started_at: u64,
}

/// A task that another one waited for.
#[derive(Debug)]
struct Ahead {
    name: Cow<'static, str>,
    ticks: u64,
    ended_at: u64,
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
            woke_at: AtomicU64::new(0),
            began_at: AtomicU64::new(0),
            ended_at: AtomicU64::new(0),
            desk: Mutex::new(Desk {
                current: Current { id: TaskId::from_u64(0), name: Cow::Borrowed(""), started_at: 0 },
                ahead: Ahead { name: Cow::Borrowed(""), ticks: 0, ended_at: 0 },
            }),
            recent,
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task begins that was submitted at this tick.
    #[inline]
    pub(crate) fn begin(&self, current: Current, submitted_at: u64) {
        let ended_at = self.ended_at.load(Relaxed);
        let ticks = ended_at.saturating_sub(self.began_at.load(Relaxed));
        let mut desk = self.desk();
        let former = std::mem::replace(&mut desk.current, current);
        let mut name = former.name;
        if ticks >= desk.ahead.ticks || desk.ahead.ended_at < submitted_at {
            std::mem::swap(&mut name, &mut desk.ahead.name);
            (desk.ahead.ticks, desk.ahead.ended_at) = (ticks, ended_at);
        }
        drop(desk);
        drop(name); // it may be freed, which takes its time: without the lock
        self.running.store(self.executed.load(Relaxed) + 1, Relaxed);
    }

    /// Why the task that is ending took too long: its stamps, and whether the kernel took its CPU away meanwhile. Allocates
    /// nothing: names are for [`describe`](Self::describe).
    #[cold]
    pub(crate) fn explain(
        &self,
        [submitted_at, started_at, ended_at]: [u64; 3],
        preempted: Option<bool>,
        kind: LatencyKind,
    ) -> Reason {
        let (waited, ran) = (started_at.saturating_sub(submitted_at), ended_at.saturating_sub(started_at));
        let slept = self.woke_at.load(Relaxed).min(started_at).saturating_sub(submitted_at);
        if kind == LatencyKind::Execution || ran >= waited {
            if preempted == Some(true) { Reason::Preempted } else { Reason::Running }
        } else if slept >= waited - slept.min(waited) {
            Reason::Asleep
        } else if self.desk().ahead.ended_at > submitted_at {
            Reason::QueuedBehind
        } else {
            Reason::NotLookedAt
        }
    }

    /// The task that is ending, by name.
    #[cold]
    pub(crate) fn describe(&self, reason: Reason) -> Slow {
        let desk = self.desk();
        let cause = match reason {
            Reason::Running => SlowCause::Running,
            Reason::Preempted => SlowCause::Preempted,
            Reason::Asleep => SlowCause::Asleep,
            Reason::QueuedBehind => SlowCause::QueuedBehind { name: desk.ahead.name.clone().into_owned() },
            Reason::NotLookedAt => SlowCause::NotLookedAt,
        };
        Slow { task_id: desk.current.id, name: desk.current.name.clone().into_owned(), cause }
    }

    /// It ended. Its worker alone calls this.
    #[inline]
    pub(crate) fn end(&self, success: bool, [started_at, completed_at]: [u64; 2]) {
        let add = |word: &AtomicU64, by: u64| word.store(word.load(Relaxed).wrapping_add(by), Relaxed);
        if !success {
            add(&self.failed, 1);
        }
        self.began_at.store(started_at, Relaxed);
        self.ended_at.store(completed_at, Relaxed);
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
        let current = self.desk().current.clone();
        (self.running.load(Relaxed) == number).then_some((number, current))
    }
}
