//! RESETTING: a lane's files are replaced, or made for the first time.

use std::time::Duration;

use executor_core::record::{COMMIT, WORDS};

use super::pace::run_time;
use super::{Housekeeping, Keep};
use crate::draft;
use crate::files::{self, FileError};
use crate::futex::{self, Who};
use crate::layout::{LINE, journal::k, status};
use crate::mutant::Mutant;
use crate::rehearsal::Instant;
use crate::state::{LaneState, LaneWord};
use crate::status::Placement;
use crate::words::{Words, WordsMut};

/// FREE lanes that are kept made.
const SPARE: usize = 2;
/// What lanes may cost in one go, before the others are looked at again.
const TURN: Duration = Duration::from_millis(2);
/// How long a reset that found no room waits before it tries again.
const RETRY: Duration = Duration::from_secs(1);

impl Housekeeping {
    /// Makes the first lanes, or says why there is no room.
    pub(crate) fn make_first_lanes(&mut self) -> Result<(), FileError> {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].word.state() == Some(LaneState::Resetting) {
                self.reset(lane)?;
            }
        }
        while self.wants_spare() {
            self.make_spare()?;
        }
        self.footprint();
        Ok(())
    }

    /// Makes lanes anew and spare ones, as far as their pace allows: how long until it allows more, or `None` if nothing
    /// waits for that; and what was spent.
    pub(super) fn renew(&mut self) -> (Option<Duration>, Duration) {
        let mut spent = Duration::ZERO;
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].word.state() == Some(LaneState::Resetting) {
                if let Some(wait) = self.wait_for_pace(spent) {
                    return (Some(wait), spent);
                }
                spent += self.paced(|this| this.try_reset(lane));
            }
        }
        while self.wants_spare() {
            if let Some(wait) = self.wait_for_pace(spent) {
                return (Some(wait), spent);
            }
            spent += self.paced(|this| {
                if let Err(error) = this.make_spare() {
                    this.put_off(&error);
                }
            });
        }
        self.footprint();
        (None, spent)
    }

    /// How long to wait before the next lane; a turn that is used up ends in a look at the others, not in a wait.
    fn wait_for_pace(&mut self, spent: Duration) -> Option<Duration> {
        self.renewals.wait(Instant::now()).or((spent >= TURN).then_some(Duration::ZERO))
    }

    /// Does a piece of work and has the pace pay for it; what it cost.
    fn paced(&mut self, work: impl FnOnce(&mut Self)) -> Duration {
        let begun = run_time();
        work(self);
        let cost = run_time().saturating_sub(begun);
        self.renewals.spend(cost);
        cost
    }

    pub(super) fn put_off(&mut self, error: &FileError) {
        self.tell(&error.to_string());
        self.reset_again = Some(Instant::now() + RETRY);
    }

    pub(super) fn try_reset(&mut self, lane: usize) {
        if self.reset_again.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match self.reset(lane) {
            Ok(()) => self.reset_again = None,
            Err(error) => self.put_off(&error),
        }
    }

    /// Whether there are too few FREE lanes and another can be made.
    fn wants_spare(&self) -> bool {
        if self.names_lost || self.reset_again.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        // An attacher that hangs between its lock and its wish holds a FREE lane that nobody else can have.
        let spare = |keep: &&Keep| keep.word.state() == Some(LaneState::Free) && !keep.is_owned();
        self.lanes.iter().any(|keep| keep.word.state() == Some(LaneState::Absent))
            && self.lanes.iter().filter(spare).take(SPARE).count() < SPARE
    }

    fn make_spare(&mut self) -> Result<(), FileError> {
        let absent = |keep: &Keep| keep.word.state() == Some(LaneState::Absent);
        let Some(lane) = self.lanes.iter().position(absent) else { return Ok(()) };
        // Lanes are born RESETTING, so that a start killed here finds an ordinary unfinished reset.
        self.set(lane, LaneState::Resetting, 0);
        self.reset(lane)
    }

    /// FREE lanes of which somebody removed a file are to be made anew: nobody can attach to them. A name that somebody took
    /// is left alone, as everywhere. The lock comes first (H5): an attacher that opened the files before has it and keeps the
    /// lane, or does not get it any more. Where a dead one left a task the lane is served, and our lock stays till then.
    pub(super) fn give_up_nameless(&mut self) {
        for lane in 0..self.lanes.len() {
            let keep = &self.lanes[lane];
            if keep.word.state() == Some(LaneState::Free)
                && !self.is_named(lane).unwrap_or(true)
                && keep.sq_lock.as_ref().is_some_and(|lock| lock.try_lock().is_ok())
                && !keep.has_task()
            {
                self.set(lane, LaneState::Resetting, 0);
            }
        }
    }

    /// Whether there is something under both names of a lane.
    fn is_named(&self, lane: usize) -> Result<bool, FileError> {
        let (instance, nonce) = (&self.master.instance, self.lanes[lane].word.nonce());
        let is_there = |name: String| files::stat(&name).map(|found| found.is_some());
        Ok(is_there(instance.sq(lane as u32, nonce))? && is_there(instance.cq(lane as u32, nonce))?)
    }

    fn footprint(&self) {
        let made = self.lanes.iter().filter(|keep| keep.sq.is_some()).count();
        self.master.store_footprint(made as u32);
    }

    /// RESETTING -> FREE, from the top. A lane whose lock is held by somebody is left for later.
    fn reset(&mut self, lane: usize) -> Result<(), FileError> {
        if !self.master.is_intact() {
            self.names_lost = true; // no files for an instance that is none any more
            return Ok(());
        }
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
            Some(lock) if lock.try_lock().is_err() && !Mutant::ResetUnderOwner.is_on() => {
                self.lanes[lane].sq_lock = Some(lock); // H1: somebody holds it; the next look tries again
                return Ok(());
            }
            lock => lock,
        };
        let at = geometry.journal_lane(number);
        let gate = geometry.gate(number);
        let (journal, table) = (&self.master.journal, &self.master.status);
        let base = count_off_ids(journal, at); // H3
        if old != 0 && !Mutant::OldFilesKept.is_on() {
            files::unlink(&instance.sq(number, old))?;
            files::unlink(&instance.cq(number, old))?;
        }
        let nonce = if Mutant::NonceKept.is_on() && old != 0 { old } else { files::random() >> 8 };
        let word = LaneWord::new(LaneState::Resetting, 0, nonce.max(1));
        journal.commit(at + k::STATE, word.word());
        self.lanes[lane].word = word;
        self.lanes[lane].sq = None;
        self.lanes[lane].cq = None;
        let files =
            draft::create_lane(instance, &geometry, self.master.nonce, self.master.group, number, word.nonce())?;
        Mutant::FreeBeforeCleared.then(|| journal.commit(at + k::STATE, word.with(LaneState::Free, 0).word()));
        clear_lines(journal, at);
        let resets = journal.load(at + k::RESETS).wrapping_add(u64::from(old != 0));
        journal.store(at + k::RESETS, resets);
        if !Mutant::BaseNotMirrored.is_on() {
            table.store(gate + status::LANE_BASE, base);
        }
        table.store(gate + status::LANE_RESETS, resets);
        table.store(gate + status::LANE_OWNER, 0);
        table.store(gate + status::LANE_DAMAGED_AT, 0);
        table.store(gate + status::LANE_PLACEMENT, 0);
        self.master.mirror_lane_word(number, word);
        let keep = &mut self.lanes[lane];
        keep.placement = Placement::from_word(0);
        keep.start = (0, None);
        keep.served = false;
        keep.drain_sent = false;
        keep.hold(files);
        self.set(lane, LaneState::Free, 0);
        drop(held);
        futex::wake(self.master.status.atomic(status::NAP), Who::Producers, 1); // a lane, a producer
        Ok(())
    }
}

/// Adds the ids of the tasks that the journal counts to the lane's base, and returns the sum. Done again it skips ids;
/// without it, before the count is cleared, they would be given twice.
pub fn count_off_ids(journal: &impl WordsMut, lines: usize) -> u64 {
    let ids = journal.load(lines + COMMIT).saturating_sub(u64::from(Mutant::BaseGrownTooLittle.is_on()));
    skip_ids(journal, lines, if Mutant::BaseNotGrown.is_on() { 0 } else { ids })
}

/// Adds to the lane's base ids of tasks that the journal does not count.
pub fn skip_ids(journal: &impl WordsMut, lines: usize, ids: u64) -> u64 {
    let base = journal.load(lines + k::BASE).wrapping_add(ids);
    journal.store(lines + k::BASE, base);
    base
}

/// Clears what a lane's lines say of its tasks and its owner: J, the worker's words of K and the owner's, the crashes.
pub fn clear_lines(journal: &impl WordsMut, lines: usize) {
    if Mutant::LinesNotCleared.is_on() {
        return;
    }
    journal.commit(lines + COMMIT, 0);
    for cell in 1..WORDS {
        journal.store(lines + cell, 0);
    }
    for cell in [k::ATTEMPTS, k::VERDICT, k::STARTED_AT, k::GENERATION, k::PLACEMENT] {
        journal.store(lines + cell, 0);
    }
    for cell in 2 * LINE..3 * LINE {
        journal.store(lines + cell, 0);
    }
}
