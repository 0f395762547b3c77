//! How a worker of a sidecar sleeps: on the commit word that each of its lanes expects next, and on its own call.
//!
//! # Who sleeps and who wakes
//! | worker                                          | producer                              |
//! |-------------------------------------------------|---------------------------------------|
//! | Z1 each gate's `sleeping` := s+1                | Z2 `SQ[s].w0 := s+1`                  |
//! | [`barrier::raise`]                              | [`barrier::pass`]                     |
//! | looks at each lane's `SQ[s].w0` once more       | looks at `sleeping`; s+1: wakes `SQ[s].w0` |
//! | sleeps on the words it looked at                |                                       |
//!
//! | producer                                        | worker                                |
//! |-------------------------------------------------|---------------------------------------|
//! | Z3 `waiting` in `sq` := s+1                     | Z4 `CQ[s].w0 := s+1`                  |
//! | [`barrier::raise`]                              | [`barrier::pass`]                     |
//! | looks at `CQ[s].w0` once more                   | looks at `waiting`; s+1: wakes `CQ[s].w0` |
//! | sleeps on it                                    |                                       |
//!
//! The two are one protocol. Both sides go by position: a side that only knew *that* the other sleeps could be late with its
//! look after task s, find a sleep on s+1, take that for ended, and leave it to last.
//!
//! The barriers exclude that both looks come before both stores, so either the sleeper sees the commit or the other side the
//! sleeper. Between the sleeper's look and its sleep the kernel compares each word with what the look saw, under the lock
//! that a wake-up takes, so a commit in between ends the sleep before it begins. A call needs no such flag: whoever calls
//! always wakes. Every sleep ends by itself after [`NAP`]: what a stranger does to the words of a lane, be it to take its
//! sleepers to another word, costs that much time at most.

use std::sync::atomic::{AtomicU32, Ordering::Acquire};
use std::time::Duration;

use executor_core::Clock;
use executor_core::dispatch::Lane;
use executor_core::worker::{Lanes, Sleep, Woken};

use crate::barrier;
use crate::futex::{self, Ended, Watch, Who};
use crate::housekeeping::ShmLane;
use crate::lane::LOOK_AGAIN;
use crate::mutant::Mutant;

/// Longest sleep.
const NAP: Duration = Duration::from_millis(100);
/// A task that came this shortly before a sleep ended in its time may not have come to its wake-up yet.
const JUST_NOW: Duration = Duration::from_millis(20);

/// Puts a worker to sleep.
#[derive(Debug)]
pub(crate) struct Sleeper {
    watch: Watch,
    /// Of the stamps, if tasks carry any.
    clock: Option<Clock>,
}

impl Sleeper {
    pub(crate) fn new(clock: Clock, timed: bool) -> Self {
        Self { watch: Watch::new(), clock: timed.then_some(clock) }
    }

    /// What there is to sleep on. `false`: there is something to do.
    fn look(&mut self, lanes: &Lanes<'_, ShmLane>, call: &AtomicU32) -> bool {
        self.watch.clear();
        self.watch.add(call, 0);
        lanes.iter().all(|lane| lane.expect(|word, seen| self.watch.add(word, seen))) && call.load(Acquire) == 0
    }

    fn nap(&mut self, lanes: &Lanes<'_, ShmLane>, call: &AtomicU32, is_sure: bool) -> Woken {
        if !self.look(lanes, call) {
            return Woken::AtOnce;
        }
        let is_sure = is_sure && (!self.watch.is_short() || Mutant::CrowdForgotten.is_on());
        let due = self.clock.map_or(u64::MAX, |clock| {
            clock.now().saturating_add(clock.ns_to_ticks((NAP - JUST_NOW).as_nanos() as u64))
        });
        match self.watch.nap(if is_sure { NAP } else { LOOK_AGAIN }) {
            Ended::Woken => Woken::Woken,
            Ended::InTime if is_sure && lanes.iter().filter_map(ShmLane::waiting_since).any(|since| since < due) => {
                Woken::Overslept
            }
            Ended::InTime | Ended::Interrupted => Woken::InTime,
            Ended::Fault | Ended::Refused => {
                // A file was truncated, and a look at the word has zeros put in its place; or the kernel can sleep on one
                // word only.
                let _ = lanes.iter().filter(|lane| lane.is_ready()).count();
                futex::nap(call, 0, LOOK_AGAIN, Who::Anybody);
                Woken::InTime
            }
        }
    }
}

impl Sleep<ShmLane> for Sleeper {
    fn sleep(&mut self, lanes: &mut Lanes<'_, ShmLane>, call: &AtomicU32) -> Woken {
        lanes.iter_mut().for_each(|lane| {
            lane.pay(true);
            lane.doze(true); // Z1
        });
        let is_sure = barrier::raise();
        let woken = self.nap(lanes, call, is_sure);
        lanes.iter_mut().for_each(|lane| lane.doze(false));
        woken
    }
}

/// What workers of this process sleep without, as `status` tells it.
pub(crate) fn lacks() -> u64 {
    u64::from(!barrier::is_registered()) | u64::from(!futex::has_watch()) << 1
}
