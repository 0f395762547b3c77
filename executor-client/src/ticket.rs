//! A claim on one completion.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use executor_core::TaskId;

/// One bit a slot: the ticket for the task there was dropped and nobody will ask for its completion.
#[derive(Debug)]
pub(crate) struct Abandoned {
    bits: Box<[AtomicU64]>,
    mask: u64,
}

impl Abandoned {
    pub(crate) fn new(capacity: u64) -> Self {
        let bits = (0..capacity.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { bits, mask: capacity - 1 }
    }

    fn word(&self, position: u64) -> Option<(&AtomicU64, u64)> {
        let slot = position & self.mask;
        self.bits.get((slot / 64) as usize).map(|word| (word, 1 << (slot % 64)))
    }

    pub(crate) fn set(&self, position: u64) {
        if let Some((word, bit)) = self.word(position) {
            word.fetch_or(bit, Relaxed);
        }
    }

    pub(crate) fn is_set(&self, position: u64) -> bool {
        self.word(position).is_some_and(|(word, bit)| word.load(Relaxed) & bit != 0)
    }

    pub(crate) fn clear(&self, position: u64) {
        if let Some((word, bit)) = self.word(position) {
            word.fetch_and(!bit, Relaxed);
        }
    }
}

/// A claim on the completion of one task, made by [`Client::submit_ticket`](crate::Client::submit_ticket).
///
/// It may wander to other threads; the completion is taken through the client that made it. A dropped ticket gives its
/// slot back once the task has ended.
#[derive(Debug)]
#[must_use = "a dropped ticket gives up the task's completion"]
pub struct Ticket {
    pub(crate) task_id: TaskId,
    pub(crate) position: u64,
    pub(crate) abandoned: Arc<Abandoned>,
    pub(crate) taken: bool,
}

impl Ticket {
    /// The task's number.
    pub fn task_id(&self) -> TaskId {
        self.task_id
    }

    /// Whether the completion was taken already.
    pub fn is_taken(&self) -> bool {
        self.taken
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.taken {
            self.abandoned.set(self.position);
        }
    }
}
