//! What a producer counts of itself on its own line of `sq`, for people: plain stores, which the protocol never looks at.
//!
//! Whoever stores into a file that somebody truncated dies of it. So this is done where a submit does it anyway, and
//! otherwise only by callers that have just seen the lane served: one whose lane is poisoned collects what there is
//! without touching `sq`.

use super::ProducerHalf;
use crate::layout::lane::{COLLECTED, CREDITED, REJECTED, SUBMITTED};
use crate::words::{Words, WordsMut};

impl<S: WordsMut, C: Words> ProducerHalf<S, C> {
    /// Gives back the slot of the oldest position, whose completion is taken or of no interest to anybody.
    #[inline(always)]
    pub fn credit(&mut self) {
        debug_assert!(self.credited < self.submitted);
        self.credited += 1;
    }

    /// Counts a completion that the program took.
    #[inline(always)]
    pub fn collected(&mut self) {
        self.collected += 1;
    }

    /// Counts a submit that found the lane full.
    #[cold]
    pub fn rejected(&mut self) {
        self.rejected += 1;
        self.tell();
    }

    /// Tells all counts. The lane must have been served a moment ago.
    #[inline(always)]
    pub fn tell(&self) {
        self.sq.store(SUBMITTED, self.submitted);
        self.sq.store(COLLECTED, self.collected);
        self.sq.store(CREDITED, self.credited);
        self.sq.store(REJECTED, self.rejected);
    }
}
