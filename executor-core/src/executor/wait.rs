//! Waiting for a result, outside and inside of tasks.

use std::cell::RefCell;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::refusal::Error;
use super::results::{Found, Place};
use super::sync::{AtomicU32, nap};
use crate::idle::{Idle, Rest};
use crate::task::TaskId;

/// Misses between two looks at the time.
const MISSES: u32 = 64;

/// What a thread is to the executor it belongs to.
struct Home {
    number: u64,
    engine: Weak<Engine>,
    /// `None` for the steward, which runs no tasks.
    worker: Option<usize>,
}

thread_local! {
    /// The executor that this thread belongs to, if it belongs to one.
    static HOME: RefCell<Option<Home>> = const { RefCell::new(None) };
}

/// Says that the calling thread is a worker, or the steward.
pub(crate) fn settle(engine: &Arc<Engine>, worker: Option<usize>) {
    HOME.set(Some(Home { number: engine.number, engine: Arc::downgrade(engine), worker }));
}

fn at_home<R>(number: u64, look: impl FnOnce(&Home) -> Option<R>) -> Option<R> {
    HOME.try_with(|home| home.borrow().as_ref().filter(|home| home.number == number).and_then(look)).ok()?
}

/// Whether the calling thread is one that ends with this executor.
pub(crate) fn is_thread_of(engine: &Engine) -> bool {
    at_home(engine.number, |_| Some(())).is_some()
}

/// Before a wait for what only the other workers of executor `number` can do. Ends with what it returns.
pub(crate) fn leave_to_others(number: u64) -> Result<Option<Guest>, Error> {
    let Some((engine, _)) = at_home(number, |home| Some((home.engine.upgrade()?, home.worker?))) else {
        return Ok(None);
    };
    let waiting = engine.waiting.fetch_add(1, AcqRel) + 1;
    let (workers, guest) = (engine.terms.workers, Guest(engine));
    if waiting >= workers { Err(Error::WouldDeadlock) } else { Ok(Some(guest)) }
}

/// A worker in whose task somebody waits.
pub(crate) struct Guest(Arc<Engine>);

impl Drop for Guest {
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
        let _guest = match self.enter(place, task_id) {
            Ok(guest) => guest,
            Err(error) => {
                self.results.unpin(place);
                return Err(error);
            }
        };
        let (mut idle, mut misses) = (Idle::new(self.terms.idle), 0u32);
        let mut end = None; // read the clock only once there is something to wait for
        while !self.results.has_ended(place) {
            misses = misses.wrapping_add(1);
            let rest = idle.miss();
            if rest != Rest::Sleep && !misses.is_multiple_of(MISSES) && !timeout.is_zero() {
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

    /// Before a wait for a task, which only matters inside of one.
    #[inline]
    fn enter(&self, place: Place, task_id: TaskId) -> Result<Option<Guest>, Error> {
        let Some(worker) = at_home(self.number, |home| home.worker) else { return Ok(None) };
        let own = self.accounts.get(worker).and_then(super::account::Account::current);
        if own.is_some_and(|(_, current)| current.id == task_id) {
            return Err(Error::WouldDeadlock);
        }
        match leave_to_others(self.number) {
            Err(_) if self.results.has_ended(place) => Ok(None),
            guest => guest,
        }
    }
}
