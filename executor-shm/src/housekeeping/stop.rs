//! A stop: a kill with manners.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use executor_core::record::{COMMIT, WORDS};
use executor_core::worker::Control;

use super::{Ending, Housekeeping, Keep};
use crate::files::{self, FileError};
use crate::futex;
use crate::layout::{lane as sq_words, status};
use crate::state::{InstanceState, LaneState};
use crate::words::Words;

impl Housekeeping {
    /// Tells the workers to end, waits for them, and takes every lane back.
    pub(crate) fn drain(&mut self, workers: Vec<std::thread::JoinHandle<bool>>) -> bool {
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
    pub(super) fn stop(&mut self, workers: Vec<std::thread::JoinHandle<bool>>) -> Ending {
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
            let in_flight =
                position > 0 && keep.cq.as_ref().is_none_or(|cq| cq.load(slot(position - 1) + COMMIT) != position);
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
}
