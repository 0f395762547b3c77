//! The calling thread's lanes, one set for each executor it submits to.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use super::engine::Engine;
use super::lane::{Job, Writer};
use crate::task::Priority;

/// A thread's lanes of one executor. Dropped, they go back to it.
struct Seat {
    number: u64,
    engine: Weak<Engine>,
    lanes: [Option<Writer>; Priority::COUNT],
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.take_back(self.lanes.iter_mut().filter_map(Option::take));
        }
    }
}

thread_local! {
    static SEATS: RefCell<Vec<Seat>> = const { RefCell::new(Vec::new()) };
}

/// Pushes a task that was accepted to the calling thread's lane of `priority`, which is made on first use.
#[inline]
pub(crate) fn push(engine: &Arc<Engine>, priority: Priority, job: Job) {
    let mut job = Some(job);
    let _ = SEATS.try_with(|seats| {
        // Borrowed already: the drop of another seat, in which nobody submits. Who does all the same goes the common way.
        let Ok(mut seats) = seats.try_borrow_mut() else { return };
        let seat = match seats.iter().position(|seat| seat.number == engine.number) {
            Some(index) => seats.get_mut(index),
            None => sit_down(&mut seats, engine),
        };
        let Some(lane) = seat.and_then(|seat| seat.lanes.get_mut(priority as usize)) else { return };
        let writer = lane.get_or_insert_with(|| engine.lane(priority));
        if let Some(job) = job.take() {
            writer.push(job);
        }
    });
    if let Some(job) = job {
        engine.push_in_common(priority, job); // this thread's storage is gone: it ends
    }
}

#[cold]
fn sit_down<'a>(seats: &'a mut Vec<Seat>, engine: &Arc<Engine>) -> Option<&'a mut Seat> {
    seats.retain(|seat| seat.engine.strong_count() > 0); // executors that are gone
    seats.push(Seat { number: engine.number, engine: Arc::downgrade(engine), lanes: Default::default() });
    seats.last_mut()
}
