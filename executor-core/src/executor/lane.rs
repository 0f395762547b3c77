//! A lane inside one process: tasks of one thread and one priority, for whichever worker comes first.
//!
//! One thread pushes, any worker pops; a worker holds the lane for as long as a pop takes and runs the task afterwards, so
//! no task waits behind one that is stuck. Tasks of a lane begin in the order they came.
//!
//! # Invariants
//! - N1: rings are popped oldest first, and a ring is left only when it is empty and a later one holds a task.
//! - N2: `pushed` counts what lies in the rings, never more; `popped` changes only under the claim.
//!
//! # Memory ordering
//! | pair | `Release` store          | `Acquire` load            | otherwise                                        |
//! |------|--------------------------|---------------------------|--------------------------------------------------|
//! | N2   | `pushed`, [`Writer::push`] | `pushed`, [`Shared::pop`] | a ring looks empty while a later one is looked for |

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::claim::Claim;
use super::depth::Apart;
use super::work::Body;
use crate::task::Priority;

/// Tasks the first ring of a lane holds; each further one holds four times as many.
const RING_SLOTS: usize = 256;
/// Rings a lane can ever have: more than four to the power of which fit memory.
const RINGS: usize = 28;

/// An accepted task on its way to a worker.
pub(crate) struct Job {
    pub(crate) body: Body,
    pub(crate) name: Cow<'static, str>,
    pub(crate) id: u64,
    pub(crate) submitted_at: u64,
    /// Its slot among the results.
    pub(crate) slot: u32,
}

const _: () = assert!(size_of::<Job>() == 64);

/// What both sides of a lane share.
pub(crate) struct Shared {
    pub(crate) priority: Priority,
    pushed: Apart<AtomicU64>,
    front: Apart<Front>,
}

struct Front {
    rings: Claim<Rings>,
    popped: AtomicU64,
}

struct Rings {
    oldest: rtrb::Consumer<Job>,
    later: rtrb::Consumer<rtrb::Consumer<Job>>,
}

/// The submitting end. It belongs to one thread at a time.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    ring: rtrb::Producer<Job>,
    later: rtrb::Producer<rtrb::Consumer<Job>>,
    capacity: usize,
    pushed: u64,
}

/// A new lane.
pub(crate) fn lane(priority: Priority) -> Writer {
    let (ring, oldest) = rtrb::RingBuffer::new(RING_SLOTS);
    let (later_writer, later) = rtrb::RingBuffer::new(RINGS);
    let front = Front { rings: Claim::new(Rings { oldest, later }), popped: AtomicU64::new(0) };
    let shared = Arc::new(Shared { priority, pushed: Apart(AtomicU64::new(0)), front: Apart(front) });
    Writer { shared, ring, later: later_writer, capacity: RING_SLOTS, pushed: 0 }
}

impl Writer {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Adds a task. Where the ring is full a larger one follows it: how much may wait is not the lane's business.
    #[inline]
    pub(crate) fn push(&mut self, job: Job) {
        if let Err(rtrb::PushError::Full(job)) = self.ring.push(job) {
            self.grow(job);
        }
        self.pushed += 1;
        self.shared.pushed.0.store(self.pushed, Release); // N2
    }

    #[cold]
    fn grow(&mut self, job: Job) {
        self.capacity = self.capacity.saturating_mul(4);
        let (mut ring, reader) = rtrb::RingBuffer::new(self.capacity);
        if ring.push(job).is_err() || self.later.push(reader).is_err() {
            unreachable!("a ring that was just made is empty, and no memory holds more rings than that");
        }
        self.ring = ring;
    }
}

impl Shared {
    /// Whether a task is there, as far as one look without the claim can tell.
    #[inline(always)]
    pub(crate) fn has_task(&self) -> bool {
        self.pushed.0.load(Acquire) != self.front.0.popped.load(Relaxed)
    }

    /// The oldest task; `None` also while another worker is taking one.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<Job> {
        if !self.has_task() {
            return None;
        }
        let Front { rings, popped } = &self.front.0;
        rings.try_with(|rings| {
            let job = match rings.oldest.pop() {
                Ok(job) => job,
                Err(rtrb::PopError::Empty) => self.next_ring(rings)?,
            };
            popped.store(popped.load(Relaxed) + 1, Relaxed);
            Some(job)
        })?
    }

    #[cold]
    fn next_ring(&self, rings: &mut Rings) -> Option<Job> {
        // Somebody else may have taken the last task since the look; and a task pushed after a first pop found nothing may
        // lie in the same ring still, so it is asked once more before it is left (N1).
        while self.pushed.0.load(Acquire) != self.front.0.popped.load(Relaxed) {
            if let Ok(job) = rings.oldest.pop() {
                return Some(job);
            }
            rings.oldest = rings.later.pop().ok()?;
        }
        None
    }
}
