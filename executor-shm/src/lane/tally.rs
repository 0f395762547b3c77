//! What a producer counts of itself on its own line of `sq`, for people: plain stores, which the protocol never looks at.

use super::ProducerHalf;
use crate::layout::lane::{COLLECTED, CREDITED, REJECTED};
use crate::words::{Words, WordsMut};

impl<S: WordsMut, C: Words> ProducerHalf<S, C> {
    /// Gives back the slot of the oldest position, whose completion is taken or of no interest to anybody.
    #[inline(always)]
    pub fn credit(&mut self) {
        debug_assert!(self.credited < self.submitted);
        self.credited += 1;
        self.sq.store(CREDITED, self.credited);
    }

    /// Counts a completion that the program took.
    #[inline(always)]
    pub fn collected(&mut self) {
        self.collected += 1;
        self.sq.store(COLLECTED, self.collected);
    }

    /// Counts a submit that found the lane full.
    #[cold]
    pub fn rejected(&mut self) {
        self.rejected += 1;
        self.sq.store(REJECTED, self.rejected);
    }
}
