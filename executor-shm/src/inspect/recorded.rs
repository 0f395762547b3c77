//! What the flight recorder holds: events, slow tasks with what they waited for, errors.
//!
//! Every row is whole or counted as torn; rows of different threads are put together by their times. It takes no lock, and
//! it works as well on the files of a sidecar that was killed.

use executor_core::recorder::{ErrorEntry, Event, HeadWord, Reader, Rows, SlowTask};

use super::Inspector;
use crate::layout::status;
use crate::words::Words;

/// Everything that was recorded and is still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Nanoseconds from submit to end after which a task is slow, where its handler says nothing else; `None` if nothing is
    /// recorded.
    pub slow_after_ns: Option<u64>,
    /// Events and sleeps, the oldest first.
    pub events: Vec<Event>,
    /// Events that were ever recorded, those that are gone included.
    pub events_ever: u64,
    /// The slowest tasks of each handler and the last ones over their threshold, the slowest first, each once.
    pub slow: Vec<SlowTask>,
    /// Errors of all workers, those seen last first.
    pub errors: Vec<ErrorEntry>,
    /// Errors that had to make room for others.
    pub errors_forgotten: u64,
    /// Rows that were being written at every look.
    pub torn: u32,
}

impl Inspector {
    /// What was recorded, copied now.
    pub fn recorded(&self) -> Recorded {
        let layout = self.geometry.meter_layout();
        let begin = self.geometry.meter();
        let reader = Reader::new(&layout, |at| self.status.load_commit(begin + at));
        let mut recorded =
            Recorded { slow_after_ns: self.status.load(status::SLOW_AFTER).checked_sub(1), ..Recorded::default() };
        let (mut events, mut slow, mut errors) = (Rows::default(), Rows::default(), Rows::default());
        for recorder in 0..=layout.workers {
            events.extend(reader.events(recorder));
            events.extend(reader.sleeps(recorder));
            slow.extend(reader.slow_tasks(recorder));
            errors.extend(reader.errors(recorder));
            let ever = reader.head(recorder, HeadWord::Events).saturating_add(reader.head(recorder, HeadWord::Sleeps));
            recorded.events_ever = recorded.events_ever.saturating_add(ever);
            let forgotten = reader.head(recorder, HeadWord::ErrorsForgotten);
            recorded.errors_forgotten = recorded.errors_forgotten.saturating_add(forgotten);
        }
        for (worker, row) in (0..layout.workers).flat_map(|worker| (0..layout.handlers).map(move |row| (worker, row))) {
            slow.extend(reader.slowest(worker, row));
        }
        recorded.torn = events.torn + slow.torn + errors.torn;
        recorded.events = events.whole;
        recorded.events.sort_by_key(|event| (event.at, event.number));
        recorded.slow = slow.whole;
        recorded.slow.sort_by_key(|task| (std::cmp::Reverse(task.total()), task.task_id));
        recorded.slow.dedup_by_key(|task| (task.task_id, task.attempt));
        for error in errors.whole {
            match recorded.errors.iter_mut().find(|known| known.key == error.key) {
                Some(known) => merge(known, error),
                None => recorded.errors.push(error),
            }
        }
        recorded.errors.sort_by_key(|error| std::cmp::Reverse(error.last_at));
        recorded
    }
}

/// Adds what another worker counted of the same error.
fn merge(known: &mut ErrorEntry, other: ErrorEntry) {
    let (count, first_at) = (known.count.saturating_add(other.count), known.first_at.min(other.first_at));
    if other.last_at > known.last_at {
        *known = other;
    }
    (known.count, known.first_at) = (count, first_at);
}
