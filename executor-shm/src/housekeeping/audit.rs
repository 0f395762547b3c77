//! POISONED: a lane that is served no more, and the looks that find a damaged one.
//!
//! A correct producer stores two values only into the commit word of a slot: none at all in its first lap, and the
//! position that it submits plus one. Anything else at the position to be served next is somebody's wild write, and the
//! worker would wait there for ever. A file that was truncated reads as zeros and has raised the lane's poison word (see
//! [`sigbus`](crate::sigbus)).

use std::sync::atomic::{Ordering::Acquire, Ordering::Release};

use executor_core::record::{COMMIT, WORDS};
use executor_core::status::Poison;

use super::{Housekeeping, skip_ids};
use crate::futex;
use crate::handle::read_progress;
use crate::layout::{Geometry, MAGIC, header, lane::SLOTS, status};
use crate::mutant::Mutant;
use crate::sigbus::BROKEN;
use crate::state::LaneState;
use crate::words::{Words, WordsMut};

impl Housekeeping {
    /// Poisons the lane if its `sq` holds what no correct producer writes.
    pub(super) fn audit(&mut self, lane: usize) {
        let at = self.master.geometry.journal_lane(lane as u32);
        let Some(sq) = &self.lanes[lane].sq else { return };
        let Some(position) = damaged_at(&self.master.journal, at, sq, &self.master.geometry) else { return };
        self.poison_damaged(lane, position);
        self.tell(&format!("lane {lane} is poisoned: somebody wrote into its submissions at task {position}"));
    }

    /// Whether a file of the lane was truncated and nothing was done about it yet.
    pub(super) fn is_broken(&self, lane: usize) -> bool {
        let keep = &self.lanes[lane];
        let is_told = || {
            let gate = self.master.geometry.gate(lane as u32);
            keep.word.state() == Some(LaneState::Poisoned)
                && self.master.status.load(gate + status::LANE_DAMAGED_AT) != 0
        };
        // Cut off and grown again, a file reads as zeros without a fault. Of a FREE lane nobody else would notice.
        let is_blank = || {
            keep.word.state() == Some(LaneState::Free)
                && keep.sq.as_ref().is_some_and(|sq| sq.load(header::MAGIC) != MAGIC)
        };
        !Mutant::TruncationIgnored.is_on()
            && keep.word.state() != Some(LaneState::Resetting)
            && (keep.poison.load(Acquire) & BROKEN != 0 || is_blank())
            && !is_told()
    }

    /// Poisons a broken lane, once it is sure at which task: the worker may have read one before the file went and be about
    /// to start it. Whatever it does next, a task or a look that finds none, it has read the poison word by then.
    pub(super) fn give_up(&mut self, lane: usize) {
        let keep = &self.lanes[lane];
        if keep.served {
            let worker = keep.placement.worker as usize;
            let progress = read_progress(&self.master.status, &self.master.geometry, worker);
            if keep.broken_since.is_none_or(|since| since == progress) {
                self.lanes[lane].broken_since.get_or_insert(progress);
                if let Some(control) = self.controls.get(worker) {
                    control.rouse(); // one that sleeps does nothing
                    futex::wake_all(control.call());
                }
                return;
            }
        }
        let position = self.master.journal.load_commit(self.master.geometry.journal_lane(lane as u32) + COMMIT);
        self.poison_damaged(lane, position);
        self.tell(&format!(
            "lane {lane} is poisoned: somebody truncated a file of it; nothing is read from task {position} on"
        ));
    }

    fn poison_damaged(&mut self, lane: usize, position: u64) {
        let gate = self.master.geometry.gate(lane as u32);
        if !Mutant::DamageNotTold.is_on() {
            self.master.status.store(gate + status::LANE_DAMAGED_AT, position.wrapping_add(1));
        }
        self.poison(lane, Poison::Damaged);
    }

    /// any -> POISONED. The state first: whoever is answered `Poisoned` finds it there.
    fn poison(&mut self, lane: usize, reason: Poison) {
        self.set(lane, LaneState::Poisoned, reason.code());
        self.lanes[lane].poison.fetch_or(u32::from(reason.code()), Release);
    }

    /// POISONED -> RESETTING, once the worker has handed it back and its owner is gone. Of a damaged lane the journal does
    /// not know how many ids were handed out; there were a capacity at most past its count.
    pub(super) fn skip_ids_of_damaged(&self, lane: u32) {
        if self.lanes[lane as usize].word.reason() == Poison::Damaged.code() && !Mutant::DamagedIdsNotSkipped.is_on() {
            let at = self.master.geometry.journal_lane(lane);
            skip_ids(&self.master.journal, at, u64::from(self.master.geometry.capacity));
        }
    }
}

/// The position to be served next, if its commit word is one that no correct producer writes there.
pub fn damaged_at(journal: &impl Words, lines: usize, sq: &impl Words, geometry: &Geometry) -> Option<u64> {
    let position = journal.load_commit(lines + COMMIT);
    let word = sq.load_commit(SLOTS + (position & geometry.mask()) as usize * WORDS + COMMIT);
    let earlier = position.wrapping_add(1).saturating_sub(u64::from(geometry.capacity));
    let is_sound = Mutant::AuditorBlind.is_on() || word == position.wrapping_add(1) || word == earlier;
    // Once the worker has begun with this task its slot may hold a later one, so the word is judged only if it has not.
    (!is_sound && journal.load_commit(lines + COMMIT) == position).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::HeapWords;

    #[test]
    fn only_words_that_no_correct_producer_writes_are_damage() {
        let geometry =
            Geometry { capacity: 4, request_bytes: 64, response_bytes: 64, lanes: 1, handlers: 8, workers: 1 };
        let (journal, sq) = (HeapWords::new(64), HeapWords::new(SLOTS + 4 * WORDS));
        for position in 0..12u64 {
            journal.store(COMMIT, position);
            let slot = SLOTS + (position % 4) as usize * WORDS + COMMIT;
            let earlier = (position + 1).saturating_sub(4);
            for word in (0..20).chain([u64::MAX, 1 << 63]) {
                sq.store(slot, word);
                let sound = word == earlier || word == position + 1;
                let found = damaged_at(&journal, 0, &sq, &geometry);
                assert_eq!(found, (!sound).then_some(position), "word {word} at position {position}");
            }
        }
    }
}
