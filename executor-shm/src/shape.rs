//! Where things lie in a lane.
//!
//! Every index is a position under a private mask (I3 of [`lane`](crate::lane)).

use executor_core::record::WORDS;

use crate::layout::Geometry;
use crate::layout::lane::SLOTS;

/// Where things lie in a lane, from private sizes.
#[derive(Clone, Copy, Debug)]
pub struct LaneShape {
    mask: u64,
    buffers: usize,
    request_words: usize,
    response_words: usize,
}

impl LaneShape {
    /// The shape of an instance's lanes; `geometry` was checked.
    pub const fn new(geometry: &Geometry) -> Self {
        Self {
            mask: geometry.mask(),
            buffers: geometry.buffers(),
            request_words: geometry.request_bytes as usize / 8,
            response_words: geometry.response_bytes as usize / 8,
        }
    }

    /// Slots of either ring.
    #[inline(always)]
    pub const fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// Bytes of a request buffer.
    #[inline(always)]
    pub const fn request_bytes(&self) -> usize {
        self.request_words * 8
    }

    /// Bytes of a response buffer.
    #[inline(always)]
    pub const fn response_bytes(&self) -> usize {
        self.response_words * 8
    }

    #[inline(always)]
    pub(crate) const fn slot(&self, position: u64) -> usize {
        SLOTS + (position & self.mask) as usize * WORDS
    }

    #[inline(always)]
    pub(crate) const fn request(&self, position: u64) -> usize {
        self.buffers + (position & self.mask) as usize * self.request_words
    }

    #[inline(always)]
    pub(crate) const fn response(&self, position: u64) -> usize {
        self.buffers + (position & self.mask) as usize * self.response_words
    }
}
