//! The lanes' life: made, taken, drained, reset; and the end of it all when the sidecar stops.
//!
//! One thread runs it. It serves no task: workers do, and lanes go to them and come back through their
//! [`Control`](executor_core::worker::Control) rings.
//!
//! # States
//! ```text
//! RESETTING -> FREE      its lock was ours while the files were replaced
//! FREE      -> ACTIVE    its owner holds the lock and has written its wish, or has committed a task
//! ACTIVE    -> DRAINING  the lock is free: the owner detached or died
//! DRAINING  -> RESETTING the worker handed the lane back, everything accepted is answered
//! any       -> POISONED  and on to RESETTING when the lock is free and the worker has handed it back
//! ```
//! Each arrow is one store to the journal, then one to the mirror in `status`.
//!
//! # Invariants
//! - H1: a lane's files are replaced only under its `sq` lock, so no producer can be attached to them.
//! - H2: a lane's owner is probed only while the mirror says ACTIVE: an attacher that still can be refused is not
//!   taken for a dead owner.
//! - H3: `base` grows by the journal's commit word before that word is cleared: ids may skip, they never repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use executor_core::Clock;
use executor_core::dispatch::Served;
use executor_core::record::{COMMIT, WORDS};
use executor_core::registry::Registry;
use executor_core::status::{Poison, Status};
use executor_core::task::LaneFacts;
use executor_core::worker::Control;

use crate::files::{self, FileError, LaneFiles};
use crate::futex;
use crate::lane::{LaneShape, WorkerHalf};
use crate::layout::{LINE, journal::k, lane as sq_words, status};
use crate::lock::LockFile;
use crate::master::Master;
use crate::recovery::{self, Circumstances};
use crate::state::{InstanceState, LaneState, LaneWord};
use crate::status::{HandlerRow, Placement};
use crate::words::{ReadWords, SharedWords, Words, WordsMut, WriteWords};

pub(crate) type ShmLane = WorkerHalf<ReadWords, WriteWords, SharedWords>;

/// Longest nap between two looks at the lanes; attaching and detaching producers cut it short.
const NAP: Duration = Duration::from_millis(20);
/// How often the names are looked at.
const NAMES_INTERVAL: Duration = Duration::from_secs(1);
/// FREE lanes that are kept made.
const SPARE: usize = 2;

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
    /// A worker has the lane.
    served: bool,
    drain_sent: bool,
    /// How recovery left it.
    start: (u64, Option<crate::lane::Rerun>),
}

/// What happened to the lanes at a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Lanes that had an owner or unanswered tasks.
    pub lanes: u32,
    /// Tasks in flight that are run again.
    pub reruns: u32,
    /// Tasks in flight that were answered `Interrupted`.
    pub interrupted: u32,
}

/// Shared with the handle.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    pub(crate) stop: AtomicBool,
    /// Give up draining after the task in hand.
    pub(crate) hurry: AtomicBool,
}

pub(crate) struct Housekeeping {
    pub(crate) master: Master,
    pub(crate) clock: Clock,
    pub(crate) generation: u32,
    pub(crate) controls: Vec<Control<ShmLane>>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) drain_time: Duration,
    pub(crate) problem: Arc<std::sync::Mutex<Option<String>>>,
    lanes: Vec<Keep>,
    names_seen: Instant,
    reset_again: Option<Instant>,
}

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
    /// Recovers every lane of the files and rewrites the mirrors. No worker runs yet.
    pub(crate) fn recover(
        master: Master,
        clock: Clock,
        rows: (&[HandlerRow], &[HandlerRow], u32),
        registry: &Registry,
        orders: Arc<Orders>,
        drain_time: Duration,
    ) -> Result<(Self, RecoveryReport), FileError> {
        let (old_rows, new_rows, generation) = rows;
        let mut report = RecoveryReport::default();
        let mut lanes = Vec::new();
        for lane in 0..master.geometry.lanes {
            let mut keep = Keep::absent(master.lane_word(lane));
            let at = master.geometry.journal_lane(lane);
            keep.placement = Placement::from_word(master.journal.load(at + k::PLACEMENT));
            match keep.word.state() {
                Some(LaneState::Absent) => {}
                Some(LaneState::Resetting) | None => keep.word = keep.word.with(LaneState::Resetting, 0),
                Some(state) => match open_lane(&master, lane, keep.word.nonce()) {
                    // Files that are gone or damaged under a journal that names them: nobody can attach to them, and
                    // what was attached finds another nonce at the name. They are made anew.
                    Err(error) if error.is_missing() => keep.word = keep.word.with(LaneState::Resetting, 0),
                    Err(error) => return Err(error),
                    Ok(files) => {
                        let look = |record: &executor_core::record::DescriptorRecord| {
                            let id = record.handler_id();
                            let attached = master.journal.load(at + k::GENERATION);
                            let old = old_rows.iter().find(|row| row.id == id);
                            let new = new_rows.iter().find(|row| row.id == id);
                            Circumstances {
                                poisoned: state == LaneState::Poisoned,
                                payload_lost: false,
                                handler_changed: new.is_none_or(|row| u64::from(row.since) > attached || row.gone),
                                idempotent: old.is_some_and(|row| row.idempotent)
                                    && registry.get(id).is_some_and(executor_core::Handler::is_idempotent),
                                signal: false,
                            }
                        };
                        let found =
                            recovery::recover(&master.journal, at, &files.cq, &master.geometry, look);
                        if state != LaneState::Free {
                            report.lanes += 1;
                        }
                        report.reruns += u32::from(found.rerun.is_some());
                        report.interrupted += u32::from(matches!(found.answered, Some(Status::Interrupted(_))));
                        keep.start = (found.position, found.rerun);
                        keep.poison.store(u32::from(keep.word.reason()), Relaxed);
                        keep.hold(files);
                    }
                },
            }
            lanes.push(keep);
        }
        for (lane, keep) in (0..).zip(&lanes) {
            let at = master.geometry.journal_lane(lane);
            let gate = master.geometry.gate(lane);
            master.status.store(gate + status::LANE_BASE, master.journal.load(at + k::BASE));
            master.status.store(gate + status::LANE_PLACEMENT, keep.placement.word());
            master.status.store(gate + status::LANE_RESETS, master.journal.load(at + k::RESETS));
            master.set_lane_word(lane, keep.word);
        }
        let problem = Arc::default();
        let (names_seen, reset_again) = (Instant::now(), None);
        let controls = Vec::new();
        let this = Self {
            master,
            clock,
            generation,
            controls,
            orders,
            drain_time,
            problem,
            lanes,
            names_seen,
            reset_again,
        };
        Ok((this, report))
    }

    /// Makes the first lanes, or says why there is no room.
    pub(crate) fn make_first_lanes(&mut self) -> Result<(), FileError> {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].word.state() == Some(LaneState::Resetting) {
                self.reset(lane)?;
            }
        }
        self.keep_spare()
    }

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
    pub(crate) fn run(mut self, workers: Vec<std::thread::JoinHandle<bool>>) -> (Ending, Self) {
        loop {
            let nap = self.master.status.load(status::NAP);
            if self.orders.stop.load(Relaxed) {
                let ending = self.stop(workers);
                return (ending, self);
            }
            if self.names_seen.elapsed() >= NAMES_INTERVAL {
                self.names_seen = Instant::now();
                if !self.master.is_intact() {
                    self.tell("the files' names were taken away; stopping without touching what is there now");
                    self.drain(workers);
                    return (Ending::NamesLost, self);
                }
            }
            if workers.iter().any(std::thread::JoinHandle::is_finished) {
                self.tell("a worker ended; the files are left for the next start");
                self.orders.stop.store(true, Relaxed);
                continue;
            }
            self.tick();
            futex::nap(self.master.status.atomic(status::NAP), nap, NAP);
        }
    }

    fn tell(&self, text: &str) {
        if let Ok(mut problem) = self.problem.lock() {
            *problem = Some(text.to_owned());
        }
    }

    /// One look at every lane.
    fn tick(&mut self) {
        self.take_back();
        for lane in 0..self.lanes.len() {
            match self.lanes[lane].word.state() {
                Some(LaneState::Free) if self.lanes[lane].is_taken() => self.activate(lane),
                // An attacher died between its wish and its first task: the files are no longer pristine.
                Some(LaneState::Free) if self.lanes[lane].is_touched() && self.lanes[lane].is_deserted() => {
                    self.set(lane, LaneState::Resetting, 0);
                    self.try_reset(lane);
                }
                Some(LaneState::Active) => {
                    if !self.lanes[lane].served {
                        self.hand_over(lane);
                    }
                    if self.lanes[lane].is_deserted() {
                        self.set(lane, LaneState::Draining, 0);
                        self.send_drain(lane);
                    }
                }
                Some(LaneState::Draining) => {
                    if !self.lanes[lane].served && !self.lanes[lane].drain_sent {
                        self.hand_over(lane);
                    }
                    self.send_drain(lane);
                }
                Some(LaneState::Poisoned) if self.lanes[lane].is_deserted() => self.send_drain(lane),
                Some(LaneState::Resetting) => self.try_reset(lane),
                _ => {}
            }
        }
        if let Err(error) = self.keep_spare() {
            self.put_off(&error);
        }
    }

    fn put_off(&mut self, error: &FileError) {
        self.tell(&error.to_string());
        self.reset_again = Some(Instant::now() + NAMES_INTERVAL);
    }

    fn try_reset(&mut self, lane: usize) {
        if self.reset_again.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match self.reset(lane) {
            Ok(()) => self.reset_again = None,
            Err(error) => self.put_off(&error),
        }
    }

    fn keep_spare(&mut self) -> Result<(), FileError> {
        if self.reset_again.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let count = |lanes: &[Keep], state| lanes.iter().filter(|keep| keep.word.state() == Some(state)).count();
        while count(&self.lanes, LaneState::Free) < SPARE {
            let Some(lane) = self.lanes.iter().position(|keep| keep.word.state() == Some(LaneState::Absent)) else {
                break;
            };
            // Lanes are born RESETTING, so that a start killed here finds an ordinary unfinished reset.
            self.set(lane, LaneState::Resetting, 0);
            if let Err(error) = self.reset(lane) {
                self.footprint();
                return Err(error);
            }
        }
        self.footprint();
        Ok(())
    }

    fn footprint(&self) {
        let made = self.lanes.iter().filter(|keep| keep.sq.is_some()).count();
        self.master.store_footprint(made as u32);
    }

    fn set(&mut self, lane: usize, state: LaneState, reason: u8) {
        let word = self.lanes[lane].word.with(state, reason);
        self.lanes[lane].word = word;
        self.master.set_lane_word(lane as u32, word);
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
        let worker = wish.filter(|&worker| (worker as usize) < self.controls.len());
        let worker = worker.unwrap_or_else(|| self.least_loaded());
        let placement = Placement { priority, worker };
        let at = self.master.geometry.journal_lane(lane as u32);
        let gate = self.master.geometry.gate(lane as u32);
        self.lanes[lane].placement = placement;
        self.master.journal.store(at + k::PLACEMENT, placement.word());
        self.master.journal.store(at + k::GENERATION, u64::from(self.generation));
        self.master.status.store(gate + status::LANE_PLACEMENT, placement.word());
        self.master.status.store(gate + status::LANE_OWNER, owner);
        self.master.status.store(gate + status::LANE_ATTACHED_AT, self.clock.now());
        self.set(lane, LaneState::Active, 0);
        self.hand_over(lane);
    }

    fn least_loaded(&self) -> u32 {
        let load = |worker: u32| self.lanes.iter().filter(|keep| keep.served && keep.placement.worker == worker).count();
        (0..self.controls.len() as u32).min_by_key(|&worker| load(worker)).unwrap_or(0)
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
        }
    }

    /// Takes lanes that workers gave back.
    fn take_back(&mut self) {
        for control in &mut self.controls {
            while let Some(served) = control.take_returned() {
                let Some(keep) = self.lanes.get_mut(served.facts.lane as usize) else { continue };
                let rerun = served.lane.has_rerun();
                let (_, cq) = served.lane.into_parts();
                keep.cq = Some(cq);
                keep.served = false;
                let lane = served.facts.lane;
                if keep.drain_sent && !rerun && keep.word.state() != Some(LaneState::Active) {
                    keep.word = keep.word.with(LaneState::Resetting, 0);
                    self.master.set_lane_word(lane, keep.word);
                }
            }
        }
    }

    /// RESETTING -> FREE, from the top. A lane whose lock is held by somebody is left for later.
    fn reset(&mut self, lane: usize) -> Result<(), FileError> {
        let number = lane as u32;
        let (instance, geometry) = (&self.master.instance, self.master.geometry);
        let old = self.lanes[lane].word.nonce();
        let lock = match self.lanes[lane].sq_lock.take() {
            Some(lock) => Some(lock),
            None if old == 0 => None,
            None => match files::open(&instance.sq(number, old), nix::fcntl::OFlag::O_RDWR) {
                Ok(lock) => Some(lock),
                Err(error) if error.is_missing() => None,
                Err(error) => return Err(error),
            },
        };
        let held = match lock {
            Some(lock) if lock.try_lock().is_err() => {
                self.lanes[lane].sq_lock = Some(lock); // H1: somebody holds it; the next look tries again
                return Ok(());
            }
            lock => lock,
        };
        let at = geometry.journal_lane(number);
        let gate = geometry.gate(number);
        let (journal, table) = (&self.master.journal, &self.master.status);
        let base = journal.load(at + k::BASE) + journal.load(at + COMMIT); // H3
        journal.store(at + k::BASE, base);
        if old != 0 {
            files::unlink(&instance.sq(number, old))?;
            files::unlink(&instance.cq(number, old))?;
        }
        let nonce = files::random() >> 8;
        let word = LaneWord::new(LaneState::Resetting, 0, nonce.max(1));
        journal.commit(at + k::STATE, word.word());
        self.lanes[lane].word = word;
        self.lanes[lane].sq = None;
        self.lanes[lane].cq = None;
        let files = files::create_lane(instance, &geometry, self.master.nonce, number, word.nonce())?;
        journal.commit(at + COMMIT, 0);
        for cell in 1..WORDS {
            journal.store(at + cell, 0);
        }
        for cell in [k::ATTEMPTS, k::VERDICT, k::STARTED_AT, k::GENERATION, k::PLACEMENT] {
            journal.store(at + cell, 0);
        }
        for cell in 2 * LINE..3 * LINE {
            journal.store(at + cell, 0);
        }
        let resets = journal.load(at + k::RESETS) + u64::from(old != 0);
        journal.store(at + k::RESETS, resets);
        table.store(gate + status::LANE_BASE, base);
        table.store(gate + status::LANE_RESETS, resets);
        table.store(gate + status::LANE_OWNER, 0);
        table.store(gate + status::LANE_PLACEMENT, 0);
        self.master.mirror_lane_word(number, word);
        let keep = &mut self.lanes[lane];
        keep.placement = Placement::from_word(0);
        keep.start = (0, None);
        keep.served = false;
        keep.drain_sent = false;
        keep.poison = Arc::default();
        keep.hold(files);
        self.set(lane, LaneState::Free, 0);
        drop(held);
        Ok(())
    }

    /// Tells the workers to end, waits for them, and takes every lane back.
    fn drain(&mut self, workers: Vec<std::thread::JoinHandle<bool>>) -> bool {
        let deadline = Instant::now() + self.drain_time;
        let mut told = vec![false; self.controls.len()];
        let mut hurried = false;
        loop {
            self.take_back();
            for (told, control) in told.iter_mut().zip(&mut self.controls) {
                *told = *told || control.close().is_ok();
            }
            if workers.iter().all(std::thread::JoinHandle::is_finished) {
                break;
            }
            if !hurried && (Instant::now() >= deadline || self.orders.hurry.load(Relaxed)) {
                hurried = true;
                self.controls.iter().for_each(Control::hurry);
            }
            let nap = self.master.status.load(status::NAP);
            futex::nap(self.master.status.atomic(status::NAP), nap, Duration::from_millis(1));
        }
        let mut sound = true;
        for worker in workers {
            sound &= worker.join().unwrap_or(false);
        }
        self.take_back();
        sound
    }

    /// A kill with manners: what is committed is served, the files go only if nobody can miss them.
    fn stop(&mut self, workers: Vec<std::thread::JoinHandle<bool>>) -> Ending {
        self.master.set_state(InstanceState::Closing);
        if !self.drain(workers) {
            return self.keep_files();
        }
        // Every lane's lock at once, whatever its state: from here on nobody can attach.
        for keep in &self.lanes {
            if let Some(lock) = &keep.sq_lock
                && lock.try_lock().is_err()
            {
                return self.keep_files();
            }
        }
        // A reset that was cut off may have left an `sq` that is not in our hands.
        let stray = (0..).zip(&self.lanes).any(|(lane, keep)| {
            keep.sq_lock.is_none()
                && keep.word.nonce() != 0
                && !matches!(files::stat(&self.master.instance.sq(lane, keep.word.nonce())), Ok(None))
        });
        if stray || self.unanswered() > 0 || !self.master.is_intact() {
            return self.keep_files();
        }
        // The mirror first: an attacher that looks a second time must find no FREE lane any more.
        for lane in 0..self.lanes.len() {
            let word = self.lanes[lane].word.with(LaneState::Resetting, 0);
            self.master.mirror_lane_word(lane as u32, word);
        }
        for lane in 0..self.lanes.len() {
            let word = self.lanes[lane].word;
            if word.state() != Some(LaneState::Absent) {
                self.lanes[lane].word = word.with(LaneState::Resetting, 0);
                self.master.set_lane_word(lane as u32, self.lanes[lane].word);
            }
        }
        match self.unlink_all() {
            Ok(()) => Ending::Removed,
            Err(error) => {
                self.tell(&error.to_string());
                self.keep_files()
            }
        }
    }

    fn unlink_all(&self) -> Result<(), FileError> {
        let instance = &self.master.instance;
        for (lane, keep) in (0..).zip(&self.lanes) {
            if keep.word.state() != Some(LaneState::Absent) {
                files::unlink(&instance.sq(lane, keep.word.nonce()))?;
                files::unlink(&instance.cq(lane, keep.word.nonce()))?;
            }
        }
        files::unlink_own(&instance.status(), &self.master.status_lock)?;
        files::unlink_own(&instance.journal(), &self.master.journal_lock)
    }

    /// Lanes with a committed task that has no completion, FREE ones included.
    fn unanswered(&self) -> u32 {
        let geometry = &self.master.geometry;
        let open = |(lane, keep): (u32, &Keep)| {
            let Some(sq) = &keep.sq else { return false };
            let at = geometry.journal_lane(lane);
            let position = self.master.journal.load(at + COMMIT);
            let slot = |position: u64| sq_words::SLOTS + (position & geometry.mask()) as usize * WORDS;
            let waiting = sq.load_commit(slot(position) + COMMIT) == position + 1;
            let in_flight = position > 0
                && keep.cq.as_ref().is_none_or(|cq| cq.load(slot(position - 1) + COMMIT) != position);
            waiting || in_flight
        };
        (0..).zip(&self.lanes).filter(|&(lane, keep)| open((lane, keep))).count() as u32
    }

    fn keep_files(&self) -> Ending {
        let attached = self.lanes.iter().filter(|keep| keep.is_owned()).count() as u32;
        let unanswered = self.unanswered();
        self.master.set_state(InstanceState::Stopped);
        Ending::Kept { attached, unanswered }
    }

    /// Lanes that have an owner now.
    pub(crate) fn attached(&self) -> u32 {
        self.lanes.iter().filter(|keep| keep.is_owned()).count() as u32
    }

    /// Poisons a lane: what it has accepted is answered `Poisoned`, and it takes nothing more.
    #[allow(dead_code, reason = "the SIGBUS guard and the crash budget call it")]
    pub(crate) fn poison(&mut self, lane: usize, reason: Poison) {
        self.lanes[lane].poison.store(u32::from(reason.code()), Relaxed);
        self.set(lane, LaneState::Poisoned, reason.code());
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
            served: false,
            drain_sent: false,
            start: (0, None),
        }
    }

    fn hold(&mut self, files: LaneFiles) {
        self.sq = Some(files.sq);
        self.cq = Some(files.cq);
        self.sq_lock = Some(files.sq_lock);
    }

    /// Whether somebody else holds the `sq` lock. A probe that fails counts as held: the safe side.
    fn is_owned(&self) -> bool {
        self.sq_lock.as_ref().is_some_and(|lock| lock.is_locked().unwrap_or(true))
    }

    /// A FREE lane with an owner who has said what it wants, or that has a task already.
    fn is_taken(&self) -> bool {
        let Some(sq) = &self.sq else { return false };
        sq.load_commit(sq_words::SLOTS + COMMIT) != 0 || (self.is_touched() && self.is_owned())
    }

    /// Whether somebody has written a wish.
    fn is_touched(&self) -> bool {
        self.sq.as_ref().is_some_and(|sq| sq.load_commit(sq_words::WISH) != 0)
    }

    fn is_deserted(&self) -> bool {
        !self.is_owned()
    }
}

fn open_lane(master: &Master, lane: u32, nonce: u64) -> Result<LaneFiles, FileError> {
    files::open_lane(&master.instance, &master.geometry, master.nonce, lane, nonce)
}
