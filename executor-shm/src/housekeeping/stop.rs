//! A stop: a kill with manners.

use std::time::Duration;

use super::{Ending, Housekeeping, Keep};
use crate::files;
use crate::futex::{self, Who};
use crate::layout::status;
use crate::mutant::Mutant;
use crate::recovery;
use crate::rehearsal::{Instant, JoinHandle};
use crate::state::{InstanceState, LaneState};
use crate::words::Words;

impl Housekeeping {
    /// Tells the workers to end, waits for them, and takes every lane back.
    pub(crate) fn drain(&mut self, workers: Vec<JoinHandle<bool>>) -> bool {
        let deadline = Instant::now() + self.drain_time;
        let mut told = vec![false; self.controls.len()];
        let mut hurried = false;
        loop {
            self.take_back(true);
            for (told, control) in told.iter_mut().zip(&mut self.controls) {
                *told = *told || control.close().is_ok();
                futex::wake_all(control.call());
            }
            if workers.iter().all(JoinHandle::is_finished) {
                break;
            }
            if !hurried && (Instant::now() >= deadline || Mutant::StopServesNothing.is_on()) {
                hurried = true;
                self.controls.iter().for_each(|control| {
                    control.hurry();
                    futex::wake_all(control.call());
                });
            }
            let nap = self.master.status.load(status::NAP);
            futex::nap(self.master.status.atomic(status::NAP), nap, Duration::from_millis(1), Who::Keeper);
        }
        let mut sound = true;
        for worker in workers {
            sound &= worker.join().unwrap_or(false);
        }
        self.take_back(true);
        sound
    }

    /// A kill with manners: what is committed is served, the files go only if nobody can miss them.
    pub(super) fn stop(&mut self, workers: Vec<JoinHandle<bool>>) -> Ending {
        self.master.set_state(InstanceState::Closing);
        self.notes.stopping(&self.master);
        if !self.drain(workers) {
            return self.keep_files();
        }
        // Every lane's lock at once, whatever its state: from here on nobody can attach.
        for keep in &self.lanes {
            if let Some(lock) = &keep.sq_lock
                && lock.try_lock().is_err()
                && !Mutant::StopIgnoresOwners.is_on()
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
        let is_awaited = self.unanswered() > 0 && !Mutant::StopIgnoresTasks.is_on();
        if stray || is_awaited || !self.master.is_intact() {
            return self.keep_files();
        }
        match self.master.retire() {
            Ok(()) => Ending::Removed,
            Err(error) => {
                self.tell(&error.to_string());
                self.keep_files()
            }
        }
    }

    /// Lanes with a committed task that has no completion, FREE ones included.
    fn unanswered(&self) -> u32 {
        let open = |(lane, keep): &(u32, &Keep)| {
            let at = self.master.geometry.journal_lane(*lane);
            let is_free = keep.word.state() == Some(LaneState::Free);
            let sq = keep.sq.as_ref().filter(|_| !(is_free && Mutant::StopIgnoresFreeLanes.is_on()));
            sq.is_some_and(|sq| {
                recovery::is_unanswered(&self.master.journal, at, sq, keep.cq.as_ref(), &self.master.geometry)
            })
        };
        (0..).zip(&self.lanes).filter(open).count() as u32
    }

    fn keep_files(&self) -> Ending {
        let attached = self.lanes.iter().filter(|keep| keep.is_owned()).count() as u32;
        let unanswered = self.unanswered();
        self.master.set_state(InstanceState::Stopped);
        Ending::Kept { attached, unanswered }
    }
}
