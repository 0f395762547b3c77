#![allow(unsafe_code, reason = "a value that one thread at a time may change, without a wait for it")]
//! A value that whoever claims it may change, and nobody ever waits for.
//!
//! # Invariants
//! - K1: the value is touched only between a `swap` that found `taken` false and the store that makes it false again.
//!
//! # Memory ordering
//! | pair | `Release` store          | `Acquire` swap          | otherwise                                       |
//! |------|--------------------------|-------------------------|-------------------------------------------------|
//! | K1   | `taken`, end of a claim  | `taken`, next claim     | the next claimant sees half of what this one did |

use super::sync::{AtomicBool, UnsafeCell};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// A value behind a flag.
#[derive(Debug)]
pub(crate) struct Claim<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached by one thread at a time (K1), each of which sees what the last one did (K1's pair), so sharing
// the cell moves the value from thread to thread and never shares it: `Send` is enough.
unsafe impl<T: Send> Sync for Claim<T> {}

/// Gives the claim back, also when what was done under it unwinds.
struct Held<'a>(&'a AtomicBool);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(false, Release); // K1
    }
}

impl<T> Claim<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Does something with the value, unless somebody else does at this moment.
    #[inline(always)]
    pub(crate) fn try_with<R>(&self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        // A look first: who finds it taken leaves the line with whoever took it.
        if self.taken.load(Relaxed) || self.taken.swap(true, Acquire) {
            return None;
        }
        let _held = Held(&self.taken);
        Some(self.value.with_mut(|value| {
            // SAFETY: the pointer is the cell's own, so it is valid and aligned; K1: this thread has just claimed the value
            // and gives it back when `_held` is dropped, after the last use of this reference.
            change(unsafe { &mut *value })
        }))
    }
}
