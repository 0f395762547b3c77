//! Waiting for a result, outside and inside of tasks.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::AcqRel;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::refusal::Error;
use super::results::{Found, Place};
use super::sync::{AtomicU32, nap};
use crate::idle::{Idle, Rest};
use crate::task::TaskId;

/// Misses between two looks at the time.
const MISSES: u32 = 64;

thread_local! {
    /// The executor whose worker this thread is, and which one.
    static HOME: Cell<Option<(u64, usize)>> = const { Cell::new(None) };
}

/// Says that the calling thread is a worker.
pub(crate) fn settle(engine: &Engine, worker: usize) {
    HOME.set(Some((engine.number, worker)));
}

fn home(engine: &Engine) -> Option<usize> {
    let (number, worker) = HOME.try_with(Cell::get).ok()??;
    (number == engine.number).then_some(worker)
}

/// Whether the calling thread is a worker of this executor.
pub(crate) fn is_worker_of(engine: &Engine) -> bool {
    home(engine).is_some()
}

/// A worker in whose task somebody waits.
struct Guest<'a>(&'a Engine);

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, AcqRel);
    }
}

/// The end of a wait; `None` is never.
pub(crate) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// Sleeps while `word` is `value`, until `end` at most.
pub(crate) fn nap_until(word: &AtomicU32, value: u32, end: Option<Instant>) {
    nap(word, value, end.map(|end| end.saturating_duration_since(Instant::now())));
}

impl Engine {
    /// Waits for the task with this id.
    pub(crate) fn wait(self: &Arc<Self>, task_id: TaskId, timeout: Duration) -> Result<Found, Error> {
        match self.results.find(task_id.as_u64(), true, || self.depth.latest()) {
            Found::Pending(place) => self.wait_in(place, task_id, timeout),
            found => Ok(found),
        }
    }

    /// Waits for the task in a pinned slot, and gives up the pin.
    #[inline]
    pub(crate) fn wait_in(&self, place: Place, task_id: TaskId, timeout: Duration) -> Result<Found, Error> {
        let _guest = match home(self) {
            None => None,
            Some(worker) => match self.enter(worker, place, task_id) {
                Ok(guest) => Some(guest),
                Err(error) => {
                    self.results.unpin(place);
                    return Err(error);
                }
            },
        };
        let (mut idle, mut misses) = (Idle::new(self.terms.idle), 0u32);
        let mut end = None; // read the clock only once there is something to wait for
        while !self.results.has_ended(place) {
            misses = misses.wrapping_add(1);
            let rest = idle.miss();
            if rest == Rest::Again && !misses.is_multiple_of(MISSES) && !timeout.is_zero() {
                continue;
            }
            let end = *end.get_or_insert_with(|| deadline(timeout));
            if end.is_some_and(|end| Instant::now() >= end) {
                self.results.unpin(place);
                return Err(Error::Timeout { task_id, waited: timeout });
            }
            if rest == Rest::Sleep {
                if let Some((word, value)) = self.results.doze(place) {
                    nap_until(word, value, end);
                }
                idle.slept();
            }
        }
        Ok(self.results.read(place))
    }

    /// A worker begins to wait inside its task.
    #[cold]
    fn enter(&self, worker: usize, place: Place, task_id: TaskId) -> Result<Guest<'_>, Error> {
        let own = self.accounts.get(worker).and_then(super::account::Account::current);
        if own.is_some_and(|(_, current)| current.id == task_id) {
            return Err(Error::WouldDeadlock);
        }
        let waiting = self.waiting.fetch_add(1, AcqRel) + 1;
        let guest = Guest(self);
        if waiting >= self.terms.workers && !self.results.has_ended(place) {
            return Err(Error::WouldDeadlock);
        }
        Ok(guest)
    }
}
