//! How many tasks are accepted and not finished: never more than the limit, and never refused below it.
//!
//! It knows no task; it counts.
//!
//! # Invariants
//! - B1: `accepted - finished <= limit`, because `accepted` grows only by a compare-and-swap from a value that was within
//!   the limit of some earlier `finished`, which only grows.
//! - B2: a refusal means that at one moment of the call `limit` tasks were accepted and not finished.
//! - B3: once `accepted` says closed it grows no more; whoever finishes the last accepted task after that, or closes after
//!   it, learns that it was the last.
//!
//! # Memory ordering
//! | pair | `Release` side             | `Acquire` side             | otherwise                                       |
//! |------|----------------------------|----------------------------|-------------------------------------------------|
//! | B2   | `finished`, `finish`       | `finished`, `admit`        | who saw a result is refused for its task         |
//! | B3   | `accepted`, `close`        | `accepted`, `finish`       | the last task is not known for the last          |

use super::sync::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

/// In either word: nothing more is accepted.
const CLOSED: u64 = 1 << 63;

/// Words that the same threads write, with lines of their own: processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

#[derive(Debug)]
pub(crate) struct Depth {
    limit: u64,
    intake: Apart<Intake>,
    /// Tasks finished, written by workers.
    finished: Apart<AtomicU64>,
}

/// What submitters write.
#[derive(Debug)]
struct Intake {
    accepted: AtomicU64,
    /// A value that `finished` has had, so that most submits need not fetch the workers' line.
    seen: AtomicU64,
}

/// Why nothing is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Closed,
}

/// What a finished task learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// Its place among all finished tasks, from 1.
    pub(crate) sequence: u64,
    /// Nothing more will come after it.
    pub(crate) is_last: bool,
}

impl Depth {
    pub(crate) fn new(limit: u64) -> Self {
        let intake = Intake { accepted: AtomicU64::new(0), seen: AtomicU64::new(0) };
        Self { limit, intake: Apart(intake), finished: Apart(AtomicU64::new(0)) }
    }

    /// Accepts as many of `wanted` tasks as there is room for, at least one.
    #[inline]
    pub(crate) fn admit(&self, wanted: u64) -> Result<u64, Refusal> {
        let Intake { accepted, seen } = &self.intake.0;
        let mut count = accepted.load(Acquire); // before `finished`: B2
        loop {
            if count & CLOSED != 0 {
                return Err(Refusal::Closed);
            }
            let mut room = self.limit.saturating_sub(count - seen.load(Relaxed).min(count));
            if room < wanted {
                let finished = self.fresh().min(count);
                room = self.limit.saturating_sub(count - finished);
            }
            let taken = room.min(wanted);
            if taken == 0 {
                return Err(Refusal::Full);
            }
            match accepted.compare_exchange_weak(count, count + taken, AcqRel, Acquire) {
                Ok(_) => return Ok(taken),
                Err(found) => count = found,
            }
        }
    }

    /// Takes back `count` tasks that were accepted and will never run; says whether nothing is left to wait for.
    #[cold]
    pub(crate) fn withdraw(&self, count: u64) -> bool {
        let before = self.intake.0.accepted.fetch_sub(count, AcqRel);
        // A change that changes nothing, and not a load: of this and a `finish` beside it the later one sees the other (B3).
        before & CLOSED != 0 && (before & !CLOSED) - count == self.finished.0.fetch_add(0, AcqRel) & !CLOSED
    }

    /// Counts a task as finished.
    #[inline]
    pub(crate) fn finish(&self) -> Finished {
        let before = self.finished.0.fetch_add(1, AcqRel); // B2
        let sequence = (before & !CLOSED) + 1;
        let is_last = before & CLOSED != 0 && self.intake.0.accepted.load(Acquire) == CLOSED | sequence; // B3
        Finished { sequence, is_last }
    }

    /// Accepts nothing more; says whether everything accepted is finished already.
    pub(crate) fn close(&self) -> bool {
        let accepted = self.intake.0.accepted.fetch_or(CLOSED, AcqRel) & !CLOSED; // B3
        self.finished.0.fetch_or(CLOSED, AcqRel) & !CLOSED == accepted
    }

    /// Tasks accepted and not finished; while that changes, never fewer than at the begin of the call less what finished
    /// since.
    pub(crate) fn waiting(&self) -> u64 {
        let finished = self.latest(); // first: a task accepted and finished in between must not hide one that waits
        (self.intake.0.accepted.load(Acquire) & !CLOSED).saturating_sub(finished)
    }

    /// Tasks finished, as somebody has seen it not long ago.
    #[inline]
    pub(crate) fn seen(&self) -> u64 {
        self.intake.0.seen.load(Relaxed)
    }

    /// Tasks finished; the next [`seen`](Self::seen) says so too.
    #[inline]
    pub(crate) fn fresh(&self) -> u64 {
        let finished = self.latest();
        self.intake.0.seen.store(finished, Relaxed); // perhaps an older value than another thread's: as good, looked at sooner
        finished
    }

    /// Tasks finished.
    #[inline]
    pub(crate) fn latest(&self) -> u64 {
        self.finished.0.load(Acquire) & !CLOSED // B2
    }
}
