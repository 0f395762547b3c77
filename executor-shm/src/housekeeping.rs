//! The lanes' life: made, taken, drained, reset; and the end of it all when the sidecar stops.
//!
//! One thread runs it. It serves no task: workers do, and lanes go to them and come back through their
//! [`Control`] rings.
//!
//! # States
//! ```text
//! RESETTING -> FREE      its lock was ours while the files were replaced
//! FREE      -> ACTIVE    its owner holds the lock and has written its wish, or has committed a task
//! ACTIVE    -> DRAINING  the lock is free: the owner detached or died
//! DRAINING  -> RESETTING the worker handed the lane back, everything accepted is answered
//! ACTIVE    -> POISONED  its submissions were damaged: see `audit`
//! POISONED  -> RESETTING its lock is free and the worker handed it back
//! ```
//! Each arrow is one store to the journal, then one to the mirror in `status`.
//!
//! # Invariants
//! - H1: a lane's files are replaced only under its `sq` lock, so no producer can be attached to them.
//! - H2: a lane's owner is probed only while the mirror says ACTIVE: an attacher that still can be refused is not
//!   taken for a dead owner.
//! - H3: `base` grows by the journal's commit word before that word is cleared: ids may skip, they never repeat.
//! - H4: a FREE lane that was touched is reset only if its first slot holds no task when looked at *after* its lock was
//!   seen free: its owner may come, submit and go between any two looks.
//! - H5: a FREE lane whose names were taken away is reset only after its lock was got and then no task was seen: whoever
//!   opened the files before that has the lock, and with it the lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use executor_core::Clock;
use executor_core::dispatch::Served;
use executor_core::record::COMMIT;
use executor_core::task::LaneFacts;
use executor_core::worker::Control;

use crate::draft::LaneFiles;
use crate::fault::Running;
use crate::futex::{self, Watch, Who};
use crate::handle::WorkerProgress;
use crate::lane::{LaneShape, Rerun, WorkerHalf};
use crate::layout::{journal::k, lane as sq_words, status};
use crate::lock::LockFile;
use crate::mapped::{ReadWords, SharedWords, WriteWords};
use crate::master::Master;
use crate::mutant::Mutant;
use crate::recovery;
use crate::rehearsal::{Instant, JoinHandle, sleep};
use crate::state::{LaneState, LaneWord};
use crate::status::Placement;
use crate::words::{Words, WordsMut};

mod audit;
mod notes;
mod pace;
mod reset;
mod start;
mod stop;

pub use audit::damaged_at;
use notes::Notes;
pub(crate) use pace::Limits;
use pace::{Pace, run_time};
pub use reset::{clear_lines, count_off_ids, skip_ids};
pub use start::RecoveryReport;

pub(crate) type ShmLane = WorkerHalf<ReadWords, WriteWords, SharedWords>;

/// Longest nap between two looks at the lanes; attaching and detaching producers cut it short. A look that finds nothing
/// costs some 70 us of a core that was asleep, and a producer that died is to be noticed within 50 ms.
const NAP: Duration = Duration::from_millis(40);
/// The same while it looks more often than it may, and is not to be woken.
const TIRED_NAP: Duration = Duration::from_millis(20);
/// Lanes that a worker can sleep on beside its own call. One that has more, because all workers do, naps shortly instead.
pub(crate) const LANES_OF_ONE: usize = Watch::MAX - 1;
/// How often the names are looked at.
const NAMES_INTERVAL: Duration = Duration::from_secs(1);

/// A lane as housekeeping holds it.
#[derive(Debug)]
struct Keep {
    word: LaneWord,
    /// For looking at commit words and the owner's wish; the worker has a clone.
    sq: Option<ReadWords>,
    /// While no worker has it.
    cq: Option<WriteWords>,
    sq_lock: Option<LockFile>,
    poison: Arc<AtomicU32>,
    placement: Placement,
    /// What the worker had done when its files were seen to be broken.
    broken_since: Option<WorkerProgress>,
    /// A worker has the lane.
    served: bool,
    drain_sent: bool,
    /// How recovery left it.
    start: (u64, Option<Rerun>),
}

/// Shared with the handle.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    pub(crate) stop: AtomicBool,
}

pub(crate) struct Housekeeping {
    pub(crate) master: Master,
    pub(crate) clock: Clock,
    /// When the last look at every lane began, in ticks.
    ticked_at: u64,
    pub(crate) generation: u32,
    pub(crate) controls: Vec<Control<ShmLane>>,
    /// What each worker tells the signal handler of its thread.
    pub(crate) running: Vec<Arc<Running>>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) drain_time: Duration,
    pub(crate) problem: Arc<std::sync::Mutex<Option<String>>>,
    lanes: Vec<Keep>,
    names_seen: Instant,
    names_lost: bool,
    reset_again: Option<Instant>,
    looks: Pace,
    renewals: Pace,
    /// Whether it could not do all it was asked for the last time.
    is_held_back: bool,
    notes: Notes,
}

/// What is told while it is held back.
const HELD_BACK: &str =
    "producers attach or wake housekeeping faster than it may serve them: it may take a third of a core";

/// How the life of the lanes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nobody was attached and nothing unanswered: the files are gone.
    Removed,
    /// The files stay: producers are attached or tasks unanswered. The next start serves them.
    Kept {
        /// Lanes with an owner.
        attached: u32,
        /// Lanes with tasks that are accepted and not answered.
        unanswered: u32,
    },
    /// Somebody took the files' names away; nothing of what is there now was touched.
    NamesLost,
}

impl Housekeeping {
    /// Gives the workers what recovery found to serve.
    pub(crate) fn hand_over_recovered(&mut self) {
        for lane in 0..self.lanes.len() {
            if matches!(
                self.lanes[lane].word.state(),
                Some(LaneState::Active | LaneState::Draining | LaneState::Poisoned)
            ) {
                self.hand_over(lane);
            }
        }
    }

    /// Runs until a stop is ordered; returns once the files are settled.
    pub(crate) fn run(mut self, workers: Vec<JoinHandle<bool>>) -> (Ending, Self) {
        let (mut was_woken, mut begun) = (false, run_time());
        loop {
            let nap = self.master.status.load(status::NAP);
            if self.orders.stop.load(Relaxed) {
                let ending = self.stop(workers);
                return (ending, self);
            }
            if self.names_lost || self.names_seen.elapsed() >= NAMES_INTERVAL {
                self.names_seen = Instant::now();
                self.notes.look_at_clocks(&self.master);
                if !self.master.is_intact() {
                    self.tell("the files' names were taken away; stopping without touching what is there now");
                    self.drain(workers);
                    return (Ending::NamesLost, self);
                }
                self.give_up_nameless();
            }
            if workers.iter().any(JoinHandle::is_finished) {
                self.tell("a worker ended; the files are left for the next start");
                self.orders.stop.store(true, Relaxed);
                continue;
            }
            self.tick();
            let (renewal, cost) = self.renew();
            if was_woken {
                self.looks.spend(run_time().saturating_sub(begun).saturating_sub(cost)); // the way here included
            }
            begun = run_time();
            let is_tired = self.looks.wait(Instant::now()).is_some();
            self.hold_back(is_tired || renewal.is_some_and(|wait| !wait.is_zero()));
            let longest = if is_tired { TIRED_NAP } else { NAP };
            let time = renewal.unwrap_or(longest).min(longest);
            was_woken = if is_tired {
                sleep(time); // whoever wakes is not heard, a stop included
                false
            } else {
                futex::nap(self.master.status.atomic(status::NAP), nap, time, Who::Keeper)
            };
        }
    }

    /// Tells whether somebody wants more than housekeeping may do.
    fn hold_back(&mut self, is_held_back: bool) {
        if is_held_back {
            let count = self.master.status.load(status::HELD_BACK);
            self.master.status.store(status::HELD_BACK, count.wrapping_add(1));
            if !self.is_held_back {
                self.tell(HELD_BACK);
            }
        }
        self.is_held_back = is_held_back;
    }

    fn tell(&self, text: &str) {
        if let Ok(mut problem) = self.problem.lock() {
            *problem = Some(text.to_owned());
        }
    }

    /// One look at every lane. Lanes that are to be made anew are left for [`renew`](Self::renew).
    fn tick(&mut self) {
        let begun_at = self.clock.now();
        self.take_back(false);
        for lane in 0..self.lanes.len() {
            if self.is_broken(lane) {
                self.give_up(lane);
                continue;
            }
            match self.lanes[lane].word.state() {
                Some(LaneState::Free) if self.lanes[lane].is_taken() => self.activate(lane),
                // An attacher died between its wish and its first task: the files are no longer pristine.
                Some(LaneState::Free) if self.lanes[lane].is_given_up() => {
                    self.set(lane, LaneState::Resetting, 0);
                }
                Some(LaneState::Active) => {
                    if !self.lanes[lane].served {
                        self.hand_over(lane);
                    }
                    if self.lanes[lane].is_deserted() {
                        self.set(lane, LaneState::Draining, 0);
                        self.send_drain(lane);
                    } else {
                        self.audit(lane);
                    }
                }
                Some(LaneState::Draining) => {
                    if !self.lanes[lane].served && !self.lanes[lane].drain_sent {
                        self.hand_over(lane);
                    }
                    self.send_drain(lane);
                }
                Some(LaneState::Poisoned) => {
                    if !self.lanes[lane].served && !self.lanes[lane].drain_sent {
                        self.hand_over(lane);
                    }
                    if self.lanes[lane].is_deserted() {
                        self.send_drain(lane);
                    }
                }
                _ => {}
            }
        }
        self.ticked_at = begun_at;
    }

    fn set(&mut self, lane: usize, state: LaneState, reason: u8) {
        let word = self.lanes[lane].word.with(state, reason);
        self.lanes[lane].word = word;
        self.master.set_lane_word(lane as u32, word);
        self.notes.lane(&self.master, lane as u32, word);
    }

    /// FREE -> ACTIVE.
    fn activate(&mut self, lane: usize) {
        let Some(sq) = &self.lanes[lane].sq else { return };
        let (priority, wish) = match sq.load_commit(sq_words::WISH) {
            0 => (executor_core::Priority::Normal, None),
            word => {
                let worker = (word >> 16) as u32 & 0xffff;
                (executor_core::Priority::from_bits(word >> 8), worker.checked_sub(1))
            }
        };
        let owner = sq.load(sq_words::OWNER);
        let worker = wish.filter(|&worker| (worker as usize) < self.controls.len() && self.load(worker) < LANES_OF_ONE);
        let worker = worker.unwrap_or_else(|| self.least_loaded());
        let placement = Placement { priority, worker };
        let at = self.master.geometry.journal_lane(lane as u32);
        let gate = self.master.geometry.gate(lane as u32);
        self.lanes[lane].placement = placement;
        if !Mutant::PlacementNotNoted.is_on() {
            self.master.journal.store(at + k::PLACEMENT, placement.word());
        }
        self.master.journal.store(at + k::GENERATION, u64::from(self.generation));
        self.master.status.store(gate + status::LANE_PLACEMENT, placement.word());
        self.master.status.store(gate + status::LANE_OWNER, owner);
        self.master.status.store(gate + status::LANE_ATTACHED_AT, self.ticked_at);
        self.set(lane, LaneState::Active, 0);
        self.hand_over(lane);
    }

    fn least_loaded(&self) -> u32 {
        (0..self.controls.len() as u32).min_by_key(|&worker| self.load(worker)).unwrap_or(0)
    }

    fn load(&self, worker: u32) -> usize {
        self.lanes.iter().filter(|keep| keep.served && keep.placement.worker == worker).count()
    }

    fn hand_over(&mut self, lane: usize) {
        let at = self.master.geometry.journal_lane(lane as u32);
        let gate = self.master.geometry.gate(lane as u32);
        let keep = &mut self.lanes[lane];
        if keep.placement.worker as usize >= self.controls.len() {
            keep.placement.worker = lane as u32 % self.controls.len().max(1) as u32; // fewer workers than last time
            self.master.journal.store(at + k::PLACEMENT, keep.placement.word());
            self.master.status.store(gate + status::LANE_PLACEMENT, keep.placement.word());
        }
        let Some(control) = self.controls.get_mut(keep.placement.worker as usize) else { return };
        let (Some(sq), Some(cq)) = (keep.sq.clone(), keep.cq.take()) else { return };
        let half = WorkerHalf::new(
            sq,
            cq,
            self.master.journal.clone(),
            at,
            LaneShape::new(&self.master.geometry),
            keep.start,
            Arc::clone(&keep.poison),
        );
        let half = match self.running.get(keep.placement.worker as usize) {
            Some(running) => half.telling(running),
            None => half,
        };
        let half = half.gated(self.master.status.clone(), gate);
        half.wake_at_start();
        let facts = LaneFacts {
            lane: lane as u32,
            base: self.master.journal.load(at + k::BASE),
            instance_nonce: self.master.nonce,
            generation: self.master.journal.load(at + k::GENERATION) as u32,
            priority: keep.placement.priority,
            attached_at: self.master.status.load(gate + status::LANE_ATTACHED_AT),
            meter: self.master.geometry.meter_layout().lane(lane),
        };
        match control.adopt(Box::new(Served::new(half, facts))) {
            Ok(()) => {
                if !Mutant::CommandWakesNobody.is_on() {
                    futex::wake_all(control.call());
                }
                keep.served = true;
                keep.drain_sent = false;
            }
            // The worker is busy with one long task and its ring is full: the next look tries again.
            Err(executor_core::worker::ControlFull(served)) => {
                let (_, cq) = served.lane.into_parts();
                keep.cq = Some(cq);
            }
        }
    }

    fn send_drain(&mut self, lane: usize) {
        let keep = &mut self.lanes[lane];
        if keep.served
            && !keep.drain_sent
            && let Some(control) = self.controls.get_mut(keep.placement.worker as usize)
        {
            keep.drain_sent = control.drain(lane as u32).is_ok();
            futex::wake_all(control.call());
        }
    }

    /// Takes lanes that workers gave back. While serving, a lane comes back empty or served its capacity once more;
    /// while stopping it may come back with tasks that there was no time for, which the next start serves.
    fn take_back(&mut self, stopping: bool) {
        for worker in 0..self.controls.len() {
            while let Some(served) = self.controls.get_mut(worker).and_then(Control::take_returned) {
                let Some(keep) = self.lanes.get_mut(served.facts.lane as usize) else { continue };
                let rerun = served.lane.has_rerun();
                let (_, cq) = served.lane.into_parts();
                let lane = served.facts.lane;
                let at = self.master.geometry.journal_lane(lane);
                let unanswered = keep.sq.as_ref().is_some_and(|sq| {
                    recovery::is_unanswered(&self.master.journal, at, sq, Some(&cq), &self.master.geometry)
                });
                keep.cq = Some(cq);
                keep.served = false;
                if keep.drain_sent
                    && !rerun
                    && !(stopping && unanswered && !Mutant::StopResetsUnserved.is_on())
                    && keep.word.state() != Some(LaneState::Active)
                {
                    self.skip_ids_of_damaged(lane);
                    self.set(lane as usize, LaneState::Resetting, 0);
                }
            }
        }
    }

    /// Lanes that have an owner now.
    pub(crate) fn attached(&self) -> u32 {
        self.lanes.iter().filter(|keep| keep.is_owned()).count() as u32
    }
}

impl Keep {
    fn absent(word: LaneWord) -> Self {
        Self {
            word,
            sq: None,
            cq: None,
            sq_lock: None,
            poison: Arc::default(),
            placement: Placement::from_word(0),
            broken_since: None,
            served: false,
            drain_sent: false,
            start: (0, None),
        }
    }

    fn hold(&mut self, files: LaneFiles) {
        self.sq = Some(files.sq);
        self.cq = Some(files.cq);
        self.sq_lock = Some(files.sq_lock);
        self.poison = files.poison;
        self.broken_since = None;
    }

    /// Whether somebody else holds the `sq` lock. A probe that fails counts as held: the safe side.
    fn is_owned(&self) -> bool {
        self.sq_lock.as_ref().is_some_and(|lock| lock.is_write_locked().unwrap_or(true))
    }

    /// A FREE lane with an owner who has said what it wants, or that has a task already.
    fn is_taken(&self) -> bool {
        let is_wished = self.is_touched() || Mutant::WishNotAwaited.is_on();
        (self.has_task() && !Mutant::OrphanedTaskNotSeen.is_on()) || (is_wished && self.is_owned())
    }

    /// A FREE lane whose attacher died between its wish and its first task. The order of the looks matters (H4): once the
    /// lock of a touched lane is free nobody can attach to it any more (A1), so the last look is final.
    fn is_given_up(&self) -> bool {
        let is_left = self.is_touched() && self.is_deserted() && !Mutant::TouchedLaneKept.is_on();
        is_left && (!self.has_task() || Mutant::TaskGivenUp.is_on())
    }

    /// Whether a task was ever submitted.
    fn has_task(&self) -> bool {
        self.sq.as_ref().is_some_and(|sq| sq.load_commit(sq_words::SLOTS + COMMIT) != 0)
    }

    /// Whether somebody has written a wish.
    fn is_touched(&self) -> bool {
        self.sq.as_ref().is_some_and(|sq| sq.load_commit(sq_words::WISH) != 0)
    }

    fn is_deserted(&self) -> bool {
        !self.is_owned() && !Mutant::DesertionUnnoticed.is_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft;
    use crate::files::{self, InstanceName};
    use crate::layout::{Geometry, Kind};

    #[test]
    fn a_lane_whose_owner_came_and_went_is_given_up_only_if_it_has_no_task() {
        let instance = InstanceName::new(&format!("given-up-{}", std::process::id())).unwrap();
        let geometry =
            Geometry { capacity: 4, request_bytes: 64, response_bytes: 64, lanes: 1, handlers: 8, workers: 1 };
        let mut keep = Keep::absent(LaneWord::new(LaneState::Free, 0, 7));
        keep.hold(draft::create_lane(&instance, &geometry, 1, None, 0, 7).unwrap());
        assert!(!keep.is_taken() && !keep.is_given_up(), "nobody has come");

        let name = instance.sq(0, 7);
        let owner = files::open(&name, nix::fcntl::OFlag::O_RDWR).unwrap();
        owner.try_lock().unwrap();
        assert!(!keep.is_taken() && !keep.is_given_up(), "it is about to write its wish");
        let sq = files::map_for_writing(&name, geometry.sq_bytes(), Kind::Sq, 1).unwrap();
        sq.commit(sq_words::WISH, 1);
        assert!(keep.is_taken() && !keep.is_given_up(), "its owner is there");
        drop(owner);
        assert!(!keep.is_taken() && keep.is_given_up(), "it died before its first task");
        sq.commit(sq_words::SLOTS + COMMIT, 1);
        assert!(keep.is_taken() && !keep.is_given_up(), "it came, submitted and went since somebody looked for a task");

        files::unlink(&name).unwrap();
        files::unlink(&instance.cq(0, 7)).unwrap();
    }
}
