//! The owner of a lane, as its own line in `sq` tells of it.

use crate::layout::lane;
use crate::words::Words;

/// What the owner of a lane says of itself, for people: it may say anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerView {
    /// Tasks it submitted.
    pub submitted: u64,
    /// Completions its program took.
    pub collected: u64,
    /// Positions below this are taken, or nobody wants them.
    pub credited: u64,
    /// Submits that found the lane full.
    pub rejected: u64,
}

impl ProducerView {
    pub(super) fn load(sq: &impl Words) -> Self {
        Self {
            submitted: sq.load(lane::SUBMITTED),
            collected: sq.load(lane::COLLECTED),
            credited: sq.load(lane::CREDITED),
            rejected: sq.load(lane::REJECTED),
        }
    }

    /// The same after tasks up to `found` were found: it was copied before them, and a producer counts a task once that can
    /// be served.
    pub(super) fn agree(mut self, found: u64) -> Self {
        self.submitted = self.submitted.max(found).max(self.collected).max(self.credited);
        self
    }
}
