//! Sleeping on many lanes at once, for the one thread of a process that wakes whoever waits for their completions.
//!
//! It is the producer's side of `sleep.rs` for several lanes: [`Lookout::say`] for each is Z3, then [`Lookout::raise`],
//! then [`Lookout::expect`] for each looks once more and takes down the word to sleep on, then [`Lookout::nap`]. What is
//! said stays said: a lane that is idle is watched for the completion of a task nobody has submitted yet, so a submit has
//! nobody to tell. A word of the process's own, the [`Call`], ends a nap for any other reason; whoever calls always wakes.

use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Release};
use std::time::Duration;

use executor_core::record::COMMIT;

use crate::barrier;
use crate::futex::{self, Ended, Watch, Who};
use crate::lane::{LOOK_AGAIN, ProducerHalf};
use crate::layout::lane::WAITING;
use crate::mutant::Mutant;
use crate::words::{Words, WordsMut};

/// Longest nap: what a stranger does to the words of a lane costs that much time at most, and who died wakes nobody.
pub const NAP: Duration = Duration::from_millis(100);

/// Ends the naps of one [`Lookout`], in the same process.
#[derive(Debug, Default)]
pub struct Call(AtomicU32);

impl Call {
    /// One that nobody has made yet.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Ends the nap that is going on, or else the next one of a look that has begun.
    pub fn call(&self) {
        self.0.fetch_add(1, Release);
        futex::wake_all(&self.0);
    }
}

/// What one thread sleeps on.
#[derive(Debug)]
pub struct Lookout {
    watch: Watch,
    called: u32,
    is_sure: bool,
}

impl Default for Lookout {
    fn default() -> Self {
        Self { watch: Watch::new(), called: 0, is_sure: false }
    }
}

impl Lookout {
    /// Begins a look: calls from here on end its nap.
    pub fn begin(&mut self, call: &Call) {
        self.watch.clear();
        self.called = call.0.load(Acquire);
        self.watch.add(&call.0, u64::from(self.called));
    }

    /// Says that somebody sleeps on the completion of `position`, or will.
    pub fn say<S: WordsMut, C: Words>(half: &ProducerHalf<S, C>, position: u64) {
        half.sq().store(WAITING, if Mutant::LookoutSleepsUnsaid.is_on() { 0 } else { position.wrapping_add(1) }); // Z3
    }

    /// Between what was said for all lanes and the second look at each.
    pub fn raise(&mut self) {
        self.is_sure = barrier::raise();
    }

    /// Watches for the completion of `position`; `false` if it is there.
    pub fn expect<S: WordsMut, C: Words>(&mut self, half: &ProducerHalf<S, C>, position: u64) -> bool {
        let at = half.shape().slot(position) + COMMIT;
        let seen = half.cq().load(at);
        // A later one too: others collect meanwhile, and the slot may have gone round to a task that has ended since. That one
        // wakes nobody who sleeps on this position.
        if seen > position && !Mutant::LookoutLooksOnce.is_on() {
            return false;
        }
        if let Some([word]) = half.cq().atomics(at, 1) {
            self.watch.add(word, seen);
        }
        true
    }

    /// Naps until one of the completions is there, a call came, for at most `most` or [`NAP`], or for no reason. Where the
    /// kernel cannot sleep on so many words (more than 127 lanes, no `futex_waitv`) or raises no barrier, a millisecond.
    /// `true`: the time of a nap that was sure to be ended by whatever came has passed.
    pub fn nap(&mut self, call: &Call, most: Duration) -> bool {
        let is_sure = self.is_sure && !self.watch.is_short();
        match self.watch.nap(if is_sure { most.min(NAP) } else { most.min(LOOK_AGAIN) }) {
            Ended::InTime => is_sure,
            Ended::Woken | Ended::Interrupted => false,
            Ended::Fault | Ended::Refused => {
                futex::nap(&call.0, u64::from(self.called), most.min(LOOK_AGAIN), Who::Anybody);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use executor_core::record::DescriptorRecord;

    use super::*;
    use crate::layout::Geometry;
    use crate::shape::LaneShape;
    use crate::words::HeapWords;

    #[test]
    fn a_call_after_the_look_began_ends_the_nap_and_one_before_does_not() {
        let (call, mut lookout) = (Call::new(), Lookout::default());
        call.call();
        lookout.begin(&call);
        lookout.raise();
        if !futex::has_watch() {
            return println!("skipped: no futex_waitv");
        }
        assert!(lookout.nap(&call, Duration::from_millis(1)), "nobody has called since");
        call.call();
        assert!(!lookout.nap(&call, NAP), "the call came before the nap");
    }

    #[test]
    fn a_completion_that_came_before_the_second_look_is_seen_by_it() {
        let sizes = Geometry { capacity: 4, request_bytes: 0, response_bytes: 0, lanes: 1, handlers: 1, workers: 1 };
        let words = || HeapWords::new(sizes.sq_bytes().max(sizes.cq_bytes()) / 8);
        let (sq, cq, shape) = (words(), words(), LaneShape::new(&sizes));
        let mut half = ProducerHalf::new(sq.clone(), cq.clone(), shape);
        let position = half.submit(&DescriptorRecord::new(1, 0, 1, 0));
        let (call, mut lookout) = (Call::new(), Lookout::default());
        lookout.begin(&call);
        Lookout::say(&half, position);
        assert_eq!(sq.load(WAITING), position + 1);
        assert!(lookout.expect(&half, position));
        cq.commit(shape.slot(position) + COMMIT, position + 1);
        assert!(!lookout.expect(&half, position));
    }

    #[test]
    fn a_slot_that_has_gone_round_since_it_was_said_is_not_slept_on() {
        let sizes = Geometry { capacity: 4, request_bytes: 0, response_bytes: 0, lanes: 1, handlers: 1, workers: 1 };
        let words = || HeapWords::new(sizes.sq_bytes().max(sizes.cq_bytes()) / 8);
        let (sq, cq, shape) = (words(), words(), LaneShape::new(&sizes));
        let half = ProducerHalf::new(sq, cq.clone(), shape);
        let (call, mut lookout) = (Call::new(), Lookout::default());
        lookout.begin(&call);
        Lookout::say(&half, 5);
        cq.commit(shape.slot(5) + COMMIT, 5 + 1 - u64::from(sizes.capacity));
        assert!(lookout.expect(&half, 5), "the completion of a lap before");
        cq.commit(shape.slot(5) + COMMIT, 5 + 1 + u64::from(sizes.capacity));
        assert!(!lookout.expect(&half, 5), "the completion of a lap later: that of 5 was there and is collected");
    }

    #[test]
    fn more_words_than_the_kernel_takes_make_every_nap_short_and_unsure() {
        let (call, mut lookout) = (Call::new(), Lookout::default());
        lookout.begin(&call);
        lookout.raise();
        (0..Watch::MAX).for_each(|_| lookout.watch.add(&call.0, 0));
        assert!(!lookout.nap(&call, NAP), "nothing is sure to end it");
    }
}
